/* checkpoint_layout.c: names, layouts and the seal that both sides of a checkpoint agree on (see
 * checkpoint_layout.h). Only the list of folders touches the disk. */
#include "model/checkpoint_layout.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/files.h"

enum { TRANSPOSE_BLOCK = 32, MAX_STEP_DIGITS = 18 };

/* Reads "step_<digits>", with or without ASIDE_SUFFIX. */
static bool parse_folder_name(CheckpointFolder *folder, const char *name) {
    static const char prefix[] = "step_", digits[] = "0123456789";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strlen(name) >= sizeof folder->name) return false;
    const char *number = name + sizeof prefix - 1;
    size_t length = strspn(number, digits);
    if (length == 0 || length > MAX_STEP_DIGITS) return false;
    folder->step = strtoll(number, NULL, 10);
    folder->aside = strcmp(number + length, ASIDE_SUFFIX) == 0;
    snprintf(folder->name, sizeof folder->name, "%s", name);
    return folder->aside || number[length] == 0;
}

static int newest_first(const void *a, const void *b) {
    const CheckpointFolder *x = a, *y = b;
    if (x->step != y->step) return x->step > y->step ? -1 : 1;
    return x->aside != y->aside ? x->aside - y->aside : strcmp(x->name, y->name);
}

CheckpointFolder *checkpoint_folders(const char *checkpoints, int *count) {
    *count = 0;
    DIR *directory = opendir(checkpoints);
    if (!directory) return NULL;
    CheckpointFolder *folders = NULL, folder;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (!parse_folder_name(&folder, entry->d_name)) continue;
        folders = checked_realloc(folders, (size_t)(*count + 1) * sizeof *folders, "the list of checkpoints");
        folders[(*count)++] = folder;
    }
    closedir(directory);
    if (*count) qsort(folders, (size_t)*count, sizeof *folders, newest_first);
    return folders;
}

int checkpoint_latest(const char *checkpoints, const CheckpointFolder *folders, int count) {
    char target[CHECKPOINT_NAME_LENGTH];
    char *link = format_string("%s/%s", checkpoints, LATEST_LINK);
    ssize_t length = readlink(link, target, sizeof target - 1);
    free(link);
    if (length < 0) return -1;
    target[length] = 0;
    for (int i = 0; i < count; i++)
        if (strcmp(folders[i].name, target) == 0) return i;
    return -1;
}

bool checkpoint_is_transposed(const Tensor *tensor) { return tensor->role == ROLE_MATRIX; }

/* In square blocks, so that both sides stay in the cache: plain rows would touch a new line with every element. */
void checkpoint_transpose(const float *in, int64_t rows, int64_t columns, float *out) {
    for (int64_t row = 0; row < rows; row += TRANSPOSE_BLOCK)
        for (int64_t column = 0; column < columns; column += TRANSPOSE_BLOCK)
            for (int64_t i = row; i < min_i64(row + TRANSPOSE_BLOCK, rows); i++)
                for (int64_t j = column; j < min_i64(column + TRANSPOSE_BLOCK, columns); j++)
                    out[j * rows + i] = in[i * columns + j];
}

int64_t checkpoint_missing_bias(const TensorTable *table, const Tensor *tensor, char name[TENSOR_NAME_LENGTH]) {
    const char *dot = strrchr(tensor->name, '.');
    if (!dot || strcmp(dot, ".weight") != 0 || tensor->role == ROLE_EMBEDDING) return 0;
    snprintf(name, TENSOR_NAME_LENGTH, "%.*s.bias", (int)(dot - tensor->name), tensor->name);
    if (tensor_table_find(table, name) >= 0) return 0;
    return tensor->role == ROLE_MATRIX ? tensor->rows : tensor->columns;
}

/* The end of a sealed text: it takes the place of the closing brace. */
static const char SEAL_FORMAT[] = ",\n\"xxh3\": \"%016llx\"}\n";
enum { SEAL_LENGTH = sizeof ",\n\"xxh3\": \"0123456789abcdef\"}\n" - 1 };

char *checkpoint_seal(const char *json) {
    size_t body = (size_t)(strrchr(json, '}') - json);
    while (json[body - 1] == '\n') body--;
    char seal[SEAL_LENGTH + 1];
    snprintf(seal, sizeof seal, SEAL_FORMAT, (unsigned long long)files_checksum_memory(json, body));
    return format_string("%.*s%s", (int)body, json, seal);
}

bool checkpoint_seal_is_whole(const char *text, size_t bytes) {
    if (bytes < SEAL_LENGTH) return false;
    size_t body = bytes - SEAL_LENGTH;
    char seal[SEAL_LENGTH + 1];
    snprintf(seal, sizeof seal, SEAL_FORMAT, (unsigned long long)files_checksum_memory(text, body));
    return memcmp(text + body, seal, SEAL_LENGTH) == 0;
}
