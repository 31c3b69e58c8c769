/*
 * The state of a training as named arrays: the one list that blobs, files and
 * migrations are made from. Names are put together on demand; data is the group's own.
 *
 *     group.format, group.step, group.seed, group.history_steps, group.temperature,
 *     group.settings, group.snapshots, group.reallocated, group.frozen
 *     <adapter>.A   .A.m   .A.v   .A.sensitivity   .A.uncertainty   .A.<attached>
 *     <adapter>.A.history.<k>   .A.history.<k>.m ...
 *     <adapter>.B ...   <adapter>.s (or E) ...   <adapter>.magnitude ...
 *     <adapter>.rank   .born   .mask   .removed   .mass   .c
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

enum { GROUP_ARRAYS = 9, RANK_ARRAYS = 6 };
enum { RANK = 0, BORN = 1, REMOVED = 3, MASS = 4, C = 5 };

static const int64_t format_version = 1;

/* Buffers that the state holds (all but gradients), or that snapshots hold. */
static int64_t count_buffers(const bl_group *group, int of_history)
{
    int64_t count = 0;
    for (int32_t i = 0; i < group->buffer_count; i++) {
        count += i != BL_BUFFER_GRADIENTS && group->buffers[i].data != NULL &&
                 (!of_history || group->buffers[i].history != NULL);
    }
    return count;
}

static int32_t nth_buffer(const bl_group *group, int64_t n, int of_history)
{
    int32_t i = 0;
    for (;; i++) {
        const struct bl__buffer *const buffer = &group->buffers[i];
        if (i != BL_BUFFER_GRADIENTS && buffer->data != NULL &&
            (!of_history || buffer->history != NULL) && n-- == 0) {
            return i;
        }
    }
}

static int64_t tensor_count(const bl_group *group)
{
    const bl_options *const o = &group->options;
    return 2 + (o->method != BL_METHOD_LORA) + (o->dora != 0);
}

/* Arrays of one adapter: tensors in buffers, A and B in snapshots, arrays by rank. */
static int64_t present_count(const bl_group *group)
{
    return tensor_count(group) * count_buffers(group, 0);
}

static int64_t history_count(const bl_group *group)
{
    return 2 * group->options.history_depth * count_buffers(group, 1);
}

static int64_t adapter_count(const bl_group *group)
{
    return present_count(group) + history_count(group) + RANK_ARRAYS;
}

int64_t bl_group_get_state_count(const bl_group *group)
{
    return GROUP_ARRAYS + group->count * adapter_count(group);
}

static void vector(bl_array *out, const char *name, int32_t dtype, const void *data,
                   int64_t length)
{
    memcpy(out->name, name, strlen(name) + 1);
    out->data = data;
    out->dims = 1;
    out->shape[0] = length;
    out->dtype = dtype;
}

static void group_array(const bl_group *group, int64_t index, bl_array *out)
{
    switch (index) {
    case 0:
        vector(out, "group.format", BL_I64, &format_version, 1);
        break;
    case 1:
        vector(out, "group.step", BL_I64, &group->t, 1);
        break;
    case 2:
        vector(out, "group.seed", BL_I64, &group->options.seed, 1);
        break;
    case 3:
        vector(out, "group.history_steps", BL_I64, group->snapshot_step,
               group->options.history_depth);
        break;
    case 4:
        vector(out, "group.temperature", BL_F64, &group->options.temperature, 1);
        break;
    case 5:
        vector(out, "group.settings", BL_F64, group->settings, bl__settings_count());
        break;
    case 6:
        vector(out, "group.snapshots", BL_I64, &group->snapshots, 1);
        break;
    case 7:
        vector(out, "group.reallocated", BL_I64, &group->reallocated, 1);
        break;
    default:
        vector(out, "group.frozen", BL_U8, group->frozen, group->count);
        break;
    }
}

static const char *const tensor_names[] = { "A", "B", "s", "magnitude" };

static void present_array(const bl_adapter *adapter, int64_t index, bl_array *out)
{
    const bl_group *const group = adapter->group;
    const int64_t         nth = index % tensor_count(group);
    const int32_t         buffer = nth_buffer(group, index / tensor_count(group), 0);
    const int32_t         tensor = nth == 2 && adapter->s == adapter->magnitude
                                       ? BL_TENSOR_MAGNITUDE
                                       : (int32_t) nth;
    const int64_t offset = bl__tensor(adapter, tensor, &out->shape[0], &out->shape[1]);
    out->data = bl__at_const(group->dtype, group->buffers[buffer].data, offset);
    const char *const suffix = group->buffers[buffer].name;
    snprintf(out->name, sizeof out->name, "%s.%s%s%s", adapter->name,
             tensor_names[tensor], *suffix ? "." : "", suffix);
}

static void history_array(const bl_adapter *adapter, int64_t index, bl_array *out)
{
    const bl_group *const group = adapter->group;
    const int64_t         depth = group->options.history_depth;
    const int32_t         tensor = (int32_t) (index % 2);
    const int64_t         slot = index / 2 % depth;
    const int32_t         buffer = nth_buffer(group, index / 2 / depth, 1);
    const int64_t offset = bl__tensor(adapter, tensor, &out->shape[0], &out->shape[1]);
    out->data = bl__history_at(group, buffer, slot, offset);
    out->dtype = group->options.history_dtype;
    const char *const suffix = group->buffers[buffer].name;
    snprintf(out->name, sizeof out->name, "%s.%s.history.%lld%s%s", adapter->name,
             tensor_names[tensor], (long long) slot, *suffix ? "." : "", suffix);
}

static void rank_array(const bl_adapter *adapter, int64_t index, bl_array *out)
{
    static const char *const names[] = { "rank", "born", "mask", "removed", "mass", "c" };
    static const int32_t     dtypes[] = { BL_I64, BL_I64, BL_U8, BL_U8, BL_F64, BL_F64 };
    const bl_group *const    group = adapter->group;
    const int64_t            r = adapter->rank;
    const int64_t            lengths[] = { 2, r, r, r, 1, 1 };
    const void *const        data[] = { &adapter->rank, /* and capacity */
                                        group->born + adapter->first_rank,
                                        group->mask + adapter->first_rank,
                                        group->removed + adapter->first_rank,
                                        &adapter->mass,
                                        &adapter->scaling };
    vector(out, "", dtypes[index], data[index], lengths[index]);
    snprintf(out->name, sizeof out->name, "%s.%s", adapter->name, names[index]);
}

int bl_group_get_state(const bl_group *group, int64_t index, bl_array *out)
{
    if (group == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "out");
    }
    if (index < 0 || index >= bl_group_get_state_count(group)) {
        return bl__fail(BL_E_RANGE, "index is %lld, must be in [0, %lld)",
                        (long long) index, (long long) bl_group_get_state_count(group));
    }
    memset(out, 0, sizeof *out);
    if (index < GROUP_ARRAYS) {
        group_array(group, index, out);
        return 0;
    }
    index -= GROUP_ARRAYS;
    const bl_adapter *const adapter = &group->adapters[index / adapter_count(group)];
    index %= adapter_count(group);
    out->dims = 2;
    out->dtype = group->dtype;
    if (index < present_count(group)) {
        present_array(adapter, index, out);
    } else if (index < present_count(group) + history_count(group)) {
        history_array(adapter, index - present_count(group), out);
    } else {
        rank_array(adapter, index - present_count(group) - history_count(group), out);
    }
    return 0;
}

/* ----- taking a state over ----- */

static size_t array_bytes(const bl_array *array)
{
    const int64_t count = array->shape[0] * (array->dims == 2 ? array->shape[1] : 1);
    return (size_t) count * bl__dtype_bytes(array->dtype);
}

/* The array of this name; a list that this library wrote has it at `index`. */
static const bl_array *find(const bl_array *arrays, int64_t count, int64_t index,
                            const char *name)
{
    for (int64_t k = 0; k < count; k++) {
        const bl_array *const array = &arrays[(index + k) % count];
        if (strncmp(array->name, name, sizeof array->name) == 0) {
            return array;
        }
    }
    return NULL;
}

static int check_settings(const bl_group *group, const void *data)
{
    for (int64_t i = 0; i < bl__settings_count(); i++) {
        double value;
        memcpy(&value, (const char *) data + (size_t) i * sizeof value, sizeof value);
        if (!(value == group->settings[i])) {
            return bl__fail(BL_E_OPTIONS, "%s is %g in the state, %g in the group",
                            bl__settings_name(i), value, group->settings[i]);
        }
    }
    return 0;
}

static int64_t integer_at(const void *data, int64_t index)
{
    int64_t value;
    memcpy(&value, (const char *) data + index * 8, sizeof value);
    return value;
}

static double real_at(const void *data)
{
    double value;
    memcpy(&value, data, sizeof value);
    return value;
}

static int is_impossible(const bl_array *own, int64_t index, int64_t value)
{
    return bl__fail(BL_E_FORMAT, "%.200s[%lld] is %lld", own->name, (long long) index,
                    (long long) value);
}

/* Each of `count` integers or flags must be in [low, high]. */
static int check_elements(const bl_array *own, const void *data, int64_t low,
                          int64_t high)
{
    for (int64_t i = 0; i < own->shape[0]; i++) {
        const int64_t value =
            own->dtype == BL_I64 ? integer_at(data, i) : ((const uint8_t *) data)[i];
        if (value < low || value > high) {
            return is_impossible(own, i, value);
        }
    }
    return 0;
}

/* The group's own arrays, by index; `step` is the state's own. */
static int check_group_array(const bl_group *group, int64_t index, const bl_array *own,
                             const void *data, int64_t step)
{
    switch (index) {
    case 0:
        return integer_at(data, 0) == format_version
                   ? 0
                   : bl__fail(BL_E_VERSION,
                              "the state has version %lld, this library's is %lld",
                              (long long) integer_at(data, 0),
                              (long long) format_version);
    case 1:
    case 6:
        return check_elements(own, data, 0, INT64_MAX / 2);
    case 2:
        return memcmp(data, &group->options.seed, 8) == 0
                   ? 0
                   : bl__fail(BL_E_OPTIONS,
                              "seed is %llu in the state, %llu in the group",
                              (unsigned long long) integer_at(data, 0),
                              (unsigned long long) group->options.seed);
    case 3:
        /* a group without a ring has nothing that a snapshot could be taken from */
        return check_elements(
            own, data, -1,
            group->buffers[BL_BUFFER_PARAMETERS].history == NULL ? -1 : step);
    case 4:
        return real_at(data) > 0 && isfinite(real_at(data))
                   ? 0
                   : bl__fail(BL_E_FORMAT, "the state's temperature is %g",
                              real_at(data));
    case 5:
        return check_settings(group, data);
    case 7:
        return check_elements(own, data, -1, step);
    default:
        return check_elements(own, data, 0, 1);
    }
}

/* An adapter's array by rank, by its index among them. */
static int check_rank_array(const bl_group *group, int64_t index, const bl_array *own,
                            const void *data, int64_t step)
{
    if (index == RANK) {
        return 0; /* check_ranks was first */
    }
    if (index == MASS) {
        return real_at(data) > 0 && isfinite(real_at(data))
                   ? 0
                   : bl__fail(BL_E_FORMAT, "%.200s is %g", own->name, real_at(data));
    }
    if (index == C) {
        return real_at(data) == real_at(own->data)
                   ? 0
                   : bl__fail(BL_E_OPTIONS, "%.200s is %g in the state, %g in the group",
                              own->name, real_at(data), real_at(own->data));
    }
    const int rc = check_elements(own, data, 0, index == BORN ? step : 1);
    if (rc != 0 || index != REMOVED || bl__is_adalora(group)) {
        return rc; /* AdaLoRA may leave a module without a rank */
    }
    for (int64_t i = 0; i < own->shape[0]; i++) {
        if (((const uint8_t *) data)[i] == 0) {
            return 0;
        }
    }
    return bl__fail(BL_E_FORMAT, "%.200s leaves no rank", own->name);
}

/* As many snapshots in the ring as were taken, or as it holds. */
static int check_ring(const bl_group *group, const bl_array *steps,
                      const bl_array *snapshots)
{
    const int64_t depth = group->options.history_depth;
    const int64_t taken = integer_at(snapshots->data, 0);
    int64_t       held = 0;
    for (int64_t i = 0; i < depth; i++) {
        held += integer_at(steps->data, i) >= 0;
    }
    return held == (taken < depth ? taken : depth)
               ? 0
               : bl__fail(BL_E_FORMAT, "%lld snapshots in the state, of %lld taken",
                          (long long) held, (long long) taken);
}

static int check_shape(const bl_array *own, const bl_array *given)
{
    if (given == NULL) {
        return bl__fail(BL_E_FORMAT, "the state has no array %s", own->name);
    }
    if (given->dims != own->dims || given->dtype != own->dtype ||
        given->shape[0] != own->shape[0] ||
        (own->dims == 2 && given->shape[1] != own->shape[1])) {
        return bl__fail(
            BL_E_SHAPE,
            "%.160s is [%lld, %lld] of dtype %d in the state, [%lld, %lld] of "
            "dtype %d in the group",
            own->name, (long long) given->shape[0], (long long) given->shape[1],
            (int) given->dtype, (long long) own->shape[0], (long long) own->shape[1],
            (int) own->dtype);
    }
    if (given->data == NULL) {
        return bl__fail(BL_E_ARG, "%s has no data", own->name);
    }
    return 0;
}

/* The shapes of most arrays hang on the state's ranks, so these are read beforehand, into
 * other_rank. */
static int check_ranks(bl_group *group, const bl_array *arrays, int64_t count)
{
    int64_t cost = 0;
    for (int64_t i = 0; i < group->count; i++) {
        bl_adapter *const adapter = &group->adapters[i];
        const int64_t     index =
            GROUP_ARRAYS + (i + 1) * adapter_count(group) - RANK_ARRAYS + RANK;
        bl_array own;
        bl_group_get_state(group, index, &own);
        const bl_array *const given = find(arrays, count, index, own.name);
        const int             rc = check_shape(&own, given);
        if (rc != 0) {
            return rc;
        }
        const int64_t rank = integer_at(given->data, 0);
        const int64_t capacity = integer_at(given->data, 1);
        if (capacity != adapter->capacity) {
            return bl__fail(
                BL_E_OPTIONS, "capacity of %s is %lld in the state, %lld in the group",
                adapter->name, (long long) capacity, (long long) adapter->capacity);
        }
        if (rank < 1 || rank > capacity) {
            return is_impossible(&own, 0, rank);
        }
        adapter->other_rank = rank;
        cost += rank * bl__adapter_cost(adapter);
    }
    return group->options.budget == 0 || cost <= group->options.budget
               ? 0
               : bl__fail(BL_E_FORMAT, "ranks cost %lld in the state, the budget is %lld",
                          (long long) cost, (long long) group->options.budget);
}

static void swap_ranks(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        bl_adapter *const adapter = &group->adapters[i];
        const int64_t     rank = adapter->rank;
        adapter->rank = adapter->other_rank;
        adapter->other_rank = rank;
    }
}

static int check_array(const bl_group *group, int64_t index, const bl_array *own,
                       const bl_array *given, int64_t step)
{
    const int rc = check_shape(own, given);
    if (rc != 0) {
        return rc;
    }
    if (index < GROUP_ARRAYS) {
        return check_group_array(group, index, own, given->data, step);
    }
    const int64_t by_rank = (index - GROUP_ARRAYS) % adapter_count(group) -
                            present_count(group) - history_count(group);
    return by_rank < 0 ? 0 : check_rank_array(group, by_rank, own, given->data, step);
}

static int check_nth(const bl_group *group, int64_t index, const bl_array *arrays,
                     int64_t count, int64_t step)
{
    bl_array own;
    bl_group_get_state(group, index, &own);
    return check_array(group, index, &own, find(arrays, count, index, own.name), step);
}

/* The settings say best why two groups differ, so they are looked at first. */
static int check_head(bl_group *group, const bl_array *arrays, int64_t count)
{
    static const int64_t first[] = { 0, 5, 2, 1 };
    const int64_t        expected = bl_group_get_state_count(group);
    int                  rc = 0;
    for (int k = 0; k < 4 && rc == 0; k++) {
        rc = check_nth(group, first[k], arrays, count, 0);
    }
    if (rc == 0 && count != expected) {
        rc = bl__fail(BL_E_FORMAT, "the state has %lld arrays, the group %lld",
                      (long long) count, (long long) expected);
    }
    return rc != 0 ? rc : check_ranks(group, arrays, count);
}

/* All arrays; the group has the state's ranks meanwhile. */
static int check_arrays(const bl_group *group, const bl_array *arrays, int64_t count)
{
    const int64_t step = integer_at(find(arrays, count, 1, "group.step")->data, 0);
    for (int64_t i = 0; i < bl_group_get_state_count(group); i++) {
        const int rc = check_nth(group, i, arrays, count, step);
        if (rc != 0) {
            return rc;
        }
    }
    return check_ring(group, find(arrays, count, 3, "group.history_steps"),
                      find(arrays, count, 6, "group.snapshots"));
}

static void copy_arrays(bl_group *group, const bl_array *arrays, int64_t count)
{
    for (int64_t i = 0; i < bl_group_get_state_count(group); i++) {
        bl_array own;
        bl_group_get_state(group, i, &own);
        if (own.data != &format_version) {
            /* The array is the group's own memory, const only for borrowers. */
            union {
                const void *borrowed;
                void       *own;
            } to = { own.data };
            memcpy(to.own, find(arrays, count, i, own.name)->data, array_bytes(&own));
        }
    }
}

/* Ranks that the state does not have are zero, whatever was there before. */
static void clear_other_ranks(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        for (int32_t k = 0; k < group->buffer_count; k++) {
            if (group->buffers[k].data != NULL) {
                bl__adapter_clear(adapter, group->dtype, group->buffers[k].data,
                                  adapter->rank, adapter->capacity);
            }
        }
    }
}

int bl_group_set_state(bl_group *group, const bl_array *arrays, int64_t count)
{
    if (group == NULL || arrays == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "arrays");
    }
    if (count < 1) {
        return bl__fail(BL_E_FORMAT, "the state has no arrays");
    }
    int rc = check_head(group, arrays, count);
    if (rc != 0) {
        return rc;
    }
    swap_ranks(group);
    rc = check_arrays(group, arrays, count);
    if (rc != 0) {
        swap_ranks(group);
        return rc;
    }
    copy_arrays(group, arrays, count);
    clear_other_ranks(group);
    for (int64_t i = 0; i < group->count; i++) {
        group->adapters[i].frozen = group->frozen[i];
    }
    bl__group_forget_gradients(group);
    bl__group_changed(group, 1);
    return 0;
}
