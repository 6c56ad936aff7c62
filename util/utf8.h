/* utf8.h: decodes UTF-8 character by character, from any bytes. Bytes that are not UTF-8 are divided into errors as by
 * Python's bytes.decode("utf-8", errors="replace") and as the Unicode Standard recommends (section 3.9, "U+FFFD
 * Substitution of Maximal Subparts"): bytes that could begin a character are one error, every other byte is an
 * error. */
#ifndef MARS_UTIL_UTF8_H
#define MARS_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    UTF8_ERROR = -1, /* bytes that U+FFFD stands for */
    UTF8_CUT = -2,   /* all bytes that are left begin a character: an error too, if nothing follows */
    UTF8_CODES = 0x110000
};

#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define UTF8_MARK "\xef\xbb\xbf"        /* U+FEFF, the byte order mark, which some programs put in front of a text */

/* Whether a byte is of the form 10xxxxxx: no character begins with it. */
static inline bool utf8_continues(char byte) { return ((unsigned char)byte & 0xc0) == 0x80; }

/* Of a character that begins with byte `lead`: how many bytes follow (-1: none begins with it), and between which
 * values the first of them lies, which rules out surrogates, numbers that are too large, and overlong forms. */
static inline int utf8_following(unsigned char lead, unsigned char *least, unsigned char *limit) {
    *least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *limit = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return lead < 0x80 ? 0 : lead < 0xc2 ? -1 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : -1;
}

/* The character at the start of the text, of at least one byte, or UTF8_ERROR or UTF8_CUT; *length is in bytes. */
static inline int32_t utf8_next(const char *text, size_t bytes, size_t *length) {
    unsigned char lead = (unsigned char)text[0], least, limit;
    int following = utf8_following(lead, &least, &limit);
    int32_t code = lead & (0x7f >> (following > 0 ? following + 1 : 0));
    *length = 1;
    if (following < 0) return UTF8_ERROR;
    for (int i = 0; i < following; i++) {
        if (*length == bytes) return UTF8_CUT;
        unsigned char next = (unsigned char)text[*length];
        if (next < least || next > limit) return UTF8_ERROR;
        code = code << 6 | (next & 0x3f);
        ++*length;
        least = 0x80;
        limit = 0xbf;
    }
    return code;
}

/* Copies the text with U+FFFD in the place of each error to `out`, which holds three times its bytes, and returns how
 * many bytes that makes; adds the errors to *errors. */
static inline size_t utf8_repair(const char *text, size_t bytes, char *out, int64_t *errors) {
    size_t count = 0;
    for (size_t at = 0, width; at < bytes; at += width) {
        bool is_error = utf8_next(text + at, bytes - at, &width) < 0;
        size_t length = is_error ? sizeof UTF8_REPLACEMENT - 1 : width;
        memcpy(out + count, is_error ? UTF8_REPLACEMENT : text + at, length);
        count += length;
        *errors += is_error;
    }
    return count;
}

#endif
