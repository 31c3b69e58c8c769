/* A training's whole state in one safetensors file: what a resumed run needs to go on bit
 * for bit. */
#ifndef BEAMLORA_SRC_CHECKPOINT_H
#define BEAMLORA_SRC_CHECKPOINT_H

#include "beamlora.h"
#include "train/evaluate.h"
#include "train/folder.h"
#include "train/full.h"

/* Metadata of the file. */
#define CHECKPOINT_FORMAT "beamlora-checkpoint"
#define CHECKPOINT_VERSION "1"

/* What the report at the end is made of, and where in the training we are. */
struct totals {
    int64_t step;     /* made, skipped ones too              */
    double  loss_sum; /* over the last tenth of the steps    */
    int64_t loss_count;
    int64_t tokens; /* predicted ids that were trained on  */
    int64_t skipped, skipped_in_a_row;
    int64_t reallocations, moved;

    struct evaluation before, after;
};

struct checkpoint {
    bl_group     *group; /* or */
    struct full  *full;
    struct totals totals;
    int64_t       lines[FOLDER_LINES]; /* bytes of the run's files of lines */
    uint64_t      data;                /* data_hash */
};

/* 0, or -1 with a line in error: an older checkpoint is still whole then. */
int checkpoint_save(const struct checkpoint *checkpoint, const char *path, char *error,
                    size_t size);

/* Fill the group or the full model and everything else, after all of it was checked;
 * checkpoint->data on entry is that of the data at hand, which must be the same. 1: there
 * is no such file. */
int checkpoint_load(struct checkpoint *checkpoint, const char *path, char *error,
                    size_t size);

#endif
