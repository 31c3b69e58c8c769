/* A checkpoint file of adapters or of a full training, edited: taken whole or not at
 * all. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beamlora_io.h"
#include "train/checkpoint.h"
#include "fuzz_models.h"

enum { DATA = 0x1234 };

struct training {
    struct checkpoint checkpoint;
    struct llama     *model; /* of a full training */
};

static void start(struct training *training, int variant)
{
    char error[512];

    memset(training, 0, sizeof *training);
    training->checkpoint.data = DATA;
    if (variant < FUZZ_VARIANTS) {
        training->checkpoint.group = fuzz_group(variant);
        return;
    }
    fuzz_write_model("model.bin", 1);
    fuzz_check(
        llama_load(&training->model, fuzz_path("model.bin"), error, sizeof error) == 0);
    fuzz_check(full_create(&training->checkpoint.full, training->model, 0.9, 0.99, 1e-8,
                           0, error, sizeof error) == 0);
}

static void end(struct training *training)
{
    bl_group_free(training->checkpoint.group);
    full_free(training->checkpoint.full);
    llama_free(training->model);
}

static void save(const struct training *training, const char *name)
{
    char error[512];

    fuzz_check(checkpoint_save(&training->checkpoint, fuzz_path(name), error,
                               sizeof error) == 0);
}

static uint8_t *read_file(const char *name, size_t *size)
{
    uint8_t *data = malloc(1 << 20);
    FILE    *file = fopen(fuzz_path(name), "rb");

    fuzz_check(file != NULL && data != NULL);
    *size = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

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
    static uint8_t   *saved[FUZZ_VARIANTS + 1];
    static size_t     saved_size[FUZZ_VARIANTS + 1];
    struct fuzz_input input = { data, size };
    int               kind = fuzz_byte(&input), variant = kind % (FUZZ_VARIANTS + 1);
    struct training   training;
    struct totals     before;
    char              error[512] = "";
    uint8_t          *file, *first, *second;
    size_t            bytes, first_size, second_size;

    start(&training, variant);
    if (saved[variant] == NULL) {
        struct training other;

        start(&other, variant);
        if (other.checkpoint.group != NULL) {
            fuzz_train(other.checkpoint.group, 6);
        }
        other.checkpoint.totals.step = 6;
        other.checkpoint.totals.loss_sum = 1.5;
        save(&other, "checkpoint");
        saved[variant] = read_file("checkpoint", &saved_size[variant]);
        end(&other);
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

    save(&training, "before");
    first = read_file("before", &first_size);
    before = training.checkpoint.totals;
    if (checkpoint_load(&training.checkpoint, fuzz_path("checkpoint"), error,
                        sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(memcmp(&before, &training.checkpoint.totals, sizeof before) == 0);
        save(&training, "after");
        second = read_file("after", &second_size);
        fuzz_check(first_size == second_size && memcmp(first, second, first_size) == 0);
        free(second);
    } else {
        fuzz_check(training.checkpoint.totals.step >= 0);
        save(&training, "after");
        if (training.checkpoint.group != NULL) {
            fuzz_train(training.checkpoint.group, 5);
        } else {
            full_step(training.checkpoint.full, 1e-3, 1);
        }
    }
    free(first);
    end(&training);
    return 0;
}
