/* inspect.c: see inspect.h. */
#include "data/prepare/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/shard.h"
#include "data/token_origin.h"

/* BLOCK: tokens that are read at a time. LONGEST: longer documents count as this long. AROUND: tokens that are shown on
 * either side of a position. */
enum { BLOCK = 1 << 20, LONGEST = 1 << 22, AROUND = 40 };

typedef struct Inspection {
    const InspectOptions *options;
    TokenFiles files;
    Tokenizer *tokenizer;
    int separator; /* the token that stands between documents, or -1 */
    int32_t *block;
    int64_t *lengths; /* (LONGEST + 1): how many documents have this length */
    int64_t tokens, documents, in_document, longest;
    bool begins_with_separator, ends_with_separator;
    int32_t shown[2 * AROUND + 1];
    int shown_count, shown_before; /* how many of these are before the position */
} Inspection;

/* ---- counting ---- */

static void end_document(Inspection *in) {
    in->documents++;
    in->lengths[min_i64(in->in_document, LONGEST)]++;
    in->longest = max_i64(in->longest, in->in_document);
    in->in_document = 0;
}

static void count_block(Inspection *in, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int64_t position = in->tokens + i;
        int64_t distance = position - in->options->at;
        if (in->options->at >= 0 && distance >= -AROUND && distance <= AROUND) {
            in->shown[in->shown_count++] = in->block[i];
            in->shown_before += distance < 0;
        }
        if (in->block[i] != in->separator) {
            in->in_document++;
            continue;
        }
        if (position == 0) in->begins_with_separator = true;
        if (position > 0 || !in->begins_with_separator) end_document(in);
    }
    in->tokens += count;
    if (count > 0) in->ends_with_separator = in->block[count - 1] == in->separator;
}

static bool count_file(Inspection *in, const char *path, Error *error) {
    ShardSet *set;
    if (!shards_open(&set, path, error)) return false;
    int64_t tokens = shards_token_count(set);
    bool ok = true;
    for (int64_t done = 0; ok && done < tokens; done += BLOCK) {
        int64_t count = min_i64(BLOCK, tokens - done);
        ok = shards_read(set, done, count, tokenizer_vocab_size(in->tokenizer), in->block, error);
        if (ok) count_block(in, count);
    }
    if (ok) printf("%14" PRId64 " tokens  %s  %s\n", tokens, shards_has_header(set) ? "llm.c  " : "nanoGPT", path);
    shards_close(set);
    return ok;
}

/* ---- printing ---- */

static int64_t length_at(const Inspection *in, int64_t rank) {
    int64_t length = 0;
    for (int64_t seen = in->lengths[0]; seen <= rank && length < LONGEST; seen += in->lengths[++length]) continue;
    return length;
}

/* If a separator begins each document, the last document ends with the tokens. If a separator ends each document, a
 * last document without one is cut off, which the output says. If the tokens neither begin nor end with a separator,
 * they may be a part of a larger set. */
static void print_documents(Inspection *in) {
    if (in->separator < 0 || (in->documents == 0 && !in->begins_with_separator && !in->ends_with_separator)) {
        printf("no token between documents\n");
        return;
    }
    bool is_cut = !in->begins_with_separator && in->in_document > 0;
    if (in->begins_with_separator) end_document(in);
    int64_t separators = in->documents, between = in->tokens - separators - (is_cut ? in->in_document : 0);
    const char *where = in->begins_with_separator ? "at the beginning of each"
                        : in->ends_with_separator ? "at the end of each"
                                                  : "between them";
    printf("%14" PRId64 " documents, token %d %s%s\n", in->documents, in->separator, where,
           is_cut ? ", and one that is cut off" : "");
    printf("their lengths, without it: least %" PRId64 ", median %" PRId64 ", mean %.1f, most %" PRId64 "\n",
           length_at(in, 0), length_at(in, (in->documents - 1) / 2), (double)between / (double)in->documents,
           in->longest);
}

static void print_token(const Tokenizer *tokenizer, int32_t token) {
    size_t bytes;
    const char *text = tokenizer_decode(tokenizer, token, &bytes);
    if (token == tokenizer_end_of_text(tokenizer))
        printf("<|endoftext|>");
    else
        fwrite(text, 1, bytes, stdout);
}

static void print_around(const Inspection *in) {
    printf("around token %" PRId64 " (%d):\n", in->options->at, in->shown[in->shown_before]);
    for (int i = 0; i < in->shown_count; i++) {
        if (i == in->shown_before) printf("[[");
        print_token(in->tokenizer, in->shown[i]);
        if (i == in->shown_before) printf("]]");
    }
    printf("\n");
}

/* ---- inspect() ---- */

static bool open_tokenizer(Inspection *in, Error *error) {
    const InspectOptions *o = in->options;
    if (o->tokenizer) return tokenizer_open(&in->tokenizer, o->tokenizer, o->vocabulary, error);
    TokenOrigin origin = {0};
    bool ok = token_origin_open(&origin, &in->files, error);
    const char *folder = origin.record.is_there && !o->vocabulary ? origin.folder : NULL;
    if (ok) ok = tokenizer_open(&in->tokenizer, folder ? NULL : "gpt2", folder ? folder : o->vocabulary, error);
    token_origin_close(&origin);
    return ok;
}

static bool inspect_files(Inspection *in, Error *error) {
    const InspectOptions *o = in->options;
    for (int i = 0; i < in->files.count; i++)
        if (!count_file(in, in->files.paths[i], error)) return false;
    if (o->at >= in->tokens)
        return error_set(error, "--at=%" PRId64 " lies after the last of the %" PRId64 " tokens", o->at, in->tokens);
    printf("%14" PRId64 " tokens in all, each below %d (%s)\n", in->tokens, tokenizer_vocab_size(in->tokenizer),
           tokenizer_name(in->tokenizer));
    print_documents(in);
    if (o->at >= 0) print_around(in);
    return true;
}

static bool list_files(Inspection *in, Error *error) {
    for (int i = 0; i < in->options->count; i++)
        if (!token_files_add(&in->files, in->options->paths[i], error)) return false;
    return true;
}

bool inspect(const InspectOptions *options, Error *error) {
    Inspection in = {.options = options};
    bool ok = list_files(&in, error) && open_tokenizer(&in, error);
    if (ok) {
        in.separator = tokenizer_end_of_text(in.tokenizer);
        in.block = checked_malloc(BLOCK * sizeof *in.block, "tokens");
        in.lengths = checked_calloc(LONGEST + 1, sizeof *in.lengths, "the lengths of documents");
        ok = inspect_files(&in, error);
    }
    free(in.lengths);
    free(in.block);
    tokenizer_close(in.tokenizer);
    token_files_free(&in.files);
    return ok;
}
