/* What llama_forward leaves for llama_backward: every pointer goes into one block.
 * Letters: n = batch * context rows, dim, hidden as in the config, query = heads *
 * head_dim, key = kv_heads * head_dim. */
#ifndef BEAMLORA_SRC_LLAMA_PASS_H
#define BEAMLORA_SRC_LLAMA_PASS_H

#include "model/kernels.h"
#include "model/llama.h"

/* Kept for each layer; without a backward, or where it is worked out again, all layers
 * share one. Normed inputs and the product of gate and up are cheap and are always made
 * again in the backward. */
struct llama_kept {
    float *attention_inverse, *ffn_inverse; /* [n]                           */
    float *q, *k, *v;                       /* [n, query], [n, key], rotated */
    float *lse;                             /* [batch, heads, context]       */
    float *mixed;                           /* [n, query], into o_proj       */
    float *middle;                          /* [n, dim], the stream between both halves */
    float *gate, *up;                       /* [n, hidden]                   */
};

struct llama_pass {
    const struct llama          *model;
    const struct llama_adapters *adapters;
    bl_tape                    **tapes;     /* [layers * LLAMA_PROJECTIONS], or NULL */
    struct llama_gradients       gradients; /* .layers NULL: weights are frozen  */
    int64_t                      max_batch, max_context;
    int                          flags;
    int                          dora; /* of the adapters */

    int64_t batch, length; /* of the last forward          */
    int64_t key;           /* and its dropout              */
    int     ready;         /* it can be taken back         */
    int64_t lowest;        /* first layer with an adapter  */

    float             *block;
    int32_t           *ids, *targets; /* [n] */
    uint8_t           *best;          /* [n], see llama_pass_best */
    struct llama_kept *kept;          /* [layers]  */
    float            **residual;      /* [layers + 1]: the stream before each layer */

    float  *rope;          /* [context, head_dim] */
    float  *normed;        /* [n, dim]            */
    float  *branch;        /* [n, dim]            */
    float  *final_inverse; /* [n]                 */
    double *row_loss;      /* [n]                 */
    float  *logits_lse;    /* [n]                 */

    /* of each thread */
    float *attention_scratch; /* kernels.h's */
    float *weight_scratch;    /* weight.h's  */

    float *d_residual, *d_normed; /* [n, dim] */

    /* One place: a half layer, or the head, has done with it before the next begins. */
    float  *active, *d_active; /* [n, hidden] */
    float  *d_mixed, *d_q;     /* [n, query]  */
    float  *d_k, *d_v;         /* [n, key]    */
    float  *logits;            /* [head_rows, vocab]; all with LLAMA_LOGITS */
    int64_t head_rows;
};

/* The task for all rows of the last forward, a few at a time, on the threads. */
typedef void (*llama_rows_fn)(struct llama_pass *pass, int64_t layer, int64_t from,
                              int64_t rows);
void llama_pass_run(struct llama_pass *pass, int64_t layer, llama_rows_fn task);

/* The adapter of a projection, or NULL. */
bl_adapter *llama_adapter_at(const struct llama_adapters *adapters, int64_t layer,
                             int projection);

/* y = x W^T, and the adapter's share; key as in bl_forward, scratch as in weight.h. */
int llama_project(const struct llama *model, const struct llama_adapters *adapters,
                  bl_tape **tapes, int64_t layer, int projection, int64_t n, float *y,
                  const float *x, int64_t key, float *scratch, char *error, size_t size);

/* What the last forward has kept of a layer, once more, for all that share its place. */
int llama_forward_again(struct llama_pass *pass, int64_t layer, char *error, size_t size);

/* The head and the loss. The forward writes the loss of each row and, unless the weights
 * are trained, d_normed, the gradient of their sum; the backward makes it that of
 * scale times the sum. */
void llama_head_forward(struct llama_pass *pass, double *sum);
void llama_head_backward(struct llama_pass *pass, double scale);

int llama_trains_weights(const struct llama_pass *pass);

/* Columns that the scratch of weight.h must have for every weight of a model. */
int64_t llama_weight_columns(const struct llama_config *config);

/* Whether a projection's output is kept, unchanged, until the backward. */
int llama_output_stays(int projection);

/* One tape per adapter into a new array, NULL if there are no adapters. */
int  llama_tapes_create(bl_tape ***out, const struct llama *model,
                        const struct llama_adapters *adapters, int64_t max_n, int keep,
                        char *error, size_t size);
void llama_tapes_free(bl_tape **tapes, const struct llama *model);

#endif
