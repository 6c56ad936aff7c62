/* tensor_table.c: building and searching the table of parameter tensors (see tensor_table.h). */
#include "util/tensor_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int tensor_table_add(TensorTable *table, const char *name, TensorRole role, int64_t rows, int64_t columns,
                     int64_t padded_rows) {
    if (strlen(name) >= TENSOR_NAME_LENGTH) die("the tensor name '%s' is too long", name);
    bool is_full = (table->count & (table->count - 1)) == 0; /* the capacity is a power of two, or 0 */
    size_t room = table->count ? 2 * (size_t)table->count : 1;
    if (is_full) table->tensors = checked_realloc(table->tensors, room * sizeof(Tensor), "the tensor table");
    Tensor *tensor = &table->tensors[table->count];
    memset(tensor, 0, sizeof *tensor);
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->role = role;
    tensor->rows = rows;
    tensor->columns = columns;
    tensor->stacked = 1;
    tensor->offset = table->length;
    tensor->size = (size_t)(rows * columns);
    tensor->hf_prefix = "";
    table->parameters += tensor->size;
    table->length += (size_t)round_up(padded_rows * columns, TENSOR_ALIGNMENT);
    return table->count++;
}

const char *tensor_role_name(TensorRole role) {
    static const char *const names[] = {
        [ROLE_MATRIX] = "matrix", [ROLE_EMBEDDING] = "embedding", [ROLE_LM_HEAD] = "lm_head", [ROLE_VECTOR] = "vector"};
    return names[role];
}

int tensor_table_find(const TensorTable *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->tensors[i].name, name) == 0) return i;
    return -1;
}

size_t tensor_table_largest(const TensorTable *table) {
    size_t largest = 0;
    for (int i = 0; i < table->count; i++)
        if (table->tensors[i].size > largest) largest = table->tensors[i].size;
    return largest;
}

void tensor_table_free(TensorTable *table) {
    free(table->tensors);
    memset(table, 0, sizeof *table);
}
