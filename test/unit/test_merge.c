/* Merging, unmerging and folding, by identities with the forward. */
#include "../ref/ref.h"
#include "check_main.h"

static const int32_t dtypes[] = { BL_F32, BL_F64 };

static const struct {
    int64_t in, out, rank, pad;
} shapes[] = {
    { 1, 1, 1, 0 }, { 7, 3, 2, 0 }, { 3, 2, 9, 4 }, { 33, 40, 5, 3 }, { 96, 80, 8, 1 },
};

#define SHAPES ((int) (sizeof shapes / sizeof shapes[0]))

static bl_adapter *make(int variant, int shape)
{
    bl_options opt = default_options(dtypes[variant & 1]);
    opt.method = variant & 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
    opt.scaling = variant & 4 ? BL_SCALING_RSLORA : BL_SCALING_STANDARD;
    opt.rank = shapes[shape].rank;
    opt.reallocation = 0;
    return make_adapter(shapes[shape].in, shapes[shape].out, &opt, 3);
}

/* forward(x) on zero, [n, out] packed */
static double *output(bl_adapter *a, const mat *x)
{
    int64_t  out = bl_adapter_get_out(a);
    bl_tape *tape = NULL;
    mat      y = mat_new(x->dtype, x->rows, out, out);
    mat_zero(&y);
    check_ok(bl_tape_create(&tape, a, x->rows, 0));
    check_ok(bl_forward(a, tape, x->rows, y.data, out, x->data, x->ld, -1));
    double *result = mat_doubles(&y);
    mat_free(&y);
    bl_tape_free(tape);
    return result;
}

/* x W^T, W [out, in] packed */
static double *times(const mat *x, const double *w, int64_t out)
{
    double *y = must_doubles(x->rows * out);
    for (int64_t t = 0; t < x->rows; t++) {
        for (int64_t o = 0; o < out; o++) {
            for (int64_t j = 0; j < x->cols; j++) {
                y[t * out + o] += mat_get(x, t, j) * w[o * x->cols + j];
            }
        }
    }
    return y;
}

/* forward(x) = merge(W) x - W x, and unmerge(merge(W)) = W. */
START_TEST(merging)
{
    for (int v = 0; v < 8; v++) {
        int64_t     in = shapes[_i].in, out = shapes[_i].out;
        bl_adapter *a = make(v, _i);
        int32_t     type = dtypes[v & 1];
        mat         w = mat_random(type, out, in, in + shapes[_i].pad, 5);
        mat         x = mat_random(type, 9, in, in, 6);
        double     *w0 = mat_doubles(&w), *want = output(a, &x);
        uint8_t     mask[16];
        check_ok(bl_adapter_merge(a, w.data, w.ld));
        mat_check_padding(&w);
        double *w1 = mat_doubles(&w);
        for (int64_t i = 0; i < out * in; i++) {
            w1[i] -= w0[i];
        }
        double *got = times(&x, w1, out);
        check_le(error_of(got, want, 9 * out), 10 * pass_limit(type));
        check_ok(bl_adapter_unmerge(a, w.data, w.ld));
        check_le(mat_error(&w, w0), type == BL_F64 ? 1e-14 : 1e-5);
        mat_check_padding(&w);

        /* A masked rank has no part in it. */
        for (int k = 0; k < 16; k++) {
            mask[k] = k % 2 == 0;
        }
        check_ok(bl_adapter_set_mask(a, mask));
        free(got);
        free(w1);
        free(want);
        mat_free(&w);
        w = mat_new(type, out, in, in);
        want = output(a, &x);
        mat_zero(&w);
        check_ok(bl_adapter_merge(a, w.data, w.ld));
        w1 = mat_doubles(&w);
        got = times(&x, w1, out);
        check_le(error_of(got, want, 9 * out), 10 * pass_limit(type));

        check_fails(bl_adapter_merge(a, w.data, in - 1), BL_E_SHAPE);
        check_fails(bl_adapter_unmerge(a, w.data, in - 1), BL_E_SHAPE);
        check_fails(bl_adapter_merge(a, NULL, in), BL_E_ARG);
        check_fails(bl_adapter_unmerge(NULL, w.data, in), BL_E_ARG);
        free(got);
        free(w1);
        free(want);
        free(w0);
        mat_free(&w);
        mat_free(&x);
        bl_adapter_free(a);
    }
}
END_TEST

/* b a x = forward(x): the fold is a LoRA of scaling 1. b = B, exactly. */
START_TEST(folding)
{
    for (int v = 0; v < 8; v++) {
        int64_t     in = shapes[_i].in, out = shapes[_i].out, r = shapes[_i].rank;
        bl_adapter *adapter = make(v, _i);
        int32_t     type = dtypes[v & 1];
        mat         a = mat_new(type, r, in, in + shapes[_i].pad);
        mat         b = mat_new(type, out, r, r + shapes[_i].pad);
        mat         x = mat_random(type, 9, in, in, 6);
        double     *want = output(adapter, &x);
        check_ok(bl_adapter_fold(adapter, a.data, a.ld, b.data, b.ld));
        mat_check_padding(&a);
        mat_check_padding(&b);
        double *vb = view_doubles(adapter, BL_TENSOR_B, 0);
        double *w = must_doubles(out * in);
        for (int64_t o = 0; o < out; o++) {
            for (int64_t k = 0; k < r; k++) {
                check_near(mat_get(&b, o, k), vb[k * out + o], 0);
                for (int64_t j = 0; j < in; j++) {
                    w[o * in + j] += mat_get(&b, o, k) * mat_get(&a, k, j);
                }
            }
        }
        double *got = times(&x, w, out);
        check_le(error_of(got, want, 9 * out), 10 * pass_limit(type));
        check_fails(bl_adapter_fold(adapter, a.data, in - 1, b.data, b.ld), BL_E_SHAPE);
        check_fails(bl_adapter_fold(adapter, a.data, a.ld, b.data, r - 1), BL_E_SHAPE);
        check_fails(bl_adapter_fold(adapter, NULL, a.ld, b.data, b.ld), BL_E_ARG);
        check_fails(bl_adapter_fold(adapter, a.data, a.ld, NULL, b.ld), BL_E_ARG);
        free(vb);
        free(w);
        free(got);
        free(want);
        mat_free(&a);
        mat_free(&b);
        mat_free(&x);
        bl_adapter_free(adapter);
    }
}
END_TEST

/* Merging reads the adapter and changes nothing in it: tapes stay good. */
START_TEST(tapes_stay)
{
    bl_adapter *a = make(1, 3);
    bl_tape    *tape = NULL;
    int64_t     in = bl_adapter_get_in(a), out = bl_adapter_get_out(a);
    mat x = mat_random(BL_F64, 4, in, in, 1), y = mat_random(BL_F64, 4, out, out, 2);
    mat w = mat_random(BL_F64, out, in, in, 3);
    check_ok(bl_tape_create(&tape, a, 4, 1));
    check_ok(bl_forward(a, tape, 4, y.data, out, x.data, in, -1));
    check_ok(bl_adapter_merge(a, w.data, in));
    check_ok(bl_backward(a, tape, 4, NULL, 0, y.data, out, x.data, in));
    mat_free(&x);
    mat_free(&y);
    mat_free(&w);
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("merge");
    TCase *merge = tcase_create("merge");
    tcase_add_loop_test(merge, merging, 0, SHAPES);
    tcase_add_loop_test(merge, folding, 0, SHAPES);
    tcase_add_test(merge, tapes_stay);
    suite_add_tcase(suite, merge);
    return suite;
}
