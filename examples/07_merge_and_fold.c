/*
 * What to do with a trained adapter: merge it into the weight, take it out again, or fold
 * the scores into the factors, which leaves a plain LoRA with scaling 1.
 */
#include <beamlora.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 32, IN = 24, OUT = 16, RANK = 4, STEPS = 100 };

static float w0[OUT * IN], w[OUT * IN];
static float x[N * IN], want[N * OUT], y[N * OUT], dy[N * OUT];

static void check(int code)
{
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", bl_strerror(code), bl_last_error());
        exit(1);
    }
}

static float draw(void) /* in [-1, 1) */
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / 8388608.0f - 1.0f;
}

/* out = x m^T */
static void linear(float *out, const float *m)
{
    for (int n = 0; n < N; n++) {
        for (int i = 0; i < OUT; i++) {
            out[n * OUT + i] = 0;
            for (int j = 0; j < IN; j++) {
                out[n * OUT + i] += x[n * IN + j] * m[i * IN + j];
            }
        }
    }
}

static double difference(const float *a, const float *b, int count)
{
    double largest = 0;

    for (int i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double) a[i] - b[i]));
    }
    return largest;
}

static void train(bl_adapter *adapter, bl_tape *tape)
{
    for (int step = 0; step < STEPS; step++) {
        linear(y, w0);
        check(bl_forward(adapter, tape, N, y, OUT, x, IN, BL_NO_DROPOUT));
        for (int i = 0; i < N * OUT; i++) {
            dy[i] = (y[i] - want[i]) / N;
        }
        check(bl_backward(adapter, tape, N, NULL, 0, dy, OUT, x, IN));
        check(bl_step(adapter, 0.01, 1));
        if (bl_reallocate_due(adapter)) {
            check(bl_reallocate(adapter, NULL));
        }
    }
}

int main(void)
{
    for (int i = 0; i < OUT * IN; i++) {
        w0[i] = draw() / 4;
    }
    for (int i = 0; i < N * IN; i++) {
        x[i] = draw();
    }
    for (int i = 0; i < N * OUT; i++) {
        want[i] = draw();
    }

    bl_options  opt;
    bl_adapter *adapter;
    bl_tape    *tape;

    check(bl_options_init(&opt, sizeof opt));
    opt.rank = RANK;
    opt.alpha = 2 * RANK;
    opt.total_steps = STEPS;
    check(bl_adapter_create(&adapter, IN, OUT, &opt));
    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));
    train(adapter, tape);

    static float adapted[N * OUT], merged[N * OUT], folded[OUT * IN];

    /* the layer with its adapter beside it */
    linear(adapted, w0);
    check(bl_forward(adapter, tape, N, adapted, OUT, x, IN, BL_NO_DROPOUT));

    /* the same, with the adapter in the weight */
    memcpy(w, w0, sizeof w);
    check(bl_adapter_merge(adapter, w, IN));
    linear(merged, w);

    /* the same, from the folded factors: w0 + b a */
    float a[RANK * IN], b[OUT * RANK];

    check(bl_adapter_fold(adapter, a, IN, b, RANK));
    memcpy(folded, w0, sizeof folded);
    for (int i = 0; i < OUT; i++) {
        for (int j = 0; j < IN; j++) {
            for (int k = 0; k < RANK; k++) {
                folded[i * IN + j] += b[i * RANK + k] * a[k * IN + j];
            }
        }
    }

    double by_merging = difference(adapted, merged, N * OUT);
    double by_folding = difference(folded, w, OUT * IN);
    double change = difference(w, w0, OUT * IN);

    /* out again: w0, but for rounding */
    check(bl_adapter_unmerge(adapter, w, IN));

    double left = difference(w, w0, OUT * IN);

    printf("merging changes the weight by up to %.3f\n"
           "outputs differ by %.1e, merged and folded weights by %.1e\n"
           "%.1e remains after unmerging\n",
           change, by_merging, by_folding, left);

    bl_tape_free(tape);
    bl_adapter_free(adapter);
    return change > 0.1 && by_merging < 1e-4 && by_folding < 1e-5 && left < 1e-5 ? 0 : 1;
}
