/* See footprint.h. Memory counts as a page does when it is first written to, or read where
 * it is mapped: everything that is allocated here is used in the first step. */
#include "train/footprint.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/blas.h"
#include "base/memory.h"
#include "base/threads.h"
#include "model/llama_pass.h"

/* Of the program with its libraries, and of a thread whose BLAS has packed two operands:
 * measured with OpenBLAS 0.3.21; BLIS takes a little less. */
#define PROGRAM_BYTES (4 * 0x1p20)
#define THREAD_BYTES (2 * 0x1p20)

static double weight_bytes(const struct llama *model)
{
    double sum = 0;

    for (int64_t i = 0; i < llama_tensor_count(&model->config); i++) {
        struct weight       weight = llama_get_weight(model, i);
        struct llama_tensor tensor;

        llama_get_tensor(&model->config, i, &tensor);
        sum += (double) tensor.shape[0] *
               (tensor.dims > 1 ? (double) tensor.shape[1] : 1) *
               (weight.dtype == BL_F32 ? 4 : 2);
    }
    return sum;
}

/* The group as it is, with a tape of n rows for each adapter. */
static int query(bl_memory *out, const bl_group *group, int64_t n, char *error,
                 size_t size)
{
    int64_t    count = bl_group_get_count(group);
    bl_spec   *specs = calloc((size_t) count, sizeof *specs);
    bl_options options = { .size = sizeof options };
    int        result = -1;

    if (specs == NULL) {
        snprintf(error, size, "out of memory for %lld adapters", (long long) count);
        return -1;
    }
    bl_group_copy_options(group, &options);
    for (int64_t i = 0; i < count; i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, i);

        specs[i].size = sizeof *specs;
        specs[i].name = bl_adapter_get_name(adapter);
        specs[i].in_features = bl_adapter_get_in(adapter);
        specs[i].out_features = bl_adapter_get_out(adapter);
        specs[i].rank = bl_adapter_get_rank(adapter);
        specs[i].capacity = bl_adapter_get_capacity(adapter);
        specs[i].base = group; /* DoRA's, which a query only wants to be there */
    }
    out->size = sizeof *out;
    if (bl_memory_query(specs, count, &options, n, out) != 0) {
        snprintf(error, size, "%s", bl_last_error());
    } else {
        result = 0;
    }
    free(specs);
    return result;
}

/* What tapes of n rows keep for a backward, and those of an evaluation do not. */
static double kept_bytes(const bl_group *group, int64_t n)
{
    bl_options options = { .size = sizeof options };
    double     sum = 0;

    bl_group_copy_options(group, &options);
    for (int64_t i = 0; i < bl_group_get_count(group); i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, i);

        sum += (double) n * sizeof(float) *
               (double) (bl_adapter_get_capacity(adapter) +
                         (options.dora ? bl_adapter_get_out(adapter) : 0));
    }
    return sum;
}

/* What of it the tapes leave in the model's own activations. */
static double left_bytes(const struct llama *model, const struct llama_adapters *adapters,
                         int64_t n)
{
    bl_options options = { .size = sizeof options };
    double     sum = 0;

    bl_group_copy_options(adapters->group, &options);
    if (!options.dora || options.dropout > 0) {
        return 0;
    }
    for (int64_t i = 0; i < model->config.layers * LLAMA_PROJECTIONS; i++) {
        if (adapters->at[i] && llama_output_stays((int) (i % LLAMA_PROJECTIONS))) {
            sum +=
                (double) n * sizeof(float) * (double) bl_adapter_get_out(adapters->at[i]);
        }
    }
    return sum;
}

int footprint_measure(struct footprint *out, const struct llama *model,
                      const struct llama_adapters *adapters, struct windows step,
                      int flags, struct windows evaluation, char *error, size_t size)
{
    struct footprint f = { .weights = weight_bytes(model) };
    bl_memory        memory = { 0 };
    int64_t          n = step.batch * step.context;

    if (adapters != NULL) {
        if (query(&memory, adapters->group, n, error, size) != 0) {
            return -1;
        }
        f.parameters = (double) memory.total - (double) memory.tapes;
        f.tapes = (double) memory.tapes - left_bytes(model, adapters, n);
    }
    f.activations = llama_pass_bytes(model, step.batch, step.context, flags);
    if (evaluation.batch > 0) {
        n = evaluation.batch * evaluation.context;
        f.evaluation = llama_pass_bytes(model, evaluation.batch, evaluation.context, 0);
        if (adapters != NULL) {
            if (query(&memory, adapters->group, n, error, size) != 0) {
                return -1;
            }
            f.evaluation += (double) memory.tapes - kept_bytes(adapters->group, n);
        }
    }
    f.program = PROGRAM_BYTES;
    if (blas_packs()) {
        f.program += THREAD_BYTES * (double) threads_count(model->threads);
    }
    *out = f;
    return 0;
}

double footprint_total(const struct footprint *f)
{
    return f->weights + f->parameters + f->tapes + f->activations + f->evaluation +
           f->data + f->program;
}

int footprint_check(const struct footprint *f, char *error, size_t size)
{
    char what[160];

    snprintf(what, sizeof what,
             "weights of %.2f GiB, their training's %.2f and activations of %.2f",
             f->weights / 0x1p30, (f->parameters + f->tapes) / 0x1p30,
             (f->activations + f->evaluation) / 0x1p30);
    return memory_check(footprint_total(f), what,
                        "a smaller --batch or --context, or --checkpoint-activations",
                        error, size);
}
