/* Softmax, SwiGLU and cross-entropy: see exponential.h and kernels.h. */
#include "model/exponential.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "model/kernels.h"
#include "model/vectors.h"

/* Most of the time outside the products goes into exponentials, so they are taken by
 * blocks of a fixed size, in steps that a compiler makes vector instructions of. */
#define BLOCK 32

/*
 * x := e^x, to 1e-7 of it, with |x| above 87 taken as 87; NaN where x is not finite.
 * With k the integer nearest to x / ln 2, e^x = 2^k e^(x - k ln 2): ln 2 is subtracted in
 * two parts, and the power series of the rest, which is within ln 2 / 2, ends at the
 * seventh power.
 */
static inline void exp_block(float *x)
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

VECTORS
double exponentials(float *y, const float *x, int64_t count, float shift)
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

VECTORS
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

float softmax(float *x, int64_t count)
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

/* ===== SwiGLU ============================================================= */

VECTORS
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

VECTORS
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
