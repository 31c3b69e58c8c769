/*
 * A matrix as its file has it, and the products with it. Weights of 16 bits stay so
 * in memory: a block of rows at a time becomes float in a scratch that fits a cache.
 */
#ifndef BEAMLORA_SRC_WEIGHT_H
#define BEAMLORA_SRC_WEIGHT_H

#include <stdint.h>

struct threads;

struct weight {
    const void *data;  /* [out, in] row-major, any alignment */
    int32_t     dtype; /* BL_F32, BL_F16 or BL_BF16          */
};

/* scratch of the products below: [threads, WEIGHT_BLOCK_ROWS, columns] */
#define WEIGHT_BLOCK_ROWS 128

/* Whether the weight is a matrix of floats as it is. */
int weight_in_place(const struct weight *weight);

/* Rows from .. from + rows - 1 as floats: in place if they are, else in scratch, which
 * has room for so many rows. */
const float *weight_rows(const struct weight *weight, int64_t from, int64_t rows,
                         int64_t columns, float *scratch);

/* The products are cut for the threads (NULL: the caller's), each of which calls the BLAS.
 * y [n, out] = x [n, in] w^T */
void weight_forward(struct threads *threads, float *y, const float *x,
                    const struct weight *weight, int64_t n, int64_t out, int64_t in,
                    float *scratch);
/* dx [n, in] = keep dx + dy [n, out] w, keep 0 or 1 */
void weight_backward(struct threads *threads, float *dx, const float *dy,
                     const struct weight *weight, int64_t n, int64_t out, int64_t in,
                     int keep, float *scratch);
/* dw [out, in] += dy [n, out]^T x [n, in] */
void weight_gradient(struct threads *threads, float *dw, const float *dy, const float *x,
                     int64_t n, int64_t out, int64_t in);

#endif
