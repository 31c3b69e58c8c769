/*
 * Memory: every allocation fails in turn, nothing leaks, nothing is allocated after
 * creation, the query tells what is taken, and the host may own the big arrays.
 */
#include "check_main.h"

#define HEAD 64 /* keeps a block's size in front of it */

typedef struct heap {
    int64_t calls, fail_at; /* -1: never */
    int64_t blocks;
    size_t  live, most;
} heap;

static void *heap_alloc(void *user, size_t size)
{
    heap *h = user;
    if (h->calls++ == h->fail_at) {
        return NULL;
    }
    unsigned char *p = malloc(size + HEAD);
    ck_assert_ptr_nonnull(p);
    memset(p, 0xA5, size + HEAD); /* fresh memory is not zero */
    memcpy(p, &size, sizeof size);
    h->blocks++;
    h->live += size;
    h->most = h->live > h->most ? h->live : h->most;
    return p + HEAD;
}

static void heap_free(void *user, void *pointer)
{
    heap *h = user;
    if (!pointer) {
        return;
    }
    unsigned char *p = (unsigned char *) pointer - HEAD;
    size_t         size;
    memcpy(&size, p, sizeof size);
    memset(p, 0x5A, size + HEAD);
    h->blocks--;
    h->live -= size;
    free(p);
}

static bl_options heap_options(heap *h, int32_t dtype)
{
    bl_options opt = default_options(dtype);
    memset(h, 0, sizeof *h);
    h->fail_at = -1;
    opt.alloc = heap_alloc;
    opt.free = heap_free;
    opt.alloc_user = h;
    return opt;
}

static void three_specs(bl_spec *specs)
{
    specs[0] = make_spec(5, 7, 3);
    specs[1] = make_spec(33, 4, 8);
    specs[2] = make_spec(1, 2, 1);
}

/* ----- failing ----- */

START_TEST(group_create)
{
    heap       h;
    bl_options opt = heap_options(&h, BL_F32);
    opt.history_depth = 3;
    bl_spec specs[3];
    three_specs(specs);
    int rc = BL_E_NOMEM;
    for (int64_t k = 0; rc != 0; k++) {
        bl_group *group = NULL;
        h.calls = 0;
        h.fail_at = k;
        rc = bl_group_create(&group, specs, 3, &opt);
        if (rc != 0) {
            ck_assert_int_eq(rc, BL_E_NOMEM);
            ck_assert_ptr_null(group);
        } else {
            ck_assert_int_gt(k, 0);
            bl_group_free(group);
        }
        ck_assert_int_eq(h.blocks, 0);
        ck_assert_uint_eq(h.live, 0);
        ck_assert_int_lt(k, 1000);
    }
    rc = BL_E_NOMEM;
    for (int64_t k = 0; rc != 0; k++) {
        bl_adapter *a = NULL;
        h.calls = 0;
        h.fail_at = k;
        rc = bl_adapter_create(&a, 6, 7, &opt);
        ck_assert(rc == 0 || (rc == BL_E_NOMEM && a == NULL));
        bl_adapter_free(a);
        ck_assert_int_eq(h.blocks, 0);
    }
}
END_TEST

/* Tape, plan, merge, unmerge, fold, load: the group is as it was, the weight untouched. */
START_TEST(the_rest)
{
    for (int which = 0; which < 8; which++) {
        heap       h;
        bl_options opt = heap_options(&h, which % 2 ? BL_F64 : BL_F32);
        opt.dropout = 0.1;
        bl_adapter *a = make_adapter(9, 6, &opt, 1);
        bl_group   *g = bl_adapter_get_group(a);
        mat         w = mat_random(opt.parameter_dtype, 6, 9, 9, 1);
        double     *w0 = mat_doubles(&w);
        int64_t     own = h.blocks;
        mat         fa = mat_new(opt.parameter_dtype, 8, 9, 9);
        mat         fb = mat_new(opt.parameter_dtype, 6, 8, 8);
        bytes       other = save_group(g);
        check_ok(bl_group_tick(g));
        bytes before = save_group(g);
        int   rc = BL_E_NOMEM;
        for (int64_t k = 0; rc != 0; k++) {
            bl_tape *tape = NULL;
            bl_plan *plan = NULL;
            h.calls = 0;
            h.fail_at = k;
            switch (which) {
            case 0:
                rc = bl_tape_create(&tape, a, 17, 1);
                break;
            case 1:
                rc = bl_tape_create(&tape, a, 17, 0);
                break;
            case 2:
                rc = bl_plan_create(&plan, g);
                break;
            case 3:
                rc = bl_adapter_merge(a, w.data, 9);
                break;
            case 4:
                rc = bl_adapter_unmerge(a, w.data, 9);
                break;
            case 5:
                rc = bl_adapter_fold(a, fa.data, 9, fb.data, 8);
                break;
            case 6:
                rc = bl_group_load(g, other.data, other.size);
                break;
            default:
                rc = bl_tape_create(&tape, a, 0, 1);
                break;
            }
            ck_assert(rc == 0 || rc == BL_E_NOMEM);
            if (rc != 0) {
                ck_assert_ptr_null(tape);
                ck_assert_ptr_null(plan);
                check_le(mat_error(&w, w0), 0);
                bytes now = save_group(g);
                ck_assert(bytes_equal(&before, &now));
                bytes_free(&now);
            }
            bl_tape_free(tape);
            bl_plan_free(plan);
            ck_assert_int_eq(h.blocks, own);
            ck_assert_int_lt(k, 1000);
        }
        h.fail_at = -1;
        bytes after = save_group(g);
        ck_assert(bytes_equal(which == 6 ? &other : &before, &after));
        bytes_free(&before);
        bytes_free(&after);
        bytes_free(&other);
        mat_free(&fa);
        mat_free(&fb);
        free(w0);
        mat_free(&w);
        bl_adapter_free(a);
        ck_assert_int_eq(h.blocks, 0);
    }
}
END_TEST

START_TEST(attach)
{
    heap       h;
    bl_options opt = heap_options(&h, BL_F32);
    opt.optimizer = BL_OPTIMIZER_HOST;
    int rc = BL_E_NOMEM;
    for (int64_t k = 0; rc != 0; k++) {
        bl_adapter *a = NULL;
        h.fail_at = -1;
        check_ok(bl_adapter_create(&a, 9, 6, &opt));
        bl_view   all, view;
        bl_group *g = bl_adapter_get_group(a);
        check_ok(bl_group_get_view(g, 0, &all));
        size_t size = ((size_t) all.cols * 4 + 63) / 64 * 64;
        void  *data = aligned_alloc(64, size);
        ck_assert_ptr_nonnull(data);
        memset(data, 0, size);
        int64_t own = h.blocks;
        h.calls = 0;
        h.fail_at = k;
        rc = bl_group_attach(g, "mu", data, BL_FRESH_ZERO, NULL);
        ck_assert(rc == 0 || rc == BL_E_NOMEM);
        h.fail_at = -1;
        if (rc != 0) {
            ck_assert_int_eq(h.blocks, own);
            check_fails(bl_group_get_view(g, BL_BUFFER_ATTACHED, &view), BL_E_ARG);
            check_ok(bl_group_attach(g, "mu", data, BL_FRESH_ZERO, NULL));
        }
        for (int t = 0; t < 30; t++) {
            check_ok(bl_group_tick(g));
            if (bl_group_reallocate_due(g)) {
                check_ok(bl_group_reallocate(g, NULL));
            }
        }
        bl_adapter_free(a);
        free(data);
        ck_assert_int_eq(h.blocks, 0);
        ck_assert_int_lt(k, 1000);
    }
}
END_TEST

/* ----- nothing after creation ----- */

START_TEST(no_allocation)
{
    for (int32_t expand = 0; expand < 4; expand++) {
        heap       h;
        bl_options opt = heap_options(&h, expand % 2 ? BL_F64 : BL_F32);
        opt.expand = expand;
        opt.dropout = 0.1;
        opt.total_steps = 36;
        opt.p_start = 0.5;
        bl_spec specs[3];
        three_specs(specs);
        bl_group *group = NULL;
        bl_tape  *tapes[3];
        bl_plan  *plan = NULL;
        check_ok(bl_group_create(&group, specs, 3, &opt));
        for (int m = 0; m < 3; m++) {
            check_ok(bl_tape_create(&tapes[m], bl_group_get_adapter(group, m), 50, 1));
            randomize(bl_group_get_adapter(group, m), 1);
        }
        check_ok(bl_plan_create(&plan, group));
        int64_t calls = h.calls, rows = 0;
        for (int t = 0; t < 36; t++) {
            for (int m = 0; m < 3; m++) {
                bl_adapter *a = bl_group_get_adapter(group, m);
                int64_t     in = specs[m].in_features, out = specs[m].out_features;
                mat         x = mat_random(opt.parameter_dtype, 50, in, in, (uint64_t) t);
                mat         y = mat_random(opt.parameter_dtype, 50, out, out, 1);
                mat         d = mat_random(opt.parameter_dtype, 50, in, in, 1);
                double      r[8];
                check_ok(bl_forward(a, tapes[m], 50, y.data, out, x.data, in, t));
                check_ok(
                    bl_backward(a, tapes[m], 50, d.data, in, y.data, out, x.data, in));
                check_ok(bl_adapter_copy_importance(a, r));
                check_ok(bl_adapter_copy_norms(a, r));
                mat_free(&x);
                mat_free(&y);
                mat_free(&d);
            }
            check_ok(bl_group_step(group, 0.01, 1));
            if (bl_group_reallocate_due(group)) {
                check_ok(bl_group_reallocate(group, plan));
                rows += bl_plan_get_count(plan);
                check_ok(bl_group_plan(group, plan));
            }
            bytes b = save_group(group);
            bytes_free(&b);
        }
        bl_array arrays[256];
        int64_t  count = bl_group_get_state_count(group);
        ck_assert_int_le(count, 256);
        for (int64_t i = 0; i < count; i++) {
            check_ok(bl_group_get_state(group, i, &arrays[i]));
        }
        check_ok(bl_group_set_state(group, arrays, count)); /* its own, in place */
        bytes b = { NULL, 0, 0 };
        check_ok(bl_plan_save(plan, bytes_write, &b));
        check_ok(bl_plan_load(plan, b.data, b.size));
        bytes_free(&b);
        ck_assert_int_gt(rows, 0);
        ck_assert_int_eq(h.calls, calls);
        bl_plan_free(plan);
        for (int m = 0; m < 3; m++) {
            bl_tape_free(tapes[m]);
        }
        bl_group_free(group);
        ck_assert_int_eq(h.blocks, 0);
        ck_assert_uint_eq(h.live, 0);
    }
}
END_TEST

/* ----- the query ----- */

/* total is what the allocator is asked for, by the group and one tape per adapter. */
START_TEST(query)
{
    static const int64_t rows[] = { 0, 1, 7, 500 };
    for (int v = 0; v < 64; v++) {
        heap       h;
        bl_options opt = heap_options(&h, v & 1 ? BL_F64 : BL_F32);
        opt.method = v & 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        opt.optimizer = v & 4 ? BL_OPTIMIZER_HOST : BL_OPTIMIZER_ADAMW;
        opt.expand = v & 8 ? BL_EXPAND_CURRENT : BL_EXPAND_HISTORY;
        opt.dropout = v & 16 ? 0.1 : 0;
        opt.history_depth = v & 32 ? 4 : 1;
        bl_spec specs[3];
        three_specs(specs);
        specs[0].name = "a";
        for (int k = 0; k < 4; k++) {
            bl_memory m;
            bl_group *group = NULL;
            bl_tape  *tapes[3];
            memset(&m, 0xFF, sizeof m);
            m.size = sizeof m;
            check_ok(bl_memory_query(specs, 3, &opt, rows[k], &m));
            ck_assert_int_eq(h.blocks, 0);
            ck_assert_uint_eq(m.size, sizeof m);
            ck_assert_uint_eq(m.total, m.parameters + m.gradients + m.moments +
                                           m.history + m.bookkeeping + m.tapes);
            check_ok(bl_group_create(&group, specs, 3, &opt));
            size_t alone = h.live;
            for (int i = 0; i < 3; i++) {
                check_ok(bl_tape_create(&tapes[i], bl_group_get_adapter(group, i),
                                        rows[k], 1));
            }
            ck_assert_msg(h.live == m.total, "variant %d, n %d: allocated %zu, query %zu",
                          v, (int) rows[k], h.live, m.total);
            ck_assert_msg(h.live - alone == m.tapes, "tapes: allocated %zu, query %zu",
                          h.live - alone, m.tapes);
            ck_assert_uint_eq(h.most, h.live); /* nothing more on the way */
            bl_view all;
            size_t  size = dtype_bytes(opt.parameter_dtype);
            check_ok(bl_group_get_view(group, 0, &all));
            ck_assert_int_eq(all.cols, m.elements);
            ck_assert_uint_ge(m.parameters, (size_t) m.elements * size);
            ck_assert_uint_ge(m.gradients, (size_t) m.elements * size);
            if (opt.optimizer == BL_OPTIMIZER_HOST) {
                ck_assert_uint_eq(m.moments, 0);
            } else {
                ck_assert_uint_ge(m.moments, 2 * (size_t) m.elements * size);
            }
            for (int i = 0; i < 3; i++) {
                bl_tape_free(tapes[i]);
            }
            bl_group_free(group);
            ck_assert_int_eq(h.blocks, 0);
            h.most = 0;
        }
        bl_memory m;
        m.size = 8;
        ck_assert_int_lt(bl_memory_query(specs, 3, &opt, 0, &m), 0);
        m.size = sizeof m;
        ck_assert_int_lt(bl_memory_query(specs, 3, &opt, -1, &m), 0);
        ck_assert_int_lt(bl_memory_query(specs, 0, &opt, 1, &m), 0);
        specs[1].in_features = 0;
        ck_assert_int_lt(bl_memory_query(specs, 3, &opt, 1, &m), 0);
    }
}
END_TEST

/* keep = 0: no memory that grows with n. */
START_TEST(light_tapes)
{
    heap        h;
    bl_options  opt = heap_options(&h, BL_F32);
    bl_adapter *a = make_adapter(30, 40, &opt, 1);
    size_t      group = h.live, size[2];
    for (int k = 0; k < 2; k++) {
        bl_tape *tape = NULL;
        check_ok(bl_tape_create(&tape, a, k ? 10000000 : 100000, 0));
        size[k] = h.live - group;
        bl_tape_free(tape);
    }
    ck_assert_uint_eq(size[0], size[1]);
    bl_adapter_free(a);
}
END_TEST

/* ----- memory of the host ----- */

static void *poisoned(size_t size)
{
    unsigned char *p = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0xFF, (size + 63) / 64 * 64 + 64); /* NaN in both types */
    return p;
}

/* Lives where the host says, starts the same, trains the same, is not freed. */
START_TEST(host_buffers)
{
    for (int d = 0; d < 2; d++) {
        heap       h;
        bl_options opt = heap_options(&h, d ? BL_F64 : BL_F32);
        bl_spec    specs[3];
        bl_memory  m;
        bl_group  *own = NULL, *lent = NULL;
        three_specs(specs);
        m.size = sizeof m;
        check_ok(bl_memory_query(specs, 3, &opt, 0, &m));
        check_ok(bl_group_create(&own, specs, 3, &opt));
        size_t with = h.live;
        size_t size = (size_t) m.elements * dtype_bytes(opt.parameter_dtype);
        opt.parameters = poisoned(size);
        opt.gradients = poisoned(size);
        opt.moments_mv = poisoned(2 * size);
        check_ok(bl_group_create(&lent, specs, 3, &opt));
        ck_assert_uint_le(h.live - with, with - 4 * size);
        bl_memory q;
        q.size = sizeof q;
        check_ok(bl_memory_query(specs, 3, &opt, 0, &q));
        ck_assert_int_eq(q.elements, m.elements);

        bl_view v;
        check_ok(bl_group_get_view(lent, BL_BUFFER_PARAMETERS, &v));
        ck_assert_ptr_eq(v.data, opt.parameters);
        check_ok(bl_group_get_view(lent, BL_BUFFER_GRADIENTS, &v));
        ck_assert_ptr_eq(v.data, opt.gradients);
        check_ok(bl_group_get_view(lent, BL_BUFFER_M, &v));
        ck_assert_ptr_eq(v.data, opt.moments_mv);
        check_ok(bl_group_get_view(lent, BL_BUFFER_V, &v));
        ck_assert_ptr_eq((char *) v.data, (char *) opt.moments_mv + size);

        for (int t = 0; t < 25; t++) {
            for (int k = 0; k < 2; k++) {
                bl_group *g = k ? lent : own;
                for (int i = 0; i < 3; i++) {
                    bl_adapter *a = bl_group_get_adapter(g, i);
                    bl_tape    *tape = NULL;
                    int64_t     in = specs[i].in_features, out = specs[i].out_features;
                    mat x = mat_random(opt.parameter_dtype, 4, in, in, (uint64_t) t);
                    mat y = mat_random(opt.parameter_dtype, 4, out, out, 1);
                    check_ok(bl_tape_create(&tape, a, 4, 1));
                    check_ok(bl_forward(a, tape, 4, y.data, out, x.data, in, -1));
                    check_ok(bl_backward(a, tape, 4, NULL, 0, y.data, out, x.data, in));
                    mat_free(&x);
                    mat_free(&y);
                    bl_tape_free(tape);
                }
                check_ok(bl_group_step(g, 0.05, 1));
                if (bl_group_reallocate_due(g)) {
                    check_ok(bl_group_reallocate(g, NULL));
                }
            }
            bytes a = save_group(own), b = save_group(lent);
            ck_assert(bytes_equal(&a, &b));
            bytes_free(&a);
            bytes_free(&b);
        }
        /* Not past their ends. */
        void *const  lents[] = { opt.parameters, opt.gradients, opt.moments_mv };
        const size_t sizes[] = { size, size, 2 * size };
        for (int k = 0; k < 3; k++) {
            const unsigned char *p = lents[k];
            for (size_t i = sizes[k]; i < (sizes[k] + 63) / 64 * 64 + 64; i++) {
                ck_assert_int_eq(p[i], 0xFF);
            }
        }
        bl_group_free(lent);
        bl_group_free(own);
        ck_assert_int_eq(h.blocks, 0);
        free(opt.parameters);
        free(opt.gradients);
        free(opt.moments_mv);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("chaos");
    TCase *fail = tcase_create("failing");
    tcase_add_test(fail, group_create);
    tcase_add_test(fail, the_rest);
    tcase_add_test(fail, attach);
    suite_add_tcase(suite, fail);
    TCase *rest = tcase_create("memory");
    tcase_add_test(rest, no_allocation);
    tcase_add_test(rest, query);
    tcase_add_test(rest, light_tapes);
    tcase_add_test(rest, host_buffers);
    suite_add_tcase(suite, rest);
    return suite;
}
