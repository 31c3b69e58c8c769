/*
 * Growth: time and memory over the number of modules, the rank and n. A straight line
 * through the logarithms has the slope 1 where growth is linear.
 */
#include <math.h>
#include <stdlib.h>

#include "groups.h"

enum { MOST_POINTS = 16 };

struct curve {
    struct report *report;
    const char    *name;
    int            points;
    double         x[MOST_POINTS], seconds[MOST_POINTS], bytes[MOST_POINTS];
};

static void add(struct curve *curve, double x, double seconds, double bytes)
{
    curve->x[curve->points] = x;
    curve->seconds[curve->points] = seconds;
    curve->bytes[curve->points++] = bytes;
    report_point(curve->report, curve->name, x, seconds, bytes);
}

static double slope(const double *x, const double *y, int count)
{
    double mx = 0, my = 0, xy = 0, xx = 0;
    for (int i = 0; i < count; i++) {
        mx += log(x[i]) / count;
        my += log(y[i]) / count;
    }
    for (int i = 0; i < count; i++) {
        xy += (log(x[i]) - mx) * (log(y[i]) - my);
        xx += (log(x[i]) - mx) * (log(x[i]) - mx);
    }
    return xy / xx;
}

static void finish(const struct curve *curve)
{
    char name[96];
    if (curve->points > 1) {
        snprintf(name, sizeof name, "slope of time over %s", curve->name);
        report_number(curve->report, name,
                      slope(curve->x, curve->seconds, curve->points));
        snprintf(name, sizeof name, "slope of memory over %s", curve->name);
        report_number(curve->report, name, slope(curve->x, curve->bytes, curve->points));
    }
}

/* ----- groups: a step and a reallocation ----- */

static double timed(int (*call)(bl_group *), bl_group *group)
{
    double seconds[3];
    for (int i = 0; i < 3; i++) {
        const double start = machine_now();
        check(call(group));
        seconds[i] = machine_now() - start;
    }
    return pairs_median(seconds, 3);
}

static int step(bl_group *group)
{
    return bl_group_step(group, 1e-6, 1);
}

static int reallocate(bl_group *group)
{
    return bl_group_reallocate(group, NULL);
}

/* The first `modules` of a 70B Llama. Copies of present ranks, so that there is no history:
 * parameters, gradients and moments of all of them are 13 GB. */
static int add_group(const struct setup *setup, struct curve *steps, struct curve *moves,
                     int64_t modules, int64_t rank, double x)
{
    bl_options opt;
    check(bl_options_init(&opt, sizeof opt));
    opt.rank = rank;
    opt.total_steps = (int64_t) 1 << 40;
    opt.expand = BL_EXPAND_CURRENT;
    opt.fixed_count = (rank + 9) / 10;
    opt.parallel_for = setup->owner == OWNER_HOST ? machine_parallel_for : NULL;
    bl_group *const group = model_group(&model_llama_70b, modules, &opt);
    if (group == NULL) {
        return 0;
    }
    const double bytes = (double) model_memory(&model_llama_70b, modules, &opt).total;
    machine_own(setup->owner);
    check(step(group));
    add(steps, x, timed(step, group), bytes);
    add(moves, x, timed(reallocate, group), bytes);
    bl_group_free(group);
    return 1;
}

/* ----- layers: a forward and a backward ----- */

struct pass {
    struct layer *layer;
    bl_adapter   *adapter;
    bl_tape      *tape;
};

static void pass(void *context)
{
    const struct pass *const  p = context;
    const struct layer *const l = p->layer;
    check(
        bl_forward(p->adapter, p->tape, l->n, l->y, l->out, l->x, l->in, BL_NO_DROPOUT));
    check(
        bl_backward(p->adapter, p->tape, l->n, l->dx, l->in, l->dy, l->out, l->x, l->in));
}

static void add_layer(const struct setup *setup, struct curve *curve, int64_t n,
                      int64_t rank, double x)
{
    static struct samples samples;
    const struct side     side = { pass, setup->owner, 1e-3, NULL };
    struct pass           p = { .layer = layer_create(n, 4096, 4096, rank) };
    const bl_spec         spec = { .size = sizeof spec,
                                   .in_features = 4096,
                                   .out_features = 4096 };
    bl_memory             memory = { .size = sizeof memory };
    bl_options            opt;
    check(bl_options_init(&opt, sizeof opt));
    opt.method = BL_METHOD_LORA;
    opt.rank = rank;
    opt.parallel_for = setup->owner == OWNER_HOST ? machine_parallel_for : NULL;
    check(bl_adapter_create(&p.adapter, 4096, 4096, &opt));
    check(bl_tape_create(&p.tape, p.adapter, n, BL_KEEP_ALL));
    check(bl_memory_query(&spec, 1, &opt, n, &memory));
    pairs_run(&samples, &side, 1, &p, 11);
    add(curve, x, pairs_median(samples.seconds[0], samples.pairs), (double) memory.total);
    bl_tape_free(p.tape);
    bl_adapter_free(p.adapter);
    layer_free(p.layer);
}

int bench_growth(const struct setup *setup)
{
    struct report *const report = report_begin("growth");
    struct curve         curves[] = { { .report = report, .name = "modules: step" },
                                      { .report = report, .name = "modules: reallocation" },
                                      { .report = report, .name = "rank: step" },
                                      { .report = report, .name = "rank: reallocation" },
                                      { .report = report, .name = "rank: passes" },
                                      { .report = report, .name = "n: passes" } };
    const int64_t        all = model_modules(&model_llama_70b);
    const int64_t        most = setup->quick ? all / 8 : all;
    for (int64_t modules = all / 16; modules <= most; modules *= 2) {
        if (!add_group(setup, &curves[0], &curves[1], modules, 64, (double) modules)) {
            break;
        }
    }
    for (int64_t rank = 4; rank <= 64; rank *= 2) {
        add_group(setup, &curves[2], &curves[3], all / 8, rank, (double) rank);
    }
    for (int64_t rank = 4; rank <= 128; rank *= 2) {
        add_layer(setup, &curves[4], 1024, rank, (double) rank);
    }
    for (int64_t n = 64; n <= (setup->quick ? 1024 : 8192); n *= 2) {
        add_layer(setup, &curves[5], n, 16, (double) n);
    }
    for (size_t i = 0; i < sizeof curves / sizeof curves[0]; i++) {
        finish(&curves[i]);
    }
    return report_end(report, setup->directory);
}
