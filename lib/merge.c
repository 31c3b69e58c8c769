/*
 * An adapter put into a weight, taken out of it, and folded to a plain LoRA
 * (docs/method.md, "Merging and folding").
 */
#include "internal.h"

static const void *parameters(const bl_adapter *adapter, int64_t offset)
{
    const bl_group *const group = adapter->group;
    return bl__at_const(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, offset);
}

/* Rows of w times, or divided by, their ratio of magnitude to length; without DoRA 1. */
static void rescale(const bl_adapter *adapter, void *w, int64_t ldw, int divide)
{
    const int32_t dtype = adapter->group->dtype;
    for (int64_t i = 0; i < adapter->out && bl__is_dora(adapter); i++) {
        const double ratio = bl__get(dtype, adapter->ratio, i);
        for (int64_t j = 0; j < adapter->in; j++) {
            const double value = bl__get(dtype, w, i * ldw + j);
            bl__set(dtype, w, i * ldw + j, divide ? value / ratio : value * ratio);
        }
    }
}

/* w += sign c (B diag(g)) A, with diag(g) on the kept-transposed B's rows, between rows
 * rescaled or as they were before */
static int add_to_weight(const bl_adapter *adapter, void *w, int64_t ldw, double sign)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    const int rc = bl__matrix_check("w", w, adapter->out, adapter->in, ldw);
    if (rc != 0) {
        return rc;
    }
    const bl_group *const group = adapter->group;
    const int32_t         dtype = group->dtype;
    const int64_t         r = adapter->rank;
    const int64_t         out = adapter->out;
    const size_t          bytes = bl__mul((size_t) (r * out), bl__dtype_bytes(dtype));
    const size_t          g_bytes = bl__round_up(bl__mul((size_t) r, sizeof(double)));
    double *const         g = bl__alloc(&group->allocator, bl__add(g_bytes, bytes));
    if (g == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", bl__add(g_bytes, bytes));
    }
    void *const scaled = (char *) g + g_bytes;
    bl__adapter_importance(adapter, g, NULL);
    for (int64_t i = 0; i < r; i++) {
        const void *const from = parameters(adapter, adapter->b + i * out);
        void *const       to = bl__at(dtype, scaled, i * out);
        for (int64_t j = 0; j < out; j++) {
            bl__set(dtype, to, j, g[i] * bl__get(dtype, from, j));
        }
    }
    if (sign < 0) {
        rescale(adapter, w, ldw, 1);
    }
    bl__gemm(dtype, 1, 0, out, adapter->in, r, sign * adapter->scaling, scaled, out,
             parameters(adapter, adapter->a), adapter->in, 1, w, ldw);
    if (sign > 0) {
        rescale(adapter, w, ldw, 0);
    }
    bl__free(&group->allocator, g);
    return 0;
}

int bl_adapter_merge(const bl_adapter *adapter, void *w, int64_t ldw)
{
    return add_to_weight(adapter, w, ldw, 1);
}

int bl_adapter_unmerge(const bl_adapter *adapter, void *w, int64_t ldw)
{
    for (int64_t i = 0; adapter != NULL && bl__is_dora(adapter) && i < adapter->out;
         i++) {
        if (bl__get(adapter->group->dtype, adapter->ratio, i) == 0) {
            return bl__fail(BL_E_STATE,
                            "magnitude %lld of %s is 0: what it was merged into is lost",
                            (long long) i, adapter->name);
        }
    }
    return add_to_weight(adapter, w, ldw, -1);
}

int bl_adapter_fold(const bl_adapter *adapter, void *a, int64_t lda, void *b, int64_t ldb)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    if (bl__is_dora(adapter)) {
        return bl__fail(BL_E_STATE, "%s has magnitudes: rescaled rows are no plain LoRA",
                        adapter->name);
    }
    const int32_t dtype = adapter->group->dtype;
    const int64_t r = adapter->rank;
    int           rc;
    if ((rc = bl__matrix_check("a", a, r, adapter->in, lda)) != 0 ||
        (rc = bl__matrix_check("b", b, adapter->out, r, ldb)) != 0) {
        return rc;
    }
    double *const g =
        bl__alloc(&adapter->group->allocator, bl__mul((size_t) r, sizeof(double)));
    if (g == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for the importance of %lld ranks",
                        (long long) r);
    }
    bl__adapter_importance(adapter, g, NULL);
    for (int64_t i = 0; i < r; i++) {
        const void *const from_a = parameters(adapter, adapter->a + i * adapter->in);
        const void *const from_b = parameters(adapter, adapter->b + i * adapter->out);
        for (int64_t j = 0; j < adapter->in; j++) {
            const double folded = adapter->scaling * g[i] * bl__get(dtype, from_a, j);
            bl__set(dtype, a, i * lda + j, folded);
        }
        for (int64_t j = 0; j < adapter->out; j++) {
            bl__set(dtype, b, j * ldb + i, bl__get(dtype, from_b, j));
        }
    }
    bl__free(&adapter->group->allocator, g);
    return 0;
}
