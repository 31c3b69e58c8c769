/*
 * Backward of one adapter (docs/method.md, equations 4 to 8), block of rows by block, so
 * that a block of dY is still in the cache for its second product:
 *
 *     D = c dY B                      dB += c dY^T (H * g)
 *     dg = column sums of D * H       dA += (D * g)^T drop(X)
 *                                     dX += drop'((D * g) A)
 *
 * A block is done in two rounds, each of which can be cut without two parts writing the
 * same element: D by rows; then dA and dB by columns and dX by rows, at once unless dropout
 * wants the same scratch for both. With DoRA the first one rescales dY before it reads it,
 * and gathers the magnitudes' gradient (equations 13 and 14).
 */
#include <math.h>
#include <string.h>

#include "internal.h"

struct pass {
    bl_adapter        *adapter;
    bl_tape           *tape;
    struct bl__dropout dropout;
    int64_t            row, rows; /* the block */
    int64_t            row_parts, in_parts, out_parts, column_parts;
    double             beta; /* 0: the first block since a step overwrites dA and dB */
    void              *dx;
    int64_t            lddx;
    void              *dy;
    int64_t            lddy;
    void              *grad; /* the block's rows of dY, rescaled with DoRA */
    int64_t            ldgrad;
    const void        *x;
    int64_t            ldx;
};

static const void *parameters(const struct pass *pass, int64_t offset)
{
    const bl_group *const group = pass->adapter->group;
    return bl__at_const(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, offset);
}

static void *gradients(const struct pass *pass, int64_t offset)
{
    const bl_group *const group = pass->adapter->group;
    return bl__at(group->dtype, group->buffers[BL_BUFFER_GRADIENTS].data, offset);
}

/* Rows of dY, rescaled, and what they add to a part's sums of dY * kept */
static void rescale_rows(const struct pass *pass, int64_t part, int64_t from,
                         int64_t rows)
{
    const bl_adapter *const adapter = pass->adapter;
    const bl_tape *const    tape = pass->tape;
    const int32_t           dtype = adapter->group->dtype;
    const int64_t           out = adapter->out;
    const int64_t           row = pass->row + from;
    void *const             dots = bl__at(dtype, tape->dots, part * out);
    if (pass->row == 0) {
        memset(dots, 0, (size_t) out * bl__dtype_bytes(dtype));
    }
    bl__rescale_gradient(
        dtype, dots, bl__at(dtype, pass->grad, from * pass->ldgrad), pass->ldgrad,
        bl__at_const(dtype, pass->dy, row * pass->lddy), pass->lddy,
        adapter->frozen ? NULL : bl__at_const(dtype, tape->t, row * tape->ldt), tape->ldt,
        rows, out, adapter->ratio);
}

/* D * g, H * g and a part of dg, and drop(X) where dA will need it */
static void differentiate_rows(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const bl_tape *const     tape = pass->tape;
    const int32_t            dtype = adapter->group->dtype;
    const int64_t            r = adapter->rank;
    const int64_t            from = bl__part_start(pass->rows, pass->row_parts, part);
    const int64_t rows = bl__part_start(pass->rows, pass->row_parts, part + 1) - from;
    const int64_t row = pass->row + from;
    void *const   d = bl__at(dtype, tape->d, from * r);
    if (bl__is_dora(adapter)) {
        rescale_rows(pass, part, from, rows);
    }
    bl__project(dtype, adapter->group->pieces, rows, r, adapter->out, adapter->scaling,
                bl__at_const(dtype, pass->grad, from * pass->ldgrad), pass->ldgrad,
                parameters(pass, adapter->b), adapter->out, d);
    if (!adapter->frozen) {
        const void *const h = bl__at_const(dtype, tape->h, row * r);
        bl__add_column_dots(dtype, tape->dg + (1 + part) * r, d, r, h, r, rows, r);
        bl__scale_columns(dtype, bl__at(dtype, tape->hg, from * r), h, rows, r, tape->g);
    }
    bl__scale_columns(dtype, d, d, rows, r, tape->g);
    if (pass->dropout.q > 0 && !adapter->frozen) {
        bl__dropout(dtype, &pass->dropout, row, rows, adapter->in,
                    bl__at(dtype, tape->dropped, from * adapter->in), adapter->in,
                    bl__at_const(dtype, pass->x, row * pass->ldx), pass->ldx, 0);
    }
}

/* A panel of columns of dB (the first out_parts parts) or of dA */
static void gather_columns(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const int32_t            dtype = adapter->group->dtype;
    const int64_t            r = adapter->rank;
    if (part < pass->out_parts) {
        const int64_t out = adapter->out;
        const int64_t from = bl__part_start(out, pass->out_parts, part);
        const int64_t cols = bl__part_start(out, pass->out_parts, part + 1) - from;
        bl__gather(dtype, adapter->group->pieces, pass->rows, r, cols, adapter->scaling,
                   pass->tape->hg, bl__at_const(dtype, pass->grad, from), pass->ldgrad,
                   pass->beta, gradients(pass, adapter->b + from), out);
        return;
    }
    const int64_t in = adapter->in;
    const int64_t from = bl__part_start(in, pass->in_parts, part - pass->out_parts);
    const int64_t cols =
        bl__part_start(in, pass->in_parts, part - pass->out_parts + 1) - from;
    const int   dropout = pass->dropout.q > 0;
    const void *x = dropout ? bl__at_const(dtype, pass->tape->dropped, from)
                            : bl__at_const(dtype, pass->x, pass->row * pass->ldx + from);
    bl__gather(dtype, adapter->group->pieces, pass->rows, r, cols, 1, pass->tape->d, x,
               dropout ? in : pass->ldx, pass->beta, gradients(pass, adapter->a + from),
               in);
}

static void pass_on_rows(void *context, int64_t part)
{
    const struct pass *const pass = context;
    const bl_adapter *const  adapter = pass->adapter;
    const int32_t            dtype = adapter->group->dtype;
    const int64_t            in = adapter->in;
    const int64_t            from = bl__part_start(pass->rows, pass->row_parts, part);
    const int64_t     rows = bl__part_start(pass->rows, pass->row_parts, part + 1) - from;
    const int64_t     row = pass->row + from;
    const void *const d = bl__at_const(dtype, pass->tape->d, from * adapter->rank);
    void *const       dx = bl__at(dtype, pass->dx, row * pass->lddx);
    if (pass->dropout.q > 0) {
        void *const dropped = bl__at(dtype, pass->tape->dropped, from * in);
        bl__spread(dtype, adapter->group->pieces, rows, adapter->rank, in, 1, d,
                   parameters(pass, adapter->a), in, bl__is_dora(adapter) ? 1 : 0,
                   dropped, in);
        bl__dropout(dtype, &pass->dropout, row, rows, in, dx, pass->lddx, dropped, in, 1);
    } else {
        bl__spread(dtype, adapter->group->pieces, rows, adapter->rank, in, 1, d,
                   parameters(pass, adapter->a), in, 1, dx, pass->lddx);
    }
}

/* A panel of columns of dX, without dropout */
static void pass_on_columns(const struct pass *pass, int64_t part)
{
    const bl_adapter *const adapter = pass->adapter;
    const int32_t           dtype = adapter->group->dtype;
    const int64_t           in = adapter->in;
    const int64_t           from = bl__part_start(in, pass->in_parts, part);
    const int64_t           cols = bl__part_start(in, pass->in_parts, part + 1) - from;
    bl__spread(dtype, adapter->group->pieces, pass->rows, adapter->rank, cols, 1,
               pass->tape->d, parameters(pass, adapter->a + from), in, 1,
               bl__at(dtype, pass->dx, pass->row * pass->lddx + from), pass->lddx);
}

static void gather_or_pass_on(void *context, int64_t part)
{
    const struct pass *const pass = context;
    if (part < pass->column_parts) {
        gather_columns(context, part);
    } else if (bl__cut_by_columns(pass->adapter)) {
        pass_on_columns(pass, part - pass->column_parts);
    } else {
        pass_on_rows(context, part - pass->column_parts);
    }
}

/* Into parts of so many multiplications, each sum of theirs in its own order */
static void cut_block(struct pass *pass)
{
    const bl_adapter *const adapter = pass->adapter;
    const double            per_column = (double) pass->rows * (double) adapter->rank;
    const double            out_work = per_column * (double) adapter->out;
    const double            in_work = per_column * (double) adapter->in;
    pass->row_parts = bl__row_parts(adapter, pass->rows, fmin(in_work, out_work));
    pass->in_parts = bl__column_parts(adapter, adapter->in, in_work);
    pass->out_parts = bl__column_parts(adapter, adapter->out, out_work);
    pass->column_parts = adapter->frozen ? 0 : pass->out_parts + pass->in_parts;
}

static void sum_dots(const struct pass *pass)
{
    double *const sum = pass->tape->dg;
    const int64_t r = pass->adapter->rank;
    for (int64_t part = 1; part <= pass->row_parts; part++) {
        for (int64_t i = 0; i < r; i++) {
            sum[i] += sum[part * r + i];
            sum[part * r + i] = 0;
        }
    }
}

static void backward_block(struct pass *pass)
{
    bl_adapter *const     adapter = pass->adapter;
    const bl_group *const group = adapter->group;
    bl_tape *const        tape = pass->tape;
    const int64_t         rows = pass->rows;
    const int             dropout = pass->dropout.q > 0;
    /* with dropout the host's own product takes dY as it is: not rescaled in place */
    const int unproject = bl__is_dora(adapter) && dropout;
    cut_block(pass);
    pass->grad = unproject ? tape->rescaled
                           : bl__at(group->dtype, pass->dy, pass->row * pass->lddy);
    pass->ldgrad = unproject ? adapter->out : pass->lddy;
    bl__parallel_for(group, pass->row_parts, differentiate_rows, pass);
    sum_dots(pass);
    if (!dropout) {
        const int64_t parts =
            bl__cut_by_columns(adapter) ? pass->in_parts : pass->row_parts;
        bl__parallel_for(group, pass->column_parts + (pass->dx == NULL ? 0 : parts),
                         gather_or_pass_on, pass);
        return;
    }
    bl__parallel_for(group, pass->column_parts, gather_columns, pass);
    if (pass->dx != NULL) {
        if (unproject) {
            bl__subtract(group->dtype, tape->rescaled, adapter->out,
                         bl__at_const(group->dtype, pass->dy, pass->row * pass->lddy),
                         pass->lddy, rows, adapter->out);
            bl__dora_unproject(adapter, tape, rows);
        }
        bl__parallel_for(group, pass->row_parts, pass_on_rows, pass);
    }
}

/* The magnitudes' gradient, from the sums of all parts */
static void gather_magnitudes(const struct pass *pass, int64_t parts)
{
    const bl_adapter *const adapter = pass->adapter;
    const int32_t           dtype = adapter->group->dtype;
    void *const             to = gradients(pass, adapter->magnitude);
    for (int64_t j = 0; j < adapter->out; j++) {
        double dot = 0;
        for (int64_t part = 0; part < parts; part++) {
            dot += bl__get(dtype, pass->tape->dots, part * adapter->out + j);
        }
        /* of y as it was before it was rescaled, or of what the host still has of it */
        const double factor =
            pass->tape->kept == NULL ? bl__get(dtype, adapter->ratio, j) : 1;
        const double length = adapter->lengths[j] * factor;
        dot = length == 0 ? 0 : dot / length;
        bl__set(dtype, to, j, dot + (adapter->has_gradient ? bl__get(dtype, to, j) : 0));
    }
}

int bl_backward(bl_adapter *adapter, bl_tape *tape, int64_t n, void *dx, int64_t lddx,
                void *dy, int64_t lddy, const void *x, int64_t ldx)
{
    int rc;
    if ((rc = bl__pass_check(adapter, tape, n)) != 0 ||
        (rc = bl__matrix_check("dy", dy, n, adapter->out, lddy)) != 0 ||
        (rc = bl__matrix_check("x", x, n, adapter->in, ldx)) != 0 ||
        (dx != NULL && (rc = bl__matrix_check("dx", dx, n, adapter->in, lddx)) != 0)) {
        return rc;
    }
    if (!tape->keep || !tape->filled) {
        return bl__fail(BL_E_STATE, "%s",
                        !tape->keep ? "the tape was made with BL_KEEP_NOTHING"
                                    : "the tape holds no forward");
    }
    if (n != tape->n) {
        return bl__fail(BL_E_SHAPE, "n is %lld, the tape's forward had %lld rows",
                        (long long) n, (long long) tape->n);
    }
    if (tape->version != adapter->group->version) {
        return bl__fail(BL_E_STATE, "parameters of %s have changed since the forward",
                        adapter->name);
    }
    struct pass pass = {
        .adapter = adapter,
        .tape = tape,
        .dropout = bl__tape_dropout(adapter, tape->key),
        .beta = adapter->has_gradient ? 1 : 0,
        .dx = dx,
        .lddx = lddx,
        .dy = dy,
        .lddy = lddy,
        .x = x,
        .ldx = ldx,
    };
    if (n == 0) {
        return 0;
    }
    memset(tape->dg, 0,
           (size_t) (1 + BL__MOST_PARTS) * (size_t) adapter->rank * sizeof *tape->dg);
    const int64_t block = bl__pass_block(adapter, tape);
    int64_t       parts = 0;
    for (; pass.row < n; pass.row += pass.rows) {
        pass.rows = n - pass.row < block ? n - pass.row : block;
        backward_block(&pass);
        pass.beta = 1;
        parts = pass.row == 0 ? pass.row_parts : parts; /* no later block has more */
    }
    if (bl__is_dora(adapter) && !adapter->frozen) {
        gather_magnitudes(&pass, parts);
    }
    if (!adapter->frozen && adapter->s != adapter->magnitude) {
        const bl_group *const group = adapter->group;
        const uint8_t *const  mask = group->mask + adapter->first_rank;
        void *const           ds = gradients(&pass, adapter->s);
        if (!adapter->has_gradient) {
            memset(ds, 0, (size_t) adapter->rank * bl__dtype_bytes(group->dtype));
        }
        /* A silenced rank is a constant: its g does not reach the output. */
        for (int64_t i = 0; i < adapter->rank; i++) {
            tape->dg[i] = mask[i] ? tape->dg[i] : 0;
        }
        if (bl__is_adalora(group)) {
            for (int64_t i = 0; i < adapter->rank; i++) {
                bl__set(group->dtype, ds, i, bl__get(group->dtype, ds, i) + tape->dg[i]);
            }
        } else {
            bl__score_backward(group->dtype, ds, tape->true_g, tape->dg, adapter->rank,
                               adapter->mass, group->options.temperature);
        }
    }
    adapter->has_gradient = !adapter->frozen;
    return 0;
}
