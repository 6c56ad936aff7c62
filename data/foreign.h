/* foreign.h: recognises files of other formats by their content, so that nobody encodes or trains on them by mistake.
 *
 * People keep archives, tables, arrays, images and notes next to their data, and patterns match them. Almost any bytes
 * can be read as uint16 tokens or as a text without an error, so the readers of both call foreign_format() first, with
 * the beginning of the file. The formats are the rows of one table in foreign.c: a new format is one new row. */
#ifndef MARS_DATA_FOREIGN_H
#define MARS_DATA_FOREIGN_H

#include "util/base.h"

/* The first bytes of a file that tell all formats apart. A reader passes fewer only if the file has no more. */
enum { FOREIGN_BYTES = 4096 };

/* What the file was taken for. */
typedef enum ForeignUse {
    FOREIGN_AS_TOKENS, /* bare uint16 */
    FOREIGN_AS_TEXT,   /* an input of prepare_data */
    FOREIGN_USES
} ForeignUse;

typedef struct ForeignFormat {
    const char *name; /* with its article, as in "FILE looks like a Parquet file" */
    /* For each use, what to do instead: an imperative that ends a sentence; FILE stands for the file's name. NULL if
     * files of this format suit the use, or cannot be told from files that do. */
    const char *remedy[FOREIGN_USES];
    bool is_guess; /* recognised by statistics alone, not by a signature */
} ForeignFormat;

EXTERN_C_BEGIN

/* Returns the format of a file that begins with bytes begin[0..count) and has `file_bytes` bytes in all (-1: unknown),
 * if the format has a remedy for this use; else NULL. Never refuses a file that suits the use by accident: for formats
 * with a short signature it checks more of their structure, and for texts and numbers statistics over the beginning. */
const ForeignFormat *foreign_format(ForeignUse use, const void *begin, size_t count, int64_t file_bytes);

EXTERN_C_END

#endif
