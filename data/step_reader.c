/* step_reader.c: see step_reader.h. */
#include "data/step_reader.h"

StepReader step_reader_create(Loader *loader, int total, int rank, int ranks, int ahead, int64_t step,
                              int64_t sequence) {
    int count = total / ranks;
    return (StepReader){.loader = loader,
                        .total = total,
                        .offset = rank * count,
                        .count = count,
                        .ahead = ahead,
                        .step = step,
                        .sequence = sequence};
}

bool step_reader_read(StepReader *reader, int64_t step, Error *error) {
    while (reader->step <= step + reader->ahead) {
        StepTokens *tokens = &reader->tokens[reader->step % 2];
        int64_t first = reader->sequence + reader->offset;
        if (!loader_batch(reader->loader, first, reader->count, &tokens->inputs, &tokens->targets, error)) return false;
        loader_prefetch(reader->loader, first + reader->total, reader->count);
        reader->step++;
        reader->sequence += reader->total;
    }
    return true;
}
