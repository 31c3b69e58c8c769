/*
 * A run's adapters from its checkpoint: a group of the same shapes without an optimizer is
 * made and given the arrays that such a group has, scores, temperature and removed ranks
 * among them; its settings stay its own. All of them are checked by bl_group_set_state.
 */
#define _POSIX_C_SOURCE 200809L /* strdup */

#include "adapters/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/adapters_specs.h"
#include "beamlora_io.h"
#include "train/checkpoint.h"
#include "base/file.h"
#include "model/llama_file.h"

#define ADAPTER_CONFIG "adapter_config.json"

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* The object in a file of the directory; NULL: line in error. */
static json_t *read_object(const char *directory, const char *name, char *error,
                           size_t size)
{
    char   *path = file_join(directory, name, error, size);
    json_t *root = path != NULL ? llama_read_json(path, error, size) : NULL;

    free(path);
    return root;
}

/* ===== The base =========================================================== */

/* Names as they were given, and a path that is good from here: `base` is where relative
 * ones start, NULL for here. */
static int find_model(struct restored *out, const char *given, const char *recorded,
                      const char *base, const char *directory, char *error, size_t size)
{
    const char *name = given != NULL ? given : recorded;

    if (name == NULL) {
        snprintf(error, size, "%s: does not say which model it is for: give --model",
                 directory);
        return -1;
    }
    out->base_name = strdup(name);
    out->model_path =
        given == NULL && base != NULL ? file_join(base, name, error, size) : strdup(name);
    if (out->base_name == NULL || out->model_path == NULL) {
        snprintf(error, size, "%s: out of memory", directory);
        return -1;
    }
    if (given == NULL && access(out->model_path, F_OK) != 0) {
        snprintf(error, size, "%s: its model %s is not there: give --model", directory,
                 out->model_path);
        return -1;
    }
    return llama_load(&out->model, out->model_path, error, size);
}

/* ===== A run ============================================================== */

static int find_tensor(const bl_safetensors *file, const char *name, bl_tensor_info *info)
{
    int64_t index = bl_safetensors_find(file, name);

    return index < 0 ? -1 : bl_safetensors_get_tensor(file, index, info);
}

/* The settings of the run that an adapter's arrays depend on. */
static int read_options(bl_options *options, const json_t *settings, const char *path,
                        char *error, size_t size)
{
    static const struct {
        const char *name;
        int32_t     method, dora;
    } kinds[] = {
        { "lora", BL_METHOD_LORA, 0 },
        { "rslora", BL_METHOD_LORA, 0 },
        { "dora", BL_METHOD_LORA, 1 },
        { "adalora", BL_METHOD_ADALORA, 0 },
        { "beamlora", BL_METHOD_BEAMLORA, 0 },
        { "beamlora+dora", BL_METHOD_BEAMLORA, 1 },
        { "beamlora-global", BL_METHOD_BEAMLORA, 0 },
        { "beamlora-global+dora", BL_METHOD_BEAMLORA, 1 },
    };

    const char *method = text_of(settings, "method");
    int         kind = -1;

    bl_options_init(options, sizeof *options);
    options->optimizer = BL_OPTIMIZER_HOST;
    options->reallocation = 0;
    for (size_t i = 0; method != NULL && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(method, kinds[i].name) == 0) {
            kind = (int) i;
        }
    }
    if (kind < 0) {
        snprintf(error, size,
                 "%s: is of a run with --method %s, which has no adapter to "
                 "export",
                 path, method != NULL ? method : "?");
        return -1;
    }
    options->method = kinds[kind].method;
    options->total_steps = 1; /* AdaLoRA wants some: it will not train */
    options->dora = kinds[kind].dora;
    return 0;
}

/* The tensor <module>.<ending> of the file. */
static int find_part(const bl_safetensors *file, const char *module, const char *ending,
                     bl_tensor_info *info)
{
    char name[ADAPTER_NAME_SIZE + 8];

    snprintf(name, sizeof name, "%s.%s", module, ending);
    return find_tensor(file, name, info);
}

/* Rank and alpha of a module from the shape of its A and from its c; in a run that began
 * with an adapter each has its own. */
static int read_module(bl_spec *spec, const bl_safetensors *file,
                       const bl_options *options, const char *path, char *error,
                       size_t size)
{
    bl_tensor_info a, c, part;
    double         scale;
    int            scored = find_part(file, spec->name, "s", &part) == 0;
    int            dora = find_part(file, spec->name, "magnitude", &part) == 0;

    if (scored != (options->method != BL_METHOD_LORA) || dora != options->dora) {
        snprintf(error, size, "%s: %s is of another method than run.json says", path,
                 spec->name);
        return -1;
    }
    if (find_part(file, spec->name, "A", &a) != 0 || a.dims != 2 || a.shape[0] < 1 ||
        find_part(file, spec->name, "c", &c) != 0 || c.elements != 1 ||
        c.dtype != BL_F64) {
        snprintf(error, size, "%s: says nothing of rank and scale of %s", path,
                 spec->name);
        return -1;
    }
    bl_safetensors_copy(file, bl_safetensors_find(file, c.name), BL_F64, &scale, 1);
    spec->rank = a.shape[0];
    spec->alpha =
        scale * ((double) spec->rank + (options->method == BL_METHOD_ADALORA ? 1e-5 : 0));
    return 0;
}

/* The modules that the checkpoint has. */
static int read_modules(struct specs *specs, const struct llama *model,
                        const bl_safetensors *file, const bl_options *options,
                        const char *path, char *error, size_t size)
{
    int64_t slots = model->config.layers * LLAMA_PROJECTIONS;

    for (int64_t slot = 0; slot < slots; slot++) {
        bl_spec       *spec = specs_add(specs, model, slot);
        bl_tensor_info a;

        if (find_part(file, spec->name, "A", &a) != 0) {
            specs->count--;
        } else if (read_module(spec, file, options, path, error, size) != 0) {
            return -1;
        }
    }
    if (specs->count == 0) {
        snprintf(error, size, "%s: has no adapters of the model's projections", path);
        return -1;
    }
    return 0;
}

/* The file's array of this name; 0: there is none of that shape and type. */
static int take_array(bl_array *array, const bl_safetensors *file)
{
    bl_tensor_info info;

    if (find_tensor(file, array->name, &info) != 0 || info.dims != array->dims ||
        info.shape[0] != array->shape[0] ||
        (info.dims == 2 && info.shape[1] != array->shape[1]) ||
        info.dtype != array->dtype) {
        return 0;
    }
    array->data = info.data;
    return 1;
}

/* What only goes on with the training; the new group's own will do. */
static int stays(const char *name)
{
    static const char *const own[] = { "group.seed", "group.settings",
                                       "group.history_steps", "group.snapshots",
                                       "group.frozen" };
    /* its own rank is the same, without room for more; its c but for rounding */
    static const char *const endings[] = { ".rank", ".c" };
    size_t                   length = strlen(name);

    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (strcmp(name, own[i]) == 0) {
            return 1;
        }
    }
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t ending = strlen(endings[i]);

        if (length > ending && strcmp(name + length - ending, endings[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static int fill_group(bl_group *group, const bl_safetensors *file, const char *path,
                      char *error, size_t size)
{
    int64_t   count = bl_group_get_state_count(group);
    bl_array *arrays = calloc((size_t) count, sizeof *arrays);
    int       result = arrays != NULL ? 0 : -1;

    if (arrays == NULL) {
        snprintf(error, size, "%s: out of memory", path);
    }
    for (int64_t i = 0; result == 0 && i < count; i++) {
        result = bl_group_get_state(group, i, &arrays[i]);
        if (!stays(arrays[i].name) && !take_array(&arrays[i], file)) {
            snprintf(error, size,
                     "%s: has no %.200s of the shape that run.json and the model ask for",
                     path, arrays[i].name);
            result = -1;
        }
    }
    if (result == 0 && bl_group_set_state(group, arrays, count) != 0) {
        snprintf(error, size, "%s: %s", path, bl_last_error());
        result = -1;
    }
    free(arrays);
    return result;
}

static int load_checkpoint(struct restored *out, const json_t *settings,
                           const bl_safetensors *file, const char *path, char *error,
                           size_t size)
{
    const char  *format = bl_safetensors_get_metadata(file, "format");
    const char  *version = bl_safetensors_get_metadata(file, "version");
    bl_options   options;
    struct specs specs;
    int          result;

    if (format == NULL || strcmp(format, CHECKPOINT_FORMAT) != 0 || version == NULL ||
        strcmp(version, CHECKPOINT_VERSION) != 0) {
        snprintf(error, size, "%s: is no checkpoint of this version of beamlora", path);
        return -1;
    }
    if (read_options(&options, settings, path, error, size) != 0 ||
        specs_create(&specs, out->model, error, size) != 0) {
        return -1;
    }
    result = read_modules(&specs, out->model, file, &options, path, error, size);
    if (result == 0) {
        result = specs_group(&out->adapters, out->model, &specs, &options, error, size);
    }
    specs_free(&specs);
    return result == 0 ? fill_group(out->adapters.group, file, path, error, size) : -1;
}

static int restore_run(struct restored *out, const char *directory, const char *model,
                       char *error, size_t size)
{
    json_t         *root = read_object(directory, FOLDER_RUN, error, size);
    json_t         *settings = json_object_get(root, "settings");
    char           *path = file_join(directory, FOLDER_CHECKPOINT, error, size);
    bl_safetensors *file = NULL;
    int             result = -1;

    if (root != NULL && path != NULL &&
        find_model(out, model, text_of(settings, "model"), text_of(root, "directory"),
                   directory, error, size) == 0) {
        if (bl_safetensors_open(&file, path) != 0) {
            snprintf(error, size, "%s", bl_io_last_error());
        } else {
            result = load_checkpoint(out, settings, file, path, error, size);
        }
    }
    bl_safetensors_close(file);
    free(path);
    json_decref(root);
    return result;
}

/* ===== An adapter ========================================================= */

static int restore_adapter(struct restored *out, const char *directory, const char *model,
                           char *error, size_t size)
{
    const struct adapter_source source = { .path = directory };

    json_t *root = read_object(directory, ADAPTER_CONFIG, error, size);
    int     result = -1;

    if (root != NULL && find_model(out, model, text_of(root, "base_model_name_or_path"),
                                   NULL, directory, error, size) == 0) {
        result = adapters_load(&out->adapters, out->model, &source, error, size);
    }
    json_decref(root);
    return result;
}

int restore(struct restored *out, const char *directory, const char *model, char *error,
            size_t size)
{
    int result = -1;

    memset(out, 0, sizeof *out);
    /* A run's adapter files are of its end; the checkpoint is never older. */
    if (file_exists(directory, FOLDER_RUN)) {
        result = restore_run(out, directory, model, error, size);
    } else if (file_exists(directory, ADAPTER_CONFIG)) {
        result = restore_adapter(out, directory, model, error, size);
    } else {
        snprintf(error, size,
                 "%.300s: neither a run folder (" FOLDER_RUN ") nor an adapter "
                 "(" ADAPTER_CONFIG ")",
                 directory);
    }
    if (result != 0) {
        restore_free(out);
    }
    return result;
}

void restore_free(struct restored *restored)
{
    adapters_free(&restored->adapters);
    llama_free(restored->model);
    free(restored->model_path);
    free(restored->base_name);
    memset(restored, 0, sizeof *restored);
}
