/*
 * golden_replay FILE...: repeat recorded training runs (test/golden/README.md) through
 * the public API and compare every recorded tensor and event with what comes out.
 *
 *     loss = 0.5 sum((Y - T)^2) / batch     dY = (Y - T) / batch     W0 = 0
 *
 * The events are derived by the library from the schedule; the file's are only compared
 * with them. The error of a quantity is max|x - ref| over all its tensors of a run,
 * divided by max|ref| over the same. Exit status: 0 all files agree, 1 one does not or
 * cannot be read, 2 usage.
 */
#include "beamlora.h"
#include "beamlora_io.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_F64 1e-10
#define LIMIT_F32 1e-3
#define LIMIT_P 1e-12 /* thresholds: the last bits of a cosine may differ */

#define MAX_MODULES 4096
#define MAX_SIZE (1 << 28) /* of any integer in a file */

enum { Q_Y, Q_DX, Q_A, Q_B, Q_S, Q_MA, Q_VA, Q_MB, Q_VB, Q_MS, Q_VS, Q_COUNT };

static const char *const quantity_names[Q_COUNT] = { "Y",  "dX", "A",  "B",  "s", "mA",
                                                     "vA", "mB", "vB", "ms", "vs" };

/* Tensors kept in the file as the library keeps them; the others are described by hand. */
static const struct {
    int     quantity;
    int32_t tensor, buffer;
} parameter_map[] = {
    { Q_A, BL_TENSOR_A, BL_BUFFER_PARAMETERS },
    { Q_B, BL_TENSOR_B, BL_BUFFER_PARAMETERS },
    { Q_S, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS },
    { Q_MA, BL_TENSOR_A, BL_BUFFER_M },
    { Q_VA, BL_TENSOR_A, BL_BUFFER_V },
    { Q_MB, BL_TENSOR_B, BL_BUFFER_M },
    { Q_VB, BL_TENSOR_B, BL_BUFFER_V },
    { Q_MS, BL_TENSOR_SCORES, BL_BUFFER_M },
    { Q_VS, BL_TENSOR_SCORES, BL_BUFFER_V },
};

typedef struct {
    double  max_error, max_ref;
    int     nan; /* something was NaN: no maximum can tell */
    int64_t tensors;
} quantity;

typedef struct {
    const char     *path;
    bl_safetensors *file;
    int64_t         used; /* tensors of the file that took part */

    int32_t dtype;
    int64_t count; /* modules */
    int64_t in[MAX_MODULES], out[MAX_MODULES], rank[MAX_MODULES];
    int64_t batch, steps, period, p_steps;
    double  alpha, lr, beta1, beta2, epsilon, weight_decay, tau, p_init, p_end, fraction;
    int32_t scope, moments;
    json_t *events;
    size_t  next_event;
    size_t  compared;
    int     never; /* nothing to prune: the library refuses such a schedule */

    bl_group *group;
    bl_tape  *tapes[MAX_MODULES];
    bl_plan  *plan;
    int64_t   wide; /* widest of all in, out */
    void     *x, *y, *dx, *dy;
    double   *ref, *got;

    quantity q[Q_COUNT];
    int      failed; /* events differ */
} replay;

/* ===== The file =========================================================== */

static int complain(const replay *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Says what is wrong with a file; returns -1. */
static int complain(const replay *r, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", r->path);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return -1;
}

/* Text of a setting; NULL, and a complaint, where there is none. */
static const char *get_text(const replay *r, const char *key)
{
    const char *text = bl_safetensors_get_metadata(r->file, key);
    if (!text) {
        complain(r, "metadata has no \"%s\"", key);
    }
    return text;
}

static int get_number(const replay *r, const char *key, double *out)
{
    const char *text = get_text(r, key);
    if (!text) {
        return -1;
    }
    char  *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) {
        return complain(r, "metadata's \"%s\" is no number: \"%.60s\"", key, text);
    }
    *out = value;
    return 0;
}

static int get_integer(const replay *r, const char *key, int64_t *out)
{
    double value;
    if (get_number(r, key, &value) < 0) {
        return -1;
    }
    if (!(value >= 1 && value <= MAX_SIZE) || floor(value) < value) {
        return complain(r, "metadata's \"%s\" is %g, must be an integer, 1 to %d", key,
                        value, MAX_SIZE);
    }
    *out = (int64_t) value;
    return 0;
}

/* Which of two texts a setting is: 0 or 1. */
static int get_choice(const replay *r, const char *key, const char *zero, const char *one,
                      int32_t *out)
{
    const char *text = get_text(r, key);
    if (!text) {
        return -1;
    }
    if (strcmp(text, zero) == 0) {
        *out = 0;
    } else if (strcmp(text, one) == 0) {
        *out = 1;
    } else {
        return complain(r, "metadata's \"%s\" is \"%.80s\", must be \"%s\" or \"%s\"",
                        key, text, zero, one);
    }
    return 0;
}

/* A setting of which only one value is known, told by how it begins. */
static int check_text(const replay *r, const char *key, const char *begin)
{
    const char *text = get_text(r, key);
    if (!text) {
        return -1;
    }
    if (strncmp(text, begin, strlen(begin)) != 0) {
        return complain(r, "metadata's \"%s\" is \"%.80s\", must begin with \"%s\"", key,
                        text, begin);
    }
    return 0;
}

static int get_array(const replay *r, const char *key, json_t **out)
{
    const char *text = get_text(r, key);
    if (!text) {
        return -1;
    }
    json_error_t error;
    json_t      *array = json_loads(text, JSON_DECODE_ANY, &error);
    if (!json_is_array(array)) {
        json_decref(array);
        return complain(r, "metadata's \"%s\" is no JSON list", key);
    }
    *out = array;
    return 0;
}

/* An entry of a list as an integer; -1 where it is none. */
static int64_t get_entry(const json_t *array, size_t index)
{
    const json_t *entry = json_array_get(array, index);
    return json_is_integer(entry) ? (int64_t) json_integer_value(entry) : -1;
}

static int read_dims(replay *r)
{
    json_t *dims;
    if (get_array(r, "dims", &dims) < 0) {
        return -1;
    }
    size_t count = json_array_size(dims);
    int    rc = 0;
    if (count < 1 || count > MAX_MODULES) {
        rc = complain(r, "dims name %zu modules, must be 1 to %d", count, MAX_MODULES);
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const json_t *pair = json_array_get(dims, i);
        r->in[i] = get_entry(pair, 0);
        r->out[i] = get_entry(pair, 1);
        if (json_array_size(pair) != 2 || r->in[i] < 1 || r->in[i] > MAX_SIZE ||
            r->out[i] < 1 || r->out[i] > MAX_SIZE) {
            rc = complain(r, "dims of module %zu are no pair of sizes", i);
        }
        r->wide = r->in[i] > r->wide ? r->in[i] : r->wide;
        r->wide = r->out[i] > r->wide ? r->out[i] : r->wide;
    }
    r->count = rc == 0 ? (int64_t) count : 0;
    json_decref(dims);
    return rc;
}

/* One rank for all modules, or a list of ranks. */
static int read_ranks(replay *r)
{
    const char *text = get_text(r, "r");
    if (!text) {
        return -1;
    }
    if (text[0] != '[') {
        int64_t rank;
        if (get_integer(r, "r", &rank) < 0) {
            return -1;
        }
        for (int64_t i = 0; i < r->count; i++) {
            r->rank[i] = rank;
        }
        return 0;
    }
    json_t *list;
    if (get_array(r, "r", &list) < 0) {
        return -1;
    }
    int rc = 0;
    if (json_array_size(list) != (size_t) r->count) {
        rc = complain(r, "metadata's \"r\" has %zu entries for %d modules",
                      json_array_size(list), (int) r->count);
    }
    for (int64_t i = 0; rc == 0 && i < r->count; i++) {
        r->rank[i] = get_entry(list, (size_t) i);
        if (r->rank[i] < 1 || r->rank[i] > MAX_SIZE) {
            rc = complain(r, "rank of module %d is no size", (int) i);
        }
    }
    json_decref(list);
    return rc;
}

static int read_settings(replay *r)
{
    int32_t wide;
    if (check_text(r, "format", "beamlora-golden-1") < 0 ||
        get_choice(r, "dtype", "float32", "float64", &wide) < 0 || read_dims(r) < 0 ||
        read_ranks(r) < 0 || get_number(r, "alpha", &r->alpha) < 0 ||
        get_integer(r, "batch", &r->batch) < 0 ||
        get_integer(r, "steps", &r->steps) < 0 || get_integer(r, "T", &r->period) < 0 ||
        get_number(r, "lr", &r->lr) < 0 || get_number(r, "beta1", &r->beta1) < 0 ||
        get_number(r, "beta2", &r->beta2) < 0 || get_number(r, "eps", &r->epsilon) < 0 ||
        get_number(r, "weight_decay", &r->weight_decay) < 0 ||
        get_number(r, "tau", &r->tau) < 0 || get_number(r, "p_init", &r->p_init) < 0 ||
        get_number(r, "p_end", &r->p_end) < 0 ||
        get_integer(r, "t_end", &r->p_steps) < 0 ||
        get_choice(r, "scope", "each module alone", "joint over modules", &r->scope) <
            0 ||
        check_text(r, "pairing", "identity") < 0 ||
        get_choice(r, "moments_of_A_and_B", "copied from the snapshot",
                   "left as they are", &r->moments) < 0 ||
        check_text(r, "moments_of_s", "zeroed at every reallocation") < 0 ||
        get_number(r, "max_prune_fraction", &r->fraction) < 0 ||
        check_text(r, "loss", "0.5*sum((Y-T)^2)/batch, dY=(Y-T)/batch, W0=0") < 0 ||
        get_array(r, "events", &r->events) < 0) {
        return -1;
    }
    if (!(r->tau > 0)) { /* the library would choose one */
        return complain(r, "metadata's \"tau\" is %g, must be above 0", r->tau);
    }
    r->dtype = wide ? BL_F64 : BL_F32;
    r->scope = r->scope ? BL_SCOPE_JOINT : BL_SCOPE_MODULE;
    r->moments = r->moments ? BL_MOMENTS_KEEP : BL_MOMENTS_COPY;
    return 0;
}

static void *zalloc(int64_t count, size_t size)
{
    return calloc(count > 0 ? (size_t) count : 1, size);
}

/*
 * Reads m{module}.{name}{step}, which must be [rows, cols] (cols 0: a vector), into
 * `out`. Returns 1; 0 where the file has no such tensor; -1 where it cannot be used.
 */
static int read_tensor(replay *r, int64_t module, const char *name, int64_t step,
                       int64_t rows, int64_t cols, double *out)
{
    char full[96];
    snprintf(full, sizeof full, "m%d.%s%d", (int) module, name, (int) step);
    int64_t        index = bl_safetensors_find(r->file, full);
    bl_tensor_info info;
    if (index < 0) {
        return 0;
    }
    if (bl_safetensors_get_tensor(r->file, index, &info) < 0) {
        return complain(r, "%s: %s", full, bl_io_last_error());
    }
    if (info.dtype != r->dtype || info.dims != (cols ? 2 : 1) || info.shape[0] != rows ||
        info.shape[1] != cols) {
        return complain(r,
                        "%s is %s with %d dimensions [%lld, %lld], must be %s with %d "
                        "[%lld, %lld]",
                        full, info.dtype_name, (int) info.dims, (long long) info.shape[0],
                        (long long) info.shape[1], r->dtype == BL_F64 ? "F64" : "F32",
                        cols ? 2 : 1, (long long) rows, (long long) cols);
    }
    if (bl_safetensors_copy(r->file, index, BL_F64, out, cols ? cols : rows) < 0) {
        return complain(r, "%s: %s", full, bl_io_last_error());
    }
    r->used++;
    return 1;
}

/* As read_tensor, for tensors that a file cannot do without. */
static int need_tensor(replay *r, int64_t module, const char *name, int64_t step,
                       int64_t rows, int64_t cols, double *out)
{
    int rc = read_tensor(r, module, name, step, rows, cols, out);
    if (rc == 0) {
        return complain(r, "no tensor m%d.%s%d", (int) module, name, (int) step);
    }
    return rc;
}

/* ===== Comparing ========================================================== */

static void compare(quantity *q, int64_t count, const double *got, const double *ref)
{
    for (int64_t i = 0; i < count; i++) {
        double error = fabs(got[i] - ref[i]);
        double size = fabs(ref[i]);
        if (isnan(error) || isnan(size)) {
            q->nan = 1;
        }
        q->max_error = error > q->max_error ? error : q->max_error;
        q->max_ref = size > q->max_ref ? size : q->max_ref;
    }
    q->tensors++;
}

static double get_value(const void *data, int32_t dtype, int64_t index)
{
    return dtype == BL_F64 ? ((const double *) data)[index]
                           : (double) ((const float *) data)[index];
}

static void set_value(void *data, int32_t dtype, int64_t index, double value)
{
    if (dtype == BL_F64) {
        ((double *) data)[index] = value;
    } else {
        ((float *) data)[index] = (float) value;
    }
}

/* Compares [n, cols] activations with m{module}.{Y,dX}{step}, if the file has it. */
static int compare_activations(replay *r, int which, int64_t module, int64_t step,
                               int64_t cols, const void *data)
{
    int64_t elements = r->batch * cols;
    int rc = read_tensor(r, module, quantity_names[which], step, r->batch, cols, r->ref);
    if (rc > 0) {
        for (int64_t i = 0; i < elements; i++) {
            r->got[i] = get_value(data, r->dtype, i);
        }
        compare(&r->q[which], elements, r->got, r->ref);
    }
    return rc < 0 ? -1 : 0;
}

/* Compares parameters and moments of all modules after `step` steps. */
static int compare_parameters(replay *r, int64_t step)
{
    size_t kinds = sizeof parameter_map / sizeof parameter_map[0];
    for (int64_t m = 0; m < r->count; m++) {
        bl_adapter *adapter = bl_group_get_adapter(r->group, m);
        for (size_t k = 0; k < kinds; k++) {
            int     which = parameter_map[k].quantity;
            int32_t tensor = parameter_map[k].tensor;
            int64_t rows = tensor == BL_TENSOR_B ? r->out[m] : r->rank[m];
            int64_t cols = tensor == BL_TENSOR_A   ? r->in[m]
                           : tensor == BL_TENSOR_B ? r->rank[m]
                                                   : 0;
            int rc = read_tensor(r, m, quantity_names[which], step, rows, cols, r->ref);
            if (rc <= 0) {
                if (rc < 0) {
                    return -1;
                }
                continue;
            }
            bl_view view;
            if (bl_adapter_get_view(adapter, tensor, parameter_map[k].buffer, &view) <
                0) {
                return complain(r, "%s", bl_last_error());
            }
            int64_t to = 0;
            for (int64_t i = 0; i < rows; i++) {
                for (int64_t j = 0; j < (cols ? cols : 1); j++) {
                    int64_t from = tensor == BL_TENSOR_B        ? j * view.ld + i
                                   : tensor == BL_TENSOR_SCORES ? i
                                                                : i * view.ld + j;
                    r->got[to++] = get_value(view.data, view.dtype, from);
                }
            }
            compare(&r->q[which], to, r->got, r->ref);
        }
    }
    return 0;
}

/* ===== Events ============================================================= */

static void differ(replay *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void differ(replay *r, const char *format, ...)
{
    va_list args;
    printf("  event %zu: ", r->next_event);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    r->failed = 1;
}

/* Compares a module's part of a plan with the file's pruned ranks and pairs. */
static void compare_module(replay *r, int64_t module, const json_t *pruned,
                           const json_t *pairs)
{
    int64_t        count = bl_plan_get_count(r->plan);
    const int64_t *modules = bl_plan_get_modules(r->plan);
    const int64_t *dst = bl_plan_get_pruned(r->plan);
    const int64_t *src = bl_plan_get_sources(r->plan);
    const int32_t *action = bl_plan_get_actions(r->plan);
    size_t         n_dst = 0, n_pair = 0;

    for (int64_t i = 0; i < count; i++) {
        if (modules[i] != module) {
            continue;
        }
        int found = 0;
        for (size_t k = 0; k < json_array_size(pruned); k++) {
            found |= get_entry(pruned, k) == dst[i];
        }
        if (!found) {
            differ(r, "module %d: rank %d is not among the file's pruned", (int) module,
                   (int) dst[i]);
        }
        n_dst++;
        if (action[i] == BL_ACTION_SKIP) {
            continue;
        }
        found = 0;
        for (size_t k = 0; k < json_array_size(pairs); k++) {
            const json_t *pair = json_array_get(pairs, k);
            found |= get_entry(pair, 0) == dst[i] && get_entry(pair, 1) == src[i];
        }
        if (!found || action[i] != BL_ACTION_HISTORY) {
            differ(r, "module %d: pair %d from %d (action %d) is not in the file",
                   (int) module, (int) dst[i], (int) src[i], (int) action[i]);
        }
        n_pair++;
    }
    if (n_dst != json_array_size(pruned) || n_pair != json_array_size(pairs)) {
        differ(r, "module %d: %zu pruned and %zu pairs, the file has %zu and %zu",
               (int) module, n_dst, n_pair, json_array_size(pruned),
               json_array_size(pairs));
    }
}

static void skip_snapshots(replay *r)
{
    for (;; r->next_event++) {
        const json_t *event = json_array_get(r->events, r->next_event);
        const char   *text = json_string_value(json_object_get(event, "kind"));
        if (!text || strcmp(text, "snapshot") != 0) {
            return;
        }
    }
}

/* The library had an event after `step`: it must be the file's next. */
static void compare_event(replay *r, const char *kind, int64_t step)
{
    const json_t *event = json_array_get(r->events, r->next_event);
    const char   *text = json_string_value(json_object_get(event, "kind"));
    const json_t *after = json_object_get(event, "after_step");
    if (!event) {
        differ(r, "%s after step %d, the file has no more events", kind, (int) step);
    } else if (!text || !json_is_integer(after)) {
        differ(r, "the file's has no kind or step");
    } else if (strcmp(text, kind) != 0 || json_integer_value(after) != step) {
        differ(r, "%s after step %d, the file has %.40s after step %d", kind, (int) step,
               text, (int) json_integer_value(after));
    } else if (strcmp(kind, "reallocate") == 0) {
        const json_t *p = json_object_get(event, "p");
        const json_t *pruned = json_object_get(event, "pruned");
        const json_t *pairs = json_object_get(event, "pairs");
        double        mine = bl_plan_get_threshold(r->plan);
        if (!json_is_number(p) ||
            (!r->never && !(fabs(mine - json_number_value(p)) <= LIMIT_P))) {
            differ(r, "threshold after step %d is %.17g, the file has %.17g", (int) step,
                   mine, json_number_value(p));
        }
        if (json_array_size(pruned) != (size_t) r->count ||
            json_array_size(pairs) != (size_t) r->count) {
            differ(r, "the file's lists are not for %d modules", (int) r->count);
        }
        for (int64_t m = 0; m < r->count; m++) {
            compare_module(r, m, json_array_get(pruned, (size_t) m),
                           json_array_get(pairs, (size_t) m));
        }
    }
    r->next_event++;
    r->compared++;
}

/* ===== The run ============================================================ */

/* How many ranks the file's reallocations prune in all. */
static size_t count_pruned(const json_t *events)
{
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *pruned = json_object_get(json_array_get(events, i), "pruned");
        for (size_t m = 0; m < json_array_size(pruned); m++) {
            count += json_array_size(json_array_get(pruned, m));
        }
    }
    return count;
}

static int create(replay *r)
{
    /* The largest tensor is an activation or a factor. */
    int64_t most = r->batch;
    for (int64_t i = 0; i < r->count; i++) {
        most = r->rank[i] > most ? r->rank[i] : most;
    }
    if (most > MAX_SIZE / r->wide || r->count > MAX_SIZE / most / r->wide) {
        return complain(r, "tensors are too large");
    }

    bl_options opt;
    bl_options_init(&opt, sizeof opt);
    opt.alpha = r->alpha;
    opt.temperature = r->tau;
    opt.parameter_dtype = r->dtype;
    opt.activation_dtype = r->dtype;
    opt.lr = r->lr;
    opt.beta1 = r->beta1;
    opt.beta2 = r->beta2;
    opt.epsilon = r->epsilon;
    opt.weight_decay = r->weight_decay;
    opt.total_steps = r->steps;
    opt.period = r->period;
    opt.p_start = r->p_init;
    opt.p_end = r->p_end;
    opt.p_curve = BL_CURVE_COSINE;
    opt.p_steps = r->p_steps;
    opt.scope = r->scope;
    opt.crossing = BL_CROSSING_PRUNED;
    opt.max_prune_fraction = r->fraction;
    opt.moments = r->moments;
    opt.pairing = BL_PAIRING_ORDERED;

    bl_spec *specs = zalloc(r->count, sizeof *specs);
    if (!specs) {
        return complain(r, "out of memory");
    }
    for (int64_t i = 0; i < r->count; i++) {
        specs[i].size = sizeof specs[i];
        specs[i].in_features = r->in[i];
        specs[i].out_features = r->out[i];
        specs[i].rank = r->rank[i];
    }
    int rc = bl_group_create(&r->group, specs, r->count, &opt);
    if (rc == BL_E_OPTIONS && count_pruned(r->events) == 0) {
        printf("  nothing to prune (%s)\n", bl_last_error());
        r->never = 1;
        opt.reallocation = 0;
        rc = bl_group_create(&r->group, specs, r->count, &opt);
    }
    free(specs);
    if (rc < 0 || bl_plan_create(&r->plan, r->group) < 0) {
        return complain(r, "%s", bl_last_error());
    }
    for (int64_t i = 0; i < r->count; i++) {
        if (bl_tape_create(&r->tapes[i], bl_group_get_adapter(r->group, i), r->batch, 1) <
            0) {
            return complain(r, "%s", bl_last_error());
        }
    }

    size_t size = r->dtype == BL_F64 ? sizeof(double) : sizeof(float);
    r->x = zalloc(r->batch * r->wide, size);
    r->y = zalloc(r->batch * r->wide, size);
    r->dx = zalloc(r->batch * r->wide, size);
    r->dy = zalloc(r->batch * r->wide, size);
    r->ref = zalloc(most * r->wide, sizeof(double));
    r->got = zalloc(most * r->wide, sizeof(double));
    if (!r->x || !r->y || !r->dx || !r->dy || !r->ref || !r->got) {
        return complain(r, "out of memory");
    }
    return 0;
}

/* Writes A0, B0 and s0 into the group. */
static int start(replay *r)
{
    for (int64_t m = 0; m < r->count; m++) {
        bl_adapter *adapter = bl_group_get_adapter(r->group, m);
        int64_t     in = r->in[m], out = r->out[m], rank = r->rank[m];
        bl_view     view;
        if (bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &view) < 0) {
            return complain(r, "%s", bl_last_error());
        }
        if (need_tensor(r, m, "A", 0, rank, in, r->ref) < 0) {
            return -1;
        }
        for (int64_t i = 0; i < rank; i++) {
            for (int64_t j = 0; j < in; j++) {
                set_value(view.data, view.dtype, i * view.ld + j, r->ref[i * in + j]);
            }
        }
        if (bl_adapter_get_view(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, &view) < 0) {
            return complain(r, "%s", bl_last_error());
        }
        if (need_tensor(r, m, "B", 0, out, rank, r->ref) < 0) {
            return -1;
        }
        for (int64_t i = 0; i < rank; i++) {
            for (int64_t j = 0; j < out; j++) {
                set_value(view.data, view.dtype, i * view.ld + j, r->ref[j * rank + i]);
            }
        }
        if (bl_adapter_get_view(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, &view) <
            0) {
            return complain(r, "%s", bl_last_error());
        }
        if (need_tensor(r, m, "s", 0, rank, 0, r->ref) < 0) {
            return -1;
        }
        for (int64_t i = 0; i < rank; i++) {
            set_value(view.data, view.dtype, i, r->ref[i]);
        }
    }
    if (bl_group_touch(r->group) < 0) {
        return complain(r, "%s", bl_last_error());
    }
    /* Now they count as compared, not as read twice. */
    r->used = 0;
    return compare_parameters(r, 0);
}

/* Forward and backward of one module at step t. */
static int pass(replay *r, int64_t m, int64_t t)
{
    bl_adapter *adapter = bl_group_get_adapter(r->group, m);
    int64_t     in = r->in[m], out = r->out[m], n = r->batch;

    if (need_tensor(r, m, "X", t, n, in, r->ref) < 0) {
        return -1;
    }
    for (int64_t i = 0; i < n * in; i++) {
        set_value(r->x, r->dtype, i, r->ref[i]);
        set_value(r->dx, r->dtype, i, 0);
    }
    for (int64_t i = 0; i < n * out; i++) {
        set_value(r->y, r->dtype, i, 0);
    }
    if (bl_forward(adapter, r->tapes[m], n, r->y, out, r->x, in, BL_NO_DROPOUT) < 0) {
        return complain(r, "step %d: %s", (int) t, bl_last_error());
    }
    if (compare_activations(r, Q_Y, m, t, out, r->y) < 0 ||
        need_tensor(r, m, "T", t, n, out, r->ref) < 0) {
        return -1;
    }
    for (int64_t i = 0; i < n * out; i++) {
        if (r->dtype == BL_F64) {
            double y = ((double *) r->y)[i];
            ((double *) r->dy)[i] = (y - r->ref[i]) / (double) n;
        } else {
            float y = ((float *) r->y)[i];
            ((float *) r->dy)[i] = (y - (float) r->ref[i]) / (float) n;
        }
    }
    if (bl_backward(adapter, r->tapes[m], n, r->dx, in, r->dy, out, r->x, in) < 0) {
        return complain(r, "step %d: %s", (int) t, bl_last_error());
    }
    return compare_activations(r, Q_DX, m, t, in, r->dx);
}

/*
 * The reallocation after step t, if it is due. Where the library refuses the settings
 * because they prune nothing, what is left of one is that the scores' moments become
 * zero: an empty plan. Such a group takes no snapshots, so the file's are passed over.
 */
static int reallocate(replay *r, int64_t t)
{
    int due = bl_group_reallocate_due(r->group);
    int rc = 0;
    if (r->never) {
        due = t % r->period == 0 && t <= r->steps - r->period;
    }
    if (!due) {
        return 0;
    }
    if (!r->never) {
        rc = bl_group_reallocate(r->group, r->plan);
    } else {
        skip_snapshots(r);
        rc = bl_plan_clear(r->plan, t);
        if (rc == 0) {
            rc = bl_group_apply(r->group, r->plan);
        }
    }
    if (rc < 0) {
        return complain(r, "step %d: %s", (int) t, bl_last_error());
    }
    compare_event(r, "reallocate", t);
    return 0;
}

static int run(replay *r)
{
    int64_t snapshot = bl_group_get_snapshot_step(r->group);
    for (int64_t t = 0; t < r->steps; t++) {
        for (int64_t m = 0; m < r->count; m++) {
            if (pass(r, m, t) < 0) {
                return -1;
            }
        }
        if (bl_group_step(r->group, r->lr, 1.0) < 0) {
            return complain(r, "step %d: %s", (int) t, bl_last_error());
        }
        if (bl_group_get_snapshot_step(r->group) != snapshot) {
            snapshot = bl_group_get_snapshot_step(r->group);
            compare_event(r, "snapshot", snapshot);
        }
        if (reallocate(r, t + 1) < 0) {
            return -1;
        }
        if (compare_parameters(r, t + 1) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Prints what was found; returns 0 where everything agrees, else -1. */
static int conclude(replay *r)
{
    double limit = r->dtype == BL_F64 ? LIMIT_F64 : LIMIT_F32;
    int    rc = r->failed ? -1 : 0;
    for (int i = 0; i < Q_COUNT; i++) {
        const quantity *q = &r->q[i];
        double          error = q->max_ref > 0 ? q->max_error / q->max_ref : q->max_error;
        int             ok = !q->nan && q->tensors > 0 && isfinite(q->max_ref) &&
                 q->max_error <= limit * q->max_ref;
        printf("  %-3s %10.3e  %5d tensors%s\n", quantity_names[i],
               q->nan ? (double) NAN : error, (int) q->tensors,
               ok                ? ""
               : q->tensors == 0 ? "  FAIL: nothing to compare with"
                                 : "  FAIL");
        rc = ok ? rc : -1;
    }
    size_t events = json_array_size(r->events);
    if (r->never) {
        skip_snapshots(r);
    }
    printf("  events: %zu compared, %zu in the file\n", r->compared, events);
    if (r->next_event != events) {
        printf("  FAIL: %zu of the file's did not come about\n",
               r->next_event < events ? events - r->next_event : 0);
        rc = -1;
    }
    int64_t tensors = bl_safetensors_get_count(r->file);
    if (r->used != tensors) {
        printf("  FAIL: %d tensors of the file have no part in the run\n",
               (int) (tensors - r->used));
        rc = -1;
    }
    return rc;
}

static int replay_file(const char *path)
{
    replay *r = calloc(1, sizeof *r);
    if (!r) {
        fprintf(stderr, "%s: out of memory\n", path);
        return -1;
    }
    r->path = path;
    int rc = 0;
    if (bl_safetensors_open(&r->file, path) < 0) {
        r->file = NULL;
        rc = -1;
        fprintf(stderr, "%s\n", bl_io_last_error());
    }
    if (rc == 0) {
        rc = read_settings(r);
    }
    if (rc == 0) {
        printf("%s: %s, modules %d, steps %d, limit %g\n", path,
               r->dtype == BL_F64 ? "float64" : "float32", (int) r->count, (int) r->steps,
               r->dtype == BL_F64 ? LIMIT_F64 : LIMIT_F32);
        rc = create(r) < 0 || start(r) < 0 || run(r) < 0 ? -1 : conclude(r);
    }
    printf("%s: %s\n", path, rc == 0 ? "OK" : "FAIL");

    for (int64_t i = 0; i < r->count; i++) {
        bl_tape_free(r->tapes[i]);
    }
    bl_plan_free(r->plan);
    bl_group_free(r->group);
    bl_safetensors_close(r->file);
    json_decref(r->events);
    free(r->x);
    free(r->y);
    free(r->dx);
    free(r->dy);
    free(r->ref);
    free(r->got);
    free(r);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: golden_replay FILE...\n");
        return 2;
    }
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        failed |= replay_file(argv[i]) < 0;
        fflush(stdout);
    }
    return failed ? 1 : 0;
}
