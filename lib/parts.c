/*
 * How the work of passes and of refreshing lengths is cut: into blocks of rows, one after
 * the other, and a block into parts, which the host's threads may share.
 */
#include "internal.h"

/* Rows at a time: a block of the wider activation should stay in a core's cache while both
 * of its products read it. Where products take much longer than reading it, or the BLAS
 * does them on several threads, long blocks are better, if no scratch is as wide as that. */
static const int64_t block_bytes = 2 << 20;
static const int64_t long_block_bytes = 32 << 20;
static const int64_t long_block = 4096; /* rows, at most */
static const int64_t least_block = 64;
static const int64_t high_rank = 17;

/* Of a part: less is done before another thread has heard of it. */
static const double least_work = 400000;

static int64_t block_rows(int64_t bytes, int64_t row_bytes, int64_t most)
{
    int64_t block = bytes / row_bytes;
    block = block < least_block ? least_block : block;
    return block > most ? most : block;
}

int64_t bl__block_rows(int64_t row_bytes, int64_t most)
{
    return block_rows(block_bytes, row_bytes, most);
}

int64_t bl__longest_block(const bl_options *o, const bl_spec *spec, int64_t max_n)
{
    const int64_t wide =
        spec->in_features > spec->out_features ? spec->in_features : spec->out_features;
    const int64_t row_bytes = wide * (int64_t) bl__dtype_bytes(o->activation_dtype);
    const int     is_long =
        o->dropout == 0 && (spec->capacity >= high_rank || o->parallel_for == NULL);
    return is_long ? block_rows(long_block_bytes, row_bytes,
                                max_n < long_block ? max_n : long_block)
                   : block_rows(block_bytes, row_bytes, max_n);
}

void bl__parallel_for(const bl_group *group, int64_t count, bl_task_fn task,
                      void *context)
{
    if (group->options.parallel_for != NULL && count > 1) {
        group->options.parallel_for(group->options.parallel_user, count, task, context);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        task(context, i);
    }
}

int bl__owns_cores(const bl_group *group)
{
    return group->options.parallel_for != NULL;
}

int64_t bl__pass_block(const bl_adapter *adapter, const bl_tape *tape)
{
    /* the tape was made for all that the adapter's rank can become */
    const int64_t wide = adapter->in > adapter->out ? adapter->in : adapter->out;
    const int64_t bytes = (int64_t) bl__dtype_bytes(adapter->group->dtype);
    return bl__owns_cores(adapter->group) && adapter->rank < high_rank
               ? bl__block_rows(wide * bytes, tape->block)
               : tape->block;
}

int bl__cut_by_columns(const bl_adapter *adapter)
{
    return bl__owns_cores(adapter->group) && adapter->rank >= high_rank &&
           !bl__is_dora(adapter);
}

static int64_t cut(const bl_group *group, int64_t size, int64_t least, double work)
{
    if (!bl__owns_cores(group)) {
        return 1;
    }
    /* a power of two, since most sizes are multiples of one and kernels like those */
    int64_t parts = 1;
    while (2 * parts <= BL__MOST_PARTS && 2 * parts * least <= size &&
           2 * (double) parts * least_work <= work) {
        parts *= 2;
    }
    return parts;
}

int64_t bl__row_parts(const bl_adapter *adapter, int64_t rows, double work)
{
    /* a product is the slower the fewer rows it has and the higher its rank, but all cores
     * are slower still with fewer parts than cores */
    const int64_t most = adapter->rank <= 8 ? 8 : adapter->rank < high_rank ? 32 : 128;
    const int64_t quarter = rows / 4 < 8 ? 8 : rows / 4;
    const int64_t least = quarter < most ? quarter : most;
    return cut(adapter->group, rows, least, work);
}

int64_t bl__column_parts(const bl_adapter *adapter, int64_t cols, double work)
{
    return cut(adapter->group, cols, 256, work);
}

int64_t bl__part_start(int64_t size, int64_t parts, int64_t i)
{
    return size * i / parts;
}
