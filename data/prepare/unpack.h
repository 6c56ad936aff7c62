/* unpack.h: what .gz, .zst and .xz files hold, as a stream. Which bytes are packed how is told by the first of them,
 * not by a name. text_source.c reads the files. */
#ifndef MARS_DATA_PREPARE_UNPACK_H
#define MARS_DATA_PREPARE_UNPACK_H

#include "util/base.h"

typedef enum Packing { PACKED_NOT, PACKED_GZ, PACKED_ZST, PACKED_XZ } Packing;

/* Bytes that tell one from another. */
enum { PACKING_BYTES = 6 };

EXTERN_C_BEGIN

/* How a file is packed that begins with these bytes; fewer than PACKING_BYTES where it has no more. */
Packing packing_of(const void *begin, size_t bytes);

typedef struct Unpacker Unpacker;

/* Fails where this build has no library for it. */
bool unpacker_open(Unpacker **unpacker, Packing packing, Error *error);
void unpacker_close(Unpacker *unpacker);

/* Unpacks from *in, which is moved on, to *out, which is moved on, until one of them is at its end. Several packed
 * streams after each other are one. is_end: nothing follows in_end; what is cut off then is an error, and so is what is
 * damaged and what does not belong to a packed stream. */
bool unpacker_run(Unpacker *unpacker, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                  Error *error);

EXTERN_C_END

#endif
