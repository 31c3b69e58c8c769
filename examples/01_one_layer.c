/*
 * One adapter on one layer: create, forward, backward, step, reallocate, free.
 *
 * The frozen layer computes x W0^T. The layer that is wanted is W0 plus a product of rank
 * two, so the adapter alone has to make up the difference. Valid as C99 and as C++.
 */
#include <beamlora.h>

#include <stdio.h>
#include <stdlib.h>

enum { N = 64, IN = 32, OUT = 16, RANK = 4, STEPS = 240 };

static float x[N * IN], base[N * OUT], want[N * OUT]; /* x, x W0^T, the wanted output */
static float y[N * OUT], dy[N * OUT];

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
    static float w0[OUT * IN], u[OUT * 2], v[2 * IN];
    int          i, j, k;

    for (i = 0; i < N * IN; i++) {
        x[i] = draw();
    }
    for (i = 0; i < OUT * IN; i++) {
        w0[i] = draw() / 4;
    }
    for (i = 0; i < 2 * OUT; i++) {
        u[i] = draw() / 2;
    }
    for (i = 0; i < 2 * IN; i++) {
        v[i] = draw() / 2;
    }
    for (i = 0; i < N; i++) {
        for (j = 0; j < OUT; j++) {
            for (k = 0; k < IN; k++) {
                float change = u[2 * j] * v[k] + u[2 * j + 1] * v[IN + k];

                base[i * OUT + j] += x[i * IN + k] * w0[j * IN + k];
                want[i * OUT + j] += x[i * IN + k] * (w0[j * IN + k] + change);
            }
        }
    }
}

/* Half the mean square of y - want, and its gradient in dy. */
static double loss_and_gradient(void)
{
    double loss = 0;
    int    i;

    for (i = 0; i < N * OUT; i++) {
        dy[i] = (y[i] - want[i]) / N;
        loss += 0.5 * (y[i] - want[i]) * (y[i] - want[i]) / N;
    }
    return loss;
}

int main(void)
{
    bl_options  opt;
    bl_adapter *adapter;
    bl_tape    *tape;
    double      loss = 0, first = 0;
    int         i, step;

    make_data();

    check(bl_options_init(&opt, sizeof opt));
    opt.rank = RANK;
    opt.alpha = 2 * RANK;
    opt.total_steps = STEPS;
    check(bl_adapter_create(&adapter, IN, OUT, &opt));
    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));

    for (step = 0; step < STEPS; step++) {
        for (i = 0; i < N * OUT; i++) {
            y[i] = base[i];
        }
        check(bl_forward(adapter, tape, N, y, OUT, x, IN, step));
        loss = loss_and_gradient();
        check(bl_backward(adapter, tape, N, NULL, 0, dy, OUT, x, IN));
        check(bl_step(adapter, 0.01, 1));
        if (bl_reallocate_due(adapter)) {
            check(bl_reallocate(adapter, NULL));
        }
        if (step == 0) {
            first = loss;
        }
    }
    printf("loss %.6f at first, %.6f after %d steps\n", first, loss, STEPS);

    bl_tape_free(tape);
    bl_adapter_free(adapter);
    return loss < 0.01 * first ? 0 : 1;
}
