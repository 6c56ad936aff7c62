/* unpack.h: unpacks .gz, .zst and .xz files as a stream. The first bytes of a file, not its name, say how it is packed.
 * text_source.c reads the files. */
#ifndef MARS_DATA_PREPARE_UNPACK_H
#define MARS_DATA_PREPARE_UNPACK_H

#include "util/base.h"

typedef enum Packing { PACKED_NOT, PACKED_GZ, PACKED_ZST, PACKED_XZ } Packing;

/* How many bytes tell the formats apart. */
enum { PACKING_BYTES = 6 };

EXTERN_C_BEGIN

/* Says how a file that begins with these bytes is packed. Pass fewer than PACKING_BYTES only if the file has no
 * more. */
Packing packing_of(const void *begin, size_t bytes);

typedef struct Unpacker Unpacker;

/* Fails if this build has no library for it. */
bool unpacker_open(Unpacker **unpacker, Packing packing, Error *error);
void unpacker_close(Unpacker *unpacker);

/* Unpacks from *in to *out, and advances both, until one of them is at its end. Several packed streams in a row are
 * one. is_end: nothing follows in_end. Fails if the data is damaged, if other data follows a packed stream, or if
 * is_end is true and the stream is cut off. */
bool unpacker_run(Unpacker *unpacker, const char **in, const char *in_end, bool is_end, char **out, char *out_end,
                  Error *error);

EXTERN_C_END

#endif
