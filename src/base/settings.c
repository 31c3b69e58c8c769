/*
 * Every setting of bl_options as a flag. One table says where in the struct a flag goes;
 * the flags write into a scratch copy, and what was given is laid over the preset
 * afterwards, so that the order on the command line does not matter.
 */
#include "base/settings.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum method {
    METHOD_LORA,
    METHOD_RSLORA,
    METHOD_DORA,
    METHOD_ADALORA,
    METHOD_BEAMLORA,
    METHOD_BEAMLORA_DORA,
    METHOD_GLOBAL,
    METHOD_GLOBAL_DORA,
    METHOD_FULL
};

static const char *const methods[] = { "lora",
                                       "rslora",
                                       "dora",
                                       "adalora",
                                       "beamlora",
                                       "beamlora+dora",
                                       "beamlora-global",
                                       "beamlora-global+dora",
                                       "full",
                                       NULL };
static const char *const presets[] = { "paper", "published", "tightening", "global",
                                       NULL };
/* In the order of the enums of beamlora.h: a choice's index is the option's value. */
static const char *const curves[] = { "constant", "linear", "cosine", NULL };
static const char *const scopes[] = { "module", "joint", "global", NULL };
static const char *const crossings[] = { "kept", "pruned", NULL };
static const char *const selects[] = { "lowest", "random", NULL };
static const char *const importances[] = { "score", "contribution", "norm", NULL };
static const char *const expands[] = { "history", "current", "fresh", "none", NULL };
static const char *const moments[] = { "copy", "keep", "zero", NULL };
static const char *const pairings[] = { "shuffled", "ordered", NULL };
static const char *const history_dtypes[] = { "f32", "bf16", NULL };
static const char *const transfers[] = { "mean", "preserve", NULL };

_Static_assert(BL_PRESET_GLOBAL == 3 && BL_CURVE_COSINE == 2 && BL_SCOPE_GLOBAL == 2 &&
                   BL_CROSSING_PRUNED == 1 && BL_SELECT_RANDOM == 1 &&
                   BL_IMPORTANCE_NORM == 2 && BL_EXPAND_NONE == 3 &&
                   BL_MOMENTS_ZERO == 2 && BL_PAIRING_ORDERED == 1 &&
                   BL_TRANSFER_PRESERVE == 1,
               "choices are in the order of the library's enums");

/* Which methods a setting has an effect with. */
enum reach { ALL, ADAPTERS, SCORES, BEAMLORA, ADALORA };

struct row {
    const char        *name;
    enum flag_type     type;
    enum reach         reach;
    size_t             offset; /* in bl_options */
    const char        *help;
    const char *const *choices;
    double             low, high;
};

#define AT(field) offsetof(bl_options, field)
#define HEADING(text)                                                                    \
    {                                                                                    \
        text, FLAG_HEADING, ALL, 0, NULL, NULL, 0, 0                                     \
    }
#define ANY -INFINITY, INFINITY
#define FROM(low) low, INFINITY
#define CHOICE 0, 0

static const struct row rows[] = {
    HEADING("Adapters"),
    { "rank", FLAG_INTEGER, ADAPTERS, AT(rank), "of every adapter, AdaLoRA: at first (8)",
      NULL, FROM(1) },
    { "capacity", FLAG_INTEGER, BEAMLORA, AT(capacity),
      "most ranks of an adapter (0: where they move, 2 * rank)", NULL, FROM(0) },
    { "alpha", FLAG_REAL, ADAPTERS, AT(alpha), "scaling numerator (2 * rank)", NULL,
      ANY },
    { "dropout", FLAG_REAL, ADAPTERS, AT(dropout),
      "on the adapters' input, in [0, 1) (0)", NULL, FROM(0) },
    { "seed", FLAG_UNSIGNED, ALL, AT(seed), "of weights, batches, dropout, pairing (0)",
      NULL, ANY },
    { "temperature", FLAG_REAL, BEAMLORA, AT(temperature),
      "of the scores' softmax (0: by lr, 0.03 or 0.05)", NULL, FROM(0) },

    HEADING("Optimizer (AdamW)"),
    { "lr", FLAG_REAL, ALL, AT(lr), "peak learning rate (1e-3)", NULL, FROM(0) },
    { "weight-decay", FLAG_REAL, ALL, AT(weight_decay), "decoupled, per unit of lr (0)",
      NULL, FROM(0) },
    { "beta1", FLAG_REAL, ALL, AT(beta1), "in [0, 1) (0.9)", NULL, FROM(0) },
    { "beta2", FLAG_REAL, ALL, AT(beta2), "in [0, 1) (0.999)", NULL, FROM(0) },
    { "epsilon", FLAG_REAL, ALL, AT(epsilon), "above 0 (1e-8)", NULL, FROM(0) },
    { "b-lr-ratio", FLAG_REAL, ADAPTERS, AT(b_lr_ratio), "lr of B over that of A (1)",
      NULL, FROM(0) },
    { "score-lr-ratio", FLAG_REAL, SCORES, AT(score_lr_ratio),
      "lr of the scores, AdaLoRA's E, over A's (1)", NULL, FROM(0) },

    HEADING("AdaLoRA's budget of ranks"),
    { "target-rank", FLAG_INTEGER, ADALORA, AT(target_rank),
      "mean rank that is left (0: 2/3 of rank)", NULL, FROM(0) },
    { "tinit", FLAG_INTEGER, ADALORA, AT(tinit), "steps before the first mask (0)", NULL,
      FROM(0) },
    { "tfinal", FLAG_INTEGER, ADALORA, AT(tfinal), "steps after the last mask (0)", NULL,
      FROM(0) },
    { "delta-t", FLAG_INTEGER, ADALORA, AT(delta_t), "steps between two masks (1)", NULL,
      FROM(1) },
    { "sensitivity-beta", FLAG_REAL, ADALORA, AT(sensitivity_beta),
      "of its average, in (0, 1) (0.85)", NULL, 0, 1 },
    { "uncertainty-beta", FLAG_REAL, ADALORA, AT(uncertainty_beta), "the same (0.85)",
      NULL, 0, 1 },
    { "orth-reg-weight", FLAG_REAL, ADALORA, AT(orth_reg_weight),
      "of the orthogonality penalty (0.5)", NULL, FROM(0) },

    HEADING("Reallocation: when, and how much is kept (defaults are the preset's)"),
    { "period", FLAG_INTEGER, BEAMLORA, AT(period),
      "T, steps between two (0: steps / 12)", NULL, FROM(0) },
    { "start", FLAG_INTEGER, BEAMLORA, AT(start), "none until after this step", NULL,
      FROM(0) },
    { "p-start", FLAG_REAL, BEAMLORA, AT(p_start),
      "share of importance kept at first, in (0, 1]", NULL, 0, 1 },
    { "p-end", FLAG_REAL, BEAMLORA, AT(p_end), "the same at the end", NULL, 0, 1 },
    { "p-curve", FLAG_CHOICE, BEAMLORA, AT(p_curve), "between the two", curves, CHOICE },
    { "p-steps", FLAG_INTEGER, BEAMLORA, AT(p_steps), "its length (0: 2/3 of the steps)",
      NULL, FROM(0) },

    HEADING("Reallocation: which ranks go (defaults are the preset's)"),
    { "scope", FLAG_CHOICE, BEAMLORA, AT(scope),
      "rank them by module, all at once, or move them too", scopes, CHOICE },
    { "budget", FLAG_INTEGER, BEAMLORA, AT(budget),
      "most parameters of all ranks (0: those at first)", NULL, FROM(0) },
    { "crossing", FLAG_CHOICE, BEAMLORA, AT(crossing),
      "the rank at which the sum exceeds p", crossings, CHOICE },
    { "importance", FLAG_CHOICE, BEAMLORA, AT(importance),
      "g, g |b| |a| over the module's mean, or as it is", importances, CHOICE },
    { "select", FLAG_CHOICE, BEAMLORA, AT(selection), "prune the lowest, or at random",
      selects, CHOICE },
    { "fixed-count", FLAG_INTEGER, BEAMLORA, AT(fixed_count),
      "prune so many a module (0: by p)", NULL, FROM(0) },
    { "max-prune-fraction", FLAG_REAL, BEAMLORA, AT(max_prune_fraction),
      "of a module's ranks at once", NULL, 0, 1 },
    { "idle", FLAG_REAL, BEAMLORA, AT(idle), "only below this share of the mean (0: all)",
      NULL, FROM(0) },

    HEADING("Reallocation: what becomes of them (defaults are the preset's)"),
    { "expand", FLAG_CHOICE, BEAMLORA, AT(expand), "what they become", expands, CHOICE },
    { "moments", FLAG_CHOICE, BEAMLORA, AT(moments), "of AdamW", moments, CHOICE },
    { "pairing", FLAG_CHOICE, BEAMLORA, AT(pairing), "of pruned ranks and sources",
      pairings, CHOICE },
    { "score-transfer", FLAG_CHOICE, BEAMLORA, AT(transfer), "what both scores become",
      transfers, CHOICE },
    { "history-depth", FLAG_INTEGER, BEAMLORA, AT(history_depth), "snapshots held", NULL,
      FROM(1) },
    { "history-interval", FLAG_INTEGER, BEAMLORA, AT(history_interval),
      "steps between two (0: T)", NULL, FROM(0) },
    { "history-phase", FLAG_INTEGER, BEAMLORA, AT(history_phase),
      "their offset in steps (-1: T / 2 + 1)", NULL, FROM(-1) },
    { "history-age", FLAG_INTEGER, BEAMLORA, AT(history_age),
      "wanted age in steps (-1: T / 2 - 1)", NULL, FROM(-1) },
};

#define ROWS ((int) (sizeof rows / sizeof rows[0]))
#define OWN 5 /* flags that are not in the table */

_Static_assert(sizeof rows / sizeof rows[0] + OWN <= SETTINGS_FLAGS,
               "SETTINGS_FLAGS is large enough");

static size_t value_bytes(enum flag_type type)
{
    return type == FLAG_CHOICE ? sizeof(int32_t) : 8;
}

_Static_assert(sizeof(double) == 8, "reals and 64-bit integers are copied alike");

int settings_flags(struct settings *settings, struct flag *flags, int room)
{
    const struct flag own[OWN] = {
        { "Method", FLAG_HEADING, NULL, NULL, NULL, 0, 0, 0, 0 },
        { "method", FLAG_CHOICE, &settings->method, "how to adapt (beamlora)", methods, 0,
          0, 0, 0 },
        { "preset", FLAG_CHOICE, &settings->preset,
          "settings that are not given (paper, or the method's)", presets, 0, 0, 0, 0 },
        { "no-reallocation", FLAG_SWITCH, &settings->no_reallocation,
          "scores only, ranks stay what they are", NULL, 0, 0, 0, 0 },
        { "history-dtype", FLAG_CHOICE, &settings->history_dtype,
          "of snapshots; bf16: half the memory (f32)", history_dtypes, 0, 0, 0, 0 },
    };
    int count = 0;

    settings->method = METHOD_BEAMLORA;
    settings->preset = BL_PRESET_PAPER;
    settings->no_reallocation = 0;
    settings->history_dtype = 0;
    bl_options_init(&settings->values, sizeof settings->values);
    settings->values.lr = 1e-3;

    for (int i = 0; i < OWN - 1 && count < room; i++) {
        flags[count++] = own[i];
    }
    for (int i = 0; i < ROWS && count < room; i++) {
        const struct row *row = &rows[i];

        flags[count++] = (struct flag){ .name = row->name,
                                        .type = row->type,
                                        .value = (char *) &settings->values + row->offset,
                                        .help = row->help,
                                        .choices = row->choices,
                                        .low = row->low,
                                        .high = row->high };
    }
    if (count < room) {
        flags[count++] = own[OWN - 1]; /* beside the history's others */
    }
    return count;
}

static const struct row *find_row(const char *name)
{
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].type != FLAG_HEADING && strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

static int is_global(const struct settings *settings)
{
    return settings->method == METHOD_GLOBAL || settings->method == METHOD_GLOBAL_DORA;
}

static int is_beamlora(const struct settings *settings)
{
    return settings->method == METHOD_BEAMLORA ||
           settings->method == METHOD_BEAMLORA_DORA || is_global(settings);
}

static int has_dora(const struct settings *settings)
{
    return settings->method == METHOD_DORA || settings->method == METHOD_BEAMLORA_DORA ||
           settings->method == METHOD_GLOBAL_DORA;
}

static int has_effect(const struct settings *settings, enum reach reach)
{
    switch (reach) {
    case ADAPTERS:
        return settings->method != METHOD_FULL;
    case SCORES:
        return is_beamlora(settings) || settings->method == METHOD_ADALORA;
    case BEAMLORA:
        return is_beamlora(settings);
    case ADALORA:
        return settings->method == METHOD_ADALORA;
    default:
        return 1;
    }
}

static void tell_idle_flags(const struct settings *settings, const struct flag *flags,
                            int count)
{
    for (int i = 0; i < count; i++) {
        const struct row *row = flags[i].given ? find_row(flags[i].name) : NULL;
        enum reach        reach = row != NULL ? row->reach : ALL;

        if (flags[i].given && (flags[i].value == &settings->preset ||
                               flags[i].value == &settings->no_reallocation ||
                               flags[i].value == &settings->history_dtype)) {
            reach = BEAMLORA;
        }
        if (settings->starts && row != NULL && row->offset == AT(temperature)) {
            reach = ADAPTERS;
        }
        if (!has_effect(settings, reach)) {
            complain("note: --%s has no effect with --method %s", flags[i].name,
                     settings_method_name(settings));
        }
    }
}

/* As given, or what suits the method. */
static int32_t preset_of(const struct settings *settings, const struct flag *flags,
                         int count)
{
    for (int i = 0; i < count; i++) {
        if (flags[i].given && flags[i].value == &settings->preset) {
            return settings->preset;
        }
    }
    return is_global(settings) ? BL_PRESET_GLOBAL : BL_PRESET_PAPER;
}

int settings_apply(struct settings *settings, const struct flag *flags, int count,
                   int64_t steps, bl_options *out, char *error, size_t size)
{
    const char *given = (const char *) &settings->values;
    int         alpha_given = 0, scope_given = 0;

    settings->preset = preset_of(settings, flags, count);
    if (bl_options_init(out, sizeof *out) != 0 ||
        bl_options_preset(out, settings->preset) != 0) {
        snprintf(error, size, "%s", bl_last_error());
        return -1;
    }
    for (int i = 0; i < count; i++) {
        const struct row *row = flags[i].given ? find_row(flags[i].name) : NULL;

        if (row != NULL) {
            memcpy((char *) out + row->offset, given + row->offset,
                   value_bytes(row->type));
            alpha_given |= row->offset == AT(alpha);
            scope_given |= row->offset == AT(scope);
        }
    }
    if (!alpha_given) {
        out->alpha = 2.0 * (double) out->rank;
    }
    out->lr = settings->values.lr; /* the presets do not know ours */
    out->total_steps = steps;
    out->scaling =
        settings->method == METHOD_RSLORA ? BL_SCALING_RSLORA : BL_SCALING_STANDARD;
    out->dora = has_dora(settings);
    out->history_dtype = settings->history_dtype == 1 ? BL_BF16 : 0;
    if (is_global(settings) && out->scope != BL_SCOPE_GLOBAL) {
        if (scope_given) {
            snprintf(error, size, "--scope %s contradicts --method %s",
                     scopes[out->scope], settings_method_name(settings));
            return -1;
        }
        out->scope = BL_SCOPE_GLOBAL; /* with the preset of another scope */
    }
    if (is_beamlora(settings)) {
        out->method = BL_METHOD_BEAMLORA;
        out->reallocation = !settings->no_reallocation;
    } else {
        out->method =
            settings->method == METHOD_ADALORA ? BL_METHOD_ADALORA : BL_METHOD_LORA;
        out->reallocation = 0;
    }
    tell_idle_flags(settings, flags, count);
    return 0;
}

const char *settings_method_name(const struct settings *settings)
{
    return methods[settings->method];
}

int settings_is_full(const struct settings *settings)
{
    return settings->method == METHOD_FULL;
}

static json_t *option_value(const struct row *row, const bl_options *options)
{
    const char *at = (const char *) options + row->offset;
    int64_t     integer;
    int32_t     choice;
    double      real;

    if (row->type == FLAG_CHOICE) {
        memcpy(&choice, at, sizeof choice);
        return json_string(row->choices[choice]);
    }
    if (row->type == FLAG_REAL) {
        memcpy(&real, at, sizeof real);
        return isfinite(real) ? json_real(real) : json_null();
    }
    memcpy(&integer, at, sizeof integer);
    return json_integer(integer);
}

void settings_resolved(const struct settings *settings, const bl_options *options,
                       json_t *object)
{
    for (int i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];

        /* the seed, 64 bits without a sign, is as it was given */
        if (row->type == FLAG_HEADING || row->type == FLAG_UNSIGNED) {
            continue;
        }
        json_object_set_new(object, row->name,
                            has_effect(settings, row->reach) ? option_value(row, options)
                                                             : json_null());
    }
    json_object_set_new(object, "preset", json_string(presets[settings->preset]));
    json_object_set_new(object, "history-dtype",
                        json_string(history_dtypes[settings->history_dtype]));
    if (!is_beamlora(settings)) {
        json_object_set_new(object, "history-dtype", json_null());
        json_object_set_new(object, "preset", json_null());
        json_object_set_new(object, "no-reallocation", json_null());
    }
}
