/*
 * A network of three layers y = tanh(x W^T), the last with a bias and without tanh, and
 * a group of three adapters on them. The target is the same network with a low-rank
 * change in every layer and another bias. The bias is the host's own parameter, trained
 * beside the adapters: it shows how both are clipped by one norm.
 */
#include <beamlora.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, BATCH = 32, STEPS = 600 };

static const int64_t width[LAYERS + 1] = { 12, 24, 24, 6 };
enum { WIDEST = 24 };

/* activation[l] goes into layer l, activation[LAYERS] is the output */
static float weight[LAYERS][WIDEST * WIDEST], target_weight[LAYERS][WIDEST * WIDEST];
static float bias[WIDEST], bias_gradient[WIDEST], target_bias[WIDEST];
static float activation[LAYERS + 1][BATCH * WIDEST], target[BATCH * WIDEST];
static float gradient[LAYERS + 1][BATCH * WIDEST];

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

static void make_networks(void)
{
    for (int l = 0; l < LAYERS; l++) {
        float u[WIDEST], v[WIDEST];

        for (int64_t i = 0; i < WIDEST; i++) {
            u[i] = draw() / 2;
            v[i] = draw() / 2;
        }
        for (int64_t i = 0; i < width[l + 1]; i++) {
            for (int64_t j = 0; j < width[l]; j++) {
                weight[l][i * width[l] + j] = draw() / 3;
                target_weight[l][i * width[l] + j] =
                    weight[l][i * width[l] + j] + u[i] * v[j];
            }
        }
    }
    for (int64_t i = 0; i < width[LAYERS]; i++) {
        target_bias[i] = draw() / 2;
    }
}

/* y = x W^T, as any trainer has it */
static void frozen_forward(float *y, const float *x, const float *w, int l)
{
    for (int64_t n = 0; n < BATCH; n++) {
        for (int64_t i = 0; i < width[l + 1]; i++) {
            float sum = 0;

            for (int64_t j = 0; j < width[l]; j++) {
                sum += x[n * width[l] + j] * w[i * width[l] + j];
            }
            y[n * width[l + 1] + i] = sum;
        }
    }
}

/* dx = dy W */
static void frozen_backward(float *dx, const float *dy, const float *w, int l)
{
    for (int64_t n = 0; n < BATCH; n++) {
        for (int64_t j = 0; j < width[l]; j++) {
            float sum = 0;

            for (int64_t i = 0; i < width[l + 1]; i++) {
                sum += dy[n * width[l + 1] + i] * w[i * width[l] + j];
            }
            dx[n * width[l] + j] = sum;
        }
    }
}

static void activate(float *y, int l, const float *last_bias)
{
    for (int64_t i = 0; i < BATCH * width[l + 1]; i++) {
        y[i] = l < LAYERS - 1 ? tanhf(y[i]) : y[i] + last_bias[i % width[l + 1]];
    }
}

/* A new batch: inputs and what the target network makes of them. */
static void next_batch(void)
{
    static float buffer[2][BATCH * WIDEST];

    for (int64_t i = 0; i < BATCH * width[0]; i++) {
        activation[0][i] = buffer[0][i] = draw();
    }
    for (int l = 0; l < LAYERS; l++) {
        frozen_forward(buffer[1 - l % 2], buffer[l % 2], target_weight[l], l);
        activate(buffer[1 - l % 2], l, target_bias);
    }
    memcpy(target, buffer[LAYERS % 2], sizeof target);
}

static void forward(const bl_group *group, bl_tape *const *tape)
{
    for (int l = 0; l < LAYERS; l++) {
        float *x = activation[l], *y = activation[l + 1];

        frozen_forward(y, x, weight[l], l);
        check(bl_forward(bl_group_get_adapter(group, l), tape[l], BATCH, y, width[l + 1],
                         x, width[l], BL_NO_DROPOUT));
        activate(y, l, bias);
    }
}

/* Half the mean square of output - target, its gradient in gradient[LAYERS]. */
static double loss_of_output(void)
{
    double loss = 0;

    memset(bias_gradient, 0, sizeof bias_gradient);
    for (int64_t i = 0; i < BATCH * width[LAYERS]; i++) {
        float difference = activation[LAYERS][i] - target[i];

        gradient[LAYERS][i] = difference / BATCH;
        bias_gradient[i % width[LAYERS]] += difference / BATCH;
        loss += 0.5 * difference * difference / BATCH;
    }
    return loss;
}

static void backward(const bl_group *group, bl_tape *const *tape)
{
    for (int l = LAYERS - 1; l >= 0; l--) {
        float *x = activation[l], *dx = gradient[l], *dy = gradient[l + 1];

        frozen_backward(dx, dy, weight[l], l);
        check(bl_backward(bl_group_get_adapter(group, l), tape[l], BATCH, dx, width[l],
                          dy, width[l + 1], x, width[l]));
        for (int64_t i = 0; l > 0 && i < BATCH * width[l]; i++) {
            dx[i] *= 1 - x[i] * x[i]; /* x is a tanh */
        }
    }
}

/* Clip all gradients, the group's and the host's, to a norm of 1, and step. */
static void update(bl_group *group, double lr)
{
    double norm, sum = 0;

    for (int64_t i = 0; i < width[LAYERS]; i++) {
        sum += (double) bias_gradient[i] * bias_gradient[i];
    }
    check(bl_group_copy_gradient_norm(group, &norm));
    norm = sqrt(norm * norm + sum);

    double scale = norm > 1 ? 1 / norm : 1;

    check(bl_group_step(group, lr, scale));
    for (int64_t i = 0; i < width[LAYERS]; i++) {
        bias[i] -= (float) (0.1 * scale * bias_gradient[i]);
    }
}

int main(void)
{
    make_networks();

    bl_spec spec[LAYERS] = { { 0 } };

    for (int l = 0; l < LAYERS; l++) {
        spec[l].size = sizeof spec[l];
        spec[l].in_features = width[l];
        spec[l].out_features = width[l + 1];
    }

    const double lr = 0.01;
    bl_options   opt;
    bl_group    *group;

    check(bl_options_init(&opt, sizeof opt));
    opt.rank = 4;
    opt.alpha = 8;
    opt.lr = lr;
    opt.total_steps = STEPS;
    check(bl_group_create(&group, spec, LAYERS, &opt));

    bl_tape *tape[LAYERS];

    for (int l = 0; l < LAYERS; l++) {
        check(
            bl_tape_create(&tape[l], bl_group_get_adapter(group, l), BATCH, BL_KEEP_ALL));
    }

    double first = 0, last = 0; /* means over a tenth of the steps */
    int    reallocations = 0;

    for (int step = 0; step < STEPS; step++) {
        next_batch();
        forward(group, tape);

        double loss = loss_of_output();

        backward(group, tape);
        update(group, lr * (1 - (double) step / STEPS));
        if (bl_group_reallocate_due(group)) {
            check(bl_group_reallocate(group, NULL));
            reallocations++;
        }
        first += step < STEPS / 10 ? loss / (STEPS / 10) : 0;
        last += step >= STEPS - STEPS / 10 ? loss / (STEPS / 10) : 0;
    }
    printf("loss %.4f in the first steps, %.6f in the last; %d reallocations\n", first,
           last, reallocations);

    for (int l = 0; l < LAYERS; l++) {
        bl_tape_free(tape[l]);
    }
    bl_group_free(group);
    return last < 0.05 * first && reallocations > 0 ? 0 : 1;
}
