/*
 * Ranks that move between modules (docs/global.md): what the pruned ranks of all modules
 * cost, and what the budget has left, goes to second paths of the most important ranks,
 * as long as their modules' capacities and the budget last. Within a module new paths
 * take the places of pruned ranks first; then it grows, or it gives ranks up.
 */
#include <assert.h>

#include "internal.h"

/* Mark the entries that get a second path, the best first. */
static void choose_sources(const bl_group *group, bl_plan *plan, int64_t total)
{
    int64_t room = group->options.budget - bl_group_get_cost(group);
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const       adapter = &group->adapters[i];
        const struct bl__entry *const entries =
            plan->module_entries + adapter->first_rank;
        const int64_t count = adapter->frozen ? 0 : bl_adapter_get_kept(adapter);
        plan->order[i] = 0; /* entries of the module seen below */
        plan->changes[i] = 0;
        for (int64_t k = 0; k < count; k++) {
            plan->changes[i] -= entries[k].fate == BL__GOES;
        }
        room -= plan->changes[i] * bl__adapter_cost(adapter);
    }
    const int32_t expand = group->options.expand;
    for (int64_t i = 0; i < total && expand != BL_EXPAND_NONE; i++) {
        const int64_t           module = plan->entries[i].module;
        const bl_adapter *const adapter = &group->adapters[module];
        const int64_t           cost = bl__adapter_cost(adapter);
        struct bl__entry *const entry =
            &plan->module_entries[adapter->first_rank + plan->order[module]++];
        assert(entry->rank == plan->entries[i].rank);
        if (entry->fate == BL__GOES || cost > room ||
            adapter->rank + plan->changes[module] == adapter->capacity ||
            (expand == BL_EXPAND_HISTORY && bl__history_find(adapter, entry->rank) < 0)) {
            continue;
        }
        entry->fate = BL__COPIED;
        plan->changes[module]++;
        room -= cost;
    }
}

/* Rows from `first` on are ranks that a module gives up. What stays, but has a number
 * that is too high from now on, moves into their places. */
static void give_up(const bl_adapter *adapter, bl_plan *plan, int64_t first)
{
    const int64_t left = adapter->rank - (plan->count - first);
    int64_t       mover = adapter->rank - 1;
    int64_t       top = plan->count - 1;
    for (int64_t row = first; row < plan->count; row++) {
        plan->actions[row] = BL_ACTION_SHRINK;
        plan->sources[row] = -1;
        plan->ages[row] = -1;
        if (plan->pruned[row] < left) {
            for (; plan->pruned[top] == mover; top--) {
                mover--;
            }
            plan->sources[row] = mover--;
        }
    }
}

/* The best sources go where ranks were pruned, the others become new ranks. */
static void write_rows(const bl_adapter *adapter, bl_plan *plan,
                       const struct bl__entry *entries, int64_t entry_count)
{
    const int64_t first = bl__select_list(adapter, plan, entries, entry_count);
    const int64_t goes = plan->count - first;
    int64_t       found = 0;
    int64_t       rank = adapter->rank;
    for (int64_t i = 0; i < entry_count; i++) {
        if (entries[i].fate != BL__COPIED) {
            continue;
        }
        if (found < goes) {
            plan->order[found++] = entries[i].rank;
            continue;
        }
        const int64_t row = plan->count++;
        plan->modules[row] = adapter->index;
        plan->pruned[row] = rank++;
        plan->importances[row] = entries[i].importance;
        bl__select_fill(adapter, plan, row, entries[i].rank);
    }
    bl__select_shuffle(adapter, plan, found);
    for (int64_t k = 0; k < found; k++) {
        bl__select_fill(adapter, plan, first + k, plan->order[k]);
    }
    if (found < goes) {
        give_up(adapter, plan, first + found);
    }
}

void bl__grow(const bl_group *group, bl_plan *plan, int64_t total)
{
    choose_sources(group, plan, total);
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        if (!adapter->frozen) {
            write_rows(adapter, plan, plan->module_entries + adapter->first_rank,
                       bl_adapter_get_kept(adapter));
        }
    }
}
