/*
 * Reallocation of a whole model's modules, a tenth of their ranks moved from history with
 * moments, against copying the same rows.
 */
#include <stdlib.h>
#include <string.h>

#include "groups.h"

struct work {
    bl_group *group;
    bl_plan  *plan, *next; /* the one that is applied; the one that is made meanwhile */
    int64_t   modules;
    float    *from[3], *to[3]; /* parameters, m, v: copies, and the group's own */
};

static const int32_t buffers[] = { BL_BUFFER_PARAMETERS, BL_BUFFER_M, BL_BUFFER_V };

/* The two halves of bl_group_reallocate. The first plan is applied every time, since later
 * ones would find ranks without a history. */
static void reallocate(void *context)
{
    const struct work *const work = context;
    check(bl_group_plan(work->group, work->next));
    check(bl_group_apply(work->group, work->plan));
}

/* The plan's rows, from another array to where they are. */
static void copy(void *context)
{
    const struct work *const work = context;
    const int64_t *const     modules = bl_plan_get_modules(work->plan);
    const int64_t *const     pruned = bl_plan_get_pruned(work->plan);
    const int64_t *const     sources = bl_plan_get_sources(work->plan);
    const int64_t            rows = bl_plan_get_count(work->plan);
    for (int64_t i = 0; i < rows; i++) {
        bl_adapter *const adapter = bl_group_get_adapter(work->group, modules[i]);
        for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_B; tensor++) {
            for (int k = 0; k < 3; k++) {
                bl_view view;
                check(bl_adapter_get_view(adapter, tensor, buffers[k], &view));
                float *const  data = view.data;
                const int64_t at = data - work->to[k];
                memcpy(data + pruned[i] * view.ld,
                       work->from[k] + at + sources[i] * view.ld,
                       (size_t) view.cols * sizeof *data);
            }
        }
    }
}

/* Scores that differ, a snapshot, and a step at which a reallocation is due. */
static void prepare(struct work *work)
{
    bl_view view;
    for (int64_t i = 0; i < work->modules; i++) {
        check(bl_adapter_get_view(bl_group_get_adapter(work->group, i), BL_TENSOR_SCORES,
                                  BL_BUFFER_PARAMETERS, &view));
        for (int64_t k = 0; k < view.cols; k++) {
            ((float *) view.data)[k] = 1e-3f * (float) ((k * 37 + i) % view.cols);
        }
    }
    check(bl_group_touch(work->group));
    while (!bl_group_reallocate_due(work->group)) {
        check(bl_group_step(work->group, 1e-6, 1));
    }
    for (int k = 0; k < 3; k++) {
        check(bl_group_get_view(work->group, buffers[k], &view));
        work->to[k] = view.data;
        work->from[k] = machine_memory((size_t) view.cols * sizeof *work->from[k]);
    }
    check(bl_plan_create(&work->plan, work->group));
    check(bl_plan_create(&work->next, work->group));
    check(bl_group_plan(work->group, work->plan));
}

static void measure(const struct setup *setup, struct report *report, const char *name,
                    const struct model *model, int64_t rank)
{
    static struct samples samples;
    const struct side     sides[] = { { reallocate, setup->owner, 1e-3, NULL },
                                      { copy, OWNER_HOST, 1e-3, NULL } };
    struct work           work = { .modules = model_modules(model) };
    bl_options            opt;
    check(bl_options_init(&opt, sizeof opt));
    opt.rank = rank;
    opt.total_steps = 36;
    opt.fixed_count = (rank + 9) / 10;
    opt.parallel_for = setup->owner == OWNER_HOST ? machine_parallel_for : NULL;
    work.group = model_group(model, work.modules, &opt);
    if (work.group == NULL) {
        return;
    }
    prepare(&work);
    pairs_run(&samples, sides, 2, &work, setup->pairs);
    report_add(report, "reallocation", "memcpy", name, 0, rank,
               pairs_ratio(samples.seconds[0], samples.seconds[1], samples.pairs));
    for (int k = 0; k < 3; k++) {
        free(work.from[k]);
    }
    bl_plan_free(work.plan);
    bl_plan_free(work.next);
    bl_group_free(work.group);
}

int bench_reallocate(const struct setup *setup)
{
    struct report *const report = report_begin("reallocate");
    measure(setup, report, "110M", &model_110m, 16);
    measure(setup, report, "Llama-2-7B", &model_llama_7b, 16);
    if (!setup->quick) {
        measure(setup, report, "Llama-2-7B", &model_llama_7b, 64);
    }
    report_target(report, "reallocation", "memcpy", 0, 2, 2);
    return report_end(report, setup->directory);
}
