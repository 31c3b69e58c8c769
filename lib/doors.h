/*
 * The four doors of the library to the outside: error text, memory, random numbers
 * and the CBLAS. Everything above reaches them only through this header.
 */
#ifndef BEAMLORA_LIB_DOORS_H
#define BEAMLORA_LIB_DOORS_H

#include "beamlora.h"

/* ----- error.c ----- */

/* Set this thread's error text and return code. */
int bl__fail(int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* ----- alloc.c ----- */

/* The host's allocator, or malloc and free where `alloc` is NULL. */
struct bl__allocator {
    bl_alloc_fn alloc;
    bl_free_fn  free;
    void       *user;
};

#define BL__ALIGNMENT ((size_t) 64)

/* Zeroed memory aligned to BL__ALIGNMENT, or NULL; `bytes` may be 0. */
void *bl__alloc(const struct bl__allocator *allocator, size_t bytes);
void  bl__free(const struct bl__allocator *allocator, void *pointer);

/* What bl__alloc asks of the host for `bytes`. */
size_t bl__alloc_cost(size_t bytes);

/* a * b and a + b; SIZE_MAX when that does not fit, which no allocation survives. */
size_t bl__mul(size_t a, size_t b);
size_t bl__add(size_t a, size_t b);
size_t bl__round_up(size_t bytes); /* to BL__ALIGNMENT */

/* ----- random.c ----- */

/* What numbers are drawn for; a stream of its own each. */
enum bl__purpose {
    BL__DRAW_ADAPTER = 1,
    BL__DRAW_INIT,
    BL__DRAW_DROPOUT,
    BL__DRAW_FRESH,
    BL__DRAW_PAIRING,
    BL__DRAW_SELECT
};

/* Draws are functions of (key, index): nothing is stored, nothing to resume. */
uint64_t bl__random_key(uint64_t seed, enum bl__purpose purpose, uint64_t a, uint64_t b);
uint64_t bl__random_bits(uint64_t key, uint64_t index);
double   bl__random_unit(uint64_t key, uint64_t index);   /* [0, 1) */
double   bl__random_normal(uint64_t key, uint64_t index); /* mean 0, deviation 1 */

/* A random permutation of items[count] (Fisher-Yates). */
void bl__random_shuffle(uint64_t key, int64_t *items, int64_t count);

/* ----- blas.c ----- */

size_t bl__dtype_bytes(int32_t dtype);

/* c = alpha op(a) op(b) + beta c, row-major, op(a) [m, k], op(b) [k, n]. The caller has
 * checked that sizes and leading dimensions are at least 1 and fit an int. */
void bl__gemm(int32_t dtype, int transpose_a, int transpose_b, int64_t m, int64_t n,
              int64_t k, double alpha, const void *a, int64_t lda, const void *b,
              int64_t ldb, double beta, void *c, int64_t ldc);

/* Whether the CBLAS is known to do products of few rows, up to a million multiplications,
 * without copying their operands first. */
int bl__gemm_has_small(void);

#endif
