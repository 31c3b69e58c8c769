/*
 * Pure formulas on plain arrays: scores, AdamW, schedule, element-wise passes. No
 * handles, no allocation; these are what the golden tests pin down.
 */
#ifndef BEAMLORA_LIB_FORMULAS_H
#define BEAMLORA_LIB_FORMULAS_H

#include "doors.h"

/* ----- elementwise.c: typed passes over [rows, cols] ----- */

double bl__get(int32_t dtype, const void *data, int64_t index);
void   bl__set(int32_t dtype, void *data, int64_t index, double value);
/* Address of element `index`. */
void       *bl__at(int32_t dtype, void *data, int64_t index);
const void *bl__at_const(int32_t dtype, const void *data, int64_t index);

/* Copy `count` elements; of two dtypes one is BL_F32 and the other BL_BF16, to nearest
 * even. */
void bl__convert(int32_t dst_dtype, void *dst, int32_t src_dtype, const void *src,
                 int64_t count);
/* dst[i, j] = src[i, j] * g[j]; dst may be src. */
void bl__scale_columns(int32_t dtype, void *dst, const void *src, int64_t rows,
                       int64_t cols, const double *g);
/* dst [cols, rows] = (diag(g) src)^T */
void bl__transpose(int32_t dtype, void *dst, const void *src, int64_t rows, int64_t cols,
                   const double *g);
/* dots[i] += sum over j of a[i, j] * b[j, i] */
void bl__add_crossed_dots(int32_t dtype, double *dots, const void *a, const void *b,
                          int64_t ldb, int64_t rows, int64_t cols);
/* sums[j] += sum over i of a[i, j] * b[i, j] */
void bl__add_column_dots(int32_t dtype, double *sums, const void *a, int64_t lda,
                         const void *b, int64_t ldb, int64_t rows, int64_t cols);
/* Largest finite value of a dtype. */
double bl__largest(int32_t dtype);
/* Sum of squares, and largest |x| (infinite or NaN if any is). */
double bl__sum_squares(int32_t dtype, const void *data, int64_t count);
double bl__max_abs(int32_t dtype, const void *data, int64_t count);

/* Dropout mask M of rows first_row.. of an activation [., cols]: 0 or 1 / (1 - q). */
struct bl__dropout {
    double   q;
    uint64_t key;
};
/* dst = src * M, or dst += src * M if `add` */
void bl__dropout(int32_t dtype, const struct bl__dropout *dropout, int64_t first_row,
                 int64_t rows, int64_t cols, void *dst, int64_t lddst, const void *src,
                 int64_t ldsrc, int add);

/* ----- product.c: activations [rows, cols] and a thin factor f [r, cols] ----- */

/* Whether products are made of pieces; small: which the BLAS is known to do without copying
 * their operands. */
enum bl__pieces { BL__WHOLE, BL__PIECES, BL__SMALL_PIECES };

/*     row dots: dots[i] += sum over k of (x t)[i, k] * f[k, i], with t [cols, r] and
 *               f [r, rows]; scratch has rows * r elements
 *     project:  h [rows, r] = alpha x f^T
 *     spread:   y = alpha h f + beta y
 *     gather:   f = alpha h^T x + beta f */
void bl__add_row_dots(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                      int64_t cols, double *dots, const void *x, int64_t ldx,
                      const void *t, const void *f, int64_t ldf, void *scratch);
void bl__project(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                 int64_t cols, double alpha, const void *x, int64_t ldx, const void *f,
                 int64_t ldf, void *h);
void bl__spread(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                int64_t cols, double alpha, const void *h, const void *f, int64_t ldf,
                double beta, void *y, int64_t ldy);
void bl__gather(int32_t dtype, enum bl__pieces pieces, int64_t rows, int64_t r,
                int64_t cols, double alpha, const void *h, const void *x, int64_t ldx,
                double beta, void *f, int64_t ldf);

/* ----- rescale.c ----- */

/* DoRA's passes over [rows, cols], with a factor for every column.
 *     rescale:   kept = y (NULL: not wanted; is_far: past the caches), y = ratio y
 *     combine:   y += (ratio - 1) u + ratio l,  u += l
 *     gradient:  dots[j] += sum over i of dy kept (NULL: not wanted), to = ratio dy
 *     subtract:  a -= b */
void bl__rescale(int32_t dtype, void *kept, int is_far, void *y, int64_t ldy,
                 int64_t rows, int64_t cols, const void *ratio);
void bl__rescale_combine(int32_t dtype, void *y, int64_t ldy, void *u, const void *l,
                         int64_t rows, int64_t cols, const void *ratio);
void bl__rescale_gradient(int32_t dtype, void *dots, void *to, int64_t ldto,
                          const void *dy, int64_t lddy, const void *kept, int64_t ldkept,
                          int64_t rows, int64_t cols, const void *ratio);
void bl__subtract(int32_t dtype, void *a, int64_t lda, const void *b, int64_t ldb,
                  int64_t rows, int64_t cols);

/* ----- score.c ----- */

/* g = mass softmax(s / tau) over the ranks that are not removed; removed ones get 0. */
void bl__score_importance(int32_t dtype, const void *s, const uint8_t *removed, int64_t r,
                          double mass, double tau, double *g);
/* ds[i] += g_i (dg_i - (g . dg) / mass) / tau */
void bl__score_backward(int32_t dtype, void *ds, const double *g, const double *dg,
                        int64_t r, double mass, double tau);

/* ----- adamw.c ----- */

struct bl__adamw {
    double grad_scale;
    double beta1, beta2, epsilon;
    double keep;         /* 1 - lr wd          */
    double step;         /* lr / (1 - beta1^t) */
    double inverse_root; /* 1 / sqrt(1 - beta2^t) */
};

struct bl__adamw bl__adamw_at(const bl_options *options, int64_t t, double lr,
                              double grad_scale);
/* One step over p, m, v, gradient [count]. */
void bl__adamw(int32_t dtype, const struct bl__adamw *a, int64_t count, void *p, void *m,
               void *v, const void *gradient);

/* ----- sensitivity.c ----- */

/* AdaLoRA's averages over [count]: I = |p scale gradient|,
 *     average = beta1 average + (1 - beta1) I
 *     uncertainty = beta2 uncertainty + (1 - beta2) |I - average| */
void bl__sensitivity(int32_t dtype, const bl_options *options, double scale,
                     int64_t count, void *average, void *uncertainty, const void *p,
                     const void *gradient);
/* Mean over [count] of average * uncertainty. */
double bl__sensitivity_mean(int32_t dtype, const void *average, const void *uncertainty,
                            int64_t count);
/* How many ranks AdaLoRA's budget masks after step t, of `initial` that go down to
 * `target`; -1: none is due. */
int64_t bl__sensitivity_masked(const bl_options *options, int64_t t, int64_t initial,
                               int64_t target);

/* ----- schedule.c: all with options whose (auto) values are worked out ----- */

int    bl__schedule_due(const bl_options *options, int64_t t);
int    bl__schedule_snapshot_due(const bl_options *options, int64_t t);
double bl__schedule_threshold(const bl_options *options, int64_t t);
/* How many of a module's `alive` ranks, of `rank`, may be pruned at once. */
int64_t bl__schedule_cap(const bl_options *options, int64_t rank, int64_t alive);
/* 0, or BL_E_OPTIONS with the reason why no rank would ever be reallocated; where there is
 * room to grow ranks come also if none goes. */
int bl__schedule_check(const bl_options *options, int64_t largest_rank, int room);

#endif
