/*
 * Plans by hand that let modules grow and shrink: what they do to the output, in any scope
 * and method, what is refused, and plans as bytes.
 */
#include "check_main.h"

#include "../ref/ref.h"

#define IN 7
#define OUT 6
#define RANK 4
#define CAPACITY 8
#define PERIOD 4
#define N 5

/* Two modules; the second one is here for its place in plans and budget. */
typedef struct pair {
    double      w[OUT * IN];
    bl_options  opt;
    bl_group   *group;
    bl_adapter *a;
    bl_plan    *plan;
    bl_tape    *tape; /* made at creation */
} pair;

static bl_options pair_options(void)
{
    bl_options opt = default_options(BL_F64);
    opt.rank = RANK;
    opt.capacity = CAPACITY;
    opt.alpha = 6;
    opt.period = PERIOD;
    opt.total_steps = 10 * PERIOD;
    opt.temperature = 0.1;
    opt.p_curve = BL_CURVE_CONSTANT;
    opt.p_start = 0.8;
    opt.scope = BL_SCOPE_GLOBAL;
    opt.budget = 2 * CAPACITY * (IN + OUT + 1);
    opt.pairing = BL_PAIRING_ORDERED;
    opt.transfer = BL_TRANSFER_PRESERVE;
    opt.importance = BL_IMPORTANCE_NORM;
    opt.expand = BL_EXPAND_CURRENT;
    return opt;
}

static void open_pair(pair *p, const bl_options *opt)
{
    memset(p, 0, sizeof *p);
    p->opt = *opt;
    bl_spec specs[2];
    for (int m = 0; m < 2; m++) {
        specs[m] = make_spec(m ? OUT : IN, m ? IN : OUT, 0);
        specs[m].base = p->w;
    }
    for (int64_t i = 0; i < OUT * IN; i++) {
        p->w[i] = noise(77, (uint64_t) i);
    }
    check_ok(bl_group_create(&p->group, specs, 2, opt));
    p->a = bl_group_get_adapter(p->group, 0);
    check_ok(bl_plan_create(&p->plan, p->group));
    check_ok(bl_tape_create(&p->tape, p->a, N, 1));
    for (int m = 0; m < 2; m++) {
        bl_adapter *a = bl_group_get_adapter(p->group, m);
        randomize(a, 3 + (uint64_t) m);
        if (opt->dora) {
            view_random(a, BL_TENSOR_MAGNITUDE, 0, 9, 0.5, 1.5);
        }
    }
    check_ok(bl_group_touch(p->group));
    for (int t = 0; t < PERIOD; t++) {
        check_ok(bl_group_tick(p->group));
    }
    check_ok(bl_plan_clear(p->plan, PERIOD));
}

static void close_pair(pair *p)
{
    bl_tape_free(p->tape);
    bl_plan_free(p->plan);
    bl_group_free(p->group);
}

static void output(const pair *p, double *y)
{
    mat x = mat_random(BL_F64, N, IN, IN, 5);
    for (int64_t t = 0; t < N; t++) {
        for (int64_t i = 0; i < OUT; i++) {
            y[t * OUT + i] = 0;
            for (int64_t j = 0; j < IN; j++) {
                y[t * OUT + i] += mat_get(&x, t, j) * p->w[i * IN + j];
            }
        }
    }
    check_ok(bl_forward(p->a, p->tape, N, y, OUT, x.data, IN, BL_NO_DROPOUT));
    mat_free(&x);
}

/* c B diag(g) A, before rows are rescaled. */
static void low_rank(const pair *p, double *w)
{
    double *a = view_doubles(p->a, BL_TENSOR_A, 0),
           *b = view_doubles(p->a, BL_TENSOR_B, 0);
    double g[CAPACITY];
    check_ok(bl_adapter_copy_importance(p->a, g));
    memset(w, 0, OUT * IN * sizeof *w);
    for (int64_t k = 0; k < bl_adapter_get_rank(p->a); k++) {
        for (int64_t i = 0; i < OUT * IN; i++) {
            w[i] += bl_adapter_get_scaling(p->a) * g[k] * b[k * OUT + i / IN] *
                    a[k * IN + i % IN];
        }
    }
    free(a);
    free(b);
}

static double distance(const double *a, const double *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return sqrt(sum);
}

static void add(pair *p, int64_t pruned, int64_t source, int32_t action, int64_t age)
{
    check_ok(bl_plan_add(p->plan, 0, pruned, source, action, age));
}

/* ----- the output ----- */

/* New ranks by CURRENT and FRESH with `preserve` change nothing: in a plan that the group
 * makes (p = 1 and a budget with slack), in one by hand, with and without DoRA. */
START_TEST(growth_preserves)
{
    for (int variant = 0; variant < 8; variant++) {
        bl_options opt = pair_options();
        opt.expand = variant & 1 ? BL_EXPAND_FRESH : BL_EXPAND_CURRENT;
        opt.dora = variant >> 1 & 1;
        opt.p_start = 1;
        pair   p;
        double before[N * OUT], after[N * OUT], old[CAPACITY], now[CAPACITY];
        open_pair(&p, &opt);
        output(&p, before);
        check_ok(bl_adapter_copy_importance(p.a, old));
        if (variant & 4) {
            add(&p, RANK, 2, variant & 1 ? BL_ACTION_FRESH : BL_ACTION_CURRENT, -1);
            add(&p, RANK + 1, 0, variant & 1 ? BL_ACTION_FRESH : BL_ACTION_CURRENT, -1);
            add(&p, RANK + 2, -1, BL_ACTION_FRESH,
                -1); /* the mean of the others' scores */
        } else {
            check_ok(bl_group_plan(p.group, p.plan));
            ck_assert_int_eq(bl_plan_get_count(p.plan), 2 * RANK); /* one path for each */
        }
        check_ok(bl_group_apply(p.group, p.plan));
        ck_assert_int_eq(bl_adapter_get_rank(p.a), variant & 4 ? RANK + 3 : 2 * RANK);
        output(&p, after);
        check_le(error_of(after, before, N * OUT), 1e-12);
        check_ok(bl_adapter_copy_importance(p.a, now));
        if (variant & 4) {
            check_near(now[1], old[1], 1e-12);
            check_near(now[3], old[3], 1e-12);
            double *s = view_doubles(p.a, BL_TENSOR_SCORES, 0), mean = 0;
            for (int64_t i = 0; i < RANK; i++) {
                mean += s[i] / RANK;
            }
            if (variant & 1) { /* a fresh rank with a source begins with its score */
                check_near(s[RANK], s[2], 0);
                check_near(s[RANK + 2], mean, 1e-15);
            }
            free(s);
        }
        close_pair(&p);
    }
}
END_TEST

/* Giving up ranks that add nothing changes nothing, whatever moves into their place. */
START_TEST(idle_ranks_go)
{
    for (int32_t dora = 0; dora < 2; dora++) {
        bl_options opt = pair_options();
        pair       p;
        double     before[N * OUT], after[N * OUT];
        opt.dora = dora;
        open_pair(&p, &opt);
        bl_view b = view_of(p.a, BL_TENSOR_B, 0);
        memset(b.data, 0, OUT * sizeof(double)); /* ranks 0 and 2 */
        memset((double *) b.data + 2 * OUT, 0, OUT * sizeof(double));
        check_ok(bl_group_touch(p.group));
        output(&p, before);
        add(&p, 0, 3, BL_ACTION_SHRINK, -1);
        add(&p, 2, -1, BL_ACTION_SHRINK, -1);
        check_ok(bl_group_apply(p.group, p.plan));
        ck_assert_int_eq(bl_adapter_get_rank(p.a), 2);
        output(&p, after);
        check_le(error_of(after, before, N * OUT), 1e-12);
        close_pair(&p);
    }
}
END_TEST

/* |W' - W| is at most the sum of the norms that were given up with `preserve`; with `mean`
 * those that stay are multiplied by (r - k) / (r - G), G being what the k had of g:
 *     |W' - W| <= sum of the norms that go + |k - G| / (r - G) sum of those that stay
 * With DoRA that is W before rows are rescaled, and a rescaled row changes by at most
 *     2 mag |W'_i - W_i| / (|W'_i| + |W_i|)                      (Dunkl and Williams) */
START_TEST(bounds)
{
    int64_t shrinking = 0;
    for (int variant = 0; variant < 64; variant++) {
        bl_options opt = pair_options();
        pair       p;
        double norms[CAPACITY], g[CAPACITY], before[OUT * IN], after[OUT * IN], bound = 0;
        double merged[OUT * IN], rescaled[OUT * IN], stays = 0, gone = 0, planned = 0;
        opt.expand = BL_EXPAND_NONE;
        opt.transfer = variant & 1 ? BL_TRANSFER_MEAN : BL_TRANSFER_PRESERVE;
        opt.dora = variant >> 1 & 1;
        opt.fixed_count = 1 + (variant >> 2 & 1);
        open_pair(&p, &opt);
        randomize(p.a, 50 + (uint64_t) variant);
        low_rank(&p, before);
        memcpy(merged, p.w, sizeof merged);
        check_ok(bl_adapter_merge(p.a, merged, IN));
        check_ok(bl_adapter_copy_norms(p.a, norms));
        check_ok(bl_adapter_copy_importance(p.a, g));
        check_ok(bl_group_plan(p.group, p.plan));
        for (int64_t i = 0; i < RANK; i++) {
            stays += norms[i];
        }
        int64_t k = 0;
        for (int64_t row = 0; row < bl_plan_get_count(p.plan); row++) {
            int64_t i = bl_plan_get_pruned(p.plan)[row];
            if (bl_plan_get_modules(p.plan)[row] == 0) {
                ck_assert_int_eq(bl_plan_get_actions(p.plan)[row], BL_ACTION_SHRINK);
                planned += bl_plan_get_importances(p.plan)[row];
                bound += norms[i];
                stays -= norms[i];
                gone += g[i];
                k++;
            }
        }
        ck_assert_int_eq(k, opt.fixed_count);
        check_near(planned, bound, 1e-12 * bound); /* the plan's importances are these */
        check_ok(bl_group_apply(p.group, p.plan));
        if (opt.transfer == BL_TRANSFER_MEAN) {
            bound += fabs((double) k - gone) / (RANK - gone) * stays;
            shrinking += (double) k > gone;
        }
        low_rank(&p, after);
        check_le(distance(after, before, OUT * IN), bound * (1 + 1e-12));
        memcpy(rescaled, p.w, sizeof rescaled);
        check_ok(bl_adapter_merge(p.a, rescaled, IN));
        double *mag = opt.dora ? view_doubles(p.a, BL_TENSOR_MAGNITUDE, 0) : NULL;
        for (int64_t i = 0; i < OUT; i++) {
            double change = distance(after + i * IN, before + i * IN, IN), old = 0,
                   new = 0;
            for (int64_t j = i * IN; j < (i + 1) * IN; j++) {
                old += (p.w[j] + before[j]) * (p.w[j] + before[j]);
                new += (p.w[j] + after[j]) * (p.w[j] + after[j]);
            }
            double most =
                mag == NULL ? change : 2 * mag[i] * change / (sqrt(old) + sqrt(new));
            check_le(distance(rescaled + i * IN, merged + i * IN, IN), most * (1 + 1e-9));
        }
        free(mag);
        close_pair(&p);
    }
    ck_assert_int_gt(shrinking, 0);
    ck_assert_int_lt(shrinking, 32); /* both signs of k - G */
}
END_TEST

/* With `preserve` a replaced rank takes its own share with it and nothing else, and a new
 * rank from history changes half its source's by what the snapshot differs. With `mean` k
 * new ranks whose sources have G of g:
 *     |W' - W| <= (r + k) / (r + G) sum of their norms + |k - G| / (r + G) sum of all */
START_TEST(paths_change)
{
    for (int variant = 0; variant < 40; variant++) {
        bl_options opt = pair_options();
        pair       p;
        double     norms[CAPACITY], g[CAPACITY], before[OUT * IN], after[OUT * IN];
        double     past[OUT * IN] = { 0 }, all = 0, c;
        opt.transfer = variant % 4 == 3 ? BL_TRANSFER_MEAN : BL_TRANSFER_PRESERVE;
        opt.expand = variant % 4 == 2 ? BL_EXPAND_HISTORY : BL_EXPAND_CURRENT;
        open_pair(&p, &opt);
        c = bl_adapter_get_scaling(p.a);
        double *a = view_doubles(p.a, BL_TENSOR_A, 0),
               *b = view_doubles(p.a, BL_TENSOR_B, 0);
        for (int64_t i = 0; i < OUT * IN; i++) {
            past[i] = c * b[2 * OUT + i / IN] * a[2 * IN + i % IN];
        }
        randomize(p.a, 60 + (uint64_t) variant);
        low_rank(&p, before);
        check_ok(bl_adapter_copy_norms(p.a, norms));
        check_ok(bl_adapter_copy_importance(p.a, g));
        for (int64_t i = 0; i < RANK; i++) {
            all += norms[i];
        }
        switch (variant % 4) {
        case 0:
            add(&p, 1, 2, BL_ACTION_CURRENT, -1);
            break;
        case 1:
            add(&p, 1, 2, BL_ACTION_FRESH, -1);
            break;
        case 2:
            add(&p, RANK, 2, BL_ACTION_HISTORY, PERIOD - (PERIOD / 2 + 1));
            break;
        default:
            add(&p, RANK, 2, BL_ACTION_CURRENT, -1);
            add(&p, RANK + 1, 0, BL_ACTION_CURRENT, -1);
            break;
        }
        check_ok(bl_group_apply(p.group, p.plan));
        low_rank(&p, after);
        double change = distance(after, before, OUT * IN);
        if (variant % 4 < 2) {
            check_near(change, norms[1], 1e-12 * norms[1]);
        } else if (variant % 4 == 2) {
            double *new_a = view_doubles(p.a, BL_TENSOR_A, 0);
            double *new_b = view_doubles(p.a, BL_TENSOR_B, 0), now[OUT * IN];
            for (int64_t i = 0; i < OUT * IN; i++) {
                now[i] = c * new_b[2 * OUT + i / IN] * new_a[2 * IN + i % IN];
            }
            double want = g[2] / 2 * distance(past, now, OUT * IN);
            check_near(change, want, 1e-12 * want);
            free(new_a);
            free(new_b);
        } else {
            double some = norms[0] + norms[2], part = g[0] + g[2];
            check_le(change, (RANK + 2) / (RANK + part) * some +
                                 fabs(2 - part) / (RANK + part) * all);
        }
        free(a);
        free(b);
        close_pair(&p);
    }
}
END_TEST

/* A removed rank leaves the g of the others with `preserve` between modules, and what is
 * left of a module whose weight has all gone can still be saved and loaded. */
START_TEST(mass_of_others)
{
    bl_options opt = pair_options();
    pair       p;
    double     old[CAPACITY], now[CAPACITY];
    open_pair(&p, &opt);
    check_ok(bl_adapter_copy_importance(p.a, old));
    add(&p, 1, -1, BL_ACTION_PRUNE, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    check_ok(bl_adapter_copy_importance(p.a, now));
    for (int64_t i = 0; i < RANK; i++) {
        check_near(now[i], i == 1 ? 0 : old[i], 1e-12);
    }
    check_near(bl_adapter_get_mass(p.a), RANK - old[1], 1e-12);
    /* A removed rank's score has no part in anything. */
    double s[] = { 0.1, 1e6, 0, -0.1 };
    view_write(p.a, BL_TENSOR_SCORES, 0, s);
    check_ok(bl_group_touch(p.group));
    check_ok(bl_plan_clear(p.plan, PERIOD));
    add(&p, RANK, -1, BL_ACTION_FRESH, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    bl_view scores = view_of(p.a, BL_TENSOR_SCORES, 0);
    check_near(((double *) scores.data)[RANK], 0, 1e-15);
    double rest = exp(1) + 1 + exp(-1); /* tau is 0.1 */
    check_near(bl_adapter_get_mass(p.a), (RANK - old[1]) * (rest + 1) / rest, 1e-12);
    /* All of the weight goes with one rank. */
    double t[] = { 1000, 0, 0, 0, 0 };
    view_write(p.a, BL_TENSOR_SCORES, 0, t);
    check_ok(bl_group_touch(p.group));
    check_ok(bl_plan_clear(p.plan, PERIOD));
    add(&p, 0, 4, BL_ACTION_SHRINK, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    ck_assert(bl_adapter_get_mass(p.a) > 0);
    bytes state = save_group(p.group);
    check_ok(bl_group_load(p.group, state.data, state.size));
    bytes_free(&state);
    close_pair(&p);
}
END_TEST

/* Scores that are not finite leave the mass what it was: a host can mend them. */
START_TEST(mass_stays_finite)
{
    bl_options opt = pair_options();
    pair       p;
    open_pair(&p, &opt);
    double s[] = { 0.1, (double) NAN, 0, -0.1 };
    view_write(p.a, BL_TENSOR_SCORES, 0, s);
    check_ok(bl_group_touch(p.group));
    add(&p, 3, -1, BL_ACTION_SHRINK, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    check_near(bl_adapter_get_mass(p.a), RANK, 0);
    close_pair(&p);
}
END_TEST

/* Gradients that were there before a plan by hand follow the rank that moves. */
START_TEST(gradients_follow)
{
    bl_options opt = pair_options();
    pair       p;
    open_pair(&p, &opt);
    for (int32_t t = BL_TENSOR_A; t <= BL_TENSOR_SCORES; t++) {
        view_random(p.a, t, BL_BUFFER_GRADIENTS, 5 + (uint64_t) t, 1, 0);
    }
    double *a = view_doubles(p.a, BL_TENSOR_A, BL_BUFFER_GRADIENTS);
    double *s = view_doubles(p.a, BL_TENSOR_SCORES, BL_BUFFER_GRADIENTS);
    add(&p, 1, 3, BL_ACTION_SHRINK, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    bl_view va = view_of(p.a, BL_TENSOR_A, BL_BUFFER_GRADIENTS);
    bl_view vs = view_of(p.a, BL_TENSOR_SCORES, BL_BUFFER_GRADIENTS);
    check_le(error_of((double *) va.data + IN, a + 3 * IN, IN), 0);
    check_near(((double *) vs.data)[1], s[3], 0);
    check_near(((double *) vs.data)[3], 0, 0);
    free(a);
    free(s);
    close_pair(&p);
}
END_TEST

/* ----- any scope, any method ----- */

START_TEST(anywhere)
{
    for (int variant = 0; variant < 12; variant++) {
        bl_options opt = pair_options();
        opt.scope = variant % 3;
        opt.method = variant / 3 % 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        opt.transfer = variant / 6;
        opt.budget = 0;
        opt.capacity = CAPACITY;
        opt.expand = BL_EXPAND_HISTORY;
        int  lora = opt.method == BL_METHOD_LORA;
        pair p;
        open_pair(&p, &opt);
        if (opt.scope == BL_SCOPE_GLOBAL) { /* the budget is what the ranks cost */
            check_ok(bl_plan_add(p.plan, 0, 3, -1, BL_ACTION_SHRINK, -1));
            check_ok(bl_group_apply(p.group, p.plan));
            ck_assert_int_eq(bl_adapter_get_rank(p.a), RANK - 1);
            check_ok(bl_plan_clear(p.plan, PERIOD));
        }
        int64_t r = bl_adapter_get_rank(p.a);
        double *a = view_doubles(p.a, BL_TENSOR_A, 0);
        check_ok(bl_plan_add(p.plan, 0, r, 1, BL_ACTION_CURRENT, -1));
        if (!lora) { /* LoRA keeps no history */
            check_ok(bl_plan_add(p.plan, 0, r + 1, 0, BL_ACTION_HISTORY,
                                 PERIOD - (PERIOD / 2 + 1)));
        }
        if (opt.scope == BL_SCOPE_GLOBAL && !lora) {
            check_fails(bl_group_apply(p.group, p.plan), BL_E_RANGE); /* the budget */
            check_ok(bl_plan_clear(p.plan, PERIOD));
            check_ok(bl_plan_add(p.plan, 0, r, 1, BL_ACTION_CURRENT, -1));
        }
        check_ok(bl_group_apply(p.group, p.plan));
        int64_t now = bl_adapter_get_rank(p.a);
        double *b = view_doubles(p.a, BL_TENSOR_A, 0), g[CAPACITY], sum = 0;
        check_le(error_of(b, a, r * IN), 0);
        check_le(error_of(b + r * IN, a + IN, IN), 0);
        if (now == r + 2) { /* nothing has changed since the snapshot */
            check_le(error_of(b + (r + 1) * IN, a, IN), 0);
        }
        check_ok(bl_adapter_copy_importance(p.a, g));
        for (int64_t i = 0; i < now; i++) {
            sum += g[i];
        }
        check_near(bl_adapter_get_mass(p.a), sum, 1e-12);
        ck_assert_int_eq(bl_adapter_get_kept(p.a), now);
        free(a);
        free(b);
        close_pair(&p);
    }
}
END_TEST

/* ----- refused ----- */

typedef struct row {
    int64_t module, pruned, source;
    int32_t action;
    int64_t age;
} row;

START_TEST(refused)
{
    enum { H = BL_ACTION_HISTORY, C, F, P, SKIP, S };
    static const struct {
        row         rows[5];
        int         count, code;
        const char *text;
    } cases[] = {
        { { { 0, 8, 0, C, -1 } }, 1, BL_E_RANGE, "must be below the capacity" },
        { { { 0, 5, 0, C, -1 } }, 1, BL_E_RANGE, "new rank 5 of adapter.0 comes before" },
        { { { 0, 5, 0, C, -1 }, { 0, 4, 1, C, -1 } },
          2,
          BL_E_RANGE,
          "comes before rank 4" },
        { { { 0, 4, 0, C, -1 }, { 0, 4, 1, C, -1 } }, 2, BL_E_RANGE, "pruned twice" },
        { { { 0, 4, 0, C, -1 }, { 0, 5, 0, C, -1 } }, 2, BL_E_RANGE, "a source twice" },
        { { { 0, 4, 4, C, -1 } }, 1, BL_E_RANGE, "source rank is 4, must be in [0, 4)" },
        { { { 0, 4, -1, C, -1 } }, 1, BL_E_RANGE, "source rank is -1" },
        { { { 0, 4, 0, P, -1 } }, 1, BL_E_RANGE, "pruned rank is 4, must be in [0, 4)" },
        { { { 0, 4, 0, SKIP, -1 } }, 1, BL_E_RANGE, "pruned rank is 4" },
        { { { 0, 4, -1, S, -1 } }, 1, BL_E_RANGE, "pruned rank is 4" },
        { { { 0, -1, -1, S, -1 } }, 1, BL_E_RANGE, "pruned rank is -1" },
        { { { 0, 4, 0, H, 1 } }, 1, BL_E_STATE, "keeps no history" },
        { { { 0, 4, 0, C, -1 }, { 0, 3, -1, S, -1 } }, 2, BL_E_RANGE, "grow and shrink" },
        { { { 0, 1, -1, S, -1 } }, 1, BL_E_RANGE, "rank 1 of adapter.0 is given up for" },
        { { { 0, 1, 2, S, -1 } }, 1, BL_E_RANGE, "given up for rank 2" },
        { { { 0, 1, 4, S, -1 } }, 1, BL_E_RANGE, "given up for rank 4" },
        { { { 0, 3, 2, S, -1 } }, 1, BL_E_RANGE, "or -1 if itself is" },
        { { { 0, 0, 3, S, -1 }, { 0, 3, -1, S, -1 } }, 2, BL_E_RANGE, "for rank 3" },
        { { { 0, 0, 3, S, -1 }, { 0, 1, 3, S, -1 } }, 2, BL_E_RANGE, "stays, once" },
        { { { 0, 0, -1, S, -1 },
            { 0, 1, -1, S, -1 },
            { 0, 2, -1, S, -1 },
            { 0, 3, -1, S, -1 } },
          4,
          BL_E_RANGE,
          "leaves adapter.0 without a rank" },
        { { { 0, 0, 1, S, -1 },
            { 0, 1, -1, P, -1 },
            { 0, 2, -1, S, -1 },
            { 0, 3, -1, S, -1 } },
          4,
          BL_E_RANGE,
          "leaves adapter.0 without a rank" },
        { { { 0, 4, 0, C, -1 }, { 0, 5, 1, C, -1 } },
          2,
          BL_E_RANGE,
          "the budget is 126" },
        { { { 1, 4, 0, C, -1 }, { 0, 5, 1, C, -1 } }, 2, BL_E_RANGE, "in the order of" },
        { { { 2, 4, 0, C, -1 } }, 1, BL_E_RANGE, "module is 2, must be in [0, 2)" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_options opt = pair_options();
        pair       p;
        opt.budget = 9 * (IN + OUT + 1); /* room for one */
        open_pair(&p, &opt);
        for (int k = 0; k < cases[i].count; k++) {
            const row *r = &cases[i].rows[k];
            check_ok(
                bl_plan_add(p.plan, r->module, r->pruned, r->source, r->action, r->age));
        }
        bytes before = save_group(p.group);
        int   rc = bl_group_apply(p.group, p.plan);
        ck_assert_msg(rc == cases[i].code, "case %d: %d (%s)", (int) i, rc,
                      rc < 0 ? bl_last_error() : "ok");
        ck_assert_msg(strstr(bl_last_error(), cases[i].text) != NULL, "case %d: \"%s\"",
                      (int) i, bl_last_error());
        bytes after = save_group(p.group);
        ck_assert(bytes_equal(&before, &after));
        bytes_free(&before);
        bytes_free(&after);
        close_pair(&p);
    }
}
END_TEST

/* A module that is frozen, and a rank that was removed before. */
START_TEST(refused_later)
{
    bl_options opt = pair_options();
    pair       p;
    open_pair(&p, &opt);
    add(&p, 1, -1, BL_ACTION_PRUNE, -1);
    check_ok(bl_group_apply(p.group, p.plan));
    check_ok(bl_plan_clear(p.plan, PERIOD));
    add(&p, RANK, 1, BL_ACTION_CURRENT, -1);
    check_fails(bl_group_apply(p.group, p.plan), BL_E_RANGE);
    check_ok(bl_plan_clear(p.plan, PERIOD));
    add(&p, 1, 3, BL_ACTION_SHRINK, -1);
    check_fails(bl_group_apply(p.group, p.plan), BL_E_RANGE);
    check_ok(bl_plan_clear(p.plan, PERIOD));
    add(&p, RANK, 0, BL_ACTION_CURRENT, -1);
    check_ok(bl_adapter_set_frozen(p.a, 1));
    check_fails(bl_group_apply(p.group, p.plan), BL_E_STATE);
    ck_assert_int_eq(bl_adapter_get_rank(p.a), RANK);
    close_pair(&p);
}
END_TEST

/* ----- as bytes ----- */

START_TEST(broadcast)
{
    for (int32_t expand = 0; expand < 4; expand++) {
        bl_options opt = pair_options();
        pair       p, q;
        bytes      a = { NULL, 0, 0 }, b = { NULL, 0, 0 };
        int64_t    grown = 0;
        opt.expand = expand;
        opt.fixed_count = 1;
        open_pair(&p, &opt);
        open_pair(&q, &opt);
        check_ok(bl_group_reallocate(p.group, p.plan));
        for (int64_t k = 0; k < bl_plan_get_count(p.plan); k++) {
            grown += bl_plan_get_pruned(p.plan)[k] >= RANK ||
                     bl_plan_get_actions(p.plan)[k] == BL_ACTION_SHRINK;
        }
        ck_assert_int_gt(grown, 0);
        check_ok(bl_plan_save(p.plan, bytes_write, &a));
        check_ok(bl_plan_load(q.plan, a.data, a.size));
        check_ok(bl_plan_save(q.plan, bytes_write, &b));
        ck_assert(bytes_equal(&a, &b));
        check_ok(bl_group_apply(q.group, q.plan));
        bytes x = save_group(p.group), y = save_group(q.group);
        ck_assert(bytes_equal(&x, &y));
        a.data[4 * 8 + 4 * 8] = 6; /* the first row's action: there is no such */
        check_fails(bl_plan_load(q.plan, a.data, a.size), BL_E_FORMAT);
        bytes_free(&a);
        bytes_free(&b);
        bytes_free(&x);
        bytes_free(&y);
        close_pair(&p);
        close_pair(&q);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("global_hand");
    TCase *function = tcase_create("output");
    tcase_add_test(function, growth_preserves);
    tcase_add_test(function, idle_ranks_go);
    tcase_add_test(function, bounds);
    tcase_add_test(function, paths_change);
    tcase_add_test(function, mass_of_others);
    tcase_add_test(function, mass_stays_finite);
    tcase_add_test(function, gradients_follow);
    suite_add_tcase(suite, function);
    TCase *hand = tcase_create("by_hand");
    tcase_add_test(hand, anywhere);
    tcase_add_test(hand, refused);
    tcase_add_test(hand, refused_later);
    tcase_add_test(hand, broadcast);
    suite_add_tcase(suite, hand);
    return suite;
}
