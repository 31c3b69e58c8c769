/* Floats to 16 bits, to nearest, ties to even. */
#ifndef BEAMLORA_SRC_ROUND_H
#define BEAMLORA_SRC_ROUND_H

#include <stdint.h>

/* Too large: infinity. NaN stays one. */
uint16_t round_to_bfloat(float value);
uint16_t round_to_half(float value);

/* A row as dtype BL_F32, BL_F16 or BL_BF16. -1: a value is not finite, or not in the type;
 * the first such is in *bad. */
int round_row(void *to, const float *from, int64_t count, int32_t dtype, float *bad);

#endif
