/* format.c: see format.h. */
#include "util/format.h"

#include <inttypes.h>
#include <stdio.h>

void format_duration(double seconds, char *text, size_t bytes) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, bytes, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(text, bytes, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
    else
        snprintf(text, bytes, "%" PRId64 "s", s);
}

void format_count(int64_t number, char *text, size_t bytes) {
    char digits[32];
    uint64_t size = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    int length = snprintf(digits, sizeof digits, "%" PRIu64, size);
    size_t at = 0;
    if (number < 0 && at + 1 < bytes) text[at++] = '-';
    for (int i = 0; i < length && at + 1 < bytes; i++) {
        text[at++] = digits[i];
        if ((length - 1 - i) % 3 == 0 && i + 1 < length && at + 1 < bytes) text[at++] = ',';
    }
    text[at] = 0;
}
