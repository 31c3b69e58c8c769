/* AdamW against the reference; scale, ratios, norms, what a bad gradient leaves alone. */
#include "../ref/ref.h"
#include "check_main.h"

static const int32_t dtypes[] = { BL_F32, BL_F64 };

/* Random gradients, as a backward would leave them: n = 1 forward and backward. */
static void backward(bl_adapter *a, uint64_t seed)
{
    int64_t    in = bl_adapter_get_in(a), out = bl_adapter_get_out(a);
    bl_options opt;
    opt.size = sizeof opt;
    check_ok(bl_group_copy_options(bl_adapter_get_group(a), &opt));
    int32_t  dtype = opt.parameter_dtype;
    bl_tape *tape = NULL;
    check_ok(bl_tape_create(&tape, a, 3, 1));
    mat x = mat_random(dtype, 3, in, in, seed), y = mat_new(dtype, 3, out, out);
    mat dy = mat_random(dtype, 3, out, out, seed + 1);
    mat_zero(&y);
    check_ok(bl_forward(a, tape, 3, y.data, out, x.data, in, BL_NO_DROPOUT));
    check_ok(bl_backward(a, tape, 3, NULL, 0, dy.data, out, x.data, in));
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    bl_tape_free(tape);
}

/* Six steps of three modules, with decay, a changing lr, grad_scale and both ratios. */
START_TEST(against_reference)
{
    int32_t    dtype = dtypes[_i & 1];
    bl_options opt = default_options(dtype);
    int        beam = !(_i & 2);
    opt.method = beam ? BL_METHOD_BEAMLORA : BL_METHOD_LORA;
    opt.reallocation = 0;
    opt.beta1 = 0.8;
    opt.beta2 = 0.95;
    opt.epsilon = 1e-6;
    opt.weight_decay = 0.1;
    opt.b_lr_ratio = 3;
    opt.score_lr_ratio = 0.25;
    bl_spec specs[3];
    specs[0] = make_spec(5, 7, 3);
    specs[1] = make_spec(1, 1, 1);
    specs[2] = make_spec(33, 4, 6);
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, 3, &opt));
    double *p[3][3], *m[3][3], *v[3][3];
    int     tensors = beam ? 3 : 2;
    for (int k = 0; k < 3; k++) {
        randomize(bl_group_get_adapter(group, k), (uint64_t) k);
        for (int32_t w = 0; w < tensors; w++) {
            p[k][w] =
                view_doubles(bl_group_get_adapter(group, k), w, BL_BUFFER_PARAMETERS);
            m[k][w] = view_doubles(bl_group_get_adapter(group, k), w, BL_BUFFER_M);
            v[k][w] = view_doubles(bl_group_get_adapter(group, k), w, BL_BUFFER_V);
        }
    }
    for (int64_t t = 1; t <= 6; t++) {
        ref_adamw o = { 0.02 / (double) t, 0.8, 0.95, 1e-6, 0.1, t % 2 ? 0.5 : -2 };
        double    base = o.lr;
        for (int k = 0; k < 3; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            if (!(t == 4 && k == 0)) { /* once no backward: gradient zero */
                backward(a, (uint64_t) (10 * t + k));
            }
            for (int32_t w = 0; w < tensors; w++) {
                bl_view view = view_of(a, w, BL_BUFFER_GRADIENTS);
                double *g = view_doubles(a, w, BL_BUFFER_GRADIENTS);
                o.lr = base * (w == BL_TENSOR_B ? 3 : w == BL_TENSOR_SCORES ? 0.25 : 1);
                ref_step(&o, t, view.rows * view.cols, p[k][w], m[k][w], v[k][w], g);
                free(g);
            }
        }
        check_ok(bl_group_step(group, base, o.grad_scale));
        ck_assert_int_eq(bl_group_get_step(group), t);
        double limit = dtype == BL_F64 ? 1e-12 : 1e-5;
        for (int k = 0; k < 3; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            for (int32_t w = 0; w < tensors; w++) {
                bl_view view = view_of(a, w, BL_BUFFER_PARAMETERS);
                int64_t count = view.rows * view.cols;
                double *want[3] = { p[k][w], m[k][w], v[k][w] };
                for (int b = 0; b < 3; b++) {
                    double *got = view_doubles(
                        a, w, b == 0 ? BL_BUFFER_PARAMETERS : BL_BUFFER_M + b - 1);
                    check_le(error_of(got, want[b], count), limit);
                    /* Go on from the library's, so that errors do not pile up. */
                    memcpy(want[b], got, (size_t) count * sizeof(double));
                    free(got);
                }
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        for (int w = 0; w < tensors; w++) {
            free(p[k][w]);
            free(m[k][w]);
            free(v[k][w]);
        }
    }
    bl_group_free(group);
}
END_TEST

/* Views of the whole: packed by adapter, aligned, padding zero also after steps. */
START_TEST(layout)
{
    for (int d = 0; d < 2; d++) {
        bl_options opt = default_options(dtypes[d]);
        opt.weight_decay = 0.1;
        bl_spec specs[3];
        specs[0] = make_spec(5, 7, 3);
        specs[1] = make_spec(2, 3, 1);
        specs[2] = make_spec(9, 4, 5);
        bl_group *group = NULL;
        check_ok(bl_group_create(&group, specs, 3, &opt));
        for (int k = 0; k < 3; k++) {
            randomize(bl_group_get_adapter(group, k), (uint64_t) k);
            backward(bl_group_get_adapter(group, k), (uint64_t) k);
        }
        size_t size = dtype_bytes(dtypes[d]);
        for (int round = 0; round < 2; round++) {
            for (int32_t b = BL_BUFFER_PARAMETERS; b <= BL_BUFFER_V; b++) {
                bl_view all;
                check_ok(bl_group_get_view(group, b, &all));
                ck_assert_int_eq(all.rows, 1);
                ck_assert_int_eq(all.dtype, dtypes[d]);
                ck_assert_uint_eq((uintptr_t) all.data % 64, 0);
                int64_t inside = 0, nonzero = 0, nonzero_inside = 0;
                for (int k = 0; k < 3; k++) {
                    for (int32_t w = 0; w < 3; w++) {
                        bl_view v = view_of(bl_group_get_adapter(group, k), w, b);
                        int64_t offset =
                            ((char *) v.data - (char *) all.data) / (int64_t) size;
                        ck_assert_uint_eq((uintptr_t) v.data % 64, 0);
                        ck_assert(offset >= inside);
                        ck_assert(v.ld >= v.cols);
                        inside = offset + v.rows * v.ld;
                        ck_assert(inside <= all.cols);
                        for (int64_t i = 0; i < v.rows * v.cols; i++) {
                            nonzero_inside +=
                                fabs(get_value(v.data, v.dtype,
                                               i / v.cols * v.ld + i % v.cols)) > 0;
                        }
                    }
                }
                for (int64_t i = 0; i < all.cols; i++) {
                    nonzero += fabs(get_value(all.data, all.dtype, i)) > 0;
                }
                ck_assert_int_eq(nonzero, nonzero_inside);
            }
            check_ok(bl_group_step(group, 0.1, 1));
        }
        bl_view view;
        check_fails(bl_group_get_view(group, 9, &view), BL_E_ARG);
        check_fails(bl_group_get_view(group, BL_BUFFER_ATTACHED, &view), BL_E_ARG);
        check_fails(bl_group_get_view(group, -1, &view), BL_E_ARG);
        check_fails(bl_adapter_get_view(bl_group_get_adapter(group, 0), 3, 0, &view),
                    BL_E_ARG);
        bl_group_free(group);
    }
}
END_TEST

START_TEST(norm)
{
    for (int d = 0; d < 2; d++) {
        bl_options opt = default_options(dtypes[d]);
        bl_spec    specs[2];
        specs[0] = make_spec(5, 7, 3);
        specs[1] = make_spec(12, 3, 2);
        bl_group *group = NULL;
        check_ok(bl_group_create(&group, specs, 2, &opt));
        double got = -1, want = 0;
        check_ok(bl_group_copy_gradient_norm(group, &got));
        check_near(got, 0, 0);
        for (int k = 0; k < 2; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            randomize(a, (uint64_t) k);
        }
        for (int k = 0; k < 2; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            backward(a, (uint64_t) k);
            for (int32_t w = 0; w < 3; w++) {
                bl_view v = view_of(a, w, BL_BUFFER_GRADIENTS);
                double *g = view_doubles(a, w, BL_BUFFER_GRADIENTS);
                for (int64_t i = 0; i < v.rows * v.cols; i++) {
                    want += g[i] * g[i];
                }
                free(g);
            }
        }
        check_ok(bl_group_copy_gradient_norm(group, &got));
        check_near(got, sqrt(want), 1e-12 * sqrt(want));
        /* Written by the host: beyond f32, as double sums are to be. */
        bl_view v = view_of(bl_group_get_adapter(group, 0), 0, BL_BUFFER_GRADIENTS);
        set_value(v.data, v.dtype, 0, 3e30);
        set_value(v.data, v.dtype, 1, 4e30);
        check_ok(bl_group_copy_gradient_norm(group, &got));
        check_near(got / 1e30, 5, 1e-6);
        set_value(v.data, v.dtype, 0, (double) NAN);
        check_ok(bl_group_copy_gradient_norm(group, &got));
        ck_assert(isnan(got));
        check_ok(bl_group_discard_gradients(group));
        check_ok(bl_group_copy_gradient_norm(group, &got));
        check_near(got, 0, 0);
        bl_group_free(group);
    }
}
END_TEST

/* The whole state but gradients is as it was after a step on a bad gradient. */
START_TEST(nonfinite)
{
    static const double bad[] = { NAN, INFINITY, -INFINITY };
    for (int d = 0; d < 2; d++) {
        bl_options opt = default_options(dtypes[d]);
        opt.period = 4;
        opt.history_interval = 1;
        opt.history_phase = 0;
        opt.weight_decay = 0.1;
        bl_spec specs[2];
        specs[0] = make_spec(5, 7, 3);
        specs[1] = make_spec(12, 3, 2);
        bl_group *group = NULL;
        check_ok(bl_group_create(&group, specs, 2, &opt));
        for (int k = 0; k < 2; k++) {
            randomize(bl_group_get_adapter(group, k), (uint64_t) k);
        }
        for (int64_t t = 0; t < 3; t++) {
            backward(bl_group_get_adapter(group, 0), 5);
            check_ok(bl_group_step(group, 0.01, 1));
        }
        for (int32_t w = 0; w < 3; w++) {
            for (int b = 0; b < 5; b++) {
                for (int k = 0; k < 2; k++) {
                    backward(bl_group_get_adapter(group, k), 9);
                }
                bytes   before = save_group(group);
                bl_view v =
                    view_of(bl_group_get_adapter(group, 1), w, BL_BUFFER_GRADIENTS);
                double scale = 1;
                if (b < 3) {
                    set_value(v.data, v.dtype, v.cols - 1, bad[b]);
                } else if (b == 3) { /* finite, but its square is not */
                    set_value(v.data, v.dtype, 0, dtypes[d] == BL_F64 ? 1e200 : 1e30);
                } else { /* finite until scaled */
                    set_value(v.data, v.dtype, 0, 1e15);
                    scale = dtypes[d] == BL_F64 ? 1e300 : 1e30;
                }
                check_fails(bl_group_step(group, 0.01, scale), BL_E_NONFINITE);
                bytes after = save_group(group);
                ck_assert(bytes_equal(&before, &after));
                double got = -1;
                check_ok(bl_group_copy_gradient_norm(group, &got));
                check_near(got, 0, 0); /* discarded */
                bytes_free(&before);
                bytes_free(&after);
            }
        }
        ck_assert_int_eq(bl_group_get_step(group), 3);
        check_ok(bl_group_step(group, 0.01, 1));
        bl_group_free(group);
    }
}
END_TEST

START_TEST(refused)
{
    bl_options opt = default_options(BL_F64);
    bl_spec    specs[2];
    specs[0] = make_spec(4, 4, 0);
    specs[1] = make_spec(4, 4, 0);
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, 2, &opt));
    bytes before = save_group(group);
    ck_assert_int_lt(bl_group_step(group, -0.1, 1), 0);
    ck_assert_int_lt(bl_group_step(group, (double) NAN, 1), 0);
    ck_assert_int_lt(bl_group_step(group, (double) INFINITY, 1), 0);
    ck_assert_int_lt(bl_group_step(group, 0.1, (double) NAN), 0);
    ck_assert_int_lt(bl_group_step(group, 0.1, (double) INFINITY), 0);
    check_fails(bl_group_step(NULL, 0.1, 1), BL_E_ARG);
    check_fails(bl_step(NULL, 0.1, 1), BL_E_ARG);
    check_fails(bl_step(bl_group_get_adapter(group, 0), 0.1, 1), BL_E_STATE);
    check_fails(bl_reallocate(bl_group_get_adapter(group, 0), NULL), BL_E_STATE);
    bytes after = save_group(group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    bl_adapter_free(bl_group_get_adapter(group, 0)); /* does nothing: not its own */
    ck_assert_int_eq(bl_group_get_count(group), 2);
    check_ok(bl_group_step(group, 0.1, 1));
    ck_assert_int_eq(bl_adapter_get_rank(bl_group_get_adapter(group, 0)), 8);
    bl_group_free(group);

    opt.optimizer = BL_OPTIMIZER_HOST;
    bl_adapter *a = make_adapter(4, 4, &opt, 1);
    bl_view     view;
    check_fails(bl_step(a, 0.1, 1), BL_E_STATE);
    check_fails(bl_adapter_get_view(a, BL_TENSOR_A, BL_BUFFER_M, &view), BL_E_ARG);
    check_fails(bl_adapter_get_view(a, BL_TENSOR_A, BL_BUFFER_V, &view), BL_E_ARG);
    check_ok(bl_group_tick(bl_adapter_get_group(a)));
    ck_assert_int_eq(bl_group_get_step(bl_adapter_get_group(a)), 1);
    bl_adapter_free(a);

    opt.optimizer = BL_OPTIMIZER_ADAMW;
    opt.method = BL_METHOD_LORA;
    a = make_adapter(4, 4, &opt, 1);
    check_fails(bl_adapter_get_view(a, BL_TENSOR_SCORES, 0, &view), BL_E_ARG);
    ck_assert_int_eq(bl_reallocate_due(a), 0);
    bl_adapter_free(a);
}
END_TEST

/* ----- attached arrays ----- */

static void *aligned_zeros(size_t count, size_t size)
{
    size_t bytes_ = (count * size + 63) / 64 * 64;
    void  *p = aligned_alloc(64, bytes_);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, bytes_);
    return p;
}

START_TEST(attaching)
{
    bl_options opt = default_options(BL_F32);
    opt.optimizer = BL_OPTIMIZER_HOST;
    bl_adapter *a = make_adapter(6, 5, &opt, 1);
    bl_group   *gr = bl_adapter_get_group(a);
    bl_view     all, view;
    int32_t     first = 0, second = 0;
    check_ok(bl_group_get_view(gr, 0, &all));
    float *one = aligned_zeros((size_t) all.cols, sizeof(float));
    float *two = aligned_zeros((size_t) all.cols, sizeof(float));
    ck_assert_int_lt(bl_group_attach(gr, "", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "Upper", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "a.b", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "m", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "v", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, NULL, one, 0, NULL), 0);
    ck_assert_int_lt(
        bl_group_attach(gr, "a23456789012345678901234567890123", one, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "ok", NULL, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "ok", one + 1, 0, NULL), 0);
    ck_assert_int_lt(bl_group_attach(gr, "ok", one, 7, NULL), 0);
    check_ok(bl_group_attach(gr, "momentum_1", one, BL_FRESH_ZERO, &first));
    ck_assert_int_lt(bl_group_attach(gr, "momentum_1", two, 0, NULL), 0);
    check_ok(bl_group_attach(gr, "a2345678901234567890123456789012", two, BL_FRESH_MEAN,
                             &second));
    ck_assert_int_eq(first, BL_BUFFER_ATTACHED);
    ck_assert_int_eq(second, BL_BUFFER_ATTACHED + 1);
    check_ok(bl_group_get_view(gr, second, &view));
    ck_assert_ptr_eq(view.data, two);
    ck_assert_int_eq(view.cols, all.cols);
    bl_view b = view_of(a, BL_TENSOR_B, first), pb = view_of(a, BL_TENSOR_B, 0);
    ck_assert_int_eq((char *) b.data - (char *) one,
                     (char *) pb.data - (char *) all.data);
    check_ok(bl_group_tick(gr));
    check_fails(bl_group_attach(gr, "late", two, 0, NULL), BL_E_STATE);
    bl_adapter_free(a);
    free(one);
    free(two);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("step");
    TCase *adamw = tcase_create("adamw");
    tcase_add_loop_test(adamw, against_reference, 0, 4);
    tcase_add_test(adamw, layout);
    tcase_add_test(adamw, norm);
    tcase_add_test(adamw, nonfinite);
    suite_add_tcase(suite, adamw);
    TCase *rest = tcase_create("rest");
    tcase_add_test(rest, refused);
    tcase_add_test(rest, attaching);
    suite_add_tcase(suite, rest);
    return suite;
}
