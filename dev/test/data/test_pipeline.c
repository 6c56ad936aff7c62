/* test_pipeline.c: from documents to token files: cutting, order, threads, both parts, both formats, being stopped, and
 * looking into what was written. prepare_data is run as a program, from the folder in MARS_BIN (default: the repository
 * root). How documents are found in files: test_documents.c. */
#include "dev/test/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/prepare/pipeline.h"
#include "data/shard.h"
#include "data/tokenizer/tokenizer.h"
#include "dev/test/data/gpt2_fixture.h"

static char *program;

/* ---- texts ---- */

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 16;
}

/* Words, numbers, signs, spaces of all kinds, lines, letters of several alphabets, and what is no UTF-8; a 0 after
 * it. */
static char *make_text(size_t bytes, uint32_t seed) {
    static const char *const parts[] = {" the",
                                        " a",
                                        "ing",
                                        "'s",
                                        "'ll",
                                        " 2026",
                                        "7",
                                        "!",
                                        " ...",
                                        "\n",
                                        "\n\n",
                                        "  ",
                                        " ",
                                        "\t",
                                        "\r\n",
                                        "\xc2\xa0",
                                        " \xc3\xa9t\xc3\xa9",
                                        "\xe4\xb8\xad\xe6\x96\x87",
                                        "\xe3\x80\x80",
                                        "\xe3\x80\x82",
                                        "\n\xe3\x81\x82",
                                        " x",
                                        "X",
                                        "\xf0\x9f\x98\x80",
                                        "\xe4z\n\n",
                                        "\xff"};
    char *text = checked_malloc(bytes + 16, "text");
    size_t count = 0;
    while (count < bytes) {
        const char *part = parts[next_random(&seed) % ARRAY_LENGTH(parts)];
        memcpy(text + count, part, strlen(part));
        count += strlen(part);
    }
    text[count] = 0;
    return text;
}

/* GPT-2's tokenizer, between open_gpt2() and close_gpt2(). Its encoder is opened once: that takes megabytes. */
static Tokenizer *gpt2;
static Encoder *encoder;

static TokenBuffer encode(const char *text, size_t bytes) {
    TokenBuffer tokens = {0};
    encoder_encode(encoder, text, bytes, true, &tokens);
    return tokens;
}

static void open_gpt2(void) {
    Error error;
    if (!gpt2_has_tokenizer()) skip();
    if (!tokenizer_open(&gpt2, "gpt2", gpt2_folder(), &error)) fail_msg("%s", error.text);
    encoder = encoder_open(gpt2);
}

static void close_gpt2(void) {
    encoder_close(encoder);
    tokenizer_close(gpt2);
}

/* ---- cutting ---- */

/* At every place that is ever chosen: what both parts give is what the whole gives. */
static void test_cuts(void **state) {
    (void)state;
    open_gpt2();
    int cuts = 0;
    for (uint32_t seed = 1; seed <= 300; seed++) {
        char *text = make_text(60, seed);
        size_t bytes = strlen(text);
        TokenBuffer whole = encode(text, bytes);
        for (size_t end = 1; end <= bytes; end++) {
            size_t cut = pipeline_cut(text, end);
            assert_true(cut < end);
            if (cut == 0) continue;
            cuts++;
            TokenBuffer first = encode(text, cut), second = encode(text + cut, bytes - cut);
            assert_int_equal(first.count + second.count, whole.count);
            assert_memory_equal(first.tokens, whole.tokens, first.count * sizeof(uint16_t));
            assert_memory_equal(second.tokens, whole.tokens + first.count, second.count * sizeof(uint16_t));
            token_buffer_free(&first), token_buffer_free(&second);
        }
        token_buffer_free(&whole);
        free(text);
    }
    assert_true(cuts > 1000);
    assert_int_equal(pipeline_cut("", 0), 0);
    assert_int_equal(pipeline_cut("a", 1), 0);
    close_gpt2();
}

/* ---- the program ---- */

/* The tokens of all files that match, after each other. */
static TokenBuffer read_tokens(const char *pattern) {
    ShardSet *set;
    Error error;
    if (!shards_open(&set, pattern, &error)) fail_msg("%s", error.text);
    size_t count = (size_t)shards_token_count(set);
    int32_t *wide = checked_malloc(count * sizeof *wide, "tokens");
    if (!shards_read(set, 0, (int64_t)count, 65536, wide, &error)) fail_msg("%s", error.text);
    TokenBuffer tokens = {0};
    token_buffer_reserve(&tokens, count);
    for (size_t i = 0; i < count; i++) tokens.tokens[i] = (uint16_t)wide[i];
    tokens.count = count;
    free(wide);
    shards_close(set);
    return tokens;
}

static void append(TokenBuffer *to, const TokenBuffer *tokens) {
    token_buffer_reserve(to, tokens->count);
    if (tokens->count > 0) memcpy(to->tokens + to->count, tokens->tokens, tokens->count * sizeof *tokens->tokens);
    to->count += tokens->count;
}

static void assert_tokens(const char *what, const char *pattern, const TokenBuffer *expected) {
    TokenBuffer found = read_tokens(pattern);
    if (found.count != expected->count) fail_msg("%s: %zu tokens, not %zu", what, found.count, expected->count);
    for (size_t i = 0; i < found.count; i++)
        if (found.tokens[i] != expected->tokens[i])
            fail_msg("%s: token %zu is %d, not %d", what, i, found.tokens[i], expected->tokens[i]);
    token_buffer_free(&found);
}

/* Documents of many lengths, some longer than what is encoded at a time, as JSON Lines; with what they should give. */
enum { DOCUMENTS = 60 };

static char *document(int i) {
    if (i % 7 == 3) return checked_strdup("");
    return make_text(i == 20 ? 2500000 : i == 40 ? 1200000 : (size_t)(i * i * 10 + 1), (uint32_t)i + 1000);
}

static void write_json_text(FILE *file, const char *text) {
    for (; *text; text++) {
        if (*text == '\n' || *text == '\r' || *text == '\t')
            fprintf(file, "\\u%04x", *text);
        else
            fputc(*text, file);
    }
}

static void write_documents(const char *path) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < DOCUMENTS; i++) {
        char *text = document(i);
        fprintf(file, "{\"id\": %d, \"text\": \"", i);
        write_json_text(file, text);
        fprintf(file, "\"}\n");
        free(text);
    }
    fclose(file);
}

static TokenBuffer tokens_of_documents(bool at_end) {
    uint16_t separator = (uint16_t)tokenizer_end_of_text(gpt2);
    TokenBuffer all = {0}, one = {&separator, 1, 1};
    for (int i = 0; i < DOCUMENTS; i++) {
        char *text = document(i);
        TokenBuffer tokens = encode(text, strlen(text));
        if (!at_end) append(&all, &one);
        append(&all, &tokens);
        if (at_end) append(&all, &one);
        token_buffer_free(&tokens);
        free(text);
    }
    return all;
}

/* The same, however many threads there are. */
static void test_threads_and_formats(void **state) {
    (void)state;
    open_gpt2();
    TokenBuffer begun = tokens_of_documents(false), ended = tokens_of_documents(true);
    write_documents(test_path("documents.jsonl"));
    for (int threads = 1; threads <= 5; threads += 2) {
        assert_run(test_run("'%s' --tokenizer=gpt2 --vocab='%s' --field=text --val_fraction=0 --shard_tokens=1000003 "
                            "--threads=%d --out='%s' '%s'",
                            program, gpt2_folder(), threads, test_path("llmc"), test_path("documents.jsonl")),
                   0, "60 documents");
        assert_tokens("llmc", test_path("llmc/train_*.bin"), &begun);
    }
    assert_run(
        test_run("'%s' --tokenizer=gpt2 --vocab='%s' --field=text --val_fraction=0 --format=nanogpt --out='%s' - <'%s'",
                 program, gpt2_folder(), test_path("nano"), test_path("documents.jsonl")),
        0, "60 documents");
    assert_tokens("nanogpt", test_path("nano/train.bin"), &ended);
    assert_run(test_run("cd '%s' && ls -A nano llmc | tr '\\n' ' '", test_folder()), 0,
               "nano: encoder.json tokens.json train.bin vocab.bpe");
    /* The other format in the same folder replaces the first, and says so in tokens.json. */
    assert_run(test_run("'%s' --tokenizer=gpt2 --vocab='%s' --field=text --val_from=first_shard --shard_tokens=100000 "
                        "--document_token=end --out='%s' '%s'",
                        program, gpt2_folder(), test_path("nano"), test_path("documents.jsonl")),
               0, "val         100000 tokens in 1 file");
    TokenBuffer first = {ended.tokens, 100000, 0}, rest = {ended.tokens + 100000, ended.count - 100000, 0};
    assert_tokens("the first shard", test_path("nano/val_*.bin"), &first);
    assert_tokens("the other shards", test_path("nano/train_*.bin"), &rest);
    assert_run(test_run("ls '%s'", test_path("nano/train.bin")), 2, "No such file");
    token_buffer_free(&begun), token_buffer_free(&ended);
    close_gpt2();
}

/* What has no place to be cut, as the first text of its item, with and without empty documents before it. */
static void test_a_document_in_one_piece(void **state) {
    (void)state;
    enum { BYTES = 2500000 };
    char *text = checked_malloc(BYTES, "text");
    memset(text, 'a', BYTES);
    text[0] = 'b', text[BYTES - 1] = 'c';
    for (int empty = 0; empty < 3; empty++) {
        FILE *file = fopen(test_path("piece.jsonl"), "wb");
        for (int i = 0; i < empty; i++) fputs("{\"text\":\"\"}\n", file);
        fprintf(file, "{\"text\":\"%.*s\"}\n{\"text\":\"d\"}\n", BYTES, text);
        fclose(file);
        assert_run(test_run("'%s' --tokenizer=bytes --field=text --val_fraction=0 --out='%s' '%s'", program,
                            test_path("piece"), test_path("piece.jsonl")),
                   0, "2500001 tokens");
        TokenBuffer found = read_tokens(test_path("piece/train_*.bin"));
        for (size_t i = 0; i < BYTES; i++) assert_int_equal(found.tokens[i], text[i]);
        assert_int_equal(found.tokens[BYTES], 'd');
        token_buffer_free(&found);
    }
    free(text);
}

/* Every document is in one of the parts, whole and in order; how many are drawn is what is asked for. */
static void test_documents_are_drawn(void **state) {
    (void)state;
    FILE *file = fopen(test_path("lines.jsonl"), "wb");
    for (int i = 0; i < 5000; i++) fprintf(file, "{\"text\": \"%04d;\"}\n", i);
    fclose(file);
    char *before = NULL;
    for (int threads = 1; threads <= 4; threads += 3) {
        assert_run(
            test_run("'%s' --tokenizer=bytes --field=text --val_fraction=0.2 --split_seed=%d --threads=%d --out='%s' "
                     "'%s'",
                     program, 7, threads, test_path("drawn"), test_path("lines.jsonl")),
            0, "5000 documents");
        TokenBuffer train = read_tokens(test_path("drawn/train_*.bin")),
                    val = read_tokens(test_path("drawn/val_*.bin"));
        assert_int_equal(train.count + val.count, 25000);
        assert_in_range(val.count / 5, 900, 1100);
        bool seen[5000] = {false};
        const TokenBuffer *parts[] = {&train, &val};
        for (int p = 0; p < 2; p++)
            for (size_t i = 0, last = 0; i < parts[p]->count; i += 5) {
                size_t number = 0;
                for (size_t k = 0; k < 4; k++) number = 10 * number + (size_t)(parts[p]->tokens[i + k] - '0');
                assert_true(number < 5000 && !seen[number] && (i == 0 || number > last));
                seen[number] = true;
                last = number;
            }
        char *now = test_read_file(test_path("drawn/val_000000.bin"), NULL);
        if (before) assert_memory_equal(now, before, 1024);
        free(before);
        before = now;
        token_buffer_free(&train), token_buffer_free(&val);
    }
    free(before);
    assert_run(test_run("'%s' --tokenizer=bytes --field=text --val_fraction=0.2 --split_seed=8 --out='%s' '%s'",
                        program, test_path("other"), test_path("lines.jsonl")),
               0, "");
    assert_run(test_run("cmp -s '%s' '%s'", test_path("drawn/val_000000.bin"), test_path("other/val_000000.bin")), 1,
               "");
}

/* The end of a text begins with a whole character. */
static void test_end_of_text(void **state) {
    (void)state;
    open_gpt2();
    test_write_text(test_path("end.txt"), "abcd\xe2\x82\xac\xe2\x82\xac");
    assert_run(test_run("'%s' --tokenizer=gpt2 --vocab='%s' --document_token=none --val_fraction=0.5 --out='%s' '%s'",
                        program, gpt2_folder(), test_path("end"), test_path("end.txt")),
               0, "1 document, 10 bytes");
    TokenBuffer train = encode("abcd\xe2\x82\xac", 7), val = encode("\xe2\x82\xac", 3);
    assert_tokens("train", test_path("end/train_*.bin"), &train);
    assert_tokens("val", test_path("end/val_*.bin"), &val);
    token_buffer_free(&train), token_buffer_free(&val);
    close_gpt2();
}

static void test_bad_lines(void **state) {
    (void)state;
    test_write_text(test_path("bad.jsonl"), "{\"text\":\"a\"}\n{\"text\":7}\n{\"text\":\"b\"}\n");
    const char *command = "'%s' --tokenizer=bytes --field=text --val_fraction=0 %s --out='%s' '%s'";
    assert_run(test_run(command, program, "", test_path("bad"), test_path("bad.jsonl")), 1,
               "bad.jsonl: line 2: \"text\" is not a string");
    assert_run(test_run("ls -A '%s' | wc -l", test_path("bad")), 0, "0");
    assert_run(test_run(command, program, "--skip_bad_lines", test_path("bad"), test_path("bad.jsonl")), 0,
               "1 bad lines were passed over, the first of them ");
    test_write_text(test_path("other.jsonl"), "{\"content\":\"a\"}\n{\"content\":\"b\"}\n");
    assert_run(test_run(command, program, "--skip_bad_lines", test_path("bad"), test_path("other.jsonl")), 1,
               "all 2 lines are bad, the first of them ");
    test_write_text(test_path("none.jsonl"), "\n");
    assert_run(test_run(command, program, "", test_path("bad"), test_path("none.jsonl")), 1,
               "there is no document in the input");
}

/* Killed at any time: nothing shows that looks whole, and the next run is as if there had been none. */
static void test_stopped_and_started_again(void **state) {
    (void)state;
    char *folder = checked_strdup(test_path("stopped"));
    for (int signal = 15; signal >= 9; signal -= 6) {
        assert_run(test_run("cd '%s' && rm -f endless && mkfifo endless && { yes 'some text' >endless & } && "
                            "{ exec '%s' --tokenizer=bytes --separator=x --val_fraction=0 --shard_tokens=100000 "
                            "--out=stopped endless 2>/dev/null & } && reader=$! && "
                            "until [ -e stopped/.train_000001.bin.tmp ]; do sleep 0.02; done && kill -%d $reader && "
                            "{ wait; ls stopped/*.bin stopped/tokens.json 2>/dev/null | wc -l; }",
                            test_folder(), program, signal),
                   0, "0");
        if (signal == 15) assert_run(test_run("ls -A '%s' | wc -l", folder), 0, "0");
    }
    /* Told to stop while it waits for text that does not come. */
    assert_run(test_run("cd '%s' && mkfifo silent && { { : >connected; exec sleep 60; } >silent & writer=$!; } && "
                        "{ exec '%s' --tokenizer=bytes --out=stopped silent & } && reader=$! && "
                        "until [ -e connected ]; do sleep 0.02; done && "
                        "kill -TERM $reader && { wait $reader; status=$?; kill $writer; exit $status; }",
                        test_folder(), program),
               1, "stopped by a signal while waiting for silent");
    test_write_text(test_path("text.txt"), "0123456789");
    assert_run(
        test_run("'%s' --tokenizer=bytes --val_fraction=0 --out='%s' '%s'", program, folder, test_path("text.txt")), 0,
        "train           10 tokens in 1 file");
    assert_run(test_run("ls -A '%s' | tr '\\n' ' '", folder), 0, "tokens.json train_000000.bin ");
    free(folder);
}

static void test_inspect(void **state) {
    (void)state;
    test_write_text(test_path("three.jsonl"),
                    "{\"text\":\"one two\"}\n{\"text\":\"\"}\n{\"text\":\"three four five six\"}\n");
    if (!gpt2_has_tokenizer()) skip();
    static const char *const where[] = {"begin", "end"};
    for (int i = 0; i < 2; i++) {
        assert_run(test_run("'%s' --tokenizer=gpt2 --vocab='%s' --field=text --val_fraction=0 --document_token=%s "
                            "--shard_tokens=5 --out='%s' '%s'",
                            program, gpt2_folder(), where[i], test_path("three"), test_path("three.jsonl")),
                   0, "9 tokens in 2 files");
        CommandResult *result = test_run("'%s' --inspect --at=%d '%s' '%s'", program, 1 - i,
                                         test_path("three/train_000000.bin"), test_path("three/train_000001.bin"));
        assert_run(result, 0, "             9 tokens in all, each below 50257 (gpt2)");
        assert_run(result, 0,
                   i == 0 ? "3 documents, token 50256 at the beginning of each"
                          : "3 documents, token 50256 at the end of each");
        assert_run(result, 0, "least 0, median 2, mean 2.0, most 4");
        assert_run(result, 0, "[[one]] two<|endoftext|>");
    }
    /* By a pattern, and without the beginning: what is in the middle is neither. */
    CommandResult *result = test_run("'%s' --inspect '%s'", program, test_path("three/train_*.bin"));
    assert_run(result, 0, "             9 tokens in all");
    assert_run(result, 0, "             4 tokens  llm.c    ");
    result = test_run("'%s' --inspect --vocab='%s' '%s'", program, gpt2_folder(), test_path("three/train_000000.bin"));
    assert_run(result, 0, "2 documents, token 50256 between them, and one that is cut off");
    const char *file = test_path("three/train_000000.bin");
    assert_run(test_run("'%s' --inspect --at=5 '%s'", program, file), 1, "lies after the last of the 5 tokens");
    assert_run(test_run("'%s' --inspect --tokenizer=bytes '%s'", program, file), 1, "vocab_size is 256");
    assert_run(test_run("truncate -s -2 '%s' && '%s' --inspect '%s'", file, program, file), 1, "cut off");
    assert_run(test_run("'%s' --inspect --tokenizer=bytes '%s'", program, test_path("missing.bin")), 1, "missing.bin");
}

int main(void) {
    program = test_program("prepare_data");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_threads_and_formats),
        cmocka_unit_test(test_a_document_in_one_piece),
        cmocka_unit_test(test_documents_are_drawn),
        cmocka_unit_test(test_end_of_text),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_stopped_and_started_again),
        cmocka_unit_test(test_inspect),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(program);
    return failed;
}
