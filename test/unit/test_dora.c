/*
 * DoRA, alone, with scores and with AdaLoRA, against a plain copy of its formulas: forward,
 * gradients by central differences with lengths held fixed, lengths after everything that
 * changes parameters.
 */
#include "dora_layer.h"

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
    double       want[N * IN + OUT * RANK + IN * RANK];
    mat          x = mat_random(BL_F64, N, IN, IN, 5);
    mat          y = host_output(l, &x);
    mat          dy = mat_random(BL_F64, N, OUT, OUT + 2, 6);
    mat          dx = mat_new(BL_F64, N, IN, IN);
    double      *v = mat_doubles(&dy), *at = x.data, *factor = NULL;
    plain_read(&p, l);
    if (l->opt.dropout > 0) {
        factor = read_mask(&l->opt, N, IN, 0, key);
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
    free(factor);
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
    return suite;
}
