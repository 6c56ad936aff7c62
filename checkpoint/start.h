/* start.h: where a run begins: from scratch, from weights that others published or another run saved, or from the
 * newest checkpoint of its own out_dir. Weights come with their model, so this takes two calls: start_find() after the
 * config has been read, and start_load() when the model has memory. */
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
    char *changes;                     /* keys whose values changed since the checkpoint (config_changes()), or NULL */
} Start;

/* Finds out where the run begins, by train.init_from:
 *   scratch   from scratch
 *   a path    from the weights there
 *   resume    from the newest checkpoint in out_dir; ends the program if there is none
 *   auto      from the newest checkpoint in out_dir; from scratch if there is none
 * With scratch or a path, ends the program if out_dir has checkpoints of an earlier run, unless train.overwrite or
 * train.eval_only is true.
 *
 * Copies the model keys that the user has not given from the config.json of the weights or the checkpoint; see
 * config_take_model(). Collective: rank 0 alone reads the disk, and the other ranks get what it found. Ends the program
 * if the weights are missing, if a given key contradicts them, or if another optimizer wrote the checkpoint and the run
 * does not only evaluate. */
void start_find(Start *start, Config *config, Comm *comm);

/* If --print_config is among the arguments, prints the config that the run would have, and ends the program; else
 * returns. The model is that of the weights with which the run would begin. Unlike start_find(), this does not fail if
 * the run would mix with checkpoints of an earlier run. The number of ranks is not known: of the two batch keys it
 * prints the one that is given. Ends the program with EXIT_USAGE if the config is wrong. */
void start_answer_print_config(int argc, char **argv);

/* Sets the weights of the model and, from a checkpoint, the state of `optim` (NULL: reads no state). Not collective:
 * every rank reads the files itself, so each machine must have them under the same path. Ends the program if the files
 * do not fit. */
void start_load(Start *start, const Config *config, GPT2 *model, Optim *optim);

void start_free(Start *start);

EXTERN_C_END

#endif
