/* data_sets.c: see data_sets.h. */
#include "data/data_sets.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"

/* ---- tokenizers ---- */

/* Compares the vocabulary size in HellaSwag's file with that of the training or validation tokens. */
static bool check_hellaswag(const DataSets *sets, const TokenOrigin *origin, const char *path, Error *error) {
    int size = hellaswag_vocab_size(sets->hellaswag), trained = origin->record.vocab_size;
    return trained == 0 || size == trained ||
           error_set(error,
                     "data.hellaswag: the tokens of %s are those of a vocabulary of %d, and of %d in %s/tokens.json; "
                     "make it with the tokenizer of the training data",
                     path, size, trained, origin->folder);
}

static bool check_tokenizers(const DataSets *sets, const char *hellaswag, Error *error) {
    const TokenOrigin *train = loader_origin(sets->train), *val = loader_origin(sets->val);
    Error reason;
    if (!token_origins_agree(train, val, &reason)) return error_set(error, "data.train and data.val: %s", reason.text);
    return !sets->hellaswag ||
           (check_hellaswag(sets, train, hellaswag, error) && check_hellaswag(sets, val, hellaswag, error));
}

/* ---- training files for validation ---- */

/* Whether the file's name has this word, with no letter before or after it. */
static bool has_word(const char *path, const char *word) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (const char *at = name; (at = strstr(at, word)); at++)
        if ((at == name || !isalpha((unsigned char)at[-1])) && !isalpha((unsigned char)at[strlen(word)])) return true;
    return false;
}

static bool is_for_validation(const char *path) {
    return has_word(path, "val") || has_word(path, "valid") || has_word(path, "validation");
}

/* Warns if a folder has training and validation files in one set. The files of each folder follow each other. */
static bool warn_of_both_kinds(const char *key, const Loader *loader, const char *kind) {
    const TokenFiles *files = loader_files(loader);
    const char *train = NULL, *val = NULL;
    char folder[4096], previous[4096] = "";
    for (int i = 0; i < files->count && !(train && val); i++) {
        files_folder_of(files->paths[i], folder, sizeof folder);
        if (strcmp(folder, previous) != 0) train = val = NULL;
        memcpy(previous, folder, sizeof previous);
        if (has_word(files->paths[i], "train")) train = files->paths[i];
        if (is_for_validation(files->paths[i])) val = files->paths[i];
    }
    if (!train || !val || train == val) return false;
    warn("%s matches both %s and %s: a model must not be validated on what it was trained on; name files of one kind, "
         "such as %s/%s_*.bin",
         key, train, val, folder, kind);
    return true;
}

static void warn_of_mistakes(const DataSets *sets) {
    const char *path;
    bool in_train = warn_of_both_kinds("data.train", sets->train, "train");
    bool in_val = warn_of_both_kinds("data.val", sets->val, "val");
    if (!in_train && !in_val && loaders_overlap(sets->train, sets->val, &path))
        warn("data.val: %s is in data.train too: the validation loss is that of tokens which the model was trained on",
             path);
}

/* ---- opening and closing ---- */

static bool open_loader(Loader **loader, const char *key, const char *pattern, DataOrder order, int max_sequences,
                        const DataSetsOptions *options, Error *error) {
    LoaderOptions its = {order, options->seed, options->block_size, options->vocab_size, max_sequences};
    Error reason;
    return (loader_open(loader, pattern, &its, &reason) &&
            loader_sample(*loader, options->local_rank, options->local_size, &reason)) ||
           error_set(error, "%s: %s", key, reason.text);
}

static bool open_hellaswag(DataSets *sets, const DataSetsOptions *options, Error *error) {
    Error reason;
    if (options->hellaswag[0] == 0) return true;
    char *path = files_expand_home(options->hellaswag);
    bool ok = hellaswag_open(&sets->hellaswag, path, options->vocab_size, &reason);
    free(path);
    return ok || error_set(error, "data.hellaswag: %s", reason.text);
}

bool data_sets_open(DataSets *sets, const DataSetsOptions *options, Error *error) {
    const DataSetsOptions *o = options;
    if (!open_loader(&sets->train, "data.train", o->train, o->order, o->train_sequences, o, error) ||
        !open_loader(&sets->val, "data.val", o->val, ORDER_SEQUENTIAL, o->val_sequences, o, error) ||
        !open_hellaswag(sets, o, error) || !check_tokenizers(sets, o->hellaswag, error))
        return false;
    warn_of_mistakes(sets);
    return true;
}

void data_sets_close(DataSets *sets) {
    loader_close(sets->train);
    loader_close(sets->val);
    hellaswag_close(sets->hellaswag);
    *sets = (DataSets){0};
}
