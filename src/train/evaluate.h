/* Loss of a model over all of some data, and how many examples it completes exactly. */
#ifndef BEAMLORA_SRC_EVALUATE_H
#define BEAMLORA_SRC_EVALUATE_H

#include <stddef.h>
#include <stdint.h>

#include "text/data.h"

struct llama;
struct llama_adapters;

struct evaluation {
    double  loss;      /* mean -ln p of the predicted ids, nats */
    int64_t predicted; /* ids */
    int64_t examples;  /* 0: the data is a stream */
    int64_t exact;     /* examples that greedy decoding completes exactly */
};

/* Context where none is given: the model's, but a pass holds batch * context activations,
 * so 2048 at most. */
int64_t evaluate_context(const struct llama *model);

/* What an evaluation has room for, no more than its data needs: of `batch` windows of
 * `context` ids it makes so many of so many. */
void evaluate_room(const struct data *data, int64_t *context, int64_t *batch);

/*
 * A stream: every id but the first is predicted. It is cut into windows of `context`
 * inputs, the last one shorter, each of which starts with an empty past.
 *
 * Examples: the ids of each from its loss_from on are predicted. An example is exact when
 * every one of them, EOS included, has the largest logit behind the true ids before it, of
 * equals the lowest id: then, and only then, does greedy decoding from the ids before
 * loss_from give these ids.
 *
 * `batch` windows or examples go through the model at once, a matter of speed and memory
 * only. adapters NULL: the bare model. 0, or -1 with a line in error[size].
 */
int evaluate(const struct llama *model, const struct llama_adapters *adapters,
             const struct data *data, int64_t context, int64_t batch,
             struct evaluation *out, char *error, size_t size);

#endif
