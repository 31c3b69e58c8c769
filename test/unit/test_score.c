/* Importance, masks on ranks, and sizes of ranks. */
#include "../ref/ref.h"
#include "check_main.h"

static const int32_t dtypes[] = { BL_F32, BL_F64 };

static void set_scores(bl_adapter *a, const double *s)
{
    view_write(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, s);
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
}

/* g = r softmax(s / tau), for scores of any size: sums to r, never overflows. */
START_TEST(importance)
{
    static const double scales[] = { 0, 0.01, 0.1, 1, 100, 1e6 };
    static const double taus[] = { 0.05, 0.03, 1, 1e-3 };
    for (int i = 0; i < 2 * 6 * 4; i++) {
        bl_options opt = default_options(dtypes[i & 1]);
        opt.rank = 11;
        opt.temperature = taus[i / 12];
        bl_adapter *a = make_adapter(3, 3, &opt, 1);
        double      s[11], g[11], want[11], sum = 0;
        for (int k = 0; k < 11; k++) {
            s[k] = scales[i / 2 % 6] * noise((uint64_t) i, (uint64_t) k);
        }
        set_scores(a, s);
        double *stored = view_doubles(a, BL_TENSOR_SCORES, 0);
        ref_importance(11, stored, taus[i / 12], NULL, want);
        check_ok(bl_adapter_copy_importance(a, g));
        for (int k = 0; k < 11; k++) {
            check_near(g[k], want[k], 1e-12 * 11);
            sum += g[k];
        }
        check_near(sum, 11, 1e-12 * 11);
        free(stored);
        bl_adapter_free(a);
    }
}
END_TEST

/* A new adapter: all ones, exactly; LoRA: ones. */
START_TEST(ones)
{
    for (int64_t r = 1; r < 40; r++) {
        for (int method = 0; method < 2; method++) {
            bl_options opt = default_options(BL_F32);
            opt.rank = r;
            opt.method = method;
            opt.reallocation = 0;
            bl_adapter *a = NULL;
            double      g[40];
            check_ok(bl_adapter_create(&a, 3, 3, &opt));
            check_ok(bl_adapter_copy_importance(a, g));
            for (int64_t k = 0; k < r; k++) {
                check_near(g[k], 1, 0);
            }
            bl_adapter_free(a);
        }
    }
}
END_TEST

START_TEST(temperature)
{
    bl_options  opt = default_options(BL_F64);
    bl_adapter *a = make_adapter(3, 3, &opt, 1);
    bl_group   *gr = bl_adapter_get_group(a);
    double     *s = view_doubles(a, BL_TENSOR_SCORES, 0), g[8], want[8];
    check_near(bl_group_get_temperature(gr), 0.05, 0);
    check_ok(bl_group_set_temperature(gr, 0.3));
    check_near(bl_group_get_temperature(gr), 0.3, 0);
    ref_importance(8, s, 0.3, NULL, want);
    check_ok(bl_adapter_copy_importance(a, g));
    check_le(error_of(g, want, 8), 1e-13);
    static const double bad[] = { 0, -1, INFINITY, NAN };
    for (int k = 0; k < 4; k++) {
        ck_assert_int_lt(bl_group_set_temperature(gr, bad[k]), 0);
        check_near(bl_group_get_temperature(gr), 0.3, 0);
    }
    free(s);
    bl_adapter_free(a);
}
END_TEST

/* g_i := 0 where masked, the others as they are; parameters are untouched. */
START_TEST(masks)
{
    static const uint8_t mask[] = { 1, 0, 0, 1, 1, 0, 1, 1 };
    static const uint8_t none[] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int i = 0; i < 4; i++) {
        bl_options opt = default_options(dtypes[i & 1]);
        opt.method = i / 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        bl_adapter *a = make_adapter(9, 5, &opt, 1);
        bl_tape    *tape = NULL;
        double      g[8], masked[8], norms[8], all[8];
        mat         x = mat_random(dtypes[i & 1], 4, 9, 9, 1);
        check_ok(bl_tape_create(&tape, a, 4, 0));
        check_ok(bl_adapter_copy_importance(a, g));
        check_ok(bl_adapter_copy_norms(a, all));
        bl_view view;
        check_ok(bl_group_get_view(bl_adapter_get_group(a), 0, &view));
        size_t size = (size_t) view.cols * dtype_bytes(view.dtype);
        void  *old = must_alloc(1, size);
        memcpy(old, view.data, size);
        check_ok(bl_adapter_set_mask(a, mask));
        check_ok(bl_adapter_copy_importance(a, masked));
        check_ok(bl_adapter_copy_norms(a, norms));
        for (int k = 0; k < 8; k++) {
            check_near(masked[k], mask[k] ? g[k] : 0, 0);
            check_near(norms[k], mask[k] ? all[k] : 0, 0);
        }
        ck_assert_int_eq(memcmp(old, view.data, size), 0);

        /* The forward is that of the reference with those g. */
        double   *va = view_doubles(a, 0, 0), *vb = view_doubles(a, 1, 0);
        double   *xs = mat_doubles(&x), *h = must_doubles(4 * 8), *ys = must_doubles(20);
        ref_shape z = { 4, 9, 5, 8, 2, 0.05 };
        ref_forward(&z, va, vb, masked, xs, NULL, h, ys);
        mat y = mat_new(dtypes[i & 1], 4, 5, 5);
        mat_zero(&y);
        check_ok(bl_forward(a, tape, 4, y.data, 5, x.data, 9, -1));
        check_le(mat_error(&y, ys), pass_limit(dtypes[i & 1]));

        check_ok(bl_adapter_set_mask(a, none));
        mat_zero(&y);
        check_ok(bl_forward(a, tape, 4, y.data, 5, x.data, 9, -1));
        for (int k = 0; k < 20; k++) {
            check_near(mat_get(&y, k / 5, k % 5), 0, 0);
        }
        check_ok(bl_adapter_set_mask(a, NULL));
        check_ok(bl_adapter_copy_importance(a, masked));
        ck_assert_int_eq(memcmp(g, masked, sizeof g), 0);
        ck_assert_int_lt(bl_adapter_set_mask(NULL, mask), 0);
        free(old);
        free(va);
        free(vb);
        free(xs);
        free(h);
        free(ys);
        mat_free(&x);
        mat_free(&y);
        bl_tape_free(tape);
        bl_adapter_free(a);
    }
}
END_TEST

/* |c g_i b_i a_i|_F, against the matrix itself. */
START_TEST(norms)
{
    for (int i = 0; i < 2; i++) {
        bl_options opt = default_options(dtypes[i]);
        opt.rank = 6;
        opt.alpha = -9;
        bl_adapter *a = make_adapter(7, 4, &opt, 3);
        double      got[6], want[6], g[6];
        double     *va = view_doubles(a, 0, 0), *vb = view_doubles(a, 1, 0);
        check_ok(bl_adapter_copy_importance(a, g));
        for (int k = 0; k < 6; k++) {
            double sum = 0;
            for (int o = 0; o < 4; o++) {
                for (int j = 0; j < 7; j++) {
                    double w = -1.5 * g[k] * vb[k * 4 + o] * va[k * 7 + j];
                    sum += w * w;
                }
            }
            want[k] = sqrt(sum);
        }
        check_ok(bl_adapter_copy_norms(a, got));
        check_le(error_of(got, want, 6), 1e-13);
        check_fails(bl_adapter_copy_norms(a, NULL), BL_E_ARG);
        check_fails(bl_adapter_copy_importance(a, NULL), BL_E_ARG);
        check_fails(bl_adapter_copy_importance(NULL, got), BL_E_ARG);
        free(va);
        free(vb);
        bl_adapter_free(a);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("score");
    TCase *score = tcase_create("score");
    tcase_add_test(score, importance);
    tcase_add_test(score, ones);
    tcase_add_test(score, temperature);
    tcase_add_test(score, masks);
    tcase_add_test(score, norms);
    suite_add_tcase(suite, score);
    return suite;
}
