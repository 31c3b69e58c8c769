/* bl_plan_load and what a group does with a plan that it did not make: the input as it is,
 * and its rows, one byte a column, behind a head of the right size. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

struct sink {
    uint8_t data[1 << 12];
    size_t  used;
};

static int keep(void *user, const void *data, size_t bytes)
{
    struct sink *sink = user;

    fuzz_check(bytes <= sizeof sink->data - sink->used);
    memcpy(sink->data + sink->used, data, bytes);
    sink->used += bytes;
    return 0;
}

/* A plan that was taken is the bytes it was made of; one that a group refuses has changed
 * nothing there. */
static void use(bl_group *group, bl_plan *plan, const uint8_t *data, size_t size)
{
    struct sink sink = { { 0 }, 0 }, old = { { 0 }, 0 };
    size_t      before_size, after_size;
    uint8_t    *before, *after;

    fuzz_check(bl_plan_save(plan, keep, &old) == 0);
    if (bl_plan_load(plan, data, size) != 0) {
        fuzz_check_line(bl_last_error());
        fuzz_check(bl_plan_save(plan, keep, &sink) == 0);
        fuzz_check(sink.used == old.used && memcmp(sink.data, old.data, old.used) == 0);
        return;
    }
    fuzz_check(bl_plan_save(plan, keep, &sink) == 0);
    fuzz_check(sink.used == size && memcmp(sink.data, data, size) == 0);
    before = fuzz_save(group, &before_size);
    if (bl_group_apply(group, plan) != 0) {
        fuzz_check_line(bl_last_error());
        after = fuzz_save(group, &after_size);
        fuzz_check(memcmp(before, after, before_size) == 0);
        free(after);
    } else {
        fuzz_train(group, 5);
    }
    free(before);
}

/* "BLPLAN1", step, threshold, count, rows of six words; as in lib/plan.c. */
static uint8_t *make(const bl_group *group, struct fuzz_input input, size_t *size)
{
    int64_t  rows = (int64_t) (input.size / 6), step = bl_group_get_step(group);
    uint8_t *data;

    rows = rows < 64 ? rows : 64;
    *size = 32 + (size_t) rows * 48;
    data = calloc(*size, 1);
    fuzz_check(data != NULL);
    memcpy(data, "BLPLAN1", 8);
    memcpy(data + 8, &step, 8);
    memcpy(data + 24, &rows, 8);
    for (int64_t i = 0; i < 6 * rows; i++) {
        int64_t value = (int8_t) fuzz_byte(&input);

        memcpy(data + 32 + 8 * i, &value, 8);
    }
    return data;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    bl_group         *group = fuzz_group(fuzz_byte(&input) % FUZZ_VARIANTS);
    int               steps = fuzz_byte(&input) % 12;
    bl_plan          *plan = NULL;
    uint8_t          *made;
    size_t            bytes;

    fuzz_train(group, steps);
    fuzz_check(bl_plan_create(&plan, group) == 0);
    use(group, plan, input.data, input.size);
    made = make(group, input, &bytes);
    use(group, plan, made, bytes);
    free(made);
    bl_plan_free(plan);
    bl_group_free(group);
    return 0;
}
