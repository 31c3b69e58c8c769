/*
 * AdaLoRA's formulas on plain arrays (docs/method.md, equations 18 to 20): how sensitive
 * the loss is to each parameter, how certain that is, and the budget of ranks over time.
 */
#include <math.h>

#include "formulas.h"

/* The same loop for both dtypes. */
#define DEFINE_AVERAGES(type, suffix, absolute)                                          \
    static void average_##suffix(type beta1, type beta2, type scale, int64_t count,      \
                                 type *restrict average, type *restrict uncertainty,     \
                                 const type *restrict p, const type *restrict gradient)  \
    {                                                                                    \
        for (int64_t i = 0; i < count; i++) {                                            \
            const type now = absolute(p[i] * (scale * gradient[i]));                     \
            average[i] = beta1 * average[i] + (1 - beta1) * now;                         \
            uncertainty[i] =                                                             \
                beta2 * uncertainty[i] + (1 - beta2) * absolute(now - average[i]);       \
        }                                                                                \
    }

DEFINE_AVERAGES(float, f32, fabsf)
DEFINE_AVERAGES(double, f64, fabs)

void bl__sensitivity(int32_t dtype, const bl_options *o, double scale, int64_t count,
                     void *average, void *uncertainty, const void *p,
                     const void *gradient)
{
    if (dtype == BL_F32) {
        average_f32((float) o->sensitivity_beta, (float) o->uncertainty_beta,
                    (float) scale, count, average, uncertainty, p, gradient);
    } else {
        average_f64(o->sensitivity_beta, o->uncertainty_beta, scale, count, average,
                    uncertainty, p, gradient);
    }
}

double bl__sensitivity_mean(int32_t dtype, const void *average, const void *uncertainty,
                            int64_t count)
{
    double sum = 0;
    bl__add_column_dots(dtype, &sum, average, 1, uncertainty, 1, count, 1);
    return sum / (double) count;
}

int64_t bl__sensitivity_masked(const bl_options *o, int64_t t, int64_t initial,
                               int64_t target)
{
    const int64_t last = o->total_steps - o->tfinal;
    if (t <= o->tinit || t > last || (t % o->delta_t != 0 && t != last)) {
        return -1;
    }
    const double left = 1 - (double) (t - o->tinit) / (double) (last - o->tinit);
    const double budget = (double) (initial - target) * pow(left, 3) + (double) target;
    return initial - (int64_t) budget;
}
