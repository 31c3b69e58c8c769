/* What llama_forward leaves for llama_backward: every pointer goes into one block.
 * Letters: n = batch * context rows, dim, hidden as in the config, query = heads *
 * head_dim, key = kv_heads * head_dim. */
#ifndef BEAMLORA_SRC_LLAMA_PASS_H
#define BEAMLORA_SRC_LLAMA_PASS_H

#include "model/kernels.h"
#include "model/llama.h"

/* Kept for each layer; without a backward all layers share one. Normed inputs and the
 * product of gate and up are cheap and are made again in the backward. */
struct llama_kept {
    float *attention_inverse, *ffn_inverse; /* [n]                           */
    float *q, *k, *v;                       /* [n, query], [n, key], rotated */
    float *lse;                             /* [batch, heads, context]       */
    float *mixed;                           /* [n, query], into o_proj       */
    float *gate, *up;                       /* [n, hidden]                   */
};

struct llama_pass {
    const struct llama          *model;
    const struct llama_adapters *adapters;
    bl_tape                    **tapes;     /* [layers * LLAMA_PROJECTIONS], or NULL */
    struct llama_gradients       gradients; /* .layers NULL: weights are frozen  */
    int64_t                      max_batch, max_context;
    int                          keep;

    int64_t batch, length; /* of the last forward          */
    int     ready;         /* it can be taken back         */
    int64_t lowest;        /* first layer with an adapter  */

    float             *block;
    int32_t           *ids, *targets; /* [n] */
    struct llama_kept *kept;          /* [layers]  */
    float            **residual; /* [2 * layers + 1]: the stream before each half layer */

    float *rope;           /* [context, head_dim] */
    float *normed;         /* [n, dim]            */
    float *branch;         /* [n, dim]            */
    float *active;         /* [n, hidden]         */
    float *scratch;        /* attention's         */
    float *weight_scratch; /* of weight.h         */
    float *final_inverse;  /* [n]                 */
    float *logits;         /* [n, vocab]          */
    float *logits_lse;     /* [n]                 */

    float *d_residual, *d_normed; /* [n, dim]    */
    float *d_active;              /* [n, hidden] */
    float *d_mixed, *d_q;         /* [n, query]  */
    float *d_k, *d_v;             /* [n, key]    */
};

/* The adapter of a projection, or NULL. */
bl_adapter *llama_adapter_at(const struct llama_adapters *adapters, int64_t layer,
                             int projection);

/* y = x W^T, and the adapter's share; key as in bl_forward, scratch as in weight.h. */
int llama_project(const struct llama *model, const struct llama_adapters *adapters,
                  bl_tape **tapes, int64_t layer, int projection, int64_t n, float *y,
                  const float *x, int64_t key, float *scratch, char *error, size_t size);

/* Columns that the scratch of weight.h must have for every weight of a model. */
int64_t llama_weight_columns(const struct llama_config *config);

/* One tape per adapter into a new array, NULL if there are no adapters. */
int  llama_tapes_create(bl_tape ***out, const struct llama *model,
                        const struct llama_adapters *adapters, int64_t max_n, int keep,
                        char *error, size_t size);
void llama_tapes_free(bl_tape **tapes, const struct llama *model);

#endif
