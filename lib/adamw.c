/*
 * AdamW as PyTorch defines it (decoupled decay, Loshchilov & Hutter, arXiv 1711.05101):
 * one fused pass that reads p, m, v and the gradient and writes p, m, v. Bias
 * corrections are computed in double once per step, elements in their own precision.
 */
#include <math.h>

#include "formulas.h"
#include "vectors.h"

struct bl__adamw bl__adamw_at(const bl_options *options, int64_t t, double lr,
                              double grad_scale)
{
    const double bias1 = 1 - pow(options->beta1, (double) t);
    const double bias2 = 1 - pow(options->beta2, (double) t);
    return (struct bl__adamw){
        .grad_scale = grad_scale,
        .beta1 = options->beta1,
        .beta2 = options->beta2,
        .epsilon = options->epsilon,
        .keep = 1 - lr * options->weight_decay,
        .step = lr / bias1,
        .inverse_root = 1 / sqrt(bias2),
    };
}

BL__VECTORS static void adamw_f32(const struct bl__adamw *a, int64_t count,
                                  float *restrict p, float *restrict m, float *restrict v,
                                  const float *restrict gradient)
{
    const float scale = (float) a->grad_scale;
    const float beta1 = (float) a->beta1;
    const float beta2 = (float) a->beta2;
    const float rest1 = (float) (1 - a->beta1);
    const float rest2 = (float) (1 - a->beta2);
    const float keep = (float) a->keep;
    const float step = (float) a->step;
    const float root = (float) a->inverse_root;
    const float epsilon = (float) a->epsilon;
    for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i] * scale;
        m[i] = beta1 * m[i] + rest1 * g;
        v[i] = beta2 * v[i] + rest2 * g * g;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) * root + epsilon);
    }
}

BL__VECTORS static void adamw_f64(const struct bl__adamw *a, int64_t count,
                                  double *restrict p, double *restrict m,
                                  double *restrict v, const double *restrict gradient)
{
    for (int64_t i = 0; i < count; i++) {
        const double g = gradient[i] * a->grad_scale;
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * g;
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * g * g;
        p[i] =
            p[i] * a->keep - a->step * m[i] / (sqrt(v[i]) * a->inverse_root + a->epsilon);
    }
}

void bl__adamw(int32_t dtype, const struct bl__adamw *a, int64_t count, void *p, void *m,
               void *v, const void *gradient)
{
    if (dtype == BL_F32) {
        adamw_f32(a, count, p, m, v, gradient);
    } else {
        adamw_f64(a, count, p, m, v, gradient);
    }
}
