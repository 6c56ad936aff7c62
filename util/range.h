/* range.h: whether a setting is in its range. The tables of keys (config/config_keys.h, optim/optimizer_keys.h) say the
 * ranges. */
#ifndef MARS_UTIL_RANGE_H
#define MARS_UTIL_RANGE_H

#include <math.h>
#include <stdbool.h>

/* What the limits of a range may say, beyond their values. */
typedef enum RangeLimits {
    ABOVE_MINIMUM = 1, /* the minimum itself is outside */
    BELOW_MAXIMUM = 2, /* the maximum itself is outside */
    OR_ABSENT = 4      /* 0 in the struct, which no user can write, stands for the value of another key */
} RangeLimits;

static inline bool range_holds_exactly(double value, double minimum, double maximum, unsigned limits) {
    bool above = limits & ABOVE_MINIMUM ? value > minimum : value >= minimum;
    bool below = limits & BELOW_MAXIMUM ? value < maximum : value <= maximum;
    return isfinite(value) && above && below;
}

/* Whether a value is in its range. A number that is not whole must be in it after rounding to float32, too, since that
 * is how it is used: 0.99999999 becomes 1, and 1e39 infinity. */
static inline bool range_holds(double value, double minimum, double maximum, unsigned limits, bool is_whole) {
    return range_holds_exactly(value, minimum, maximum, limits) &&
           (is_whole || range_holds_exactly((float)value, minimum, maximum, limits));
}

#endif
