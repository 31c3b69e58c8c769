/*
 * Parameters, gradients and AdamW's two moments of a whole model, a block of floats each;
 * see full.h. A step is one pass over the four for the update and one over the gradients
 * before it, to see that they are finite.
 */
#include "train/full.h"

#include "base/memory.h"
#include "model/parameters.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, KEPT };

struct full {
    double                 beta1, beta2, epsilon, weight_decay;
    int64_t                step; /* steps made */
    struct parameters      parameters;
    float                 *block[KEPT]; /* what a checkpoint keeps */
    float                 *gradient;
    struct llama_gradients gradients; /* into `gradient` */
};

/* ===== Creation =========================================================== */

static int check_settings(double beta1, double beta2, double epsilon, double weight_decay,
                          char *error, size_t size)
{
    if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) {
        snprintf(error, size, "beta1 %g and beta2 %g must be from 0 to below 1", beta1,
                 beta2);
        return -1;
    }
    if (!(epsilon >= FLT_MIN &&
          epsilon <= FLT_MAX)) { /* rows never seen have m = v = 0 */
        snprintf(error, size, "epsilon %g must be from %g to %g", epsilon, FLT_MIN,
                 FLT_MAX);
        return -1;
    }
    if (!(weight_decay >= 0 && isfinite(weight_decay))) {
        snprintf(error, size, "weight decay %g must be finite and at least 0",
                 weight_decay);
        return -1;
    }
    return 0;
}

static int check_memory(const struct parameters *parameters, char *error, size_t size)
{
    char what[96];

    snprintf(what, sizeof what,
             "weights, gradients and moments of %" PRId64 " parameters",
             parameters->total);
    return memory_check((KEPT + 1) * (double) parameters->floats * sizeof(float), what,
                        "adapters need less", error, size);
}

int full_create(struct full **out, struct llama *model, double beta1, double beta2,
                double epsilon, double weight_decay, char *error, size_t size)
{
    struct full *full;

    if (check_settings(beta1, beta2, epsilon, weight_decay, error, size) != 0) {
        return -1;
    }
    full = calloc(1, sizeof *full);
    if (full == NULL) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    full->beta1 = beta1;
    full->beta2 = beta2;
    full->epsilon = epsilon;
    full->weight_decay = weight_decay;
    if (parameters_create(&full->parameters, &model->config, error, size) != 0 ||
        check_memory(&full->parameters, error, size) != 0) {
        full_free(full);
        return -1;
    }
    for (int i = 0; i < KEPT; i++) {
        full->block[i] = parameters_block(&full->parameters);
    }
    full->gradient = parameters_block(&full->parameters);
    full->gradients.layers =
        calloc((size_t) model->config.layers, sizeof *full->gradients.layers);
    if (full->block[WEIGHTS] == NULL || full->block[FIRST_MOMENT] == NULL ||
        full->block[SECOND_MOMENT] == NULL || full->gradient == NULL ||
        full->gradients.layers == NULL ||
        parameters_copy(&full->parameters, model, full->block[WEIGHTS]) != 0) {
        snprintf(error, size, "out of memory for the training of %" PRId64 " parameters",
                 full->parameters.total);
        full_free(full);
        return -1;
    }
    parameters_place_weights(&full->parameters, model, full->block[WEIGHTS]);
    parameters_place_gradients(&full->parameters, &full->gradients, full->gradient);
    *out = full;
    return 0;
}

void full_free(struct full *full)
{
    if (full == NULL) {
        return;
    }
    for (int i = 0; i < KEPT; i++) {
        free(full->block[i]);
    }
    free(full->gradients.layers);
    free(full->gradient);
    parameters_free(&full->parameters);
    free(full);
}

const struct llama_gradients *full_gradients(struct full *full)
{
    return &full->gradients;
}

int64_t full_parameters(const struct full *full)
{
    return full->parameters.total;
}

/* ===== A step ============================================================= */

double full_gradient_norm(const struct full *full)
{
    enum { LANES = 16 }; /* divides the block: its arrays fill lines of 64 bytes */
    const float *gradient = full->gradient;
    double       sums[LANES] = { 0 }, sum = 0;

    for (int64_t i = 0; i < full->parameters.floats; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            sums[j] += (double) gradient[i + j] * gradient[i + j];
        }
    }
    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
    }
    return sqrt(sum);
}

/* A step's numbers, worked out in double. */
struct adamw {
    float scale, rest1, beta2, rest2, root, epsilon, keep, step;
};

static void update(const struct adamw *adamw, int64_t count, float *restrict p,
                   float *restrict m, float *restrict v, float *restrict gradient)
{
    const struct adamw a = *adamw;

    for (int64_t i = 0; i < count; i++) {
        float g = gradient[i] * a.scale;

        m[i] += a.rest1 * (g - m[i]);
        v[i] = a.beta2 * v[i] + a.rest2 * g * g;
        p[i] = a.keep * p[i] - a.step * m[i] / (sqrtf(v[i]) * a.root + a.epsilon);
        gradient[i] = 0;
    }
}

int full_step(struct full *full, double lr, double grad_scale)
{
    double       norm = full_gradient_norm(full) * fabs(grad_scale);
    double       bias1, bias2;
    struct adamw adamw;

    if (!(norm * norm <= FLT_MAX)) {
        memset(full->gradient, 0, (size_t) full->parameters.floats * sizeof(float));
        return 1;
    }
    full->step++;
    bias1 = 1 - pow(full->beta1, (double) full->step);
    bias2 = 1 - pow(full->beta2, (double) full->step);
    adamw.scale = (float) grad_scale;
    adamw.rest1 = (float) (1 - full->beta1);
    adamw.beta2 = (float) full->beta2;
    adamw.rest2 = (float) (1 - full->beta2);
    adamw.root = (float) (1 / sqrt(bias2));
    adamw.epsilon = (float) full->epsilon;
    adamw.step = (float) (lr / bias1);
    for (int64_t i = 0; i < full->parameters.count; i++) {
        const struct parameter *p = &full->parameters.list[i];

        adamw.keep = (float) (1 - (p->dims > 1 ? lr * full->weight_decay : 0));
        update(&adamw, p->rows * p->columns, full->block[WEIGHTS] + p->at,
               full->block[FIRST_MOMENT] + p->at, full->block[SECOND_MOMENT] + p->at,
               full->gradient + p->at);
    }
    return 0;
}

/* ===== State ============================================================== */

static const char step_name[] = "full.step";

int64_t full_state_count(const struct full *full)
{
    return KEPT * full->parameters.count + 1;
}

int full_get_state(const struct full *full, int64_t index, bl_array *out)
{
    static const char *const endings[KEPT] = { "", ".m", ".v" };
    int64_t                  count = full->parameters.count;
    const struct parameter  *p;

    if (index < 0 || index >= full_state_count(full)) {
        return -1;
    }
    memset(out, 0, sizeof *out);
    if (index == KEPT * count) {
        memcpy(out->name, step_name, sizeof step_name);
        out->data = &full->step;
        out->shape[0] = out->shape[1] = out->dims = 1;
        out->dtype = BL_I64;
        return 0;
    }
    p = &full->parameters.list[index % count];
    snprintf(out->name, sizeof out->name, "%s%s", p->name, endings[index / count]);
    out->data = full->block[index / count] + p->at;
    out->shape[0] = p->rows;
    out->shape[1] = p->columns;
    out->dims = p->dims;
    out->dtype = BL_F32;
    return 0;
}

/* Finite, and a second moment not below 0; a step count not below 0. */
static int good_values(const struct full *full, int64_t index, const bl_array *array)
{
    const unsigned char *at = array->data;
    int64_t              step;

    if (array->dtype == BL_I64) {
        memcpy(&step, at, sizeof step);
        return step >= 0;
    }
    for (int64_t i = 0; i < array->shape[0] * (array->dims > 1 ? array->shape[1] : 1);
         i++) {
        float value;

        memcpy(&value, at + (size_t) i * sizeof value, sizeof value);
        if (!isfinite(value) ||
            (value < 0 && index / full->parameters.count == SECOND_MOMENT)) {
            return 0;
        }
    }
    return 1;
}

static int check_array(const struct full *full, int64_t index, const bl_array *array,
                       char *error, size_t size)
{
    bl_array own;

    full_get_state(full, index, &own);
    if (array->dtype != own.dtype || array->dims != own.dims ||
        array->shape[0] != own.shape[0] ||
        (own.dims > 1 && array->shape[1] != own.shape[1])) {
        snprintf(error, size,
                 "%s is [%" PRId64 ", %" PRId64 "] of type %d, must be [%" PRId64
                 ", %" PRId64 "] of type %d",
                 own.name, array->shape[0], array->dims > 1 ? array->shape[1] : 1,
                 (int) array->dtype, own.shape[0], own.shape[1], (int) own.dtype);
        return -1;
    }
    if (!good_values(full, index, array)) {
        snprintf(error, size, "%s holds an impossible value", own.name);
        return -1;
    }
    return 0;
}

static int64_t find(const struct full *full, const char *name)
{
    bl_array own;

    for (int64_t i = 0; i < full_state_count(full); i++) {
        full_get_state(full, i, &own);
        if (strncmp(own.name, name, BL_NAME_MAX) == 0) {
            return i;
        }
    }
    return -1;
}

/* source[i]: the array that becomes the state's array i. */
static int match(const struct full *full, const bl_array *arrays, int64_t count,
                 const bl_array **source, char *error, size_t size)
{
    for (int64_t k = 0; k < count; k++) {
        int64_t i = find(full, arrays[k].name);

        if (i < 0 || source[i] != NULL) {
            snprintf(error, size, "%.*s is %s", BL_NAME_MAX, arrays[k].name,
                     i < 0 ? "not of this model's state" : "there twice");
            return -1;
        }
        if (check_array(full, i, &arrays[k], error, size) != 0) {
            return -1;
        }
        source[i] = &arrays[k];
    }
    for (int64_t i = 0; i < full_state_count(full); i++) {
        bl_array own;

        if (source[i] == NULL) {
            full_get_state(full, i, &own);
            snprintf(error, size, "%s is missing", own.name);
            return -1;
        }
    }
    return 0;
}

int full_set_state(struct full *full, const bl_array *arrays, int64_t count, char *error,
                   size_t size)
{
    int64_t          parameters = full->parameters.count;
    const bl_array **source = calloc((size_t) full_state_count(full), sizeof *source);

    if (source == NULL) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    if (match(full, arrays, count, source, error, size) != 0) {
        free(source);
        return -1;
    }
    for (int64_t i = 0; i < KEPT * parameters; i++) {
        const struct parameter *p = &full->parameters.list[i % parameters];

        memcpy(full->block[i / parameters] + p->at, source[i]->data,
               (size_t) (p->rows * p->columns) * sizeof(float));
    }
    memcpy(&full->step, source[KEPT * parameters]->data, sizeof full->step);
    memset(full->gradient, 0, (size_t) full->parameters.floats * sizeof(float));
    free(source);
    return 0;
}
