/*
 * A reallocation in two calls: decide, look at the plan, carry it out. The plan is data;
 * a log prints it, a plot draws it, a replica sends it to the others.
 */
#include <beamlora.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 32, WIDTH = 16, LAYERS = 2, RANK = 8, STEPS = 120 };

static float x[N * WIDTH], want[N * WIDTH], y[N * WIDTH], dy[N * WIDTH];

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

/* One step towards outputs that nothing but training decides: random ones. */
static void train_step(bl_group *group, bl_tape *const *tape)
{
    for (int64_t l = 0; l < LAYERS; l++) {
        bl_adapter *adapter = bl_group_get_adapter(group, l);

        memset(y, 0, sizeof y);
        check(bl_forward(adapter, tape[l], N, y, WIDTH, x, WIDTH, BL_NO_DROPOUT));
        for (int i = 0; i < N * WIDTH; i++) {
            dy[i] = (y[i] - want[i]) / N;
        }
        check(bl_backward(adapter, tape[l], N, NULL, 0, dy, WIDTH, x, WIDTH));
    }
    check(bl_group_step(group, 0.02, 1));
}

static void print_plan(const bl_group *group, const bl_plan *plan)
{
    static const char *const actions[] = { "history", "current", "fresh",
                                           "prune",   "skip",    "shrink" };

    const int64_t *module = bl_plan_get_modules(plan);
    const int64_t *pruned = bl_plan_get_pruned(plan);
    const int64_t *source = bl_plan_get_sources(plan);
    const int32_t *action = bl_plan_get_actions(plan);
    const int64_t *age = bl_plan_get_ages(plan);
    const double  *importance = bl_plan_get_importances(plan);

    printf("step %" PRId64 ", p %.4f, %" PRId64 " ranks\n", bl_plan_get_step(plan),
           bl_plan_get_threshold(plan), bl_plan_get_count(plan));
    for (int64_t i = 0; i < bl_plan_get_count(plan); i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, module[i]);

        printf("    %s  rank %" PRId64 " (g %.3f) <- rank %" PRId64 "  %s, %" PRId64
               " steps old\n",
               bl_adapter_get_name(adapter), pruned[i], importance[i], source[i],
               actions[action[i]], age[i]);
    }
}

int main(void)
{
    for (int i = 0; i < N * WIDTH; i++) {
        x[i] = draw();
        want[i] = draw();
    }

    bl_spec    spec[LAYERS] = { { 0 } };
    bl_options opt;
    bl_group  *group;
    bl_plan   *plan;
    bl_tape   *tape[LAYERS];

    for (int l = 0; l < LAYERS; l++) {
        spec[l].size = sizeof spec[l];
        spec[l].in_features = spec[l].out_features = WIDTH;
        spec[l].name = l == 0 ? "first" : "second";
    }
    check(bl_options_init(&opt, sizeof opt));
    opt.rank = RANK;
    opt.total_steps = STEPS;
    opt.period = 30;
    opt.p_start = 0.8;
    check(bl_group_create(&group, spec, LAYERS, &opt));
    check(bl_plan_create(&plan, group));
    for (int l = 0; l < LAYERS; l++) {
        check(bl_tape_create(&tape[l], bl_group_get_adapter(group, l), N, BL_KEEP_ALL));
    }

    int64_t moved = 0;

    for (int step = 0; step < STEPS; step++) {
        train_step(group, tape);
        if (bl_group_reallocate_due(group)) {
            check(bl_group_plan(group, plan)); /* changes nothing */
            print_plan(group, plan);
            check(bl_group_apply(group, plan));
            moved += bl_plan_get_count(plan);
        }
    }

    for (int l = 0; l < LAYERS; l++) {
        bl_tape_free(tape[l]);
    }
    bl_plan_free(plan);
    bl_group_free(group);
    return moved > 0 ? 0 : 1;
}
