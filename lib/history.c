/*
 * The history ring: snapshots of parameters, and of moments and attached arrays where
 * those are copied. A slot is a copy of a whole buffer, in the history's dtype. Slot k mod
 * depth holds the k-th snapshot; the s within it is never used.
 */
#include "internal.h"

static int64_t slot_start(const bl_group *group, int64_t slot)
{
    return slot * group->elements;
}

const void *bl__history_at(const bl_group *group, int32_t buffer, int64_t slot,
                           int64_t offset)
{
    return bl__at_const(group->options.history_dtype, group->buffers[buffer].history,
                        slot_start(group, slot) + offset);
}

void *bl__history_data(bl_group *group, int32_t buffer, int64_t slot)
{
    return bl__at(group->options.history_dtype, group->buffers[buffer].history,
                  slot_start(group, slot));
}

void bl__history_snapshot(bl_group *group)
{
    const int64_t slot = group->snapshots % group->options.history_depth;
    for (int32_t i = 0; i < group->buffer_count; i++) {
        if (group->buffers[i].history != NULL) {
            bl__convert(group->options.history_dtype, bl__history_data(group, i, slot),
                        group->dtype, group->buffers[i].data, group->elements);
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
