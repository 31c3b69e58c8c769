/*
 * bl_group_load: the input as it is, and edits of a saved state. Either is given the
 * checksum that it should have, or nothing would get past it. A group that refuses a state
 * is as it was; one that has taken it can train on.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

/* As in lib/blob.c. */
static void put_checksum(uint8_t *data, size_t size)
{
    uint64_t sum = 0, word;

    if (size < 8 || size % 8 != 0) {
        return;
    }
    for (size_t i = 0; i < size - 8; i += 8) {
        memcpy(&word, data + i, 8);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
        sum ^= sum >> 32;
    }
    memcpy(data + size - 8, &sum, 8);
}

static void load(bl_group *group, const uint8_t *data, size_t size)
{
    size_t   before_size, after_size;
    uint8_t *before = fuzz_save(group, &before_size), *after;
    int      code = bl_group_load(group, data, size);

    after = fuzz_save(group, &after_size);
    fuzz_check(before_size == after_size);
    if (code != 0) {
        fuzz_check_line(bl_last_error());
        fuzz_check(memcmp(before, after, before_size) == 0);
    } else {
        fuzz_check(size == after_size);
        fuzz_train(group, 9);
    }
    free(before);
    free(after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    int               variant = fuzz_byte(&input);
    bl_group         *group = fuzz_group(variant % FUZZ_VARIANTS);
    uint8_t          *file;
    size_t            bytes;

    fuzz_train(group, 6);
    file = fuzz_copy(input.data, input.size);
    load(group, file, input.size);
    put_checksum(file, input.size);
    load(group, file, input.size);
    free(file);

    file = fuzz_save(group, &bytes);
    fuzz_edit(input, &file, &bytes);
    if (variant < 128) {
        put_checksum(file, bytes);
    }
    load(group, file, bytes);
    free(file);
    bl_group_free(group);
    return 0;
}
