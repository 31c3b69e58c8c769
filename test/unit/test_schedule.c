/* When snapshots and reallocations come, and how far Top-P reaches: step by step. */
#include "../ref/ref.h"
#include "check_main.h"

static const struct {
    int64_t total, period, start, p_steps, interval, phase;
} cases[] = {
    { 50, 10, 0, 50, 0, -1 },    { 120, 0, 0, 0, 0, -1 }, { 36, 0, 0, 0, 0, -1 },
    { 30, 1, 0, 0, 0, -1 },      { 31, 2, 0, 7, 0, -1 },  { 100, 7, 13, 0, 0, -1 },
    { 100, 10, 25, 30, 3, 0 },   { 64, 8, 8, 20, 5, 2 },  { 200, 33, 50, 90, 1, 0 },
    { 40, 20, 0, 1000, 20, 20 }, { 90, 9, 9, 0, 4, 17 },  { 77, 11, 3, 0, 11, 0 },
};

#define CASES ((int) (sizeof cases / sizeof cases[0]))

/* due, p(t) and the newest snapshot after every step of a run, for every curve. */
START_TEST(every_step)
{
    static const double ends[][2] = { { 0.95, 1 }, { 1, 0.95 }, { 0.7, 0.7 } };
    for (int variant = 0; variant < 9; variant++) {
        bl_options opt = default_options(BL_F32);
        opt.total_steps = cases[_i].total;
        opt.period = cases[_i].period;
        opt.start = cases[_i].start;
        opt.p_steps = cases[_i].p_steps;
        opt.history_interval = cases[_i].interval;
        opt.history_phase = cases[_i].phase;
        opt.p_curve = variant % 3;
        opt.p_start = ends[variant / 3][0];
        opt.p_end = ends[variant / 3][1];
        if (opt.p_start >= 1 && opt.p_curve == BL_CURVE_CONSTANT) {
            continue; /* refused, see test_options */
        }
        int64_t period = opt.period ? opt.period : opt.total_steps / 12;
        period = period < 3 && !opt.period ? 3 : period;
        int64_t steps = opt.p_steps ? opt.p_steps : opt.total_steps * 2 / 3;
        int64_t interval = opt.history_interval ? opt.history_interval : period;
        int64_t phase = opt.history_phase < 0 ? period / 2 + 1 : opt.history_phase;
        int64_t newest = -1;
        int     seen = 0;

        bl_adapter *a = make_adapter(3, 3, &opt, 1);
        bl_group   *g = bl_adapter_get_group(a);
        ck_assert_int_eq(bl_group_reallocate_due(g), 0);
        ck_assert_int_eq(bl_group_get_snapshot_step(g), -1);
        for (int64_t t = 1; t <= opt.total_steps + 2 * period; t++) {
            if (t % 2) {
                check_ok(bl_step(a, 0.001, 1));
            } else {
                check_ok(bl_group_tick(g));
            }
            int due = ref_due(t, opt.start, period, opt.total_steps);
            ck_assert_int_eq(bl_group_get_step(g), t);
            ck_assert_int_eq(bl_group_reallocate_due(g), due);
            ck_assert_int_eq(bl_reallocate_due(a), due);
            newest = ref_snapshot_due(t, opt.start, phase, interval) ? t : newest;
            ck_assert_int_eq(bl_group_get_snapshot_step(g), newest);
            if (t > opt.start) {
                double p = bl_group_get_threshold(g);
                check_near(p,
                           ref_threshold(t, opt.start, steps, opt.p_start, opt.p_end,
                                         opt.p_curve),
                           1e-14);
                ck_assert(p > 0 && p <= 1);
            }
            if (due) {
                bl_plan *plan = NULL;
                double   p = bl_group_get_threshold(g);
                check_ok(bl_plan_create(&plan, g));
                check_ok(bl_group_reallocate(g, plan));
                check_near(bl_plan_get_threshold(plan), p, 0);
                ck_assert_int_eq(bl_plan_get_step(plan), t);
                ck_assert_int_eq(bl_group_get_step(g), t); /* t goes on */
                bl_plan_free(plan);
                seen++;
            }
        }
        ck_assert_int_gt(seen, 0);
        bl_adapter_free(a);
    }
}
END_TEST

/* Below start p is in (0, 1] all the same. */
START_TEST(before_start)
{
    bl_options opt = default_options(BL_F32);
    opt.start = 40;
    for (int curve = 0; curve < 3; curve++) {
        opt.p_curve = curve;
        bl_adapter *a = make_adapter(3, 3, &opt, 1);
        bl_group   *g = bl_adapter_get_group(a);
        for (int t = 0; t < 45; t++) {
            double p = bl_group_get_threshold(g);
            ck_assert(p > 0 && p <= 1);
            check_ok(bl_group_tick(g));
        }
        bl_adapter_free(a);
    }
}
END_TEST

/* Scores only, and LoRA: never due, no history kept. */
START_TEST(off)
{
    for (int method = 0; method < 2; method++) {
        bl_options opt = default_options(BL_F32);
        opt.method = method;
        opt.reallocation = 0;
        opt.total_steps = 0;
        bl_adapter *a = NULL;
        check_ok(bl_adapter_create(&a, 3, 3, &opt));
        for (int t = 0; t < 50; t++) {
            check_ok(bl_step(a, 0.1, 1));
            ck_assert_int_eq(bl_reallocate_due(a), 0);
            ck_assert_int_eq(bl_group_get_snapshot_step(bl_adapter_get_group(a)), -1);
        }
        bl_adapter_free(a);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("schedule");
    TCase *steps = tcase_create("steps");
    tcase_add_loop_test(steps, every_step, 0, CASES);
    tcase_add_test(steps, before_start);
    tcase_add_test(steps, off);
    tcase_set_timeout(steps, 60);
    suite_add_tcase(suite, steps);
    return suite;
}
