/*
 * Typed passes over small intermediates [rows, r], gradients and dropout masks. The only
 * place, with adamw.c, that knows how elements of a dtype are stored.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "formulas.h"

double bl__get(int32_t dtype, const void *data, int64_t index)
{
    return dtype == BL_F32 ? (double) ((const float *) data)[index]
                           : ((const double *) data)[index];
}

void bl__set(int32_t dtype, void *data, int64_t index, double value)
{
    if (dtype == BL_F32) {
        ((float *) data)[index] = (float) value;
    } else {
        ((double *) data)[index] = value;
    }
}

void *bl__at(int32_t dtype, void *data, int64_t index)
{
    return (char *) data + (size_t) index * bl__dtype_bytes(dtype);
}

const void *bl__at_const(int32_t dtype, const void *data, int64_t index)
{
    return (const char *) data + (size_t) index * bl__dtype_bytes(dtype);
}

void bl__scale_columns(int32_t dtype, void *dst, const void *src, int64_t rows,
                       int64_t cols, const double *g)
{
    if (dtype == BL_F32) {
        float       *to = dst;
        const float *from = src;
        for (int64_t i = 0; i < rows; i++, to += cols, from += cols) {
            for (int64_t j = 0; j < cols; j++) {
                to[j] = from[j] * (float) g[j];
            }
        }
    } else {
        double       *to = dst;
        const double *from = src;
        for (int64_t i = 0; i < rows; i++, to += cols, from += cols) {
            for (int64_t j = 0; j < cols; j++) {
                to[j] = from[j] * g[j];
            }
        }
    }
}

void bl__add_column_dots(int32_t dtype, double *sums, const void *a, const void *b,
                         int64_t rows, int64_t cols)
{
    if (dtype == BL_F32) {
        const float *x = a;
        const float *y = b;
        for (int64_t i = 0; i < rows; i++, x += cols, y += cols) {
            for (int64_t j = 0; j < cols; j++) {
                sums[j] += (double) x[j] * (double) y[j];
            }
        }
    } else {
        const double *x = a;
        const double *y = b;
        for (int64_t i = 0; i < rows; i++, x += cols, y += cols) {
            for (int64_t j = 0; j < cols; j++) {
                sums[j] += x[j] * y[j];
            }
        }
    }
}

double bl__largest(int32_t dtype)
{
    return dtype == BL_F32 ? (double) FLT_MAX : DBL_MAX;
}

double bl__sum_squares(int32_t dtype, const void *data, int64_t count)
{
    double sum = 0;
    if (dtype == BL_F32) {
        const float *x = data;
        for (int64_t i = 0; i < count; i++) {
            sum += (double) x[i] * (double) x[i];
        }
    } else {
        const double *x = data;
        for (int64_t i = 0; i < count; i++) {
            sum += x[i] * x[i];
        }
    }
    return sum;
}

/* The bits of |x| order as the values do, with infinity and then NaN above all. */
double bl__max_abs(int32_t dtype, const void *data, int64_t count)
{
    if (dtype == BL_F32) {
        const char *x = data;
        uint32_t    most = 0;
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, x + (size_t) i * sizeof bits, sizeof bits);
            bits &= 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        return (double) largest;
    }
    const char *x = data;
    uint64_t    most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, x + (size_t) i * sizeof bits, sizeof bits);
        bits &= 0x7fffffffffffffffu;
        most = bits > most ? bits : most;
    }
    double largest;
    memcpy(&largest, &most, sizeof largest);
    return largest;
}

enum { CHUNK = 256 };

/* keep[j] = 1 where element first + j stays. A draw of 64 bits serves two neighbouring
 * elements, 32 bits each. */
static void draw_mask(const struct bl__dropout *dropout, uint64_t first, int64_t count,
                      uint8_t *keep)
{
    const uint32_t limit = (uint32_t) (dropout->q * 0x1p32);
    for (int64_t j = 0; j < count;) {
        const uint64_t element = first + (uint64_t) j;
        const uint64_t bits = bl__random_bits(dropout->key, element / 2);
        if (element % 2 == 0) {
            keep[j++] = (uint32_t) bits >= limit;
        }
        if (j < count) {
            keep[j++] = (uint32_t) (bits >> 32) >= limit;
        }
    }
}

static void mask_f32(float *dst, const float *src, const uint8_t *keep, int64_t count,
                     float scale, int add)
{
    for (int64_t j = 0; j < count; j++) {
        const float kept = keep[j] ? src[j] * scale : 0;
        dst[j] = add ? dst[j] + kept : kept;
    }
}

static void mask_f64(double *dst, const double *src, const uint8_t *keep, int64_t count,
                     double scale, int add)
{
    for (int64_t j = 0; j < count; j++) {
        const double kept = keep[j] ? src[j] * scale : 0;
        dst[j] = add ? dst[j] + kept : kept;
    }
}

void bl__dropout(int32_t dtype, const struct bl__dropout *dropout, int64_t first_row,
                 int64_t rows, int64_t cols, void *dst, int64_t lddst, const void *src,
                 int64_t ldsrc, int add)
{
    const double scale = 1 / (1 - dropout->q);
    uint8_t      keep[CHUNK];
    for (int64_t i = 0; i < rows; i++) {
        const uint64_t first = (uint64_t) (first_row + i) * (uint64_t) cols;
        for (int64_t j = 0; j < cols; j += CHUNK) {
            const int64_t     count = cols - j < CHUNK ? cols - j : CHUNK;
            void *const       to = bl__at(dtype, dst, i * lddst + j);
            const void *const from = bl__at_const(dtype, src, i * ldsrc + j);
            draw_mask(dropout, first + (uint64_t) j, count, keep);
            if (dtype == BL_F32) {
                mask_f32(to, from, keep, count, (float) scale, add);
            } else {
                mask_f64(to, from, keep, count, scale, add);
            }
        }
    }
}
