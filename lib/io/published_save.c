/*
 * Writing a group as the published BeamLoRA code writes it: A and B as they are, and the
 * scores beside them, so that both go on training. Ranks and alpha that differ between
 * modules are patterns by module name. Memory: one row.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define PARTS 3              /* A, B, scores */
#define TENSOR_NAME_MAX 320  /* an adapter's name has at most 200 bytes */
#define SOFTMAX_ERROR (1e-9) /* of g against softmax: both are in double */

static const char *const suffixes[PARTS] = { BL__IO_SUFFIX_A, BL__IO_SUFFIX_B,
                                             BL__IO_SUFFIX_GATE };

struct job {
    const bl_group      *group;
    bl_peft_options      options;
    bl_options           trained;
    int64_t              count;
    struct bl__io_entry *entries; /* [PARTS * count]; source = PARTS * adapter + part */
    char (*names)[TENSOR_NAME_MAX];
    double *row; /* one row of the file */
};

static double value_at(const bl_view *view, int64_t i, int64_t j)
{
    if (view->dtype == BL_F64) {
        const double *doubles = view->data;
        return doubles[i * view->ld + j];
    }
    const float *singles = view->data;
    return (double) singles[i * view->ld + j];
}

/* The file has no other g than multiples of softmax(s / tau): no removed and no masked
 * ranks. */
static int check_scores(const struct job *job, const bl_adapter *adapter,
                        const bl_view *scores)
{
    double  tau = bl_group_get_temperature(job->group);
    double  mass = bl_adapter_get_mass(adapter);
    double  largest = value_at(scores, 0, 0);
    double  sum = 0;
    int64_t rank = scores->cols;
    for (int64_t i = 0; i < rank; i++) {
        largest = fmax(largest, value_at(scores, 0, i));
    }
    for (int64_t i = 0; i < rank; i++) {
        sum += exp((value_at(scores, 0, i) - largest) / tau);
    }
    int code = bl_adapter_copy_importance(adapter, job->row);
    if (code != 0) {
        return bl__io_fail_core(code, NULL);
    }
    for (int64_t i = 0; i < rank; i++) {
        double want = mass * exp((value_at(scores, 0, i) - largest) / tau) / sum;
        if (isfinite(want) && fabs(job->row[i] - want) > SOFTMAX_ERROR * mass) {
            return bl__io_fail(BL_E_STATE, NULL,
                               "adapter %.160s: rank %lld has importance %g, its score "
                               "alone gives %g: removed or masked ranks cannot be "
                               "published",
                               bl_adapter_get_name(adapter), (long long) i, job->row[i],
                               want);
        }
    }
    return 0;
}

static int check_adapter(const struct job *job, int64_t k)
{
    bl_adapter *adapter = bl_group_get_adapter(job->group, k);
    bl_view     scores;
    int         code =
        bl_adapter_get_view(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, &scores);
    if (code != 0) {
        return bl__io_fail_core(code, NULL);
    }
    if (job->options.row_order != NULL) {
        code = bl__io_check_order(job->options.row_order[k], bl_adapter_get_out(adapter),
                                  bl_adapter_get_name(adapter));
    }
    return code == 0 ? check_scores(job, adapter, &scores) : code;
}

static int prepare(struct job *job)
{
    int64_t widest = 1;
    job->trained.size = sizeof job->trained;
    int code = bl_group_copy_options(job->group, &job->trained);
    if (code != 0) {
        return bl__io_fail_core(code, NULL);
    }
    if (job->trained.method != BL_METHOD_BEAMLORA) {
        return bl__io_fail(BL_E_STATE, NULL,
                           "the group has no scores: bl_peft_save writes it");
    }
    if (job->trained.dora) {
        return bl__io_fail(BL_E_STATE, NULL,
                           "the group has magnitudes (dora 1), which the published form "
                           "has not: bl_peft_save writes it");
    }
    if (job->options.rank != 0) {
        return bl__io_fail(BL_E_OPTIONS, NULL,
                           "rank is %lld, must be 0: every module keeps its own",
                           (long long) job->options.rank);
    }
    job->count = bl_group_get_count(job->group);
    for (int64_t k = 0; k < job->count; k++) {
        bl_adapter *adapter = bl_group_get_adapter(job->group, k);
        int64_t     in = bl_adapter_get_in(adapter);
        int64_t     rank = bl_adapter_get_rank(adapter);
        widest = in > widest ? in : widest;
        widest = rank > widest ? rank : widest;
    }
    job->row = calloc((size_t) widest, sizeof *job->row);
    job->entries = calloc((size_t) job->count * PARTS, sizeof *job->entries);
    job->names = calloc((size_t) job->count * PARTS, sizeof *job->names);
    if (job->row == NULL || job->entries == NULL || job->names == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    for (int64_t k = 0; k < job->count && code == 0; k++) {
        code = check_adapter(job, k);
    }
    return code;
}

static void name_tensors(struct job *job)
{
    for (int64_t i = 0; i < PARTS * job->count; i++) {
        bl_adapter          *adapter = bl_group_get_adapter(job->group, i / PARTS);
        struct bl__io_entry *entry = &job->entries[i];
        int64_t              rank = bl_adapter_get_rank(adapter);
        int64_t              part = i % PARTS;
        snprintf(job->names[i], sizeof job->names[i], BL__IO_PREFIX "%s%s",
                 bl_adapter_get_name(adapter), suffixes[part]);
        entry->name = job->names[i];
        entry->dtype = job->options.dtype;
        entry->dims = 2;
        entry->shape[0] = part == BL_TENSOR_A   ? rank
                          : part == BL_TENSOR_B ? bl_adapter_get_out(adapter)
                                                : 1;
        entry->shape[1] = part == BL_TENSOR_A ? bl_adapter_get_in(adapter) : rank;
        entry->source = i;
    }
}

/* job->row [cols] to the file, in its dtype. */
static int write_row(const struct job *job, struct bl__io_file *file,
                     const struct bl__io_entry *entry)
{
    int code = 0;
    for (int64_t j = 0; j < entry->shape[1] && code == 0; j++) {
        double value = job->row[j];
        float  single = (float) value;
        if (!isfinite(value)) {
            code = bl__io_fail(BL_E_NONFINITE, file->path,
                               "tensor %s: a value is not finite", entry->name);
        } else if (entry->dtype == BL_F64) {
            code = bl__io_file_write_values(file, &value, 1, sizeof value);
        } else if (!isfinite(single)) {
            code = bl__io_fail(BL_E_RANGE, file->path,
                               "tensor %s: %g is too large for F32", entry->name, value);
        } else {
            code = bl__io_file_write_values(file, &single, 1, sizeof single);
        }
    }
    return code;
}

static int write_tensor(const struct job *job, struct bl__io_file *file,
                        const struct bl__io_entry *entry)
{
    int64_t        k = entry->source / PARTS;
    int32_t        part = (int32_t) (entry->source % PARTS);
    const int64_t *order =
        job->options.row_order == NULL ? NULL : job->options.row_order[k];
    bl_view view;
    int     code = bl_adapter_get_view(bl_group_get_adapter(job->group, k), part,
                                       BL_BUFFER_PARAMETERS, &view);
    if (code != 0) {
        return bl__io_fail_core(code, file->path);
    }
    for (int64_t i = 0; i < entry->shape[0] && code == 0; i++) {
        int64_t from = part == BL_TENSOR_B && order != NULL ? order[i] : i;
        for (int64_t j = 0; j < entry->shape[1]; j++) {
            job->row[j] =
                part == BL_TENSOR_B ? value_at(&view, j, from) : value_at(&view, from, j);
        }
        code = write_row(job, file, entry);
    }
    return code;
}

static int write_model(void *user, struct bl__io_file *file)
{
    const struct job *job = user;
    json_t           *tau = json_real(bl_group_get_temperature(job->group));
    char             *text = json_dumps(tau, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    const char       *metadata[] = { "format", "pt", BL__IO_TEMPERATURE, text, NULL };
    int code = text == NULL ? bl__io_fail(BL_E_NOMEM, file->path, "out of memory")
                            : bl__io_write_header(file, job->entries, PARTS * job->count,
                                                  metadata);
    for (int64_t i = 0; i < PARTS * job->count && code == 0; i++) {
        code = write_tensor(job, file, &job->entries[i]);
    }
    free(text);
    json_decref(tau);
    return code == 0 ? bl__io_file_finish(file) : code;
}

/* alpha that gives a module's c, since a reader's g sum to r and the module's to its mass:
 * an integer where it is one, as PEFT has it. */
static json_t *alpha_of(const struct job *job, int64_t k)
{
    bl_adapter *adapter = bl_group_get_adapter(job->group, k);
    double      rank = (double) bl_adapter_get_rank(adapter);
    double      alpha = bl_adapter_get_scaling(adapter) * bl_adapter_get_mass(adapter) /
                   (job->trained.scaling == BL_SCALING_RSLORA ? sqrt(rank) : 1);
    double whole = nearbyint(alpha);
    if (fabs(alpha - whole) <= 1e-12 * fabs(alpha) && fabs(whole) < 1e15) {
        return json_integer((json_int_t) whole);
    }
    return json_real(alpha);
}

/* Modules that differ from the first one, by name: rank_pattern or alpha_pattern. */
static json_t *make_pattern(const struct job *job, int ranks)
{
    json_t *pattern = json_object();
    json_t *first = alpha_of(job, 0);
    int64_t rank = bl_adapter_get_rank(bl_group_get_adapter(job->group, 0));
    int     failed = pattern == NULL || first == NULL;
    for (int64_t k = 1; k < job->count && !failed; k++) {
        bl_adapter *adapter = bl_group_get_adapter(job->group, k);
        int64_t     own = bl_adapter_get_rank(adapter);
        json_t     *value = ranks ? json_integer((json_int_t) own) : alpha_of(job, k);
        int         same = ranks ? own == rank : json_equal(value, first);
        failed = value == NULL;
        if (!same && !failed) {
            failed = json_object_set(pattern, bl_adapter_get_name(adapter), value) != 0;
        }
        json_decref(value);
    }
    json_decref(first);
    if (failed) {
        json_decref(pattern);
        return NULL;
    }
    return pattern;
}

static int write_config(void *user, struct bl__io_file *file)
{
    const struct job *job = user;
    const char       *task =
        job->options.task_type == NULL ? "CAUSAL_LM" : job->options.task_type;
    int64_t rank = bl_adapter_get_rank(bl_group_get_adapter(job->group, 0));
    /* The keys of the PEFT that the published code comes with, 0.9: it refuses others. */
    json_t *root = json_pack(
        "{s:s, s:s, s:s?, s:n, s:b, s:I, s:o, s:f, s:o, s:s, s:b, s:b, s:b, s:b, s:b, "
        "s:n, s:o, s:o, s:n, s:n}",
        "peft_type", "LORA", "task_type", task, "base_model_name_or_path",
        job->options.base_model_name_or_path, "revision", "inference_mode", 1, "r",
        (json_int_t) rank, "lora_alpha", alpha_of(job, 0), "lora_dropout",
        job->trained.dropout, "target_modules", bl__io_peft_targets(job->group), "bias",
        "none", "fan_in_fan_out", 0, "init_lora_weights", 1, "use_rslora",
        job->trained.scaling == BL_SCALING_RSLORA, "use_dora", 0, "use_beamlora", 1,
        "modules_to_save", "rank_pattern", make_pattern(job, 1), "alpha_pattern",
        make_pattern(job, 0), "layers_to_transform", "layers_pattern");
    if (root == NULL) {
        return bl__io_fail(BL_E_ARG, file->path,
                           "base_model_name_or_path or task_type is not UTF-8");
    }
    int code = bl__io_write_json(file, root, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(root);
    return code == 0 ? bl__io_file_finish(file) : code;
}

int bl_published_save(const bl_group *group, const char *dir, const bl_peft_options *opt)
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
    if (job.options.compact != 0) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "compact is 1, must be 0");
    }
    if (job.options.dtype != BL_F32 && job.options.dtype != BL_F64) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "dtype is %d, must be BL_F32 or BL_F64",
                           (int) job.options.dtype);
    }
    int saved = errno;
    code = prepare(&job);
    if (code == 0) {
        name_tensors(&job);
        code = bl__io_write_peft(dir, &job, write_config, write_model);
    }
    free(job.row);
    free(job.entries);
    free(job.names);
    errno = saved;
    return code;
}
