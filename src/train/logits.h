/* Logits of a model on the beginning of some data, as a safetensors file. */
#ifndef BEAMLORA_SRC_LOGITS_H
#define BEAMLORA_SRC_LOGITS_H

#include "model/llama.h"
#include "text/data.h"

/*
 * Write what another program needs to hold its own logits against ours: the first `batch`
 * windows or examples, or as many as there are.
 *
 *   input_ids, target_ids   I64 [rows, length]; behind an example's end 0 and -1
 *   logits                  F32 [rows * length, vocab]
 *
 * A stream that is shorter than a window is one row. adapters NULL: the bare model.
 * 0, or -1 with a line in error[size].
 */
int logits_write(const char *path, const struct llama *model,
                 const struct llama_adapters *adapters, const struct data *data,
                 int64_t context, int64_t batch, char *error, size_t size);

#endif
