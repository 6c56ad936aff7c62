/* start.h: where a run begins: from scratch, from weights that others published or another run saved, or from the newest
 * checkpoint of its own out_dir. Weights come with their model, so this takes two steps: start_find() when the
 * config has been read, start_load() when the model has memory. */
#ifndef MARS_CHECKPOINT_START_H
#define MARS_CHECKPOINT_START_H

#include "checkpoint/checkpoint.h"
#include "comm/comm.h"
#include "config/config.h"
#include "model/gpt2.h"
#include "optim/optim.h"

EXTERN_C_BEGIN

typedef struct Start {
    char path[CHECKPOINT_PATH_LENGTH]; /* of the weights or the checkpoint; "" from scratch */
    int64_t resumed_from;              /* step of the checkpoint, or -1 */
    int64_t step, sequences;           /* made and seen before: 0 unless resumed */
    char *algorithms;                  /* of matmuls (kernels/autotune.h), NULL for none */
    char *weights_note;                /* a line for people about the weights, or NULL */
    char *changes;                     /* keys that the run now has other values of (config_changes()), or NULL */
} Start;

/* Finds out where the run begins and gives the model keys of `config` that nobody has given their values in the
 * config.json there; see config_take_model(). Collective. Ends the program if there is nothing to begin with, a given key
 * contradicts the weights, a run would mix with an earlier one's checkpoints, or another optimizer wrote the checkpoint. */
void start_find(Start *start, Config *config, Comm *comm);

/* If --print_config is among the arguments, prints the config that the run would have, and ends the program; else returns.
 * The model is that of the weights with which the run would begin. Unlike start_find(), this does not fail if the run would
 * mix with checkpoints of an earlier run. The number of ranks is not known: of the two batch keys it prints the one that is
 * given. Ends the program with EXIT_USAGE if the config is wrong. */
void start_answer_print_config(int argc, char **argv);

/* Sets the weights of the model and, of a checkpoint, the state of `optim` (NULL: it is not needed). Ends the program
 * if the files do not fit. */
void start_load(Start *start, const Config *config, GPT2 *model, Optim *optim);

void start_free(Start *start);

EXTERN_C_END

#endif
