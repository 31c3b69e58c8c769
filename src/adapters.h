/* A model's adapters: which projections get one, and adapter directories for them. */
#ifndef BEAMLORA_SRC_ADAPTERS_H
#define BEAMLORA_SRC_ADAPTERS_H

#include "llama.h"

/* targets: comma-separated projections ("q_proj,v_proj"), NULL for all seven. Adapters
 * are named "model.layers.<i>.self_attn.q_proj" as in a Hugging Face Llama. */
int  adapters_create(struct llama_adapters *out, const struct llama *model,
                     const char *targets, const bl_options *options, char *error,
                     size_t size);
void adapters_free(struct llama_adapters *adapters);

/* 1 in chosen[projection] for every projection in the list. -1: line in error. */
int adapters_parse_targets(int chosen[LLAMA_PROJECTIONS], const char *targets,
                           char *error, size_t size);

/* Numbers that the adapters train. */
int64_t adapters_parameters(const struct llama_adapters *adapters);

/* Read a PEFT adapter directory as plain LoRA adapters with c = 1; q and k rows are
 * brought into the model's own rotary order. */
int adapters_load(struct llama_adapters *out, const struct llama *model, const char *path,
                  char *error, size_t size);
/* Write one, folded, in Hugging Face's row order. */
int adapters_save(const struct llama_adapters *adapters, const struct llama *model,
                  const char *base_name, const char *path, char *error, size_t size);

#endif
