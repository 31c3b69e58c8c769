/*
 * Which ranks a reallocation prunes, and what takes their place: importance, one total
 * order, Top-P, cap, pairing (docs/method.md, "One reallocation"). Decides only;
 * apply.c carries it out. Scratch lives in the plan. Where ranks move between modules,
 * grow.c says what takes their place.
 */
#include <math.h>

#include "internal.h"

/* Importance descending, ties by module, then by rank. */
static int comes_before(const struct bl__entry *a, const struct bl__entry *b)
{
    if (a->importance != b->importance) {
        return a->importance > b->importance;
    }
    return a->module != b->module ? a->module < b->module : a->rank < b->rank;
}

static void sift_down(struct bl__entry *entries, int64_t root, int64_t count)
{
    const struct bl__entry entry = entries[root];
    for (int64_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && comes_before(&entries[child], &entries[child + 1])) {
            child++;
        }
        if (!comes_before(&entry, &entries[child])) {
            break;
        }
        entries[root] = entries[child];
        root = child;
    }
    entries[root] = entry;
}

/* Heapsort: the C library's qsort may allocate. */
void bl__entries_sort(struct bl__entry *entries, int64_t count)
{
    for (int64_t i = count / 2 - 1; i >= 0; i--) {
        sift_down(entries, i, count);
    }
    for (int64_t last = count - 1; last > 0; last--) {
        const struct bl__entry entry = entries[0];
        entries[0] = entries[last];
        entries[last] = entry;
        sift_down(entries, 0, last);
    }
}

/* ----- importance ----- */

/* The entries of a module's ranks that were not removed; how many, or a code < 0. */
static int64_t rate_module(const bl_adapter *adapter, bl_plan *plan,
                           struct bl__entry *entries)
{
    const bl_group *const   group = adapter->group;
    const bl_options *const o = &group->options;
    const uint8_t *const    removed = group->removed + adapter->first_rank;
    const int               by_size = o->importance != BL_IMPORTANCE_SCORE || o->idle > 0;
    bl__adapter_importance(adapter, plan->norms, plan->g);
    double  sum = 0;
    int64_t count = 0;
    if (by_size) {
        bl__adapter_norms(adapter, plan->g, plan->norms);
    }
    for (int64_t i = 0; i < adapter->rank; i++) {
        if (removed[i]) {
            continue;
        }
        const double contribution = by_size ? plan->norms[i] : 1;
        if (!isfinite(plan->g[i]) || !isfinite(contribution)) {
            return bl__fail(BL_E_NONFINITE, "importance of rank %lld of %s is not finite",
                            (long long) i, adapter->name);
        }
        sum += contribution;
        entries[count++] = (struct bl__entry){
            .importance = o->importance == BL_IMPORTANCE_NORM ? contribution : plan->g[i],
            .contribution = contribution,
            .module = adapter->index,
            .rank = i,
        };
    }
    const double mean = sum / (double) count;
    for (int64_t k = 0; k < count; k++) {
        entries[k].contribution = mean > 0 ? entries[k].contribution / mean : 1;
        if (o->importance == BL_IMPORTANCE_CONTRIBUTION) {
            entries[k].importance = entries[k].contribution;
        }
    }
    return count;
}

/* ----- Top-P ----- */

/* Mark what comes after the entry at which the cumulative sum exceeds p of the total,
 * and that entry too if it is to be pruned. Entries are in order. */
static void mark_tail(const bl_options *o, double p, struct bl__entry *entries,
                      int64_t count)
{
    if (p >= 1) {
        return;
    }
    double total = 0;
    for (int64_t i = 0; i < count; i++) {
        total += entries[i].importance;
    }
    double  sum = 0;
    int64_t kept = 0;
    while (kept < count) {
        sum += entries[kept].importance;
        if (sum > p * total) {
            break;
        }
        kept++;
    }
    if (o->crossing == BL_CROSSING_KEPT) {
        kept++;
    }
    for (int64_t i = kept; i < count; i++) {
        entries[i].fate = BL__GOES;
    }
}

/* Of a module's marked entries, in order, keep marked the last ones up to the cap that
 * are idle enough; how many. */
static int64_t limit_marks(const bl_options *o, int64_t rank, struct bl__entry *entries,
                           int64_t count)
{
    const int64_t cap = bl__schedule_cap(o, rank, count);
    int64_t       marked = 0;
    for (int64_t i = count - 1; i >= 0; i--) {
        const int idle = o->idle == 0 || entries[i].contribution < o->idle;
        if (entries[i].fate == BL__GOES && idle && marked < cap) {
            marked++;
        } else {
            entries[i].fate = BL__STAYS;
        }
    }
    return marked;
}

/* ----- pairs ----- */

/* Ablation: as many ranks, drawn at random from the module's. */
static void mark_at_random(const bl_group *group, bl_plan *plan, int64_t module,
                           struct bl__entry *entries, int64_t count, int64_t marks)
{
    for (int64_t i = 0; i < count; i++) {
        plan->order[i] = i;
        entries[i].fate = BL__STAYS;
    }
    bl__random_shuffle(bl__random_key(group->options.seed, BL__DRAW_SELECT,
                                      (uint64_t) group->t, (uint64_t) module),
                       plan->order, count);
    for (int64_t i = 0; i < marks; i++) {
        entries[plan->order[i]].fate = BL__GOES;
    }
}

int64_t bl__select_list(const bl_adapter *adapter, bl_plan *plan,
                        const struct bl__entry *entries, int64_t entry_count)
{
    const int64_t first = plan->count;
    for (int64_t i = 0; i < entry_count; i++) {
        if (entries[i].fate != BL__GOES) {
            continue;
        }
        int64_t row = plan->count++;
        for (; row > first && plan->pruned[row - 1] > entries[i].rank; row--) {
            plan->pruned[row] = plan->pruned[row - 1];
            plan->importances[row] = plan->importances[row - 1];
        }
        plan->pruned[row] = entries[i].rank;
        plan->importances[row] = entries[i].importance;
    }
    for (int64_t row = first; row < plan->count; row++) {
        plan->modules[row] = adapter->index;
    }
    return first;
}

void bl__select_fill(const bl_adapter *adapter, bl_plan *plan, int64_t row,
                     int64_t source)
{
    static const int32_t actions[] = {
        [BL_EXPAND_HISTORY] = BL_ACTION_HISTORY,
        [BL_EXPAND_CURRENT] = BL_ACTION_CURRENT,
        [BL_EXPAND_FRESH] = BL_ACTION_FRESH,
        [BL_EXPAND_NONE] = BL_ACTION_PRUNE,
    };
    const bl_group *const group = adapter->group;
    int32_t               action = actions[group->options.expand];
    int64_t               age = -1;
    if (action == BL_ACTION_HISTORY) {
        const int64_t slot = bl__history_find(adapter, source);
        if (slot < 0) {
            action = BL_ACTION_SKIP;
        } else {
            age = group->t - group->snapshot_step[slot];
        }
    }
    plan->sources[row] = action == BL_ACTION_PRUNE ? -1 : source;
    plan->actions[row] = action;
    plan->ages[row] = age;
}

void bl__select_shuffle(const bl_adapter *adapter, bl_plan *plan, int64_t count)
{
    const bl_group *const group = adapter->group;
    if (group->options.pairing == BL_PAIRING_SHUFFLED) {
        bl__random_shuffle(bl__random_key(group->options.seed, BL__DRAW_PAIRING,
                                          (uint64_t) group->t, (uint64_t) adapter->index),
                           plan->order, count);
    }
}

/* A source for each marked entry: those that stay first, then, where more than half go,
 * the best of those that go. */
static void pair_module(const bl_adapter *adapter, bl_plan *plan,
                        const struct bl__entry *entries, int64_t entry_count)
{
    const int64_t first = bl__select_list(adapter, plan, entries, entry_count);
    const int64_t count = plan->count - first;
    int64_t       found = 0;
    for (int32_t fate = BL__STAYS; fate <= BL__GOES; fate++) {
        for (int64_t i = 0; i < entry_count && found < count; i++) {
            if (entries[i].fate == fate) {
                plan->order[found++] = entries[i].rank;
            }
        }
    }
    bl__select_shuffle(adapter, plan, count);
    for (int64_t k = 0; k < count; k++) {
        bl__select_fill(adapter, plan, first + k, plan->order[k]);
    }
}

/* ----- the whole ----- */

/* The last word on which of a module's entries are marked. */
static void settle_marks(const bl_adapter *adapter, bl_plan *plan,
                         struct bl__entry *entries, int64_t count)
{
    const bl_options *const o = &adapter->group->options;
    if (o->fixed_count > 0) {
        for (int64_t i = 0; i < count; i++) {
            entries[i].fate = count - i <= o->fixed_count ? BL__GOES : BL__STAYS;
        }
    }
    const int64_t marked = limit_marks(o, adapter->rank, entries, count);
    if (marked > 0 && o->selection == BL_SELECT_RANDOM) {
        mark_at_random(adapter->group, plan, adapter->index, entries, count, marked);
    }
}

/* Entries of all modules, in order, to module_entries: each module's together, at its
 * first rank, in the same order. plan->order counts them meanwhile. */
static void split_by_module(const bl_group *group, bl_plan *plan, int64_t entry_count)
{
    for (int64_t i = 0; i < group->count; i++) {
        plan->order[i] = 0;
    }
    for (int64_t i = 0; i < entry_count; i++) {
        const int64_t module = plan->entries[i].module;
        const int64_t first = group->adapters[module].first_rank;
        plan->module_entries[first + plan->order[module]++] = plan->entries[i];
    }
}

int bl_group_plan(const bl_group *group, bl_plan *plan)
{
    if (group == NULL || plan == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "plan");
    }
    const bl_options *const o = &group->options;
    bl_plan_clear(plan, group->t);
    if (plan->capacity < group->ranks) {
        return bl__fail(BL_E_ARG, "plan has room for %lld ranks, the group has %lld",
                        (long long) plan->capacity, (long long) group->ranks);
    }
    if (!o->reallocation) {
        return bl__fail(BL_E_STATE, "reallocation is off in this group's options");
    }
    if (o->expand == BL_EXPAND_HISTORY && group->snapshots == 0) {
        return bl__fail(BL_E_STATE, "the history is empty: no snapshot by step %lld",
                        (long long) group->t);
    }
    plan->threshold = bl__schedule_threshold(o, group->t);
    const int joint = o->scope != BL_SCOPE_MODULE;
    int64_t   total = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        if (adapter->frozen) {
            continue;
        }
        struct bl__entry *const entries = plan->entries + total;
        const int64_t           count = rate_module(adapter, plan, entries);
        if (count < 0) {
            bl_plan_clear(plan, group->t);
            return (int) count;
        }
        if (!joint) {
            bl__entries_sort(entries, count);
            mark_tail(o, plan->threshold, entries, count);
        }
        total += count;
    }
    if (joint) {
        bl__entries_sort(plan->entries, total);
        mark_tail(o, plan->threshold, plan->entries, total);
    }
    split_by_module(group, plan, total);
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        struct bl__entry *const entries = plan->module_entries + adapter->first_rank;
        const int64_t           count = bl_adapter_get_kept(adapter);
        if (adapter->frozen) {
            continue;
        }
        settle_marks(adapter, plan, entries, count);
        if (o->scope != BL_SCOPE_GLOBAL) {
            pair_module(adapter, plan, entries, count);
        }
    }
    if (o->scope == BL_SCOPE_GLOBAL) {
        bl__grow(group, plan, total);
    }
    return 0;
}
