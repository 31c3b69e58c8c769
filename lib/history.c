/*
 * The history ring: snapshots of parameters, and of moments and attached arrays where
 * those are copied. A slot is a copy of a whole buffer. Slot k mod depth holds the k-th
 * snapshot; the s within it is never used.
 */
#include <string.h>

#include "internal.h"

static size_t slot_bytes(const bl_group *group)
{
    return (size_t) group->elements * bl__dtype_bytes(group->dtype);
}

const void *bl__history_at(const bl_group *group, int32_t buffer, int64_t slot,
                           int64_t offset)
{
    const char *const ring = group->buffers[buffer].history;
    return bl__at_const(group->dtype, ring + (size_t) slot * slot_bytes(group), offset);
}

void *bl__history_data(bl_group *group, int32_t buffer, int64_t slot)
{
    char *const ring = group->buffers[buffer].history;
    return ring + (size_t) slot * slot_bytes(group);
}

void bl__history_snapshot(bl_group *group)
{
    const int64_t slot = group->snapshots % group->options.history_depth;
    for (int32_t i = 0; i < group->buffer_count; i++) {
        char *const ring = group->buffers[i].history;
        if (ring != NULL) {
            memcpy(ring + (size_t) slot * slot_bytes(group), group->buffers[i].data,
                   slot_bytes(group));
        }
    }
    group->snapshot_step[slot] = group->t;
    group->snapshots++;
}

static int64_t distance(int64_t a, int64_t b)
{
    return a > b ? a - b : b - a;
}

int64_t bl__history_find(const bl_adapter *adapter, int64_t rank)
{
    const bl_group *const group = adapter->group;
    const int64_t         born = group->born[adapter->first_rank + rank];
    const int64_t         wanted = group->options.history_age;
    int64_t               best = -1;
    for (int64_t slot = 0; slot < group->options.history_depth; slot++) {
        const int64_t step = group->snapshot_step[slot];
        if (step < 0 || (born > 0 && step <= born)) {
            continue; /* empty, or from before the rank was overwritten */
        }
        const int64_t away = distance(group->t - step, wanted);
        if (best < 0) {
            best = slot;
            continue;
        }
        const int64_t best_step = group->snapshot_step[best];
        const int64_t best_away = distance(group->t - best_step, wanted);
        if (away < best_away || (away == best_away && step < best_step)) {
            best = slot;
        }
    }
    return best;
}

int64_t bl__history_slot(const bl_group *group, int64_t age)
{
    for (int64_t slot = 0; slot < group->options.history_depth; slot++) {
        if (group->snapshot_step[slot] >= 0 &&
            group->t - group->snapshot_step[slot] == age) {
            return slot;
        }
    }
    return -1;
}

int64_t bl_group_get_snapshot_step(const bl_group *group)
{
    if (group->snapshots == 0) {
        return -1;
    }
    return group->snapshot_step[(group->snapshots - 1) % group->options.history_depth];
}
