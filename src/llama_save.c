/*
 * Writing a model as a Hugging Face directory. What has the wanted type and order is
 * written from where it is; all else is converted first, into memory that is held until
 * the file is whole: nothing for F32 from F32 in Hugging Face's order, q and k for a
 * llama2.c model, everything when the type changes.
 */
#define _POSIX_C_SOURCE 200809L

#include "file.h"
#include "llama_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "beamlora_io.h"

/* Upper half of a float, to nearest, ties to even; a NaN keeps a bit that makes it one. */
static uint16_t to_bfloat(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t) (bits >> 16 | 0x40u);
    }
    return (uint16_t) ((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Number of heads whose rows have to be brought into the other order; 0: none. */
static int64_t heads_to_order(const struct llama_config *config, int64_t index)
{
    int64_t part = index < 2 ? -1 : (index - 2) % LLAMA_LAYER_TENSORS - 2;

    if (!config->interleaved || (index - 2) / LLAMA_LAYER_TENSORS == config->layers) {
        return 0;
    }
    return part == LLAMA_Q ? config->heads : part == LLAMA_K ? config->kv_heads : 0;
}

/* A converted copy of a tensor, to be freed; NULL when out of memory. */
static void *convert(const struct llama *model, int64_t index, int64_t rows,
                     int64_t columns, int32_t dtype)
{
    struct weight weight = llama_get_weight(model, index);
    int64_t       heads = heads_to_order(&model->config, index);
    size_t        width = dtype == BL_F32 ? sizeof(float) : sizeof(uint16_t);
    int64_t      *order = NULL;
    float        *scratch = malloc((size_t) columns * sizeof *scratch);
    char         *copy = malloc((size_t) (rows * columns) * width);

    if (heads > 0) {
        order = llama_rotary_order(heads, model->config.head_dim);
    }
    if (scratch == NULL || copy == NULL || (heads > 0 && order == NULL)) {
        free(copy);
        copy = NULL;
    }
    for (int64_t i = 0; copy != NULL && i < rows; i++) {
        const float *row =
            weight_rows(&weight, order != NULL ? order[i] : i, 1, columns, scratch);
        char *to = copy + (size_t) (i * columns) * width;

        if (dtype == BL_F32) {
            memcpy(to, row, (size_t) columns * width);
            continue;
        }
        for (int64_t j = 0; j < columns; j++) {
            uint16_t upper = to_bfloat(row[j]);

            memcpy(to + (size_t) j * width, &upper, width);
        }
    }
    free(order);
    free(scratch);
    return copy;
}

static int save_weights(const struct llama *model, const char *directory, int32_t dtype,
                        char *error, size_t size)
{
    static const char *const   metadata[] = { "format", "pt", NULL };
    const struct llama_config *config = &model->config;
    int64_t                    count = llama_tensor_count(config);
    bl_array                  *arrays = calloc((size_t) count, sizeof *arrays);
    void                     **copies = calloc((size_t) count, sizeof *copies);
    char                      *path = file_join(directory, LLAMA_WEIGHTS, error, size);
    int result = arrays != NULL && copies != NULL && path != NULL ? 0 : -1;

    for (int64_t i = 0; result == 0 && i < count; i++) {
        struct weight       weight = llama_get_weight(model, i);
        struct llama_tensor tensor;

        llama_get_tensor(config, i, &tensor);
        snprintf(arrays[i].name, sizeof arrays[i].name, "%s", tensor.name);
        memcpy(arrays[i].shape, tensor.shape, sizeof tensor.shape);
        arrays[i].dims = tensor.dims;
        arrays[i].dtype = dtype;
        arrays[i].data = weight.data;
        if (weight.dtype != dtype || heads_to_order(config, i) > 0) {
            copies[i] =
                convert(model, i, tensor.dims == 1 ? 1 : tensor.shape[0],
                        tensor.dims == 1 ? tensor.shape[0] : tensor.shape[1], dtype);
            arrays[i].data = copies[i];
            result = copies[i] != NULL ? 0 : -1;
        }
    }
    if (result != 0) {
        snprintf(error, size, "%s: out of memory for the converted weights", directory);
    } else if (bl_safetensors_write(path, arrays, count, metadata) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        result = -1;
    }
    for (int64_t i = 0; copies != NULL && i < count; i++) {
        free(copies[i]);
    }
    free(path);
    free(copies);
    free(arrays);
    return result;
}

int llama_save(const struct llama *model, const char *directory, int32_t dtype,
               char *error, size_t size)
{
    if (dtype != BL_F32 && dtype != BL_BF16) {
        snprintf(error, size, "%s: models are written as F32 or BF16 only", directory);
        return -1;
    }
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        snprintf(error, size, "%s: %s", directory, strerror(errno));
        return -1;
    }
    /* A directory without config.json is no model: that comes last. */
    if (save_weights(model, directory, dtype, error, size) != 0) {
        return -1;
    }
    return llama_config_write(&model->config, dtype, directory, error, size);
}
