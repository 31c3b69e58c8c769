/*
 * Adapters of a training that begins with an adapter on disk. c is kept at what the file
 * has, also where --rank adds ranks, so that A and B go in as they are: alpha follows.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "adapters/adapters_specs.h"

static void list_targets(char *text, size_t size, const int chosen[LLAMA_PROJECTIONS])
{
    size_t used = 0;

    text[0] = '\0';
    for (int p = 0; p < LLAMA_PROJECTIONS && used < size; p++) {
        if (chosen[p]) {
            used += (size_t) snprintf(text + used, size - used, "%s%s",
                                      used > 0 ? "," : "", adapters_short_name(p));
        }
    }
}

/* --targets, if given, must be the file's. */
static int check_targets(const struct specs *specs, const struct adapter_start *start,
                         char *error, size_t size)
{
    int  wanted[LLAMA_PROJECTIONS], found[LLAMA_PROJECTIONS] = { 0 };
    int  same = 1;
    char text[128];

    if (start->targets == NULL) {
        return 0;
    }
    if (adapters_parse_targets(wanted, start->targets, error, size) != 0) {
        return -1;
    }
    for (int64_t i = 0; i < specs->count; i++) {
        found[specs->slot[i] % LLAMA_PROJECTIONS] = 1;
    }
    for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
        same = same && wanted[p] == found[p];
    }
    if (!same) {
        list_targets(text, sizeof text, found);
        snprintf(error, size, "--targets %.100s: the adapter in %.150s is for %s",
                 start->targets, start->source.path, text);
        return -1;
    }
    return 0;
}

/* Rank and alpha of one module: c is the file's, 1 where that is 0. */
static int set_scale(bl_spec *spec, double scale, const struct adapter_start *start,
                     int rslora, char *error, size_t size)
{
    int64_t rank = start->rank > 0 ? start->rank : spec->rank;
    int     told = !isnan(scale);
    double  width;

    if (rank < spec->rank) {
        snprintf(error, size,
                 "--rank %" PRId64 ": the adapter in %.150s has rank %" PRId64
                 " in %.100s; ranks can only be added",
                 rank, start->source.path, spec->rank, spec->name);
        return -1;
    }
    if (!told && start->source.alpha == 0) {
        snprintf(error, size,
                 "%.200s has no adapter_config.json: --alpha must say its lora_alpha",
                 start->source.path);
        return -1;
    }
    if (!told) {
        scale = start->source.alpha / (double) spec->rank;
    }
    width = rslora ? sqrt((double) rank) : (double) rank;
    spec->rank = rank;
    spec->alpha = scale != 0 ? scale * width : width;
    if (told && start->source.alpha != 0 &&
        fabs(spec->alpha - start->source.alpha) > 1e-9 * fabs(spec->alpha)) {
        snprintf(error, size,
                 "--alpha %g: with rank %" PRId64
                 " the adapter in %.150s has alpha %g in "
                 "%.100s",
                 start->source.alpha, rank, start->source.path, spec->alpha, spec->name);
        return -1;
    }
    return 0;
}

static int set_options(struct specs *specs, struct adapter_start *start,
                       const bl_peft *peft, bl_options *options, char *error, size_t size)
{
    int rslora = options->scaling == BL_SCALING_RSLORA;

    options->rank = 0;
    for (int64_t i = 0; i < specs->count; i++) {
        bl_spec *spec = &specs->list[i];

        if (set_scale(spec, specs->scale[i], start, rslora, error, size) != 0) {
            return -1;
        }
        if (spec->rank > options->rank) {
            options->rank = spec->rank;
            options->alpha = spec->alpha;
        }
    }
    if (specs->count > 0 && !isnan(specs->scale[0])) {
        start->source.alpha = 0; /* the file has its own, and they agree */
    }
    if (bl_peft_get_method(peft) == BL_METHOD_BEAMLORA) {
        double noted = bl_peft_get_temperature(peft);

        start->assumed = start->source.temperature == 0 && noted == 0;
        if (start->source.temperature == 0) {
            start->source.temperature = noted != 0 ? noted : BL_PUBLISHED_TEMPERATURE;
        }
        if (options->method == BL_METHOD_BEAMLORA) {
            options->temperature = start->source.temperature;
        }
    }
    return 0;
}

static int start_open(struct llama_adapters *out, const struct llama *model,
                      struct adapter_start *start, const bl_peft *peft,
                      bl_options *options, char *error, size_t size)
{
    struct llama_adapters adapters = { NULL, NULL };
    struct specs          specs;
    int                   result = -1;

    if (specs_create(&specs, model, error, size) != 0) {
        return -1;
    }
    if (specs_read(&specs, peft, model, start->source.path, error, size) == 0 &&
        check_targets(&specs, start, error, size) == 0 &&
        set_options(&specs, start, peft, options, error, size) == 0 &&
        specs_group(&adapters, model, &specs, options, error, size) == 0) {
        result = specs_fill(&adapters, model, peft, &start->source, error, size);
    }
    specs_free(&specs);
    if (result != 0) {
        adapters_free(&adapters);
        return -1;
    }
    *out = adapters;
    return 0;
}

int adapters_start(struct llama_adapters *out, const struct llama *model,
                   struct adapter_start *start, bl_options *options, char *error,
                   size_t size)
{
    bl_peft *peft;
    int      result;

    if (bl_peft_open(&peft, start->source.path) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    result = start_open(out, model, start, peft, options, error, size);
    bl_peft_close(peft);
    return result;
}
