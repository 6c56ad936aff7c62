/* train_classifier.c: libmarsopt (optim/optim.h) on something that is not GPT-2: a small network that tells three spiral
 * arms in the plane apart.
 *
 *   make examples && build/examples/train_classifier [NAME [RATE]]          NAME: an optimizer; default mars-adamw
 *
 * What a program does for the library is in main(): it lists its tensors, and in each step writes a gradient to the
 * buffer that optim_gradient() returns. The network is plain loops. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

enum { LAYERS = 3, TENSORS = 2 * LAYERS, ARMS = 3, WIDEST = 32, POINTS = 1500, TESTS = 900, BATCH = 50, STEPS = 1000 };

/* Layer l has sizes[l] inputs and sizes[l + 1] outputs. Its weight (out, in) is tensor 2l, its bias (out) 2l + 1. */
static const char *const names[TENSORS] = {"W1", "b1", "W2", "b2", "W3", "b3"};
static const int sizes[LAYERS + 1] = {2, WIDEST, WIDEST, ARMS};

typedef struct Point {
    float x[2];
    int arm;
} Point;

/* A number from [0, 1), by a linear congruential generator. */
static float uniform(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) / (1 << 24);
}

/* A point on one of the arms, which wind one and a half times around the centre, with noise along the angle. */
static Point random_point(uint64_t *random) {
    int arm = (int)(ARMS * uniform(random));
    float radius = 0.1f + 0.9f * uniform(random), noise = uniform(random) - 0.5f;
    float angle = 6.2831853f * (1.5f * radius + (float)arm / ARMS) + noise;
    float x = radius * cosf(angle), y = radius * sinf(angle);
    return (Point){{x, y}, arm};
}

/* x[0] is the point and x[l + 1] = relu(W x[l] + b); the last layer has no ReLU: its results are the logits. */
static void forward(float x[LAYERS + 1][WIDEST], float *const p[TENSORS], const Point *point) {
    memcpy(x[0], point->x, sizeof point->x);
    for (int l = 0; l < LAYERS; l++)
        for (int o = 0; o < sizes[l + 1]; o++) {
            float y = p[2 * l + 1][o];
            for (int i = 0; i < sizes[l]; i++) y += p[2 * l][o * sizes[l] + i] * x[l][i];
            x[l + 1][o] = l < LAYERS - 1 ? fmaxf(y, 0.0f) : y;
        }
}

/* Adds the gradient of share * loss to d, where loss = -log softmax(logits)[arm], and returns the loss. */
static double backward(float *const d[TENSORS], float *const p[TENSORS], const Point *point, float share) {
    float x[LAYERS + 1][WIDEST], dx[LAYERS + 1][WIDEST] = {{0}}, *logits = x[LAYERS], sum = 0.0f, top = -INFINITY;
    forward(x, p, point);
    for (int c = 0; c < ARMS; c++) top = fmaxf(top, logits[c]);
    for (int c = 0; c < ARMS; c++) sum += expf(logits[c] - top);
    for (int c = 0; c < ARMS; c++) dx[LAYERS][c] = share * (expf(logits[c] - top) / sum - (float)(c == point->arm));
    for (int l = LAYERS - 1; l >= 0; l--)
        for (int o = 0; o < sizes[l + 1]; o++) {
            float dy = l == LAYERS - 1 || x[l + 1][o] > 0.0f ? dx[l + 1][o] : 0.0f; /* 0 where the ReLU cut */
            d[2 * l + 1][o] += dy;
            for (int i = 0; i < sizes[l]; i++) {
                d[2 * l][o * sizes[l] + i] += dy * x[l][i];
                dx[l][i] += dy * p[2 * l][o * sizes[l] + i];
            }
        }
    return logf(sum) + top - logits[point->arm];
}

/* Percent of points whose largest logit is that of their arm. */
static double accuracy(float *const p[TENSORS], const Point *points, int count) {
    int right = 0;
    for (int n = 0; n < count; n++) {
        float x[LAYERS + 1][WIDEST], *logits = x[LAYERS];
        forward(x, p, &points[n]);
        int best = 0;
        for (int c = 1; c < ARMS; c++) best = logits[c] > logits[best] ? c : best;
        right += best == points[n].arm;
    }
    return 100.0 * right / count;
}

static OptimConfig read_arguments(int argc, char **argv) {
    OptimName name = argc > 1 ? optim_find(argv[1]) : OPTIM_MARS_ADAMW;
    /* The rate that suits this network: descent by signs wants a smaller one than the others, SGD a larger one. */
    double rate = name == OPTIM_MARS_LION ? 0.005 : name == OPTIM_SGD_SAI ? 0.2 : 0.02;
    char *rest = "";
    if (argc > 2) rate = strtod(argv[2], &rest);
    if (argc <= 3 && name < OPTIM_COUNT && !*rest && rate > 0.0 && rate < 1e3) return optim_defaults(name, rate);
    fprintf(stderr, "usage: train_classifier [NAME [RATE]], where RATE is above 0 and below 1000 and NAME one of\n");
    for (int i = 0; i < OPTIM_COUNT; i++) fprintf(stderr, "  %s\n", optim_names[i]);
    exit(2);
}

int main(int argc, char **argv) {
    OptimConfig config = read_arguments(argc, argv);
    ScheduleConfig schedule = {SCHEDULE_COSINE, .warmup_iters = 50, .lr_decay_iters = STEPS, .max_iters = STEPS};

    /* Only the weight between hidden layers has the role of a matrix. The first and the last one stand where a language
     * model has its embeddings, and get their role: Moonlight and MARS-M leave them to AdamW. */
    OptimTensor tensors[TENSORS];
    for (int l = 0; l < LAYERS; l++) {
        TensorRole role = l == 0 || l == LAYERS - 1 ? ROLE_EMBEDDING : ROLE_MATRIX;
        tensors[2 * l] = (OptimTensor){names[2 * l], role, sizes[l + 1], sizes[l], 1};
        tensors[2 * l + 1] = (OptimTensor){names[2 * l + 1], ROLE_VECTOR, 1, sizes[l + 1], 1};
    }

    /* One thread. Parameters begin as zeros. */
    Error error;
    Optim *optim = optim_open(&config, tensors, TENSORS, 1, &error);
    if (!optim) {
        fprintf(stderr, "train_classifier: %s\n", error.text);
        return 1;
    }

    /* The points, and weights of variance 2/in, which suits ReLU (He et al. 2015). */
    static Point points[POINTS + TESTS]; /* to train on, and after them those to test with */
    float *p[TENSORS], *d[TENSORS];      /* each tensor's parameters and gradient */
    uint64_t random = 1;
    for (int n = 0; n < POINTS + TESTS; n++) points[n] = random_point(&random);
    for (int t = 0; t < TENSORS; t++) p[t] = optim_params(optim) + optim_offset(optim, t);
    for (int t = 0; t < TENSORS; t += 2)
        for (int64_t i = 0; i < tensors[t].rows * tensors[t].columns; i++)
            p[t][i] = sqrtf(6.0f / (float)tensors[t].columns) * (2.0f * uniform(&random) - 1.0f);

    for (int step = 0; step < STEPS; step++) {
        /* Another buffer than in the step before, if a rule keeps the previous gradient. */
        float *gradient = optim_gradient(optim, 0);
        for (int t = 0; t < TENSORS; t++) {
            d[t] = gradient + optim_offset(optim, t);
            memset(d[t], 0, (size_t)(tensors[t].rows * tensors[t].columns) * sizeof *d[t]);
        }
        double loss = 0.0;
        for (int n = 0; n < BATCH; n++)
            loss += backward(d, p, &points[(int)(POINTS * uniform(&random))], 1.0f / BATCH) / BATCH;
        optim_step(optim, optim_rates(&config, &schedule, step), false);
        if (optim_result(optim).nonfinite_tensor >= 0) {
            fprintf(stderr, "train_classifier: step %d: the gradient is not finite; a smaller rate may help\n", step);
            return 1;
        }
        if (step % 100 == 0) printf("step %4d  loss %.4f\n", step, loss);
    }
    printf("%s: %.1f %% of the training points right, %.1f %% of the test points\n", optim_names[config.name],
           accuracy(p, points, POINTS), accuracy(p, points + POINTS, TESTS));

    optim_close(optim);
    return 0;
}
