/* test_safetensors.c: the safetensors format: files that we write, files that others write, and files that lie. */
#include "dev/test/test.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/files.h"
#include "util/safetensors.h"

/* The bytes of a file with this header text and `data_bytes` bytes of data 0, 1, 2, ...; the caller frees. */
static uint8_t *build(const char *header, size_t header_bytes, size_t data_bytes, size_t *bytes) {
    *bytes = 8 + header_bytes + data_bytes;
    uint8_t *file = checked_malloc(*bytes, "a test file");
    uint64_t length = header_bytes;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) file[8 + header_bytes + i] = (uint8_t)i;
    return file;
}

static void write_built(const char *path, const char *header, size_t data_bytes) {
    size_t bytes;
    uint8_t *file = build(header, strlen(header), data_bytes, &bytes);
    test_write_file(path, file, bytes);
    free(file);
}

/* Opening must fail, and the message must name the file and hold `text`. */
static void assert_refused(const char *path, const char *text) {
    SafetensorsFile file;
    Error error = {""};
    if (safetensors_open(&file, path, &error)) fail_msg("%s was opened; expected: %s", path, text);
    if (!strstr(error.text, path) || !strstr(error.text, text))
        fail_msg("the message should name %s and hold '%s': %s", path, text, error.text);
    assert_false(file.is_open);
    assert_null(file.entries);
}

static void assert_header_refused(const char *header, size_t data_bytes, const char *text) {
    const char *path = test_path("lie.safetensors");
    write_built(path, header, data_bytes);
    assert_refused(path, text);
}

static void open_or_fail(SafetensorsFile *file, const char *path) {
    Error error;
    if (!safetensors_open(file, path, &error)) fail_msg("%s", error.text);
}

/* ---- writing ---- */

static void random_floats(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) { /* any bits, also infinities, NaNs and denormals */
        seed = seed * 1664525u + 1013904223u;
        uint32_t bits = seed ^ seed >> 13;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

enum { BIG = 700001 }; /* more than the writer's buffer, and odd */

static SafetensorsEntry example[] = {
    {.name = "scalar", .dimensions = 0},
    {.name = "odd \"name\"", .dimensions = 2, .shape = {3, 5}},
    {.name = "empty", .dimensions = 2, .shape = {0, 7}},
    {.name = "big", .dimensions = 1, .shape = {BIG}},
    {.name = "last", .dimensions = 3, .shape = {1, 2, 1}},
};
static const int64_t example_elements[] = {1, 15, 0, BIG, 2};

/* Writes the example, in pieces of odd sizes, and returns its data, which the caller frees. */
static float *write_example(const char *path, uint64_t *bytes, uint64_t *checksum) {
    static const char *const metadata[] = {"format", "pt", "note", "a \"quoted\" word", NULL};
    size_t total = 18 + BIG;
    float *data = checked_malloc(total * sizeof *data, "test data");
    random_floats(data, total, 7);
    SafetensorsWriter *writer;
    Error error;
    if (!safetensors_create(&writer, path, example, ARRAY_LENGTH(example), DTYPE_FLOAT32, metadata, &error))
        fail_msg("%s", error.text);
    static const int64_t pieces[] = {1, 0, 14, 1, 300000, 2, 400000};
    int64_t done = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(pieces); i++) {
        assert_true(safetensors_write(writer, data + done, pieces[i], &error));
        done += pieces[i];
    }
    assert_false(safetensors_write(writer, data, (int64_t)total - done + 1, &error));
    assert_non_null(strstr(error.text, "1 more elements"));
    assert_true(safetensors_write(writer, data + done, (int64_t)total - done, &error));
    if (!safetensors_finish(writer, bytes, checksum, &error)) fail_msg("%s", error.text);
    return data;
}

/* Rounded to nearest; special numbers stay what they are. In pieces, some longer than what is converted at a time. */
static void test_written_as_bfloat16(void **state) {
    (void)state;
    enum { FIRST = 3, SECOND = 9001, TOTAL = FIRST + SECOND };
    static float data[TOTAL], read[SECOND];
    const SafetensorsEntry entries[] = {{.name = "a", .dimensions = 1, .shape = {FIRST}},
                                        {.name = "b", .dimensions = 2, .shape = {SECOND, 1}}};
    const char *path = test_path("half.safetensors");
    SafetensorsWriter *writer;
    SafetensorsFile file;
    Error error;
    random_floats(data, TOTAL, 9);
    data[0] = NAN, data[1] = INFINITY, data[2] = -0.0f;
    assert_true(safetensors_create(&writer, path, entries, 2, DTYPE_BFLOAT16, NULL, &error));
    assert_true(safetensors_write(writer, data, 2, &error) && safetensors_write(writer, data + 2, TOTAL - 2, &error));
    if (!safetensors_finish(writer, NULL, NULL, &error)) fail_msg("%s", error.text);
    open_or_fail(&file, path);
    const float *expected = data;
    for (int i = 0; i < 2; i++) {
        const SafetensorsEntry *entry = safetensors_find(&file, entries[i].name);
        assert_true(entry && entry->type == SAFETENSORS_BF16 && entry->elements == entries[i].shape[0]);
        assert_true(safetensors_read_float32(entry, read, NULL));
        for (int64_t k = 0; k < entry->elements; k++) {
            float rounded = float_from_bfloat16(bfloat16_from_float(expected[k]));
            assert_true(isnan(rounded) ? isnan(read[k]) : memcmp(&read[k], &rounded, sizeof rounded) == 0);
        }
        expected += entry->elements;
    }
    safetensors_close(&file);
}

static void test_round_trip(void **state) {
    (void)state;
    const char *path = test_path("example.safetensors");
    float *data = write_example(path, NULL, NULL), *read = checked_malloc(BIG * sizeof *read, "test data");
    SafetensorsFile file;
    open_or_fail(&file, path);
    assert_int_equal(file.count, ARRAY_LENGTH(example));
    const float *expected = data;
    for (size_t i = 0; i < ARRAY_LENGTH(example); i++) {
        const SafetensorsEntry *entry = safetensors_find(&file, example[i].name);
        assert_non_null(entry);
        assert_int_equal(entry->type, SAFETENSORS_F32);
        assert_int_equal(entry->dimensions, example[i].dimensions);
        assert_memory_equal(entry->shape, example[i].shape, sizeof entry->shape);
        assert_int_equal(entry->elements, example_elements[i]);
        assert_true(safetensors_read_float32(entry, read, NULL));
        assert_memory_equal(read, expected, (size_t)entry->elements * sizeof *read);
        expected += entry->elements;
    }
    assert_null(safetensors_find(&file, "bi"));
    assert_null(safetensors_find(&file, "__metadata__"));
    safetensors_close(&file);
    free(data);
    free(read);
}

/* The file itself, looked at without our reader. */
static void test_bytes_on_disk(void **state) {
    (void)state;
    const char *path = test_path("disk.safetensors");
    uint64_t bytes, checksum, header;
    float *data = write_example(path, &bytes, &checksum);
    size_t length;
    char *file = test_read_file(path, &length);
    assert_int_equal(length, bytes);
    assert_true(files_checksum_memory(file, length) == checksum);
    memcpy(&header, file, 8);
    assert_int_equal((8 + header) % 64, 0);
    assert_int_equal(8 + header + (18 + BIG) * sizeof(float), length);
    assert_memory_equal(file + 8 + header, data, (18 + BIG) * sizeof(float));
    char *text = checked_strdup(file + 8);
    text[header] = 0;
    static const char start[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"a \\\"quoted\\\" word\"},"
                                "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                "\"odd \\\"name\\\"\":{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[4,64]},"
                                "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[64,64]},"
                                "\"big\":{\"dtype\":\"F32\",\"shape\":[700001],\"data_offsets\":[64,2800068]},"
                                "\"last\":{\"dtype\":\"F32\",\"shape\":[1,2,1],\"data_offsets\":[2800068,2800076]}}";
    assert_memory_equal(text, start, sizeof start - 1);
    assert_int_equal(strspn(text + sizeof start - 1, " "), header - (sizeof start - 1));
    free(text);
    free(file);
    free(data);
}

static void test_padding_for_every_length(void **state) {
    (void)state;
    char name[66] = "";
    for (int i = 1; i < 65; i++) {
        name[i - 1] = 'n';
        SafetensorsEntry entry = {.name = name, .dimensions = 1, .shape = {1}};
        const char *path = test_path("padding.safetensors");
        SafetensorsWriter *writer;
        float value = (float)i;
        assert_true(safetensors_create(&writer, path, &entry, 1, DTYPE_FLOAT32, NULL, NULL));
        assert_true(safetensors_write(writer, &value, 1, NULL));
        assert_true(safetensors_finish(writer, NULL, NULL, NULL));
        SafetensorsFile file;
        open_or_fail(&file, path);
        assert_int_equal((file.bytes - (int64_t)sizeof value) % 64, 0);
        assert_true(safetensors_read_float32(safetensors_find(&file, name), &value, NULL));
        assert_true(value == (float)i);
        safetensors_close(&file);
    }
}

static void test_unfinished_files_go_away(void **state) {
    (void)state;
    const char *path = test_path("short.safetensors");
    SafetensorsWriter *writer;
    Error error;
    float data[14] = {0};
    assert_true(safetensors_create(&writer, path, &example[1], 1, DTYPE_FLOAT32, NULL, &error));
    assert_true(safetensors_write(writer, data, 14, &error));
    assert_false(safetensors_finish(writer, NULL, NULL, &error));
    assert_non_null(strstr(error.text, "14 of the 15"));
    assert_non_null(strstr(error.text, path));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_false(safetensors_create(&writer, test_path("no/such/folder"), example, 1, DTYPE_FLOAT32, NULL, &error));
    assert_null(writer);
    assert_non_null(strstr(error.text, "No such file"));
}

/* /dev/full takes no byte: the error must come out, whether the data waits in the buffer or not. */
static void test_full_disk_is_reported(void **state) {
    (void)state;
    static float data[BIG];
    for (int big = 0; big < 2; big++) {
        const char *path = test_path("full%d", big);
        assert_int_equal(symlink("/dev/full", path), 0);
        SafetensorsWriter *writer;
        Error error = {""};
        const SafetensorsEntry *entry = big ? &example[3] : &example[1];
        assert_true(safetensors_create(&writer, path, entry, 1, DTYPE_FLOAT32, NULL, &error));
        bool written = safetensors_write(writer, data, big ? BIG : 15, &error);
        assert_int_equal(written, !big);
        if (big) assert_non_null(strstr(error.text, "No space left"));
        memset(&error, 0, sizeof error);
        assert_false(safetensors_finish(writer, NULL, NULL, &error));
        if (!strstr(error.text, "No space left") || !strstr(error.text, path)) fail_msg("message: %s", error.text);
    }
}

/* ---- reading ---- */

static void test_types(void **state) {
    (void)state;
    static const char header[] = "{\"byte\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                 "\"half\":{\"dtype\":\"F16\",\"shape\":[8],\"data_offsets\":[1,17]},"
                                 "\"brain\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[17,23]},"
                                 "\"new\":{\"dtype\":\"F3_E1M1\",\"shape\":[5],\"data_offsets\":[23,25]},"
                                 "\"float\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[25,33]},"
                                 "\"double\":{\"dtype\":\"F64\",\"shape\":[4],\"data_offsets\":[33,65]}}  \n ";
    /* every tensor but the first lies at an odd address */
    static const uint16_t half[8] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0xfc00};
    static const float half_values[8] = {0.0f, -0.0f, 1.0f, -2.0f, 0x1p-24f, 0x1.ff8p-15f, 65504.0f, -INFINITY};
    static const uint16_t brain[3] = {0x3f80, 0xc049, 0x7f80};
    static const float brain_values[3] = {1.0f, -3.140625f, INFINITY}, floats[2] = {-1.5f, 1e-42f};
    static const double doubles[4] = {0.1, -1e-42, 1e300, 3.0};
    static const float double_values[4] = {0.1f, -1e-42f, INFINITY, 3.0f};
    size_t bytes;
    uint8_t *image = build(header, strlen(header), 65, &bytes), *data = image + 8 + strlen(header);
    memcpy(data + 1, half, 16);
    memcpy(data + 17, brain, 6);
    memcpy(data + 25, floats, 8);
    memcpy(data + 33, doubles, 32);
    const char *path = test_path("types.safetensors");
    test_write_file(path, image, bytes);
    free(image);
    SafetensorsFile file;
    open_or_fail(&file, path);
    assert_int_equal(file.count, 4);
    assert_null(safetensors_find(&file, "byte"));
    assert_null(safetensors_find(&file, "new"));
    assert_int_equal(file.unread_count, 2);
    assert_string_equal(file.unread[0].name, "byte");
    assert_string_equal(file.unread[0].type, "U8");
    assert_string_equal(file.unread[1].name, "new");
    assert_string_equal(file.unread[1].type, "F3_E1M1");
    float read[8];
    assert_int_equal(safetensors_find(&file, "half")->type, SAFETENSORS_F16);
    assert_true(safetensors_read_float32(safetensors_find(&file, "half"), read, NULL));
    assert_memory_equal(read, half_values, sizeof half_values);
    assert_int_equal(safetensors_find(&file, "brain")->type, SAFETENSORS_BF16);
    assert_true(safetensors_read_float32(safetensors_find(&file, "brain"), read, NULL));
    assert_memory_equal(read, brain_values, sizeof brain_values);
    assert_true(safetensors_read_float32(safetensors_find(&file, "float"), read, NULL));
    assert_memory_equal(read, floats, sizeof floats);
    assert_true(safetensors_read_float32(safetensors_find(&file, "double"), read, NULL));
    assert_memory_equal(read, double_values, sizeof double_values);
    read[2] = 7.0f;
    assert_true(safetensors_read_first(safetensors_find(&file, "half"), 2, read, NULL));
    assert_memory_equal(read, half_values, 2 * sizeof *half_values);
    assert_true(read[2] == 7.0f);
    safetensors_close(&file);
}

/* All 65536 half floats against their definition. */
static void test_every_float16(void **state) {
    (void)state;
    static uint16_t bits[65536];
    static float values[65536];
    for (int i = 0; i < 65536; i++) bits[i] = (uint16_t)i;
    test_write_file(test_path("halves"), bits, sizeof bits);
    SafetensorsEntry entry = {.name = "all", .type = SAFETENSORS_F16, .elements = 65536, .path = test_path("halves")};
    entry.descriptor = open(entry.path, O_RDONLY);
    assert_true(safetensors_read_float32(&entry, values, NULL));
    close(entry.descriptor);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double expected = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        if (exponent == 31) expected = fraction ? NAN : INFINITY;
        if (isnan(expected) ? !isnan(values[i]) : fabs(values[i]) != expected) fail_msg("%04x is %g", i, values[i]);
        assert_int_equal(signbit(values[i]) != 0, i >> 15);
    }
}

/* Of either kind of tensor, those that are read as they are and those that are converted. */
static void test_a_file_that_is_cut_while_it_is_open(void **state) {
    (void)state;
    static const char header[] = "{\"whole\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                 "\"cut\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[8,20]},"
                                 "\"gone\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[20,24]}}";
    const char *path = test_path("cut.safetensors");
    SafetensorsFile file;
    Error error = {""};
    float values[3];
    write_built(path, header, 24);
    if (!safetensors_open(&file, path, &error)) fail_msg("%s", error.text);
    int64_t left = file.bytes - 5;
    assert_int_equal(truncate(path, left), 0);
    assert_true(safetensors_read_float32(safetensors_find(&file, "whole"), values, &error));
    assert_false(safetensors_read_float32(safetensors_find(&file, "cut"), values, &error));
    char *expected =
        format_string("%s has no byte %" PRId64 " any more, which it had when it was opened; copy or download "
                      "the file again",
                      path, left);
    assert_string_equal(error.text, expected);
    assert_false(safetensors_read_float32(safetensors_find(&file, "gone"), values, &error));
    free(expected);
    expected = format_string("%s has no byte %" PRId64 " any more", path, left + 1);
    assert_non_null(strstr(error.text, expected));
    free(expected);
    safetensors_close(&file);
}

/* ---- a set of files with an index ---- */

#define FLOATS(name, length, begin, end) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" length "],\"data_offsets\":[" begin "," end "]}"

static void write_set(const char *index) {
    mkdir(test_path("set"), 0777);
    write_built(test_path("set/one.safetensors"), "{" FLOATS("b", "1", "0", "4") "," FLOATS("d", "2", "4", "12") "}",
                12);
    write_built(test_path("set/two.safetensors"),
                "{" FLOATS("a", "1", "0", "4") ",\"mask\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[4,7]}}",
                7);
    write_built(test_path("set/same.safetensors"), "{" FLOATS("b", "1", "0", "4") "}", 4);
    test_write_text(test_path("set/index.json"), index);
}

static void test_index(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b", "d"};
    static const char *const first[] = {"\0\1\2\3", "\0\1\2\3", "\4\5\6\7"};
    write_set("{\"metadata\": {\"total_size\": 19}, \"weight_map\": {\"b\": \"one.safetensors\", "
              "\"d\": \"one.safetensors\", \"a\": \"two.safetensors\", \"mask\": \"two.safetensors\"}}");
    SafetensorsFile file;
    Error error;
    if (!safetensors_open_index(&file, test_path("set/index.json"), &error)) fail_msg("%s", error.text);
    assert_int_equal(file.count, ARRAY_LENGTH(names));
    assert_int_equal(file.shard_count, 2);
    assert_int_equal(file.unread_count, 1);
    assert_string_equal(file.unread[0].name, "mask");
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const SafetensorsEntry *entry = safetensors_find(&file, names[i]);
        assert_non_null(entry);
        float value;
        assert_true(safetensors_read_first(entry, 1, &value, &error));
        assert_memory_equal(&value, first[i], 4);
    }
    safetensors_close(&file);
}

static void test_wrong_indexes(void **state) {
    (void)state;
    static const struct {
        const char *index, *text;
    } cases[] = {
        {"", "set/index.json has no object weight_map"},
        {"[]", "has no object weight_map"},
        {"{\"weight_map\": []}", "has no object weight_map"},
        {"{\"weight_map\": {}}", "has no object weight_map"},
        {"{\"weight_map\": {\"a\": \"two.safetensors\"}} x", "has no object weight_map"},
        {"{\"weight_map\": {\"a\": 2}}",
         "set/index.json: weight_map should give each tensor the name of a file in the same folder"},
        {"{\"weight_map\": {\"a\": \"\"}}", "weight_map should give each tensor the name of a file"},
        {"{\"weight_map\": {\"a\": \"../set/two.safetensors\"}}",
         "weight_map should give each tensor the name of a file"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "set/.. is not a regular file"},
        {"{\"weight_map\": {\"a\": \"two.safetensors\", \"c\": \"three.safetensors\"}}",
         "set/three.safetensors: No such file or directory"},
        {"{\"weight_map\": {\"a\": \"index.json\"}}", "set/index.json: the header"},
        {"{\"weight_map\": {\"b\": \"one.safetensors\", \"c\": \"same.safetensors\"}}",
         "set/index.json: tensor 'b' is in two of the files"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        SafetensorsFile file;
        Error error = {""};
        write_set(cases[i].index);
        assert_false(safetensors_open_index(&file, test_path("set/index.json"), &error));
        if (!strstr(error.text, cases[i].text)) fail_msg("expected '%s': %s", cases[i].text, error.text);
        assert_null(file.entries);
    }
}

static void test_golden_files(void **state) {
    (void)state;
    SafetensorsFile file;
    open_or_fail(&file, "dev/golden/tiny_init.safetensors");
    assert_int_equal(file.count, 15);
    const SafetensorsEntry *entry = safetensors_find(&file, "h.1.mlp.c_fc.weight");
    assert_non_null(entry);
    assert_int_equal(entry->shape[0], 128);
    assert_int_equal(entry->shape[1], 512);
    static float values[128 * 512];
    assert_true(safetensors_read_float32(entry, values, NULL));
    /* as Python's safetensors reads it */
    assert_true(values[0] == -0x1.ffda94p-6f && values[1] == 0x1.61a19ap-6f);
    assert_true(values[512] == 0x1.848ddcp-6f && values[127 * 512 + 511] == -0x1.8efce6p-5f);
    safetensors_close(&file);
    open_or_fail(&file, "dev/golden/tiny_bias_init.safetensors");
    assert_int_equal(file.count, 28);
    safetensors_close(&file);
}

static void test_no_tensors(void **state) {
    (void)state;
    const char *path = test_path("none.safetensors");
    SafetensorsFile file;
    write_built(path, "{}", 0);
    open_or_fail(&file, path);
    assert_int_equal(file.count, 0);
    safetensors_close(&file);
    safetensors_close(&file); /* closing twice is harmless */
}

static void test_what_is_no_file(void **state) {
    (void)state;
    assert_refused(test_path("missing"), "No such file");
    assert_refused(test_folder(), "not a regular file");
    const char *pipe = test_path("pipe");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_refused(pipe, "not a regular file");
    const char *path = test_path("short");
    for (size_t bytes = 0; bytes < 8; bytes++) {
        test_write_file(path, "\2\0\0\0\0\0\0", bytes);
        assert_refused(path, "no safetensors file");
    }
}

static void test_header_length(void **state) {
    (void)state;
    const char *path = test_path("length");
    static const uint64_t lengths[] = {3,
                                       17,
                                       100000000,
                                       100000001,
                                       0x7fffffffu,
                                       UINT32_MAX,
                                       INT64_MAX,
                                       (uint64_t)INT64_MAX + 1,
                                       UINT64_MAX,
                                       UINT64_MAX - 7,
                                       UINT64_MAX - 8};
    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++) {
        uint8_t image[10] = {0};
        memcpy(image, &lengths[i], 8);
        memcpy(image + 8, "{}", 2);
        test_write_file(path, image, sizeof image);
        assert_refused(path, "the header should have");
    }
    /* A header above the limit that is there in full. */
    FILE *file = fopen(path, "wb");
    uint64_t length = 100000001;
    assert_int_equal(fwrite(&length, 1, 8, file), 8);
    assert_int_equal(fwrite("{}", 1, 2, file), 2);
    fclose(file);
    assert_int_equal(truncate(path, 8 + 100000001), 0);
    assert_refused(path, "100000000 are allowed");
    assert_int_equal(unlink(path), 0);
}

static void test_json(void **state) {
    (void)state;
    static const char *const wrong[] = {"",    " ",    "[]",      "\"text\"", "17",        "null",        " {}",    "{",
                                        "{}}", "{} x", "{\"a\"}", "{\"a\":}", "{\"a\":{}", "{\"a\":{},}", "{'a':1}"};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) assert_header_refused(wrong[i], 0, "JSON");
    size_t bytes;
    uint8_t *image = build("{}\0\0", 4, 0, &bytes); /* padded with 0 instead of spaces */
    const char *path = test_path("zeros");
    test_write_file(path, image, bytes);
    free(image);
    assert_refused(path, "JSON");
    char *deep = checked_calloc(1, 200001, "a deep header");
    memset(deep, '[', 200000);
    memcpy(deep, "{\"a\":", 5);
    assert_header_refused(deep, 0, "JSON");
    free(deep);
}

/* One header: tensor 'x' with these fields. */
#define X(fields) "{\"x\":{" fields "}}"
#define F32_SHAPE(shape, offsets) X("\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets)

/* Names are shown in messages. */
static void test_control_characters(void **state) {
    (void)state;
    static const char *const names[] = {"x\\ny", "\\u001b[2J", "\\t", "x\\u007f"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char *header = format_string("{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", names[i]);
        assert_header_refused(header, 8, "the name of a tensor has a control character");
        free(header);
    }
}

static void test_fields(void **state) {
    (void)state;
    static const struct {
        const char *header, *text;
    } lies[] = {
        {"{\"x\":17}", "no JSON object"},
        {"{\"x\":[]}", "no JSON object"},
        {X("\"dtype\":\"F\\n32\",\"shape\":[2],\"data_offsets\":[0,8]"), "the dtype is missing"},
        {X("\"shape\":[2],\"data_offsets\":[0,8]"), "the dtype is missing"},
        {X("\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]"), "the dtype is missing"},
        {X("\"dtype\":\"F32\",\"data_offsets\":[0,8]"), "the shape is missing"},
        {X("\"dtype\":\"F32\",\"shape\":[2]"), "data_offsets should be two"},
        {X("\"Dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), "the dtype is missing"},
        {X("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), "a field twice"},
        {X("\"dtype\":\"F32\",\"shape\":[2],\"shape\":[1],\"data_offsets\":[0,8]"), "a field twice"},
        {X("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"data_offsets\":[0,8]"), "a field twice"},
        {F32_SHAPE("2", "[0,8]"), "the shape is missing or is no array"},
        {F32_SHAPE("{}", "[0,8]"), "the shape is missing or is no array"},
        {F32_SHAPE("[-2]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[1,2.5]", "[0,8]"), "dimension 1 of the shape"},
        {F32_SHAPE("[\"2\"]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[null]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[1e300]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[1e999]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[9007199254740993]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[18446744073709551618]", "[0,8]"), "dimension 0 of the shape"},
        {F32_SHAPE("[1,1,1,1,1,1,1,1,2]", "[0,8]"), "more than 8 dimensions"},
        {F32_SHAPE("[4294967296,4294967296,4294967296]", "[0,8]"), "more than 2^63 elements"},
        {F32_SHAPE("[4294967296,2147483648]", "[0,8]"), "more than 2^63 elements"},
        {F32_SHAPE("[2147483648,2147483648]", "[0,8]"), "do not take the 8 bytes"}, /* times 4 overflows to 0 */
        {F32_SHAPE("[2,0]", "[0,8]"), "0 elements of F32 do not take the 8 bytes"},
        {F32_SHAPE("[3]", "[0,8]"), "3 elements of F32 do not take the 8 bytes"},
        {F32_SHAPE("[1]", "[0,8]"), "1 elements of F32 do not take the 8 bytes"},
        {F32_SHAPE("[2]", "[0,8,8]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[8]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "8"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[-8,0]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[0.5,8.5]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[0,\"8\"]"), "data_offsets should be two"},
        {F32_SHAPE("[2]", "[8,0]"), "do not lie in the 8 bytes"},
        {F32_SHAPE("[2]", "[4,12]"), "do not lie in the 8 bytes"},
        {F32_SHAPE("[2]", "[9007199254740980,9007199254740988]"), "do not lie in the 8 bytes"},
        {F32_SHAPE("[0]", "[16,16]"), "do not lie in the 8 bytes"},
        {X("\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]"), "2 elements of BF16"},
        {X("\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,8]"), "2 elements of I64"}, /* checked, if not read */
        {X("\"dtype\":\"F3\",\"shape\":[2],\"data_offsets\":[0,16]"), "do not lie in the 8 bytes"},
        {X("\"dtype\":\"F3\",\"shape\":[-2],\"data_offsets\":[0,8]"), "dimension 0 of the shape"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lies); i++) {
        assert_header_refused(lies[i].header, 8, lies[i].text);
        assert_header_refused(lies[i].header, 8, "tensor 'x'");
    }
}

/* One tensor of a header, of one-dimensional bytes or floats. */
#define BYTES(name, begin, end, length) \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #length "],\"data_offsets\":[" #begin "," #end "]}"

static void test_tensors_together(void **state) {
    (void)state;
    static const struct {
        const char *header, *text;
    } lies[] = {
        {"{" BYTES("a", 0, 8, 8) "," BYTES("a", 8, 16, 8) "}", "tensor 'a' is there twice"},
        {"{" BYTES("a", 0, 8, 8) "," BYTES("\\u0061", 8, 16, 8) "}", "tensor 'a' is there twice"},
        {"{" BYTES("a\\u0000b", 0, 8, 8) "," BYTES("a\\u0000c", 8, 16, 8) "}", ""}, /* refused, for either reason */
        {"{" BYTES("a", 0, 9, 9) "," BYTES("b", 8, 16, 8) "}", "tensor 'b' begins at byte 8 of the data, inside"},
        {"{" BYTES("a", 0, 16, 16) "," BYTES("b", 0, 16, 16) "}", "inside of tensor"},
        {"{" BYTES("a", 0, 16, 16) "," BYTES("b", 4, 8, 4) "}", "tensor 'b' begins at byte 4"},
        {"{" BYTES("b", 9, 16, 7) "," BYTES("a", 0, 8, 8) "}", "bytes 8 to 9 of the data, before tensor 'b'"},
        {"{" BYTES("a", 1, 16, 15) "}", "bytes 0 to 1 of the data, before tensor 'a'"},
        {"{" BYTES("a", 0, 15, 15) "}", "the tensors end at byte 15"},
        {"{" BYTES("a", 0, 8, 8) "," BYTES("b", 0, 0, 0) "}", "the tensors end at byte 8"},
        {"{}", "the tensors end at byte 0 of the data, which has 16"},
        {"{\"__metadata__\":17," BYTES("a", 0, 16, 16) "}", "__metadata__ should be an object of strings"},
        {"{\"__metadata__\":{\"a\":1}," BYTES("a", 0, 16, 16) "}", "__metadata__ should be an object of strings"},
        {"{\"__metadata__\":{},\"__metadata__\":{}," BYTES("a", 0, 16, 16) "}", "__metadata__ is there twice"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lies); i++) assert_header_refused(lies[i].header, 16, lies[i].text);
    const char *path = test_path("right");
    SafetensorsFile file; /* any order of names, tensors without data in between, unknown fields */
    write_built(path,
                "{" BYTES("z", 8, 16, 8) "," BYTES(
                    "e", 8, 8, 0) ",\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],"
                                  "\"data_offsets\":[0,8],\"more\":{}},\"__metadata__\":{\"a\":\"b\"}}",
                16);
    open_or_fail(&file, path);
    assert_int_equal(file.count, 1);
    safetensors_close(&file);
}

static void test_truncated(void **state) {
    (void)state;
    size_t bytes;
    char *whole = test_read_file("dev/golden/tiny_init.safetensors", &bytes);
    const char *path = test_path("truncated");
    for (size_t i = 0; i < 50; i++) {
        test_write_file(path, whole, i < 10 ? i * 160 : bytes - 1 - (i - 10) * 43000);
        assert_refused(path, "");
    }
    char *longer = checked_calloc(1, bytes + 1, "a test file");
    memcpy(longer, whole, bytes);
    test_write_file(path, longer, bytes + 1);
    assert_refused(path, "the tensors end at byte");
    free(longer);
    free(whole);
}

/* Whatever a file says: it is refused with a message, or everything in it can be read. */
static void assert_harmless(const char *path) {
    SafetensorsFile file;
    Error error = {""};
    if (!safetensors_open(&file, path, &error)) {
        assert_non_null(strstr(error.text, path));
        return;
    }
    for (int i = 0; i < file.count; i++) {
        const SafetensorsEntry *entry = &file.entries[i];
        assert_true(entry->elements >= 0 && entry->elements <= file.bytes);
        float *values = checked_malloc((size_t)entry->elements * sizeof *values, "test data");
        assert_true(safetensors_read_float32(entry, values, NULL));
        free(values);
    }
    safetensors_close(&file);
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Thousands of headers with a few bytes changed, to others that matter in JSON or to any. */
static void test_mutations(void **state) {
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                 "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                                 "\"c\":{\"dtype\":\"BF16\",\"shape\":[1,2,2],\"data_offsets\":[32,40]}}   ";
    static const char letters[] = "0123456789-+.eE\"\\[]{},: tfnuabcdFB16\n\t";
    const char *path = test_path("mutation");
    uint32_t random = 2024;
    for (int round = 0; round < 6000; round++) {
        size_t bytes;
        uint8_t *image = build(header, strlen(header), 40, &bytes);
        for (uint32_t changes = 1 + next_random(&random) % 3; changes > 0; changes--) {
            size_t position = 8 + next_random(&random) % strlen(header);
            uint32_t kind = next_random(&random) % 8;
            if (kind == 0) image[next_random(&random) % 8] ^= (uint8_t)(1u << next_random(&random) % 8);
            if (kind == 1) image[position] = (uint8_t)next_random(&random);
            if (kind == 2) memmove(image + position, image + position + 1, bytes - position - 1);
            if (kind >= 3) image[position] = (uint8_t)letters[next_random(&random) % (sizeof letters - 1)];
        }
        test_write_file(path, image, next_random(&random) % 10 ? bytes : next_random(&random) % bytes);
        free(image);
        assert_harmless(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_written_as_bfloat16),
        cmocka_unit_test(test_bytes_on_disk),
        cmocka_unit_test(test_padding_for_every_length),
        cmocka_unit_test(test_unfinished_files_go_away),
        cmocka_unit_test(test_full_disk_is_reported),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_every_float16),
        cmocka_unit_test(test_a_file_that_is_cut_while_it_is_open),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_wrong_indexes),
        cmocka_unit_test(test_golden_files),
        cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_what_is_no_file),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_tensors_together),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
