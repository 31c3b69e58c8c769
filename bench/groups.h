/* Groups of a whole model's adapters. */
#ifndef BEAMLORA_BENCH_GROUPS_H
#define BEAMLORA_BENCH_GROUPS_H

#include "bench.h"

struct model {
    int64_t layers, width, kv, hidden;
};

extern const struct model model_llama_7b, model_llama_70b, model_110m;

int64_t model_modules(const struct model *model);
/* Specs of the first `count` modules: q, k, v, o, gate, up and down of every layer. */
void model_specs(const struct model *model, bl_spec *specs, int64_t count);
/* Of the model's first `count` modules. */
bl_memory model_memory(const struct model *model, int64_t count, const bl_options *opt);
/* NULL, with a line: that much memory is not free. */
bl_group *model_group(const struct model *model, int64_t count, const bl_options *opt);

#endif
