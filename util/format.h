/* format.h: formats numbers for people. */
#ifndef MARS_UTIL_FORMAT_H
#define MARS_UTIL_FORMAT_H

#include "util/base.h"

EXTERN_C_BEGIN

/* "1h02m", "3m20s", "12s". */
void format_duration(double seconds, char *text, size_t bytes);

/* 1234567 as "1,234,567". */
void format_count(int64_t number, char *text, size_t bytes);

EXTERN_C_END

#endif
