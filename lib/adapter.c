/*
 * One adapter: getters, views of its tensors, importance, masks and rank analysis.
 * Where its memory comes from is group.c's business.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

bl_group *bl_adapter_get_group(const bl_adapter *adapter)
{
    return adapter->group;
}

int64_t bl_adapter_get_in(const bl_adapter *adapter)
{
    return adapter->in;
}

int64_t bl_adapter_get_out(const bl_adapter *adapter)
{
    return adapter->out;
}

int64_t bl_adapter_get_rank(const bl_adapter *adapter)
{
    return adapter->rank;
}

int64_t bl_adapter_get_capacity(const bl_adapter *adapter)
{
    return adapter->capacity;
}

double bl_adapter_get_mass(const bl_adapter *adapter)
{
    return adapter->mass;
}

int64_t bl__adapter_cost(const bl_adapter *adapter)
{
    return adapter->in + adapter->out + 1;
}

void bl__adapter_clear(const bl_adapter *adapter, int32_t dtype, void *buffer,
                       int64_t from, int64_t to)
{
    for (int32_t which = BL_TENSOR_A; which <= BL_TENSOR_SCORES; which++) {
        int64_t       rows, cols;
        const int64_t offset = bl__tensor(adapter, which, &rows, &cols);
        const int64_t width = which == BL_TENSOR_SCORES ? 1 : cols; /* of a rank */
        if (offset >= 0) {
            memset(bl__at(dtype, buffer, offset + from * width), 0,
                   (size_t) ((to - from) * width) * bl__dtype_bytes(dtype));
        }
    }
}

double bl_adapter_get_scaling(const bl_adapter *adapter)
{
    return adapter->scaling;
}

int64_t bl_adapter_get_kept(const bl_adapter *adapter)
{
    const uint8_t *const removed = adapter->group->removed + adapter->first_rank;
    int64_t              kept = 0;
    for (int64_t i = 0; i < adapter->rank; i++) {
        kept += !removed[i];
    }
    return kept;
}

const char *bl_adapter_get_name(const bl_adapter *adapter)
{
    return adapter->name;
}

int bl_adapter_set_frozen(bl_adapter *adapter, int32_t frozen)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    if (frozen != 0 && frozen != 1) {
        return bl__fail(BL_E_RANGE, "frozen is %d, must be 0 or 1", (int) frozen);
    }
    adapter->frozen = frozen;
    adapter->group->frozen[adapter->index] = (uint8_t) frozen;
    adapter->has_gradient = 0;
    return 0;
}

int bl_adapter_set_mask(bl_adapter *adapter, const uint8_t *mask)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    for (int64_t i = 0; mask != NULL && i < adapter->rank; i++) {
        if (mask[i] > 1) {
            return bl__fail(BL_E_RANGE, "mask[%lld] is %d, must be 0 or 1", (long long) i,
                            (int) mask[i]);
        }
    }
    uint8_t *const own = adapter->group->mask + adapter->first_rank;
    for (int64_t i = 0; i < adapter->rank; i++) {
        own[i] = mask == NULL ? 1 : mask[i];
    }
    bl__adapter_changed(adapter);
    return 0;
}

int64_t bl__tensor(const bl_adapter *adapter, int32_t tensor, int64_t *rows,
                   int64_t *cols)
{
    *rows = adapter->rank;
    switch (tensor) {
    case BL_TENSOR_A:
        *cols = adapter->in;
        return adapter->a;
    case BL_TENSOR_B:
        *cols = adapter->out;
        return adapter->b;
    case BL_TENSOR_SCORES:
        *rows = 1;
        *cols = adapter->rank;
        return adapter->s == adapter->magnitude ? -1 : adapter->s;
    case BL_TENSOR_MAGNITUDE:
        *rows = 1;
        *cols = adapter->out;
        return bl__is_dora(adapter) ? adapter->magnitude : -1;
    default:
        return -1;
    }
}

int bl_adapter_get_view(bl_adapter *adapter, int32_t tensor, int32_t buffer, bl_view *out)
{
    if (adapter == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", adapter == NULL ? "adapter" : "out");
    }
    int64_t       rows, cols;
    const int64_t offset = bl__tensor(adapter, tensor, &rows, &cols);
    if (offset < 0) {
        return bl__fail(BL_E_ARG, "tensor is %d: adapter %s has none such", (int) tensor,
                        adapter->name);
    }
    bl_view   whole;
    const int rc = bl_group_get_view(adapter->group, buffer, &whole);
    if (rc != 0) {
        return rc;
    }
    *out = (bl_view){
        .data = bl__at(whole.dtype, whole.data, offset),
        .rows = rows,
        .cols = cols,
        .ld = cols,
        .dtype = whole.dtype,
    };
    return 0;
}

void bl__adapter_importance(const bl_adapter *adapter, double *masked, double *g)
{
    const bl_group *const group = adapter->group;
    const uint8_t *const  mask = group->mask + adapter->first_rank;
    if (adapter->s == adapter->magnitude) {
        for (int64_t i = 0; i < adapter->rank; i++) {
            masked[i] = group->removed[adapter->first_rank + i] ? 0 : 1;
        }
    } else if (bl__is_adalora(group)) {
        const void *const e = bl__at_const(
            group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, adapter->s);
        for (int64_t i = 0; i < adapter->rank; i++) {
            masked[i] = bl__get(group->dtype, e, i);
        }
    } else {
        const void *const s = bl__at_const(
            group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, adapter->s);
        bl__score_importance(group->dtype, s, group->removed + adapter->first_rank,
                             adapter->rank, adapter->mass, group->options.temperature,
                             masked);
    }
    for (int64_t i = 0; i < adapter->rank; i++) {
        if (g != NULL) {
            g[i] = masked[i];
        }
        if (!mask[i]) {
            masked[i] = 0;
        }
    }
}

int bl_adapter_copy_importance(const bl_adapter *adapter, double *g)
{
    if (adapter == NULL || g == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", adapter == NULL ? "adapter" : "g");
    }
    bl__adapter_importance(adapter, g, NULL);
    return 0;
}

void bl__adapter_norms(const bl_adapter *adapter, const double *g, double *norms)
{
    const bl_group *const group = adapter->group;
    const int32_t         dtype = group->dtype;
    const void *const     p = group->buffers[BL_BUFFER_PARAMETERS].data;
    for (int64_t i = 0; i < adapter->rank; i++) {
        const void *const a = bl__at_const(dtype, p, adapter->a + i * adapter->in);
        const void *const b = bl__at_const(dtype, p, adapter->b + i * adapter->out);
        norms[i] = fabs(adapter->scaling * g[i]) *
                   sqrt(bl__sum_squares(dtype, a, adapter->in)) *
                   sqrt(bl__sum_squares(dtype, b, adapter->out));
    }
}

int bl_adapter_copy_norms(const bl_adapter *adapter, double *norms)
{
    if (adapter == NULL || norms == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", adapter == NULL ? "adapter" : "norms");
    }
    bl__adapter_importance(adapter, norms, NULL);
    bl__adapter_norms(adapter, norms, norms);
    return 0;
}
