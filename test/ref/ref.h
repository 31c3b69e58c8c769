/*
 * The method once more, plainly: loops over packed double arrays, nothing shared with
 * lib/. Slow on purpose. Everything is static inline, so that a suite only includes it.
 *
 *     A [r, in]   B [r, out] (transposed, as in views)   x [n, in]   y [n, out]
 */
#ifndef BEAMLORA_TEST_REF_H
#define BEAMLORA_TEST_REF_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ===== Score ============================================================== */

/* g = r softmax(s / tau); removed (may be NULL) ranks are out of it. */
static inline void ref_importance(int64_t r, const double *s, double tau,
                                  const uint8_t *removed, double *g)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < r; i++) {
        if (!(removed && removed[i]) && s[i] > top) {
            top = s[i];
        }
    }
    for (int64_t i = 0; i < r; i++) {
        g[i] = removed && removed[i] ? 0 : exp((s[i] - top) / tau);
        sum += g[i];
    }
    for (int64_t i = 0; i < r; i++) {
        g[i] *= (double) r / sum;
    }
}

/* ===== Forward and backward =============================================== */

typedef struct ref_shape {
    int64_t n, in, out, r;
    double  c, tau;
} ref_shape;

/* drop: [n, in] factors on x, or NULL. h [n, r] written. y accumulated. */
static inline void ref_forward(const ref_shape *z, const double *a, const double *b,
                               const double *g, const double *x, const double *drop,
                               double *h, double *y)
{
    for (int64_t t = 0; t < z->n; t++) {
        for (int64_t k = 0; k < z->r; k++) {
            double sum = 0;
            for (int64_t j = 0; j < z->in; j++) {
                sum += x[t * z->in + j] * (drop ? drop[t * z->in + j] : 1) *
                       a[k * z->in + j];
            }
            h[t * z->r + k] = sum;
        }
        for (int64_t o = 0; o < z->out; o++) {
            double sum = 0;
            for (int64_t k = 0; k < z->r; k++) {
                sum += h[t * z->r + k] * g[k] * b[k * z->out + o];
            }
            y[t * z->out + o] += z->c * sum;
        }
    }
}

/* da, db, ds, dx accumulated; ds may be NULL. */
static inline void ref_backward(const ref_shape *z, const double *a, const double *b,
                                const double *g, const double *x, const double *drop,
                                const double *h, const double *dy, double *da, double *db,
                                double *ds, double *dx)
{
    double *dg = calloc((size_t) z->r, sizeof *dg);
    for (int64_t t = 0; t < z->n; t++) {
        for (int64_t k = 0; k < z->r; k++) {
            double d = 0;
            for (int64_t o = 0; o < z->out; o++) {
                d += z->c * dy[t * z->out + o] * b[k * z->out + o];
                db[k * z->out + o] += z->c * dy[t * z->out + o] * h[t * z->r + k] * g[k];
            }
            dg[k] += d * h[t * z->r + k];
            for (int64_t j = 0; j < z->in; j++) {
                double m = drop ? drop[t * z->in + j] : 1;
                da[k * z->in + j] += d * g[k] * m * x[t * z->in + j];
                dx[t * z->in + j] += m * d * g[k] * a[k * z->in + j];
            }
        }
    }
    double dot = 0;
    for (int64_t k = 0; k < z->r; k++) {
        dot += g[k] * dg[k];
    }
    for (int64_t k = 0; ds && k < z->r; k++) {
        ds[k] += g[k] * (dg[k] - dot / (double) z->r) / z->tau;
    }
    free(dg);
}

/* ===== AdamW ============================================================== */

typedef struct ref_adamw {
    double lr, beta1, beta2, epsilon, weight_decay, grad_scale;
} ref_adamw;

/* Step number t, from 1. */
static inline void ref_step(const ref_adamw *o, int64_t t, int64_t count, double *p,
                            double *m, double *v, const double *grad)
{
    for (int64_t i = 0; i < count; i++) {
        double gr = o->grad_scale * grad[i];
        p[i] -= o->lr * o->weight_decay * p[i];
        m[i] = o->beta1 * m[i] + (1 - o->beta1) * gr;
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * gr * gr;
        double c1 = 1 - pow(o->beta1, (double) t), c2 = 1 - pow(o->beta2, (double) t);
        p[i] -= o->lr / c1 * m[i] / (sqrt(v[i] / c2) + o->epsilon);
    }
}

/* ===== Schedule =========================================================== */

enum { REF_CONSTANT, REF_LINEAR, REF_COSINE };

static inline double ref_threshold(int64_t t, int64_t start, int64_t steps,
                                   double p_start, double p_end, int curve)
{
    double u = (double) (t - 1 - start) / (double) steps;
    u = u > 1 ? 1 : u;
    if (curve == REF_LINEAR) {
        return p_start + (p_end - p_start) * u;
    }
    if (curve == REF_COSINE) {
        return p_end - (p_end - p_start) * (1 + cos(acos(-1.0) * u)) / 2;
    }
    return p_start;
}

static inline int ref_due(int64_t t, int64_t start, int64_t period, int64_t total)
{
    return t > start && (t - start) % period == 0 && t <= total - period;
}

static inline int ref_snapshot_due(int64_t t, int64_t start, int64_t phase,
                                   int64_t interval)
{
    return t > start && (t - start - phase) % interval == 0;
}

/* ===== Reallocation ======================================================= */

#define REF_RANKS 64 /* of a module, at most */
#define REF_LIST 512 /* ranks in all, at most */

typedef struct ref_entry {
    double  value;
    int64_t module, rank;
} ref_entry;

/* Importance descending, then module, then rank. */
static inline int ref_before(const ref_entry *a, const ref_entry *b)
{
    if (a->value != b->value) {
        return a->value > b->value;
    }
    return a->module != b->module ? a->module < b->module : a->rank < b->rank;
}

/* Insertion sort: no two entries are equal in this order. */
static inline void ref_sort(ref_entry *list, int64_t count)
{
    for (int64_t i = 1; i < count; i++) {
        ref_entry e = list[i];
        int64_t   j = i;
        for (; j > 0 && ref_before(&e, &list[j - 1]); j--) {
            list[j] = list[j - 1];
        }
        list[j] = e;
    }
}

/* How many of a sorted list fall behind the crossing entry. */
static inline int64_t ref_top_p(const ref_entry *list, int64_t count, double p,
                                int crossing_pruned)
{
    double total = 0, sum = 0;
    if (p >= 1) {
        return 0;
    }
    for (int64_t i = 0; i < count; i++) {
        total += list[i].value;
    }
    for (int64_t i = 0; i < count; i++) {
        sum += list[i].value;
        if (sum > p * total) {
            return count - i - (crossing_pruned ? 0 : 1);
        }
    }
    return 0;
}

/*
 * Numbers pruned in each module, counts[modules], before idle. importance:
 * [modules][REF_RANKS].
 */
static inline void ref_counts(int64_t modules, const int64_t               *ranks,
                              const double (*importance)[REF_RANKS], double p, int joint,
                              int crossing_pruned, double fraction, int64_t *counts)
{
    ref_entry list[REF_LIST];
    int64_t   fill = 0;
    for (int64_t m = 0; m < modules; m++) {
        counts[m] = 0;
        for (int64_t i = 0; i < ranks[m]; i++) {
            list[fill++] = (ref_entry){ importance[m][i], m, i };
        }
        if (!joint) {
            ref_sort(list, fill);
            counts[m] = ref_top_p(list, fill, p, crossing_pruned);
            fill = 0;
        }
    }
    if (joint) {
        ref_sort(list, fill);
        int64_t pruned = ref_top_p(list, fill, p, crossing_pruned);
        for (int64_t i = fill - pruned; i < fill; i++) {
            counts[list[i].module]++;
        }
    }
    for (int64_t m = 0; m < modules; m++) {
        int64_t cap = (int64_t) floor(fraction * (double) ranks[m]);
        cap = cap > ranks[m] - 1 ? ranks[m] - 1 : cap;
        counts[m] = counts[m] > cap ? cap : counts[m];
    }
}

/*
 * The ranks pruned in one module, ascending, and with ordered pairing their sources:
 * the k-th pruned by index takes the k-th best.
 */
static inline void ref_pairs(int64_t r, const double *importance, int64_t count,
                             int64_t *pruned, int64_t *sources)
{
    ref_entry list[REF_RANKS];
    int64_t   fill = 0;
    for (int64_t i = 0; i < r; i++) {
        list[i] = (ref_entry){ importance[i], 0, i };
    }
    ref_sort(list, r);
    for (int64_t i = 0; i < r; i++) {
        for (int64_t k = r - count; k < r; k++) {
            if (list[k].rank == i) {
                pruned[fill++] = i;
            }
        }
    }
    for (int64_t k = 0; k < count; k++) {
        sources[k] = list[k].rank;
    }
}

/* |b_i| |a_i| of one rank. */
static inline double ref_size(const double *a, const double *b, int64_t in, int64_t out,
                              int64_t i)
{
    double aa = 0, bb = 0;
    for (int64_t j = 0; j < in; j++) {
        aa += a[i * in + j] * a[i * in + j];
    }
    for (int64_t j = 0; j < out; j++) {
        bb += b[i * out + j] * b[i * out + j];
    }
    return sqrt(aa) * sqrt(bb);
}

#endif
