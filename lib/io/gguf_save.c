/*
 * Writing a group as a GGUF v3 adapter for llama.cpp: the header with every tensor's place
 * first, then A' = c diag(g) A and B' = B, padded with zeros to one rank, which is also
 * adapter.lora.alpha: a scale of alpha / rank = 1. Memory: one folded adapter.
 *
 *     "GGUF", version, tensors, keys      u32, u32, u64, u64, little-endian as all of it
 *     key, type, value                    for each key
 *     name, dims, ne, type, offset        for each tensor; offset from the data's start
 *     data                                each tensor padded to 32 bytes
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

#define MAGIC 0x46554747u /* "GGUF" */
#define VERSION 3u
#define ALIGNMENT 32u

enum { KEY_F32 = 6, KEY_STRING = 8 };                /* gguf_type */
enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 30 }; /* ggml_type */

struct job {
    const bl_group    *group;
    bl_gguf_options    options;
    int64_t            count;
    struct bl__io_fold fold;
    char (*names)[GGUF_NAME_SIZE]; /* [count] of the base's tensors           */
    const char **sorted;           /* [count]                                 */
    int64_t     *q, *k;            /* orders of rows, made when first needed  */
    int64_t      q_rows, k_rows;
};

/* ----- checks ----- */

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *) left, *(const char *const *) right);
}

static int name_tensors(struct job *job)
{
    for (int64_t k = 0; k < job->count; k++) {
        int code =
            bl__io_gguf_name(job->names[k], &job->options, k,
                             bl_adapter_get_name(bl_group_get_adapter(job->group, k)));
        if (code != 0) {
            return code;
        }
        job->sorted[k] = job->names[k];
    }
    qsort(job->sorted, (size_t) job->count, sizeof *job->sorted, compare_names);
    for (int64_t k = 1; k < job->count; k++) {
        if (strcmp(job->sorted[k - 1], job->sorted[k]) == 0) {
            return bl__io_fail(BL_E_ARG, NULL, "two adapters are for tensor %s",
                               job->sorted[k]);
        }
    }
    return 0;
}

static int ends_in(const char *text, const char *end)
{
    size_t length = strlen(text);
    return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

/* Row h hd + 2i + b of the file is row h hd + b hd/2 + i of a model in Hugging Face's
 * order. Made once: all layers have one number of rows, and others are refused. */
static int make_order(int64_t **order, int64_t *rows, int64_t heads, int64_t out,
                      const char *name)
{
    if (*order != NULL) {
        return *rows == out ? 0
                            : bl__io_fail(BL_E_SHAPE, NULL,
                                          "tensor %s has %lld rows, one before it %lld",
                                          name, (long long) out, (long long) *rows);
    }
    if (out % heads != 0 || out / heads % 2 != 0) {
        return bl__io_fail(BL_E_RANGE, NULL,
                           "tensor %s: %lld rows are not %lld heads of an even size",
                           name, (long long) out, (long long) heads);
    }
    *order = malloc((size_t) out * sizeof **order);
    if (*order == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    *rows = out;
    int64_t size = out / heads;
    for (int64_t row = 0; row < out; row++) {
        int64_t at = row % size; /* 2i + b */
        (*order)[row] = row - at + at % 2 * (size / 2) + at / 2;
    }
    return 0;
}

/* The order of B's rows for adapter number k; NULL: as they are. */
static int find_order(struct job *job, int64_t k, const int64_t **order)
{
    const char *name = job->names[k];
    int64_t     out = bl_adapter_get_out(bl_group_get_adapter(job->group, k));
    int         is_q = ends_in(name, ".attn_q.weight");
    int         is_k = ends_in(name, ".attn_k.weight");
    int64_t     heads = is_q ? job->options.heads : job->options.kv_heads;
    *order = NULL;
    if (job->options.interleaved || (!is_q && !is_k)) {
        return 0;
    }
    if (heads == 0) {
        return strcmp(job->options.architecture, "llama") != 0
                   ? 0
                   : bl__io_fail(BL_E_OPTIONS, NULL,
                                 "%s is 0, must be given for tensor %s, or interleaved "
                                 "be 1",
                                 is_q ? "heads" : "kv_heads", name);
    }
    int code = is_q ? make_order(&job->q, &job->q_rows, heads, out, name)
                    : make_order(&job->k, &job->k_rows, heads, out, name);
    *order = is_q ? job->q : job->k;
    return code;
}

/* Bytes of a tensor of so many elements with its padding; 0: too many. */
static uint64_t padded_bytes(const struct job *job, int64_t elements)
{
    int64_t width = (int64_t) bl__io_width(job->options.dtype);
    if (elements > (INT64_MAX - (int64_t) ALIGNMENT) / width) {
        return 0;
    }
    uint64_t bytes = (uint64_t) (elements * width);
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Elements of lora_a (is_b = 0) or lora_b of adapter number k: both below 2^62. */
static int64_t elements_of(const struct job *job, int64_t k, int is_b)
{
    const bl_adapter *adapter = bl_group_get_adapter(job->group, k);
    return job->fold.rank *
           (is_b ? bl_adapter_get_out(adapter) : bl_adapter_get_in(adapter));
}

static int check_sizes(const struct job *job)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < 2 * job->count; i++) {
        uint64_t bytes = padded_bytes(job, elements_of(job, i / 2, i % 2 != 0));
        if (bytes == 0 || bytes > (uint64_t) INT64_MAX - at) {
            return bl__io_fail(BL_E_RANGE, NULL, "the tensors exceed 2^63 bytes");
        }
        at += bytes;
    }
    return 0;
}

static int check(struct job *job)
{
    job->names = calloc((size_t) job->count, sizeof *job->names);
    job->sorted = calloc((size_t) job->count, sizeof *job->sorted);
    if (job->names == NULL || job->sorted == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    int code = name_tensors(job);
    for (int64_t k = 0; k < job->count && code == 0; k++) {
        const int64_t *order;
        code = find_order(job, k, &order);
    }
    if (code == 0) {
        code = bl__io_fold_open(&job->fold, job->group, 0);
    }
    if (code == 0 && job->fold.dora) {
        code = bl__io_fail(BL_E_STATE, NULL,
                           "the adapters have magnitudes (dora 1), which GGUF has no "
                           "place for: merge them");
    }
    return code == 0 ? check_sizes(job) : code;
}

/* ----- writing ----- */

static int write_u32(struct bl__io_file *file, uint32_t value)
{
    return bl__io_file_write_values(file, &value, 1, sizeof value);
}

static int write_u64(struct bl__io_file *file, uint64_t value)
{
    return bl__io_file_write_values(file, &value, 1, sizeof value);
}

static int write_text(struct bl__io_file *file, const char *text, const char *end)
{
    int code = write_u64(file, strlen(text) + strlen(end));
    if (code == 0) {
        code = bl__io_file_write(file, text, strlen(text));
    }
    return code == 0 ? bl__io_file_write(file, end, strlen(end)) : code;
}

static int write_key(struct bl__io_file *file, const char *key, const char *value)
{
    int code = write_text(file, key, "");
    if (code == 0) {
        code = write_u32(file, KEY_STRING);
    }
    return code == 0 ? write_text(file, value, "") : code;
}

static int write_alpha(struct bl__io_file *file, float alpha)
{
    int code = write_text(file, "adapter.lora.alpha", "");
    if (code == 0) {
        code = write_u32(file, KEY_F32);
    }
    return code == 0 ? bl__io_file_write_values(file, &alpha, 1, sizeof alpha) : code;
}

static int write_keys(const struct job *job, struct bl__io_file *file)
{
    int code = write_key(file, "general.architecture", job->options.architecture);
    if (code == 0) {
        code = write_key(file, "general.type", "adapter");
    }
    if (code == 0 && job->options.name != NULL) {
        code = write_key(file, "general.name", job->options.name);
    }
    if (code == 0) {
        code = write_key(file, "adapter.type", "lora");
    }
    return code == 0 ? write_alpha(file, (float) job->fold.rank) : code;
}

/* ne: the fastest dimension first */
static int write_info(const struct job *job, struct bl__io_file *file, int64_t k,
                      int is_b, uint64_t offset)
{
    const bl_adapter *adapter = bl_group_get_adapter(job->group, k);
    uint64_t          rank = (uint64_t) job->fold.rank;
    uint64_t          in = (uint64_t) bl_adapter_get_in(adapter);
    uint64_t          out = (uint64_t) bl_adapter_get_out(adapter);
    const uint64_t    ne[2] = { is_b ? rank : in, is_b ? out : rank };
    int32_t           dtype = job->options.dtype;
    uint32_t type = dtype == BL_F32 ? TYPE_F32 : dtype == BL_F16 ? TYPE_F16 : TYPE_BF16;
    int      code = write_text(file, job->names[k], is_b ? GGUF_SUFFIX_B : GGUF_SUFFIX_A);
    if (code == 0) {
        code = write_u32(file, 2);
    }
    if (code == 0) {
        code = bl__io_file_write_values(file, ne, 2, sizeof *ne);
    }
    if (code == 0) {
        code = write_u32(file, type);
    }
    return code == 0 ? write_u64(file, offset) : code;
}

static int write_header(const struct job *job, struct bl__io_file *file)
{
    uint64_t offset = 0;
    int      code = write_u32(file, MAGIC);
    if (code == 0) {
        code = write_u32(file, VERSION);
    }
    if (code == 0) {
        code = write_u64(file, 2 * (uint64_t) job->count);
    }
    if (code == 0) {
        code = write_u64(file, job->options.name == NULL ? 4 : 5);
    }
    if (code == 0) {
        code = write_keys(job, file);
    }
    for (int64_t i = 0; i < 2 * job->count && code == 0; i++) {
        code = write_info(job, file, i / 2, i % 2 != 0, offset);
        offset += padded_bytes(job, elements_of(job, i / 2, i % 2 != 0));
    }
    return code;
}

/* Data starts at a multiple of the alignment, so this does for the header and tensors. */
static int pad(struct bl__io_file *file)
{
    static const unsigned char zeros[ALIGNMENT];
    return bl__io_file_write(file, zeros,
                             (ALIGNMENT - file->written % ALIGNMENT) % ALIGNMENT);
}

static int write_tensor(struct job *job, struct bl__io_file *file, int64_t k, int is_b)
{
    char name[2 * GGUF_NAME_SIZE];
    snprintf(name, sizeof name, "%s%s", job->names[k],
             is_b ? GGUF_SUFFIX_B : GGUF_SUFFIX_A);

    struct bl__io_fold_tensor tensor = {
        .name = name,
        .rank = job->fold.rank,
        .dtype = job->options.dtype,
        .which = is_b ? BL_TENSOR_B : BL_TENSOR_A,
    };
    int code = is_b ? find_order(job, k, &tensor.order) : 0;
    if (code == 0) {
        code = bl__io_fold_write(&job->fold, file, k, &tensor);
    }
    return code == 0 ? pad(file) : code;
}

static int write_file(struct job *job, const char *path)
{
    struct bl__io_file file;
    int                code = bl__io_file_create(&file, path);
    if (code != 0) {
        return code;
    }
    code = write_header(job, &file);
    if (code == 0) {
        code = pad(&file);
    }
    for (int64_t i = 0; i < 2 * job->count && code == 0; i++) {
        code = write_tensor(job, &file, i / 2, i % 2 != 0);
    }
    if (code == 0) {
        code = bl__io_file_finish(&file);
    }
    if (code == 0) {
        code = bl__io_file_publish(&file);
    }
    if (code == 0) {
        code = bl__io_sync_folder(path);
    }
    bl__io_file_abandon(&file);
    return code;
}

int bl_gguf_save(const bl_group *group, const char *path, const bl_gguf_options *opt)
{
    if (group == NULL || path == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL",
                           group == NULL ? "group" : "path");
    }
    struct job job;
    memset(&job, 0, sizeof job);
    job.group = group;
    job.count = bl_group_get_count(group);
    int code = bl__io_gguf_options(&job.options, opt);
    if (code != 0) {
        return code;
    }
    int saved = errno;
    code = check(&job);
    if (code == 0) {
        code = write_file(&job, path);
    }
    bl__io_fold_close(&job.fold);
    free(job.names);
    free(job.sorted);
    free(job.q);
    free(job.k);
    errno = saved;
    return code;
}
