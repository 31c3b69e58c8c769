/*
 * A layer with DoRA, alone, with scores or AdaLoRA's values, and a plain copy of its
 * formulas that makes W whole.
 */
#ifndef BEAMLORA_TEST_DORA_LAYER_H
#define BEAMLORA_TEST_DORA_LAYER_H

#include "check_main.h"
#include "ref.h"

#define N 5
#define IN 7
#define OUT 6
#define RANK 3
#define LD (IN + 2) /* of W0 */

/* ----- the layer under test ----- */

enum {
    BEAM = 1,
    DROPOUT = 2,
    ROWS = 4,
    PARALLEL = 8,
    ADA = 16,
    LEFT = 32, /* y is left for the backward */
    VARIANTS = 64
};

/* W0 for base_rows. */
struct base {
    const double *w; /* [OUT, IN] */
    int32_t       dtype;
};

static inline void hand_rows(const void *user, int64_t from, int64_t rows, int64_t in,
                             void *out)
{
    const struct base *base = user;
    ck_assert_int_eq(in, IN);
    ck_assert(from >= 0 && rows > 0 && from + rows <= OUT);
    for (int64_t i = 0; i < rows * in; i++) {
        set_value(out, base->dtype, i, base->w[from * in + i]);
    }
}

static inline void backwards(void *user, int64_t count, bl_task_fn task, void *context)
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
    int32_t     keep;
    bl_group   *group;
    bl_adapter *adapter;
    bl_tape    *tape;
};

static inline void layer_group(struct layer *l)
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
    check_ok(bl_tape_create(&l->tape, l->adapter, N, l->keep));
}

static inline void layer_open(struct layer *l, int variant, int32_t dtype)
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
    l->keep = variant & LEFT ? BL_KEEP_BUT_Y : BL_KEEP_ALL;
    layer_group(l);
}

static inline void layer_close(struct layer *l)
{
    bl_tape_free(l->tape);
    bl_group_free(l->group);
    mat_free(&l->w0);
}

/* Also magnitudes that are not the lengths. */
static inline void layer_randomize(struct layer *l, uint64_t seed)
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

static inline void plain_importance(struct plain *p)
{
    if (p->adalora) {
        memcpy(p->g, p->s, sizeof p->g);
    } else if (p->scores) {
        ref_importance(RANK, p->s, p->tau, NULL, p->g);
    }
}

static inline void plain_lengths(struct plain *p)
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

static inline void copy_view(double *to, bl_adapter *a, int32_t tensor)
{
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    for (int64_t i = 0; i < view.rows * view.cols; i++) {
        to[i] = get_value(view.data, view.dtype, i);
    }
}

static inline void plain_read(struct plain *p, const struct layer *l)
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
static inline void plain_output(const struct plain *p, const double *x,
                                const double *drop, double *y)
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

/* y = x W0^T, as the host leaves it */
static inline mat host_output(const struct layer *l, const mat *x)
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
static inline void check_forward(const struct layer *l, int64_t key)
{
    struct plain p;
    double       want[N * OUT];
    mat          x = mat_random(l->w0.dtype, N, IN, IN + 3, 5);
    mat          y = host_output(l, &x);
    double      *plain_x = mat_doubles(&x);
    plain_read(&p, l);
    double *drop = read_mask(&l->opt, N, IN, 0, key);
    plain_output(&p, plain_x, l->opt.dropout > 0 ? drop : NULL, want);
    check_ok(bl_forward(l->adapter, l->tape, N, y.data, y.ld, x.data, x.ld, key));
    check_le(mat_error(&y, want), pass_limit(l->w0.dtype));
    mat_check_padding(&y);
    free(plain_x);
    free(drop);
    mat_free(&x);
    mat_free(&y);
}

/* A step on some gradient. */
static inline void train(struct layer *l, int64_t t)
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

#endif
