/*
 * Full fine-tuning: all weights of a model as parameters, with AdamW as
 * torch.optim.AdamW has it. Weight decay acts on the matrices, the embedding included, and
 * not on the norms, as in transformers' Trainer. 16 bytes a parameter.
 */
#ifndef BEAMLORA_SRC_FULL_H
#define BEAMLORA_SRC_FULL_H

#include "beamlora.h"
#include "model/llama.h"

struct full;

/*
 * Copies the model's weights, of any type, into floats that can be written to, and makes
 * the model use those; a tied head stays tied. They go with full_free: after it the model
 * is only good for llama_free. 0, or -1 with a line in error[size], the model as before.
 */
int  full_create(struct full **out, struct llama *model, double beta1, double beta2,
                 double epsilon, double weight_decay, char *error, size_t size);
void full_free(struct full *full);

/* For llama_pass_train_weights; zero at first and after each step. */
const struct llama_gradients *full_gradients(struct full *full);

/* Euclidean norm over all gradients, in double. */
double full_gradient_norm(const struct full *full);

/* One step with gradients times grad_scale. 0; or 1 if these are not finite, or too large
 * for their squares to be: then no parameter or moment has changed. Clears the gradients
 * either way. */
int full_step(struct full *full, double lr, double grad_scale);

int64_t full_parameters(const struct full *full);

/*
 * Its state between steps as named arrays that point into it: the weights by their Hugging
 * Face names, rows in the model's own order, their moments as "<name>.m" and "<name>.v", and
 * "full.step". full_set_state wants all of them, in any order, data of any alignment, and
 * changes nothing unless all are good.
 */
int64_t full_state_count(const struct full *full);
int     full_get_state(const struct full *full, int64_t index, bl_array *out);
int full_set_state(struct full *full, const bl_array *arrays, int64_t count, char *error,
                   size_t size);

#endif
