/*
 * The score vector: importance g = mass softmax(s / tau), mass being r unless ranks came
 * and went, and the gradient through it (docs/method.md, equations 2 and 7). In double.
 */
#include <math.h>

#include "formulas.h"

void bl__score_importance(int32_t dtype, const void *s, const uint8_t *removed, int64_t r,
                          double mass, double tau, double *g)
{
    double most = -INFINITY;
    for (int64_t i = 0; i < r; i++) {
        if (!removed[i]) {
            most = fmax(most, bl__get(dtype, s, i));
        }
    }
    double sum = 0;
    for (int64_t i = 0; i < r; i++) {
        g[i] = removed[i] ? 0 : exp((bl__get(dtype, s, i) - most) / tau);
        sum += g[i];
    }
    for (int64_t i = 0; i < r; i++) {
        g[i] *= mass / sum;
    }
}

void bl__score_backward(int32_t dtype, void *ds, const double *g, const double *dg,
                        int64_t r, double mass, double tau)
{
    double dot = 0;
    for (int64_t i = 0; i < r; i++) {
        dot += g[i] * dg[i];
    }
    for (int64_t i = 0; i < r; i++) {
        const double gradient = g[i] * (dg[i] - dot / mass) / tau;
        bl__set(dtype, ds, i, bl__get(dtype, ds, i) + gradient);
    }
}
