/*
 * Plans and what they do, for every setting: the plan is compared with test/ref, then
 * its outcome with the rows of the plan carried out by hand.
 */
#include "../ref/ref.h"
#include "check_main.h"

#define MODULES 3
#define PERIOD 10
#define SNAPSHOT 6 /* after this step, by the automatic phase */

static const int32_t dtypes[] = { BL_F32, BL_F64 };

typedef struct world {
    bl_group *group;
    bl_plan  *plan;
    int64_t   in[MODULES], out[MODULES], ranks[MODULES];
    int32_t   buffers[3]; /* parameters, and two of moments or attached arrays */
    void     *attached[2];
    int32_t   dtype;
} world;

/* Everything in a group's buffers. */
typedef struct content {
    double *at[MODULES][3][3]; /* [module][buffer][tensor] */
} content;

static bl_options base_options(int32_t dtype)
{
    bl_options opt = default_options(dtype);
    opt.period = PERIOD;
    opt.p_curve = BL_CURVE_CONSTANT;
    opt.p_start = 0.8;
    opt.pairing = BL_PAIRING_ORDERED;
    opt.temperature = 0.05;
    return opt;
}

static world make_world(const bl_options *opt)
{
    static const int64_t in[] = { 5, 12, 3 }, out[] = { 7, 4, 9 }, ranks[] = { 8, 5, 13 };
    world                w;
    bl_spec              specs[MODULES];
    memset(&w, 0, sizeof w);
    w.dtype = opt->parameter_dtype;
    for (int m = 0; m < MODULES; m++) {
        w.in[m] = in[m];
        w.out[m] = out[m];
        w.ranks[m] = ranks[m];
        specs[m] = make_spec(in[m], out[m], ranks[m]);
    }
    check_ok(bl_group_create(&w.group, specs, MODULES, opt));
    check_ok(bl_plan_create(&w.plan, w.group));
    w.buffers[0] = BL_BUFFER_PARAMETERS;
    w.buffers[1] = BL_BUFFER_M;
    w.buffers[2] = BL_BUFFER_V;
    if (opt->optimizer == BL_OPTIMIZER_HOST) {
        bl_view all;
        check_ok(bl_group_get_view(w.group, 0, &all));
        size_t size = ((size_t) all.cols * dtype_bytes(w.dtype) + 63) / 64 * 64;
        for (int k = 0; k < 2; k++) {
            w.attached[k] = aligned_alloc(64, size);
            ck_assert_ptr_nonnull(w.attached[k]);
            memset(w.attached[k], 0, size);
            check_ok(bl_group_attach(w.group, k ? "second" : "first", w.attached[k],
                                     k ? BL_FRESH_MEAN : BL_FRESH_ZERO,
                                     &w.buffers[1 + k]));
        }
    }
    return w;
}

static void free_world(world *w)
{
    bl_plan_free(w->plan);
    bl_group_free(w->group);
    free(w->attached[0]);
    free(w->attached[1]);
}

/* New random values everywhere; scores on a coarse grid where ties are wanted. */
static void scramble(world *w, uint64_t seed, int ties)
{
    for (int m = 0; m < MODULES; m++) {
        bl_adapter *a = bl_group_get_adapter(w->group, m);
        for (int b = 0; b < 3; b++) {
            for (int32_t t = 0; t < 3; t++) {
                uint64_t s = seed * 100 + (uint64_t) (m * 9 + b * 3 + t);
                double   shift = b == 2 ? 1.5 : 0; /* second moments are positive */
                view_random(a, t, w->buffers[b], s, t == 2 && b == 0 ? 0.1 : 1, shift);
            }
        }
        if (ties) {
            bl_view v = view_of(a, BL_TENSOR_SCORES, 0);
            for (int64_t i = 0; i < v.cols; i++) {
                double s = get_value(v.data, v.dtype, i);
                set_value(v.data, v.dtype, i, rint(s * 30) / 32);
            }
        }
    }
    check_ok(bl_group_touch(w->group));
}

static content take(const world *w)
{
    content c;
    for (int m = 0; m < MODULES; m++) {
        for (int b = 0; b < 3; b++) {
            for (int32_t t = 0; t < 3; t++) {
                c.at[m][b][t] =
                    view_doubles(bl_group_get_adapter(w->group, m), t, w->buffers[b]);
            }
        }
    }
    return c;
}

static void free_content(content *c)
{
    for (int m = 0; m < MODULES; m++) {
        for (int b = 0; b < 3; b++) {
            for (int t = 0; t < 3; t++) {
                free(c->at[m][b][t]);
            }
        }
    }
}

static int64_t columns(const world *w, int m, int tensor)
{
    return tensor == BL_TENSOR_A ? w->in[m] : w->out[m];
}

/* Up to the first reallocation; returns what the snapshot must hold. */
static content advance(world *w, uint64_t seed, int ties)
{
    content snapshot;
    while (bl_group_get_step(w->group) < SNAPSHOT - 1) {
        check_ok(bl_group_tick(w->group));
    }
    scramble(w, seed, ties);
    snapshot = take(w);
    check_ok(bl_group_tick(w->group));
    scramble(w, seed + 1, ties);
    while (!bl_group_reallocate_due(w->group)) {
        check_ok(bl_group_tick(w->group));
    }
    ck_assert_int_eq(bl_group_get_step(w->group), PERIOD);
    return snapshot;
}

/* Importance and contribution (over the mean) of every rank, by the reference. */
static void measure(const world *w, const content *c, double tau,
                    double (*score)[REF_RANKS], double (*contribution)[REF_RANKS])
{
    for (int m = 0; m < MODULES; m++) {
        double mean = 0;
        ref_importance(w->ranks[m], c->at[m][0][2], tau, NULL, score[m]);
        for (int64_t i = 0; i < w->ranks[m]; i++) {
            contribution[m][i] = score[m][i] * ref_size(c->at[m][0][0], c->at[m][0][1],
                                                        w->in[m], w->out[m], i);
            mean += contribution[m][i] / (double) w->ranks[m];
        }
        for (int64_t i = 0; i < w->ranks[m]; i++) {
            contribution[m][i] /= mean;
        }
    }
}

/* ----- plans ----- */

/* Row by row: by module, then rank, ordered pairing. */
static void check_plan(const world   *w, const double (*importance)[REF_RANKS],
                       const int64_t *counts)
{
    int64_t row = 0;
    for (int m = 0; m < MODULES; m++) {
        int64_t pruned[REF_RANKS], sources[REF_RANKS];
        ref_pairs(w->ranks[m], importance[m], counts[m], pruned, sources);
        for (int64_t k = 0; k < counts[m]; k++, row++) {
            ck_assert_int_lt(row, bl_plan_get_count(w->plan));
            ck_assert_int_eq(bl_plan_get_modules(w->plan)[row], m);
            ck_assert_int_eq(bl_plan_get_pruned(w->plan)[row], pruned[k]);
            ck_assert_int_eq(bl_plan_get_sources(w->plan)[row], sources[k]);
            ck_assert_int_eq(bl_plan_get_actions(w->plan)[row], BL_ACTION_HISTORY);
            ck_assert_int_eq(bl_plan_get_ages(w->plan)[row], PERIOD - SNAPSHOT);
            check_near(bl_plan_get_importances(w->plan)[row], importance[m][pruned[k]],
                       1e-11);
        }
    }
    ck_assert_int_eq(row, bl_plan_get_count(w->plan));
    ck_assert_int_eq(bl_plan_get_step(w->plan), PERIOD);
}

/* Every way to choose, at several p, caps and with ties. */
START_TEST(choosing)
{
    static const double ps[] = { 0.3, 0.8, 0.95, 0.999 }, caps[] = { 0.3, 0.5, 1 };
    int64_t             seen = 0;
    for (int i = 0; i < 4 * 3 * 16; i++) {
        bl_options opt = base_options(dtypes[_i]);
        opt.p_start = ps[i % 4];
        opt.max_prune_fraction = caps[i / 4 % 3];
        opt.scope = i / 12 & 1;
        opt.crossing = i / 24 & 1;
        opt.importance = i / 48 & 1;
        int     ties = i / 96 & 1;
        world   w = make_world(&opt);
        content snapshot = advance(&w, (uint64_t) i, ties), c = take(&w);
        double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
        measure(&w, &c, 0.05, score, contribution);
        const double(*importance)[REF_RANKS] =
            (const double(*)[REF_RANKS])(opt.importance ? contribution : score);
        int64_t counts[MODULES];
        ref_counts(MODULES, w.ranks, importance, opt.p_start, opt.scope, opt.crossing,
                   opt.max_prune_fraction, counts);
        bytes before = save_group(w.group);
        check_ok(bl_group_plan(w.group, w.plan));
        bytes after = save_group(w.group);
        ck_assert(bytes_equal(&before, &after)); /* deciding changes nothing */
        check_near(bl_plan_get_threshold(w.plan), opt.p_start, 0);
        check_plan(&w, importance, counts);
        seen += bl_plan_get_count(w.plan);
        bytes_free(&before);
        bytes_free(&after);
        free_content(&snapshot);
        free_content(&c);
        free_world(&w);
    }
    ck_assert_int_gt(seen, 500);
}
END_TEST

/* All equal: ties by index, and the crossing entry at p above (r - 1) / r. */
START_TEST(equal_ranks)
{
    static const struct {
        double  p;
        int32_t crossing, scope;
        int64_t counts[2]; /* of two modules of 8 ranks */
        double  cap;
    } cases[] = {
        { 0.95, BL_CROSSING_KEPT, BL_SCOPE_MODULE, { 0, 0 }, 1 },
        { 0.95, BL_CROSSING_PRUNED, BL_SCOPE_MODULE, { 1, 1 }, 1 },
        { 0.9, BL_CROSSING_PRUNED, BL_SCOPE_JOINT, { 0, 2 }, 1 },
        { 0.5, BL_CROSSING_KEPT, BL_SCOPE_MODULE, { 3, 3 }, 1 },
        { 0.5, BL_CROSSING_PRUNED, BL_SCOPE_MODULE, { 4, 4 }, 1 },
        { 0.5, BL_CROSSING_KEPT, BL_SCOPE_JOINT, { 0, 7 }, 1 },
        { 0.5, BL_CROSSING_KEPT, BL_SCOPE_JOINT, { 0, 4 }, 0.5 },
        { 0.1, BL_CROSSING_PRUNED, BL_SCOPE_MODULE, { 7, 7 }, 1 }, /* keeps its best */
        { 0.1, BL_CROSSING_PRUNED, BL_SCOPE_MODULE, { 3, 3 }, 0.49 },
        { 0.01, BL_CROSSING_PRUNED, BL_SCOPE_JOINT, { 7, 7 }, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_options opt = base_options(BL_F32);
        opt.p_start = cases[i].p;
        opt.crossing = cases[i].crossing;
        opt.scope = cases[i].scope;
        opt.max_prune_fraction = cases[i].cap;
        bl_spec specs[2];
        specs[0] = make_spec(4, 4, 8);
        specs[1] = make_spec(4, 4, 8);
        bl_group *group = NULL;
        bl_plan  *plan = NULL;
        check_ok(bl_group_create(&group, specs, 2, &opt));
        check_ok(bl_plan_create(&plan, group));
        while (!bl_group_reallocate_due(group)) {
            check_ok(bl_group_tick(group));
        }
        check_ok(bl_group_plan(group, plan));
        int64_t row = 0;
        for (int m = 0; m < 2; m++) {
            int64_t k = cases[i].counts[m];
            for (int64_t j = 0; j < k; j++, row++) {
                ck_assert_int_lt(row, bl_plan_get_count(plan));
                ck_assert_int_eq(bl_plan_get_modules(plan)[row], m);
                ck_assert_int_eq(bl_plan_get_pruned(plan)[row], 8 - k + j);
                ck_assert_int_eq(bl_plan_get_sources(plan)[row], j);
            }
        }
        ck_assert_msg(bl_plan_get_count(plan) == row, "case %d: %d rows, want %d",
                      (int) i, (int) bl_plan_get_count(plan), (int) row);
        bl_plan_free(plan);
        bl_group_free(group);
    }
}
END_TEST

/* p has reached 1: nothing goes, whatever the rounding; scores' moments still do. */
START_TEST(p_of_one)
{
    for (int d = 0; d < 2; d++) {
        for (int scope = 0; scope < 2; scope++) {
            bl_options opt = base_options(dtypes[d]);
            opt.p_curve = BL_CURVE_LINEAR;
            opt.p_end = 1;
            opt.p_steps = 15;
            opt.scope = scope;
            opt.crossing = BL_CROSSING_PRUNED;
            opt.max_prune_fraction = 1;
            world   w = make_world(&opt);
            content s = advance(&w, 5, 0);
            do {
                check_ok(bl_group_tick(w.group));
            } while (!bl_group_reallocate_due(w.group));
            for (uint64_t seed = 0; seed < 50; seed++) {
                scramble(&w, seed, 0);
                check_ok(bl_group_plan(w.group, w.plan));
                ck_assert_int_eq(bl_plan_get_count(w.plan), 0);
                check_near(bl_plan_get_threshold(w.plan), 1, 0);
            }
            content c = take(&w);
            check_ok(bl_group_apply(w.group, w.plan));
            content after = take(&w);
            for (int m = 0; m < MODULES; m++) {
                for (int64_t i = 0; i < w.ranks[m]; i++) {
                    check_near(after.at[m][1][2][i], 0, 0);
                    check_near(after.at[m][2][2][i], 0, 0);
                    check_near(after.at[m][0][2][i], c.at[m][0][2][i], 0);
                }
                check_le(error_of(after.at[m][0][0], c.at[m][0][0], w.ranks[m] * w.in[m]),
                         0);
                check_le(
                    error_of(after.at[m][2][1], c.at[m][2][1], w.ranks[m] * w.out[m]), 0);
            }
            free_content(&s);
            free_content(&c);
            free_content(&after);
            free_world(&w);
        }
    }
}
END_TEST

/* So many per module and no Top-P, under the same caps. */
START_TEST(fixed_count)
{
    static const double caps[] = { 0.5, 1, 0.25 };
    for (int64_t count = 1; count < 20; count += 2) {
        for (int k = 0; k < 3; k++) {
            bl_options opt = base_options(BL_F64);
            opt.fixed_count = count;
            opt.max_prune_fraction = caps[k];
            opt.p_start = 1;
            world   w = make_world(&opt);
            content s = advance(&w, (uint64_t) count, 0), c = take(&w);
            double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
            int64_t counts[MODULES];
            measure(&w, &c, 0.05, score, contribution);
            for (int m = 0; m < MODULES; m++) {
                int64_t cap = (int64_t) floor(caps[k] * (double) w.ranks[m]);
                cap = cap > w.ranks[m] - 1 ? w.ranks[m] - 1 : cap;
                counts[m] = count > cap ? cap : count;
            }
            check_ok(bl_group_plan(w.group, w.plan));
            check_plan(&w, (const double(*)[REF_RANKS]) score, counts);
            free_content(&s);
            free_content(&c);
            free_world(&w);
        }
    }
}
END_TEST

/* Only ranks that contribute less than idle times the mean go: with importance
 * `contribution` these are the tail of the order. */
START_TEST(idle)
{
    static const double idles[] = { 0.001, 0.2, 0.6, 5 };
    int64_t             some = 0, fewer = 0;
    for (int i = 0; i < 4 * 12; i++) {
        bl_options opt = base_options(BL_F64);
        opt.idle = idles[i % 4];
        opt.importance = BL_IMPORTANCE_CONTRIBUTION;
        opt.scope = i & 1;
        if (i % 3 == 0) {
            opt.fixed_count = 3;
        }
        world   w = make_world(&opt);
        content s = advance(&w, (uint64_t) i, 0), c = take(&w);
        double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
        measure(&w, &c, 0.05, score, contribution);
        int64_t counts[MODULES];
        ref_counts(MODULES, w.ranks, (const double(*)[REF_RANKS]) contribution,
                   opt.p_start, opt.scope, 0, 0.5, counts);
        for (int m = 0; m < MODULES; m++) {
            int64_t below = 0;
            for (int64_t k = 0; k < w.ranks[m]; k++) {
                below += contribution[m][k] < opt.idle;
            }
            if (opt.fixed_count) {
                int64_t cap = w.ranks[m] / 2;
                counts[m] = cap < 3 ? cap : 3;
            }
            fewer += counts[m] > below;
            counts[m] = counts[m] > below ? below : counts[m];
            some += counts[m];
        }
        check_ok(bl_group_plan(w.group, w.plan));
        check_plan(&w, (const double(*)[REF_RANKS]) contribution, counts);
        free_content(&s);
        free_content(&c);
        free_world(&w);
    }
    ck_assert_int_gt(some, 20);
    ck_assert_int_gt(fewer, 20);
}
END_TEST

/* With importance `score` and idle, whatever goes must be idle and within the counts. */
START_TEST(idle_by_score)
{
    for (uint64_t i = 0; i < 20; i++) {
        bl_options opt = base_options(BL_F64);
        opt.idle = 0.5;
        opt.p_start = 0.6;
        world   w = make_world(&opt);
        content s = advance(&w, i, 0), c = take(&w);
        double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
        int64_t counts[MODULES], rows[MODULES] = { 0 };
        measure(&w, &c, 0.05, score, contribution);
        ref_counts(MODULES, w.ranks, (const double(*)[REF_RANKS]) score, 0.6, 0, 0, 0.5,
                   counts);
        check_ok(bl_group_plan(w.group, w.plan));
        for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
            int64_t m = bl_plan_get_modules(w.plan)[k];
            ck_assert(contribution[m][bl_plan_get_pruned(w.plan)[k]] < 0.5);
            rows[m]++;
        }
        for (int m = 0; m < MODULES; m++) {
            ck_assert_int_le(rows[m], counts[m]);
        }
        free_content(&s);
        free_content(&c);
        free_world(&w);
    }
}
END_TEST

/* Shuffled: the K best, permuted, the same for the same seed. */
START_TEST(shuffled)
{
    int64_t moved = 0, by_seed = 0, rows = 0;
    for (uint64_t i = 0; i < 12; i++) {
        bl_options opt = base_options(BL_F64);
        opt.pairing = BL_PAIRING_SHUFFLED;
        opt.p_start = 0.5;
        int64_t first[64];
        for (int round = 0; round < 3; round++) {
            opt.seed = round == 2 ? 99 : 1;
            world   w = make_world(&opt);
            content s = advance(&w, i, 0), c = take(&w);
            double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
            int64_t counts[MODULES];
            measure(&w, &c, 0.05, score, contribution);
            ref_counts(MODULES, w.ranks, (const double(*)[REF_RANKS]) score, 0.5, 0, 0,
                       0.5, counts);
            check_ok(bl_group_plan(w.group, w.plan));
            int64_t row = 0;
            for (int m = 0; m < MODULES; m++) {
                int64_t pruned[REF_RANKS], sources[REF_RANKS];
                ref_pairs(w.ranks[m], score[m], counts[m], pruned, sources);
                for (int64_t k = 0; k < counts[m]; k++) {
                    int64_t source = bl_plan_get_sources(w.plan)[row + k], found = 0;
                    ck_assert_int_eq(bl_plan_get_pruned(w.plan)[row + k], pruned[k]);
                    moved += source != sources[k];
                    for (int64_t j = 0; j < counts[m]; j++) {
                        found += bl_plan_get_sources(w.plan)[row + j] == sources[k];
                    }
                    ck_assert_int_eq(found, 1);
                    if (round == 0) {
                        first[row + k] = source;
                    } else if (round == 1) {
                        ck_assert_int_eq(source, first[row + k]);
                    } else {
                        by_seed += source != first[row + k];
                    }
                }
                row += counts[m];
            }
            ck_assert_int_eq(row, bl_plan_get_count(w.plan));
            rows += row;
            free_content(&s);
            free_content(&c);
            free_world(&w);
        }
    }
    ck_assert_int_gt(moved, rows / 4);
    ck_assert_int_gt(by_seed, rows / 12);
}
END_TEST

/* Random: as many as Top-P says, any of them; sources are the best of the rest. */
START_TEST(random_ranks)
{
    int64_t other = 0, best_gone = 0;
    for (uint64_t i = 0; i < 20; i++) {
        bl_options opt = base_options(BL_F64);
        opt.selection = BL_SELECT_RANDOM;
        opt.p_start = 0.7;
        opt.seed = i;
        int64_t first[64], rows = 0;
        for (int round = 0; round < 2; round++) {
            world   w = make_world(&opt);
            content s = advance(&w, i, 0), c = take(&w);
            double  score[MODULES][REF_RANKS], contribution[MODULES][REF_RANKS];
            int64_t counts[MODULES];
            measure(&w, &c, 0.05, score, contribution);
            ref_counts(MODULES, w.ranks, (const double(*)[REF_RANKS]) score, 0.7, 0, 0,
                       0.5, counts);
            check_ok(bl_group_plan(w.group, w.plan));
            int64_t row = 0;
            for (int m = 0; m < MODULES; m++) {
                int64_t   lowest[REF_RANKS], sources[REF_RANKS];
                ref_entry rest[REF_RANKS];
                int64_t   fill = 0;
                ref_pairs(w.ranks[m], score[m], counts[m], lowest, sources);
                for (int64_t k = 0; k < w.ranks[m]; k++) {
                    int gone = 0;
                    for (int64_t j = 0; j < counts[m]; j++) {
                        gone |= bl_plan_get_pruned(w.plan)[row + j] == k;
                    }
                    if (!gone) {
                        rest[fill++] = (ref_entry){ score[m][k], 0, k };
                    }
                }
                ck_assert_int_eq(fill, w.ranks[m] - counts[m]); /* all different */
                ref_sort(rest, fill);
                for (int64_t k = 0; k < counts[m]; k++) {
                    int64_t p = bl_plan_get_pruned(w.plan)[row + k];
                    ck_assert_int_eq(bl_plan_get_modules(w.plan)[row + k], m);
                    ck_assert(k == 0 || p > bl_plan_get_pruned(w.plan)[row + k - 1]);
                    ck_assert_int_eq(bl_plan_get_sources(w.plan)[row + k], rest[k].rank);
                    other += p != lowest[k];
                    best_gone += p == sources[0];
                    if (round == 0) {
                        first[row + k] = p;
                    } else {
                        ck_assert_int_eq(first[row + k], p);
                    }
                }
                row += counts[m];
            }
            ck_assert_int_eq(row, bl_plan_get_count(w.plan));
            rows = row;
            free_content(&s);
            free_content(&c);
            free_world(&w);
        }
        ck_assert_int_gt(rows, 0);
    }
    ck_assert_int_gt(other, 50);
    ck_assert_int_gt(best_gone, 3);
}
END_TEST

/* ----- what a plan does ----- */

static int is_pruned(const bl_plan *plan, int64_t module, int64_t rank)
{
    for (int64_t k = 0; k < bl_plan_get_count(plan); k++) {
        if (bl_plan_get_modules(plan)[k] == module &&
            bl_plan_get_pruned(plan)[k] == rank &&
            bl_plan_get_actions(plan)[k] != BL_ACTION_SKIP) {
            return 1;
        }
    }
    return 0;
}

/* Carries out w->plan on `want`, given what was before and in the snapshot. */
static void carry_out(const world *w, const bl_options *opt, const content *before,
                      const content *snapshot, content *want)
{
    for (int64_t k = 0; k < bl_plan_get_count(w->plan); k++) {
        int     m = (int) bl_plan_get_modules(w->plan)[k];
        int64_t dst = bl_plan_get_pruned(w->plan)[k];
        int64_t src = bl_plan_get_sources(w->plan)[k];
        int32_t act = bl_plan_get_actions(w->plan)[k];
        if (act == BL_ACTION_SKIP) {
            continue;
        }
        for (int b = 0; b < 3; b++) {
            for (int t = 0; t < 2; t++) {
                int64_t cols = columns(w, m, t);
                double *to = want->at[m][b][t] + dst * cols;
                if (act == BL_ACTION_PRUNE) {
                    memset(to, 0, (size_t) cols * sizeof *to);
                } else if (act == BL_ACTION_FRESH) {
                    for (int64_t j = 0; j < cols; j++) {
                        double sum = 0, kept = 0;
                        for (int64_t i = 0; i < w->ranks[m]; i++) {
                            if (!is_pruned(w->plan, m, i)) {
                                sum += before->at[m][b][t][i * cols + j];
                                kept += 1;
                            }
                        }
                        /* parameters: B zero, A random, marked */
                        to[j] = b == 2   ? sum / kept
                                : b == 1 ? 0
                                : t == 1 ? 0
                                         : (double) NAN;
                    }
                } else if (b == 0 || opt->moments == BL_MOMENTS_COPY) {
                    const content *from = act == BL_ACTION_HISTORY ? snapshot : before;
                    memcpy(to, from->at[m][b][t] + src * cols,
                           (size_t) cols * sizeof *to);
                } else if (opt->moments == BL_MOMENTS_ZERO) {
                    memset(to, 0, (size_t) cols * sizeof *to);
                }
            }
        }
    }
    /* Scores: from the old ones, destinations first, then sources. */
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t k = 0; k < bl_plan_get_count(w->plan); k++) {
            int     m = (int) bl_plan_get_modules(w->plan)[k];
            int64_t dst = bl_plan_get_pruned(w->plan)[k];
            int64_t src = bl_plan_get_sources(w->plan)[k];
            int32_t act = bl_plan_get_actions(w->plan)[k];
            if (src < 0 || act == BL_ACTION_SKIP || act == BL_ACTION_PRUNE ||
                (act == BL_ACTION_FRESH && opt->transfer == BL_TRANSFER_PRESERVE)) {
                continue;
            }
            const double *s = before->at[m][0][2];
            want->at[m][0][2][pass ? src : dst] =
                opt->transfer == BL_TRANSFER_MEAN ? (s[src] + s[dst]) / 2
                                                  : s[src] - opt->temperature * log(2.0);
        }
    }
    for (int m = 0; m < MODULES; m++) {
        for (int b = 1; b < 3; b++) {
            memset(want->at[m][b][2], 0, (size_t) w->ranks[m] * sizeof(double));
        }
    }
}

static void check_content(const world *w, const content *got, const content *want)
{
    for (int m = 0; m < MODULES; m++) {
        for (int b = 0; b < 3; b++) {
            for (int t = 0; t < 3; t++) {
                int64_t cols = t == 2 ? 1 : columns(w, m, t);
                for (int64_t i = 0; i < w->ranks[m] * cols; i++) {
                    double x = got->at[m][b][t][i], y = want->at[m][b][t][i];
                    if (isnan(y)) { /* drawn anew */
                        check_le(fabs(x), 1 / sqrt((double) w->in[m]) * (1 + 1e-6));
                        ck_assert(fabs(x) > 0);
                        continue;
                    }
                    ck_assert_msg(fabs(x - y) <= (w->dtype == BL_F64 ? 1e-14 : 1e-6),
                                  "module %d, buffer %d, tensor %d, element %d is %.17g, "
                                  "must be %.17g",
                                  m, b, t, (int) i, x, y);
                }
            }
        }
    }
}

/* Every expansion, treatment of moments and transfer, with and without overlap of
 * sources and destinations, moments of the library's and of the host's. */
START_TEST(outcomes)
{
    int64_t seen = 0;
    for (int i = 0; i < 4 * 3 * 2 * 2 * 2; i++) {
        bl_options opt = base_options(dtypes[_i]);
        opt.expand = i % 4;
        opt.moments = i / 4 % 3;
        opt.transfer = i / 12 & 1;
        opt.max_prune_fraction = i / 24 & 1 ? 1 : 0.5;
        opt.optimizer = i / 48 & 1;
        opt.p_start = 0.4;
        if (opt.expand >= BL_EXPAND_FRESH && opt.moments != BL_MOMENTS_COPY) {
            continue;
        }
        world   w = make_world(&opt);
        content snapshot = advance(&w, (uint64_t) i, 0);
        content before = take(&w), want = take(&w);
        check_ok(bl_group_reallocate(w.group, w.plan));
        seen += bl_plan_get_count(w.plan);
        static const int32_t actions[] = { BL_ACTION_HISTORY, BL_ACTION_CURRENT,
                                           BL_ACTION_FRESH, BL_ACTION_PRUNE };
        for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
            ck_assert_int_eq(bl_plan_get_actions(w.plan)[k], actions[opt.expand]);
            ck_assert_int_eq(bl_plan_get_ages(w.plan)[k], opt.expand ? -1 : 4);
            if (opt.expand == BL_EXPAND_NONE) {
                ck_assert_int_eq(bl_plan_get_sources(w.plan)[k], -1);
            }
        }
        carry_out(&w, &opt, &before, &snapshot, &want);
        content got = take(&w);
        if (opt.expand == BL_EXPAND_NONE) { /* scores of removed ranks: of no account */
            for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
                int64_t m = bl_plan_get_modules(w.plan)[k];
                int64_t p = bl_plan_get_pruned(w.plan)[k];
                got.at[m][0][2][p] = want.at[m][0][2][p];
            }
        }
        check_content(&w, &got, &want);
        ck_assert_int_eq(bl_group_get_step(w.group), PERIOD);
        free_content(&snapshot);
        free_content(&before);
        free_content(&want);
        free_content(&got);
        free_world(&w);
    }
    ck_assert_int_gt(seen, 200);
}
END_TEST

/*
 * preserve: exp(s_src'/tau) + exp(s_dst'/tau) = exp(s_src/tau), so that with the pruned
 * rank's weight out of the sum, g_src' + g_dst' = g_src.
 */
START_TEST(preserve)
{
    bl_options opt = base_options(BL_F64);
    opt.transfer = BL_TRANSFER_PRESERVE;
    world   w = make_world(&opt);
    content snap = advance(&w, 3, 0);
    double  before[MODULES][REF_RANKS], after[MODULES][REF_RANKS];
    double  gone[MODULES] = { 0 };
    for (int m = 0; m < MODULES; m++) {
        check_ok(bl_adapter_copy_importance(bl_group_get_adapter(w.group, m), before[m]));
    }
    check_ok(bl_group_reallocate(w.group, w.plan));
    ck_assert_int_gt(bl_plan_get_count(w.plan), 3);
    for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
        int64_t m = bl_plan_get_modules(w.plan)[k];
        gone[m] += before[m][bl_plan_get_pruned(w.plan)[k]];
    }
    for (int m = 0; m < MODULES; m++) {
        check_ok(bl_adapter_copy_importance(bl_group_get_adapter(w.group, m), after[m]));
    }
    for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
        int64_t m = bl_plan_get_modules(w.plan)[k];
        int64_t p = bl_plan_get_pruned(w.plan)[k], s = bl_plan_get_sources(w.plan)[k];
        double  r = (double) w.ranks[m];
        check_near((after[m][p] + after[m][s]) * (r - gone[m]) / r, before[m][s], 1e-12);
        check_near(after[m][p], after[m][s], 1e-12);
    }
    free_content(&snap);
    free_world(&w);
}
END_TEST

/* Pruned for good: zero, out of the softmax and out of later orders. */
START_TEST(prune_only)
{
    for (int d = 0; d < 2; d++) {
        bl_options opt = base_options(dtypes[d]);
        opt.expand = BL_EXPAND_NONE;
        opt.p_start = 0.6;
        world   w = make_world(&opt);
        uint8_t removed[MODULES][REF_RANKS];
        memset(removed, 0, sizeof removed);
        int64_t left[MODULES], gone = 0;
        memcpy(left, w.ranks, sizeof left);
        for (uint64_t round = 0; round < 10; round++) {
            do {
                check_ok(bl_group_tick(w.group));
            } while (!bl_group_reallocate_due(w.group));
            for (int m = 0; m < MODULES; m++) {
                view_random(bl_group_get_adapter(w.group, m), 2, 0, 10 * round + 1, 0.1,
                            0);
            }
            check_ok(bl_group_touch(w.group));
            check_ok(bl_group_reallocate(w.group, w.plan));
            for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
                int64_t m = bl_plan_get_modules(w.plan)[k];
                int64_t p = bl_plan_get_pruned(w.plan)[k];
                ck_assert_msg(!removed[m][p], "rank %d of module %d went twice", (int) p,
                              (int) m);
                removed[m][p] = 1;
                left[m]--;
                gone++;
            }
            for (int m = 0; m < MODULES; m++) {
                bl_adapter *a = bl_group_get_adapter(w.group, m);
                double     *s = view_doubles(a, 2, 0), want[REF_RANKS], got[REF_RANKS];
                ck_assert_int_ge(left[m], 1);
                ref_importance(w.ranks[m], s, 0.05, removed[m], want);
                check_ok(bl_adapter_copy_importance(a, got));
                check_le(error_of(got, want, w.ranks[m]), 1e-12);
                free(s);
            }
        }
        ck_assert_int_gt(gone, 8);

        /* Training leaves removed ranks zero: no gradient reaches them. */
        for (int m = 0; m < MODULES; m++) {
            bl_adapter *a = bl_group_get_adapter(w.group, m);
            bl_tape    *tape = NULL;
            int64_t     in = w.in[m], out = w.out[m];
            check_ok(bl_tape_create(&tape, a, 6, 1));
            mat x = mat_random(dtypes[d], 6, in, in, 1);
            mat y = mat_random(dtypes[d], 6, out, out, 2);
            mat dy = mat_random(dtypes[d], 6, out, out, 3);
            check_ok(bl_forward(a, tape, 6, y.data, out, x.data, in, -1));
            check_ok(bl_backward(a, tape, 6, NULL, 0, dy.data, out, x.data, in));
            mat_free(&x);
            mat_free(&y);
            mat_free(&dy);
            bl_tape_free(tape);
        }
        check_ok(bl_group_step(w.group, 0.1, 1));
        for (int m = 0; m < MODULES; m++) {
            bl_adapter *a = bl_group_get_adapter(w.group, m);
            for (int32_t t = 0; t < 2; t++) {
                double *p = view_doubles(a, t, 0), *v = view_doubles(a, t, BL_BUFFER_V);
                int64_t cols = columns(&w, m, t);
                for (int64_t i = 0; i < w.ranks[m] * cols; i++) {
                    if (removed[m][i / cols]) {
                        check_near(p[i], 0, 0);
                        check_near(v[i], 0, 0);
                    }
                }
                free(p);
                free(v);
            }
        }
        free_world(&w);
    }
}
END_TEST

/* A frozen module is neither pruned nor changed. */
START_TEST(frozen)
{
    bl_options opt = base_options(BL_F64);
    opt.p_start = 0.5;
    world   w = make_world(&opt);
    content snap = advance(&w, 8, 0);
    check_ok(bl_adapter_set_frozen(bl_group_get_adapter(w.group, 1), 1));
    content before = take(&w);
    check_ok(bl_group_reallocate(w.group, w.plan));
    content after = take(&w);
    ck_assert_int_gt(bl_plan_get_count(w.plan), 0);
    for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
        ck_assert_int_ne(bl_plan_get_modules(w.plan)[k], 1);
    }
    for (int b = 0; b < 3; b++) {
        for (int t = 0; t < 2; t++) {
            check_le(error_of(after.at[1][b][t], before.at[1][b][t],
                              w.ranks[1] * columns(&w, 1, t)),
                     0);
        }
    }
    check_le(error_of(after.at[1][0][2], before.at[1][0][2], w.ranks[1]), 0);
    free_content(&snap);
    free_content(&before);
    free_content(&after);
    free_world(&w);
}
END_TEST

/* ----- errors ----- */

static void check_empty(const bl_plan *plan)
{
    ck_assert_int_eq(bl_plan_get_count(plan), 0);
}

START_TEST(refused)
{
    bl_options opt = base_options(BL_F64);
    world      w = make_world(&opt);
    /* Nothing in the ring yet. */
    check_ok(bl_group_tick(w.group));
    check_fails(bl_group_plan(w.group, w.plan), BL_E_STATE);
    check_empty(w.plan);
    bytes before = save_group(w.group);
    check_fails(bl_group_reallocate(w.group, NULL), BL_E_STATE);
    bytes after = save_group(w.group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);

    content snap = advance(&w, 1, 0);
    check_ok(bl_group_plan(w.group, w.plan));
    ck_assert_int_gt(bl_plan_get_count(w.plan), 0);
    /* An importance that is not finite. */
    bl_view             s = view_of(bl_group_get_adapter(w.group, 1), 2, 0);
    double              old = ((double *) s.data)[0];
    static const double bad[] = { NAN, INFINITY };
    for (int k = 0; k < 2; k++) {
        ((double *) s.data)[0] = bad[k];
        check_ok(bl_group_touch(w.group));
        check_fails(bl_group_plan(w.group, w.plan), BL_E_NONFINITE);
        check_empty(w.plan);
        check_fails(bl_group_reallocate(w.group, w.plan), BL_E_NONFINITE);
    }
    ((double *) s.data)[0] = old;
    check_ok(bl_group_touch(w.group));

    /* A plan of another step. */
    check_ok(bl_group_plan(w.group, w.plan));
    check_ok(bl_group_tick(w.group));
    before = save_group(w.group);
    check_fails(bl_group_apply(w.group, w.plan), BL_E_STATE);
    after = save_group(w.group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    check_fails(bl_group_plan(NULL, w.plan), BL_E_ARG);
    check_fails(bl_group_plan(w.group, NULL), BL_E_ARG);
    check_fails(bl_group_apply(w.group, NULL), BL_E_ARG);
    check_fails(bl_group_apply(NULL, w.plan), BL_E_ARG);
    free_content(&snap);
    free_world(&w);

    opt.reallocation = 0;
    w = make_world(&opt);
    for (int t = 0; t < 60; t++) {
        check_ok(bl_group_tick(w.group));
        ck_assert_int_eq(bl_group_reallocate_due(w.group), 0);
    }
    check_fails(bl_group_plan(w.group, w.plan), BL_E_STATE);
    check_fails(bl_group_reallocate(w.group, NULL), BL_E_STATE);
    free_world(&w);
}
END_TEST

/* Contribution that is not finite although scores are. */
START_TEST(nonfinite_contribution)
{
    bl_options opt = base_options(BL_F64);
    opt.importance = BL_IMPORTANCE_CONTRIBUTION;
    world   w = make_world(&opt);
    content snap = advance(&w, 1, 0);
    bl_view a = view_of(bl_group_get_adapter(w.group, 0), 0, 0);
    ((double *) a.data)[3] = (double) NAN;
    check_ok(bl_group_touch(w.group));
    check_fails(bl_group_plan(w.group, w.plan), BL_E_NONFINITE);
    check_empty(w.plan);
    free_content(&snap);
    free_world(&w);
}
END_TEST

/* Every contribution zero (a new adapter: B = 0): a plan all the same, nothing NaN. */
START_TEST(zero_contribution)
{
    bl_options opt = base_options(BL_F32);
    opt.importance = BL_IMPORTANCE_CONTRIBUTION;
    opt.crossing = BL_CROSSING_PRUNED;
    for (int scope = 0; scope < 2; scope++) {
        opt.scope = scope;
        world w = make_world(&opt);
        while (!bl_group_reallocate_due(w.group)) {
            check_ok(bl_group_tick(w.group));
        }
        check_ok(bl_group_plan(w.group, w.plan));
        for (int64_t k = 0; k < bl_plan_get_count(w.plan); k++) {
            ck_assert(isfinite(bl_plan_get_importances(w.plan)[k]));
        }
        check_ok(bl_group_apply(w.group, w.plan));
        free_world(&w);
    }
}
END_TEST

/* ----- plans by hand, and as bytes ----- */

START_TEST(by_hand)
{
    for (int host = 0; host < 2; host++) {
        bl_options opt = base_options(BL_F64);
        opt.optimizer = host;
        world   w = make_world(&opt);
        content snap = advance(&w, 4, 0);
        content before = take(&w), want = take(&w);
        check_ok(bl_plan_clear(w.plan, PERIOD));
        ck_assert_int_eq(bl_plan_get_step(w.plan), PERIOD);
        ck_assert(isnan(bl_plan_get_threshold(w.plan)));
        check_empty(w.plan);
        check_ok(bl_plan_add(w.plan, 0, 1, 2, BL_ACTION_CURRENT, -1));
        check_ok(bl_plan_add(w.plan, 0, 2, 3, BL_ACTION_CURRENT, -1)); /* a chain */
        check_ok(bl_plan_add(w.plan, 0, 5, 5, BL_ACTION_HISTORY, 4));  /* its own past */
        check_ok(bl_plan_add(w.plan, 0, 7, 6, BL_ACTION_SKIP, -1));
        check_ok(bl_plan_add(w.plan, 1, 0, -1, BL_ACTION_PRUNE, -1));
        check_ok(bl_plan_add(w.plan, 1, 4, -1, BL_ACTION_FRESH, -1)); /* no score moves */
        check_ok(bl_plan_add(w.plan, 2, 7, 3, BL_ACTION_FRESH, -1));
        check_ok(bl_plan_add(w.plan, 2, 12, 0, BL_ACTION_HISTORY, 4));
        ck_assert_int_eq(bl_plan_get_count(w.plan), 8);
        check_ok(bl_group_apply(w.group, w.plan));
        carry_out(&w, &opt, &before, &snap, &want);
        content got = take(&w);
        got.at[1][0][2][0] = want.at[1][0][2][0]; /* removed */
        check_content(&w, &got, &want);
        double g[REF_RANKS];
        check_ok(bl_adapter_copy_importance(bl_group_get_adapter(w.group, 1), g));
        check_near(g[0], 0, 0);
        free_content(&snap);
        free_content(&before);
        free_content(&want);
        free_content(&got);
        free_world(&w);
    }
}
END_TEST

START_TEST(by_hand_refused)
{
    static const struct {
        int64_t step, rows[3][5]; /* module, pruned, source, action, age */
        int     count, code;
    } cases[] = {
        { 9, { { 0, 1, 2, BL_ACTION_CURRENT, -1 } }, 1, BL_E_STATE },
        { 10, { { 3, 1, 2, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { -1, 1, 2, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { 0, 8, 2, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { 0, -1, 2, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { 0, 1, 8, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { 0, 1, -1, BL_ACTION_CURRENT, -1 } }, 1, BL_E_RANGE },
        { 10, { { 0, 1, -1, BL_ACTION_HISTORY, 4 } }, 1, BL_E_RANGE },
        { 10, { { 1, 1, 5, BL_ACTION_HISTORY, 4 } }, 1, BL_E_RANGE },
        { 10, { { 0, 1, 2, BL_ACTION_HISTORY, 3 } }, 1, BL_E_STATE },
        { 10,
          { { 0, 1, 2, BL_ACTION_CURRENT, -1 }, { 0, 1, 3, BL_ACTION_CURRENT, -1 } },
          2,
          BL_E_RANGE },
        { 10, /* a source twice */
          { { 0, 1, 3, BL_ACTION_CURRENT, -1 }, { 0, 2, 3, BL_ACTION_CURRENT, -1 } },
          2,
          BL_E_RANGE },
        { 10, /* not in the order of modules */
          { { 1, 1, 3, BL_ACTION_CURRENT, -1 }, { 0, 2, 3, BL_ACTION_CURRENT, -1 } },
          2,
          BL_E_RANGE },
    };
    bl_options opt = base_options(BL_F64);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        world   w = make_world(&opt);
        content snap = advance(&w, 4, 0);
        check_ok(bl_plan_clear(w.plan, cases[i].step));
        int rc = 0;
        for (int k = 0; k < cases[i].count && rc == 0; k++) {
            const int64_t *row = cases[i].rows[k];
            rc = bl_plan_add(w.plan, row[0], row[1], row[2], (int32_t) row[3], row[4]);
        }
        bytes before = save_group(w.group);
        if (rc == 0) {
            rc = bl_group_apply(w.group, w.plan);
        }
        ck_assert_msg(rc == cases[i].code, "case %d returned %d", (int) i, rc);
        bytes after = save_group(w.group);
        ck_assert(bytes_equal(&before, &after));
        bytes_free(&before);
        bytes_free(&after);
        free_content(&snap);
        free_world(&w);
    }

    /* A module left without a rank; a full plan; actions that do not exist. */
    world   w = make_world(&opt);
    content snap = advance(&w, 4, 0);
    check_ok(bl_plan_clear(w.plan, PERIOD));
    for (int64_t k = 0; k < 5; k++) {
        check_ok(bl_plan_add(w.plan, 1, k, -1, BL_ACTION_PRUNE, -1));
    }
    bytes before = save_group(w.group);
    check_fails(bl_group_apply(w.group, w.plan), BL_E_RANGE);
    bytes after = save_group(w.group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    int rc = 0, rows = 0;
    check_ok(bl_plan_clear(w.plan, PERIOD));
    for (; rows < 10000 && rc == 0; rows++) {
        rc = bl_plan_add(w.plan, 0, 0, 1, BL_ACTION_CURRENT, -1);
    }
    ck_assert_int_eq(rc, BL_E_RANGE);
    ck_assert_int_gt(rows, 8 + 5 + 13 - 3); /* room for any reallocation */
    check_ok(bl_plan_clear(w.plan, PERIOD));
    ck_assert_int_lt(bl_plan_add(w.plan, 0, 0, 1, 9, -1), 0);
    ck_assert_int_lt(bl_plan_add(w.plan, 0, 0, 1, -1, -1), 0);
    check_empty(w.plan);
    check_fails(bl_plan_clear(NULL, 1), BL_E_ARG);
    check_fails(bl_plan_create(NULL, w.group), BL_E_ARG);
    bl_plan_free(NULL);
    free_content(&snap);
    free_world(&w);
}
END_TEST

/* Decided by one replica, carried out by another: equal bits. A plan outlives its
 * group. */
START_TEST(broadcast)
{
    for (int32_t expand = 0; expand < 4; expand++) {
        bl_options opt = base_options(BL_F32);
        opt.expand = expand;
        opt.pairing = BL_PAIRING_SHUFFLED;
        world   w = make_world(&opt), v = make_world(&opt);
        content s = advance(&w, 6, 0), t = advance(&v, 6, 0);
        bytes   a = { NULL, 0, 0 }, b = { NULL, 0, 0 };
        check_ok(bl_group_reallocate(w.group, w.plan));
        check_ok(bl_plan_save(w.plan, bytes_write, &a));
        check_ok(bl_plan_load(v.plan, a.data, a.size));
        ck_assert_int_eq(bl_plan_get_count(v.plan), bl_plan_get_count(w.plan));
        ck_assert_int_eq(bl_plan_get_step(v.plan), PERIOD);
        check_near(bl_plan_get_threshold(v.plan), bl_plan_get_threshold(w.plan), 0);
        for (int64_t k = 0; k < bl_plan_get_count(v.plan); k++) {
            check_near(bl_plan_get_importances(v.plan)[k],
                       bl_plan_get_importances(w.plan)[k], 0);
            ck_assert_int_eq(bl_plan_get_ages(v.plan)[k], bl_plan_get_ages(w.plan)[k]);
        }
        check_ok(bl_plan_save(v.plan, bytes_write, &b));
        ck_assert(bytes_equal(&a, &b));
        check_ok(bl_group_apply(v.group, v.plan));
        bytes x = save_group(w.group), y = save_group(v.group);
        ck_assert(bytes_equal(&x, &y));

        /* Damage is refused, and the plan stays. */
        for (size_t n = 0; n < a.size; n++) {
            check_fails(bl_plan_load(v.plan, a.data, n), BL_E_FORMAT);
        }
        unsigned char *more = must_alloc((int64_t) a.size + 8, 1);
        memcpy(more, a.data, a.size);
        ck_assert_int_lt(bl_plan_load(v.plan, more, a.size + 8), 0);
        ck_assert_int_lt(bl_plan_load(v.plan, "nonsense, and no plan at all", 28), 0);
        ck_assert_int_lt(bl_plan_load(v.plan, NULL, 0), 0);
        more[0] ^= 0xFF;
        ck_assert_int_lt(bl_plan_load(v.plan, more, a.size), 0);
        bytes c = { NULL, 0, 0 };
        check_ok(bl_plan_save(v.plan, bytes_write, &c));
        ck_assert(bytes_equal(&a, &c));
        free(more);

        /* Too large for a plan of a smaller group. */
        bl_adapter *small = NULL;
        bl_plan    *tiny = NULL;
        opt.rank = 2;
        check_ok(bl_adapter_create(&small, 2, 2, &opt));
        check_ok(bl_plan_create(&tiny, bl_adapter_get_group(small)));
        ck_assert_int_gt(bl_plan_get_count(w.plan), 2);
        check_fails(bl_plan_load(tiny, a.data, a.size), BL_E_RANGE);
        bl_plan_free(tiny);
        bl_adapter_free(small);

        free_content(&s);
        free_content(&t);
        bl_group_free(w.group);
        w.group = NULL;
        ck_assert_int_eq(bl_plan_get_step(w.plan), PERIOD); /* outlives it */
        free_world(&w);
        free_world(&v);
        bytes_free(&a);
        bytes_free(&b);
        bytes_free(&c);
        bytes_free(&x);
        bytes_free(&y);
    }
}
END_TEST

static int refuse_write(void *user, const void *data, size_t size)
{
    (void) user;
    (void) data;
    (void) size;
    return 7;
}

START_TEST(write_fails)
{
    bl_options opt = base_options(BL_F32);
    world      w = make_world(&opt);
    check_fails(bl_plan_save(w.plan, refuse_write, NULL), BL_E_USER);
    check_fails(bl_plan_save(w.plan, NULL, NULL), BL_E_ARG);
    free_world(&w);
}
END_TEST

/* Done, it is no longer due, nor after a resume; at the next date it is again. */
START_TEST(due_once)
{
    bl_options opt = base_options(BL_F32);
    world      w = make_world(&opt), v = make_world(&opt);
    content    snap = advance(&w, 3, 0);
    bytes      before = save_group(w.group);
    check_ok(bl_group_plan(w.group, w.plan));
    ck_assert_int_eq(bl_group_reallocate_due(w.group), 1); /* planned only */
    check_ok(bl_group_apply(w.group, w.plan));
    ck_assert_int_eq(bl_group_reallocate_due(w.group), 0);
    bytes after = save_group(w.group);
    check_ok(bl_group_load(v.group, before.data, before.size));
    ck_assert_int_eq(bl_group_reallocate_due(v.group), 1);
    check_ok(bl_group_load(v.group, after.data, after.size));
    ck_assert_int_eq(bl_group_reallocate_due(v.group), 0);
    for (int t = 0; t < PERIOD; t++) {
        ck_assert_int_eq(bl_group_reallocate_due(v.group), 0);
        check_ok(bl_group_tick(v.group));
    }
    ck_assert_int_eq(bl_group_reallocate_due(v.group), 1);
    bytes_free(&before);
    bytes_free(&after);
    free_content(&snap);
    free_world(&w);
    free_world(&v);
}
END_TEST

/* A plan that touches a frozen module is refused as a whole. */
START_TEST(frozen_by_hand)
{
    bl_options opt = base_options(BL_F32);
    world      w = make_world(&opt);
    content    snap = advance(&w, 3, 0);
    check_ok(bl_plan_clear(w.plan, PERIOD));
    check_ok(bl_plan_add(w.plan, 0, 1, 2, BL_ACTION_CURRENT, -1));
    check_ok(bl_plan_add(w.plan, 1, 1, 2, BL_ACTION_CURRENT, -1));
    check_ok(bl_adapter_set_frozen(bl_group_get_adapter(w.group, 1), 1));
    bytes before = save_group(w.group);
    check_fails(bl_group_apply(w.group, w.plan), BL_E_STATE);
    bytes after = save_group(w.group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    free_content(&snap);
    free_world(&w);
}
END_TEST

/* One adapter: bl_reallocate is bl_group_reallocate. */
START_TEST(single)
{
    bl_options  opt = base_options(BL_F32);
    bl_adapter *a = make_adapter(6, 6, &opt, 1), *b = make_adapter(6, 6, &opt, 1);
    bl_group   *ga = bl_adapter_get_group(a), *gb = bl_adapter_get_group(b);
    while (!bl_reallocate_due(a)) {
        check_ok(bl_group_tick(ga));
        check_ok(bl_group_tick(gb));
    }
    bl_plan *plan = NULL;
    check_ok(bl_plan_create(&plan, gb));
    check_ok(bl_reallocate(a, plan));
    check_ok(bl_group_plan(gb, plan));
    check_ok(bl_group_apply(gb, plan));
    bytes x = save_group(ga), y = save_group(gb);
    ck_assert(bytes_equal(&x, &y));
    bytes_free(&x);
    bytes_free(&y);
    bl_plan_free(plan);
    bl_adapter_free(a);
    bl_adapter_free(b);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("reallocate");
    TCase *plans = tcase_create("plans");
    tcase_add_loop_test(plans, choosing, 0, 2);
    tcase_add_test(plans, equal_ranks);
    tcase_add_test(plans, p_of_one);
    tcase_add_test(plans, fixed_count);
    tcase_add_test(plans, idle);
    tcase_add_test(plans, idle_by_score);
    tcase_add_test(plans, shuffled);
    tcase_add_test(plans, random_ranks);
    tcase_set_timeout(plans, 120);
    suite_add_tcase(suite, plans);
    TCase *applied = tcase_create("outcomes");
    tcase_add_loop_test(applied, outcomes, 0, 2);
    tcase_add_test(applied, preserve);
    tcase_add_test(applied, prune_only);
    tcase_add_test(applied, frozen);
    tcase_add_test(applied, single);
    tcase_add_test(applied, due_once);
    tcase_add_test(applied, frozen_by_hand);
    suite_add_tcase(suite, applied);
    TCase *refuse = tcase_create("refused");
    tcase_add_test(refuse, refused);
    tcase_add_test(refuse, nonfinite_contribution);
    tcase_add_test(refuse, zero_contribution);
    suite_add_tcase(suite, refuse);
    TCase *hand = tcase_create("by_hand");
    tcase_add_test(hand, by_hand);
    tcase_add_test(hand, by_hand_refused);
    tcase_add_test(hand, broadcast);
    tcase_add_test(hand, write_fails);
    suite_add_tcase(suite, hand);
    return suite;
}
