/*
 * Forward, backward and their sum against the bare CBLAS calls and against the floor: the
 * longer of the layer's memory traffic and its operations at the peak of sgemm.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

struct pass {
    struct layer *layer;
    bl_adapter   *adapter;
    bl_tape      *tape;
};

static void forward(void *context)
{
    const struct pass *const  p = context;
    const struct layer *const l = p->layer;
    check(
        bl_forward(p->adapter, p->tape, l->n, l->y, l->out, l->x, l->in, BL_NO_DROPOUT));
}

/* The first backward after a step: it overwrites gradients, as the bare calls do. */
static void backward(void *context)
{
    const struct pass *const  p = context;
    const struct layer *const l = p->layer;
    check(bl_group_discard_gradients(bl_adapter_get_group(p->adapter)));
    check(
        bl_backward(p->adapter, p->tape, l->n, l->dx, l->in, l->dy, l->out, l->x, l->in));
}

static void bare_forward(void *context)
{
    layer_bare_forward(((const struct pass *) context)->layer);
}

static void bare_backward(void *context)
{
    layer_bare_backward(((const struct pass *) context)->layer);
}

static void floor_forward(void *context)
{
    layer_floor_forward(((const struct pass *) context)->layer);
}

static void floor_backward(void *context)
{
    layer_floor_backward(((const struct pass *) context)->layer);
}

static void peak(void *context)
{
    layer_peak(((const struct pass *) context)->layer);
}

enum {
    FORWARD,
    BACKWARD,
    BARE_FORWARD,
    BARE_BACKWARD,
    FLOOR_FORWARD,
    FLOOR_BACKWARD,
    PEAK
};

/* Rows of a layer's samples: ours against bare and against the floor. */
static void report_passes(struct report *report, const struct layer *l, struct samples *s)
{
    static double sums[3][MOST_PAIRS];
    const double  flops[2] = { layer_forward_flops(l), layer_backward_flops(l) };
    const char   *names[] = { "forward", "backward" };
    char          shape[32];
    snprintf(shape, sizeof shape, "%lldx%lld", (long long) l->in, (long long) l->out);
    for (int i = 0; i < s->pairs; i++) {
        const double second = s->seconds[PEAK][i] / layer_peak_flops(); /* of one */
        for (int k = FORWARD; k <= BACKWARD; k++) {
            double *const floor = s->seconds[FLOOR_FORWARD + k];
            floor[i] = fmax(floor[i], flops[k] * second);
        }
        for (int k = 0; k < 3; k++) {
            sums[k][i] = s->seconds[2 * k][i] + s->seconds[2 * k + 1][i];
        }
    }
    for (int k = FORWARD; k <= BACKWARD; k++) {
        report_add(report, names[k], "bare", shape, l->n, l->rank,
                   pairs_ratio(s->seconds[k], s->seconds[BARE_FORWARD + k], s->pairs));
    }
    report_add(report, "forward+backward", "bare", shape, l->n, l->rank,
               pairs_ratio(sums[0], sums[1], s->pairs));
    report_add(report, "forward+backward", "floor", shape, l->n, l->rank,
               pairs_ratio(sums[0], sums[2], s->pairs));
}

static void measure(const struct setup *setup, struct report *report, double *best,
                    const struct shape *shape, int64_t n, int64_t rank)
{
    const double          least = setup->quick ? 5e-4 : 2e-3;
    const enum owner      o = setup->owner;
    const struct side     sides[] = { { forward, o, least, NULL },
                                      { backward, o, least, NULL },
                                      { bare_forward, OWNER_BLAS, least, NULL },
                                      { bare_backward, OWNER_BLAS, least, NULL },
                                      { floor_forward, OWNER_HOST, least, NULL },
                                      { floor_backward, OWNER_HOST, least, NULL },
                                      { peak, OWNER_HOST, least, NULL } };
    static struct samples samples;
    struct pass pass = { .layer = layer_create(n, shape->in, shape->out, rank) };
    bl_options  opt;
    check(bl_options_init(&opt, sizeof opt));
    opt.rank = rank;
    opt.reallocation = 0;
    opt.parallel_for = o == OWNER_HOST ? machine_parallel_for : NULL;
    check(bl_adapter_create(&pass.adapter, shape->in, shape->out, &opt));
    check(bl_tape_create(&pass.tape, pass.adapter, n, BL_KEEP_ALL));
    pairs_run(&samples, sides, 7, &pass, setup->pairs);
    report_passes(report, pass.layer, &samples);
    const double rate =
        layer_peak_flops() / pairs_median(samples.seconds[PEAK], samples.pairs);
    *best = fmax(*best, rate);
    bl_tape_free(pass.tape);
    bl_adapter_free(pass.adapter);
    layer_free(pass.layer);
}

int bench_passes(const struct setup *setup)
{
    struct report *const report =
        report_begin(setup->owner == OWNER_HOST ? "passes" : "passes-blas");
    double best = 0;
    for (int i = 0; i < setup->shape_count; i++) {
        for (int j = 0; j < setup->n_count; j++) {
            for (int k = 0; k < setup->rank_count; k++) {
                measure(setup, report, &best, &setup->shapes[i], setup->n[j],
                        setup->ranks[k]);
            }
        }
    }
    report_number(report, "peak of sgemm, GFLOP/s", best / 1e9);
    report_target(report, "forward+backward", "bare", 16, 0.85, 1.03);
    report_target(report, "forward+backward", "bare", 1, 0, 0);
    report_target(report, "forward+backward", "floor", 64, 1.5, 0);
    return report_end(report, setup->directory);
}
