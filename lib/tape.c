/*
 * Tapes: what a forward leaves for its backward, and scratch for a block of rows. Also
 * the checks of arguments that forward and backward share.
 *
 * Memory: max_n * r for a backward, and block * (2 r + r, + in with dropout). With DoRA also
 * max_n * out: the output before it is rescaled, which the magnitudes' gradient needs, and
 * which only the base's whole product would give again, unless the host leaves the output
 * where it is.
 */
#include <limits.h>
#include <string.h>

#include "internal.h"

struct layout {
    int64_t block;
    int64_t base_block;
    size_t  handle, ranks, dots_g, h, block_rank, dropped, total;
    size_t  kept, rescaled, dots, rows; /* with DoRA */
};

static size_t matrix(int64_t rows, int64_t cols, size_t bytes)
{
    return bl__round_up(bl__mul(bl__mul((size_t) rows, (size_t) cols), bytes));
}

/* The part that DoRA needs */
static void lay_out_dora(struct layout *l, const bl_options *o, const bl_spec *spec,
                         int64_t max_n, int32_t keep)
{
    const size_t  bytes = bl__dtype_bytes(o->activation_dtype);
    const int64_t in = spec->in_features;
    const int64_t out = spec->out_features;
    if (keep == BL_KEEP_ALL) {
        l->kept = matrix(max_n, out, bytes);
    }
    if (keep) {
        l->dots = matrix(BL__MOST_PARTS, out, bytes);
    }
    if (o->dropout > 0) {
        l->kept = keep ? l->kept : matrix(l->block, out, bytes);
        l->rescaled = matrix(l->block, out, bytes);
        if (spec->base_rows != NULL) {
            l->base_block = bl__block_rows(in * (int64_t) bytes, out);
            l->rows = matrix(l->base_block, in, bytes);
        }
    }
}

static struct layout lay_out(const bl_options *o, const bl_spec *spec, int64_t max_n,
                             int32_t keep)
{
    const size_t  bytes = bl__dtype_bytes(o->activation_dtype);
    const int64_t in = spec->in_features;
    const int64_t out = spec->out_features;
    const int64_t block = bl__longest_block(o, spec, max_n);
    const int64_t rank = spec->capacity;
    const size_t  rank_bytes = bl__mul((size_t) rank, bytes);
    struct layout l = { .block = block, .base_block = out };
    l.handle = bl__round_up(sizeof(bl_tape));
    l.ranks = bl__round_up(bl__mul((size_t) rank, sizeof(double)));
    l.dots_g = bl__round_up(
        bl__mul(bl__mul((size_t) rank, sizeof(double)), 1 + (size_t) BL__MOST_PARTS));
    l.block_rank = bl__round_up(bl__mul((size_t) block, rank_bytes));
    l.h = keep ? bl__round_up(bl__mul((size_t) max_n, rank_bytes)) : l.block_rank;
    if (o->dropout > 0) {
        l.dropped = matrix(block, in, bytes);
    }
    if (o->dora) {
        lay_out_dora(&l, o, spec, max_n,
                     keep == BL_KEEP_BUT_Y && o->dropout > 0 ? BL_KEEP_ALL : keep);
    }
    const size_t parts[] = { l.handle, l.ranks,      l.ranks,      l.dots_g,
                             l.h,      l.block_rank, l.block_rank, l.dropped,
                             l.kept,   l.rescaled,   l.dots,       l.rows };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        l.total = bl__add(l.total, parts[i]);
    }
    return l;
}

size_t bl__tape_bytes(const bl_options *options, const bl_spec *spec, int64_t max_n,
                      int32_t keep)
{
    return bl__alloc_cost(lay_out(options, spec, max_n, keep).total);
}

/* The next `bytes` of a block; NULL: none wanted. */
static void *take(char **at, size_t bytes)
{
    void *const here = bytes > 0 ? *at : NULL;
    *at += bytes;
    return here;
}

int bl_tape_create(bl_tape **out, const bl_adapter *adapter, int64_t max_n, int32_t keep)
{
    if (out == NULL || adapter == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", out == NULL ? "out" : "adapter");
    }
    if (max_n < 0 || max_n > INT_MAX) {
        return bl__fail(BL_E_RANGE, "max_n is %lld, must be in [0, %d]",
                        (long long) max_n, INT_MAX);
    }
    if (keep < BL_KEEP_NOTHING || keep > BL_KEEP_BUT_Y) {
        return bl__fail(BL_E_RANGE, "keep is %d, must be 0, 1 or 2", (int) keep);
    }
    const bl_group *const group = adapter->group;
    const bl_spec         spec = { .in_features = adapter->in,
                                   .out_features = adapter->out,
                                   .rank = adapter->rank,
                                   .capacity = adapter->capacity,
                                   .base_rows = adapter->base_rows };
    const struct layout   l = lay_out(&group->options, &spec, max_n, keep);
    char                 *at = bl__alloc(&group->allocator, l.total);
    if (at == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory for a tape of %zu bytes", l.total);
    }
    bl_tape *const tape = (bl_tape *) (void *) at;
    tape->allocator = group->allocator;
    tape->adapter = adapter;
    tape->max_n = max_n;
    tape->block = l.block;
    tape->keep = keep;
    tape->base_block = l.base_block;
    at += l.handle;
    tape->g = take(&at, l.ranks);
    tape->true_g = take(&at, l.ranks);
    tape->dg = take(&at, l.dots_g);
    tape->h = take(&at, l.h);
    tape->hg = take(&at, l.block_rank);
    tape->d = take(&at, l.block_rank);
    tape->dropped = take(&at, l.dropped);
    tape->kept = take(&at, l.kept);
    tape->rescaled = take(&at, l.rescaled);
    tape->dots = take(&at, l.dots);
    tape->rows = take(&at, l.rows);
    *out = tape;
    return 0;
}

void bl_tape_free(bl_tape *tape)
{
    if (tape != NULL) {
        const struct bl__allocator allocator = tape->allocator;
        bl__free(&allocator, tape);
    }
}

struct bl__dropout bl__tape_dropout(const bl_adapter *adapter, int64_t key)
{
    if (key == BL_NO_DROPOUT) {
        return (struct bl__dropout){ .q = 0 };
    }
    return (struct bl__dropout){
        .q = adapter->group->options.dropout,
        .key = bl__random_key(adapter->seed, BL__DRAW_DROPOUT, (uint64_t) key, 0),
    };
}

int bl__pass_check(const bl_adapter *adapter, const bl_tape *tape, int64_t n)
{
    if (adapter == NULL || tape == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", adapter == NULL ? "adapter" : "tape");
    }
    if (tape->adapter != adapter) {
        return bl__fail(BL_E_ARG, "tape was made for another adapter than %s",
                        adapter->name);
    }
    if (n < 0) {
        return bl__fail(BL_E_RANGE, "n is %lld, must be at least 0", (long long) n);
    }
    if (n > tape->max_n) {
        return bl__fail(BL_E_SHAPE, "n is %lld, the tape holds %lld rows", (long long) n,
                        (long long) tape->max_n);
    }
    return 0;
}

int bl__matrix_check(const char *name, const void *data, int64_t n, int64_t cols,
                     int64_t ld)
{
    if (n == 0) {
        return 0;
    }
    if (data == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", name);
    }
    if (ld < cols) {
        return bl__fail(BL_E_SHAPE, "ld%s is %lld, must be at least %lld", name,
                        (long long) ld, (long long) cols);
    }
    if (ld > INT_MAX) {
        return bl__fail(BL_E_RANGE, "ld%s is %lld, must be at most %d", name,
                        (long long) ld, INT_MAX);
    }
    return 0;
}
