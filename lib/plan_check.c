/*
 * Whether a plan can be carried out: all of it is looked at before anything changes. Marks
 * in the group's scratch_ranks say what each rank is in it.
 */
#include <string.h>

#include "internal.h"

int bl__plan_has_source(int32_t action, int64_t source)
{
    return action == BL_ACTION_HISTORY || action == BL_ACTION_CURRENT ||
           (action == BL_ACTION_FRESH && source != -1);
}

int bl__plan_is_new(const bl_adapter *adapter, const bl_plan *plan, int64_t row)
{
    return plan->pruned[row] >= adapter->rank;
}

static int check_rank(const bl_adapter *adapter, const char *role, int64_t rank)
{
    if (rank < 0 || rank >= adapter->rank) {
        return bl__fail(BL_E_RANGE, "%s rank is %lld, must be in [0, %lld) in %s", role,
                        (long long) rank, (long long) adapter->rank, adapter->name);
    }
    if (adapter->group->removed[adapter->first_rank + rank]) {
        return bl__fail(BL_E_RANGE, "%s rank %lld of %s was removed before", role,
                        (long long) rank, adapter->name);
    }
    return 0;
}

/* New ranks have the numbers from r on, in order. */
static int check_new_rank(const bl_adapter *adapter, const uint8_t *marks, int64_t rank)
{
    if (rank >= adapter->capacity) {
        return bl__fail(BL_E_RANGE,
                        "new rank is %lld, must be below the capacity of %s "
                        "(%lld)",
                        (long long) rank, adapter->name, (long long) adapter->capacity);
    }
    if (rank > adapter->rank && !(marks[rank - 1] & BL__IS_LISTED)) {
        return bl__fail(BL_E_RANGE, "new rank %lld of %s comes before rank %lld",
                        (long long) rank, adapter->name, (long long) rank - 1);
    }
    return 0;
}

static int check_path(const bl_adapter *adapter, const bl_plan *plan, int64_t row,
                      uint8_t *marks)
{
    const bl_group *const group = adapter->group;
    const int64_t         source = plan->sources[row];
    if (bl__plan_has_source(plan->actions[row], source)) {
        const int rc = check_rank(adapter, "source", source);
        if (rc != 0) {
            return rc;
        }
        if (marks[source] & BL__IS_SOURCE) {
            return bl__fail(BL_E_RANGE, "rank %lld of %s is a source twice",
                            (long long) source, adapter->name);
        }
        marks[source] |= BL__IS_SOURCE;
    }
    if (plan->actions[row] != BL_ACTION_HISTORY) {
        return 0;
    }
    if (group->buffers[BL_BUFFER_PARAMETERS].history == NULL) {
        return bl__fail(BL_E_STATE, "the group keeps no history");
    }
    if (bl__history_slot(group, plan->ages[row]) < 0) {
        return bl__fail(BL_E_STATE, "the history holds no snapshot of age %lld",
                        (long long) plan->ages[row]);
    }
    return 0;
}

static int check_row(bl_group *group, const bl_plan *plan, int64_t row)
{
    const int64_t module = plan->modules[row];
    if (module < 0 || module >= group->count) {
        return bl__fail(BL_E_RANGE, "module is %lld, must be in [0, %lld)",
                        (long long) module, (long long) group->count);
    }
    if (row > 0 && module < plan->modules[row - 1]) {
        return bl__fail(BL_E_RANGE,
                        "rows must be in the order of their modules: %lld "
                        "comes after %lld",
                        (long long) module, (long long) plan->modules[row - 1]);
    }
    const bl_adapter *const adapter = &group->adapters[module];
    uint8_t *const          marks = group->scratch_ranks + adapter->first_rank;
    const int64_t           pruned = plan->pruned[row];
    const int32_t           action = plan->actions[row];
    const int               may_be_new = action <= BL_ACTION_FRESH;
    if (adapter->frozen) {
        return bl__fail(BL_E_STATE, "%s is frozen", adapter->name);
    }
    const int rc = may_be_new && bl__plan_is_new(adapter, plan, row)
                       ? check_new_rank(adapter, marks, pruned)
                       : check_rank(adapter, "pruned", pruned);
    if (rc != 0) {
        return rc;
    }
    if (marks[pruned] & BL__IS_LISTED) {
        return bl__fail(BL_E_RANGE, "rank %lld of %s is pruned twice", (long long) pruned,
                        adapter->name);
    }
    marks[pruned] |= BL__IS_LISTED;
    if (action == BL_ACTION_SKIP) {
        return 0;
    }
    marks[pruned] |= BL__IS_PRUNED;
    if (action == BL_ACTION_PRUNE || action == BL_ACTION_SHRINK) {
        marks[pruned] |= BL__LEAVES;
    }
    return check_path(adapter, plan, row, marks);
}

/* The ranks that stay are 0 .. left - 1 when the movers have moved. */
static int check_movers(const bl_adapter *adapter, const bl_plan *plan, int64_t first,
                        int64_t end, int64_t left)
{
    uint8_t *const marks = adapter->group->scratch_ranks + adapter->first_rank;
    for (int64_t row = first; row < end; row++) {
        const int64_t rank = plan->pruned[row];
        const int64_t mover = plan->sources[row];
        if (plan->actions[row] != BL_ACTION_SHRINK) {
            continue;
        }
        const int fits = rank >= left ? mover == -1
                                      : mover >= left && mover < adapter->rank &&
                                            !(marks[mover] & (BL__LEAVES | BL__MOVES));
        if (!fits) {
            return bl__fail(BL_E_RANGE,
                            "rank %lld of %s is given up for rank %lld: must be one from "
                            "%lld on that stays, once, or -1 if itself is",
                            (long long) rank, adapter->name, (long long) mover,
                            (long long) left);
        }
        if (mover >= 0) {
            marks[mover] |= BL__MOVES;
        }
    }
    return 0;
}

/* Rows [first, end) are the module's; *rank becomes what it will have. */
static int check_module(const bl_adapter *adapter, const bl_plan *plan, int64_t first,
                        int64_t end, int64_t *rank)
{
    const bl_group *const group = adapter->group;
    int64_t               gone = 0;
    int64_t               left = 0;
    *rank = adapter->rank;
    for (int64_t row = first; row < end; row++) {
        gone += plan->actions[row] == BL_ACTION_SHRINK;
        *rank += bl__plan_is_new(adapter, plan, row);
    }
    if (gone > 0 && *rank > adapter->rank) {
        return bl__fail(BL_E_RANGE, "the plan lets %s grow and shrink", adapter->name);
    }
    *rank -= gone;
    for (int64_t i = adapter->first_rank; i < adapter->first_rank + adapter->rank; i++) {
        left += !group->removed[i] && !(group->scratch_ranks[i] & BL__LEAVES);
    }
    if (left == 0) {
        return bl__fail(BL_E_RANGE, "the plan leaves %s without a rank", adapter->name);
    }
    return check_movers(adapter, plan, first, end, *rank);
}

int bl__plan_check(bl_group *group, const bl_plan *plan)
{
    if (bl__is_adalora(group)) {
        return bl__fail(BL_E_STATE,
                        "AdaLoRA allocates ranks by itself: it takes no plan");
    }
    if (plan->step != group->t) {
        return bl__fail(BL_E_STATE, "the plan is for step %lld, the group is at %lld",
                        (long long) plan->step, (long long) group->t);
    }
    memset(group->scratch_ranks, 0, (size_t) group->ranks);
    for (int64_t row = 0; row < plan->count; row++) {
        const int rc = check_row(group, plan, row);
        if (rc != 0) {
            return rc;
        }
    }
    int64_t cost = 0;
    int64_t row = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        const int64_t           first = row;
        int64_t                 rank;
        while (row < plan->count && plan->modules[row] == i) {
            row++;
        }
        const int rc = check_module(adapter, plan, first, row, &rank);
        if (rc != 0) {
            return rc;
        }
        cost += rank * bl__adapter_cost(adapter);
    }
    if (group->options.budget > 0 && cost > group->options.budget) {
        return bl__fail(BL_E_RANGE, "the plan costs %lld parameters, the budget is %lld",
                        (long long) cost, (long long) group->options.budget);
    }
    return 0;
}
