/*
 * The passes of a module whose rank has changed: gradients by central differences where the
 * mass is not r, bits of a module with room against one without, and what looks at ranks.
 */
#include "check_main.h"

#include "../ref/ref.h"

#define N 5
#define IN 7
#define OUT 6
#define RANK 3
#define CAPACITY 8
#define STEPS 4 /* a reallocation is due then */

enum { DORA = 1, DROPOUT = 2, SHRUNK = 4, VARIANTS = 8 };

struct layer {
    double      w[OUT * IN];
    bl_options  opt;
    bl_group   *group;
    bl_adapter *adapter;
    bl_tape    *tape; /* made at creation */
};

static bl_options layer_options(int variant)
{
    bl_options opt = default_options(BL_F64);
    opt.scope = BL_SCOPE_GLOBAL;
    opt.transfer = BL_TRANSFER_PRESERVE;
    opt.expand = BL_EXPAND_CURRENT;
    opt.rank = RANK;
    opt.capacity = CAPACITY;
    opt.budget = CAPACITY * (IN + OUT + 1);
    opt.alpha = 2;
    opt.temperature = 0.1;
    opt.total_steps = 10 * STEPS;
    opt.period = STEPS;
    opt.seed = 9;
    opt.dora = variant & DORA;
    opt.dropout = variant & DROPOUT ? 0.4 : 0;
    return opt;
}

/* Ranks go or come, and then all are random, new ones too. */
static void layer_open(struct layer *l, int variant)
{
    bl_plan *plan = NULL;
    bl_spec  spec = make_spec(IN, OUT, 0);
    memset(l, 0, sizeof *l);
    for (int64_t i = 0; i < OUT * IN; i++) {
        l->w[i] = noise(77, (uint64_t) i);
    }
    l->opt = layer_options(variant);
    spec.base = l->w;
    check_ok(bl_group_create(&l->group, &spec, 1, &l->opt));
    l->adapter = bl_group_get_adapter(l->group, 0);
    check_ok(bl_tape_create(&l->tape, l->adapter, N, 1));
    check_ok(bl_plan_create(&plan, l->group));
    randomize(l->adapter, 4);
    check_ok(bl_plan_clear(plan, 0));
    if (variant & SHRUNK) {
        check_ok(bl_plan_add(plan, 0, 0, 2, BL_ACTION_SHRINK, -1));
    } else {
        check_ok(bl_plan_add(plan, 0, RANK, 1, BL_ACTION_CURRENT, -1));
        check_ok(bl_plan_add(plan, 0, RANK + 1, -1, BL_ACTION_FRESH, -1));
    }
    check_ok(bl_group_apply(l->group, plan));
    int64_t r = bl_adapter_get_rank(l->adapter);
    ck_assert_int_eq(r, variant & SHRUNK ? RANK - 1 : RANK + 2);
    ck_assert(fabs(bl_adapter_get_mass(l->adapter) - (double) r) > 1e-3);
    randomize(l->adapter, 5);
    if (variant & DORA) {
        view_random(l->adapter, BL_TENSOR_MAGNITUDE, 0, 8, 0.5, 1.5);
    }
    check_ok(bl_group_touch(l->group));
    bl_plan_free(plan);
}

static void layer_close(struct layer *l)
{
    bl_tape_free(l->tape);
    bl_group_free(l->group);
}

/* ----- the formulas, plainly ----- */

struct plain {
    int64_t       r;
    double        c, tau, mass;
    double        a[CAPACITY * IN], b[CAPACITY * OUT], s[CAPACITY], mag[OUT];
    double        g[CAPACITY], length[OUT];
    int           dora;
    const double *w;
};

/* Row i of W0 + c B diag(g) A times x. */
static double product(const struct plain *p, int64_t i, const double *x, double base)
{
    double sum = 0;
    for (int64_t j = 0; j < IN; j++) {
        double w = base * p->w[i * IN + j];
        for (int64_t k = 0; k < p->r; k++) {
            w += p->c * p->b[k * OUT + i] * p->g[k] * p->a[k * IN + j];
        }
        sum += w * x[j];
    }
    return sum;
}

static void plain_importance(struct plain *p)
{
    double sum = 0;
    for (int64_t k = 0; k < p->r; k++) {
        sum += exp(p->s[k] / p->tau);
    }
    for (int64_t k = 0; k < p->r; k++) {
        p->g[k] = p->mass * exp(p->s[k] / p->tau) / sum;
    }
}

static void copy_view(double *to, bl_adapter *a, int32_t tensor)
{
    double *from = view_doubles(a, tensor, BL_BUFFER_PARAMETERS);
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    memcpy(to, from, (size_t) (view.rows * view.cols) * sizeof *to);
    free(from);
}

static void plain_read(struct plain *p, const struct layer *l)
{
    memset(p, 0, sizeof *p);
    p->r = bl_adapter_get_rank(l->adapter);
    p->c = bl_adapter_get_scaling(l->adapter);
    p->mass = bl_adapter_get_mass(l->adapter);
    p->tau = bl_group_get_temperature(l->group);
    p->w = l->w;
    p->dora = l->opt.dora;
    copy_view(p->a, l->adapter, BL_TENSOR_A);
    copy_view(p->b, l->adapter, BL_TENSOR_B);
    copy_view(p->s, l->adapter, BL_TENSOR_SCORES);
    plain_importance(p);
    for (int64_t i = 0; p->dora && i < OUT; i++) {
        for (int64_t j = 0; j < IN; j++) {
            double unit[IN] = { 0 };
            unit[j] = 1;
            p->length[i] += pow(product(p, i, unit, 1), 2);
        }
        p->length[i] = sqrt(p->length[i]);
    }
    if (p->dora) {
        copy_view(p->mag, l->adapter, BL_TENSOR_MAGNITUDE);
    }
}

/* What the layer gives; drop: factors [N, IN]. */
static void plain_output(struct plain *p, const double *x, const double *drop, double *y)
{
    plain_importance(p);
    for (int64_t t = 0; t < N; t++) {
        for (int64_t i = 0; i < OUT; i++) {
            double dropped[IN], base = 0, u = 0;
            double q = p->dora ? p->mag[i] / p->length[i] : 1;
            for (int64_t j = 0; j < IN; j++) {
                dropped[j] = x[t * IN + j] * drop[t * IN + j];
                base += p->w[i * IN + j] * x[t * IN + j];
                u += p->w[i * IN + j] * dropped[j];
            }
            y[t * OUT + i] = base + (q - 1) * u + q * product(p, i, dropped, 0);
        }
    }
}

/* x W0^T, as the host has it */
static void base_output(const struct layer *l, const double *x, double *y)
{
    for (int64_t i = 0; i < N * OUT; i++) {
        y[i] = 0;
        for (int64_t j = 0; j < IN; j++) {
            y[i] += x[i / OUT * IN + j] * l->w[i % OUT * IN + j];
        }
    }
}

/* Central differences of sum v y by `count` values at `at`, the lengths held. */
static void differentiate(struct plain *p, double *at, int64_t count, const double *x,
                          const double *drop, const double *v, double *out)
{
    for (int64_t i = 0; i < count; i++) {
        double y[N * OUT], here = at[i], h = 1e-5;
        out[i] = 0;
        for (int sign = -1; sign <= 1; sign += 2) {
            at[i] = here + sign * h;
            plain_output(p, x, drop, y);
            for (int64_t k = 0; k < N * OUT; k++) {
                out[i] += sign * v[k] * y[k] / (2 * h);
            }
        }
        at[i] = here;
    }
}

static void check_gradient(const struct layer *l, int32_t tensor, const double *want,
                           int64_t count)
{
    double *got = view_doubles(l->adapter, tensor, BL_BUFFER_GRADIENTS);
    check_le(error_of(got, want, count), 1e-7);
    free(got);
}

START_TEST(gradients)
{
    struct layer l;
    struct plain p;
    double       x[N * IN], y[N * OUT], want[CAPACITY * (IN + OUT)];
    double       v[N * OUT], dy[N * OUT], dx[N * IN] = { 0 };
    layer_open(&l, _i);
    plain_read(&p, &l);
    double *drop = read_mask(&l.opt, N, IN, 0, 2);
    for (int64_t i = 0; i < N * IN; i++) {
        x[i] = noise(6, (uint64_t) i);
    }
    for (int64_t i = 0; i < N * OUT; i++) {
        v[i] = dy[i] = noise(7, (uint64_t) i);
    }
    base_output(&l, x, y);
    check_ok(bl_forward(l.adapter, l.tape, N, y, OUT, x, IN, 2));
    plain_output(&p, x, drop, want);
    check_le(error_of(y, want, N * OUT), 1e-12);
    check_ok(bl_backward(l.adapter, l.tape, N, dx, IN, dy, OUT, x, IN));
    for (int64_t i = 0; i < N * IN; i++) { /* the host's own product */
        for (int64_t k = 0; k < OUT; k++) {
            dx[i] += dy[i / IN * OUT + k] * l.w[k * IN + i % IN];
        }
    }
    differentiate(&p, p.a, p.r * IN, x, drop, v, want);
    check_gradient(&l, BL_TENSOR_A, want, p.r * IN);
    differentiate(&p, p.b, p.r * OUT, x, drop, v, want);
    check_gradient(&l, BL_TENSOR_B, want, p.r * OUT);
    differentiate(&p, p.s, p.r, x, drop, v, want);
    check_gradient(&l, BL_TENSOR_SCORES, want, p.r);
    if (p.dora) {
        differentiate(&p, p.mag, OUT, x, drop, v, want);
        check_gradient(&l, BL_TENSOR_MAGNITUDE, want, OUT);
    }
    differentiate(&p, x, N * IN, x, drop, v, want);
    check_le(error_of(dx, want, N * IN), 1e-7);
    free(drop);
    layer_close(&l);
}
END_TEST

/* ----- room is not used ----- */

static void *raw(bl_adapter *a, int32_t tensor, int32_t buffer, size_t *size)
{
    bl_view v = view_of(a, tensor, buffer);
    *size = (size_t) (v.rows * v.cols) * dtype_bytes(v.dtype);
    return v.data;
}

/* Rank 4 in a module of capacity 64 has the bits of rank 4: outputs, gradients, steps. */
START_TEST(same_bits)
{
    int32_t dtype = _i & 1 ? BL_F64 : BL_F32;
    enum { ROWS = 33 };
    bl_group *groups[2];
    bl_tape  *tapes[2];
    mat       y[2], dx[2], dy[2], x = mat_random(dtype, ROWS, 40, 40, 1);
    mat       base = mat_random(dtype, 30, 40, 40, 2);
    for (int k = 0; k < 2; k++) {
        bl_options opt = default_options(dtype);
        bl_spec    spec = make_spec(40, 30, 4);
        opt.dora = _i >> 1 & 1;
        opt.dropout = _i & 4 ? 0.3 : 0;
        spec.base = base.data;
        spec.capacity = k ? 64 : 0;
        check_ok(bl_group_create(&groups[k], &spec, 1, &opt));
        bl_adapter *a = bl_group_get_adapter(groups[k], 0);
        ck_assert_int_eq(bl_adapter_get_capacity(a), k ? 64 : 4);
        check_ok(bl_tape_create(&tapes[k], a, ROWS, 1));
        randomize(a, 3);
        y[k] = mat_random(dtype, ROWS, 30, 30, 5);
        dy[k] = mat_random(dtype, ROWS, 30, 30, 6);
        dx[k] = mat_random(dtype, ROWS, 40, 40, 7);
        check_ok(bl_forward(a, tapes[k], ROWS, y[k].data, 30, x.data, 40, 1));
        check_ok(
            bl_backward(a, tapes[k], ROWS, dx[k].data, 40, dy[k].data, 30, x.data, 40));
    }
    size_t width = dtype_bytes(dtype), size, same;
    ck_assert_mem_eq(y[0].data, y[1].data, ROWS * 30 * width);
    ck_assert_mem_eq(dy[0].data, dy[1].data, ROWS * 30 * width);
    ck_assert_mem_eq(dx[0].data, dx[1].data, ROWS * 40 * width);
    for (int stepped = 0; stepped < 2; stepped++) {
        for (int32_t t = BL_TENSOR_A; t <= BL_TENSOR_SCORES; t++) {
            for (int32_t b = BL_BUFFER_PARAMETERS; b <= BL_BUFFER_V; b++) {
                void *p = raw(bl_group_get_adapter(groups[0], 0), t, b, &size);
                void *q = raw(bl_group_get_adapter(groups[1], 0), t, b, &same);
                ck_assert_uint_eq(size, same);
                ck_assert_mem_eq(p, q, size);
            }
        }
        check_ok(bl_group_step(groups[0], 0.01, 1));
        check_ok(bl_group_step(groups[1], 0.01, 1));
    }
    for (int k = 0; k < 2; k++) {
        mat_free(&y[k]);
        mat_free(&dx[k]);
        mat_free(&dy[k]);
        bl_tape_free(tapes[k]);
        bl_group_free(groups[k]);
    }
    mat_free(&x);
    mat_free(&base);
}
END_TEST

/* ----- what looks at ranks ----- */

/* Merge, unmerge, fold, norms and masks have the present ranks, no more. */
START_TEST(present_ranks)
{
    struct layer l;
    struct plain p;
    layer_open(&l, _i ? SHRUNK : 0);
    plain_read(&p, &l);
    double want[OUT * IN], w[OUT * IN], norms[CAPACITY], g[CAPACITY];
    for (int64_t i = 0; i < OUT * IN; i++) {
        double unit[IN] = { 0 };
        unit[i % IN] = 1;
        want[i] = product(&p, i / IN, unit, 1);
        w[i] = l.w[i];
    }
    check_ok(bl_adapter_merge(l.adapter, w, IN));
    check_le(error_of(w, want, OUT * IN), 1e-12);
    mat a = mat_new(BL_F64, p.r, IN, IN), b = mat_new(BL_F64, OUT, p.r, p.r);
    check_ok(bl_adapter_fold(l.adapter, a.data, IN, b.data, p.r));
    mat_check_padding(&a);
    mat_check_padding(&b);
    for (int64_t i = 0; i < OUT * IN; i++) {
        double sum = l.w[i];
        for (int64_t k = 0; k < p.r; k++) {
            sum += mat_get(&b, i / IN, k) * mat_get(&a, k, i % IN);
        }
        check_near(sum, want[i], 1e-12);
    }
    check_ok(bl_adapter_unmerge(l.adapter, w, IN));
    check_le(error_of(w, l.w, OUT * IN), 1e-12);
    norms[p.r] = g[p.r] = (double) NAN;
    check_ok(bl_adapter_copy_norms(l.adapter, norms));
    check_ok(bl_adapter_copy_importance(l.adapter, g));
    ck_assert(isnan(norms[p.r]) && isnan(g[p.r]));
    for (int64_t k = 0; k < p.r; k++) {
        check_near(g[k], p.g[k], 1e-12);
        check_near(norms[k], p.c * p.g[k] * ref_size(p.a, p.b, IN, OUT, k), 1e-12);
    }
    uint8_t mask[CAPACITY];
    memset(mask, 1, sizeof mask);
    mask[p.r - 1] = 0;
    mask[p.r] = 2; /* not looked at */
    check_ok(bl_adapter_set_mask(l.adapter, mask));
    check_ok(bl_adapter_copy_importance(l.adapter, g));
    check_near(g[p.r - 1], 0, 0);
    check_near(g[0], p.g[0], 1e-12);
    mask[p.r - 1] = 2;
    check_fails(bl_adapter_set_mask(l.adapter, mask), BL_E_RANGE);
    mat_free(&a);
    mat_free(&b);
    layer_close(&l);
}
END_TEST

/* A mask goes with the rank that moves; a new rank has none. */
START_TEST(masks_move)
{
    struct layer l;
    bl_plan     *plan = NULL;
    uint8_t      mask[] = { 1, 1, 1, 1, 0 };
    double       g[CAPACITY];
    layer_open(&l, 0);
    check_ok(bl_plan_create(&plan, l.group));
    check_ok(bl_adapter_set_mask(l.adapter, mask));
    check_ok(bl_plan_clear(plan, 0));
    check_ok(bl_plan_add(plan, 0, 1, 4, BL_ACTION_SHRINK, -1));
    check_ok(bl_group_apply(l.group, plan));
    check_ok(bl_adapter_copy_importance(l.adapter, g));
    ck_assert(g[0] > 0 && g[1] == 0 && g[2] > 0 && g[3] > 0);
    check_ok(bl_plan_clear(plan, 0));
    check_ok(bl_plan_add(plan, 0, 4, 0, BL_ACTION_CURRENT, -1));
    check_ok(bl_group_apply(l.group, plan));
    check_ok(bl_adapter_copy_importance(l.adapter, g));
    ck_assert(g[1] == 0 && g[4] > 0);
    bl_plan_free(plan);
    layer_close(&l);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("global_passes");
    TCase *passes = tcase_create("passes");
    tcase_add_loop_test(passes, gradients, 0, VARIANTS);
    tcase_add_loop_test(passes, same_bits, 0, 8);
    tcase_add_loop_test(passes, present_ranks, 0, 2);
    tcase_add_test(passes, masks_move);
    suite_add_tcase(suite, passes);
    return suite;
}
