/*
 * DoRA's passes over activations (docs/method.md, equations 11 to 14): rows of y and dy
 * times a factor for every column. Each is one pass over memory.
 */
#include <string.h>

#include "formulas.h"
#include "vectors.h"

/* The same loops for both dtypes, a row each */
#define DEFINE_PASSES(type, suffix)                                                      \
    BL__VECTORS static void rescale_##suffix(type *restrict y, int64_t cols,             \
                                             const type *restrict ratio)                 \
    {                                                                                    \
        for (int64_t j = 0; j < cols; j++) {                                             \
            y[j] *= ratio[j];                                                            \
        }                                                                                \
    }                                                                                    \
    BL__VECTORS static void combine_##suffix(type *restrict y, type *restrict u,         \
                                             const type *restrict l, int64_t cols,       \
                                             const type *restrict ratio)                 \
    {                                                                                    \
        for (int64_t j = 0; j < cols; j++) {                                             \
            y[j] += (ratio[j] - 1) * u[j] + ratio[j] * l[j];                             \
            u[j] += l[j];                                                                \
        }                                                                                \
    }                                                                                    \
    BL__VECTORS static void add_dots_##suffix(type *restrict dots, type *restrict dy,    \
                                              const type *restrict kept, int64_t cols,   \
                                              const type *restrict ratio)                \
    {                                                                                    \
        for (int64_t j = 0; j < cols; j++) {                                             \
            dots[j] += dy[j] * kept[j];                                                  \
            dy[j] *= ratio[j];                                                           \
        }                                                                                \
    }                                                                                    \
    static void subtract_##suffix(type *restrict a, const type *restrict b,              \
                                  int64_t cols)                                          \
    {                                                                                    \
        for (int64_t j = 0; j < cols; j++) {                                             \
            a[j] -= b[j];                                                                \
        }                                                                                \
    }

DEFINE_PASSES(float, f32)
DEFINE_PASSES(double, f64)

void bl__rescale(int32_t dtype, void *kept, void *y, int64_t ldy, int64_t rows,
                 int64_t cols, const void *ratio)
{
    for (int64_t i = 0; i < rows; i++) {
        void *const to = bl__at(dtype, y, i * ldy);
        if (kept != NULL) {
            memcpy(bl__at(dtype, kept, i * cols), to,
                   (size_t) cols * bl__dtype_bytes(dtype));
        }
        if (dtype == BL_F32) {
            rescale_f32(to, cols, ratio);
        } else {
            rescale_f64(to, cols, ratio);
        }
    }
}

void bl__rescale_combine(int32_t dtype, void *y, int64_t ldy, void *u, const void *l,
                         int64_t rows, int64_t cols, const void *ratio)
{
    for (int64_t i = 0; i < rows; i++) {
        void *const       to = bl__at(dtype, y, i * ldy);
        void *const       sum = bl__at(dtype, u, i * cols);
        const void *const from = bl__at_const(dtype, l, i * cols);
        if (dtype == BL_F32) {
            combine_f32(to, sum, from, cols, ratio);
        } else {
            combine_f64(to, sum, from, cols, ratio);
        }
    }
}

void bl__rescale_gradient(int32_t dtype, void *dots, void *to, int64_t ldto,
                          const void *dy, int64_t lddy, const void *kept, int64_t ldkept,
                          int64_t rows, int64_t cols, const void *ratio)
{
    for (int64_t i = 0; i < rows; i++) {
        void *const       scaled = bl__at(dtype, to, i * ldto);
        const void *const from = bl__at_const(dtype, dy, i * lddy);
        const void *const k = kept == NULL ? NULL : bl__at_const(dtype, kept, i * ldkept);
        if (scaled != from) {
            memcpy(scaled, from, (size_t) cols * bl__dtype_bytes(dtype));
        }
        if (dtype == BL_F32 && k != NULL) {
            add_dots_f32(dots, scaled, k, cols, ratio);
        } else if (dtype == BL_F32) {
            rescale_f32(scaled, cols, ratio);
        } else if (k != NULL) {
            add_dots_f64(dots, scaled, k, cols, ratio);
        } else {
            rescale_f64(scaled, cols, ratio);
        }
    }
}

void bl__subtract(int32_t dtype, void *a, int64_t lda, const void *b, int64_t ldb,
                  int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++) {
        if (dtype == BL_F32) {
            subtract_f32(bl__at(dtype, a, i * lda), bl__at_const(dtype, b, i * ldb),
                         cols);
        } else {
            subtract_f64(bl__at(dtype, a, i * lda), bl__at_const(dtype, b, i * ldb),
                         cols);
        }
    }
}
