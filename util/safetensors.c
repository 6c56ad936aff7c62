/* safetensors.c: the safetensors format (see safetensors.h). Nothing here knows what the tensors are for.
 *
 * A header may come from anywhere, so each number in it is checked before it is used: the data ranges of all tensors,
 * sorted, must follow each other without a gap or an overlap from the first byte of data to the last, and each range
 * must be exactly as long as its shape and type say. Numbers are little-endian on disk, as on every machine that this
 * program runs on: nothing is swapped. */
#include "util/safetensors.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/dtype.h"
#include "util/files.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian, and this code does not swap bytes"
#endif

/* The longest header that the format allows; the data we write begins at a multiple of DATA_ALIGNMENT. */
enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000, DATA_ALIGNMENT = 64 };

static const char METADATA[] = "__metadata__";

/* The element types of the format that we can check. */
static const struct ElementType {
    const char *name;
    int bytes;
    bool is_read;
    SafetensorsType type;
} element_types[] = {
    {"F32", 4, true, SAFETENSORS_F32}, {"F64", 8, true, SAFETENSORS_F64}, {"BF16", 2, true, SAFETENSORS_BF16},
    {"F16", 2, true, SAFETENSORS_F16}, {.name = "I64", .bytes = 8},       {.name = "U64", .bytes = 8},
    {.name = "I32", .bytes = 4},       {.name = "U32", .bytes = 4},       {.name = "I16", .bytes = 2},
    {.name = "U16", .bytes = 2},       {.name = "I8", .bytes = 1},        {.name = "U8", .bytes = 1},
    {.name = "BOOL", .bytes = 1},
};

/* One tensor as the header describes it, of whatever type. */
typedef struct Description {
    const char *name, *type_name;
    const struct ElementType *type; /* NULL: a type that we know nothing about */
    int dimensions;
    int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
    int64_t elements;
    int64_t begin, end; /* its range of the data */
} Description;

#define GET_AGAIN "copy or download the file again"

static bool open_file(SafetensorsFile *file, Error *error) {
    struct stat status;
    int descriptor = FILES_RETRY(open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (descriptor < 0) return files_fail(error, "open", file->path);
    file->descriptor = descriptor;
    file->is_open = true; /* from here on safetensors_close() closes it */
    if (fstat(descriptor, &status) != 0) return files_fail(error, "read", file->path);
    if (!S_ISREG(status.st_mode)) return error_set(error, "%s is not a regular file", file->path);
    file->bytes = status.st_size;
    return file->bytes >= LENGTH_BYTES || error_set(error,
                                                    "%s is no safetensors file: it has %" PRId64
                                                    " bytes, and the length of the header takes %d; " GET_AGAIN,
                                                    file->path, file->bytes, LENGTH_BYTES);
}

/* Reads bytes that are there, unless the file was cut after it was opened. */
static bool read_bytes(int descriptor, const char *path, void *data, size_t bytes, int64_t at, Error *error) {
    ssize_t got = files_read_at(descriptor, data, bytes, at);
    if (got < 0) return files_fail(error, "read", path);
    return (size_t)got == bytes ||
           error_set(error, "%s has no byte %" PRId64 " any more, which it had when it was opened; " GET_AGAIN, path,
                     at + got);
}

/* Parses the text, after which comes a 0 byte, so that the parser stops there, and requires an object followed only by
 * white space. A 0 byte inside would end a name early for us and not for other readers. */
static cJSON *parse_json(const char *path, const char *text, size_t bytes, Error *error) {
    if (bytes == 0 || text[0] != '{' || memchr(text, 0, bytes)) {
        error_set(error, "%s: the header is no JSON object; " GET_AGAIN, path);
        return NULL;
    }
    const char *end = text;
    cJSON *json = cJSON_ParseWithLengthOpts(text, bytes + 1, &end, true);
    if (!json) error_set(error, "%s: the header is no valid JSON, from byte %td on; " GET_AGAIN, path, end - text);
    return json;
}

/* Finds the header, checks its length, reads and parses it. *data_start is the offset of the data in the file. */
static cJSON *read_header(const SafetensorsFile *file, int64_t *data_start, Error *error) {
    uint64_t length;
    if (!read_bytes(file->descriptor, file->path, &length, sizeof length, 0, error)) return NULL;
    uint64_t left = (uint64_t)file->bytes - LENGTH_BYTES;
    if (length > MAX_HEADER_BYTES || length > left) {
        error_set(error,
                  "%s: the header should have %" PRIu64 " bytes; the file has %" PRIu64
                  " after its length, and %d are allowed; " GET_AGAIN,
                  file->path, length, left, MAX_HEADER_BYTES);
        return NULL;
    }
    *data_start = LENGTH_BYTES + (int64_t)length;
    char *text = checked_calloc(1, (size_t)length + 1, "a safetensors header");
    bool ok = read_bytes(file->descriptor, file->path, text, (size_t)length, LENGTH_BYTES, error);
    cJSON *header = ok ? parse_json(file->path, text, (size_t)length, error) : NULL;
    free(text);
    return header;
}

/* A JSON number is a double to our parser: up to 2^53 it holds every whole number exactly. */
static bool whole_number(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item)) return false;
    double number = item->valuedouble;
    if (!(number >= 0 && number < 0x1p53) || number != (double)(int64_t)number) return false;
    *value = (int64_t)number;
    return true;
}

static bool read_shape(const char *path, Description *tensor, const cJSON *shape, Error *error) {
    if (!cJSON_IsArray(shape))
        return error_set(error, "%s: tensor '%.200s': the shape is missing or is no array", path, tensor->name);
    tensor->elements = 1;
    const cJSON *dimension;
    cJSON_ArrayForEach(dimension, shape) {
        int64_t length;
        if (tensor->dimensions == SAFETENSORS_MAX_DIMENSIONS)
            return error_set(error, "%s: tensor '%.200s': the shape has more than %d dimensions", path, tensor->name,
                             SAFETENSORS_MAX_DIMENSIONS);
        if (!whole_number(dimension, &length))
            return error_set(error, "%s: tensor '%.200s': dimension %d of the shape is no whole number from 0 to 2^53",
                             path, tensor->name, tensor->dimensions);
        if (__builtin_mul_overflow(tensor->elements, length, &tensor->elements))
            return error_set(error, "%s: tensor '%.200s': the shape has more than 2^63 elements", path, tensor->name);
        tensor->shape[tensor->dimensions++] = length;
    }
    return true;
}

static bool read_range(const char *path, Description *tensor, const cJSON *offsets, int64_t data_bytes, Error *error) {
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole_number(offsets->child, &tensor->begin) ||
        !whole_number(offsets->child->next, &tensor->end))
        return error_set(error, "%s: tensor '%.200s': data_offsets should be two whole numbers, 0 or more", path,
                         tensor->name);
    if (tensor->begin > tensor->end || tensor->end > data_bytes)
        return error_set(error,
                         "%s: tensor '%.200s': data_offsets [%" PRId64 ", %" PRId64 "] do not lie in the %" PRId64
                         " bytes of data",
                         path, tensor->name, tensor->begin, tensor->end, data_bytes);
    int64_t have = tensor->end - tensor->begin, need;
    if (tensor->type && (__builtin_mul_overflow(tensor->elements, tensor->type->bytes, &need) || need != have))
        return error_set(
            error, "%s: tensor '%.200s': %" PRId64 " elements of %s do not take the %" PRId64 " bytes of data_offsets",
            path, tensor->name, tensor->elements, tensor->type->name, have);
    return true;
}

static const struct ElementType *find_type(const char *name) {
    for (size_t i = 0; i < ARRAY_LENGTH(element_types); i++)
        if (strcmp(element_types[i].name, name) == 0) return &element_types[i];
    return NULL;
}

/* The member of `object` of that name; *twice becomes true if there are two. */
static const cJSON *member(const cJSON *object, const char *name, bool *twice) {
    const cJSON *found = NULL, *item;
    cJSON_ArrayForEach(item, object) {
        if (strcmp(item->string, name) != 0) continue;
        if (found) *twice = true;
        found = item;
    }
    return found;
}

/* Names are shown in messages, which a line feed or a terminal's control sequence would spoil. */
static bool has_control_character(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) return true;
    return false;
}

static bool describe(const char *path, Description *tensor, const cJSON *item, int64_t data_bytes, Error *error) {
    memset(tensor, 0, sizeof *tensor);
    tensor->name = item->string;
    if (has_control_character(tensor->name))
        return error_set(error, "%s: the name of a tensor has a control character", path);
    if (!cJSON_IsObject(item)) return error_set(error, "%s: tensor '%.200s' is no JSON object", path, tensor->name);
    bool twice = false;
    const cJSON *type = member(item, "dtype", &twice), *shape = member(item, "shape", &twice),
                *offsets = member(item, "data_offsets", &twice);
    if (twice) return error_set(error, "%s: tensor '%.200s' has a field twice", path, tensor->name);
    if (!cJSON_IsString(type) || has_control_character(type->valuestring))
        return error_set(error, "%s: tensor '%.200s': the dtype is missing or is no string", path, tensor->name);
    tensor->type_name = type->valuestring;
    tensor->type = find_type(type->valuestring);
    return read_shape(path, tensor, shape, error) && read_range(path, tensor, offsets, data_bytes, error);
}

static bool check_metadata(const char *path, const cJSON *metadata, Error *error) {
    bool ok = cJSON_IsObject(metadata);
    const cJSON *item;
    cJSON_ArrayForEach(item, metadata) ok = ok && cJSON_IsString(item);
    return ok || error_set(error, "%s: %s should be an object of strings", path, METADATA);
}

static int compare_descriptions(const void *a, const void *b) {
    return strcmp(((const Description *)a)->name, ((const Description *)b)->name);
}

static int compare_ranges(const void *a, const void *b) {
    const Description *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Checks that names occur once, and that the ranges, one after the other, are all of the data. Sorts the tensors by
 * range. */
static bool check_together(const char *path, Description *tensors, int count, int64_t data_bytes, Error *error) {
    qsort(tensors, (size_t)count, sizeof *tensors, compare_descriptions);
    for (int i = 1; i < count; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return error_set(error, "%s: tensor '%.200s' is there twice", path, tensors[i].name);
    qsort(tensors, (size_t)count, sizeof *tensors, compare_ranges);
    int64_t position = 0;
    for (int i = 0; i < count; i++) {
        if (tensors[i].begin < position)
            return error_set(error,
                             "%s: tensor '%.200s' begins at byte %" PRId64 " of the data, inside of tensor '%.200s'",
                             path, tensors[i].name, tensors[i].begin, tensors[i - 1].name);
        if (tensors[i].begin > position)
            return error_set(
                error, "%s: bytes %" PRId64 " to %" PRId64 " of the data, before tensor '%.200s', belong to no tensor",
                path, position, tensors[i].begin, tensors[i].name);
        position = tensors[i].end;
    }
    return position == data_bytes ||
           error_set(error, "%s: the tensors end at byte %" PRId64 " of the data, which has %" PRId64 " bytes", path,
                     position, data_bytes);
}

/* Describes every tensor of the header; *count of them in a new array, which the caller frees. NULL on failure. */
static Description *describe_all(const char *path, const cJSON *header, int64_t data_bytes, int *count, Error *error) {
    Description *tensors = checked_calloc((size_t)cJSON_GetArraySize(header), sizeof *tensors, "tensor descriptions");
    int described = 0, metadata = 0;
    bool ok = true;
    const cJSON *item;
    cJSON_ArrayForEach(item, header) {
        if (strcmp(item->string, METADATA) != 0)
            ok = describe(path, &tensors[described++], item, data_bytes, error);
        else if (metadata++)
            ok = error_set(error, "%s: %s is there twice", path, METADATA);
        else
            ok = check_metadata(path, item, error);
        if (!ok) break;
    }
    if (ok && check_together(path, tensors, described, data_bytes, error)) {
        *count = described;
        return tensors;
    }
    free(tensors);
    return NULL;
}

static void add_unread(SafetensorsFile *file, const Description *tensor) {
    SafetensorsUnread *unread = &file->unread[file->unread_count++];
    unread->name = checked_strdup(tensor->name);
    unread->type = checked_strdup(tensor->type_name);
}

static void add_entry(SafetensorsFile *file, const Description *tensor, int64_t data_start) {
    SafetensorsEntry *entry = &file->entries[file->count++];
    entry->name = checked_strdup(tensor->name);
    entry->type = tensor->type->type;
    entry->dimensions = tensor->dimensions;
    memcpy(entry->shape, tensor->shape, sizeof entry->shape);
    entry->elements = tensor->elements;
    entry->descriptor = file->descriptor;
    entry->offset = data_start + tensor->begin;
    entry->path = file->path;
}

static bool read_tensors(SafetensorsFile *file, const cJSON *header, int64_t data_start, Error *error) {
    int count = 0;
    Error reason;
    Description *tensors = describe_all(file->path, header, file->bytes - data_start, &count, &reason);
    if (!tensors) return error_set(error, "%s; " GET_AGAIN, reason.text);
    file->entries = checked_calloc((size_t)count, sizeof *file->entries, "tensor entries");
    file->unread = checked_calloc((size_t)count, sizeof *file->unread, "tensor entries");
    for (int i = 0; i < count; i++)
        if (tensors[i].type && tensors[i].type->is_read)
            add_entry(file, &tensors[i], data_start);
        else
            add_unread(file, &tensors[i]);
    free(tensors);
    return true;
}

bool safetensors_open(SafetensorsFile *file, const char *path, Error *error) {
    memset(file, 0, sizeof *file);
    file->path = checked_strdup(path);
    int64_t data_start = 0;
    cJSON *header = open_file(file, error) ? read_header(file, &data_start, error) : NULL;
    bool ok = header && read_tensors(file, header, data_start, error);
    cJSON_Delete(header);
    if (!ok) safetensors_close(file);
    return ok;
}

void safetensors_close(SafetensorsFile *file) {
    for (int i = 0; i < file->count; i++) free(file->entries[i].name);
    for (int i = 0; i < file->unread_count; i++) free(file->unread[i].name), free(file->unread[i].type);
    for (int i = 0; i < file->shard_count; i++) safetensors_close(&file->shards[i]);
    free(file->entries);
    free(file->unread);
    free(file->shards);
    free(file->path);
    if (file->is_open) close(file->descriptor);
    memset(file, 0, sizeof *file);
}

const SafetensorsEntry *safetensors_find(const SafetensorsFile *file, const char *name) {
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->entries[i].name, name) == 0) return &file->entries[i];
    return NULL;
}

/* IEEE 754 half precision: 1 sign bit, 5 bits of exponent (bias 15), 10 bits of fraction. Every value is exactly a
 * float. */
static float float_from_float16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 0x1f, fraction = half & 0x3ff, bits;
    float value;
    if (exponent == 0) { /* zero and subnormal: the fraction counts units of 2^-24 */
        value = (float)fraction * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
    } else { /* infinity and NaN keep their fraction under the largest exponent of a float */
        bits = (exponent == 0x1f ? 0xffu : exponent - 15 + 127) << 23 | fraction << 13;
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* out[0..count) = numbers of a type that is not float32. */
static void convert(SafetensorsType type, const uint8_t *stored, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) {
        double wide;
        uint16_t bits;
        if (type == SAFETENSORS_F64) {
            memcpy(&wide, stored + 8 * i, sizeof wide);
            out[i] = (float)wide;
            continue;
        }
        memcpy(&bits, stored + 2 * i, sizeof bits);
        out[i] = type == SAFETENSORS_F16 ? float_from_float16(bits) : float_from_bfloat16((bfloat16){bits});
    }
}

bool safetensors_read_first(const SafetensorsEntry *entry, int64_t count, float *out, Error *error) {
    assert(count >= 0 && count <= entry->elements);
    if (entry->type == SAFETENSORS_F32)
        return read_bytes(entry->descriptor, entry->path, out, (size_t)count * sizeof *out, entry->offset, error);
    enum { BLOCK = 8192 };
    uint8_t stored[BLOCK * sizeof(double)];
    int64_t size = entry->type == SAFETENSORS_F64 ? sizeof(double) : sizeof(uint16_t);
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t n = min_i64(BLOCK, count - done);
        if (!read_bytes(entry->descriptor, entry->path, stored, (size_t)(n * size), entry->offset + done * size, error))
            return false;
        convert(entry->type, stored, n, out + done);
    }
    return true;
}

bool safetensors_read_float32(const SafetensorsEntry *entry, float *out, Error *error) {
    return safetensors_read_first(entry, entry->elements, out, error);
}

struct SafetensorsWriter {
    FileWriter *file;
    char *path;
    DType type;                 /* of all tensors */
    int64_t announced, written; /* elements */
};

/* The header of a file with these tensors, one after the other; the caller frees it with cJSON_free. */
static char *header_text(const SafetensorsEntry *entries, int count, DType type, const char *const *metadata,
                         int64_t *elements) {
    cJSON *header = cJSON_CreateObject();
    cJSON *about = metadata && metadata[0] ? cJSON_AddObjectToObject(header, METADATA) : NULL;
    for (int i = 0; about && metadata[i]; i += 2) cJSON_AddStringToObject(about, metadata[i], metadata[i + 1]);
    *elements = 0;
    for (int i = 0; i < count; i++) {
        cJSON *tensor = cJSON_AddObjectToObject(header, entries[i].name);
        cJSON_AddStringToObject(tensor, "dtype", type == DTYPE_BFLOAT16 ? "BF16" : "F32");
        cJSON *shape = cJSON_AddArrayToObject(tensor, "shape");
        int64_t size = 1;
        for (int d = 0; d < entries[i].dimensions; d++) {
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)entries[i].shape[d]));
            size *= entries[i].shape[d];
        }
        cJSON *offsets = cJSON_AddArrayToObject(tensor, "data_offsets");
        double element = (double)dtype_size(type);
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*elements * element));
        *elements += size;
        cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*elements * element));
    }
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    if (!text) die("out of memory: a safetensors header");
    return text;
}

bool safetensors_create(SafetensorsWriter **writer, const char *path, const SafetensorsEntry *entries, int count,
                        DType type, const char *const *metadata, Error *error) {
    *writer = NULL;
    FileWriter *file;
    if (!file_writer_open(&file, path, error)) return false;
    int64_t elements;
    char *text = header_text(entries, count, type, metadata, &elements);
    size_t bytes = strlen(text);
    uint64_t length = (uint64_t)round_up((int64_t)(LENGTH_BYTES + bytes), DATA_ALIGNMENT) - LENGTH_BYTES;
    static const char spaces[] = "                                                                ";
    bool ok = file_writer_append(file, &length, sizeof length, error) && file_writer_append(file, text, bytes, error) &&
              file_writer_append(file, spaces, (size_t)length - bytes, error);
    cJSON_free(text);
    if (!ok) {
        file_writer_abandon(file);
        return false;
    }
    *writer = checked_malloc(sizeof **writer, "a safetensors writer");
    **writer = (SafetensorsWriter){file, checked_strdup(path), type, elements, 0};
    return true;
}

static bool append_bfloat16(FileWriter *file, const float *data, int64_t elements, Error *error) {
    enum { BLOCK = 4096 };
    bfloat16 rounded[BLOCK];
    for (int64_t done = 0; done < elements; done += BLOCK) {
        int64_t n = min_i64(BLOCK, elements - done);
        for (int64_t i = 0; i < n; i++) rounded[i] = bfloat16_from_float(data[done + i]);
        if (!file_writer_append(file, rounded, (size_t)n * sizeof *rounded, error)) return false;
    }
    return true;
}

bool safetensors_write(SafetensorsWriter *writer, const float *data, int64_t elements, Error *error) {
    if (elements > writer->announced - writer->written)
        return error_set(error, "%s: %" PRId64 " more elements than its header announces", writer->path,
                         (writer->written + elements - writer->announced));
    writer->written += elements;
    if (writer->type == DTYPE_BFLOAT16) return append_bfloat16(writer->file, data, elements, error);
    return file_writer_append(writer->file, data, (size_t)elements * sizeof *data, error);
}

bool safetensors_finish(SafetensorsWriter *writer, uint64_t *bytes, uint64_t *checksum, Error *error) {
    bool complete = writer->written == writer->announced;
    if (!complete) {
        error_set(error, "%s: %" PRId64 " of the %" PRId64 " elements that its header announces were written",
                  writer->path, writer->written, writer->announced);
        file_writer_abandon(writer->file);
    }
    bool ok = complete && file_writer_close(writer->file, bytes, checksum, error);
    free(writer->path);
    free(writer);
    return ok;
}
