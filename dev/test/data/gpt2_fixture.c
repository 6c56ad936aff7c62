/* gpt2_fixture.c: see gpt2_fixture.h. encoder.json numbers the 256 bytes in the order of the characters that stand for
 * them, printable ones first, then what each line of vocab.bpe makes, then <|endoftext|>, written as
 * Python's json does. */
#include "dev/test/data/gpt2_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/tokenizer/char_class.h"

/* One more character of a JSON string. */
static void write_letter(FILE *file, int32_t code) {
    if (code == '"' || code == '\\')
        fprintf(file, "\\%c", (char)code);
    else if (code < 0x7f)
        fputc((int)code, file);
    else
        fprintf(file, "\\u%04x", (unsigned)code);
}

static void write_letters(FILE *file, const char *text, size_t length) {
    for (size_t at = 0, width; at < length; at += width) {
        int32_t code = utf8_next(text + at, length - at, &width);
        assert_true(code >= 0);
        if (code != ' ') write_letter(file, code); /* between the two that are merged */
    }
}

static void write_bytes(FILE *file) {
    int number = 0;
    for (int32_t code = 0; code < 256 + 68; code++) {
        bool is_printable = (code > 0x20 && code < 0x7f) || (code > 0xa0 && code < 0x100 && code != 0xad);
        if (!is_printable && code < 0x100) continue;
        fprintf(file, "%s\"", number == 0 ? "{" : ", ");
        write_letter(file, code);
        fprintf(file, "\": %d", number++);
    }
    assert_int_equal(number, 256);
}

static void write_encoder(const char *path, const char *merges) {
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("cannot write %s", path);
    write_bytes(file);
    int number = 256;
    for (const char *line = strchr(merges, '\n') + 1, *end; (end = strchr(line, '\n')); line = end + 1) {
        fputs(", \"", file);
        write_letters(file, line, (size_t)(end - line));
        fprintf(file, "\": %d", number++);
    }
    fprintf(file, ", \"<|endoftext|>\": %d}", number);
    assert_int_equal(fclose(file), 0);
}

const char *gpt2_folder(void) {
    static char folder[4096];
    if (folder[0]) return folder;
    snprintf(folder, sizeof folder, "%s/gpt2", test_folder());
    size_t bytes;
    char *merges = test_read_file("dev/golden/gpt2/vocab.bpe", &bytes);
    assert_int_equal(mkdir(folder, 0777), 0);
    test_write_file(test_path("gpt2/vocab.bpe"), merges, bytes);
    write_encoder(test_path("gpt2/encoder.json"), merges);
    free(merges);
    return folder;
}

bool gpt2_has_tokenizer(void) {
    bool has = strcmp(char_class_version(), "none") != 0;
    if (!has) puts("this build has no gpt2 tokenizer");
    return has;
}
