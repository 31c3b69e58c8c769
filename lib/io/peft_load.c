/*
 * Filling a group from a PEFT adapter. With c and g those of the adapter,
 *
 *     c B diag(g) A' = scale B diag(e) A     for     A'_i = scale e_i / (c g_i) A_i
 *
 * e is 1, AdaLoRA's E, or, where the file has scores s', r' softmax(s' / tau). Scores of the
 * file go into a group that has scores as they are, and e = g then; ranks that the group has
 * more get the score
 *
 *     s_i = tau (logsumexp(s' / tau) - ln r')
 *
 * which is the mean of exp: it gives them g = 1 and leaves the g of the others alone.
 *
 * Magnitudes are taken as they are: lengths of equal products are equal.
 *
 * Two passes over the same code: the first works everything out and writes nothing, so
 * what can fail has failed before the second. Memory: one row.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

struct job {
    const bl_peft               *peft;
    bl_group                    *group;
    bl_peft_options              options;
    const bl_safetensors        *file;
    const struct bl__io_module **partners;    /* of each adapter */
    double                      *g;           /* importance, for the largest rank */
    double                      *e;           /* what scales the file's ranks     */
    double                       temperature; /* of the file's scores          */
    int                          scored;      /* they go into the group        */
    int64_t                      count;
};

static const struct bl__io_module *find_module(const bl_peft *peft, const char *name)
{
    int64_t low = 0;
    int64_t high = peft->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int     order = strcmp(name, peft->modules[middle].name);
        if (order == 0) {
            return &peft->modules[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

/* Names must match one to one; whichever side has more is named, best both. */
static int match_names(struct job *job, unsigned char *used)
{
    const bl_peft *peft = job->peft;
    const char    *adapter = NULL;
    for (int64_t k = 0; k < job->count; k++) {
        const char *name = bl_adapter_get_name(bl_group_get_adapter(job->group, k));
        job->partners[k] = find_module(peft, name);
        if (job->partners[k] != NULL) {
            used[job->partners[k] - peft->modules] = 1;
        } else if (adapter == NULL) {
            adapter = name;
        }
    }
    const char *module = NULL;
    for (int64_t i = 0; i < peft->count && module == NULL; i++) {
        module = used[i] == 0 ? peft->modules[i].name : NULL;
    }
    const char *label = job->file->label;
    if (module != NULL && adapter != NULL) {
        return bl__io_fail(BL_E_SHAPE, label,
                           "module %.110s is no adapter of the group, adapter %.110s is "
                           "not in the file",
                           module, adapter);
    }
    if (module != NULL) {
        return bl__io_fail(BL_E_SHAPE, label, "module %.160s is no adapter of the group",
                           module);
    }
    if (adapter != NULL) {
        return bl__io_fail(BL_E_SHAPE, label, "adapter %.160s is not in the file",
                           adapter);
    }
    return 0;
}

static int check_shape(const struct job *job, int64_t k)
{
    bl_adapter                 *adapter = bl_group_get_adapter(job->group, k);
    const struct bl__io_module *module = job->partners[k];
    int64_t                     in = bl_adapter_get_in(adapter);
    int64_t                     out = bl_adapter_get_out(adapter);
    int64_t                     rank = bl_adapter_get_rank(adapter);
    if (in != module->in || out != module->out || rank < module->rank) {
        return bl__io_fail(
            BL_E_SHAPE, job->file->label,
            "adapter %.160s is in %lld, out %lld, rank %lld; the file's is "
            "in %lld, out %lld, rank %lld",
            module->name, (long long) in, (long long) out, (long long) rank,
            (long long) module->in, (long long) module->out, (long long) module->rank);
    }
    bl_view mag;
    int     has = bl_adapter_get_view(adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS,
                                      &mag) == 0;
    if (has != (module->tensor[BL__IO_MAGNITUDE] >= 0)) {
        return bl__io_fail(BL_E_STATE, job->file->label,
                           "adapter %.160s has %s, the file's has %s", module->name,
                           has ? "magnitudes (dora 1)" : "no magnitudes (dora 0)",
                           has ? "none" : "some (use_dora)");
    }
    const int64_t *const *orders = job->options.row_order;
    return orders == NULL ? 0 : bl__io_check_order(orders[k], out, module->name);
}

/* Element (i, j) of a view := value, if it is finite there; dry: only look. */
static int put(const struct job *job, const bl_view *view, int64_t i, int64_t j,
               double value, int64_t tensor, int dry)
{
    int64_t at = i * view->ld + j;
    int     fits = isfinite(value);
    if (view->dtype == BL_F64) {
        if (!dry) {
            double *data = view->data;
            data[at] = value;
        }
    } else {
        float single = (float) value;
        fits = fits && isfinite(single);
        if (!dry) {
            float *data = view->data;
            data[at] = single;
        }
    }
    if (!fits) {
        return bl__io_fail(BL_E_RANGE, job->file->label,
                           "tensor %.160s: a value is too large for the adapter",
                           job->file->tensors[tensor].name);
    }
    return 0;
}

/* Value (i, j) of a matrix in the file; *bad is set when it is not finite. */
static double get(const struct job *job, int64_t tensor, int64_t i, int64_t j, int *bad)
{
    const struct bl__io_tensor *t = &job->file->tensors[tensor];
    double value = bl__io_value(job->file->data + t->begin, t->dtype->dtype,
                                (uint64_t) i * (uint64_t) t->shape[1] + (uint64_t) j);
    *bad |= !isfinite(value);
    return value;
}

static int fail_nonfinite(const struct job *job, int64_t tensor)
{
    return bl__io_fail(BL_E_NONFINITE, job->file->label,
                       "tensor %.160s holds a value that is not finite",
                       job->file->tensors[tensor].name);
}

/* One row or column of a file's tensor, [rank] in double. */
static int get_vector(const struct job *job, const struct bl__io_module *module,
                      enum bl__io_kind kind, double *values)
{
    int64_t tensor = module->tensor[kind];
    int     bad = 0;
    for (int64_t i = 0; i < module->rank; i++) {
        values[i] = kind == BL__IO_GATE ? get(job, tensor, 0, i, &bad)
                                        : get(job, tensor, i, 0, &bad);
    }
    return bad ? fail_nonfinite(job, tensor) : 0;
}

/* Overwrite scores with r softmax(s / tau); returns logsumexp(s / tau) - ln r. */
static double importance_of(double *values, int64_t rank, double temperature)
{
    double largest = values[0];
    double sum = 0;
    for (int64_t i = 1; i < rank; i++) {
        largest = fmax(largest, values[i]);
    }
    for (int64_t i = 0; i < rank; i++) {
        values[i] = exp((values[i] - largest) / temperature);
        sum += values[i];
    }
    for (int64_t i = 0; i < rank; i++) {
        values[i] *= (double) rank / sum;
    }
    return largest / temperature + log(sum / (double) rank);
}

/* job->e of a module; the group's scores, where the file's go there. */
static int fill_scores(const struct job *job, bl_adapter *adapter,
                       const struct bl__io_module *module, int dry)
{
    bl_view s = { 0 };
    int     code = 0;
    for (int64_t i = 0; i < module->rank; i++) {
        job->e[i] = 1;
    }
    if (module->tensor[BL__IO_E] >= 0) {
        return get_vector(job, module, BL__IO_E, job->e);
    }
    if (module->tensor[BL__IO_GATE] < 0) {
        return 0;
    }
    code = get_vector(job, module, BL__IO_GATE, job->e);
    if (code != 0 || !job->scored) {
        if (code == 0) {
            importance_of(job->e, module->rank, job->temperature);
        }
        return code;
    }
    code = bl_adapter_get_view(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, &s);
    if (code != 0) {
        return bl__io_fail_core(code, job->file->label);
    }
    int64_t tensor = module->tensor[BL__IO_GATE];
    for (int64_t i = 0; i < module->rank && code == 0; i++) {
        code = put(job, &s, 0, i, job->e[i], tensor, dry);
    }
    double mean = importance_of(job->e, module->rank, job->temperature);
    for (int64_t i = module->rank; i < s.cols && code == 0; i++) {
        code = put(job, &s, 0, i, job->temperature * mean, tensor, dry);
    }
    return code;
}

/* What a rank of the file is multiplied with. The file's g sum to its rank, the group's
 * to their mass. */
static double factor_of(const struct job *job, const struct bl__io_module *module,
                        const bl_adapter *adapter, int64_t i)
{
    double c = bl_adapter_get_scaling(adapter);
    double share = (double) bl_adapter_get_rank(adapter) / bl_adapter_get_mass(adapter);
    double scale =
        isnan(module->scale) ? job->options.alpha / (double) module->rank : module->scale;
    /* equal scores give equal g, so that e / g is 1 without rounding */
    return scale * (job->scored ? share : job->e[i] / job->g[i]) / c;
}

static int fill_a(const struct job *job, bl_adapter *adapter,
                  const struct bl__io_module *module, int dry)
{
    bl_view a;
    int     code = bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &a);
    if (code == 0) {
        code = bl_adapter_copy_importance(adapter, job->g);
    }
    if (code != 0) {
        return bl__io_fail_core(code, job->file->label);
    }
    code = fill_scores(job, adapter, module, dry);
    if (code != 0) {
        return code;
    }
    double  c = bl_adapter_get_scaling(adapter);
    int64_t tensor = module->tensor[BL__IO_A];
    for (int64_t i = 0; i < module->rank; i++) {
        if (!(c * job->g[i] != 0)) {
            return bl__io_fail(BL_E_STATE, job->file->label,
                               "adapter %.160s: rank %lld is silenced (c g = 0)",
                               module->name, (long long) i);
        }
        double factor = factor_of(job, module, adapter, i);
        int    bad = 0;
        for (int64_t j = 0; j < module->in; j++) {
            double value = get(job, tensor, i, j, &bad);
            if (bad) {
                return fail_nonfinite(job, tensor);
            }
            code = put(job, &a, i, j, factor * value, tensor, dry);
            if (code != 0) {
                return code;
            }
        }
    }
    return 0;
}

static int fill_b(const struct job *job, bl_adapter *adapter,
                  const struct bl__io_module *module, const int64_t *order, int dry)
{
    bl_view b;
    int     code = bl_adapter_get_view(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, &b);
    if (code != 0) {
        return bl__io_fail_core(code, job->file->label);
    }
    int64_t rank = bl_adapter_get_rank(adapter);
    int64_t tensor = module->tensor[BL__IO_B];
    for (int64_t i = 0; i < module->out; i++) {
        int64_t row = order == NULL ? i : order[i];
        int     bad = 0;
        for (int64_t j = 0; j < rank && code == 0; j++) {
            double value = j < module->rank ? get(job, tensor, i, j, &bad) : 0;
            code = bad ? fail_nonfinite(job, tensor)
                       : put(job, &b, j, row, value, tensor, dry);
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

static int fill_magnitude(const struct job *job, bl_adapter *adapter,
                          const struct bl__io_module *module, const int64_t *order,
                          int dry)
{
    bl_view mag;
    int     code =
        bl_adapter_get_view(adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, &mag);
    if (code != 0) {
        return bl__io_fail_core(code, job->file->label);
    }
    int64_t                     tensor = module->tensor[BL__IO_MAGNITUDE];
    const struct bl__io_tensor *t = &job->file->tensors[tensor];
    for (int64_t i = 0; i < module->out && code == 0; i++) {
        double value =
            bl__io_value(job->file->data + t->begin, t->dtype->dtype, (uint64_t) i);
        code = !isfinite(value)
                   ? fail_nonfinite(job, tensor)
                   : put(job, &mag, 0, order == NULL ? i : order[i], value, tensor, dry);
    }
    return code;
}

static int fill(const struct job *job, int dry)
{
    const int64_t *const *orders = job->options.row_order;
    for (int64_t k = 0; k < job->count; k++) {
        bl_adapter *adapter = bl_group_get_adapter(job->group, k);
        int         code = dry ? check_shape(job, k) : 0;
        if (code == 0) {
            code = fill_a(job, adapter, job->partners[k], dry);
        }
        if (code == 0) {
            code = fill_b(job, adapter, job->partners[k],
                          orders == NULL ? NULL : orders[k], dry);
        }
        if (code == 0 && job->partners[k]->tensor[BL__IO_MAGNITUDE] >= 0) {
            code = fill_magnitude(job, adapter, job->partners[k],
                                  orders == NULL ? NULL : orders[k], dry);
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

/* What the caller must say of the file: alpha where it has none, the temperature of its
 * scores. */
static int check_told(struct job *job)
{
    const bl_peft *peft = job->peft;
    const char    *label = job->file->label;
    double         told = job->options.temperature;
    bl_options     options = { .size = sizeof options };
    int            bare = peft->count > 0 && isnan(peft->modules[0].scale);
    if (bare != (job->options.alpha != 0)) {
        return bl__io_fail(BL_E_OPTIONS, label,
                           bare ? "has no " BL__IO_CONFIG ": alpha must be given"
                                : "alpha is %g, but " BL__IO_CONFIG " has its own",
                           job->options.alpha);
    }
    if (!peft->scored) {
        return 0;
    }
    if (told != 0 && peft->temperature != 0 && told != peft->temperature) {
        return bl__io_fail(BL_E_OPTIONS, label, "temperature is %g, the file's is %g",
                           told, peft->temperature);
    }
    job->temperature = told != 0                ? told
                       : peft->temperature != 0 ? peft->temperature
                                                : BL_PUBLISHED_TEMPERATURE;
    int code = bl_group_copy_options(job->group, &options);
    if (code != 0) {
        return bl__io_fail_core(code, label);
    }
    job->scored = options.method == BL_METHOD_BEAMLORA;
    double tau = bl_group_get_temperature(job->group);
    if (job->scored && tau != job->temperature) {
        return bl__io_fail(BL_E_OPTIONS, label,
                           "temperature is %g in the group, %g of the file's scores", tau,
                           job->temperature);
    }
    return 0;
}

static int load(struct job *job)
{
    int64_t largest = 1;
    job->count = bl_group_get_count(job->group);
    for (int64_t k = 0; k < job->count; k++) {
        int64_t rank = bl_adapter_get_rank(bl_group_get_adapter(job->group, k));
        largest = rank > largest ? rank : largest;
    }
    unsigned char *used = calloc((size_t) job->peft->count + 1, 1);
    job->partners = calloc((size_t) job->count + 1, sizeof *job->partners);
    job->g = calloc((size_t) largest, sizeof *job->g);
    job->e = calloc((size_t) largest, sizeof *job->e);
    int code = 0;
    if (used == NULL || job->partners == NULL || job->g == NULL || job->e == NULL) {
        code = bl__io_fail(BL_E_NOMEM, job->file->label, "out of memory");
    }
    if (code == 0) {
        code = check_told(job);
    }
    if (code == 0) {
        code = match_names(job, used);
    }
    if (code == 0) {
        code = fill(job, 1);
    }
    if (code == 0) {
        code = fill(job, 0);
    }
    free(used);
    free(job->partners);
    free(job->g);
    free(job->e);
    return code;
}

int bl_peft_load(const bl_peft *peft, bl_group *group, const bl_peft_options *opt)
{
    if (peft == NULL || group == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", peft == NULL ? "peft" : "group");
    }
    struct job job;
    memset(&job, 0, sizeof job);
    job.peft = peft;
    job.group = group;
    job.file = peft->file;
    int code = bl__io_peft_options(&job.options, opt);
    if (code != 0) {
        return code;
    }
    /* Moments and history would go on from parameters that are gone. */
    if (bl_group_get_step(group) != 0) {
        return bl__io_fail(BL_E_STATE, peft->file->label,
                           "the group has made %lld steps, must have made none",
                           (long long) bl_group_get_step(group));
    }
    int saved = errno;
    code = load(&job);
    if (code == 0) {
        code = bl_group_touch(group);
        if (code != 0) {
            bl__io_fail_core(code, peft->file->label);
        }
    }
    errno = saved;
    return code;
}
