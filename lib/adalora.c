/*
 * AdaLoRA over a group (docs/method.md, "AdaLoRA"): the orthogonality penalty on A and B,
 * and after each step the averages that rate ranks and, if due, the allocation, which
 * masks the ranks of all modules that are rated lowest:
 *
 *     R = mean of |A A^T - I| and |B^T B - I|
 *     dR/dA = (A A^T - I) A / (modules |A A^T - I|)
 *
 * A mask sets E_i = 0 once; from the next step on E_i moves again, and may be kept by the
 * next allocation. Only the last mask stays: it is then put on after every step.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

int bl__is_adalora(const bl_group *group)
{
    return group->options.method == BL_METHOD_ADALORA;
}

static void *at(const bl_group *group, int32_t buffer, int64_t offset)
{
    return bl__at(group->dtype, group->buffers[buffer].data, offset);
}

/* ----- penalty ----- */

int bl__lacks_penalty(const bl_group *group)
{
    return bl__is_adalora(group) && group->options.orth_reg_weight > 0 &&
           !group->penalised;
}

/* |P| with P = M M^T - I, M [rank, cols], and factor / |P| times P M to the gradient. */
static double penalise(const bl_adapter *adapter, int64_t offset, int64_t cols,
                       double factor)
{
    const bl_group *const group = adapter->group;
    const int32_t         dtype = group->dtype;
    const int64_t         r = adapter->rank;
    void *const           p = group->penalty_gram;
    const void *const     m = at(group, BL_BUFFER_PARAMETERS, offset);
    bl__gemm(dtype, 0, 1, r, r, cols, 1, m, cols, m, cols, 0, p, r);
    for (int64_t i = 0; i < r; i++) {
        bl__set(dtype, p, i * r + i, bl__get(dtype, p, i * r + i) - 1);
    }
    const double norm = sqrt(bl__sum_squares(dtype, p, r * r));
    /* where the norm has no gradient 0 is one of its subgradients */
    if (factor != 0 && norm != 0) {
        bl__gemm(dtype, 0, 0, r, cols, r, factor / norm, p, r, m, cols, 1,
                 at(group, BL_BUFFER_GRADIENTS, offset), cols);
    }
    return norm;
}

int bl_group_add_penalty(bl_group *group, double scale)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    if (!(fabs(scale) < bl__largest(group->dtype))) {
        return bl__fail(BL_E_RANGE,
                        "scale is %g, must be finite in the parameters' dtype", scale);
    }
    if (group->penalised) {
        return bl__fail(BL_E_STATE, "the penalty has been added since the last step");
    }
    if (!bl__lacks_penalty(group)) {
        return 0;
    }
    const double weight = group->options.orth_reg_weight;
    bl__group_settle_gradients(group);
    const double modules = (double) group->count;
    double       sum = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        const double            factor = adapter->frozen ? 0 : scale * weight / modules;
        sum += penalise(adapter, adapter->a, adapter->in, factor);
        sum += penalise(adapter, adapter->b, adapter->out, factor);
    }
    group->penalty = weight * sum / (2 * modules);
    group->penalised = 1;
    return 0;
}

double bl_group_get_penalty(const bl_group *group)
{
    return group->penalty;
}

/* ----- allocation ----- */

struct pass {
    bl_group *group;
    double    grad_scale;
};

static void average_adapter(void *context, int64_t i)
{
    const struct pass *const pass = context;
    const bl_group *const    group = pass->group;
    const bl_adapter *const  adapter = &group->adapters[i];
    if (!adapter->frozen) {
        bl__sensitivity(group->dtype, &group->options, pass->grad_scale,
                        adapter->magnitude - adapter->a,
                        at(group, BL_BUFFER_SENSITIVITY, adapter->a),
                        at(group, BL_BUFFER_UNCERTAINTY, adapter->a),
                        at(group, BL_BUFFER_PARAMETERS, adapter->a),
                        at(group, BL_BUFFER_GRADIENTS, adapter->a));
    }
}

static double rate(const bl_group *group, int64_t offset, int64_t count)
{
    return bl__sensitivity_mean(group->dtype, at(group, BL_BUFFER_SENSITIVITY, offset),
                                at(group, BL_BUFFER_UNCERTAINTY, offset), count);
}

/* A rank's rating: its E's, and the means over its rows of A and B. */
static double rate_rank(const bl_adapter *adapter, int64_t rank)
{
    const bl_group *const group = adapter->group;
    const double          rating = rate(group, adapter->s + rank, 1) +
                          rate(group, adapter->a + rank * adapter->in, adapter->in) +
                          rate(group, adapter->b + rank * adapter->out, adapter->out);
    return rating < INFINITY ? rating : INFINITY; /* NaN would be in no order */
}

/* Ranks and modules that are not frozen. */
static int64_t count_ranks(const bl_group *group, int64_t *modules)
{
    int64_t ranks = 0;
    *modules = 0;
    for (int64_t i = 0; i < group->count; i++) {
        if (!group->adapters[i].frozen) {
            ranks += group->adapters[i].rank;
            (*modules)++;
        }
    }
    return ranks;
}

/* Mark the lowest of all ranks as removed, exactly as many as the budget wants: of equal
 * ones the last by module and index. */
static void allocate(bl_group *group, int64_t ranks, int64_t masked)
{
    struct bl__entry *const entries = group->plan->entries;
    int64_t                 count = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        for (int64_t k = 0; k < adapter->rank && !adapter->frozen; k++) {
            entries[count++] = (struct bl__entry){
                .importance = rate_rank(adapter, k),
                .module = i,
                .rank = k,
            };
        }
    }
    bl__entries_sort(entries, count);
    for (int64_t i = 0; i < ranks; i++) {
        const bl_adapter *const adapter = &group->adapters[entries[i].module];
        group->removed[adapter->first_rank + entries[i].rank] = i >= ranks - masked;
    }
}

static void mask(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        for (int64_t k = 0; k < adapter->rank && !adapter->frozen; k++) {
            if (group->removed[adapter->first_rank + k]) {
                bl__set(group->dtype, at(group, BL_BUFFER_PARAMETERS, adapter->s), k, 0);
            }
        }
    }
}

void bl__adalora_advance(bl_group *group, double grad_scale)
{
    const bl_options *const o = &group->options;
    const int64_t           last = o->total_steps - o->tfinal;
    int64_t                 modules;
    const int64_t           ranks = count_ranks(group, &modules);
    const int64_t           target = modules * o->target_rank;
    struct pass             pass = { .group = group, .grad_scale = grad_scale };
    if (group->t < last) {
        bl__group_settle_gradients(group);
        bl__parallel_for(group, group->count, average_adapter, &pass);
    }
    const int64_t masked =
        bl__sensitivity_masked(o, group->t, ranks, target < ranks ? target : ranks);
    if (masked >= 0) {
        allocate(group, ranks, masked);
    }
    if (masked >= 0 || group->t > last) {
        mask(group);
    }
    if (group->t == last) {
        const size_t bytes = (size_t) group->elements * bl__dtype_bytes(group->dtype);
        memset(group->buffers[BL_BUFFER_SENSITIVITY].data, 0, bytes);
        memset(group->buffers[BL_BUFFER_UNCERTAINTY].data, 0, bytes);
    }
}
