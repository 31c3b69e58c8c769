/*
 * The door to the CBLAS: the only file that includes its header. Its integers must be
 * 32 bits wide; all sizes are checked against INT_MAX where they enter the library.
 */
#include <assert.h>
#include <limits.h>
#include <string.h>

#include <cblas.h>

#include "doors.h"

#if defined(OPENBLAS_USE64BITINT) || defined(WeirdNEC)
#error "this CBLAS has 64-bit integers; libbeamlora needs one with 32-bit integers"
#endif
#ifdef CBLAS_INT
_Static_assert(sizeof(CBLAS_INT) == sizeof(int), "libbeamlora needs a 32-bit CBLAS");
#endif

#if defined(__GNUC__) && defined(__ELF__)
extern char *openblas_get_corename(void) __attribute__((weak));
#define KERNELS (openblas_get_corename == NULL ? "" : openblas_get_corename())
#else
#define KERNELS ""
#endif

int bl__gemm_has_small(void)
{
    static const char *const names[] = { "SkylakeX", "Cooperlake", "SapphireRapids" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(KERNELS, names[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

size_t bl__dtype_bytes(int32_t dtype)
{
    switch (dtype) {
    case BL_F32:
        return sizeof(float);
    case BL_F64:
        return sizeof(double);
    case BL_I64:
        return sizeof(int64_t);
    case BL_BF16:
    case BL_F16:
        return 2;
    case BL_U8:
        return 1;
    default:
        return 0;
    }
}

/* c [1, n]: a row times a matrix, without what a product of matrices prepares first */
static void multiply_row(int32_t dtype, int transpose_a, int transpose_b, int64_t n,
                         int64_t k, double alpha, const void *a, int64_t lda,
                         const void *b, int64_t ldb, double beta, void *c)
{
    const enum CBLAS_TRANSPOSE op = transpose_b ? CblasNoTrans : CblasTrans;
    const int                  rows = (int) (transpose_b ? n : k);
    const int                  cols = (int) (transpose_b ? k : n);
    const int                  step = transpose_a ? (int) lda : 1;
    if (dtype == BL_F32) {
        cblas_sgemv(CblasRowMajor, op, rows, cols, (float) alpha, b, (int) ldb, a, step,
                    (float) beta, c, 1);
    } else {
        cblas_dgemv(CblasRowMajor, op, rows, cols, alpha, b, (int) ldb, a, step, beta, c,
                    1);
    }
}

void bl__gemm(int32_t dtype, int transpose_a, int transpose_b, int64_t m, int64_t n,
              int64_t k, double alpha, const void *a, int64_t lda, const void *b,
              int64_t ldb, double beta, void *c, int64_t ldc)
{
    if (m == 0 || n == 0) {
        return;
    }
    assert(m <= INT_MAX && n <= INT_MAX && k >= 1 && k <= INT_MAX);
    assert(lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX);
    if (m == 1) {
        multiply_row(dtype, transpose_a, transpose_b, n, k, alpha, a, lda, b, ldb, beta,
                     c);
        return;
    }
    const enum CBLAS_TRANSPOSE op_a = transpose_a ? CblasTrans : CblasNoTrans;
    const enum CBLAS_TRANSPOSE op_b = transpose_b ? CblasTrans : CblasNoTrans;
    if (dtype == BL_F32) {
        cblas_sgemm(CblasRowMajor, op_a, op_b, (int) m, (int) n, (int) k, (float) alpha,
                    a, (int) lda, b, (int) ldb, (float) beta, c, (int) ldc);
    } else {
        cblas_dgemm(CblasRowMajor, op_a, op_b, (int) m, (int) n, (int) k, alpha, a,
                    (int) lda, b, (int) ldb, beta, c, (int) ldc);
    }
}
