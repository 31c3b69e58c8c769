/*
 * The plan of a reallocation as data: columns with a row per pruned rank, built by
 * select.c or by hand, carried as bytes, and carried out by apply.c.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

static const char magic[8] = "BLPLAN1";

/* One row in the bytes: module, pruned, source, age, action, importance. */
enum { ROW_WORDS = 6, HEAD_WORDS = 4, WORD = 8 };

static size_t column_bytes(int64_t capacity, size_t bytes)
{
    return bl__round_up(bl__mul((size_t) capacity, bytes));
}

static size_t plan_size(int64_t capacity)
{
    const size_t words = bl__mul(column_bytes(capacity, 8), 9);
    const size_t actions = column_bytes(capacity, sizeof(int32_t));
    const size_t entries = bl__mul(column_bytes(capacity, sizeof(struct bl__entry)), 2);
    return bl__add(bl__add(bl__round_up(sizeof(bl_plan)), words),
                   bl__add(actions, entries));
}

size_t bl__plan_bytes(int64_t capacity)
{
    return bl__alloc_cost(plan_size(capacity));
}

int bl__plan_create(bl_plan **out, const struct bl__allocator *allocator,
                    int64_t capacity)
{
    char *at = bl__alloc(allocator, plan_size(capacity));
    if (at == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for a plan of %zu bytes",
                        plan_size(capacity));
    }
    bl_plan *const plan = (bl_plan *) (void *) at;
    const size_t   word = column_bytes(capacity, 8);
    at += bl__round_up(sizeof *plan);
    plan->allocator = *allocator;
    plan->capacity = capacity;
    plan->modules = (int64_t *) (void *) at;
    plan->pruned = (int64_t *) (void *) (at += word);
    plan->sources = (int64_t *) (void *) (at += word);
    plan->ages = (int64_t *) (void *) (at += word);
    plan->order = (int64_t *) (void *) (at += word);
    plan->changes = (int64_t *) (void *) (at += word);
    plan->importances = (double *) (void *) (at += word);
    plan->g = (double *) (void *) (at += word);
    plan->norms = (double *) (void *) (at += word);
    plan->actions = (int32_t *) (void *) (at += word);
    at += column_bytes(capacity, sizeof(int32_t));
    plan->entries = (struct bl__entry *) (void *) at;
    at += column_bytes(capacity, sizeof(struct bl__entry));
    plan->module_entries = (struct bl__entry *) (void *) at;
    plan->step = -1;
    plan->threshold = NAN;
    *out = plan;
    return 0;
}

int bl_plan_create(bl_plan **out, const bl_group *group)
{
    if (out == NULL || group == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", out == NULL ? "out" : "group");
    }
    return bl__plan_create(out, &group->allocator, group->ranks);
}

void bl_plan_free(bl_plan *plan)
{
    if (plan != NULL) {
        const struct bl__allocator allocator = plan->allocator;
        bl__free(&allocator, plan);
    }
}

int64_t bl_plan_get_step(const bl_plan *plan)
{
    return plan->step;
}

double bl_plan_get_threshold(const bl_plan *plan)
{
    return plan->threshold;
}

int64_t bl_plan_get_count(const bl_plan *plan)
{
    return plan->count;
}

const int64_t *bl_plan_get_modules(const bl_plan *plan)
{
    return plan->modules;
}

const int64_t *bl_plan_get_pruned(const bl_plan *plan)
{
    return plan->pruned;
}

const int64_t *bl_plan_get_sources(const bl_plan *plan)
{
    return plan->sources;
}

const int32_t *bl_plan_get_actions(const bl_plan *plan)
{
    return plan->actions;
}

const int64_t *bl_plan_get_ages(const bl_plan *plan)
{
    return plan->ages;
}

const double *bl_plan_get_importances(const bl_plan *plan)
{
    return plan->importances;
}

int bl_plan_clear(bl_plan *plan, int64_t step)
{
    if (plan == NULL) {
        return bl__fail(BL_E_ARG, "plan is NULL");
    }
    plan->count = 0;
    plan->step = step;
    plan->threshold = NAN;
    return 0;
}

int bl_plan_add(bl_plan *plan, int64_t module, int64_t pruned, int64_t source,
                int32_t action, int64_t age)
{
    if (plan == NULL) {
        return bl__fail(BL_E_ARG, "plan is NULL");
    }
    if (plan->count == plan->capacity) {
        return bl__fail(BL_E_RANGE, "the plan is full with %lld rows",
                        (long long) plan->capacity);
    }
    if (action < BL_ACTION_HISTORY || action > BL_ACTION_SHRINK) {
        return bl__fail(BL_E_RANGE, "action is %d, must be in [%d, %d]", (int) action,
                        BL_ACTION_HISTORY, BL_ACTION_SHRINK);
    }
    const int64_t row = plan->count++;
    plan->modules[row] = module;
    plan->pruned[row] = pruned;
    plan->sources[row] = source;
    plan->actions[row] = action;
    plan->ages[row] = age;
    plan->importances[row] = 0;
    return 0;
}

/* ----- as bytes ----- */

static int put(bl_write_fn write, void *user, const void *data, size_t bytes)
{
    return write(user, data, bytes) == 0
               ? 0
               : bl__fail(BL_E_USER, "the host's write callback reported an error");
}

int bl_plan_save(const bl_plan *plan, bl_write_fn write, void *user)
{
    if (plan == NULL || write == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", plan == NULL ? "plan" : "write");
    }
    unsigned char head[HEAD_WORDS * WORD];
    memcpy(head, magic, sizeof magic);
    memcpy(head + WORD, &plan->step, WORD);
    memcpy(head + 2 * WORD, &plan->threshold, WORD);
    memcpy(head + 3 * WORD, &plan->count, WORD);
    int rc = put(write, user, head, sizeof head);
    for (int64_t i = 0; rc == 0 && i < plan->count; i++) {
        const int64_t action = plan->actions[i];
        unsigned char row[ROW_WORDS * WORD];
        memcpy(row, &plan->modules[i], WORD);
        memcpy(row + WORD, &plan->pruned[i], WORD);
        memcpy(row + 2 * WORD, &plan->sources[i], WORD);
        memcpy(row + 3 * WORD, &plan->ages[i], WORD);
        memcpy(row + 4 * WORD, &action, WORD);
        memcpy(row + 5 * WORD, &plan->importances[i], WORD);
        rc = put(write, user, row, sizeof row);
    }
    return rc;
}

int bl_plan_load(bl_plan *plan, const void *data, size_t bytes)
{
    if (plan == NULL || data == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", plan == NULL ? "plan" : "data");
    }
    const unsigned char *const head = data;
    if (bytes < HEAD_WORDS * WORD || memcmp(head, magic, sizeof magic) != 0) {
        return bl__fail(BL_E_FORMAT, "these %zu bytes are not a plan", bytes);
    }
    int64_t count;
    memcpy(&count, head + 3 * WORD, WORD);
    const size_t rest = bytes - HEAD_WORDS * WORD;
    if (count < 0 || rest % (ROW_WORDS * WORD) != 0 ||
        (uint64_t) count != rest / (ROW_WORDS * WORD)) {
        return bl__fail(BL_E_FORMAT, "a plan of %lld rows does not have %zu bytes",
                        (long long) count, bytes);
    }
    if (count > plan->capacity) {
        return bl__fail(BL_E_RANGE, "a plan of %lld rows, there is room for %lld",
                        (long long) count, (long long) plan->capacity);
    }
    const unsigned char *const rows = head + HEAD_WORDS * WORD;
    for (int64_t i = 0; i < count; i++) {
        int64_t action;
        memcpy(&action, rows + i * ROW_WORDS * WORD + 4 * WORD, WORD);
        if (action < BL_ACTION_HISTORY || action > BL_ACTION_SHRINK) {
            return bl__fail(BL_E_FORMAT, "row %lld of the plan has action %lld",
                            (long long) i, (long long) action);
        }
    }
    memcpy(&plan->step, head + WORD, WORD);
    memcpy(&plan->threshold, head + 2 * WORD, WORD);
    plan->count = count;
    for (int64_t i = 0; i < count; i++) {
        const unsigned char *const row = rows + i * ROW_WORDS * WORD;
        int64_t                    action;
        memcpy(&plan->modules[i], row, WORD);
        memcpy(&plan->pruned[i], row + WORD, WORD);
        memcpy(&plan->sources[i], row + 2 * WORD, WORD);
        memcpy(&plan->ages[i], row + 3 * WORD, WORD);
        memcpy(&action, row + 4 * WORD, WORD);
        memcpy(&plan->importances[i], row + 5 * WORD, WORD);
        plan->actions[i] = (int32_t) action;
    }
    return 0;
}
