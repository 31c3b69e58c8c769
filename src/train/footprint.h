/* The memory that a training will take, worked out before its activations are made. */
#ifndef BEAMLORA_SRC_FOOTPRINT_H
#define BEAMLORA_SRC_FOOTPRINT_H

#include <stddef.h>
#include <stdint.h>

#include "model/llama.h"

/* Bytes. */
struct footprint {
    double weights;     /* of the model's file; mapped, but used in every step       */
    double parameters;  /* with gradients, moments and history; or, with full, all of */
    double tapes;       /* the adapters' */
    double activations; /* of a step    */
    double evaluation;  /* activations and tapes of one, beside those of the training */
    double data;        /* ids          */
    double program;     /* its code, and what a BLAS packs its operands in */
};

/* Windows that go through the model at once; batch 0: none do. */
struct windows {
    int64_t batch, context;
};

/* What weights, adapters (or NULL), the step's pass with these flags and an evaluation's
 * take; the rest is the caller's. 0, or -1 with a line in error[size]. */
int footprint_measure(struct footprint *out, const struct llama *model,
                      const struct llama_adapters *adapters, struct windows step,
                      int flags, struct windows evaluation, char *error, size_t size);

double footprint_total(const struct footprint *footprint);

/* 0, or -1 with a line if that is more than the machine has. */
int footprint_check(const struct footprint *footprint, char *error, size_t size);

#endif
