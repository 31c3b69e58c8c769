/*
 * Opening a PEFT adapter directory: pairs of tensors
 *
 *     base_model.model.<module>.lora_A.weight   [rank, in]
 *     base_model.model.<module>.lora_B.weight   [out, rank]
 *
 * and nothing else: a tensor that is left over would be a part of the model that the
 * adapters of a group do not have.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

static int ends_with(const char *text, const char *end)
{
    size_t length = strlen(text);
    size_t wanted = strlen(end);
    return length >= wanted && strcmp(text + length - wanted, end) == 0;
}

/* 'A', 'B', or 0 for a tensor of another kind. */
static int kind_of(const char *name)
{
    size_t prefix = strlen(BL__IO_PREFIX);
    if (strncmp(name, BL__IO_PREFIX, prefix) != 0) {
        return 0;
    }
    int kind = ends_with(name, BL__IO_SUFFIX_A)   ? 'A'
               : ends_with(name, BL__IO_SUFFIX_B) ? 'B'
                                                  : 0;
    return kind != 0 && strlen(name) > prefix + strlen(BL__IO_SUFFIX_A) ? kind : 0;
}

static int check_tensor(const bl_peft *peft, const struct bl__io_tensor *tensor)
{
    int32_t dtype = tensor->dtype->dtype;
    if (kind_of(tensor->name) == 0) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s is no " BL__IO_PREFIX "..." BL__IO_SUFFIX_A
                           " or " BL__IO_SUFFIX_B,
                           tensor->name);
    }
    if (dtype != BL_F32 && dtype != BL_F64 && dtype != BL_F16 && dtype != BL_BF16) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s is of dtype %s, must be F64, F32, F16 or BF16",
                           tensor->name, tensor->dtype->name);
    }
    if (tensor->dims != 2) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s has %d dimensions, must have 2", tensor->name,
                           (int) tensor->dims);
    }
    for (int i = 0; i < 2; i++) {
        if (tensor->shape[i] < 1 || tensor->shape[i] > INT_MAX) {
            return bl__io_fail(BL_E_FORMAT, peft->file->label,
                               "tensor %.160s is [%lld, %lld], extents must be in 1..%d",
                               tensor->name, (long long) tensor->shape[0],
                               (long long) tensor->shape[1], INT_MAX);
        }
    }
    return 0;
}

/* The other half of a pair: the same name with the other letter; -1 if absent. */
static int64_t find_partner(const bl_safetensors *file, char *scratch, const char *name)
{
    size_t length = strlen(name);
    memcpy(scratch, name, length + 1);
    char *letter = scratch + length - strlen("A.weight");
    *letter = *letter == 'A' ? 'B' : 'A';
    return bl_safetensors_find(file, scratch);
}

/* Module from its A; `scratch` has room for the name and is left holding B's. */
static int add_module(bl_peft *peft, const struct bl__io_config *config, int64_t index,
                      char *scratch)
{
    const struct bl__io_tensor *a = &peft->file->tensors[index];
    int64_t                     partner = find_partner(peft->file, scratch, a->name);
    if (partner < 0) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "tensor %.160s has no partner lora_%c", a->name,
                           kind_of(a->name) == 'A' ? 'B' : 'A');
    }
    if (kind_of(a->name) == 'B') {
        return 0; /* its A adds the module */
    }
    const struct bl__io_tensor *b = &peft->file->tensors[partner];
    struct bl__io_module       *module = &peft->modules[peft->count];

    size_t prefix = strlen(BL__IO_PREFIX);
    size_t length = strlen(a->name) - prefix - strlen(BL__IO_SUFFIX_A);
    module->name = malloc(length + 1);
    if (module->name == NULL) {
        return bl__io_fail(BL_E_NOMEM, peft->file->label, "out of memory");
    }
    memcpy(module->name, a->name + prefix, length);
    module->name[length] = '\0';
    peft->count++;

    module->a = index;
    module->b = partner;
    module->in = a->shape[1];
    module->out = b->shape[0];
    if (a->shape[0] != b->shape[1]) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label,
                           "module %.160s: lora_A has rank %lld, lora_B %lld",
                           module->name, (long long) a->shape[0],
                           (long long) b->shape[1]);
    }
    int code = bl__io_config_scale(config, module->name, &module->rank, &module->scale);
    if (code == 0 && module->rank != a->shape[0]) {
        return bl__io_fail(
            BL_E_FORMAT, peft->file->label,
            "module %.160s: lora_A has rank %lld, " BL__IO_CONFIG " says %lld",
            module->name, (long long) a->shape[0], (long long) module->rank);
    }
    return code;
}

static int compare_modules(const void *left, const void *right)
{
    const struct bl__io_module *a = left;
    const struct bl__io_module *b = right;
    return strcmp(a->name, b->name);
}

static int add_modules(bl_peft *peft, const struct bl__io_config *config)
{
    size_t longest = 0;
    for (int64_t i = 0; i < peft->file->count; i++) {
        int code = check_tensor(peft, &peft->file->tensors[i]);
        if (code != 0) {
            return code;
        }
        size_t length = strlen(peft->file->tensors[i].name);
        longest = length > longest ? length : longest;
    }
    if (peft->file->count == 0) {
        return bl__io_fail(BL_E_FORMAT, peft->file->label, "holds no tensors");
    }
    char *scratch = malloc(longest + 1);
    peft->modules = calloc((size_t) peft->file->count, sizeof *peft->modules);
    int code = 0;
    if (scratch == NULL || peft->modules == NULL) {
        code = bl__io_fail(BL_E_NOMEM, peft->file->label, "out of memory");
    }
    for (int64_t i = 0; i < peft->file->count && code == 0; i++) {
        code = add_module(peft, config, i, scratch);
    }
    free(scratch);
    if (code == 0) {
        qsort(peft->modules, (size_t) peft->count, sizeof *peft->modules,
              compare_modules);
    }
    return code;
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

static int open_directory(bl_peft *peft, const char *dir)
{
    struct bl__io_config config;
    int                  code = bl__io_config_open(&config, dir);
    if (code != 0) {
        return code;
    }
    code = open_model(peft, dir);
    if (code == 0) {
        code = add_modules(peft, &config);
    }
    bl__io_config_close(&config);
    return code;
}

int bl_peft_open(bl_peft **out, const char *dir)
{
    if (out == NULL || dir == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", out == NULL ? "out" : "dir");
    }
    int      saved = errno;
    bl_peft *peft = calloc(1, sizeof *peft);
    int      code = peft == NULL ? bl__io_fail(BL_E_NOMEM, dir, "out of memory")
                                 : open_directory(peft, dir);
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
    return 0;
}
