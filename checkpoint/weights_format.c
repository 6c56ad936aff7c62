/* weights_format.c: see weights_format.h. */
#include "checkpoint/weights_format.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/files.h"

/* In a remedy, {path} stands for the file's path and {folder} for its folder. A tensor may be a view of another one,
 * which a safetensors file cannot hold; so each is copied. */
#define CONVERT_PYTORCH                                                                                            \
    "convert it: python3 -c \"import torch, safetensors.torch as s; d = torch.load('{path}', map_location='cpu', " \
    "weights_only=True); d = d.get('model', d); s.save_file({k: v.contiguous().clone() for k, v in d.items()}, "   \
    "'{folder}/model.safetensors')\" (it needs torch and safetensors)"
#define CONVERT_BY_TRANSFORMERS(how)                                                            \
    "convert it: python3 -c \"from transformers import GPT2LMHeadModel as M; M.from_pretrained" \
    "('{folder}'" how ").save_pretrained('{folder}/converted')\", and give {folder}/converted"

static const struct Signature {
    const char *bytes;
    size_t length;
    const char *name, *remedy;
} signatures[] = {
    {"PK\3\4", 4, "a file of PyTorch (torch.save)", CONVERT_PYTORCH},
    {"\x80\2\x8a\nl\xfc\x9c\x46\xf9", 9, "a file of PyTorch (torch.save)", CONVERT_PYTORCH},
    {"version https://git-lfs", 23, "a pointer of Git LFS instead of the file", "fetch the file: git lfs pull"},
    {"<!doctype", 9, "a web page", "download the file again: the server answered with a page"},
    {"<html", 5, "a web page", "download the file again: the server answered with a page"},
    {"\x89HDF\r\n", 6, "a file of TensorFlow or Keras (HDF5)", CONVERT_BY_TRANSFORMERS(", from_tf=True")},
    {"GGUF", 4, "a file of llama.cpp (GGUF)", "take the folder that it was made from, with model.safetensors"},
    {"\x93NUMPY", 6, "an array of NumPy", "save all tensors of the model with safetensors.numpy.save_file"},
    {"\xc6\xd7\x34\x01", 4, "a model of llm.c",
     "convert it to a folder by llm.c's dev/eval/export_hf.py"}, /* 20240326 */
};

static const struct Name {
    const char *file, *name, *remedy;
} names[] = {
    {"pytorch_model.bin", "a file of PyTorch", CONVERT_PYTORCH},
    {"pytorch_model.bin.index.json", "an index of PyTorch files", CONVERT_BY_TRANSFORMERS("")},
    {"ckpt.pt", "a checkpoint of nanoGPT", CONVERT_PYTORCH},
    {"tf_model.h5", "a file of TensorFlow", CONVERT_BY_TRANSFORMERS(", from_tf=True")},
    {"flax_model.msgpack", "a file of Flax", CONVERT_BY_TRANSFORMERS(", from_flax=True")},
    {"adapter_model.safetensors", "an adapter without its model",
     "merge it into its model by PEFT's merge_and_unload() and save_pretrained(), and give that folder"},
    {"checkpoints/latest", "the newest checkpoint of a run", "give {path}"},
};

/* The remedy with {path} and {folder} replaced, which the caller frees. */
static char *fill_in(const char *remedy, const char *path, const char *folder) {
    char *text = checked_strdup("");
    while (*remedy) {
        const char *value = NULL;
        size_t plain = strcspn(remedy, "{"), skipped = plain;
        if (strncmp(remedy + plain, "{path}", 6) == 0) value = path, skipped += 6;
        if (strncmp(remedy + plain, "{folder}", 8) == 0) value = folder, skipped += 8;
        if (!value && remedy[plain]) plain++, skipped++; /* a brace of Python's */
        char *longer = format_string("%s%.*s%s", text, (int)plain, remedy, value ? value : "");
        free(text);
        text = longer;
        remedy += skipped;
    }
    return text;
}

bool weights_format_of_file(const char *path, Error *error) {
    enum { LONGEST = 32 };
    char begin[LONGEST] = {0}, folder[PATH_MAX];
    FILE *file = files_is_file(path) ? fopen(path, "rb") : NULL;
    if (!file) return false;
    size_t count = fread(begin, 1, sizeof begin, file);
    fclose(file);
    files_folder_of(path, folder, sizeof folder);
    for (size_t i = 0; i < ARRAY_LENGTH(signatures); i++) {
        const struct Signature *s = &signatures[i];
        bool is_text = s->bytes[0] == '<'; /* in letters of either case */
        if (count < s->length ||
            (is_text ? strncasecmp(begin, s->bytes, s->length) != 0 : memcmp(begin, s->bytes, s->length) != 0))
            continue;
        char *remedy = fill_in(s->remedy, path, folder);
        error_set(error, "%s is %s, and only safetensors files are read; %s", path, s->name, remedy);
        free(remedy);
        return true;
    }
    return false;
}

bool weights_format_of_folder(const char *folder, Error *error) {
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char *path = format_string("%s/%s", folder, names[i].file);
        bool is_there = files_is_file(path) || files_is_folder(path);
        if (is_there) {
            char *remedy = fill_in(names[i].remedy, path, folder);
            error_set(error, "%s has no model.safetensors; %s is %s; %s", folder, path, names[i].name, remedy);
            free(remedy);
        }
        free(path);
        if (is_there) return true;
    }
    return false;
}
