/*
 * Shared by all suites: main, poisoned matrices, safe comparison, a generator of
 * numbers. A suite includes this and defines make_suite().
 */
#ifndef BEAMLORA_TEST_CHECK_MAIN_H
#define BEAMLORA_TEST_CHECK_MAIN_H

#include "beamlora.h"

#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Suite *make_suite(void);

int main(void)
{
    SRunner *runner = srunner_create(make_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ===== Comparing ========================================================== */

/* Written so that NaN fails. */
#define check_le(error, limit)                                                           \
    do {                                                                                 \
        double check_error_ = (error);                                                   \
        double check_limit_ = (limit);                                                   \
        ck_assert_msg(check_error_ <= check_limit_, "%s is %.17g, must be <= %.3g",      \
                      #error, check_error_, check_limit_);                               \
    } while (0)

#define check_near(value, want, limit)                                                   \
    do {                                                                                 \
        double check_value_ = (value);                                                   \
        double check_want_ = (want);                                                     \
        ck_assert_msg(fabs(check_value_ - check_want_) <= (limit),                       \
                      "%s is %.17g, must be %.17g to %g", #value, check_value_,          \
                      check_want_, (double) (limit));                                    \
    } while (0)

#define check_ok(call)                                                                   \
    do {                                                                                 \
        int check_rc_ = (call);                                                          \
        ck_assert_msg(check_rc_ == 0, "%s returned %d: %s", #call, check_rc_,            \
                      bl_last_error());                                                  \
    } while (0)

#define check_fails(call, code)                                                          \
    do {                                                                                 \
        int check_rc_ = (call);                                                          \
        ck_assert_msg(check_rc_ == (code), "%s returned %d (%s), must be %s", #call,     \
                      check_rc_, check_rc_ < 0 ? bl_last_error() : "ok", #code);         \
    } while (0)

/* ===== Numbers ============================================================ */

/* Uniform in (-1, 1), a function of (seed, index): splitmix64. */
static inline double noise(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0x9E3779B97F4A7C15u + (index + 1) * 0xD1B54A32D192ED03u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return ((double) (z >> 11) + 0.5) / 4503599627370496.0 - 1.0;
}

static inline double get_value(const void *data, int32_t dtype, int64_t index)
{
    return dtype == BL_F64 ? ((const double *) data)[index]
                           : (double) ((const float *) data)[index];
}

static inline void set_value(void *data, int32_t dtype, int64_t index, double value)
{
    if (dtype == BL_F64) {
        ((double *) data)[index] = value;
    } else {
        ((float *) data)[index] = (float) value;
    }
}

static inline size_t dtype_bytes(int32_t dtype)
{
    return dtype == BL_F64 ? sizeof(double) : sizeof(float);
}

/* Limit for one pass of a kernel whose sums have `terms` terms. */
static inline double pass_limit(int32_t dtype)
{
    return dtype == BL_F64 ? 1e-12 : 2e-5;
}

/* calloc that cannot fail, and that takes 0. */
static inline void *must_alloc(int64_t count, size_t size)
{
    void *p = calloc(count > 0 ? (size_t) count : 1, size);
    ck_assert_ptr_nonnull(p);
    return p;
}

static inline double *must_doubles(int64_t count)
{
    return must_alloc(count, sizeof(double));
}

/* max|x - ref| / max|ref| of two plain arrays; NaN if anything is. */
static inline double error_of(const double *x, const double *ref, int64_t count)
{
    double worst = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        double e = fabs(x[i] - ref[i]);
        if (isnan(e)) {
            return (double) NAN;
        }
        worst = e > worst ? e : worst;
        size = fabs(ref[i]) > size ? fabs(ref[i]) : size;
    }
    return size > 0 ? worst / size : worst;
}

/* ===== Matrices whose outside is poisoned ================================= */

#define MAT_GUARD 9 /* poisoned elements after the last row */

typedef struct mat {
    void   *data;
    int64_t rows, cols, ld;
    int32_t dtype;
} mat;

static inline int64_t mat_extent(const mat *m)
{
    return m->rows * m->ld + MAT_GUARD;
}

/* All NaN. */
static inline mat mat_new(int32_t dtype, int64_t rows, int64_t cols, int64_t ld)
{
    mat m = { NULL, rows, cols, ld, dtype };
    m.data = must_alloc(mat_extent(&m), dtype_bytes(dtype));
    for (int64_t i = 0; i < mat_extent(&m); i++) {
        set_value(m.data, dtype, i, (double) NAN);
    }
    return m;
}

static inline void mat_free(mat *m)
{
    free(m->data);
    m->data = NULL;
}

static inline double mat_get(const mat *m, int64_t i, int64_t j)
{
    return get_value(m->data, m->dtype, i * m->ld + j);
}

static inline void mat_set(mat *m, int64_t i, int64_t j, double value)
{
    set_value(m->data, m->dtype, i * m->ld + j, value);
}

static inline void mat_zero(mat *m)
{
    for (int64_t i = 0; i < m->rows; i++) {
        for (int64_t j = 0; j < m->cols; j++) {
            mat_set(m, i, j, 0);
        }
    }
}

static inline mat mat_random(int32_t dtype, int64_t rows, int64_t cols, int64_t ld,
                             uint64_t seed)
{
    mat m = mat_new(dtype, rows, cols, ld);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            mat_set(&m, i, j, noise(seed, (uint64_t) (i * cols + j)));
        }
    }
    return m;
}

/* Packed copy in double. */
static inline double *mat_doubles(const mat *m)
{
    double *out = must_doubles(m->rows * m->cols);
    for (int64_t i = 0; i < m->rows; i++) {
        for (int64_t j = 0; j < m->cols; j++) {
            out[i * m->cols + j] = mat_get(m, i, j);
        }
    }
    return out;
}

/* The padding and the guard are as mat_new left them. */
static inline void mat_check_padding(const mat *m)
{
    for (int64_t i = 0; i < m->rows; i++) {
        for (int64_t j = m->cols; j < m->ld; j++) {
            ck_assert_msg(isnan(mat_get(m, i, j)), "padding written at row %d, column %d",
                          (int) i, (int) j);
        }
    }
    for (int64_t i = m->rows * m->ld; i < mat_extent(m); i++) {
        ck_assert_msg(isnan(get_value(m->data, m->dtype, i)), "written past the end");
    }
}

/* max|m - ref| / max|ref|, ref packed. */
static inline double mat_error(const mat *m, const double *ref)
{
    double *x = mat_doubles(m);
    double  error = error_of(x, ref, m->rows * m->cols);
    free(x);
    return error;
}

/* ===== Views ============================================================== */

static inline bl_view view_of(bl_adapter *adapter, int32_t tensor, int32_t buffer)
{
    bl_view view;
    memset(&view, 0, sizeof view);
    check_ok(bl_adapter_get_view(adapter, tensor, buffer, &view));
    return view;
}

/* A tensor of an adapter, packed, in double. */
static inline double *view_doubles(bl_adapter *adapter, int32_t tensor, int32_t buffer)
{
    bl_view view = view_of(adapter, tensor, buffer);
    double *out = must_doubles(view.rows * view.cols);
    for (int64_t i = 0; i < view.rows; i++) {
        for (int64_t j = 0; j < view.cols; j++) {
            out[i * view.cols + j] = get_value(view.data, view.dtype, i * view.ld + j);
        }
    }
    return out;
}

static inline void view_write(bl_adapter *adapter, int32_t tensor, int32_t buffer,
                              const double *values)
{
    bl_view view = view_of(adapter, tensor, buffer);
    for (int64_t i = 0; i < view.rows; i++) {
        for (int64_t j = 0; j < view.cols; j++) {
            set_value(view.data, view.dtype, i * view.ld + j, values[i * view.cols + j]);
        }
    }
}

/* Fills a tensor with noise times scale plus shift. */
static inline void view_random(bl_adapter *adapter, int32_t tensor, int32_t buffer,
                               uint64_t seed, double scale, double shift)
{
    bl_view view = view_of(adapter, tensor, buffer);
    for (int64_t i = 0; i < view.rows; i++) {
        for (int64_t j = 0; j < view.cols; j++) {
            double value = shift + scale * noise(seed, (uint64_t) (i * view.cols + j));
            set_value(view.data, view.dtype, i * view.ld + j, value);
        }
    }
}

/* Random A, B and (small) scores, so that nothing is zero or equal by chance. */
static inline void randomize(bl_adapter *adapter, uint64_t seed)
{
    bl_view view;
    view_random(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, seed, 1, 0);
    view_random(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, seed + 1000, 1, 0);
    if (bl_adapter_get_view(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, &view) ==
        0) {
        view_random(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, seed + 2000, 0.04,
                    0);
    }
    check_ok(bl_group_touch(bl_adapter_get_group(adapter)));
}

static inline bl_options default_options(int32_t dtype)
{
    bl_options opt;
    check_ok(bl_options_init(&opt, sizeof opt));
    opt.parameter_dtype = dtype;
    opt.activation_dtype = dtype;
    opt.total_steps = 120;
    return opt;
}

static inline bl_spec make_spec(int64_t in, int64_t out, int64_t rank)
{
    bl_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.size = sizeof spec;
    spec.in_features = in;
    spec.out_features = out;
    spec.rank = rank;
    return spec;
}

/* One random adapter. */
static inline bl_adapter *make_adapter(int64_t in, int64_t out, const bl_options *opt,
                                       uint64_t seed)
{
    bl_adapter *adapter = NULL;
    check_ok(bl_adapter_create(&adapter, in, out, opt));
    randomize(adapter, seed);
    return adapter;
}

/*
 * The factors that dropout puts on x, [n, in], read off through A = B = I:
 * y = c drop(x), with x all ones.
 */
static inline double *read_mask(const bl_options *base, int64_t n, int64_t in,
                                int64_t pad, int64_t key)
{
    bl_options opt = *base;
    opt.rank = in;
    opt.alpha = (double) in;
    opt.method = BL_METHOD_LORA;
    opt.reallocation = 0;
    opt.capacity = 0;
    opt.budget = 0;
    opt.scope = BL_SCOPE_MODULE;
    opt.dora = 0;
    bl_adapter *a = NULL;
    bl_tape    *tape = NULL;
    check_ok(bl_adapter_create(&a, in, in, &opt));
    double *eye = must_doubles(in * in);
    for (int64_t i = 0; i < in; i++) {
        eye[i * in + i] = 1;
    }
    view_write(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS, eye);
    view_write(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS, eye);
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
    check_ok(bl_tape_create(&tape, a, n, 1));
    mat x = mat_new(opt.parameter_dtype, n, in, in + pad);
    mat y = mat_new(opt.parameter_dtype, n, in, in + pad);
    mat_zero(&y);
    for (int64_t i = 0; i < n * in; i++) {
        mat_set(&x, i / in, i % in, 1);
    }
    check_ok(bl_forward(a, tape, n, y.data, y.ld, x.data, x.ld, key));
    double *mask = mat_doubles(&y);
    mat_free(&x);
    mat_free(&y);
    free(eye);
    bl_tape_free(tape);
    bl_adapter_free(a);
    return mask;
}

/* ===== The bytes of a group's state ======================================= */

typedef struct bytes {
    unsigned char *data;
    size_t         size, room;
} bytes;

static inline int bytes_write(void *user, const void *data, size_t size)
{
    bytes *b = user;
    if (b->size + size > b->room) {
        b->room = 2 * (b->size + size);
        b->data = realloc(b->data, b->room);
        ck_assert_ptr_nonnull(b->data);
    }
    if (size > 0) {
        memcpy(b->data + b->size, data, size);
    }
    b->size += size;
    return 0;
}

static inline bytes save_group(const bl_group *group)
{
    bytes b = { NULL, 0, 0 };
    check_ok(bl_group_save(group, bytes_write, &b));
    return b;
}

static inline void bytes_free(bytes *b)
{
    free(b->data);
    b->data = NULL;
}

static inline int bytes_equal(const bytes *a, const bytes *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

#endif
