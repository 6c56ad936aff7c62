/* setup.h: prints the table of a run's setup before the run begins. */
#ifndef MARS_REPORT_SETUP_H
#define MARS_REPORT_SETUP_H

#include "checkpoint/start.h"
#include "comm/comm.h"
#include "config/config.h"
#include "data/loader.h"
#include "model/gpt2.h"
#include "optim/optim.h"
#include "report/console.h"

EXTERN_C_BEGIN

/* The parts of a run; optim is NULL if the run only evaluates. */
typedef struct SetupReport {
    const Config *config;
    const Comm *comm;
    Backend *be;
    const GPT2 *model;
    const Optim *optim;
    const Loader *train_data, *val_data;
    const Start *start;
} SetupReport;

void setup_print(Console *console, const SetupReport *setup);

EXTERN_C_END

#endif
