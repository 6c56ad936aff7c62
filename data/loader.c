/* loader.c: which tokens make up sequence s, and reading them ahead (see loader.h).
 *
 * The first half computes where a sequence begins in the stream, without state. The second half is the thread. There
 * are three batches: two belong to the caller and one to the thread. When the caller wants the batch that was read
 * ahead, it gets that batch for its older one, under the lock. The thread changes when tokens are read, never which
 * tokens: a batch that was not read ahead is read at once, with the same result. */
#include "data/loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "data/shard.h"
#include "util/philox.h"

typedef struct Batch {
    int32_t *inputs, *targets; /* (max_sequences, T) */
    int32_t *sequence;         /* (T + 1): one sequence as it lies in the stream */
    bool ok;                   /* false: error says why it could not be read */
    Error error;
} Batch;

/* What the thread does. If the state becomes ASKED while it reads an older request, nobody needs the older one any
 * more. */
typedef enum ThreadState { THREAD_IDLE, THREAD_ASKED, THREAD_READING, THREAD_READY, THREAD_QUIT } ThreadState;

struct Loader {
    LoaderOptions options;
    ShardSet *shards;
    TokenOrigin origin;
    int64_t tokens, windows;
    Batch batches[3];
    int newest, older; /* the caller's batches; only the caller changes these */

    pthread_t thread;
    pthread_mutex_t lock;   /* guards the rest */
    pthread_cond_t changed; /* state became something else */
    ThreadState state;
    int64_t first; /* the request: valid unless the state is THREAD_IDLE */
    int count;
    int ahead; /* the thread's batch; changes only in THREAD_READY */
};

/* Where window `index` goes in the epoch's permutation of [0, count), without a table: a Feistel network is a
 * bijection of numbers of 2h bits whatever its round function, and "cycle walking", applying it until the result is
 * below count, makes it one of [0, count) (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). The
 * smallest h is taken, so less than 4 tries are needed on average. Four rounds of a random function are a good
 * pseudo-random permutation if h is large (Luby and Rackoff 1988); a small h needs more, and rounds are cheap. */
static int64_t permute(int64_t index, int64_t count, uint64_t seed, uint32_t epoch) {
    enum { ROUNDS = 8 };
    int half_bits = 0;
    while ((INT64_C(1) << 2 * half_bits) < count) half_bits++;
    uint64_t mask = (UINT64_C(1) << half_bits) - 1, value = (uint64_t)index;
    do {
        uint64_t left = value >> half_bits, right = value & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t mixed = left ^ (philox(seed, PHILOX_DATA_SHUFFLE, epoch, round << 32 | right).word[0] & mask);
            left = right;
            right = mixed;
        }
        value = left << half_bits | right;
    } while (value >= (uint64_t)count);
    return (int64_t)value;
}

/* The stream position of sequence s. */
static int64_t sequence_position(const Loader *loader, int64_t s) {
    const LoaderOptions *options = &loader->options;
    int64_t T = options->block_size, W = loader->windows;
    switch (options->order) {
    case ORDER_SEQUENTIAL:
        return s % W * T;
    case ORDER_SHUFFLED:
        return permute(s % W, W, options->seed, (uint32_t)(s / W)) * T;
    case ORDER_RANDOM:
        break;
    }
    int64_t offsets = loader->tokens - T - 1;
    if (offsets == 0) return 0; /* the stream is exactly one sequence: nothing to draw */
    return (int64_t)philox_below(philox(options->seed, PHILOX_DATA_OFFSET, 0, (uint64_t)s), (uint64_t)offsets);
}

static bool batch_read(const Loader *loader, Batch *batch, int64_t first, int count) {
    size_t T = (size_t)loader->options.block_size;
    if (first < 0 || count < 1 || count > loader->options.max_sequences)
        return error_set(&batch->error,
                         "got a request for %d sequences from number %" PRId64
                         " on; the loader was opened for 1 to %d, and "
                         "numbers start at 0",
                         count, first, loader->options.max_sequences);
    for (int i = 0; i < count; i++) {
        if (!shards_read(loader->shards, sequence_position(loader, first + i), (int64_t)T + 1,
                         loader->options.vocab_size, batch->sequence, &batch->error))
            return false;
        memcpy(batch->inputs + (size_t)i * T, batch->sequence, T * sizeof(int32_t));
        memcpy(batch->targets + (size_t)i * T, batch->sequence + 1, T * sizeof(int32_t));
    }
    return true;
}

static void *read_ahead(void *argument) {
    Loader *loader = argument;
    pthread_mutex_lock(&loader->lock);
    for (;;) {
        while (loader->state != THREAD_ASKED && loader->state != THREAD_QUIT)
            pthread_cond_wait(&loader->changed, &loader->lock);
        if (loader->state == THREAD_QUIT) break;
        Batch *batch = &loader->batches[loader->ahead];
        int64_t first = loader->first;
        int count = loader->count;
        loader->state = THREAD_READING;
        pthread_mutex_unlock(&loader->lock);
        batch->ok = batch_read(loader, batch, first, count);
        pthread_mutex_lock(&loader->lock);
        if (loader->state == THREAD_READING) {
            loader->state = THREAD_READY;
            pthread_cond_broadcast(&loader->changed);
        }
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

static void release(Loader *loader) {
    for (size_t i = 0; i < ARRAY_LENGTH(loader->batches); i++) {
        free(loader->batches[i].inputs);
        free(loader->batches[i].targets);
        free(loader->batches[i].sequence);
    }
    token_origin_close(&loader->origin);
    shards_close(loader->shards);
    free(loader);
}

/* Fails if the tokenizer has more tokens than the model: sooner or later the model would meet a token that it lacks. */
static bool check_origin(const Loader *loader, Error *error) {
    const TokenizerRecord *record = &loader->origin.record;
    int vocab_size = loader->options.vocab_size;
    return record->vocab_size <= vocab_size ||
           error_set(error,
                     "%s/tokens.json says that the tokens are those of a vocabulary of %d, but model.vocab_size is %d; "
                     "set it to %d or more",
                     loader->origin.folder, record->vocab_size, vocab_size, record->vocab_size);
}

static void allocate_batches(Loader *loader) {
    size_t T = (size_t)loader->options.block_size, tokens = (size_t)loader->options.max_sequences * T;
    for (size_t i = 0; i < ARRAY_LENGTH(loader->batches); i++) {
        loader->batches[i].inputs = checked_malloc(tokens * sizeof(int32_t), "a batch of tokens");
        loader->batches[i].targets = checked_malloc(tokens * sizeof(int32_t), "a batch of tokens");
        loader->batches[i].sequence = checked_malloc((T + 1) * sizeof(int32_t), "a sequence of tokens");
    }
    loader->newest = 0, loader->older = 1, loader->ahead = 2;
}

/* Opens everything except the thread. */
static bool open_stream(Loader *loader, const char *pattern, Error *error) {
    const LoaderOptions *options = &loader->options;
    if (options->block_size < 1 || options->vocab_size < 1 || options->max_sequences < 1)
        return error_set(error, "block_size %d, vocab_size %d and batch of %d sequences must all be at least 1",
                         options->block_size, options->vocab_size, options->max_sequences);
    if (!shards_open(&loader->shards, pattern, error)) return false;
    loader->tokens = shards_token_count(loader->shards);
    if (loader->tokens <= options->block_size)
        return error_set(error,
                         "'%s' holds %" PRId64 " tokens, but one sequence needs %" PRId64 ": block_size %d and one "
                         "more as the last target; give more text, or lower model.block_size",
                         pattern, loader->tokens, (int64_t)options->block_size + 1, options->block_size);
    loader->windows = (loader->tokens - 1) / options->block_size;
    if (!token_origin_open(&loader->origin, shards_files(loader->shards), error)) return false;
    if (!check_origin(loader, error)) return false;
    shards_advise(loader->shards, options->order == ORDER_SEQUENTIAL);
    allocate_batches(loader);
    return true;
}

bool loader_open(Loader **loader, const char *pattern, const LoaderOptions *options, Error *error) {
    Loader *opened = checked_calloc(1, sizeof *opened, "a loader");
    opened->options = *options;
    if (!open_stream(opened, pattern, error)) {
        release(opened);
        return false;
    }
    pthread_mutex_init(&opened->lock, NULL);
    pthread_cond_init(&opened->changed, NULL);
    int failure = pthread_create(&opened->thread, NULL, read_ahead, opened);
    if (failure != 0) {
        release(opened);
        return error_set(error, "cannot start the thread that reads tokens ahead: %s", strerror(failure));
    }
    *loader = opened;
    return true;
}

void loader_close(Loader *loader) {
    if (!loader) return;
    pthread_mutex_lock(&loader->lock);
    loader->state = THREAD_QUIT;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
    pthread_join(loader->thread, NULL);
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->lock);
    release(loader);
}

int64_t loader_token_count(const Loader *loader) { return loader->tokens; }

int64_t loader_window_count(const Loader *loader) { return loader->windows; }

int loader_file_count(const Loader *loader) { return shards_file_count(loader->shards); }

const TokenOrigin *loader_origin(const Loader *loader) { return &loader->origin; }

const TokenFiles *loader_files(const Loader *loader) { return shards_files(loader->shards); }

bool loaders_overlap(const Loader *a, const Loader *b, const char **path) {
    return shards_overlap(a->shards, b->shards, path);
}

bool loader_sample(const Loader *loader, int first, int stride, Error *error) {
    enum { WINDOWS = 64 };
    for (int i = first; i < shards_file_count(loader->shards); i += stride)
        if (!shards_sample(loader->shards, i, WINDOWS, loader->options.block_size + 1, loader->options.vocab_size,
                           error))
            return false;
    return true;
}

/* Whether the last request to the thread was exactly this one. Called with the lock held. */
static bool was_asked(const Loader *loader, int64_t first, int count) {
    return loader->state != THREAD_IDLE && loader->first == first && loader->count == count;
}

void loader_prefetch(Loader *loader, int64_t first, int count) {
    pthread_mutex_lock(&loader->lock);
    if (!was_asked(loader, first, count)) {
        loader->first = first;
        loader->count = count;
        loader->state = THREAD_ASKED;
        pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->lock);
}

bool loader_batch(Loader *loader, int64_t first, int count, const int32_t **inputs, const int32_t **targets,
                  Error *error) {
    int older = loader->older;
    pthread_mutex_lock(&loader->lock);
    bool is_ahead = was_asked(loader, first, count);
    if (is_ahead) {
        while (loader->state != THREAD_READY) pthread_cond_wait(&loader->changed, &loader->lock);
        loader->older = loader->newest;
        loader->newest = loader->ahead;
        loader->ahead = older;
        loader->state = THREAD_IDLE;
    } else {
        loader->older = loader->newest;
        loader->newest = older;
    }
    pthread_mutex_unlock(&loader->lock);

    Batch *batch = &loader->batches[loader->newest];
    if (!is_ahead) batch->ok = batch_read(loader, batch, first, count);
    if (!batch->ok) return error_set(error, "%s", batch->error.text);
    *inputs = batch->inputs;
    *targets = batch->targets;
    return true;
}
