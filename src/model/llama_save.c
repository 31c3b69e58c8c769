/*
 * Writing a model as a Hugging Face directory: config.json and one file of weights.
 */
#define _POSIX_C_SOURCE 200809L

#include "base/file.h"
#include "model/llama_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Which of the projections it is, by layer; -1: none. */
static int64_t slot_of(const struct llama_config *config, int64_t index)
{
    int64_t layer = (index - 2) / LLAMA_LAYER_TENSORS;
    int64_t part = (index - 2) % LLAMA_LAYER_TENSORS - 2;

    return index < 2 || part < 0 || layer == config->layers
               ? -1
               : layer * LLAMA_PROJECTIONS + part;
}

static int in_map(const struct llama *model, const void *data)
{
    const char *map = model->map, *at = data;

    return map != NULL && at >= map && at < map + model->map_bytes;
}

/* The model's own arrays; orders: of q and k where theirs is not Hugging Face's. */
static void list_arrays(struct llama_array *arrays, const struct llama *model,
                        const struct llama_adapters *adapters, int64_t *const orders[2])
{
    for (int64_t i = 0; i < llama_tensor_count(&model->config); i++) {
        int64_t slot = slot_of(&model->config, i);
        int64_t projection = slot % LLAMA_PROJECTIONS;

        llama_get_tensor(&model->config, i, &arrays[i].tensor);
        arrays[i].weight = llama_get_weight(model, i);
        arrays[i].mapped = in_map(model, arrays[i].weight.data);
        if (slot >= 0 && projection <= LLAMA_K && model->config.interleaved) {
            arrays[i].order = orders[projection == LLAMA_K];
        }
        if (slot >= 0 && adapters != NULL) {
            arrays[i].adapter = adapters->at[slot];
        }
    }
}

static int save_weights(const struct llama *model, const struct llama_adapters *adapters,
                        const char *directory, int32_t dtype, char *error, size_t size)
{
    const struct llama_config *config = &model->config;
    int64_t                    count = llama_tensor_count(config), bytes = 0;
    struct llama_array        *arrays = calloc((size_t) count, sizeof *arrays);
    int64_t *const             orders[2] = {
                    llama_rotary_order(config->heads, config->head_dim),
                    llama_rotary_order(config->kv_heads, config->head_dim),
    };
    char *path = file_join(directory, LLAMA_WEIGHTS, error, size);
    int   result = -1;

    if (arrays == NULL || orders[0] == NULL || orders[1] == NULL) {
        snprintf(error, size, "%s: out of memory", directory);
    } else if (path != NULL) {
        list_arrays(arrays, model, adapters, orders);
        result = llama_write(path, arrays, count, dtype, adapters != NULL, &bytes, error,
                             size);
    }
    free(path);
    free(orders[0]);
    free(orders[1]);
    free(arrays);
    return result;
}

/* A directory without config.json is no model: that comes last, and when it does not come,
 * the weights go again. */
static int save_files(const struct llama *model, const struct llama_adapters *adapters,
                      const char *directory, int32_t dtype, char *error, size_t size)
{
    char  line[16]; /* the failure's own line stays */
    char *path;

    if (save_weights(model, adapters, directory, dtype, error, size) == 0 &&
        llama_config_write(&model->config, dtype, directory, error, size) == 0) {
        return 0;
    }
    path = file_join(directory, LLAMA_WEIGHTS, line, sizeof line);
    if (path != NULL && !file_exists(directory, LLAMA_CONFIG)) {
        unlink(path);
    }
    free(path);
    return -1;
}

int llama_save_merged(const struct llama *model, const struct llama_adapters *adapters,
                      const char *directory, int32_t dtype, char *error, size_t size)
{
    int made;

    if (dtype != BL_F32 && dtype != BL_F16 && dtype != BL_BF16) {
        snprintf(error, size, "%s: models are written as F32, F16 or BF16 only",
                 directory);
        return -1;
    }
    made = mkdir(directory, 0777) == 0;
    if (!made && errno != EEXIST) {
        snprintf(error, size, "%s: %s", directory, strerror(errno));
        return -1;
    }
    if (save_files(model, adapters, directory, dtype, error, size) == 0) {
        return 0;
    }
    if (made) {
        rmdir(directory);
    }
    return -1;
}

int llama_save(const struct llama *model, const char *directory, int32_t dtype,
               char *error, size_t size)
{
    return llama_save_merged(model, NULL, directory, dtype, error, size);
}
