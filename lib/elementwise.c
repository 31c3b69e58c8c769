/*
 * Typed passes over small intermediates [rows, r], gradients and dropout masks. The only
 * place, with adamw.c, that knows how elements of a dtype are stored.
 */
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

/* One draw of 64 bits serves two neighbouring elements, 32 bits each. */
static int dropped(const struct bl__dropout *dropout, uint64_t element)
{
    const uint64_t bits = bl__random_bits(dropout->key, element / 2);
    const uint32_t half = (uint32_t) (element % 2 == 0 ? bits : bits >> 32);
    return (double) half * 0x1p-32 < dropout->q;
}

void bl__dropout_copy(int32_t dtype, const struct bl__dropout *dropout, int64_t first_row,
                      int64_t rows, int64_t cols, void *dst, int64_t lddst,
                      const void *src, int64_t ldsrc)
{
    const double scale = 1 / (1 - dropout->q);
    for (int64_t i = 0; i < rows; i++) {
        const uint64_t first = (uint64_t) (first_row + i) * (uint64_t) cols;
        for (int64_t j = 0; j < cols; j++) {
            const int gone = dropped(dropout, first + (uint64_t) j);
            const double x = bl__get(dtype, src, i * ldsrc + j);
            bl__set(dtype, dst, i * lddst + j, gone ? 0 : x * scale);
        }
    }
}

void bl__dropout_add(int32_t dtype, const struct bl__dropout *dropout, int64_t first_row,
                     int64_t rows, int64_t cols, void *dst, int64_t lddst,
                     const void *src, int64_t ldsrc)
{
    const double scale = 1 / (1 - dropout->q);
    for (int64_t i = 0; i < rows; i++) {
        const uint64_t first = (uint64_t) (first_row + i) * (uint64_t) cols;
        for (int64_t j = 0; j < cols; j++) {
            if (!dropped(dropout, first + (uint64_t) j)) {
                const double sum = bl__get(dtype, dst, i * lddst + j) +
                                   bl__get(dtype, src, i * ldsrc + j) * scale;
                bl__set(dtype, dst, i * lddst + j, sum);
            }
        }
    }
}
