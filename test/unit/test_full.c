/*
 * Full fine-tuning on tiny random models: the gradient of every weight against differences
 * of the loss, AdamW against plain doubles, steps that must change nothing, and a state
 * that goes on with the same bits.
 */
#include "check_main.h"

#include <float.h>

#include "train/full.h"
#include "model/parameters.h"

static char error[512];

/* ===== Tiny models ======================================================== */

/* Grouped keys in one; in the other, rows wider than a stripe of a norm's gradient; in both
 * a head_dim that is not dim / heads. */
static const struct llama_config tied = { .dim = 12,
                                          .hidden = 10,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 4,
                                          .vocab = 11,
                                          .max_context = 8,
                                          .norm_epsilon = 1e-5,
                                          .rope_theta = 10000,
                                          .interleaved = 1,
                                          .tied = 1 };
static const struct llama_config untied = { .dim = 34,
                                            .hidden = 7,
                                            .layers = 1,
                                            .heads = 3,
                                            .kv_heads = 3,
                                            .head_dim = 2,
                                            .vocab = 13,
                                            .max_context = 8,
                                            .norm_epsilon = 1e-6,
                                            .rope_theta = 500 };

enum { BATCH = 2, LENGTH = 7, TOKENS = BATCH * LENGTH };

struct trainee {
    struct llama       model;
    struct parameters  parameters;
    float             *block; /* what the model came with */
    struct full       *full;
    struct llama_pass *pass;
    int32_t            ids[TOKENS], targets[TOKENS];
};

static void make_model(struct trainee *t, const struct llama_config *config,
                       uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->model.config = *config;
    t->model.layers = must_alloc(config->layers, sizeof *t->model.layers);
    ck_assert_int_eq(parameters_create(&t->parameters, config, error, sizeof error), 0);
    t->block = parameters_block(&t->parameters);
    ck_assert_ptr_nonnull(t->block);
    for (int64_t i = 0; i < t->parameters.count; i++) {
        const struct parameter *p = &t->parameters.list[i];
        for (int64_t k = 0; k < p->rows * p->columns; k++) {
            t->block[p->at + k] =
                (float) ((p->dims == 1) + 0.5 * noise(seed, (uint64_t) (p->at + k)));
        }
    }
    parameters_place_weights(&t->parameters, &t->model, t->block);
}

static void make_trainee(struct trainee *t, const struct llama_config *config,
                         uint64_t seed, double weight_decay)
{
    make_model(t, config, seed);
    ck_assert_msg(full_create(&t->full, &t->model, 0.9, 0.99, 1e-8, weight_decay, error,
                              sizeof error) == 0,
                  "%s", error);
    /* room for more than is used */
    ck_assert_int_eq(llama_pass_create(&t->pass, &t->model, NULL, BATCH, LENGTH + 2,
                                       LLAMA_KEEP, error, sizeof error),
                     0);
    llama_pass_train_weights(t->pass, full_gradients(t->full));
    for (int i = 0; i < TOKENS; i++) {
        t->ids[i] = (int32_t) ((noise(3, (uint64_t) i) + 1) / 2 * 9); /* not all ids */
        t->targets[i] = (int32_t) ((noise(4, (uint64_t) i) + 1) / 2 * 11);
    }
    t->targets[0] = t->targets[TOKENS - 1] = -1;
}

static void free_trainee(struct trainee *t)
{
    llama_pass_free(t->pass);
    full_free(t->full);
    parameters_free(&t->parameters);
    free(t->block);
    free(t->model.layers);
}

static double forward(struct trainee *t)
{
    double  sum;
    int64_t predicted;
    ck_assert_msg(llama_forward(t->pass, BATCH, LENGTH, t->ids, t->targets, BL_NO_DROPOUT,
                                &sum, &predicted, error, sizeof error) == 0,
                  "%s", error);
    ck_assert_int_eq(predicted, TOKENS - 2);
    return sum;
}

static void backward(struct trainee *t, double scale)
{
    ck_assert_msg(llama_backward(t->pass, scale, error, sizeof error) == 0, "%s", error);
}

/* The gradient of tensor i, in the order of llama_get_tensor. */
static float *gradient_of(struct trainee *t, int64_t i)
{
    const struct llama_gradients *g = full_gradients(t->full);
    int64_t layer = (i - 2) / (2 + LLAMA_PROJECTIONS), part = (i - 2) % 9;
    if (i < 2) {
        return i == 0 ? g->embedding : g->final_norm;
    }
    if (layer == t->model.config.layers) {
        return g->head;
    }
    if (part < 2) {
        return part == 0 ? g->layers[layer].attention_norm : g->layers[layer].ffn_norm;
    }
    return g->layers[layer].projection[part - 2];
}

static int64_t elements(const struct trainee *t, int64_t i)
{
    return t->parameters.list[i].rows * t->parameters.list[i].columns;
}

/* The weight of tensor i as the model uses it. */
static float *weight_of(struct trainee *t, int64_t i)
{
    struct weight weight = llama_get_weight(&t->model, i);
    ck_assert_int_eq(weight.dtype, BL_F32);
    return (float *) weight.data;
}

/* ===== Gradients ========================================================== */

static double loss_at(struct trainee *t, int64_t i, const float *values, const double *d,
                      double h)
{
    float *weight = weight_of(t, i);
    double loss;
    for (int64_t k = 0; k < elements(t, i); k++) {
        weight[k] = (float) (values[k] + h * d[k]);
    }
    loss = forward(t);
    memcpy(weight, values, (size_t) elements(t, i) * sizeof *weight);
    return loss;
}

/* The slope of the loss along g / |g| is |g|, along noise d / |d| it is g . d / |d|. */
static void check_tensor(struct trainee *t, int64_t i, const float *g, double scale)
{
    const char *name = t->parameters.list[i].name;
    int64_t     count = elements(t, i);
    float      *values = must_alloc(count, sizeof *values);
    double     *d = must_doubles(count), norm = 0, h = 4e-3;

    memcpy(values, weight_of(t, i), (size_t) count * sizeof *values);
    for (int64_t k = 0; k < count; k++) {
        norm += (double) g[k] * g[k];
    }
    norm = sqrt(norm);
    ck_assert_msg(norm > 1e-3, "%s: no gradient", name);
    for (int along = 0; along < 4; along++) {
        double size = 0, want = 0, slope;
        for (int64_t k = 0; k < count; k++) {
            d[k] =
                along == 0 ? g[k] : noise(40 + (uint64_t) along, (uint64_t) (97 * i + k));
            size += d[k] * d[k];
        }
        for (int64_t k = 0; k < count; k++) {
            d[k] /= sqrt(size);
            want += g[k] * d[k];
        }
        slope = scale / (12 * h) *
                (8 * (loss_at(t, i, values, d, h) - loss_at(t, i, values, d, -h)) -
                 (loss_at(t, i, values, d, 2 * h) - loss_at(t, i, values, d, -2 * h)));
        ck_assert_msg(fabs(slope - want) <= 0.003 * norm + 3e-5,
                      "%s: slope %g, gradient says %g (norm %g)", name, slope, want,
                      norm);
    }
    free(values);
    free(d);
}

static void check_gradients(const struct llama_config *config)
{
    struct trainee t;
    const double   scale = 0.25;
    float         *gradients[32];
    double         squares = 0;

    make_trainee(&t, config, 7, 0);
    forward(&t);
    backward(&t, scale);
    for (int64_t i = 0; i < t.parameters.count; i++) {
        gradients[i] = must_alloc(elements(&t, i), sizeof(float));
        memcpy(gradients[i], gradient_of(&t, i), (size_t) elements(&t, i) * 4);
        for (int64_t k = 0; k < elements(&t, i); k++) {
            squares += (double) gradients[i][k] * gradients[i][k];
        }
    }
    check_near(full_gradient_norm(t.full), sqrt(squares), 1e-12 * sqrt(squares));
    forward(&t);
    backward(&t, scale);
    check_near(full_gradient_norm(t.full), 2 * sqrt(squares), 1e-6 * sqrt(squares));
    for (int64_t i = 0; i < t.parameters.count; i++) {
        check_tensor(&t, i, gradients[i], scale);
        free(gradients[i]);
    }
    free_trainee(&t);
}

START_TEST(gradients_of_every_weight)
{
    const struct llama_config *configs[] = { &tied, &untied };
    for (int i = 0; i < 2; i++) {
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            struct llama_config config = *configs[i];
            config.interleaved = interleaved;
            check_gradients(&config);
        }
    }
}
END_TEST

/* No adapter and nothing asked for: the backward has nothing to do. */
START_TEST(frozen_weights_get_no_gradient)
{
    struct trainee     t;
    struct llama_pass *pass;
    double             sum;
    int64_t            predicted;

    make_trainee(&t, &tied, 7, 0);
    ck_assert_int_eq(llama_pass_create(&pass, &t.model, NULL, BATCH, LENGTH, LLAMA_KEEP,
                                       error, sizeof error),
                     0);
    ck_assert_int_eq(llama_forward(pass, BATCH, LENGTH, t.ids, t.targets, BL_NO_DROPOUT,
                                   &sum, &predicted, error, sizeof error),
                     0);
    ck_assert_int_eq(llama_backward(pass, 1, error, sizeof error), 0);
    check_near(full_gradient_norm(t.full), 0, 0);
    llama_pass_free(pass);
    free_trainee(&t);
}
END_TEST

/* ===== Taking over a model ================================================ */

START_TEST(weights_are_copied_whatever_their_type)
{
    struct llama_config config = untied;
    struct trainee      t;
    uint16_t           *upper;
    char               *odd;
    int64_t             count;

    config.vocab = config.hidden = 2 * WEIGHT_BLOCK_ROWS + 7; /* not in one go */
    make_model(&t, &config, 8);
    count = t.model.config.hidden * t.model.config.dim;
    upper = must_alloc(count, sizeof *upper);
    odd = must_alloc(count * 4 + 1, 1);
    for (int64_t k = 0; k < count; k++) {
        uint32_t bits;
        memcpy(&bits, (const float *) t.model.layers[0].projection[LLAMA_UP].data + k, 4);
        upper[k] = (uint16_t) (bits >> 16);
    }
    memcpy(odd + 1, t.model.layers[0].projection[LLAMA_GATE].data, (size_t) count * 4);
    t.model.layers[0].projection[LLAMA_UP] = (struct weight){ upper, BL_BF16 };
    t.model.layers[0].projection[LLAMA_GATE] = (struct weight){ odd + 1, BL_F32 };
    ck_assert_int_eq(
        full_create(&t.full, &t.model, 0.9, 0.99, 1e-8, 0, error, sizeof error), 0);
    ck_assert_int_eq(full_parameters(t.full), t.parameters.total);
    for (int64_t i = 0; i < t.parameters.count; i++) {
        const float *now = weight_of(&t, i), *before = t.block + t.parameters.list[i].at;
        ck_assert_uint_eq((uintptr_t) now % 64, 0);
        ck_assert(now != before);
        for (int64_t k = 0; k < elements(&t, i); k++) {
            uint32_t bits;
            float    want = before[k];
            if (strstr(t.parameters.list[i].name, "up_proj")) {
                bits = (uint32_t) upper[k] << 16;
                memcpy(&want, &bits, 4);
            }
            ck_assert_msg(now[k] == want, "%s[%d] is %g, must be %g",
                          t.parameters.list[i].name, (int) k, (double) now[k],
                          (double) want);
        }
    }
    ck_assert(t.model.head.data != t.model.embedding.data);
    free(upper);
    free(odd);
    free_trainee(&t);
}
END_TEST

START_TEST(a_tied_head_stays_tied)
{
    struct trainee t;

    make_trainee(&t, &tied, 7, 0);
    ck_assert_ptr_eq(t.model.head.data, t.model.embedding.data);
    ck_assert_ptr_eq(full_gradients(t.full)->head, full_gradients(t.full)->embedding);
    free_trainee(&t);
}
END_TEST

START_TEST(what_cannot_be_trained_is_refused)
{
    const double   bad[][4] = { { 1, 0.9, 1e-8, 0 },       { -0.1, 0.9, 1e-8, 0 },
                                { 0.9, 1, 1e-8, 0 },       { 0.9, 0.99, 0, 0 },
                                { 0.9, 0.99, 1e-8, -0.1 }, { 0.9, 0.99, INFINITY, 0 },
                                { NAN, 0.99, 1e-8, NAN } };
    struct trainee t;
    struct llama   large;
    struct full   *full = NULL;

    make_model(&t, &tied, 7);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_int_eq(full_create(&full, &t.model, bad[i][0], bad[i][1], bad[i][2],
                                     bad[i][3], error, sizeof error),
                         -1);
    }
    large = t.model;
    large.config.dim = large.config.hidden = 1 << 22;
    ck_assert_int_eq(full_create(&full, &large, 0.9, 0.99, 1e-8, 0, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "GiB"));
    large.config.dim = large.config.hidden = INT32_MAX;
    ck_assert_int_eq(full_create(&full, &large, 0.9, 0.99, 1e-8, 0, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "absurd"));
    ck_assert_ptr_null(full);
    ck_assert_ptr_eq(t.model.embedding.data, t.block);
    free_trainee(&t);
}
END_TEST

/* ===== Steps ============================================================== */

static void noisy_gradients(struct trainee *t, uint64_t seed)
{
    for (int64_t i = 0; i < t->parameters.count; i++) {
        float *g = gradient_of(t, i);
        for (int64_t k = 0; k < elements(t, i); k++) {
            g[k] = (float) noise(seed + (uint64_t) i, (uint64_t) k);
        }
    }
}

/* torch.optim.AdamW, written out in double; decay on matrices only. Each tensor in a
 * training of its own. */
START_TEST(steps_are_adamw)
{
    const double  decay = 0.1, scale = 0.5;
    const int64_t tensors = llama_tensor_count(&untied);

    for (int64_t i = 0; i < tensors; i++) {
        struct trainee s;
        double        *p, *m, *v, *got;
        int64_t        count;

        make_trainee(&s, &untied, 9, decay);
        count = elements(&s, i);
        p = must_doubles(count);
        m = must_doubles(count);
        v = must_doubles(count);
        got = must_doubles(count);
        for (int64_t k = 0; k < count; k++) {
            p[k] = weight_of(&s, i)[k];
        }
        for (int step = 1; step <= 6; step++) {
            double lr = 0.01 * step;
            noisy_gradients(&s, 50 + 20 * (uint64_t) step);
            for (int64_t k = 0; k < count; k++) {
                double g = scale * gradient_of(&s, i)[k];
                p[k] *= 1 - (s.parameters.list[i].dims > 1 ? lr * decay : 0);
                m[k] = 0.9 * m[k] + 0.1 * g;
                v[k] = 0.99 * v[k] + 0.01 * g * g;
                p[k] -= lr * (m[k] / (1 - pow(0.9, step))) /
                        (sqrt(v[k] / (1 - pow(0.99, step))) + 1e-8);
            }
            ck_assert_int_eq(full_step(s.full, lr, scale), 0);
            check_near(full_gradient_norm(s.full), 0, 0);
        }
        for (int64_t k = 0; k < count; k++) {
            got[k] = weight_of(&s, i)[k];
        }
        check_le(error_of(got, p, count), 2e-6);
        free(p);
        free(m);
        free(v);
        free(got);
        free_trainee(&s);
    }
}
END_TEST

START_TEST(training_lowers_the_loss)
{
    struct trainee t;
    double         first, last;

    make_trainee(&t, &tied, 7, 0.01);
    first = last = forward(&t);
    for (int step = 0; step < 60; step++) {
        backward(&t, 1.0 / TOKENS);
        ck_assert_int_eq(full_step(t.full, 0.02, 1), 0);
        last = forward(&t);
    }
    check_le(last, 0.2 * first);
    free_trainee(&t);
}
END_TEST

/* ===== State ============================================================== */

/* A copy of the state, its data off every boundary, the arrays in reverse. */
struct copy {
    bl_array *arrays;
    int64_t   count;
};

static size_t bytes_of(const bl_array *array)
{
    size_t count = (size_t) array->shape[0];
    if (array->dims > 1) {
        count *= (size_t) array->shape[1];
    }
    return count * (array->dtype == BL_F32 ? 4 : 8);
}

static struct copy copy_state(const struct full *full)
{
    struct copy copy = { NULL, full_state_count(full) };
    copy.arrays = must_alloc(copy.count, sizeof *copy.arrays);
    for (int64_t i = 0; i < copy.count; i++) {
        bl_array *array = &copy.arrays[copy.count - 1 - i];
        char     *data;
        ck_assert_int_eq(full_get_state(full, i, array), 0);
        data = must_alloc((int64_t) bytes_of(array) + 1, 1);
        memcpy(data + 1, array->data, bytes_of(array));
        array->data = data + 1;
    }
    return copy;
}

static void free_copy(struct copy *copy)
{
    for (int64_t i = 0; i < copy->count; i++) {
        free((char *) copy->arrays[i].data - 1);
    }
    free(copy->arrays);
}

/* Bit for bit. */
static void check_state(const struct full *full, const struct copy *want)
{
    ck_assert_int_eq(full_state_count(full), want->count);
    for (int64_t i = 0; i < want->count; i++) {
        const bl_array *other = &want->arrays[want->count - 1 - i];
        bl_array        array;
        ck_assert_int_eq(full_get_state(full, i, &array), 0);
        ck_assert_str_eq(array.name, other->name);
        ck_assert_msg(memcmp(array.data, other->data, bytes_of(&array)) == 0,
                      "%s has changed", array.name);
    }
}

static void train(struct trainee *t, int steps)
{
    for (int step = 0; step < steps; step++) {
        forward(t);
        backward(t, 0.1);
        ck_assert_int_eq(full_step(t->full, 0.01, 1), 0);
    }
}

START_TEST(gradients_that_are_not_finite_change_nothing)
{
    const struct {
        float  value;
        double scale;
    } bad[] = { { NAN, 1 },      { INFINITY, 1 },     { -INFINITY, 1 }, { 1e25f, 1 },
                { 1e10f, 1e12 }, { 1, (double) NAN }, { 1, INFINITY } };
    struct trainee t;
    struct copy    copy;

    make_trainee(&t, &untied, 7, 0.1);
    train(&t, 2);
    copy = copy_state(t.full);
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
        for (int64_t i = 0; i < t.parameters.count; i++) {
            forward(&t);
            backward(&t, 1);
            gradient_of(&t, i)[elements(&t, i) - 1] = bad[b].value;
            ck_assert_int_eq(full_step(t.full, 0.01, bad[b].scale), 1);
            check_state(t.full, &copy);
            check_near(full_gradient_norm(t.full), 0, 0);
        }
    }
    /* Large, but brought back by the scale: as clipping does it. */
    gradient_of(&t, 0)[0] = 1e30f;
    ck_assert_int_eq(full_step(t.full, 0.01, 1e-30), 0);
    free_copy(&copy);
    free_trainee(&t);
}
END_TEST

START_TEST(a_state_goes_on_with_the_same_bits)
{
    const struct llama_config *configs[] = { &tied, &untied };
    for (int i = 0; i < 2; i++) {
        struct trainee t, other;
        struct copy    copy;

        make_trainee(&t, configs[i], 7, 0.1);
        make_trainee(&other, configs[i], 77, 0.1);
        train(&t, 3);
        copy = copy_state(t.full);
        train(&other, 1);
        forward(&other);
        backward(&other, 1); /* left over, not to be added */
        ck_assert_msg(
            full_set_state(other.full, copy.arrays, copy.count, error, sizeof error) == 0,
            "%s", error);
        check_state(other.full, &copy);
        free_copy(&copy);
        train(&t, 3);
        train(&other, 3);
        copy = copy_state(t.full);
        check_state(other.full, &copy);
        free_copy(&copy);
        free_trainee(&t);
        free_trainee(&other);
    }
}
END_TEST

START_TEST(a_state_is_named_as_hugging_face_does)
{
    struct trainee t;
    bl_array       array;
    int            found = 0;

    make_trainee(&t, &tied, 7, 0);
    train(&t, 2);
    ck_assert_int_eq(full_state_count(t.full), 3 * t.parameters.count + 1);
    for (int64_t i = 0; i < full_state_count(t.full); i++) {
        ck_assert_int_eq(full_get_state(t.full, i, &array), 0);
        if (strcmp(array.name, "model.layers.1.mlp.down_proj.weight") == 0) {
            ck_assert_ptr_eq(array.data, t.model.layers[1].projection[LLAMA_DOWN].data);
            ck_assert_int_eq(array.dims, 2);
            ck_assert_int_eq(array.shape[0], 12);
            ck_assert_int_eq(array.shape[1], 10);
            found++;
        } else if (strcmp(array.name, "model.norm.weight.v") == 0) {
            ck_assert_int_eq(array.dims, 1);
            ck_assert_int_eq(array.shape[0], 12);
            found++;
        } else if (strcmp(array.name, "full.step") == 0) {
            ck_assert_int_eq(array.dtype, BL_I64);
            ck_assert_int_eq(*(const int64_t *) array.data, 2);
            found++;
        }
        ck_assert_ptr_null(strstr(array.name, "lm_head"));
    }
    ck_assert_int_eq(found, 3);
    ck_assert_int_eq(full_get_state(t.full, -1, &array), -1);
    ck_assert_int_eq(full_get_state(t.full, full_state_count(t.full), &array), -1);
    free_trainee(&t);
}
END_TEST

/* Refused with `part` in the line, and nothing changed. */
static void refused(struct trainee *t, const struct copy *before, const bl_array *arrays,
                    int64_t count, const char *part)
{
    ck_assert_int_eq(full_set_state(t->full, arrays, count, error, sizeof error), -1);
    ck_assert_msg(strstr(error, part) != NULL, "\"%s\" does not say %s", error, part);
    ck_assert_ptr_null(strchr(error, '\n'));
    check_state(t->full, before);
}

static bl_array *array_named(struct copy *copy, const char *name)
{
    int64_t i = 0;
    while (strcmp(copy->arrays[i].name, name) != 0) {
        i++;
        ck_assert_int_lt(i, copy->count);
    }
    return &copy->arrays[i];
}

START_TEST(a_wrong_state_is_refused)
{
    const float    values[] = { NAN, INFINITY, -1e-3f };
    struct trainee t, other;
    struct copy    before, copy;
    bl_array      *array, saved;
    int64_t        step = -1;

    make_trainee(&t, &tied, 7, 0);
    make_trainee(&other, &tied, 77, 0);
    train(&t, 1);
    train(&other, 2);
    before = copy_state(t.full);
    copy = copy_state(other.full);

    for (int64_t i = 0; i + 1 < copy.count; i++) { /* the last one instead of this */
        saved = copy.arrays[i];
        copy.arrays[i] = copy.arrays[copy.count - 1];
        refused(&t, &before, copy.arrays, copy.count - 1, saved.name);
        refused(&t, &before, copy.arrays, copy.count, "there twice");
        copy.arrays[i] = saved;
    }
    array = array_named(&copy, "model.norm.weight");
    saved = *array;
    strcpy(array->name, "model.norm.weights");
    refused(&t, &before, copy.arrays, copy.count, "model.norm.weights");
    memset(array->name, 'x', sizeof array->name);
    refused(&t, &before, copy.arrays, copy.count, "xxx");
    *array = saved;
    array->shape[0] = 11;
    refused(&t, &before, copy.arrays, copy.count, "11");
    *array = saved;
    array->dims = 2;
    refused(&t, &before, copy.arrays, copy.count, "model.norm.weight");
    *array = saved;
    array->dtype = BL_F64;
    refused(&t, &before, copy.arrays, copy.count, "model.norm.weight");
    *array = saved;
    array = array_named(&copy, "model.embed_tokens.weight.v");
    saved = *array;
    array->shape[1] = 11;
    refused(&t, &before, copy.arrays, copy.count, "model.embed_tokens.weight.v");
    *array = saved;
    for (int i = 0; i < 3; i++) {
        float kept;
        char *last = (char *) array->data + bytes_of(array) - sizeof kept;
        memcpy(&kept, last, sizeof kept);
        memcpy(last, &values[i], sizeof kept);
        refused(&t, &before, copy.arrays, copy.count, "impossible");
        memcpy(last, &kept, sizeof kept);
    }
    array = array_named(&copy, "full.step");
    saved = *array;
    array->data = &step;
    refused(&t, &before, copy.arrays, copy.count, "full.step");
    *array = saved;
    ck_assert_int_eq(full_set_state(t.full, copy.arrays, copy.count, error, sizeof error),
                     0);
    check_state(t.full, &copy);
    free_copy(&before);
    free_copy(&copy);
    free_trainee(&t);
    free_trainee(&other);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("full");
    TCase *gradients = tcase_create("gradients"), *model = tcase_create("model");
    TCase *steps = tcase_create("steps"), *state = tcase_create("state");

    tcase_set_timeout(gradients, 120);
    tcase_add_test(gradients, gradients_of_every_weight);
    tcase_add_test(gradients, frozen_weights_get_no_gradient);
    tcase_add_test(model, weights_are_copied_whatever_their_type);
    tcase_add_test(model, a_tied_head_stays_tied);
    tcase_add_test(model, what_cannot_be_trained_is_refused);
    tcase_add_test(steps, steps_are_adamw);
    tcase_add_test(steps, training_lowers_the_loss);
    tcase_add_test(steps, gradients_that_are_not_finite_change_nothing);
    tcase_add_test(state, a_state_goes_on_with_the_same_bits);
    tcase_add_test(state, a_state_is_named_as_hugging_face_does);
    tcase_add_test(state, a_wrong_state_is_refused);
    suite_add_tcase(suite, gradients);
    suite_add_tcase(suite, model);
    suite_add_tcase(suite, steps);
    suite_add_tcase(suite, state);
    return suite;
}
