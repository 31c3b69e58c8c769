/*
 * One BeamLoRA layer as a good engineer writes it in an afternoon: two whole products
 * forward and four backward, B as [out, r], scores on the [n, r] intermediates. And its
 * floor: a pass over memory that reads and writes what any implementation must, once.
 */
#include <math.h>
#include <stdlib.h>

#include <cblas.h>

#include "bench.h"

enum { PEAK = 640 }; /* side of the square matrices of the peak */

struct layer *layer_create(int64_t n, int64_t in, int64_t out, int64_t rank)
{
    struct layer *const l = machine_memory(sizeof *l);
    const float         small = 1 / sqrtf((float) in);
    *l = (struct layer){ .n = n, .in = in, .out = out, .rank = rank };
    l->scaling = 16.0f / (float) rank;
    l->x = machine_noise(n * in, 1, 1);
    l->y = machine_noise(n * out, 2, 1);
    l->dx = machine_noise(n * in, 3, 1);
    l->dy = machine_noise(n * out, 4, 1e-3f);
    l->a = machine_noise(rank * in, 5, small);
    l->b = machine_noise(rank * out, 6, small);
    l->s = machine_noise(rank, 7, 0.01f);
    l->da = machine_noise(rank * in, 8, small);
    l->db = machine_noise(rank * out, 9, small);
    l->ds = machine_noise(rank, 10, small);
    l->h = machine_noise(n * rank, 11, 1);
    l->hg = machine_noise(n * rank, 12, 1);
    l->d = machine_noise(n * rank, 13, 1);
    l->peak = machine_noise((int64_t) machine_threads() * 3 * PEAK * PEAK, 14, 1);
    l->g = machine_memory((size_t) rank * sizeof *l->g);
    return l;
}

void layer_free(struct layer *l)
{
    void *const arrays[] = { l->x,  l->y,  l->dx, l->dy, l->a, l->b, l->s,   l->da,
                             l->db, l->ds, l->h,  l->hg, l->d, l->g, l->peak };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        free(arrays[i]);
    }
    free(l);
}

/* ----- whole calls ----- */

static const double temperature = 0.05;

static void importance(struct layer *l)
{
    double sum = 0;
    double most = l->s[0];
    for (int64_t i = 1; i < l->rank; i++) {
        most = fmax(most, l->s[i]);
    }
    for (int64_t i = 0; i < l->rank; i++) {
        l->g[i] = exp(((double) l->s[i] - most) / temperature);
        sum += l->g[i];
    }
    for (int64_t i = 0; i < l->rank; i++) {
        l->g[i] *= (double) l->rank / sum;
    }
}

static void scale(float *to, const float *from, const struct layer *l)
{
    for (int64_t i = 0; i < l->n; i++) {
        for (int64_t k = 0; k < l->rank; k++) {
            to[i * l->rank + k] = from[i * l->rank + k] * (float) l->g[k];
        }
    }
}

static void multiply(enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, int64_t m,
                     int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, ta, tb, (int) m, (int) n, (int) k, alpha, a, (int) lda, b,
                (int) ldb, beta, c, (int) ldc);
}

void layer_bare_forward(struct layer *l)
{
    const int64_t n = l->n, in = l->in, out = l->out, r = l->rank;
    importance(l);
    multiply(CblasNoTrans, CblasTrans, n, r, in, 1, l->x, in, l->a, in, 0, l->h, r);
    scale(l->hg, l->h, l);
    multiply(CblasNoTrans, CblasTrans, n, out, r, l->scaling, l->hg, r, l->b, r, 1, l->y,
             out);
}

void layer_bare_backward(struct layer *l)
{
    const int64_t n = l->n, in = l->in, out = l->out, r = l->rank;
    double        dg[1024], sum = 0;
    multiply(CblasNoTrans, CblasNoTrans, n, r, out, l->scaling, l->dy, out, l->b, r, 0,
             l->d, r);
    multiply(CblasTrans, CblasNoTrans, out, r, n, l->scaling, l->dy, out, l->hg, r, 0,
             l->db, r);
    for (int64_t k = 0; k < r; k++) {
        dg[k] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < r; k++) {
            dg[k] += (double) l->d[i * r + k] * (double) l->h[i * r + k];
        }
    }
    scale(l->d, l->d, l);
    multiply(CblasTrans, CblasNoTrans, r, in, n, 1, l->d, r, l->x, in, 0, l->da, in);
    multiply(CblasNoTrans, CblasNoTrans, n, in, r, 1, l->d, r, l->a, in, 1, l->dx, in);
    for (int64_t k = 0; k < r; k++) {
        sum += l->g[k] * dg[k];
    }
    for (int64_t k = 0; k < r; k++) {
        l->ds[k] = (float) (l->g[k] * (dg[k] - sum / (double) r) / temperature);
    }
}

/* ----- floor ----- */

enum { LANES = 64, PARTS = 16 };

struct range {
    const float *from;
    float       *to;
    int64_t      count;
    float        sums[PARTS];
};

static void read_part(void *context, int64_t part)
{
    struct range *const range = context;
    const int64_t       end = range->count * (part + 1) / PARTS;
    float               sums[LANES] = { 0 };
    for (int64_t i = range->count * part / PARTS; i + LANES <= end; i += LANES) {
        for (int64_t k = 0; k < LANES; k++) {
            sums[k] += range->from[i + k];
        }
    }
    range->sums[part] = 0;
    for (int64_t k = 0; k < LANES; k++) {
        range->sums[part] += sums[k];
    }
}

static void update_part(void *context, int64_t part)
{
    struct range *const range = context;
    float *const        to = range->to;
    const int64_t       end = range->count * (part + 1) / PARTS;
    for (int64_t i = range->count * part / PARTS; i < end; i++) {
        to[i] *= 0.9999f;
    }
}

static void write_part(void *context, int64_t part)
{
    struct range *const range = context;
    float *const        to = range->to;
    const int64_t       end = range->count * (part + 1) / PARTS;
    for (int64_t i = range->count * part / PARTS; i < end; i++) {
        to[i] = 1;
    }
}

/* On all threads, but not where starting them takes longer. */
static void for_parts(struct range *range, bl_task_fn task)
{
    if (range->count >= 65536) {
        machine_parallel_for(NULL, PARTS, task, range);
        return;
    }
    for (int64_t i = 0; i < PARTS; i++) {
        task(range, i);
    }
}

/* volatile: what was read is used */
static volatile float sink;

void memory_read(const float *from, int64_t count)
{
    struct range range = { .from = from, .count = count };
    for_parts(&range, read_part);
    for (int64_t i = 0; i < PARTS; i++) {
        sink = range.sums[i];
    }
}

void memory_update(float *to, int64_t count)
{
    struct range range = { .to = to, .count = count };
    for_parts(&range, update_part);
}

void memory_write(float *to, int64_t count)
{
    struct range range = { .to = to, .count = count };
    for_parts(&range, write_part);
}

void layer_floor_forward(struct layer *l)
{
    memory_read(l->x, l->n * l->in);
    memory_read(l->a, l->rank * l->in);
    memory_read(l->b, l->rank * l->out);
    memory_update(l->y, l->n * l->out);
}

void layer_floor_backward(struct layer *l)
{
    memory_read(l->dy, l->n * l->out);
    memory_read(l->x, l->n * l->in);
    memory_read(l->a, l->rank * l->in);
    memory_read(l->b, l->rank * l->out);
    memory_write(l->da, l->rank * l->in);
    memory_write(l->db, l->rank * l->out);
    memory_update(l->dx, l->n * l->in);
}

double layer_forward_flops(const struct layer *l)
{
    return 2.0 * (double) l->n * (double) l->rank * (double) (l->in + l->out);
}

double layer_backward_flops(const struct layer *l)
{
    return 2 * layer_forward_flops(l);
}

/* On arrays of a thread's own */
static void peak_part(void *context, int64_t part)
{
    float *const arrays = (float *) context + part * 3 * PEAK * PEAK;
    multiply(CblasNoTrans, CblasNoTrans, PEAK, PEAK, PEAK, 1, arrays, PEAK,
             arrays + PEAK * PEAK, PEAK, 0, arrays + 2 * PEAK * PEAK, PEAK);
}

void layer_peak(struct layer *l)
{
    machine_parallel_for(NULL, machine_threads(), peak_part, l->peak);
}

double layer_peak_flops(void)
{
    return 2.0 * PEAK * PEAK * PEAK * machine_threads();
}
