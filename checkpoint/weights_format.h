/* weights_format.h: recognises weights in formats that we do not read, by their content or their file's name, so that a
 * message can say what they are and how to convert them. The formats are the rows of two tables in weights_format.c: a
 * new one is one new row. */
#ifndef MARS_CHECKPOINT_WEIGHTS_FORMAT_H
#define MARS_CHECKPOINT_WEIGHTS_FORMAT_H

#include "util/base.h"

EXTERN_C_BEGIN

/* Whether the file at `path` is in such a format. If it is, *error says which format it is and how to convert it. */
bool weights_format_of_file(const char *path, Error *error);

/* The same for a folder without safetensors files. */
bool weights_format_of_folder(const char *folder, Error *error);

EXTERN_C_END

#endif
