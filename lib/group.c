/*
 * Groups: many adapters as one. All bookkeeping is one block, and there is one buffer
 * each for parameters, gradients, moments and averages, in segments aligned to 64 bytes:
 * adapter 0's A, B, s and magnitudes, then adapter 1's, and so on, each with room for
 * capacity ranks, of which the first r are there and the others zero.
 *
 * Memory: elements * (1 + 1 + 2), with AdaLoRA 2 more, and history_depth * elements * (1,
 * or 3 with moments), which may be of half the width.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static const size_t first_memory_size = 80; /* of release 0.1 */

/* ----- sizes, known before anything is made ----- */

struct sizes {
    bl_options options;                                /* resolved */
    int64_t    elements, ranks, largest_rank, scratch; /* by capacity */
    int64_t    present_ranks, largest_present, cost;   /* at creation */
    int64_t    growth; /* the least that one more rank costs; 0: no room anywhere */
    size_t     bytes;  /* of an element */
    int64_t    rows;   /* of all W0 together, with DoRA; 0 without            */
    int64_t    length_rows, length_a, length_products, length_gram; /* of its scratch */
    int64_t    penalty_gram;                                        /* with AdaLoRA */
    size_t     bookkeeping, buffer, history;
};

/* Elements of a segment, rounded up to BL__ALIGNMENT. */
static int64_t segment(int64_t elements, size_t bytes)
{
    const int64_t unit = (int64_t) (BL__ALIGNMENT / bytes);
    return (elements + unit - 1) / unit * unit;
}

/* How many buffers a snapshot holds: the parameters, and m and v where copied. */
static int64_t history_buffers(const bl_options *options)
{
    if (!options->reallocation || options->expand != BL_EXPAND_HISTORY) {
        return 0;
    }
    const int moments =
        options->moments == BL_MOMENTS_COPY && options->optimizer == BL_OPTIMIZER_ADAMW;
    return moments ? 3 : 1;
}

/* All snapshots of one buffer */
static size_t ring_bytes(const bl_options *options, int64_t elements)
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

static bl_group *carve_group(struct carver *carver, const struct sizes *sizes,
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
static void measure_dora(struct sizes *sizes, const bl_spec *spec)
{
    const int64_t row_bytes = spec->in_features * (int64_t) sizes->bytes;
    const int64_t block = spec->base_rows == NULL
                              ? spec->out_features
                              : bl__block_rows(row_bytes, spec->out_features);
    sizes->rows += spec->out_features;
    sizes->elements += segment(spec->out_features, sizes->bytes);
    sizes->length_a = larger(sizes->length_a, spec->capacity * spec->in_features);
    sizes->length_products = larger(sizes->length_products, block * spec->capacity);
    sizes->length_gram = larger(sizes->length_gram, spec->capacity * spec->capacity);
    if (spec->base_rows != NULL) {
        sizes->length_rows = larger(sizes->length_rows, block * spec->in_features);
    }
}

/* AdaLoRA's budget only shrinks. */
static int settle_budget(struct sizes *sizes, int64_t count)
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

static int measure(struct sizes *sizes, const bl_spec *specs, int64_t count,
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
        const int64_t all = segment(spec.capacity * spec.in_features, sizes->bytes) / 2 +
                            segment(spec.capacity * spec.out_features, sizes->bytes) / 2;
        if (all > INT64_MAX / 128 || sizes->elements > INT64_MAX / 128) {
            return bl__fail(BL_E_RANGE, "spec %lld makes the group larger than memory",
                            (long long) i);
        }
        sizes->elements += segment(spec.capacity * spec.in_features, sizes->bytes) +
                           segment(spec.capacity * spec.out_features, sizes->bytes) +
                           (scores ? segment(spec.capacity, sizes->bytes) : 0);
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
    if (history_buffers(&sizes->options) == 0) {
        sizes->options.history_depth = 1; /* unused: one empty slot */
    }
    struct carver carver = { 0 };
    carve_group(&carver, sizes, count);
    sizes->bookkeeping = carver.used;
    sizes->buffer = bl__mul((size_t) sizes->elements, sizes->bytes);
    sizes->history = bl__mul(ring_bytes(&sizes->options, sizes->elements),
                             (size_t) history_buffers(&sizes->options));
    return 0;
}

/* ----- life ----- */

static void name_adapter(bl_adapter *adapter, const char *name)
{
    if (name != NULL) {
        memcpy(adapter->name, name, strlen(name) + 1);
    } else {
        snprintf(adapter->name, sizeof adapter->name, "adapter.%lld",
                 (long long) adapter->index);
    }
}

static double scaling(const bl_options *o, const bl_spec *spec)
{
    const double rank = (double) spec->rank;
    if (o->method == BL_METHOD_ADALORA) {
        return (spec->alpha > 0 ? spec->alpha : rank) / (rank + 1e-5);
    }
    return spec->alpha / (o->scaling == BL_SCALING_RSLORA ? sqrt(rank) : rank);
}

static void place_adapters(bl_group *group, const bl_spec *specs)
{
    const bl_options *const o = &group->options;
    const size_t            bytes = bl__dtype_bytes(group->dtype);
    int64_t                 offset = 0;
    int64_t                 first_rank = 0;
    int64_t                 first_row = 0;
    for (int64_t i = 0; i < group->count; i++) {
        bl_spec spec;
        bl__spec_read(&spec, specs, i, o);
        bl_adapter *const adapter = &group->adapters[i];
        adapter->group = group;
        adapter->index = i;
        adapter->in = spec.in_features;
        adapter->out = spec.out_features;
        adapter->rank = spec.rank;
        adapter->capacity = spec.capacity;
        adapter->mass = (double) spec.rank;
        adapter->scaling = scaling(o, &spec);
        adapter->a = offset;
        adapter->b = adapter->a + segment(spec.capacity * spec.in_features, bytes);
        adapter->s = adapter->b + segment(spec.capacity * spec.out_features, bytes);
        adapter->magnitude =
            adapter->s +
            (o->method != BL_METHOD_LORA ? segment(spec.capacity, bytes) : 0);
        adapter->end =
            adapter->magnitude + (o->dora ? segment(spec.out_features, bytes) : 0);
        if (o->dora) {
            adapter->base = spec.base;
            adapter->ldbase = spec.ldbase;
            adapter->base_rows = spec.base_rows;
            adapter->base_squares = group->base_squares + first_row;
            adapter->lengths = group->lengths + first_row;
            adapter->ratio = bl__at(group->dtype, group->ratio, first_row);
            first_row += spec.out_features;
        }
        adapter->first_rank = first_rank;
        adapter->seed = bl__random_key(o->seed, BL__DRAW_ADAPTER, (uint64_t) i, 0);
        adapter->frozen = spec.frozen;
        group->frozen[i] = (uint8_t) spec.frozen;
        name_adapter(adapter, spec.name);
        offset = adapter->end;
        first_rank += spec.capacity;
    }
}

/* A uniform in +-1/sqrt(in): Kaiming with a = sqrt 5, as LoRA's own code. */
static void draw_uniform(const bl_adapter *adapter)
{
    const bl_group *const group = adapter->group;
    void *const           p = group->buffers[BL_BUFFER_PARAMETERS].data;
    const double          bound = 1 / sqrt((double) adapter->in);
    const uint64_t        key = bl__random_key(adapter->seed, BL__DRAW_INIT, 0, 0);
    for (int64_t i = 0; i < adapter->rank * adapter->in; i++) {
        const double u = bl__random_unit(key, (uint64_t) i);
        bl__set(group->dtype, p, adapter->a + i, bound * (2 * u - 1));
    }
}

/* AdaLoRA's A and B, normal; E is zero. */
static void draw_normal(const bl_adapter *adapter)
{
    const bl_group *const group = adapter->group;
    void *const           p = group->buffers[BL_BUFFER_PARAMETERS].data;
    const double          deviation = 0.02;
    for (uint64_t is_b = 0; is_b < 2; is_b++) {
        const uint64_t key = bl__random_key(adapter->seed, BL__DRAW_INIT, is_b, 0);
        const int64_t  start = is_b ? adapter->b : adapter->a;
        const int64_t  count = adapter->rank * (is_b ? adapter->out : adapter->in);
        for (int64_t i = 0; i < count; i++) {
            bl__set(group->dtype, p, start + i,
                    deviation * bl__random_normal(key, (uint64_t) i));
        }
    }
}

static void initialise(bl_group *group)
{
    const size_t bytes = bl__mul((size_t) group->elements, bl__dtype_bytes(group->dtype));
    for (int32_t i = 0; i < group->buffer_count; i++) {
        if (group->buffers[i].data != NULL) {
            memset(group->buffers[i].data, 0, bytes);
        }
    }
    for (int64_t k = 0; k < group->count; k++) {
        if (bl__is_adalora(group)) {
            draw_normal(&group->adapters[k]);
        } else {
            draw_uniform(&group->adapters[k]);
        }
    }
    group->reallocated = -1;
    memset(group->mask, 1, (size_t) group->ranks);
    for (int64_t i = 0; i < group->options.history_depth; i++) {
        group->snapshot_step[i] = -1;
    }
    for (int64_t i = 0; i < bl__settings_count(); i++) {
        group->settings[i] = bl__settings_value(&group->options, i);
    }
}

/* Of AdaLoRA's two averages */
static size_t averages_bytes(const struct sizes *sizes)
{
    return sizes->options.method == BL_METHOD_ADALORA ? bl__mul(sizes->buffer, 2) : 0;
}

static int take_memory(bl_group *group, const struct sizes *sizes)
{
    const bl_options *const           o = &group->options;
    const struct bl__allocator *const allocator = &group->allocator;
    struct bl__buffer *const          buffers = group->buffers;
    const int                         adamw = o->optimizer == BL_OPTIMIZER_ADAMW;
    const size_t                      moments = adamw ? bl__mul(sizes->buffer, 2) : 0;
    const size_t                      averages = averages_bytes(sizes);
    void *const  given[] = { o->parameters, o->gradients, adamw ? o->moments_mv : NULL };
    const size_t wanted[] = { sizes->buffer, sizes->buffer, moments, averages,
                              sizes->history };
    void        *got[5] = { 0 };
    for (int i = 0; i < 5; i++) {
        if (i < 3 && given[i] != NULL) {
            got[i] = given[i];
        } else if (wanted[i] > 0) {
            got[i] = group->owned[i] = bl__alloc(allocator, wanted[i]);
            if (got[i] == NULL) {
                return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", wanted[i]);
            }
        }
    }
    buffers[BL_BUFFER_PARAMETERS].data = got[0];
    buffers[BL_BUFFER_GRADIENTS].data = got[1];
    group->buffer_count = BL_BUFFER_ATTACHED;
    memcpy(buffers[BL_BUFFER_M].name, "m", 2);
    memcpy(buffers[BL_BUFFER_V].name, "v", 2);
    buffers[BL_BUFFER_V].fresh = BL_FRESH_MEAN;
    if (adamw) {
        buffers[BL_BUFFER_M].data = got[2];
        buffers[BL_BUFFER_V].data = (char *) got[2] + sizes->buffer;
    }
    memcpy(buffers[BL_BUFFER_SENSITIVITY].name, "sensitivity", 12);
    memcpy(buffers[BL_BUFFER_UNCERTAINTY].name, "uncertainty", 12);
    if (averages > 0) {
        buffers[BL_BUFFER_SENSITIVITY].data = got[3];
        buffers[BL_BUFFER_UNCERTAINTY].data = (char *) got[3] + sizes->buffer;
    }
    const size_t slots = ring_bytes(o, sizes->elements);
    if (got[4] != NULL) {
        buffers[BL_BUFFER_PARAMETERS].history = got[4];
    }
    if (history_buffers(o) == 3) {
        buffers[BL_BUFFER_M].history = (char *) got[4] + slots;
        buffers[BL_BUFFER_V].history = (char *) got[4] + 2 * slots;
    }
    return bl__plan_create(&group->plan, allocator, group->ranks);
}

int bl_group_create(bl_group **out, const bl_spec *specs, int64_t count,
                    const bl_options *opt)
{
    if (out == NULL) {
        return bl__fail(BL_E_ARG, "out is NULL");
    }
    struct sizes sizes;
    int          rc = measure(&sizes, specs, count, opt);
    if (rc != 0) {
        return rc;
    }
    const bl_options *const    o = &sizes.options;
    const struct bl__allocator allocator = { o->alloc, o->free, o->alloc_user };
    struct carver carver = { .base = bl__alloc(&allocator, sizes.bookkeeping) };
    if (carver.base == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", sizes.bookkeeping);
    }
    bl_group *const group = carve_group(&carver, &sizes, count);
    group->options = sizes.options;
    group->allocator = allocator;
    group->count = count;
    group->elements = sizes.elements;
    group->ranks = sizes.ranks;
    group->dtype = o->parameter_dtype;
    group->pieces = o->parallel_for == NULL ? BL__WHOLE
                    : bl__gemm_has_small()  ? BL__SMALL_PIECES
                                            : BL__PIECES;
    place_adapters(group, specs);
    rc = take_memory(group, &sizes);
    if (rc != 0) {
        bl_group_free(group);
        return rc;
    }
    initialise(group);
    for (int64_t i = 0; i < count && o->dora && rc == 0; i++) {
        rc = bl__dora_begin(&group->adapters[i]);
    }
    if (rc != 0) {
        bl_group_free(group);
        return rc;
    }
    *out = group;
    return 0;
}

void bl_group_free(bl_group *group)
{
    if (group == NULL) {
        return;
    }
    const struct bl__allocator allocator = group->allocator;
    for (int32_t i = BL_BUFFER_ATTACHED; i < group->buffer_count; i++) {
        bl__free(&allocator, group->buffers[i].history);
    }
    for (int i = 0; i < 5; i++) {
        bl__free(&allocator, group->owned[i]);
    }
    bl_plan_free(group->plan);
    bl__free(&allocator, group);
}

int bl_adapter_create(bl_adapter **out, int64_t in, int64_t out_features,
                      const bl_options *opt)
{
    if (out == NULL) {
        return bl__fail(BL_E_ARG, "out is NULL");
    }
    const bl_spec spec = { .size = sizeof spec,
                           .in_features = in,
                           .out_features = out_features };
    bl_group     *group;
    const int     rc = bl_group_create(&group, &spec, 1, opt);
    if (rc == 0) {
        group->single = 1;
        *out = &group->adapters[0];
    }
    return rc;
}

void bl_adapter_free(bl_adapter *adapter)
{
    if (adapter != NULL && adapter->group->single) {
        bl_group_free(adapter->group);
    }
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
    struct sizes sizes;
    const int    rc = measure(&sizes, specs, count, opt);
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
    if (averages_bytes(&sizes) > 0) {
        memory.averages = bl__alloc_cost(averages_bytes(&sizes));
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

/* ----- getters and setters ----- */

int64_t bl_group_get_count(const bl_group *group)
{
    return group->count;
}

bl_adapter *bl_group_get_adapter(const bl_group *group, int64_t index)
{
    return index < 0 || index >= group->count ? NULL : &group->adapters[index];
}

int64_t bl_group_get_step(const bl_group *group)
{
    return group->t;
}

int64_t bl_group_get_cost(const bl_group *group)
{
    int64_t cost = 0;
    for (int64_t i = 0; i < group->count; i++) {
        cost += group->adapters[i].rank * bl__adapter_cost(&group->adapters[i]);
    }
    return cost;
}

double bl_group_get_temperature(const bl_group *group)
{
    return group->options.temperature;
}

int bl_group_copy_options(const bl_group *group, bl_options *out)
{
    if (group == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "out");
    }
    const size_t size = out->size;
    const int    rc = bl_options_init(out, size);
    if (rc == 0) {
        memcpy(out, &group->options,
               size < sizeof group->options ? size : sizeof group->options);
        out->size = size;
    }
    return rc;
}

int bl_group_set_temperature(bl_group *group, double tau)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    if (!(tau > 0 && tau <= 1e300)) {
        return bl__fail(BL_E_RANGE, "tau is %g, must be above 0 and finite", tau);
    }
    group->options.temperature = tau;
    bl__group_changed(group, 1);
    return 0;
}

int bl_group_get_view(bl_group *group, int32_t buffer, bl_view *out)
{
    if (group == NULL || out == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "out");
    }
    if (buffer < 0 || buffer >= group->buffer_count ||
        group->buffers[buffer].data == NULL) {
        return bl__fail(BL_E_ARG, "buffer is %d: the group has none such", (int) buffer);
    }
    if (buffer == BL_BUFFER_GRADIENTS) {
        bl__group_settle_gradients(group);
    }
    *out = (bl_view){
        .data = group->buffers[buffer].data,
        .rows = 1,
        .cols = group->elements,
        .ld = group->elements,
        .dtype = group->dtype,
    };
    return 0;
}

int bl_group_touch(bl_group *group)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    bl__group_changed(group, 1);
    return 0;
}

void bl__group_settle_gradients(bl_group *group)
{
    void *const gradients = group->buffers[BL_BUFFER_GRADIENTS].data;
    for (int64_t i = 0; i < group->count; i++) {
        bl_adapter *const adapter = &group->adapters[i];
        if (!adapter->has_gradient) {
            const size_t bytes =
                (size_t) (adapter->end - adapter->a) * bl__dtype_bytes(group->dtype);
            memset(bl__at(group->dtype, gradients, adapter->a), 0, bytes);
            adapter->has_gradient = !adapter->frozen;
        }
    }
}

void bl__group_forget_gradients(bl_group *group)
{
    for (int64_t i = 0; i < group->count; i++) {
        group->adapters[i].has_gradient = 0;
    }
    group->penalised = 0;
}

int bl_group_discard_gradients(bl_group *group)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    bl__group_forget_gradients(group);
    return 0;
}

int bl_group_attach(bl_group *group, const char *name, void *data, int32_t fresh,
                    int32_t *buffer)
{
    if (group == NULL || name == NULL || data == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL",
                        group == NULL  ? "group"
                        : name == NULL ? "name"
                                       : "data");
    }
    const size_t length = strlen(name);
    if (length < 1 || length >= BL__BUFFER_NAME_BYTES ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != length) {
        return bl__fail(BL_E_RANGE, "name must be 1 to %d of [a-z0-9_]",
                        BL__BUFFER_NAME_BYTES - 1);
    }
    for (int32_t i = BL_BUFFER_M; i < group->buffer_count; i++) {
        if (strcmp(group->buffers[i].name, name) == 0) {
            return bl__fail(BL_E_ARG, "an array named %s is there already", name);
        }
    }
    if ((uintptr_t) data % BL__ALIGNMENT != 0) {
        return bl__fail(BL_E_ARG, "data is not aligned to %zu bytes", BL__ALIGNMENT);
    }
    if (fresh != BL_FRESH_ZERO && fresh != BL_FRESH_MEAN) {
        return bl__fail(BL_E_RANGE, "fresh is %d, must be 0 or 1", (int) fresh);
    }
    if (group->t > 0 || group->buffer_count == BL__BUFFERS) {
        return bl__fail(BL_E_STATE, "%s",
                        group->t > 0 ? "arrays are attached before the first step"
                                     : "no more arrays can be attached");
    }
    struct bl__buffer *const to = &group->buffers[group->buffer_count];
    if (group->buffers[BL_BUFFER_PARAMETERS].history != NULL &&
        group->options.moments == BL_MOMENTS_COPY) {
        const size_t bytes = ring_bytes(&group->options, group->elements);
        to->history = bl__alloc(&group->allocator, bytes);
        if (to->history == NULL) {
            return bl__fail(BL_E_NOMEM, "no memory for %zu bytes", bytes);
        }
    }
    to->data = data;
    to->fresh = fresh;
    memcpy(to->name, name, length + 1);
    if (buffer != NULL) {
        *buffer = group->buffer_count;
    }
    group->buffer_count++;
    return 0;
}
