/* Products with weights of 32 or 16 bits; see weight.h. Bound by the product: a
 * weight is converted once a call, which with n rows is 1/n of the work. */
#include "model/weight.h"

#include <stddef.h>
#include <string.h>

#include <cblas.h>

#include "beamlora.h"

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

static int64_t block_rows(const struct weight *weight, int64_t out, int64_t at)
{
    if (weight_in_place(weight)) {
        return out;
    }
    return out - at < WEIGHT_BLOCK_ROWS ? out - at : WEIGHT_BLOCK_ROWS;
}

void weight_forward(float *y, const float *x, const struct weight *weight, int64_t n,
                    int64_t out, int64_t in, float *scratch)
{
    for (int64_t at = 0, rows; at < out; at += rows) {
        const float *w;

        rows = block_rows(weight, out, at);
        w = weight_rows(weight, at, rows, in, scratch);
        if (n == 1) {
            cblas_sgemv(CblasRowMajor, CblasNoTrans, (int) rows, (int) in, 1.0f, w,
                        (int) in, x, 1, 0.0f, y + at, 1);
        } else {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int) n, (int) rows,
                        (int) in, 1.0f, x, (int) in, w, (int) in, 0.0f, y + at,
                        (int) out);
        }
    }
}

void weight_backward(float *dx, const float *dy, const struct weight *weight, int64_t n,
                     int64_t out, int64_t in, int keep, float *scratch)
{
    for (int64_t at = 0, rows; at < out; at += rows) {
        const float *w;

        rows = block_rows(weight, out, at);
        w = weight_rows(weight, at, rows, in, scratch);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int) n, (int) in,
                    (int) rows, 1.0f, dy + at, (int) out, w, (int) in,
                    keep || at > 0 ? 1.0f : 0.0f, dx, (int) in);
    }
}

void weight_gradient(float *dw, const float *dy, const float *x, int64_t n, int64_t out,
                     int64_t in)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int) out, (int) in, (int) n,
                1.0f, dy, (int) out, x, (int) in, 1.0f, dw, (int) in);
}
