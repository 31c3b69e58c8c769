/*
 * Carrying out a plan: checks all of it, then moves rows of A, B, their moments and
 * attached arrays, and scores (docs/method.md, "One reallocation", steps 5 to 7).
 * Touches only what moves.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

enum { IS_LISTED = 1, IS_PRUNED = 2, IS_SOURCE = 4, LEAVES = 8 };

/* ----- checks ----- */

static int has_source(int32_t action, int64_t source)
{
    return action != BL_ACTION_PRUNE && !(action == BL_ACTION_FRESH && source == -1);
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
    const int64_t           source = plan->sources[row];
    const int32_t           action = plan->actions[row];
    if (adapter->frozen) {
        return bl__fail(BL_E_STATE, "%s is frozen", adapter->name);
    }
    int rc = check_rank(adapter, "pruned", pruned);
    if (rc != 0) {
        return rc;
    }
    if (marks[pruned] & IS_LISTED) {
        return bl__fail(BL_E_RANGE, "rank %lld of %s is pruned twice", (long long) pruned,
                        adapter->name);
    }
    marks[pruned] |= IS_LISTED;
    if (action == BL_ACTION_SKIP) {
        return 0;
    }
    marks[pruned] |= action == BL_ACTION_PRUNE ? IS_PRUNED | LEAVES : IS_PRUNED;
    if (has_source(action, source)) {
        rc = check_rank(adapter, "source", source);
        if (rc != 0) {
            return rc;
        }
        if (marks[source] & IS_SOURCE) {
            return bl__fail(BL_E_RANGE, "rank %lld of %s is a source twice",
                            (long long) source, adapter->name);
        }
        marks[source] |= IS_SOURCE;
    }
    if (action == BL_ACTION_HISTORY &&
        group->buffers[BL_BUFFER_PARAMETERS].history == NULL) {
        return bl__fail(BL_E_STATE, "the group keeps no history");
    }
    if (action == BL_ACTION_HISTORY && bl__history_slot(group, plan->ages[row]) < 0) {
        return bl__fail(BL_E_STATE, "the history holds no snapshot of age %lld",
                        (long long) plan->ages[row]);
    }
    return 0;
}

static int check_plan(bl_group *group, const bl_plan *plan)
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
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        int64_t                 left = 0;
        for (int64_t k = adapter->first_rank; k < adapter->first_rank + adapter->rank;
             k++) {
            left += !group->removed[k] && !(group->scratch_ranks[k] & LEAVES);
        }
        if (left == 0) {
            return bl__fail(BL_E_RANGE, "the plan leaves %s without a rank",
                            adapter->name);
        }
    }
    return 0;
}

/* ----- one tensor of one buffer ----- */

struct tensor {
    const bl_adapter *adapter;
    int32_t           which, buffer;
    int64_t           offset, cols;
    size_t            row_bytes;
};

static void *row_at(const struct tensor *tensor, int64_t rank)
{
    const bl_group *const group = tensor->adapter->group;
    return bl__at(group->dtype, group->buffers[tensor->buffer].data,
                  tensor->offset + rank * tensor->cols);
}

static void *scratch_row(const struct tensor *tensor, int64_t row)
{
    const bl_group *const group = tensor->adapter->group;
    return bl__at(group->dtype, group->scratch, row * tensor->cols);
}

/* The start of a fresh rank: A random, as at creation; everything else zero, or the mean
 * over the ranks that stay. */
static void start_afresh(const struct tensor *tensor, int64_t rank)
{
    const bl_adapter *const adapter = tensor->adapter;
    const bl_group *const   group = adapter->group;
    void *const             to = row_at(tensor, rank);
    memset(to, 0, tensor->row_bytes);
    if (tensor->buffer == BL_BUFFER_PARAMETERS) {
        if (tensor->which == BL_TENSOR_A) {
            const double   bound = 1 / sqrt((double) adapter->in);
            const uint64_t key = bl__random_key(adapter->seed, BL__DRAW_FRESH,
                                                (uint64_t) group->t, (uint64_t) rank);
            for (int64_t j = 0; j < tensor->cols; j++) {
                const double u = bl__random_unit(key, (uint64_t) j);
                bl__set(group->dtype, to, j, bound * (2 * u - 1));
            }
        }
        return;
    }
    if (group->buffers[tensor->buffer].fresh != BL_FRESH_MEAN) {
        return;
    }
    const int64_t first = adapter->first_rank;
    int64_t       kept = 0;
    for (int64_t i = 0; i < adapter->rank; i++) {
        kept +=
            !group->removed[first + i] && !(group->scratch_ranks[first + i] & IS_PRUNED);
    }
    for (int64_t j = 0; kept > 0 && j < tensor->cols; j++) {
        double sum = 0;
        for (int64_t i = 0; i < adapter->rank; i++) {
            if (!group->removed[first + i] &&
                !(group->scratch_ranks[first + i] & IS_PRUNED)) {
                sum += bl__get(group->dtype, row_at(tensor, i), j);
            }
        }
        bl__set(group->dtype, to, j, sum / (double) kept);
    }
}

/* Carry out rows [first, end) of the plan, all of one module, on one tensor. */
static void move_rows(const struct tensor *tensor, const bl_plan *plan, int64_t first,
                      int64_t end)
{
    const bl_group *const group = tensor->adapter->group;
    const int             is_moment = tensor->buffer != BL_BUFFER_PARAMETERS;
    const int32_t         moments = group->options.moments;
    /* A source may be a destination too: read all present rows before writing any. */
    for (int64_t row = first; row < end; row++) {
        if (plan->actions[row] == BL_ACTION_CURRENT) {
            memcpy(scratch_row(tensor, row - first), row_at(tensor, plan->sources[row]),
                   tensor->row_bytes);
        }
    }
    for (int64_t row = first; row < end; row++) {
        const int64_t rank = plan->pruned[row];
        const int32_t action = plan->actions[row];
        void *const   to = row_at(tensor, rank);
        if (action == BL_ACTION_SKIP) {
            continue;
        }
        if (action == BL_ACTION_FRESH) {
            start_afresh(tensor, rank);
        } else if (action == BL_ACTION_PRUNE ||
                   (is_moment && moments == BL_MOMENTS_ZERO)) {
            memset(to, 0, tensor->row_bytes);
        } else if (is_moment && moments == BL_MOMENTS_KEEP) {
            continue;
        } else if (action == BL_ACTION_CURRENT) {
            memcpy(to, scratch_row(tensor, row - first), tensor->row_bytes);
        } else {
            const int64_t slot = bl__history_slot(group, plan->ages[row]);
            memcpy(to,
                   bl__history_at(group, tensor->buffer, slot,
                                  tensor->offset + plan->sources[row] * tensor->cols),
                   tensor->row_bytes);
        }
    }
}

/* ----- scores ----- */

static void share_scores(bl_adapter *adapter, const bl_plan *plan, int64_t first,
                         int64_t end)
{
    bl_group *const         group = adapter->group;
    const bl_options *const o = &group->options;
    double *const           old = group->scratch_scores;
    void *const             s =
        bl__at(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, adapter->s);
    for (int64_t i = 0; i < adapter->rank; i++) {
        old[i] = bl__get(group->dtype, s, i);
    }
    /* Destinations first, then sources: a rank that is both ends as a source. */
    for (int to_source = 0; to_source < 2; to_source++) {
        for (int64_t row = first; row < end; row++) {
            const int32_t action = plan->actions[row];
            const int64_t source = plan->sources[row];
            const int     preserve = o->transfer == BL_TRANSFER_PRESERVE;
            if (action == BL_ACTION_SKIP || !has_source(action, source) ||
                (action == BL_ACTION_FRESH && preserve)) {
                continue;
            }
            const int64_t pruned = plan->pruned[row];
            const double  shared = preserve ? old[source] - o->temperature * log(2)
                                            : (old[pruned] + old[source]) / 2;
            bl__set(group->dtype, s, to_source ? source : pruned, shared);
        }
    }
}

/* Scores' moments of every module that trains start again. */
static void clear_score_moments(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        for (int32_t k = BL_BUFFER_M; k < group->buffer_count; k++) {
            if (group->buffers[k].data != NULL && !adapter->frozen) {
                memset(bl__at(group->dtype, group->buffers[k].data, adapter->s), 0,
                       (size_t) (adapter->magnitude - adapter->s) *
                           bl__dtype_bytes(group->dtype));
            }
        }
    }
}

/* ----- the whole ----- */

static void apply_module(bl_adapter *adapter, const bl_plan *plan, int64_t first,
                         int64_t end)
{
    bl_group *const group = adapter->group;
    for (int32_t k = 0; k < group->buffer_count; k++) {
        if (k == BL_BUFFER_GRADIENTS || group->buffers[k].data == NULL) {
            continue;
        }
        for (int32_t which = BL_TENSOR_A; which <= BL_TENSOR_B; which++) {
            struct tensor tensor = { .adapter = adapter, .which = which, .buffer = k };
            int64_t       ranks;
            tensor.offset = bl__tensor(adapter, which, &ranks, &tensor.cols);
            tensor.row_bytes = (size_t) tensor.cols * bl__dtype_bytes(group->dtype);
            move_rows(&tensor, plan, first, end);
        }
    }
    if (adapter->s != adapter->magnitude) {
        share_scores(adapter, plan, first, end);
    }
    for (int64_t row = first; row < end; row++) {
        const int64_t rank = adapter->first_rank + plan->pruned[row];
        if (plan->actions[row] == BL_ACTION_PRUNE) {
            group->removed[rank] = 1;
        } else if (plan->actions[row] != BL_ACTION_SKIP) {
            group->born[rank] = group->t;
        }
    }
}

int bl_group_apply(bl_group *group, const bl_plan *plan)
{
    if (group == NULL || plan == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "plan");
    }
    const int rc = check_plan(group, plan);
    if (rc != 0) {
        return rc;
    }
    for (int64_t row = 0; row < plan->count;) {
        int64_t end = row + 1;
        while (end < plan->count && plan->modules[end] == plan->modules[row]) {
            end++;
        }
        apply_module(&group->adapters[plan->modules[row]], plan, row, end);
        row = end;
    }
    clear_score_moments(group);
    group->reallocated = group->t;
    bl__group_changed(group, 0);
    return 0;
}

int bl_group_reallocate(bl_group *group, bl_plan *plan)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    bl_plan *const used = plan == NULL ? group->plan : plan;
    const int      rc = bl_group_plan(group, used);
    return rc != 0 ? rc : bl_group_apply(group, used);
}

int bl_reallocate(bl_adapter *adapter, bl_plan *plan)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    if (adapter->group->count > 1) {
        return bl__fail(BL_E_STATE,
                        "%s is one of %lld adapters of a group: reallocate the group",
                        adapter->name, (long long) adapter->group->count);
    }
    return bl_group_reallocate(adapter->group, plan);
}

int32_t bl_group_reallocate_due(const bl_group *group)
{
    return group->reallocated != group->t && bl__schedule_due(&group->options, group->t);
}

int32_t bl_reallocate_due(const bl_adapter *adapter)
{
    return bl_group_reallocate_due(adapter->group);
}

double bl_group_get_threshold(const bl_group *group)
{
    return group->options.reallocation ? bl__schedule_threshold(&group->options, group->t)
                                       : 1;
}
