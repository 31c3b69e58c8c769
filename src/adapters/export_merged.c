/*
 * A merged model. A Hugging Face base goes shard by shard, under the names that its files
 * have, tensor by tensor; all its other small files are copied as they are. A llama2.c
 * base becomes such a directory. config.json comes last: without it, it is no model. When
 * something fails, what was written goes again.
 */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "beamlora_io.h"
#include "adapters/export.h"
#include "base/file.h"
#include "model/llama_file.h"

struct merging {
    const struct export *job;
    int32_t              dtype; /* or LLAMA_OWN_DTYPE */
    int64_t              bytes; /* of all tensors written */
    json_t              *names; /* of the files that were begun */
    char                *error;
    size_t               size;
};

static int no_memory(const struct merging *merging)
{
    snprintf(merging->error, merging->size, "%s: out of memory", merging->job->out);
    return -1;
}

/* Path of a file to be written, which is noted; NULL: line in error. */
static char *begin_file(const struct merging *merging, const char *name)
{
    if (json_array_append_new(merging->names, json_string(name)) != 0) {
        no_memory(merging);
        return NULL;
    }
    return file_join(merging->job->out, name, merging->error, merging->size);
}

static void remove_files(const struct merging *merging)
{
    size_t  i;
    json_t *name;

    json_array_foreach(merging->names, i, name)
    {
        char  line[16]; /* the failure's own line stays */
        char *path =
            file_join(merging->job->out, json_string_value(name), line, sizeof line);

        if (path != NULL) {
            unlink(path);
        }
        free(path);
    }
}

/* ===== Weights ============================================================ */

/* The adapter of a tensor, or NULL. */
static const bl_adapter *adapter_of(const struct restored *from, const char *tensor)
{
    static const char suffix[] = ".weight";
    size_t            length = strlen(tensor), end = strlen(suffix);

    for (int64_t i = 0; i < bl_group_get_count(from->adapters.group); i++) {
        bl_adapter *adapter = bl_group_get_adapter(from->adapters.group, i);
        const char *name = bl_adapter_get_name(adapter);

        if (length == strlen(name) + end && strncmp(tensor, name, length - end) == 0 &&
            strcmp(tensor + length - end, suffix) == 0) {
            return adapter;
        }
    }
    return NULL;
}

/* An open shard's tensors; what llama_load has let pass but cannot be written again (only
 * tables of angles in odd types) is refused. */
static int list_arrays(struct llama_array *arrays, const bl_safetensors *file,
                       const struct merging *merging, const char *path)
{
    for (int64_t i = 0; i < bl_safetensors_get_count(file); i++) {
        struct llama_array *array = &arrays[i];
        bl_tensor_info      info;

        bl_safetensors_get_tensor(file, i, &info);
        if (info.dims < 1 || info.dims > 2 || info.dtype < 0 ||
            strlen(info.name) >= sizeof array->tensor.name) {
            snprintf(merging->error, merging->size,
                     "%s: tensor %.100s of dtype %s and %d dimensions cannot be written",
                     path, info.name, info.dtype_name, (int) info.dims);
            return -1;
        }
        memcpy(array->tensor.name, info.name, strlen(info.name) + 1);
        memcpy(array->tensor.shape, info.shape, sizeof array->tensor.shape);
        array->tensor.dims = info.dims;
        array->weight = (struct weight){ info.data, info.dtype };
        array->adapter = adapter_of(&merging->job->from, info.name);
        array->mapped = 1;
    }
    return 0;
}

static int write_shard(struct merging *merging, const char *name)
{
    const struct export *job = merging->job;
    char *from = file_join(job->from.model_path, name, merging->error, merging->size);
    char *to = begin_file(merging, name);
    struct llama_array *arrays = NULL;
    bl_safetensors     *file = NULL;
    int                 result = -1;

    if (from != NULL && to != NULL) {
        if (bl_safetensors_open(&file, from) != 0) {
            snprintf(merging->error, merging->size, "%s", bl_io_last_error());
        } else {
            int64_t count = bl_safetensors_get_count(file);

            arrays = calloc((size_t) count + 1, sizeof *arrays);
            result = arrays != NULL ? list_arrays(arrays, file, merging, from)
                                    : no_memory(merging);
            if (result == 0) {
                result = llama_write(to, arrays, count, merging->dtype, 1,
                                     &merging->bytes, merging->error, merging->size);
            }
        }
    }
    free(arrays);
    bl_safetensors_close(file);
    free(from);
    free(to);
    return result;
}

/* ===== Other files ======================================================== */

static int copy_file(const struct merging *merging, const char *name)
{
    char *from =
        file_join(merging->job->from.model_path, name, merging->error, merging->size);
    char  *to = begin_file(merging, name);
    char  *data = NULL;
    size_t bytes = 0;
    int    result = -1;

    if (from != NULL && to != NULL &&
        file_read(from, &data, &bytes, merging->error, merging->size) == 0) {
        result = file_replace(to, data, bytes, merging->error, merging->size);
    }
    free(data);
    free(from);
    free(to);
    return result;
}

/* What goes with a model besides its weights and config.json. */
static int is_wanted(const char *name)
{
    static const char *const whole[] = { "generation_config.json",
                                         "special_tokens_map.json", "added_tokens.json",
                                         "vocab.json", "merges.txt" };
    static const char *const begins[] = { "tokenizer", "chat_template" };
    size_t                   length = strlen(name);

    /* left by a write that was killed */
    if (length > 4 && strcmp(name + length - 4, ".tmp") == 0) {
        return 0;
    }
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (strcmp(name, whole[i]) == 0) {
            return 1;
        }
    }
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) {
        if (strncmp(name, begins[i], strlen(begins[i])) == 0) {
            return 1;
        }
    }
    return 0;
}

static int is_regular(const char *directory, const char *name)
{
    char        path[4096];
    struct stat status;

    return (size_t) snprintf(path, sizeof path, "%s/%s", directory, name) < sizeof path &&
           stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

static int copy_small_files(const struct merging *merging)
{
    const char *from = merging->job->from.model_path;
    DIR        *directory = opendir(from);
    int         result = 0;

    if (directory == NULL) {
        snprintf(merging->error, merging->size, "%s: %s", from, strerror(errno));
        return -1;
    }
    for (struct dirent *entry; result == 0 && (entry = readdir(directory)) != NULL;) {
        if (is_wanted(entry->d_name) && is_regular(from, entry->d_name)) {
            result = copy_file(merging, entry->d_name);
        }
    }
    closedir(directory);
    return result;
}

/* A JSON file that says what has changed. Takes root. */
static int write_json(const struct merging *merging, const char *name, json_t *root)
{
    char *path = begin_file(merging, name);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    int   result = -1;

    json_decref(root);
    if (text == NULL) {
        no_memory(merging);
    } else if (path != NULL) {
        result = file_replace(path, text, strlen(text), merging->error, merging->size);
    }
    free(text);
    free(path);
    return result;
}

/* The object in a file of the base. */
static json_t *read_json(const struct merging *merging, const char *name)
{
    char *path =
        file_join(merging->job->from.model_path, name, merging->error, merging->size);
    json_t *root =
        path != NULL ? llama_read_json(path, merging->error, merging->size) : NULL;

    free(path);
    return root;
}

static int write_index(const struct merging *merging)
{
    json_t *root, *metadata;

    if (merging->dtype == LLAMA_OWN_DTYPE) {
        return copy_file(merging, LLAMA_INDEX);
    }
    root = read_json(merging, LLAMA_INDEX);
    if (root == NULL) {
        return -1;
    }
    metadata = json_object_get(root, "metadata");
    if (metadata != NULL) {
        json_object_set_new(metadata, "total_size",
                            json_integer((json_int_t) merging->bytes));
    }
    return write_json(merging, LLAMA_INDEX, root);
}

static int write_config(const struct merging *merging)
{
    const char *dtype = llama_dtype_name(merging->dtype);
    json_t     *root;

    if (merging->dtype == LLAMA_OWN_DTYPE) {
        return copy_file(merging, LLAMA_CONFIG);
    }
    root = read_json(merging, LLAMA_CONFIG);
    if (root == NULL) {
        return -1;
    }
    /* newer files say "dtype" */
    json_object_set_new(root,
                        json_object_get(root, "dtype") != NULL ? "dtype" : "torch_dtype",
                        json_string(dtype));
    return write_json(merging, LLAMA_CONFIG, root);
}

/* ===== The whole ========================================================== */

static int write_shards(struct merging *merging)
{
    json_t     *root = read_json(merging, LLAMA_INDEX), *seen = json_object();
    const char *tensor;
    json_t     *name;
    int         result = root != NULL && seen != NULL ? 0 : -1;

    /* every name was checked when the model was loaded */
    json_object_foreach(json_object_get(root, "weight_map"), tensor, name)
    {
        const char *file = json_string_value(name);

        if (result == 0 && json_object_get(seen, file) == NULL) {
            result = json_object_set_new(seen, file, json_true());
            result = result == 0 ? write_shard(merging, file) : no_memory(merging);
        }
    }
    json_decref(seen);
    json_decref(root);
    return result == 0 ? write_index(merging) : result;
}

static int write_files(struct merging *merging, int sharded)
{
    if ((sharded ? write_shards(merging) : write_shard(merging, LLAMA_WEIGHTS)) != 0 ||
        copy_small_files(merging) != 0) {
        return -1;
    }
    return write_config(merging);
}

static int write_directory(struct merging *merging)
{
    const char *out = merging->job->out;
    int         sharded = !file_exists(merging->job->from.model_path, LLAMA_WEIGHTS);
    int         made, result;

    if (sharded && file_exists(out, LLAMA_WEIGHTS)) {
        snprintf(merging->error, merging->size,
                 "%s/" LLAMA_WEIGHTS " is there: it would be read in place of the shards",
                 out);
        return -1;
    }
    made = mkdir(out, 0777) == 0;
    if (!made && errno != EEXIST) {
        snprintf(merging->error, merging->size, "%s: %s", out, strerror(errno));
        return -1;
    }
    merging->names = json_array();
    result = merging->names != NULL ? write_files(merging, sharded) : no_memory(merging);
    if (result != 0) {
        remove_files(merging);
    }
    if (result != 0 && made) {
        rmdir(out);
    }
    json_decref(merging->names);
    return result;
}

int export_merged(const struct export *job, char *error, size_t size)
{
    struct merging merging = { job,   job->dtype < 0 ? LLAMA_OWN_DTYPE : job->dtype,
                               0,     NULL,
                               error, size };

    /* the reader of models would not know it from the adapter's own base */
    if (file_exists(job->out, "adapter_config.json")) {
        snprintf(error, size,
                 "--out %s: has an adapter, which would be added to the merged model "
                 "again",
                 job->out);
        return -1;
    }
    if (job->from.model->config.interleaved) {
        return llama_save_merged(job->from.model, &job->from.adapters, job->out,
                                 job->dtype < 0 ? BL_F32 : job->dtype, error, size);
    }
    return write_directory(&merging);
}
