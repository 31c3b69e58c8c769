/*
 * The state: resumed runs go on bit for bit from every step, through a blob and through
 * the list of arrays; damage and other settings are refused, and then nothing changes.
 */
#include "check_main.h"

#define MODULES 3
#define STEPS 36
#define VARIANTS 9

typedef struct run {
    bl_group *group;
    bl_tape  *tapes[MODULES];
    void     *attached;
} run;

static bl_options variant_options(int variant)
{
    bl_options opt = default_options(variant % 2 ? BL_F64 : BL_F32);
    opt.rank = 4;
    opt.period = 6;
    opt.total_steps = STEPS;
    opt.seed = 1234567890123456789u;
    opt.p_curve = BL_CURVE_CONSTANT;
    opt.p_start = 0.6;
    opt.dropout = variant % 3 ? 0.2 : 0;
    switch (variant) {
    case 1:
        opt.history_depth = 3;
        opt.history_interval = 2;
        opt.moments = BL_MOMENTS_KEEP;
        break;
    case 2:
        opt.expand = BL_EXPAND_NONE;
        break;
    case 3:
        opt.expand = BL_EXPAND_FRESH;
        break;
    case 4:
        opt.optimizer = BL_OPTIMIZER_HOST;
        break;
    case 5:
        opt.selection = BL_SELECT_RANDOM;
        opt.scope = BL_SCOPE_JOINT;
        break;
    case 6:
        opt.method = BL_METHOD_LORA;
        break;
    case 7:
        opt.history_depth = 2;
        opt.history_interval = 15; /* often nothing to copy from */
        opt.history_phase = 2;
        break;
    case 8:
        opt.history_dtype = BL_BF16;
        opt.scope = BL_SCOPE_GLOBAL;
        opt.history_depth = 2;
        opt.history_interval = 3;
        break;
    default:
        break;
    }
    return opt;
}

static void make_specs(bl_spec *specs)
{
    specs[0] = make_spec(5, 7, 0);
    specs[1] = make_spec(8, 3, 6);
    specs[2] = make_spec(1, 2, 2);
    specs[1].name = "blk.0.attn_q";
}

static run start_run(const bl_options *opt)
{
    run     r;
    bl_spec specs[MODULES];
    memset(&r, 0, sizeof r);
    make_specs(specs);
    check_ok(bl_group_create(&r.group, specs, MODULES, opt));
    for (int m = 0; m < MODULES; m++) {
        check_ok(bl_tape_create(&r.tapes[m], bl_group_get_adapter(r.group, m), 4, 1));
    }
    if (opt->optimizer == BL_OPTIMIZER_HOST) {
        bl_view all;
        check_ok(bl_group_get_view(r.group, 0, &all));
        size_t size = ((size_t) all.cols * dtype_bytes(all.dtype) + 63) / 64 * 64;
        r.attached = aligned_alloc(64, size);
        ck_assert_ptr_nonnull(r.attached);
        memset(r.attached, 0, size);
        check_ok(bl_group_attach(r.group, "momentum", r.attached, BL_FRESH_MEAN, NULL));
    }
    return r;
}

static void end_run(run *r)
{
    for (int m = 0; m < MODULES; m++) {
        bl_tape_free(r->tapes[m]);
    }
    bl_group_free(r->group);
    free(r->attached);
}

/* One step of training, a function of t and the state only. */
static void train(run *r)
{
    int64_t    t = bl_group_get_step(r->group);
    bl_options opt;
    opt.size = sizeof opt;
    check_ok(bl_group_copy_options(r->group, &opt));
    int32_t dtype = opt.parameter_dtype;
    for (int m = 0; m < MODULES; m++) {
        bl_adapter *a = bl_group_get_adapter(r->group, m);
        int64_t     in = bl_adapter_get_in(a), out = bl_adapter_get_out(a);
        mat         x = mat_random(dtype, 4, in, in, (uint64_t) (t * 10 + m));
        mat         y = mat_random(dtype, 4, out, out, (uint64_t) (t * 10 + m + 5));
        int64_t     key = opt.dropout > 0 ? t : BL_NO_DROPOUT;
        check_ok(bl_forward(a, r->tapes[m], 4, y.data, out, x.data, in, key));
        check_ok(bl_backward(a, r->tapes[m], 4, NULL, 0, y.data, out, x.data, in));
        mat_free(&x);
        mat_free(&y);
    }
    if (opt.optimizer == BL_OPTIMIZER_HOST) { /* SGD with momentum */
        bl_view p, g;
        check_ok(bl_group_get_view(r->group, BL_BUFFER_PARAMETERS, &p));
        check_ok(bl_group_get_view(r->group, BL_BUFFER_GRADIENTS, &g));
        for (int64_t i = 0; i < p.cols; i++) {
            double v =
                0.9 * get_value(r->attached, dtype, i) + get_value(g.data, dtype, i);
            set_value(r->attached, dtype, i, v);
            set_value(p.data, dtype, i, get_value(p.data, dtype, i) - 0.001 * v);
        }
        check_ok(bl_group_tick(r->group));
    } else {
        check_ok(bl_group_step(r->group, 0.05, 1));
    }
    if (t == 7) { /* changed on the way: part of the state */
        check_ok(bl_group_set_temperature(r->group, 0.08));
    }
    if (t == 15) {
        check_ok(bl_adapter_set_frozen(bl_group_get_adapter(r->group, 2), 1));
    }
    if (t == 27) {
        check_ok(bl_adapter_set_frozen(bl_group_get_adapter(r->group, 2), 0));
    }
    if (bl_group_reallocate_due(r->group)) {
        int rc = bl_group_reallocate(r->group, NULL);
        ck_assert_msg(rc == 0, "after step %d: %s", (int) t, bl_last_error());
    }
}

/* All arrays, at odd addresses, last first. */
static bl_array *copy_arrays(const bl_group *group, int64_t *count, void ***memory)
{
    *count = bl_group_get_state_count(group);
    bl_array *arrays = must_alloc(*count, sizeof *arrays);
    *memory = must_alloc(*count, sizeof **memory);
    for (int64_t i = 0; i < *count; i++) {
        bl_array *a = &arrays[*count - 1 - i];
        check_ok(bl_group_get_state(group, i, a));
        size_t size = a->dtype == BL_U8 ? 1 : a->dtype == BL_F32 ? 4 : 8;
        size *= (size_t) a->shape[0];
        size *= a->dims == 2 ? (size_t) a->shape[1] : 1;
        unsigned char *data = must_alloc((int64_t) size + 1, 1);
        if (size > 0) {
            memcpy(data + 1, a->data, size);
        }
        a->data = data + 1;
        (*memory)[i] = data;
    }
    return arrays;
}

static void free_arrays(bl_array *arrays, int64_t count, void **memory)
{
    for (int64_t i = 0; i < count; i++) {
        free(memory[i]);
    }
    free(memory);
    free(arrays);
}

/* From every step of a run: by blob or by arrays, to the end and equal throughout. */
START_TEST(resume)
{
    bl_options opt = variant_options(_i);
    bytes      at[STEPS + 1];
    run        whole = start_run(&opt);
    for (int t = 0; t < STEPS; t++) {
        at[t] = save_group(whole.group);
        ck_assert_uint_eq(at[t].size, bl_group_get_saved_bytes(whole.group));
        train(&whole);
    }
    at[STEPS] = save_group(whole.group);
    for (int t = 0; t <= STEPS; t++) {
        run part = start_run(&opt);
        if (t % 3 == 1) { /* into a group that has been elsewhere */
            train(&part);
            train(&part);
        }
        if (t % 2) {
            check_ok(bl_group_load(part.group, at[t].data, at[t].size));
        } else {
            run     other = start_run(&opt);
            int64_t count;
            void  **memory;
            check_ok(bl_group_load(other.group, at[t].data, at[t].size));
            bl_array *arrays = copy_arrays(other.group, &count, &memory);
            check_ok(bl_group_set_state(part.group, arrays, count));
            free_arrays(arrays, count, memory);
            end_run(&other);
        }
        ck_assert_int_eq(bl_group_get_step(part.group), t);
        int last = t + 14 > STEPS ? STEPS : t + 14;
        for (int k = t; k <= last; k++) {
            bytes now = save_group(part.group);
            ck_assert_msg(bytes_equal(&now, &at[k]), "from step %d: differs at step %d",
                          t, k);
            bytes_free(&now);
            if (k < last) {
                train(&part);
            }
        }
        end_run(&part);
    }
    for (int t = 0; t <= STEPS; t++) {
        bytes_free(&at[t]);
    }
    end_run(&whole);
}
END_TEST

/* Names are unique, shapes those of the tensors, data there. */
START_TEST(listing)
{
    bl_options opt = variant_options(_i);
    run        r = start_run(&opt);
    for (int t = 0; t < 9; t++) {
        train(&r);
    }
    int64_t  count = bl_group_get_state_count(r.group);
    bl_array a, b;
    ck_assert_int_gt(count, MODULES * 2);
    for (int64_t i = 0; i < count; i++) {
        check_ok(bl_group_get_state(r.group, i, &a));
        ck_assert_ptr_nonnull(memchr(a.name, 0, sizeof a.name));
        ck_assert_int_gt((int) strlen(a.name), 0);
        ck_assert(a.dims == 1 || a.dims == 2);
        ck_assert(a.shape[0] >= 0 && (a.dims == 1 || a.shape[1] >= 0));
        ck_assert_ptr_nonnull(a.data);
        for (int64_t k = 0; k < i; k++) {
            check_ok(bl_group_get_state(r.group, k, &b));
            ck_assert_str_ne(a.name, b.name);
        }
    }
    ck_assert_int_lt(bl_group_get_state(r.group, count, &a), 0);
    ck_assert_int_lt(bl_group_get_state(r.group, -1, &a), 0);
    check_fails(bl_group_get_state(r.group, 0, NULL), BL_E_ARG);
    end_run(&r);
}
END_TEST

/* Every way to spoil the list: refused by code, and the group is as it was. */
START_TEST(bad_lists)
{
    bl_options opt = variant_options(_i);
    run        r = start_run(&opt), target = start_run(&opt);
    for (int t = 0; t < 13; t++) {
        train(&r);
    }
    train(&target);
    bytes     before = save_group(target.group);
    int64_t   count;
    void    **memory;
    bl_array *arrays = copy_arrays(r.group, &count, &memory);
    for (int64_t i = 0; i < count; i++) {
        bl_array kept = arrays[i], other = arrays[(i + 1) % count];
        int      rc;
        /* missing */
        arrays[i] = arrays[count - 1];
        check_fails(bl_group_set_state(target.group, arrays, count - 1), BL_E_FORMAT);
        arrays[i] = kept;
        /* repeated (and so another is missing) */
        arrays[i] = other;
        check_fails(bl_group_set_state(target.group, arrays, count), BL_E_FORMAT);
        arrays[i] = kept;
        /* unknown */
        snprintf(arrays[i].name, sizeof arrays[i].name, "never.heard.of");
        check_fails(bl_group_set_state(target.group, arrays, count), BL_E_FORMAT);
        arrays[i] = kept;
        /* a name without an end */
        memset(arrays[i].name, 'x', sizeof arrays[i].name);
        ck_assert_int_lt(bl_group_set_state(target.group, arrays, count), 0);
        arrays[i] = kept;
        /* another shape */
        arrays[i].shape[0]++;
        rc = bl_group_set_state(target.group, arrays, count);
        ck_assert_msg(rc == BL_E_SHAPE, "%s: %d", kept.name, rc);
        arrays[i] = kept;
        /* another number of dimensions, another type */
        arrays[i].dims = 3;
        ck_assert_int_lt(bl_group_set_state(target.group, arrays, count), 0);
        arrays[i] = kept;
        arrays[i].dtype = kept.dtype == BL_U8 ? BL_F64 : BL_U8;
        ck_assert_int_lt(bl_group_set_state(target.group, arrays, count), 0);
        arrays[i] = kept;
        if (kept.shape[0] > 0) {
            arrays[i].data = NULL;
            ck_assert_int_lt(bl_group_set_state(target.group, arrays, count), 0);
            arrays[i] = kept;
        }
        bytes after = save_group(target.group);
        ck_assert_msg(bytes_equal(&before, &after), "%s: something changed", kept.name);
        bytes_free(&after);
    }
    /* one too many */
    bl_array *more = must_alloc(count + 1, sizeof *more);
    memcpy(more, arrays, (size_t) count * sizeof *more);
    more[count] = arrays[0];
    check_fails(bl_group_set_state(target.group, more, count + 1), BL_E_FORMAT);
    snprintf(more[count].name, sizeof more[count].name, "extra");
    check_fails(bl_group_set_state(target.group, more, count + 1), BL_E_FORMAT);
    free(more);
    ck_assert_int_lt(bl_group_set_state(target.group, arrays, 0), 0);
    ck_assert_int_lt(bl_group_set_state(target.group, arrays, -1), 0);
    ck_assert_int_lt(bl_group_set_state(target.group, NULL, count), 0);
    bytes after = save_group(target.group);
    ck_assert(bytes_equal(&before, &after));
    /* unspoilt it is taken */
    check_ok(bl_group_set_state(target.group, arrays, count));
    bytes want = save_group(r.group), got = save_group(target.group);
    ck_assert(bytes_equal(&want, &got));
    bytes_free(&want);
    bytes_free(&got);
    bytes_free(&before);
    bytes_free(&after);
    free_arrays(arrays, count, memory);
    end_run(&r);
    end_run(&target);
}
END_TEST

/* A flipped bit, a cut, an appended byte: never taken, and never half taken. */
START_TEST(damage)
{
    bl_options opt = variant_options(_i);
    run        r = start_run(&opt), target = start_run(&opt);
    for (int t = 0; t < 13; t++) {
        train(&r);
    }
    train(&target);
    bytes before = save_group(target.group), blob = save_group(r.group);
    for (size_t i = 0; i < blob.size; i++) {
        unsigned char bit = (unsigned char) (1u << (i % 8));
        blob.data[i] ^= bit;
        int rc = bl_group_load(target.group, blob.data, blob.size);
        ck_assert_msg(rc == BL_E_FORMAT || rc == BL_E_VERSION, "byte %d: %d", (int) i,
                      rc);
        blob.data[i] ^= bit;
    }
    for (size_t n = 0; n < blob.size; n += n < 200 ? 1 : 37) {
        unsigned char *cut = must_alloc((int64_t) n, 1); /* its end is the heap's */
        memcpy(cut, blob.data, n);
        check_fails(bl_group_load(target.group, cut, n), BL_E_FORMAT);
        free(cut);
    }
    bytes_write(&blob, "", 1);
    check_fails(bl_group_load(target.group, blob.data, blob.size), BL_E_FORMAT);
    blob.size--;
    ck_assert_int_lt(bl_group_load(target.group, NULL, 0), 0);
    bytes after = save_group(target.group);
    ck_assert(bytes_equal(&before, &after));
    check_ok(bl_group_load(target.group, blob.data, blob.size));
    /* At an odd address, too. */
    unsigned char *odd = must_alloc((int64_t) blob.size + 1, 1);
    memcpy(odd + 1, blob.data, blob.size);
    check_ok(bl_group_load(target.group, odd + 1, blob.size));
    free(odd);
    bytes_free(&before);
    bytes_free(&after);
    bytes_free(&blob);
    end_run(&r);
    end_run(&target);
}
END_TEST

/* ----- other settings ----- */

/* What may differ on resume: taken. */
START_TEST(may_differ)
{
    bl_options opt = variant_options(0);
    run        r = start_run(&opt);
    for (int t = 0; t < 5; t++) {
        train(&r);
    }
    bytes blob = save_group(r.group);
    opt.lr = 0.5;
    opt.temperature = 0.05;
    opt.beta1 = 0.5;
    opt.beta2 = 0.9;
    opt.epsilon = 1e-3;
    opt.weight_decay = 0.2;
    opt.b_lr_ratio = 4;
    opt.score_lr_ratio = 0.1;
    run other = start_run(&opt);
    check_ok(bl_group_load(other.group, blob.data, blob.size));
    bl_options got;
    got.size = sizeof got;
    check_ok(bl_group_copy_options(other.group, &got));
    check_near(got.beta1, 0.5, 0);
    check_near(got.weight_decay, 0.2, 0);
    train(&other);
    bytes_free(&blob);
    end_run(&r);
    end_run(&other);
}
END_TEST

static void check_differs(const bytes *blob, const bl_options *opt, const char *name)
{
    run   r = start_run(opt);
    bytes before = save_group(r.group);
    int   rc = bl_group_load(r.group, blob->data, blob->size);
    ck_assert_msg(rc == BL_E_OPTIONS, "%s: %d (%s)", name, rc, bl_last_error());
    ck_assert_msg(strstr(bl_last_error(), name) != NULL, "\"%s\" does not name %s",
                  bl_last_error(), name);
    bytes after = save_group(r.group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    end_run(&r);
}

#define DIFFERS(field, value)                                                            \
    do {                                                                                 \
        bl_options other = variant_options(0);                                           \
        other.field = value;                                                             \
        check_differs(&blob, &other, #field);                                            \
    } while (0)

/* What must not: refused, by name and with both values. */
START_TEST(must_equal)
{
    bl_options opt = variant_options(0);
    run        r = start_run(&opt);
    for (int t = 0; t < 5; t++) {
        train(&r);
    }
    bytes blob = save_group(r.group);
    DIFFERS(scaling, BL_SCALING_RSLORA);
    DIFFERS(dropout, 0.5);
    DIFFERS(seed, 1234567890123456788u); /* equal as doubles */
    DIFFERS(reallocation, 0);
    DIFFERS(total_steps, STEPS + 1);
    DIFFERS(period, 7);
    DIFFERS(start, 1);
    DIFFERS(p_start, 0.61);
    DIFFERS(p_end, 0.9);
    DIFFERS(p_curve, BL_CURVE_LINEAR);
    DIFFERS(scope, BL_SCOPE_JOINT);
    DIFFERS(p_steps, 10);
    DIFFERS(crossing, BL_CROSSING_PRUNED);
    DIFFERS(importance, BL_IMPORTANCE_CONTRIBUTION);
    DIFFERS(selection, BL_SELECT_RANDOM);
    DIFFERS(fixed_count, 1);
    DIFFERS(max_prune_fraction, 0.75);
    DIFFERS(idle, 0.1);
    DIFFERS(pairing, BL_PAIRING_ORDERED);
    DIFFERS(transfer, BL_TRANSFER_PRESERVE);
    DIFFERS(history_age, 1);
    DIFFERS(history_phase, 3);
    DIFFERS(history_interval, 3);

    opt.seed = 5;
    run seed = start_run(&opt);
    check_fails(bl_group_load(seed.group, blob.data, blob.size), BL_E_OPTIONS);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "1234567890123456789"));
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "5"));
    end_run(&seed);
    bytes_free(&blob);
    end_run(&r);
}
END_TEST

/* Settings that change the list itself: refused, by whichever comes first. */
START_TEST(other_layouts)
{
    bl_options opt = variant_options(0);
    run        r = start_run(&opt);
    bytes      blob = save_group(r.group);
    for (int k = 0; k < 9; k++) {
        bl_options o = variant_options(0);
        bl_spec    specs[MODULES];
        bl_group  *group = NULL;
        int64_t    count = MODULES;
        make_specs(specs);
        switch (k) {
        case 0:
            o.method = BL_METHOD_LORA;
            break;
        case 1:
            o.optimizer = BL_OPTIMIZER_HOST;
            break;
        case 2:
            o.expand = BL_EXPAND_CURRENT;
            break;
        case 3:
            o.moments = BL_MOMENTS_KEEP;
            break;
        case 4:
            o.history_depth = 2;
            break;
        case 5:
            specs[0].rank = 5;
            break;
        case 6:
            o.parameter_dtype = o.activation_dtype = BL_F64;
            break;
        case 7:
            o.history_dtype = BL_BF16;
            break;
        default:
            count = 2;
            break;
        }
        check_ok(bl_group_create(&group, specs, count, &o));
        bytes before = save_group(group);
        int   rc = bl_group_load(group, blob.data, blob.size);
        ck_assert_msg(rc == BL_E_OPTIONS || rc == BL_E_SHAPE || rc == BL_E_FORMAT,
                      "case %d: %d", k, rc);
        if (k < 5) {
            ck_assert_msg(rc == BL_E_OPTIONS, "case %d: %d (%s)", k, rc, bl_last_error());
        }
        bytes after = save_group(group);
        ck_assert(bytes_equal(&before, &after));
        bytes_free(&before);
        bytes_free(&after);
        bl_group_free(group);
    }
    bytes_free(&blob);
    end_run(&r);
}
END_TEST

/* Impossible values in the state's bookkeeping. Every I64 and U8 array gets values that
 * no run produces; a list is either refused whole, or it works. Below -1 none works. */
START_TEST(impossible)
{
    static const int64_t values[] = { -2, INT64_MIN + 2, INT64_MAX, 1000000 };
    bl_options           opt = variant_options(1);
    run                  r = start_run(&opt);
    for (int t = 0; t < 13; t++) {
        train(&r);
    }
    int64_t   count, refused = 0, tried = 0;
    void    **memory;
    bl_array *arrays = copy_arrays(r.group, &count, &memory);
    for (int64_t i = 0; i < count; i++) {
        if (arrays[i].dtype != BL_I64 && arrays[i].dtype != BL_U8) {
            continue;
        }
        for (int k = 0; k < 4; k++) {
            run      target = start_run(&opt);
            bl_array kept = arrays[i];
            size_t   size = kept.dtype == BL_U8 ? 1 : 8;
            size_t   total = size * (size_t) kept.shape[0] *
                           (kept.dims == 2 ? (size_t) kept.shape[1] : 1);
            if (total == 0) {
                end_run(&target);
                continue;
            }
            unsigned char *data = must_alloc((int64_t) total, 1);
            bytes          before = save_group(target.group);
            memcpy(data, kept.data, total);
            memcpy(data, &values[k], size);
            arrays[i].data = data;
            int rc = bl_group_set_state(target.group, arrays, count);
            if (rc < 0) {
                bytes after = save_group(target.group);
                ck_assert(bytes_equal(&before, &after));
                bytes_free(&after);
                refused++;
            } else {
                ck_assert_msg(k > 1, "%s: %lld was taken", kept.name,
                              (long long) values[k]);
                for (int t = 0; t < 3; t++) {
                    train(&target);
                }
            }
            tried++;
            arrays[i] = kept;
            bytes_free(&before);
            free(data);
            end_run(&target);
        }
    }
    ck_assert_int_gt(tried, 0);
    ck_assert_int_gt(refused, 0);
    free_arrays(arrays, count, memory);
    end_run(&r);
}
END_TEST

/* Writing that is refused at every call in turn. */
typedef struct stubborn {
    int calls, refuse_at;
} stubborn;

static int stubborn_write(void *user, const void *data, size_t size)
{
    stubborn *s = user;
    (void) data;
    (void) size;
    return s->calls++ == s->refuse_at ? 5 : 0;
}

START_TEST(write_fails)
{
    bl_options opt = variant_options(0);
    run        r = start_run(&opt);
    stubborn   s = { 0, -1 };
    train(&r);
    check_ok(bl_group_save(r.group, stubborn_write, &s));
    int calls = s.calls;
    ck_assert_int_gt(calls, 0);
    for (int k = 0; k < calls; k++) {
        s.calls = 0;
        s.refuse_at = k;
        check_fails(bl_group_save(r.group, stubborn_write, &s), BL_E_USER);
        ck_assert_int_eq(s.calls, k + 1); /* stopped at once */
    }
    check_fails(bl_group_save(r.group, NULL, NULL), BL_E_ARG);
    end_run(&r);
}
END_TEST

/* Gradients are no part of the state: gone after a load. */
START_TEST(gradients_gone)
{
    bl_options opt = variant_options(0);
    run        r = start_run(&opt);
    train(&r);
    bytes       blob = save_group(r.group);
    bl_adapter *a = bl_group_get_adapter(r.group, 0);
    mat         x = mat_random(BL_F32, 2, 5, 5, 1), y = mat_random(BL_F32, 2, 7, 7, 2);
    double      norm = -1;
    check_ok(bl_forward(a, r.tapes[0], 2, y.data, 7, x.data, 5, -1));
    check_ok(bl_backward(a, r.tapes[0], 2, NULL, 0, y.data, 7, x.data, 5));
    bytes same = save_group(r.group);
    ck_assert(bytes_equal(&blob, &same));
    check_ok(bl_group_load(r.group, blob.data, blob.size));
    check_ok(bl_group_copy_gradient_norm(r.group, &norm));
    check_near(norm, 0, 0);
    mat_free(&x);
    mat_free(&y);
    bytes_free(&blob);
    bytes_free(&same);
    end_run(&r);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("state");
    TCase *trip = tcase_create("resume");
    tcase_add_loop_test(trip, resume, 0, VARIANTS);
    tcase_add_loop_test(trip, listing, 0, VARIANTS);
    tcase_set_timeout(trip, 120);
    suite_add_tcase(suite, trip);
    TCase *bad = tcase_create("bad");
    tcase_add_loop_test(bad, bad_lists, 0, VARIANTS);
    tcase_add_loop_test(bad, damage, 0, VARIANTS);
    tcase_add_test(bad, impossible);
    tcase_add_test(bad, write_fails);
    tcase_add_test(bad, gradients_gone);
    tcase_set_timeout(bad, 120);
    suite_add_tcase(suite, bad);
    TCase *settings = tcase_create("settings");
    tcase_add_test(settings, may_differ);
    tcase_add_test(settings, must_equal);
    tcase_add_test(settings, other_layouts);
    suite_add_tcase(suite, settings);
    return suite;
}
