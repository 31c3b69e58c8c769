/* Trainings and their checkpoints, for the target that reads them and for its seeds. */
#ifndef BEAMLORA_TEST_FUZZ_FUZZ_TRAINING_H
#define BEAMLORA_TEST_FUZZ_FUZZ_TRAINING_H

#include <stddef.h>
#include <stdint.h>

#include "train/checkpoint.h"

struct fuzz_training {
    struct checkpoint checkpoint;
    struct llama     *model; /* of a full training */
};

/* The groups of fuzz_group, and a full training. */
enum { FUZZ_TRAININGS = 10 };

void fuzz_training_start(struct fuzz_training *training, int variant);
void fuzz_training_end(struct fuzz_training *training);

/* Its checkpoint as a file of that name, and as malloc'ed bytes. */
void     fuzz_training_save(const struct fuzz_training *training, const char *name);
uint8_t *fuzz_training_bytes(const struct fuzz_training *training, size_t *size);

/* That of a training which has made some steps. */
uint8_t *fuzz_checkpoint(int variant, size_t *size);

#endif
