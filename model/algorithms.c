/* algorithms.c: see algorithms.h. */
#include "model/algorithms.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"
#include "util/philox.h"

/* A thousand shapes take some 200 kB. */
enum { MOST_BYTES = 16 << 20 };

/* ---- the cache: a file for each device and table ---- */

/* Its folder, which the caller frees; NULL where there is no home. */
static char *cache_folder(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0]) return format_string("%s/mars.c", cache);
    return home && home[0] ? format_string("%s/.cache/mars.c", home) : NULL;
}

/* The name is the device's and the table's, in letters that any file system takes. */
static char *cache_file(const Backend *be, const char *folder) {
    char *path = format_string("%s/algorithms-%s-%s.txt", folder, be->device, be->name);
    for (char *c = path + strlen(folder) + 1; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '.' && *c != '-') *c = '_';
    return path;
}

/* Choices of an older library are timed anew. */
static void read_cache(Backend *be) {
    char *folder = cache_folder(), *path = folder ? cache_file(be, folder) : NULL;
    char *text = path && files_is_file(path) ? files_read(path, MOST_BYTES, NULL, NULL) : NULL;
    Error error;
    if (text) be->choose(be, text, &error);
    free(text);
    free(path);
    free(folder);
}

/* A cache that cannot be written is no matter. */
static void write_cache(const Backend *be, const char *text) {
    char *folder = cache_folder();
    if (folder && text[0] && files_make_folders(folder, NULL)) {
        char *path = cache_file(be, folder);
        files_write_text(path, text, NULL);
        free(path);
    }
    free(folder);
}

/* ---- choosing ---- */

/* A batch of random tokens, which the caller frees. With tokens that are all the same, most rows of the activations and
 * of their gradients are nearly equal, and a GPU multiplies such matrices faster than those of training. */
static int32_t *random_tokens(const GPT2 *m, uint32_t stream) {
    size_t n = (size_t)m->max_batch * (size_t)m->config.block_size;
    int32_t *tokens = checked_malloc(n * sizeof *tokens, "a batch");
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)philox_below(philox(0, PHILOX_TUNING, stream, i), (uint64_t)m->config.vocab_size);
    return tokens;
}

static void tune(GPT2 *m, Optim *optim) {
    Backend *be = m->be;
    int B = m->max_batch, T = m->config.block_size;
    int32_t *inputs = random_tokens(m, 1), *targets = random_tokens(m, 2);
    be->tune(be, true);
    if (m->training)
        gpt2_forward_backward(m, inputs, targets, B, T, 1.0f / (float)(B * T), false);
    else
        gpt2_forward(m, inputs, targets, B, T);
    if (optim) optim_tune(optim);
    be->tune(be, false);
    gpt2_forget_loss(m);
    free(inputs);
    free(targets);
}

/* What is chosen first stays, so the checkpoint comes before the cache. */
static char *settle_alone(GPT2 *m, Optim *optim, const char *text) {
    Backend *be = m->be;
    Error error;
    if (text && text[0] && !be->choose(be, text, &error))
        warn(
            "the checkpoint's matmul algorithms are not used, so results may differ in their last bits: %s",
            error.text);
    read_cache(be);
    tune(m, optim);
    char *all = be->choices(be);
    write_cache(be, all);
    return all;
}

char *algorithms_settle(GPT2 *m, Optim *optim, Comm *comm, const char *text) {
    if (!m->be->on_gpu) return checked_strdup("");
    char *all = comm->rank == 0 ? settle_alone(m, optim, text) : NULL;
    int64_t bytes = all ? (int64_t)strlen(all) + 1 : 0;
    comm->broadcast(comm, &bytes, sizeof bytes);
    if (!all) all = checked_malloc((size_t)bytes, "the choices of algorithms");
    comm->broadcast(comm, all, (size_t)bytes);
    Error error;
    if (!m->be->choose(m->be, all, &error)) die("this process has another GPU than process 0: %s", error.text);
    return all;
}
