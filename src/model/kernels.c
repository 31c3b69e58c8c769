/* RMSNorm and rotary positions; see kernels.h. */
#include "model/kernels.h"

#include <math.h>
#include <stddef.h>

#include "model/vectors.h"

/* ===== RMSNorm ============================================================ */

static double sum_lanes(const double *sums)
{
    double sum = 0;

    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
    }
    return sum;
}

VECTORS
void rmsnorm_again(float *y, const float *inverse, const float *x, const float *w,
                   int64_t n, int64_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        float r = inverse[i];
        for (int64_t j = 0; j < dim; j++) {
            y[i * dim + j] = w[j] * (r * x[i * dim + j]);
        }
    }
}

VECTORS
static double squares(const float *x, int64_t count)
{
    double  sums[LANES] = { 0 };
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            sums[j] += (double) x[i + j] * x[i + j];
        }
    }
    for (int j = 0; i < count; i++, j++) {
        sums[j] += (double) x[i] * x[i];
    }
    return sum_lanes(sums);
}

void rmsnorm_forward(float *y, float *inverse, const float *x, const float *w, int64_t n,
                     int64_t dim, double epsilon)
{
    for (int64_t i = 0; i < n; i++) {
        double mean = squares(x + i * dim, dim) / (double) dim;
        float  r = (float) (1.0 / sqrt(mean + epsilon));

        rmsnorm_again(y + i * dim, &r, x + i * dim, w, 1, dim);
        if (inverse) {
            inverse[i] = r;
        }
    }
}

/* sum of w dy x */
VECTORS
static double triple_dot(const float *w, const float *dy, const float *x, int64_t count)
{
    double  sums[LANES] = { 0 };
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            sums[j] += (double) w[i + j] * dy[i + j] * x[i + j];
        }
    }
    for (int j = 0; i < count; i++, j++) {
        sums[j] += (double) w[i] * dy[i] * x[i];
    }
    return sum_lanes(sums);
}

/* With r = 1 / rms:  dx_j = r w_j dy_j - x_j (r^3 / dim) sum_k w_k dy_k x_k */
VECTORS
void rmsnorm_backward(float *dx, const float *dy, const float *inverse, const float *x,
                      const float *w, int64_t n, int64_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        const float *xi = x + i * dim, *dyi = dy + i * dim;
        double       dot = triple_dot(w, dyi, xi, dim);
        float        r = inverse[i];
        float        pull = (float) (dot * r * r * r / (double) dim);
        for (int64_t j = 0; j < dim; j++) {
            dx[i * dim + j] += r * w[j] * dyi[j] - pull * xi[j];
        }
    }
}

/* dw_j += sum_i dy_ij x_ij / rms_i, in double, a stripe of columns at a time */
VECTORS
void rmsnorm_weight_backward(float *dw, const float *dy, const float *inverse,
                             const float *x, int64_t n, int64_t dim)
{
    enum { STRIPE = 32 };

    for (int64_t first = 0; first < dim; first += STRIPE) {
        int64_t width = dim - first < STRIPE ? dim - first : STRIPE;
        double  sums[STRIPE] = { 0 };

        for (int64_t i = 0; i < n; i++) {
            const float *xi = x + i * dim + first, *dyi = dy + i * dim + first;
            for (int64_t j = 0; j < width; j++) {
                sums[j] += (double) dyi[j] * (inverse[i] * xi[j]);
            }
        }
        for (int64_t j = 0; j < width; j++) {
            dw[first + j] += (float) sums[j];
        }
    }
}

/* ===== Rotary positions =================================================== */

double rope_frequency(int64_t i, int64_t head_dim, double theta,
                      const struct rope_scaling *scaling)
{
    const double two_pi = 6.283185307179586;
    double       frequency = pow(theta, -2.0 * (double) i / (double) head_dim);
    double       waves, share; /* in the old context; of the frequency that stays */

    if (scaling->factor == 0) {
        return frequency;
    }
    waves = scaling->context * frequency / two_pi;
    share = (waves - scaling->low) / (scaling->high - scaling->low);
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    return share * frequency + (1 - share) * frequency / scaling->factor;
}

void rope_table(float *table, int64_t positions, int64_t head_dim, double theta,
                const struct rope_scaling *scaling)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        double frequency = rope_frequency(i, head_dim, theta, scaling);
        for (int64_t t = 0; t < positions; t++) {
            double angle = (double) t * frequency;
            table[t * head_dim + 2 * i] = (float) cos(angle);
            table[t * head_dim + 2 * i + 1] = (float) sin(angle);
        }
    }
}

VECTORS
void rope_rotate(float *x, const float *table, int64_t first, int64_t n, int64_t length,
                 int64_t heads, int64_t head_dim, int interleaved, int direction)
{
    int64_t half = head_dim / 2;
    int64_t step = interleaved ? 2 : 1;     /* from one pair to the next  */
    int64_t apart = interleaved ? 1 : half; /* from a pair's first to its second */
    float   sign = direction < 0 ? -1.0f : 1.0f;

    for (int64_t row = first; row < first + n; row++) {
        const float *turn = table + row % length * head_dim;
        for (int64_t h = 0; h < heads; h++) {
            float *head = x + (row * heads + h) * head_dim;
            for (int64_t i = 0; i < half; i++) {
                float c = turn[2 * i], s = sign * turn[2 * i + 1];
                float a = head[i * step], b = head[i * step + apart];
                head[i * step] = a * c - b * s;
                head[i * step + apart] = a * s + b * c;
            }
        }
    }
}
