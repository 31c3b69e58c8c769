/*
 * DoRA, alone, with scores and with AdaLoRA, against a plain copy of its formulas that
 * makes W whole: forward, gradients by central differences with lengths held fixed, lengths
 * after everything that changes parameters, merge, state, refusals.
 */
#include "check_main.h"
#include "ref.h"

#define N 5
#define IN 7
#define OUT 6
#define RANK 3
#define LD (IN + 2) /* of W0 */

/* ----- the layer under test ----- */

enum { BEAM = 1, DROPOUT = 2, ROWS = 4, PARALLEL = 8, ADA = 16, VARIANTS = 32 };

/* W0 for base_rows. */
struct base {
    const double *w; /* [OUT, IN] */
    int32_t       dtype;
};

static void hand_rows(const void *user, int64_t from, int64_t rows, int64_t in, void *out)
{
    const struct base *base = user;
    ck_assert_int_eq(in, IN);
    ck_assert(from >= 0 && rows > 0 && from + rows <= OUT);
    for (int64_t i = 0; i < rows * in; i++) {
        set_value(out, base->dtype, i, base->w[from * in + i]);
    }
}

static void backwards(void *user, int64_t count, bl_task_fn task, void *context)
{
    (void) user;
    for (int64_t i = count; i-- > 0;) {
        task(context, i);
    }
}

struct layer {
    double      w[OUT * IN];
    mat         w0;
    struct base base;
    bl_options  opt;
    bl_group   *group;
    bl_adapter *adapter;
    bl_tape    *tape;
};

static void layer_group(struct layer *l)
{
    bl_spec spec = make_spec(IN, OUT, 0);
    spec.base = l->w0.data;
    spec.ldbase = LD;
    if (l->opt.base_rows != NULL) {
        spec.base = &l->base;
        spec.ldbase = 0;
    }
    check_ok(bl_group_create(&l->group, &spec, 1, &l->opt));
    l->adapter = bl_group_get_adapter(l->group, 0);
    check_ok(bl_tape_create(&l->tape, l->adapter, N, 1));
}

static void layer_open(struct layer *l, int variant, int32_t dtype)
{
    memset(l, 0, sizeof *l);
    l->w0 = mat_random(dtype, OUT, IN, LD, 77);
    for (int64_t i = 0; i < OUT * IN; i++) {
        l->w[i] = mat_get(&l->w0, i / IN, i % IN);
    }
    l->base.w = l->w;
    l->base.dtype = dtype;
    l->opt = default_options(dtype);
    l->opt.method = variant & ADA    ? BL_METHOD_ADALORA
                    : variant & BEAM ? BL_METHOD_BEAMLORA
                                     : BL_METHOD_LORA;
    l->opt.orth_reg_weight = 0; /* the penalty is test_adalora's */
    l->opt.dora = 1;
    l->opt.rank = RANK;
    l->opt.alpha = 2;
    l->opt.total_steps = 24;
    l->opt.period = 3;
    l->opt.p_start = 0.5;
    l->opt.seed = 9;
    l->opt.dropout = variant & DROPOUT ? 0.4 : 0;
    l->opt.base_rows = variant & ROWS ? hand_rows : NULL;
    l->opt.parallel_for = variant & PARALLEL ? backwards : NULL;
    layer_group(l);
}

static void layer_close(struct layer *l)
{
    bl_tape_free(l->tape);
    bl_group_free(l->group);
    mat_free(&l->w0);
}

/* Also magnitudes that are not the lengths. */
static void layer_randomize(struct layer *l, uint64_t seed)
{
    view_random(l->adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, seed + 3, 0.5,
                1.5);
    randomize(l->adapter, seed);
}

/* ----- the formulas, plainly ----- */

struct plain {
    double c, tau;
    double a[RANK * IN], b[RANK * OUT], s[RANK],
        mag[OUT]; /* what may be differentiated */
    double        g[RANK], length[OUT];
    int           scores, adalora;
    const double *w;
};

static void plain_importance(struct plain *p)
{
    if (p->adalora) {
        memcpy(p->g, p->s, sizeof p->g);
    } else if (p->scores) {
        ref_importance(RANK, p->s, p->tau, NULL, p->g);
    }
}

static void plain_lengths(struct plain *p)
{
    for (int64_t i = 0; i < OUT; i++) {
        double sum = 0;
        for (int64_t j = 0; j < IN; j++) {
            double w = p->w[i * IN + j];
            for (int64_t k = 0; k < RANK; k++) {
                w += p->c * p->b[k * OUT + i] * p->g[k] * p->a[k * IN + j];
            }
            sum += w * w;
        }
        p->length[i] = sqrt(sum);
    }
}

static void copy_view(double *to, bl_adapter *a, int32_t tensor)
{
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    for (int64_t i = 0; i < view.rows * view.cols; i++) {
        to[i] = get_value(view.data, view.dtype, i);
    }
}

static void plain_read(struct plain *p, const struct layer *l)
{
    memset(p, 0, sizeof *p);
    p->c = bl_adapter_get_scaling(l->adapter);
    p->tau = bl_group_get_temperature(l->group);
    p->w = l->w;
    p->scores = l->opt.method != BL_METHOD_LORA;
    p->adalora = l->opt.method == BL_METHOD_ADALORA;
    copy_view(p->a, l->adapter, BL_TENSOR_A);
    copy_view(p->b, l->adapter, BL_TENSOR_B);
    copy_view(p->mag, l->adapter, BL_TENSOR_MAGNITUDE);
    if (p->scores) {
        copy_view(p->s, l->adapter, BL_TENSOR_SCORES);
    }
    check_ok(bl_adapter_copy_importance(l->adapter, p->g));
    plain_lengths(p);
}

/* What the whole layer gives; drop: factors [N, IN], or NULL. */
static void plain_output(const struct plain *p, const double *x, const double *drop,
                         double *y)
{
    for (int64_t t = 0; t < N; t++) {
        for (int64_t i = 0; i < OUT; i++) {
            double base = 0, u = 0, low = 0, q = p->mag[i] / p->length[i];
            for (int64_t j = 0; j < IN; j++) {
                double from = x[t * IN + j];
                base += p->w[i * IN + j] * from;
                from *= drop ? drop[t * IN + j] : 1;
                u += p->w[i * IN + j] * from;
                for (int64_t k = 0; k < RANK; k++) {
                    low += p->c * p->b[k * OUT + i] * p->g[k] * p->a[k * IN + j] * from;
                }
            }
            y[t * OUT + i] = base + (q - 1) * u + q * low;
        }
    }
}

/* The mask of a key: an adapter of the same seed whose product is the identity. */
static void read_mask(const struct layer *l, int64_t key, double *drop)
{
    bl_options  opt = default_options(BL_F64);
    bl_adapter *a = NULL;
    bl_tape    *tape = NULL;
    double      ones[N * IN];
    opt.method = BL_METHOD_LORA;
    opt.reallocation = 0;
    opt.rank = IN;
    opt.alpha = IN;
    opt.seed = l->opt.seed;
    opt.dropout = l->opt.dropout;
    check_ok(bl_adapter_create(&a, IN, IN, &opt));
    for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_B; tensor++) {
        bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
        for (int64_t i = 0; i < IN * IN; i++) {
            set_value(view.data, BL_F64, i, i / IN == i % IN);
        }
    }
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
    check_ok(bl_tape_create(&tape, a, N, 0));
    for (int64_t i = 0; i < N * IN; i++) {
        ones[i] = 1;
        drop[i] = 0;
    }
    check_ok(bl_forward(a, tape, N, drop, IN, ones, IN, key));
    bl_tape_free(tape);
    bl_adapter_free(a);
}

/* y = x W0^T, as the host leaves it */
static mat host_output(const struct layer *l, const mat *x)
{
    mat y = mat_new(l->w0.dtype, N, OUT, OUT + 1);
    for (int64_t t = 0; t < N; t++) {
        for (int64_t i = 0; i < OUT; i++) {
            double sum = 0;
            for (int64_t j = 0; j < IN; j++) {
                sum += mat_get(x, t, j) * l->w[i * IN + j];
            }
            mat_set(&y, t, i, sum);
        }
    }
    return y;
}

/* The adapter's forward gives what the formulas give for its parameters as they are. */
static void check_forward(const struct layer *l, int64_t key)
{
    struct plain p;
    double       want[N * OUT], drop[N * IN];
    mat          x = mat_random(l->w0.dtype, N, IN, IN + 3, 5);
    mat          y = host_output(l, &x);
    double      *plain_x = mat_doubles(&x);
    plain_read(&p, l);
    read_mask(l, key, drop);
    plain_output(&p, plain_x, l->opt.dropout > 0 ? drop : NULL, want);
    check_ok(bl_forward(l->adapter, l->tape, N, y.data, y.ld, x.data, x.ld, key));
    check_le(mat_error(&y, want), pass_limit(l->w0.dtype));
    mat_check_padding(&y);
    free(plain_x);
    mat_free(&x);
    mat_free(&y);
}

/* A step on some gradient. */
static void train(struct layer *l, int64_t t)
{
    mat x = mat_random(l->w0.dtype, N, IN, IN, 100 + (uint64_t) t);
    mat y = host_output(l, &x);
    mat dy = mat_random(l->w0.dtype, N, OUT, OUT, 200 + (uint64_t) t);
    check_ok(bl_forward(l->adapter, l->tape, N, y.data, y.ld, x.data, x.ld, t));
    check_ok(bl_backward(l->adapter, l->tape, N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
    check_ok(bl_step(l->adapter, 0.02, 1));
    if (bl_reallocate_due(l->adapter)) {
        check_ok(bl_reallocate(l->adapter, NULL));
    }
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
}

/* ----- forward ----- */

/* At the start magnitudes are the lengths and nothing changes, to the bit. */
START_TEST(start)
{
    int32_t      dtype = _i & 1 ? BL_F32 : BL_F64;
    struct layer l;
    struct plain p;
    layer_open(&l, _i & 2 ? BEAM | ROWS : 0, dtype);
    plain_read(&p, &l);
    check_le(error_of(p.mag, p.length, OUT), dtype == BL_F64 ? 1e-15 : 1e-7);
    mat     x = mat_random(dtype, N, IN, IN, 5);
    mat     y = host_output(&l, &x);
    double *want = mat_doubles(&y);
    check_ok(bl_group_touch(l.group));
    check_ok(bl_forward(l.adapter, l.tape, N, y.data, y.ld, x.data, x.ld, 0));
    check_le(mat_error(&y, want), 0);
    free(want);
    mat_free(&x);
    mat_free(&y);
    layer_close(&l);
}
END_TEST

START_TEST(forward)
{
    for (int32_t dtype = BL_F32; dtype <= BL_F64; dtype++) {
        struct layer l;
        layer_open(&l, _i, dtype);
        layer_randomize(&l, 1);
        check_forward(&l, 3);
        bl_tape_free(l.tape); /* the same for inference */
        check_ok(bl_tape_create(&l.tape, l.adapter, N, 0));
        check_forward(&l, 4);
        layer_close(&l);
    }
}
END_TEST

/* Blocks: of rows of activations, of W0, and of products small enough for no packing. */
START_TEST(large)
{
    enum { ROWS_N = 700, WIDE = 1100, TALL = 900 };
    bl_options opt = default_options(BL_F32);
    opt.dora = 1;
    opt.rank = 4;
    opt.dropout = _i ? 0.25 : 0;
    mat w0 = mat_random(BL_F32, TALL, WIDE, WIDE, 1);
    mat x = mat_random(BL_F32, ROWS_N, WIDE, WIDE, 2);
    mat y[2];
    opt.base = w0.data;
    bl_adapter *a = make_adapter(WIDE, TALL, &opt, 6);
    mat         merged = mat_random(BL_F32, TALL, WIDE, WIDE, 1);
    check_ok(bl_adapter_merge(a, merged.data, merged.ld));
    for (int k = 0; k < 2; k++) { /* the merged weight's product, and the adapter's */
        const mat *w = k ? &w0 : &merged;
        y[k] = mat_new(BL_F32, ROWS_N, TALL, TALL);
        for (int64_t t = 0; t < ROWS_N; t += 97) {
            for (int64_t i = 0; i < TALL; i++) {
                double sum = 0;
                for (int64_t j = 0; j < WIDE; j++) {
                    sum += mat_get(&x, t, j) * mat_get(w, i, j);
                }
                mat_set(&y[k], t, i, sum);
            }
        }
    }
    bl_tape *tape = NULL;
    check_ok(bl_tape_create(&tape, a, ROWS_N, 1));
    check_ok(
        bl_forward(a, tape, ROWS_N, y[1].data, y[1].ld, x.data, x.ld, BL_NO_DROPOUT));
    for (int64_t t = 0; t < ROWS_N; t += 97) {
        for (int64_t i = 0; i < TALL; i++) {
            check_near(mat_get(&y[1], t, i), mat_get(&y[0], t, i), 2e-3);
        }
    }
    bl_tape_free(tape);
    bl_adapter_free(a);
    mat_free(&w0);
    mat_free(&x);
    mat_free(&merged);
    mat_free(&y[0]);
    mat_free(&y[1]);
}
END_TEST

static void hand_wide_rows(const void *user, int64_t from, int64_t rows, int64_t in,
                           void *out)
{
    memcpy(out, (const float *) user + from * in, (size_t) (rows * in) * sizeof(float));
}

/* With dropout: W0 in blocks gives what W0 in one piece gives, forward and backward. */
START_TEST(large_dropout)
{
    enum { ROWS_N = 600, WIDE = 1100, TALL = 900 };
    mat w0 = mat_random(BL_F32, TALL, WIDE, WIDE, 1);
    mat x = mat_random(BL_F32, ROWS_N, WIDE, WIDE, 2);
    mat y[2], dx[2];
    for (int k = 0; k < 2; k++) {
        bl_options opt = default_options(BL_F32);
        bl_tape   *tape = NULL;
        mat        dy = mat_random(BL_F32, ROWS_N, TALL, TALL, 4);
        opt.dora = 1;
        opt.rank = 4;
        opt.dropout = 0.25;
        opt.base = w0.data;
        opt.base_rows = k ? hand_wide_rows : NULL;
        opt.parallel_for = k ? backwards : NULL;
        bl_adapter *a = make_adapter(WIDE, TALL, &opt, 6);
        view_random(a, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, 8, 5, 20);
        check_ok(bl_group_touch(bl_adapter_get_group(a)));
        y[k] = mat_random(BL_F32, ROWS_N, TALL, TALL, 3);
        dx[k] = mat_random(BL_F32, ROWS_N, WIDE, WIDE, 5);
        check_ok(bl_tape_create(&tape, a, ROWS_N, 1));
        check_ok(bl_forward(a, tape, ROWS_N, y[k].data, y[k].ld, x.data, x.ld, 1));
        check_ok(bl_backward(a, tape, ROWS_N, dx[k].data, dx[k].ld, dy.data, dy.ld,
                             x.data, x.ld));
        bl_tape_free(tape);
        bl_adapter_free(a);
        mat_free(&dy);
    }
    double *want_y = mat_doubles(&y[0]), *want_dx = mat_doubles(&dx[0]);
    check_le(mat_error(&y[1], want_y), 1e-5);
    check_le(mat_error(&dx[1], want_dx), 1e-5);
    free(want_y);
    free(want_dx);
    for (int k = 0; k < 2; k++) {
        mat_free(&y[k]);
        mat_free(&dx[k]);
    }
    mat_free(&w0);
    mat_free(&x);
}
END_TEST

/* Lengths follow whatever changes parameters. */
START_TEST(refreshed)
{
    static const uint8_t mask[RANK] = { 1, 0, 1 };
    struct layer         l;
    layer_open(&l, _i, BL_F64);
    layer_randomize(&l, 1);
    check_forward(&l, 1);
    check_ok(bl_group_set_temperature(l.group, 0.2));
    check_forward(&l, 1);
    check_ok(bl_adapter_set_mask(l.adapter, mask));
    check_forward(&l, 1);
    check_ok(bl_adapter_set_mask(l.adapter, NULL));
    view_random(l.adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, 8, 0.5, 0);
    check_ok(bl_group_tick(l.group));
    check_forward(&l, 1);
    for (int64_t t = 1; t < 9; t++) {
        train(&l, t);
        check_forward(&l, t);
    }
    bytes        blob = save_group(l.group);
    struct layer other;
    layer_open(&other, _i, BL_F64);
    check_ok(bl_group_load(other.group, blob.data, blob.size));
    check_forward(&other, 1);
    bytes_free(&blob);
    layer_close(&other);
    if ((_i & (BEAM | ADA)) == BEAM) {
        bl_plan *plan = NULL;
        check_ok(bl_plan_create(&plan, l.group));
        check_ok(bl_plan_clear(plan, bl_group_get_step(l.group)));
        check_ok(bl_plan_add(plan, 0, 1, -1, BL_ACTION_PRUNE, -1));
        check_ok(bl_group_apply(l.group, plan));
        check_forward(&l, 1);
        bl_plan_free(plan);
    }
    layer_close(&l);
}
END_TEST

/* ----- gradients ----- */

static double loss_of(struct plain *p, const double *x, const double *drop,
                      const double *v)
{
    double y[N * OUT], sum = 0;
    plain_importance(p);
    plain_output(p, x, drop, y);
    for (int64_t i = 0; i < N * OUT; i++) {
        sum += v[i] * y[i];
    }
    return sum;
}

/* Central differences of `count` values at `at`, the lengths held. */
static void differentiate(struct plain *p, double *at, int64_t count, const double *x,
                          const double *drop, const double *v, double *out)
{
    for (int64_t i = 0; i < count; i++) {
        double here = at[i], h = 1e-5, up, down;
        at[i] = here + h;
        up = loss_of(p, x, drop, v);
        at[i] = here - h;
        down = loss_of(p, x, drop, v);
        at[i] = here;
        out[i] = (up - down) / (2 * h);
    }
    loss_of(p, x, drop, v);
}

static void check_gradient(const struct layer *l, int32_t tensor, const double *want,
                           int64_t count)
{
    double *got = view_doubles(l->adapter, tensor, BL_BUFFER_GRADIENTS);
    check_le(error_of(got, want, count), 1e-7);
    free(got);
}

/* Of the sum of v * y, the layer's whole output: A, B, s, magnitudes and x. */
static void check_gradients(struct layer *l, int64_t key)
{
    struct plain p;
    double       drop[N * IN], want[N * IN + OUT * RANK + IN * RANK];
    mat          x = mat_random(BL_F64, N, IN, IN, 5);
    mat          y = host_output(l, &x);
    mat          dy = mat_random(BL_F64, N, OUT, OUT + 2, 6);
    mat          dx = mat_new(BL_F64, N, IN, IN);
    double      *v = mat_doubles(&dy), *at = x.data, *factor = NULL;
    plain_read(&p, l);
    if (l->opt.dropout > 0) {
        read_mask(l, key, drop);
        factor = drop;
    }
    check_ok(bl_group_discard_gradients(l->group));
    mat_zero(&dx);
    check_ok(bl_forward(l->adapter, l->tape, N, y.data, y.ld, x.data, x.ld, key));
    check_ok(bl_backward(l->adapter, l->tape, N, dx.data, dx.ld, dy.data, dy.ld, x.data,
                         x.ld));
    mat_check_padding(&dy);
    for (int64_t t = 0; t < N; t++) { /* the host's own product, with the dy it got */
        for (int64_t j = 0; j < IN; j++) {
            double sum = mat_get(&dx, t, j);
            for (int64_t i = 0; i < OUT; i++) {
                sum += mat_get(&dy, t, i) * l->w[i * IN + j];
            }
            mat_set(&dx, t, j, sum);
        }
    }
    differentiate(&p, p.a, RANK * IN, at, factor, v, want);
    check_gradient(l, BL_TENSOR_A, want, RANK * IN);
    differentiate(&p, p.b, RANK * OUT, at, factor, v, want);
    check_gradient(l, BL_TENSOR_B, want, RANK * OUT);
    differentiate(&p, p.mag, OUT, at, factor, v, want);
    check_gradient(l, BL_TENSOR_MAGNITUDE, want, OUT);
    if (p.scores) {
        differentiate(&p, p.s, RANK, at, factor, v, want);
        check_gradient(l, BL_TENSOR_SCORES, want, RANK);
    }
    differentiate(&p, at, N * IN, at, factor, v, want);
    check_le(mat_error(&dx, want), 1e-7);
    free(v);
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    mat_free(&dx);
}

START_TEST(gradients)
{
    struct layer l;
    layer_open(&l, _i, BL_F64);
    layer_randomize(&l, 1);
    check_gradients(&l, 2);
    layer_close(&l);
}
END_TEST

/* The same after a training with reallocations in it. */
START_TEST(gradients_after_reallocation)
{
    struct layer l;
    layer_open(&l, _i, BL_F64);
    for (int64_t t = 0; t < 10; t++) {
        train(&l, t);
    }
    ck_assert_int_eq(bl_group_get_step(l.group), 10);
    check_gradients(&l, 2);
    layer_close(&l);
}
END_TEST

/* Gradients add up over calls; the second call's are those of a fresh one. */
START_TEST(accumulate)
{
    struct layer l;
    layer_open(&l, _i, BL_F64);
    layer_randomize(&l, 1);
    mat     x = mat_random(BL_F64, N, IN, IN, 5);
    double *once = NULL;
    for (int k = 0; k < 2; k++) {
        mat y = host_output(&l, &x);
        mat dy = mat_random(BL_F64, N, OUT, OUT, 6);
        check_ok(bl_forward(l.adapter, l.tape, N, y.data, y.ld, x.data, x.ld, 1));
        check_ok(
            bl_backward(l.adapter, l.tape, N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
        double *now = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_GRADIENTS);
        for (int64_t i = 0; once != NULL && i < OUT; i++) {
            now[i] /= 2;
        }
        check_le(once == NULL ? 0 : error_of(now, once, OUT), 1e-14);
        free(once);
        once = now;
        mat_free(&y);
        mat_free(&dy);
    }
    free(once);
    mat_free(&x);
    layer_close(&l);
}
END_TEST

/* A frozen adapter still rescales what it passes on, and stays what it is. */
START_TEST(frozen)
{
    struct layer l;
    layer_open(&l, _i & ~DROPOUT, BL_F64);
    layer_randomize(&l, 1);
    struct plain p;
    plain_read(&p, &l);
    check_ok(bl_adapter_set_frozen(l.adapter, 1));
    mat     x = mat_random(BL_F64, N, IN, IN, 5);
    mat     y = host_output(&l, &x);
    mat     dy = mat_random(BL_F64, N, OUT, OUT, 6);
    double *want = mat_doubles(&dy);
    for (int64_t i = 0; i < N * OUT; i++) {
        want[i] *= p.mag[i % OUT] / p.length[i % OUT];
    }
    check_ok(bl_forward(l.adapter, l.tape, N, y.data, y.ld, x.data, x.ld, 1));
    check_ok(bl_backward(l.adapter, l.tape, N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
    check_le(mat_error(&dy, want), 1e-13);
    check_ok(bl_step(l.adapter, 0.1, 1));
    double *mag = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    check_le(error_of(mag, p.mag, OUT), 0);
    check_forward(&l, 1);
    free(mag);
    free(want);
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    layer_close(&l);
}
END_TEST

/* The first step of AdamW is lr in the gradient's direction: the plain lr, whatever the
 * ratios of B and s are, after the decay. */
START_TEST(step)
{
    struct layer l;
    layer_open(&l, _i, BL_F64);
    bl_tape_free(l.tape);
    bl_group_free(l.group);
    l.opt.b_lr_ratio = 3;
    l.opt.score_lr_ratio = 5;
    l.opt.weight_decay = 0.25;
    layer_group(&l);
    layer_randomize(&l, 1);
    double *before = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    mat     x = mat_random(BL_F64, N, IN, IN, 5);
    mat     y = host_output(&l, &x);
    mat     dy = mat_random(BL_F64, N, OUT, OUT, 6);
    check_ok(bl_forward(l.adapter, l.tape, N, y.data, y.ld, x.data, x.ld, 1));
    check_ok(bl_backward(l.adapter, l.tape, N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
    double *d = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_GRADIENTS);
    check_ok(bl_step(l.adapter, 0.01, 1));
    double *after = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    for (int64_t i = 0; i < OUT; i++) {
        double want = before[i] * (1 - 0.01 * 0.25) - 0.01 * (d[i] > 0 ? 1 : -1);
        check_near(after[i], want, 1e-7);
    }
    free(before);
    free(after);
    free(d);
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    layer_close(&l);
}
END_TEST

/* A row of W that is zero keeps its magnitude: ratio 1, no gradient. */
START_TEST(zero_row)
{
    struct layer l;
    memset(&l, 0, sizeof l);
    bl_options opt = default_options(BL_F64);
    double w0[4] = { 0, 0, 3, 4 }, x[2] = { 1, 2 }, y[2] = { 0, 11 }, dy[2] = { 1, 1 };
    opt.dora = 1;
    opt.rank = 2;
    opt.base = w0;
    bl_tape *tape = NULL;
    check_ok(bl_adapter_create(&l.adapter, 2, 2, &opt));
    check_ok(bl_tape_create(&tape, l.adapter, 1, 1));
    double *mag = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    check_near(mag[0], 0, 0);
    check_near(mag[1], 5, 0);
    check_ok(bl_forward(l.adapter, tape, 1, y, 2, x, 2, BL_NO_DROPOUT));
    check_near(y[0], 0, 0);
    check_near(y[1], 11, 0);
    check_ok(bl_backward(l.adapter, tape, 1, NULL, 0, dy, 2, x, 2));
    check_near(dy[0], 1, 0);
    double *d = view_doubles(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_GRADIENTS);
    check_near(d[0], 0, 0);
    check_near(d[1], 11.0 / 5, 1e-15);
    free(mag);
    free(d);
    bl_tape_free(tape);
    bl_adapter_free(l.adapter);
}
END_TEST

/* ----- merge and state ----- */

/* merge(W0) x = forward(x), and unmerge brings W0 back. */
START_TEST(merge)
{
    struct layer l;
    layer_open(&l, _i & ~DROPOUT, BL_F64);
    layer_randomize(&l, 1);
    mat x = mat_random(BL_F64, N, IN, IN, 5);
    mat y = host_output(&l, &x);
    mat w = mat_random(BL_F64, OUT, IN, LD, 77);
    check_ok(bl_forward(l.adapter, l.tape, N, y.data, y.ld, x.data, x.ld, 0));
    check_ok(bl_adapter_merge(l.adapter, w.data, w.ld));
    mat_check_padding(&w);
    double want[N * OUT];
    for (int64_t t = 0; t < N; t++) {
        for (int64_t i = 0; i < OUT; i++) {
            want[t * OUT + i] = 0;
            for (int64_t j = 0; j < IN; j++) {
                want[t * OUT + i] += mat_get(&x, t, j) * mat_get(&w, i, j);
            }
        }
    }
    check_le(mat_error(&y, want), 1e-13);
    check_ok(bl_adapter_unmerge(l.adapter, w.data, w.ld));
    check_le(mat_error(&w, l.w), 1e-13);
    bl_view mag = view_of(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    set_value(mag.data, mag.dtype, 2, 0);
    check_ok(bl_group_touch(l.group));
    check_fails(bl_adapter_unmerge(l.adapter, w.data, w.ld), BL_E_STATE);
    check_le(mat_error(&w, l.w), 1e-13);
    check_ok(bl_adapter_merge(l.adapter, w.data, w.ld));
    check_near(mat_get(&w, 2, 0), 0, 0);
    double folded[RANK * (IN + OUT)];
    check_fails(bl_adapter_fold(l.adapter, folded, IN, folded + RANK * IN, RANK),
                BL_E_STATE);
    mat_free(&x);
    mat_free(&y);
    mat_free(&w);
    layer_close(&l);
}
END_TEST

/* Interrupted after `t` steps and resumed: the same bytes at the end. */
START_TEST(resume)
{
    struct layer whole;
    layer_open(&whole, _i, BL_F32);
    for (int64_t t = 0; t < 12; t++) {
        train(&whole, t);
    }
    bytes want = save_group(whole.group);
    for (int64_t stop = 1; stop < 12; stop += 5) {
        struct layer first, second;
        layer_open(&first, _i, BL_F32);
        layer_open(&second, _i, BL_F32);
        for (int64_t t = 0; t < stop; t++) {
            train(&first, t);
        }
        bytes blob = save_group(first.group);
        check_ok(bl_group_load(second.group, blob.data, blob.size));
        for (int64_t t = stop; t < 12; t++) {
            train(&second, t);
        }
        bytes got = save_group(second.group);
        ck_assert(bytes_equal(&got, &want));
        bytes_free(&got);
        bytes_free(&blob);
        layer_close(&first);
        layer_close(&second);
    }
    bytes_free(&want);
    layer_close(&whole);
}
END_TEST

/* Names in the state; a group without DoRA refuses it by name. */
START_TEST(state)
{
    static const char *const names[] = { "adapter.0.magnitude", "adapter.0.magnitude.m",
                                         "adapter.0.magnitude.v" };
    struct layer             l;
    layer_open(&l, _i, BL_F64);
    for (int k = 0; k < 3; k++) {
        int found = 0;
        for (int64_t i = 0; i < bl_group_get_state_count(l.group); i++) {
            bl_array array;
            check_ok(bl_group_get_state(l.group, i, &array));
            if (strcmp(array.name, names[k]) == 0) {
                ck_assert_int_eq(array.shape[0], 1);
                ck_assert_int_eq(array.shape[1], OUT);
                found++;
            }
        }
        ck_assert_int_eq(found, 1);
    }
    bytes      blob = save_group(l.group);
    bl_options opt = l.opt;
    opt.dora = 0;
    bl_adapter *plain = NULL;
    check_ok(bl_adapter_create(&plain, IN, OUT, &opt));
    check_fails(bl_group_load(bl_adapter_get_group(plain), blob.data, blob.size),
                BL_E_OPTIONS);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "dora is 1 in the state, 0"));
    bl_view view;
    check_fails(bl_adapter_get_view(plain, BL_TENSOR_MAGNITUDE, 0, &view), BL_E_ARG);
    bl_adapter_free(plain);
    bytes_free(&blob);
    layer_close(&l);
}
END_TEST

/* ----- refusals ----- */

START_TEST(refused)
{
    bl_options  opt = default_options(BL_F32);
    bl_adapter *a = NULL;
    float       w0[6] = { 1, 2, 3, 4, 5, 6 };
    opt.dora = 1;
    check_fails(bl_adapter_create(&a, 3, 2, &opt), BL_E_OPTIONS);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "spec 0 has no base"));
    opt.base = w0;
    opt.ldbase = 2;
    check_fails(bl_adapter_create(&a, 3, 2, &opt), BL_E_RANGE);
    opt.ldbase = 3;
    w0[4] = (float) NAN;
    check_fails(bl_adapter_create(&a, 3, 2, &opt), BL_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "row 1 of adapter.0"));
    w0[4] = (float) INFINITY;
    check_fails(bl_adapter_create(&a, 3, 2, &opt), BL_E_NONFINITE);
    ck_assert_ptr_null(a);
    w0[4] = 5;
    check_ok(bl_adapter_create(&a, 3, 2, &opt));
    bl_adapter_free(a);
    opt.dora = 0; /* then it is not looked at */
    opt.base = NULL;
    opt.ldbase = -1;
    check_ok(bl_adapter_create(&a, 3, 2, &opt));
    bl_adapter_free(a);
}
END_TEST

/* The query counts what DoRA takes. */
struct count {
    size_t live;
};

static void *count_alloc(void *user, size_t size)
{
    struct count *count = user;
    size_t       *p = malloc(size + 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0xA5, size + 64);
    *p = size;
    count->live += size;
    return (char *) p + 64;
}

static void count_free(void *user, void *pointer)
{
    struct count *count = user;
    size_t       *p = (void *) ((char *) pointer - 64);
    count->live -= *p;
    free(p);
}

START_TEST(memory)
{
    struct layer l;
    struct count count = { 0 };
    bl_memory    m = { .size = sizeof m };
    layer_open(&l, _i, BL_F32);
    bl_spec spec = make_spec(IN, OUT, 0);
    spec.base = _i & ROWS ? (const void *) &l.base : l.w0.data;
    spec.ldbase = LD;
    l.opt.alloc = count_alloc;
    l.opt.free = count_free;
    l.opt.alloc_user = &count;
    bl_group *group = NULL;
    bl_tape  *tape = NULL;
    check_ok(bl_memory_query(&spec, 1, &l.opt, N, &m));
    ck_assert_uint_eq(count.live, 0);
    check_ok(bl_group_create(&group, &spec, 1, &l.opt));
    check_ok(bl_tape_create(&tape, bl_group_get_adapter(group, 0), N, 1));
    ck_assert_uint_eq(count.live, m.total);
    bl_tape_free(tape);
    bl_group_free(group);
    ck_assert_uint_eq(count.live, 0);
    layer_close(&l);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dora");
    TCase *passes = tcase_create("passes");
    tcase_add_loop_test(passes, start, 0, 4);
    tcase_add_loop_test(passes, forward, 0, VARIANTS);
    tcase_add_loop_test(passes, large, 0, 2);
    tcase_add_test(passes, large_dropout);
    tcase_add_loop_test(passes, refreshed, 0, VARIANTS);
    tcase_add_loop_test(passes, gradients, 0, VARIANTS);
    tcase_add_loop_test(passes, gradients_after_reallocation, 0, VARIANTS);
    tcase_add_loop_test(passes, accumulate, 0, 4);
    tcase_add_loop_test(passes, frozen, 0, 2);
    tcase_add_loop_test(passes, step, 0, 2);
    tcase_add_test(passes, zero_row);
    suite_add_tcase(suite, passes);
    TCase *rest = tcase_create("rest");
    tcase_add_loop_test(rest, merge, 0, 2);
    tcase_add_loop_test(rest, resume, 0, VARIANTS);
    tcase_add_loop_test(rest, state, 0, 2);
    tcase_add_test(rest, refused);
    tcase_add_loop_test(rest, memory, 0, 8);
    suite_add_tcase(suite, rest);
    return suite;
}
