/* Defaults, presets, structs of other sizes, ranges, and what is refused with a reason. */
#include "check_main.h"

static int try_group(const bl_options *opt)
{
    bl_adapter *a = NULL;
    int         rc = bl_adapter_create(&a, 4, 5, opt);
    ck_assert((rc == 0) == (a != NULL)); /* written only on success */
    bl_adapter_free(a);
    return rc;
}

START_TEST(defaults)
{
    bl_options opt;
    memset(&opt, 0xA5, sizeof opt);
    check_ok(bl_options_init(&opt, sizeof opt));
    ck_assert_uint_eq(opt.size, sizeof opt);
    ck_assert_int_eq(opt.method, BL_METHOD_BEAMLORA);
    ck_assert_int_eq(opt.scaling, BL_SCALING_STANDARD);
    ck_assert_int_eq(opt.rank, 8);
    check_near(opt.alpha, 16, 0);
    check_near(opt.dropout, 0, 0);
    check_near(opt.temperature, 0, 0);
    ck_assert_int_eq(opt.parameter_dtype, BL_F32);
    ck_assert_int_eq(opt.activation_dtype, BL_F32);
    ck_assert_uint_eq(opt.seed, 0);
    ck_assert_int_eq(opt.optimizer, BL_OPTIMIZER_ADAMW);
    ck_assert_int_eq(opt.reallocation, 1);
    check_near(opt.lr, 0, 0);
    check_near(opt.beta1, 0.9, 0);
    check_near(opt.beta2, 0.999, 0);
    check_near(opt.epsilon, 1e-8, 0);
    check_near(opt.weight_decay, 0, 0);
    check_near(opt.b_lr_ratio, 1, 0);
    check_near(opt.score_lr_ratio, 1, 0);
    ck_assert_int_eq(opt.total_steps, 0);
    ck_assert_int_eq(opt.period, 0);
    ck_assert_int_eq(opt.start, 0);
    check_near(opt.p_start, 0.95, 0);
    check_near(opt.p_end, 1, 0);
    ck_assert_int_eq(opt.p_curve, BL_CURVE_COSINE);
    ck_assert_int_eq(opt.scope, BL_SCOPE_MODULE);
    ck_assert_int_eq(opt.p_steps, 0);
    ck_assert_int_eq(opt.crossing, BL_CROSSING_KEPT);
    ck_assert_int_eq(opt.importance, BL_IMPORTANCE_SCORE);
    ck_assert_int_eq(opt.selection, BL_SELECT_LOWEST);
    ck_assert_int_eq(opt.fixed_count, 0);
    check_near(opt.max_prune_fraction, 0.5, 0);
    check_near(opt.idle, 0, 0);
    ck_assert_int_eq(opt.expand, BL_EXPAND_HISTORY);
    ck_assert_int_eq(opt.moments, BL_MOMENTS_COPY);
    ck_assert_int_eq(opt.pairing, BL_PAIRING_SHUFFLED);
    ck_assert_int_eq(opt.transfer, BL_TRANSFER_MEAN);
    ck_assert_int_eq(opt.history_depth, 1);
    ck_assert_int_eq(opt.history_interval, 0);
    ck_assert_int_eq(opt.history_phase, -1);
    ck_assert_int_eq(opt.history_age, -1);
    ck_assert_int_eq(opt.history_dtype, 0);
    ck_assert_ptr_null(opt.parameters);
    ck_assert_ptr_null(opt.parallel_user);
    ck_assert_ptr_null(opt.alloc_user);
    check_fails(bl_options_init(NULL, sizeof opt), BL_E_ARG);
    check_fails(bl_options_init(&opt, sizeof opt - 8), BL_E_OPTIONS);
    check_fails(bl_options_init(&opt, 0), BL_E_OPTIONS);
}
END_TEST

START_TEST(presets)
{
    bl_options paper, opt;
    check_ok(bl_options_init(&paper, sizeof paper));
    /* Whatever was set, a preset puts its own back and leaves the rest. */
    check_ok(bl_options_init(&opt, sizeof opt));
    opt.scope = BL_SCOPE_JOINT;
    opt.max_prune_fraction = 0.1;
    opt.history_depth = 7;
    opt.temperature = 2;
    opt.expand = BL_EXPAND_FRESH;
    opt.p_curve = BL_CURVE_LINEAR;
    opt.b_lr_ratio = 4;
    opt.score_lr_ratio = 0.1;
    opt.period = 5;
    opt.start = 6;
    opt.p_start = 0.5;
    opt.p_end = 0.5;
    opt.p_steps = 9;
    opt.crossing = BL_CROSSING_PRUNED;
    opt.importance = BL_IMPORTANCE_CONTRIBUTION;
    opt.selection = BL_SELECT_RANDOM;
    opt.moments = BL_MOMENTS_ZERO;
    opt.pairing = BL_PAIRING_ORDERED;
    opt.transfer = BL_TRANSFER_PRESERVE;
    opt.history_interval = 2;
    opt.history_phase = 2;
    opt.history_age = 2;
    check_ok(bl_options_preset(&opt, BL_PRESET_PAPER));
    ck_assert_int_eq(memcmp(&opt, &paper, sizeof opt), 0);

    opt.rank = 3;
    opt.total_steps = 77;
    opt.fixed_count = 2;
    opt.idle = 0.5;
    opt.seed = 9;
    opt.history_dtype = BL_BF16;
    check_ok(bl_options_preset(&opt, BL_PRESET_PUBLISHED));
    ck_assert_int_eq(opt.scope, BL_SCOPE_JOINT);
    ck_assert_int_eq(opt.crossing, BL_CROSSING_PRUNED);
    check_near(opt.max_prune_fraction, 1, 0);
    ck_assert_int_eq(opt.moments, BL_MOMENTS_KEEP);
    ck_assert_int_eq(opt.pairing, BL_PAIRING_SHUFFLED);
    check_near(opt.p_start, 0.95, 0);
    check_near(opt.p_end, 1, 0);
    ck_assert_int_eq(opt.rank, 3);
    ck_assert_int_eq(opt.total_steps, 77);
    ck_assert_int_eq(opt.fixed_count, 2);
    check_near(opt.idle, 0.5, 0);
    ck_assert_uint_eq(opt.seed, 9);
    ck_assert_int_eq(opt.history_dtype, BL_BF16);

    check_ok(bl_options_preset(&opt, BL_PRESET_TIGHTENING));
    check_near(opt.p_start, 1, 0);
    check_near(opt.p_end, 0.95, 0);
    ck_assert_int_eq(opt.scope, BL_SCOPE_MODULE);
    ck_assert_int_eq(opt.moments, BL_MOMENTS_COPY);
    bl_options before = opt;
    ck_assert_int_lt(bl_options_preset(&opt, 4), 0);
    ck_assert_int_lt(bl_options_preset(&opt, -1), 0);
    ck_assert_int_eq(memcmp(&before, &opt, sizeof opt), 0);
    check_fails(bl_options_preset(NULL, 0), BL_E_ARG);

    for (int32_t k = 0; k < 4; k++) { /* every one trains */
        opt = default_options(BL_F32);
        check_ok(bl_options_preset(&opt, k));
        check_ok(try_group(&opt));
    }
}
END_TEST

/* (auto) values, as METHOD has them. */
START_TEST(worked_out)
{
    static const struct {
        int64_t total, period, start;
        double  lr;
        int64_t want_period, want_steps, phase, age;
        double  tau;
    } cases[] = {
        { 120, 0, 0, 0, 10, 80, 6, 4, 0.05 },
        { 37000, 3000, 0, 1e-4, 3000, 24666, 1501, 1499, 0.05 },
        { 24, 0, 0, 9.9e-5, 3, 16, 2, 0, 0.03 },
        { 100, 7, 11, 1e-3, 7, 66, 4, 2, 0.05 },
        { 100, 1, 0, 1e-9, 1, 66, 1, 0, 0.03 },
        { 100, 2, 0, 0, 2, 66, 2, 0, 0.05 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_options opt = default_options(BL_F32), got;
        opt.total_steps = cases[i].total;
        opt.period = cases[i].period;
        opt.start = cases[i].start;
        opt.lr = cases[i].lr;
        bl_adapter *a = NULL;
        check_ok(bl_adapter_create(&a, 3, 4, &opt));
        got.size = sizeof got;
        check_ok(bl_group_copy_options(bl_adapter_get_group(a), &got));
        ck_assert_int_eq(got.period, cases[i].want_period);
        ck_assert_int_eq(got.p_steps, cases[i].want_steps);
        ck_assert_int_eq(got.history_interval, cases[i].want_period);
        ck_assert_int_eq(got.history_phase, cases[i].phase);
        ck_assert_int_eq(got.history_age, cases[i].age);
        check_near(got.temperature, cases[i].tau, 0);
        check_near(bl_group_get_temperature(bl_adapter_get_group(a)), cases[i].tau, 0);
        ck_assert_int_eq(got.rank, 8);
        ck_assert_uint_eq(got.size, sizeof got);
        got.size = 8;
        ck_assert_int_lt(bl_group_copy_options(bl_adapter_get_group(a), &got), 0);
        bl_adapter_free(a);
    }
}
END_TEST

/* NULL options: the defaults, which lack total_steps, so only those without it work. */
START_TEST(null_options)
{
    bl_adapter *a = NULL;
    check_fails(bl_adapter_create(&a, 3, 4, NULL), BL_E_OPTIONS);
    ck_assert_ptr_null(a);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "total_steps"));
}
END_TEST

/* ----- structs of another size ----- */

typedef struct longer {
    bl_options    opt;
    unsigned char tail[64];
} longer;

START_TEST(sizes)
{
    bl_options opt = default_options(BL_F32);
    opt.size = sizeof opt - 8; /* shorter than the first release's */
    check_fails(try_group(&opt), BL_E_OPTIONS);
    opt.size = 0;
    check_fails(try_group(&opt), BL_E_OPTIONS);
    opt.size = sizeof opt.size;
    check_fails(try_group(&opt), BL_E_OPTIONS);

    longer big;
    memset(&big, 0xFF, sizeof big);
    check_ok(bl_options_init(&big.opt, sizeof big));
    ck_assert_uint_eq(big.opt.size, sizeof big);
    for (size_t i = 0; i < sizeof big.tail; i++) {
        ck_assert_int_eq(big.tail[i], 0);
    }
    big.opt.total_steps = 100;
    check_ok(try_group(&big.opt));
    for (size_t i = 0; i < sizeof big.tail; i++) {
        big.tail[i] = 1; /* asks for something that this library does not know */
        check_fails(try_group(&big.opt), BL_E_OPTIONS);
        big.tail[i] = 0;
    }

    /* copy_options into a longer struct: the tail is zero or left alone, not past it */
    bl_adapter *a = NULL;
    check_ok(bl_adapter_create(&a, 3, 4, &big.opt));
    memset(&big, 0, sizeof big);
    big.opt.size = sizeof big;
    check_ok(bl_group_copy_options(bl_adapter_get_group(a), &big.opt));
    ck_assert_int_eq(big.opt.total_steps, 100);
    ck_assert_uint_eq(big.opt.size, sizeof big);
    check_ok(try_group(&big.opt));
    bl_adapter_free(a);
}
END_TEST

START_TEST(spec_sizes)
{
    typedef struct long_spec {
        bl_spec spec;
        int64_t tail;
    } long_spec;
    bl_options opt = default_options(BL_F32);
    long_spec  specs[3];
    memset(specs, 0, sizeof specs);
    for (int i = 0; i < 3; i++) {
        specs[i].spec = make_spec(3 + i, 5 + i, 2);
        specs[i].spec.size = sizeof specs[i];
    }
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, &specs[0].spec, 3, &opt));
    for (int i = 0; i < 3; i++) { /* found at the caller's stride */
        ck_assert_int_eq(bl_adapter_get_in(bl_group_get_adapter(group, i)), 3 + i);
        ck_assert_int_eq(bl_adapter_get_out(bl_group_get_adapter(group, i)), 5 + i);
    }
    bl_group_free(group);
    group = NULL;
    specs[2].tail = 1;
    check_fails(bl_group_create(&group, &specs[0].spec, 3, &opt), BL_E_OPTIONS);
    specs[2].tail = 0;
    specs[1].spec.size = 8;
    check_fails(bl_group_create(&group, &specs[0].spec, 3, &opt), BL_E_OPTIONS);
    specs[0].spec.size = sizeof(bl_spec) - 8;
    check_fails(bl_group_create(&group, &specs[0].spec, 1, &opt), BL_E_OPTIONS);
    ck_assert_ptr_null(group);
}
END_TEST

/* ----- ranges ----- */

#define BAD(field, value)                                                                \
    do {                                                                                 \
        bl_options bad = default_options(BL_F32);                                        \
        bad.field = value;                                                               \
        int rc = try_group(&bad);                                                        \
        ck_assert_msg(rc < 0, #field " = " #value " was accepted");                      \
        ck_assert_msg(rc == BL_E_RANGE || rc == BL_E_OPTIONS || rc == BL_E_ARG ||        \
                          rc == BL_E_SHAPE,                                              \
                      #field " = " #value " returned %d", rc);                           \
        ck_assert_msg(strstr(bl_last_error(), #field) != NULL,                           \
                      #field " = " #value ": \"%s\" does not name it", bl_last_error()); \
    } while (0)

#define GOOD(field, value)                                                               \
    do {                                                                                 \
        bl_options good = default_options(BL_F32);                                       \
        good.field = value;                                                              \
        int rc = try_group(&good);                                                       \
        ck_assert_msg(rc == 0, #field " = " #value ": %s", bl_last_error());             \
    } while (0)

START_TEST(ranges)
{
    const double nan_ = (double) NAN, inf = (double) INFINITY;
    BAD(method, 3);
    BAD(method, -1);
    BAD(scaling, 2);
    BAD(rank, 0);
    BAD(rank, -3);
    BAD(rank, (int64_t) INT32_MAX + 1);
    BAD(alpha, nan_);
    BAD(alpha, inf);
    BAD(dropout, 1);
    BAD(dropout, -0.1);
    BAD(dropout, nan_);
    BAD(temperature, -1);
    BAD(temperature, nan_);
    BAD(temperature, inf);
    BAD(parameter_dtype, BL_BF16);
    BAD(history_dtype, BL_F64); /* parameters are F32 */
    BAD(history_dtype, BL_F16);
    BAD(reserved, 1);
    GOOD(history_dtype, BL_BF16);
    BAD(parameter_dtype, BL_I64);
    BAD(activation_dtype, BL_F64); /* unlike the parameters' */
    BAD(optimizer, 2);
    BAD(reallocation, 2);
    BAD(lr, -1);
    BAD(lr, nan_);
    BAD(beta1, 1);
    BAD(beta1, -0.1);
    BAD(beta2, 1);
    BAD(beta2, nan_);
    BAD(epsilon, 0);
    BAD(epsilon, nan_);
    BAD(weight_decay, -1);
    BAD(weight_decay, inf);
    BAD(b_lr_ratio, -1);
    BAD(score_lr_ratio, nan_);
    BAD(total_steps, -1);
    BAD(total_steps, 0);
    BAD(period, -1);
    BAD(start, -1);
    BAD(p_start, 0);
    BAD(p_start, 1.1);
    BAD(p_start, nan_);
    BAD(p_end, 0);
    BAD(p_end, -1);
    BAD(p_curve, 3);
    BAD(scope, 3);
    BAD(p_steps, -1);
    BAD(crossing, 2);
    BAD(importance, 3);
    BAD(selection, 2);
    BAD(dora, 2);
    BAD(fixed_count, -1);
    BAD(max_prune_fraction, -0.1);
    BAD(max_prune_fraction, 1.1);
    BAD(max_prune_fraction, nan_);
    BAD(idle, -1);
    BAD(idle, nan_);
    BAD(expand, 4);
    BAD(moments, 3);
    BAD(pairing, 2);
    BAD(transfer, 2);
    BAD(history_depth, 0);
    BAD(history_depth, -1);
    BAD(history_interval, -1);
    BAD(history_phase, -2);
    BAD(history_age, -2);
    GOOD(alpha, 0);
    GOOD(alpha, -1);
    GOOD(dropout, 0.999);
    GOOD(beta1, 0);
    GOOD(beta2, 0);
    GOOD(b_lr_ratio, 0);
    GOOD(score_lr_ratio, 0);
    GOOD(rank, 50); /* above both dimensions */
    GOOD(max_prune_fraction, 1);
    GOOD(p_start, 1e-6);
}
END_TEST

static void *some_alloc(void *user, size_t size)
{
    (void) user;
    return malloc(size);
}

START_TEST(pointers)
{
    bl_options opt = default_options(BL_F32);
    opt.alloc = some_alloc; /* and no free */
    ck_assert_int_lt(try_group(&opt), 0);
    static _Alignas(64) char memory[4096];
    opt = default_options(BL_F32);
    opt.parameters = memory + 4;
    ck_assert_int_lt(try_group(&opt), 0);
}
END_TEST

/* ----- settings that would never reallocate anything ----- */

static void check_reason(const bl_options *opt, const char *word)
{
    int rc = try_group(opt);
    ck_assert_msg(rc == BL_E_OPTIONS, "accepted, or %d: %s", rc, word);
    ck_assert_msg(strstr(bl_last_error(), word) != NULL, "\"%s\" does not say \"%s\"",
                  bl_last_error(), word);
}

START_TEST(never)
{
    bl_options opt = default_options(BL_F32);
    opt.total_steps = 5; /* period 3, the last period is spared */
    check_reason(&opt, "total_steps");
    opt.total_steps = 6;
    check_ok(try_group(&opt));
    opt.start = 1;
    check_reason(&opt, "start");
    opt = default_options(BL_F32);
    opt.period = 61;
    check_reason(&opt, "period");
    opt.period = 60;
    check_ok(try_group(&opt));
    opt = default_options(BL_F32);
    opt.max_prune_fraction = 0;
    check_reason(&opt, "max_prune_fraction");
    opt.max_prune_fraction = 0.12; /* of 8: none */
    check_reason(&opt, "max_prune_fraction");
    opt.max_prune_fraction = 0.125;
    check_ok(try_group(&opt));
    opt = default_options(BL_F32);
    opt.rank = 1;
    check_reason(&opt, "rank");
    opt.reallocation = 0;
    check_ok(try_group(&opt));
    opt.reallocation = 1;
    opt.method = BL_METHOD_LORA;
    check_ok(try_group(&opt));
    opt = default_options(BL_F32);
    opt.p_start = 1;
    check_reason(&opt, "p_start");
    opt.fixed_count = 1; /* p is of no account */
    check_ok(try_group(&opt));
    opt.fixed_count = 0;
    opt.p_end = 0.9;
    check_ok(try_group(&opt));
    opt.p_curve = BL_CURVE_CONSTANT;
    check_reason(&opt, "p_start");
    opt = default_options(BL_F32);
    opt.history_phase = 50; /* first snapshot long after the first reallocation */
    opt.history_interval = 1000;
    ck_assert_int_eq(try_group(&opt), BL_E_OPTIONS);
    opt.history_phase = 1010; /* the first of its steps is 10, that of the reallocation */
    check_ok(try_group(&opt));
    opt.history_phase = 11; /* one too late */
    check_reason(&opt, "snapshot");
    opt.history_phase = 0; /* 1000 */
    check_reason(&opt, "snapshot");
    opt.expand = BL_EXPAND_CURRENT;
    check_ok(try_group(&opt));
    opt = default_options(BL_F32);
    opt.p_curve = BL_CURVE_LINEAR;
    opt.p_start = 0.9;
    opt.p_end = 1;
    opt.p_steps = 9; /* and reaches it at the first, t = 10 */
    check_reason(&opt, "p is 1");
    opt.p_steps = 10;
    check_ok(try_group(&opt));

    /* One module that can be pruned is enough. */
    bl_spec   specs[2];
    bl_group *group = NULL;
    specs[0] = make_spec(3, 3, 1);
    specs[1] = make_spec(3, 3, 4);
    opt = default_options(BL_F32);
    check_ok(bl_group_create(&group, specs, 2, &opt));
    bl_group_free(group);

    /* So says the query. */
    bl_memory memory;
    memory.size = sizeof memory;
    opt.total_steps = 5;
    check_fails(bl_memory_query(specs, 2, &opt, 0, &memory), BL_E_OPTIONS);
}
END_TEST

/* ----- specs and getters ----- */

START_TEST(specs)
{
    bl_options opt = default_options(BL_F32);
    bl_spec    s[3];
    bl_group  *group = NULL;
    char       name[300];
    s[0] = make_spec(3, 4, 0);
    s[1] = make_spec(5, 6, 2);
    s[2] = make_spec(7, 8, 11);
    s[1].alpha = 5;
    s[1].name = "model.layers.0.q_proj";
    check_ok(bl_group_create(&group, s, 3, &opt));
    ck_assert_int_eq(bl_group_get_count(group), 3);
    ck_assert_int_eq(bl_adapter_get_rank(bl_group_get_adapter(group, 0)), 8);
    ck_assert_int_eq(bl_adapter_get_rank(bl_group_get_adapter(group, 1)), 2);
    check_near(bl_adapter_get_scaling(bl_group_get_adapter(group, 0)), 2, 0);
    check_near(bl_adapter_get_scaling(bl_group_get_adapter(group, 1)), 2.5, 0);
    check_near(bl_adapter_get_scaling(bl_group_get_adapter(group, 2)), 16.0 / 11, 1e-15);
    ck_assert_str_eq(bl_adapter_get_name(bl_group_get_adapter(group, 0)), "adapter.0");
    ck_assert_str_eq(bl_adapter_get_name(bl_group_get_adapter(group, 1)),
                     "model.layers.0.q_proj");
    ck_assert_str_eq(bl_adapter_get_name(bl_group_get_adapter(group, 2)), "adapter.2");
    ck_assert_ptr_eq(bl_adapter_get_group(bl_group_get_adapter(group, 2)), group);
    ck_assert_ptr_null(bl_group_get_adapter(group, 3));
    ck_assert_ptr_null(bl_group_get_adapter(group, -1));
    ck_assert_int_eq(bl_group_get_step(group), 0);
    ck_assert_int_eq(bl_group_get_snapshot_step(group), -1);
    bl_group_free(group);
    group = NULL;

    memset(name, 'x', sizeof name);
    name[200] = 0;
    s[0].name = name; /* 200 bytes: the most */
    check_ok(bl_group_create(&group, s, 3, &opt));
    ck_assert_str_eq(bl_adapter_get_name(bl_group_get_adapter(group, 0)), name);
    bl_group_free(group);
    group = NULL;
    name[200] = 'x';
    name[201] = 0;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].name = s[1].name; /* twice the same: the state could not tell them apart */
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].name = NULL;
    s[0].in_features = 0;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].in_features = (int64_t) INT32_MAX + 1;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].in_features = 3;
    s[0].out_features = -1;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].out_features = 4;
    s[0].rank = -1;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].rank = 0;
    s[0].alpha = (double) NAN;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].alpha = 0;
    s[0].reserved = 1;
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    s[0].reserved = 0;
    ck_assert_int_lt(bl_group_create(&group, s, 0, &opt), 0);
    ck_assert_int_lt(bl_group_create(&group, s, -1, &opt), 0);
    check_fails(bl_group_create(&group, NULL, 3, &opt), BL_E_ARG);
    check_fails(bl_group_create(NULL, s, 3, &opt), BL_E_ARG);
    /* Sizes whose product overflows are refused before anything is allocated. */
    s[0] = make_spec(INT32_MAX, INT32_MAX, INT32_MAX);
    s[1] = s[0];
    s[2] = s[0];
    ck_assert_int_lt(bl_group_create(&group, s, 3, &opt), 0);
    ck_assert_ptr_null(group);
    bl_group_free(NULL);
    bl_adapter_free(NULL);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("options");
    TCase *init = tcase_create("init");
    tcase_add_test(init, defaults);
    tcase_add_test(init, presets);
    tcase_add_test(init, worked_out);
    tcase_add_test(init, null_options);
    tcase_add_test(init, sizes);
    tcase_add_test(init, spec_sizes);
    suite_add_tcase(suite, init);
    TCase *refuse = tcase_create("refused");
    tcase_add_test(refuse, ranges);
    tcase_add_test(refuse, pointers);
    tcase_add_test(refuse, never);
    tcase_add_test(refuse, specs);
    suite_add_tcase(suite, refuse);
    return suite;
}
