/* The first training step's batch, parameters and gradients as a safetensors file. */
#ifndef BEAMLORA_SRC_DUMP_H
#define BEAMLORA_SRC_DUMP_H

#include "model/llama.h"

struct dump {
    /* micro-batch m is at m * batch * context and has [batch, lengths[m]] */
    const int32_t *ids, *targets;
    int64_t        batch, accumulate, context;
    const int64_t *lengths; /* [accumulate] */
    int64_t        step;    /* 0-based */
    double         loss;    /* mean over the predicted tokens */
};

/*
 * Write what another implementation needs to check a step: to be called between the
 * backward and the optimizer, so that the parameters are those the gradients belong to.
 * Gradients are of the mean loss, before clipping. Every tensor is in the order of the
 * base model's file: q and k rows are not permuted.
 *
 *   input_ids, target_ids   I64 [batch * accumulate, context]; behind a row's end 0, -1
 *   loss                                     F64 [1]
 *   base_model.model.<name>.lora_A.weight    F32 [r, in]
 *   base_model.model.<name>.lora_B.weight    F32 [out, r]
 *   base_model.model.<name>.lora_gate        F32 [1, r]: the scores; only with beamlora
 *   grad.<each of the three>                 the gradients
 *
 * 0, or -1 with a line in error[size].
 */
int dump_write(const char *path, const struct llama_adapters *adapters,
               const struct dump *dump, char *error, size_t size);

#endif
