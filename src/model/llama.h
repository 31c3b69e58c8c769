/*
 * A Llama-architecture network on the CPU: weights, one forward and backward over
 * whole windows for training and evaluation, and one token at a time for generation.
 * Gradients go to the adapters attached to the projections; or to the weights themselves,
 * where full fine-tuning asks for them.
 */
#ifndef BEAMLORA_SRC_LLAMA_H
#define BEAMLORA_SRC_LLAMA_H

#include <stddef.h>
#include <stdint.h>

#include "beamlora.h"
#include "model/kernels.h"
#include "model/weight.h"

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
    struct rope_scaling rope_scaling;

    int interleaved; /* rotary pairs, 1: (2i, 2i+1), llama2.c; 0: (i, i + head_dim/2) */
    int tied;        /* the head is the embedding */

    int64_t bos, eos;      /* ids, -1: not known                               */
    char    tokenizer[16]; /* "bytes": ids are bytes, 256 BOS; "": not known   */
};

struct llama_layer {
    const float  *attention_norm, *ffn_norm; /* [dim] */
    struct weight projection[LLAMA_PROJECTIONS];
};

struct threads;

struct llama {
    struct llama_config config;
    struct weight       embedding; /* [vocab, dim]                              */
    struct weight       head;      /* [vocab, dim], the embedding's data if tied */
    const float        *final_norm;
    struct llama_layer *layers;

    void                   *map; /* the mapped file the weights live in, or */
    size_t                  map_bytes;
    struct bl_safetensors **files; /* [file_count] */
    int64_t                 file_count;
    float                  *norms; /* copies, where the norms are not used in place */

    struct threads *threads; /* its user's, for the passes; NULL: the caller's alone */
};

/* path: a llama2.c .bin file or a Hugging Face directory. Weights are used where the
 * file is mapped. 0, or -1 with a line (file name included) in error[size]. */
int  llama_load(struct llama **out, const char *path, char *error, size_t size);
void llama_free(struct llama *model);

/* Write a Hugging Face directory: config.json and model.safetensors, of dtype BL_F32,
 * BL_F16 or BL_BF16 (rounded to nearest even). Made if absent; either file appears whole or not at
 * all. 0, or -1 with a line in error[size]. */
int llama_save(const struct llama *model, const char *directory, int32_t dtype,
               char *error, size_t size);

/* Shape of a projection's weight, and its name below a layer: "self_attn.q_proj". */
void        llama_projection_shape(const struct llama_config *config, int projection,
                                   int64_t *out, int64_t *in);
const char *llama_projection_name(int projection);

/* The tensors of a model as Hugging Face names them, number 0 to count - 1: embedding,
 * final norm, of each layer both norms and the projections, and the head if not tied. */
#define LLAMA_NAME_SIZE 80
#define LLAMA_LAYER_TENSORS (2 + LLAMA_PROJECTIONS) /* from number 2 on, by layer */
struct llama_tensor {
    char    name[LLAMA_NAME_SIZE]; /* "model.layers.0.self_attn.q_proj.weight" */
    int64_t shape[2];
    int     dims; /* 1: a norm, shape[0] = dim */
};
int64_t llama_tensor_count(const struct llama_config *config);
void    llama_get_tensor(const struct llama_config *config, int64_t index,
                         struct llama_tensor *out);
/* Where its values are, as they are in the model (q and k in its own rotary order); a
 * norm's are aligned floats, also those to be set. The embedding sets a tied head too. */
struct weight llama_get_weight(const struct llama *model, int64_t index);
void          llama_set_weight(struct llama *model, int64_t index, struct weight weight);

/* Row i of a q or k projection in Hugging Face's order is row order[i] where rotary pairs
 * are neighbours. [heads * head_dim], to be freed; NULL when out of memory. */
int64_t *llama_rotary_order(int64_t heads, int64_t head_dim);

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

enum {
    LLAMA_KEEP = 1, /* for a backward                                               */
    LLAMA_RECOMPUTE =
        2,           /* for a backward too, but of each layer only what it begins with:
                            the rest is worked out again, to the same bits               */
    LLAMA_LOGITS = 4 /* all logits stay, [n, vocab]; not with a backward             */
};

int  llama_pass_create(struct llama_pass **out, const struct llama *model,
                       const struct llama_adapters *adapters, int64_t batch,
                       int64_t context, int flags, char *error, size_t size);
void llama_pass_free(struct llama_pass *pass);

/* Bytes that such a pass takes, tapes apart; infinite if they cannot be told. */
double llama_pass_bytes(const struct llama *model, int64_t batch, int64_t context,
                        int flags);

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

/* Backward of the last forward: gradients of scale * sum are added to what is there. */
int llama_backward(struct llama_pass *pass, double scale, char *error, size_t size);

/* Where the weights' gradients go: arrays shaped as the weights. */
struct llama_layer_gradients {
    float *attention_norm, *ffn_norm;
    float *projection[LLAMA_PROJECTIONS];
};

struct llama_gradients {
    float                        *embedding, *head; /* one array if tied */
    float                        *final_norm;
    struct llama_layer_gradients *layers;
};

/* From now on llama_backward adds the gradients of all weights there too. The pass must
 * have been made with LLAMA_KEEP, and without adapters. */
void llama_pass_train_weights(struct llama_pass            *pass,
                              const struct llama_gradients *gradients);

/* Logits [batch * length, vocab] of the last forward, with LLAMA_LOGITS. */
const float *llama_pass_logits(const struct llama_pass *pass);

/* Of the last forward, in a pass without a backward: 1 for each row whose target has the
 * largest logit, of equals the lowest id. [batch * length] */
const uint8_t *llama_pass_best(const struct llama_pass *pass);

/* One sequence, one token at a time, with a key-value cache for `context` tokens. */
struct llama_decoder;

int  llama_decoder_create(struct llama_decoder **out, const struct llama *model,
                          const struct llama_adapters *adapters, int64_t context,
                          char *error, size_t size);
void llama_decoder_free(struct llama_decoder *decoder);
/* Feed one id at the next position; logits [vocab], or NULL when the context is full. */
const float *llama_decode(struct llama_decoder *decoder, int32_t id);

#endif
