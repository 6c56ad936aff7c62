/* test_format.c: numbers as people read them, also where there is no room for all of it. */
#include "dev/test/test.h"

#include <string.h>

#include "util/format.h"

static void test_duration(void **state) {
    (void)state;
    const struct {
        double seconds;
        const char *text;
    } cases[] = {{0.0, "0s"},       {0.4, "0s"},         {12.0, "12s"},         {59.4, "59s"},        {59.5, "1m00s"},
                 {60.0, "1m00s"},   {200.0, "3m20s"},    {3599.4, "59m59s"},    {3599.6, "1h00m"},    {3720.0, "1h02m"},
                 {3779.0, "1h02m"}, {86399.0, "23h59m"}, {360000.0, "100h00m"}, {3.6e8, "100000h00m"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char text[32];
        format_duration(cases[i].seconds, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_count(void **state) {
    (void)state;
    const struct {
        int64_t number;
        const char *text;
    } cases[] = {{0, "0"},
                 {7, "7"},
                 {999, "999"},
                 {1000, "1,000"},
                 {12345, "12,345"},
                 {124439808, "124,439,808"},
                 {1234567, "1,234,567"},
                 {-1, "-1"},
                 {-999, "-999"},
                 {-1000, "-1,000"},
                 {INT64_MAX, "9,223,372,036,854,775,807"},
                 {INT64_MIN, "-9,223,372,036,854,775,808"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        for (size_t room = 1; room < 40; room++) { /* cut where there is no room, never past it */
            char text[41];
            memset(text, '#', sizeof text);
            format_count(cases[i].number, text, room);
            size_t length = strlen(cases[i].text) < room ? strlen(cases[i].text) : room - 1;
            assert_memory_equal(text, cases[i].text, length);
            assert_int_equal(text[length], 0);
            for (size_t j = room; j < sizeof text; j++) assert_int_equal(text[j], '#');
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
