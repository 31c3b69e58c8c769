/*
 * AdamW's step of a group against reading p, g, m, v and writing p, m, v of the same
 * bytes, and against the same after reading g once more, as a step must that changes
 * nothing unless all of g is finite; a snapshot against copying them.
 */
#include <stdlib.h>
#include <string.h>

#include "groups.h"

struct work {
    bl_group *group;
    float    *p, *g, *m, *v, *copy; /* the group's own memory but for `copy` */
    int64_t   count;
};

enum { PARTS = 64 };

static void fill_part(void *context, int64_t part)
{
    const struct work *const work = context;
    const int64_t            end = work->count * (part + 1) / PARTS;
    for (int64_t i = work->count * part / PARTS; i < end; i++) {
        work->g[i] = 1e-3f * (float) (i % 17 - 8);
    }
}

/* Gradients: asking for a view of them says that they are there. */
static void fill(void *context)
{
    bl_view view;
    check(
        bl_group_get_view(((struct work *) context)->group, BL_BUFFER_GRADIENTS, &view));
    machine_parallel_for(NULL, PARTS, fill_part, context);
}

static void step(void *context)
{
    check(bl_group_step(((struct work *) context)->group, 1e-6, 1));
}

static void pass_part(void *context, int64_t part)
{
    const struct work *const work = context;
    float *restrict const p = work->p;
    float *restrict const m = work->m;
    float *restrict const v = work->v;
    const float *const g = work->g;
    const int64_t      end = work->count * (part + 1) / PARTS;
    for (int64_t i = work->count * part / PARTS; i < end; i++) {
        m[i] += g[i];
        v[i] += g[i];
        p[i] += g[i];
    }
}

static void pass(void *context)
{
    machine_parallel_for(NULL, PARTS, pass_part, context);
}

static void pass_twice(void *context)
{
    const struct work *const work = context;
    memory_read(work->g, work->count);
    pass(context);
}

static void tick(void *context)
{
    check(bl_group_tick(((struct work *) context)->group));
}

static void copy(void *context)
{
    const struct work *const work = context;
    memcpy(work->copy, work->p, (size_t) work->count * sizeof *work->p);
}

static float *buffer(bl_group *group, int32_t which, int64_t *count)
{
    bl_view view;
    check(bl_group_get_view(group, which, &view));
    *count = view.cols;
    return view.data;
}

static void measure(const struct setup *setup, struct report *report, const char *what,
                    const char *against, const char *name, const struct model *model,
                    const bl_options *opt, const struct side *sides, int count)
{
    static struct samples samples;
    struct work work = { .group = model_group(model, model_modules(model), opt) };
    if (work.group == NULL) {
        return;
    }
    work.p = buffer(work.group, BL_BUFFER_PARAMETERS, &work.count);
    work.g = buffer(work.group, BL_BUFFER_GRADIENTS, &work.count);
    if (opt->optimizer == BL_OPTIMIZER_ADAMW) {
        work.m = buffer(work.group, BL_BUFFER_M, &work.count);
        work.v = buffer(work.group, BL_BUFFER_V, &work.count);
    } else {
        work.copy = machine_memory((size_t) work.count * sizeof *work.copy);
    }
    pairs_run(&samples, sides, count, &work, setup->pairs);
    report_add(report, what, against, name, 0, opt->rank,
               pairs_ratio(samples.seconds[0], samples.seconds[1], samples.pairs));
    if (count > 2) {
        report_add(report, what, "g twice", name, 0, opt->rank,
                   pairs_ratio(samples.seconds[0], samples.seconds[2], samples.pairs));
    }
    free(work.copy);
    bl_group_free(work.group);
}

int bench_step(const struct setup *setup)
{
    const struct {
        const char         *name;
        const struct model *model;
        int64_t             rank;
    } cases[] = { { "110M", &model_110m, 16 },
                  { "Llama-2-7B", &model_llama_7b, 16 },
                  { "Llama-2-7B", &model_llama_7b, 64 } };
    const struct side    steps[] = { { step, setup->owner, 1e-3, fill },
                                     { pass, OWNER_HOST, 1e-3, fill },
                                     { pass_twice, OWNER_HOST, 1e-3, fill } };
    const struct side    snapshots[] = { { tick, setup->owner, 1e-3, NULL },
                                         { copy, OWNER_HOST, 1e-3, NULL } };
    struct report *const report = report_begin("step");
    for (int i = 0; i < (setup->quick ? 2 : 3); i++) {
        bl_options opt;
        check(bl_options_init(&opt, sizeof opt));
        opt.method = BL_METHOD_LORA;
        opt.rank = cases[i].rank;
        opt.parallel_for = setup->owner == OWNER_HOST ? machine_parallel_for : NULL;
        measure(setup, report, "step", "its bytes", cases[i].name, cases[i].model, &opt,
                steps, 3);
        opt.method = BL_METHOD_BEAMLORA;
        opt.optimizer = BL_OPTIMIZER_HOST;
        opt.total_steps = (int64_t) 1 << 40;
        opt.history_interval = 1;
        measure(setup, report, "snapshot", "memcpy", cases[i].name, cases[i].model, &opt,
                snapshots, 2);
    }
    report_target(report, "step", "its bytes", 0, 1.3, 0);
    report_target(report, "step", "g twice", 0, 0, 0);
    report_target(report, "snapshot", "memcpy", 0, 0, 0);
    return report_end(report, setup->directory);
}
