/* A checkpoint file of adapters or of a full training, edited: taken whole or not at
 * all. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz_training.h"

/* The length at the start of an edited file: that of the header if edits have moved its
 * end, unless the first bytes themselves were edited. */
static void fix_length(uint8_t *data, size_t size, const uint8_t *old, size_t old_size)
{
    uint64_t n;

    if (size < 8 || memcmp(data, old, 8) != 0) {
        return;
    }
    memcpy(&n, old, 8);
    n += size - old_size;
    if (n <= size - 8) {
        memcpy(data, &n, 8);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t      *saved[FUZZ_TRAININGS];
    static size_t        saved_size[FUZZ_TRAININGS];
    struct fuzz_input    input = { data, size };
    int                  kind = fuzz_byte(&input), variant = kind % FUZZ_TRAININGS;
    struct fuzz_training training;
    struct totals        before;
    char                 error[512] = "";
    uint8_t             *file, *first, *second;
    size_t               bytes, first_size, second_size;

    fuzz_training_start(&training, variant);
    if (saved[variant] == NULL) {
        saved[variant] = fuzz_checkpoint(variant, &saved_size[variant]);
    }
    bytes = saved_size[variant];
    file = fuzz_copy(saved[variant], bytes);
    if (kind < 128) {
        fuzz_edit(input, &file, &bytes);
        fix_length(file, bytes, saved[variant], saved_size[variant]);
    } else {
        free(file);
        file = fuzz_safetensors(input, &bytes);
    }
    fuzz_write("checkpoint", file, bytes);
    free(file);

    first = fuzz_training_bytes(&training, &first_size);
    before = training.checkpoint.totals;
    if (checkpoint_load(&training.checkpoint, fuzz_path("checkpoint"), error,
                        sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(memcmp(&before, &training.checkpoint.totals, sizeof before) == 0);
        second = fuzz_training_bytes(&training, &second_size);
        fuzz_check(first_size == second_size && memcmp(first, second, first_size) == 0);
        free(second);
    } else {
        fuzz_check(training.checkpoint.totals.step >= 0);
        fuzz_training_save(&training, "after");
        if (training.checkpoint.group != NULL) {
            fuzz_train(training.checkpoint.group, 5);
        } else {
            full_step(training.checkpoint.full, 1e-3, 1);
        }
    }
    free(first);
    fuzz_training_end(&training);
    return 0;
}
