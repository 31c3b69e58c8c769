/*
 * From a model's projections to a group of adapters, and to PEFT directories and back.
 * A group holds its adapters by layer, then by projection: the order of `at`.
 */
#define _POSIX_C_SOURCE 200809L

#include "adapters/adapters.h"

#include "adapters/adapters_specs.h"
#include "base/memory.h"
#include "base/threads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t slots(const struct llama *model)
{
    return model->config.layers * LLAMA_PROJECTIONS;
}

static void slot_name(char name[ADAPTER_NAME_SIZE], int64_t slot)
{
    snprintf(name, ADAPTER_NAME_SIZE, "model.layers.%" PRId64 ".%s",
             slot / LLAMA_PROJECTIONS,
             llama_projection_name((int) (slot % LLAMA_PROJECTIONS)));
}

const char *adapters_short_name(int projection)
{
    const char *name = llama_projection_name(projection);
    const char *dot = strrchr(name, '.');

    return dot != NULL ? dot + 1 : name;
}

/* ===== Creation =========================================================== */

int adapters_parse_targets(int chosen[LLAMA_PROJECTIONS], const char *targets,
                           char *error, size_t size)
{
    for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
        chosen[p] = targets == NULL;
    }
    for (const char *at = targets; at != NULL;) {
        size_t length = strcspn(at, ",");
        int    p = 0;

        while (p < LLAMA_PROJECTIONS &&
               (strlen(adapters_short_name(p)) != length ||
                memcmp(adapters_short_name(p), at, length) != 0)) {
            p++;
        }
        if (p == LLAMA_PROJECTIONS) {
            size_t used =
                (size_t) snprintf(error, size, "\"%.*s\" is no target, must be of:",
                                  (int) (length < 100 ? length : 100), at);

            for (p = 0; p < LLAMA_PROJECTIONS && used < size; p++) {
                const char *name = adapters_short_name(p);

                used += (size_t) snprintf(error + used, size - used, " %s", name);
            }
            return -1;
        }
        if (chosen[p]) {
            snprintf(error, size, "target %s is there twice", adapters_short_name(p));
            return -1;
        }
        chosen[p] = 1;
        at = at[length] == ',' ? at + length + 1 : NULL;
    }
    return 0;
}

void specs_free(struct specs *specs)
{
    free(specs->scale);
    free(specs->slot);
    free(specs->names);
    free(specs->list);
}

int specs_create(struct specs *specs, const struct llama *model, char *error, size_t size)
{
    size_t count = (size_t) slots(model);

    specs->count = 0;
    specs->list = calloc(count, sizeof *specs->list);
    specs->names = calloc(count, sizeof *specs->names);
    specs->slot = calloc(count, sizeof *specs->slot);
    specs->scale = calloc(count, sizeof *specs->scale);
    if (specs->list == NULL || specs->names == NULL || specs->slot == NULL ||
        specs->scale == NULL) {
        specs_free(specs);
        snprintf(error, size, "out of memory for %zu adapters", count);
        return -1;
    }
    return 0;
}

/* Weights of 16 bits, for DoRA. */
static void hand_rows(const void *base, int64_t from, int64_t rows, int64_t in, void *out)
{
    weight_rows(base, from, rows, in, out);
}

bl_spec *specs_add(struct specs *specs, const struct llama *model, int64_t slot)
{
    const struct weight *weight =
        &model->layers[slot / LLAMA_PROJECTIONS].projection[slot % LLAMA_PROJECTIONS];
    bl_spec *spec = &specs->list[specs->count];

    slot_name(specs->names[specs->count], slot);
    spec->size = sizeof *spec;
    spec->name = specs->names[specs->count];
    llama_projection_shape(&model->config, (int) (slot % LLAMA_PROJECTIONS),
                           &spec->out_features, &spec->in_features);
    spec->base = weight_in_place(weight) ? weight->data : weight;
    spec->base_rows = weight_in_place(weight) ? NULL : hand_rows;
    specs->slot[specs->count++] = slot;
    return spec;
}

static int check_memory(const struct specs *specs, const bl_options *options, char *error,
                        size_t size)
{
    bl_memory memory = { .size = sizeof memory };

    if (bl_memory_query(specs->list, specs->count, options, 0, &memory) != 0) {
        snprintf(error, size, "%s", bl_last_error());
        return -1;
    }
    return memory_check((double) memory.total, "the adapters",
                        "a smaller --rank or fewer --targets", error, size);
}

int specs_group(struct llama_adapters *out, const struct llama *model,
                const struct specs *specs, const bl_options *options, char *error,
                size_t size)
{
    struct llama_adapters adapters = { NULL, NULL };
    bl_options            threaded = *options;

    if (threads_count(model->threads) > 1) {
        threaded.parallel_for = threads_run;
        threaded.parallel_user = model->threads;
    }
    if (check_memory(specs, options, error, size) != 0) {
        return -1;
    }
    adapters.at = calloc((size_t) slots(model), sizeof *adapters.at);
    if (adapters.at == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " adapters", specs->count);
        return -1;
    }
    if (bl_group_create(&adapters.group, specs->list, specs->count, &threaded) != 0) {
        snprintf(error, size, "%s", bl_last_error());
        free(adapters.at);
        return -1;
    }
    for (int64_t i = 0; i < specs->count; i++) {
        adapters.at[specs->slot[i]] = bl_group_get_adapter(adapters.group, i);
    }
    *out = adapters;
    return 0;
}

int adapters_create(struct llama_adapters *out, const struct llama *model,
                    const char *targets, const bl_options *options, char *error,
                    size_t size)
{
    int          chosen[LLAMA_PROJECTIONS], result;
    struct specs specs;

    if (adapters_parse_targets(chosen, targets, error, size) != 0 ||
        specs_create(&specs, model, error, size) != 0) {
        return -1;
    }
    for (int64_t slot = 0; slot < slots(model); slot++) {
        if (chosen[slot % LLAMA_PROJECTIONS]) {
            specs_add(&specs, model, slot);
        }
    }
    result = specs_group(out, model, &specs, options, error, size);
    specs_free(&specs);
    return result;
}

void adapters_free(struct llama_adapters *adapters)
{
    bl_group_free(adapters->group);
    free(adapters->at);
    adapters->group = NULL;
    adapters->at = NULL;
}

int64_t adapters_parameters(const struct llama_adapters *adapters)
{
    int64_t sum = 0;

    for (int64_t i = 0; i < bl_group_get_count(adapters->group); i++) {
        bl_adapter *adapter = bl_group_get_adapter(adapters->group, i);

        for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_MAGNITUDE; tensor++) {
            bl_view view;

            if (bl_adapter_get_view(adapter, tensor, BL_BUFFER_PARAMETERS, &view) == 0) {
                sum += view.rows * view.cols;
            }
        }
    }
    return sum;
}

/* ===== PEFT directories =================================================== */

/* Row orders of a group's adapters for bl_peft_options: one list for all q, one for k. */
struct orders {
    const int64_t **at; /* [count] */
    int64_t        *q, *k;
};

static void orders_free(struct orders *orders)
{
    free(orders->at);
    free(orders->q);
    free(orders->k);
}

static int orders_create(struct orders *orders, const struct llama_adapters *adapters,
                         const struct llama *model, char *error, size_t size)
{
    const struct llama_config *config = &model->config;
    int64_t                    count = 0;

    orders->at = calloc((size_t) slots(model), sizeof *orders->at);
    orders->q = llama_rotary_order(config->heads, config->head_dim);
    orders->k = llama_rotary_order(config->kv_heads, config->head_dim);
    if (orders->at == NULL || orders->q == NULL || orders->k == NULL) {
        orders_free(orders);
        snprintf(error, size, "out of memory for the order of rows");
        return -1;
    }
    for (int64_t slot = 0; slot < slots(model); slot++) {
        int64_t projection = slot % LLAMA_PROJECTIONS;

        if (adapters->at[slot] != NULL) {
            if (config->interleaved && projection == LLAMA_Q) {
                orders->at[count] = orders->q;
            } else if (config->interleaved && projection == LLAMA_K) {
                orders->at[count] = orders->k;
            }
            count++;
        }
    }
    return 0;
}

int adapters_save_as(const struct llama_adapters *adapters, const struct llama *model,
                     const char *base_name, enum adapters_form form, int32_t dtype,
                     const char *path, char *error, size_t size)
{
    bl_peft_options options;
    struct orders   orders;
    int             result;

    if (orders_create(&orders, adapters, model, error, size) != 0) {
        return -1;
    }
    bl_peft_options_init(&options, sizeof options);
    options.base_model_name_or_path = base_name;
    options.row_order = orders.at;
    options.dtype = dtype;
    options.compact = form == ADAPTERS_COMPACT;
    result = form == ADAPTERS_PUBLISHED
                 ? bl_published_save(adapters->group, path, &options)
                 : bl_peft_save(adapters->group, path, &options);
    if (result != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
    }
    orders_free(&orders);
    return result != 0 ? -1 : 0;
}

int adapters_save(const struct llama_adapters *adapters, const struct llama *model,
                  const char *base_name, const char *path, char *error, size_t size)
{
    return adapters_save_as(adapters, model, base_name, ADAPTERS_PEFT, BL_F32, path,
                            error, size);
}

int adapters_save_gguf(const struct llama_adapters *adapters, const struct llama *model,
                       int32_t dtype, const char *path, char *error, size_t size)
{
    bl_gguf_options options;

    bl_gguf_options_init(&options, sizeof options);
    options.heads = model->config.heads;
    options.kv_heads = model->config.kv_heads;
    options.interleaved = model->config.interleaved;
    options.dtype = dtype;
    if (bl_gguf_save(adapters->group, path, &options) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    return 0;
}

/* Slot of a module by its name, or -1. */
static int64_t find_slot(const struct llama *model, const char *name)
{
    for (int64_t slot = 0; slot < slots(model); slot++) {
        char candidate[ADAPTER_NAME_SIZE];

        slot_name(candidate, slot);
        if (strcmp(candidate, name) == 0) {
            return slot;
        }
    }
    return -1;
}

int specs_read(struct specs *specs, const bl_peft *peft, const struct llama *model,
               const char *path, char *error, size_t size)
{
    int64_t *ranks = calloc((size_t) slots(model), sizeof *ranks); /* 0: no module */
    double  *scales = calloc((size_t) slots(model), sizeof *scales);

    if (ranks == NULL || scales == NULL) {
        free(ranks);
        free(scales);
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    for (int64_t i = 0; i < bl_peft_get_count(peft); i++) {
        bl_peft_module module = { 0 };
        int64_t        slot, out, in;

        bl_peft_get_module(peft, i, &module);
        slot = find_slot(model, module.name);
        if (slot < 0) {
            snprintf(error, size, "%s: is for %.200s, which the model does not have",
                     path, module.name);
            free(ranks);
            free(scales);
            return -1;
        }
        llama_projection_shape(&model->config, (int) (slot % LLAMA_PROJECTIONS), &out,
                               &in);
        if (out != module.out_features || in != module.in_features) {
            snprintf(error, size,
                     "%s: %.200s is [%" PRId64 ", %" PRId64
                     "], in the model it is [%" PRId64 ", %" PRId64 "]",
                     path, module.name, module.out_features, module.in_features, out, in);
            free(ranks);
            free(scales);
            return -1;
        }
        ranks[slot] = module.rank;
        scales[slot] = module.scale;
    }
    for (int64_t slot = 0; slot < slots(model); slot++) {
        if (ranks[slot] > 0) {
            bl_spec *spec = specs_add(specs, model, slot);

            spec->rank = ranks[slot];
            spec->alpha = (double) ranks[slot]; /* c = 1 */
            specs->scale[specs->count - 1] = scales[slot];
        }
    }
    free(ranks);
    free(scales);
    return 0;
}

int specs_fill(struct llama_adapters *adapters, const struct llama *model,
               const bl_peft *peft, const struct adapter_source *source, char *error,
               size_t size)
{
    struct orders   orders;
    bl_peft_options options;
    int             result = 0;

    if (orders_create(&orders, adapters, model, error, size) != 0) {
        return -1;
    }
    bl_peft_options_init(&options, sizeof options);
    options.row_order = orders.at;
    options.alpha = source->alpha;
    options.temperature = source->temperature;
    if (bl_peft_load(peft, adapters->group, &options) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        result = -1;
    }
    orders_free(&orders);
    return result;
}

/* The group for an open directory, filled. */
static int load_group(struct llama_adapters *out, const bl_peft *peft,
                      const struct llama *model, const struct adapter_source *source,
                      char *error, size_t size)
{
    struct llama_adapters adapters = { NULL, NULL };
    struct specs          specs;
    bl_options            options;
    bl_peft_module        first = { 0 };
    int                   result = -1;

    if (specs_create(&specs, model, error, size) != 0) {
        return -1;
    }
    bl_options_init(&options, sizeof options);
    bl_peft_get_module(peft, 0, &first);
    options.method = BL_METHOD_LORA;
    options.dora = (int32_t) first.dora;   /* of all modules or of none */
    options.optimizer = BL_OPTIMIZER_HOST; /* no moments: it will not train */
    options.reallocation = 0;
    if (specs_read(&specs, peft, model, source->path, error, size) == 0 &&
        specs_group(&adapters, model, &specs, &options, error, size) == 0) {
        result = specs_fill(&adapters, model, peft, source, error, size);
    }
    specs_free(&specs);
    if (result != 0) {
        adapters_free(&adapters);
        return -1;
    }
    *out = adapters;
    return 0;
}

int adapters_load(struct llama_adapters *out, const struct llama *model,
                  const struct adapter_source *source, char *error, size_t size)
{
    bl_peft *peft;
    int      result;

    if (bl_peft_open(&peft, source->path) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    if (source->temperature != 0 && bl_peft_get_method(peft) != BL_METHOD_BEAMLORA) {
        snprintf(error, size, "%s: has no scores, so a temperature has no effect",
                 source->path);
        result = -1;
    } else {
        result = load_group(out, peft, model, source, error, size);
    }
    bl_peft_close(peft);
    return result;
}
