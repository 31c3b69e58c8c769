/* Groups of a whole model's adapters. */
#include "groups.h"

#include <stdio.h>

enum { MOST_LAYERS = 128, PER_LAYER = 7, MOST_MODULES = MOST_LAYERS * PER_LAYER };

const struct model model_llama_7b = { 32, 4096, 4096, 11008 };
const struct model model_llama_70b = { 80, 8192, 1024, 28672 };
const struct model model_110m = { 12, 768, 768, 2048 };

void model_specs(const struct model *m, bl_spec *specs, int64_t count)
{
    const int64_t sizes[PER_LAYER][2] = {
        { m->width, m->width }, { m->width, m->kv },     { m->width, m->kv },
        { m->width, m->width }, { m->width, m->hidden }, { m->width, m->hidden },
        { m->hidden, m->width }
    };
    for (int64_t i = 0; i < count; i++) {
        specs[i] = (bl_spec){ .size = sizeof specs[i],
                              .in_features = sizes[i % PER_LAYER][0],
                              .out_features = sizes[i % PER_LAYER][1] };
    }
}

int64_t model_modules(const struct model *m)
{
    return m->layers * PER_LAYER;
}

bl_memory model_memory(const struct model *m, int64_t count, const bl_options *opt)
{
    static bl_spec specs[MOST_MODULES];
    bl_memory      memory = { .size = sizeof memory };
    model_specs(m, specs, count);
    check(bl_memory_query(specs, count, opt, 0, &memory));
    return memory;
}

bl_group *model_group(const struct model *m, int64_t count, const bl_options *opt)
{
    static bl_spec  specs[MOST_MODULES];
    const bl_memory memory = model_memory(m, count, opt);
    const size_t    spare = (size_t) 3 << 30; /* for copies that a subject makes */
    bl_group       *group;
    if (memory.total + spare > (size_t) machine_free_bytes()) {
        printf("  %lld modules of rank %lld take %.1f GB, more than are free: left out\n",
               (long long) count, (long long) opt->rank, (double) memory.total / 1e9);
        return NULL;
    }
    model_specs(m, specs, count);
    check(bl_group_create(&group, specs, count, opt));
    return group;
}
