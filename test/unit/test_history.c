/*
 * The ring of snapshots: which entry a reallocation reads, what is in it, and which
 * pairs are left out because no entry shows the source's present path.
 */
#include "../ref/ref.h"
#include "check_main.h"

#define RANKS 6

/* Every element of A, B and their moments says when, and of which rank, it was written:
 * exact in both dtypes. */
static double stamp(int64_t t, int tensor, int buffer, int64_t rank)
{
    return (double) (t * 1000 + buffer * 100 + tensor * 10 + rank + 1);
}

static void write_stamps(bl_adapter *a, int64_t t)
{
    static const int32_t buffers[] = { BL_BUFFER_PARAMETERS, BL_BUFFER_M, BL_BUFFER_V };
    for (int b = 0; b < 3; b++) {
        for (int32_t tensor = 0; tensor < 2; tensor++) {
            bl_view v = view_of(a, tensor, buffers[b]);
            for (int64_t i = 0; i < v.rows * v.cols; i++) {
                set_value(v.data, v.dtype, i / v.cols * v.ld + i % v.cols,
                          stamp(t, tensor, b, i / v.cols));
            }
        }
    }
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
}

/* To 8 significant bits, halves to even, by arithmetic alone. */
static double to_bf16(double value)
{
    int          exponent;
    const double fraction = frexp(value, &exponent);
    return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

/* `dtype` of what it comes from */
static void check_rank(bl_adapter *a, int64_t rank, int64_t t, int64_t of,
                       int32_t moments, int32_t dtype)
{
    static const int32_t buffers[] = { BL_BUFFER_PARAMETERS, BL_BUFFER_M, BL_BUFFER_V };
    int64_t              now = bl_group_get_step(bl_adapter_get_group(a));
    for (int b = 0; b < 3; b++) {
        for (int32_t tensor = 0; tensor < 2; tensor++) {
            bl_view v = view_of(a, tensor, buffers[b]);
            double  want = stamp(t, tensor, b, of);
            if (b > 0 && moments == BL_MOMENTS_KEEP) {
                want = stamp(now, tensor, b, rank);
            } else if (b > 0 && moments == BL_MOMENTS_ZERO) {
                want = 0;
            } else if (dtype == BL_BF16) {
                want = to_bf16(want);
            }
            for (int64_t j = 0; j < v.cols; j++) {
                check_near(get_value(v.data, v.dtype, rank * v.ld + j), want, 0);
            }
        }
    }
}

static const struct {
    int64_t period, depth, interval, phase, age;
    int     skips; /* 1: some pairs must have been left out; 0: none; -1: either */
} cases[] = {
    { 10, 1, 0, -1, -1, 0 }, { 10, 3, 2, 0, 4, -1 },  { 10, 4, 3, 1, 5, -1 },
    { 10, 8, 1, 0, 3, 0 },   { 6, 2, 9, 2, 0, 1 },    { 5, 3, 4, 3, 100, -1 },
    { 10, 5, 7, 3, 12, -1 }, { 4, 1, 12, 1, -1, 1 },  { 1, 1, 0, -1, -1, 0 },
    { 2, 2, 1, 0, 1, -1 },   { 10, 2, 10, 10, 0, 0 }, { 7, 16, 1, 0, 20, -1 },
    { 9, 3, 3, 0, 4, 0 }, /* ages 0, 3, 6: of two that are as near, the older */
    { 10, 3, 2, 1, 2, -1 },  { 10, 3, 2, 1, 4, -1 },  { 10, 4, 2, 1, 2, -1 },
    { 10, 5, 2, 1, 6, -1 },  { 12, 7, 2, 1, 4, -1 },
};

#define CASES ((int) (sizeof cases / sizeof cases[0]))

/* A run with random scores against a model of the ring. */
START_TEST(ring)
{
    int64_t skipped = 0, copied = 0;
    for (int variant = 0; variant < 9; variant++) {
        int32_t    dtype = variant % 3 == 1 ? BL_F64 : BL_F32;
        int32_t    moments = variant / 3;
        bl_options opt = default_options(dtype);
        opt.rank = RANKS;
        opt.period = cases[_i].period;
        opt.total_steps = 14 * opt.period;
        opt.history_depth = cases[_i].depth;
        opt.history_interval = cases[_i].interval;
        opt.history_phase = cases[_i].phase;
        opt.history_age = cases[_i].age;
        opt.history_dtype = variant % 3 == 2 ? BL_BF16 : 0;
        opt.moments = moments;
        opt.p_curve = BL_CURVE_CONSTANT;
        opt.p_start = 0.6;
        bl_adapter *a = make_adapter(5, 4, &opt, 1);
        bl_group   *g = bl_adapter_get_group(a);
        bl_plan    *plan = NULL;
        bl_options  worked;
        worked.size = sizeof worked;
        check_ok(bl_group_copy_options(g, &worked));
        check_ok(bl_plan_create(&plan, g));

        int64_t taken[512], count = 0, born[RANKS] = { 0 };
        for (int64_t t = 1; t <= opt.total_steps; t++) {
            write_stamps(a, t);
            view_random(a, 2, 0, (uint64_t) (100 * t + variant), 0.1, 0);
            check_ok(bl_group_tick(g));
            if (ref_snapshot_due(t, 0, worked.history_phase, worked.history_interval)) {
                taken[count++] = t;
            }
            if (!bl_group_reallocate_due(g)) {
                continue;
            }
            double s[2 * RANKS], *before = view_doubles(a, 2, 0);
            check_ok(bl_group_reallocate(g, plan));
            double *after = view_doubles(a, 2, 0);
            memcpy(s, before, RANKS * sizeof *s);
            int64_t moved[RANKS] = { 0 };
            for (int64_t k = 0; k < bl_plan_get_count(plan); k++) {
                int64_t dst = bl_plan_get_pruned(plan)[k];
                int64_t src = bl_plan_get_sources(plan)[k];
                int64_t found = -1;
                for (int64_t e = count > opt.history_depth ? count - opt.history_depth
                                                           : 0;
                     e < count; e++) {
                    if (taken[e] <= born[src]) {
                        continue; /* it shows what was there before */
                    }
                    int64_t off = llabs(t - taken[e] - worked.history_age);
                    if (found < 0 || off < llabs(t - found - worked.history_age)) {
                        found = taken[e]; /* ties: the older, which came first */
                    }
                }
                if (found < 0) {
                    ck_assert_int_eq(bl_plan_get_actions(plan)[k], BL_ACTION_SKIP);
                    ck_assert_int_eq(bl_plan_get_ages(plan)[k], -1);
                    if (!moved[dst]) {
                        check_rank(a, dst, t, dst, BL_MOMENTS_COPY,
                                   dtype); /* as it was */
                    }
                    skipped++;
                    continue;
                }
                ck_assert_int_eq(bl_plan_get_actions(plan)[k], BL_ACTION_HISTORY);
                ck_assert_int_eq(bl_plan_get_ages(plan)[k], t - found);
                check_rank(a, dst, found, src, moments, worked.history_dtype);
                s[dst] = s[src] = (before[dst] + before[src]) / 2;
                moved[dst] = 1;
                copied++;
            }
            for (int64_t i = 0; i < RANKS; i++) {
                check_near(after[i], s[i], dtype == BL_F64 ? 1e-15 : 1e-7);
                born[i] = moved[i] ? t : born[i];
            }
            free(before);
            free(after);
        }
        bl_plan_free(plan);
        bl_adapter_free(a);
    }
    ck_assert_int_gt(copied, 20);
    ck_assert_msg(cases[_i].skips < 0 || (skipped > 0) == cases[_i].skips,
                  "%d pairs were left out", (int) skipped);
}
END_TEST

/* A snapshot is of parameters after the step, and taken before a reallocation of it. */
START_TEST(same_step)
{
    bl_options opt = default_options(BL_F64);
    opt.period = 10;
    opt.history_interval = 10;
    opt.history_phase = 10;
    opt.history_age = 0;
    opt.p_curve = BL_CURVE_CONSTANT;
    opt.p_start = 0.5;
    bl_adapter *a = make_adapter(5, 4, &opt, 1);
    bl_group   *g = bl_adapter_get_group(a);
    bl_plan    *plan = NULL;
    check_ok(bl_plan_create(&plan, g));
    for (int round = 1; round < 4; round++) {
        for (int t = 0; t < 10; t++) {
            write_stamps(a, bl_group_get_step(g) + 1);
            check_ok(bl_group_tick(g));
        }
        ck_assert_int_eq(bl_group_get_snapshot_step(g), 10 * round);
        check_ok(bl_group_reallocate(g, plan));
        ck_assert_int_gt(bl_plan_get_count(plan), 0);
        for (int64_t k = 0; k < bl_plan_get_count(plan); k++) {
            ck_assert_int_eq(bl_plan_get_ages(plan)[k], 0);
            ck_assert_int_eq(bl_plan_get_actions(plan)[k], BL_ACTION_HISTORY);
            check_rank(a, bl_plan_get_pruned(plan)[k], 10 * round,
                       bl_plan_get_sources(plan)[k], BL_MOMENTS_COPY, BL_F64);
        }
    }
    bl_plan_free(plan);
    bl_adapter_free(a);
}
END_TEST

/* A plan by hand may name any age that the ring holds, and no other. */
START_TEST(ages_by_hand)
{
    bl_options opt = default_options(BL_F64);
    opt.period = 10;
    opt.history_depth = 3;
    opt.history_interval = 2;
    opt.history_phase = 1;
    bl_adapter *a = make_adapter(5, 4, &opt, 1);
    bl_group   *g = bl_adapter_get_group(a);
    bl_plan    *plan = NULL;
    check_ok(bl_plan_create(&plan, g));
    for (int64_t t = 1; t <= 10; t++) {
        write_stamps(a, t);
        check_ok(bl_group_tick(g));
    }
    bytes state = save_group(g);
    for (int64_t age = -1; age <= 10; age++) { /* it holds 5, 7, 9 */
        check_ok(bl_group_load(g, state.data, state.size));
        check_ok(bl_plan_clear(plan, 10));
        int rc = bl_plan_add(plan, 0, age > 0 ? age % 8 : 0, 2, BL_ACTION_HISTORY, age);
        rc = rc == 0 ? bl_group_apply(g, plan) : rc;
        if (age == 1 || age == 3 || age == 5) {
            ck_assert_msg(rc == 0, "age %d: %s", (int) age, bl_last_error());
            check_rank(a, age % 8, 10 - age, 2, BL_MOMENTS_COPY, BL_F64);
        } else {
            ck_assert_msg(rc < 0, "age %d was accepted", (int) age);
        }
    }
    bytes_free(&state);
    bl_plan_free(plan);
    bl_adapter_free(a);
}
END_TEST

/* A snapshot has the nearest number of 16 bits, of two the even one; NaN stays one. */
START_TEST(rounding)
{
    static const struct {
        uint32_t from;
        uint16_t to;
    } numbers[] = {
        { 0x00000000, 0x0000 }, { 0x80000000, 0x8000 }, { 0x3f800000, 0x3f80 },
        { 0x3f807fff, 0x3f80 }, { 0x3f808000, 0x3f80 }, { 0x3f808001, 0x3f81 },
        { 0x3f818000, 0x3f82 }, { 0xbf818000, 0xbf82 }, { 0x3fffffff, 0x4000 },
        { 0x00000001, 0x0000 }, { 0x00008001, 0x0001 }, { 0x7f7f0000, 0x7f7f },
        { 0x7f7fffff, 0x7f80 }, { 0xff800000, 0xff80 }, { 0x7f800001, 0x7fc0 },
        { 0xffffffff, 0xffff },
    };
    enum { NUMBERS = sizeof numbers / sizeof numbers[0] };
    bl_options opt = default_options(BL_F32);
    opt.optimizer = BL_OPTIMIZER_HOST;
    opt.history_interval = 1;
    opt.history_dtype = BL_BF16;
    bl_adapter *a = make_adapter(NUMBERS, 3, &opt, 1);
    bl_group   *g = bl_adapter_get_group(a);
    bl_view     v = view_of(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    for (int i = 0; i < NUMBERS; i++) {
        memcpy((float *) v.data + i, &numbers[i].from, sizeof(float));
    }
    check_ok(bl_group_tick(g));
    int found = 0;
    for (int64_t k = 0; k < bl_group_get_state_count(g); k++) {
        bl_array array;
        check_ok(bl_group_get_state(g, k, &array));
        if (strcmp(array.name, "adapter.0.A.history.0") == 0) {
            ck_assert_int_eq(array.dtype, BL_BF16);
            for (int i = 0; i < NUMBERS; i++) {
                ck_assert_uint_eq(((const uint16_t *) array.data)[i], numbers[i].to);
            }
            found++;
        }
    }
    ck_assert_int_eq(found, 1);
    bl_adapter_free(a);
}
END_TEST

/* The ring costs memory only where it is used, and moments only where copied. */
START_TEST(memory)
{
    bl_spec   spec = make_spec(40, 50, 8);
    bl_memory m;
    size_t    with[3];
    for (int32_t k = 0; k < 3; k++) {
        bl_options opt = default_options(BL_F32);
        opt.moments = k;
        opt.history_depth = 2;
        m.size = sizeof m;
        check_ok(bl_memory_query(&spec, 1, &opt, 0, &m));
        with[k] = m.history;
        ck_assert_int_ge((int64_t) m.history, 2 * 8 * (40 + 50) * 4 * (k ? 1 : 3));
        opt.history_dtype = BL_BF16;
        check_ok(bl_memory_query(&spec, 1, &opt, 0, &m));
        ck_assert_uint_lt(m.history, with[k] * 51 / 100);
        ck_assert_int_ge((int64_t) m.history, 2 * 8 * (40 + 50) * 2 * (k ? 1 : 3));
    }
    ck_assert_uint_gt(with[BL_MOMENTS_COPY], 2 * with[BL_MOMENTS_KEEP]);
    ck_assert_uint_eq(with[BL_MOMENTS_KEEP], with[BL_MOMENTS_ZERO]);
    bl_options opt = default_options(BL_F32);
    for (int32_t k = BL_EXPAND_CURRENT; k <= BL_EXPAND_NONE; k++) {
        opt.expand = k;
        m.size = sizeof m;
        check_ok(bl_memory_query(&spec, 1, &opt, 0, &m));
        ck_assert_uint_eq(m.history, 0);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("history");
    TCase *rings = tcase_create("ring");
    tcase_add_loop_test(rings, ring, 0, CASES);
    tcase_add_test(rings, same_step);
    tcase_add_test(rings, ages_by_hand);
    tcase_add_test(rings, rounding);
    tcase_add_test(rings, memory);
    suite_add_tcase(suite, rings);
    return suite;
}
