/* format.c: see format.h. */
#include "util/format.h"

#include <stdio.h>

void format_duration(double seconds, char *text, size_t bytes) {
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, bytes, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(text, bytes, "%lldm%02llds", s / 60, s % 60);
    else
        snprintf(text, bytes, "%llds", s);
}

void format_count(int64_t number, char *text, size_t bytes) {
    char digits[32];
    uint64_t size = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)size);
    size_t at = 0;
    if (number < 0 && at + 1 < bytes) text[at++] = '-';
    for (int i = 0; i < length && at + 1 < bytes; i++) {
        text[at++] = digits[i];
        if ((length - 1 - i) % 3 == 0 && i + 1 < length && at + 1 < bytes) text[at++] = ',';
    }
    text[at] = 0;
}
