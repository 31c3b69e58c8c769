/* Where a model's parameters lie in one block; see parameters.h. */
#define _POSIX_C_SOURCE 200809L

#include "model/parameters.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/llama_pass.h"

#define ALIGNMENT 64
#define LINE (ALIGNMENT / (int64_t) sizeof(float))

/* llama_get_tensor's order: embedding, final norm, layers, and the head if not tied. */
enum {
    EMBEDDING,
    FINAL_NORM,
    LAYERS,

    ATTENTION_NORM = 0, /* within a layer */
    FFN_NORM,
    PROJECTION,
    EACH = PROJECTION + LLAMA_PROJECTIONS
};

static int64_t layers_of(const struct parameters *parameters)
{
    return (parameters->count - LAYERS) / EACH;
}

static int64_t head_of(const struct parameters *parameters)
{
    int64_t after = LAYERS + layers_of(parameters) * EACH;

    return after < parameters->count ? after : EMBEDDING;
}

int parameters_create(struct parameters *out, const struct llama_config *config,
                      char *error, size_t size)
{
    struct parameters p = { .count = llama_tensor_count(config) };
    const int64_t     most = INT64_MAX / 64; /* so that bytes of a few can be told */

    p.list = calloc((size_t) p.count, sizeof *p.list);
    if (p.list == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " tensors", p.count);
        return -1;
    }
    for (int64_t i = 0; i < p.count; i++) {
        struct parameter   *to = &p.list[i];
        struct llama_tensor tensor;

        llama_get_tensor(config, i, &tensor);
        memcpy(to->name, tensor.name, sizeof to->name);
        to->dims = tensor.dims;
        to->rows = tensor.shape[0];
        to->columns = tensor.dims > 1 ? tensor.shape[1] : 1;
        to->at = p.floats;
        if (to->rows > (most - LINE - p.floats) / to->columns) {
            snprintf(error, size, "%s: the model's sizes are absurd", to->name);
            free(p.list);
            return -1;
        }
        p.total += to->rows * to->columns;
        p.floats += (to->rows * to->columns + LINE - 1) / LINE * LINE;
    }
    *out = p;
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

int parameters_copy(const struct parameters *parameters, const struct llama *model,
                    float *block)
{
    int64_t columns = llama_weight_columns(&model->config);
    float  *scratch = malloc((size_t) columns * WEIGHT_BLOCK_ROWS * sizeof *scratch);

    if (scratch == NULL) {
        return -1;
    }
    for (int64_t i = 0; i < parameters->count; i++) {
        const struct parameter *p = &parameters->list[i];
        struct weight           from = llama_get_weight(model, i);

        for (int64_t at = 0; at < p->rows; at += WEIGHT_BLOCK_ROWS) {
            int64_t left = p->rows - at;
            int64_t rows = left < WEIGHT_BLOCK_ROWS ? left : WEIGHT_BLOCK_ROWS;

            memcpy(block + p->at + at * p->columns,
                   weight_rows(&from, at, rows, p->columns, scratch),
                   (size_t) (rows * p->columns) * sizeof *block);
        }
    }
    free(scratch);
    return 0;
}

void parameters_place_weights(const struct parameters *parameters, struct llama *model,
                              const float *block)
{
    const struct parameter *list = parameters->list;

    model->embedding = (struct weight){ block + list[EMBEDDING].at, BL_F32 };
    model->final_norm = block + list[FINAL_NORM].at;
    model->head = (struct weight){ block + list[head_of(parameters)].at, BL_F32 };
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        const struct parameter *first = list + LAYERS + l * EACH;
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

    gradients->embedding = block + list[EMBEDDING].at;
    gradients->final_norm = block + list[FINAL_NORM].at;
    gradients->head = block + list[head_of(parameters)].at;
    for (int64_t l = 0; l < layers_of(parameters); l++) {
        const struct parameter       *first = list + LAYERS + l * EACH;
        struct llama_layer_gradients *layer = &gradients->layers[l];

        layer->attention_norm = block + first[ATTENTION_NORM].at;
        layer->ffn_norm = block + first[FFN_NORM].at;
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            layer->projection[p] = block + first[PROJECTION + p].at;
        }
    }
}
