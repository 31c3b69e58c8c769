/*
 * parallel_for: results do not depend on who runs the tasks, nor in which order; and
 * adapters of one group, or tapes of one adapter, may be worked on at once.
 */
#include "check_main.h"

#include <pthread.h>
#include <stdatomic.h>

/* ----- hosts ----- */

typedef struct host {
    atomic_llong calls, tasks;
} host;

static void forwards(void *user, int64_t count, bl_task_fn task, void *context)
{
    host *h = user;
    atomic_fetch_add(&h->calls, 1);
    for (int64_t i = 0; i < count; i++) {
        task(context, i);
        atomic_fetch_add(&h->tasks, 1);
    }
}

static void backwards(void *user, int64_t count, bl_task_fn task, void *context)
{
    host *h = user;
    atomic_fetch_add(&h->calls, 1);
    for (int64_t i = count; i-- > 0;) {
        task(context, i);
        atomic_fetch_add(&h->tasks, 1);
    }
}

typedef struct share {
    bl_task_fn   task;
    void        *context;
    int64_t      count;
    atomic_llong next;
    host        *h;
} share;

static void *work(void *arg)
{
    share    *s = arg;
    long long i;
    while ((i = atomic_fetch_add(&s->next, 1)) < s->count) {
        s->task(s->context, i);
        atomic_fetch_add(&s->h->tasks, 1);
    }
    return NULL;
}

static void on_threads(void *user, int64_t count, bl_task_fn task, void *context,
                       int threads)
{
    share     s = { task, context, count, 0, user };
    pthread_t thread[8];
    atomic_fetch_add(&s.h->calls, 1);
    for (int i = 0; i < threads; i++) {
        ck_assert_int_eq(pthread_create(&thread[i], NULL, work, &s), 0);
    }
    for (int i = 0; i < threads; i++) {
        ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
    }
}

static void two_threads(void *user, int64_t count, bl_task_fn task, void *context)
{
    on_threads(user, count, task, context, 2);
}

static void seven_threads(void *user, int64_t count, bl_task_fn task, void *context)
{
    on_threads(user, count, task, context, 7);
}

static const bl_parallel_for_fn hosts[] = { forwards, backwards, two_threads,
                                            seven_threads, NULL };

/* ----- a run ----- */

static const struct {
    int64_t n, in, out, rank;
    int32_t dtype;
    double  dropout;
    int     steps, dora;
} runs[] = {
    { 700, 96, 130, 8, BL_F32, 0, 8, 0 },    { 3, 5, 7, 3, BL_F64, 0.1, 40, 0 },
    { 1500, 40, 33, 16, BL_F64, 0.2, 6, 0 }, { 1, 300, 200, 8, BL_F32, 0, 8, 0 },
    { 257, 513, 65, 5, BL_F32, 0.1, 6, 0 },  { 64, 1200, 1100, 16, BL_F32, 0, 4, 0 },
    { 300, 96, 130, 8, BL_F32, 0.1, 6, 1 },  { 200, 130, 70, 4, BL_F64, 0, 6, 1 },
};

#define RUNS ((int) (sizeof runs / sizeof runs[0]))

/* W0 for DoRA, as rows: every adapter's is the same noise. */
static void hand_rows(const void *base, int64_t from, int64_t rows, int64_t in, void *out)
{
    for (int64_t i = 0; i < rows * in; i++) {
        set_value(out, *(const int32_t *) base, i, noise(3, (uint64_t) (from * in + i)));
    }
}

/* State, y, dx and gradient norms of a run, one after another. */
static bytes train(int which, bl_parallel_for_fn parallel, host *h)
{
    int64_t    n = runs[which].n, in = runs[which].in, out = runs[which].out;
    bl_options opt = default_options(runs[which].dtype);
    opt.dropout = runs[which].dropout;
    opt.rank = runs[which].rank;
    opt.total_steps = 36;
    opt.p_start = 0.6;
    opt.parallel_for = parallel;
    opt.parallel_user = h;
    opt.dora = runs[which].dora;
    opt.base = &runs[which].dtype;
    opt.base_rows = hand_rows;
    bl_spec specs[3];
    specs[0] = make_spec(in, out, 0);
    specs[1] = make_spec(out, in, 0);
    specs[2] = make_spec(in, in, 2);
    bl_group *group = NULL;
    bytes     all = { NULL, 0, 0 };
    check_ok(bl_group_create(&group, specs, 3, &opt));
    for (int k = 0; k < 3; k++) {
        randomize(bl_group_get_adapter(group, k), (uint64_t) k);
    }
    for (int t = 0; t < runs[which].steps; t++) {
        double norm = 0;
        for (int k = 0; k < 3; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            bl_tape    *tape = NULL;
            int64_t     i = specs[k].in_features, o = specs[k].out_features;
            mat x = mat_random(opt.parameter_dtype, n, i, i, (uint64_t) (t * 3 + k));
            mat y = mat_random(opt.parameter_dtype, n, o, o, 1);
            mat d = mat_random(opt.parameter_dtype, n, i, i, 2);
            check_ok(bl_tape_create(&tape, a, n, 1));
            check_ok(bl_forward(a, tape, n, y.data, o, x.data, i,
                                opt.dropout > 0 ? t : BL_NO_DROPOUT));
            bytes_write(&all, y.data, (size_t) (n * o) * dtype_bytes(y.dtype));
            check_ok(bl_backward(a, tape, n, d.data, i, y.data, o, x.data, i));
            bytes_write(&all, d.data, (size_t) (n * i) * dtype_bytes(d.dtype));
            mat_free(&x);
            mat_free(&y);
            mat_free(&d);
            bl_tape_free(tape);
        }
        check_ok(bl_group_copy_gradient_norm(group, &norm));
        bytes_write(&all, &norm, sizeof norm);
        check_ok(bl_group_step(group, 0.001, 0.01));
        if (bl_group_reallocate_due(group)) {
            check_ok(bl_group_reallocate(group, NULL));
        }
    }
    mat w = mat_random(opt.parameter_dtype, out, in, in, 9);
    check_ok(bl_adapter_merge(bl_group_get_adapter(group, 0), w.data, in));
    bytes_write(&all, w.data, (size_t) (out * in) * dtype_bytes(w.dtype));
    mat_free(&w);
    check_ok(bl_group_save(group, bytes_write, &all));
    bl_group_free(group);
    return all;
}

/* Serial, in reverse, on two threads, on seven: the same bits. */
START_TEST(same_bits)
{
    host  h[5];
    bytes got[4];
    memset(h, 0, sizeof h);
    for (int k = 0; k < 4; k++) {
        got[k] = train(_i, hosts[k], &h[k]);
        ck_assert_msg(bytes_equal(&got[0], &got[k]), "host %d computes something else",
                      k);
        ck_assert_int_eq(h[k].tasks, h[0].tasks); /* cut the same way */
        ck_assert_int_eq(h[k].calls, h[0].calls);
    }
    for (int k = 0; k < 4; k++) {
        bytes_free(&got[k]);
    }
}
END_TEST

/* The callback is used where there is much to do. */
START_TEST(used)
{
    host h;
    memset(&h, 0, sizeof h);
    bytes b = train(5, forwards, &h);
    ck_assert_int_gt(h.calls, 0);
    ck_assert_int_gt(h.tasks, h.calls);
    bytes_free(&b);
}
END_TEST

/* Without a callback: the same but for rounding. */
START_TEST(without)
{
    for (int d = 0; d < 2; d++) {
        double *y[2], *p[2];
        for (int k = 0; k < 2; k++) {
            host       h;
            bl_options opt = default_options(d ? BL_F64 : BL_F32);
            memset(&h, 0, sizeof h);
            opt.parallel_for = k ? forwards : NULL;
            opt.parallel_user = &h;
            opt.dropout = 0.1;
            bl_adapter *a = make_adapter(200, 300, &opt, 1);
            bl_tape    *tape = NULL;
            mat         x = mat_random(opt.parameter_dtype, 500, 200, 200, 1);
            mat         out = mat_random(opt.parameter_dtype, 500, 300, 300, 2);
            check_ok(bl_tape_create(&tape, a, 500, 1));
            check_ok(bl_forward(a, tape, 500, out.data, 300, x.data, 200, 3));
            y[k] = mat_doubles(&out);
            check_ok(bl_backward(a, tape, 500, NULL, 0, out.data, 300, x.data, 200));
            p[k] = view_doubles(a, BL_TENSOR_A, BL_BUFFER_GRADIENTS);
            mat_free(&x);
            mat_free(&out);
            bl_tape_free(tape);
            bl_adapter_free(a);
        }
        check_le(error_of(y[1], y[0], 500 * 300), d ? 1e-12 : 1e-5);
        check_le(error_of(p[1], p[0], 8 * 200), d ? 1e-12 : 1e-5);
        for (int k = 0; k < 2; k++) {
            free(y[k]);
            free(p[k]);
        }
    }
}
END_TEST

/* ----- calls at once ----- */

typedef struct job {
    bl_adapter *a;
    bl_tape    *tape;
    mat         x, y;
    int         rounds, backward, rc;
} job;

static void *run_job(void *arg)
{
    job *j = arg;
    for (int k = 0; k < j->rounds && j->rc == 0; k++) {
        mat_zero(&j->y);
        j->rc = bl_forward(j->a, j->tape, j->x.rows, j->y.data, j->y.ld, j->x.data,
                           j->x.ld, k);
        if (j->rc == 0 && j->backward) {
            j->rc = bl_backward(j->a, j->tape, j->x.rows, NULL, 0, j->y.data, j->y.ld,
                                j->x.data, j->x.ld);
        }
    }
    return NULL;
}

/* Forward and backward on the adapters of one group at once: as one after another. */
START_TEST(adapters_at_once)
{
    bl_options opt = default_options(BL_F32);
    opt.dropout = 0.2;
    bl_spec specs[4];
    double *got[2][4];
    for (int k = 0; k < 4; k++) {
        specs[k] = make_spec(40 + k, 60 - k, 0);
    }
    for (int threaded = 0; threaded < 2; threaded++) {
        bl_group *group = NULL;
        job       jobs[4];
        pthread_t thread[4];
        check_ok(bl_group_create(&group, specs, 4, &opt));
        for (int k = 0; k < 4; k++) {
            bl_adapter *a = bl_group_get_adapter(group, k);
            randomize(a, (uint64_t) k);
            jobs[k] = (job){ a,
                             NULL,
                             mat_random(BL_F32, 90, 40 + k, 40 + k, 1),
                             mat_new(BL_F32, 90, 60 - k, 60 - k),
                             12,
                             1,
                             0 };
        }
        for (int k = 0; k < 4; k++) { /* after the last touch */
            check_ok(bl_tape_create(&jobs[k].tape, jobs[k].a, 90, 1));
        }
        for (int k = 0; k < 4; k++) {
            if (threaded) {
                ck_assert_int_eq(pthread_create(&thread[k], NULL, run_job, &jobs[k]), 0);
            } else {
                run_job(&jobs[k]);
            }
        }
        for (int k = 0; k < 4 && threaded; k++) {
            ck_assert_int_eq(pthread_join(thread[k], NULL), 0);
        }
        for (int k = 0; k < 4; k++) { /* looking at gradients wants the group to itself */
            ck_assert_int_eq(jobs[k].rc, 0);
            got[threaded][k] = view_doubles(jobs[k].a, BL_TENSOR_B, BL_BUFFER_GRADIENTS);
            mat_free(&jobs[k].x);
            mat_free(&jobs[k].y);
            bl_tape_free(jobs[k].tape);
        }
        bl_group_free(group);
    }
    for (int k = 0; k < 4; k++) {
        check_le(error_of(got[1][k], got[0][k], 8 * (60 - k)), 1e-5);
        free(got[0][k]);
        free(got[1][k]);
    }
}
END_TEST

/* Forwards on one adapter at once, a tape each. */
START_TEST(tapes_at_once)
{
    bl_options  opt = default_options(BL_F64);
    bl_adapter *a = make_adapter(40, 60, &opt, 1);
    job         jobs[4];
    pthread_t   thread[4];
    for (int k = 0; k < 4; k++) {
        jobs[k] = (job){
            a, NULL, mat_random(BL_F64, 90, 40, 40, 1), mat_new(BL_F64, 90, 60, 60), 20,
            0, 0
        };
        check_ok(bl_tape_create(&jobs[k].tape, a, 90, k % 2));
    }
    for (int k = 1; k < 4; k++) {
        ck_assert_int_eq(pthread_create(&thread[k], NULL, run_job, &jobs[k]), 0);
    }
    run_job(&jobs[0]);
    double *want = mat_doubles(&jobs[0].y);
    for (int k = 0; k < 4; k++) {
        if (k > 0) {
            ck_assert_int_eq(pthread_join(thread[k], NULL), 0);
        }
        ck_assert_int_eq(jobs[k].rc, 0);
        check_le(mat_error(&jobs[k].y, want), 1e-13);
    }
    for (int k = 0; k < 4; k++) {
        mat_free(&jobs[k].x);
        mat_free(&jobs[k].y);
        bl_tape_free(jobs[k].tape);
    }
    free(want);
    bl_adapter_free(a);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("parallel");
    TCase *same = tcase_create("parallel_for");
    tcase_add_loop_test(same, same_bits, 0, RUNS);
    tcase_add_test(same, used);
    tcase_add_test(same, without);
    tcase_set_timeout(same, 240);
    suite_add_tcase(suite, same);
    TCase *once = tcase_create("at_once");
    tcase_add_test(once, adapters_at_once);
    tcase_add_test(once, tapes_at_once);
    tcase_set_timeout(once, 120);
    suite_add_tcase(suite, once);
    return suite;
}
