/*
 * AdaLoRA: creation, gradients with the penalty by central differences, the penalty's
 * calls, budgets, ties, modules without a rank, the last mask, state, refusals.
 * Runs of PEFT's own are replayed by test/adalora_replay.
 */
#include "check_main.h"

#define N 5
#define MODULES 3
#define RANK 4
#define STEPS 24

static const int64_t inputs[MODULES] = { 7, 4, 9 };
static const int64_t outputs[MODULES] = { 6, 8, 3 };

static bl_options ada_options(int32_t dtype)
{
    bl_options o = default_options(dtype);
    o.method = BL_METHOD_ADALORA;
    o.rank = RANK;
    o.target_rank = 2;
    o.total_steps = STEPS;
    o.tinit = 3;
    o.tfinal = 5;
    o.delta_t = 2;
    o.seed = 3;
    return o;
}

struct run {
    bl_group *group;
    bl_tape  *tapes[MODULES];
    int32_t   dtype;
};

static void run_open(struct run *r, const bl_options *o)
{
    bl_spec specs[MODULES];
    for (int64_t i = 0; i < MODULES; i++) {
        specs[i] = make_spec(inputs[i], outputs[i], 0);
    }
    r->dtype = o->parameter_dtype;
    check_ok(bl_group_create(&r->group, specs, MODULES, o));
    for (int64_t i = 0; i < MODULES; i++) {
        check_ok(bl_tape_create(&r->tapes[i], bl_group_get_adapter(r->group, i), N, 1));
    }
}

static void run_close(struct run *r)
{
    for (int64_t i = 0; i < MODULES; i++) {
        bl_tape_free(r->tapes[i]);
    }
    bl_group_free(r->group);
}

static bl_adapter *module(const struct run *r, int64_t i)
{
    return bl_group_get_adapter(r->group, i);
}

/* Output of a module for the step's input, added to zeros; sum of v y with v noise. */
static double output(const struct run *r, int64_t i, int64_t step, int backward)
{
    const uint64_t seed = (uint64_t) (10 * step + i);
    mat            x = mat_random(r->dtype, N, inputs[i], inputs[i], seed);
    mat            y = mat_new(r->dtype, N, outputs[i], outputs[i]);
    mat            dy = mat_random(r->dtype, N, outputs[i], outputs[i], seed + 5000);
    double         sum = 0;
    mat_zero(&y);
    check_ok(bl_forward(module(r, i), r->tapes[i], N, y.data, y.ld, x.data, x.ld, step));
    for (int64_t k = 0; k < N * outputs[i]; k++) {
        sum += get_value(y.data, r->dtype, k) * get_value(dy.data, r->dtype, k);
    }
    if (backward) {
        check_ok(bl_backward(module(r, i), r->tapes[i], N, NULL, 0, dy.data, dy.ld,
                             x.data, x.ld));
    }
    mat_free(&x);
    mat_free(&y);
    mat_free(&dy);
    return sum;
}

static void train(const struct run *r, int64_t from, int64_t to)
{
    for (int64_t t = from; t < to; t++) {
        for (int64_t i = 0; i < MODULES; i++) {
            output(r, i, t, 1);
        }
        check_ok(bl_group_step(r->group, 0.02, 1));
    }
}

static int64_t kept(const struct run *r)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < MODULES; i++) {
        sum += bl_adapter_get_kept(module(r, i));
    }
    return sum;
}

static int64_t zeros(const struct run *r)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < MODULES; i++) {
        double *e = view_doubles(module(r, i), BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
        for (int64_t k = 0; k < bl_adapter_get_rank(module(r, i)); k++) {
            sum += e[k] == 0;
        }
        free(e);
    }
    return sum;
}

/* ----- creation ----- */

START_TEST(created)
{
    bl_options  o = ada_options(BL_F64);
    bl_adapter *a = NULL;
    o.rank = 40;
    o.target_rank = 0;
    o.alpha = 10;
    check_ok(bl_adapter_create(&a, 300, 200, &o));
    check_near(bl_adapter_get_scaling(a), 10 / (40 + 1e-5), 1e-15);
    for (int k = 0; k < 2; k++) {
        const int32_t tensor = k == 0 ? BL_TENSOR_A : BL_TENSOR_B;
        const int64_t count = 40 * (k == 0 ? 300 : 200);
        double       *p = view_doubles(a, tensor, BL_BUFFER_PARAMETERS);
        double        sum = 0, squares = 0, most = 0;
        for (int64_t i = 0; i < count; i++) {
            sum += p[i];
            squares += p[i] * p[i];
            most = fmax(most, fabs(p[i]));
        }
        /* five deviations of a mean and of a variance; a uniform would end at 0.035 */
        check_near(sum / (double) count, 0, 5 * 0.02 / sqrt((double) count));
        check_near(squares / (double) count / 4e-4, 1, 5 * sqrt(2 / (double) count));
        ck_assert(most > 0.05 && most < 0.2);
        free(p);
    }
    double g[40];
    check_ok(bl_adapter_copy_importance(a, g));
    for (int k = 0; k < 40; k++) {
        ck_assert(g[k] == 0);
    }
    ck_assert_int_eq(bl_adapter_get_kept(a), 40);
    bl_options got = { .size = sizeof got };
    check_ok(bl_group_copy_options(bl_adapter_get_group(a), &got));
    ck_assert_int_eq(got.target_rank, 26);
    ck_assert_int_eq(got.reallocation, 0);
    bl_adapter_free(a);

    o.alpha = -1;
    check_ok(bl_adapter_create(&a, 3, 2, &o));
    check_near(bl_adapter_get_scaling(a), 40 / (40 + 1e-5), 1e-15);
    bl_adapter_free(a);
}
END_TEST

START_TEST(refused)
{
    bl_adapter *a = NULL;
    bl_options  o;
#define REFUSED(field, value, code)                                                      \
    o = ada_options(BL_F64);                                                             \
    o.field = value;                                                                     \
    check_fails(bl_adapter_create(&a, 7, 6, &o), code)
    REFUSED(total_steps, 0, BL_E_OPTIONS);
    REFUSED(tinit, STEPS - 5, BL_E_OPTIONS);
    REFUSED(tfinal, STEPS - 3, BL_E_OPTIONS);
    REFUSED(target_rank, RANK + 1, BL_E_OPTIONS);
    REFUSED(scaling, BL_SCALING_RSLORA, BL_E_OPTIONS);
    REFUSED(method, BL_METHOD_ADALORA + 1, BL_E_RANGE);
    REFUSED(target_rank, -1, BL_E_RANGE);
    REFUSED(tinit, -1, BL_E_RANGE);
    REFUSED(tfinal, -1, BL_E_RANGE);
    REFUSED(delta_t, 0, BL_E_RANGE);
    REFUSED(sensitivity_beta, 0, BL_E_RANGE);
    REFUSED(sensitivity_beta, 1, BL_E_RANGE);
    REFUSED(uncertainty_beta, 0, BL_E_RANGE);
    REFUSED(uncertainty_beta, 1, BL_E_RANGE);
    REFUSED(orth_reg_weight, -0.1, BL_E_RANGE);
    REFUSED(orth_reg_weight, (double) NAN, BL_E_RANGE);
#undef REFUSED
    /* the mean rank counts, not each */
    bl_spec specs[2] = { make_spec(3, 3, 1), make_spec(3, 3, 7) };
    o = ada_options(BL_F64);
    bl_group *group = NULL;
    o.target_rank = 4;
    check_ok(bl_group_create(&group, specs, 2, &o));
    bl_group_free(group);
    o.target_rank = 5;
    check_fails(bl_group_create(&group, specs, 2, &o), BL_E_OPTIONS);
    /* nor does the automatic value ask for the options' rank */
    o.target_rank = 0;
    o.rank = 100;
    check_ok(bl_group_create(&group, specs, 2, &o));
    bl_options got = { .size = sizeof got };
    check_ok(bl_group_copy_options(group, &got));
    ck_assert_int_eq(got.target_rank, 2);
    bl_group_free(group);
}
END_TEST

START_TEST(no_plans)
{
    struct run r;
    bl_options o = ada_options(BL_F64);
    bl_plan   *plan = NULL;
    run_open(&r, &o);
    train(&r, 0, 2);
    check_ok(bl_plan_create(&plan, r.group));
    ck_assert_int_eq(bl_group_reallocate_due(r.group), 0);
    check_fails(bl_group_plan(r.group, plan), BL_E_STATE);
    check_ok(bl_plan_clear(plan, 2));
    check_ok(bl_plan_add(plan, 0, 1, 0, BL_ACTION_CURRENT, -1));
    check_fails(bl_group_apply(r.group, plan), BL_E_STATE);
    bl_plan_free(plan);
    run_close(&r);
}
END_TEST

START_TEST(memory)
{
    bl_options o = ada_options(BL_F32);
    bl_spec    spec = make_spec(30, 20, 0);
    bl_memory  m = { .size = sizeof m }, lora = { .size = sizeof lora };
    check_ok(bl_memory_query(&spec, 1, &o, 3, &m));
    ck_assert_uint_ge(m.averages, 2 * 4 * (size_t) m.elements);
    ck_assert_uint_eq(m.history, 0);
    ck_assert_uint_eq(m.total, m.parameters + m.gradients + m.moments + m.averages +
                                   m.bookkeeping + m.tapes);
    o.method = BL_METHOD_LORA;
    check_ok(bl_memory_query(&spec, 1, &o, 3, &lora));
    ck_assert_uint_eq(lora.averages, 0);
}
END_TEST

/* ----- penalty ----- */

/* |M M^T - I| of a tensor. */
static double distance(bl_adapter *a, int32_t tensor)
{
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    double *m = view_doubles(a, tensor, BL_BUFFER_PARAMETERS);
    double  sum = 0;
    for (int64_t i = 0; i < view.rows; i++) {
        for (int64_t k = 0; k < view.rows; k++) {
            double dot = i == k ? -1 : 0;
            for (int64_t j = 0; j < view.cols; j++) {
                dot += m[i * view.cols + j] * m[k * view.cols + j];
            }
            sum += dot * dot;
        }
    }
    free(m);
    return sqrt(sum);
}

static double penalty_of(const struct run *r)
{
    check_ok(bl_group_discard_gradients(r->group));
    check_ok(bl_group_add_penalty(r->group, 1));
    return bl_group_get_penalty(r->group);
}

START_TEST(penalty_value)
{
    bl_options o = ada_options(_i ? BL_F32 : BL_F64);
    struct run r;
    double     sum = 0;
    run_open(&r, &o);
    ck_assert(bl_group_get_penalty(r.group) == 0);
    for (int64_t i = 0; i < MODULES; i++) {
        randomize(module(&r, i), (uint64_t) i);
        sum += distance(module(&r, i), BL_TENSOR_A) / (2 * MODULES);
        sum += distance(module(&r, i), BL_TENSOR_B) / (2 * MODULES);
    }
    check_near(penalty_of(&r) / (0.5 * sum), 1, pass_limit(r.dtype));
    run_close(&r);
}
END_TEST

static double loss(const struct run *r)
{
    double sum = penalty_of(r);
    for (int64_t i = 0; i < MODULES; i++) {
        sum += output(r, i, 1, 0);
    }
    return sum;
}

static void reversed(void *user, int64_t count, bl_task_fn task, void *context)
{
    (void) user;
    for (int64_t i = count; i-- > 0;) {
        task(context, i);
    }
}

/* Every gradient of outputs and penalty together; with dropout, a mask, parallel_for. */
START_TEST(gradients)
{
    static const int32_t tensors[] = { BL_TENSOR_A, BL_TENSOR_B, BL_TENSOR_SCORES };
    static const uint8_t mask[RANK] = { 1, 0, 1, 1 };
    bl_options           o = ada_options(BL_F64);
    struct run           r;
    o.dropout = _i & 1 ? 0.3 : 0;
    o.parallel_for = _i & 2 ? reversed : NULL;
    run_open(&r, &o);
    for (int64_t i = 0; i < MODULES; i++) {
        randomize(module(&r, i), (uint64_t) i);
        view_random(module(&r, i), BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, 7, 1, 0);
        output(&r, i, 1, 0);
    }
    if (_i & 4) {
        check_ok(bl_adapter_set_mask(module(&r, 1), mask));
    }
    check_ok(bl_group_touch(r.group));
    for (int64_t i = 0; i < MODULES; i++) {
        output(&r, i, 1, 1);
    }
    check_ok(bl_group_add_penalty(r.group, 1));
    double *got[MODULES][3];
    for (int64_t i = 0; i < MODULES; i++) {
        for (int k = 0; k < 3; k++) {
            got[i][k] = view_doubles(module(&r, i), tensors[k], BL_BUFFER_GRADIENTS);
        }
    }
    for (int64_t i = 0; i < MODULES; i++) {
        for (int k = 0; k < 3; k++) {
            bl_view view = view_of(module(&r, i), tensors[k], BL_BUFFER_PARAMETERS);
            int64_t count = view.rows * view.cols;
            double *p = view.data, *want = must_doubles(count);
            for (int64_t j = 0; j < count; j++) {
                const double here = p[j], h = 1e-5;
                p[j] = here + h;
                double up = loss(&r);
                p[j] = here - h;
                want[j] = (up - loss(&r)) / (2 * h);
                p[j] = here;
            }
            check_le(error_of(got[i][k], want, count), 1e-7);
            free(want);
            free(got[i][k]);
        }
    }
    run_close(&r);
}
END_TEST

/* With rows that are orthonormal the norm is 0 and has no gradient: it is 0, not NaN. */
START_TEST(gradient_at_zero)
{
    bl_options  o = ada_options(BL_F64);
    bl_adapter *a = NULL;
    check_ok(bl_adapter_create(&a, RANK, RANK, &o));
    bl_group *group = bl_adapter_get_group(a);
    double    unit[RANK * RANK] = { 0 };
    for (int64_t k = 0; k < RANK; k++) {
        unit[k * RANK + k] = 1;
    }
    view_write(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS, unit);
    view_write(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS, unit);
    check_ok(bl_group_touch(group));
    check_ok(bl_group_add_penalty(group, 1));
    ck_assert(bl_group_get_penalty(group) == 0);
    double norm = 1;
    check_ok(bl_group_copy_gradient_norm(group, &norm));
    ck_assert(norm == 0);
    check_ok(bl_step(a, 0.1, 1));
    bl_adapter_free(a);
}
END_TEST

/* Whoever looks at gradients is told when the penalty is not in them. */
START_TEST(not_forgotten)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    double     norm;
    o.optimizer = BL_OPTIMIZER_HOST;
    run_open(&r, &o);
    output(&r, 0, 1, 1);
    check_fails(bl_group_copy_gradient_norm(r.group, &norm), BL_E_STATE);
    check_fails(bl_group_tick(r.group), BL_E_STATE);
    ck_assert_int_eq(bl_group_get_step(r.group), 0);
    check_ok(bl_group_add_penalty(r.group, 1));
    check_fails(bl_group_add_penalty(r.group, 1), BL_E_STATE);
    check_ok(bl_group_copy_gradient_norm(r.group, &norm));
    check_ok(bl_group_tick(r.group));
    check_fails(bl_group_tick(r.group), BL_E_STATE);
    check_ok(bl_group_add_penalty(r.group, 2));
    check_ok(bl_group_discard_gradients(r.group));
    check_fails(bl_group_copy_gradient_norm(r.group, &norm), BL_E_STATE);
    check_fails(bl_group_add_penalty(r.group, (double) INFINITY), BL_E_RANGE);
    check_fails(bl_group_add_penalty(NULL, 1), BL_E_ARG);
    run_close(&r);

    o.orth_reg_weight = 0; /* nothing to add, nothing to tell */
    run_open(&r, &o);
    check_ok(bl_group_copy_gradient_norm(r.group, &norm));
    check_ok(bl_group_tick(r.group));
    check_ok(bl_group_add_penalty(r.group, 1));
    check_ok(bl_group_add_penalty(r.group, 1));
    ck_assert(bl_group_get_penalty(r.group) == 0);
    run_close(&r);
}
END_TEST

/* The step adds the penalty by itself, whole whatever the gradients' scale is. */
START_TEST(added_by_the_step)
{
    bl_options o = ada_options(BL_F64);
    double    *got[2];
    for (int k = 0; k < 2; k++) {
        struct run r;
        run_open(&r, &o);
        output(&r, 0, 1, 1);
        if (k == 0) {
            output(&r, 0, 1, 1); /* the same gradient twice, to be halved */
        } else {
            check_ok(bl_group_add_penalty(r.group, 1));
        }
        check_ok(bl_group_step(r.group, 0.02, k == 0 ? 0.5 : 1));
        got[k] = view_doubles(module(&r, 0), BL_TENSOR_A, BL_BUFFER_M);
        ck_assert(bl_group_get_penalty(r.group) > 0.1);
        run_close(&r);
    }
    check_le(error_of(got[0], got[1], RANK * inputs[0]), 1e-14);
    free(got[0]);
    free(got[1]);
}
END_TEST

START_TEST(frozen)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    run_open(&r, &o);
    check_ok(bl_adapter_set_frozen(module(&r, 1), 1));
    double *before = view_doubles(module(&r, 1), BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    train(&r, 0, STEPS);
    double *after = view_doubles(module(&r, 1), BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    ck_assert_int_eq(memcmp(before, after, sizeof(double) * RANK * 8), 0);
    ck_assert_int_eq(bl_adapter_get_kept(module(&r, 1)), RANK);
    ck_assert_int_eq(kept(&r) - RANK, 2 * 2); /* the budget of the other two */
    free(before);
    free(after);
    run_close(&r);
}
END_TEST

/* ----- allocation ----- */

/* After every step: as many ranks as the formula says, at its times only. */
START_TEST(budget)
{
    const uint64_t seed = (uint64_t) _i;
    bl_options     o = ada_options(_i % 2 ? BL_F32 : BL_F64);
    struct run     r;
    o.rank = 2 + (int64_t) (3 * (1 + noise(seed, 0)));
    o.target_rank = 1 + (int64_t) ((double) (o.rank - 1) * (1 + noise(seed, 1)) / 2);
    o.tinit = (int64_t) (4 * (1 + noise(seed, 2)));
    o.tfinal = (int64_t) (4 * (1 + noise(seed, 3)));
    o.delta_t = 1 + (int64_t) (2 * (1 + noise(seed, 4)));
    o.seed = seed;
    const int64_t last = STEPS - o.tfinal, whole = MODULES * o.rank;
    const int64_t target = MODULES * o.target_rank;
    int64_t       want = whole;
    run_open(&r, &o);
    for (int64_t t = 1; t <= STEPS + 2; t++) {
        train(&r, t - 1, t);
        int due = t > o.tinit && t <= last && (t % o.delta_t == 0 || t == last);
        if (due) {
            double left = 1 - (double) (t - o.tinit) / (double) (last - o.tinit);
            want = (int64_t) ((double) (whole - target) * pow(left, 3) + (double) target);
        }
        ck_assert_int_eq(kept(&r), want);
        if (due || t > last) {
            ck_assert_int_eq(zeros(&r), whole - want);
        } else if (t > 1) {
            ck_assert_int_eq(zeros(&r), 0); /* a mask holds for one step */
        }
    }
    ck_assert_int_eq(kept(&r), target);
    run_close(&r);
}
END_TEST

START_TEST(equal_ranks)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    o.target_rank = RANK;
    run_open(&r, &o);
    train(&r, 0, STEPS + 2);
    ck_assert_int_eq(kept(&r), MODULES * RANK);
    ck_assert_int_eq(zeros(&r), 0);
    run_close(&r);
}
END_TEST

/* All ratings 0: still exactly as many as the budget wants, the last ones first. */
START_TEST(equal_ratings)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    o.orth_reg_weight = 0;
    run_open(&r, &o);
    for (int64_t t = 0; t < STEPS; t++) {
        check_ok(bl_group_step(r.group, 0.02, 1));
    }
    ck_assert_int_eq(bl_adapter_get_kept(module(&r, 0)), RANK);
    ck_assert_int_eq(bl_adapter_get_kept(module(&r, 1)), 2);
    ck_assert_int_eq(bl_adapter_get_kept(module(&r, 2)), 0);
    run_close(&r);
}
END_TEST

/* A module without a rank computes nothing, can be saved and loaded, and stays so. */
START_TEST(empty_module)
{
    bl_options o = ada_options(BL_F64);
    struct run r, other;
    o.orth_reg_weight = 0;
    o.target_rank = 1;
    run_open(&r, &o);
    for (int64_t t = 0; t < STEPS; t++) { /* nothing reaches the last two */
        output(&r, 0, t, 1);
        check_ok(bl_group_step(r.group, 0.02, 1));
    }
    ck_assert_int_eq(bl_adapter_get_kept(module(&r, 2)), 0);
    bytes blob = save_group(r.group);
    run_open(&other, &o);
    check_ok(bl_group_load(other.group, blob.data, blob.size));
    for (int k = 0; k < 2; k++) {
        struct run *now = k == 0 ? &r : &other;
        mat         w = mat_new(BL_F64, 3, 9, 9);
        mat_zero(&w);
        ck_assert_int_eq(bl_adapter_get_kept(module(now, 2)), 0);
        train(now, STEPS, STEPS + 3); /* gradients reach it now */
        ck_assert(output(now, 2, 1, 0) == 0);
        check_ok(bl_adapter_merge(module(now, 2), w.data, w.ld));
        for (int64_t i = 0; i < 27; i++) {
            ck_assert(mat_get(&w, i / 9, i % 9) == 0);
        }
        mat_free(&w);
    }
    bytes_free(&blob);
    run_close(&r);
    run_close(&other);
}
END_TEST

/* A rank that one allocation masks may be kept by a later one. */
START_TEST(comes_back)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    int        back = 0;
    uint8_t    was[MODULES * RANK] = { 0 };
    o.sensitivity_beta = o.uncertainty_beta = 0.3;
    o.tinit = 0;
    o.delta_t = 1;
    run_open(&r, &o);
    for (int64_t t = 0; t < STEPS - 5; t++) {
        train(&r, t, t + 1);
        for (int64_t i = 0; i < MODULES; i++) {
            double *e =
                view_doubles(module(&r, i), BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
            for (int64_t k = 0; k < RANK; k++) {
                back |= was[i * RANK + k] && e[k] != 0;
                was[i * RANK + k] = e[k] == 0;
            }
            free(e);
        }
    }
    ck_assert(back);
    double *average = view_doubles(module(&r, 0), BL_TENSOR_A, BL_BUFFER_SENSITIVITY);
    for (int64_t i = 0; i < RANK * inputs[0]; i++) {
        ck_assert(average[i] == 0); /* the last mask is on */
    }
    free(average);
    run_close(&r);
}
END_TEST

/* The host's optimizer: the same masks as ours from the same parameters and gradients. */
START_TEST(host_optimizer)
{
    bl_options o = ada_options(BL_F64);
    struct run ours, hosts;
    run_open(&ours, &o);
    o.optimizer = BL_OPTIMIZER_HOST;
    run_open(&hosts, &o);
    for (int64_t t = 0; t < STEPS; t++) {
        bl_view from, to;
        for (int64_t i = 0; i < MODULES; i++) {
            output(&hosts, i, t, 1);
        }
        check_ok(bl_group_add_penalty(hosts.group, 1));
        train(&ours, t, t + 1);
        check_ok(bl_group_get_view(ours.group, BL_BUFFER_PARAMETERS, &from));
        check_ok(bl_group_get_view(hosts.group, BL_BUFFER_PARAMETERS, &to));
        memcpy(to.data, from.data, sizeof(double) * (size_t) from.cols);
        check_ok(bl_group_tick(hosts.group));
        check_ok(bl_group_get_view(ours.group, BL_BUFFER_PARAMETERS, &from));
        ck_assert_int_eq(memcmp(to.data, from.data, sizeof(double) * (size_t) to.cols),
                         0);
        for (int64_t i = 0; i < MODULES; i++) {
            ck_assert_int_eq(bl_adapter_get_kept(module(&hosts, i)),
                             bl_adapter_get_kept(module(&ours, i)));
        }
    }
    run_close(&ours);
    run_close(&hosts);
}
END_TEST

START_TEST(nonfinite)
{
    bl_options o = ada_options(BL_F64);
    struct run r;
    run_open(&r, &o);
    train(&r, 0, 6);
    bytes   before = save_group(r.group);
    bl_view view = view_of(module(&r, 1), BL_TENSOR_A, BL_BUFFER_GRADIENTS);
    set_value(view.data, BL_F64, 3, (double) NAN);
    check_fails(bl_group_step(r.group, 0.02, 1), BL_E_NONFINITE);
    bytes after = save_group(r.group);
    ck_assert(bytes_equal(&before, &after));
    train(&r, 6, STEPS);
    ck_assert_int_eq(kept(&r), 2 * MODULES);
    bytes_free(&before);
    bytes_free(&after);
    run_close(&r);
}
END_TEST

/* ----- state ----- */

/* Saved after any step and loaded into a new group, the end is the same to the bit. */
START_TEST(resumed)
{
    bl_options o = ada_options(_i % 2 ? BL_F32 : BL_F64);
    struct run whole, first, second;
    o.parallel_for = _i % 3 == 0 ? reversed : NULL;
    run_open(&whole, &o);
    train(&whole, 0, STEPS);
    run_open(&first, &o);
    train(&first, 0, _i);
    bytes blob = save_group(first.group);
    run_close(&first);
    run_open(&second, &o);
    check_ok(bl_group_load(second.group, blob.data, blob.size));
    bytes_free(&blob);
    train(&second, _i, STEPS);
    bytes a = save_group(whole.group), b = save_group(second.group);
    ck_assert(bytes_equal(&a, &b));
    bytes_free(&a);
    bytes_free(&b);
    run_close(&whole);
    run_close(&second);
}
END_TEST

START_TEST(other_settings)
{
    bl_options o = ada_options(BL_F64);
    struct run r, other;
    run_open(&r, &o);
    bytes blob = save_group(r.group);
    o.tfinal = 6;
    run_open(&other, &o);
    check_fails(bl_group_load(other.group, blob.data, blob.size), BL_E_OPTIONS);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "tfinal"));
    run_close(&other);
    o.tfinal = 5;
    o.orth_reg_weight = 0.4;
    run_open(&other, &o);
    check_fails(bl_group_load(other.group, blob.data, blob.size), BL_E_OPTIONS);
    bytes_free(&blob);
    run_close(&other);
    run_close(&r);
}
END_TEST

/* ----- what else reads g ----- */

START_TEST(merged_and_folded)
{
    bl_options  o = ada_options(BL_F64);
    bl_adapter *a = make_adapter(7, 6, &o, 4);
    double      w[42] = { 0 }, fa[RANK * 7], fb[6 * RANK], norms[RANK], g[RANK];
    double     *e = view_doubles(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
    double     *pa = view_doubles(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    double     *pb = view_doubles(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    double      c = bl_adapter_get_scaling(a);
    int         negative = 0;
    check_ok(bl_adapter_merge(a, w, 7));
    check_ok(bl_adapter_fold(a, fa, 7, fb, RANK));
    check_ok(bl_adapter_copy_norms(a, norms));
    check_ok(bl_adapter_copy_importance(a, g));
    for (int64_t i = 0; i < 42; i++) {
        double want = 0, folded = 0;
        for (int64_t k = 0; k < RANK; k++) {
            want += c * pb[k * 6 + i / 7] * e[k] * pa[k * 7 + i % 7];
            folded += fb[i / 7 * RANK + k] * fa[k * 7 + i % 7];
        }
        check_near(w[i], want, 1e-15);
        check_near(folded, want, 1e-15);
    }
    for (int64_t k = 0; k < RANK; k++) {
        double aa = 0, bb = 0;
        for (int64_t j = 0; j < 7; j++) {
            aa += pa[k * 7 + j] * pa[k * 7 + j];
        }
        for (int64_t j = 0; j < 6; j++) {
            bb += pb[k * 6 + j] * pb[k * 6 + j];
        }
        ck_assert(g[k] == e[k]);
        negative |= e[k] < 0;
        check_near(norms[k], fabs(c * e[k]) * sqrt(aa * bb), 1e-14);
    }
    ck_assert(negative);
    free(e);
    free(pa);
    free(pb);
    bl_adapter_free(a);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("adalora");
    TCase *creation = tcase_create("creation");
    tcase_add_test(creation, created);
    tcase_add_test(creation, refused);
    tcase_add_test(creation, no_plans);
    tcase_add_test(creation, memory);
    suite_add_tcase(suite, creation);
    TCase *penalty = tcase_create("penalty");
    tcase_add_loop_test(penalty, penalty_value, 0, 2);
    tcase_add_loop_test(penalty, gradients, 0, 8);
    tcase_add_test(penalty, gradient_at_zero);
    tcase_add_test(penalty, not_forgotten);
    tcase_add_test(penalty, added_by_the_step);
    suite_add_tcase(suite, penalty);
    TCase *allocation = tcase_create("allocation");
    tcase_add_loop_test(allocation, budget, 0, 60);
    tcase_add_test(allocation, equal_ranks);
    tcase_add_test(allocation, equal_ratings);
    tcase_add_test(allocation, empty_module);
    tcase_add_test(allocation, comes_back);
    tcase_add_test(allocation, host_optimizer);
    tcase_add_test(allocation, nonfinite);
    tcase_add_test(allocation, frozen);
    suite_add_tcase(suite, allocation);
    TCase *state = tcase_create("state");
    tcase_add_loop_test(state, resumed, 0, STEPS + 1);
    tcase_add_test(state, other_settings);
    tcase_add_test(state, merged_and_folded);
    suite_add_tcase(suite, state);
    return suite;
}
