/*
 * Writing a group as a plain LoRA adapter: A' = c diag(g) A and B' = B, padded with
 * zeros to one rank, lora_alpha = rank. Readers differ in how they scale and agree only
 * on that. Both files are whole before the first is renamed. Memory: one folded adapter.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

#define TENSOR_NAME_MAX 320 /* an adapter's name has at most 200 bytes */

struct job {
    const bl_group      *group;
    bl_peft_options      options;
    int64_t              count, rank;
    struct bl__io_entry *entries; /* [2 * count]; source = 2 * adapter + is B */
    char (*names)[TENSOR_NAME_MAX];
    void   *a, *b;  /* the adapter folded last, in its own dtype */
    double *row;    /* one row of the file                       */
    int64_t folded; /* which one that is; -1: none               */
    int32_t dtype;  /* of a and b                                */
};

static int measure(struct job *job)
{
    int64_t largest_a = 1;
    int64_t largest_b = 1;
    int64_t widest = 1;
    int64_t rank = 1;
    for (int64_t k = 0; k < job->count; k++) {
        bl_adapter *adapter = bl_group_get_adapter(job->group, k);
        int64_t     r = bl_adapter_get_rank(adapter);
        int64_t     in = bl_adapter_get_in(adapter);
        int64_t     out = bl_adapter_get_out(adapter);
        bl_view     view;
        int code = bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &view);
        if (code != 0) {
            return bl__io_fail_core(code, NULL);
        }
        if (job->options.row_order != NULL) {
            code = bl__io_check_order(job->options.row_order[k], out,
                                      bl_adapter_get_name(adapter));
            if (code != 0) {
                return code;
            }
        }
        job->dtype = view.dtype;
        rank = r > rank ? r : rank;
        widest = in > widest ? in : widest;
        largest_a = r * in > largest_a ? r * in : largest_a; /* below 2^62: see bl_spec */
        largest_b = r * out > largest_b ? r * out : largest_b;
    }
    job->rank = job->options.rank == 0 ? rank : job->options.rank;
    if (job->rank < rank || job->rank > INT32_MAX) {
        return bl__io_fail(BL_E_RANGE, NULL, "rank is %lld, must be in %lld..%d",
                           (long long) job->rank, (long long) rank, INT32_MAX);
    }
    widest = job->rank > widest ? job->rank : widest;
    job->a = calloc((size_t) largest_a, sizeof(double));
    job->b = calloc((size_t) largest_b, sizeof(double));
    job->row = calloc((size_t) widest, sizeof(double));
    job->entries = calloc((size_t) job->count * 2, sizeof *job->entries);
    job->names = calloc((size_t) job->count * 2, sizeof *job->names);
    if (job->a == NULL || job->b == NULL || job->row == NULL || job->entries == NULL ||
        job->names == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    return 0;
}

static void name_tensors(struct job *job)
{
    for (int64_t i = 0; i < 2 * job->count; i++) {
        bl_adapter          *adapter = bl_group_get_adapter(job->group, i / 2);
        struct bl__io_entry *entry = &job->entries[i];
        int                  is_b = i % 2 != 0;
        snprintf(job->names[i], sizeof job->names[i], BL__IO_PREFIX "%s%s",
                 bl_adapter_get_name(adapter), is_b ? BL__IO_SUFFIX_B : BL__IO_SUFFIX_A);
        entry->name = job->names[i];
        entry->dtype = job->options.dtype;
        entry->dims = 2;
        entry->shape[0] = is_b ? bl_adapter_get_out(adapter) : job->rank;
        entry->shape[1] = is_b ? job->rank : bl_adapter_get_in(adapter);
        entry->source = i;
    }
}

static double folded_value(const struct job *job, const void *data, int64_t at)
{
    if (job->dtype == BL_F64) {
        const double *doubles = data;
        return doubles[at];
    }
    const float *singles = data;
    return (double) singles[at];
}

/* job->row [cols] to the file, in its dtype; a float takes the place of its double. */
static int write_row(struct job *job, struct bl__io_file *file,
                     const struct bl__io_entry *entry)
{
    int64_t cols = entry->shape[1];
    for (int64_t j = 0; j < cols; j++) {
        if (!isfinite(job->row[j])) {
            return bl__io_fail(BL_E_NONFINITE, file->path,
                               "tensor %s: a value is not finite", entry->name);
        }
        if (entry->dtype == BL_F32 && !isfinite((float) job->row[j])) {
            return bl__io_fail(BL_E_RANGE, file->path,
                               "tensor %s: %g is too large for F32", entry->name,
                               job->row[j]);
        }
    }
    if (entry->dtype == BL_F64) {
        return bl__io_file_write_values(file, job->row, (size_t) cols, sizeof(double));
    }
    int code = 0;
    for (int64_t j = 0; j < cols && code == 0; j++) {
        float value = (float) job->row[j];
        code = bl__io_file_write_values(file, &value, 1, sizeof value);
    }
    return code;
}

static int write_tensor(struct job *job, struct bl__io_file *file,
                        const struct bl__io_entry *entry)
{
    int64_t     k = entry->source / 2;
    bl_adapter *adapter = bl_group_get_adapter(job->group, k);
    int64_t     in = bl_adapter_get_in(adapter);
    int64_t     r = bl_adapter_get_rank(adapter);
    if (job->folded != k) {
        int code = bl_adapter_fold(adapter, job->a, in, job->b, r);
        if (code != 0) {
            return bl__io_fail_core(code, file->path);
        }
        job->folded = k;
    }
    int            is_b = entry->source % 2 != 0;
    const int64_t *order =
        job->options.row_order == NULL ? NULL : job->options.row_order[k];
    for (int64_t i = 0; i < entry->shape[0]; i++) {
        for (int64_t j = 0; j < entry->shape[1]; j++) {
            if (is_b) {
                int64_t from = order == NULL ? i : order[i];
                job->row[j] = j < r ? folded_value(job, job->b, from * r + j) : 0;
            } else {
                job->row[j] = i < r ? folded_value(job, job->a, i * in + j) : 0;
            }
        }
        int code = write_row(job, file, entry);
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

static int write_model(struct job *job, struct bl__io_file *file)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    int code = bl__io_write_header(file, job->entries, 2 * job->count, metadata);
    for (int64_t i = 0; i < 2 * job->count && code == 0; i++) {
        code = write_tensor(job, file, &job->entries[i]);
    }
    return code == 0 ? bl__io_file_finish(file) : code;
}

static json_t *make_targets(const struct job *job)
{
    return bl__io_peft_targets(job->group);
}

static int write_config(const struct job *job, struct bl__io_file *file)
{
    const char *task =
        job->options.task_type == NULL ? "CAUSAL_LM" : job->options.task_type;
    json_int_t rank = (json_int_t) job->rank;
    /* The keys that every version of the readers knows; newer ones would make older
     * readers warn. Lists and objects that stay empty are written, not left out. */
    json_t *root = json_pack(
        "{s:s, s:s, s:s?, s:n, s:b, s:I, s:I, s:f, s:o, s:s, s:b, s:b, s:b, s:b, s:n, "
        "s:{}, s:{}, s:n, s:n, s:s}",
        "peft_type", "LORA", "task_type", task, "base_model_name_or_path",
        job->options.base_model_name_or_path, "revision", "inference_mode", 1, "r", rank,
        "lora_alpha", rank, "lora_dropout", 0.0, "target_modules", make_targets(job),
        "bias", "none", "fan_in_fan_out", 0, "init_lora_weights", 1, "use_rslora", 0,
        "use_dora", 0, "modules_to_save", "rank_pattern", "alpha_pattern",
        "layers_to_transform", "layers_pattern", "peft_version", "0.18.0");
    if (root == NULL) {
        return bl__io_fail(BL_E_ARG, file->path,
                           "base_model_name_or_path or task_type is not UTF-8");
    }
    int code = bl__io_write_json(file, root, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(root);
    return code == 0 ? bl__io_file_finish(file) : code;
}

static int config_file(void *job, struct bl__io_file *file)
{
    return write_config(job, file);
}

static int model_file(void *job, struct bl__io_file *file)
{
    return write_model(job, file);
}

static int save(struct job *job, const char *dir)
{
    job->count = bl_group_get_count(job->group);
    job->folded = -1;
    int code = measure(job);
    if (code != 0) {
        return code;
    }
    name_tensors(job);
    return bl__io_write_peft(dir, job, config_file, model_file);
}

int bl_peft_save(const bl_group *group, const char *dir, const bl_peft_options *opt)
{
    if (group == NULL || dir == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", group == NULL ? "group" : "dir");
    }
    struct job job;
    memset(&job, 0, sizeof job);
    job.group = group;
    int code = bl__io_peft_options(&job.options, opt);
    if (code != 0) {
        return code;
    }
    int saved = errno;
    code = save(&job, dir);
    free(job.a);
    free(job.b);
    free(job.row);
    free(job.entries);
    free(job.names);
    errno = saved;
    return code;
}
