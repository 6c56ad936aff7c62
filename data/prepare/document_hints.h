/* document_hints.h: recognises texts that can be encoded, but that the user most likely means in another way: JSON
 * Lines without --field, a table, a missing --separator. foreign.h recognises files that are not text. */
#ifndef MARS_DATA_PREPARE_DOCUMENT_HINTS_H
#define MARS_DATA_PREPARE_DOCUMENT_HINTS_H

#include "data/prepare/documents.h"

typedef enum DocumentHint {
    HINT_NONE,
    HINT_JSON_LINES, /* taken as plain text */
    HINT_JSON_ARRAY,
    HINT_END_OF_TEXT, /* <|endoftext|> */
    HINT_TABLE,       /* a .csv or .tsv */
    HINT_RETURNS,     /* the text is read by lines, which end in carriage returns alone */
    HINT_REPLACED,    /* mostly U+FFFD */
    DOCUMENT_HINTS
} DocumentHint;

EXTERN_C_BEGIN

/* Returns the hint for a file, by its name and its beginning. Call it before anything of the file is taken. */
DocumentHint document_hint(const TextFile *file, const DocumentFormat *format);

/* Each as a warning that follows the file's name. */
extern const char *const document_hints[DOCUMENT_HINTS];

EXTERN_C_END

#endif
