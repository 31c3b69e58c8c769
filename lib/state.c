/*
 * The state of a training as named arrays: the one list that blobs, files and
 * migrations are made from. Names are put together on demand; data is the group's own.
 *
 *     group.format, group.step, group.seed, group.history_steps, group.temperature,
 *     group.settings, group.snapshots, group.reallocated, group.frozen
 *     <adapter>.A   .A.m   .A.v   .A.sensitivity   .A.uncertainty   .A.<attached>
 *     <adapter>.A.history.<k>   .A.history.<k>.m ...
 *     <adapter>.B ...   <adapter>.s (or E) ...   <adapter>.magnitude ...
 *     <adapter>.born   .mask   .removed   .c
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

enum { GROUP_ARRAYS = 9, RANK_ARRAYS = 4 };

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
    const char *const suffix = group->buffers[buffer].name;
    snprintf(out->name, sizeof out->name, "%s.%s.history.%lld%s%s", adapter->name,
             tensor_names[tensor], (long long) slot, *suffix ? "." : "", suffix);
}

static void rank_array(const bl_adapter *adapter, int64_t index, bl_array *out)
{
    static const char *const names[] = { "born", "mask", "removed", "c" };
    static const int32_t     dtypes[] = { BL_I64, BL_U8, BL_U8, BL_F64 };
    const bl_group *const    group = adapter->group;
    const void *const        data[] = { group->born + adapter->first_rank,
                                        group->mask + adapter->first_rank,
                                        group->removed + adapter->first_rank,
                                        &adapter->scaling };
    vector(out, "", dtypes[index], data[index], index == 3 ? 1 : adapter->rank);
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
    if (index == 3) {
        return real_at(data) == real_at(own->data)
                   ? 0
                   : bl__fail(BL_E_OPTIONS, "%.200s is %g in the state, %g in the group",
                              own->name, real_at(data), real_at(own->data));
    }
    const int rc = check_elements(own, data, 0, index == 0 ? step : 1);
    if (rc != 0 || index != 2 || bl__is_adalora(group)) {
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

static int check_array(const bl_group *group, int64_t index, const bl_array *own,
                       const bl_array *given, int64_t step)
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
    if (index < GROUP_ARRAYS) {
        return check_group_array(group, index, own, given->data, step);
    }
    const int64_t by_rank = (index - GROUP_ARRAYS) % adapter_count(group) -
                            present_count(group) - history_count(group);
    return by_rank < 0 ? 0 : check_rank_array(group, by_rank, own, given->data, step);
}

int bl_group_set_state(bl_group *group, const bl_array *arrays, int64_t count)
{
    if (group == NULL || arrays == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "arrays");
    }
    const int64_t expected = bl_group_get_state_count(group);
    if (count < 1) {
        return bl__fail(BL_E_FORMAT, "the state has no arrays");
    }
    /* The settings say best why two groups differ, so they are looked at first. */
    static const int64_t first[] = { 0, 5, 2, 1 };
    int64_t              step = 0;
    for (int64_t k = 0; k < 4 + expected; k++) {
        const int64_t index = k < 4 ? first[k] : k - 4;
        if (k == 4 && count != expected) {
            return bl__fail(BL_E_FORMAT, "the state has %lld arrays, the group %lld",
                            (long long) count, (long long) expected);
        }
        bl_array own;
        bl_group_get_state(group, index, &own);
        const bl_array *const given = find(arrays, count, index, own.name);
        const int             rc = check_array(group, index, &own, given, step);
        if (rc != 0) {
            return rc;
        }
        if (own.data == &group->t) {
            step = integer_at(given->data, 0);
        }
    }
    const int rc = check_ring(group, find(arrays, count, 3, "group.history_steps"),
                              find(arrays, count, 6, "group.snapshots"));
    if (rc != 0) {
        return rc;
    }
    for (int64_t i = 0; i < expected; i++) {
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
    for (int64_t i = 0; i < group->count; i++) {
        group->adapters[i].frozen = group->frozen[i];
    }
    bl__group_forget_gradients(group);
    bl__group_changed(group, 1);
    return 0;
}
