/* What adapters.c, adapters_start.c and restore.c share: a group's specs for some of a model's
 * projections, and filling it from an adapter on disk. A slot is layer times projections
 * plus projection. */
#ifndef BEAMLORA_SRC_ADAPTERS_SPECS_H
#define BEAMLORA_SRC_ADAPTERS_SPECS_H

#include "adapters/adapters.h"
#include "beamlora_io.h"

#define ADAPTER_NAME_SIZE 64 /* "model.layers.<19 digits>.self_attn.q_proj" and more */

/* Specs of some of the model's slots, by slot. */
struct specs {
    bl_spec *list;                    /* [count]; names point into `names`  */
    char (*names)[ADAPTER_NAME_SIZE]; /* [slots]                            */
    int64_t *slot;                    /* [count]                            */
    double  *scale;                   /* [count] of the file; NaN: not said */
    int64_t  count;
};

int  specs_create(struct specs *specs, const struct llama *model, char *error,
                  size_t size);
void specs_free(struct specs *specs);

/* One more, for this slot; rank and alpha are the group's. */
bl_spec *specs_add(struct specs *specs, const struct llama *model, int64_t slot);

/* Specs with c = 1 for the modules of a file, in the order of the slots. */
int specs_read(struct specs *specs, const bl_peft *peft, const struct llama *model,
               const char *path, char *error, size_t size);

/* A group with these specs, if the machine has the memory for it. */
int specs_group(struct llama_adapters *out, const struct llama *model,
                const struct specs *specs, const bl_options *options, char *error,
                size_t size);

/* Fill it from the file. */
int specs_fill(struct llama_adapters *adapters, const struct llama *model,
               const bl_peft *peft, const struct adapter_source *source, char *error,
               size_t size);

/* "q_proj" of "self_attn.q_proj". */
const char *adapters_short_name(int projection);

#endif
