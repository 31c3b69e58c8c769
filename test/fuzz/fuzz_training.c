/* See fuzz_training.h. */
#include "fuzz_training.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "fuzz_models.h"

enum { DATA = 0x1234, FILE_MOST = 1 << 20 };

_Static_assert(FUZZ_TRAININGS == FUZZ_VARIANTS + 1, "one for each group, one in full");

void fuzz_training_start(struct fuzz_training *training, int variant)
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

void fuzz_training_end(struct fuzz_training *training)
{
    bl_group_free(training->checkpoint.group);
    full_free(training->checkpoint.full);
    llama_free(training->model);
}

void fuzz_training_save(const struct fuzz_training *training, const char *name)
{
    char error[512];

    fuzz_check(checkpoint_save(&training->checkpoint, fuzz_path(name), error,
                               sizeof error) == 0);
}

uint8_t *fuzz_training_bytes(const struct fuzz_training *training, size_t *size)
{
    uint8_t *data = malloc(FILE_MOST);
    FILE    *file;

    fuzz_training_save(training, "bytes");
    file = fopen(fuzz_path("bytes"), "rb");
    fuzz_check(file != NULL && data != NULL);
    *size = fread(data, 1, FILE_MOST, file);
    fuzz_check(*size < FILE_MOST);
    fclose(file);
    return data;
}

uint8_t *fuzz_checkpoint(int variant, size_t *size)
{
    struct fuzz_training training;
    uint8_t             *data;

    fuzz_training_start(&training, variant);
    if (training.checkpoint.group != NULL) {
        fuzz_train(training.checkpoint.group, 6);
    }
    training.checkpoint.totals.step = 6;
    training.checkpoint.totals.loss_sum = 1.5;
    data = fuzz_training_bytes(&training, size);
    fuzz_training_end(&training);
    return data;
}
