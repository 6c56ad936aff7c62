/* prepare_hellaswag.h: makes the file of tokens that data/hellaswag.h reads from HellaSwag as it is published. */
#ifndef MARS_DATA_PREPARE_PREPARE_HELLASWAG_H
#define MARS_DATA_PREPARE_PREPARE_HELLASWAG_H

#include "data/tokenizer/tokenizer.h"

EXTERN_C_BEGIN

/* Makes the file at `path` from the published JSON Lines, of which it uses "ctx", "endings" and "label". The tokens of
 * an ending are those of a space and its text. Stores the number of examples. Fails, with file and line, if a line is
 * no example. */
bool hellaswag_prepare(const char *json_lines, const Tokenizer *tokenizer, const char *path, int *examples,
                       Error *error);

EXTERN_C_END

#endif
