/* char_class.h: which characters are letters, numbers and white space in GPT-2's pattern of words.
 *
 * \p{L} and \p{N} are general categories of Unicode, and come from utf8proc: 2.8, which Debian 12 has, knows those of
 * Unicode 15.0; char_class_version() returns the version. A character that the library does not know is no letter. \s
 * is the property White_Space, which has not changed since Unicode 6.3 (2013). */
#ifndef MARS_DATA_TOKENIZER_CHAR_CLASS_H
#define MARS_DATA_TOKENIZER_CHAR_CLASS_H

#include "util/base.h"
#include "util/utf8.h"

typedef enum CharClass { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE } CharClass;

EXTERN_C_BEGIN

/* Fills in the CharClass of every code point. Fails if the program was built without utf8proc. */
bool char_class_fill(uint8_t classes[UTF8_CODES], Error *error);

/* The version of Unicode, such as "15.0.0". */
const char *char_class_version(void);

EXTERN_C_END

#endif
