/* setup.c: see setup.h. */
#include "report/setup.h"

#include <inttypes.h>
#include <string.h>

#include "util/files.h"
#include "util/format.h"

static void print_model(Console *c, const SetupReport *s) {
    const GPT2Config *m = &s->config->model;
    char parameters[32], tokens[32], val[32];
    format_count((int64_t)s->model->table.parameters, parameters, sizeof parameters);
    format_count(loader_token_count(s->train_data), tokens, sizeof tokens);
    format_count(loader_token_count(s->val_data), val, sizeof val);
    console_row(c, "model", "%d layers, %d heads, %d channels, %d tokens, vocabulary %d: %s parameters", m->n_layer,
                m->n_head, m->n_embd, m->block_size, m->vocab_size, parameters);
    console_row(c, "data", "%s training tokens in %d file(s), %s validation tokens", tokens,
                loader_file_count(s->train_data), val);
}

static void print_machine(Console *c, const SetupReport *s) {
    const TrainConfig *train = &s->config->train;
    char step[32];
    format_count((int64_t)train->total_batch_size * s->config->model.block_size, step, sizeof step);
    console_row(c, "device", "%s: %s", s->be->name, s->be->device);
    console_row(c, "processes", "%d x %d threads, message passing: %s", s->comm->size, s->be->threads,
                s->comm->transport);
    console_row(c, "step", "%d sequences (%s tokens) = %d x %d micro-steps x %d processes", train->total_batch_size,
                step, train->batch_size, train->gradient_accumulation_steps, s->comm->size);
}

static void print_optimizer(Console *c, const SetupReport *s) {
    if (!s->optim) return;
    const char *name = optim_names[s->config->optimizer.name];
    const OptimInfo *info = optim_info(s->optim);
    if (info->gradients > 1)
        console_row(c, "optimizer", "%s, exact: a second gradient each step, %.2f GB more and twice the time", name,
                    (double)info->exact_bytes * 1e-9);
    else
        console_row(c, "optimizer", "%s", name);
}

/* Prints the memory per process, next to the device's if that is known: what is left plus what was taken. */
static void print_memory(Console *c, const SetupReport *s) {
    const Arena *arena = &s->model->arena;
    double taken = (double)arena->bytes * 1e-9;
    size_t left = s->be->memory_left(s->be);
    char device[64] = "";
    if (left != SIZE_MAX) snprintf(device, sizeof device, " of %.2f", taken + (double)left * 1e-9);
    console_row(
        c, "memory", "weights %.2f GB, gradients %.2f, optimizer %.2f, activations %.2f, workspace %.2f: %.2f%s",
        (double)arena_group_bytes(arena, "weights") * 1e-9, (double)arena_group_bytes(arena, "gradients") * 1e-9,
        (double)arena_group_bytes(arena, "optimizer") * 1e-9, (double)arena_group_bytes(arena, "activations") * 1e-9,
        (double)arena_group_bytes(arena, "workspace") * 1e-9, taken, device);
}

/* Prints what a user may not expect: weights that were not taken unchanged, and keys whose values have changed. */
static void print_start(Console *c, const SetupReport *s) {
    if (s->start->weights_note) console_row(c, "weights", "%s", s->start->weights_note);
    for (const char *line = s->start->changes; line && *line;) {
        size_t length = strcspn(line, "\n");
        console_row(c, "changed", "%.*s", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

/* Warns before the first step if the disk has no room for a new checkpoint next to those that are there. */
static void warn_of_full_disk(const SetupReport *s) {
    if (!s->optim) return;
    const char *out_dir = s->config->train.out_dir;
    double states =
        (double)optim_info(s->optim)->state_bytes * s->comm->size; /* about: processes have different parts */
    double needed = (double)s->model->table.parameters * sizeof(float) + states;
    double left = (double)files_space_left(out_dir);
    if (left < needed)
        warn(
            "train.out_dir: a checkpoint takes about %.3g GB, and there are %.3g GB left where %s is: make room before "
            "one is due",
            needed * 1e-9, left * 1e-9, out_dir);
}

void setup_print(Console *c, const SetupReport *s) {
    const TrainConfig *train = &s->config->train;
    warn_of_full_disk(s);
    console_line(c, "train_gpt2 (mars.c) %s", MARS_VERSION);
    print_model(c, s);
    print_machine(c, s);
    print_optimizer(c, s);
    print_memory(c, s);
    print_start(c, s);
    if (s->start->resumed_from >= 0)
        console_row(c, "output", "%s, resumed from step %" PRId64, train->out_dir, s->start->resumed_from);
    else
        console_row(c, "output", "%s, started from %s", train->out_dir,
                    strcmp(train->init_from, "auto") == 0 ? "scratch" : train->init_from);
}
