/* fuzz_hellaswag.c: HellaSwag's two forms. The first byte of the input says which the rest is: the file of tokens,
 * whose examples must lie within it, or the published JSON Lines, which make such a file. */
#include <stdlib.h>
#include <string.h>

#include "data/hellaswag.h"
#include "data/prepare/prepare_hellaswag.h"
#include "dev/fuzz/fuzz.h"

enum { HEADER_BYTES = 32, EXAMPLE_BYTES = 24, VOCAB_SIZE = 300 };

/* The parts follow each other from the end of the numbers to the end of the file. */
static void check_examples(const Hellaswag *set, size_t file_bytes, int vocab_size) {
    int count = hellaswag_count(set);
    FUZZ_CHECK(count > 0, "%d examples", count);
    size_t tokens = 0;
    const uint16_t *at = hellaswag_example(set, 0).context;
    for (int i = 0; i < count; i++) {
        HellaswagExample example = hellaswag_example(set, i);
        FUZZ_CHECK(example.label >= 0 && example.label < HELLASWAG_ENDINGS, "label %d", example.label);
        for (int k = -1; k < HELLASWAG_ENDINGS; k++) {
            const uint16_t *part = k < 0 ? example.context : example.endings[k];
            int length = k < 0 ? example.context_count : example.ending_counts[k];
            FUZZ_CHECK(part == at && length > 0, "example %d, part %d", i, k);
            for (int j = 0; j < length; j++) FUZZ_CHECK(part[j] < vocab_size, "token %d", part[j]);
            at += length;
            tokens += (size_t)length;
        }
    }
    FUZZ_CHECK(HEADER_BYTES + (size_t)count * EXAMPLE_BYTES + 2 * tokens == file_bytes, "%d examples, %zu tokens",
               count, tokens);
}

static void check_file(FuzzInput file) {
    Hellaswag *set;
    Error error = {""};
    const char *path = fuzz_file("hellaswag.bin", file.data, file.bytes);
    if (!hellaswag_open(&set, path, VOCAB_SIZE, &error)) {
        FUZZ_CHECK(strstr(error.text, path), "the message does not name the file: %s", error.text);
        return;
    }
    check_examples(set, file.bytes, VOCAB_SIZE);
    hellaswag_close(set);
}

static void check_lines(FuzzInput text) {
    static Tokenizer *bytes_tokenizer;
    Error error = {""};
    if (!bytes_tokenizer && !tokenizer_open(&bytes_tokenizer, "bytes", NULL, &error)) die("%s", error.text);
    int examples, lines = 1;
    for (size_t i = 0; i < text.bytes; i++) lines += text.data[i] == '\n';
    const char *json_lines = fuzz_file("hellaswag.jsonl", text.data, text.bytes), *path = fuzz_path("prepared.bin");
    if (!hellaswag_prepare(json_lines, bytes_tokenizer, path, &examples, &error)) {
        FUZZ_CHECK(strstr(error.text, json_lines), "the message does not name the file: %s", error.text);
        return;
    }
    Hellaswag *set;
    FUZZ_CHECK(hellaswag_open(&set, path, 256, &error), "%s", error.text);
    FUZZ_CHECK(hellaswag_count(set) == examples && examples <= lines, "%d examples in %d lines", examples, lines);
    hellaswag_close(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput input = {data, bytes};
    if (fuzz_number(&input, 1) % 2)
        check_lines(input);
    else
        check_file(input);
    return 0;
}
