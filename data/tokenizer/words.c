/* words.c: GPT-2's pattern by hand (see words.h). Each of its alternatives is a run of characters of one class, with
 * a space before it or without, or an apostrophe with one or two letters. */
#include "data/tokenizer/words.h"

#include <string.h>

typedef struct Text {
    const uint8_t *classes;
    const char *text;
    size_t bytes;
    size_t limit; /* a word must end here at the latest */
    bool is_end, is_damaged;
    bool is_open; /* the word may depend on what follows the text */
} Text;

/* How many ASCII letters these 16 bytes begin with. */
static inline size_t leading_letters(const char *text) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    typedef uint64_t Halves __attribute__((vector_size(16)));
    Bytes bytes;
    memcpy(&bytes, text, sizeof bytes);
    Halves others = (Halves)((bytes | 0x20) - 'a' > 25);
    uint64_t low = others[0], high = others[1];
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) {
        low = __builtin_bswap64(low);
        high = __builtin_bswap64(high);
    }
    if (low) return (size_t)__builtin_ctzll(low) / 8;
    return high ? 8 + (size_t)__builtin_ctzll(high) / 8 : 16;
}

/* Length of 's, 't, 're, 've, 'm, 'll or 'd at the start of the text, or 0. */
static size_t contraction_length(const char *text, size_t bytes) {
    if (bytes < 2 || text[0] != '\'') return 0;
    if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd') return 2;
    if (bytes < 3) return 0;
    return memcmp(text + 1, "re", 2) == 0 || memcmp(text + 1, "ve", 2) == 0 || memcmp(text + 1, "ll", 2) == 0 ? 3 : 0;
}

/* The class of the character at `at`; *next is where it ends. */
static CharClass class_at(Text *t, size_t at, size_t *next, bool *is_damaged) {
    size_t length;
    int32_t code = utf8_next(t->text + at, t->bytes - at, &length);
    *next = at + length;
    *is_damaged = code < 0;
    /* Beyond the limit of a word it does not matter what the character is. */
    if (code == UTF8_CUT && !t->is_end && *next <= t->limit) t->is_open = true;
    return code < 0 ? CLASS_OTHER : (CharClass)t->classes[code];
}

/* The end of a run of characters of this class, from `at` on. */
static size_t run_end(Text *t, size_t at, CharClass class) {
    while (at < t->limit && !t->is_open) {
        unsigned char byte = (unsigned char)t->text[at];
        if (byte < 0x80) {
            if (t->classes[byte] != class) return at;
            at++;
            continue;
        }
        size_t next;
        bool is_damaged;
        if (class_at(t, at, &next, &is_damaged) != class || next > t->limit) return at;
        t->is_damaged |= is_damaged;
        at = next;
    }
    if (at == t->bytes && at <= WORD_MAX_BYTES && !t->is_end) t->is_open = true;
    return at;
}

/* White space of several characters before other text ends before its last one, which is left for the next word. */
static size_t without_last_space(const char *text, size_t end) {
    size_t last = end - 1;
    while (last > 0 && utf8_continues(text[last])) last--;
    return last > 0 ? last : end;
}

static size_t any_word_length(const uint8_t *classes, const char *text, size_t bytes, bool is_end, bool *is_damaged) {
    Text t = {classes, text, bytes, bytes < WORD_MAX_BYTES ? bytes : WORD_MAX_BYTES, is_end, false, false};
    size_t length = contraction_length(text, bytes), next;
    if (length > 0) return length;
    if (text[0] == '\'' && bytes < 3 && !is_end) return 0;
    size_t start = text[0] == ' ' && bytes > 1;
    CharClass class = class_at(&t, start, &next, is_damaged);
    if (class == CLASS_SPACE) start = 0;
    size_t end = run_end(&t, start, class);
    *is_damaged = t.is_damaged;
    if (t.is_open) return 0;
    return class == CLASS_SPACE && end < t.limit ? without_last_space(text, end) : end;
}

/* The fast path is for most words: ASCII letters between ASCII spaces and punctuation. */
size_t word_length(const uint8_t *classes, const char *text, size_t bytes, bool is_end, bool *is_damaged) {
    *is_damaged = false;
    if (bytes > 16) {
        size_t start = text[0] == ' ', letters = leading_letters(text + start), end = start + letters;
        if (letters > 0 && letters < 16 && (unsigned char)text[end] < 0x80) return end;
    }
    return any_word_length(classes, text, bytes, is_end, is_damaged);
}
