/*
 * Carrying out a plan: moves rows of A, B, their moments and attached arrays, and scores
 * (docs/method.md, "One reallocation", steps 5 to 7), then closes the gaps where ranks were
 * given up. Touches only what moves.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "internal.h"

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
        kept += !group->removed[first + i] &&
                !(group->scratch_ranks[first + i] & BL__IS_PRUNED);
    }
    for (int64_t j = 0; kept > 0 && j < tensor->cols; j++) {
        double sum = 0;
        for (int64_t i = 0; i < adapter->rank; i++) {
            if (!group->removed[first + i] &&
                !(group->scratch_ranks[first + i] & BL__IS_PRUNED)) {
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
        if (action == BL_ACTION_SKIP || action == BL_ACTION_SHRINK) {
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
            bl__convert(
                group->dtype, to, group->options.history_dtype,
                bl__history_at(group, tensor->buffer, slot,
                               tensor->offset + plan->sources[row] * tensor->cols),
                tensor->cols);
        }
    }
}

/* ----- scores ----- */

static double *read_scores(const bl_adapter *adapter)
{
    bl_group *const   group = adapter->group;
    double *const     scores = group->scratch_scores;
    const void *const s =
        bl__at_const(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, adapter->s);
    for (int64_t i = 0; i < adapter->rank; i++) {
        scores[i] = bl__get(group->dtype, s, i);
    }
    return scores;
}

/* The score that a rank has before it shares its source's: a new one has none of its own. */
static double score_before(const bl_adapter *adapter, const double *old, int64_t rank,
                           int64_t source)
{
    if (rank < adapter->rank) {
        return old[rank];
    }
    if (source >= 0) {
        return old[source];
    }
    double sum = 0;
    for (int64_t i = 0; i < adapter->rank; i++) {
        sum += adapter->group->removed[adapter->first_rank + i] ? 0 : old[i];
    }
    return sum / (double) bl_adapter_get_kept(adapter);
}

static void share_scores(bl_adapter *adapter, const bl_plan *plan, int64_t first,
                         int64_t end)
{
    bl_group *const         group = adapter->group;
    const bl_options *const o = &group->options;
    const double *const     old = read_scores(adapter);
    const int               preserve = o->transfer == BL_TRANSFER_PRESERVE;
    void *const             s =
        bl__at(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, adapter->s);
    /* Destinations first, then sources: a rank that is both ends as a source. */
    for (int to_source = 0; to_source < 2; to_source++) {
        for (int64_t row = first; row < end; row++) {
            const int32_t action = plan->actions[row];
            const int64_t source = plan->sources[row];
            const int64_t rank = plan->pruned[row];
            const int     shares = bl__plan_has_source(action, source) &&
                               !(action == BL_ACTION_FRESH && preserve);
            if (!shares && (to_source || rank < adapter->rank)) {
                continue;
            }
            const double before = score_before(adapter, old, rank, source);
            const double shared = !shares    ? before
                                  : preserve ? old[source] - o->temperature * log(2)
                                             : (before + old[source]) / 2;
            bl__set(group->dtype, s, to_source ? source : rank, shared);
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

/* ----- ranks ----- */

static void copy_rank(const bl_adapter *adapter, int32_t dtype, void *buffer, int64_t to,
                      int64_t from)
{
    for (int32_t which = BL_TENSOR_A; which <= BL_TENSOR_SCORES; which++) {
        int64_t       ranks, cols;
        const int64_t offset = bl__tensor(adapter, which, &ranks, &cols);
        const int64_t width = which == BL_TENSOR_SCORES ? 1 : cols; /* of a rank */
        if (offset >= 0) {
            memcpy(bl__at(dtype, buffer, offset + to * width),
                   bl__at(dtype, buffer, offset + from * width),
                   (size_t) width * bl__dtype_bytes(dtype));
        }
    }
}

/* Everything that rank `from` has becomes rank `to`'s, in snapshots too. */
static void move_rank(bl_adapter *adapter, int64_t to, int64_t from)
{
    bl_group *const group = adapter->group;
    const int64_t   first = adapter->first_rank;
    for (int32_t k = 0; k < group->buffer_count; k++) {
        if (group->buffers[k].data != NULL) {
            copy_rank(adapter, group->dtype, group->buffers[k].data, to, from);
        }
        for (int64_t i = 0; i < group->options.history_depth; i++) {
            if (group->buffers[k].history != NULL) {
                copy_rank(adapter, group->options.history_dtype,
                          bl__history_data(group, k, i), to, from);
            }
        }
    }
    group->born[first + to] = group->born[first + from];
    group->removed[first + to] = group->removed[first + from];
    group->mask[first + to] = group->mask[first + from];
}

/* A new rank is in no snapshot: what is there was another's, and not in the state. */
static void forget_past(const bl_adapter *adapter, int64_t rank)
{
    bl_group *const group = adapter->group;
    for (int32_t k = 0; k < group->buffer_count; k++) {
        for (int64_t i = 0; i < group->options.history_depth; i++) {
            if (group->buffers[k].history != NULL) {
                bl__adapter_clear(adapter, group->options.history_dtype,
                                  bl__history_data(group, k, i), rank, rank + 1);
            }
        }
    }
}

/* Close the gaps of ranks that were given up, and count the new ones. */
static void resize(bl_adapter *adapter, const bl_plan *plan, int64_t first, int64_t end)
{
    bl_group *const group = adapter->group;
    int64_t         rank = adapter->rank;
    for (int64_t row = first; row < end; row++) {
        if (bl__plan_is_new(adapter, plan, row)) {
            group->removed[adapter->first_rank + plan->pruned[row]] = 0;
            group->mask[adapter->first_rank + plan->pruned[row]] = 1;
            forget_past(adapter, plan->pruned[row]);
            rank++;
        } else if (plan->actions[row] == BL_ACTION_SHRINK) {
            if (plan->sources[row] >= 0) {
                move_rank(adapter, plan->pruned[row], plan->sources[row]);
            }
            rank--;
        }
    }
    for (int32_t k = 0; k < group->buffer_count; k++) {
        if (rank < adapter->rank && group->buffers[k].data != NULL) {
            bl__adapter_clear(adapter, group->dtype, group->buffers[k].data, rank,
                              adapter->rank);
        }
    }
    adapter->rank = rank;
}

/* ----- the whole ----- */

static double highest_score(const bl_adapter *adapter)
{
    const double *const s = read_scores(adapter);
    double              most = -INFINITY;
    for (int64_t i = 0; i < adapter->rank; i++) {
        if (!adapter->group->removed[adapter->first_rank + i]) {
            most = fmax(most, s[i]);
        }
    }
    return most;
}

/* Sum of exp((s - most) / tau) over the module's ranks. */
static double weigh(const bl_adapter *adapter, double most)
{
    const bl_group *const group = adapter->group;
    const double *const   s = read_scores(adapter);
    double                sum = 0;
    for (int64_t i = 0; i < adapter->rank; i++) {
        if (!group->removed[adapter->first_rank + i]) {
            sum += exp((s[i] - most) / group->options.temperature);
        }
    }
    return sum;
}

static void mark_rows(const bl_adapter *adapter, const bl_plan *plan, int64_t first,
                      int64_t end)
{
    bl_group *const group = adapter->group;
    for (int64_t row = first; row < end; row++) {
        const int64_t rank = adapter->first_rank + plan->pruned[row];
        const int32_t action = plan->actions[row];
        if (action == BL_ACTION_PRUNE) {
            group->removed[rank] = 1;
        } else if (action != BL_ACTION_SKIP && action != BL_ACTION_SHRINK) {
            group->born[rank] = group->t;
        }
    }
}

/* Scores, ranks, and the sum of g that goes with them. */
static void change_ranks(bl_adapter *adapter, const bl_plan *plan, int64_t first,
                         int64_t end)
{
    const bl_options *const o = &adapter->group->options;
    const int64_t           rank = adapter->rank;
    const int               scored = adapter->s != adapter->magnitude;
    const double            most = scored ? highest_score(adapter) : 0;
    const double            before = scored ? weigh(adapter, most) : 1;
    if (scored) {
        share_scores(adapter, plan, first, end);
    }
    mark_rows(adapter, plan, first, end);
    resize(adapter, plan, first, end);
    if (!scored || o->transfer == BL_TRANSFER_MEAN) {
        adapter->mass = (double) adapter->rank;
    } else if (o->scope == BL_SCOPE_GLOBAL || adapter->rank != rank) {
        const double mass = adapter->mass * weigh(adapter, most) / before;
        /* above 0 also where all that had weight is gone; never NaN */
        adapter->mass = isfinite(mass) ? fmax(mass, DBL_MIN) : adapter->mass;
    }
}

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
    change_ranks(adapter, plan, first, end);
}

int bl_group_apply(bl_group *group, const bl_plan *plan)
{
    if (group == NULL || plan == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "plan");
    }
    const int rc = bl__plan_check(group, plan);
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
