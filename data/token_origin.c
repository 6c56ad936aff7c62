/* token_origin.c: see token_origin.h. */
#include "data/token_origin.h"

#include <stdlib.h>
#include <string.h>

#include "data/tokenizer/tokenizer.h"
#include "util/files.h"

enum { FOLDER_BYTES = 4096 };

/* Whether the records contradict each other: a name or a size that one of them lacks does not. */
static bool differ(const TokenizerRecord *a, const TokenizerRecord *b) {
    bool names = a->name[0] && b->name[0] && strcmp(a->name, b->name) != 0;
    return names || (a->vocab_size > 0 && b->vocab_size > 0 && a->vocab_size != b->vocab_size);
}

bool token_origins_agree(const TokenOrigin *a, const TokenOrigin *b, Error *error) {
    const TokenizerRecord *first = &a->record, *second = &b->record;
    return !differ(first, second) ||
           error_set(error,
                     "%s/tokens.json says tokenizer \"%s\" with %d tokens, and %s/tokens.json \"%s\" with %d: the "
                     "same number is another text; use files of one tokenizer",
                     a->folder, first->name, first->vocab_size, b->folder, second->name, second->vocab_size);
}

static bool says_something(const TokenizerRecord *record) { return record->name[0] || record->vocab_size > 0; }

/* Takes the record of a folder if it is the first one, or else compares it. */
static bool add_folder(TokenOrigin *origin, const char *folder, Error *error) {
    TokenOrigin here = {.folder = (char *)folder};
    if (!tokenizer_read_record(&here.record, folder, error)) return false;
    if (!here.record.is_there) return true;
    if (!here.record.is_json)
        warn("%s/tokens.json is no JSON: which tokenizer made the files next to it is not known", folder);
    if (says_something(&origin->record)) return token_origins_agree(origin, &here, error);
    if (origin->record.is_there && !says_something(&here.record)) return true;
    free(origin->folder);
    origin->folder = checked_strdup(folder);
    origin->record = here.record;
    return true;
}

/* Files are in the order of their names, so those of one folder follow each other. */
bool token_origin_open(TokenOrigin *origin, const TokenFiles *files, Error *error) {
    char previous[FOLDER_BYTES] = "", folder[FOLDER_BYTES];
    files_folder_of(files->paths[0], folder, sizeof folder);
    *origin = (TokenOrigin){.folder = checked_strdup(folder)};
    for (int i = 0; i < files->count; i++) {
        files_folder_of(files->paths[i], folder, sizeof folder);
        if (strcmp(folder, previous) == 0) continue;
        if (!add_folder(origin, folder, error)) return false;
        memcpy(previous, folder, sizeof previous);
    }
    return true;
}

void token_origin_close(TokenOrigin *origin) {
    free(origin->folder);
    *origin = (TokenOrigin){0};
}
