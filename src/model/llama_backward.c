/*
 * Backward of llama_forward: gradients of the adapters and, on the way, of activations.
 * With frozen weights a product costs one gemm, dx = dy W, and it stops at the lowest
 * layer with an adapter: what is below needs no gradient. Where the weights are trained
 * it is two, with dW += dy^T x, and it goes down to the embedding.
 */
#include <stdio.h>
#include <string.h>

#include "base/threads.h"
#include "model/llama_pass.h"

void llama_pass_train_weights(struct llama_pass            *pass,
                              const struct llama_gradients *gradients)
{
    pass->gradients = *gradients;
}

int llama_trains_weights(const struct llama_pass *pass)
{
    return pass->gradients.layers != NULL;
}

/*
 * Back through one product. dx NULL: not wanted. keep: dx holds a share to add to.
 * DoRA's adapter goes first: it hands back a rescaled dy, which the weight must see.
 */
static int unproject(struct llama_pass *pass, int64_t layer, int projection, float *dx,
                     float *dy, const float *x, int keep, char *error, size_t size)
{
    const struct llama *model = pass->model;
    bl_adapter         *adapter = llama_adapter_at(pass->adapters, layer, projection);
    int64_t             out, in, n = pass->batch * pass->length;
    int                 first = adapter && pass->dora;

    llama_projection_shape(&model->config, projection, &out, &in);
    if (dx && first && !keep) {
        memset(dx, 0, (size_t) (n * in) * sizeof *dx);
        keep = 1;
    }
    if (dx && !first) {
        weight_backward(model->threads, dx, dy,
                        &model->layers[layer].projection[projection], n, out, in, keep,
                        pass->weight_scratch);
    }
    if (adapter &&
        bl_backward(adapter, pass->tapes[layer * LLAMA_PROJECTIONS + projection], n, dx,
                    in, dy, out, x, in) != 0) {
        snprintf(error, size, "%s: %s", bl_adapter_get_name(adapter), bl_last_error());
        return -1;
    }
    if (dx && first) {
        weight_backward(model->threads, dx, dy,
                        &model->layers[layer].projection[projection], n, out, in, keep,
                        pass->weight_scratch);
    }
    if (llama_trains_weights(pass)) {
        weight_gradient(model->threads,
                        pass->gradients.layers[layer].projection[projection], dy, x, n,
                        out, in);
    }
    return 0;
}

/* ===== Half layers ======================================================== */

/* A copy of d_residual, since dy is the adapter's to change but the stream goes on past
 * it; and what the forward fed to down_proj. */
static void enter_ffn(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    at = from * c->hidden;

    memcpy(pass->branch + from * c->dim, pass->d_residual + from * c->dim,
           (size_t) (rows * c->dim) * sizeof(float));
    swiglu_forward(pass->active + at, pass->kept[l].gate + at, pass->kept[l].up + at,
                   rows * c->hidden);
}

/* d_active becomes that of gate, active that of up. */
static void deactivate(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;
    const struct llama_kept   *kept = &pass->kept[l];
    int64_t                    at = from * c->hidden;

    swiglu_backward(pass->d_active + at, pass->active + at, pass->d_active + at,
                    kept->gate + at, kept->up + at, rows * c->hidden);
    rmsnorm_again(pass->normed + from * c->dim, kept->ffn_inverse + from,
                  kept->middle + from * c->dim, pass->model->layers[l].ffn_norm, rows,
                  c->dim);
}

static void leave_ffn(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    int64_t dim = pass->model->config.dim, at = from * dim;

    rmsnorm_backward(pass->d_residual + at, pass->d_normed + at,
                     pass->kept[l].ffn_inverse + from, pass->kept[l].middle + at,
                     pass->model->layers[l].ffn_norm, rows, dim);
    memcpy(pass->branch + at, pass->d_residual + at,
           (size_t) (rows * dim) * sizeof(float));
}

/* d_residual is that of the stream after the layer, and becomes that of `middle`, with a
 * copy in `branch`. */
static int backward_ffn(struct llama_pass *pass, int64_t l, char *error, size_t size)
{
    const struct llama_kept *kept = &pass->kept[l];

    llama_pass_run(pass, l, enter_ffn);
    if (unproject(pass, l, LLAMA_DOWN, pass->d_active, pass->branch, pass->active, 0,
                  error, size) != 0) {
        return -1;
    }
    llama_pass_run(pass, l, deactivate);
    if (unproject(pass, l, LLAMA_GATE, pass->d_normed, pass->d_active, pass->normed, 0,
                  error, size) != 0 ||
        unproject(pass, l, LLAMA_UP, pass->d_normed, pass->active, pass->normed, 1, error,
                  size) != 0) {
        return -1;
    }
    if (llama_trains_weights(pass)) {
        rmsnorm_weight_backward(pass->gradients.layers[l].ffn_norm, pass->d_normed,
                                kept->ffn_inverse, kept->middle,
                                pass->batch * pass->length, pass->model->config.dim);
    }
    llama_pass_run(pass, l, leave_ffn);
    return 0;
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

    attention_backward(
        &shape, threads_part(heads, 1, attend->parts, part),
        threads_part(heads, 1, attend->parts, part + 1), pass->d_q, pass->d_k, pass->d_v,
        pass->d_mixed, kept->mixed, kept->lse, kept->q, kept->k, kept->v,
        pass->attention_scratch + part * ATTENTION_SCRATCH_ROWS * pass->max_context);
}

static void attend(struct llama_pass *pass, int64_t l)
{
    struct attend attend = { pass, &pass->kept[l], threads_count(pass->model->threads) };

    threads_run(pass->model->threads, attend.parts, attend_part, &attend);
}

static void rotate_back(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    const struct llama_config *c = &pass->model->config;

    rope_rotate(pass->d_q, pass->rope, from, rows, pass->length, c->heads, c->head_dim,
                c->interleaved, -1);
    rope_rotate(pass->d_k, pass->rope, from, rows, pass->length, c->kv_heads, c->head_dim,
                c->interleaved, -1);
    rmsnorm_again(pass->normed + from * c->dim, pass->kept[l].attention_inverse + from,
                  pass->residual[l] + from * c->dim,
                  pass->model->layers[l].attention_norm, rows, c->dim);
}

static void leave_attention(struct llama_pass *pass, int64_t l, int64_t from,
                            int64_t rows)
{
    int64_t dim = pass->model->config.dim, at = from * dim;

    rmsnorm_backward(pass->d_residual + at, pass->d_normed + at,
                     pass->kept[l].attention_inverse + from, pass->residual[l] + at,
                     pass->model->layers[l].attention_norm, rows, dim);
}

/* d_residual is that of `middle`, and becomes that of the stream before the layer, unless
 * nothing below needs it. */
static int backward_attention(struct llama_pass *pass, int64_t l, char *error,
                              size_t size)
{
    const struct llama_kept *kept = &pass->kept[l];
    int                      below = llama_trains_weights(pass) || l > pass->lowest;
    float                   *dh = below ? pass->d_normed : NULL, *h = pass->normed;

    if (unproject(pass, l, LLAMA_O, pass->d_mixed, pass->branch, kept->mixed, 0, error,
                  size) != 0) {
        return -1;
    }
    attend(pass, l);
    llama_pass_run(pass, l, rotate_back);
    if (unproject(pass, l, LLAMA_Q, dh, pass->d_q, h, 0, error, size) != 0 ||
        unproject(pass, l, LLAMA_K, dh, pass->d_k, h, 1, error, size) != 0 ||
        unproject(pass, l, LLAMA_V, dh, pass->d_v, h, 1, error, size) != 0) {
        return -1;
    }
    if (llama_trains_weights(pass)) {
        rmsnorm_weight_backward(pass->gradients.layers[l].attention_norm, dh,
                                kept->attention_inverse, pass->residual[l],
                                pass->batch * pass->length, pass->model->config.dim);
    }
    if (dh) {
        llama_pass_run(pass, l, leave_attention);
    }
    return 0;
}

/* ===== The whole ========================================================== */

static void enter_layers(struct llama_pass *pass, int64_t l, int64_t from, int64_t rows)
{
    int64_t dim = pass->model->config.dim, at = from * dim;

    memset(pass->d_residual + at, 0, (size_t) (rows * dim) * sizeof(float));
    rmsnorm_backward(pass->d_residual + at, pass->d_normed + at,
                     pass->final_inverse + from, pass->residual[l] + at,
                     pass->model->final_norm, rows, dim);
}

static void backward_embedding(struct llama_pass *pass)
{
    int64_t n = pass->batch * pass->length, dim = pass->model->config.dim;

    for (int64_t i = 0; i < n; i++) {
        const float *from = pass->d_residual + i * dim;
        float       *to = pass->gradients.embedding + pass->ids[i] * dim;
        for (int64_t j = 0; j < dim; j++) {
            to[j] += from[j];
        }
    }
}

int llama_backward(struct llama_pass *pass, double scale, char *error, size_t size)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    lowest = llama_trains_weights(pass) ? 0 : pass->lowest;

    if (!pass->ready) {
        snprintf(error, size, "no forward to take back");
        return -1;
    }
    pass->ready = 0;
    if (lowest >= c->layers) {
        return 0;
    }
    llama_head_backward(pass, scale);
    llama_pass_run(pass, c->layers, enter_layers);
    for (int64_t l = c->layers - 1; l >= lowest; l--) {
        if (pass->flags & LLAMA_RECOMPUTE && l < c->layers - 1 &&
            llama_forward_again(pass, l, error, size) != 0) {
            return -1;
        }
        if (backward_ffn(pass, l, error, size) != 0 ||
            backward_attention(pass, l, error, size) != 0) {
            return -1;
        }
    }
    if (llama_trains_weights(pass)) {
        backward_embedding(pass);
    }
    return 0;
}
