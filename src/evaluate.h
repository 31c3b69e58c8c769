/* Loss over a whole stream of ids. */
#ifndef BEAMLORA_SRC_EVALUATE_H
#define BEAMLORA_SRC_EVALUATE_H

#include <stddef.h>
#include <stdint.h>

struct llama;
struct llama_adapters;

/*
 * Mean -ln p, in nats, of every id but the first. The stream is cut into windows of
 * `context` inputs, the last one shorter, each of which starts with an empty past.
 * `batch` windows go through the model at once, a matter of speed and memory only.
 *
 *   adapters   NULL: the bare model       ids   [count], 2 or more
 *   loss       written                    predicted   written: count - 1
 *
 * 0, or -1 with a line in error[size].
 */
int evaluate(const struct llama *model, const struct llama_adapters *adapters,
             const int32_t *ids, int64_t count, int64_t context, int64_t batch,
             double *loss, int64_t *predicted, char *error, size_t size);

#endif
