/* test_shard.c: token files, and all of a set as one stream of tokens: what a pattern names, every wrong file, tokens
 * outside the vocabulary. Which sequence of a stream a step gets: test_loader.c. From text to file:
 * test_prepare_data.c. */
#include "dev/test/data/shard_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "data/loader.h"
#include "data/shard.h"

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

/* ---- sets of files ---- */

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
        assert_parts(error.text, "stream of 5 tokens");
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
        assert_parts(error.text, "shrink_1.bin shrank from 11024 to 1024 bytes");
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
        "cannot open again|gone_1.bin: No such file",
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
        assert_parts(error.text, expected[i]);
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
    assert_parts(error.text, "cannot read ");
    assert_parts(error.text, "race.bin: Input/output error");
    fault.call = 1;
    assert_false(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_parts(error.text, "race.bin: Input/output error");
    fault.error = EINTR; /* a signal came: no mistake */
    fault.call = 2;
    assert_true(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_int_equal(fault.call, 0);
    assert_int_equal(tokens[8999], 9099);
    fault.call = 3; /* such a read has two pieces */
    fault.path = test_path("race.bin");
    fault.bytes = 17503;
    assert_false(shards_read(set, 100, 9000, BIG_VOCAB, tokens, &error));
    assert_parts(error.text, "race.bin shrank to 17608 bytes while it was read");
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
    assert_parts(error.text, "vocab_1.bin: token 3 of the file is 65535, but vocab_size is 65535");
    assert_false(shards_read(set, 10, 3, 300, tokens, &error)); /* from the middle of the file */
    assert_parts(error.text, "vocab_1.bin: token 5 of the file is 300, but vocab_size is 300");
    assert_false(shards_read(set, 3, 9, 99, tokens, &error));
    assert_parts(error.text, "vocab_0.bin: token 5 of the file is 99, but vocab_size is 99");
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
            assert_parts(error.text, "but vocab_size is 300; the file is damaged, or another tokenizer made it");
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
