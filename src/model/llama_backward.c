/*
 * Backward of llama_forward: gradients of the adapters and, on the way, of activations.
 * With frozen weights a product costs one gemm, dx = dy W, and it stops at the lowest
 * layer with an adapter: what is below needs no gradient. Where the weights are trained
 * it is two, with dW += dy^T x, and it goes down to the embedding.
 */
#include <stdio.h>
#include <string.h>

#include "model/llama_pass.h"

void llama_pass_train_weights(struct llama_pass            *pass,
                              const struct llama_gradients *gradients)
{
    pass->gradients = *gradients;
}

static int trains_weights(const struct llama_pass *pass)
{
    return pass->gradients.layers != NULL;
}

/*
 * Back through one product. dx NULL: not wanted. keep: dx holds a share to add to.
 * The adapter goes first: it may hand back a rescaled dy, which the weight must see.
 */
static int unproject(struct llama_pass *pass, int64_t layer, int projection, float *dx,
                     float *dy, const float *x, int keep, char *error, size_t size)
{
    const struct llama *model = pass->model;
    bl_adapter         *adapter = llama_adapter_at(pass->adapters, layer, projection);
    int64_t             out, in, n = pass->batch * pass->length;

    llama_projection_shape(&model->config, projection, &out, &in);
    if (adapter) {
        bl_tape *tape = pass->tapes[layer * LLAMA_PROJECTIONS + projection];
        if (dx && !keep) {
            memset(dx, 0, (size_t) (n * in) * sizeof *dx);
            keep = 1;
        }
        if (bl_backward(adapter, tape, n, dx, in, dy, out, x, in) != 0) {
            snprintf(error, size, "%s: %s", bl_adapter_get_name(adapter),
                     bl_last_error());
            return -1;
        }
    }
    if (dx) {
        weight_backward(dx, dy, &model->layers[layer].projection[projection], n, out, in,
                        keep, pass->weight_scratch);
    }
    if (trains_weights(pass)) {
        weight_gradient(pass->gradients.layers[layer].projection[projection], dy, x, n,
                        out, in);
    }
    return 0;
}

/* d_residual is that of the stream after the layer, and becomes that of `middle`. */
static int backward_ffn(struct llama_pass *pass, int64_t l, char *error, size_t size)
{
    const struct llama_config *c = &pass->model->config;
    const struct llama_layer  *layer = &pass->model->layers[l];
    struct llama_kept         *kept = &pass->kept[l];
    const float               *middle = pass->residual[2 * l + 1];
    int64_t                    n = pass->batch * pass->length;
    float                     *dgate = pass->d_active, *dup = pass->active;

    /* A copy, since dy is the adapter's to change but the stream goes on past it. */
    memcpy(pass->branch, pass->d_residual, (size_t) (n * c->dim) * sizeof(float));
    swiglu_forward(pass->active, kept->gate, kept->up, n * c->hidden);
    if (unproject(pass, l, LLAMA_DOWN, pass->d_active, pass->branch, pass->active, 0,
                  error, size) != 0) {
        return -1;
    }
    swiglu_backward(dgate, dup, pass->d_active, kept->gate, kept->up, n * c->hidden);
    rmsnorm_again(pass->normed, kept->ffn_inverse, middle, layer->ffn_norm, n, c->dim);
    if (unproject(pass, l, LLAMA_GATE, pass->d_normed, dgate, pass->normed, 0, error,
                  size) != 0 ||
        unproject(pass, l, LLAMA_UP, pass->d_normed, dup, pass->normed, 1, error, size) !=
            0) {
        return -1;
    }
    if (trains_weights(pass)) {
        rmsnorm_weight_backward(pass->gradients.layers[l].ffn_norm, pass->d_normed,
                                kept->ffn_inverse, middle, n, c->dim);
    }
    rmsnorm_backward(pass->d_residual, pass->d_normed, kept->ffn_inverse, middle,
                     layer->ffn_norm, n, c->dim);
    return 0;
}

/* d_residual is that of `middle`, and becomes that of the stream before the layer, unless
 * nothing below needs it. */
static int backward_attention(struct llama_pass *pass, int64_t l, char *error,
                              size_t size)
{
    const struct llama_config *c = &pass->model->config;
    const struct llama_layer  *layer = &pass->model->layers[l];
    const struct attention     shape = { pass->batch, pass->length, c->heads, c->kv_heads,
                                         c->head_dim };
    struct llama_kept         *kept = &pass->kept[l];
    const float               *x = pass->residual[2 * l];
    int64_t                    n = pass->batch * pass->length;
    int                        below = trains_weights(pass) || l > pass->lowest;
    float                     *dh = below ? pass->d_normed : NULL;

    memcpy(pass->branch, pass->d_residual, (size_t) (n * c->dim) * sizeof(float));
    if (unproject(pass, l, LLAMA_O, pass->d_mixed, pass->branch, kept->mixed, 0, error,
                  size) != 0) {
        return -1;
    }
    attention_backward(&shape, pass->d_q, pass->d_k, pass->d_v, pass->d_mixed,
                       kept->mixed, kept->lse, kept->q, kept->k, kept->v, pass->scratch);
    rope_rotate(pass->d_q, pass->rope, n, pass->length, c->heads, c->head_dim,
                c->interleaved, -1);
    rope_rotate(pass->d_k, pass->rope, n, pass->length, c->kv_heads, c->head_dim,
                c->interleaved, -1);
    rmsnorm_again(pass->normed, kept->attention_inverse, x, layer->attention_norm, n,
                  c->dim);
    if (unproject(pass, l, LLAMA_Q, dh, pass->d_q, pass->normed, 0, error, size) != 0 ||
        unproject(pass, l, LLAMA_K, dh, pass->d_k, pass->normed, 1, error, size) != 0 ||
        unproject(pass, l, LLAMA_V, dh, pass->d_v, pass->normed, 1, error, size) != 0) {
        return -1;
    }
    if (trains_weights(pass)) {
        rmsnorm_weight_backward(pass->gradients.layers[l].attention_norm, dh,
                                kept->attention_inverse, x, n, c->dim);
    }
    if (dh) {
        rmsnorm_backward(pass->d_residual, dh, kept->attention_inverse, x,
                         layer->attention_norm, n, c->dim);
    }
    return 0;
}

/* From the logits' gradient to that of the stream after the last layer. */
static void backward_head(struct llama_pass *pass)
{
    const struct llama        *model = pass->model;
    const struct llama_config *c = &model->config;
    const float               *x = pass->residual[2 * c->layers];
    int64_t                    n = pass->batch * pass->length;

    weight_backward(pass->d_normed, pass->logits, &model->head, n, c->vocab, c->dim, 0,
                    pass->weight_scratch);
    if (trains_weights(pass)) {
        /* the normed stream is still there: the forward ended with it */
        weight_gradient(pass->gradients.head, pass->logits, pass->normed, n, c->vocab,
                        c->dim);
        rmsnorm_weight_backward(pass->gradients.final_norm, pass->d_normed,
                                pass->final_inverse, x, n, c->dim);
    }
    memset(pass->d_residual, 0, (size_t) (n * c->dim) * sizeof(float));
    rmsnorm_backward(pass->d_residual, pass->d_normed, pass->final_inverse, x,
                     model->final_norm, n, c->dim);
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
    int64_t                    lowest = trains_weights(pass) ? 0 : pass->lowest;

    if (!pass->ready) {
        snprintf(error, size, "no forward to take back");
        return -1;
    }
    pass->ready = 0; /* the logits turn into their gradient */
    if (lowest >= c->layers) {
        return 0;
    }
    cross_entropy_backward(pass->logits, pass->logits_lse, pass->targets,
                           pass->batch * pass->length, c->vocab, scale);
    backward_head(pass);
    for (int64_t l = c->layers - 1; l >= lowest; l--) {
        if (backward_ffn(pass, l, error, size) != 0 ||
            backward_attention(pass, l, error, size) != 0) {
            return -1;
        }
    }
    if (trains_weights(pass)) {
        backward_embedding(pass);
    }
    return 0;
}
