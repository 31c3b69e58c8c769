/*
 * Which ranks go and come when they move between modules: the plan against a plain copy of
 * the rule (docs/global.md), with histories, over random groups.
 */
#include "global_world.h"

#include "../ref/ref.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GROUPS 60
#else
#define GROUPS 300
#endif
#define LOOPS 8

typedef struct plain {
    int64_t rank[MODULES];
    double  value[MODULES][RANKS], share[MODULES][RANKS]; /* importance, contribution */
    int     gone[MODULES][RANKS], copied[MODULES][RANKS];
    int64_t goes[MODULES], paths[MODULES];
    int64_t order[MODULES * RANKS][2]; /* all ranks, the best first */
    int64_t count;
} plain;

struct past {
    int64_t born[MODULES][RANKS], taken[64], count;
};

static void rate(const world *w, const content *c, plain *p)
{
    ref_entry list[MODULES * RANKS];
    memset(p, 0, sizeof *p);
    for (int m = 0; m < w->modules; m++) {
        const module_content *of = &c->of[m];
        double                size[RANKS], mean = 0;
        bl_adapter           *a = bl_group_get_adapter(w->group, m);
        p->rank[m] = of->rank;
        for (int64_t i = 0; i < of->rank; i++) {
            size[i] = bl_adapter_get_scaling(a) * of->g[i] *
                      ref_size(&of->a[0][i][0], &of->b[0][i][0], w->specs[m].in_features,
                               w->specs[m].out_features, 0);
            mean += size[i] / (double) of->rank;
        }
        for (int64_t i = 0; i < of->rank; i++) {
            p->share[m][i] = size[i] / mean;
            p->value[m][i] = w->opt.importance == BL_IMPORTANCE_SCORE  ? of->g[i]
                             : w->opt.importance == BL_IMPORTANCE_NORM ? size[i]
                                                                       : p->share[m][i];
            if (!w->specs[m].frozen) {
                list[p->count++] = (ref_entry){ p->value[m][i], m, i };
            }
        }
    }
    ref_sort(list, p->count);
    int64_t tail = ref_top_p(list, p->count, w->opt.p_start, w->opt.crossing);
    for (int64_t k = 0; k < p->count; k++) {
        p->order[k][0] = list[k].module;
        p->order[k][1] = list[k].rank;
        p->gone[list[k].module][list[k].rank] = k >= p->count - tail;
    }
}

/* Fixed counts, idleness and cap, in each module from the least important upwards. */
static void limit(const world *w, plain *p)
{
    for (int m = 0; m < w->modules; m++) {
        int64_t cap = (int64_t) floor(w->opt.max_prune_fraction * (double) p->rank[m]);
        int64_t seen = 0;
        cap = cap > p->rank[m] - 1 ? p->rank[m] - 1 : cap;
        for (int64_t k = p->count - 1; k >= 0; k--) {
            int64_t i = p->order[k][1];
            if (p->order[k][0] != m) {
                continue;
            }
            int wanted =
                w->opt.fixed_count > 0 ? seen < w->opt.fixed_count : p->gone[m][i];
            int idle = w->opt.idle == 0 || p->share[m][i] < w->opt.idle;
            p->gone[m][i] = wanted && idle && p->goes[m] < cap;
            p->goes[m] += p->gone[m][i];
            seen++;
        }
    }
}

/* Chance decides which ranks go, not how many: take them from the plan. */
static void adopt(const world *w, plain *p)
{
    int64_t count[MODULES] = { 0 };
    memset(p->gone, 0, sizeof p->gone);
    for (int64_t row = 0; row < bl_plan_get_count(w->plan); row++) {
        int64_t m = bl_plan_get_modules(w->plan)[row];
        int64_t i = bl_plan_get_pruned(w->plan)[row];
        if (i < p->rank[m]) {
            p->gone[m][i] = 1;
            count[m]++;
        }
    }
    for (int m = 0; m < w->modules; m++) {
        expect(count[m] == p->goes[m], "%d ranks go, not %d", (int) count[m],
               (int) p->goes[m]);
    }
}

/* The age of the snapshot that a source is copied from; -1: none shows its path. */
static int64_t age_of(const world *w, const struct past *past, int64_t m, int64_t i)
{
    int64_t t = bl_group_get_step(w->group), best = -1;
    int64_t first = past->count - w->opt.history_depth;
    for (int64_t k = first > 0 ? first : 0; k < past->count; k++) {
        int64_t age = t - past->taken[k];
        int64_t off = llabs(age - w->opt.history_age);
        if (past->taken[k] > past->born[m][i] &&
            (best < 0 || off < llabs(best - w->opt.history_age))) {
            best = age;
        }
    }
    return best;
}

/* The best ranks that stay get a second path while room lasts. */
static void spend(const world *w, const struct past *past, plain *p)
{
    int64_t room = w->opt.budget;
    for (int m = 0; m < w->modules; m++) {
        room -= (p->rank[m] - p->goes[m]) * cost_of(w, m);
    }
    for (int64_t k = 0; k < p->count && w->opt.expand != BL_EXPAND_NONE; k++) {
        int64_t m = p->order[k][0], i = p->order[k][1];
        int64_t most = bl_adapter_get_capacity(bl_group_get_adapter(w->group, m));
        if (!p->gone[m][i] && p->rank[m] - p->goes[m] + p->paths[m] < most &&
            cost_of(w, (int) m) <= room &&
            (w->opt.expand != BL_EXPAND_HISTORY || age_of(w, past, m, i) >= 0)) {
            p->copied[m][i] = 1;
            p->paths[m]++;
            room -= cost_of(w, (int) m);
        }
    }
}

static void check_row(const world *w, int64_t row, int64_t m, int64_t pruned,
                      int64_t source, int32_t action, int64_t age, double value)
{
    const bl_plan *p = w->plan;
    expect(row < bl_plan_get_count(p) && bl_plan_get_modules(p)[row] == m &&
               bl_plan_get_pruned(p)[row] == pruned &&
               (source == -2 || bl_plan_get_sources(p)[row] == source) &&
               bl_plan_get_actions(p)[row] == action &&
               (age == -2 || bl_plan_get_ages(p)[row] == age) &&
               fabs(bl_plan_get_importances(p)[row] - value) <= 1e-5 * (1 + value),
           "row %d of %d must be module %d: %d <- %d, action %d, age %d (seed %d)",
           (int) row, (int) bl_plan_get_count(p), (int) m, (int) pruned, (int) source,
           (int) action, (int) age, (int) w->seed);
}

/* Ranks that go, the first of them replaced, and what moves when the others are given up;
 * returns the next row. */
static int64_t check_going(const world *w, const struct past *past, const plain *p,
                           int64_t m, int64_t row, const int64_t *sources)
{
    static const int32_t actions[] = { BL_ACTION_HISTORY, BL_ACTION_CURRENT,
                                       BL_ACTION_FRESH };
    int64_t              first = row, replaced = 0, left, mover = p->rank[m] - 1;
    int                  used[RANKS] = { 0 };
    int                  ordered = w->opt.pairing == BL_PAIRING_ORDERED;
    int                  history = w->opt.expand == BL_EXPAND_HISTORY;
    int64_t              in_place = p->paths[m] < p->goes[m] ? p->paths[m] : p->goes[m];
    left = p->rank[m] - p->goes[m] + in_place;
    for (int64_t i = 0; i < p->rank[m]; i++) {
        if (!p->gone[m][i]) {
            continue;
        }
        if (replaced < in_place) {
            int64_t source = bl_plan_get_sources(w->plan)[row], known = 0;
            for (int64_t k = 0; k < in_place; k++) {
                known += sources[k] == source && !used[k]++;
            }
            expect(known == 1, "source %d (seed %d)", (int) source, (int) w->seed);
            check_row(w, row++, m, i, ordered ? sources[replaced] : -2,
                      actions[w->opt.expand], history ? age_of(w, past, m, source) : -1,
                      p->value[m][i]);
            replaced++;
            continue;
        }
        while (i < left && p->gone[m][mover]) {
            mover--;
        }
        check_row(w, row++, m, i, i < left ? mover-- : -1, BL_ACTION_SHRINK, -1,
                  p->value[m][i]);
    }
    expect(row - first == p->goes[m], "rows of module %d (seed %d)", (int) m,
           (int) w->seed);
    return row;
}

static void check_plan(const world *w, const struct past *past, const plain *p)
{
    static const int32_t actions[] = { BL_ACTION_HISTORY, BL_ACTION_CURRENT,
                                       BL_ACTION_FRESH };
    int64_t              row = 0;
    for (int64_t m = 0; m < w->modules; m++) {
        int64_t sources[RANKS], found = 0;
        for (int64_t k = 0; k < p->count; k++) {
            if (p->order[k][0] == m && p->copied[m][p->order[k][1]]) {
                sources[found++] = p->order[k][1];
            }
        }
        if (w->specs[m].frozen) {
            continue;
        }
        row = check_going(w, past, p, m, row, sources);
        for (int64_t k = p->goes[m]; k < found; k++) {
            check_row(w, row++, m, p->rank[m] + k - p->goes[m], sources[k],
                      actions[w->opt.expand],
                      w->opt.expand == BL_EXPAND_HISTORY ? age_of(w, past, m, sources[k])
                                                         : -1,
                      p->value[m][sources[k]]);
        }
    }
    expect(row == bl_plan_get_count(w->plan), "%d rows, must be %d (seed %d)",
           (int) bl_plan_get_count(w->plan), (int) row, (int) w->seed);
}

/* When the ranks there were last overwritten, after the plan. */
static void follow(const world *w, struct past *past)
{
    int64_t        t = bl_group_get_step(w->group);
    const bl_plan *p = w->plan;
    for (int shrink = 0; shrink < 2; shrink++) {
        for (int64_t row = 0; row < bl_plan_get_count(p); row++) {
            int64_t *born = past->born[bl_plan_get_modules(p)[row]];
            int64_t  source = bl_plan_get_sources(p)[row];
            if ((bl_plan_get_actions(p)[row] == BL_ACTION_SHRINK) == shrink) {
                born[bl_plan_get_pruned(p)[row]] = !shrink ? t
                                                   : source >= 0
                                                       ? born[source]
                                                       : born[bl_plan_get_pruned(p)[row]];
            }
        }
    }
}

/* Scores on a coarse grid, so that some g are equal within and between modules. */
static void make_ties(const world *w, uint64_t seed)
{
    for (int m = 0; m < w->modules; m++) {
        bl_adapter *a = bl_group_get_adapter(w->group, m);
        bl_view     s = look(a, BL_TENSOR_SCORES, 0);
        for (int64_t i = 0; i < s.cols && !w->specs[m].frozen; i++) {
            double value = noise(seed + (uint64_t) m, (uint64_t) i);
            set_value(s.data, s.dtype, i, value < 0 ? 0 : 0.125);
        }
    }
    check_ok(bl_group_touch(w->group));
}

static int64_t decide(world *w, struct past *past)
{
    plain p;
    int   ties = w->seed % 5 == 0 && w->opt.importance == BL_IMPORTANCE_SCORE;
    if (ties) {
        make_ties(w, w->seed + (uint64_t) bl_group_get_step(w->group));
    }
    content c = take(w);
    rate(w, &c, &p);
    limit(w, &p);
    check_ok(bl_group_plan(w->group, w->plan));
    if (w->opt.selection == BL_SELECT_RANDOM) {
        adopt(w, &p);
    }
    spend(w, past, &p);
    check_plan(w, past, &p);
    check_ok(bl_group_apply(w->group, w->plan));
    follow(w, past);
    return bl_plan_get_count(w->plan);
}

START_TEST(rule)
{
    static world w;
    int64_t      rows = 0, played = 0;
    for (uint64_t seed = (uint64_t) _i * GROUPS; seed < (uint64_t) (_i + 1) * GROUPS;
         seed++) {
        struct past past;
        memset(&past, 0, sizeof past);
        if (draw_world(&w, seed + 1000000)) {
            continue;
        }
        while (bl_group_get_step(w.group) < w.opt.total_steps) {
            step_world(&w);
            if (w.opt.expand == BL_EXPAND_HISTORY &&
                ref_snapshot_due(bl_group_get_step(w.group), 0, w.opt.history_phase,
                                 w.opt.history_interval)) {
                past.taken[past.count++] = bl_group_get_step(w.group);
            }
            if (bl_group_reallocate_due(w.group)) {
                rows += decide(&w, &past);
            }
        }
        close_world(&w);
        played++;
    }
    ck_assert_int_gt(played, GROUPS / 2);
    ck_assert_int_gt(rows, 5 * GROUPS);
}
END_TEST

/* A plan that was used before its module was frozen says what a new one says. */
START_TEST(used_before)
{
    int64_t differ = 0;
    for (uint64_t seed = 1000000; seed < 1000200; seed++) {
        static world w;
        if (draw_world(&w, seed)) {
            continue;
        }
        while (!bl_group_reallocate_due(w.group)) {
            step_world(&w);
        }
        bl_plan *fresh = NULL;
        bytes    a = { NULL, 0, 0 }, b = { NULL, 0, 0 };
        check_ok(bl_plan_create(&fresh, w.group));
        check_ok(bl_group_plan(w.group, w.plan));
        differ += bl_plan_get_count(w.plan) > 0;
        check_ok(bl_adapter_set_frozen(bl_group_get_adapter(w.group, 0), 1));
        check_ok(bl_group_plan(w.group, w.plan));
        check_ok(bl_group_plan(w.group, fresh));
        check_ok(bl_plan_save(w.plan, bytes_write, &a));
        check_ok(bl_plan_save(fresh, bytes_write, &b));
        ck_assert(bytes_equal(&a, &b));
        bytes_free(&a);
        bytes_free(&b);
        bl_plan_free(fresh);
        close_world(&w);
    }
    ck_assert_int_gt(differ, 50);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("global_plan");
    TCase *rules = tcase_create("rule");
    tcase_add_loop_test(rules, rule, 0, LOOPS);
    tcase_add_test(rules, used_before);
    tcase_set_timeout(rules, 240);
    suite_add_tcase(suite, rules);
    return suite;
}
