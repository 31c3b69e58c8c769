/* A model's adapters: which projections get one, and adapter directories for them. */
#ifndef BEAMLORA_SRC_ADAPTERS_H
#define BEAMLORA_SRC_ADAPTERS_H

#include "model/llama.h"

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

/* An adapter on disk, and what it may not say itself. */
struct adapter_source {
    const char *path;        /* of a directory, or of a file of tensors alone */
    double      alpha;       /* of such a file; 0: not given                  */
    double      temperature; /* of the scores, if it has any; 0: not given    */
};

/* Read an adapter as LoRA or DoRA adapters with c = 1; q and k rows are brought into the
 * model's own rotary order. */
int adapters_load(struct llama_adapters *out, const struct llama *model,
                  const struct adapter_source *source, char *error, size_t size);

/* What a training that begins with an adapter was told about it. */
struct adapter_start {
    struct adapter_source source;
    const char           *targets; /* NULL: not given                                */
    int64_t               rank;    /* at least the adapter's; 0: not given           */
    int                   assumed; /* out: nothing says the temperature of its scores */
};

/* Adapters of a training that begin as those on disk: their modules, ranks and c.
 * options->rank, alpha and, with scores, temperature become what was found; where they
 * were given in `start` they must agree. */
int adapters_start(struct llama_adapters *out, const struct llama *model,
                   struct adapter_start *start, bl_options *options, char *error,
                   size_t size);
/* How a directory is written: folded, folded and compact (bl_peft_options), or as the
 * published BeamLoRA has it, with its scores. */
enum adapters_form { ADAPTERS_PEFT, ADAPTERS_COMPACT, ADAPTERS_PUBLISHED };

/* Write one, in Hugging Face's row order; adapters_save: folded, f32. */
int adapters_save(const struct llama_adapters *adapters, const struct llama *model,
                  const char *base_name, const char *path, char *error, size_t size);
int adapters_save_as(const struct llama_adapters *adapters, const struct llama *model,
                     const char *base_name, enum adapters_form form, int32_t dtype,
                     const char *path, char *error, size_t size);
/* Write a GGUF file for llama.cpp. */
int adapters_save_gguf(const struct llama_adapters *adapters, const struct llama *model,
                       int32_t dtype, const char *path, char *error, size_t size);

#endif
