/*
 * Which ranks matter: importance, size of their share of the weight, and what the loss
 * becomes when the smallest are silenced. The wanted change has rank two, the adapter
 * eight, so some are needed and others are not.
 */
#include <beamlora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 64, IN = 32, OUT = 16, RANK = 8, STEPS = 300 };

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

static void make_data(void)
{
    float u[2][OUT], v[2][IN];

    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < OUT; i++) {
            u[k][i] = draw();
        }
        for (int i = 0; i < IN; i++) {
            v[k][i] = draw() / 2;
        }
    }
    for (int n = 0; n < N; n++) {
        for (int i = 0; i < IN; i++) {
            x[n * IN + i] = draw();
        }
        for (int k = 0; k < 2; k++) {
            float xv = 0;

            for (int i = 0; i < IN; i++) {
                xv += x[n * IN + i] * v[k][i];
            }
            for (int i = 0; i < OUT; i++) {
                want[n * OUT + i] += xv * u[k][i];
            }
        }
    }
}

static double evaluate(const bl_adapter *adapter, bl_tape *tape)
{
    double loss = 0;

    memset(y, 0, sizeof y);
    check(bl_forward(adapter, tape, N, y, OUT, x, IN, BL_NO_DROPOUT));
    for (int i = 0; i < N * OUT; i++) {
        dy[i] = (y[i] - want[i]) / N;
        loss += 0.5 * (y[i] - want[i]) * (y[i] - want[i]) / N;
    }
    return loss;
}

/* The loss with the k ranks of the smallest norms silenced; all count again after it. */
static double evaluate_without(bl_adapter *adapter, bl_tape *tape, int k)
{
    double  norm[RANK];
    uint8_t mask[RANK];

    check(bl_adapter_copy_norms(adapter, norm));
    for (int i = 0; i < RANK; i++) {
        int smaller = 0;

        for (int j = 0; j < RANK; j++) {
            smaller += norm[j] < norm[i] || (norm[j] == norm[i] && j < i);
        }
        mask[i] = smaller >= k;
    }
    check(bl_adapter_set_mask(adapter, mask));

    double loss = evaluate(adapter, tape);

    check(bl_adapter_set_mask(adapter, NULL));
    return loss;
}

int main(void)
{
    make_data();

    bl_options  opt;
    bl_adapter *adapter;
    bl_tape    *tape;

    check(bl_options_init(&opt, sizeof opt));
    opt.rank = RANK;
    opt.reallocation = 0; /* scores only */
    check(bl_adapter_create(&adapter, IN, OUT, &opt));
    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));

    double first = evaluate(adapter, tape);

    for (int step = 0; step < STEPS; step++) {
        evaluate(adapter, tape);
        check(bl_backward(adapter, tape, N, NULL, 0, dy, OUT, x, IN));
        check(bl_step(adapter, 0.01, 1));
    }

    double importance[RANK], norm[RANK], sum = 0;

    check(bl_adapter_copy_importance(adapter, importance));
    check(bl_adapter_copy_norms(adapter, norm));
    for (int i = 0; i < RANK; i++) {
        printf("rank %d: g %.3f, norm %.3f\n", i, importance[i], norm[i]);
        sum += importance[i];
    }

    double all = evaluate(adapter, tape), some = evaluate_without(adapter, tape, 2);
    double none = evaluate_without(adapter, tape, RANK);

    printf("loss %.6f, without the two smallest %.6f, without any %.6f\n", all, some,
           none);

    bl_tape_free(tape);
    bl_adapter_free(adapter);
    return sum > RANK - 1e-6 && sum < RANK + 1e-6 && all < some && some < none &&
                   none == first
               ? 0
               : 1;
}
