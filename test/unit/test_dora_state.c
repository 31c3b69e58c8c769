/*
 * DoRA beside its passes: merge, state, what a tape keeps, memory, refusals.
 */
#include "dora_layer.h"

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

/* ----- the tape ----- */

/* One forward and backward over N rows: the magnitudes' gradient. */
static double *magnitude_gradient(struct layer *l, int64_t key)
{
    mat x = mat_random(l->w0.dtype, N, IN, IN, 5);
    mat y = host_output(l, &x);
    mat dy = mat_random(l->w0.dtype, N, OUT, OUT, 6);
    check_ok(bl_forward(l->adapter, l->tape, N, y.data, y.ld, x.data, x.ld, key));
    check_ok(bl_backward(l->adapter, l->tape, N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    return view_doubles(l->adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_GRADIENTS);
}

/* Left or copied, y gives the same gradient; with dropout it is copied in any case. */
START_TEST(left)
{
    struct layer l;
    double      *gradient[2];
    for (int k = 0; k < 2; k++) {
        layer_open(&l, _i | (k == 0 ? LEFT : 0), BL_F64);
        layer_randomize(&l, 1);
        gradient[k] = magnitude_gradient(&l, 3);
        layer_close(&l);
    }
    for (int64_t i = 0; i < OUT; i++) {
        ck_assert(gradient[1][i] != 0);
        check_near(gradient[0][i], gradient[1][i],
                   _i & DROPOUT ? 0 : 1e-13 * fabs(gradient[1][i]));
    }
    free(gradient[0]);
    free(gradient[1]);
}
END_TEST

/* A magnitude of 0 has hidden what y was. */
START_TEST(left_zero)
{
    struct layer l;
    layer_open(&l, LEFT, BL_F64);
    bl_view mag = view_of(l.adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    set_value(mag.data, mag.dtype, 2, 0);
    check_ok(bl_group_touch(l.group));
    double *gradient = magnitude_gradient(&l, BL_NO_DROPOUT);
    for (int64_t i = 0; i < OUT; i++) {
        ck_assert((gradient[i] == 0) == (i == 2));
    }
    free(gradient);
    layer_close(&l);
}
END_TEST

/* The tape's memory does not grow by the output's, and keep is checked. */
START_TEST(left_memory)
{
    struct layer l;
    struct count count = { 0 };
    size_t       taken[2];
    layer_open(&l, 0, BL_F64);
    bl_tape_free(l.tape);
    bl_group_free(l.group);
    l.opt.alloc = count_alloc;
    l.opt.free = count_free;
    l.opt.alloc_user = &count;
    layer_group(&l);
    const size_t before = count.live;
    for (int32_t keep = BL_KEEP_ALL; keep <= BL_KEEP_BUT_Y; keep++) {
        bl_tape *tape = NULL;
        check_ok(bl_tape_create(&tape, l.adapter, 64 * N, keep));
        taken[keep - BL_KEEP_ALL] = count.live - before;
        bl_tape_free(tape);
    }
    ck_assert_uint_eq(taken[0] - taken[1], (size_t) 64 * N * OUT * sizeof(double));
    bl_tape *tape = NULL;
    check_fails(bl_tape_create(&tape, l.adapter, N, -1), BL_E_RANGE);
    check_fails(bl_tape_create(&tape, l.adapter, N, 3), BL_E_RANGE);
    ck_assert_ptr_null(tape);
    layer_close(&l);
}
END_TEST

/* Copies that are larger than a cache, in rows that begin at multiples of 16 bytes and in
 * rows that do not: the gradient is that of y as it was. */
START_TEST(far)
{
    enum { ROWS_N = 1500, NARROW = 6 };
    const int64_t tall = 900 + _i;
    bl_options    opt = default_options(BL_F32);
    mat           w0 = mat_random(BL_F32, tall, NARROW, NARROW, 1);
    mat           x = mat_random(BL_F32, ROWS_N, NARROW, NARROW, 2);
    mat           y = mat_random(BL_F32, ROWS_N, tall, tall, 3);
    mat           dy = mat_random(BL_F32, ROWS_N, tall, tall, 4);
    bl_tape      *tape = NULL;
    opt.dora = 1;
    opt.rank = 4;
    opt.base = w0.data;
    bl_adapter *a = make_adapter(NARROW, tall, &opt, 6);
    double     *magnitude = view_doubles(a, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS);
    double     *sums = must_doubles(tall);
    for (int64_t i = 0; i < tall; i++) {
        magnitude[i] *= 1.5; /* so that y changes */
    }
    view_write(a, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, magnitude);
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
    check_ok(bl_tape_create(&tape, a, ROWS_N, BL_KEEP_ALL));
    check_ok(bl_forward(a, tape, ROWS_N, y.data, y.ld, x.data, x.ld, BL_NO_DROPOUT));
    for (int64_t t = 0; t < ROWS_N; t++) {
        for (int64_t i = 0; i < tall; i++) {
            sums[i] += mat_get(&dy, t, i) * mat_get(&y, t, i) / magnitude[i];
        }
    }
    mat_zero(&y); /* it is the host's */
    check_ok(bl_backward(a, tape, ROWS_N, NULL, 0, dy.data, dy.ld, x.data, x.ld));
    double *gradient = view_doubles(a, BL_TENSOR_MAGNITUDE, BL_BUFFER_GRADIENTS);
    check_le(error_of(gradient, sums, tall), 1e-4);
    free(gradient);
    free(sums);
    free(magnitude);
    bl_tape_free(tape);
    bl_adapter_free(a);
    mat_free(&w0);
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dora_state");
    TCase *rest = tcase_create("rest");
    tcase_add_loop_test(rest, merge, 0, 2);
    tcase_add_loop_test(rest, resume, 0, VARIANTS);
    tcase_add_loop_test(rest, state, 0, 2);
    tcase_add_test(rest, refused);
    tcase_add_loop_test(rest, memory, 0, 8);
    suite_add_tcase(suite, rest);
    TCase *tape = tcase_create("tape");
    tcase_add_loop_test(tape, left, 0, 32);
    tcase_add_test(tape, left_zero);
    tcase_add_test(tape, left_memory);
    tcase_add_loop_test(tape, far, 0, 2);
    suite_add_tcase(suite, tape);
    return suite;
}
