/*
 * Forward over whole windows. For each layer
 *
 *     x += o(attention(rope(q h), rope(k h), v h)),   h = rmsnorm(x)
 *     x += down(silu(gate h) * up h),                 h = rmsnorm(x)
 *
 * and every product is the frozen weight's plus its adapter's. Between the products the
 * threads share the rows, in attention the heads.
 */
#include <stdio.h>
#include <string.h>

#include "base/threads.h"
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
    weight_forward(model->threads, y, x, &model->layers[layer].projection[projection], n,
                   out, in, scratch);
    if (adapter && bl_forward(adapter, tapes[layer * LLAMA_PROJECTIONS + projection], n,
                              y, out, x, in, key) != 0) {
        snprintf(error, size, "%s: %s", bl_adapter_get_name(adapter), bl_last_error());
        return -1;
    }
    return 0;
}

/* ===== A layer ============================================================ */

/* y = x + branch, for so many elements from `at` on */
static void add(float *y, const float *x, const float *branch, int64_t at, int64_t count)
{
    for (int64_t i = at; i < at + count; i++) {
        y[i] = x[i] + branch[i];
    }
}

static void enter_attention(struct llama_pass *pass, int64_t l, int64_t from,
                            int64_t rows)
{
    const struct llama_config *c = &pass->model->config;

    rmsnorm_forward(pass->normed + from * c->dim, pass->kept[l].attention_inverse + from,
                    pass->residual[l] + from * c->dim,
                    pass->model->layers[l].attention_norm, rows, c->dim, c->norm_epsilon);
}

static void rotate(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;

    rope_rotate(pass->kept[l].q, pass->rope, from, rows, pass->length, c->heads,
                c->head_dim, c->interleaved, 1);
    rope_rotate(pass->kept[l].k, pass->rope, from, rows, pass->length, c->kv_heads,
                c->head_dim, c->interleaved, 1);
}

struct attend {
    struct llama_pass *pass;
    struct llama_kept *kept;
    int64_t            parts;
};

static void attend_part(void *context, int64_t part)
{
    const struct attend       *attend = context;
    const struct llama_kept   *kept = attend->kept;
    const struct llama_pass   *pass = attend->pass;
    const struct llama_config *c = &pass->model->config;
    const struct attention     shape = { pass->batch, pass->length, c->heads, c->kv_heads,
                                         c->head_dim };
    int64_t                    heads = shape.batch * shape.kv_heads;

    attention_forward(&shape, threads_part(heads, 1, attend->parts, part),
                      threads_part(heads, 1, attend->parts, part + 1), kept->mixed,
                      kept->lse, kept->q, kept->k, kept->v,
                      pass->attention_scratch +
                          part * ATTENTION_SCRATCH_ROWS * pass->max_context);
}

static void attend(struct llama_pass *pass, int64_t l)
{
    struct attend attend = { pass, &pass->kept[l], threads_count(pass->model->threads) };

    threads_run(pass->model->threads, attend.parts, attend_part, &attend);
}

static void enter_ffn(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;
    struct llama_kept         *kept = &pass->kept[l];
    int64_t                    at = from * c->dim;

    add(kept->middle, pass->residual[l], pass->branch, at, rows * c->dim);
    rmsnorm_forward(pass->normed + at, kept->ffn_inverse + from, kept->middle + at,
                    pass->model->layers[l].ffn_norm, rows, c->dim, c->norm_epsilon);
}

static void activate(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    int64_t hidden = pass->model->config.hidden, at = from * hidden;

    swiglu_forward(pass->active + at, pass->kept[l].gate + at, pass->kept[l].up + at,
                   rows * hidden);
}

static void leave_ffn(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    int64_t dim = pass->model->config.dim;

    add(pass->residual[l + 1], pass->kept[l].middle, pass->branch, from * dim,
        rows * dim);
}

static int project(struct llama_pass *pass, int64_t l, int projection, float *y,
                   const float *x, char *error, size_t size)
{
    return llama_project(pass->model, pass->adapters, pass->tapes, l, projection,
                         pass->batch * pass->length, y, x, pass->key,
                         pass->weight_scratch, error, size);
}

/* Everything that a layer keeps. */
static int forward_kept(struct llama_pass *pass, int64_t l, char *error, size_t size)
{
    struct llama_kept *kept = &pass->kept[l];
    float             *h = pass->normed;

    llama_pass_run(pass, l, enter_attention);
    if (project(pass, l, LLAMA_Q, kept->q, h, error, size) != 0 ||
        project(pass, l, LLAMA_K, kept->k, h, error, size) != 0 ||
        project(pass, l, LLAMA_V, kept->v, h, error, size) != 0) {
        return -1;
    }
    llama_pass_run(pass, l, rotate);
    attend(pass, l);
    if (project(pass, l, LLAMA_O, pass->branch, kept->mixed, error, size) != 0) {
        return -1;
    }
    llama_pass_run(pass, l, enter_ffn);
    return project(pass, l, LLAMA_GATE, kept->gate, h, error, size) != 0 ||
                   project(pass, l, LLAMA_UP, kept->up, h, error, size) != 0
               ? -1
               : 0;
}

static int forward_layer(struct llama_pass *pass, int64_t l, char *error, size_t size)
{
    if (forward_kept(pass, l, error, size) != 0) {
        return -1;
    }
    llama_pass_run(pass, l, activate);
    if (project(pass, l, LLAMA_DOWN, pass->branch, pass->active, error, size) != 0) {
        return -1;
    }
    llama_pass_run(pass, l, leave_ffn);
    return 0;
}

int llama_forward_again(struct llama_pass *pass, int64_t layer, char *error, size_t size)
{
    return forward_kept(pass, layer, error, size);
}

/* ===== The whole ========================================================== */

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

static void leave_layers(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;

    rmsnorm_forward(pass->normed + from * c->dim, pass->final_inverse + from,
                    pass->residual[l] + from * c->dim, pass->model->final_norm, rows,
                    c->dim, c->norm_epsilon);
}

int llama_forward(struct llama_pass *pass, int64_t batch, int64_t length,
                  const int32_t *ids, const int32_t *targets, int64_t key, double *sum,
                  int64_t *predicted, char *error, size_t size)
{
    int64_t layers = pass->model->config.layers;

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
    pass->key = key;
    if (begin(pass, ids, targets, predicted, error, size) != 0) {
        return -1;
    }
    for (int64_t l = 0; l < layers; l++) {
        if (forward_layer(pass, l, error, size) != 0) {
            return -1;
        }
    }
    llama_pass_run(pass, layers, leave_layers);
    llama_head_forward(pass, sum);
    pass->ready = pass->flags & LLAMA_KEEP;
    return 0;
}
