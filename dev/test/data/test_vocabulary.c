/* test_vocabulary.c: GPT-2's vocabulary files: where they are looked for, by which names, and every way in which
 * they may be damaged; llm.c's gpt2_tokenizer.bin. */
#include "dev/test/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/vocabulary.h"
#include "dev/test/data/gpt2_fixture.h"

static int make_vocabulary(void **state) {
    (void)state;
    return gpt2_folder() ? 0 : 1;
}

static char *make_folder(const char *name) {
    char *folder = checked_strdup(test_path("%s", name));
    assert_int_equal(mkdir(folder, 0777), 0);
    return folder;
}

/* `parts`: the file, what was found in it and what was expected (assert_parts()); the remedy is always the same. */
static void assert_refused(const char *folder, const char *parts) {
    Tokenizer *tokenizer = NULL;
    Error error = {""};
    char *all = format_string("%s|bash data/gpt2/download.sh fetches", parts);
    if (tokenizer_open(&tokenizer, "gpt2", folder, &error)) fail_msg("opened; expected '%s'", parts);
    assert_four_parts(error.text, all);
    assert_null(tokenizer);
    free(all);
}

/* Copies a file of the vocabulary with the first `from` replaced by `to`; NULL for `from` cuts it in its middle. */
static void write_changed(const char *folder, const char *name, const char *from, const char *to) {
    size_t bytes;
    char *text = test_read_file(test_path("gpt2/%s", name), &bytes), *at = from ? strstr(text, from) : text + bytes / 2;
    assert_non_null(at);
    char *changed = format_string("%.*s%s%s", (int)(at - text), text, to, from ? at + strlen(from) : "");
    char *path = format_string("%s/%s", folder, name);
    test_write_text(path, changed);
    free(path);
    free(changed);
    free(text);
}

static void test_damaged_encoder(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\"!\": 0", "\"!\": 1", "encoder.json: |'!' and '\"' have the same number, 1|each token must have its own"},
        {"\"!\": 0", "\"!\": 0.5", "encoder.json: |the number of '!' should be| a whole one from 0 to 50256"},
        {"\"!\": 0", "\"!\": \"0\"", "encoder.json: |the number of '!' should be| a whole one"},
        {"\"!\": 0", "\"!\": 50257", "encoder.json: |the number of '!' should be| a whole one"},
        {"\"!\": 0", "\"!\": -1", "encoder.json: |the number of '!' should be| a whole one"},
        {", \"<|endoftext|>\": 50256", "", "encoder.json |50256 tokens and none with the number 50256|has 50257"},
        {"<|endoftext|>", "<|endofdoc|>", "encoder.json: |token 50256| should be <"},
        {"\"!\": 0", "\"!!\": 0", "encoder.json: |tokens 0 and 3228 are both '!!'|each must have its own"},
        {"\"!\": 0", "\"!zzq\": 0", "encoder.json |has no token for the byte 0x21|each byte must have one"},
        {"\"!\": 0", "\"\": 0", "encoder.json: |token 0 is empty|must have a byte"},
        {"\"!\": 0", "\"! \": 0",
         "encoder.json: |the character at byte 1 of '! ' stands for no byte|one of GPT-2's 256"},
        {"\"!\": 0", "\"!\\u0144\": 0", "encoder.json: |the character at byte 1 of|one of GPT-2's 256"},
        {NULL, "", "encoder.json |is no JSON from byte|expected tokens and their numbers"},
        {"{", "[", "encoder.json |is no JSON from byte 4 on|expected tokens and their numbers"},
        {"{", "3", "encoder.json |is no JSON from byte|expected tokens and their numbers"},
    };
    char *folder = make_folder("damaged");
    write_changed(folder, "vocab.bpe", "h", "h");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_changed(folder, "encoder.json", cases[i][0], cases[i][1]);
        assert_refused(folder, cases[i][2]);
    }
    test_write_text(test_path("damaged/encoder.json"), "[1, 2]");
    assert_refused(folder, "encoder.json |is no JSON object|one of tokens and their numbers");
    test_write_text(test_path("damaged/encoder.json"), "");
    assert_refused(folder, "encoder.json |is no JSON from byte 0|expected tokens and their numbers");
    free(folder);
}

static void test_damaged_merges(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\nh e\n", "\nh\n", "vocab.bpe line 4 |is no merge|two tokens with a space between"},
        {"\nh e\n", "\nh \n", "vocab.bpe line 4 |is no merge|two tokens with a space between"},
        {"\nh e\n", "\n e\n", "vocab.bpe line 4 |is no merge|two tokens with a space between"},
        {"\nh e\n", "\n\n", "vocab.bpe line 4 |is no merge|two tokens with a space between"},
        {"\nh e\n", "\nh zzqx\n", "vocab.bpe line 4: |'zzqx' is no token|expected one of"},
        {"\nh e\n", "\nh ing\n", "vocab.bpe line 4: |'ing' is merged before| its own merge"},
        {"\nh e\n", "\nh i\n", "vocab.bpe line 4: |'h i' should make token 258|which is another one in"},
        {"\nh e\n", "\nh e\nx y\n", "vocab.bpe line 5: |'x y' should make token 259|which is another one in"},
        {"\nh e\n", "\nh e e\n", "vocab.bpe line 4: |the character at byte 1 of 'e e'|expected one of GPT-2's 256"},
        {"\nh e\n", "\nh \xff\n", "vocab.bpe line 4: |the character at byte 0 of|expected one of GPT-2's 256"},
        {"\xa0g azed\n", "\xa0g azed\nx y\n", "vocab.bpe line 50002 |is one merge too many|GPT-2 has 50000"},
        {"\n\xc4\xa0g azed\n", "\n", "vocab.bpe |ends after 49999 merges|GPT-2 has 50000"},
        {NULL, "", "vocab.bpe|;|"},
    };
    char *folder = make_folder("damaged_merges");
    write_changed(folder, "encoder.json", "{", "{");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_changed(folder, "vocab.bpe", cases[i][0], cases[i][1]);
        assert_refused(folder, cases[i][2]);
    }
    test_write_text(test_path("damaged_merges/vocab.bpe"), "");
    assert_refused(folder, "vocab.bpe |ends after 0 merges|GPT-2 has 50000");
    assert_int_equal(unlink(test_path("damaged_merges/vocab.bpe")), 0);
    assert_refused(folder, "cannot open |damaged_merges/vocab.bpe|: No such file");
    free(folder);
}

/* Files of another folder's names, none at all, and the folder that the download script fills. */
static void test_where_files_are_looked_for(void **state) {
    (void)state;
    if (!gpt2_has_tokenizer()) {
        Tokenizer *none;
        Error error;
        assert_false(tokenizer_open(&none, "gpt2", gpt2_folder(), &error));
        assert_parts(error.text, "the gpt2 tokenizer needs utf8proc|this program was built without|install");
        return;
    }
    Error error;
    Tokenizer *tokenizer;
    char *folder = make_folder("transformers"), *empty = make_folder("elsewhere"), *before = getcwd(NULL, 0);
    char *encoder_path = format_string("%s/encoder.json", gpt2_folder()),
         *merges_path = format_string("%s/vocab.bpe", gpt2_folder());
    assert_int_equal(symlink(encoder_path, test_path("transformers/vocab.json")), 0);
    assert_int_equal(symlink(merges_path, test_path("transformers/merges.txt")), 0);
    if (!tokenizer_open(&tokenizer, "gpt2", folder, &error)) fail_msg("%s", error.text);
    tokenizer_close(tokenizer);

    assert_int_equal(chdir(empty), 0);
    assert_refused(empty, "elsewhere| holds no vocabulary|expected encoder.json and vocab.bpe");
    assert_refused(NULL, "data/gpt2| holds no vocabulary|expected encoder.json and vocab.bpe");
    test_write_text("tokens.json", "{\"tokenizer\": \"gpt2\"}");
    assert_false(tokenizer_open(&tokenizer, NULL, empty, &error));
    assert_int_equal(mkdir("data", 0777), 0);
    assert_int_equal(symlink(gpt2_folder(), "data/gpt2"), 0);
    if (!tokenizer_open(&tokenizer, "gpt2", NULL, &error)) fail_msg("%s", error.text);
    tokenizer_close(tokenizer);
    if (!tokenizer_open(&tokenizer, NULL, empty, &error)) fail_msg("%s", error.text);
    tokenizer_close(tokenizer);
    assert_refused(empty, "elsewhere| holds no vocabulary|encoder.json and vocab.bpe"); /* that was for tokens.json */
    test_write_text("encoder.json", "{}"); /* what the folder has comes first, whatever it is */
    assert_refused(empty, "encoder.json |has 0 tokens|GPT-2 has 50257");
    assert_false(tokenizer_open(&tokenizer, NULL, empty, &error));
    assert_int_equal(chdir(before), 0);
    free(before);
    free(folder);
    free(empty);
    free(encoder_path);
    free(merges_path);
}

/* ---- gpt2_tokenizer.bin ---- */

static const char *const tokens[] = {"a", "\xc3", " the", "<|endoftext|>"};

/* The file with these tokens; returns its length. */
static size_t bin_file(char *data, uint32_t version, uint32_t end) {
    uint32_t header[256] = {20240328, version, ARRAY_LENGTH(tokens), end};
    size_t at = sizeof header;
    memcpy(data, header, sizeof header);
    for (size_t i = 0; i < ARRAY_LENGTH(tokens); i++) {
        size_t length = strlen(tokens[i]);
        data[at] = (char)length;
        memcpy(data + at + 1, tokens[i], length);
        at += length + 1;
    }
    return at;
}

static void test_bin(void **state) {
    (void)state;
    char data[1100], *folder = make_folder("bin");
    for (uint32_t version = 1; version <= 2; version++) {
        Tokenizer *tokenizer;
        Error error;
        test_write_file(test_path("bin/gpt2_tokenizer.bin"), data, bin_file(data, version, 3));
        if (!tokenizer_open(&tokenizer, "gpt2", folder, &error)) fail_msg("%s", error.text);
        assert_int_equal(tokenizer_vocab_size(tokenizer), 4);
        assert_int_equal(tokenizer_end_of_text(tokenizer), version == 1 ? -1 : 3); /* version 1 means GPT-2's 50256 */
        for (int i = 0; i < 4; i++) {
            size_t bytes;
            const char *text = tokenizer_decode(tokenizer, i, &bytes);
            assert_int_equal(bytes, strlen(tokens[i]));
            assert_memory_equal(text, tokens[i], bytes);
        }
        assert_null(tokenizer_decode(tokenizer, 4, &(size_t){0}));
        assert_false(tokenizer_encodes(tokenizer));
        assert_null(encoder_open(tokenizer));
        tokenizer_close(tokenizer);
    }
    free(folder);
}

static void test_bin_has_no_merges(void **state) {
    (void)state;
    test_skip_without_programs();
    char data[1100], *folder = make_folder("decodes"), *program = test_program("prepare_data");
    test_write_file(test_path("decodes/gpt2_tokenizer.bin"), data, bin_file(data, 2, 3));
    const char *const tasks[] = {"", "--hellaswag"};
    for (size_t i = 0; i < ARRAY_LENGTH(tasks); i++)
        assert_run(test_run("'%s' %s --tokenizer=gpt2 --vocab='%s' --out='%s/out' README.md", program, tasks[i], folder,
                            folder),
                   2, "decodes has no merges, without which the tokenizer gpt2 can only decode");
    free(program);
    free(folder);
}

static void test_damaged_bin(void **state) {
    (void)state;
    static const struct {
        size_t byte, value, cut; /* cut: bytes that are missing at the end */
        const char *message;
    } cases[] = {
        {0, 1, 0, "begins with 20240129 and 2|llm.c's tokenizer file with 20240328 and 1 or 2"},
        {4, 3, 0, "begins with 20240328 and 3|llm.c's tokenizer file with 20240328 and 1 or 2"},
        {4, 0, 0, "begins with 20240328 and 0|llm.c's tokenizer file with 20240328 and 1 or 2"},
        {8, 0, 0, "0 tokens|expected 1 to 65535"},
        {10, 1, 0, "65540 tokens|expected 1 to 65535"},
        {8, 5, 0, "ends in token 4|expected 5 tokens"},
        {8, 3, 0, "the end of a text is token 3|but there are only 3"},
        {12, 4, 0, "the end of a text is token 4|but there are only 4"},
        {1024, 0, 0, "token 0 at byte 1024 is empty|must have a byte"},
        {1024, 200, 0, "ends in token 0|expected 4 tokens"},
        {1028, 3, 0, "ends in token 3|expected 4 tokens"},
        {0, 0xc8, 1, "ends in token 3|expected 4 tokens"},
        {0, 0xc8, 14, "ends in token 3|expected 4 tokens"},
        {0, 0xc8, 24, "has 1023 bytes|its header alone has 1024"},
        {0, 0xc8, 1047, "has 0 bytes|its header alone has 1024"},
    };
    char data[1100], *folder = make_folder("damaged_bin");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        size_t bytes = bin_file(data, 2, 3);
        assert_int_equal(bytes, 1047);
        data[cases[i].byte] = (char)cases[i].value;
        test_write_file(test_path("damaged_bin/gpt2_tokenizer.bin"), data, bytes - cases[i].cut);
        char *parts = format_string("gpt2_tokenizer.bin|%s", cases[i].message);
        assert_refused(folder, parts);
        free(parts);
    }
    size_t bytes = bin_file(data, 2, 3);
    data[bytes] = 1;
    test_write_file(test_path("damaged_bin/gpt2_tokenizer.bin"), data, bytes + 1);
    assert_refused(folder, "gpt2_tokenizer.bin|has 1048 bytes|its 4 tokens end after 1047");
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damaged_encoder),
        cmocka_unit_test(test_damaged_merges),
        cmocka_unit_test(test_where_files_are_looked_for),
        cmocka_unit_test(test_bin),
        cmocka_unit_test(test_bin_has_no_merges),
        cmocka_unit_test(test_damaged_bin),
    };
    return cmocka_run_group_tests(tests, make_vocabulary, NULL);
}
