/*
 * Typed passes over small intermediates [rows, r], gradients and dropout masks. The only
 * place, with adamw.c, that knows how elements of a dtype are stored.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "formulas.h"
#include "vectors.h"

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

static void narrow(char *to, const char *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, from + (size_t) i * sizeof bits, sizeof bits);
        const uint32_t nearest = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        const uint32_t nan = bits >> 16 | 0x40u; /* a bit that keeps it one */
        const uint16_t half =
            (uint16_t) ((bits & 0x7fffffffu) > 0x7f800000u ? nan : nearest);
        memcpy(to + (size_t) i * sizeof half, &half, sizeof half);
    }
}

static void widen(char *to, const char *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + (size_t) i * sizeof half, sizeof half);
        const uint32_t bits = (uint32_t) half << 16;
        memcpy(to + (size_t) i * sizeof bits, &bits, sizeof bits);
    }
}

void bl__convert(int32_t dst_dtype, void *dst, int32_t src_dtype, const void *src,
                 int64_t count)
{
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, (size_t) count * bl__dtype_bytes(dst_dtype));
    } else if (dst_dtype == BL_BF16) {
        narrow(dst, src, count);
    } else {
        widen(dst, src, count);
    }
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

/* Columns of a matrix with long rows are taken so many at a time: a line of the cache. */
enum { PANEL = 16 };

#define DEFINE_COLUMN_PASSES(type, suffix)                                               \
    static void transpose_##suffix(type *dst, const type *src, int64_t rows,             \
                                   int64_t cols, const double *g)                        \
    {                                                                                    \
        for (int64_t from = 0; from < cols; from += PANEL) {                             \
            const int64_t to = cols - from < PANEL ? cols : from + PANEL;                \
            for (int64_t i = 0; i < rows; i++) {                                         \
                for (int64_t j = from; j < to; j++) {                                    \
                    dst[j * rows + i] = src[i * cols + j] * (type) g[i];                 \
                }                                                                        \
            }                                                                            \
        }                                                                                \
    }                                                                                    \
    BL__VECTORS static void add_crossed_dots_##suffix(                                   \
        double *restrict dots, const type *restrict a, const type *restrict b,           \
        int64_t ldb, int64_t rows, int64_t cols)                                         \
    {                                                                                    \
        for (int64_t from = 0; from < rows; from += PANEL) {                             \
            const int64_t to = rows - from < PANEL ? rows : from + PANEL;                \
            for (int64_t j = 0; j < cols; j++) {                                         \
                for (int64_t i = from; i < to; i++) {                                    \
                    dots[i] += (double) a[i * cols + j] * (double) b[j * ldb + i];       \
                }                                                                        \
            }                                                                            \
        }                                                                                \
    }                                                                                    \
    BL__VECTORS static void add_column_dots_##suffix(                                    \
        double *restrict sums, const type *restrict a, int64_t lda, const type *b,       \
        int64_t ldb, int64_t rows, int64_t cols)                                         \
    {                                                                                    \
        for (int64_t i = 0; i < rows; i++) {                                             \
            for (int64_t j = 0; j < cols; j++) {                                         \
                sums[j] += (double) a[i * lda + j] * (double) b[i * ldb + j];            \
            }                                                                            \
        }                                                                                \
    }

DEFINE_COLUMN_PASSES(float, f32)
DEFINE_COLUMN_PASSES(double, f64)

void bl__transpose(int32_t dtype, void *dst, const void *src, int64_t rows, int64_t cols,
                   const double *g)
{
    if (dtype == BL_F32) {
        transpose_f32(dst, src, rows, cols, g);
    } else {
        transpose_f64(dst, src, rows, cols, g);
    }
}

void bl__add_crossed_dots(int32_t dtype, double *dots, const void *a, const void *b,
                          int64_t ldb, int64_t rows, int64_t cols)
{
    if (dtype == BL_F32) {
        add_crossed_dots_f32(dots, a, b, ldb, rows, cols);
    } else {
        add_crossed_dots_f64(dots, a, b, ldb, rows, cols);
    }
}

void bl__add_column_dots(int32_t dtype, double *sums, const void *a, int64_t lda,
                         const void *b, int64_t ldb, int64_t rows, int64_t cols)
{
    if (dtype == BL_F32) {
        add_column_dots_f32(sums, a, lda, b, ldb, rows, cols);
    } else {
        add_column_dots_f64(sums, a, lda, b, ldb, rows, cols);
    }
}

double bl__largest(int32_t dtype)
{
    return dtype == BL_F32 ? (double) FLT_MAX : DBL_MAX;
}

/* Sums have this many lanes: one alone would wait for itself at every element. */
enum { LANES = 8 };

static double sum_squares_f32(const float *x, int64_t count)
{
    double  sums[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int64_t k = 0; k < LANES; k++) {
            sums[k] += (double) x[i + k] * (double) x[i + k];
        }
    }
    for (int64_t k = 0; i < count; i++, k++) {
        sums[k] += (double) x[i] * (double) x[i];
    }
    for (int64_t k = 1; k < LANES; k++) {
        sums[0] += sums[k];
    }
    return sums[0];
}

static double sum_squares_f64(const double *x, int64_t count)
{
    double  sums[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int64_t k = 0; k < LANES; k++) {
            sums[k] += x[i + k] * x[i + k];
        }
    }
    for (int64_t k = 0; i < count; i++, k++) {
        sums[k] += x[i] * x[i];
    }
    for (int64_t k = 1; k < LANES; k++) {
        sums[0] += sums[k];
    }
    return sums[0];
}

double bl__sum_squares(int32_t dtype, const void *data, int64_t count)
{
    return dtype == BL_F32 ? sum_squares_f32(data, count) : sum_squares_f64(data, count);
}

/* The bits of |x|, which order as the values do, with infinity and then NaN above all. */
static int32_t bits_f32(const char *x, int64_t i)
{
    int32_t bits;
    memcpy(&bits, x + (size_t) i * sizeof bits, sizeof bits);
    return bits & 0x7fffffff;
}

static int64_t bits_f64(const char *x, int64_t i)
{
    int64_t bits;
    memcpy(&bits, x + (size_t) i * sizeof bits, sizeof bits);
    return bits & 0x7fffffffffffffff;
}

/* From four places at once, which memory answers faster than from one. */
#define DEFINE_MOST(type, suffix)                                                        \
    BL__VECTORS static type most_##suffix(const char *x, int64_t count)                  \
    {                                                                                    \
        const int64_t quarter = count / 4;                                               \
        type          a = 0, b = 0, c = 0, d = 0;                                        \
        for (int64_t i = 0; i < quarter; i++) {                                          \
            const type at_a = bits_##suffix(x, i);                                       \
            const type at_b = bits_##suffix(x, quarter + i);                             \
            const type at_c = bits_##suffix(x, 2 * quarter + i);                         \
            const type at_d = bits_##suffix(x, 3 * quarter + i);                         \
            a = at_a > a ? at_a : a;                                                     \
            b = at_b > b ? at_b : b;                                                     \
            c = at_c > c ? at_c : c;                                                     \
            d = at_d > d ? at_d : d;                                                     \
        }                                                                                \
        for (int64_t i = 4 * quarter; i < count; i++) {                                  \
            const type rest = bits_##suffix(x, i);                                       \
            a = rest > a ? rest : a;                                                     \
        }                                                                                \
        a = b > a ? b : a;                                                               \
        c = d > c ? d : c;                                                               \
        return c > a ? c : a;                                                            \
    }

DEFINE_MOST(int32_t, f32)
DEFINE_MOST(int64_t, f64)

double bl__max_abs(int32_t dtype, const void *data, int64_t count)
{
    if (dtype == BL_F32) {
        const int32_t most = most_f32(data, count);
        float         largest;
        memcpy(&largest, &most, sizeof largest);
        return (double) largest;
    }
    const int64_t most = most_f64(data, count);
    double        largest;
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
