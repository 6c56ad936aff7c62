/* safetensors.h: reading and writing the safetensors format (an 8-byte little-endian header length, a JSON header
 * {name: {dtype, shape, data_offsets}}, then the data; https://github.com/huggingface/safetensors).
 *
 * Reading maps the file and believes nothing in the header before checking it. Writing streams: the list of tensors
 * is given first, then their data in that order, so memory stays bounded by one tensor. Names and layouts of GPT-2
 * are not known here: see checkpoint.h. */
#ifndef MARS_MODEL_SAFETENSORS_H
#define MARS_MODEL_SAFETENSORS_H

#include "util/base.h"
#include "util/dtype.h"

enum { SAFETENSORS_MAX_DIMENSIONS = 8 };

EXTERN_C_BEGIN

typedef struct SafetensorsEntry {
    char *name;
    DType type; /* only float32, bfloat16 and float16 are read; see safetensors_read_float32 */
    bool is_float16;
    int dimensions;
    int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
    int64_t elements;
    const void *data; /* into the mapping; alignment is not promised */
} SafetensorsEntry;

typedef struct SafetensorsFile {
    char *path;
    SafetensorsEntry *entries; /* tensors of other types are left out */
    int count;
    void *mapping;
    size_t bytes;
} SafetensorsFile;

/* Maps and checks the file: header length, JSON, types, shapes against byte ranges, ranges inside the file and not
 * overlapping, names once. */
bool safetensors_open(SafetensorsFile *file, const char *path, Error *error);
void safetensors_close(SafetensorsFile *file);

/* The entry of that name, or NULL. */
const SafetensorsEntry *safetensors_find(const SafetensorsFile *file, const char *name);

/* out[0..entry->elements) = the tensor converted to float32. */
void safetensors_read_float32(const SafetensorsEntry *entry, float *out);

typedef struct SafetensorsWriter SafetensorsWriter;

/* Creates the file at `path` and writes the header for `count` float32 tensors, of which name, dimensions and shape
 * are read. `metadata` is a NULL-terminated list of key, value, key, value, ... strings. */
bool safetensors_create(SafetensorsWriter **writer, const char *path, const SafetensorsEntry *entries, int count,
                        const char *const *metadata, Error *error);
/* Appends `elements` floats of data. */
bool safetensors_write(SafetensorsWriter *writer, const float *data, int64_t elements, Error *error);
/* Syncs, closes and frees the writer, also when it fails. Fails where not all announced data was written.
 * *bytes and *checksum (XXH3, 64 bits, of the whole file) may be NULL. */
bool safetensors_finish(SafetensorsWriter *writer, uint64_t *bytes, uint64_t *checksum, Error *error);

EXTERN_C_END

#endif
