/* bl_forward against the reference, over a grid of shapes; dropout; what it refuses. */
#include "../ref/ref.h"
#include "check_main.h"

static const int32_t dtypes[] = { BL_F32, BL_F64 };

static const struct {
    int64_t n, in, out, rank, pad;
} shapes[] = {
    { 1, 1, 1, 1, 0 },
    { 1, 16, 16, 8, 0 },
    { 5, 7, 3, 2, 0 },
    { 3, 2, 3, 9, 4 },
    { 17, 33, 9, 5, 3 },
    { 64, 64, 64, 16, 0 },
    { 1, 1, 5, 3, 2 },
    { 9, 5, 1, 1, 1 },
    { 130, 31, 65, 8, 7 },
    { 2, 128, 17, 33, 1 },
    { 259, 12, 20, 4, 5 },
    { 67, 96, 80, 8, 0 },
    { 1023, 19, 23, 3, 0 },
    { 33, 300, 280, 7, 2 },
    /* several blocks of rows */
    { 140, 8200, 3, 2, 1 },
    { 131, 4, 8200, 3, 0 },

};

#define SHAPES ((int) (sizeof shapes / sizeof shapes[0]))

static double scaling_of(const bl_options *opt)
{
    return opt->alpha / (double) opt->rank;
}

/* y += c (h * g) B^T over the grid, for every dtype, both methods, keep 0 and 1. */
START_TEST(grid)
{
    int64_t n = shapes[_i].n, in = shapes[_i].in, out = shapes[_i].out;
    int64_t r = shapes[_i].rank, pad = shapes[_i].pad;
    int     step = in + out > 8000 ? 3 : 1; /* the wide ones take long */
    for (int variant = 0; variant < 8; variant += step) {
        int32_t    dtype = dtypes[variant & 1];
        bl_options opt = default_options(dtype);
        opt.rank = r;
        opt.alpha = 12;
        opt.reallocation = r > 1;
        opt.method = variant & 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        bl_adapter *a = make_adapter(in, out, &opt, 7);
        bl_tape    *tape = NULL;
        check_ok(bl_tape_create(&tape, a, n, (variant & 4) != 0));

        mat       x = mat_random(dtype, n, in, in + pad, 1);
        mat       y = mat_random(dtype, n, out, out + 2 * pad, 2);
        ref_shape z = { n, in, out, r, scaling_of(&opt), 0.05 };
        double   *want = mat_doubles(&y), *xs = mat_doubles(&x);
        double   *g = must_doubles(r), *h = must_doubles(n * r);
        double   *va = view_doubles(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        double   *vb = view_doubles(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
        if (opt.method == BL_METHOD_BEAMLORA) {
            double *s = view_doubles(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
            ref_importance(r, s, z.tau, NULL, g);
            free(s);
        } else {
            for (int64_t i = 0; i < r; i++) {
                g[i] = 1;
            }
        }
        ref_forward(&z, va, vb, g, xs, NULL, h, want);

        check_ok(bl_forward(a, tape, n, y.data, y.ld, x.data, x.ld, BL_NO_DROPOUT));
        check_le(mat_error(&y, want), pass_limit(dtype));
        mat_check_padding(&y);
        check_le(mat_error(&x, xs), 0);
        mat_check_padding(&x);

        free(want);
        free(xs);
        free(g);
        free(h);
        free(va);
        free(vb);
        mat_free(&x);
        mat_free(&y);
        bl_tape_free(tape);
        bl_adapter_free(a);
    }
}
END_TEST

/* A new adapter changes nothing: B = 0. A is within +-1/sqrt(in) and not constant. */
START_TEST(initialisation)
{
    for (int k = 0; k < 2; k++) {
        bl_options  opt = default_options(dtypes[k]);
        bl_adapter *a = NULL;
        bl_tape    *tape = NULL;
        check_ok(bl_adapter_create(&a, 50, 30, &opt));
        check_ok(bl_tape_create(&tape, a, 11, 0));
        mat     x = mat_random(dtypes[k], 11, 50, 50, 1);
        mat     y = mat_random(dtypes[k], 11, 30, 30, 2);
        double *want = mat_doubles(&y);
        check_ok(bl_forward(a, tape, 11, y.data, y.ld, x.data, x.ld, 0));
        check_le(mat_error(&y, want), 0);

        double *va = view_doubles(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        double  bound = 1 / sqrt(50.0), most = 0, sum = 0;
        for (int64_t i = 0; i < 8 * 50; i++) {
            most = fabs(va[i]) > most ? fabs(va[i]) : most;
            sum += va[i];
        }
        check_le(most, bound * (1 + 1e-6));
        ck_assert(most > 0.9 * bound);
        check_le(fabs(sum / 400), 0.1 * bound);
        double *s = view_doubles(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
        for (int64_t i = 0; i < 8; i++) {
            ck_assert(fabs(s[i]) <= 0);
        }
        free(s);
        free(va);
        free(want);
        mat_free(&x);
        mat_free(&y);
        bl_tape_free(tape);
        bl_adapter_free(a);
    }
}
END_TEST

/* The seed decides A; adapters of a group differ. */
START_TEST(seeds)
{
    bl_options opt = default_options(BL_F64);
    bl_spec    specs[2];
    specs[0] = make_spec(10, 10, 0);
    specs[1] = make_spec(10, 10, 0);
    double *a[3][2];
    for (int i = 0; i < 3; i++) {
        bl_group *group = NULL;
        opt.seed = i == 2 ? 5 : 4;
        check_ok(bl_group_create(&group, specs, 2, &opt));
        for (int k = 0; k < 2; k++) {
            a[i][k] = view_doubles(bl_group_get_adapter(group, k), BL_TENSOR_A,
                                   BL_BUFFER_PARAMETERS);
        }
        bl_group_free(group);
    }
    size_t size = 80 * sizeof(double);
    ck_assert_int_eq(memcmp(a[0][0], a[1][0], size), 0);
    ck_assert_int_eq(memcmp(a[0][1], a[1][1], size), 0);
    ck_assert_int_ne(memcmp(a[0][0], a[2][0], size), 0);
    ck_assert_int_ne(memcmp(a[0][0], a[0][1], size), 0);
    for (int i = 0; i < 6; i++) {
        free(a[i / 2][i % 2]);
    }
}
END_TEST

START_TEST(scalings)
{
    bl_options opt = default_options(BL_F64);
    opt.rank = 5;
    opt.alpha = 7;
    bl_adapter *a = make_adapter(4, 4, &opt, 1);
    check_near(bl_adapter_get_scaling(a), 7.0 / 5, 1e-15);
    bl_adapter_free(a);
    opt.scaling = BL_SCALING_RSLORA;
    opt.alpha = -3;
    a = make_adapter(4, 4, &opt, 1);
    check_near(bl_adapter_get_scaling(a), -3.0 / sqrt(5.0), 1e-15);
    bl_adapter_free(a);
}
END_TEST

/* n = 0: no pointer is looked at. */
START_TEST(nothing)
{
    bl_options  opt = default_options(BL_F32);
    bl_adapter *a = make_adapter(6, 4, &opt, 1);
    bl_tape    *tape = NULL;
    check_ok(bl_tape_create(&tape, a, 0, 1));
    check_ok(bl_forward(a, tape, 0, NULL, 4, NULL, 6, BL_NO_DROPOUT));
    check_ok(bl_backward(a, tape, 0, NULL, 6, NULL, 4, NULL, 6));
    check_ok(bl_step(a, 0.1, 1));
    bl_tape_free(tape);
    check_ok(bl_tape_create(&tape, a, 0, 0));
    check_ok(bl_forward(a, tape, 0, NULL, 4, NULL, 6, 3));
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

/* One tape, many calls: each result is that of a fresh tape. */
START_TEST(tape_again)
{
    bl_options  opt = default_options(BL_F64);
    bl_adapter *a = make_adapter(13, 9, &opt, 3);
    bl_tape    *tape = NULL;
    check_ok(bl_tape_create(&tape, a, 40, 1));
    for (int64_t n = 40; n > 0; n -= 13) {
        bl_tape *fresh = NULL;
        check_ok(bl_tape_create(&fresh, a, n, 0));
        mat x = mat_random(BL_F64, n, 13, 13, (uint64_t) n);
        mat y1 = mat_new(BL_F64, n, 9, 9), y2 = mat_new(BL_F64, n, 9, 9);
        mat_zero(&y1);
        mat_zero(&y2);
        check_ok(bl_forward(a, tape, n, y1.data, 9, x.data, 13, BL_NO_DROPOUT));
        check_ok(bl_forward(a, fresh, n, y2.data, 9, x.data, 13, BL_NO_DROPOUT));
        double *want = mat_doubles(&y2);
        check_le(mat_error(&y1, want), 1e-14);
        free(want);
        mat_free(&x);
        mat_free(&y1);
        mat_free(&y2);
        bl_tape_free(fresh);
    }
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

/* Same input, same bits. */
START_TEST(same_bits)
{
    bl_options opt = default_options(BL_F32);
    opt.dropout = 0.2;
    bl_adapter *a = make_adapter(65, 70, &opt, 3);
    bl_tape    *tape = NULL;
    check_ok(bl_tape_create(&tape, a, 100, 1));
    mat x = mat_random(BL_F32, 100, 65, 66, 5);
    mat y[2];
    for (int k = 0; k < 2; k++) {
        y[k] = mat_new(BL_F32, 100, 70, 71);
        mat_zero(&y[k]);
        check_ok(bl_forward(a, tape, 100, y[k].data, 71, x.data, 66, 9));
    }
    size_t size = 100 * 71 * sizeof(float);
    ck_assert_int_eq(memcmp(y[0].data, y[1].data, size), 0);
    mat_free(&x);
    mat_free(&y[0]);
    mat_free(&y[1]);
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

/* Entries are 0 or 1/(1 - q), in the right proportion, whatever the stride and n. */
START_TEST(dropout_mask)
{
    int64_t n = 97, in = 41;
    for (int k = 0; k < 2; k++) {
        bl_options opt = default_options(dtypes[k]);
        opt.dropout = 0.3;
        opt.seed = 11;
        double *mask = read_mask(&opt, n, in, 0, 5);
        double *same = read_mask(&opt, n, in, 3, 5);
        double *less = read_mask(&opt, 20, in, 1, 5);
        double *key = read_mask(&opt, n, in, 0, 6);
        double *none = read_mask(&opt, n, in, 0, BL_NO_DROPOUT);
        opt.seed = 12;
        double *seed = read_mask(&opt, n, in, 0, 5);
        int64_t dropped = 0, by_key = 0, by_seed = 0;
        for (int64_t i = 0; i < n * in; i++) {
            if (mask[i] > 0.5) {
                check_near(mask[i], 1 / 0.7, 1e-6);
            } else {
                ck_assert(fabs(mask[i]) <= 0);
                dropped++;
            }
            by_key += fabs(mask[i] - key[i]) > 0;
            by_seed += fabs(mask[i] - seed[i]) > 0;
            check_near(same[i], mask[i], 1e-6);
            check_near(none[i], 1, 1e-6);
            if (i < 20 * in) {
                check_near(less[i], mask[i], 1e-6);
            }
        }
        double share = (double) dropped / (double) (n * in);
        check_near(share, 0.3, 0.03); /* four standard deviations */
        check_near((double) by_key / (double) (n * in), 2 * 0.3 * 0.7, 0.04);
        check_near((double) by_seed / (double) (n * in), 2 * 0.3 * 0.7, 0.04);
        free(mask);
        free(same);
        free(less);
        free(key);
        free(none);
        free(seed);
    }
}
END_TEST

/* Adapters of one group draw different masks from one key. */
START_TEST(dropout_adapters)
{
    bl_options opt = default_options(BL_F64);
    opt.dropout = 0.5;
    opt.method = BL_METHOD_LORA;
    opt.rank = 1;
    bl_spec specs[2];
    specs[0] = make_spec(1, 1, 0);
    specs[1] = make_spec(1, 1, 0);
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, 2, &opt));
    double y[2][100];
    for (int k = 0; k < 2; k++) {
        bl_adapter *a = bl_group_get_adapter(group, k);
        bl_tape    *tape = NULL;
        double      one = 1, x[100];
        view_write(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &one);
        view_write(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS, &one);
        check_ok(bl_group_touch(group));
        check_ok(bl_tape_create(&tape, a, 100, 0));
        for (int i = 0; i < 100; i++) {
            x[i] = 1;
            y[k][i] = 0;
        }
        check_ok(bl_forward(a, tape, 100, y[k], 1, x, 1, 0));
        bl_tape_free(tape);
    }
    ck_assert_int_ne(memcmp(y[0], y[1], sizeof y[0]), 0);
    bl_group_free(group);
}
END_TEST

/* Every argument that a caller can get wrong; y stays as it was. */
START_TEST(refused)
{
    bl_options  opt = default_options(BL_F64);
    bl_adapter *a = make_adapter(6, 4, &opt, 1);
    bl_adapter *b = make_adapter(6, 4, &opt, 1);
    bl_tape    *tape = NULL, *other = NULL;
    check_ok(bl_tape_create(&tape, a, 3, 1));
    check_ok(bl_tape_create(&other, b, 3, 1));
    mat     x = mat_random(BL_F64, 4, 6, 6, 1), y = mat_random(BL_F64, 4, 4, 4, 2);
    double *want = mat_doubles(&y);

    check_fails(bl_forward(a, tape, 4, y.data, 4, x.data, 6, -1), BL_E_SHAPE);
    check_fails(bl_forward(a, tape, 3, y.data, 3, x.data, 6, -1), BL_E_SHAPE);
    check_fails(bl_forward(a, tape, 3, y.data, 4, x.data, 5, -1), BL_E_SHAPE);
    check_fails(bl_forward(a, other, 3, y.data, 4, x.data, 6, -1), BL_E_ARG);
    ck_assert_int_lt(bl_forward(a, tape, -1, y.data, 4, x.data, 6, -1), 0);
    ck_assert_int_lt(bl_forward(a, tape, 3, y.data, -4, x.data, 6, -1), 0);
    ck_assert_int_lt(bl_forward(a, tape, 3, y.data, (int64_t) 1 << 40, x.data, 6, -1), 0);
    ck_assert_int_lt(bl_forward(a, tape, 3, y.data, 4, x.data, (int64_t) 1 << 40, -1), 0);
    ck_assert_int_lt(bl_forward(a, tape, 3, y.data, 4, x.data, 6, -2), 0);
    check_fails(bl_forward(NULL, tape, 3, y.data, 4, x.data, 6, -1), BL_E_ARG);
    check_fails(bl_forward(a, NULL, 3, y.data, 4, x.data, 6, -1), BL_E_ARG);
    check_fails(bl_forward(a, tape, 3, NULL, 4, x.data, 6, -1), BL_E_ARG);
    check_fails(bl_forward(a, tape, 3, y.data, 4, NULL, 6, -1), BL_E_ARG);
    check_le(mat_error(&y, want), 0);

    bl_tape *never = NULL;
    ck_assert_int_lt(bl_tape_create(&never, a, -1, 1), 0);
    check_fails(bl_tape_create(&never, NULL, 1, 1), BL_E_ARG);
    check_fails(bl_tape_create(NULL, a, 1, 1), BL_E_ARG);
    ck_assert_int_lt(bl_tape_create(&never, a, INT64_MAX, 1), 0);
    ck_assert_int_lt(bl_tape_create(&never, a, INT64_MAX / 8, 1), 0);
    ck_assert_ptr_null(never);
    bl_tape_free(NULL);

    free(want);
    mat_free(&x);
    mat_free(&y);
    bl_tape_free(tape);
    bl_tape_free(other);
    bl_adapter_free(a);
    bl_adapter_free(b);
}
END_TEST

/*
 * forward with x and forward with k x differ by the factor k, and the forward of a sum
 * is the sum of forwards: the pass is linear in x, dropout included.
 */
START_TEST(linear)
{
    bl_options opt = default_options(BL_F64);
    opt.dropout = 0.4;
    int64_t     n = 29;
    bl_adapter *a = make_adapter(14, 15, &opt, 5);
    bl_tape    *tape = NULL;
    check_ok(bl_tape_create(&tape, a, n, 0));
    mat x1 = mat_random(BL_F64, n, 14, 14, 1), x2 = mat_random(BL_F64, n, 14, 14, 2);
    mat x3 = mat_new(BL_F64, n, 14, 14);
    mat y1 = mat_new(BL_F64, n, 15, 15), y3 = mat_new(BL_F64, n, 15, 15);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < 14; j++) {
            mat_set(&x3, i, j, mat_get(&x1, i, j) + mat_get(&x2, i, j));
        }
    }
    mat_zero(&y1);
    mat_zero(&y3);
    check_ok(bl_forward(a, tape, n, y1.data, 15, x1.data, 14, 77));
    check_ok(bl_forward(a, tape, n, y1.data, 15, x2.data, 14, 77)); /* accumulates */
    check_ok(bl_forward(a, tape, n, y3.data, 15, x3.data, 14, 77));
    double *want = mat_doubles(&y3);
    check_le(mat_error(&y1, want), 1e-12);
    free(want);
    mat_free(&x1);
    mat_free(&x2);
    mat_free(&x3);
    mat_free(&y1);
    mat_free(&y3);
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("forward");
    TCase *grids = tcase_create("grid");
    tcase_add_loop_test(grids, grid, 0, SHAPES);
    tcase_set_timeout(grids, 120);
    suite_add_tcase(suite, grids);
    TCase *rest = tcase_create("rest");
    tcase_add_test(rest, initialisation);
    tcase_add_test(rest, seeds);
    tcase_add_test(rest, scalings);
    tcase_add_test(rest, nothing);
    tcase_add_test(rest, tape_again);
    tcase_add_test(rest, same_bits);
    tcase_add_test(rest, dropout_mask);
    tcase_add_test(rest, dropout_adapters);
    tcase_add_test(rest, refused);
    tcase_add_test(rest, linear);
    tcase_set_timeout(rest, 120);
    suite_add_tcase(suite, rest);
    return suite;
}
