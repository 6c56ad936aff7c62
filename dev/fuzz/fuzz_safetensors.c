/* fuzz_safetensors.c: headers of safetensors files. The input is a whole file; or, where its first byte is odd, the
 * header alone, after the number of bytes of data that the file has. The tensors of a file that is accepted are read,
 * and must come back the same from a file that we write. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/fuzz/fuzz.h"
#include "util/safetensors.h"

static const char *write_header(FuzzInput *input) {
    size_t data_bytes = fuzz_number(input, 2) % 4096, before = sizeof(uint64_t) + input->bytes;
    uint64_t length = input->bytes;
    uint8_t *file = checked_calloc(before + data_bytes, 1, "a file");
    memcpy(file, &length, sizeof length);
    if (length > 0) memcpy(file + sizeof length, input->data, length);
    for (size_t i = 0; i < data_bytes; i++) file[before + i] = (uint8_t)(7 * i);
    const char *path = fuzz_file("fuzz.safetensors", file, before + data_bytes);
    free(file);
    return path;
}

static int64_t element_bytes(const SafetensorsEntry *entry) {
    return entry->type == SAFETENSORS_F64 ? 8 : entry->type == SAFETENSORS_F32 ? 4 : 2;
}

static void check_entry(const SafetensorsFile *file, const SafetensorsEntry *entry) {
    int64_t elements = 1;
    FUZZ_CHECK(entry->dimensions >= 0 && entry->dimensions <= SAFETENSORS_MAX_DIMENSIONS, "%d dimensions",
               entry->dimensions);
    for (int d = 0; d < entry->dimensions; d++) {
        FUZZ_CHECK(entry->shape[d] >= 0, "dimension %d is %" PRId64, d, entry->shape[d]);
        FUZZ_CHECK(!__builtin_mul_overflow(elements, entry->shape[d], &elements), "the shape overflows");
    }
    FUZZ_CHECK(elements == entry->elements, "%" PRId64 " elements", entry->elements);
    FUZZ_CHECK(entry->offset >= 8 && entry->offset <= file->bytes &&
                   elements <= (file->bytes - entry->offset) / element_bytes(entry),
               "the data of '%s' leaves the file", entry->name);
    FUZZ_CHECK(safetensors_find(file, entry->name) == entry, "the name '%s' finds another tensor", entry->name);
}

/* Entries are in the order of their data. */
static void check_order(const SafetensorsEntry *entry, const SafetensorsEntry *next) {
    FUZZ_CHECK(entry->offset + entry->elements * element_bytes(entry) <= next->offset, "'%s' and '%s' overlap",
               entry->name, next->name);
}

static float *read_entry(const SafetensorsEntry *entry) {
    float *values = checked_malloc((size_t)entry->elements * sizeof *values, "a tensor");
    Error error = {""};
    FUZZ_CHECK(safetensors_read_float32(entry, values, &error), "%s", error.text);
    return values;
}

static void write_again(const SafetensorsFile *file, const char *path) {
    static const char *const metadata[] = {"format", "pt", NULL};
    SafetensorsWriter *writer;
    Error error = {""};
    FUZZ_CHECK(safetensors_create(&writer, path, file->entries, file->count, DTYPE_FLOAT32, metadata, &error), "%s",
               error.text);
    for (int i = 0; i < file->count; i++) {
        float *values = read_entry(&file->entries[i]);
        FUZZ_CHECK(safetensors_write(writer, values, file->entries[i].elements, &error), "%s", error.text);
        free(values);
    }
    FUZZ_CHECK(safetensors_finish(writer, NULL, NULL, &error), "%s", error.text);
}

static void check_round_trip(const SafetensorsFile *file) {
    const char *path = fuzz_path("again.safetensors");
    SafetensorsFile again;
    Error error = {""};
    write_again(file, path);
    FUZZ_CHECK(safetensors_open(&again, path, &error), "%s", error.text);
    FUZZ_CHECK(again.count == file->count, "%d tensors of %d come back", again.count, file->count);
    for (int i = 0; i < file->count; i++) {
        const SafetensorsEntry *entry = &file->entries[i], *found = safetensors_find(&again, entry->name);
        FUZZ_CHECK(found && found->dimensions == entry->dimensions &&
                       memcmp(found->shape, entry->shape, sizeof found->shape) == 0,
                   "'%s' comes back in another shape", entry->name);
        float *values = read_entry(entry), *read = read_entry(found);
        FUZZ_CHECK(memcmp(values, read, (size_t)entry->elements * sizeof *values) == 0, "'%s' comes back another",
                   entry->name);
        free(values);
        free(read);
    }
    safetensors_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput input = {data, bytes};
    bool is_header = fuzz_number(&input, 1) % 2;
    const char *path = is_header ? write_header(&input) : fuzz_file("fuzz.safetensors", input.data, input.bytes);
    SafetensorsFile file;
    Error error = {""};
    if (!safetensors_open(&file, path, &error)) {
        FUZZ_CHECK(strstr(error.text, path), "the message does not name the file: %s", error.text);
        return 0;
    }
    for (int i = 0; i < file.count; i++) check_entry(&file, &file.entries[i]);
    for (int i = 1; i < file.count; i++) check_order(&file.entries[i - 1], &file.entries[i]);
    check_round_trip(&file);
    safetensors_close(&file);
    return 0;
}
