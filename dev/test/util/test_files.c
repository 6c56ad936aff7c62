/* test_files.c: the small file helpers of util/files.h. */
#include "dev/test/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/files.h"

static void test_folders(void **state) {
    (void)state;
    Error error;
    const char *deep = test_path("a//b/c/");
    for (int again = 0; again < 2; again++)
        if (!files_make_folders(deep, &error)) fail_msg("%s", error.text);
    assert_true(files_is_folder(deep));
    assert_false(files_is_file(deep));
    test_write_text(test_path("a/file"), "text");
    assert_true(files_is_file(test_path("a/file")));
    assert_false(files_make_folders(test_path("a/file"), &error));
    assert_non_null(strstr(error.text, "a/file"));
    assert_false(files_make_folders(test_path("a/file/below"), &error));
    assert_false(files_make_folders("", &error));
    assert_true(files_make_folders("/", &error));
    assert_true(files_make_folders("model", &error)); /* relative, and there already */
    assert_true(files_sync_folder(test_path("a"), &error));
    assert_false(files_sync_folder(test_path("a/file"), &error));
    assert_non_null(strstr(error.text, "a/file"));
}

/* The reason is mkdir()'s, not that of the look at what is there. */
static void test_why_a_folder_cannot_be_made(void **state) {
    (void)state;
    Error error;
    assert_false(files_make_folders("/proc/mars/run", &error));
    assert_non_null(strstr(error.text, "cannot make the folder /proc/mars: No such file or directory"));
    test_write_text(test_path("in_the_way"), "text");
    assert_false(files_make_folders(test_path("in_the_way"), &error));
    assert_non_null(strstr(error.text, "in_the_way: a file is there"));
    assert_int_equal(symlink("nowhere", test_path("dangling")), 0);
    assert_false(files_make_folders(test_path("dangling"), &error));
    assert_non_null(strstr(error.text, "dangling: File exists"));
}

static void assert_expands(const char *path, const char *expected) {
    char *expanded = files_expand_home(path);
    assert_string_equal(expanded, expected);
    free(expanded);
}

static void test_home_folders(void **state) {
    (void)state;
    const char *home = getenv("HOME");
    char *before = checked_strdup(home ? home : "");
    setenv("HOME", "/home/a user", 1);
    assert_expands("~", "/home/a user");
    assert_expands("~/", "/home/a user/");
    assert_expands("~/runs/it's ~ here", "/home/a user/runs/it's ~ here");
    assert_expands("", "");
    assert_expands("runs/~", "runs/~");
    assert_expands("./~/runs", "./~/runs");
    assert_expands("~no such user/runs", "~no such user/runs");
    assert_expands("~root/runs", "/root/runs");
    unsetenv("HOME"); /* then it is what the system has noted of the user */
    char *expanded = files_expand_home("~/runs");
    assert_true(expanded[0] == '/' && strlen(expanded) > strlen("/runs"));
    free(expanded);
    if (home) setenv("HOME", before, 1);
    free(before);
}

static void test_removing_a_tree(void **state) {
    (void)state;
    Error error;
    assert_true(files_make_folders(test_path("tree/branch/twig"), &error));
    assert_true(files_make_folders(test_path("elsewhere"), &error));
    test_write_text(test_path("elsewhere/kept"), "kept");
    test_write_text(test_path("tree/branch/leaf"), "leaf");
    assert_int_equal(symlink(test_path("elsewhere"), test_path("tree/link")), 0);
    assert_int_equal(symlink(test_path("elsewhere"), test_path("link")), 0);
    assert_true(files_remove_tree(test_path("tree"), &error));
    assert_true(files_remove_tree(test_path("link"), &error));
    assert_int_not_equal(access(test_path("tree"), F_OK), 0);
    assert_int_not_equal(access(test_path("link"), F_OK), 0);
    assert_true(files_is_file(test_path("elsewhere/kept")));
    assert_true(files_remove_tree(test_path("elsewhere/kept"), &error));
    assert_true(files_remove_tree(test_path("tree"), &error)); /* nothing there */
    assert_false(files_remove_tree("/proc/self/status", &error));
    assert_non_null(strstr(error.text, "/proc/self/status"));
}

static void test_reading(void **state) {
    (void)state;
    Error error;
    size_t bytes;
    test_write_file(test_path("data"), "ab\0cd", 5);
    char *data = files_read(test_path("data"), 5, &bytes, &error);
    assert_int_equal(bytes, 5);
    assert_memory_equal(data, "ab\0cd\0", 6);
    free(data);
    assert_null(files_read(test_path("data"), 4, &bytes, &error));
    assert_non_null(strstr(error.text, "5 bytes, at most 4"));
    assert_null(files_read(test_path("missing"), 4, NULL, &error));
    assert_non_null(strstr(error.text, "No such file"));
    assert_null(files_read(test_folder(), 4, NULL, &error));
    test_write_file(test_path("nothing"), "", 0);
    data = files_read(test_path("nothing"), 0, &bytes, &error);
    assert_string_equal(data, "");
    free(data);
}

static void test_replacing_a_text(void **state) {
    (void)state;
    Error error;
    static const char *const texts[] = {"first\n", "", "second, longer\n"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        if (!files_write_text(test_path("text"), texts[i], &error)) fail_msg("%s", error.text);
        char *read = test_read_file(test_path("text"), NULL);
        assert_string_equal(read, texts[i]);
        free(read);
        assert_int_not_equal(access(test_path("text.tmp"), F_OK), 0);
    }
    assert_false(files_write_text(test_path("no/folder"), "text", &error));
    assert_true(files_make_folders(test_path("taken/by_a_folder"), &error));
    assert_false(files_write_text(test_path("taken"), "text", &error));
    assert_int_not_equal(access(test_path("taken.tmp"), F_OK), 0);
    /* the text of before stays where the new one cannot be written */
    assert_int_equal(symlink("/dev/full", test_path("text.tmp")), 0);
    assert_false(files_write_text(test_path("text"), "third", &error));
    assert_non_null(strstr(error.text, "No space left"));
    char *read = test_read_file(test_path("text"), NULL);
    assert_string_equal(read, "second, longer\n");
    free(read);
}

/* The checksum is the same however the bytes arrive, and is XXH3's. */
static void test_checksums(void **state) {
    (void)state;
    assert_true(files_checksum_memory("", 0) == 0x2d06800538d394c2u); /* from the specification of XXH3 */
    enum { LENGTH = (2 << 20) + 12345 };
    uint8_t *data = checked_malloc(LENGTH, "test data");
    for (size_t i = 0; i < LENGTH; i++) data[i] = (uint8_t)(i * i >> 7);
    static const size_t pieces[] = {1, 7, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, LENGTH};
    for (size_t i = 0; i < ARRAY_LENGTH(pieces); i++) {
        FileWriter *writer;
        Error error;
        uint64_t bytes, checksum, read_bytes, read_checksum;
        assert_true(file_writer_open(&writer, test_path("pieces"), &error));
        for (size_t done = 0; done < LENGTH; done += pieces[i]) {
            size_t piece = LENGTH - done < pieces[i] ? LENGTH - done : pieces[i];
            assert_true(file_writer_append(writer, data + done, piece, &error));
        }
        assert_true(file_writer_close(writer, &bytes, &checksum, &error));
        assert_true(bytes == LENGTH && checksum == files_checksum_memory(data, LENGTH));
        assert_true(files_checksum(test_path("pieces"), &read_bytes, &read_checksum, &error));
        assert_true(read_bytes == bytes && read_checksum == checksum);
        size_t length;
        char *written = test_read_file(test_path("pieces"), &length);
        assert_int_equal(length, LENGTH);
        assert_memory_equal(written, data, LENGTH);
        free(written);
    }
    free(data);
}

static void test_copies_and_abandoned_files(void **state) {
    (void)state;
    Error error;
    uint64_t bytes, checksum;
    test_write_file(test_path("from"), "a\0b", 3);
    assert_true(files_copy(test_path("from"), test_path("to"), &bytes, &checksum, &error));
    assert_true(bytes == 3 && checksum == files_checksum_memory("a\0b", 3));
    assert_false(files_copy(test_path("not_there"), test_path("copy"), &bytes, &checksum, &error));
    assert_non_null(strstr(error.text, "not_there"));
    assert_int_not_equal(access(test_path("copy"), F_OK), 0);
    FileWriter *writer;
    assert_true(file_writer_open(&writer, test_path("given_up"), &error));
    assert_true(file_writer_append(writer, "text", 4, &error));
    file_writer_abandon(writer);
    assert_int_not_equal(access(test_path("given_up"), F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),      cmocka_unit_test(test_why_a_folder_cannot_be_made),
        cmocka_unit_test(test_home_folders), cmocka_unit_test(test_removing_a_tree),
        cmocka_unit_test(test_reading),      cmocka_unit_test(test_replacing_a_text),
        cmocka_unit_test(test_checksums),    cmocka_unit_test(test_copies_and_abandoned_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
