/*
 * Ranks that move between modules, over random schedules: after every call budget and
 * capacities hold, what is not there is zero, and every rank, followed by who it is and not
 * by where it is, holds what the plan says.
 */
#include "global_world.h"

#include "../ref/ref.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SCHEDULES 60
#else
#define SCHEDULES 600
#endif
#define LOOPS 10

/* A snapshot as the test took it: the ranks' identities and what they held. */
typedef struct snapshot {
    int64_t step;
    int64_t id[MODULES][RANKS];
    content held;
} snapshot;

typedef struct run {
    world    w;
    int64_t  id[MODULES][RANKS]; /* who is there */
    int64_t  next_id;
    snapshot ring[3];
    int64_t  snapshots;
    content  first; /* for the frozen modules */
    int64_t  grown, shrunk, moved, copied, copied_moved, fresh;
} run;

/* ----- what holds at any time ----- */

static void check_limits(const run *r)
{
    const world *w = &r->w;
    int64_t      cost = 0;
    for (int m = 0; m < w->modules; m++) {
        const bl_adapter *a = bl_group_get_adapter(w->group, m);
        int64_t           rank = bl_adapter_get_rank(a);
        double            g[RANKS], sum = 0, mass = bl_adapter_get_mass(a);
        expect(rank >= 1 && rank <= bl_adapter_get_capacity(a), "rank %d (seed %d)",
               (int) rank, (int) w->seed);
        cost += rank * cost_of(w, m);
        bl_adapter_copy_importance(a, g);
        for (int64_t i = 0; i < rank; i++) {
            sum += g[i];
        }
        expect(mass > 0 && fabs(sum - mass) <= 1e-12 * mass,
               "g sums to %.17g, mass is %.17g (seed %d)", sum, mass, (int) w->seed);
        expect(w->opt.transfer != BL_TRANSFER_MEAN || mass == (double) rank,
               "mass is %g, rank %d (seed %d)", mass, (int) rank, (int) w->seed);
    }
    ck_assert_int_eq(cost, bl_group_get_cost(w->group));
    ck_assert_int_le(cost, w->opt.budget);
}

/* Elements of a buffer that no present rank or magnitude has are zero. */
static void check_zeros(const run *r)
{
    static uint8_t covered[MODULES * (2 * RANKS * WIDE + RANKS + WIDE + 64)];
    const world   *w = &r->w;
    bl_view        all;
    for (int32_t k = 0; bl_group_get_view(w->group, k, &all) == 0 || k < 6; k++) {
        if (bl_group_get_view(w->group, k, &all) != 0) {
            continue;
        }
        expect(all.cols <= (int64_t) sizeof covered, "no room");
        memset(covered, 0, (size_t) all.cols);
        size_t size = dtype_bytes(all.dtype);
        for (int m = 0; m < w->modules; m++) {
            for (int32_t t = BL_TENSOR_A; t <= BL_TENSOR_MAGNITUDE; t++) {
                bl_view v;
                if (bl_adapter_get_view(bl_group_get_adapter(w->group, m), t, k, &v)) {
                    continue;
                }
                size_t from =
                    (size_t) ((const char *) v.data - (const char *) all.data) / size;
                memset(covered + from, 1, (size_t) (v.rows * v.cols));
            }
        }
        for (int64_t i = 0; i < all.cols; i++) {
            expect(covered[i] || get_value(all.data, all.dtype, i) == 0,
                   "element %d of buffer %d is not zero (seed %d)", (int) i, (int) k,
                   (int) w->seed);
        }
    }
}

static void check_row(const run *r, int m, const double *got, const double *want,
                      int is_b, const char *what)
{
    int64_t cols = is_b ? r->w.specs[m].out_features : r->w.specs[m].in_features;
    for (int64_t j = 0; j < cols; j++) {
        expect(got[j] == want[j], "%s of module %d differs (seed %d)", what, m,
               (int) r->w.seed);
    }
}

/* Rank i of `now` is rank k of `then` in A, B and what goes with them. */
static void check_same(const run *r, int m, const module_content *now, int64_t i,
                       const module_content *then, int64_t k)
{
    for (int b = 0; b < BUFFERS; b++) {
        check_row(r, m, now->a[b][i], then->a[b][k], 0, "A");
        check_row(r, m, now->b[b][i], then->b[b][k], 1, "B");
    }
}

static void check_frozen(const run *r, const content *now)
{
    for (int m = 0; m < r->w.modules; m++) {
        const module_content *a = &now->of[m], *b = &r->first.of[m];
        if (r->w.specs[m].frozen) {
            expect(a->rank == b->rank && a->mass == b->mass, "frozen, but changed");
            for (int64_t i = 0; i < a->rank; i++) {
                check_same(r, m, a, i, b, i);
                expect(a->s[0][i] == b->s[0][i], "frozen, but changed");
            }
        }
    }
}

/* ----- what a plan did ----- */

/* Where each rank of a module comes from: a row of the plan, or a rank before. */
typedef struct origin {
    int64_t rank, row[RANKS], from[RANKS];
} origin;

/* Rows [first, end) carried out on identities. */
static origin follow(run *r, int m, int64_t rank, int64_t first, int64_t end)
{
    const bl_plan *plan = r->w.plan;
    origin         o = { .rank = rank };
    for (int64_t i = 0; i < RANKS; i++) {
        o.row[i] = -1;
        o.from[i] = i;
    }
    for (int64_t row = first; row < end; row++) {
        int64_t at = bl_plan_get_pruned(plan)[row];
        int32_t action = bl_plan_get_actions(plan)[row];
        expect(action != BL_ACTION_SKIP && action != BL_ACTION_PRUNE, "action %d",
               (int) action);
        if (action != BL_ACTION_SHRINK) {
            o.row[at] = row;
            r->id[m][at] = r->next_id++;
            o.rank += at >= rank;
            r->grown += at >= rank;
        }
    }
    for (int64_t row = first; row < end; row++) {
        int64_t at = bl_plan_get_pruned(plan)[row];
        int64_t mover = bl_plan_get_sources(plan)[row];
        if (bl_plan_get_actions(plan)[row] != BL_ACTION_SHRINK) {
            continue;
        }
        r->shrunk++;
        o.rank--;
        if (mover >= 0) {
            o.row[at] = o.row[mover];
            o.from[at] = mover;
            r->id[m][at] = r->id[m][mover];
            r->moved++;
        }
    }
    return o;
}

/* The snapshot of this age, by the test's own record, and where `id` was in it. */
static const snapshot *recall(const run *r, int m, int64_t age, int64_t id, int64_t *at)
{
    int64_t now = bl_group_get_step(r->w.group);
    for (int k = 0; k < 3; k++) {
        const snapshot *s = &r->ring[k];
        if (s->step < 0 || s->step != now - age) {
            continue;
        }
        for (*at = 0; *at < s->held.of[m].rank; (*at)++) {
            if (s->id[m][*at] == id) {
                return s;
            }
        }
        ck_abort_msg("the source was not there at step %d (seed %d)", (int) s->step,
                     (int) r->w.seed);
    }
    ck_abort_msg("there is no snapshot of age %d (seed %d)", (int) age, (int) r->w.seed);
}

/* A rank that starts afresh: A within its bound, B zero, others zero or a mean. */
static void check_fresh(const run *r, int m, const module_content *then,
                        const uint8_t *goes, const module_content *now, int64_t i)
{
    int64_t in = r->w.specs[m].in_features, out = r->w.specs[m].out_features;
    double  limit = r->w.opt.parameter_dtype == BL_F64 ? 1e-14 : 1e-6, size = 0;
    for (int64_t j = 0; j < in; j++) {
        expect(fabs(now->a[0][i][j]) <= 1 / sqrt((double) in), "A of a fresh rank");
        size += fabs(now->a[0][i][j]);
    }
    expect(size > 0, "A of a fresh rank is zero");
    for (int b = 0; b < BUFFERS; b++) {
        for (int is_b = b == 0; is_b < 2; is_b++) { /* not A itself */
            for (int64_t j = 0; j < (is_b ? out : in); j++) {
                double want = 0, kept = 0;
                for (int64_t k = 0; k < then->rank && b == 2; k++) {
                    want += goes[k] ? 0 : is_b ? then->b[b][k][j] : then->a[b][k][j];
                    kept += !goes[k];
                }
                double got = is_b ? now->b[b][i][j] : now->a[b][i][j];
                want = kept > 0 ? want / kept : 0;
                expect(fabs(got - want) <= limit, "a fresh rank has %g, not %g", got,
                       want);
            }
        }
    }
}

/* Rank i of `now` is the path that the row says. */
static void check_path(run *r, int m, int64_t row, const module_content *then,
                       const int64_t *old_id, const uint8_t *goes,
                       const module_content *now, int64_t i)
{
    static const module_content nothing = { 0 };
    const bl_plan              *plan = r->w.plan;
    int32_t                     action = bl_plan_get_actions(plan)[row];
    int64_t                     source = bl_plan_get_sources(plan)[row];
    int64_t                     at = bl_plan_get_pruned(plan)[row], k = source;
    const module_content       *from = then;
    expect(source >= 0 && source < then->rank, "source %d", (int) source);
    if (action == BL_ACTION_FRESH) {
        r->fresh++;
        check_fresh(r, m, then, goes, now, i);
        return;
    }
    if (action == BL_ACTION_HISTORY) {
        const snapshot *s = recall(r, m, bl_plan_get_ages(plan)[row], old_id[source], &k);
        from = &s->held.of[m];
        r->copied++;
        r->copied_moved += k != source;
    }
    check_row(r, m, now->a[0][i], from->a[0][k], 0, "A of a new path");
    check_row(r, m, now->b[0][i], from->b[0][k], 1, "B of a new path");
    for (int b = 1; b < BUFFERS; b++) {
        const module_content *c = from;
        int64_t               of = k;
        if (r->w.opt.moments != BL_MOMENTS_COPY) {
            int keep = r->w.opt.moments == BL_MOMENTS_KEEP && at < then->rank;
            c = keep ? then : &nothing;
            of = at;
        }
        check_row(r, m, now->a[b][i], c->a[b][of], 0, "a moment of A");
        check_row(r, m, now->b[b][i], c->b[b][of], 1, "a moment of B");
    }
}

/* Scores, and g where it has to stay. */
static void check_scores(const run *r, const origin *o, int64_t first, int64_t end,
                         const module_content *then, const module_content *now)
{
    const bl_options *opt = &r->w.opt;
    const bl_plan    *plan = r->w.plan;
    int               preserve = opt->transfer == BL_TRANSFER_PRESERVE;
    double            s[RANKS], g[RANKS], step = opt->temperature * log(2);
    double            limit = opt->parameter_dtype == BL_F64 ? 1e-14 : 1e-6;
    int64_t           stays[RANKS];
    for (int64_t i = 0; i < RANKS; i++) {
        s[i] = i < then->rank ? then->s[0][i] : (double) NAN;
        g[i] = i < then->rank ? then->g[i] : (double) NAN;
        stays[i] = 1;
    }
    for (int64_t row = first; row < end; row++) {
        int64_t at = bl_plan_get_pruned(plan)[row];
        int64_t source = bl_plan_get_sources(plan)[row];
        int32_t action = bl_plan_get_actions(plan)[row];
        if (action == BL_ACTION_SHRINK) {
            continue;
        }
        double old = at < then->rank ? then->s[0][at] : then->s[0][source];
        if (preserve && action == BL_ACTION_FRESH) {
            s[at] = old;
            g[at] = at < then->rank ? then->g[at] : then->g[source];
        } else if (preserve) {
            s[at] = s[source] = then->s[0][source] - step;
            g[at] = g[source] = then->g[source] / 2;
            stays[at] = stays[source] = 0;
        } else {
            s[at] = s[source] = (old + then->s[0][source]) / 2;
        }
    }
    for (int64_t i = 0; i < now->rank; i++) {
        int64_t from = o->from[i];
        double  near = (stays[from] ? 1e-12 : 20 * limit) * (1 + g[from]);
        expect(fabs(now->s[0][i] - s[from]) <= limit, "s is %.17g, must be %.17g",
               now->s[0][i], s[from]);
        expect(!preserve || fabs(now->g[i] - g[from]) <= near,
               "g is %.17g, must be %.17g (seed %d)", now->g[i], g[from],
               (int) r->w.seed);
        expect(now->s[1][i] == 0 && now->s[2][i] == 0, "scores' moments stay");
    }
}

static void reallocate(run *r)
{
    world         *w = &r->w;
    content        then = take(w);
    int64_t        row = 0, old_id[RANKS];
    const int64_t *modules = bl_plan_get_modules(w->plan);
    check_ok(bl_group_plan(w->group, w->plan));
    check_limits(r);
    check_ok(bl_group_apply(w->group, w->plan));
    content now = take(w);
    for (int m = 0; m < w->modules; m++) {
        int64_t first = row;
        uint8_t goes[RANKS] = { 0 };
        for (; row < bl_plan_get_count(w->plan) && modules[row] == m; row++) {
            goes[bl_plan_get_pruned(w->plan)[row]] = 1;
        }
        if (w->specs[m].frozen) {
            expect(row == first, "the plan has a frozen module");
            continue;
        }
        memcpy(old_id, r->id[m], sizeof old_id);
        const module_content *a = &then.of[m], *b = &now.of[m];
        origin                o = follow(r, m, a->rank, first, row);
        expect(o.rank == b->rank, "rank %d, must be %d", (int) b->rank, (int) o.rank);
        for (int64_t i = 0; i < b->rank; i++) {
            if (o.row[i] < 0) {
                check_same(r, m, b, i, a, o.from[i]);
            } else {
                check_path(r, m, o.row[i], a, old_id, goes, b, i);
            }
        }
        check_scores(r, &o, first, row, a, b);
        expect(row > first || b->mass == a->mass, "mass of a module without rows");
    }
    ck_assert_int_eq(row, bl_plan_get_count(w->plan));
}

/* ----- schedules ----- */

static int start(run *r, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    if (draw_world(&r->w, seed)) {
        return 1;
    }
    for (int m = 0; m < r->w.modules; m++) {
        for (int64_t i = 0; i < RANKS; i++) {
            r->id[m][i] = r->next_id++;
        }
    }
    for (int k = 0; k < 3; k++) {
        r->ring[k].step = -1;
    }
    r->first = take(&r->w);
    return 0;
}

static void take_snapshot(run *r, const content *now)
{
    const bl_options *opt = &r->w.opt;
    int64_t           t = bl_group_get_step(r->w.group);
    if (opt->expand == BL_EXPAND_HISTORY &&
        ref_snapshot_due(t, opt->start, opt->history_phase, opt->history_interval)) {
        snapshot *s = &r->ring[r->snapshots++ % opt->history_depth];
        s->step = t;
        s->held = *now;
        memcpy(s->id, r->id, sizeof s->id);
        ck_assert_int_eq(bl_group_get_snapshot_step(r->w.group), t);
    }
}

static void play(run *r)
{
    while (bl_group_get_step(r->w.group) < r->w.opt.total_steps) {
        step_world(&r->w);
        content now = take(&r->w);
        take_snapshot(r, &now);
        check_frozen(r, &now);
        check_limits(r);
        if (bl_group_reallocate_due(r->w.group)) {
            reallocate(r);
            now = take(&r->w);
            check_frozen(r, &now);
            check_limits(r);
            check_zeros(r);
        }
    }
    check_zeros(r);
}

START_TEST(schedules)
{
    static run r;
    int64_t    played = 0, sums[6] = { 0 };
    for (uint64_t seed = (uint64_t) _i * SCHEDULES;
         seed < (uint64_t) (_i + 1) * SCHEDULES; seed++) {
        if (start(&r, seed)) {
            continue;
        }
        play(&r);
        close_world(&r.w);
        int64_t counts[] = {
            r.grown, r.shrunk, r.moved, r.copied, r.copied_moved, r.fresh
        };
        for (int k = 0; k < 6; k++) {
            sums[k] += counts[k];
        }
        played++;
    }
    ck_assert_int_gt(played, SCHEDULES / 2);
    for (int k = 0; k < 6; k++) { /* all of it has happened, often */
        ck_assert_msg(sums[k] > 0 && sums[k] >= SCHEDULES / 60, "count %d is %d", k,
                      (int) sums[k]);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("global");
    TCase *random = tcase_create("schedules");
    tcase_add_loop_test(random, schedules, 0, LOOPS);
    tcase_set_timeout(random, 240);
    suite_add_tcase(suite, random);
    return suite;
}
