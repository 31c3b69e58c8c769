/* Which ranks are the best, and masks on the others; see keep_ranks.h. */
#define _POSIX_C_SOURCE 200809L

#include "adapters/keep_ranks.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beamlora.h"
#include "model/llama.h"
#include "base/program.h"
#include "view/run_read.h"

/* The log has nine digits, and folding rounds to single precision. */
#define SAME_NORM 1e-4

const char *const keep_by_names[] = { "importance", "norm", NULL };
const char *const keep_scope_names[] = { "module", "joint", NULL };

/* ===== What to keep ======================================================= */

static const char *const kinds[] = { "top", "bottom", "random" };

/* Digits, with at most one point among them if `point`; the end, or NULL. */
static const char *skip_number(const char *text, int point)
{
    const char *at = text + strspn(text, "0123456789");

    if (point && *at == '.' && at > text) {
        const char *fraction = at + 1;

        at = fraction + strspn(fraction, "0123456789");
        return at > fraction ? at : NULL;
    }
    return at > text ? at : NULL;
}

static int parse_share(struct keep *out, const char *text, const char **end)
{
    const char *at = skip_number(text, 1);

    if (at != NULL && *at == '%') {
        out->percent = strtod(text, NULL);
        *end = at + 1;
        return out->percent <= 100 ? 0 : -1;
    }
    at = skip_number(text, 0);
    errno = 0;
    out->percent = -1;
    out->count = at != NULL ? strtoll(text, NULL, 10) : 0;
    *end = at;
    return at != NULL && errno == 0 ? 0 : -1;
}

static int parse_seed(struct keep *out, const char *text)
{
    const char *at = skip_number(text, 0);

    errno = 0;
    out->seed = at != NULL ? strtoull(text, NULL, 10) : 0;
    return at != NULL && *at == '\0' && errno == 0 ? 0 : -1;
}

int keep_parse(struct keep *out, const char *text, char *error, size_t size)
{
    size_t      length = strcspn(text, ":");
    int         kind = KEEP_TOP;
    const char *end;

    *out = (struct keep){ 0 };
    while (kind <= KEEP_RANDOM &&
           (strlen(kinds[kind]) != length || memcmp(kinds[kind], text, length) != 0)) {
        kind++;
    }
    out->kind = (enum keep_kind) kind;
    if (kind > KEEP_RANDOM || text[length] != ':') {
        snprintf(error, size,
                 "--keep-ranks is \"%.100s\", must be top:SHARE, bottom:SHARE or "
                 "random:SHARE:SEED",
                 text);
        return -1;
    }
    if (parse_share(out, text + length + 1, &end) != 0) {
        snprintf(error, size,
                 "--keep-ranks %.100s: the share must be 0%% to 100%%, or a number of "
                 "ranks",
                 text);
        return -1;
    }
    if (*end == '\0') {
        return 0;
    }
    if (kind != KEEP_RANDOM || *end != ':' || parse_seed(out, end + 1) != 0) {
        snprintf(error, size, "--keep-ranks %.100s: \"%.100s\" %s", text, end,
                 kind == KEEP_RANDOM ? "is no seed, must be : and a whole number"
                                     : "is too much, only random takes a seed");
        return -1;
    }
    return 0;
}

/* ===== Values ============================================================= */

static int read_norms(struct rank_values *out, const struct llama_adapters *adapters,
                      char *error, size_t size)
{
    for (int64_t i = 0; i < out->modules; i++) {
        bl_adapter *adapter = bl_group_get_adapter(adapters->group, i);
        double     *norm = out->value + out->first[i];
        int64_t     counting = 0;

        if (bl_adapter_set_mask(adapter, NULL) != 0 ||
            bl_adapter_copy_norms(adapter, norm) != 0) {
            snprintf(error, size, "%s", bl_last_error());
            return -1;
        }
        for (int64_t r = 0; r < out->first[i + 1] - out->first[i]; r++) {
            if (!isfinite(norm[r])) {
                snprintf(error, size, "rank %" PRId64 " of %.200s has no finite norm", r,
                         bl_adapter_get_name(adapter));
                return -1;
            }
            counting += norm[r] > 0;
            norm[r] = norm[r] > 0 ? norm[r] : (double) NAN;
        }
        out->ranks += counting;
        out->most = counting > out->most ? counting : out->most;
    }
    out->by = KEEP_BY_NORM;
    return 0;
}

static const struct run_module *find_module(const struct run *run, const char *name)
{
    for (int64_t i = 0; i < run->modules; i++) {
        if (strcmp(run->module[i].name, name) == 0) {
            return &run->module[i];
        }
    }
    return NULL;
}

/* Ranks of a module: norms become importance. Those that the run does not have must add
 * nothing. */
static int take_importance(const struct run *run, const char *name, double *value,
                           int64_t ranks, char *error, size_t size)
{
    const struct run_sample *last = &run->sample[run->samples - 1];
    const struct run_module *module = find_module(run, name);
    int64_t                  there = module != NULL ? run_ranks_at(run, last, module) : 0;

    if (module == NULL || there > ranks) {
        snprintf(error, size,
                 "%.200s/ranks.jsonl: is not of this adapter: %.100s has rank %" PRId64
                 ", in the adapter %" PRId64,
                 run->directory, name, there, ranks);
        return -1;
    }
    for (int64_t r = 0; r < ranks; r++) {
        double norm = isnan(value[r]) ? 0 : value[r];
        double logged = r < there ? last->norm[module->first + r] : 0;
        double g = r < there ? last->importance[module->first + r] : 0;

        if (!(fabs(norm - logged) <= SAME_NORM * norm) || !isfinite(g)) {
            snprintf(error, size,
                     "%.200s/ranks.jsonl: is not of this adapter: rank %" PRId64
                     " of %.100s has norm %g, in the adapter %g",
                     run->directory, r, name, logged, norm);
            return -1;
        }
        value[r] = norm > 0 ? g : (double) NAN;
    }
    return 0;
}

/* 0; -1 with a line: there are scores, but not for this adapter; 1: there are none. */
static int read_importance(struct rank_values *out, const struct llama_adapters *adapters,
                           const char *directory, char *error, size_t size)
{
    struct run run;
    int        result = 0;
    double    *value;

    if (!run_exists(directory)) {
        snprintf(error, size, "%.300s: no run folder, so there are no scores, only norms",
                 directory);
        return 1;
    }
    if (run_read(&run, directory, error, size) != 0) {
        return -1;
    }
    if (run.samples == 0 || !run_has_scores(&run)) {
        snprintf(error, size, "%.300s: the run has no scores, only norms", directory);
        run_free(&run);
        return 1;
    }
    value = malloc((size_t) out->first[out->modules] * sizeof *value);
    if (value == NULL) {
        snprintf(error, size, "out of memory");
        result = -1;
    } else {
        memcpy(value, out->value, (size_t) out->first[out->modules] * sizeof *value);
    }
    for (int64_t i = 0; result == 0 && i < out->modules; i++) {
        result = take_importance(
            &run, bl_adapter_get_name(bl_group_get_adapter(adapters->group, i)),
            value + out->first[i], out->first[i + 1] - out->first[i], error, size);
    }
    if (result == 0) {
        memcpy(out->value, value, (size_t) out->first[out->modules] * sizeof *value);
        out->by = KEEP_BY_IMPORTANCE;
    }
    free(value);
    run_free(&run);
    return result;
}

int rank_values_read(struct rank_values *out, const struct llama_adapters *adapters,
                     const char *directory, enum keep_by by, char *error, size_t size)
{
    int64_t count = bl_group_get_count(adapters->group);
    int     result = 0;

    *out = (struct rank_values){ .modules = count };
    out->first = calloc((size_t) count + 1, sizeof *out->first);
    for (int64_t i = 0; out->first != NULL && i < count; i++) {
        out->first[i + 1] =
            out->first[i] + bl_adapter_get_rank(bl_group_get_adapter(adapters->group, i));
    }
    if (out->first != NULL) {
        out->value = calloc((size_t) out->first[count] + 1, sizeof *out->value);
    }
    if (out->value == NULL) {
        snprintf(error, size, "out of memory for the norms of %.300s", directory);
        rank_values_free(out);
        return -1;
    }
    if (read_norms(out, adapters, error, size) != 0) {
        rank_values_free(out);
        return -1;
    }
    if (by != KEEP_BY_NORM) {
        result = read_importance(out, adapters, directory, error, size);
    }
    if (result < 0 && by == KEEP_BY_ANY) {
        snprintf(out->note, sizeof out->note, "%.500s", error);
    }
    if (result != 0 && by == KEEP_BY_IMPORTANCE) {
        rank_values_free(out);
        return -1;
    }
    return 0;
}

void rank_values_free(struct rank_values *values)
{
    free(values->value);
    free(values->first);
    *values = (struct rank_values){ 0 };
}

/* ===== Masks ============================================================== */

struct candidate {
    double  value;
    int64_t rank;
};

static int by_value(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;

    if (a->value != b->value) {
        return a->value > b->value ? -1 : 1;
    }
    return a->rank < b->rank ? -1 : 1;
}

/* The finaliser of splitmix64: every bit of x changes half of the bits of the result. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1). */
static double draw(uint64_t seed, int64_t rank)
{
    return (double) (mix(mix(seed) ^ (uint64_t) rank) >> 11) / 9007199254740992.0;
}

/* 1 in mask for those of the ranks from .. to - 1 that are kept; returns how many. */
static int64_t choose(const struct rank_values *values, const struct keep *keep,
                      int64_t from, int64_t to, struct candidate *list, uint8_t *mask)
{
    int64_t count = 0, kept;

    for (int64_t i = from; i < to; i++) {
        double value = values->value[i];

        mask[i] = 0;
        if (!isnan(value)) {
            list[count].rank = i;
            list[count++].value = keep->kind == KEEP_RANDOM ? draw(keep->seed, i) : value;
        }
    }
    qsort(list, (size_t) count, sizeof *list, by_value);
    kept = keep->percent >= 0 ? (int64_t) ((double) count * keep->percent / 100 + 0.5)
                              : keep->count;
    kept = kept < count ? kept : count;
    for (int64_t i = 0; i < kept; i++) {
        mask[list[keep->kind == KEEP_BOTTOM ? count - 1 - i : i].rank] = 1;
    }
    return kept;
}

int64_t keep_ranks(const struct llama_adapters *adapters,
                   const struct rank_values *values, const struct keep *keep,
                   enum keep_scope scope, char *error, size_t size)
{
    int64_t           ranks = values->first[values->modules], kept = 0;
    int64_t           least = scope == KEEP_JOINT ? values->ranks : values->most;
    struct candidate *list = malloc((size_t) (ranks + 1) * sizeof *list);
    uint8_t          *mask = malloc((size_t) ranks + 1);

    if (list == NULL || mask == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " ranks", ranks);
        kept = -1;
    } else if (values->ranks == 0) {
        snprintf(error, size, "the adapter's ranks all have norm 0, none can be kept");
        kept = -1;
    } else if (keep->percent < 0 && keep->count > least) {
        snprintf(
            error, size, "--keep-ranks keeps %" PRId64 " ranks, %s %" PRId64, keep->count,
            scope == KEEP_JOINT ? "the adapter has" : "no module has more than", least);
        kept = -1;
    } else if (scope == KEEP_JOINT) {
        kept = choose(values, keep, 0, ranks, list, mask);
    } else {
        for (int64_t i = 0; i < values->modules; i++) {
            kept +=
                choose(values, keep, values->first[i], values->first[i + 1], list, mask);
        }
    }
    for (int64_t i = 0; kept >= 0 && i < values->modules; i++) {
        if (bl_adapter_set_mask(bl_group_get_adapter(adapters->group, i),
                                mask + values->first[i]) != 0) {
            snprintf(error, size, "%s", bl_last_error());
            kept = -1;
        }
    }
    free(mask);
    free(list);
    return kept;
}

int keep_only(struct kept *out, const struct llama_adapters *adapters,
              const char *directory, const struct keep *keep, enum keep_by by,
              enum keep_scope scope, char *error, size_t size)
{
    struct rank_values values;

    if (keep->kind == KEEP_RANDOM) {
        if (by != KEEP_BY_ANY) {
            complain("note: --keep-by has no effect on random ranks");
        }
        by = KEEP_BY_NORM; /* which of them add nothing */
    }
    if (rank_values_read(&values, adapters, directory, by, error, size) != 0) {
        return -1;
    }
    if (values.note[0] != '\0') {
        complain("note: by norm, since %s", values.note);
    }
    out->ranks = values.ranks;
    out->by = keep->kind == KEEP_RANDOM ? kinds[KEEP_RANDOM] : keep_by_names[values.by];
    out->kept = keep_ranks(adapters, &values, keep, scope, error, size);
    rank_values_free(&values);
    return out->kept >= 0 ? 0 : -1;
}
