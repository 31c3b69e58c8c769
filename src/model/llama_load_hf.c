/*
 * A Hugging Face Llama directory: config.json, and the weights in model.safetensors or in
 * the shards that model.safetensors.index.json names. They are mapped and used in place,
 * F32, F16 and BF16 side by side; only the norms are copied, as floats. Every tensor must
 * be there in its shape, and no other may be: one that is left over would be a part of the
 * network that is not computed.
 */
#define _POSIX_C_SOURCE 200809L

#include "base/file.h"
#include "base/line.h"
#include "model/llama_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "beamlora_io.h"

#define SHAPE_SIZE 128 /* of a shape in a message */

/* A directory being loaded. */
struct source {
    const char   *directory;
    struct llama *model;
    json_t       *index;  /* tensor to file name, "weight_map"; NULL: one file */
    json_t       *root;   /* what holds it */
    json_t       *opened; /* file name to number in model->files */
    char         *error;
    size_t        size;
};

/* ===== Files ============================================================== */

static int open_file(struct source *source, const char *name)
{
    struct llama *model = source->model;
    char         *path = file_join(source->directory, name, source->error, source->size);
    int           status;

    if (path == NULL) {
        return -1;
    }
    status = bl_safetensors_open(&model->files[model->file_count], path);
    free(path);
    if (status != 0) {
        snprintf(source->error, source->size, "%s", bl_io_last_error());
        return -1;
    }
    model->file_count++;
    return 0;
}

/* A shard is a file of the directory itself. */
static int check_shard_name(const struct source *source, const char *tensor,
                            const json_t *name)
{
    const char *text = json_string_value(name);

    if (text == NULL || text[0] == '\0' || strchr(text, '/') != NULL ||
        strstr(text, "..") != NULL) {
        snprintf(source->error, source->size,
                 "%s/" LLAMA_INDEX ": tensor %.100s is in \"%.100s\", which is no name "
                 "of a file beside it",
                 source->directory, tensor, text != NULL ? text : "");
        return -1;
    }
    return 0;
}

static int open_shards(struct source *source)
{
    char *path = file_join(source->directory, LLAMA_INDEX, source->error, source->size);

    source->root =
        path != NULL ? llama_read_json(path, source->error, source->size) : NULL;
    free(path);
    if (source->root == NULL) {
        return -1;
    }
    source->index = json_object_get(source->root, "weight_map");
    source->opened = json_object();
    if (!json_is_object(source->index) || json_object_size(source->index) == 0) {
        snprintf(source->error, source->size, "%s/" LLAMA_INDEX ": has no weight_map",
                 source->directory);
        return -1;
    }
    source->model->files =
        calloc(json_object_size(source->index), sizeof(struct bl_safetensors *));
    if (source->model->files == NULL || source->opened == NULL) {
        snprintf(source->error, source->size, "%s: out of memory", source->directory);
        return -1;
    }
    for (void *at = json_object_iter(source->index); at != NULL;
         at = json_object_iter_next(source->index, at)) {
        const char   *tensor = json_object_iter_key(at);
        const json_t *name = json_object_iter_value(at);
        const char   *file = json_string_value(name);
        json_t       *number;

        if (check_shard_name(source, tensor, name) != 0) {
            return -1;
        }
        number = json_object_get(source->opened, file);
        if (number == NULL) {
            if (open_file(source, file) != 0) {
                return -1;
            }
            number = json_integer(source->model->file_count - 1);
            if (json_object_set_new(source->opened, file, number) != 0) {
                snprintf(source->error, source->size, "%s: out of memory",
                         source->directory);
                return -1;
            }
        }
        if (bl_safetensors_find(source->model->files[json_integer_value(number)],
                                tensor) < 0) {
            snprintf(source->error, source->size,
                     "%s/%s: has no tensor %.100s, which " LLAMA_INDEX " names",
                     source->directory, file, tensor);
            return -1;
        }
    }
    return 0;
}

static int has_file(const struct source *source, const char *name)
{
    char *path = file_join(source->directory, name, source->error, source->size);
    int   there = path != NULL && access(path, F_OK) == 0;

    free(path);
    return there;
}

static int open_files(struct source *source)
{
    if (has_file(source, LLAMA_WEIGHTS)) {
        source->model->files = calloc(1, sizeof(struct bl_safetensors *));
        if (source->model->files == NULL) {
            snprintf(source->error, source->size, "%s: out of memory", source->directory);
            return -1;
        }
        return open_file(source, LLAMA_WEIGHTS);
    }
    if (has_file(source, LLAMA_INDEX)) {
        return open_shards(source);
    }
    if (has_file(source, "pytorch_model.bin") ||
        has_file(source, "pytorch_model.bin.index.json")) {
        snprintf(source->error, source->size,
                 "%s: has its weights as pytorch_model.bin, safetensors are needed: "
                 "AutoModelForCausalLM.from_pretrained(old).save_pretrained(new) of "
                 "Python's transformers writes them",
                 source->directory);
        return -1;
    }
    snprintf(source->error, source->size,
             "%s: has neither " LLAMA_WEIGHTS " nor " LLAMA_INDEX, source->directory);
    return -1;
}

/* The file's name of a tensor, for messages. */
static const char *file_of(const struct source *source, const char *tensor)
{
    const char *name = json_string_value(json_object_get(source->index, tensor));

    return source->index == NULL ? LLAMA_WEIGHTS : name != NULL ? name : LLAMA_INDEX;
}

/* 0, or -1 when there is no such tensor. */
static int find(const struct source *source, const char *tensor, bl_tensor_info *out)
{
    const json_t *name = json_object_get(source->index, tensor);
    int64_t       file = 0, index;

    if (source->index != NULL) {
        if (name == NULL) {
            return -1;
        }
        file =
            json_integer_value(json_object_get(source->opened, json_string_value(name)));
    }
    index = bl_safetensors_find(source->model->files[file], tensor);
    return index < 0 ? -1
                     : bl_safetensors_get_tensor(source->model->files[file], index, out);
}

/* ===== Tensors ============================================================ */

static void show_shape(char out[SHAPE_SIZE], const int64_t *shape, int dims)
{
    int used = snprintf(out, SHAPE_SIZE, "[");

    for (int i = 0; i < dims && used < SHAPE_SIZE; i++) {
        used += snprintf(out + used, (size_t) (SHAPE_SIZE - used), "%s%lld",
                         i > 0 ? ", " : "", (long long) shape[i]);
    }
    if (used < SHAPE_SIZE) {
        snprintf(out + used, (size_t) (SHAPE_SIZE - used), "]");
    }
}

static int check_tensor(const struct source *source, const struct llama_tensor *want)
{
    bl_tensor_info info;
    char           is[SHAPE_SIZE], must[SHAPE_SIZE];

    if (find(source, want->name, &info) != 0) {
        snprintf(source->error, source->size, "%s/%s: has no tensor %s",
                 source->directory, file_of(source, want->name), want->name);
        return -1;
    }
    if (info.dtype != BL_F32 && info.dtype != BL_F16 && info.dtype != BL_BF16) {
        snprintf(source->error, source->size,
                 "%s/%s: tensor %s is of dtype %s, must be F32, F16 or BF16",
                 source->directory, file_of(source, want->name), want->name,
                 info.dtype_name);
        return -1;
    }
    if (info.dims != want->dims || info.shape[0] != want->shape[0] ||
        info.shape[1] != want->shape[1]) {
        show_shape(is, info.shape, info.dims);
        show_shape(must, want->shape, want->dims);
        snprintf(source->error, source->size,
                 "%s/%s: tensor %s is %s, by " LLAMA_CONFIG " it must be %s",
                 source->directory, file_of(source, want->name), want->name, is, must);
        return -1;
    }
    return 0;
}

/* 1 if a tensor of this name is one of the model's. */
static int is_wanted(const struct llama_config *config, const char *name)
{
    static const char   prefix[] = "model.layers.";
    int64_t             ends[] = { 0, 1, llama_tensor_count(config) - 1 };
    struct llama_tensor tensor;
    long long           layer;

    for (int i = 0; i < 3; i++) {
        llama_get_tensor(config, ends[i], &tensor);
        if (strcmp(name, tensor.name) == 0) {
            return 1;
        }
    }
    if (strncmp(name, prefix, strlen(prefix)) != 0) {
        return 0;
    }
    layer = strtoll(name + strlen(prefix), NULL, 10);
    for (int i = 0; layer >= 0 && layer < config->layers && i < LLAMA_LAYER_TENSORS;
         i++) {
        llama_get_tensor(config, 2 + layer * LLAMA_LAYER_TENSORS + i, &tensor);
        if (strcmp(name, tensor.name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* A head beside tie_word_embeddings: versions of transformers differ in which counts. */
static int check_tied_head(const struct source *source, const bl_tensor_info *head)
{
    struct llama_tensor tensor;
    bl_tensor_info      embedding;

    llama_get_tensor(&source->model->config, 0, &tensor);
    if (find(source, tensor.name, &embedding) == 0 && head->dtype == embedding.dtype &&
        head->bytes == embedding.bytes &&
        memcmp(head->data, embedding.data, head->bytes) == 0) {
        return 0;
    }
    snprintf(source->error, source->size,
             "%s/" LLAMA_CONFIG ": tie_word_embeddings is true, but there is an %s that "
             "differs from %s",
             source->directory, head->name, tensor.name);
    return -1;
}

static int check_present(const struct source *source, const bl_tensor_info *info,
                         int64_t file)
{
    const struct llama_config *config = &source->model->config;
    const char                *name = info->name;
    static const char          tables[] = ".rotary_emb.inv_freq";
    size_t                     length = strlen(name), end = strlen(tables);
    const json_t              *shard, *number;

    if (length > end && strcmp(name + length - end, tables) == 0) {
        return 0; /* old files have them; angles are computed */
    }
    shard = json_object_get(source->index, name);
    number = json_object_get(source->opened, json_string_value(shard));
    if (source->index != NULL && json_integer_value(number) != file) {
        snprintf(source->error, source->size,
                 "%s: tensor %.100s is in a file that " LLAMA_INDEX
                 " does not name for it",
                 source->directory, name);
        return -1;
    }
    if (config->tied && strcmp(name, "lm_head.weight") == 0) {
        return check_tied_head(source, info);
    }
    if (!is_wanted(config, name)) {
        snprintf(source->error, source->size,
                 "%s/%s: tensor %.100s is none of a Llama of %lld layers without biases",
                 source->directory, file_of(source, name), name,
                 (long long) config->layers);
        return -1;
    }
    return 0;
}

/* All that the files have is wanted, and all that is wanted is there: with this the
 * sizes in config.json are no larger than the files. */
static int check_tensors(const struct source *source)
{
    const struct llama *model = source->model;
    struct llama_tensor tensor;
    bl_tensor_info      info;

    for (int64_t i = 0; i < llama_tensor_count(&model->config); i++) {
        llama_get_tensor(&model->config, i, &tensor);
        if (check_tensor(source, &tensor) != 0) {
            return -1;
        }
    }
    for (int64_t file = 0; file < model->file_count; file++) {
        for (int64_t i = 0; i < bl_safetensors_get_count(model->files[file]); i++) {
            bl_safetensors_get_tensor(model->files[file], i, &info);
            if (check_present(source, &info, file) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int place(const struct source *source)
{
    struct llama              *model = source->model;
    const struct llama_config *c = &model->config;
    float                     *norm;

    model->layers = calloc((size_t) c->layers, sizeof *model->layers);
    model->norms = calloc((size_t) (2 * c->layers + 1), (size_t) c->dim * sizeof *norm);
    if (model->layers == NULL || model->norms == NULL) {
        snprintf(source->error, source->size, "%s: out of memory", source->directory);
        return -1;
    }
    norm = model->norms;
    for (int64_t i = 0; i < llama_tensor_count(c); i++) {
        struct llama_tensor tensor;
        struct weight       weight;
        bl_tensor_info      info;

        llama_get_tensor(c, i, &tensor);
        if (find(source, tensor.name, &info) != 0) {
            return -1; /* not after check_tensors */
        }
        weight = (struct weight){ info.data, info.dtype };
        if (tensor.dims == 1) {
            const float *values = weight_rows(&weight, 0, 1, c->dim, norm);

            if (values != norm) {
                memcpy(norm, values, (size_t) c->dim * sizeof *norm);
            }
            weight = (struct weight){ norm, BL_F32 };
            norm += c->dim;
        }
        llama_set_weight(model, i, weight);
    }
    return 0;
}

int llama_load_hf(struct llama **out, const char *directory, char *error, size_t size)
{
    struct source source = { .directory = directory, .error = error, .size = size };
    int           result = -1;

    source.model = calloc(1, sizeof *source.model);
    if (source.model == NULL) {
        snprintf(error, size, "%s: out of memory", directory);
        return -1;
    }
    if (llama_config_read(&source.model->config, directory, error, size) == 0 &&
        open_files(&source) == 0 && check_tensors(&source) == 0 && place(&source) == 0) {
        *out = source.model;
        source.model = NULL;
        result = 0;
    }
    if (result != 0) {
        line_clean(error);
    }
    json_decref(source.opened);
    json_decref(source.root);
    llama_free(source.model);
    return result;
}
