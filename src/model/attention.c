/* Causal attention; see kernels.h. Work grows as the length squared, of which the causal
 * half is computed by blocks of rows, memory as the length. */
#include "model/kernels.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include <cblas.h>

#include "model/exponential.h"
#include "model/vectors.h"

/* c [m, n] = alpha op(a) op(b) + beta c, strides in elements */
static void product(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (int) m, (int) n, (int) k, alpha, a,
                (int) lda, b, (int) ldb, beta, c, (int) ldc);
}

/* One head of one window. */
struct head {
    int64_t length, d, ldq, ldk, at_q, at_k, at_lse;
    float   scale;
};

static struct head head_of(const struct attention *shape, int64_t b, int64_t h)
{
    struct head head = { .length = shape->length, .d = shape->head_dim };

    head.ldq = shape->heads * head.d;
    head.ldk = shape->kv_heads * head.d;
    head.at_q = b * head.length * head.ldq + h * head.d;
    head.at_k =
        b * head.length * head.ldk + h / (shape->heads / shape->kv_heads) * head.d;
    head.at_lse = (b * shape->heads + h) * head.length;
    head.scale = 1.0f / sqrtf((float) head.d);
    return head;
}

static int64_t rows_from(const struct head *head, int64_t first)
{
    int64_t left = head->length - first;

    return left < ATTENTION_ROWS ? left : ATTENTION_ROWS;
}

static void head_forward(const struct head *head, float *o, float *lse, const float *q,
                         const float *k, const float *v, float *p)
{
    for (int64_t first = 0; first < head->length; first += ATTENTION_ROWS) {
        int64_t rows = rows_from(head, first), seen = first + rows;

        product(0, 1, rows, seen, head->d, head->scale, q + first * head->ldq, head->ldq,
                k, head->ldk, 0.0f, p, seen);
        for (int64_t i = 0; i < rows; i++) {
            int64_t own = first + i + 1;
            lse[first + i] = softmax(p + i * seen, own);
            memset(p + i * seen + own, 0, (size_t) (seen - own) * sizeof *p);
        }
        product(0, 0, rows, head->d, seen, 1.0f, p, seen, v, head->ldk, 0.0f,
                o + first * head->ldq, head->ldq);
    }
}

void attention_forward(const struct attention *shape, int64_t first, int64_t end,
                       float *o, float *lse, const float *q, const float *k,
                       const float *v, float *scratch)
{
    int64_t share = shape->heads / shape->kv_heads;

    for (int64_t i = first * share; i < end * share; i++) {
        struct head head = head_of(shape, i / shape->heads, i % shape->heads);

        head_forward(&head, o + head.at_q, lse + head.at_lse, q + head.at_q,
                     k + head.at_k, v + head.at_k, scratch);
    }
}

VECTORS
static float dot(const float *a, const float *b, int64_t count)
{
    float   sums[LANES] = { 0 }, sum = 0;
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            sums[j] += a[i + j] * b[i + j];
        }
    }
    for (int j = 0; i < count; i++, j++) {
        sums[j] += a[i] * b[i];
    }
    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
    }
    return sum;
}

/* From P and dO V^T to P and dS, for the rows of a block; d_o and o begin with them. */
static void differentiate_softmax(const struct head *head, int64_t first, int64_t rows,
                                  float *p, float *ds, const float *d_o, const float *o,
                                  const float *lse)
{
    int64_t seen = first + rows;

    for (int64_t i = 0; i < rows; i++) {
        const float *oi = o + i * head->ldq, *doi = d_o + i * head->ldq;
        float       *pi = p + i * seen, *dsi = ds + i * seen;
        int64_t      own = first + i + 1;
        float        delta = dot(oi, doi, head->d);
        exponentials(pi, pi, own, lse[first + i]);
        for (int64_t j = 0; j < own; j++) {
            dsi[j] = pi[j] * (dsi[j] - delta);
        }
        memset(pi + own, 0, (size_t) (seen - own) * sizeof *pi);
        memset(dsi + own, 0, (size_t) (seen - own) * sizeof *dsi);
    }
}

/* With P = softmax(S), S = scale Q K^T and delta_i = dO_i . O_i:
 *     dV = P^T dO     dS = P * (dO V^T - delta)     dQ = scale dS K     dK = scale dS^T Q
 * Query heads that share a key-value head add up in dk and dv: keep is 1 for all but the
 * first. The last rows see all keys, so they come first and what is there is overwritten. */
static void head_backward(const struct head *head, int keep, float *dq, float *dk,
                          float *dv, const float *d_o, const float *o, const float *lse,
                          const float *q, const float *k, const float *v, float *scratch)
{
    int64_t ldq = head->ldq, ldk = head->ldk, d = head->d;
    float  *p = scratch, *ds = scratch + ATTENTION_ROWS * head->length;

    for (int64_t first = (head->length - 1) / ATTENTION_ROWS * ATTENTION_ROWS; first >= 0;
         first -= ATTENTION_ROWS) {
        int64_t rows = rows_from(head, first), seen = first + rows, at = first * ldq;
        float   beta = keep || seen < head->length ? 1.0f : 0.0f;

        product(0, 1, rows, seen, d, head->scale, q + at, ldq, k, ldk, 0.0f, p, seen);
        product(0, 1, rows, seen, d, 1.0f, d_o + at, ldq, v, ldk, 0.0f, ds, seen);
        differentiate_softmax(head, first, rows, p, ds, d_o + at, o + at, lse);
        product(1, 0, seen, d, rows, 1.0f, p, seen, d_o + at, ldq, beta, dv, ldk);
        product(0, 0, rows, d, seen, head->scale, ds, seen, k, ldk, 0.0f, dq + at, ldq);
        product(1, 0, seen, d, rows, head->scale, ds, seen, q + at, ldq, beta, dk, ldk);
    }
}

void attention_backward(const struct attention *shape, int64_t first, int64_t end,
                        float *dq, float *dk, float *dv, const float *d_o, const float *o,
                        const float *lse, const float *q, const float *k, const float *v,
                        float *scratch)
{
    int64_t share = shape->heads / shape->kv_heads;

    for (int64_t i = first * share; i < end * share; i++) {
        struct head head = head_of(shape, i / shape->heads, i % shape->heads);

        head_backward(&head, i % share != 0, dq + head.at_q, dk + head.at_k,
                      dv + head.at_k, d_o + head.at_q, o + head.at_q, lse + head.at_lse,
                      q + head.at_q, k + head.at_k, v + head.at_k, scratch);
    }
}

void attention_step(const struct attention *shape, float *o, const float *q,
                    const float *k, const float *v, int64_t count, float *scores)
{
    int64_t d = shape->head_dim, ldk = shape->kv_heads * d;
    float   scale = 1.0f / sqrtf((float) d);

    for (int64_t h = 0; h < shape->heads; h++) {
        int64_t at_k = h / (shape->heads / shape->kv_heads) * d;
        float  *oh = o + h * d;
        for (int64_t t = 0; t < count; t++) {
            scores[t] = dot(q + h * d, k + at_k + t * ldk, d) * scale;
        }
        softmax(scores, count);
        memset(oh, 0, (size_t) d * sizeof *oh);
        for (int64_t t = 0; t < count; t++) {
            for (int64_t j = 0; j < d; j++) {
                oh[j] += scores[t] * v[at_k + t * ldk + j];
            }
        }
    }
}
