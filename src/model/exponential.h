/* Exponentials of arrays, to 1e-7 of each. */
#ifndef BEAMLORA_SRC_EXPONENTIAL_H
#define BEAMLORA_SRC_EXPONENTIAL_H

#include <stdint.h>

/* Sum of e^(x[i] - shift); the terms go to y, which may be x, or NULL. */
double exponentials(float *y, const float *x, int64_t count, float shift);

/* softmax in place; returns the log of the denominator */
float softmax(float *x, int64_t count);

#endif
