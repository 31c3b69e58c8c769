/*
 * DoRA: rows of W = W0 + c B diag(g) A rescaled to learned lengths (docs/method.md,
 * "DoRA"). Lengths are worked out when parameters change, never in a pass, and without
 * making W (equation 15):
 *
 *     Q = W0 A'^T + (c / 2) B A' A'^T,  A' = diag(g) A     |W_i|^2 = |W0_i|^2 + 2 c Q_i . B_i
 *
 * which takes one product [out, in] x [in, r]. Memory: |W0_i|^2, |W_i| and their ratio to
 * the magnitudes for each row.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

int bl__is_dora(const bl_adapter *adapter)
{
    return adapter->magnitude != adapter->end;
}

static const void *parameters(const bl_adapter *adapter, int64_t offset)
{
    const bl_group *const group = adapter->group;
    return bl__at_const(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, offset);
}

/* ----- W0 ----- */

/* Rows from .. from + rows - 1 of W0 and, in *ld, their leading dimension: where they are,
 * or made in `scratch` [rows, in]. */
static const void *base_rows(const bl_adapter *adapter, int64_t from, int64_t rows,
                             void *scratch, int64_t *ld)
{
    if (adapter->base_rows == NULL) {
        *ld = adapter->ldbase;
        return bl__at_const(adapter->group->dtype, adapter->base, from * adapter->ldbase);
    }
    *ld = adapter->in;
    adapter->base_rows(adapter->base, from, rows, adapter->in, scratch);
    return scratch;
}

/* A block of W0's rows, and what is done with it. */
struct block {
    const bl_adapter *adapter;
    const bl_tape    *tape;
    int64_t           row, rows, parts;
    void             *kept;
    const void       *base; /* the whole block */
    int64_t           ldbase;
    int64_t           n, n_parts;
};

static int64_t part_of(const struct block *block, int64_t part, int64_t *rows)
{
    const int64_t from = bl__part_start(block->rows, block->parts, part);
    *rows = bl__part_start(block->rows, block->parts, part + 1) - from;
    return from;
}

/* ----- lengths ----- */

static void take_squares(void *context, int64_t part)
{
    const struct block *const block = context;
    const bl_adapter *const   adapter = block->adapter;
    const int32_t             dtype = adapter->group->dtype;
    int64_t                   rows, ld;
    const int64_t             from = part_of(block, part, &rows);
    void *const               scratch = adapter->group->lengths_scratch.rows;
    const void *const         w = base_rows(
                adapter, block->row + from, rows,
        scratch == NULL ? NULL : bl__at(dtype, scratch, from * adapter->in), &ld);
    for (int64_t i = 0; i < rows; i++) {
        adapter->base_squares[block->row + from + i] =
            bl__sum_squares(dtype, bl__at_const(dtype, w, i * ld), adapter->in);
    }
}

static void measure_rows(void *context, int64_t part)
{
    const struct block *const               block = context;
    const bl_adapter *const                 adapter = block->adapter;
    const bl_group *const                   group = adapter->group;
    const struct bl__lengths_scratch *const scratch = &group->lengths_scratch;
    const int32_t                           dtype = group->dtype;
    const int64_t                           r = adapter->rank;
    const int64_t                           in = adapter->in;
    const int64_t                           out = adapter->out;
    int64_t                                 rows, ld;
    const int64_t                           from = part_of(block, part, &rows);
    const int64_t                           first = block->row + from;
    const void *const                       w = base_rows(
                              adapter, first, rows,
        scratch->rows == NULL ? NULL : bl__at(dtype, scratch->rows, from * in), &ld);
    void *const       part_scratch = bl__at(dtype, scratch->products, from * r);
    const void *const b = parameters(adapter, adapter->b + first);
    double *const     dots = adapter->lengths + first;
    memset(dots, 0, (size_t) rows * sizeof *dots);
    bl__gemm(dtype, 0, 0, r, rows, r, adapter->scaling / 2, scratch->gram, r, b, out, 0,
             part_scratch, rows);
    bl__add_column_dots(dtype, dots, part_scratch, rows, b, out, r, rows);
    bl__add_row_dots(dtype, group->pieces, rows, r, in, dots, w, ld, scratch->a, b, out,
                     part_scratch);
    for (int64_t i = 0; i < rows; i++) {
        const double square =
            adapter->base_squares[first + i] + 2 * adapter->scaling * dots[i];
        /* below 0 by rounding alone, and a NaN stays one */
        adapter->lengths[first + i] = square < 0 ? 0 : sqrt(square);
    }
}

/* Over all rows of W0: at once where they are in memory, or so many as there is scratch
 * for. */
static void for_blocks(bl_adapter *adapter, bl_task_fn task)
{
    const bl_group *const group = adapter->group;
    const int64_t row_bytes = adapter->in * (int64_t) bl__dtype_bytes(group->dtype);
    const int64_t most = adapter->base_rows == NULL
                             ? adapter->out
                             : bl__block_rows(row_bytes, adapter->out);
    struct block  block = { .adapter = adapter };
    for (; block.row < adapter->out; block.row += block.rows) {
        block.rows = adapter->out - block.row < most ? adapter->out - block.row : most;
        block.parts = bl__row_parts(adapter, block.rows,
                                    (double) block.rows * (double) adapter->in *
                                        (double) adapter->rank);
        bl__parallel_for(group, block.parts, task, &block);
    }
}

/* Lengths in the group's dtype, so that magnitudes that equal them give exactly 1. */
static void divide(bl_adapter *adapter)
{
    const int32_t     dtype = adapter->group->dtype;
    const void *const magnitude = parameters(adapter, adapter->magnitude);
    for (int64_t i = 0; i < adapter->out; i++) {
        double *const length = &adapter->lengths[i];
        *length = dtype == BL_F32 ? (double) (float) *length : *length;
        bl__set(dtype, adapter->ratio, i,
                *length == 0 ? 1 : bl__get(dtype, magnitude, i) / *length);
    }
}

static void refresh(bl_adapter *adapter)
{
    const bl_group *const                   group = adapter->group;
    const struct bl__lengths_scratch *const scratch = &group->lengths_scratch;
    const int32_t                           dtype = group->dtype;
    const int64_t                           r = adapter->rank;
    const int64_t                           in = adapter->in;
    const void *const                       a = parameters(adapter, adapter->a);
    if (!bl__is_dora(adapter)) {
        return;
    }
    bl__adapter_importance(adapter, scratch->g, NULL);
    bl__transpose(dtype, scratch->a, a, r, in, scratch->g);
    bl__gemm(dtype, 1, 0, r, r, in, 1, scratch->a, r, scratch->a, r, 0, scratch->gram, r);
    for_blocks(adapter, measure_rows);
    divide(adapter);
}

int bl__dora_begin(bl_adapter *adapter)
{
    const int32_t dtype = adapter->group->dtype;
    for_blocks(adapter, take_squares);
    for (int64_t i = 0; i < adapter->out; i++) {
        const double length = sqrt(adapter->base_squares[i]);
        if (!(length < bl__largest(dtype))) {
            return bl__fail(BL_E_NONFINITE, "row %lld of %s's W0 has length %g",
                            (long long) i, adapter->name, length);
        }
        adapter->lengths[i] = length;
        bl__set(dtype, adapter->group->buffers[BL_BUFFER_PARAMETERS].data,
                adapter->magnitude + i, length);
    }
    divide(adapter);
    return 0;
}

void bl__adapter_changed(bl_adapter *adapter)
{
    adapter->group->version++;
    refresh(adapter);
}

void bl__group_changed(bl_group *group, int frozen)
{
    group->version++;
    for (int64_t i = 0; i < group->count; i++) {
        if (frozen || !group->adapters[i].frozen) {
            refresh(&group->adapters[i]);
        }
    }
}

/* ----- the products of dropout ----- */

/* Multiplications of a product of n rows with the block */
static double work_of(const struct block *block)
{
    return (double) block->n * (double) block->rows * (double) block->adapter->in;
}

static void project_part(void *context, int64_t part)
{
    const struct block *const block = context;
    const bl_adapter *const   adapter = block->adapter;
    const bl_tape *const      tape = block->tape;
    const int32_t             dtype = adapter->group->dtype;
    int64_t                   rows, ld;
    const int64_t             from = part_of(block, part, &rows);
    const void *const         w = base_rows(
                adapter, block->row + from, rows,
        tape->rows == NULL ? NULL : bl__at(dtype, tape->rows, from * adapter->in), &ld);
    bl__gemm(dtype, 0, 1, block->n, rows, adapter->in, 1, tape->dropped, adapter->in, w,
             ld, 0, bl__at(dtype, block->kept, block->row + from), adapter->out);
}

static void fetch_part(void *context, int64_t part)
{
    const struct block *const block = context;
    const bl_adapter *const   adapter = block->adapter;
    int64_t                   rows, ld;
    const int64_t             from = part_of(block, part, &rows);
    base_rows(adapter, block->row + from, rows,
              bl__at(adapter->group->dtype, block->tape->rows, from * adapter->in), &ld);
}

static void unproject_part(void *context, int64_t part)
{
    const struct block *const block = context;
    const bl_adapter *const   adapter = block->adapter;
    const int32_t             dtype = adapter->group->dtype;
    const int64_t             from = bl__part_start(block->n, block->n_parts, part);
    const int64_t rows = bl__part_start(block->n, block->n_parts, part + 1) - from;
    bl__gemm(dtype, 0, 0, rows, adapter->in, block->rows, 1,
             bl__at(dtype, block->tape->rescaled, from * adapter->out + block->row),
             adapter->out, block->base, block->ldbase, block->row > 0 ? 1 : 0,
             bl__at(dtype, block->tape->dropped, from * adapter->in), adapter->in);
}

void bl__dora_project(const bl_adapter *adapter, const bl_tape *tape, int64_t rows,
                      void *kept)
{
    struct block block = { .adapter = adapter, .tape = tape, .kept = kept, .n = rows };
    for (; block.row < adapter->out; block.row += block.rows) {
        const int64_t left = adapter->out - block.row;
        block.rows = left < tape->base_block ? left : tape->base_block;
        block.parts = bl__row_parts(adapter, block.rows, work_of(&block));
        bl__parallel_for(adapter->group, block.parts, project_part, &block);
    }
}

void bl__dora_unproject(const bl_adapter *adapter, const bl_tape *tape, int64_t rows)
{
    struct block block = { .adapter = adapter, .tape = tape, .n = rows };
    block.n_parts = bl__row_parts(
        adapter, rows, (double) rows * (double) adapter->in * (double) tape->base_block);
    for (; block.row < adapter->out; block.row += block.rows) {
        const int64_t left = adapter->out - block.row;
        block.rows = left < tape->base_block ? left : tape->base_block;
        block.parts = bl__row_parts(adapter, block.rows, work_of(&block));
        if (adapter->base_rows != NULL) {
            bl__parallel_for(adapter->group, block.parts, fetch_part, &block);
            block.base = tape->rows;
            block.ldbase = adapter->in;
        } else {
            block.base = base_rows(adapter, block.row, block.rows, NULL, &block.ldbase);
        }
        bl__parallel_for(adapter->group, block.n_parts, unproject_part, &block);
    }
}
