/*
 * The host's own optimizer: SGD with momentum over the group's buffers. The momentum is
 * attached, so reallocations and the state treat it as they treat AdamW's moments.
 */
#include <beamlora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 64, IN = 24, OUT = 16, STEPS = 400 };

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

/* want = x (u v)^T: what the adapter has to add to a layer's output */
static void make_data(void)
{
    float u[OUT], v[IN];

    for (int i = 0; i < OUT; i++) {
        u[i] = draw();
    }
    for (int i = 0; i < IN; i++) {
        v[i] = draw() / 2;
    }
    for (int i = 0; i < N; i++) {
        float xv = 0;

        for (int k = 0; k < IN; k++) {
            x[i * IN + k] = draw();
            xv += x[i * IN + k] * v[k];
        }
        for (int j = 0; j < OUT; j++) {
            want[i * OUT + j] = xv * u[j];
        }
    }
}

static double gather_gradients(bl_adapter *adapter, bl_tape *tape)
{
    double loss = 0;

    memset(y, 0, sizeof y);
    check(bl_forward(adapter, tape, N, y, OUT, x, IN, BL_NO_DROPOUT));
    for (int i = 0; i < N * OUT; i++) {
        dy[i] = (y[i] - want[i]) / N;
        loss += 0.5 * (y[i] - want[i]) * (y[i] - want[i]) / N;
    }
    check(bl_backward(adapter, tape, N, NULL, 0, dy, OUT, x, IN));
    return loss;
}

/* One step over everything that the group holds. */
static void sgd_step(bl_group *group, int32_t momentum_buffer, float lr)
{
    bl_view parameters, gradients, momentum;

    check(bl_group_get_view(group, BL_BUFFER_PARAMETERS, &parameters));
    check(bl_group_get_view(group, BL_BUFFER_GRADIENTS, &gradients));
    check(bl_group_get_view(group, momentum_buffer, &momentum));

    float *p = (float *) parameters.data, *g = (float *) gradients.data;
    float *m = (float *) momentum.data;

    for (int64_t i = 0; i < parameters.cols; i++) {
        m[i] = 0.9f * m[i] + g[i];
        p[i] -= lr * m[i];
    }
    check(bl_group_tick(group));
}

int main(void)
{
    make_data();

    bl_options opt;
    bl_spec    spec = { 0 };
    bl_group  *group;

    spec.size = sizeof spec;
    spec.in_features = IN;
    spec.out_features = OUT;
    check(bl_options_init(&opt, sizeof opt));
    opt.optimizer = BL_OPTIMIZER_HOST;
    opt.rank = 4;
    opt.alpha = 4;
    opt.total_steps = STEPS;
    check(bl_group_create(&group, &spec, 1, &opt));

    bl_view parameters;
    int32_t momentum;

    check(bl_group_get_view(group, BL_BUFFER_PARAMETERS, &parameters));

    size_t bytes = (size_t) parameters.cols * sizeof(float);
    void  *memory = aligned_alloc(64, bytes); /* a multiple of 64, as every segment is */

    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        return 1;
    }
    memset(memory, 0, bytes);
    check(bl_group_attach(group, "momentum", memory, BL_FRESH_ZERO, &momentum));

    bl_adapter *adapter = bl_group_get_adapter(group, 0);
    bl_tape    *tape;
    double      first = 0, loss = 0;

    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));
    for (int step = 0; step < STEPS; step++) {
        loss = gather_gradients(adapter, tape);
        sgd_step(group, momentum, 0.02f);
        if (bl_group_reallocate_due(group)) {
            check(bl_group_reallocate(group, NULL));
        }
        if (step == 0) {
            first = loss;
        }
    }
    printf("loss %.6f at first, %.6f after %d steps of SGD\n", first, loss, STEPS);

    bl_tape_free(tape);
    bl_group_free(group);
    free(memory); /* outlives the group */
    return loss < 0.01 * first ? 0 : 1;
}
