/*
 * Forward of one adapter (docs/method.md, equations 1 and 3), block of rows by block:
 *
 *     H = drop(X) A^T          Y += c (H * g) B^T
 *
 * H stays in the tape for the backward; scaling and accumulation ride on the products.
 * With DoRA one more pass over the block rescales it, and keeps what it was (equations 11
 * and 12); with dropout a product with W0 comes before it.
 */
#include <string.h>

#include "internal.h"

/* More than this is no longer in a cache when the backward wants it. */
static const int64_t far_bytes = 4 << 20;

struct pass {
    const bl_adapter  *adapter;
    bl_tape           *tape;
    struct bl__dropout dropout;
    int64_t     row, rows, row_parts, out_parts; /* the block; out_parts 0: by rows */
    void       *y;
    int64_t     ldy;
    const void *x;
    int64_t     ldx;
    int         dora, project; /* project: DoRA on drop(x) */
    int         is_far;        /* what is kept */
};

static void drop_rows(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const int32_t            dtype = adapter->group->dtype;
    const int64_t            from = bl__part_start(pass->rows, pass->row_parts, part);
    const int64_t rows = bl__part_start(pass->rows, pass->row_parts, part + 1) - from;
    const int64_t row = pass->row + from;
    bl__dropout(dtype, &pass->dropout, row, rows, adapter->in,
                bl__at(dtype, pass->tape->dropped, from * adapter->in), adapter->in,
                bl__at_const(dtype, pass->x, row * pass->ldx), pass->ldx, 0);
}

/* Row `from` of the block in the tape's kept; NULL: nothing is kept. */
static void *kept_rows(const struct pass *pass, int64_t from)
{
    const bl_tape *const tape = pass->tape;
    const int64_t        row = (tape->keep ? pass->row : 0) + from;
    return tape->kept == NULL ? NULL
                              : bl__at(pass->adapter->group->dtype, tape->kept,
                                       row * pass->adapter->out);
}

static void forward_rows(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const bl_tape *const     tape = pass->tape;
    const int32_t            dtype = adapter->group->dtype;
    const void *const        p = adapter->group->buffers[BL_BUFFER_PARAMETERS].data;
    const int64_t            r = adapter->rank;
    const int64_t            from = bl__part_start(pass->rows, pass->row_parts, part);
    const int64_t rows = bl__part_start(pass->rows, pass->row_parts, part + 1) - from;
    const int64_t row = pass->row + from;

    const void *x = bl__at_const(dtype, pass->x, row * pass->ldx);
    int64_t     ldx = pass->ldx;
    if (pass->dropout.q > 0) {
        x = bl__at(dtype, tape->dropped, from * adapter->in);
        ldx = adapter->in;
    }
    void *const h = bl__at(dtype, tape->h, (tape->keep ? row : from) * r);
    void *const hg = bl__at(dtype, tape->hg, from * r);
    void *const y = bl__at(dtype, pass->y, row * pass->ldy);
    bl__project(dtype, adapter->group->pieces, rows, r, adapter->in, 1, x, ldx,
                bl__at_const(dtype, p, adapter->a), adapter->in, h);
    bl__scale_columns(dtype, hg, h, rows, r, tape->g);
    if (pass->out_parts > 0) {
        return;
    }
    /* what the low-rank product is added to: the output, or nothing as yet */
    void *const sum =
        pass->project ? bl__at(dtype, tape->rescaled, from * adapter->out) : y;
    const int64_t ldsum = pass->project ? adapter->out : pass->ldy;
    bl__spread(dtype, adapter->group->pieces, rows, r, adapter->out, adapter->scaling, hg,
               bl__at_const(dtype, p, adapter->b), adapter->out, pass->project ? 0 : 1,
               sum, ldsum);
    if (pass->project) {
        bl__rescale_combine(dtype, y, pass->ldy, kept_rows(pass, from), sum, rows,
                            adapter->out, adapter->ratio);
    } else if (pass->dora) {
        bl__rescale(dtype, tape->keep ? kept_rows(pass, from) : NULL, pass->is_far, y,
                    pass->ldy, rows, adapter->out, adapter->ratio);
    }
}

/* A panel of columns of Y */
static void spread_columns(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const int32_t            dtype = adapter->group->dtype;
    const void *const        p = adapter->group->buffers[BL_BUFFER_PARAMETERS].data;
    const int64_t            from = bl__part_start(adapter->out, pass->out_parts, part);
    const int64_t cols = bl__part_start(adapter->out, pass->out_parts, part + 1) - from;
    bl__spread(dtype, adapter->group->pieces, pass->rows, adapter->rank, cols,
               adapter->scaling, pass->tape->hg,
               bl__at_const(dtype, p, adapter->b + from), adapter->out, 1,
               bl__at(dtype, pass->y, pass->row * pass->ldy + from), pass->ldy);
}

static void forward_block(struct pass *pass)
{
    const bl_adapter *const adapter = pass->adapter;
    const bl_group *const   group = adapter->group;
    pass->row_parts = bl__row_parts(adapter, pass->rows,
                                    (double) pass->rows * (double) adapter->rank *
                                        (double) (adapter->in + adapter->out));
    pass->out_parts = 0;
    if (bl__cut_by_columns(adapter)) {
        pass->out_parts = bl__column_parts(adapter, adapter->out,
                                           (double) pass->rows * (double) adapter->rank *
                                               (double) adapter->out);
    }
    if (pass->dropout.q > 0) {
        bl__parallel_for(group, pass->row_parts, drop_rows, pass);
    }
    if (pass->project) {
        bl__dora_project(adapter, pass->tape, pass->rows, kept_rows(pass, 0));
    }
    bl__parallel_for(group, pass->row_parts, forward_rows, pass);
    bl__parallel_for(group, pass->out_parts, spread_columns, pass);
}

int bl_forward(const bl_adapter *adapter, bl_tape *tape, int64_t n, void *y, int64_t ldy,
               const void *x, int64_t ldx, int64_t key)
{
    int rc;
    if ((rc = bl__pass_check(adapter, tape, n)) != 0 ||
        (rc = bl__matrix_check("y", y, n, adapter->out, ldy)) != 0 ||
        (rc = bl__matrix_check("x", x, n, adapter->in, ldx)) != 0) {
        return rc;
    }
    if (key < BL_NO_DROPOUT) {
        return bl__fail(BL_E_RANGE, "key is %lld, must be at least 0, or BL_NO_DROPOUT",
                        (long long) key);
    }
    struct pass pass = {
        .adapter = adapter,
        .tape = tape,
        .dropout = bl__tape_dropout(adapter, key),
        .y = y,
        .ldy = ldy,
        .x = x,
        .ldx = ldx,
        .dora = bl__is_dora(adapter),
    };
    pass.project = pass.dora && pass.dropout.q > 0;
    pass.is_far =
        n * adapter->out * (int64_t) bl__dtype_bytes(adapter->group->dtype) > far_bytes;
    bl__adapter_importance(adapter, tape->g, tape->true_g);
    const int64_t block = bl__pass_block(adapter, tape);
    for (pass.row = 0; pass.row < n; pass.row += pass.rows) {
        pass.rows = n - pass.row < block ? n - pass.row : block;
        forward_block(&pass);
    }
    tape->n = n;
    tape->key = key;
    tape->t = tape->kept == NULL ? y : tape->kept;
    tape->ldt = tape->kept == NULL ? ldy : adapter->out;
    tape->version = adapter->group->version;
    tape->filled = 1;
    return 0;
}
