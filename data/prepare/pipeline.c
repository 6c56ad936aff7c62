/* pipeline.c: see pipeline.h.
 *
 * The caller's thread reads, some threads encode, one writes. They pass items in a ring, each a piece of text of about
 * a million bytes: the reader fills the next free one, the encoders take them in order, and the writer waits for each
 * in turn. An item has many whole documents, or a part of a long one. A long document is cut only where that does not
 * change its tokens: between a line and the next, or before the space in front of a word. If two million bytes have no
 * such place, the reader encodes them itself, as a stream. */
#include "data/prepare/pipeline.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "data/prepare/document_hints.h"
#include "util/philox.h"
#include "util/stop_signal.h"
#include "util/utf8.h"

/* The reader passes an item on at the end of a document, once it has ITEM_BYTES; it holds at most ITEM_MAX. */
enum { ITEM_BYTES = 1 << 20, ITEM_MAX = TOKENIZER_MAX_LEFT + (1 << 20), SEGMENTS_MAX = 1 << 14 };

/* Items beyond one for each encoder, so that neither encoders nor the writer wait for the reader; at most 12 MB
 * each. */
enum { ITEMS_WAITING_MAX = 8 };

/* A text that is encoded separately: a document or a part of one. */
typedef struct Segment {
    size_t begin, end; /* within the item's text */
    size_t tokens_end; /* within the item's tokens, once it is encoded */
    bool document_begins, document_ends, is_val;
    int input;        /* the file that it comes from */
    int64_t replaced; /* U+FFFD in the place of bytes that are not UTF-8, once it is encoded */
} Segment;

typedef enum ItemState { ITEM_FREE, ITEM_FILLED, ITEM_ENCODED } ItemState;

typedef struct Item {
    ItemState state;
    char *text; /* ITEM_MAX */
    size_t bytes;
    Segment *segments; /* SEGMENTS_MAX */
    int segment_count;
    bool has_tokens; /* the reader has encoded it */
    TokenBuffer tokens;
} Item;

typedef struct Pipeline {
    const PipelineOptions *options;
    ShardWriter *train, *val;
    PipelineCounts *counts;
    Encoder *reader_encoder;
    TextFile file;
    int input; /* the number of that file */
    bool has_hinted[DOCUMENT_HINTS];

    Item *items;
    int item_count;
    Item *filling;        /* by the reader now; NULL between items */
    bool in_document;     /* the reader is inside a document */
    bool is_val;          /* that document, or the rest of the text, is for validation */
    int64_t bytes_before; /* of the files that have been read, on the disk */
    double next_progress;

    DamagedFile writing; /* counts of the file whose tokens are being written; only the writer uses it */

    pthread_mutex_t lock; /* guards the rest, and the items' states */
    pthread_cond_t changed;
    int64_t filled, taken, written; /* how many items were filled, taken and written, in order */
    int64_t tokens;
    bool is_last; /* the reader has filled the last item */
    bool failed;  /* error says why; no thread waits any more */
    Error error;
} Pipeline;

static const double PROGRESS_SECONDS = 0.2;

/* ---- cutting ---- */

static bool is_visible(unsigned char c) { return c > ' ' && c < 0x7f; }
static bool is_letter(unsigned char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

/* Whether these are the three bytes of a character from U+3001 on: East Asian characters, none of them a space. */
static bool is_east_asian(const unsigned char *c) {
    if (!utf8_continues((char)c[1]) || !utf8_continues((char)c[2])) return false;
    return (c[0] >= 0xe4 && c[0] <= 0xed) || (c[0] == 0xe3 && (c[1] != 0x80 || c[2] != 0x80));
}

/* GPT-2's words are runs of letters, digits or other signs, with the one space before them if there is one, and runs of
 * spaces, without the last space if anything follows. So a word ends at a visible character that a space follows, and
 * that space belongs to the letter after it. And the end of a line between two visible characters is a word. */
size_t pipeline_cut(const char *text, size_t bytes) {
    const unsigned char *t = (const unsigned char *)text;
    for (size_t at = bytes > 0 ? bytes - 1 : 0; at > 1; at--) {
        if (t[at] == ' ' && is_visible(t[at - 1]) && at + 1 < bytes && is_letter(t[at + 1])) return at;
        if (t[at - 1] != '\n') continue;
        bool before = is_visible(t[at - 2]) || (at >= 4 && is_east_asian(t + at - 4));
        bool after = is_visible(t[at]) || (at + 3 <= bytes && is_east_asian(t + at));
        if (before && after) return at;
    }
    return 0;
}

/* ---- the ring ---- */

/* Keeps the first failure. */
static void fail(Pipeline *p, const Error *error) {
    pthread_mutex_lock(&p->lock);
    if (!p->failed) p->error = *error;
    p->failed = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static Item *item_at(const Pipeline *p, int64_t number) { return &p->items[number % p->item_count]; }

/* Waits until item `number` is free for the reader, and empties it; NULL after a failure. */
static Item *wait_for_free(Pipeline *p, int64_t number) {
    pthread_mutex_lock(&p->lock);
    Item *item = item_at(p, number);
    while (item->state != ITEM_FREE && !p->failed) pthread_cond_wait(&p->changed, &p->lock);
    bool failed = p->failed;
    pthread_mutex_unlock(&p->lock);
    if (failed) return NULL;
    item->bytes = 0, item->segment_count = 0, item->tokens.count = 0, item->has_tokens = false;
    return item;
}

static void pass_on(Pipeline *p) {
    pthread_mutex_lock(&p->lock);
    p->filling->state = ITEM_FILLED;
    p->filled++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    p->filling = NULL;
}

/* Waits for the next item to encode; NULL at the end. */
static Item *take_item(Pipeline *p) {
    Item *item = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->failed && p->taken == p->filled && !p->is_last) pthread_cond_wait(&p->changed, &p->lock);
    if (!p->failed && p->taken < p->filled) item = item_at(p, p->taken++);
    pthread_mutex_unlock(&p->lock);
    return item;
}

/* ---- encoding ---- */

static void append_document_token(const Pipeline *p, TokenBuffer *tokens, DocumentToken where) {
    if (p->options->document_token != where) return;
    token_buffer_reserve(tokens, 1);
    tokens->tokens[tokens->count++] = (uint16_t)tokenizer_end_of_text(p->options->tokenizer);
}

static void encode_item(const Pipeline *p, Encoder *encoder, Item *item) {
    for (int i = 0; i < item->segment_count; i++) {
        Segment *s = &item->segments[i];
        int64_t replaced = encoder_replaced(encoder);
        if (s->document_begins) append_document_token(p, &item->tokens, TOKEN_AT_BEGIN);
        encoder_encode(encoder, item->text + s->begin, s->end - s->begin, true, &item->tokens);
        s->replaced = encoder_replaced(encoder) - replaced;
        if (s->document_ends) append_document_token(p, &item->tokens, TOKEN_AT_END);
        s->tokens_end = item->tokens.count;
    }
}

static void *encode_items(void *context) {
    Pipeline *p = context;
    Encoder *encoder = encoder_open(p->options->tokenizer);
    for (Item *item; (item = take_item(p));) {
        if (!item->has_tokens) encode_item(p, encoder, item);
        pthread_mutex_lock(&p->lock);
        item->state = ITEM_ENCODED;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    encoder_close(encoder);
    return NULL;
}

/* ---- writing ---- */

static bool write_tokens(Pipeline *p, const uint16_t *tokens, size_t count, bool is_val, Error *error) {
    if (p->options->split == SPLIT_FIRST_SHARD) {
        int64_t room = p->options->shard_tokens - shard_writer_token_count(p->val);
        size_t first = (size_t)min_i64(room, (int64_t)count);
        return shard_writer_append(p->val, tokens, first, error) &&
               shard_writer_append(p->train, tokens + first, count - first, error);
    }
    return shard_writer_append(is_val ? p->val : p->train, tokens, count, error);
}

/* Adds the file that has been written to the counts. */
static void count_file(Pipeline *p) {
    PipelineCounts *counts = p->counts;
    const DamagedFile *file = &p->writing;
    if (file->replaced == 0) return;
    if (counts->damaged_files++ == 0) counts->first_damaged = *file;
    counts->replaced += file->replaced;
    if (2 * file->replaced < file->bytes) return;
    if (counts->garbled_files < GARBLED_NAMED) counts->garbled[counts->garbled_files] = *file;
    counts->garbled_files++;
}

static void count_segment(Pipeline *p, const Segment *s) {
    if (s->input != p->writing.input) {
        count_file(p);
        p->writing = (DamagedFile){.input = s->input};
    }
    p->writing.replaced += s->replaced;
    p->writing.bytes += (int64_t)(s->end - s->begin);
}

static bool write_item(Pipeline *p, const Item *item, Error *error) {
    size_t begin = 0;
    for (int i = 0; i < item->segment_count; i++) {
        const Segment *s = &item->segments[i];
        if (!write_tokens(p, item->tokens.tokens + begin, s->tokens_end - begin, s->is_val, error)) return false;
        begin = s->tokens_end;
        count_segment(p, s);
    }
    return true;
}

static Item *wait_for_encoded(Pipeline *p) {
    pthread_mutex_lock(&p->lock);
    Item *item = item_at(p, p->written);
    while (!p->failed && item->state != ITEM_ENCODED && !(p->is_last && p->written == p->filled))
        pthread_cond_wait(&p->changed, &p->lock);
    bool ended = p->failed || item->state != ITEM_ENCODED;
    pthread_mutex_unlock(&p->lock);
    return ended ? NULL : item;
}

static void *write_items(void *context) {
    Pipeline *p = context;
    Error error;
    for (Item *item; (item = wait_for_encoded(p));) {
        if (!write_item(p, item, &error)) {
            fail(p, &error);
            break;
        }
        pthread_mutex_lock(&p->lock);
        p->tokens += (int64_t)item->tokens.count;
        p->written++;
        item->state = ITEM_FREE;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    count_file(p);
    return NULL;
}

/* ---- reading ---- */

static Segment *last_segment(const Pipeline *p) { return &p->filling->segments[p->filling->segment_count - 1]; }

static void begin_segment(Pipeline *p, bool document_begins) {
    Item *item = p->filling;
    item->segments[item->segment_count++] = (Segment){.begin = item->bytes,
                                                      .end = item->bytes,
                                                      .document_begins = document_begins,
                                                      .is_val = p->is_val,
                                                      .input = p->input};
}

/* Encodes an item that is one segment, as far as the text after it cannot change the tokens, and returns how far. */
static size_t encode_beginning(Pipeline *p, Item *item) {
    Segment *s = &item->segments[0];
    if (s->document_begins) append_document_token(p, &item->tokens, TOKEN_AT_BEGIN);
    int64_t replaced = encoder_replaced(p->reader_encoder);
    s->end = encoder_encode(p->reader_encoder, item->text, item->bytes, false, &item->tokens);
    s->replaced = encoder_replaced(p->reader_encoder) - replaced;
    s->tokens_end = item->tokens.count;
    item->has_tokens = true;
    return s->end;
}

/* Passes on a full item. Its last segment continues in the next item. */
static bool go_on_in_next(Pipeline *p) {
    Item *full = p->filling, *next = wait_for_free(p, p->filled + 1);
    if (!next) return false;
    Segment *s = last_segment(p);
    size_t cut = s->begin + pipeline_cut(full->text + s->begin, full->bytes - s->begin);
    bool moves = cut == s->begin && full->segment_count > 1, document_begins = moves && s->document_begins;
    if (moves)
        full->segment_count--;
    else
        s->end = cut = cut > s->begin ? cut : encode_beginning(p, full);
    size_t rest = full->bytes - cut;
    memcpy(next->text, full->text + cut, rest);
    full->bytes = cut;
    pass_on(p);
    p->filling = next;
    begin_segment(p, document_begins);
    next->bytes = last_segment(p)->end = rest;
    return true;
}

static bool begins_with_validation(const Pipeline *p) {
    const PipelineOptions *o = p->options;
    if (o->split == SPLIT_TEXT_END) return p->counts->text_bytes >= o->train_bytes;
    if (o->split != SPLIT_DOCUMENTS) return false;
    Philox4 random = philox(o->split_seed, PHILOX_DATA_SPLIT, 0, (uint64_t)p->counts->documents);
    uint64_t bits = (uint64_t)random.word[0] << 21 | random.word[1] >> 11; /* 53, as many as a double holds */
    return (double)bits * 0x1p-53 < o->val_fraction;
}

/* Begins a document, which may have no text. */
static bool begin_document(Pipeline *p) {
    if (p->in_document) return true;
    if (!p->filling) p->filling = wait_for_free(p, p->filled);
    if (!p->filling) return false;
    p->in_document = true;
    p->is_val = begins_with_validation(p);
    begin_segment(p, true);
    p->counts->documents++;
    p->counts->val_documents += p->is_val;
    return true;
}

/* How many of the bytes go to the same part as the previous ones. After the last byte for training, those for
 * validation begin. A character of UTF-8 is cut only if tokens are bytes. */
static size_t bytes_of_part(Pipeline *p, const char *text, size_t bytes) {
    const PipelineOptions *o = p->options;
    if (o->split != SPLIT_TEXT_END || p->is_val) return bytes;
    int64_t left = o->train_bytes - p->counts->text_bytes;
    if (left > 0) return (size_t)min_i64(left, (int64_t)bytes);
    if (utf8_continues(*text) && tokenizer_end_of_text(o->tokenizer) >= 0) return 1;
    p->is_val = true;
    begin_segment(p, false);
    return bytes;
}

static bool copy_failure(Pipeline *p, Error *error) {
    pthread_mutex_lock(&p->lock);
    *error = p->error;
    pthread_mutex_unlock(&p->lock);
    return false;
}

static bool report_progress(Pipeline *p, Error *error) {
    if (stop_signal_came()) return error_set(error, "stopped by a signal; nothing was written");
    double now = seconds_now();
    if (!p->options->progress || now < p->next_progress) return true;
    p->next_progress = now + PROGRESS_SECONDS;
    pthread_mutex_lock(&p->lock);
    int64_t tokens = p->tokens;
    pthread_mutex_unlock(&p->lock);
    p->options->progress(p->options->progress_context, p->bytes_before + p->file.bytes_taken, tokens);
    return true;
}

static bool take_text(void *context, const char *text, size_t bytes, Error *error) {
    Pipeline *p = context;
    if (!begin_document(p)) return copy_failure(p, error);
    while (bytes > 0) {
        if (p->filling->bytes == ITEM_MAX && !go_on_in_next(p)) return copy_failure(p, error);
        size_t part = bytes_of_part(p, text, bytes);
        part = (size_t)min_i64((int64_t)part, (int64_t)(ITEM_MAX - p->filling->bytes));
        memcpy(p->filling->text + p->filling->bytes, text, part);
        p->filling->bytes += part;
        last_segment(p)->end = p->filling->bytes;
        p->counts->text_bytes += (int64_t)part;
        text += part, bytes -= part;
    }
    return report_progress(p, error);
}

static bool take_end(void *context, Error *error) {
    Pipeline *p = context;
    if (!begin_document(p)) return copy_failure(p, error);
    last_segment(p)->document_ends = true;
    p->in_document = false;
    /* A document may add two segments: one for training, one for validation. */
    if (p->filling->bytes >= ITEM_BYTES || p->filling->segment_count > SEGMENTS_MAX - 2) pass_on(p);
    return true;
}

/* text_files_look() has checked files, and text_files_copy_pipes() the copies of pipes. */
static bool open_file(Pipeline *p, const TextFiles *files, int i, Error *error) {
    const TextInput *input = &files->inputs[i];
    if (!text_files_open(files, i, &p->file, error)) return false;
    if (input->bytes >= 0 || text_file_check(&p->file, p->options->takes_binary, error)) return true;
    text_file_close(&p->file);
    return false;
}

/* Gives each hint once, with the first file that it concerns. */
static void give_hint(Pipeline *p, const DocumentFormat *format) {
    DocumentHint hint = document_hint(&p->file, format);
    if (hint != HINT_NONE && !p->has_hinted[hint]) warn("%s %s", p->file.path, document_hints[hint]);
    p->has_hinted[hint] = true;
}

static bool read_files(Pipeline *p, const TextFiles *files, const DocumentFormat *format, const DocumentSink *sink,
                       Error *error) {
    for (int i = 0; i < files->count; i++) {
        p->input = i;
        if (!open_file(p, files, i, error)) return false;
        if (p->items) give_hint(p, format); /* not while measuring */
        bool ok = documents_read(&p->file, format, sink, &p->counts->found, error);
        p->bytes_before += p->file.bytes_taken;
        text_file_close(&p->file);
        if (!ok) return false;
    }
    return true;
}

static bool fill_items(Pipeline *p, const TextFiles *files, const DocumentFormat *format, Error *error) {
    DocumentSink sink = {p, take_text, take_end};
    if (!read_files(p, files, format, &sink, error)) return false;
    if (p->filling) pass_on(p);
    return true;
}

/* ---- measuring ---- */

static bool count_text(void *context, const char *text, size_t bytes, Error *error) {
    (void)text;
    Pipeline *p = context;
    p->counts->text_bytes += (int64_t)bytes;
    return report_progress(p, error);
}

static bool ignore_end(void *context, Error *error) {
    (void)context, (void)error;
    return true;
}

bool pipeline_measure(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                      int64_t *text_bytes, Error *error) {
    PipelineCounts counts = {0};
    Pipeline p = {.options = options, .counts = &counts, .tokens = -1};
    DocumentSink sink = {&p, count_text, ignore_end};
    pthread_mutex_init(&p.lock, NULL);
    p.next_progress = seconds_now() + PROGRESS_SECONDS;
    bool ok = read_files(&p, files, format, &sink, error);
    pthread_mutex_destroy(&p.lock);
    *text_bytes = counts.text_bytes;
    return ok;
}

/* ---- running the threads ---- */

static void make_items(Pipeline *p) {
    p->item_count = p->options->threads + (int)min_i64(p->options->threads, ITEMS_WAITING_MAX) + 2;
    p->items = checked_calloc((size_t)p->item_count, sizeof *p->items, "text");
    for (int i = 0; i < p->item_count; i++) {
        p->items[i].text = checked_malloc(ITEM_MAX, "text");
        p->items[i].segments = checked_malloc(SEGMENTS_MAX * sizeof(Segment), "text");
    }
}

static void free_items(Pipeline *p) {
    for (int i = 0; i < p->item_count; i++) {
        free(p->items[i].text);
        free(p->items[i].segments);
        token_buffer_free(&p->items[i].tokens);
    }
    free(p->items);
}

static void start(pthread_t *thread, void *(*run)(void *), Pipeline *p) {
    if (pthread_create(thread, NULL, run, p) != 0) die("cannot start a thread; try fewer with --threads");
}

static void let_all_end(Pipeline *p) {
    pthread_mutex_lock(&p->lock);
    p->is_last = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

bool pipeline_run(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                  ShardWriter *train, ShardWriter *val, PipelineCounts *counts, Error *error) {
    Pipeline p = {.options = options, .train = train, .val = val, .counts = counts};
    pthread_t writer, *encoders = checked_calloc((size_t)options->threads, sizeof *encoders, "threads");
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.changed, NULL);
    p.reader_encoder = encoder_open(options->tokenizer);
    p.next_progress = seconds_now() + PROGRESS_SECONDS;
    make_items(&p);
    start(&writer, write_items, &p);
    for (int i = 0; i < options->threads; i++) start(&encoders[i], encode_items, &p);
    Error reason;
    if (!fill_items(&p, files, format, &reason)) fail(&p, &reason);
    let_all_end(&p);
    for (int i = 0; i < options->threads; i++) pthread_join(encoders[i], NULL);
    pthread_join(writer, NULL);
    if (p.failed) *error = p.error;
    encoder_close(p.reader_encoder);
    free_items(&p);
    free(encoders);
    pthread_cond_destroy(&p.changed);
    pthread_mutex_destroy(&p.lock);
    return !p.failed;
}
