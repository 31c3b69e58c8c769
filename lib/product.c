/*
 * The products of a pass, activations [rows, cols] with a thin factor f [r, cols], and the one
 * of DoRA's lengths, of W0 with such a factor transposed.
 *
 * A BLAS is made for products that are long in all three directions: it copies its operands
 * first, which here, where each element is used r times, takes as long as the product.
 * OpenBLAS has kernels for some processors that leave that out for products of up to a
 * million multiplications, and uses one thread for all of these. So where the host owns the
 * cores a product is made of such pieces, in shapes whose rows stay in the first cache; where
 * the BLAS owns the cores it is one call (docs/performance.md).
 */
#include "formulas.h"

static const int64_t piece = 1000000;

/* For these a copy of a factor takes as long as the product too, whatever the rank. */
static const int64_t few_rows = 32;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many rows or columns, in units, of `others` multiplications each make so many. */
static int64_t fit(int64_t multiplications, int64_t others, int64_t unit, int64_t most)
{
    const int64_t units = multiplications / others / unit;
    return least(units < 1 ? unit : units * unit, most);
}

/* Whether a product is better in pieces than whole: up to rank `most`, or `most_small` where
 * the BLAS does not copy small operands. */
static int cut(enum bl__pieces pieces, int64_t rows, int64_t r, int64_t most,
               int64_t most_small)
{
    const int64_t rank = pieces == BL__SMALL_PIECES ? most_small : most;
    return pieces != BL__WHOLE && (r <= rank || rows <= few_rows);
}

void bl__add_row_dots(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                      int64_t cols, double *dots, const void *x, int64_t ldx,
                      const void *t, const void *f, int64_t ldf, void *scratch)
{
    if (!cut(pieces, rows, r, 64, 64)) {
        /* the long side first, as a BLAS likes it */
        bl__gemm(dtype, 1, 1, r, rows, cols, 1, t, r, x, ldx, 0, scratch, rows);
        bl__add_column_dots(dtype, dots, scratch, rows, f, ldf, r, rows);
        return;
    }
    /* the fastest for each, by a few per cent (DoRA's lengths in `bench methods`) */
    const int64_t row_step = least(pieces == BL__SMALL_PIECES ? 12 : 24, rows);
    const int64_t col_step = fit(piece, row_step * r, 64, cols);
    for (int64_t i = 0; i < rows; i += row_step) {
        const int64_t some = least(row_step, rows - i);
        for (int64_t j = 0; j < cols; j += col_step) {
            bl__gemm(dtype, 0, 0, some, r, least(col_step, cols - j), 1,
                     bl__at_const(dtype, x, i * ldx + j), ldx,
                     bl__at_const(dtype, t, j * r), r, j > 0 ? 1 : 0, scratch, r);
        }
        bl__add_crossed_dots(dtype, dots + i, scratch, bl__at_const(dtype, f, i), ldf,
                             some, r);
    }
}

void bl__project(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                 int64_t cols, double alpha, const void *x, int64_t ldx, const void *f,
                 int64_t ldf, void *h)
{
    const int is_cut = cut(pieces, rows, r, 16, 64);
    /* few rows come from memory sooner than many; at lower ranks calls would be too small */
    const int     few = pieces == BL__SMALL_PIECES && r > 8;
    const int64_t most_rows = few ? 16 : 128;
    const int64_t most = fit(1200, r, r < 128 ? 8 : 1, most_rows); /* OpenBLAS: of h */
    const int64_t row_step = is_cut ? least(most, rows) : rows;
    const int64_t wide = fit(piece, row_step * r, 64, few ? least(1024, cols) : cols);
    const int64_t col_step = is_cut ? wide : cols;
    for (int64_t j = 0; j < cols; j += col_step) {
        for (int64_t i = 0; i < rows; i += row_step) {
            bl__gemm(dtype, 0, 1, least(row_step, rows - i), r, least(col_step, cols - j),
                     alpha, bl__at_const(dtype, x, i * ldx + j), ldx,
                     bl__at_const(dtype, f, j), ldf, j > 0 ? 1 : 0,
                     bl__at(dtype, h, i * r), r);
        }
    }
}

void bl__spread(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                int64_t cols, double alpha, const void *h, const void *f, int64_t ldf,
                double beta, void *y, int64_t ldy)
{
    const int is_cut = cut(pieces, rows, r, 12, 12);
    /* few rows: where ldy is a power of two they share lines of the cache */
    const int64_t row_step = is_cut ? fit(piece / 8, cols * r, 8, rows) : rows;
    const int64_t col_step = is_cut ? fit(piece, row_step * r, 64, cols) : cols;
    for (int64_t i = 0; i < rows; i += row_step) {
        for (int64_t j = 0; j < cols; j += col_step) {
            bl__gemm(dtype, 0, 0, least(row_step, rows - i), least(col_step, cols - j), r,
                     alpha, bl__at_const(dtype, h, i * r), r, bl__at_const(dtype, f, j),
                     ldf, beta, bl__at(dtype, y, i * ldy + j), ldy);
        }
    }
}

void bl__gather(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                int64_t cols, double alpha, const void *h, const void *x, int64_t ldx,
                double beta, void *f, int64_t ldf)
{
    const int     is_cut = cut(pieces, rows, r, 32, 64);
    const int64_t row_step = is_cut ? fit(piece / 2, cols * r, 32, rows) : rows;
    const int64_t col_step = is_cut ? fit(piece, row_step * r, 64, cols) : cols;
    for (int64_t i = 0; i < rows; i += row_step) {
        for (int64_t j = 0; j < cols; j += col_step) {
            bl__gemm(dtype, 1, 0, r, least(col_step, cols - j), least(row_step, rows - i),
                     alpha, bl__at_const(dtype, h, i * r), r,
                     bl__at_const(dtype, x, i * ldx + j), ldx, i > 0 ? 1 : beta,
                     bl__at(dtype, f, j), ldf);
        }
    }
}
