/* loader.h: which tokens make up sequence s.
 *
 * Sequence s of a run is a pure function of (files, order, seed, s), whatever the number of processes and the
 * micro-batch. The stream of n tokens has W = floor((n-1)/T) windows; window w holds tokens [wT, wT+T], the last one
 * only as a target.
 *   sequential: window s mod W
 *   shuffled:   a seeded permutation of the windows, a new one for each epoch s / W
 *   random:     the T+1 tokens from an offset in [0, n-T-1) drawn by Philox(seed, s), as nanoGPT samples
 * A thread reads the next batch while the current one is trained on. */
#ifndef MARS_DATA_LOADER_H
#define MARS_DATA_LOADER_H

#include "data/token_origin.h"

typedef enum DataOrder { ORDER_RANDOM, ORDER_SEQUENTIAL, ORDER_SHUFFLED } DataOrder;

typedef struct LoaderOptions {
    DataOrder order;
    uint64_t seed;
    int block_size;    /* T */
    int vocab_size;    /* a token >= vocab_size is an error */
    int max_sequences; /* sequences of the largest batch that one call reads */
} LoaderOptions;

EXTERN_C_BEGIN

typedef struct Loader Loader;

/* Opens the files that `pattern` names (see shard.h). Fails if they hold less than one sequence, or if tokens.json next
 * to them records two tokenizers, or one with more tokens than vocab_size. */
bool loader_open(Loader **loader, const char *pattern, const LoaderOptions *options, Error *error);
void loader_close(Loader *loader);

int64_t loader_token_count(const Loader *loader);
int64_t loader_window_count(const Loader *loader); /* W */
int loader_file_count(const Loader *loader);
const TokenFiles *loader_files(const Loader *loader);
const TokenOrigin *loader_origin(const Loader *loader);
/* Whether both loaders read the same file; *path is its name in `a`. */
bool loaders_overlap(const Loader *a, const Loader *b, const char **path);

/* Reads 64 windows of each `stride`-th file from number `first` on, so that `stride` processes together look into every
 * file before a run begins. Fails for a token that is not below vocab_size. */
bool loader_sample(const Loader *loader, int first, int stride, Error *error);

/* Asks the thread to read sequences [first, first + count) ahead. Returns at once. */
void loader_prefetch(Loader *loader, int64_t first, int count);

/* Returns sequences [first, first + count): inputs and targets, (count, T) each, owned by the loader. They stay valid
 * during the next call of loader_batch() and until the one after it. Waits for the thread if loader_prefetch() named
 * these sequences, else reads them itself. */
bool loader_batch(Loader *loader, int64_t first, int count, const int32_t **inputs, const int32_t **targets,
                  Error *error);

EXTERN_C_END

#endif
