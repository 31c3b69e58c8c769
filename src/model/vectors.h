/* Loops for vector instructions wider than those that every processor has. */
#ifndef BEAMLORA_SRC_VECTORS_H
#define BEAMLORA_SRC_VECTORS_H

#include <stdint.h> /* and with it __GLIBC__ */

/* The same loop for every width of vectors, one of which is taken when the program starts.
 * No sum depends on the width: what is added up is so in LANES sums, and nothing is fused. */
/* Not with clang: clones of its version 14 are not found by other files. */
#if defined(BEAMLORA_CLONES) && defined(__x86_64__) && defined(__GLIBC__) &&             \
    defined(__has_attribute) && !defined(__clang__)
#if __has_attribute(target_clones)
#define VECTORS __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#endif
#ifndef VECTORS
#define VECTORS
#endif

#define LANES 16

#endif
