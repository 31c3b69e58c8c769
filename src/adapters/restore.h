/* The adapters that a run folder's checkpoint or a PEFT directory has, and their base. */
#ifndef BEAMLORA_SRC_RESTORE_H
#define BEAMLORA_SRC_RESTORE_H

#include "model/llama.h"

struct restored {
    struct llama         *model;
    struct llama_adapters adapters; /* not for training: no moments, no history */
    char                 *model_path;
    char                 *base_name; /* of the model, as it was given then or now */
};

/*
 *   directory  run folder, or PEFT adapter directory
 *   model      NULL: the one that the run or the adapter was trained on, by its name there
 *
 * 0, or -1 with a line in error[size].
 */
int  restore(struct restored *out, const char *directory, const char *model, char *error,
             size_t size);
void restore_free(struct restored *restored);

#endif
