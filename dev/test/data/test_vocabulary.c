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

static void assert_refused(const char *folder, const char *message) {
    Tokenizer *tokenizer = NULL;
    Error error = {""};
    if (tokenizer_open(&tokenizer, "gpt2", folder, &error)) fail_msg("opened; expected '%s'", message);
    if (!strstr(error.text, message)) fail_msg("'%s' should mention '%s'", error.text, message);
    assert_null(tokenizer);
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
        {"\"!\": 0", "\"!\": 1", "encoder.json: '!' and '\"' have the same number, 1"},
        {"\"!\": 0", "\"!\": 0.5", "encoder.json: the number of '!' should be a whole one from 0 to 50256"},
        {"\"!\": 0", "\"!\": \"0\"", "the number of '!' should be"},
        {"\"!\": 0", "\"!\": 50257", "the number of '!' should be"},
        {"\"!\": 0", "\"!\": -1", "the number of '!' should be"},
        {", \"<|endoftext|>\": 50256", "", "50256 tokens and none with the number 50256; GPT-2 has 50257"},
        {"<|endoftext|>", "<|endofdoc|>", "encoder.json: token 50256 should be <|endoftext|>"},
        {"\"!\": 0", "\"!!\": 0", "encoder.json: tokens 0 and 3228 are both '!!'"},
        {"\"!\": 0", "\"!zzq\": 0", "encoder.json has no token for the byte 0x21"},
        {"\"!\": 0", "\"\": 0", "encoder.json: token 0 is empty"},
        {"\"!\": 0", "\"! \": 0", "encoder.json: the character at byte 1 of '! ' stands for no byte"},
        {"\"!\": 0", "\"!\\u0144\": 0", "encoder.json: the character at byte 1 of"},
        {NULL, "", "encoder.json is no JSON from byte"},
        {"{", "[", "encoder.json is no JSON from byte 4 on: is the file whole?"},
        {"{", "3", "encoder.json is no JSON from byte"},
    };
    char *folder = make_folder("damaged");
    write_changed(folder, "vocab.bpe", "h", "h");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_changed(folder, "encoder.json", cases[i][0], cases[i][1]);
        assert_refused(folder, cases[i][2]);
    }
    test_write_text(test_path("damaged/encoder.json"), "[1, 2]");
    assert_refused(folder, "encoder.json should be a JSON object of tokens and their numbers");
    test_write_text(test_path("damaged/encoder.json"), "");
    assert_refused(folder, "encoder.json is no JSON from byte 0");
    free(folder);
}

static void test_damaged_merges(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\nh e\n", "\nh\n", "vocab.bpe line 4 should be two tokens with a space between"},
        {"\nh e\n", "\nh \n", "vocab.bpe line 4 should be two tokens with a space between"},
        {"\nh e\n", "\n e\n", "vocab.bpe line 4 should be two tokens with a space between"},
        {"\nh e\n", "\n\n", "vocab.bpe line 4 should be two tokens with a space between"},
        {"\nh e\n", "\nh zzqx\n", "vocab.bpe line 4: 'zzqx' is no token of"},
        {"\nh e\n", "\nh ing\n", "vocab.bpe line 4: 'ing' is merged before its own merge"},
        {"\nh e\n", "\nh i\n", "vocab.bpe line 4: 'h i' should make token 258, which is another one in"},
        {"\nh e\n", "\nh e\nx y\n", "vocab.bpe line 5: 'x y' should make token 259"},
        {"\nh e\n", "\nh e e\n", "vocab.bpe line 4: the character at byte 1 of 'e e' stands for no byte"},
        {"\nh e\n", "\nh \xff\n", "vocab.bpe line 4: the character at byte 0 of"},
        {"\xa0g azed\n", "\xa0g azed\nx y\n", "vocab.bpe line 50002: GPT-2 has only 50000 merges"},
        {"\n\xc4\xa0g azed\n", "\n", "vocab.bpe ends after 49999 merges; GPT-2 has 50000: is the file whole?"},
        {NULL, "", "vocab.bpe"},
    };
    char *folder = make_folder("damaged_merges");
    write_changed(folder, "encoder.json", "{", "{");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_changed(folder, "vocab.bpe", cases[i][0], cases[i][1]);
        assert_refused(folder, cases[i][2]);
    }
    test_write_text(test_path("damaged_merges/vocab.bpe"), "");
    assert_refused(folder, "vocab.bpe ends after 0 merges");
    assert_int_equal(unlink(test_path("damaged_merges/vocab.bpe")), 0);
    assert_refused(folder, "damaged_merges/vocab.bpe");
    free(folder);
}

/* Files of another folder's names, none at all, and the folder that the download script fills. */
static void test_where_files_are_looked_for(void **state) {
    (void)state;
    if (!gpt2_has_tokenizer()) {
        assert_refused(gpt2_folder(), "the gpt2 tokenizer needs utf8proc, which this program was built without");
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
    assert_refused(empty, "vocab.bpe, is not in /");
    assert_refused(NULL, "vocab.bpe, is not in data/gpt2; bash data/gpt2/download.sh fetches it into data/gpt2");
    test_write_text("tokens.json", "{\"tokenizer\": \"gpt2\"}");
    assert_false(tokenizer_open(&tokenizer, NULL, empty, &error));
    assert_int_equal(mkdir("data", 0777), 0);
    assert_int_equal(symlink(gpt2_folder(), "data/gpt2"), 0);
    if (!tokenizer_open(&tokenizer, "gpt2", NULL, &error)) fail_msg("%s", error.text);
    tokenizer_close(tokenizer);
    if (!tokenizer_open(&tokenizer, NULL, empty, &error)) fail_msg("%s", error.text);
    tokenizer_close(tokenizer);
    assert_refused(empty, "vocab.bpe, is not in /"); /* that was for tokens.json */
    test_write_text("encoder.json", "{}");           /* what the folder has comes first, whatever it is */
    assert_refused(empty, "encoder.json has 0 tokens");
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
        {0, 1, 0, "is no tokenizer file of llm.c of version 1 or 2"},
        {4, 3, 0, "is no tokenizer file of llm.c of version 1 or 2"},
        {4, 0, 0, "is no tokenizer file of llm.c of version 1 or 2"},
        {8, 0, 0, "0 tokens; expected 1 to 65535"},
        {10, 1, 0, "65540 tokens; expected 1 to 65535"},
        {8, 5, 0, "ends in token 4 of 5: is the file whole?"},
        {8, 3, 0, "the end of a text is token 3, but there are only 3"},
        {12, 4, 0, "the end of a text is token 4, but there are only 4"},
        {1024, 0, 0, "token 0 at byte 1024 is empty"},
        {1024, 200, 0, "ends in token 0 of 4"},
        {1028, 3, 0, "ends in token 3 of 4"},
        {0, 0xc8, 1, "ends in token 3 of 4"},
        {0, 0xc8, 14, "ends in token 3 of 4"},
        {0, 0xc8, 24, "has no whole header of 1024 bytes"},
        {0, 0xc8, 1047, "has no whole header of 1024 bytes"},
    };
    char data[1100], *folder = make_folder("damaged_bin");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        size_t bytes = bin_file(data, 2, 3);
        assert_int_equal(bytes, 1047);
        data[cases[i].byte] = (char)cases[i].value;
        test_write_file(test_path("damaged_bin/gpt2_tokenizer.bin"), data, bytes - cases[i].cut);
        assert_refused(folder, cases[i].message);
    }
    size_t bytes = bin_file(data, 2, 3);
    data[bytes] = 1;
    test_write_file(test_path("damaged_bin/gpt2_tokenizer.bin"), data, bytes + 1);
    assert_refused(folder, "goes on at byte 1047, after its last token");
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
