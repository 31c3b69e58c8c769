/*
 * All parameters of a model as arrays in one block of floats, each beginning at a multiple
 * of 64 bytes, the gaps zero; numbered as llama_get_tensor does. The same block serves for
 * weights, gradients and moments. Rows of q and k stay in the model's own rotary order.
 */
#ifndef BEAMLORA_SRC_PARAMETERS_H
#define BEAMLORA_SRC_PARAMETERS_H

#include "model/llama.h"

struct parameter {
    char    name[LLAMA_NAME_SIZE];
    int     dims;          /* 1: a norm, 2: a matrix     */
    int64_t rows, columns; /* columns is 1 for a norm    */
    int64_t at;            /* first element in the block */
};

struct parameters {
    struct parameter *list;
    int64_t           count;
    int64_t           total;  /* elements of all          */
    int64_t           floats; /* of a block, gaps too     */
};

int  parameters_create(struct parameters *out, const struct llama_config *config,
                       char *error, size_t size);
void parameters_free(struct parameters *parameters);

/* A block of zeros, to be freed; NULL when out of memory. */
float *parameters_block(const struct parameters *parameters);

/* Copy the model's weights, of any type, into a block. 0, or -1 when out of memory. */
int parameters_copy(const struct parameters *parameters, const struct llama *model,
                    float *block);

/* Let the model's weights, or the arrays of gradients, be those in the block; both come
 * with their layers. */
void parameters_place_weights(const struct parameters *parameters, struct llama *model,
                              const float *block);
void parameters_place_gradients(const struct parameters *parameters,
                                struct llama_gradients *gradients, float *block);

#endif
