/*
 * The pieces of a Llama layer on plain arrays, but for the products with its weights:
 * RMSNorm, rotary positions, causal attention, SwiGLU and cross-entropy, each with its
 * gradient.
 * Matrices are packed and row-major; n is a number of rows.
 */
#ifndef BEAMLORA_SRC_KERNELS_H
#define BEAMLORA_SRC_KERNELS_H

#include <stdint.h>

/* y = w * x / rms(x) row by row; inverse [n] written: 1 / rms, or NULL */
void rmsnorm_forward(float *y, float *inverse, const float *x, const float *w, int64_t n,
                     int64_t dim, double epsilon);
/* y as the forward wrote it, bit for bit, from the inverse it left */
void rmsnorm_again(float *y, const float *inverse, const float *x, const float *w,
                   int64_t n, int64_t dim);
/* dx is added to */
void rmsnorm_backward(float *dx, const float *dy, const float *inverse, const float *x,
                      const float *w, int64_t n, int64_t dim);
/* dw is added to: what the same dy says of w */
void rmsnorm_weight_backward(float *dw, const float *dy, const float *inverse,
                             const float *x, int64_t n, int64_t dim);

/* Llama 3's change of the frequencies; factor 0: none. A wave longer than context / low
 * is slowed by factor, one shorter than context / high is not, in between partly. */
struct rope_scaling {
    double factor, low, high, context;
};

/* The angle of pair i, one of head_dim / 2, from one position to the next. */
double rope_frequency(int64_t i, int64_t head_dim, double theta,
                      const struct rope_scaling *scaling);
/* table [positions, head_dim]: cosine and sine, alternating, of every pair's angle */
void rope_table(float *table, int64_t positions, int64_t head_dim, double theta,
                const struct rope_scaling *scaling);
/* Rotate n rows of x [., heads, head_dim] in place, from row `first` on; row i stands at
 * position i % length of table. direction: 1 forward, -1 back. interleaved: as in struct
 * llama_config. */
void rope_rotate(float *x, const float *table, int64_t first, int64_t n, int64_t length,
                 int64_t heads, int64_t head_dim, int interleaved, int direction);

/* Causal attention of `batch` windows of `length` rows; kv_heads divides heads. */
struct attention {
    int64_t batch, length, heads, kv_heads, head_dim;
};

/* Floats of scratch that either pass wants for windows of up to `length` rows. */
#define ATTENTION_ROWS 64
#define ATTENTION_SCRATCH_ROWS (2 * ATTENTION_ROWS)

/* o, q [batch * length, heads, head_dim]   k, v [batch * length, kv_heads, head_dim]
 * lse [batch, heads, length] written: log of each row's softmax denominator
 * Both passes do the heads of key-value heads first to end - 1, of batch * kv_heads.
 * scratch [ATTENTION_SCRATCH_ROWS, length] */
void attention_forward(const struct attention *shape, int64_t first, int64_t end,
                       float *o, float *lse, const float *q, const float *k,
                       const float *v, float *scratch);
/* dq, dk, dv written. The probabilities are worked out anew from q, k and lse. */
void attention_backward(const struct attention *shape, int64_t first, int64_t end,
                        float *dq, float *dk, float *dv, const float *d_o, const float *o,
                        const float *lse, const float *q, const float *k, const float *v,
                        float *scratch);

/* One query over `count` cached rows of k and v [count, kv_heads, head_dim]. */
void attention_step(const struct attention *shape, float *o, const float *q,
                    const float *k, const float *v, int64_t count, float *scores);

/* y = silu(gate) * up, over `count` elements */
void swiglu_forward(float *y, const float *gate, const float *up, int64_t count);
/* dgate may be dy; dup may not */
void swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate,
                     const float *up, int64_t count);

/* Sum over rows with a target >= 0 of -ln softmax(logits)[target]; lse [n] written. */
double cross_entropy_forward(float *lse, const float *logits, const int32_t *targets,
                             int64_t n, int64_t vocab);
/* logits := scale * d(sum) / d(logits) */
void cross_entropy_backward(float *logits, const float *lse, const int32_t *targets,
                            int64_t n, int64_t vocab, double scale);

#endif
