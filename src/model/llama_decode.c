/*
 * One token at a time: matrix-vector products, and keys and values of all positions so
 * far in a cache of 2 layers context key floats.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "model/llama_pass.h"

struct llama_decoder {
    const struct llama          *model;
    const struct llama_adapters *adapters;
    bl_tape                    **tapes;
    int64_t                      context, position;

    float *keys, *values;  /* [layers, context, key] */
    float *rope;           /* [context, head_dim]    */
    float *scores;         /* [context]              */
    float *weight_scratch; /* of weight.h           */
    float *x, *normed, *branch, *q, *mixed, *gate, *up, *logits;
};

static float *floats(int64_t rows, int64_t columns)
{
    size_t n = (size_t) rows, width = (size_t) columns;
    return width > SIZE_MAX / sizeof(float) / n ? NULL
                                                : malloc(n * width * sizeof(float));
}

int llama_decoder_create(struct llama_decoder **out, const struct llama *model,
                         const struct llama_adapters *adapters, int64_t context,
                         char *error, size_t size)
{
    const struct llama_config *c = &model->config;
    int64_t               query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;
    struct llama_decoder *decoder;

    if (context < 1 || context > INT_MAX || c->layers > INT64_MAX / 8 / key / context) {
        snprintf(error, size, "a context of %lld tokens is not possible",
                 (long long) context);
        return -1;
    }
    decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    decoder->model = model;
    decoder->adapters = adapters;
    decoder->context = context;
    decoder->keys = floats(c->layers * context, key);
    decoder->values = floats(c->layers * context, key);
    decoder->rope = floats(context, c->head_dim);
    decoder->scores = floats(context, 1);
    decoder->weight_scratch = floats(threads_count(model->threads) * WEIGHT_BLOCK_ROWS,
                                     llama_weight_columns(c));
    decoder->x = floats(1, c->dim);
    decoder->normed = floats(1, c->dim);
    decoder->branch = floats(1, c->dim);
    decoder->q = floats(1, query);
    decoder->mixed = floats(1, query);
    decoder->gate = floats(1, c->hidden);
    decoder->up = floats(1, c->hidden);
    decoder->logits = floats(1, c->vocab);
    if (!decoder->keys || !decoder->values || !decoder->rope || !decoder->scores ||
        !decoder->weight_scratch || !decoder->x || !decoder->normed || !decoder->branch ||
        !decoder->q || !decoder->mixed || !decoder->gate || !decoder->up ||
        !decoder->logits) {
        snprintf(error, size, "out of memory for a context of %lld tokens",
                 (long long) context);
        goto failed;
    }
    rope_table(decoder->rope, context, c->head_dim, c->rope_theta, &c->rope_scaling);
    if (llama_tapes_create(&decoder->tapes, model, adapters, 1, 0, error, size) != 0) {
        goto failed;
    }
    *out = decoder;
    return 0;

failed:
    llama_decoder_free(decoder);
    return -1;
}

void llama_decoder_free(struct llama_decoder *decoder)
{
    if (!decoder) {
        return;
    }
    llama_tapes_free(decoder->tapes, decoder->model);
    free(decoder->keys);
    free(decoder->values);
    free(decoder->rope);
    free(decoder->scores);
    free(decoder->weight_scratch);
    free(decoder->x);
    free(decoder->normed);
    free(decoder->branch);
    free(decoder->q);
    free(decoder->mixed);
    free(decoder->gate);
    free(decoder->up);
    free(decoder->logits);
    free(decoder);
}

static int project(struct llama_decoder *decoder, int64_t l, int projection, float *y,
                   const float *x)
{
    char error[256]; /* bl_last_error() has it too, for a caller that gets NULL */
    return llama_project(decoder->model, decoder->adapters, decoder->tapes, l, projection,
                         1, y, x, BL_NO_DROPOUT, decoder->weight_scratch, error,
                         sizeof error);
}

static int decode_layer(struct llama_decoder *decoder, int64_t l)
{
    const struct llama_config *c = &decoder->model->config;
    const struct llama_layer  *layer = &decoder->model->layers[l];
    const struct attention     shape = { 1, 1, c->heads, c->kv_heads, c->head_dim };
    int64_t                    key = c->kv_heads * c->head_dim, at = decoder->position;
    const float               *turn = decoder->rope + at * c->head_dim;
    float                     *keys = decoder->keys + l * decoder->context * key;
    float                     *values = decoder->values + l * decoder->context * key;
    float                     *x = decoder->x, *h = decoder->normed;

    rmsnorm_forward(h, NULL, x, layer->attention_norm, 1, c->dim, c->norm_epsilon);
    if (project(decoder, l, LLAMA_Q, decoder->q, h) != 0 ||
        project(decoder, l, LLAMA_K, keys + at * key, h) != 0 ||
        project(decoder, l, LLAMA_V, values + at * key, h) != 0) {
        return -1;
    }
    rope_rotate(decoder->q, turn, 0, 1, 1, c->heads, c->head_dim, c->interleaved, 1);
    rope_rotate(keys + at * key, turn, 0, 1, 1, c->kv_heads, c->head_dim, c->interleaved,
                1);
    attention_step(&shape, decoder->mixed, decoder->q, keys, values, at + 1,
                   decoder->scores);
    if (project(decoder, l, LLAMA_O, decoder->branch, decoder->mixed) != 0) {
        return -1;
    }
    for (int64_t j = 0; j < c->dim; j++) {
        x[j] += decoder->branch[j];
    }
    rmsnorm_forward(h, NULL, x, layer->ffn_norm, 1, c->dim, c->norm_epsilon);
    if (project(decoder, l, LLAMA_GATE, decoder->gate, h) != 0 ||
        project(decoder, l, LLAMA_UP, decoder->up, h) != 0) {
        return -1;
    }
    swiglu_forward(decoder->gate, decoder->gate, decoder->up, c->hidden);
    if (project(decoder, l, LLAMA_DOWN, decoder->branch, decoder->gate) != 0) {
        return -1;
    }
    for (int64_t j = 0; j < c->dim; j++) {
        x[j] += decoder->branch[j];
    }
    return 0;
}

const float *llama_decode(struct llama_decoder *decoder, int32_t id)
{
    const struct llama        *model = decoder->model;
    const struct llama_config *c = &model->config;

    if (decoder->position >= decoder->context || id < 0 || id >= c->vocab) {
        return NULL;
    }
    memcpy(decoder->x,
           weight_rows(&model->embedding, id, 1, c->dim, decoder->weight_scratch),
           (size_t) c->dim * sizeof(float));
    for (int64_t l = 0; l < c->layers; l++) {
        if (decode_layer(decoder, l) != 0) {
            return NULL;
        }
    }
    rmsnorm_forward(decoder->normed, NULL, decoder->x, model->final_norm, 1, c->dim,
                    c->norm_epsilon);
    weight_forward(model->threads, decoder->logits, decoder->normed, &model->head, 1,
                   c->vocab, c->dim, decoder->weight_scratch);
    decoder->position++;
    return decoder->logits;
}
