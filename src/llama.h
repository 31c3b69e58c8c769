/*
 * A Llama-architecture network on the CPU: weights, one forward and backward over
 * whole windows for training and evaluation, and one token at a time for generation.
 * Weights are frozen; gradients go to the adapters attached to the projections.
 */
#ifndef BEAMLORA_SRC_LLAMA_H
#define BEAMLORA_SRC_LLAMA_H

#include <stddef.h>
#include <stdint.h>

#include "beamlora.h"
#include "weight.h"

enum llama_projection {
    LLAMA_Q,
    LLAMA_K,
    LLAMA_V,
    LLAMA_O,
    LLAMA_GATE,
    LLAMA_UP,
    LLAMA_DOWN,
    LLAMA_PROJECTIONS
};

struct llama_config {
    int64_t dim, hidden, layers, heads, kv_heads, head_dim, vocab, max_context;
    double  norm_epsilon, rope_theta;
    int interleaved; /* rotary pairs, 1: (2i, 2i+1), llama2.c; 0: (i, i + head_dim/2) */
};

struct llama_layer {
    const float  *attention_norm, *ffn_norm; /* [dim] */
    struct weight projection[LLAMA_PROJECTIONS];
};

struct llama {
    struct llama_config config;
    struct weight       embedding; /* [vocab, dim]                              */
    struct weight       head;      /* [vocab, dim], the embedding's data if tied */
    const float        *final_norm;
    struct llama_layer *layers;
    void               *map; /* the mapped file the weights live in */
    size_t              map_bytes;
};

/* 0, or -1 with a line (file name included) in error[size]. */
int  llama_load_bin(struct llama **out, const char *path, char *error, size_t size);
void llama_free(struct llama *model);

/* Shape of a projection's weight, and its name below a layer: "self_attn.q_proj". */
void        llama_projection_shape(const struct llama_config *config, int projection,
                                   int64_t *out, int64_t *in);
const char *llama_projection_name(int projection);

/*
 * The adapters of a model: at[layer * LLAMA_PROJECTIONS + projection], NULL where the
 * projection has none. NULL instead of a pointer to this: the bare model.
 */
struct llama_adapters {
    bl_group    *group;
    bl_adapter **at;
};

/* Activations of `batch` windows of up to `context` ids, and the adapters' tapes. */
struct llama_pass;

int  llama_pass_create(struct llama_pass **out, const struct llama *model,
                       const struct llama_adapters *adapters, int64_t batch,
                       int64_t context, int keep, char *error, size_t size);
void llama_pass_free(struct llama_pass *pass);

/*
 * Forward of batch windows of `length` ids each.
 *   ids      [batch, length] inputs       targets  [batch, length], -1: not predicted
 *   key      dropout mask, or BL_NO_DROPOUT
 *   sum      written: sum over predicted targets of -ln p, in nats
 *   predicted written: how many
 * 0, or -1 with a line in error[size].
 */
int llama_forward(struct llama_pass *pass, int64_t batch, int64_t length,
                  const int32_t *ids, const int32_t *targets, int64_t key, double *sum,
                  int64_t *predicted, char *error, size_t size);

/* Backward of the last forward: gradients of scale * sum are added to the adapters'. */
int llama_backward(struct llama_pass *pass, double scale, char *error, size_t size);

/* Logits [batch * length, vocab] of the last forward (valid until the backward). */
const float *llama_pass_logits(const struct llama_pass *pass);

/* One sequence, one token at a time, with a key-value cache for `context` tokens. */
struct llama_decoder;

int  llama_decoder_create(struct llama_decoder **out, const struct llama *model,
                          const struct llama_adapters *adapters, int64_t context,
                          char *error, size_t size);
void llama_decoder_free(struct llama_decoder *decoder);
/* Feed one id at the next position; logits [vocab], or NULL when the context is full. */
const float *llama_decode(struct llama_decoder *decoder, int32_t id);

#endif
