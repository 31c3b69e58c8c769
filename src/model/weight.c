/*
 * Products with weights of 32 or 16 bits; see weight.h. Bound by the product: a weight is
 * converted once a call, or once for each thread, which with n rows is 1/n of the work.
 * For the threads a product is cut across its longer side, so that of its two operands
 * the larger is read, and packed by the BLAS, only once.
 */
#include "model/weight.h"

#include <stddef.h>
#include <string.h>

#include <cblas.h>

#include "base/threads.h"
#include "beamlora.h"

#define LEAST (1 << 18) /* multiplications that are worth a thread */
#define UNIT 16         /* rows or columns that parts are multiples of */

/* Bits of the float with the value of a half: the exponent is moved from a bias of 15 to
 * one of 127; subnormal halves are normal floats. */
static uint32_t half_bits(uint16_t half)
{
    uint32_t sign = (uint32_t) (half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1fu, fraction = half & 0x3ffu;

    if (exponent == 31) {
        return sign | 0x7f800000u | fraction << 13;
    }
    if (exponent == 0) {
        float    value = (float) fraction * 0x1p-24f;
        uint32_t bits;

        memcpy(&bits, &value, sizeof bits);
        return sign | bits;
    }
    return sign | (exponent + 112) << 23 | fraction << 13;
}

static void from_half(float *to, const unsigned char *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        uint32_t bits;

        memcpy(&half, from + 2 * i, sizeof half);
        bits = half_bits(half);
        memcpy(to + i, &bits, sizeof bits);
    }
}

static void from_bfloat(float *to, const unsigned char *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t upper;
        uint32_t bits;

        memcpy(&upper, from + 2 * i, sizeof upper);
        bits = (uint32_t) upper << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

int weight_in_place(const struct weight *weight)
{
    return weight->dtype == BL_F32 && (uintptr_t) weight->data % sizeof(float) == 0;
}

const float *weight_rows(const struct weight *weight, int64_t from, int64_t rows,
                         int64_t columns, float *scratch)
{
    int64_t              width = weight->dtype == BL_F32 ? 4 : 2;
    const unsigned char *at =
        (const unsigned char *) weight->data + from * columns * width;

    if (weight_in_place(weight)) {
        return (const float *) weight->data + from * columns;
    }
    if (weight->dtype == BL_F32) {
        memcpy(scratch, at, (size_t) (rows * columns) * sizeof *scratch);
    } else if (weight->dtype == BL_F16) {
        from_half(scratch, at, rows * columns);
    } else {
        from_bfloat(scratch, at, rows * columns);
    }
    return scratch;
}

/* A product that is cut into parts. */
struct product {
    const struct weight *weight;
    float               *to;
    const float         *from, *x;
    int64_t              n, out, in, parts;
    int                  by_rows; /* parts are of the n rows */
    int                  keep;
    float               *scratch;
};

static int64_t count_parts(const struct threads *threads, const struct product *p)
{
    int64_t parts = p->n * p->out / LEAST * p->in + p->n * p->out % LEAST * p->in / LEAST;
    int64_t most = threads_count(threads);

    return parts < 1 ? 1 : parts < most ? parts : most;
}

static int64_t block_rows(const struct weight *weight, int64_t left)
{
    return weight_in_place(weight) || left < WEIGHT_BLOCK_ROWS ? left : WEIGHT_BLOCK_ROWS;
}

static void forward_part(void *context, int64_t part)
{
    const struct product *p = context;
    int64_t               size = p->by_rows ? p->n : p->out;
    int64_t               first = threads_part(size, UNIT, p->parts, part);
    int64_t               end = threads_part(size, UNIT, p->parts, part + 1);
    int64_t               row = p->by_rows ? first : 0;
    int64_t               n = p->by_rows ? end - first : p->n;
    int64_t               last = p->by_rows ? p->out : end, in = p->in;
    float                *scratch = p->scratch + part * WEIGHT_BLOCK_ROWS * in;
    const float          *x = p->from + row * in;

    for (int64_t at = p->by_rows ? 0 : first, rows; n > 0 && at < last; at += rows) {
        float       *y = p->to + row * p->out + at;
        const float *w;

        rows = block_rows(p->weight, last - at);
        w = weight_rows(p->weight, at, rows, in, scratch);
        if (n == 1) {
            cblas_sgemv(CblasRowMajor, CblasNoTrans, (int) rows, (int) in, 1.0f, w,
                        (int) in, x, 1, 0.0f, y, 1);
        } else {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int) n, (int) rows,
                        (int) in, 1.0f, x, (int) in, w, (int) in, 0.0f, y, (int) p->out);
        }
    }
}

void weight_forward(struct threads *threads, float *y, const float *x,
                    const struct weight *weight, int64_t n, int64_t out, int64_t in,
                    float *scratch)
{
    struct product p = { .weight = weight,
                         .to = y,
                         .from = x,
                         .n = n,
                         .out = out,
                         .in = in,
                         .scratch = scratch };

    /* what is converted is so by the thread that needs it */
    p.by_rows = n > out && weight_in_place(weight);
    p.parts = count_parts(threads, &p);
    threads_run(threads, p.parts, forward_part, &p);
}

/* By rows, or by the columns of dx. */
static void backward_part(void *context, int64_t part)
{
    const struct product *p = context;
    int64_t               size = p->by_rows ? p->n : p->in;
    int64_t               first = threads_part(size, UNIT, p->parts, part);
    int64_t               end = threads_part(size, UNIT, p->parts, part + 1);
    int64_t               row = p->by_rows ? first : 0;
    int64_t               column = p->by_rows ? 0 : first;
    int64_t               n = p->by_rows ? end - first : p->n;
    int64_t               columns = p->by_rows ? p->in : end - first;
    float                *scratch = p->scratch + part * WEIGHT_BLOCK_ROWS * p->in;

    for (int64_t at = 0, rows; n > 0 && columns > 0 && at < p->out; at += rows) {
        const float *w;

        rows = block_rows(p->weight, p->out - at);
        w = weight_rows(p->weight, at, rows, p->in, scratch);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int) n, (int) columns,
                    (int) rows, 1.0f, p->from + row * p->out + at, (int) p->out,
                    w + column, (int) p->in, p->keep || at > 0 ? 1.0f : 0.0f,
                    p->to + row * p->in + column, (int) p->in);
    }
}

void weight_backward(struct threads *threads, float *dx, const float *dy,
                     const struct weight *weight, int64_t n, int64_t out, int64_t in,
                     int keep, float *scratch)
{
    struct product p = { .weight = weight,
                         .to = dx,
                         .from = dy,
                         .n = n,
                         .out = out,
                         .in = in,
                         .keep = keep,
                         .scratch = scratch };

    p.by_rows = n > in;
    p.parts = count_parts(threads, &p);
    threads_run(threads, p.parts, backward_part, &p);
}

static void gradient_part(void *context, int64_t part)
{
    const struct product *p = context;
    int64_t               first = threads_part(p->out, UNIT, p->parts, part);
    int64_t               rows = threads_part(p->out, UNIT, p->parts, part + 1) - first;

    if (rows > 0) {
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int) rows, (int) p->in,
                    (int) p->n, 1.0f, p->from + first, (int) p->out, p->x, (int) p->in,
                    1.0f, p->to + first * p->in, (int) p->in);
    }
}

void weight_gradient(struct threads *threads, float *dw, const float *dy, const float *x,
                     int64_t n, int64_t out, int64_t in)
{
    struct product p = { .to = dw, .from = dy, .x = x, .n = n, .out = out, .in = in };

    p.parts = count_parts(threads, &p);
    threads_run(threads, p.parts, gradient_part, &p);
}
