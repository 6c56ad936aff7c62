/* checkpoint_tokenizer.c: see checkpoint_tokenizer.h. Tested with transformers 4.57.1 and 5.24.0. */
#include "checkpoint/checkpoint_tokenizer.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_layout.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/vocabulary.h"
#include "util/files.h"

enum { END_OF_TEXT = VOCABULARY_END };

static const char end_of_text[] = "<|endoftext|>";

typedef enum Kind { KIND_UNKNOWN, KIND_BYTES, KIND_GPT2, KIND_OWN } Kind;

static char *path_in(const char *folder, const char *name) { return format_string("%s/%s", folder, name); }

/* Finds out what the tokens are. A tokenizer.json next to them is the user's own description, and takes precedence. */
static Kind kind_of(const char *folder) {
    if (!folder) return KIND_UNKNOWN;
    if (files_has(folder, "tokenizer.json")) return KIND_OWN;
    Error error;
    char *path = path_in(folder, "tokens.json");
    cJSON *json = files_is_file(path) ? checkpoint_read_json(path, &error) : NULL;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "tokenizer"));
    Kind kind = !name                        ? (vocabulary_is_in(folder) ? KIND_GPT2 : KIND_UNKNOWN)
                : strcmp(name, "bytes") == 0 ? KIND_BYTES
                : strcmp(name, "gpt2") == 0  ? KIND_GPT2
                                             : KIND_UNKNOWN;
    cJSON_Delete(json);
    free(path);
    return kind;
}

static void add_text(CheckpointTokenizer *tokenizer, const char *name, cJSON *json) {
    char *text = cJSON_Print(json);
    if (!text) die("out of memory: %s", name);
    tokenizer->files[tokenizer->count++] = (CheckpointFile){name, NULL, checked_strdup(text)};
    cJSON_free(text);
    cJSON_Delete(json);
}

/* Adds a copy of the file `from` in the folder, if there is one. */
static bool add_copy(CheckpointTokenizer *tokenizer, const char *name, const char *folder, const char *from) {
    if (!files_has(folder, from)) return false;
    tokenizer->files[tokenizer->count++] = (CheckpointFile){name, path_in(folder, from), NULL};
    return true;
}

/* ---- what transformers reads ---- */

static void add_tokenizer_config(CheckpointTokenizer *tokenizer, const char *class_name, const GPT2Config *model) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "tokenizer_class", class_name);
    cJSON_AddNumberToObject(json, "model_max_length", model->block_size);
    cJSON_AddBoolToObject(json, "clean_up_tokenization_spaces", false);
    if (strcmp(class_name, "GPT2Tokenizer") == 0) {
        static const char *const specials[] = {"bos_token", "eos_token", "unk_token"};
        cJSON_AddBoolToObject(json, "add_prefix_space", false);
        for (size_t i = 0; i < ARRAY_LENGTH(specials); i++) cJSON_AddStringToObject(json, specials[i], end_of_text);
    }
    add_text(tokenizer, "tokenizer_config.json", json);
}

/* {"type": "ByteLevel", ...}: each byte becomes a letter of its own, and nothing else happens to the text. */
static cJSON *byte_level(void) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "type", "ByteLevel");
    cJSON_AddBoolToObject(json, "add_prefix_space", false);
    cJSON_AddBoolToObject(json, "trim_offsets", false);
    cJSON_AddBoolToObject(json, "use_regex", false);
    return json;
}

/* A byte-pair encoding without merges, where byte b is token b. */
static cJSON *byte_model(void) {
    uint16_t letters[256];
    vocabulary_letters(letters);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "type", "BPE");
    cJSON *vocabulary = cJSON_AddObjectToObject(json, "vocab");
    for (int byte = 0; byte < 256; byte++) {
        unsigned letter = letters[byte]; /* below U+0800: one byte of UTF-8, or two */
        const char two[] = {(char)(0xc0 | letter >> 6), (char)(0x80 | (letter & 0x3f)), 0};
        const char one[] = {(char)letter, 0};
        cJSON_AddNumberToObject(vocabulary, letter < 0x80 ? one : two, byte);
    }
    cJSON_AddArrayToObject(json, "merges");
    return json;
}

static void add_byte_tokenizer(CheckpointTokenizer *tokenizer) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "version", "1.0");
    cJSON_AddArrayToObject(json, "added_tokens");
    cJSON_AddNullToObject(json, "normalizer");
    cJSON_AddItemToObject(json, "pre_tokenizer", byte_level());
    cJSON_AddNullToObject(json, "post_processor");
    cJSON_AddItemToObject(json, "decoder", byte_level());
    cJSON_AddItemToObject(json, "model", byte_model());
    add_text(tokenizer, "tokenizer.json", json);
}

/* Adds GPT-2's vocabulary from a folder, under transformers' names. Returns false if there is none. */
static bool add_vocabulary(CheckpointTokenizer *tokenizer, const char *folder) {
    for (int i = 0; i < VOCABULARY_FILES; i += 2) {
        const char *tokens = vocabulary_files[i], *merges = vocabulary_files[i + 1];
        if (files_has(folder, tokens) && files_has(folder, merges))
            return add_copy(tokenizer, "vocab.json", folder, tokens) &&
                   add_copy(tokenizer, "merges.txt", folder, merges);
    }
    return false;
}

void checkpoint_tokenizer(CheckpointTokenizer *tokenizer, const char *tokens_folder, const GPT2Config *model) {
    memset(tokenizer, 0, sizeof *tokenizer);
    Kind kind = kind_of(tokens_folder);
    tokenizer->has_end_of_text = kind != KIND_BYTES && model->vocab_size > END_OF_TEXT;
    if (tokens_folder) add_copy(tokenizer, "tokens.json", tokens_folder, "tokens.json");
    if (kind == KIND_BYTES) add_byte_tokenizer(tokenizer);
    bool is_gpt2 = kind == KIND_GPT2 &&
                   (add_vocabulary(tokenizer, tokens_folder) || add_vocabulary(tokenizer, TOKENIZER_GPT2_FOLDER));
    bool has_config = false;
    if (kind == KIND_OWN) {
        add_vocabulary(tokenizer, tokens_folder);
        add_copy(tokenizer, "tokenizer.json", tokens_folder, "tokenizer.json");
        has_config = add_copy(tokenizer, "tokenizer_config.json", tokens_folder, "tokenizer_config.json");
    }
    if (!has_config) add_tokenizer_config(tokenizer, is_gpt2 ? "GPT2Tokenizer" : "PreTrainedTokenizerFast", model);
}
