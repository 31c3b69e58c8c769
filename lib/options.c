/*
 * Options and specs: reading structs of another size, ranges, the (auto) values, the
 * presets, and the list of settings that a resumed run must share. A struct's first
 * field is its size as the caller knows it; new fields are only added at the end.
 */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "internal.h"

/* The layout is the ABI: a failure here is a new SONAME or a mistake. */
_Static_assert(sizeof(void *) == 8, "libbeamlora is made for 64-bit platforms");
_Static_assert(sizeof(bl_options) == 440, "bl_options");
_Static_assert(offsetof(bl_options, seed) == 64, "bl_options");
_Static_assert(offsetof(bl_options, dora) == 72, "bl_options");
_Static_assert(offsetof(bl_options, total_steps) == 136, "bl_options");
_Static_assert(offsetof(bl_options, scope) == 192, "bl_options");
_Static_assert(offsetof(bl_options, expand) == 240, "bl_options");
_Static_assert(offsetof(bl_options, parallel_for) == 288, "bl_options");
_Static_assert(offsetof(bl_options, base) == 352, "bl_options");
_Static_assert(offsetof(bl_options, target_rank) == 376, "bl_options");
_Static_assert(sizeof(bl_spec) == 88, "bl_spec");
_Static_assert(offsetof(bl_spec, base) == 64, "bl_spec");
_Static_assert(sizeof(bl_memory) == 80, "bl_memory");
_Static_assert(sizeof(bl_view) == 40, "bl_view");
_Static_assert(sizeof(bl_array) == BL_NAME_MAX + 32, "bl_array");

static const size_t first_options_size = 440; /* of release 0.1 */
static const size_t first_spec_size = 88;

/* Steps beyond this would not be exact as a double. */
static const int64_t largest_step = (int64_t) 1 << 53;

int bl_options_init(bl_options *opt, size_t size)
{
    if (opt == NULL) {
        return bl__fail(BL_E_ARG, "opt is NULL");
    }
    if (size < first_options_size) {
        return bl__fail(BL_E_OPTIONS, "size is %zu, must be at least %zu", size,
                        first_options_size);
    }
    bl_options defaults = {
        .size = size,
        .method = BL_METHOD_BEAMLORA,
        .rank = 8,
        .alpha = 16,
        .reallocation = 1,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .epsilon = 1e-8,
        .b_lr_ratio = 1,
        .score_lr_ratio = 1,
        .delta_t = 1,
        .sensitivity_beta = 0.85,
        .uncertainty_beta = 0.85,
        .orth_reg_weight = 0.5,
    };
    bl_options_preset(&defaults, BL_PRESET_PAPER);
    memset(opt, 0, size);
    memcpy(opt, &defaults, size < sizeof defaults ? size : sizeof defaults);
    opt->size = size;
    return 0;
}

int bl_options_preset(bl_options *opt, int32_t preset)
{
    if (opt == NULL) {
        return bl__fail(BL_E_ARG, "opt is NULL");
    }
    if (preset < BL_PRESET_PAPER || preset > BL_PRESET_GLOBAL) {
        return bl__fail(BL_E_RANGE, "preset is %d, must be in [%d, %d]", (int) preset,
                        BL_PRESET_PAPER, BL_PRESET_GLOBAL);
    }
    const int published = preset == BL_PRESET_PUBLISHED;
    const int tightening = preset == BL_PRESET_TIGHTENING;
    const int global = preset == BL_PRESET_GLOBAL;
    opt->temperature = 0;
    opt->period = 0;
    opt->start = 0;
    opt->p_start = tightening ? 1 : 0.95;
    opt->p_end = tightening ? 0.95 : 1;
    opt->p_curve = BL_CURVE_COSINE;
    opt->p_steps = 0;
    opt->scope = global ? BL_SCOPE_GLOBAL : published ? BL_SCOPE_JOINT : BL_SCOPE_MODULE;
    opt->crossing = published ? BL_CROSSING_PRUNED : BL_CROSSING_KEPT;
    opt->importance = global ? BL_IMPORTANCE_NORM : BL_IMPORTANCE_SCORE;
    opt->selection = BL_SELECT_LOWEST;
    opt->max_prune_fraction = published ? 1 : 0.5;
    opt->expand = BL_EXPAND_HISTORY;
    opt->moments = published ? BL_MOMENTS_KEEP : BL_MOMENTS_COPY;
    opt->pairing = BL_PAIRING_SHUFFLED;
    opt->transfer = global ? BL_TRANSFER_PRESERVE : BL_TRANSFER_MEAN;
    opt->history_depth = 1;
    opt->history_interval = 0;
    opt->history_phase = -1;
    opt->history_age = -1;
    opt->b_lr_ratio = 1;
    opt->score_lr_ratio = global ? 0.03 : 1;
    return 0;
}

/* Copy a struct that begins with its size into ours of `size` bytes, which holds
 * defaults: a shorter one leaves the rest, a longer one must end in zeros. */
static int read_struct(void *ours, size_t size, const void *theirs, size_t first_size,
                       const char *name)
{
    size_t given;
    memcpy(&given, theirs, sizeof given);
    if (given < first_size) {
        return bl__fail(BL_E_OPTIONS,
                        "%s's size is %zu, must be at least %zu: was it "
                        "initialised?",
                        name, given, first_size);
    }
    const unsigned char *bytes = theirs;
    for (size_t i = size; i < given; i++) {
        if (bytes[i] != 0) {
            return bl__fail(BL_E_OPTIONS,
                            "%s asks for something this version does not know (byte %zu)",
                            name, i);
        }
    }
    memcpy(ours, theirs, given < size ? given : size);
    memcpy(ours, &size, sizeof size);
    return 0;
}

/* ----- ranges ----- */

static int check_choice(const char *name, int32_t value, int32_t last)
{
    if (value < 0 || value > last) {
        return bl__fail(BL_E_RANGE, "%s is %d, must be in [0, %d]", name, (int) value,
                        (int) last);
    }
    return 0;
}

static int check_integer(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value < low || value > high) {
        return bl__fail(BL_E_RANGE, "%s is %lld, must be in [%lld, %lld]", name,
                        (long long) value, (long long) low, (long long) high);
    }
    return 0;
}

/* low <= value <= high, or < high if `open` */
static int check_real(const char *name, double value, double low, double high, int open)
{
    if (!(value >= low && (open ? value < high : value <= high))) {
        return bl__fail(BL_E_RANGE, "%s is %g, must be in [%g, %g%c", name, value, low,
                        high, open ? ')' : ']');
    }
    return 0;
}

static int check_adapter_options(const bl_options *o)
{
    int rc;
    if ((rc = check_choice("method", o->method, BL_METHOD_ADALORA)) != 0 ||
        (rc = check_choice("scaling", o->scaling, BL_SCALING_RSLORA)) != 0 ||
        (rc = check_integer("rank", o->rank, 1, INT_MAX)) != 0 ||
        (rc = check_integer("capacity", o->capacity, 0, INT_MAX)) != 0 ||
        (rc = check_real("alpha", o->alpha, -1e30, 1e30, 0)) != 0 ||
        (rc = check_real("dropout", o->dropout, 0, 1, 1)) != 0 ||
        (rc = check_real("temperature", o->temperature, 0, 1e300, 0)) != 0 ||
        (rc = check_choice("parameter_dtype", o->parameter_dtype, BL_F64)) != 0 ||
        (rc = check_choice("activation_dtype", o->activation_dtype, BL_F64)) != 0 ||
        (rc = check_choice("dora", o->dora, 1)) != 0) {
        return rc;
    }
    if (o->activation_dtype != o->parameter_dtype) {
        return bl__fail(BL_E_OPTIONS,
                        "activation_dtype is %d, must equal parameter_dtype (%d) in this "
                        "version",
                        (int) o->activation_dtype, (int) o->parameter_dtype);
    }
    if ((o->alloc == NULL) != (o->free == NULL)) {
        return bl__fail(BL_E_OPTIONS, "alloc and free go together: one of them is NULL");
    }
    const void *const given[] = { o->parameters, o->gradients, o->moments_mv };
    const char *const names[] = { "parameters", "gradients", "moments_mv" };
    for (int i = 0; i < 3; i++) {
        if ((uintptr_t) given[i] % BL__ALIGNMENT != 0) {
            return bl__fail(BL_E_ARG, "%s is not aligned to %zu bytes", names[i],
                            BL__ALIGNMENT);
        }
    }
    return 0;
}

static int check_optimizer_options(const bl_options *o)
{
    int rc;
    if ((rc = check_choice("optimizer", o->optimizer, BL_OPTIMIZER_HOST)) != 0 ||
        (rc = check_choice("reallocation", o->reallocation, 1)) != 0 ||
        (rc = check_real("lr", o->lr, 0, 1e300, 0)) != 0 ||
        (rc = check_real("beta1", o->beta1, 0, 1, 1)) != 0 ||
        (rc = check_real("beta2", o->beta2, 0, 1, 1)) != 0 ||
        (rc = check_real("epsilon", o->epsilon, 1e-37, 1e30, 0)) != 0 ||
        (rc = check_real("weight_decay", o->weight_decay, 0, 1e300, 0)) != 0 ||
        (rc = check_real("b_lr_ratio", o->b_lr_ratio, 0, 1e300, 0)) != 0 ||
        (rc = check_real("score_lr_ratio", o->score_lr_ratio, 0, 1e300, 0)) != 0) {
        return rc;
    }
    return 0;
}

static int check_adalora_options(const bl_options *o)
{
    int rc;
    if ((rc = check_integer("target_rank", o->target_rank, 0, INT_MAX)) != 0 ||
        (rc = check_integer("tinit", o->tinit, 0, largest_step)) != 0 ||
        (rc = check_integer("tfinal", o->tfinal, 0, largest_step)) != 0 ||
        (rc = check_integer("delta_t", o->delta_t, 1, largest_step)) != 0 ||
        (rc = check_real("sensitivity_beta", o->sensitivity_beta, 1e-300, 1, 1)) != 0 ||
        (rc = check_real("uncertainty_beta", o->uncertainty_beta, 1e-300, 1, 1)) != 0 ||
        (rc = check_real("orth_reg_weight", o->orth_reg_weight, 0, 1e30, 0)) != 0) {
        return rc;
    }
    return 0;
}

static int check_schedule_options(const bl_options *o)
{
    int rc;
    if ((rc = check_integer("total_steps", o->total_steps, 0, largest_step)) != 0 ||
        (rc = check_integer("period", o->period, 0, largest_step)) != 0 ||
        (rc = check_integer("start", o->start, 0, largest_step)) != 0 ||
        (rc = check_real("p_start", o->p_start, 1e-300, 1, 0)) != 0 ||
        (rc = check_real("p_end", o->p_end, 1e-300, 1, 0)) != 0 ||
        (rc = check_choice("p_curve", o->p_curve, BL_CURVE_COSINE)) != 0 ||
        (rc = check_integer("p_steps", o->p_steps, 0, largest_step)) != 0 ||
        (rc = check_choice("scope", o->scope, BL_SCOPE_GLOBAL)) != 0 ||
        (rc = check_choice("crossing", o->crossing, BL_CROSSING_PRUNED)) != 0 ||
        (rc = check_choice("importance", o->importance, BL_IMPORTANCE_NORM)) != 0 ||
        (rc = check_choice("selection", o->selection, BL_SELECT_RANDOM)) != 0 ||
        (rc = check_integer("fixed_count", o->fixed_count, 0, INT_MAX)) != 0 ||
        (rc = check_real("max_prune_fraction", o->max_prune_fraction, 0, 1, 0)) != 0 ||
        (rc = check_real("idle", o->idle, 0, 1e300, 0)) != 0 ||
        (rc = check_integer("budget", o->budget, 0, INT64_MAX)) != 0 ||
        (rc = check_choice("expand", o->expand, BL_EXPAND_NONE)) != 0 ||
        (rc = check_choice("moments", o->moments, BL_MOMENTS_ZERO)) != 0 ||
        (rc = check_choice("pairing", o->pairing, BL_PAIRING_ORDERED)) != 0 ||
        (rc = check_choice("transfer", o->transfer, BL_TRANSFER_PRESERVE)) != 0 ||
        (rc = check_integer("history_depth", o->history_depth, 1, 1 << 20)) != 0 ||
        (rc = check_integer("history_interval", o->history_interval, 0, largest_step)) !=
            0 ||
        (rc = check_integer("history_phase", o->history_phase, -1, largest_step)) != 0 ||
        (rc = check_integer("history_age", o->history_age, -1, largest_step)) != 0) {
        return rc;
    }
    const int narrow = o->history_dtype == BL_BF16 && o->parameter_dtype == BL_F32;
    if (o->history_dtype != 0 && o->history_dtype != o->parameter_dtype && !narrow) {
        return bl__fail(BL_E_OPTIONS,
                        "history_dtype is %d, must be 0, parameter_dtype (%d), or with "
                        "BL_F32 also BL_BF16",
                        (int) o->history_dtype, (int) o->parameter_dtype);
    }
    return check_choice("reserved", o->reserved, 0);
}

int bl__options_read(bl_options *out, const bl_options *opt)
{
    bl_options_init(out, sizeof *out);
    int rc = opt == NULL
                 ? 0
                 : read_struct(out, sizeof *out, opt, first_options_size, "bl_options");
    if (rc == 0) {
        rc = check_adapter_options(out);
    }
    if (rc == 0) {
        rc = check_optimizer_options(out);
    }
    if (rc == 0) {
        rc = check_schedule_options(out);
    }
    if (rc == 0) {
        rc = check_adalora_options(out);
    }
    return rc;
}

static int resolve_adalora(bl_options *o)
{
    if (o->scaling != BL_SCALING_STANDARD) {
        return bl__fail(BL_E_OPTIONS, "scaling is %d: AdaLoRA has its own, must be %d",
                        (int) o->scaling, BL_SCALING_STANDARD);
    }
    if (o->total_steps == 0) {
        return bl__fail(BL_E_OPTIONS,
                        "total_steps is 0: AdaLoRA's budget needs the number "
                        "of training steps");
    }
    if (o->tinit >= o->total_steps - o->tfinal) {
        return bl__fail(BL_E_OPTIONS,
                        "would never allocate: tinit is %lld, must be less than "
                        "total_steps - tfinal (%lld - %lld)",
                        (long long) o->tinit, (long long) o->total_steps,
                        (long long) o->tfinal);
    }
    return 0;
}

/* Ranks come and go in every module, within a budget for all of them. */
static int moves_ranks(const bl_options *o)
{
    return o->method == BL_METHOD_BEAMLORA && o->reallocation &&
           o->scope == BL_SCOPE_GLOBAL;
}

int bl__options_resolve(bl_options *o, int64_t largest_rank, int64_t cost, int64_t growth)
{
    if (o->history_dtype == 0) {
        o->history_dtype = o->parameter_dtype;
    }
    if (moves_ranks(o) && o->budget == 0) {
        o->budget = cost;
    }
    if (o->budget > 0 && o->budget < cost) {
        return bl__fail(BL_E_OPTIONS,
                        "budget is %lld, must be at least what the ranks cost at first "
                        "(%lld)",
                        (long long) o->budget, (long long) cost);
    }
    if (o->temperature == 0) {
        o->temperature = o->lr > 0 && o->lr < 1e-4 ? 0.03 : 0.05;
    }
    if (o->method != BL_METHOD_BEAMLORA) {
        o->reallocation = 0;
    }
    if (o->method == BL_METHOD_ADALORA) {
        return resolve_adalora(o);
    }
    if (!o->reallocation) {
        return 0;
    }
    if (o->total_steps == 0) {
        return bl__fail(BL_E_OPTIONS,
                        "total_steps is 0: the schedule needs the number of "
                        "training steps, or reallocation 0");
    }
    if (o->period == 0) {
        o->period = o->total_steps / 12 < 3 ? 3 : o->total_steps / 12;
    }
    if (o->p_steps == 0) {
        o->p_steps = 2 * o->total_steps / 3 < 1 ? 1 : 2 * o->total_steps / 3;
    }
    if (o->history_interval == 0) {
        o->history_interval = o->period;
    }
    if (o->history_phase == -1) {
        o->history_phase = o->period / 2 + 1;
    }
    if (o->history_age == -1) {
        o->history_age = o->period / 2 - 1 < 0 ? 0 : o->period / 2 - 1;
    }
    const int room = moves_ranks(o) && o->expand != BL_EXPAND_NONE && growth > 0 &&
                     o->budget - cost >= growth;
    return bl__schedule_check(o, largest_rank, room);
}

/* How many ranks a spec has room for; by default as many as it begins with, or where
 * ranks move between modules twice as many. */
static int64_t spec_capacity(const bl_spec *spec, const bl_options *o)
{
    if (spec->capacity != 0) {
        return spec->capacity;
    }
    if (o->capacity != 0) {
        return o->capacity;
    }
    return moves_ranks(o) && spec->rank <= INT_MAX / 2 ? 2 * spec->rank : spec->rank;
}

int bl__spec_read(bl_spec *out, const bl_spec *specs, int64_t index,
                  const bl_options *options)
{
    size_t stride;
    memcpy(&stride, specs, sizeof stride);
    const char *const at = (const char *) specs + (size_t) index * stride;
    memset(out, 0, sizeof *out);
    int rc = read_struct(out, sizeof *out, at, first_spec_size, "bl_spec");
    if (rc != 0) {
        return rc;
    }
    size_t size;
    memcpy(&size, at, sizeof size);
    if (size != stride) {
        return bl__fail(BL_E_OPTIONS,
                        "spec %lld's size is %zu, must equal the first's "
                        "(%zu)",
                        (long long) index, size, stride);
    }
    if (out->rank == 0) {
        out->rank = options->rank;
    }
    if (out->alpha == 0) {
        out->alpha = options->alpha;
    }
    out->capacity = spec_capacity(out, options);
    if (out->base == NULL) {
        out->base = options->base;
    }
    if (out->base_rows == NULL) {
        out->base_rows = options->base_rows;
    }
    if (out->ldbase == 0) {
        out->ldbase = options->ldbase == 0 ? out->in_features : options->ldbase;
    }
    if ((rc = check_integer("in_features", out->in_features, 1, INT_MAX)) != 0 ||
        (rc = check_integer("out_features", out->out_features, 1, INT_MAX)) != 0 ||
        (rc = check_integer("rank", out->rank, 1, INT_MAX)) != 0 ||
        (rc = check_integer("capacity", out->capacity, out->rank,
                            options->method == BL_METHOD_ADALORA ? out->rank
                                                                 : INT_MAX)) != 0 ||
        (rc = check_real("alpha", out->alpha, -1e30, 1e30, 0)) != 0 ||
        (rc = check_choice("frozen", out->frozen, 1)) != 0 ||
        (rc = check_choice("reserved", out->reserved, 0)) != 0) {
        return rc;
    }
    if (options->dora && out->base == NULL && out->base_rows == NULL) {
        return bl__fail(BL_E_OPTIONS,
                        "spec %lld has no base: with dora it wants W0, as base or as "
                        "base_rows",
                        (long long) index);
    }
    if (options->dora && out->base_rows == NULL &&
        (rc = check_integer("ldbase", out->ldbase, out->in_features, INT_MAX)) != 0) {
        return rc;
    }
    if (out->name != NULL &&
        (out->name[0] == '\0' || strlen(out->name) >= BL__NAME_BYTES)) {
        return bl__fail(BL_E_RANGE, "name of spec %lld has %zu bytes, must be 1 to %d",
                        (long long) index, strlen(out->name), BL__NAME_BYTES - 1);
    }
    return 0;
}

/* ----- what a resumed run must share ----- */

enum kind { INTEGER32, INTEGER64, REAL };

struct setting {
    const char *name;
    size_t      offset;
    enum kind   kind;
};

#define SETTING(field, kind)                                                             \
    {                                                                                    \
#field, offsetof(bl_options, field), kind                                        \
    }

static const struct setting settings[] = {
    SETTING(method, INTEGER32),
    SETTING(scaling, INTEGER32),
    SETTING(dora, INTEGER32),
    SETTING(dropout, REAL),
    SETTING(optimizer, INTEGER32),
    SETTING(reallocation, INTEGER32),
    SETTING(total_steps, INTEGER64),
    SETTING(period, INTEGER64),
    SETTING(start, INTEGER64),
    SETTING(p_start, REAL),
    SETTING(p_end, REAL),
    SETTING(p_curve, INTEGER32),
    SETTING(scope, INTEGER32),
    SETTING(p_steps, INTEGER64),
    SETTING(crossing, INTEGER32),
    SETTING(importance, INTEGER32),
    SETTING(selection, INTEGER32),
    SETTING(fixed_count, INTEGER64),
    SETTING(max_prune_fraction, REAL),
    SETTING(idle, REAL),
    SETTING(budget, INTEGER64),
    SETTING(expand, INTEGER32),
    SETTING(moments, INTEGER32),
    SETTING(pairing, INTEGER32),
    SETTING(transfer, INTEGER32),
    SETTING(history_depth, INTEGER64),
    SETTING(history_interval, INTEGER64),
    SETTING(history_phase, INTEGER64),
    SETTING(history_age, INTEGER64),
    SETTING(target_rank, INTEGER64),
    SETTING(tinit, INTEGER64),
    SETTING(tfinal, INTEGER64),
    SETTING(delta_t, INTEGER64),
    SETTING(sensitivity_beta, REAL),
    SETTING(uncertainty_beta, REAL),
    SETTING(orth_reg_weight, REAL),
};

int64_t bl__settings_count(void)
{
    return (int64_t) (sizeof settings / sizeof settings[0]);
}

const char *bl__settings_name(int64_t index)
{
    return settings[index].name;
}

double bl__settings_value(const bl_options *options, int64_t index)
{
    const char *const at = (const char *) options + settings[index].offset;
    int32_t           narrow;
    int64_t           wide;
    double            real;
    switch (settings[index].kind) {
    case INTEGER32:
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    case INTEGER64:
        memcpy(&wide, at, sizeof wide);
        return (double) wide;
    default:
        memcpy(&real, at, sizeof real);
        return real;
    }
}
