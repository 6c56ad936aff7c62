/* char_class_utf8proc.c: the classes of char_class.h, from utf8proc's general categories. */
#include <string.h>
#include <utf8proc.h>

#include "data/tokenizer/char_class.h"

static CharClass class_of(int32_t code) {
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CLASS_NUMBER;
    default:
        return CLASS_OTHER;
    }
}

bool char_class_fill(uint8_t classes[UTF8_CODES], Error *error) {
    (void)error;
    /* White_Space of Unicode's PropList.txt, which utf8proc does not have: first and last of each range. */
    static const uint16_t spaces[][2] = {{0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},
                                         {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                         {0x205f, 0x205f}, {0x3000, 0x3000}};
    for (int32_t code = 0; code < UTF8_CODES; code++) classes[code] = (uint8_t)class_of(code);
    for (size_t i = 0; i < ARRAY_LENGTH(spaces); i++)
        memset(classes + spaces[i][0], CLASS_SPACE, (size_t)spaces[i][1] - spaces[i][0] + 1);
    return true;
}

const char *char_class_version(void) { return utf8proc_unicode_version(); }
