/*
 * Opening an adapter: pairs of tensors
 *
 *     base_model.model.<module>.lora_A.weight   [rank, in]
 *     base_model.model.<module>.lora_B.weight   [out, rank]
 *
 * and what a configuration allows besides them: lora_gate with use_beamlora,
 * lora_magnitude_vector with use_dora, lora_E and ranknum with AdaLoRA. Nothing else: a
 * tensor that is left over would be a part of the model that a group does not have.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

/* A tensor under the name of its module. */
struct part {
    struct bl__io_name name;
    int64_t            index;
};

/* What a tensor of each kind must be: a matrix with the rank in one dimension. */
static int check_tensor(const bl_peft *peft, const struct bl__io_tensor *tensor,
                        enum bl__io_kind kind)
{
    int32_t dtype = tensor->dtype->dtype;
    int     dims = kind == BL__IO_RANKNUM || kind == BL__IO_MAGNITUDE ? 1 : 2;
    if (dtype != BL_F32 && dtype != BL_F64 && dtype != BL_F16 && dtype != BL_BF16) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s is of dtype %s, must be F64, F32, F16 or BF16",
                           tensor->name, tensor->dtype->name);
    }
    if (tensor->dims != dims) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s has %d dimensions, must have %d", tensor->name,
                           (int) tensor->dims, dims);
    }
    for (int i = 0; i < dims; i++) {
        if (tensor->shape[i] < 0 || tensor->shape[i] > INT_MAX) {
            return bl__io_fail(BL_E_FORMAT, peft->file->label,
                               "tensor %.160s is [%lld, %lld], extents must be in 1..%d",
                               tensor->name, (long long) tensor->shape[0],
                               (long long) tensor->shape[1], INT_MAX);
        }
    }
    return 0;
}

static int parse_part(const bl_peft *peft, const struct bl__io_config *config,
                      int64_t index, struct part *part)
{
    const struct bl__io_tensor *tensor = &peft->file->tensors[index];
    int                         known = bl__io_parse_name(&part->name, tensor->name);
    enum bl__io_kind            kind = part->name.kind;
    part->index = index;
    if (known && kind == BL__IO_GATE && !config->published) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s holds scores, but " BL__IO_CONFIG
                           " does not set use_beamlora",
                           tensor->name);
    }
    if (known && kind == BL__IO_MAGNITUDE && !config->dora) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s holds magnitudes, but " BL__IO_CONFIG
                           " does not set use_dora",
                           tensor->name);
    }
    if ((kind == BL__IO_E || kind == BL__IO_RANKNUM) && !config->adalora) {
        known = 0;
    }
    if (!known || (config->root != NULL && !part->name.prefixed)) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s is no " BL__IO_PREFIX "..." BL__IO_SUFFIX_A
                           " or " BL__IO_SUFFIX_B,
                           tensor->name);
    }
    return check_tensor(peft, tensor, kind);
}

static int compare_modules(const struct part *a, const struct part *b)
{
    size_t shorter = a->name.length < b->name.length ? a->name.length : b->name.length;
    int    order = memcmp(a->name.module, b->name.module, shorter);
    return order != 0
               ? order
               : (a->name.length > b->name.length) - (a->name.length < b->name.length);
}

static int compare_parts(const void *left, const void *right)
{
    const struct part *a = left;
    const struct part *b = right;
    int                order = compare_modules(a, b);
    return order != 0 ? order : (int) a->name.kind - (int) b->name.kind;
}

/* Extents [rows, cols] that a module's other tensors imply; -1: any. */
static int check_shape(const bl_peft *peft, const struct bl__io_module *module,
                       enum bl__io_kind kind, int64_t rows, int64_t cols)
{
    const struct bl__io_tensor *tensor = &peft->file->tensors[module->tensor[kind]];
    if (tensor->shape[0] != rows || (tensor->dims == 2 && tensor->shape[1] != cols)) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s is [%lld, %lld], must be [%lld, %lld]",
                           tensor->name, (long long) tensor->shape[0],
                           (long long) tensor->shape[1], (long long) rows,
                           (long long) cols);
    }
    return 0;
}

/* A and B are there, and with them what the configuration promises. */
static int check_partners(const bl_peft *peft, const struct bl__io_config *config,
                          const struct bl__io_module *module, const struct part *first)
{
    static const char *const letters[] = { "lora_A", "lora_B", "lora_gate", "lora_E",
                                           "lora_magnitude_vector" };
    const int wanted[] = { 1, 1, config->published, config->adalora, config->dora };
    for (int kind = 0; kind < BL__IO_RANKNUM; kind++) {
        if (wanted[kind] && module->tensor[kind] < 0) {
            return bl__io_fail(BL_E_FORMAT, peft->file->label,
                               "tensor %.160s has no partner %s",
                               peft->file->tensors[first->index].name, letters[kind]);
        }
    }
    return 0;
}

static int measure_module(const bl_peft *peft, const struct bl__io_config *config,
                          struct bl__io_module *module)
{
    const struct bl__io_tensor *a = &peft->file->tensors[module->tensor[BL__IO_A]];
    const struct bl__io_tensor *b = &peft->file->tensors[module->tensor[BL__IO_B]];
    int64_t                     rows = a->shape[0];
    module->in = a->shape[1];
    module->out = b->shape[0];
    if (rows != b->shape[1]) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "module %.160s: lora_A has rank %lld, lora_B %lld",
                           module->name, (long long) rows, (long long) b->shape[1]);
    }
    if (module->in < 1 || module->out < 1 || (rows < 1 && !config->adalora)) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "module %.160s: lora_A is [%lld, %lld], lora_B [%lld, %lld]",
                           module->name, (long long) rows, (long long) module->in,
                           (long long) module->out, (long long) rows);
    }
    int code =
        bl__io_config_scale(config, module->name, rows, &module->rank, &module->scale);
    if (code == 0 && module->rank != rows) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "module %.160s: lora_A has rank %lld, " BL__IO_CONFIG
                           " says %lld",
                           module->name, (long long) rows, (long long) module->rank);
    }
    if (code == 0 && config->published) {
        code = check_shape(peft, module, BL__IO_GATE, 1, rows);
    }
    if (code == 0 && config->adalora) {
        code = check_shape(peft, module, BL__IO_E, rows, 1);
    }
    if (code == 0 && config->dora) {
        code = check_shape(peft, module, BL__IO_MAGNITUDE, module->out, 0);
    }
    if (code == 0 && module->tensor[BL__IO_RANKNUM] >= 0) {
        code = check_shape(peft, module, BL__IO_RANKNUM, 1, 0);
        if (code == 0) {
            const struct bl__io_tensor *n =
                &peft->file->tensors[module->tensor[BL__IO_RANKNUM]];
            double ranknum =
                bl__io_value(peft->file->data + n->begin, n->dtype->dtype, 0);
            if (!(ranknum >= 1) || !isfinite(ranknum)) {
                return bl__io_fail(BL_E_FORMAT, peft->file->label,
                                   "tensor %.160s is %g, must be 1 or more", n->name,
                                   ranknum);
            }
            module->scale *= ((double) config->rank + 1e-5) / (ranknum + 1e-5);
        }
    }
    return code;
}

/* The module of parts [count], which are sorted by kind. One that AdaLoRA left without a
 * rank adds nothing and is left out. */
static int add_module(bl_peft *peft, const struct bl__io_config *config,
                      const struct part *parts, int64_t count)
{
    struct bl__io_module *module = &peft->modules[peft->count];
    for (int kind = 0; kind < BL__IO_KINDS; kind++) {
        module->tensor[kind] = -1;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t *slot = &module->tensor[parts[i].name.kind];
        if (*slot >= 0) {
            return bl__io_fail(BL_E_FORMAT, peft->file->label,
                               "tensors %.110s and %.110s are the same",
                               peft->file->tensors[*slot].name,
                               peft->file->tensors[parts[i].index].name);
        }
        *slot = parts[i].index;
    }
    int code = check_partners(peft, config, module, parts);
    if (code != 0) {
        return code;
    }
    module->name = malloc(parts->name.length + 1);
    if (module->name == NULL) {
        return bl__io_fail(BL_E_NOMEM, peft->file->label, "out of memory");
    }
    memcpy(module->name, parts->name.module, parts->name.length);
    module->name[parts->name.length] = '\0';
    code = measure_module(peft, config, module);
    if (code == 0 && module->rank > 0) {
        peft->count++;
    } else {
        free(module->name);
    }
    return code;
}

static int add_modules(bl_peft *peft, const struct bl__io_config *config)
{
    int64_t count = peft->file->count;
    if (count == 0) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label, "holds no tensors");
    }
    struct part *parts = calloc((size_t) count, sizeof *parts);
    int          code = 0;
    peft->modules = calloc((size_t) count, sizeof *peft->modules);
    if (parts == NULL || peft->modules == NULL) {
        code = bl__io_fail(BL_E_NOMEM, peft->file->label, "out of memory");
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        code = parse_part(peft, config, i, &parts[i]);
    }
    if (code == 0) {
        qsort(parts, (size_t) count, sizeof *parts, compare_parts);
    }
    for (int64_t i = 0, next; i < count && code == 0; i = next) {
        next = i + 1;
        while (next < count && compare_modules(&parts[i], &parts[next]) == 0) {
            next++;
        }
        code = add_module(peft, config, &parts[i], next - i);
    }
    free(parts);
    if (code == 0 && peft->count == 0) {
        code = bl__io_fail(BL_E_FORMAT, peft->file->label, "all modules have rank 0");
    }
    return code;
}

/* What bl_published_save notes of the temperature; other programs' files have nothing. */
static int read_temperature(bl_peft *peft)
{
    const char *text = bl_safetensors_get_metadata(peft->file, BL__IO_TEMPERATURE);
    if (text == NULL) {
        return 0;
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    peft->temperature = json_number_value(value);
    json_decref(value);
    if (!(peft->temperature > 0) || !isfinite(peft->temperature)) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           BL__IO_TEMPERATURE " is %.40s, must be above 0", text);
    }
    return 0;
}

static int open_model(bl_peft *peft, const char *dir)
{
    char *path = bl__io_join(dir, BL__IO_MODEL);
    char *pickle = bl__io_join(dir, "adapter_model.bin");
    int   code;
    if (path == NULL || pickle == NULL) {
        code = bl__io_fail(BL_E_NOMEM, dir, "out of memory");
    } else if (access(path, F_OK) != 0 && access(pickle, F_OK) == 0) {
        code = bl__io_fail(BL_E_FORMAT, pickle,
                           "is a pickle; only " BL__IO_MODEL " is read");
    } else {
        code = bl_safetensors_open(&peft->file, path);
    }
    free(path);
    free(pickle);
    return code;
}

/* A file of tensors alone, or a directory that has no configuration but tensors. */
static int is_bare(const char *path, int *directory)
{
    struct stat status;
    *directory = stat(path, &status) != 0 || S_ISDIR(status.st_mode);
    if (!*directory) {
        return 1;
    }
    char *config = bl__io_join(path, BL__IO_CONFIG);
    char *model = bl__io_join(path, BL__IO_MODEL);
    int   bare = config != NULL && model != NULL && access(config, F_OK) != 0 &&
               access(model, F_OK) == 0;
    free(config);
    free(model);
    return bare;
}

static int open_adapter(bl_peft *peft, const char *path)
{
    struct bl__io_config config;
    int                  directory;
    int                  code = 0;
    memset(&config, 0, sizeof config);
    if (!is_bare(path, &directory)) {
        code = bl__io_config_open(&config, path);
    }
    if (code == 0) {
        code =
            directory ? open_model(peft, path) : bl_safetensors_open(&peft->file, path);
    }
    if (code == 0) {
        code = add_modules(peft, &config);
    }
    peft->scored = config.published;
    if (code == 0 && peft->scored) {
        code = read_temperature(peft);
    }
    bl__io_config_close(&config);
    return code;
}

int bl_peft_open(bl_peft **out, const char *path)
{
    if (out == NULL || path == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", out == NULL ? "out" : "path");
    }
    int      saved = errno;
    bl_peft *peft = calloc(1, sizeof *peft);
    int      code = peft == NULL ? bl__io_fail(BL_E_NOMEM, path, "out of memory")
                                 : open_adapter(peft, path);
    if (code == 0) {
        *out = peft;
    } else {
        bl_peft_close(peft);
    }
    errno = saved;
    return code;
}

void bl_peft_close(bl_peft *peft)
{
    if (peft == NULL) {
        return;
    }
    for (int64_t i = 0; i < peft->count; i++) {
        free(peft->modules[i].name);
    }
    free(peft->modules);
    bl_safetensors_close(peft->file);
    free(peft);
}

int64_t bl_peft_get_count(const bl_peft *peft)
{
    return peft == NULL ? 0 : peft->count;
}

int32_t bl_peft_get_method(const bl_peft *peft)
{
    return peft != NULL && peft->scored ? BL_METHOD_BEAMLORA : BL_METHOD_LORA;
}

double bl_peft_get_temperature(const bl_peft *peft)
{
    return peft == NULL ? 0 : peft->temperature;
}

int bl_peft_get_module(const bl_peft *peft, int64_t index, bl_peft_module *out)
{
    if (peft == NULL || out == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", peft == NULL ? "peft" : "out");
    }
    if (index < 0 || index >= peft->count) {
        return bl__io_fail(BL_E_ARG, peft->file->label,
                           "index is %lld, must be in 0..%lld", (long long) index,
                           (long long) peft->count - 1);
    }
    const struct bl__io_module *module = &peft->modules[index];
    memset(out, 0, sizeof *out);
    out->name = module->name;
    out->in_features = module->in;
    out->out_features = module->out;
    out->rank = module->rank;
    out->scale = module->scale;
    out->dora = module->tensor[BL__IO_MAGNITUDE] >= 0;
    return 0;
}
