/* test_prepare_data.c: from text to token files: the tokenizers, the writer of shards, and prepare_data run as a
 * program, taken from the folder in MARS_BIN (default: the repository root). What becomes of token files afterwards:
 * test_shard.c. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/prepare/shard_writer.h"
#include "data/shard.h"
#include "data/tokenizer/tokenizer.h"
#include "dev/test/data/gpt2_fixture.h"

static char *program;

/* ---- helpers ---- */

static void assert_mentions(const Error *error, const char *text) {
    if (!strstr(error->text, text)) fail_msg("'%s' should mention '%s'", error->text, text);
}

static char *make_folder(const char *name) {
    char *path = checked_strdup(test_path("%s", name));
    if (mkdir(path, 0777) != 0) fail_msg("cannot make %s", path);
    return path;
}

/* Fails unless the folder holds just the files of `expected`, names in order with a space after each. */
static void assert_files(const char *folder, const char *expected) {
    char *names[64], list[64 * 257] = "";
    size_t count = 0;
    DIR *entries = opendir(folder);
    if (!entries) fail_msg("cannot list %s", folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        assert_true(count < ARRAY_LENGTH(names));
        names[count++] = checked_strdup(entry->d_name);
    }
    closedir(entries);
    qsort(names, count, sizeof *names, compare_strings);
    for (size_t i = 0; i < count; i++) {
        strcat(strcat(list, names[i]), " ");
        free(names[i]);
    }
    assert_string_equal(list, expected);
}

/* Fails unless the file is, byte for byte, the llm.c shard of these bytes as tokens. */
static void assert_shard(const char *path, const char *text, size_t count) {
    int32_t header[256] = {20240520, 1, (int32_t)count};
    size_t bytes;
    char *data = test_read_file(path, &bytes);
    assert_int_equal(bytes, sizeof header + 2 * count);
    assert_memory_equal(data, header, sizeof header);
    const uint16_t *tokens = (const uint16_t *)(data + sizeof header);
    for (size_t i = 0; i < count; i++)
        if (tokens[i] != (unsigned char)text[i]) fail_msg("%s: token %zu is %d", path, i, tokens[i]);
    free(data);
}

static cJSON *read_json(const char *path) {
    char *text = test_read_file(path, NULL);
    cJSON *json = cJSON_Parse(text);
    if (!json) fail_msg("%s is not JSON: %s", path, text);
    free(text);
    return json;
}

static void assert_number(const cJSON *json, const char *key, double expected) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(item) || item->valuedouble != expected) fail_msg("tokens.json: %s should be %g", key, expected);
}

static void assert_text(const cJSON *json, const char *key, const char *expected) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
    assert_non_null(text);
    assert_string_equal(text, expected);
}

/* Bytes of every value, without a short period. */
static char *make_text(size_t bytes) {
    char *text = checked_malloc(bytes, "text");
    uint32_t x = 1;
    for (size_t i = 0; i < bytes; i++) text[i] = (char)((x = x * 1664525u + 1013904223u) >> 24);
    return text;
}

/* ---- tokenizer ---- */

static void test_bytes_are_tokens(void **state) {
    (void)state;
    Tokenizer *tokenizer;
    TokenBuffer out = {0};
    char text[256];
    assert_true(tokenizer_open(&tokenizer, "bytes", NULL, NULL));
    assert_string_equal(tokenizer_name(tokenizer), "bytes");
    assert_int_equal(tokenizer_vocab_size(tokenizer), 256);
    assert_int_equal(tokenizer_end_of_text(tokenizer), -1);
    Encoder *encoder = encoder_open(tokenizer);
    for (int i = 0; i < 256; i++) text[i] = (char)i;
    assert_int_equal(encoder_encode(encoder, text, 256, false, &out), 256);
    assert_int_equal(encoder_encode(encoder, text, 0, true, &out), 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(encoder_encode(encoder, text + 200, 3, true, &out), 3);
    assert_int_equal(out.count, 3256);
    for (int i = 0; i < 3256; i++) assert_int_equal(out.tokens[i], i < 256 ? i : 200 + (i - 256) % 3);
    for (int i = 0; i < 256; i++) {
        size_t bytes = 0;
        const char *decoded = tokenizer_decode(tokenizer, i, &bytes);
        assert_int_equal(bytes, 1);
        assert_int_equal((unsigned char)*decoded, i);
    }
    size_t bytes;
    assert_null(tokenizer_decode(tokenizer, 256, &bytes));
    assert_null(tokenizer_decode(tokenizer, 50303, &bytes));
    assert_null(tokenizer_decode(tokenizer, -1, &bytes));
    token_buffer_free(&out);
    assert_null(out.tokens);
    encoder_close(encoder);
    encoder_close(NULL);
    tokenizer_close(tokenizer);
    tokenizer_close(NULL);
}

static void test_tokenizer_by_folder(void **state) {
    (void)state;
    char *folder = make_folder("vocabulary");
    Tokenizer *tokenizer = NULL;
    Error error = {""};
    const char *wrong[][2] = {{NULL, "cannot open"},
                              {"", "key \"tokenizer\""},
                              {"{\"tokenizer\": 3}", "key \"tokenizer\""},
                              {"{\"tokenizer\": \"bytes\"", "key \"tokenizer\""},
                              {"{\"tokenizer\": \"klingon\"}", "unknown tokenizer 'klingon'"}};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        if (wrong[i][0]) test_write_text(test_path("vocabulary/tokens.json"), wrong[i][0]);
        assert_false(tokenizer_open(&tokenizer, NULL, folder, &error));
        assert_mentions(&error, wrong[i][1]);
    }
    assert_false(tokenizer_open(&tokenizer, "Bytes", folder, &error));
    assert_mentions(&error, "there are: bytes, gpt2");
    assert_false(tokenizer_open(&tokenizer, NULL, NULL, &error));
    assert_mentions(&error, "by its name or by a folder");
    assert_null(tokenizer);
    test_write_text(test_path("vocabulary/tokens.json"), "{\"vocab_size\": 256, \"tokenizer\": \"bytes\"}");
    assert_true(tokenizer_open(&tokenizer, NULL, folder, &error));
    assert_string_equal(tokenizer_name(tokenizer), "bytes");
    tokenizer_close(tokenizer);
    free(folder);
}

/* ---- writer of shards ---- */

static void test_writer_shows_nothing_before_it_is_told(void **state) {
    (void)state;
    char *folder = make_folder("writer");
    const uint16_t tokens[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g'};
    ShardWriter *writer = shard_writer_open(folder, "train", SHARD_LLMC, 3);
    assert_true(shard_writer_append(writer, tokens, 5, NULL));
    assert_true(shard_writer_append(writer, tokens + 5, 2, NULL));
    assert_files(folder, ".train_000000.bin.tmp .train_000001.bin.tmp .train_000002.bin.tmp ");
    shard_writer_close(writer);
    assert_files(folder, "");

    writer = shard_writer_open(folder, "train", SHARD_LLMC, 3);
    assert_true(shard_writer_append(writer, tokens, 6, NULL)); /* the last file is just full */
    assert_true(shard_writer_finish(writer, NULL));
    assert_int_equal(shard_writer_file_count(writer), 2);
    assert_int_equal(shard_writer_token_count(writer), 6);
    assert_true(shard_writer_publish(writer, NULL));
    shard_writer_close(writer);
    assert_files(folder, "train_000000.bin train_000001.bin ");
    assert_shard(test_path("writer/train_000000.bin"), "abc", 3);
    assert_shard(test_path("writer/train_000001.bin"), "def", 3);
    free(folder);
}

/* Removed: temporary files of the same split. Kept: everything else, with whatever name. */
static void test_writer_removes_only_its_own(void **state) {
    (void)state;
    char *folder = make_folder("leftovers");
    const char *names[] = {"train_000001.bin", ".train_000003.bin.tmp", ".train.bin.tmp",      ".train_00003.bin.tmp",
                           "train.bin",        ".val_000005.bin.tmp",   ".train_000003.bin.t", "xtrain_000009.bin"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) test_write_text(test_path("leftovers/%s", names[i]), "old");
    ShardWriter *writer = shard_writer_open(folder, "train", SHARD_LLMC, 3);
    assert_true(shard_writer_append(writer, (const uint16_t[]){1, 2, 3, 4}, 4, NULL));
    assert_true(shard_writer_finish(writer, NULL));
    assert_int_equal(shard_writer_file_bytes(writer, 0), 1024 + 6);
    assert_int_equal(shard_writer_file_bytes(writer, 1), 1024 + 2);
    assert_true(shard_writer_publish(writer, NULL));
    shard_writer_close(writer);
    assert_files(folder, ".train_000003.bin.t .train_00003.bin.tmp .val_000005.bin.tmp train.bin train_000000.bin "
                         "train_000001.bin xtrain_000009.bin ");
    free(folder);
}

static void test_writer_needs_its_folder(void **state) {
    (void)state;
    Error error = {""};
    ShardWriter *writer = shard_writer_open(test_path("no_such_folder"), "val", SHARD_LLMC, 3);
    assert_false(shard_writer_append(writer, (const uint16_t[]){1}, 1, &error));
    assert_mentions(&error, "no_such_folder/.val_000000.bin.tmp: No such file");
    shard_writer_close(writer);
    writer = shard_writer_open(test_path("no_such_folder"), "val", SHARD_LLMC, 3);
    assert_true(shard_writer_finish(writer, &error));
    assert_false(shard_writer_publish(writer, &error));
    assert_mentions(&error, "cannot list");
    shard_writer_close(writer);
    shard_writer_close(NULL);
}

/* ---- the program ---- */

static void test_one_document(void **state) {
    (void)state;
    char *text = make_text(2345678); /* longer than two of the program's reads */
    test_write_file(test_path("one.txt"), text, 2345678);
    assert_run(test_run("'%s' --tokenizer=bytes --out='%s' '%s'", program, test_path("new/one"), test_path("one.txt")),
               0, "1 document, 2345678 bytes");
    assert_files(test_path("new/one"), "tokens.json train_000000.bin val_000000.bin ");
    assert_shard(test_path("new/one/train_000000.bin"), text, 2111110); /* 0.9 of it, rounded down */
    assert_shard(test_path("new/one/val_000000.bin"), text + 2111110, 234568);
    cJSON *json = read_json(test_path("new/one/tokens.json"));
    assert_text(json, "tokenizer", "bytes");
    assert_number(json, "vocab_size", 256);
    assert_number(json, "documents", 1);
    assert_number(json, "train_tokens", 2111110);
    assert_number(json, "val_tokens", 234568);
    assert_text(json, "created_by", "prepare_data " MARS_VERSION);
    const cJSON *source = cJSON_GetObjectItemCaseSensitive(json, "source");
    assert_int_equal(cJSON_GetArraySize(source), 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetArrayItem(source, 0)), test_path("one.txt"));
    assert_text(json, "format", "llmc");
    assert_text(json, "document_token", "none");
    assert_text(json, "val_from", "end");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(json, "files");
    assert_int_equal(cJSON_GetArraySize(files), 2);
    assert_number(files, "train_000000.bin", 1024 + 2 * 2111110);
    assert_number(files, "val_000000.bin", 1024 + 2 * 234568);
    assert_int_equal(cJSON_GetArraySize(json), 11);
    cJSON_Delete(json);
    free(text);
}

/* Three documents and validation that begins inside the second; shards that end inside documents. */
static void test_documents_are_joined(void **state) {
    (void)state;
    test_write_text(test_path("a \"b\" \xc3\xa9.txt"), "0123456789");
    test_write_text(test_path("b.txt"), "abcdefghijklmnop");
    test_write_text(test_path("c.txt"), "ABCD");
    assert_run(test_run("'%s' '%s' --shard_tokens 7 --out '%s' --val_fraction 0.5 '%s' --tokenizer bytes '%s'", program,
                        test_path("a \"b\" \xc3\xa9.txt"), test_path("joined"), test_path("b.txt"), test_path("c.txt")),
               0, "train           15 tokens in 3 files");
    assert_files(test_path("joined"), "tokens.json train_000000.bin train_000001.bin train_000002.bin val_000000.bin "
                                      "val_000001.bin val_000002.bin ");
    assert_shard(test_path("joined/train_000000.bin"), "0123456", 7);
    assert_shard(test_path("joined/train_000001.bin"), "789abcd", 7);
    assert_shard(test_path("joined/train_000002.bin"), "e", 1);
    assert_shard(test_path("joined/val_000000.bin"), "fghijkl", 7);
    assert_shard(test_path("joined/val_000001.bin"), "mnopABC", 7);
    assert_shard(test_path("joined/val_000002.bin"), "D", 1);
    cJSON *json = read_json(test_path("joined/tokens.json"));
    assert_number(json, "documents", 3);
    assert_number(json, "train_tokens", 15);
    assert_number(json, "val_tokens", 15);
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "source"), 0);
    assert_string_equal(cJSON_GetStringValue(first), test_path("a \"b\" \xc3\xa9.txt"));
    cJSON_Delete(json);

    ShardSet *set;
    int32_t tokens[15];
    assert_true(shards_open(&set, test_path("joined/train_*.bin"), NULL)); /* what the trainer would read */
    assert_int_equal(shards_token_count(set), 15);
    assert_true(shards_read(set, 0, 15, 256, tokens, NULL));
    for (int i = 0; i < 15; i++) assert_int_equal(tokens[i], "0123456789abcde"[i]);
    shards_close(set);
}

static void test_no_validation(void **state) {
    (void)state;
    test_write_text(test_path("all.txt"), "x");
    assert_run(test_run("'%s' --tokenizer=bytes --val_fraction=0 --out='%s' '%s'", program, test_path("all"),
                        test_path("all.txt")),
               0, "train            1 tokens in 1 file ");
    assert_files(test_path("all"), "tokens.json train_000000.bin ");
    assert_shard(test_path("all/train_000000.bin"), "x", 1);
    cJSON *json = read_json(test_path("all/tokens.json"));
    assert_number(json, "val_tokens", 0);
    cJSON_Delete(json);
}

/* Nothing is written anywhere but into --out. */
static void test_folders_and_dashes(void **state) {
    (void)state;
    char *folder = make_folder("here");
    test_write_text(test_path("here/-x.txt"), "0123456789");
    assert_run(test_run("cd '%s' && '%s' --tokenizer=bytes --out=. -- -x.txt", folder, program), 0, "");
    assert_files(folder, "-x.txt tokens.json train_000000.bin val_000000.bin ");
    assert_run(test_run("cd '%s' && mkdir sub && '%s' --tokenizer=bytes --out=sub/a/ -- -x.txt", folder, program), 0,
               "");
    assert_files(folder, "-x.txt sub tokens.json train_000000.bin val_000000.bin ");
    assert_files(test_path("here/sub/a"), "tokens.json train_000000.bin val_000000.bin ");
    free(folder);
}

static void test_a_second_run_replaces_the_first(void **state) {
    (void)state;
    char *folder = checked_strdup(test_path("again"));
    const char *files[] = {"tokens.json", "train_000000.bin", "train_000001.bin", "val_000000.bin"};
    char *before[4], *text = make_text(1000);
    size_t sizes[4];
    test_write_file(test_path("again.txt"), text, 1000);
    const char *command = "'%s' --tokenizer=bytes --out='%s' --shard_tokens=%d --val_fraction=%s '%s'";
    for (int run = 0; run < 2; run++) {
        assert_run(test_run(command, program, folder, 500, "0.1", test_path("again.txt")), 0, "");
        assert_files(folder, "tokens.json train_000000.bin train_000001.bin val_000000.bin ");
        for (int i = 0; i < 4; i++) {
            size_t bytes;
            char *data = test_read_file(test_path("again/%s", files[i]), &bytes);
            if (run == 0) {
                before[i] = data;
                sizes[i] = bytes;
                continue;
            }
            assert_int_equal(bytes, sizes[i]);
            assert_memory_equal(data, before[i], bytes);
            free(data);
            free(before[i]);
        }
    }
    test_write_text(test_path("again/.val_000099.bin.tmp"), "of a run that was killed");
    assert_run(test_run(command, program, folder, 900, "0.1", test_path("again.txt")), 0, "");
    assert_files(folder, "tokens.json train_000000.bin val_000000.bin ");
    assert_shard(test_path("again/train_000000.bin"), text, 900);
    assert_run(test_run(command, program, folder, 1000, "0", test_path("again.txt")), 0, "");
    assert_files(folder, "tokens.json train_000000.bin ");
    assert_shard(test_path("again/train_000000.bin"), text, 1000);
    free(text);
    free(folder);
}

/* The folder of a run over ten bytes, as test_failures_leave_the_old_files finds it before and after. */
static void assert_old_files(const char *folder) {
    assert_files(folder, "tokens.json train_000000.bin val_000000.bin ");
    assert_shard(test_path("old/train_000000.bin"), "012345678", 9);
    assert_shard(test_path("old/val_000000.bin"), "9", 1);
    cJSON *json = read_json(test_path("old/tokens.json"));
    assert_number(json, "train_tokens", 9);
    cJSON_Delete(json);
}

/* The disk is full in the middle of a file, in what is written on closing it, in a later file, in tokens.json; or an
 * input cannot be read to its end. ulimit -f counts blocks of 512 bytes. */
static void test_failures_leave_the_old_files(void **state) {
    (void)state;
    char *text = make_text(200000), *folder = checked_strdup(test_path("old"));
    test_write_text(test_path("tiny.txt"), "0123456789");
    test_write_file(test_path("large.txt"), text, 200000);
    assert_run(test_run("'%s' --tokenizer=bytes --out='%s' '%s'", program, folder, test_path("tiny.txt")), 0, "");
    const struct {
        int blocks;
        const char *arguments, *message;
    } cases[] = {
        {100, "large.txt", "old/.train_000000.bin.tmp: File too large"},
        {1, "tiny.txt", "old/.train_000000.bin.tmp: File too large"},
        {100, "--shard_tokens=80000 --val_fraction=0.99 large.txt", "old/.val_000000.bin.tmp: File too large"},
        {3, "--shard_tokens=9 $(for i in $(seq 300); do echo tiny.txt; done)", "tokens.json.tmp: File too large"},
        {9999, "tiny.txt /sys/kernel/mm/transparent_hugepage/enabled", "the input changed while it was read: it had"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        if (strstr(cases[i].arguments, "/sys/") && access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK))
            continue;
        assert_run(test_run("cd '%s'; ulimit -f %d; '%s' --tokenizer=bytes --out=old %s", test_folder(),
                            cases[i].blocks, program, cases[i].arguments),
                   1, cases[i].message);
        assert_old_files(folder);
    }
    free(text);
    free(folder);
}

/* ---- files of others in the output folder ---- */

/* Runs over ten bytes into the folder "others", which holds the files named (NULL ends them), each with `content`. */
static CommandResult *run_into_others(const char *const *names, const char *content, const char *options) {
    assert_run(test_run("rm -rf '%s'", test_path("others")), 0, "");
    free(make_folder("others"));
    for (; *names; names++) test_write_text(test_path("others/%s", *names), content);
    test_write_text(test_path("ten.txt"), "0123456789");
    return test_run("'%s' --tokenizer=bytes --out='%s' %s '%s'", program, test_path("others"), options,
                    test_path("ten.txt"));
}

/* Whatever patterns for token files match, and tokens.json. All of it stays, and nothing is added. */
static void test_files_of_others_are_in_the_way(void **state) {
    (void)state;
    const char *names[] = {"train.bin", "val.bin", "train_000000.bin", "val_000099.bin", "train_12.bin", "tokens.json"};
    const char *options[] = {"", "--format=nanogpt", "--val_fraction=0"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(options); k++) {
            char *message = format_string("others/%s is in the way: ", names[i]);
            const char *one[] = {names[i], NULL};
            const CommandResult *result = run_into_others(one, "{\"tokenizer\": \"gpt2\"}", options[k]);
            assert_run(result, 1, message);
            assert_run(result, 1, "; move it away, or give another folder with --out");
            char *list = format_string("%s ", names[i]),
                 *content = test_read_file(test_path("others/%s", names[i]), NULL);
            assert_files(test_path("others"), list);
            assert_string_equal(content, "{\"tokenizer\": \"gpt2\"}");
            free(message), free(list), free(content);
        }
    const char *several[] = {"val.bin", "train.bin", "train_1.bin", NULL};
    assert_run(run_into_others(several, "x", ""), 1, "others/train.bin is in the way, and so are 2 more: there is no");
    const char *harmless[] = {"train.txt", "xtrain.bin", "hellaswag.bin", "vocab.bpe", NULL};
    assert_run(run_into_others(harmless, "x", ""), 0, "");
    assert_files(test_path("others"),
                 "hellaswag.bin tokens.json train.txt train_000000.bin val_000000.bin vocab.bpe xtrain.bin ");
}

/* A list makes a file own only with its size, and only with a name that token files have. */
static void test_what_a_list_makes_own(void **state) {
    (void)state;
    const char *none[] = {NULL};
    const char *again = "'%s' --tokenizer=bytes --out='%s' '%s'";
    assert_run(run_into_others(none, "", ""), 0, "");
    test_write_text(test_path("others/train_000000.bin"), "somebody's");
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 1,
               "it has 10 bytes, and tokens.json there lists it with 1042");
    assert_int_equal(unlink(test_path("others/train_000000.bin")), 0);
    free(make_folder("others/train_000000.bin"));
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 1, "it is no regular file");
    assert_int_equal(rmdir(test_path("others/train_000000.bin")), 0);
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 0, "");
    test_write_text(test_path("others/train_000001.bin"), "somebody's");
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 1,
               "others/train_000001.bin is in the way: tokens.json there does not list it");

    test_write_text(test_path("precious"), "12345");
    assert_run(run_into_others(none, "", ""), 0, "");
    test_write_text(test_path("others/notes"), "12345");
    test_write_text(test_path("others/tokens.json"),
                    "{\"created_by\": \"prepare_data 9\", \"files\": {\"../precious\": 5, \"notes\": 5, "
                    "\"train_000000.bin\": 1042, \"val_000000.bin\": 1026}}");
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 0, "");
    assert_int_equal(access(test_path("precious"), F_OK), 0);
    assert_files(test_path("others"), "notes tokens.json train_000000.bin val_000000.bin ");
}

/* As version 0.1.0 wrote it: the files of its format are own if they hold the tokens that it records. */
static void test_a_description_without_a_list(void **state) {
    (void)state;
    const char *none[] = {NULL}, *formats[] = {"llmc", "nanogpt"};
    for (int i = 0; i < 2; i++) {
        char *options = format_string("--shard_tokens=%d --val_fraction=0.2", 3);
        const char *format = i == 0 ? options : "--format=nanogpt --val_fraction=0.2";
        const char *description =
            "{\"tokenizer\": \"bytes\", \"format\": \"%s\", \"train_tokens\": %d, \"val_tokens\": "
            "2, \"created_by\": \"prepare_data 0.1.0\"}";
        char *right = format_string(description, formats[i], 8), *wrong = format_string(description, formats[i], 7);
        assert_run(run_into_others(none, "", format), 0, "train            8 tokens in");
        test_write_text(test_path("others/tokens.json"), wrong);
        const char *again = "'%s' --tokenizer=bytes --out='%s' '%s'";
        assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 1,
                   "tokens.json there lists no files, and does not record as many tokens as these hold");
        test_write_text(test_path("others/tokens.json"), right);
        assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 0, "");
        assert_files(test_path("others"), "tokens.json train_000000.bin val_000000.bin ");
        free(right), free(wrong), free(options);
    }
}

/* Between the old files and the new ones: one of three is new, one is still old, and one is gone already. */
static void test_a_stopped_replacement_goes_on(void **state) {
    (void)state;
    const char *none[] = {NULL};
    assert_run(run_into_others(none, "", "--shard_tokens=5 --val_fraction=0.1"), 0, "");
    assert_files(test_path("others"), "tokens.json train_000000.bin train_000001.bin val_000000.bin ");
    assert_int_equal(rename(test_path("others/tokens.json"), test_path("others/.tokens.json.old")), 0);
    test_write_text(test_path("others/train_000000.bin"), "new");
    assert_int_equal(unlink(test_path("others/val_000000.bin")), 0);
    const char *again = "'%s' --tokenizer=bytes --out='%s' '%s'";
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 1,
               "train_000000.bin is in the way");
    test_write_text(test_path("others/.tokens.json.tmp"),
                    "{\"created_by\": \"prepare_data 9\", \"files\": {\"train_000000.bin\": 3}}");
    assert_run(test_run(again, program, test_path("others"), test_path("ten.txt")), 0, "");
    assert_files(test_path("others"), "tokens.json train_000000.bin val_000000.bin ");
}

/* Killed before each of its renames: what is there then is old or new as a whole or not described, and the next run
 * goes on from it. */
static void test_killed_while_it_replaces(void **state) {
    (void)state;
    const char *none[] = {NULL};
    char *library = format_string("%s/fault_injection.so", test_folder());
    assert_run(test_run("${CC:-cc} -std=gnu17 -O1 -shared -fPIC -o '%s' dev/test/fault_injection.c -ldl", library), 0,
               "");
    int kills = 0, status;
    do {
        assert_run(run_into_others(none, "", "--shard_tokens=4"), 0, "train            9 tokens in 3 files");
        status =
            test_run(
                "LD_PRELOAD='%s' FAULT_FOLDER='%s' FAULT_KILL_AT_RENAME=%d ASAN_OPTIONS="
                "\"$ASAN_OPTIONS:verify_asan_link_order=0\" '%s' --tokenizer=bytes --out='%s' --shard_tokens=5 '%s'",
                library, test_folder(), kills + 1, program, test_path("others"), test_path("ten.txt"))
                ->status;
        bool is_described = access(test_path("others/tokens.json"), F_OK) == 0;
        bool has_old = access(test_path("others/train_000002.bin"), F_OK) == 0;
        if (status != 0 && is_described != has_old) fail_msg("tokens.json %d, old files %d", is_described, has_old);
        kills += status != 0;
        assert_run(test_run("'%s' --tokenizer=bytes --out='%s' --shard_tokens=5 '%s'", program, test_path("others"),
                            test_path("ten.txt")),
                   0, "train            9 tokens in 2 files");
        assert_files(test_path("others"), "tokens.json train_000000.bin train_000001.bin val_000000.bin ");
    } while (status != 0);
    assert_int_equal(kills, 5); /* tokens.json away, three files, tokens.json back */
    free(library);
}

/* By its name, by another one, or as standard input. */
static void test_an_input_that_would_be_replaced(void **state) {
    (void)state;
    const char *none[] = {NULL};
    assert_run(run_into_others(none, "", "--format=nanogpt"), 0, "");
    test_write_text(test_path("others/train.bin"), "a text of 18 bytes"); /* tokens would not be taken for text */
    assert_int_equal(symlink("train.bin", test_path("others/link")), 0);
    const char *inputs[] = {"others/train.bin", "others/link", "- <others/train.bin"};
    for (size_t i = 0; i < ARRAY_LENGTH(inputs); i++) {
        assert_run(test_run("cd '%s' && '%s' --tokenizer=bytes --out=others %s", test_folder(), program, inputs[i]), 1,
                   "is an input, and a file in others that new ones replace; give another --out");
        assert_files(test_path("others"), "link tokens.json train.bin val.bin ");
    }
}

/* A vocabulary of the same content may stay, another one may not be replaced, and an own one may. */
static void test_vocabularies_in_the_folder(void **state) {
    (void)state;
    if (!gpt2_has_tokenizer()) skip();
    const char *none[] = {NULL};
    assert_run(run_into_others(none, "", ""), 0, "");
    test_write_text(test_path("others/vocab.bpe"), "of somebody else");
    const char *again = "'%s' --tokenizer=gpt2 --vocab='%s' --out='%s' '%s'";
    assert_run(test_run(again, program, gpt2_folder(), test_path("others"), test_path("ten.txt")), 1,
               "others/vocab.bpe is in the way: it is another vocabulary, and tokens.json there does not list it");
    assert_int_equal(unlink(test_path("others/vocab.bpe")), 0);
    for (int run = 0; run < 2; run++) {
        assert_run(test_run(again, program, gpt2_folder(), test_path("others"), test_path("ten.txt")), 0, "");
        assert_files(test_path("others"), "encoder.json tokens.json train_000000.bin val_000000.bin vocab.bpe ");
    }
    cJSON *json = read_json(test_path("others/tokens.json"));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "files")), 4);
    cJSON_Delete(json);
    /* From the folder itself, where it stays; then no longer needed, which removes it. */
    assert_run(test_run(again, program, test_path("others"), test_path("others"), test_path("ten.txt")), 0, "");
    assert_files(test_path("others"), "encoder.json tokens.json train_000000.bin val_000000.bin vocab.bpe ");
    assert_run(test_run("'%s' --tokenizer=bytes --out='%s' '%s'", program, test_path("others"), test_path("ten.txt")),
               0, "");
    assert_files(test_path("others"), "tokens.json train_000000.bin val_000000.bin ");
}

static void test_one_run_at_a_time(void **state) {
    (void)state;
    char *path = make_folder("locked");
    test_write_text(test_path("ten.txt"), "0123456789");
    int folder = open(path, O_RDONLY);
    assert_int_equal(flock(folder, LOCK_EX), 0);
    assert_run(test_run("'%s' --tokenizer=bytes --out='%s' '%s'", program, path, test_path("ten.txt")), 1,
               "another prepare_data is writing to");
    assert_files(path, "");
    close(folder);
    assert_run(test_run("'%s' --tokenizer=bytes --out='%s' '%s'", program, path, test_path("ten.txt")), 0, "");
    free(path);
}

/* A text of 150 MB in 120 MB of address space, most of which libraries and stacks take. Each further arena of malloc
 * would take 64 MB of it. */
static void test_memory_is_bounded(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* they reserve terabytes */
#endif
    test_write_text(test_path("sparse.txt"), "a");
    assert_int_equal(truncate(test_path("sparse.txt"), 150000000), 0);
    assert_run(test_run("ulimit -v 120000; MALLOC_ARENA_MAX=1 '%s' --tokenizer=bytes --threads=1 --out='%s' '%s'",
                        program, test_path("sparse"), test_path("sparse.txt")),
               0, "135000000 tokens in 2 files");
    assert_run(test_run("rm -r '%s'", test_path("sparse")), 0, "");
}

static void test_help_and_version(void **state) {
    (void)state;
    CommandResult *result = test_run("'%s' --help", program);
    const char *mentioned[] = {"usage: prepare_data",
                               "--tokenizer=",
                               "--out=",
                               "--val_fraction=",
                               "--shard_tokens=",
                               "--version",
                               "the last val_fraction of the whole text"};
    for (size_t i = 0; i < ARRAY_LENGTH(mentioned); i++) assert_run(result, 0, mentioned[i]);
    assert_run(test_run("'%s' --version", program), 0, "prepare_data " MARS_VERSION "\n");
    assert_run(test_run("'%s' --help > /dev/full", program), 1, "cannot write to standard output");
}

static void test_wrong_command_lines(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"ok.txt", "no tokenizer: say --tokenizer=gpt2 or --tokenizer=bytes"},
        {"", "no tokenizer"},
        {"--tokenizer=bytes", "no input"},
        {"--tokenizer=klingon ok.txt", "unknown tokenizer 'klingon'"},
        {"--tokenizer=bytes --color ok.txt", "unknown option '--color'"},
        {"--tokenizer=bytes --outdir=x ok.txt", "unknown option '--outdir=x'"},
        {"--tokenizer=bytes -o x ok.txt", "unknown option '-o'"},
        {"--tokenizer=bytes --help=no ok.txt", "--help takes no value; leave out '=no'"},
        {"ok.txt --tokenizer", "--tokenizer needs a value"},
        {"--tokenizer=bytes ok.txt --out", "--out needs a value"},
        {"--tokenizer=bytes --out= ok.txt", "--out=: expected the name of a folder"},
        {"--tokenizer=bytes --out=~nobody_of_this_name/x ok.txt", "--out is '~nobody_of_this_name/x', and there is no"},
        {"--tokenizer=bytes --out=a --out=b ok.txt", "--out is given twice; leave one out"},
        {"--tokenizer=bytes --field=text --field text ok.txt", "--field is given twice; leave one out"},
        {"--tokenizer=bytes --val_from=end --val_fraction=0 ok.txt", "--val_from has no effect with --val_fraction=0"},
        {"--tokenizer=bytes --val_fraction=0 --split_seed=1 ok.txt",
         "--split_seed has no effect with --val_fraction=0"},
        {"--tokenizer=bytes --val_from=start ok.txt", "--val_from=start: expected one of: end documents first_shard"},
        {"--tokenizer=bytes --val_from= ok.txt", "--val_from=: expected one of: end documents first_shard"},
        {"--tokenizer=bytes --format=llm ok.txt", "--format=llm: expected one of: llmc nanogpt"},
        {"--tokenizer=bytes --document_token=middle ok.txt",
         "--document_token=middle: expected one of: none begin end"},
        {"--tokenizer=bytes --document_token=begin ok.txt", "tokenizer bytes has no token that stands between"},
        {"--tokenizer=bytes --separator= ok.txt", "--separator should be one line, not empty"},
        {"--tokenizer=bytes --separator=x --field=y ok.txt", "give one"},
        {"--tokenizer=bytes --skip_bad_lines ok.txt", "--skip_bad_lines goes with --field"},
        {"--tokenizer=bytes --split_seed=-1 ok.txt", "--split_seed=-1: expected a whole number from 0"},
        {"--tokenizer=bytes --threads=0 ok.txt", "--threads=0: expected a whole number from 1 to 32"},
        {"--tokenizer=bytes --threads=33 ok.txt", "--threads=33: expected"},
        {"--tokenizer=gpt2 --vocab=nowhere ok.txt", "nowhere"},
        {"--tokenizer=bytes --at=1 ok.txt", "--at goes with --inspect"},
        {"--tokenizer=bytes --vocab=x ok.txt", "--vocab is for --tokenizer=gpt2"},
        {"--tokenizer=bytes --split_seed=1 ok.txt", "--split_seed is for documents that are drawn"},
        {"--tokenizer=bytes --format=nanogpt --shard_tokens=5 ok.txt", "--shard_tokens is for --format=llmc"},
        {"--tokenizer=bytes --val_from=first_shard --val_fraction=0.1 ok.txt", "--val_fraction has no effect with"},
        {"--inspect --out=x ok.txt", "--out has no effect with --inspect"},
        {"--inspect=yes ok.txt", "--inspect takes no value"},
        {"--hellaswag --tokenizer=bytes --threads=1 ok.txt", "--threads has no effect with --hellaswag"},
        {"--inspect", "--inspect: name at least one token file"},
        {"--inspect --at=-1 ok.txt", "--at=-1: expected a whole number from 0"},
        {"--tokenizer=bytes --val_fraction=1 ok.txt", "--val_fraction=1: expected a number from 0 to below 1"},
        {"--tokenizer=bytes --val_fraction=-0.1 ok.txt", "--val_fraction=-0.1: expected"},
        {"--tokenizer=bytes --val_fraction=nan ok.txt", "--val_fraction=nan: expected"},
        {"--tokenizer=bytes --val_fraction= ok.txt", "--val_fraction=: expected"},
        {"--tokenizer=bytes --val_fraction=0.1x ok.txt", "--val_fraction=0.1x: expected"},
        {"--tokenizer=bytes --shard_tokens=0 ok.txt", "--shard_tokens=0: expected a whole number from 1 to 2147483647"},
        {"--tokenizer=bytes --shard_tokens=-5 ok.txt", "--shard_tokens=-5: expected"},
        {"--tokenizer=bytes --shard_tokens=1e6 ok.txt", "--shard_tokens=1e6: expected"},
        {"--tokenizer=bytes --shard_tokens= ok.txt", "--shard_tokens=: expected"},
        {"--tokenizer=bytes --shard_tokens=2147483648 ok.txt", "--shard_tokens=2147483648: expected"},
        {"--tokenizer=bytes --shard_tokens=99999999999999999999 ok.txt",
         "--shard_tokens=99999999999999999999: expected"},
    };
    char *folder = make_folder("wrong");
    test_write_text(test_path("wrong/ok.txt"), "0123456789");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        bool needs_out = !strstr(cases[i][0], "--out") && !strstr(cases[i][0], "--inspect");
        const CommandResult *result =
            test_run("cd '%s' && '%s' %s%s", folder, program, needs_out ? "--out=out " : "", cases[i][0]);
        assert_run(result, 2, "prepare_data: error: ");
        assert_run(result, 2, cases[i][1]);
    }
    const char *no_folder = "no output folder: name one with --out=DIR";
    assert_run(test_run("cd '%s' && '%s' --tokenizer=bytes ok.txt", folder, program), 2, no_folder);
    assert_run(test_run("cd '%s' && '%s' --hellaswag --tokenizer=bytes ok.txt", folder, program), 2, no_folder);
    assert_files(folder, "ok.txt ");
    free(folder);
}

static void test_wrong_inputs(void **state) {
    (void)state;
    char *folder = make_folder("inputs");
    test_write_text(test_path("inputs/ok.txt"), "0123456789");
    test_write_text(test_path("inputs/empty.txt"), "");
    test_write_text(test_path("inputs/large.txt"), "");
    assert_int_equal(truncate(test_path("inputs/large.txt"), 1000001), 0);
    free(make_folder("inputs/nothing_here"));
    free(make_folder("inputs/out"));
    const char *const cases[][2] = {
        {"missing.txt", "cannot read missing.txt: No such file"},
        {"ok.txt missing.txt", "cannot read missing.txt: No such file"},
        {"ok.txt empty.txt", "empty.txt is empty"},
        {"nothing_here", "there is no file in nothing_here"},
        {"/dev/null", "there is no text in the input"},
        {"--val_from=documents --val_fraction=1e-9 ok.txt", "none of the 1 documents was drawn for validation"},
        {"--out=nothing_here/../new/sub .", "sub lies within the input folder .; choose another"},
        {"--val_fraction=1e-20 ok.txt", "of 10 bytes leaves nothing to validate on"},
        {"--val_fraction=0.95 ok.txt", "of 10 bytes leaves nothing to train on"},
        {"--shard_tokens=1 large.txt", "1000001 bytes into more than 1000000 files; give at least 2"},
        {"--out=ok.txt ok.txt", "ok.txt is no folder; give one with --out"},
        {"--out=ok.txt/sub ok.txt", "cannot make the folder ok.txt: a file is there"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const CommandResult *result = test_run("cd '%s' && '%s' --tokenizer=bytes %s%s", folder, program,
                                               strstr(cases[i][0], "--out") ? "" : "--out=out ", cases[i][0]);
        assert_run(result, 1, "prepare_data: error: ");
        assert_run(result, 1, cases[i][1]);
        assert_files(folder, "empty.txt large.txt nothing_here ok.txt out ");
        assert_files(test_path("inputs/out"), "");
    }
    free(folder);
}

int main(void) {
    program = test_program("prepare_data");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_tokens),
        cmocka_unit_test(test_tokenizer_by_folder),
        cmocka_unit_test(test_writer_shows_nothing_before_it_is_told),
        cmocka_unit_test(test_writer_removes_only_its_own),
        cmocka_unit_test(test_writer_needs_its_folder),
        cmocka_unit_test(test_one_document),
        cmocka_unit_test(test_documents_are_joined),
        cmocka_unit_test(test_no_validation),
        cmocka_unit_test(test_folders_and_dashes),
        cmocka_unit_test(test_a_second_run_replaces_the_first),
        cmocka_unit_test(test_failures_leave_the_old_files),
        cmocka_unit_test(test_files_of_others_are_in_the_way),
        cmocka_unit_test(test_what_a_list_makes_own),
        cmocka_unit_test(test_a_description_without_a_list),
        cmocka_unit_test(test_a_stopped_replacement_goes_on),
        cmocka_unit_test(test_killed_while_it_replaces),
        cmocka_unit_test(test_an_input_that_would_be_replaced),
        cmocka_unit_test(test_vocabularies_in_the_folder),
        cmocka_unit_test(test_one_run_at_a_time),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_wrong_command_lines),
        cmocka_unit_test(test_wrong_inputs),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(program);
    return failed;
}
