/*
 * Groups: many adapters as one. All bookkeeping is one block, and there is one buffer
 * each for parameters, gradients, moments and averages, in segments aligned to 64 bytes:
 * adapter 0's A, B, s and magnitudes, then adapter 1's, and so on, each with room for
 * capacity ranks, of which the first r are there and the others zero.
 *
 * Memory: elements * (1 + 1 + 2), with AdaLoRA 2 more, and history_depth * elements * (1,
 * or 3 with moments), which may be of half the width.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sizes.h"

/* ----- life ----- */

static void name_adapter(bl_adapter *adapter, const char *name)
{
    if (name != NULL) {
        memcpy(adapter->name, name, strlen(name) + 1);
    } else {
        snprintf(adapter->name, sizeof adapter->name, "adapter.%lld",
                 (long long) adapter->index);
    }
}

static double scaling(const bl_options *o, const bl_spec *spec)
{
    const double rank = (double) spec->rank;
    if (o->method == BL_METHOD_ADALORA) {
        return (spec->alpha > 0 ? spec->alpha : rank) / (rank + 1e-5);
    }
    return spec->alpha / (o->scaling == BL_SCALING_RSLORA ? sqrt(rank) : rank);
}

static void place_adapters(bl_group *group, const bl_spec *specs)
{
    const bl_options *const o = &group->options;
    const size_t            bytes = bl__dtype_bytes(group->dtype);
    int64_t                 offset = 0;
    int64_t                 first_rank = 0;
    int64_t                 first_row = 0;
    for (int64_t i = 0; i < group->count; i++) {
        bl_spec spec;
        bl__spec_read(&spec, specs, i, o);
        bl_adapter *const adapter = &group->adapters[i];
        adapter->group = group;
        adapter->index = i;
        adapter->in = spec.in_features;
        adapter->out = spec.out_features;
        adapter->rank = spec.rank;
        adapter->capacity = spec.capacity;
        adapter->mass = (double) spec.rank;
        adapter->scaling = scaling(o, &spec);
        adapter->a = offset;
        adapter->b = adapter->a + bl__segment(spec.capacity * spec.in_features, bytes);
        adapter->s = adapter->b + bl__segment(spec.capacity * spec.out_features, bytes);
        adapter->magnitude =
            adapter->s +
            (o->method != BL_METHOD_LORA ? bl__segment(spec.capacity, bytes) : 0);
        adapter->end =
            adapter->magnitude + (o->dora ? bl__segment(spec.out_features, bytes) : 0);
        if (o->dora) {
            adapter->base = spec.base;
            adapter->ldbase = spec.ldbase;
            adapter->base_rows = spec.base_rows;
            adapter->base_squares = group->base_squares + first_row;
            adapter->lengths = group->lengths + first_row;
            adapter->ratio = bl__at(group->dtype, group->ratio, first_row);
            first_row += spec.out_features;
        }
        adapter->first_rank = first_rank;
        adapter->seed = bl__random_key(o->seed, BL__DRAW_ADAPTER, (uint64_t) i, 0);
        adapter->frozen = spec.frozen;
        group->frozen[i] = (uint8_t) spec.frozen;
        name_adapter(adapter, spec.name);
        offset = adapter->end;
        first_rank += spec.capacity;
    }
}

/* A uniform in +-1/sqrt(in): Kaiming with a = sqrt 5, as LoRA's own code. */
static void draw_uniform(const bl_adapter *adapter)
{
    const bl_group *const group = adapter->group;
    void *const           p = group->buffers[BL_BUFFER_PARAMETERS].data;
    const double          bound = 1 / sqrt((double) adapter->in);
    const uint64_t        key = bl__random_key(adapter->seed, BL__DRAW_INIT, 0, 0);
    for (int64_t i = 0; i < adapter->rank * adapter->in; i++) {
        const double u = bl__random_unit(key, (uint64_t) i);
        bl__set(group->dtype, p, adapter->a + i, bound * (2 * u - 1));
    }
}

/* AdaLoRA's A and B, normal; E is zero. */
static void draw_normal(const bl_adapter *adapter)
{
    const bl_group *const group = adapter->group;
    void *const           p = group->buffers[BL_BUFFER_PARAMETERS].data;
    const double          deviation = 0.02;
    for (uint64_t is_b = 0; is_b < 2; is_b++) {
        const uint64_t key = bl__random_key(adapter->seed, BL__DRAW_INIT, is_b, 0);
        const int64_t  start = is_b ? adapter->b : adapter->a;
        const int64_t  count = adapter->rank * (is_b ? adapter->out : adapter->in);
        for (int64_t i = 0; i < count; i++) {
            bl__set(group->dtype, p, start + i,
                    deviation * bl__random_normal(key, (uint64_t) i));
        }
    }
}

static void initialise(bl_group *group)
{
    const size_t bytes = bl__mul((size_t) group->elements, bl__dtype_bytes(group->dtype));
    for (int32_t i = 0; i < group->buffer_count; i++) {
        if (group->buffers[i].data != NULL) {
            memset(group->buffers[i].data, 0, bytes);
        }
    }
    for (int64_t k = 0; k < group->count; k++) {
        if (bl__is_adalora(group)) {
            draw_normal(&group->adapters[k]);
        } else {
            draw_uniform(&group->adapters[k]);
        }
    }
    group->reallocated = -1;
    memset(group->mask, 1, (size_t) group->ranks);
    for (int64_t i = 0; i < group->options.history_depth; i++) {
        group->snapshot_step[i] = -1;
    }
    for (int64_t i = 0; i < bl__settings_count(); i++) {
        group->settings[i] = bl__settings_value(&group->options, i);
    }
}

static int take_memory(bl_group *group, const struct bl__sizes *sizes)
{
    const bl_options *const           o = &group->options;
    const struct bl__allocator *const allocator = &group->allocator;
    struct bl__buffer *const          buffers = group->buffers;
    const int                         adamw = o->optimizer == BL_OPTIMIZER_ADAMW;
    const size_t                      moments = adamw ? bl__mul(sizes->buffer, 2) : 0;
    const size_t                      averages = bl__averages_bytes(sizes);
    void *const  given[] = { o->parameters, o->gradients, adamw ? o->moments_mv : NULL };
    const size_t wanted[] = { sizes->buffer, sizes->buffer, moments, averages,
                              sizes->history };
    void        *got[5] = { 0 };
    for (int i = 0; i < 5; i++) {
        if (i < 3 && given[i] != NULL) {
            got[i] = given[i];
        } else if (wanted[i] > 0) {
            got[i] = group->owned[i] = bl__alloc(allocator, wanted[i]);
            if (got[i] == NULL) {
                return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", wanted[i]);
            }
        }
    }
    buffers[BL_BUFFER_PARAMETERS].data = got[0];
    buffers[BL_BUFFER_GRADIENTS].data = got[1];
    group->buffer_count = BL_BUFFER_ATTACHED;
    memcpy(buffers[BL_BUFFER_M].name, "m", 2);
    memcpy(buffers[BL_BUFFER_V].name, "v", 2);
    buffers[BL_BUFFER_V].fresh = BL_FRESH_MEAN;
    if (adamw) {
        buffers[BL_BUFFER_M].data = got[2];
        buffers[BL_BUFFER_V].data = (char *) got[2] + sizes->buffer;
    }
    memcpy(buffers[BL_BUFFER_SENSITIVITY].name, "sensitivity", 12);
    memcpy(buffers[BL_BUFFER_UNCERTAINTY].name, "uncertainty", 12);
    if (averages > 0) {
        buffers[BL_BUFFER_SENSITIVITY].data = got[3];
        buffers[BL_BUFFER_UNCERTAINTY].data = (char *) got[3] + sizes->buffer;
    }
    const size_t slots = bl__ring_bytes(o, sizes->elements);
    if (got[4] != NULL) {
        buffers[BL_BUFFER_PARAMETERS].history = got[4];
    }
    if (bl__history_buffers(o) == 3) {
        buffers[BL_BUFFER_M].history = (char *) got[4] + slots;
        buffers[BL_BUFFER_V].history = (char *) got[4] + 2 * slots;
    }
    return bl__plan_create(&group->plan, allocator, group->ranks);
}

int bl_group_create(bl_group **out, const bl_spec *specs, int64_t count,
                    const bl_options *opt)
{
    if (out == NULL) {
        return bl__fail(BL_E_ARG, "out is NULL");
    }
    struct bl__sizes sizes;
    int              rc = bl__sizes_measure(&sizes, specs, count, opt);
    if (rc != 0) {
        return rc;
    }
    const bl_options *const    o = &sizes.options;
    const struct bl__allocator allocator = { o->alloc, o->free, o->alloc_user };
    void *const                block = bl__alloc(&allocator, sizes.bookkeeping);
    if (block == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", sizes.bookkeeping);
    }
    bl_group *const group = bl__sizes_carve(&sizes, block, count);
    group->options = sizes.options;
    group->allocator = allocator;
    group->count = count;
    group->elements = sizes.elements;
    group->ranks = sizes.ranks;
    group->dtype = o->parameter_dtype;
    group->pieces = o->parallel_for == NULL ? BL__WHOLE
                    : bl__gemm_has_small()  ? BL__SMALL_PIECES
                                            : BL__PIECES;
    place_adapters(group, specs);
    rc = take_memory(group, &sizes);
    if (rc != 0) {
        bl_group_free(group);
        return rc;
    }
    initialise(group);
    for (int64_t i = 0; i < count && o->dora && rc == 0; i++) {
        rc = bl__dora_begin(&group->adapters[i]);
    }
    if (rc != 0) {
        bl_group_free(group);
        return rc;
    }
    *out = group;
    return 0;
}

void bl_group_free(bl_group *group)
{
    if (group == NULL) {
        return;
    }
    const struct bl__allocator allocator = group->allocator;
    for (int32_t i = BL_BUFFER_ATTACHED; i < group->buffer_count; i++) {
        bl__free(&allocator, group->buffers[i].history);
    }
    for (int i = 0; i < 5; i++) {
        bl__free(&allocator, group->owned[i]);
    }
    bl_plan_free(group->plan);
    bl__free(&allocator, group);
}

int bl_adapter_create(bl_adapter **out, int64_t in, int64_t out_features,
                      const bl_options *opt)
{
    if (out == NULL) {
        return bl__fail(BL_E_ARG, "out is NULL");
    }
    const bl_spec spec = { .size = sizeof spec,
                           .in_features = in,
                           .out_features = out_features };
    bl_group     *group;
    const int     rc = bl_group_create(&group, &spec, 1, opt);
    if (rc == 0) {
        group->single = 1;
        *out = &group->adapters[0];
    }
    return rc;
}

void bl_adapter_free(bl_adapter *adapter)
{
    if (adapter != NULL && adapter->group->single) {
        bl_group_free(adapter->group);
    }
}

/* ----- getters and setters ----- */

int64_t bl_group_get_count(const bl_group *group)
{
    return group->count;
}

bl_adapter *bl_group_get_adapter(const bl_group *group, int64_t index)
{
    return index < 0 || index >= group->count ? NULL : &group->adapters[index];
}

int64_t bl_group_get_step(const bl_group *group)
{
    return group->t;
}

int64_t bl_group_get_cost(const bl_group *group)
{
    int64_t cost = 0;
    for (int64_t i = 0; i < group->count; i++) {
        cost += group->adapters[i].rank * bl__adapter_cost(&group->adapters[i]);
    }
    return cost;
}

double bl_group_get_temperature(const bl_group *group)
{
    return group->options.temperature;
}

int bl_group_copy_options(const bl_group *group, bl_options *out)
{
    if (group == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "out");
    }
    const size_t size = out->size;
    const int    rc = bl_options_init(out, size);
    if (rc == 0) {
        memcpy(out, &group->options,
               size < sizeof group->options ? size : sizeof group->options);
        out->size = size;
    }
    return rc;
}

int bl_group_set_temperature(bl_group *group, double tau)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    if (!(tau > 0 && tau <= 1e300)) {
        return bl__fail(BL_E_RANGE, "tau is %g, must be above 0 and finite", tau);
    }
    group->options.temperature = tau;
    bl__group_changed(group, 1);
    return 0;
}

int bl_group_get_view(bl_group *group, int32_t buffer, bl_view *out)
{
    if (group == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "out");
    }
    if (buffer < 0 || buffer >= group->buffer_count ||
        group->buffers[buffer].data == NULL) {
        return bl__fail(BL_E_ARG, "buffer is %d: the group has none such", (int) buffer);
    }
    if (buffer == BL_BUFFER_GRADIENTS) {
        bl__group_settle_gradients(group);
    }
    *out = (bl_view){
        .data = group->buffers[buffer].data,
        .rows = 1,
        .cols = group->elements,
        .ld = group->elements,
        .dtype = group->dtype,
    };
    return 0;
}

int bl_group_touch(bl_group *group)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    bl__group_changed(group, 1);
    return 0;
}

void bl__group_settle_gradients(bl_group *group)
{
    void *const gradients = group->buffers[BL_BUFFER_GRADIENTS].data;
    for (int64_t i = 0; i < group->count; i++) {
        bl_adapter *const adapter = &group->adapters[i];
        if (!adapter->has_gradient) {
            const size_t bytes =
                (size_t) (adapter->end - adapter->a) * bl__dtype_bytes(group->dtype);
            memset(bl__at(group->dtype, gradients, adapter->a), 0, bytes);
            adapter->has_gradient = !adapter->frozen;
        }
    }
}

void bl__group_forget_gradients(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        group->adapters[i].has_gradient = 0;
    }
    group->penalised = 0;
}

int bl_group_discard_gradients(bl_group *group)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    bl__group_forget_gradients(group);
    return 0;
}

int bl_group_attach(bl_group *group, const char *name, void *data, int32_t fresh,
                    int32_t *buffer)
{
    if (group == NULL || name == NULL || data == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL",
                        group == NULL  ? "group"
                        : name == NULL ? "name"
                                       : "data");
    }
    const size_t length = strlen(name);
    if (length < 1 || length >= BL__BUFFER_NAME_BYTES ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != length) {
        return bl__fail(BL_E_RANGE, "name must be 1 to %d of [a-z0-9_]",
                        BL__BUFFER_NAME_BYTES - 1);
    }
    for (int32_t i = BL_BUFFER_M; i < group->buffer_count; i++) {
        if (strcmp(group->buffers[i].name, name) == 0) {
            return bl__fail(BL_E_ARG, "an array named %s is there already", name);
        }
    }
    if ((uintptr_t) data % BL__ALIGNMENT != 0) {
        return bl__fail(BL_E_ARG, "data is not aligned to %zu bytes", BL__ALIGNMENT);
    }
    if (fresh != BL_FRESH_ZERO && fresh != BL_FRESH_MEAN) {
        return bl__fail(BL_E_RANGE, "fresh is %d, must be 0 or 1", (int) fresh);
    }
    if (group->t > 0 || group->buffer_count == BL__BUFFERS) {
        return bl__fail(BL_E_STATE, "%s",
                        group->t > 0 ? "arrays are attached before the first step"
                                     : "no more arrays can be attached");
    }
    struct bl__buffer *const to = &group->buffers[group->buffer_count];
    if (group->buffers[BL_BUFFER_PARAMETERS].history != NULL &&
        group->options.moments == BL_MOMENTS_COPY) {
        const size_t bytes = bl__ring_bytes(&group->options, group->elements);
        to->history = bl__alloc(&group->allocator, bytes);
        if (to->history == NULL) {
            return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", bytes);
        }
    }
    to->data = data;
    to->fresh = fresh;
    memcpy(to->name, name, length + 1);
    if (buffer != NULL) {
        *buffer = group->buffer_count;
    }
    group->buffer_count++;
    return 0;
}
