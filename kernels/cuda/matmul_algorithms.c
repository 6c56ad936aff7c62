/* matmul_algorithms.c: the algorithms that autotuning found, as text.
 *
 * The text has a line of versions, a line for each matmul, and a last line, which shows that none is missing. A
 * matmul's line has the numbers of its key, a flag (the algorithm does the epilogue) and the algorithm as hexadecimal
 * words, which are valid for the same version of the library only. */
#include "kernels/cuda/matmul_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALGORITHM_WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t), WORD_DIGITS = 16, LONGEST_LINE = 1024 };

static const char LAST_LINE[] = "end";

static void write_line(char line[LONGEST_LINE], const MatmulKey *key, const MatmulAlgorithm *algorithm) {
    int64_t numbers[KEY_NUMBERS];
    memcpy(numbers, key, sizeof numbers);
    int at = 0;
    for (int i = 0; i < KEY_NUMBERS; i++)
        at += snprintf(line + at, (size_t)(LONGEST_LINE - at), "%" PRId64 " ", numbers[i]);
    at += snprintf(line + at, (size_t)(LONGEST_LINE - at), "%d ", algorithm->fused);
    for (int i = 0; i < ALGORITHM_WORDS; i++)
        at += snprintf(line + at, (size_t)(LONGEST_LINE - at), "%0*" PRIx64, WORD_DIGITS, algorithm->cublaslt.data[i]);
}

char *cuda_write_algorithms(Backend *be) {
    CudaMatmul *matmul = cuda_backend(be)->matmul;
    char *text = NULL, line[LONGEST_LINE];
    size_t bytes = 0;
    int count = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) die("out of memory for the matmul algorithms");
    for (int i = 0; i < BUCKETS; i++)
        for (const MatmulEntry *entry = matmul->buckets[i]; entry; entry = entry->next) {
            if (!entry->timed) continue;
            if (count++ == 0) fprintf(out, "%s\n", matmul->versions);
            write_line(line, &entry->key, &entry->algorithm);
            fprintf(out, "%s\n", line);
        }
    if (count > 0) fprintf(out, "%s\n", LAST_LINE);
    if (fclose(out) != 0) die("out of memory for the matmul algorithms");
    return text;
}

static bool is_flag(int64_t value) { return value == 0 || value == 1; }
static bool is_size(int64_t value) { return value > 0 && value <= INT32_MAX; }
static bool is_alignment(int64_t value) { return value > 0 && value <= MAX_ALIGNMENT && (value & (value - 1)) == 0; }

/* Whether a matmul could have this key. */
static bool is_key(const MatmulKey *key) {
    static const int64_t without_bias[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_GELU,
                                           CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_DGELU};
    static const int64_t with_bias[] = {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS,
                                        CUBLASLT_EPILOGUE_GELU_AUX_BIAS};
    bool has_bias = false, has_none = false;
    for (size_t i = 0; i < ARRAY_LENGTH(with_bias); i++) has_bias |= key->epilogue == with_bias[i];
    for (size_t i = 0; i < ARRAY_LENGTH(without_bias); i++) has_none |= key->epilogue == without_bias[i];
    return is_flag(key->input) && is_flag(key->output) && is_flag(key->tf32) && is_flag(key->batched) &&
           is_flag(key->transpose_a) && is_flag(key->transpose_b) && is_size(key->m) && is_size(key->n) &&
           is_size(key->k) && is_alignment(key->align_a) && is_alignment(key->align_b) && is_alignment(key->align_d) &&
           ((has_bias && is_alignment(key->align_bias)) || (has_none && key->align_bias == 0));
}

static int64_t read_number(const char **at) {
    char *end;
    int64_t number = strtoll(*at, &end, 10);
    *at = end;
    return number;
}

/* Reads a line. It is valid if writing the result gives the same line again. */
static bool read_line(const char *line, MatmulKey *key, MatmulAlgorithm *algorithm) {
    int64_t numbers[KEY_NUMBERS];
    char again[LONGEST_LINE];
    const char *at = line;
    for (int i = 0; i < KEY_NUMBERS; i++) numbers[i] = read_number(&at);
    algorithm->fused = read_number(&at) != 0;
    if (strlen(at) != 1 + ALGORITHM_WORDS * WORD_DIGITS) return false;
    at++;
    for (int i = 0; i < ALGORITHM_WORDS; i++, at += WORD_DIGITS) {
        char word[WORD_DIGITS + 1] = "";
        memcpy(word, at, WORD_DIGITS);
        algorithm->cublaslt.data[i] = strtoull(word, NULL, 16);
    }
    memcpy(key, numbers, sizeof *key);
    write_line(again, key, algorithm);
    return strcmp(again, line) == 0 && is_key(key);
}

/* Makes an entry for the line, outside the table. Returns NULL and the reason if it does not suit this library. */
static MatmulEntry *entry_read(CudaMatmul *matmul, const char *line, int number, Error *error) {
    MatmulKey key;
    MatmulAlgorithm algorithm;
    if (!read_line(line, &key, &algorithm)) {
        error_set(error, "line %d of the matmul algorithms is damaged: '%.300s'", number, line);
        return NULL;
    }
    MatmulEntry *entry = matmul_entry_create(&key);
    if (!matmul_algorithm_suits(matmul, entry, &algorithm)) {
        error_set(error, "line %d of the matmul algorithms: there is no such algorithm to multiply %s", number,
                  matmul_name(&key).text);
        matmul_entry_free(entry);
        return NULL;
    }
    matmul_entry_set(entry, &algorithm, true);
    return entry;
}

/* Makes a list of the text's entries, up to the first error. Cuts the text into lines. */
static bool read_entries(CudaMatmul *matmul, char *text, MatmulEntry **list, Error *error) {
    int number = 1;
    char *line = strsep(&text, "\n");
    if (strcmp(line, matmul->versions) != 0)
        return error_set(error, "the matmul algorithms for '%.300s' do not hold for '%s'", line, matmul->versions);
    while ((line = strsep(&text, "\n")) && strcmp(line, LAST_LINE) != 0) {
        if (!text) break; /* no end of line: cut off */
        MatmulEntry *entry = entry_read(matmul, line, ++number, error);
        if (!entry) return false;
        *list = entry;
        list = &entry->next;
    }
    if (!line || !text || *text)
        return error_set(error, "the matmul algorithms are cut off after line %d, or something follows", number);
    return true;
}

/* Moves the entry into the table, or frees it. An algorithm that the table has by timing stays. */
static void insert(CudaMatmul *matmul, MatmulEntry *entry) {
    MatmulEntry **place = matmul_table_place(matmul, &entry->key);
    if (!*place) {
        entry->next = NULL;
        *place = entry;
        return;
    }
    if (!(*place)->timed) matmul_entry_set(*place, &entry->algorithm, true);
    matmul_entry_free(entry);
}

bool cuda_read_algorithms(Backend *be, const char *text, Error *error) {
    CudaMatmul *matmul = cuda_backend(be)->matmul;
    if (!*text) return true;
    char *copy = checked_strdup(text);
    MatmulEntry *entries = NULL;
    bool right = read_entries(matmul, copy, &entries, error);
    for (MatmulEntry *entry = entries, *next; entry; entry = next) {
        next = entry->next;
        right ? insert(matmul, entry) : matmul_entry_free(entry);
    }
    free(copy);
    return right;
}
