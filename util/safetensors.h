/* safetensors.h: reading and writing the safetensors format (an 8-byte little-endian header length, a JSON header
 * {name: {dtype, shape, data_offsets}}, then the data; https://github.com/huggingface/safetensors).
 *
 * Opening checks everything in the header before using it. Tensors are read by pread: if the disk fails, or the file is
 * cut meanwhile, reading returns an error. A map would end the program with SIGBUS. A set of files with an index is
 * read as one file. Writing takes the list of tensors first, then their data in that order, so that memory is bounded
 * by one tensor. checkpoint.h knows GPT-2's names and layouts. */
#ifndef MARS_UTIL_SAFETENSORS_H
#define MARS_UTIL_SAFETENSORS_H

#include "util/base.h"
#include "util/dtype.h"

enum { SAFETENSORS_MAX_DIMENSIONS = 8 };

EXTERN_C_BEGIN

/* The element types that are read. */
typedef enum SafetensorsType { SAFETENSORS_F32, SAFETENSORS_F64, SAFETENSORS_BF16, SAFETENSORS_F16 } SafetensorsType;

typedef struct SafetensorsEntry {
    char *name;
    SafetensorsType type;
    int dimensions;
    int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
    int64_t elements;
    int descriptor;   /* of the file that holds the data */
    int64_t offset;   /* of the data in that file */
    const char *path; /* of that file; belongs to its SafetensorsFile */
} SafetensorsEntry;

/* A tensor of another type, such as "I8". */
typedef struct SafetensorsUnread {
    char *name, *type;
} SafetensorsUnread;

typedef struct SafetensorsFile {
    char *path; /* of a set of files: of its index */
    SafetensorsEntry *entries;
    int count;
    SafetensorsUnread *unread;
    int unread_count;
    bool is_open; /* whether `descriptor` is open: not for a set of files */
    int descriptor;
    int64_t bytes;
    struct SafetensorsFile *shards; /* the files of a set: they hold the descriptors, and no entries of their own */
    int shard_count;
} SafetensorsFile;

/* Opens and checks the file: header length, JSON, types, shapes against byte ranges, ranges inside the file and not
 * overlapping, names once. */
bool safetensors_open(SafetensorsFile *file, const char *path, Error *error);

/* Opens a set of files as one. `path` is its index, {"weight_map": {tensor: file name, ...}}; the files lie in the same
 * folder, and each is checked as above. No tensor may be in two of them. */
bool safetensors_open_index(SafetensorsFile *file, const char *path, Error *error);

void safetensors_close(SafetensorsFile *file);

/* The entry of that name, or NULL. */
const SafetensorsEntry *safetensors_find(const SafetensorsFile *file, const char *name);

/* out[0..entry->elements) = the tensor converted to float32. A float64 beyond float32's range becomes infinite. Returns
 * false, with a message that names the file, if it cannot be read. */
bool safetensors_read_float32(const SafetensorsEntry *entry, float *out, Error *error);

/* The same for only the first `count` elements. */
bool safetensors_read_first(const SafetensorsEntry *entry, int64_t count, float *out, Error *error);

typedef struct SafetensorsWriter SafetensorsWriter;

/* Creates the file at `path` and writes the header for `count` tensors of one type. Of the entries, only name,
 * dimensions and shape are read. `metadata` is a NULL-terminated list of key, value, key, value, ... strings. */
bool safetensors_create(SafetensorsWriter **writer, const char *path, const SafetensorsEntry *entries, int count,
                        DType type, const char *const *metadata, Error *error);
/* Appends `elements` floats of data, rounded to the type. */
bool safetensors_write(SafetensorsWriter *writer, const float *data, int64_t elements, Error *error);
/* Syncs and closes the file and frees the writer, also on failure. Fails if not all announced data was written.
 * *bytes and *checksum (XXH3, 64 bits, of the whole file) may be NULL. */
bool safetensors_finish(SafetensorsWriter *writer, uint64_t *bytes, uint64_t *checksum, Error *error);

EXTERN_C_END

#endif
