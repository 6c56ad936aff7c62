/* test_text_input.c: what people bring to prepare_data as text: other formats, other encodings, byte order marks, other
 * ends of lines, options that do not fit the input, odd files and folders, and texts whose length is not known. The
 * program is taken from the folder in MARS_BIN (default: the repository root). How documents are found:
 * test_documents.c. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/prepare/unpack.h"
#include "dev/test/data/gpt2_fixture.h"
#include "util/files.h"
#include "util/utf8.h"

static char *program;

/* ---- helpers ---- */

/* Runs the program in the scratch folder. "gpt2" among the arguments needs gpt2_folder() to exist. */
static CommandResult *run(const char *before, const char *arguments) {
    return test_run("cd '%s' && { %s '%s' %s; }", test_folder(), before, program, arguments);
}

/* The run fails, says these two, and writes no token file. */
static void assert_refused(const char *before, const char *arguments, const char *what, const char *remedy) {
    assert_run(test_run("rm -rf '%s'", test_path("out")), 0, "");
    const CommandResult *result = run(before, arguments);
    assert_run(result, 1, what);
    assert_run(result, 1, remedy);
    assert_run(test_run("ls -A '%s' 2>/dev/null | wc -l", test_path("out")), 0, "0");
}

static void assert_same_tokens(const char *folder, const char *other) {
    assert_run(test_run("cd '%s' && cmp '%s/train_000000.bin' '%s/train_000000.bin' && cmp '%s/val_000000.bin' "
                        "'%s/val_000000.bin'",
                        test_folder(), folder, other, folder, other),
               0, "");
}

static bool unpacks_gz(void) {
    Unpacker *unpacker;
    Error error;
    if (!unpacker_open(&unpacker, PACKED_GZ, &error)) return false;
    unpacker_close(unpacker);
    return true;
}

/* What a message of the program says, in this order: where, what was found, what was expected, what to do. */
static void test_parts_of_messages(void **state) {
    (void)state;
    static const struct {
        const char *arguments, *parts;
    } cases[] = {
        {"--tokenizer=words good", "--tokenizer=words|unknown tokenizer 'words'|bytes, gpt2|see prepare_data --help"},
        {"--tokenizer=gpt2 --vocab=. good", ".| holds no vocabulary|expected encoder.json|download.sh fetches them"},
        {"--tokenizer=bytes --threads=0 good", "--threads=|0: |a whole number from 1 to 32|see prepare_data --help"},
        {"--tokenizer=bytes --format=x good", "--format=|x: |expected one of: llmc nanogpt|see prepare_data --help"},
        {"--tokenizer=bytes missing", "missing|No such file|expected a file|see prepare_data --help"},
        {"--tokenizer=bytes none", "none| is empty|expected a text|leave this file out"},
        {"--tokenizer=bytes --field=text bad.jsonl",
         "bad.jsonl: line 1: |'x'|where a JSON object should be|correct the"},
        {"--tokenizer=bytes --field=text other.jsonl",
         "other.jsonl: line 1: |no \"text\"|it has \"words\"|--skip_bad_lines"},
        {"--tokenizer=bytes cut.gz",
         "cut.gz| is packed and cannot be unpacked|cut off|copy or download the whole file"},
        {"--tokenizer=bytes twice.gz", "twice.gz| is packed twice|expected text|unpack it once"},
        {"--tokenizer=bytes picture.png",
         "picture.png| looks like a PNG image|, not like text in UTF-8|name the files"},
    };
    bool has_gz = unpacks_gz();
    assert_run(test_run("cd '%s' && echo text >good && : >none && echo x >bad.jsonl && echo '{\"words\": 1}' "
                        ">other.jsonl && gzip <good | head -c 20 >cut.gz && gzip <good | gzip >twice.gz && "
                        "printf '\\211PNG\\r\\n\\032\\n' >picture.png",
                        test_folder()),
               0, "");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        if (strstr(cases[i].arguments, ".gz") && !has_gz) continue;
        if (strstr(cases[i].arguments, "gpt2") && !gpt2_has_tokenizer()) continue;
        char *arguments = format_string("--out=out %s", cases[i].arguments);
        assert_four_parts(run("", arguments)->output, cases[i].parts);
        free(arguments);
    }
}

/* ---- other formats ---- */

#define CONTENT(literal) literal, sizeof(literal) - 1

static const struct {
    const char *name, *content;
    size_t bytes;
    const char *what, *remedy;
} formats[] = {
    {"a.txt", CONTENT("\xff\xfeh\0e\0l\0l\0o\0\n\0"), "looks like text in UTF-16", "iconv -f utf-16 -t utf-8 FILE |"},
    {"b.txt", CONTENT("h\0e\0l\0l\0o\0 \0y\0o\0u\0\n\0"), "looks like text in UTF-16", "iconv -f utf-16"},
    {"c.bz2", CONTENT("BZh91AY&SY\x94\xf5\1\2\3"), "looks like a bzip2 file", "bzip2 -dc FILE | ./prepare_data"},
    {"d.parquet", CONTENT("PAR1\x15\4\x15\x40\x15\x18\x4c"), "looks like a Parquet file", "parquet_to_jsonl.py FILE |"},
    {"e.png", CONTENT("\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "looks like a PNG image", "name the files with text alone"},
    {"f.docx", CONTENT("PK\3\4\x14\0\6\0\x08\0\0\0!\0abcdefghijkl\x13\0\0\0[Content_Types].xml"),
     "looks like an Office document", "pandoc -t plain FILE"},
    {"g.epub", CONTENT("PK\3\4\x0a\0\0\0\0\0\0\0!\0abcdefghijkl\x08\0\0\0mimetypeapplication/epub+zip"),
     "looks like an e-book", "pandoc -t plain FILE"},
    {"h.bin", CONTENT("\x88\xd8\x34\x01\1\0\0\0\5\0\0\0"), "looks like a token file of llm.c", "name it in data.train"},
    {"i.npy", CONTENT("\x93NUMPY\1\0v\0{'descr': '<u2'}"), "looks like a NumPy array", "name the files with text"},
    {"j.pdf", CONTENT("%PDF-1.7\n1 0 obj\n"), "looks like a PDF document", "pdftotext FILE - |"},
    {"k.rtf", CONTENT("{\\rtf1\\ansi Hello}"), "looks like an RTF document", "pandoc"},
    {"l.Z", CONTENT("\x1f\x9d\x90h\xca\xb0\x61\xf3"), "looks like a file packed by compress", "gzip -dc FILE |"},
    {"m.warc", CONTENT("WARC/1.0\r\nWARC-Type: conversion\r\n"), "looks like a WARC file", "--field=text"},
};

/* By name, below a folder, through a pipe, and packed; with both tokenizers. */
static void test_other_formats_are_refused(void **state) {
    (void)state;
    bool has_gz = unpacks_gz();
    assert_int_equal(mkdir(test_path("formats"), 0777), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(formats); i++) {
        const char *name = formats[i].name, *what = formats[i].what, *remedy = formats[i].remedy;
        test_write_file(test_path("formats/%s", name), formats[i].content, formats[i].bytes);
        char *named = format_string("--tokenizer=bytes --out=out 'formats/%s'", name);
        char *message = format_string("formats/%s %s", name, what), *before = format_string("cat 'formats/%s' |", name);
        char *parts = format_string("formats/%s|%s|, not like text in UTF-8; |%s", name, what, remedy);
        if (!strchr(remedy, '|')) assert_four_parts(run("", named)->output, parts);
        assert_refused("", named, message, remedy);
        assert_refused("", "--tokenizer=bytes --out=out formats", message, remedy);
        if (i % 4 == 0) { /* which takes longer */
            char *piped = format_string("standard input %s", what);
            assert_refused(before, "--tokenizer=bytes --out=out -", piped, remedy);
            assert_refused(before, "--tokenizer=bytes --val_fraction=0 --out=out -", piped, remedy);
            char *packed = format_string("gzip <'formats/%s' >packed.gz;", name);
            if (has_gz)
                assert_refused(packed, "--tokenizer=bytes --out=out packed.gz", "packed.gz, unpacked, looks", remedy);
            free(piped), free(packed);
        }
        assert_int_equal(unlink(test_path("formats/%s", name)), 0);
        free(named), free(message), free(before), free(parts);
    }
    if (has_gz)
        assert_refused("echo text | gzip | gzip >twice.gz;", "--tokenizer=bytes --out=out twice.gz",
                       "twice.gz is packed twice", "unpack it once");
}

/* Bytes of any kind are what the tokenizer bytes is for; GPT-2's would make U+FFFD of them. */
static void test_binary_data(void **state) {
    (void)state;
    unsigned char data[5000];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    data[0] = 0xe0; /* no signature */
    test_write_file(test_path("random"), data, sizeof data);
    assert_run(run("", "--tokenizer=bytes --out=binary random"), 0, "1 document, 5000 bytes");
    if (!gpt2_has_tokenizer()) skip();
    char *arguments = format_string("--tokenizer=gpt2 --vocab='%s' --out=out random", gpt2_folder());
    assert_refused("", arguments, "random looks like binary data", "name the files with text alone");
    free(arguments);
}

/* ---- encodings ---- */

/* A file that is mostly U+FFFD is a warning; what is less is counted. */
static void test_other_encodings(void **state) {
    (void)state;
    if (!gpt2_has_tokenizer()) skip();
    char garbled[1000], mixed[1000];
    for (size_t i = 0; i < sizeof garbled; i++) {
        garbled[i] = i % 2 ? '\xd0' : '\xe4'; /* of KOI8-R, say: no byte continues another */
        mixed[i] = i % 10 ? 'e' : '\xe9';     /* of Latin-1 */
    }
    for (int i = 0; i < 5; i++) test_write_file(test_path("koi8_%d", i), garbled, sizeof garbled);
    test_write_file(test_path("latin1"), mixed, sizeof mixed);
    test_write_text(test_path("utf8"), "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xef\xbf\xbd\n");
    const char *command = "cd '%s' && '%s' --tokenizer=gpt2 --vocab='%s' --val_fraction=0 --out=encodings %s";
    const CommandResult *result = test_run(command, test_folder(), program, gpt2_folder(), "koi8_0 utf8 latin1 utf8");
    assert_run(result, 0, "warning: koi8_0 is not UTF-8: its 1000 bytes gave 1000 U+FFFD; if it is text in another");
    assert_run(result, 0, "iconv -f ENCODING -t utf-8 FILE");
    assert_run(result, 0, "1100 U+FFFD stand for bytes that are not UTF-8, in koi8_0 and 1 more");
    if (strstr(result->output, "warning: latin1")) fail_msg("%s", result->output);
    result = test_run(command, test_folder(), program, gpt2_folder(), "koi8_*");
    assert_run(result, 0, "warning: koi8_2 is not UTF-8");
    assert_run(result, 0, "files that are mostly U+FFFD, besides these: 2");
    result = test_run(command, test_folder(), program, gpt2_folder(), "utf8");
    assert_run(result, 0, "1 document");
    if (strstr(result->output, "U+FFFD")) fail_msg("%s", result->output);
    test_write_text(test_path("lost"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\n");
    assert_run(test_run(command, test_folder(), program, gpt2_folder(), "lost"), 0,
               "warning: lost is mostly U+FFFD: its characters were lost when it was converted");
}

/* It is no part of the text, in whatever way the text comes, nor is it counted where validation begins. */
static void test_byte_order_marks(void **state) {
    (void)state;
    test_write_text(test_path("marked"), UTF8_MARK "0123456789abcdefghij");
    test_write_text(test_path("plain"), "0123456789abcdefghij");
    assert_run(run("", "--tokenizer=bytes --out=plain_tokens plain"), 0, "1 document, 20 bytes");
    assert_run(run("", "--tokenizer=bytes --out=marked_tokens marked"), 0, "1 document, 20 bytes");
    assert_same_tokens("plain_tokens", "marked_tokens");
    assert_run(run("cat marked |", "--tokenizer=bytes --out=piped_tokens -"), 0, "1 document, 20 bytes");
    assert_same_tokens("plain_tokens", "piped_tokens");
    test_write_text(test_path("marked.jsonl"), UTF8_MARK "{\"text\":\"one\"}\n" UTF8_MARK "{\"text\":\"two\"}\n");
    assert_run(run("", "--tokenizer=bytes --field=text --val_fraction=0 --out=lines marked.jsonl"), 0,
               "2 documents, 6 bytes");
    test_write_text(test_path("only_mark"), UTF8_MARK);
    assert_refused("", "--tokenizer=bytes --out=out only_mark", "there is no text in the input", "");
}

/* ---- texts whose length is not known ---- */

/* Words of different lengths, so that it matters where they are cut. */
static void write_words(const char *path, size_t bytes) {
    char *text = checked_malloc(bytes + 32, "text");
    size_t count = 0;
    for (uint32_t x = 1; count < bytes; x = x * 1664525u + 1013904223u)
        count += (size_t)sprintf(text + count, x >> 29 ? "%.*s " : "%.*s\n", (int)(1 + (x >> 24) % 9), "wordsland");
    test_write_file(path, text, bytes);
    free(text);
}

/* Packed, through a pipe, both, from standard input that is a file, and one after the other: as the same plain
 * files. */
static void test_validation_from_the_end(void **state) {
    (void)state;
    write_words(test_path("words"), 3000000);
    write_words(test_path("more"), 40000);
    assert_run(run("", "--tokenizer=bytes --out=of_file words"), 0, "1 document, 3000000 bytes");
    struct {
        const char *before, *input;
        bool is_packed;
    } ways[] = {{"gzip -1 <words >words.gz;", "words.gz", true},
                {"cat words |", "-", false},
                {"cat words.gz |", "-", true},
                {"", "- <words", false},
                {"rm -f fifo; mkfifo fifo; cat words >fifo &", "fifo", false}};
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++) {
        if (ways[i].is_packed && !unpacks_gz()) continue;
        char *arguments = format_string("--tokenizer=bytes --out=of_other %s", ways[i].input);
        assert_run(run(ways[i].before, arguments), 0, "1 document, 3000000 bytes");
        assert_same_tokens("of_file", "of_other");
        assert_run(test_run("ls -A '%s' | tr '\\n' ' '", test_path("of_other")), 0,
                   "tokens.json train_000000.bin val_000000.bin ");
        free(arguments);
    }
    assert_run(run("", "--tokenizer=bytes --val_fraction=0.01 --out=of_file words more"), 0, "2 documents");
    assert_run(run("cat more |", "--tokenizer=bytes --val_from=end --val_fraction=0.01 --out=of_other words -"), 0, "");
    assert_same_tokens("of_file", "of_other");
}

/* The text of lines, without what stands between: each of ten documents has ten bytes. */
static void test_validation_from_the_end_of_documents(void **state) {
    (void)state;
    FILE *lines = fopen(test_path("ten.jsonl"), "wb"), *separated = fopen(test_path("ten.txt"), "wb");
    for (int i = 0; i < 10; i++) {
        fprintf(lines, "{\"text\": \"document %d\"}\n", i);
        fprintf(separated, "document %d\n==\n", i);
    }
    assert_int_equal(fclose(lines) | fclose(separated), 0);
    assert_run(run("", "--tokenizer=bytes --val_from=end --val_fraction=0.25 --field=text --out=of_lines ten.jsonl"), 0,
               "val             25 tokens");
    assert_run(run("cat ten.txt |",
                   "--tokenizer=bytes --val_from=end --val_fraction=0.25 --separator=== --out=of_separated -"),
               0, "train           75 tokens");
    assert_same_tokens("of_lines", "of_separated");
    /* A single document is not drawn, and the message says what to do. */
    test_write_text(test_path("one.jsonl"), "{\"text\": \"a document\"}\n");
    assert_refused("", "--tokenizer=bytes --field=text --out=out one.jsonl", "none of the 1 documents was drawn",
                   "give --val_from=end, another");
    assert_run(run("", "--tokenizer=bytes --field=text --val_from=end --out=of_one one.jsonl"), 0, "1 document, 10");
}

/* A copy of a pipe for which there is no room, one that is stopped, and a pipe that nobody writes to. */
static void test_copies_of_pipes(void **state) {
    (void)state;
    assert_refused("ulimit -f 500; head -c 1000000 /dev/zero | tr '\\0' a |", "--tokenizer=bytes --out=out -",
                   "cannot copy standard input to out: File too large", "give --val_fraction=0");
    /* The signal comes when the writer is connected, or at least the output folder is made. */
    const char *stopped =
        "cd '%s' && rm -rf out fifo begun && mkfifo fifo && { %s & } && { exec '%s' --tokenizer=bytes --out=out fifo "
        "2>said & } && reader=$! && until [ -e %s ]; do sleep 0.02; done && kill -%s $reader && { wait $reader; "
        "echo status $?; cat said; ls -A out | wc -l; }";
    const char *writer = "{ yes text | head -c 2000000; : >begun; yes text; } >fifo 2>/dev/null";
    const CommandResult *result = test_run(stopped, test_folder(), writer, program, "begun", "TERM");
    assert_run(result, 0, "status 1\n");
    assert_run(result, 0, "stopped by a signal while "); /* copying, or waiting for more */
    assert_run(result, 0, "fifo\n0\n");
    assert_run(test_run(stopped, test_folder(), writer, program, "begun", "KILL"), 0, "status 137\n");
    assert_run(test_run("ls -A '%s' | wc -l", test_path("out")), 0, "0");
    assert_run(test_run(stopped, test_folder(), "true", program, "out", "TERM"), 0,
               "stopped by a signal while waiting for fifo");
}

/* ---- separators and hints ---- */

static void test_separators(void **state) {
    (void)state;
    test_write_text(test_path("dos.txt"), "one\r\n<|endoftext|>\r\ntwo\r\n<|endoftext|> \r\n");
    const CommandResult *result =
        run("", "--tokenizer=bytes --val_fraction=0 --separator='<|endoftext|>' --out=dos dos.txt");
    assert_run(result, 0, "2 documents, 6 bytes");
    if (strstr(result->output, "warning")) fail_msg("%s", result->output);
    assert_run(run("", "--tokenizer=bytes --val_fraction=0 --separator='\\n\\n' --out=dos dos.txt"), 0,
               "warning: --separator: no line of the input is just '\\n\\n', so that each file is one document");
    test_write_text(test_path("mac.txt"), "one\r==\rtwo\r");
    result = run("", "--tokenizer=bytes --val_fraction=0 --separator=== --out=dos mac.txt");
    assert_run(result, 0, "warning: mac.txt has one line, since its lines end in \\r alone; tr '\\r' '\\n' <FILE");
    assert_run(result, 0, "no line of the input is just '=='");
}

/* Once for all files, and not where the options say that it is meant. */
static void test_hints(void **state) {
    (void)state;
    static const struct {
        const char *name, *content, *hint, *right_options;
    } cases[] = {
        {"x.jsonl", "{\"text\": \"a document\"}\n", "x.jsonl begins with a JSON object, and is taken as plain text",
         "--field=text"},
        {"x.json", " [\n {\"text\": \"a document\"}]\n", "x.json begins with a JSON array", NULL},
        {"x.txt", "a\n<|endoftext|>\nb\n", "x.txt has <|endoftext|> in it", "--separator='<|endoftext|>'"},
        {"x.csv", "id,text\n1,hello\n", "x.csv is a table by its name", NULL},
        {"plain.txt", "{a} [b] id,text\n", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        test_write_text(test_path("%s", cases[i].name), cases[i].content);
        const char *command = "cd '%s' && '%s' --tokenizer=bytes --val_fraction=0 --out=hints %s %s %s 2>&1 | sed -n "
                              "'s/.*warning: //p'";
        const CommandResult *result = test_run(command, test_folder(), program, "", cases[i].name, cases[i].name);
        if (cases[i].hint)
            assert_run(result, 0, cases[i].hint);
        else
            assert_string_equal(result->output, "");
        const char *first = strstr(result->output, cases[i].name);
        if (first && strstr(first + 1, cases[i].name)) fail_msg("twice: %s", result->output);
        if (!cases[i].right_options) continue;
        result = test_run(command, test_folder(), program, cases[i].right_options, cases[i].name, "");
        assert_string_equal(result->output, "");
    }
    test_write_text(test_path("array.json"), "[{\"text\": \"a document\"}]\n");
    assert_refused("", "--tokenizer=bytes --field=text --out=out array.json", "'[' where a JSON object should be",
                   "jq -c '.[]' makes JSON Lines");
}

/* ---- files and folders ---- */

static void test_odd_folders(void **state) {
    (void)state;
    assert_run(
        test_run("cd '%s' && mkdir -p odd/a/b odd/empty && echo text >odd/a/b/file && ln -s .. odd/a/b/up && ln -s . "
                 "odd/here && ln -s a odd/again && mkfifo odd/fifo && : >odd/nothing && echo no >odd/.hidden",
                 test_folder()),
        0, "");
    const CommandResult *result = run("", "--tokenizer=bytes --val_fraction=0 --out=of_odd odd");
    assert_run(result, 0, "warning: odd/a/b/up is a link to a folder that it lies in; it is passed over");
    assert_run(result, 0, "warning: odd/here is a link to a folder that it lies in");
    assert_run(result, 0, "2 documents, 10 bytes"); /* a second link to the same folder is a second copy of it */
    assert_refused("", "--tokenizer=bytes --out=out odd/empty", "there is no file in odd/empty", "is not empty");
    assert_refused("ln -s missing odd/broken;", "--tokenizer=bytes --out=out odd", "cannot read odd/broken", "");
    assert_refused("", "--tokenizer=bytes --out=out 'odd/*.txt'", "cannot read odd/*.txt: No such file",
                   "leave the quotes away");
    assert_refused("", "--tokenizer=bytes --out=out https://host/a.txt", "cannot read https://host/a.txt",
                   "download it first");
    assert_run(run("echo text >-x.txt;", "--tokenizer=bytes --out=out -x.txt"), 2, "write the file as ./-x.txt");
    assert_run(run("", "--tokenizer=bytes --val_fraction=0 --out='of [odd]' 'odd/a/b/file'"), 0,
               "of [odd]/train_*.bin");
    assert_run(run("", "--inspect --tokenizer=bytes 'of [odd]/train_000000.bin'"), 0, "5 tokens in all");
}

/* Names with newlines, quotes and bytes that are no UTF-8: tokens.json is JSON all the same. */
static void test_odd_names(void **state) {
    (void)state;
    test_write_text(test_path("new\nline \"\xe9\" \xc3\xa9"), "some text");
    assert_run(run("", "--tokenizer=bytes --val_fraction=0 --out=names new*"), 0, "1 document, 9 bytes");
    char *text = test_read_file(test_path("names/tokens.json"), NULL);
    cJSON *json = cJSON_Parse(text);
    const cJSON *source = cJSON_GetObjectItemCaseSensitive(json, "source");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetArrayItem(source, 0)),
                        "new\nline \"" UTF8_REPLACEMENT "\" \xc3\xa9");
    cJSON_Delete(json);
    free(text);
}

/* The shell leaves a ~ after "=" as it is. */
static void test_home_folder(void **state) {
    (void)state;
    test_write_text(test_path("ten"), "0123456789");
    assert_int_equal(mkdir(test_path("home"), 0777), 0);
    char *before = format_string("export HOME='%s';", test_path("home"));
    assert_run(run(before, "--tokenizer=bytes --out=~/new/tokens ten"), 0, "home/new/tokens/train_*.bin");
    assert_true(files_is_file(test_path("home/new/tokens/tokens.json")));
    assert_false(files_is_folder(test_path("~")));
    free(before);
}

static void test_full_output(void **state) {
    (void)state;
    test_write_text(test_path("ten"), "0123456789");
    assert_run(run("", "--tokenizer=bytes --out=full ten >/dev/full"), 1, "cannot write to standard output");
    assert_run(run("", "--inspect --tokenizer=bytes full/train_000000.bin >/dev/full"), 1,
               "cannot write to standard output");
}

int main(void) {
    program = test_program("prepare_data");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_of_messages),
        cmocka_unit_test(test_other_formats_are_refused),
        cmocka_unit_test(test_binary_data),
        cmocka_unit_test(test_other_encodings),
        cmocka_unit_test(test_byte_order_marks),
        cmocka_unit_test(test_validation_from_the_end),
        cmocka_unit_test(test_validation_from_the_end_of_documents),
        cmocka_unit_test(test_copies_of_pipes),
        cmocka_unit_test(test_separators),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_odd_folders),
        cmocka_unit_test(test_odd_names),
        cmocka_unit_test(test_home_folder),
        cmocka_unit_test(test_full_output),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(program);
    return failed;
}
