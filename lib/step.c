/*
 * The optimizer's step over a group: one look at the gradients (are they finite?), one
 * fused pass of AdamW over every adapter's A, B, s and magnitudes, then AdaLoRA's
 * allocation and the history.
 */
#include <float.h>
#include <math.h>

#include "internal.h"

static int check_penalty(const bl_group *group)
{
    return !bl__lacks_penalty(group)
               ? 0
               : bl__fail(BL_E_STATE, "AdaLoRA's penalty is not in the gradients yet: "
                                      "bl_group_add_penalty comes first");
}

int bl_group_copy_gradient_norm(const bl_group *group, double *norm)
{
    if (group == NULL || norm == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "norm");
    }
    const int rc = check_penalty(group);
    if (rc != 0) {
        return rc;
    }
    const void *const gradients = group->buffers[BL_BUFFER_GRADIENTS].data;
    double            sum = 0;
    double            most = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        if (adapter->has_gradient && !adapter->frozen) {
            const void *const from = bl__at_const(group->dtype, gradients, adapter->a);
            const int64_t     count = adapter->end - adapter->a;
            const double      squares = bl__sum_squares(group->dtype, from, count);
            sum += squares;
            if (!isfinite(squares)) {
                const double here = bl__max_abs(group->dtype, from, count);
                most = here > most || isnan(here) ? here : most;
            }
        }
    }
    /* A finite gradient may have squares beyond double's range: DBL_MAX says "huge". */
    *norm = isfinite(most) && isinf(sum) ? DBL_MAX : sqrt(sum);
    return 0;
}

/* A step is cut into parts of the buffers, whatever adapters these are of. */
enum { MOST_STEP_PARTS = 64 };
static const int64_t least_step_part = 65536;

struct pass {
    bl_group        *group;
    struct bl__adamw a, b, s;
    int64_t          parts;
    double           most[MOST_STEP_PARTS]; /* largest |gradient| of a part */
};

static int64_t parts_of(const bl_group *group)
{
    const int64_t parts = group->elements / least_step_part;
    return group->options.parallel_for == NULL || parts < 1 ? 1
           : parts < MOST_STEP_PARTS                        ? parts
                                                            : MOST_STEP_PARTS;
}

/* Parts begin on lines of the cache. */
static int64_t start_of(const struct pass *pass, int64_t part)
{
    const bl_group *const group = pass->group;
    const int64_t unit = (int64_t) (BL__ALIGNMENT / bl__dtype_bytes(group->dtype));
    return bl__part_start(group->elements / unit, pass->parts, part) * unit;
}

/* What [*start, *end) and [from, to) share; whether that is anything. */
static int narrow(int64_t *start, int64_t *end, int64_t from, int64_t to)
{
    *start = *start > from ? *start : from;
    *end = *end < to ? *end : to;
    return *start < *end;
}

static void look_at_part(void *context, int64_t part)
{
    struct pass *const    pass = context;
    const bl_group *const group = pass->group;
    const void *const     gradients = group->buffers[BL_BUFFER_GRADIENTS].data;
    double                most = 0;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        int64_t                 start = start_of(pass, part);
        int64_t                 end = start_of(pass, part + 1);
        if (!adapter->has_gradient || adapter->frozen ||
            !narrow(&start, &end, adapter->a, adapter->end)) {
            continue;
        }
        const double here = bl__max_abs(
            group->dtype, bl__at_const(group->dtype, gradients, start), end - start);
        most = here > most || isnan(here) ? here : most;
        if (isnan(most)) {
            break;
        }
    }
    pass->most[part] = most;
}

/* Whose gradient it is that cannot be used, and how large it is. */
static int complain_nonfinite(const bl_group *group, double grad_scale, double limit)
{
    const void *const gradients = group->buffers[BL_BUFFER_GRADIENTS].data;
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        if (!adapter->has_gradient || adapter->frozen) {
            continue;
        }
        const double most =
            fabs(grad_scale) *
            bl__max_abs(group->dtype, bl__at_const(group->dtype, gradients, adapter->a),
                        adapter->end - adapter->a);
        if (!(most < limit)) {
            return bl__fail(BL_E_NONFINITE,
                            "gradient of %s reaches %g, must be finite with a finite "
                            "square; it was discarded",
                            adapter->name, most);
        }
    }
    return 0;
}

static int check_finite(struct pass *pass, double grad_scale)
{
    const double limit = sqrt(bl__largest(pass->group->dtype));
    bl__parallel_for(pass->group, pass->parts, look_at_part, pass);
    for (int64_t part = 0; part < pass->parts; part++) {
        if (!(fabs(grad_scale) * pass->most[part] < limit)) {
            return complain_nonfinite(pass->group, grad_scale, limit);
        }
    }
    return 0;
}

/* The part of [from, to) that is in [start, end) */
static void step_segment(bl_group *group, const struct bl__adamw *adamw, int64_t start,
                         int64_t end, int64_t from, int64_t to)
{
    if (narrow(&start, &end, from, to)) {
        bl__adamw(group->dtype, adamw, end - start,
                  bl__at(group->dtype, group->buffers[BL_BUFFER_PARAMETERS].data, start),
                  bl__at(group->dtype, group->buffers[BL_BUFFER_M].data, start),
                  bl__at(group->dtype, group->buffers[BL_BUFFER_V].data, start),
                  bl__at(group->dtype, group->buffers[BL_BUFFER_GRADIENTS].data, start));
    }
}

static void step_part(void *context, int64_t part)
{
    const struct pass *const pass = context;
    bl_group *const          group = pass->group;
    const int64_t            start = start_of(pass, part);
    const int64_t            end = start_of(pass, part + 1);
    for (int64_t i = 0; i < group->count; i++) {
        const bl_adapter *const adapter = &group->adapters[i];
        const int64_t           r = adapter->rank;
        const int64_t           scores = adapter->s == adapter->magnitude ? 0 : r;
        if (!adapter->frozen && adapter->a < end && adapter->end > start) {
            step_segment(group, &pass->a, start, end, adapter->a,
                         adapter->a + r * adapter->in);
            step_segment(group, &pass->b, start, end, adapter->b,
                         adapter->b + r * adapter->out);
            step_segment(group, &pass->s, start, end, adapter->s, adapter->s + scores);
            step_segment(group, &pass->a, start, end, adapter->magnitude, adapter->end);
        }
    }
}

/* What follows a step on the parameters, whoever made it. */
static void advance(bl_group *group, double grad_scale)
{
    group->t++;
    if (bl__is_adalora(group)) {
        bl__adalora_advance(group, grad_scale);
    }
    bl__group_changed(group, 0);
    bl__group_forget_gradients(group);
    if (bl__schedule_snapshot_due(&group->options, group->t)) {
        bl__history_snapshot(group);
    }
}

int bl_group_tick(bl_group *group)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    const int rc = check_penalty(group);
    if (rc != 0) {
        return rc;
    }
    advance(group, 1);
    return 0;
}

int bl_group_step(bl_group *group, double lr, double grad_scale)
{
    if (group == NULL) {
        return bl__fail(BL_E_ARG, "group is NULL");
    }
    if (!(lr >= 0 && isfinite(lr))) {
        return bl__fail(BL_E_RANGE, "lr is %g, must be finite and at least 0", lr);
    }
    if (!isfinite(grad_scale)) {
        return bl__fail(BL_E_RANGE, "grad_scale is %g, must be finite", grad_scale);
    }
    const bl_options *const o = &group->options;
    const double most_lr = lr * fmax(1, fmax(o->b_lr_ratio, o->score_lr_ratio));
    const double largest = bl__largest(group->dtype);
    if (!(most_lr * fmax(1, o->weight_decay) < largest * (1 - o->beta1))) {
        return bl__fail(BL_E_RANGE, "lr is %g: too large for the parameters' dtype", lr);
    }
    if (!(fabs(grad_scale) < largest)) {
        return bl__fail(BL_E_RANGE,
                        "grad_scale is %g: too large for the parameters' dtype",
                        grad_scale);
    }
    if (o->optimizer != BL_OPTIMIZER_ADAMW) {
        return bl__fail(BL_E_STATE, "the optimizer is the host's: bl_group_tick tells of "
                                    "its steps");
    }
    int rc = 0;
    if (bl__lacks_penalty(group)) {
        rc = bl_group_add_penalty(group, grad_scale == 0 ? 0 : 1 / grad_scale);
    }
    if (rc != 0) {
        return rc;
    }
    const int64_t t = group->t + 1;
    struct pass   pass = {
          .group = group,
          .a = bl__adamw_at(o, t, lr, grad_scale),
          .b = bl__adamw_at(o, t, lr * o->b_lr_ratio, grad_scale),
          .s = bl__adamw_at(o, t, lr * o->score_lr_ratio, grad_scale),
          .parts = parts_of(group),
    };
    rc = check_finite(&pass, grad_scale);
    if (rc != 0) {
        bl__group_forget_gradients(group);
        return rc;
    }
    bl__group_settle_gradients(group);
    bl__parallel_for(group, pass.parts, step_part, &pass);
    advance(group, grad_scale);
    return 0;
}

int bl_step(bl_adapter *adapter, double lr, double grad_scale)
{
    if (adapter == NULL) {
        return bl__fail(BL_E_ARG, "adapter is NULL");
    }
    if (adapter->group->count > 1) {
        return bl__fail(BL_E_STATE,
                        "%s is one of %lld adapters of a group: step the group",
                        adapter->name, (long long) adapter->group->count);
    }
    return bl_group_step(adapter->group, lr, grad_scale);
}
