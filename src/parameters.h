/*
 * All parameters of a model as arrays in one block of floats, each beginning at a multiple
 * of 64 bytes, the gaps zero. The same order serves weights, gradients and moments. Rows of
 * q and k stay in the model's own rotary order.
 */
#ifndef BEAMLORA_SRC_PARAMETERS_H
#define BEAMLORA_SRC_PARAMETERS_H

#include "llama.h"

#define PARAMETER_NAME_SIZE 96

struct parameter {
    char    name[PARAMETER_NAME_SIZE]; /* Hugging Face's: "model.norm.weight" */
    int32_t dims;                      /* 1: a norm, 2: a matrix              */
    int64_t shape[2];                  /* [dims], else 1                      */
    int64_t at;                        /* first float in the block            */
};

struct parameters {
    struct parameter *list; /* [count]: embedding, layers, last norm, head unless tied */
    int64_t           count;
    int64_t           total;  /* elements of all           */
    int64_t           floats; /* of the block, gaps too    */
};

int parameters_create(struct parameters *out, const struct llama_config *config, int tied,
                      char *error, size_t size);
void parameters_free(struct parameters *parameters);

/* A block of zeros, for free(); NULL if out of memory. */
float *parameters_block(const struct parameters *parameters);

/* Let the model's weights, or the gradients' arrays, be those in the block. Both have
 * their layers. */
void parameters_place_weights(const struct parameters *parameters, struct llama *model,
                              const float *block);
void parameters_place_gradients(const struct parameters *parameters,
                                struct llama_gradients *gradients, float *block);

/* Copy the model's weights, whatever their types, into the block. 0, or -1: no memory. */
int parameters_copy(const struct parameters *parameters, const struct llama *model,
                    float *block);

#endif
