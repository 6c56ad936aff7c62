/* test_data.c: tokens from file to batch: the shard files and every wrong one, which sequence is where, reading ahead.
 * Most streams hold their own positions as tokens, so that what was read says where it was read from. From text to
 * file: test_prepare_data.c. */
#include "dev/test/test.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "data/loader.h"
#include "data/shard.h"
#include "util/philox.h"

enum { BIG_VOCAB = 65536 };

/* ---- the system's functions, in whose place these stand ---- */

/* At this call of pread from now on (0: never) it fails, or a file is cut to so many bytes first. */
static struct {
    int call, error;
    const char *path;
    off_t bytes;
} fault;

ssize_t pread(int file, void *data, size_t bytes, off_t at) {
    if (fault.call > 0 && --fault.call == 0) {
        if (!fault.path) {
            errno = fault.error;
            return -1;
        }
        if (truncate(fault.path, fault.bytes) != 0) fail_msg("cannot cut %s", fault.path);
    }
    return syscall(SYS_pread64, file, data, bytes, at);
}

/* What was given up of the system's copies of files. */
static struct {
    int calls;
    struct {
        ino_t inode;
        off_t at, bytes;
    } call[16];
} dropped;

int posix_fadvise(int file, off_t at, off_t bytes, int advice) {
    struct stat status;
    assert_int_equal(advice, POSIX_FADV_DONTNEED);
    assert_int_equal(fstat(file, &status), 0);
    assert_true(dropped.calls < (int)ARRAY_LENGTH(dropped.call));
    dropped.call[dropped.calls].inode = status.st_ino;
    dropped.call[dropped.calls].at = at;
    dropped.call[dropped.calls++].bytes = bytes;
    return 0;
}

/* ---- files ---- */

static void write_shard(const char *path, int32_t version, int32_t promised, const uint16_t *tokens, size_t count) {
    int32_t header[SHARD_HEADER_INTS] = {20240520, version, promised};
    char *data = checked_malloc(sizeof header + 2 * count, "a shard");
    memcpy(data, header, sizeof header);
    memcpy(data + sizeof header, tokens, 2 * count);
    test_write_file(path, data, sizeof header + 2 * count);
    free(data);
}

/* Tokens begin, begin + 1, ... as a shard with a header or as bare uint16. */
static void write_counting(const char *path, bool bare, int begin, int count) {
    uint16_t *tokens = checked_malloc(2 * (size_t)count, "tokens");
    for (int i = 0; i < count; i++) tokens[i] = (uint16_t)(begin + i);
    if (bare)
        test_write_file(path, tokens, 2 * (size_t)count);
    else
        write_shard(path, 1, count, tokens, (size_t)count);
    free(tokens);
}

static char *make_folder(const char *name) {
    char *path = checked_strdup(test_path("%s", name));
    if (mkdir(path, 0777) != 0) fail_msg("cannot make %s", path);
    return path;
}

static ShardSet *open_set(const char *pattern) {
    ShardSet *set = NULL;
    Error error = {""};
    if (!shards_open(&set, pattern, &error)) fail_msg("%s", error.text);
    return set;
}

static void assert_mentions(const Error *error, const char *text) {
    if (!strstr(error->text, text)) fail_msg("'%s' should mention '%s'", error->text, text);
}

/* The message of what cannot be opened: its parts (assert_parts()), and of what is refused all four of them. */
static Error failure_to_open(const char *pattern) {
    ShardSet *set = NULL;
    Error error = {""};
    assert_false(shards_open(&set, pattern, &error));
    assert_null(set);
    return error;
}

static void assert_open_fails(const char *pattern, const char *parts) {
    Error error = failure_to_open(pattern);
    assert_parts(error.text, parts);
}

static void assert_refused(const char *pattern, const char *parts) {
    Error error = failure_to_open(pattern);
    assert_four_parts(error.text, parts);
}

/* ---- shards ---- */

/* 45 tokens in three odd-sized files of both formats; every window of every length. */
static void test_three_shards_are_one_stream(void **state) {
    (void)state;
    write_counting(test_path("odd_0.bin"), false, 0, 17);
    write_counting(test_path("odd_1.bin"), true, 17, 1);
    write_counting(test_path("odd_2.bin"), false, 18, 27);
    ShardSet *set = open_set(test_path("odd_*.bin"));
    assert_int_equal(shards_token_count(set), 45);
    assert_int_equal(shards_file_count(set), 3);
    for (int position = 0; position <= 45; position++)
        for (int count = 0; position + count <= 45; count++) {
            int32_t tokens[46];
            memset(tokens, 0x55, sizeof tokens);
            assert_true(shards_read(set, position, count, 45, tokens, NULL));
            for (int i = 0; i < count; i++) assert_int_equal(tokens[i], position + i);
            assert_int_equal(tokens[count], 0x55555555);
        }
    shards_close(set);
}

static void test_reading_outside_the_stream_fails(void **state) {
    (void)state;
    write_counting(test_path("short.bin"), true, 0, 5);
    ShardSet *set = open_set(test_path("short.bin"));
    const int64_t wrong[][2] = {{0, 6}, {5, 1}, {6, 0}, {-1, 2}, {0, -1}, {INT64_MAX, 2}, {2, INT64_MAX}};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        Error error = {""};
        int32_t tokens[8];
        assert_false(shards_read(set, wrong[i][0], wrong[i][1], BIG_VOCAB, tokens, &error));
        assert_mentions(&error, "stream of 5 tokens");
    }
    shards_close(set);
    shards_close(NULL);
}

/* Byte order of names: digits are not numbers, capitals come first. */
static void test_files_are_in_name_order(void **state) {
    (void)state;
    const char *names[] = {"order_10.bin", "order_2.bin", "order_B.bin", "order_a.bin"};
    for (int i = 3; i >= 0; i--) write_counting(test_path("%s", names[i]), i % 2, 3 * i, 3);
    ShardSet *set = open_set(test_path("order_*.bin"));
    int32_t tokens[12];
    assert_true(shards_read(set, 0, 12, 12, tokens, NULL));
    for (int i = 0; i < 12; i++) assert_int_equal(tokens[i], i);
    shards_close(set);
}

static void test_an_existing_name_is_no_pattern(void **state) {
    (void)state;
    write_counting(test_path("set[12].bin"), false, 0, 5);
    write_counting(test_path("set1.bin"), false, 0, 7);
    ShardSet *set = open_set(test_path("set[12].bin"));
    assert_int_equal(shards_token_count(set), 5);
    shards_close(set);
}

static void test_golden_formats_agree(void **state) {
    (void)state;
    const char *files[][2] = {{"dev/golden/tiny_train.bin", "dev/golden/tiny_train_raw.bin"},
                              {"dev/golden/tiny_bias_train.bin", "dev/golden/tiny_bias_train_raw.bin"}};
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        ShardSet *shard = open_set(files[i][0]), *raw = open_set(files[i][1]);
        int64_t count = shards_token_count(shard);
        assert_true(count > 3000);
        assert_int_equal(shards_token_count(raw), count);
        int32_t *tokens = checked_malloc(2 * (size_t)count * sizeof *tokens, "tokens");
        assert_true(shards_read(shard, 0, count, 256, tokens, NULL));
        assert_true(shards_read(raw, 0, count, 256, tokens + count, NULL));
        assert_memory_equal(tokens, tokens + count, (size_t)count * sizeof *tokens);
        assert_int_equal(tokens[0], '#');
        free(tokens);
        shards_close(shard);
        shards_close(raw);
    }
}

/* Files of `count` numbers of 32 bits and then `bytes` bytes. */
static void test_wrong_files_are_named(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int32_t numbers[3];
        int count;
        size_t bytes;
        const char *parts;
    } files[] = {
        {"empty", {0}, 0, 0, "is empty|at least one token|download the file"},
        {"odd", {0}, 0, 7, "7 bytes is odd|expected bare uint16|prepare_data makes"},
        {"one", {0}, 0, 1, "1 bytes is odd|expected bare uint16|prepare_data makes"},
        {"header", {SHARD_MAGIC}, 1, 0, "it has 4 bytes|the header alone has 1024|download the file"},
        {"version", {SHARD_MAGIC, 2, 5}, SHARD_HEADER_INTS, 10, "of version 2|only version 1|prepare_data makes"},
        {"cut",
         {SHARD_MAGIC, 1, 6},
         SHARD_HEADER_INTS,
         10,
         "off: it has 1034 bytes|makes 1036 bytes|download the file"},
        {"long", {SHARD_MAGIC, 1, 4}, SHARD_HEADER_INTS, 10, "long: it has 1034|makes 1032 bytes|download the file"},
        {"none", {SHARD_MAGIC, 1, 0}, SHARD_HEADER_INTS, 0, "says 0 tokens|at least one|download the file"},
        {"negative", {SHARD_MAGIC, 1, -5}, SHARD_HEADER_INTS, 10, "says -5 tokens|at least one|download the file"},
        {"wide", {SHARD_MAGIC, 1, 5}, SHARD_HEADER_INTS, 20, "tokens of 4 bytes|must be uint16|prepare_data makes"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        const char *path = test_path("wrong_%s.bin", files[i].name);
        char content[SHARD_HEADER_INTS * sizeof(int32_t) + 32] = {0},
                                                           *parts = format_string("%s|%s", path, files[i].parts);
        memcpy(content, files[i].numbers, sizeof files[i].numbers);
        test_write_file(path, content, (size_t)files[i].count * sizeof(int32_t) + files[i].bytes);
        assert_refused(path, parts);
        free(parts);
    }
    assert_refused(test_folder(), "|is a folder|expected token files|name them, such as ");
    assert_refused("/dev/null", "/dev/null|is not a regular file|expected a token file|copy it to a file");
}

/* What test_foreign.c tries on bytes, here in files. */
static void test_files_of_other_formats_are_named(void **state) {
    (void)state;
    int32_t wide[300] = {SHARD_MAGIC, SHARD_VERSION, 0};
    for (int i = 3; i < 300; i++) wide[i] = 7919 * i % 50257;
    wide[2] = 300 - SHARD_HEADER_INTS;
    test_write_file(test_path("foreign_wide.bin"), wide, sizeof wide);
    assert_refused(test_path("foreign_wide.bin"), "foreign_wide.bin|tokens of 4 bytes|must be uint16|prepare_data");
    test_write_file(test_path("foreign_int32.bin"), wide + 3, sizeof wide - 12);
    assert_refused(test_path("foreign_int32.bin"), "foreign_int32.bin| looks like tokens as int32|, not like a token "
                                                   "file; |np.fromfile(\"FILE\", np.int32)");
    wide[0] = 20240801;
    test_write_file(test_path("foreign_llama.bin"), wide, sizeof wide);
    assert_refused(test_path("foreign_llama.bin"),
                   "llama.bin| looks like a token file of llm.c for Llama 3 (uint32)|, not like a token file|GPT-2");
    test_write_text(test_path("foreign_text.bin"), "The text itself, which somebody forgot to encode.\n");
    assert_refused(test_path("foreign_text.bin"),
                   "text.bin| looks like text|, not like a token file; |./prepare_data --tokenizer=");
    /* A format that nobody knows, with texts in it. */
    enum { NUMBERS = 3000, WORDS = 20000 };
    char *box = checked_calloc(1, NUMBERS + WORDS, "a file");
    for (int i = 0; i < NUMBERS; i++) box[i] = (char)(i % 3 ? i / 3 % 50 : 0);
    for (int i = 0; i < WORDS; i++) box[NUMBERS + i] = "One of the texts in it.\n"[i % 24];
    test_write_file(test_path("foreign_box.bin"), box, NUMBERS + WORDS);
    assert_refused(test_path("foreign_box.bin"),
                   "box.bin| looks like text from byte 8192 on|, not like a token file; |name the token files alone");
    free(box);
    /* One file among good ones, as a pattern catches it. */
    char *folder = make_folder("caught");
    write_counting(test_path("caught/train_000000.bin"), false, 0, 9);
    test_write_text(test_path("caught/tokens.json"), "{\"tokenizer\": \"bytes\", \"vocab_size\": 256}");
    assert_refused(test_path("caught/*"), "caught/tokens.json| looks like tokens.json, which describes token files|, "
                                          "not like a token file; |name the token files alone");
    free(folder);
}

/* ---- names and patterns ---- */

/* Of folders whose names have characters of patterns, and of the home folder. */
static void test_brackets_and_home_folders(void **state) {
    (void)state;
    static const char *const folders[] = {"odd [1]*", "odd 1"};
    for (int i = 0; i < 2; i++) {
        free(make_folder(folders[i]));
        write_counting(test_path("%s/train_000000.bin", folders[i]), false, 0, 5 + 2 * i);
        write_counting(test_path("%s/train_000001.bin", folders[i]), false, 0, 5 + 2 * i);
    }
    ShardSet *set = open_set(test_path("odd [1]*/train_*.bin"));
    assert_int_equal(shards_token_count(set), 10);
    shards_close(set);
    set = open_set(test_path("odd [12]/train_00000[01].bin")); /* no folder of this name: a pattern */
    assert_int_equal(shards_token_count(set), 14);
    assert_string_equal(shards_files(set)->paths[1], test_path("odd 1/train_000001.bin"));
    shards_close(set);
    char *home = checked_strdup(getenv("HOME") ? getenv("HOME") : "");
    setenv("HOME", test_folder(), 1);
    set = open_set("~/odd 1/train_*.bin");
    assert_int_equal(shards_token_count(set), 14);
    shards_close(set);
    setenv("HOME", home, 1);
    free(home);
}

static void test_patterns_that_match_nothing_or_folders(void **state) {
    (void)state;
    free(make_folder("some"));
    free(make_folder("some/old_train"));
    write_counting(test_path("some/new_train"), true, 0, 9);
    assert_refused(test_path("some/*_train"),
                   "some/*_train'| matches |some/old_train, which is a folder|name token files alone, such as ");
    assert_refused(test_path("some/none/train_*.bin"),
                   "nothing is named or matches|; there is no folder |expected a token file|prepare_data makes");
    assert_refused(test_path("some/none/train.bin"),
                   "some/none|; there is no folder |expected a token file|prepare_data makes");
    Error error;
    ShardSet *set;
    assert_false(shards_open(&set, test_path("some/train_*.bin"), &error));
    assert_null(strstr(error.text, "there is no folder"));
}

/* A folder that may not be entered, and one that may not be listed. Root may do both, and becomes somebody else. */
static void test_folders_without_permission(void **state) {
    (void)state;
    enum { NOBODY = 65534 };
    char *folder = make_folder("closed");
    write_counting(test_path("closed/train_0.bin"), false, 0, 9);
    assert_int_equal(chmod(test_folder(), 0711), 0);
    bool is_root = geteuid() == 0;
    if (is_root && seteuid(NOBODY) != 0) skip();
    static const struct {
        mode_t mode;
        const char *pattern, *parts;
    } cases[] = {{0600, "closed/train_0.bin", "cannot open |closed/train_0.bin: Permission denied"},
                 {0600, "closed/train_?.bin", "cannot open |closed/train_?.bin: Permission denied"},
                 {0711, "closed/train_?.bin", "cannot list the files that match |train_?.bin': Permission denied"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        if (is_root) assert_int_equal(seteuid(0), 0);
        assert_int_equal(chmod(folder, cases[i].mode), 0);
        if (is_root) assert_int_equal(seteuid(NOBODY), 0);
        assert_open_fails(test_path("%s", cases[i].pattern), cases[i].parts);
    }
    if (is_root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(folder, 0700), 0);
    assert_int_equal(chmod(test_folder(), 0700), 0);
    free(folder);
}

static void test_things_that_are_no_files(void **state) {
    (void)state;
    assert_refused(test_path("absent_*.bin"), "no token file|absent_*.bin'|expected a token file|prepare_data makes");
    assert_refused("", "no token file|''|expected a token file|prepare_data makes");
    if (mkfifo(test_path("strange_pipe.bin"), 0600) != 0) fail_msg("cannot make a pipe");
    assert_refused(test_path("strange_*.bin"),
                   "pipe.bin|is not a regular file|expected a token file|copy it to a file");
    if (symlink("nowhere", test_path("dangling_1.bin")) != 0) fail_msg("cannot make a link");
    assert_open_fails(test_path("dangling_*.bin"), "cannot open|dangling_1.bin");
    /* One bad file among good ones fails the set, and what was opened already is let go. */
    write_counting(test_path("mixed_0.bin"), false, 0, 9);
    test_write_file(test_path("mixed_1.bin"), "abc", 3);
    write_counting(test_path("mixed_2.bin"), false, 0, 9);
    assert_refused(test_path("mixed_*.bin"), "mixed_1.bin|3 bytes is odd|expected bare uint16|prepare_data makes");
}

static void test_a_file_that_shrinks_is_an_error(void **state) {
    (void)state;
    write_counting(test_path("shrink_0.bin"), true, 0, 5000);
    write_counting(test_path("shrink_1.bin"), false, 5000, 5000);
    write_counting(test_path("shrink_2.bin"), true, 10000, 5000);
    ShardSet *set = open_set(test_path("shrink_?.bin"));
    Error error = {""};
    int32_t tokens[100];
    if (truncate(test_path("shrink_1.bin"), 1024) != 0) fail_msg("cannot truncate");
    for (int position = 4950; position < 10000; position += 1000) {
        assert_false(shards_read(set, position, 100, BIG_VOCAB, tokens, &error));
        assert_mentions(&error, "shrink_1.bin shrank from 11024 to 1024 bytes");
    }
    assert_true(shards_read(set, 4900, 100, BIG_VOCAB, tokens, &error));
    assert_true(shards_read(set, 10000, 100, BIG_VOCAB, tokens, &error));
    shards_close(set);
}

static void set_time(const char *path, time_t seconds) {
    const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    if (utimensat(AT_FDCWD, path, times, 0) != 0) fail_msg("cannot set the time of %s", path);
}

static void write_at(const char *path, off_t at, const void *data, size_t bytes) {
    int file = open(path, O_WRONLY);
    assert_int_equal(pwrite(file, data, bytes, at), bytes);
    close(file);
}

/* A run must not go on over a data set that somebody removes or changes. */
static void test_a_file_that_is_gone_or_another_is_an_error(void **state) {
    (void)state;
    static const char *const expected[] = {
        "gone_0.bin was replaced by another file",
        "gone_1.bin cannot be read any more",
        "gone_2.bin grew from 10000 to 20000 bytes",
        "gone_3.bin begins with other bytes than when it was opened",
        "gone_4.bin is a folder",
    };
    enum { WRONG = ARRAY_LENGTH(expected), FILES = WRONG + 2, TOKENS = 5000 };
    for (int i = 0; i < FILES; i++) {
        write_counting(test_path("gone_%d.bin", i), i != 3, TOKENS * i, TOKENS);
        set_time(test_path("gone_%d.bin", i), 1000000);
    }
    ShardSet *set = open_set(test_path("gone_?.bin"));
    const int32_t fewer = TOKENS - 1;
    write_counting(test_path("gone_new"), true, 0, TOKENS);
    assert_int_equal(rename(test_path("gone_new"), test_path("gone_0.bin")), 0);
    assert_int_equal(unlink(test_path("gone_1.bin")), 0);
    assert_int_equal(truncate(test_path("gone_2.bin"), 20000), 0);
    write_at(test_path("gone_3.bin"), 8, &fewer, sizeof fewer);
    assert_int_equal(unlink(test_path("gone_4.bin")), 0);
    assert_int_equal(mkdir(test_path("gone_4.bin"), 0700), 0);
    set_time(test_path("gone_5.bin"), 2000000); /* the same file, touched */
    write_counting(test_path("gone_new"), true, TOKENS * 6, TOKENS);
    set_time(test_path("gone_new"), 1000000); /* the same file as far as anyone can tell, by another number */
    assert_int_equal(rename(test_path("gone_new"), test_path("gone_6.bin")), 0);
    int32_t tokens[100];
    Error error = {""};
    for (int i = 0; i < WRONG; i++) {
        assert_false(shards_read(set, TOKENS * i + 50, 100, BIG_VOCAB, tokens, &error));
        assert_mentions(&error, expected[i]);
    }
    for (int i = WRONG; i < FILES; i++) {
        assert_true(shards_read(set, TOKENS * i + 50, 100, BIG_VOCAB, tokens, &error));
        assert_int_equal(tokens[99], TOKENS * i + 149);
    }
    shards_close(set);
}

/* Between the look at a file, which is the first pread, and its tokens. */
static void test_a_file_that_is_cut_while_it_is_read(void **state) {
    (void)state;
    write_counting(test_path("race.bin"), false, 0, 10000);
    ShardSet *set = open_set(test_path("race.bin"));
    int32_t tokens[9000];
    Error error = {""};
    fault.error = EIO;
    fault.call = 2;
    assert_false(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_mentions(&error, "cannot read ");
    assert_mentions(&error, "race.bin: Input/output error");
    fault.call = 1;
    assert_false(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_mentions(&error, "race.bin: Input/output error");
    fault.error = EINTR; /* a signal came: no mistake */
    fault.call = 2;
    assert_true(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_int_equal(fault.call, 0);
    assert_int_equal(tokens[8999], 9099);
    fault.call = 3; /* such a read has two pieces */
    fault.path = test_path("race.bin");
    fault.bytes = 17503;
    assert_false(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_mentions(&error, "race.bin shrank to 17608 bytes while it was read");
    fault.path = NULL;
    shards_close(set);
}

/* 275 billion tokens, in sparse files. */
static void test_a_set_that_is_larger_than_any_memory(void **state) {
    (void)state;
    const int64_t file_tokens = INT64_C(1) << 37, at = file_tokens + (INT64_C(1) << 36) + 12345;
    for (int i = 0; i < 2; i++) {
        test_write_file(test_path("huge_%d.bin", i), "", 0);
        if (truncate(test_path("huge_%d.bin", i), 2 * file_tokens) != 0) fail_msg("no file system for large files");
    }
    const uint16_t marks[3] = {7, 8, 9};
    write_at(test_path("huge_1.bin"), 2 * (at - file_tokens), marks, sizeof marks);
    ShardSet *set = open_set(test_path("huge_?.bin"));
    assert_int_equal(shards_token_count(set), 2 * file_tokens);
    int32_t tokens[5];
    assert_true(shards_read(set, at - 1, 5, 10, tokens, NULL));
    const int32_t expected[5] = {0, 7, 8, 9, 0};
    assert_memory_equal(tokens, expected, sizeof expected);
    assert_true(shards_read(set, file_tokens - 2, 5, 10, tokens, NULL)); /* across the files */
    shards_close(set);
    static const DataOrder orders[] = {ORDER_RANDOM, ORDER_SHUFFLED, ORDER_SEQUENTIAL};
    for (size_t i = 0; i < ARRAY_LENGTH(orders); i++) {
        LoaderOptions options = {
            .order = orders[i], .seed = 1, .block_size = 1024, .vocab_size = 10, .max_sequences = 4};
        Loader *loader;
        Error error;
        const int32_t *inputs, *targets;
        double begun = seconds_now();
        if (!loader_open(&loader, test_path("huge_?.bin"), &options, &error)) fail_msg("%s", error.text);
        assert_true(seconds_now() - begun < 1.0);
        assert_int_equal(loader_window_count(loader), (2 * file_tokens - 1) / 1024);
        for (int64_t first = 0; first < INT64_C(1) << 40; first = 3 * first + 1)
            if (!loader_batch(loader, first, 4, &inputs, &targets, &error)) fail_msg("%s", error.text);
        loader_close(loader);
    }
    for (int i = 0; i < 2; i++) unlink(test_path("huge_%d.bin", i));
}

static ino_t inode_of(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) fail_msg("no file %s", path);
    return status.st_ino;
}

static void assert_dropped(int call, const char *path, off_t bytes) {
    assert_true(call < dropped.calls);
    assert_int_equal(dropped.call[call].inode, inode_of(path));
    assert_int_equal(dropped.call[call].at, 0);
    assert_int_equal(dropped.call[call].bytes, bytes);
}

/* Three files of 48 MiB and one that is larger than the memory. */
static void test_what_was_read_in_order_makes_room(void **state) {
    (void)state;
    enum { MIB = 1 << 20, COUNT = MIB / 2 };
    for (int i = 0; i < 4; i++) {
        test_write_file(test_path("room_%d.bin", i), "", 0);
        assert_int_equal(truncate(test_path("room_%d.bin", i), i < 3 ? 48 * MIB : (off_t)1 << 42), 0);
    }
    int32_t *tokens = checked_malloc(COUNT * sizeof *tokens, "tokens");
    for (int is_small = 0; is_small < 2; is_small++)
        for (int in_order = 0; in_order < 2; in_order++) {
            ShardSet *set = open_set(test_path(is_small ? "room_[012].bin" : "room_?.bin"));
            shards_advise(set, in_order);
            dropped.calls = 0;
            for (int i = 0; i < 130; i++) assert_true(shards_read(set, (int64_t)COUNT * i, COUNT, 1, tokens, NULL));
            shards_close(set);
            if (is_small || !in_order) assert_int_equal(dropped.calls, 0);
            if (is_small || !in_order) continue;
            assert_int_equal(dropped.calls, 7);
            for (int i = 0; i < 2; i++) {
                assert_dropped(3 * i, test_path("room_%d.bin", i), 16 * MIB);
                assert_dropped(3 * i + 1, test_path("room_%d.bin", i), 32 * MIB);
                assert_dropped(3 * i + 2, test_path("room_%d.bin", i), 0); /* all of it */
            }
            assert_dropped(6, test_path("room_2.bin"), 16 * MIB);
        }
    free(tokens);
}

/* 206 billion tokens in as many shards as the largest published set has; each holds its number somewhere. */
static void test_a_thousand_large_shards(void **state) {
    (void)state;
    enum { FILES = 1030, TOKENS = 200000000 };
    char *folder = make_folder("large");
    for (int i = 0; i < FILES; i++) {
        const uint16_t mark = (uint16_t)i;
        write_shard(test_path("large/%06d.bin", i), 1, TOKENS, &mark, 0);
        assert_int_equal(truncate(test_path("large/%06d.bin", i), 1024 + 2 * (off_t)TOKENS), 0);
        write_at(test_path("large/%06d.bin", i), 1024 + 2 * (off_t)(TOKENS - 1 - 190000 * i), &mark, sizeof mark);
    }
    LoaderOptions options = {
        .order = ORDER_RANDOM, .seed = 3, .block_size = 64, .vocab_size = FILES, .max_sequences = 8};
    Loader *loader;
    Error error;
    const int32_t *inputs, *targets;
    double begun = seconds_now();
    if (!loader_open(&loader, test_path("large/*.bin"), &options, &error)) fail_msg("%s", error.text);
    assert_true(seconds_now() - begun < 1.0);
    assert_int_equal(loader_file_count(loader), FILES);
    assert_int_equal(loader_token_count(loader), (int64_t)FILES * TOKENS);
    for (int i = 0; i < 50; i++) assert_true(loader_batch(loader, 8 * i, 8, &inputs, &targets, &error));
    assert_true(loader_sample(loader, 7, 10, &error));
    loader_close(loader);
    ShardSet *set = open_set(test_path("large/*.bin"));
    for (int i = 0; i < FILES; i++) {
        int32_t token;
        int64_t position = (int64_t)TOKENS * (i + 1) - 1 - 190000 * i;
        assert_true(shards_read(set, position, 1, FILES, &token, NULL));
        assert_int_equal(token, i);
    }
    shards_close(set);
    free(folder);
}

static void test_a_token_beyond_the_vocabulary_is_named(void **state) {
    (void)state;
    uint16_t first[6] = {0, 1, 2, 3, 4, 99}, second[7] = {5, 6, 7, 65535, 8, 300, 9};
    write_shard(test_path("vocab_0.bin"), 1, 6, first, 6);
    test_write_file(test_path("vocab_1.bin"), second, sizeof second);
    ShardSet *set = open_set(test_path("vocab_*.bin"));
    int32_t tokens[13];
    Error error = {""};
    assert_true(shards_read(set, 0, 13, 65536, tokens, NULL));
    assert_int_equal(tokens[9], 65535);
    assert_false(shards_read(set, 0, 13, 65535, tokens, &error));
    assert_mentions(&error, "vocab_1.bin: token 3 of the file is 65535, but vocab_size is 65535");
    assert_false(shards_read(set, 10, 3, 300, tokens, &error)); /* from the middle of the file */
    assert_mentions(&error, "vocab_1.bin: token 5 of the file is 300, but vocab_size is 300");
    assert_false(shards_read(set, 3, 9, 99, tokens, &error));
    assert_mentions(&error, "vocab_0.bin: token 5 of the file is 99, but vocab_size is 99");
    assert_true(shards_read(set, 10, 3, 301, tokens, NULL));
    assert_true(shards_read(set, 0, 9, 100, tokens, NULL));
    shards_close(set);
}

/* Before a run: of a short file all tokens, of a long one its ends and what lies evenly between them. */
static void test_windows_are_sampled(void **state) {
    (void)state;
    enum { COUNT = 100000, LENGTH = 33, WINDOWS = 64 };
    const uint16_t low = 0, high = 300;
    uint16_t *tokens = checked_calloc(COUNT, sizeof *tokens, "tokens");
    Error error;
    int seen = 0;
    write_shard(test_path("sampled.bin"), 1, COUNT, tokens, COUNT);
    for (int i = 0; i < 150; i++) {
        int at = i == 149 ? COUNT - 1 : (int)((int64_t)i * 52711 % COUNT);
        write_at(test_path("sampled.bin"), 1024 + 2 * at, &high, sizeof high);
        ShardSet *set = open_set(test_path("sampled.bin"));
        bool is_found = !shards_sample(set, 0, WINDOWS, LENGTH, 300, &error);
        seen += is_found;
        if (is_found)
            assert_mentions(&error, "but vocab_size is 300; the file is damaged, or another tokenizer made it");
        if (i == 0 || i == 149) assert_true(is_found);
        assert_true(shards_sample(set, 0, WINDOWS, LENGTH, 301, &error));
        shards_close(set);
        write_at(test_path("sampled.bin"), 1024 + 2 * at, &low, sizeof low);
    }
    assert_in_range(seen, 2, 12); /* the windows have 2 % of the tokens */
    for (int count = 1; count <= WINDOWS * LENGTH; count = 2 * count + 1)
        for (int at = 0; at < count; at += 1 + count / 40) {
            tokens[at] = 300;
            write_shard(test_path("sampled.bin"), 1, count, tokens, (size_t)count);
            ShardSet *set = open_set(test_path("sampled.bin"));
            assert_false(shards_sample(set, 0, WINDOWS, LENGTH, 300, &error));
            shards_close(set);
            tokens[at] = 0;
        }
    free(tokens);
}

/* Three processes look into each file once. */
static void test_processes_share_the_sampling(void **state) {
    (void)state;
    LoaderOptions options = {ORDER_SEQUENTIAL, 1, 10, 100, 2};
    Loader *loader;
    Error error = {""};
    for (int bad = 0; bad < 5; bad++) {
        for (int i = 0; i < 5; i++) write_counting(test_path("shared_%d.bin", i), true, i == bad ? 50 : 0, 60);
        if (!loader_open(&loader, test_path("shared_?.bin"), &options, &error)) fail_msg("%s", error.text);
        for (int rank = 0; rank < 3; rank++) assert_int_equal(loader_sample(loader, rank, 3, &error), rank != bad % 3);
        loader_close(loader);
    }
}

static void test_more_files_than_descriptors(void **state) {
    (void)state;
    enum { FILES = 3000 };
    char *folder = make_folder("many");
    for (int i = 0; i < FILES; i++) write_counting(test_path("many/shard_%06d.bin", i), i % 2, 3 * i, 3);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    small = (struct rlimit){256, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    ShardSet *set = open_set(test_path("many/shard_*.bin"));
    assert_int_equal(shards_file_count(set), FILES);
    int32_t *tokens = checked_malloc(3 * FILES * sizeof *tokens, "tokens");
    assert_true(shards_read(set, 0, 3 * FILES, 3 * FILES, tokens, NULL));
    for (int i = 0; i < 3 * FILES; i++) assert_int_equal(tokens[i], i);
    for (int i = 0; i + 5 < 3 * FILES; i += 7) {
        assert_true(shards_read(set, i, 5, 3 * FILES, tokens, NULL));
        assert_int_equal(tokens[4], i + 4);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    shards_close(set);
    free(tokens);
    free(folder);
}

/* ---- loader ---- */

static Loader *open_loader(const char *pattern, DataOrder order, uint64_t seed, int T, int max_sequences) {
    LoaderOptions options = {order, seed, T, BIG_VOCAB, max_sequences};
    Loader *loader = NULL;
    Error error = {""};
    if (!loader_open(&loader, pattern, &options, &error)) fail_msg("%s", error.text);
    return loader;
}

/* The stream position of sequence s in a stream that counts; checks the whole sequence on the way. */
static int where(Loader *loader, int64_t s, int T) {
    const int32_t *inputs, *targets;
    Error error = {""};
    if (!loader_batch(loader, s, 1, &inputs, &targets, &error)) fail_msg("%s", error.text);
    for (int i = 0; i < T; i++) {
        assert_int_equal(inputs[i], inputs[0] + i);
        assert_int_equal(targets[i], inputs[0] + i + 1);
    }
    return inputs[0];
}

/* The permutation of windows, once more and read from its definition. */
static int64_t shuffled_window(int64_t s, int64_t W, uint64_t seed) {
    int64_t epoch = s / W, x = s % W, side = 1;
    while (side * side < W) side *= 2;
    do {
        int64_t left = x / side, right = x % side;
        for (uint64_t round = 0; round < 8; round++) {
            uint64_t index = (round << 32) + (uint64_t)right;
            int64_t mixed = philox(seed, PHILOX_DATA_SHUFFLE, (uint32_t)epoch, index).word[0] % side;
            int64_t next = left ^ mixed;
            left = right, right = next;
        }
        x = left * side + right;
    } while (x >= W);
    return x;
}

static void test_orders_are_what_they_say(void **state) {
    (void)state;
    enum { N = 1001 };
    write_counting(test_path("plain.bin"), false, 0, N);
    const int lengths[] = {1, 3, 62, 64, 100, 333, 999, 1000};
    for (size_t k = 0; k < ARRAY_LENGTH(lengths); k++) {
        int T = lengths[k], W = (N - 1) / T;
        uint64_t seed = 5000 + k + ((uint64_t)k << 40);
        Loader *sequential = open_loader(test_path("plain.bin"), ORDER_SEQUENTIAL, seed, T, 1);
        Loader *random = open_loader(test_path("plain.bin"), ORDER_RANDOM, seed, T, 1);
        Loader *shuffled = open_loader(test_path("plain.bin"), ORDER_SHUFFLED, seed, T, 1);
        assert_int_equal(loader_token_count(random), N);
        assert_int_equal(loader_window_count(random), W);
        assert_int_equal(loader_file_count(random), 1);
        for (int64_t i = 0; i < 300; i++) {
            int64_t s = i < 250 ? i : i * 123456789;
            Philox4 draw = philox(seed, PHILOX_DATA_OFFSET, 0, (uint64_t)s);
            uint64_t bits = (uint64_t)draw.word[1] << 32 | draw.word[0];
            assert_int_equal(where(sequential, s, T), s % W * T);
            assert_int_equal(where(random, s, T), (unsigned __int128)bits * (unsigned)(N - T - 1) >> 64);
            assert_int_equal(where(shuffled, s, T), shuffled_window(s, W, seed) * T);
        }
        loader_close(sequential);
        loader_close(random);
        loader_close(shuffled);
    }
}

/* The same tokens in one file and in three odd-sized ones of both formats, for every order. */
static void test_shards_do_not_change_sequences(void **state) {
    (void)state;
    write_counting(test_path("whole.bin"), true, 0, 393);
    write_counting(test_path("part_0.bin"), false, 0, 101);
    write_counting(test_path("part_1.bin"), true, 101, 37);
    write_counting(test_path("part_2.bin"), false, 138, 255);
    const int lengths[] = {1, 5, 64, 150, 392};
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++)
        for (size_t k = 0; k < ARRAY_LENGTH(lengths); k++) {
            Loader *whole = open_loader(test_path("whole.bin"), order, 7, lengths[k], 1);
            Loader *parts = open_loader(test_path("part_*.bin"), order, 7, lengths[k], 1);
            assert_int_equal(loader_file_count(parts), 3);
            assert_int_equal(loader_window_count(parts), loader_window_count(whole));
            for (int64_t s = 0; s < 400; s++)
                assert_int_equal(where(parts, s, lengths[k]), where(whole, s, lengths[k]));
            loader_close(whole);
            loader_close(parts);
        }
}

/* Offsets lie in [0, n - T - 1): the last window is never drawn, all others are, and about equally often. */
static void test_random_offsets_cover_their_range(void **state) {
    (void)state;
    write_counting(test_path("small.bin"), false, 0, 15);
    Loader *loader = open_loader(test_path("small.bin"), ORDER_RANDOM, 1, 4, 1);
    int seen[15] = {0};
    for (int s = 0; s < 10000; s++) seen[where(loader, s, 4)]++;
    for (int i = 0; i < 10; i++) assert_in_range(seen[i], 850, 1150);
    for (int i = 10; i < 15; i++) assert_int_equal(seen[i], 0);
    loader_close(loader);
}

static void test_streams_of_about_one_sequence(void **state) {
    (void)state;
    write_counting(test_path("nine.bin"), false, 0, 9);
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++) {
        Loader *loader = open_loader(test_path("nine.bin"), order, 3, 8, 1); /* n - T - 1 = 0 */
        assert_int_equal(loader_window_count(loader), 1);
        for (int s = 0; s < 50; s++) assert_int_equal(where(loader, s, 8), 0);
        loader_close(loader);
        Loader *failed = NULL;
        LoaderOptions options = {order, 3, 9, 256, 1};
        Error error = {""};
        assert_false(loader_open(&failed, test_path("nine.bin"), &options, &error));
        assert_null(failed);
        assert_four_parts(error.text, "nine.bin'|holds 9 tokens|one sequence needs 10|give more text");
    }
}

static void test_wrong_loader_options_and_requests(void **state) {
    (void)state;
    write_counting(test_path("twenty.bin"), false, 0, 20);
    const LoaderOptions wrong[] = {
        {ORDER_RANDOM, 1, 0, 256, 1}, {ORDER_RANDOM, 1, 4, 0, 1}, {ORDER_RANDOM, 1, 4, 256, 0}};
    Loader *loader = NULL;
    Error error = {""};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        assert_false(loader_open(&loader, test_path("twenty.bin"), &wrong[i], &error));
        assert_mentions(&error, "at least 1");
    }
    assert_false(loader_open(&loader, test_path("nothing.bin"), &(LoaderOptions){ORDER_RANDOM, 1, 4, 256, 1}, &error));
    assert_mentions(&error, "nothing.bin");
    assert_null(loader);
    loader_close(NULL);

    loader = open_loader(test_path("twenty.bin"), ORDER_SEQUENTIAL, 1, 4, 3);
    const int64_t requests[][2] = {{0, 0}, {0, 4}, {-1, 1}, {0, -1}};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(requests); i++) {
        const int32_t *inputs, *targets;
        int64_t first = requests[i / 2][0];
        int count = (int)requests[i / 2][1];
        if (i % 2) loader_prefetch(loader, first, count); /* the thread finds the mistake, loader_batch says so */
        assert_false(loader_batch(loader, first, count, &inputs, &targets, &error));
        assert_mentions(&error, "the loader was opened for 1 to 3");
    }
    assert_int_equal(where(loader, 1, 4), 4);
    loader_close(loader);
}

/* ---- shuffling ---- */

/* A stream for T = 2 whose window w begins with the two halves of w. */
static void write_windows(const char *path, int64_t W) {
    uint16_t *tokens = checked_malloc((2 * (size_t)W + 1) * 2, "tokens");
    for (int64_t w = 0; w < W; w++) {
        tokens[2 * w] = (uint16_t)w;
        tokens[2 * w + 1] = (uint16_t)(w >> 16);
    }
    tokens[2 * W] = 0;
    write_shard(path, 1, (int32_t)(2 * W + 1), tokens, (size_t)(2 * W + 1));
    free(tokens);
}

/* windows[i] = window of sequence first + i. */
static void read_windows(const char *path, uint64_t seed, int64_t first, int64_t count, int32_t *windows) {
    enum { BATCH = 1000 };
    Loader *loader = open_loader(path, ORDER_SHUFFLED, seed, 2, BATCH);
    for (int64_t done = 0; done < count; done += BATCH) {
        const int32_t *inputs, *targets;
        int take = (int)min_i64(BATCH, count - done);
        assert_true(loader_batch(loader, first + done, take, &inputs, &targets, NULL));
        for (int i = 0; i < take; i++) windows[done + i] = inputs[2 * i] + inputs[2 * i + 1] * 65536;
    }
    loader_close(loader);
}

static void assert_permutation(const int32_t *windows, int64_t W) {
    char *seen = checked_calloc((size_t)W, 1, "marks");
    for (int64_t i = 0; i < W; i++) {
        assert_in_range(windows[i], 0, W - 1);
        if (seen[windows[i]]++) fail_msg("window %d comes twice in an epoch of %d", windows[i], (int)W);
    }
    free(seen);
}

static void test_each_epoch_is_a_permutation(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 255, 1021, 4097};
    int32_t *windows = checked_malloc(3 * 4097 * sizeof *windows, "windows");
    for (size_t k = 0; k < ARRAY_LENGTH(sizes); k++) {
        int64_t W = sizes[k];
        size_t bytes = (size_t)W * sizeof *windows;
        write_windows(test_path("windows.bin"), W);
        read_windows(test_path("windows.bin"), 11, 0, 2 * W, windows);
        read_windows(test_path("windows.bin"), 12, 0, W, windows + 2 * W);
        for (int i = 0; i < 3; i++) assert_permutation(windows + i * W, W);
        if (W < 16) continue;
        assert_memory_not_equal(windows, windows + W, bytes);     /* another epoch */
        assert_memory_not_equal(windows, windows + 2 * W, bytes); /* another seed */
    }
    free(windows);
}

static void test_many_windows_are_permuted(void **state) {
    (void)state;
    const int64_t W = 250007;
    int32_t *windows = checked_malloc((size_t)W * sizeof *windows, "windows");
    write_windows(test_path("windows.bin"), W);
    read_windows(test_path("windows.bin"), UINT64_C(0xFEDCBA9876543210), 5 * W, W, windows);
    assert_permutation(windows, W);
    int64_t neighbours = 0, in_place = 0;
    double product = 0;
    for (int64_t i = 0; i < W; i++) {
        in_place += windows[i] == i;
        neighbours += i > 0 && windows[i] == windows[i - 1] + 1;
        product += ((double)i / (double)W - 0.5) * ((double)windows[i] / (double)W - 0.5);
    }
    assert_true(in_place < 12 && neighbours < 12);      /* of each, 1 is expected */
    assert_true(fabs(product / (double)W * 12) < 0.01); /* correlation; its standard deviation is 0.002 */
    free(windows);
}

/* A small set wants a fair shuffle too: each window equally often at each place, and all orders of three. */
static void test_small_sets_are_shuffled_fairly(void **state) {
    (void)state;
    enum { W = 6, EPOCHS = 3000 };
    int32_t *windows = checked_malloc(W * EPOCHS * sizeof *windows, "windows");
    int at[W][W] = {{0}}, orders[27] = {0}, kinds = 0;
    write_windows(test_path("windows.bin"), W);
    read_windows(test_path("windows.bin"), 1, 0, W * EPOCHS, windows);
    for (int i = 0; i < W * EPOCHS; i++) at[i % W][windows[i]]++;
    for (int i = 0; i < W * W; i++) assert_in_range(at[i / W][i % W], 380, 620); /* 500 expected, deviation 20 */
    write_windows(test_path("windows.bin"), 3);
    read_windows(test_path("windows.bin"), 1, 0, 3 * EPOCHS, windows);
    for (int i = 0; i < 3 * EPOCHS; i += 3) orders[9 * windows[i] + 3 * windows[i + 1] + windows[i + 2]]++;
    for (int i = 0; i < 27; i++) {
        if (orders[i] == 0) continue;
        kinds++;
        assert_in_range(orders[i], 380, 620);
    }
    assert_int_equal(kinds, 6);
    free(windows);
}

/* ---- batches and reading ahead ---- */

static void test_batches_do_not_change_sequences(void **state) {
    (void)state;
    enum { T = 7, COUNT = 12 };
    write_counting(test_path("batch.bin"), true, 0, 500);
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++) {
        Loader *loader = open_loader(test_path("batch.bin"), order, 9, T, COUNT);
        for (int64_t first = 0; first < 200; first += 37) {
            const int32_t *inputs, *targets;
            int32_t together[2][COUNT * T];
            assert_true(loader_batch(loader, first, COUNT, &inputs, &targets, NULL));
            memcpy(together[0], inputs, sizeof together[0]);
            memcpy(together[1], targets, sizeof together[1]);
            for (int step = 1; step <= 4; step++)
                for (int i = 0; i + step <= COUNT; i += step) {
                    size_t bytes = (size_t)(step * T) * sizeof(int32_t);
                    assert_true(loader_batch(loader, first + i, step, &inputs, &targets, NULL));
                    assert_memory_equal(inputs, together[0] + i * T, bytes);
                    assert_memory_equal(targets, together[1] + i * T, bytes);
                }
        }
        loader_close(loader);
    }
}

/* The buffers take turns: the caller's older one takes a batch that is read on the spot, and the thread's one comes in
 * between when a batch was read ahead. That tells a hit from a miss. */
static void test_read_ahead_hits_and_misses(void **state) {
    (void)state;
    const int32_t *a, *b, *c, *targets;
    write_counting(test_path("ahead.bin"), true, 0, 5000);
    Loader *loader = open_loader(test_path("ahead.bin"), ORDER_SEQUENTIAL, 1, 10, 20);
    assert_true(loader_batch(loader, 0, 20, &a, &targets, NULL));
    assert_true(loader_batch(loader, 100, 20, &b, &targets, NULL)); /* the caller has two batches at a time */
    assert_int_equal(a[0], 0);
    assert_int_equal(b[0], 1000);
    loader_prefetch(loader, 20, 20);
    assert_true(loader_batch(loader, 20, 20, &c, &targets, NULL)); /* a hit: the third buffer */
    assert_ptr_not_equal(c, a);
    assert_ptr_not_equal(c, b);
    assert_int_equal(c[0], 200);
    assert_int_equal(b[0], 1000);
    assert_int_equal(a[0], 0); /* the thread may write there only when it is asked again */

    loader_prefetch(loader, 40, 20);
    const int32_t *d;
    assert_true(loader_batch(loader, 60, 20, &d, &targets, NULL)); /* another first: a miss */
    assert_ptr_equal(d, b);
    assert_int_equal(d[0], 600);
    assert_int_equal(c[0], 200);
    assert_true(loader_batch(loader, 40, 19, &d, &targets, NULL)); /* another count: a miss */
    assert_ptr_equal(d, c);
    assert_int_equal(d[189], 589);
    assert_int_equal(b[0], 600);
    assert_true(loader_batch(loader, 40, 20, &d, &targets, NULL)); /* and what was asked for is still there */
    assert_ptr_equal(d, a);
    assert_int_equal(d[0], 400);
    assert_true(loader_batch(loader, 40, 20, &d, &targets, NULL)); /* once taken it is gone */
    assert_ptr_equal(d, c);
    assert_int_equal(d[199], 599);

    for (int i = 0; i < 50; i++) loader_prefetch(loader, i, 20); /* the last request counts */
    assert_true(loader_batch(loader, 49, 20, &d, &targets, NULL));
    assert_ptr_equal(d, b);
    assert_int_equal(d[0], 490);
    loader_prefetch(loader, 3, 20); /* closed while the thread is busy */
    loader_close(loader);
}

/* Requests, right and wrong guesses and batches in an order that only chance would choose. */
static void test_read_ahead_never_changes_a_batch(void **state) {
    (void)state;
    enum { T = 16, COUNT = 8 };
    write_counting(test_path("chaos.bin"), false, 0, 30000);
    Loader *loader = open_loader(test_path("chaos.bin"), ORDER_SHUFFLED, 4, T, COUNT);
    for (uint64_t i = 0; i < 3000; i++) {
        Philox4 draw = philox(1, PHILOX_SAMPLE_TOKEN, 0, i);
        int64_t first = draw.word[0] % 6, guess = draw.word[1] % 6;
        int count = 1 + (int)(draw.word[2] % COUNT);
        if (draw.word[3] & 1) loader_prefetch(loader, guess * 1000, count);
        if (draw.word[3] & 2) loader_prefetch(loader, first * 1000, count);
        if (draw.word[3] & 4) continue;
        const int32_t *inputs, *targets;
        assert_true(loader_batch(loader, first * 1000, count, &inputs, &targets, NULL));
        for (int k = 0; k < count; k++) {
            int64_t begin = shuffled_window(first * 1000 + k, loader_window_count(loader), 4) * T;
            assert_int_equal(inputs[k * T], begin);
            assert_int_equal(inputs[k * T + T - 1], begin + T - 1);
            assert_int_equal(targets[k * T + T - 1], begin + T);
        }
    }
    loader_close(loader);
}

static void test_errors_of_the_thread_come_with_the_batch(void **state) {
    (void)state;
    write_counting(test_path("bad_0.bin"), false, 0, 50);
    write_counting(test_path("bad_1.bin"), false, 50, 50);
    LoaderOptions options = {ORDER_SEQUENTIAL, 1, 10, 70, 2};
    Loader *loader;
    const int32_t *inputs, *targets;
    assert_true(loader_open(&loader, test_path("bad_*.bin"), &options, NULL));
    for (int is_ahead = 0; is_ahead < 2; is_ahead++) {
        Error error = {""};
        if (is_ahead) loader_prefetch(loader, 6, 2);
        assert_false(loader_batch(loader, 6, 2, &inputs, &targets, &error));
        assert_mentions(&error, "bad_1.bin: token 20 of the file is 70, but vocab_size is 70");
        assert_int_equal(where(loader, 5, 10), 50); /* the loader lives on */
    }
    if (truncate(test_path("bad_0.bin"), 1030) != 0) fail_msg("cannot truncate");
    Error error = {""};
    loader_prefetch(loader, 0, 2);
    assert_false(loader_batch(loader, 0, 2, &inputs, &targets, &error));
    assert_mentions(&error, "bad_0.bin shrank from 1124 to 1030 bytes");
    loader_close(loader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_shards_are_one_stream),
        cmocka_unit_test(test_reading_outside_the_stream_fails),
        cmocka_unit_test(test_files_are_in_name_order),
        cmocka_unit_test(test_an_existing_name_is_no_pattern),
        cmocka_unit_test(test_golden_formats_agree),
        cmocka_unit_test(test_wrong_files_are_named),
        cmocka_unit_test(test_files_of_other_formats_are_named),
        cmocka_unit_test(test_brackets_and_home_folders),
        cmocka_unit_test(test_patterns_that_match_nothing_or_folders),
        cmocka_unit_test(test_folders_without_permission),
        cmocka_unit_test(test_things_that_are_no_files),
        cmocka_unit_test(test_a_file_that_shrinks_is_an_error),
        cmocka_unit_test(test_a_file_that_is_gone_or_another_is_an_error),
        cmocka_unit_test(test_a_file_that_is_cut_while_it_is_read),
        cmocka_unit_test(test_a_set_that_is_larger_than_any_memory),
        cmocka_unit_test(test_a_thousand_large_shards),
        cmocka_unit_test(test_what_was_read_in_order_makes_room),
        cmocka_unit_test(test_a_token_beyond_the_vocabulary_is_named),
        cmocka_unit_test(test_windows_are_sampled),
        cmocka_unit_test(test_processes_share_the_sampling),
        cmocka_unit_test(test_more_files_than_descriptors),
        cmocka_unit_test(test_orders_are_what_they_say),
        cmocka_unit_test(test_shards_do_not_change_sequences),
        cmocka_unit_test(test_random_offsets_cover_their_range),
        cmocka_unit_test(test_streams_of_about_one_sequence),
        cmocka_unit_test(test_wrong_loader_options_and_requests),
        cmocka_unit_test(test_each_epoch_is_a_permutation),
        cmocka_unit_test(test_many_windows_are_permuted),
        cmocka_unit_test(test_small_sets_are_shuffled_fairly),
        cmocka_unit_test(test_batches_do_not_change_sequences),
        cmocka_unit_test(test_read_ahead_hits_and_misses),
        cmocka_unit_test(test_read_ahead_never_changes_a_batch),
        cmocka_unit_test(test_errors_of_the_thread_come_with_the_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
