/*
 * Element-wise loops that a processor's wider vectors make faster are compiled once more
 * for them, and one is chosen when the library is loaded. With the same bits: no sum has
 * another order, and a * b + c is not fused. Where the loader cannot choose there is one.
 */
#ifndef BEAMLORA_LIB_VECTORS_H
#define BEAMLORA_LIB_VECTORS_H

#include <limits.h> /* __GLIBC__ */

/* Not with clang: clones of its version 14 are not found by other files. */
#if defined(BEAMLORA_CLONES) && defined(__x86_64__) && defined(__GLIBC__) &&             \
    defined(__has_attribute) && !defined(__clang__)
#if __has_attribute(target_clones)
#define BL__VECTORS __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#endif
#ifndef BL__VECTORS
#define BL__VECTORS
#endif

#endif
