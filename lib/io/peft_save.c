/*
 * Writing a group as a plain LoRA adapter: A' = c diag(g) A and B' = B, lora_alpha = rank.
 * Padded with zeros to one rank: readers differ in how they scale and agree only on that.
 * Or compact: each module with the ranks that contribute, named in rank_pattern. Both
 * files are whole before the first is renamed. A DoRA adapter has its magnitudes besides.
 * Memory: one folded adapter.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

#define TENSOR_NAME_MAX 320 /* an adapter's name has at most 200 bytes */

struct job {
    const bl_group      *group;
    bl_peft_options      options;
    int64_t              count, rank; /* the file's r */
    int64_t              each;        /* tensors of an adapter */
    struct bl__io_entry *entries;     /* [each * count]; source = each * adapter + part */
    char (*names)[TENSOR_NAME_MAX];
    struct bl__io_fold fold;
};

/* The tensors of an adapter; magnitudes with DoRA alone. */
static const struct {
    int32_t     which;
    const char *suffix;
} parts[] = { { BL_TENSOR_A, BL__IO_SUFFIX_A },
              { BL_TENSOR_B, BL__IO_SUFFIX_B },
              { BL_TENSOR_MAGNITUDE, BL__IO_SUFFIX_MAGNITUDE } };

static int measure(struct job *job)
{
    for (int64_t k = 0; k < job->count && job->options.row_order != NULL; k++) {
        bl_adapter *adapter = bl_group_get_adapter(job->group, k);
        int         code =
            bl__io_check_order(job->options.row_order[k], bl_adapter_get_out(adapter),
                               bl_adapter_get_name(adapter));
        if (code != 0) {
            return code;
        }
    }
    int code = bl__io_fold_open(&job->fold, job->group, job->options.compact);
    if (code != 0) {
        return code;
    }
    job->rank = job->options.rank == 0 ? job->fold.rank : job->options.rank;
    if (job->rank < job->fold.rank || job->rank > INT32_MAX) {
        return bl__io_fail(BL_E_RANGE, NULL, "rank is %lld, must be in %lld..%d",
                           (long long) job->rank, (long long) job->fold.rank, INT32_MAX);
    }
    job->each = job->fold.dora ? 3 : 2;
    job->entries = calloc((size_t) (job->count * job->each), sizeof *job->entries);
    job->names = calloc((size_t) (job->count * job->each), sizeof *job->names);
    return job->entries == NULL || job->names == NULL
               ? bl__io_fail(BL_E_NOMEM, NULL, "out of memory")
               : 0;
}

/* Module k's rank in the file. */
static int64_t rank_of(const struct job *job, int64_t k)
{
    return job->options.compact ? job->fold.kept[k] : job->rank;
}

static void name_tensors(struct job *job)
{
    for (int64_t i = 0; i < job->each * job->count; i++) {
        int64_t              k = i / job->each;
        bl_adapter          *adapter = bl_group_get_adapter(job->group, k);
        struct bl__io_entry *entry = &job->entries[i];
        int32_t              which = parts[i % job->each].which;
        snprintf(job->names[i], sizeof job->names[i], BL__IO_PREFIX "%s%s",
                 bl_adapter_get_name(adapter), parts[i % job->each].suffix);
        entry->name = job->names[i];
        entry->dtype = job->options.dtype;
        entry->dims = which == BL_TENSOR_MAGNITUDE ? 1 : 2;
        entry->shape[0] =
            which == BL_TENSOR_A ? rank_of(job, k) : bl_adapter_get_out(adapter);
        entry->shape[1] = which == BL_TENSOR_A   ? bl_adapter_get_in(adapter)
                          : which == BL_TENSOR_B ? rank_of(job, k)
                                                 : 1;
        entry->source = i;
    }
}

static int write_tensor(struct job *job, struct bl__io_file *file,
                        const struct bl__io_entry *entry)
{
    int64_t k = entry->source / job->each;
    int32_t which = parts[entry->source % job->each].which;

    struct bl__io_fold_tensor tensor = {
        .name = entry->name,
        .order = which != BL_TENSOR_A && job->options.row_order != NULL
                     ? job->options.row_order[k]
                     : NULL,
        .rank = rank_of(job, k),
        .dtype = job->options.dtype,
        .which = which,
    };
    return bl__io_fold_write(&job->fold, file, k, &tensor);
}

static int write_model(struct job *job, struct bl__io_file *file)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    int code = bl__io_write_header(file, job->entries, job->each * job->count, metadata);
    for (int64_t i = 0; i < job->each * job->count && code == 0; i++) {
        code = write_tensor(job, file, &job->entries[i]);
    }
    return code == 0 ? bl__io_file_finish(file) : code;
}

static json_t *make_targets(const struct job *job)
{
    return bl__io_peft_targets(job->group);
}

/* {name: rank} of the modules whose rank is not r. A key also finds other modules, whose
 * names end in it: refused where that is one of another rank. NULL and *code: failed. */
static json_t *make_pattern(const struct job *job, const char *path, int *code)
{
    json_t *pattern = json_object();
    *code = pattern == NULL ? bl__io_fail(BL_E_NOMEM, path, "out of memory") : 0;
    for (int64_t k = 0; k < job->count && *code == 0; k++) {
        const char *key = bl_adapter_get_name(bl_group_get_adapter(job->group, k));
        int64_t     rank = rank_of(job, k);
        if (rank == job->rank) {
            continue;
        }
        if (!bl__io_key_is_plain(key)) {
            *code = bl__io_fail(BL_E_ARG, path,
                                "compact: module %s has other characters in its name "
                                "than letters, digits, '_', '-' and '.'",
                                key);
        }
        for (int64_t i = 0; i < job->count && *code == 0; i++) {
            const char *name = bl_adapter_get_name(bl_group_get_adapter(job->group, i));
            if (rank_of(job, i) != rank && bl__io_key_matches(key, name)) {
                *code = bl__io_fail(BL_E_ARG, path,
                                    "compact: the rank of %s would be taken for %s too",
                                    key, name);
            }
        }
        if (*code == 0 &&
            json_object_set_new(pattern, key, json_integer((json_int_t) rank)) != 0) {
            *code = bl__io_fail(BL_E_NOMEM, path, "out of memory");
        }
    }
    if (*code != 0) {
        json_decref(pattern);
        return NULL;
    }
    return pattern;
}

static int write_config(const struct job *job, struct bl__io_file *file)
{
    const char *task =
        job->options.task_type == NULL ? "CAUSAL_LM" : job->options.task_type;
    json_int_t rank = (json_int_t) job->rank;
    int        code;
    json_t    *pattern = make_pattern(job, file->path, &code);
    if (pattern == NULL) {
        return code;
    }
    /* The keys that every version of the readers knows; newer ones would make older
     * readers warn. Lists and objects that stay empty are written, not left out. */
    json_t *root = json_pack(
        "{s:s, s:s, s:s?, s:n, s:b, s:I, s:I, s:f, s:o, s:s, s:b, s:b, s:b, s:b, s:n, "
        "s:O, s:O, s:n, s:n, s:s}",
        "peft_type", "LORA", "task_type", task, "base_model_name_or_path",
        job->options.base_model_name_or_path, "revision", "inference_mode", 1, "r", rank,
        "lora_alpha", rank, "lora_dropout", 0.0, "target_modules", make_targets(job),
        "bias", "none", "fan_in_fan_out", 0, "init_lora_weights", 1, "use_rslora", 0,
        "use_dora", job->fold.dora, "modules_to_save", "rank_pattern", pattern,
        "alpha_pattern", pattern, "layers_to_transform", "layers_pattern", "peft_version",
        "0.18.0");
    json_decref(pattern);
    if (root == NULL) {
        return bl__io_fail(BL_E_ARG, file->path,
                           "base_model_name_or_path or task_type is not UTF-8");
    }
    code = bl__io_write_json(file, root, JSON_INDENT(2) | JSON_SORT_KEYS);
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
    bl__io_fold_close(&job.fold);
    free(job.entries);
    free(job.names);
    errno = saved;
    return code;
}
