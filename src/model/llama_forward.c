/*
 * Forward over whole windows, and the memory for it and its backward. For each layer
 *
 *     x += o(attention(rope(q h), rope(k h), v h)),   h = rmsnorm(x)
 *     x += down(silu(gate h) * up h),                 h = rmsnorm(x)
 *
 * and every product is the frozen weight's plus its adapter's. Kept for the backward: per
 * row and layer 2 dim + 2 query + 2 key + 2 hidden + heads + 2 floats, and the logits.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/llama_pass.h"

bl_adapter *llama_adapter_at(const struct llama_adapters *adapters, int64_t layer,
                             int projection)
{
    return adapters ? adapters->at[layer * LLAMA_PROJECTIONS + projection] : NULL;
}

int llama_project(const struct llama *model, const struct llama_adapters *adapters,
                  bl_tape **tapes, int64_t layer, int projection, int64_t n, float *y,
                  const float *x, int64_t key, float *scratch, char *error, size_t size)
{
    bl_adapter *adapter = llama_adapter_at(adapters, layer, projection);
    int64_t     out, in;

    llama_projection_shape(&model->config, projection, &out, &in);
    weight_forward(y, x, &model->layers[layer].projection[projection], n, out, in,
                   scratch);
    if (adapter && bl_forward(adapter, tapes[layer * LLAMA_PROJECTIONS + projection], n,
                              y, out, x, in, key) != 0) {
        snprintf(error, size, "%s: %s", bl_adapter_get_name(adapter), bl_last_error());
        return -1;
    }
    return 0;
}

int llama_tapes_create(bl_tape ***out, const struct llama *model,
                       const struct llama_adapters *adapters, int64_t max_n, int keep,
                       char *error, size_t size)
{
    int64_t   count = model->config.layers * LLAMA_PROJECTIONS;
    bl_tape **tapes;

    *out = NULL;
    if (!adapters) {
        return 0;
    }
    tapes = calloc((size_t) count, sizeof(bl_tape *));
    if (!tapes) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        if (adapters->at[i] &&
            bl_tape_create(&tapes[i], adapters->at[i], max_n, keep) != 0) {
            snprintf(error, size, "%s: %s", bl_adapter_get_name(adapters->at[i]),
                     bl_last_error());
            llama_tapes_free(tapes, model);
            return -1;
        }
    }
    *out = tapes;
    return 0;
}

void llama_tapes_free(bl_tape **tapes, const struct llama *model)
{
    for (int64_t i = 0; tapes && i < model->config.layers * LLAMA_PROJECTIONS; i++) {
        bl_tape_free(tapes[i]);
    }
    free(tapes);
}

/* ===== Memory ============================================================= */

/* Carves arrays out of one block; with base NULL only counts. */
struct carver {
    float *base;
    size_t count;
    int    overflow;
};

static float *carve(struct carver *carver, int64_t rows, int64_t columns)
{
    /* Lines of 64 bytes, so that no two arrays share one. */
    const size_t most = SIZE_MAX / sizeof(float) / 2;
    float       *here = carver->base ? carver->base + carver->count : NULL;
    size_t       n = (size_t) rows, width = (size_t) columns;

    if (n > 0 && width > (most - carver->count - 16) / n) {
        carver->overflow = 1;
        return NULL;
    }
    carver->count += (n * width + 15) / 16 * 16;
    return here;
}

static void lay_out(struct llama_pass *pass, struct carver *carver)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->max_batch * pass->max_context;
    int64_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;

    for (int64_t l = 0; l < c->layers; l++) {
        struct llama_kept *kept = &pass->kept[l];
        if (l > 0 && !pass->keep) {
            *kept = pass->kept[0];
            continue;
        }
        kept->attention_inverse = carve(carver, n, 1);
        kept->ffn_inverse = carve(carver, n, 1);
        kept->q = carve(carver, n, query);
        kept->k = carve(carver, n, key);
        kept->v = carve(carver, n, key);
        kept->lse = carve(carver, n, c->heads);
        kept->mixed = carve(carver, n, query);
        kept->gate = carve(carver, n, c->hidden);
        kept->up = carve(carver, n, c->hidden);
    }
    for (int64_t i = 0; i <= 2 * c->layers; i++) {
        pass->residual[i] =
            i == 0 || pass->keep ? carve(carver, n, c->dim) : pass->residual[0];
    }
    pass->rope = carve(carver, pass->max_context, c->head_dim);
    pass->normed = carve(carver, n, c->dim);
    pass->branch = carve(carver, n, c->dim);
    pass->active = carve(carver, n, c->hidden);
    pass->scratch = carve(carver, ATTENTION_SCRATCH_ROWS, pass->max_context);
    pass->weight_scratch = carve(carver, WEIGHT_BLOCK_ROWS, llama_weight_columns(c));
    pass->final_inverse = carve(carver, n, 1);
    pass->logits = carve(carver, n, c->vocab);
    pass->logits_lse = carve(carver, n, 1);
    if (pass->keep) {
        pass->d_residual = carve(carver, n, c->dim);
        pass->d_normed = carve(carver, n, c->dim);
        pass->d_active = carve(carver, n, c->hidden);
        pass->d_mixed = carve(carver, n, query);
        pass->d_q = carve(carver, n, query);
        pass->d_k = carve(carver, n, key);
        pass->d_v = carve(carver, n, key);
    }
}

int64_t llama_weight_columns(const struct llama_config *config)
{
    int64_t most = config->heads * config->head_dim;

    most = config->dim > most ? config->dim : most;
    return config->hidden > most ? config->hidden : most;
}

static int64_t lowest_layer(const struct llama          *model,
                            const struct llama_adapters *adapters)
{
    int64_t i = 0, count = model->config.layers * LLAMA_PROJECTIONS;
    while (adapters && i < count && !adapters->at[i]) {
        i++;
    }
    return adapters ? i / LLAMA_PROJECTIONS : model->config.layers;
}

int llama_pass_create(struct llama_pass **out, const struct llama *model,
                      const struct llama_adapters *adapters, int64_t batch,
                      int64_t context, int keep, char *error, size_t size)
{
    struct carver      carver = { NULL, 0, 0 };
    size_t             layers = (size_t) model->config.layers;
    struct llama_pass *pass;

    if (batch < 1 || context < 1 || batch > INT_MAX / context) {
        snprintf(error, size,
                 "batch %lld and context %lld: both must be 1 or more, their "
                 "product at most %d",
                 (long long) batch, (long long) context, INT_MAX);
        return -1;
    }
    pass = calloc(1, sizeof *pass);
    if (!pass) {
        goto no_memory;
    }
    pass->model = model;
    pass->adapters = adapters;
    pass->max_batch = batch;
    pass->max_context = context;
    pass->keep = keep != 0;
    pass->lowest = lowest_layer(model, adapters);
    pass->kept = calloc(layers, sizeof *pass->kept);
    pass->residual = calloc(2 * layers + 1, sizeof *pass->residual);
    pass->ids = calloc((size_t) (batch * context), sizeof *pass->ids);
    pass->targets = calloc((size_t) (batch * context), sizeof *pass->targets);
    if (!pass->kept || !pass->residual || !pass->ids || !pass->targets) {
        goto no_memory;
    }
    lay_out(pass, &carver);
    if (carver.overflow) {
        goto no_memory;
    }
    pass->block = malloc(carver.count * sizeof *pass->block);
    if (!pass->block) {
        goto no_memory;
    }
    carver.base = pass->block;
    carver.count = 0;
    lay_out(pass, &carver);
    rope_table(pass->rope, context, model->config.head_dim, model->config.rope_theta,
               &model->config.rope_scaling);
    if (llama_tapes_create(&pass->tapes, model, adapters, batch * context, keep, error,
                           size) != 0) {
        llama_pass_free(pass);
        return -1;
    }
    *out = pass;
    return 0;

no_memory:
    snprintf(error, size, "out of memory for windows of %lld x %lld tokens",
             (long long) batch, (long long) context);
    llama_pass_free(pass);
    return -1;
}

void llama_pass_free(struct llama_pass *pass)
{
    if (!pass) {
        return;
    }
    llama_tapes_free(pass->tapes, pass->model);
    free(pass->block);
    free(pass->targets);
    free(pass->ids);
    free(pass->residual);
    free(pass->kept);
    free(pass);
}

const float *llama_pass_logits(const struct llama_pass *pass)
{
    return pass->logits;
}

/* ===== Forward ============================================================ */

/* y = x + branch; y may be x */
static void add(float *y, const float *x, const float *branch, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        y[i] = x[i] + branch[i];
    }
}

static int forward_layer(struct llama_pass *pass, int64_t l, int64_t key, char *error,
                         size_t size)
{
    const struct llama        *model = pass->model;
    const struct llama_config *c = &model->config;
    const struct llama_layer  *layer = &model->layers[l];
    const struct attention     shape = { pass->batch, pass->length, c->heads, c->kv_heads,
                                         c->head_dim };
    struct llama_kept         *kept = &pass->kept[l];
    float  *x = pass->residual[2 * l], *middle = pass->residual[2 * l + 1];
    float  *h = pass->normed;
    int64_t n = pass->batch * pass->length;

    const struct {
        int          projection;
        float       *y;
        const float *x;
    } step[LLAMA_PROJECTIONS] = {
        { LLAMA_Q, kept->q, h },
        { LLAMA_K, kept->k, h },
        { LLAMA_V, kept->v, h },
        { LLAMA_O, pass->branch, kept->mixed },
        { LLAMA_GATE, kept->gate, h },
        { LLAMA_UP, kept->up, h },
        { LLAMA_DOWN, pass->branch, pass->active },
    };

    rmsnorm_forward(h, kept->attention_inverse, x, layer->attention_norm, n, c->dim,
                    c->norm_epsilon);
    for (int i = 0; i < LLAMA_PROJECTIONS; i++) {
        if (step[i].projection == LLAMA_O) {
            rope_rotate(kept->q, pass->rope, n, pass->length, c->heads, c->head_dim,
                        c->interleaved, 1);
            rope_rotate(kept->k, pass->rope, n, pass->length, c->kv_heads, c->head_dim,
                        c->interleaved, 1);
            attention_forward(&shape, kept->mixed, kept->lse, kept->q, kept->k, kept->v,
                              pass->scratch);
        } else if (step[i].projection == LLAMA_GATE) {
            add(middle, x, pass->branch, n * c->dim);
            rmsnorm_forward(h, kept->ffn_inverse, middle, layer->ffn_norm, n, c->dim,
                            c->norm_epsilon);
        } else if (step[i].projection == LLAMA_DOWN) {
            swiglu_forward(pass->active, kept->gate, kept->up, n * c->hidden);
        }
        if (llama_project(model, pass->adapters, pass->tapes, l, step[i].projection, n,
                          step[i].y, step[i].x, key, pass->weight_scratch, error,
                          size) != 0) {
            return -1;
        }
    }
    add(pass->residual[2 * l + 2], middle, pass->branch, n * c->dim);
    return 0;
}

/* Check ids and targets, keep them, fetch the ids' embeddings. */
static int begin(struct llama_pass *pass, const int32_t *ids, const int32_t *targets,
                 int64_t *predicted, char *error, size_t size)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->batch * pass->length, count = 0;

    for (int64_t i = 0; i < n; i++) {
        int32_t id = ids[i], target = targets[i];
        if (id < 0 || id >= c->vocab || target < -1 || target >= c->vocab) {
            snprintf(error, size, "token id %d is outside the model's vocabulary of %lld",
                     (int) (id < 0 || id >= c->vocab ? id : target),
                     (long long) c->vocab);
            return -1;
        }
        count += target >= 0;
        pass->ids[i] = id;
        pass->targets[i] = target;
        memcpy(pass->residual[0] + i * c->dim,
               weight_rows(&pass->model->embedding, id, 1, c->dim, pass->weight_scratch),
               (size_t) c->dim * sizeof(float));
    }
    *predicted = count;
    return 0;
}

int llama_forward(struct llama_pass *pass, int64_t batch, int64_t length,
                  const int32_t *ids, const int32_t *targets, int64_t key, double *sum,
                  int64_t *predicted, char *error, size_t size)
{
    const struct llama        *model = pass->model;
    const struct llama_config *c = &model->config;
    int64_t                    n;

    pass->ready = 0;
    if (batch < 1 || batch > pass->max_batch || length < 1 ||
        length > pass->max_context) {
        snprintf(error, size,
                 "%lld windows of %lld tokens, there is room for %lld of %lld",
                 (long long) batch, (long long) length, (long long) pass->max_batch,
                 (long long) pass->max_context);
        return -1;
    }
    pass->batch = batch;
    pass->length = length;
    n = batch * length;
    if (begin(pass, ids, targets, predicted, error, size) != 0) {
        return -1;
    }
    for (int64_t l = 0; l < c->layers; l++) {
        if (forward_layer(pass, l, key, error, size) != 0) {
            return -1;
        }
    }
    rmsnorm_forward(pass->normed, pass->final_inverse, pass->residual[2 * c->layers],
                    model->final_norm, n, c->dim, c->norm_epsilon);
    weight_forward(pass->logits, pass->normed, &model->head, n, c->vocab, c->dim,
                   pass->weight_scratch);
    *sum =
        cross_entropy_forward(pass->logits_lse, pass->logits, pass->targets, n, c->vocab);
    pass->ready = pass->keep;
    return 0;
}
