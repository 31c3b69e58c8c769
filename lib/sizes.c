/*
 * What a group takes, known before anything is made: its options resolved, elements of a
 * buffer, memory, and where in the block of its bookkeeping everything is.
 */
#include <stdio.h>
#include <string.h>

#include "sizes.h"

static const size_t first_memory_size = 80; /* of release 0.1 */

int64_t bl__segment(int64_t elements, size_t bytes)
{
    const int64_t unit = (int64_t) (BL__ALIGNMENT / bytes);
    return (elements + unit - 1) / unit * unit;
}

int64_t bl__history_buffers(const bl_options *options)
{
    if (!options->reallocation || options->expand != BL_EXPAND_HISTORY) {
        return 0;
    }
    const int moments =
        options->moments == BL_MOMENTS_COPY && options->optimizer == BL_OPTIMIZER_ADAMW;
    return moments ? 3 : 1;
}

size_t bl__ring_bytes(const bl_options *options, int64_t elements)
{
    return bl__mul(bl__mul((size_t) elements, bl__dtype_bytes(options->history_dtype)),
                   (size_t) options->history_depth);
}

/* Takes `bytes` from a block at `base`, or only counts them where that is NULL. */
struct carver {
    char  *base;
    size_t used;
};

static void *carve(struct carver *carver, int64_t count, size_t bytes)
{
    const size_t at = carver->used;
    carver->used = bl__add(at, bl__round_up(bl__mul((size_t) count, bytes)));
    return carver->base == NULL ? NULL : carver->base + at;
}

static bl_group *carve_group(struct carver *carver, const struct bl__sizes *sizes,
                             int64_t count)
{
    bl_group  skeleton;
    bl_group *group = carve(carver, 1, sizeof *group);
    bl_group *to = group == NULL ? &skeleton : group;
    to->adapters = carve(carver, count, sizeof *to->adapters);
    to->frozen = carve(carver, count, 1);
    to->born = carve(carver, sizes->ranks, sizeof *to->born);
    to->removed = carve(carver, sizes->ranks, 1);
    to->mask = carve(carver, sizes->ranks, 1);
    to->snapshot_step =
        carve(carver, sizes->options.history_depth, sizeof *to->snapshot_step);
    to->settings = carve(carver, bl__settings_count(), sizeof *to->settings);
    to->scratch = carve(carver, sizes->scratch, sizes->bytes);
    to->scratch_scores = carve(carver, sizes->largest_rank, sizeof *to->scratch_scores);
    to->scratch_ranks = carve(carver, sizes->ranks, 1);
    if (sizes->rows > 0) {
        struct bl__lengths_scratch *const scratch = &to->lengths_scratch;
        scratch->a = carve(carver, sizes->length_a, sizes->bytes);
        scratch->products = carve(carver, sizes->length_products, sizes->bytes);
        scratch->gram = carve(carver, sizes->length_gram, sizes->bytes);
        scratch->g = carve(carver, sizes->largest_rank, sizeof *scratch->g);
        to->base_squares = carve(carver, sizes->rows, sizeof *to->base_squares);
        to->lengths = carve(carver, sizes->rows, sizeof *to->lengths);
        to->ratio = carve(carver, sizes->rows, sizes->bytes);
    }
    if (sizes->penalty_gram > 0) {
        to->penalty_gram = carve(carver, sizes->penalty_gram, sizes->bytes);
    }
    if (sizes->length_rows > 0) {
        to->lengths_scratch.rows = carve(carver, sizes->length_rows, sizes->bytes);
    }
    return group;
}

/* Whether `name` is the one that adapter `index` gets without a name. */
static int is_default_name(const char *name, int64_t index)
{
    char text[BL__NAME_BYTES];
    snprintf(text, sizeof text, "adapter.%lld", (long long) index);
    return strcmp(name, text) == 0;
}

/* Names are what tells the arrays of a state apart. */
static int check_name(const bl_spec *specs, int64_t index, const char *name,
                      const bl_options *options)
{
    for (int64_t k = 0; k < index; k++) {
        bl_spec other;
        bl__spec_read(&other, specs, k, options);
        const int same = name != NULL && other.name != NULL
                             ? strcmp(name, other.name) == 0
                         : name != NULL       ? is_default_name(name, k)
                         : other.name != NULL ? is_default_name(other.name, index)
                                              : 0;
        if (same) {
            return bl__fail(BL_E_ARG, "specs %lld and %lld have the same name",
                            (long long) k, (long long) index);
        }
    }
    return 0;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What DoRA adds for an adapter. */
static void measure_dora(struct bl__sizes *sizes, const bl_spec *spec)
{
    const int64_t row_bytes = spec->in_features * (int64_t) sizes->bytes;
    const int64_t block = spec->base_rows == NULL
                              ? spec->out_features
                              : bl__block_rows(row_bytes, spec->out_features);
    sizes->rows += spec->out_features;
    sizes->elements += bl__segment(spec->out_features, sizes->bytes);
    sizes->length_a = larger(sizes->length_a, spec->capacity * spec->in_features);
    sizes->length_products = larger(sizes->length_products, block * spec->capacity);
    sizes->length_gram = larger(sizes->length_gram, spec->capacity * spec->capacity);
    if (spec->base_rows != NULL) {
        sizes->length_rows = larger(sizes->length_rows, block * spec->in_features);
    }
}

/* AdaLoRA's budget only shrinks. */
static int settle_budget(struct bl__sizes *sizes, int64_t count)
{
    int64_t *const target = &sizes->options.target_rank;
    if (*target == 0) {
        const int64_t share = 2 * sizes->present_ranks / (3 * count);
        *target = share < 1 ? 1 : share;
    }
    if (*target * count > sizes->present_ranks) {
        return bl__fail(BL_E_OPTIONS,
                        "target_rank is %lld, must be at most the adapters' mean rank "
                        "(%lld in %lld)",
                        (long long) *target, (long long) sizes->present_ranks,
                        (long long) count);
    }
    return 0;
}

int bl__sizes_measure(struct bl__sizes *sizes, const bl_spec *specs, int64_t count,
                      const bl_options *opt)
{
    memset(sizes, 0, sizeof *sizes);
    if (specs == NULL) {
        return bl__fail(BL_E_ARG, "specs is NULL");
    }
    if (count < 1 || count > INT32_MAX) {
        return bl__fail(BL_E_RANGE, "count is %lld, must be in [1, %d]",
                        (long long) count, INT32_MAX);
    }
    int rc = bl__options_read(&sizes->options, opt);
    if (rc != 0) {
        return rc;
    }
    sizes->bytes = bl__dtype_bytes(sizes->options.parameter_dtype);
    const int scores = sizes->options.method != BL_METHOD_LORA;
    for (int64_t i = 0; i < count; i++) {
        bl_spec spec;
        rc = bl__spec_read(&spec, specs, i, &sizes->options);
        if (rc == 0) {
            rc = check_name(specs, i, spec.name, &sizes->options);
        }
        if (rc != 0) {
            return rc;
        }
        /* Each of these products is below 2^62, so only the sums need watching. */
        const int64_t wide = larger(spec.in_features, spec.out_features);
        const int64_t all =
            bl__segment(spec.capacity * spec.in_features, sizes->bytes) / 2 +
            bl__segment(spec.capacity * spec.out_features, sizes->bytes) / 2;
        if (all > INT64_MAX / 128 || sizes->elements > INT64_MAX / 128) {
            return bl__fail(BL_E_RANGE, "spec %lld makes the group larger than memory",
                            (long long) i);
        }
        sizes->elements += bl__segment(spec.capacity * spec.in_features, sizes->bytes) +
                           bl__segment(spec.capacity * spec.out_features, sizes->bytes) +
                           (scores ? bl__segment(spec.capacity, sizes->bytes) : 0);
        sizes->ranks += spec.capacity;
        sizes->largest_rank = larger(sizes->largest_rank, spec.capacity);
        sizes->scratch = larger(sizes->scratch, spec.capacity * wide);
        sizes->present_ranks += spec.rank;
        sizes->largest_present = larger(sizes->largest_present, spec.rank);
        const int64_t rank_cost = spec.in_features + spec.out_features + 1;
        sizes->cost += spec.rank * rank_cost;
        if (spec.capacity > spec.rank &&
            (sizes->growth == 0 || rank_cost < sizes->growth)) {
            sizes->growth = rank_cost;
        }
        if (sizes->options.dora) {
            measure_dora(sizes, &spec);
        }
    }
    rc = bl__options_resolve(&sizes->options, sizes->largest_present, sizes->cost,
                             sizes->growth);
    if (rc != 0) {
        return rc;
    }
    if (sizes->options.method == BL_METHOD_ADALORA) {
        rc = settle_budget(sizes, count);
        if (rc != 0) {
            return rc;
        }
        sizes->penalty_gram = sizes->largest_rank * sizes->largest_rank;
    }
    if (bl__history_buffers(&sizes->options) == 0) {
        sizes->options.history_depth = 1; /* unused: one empty slot */
    }
    struct carver carver = { 0 };
    carve_group(&carver, sizes, count);
    sizes->bookkeeping = carver.used;
    sizes->buffer = bl__mul((size_t) sizes->elements, sizes->bytes);
    sizes->history = bl__mul(bl__ring_bytes(&sizes->options, sizes->elements),
                             (size_t) bl__history_buffers(&sizes->options));
    return 0;
}

bl_group *bl__sizes_carve(const struct bl__sizes *sizes, void *block, int64_t count)
{
    struct carver carver = { .base = block };
    return carve_group(&carver, sizes, count);
}

size_t bl__averages_bytes(const struct bl__sizes *sizes)
{
    return sizes->options.method == BL_METHOD_ADALORA ? bl__mul(sizes->buffer, 2) : 0;
}

int bl_memory_query(const bl_spec *specs, int64_t count, const bl_options *opt, int64_t n,
                    bl_memory *out)
{
    if (out == NULL) {
        return bl__fail(BL_E_ARG, "out is NULL");
    }
    const size_t size = out->size;
    if (size < first_memory_size) {
        return bl__fail(BL_E_OPTIONS, "bl_memory's size is %zu, must be at least %zu",
                        size, first_memory_size);
    }
    if (n < 0 || n > INT32_MAX) {
        return bl__fail(BL_E_RANGE, "n is %lld, must be in [0, %d]", (long long) n,
                        INT32_MAX);
    }
    struct bl__sizes sizes;
    const int        rc = bl__sizes_measure(&sizes, specs, count, opt);
    if (rc != 0) {
        return rc;
    }
    const bl_options *const o = &sizes.options;
    bl_memory               memory = { .size = size, .elements = sizes.elements };
    memory.parameters = o->parameters ? 0 : bl__alloc_cost(sizes.buffer);
    memory.gradients = o->gradients ? 0 : bl__alloc_cost(sizes.buffer);
    if (o->optimizer == BL_OPTIMIZER_ADAMW && o->moments_mv == NULL) {
        memory.moments = bl__alloc_cost(bl__mul(sizes.buffer, 2));
    }
    if (bl__averages_bytes(&sizes) > 0) {
        memory.averages = bl__alloc_cost(bl__averages_bytes(&sizes));
    }
    memory.history = sizes.history > 0 ? bl__alloc_cost(sizes.history) : 0;
    memory.bookkeeping =
        bl__add(bl__alloc_cost(sizes.bookkeeping), bl__plan_bytes(sizes.ranks));
    for (int64_t i = 0; i < count; i++) {
        bl_spec spec;
        bl__spec_read(&spec, specs, i, o);
        memory.tapes = bl__add(memory.tapes, bl__tape_bytes(o, &spec, n, 1));
    }
    const size_t parts[] = { memory.parameters, memory.gradients, memory.moments,
                             memory.averages,   memory.history,   memory.bookkeeping,
                             memory.tapes };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        memory.total = bl__add(memory.total, parts[i]);
    }
    memset(out, 0, size);
    memcpy(out, &memory, size < sizeof memory ? size : sizeof memory);
    return 0;
}
