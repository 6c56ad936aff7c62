/* rank_time.c: see rank_time.h. */
#include "report/rank_time.h"

#include "comm/agree.h"

void rank_time_add_reading(RankTime *t, double seconds) { t->read_seconds += seconds; }

void rank_time_start(RankTime *t, Backend *be, const Comm *comm) {
    t->waited_before = comm->waited;
    be->stopwatch_start(be, STOPWATCH_GRADIENT);
}

void rank_time_stop(RankTime *t, Backend *be, const Comm *comm) {
    be->stopwatch_stop(be, STOPWATCH_GRADIENT);
    t->waited += comm->waited - t->waited_before;
}

double rank_time_slowest(RankTime *t, Backend *be, Comm *comm, int steps, int *rank) {
    double computed = be->stopwatch_seconds(be, STOPWATCH_GRADIENT);
    double own = t->read_seconds + (computed - t->reported) - t->waited;
    *t = (RankTime){.reported = computed};
    return agree_on_largest(comm, own / steps * 1e3, rank);
}
