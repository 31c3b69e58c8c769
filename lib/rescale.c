/*
 * DoRA's passes over activations (docs/method.md, equations 11 to 14): rows of y and dy
 * times a factor for every column. Each is one pass over memory.
 */
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

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
    /* The same of four rows, in the same order: the sums are fetched once for all */    \
    BL__VECTORS static void add_dots_of_four_##suffix(                                   \
        type *restrict dots, type *restrict dy0, type *restrict dy1, type *restrict dy2, \
        type *restrict dy3, const type *restrict kept, int64_t ldkept, int64_t cols,     \
        const type *restrict ratio)                                                      \
    {                                                                                    \
        for (int64_t j = 0; j < cols; j++) {                                             \
            dots[j] = dots[j] + dy0[j] * kept[j] + dy1[j] * kept[ldkept + j] +           \
                      dy2[j] * kept[2 * ldkept + j] + dy3[j] * kept[3 * ldkept + j];     \
            dy0[j] *= ratio[j];                                                          \
            dy1[j] *= ratio[j];                                                          \
            dy2[j] *= ratio[j];                                                          \
            dy3[j] *= ratio[j];                                                          \
        }                                                                                \
    }                                                                                    \
    static void add_dots_of_rows_##suffix(type *dots, type *dy, int64_t lddy,            \
                                          const type *kept, int64_t ldkept,              \
                                          int64_t rows, int64_t cols, const type *ratio) \
    {                                                                                    \
        int64_t i = 0;                                                                   \
        for (; i + 4 <= rows; i += 4) {                                                  \
            type *const to = dy + i * lddy;                                              \
            add_dots_of_four_##suffix(dots, to, to + lddy, to + 2 * lddy, to + 3 * lddy, \
                                      kept + i * ldkept, ldkept, cols, ratio);           \
        }                                                                                \
        for (; i < rows; i++) {                                                          \
            add_dots_##suffix(dots, dy + i * lddy, kept + i * ldkept, cols, ratio);      \
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

/* Copies a row that nobody reads soon: past the caches, which would first fetch what is
 * overwritten, where it can be said. Other threads see it after a fence. */
static void put_away(void *restrict dst, const void *restrict src, size_t bytes)
{
#ifdef __SSE2__
    if ((uintptr_t) dst % sizeof(__m128i) == 0 && bytes % sizeof(__m128i) == 0) {
        for (size_t i = 0; i < bytes; i += sizeof(__m128i)) {
            const __m128i *const from = (const void *) ((const char *) src + i);
            _mm_stream_si128((void *) ((char *) dst + i), _mm_loadu_si128(from));
        }
        return;
    }
#endif
    memcpy(dst, src, bytes);
}

static void fence(void)
{
#ifdef __SSE2__
    _mm_sfence();
#endif
}

void bl__rescale(int32_t dtype, void *kept, int is_far, void *y, int64_t ldy,
                 int64_t rows, int64_t cols, const void *ratio)
{
    const size_t bytes = (size_t) cols * bl__dtype_bytes(dtype);
    for (int64_t i = 0; i < rows; i++) {
        void *const to = bl__at(dtype, y, i * ldy);
        if (kept != NULL && is_far) {
            put_away(bl__at(dtype, kept, i * cols), to, bytes);
        } else if (kept != NULL) {
            memcpy(bl__at(dtype, kept, i * cols), to, bytes);
        }
        if (dtype == BL_F32) {
            rescale_f32(to, cols, ratio);
        } else {
            rescale_f64(to, cols, ratio);
        }
    }
    if (kept != NULL && is_far) {
        fence();
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
    for (int64_t i = 0; i < rows && to != dy; i++) {
        memcpy(bl__at(dtype, to, i * ldto), bl__at_const(dtype, dy, i * lddy),
               (size_t) cols * bl__dtype_bytes(dtype));
    }
    if (kept == NULL) {
        bl__rescale(dtype, NULL, 0, to, ldto, rows, cols, ratio);
    } else if (dtype == BL_F32) {
        add_dots_of_rows_f32(dots, to, ldto, kept, ldkept, rows, cols, ratio);
    } else {
        add_dots_of_rows_f64(dots, to, ldto, kept, ldkept, rows, cols, ratio);
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
