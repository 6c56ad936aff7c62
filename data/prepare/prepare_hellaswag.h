/* prepare_hellaswag.h: HellaSwag as it is published, made into the file of tokens that data/hellaswag.h reads. */
#ifndef MARS_DATA_PREPARE_PREPARE_HELLASWAG_H
#define MARS_DATA_PREPARE_PREPARE_HELLASWAG_H

#include "data/tokenizer/tokenizer.h"

EXTERN_C_BEGIN

/* Makes such a file of the published JSON Lines, of which it takes "ctx", "endings" and "label". An ending's tokens are
 * those of a space and its text. Stores the number of examples. Fails, with file and line, where a line is no
 * example. */
bool hellaswag_prepare(const char *json_lines, const Tokenizer *tokenizer, const char *path, int *examples,
                       Error *error);

EXTERN_C_END

#endif
