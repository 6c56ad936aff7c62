/* test_fuzz_corpus.c: the inputs that fuzzing has kept (dev/fuzz/corpus), passed once more to the same functions. */
#include "dev/test/test.h"

#include <dirent.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int FuzzTarget(const uint8_t *data, size_t bytes);

#define TARGETS(X) \
    X(checkpoint) X(config) X(documents) X(encode) X(foreign) X(hellaswag) X(safetensors) X(shard) X(vocabulary)
#define DECLARE(name) FuzzTarget fuzz_##name;
TARGETS(DECLARE)

/* In memory that ends where the input does, for the address sanitizer. A failing input is the last one printed. */
static void repeat_file(FuzzTarget *target, const char *folder, const char *name) {
    char *path = format_string("%s/%s", folder, name);
    size_t bytes;
    char *text = test_read_file(path, &bytes);
    uint8_t *data = memcpy(checked_malloc(bytes, "an input"), text, bytes);
    printf("%s\n", path);
    fflush(stdout);
    assert_int_equal(target(data, bytes), 0);
    free(data);
    free(text);
    free(path);
}

static void repeat(const char *name, FuzzTarget *target) {
    char *folder = checked_strdup(test_path("%s", name));
    assert_run(test_run("mkdir '%s' && tar -xzf dev/fuzz/corpus/%s.tar.gz -C '%s'", folder, name, folder), 0, "");
    assert_int_equal(target(NULL, 0), 0);
    int count = 0;
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.') continue;
        repeat_file(target, folder, entry->d_name);
        count++;
    }
    closedir(directory);
    free(folder);
    assert_true(count > 10);
}

#define TEST(name)                          \
    static void test_##name(void **state) { \
        (void)state;                        \
        repeat(#name, fuzz_##name);         \
    }
TARGETS(TEST)

/* A new target must be in the list above. */
static void test_every_target_is_here(void **state) {
    (void)state;
#define COUNT(name) +1
    glob_t sources;
    assert_int_equal(glob("dev/fuzz/fuzz_*.c", 0, NULL, &sources), 0);
    assert_int_equal(sources.gl_pathc, 0 TARGETS(COUNT));
    globfree(&sources);
}

int main(void) {
#define LIST(name) cmocka_unit_test(test_##name),
    const struct CMUnitTest tests[] = {TARGETS(LIST) cmocka_unit_test(test_every_target_is_here)};
    return cmocka_run_group_tests_name("inputs of fuzzing", tests, NULL, NULL);
}
