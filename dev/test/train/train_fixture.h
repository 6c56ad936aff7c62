/* train_fixture.h: running the built trainer as a user would, and reading what it left.
 *
 * A run has a name: its out_dir is the folder of that name in the scratch folder. The programs are those of $MARS_BIN
 * (default "."), fault_injection.so that of $MARS_BUILD (default "build"). What a run is about comes from a config file
 * and from "--key=value" arguments. Nothing here has a time limit: slow builds are tested too. */
#ifndef MARS_DEV_TEST_TRAIN_TRAIN_FIXTURE_H
#define MARS_DEV_TEST_TRAIN_TRAIN_FIXTURE_H

#include <cjson/cJSON.h>
#include <sys/types.h>

#include "dev/test/test.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* How the trainer is started. */
typedef struct Launch {
    const char *config; /* path of the config file; NULL = no argument is added to those given */
    int processes;      /* under mpirun; 0 = without it */
    const char *faults; /* settings of fault_injection.c, such as "FAULT_SLOW_SYNC=1", which then see the run's out_dir
                         * alone; NULL = none */
} Launch;

/* Writes `config` (which it deletes) to a new scratch file. The caller frees the path. */
char *train_write_config(cJSON *config);

/* The config of a run of milliseconds on the device under test: a model of one layer, 12 steps of 12 sequences, a
 * validation every 4 steps and a checkpoint every 3. */
const char *train_small_config(void);

/* Arguments that keep its schedule in a run of fewer steps, which then begins as the run of 12 does: max_iters alone
 * would shorten the schedule. */
#define TRAIN_WHOLE_SCHEDULE " --warmup_iters=3 --lr_decay_iters=200 "

/* The config of a case of dev/golden/SET.json, whose content is `golden`: a run of its first `steps`, of all for 0. The
 * caller frees the path. */
char *train_golden_config(const char *set, const cJSON *golden, const cJSON *golden_case, int steps);

/* An optimizer, or another form of one, as arguments for a run of that config. */
typedef struct TrainVariant {
    const char *name;      /* fit for a folder */
    const char *arguments; /* with Newton-Schulz in float32 */
    bool is_matrix;        /* goes through Newton-Schulz */
    /* what a checkpoint holds of a hidden matrix, an embedding and a vector: names with blanks between them, with a
     * star after a state that has a number for each row or column */
    const char *states[3], *scalars;
} TrainVariant;

/* Every optimizer, and every exact form; ends with a name of NULL. */
extern const TrainVariant train_variants[];

/* Whether it is one of those that keep something of their own in several processes: shards of g_last with and without
 * whole matrices, whole matrices alone, one number a tensor. */
bool train_stands_for_others(const TrainVariant *variant);

/* Whether to run this one: each of them, but where only_small_sizes() those that stand for the others. */
bool train_has_time_for(const TrainVariant *variant);

/* Runs the trainer to its end. A name of NULL leaves out_dir to the config and the arguments. */
CommandResult *train_run(const Launch *launch, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

/* The same, and fails unless it exits with 0. */
void train(const Launch *launch, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

/* Starts the trainer (or its mpirun) and returns its id, for signals. Its output goes to the file NAME.txt in the
 * scratch folder. It ends with this program at the latest. */
pid_t train_start(const Launch *launch, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

/* Returns once the run has reported an event ("train") of step `step` or later; fails if it ends before. */
void train_wait_for(pid_t process, const char *name, const char *event, int step);

/* Waits for the end; the exit status, or 128 + signal. */
int train_wait(pid_t process);

/* False, after saying so, where programs cannot run as several processes. */
bool train_has_mpi(void);

/* Every line of the run's metrics.jsonl as an array of objects, which the caller deletes. */
cJSON *train_log(const char *name);

/* The numbers `key` of all lines of an event, in their order; there must be *count of them, or *count is -1 and set.
 * The caller frees them. */
double *log_numbers(const cJSON *log, const char *event, const char *key, int *count);

/* Step of the last line of an event. */
int log_last_step(const cJSON *log, const char *event);

/* The two runs did the same, to the last digit of every line, but for the time it took and the name of the folder. */
void assert_same_log(const cJSON *log, const cJSON *expected);

/* The same of the training and validation lines alone: what a run that was stopped and resumed has in common with one
 * that never was. */
void assert_same_curve(const cJSON *log, const cJSON *expected);

/* Training and validation losses at the same steps, within `limit` of each other, relatively. */
void assert_close_curve(const cJSON *log, const cJSON *expected, double limit);

/* Lines of the event norms at the same steps, of the same tensors, within `limit` of each other, relatively; there must
 * be `count` of them. */
void assert_close_norms(const cJSON *log, const cJSON *expected, int count, double limit);

/* The newest checkpoints of two runs hold the same bits: weights and optimizer state. */
void assert_same_checkpoints(const char *name, const char *expected);

EXTERN_C_END

#endif
