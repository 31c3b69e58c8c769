/* Where a model's parameters lie in one block; see parameters.h. */
#define _POSIX_C_SOURCE 200809L

#include "parameters.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
#define LINE (ALIGNMENT / (int64_t) sizeof(float))

/* Order in the list: the embedding, for each layer two norms and the projections, the
 * last norm, the head. */
enum { ATTENTION_NORM, FFN_NORM, PROJECTION, PER_LAYER = PROJECTION + LLAMA_PROJECTIONS };

static int64_t layers_of(const struct parameters *parameters)
{
    return (parameters->count - 2) / PER_LAYER; /* a head of its own is one more */
}

static int64_t last_norm(const struct parameters *parameters)
{
    return 1 + layers_of(parameters) * PER_LAYER;
}

static int64_t head(const struct parameters *parameters)
{
    return last_norm(parameters) + 1 < parameters->count ? last_norm(parameters) + 1 : 0;
}

/* -1 if an int64 is too small for the bytes of all. */
static int add(struct parameters *parameters, int32_t dims, int64_t rows, int64_t columns)
{
    struct parameter *p = &parameters->list[parameters->count];
    int64_t           most = INT64_MAX / 64;

    if (rows > (most - parameters->floats - LINE) / columns) {
        return -1;
    }
    p->dims = dims;
    p->shape[0] = rows;
    p->shape[1] = columns;
    p->at = parameters->floats;
    parameters->count++;
    parameters->total += rows * columns;
    parameters->floats += (rows * columns + LINE - 1) / LINE * LINE;
    return 0;
}

static int add_all(struct parameters *parameters, const struct llama_config *config,
                   int tied)
{
    int failed = add(parameters, 2, config->vocab, config->dim);

    for (int64_t l = 0; l < config->layers; l++) {
        for (int i = 0; i < PER_LAYER; i++) {
            int64_t out = config->dim, in = 1;

            if (i >= PROJECTION) {
                llama_projection_shape(config, i - PROJECTION, &out, &in);
            }
            failed = failed || add(parameters, i < PROJECTION ? 1 : 2, out, in);
        }
    }
    failed = failed || add(parameters, 1, config->dim, 1);
    return failed || (!tied && add(parameters, 2, config->vocab, config->dim));
}

static void name_all(struct parameters *parameters)
{
    static const char *const norms[] = { "input_layernorm", "post_attention_layernorm" };

    snprintf(parameters->list[0].name, PARAMETER_NAME_SIZE, "model.embed_tokens.weight");
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        for (int i = 0; i < PER_LAYER; i++) {
            snprintf(parameters->list[1 + l * PER_LAYER + i].name, PARAMETER_NAME_SIZE,
                     "model.layers.%" PRId64 ".%s.weight", l,
                     i < PROJECTION ? norms[i] : llama_projection_name(i - PROJECTION));
        }
    }
    snprintf(parameters->list[last_norm(parameters)].name, PARAMETER_NAME_SIZE,
             "model.norm.weight");
    if (head(parameters) > 0) {
        snprintf(parameters->list[head(parameters)].name, PARAMETER_NAME_SIZE,
                 "lm_head.weight");
    }
}

int parameters_create(struct parameters *out, const struct llama_config *config, int tied,
                      char *error, size_t size)
{
    struct parameters parameters = { NULL, 0, 0, 0 };

    parameters.list =
        calloc(3 + (size_t) config->layers * PER_LAYER, sizeof *parameters.list);
    if (parameters.list == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " layers", config->layers);
        return -1;
    }
    if (add_all(&parameters, config, tied)) {
        snprintf(error, size, "the model's sizes are absurd");
        free(parameters.list);
        return -1;
    }
    name_all(&parameters);
    *out = parameters;
    return 0;
}

void parameters_free(struct parameters *parameters)
{
    free(parameters->list);
    parameters->list = NULL;
}

float *parameters_block(const struct parameters *parameters)
{
    size_t bytes = (size_t) parameters->floats * sizeof(float);
    void  *block;

    if (posix_memalign(&block, ALIGNMENT, bytes) != 0) {
        return NULL;
    }
    return memset(block, 0, bytes);
}

void parameters_place_weights(const struct parameters *parameters, struct llama *model,
                              const float *block)
{
    const struct parameter *list = parameters->list;

    model->embedding = (struct weight){ block + list[0].at, BL_F32 };
    model->head = (struct weight){ block + list[head(parameters)].at, BL_F32 };
    model->final_norm = block + list[last_norm(parameters)].at;
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        const struct parameter *first = list + 1 + l * PER_LAYER;
        struct llama_layer     *layer = &model->layers[l];

        layer->attention_norm = block + first[ATTENTION_NORM].at;
        layer->ffn_norm = block + first[FFN_NORM].at;
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            layer->projection[p] =
                (struct weight){ block + first[PROJECTION + p].at, BL_F32 };
        }
    }
}

void parameters_place_gradients(const struct parameters *parameters,
                                struct llama_gradients *gradients, float *block)
{
    const struct parameter *list = parameters->list;

    gradients->embedding = block + list[0].at;
    gradients->head = block + list[head(parameters)].at;
    gradients->final_norm = block + list[last_norm(parameters)].at;
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        const struct parameter       *first = list + 1 + l * PER_LAYER;
        struct llama_layer_gradients *layer = &gradients->layers[l];

        layer->attention_norm = block + first[ATTENTION_NORM].at;
        layer->ffn_norm = block + first[FFN_NORM].at;
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            layer->projection[p] = block + first[PROJECTION + p].at;
        }
    }
}

static void copy_matrix(float *to, const struct weight *from, const struct parameter *p,
                        float *scratch)
{
    int64_t columns = p->shape[1];

    for (int64_t at = 0; at < p->shape[0]; at += WEIGHT_BLOCK_ROWS) {
        int64_t left = p->shape[0] - at;
        int64_t rows = left < WEIGHT_BLOCK_ROWS ? left : WEIGHT_BLOCK_ROWS;

        memcpy(to + p->at + at * columns, weight_rows(from, at, rows, columns, scratch),
               (size_t) (rows * columns) * sizeof *to);
    }
}

static void copy_norm(float *to, const float *from, const struct parameter *p)
{
    memcpy(to + p->at, from, (size_t) p->shape[0] * sizeof *to);
}

int parameters_copy(const struct parameters *parameters, const struct llama *model,
                    float *block)
{
    const struct parameter *list = parameters->list;
    int64_t                 columns = 1;
    float                  *scratch;

    for (int64_t i = 0; i < parameters->count; i++) {
        columns = list[i].shape[1] > columns ? list[i].shape[1] : columns;
    }
    scratch = malloc((size_t) columns * WEIGHT_BLOCK_ROWS * sizeof *scratch);
    if (scratch == NULL) {
        return -1;
    }
    copy_matrix(block, &model->embedding, &list[0], scratch);
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        const struct parameter   *first = list + 1 + l * PER_LAYER;
        const struct llama_layer *layer = &model->layers[l];

        copy_norm(block, layer->attention_norm, &first[ATTENTION_NORM]);
        copy_norm(block, layer->ffn_norm, &first[FFN_NORM]);
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            copy_matrix(block, &layer->projection[p], &first[PROJECTION + p], scratch);
        }
    }
    copy_norm(block, model->final_norm, &list[last_norm(parameters)]);
    if (head(parameters) > 0) {
        copy_matrix(block, &model->head, &list[head(parameters)], scratch);
    }
    free(scratch);
    return 0;
}
