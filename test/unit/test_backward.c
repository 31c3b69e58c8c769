/*
 * bl_backward against the reference over a grid of shapes, against central differences
 * of bl_forward, and how gradients gather, are spent and are refused.
 */
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

static double *gradient(bl_adapter *a, int32_t tensor)
{
    return view_doubles(a, tensor, BL_BUFFER_GRADIENTS);
}

/* dA, dB, ds, dx over the grid; dx accumulated, or NULL. */
START_TEST(grid)
{
    int64_t n = shapes[_i].n, in = shapes[_i].in, out = shapes[_i].out;
    int64_t r = shapes[_i].rank, pad = shapes[_i].pad;
    int     wide = in + out > 8000; /* these take long, under valgrind minutes */
    if (wide && getenv("BEAMLORA_VALGRIND") != NULL) {
        return;
    }
    int step = wide ? 3 : 1;
    for (int variant = 0; variant < 8; variant += step) {
        int32_t    dtype = dtypes[variant & 1];
        bl_options opt = default_options(dtype);
        opt.rank = r;
        opt.alpha = 12;
        opt.reallocation = r > 1;
        opt.method = variant & 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        int         beam = opt.method == BL_METHOD_BEAMLORA;
        bl_adapter *a = make_adapter(in, out, &opt, 7);
        bl_tape    *tape = NULL;
        check_ok(bl_tape_create(&tape, a, n + pad, 1));

        mat       x = mat_random(dtype, n, in, in + pad, 1);
        mat       y = mat_random(dtype, n, out, out + pad, 2);
        mat       dy = mat_random(dtype, n, out, out + 3 * pad, 3);
        mat       dx = mat_random(dtype, n, in, in + 2 * pad, 4);
        ref_shape z = { n, in, out, r, opt.alpha / (double) r, 0.05 };
        double   *xs = mat_doubles(&x), *dys = mat_doubles(&dy), *dxs = mat_doubles(&dx);
        double   *ys = mat_doubles(&y), *g = must_doubles(r), *h = must_doubles(n * r);
        double   *da = must_doubles(r * in), *db = must_doubles(r * out);
        double   *ds = must_doubles(r);
        double   *va = view_doubles(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        double   *vb = view_doubles(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
        double   *s = must_doubles(r);
        if (beam) {
            free(s);
            s = view_doubles(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
        }
        ref_importance(r, s, z.tau, NULL, g); /* ones where s = 0 */
        ref_forward(&z, va, vb, g, xs, NULL, h, ys);
        ref_backward(&z, va, vb, g, xs, NULL, h, dys, da, db, beam ? ds : NULL, dxs);

        check_ok(bl_forward(a, tape, n, y.data, y.ld, x.data, x.ld, BL_NO_DROPOUT));
        check_ok(bl_backward(a, tape, n, variant & 4 ? NULL : dx.data, dx.ld, dy.data,
                             dy.ld, x.data, x.ld));
        double *got_a = gradient(a, BL_TENSOR_A), *got_b = gradient(a, BL_TENSOR_B);
        double  limit = 4 * pass_limit(dtype);
        check_le(error_of(got_a, da, r * in), limit);
        check_le(error_of(got_b, db, r * out), limit);
        if (beam) {
            /* Measured against what is subtracted, not against the difference. */
            double *got_s = gradient(a, BL_TENSOR_SCORES), most = 0;
            for (int64_t i = 0; i < r; i++) {
                most = fmax(most, fabs(ds[i]));
            }
            if (r == 1) { /* nothing to choose: zero but for rounding */
                check_le(fabs(got_s[0]), limit * (double) n * 1000);
            } else {
                for (int64_t i = 0; i < r; i++) {
                    check_le(fabs(got_s[i] - ds[i]), 4 * limit * most);
                }
            }
            free(got_s);
        }
        if (!(variant & 4)) {
            check_le(mat_error(&dx, dxs), limit);
        }
        mat_check_padding(&dx);
        mat_check_padding(&dy);
        mat_check_padding(&x);
        check_le(mat_error(&x, xs), 0);
        check_le(mat_error(&dy, dys), 0);

        double *all[] = { xs, dys, dxs, ys, g, h, da, db, ds, va, vb, s, got_a, got_b };
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            free(all[i]);
        }
        mat_free(&x);
        mat_free(&y);
        mat_free(&dx);
        mat_free(&dy);
        bl_tape_free(tape);
        bl_adapter_free(a);
    }
}
END_TEST

/* ----- central differences ----- */

typedef struct scene {
    bl_adapter *a;
    bl_tape    *tape;
    int64_t     n, in, out, r, key;
    mat         x, dy;
} scene;

/* L = sum(dy * y): its gradient is what bl_backward computes. */
static double loss(scene *z)
{
    mat    y = mat_new(BL_F64, z->n, z->out, z->out);
    double sum = 0;
    mat_zero(&y);
    check_ok(bl_forward(z->a, z->tape, z->n, y.data, z->out, z->x.data, z->in, z->key));
    for (int64_t i = 0; i < z->n; i++) {
        for (int64_t j = 0; j < z->out; j++) {
            sum += mat_get(&y, i, j) * mat_get(&z->dy, i, j);
        }
    }
    mat_free(&y);
    return sum;
}

static double difference(scene *z, double *at, double step)
{
    double old = *at;
    *at = old + step;
    check_ok(bl_group_touch(bl_adapter_get_group(z->a)));
    double up = loss(z);
    *at = old - step;
    check_ok(bl_group_touch(bl_adapter_get_group(z->a)));
    double down = loss(z);
    *at = old;
    check_ok(bl_group_touch(bl_adapter_get_group(z->a)));
    return (up - down) / (2 * step);
}

/* Every entry of dA, dB, ds and dx: no kinks, so none is left out. */
START_TEST(differences)
{
    static const struct {
        int64_t n, in, out, rank;
        double  dropout;
        int32_t method;
    } cases[] = {
        { 4, 5, 3, 2, 0, BL_METHOD_BEAMLORA },
        { 3, 2, 3, 5, 0, BL_METHOD_BEAMLORA },
        { 6, 7, 4, 3, 0.3, BL_METHOD_BEAMLORA },
        { 1, 6, 5, 4, 0.5, BL_METHOD_BEAMLORA },
        { 5, 4, 6, 3, 0.4, BL_METHOD_LORA },
        { 150, 3, 2, 2, 0.1, BL_METHOD_BEAMLORA },
    };
    bl_options opt = default_options(BL_F64);
    opt.rank = cases[_i].rank;
    opt.dropout = cases[_i].dropout;
    opt.method = cases[_i].method;
    opt.temperature = 0.2;
    scene z = { NULL,
                NULL,
                cases[_i].n,
                cases[_i].in,
                cases[_i].out,
                opt.rank,
                42,
                mat_random(BL_F64, cases[_i].n, cases[_i].in, cases[_i].in, 1),
                mat_random(BL_F64, cases[_i].n, cases[_i].out, cases[_i].out, 2) };
    z.a = make_adapter(z.in, z.out, &opt, 9);
    check_ok(bl_tape_create(&z.tape, z.a, z.n, 1));

    mat dx = mat_new(BL_F64, z.n, z.in, z.in);
    mat_zero(&dx);
    (void) loss(&z);
    mat dy = mat_random(BL_F64, z.n, z.out, z.out, 2);
    check_ok(
        bl_backward(z.a, z.tape, z.n, dx.data, z.in, dy.data, z.out, z.x.data, z.in));
    for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
        if (tensor == BL_TENSOR_SCORES && opt.method == BL_METHOD_LORA) {
            continue;
        }
        bl_view view = view_of(z.a, tensor, BL_BUFFER_PARAMETERS);
        double *got = gradient(z.a, tensor);
        double *want = must_doubles(view.rows * view.cols);
        double *data = view.data;
        for (int64_t i = 0; i < view.rows; i++) {
            for (int64_t j = 0; j < view.cols; j++) {
                want[i * view.cols + j] = difference(&z, &data[i * view.ld + j], 1e-5);
            }
        }
        check_le(error_of(got, want, view.rows * view.cols), 1e-7);
        free(got);
        free(want);
    }
    double *want = must_doubles(z.n * z.in), *data = z.x.data;
    for (int64_t i = 0; i < z.n * z.in; i++) {
        want[i] = difference(&z, &data[i], 1e-4);
    }
    check_le(mat_error(&dx, want), 1e-7);
    free(want);
    mat_free(&dx);
    mat_free(&dy);
    mat_free(&z.x);
    mat_free(&z.dy);
    bl_tape_free(z.tape);
    bl_adapter_free(z.a);
}
END_TEST

/*
 * Masked ranks: A, B and scores of the second adapter of a group, of which some ranks
 * are silenced. Their g is constant 0, so the differences are those of the rest.
 */
START_TEST(masked)
{
    static const uint8_t mask[] = { 1, 0, 1, 1, 0 };
    bl_options           opt = default_options(BL_F64);
    bl_spec              specs[2];
    bl_group            *group = NULL;
    opt.rank = 5;
    opt.temperature = 0.2;
    specs[0] = make_spec(3, 4, 0);
    specs[1] = make_spec(6, 7, 0);
    check_ok(bl_group_create(&group, specs, 2, &opt));
    scene z = { bl_group_get_adapter(group, 1),
                NULL,
                4,
                6,
                7,
                5,
                BL_NO_DROPOUT,
                mat_random(BL_F64, 4, 6, 6, 1),
                mat_random(BL_F64, 4, 7, 7, 2) };
    randomize(bl_group_get_adapter(group, 0), 1);
    randomize(z.a, 2);
    double g[2][5], all[5];
    check_ok(bl_adapter_copy_importance(bl_group_get_adapter(group, 0), g[0]));
    check_ok(bl_adapter_copy_importance(z.a, all));
    check_ok(bl_adapter_set_mask(z.a, mask));
    check_ok(bl_adapter_copy_importance(bl_group_get_adapter(group, 0), g[1]));
    ck_assert_int_eq(memcmp(g[0], g[1], sizeof g[0]), 0); /* the other one's are alone */
    check_ok(bl_adapter_copy_importance(z.a, g[1]));
    for (int k = 0; k < 5; k++) {
        check_near(g[1][k], mask[k] ? all[k] : 0, 0);
    }
    check_ok(bl_tape_create(&z.tape, z.a, 4, 1));
    mat dx = mat_new(BL_F64, 4, 6, 6), dy = mat_random(BL_F64, 4, 7, 7, 2);
    mat_zero(&dx);
    (void) loss(&z);
    check_ok(bl_backward(z.a, z.tape, 4, dx.data, 6, dy.data, 7, z.x.data, 6));
    for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
        bl_view view = view_of(z.a, tensor, BL_BUFFER_PARAMETERS);
        double *got = gradient(z.a, tensor);
        double *want = must_doubles(view.rows * view.cols), *data = view.data;
        for (int64_t i = 0; i < view.rows * view.cols; i++) {
            want[i] = difference(&z, &data[i], 1e-5);
        }
        check_le(error_of(got, want, view.rows * view.cols), 1e-7);
        free(got);
        free(want);
    }
    double *want = must_doubles(24), *data = z.x.data;
    for (int64_t i = 0; i < 24; i++) {
        want[i] = difference(&z, &data[i], 1e-4);
    }
    check_le(mat_error(&dx, want), 1e-7);
    free(want);
    mat_free(&dx);
    mat_free(&dy);
    mat_free(&z.x);
    mat_free(&z.dy);
    bl_tape_free(z.tape);
    bl_group_free(group);
}
END_TEST

/*
 * Dropout over many rows: with A, B, dy = 1 and r = 1, dx = c M, which then must be the
 * mask of the forward, y = c sum_j M x, and of dA = c sum_t M x.
 */
START_TEST(dropout_blocks)
{
    static const int64_t ns[] = { 140, 5300 }, ins[] = { 8200, 300 };
    for (int v = 0; v < 4; v++) {
        int64_t    n = ns[v / 2], in = ins[v / 2];
        int32_t    dtype = dtypes[v & 1];
        bl_options opt = default_options(dtype);
        opt.method = BL_METHOD_LORA;
        opt.rank = 1;
        opt.alpha = 1;
        opt.dropout = 0.25;
        bl_adapter *a = NULL;
        bl_tape    *tape = NULL;
        check_ok(bl_adapter_create(&a, in, 1, &opt));
        double *ones = must_doubles(in);
        for (int64_t j = 0; j < in; j++) {
            ones[j] = 1;
        }
        view_write(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS, ones);
        view_write(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS, ones);
        check_ok(bl_group_touch(bl_adapter_get_group(a)));
        check_ok(bl_tape_create(&tape, a, n, 1));
        mat x = mat_random(dtype, n, in, in, 1), dx = mat_new(dtype, n, in, in);
        mat y = mat_new(dtype, n, 1, 1), dy = mat_new(dtype, n, 1, 1);
        mat_zero(&dx);
        mat_zero(&y);
        for (int64_t t = 0; t < n; t++) {
            mat_set(&dy, t, 0, 1);
        }
        check_ok(bl_forward(a, tape, n, y.data, 1, x.data, in, 12));
        check_ok(bl_backward(a, tape, n, dx.data, in, dy.data, 1, x.data, in));
        double *ys = must_doubles(n), *da = must_doubles(in);
        int64_t kept = 0;
        for (int64_t t = 0; t < n; t++) {
            for (int64_t j = 0; j < in; j++) {
                double m = mat_get(&dx, t, j);
                ck_assert(fabs(m) <= 0 || fabs(m - 4.0 / 3) <= 1e-6);
                kept += m > 0;
                ys[t] += m * mat_get(&x, t, j);
                da[j] += m * mat_get(&x, t, j);
            }
        }
        check_near((double) kept / (double) (n * in), 0.75, 0.002);
        double *got = gradient(a, BL_TENSOR_A);
        check_le(mat_error(&y, ys), 10 * pass_limit(dtype));
        check_le(error_of(got, da, in), 10 * pass_limit(dtype));
        free(got);
        free(ys);
        free(da);
        free(ones);
        mat_free(&x);
        mat_free(&dx);
        mat_free(&y);
        mat_free(&dy);
        bl_tape_free(tape);
        bl_adapter_free(a);
    }
}
END_TEST

/* ----- how gradients gather ----- */

static void forward_backward(scene *z, double scale)
{
    mat y = mat_new(BL_F64, z->n, z->out, z->out), dy = z->dy;
    mat_zero(&y);
    dy.data = must_alloc(mat_extent(&dy), sizeof(double));
    for (int64_t i = 0; i < z->n * z->out; i++) {
        mat_set(&dy, i / z->out, i % z->out,
                scale * mat_get(&z->dy, i / z->out, i % z->out));
    }
    check_ok(bl_forward(z->a, z->tape, z->n, y.data, z->out, z->x.data, z->in, z->key));
    check_ok(
        bl_backward(z->a, z->tape, z->n, NULL, 0, dy.data, z->out, z->x.data, z->in));
    mat_free(&y);
    mat_free(&dy);
}

static scene make_scene(const bl_options *base)
{
    bl_options opt = *base;
    scene      z = { NULL,
                     NULL,
                     12,
                     9,
                     7,
                     opt.rank,
                     BL_NO_DROPOUT,
                     mat_random(BL_F64, 12, 9, 9, 1),
                     mat_random(BL_F64, 12, 7, 7, 2) };
    z.a = make_adapter(z.in, z.out, &opt, 3);
    check_ok(bl_tape_create(&z.tape, z.a, z.n, 1));
    return z;
}

static void free_scene(scene *z)
{
    mat_free(&z->x);
    mat_free(&z->dy);
    bl_tape_free(z->tape);
    bl_adapter_free(z->a);
}

static void check_gradients(bl_adapter *a, double *const *want, double factor)
{
    for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
        bl_view view = view_of(a, tensor, BL_BUFFER_GRADIENTS);
        double *got = gradient(a, tensor);
        double *scaled = must_doubles(view.rows * view.cols);
        for (int64_t i = 0; i < view.rows * view.cols; i++) {
            scaled[i] = factor * want[tensor][i];
        }
        check_le(error_of(got, scaled, view.rows * view.cols), 1e-11);
        free(got);
        free(scaled);
    }
}

/* Two backwards add up; after a step, a tick or a discard the next one starts anew. */
START_TEST(gathering)
{
    bl_options opt = default_options(BL_F64);
    scene      z = make_scene(&opt);
    bl_group  *gr = bl_adapter_get_group(z.a);
    double    *g[3];
    forward_backward(&z, 1);
    for (int32_t k = 0; k < 3; k++) {
        g[k] = gradient(z.a, k);
    }
    forward_backward(&z, 2);
    check_gradients(z.a, g, 3);
    check_ok(bl_group_discard_gradients(gr));
    check_gradients(z.a, g, 0); /* asked for before any backward: zero */
    forward_backward(&z, -1);
    check_gradients(z.a, g, -1);
    check_ok(bl_step(z.a, 0.0, 1)); /* lr 0: parameters stay */
    forward_backward(&z, 1);
    check_gradients(z.a, g, 1);
    check_ok(bl_group_tick(gr));
    forward_backward(&z, 5);
    check_gradients(z.a, g, 5);
    forward_backward(&z, 1);
    check_gradients(z.a, g, 6);
    for (int k = 0; k < 3; k++) {
        free(g[k]);
    }
    free_scene(&z);
}
END_TEST

/* One tape, forward again (checkpointing): the same gradients with the same key. */
START_TEST(checkpointing)
{
    bl_options opt = default_options(BL_F64);
    opt.dropout = 0.5;
    scene z = make_scene(&opt);
    z.key = 1234567;
    double *g[3];
    forward_backward(&z, 1);
    for (int32_t k = 0; k < 3; k++) {
        g[k] = gradient(z.a, k);
    }
    check_ok(bl_group_discard_gradients(bl_adapter_get_group(z.a)));
    z.key = 5;
    (void) loss(&z); /* another mask in between */
    z.key = 1234567;
    forward_backward(&z, 1);
    check_gradients(z.a, g, 1);
    for (int k = 0; k < 3; k++) {
        free(g[k]);
    }
    free_scene(&z);
}
END_TEST

/* Two tapes on one adapter (shared weights): forwards first, backwards in any order. */
START_TEST(two_tapes)
{
    bl_options opt = default_options(BL_F64);
    scene      z = make_scene(&opt), w = z;
    double    *g[3];
    check_ok(bl_tape_create(&w.tape, z.a, 12, 1));
    w.x = mat_random(BL_F64, 12, 9, 9, 77);
    forward_backward(&z, 1);
    forward_backward(&w, 1);
    for (int32_t k = 0; k < 3; k++) {
        g[k] = gradient(z.a, k);
    }
    check_ok(bl_group_discard_gradients(bl_adapter_get_group(z.a)));
    (void) loss(&z);
    (void) loss(&w);
    mat dy = mat_random(BL_F64, 12, 7, 7, 2);
    check_ok(bl_backward(z.a, w.tape, 12, NULL, 0, dy.data, 7, w.x.data, 9));
    check_ok(bl_backward(z.a, z.tape, 12, NULL, 0, dy.data, 7, z.x.data, 9));
    check_gradients(z.a, g, 1);
    for (int k = 0; k < 3; k++) {
        free(g[k]);
    }
    mat_free(&dy);
    mat_free(&w.x);
    bl_tape_free(w.tape);
    free_scene(&z);
}
END_TEST

/* A frozen adapter hands dx on and gathers nothing; thawed it trains again. */
START_TEST(frozen)
{
    bl_options opt = default_options(BL_F64);
    scene      z = make_scene(&opt);
    bl_group  *gr = bl_adapter_get_group(z.a);
    mat        y = mat_new(BL_F64, 12, 7, 7), dx[2], dy = mat_random(BL_F64, 12, 7, 7, 2);
    for (int k = 0; k < 2; k++) {
        check_ok(bl_adapter_set_frozen(z.a, k));
        dx[k] = mat_new(BL_F64, 12, 9, 9);
        mat_zero(&dx[k]);
        mat_zero(&y);
        check_ok(bl_forward(z.a, z.tape, 12, y.data, 7, z.x.data, 9, -1));
        check_ok(bl_backward(z.a, z.tape, 12, dx[k].data, 9, dy.data, 7, z.x.data, 9));
        check_ok(bl_group_discard_gradients(gr));
    }
    double *want = mat_doubles(&dx[0]);
    check_le(mat_error(&dx[1], want), 1e-14);
    check_ok(bl_adapter_set_frozen(z.a, 1));
    mat_zero(&y);
    check_ok(bl_forward(z.a, z.tape, 12, y.data, 7, z.x.data, 9, -1));
    check_ok(bl_backward(z.a, z.tape, 12, dx[1].data, 9, dy.data, 7, z.x.data, 9));
    double norm = -1;
    check_ok(bl_group_copy_gradient_norm(gr, &norm));
    check_near(norm, 0, 0);
    bytes   before = save_group(gr);
    bl_view all;
    check_ok(bl_group_get_view(gr, BL_BUFFER_PARAMETERS, &all));
    size_t  size = (size_t) all.cols * sizeof(double);
    double *old = must_doubles(all.cols);
    memcpy(old, all.data, size);
    check_ok(bl_step(z.a, 0.1, 1));
    ck_assert_int_eq(memcmp(old, all.data, size), 0);
    ck_assert_int_eq(bl_group_get_step(gr), 1);
    check_ok(bl_adapter_set_frozen(z.a, 0));
    forward_backward(&z, 1);
    check_ok(bl_step(z.a, 0.1, 1));
    ck_assert_int_ne(memcmp(old, all.data, size), 0);
    free(old);
    free(want);
    bytes_free(&before);
    mat_free(&y);
    mat_free(&dy);
    mat_free(&dx[0]);
    mat_free(&dx[1]);
    free_scene(&z);
}
END_TEST

/* A frozen member of a group takes no step while the others do. */
START_TEST(frozen_member)
{
    bl_options opt = default_options(BL_F32);
    opt.weight_decay = 0.1;
    bl_spec specs[2];
    specs[0] = make_spec(4, 4, 0);
    specs[1] = make_spec(4, 4, 0);
    specs[0].frozen = 1;
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, 2, &opt));
    double *old[2], *now[2];
    for (int k = 0; k < 2; k++) {
        randomize(bl_group_get_adapter(group, k), 5);
        old[k] = view_doubles(bl_group_get_adapter(group, k), 0, 0);
    }
    check_ok(bl_group_step(group, 0.1, 1));
    for (int k = 0; k < 2; k++) {
        now[k] = view_doubles(bl_group_get_adapter(group, k), 0, 0);
    }
    ck_assert_int_eq(memcmp(old[0], now[0], 32 * sizeof(double)), 0);
    ck_assert_int_ne(memcmp(old[1], now[1], 32 * sizeof(double)), 0);
    for (int k = 0; k < 2; k++) {
        free(old[k]);
        free(now[k]);
    }
    bl_group_free(group);
}
END_TEST

/* ----- what is refused ----- */

static int try_backward(scene *z)
{
    mat dy = mat_random(BL_F64, z->n, z->out, z->out, 2);
    int rc = bl_backward(z->a, z->tape, z->n, NULL, 0, dy.data, z->out, z->x.data, z->in);
    mat_free(&dy);
    return rc;
}

/* A tape is out of date after whatever changes g, A or B. */
START_TEST(stale)
{
    bl_options opt = default_options(BL_F64);
    scene      z = make_scene(&opt);
    bl_group  *gr = bl_adapter_get_group(z.a);
    uint8_t    mask[8] = { 1, 0, 1, 1, 1, 1, 1, 1 };
    check_fails(try_backward(&z), BL_E_STATE); /* no forward yet */
    (void) loss(&z);
    check_ok(try_backward(&z));
    (void) loss(&z);
    check_ok(bl_group_touch(gr));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(bl_group_set_temperature(gr, 0.1));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(bl_adapter_set_mask(z.a, mask));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(bl_adapter_set_mask(z.a, NULL));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(bl_step(z.a, 0.1, 1));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(bl_group_tick(gr));
    check_fails(try_backward(&z), BL_E_STATE);
    for (int t = 2; !bl_group_reallocate_due(gr); t++) {
        check_ok(bl_group_tick(gr));
    }
    (void) loss(&z);
    check_ok(bl_reallocate(z.a, NULL));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    bytes b = save_group(gr);
    check_ok(bl_group_load(gr, b.data, b.size));
    check_fails(try_backward(&z), BL_E_STATE);
    (void) loss(&z);
    check_ok(try_backward(&z));
    bytes_free(&b);
    free_scene(&z);
}
END_TEST

START_TEST(refused)
{
    bl_options  opt = default_options(BL_F64);
    scene       z = make_scene(&opt);
    mat         dy = mat_random(BL_F64, 12, 7, 7, 2), dx = mat_new(BL_F64, 12, 9, 9);
    void       *d = dy.data, *x = z.x.data, *e = dx.data;
    bl_adapter *a = z.a;
    bl_tape    *light = NULL;
    mat_zero(&dx);
    check_ok(bl_tape_create(&light, a, 12, 0));
    mat y = mat_new(BL_F64, 12, 7, 7);
    mat_zero(&y);
    check_ok(bl_forward(a, light, 12, y.data, 7, x, 9, -1));
    check_fails(bl_backward(a, light, 12, e, 9, d, 7, x, 9), BL_E_STATE);
    (void) loss(&z);
    check_fails(bl_backward(a, z.tape, 12, e, 8, d, 7, x, 9), BL_E_SHAPE);
    check_fails(bl_backward(a, z.tape, 12, e, 9, d, 6, x, 9), BL_E_SHAPE);
    check_fails(bl_backward(a, z.tape, 12, e, 9, d, 7, x, 8), BL_E_SHAPE);
    check_fails(bl_backward(a, z.tape, 11, e, 9, d, 7, x, 9), BL_E_SHAPE);
    check_fails(bl_backward(a, z.tape, 12, e, 9, NULL, 7, x, 9), BL_E_ARG);
    check_fails(bl_backward(a, z.tape, 12, e, 9, d, 7, NULL, 9), BL_E_ARG);
    check_fails(bl_backward(NULL, z.tape, 12, e, 9, d, 7, x, 9), BL_E_ARG);
    check_fails(bl_backward(a, NULL, 12, e, 9, d, 7, x, 9), BL_E_ARG);
    bl_adapter *b = make_adapter(9, 7, &opt, 3);
    ck_assert_int_lt(bl_backward(b, z.tape, 12, e, 9, d, 7, x, 9), 0);
    /* Nothing has happened: no gradient, dx untouched. */
    double norm = -1;
    check_ok(bl_group_copy_gradient_norm(bl_adapter_get_group(a), &norm));
    check_near(norm, 0, 0);
    for (int64_t i = 0; i < 12 * 9; i++) {
        ck_assert(fabs(mat_get(&dx, i / 9, i % 9)) <= 0);
    }
    check_ok(bl_backward(a, z.tape, 12, e, 9, d, 7, x, 9));
    mat_free(&dx);
    mat_free(&dy);
    mat_free(&y);
    bl_tape_free(light);
    bl_adapter_free(b);
    free_scene(&z);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("backward");
    TCase *grids = tcase_create("grid");
    tcase_add_loop_test(grids, grid, 0, SHAPES);
    tcase_set_timeout(grids, 120);
    suite_add_tcase(suite, grids);
    TCase *diff = tcase_create("differences");
    tcase_add_loop_test(diff, differences, 0, 6);
    tcase_add_test(diff, masked);
    tcase_add_test(diff, dropout_blocks);
    tcase_set_timeout(diff, 120);
    suite_add_tcase(suite, diff);
    TCase *gather = tcase_create("gathering");
    tcase_add_test(gather, gathering);
    tcase_add_test(gather, checkpointing);
    tcase_add_test(gather, two_tapes);
    tcase_add_test(gather, frozen);
    tcase_add_test(gather, frozen_member);
    suite_add_tcase(suite, gather);
    TCase *refuse = tcase_create("refused");
    tcase_add_test(refuse, stale);
    tcase_add_test(refuse, refused);
    suite_add_tcase(suite, refuse);
    return suite;
}
