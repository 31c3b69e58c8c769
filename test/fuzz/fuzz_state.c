/*
 * bl_group_set_state: the arrays of another group of the same settings, at odd addresses,
 * some of them changed, left out, doubled or in another place.
 *
 * A change is a byte of kind, one of the array, and what the kind takes.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { ARRAYS_MOST = 160 };

struct state {
    bl_array list[ARRAYS_MOST];
    uint8_t *own[ARRAYS_MOST]; /* their memory */
    size_t   bytes[ARRAYS_MOST];
    int64_t  count;
};

static size_t bytes_of(const bl_array *array)
{
    static const size_t widths[] = {
        [BL_F32] = 4, [BL_F64] = 8, [BL_I64] = 8, [BL_F16] = 2, [BL_BF16] = 2, [BL_U8] = 1
    };
    int64_t count = array->shape[0] * (array->dims == 2 ? array->shape[1] : 1);

    return (size_t) count * widths[array->dtype];
}

static void take(struct state *state, const bl_group *group)
{
    state->count = bl_group_get_state_count(group);
    fuzz_check(state->count <= ARRAYS_MOST);
    for (int64_t i = 0; i < state->count; i++) {
        bl_array *array = &state->list[i];

        fuzz_check(bl_group_get_state(group, i, array) == 0);
        state->bytes[i] = bytes_of(array);
        state->own[i] = malloc(bytes_of(array) + 1);
        fuzz_check(state->own[i] != NULL);
        memcpy(state->own[i] + 1, array->data, bytes_of(array));
        array->data = state->own[i] + 1;
    }
}

static void swap(struct state *state, int64_t i, int64_t k)
{
    bl_array array = state->list[i];
    uint8_t *own = state->own[i];
    size_t   bytes = state->bytes[i];

    state->list[i] = state->list[k];
    state->own[i] = state->own[k];
    state->bytes[i] = state->bytes[k];
    state->list[k] = array;
    state->own[k] = own;
    state->bytes[k] = bytes;
}

static void change(struct state *state, struct fuzz_input *input)
{
    int       kind = fuzz_byte(input);
    int64_t   at = fuzz_byte(input) % state->count;
    bl_array *array = &state->list[at];
    uint8_t  *data = state->own[at] + 1;

    switch (kind % 8) {
    case 0: /* a byte of the data, or a word with the sign of that byte */
    case 1: {
        size_t  place = fuzz_byte(input);
        uint8_t value = fuzz_byte(input);

        if (kind % 2 == 0 && state->bytes[at] >= 8) {
            place = place % (state->bytes[at] / 8) * 8;
            memset(data + place, value >= 128 ? 255 : 0, 8);
        }
        if (state->bytes[at] > 0) {
            data[place % state->bytes[at]] = value;
        }
        break;
    }
    case 2:
        array->shape[fuzz_byte(input) % 2] = (int8_t) fuzz_byte(input);
        break;
    case 3:
        array->dims = (int8_t) fuzz_byte(input);
        break;
    case 4:
        array->dtype = (int8_t) fuzz_byte(input);
        break;
    case 5:
        array->name[fuzz_byte(input) % BL_NAME_MAX] = (char) fuzz_byte(input);
        break;
    case 6:
        swap(state, at, fuzz_byte(input) % state->count);
        break;
    default: /* the last one takes its place */
        if (state->count > 1) {
            swap(state, at, state->count - 1);
            free(state->own[--state->count]);
        }
        break;
    }
}

/* Memory of exactly what the arrays say they hold. */
static void fit(struct state *state)
{
    for (int64_t i = 0; i < state->count; i++) {
        bl_array *array = &state->list[i];
        uint8_t  *exact;
        size_t    bytes;

        if (array->dims < 1 || array->dims > 2 || array->dtype < 0 ||
            array->dtype > BL_U8 || array->shape[0] < 0 ||
            (array->dims == 2 && array->shape[1] < 0)) {
            continue;
        }
        bytes = bytes_of(array);
        exact = calloc(bytes + 1, 1);
        fuzz_check(exact != NULL);
        memcpy(exact, state->own[i],
               1 + (bytes < state->bytes[i] ? bytes : state->bytes[i]));
        free(state->own[i]);
        state->own[i] = exact;
        array->data = exact + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    int               variant = fuzz_byte(&input) % FUZZ_VARIANTS;
    bl_group         *from = fuzz_group(variant), *to = fuzz_group(variant);
    struct state      state;
    size_t            before_size, after_size;
    uint8_t          *before, *after;

    fuzz_train(from, 6);
    fuzz_train(to, 2);
    take(&state, from);
    while (input.size > 0) {
        change(&state, &input);
    }
    fit(&state);
    before = fuzz_save(to, &before_size);
    if (bl_group_set_state(to, state.list, state.count) != 0) {
        fuzz_check_line(bl_last_error());
        after = fuzz_save(to, &after_size);
        fuzz_check(before_size == after_size && memcmp(before, after, before_size) == 0);
    } else {
        after = fuzz_save(to, &after_size);
        fuzz_train(to, 9);
    }
    free(before);
    free(after);
    for (int64_t i = 0; i < state.count; i++) {
        free(state.own[i]);
    }
    bl_group_free(from);
    bl_group_free(to);
    return 0;
}
