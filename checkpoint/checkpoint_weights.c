/* checkpoint_weights.c: weights in safetensors files, ours and other people's: finds them, matches their names and
 * layouts with a model's tensor table, and says what does not match. Checkpoints of a run, with the optimizer's state,
 * are in checkpoint_read.c.
 *
 * Names are those of the table after prefixes are removed: "transformer." (GPT2LMHeadModel), "module."
 * (DistributedDataParallel) and "_orig_mod." (torch.compile), in any order. Linear layers are stored (in, out) by
 * transformers (Conv1D) and (out, in) by nanoGPT (nn.Linear); the fused query-key-value matrix is not square, so its
 * shape shows which. If a model without an LM head of its own finds no token embedding, it reads lm_head: the two are
 * one tensor, and files keep either. */
#include "checkpoint/checkpoint.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_layout.h"
#include "checkpoint/weights_format.h"
#include "util/files.h"

#define INDEX_SUFFIX ".index.json"

static const char *const prefixes[] = {"transformer.", "module.", "_orig_mod."};
static const char lm_head[] = "lm_head.weight", lm_head_bias[] = "lm_head.bias";
static const char wte[] = "wte.weight", wpe[] = "wpe.weight";

/* ---- names and layouts ---- */

/* The name without its prefixes. */
static const char *bare_name(const char *name) {
    for (size_t i = 0; i < ARRAY_LENGTH(prefixes); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return bare_name(name + strlen(prefixes[i]));
    return name;
}

/* The entry with this bare name, or NULL. */
static const SafetensorsEntry *find_bare(const SafetensorsFile *file, const char *name) {
    for (int i = 0; i < file->count; i++)
        if (strcmp(bare_name(file->entries[i].name), name) == 0) return &file->entries[i];
    return NULL;
}

/* The entry of tensor `index` of the table, or NULL. */
static const SafetensorsEntry *find_tensor(const SafetensorsFile *file, const TensorTable *table, int index) {
    const char *name = table->tensors[index].name;
    const SafetensorsEntry *entry = find_bare(file, name);
    bool may_be_lm_head = strcmp(name, wte) == 0 && tensor_table_find(table, lm_head) < 0;
    return entry || !may_be_lm_head ? entry : find_bare(file, lm_head);
}

/* Whether linear layers are stored (out, in). */
static bool has_linear_layout(const SafetensorsFile *file) {
    const SafetensorsEntry *qkv = find_bare(file, "h.0.attn.c_attn.weight");
    return qkv && qkv->dimensions == 2 && qkv->shape[0] == 3 * qkv->shape[1];
}

static bool is_stored_transposed(const SafetensorsFile *file, const Tensor *tensor) {
    return tensor->hf_transposed && !has_linear_layout(file);
}

/* The shape that the tensor must have in the file; returns its dimensions. */
static int expected_shape(const SafetensorsFile *file, const Tensor *tensor, int64_t shape[2]) {
    bool transposed = is_stored_transposed(file, tensor);
    shape[0] = transposed || tensor->role == ROLE_VECTOR ? tensor->columns : tensor->rows;
    shape[1] = transposed ? tensor->rows : tensor->columns;
    return tensor->role == ROLE_VECTOR ? 1 : 2;
}

/* Whether the entry has the tensor's shape. It may have more rows of position embeddings. */
static bool has_shape(const SafetensorsFile *file, const SafetensorsEntry *entry, const Tensor *tensor) {
    int64_t shape[2];
    int dimensions = expected_shape(file, tensor, shape);
    if (entry->dimensions != dimensions) return false;
    if (strcmp(tensor->name, wpe) == 0) return entry->shape[0] >= shape[0] && entry->shape[1] == shape[1];
    return memcmp(entry->shape, shape, (size_t)dimensions * sizeof *shape) == 0;
}

/* Says why the tensor cannot be read: one line, without the file's name. */
static void explain(const SafetensorsFile *file, const TensorTable *table, int index, Error *error) {
    const Tensor *tensor = &table->tensors[index];
    const SafetensorsEntry *entry = find_tensor(file, table, index);
    char has[CHECKPOINT_SHAPE_LENGTH], expected[CHECKPOINT_SHAPE_LENGTH];
    int64_t shape[2];
    if (entry) {
        int dimensions = expected_shape(file, tensor, shape);
        error_set(error, "'%.100s' has the shape %s, the model expects %s", entry->name,
                  checkpoint_shape_text(has, entry->shape, entry->dimensions),
                  checkpoint_shape_text(expected, shape, dimensions));
        return;
    }
    error_set(error, "'%s' is missing", tensor->name);
    for (int i = 0; i < file->unread_count; i++)
        if (strcmp(bare_name(file->unread[i].name), tensor->name) == 0)
            error_set(error, "'%s' has the type %.20s; F32, F64, F16 and BF16 are read", tensor->name,
                      file->unread[i].type);
}

/* ---- what a file is ---- */

/* Sizes of a GPT-2, as far as its tensors show them; 0 if they do not. */
typedef struct Sizes {
    int64_t n_layer, n_embd, vocab_size, block_size;
    bool has_bias;
} Sizes;

/* Notes the sizes that one tensor shows; its shape may be unknown (NULL). */
static void note_tensor(Sizes *sizes, const char *name, const int64_t *shape) {
    bool is_token_embedding = strcmp(name, wte) == 0 || strcmp(name, lm_head) == 0;
    if (shape && is_token_embedding) sizes->vocab_size = shape[0], sizes->n_embd = shape[1];
    if (shape && strcmp(name, wpe) == 0) sizes->block_size = shape[0];
    long long block = strncmp(name, "h.", 2) == 0 ? strtoll(name + 2, NULL, 10) : -1;
    if (block >= sizes->n_layer && block < INT32_MAX) sizes->n_layer = block + 1;
}

static Sizes sizes_of_file(const SafetensorsFile *file) {
    Sizes sizes = {.has_bias = checkpoint_has_biases(file)};
    for (int i = 0; i < file->count; i++) {
        const SafetensorsEntry *entry = &file->entries[i];
        note_tensor(&sizes, bare_name(entry->name), entry->dimensions == 2 ? entry->shape : NULL);
    }
    return sizes;
}

static Sizes sizes_of_table(const TensorTable *table) {
    Sizes sizes = {.has_bias = tensor_table_find(table, "h.0.attn.c_attn.bias") >= 0};
    for (int i = 0; i < table->count; i++) {
        const int64_t shape[2] = {table->tensors[i].rows, table->tensors[i].columns};
        note_tensor(&sizes, table->tensors[i].name, shape);
    }
    return sizes;
}

bool checkpoint_has_biases(const SafetensorsFile *file) {
    for (int i = 0; i < file->count; i++) {
        const char *name = bare_name(file->entries[i].name);
        if (!ends_with(name, ".bias") || strcmp(name, lm_head_bias) == 0) continue;
        if (ends_with(name, ".attn.bias")) continue; /* the causal mask */
        char *weight = format_string("%.*s.weight", (int)(strlen(name) - strlen(".bias")), name);
        bool has_weight = find_bare(file, weight) != NULL;
        free(weight);
        if (has_weight) return true;
    }
    return false;
}

int64_t checkpoint_positions(const SafetensorsFile *file) {
    const SafetensorsEntry *entry = find_bare(file, wpe);
    return entry && entry->dimensions == 2 ? entry->shape[0] : 0;
}

/* ---- does the file fit the model? ---- */

enum { LISTED_TENSORS = 3 };

/* "; set model.n_layer to 2, model.bias to true": the keys that would make the model that of the file. The caller frees
 * the text. */
static char *what_to_set(const SafetensorsFile *file, const TensorTable *table) {
    Sizes has = sizes_of_file(file), expected = sizes_of_table(table);
    bool is_longer = has.block_size >= expected.block_size; /* then its first rows are read */
    const struct {
        const char *key;
        int64_t has, expected;
        const char *more;
    } keys[] = {{"n_layer", has.n_layer, expected.n_layer, ""},
                {"n_embd", has.n_embd, expected.n_embd, ""},
                {"vocab_size", has.vocab_size, expected.vocab_size, ""},
                {"block_size", is_longer ? 0 : has.block_size, expected.block_size, " or less"}};
    char *text = checked_strdup("");
    for (size_t i = 0; i < ARRAY_LENGTH(keys) + 1; i++) {
        bool is_bias = i == ARRAY_LENGTH(keys); /* check_unused() looks at the biases of the file */
        if (is_bias ? has.has_bias || !expected.has_bias : !keys[i].has || keys[i].has == keys[i].expected) continue;
        const char *start = text[0] ? ", " : "set ";
        char *longer = is_bias ? format_string("%s%smodel.bias to false", text, start)
                               : format_string("%s%smodel.%s to %" PRId64 "%s", text, start, keys[i].key, keys[i].has,
                                               keys[i].more);
        free(text);
        text = longer;
    }
    if (!text[0] && has.n_layer == 0 && file->count > 0) {
        free(text);
        text = format_string("its tensors have other names, such as '%.100s'; expected those of a GPT-2, such as "
                             "'wte.weight'; take the weights of a GPT-2",
                             file->entries[0].name);
    }
    return text;
}

/* Fills in the message of a file of which some tensors are missing or have another shape: at most five lines. */
static void explain_all(const SafetensorsFile *file, const TensorTable *table, int missing, int misshapen,
                        Error *error) {
    char *list = checked_strdup("");
    int listed = 0;
    for (int i = 0; i < table->count && listed < LISTED_TENSORS; i++) {
        const SafetensorsEntry *entry = find_tensor(file, table, i);
        Error reason;
        if (entry && has_shape(file, entry, &table->tensors[i])) continue;
        explain(file, table, i, &reason);
        char *longer = format_string("%s\n  %s", list, reason.text);
        free(list);
        list = longer;
        listed++;
    }
    char *remedy = what_to_set(file, table);
    error_set(error, "%s does not fit the model: of its %d tensors %d are missing and %d have another shape%s%s%s%s",
              file->path, table->count, missing, misshapen, missing + misshapen > listed ? ", such as" : ":", list,
              remedy[0] ? "\n  " : "", remedy);
    free(list);
    free(remedy);
}

/* Finds whether every element is 0 or, with `other`, equal to that of a tensor of the same length. Fails if they cannot
 * be read. */
static bool find_equal(const SafetensorsEntry *entry, const SafetensorsEntry *other, bool *equal, Error *error) {
    *equal = !other || other->elements == entry->elements;
    if (!*equal) return true;
    size_t bytes = (size_t)entry->elements * sizeof(float);
    float *a = checked_malloc(bytes, entry->name), *b = checked_calloc(1, bytes, entry->name);
    bool ok = safetensors_read_float32(entry, a, error) && (!other || safetensors_read_float32(other, b, error));
    for (int64_t i = 0; ok && i < entry->elements && *equal; i++) *equal = a[i] == b[i];
    free(a);
    free(b);
    return ok;
}

/* Whether `name` is the bias of a LayerNorm or linear layer whose weight the table has. */
static bool is_bias_of_known_weight(const TensorTable *table, const char *name) {
    if (!ends_with(name, ".bias")) return false;
    char *weight = format_string("%.*s.weight", (int)(strlen(name) - strlen(".bias")), name);
    int index = tensor_table_find(table, weight);
    free(weight);
    return index >= 0 && table->tensors[index].role != ROLE_EMBEDDING;
}

/* The key to set if the table lacks the bias `name`. If linear layers have biases, only norms can lack theirs. */
static const char *remedy_for_bias(const TensorTable *table, const char *name) {
    if (strcmp(name, lm_head_bias) == 0) return "set model.lm_head_bias to true";
    return sizes_of_table(table).has_bias ? "set model.norm to layernorm" : "set model.bias to true";
}

/* Returns false, and says that the table has no place for the tensor. */
static bool no_place(const SafetensorsFile *file, const TensorTable *table, const SafetensorsEntry *entry,
                     Error *error) {
    int64_t layers = sizes_of_file(file).n_layer;
    char remedy[64] = "take the weights of a GPT-2 without additions";
    if (layers > sizes_of_table(table).n_layer)
        snprintf(remedy, sizeof remedy, "set model.n_layer to %" PRId64, layers);
    return error_set(error, "%s: the model has no place for tensor '%.200s': %s", file->path, entry->name, remedy);
}

/* Checks a tensor of the file that the table does not have: it may be ignored only if the model is the same without
 * it. */
static bool check_unused(const SafetensorsFile *file, const TensorTable *table, const SafetensorsEntry *entry,
                         Error *error) {
    const char *name = bare_name(entry->name);
    bool equal = false;
    int index = tensor_table_find(table, name);
    const SafetensorsEntry *taken = index >= 0 ? find_tensor(file, table, index) : NULL;
    if (index >= 0)
        return taken == entry ||
               error_set(error, "%s has both '%.200s' and '%.200s'; expected one of the two; take other weights",
                         file->path, taken->name, entry->name);
    if (ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias")) return true; /* the causal mask */
    if (strcmp(name, lm_head) == 0) {
        int embedding = tensor_table_find(table, wte);
        taken = embedding >= 0 ? find_tensor(file, table, embedding) : NULL;
        if (taken == entry) return true;
        if (taken && !find_equal(entry, taken, &equal, error)) return false;
        return equal ||
               error_set(error,
                         "%s: 'lm_head.weight' differs from the token embedding; this model uses one for both: "
                         "set model.tie_embeddings to false",
                         file->path);
    }
    if (is_bias_of_known_weight(table, name)) {
        if (!find_equal(entry, NULL, &equal, error)) return false;
        return equal || error_set(error, "%s: '%s' is not all zero, and the model has no such bias: %s", file->path,
                                  entry->name, remedy_for_bias(table, name));
    }
    return no_place(file, table, entry, error);
}

bool checkpoint_check_weights(const SafetensorsFile *file, const TensorTable *table, Error *error) {
    int missing = 0, misshapen = 0;
    for (int i = 0; i < table->count; i++) {
        const SafetensorsEntry *entry = find_tensor(file, table, i);
        missing += !entry;
        misshapen += entry && !has_shape(file, entry, &table->tensors[i]);
    }
    if (missing + misshapen > 0) {
        explain_all(file, table, missing, misshapen, error);
        return false;
    }
    for (int i = 0; i < file->count; i++)
        if (!check_unused(file, table, &file->entries[i], error)) return false;
    return true;
}

/* ---- reading ---- */

bool checkpoint_read_weights(const SafetensorsFile *file, const TensorTable *table, int tensor, float *host,
                             Error *error) {
    const Tensor *wanted = &table->tensors[tensor];
    const SafetensorsEntry *entry = find_tensor(file, table, tensor);
    if (!entry || !has_shape(file, entry, wanted)) {
        Error reason;
        explain(file, table, tensor, &reason);
        return error_set(error, "%s: %s", file->path, reason.text);
    }
    if (!is_stored_transposed(file, wanted)) return safetensors_read_first(entry, (int64_t)wanted->size, host, error);
    float *stored = checked_malloc(wanted->size * sizeof *stored, wanted->name);
    bool ok = safetensors_read_float32(entry, stored, error);
    if (ok) checkpoint_transpose(stored, wanted->columns, wanted->rows, host);
    free(stored);
    return ok;
}

bool checkpoint_check_finite(const SafetensorsFile *file, const Tensor *tensor, const float *host, Error *error) {
    for (size_t i = 0; i < tensor->size; i++)
        if (!isfinite(host[i]))
            return error_set(error,
                             "%s: number %zu of tensor '%s' is %g; the training that made it has failed: take an "
                             "earlier checkpoint",
                             file->path, i, tensor->name, host[i]);
    return true;
}

static bool open_file(SafetensorsFile *file, const char *path, Error *error) {
    bool is_index = ends_with(path, INDEX_SUFFIX);
    if (is_index ? safetensors_open_index(file, path, error) : safetensors_open(file, path, error)) return true;
    weights_format_of_file(path, error); /* which sets a better message if it knows the format */
    return false;
}

static bool open_in_folder(SafetensorsFile *file, const char *folder, Error *error) {
    char *one = format_string("%s/" MODEL_FILE, folder), *index = format_string("%s/" MODEL_FILE INDEX_SUFFIX, folder);
    bool is_index = !files_is_file(one) && files_is_file(index);
    bool ok = open_file(file, is_index ? index : one, error);
    if (!ok && !is_index && !files_is_file(one)) weights_format_of_folder(folder, error);
    free(one);
    free(index);
    return ok;
}

/* Checks that a file is the one that was saved, if a trainer.json in its folder says so. *is_checkpoint: there is a
 * trainer.json. */
static bool verify_in_folder(const char *path, bool *is_checkpoint, Error *error) {
    char folder[PATH_MAX];
    files_folder_of(path, folder, sizeof folder);
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    *is_checkpoint = checkpoint_is_in(folder);
    Error reason;
    return !*is_checkpoint || checkpoint_verify_some(folder, &name, 1, &reason) ||
           error_set(error, "%s" CHECKPOINT_COPY_AGAIN, reason.text);
}

/* Checks weights with the trainer.json next to them or, if the file is a link, next to what it leads to. Other weights
 * have no checksum. */
static bool verify(const char *path, Error *error) {
    bool is_checkpoint, ok = verify_in_folder(path, &is_checkpoint, error);
    char *file = is_checkpoint ? NULL : realpath(path, NULL);
    if (file) ok = verify_in_folder(file, &is_checkpoint, error);
    free(file);
    return ok;
}

static bool verify_all(const SafetensorsFile *file, Error *error) {
    if (file->shard_count == 0) return verify(file->path, error);
    for (int i = 0; i < file->shard_count; i++)
        if (!verify(file->shards[i].path, error)) return false;
    return true;
}

bool checkpoint_open_weights(SafetensorsFile *file, const char *path, Error *error) {
    if (!(files_is_folder(path) ? open_in_folder(file, path, error) : open_file(file, path, error))) return false;
    if (verify_all(file, error)) return true;
    safetensors_close(file);
    return false;
}
