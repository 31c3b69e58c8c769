/* The pieces of a Llama layer; see kernels.h. Work grows as rows times weight size, and
 * for attention as length squared, of which the causal half is computed by row blocks. */
#include "model/kernels.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include <cblas.h>

/* ===== RMSNorm ============================================================ */

void rmsnorm_again(float *y, const float *inverse, const float *x, const float *w,
                   int64_t n, int64_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        float r = inverse[i];
        for (int64_t j = 0; j < dim; j++) {
            y[i * dim + j] = w[j] * (r * x[i * dim + j]);
        }
    }
}

void rmsnorm_forward(float *y, float *inverse, const float *x, const float *w, int64_t n,
                     int64_t dim, double epsilon)
{
    for (int64_t i = 0; i < n; i++) {
        double squares = 0;
        for (int64_t j = 0; j < dim; j++) {
            squares += (double) x[i * dim + j] * x[i * dim + j];
        }
        float r = (float) (1.0 / sqrt(squares / (double) dim + epsilon));
        rmsnorm_again(y + i * dim, &r, x + i * dim, w, 1, dim);
        if (inverse) {
            inverse[i] = r;
        }
    }
}

/* With r = 1 / rms:  dx_j = r w_j dy_j - x_j (r^3 / dim) sum_k w_k dy_k x_k */
void rmsnorm_backward(float *dx, const float *dy, const float *inverse, const float *x,
                      const float *w, int64_t n, int64_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        const float *xi = x + i * dim, *dyi = dy + i * dim;
        double       dot = 0;
        for (int64_t j = 0; j < dim; j++) {
            dot += (double) w[j] * dyi[j] * xi[j];
        }
        float r = inverse[i];
        float pull = (float) (dot * r * r * r / (double) dim);
        for (int64_t j = 0; j < dim; j++) {
            dx[i * dim + j] += r * w[j] * dyi[j] - pull * xi[j];
        }
    }
}

/* dw_j += sum_i dy_ij x_ij / rms_i, in double, a stripe of columns at a time */
void rmsnorm_weight_backward(float *dw, const float *dy, const float *inverse,
                             const float *x, int64_t n, int64_t dim)
{
    enum { STRIPE = 32 };

    for (int64_t first = 0; first < dim; first += STRIPE) {
        int64_t width = dim - first < STRIPE ? dim - first : STRIPE;
        double  sums[STRIPE] = { 0 };

        for (int64_t i = 0; i < n; i++) {
            const float *xi = x + i * dim + first, *dyi = dy + i * dim + first;
            for (int64_t j = 0; j < width; j++) {
                sums[j] += (double) dyi[j] * (inverse[i] * xi[j]);
            }
        }
        for (int64_t j = 0; j < width; j++) {
            dw[first + j] += (float) sums[j];
        }
    }
}

/* ===== Rotary positions =================================================== */

double rope_frequency(int64_t i, int64_t head_dim, double theta,
                      const struct rope_scaling *scaling)
{
    const double two_pi = 6.283185307179586;
    double       frequency = pow(theta, -2.0 * (double) i / (double) head_dim);
    double       waves, share; /* in the old context; of the frequency that stays */

    if (scaling->factor == 0) {
        return frequency;
    }
    waves = scaling->context * frequency / two_pi;
    share = (waves - scaling->low) / (scaling->high - scaling->low);
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    return share * frequency + (1 - share) * frequency / scaling->factor;
}

void rope_table(float *table, int64_t positions, int64_t head_dim, double theta,
                const struct rope_scaling *scaling)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        double frequency = rope_frequency(i, head_dim, theta, scaling);
        for (int64_t t = 0; t < positions; t++) {
            double angle = (double) t * frequency;
            table[t * head_dim + 2 * i] = (float) cos(angle);
            table[t * head_dim + 2 * i + 1] = (float) sin(angle);
        }
    }
}

void rope_rotate(float *x, const float *table, int64_t n, int64_t length, int64_t heads,
                 int64_t head_dim, int interleaved, int direction)
{
    int64_t half = head_dim / 2;
    int64_t step = interleaved ? 2 : 1;     /* from one pair to the next  */
    int64_t apart = interleaved ? 1 : half; /* from a pair's first to its second */
    float   sign = direction < 0 ? -1.0f : 1.0f;

    for (int64_t row = 0; row < n; row++) {
        const float *turn = table + row % length * head_dim;
        for (int64_t h = 0; h < heads; h++) {
            float *head = x + (row * heads + h) * head_dim;
            for (int64_t i = 0; i < half; i++) {
                float c = turn[2 * i], s = sign * turn[2 * i + 1];
                float a = head[i * step], b = head[i * step + apart];
                head[i * step] = a * c - b * s;
                head[i * step + apart] = a * s + b * c;
            }
        }
    }
}

/* ===== Exponentials ======================================================= */

/* Most of the time outside the products goes into exponentials, so they are taken by
 * blocks of a fixed size, in steps that a compiler makes vector instructions of. */
#define BLOCK 32

/*
 * x := e^x, to 1e-7 of it, with |x| above 87 taken as 87; NaN where x is not finite.
 * With k the integer nearest to x / ln 2, e^x = 2^k e^(x - k ln 2): ln 2 is subtracted in
 * two parts, and the power series of the rest, which is within ln 2 / 2, ends at the
 * seventh power.
 */
static void exp_block(float *x)
{
    const float   shift = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to an
                                          integer, which is then in the low bits */
    const int32_t sign = INT32_MIN, most = 0x42ae0000; /* 87 as a float's bits */
    float         near[BLOCK], power[BLOCK];
    int32_t       bits[BLOCK];
    uint32_t      low[BLOCK];

    /* As integers: a choice between floats would stay a branch. */
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < BLOCK; i++) {
        int32_t size = bits[i] & ~sign;
        bits[i] = (bits[i] & sign) | (size < most ? size : most);
    }
    memcpy(near, bits, sizeof near);
    for (int i = 0; i < BLOCK; i++) {
        power[i] = near[i] * 1.44269504f + shift;
    }
    memcpy(low, power, sizeof low);
    for (int i = 0; i < BLOCK; i++) {
        float k = power[i] - shift;
        float r = near[i] - k * 0.693359375f - k * -2.12194440e-4f;
        float e = 1.0f / 720 + r * (1.0f / 5040);
        e = 1.0f / 120 + r * e;
        e = 1.0f / 24 + r * e;
        e = 1.0f / 6 + r * e;
        e = 0.5f + r * e;
        e = 1.0f + r * e;
        x[i] = 1.0f + r * e + (x[i] - x[i]);
        low[i] = (low[i] + 127) << 23; /* 2^k as a float's bits */
    }
    memcpy(power, low, sizeof power);
    for (int i = 0; i < BLOCK; i++) {
        x[i] *= power[i];
    }
}

static int64_t block_size(int64_t count, int64_t at)
{
    return count - at < BLOCK ? count - at : BLOCK;
}

/* Sum of e^(x[i] - shift); the terms go to y, which may be x, or NULL. */
static double exponentials(float *y, const float *x, int64_t count, float shift)
{
    float  block[BLOCK], sums[BLOCK] = { 0 };
    double sum = 0;

    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t here = block_size(count, i);
        size_t  bytes = (size_t) here * sizeof *block;

        if (here < BLOCK) {
            for (int j = 0; j < BLOCK; j++) {
                block[j] = shift;
            }
        }
        memcpy(block, x + i, bytes);
        for (int j = 0; j < BLOCK; j++) {
            block[j] -= shift;
        }
        exp_block(block);
        if (here == BLOCK) {
            for (int j = 0; j < BLOCK; j++) {
                sums[j] += block[j];
            }
        } else {
            for (int64_t j = 0; j < here; j++) {
                sums[j] += block[j];
            }
        }
        if (y) {
            memcpy(y + i, block, bytes);
        }
    }
    for (int j = 0; j < BLOCK; j++) {
        sum += sums[j];
    }
    return sum;
}

static float largest(const float *x, int64_t count)
{
    float   most[BLOCK];
    int64_t i = 0;

    for (int j = 0; j < BLOCK; j++) {
        most[j] = x[0];
    }
    for (; i + BLOCK <= count; i += BLOCK) {
        for (int j = 0; j < BLOCK; j++) {
            most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
        }
    }
    for (; i < count; i++) {
        most[0] = x[i] > most[0] ? x[i] : most[0];
    }
    for (int j = 1; j < BLOCK; j++) {
        most[0] = most[j] > most[0] ? most[j] : most[0];
    }
    return most[0];
}

/* softmax in place; returns the log of the denominator */
static float softmax(float *x, int64_t count)
{
    float  most = largest(x, count);
    double sum = exponentials(x, x, count, most);
    float  scale = (float) (1.0 / sum);

    for (int64_t i = 0; i < count; i++) {
        x[i] *= scale;
    }
    return most + (float) log(sum);
}

/* y[j] = 1 / (1 + e^-x[j]) for one block of `here` */
static void sigmoid_block(float *y, const float *x, int64_t here)
{
    memset(y, 0, BLOCK * sizeof *y);
    memcpy(y, x, (size_t) here * sizeof *y);
    for (int j = 0; j < BLOCK; j++) {
        y[j] = -y[j];
    }
    exp_block(y);
    for (int j = 0; j < BLOCK; j++) {
        y[j] = 1.0f / (1.0f + y[j]);
    }
}

/* ===== Attention ========================================================== */

/* c [m, n] = alpha op(a) op(b) + beta c, strides in elements */
static void product(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (int) m, (int) n, (int) k, alpha, a,
                (int) lda, b, (int) ldb, beta, c, (int) ldc);
}

void attention_forward(const struct attention *shape, float *o, float *lse,
                       const float *q, const float *k, const float *v, float *scratch)
{
    int64_t length = shape->length, d = shape->head_dim;
    int64_t ldq = shape->heads * d, ldk = shape->kv_heads * d;
    float   scale = 1.0f / sqrtf((float) d);

    for (int64_t bh = 0; bh < shape->batch * shape->heads; bh++) {
        int64_t b = bh / shape->heads, h = bh % shape->heads;
        int64_t at_q = b * length * ldq + h * d;
        int64_t at_k = b * length * ldk + h / (shape->heads / shape->kv_heads) * d;

        for (int64_t first = 0; first < length; first += ATTENTION_ROWS) {
            int64_t left = length - first;
            int64_t rows = left < ATTENTION_ROWS ? left : ATTENTION_ROWS;
            int64_t seen = first + rows;
            float  *p = scratch;

            product(0, 1, rows, seen, d, scale, q + at_q + first * ldq, ldq, k + at_k,
                    ldk, 0.0f, p, seen);
            for (int64_t i = 0; i < rows; i++) {
                int64_t own = first + i + 1;
                lse[bh * length + first + i] = softmax(p + i * seen, own);
                memset(p + i * seen + own, 0, (size_t) (seen - own) * sizeof *p);
            }
            product(0, 0, rows, d, seen, 1.0f, p, seen, v + at_k, ldk, 0.0f,
                    o + at_q + first * ldq, ldq);
        }
    }
}

/* With P = softmax(S), S = scale Q K^T and delta_i = dO_i . O_i:
 *     dV = P^T dO     dS = P * (dO V^T - delta)     dQ = scale dS K     dK = scale dS^T Q
 * Query heads that share a key-value head add up in dk and dv. */
void attention_backward(const struct attention *shape, float *dq, float *dk, float *dv,
                        const float *d_o, const float *o, const float *lse,
                        const float *q, const float *k, const float *v, float *scratch)
{
    int64_t length = shape->length, d = shape->head_dim;
    int64_t ldq = shape->heads * d, ldk = shape->kv_heads * d;
    float   scale = 1.0f / sqrtf((float) d);
    size_t  kv_bytes = (size_t) (shape->batch * length * ldk) * sizeof *dk;

    memset(dk, 0, kv_bytes);
    memset(dv, 0, kv_bytes);
    for (int64_t bh = 0; bh < shape->batch * shape->heads; bh++) {
        int64_t b = bh / shape->heads, h = bh % shape->heads;
        int64_t at_k = b * length * ldk + h / (shape->heads / shape->kv_heads) * d;

        for (int64_t first = 0; first < length; first += ATTENTION_ROWS) {
            int64_t left = length - first;
            int64_t rows = left < ATTENTION_ROWS ? left : ATTENTION_ROWS;
            int64_t seen = first + rows;
            int64_t at_q = b * length * ldq + h * d + first * ldq;
            float  *p = scratch, *ds = scratch + ATTENTION_ROWS * length;

            product(0, 1, rows, seen, d, scale, q + at_q, ldq, k + at_k, ldk, 0.0f, p,
                    seen);
            product(0, 1, rows, seen, d, 1.0f, d_o + at_q, ldq, v + at_k, ldk, 0.0f, ds,
                    seen);
            for (int64_t i = 0; i < rows; i++) {
                const float *oi = o + at_q + i * ldq, *doi = d_o + at_q + i * ldq;
                float       *pi = p + i * seen, *dsi = ds + i * seen;
                int64_t      own = first + i + 1;
                float        delta = 0;
                for (int64_t j = 0; j < d; j++) {
                    delta += oi[j] * doi[j];
                }
                exponentials(pi, pi, own, lse[bh * length + first + i]);
                for (int64_t j = 0; j < own; j++) {
                    dsi[j] = pi[j] * (dsi[j] - delta);
                }
                memset(pi + own, 0, (size_t) (seen - own) * sizeof *pi);
                memset(dsi + own, 0, (size_t) (seen - own) * sizeof *dsi);
            }
            product(1, 0, seen, d, rows, 1.0f, p, seen, d_o + at_q, ldq, 1.0f, dv + at_k,
                    ldk);
            product(0, 0, rows, d, seen, scale, ds, seen, k + at_k, ldk, 0.0f, dq + at_q,
                    ldq);
            product(1, 0, seen, d, rows, scale, ds, seen, q + at_q, ldq, 1.0f, dk + at_k,
                    ldk);
        }
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
            float dot = 0;
            for (int64_t j = 0; j < d; j++) {
                dot += q[h * d + j] * k[at_k + t * ldk + j];
            }
            scores[t] = dot * scale;
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

/* ===== SwiGLU ============================================================= */

void swiglu_forward(float *y, const float *gate, const float *up, int64_t count)
{
    float sigmoid[BLOCK];

    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t here = block_size(count, i);

        sigmoid_block(sigmoid, gate + i, here);
        for (int64_t j = 0; j < here; j++) {
            y[i + j] = gate[i + j] * sigmoid[j] * up[i + j];
        }
    }
}

void swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate,
                     const float *up, int64_t count)
{
    float sigmoid[BLOCK];

    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t here = block_size(count, i);

        sigmoid_block(sigmoid, gate + i, here);
        for (int64_t j = 0; j < here; j++) {
            float g = gate[i + j], s = sigmoid[j], d = dy[i + j];
            dup[i + j] = d * g * s;
            dgate[i + j] = d * up[i + j] * s * (1.0f + g * (1.0f - s));
        }
    }
}

/* ===== Cross-entropy ====================================================== */

double cross_entropy_forward(float *lse, const float *logits, const int32_t *targets,
                             int64_t n, int64_t vocab)
{
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * vocab;
        if (targets[i] < 0) {
            lse[i] = 0;
            continue;
        }
        float  most = largest(row, vocab);
        double log_sum = most + log(exponentials(NULL, row, vocab, most));
        total += log_sum - row[targets[i]];
        lse[i] = (float) log_sum;
    }
    return total;
}

void cross_entropy_backward(float *logits, const float *lse, const int32_t *targets,
                            int64_t n, int64_t vocab, double scale)
{
    float factor = (float) scale;
    for (int64_t i = 0; i < n; i++) {
        float *row = logits + i * vocab;
        if (targets[i] < 0) {
            memset(row, 0, (size_t) vocab * sizeof *row);
            continue;
        }
        exponentials(row, row, vocab, lse[i]);
        for (int64_t j = 0; j < vocab; j++) {
            row[j] *= factor;
        }
        row[targets[i]] -= factor;
    }
}
