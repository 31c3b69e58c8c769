/*
 * One step of a training. Its loss is the mean over all predicted ids of its batch *
 * accumulate windows. The learning rate follows transformers' schedules and the clipping
 * PyTorch's, so that a run can be compared number by number with one of theirs.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "train/dump.h"
#include "train/train.h"

#define NONFINITE_LIMIT 5 /* skipped steps in a row that end a training */

static int fail(struct train *train, const char *where)
{
    snprintf(train->error, sizeof train->error, "%s: %s", where, bl_last_error());
    return -1;
}

const struct llama_adapters *train_adapters(const struct train *train)
{
    return train->adapters.group != NULL ? &train->adapters : NULL;
}

/* Share of the peak lr at step index k of n with w steps of warmup, as transformers'
 * get_{constant,linear,cosine}_schedule_with_warmup. */
static double lr_factor(int32_t schedule, int64_t k, int64_t w, int64_t n)
{
    double rest = (double) (n - w > 1 ? n - w : 1);

    if (k < w) {
        return (double) k / (double) w;
    }
    switch (schedule) {
    case BL_CURVE_LINEAR:
        return fmax(0, (double) (n - k) / rest);
    case BL_CURVE_COSINE:
        return 0.5 * (1 + cos(acos(-1) * (double) (k - w) / rest));
    default:
        return 1;
    }
}

/* All micro-batches of a step, one behind another; returns the number of predicted ids,
 * which the mean is over and which must be known before the first backward. */
static int64_t fill_step(struct train *train, int64_t step)
{
    int64_t part = train->batch * train->context, predicted = 0;

    for (int64_t micro = 0; micro < train->accumulate; micro++) {
        predicted +=
            data_fill(&train->data, &train->sampling, step * train->accumulate + micro,
                      train->ids + micro * part, train->targets + micro * part,
                      &train->lengths[micro]);
    }
    return predicted;
}

static int gather_gradients(struct train *train, int64_t step,
                            struct train_step_result *result)
{
    int64_t part = train->batch * train->context;
    double  total = 0;

    result->tokens = fill_step(train, step);
    for (int64_t micro = 0; micro < train->accumulate; micro++) {
        double  sum;
        int64_t predicted;

        if (llama_forward(train->pass, train->batch, train->lengths[micro],
                          train->ids + micro * part, train->targets + micro * part,
                          step * train->accumulate + micro, &sum, &predicted,
                          train->error, sizeof train->error) != 0 ||
            llama_backward(train->pass, 1 / (double) result->tokens, train->error,
                           sizeof train->error) != 0) {
            return -1;
        }
        total += sum;
    }
    result->loss = total / (double) result->tokens;
    return 0;
}

static int dump(struct train *train, const struct train_step_result *result)
{
    const struct dump dump = { train->ids,         train->targets, train->batch,
                               train->accumulate,  train->context, train->lengths,
                               train->totals.step, result->loss };

    return dump_write(train->dump_path, &train->adapters, &dump, train->error,
                      sizeof train->error);
}

/* The factor of torch.nn.utils.clip_grad_norm_. A norm that is not finite is left for
 * the step to find, which then changes nothing. */
static int measure_gradient(struct train *train, double *norm, double *factor)
{
    *factor = 1;
    if (train->full != NULL) {
        *norm = full_gradient_norm(train->full);
    } else if (bl_group_add_penalty(train->adapters.group, 1) != 0 ||
               bl_group_copy_gradient_norm(train->adapters.group, norm) != 0) {
        return fail(train, "gradient norm");
    }
    if (train->clip > 0 && isfinite(*norm)) {
        *factor = fmin(1, train->clip / (*norm + 1e-6));
    }
    return 0;
}

/* 1: the gradients were not finite and the parameters are as before. */
static int optimize(struct train *train, double lr, double factor)
{
    int code;

    if (train->full != NULL) {
        return full_step(train->full, lr, factor);
    }
    code = bl_group_step(train->adapters.group, lr, factor);
    if (code == BL_E_NONFINITE) {
        return 1;
    }
    return code != 0 ? fail(train, "step") : 0;
}

static int skip(struct train *train)
{
    train->totals.skipped++;
    progress_note(&train->progress,
                  "warning: step %" PRId64 " skipped: gradients are not finite",
                  train->totals.step);
    if (++train->totals.skipped_in_a_row < NONFINITE_LIMIT) {
        return 0;
    }
    snprintf(train->error, sizeof train->error,
             "step %" PRId64 ": %d steps in a row with gradients that are not finite; a "
             "smaller --lr may help",
             train->totals.step, NONFINITE_LIMIT);
    return -1;
}

static void tell_plan(struct train *train)
{
    static const char *const words[] = { "from history", "copied",     "fresh",
                                         "removed",      "left alone", "given up" };

    const bl_plan *plan = train->plan;
    const int32_t *actions = bl_plan_get_actions(plan);
    int64_t        count[BL_ACTION_SHRINK + 1] = { 0 }, moved = 0;
    char           text[MESSAGE_SIZE] = "";
    size_t         used = 0;

    for (int64_t i = 0; i < bl_plan_get_count(plan); i++) {
        count[actions[i]]++;
        moved += actions[i] != BL_ACTION_SKIP;
    }
    for (int i = 0; i <= BL_ACTION_SHRINK; i++) {
        if (count[i] > 0) {
            used += (size_t) snprintf(text + used, sizeof text - used, ", %" PRId64 " %s",
                                      count[i], words[i]);
        }
    }
    train->totals.reallocations++;
    train->totals.moved += moved;
    if (bl_plan_get_count(plan) == 0) {
        return;
    }
    progress_note(&train->progress,
                  "step %" PRId64 ": reallocation at p %.4f: %" PRId64 " ranks moved%s",
                  train->totals.step, bl_plan_get_threshold(plan), moved, text);
}

static int reallocate(struct train *train)
{
    int code;

    if (train_log_ranks(train, 0) != 0) {
        return -1;
    }
    code = bl_group_reallocate(train->adapters.group, train->plan);
    if (code == BL_E_STATE) { /* nothing has changed: the training is still a good one */
        progress_note(&train->progress, "step %" PRId64 ": no reallocation: %s",
                      train->totals.step, bl_last_error());
        return 0;
    }
    if (code != 0) {
        return fail(train, "reallocation");
    }
    tell_plan(train);
    return train_log_plan(train) != 0 || train_log_ranks(train, 1) != 0 ? -1 : 0;
}

int train_step(struct train *train)
{
    struct train_step_result result = { 0 };

    int64_t step = train->totals.step;
    int64_t warmup = (int64_t) ceil((double) train->steps * train->warmup);
    double  factor;
    int     status;

    result.lr =
        train->options.lr * lr_factor(train->lr_schedule, step, warmup, train->steps);
    if (gather_gradients(train, step, &result) != 0 ||
        (step == 0 && train->dump_path != NULL && dump(train, &result) != 0) ||
        measure_gradient(train, &result.gradient_norm, &factor) != 0) {
        return -1;
    }
    if (train->options.method == BL_METHOD_ADALORA) {
        result.penalty = bl_group_get_penalty(train->adapters.group);
    }
    status = optimize(train, result.lr, factor);
    if (status < 0) {
        return -1;
    }
    result.skipped = status > 0;
    train->totals.step++;
    train->totals.tokens += result.tokens;
    if (train->totals.step > train->steps - (train->steps + 9) / 10 &&
        isfinite(result.loss)) {
        train->totals.loss_sum += result.loss;
        train->totals.loss_count++;
    }
    if (train_log_step(train, &result) != 0) {
        return -1;
    }
    progress_step(&train->progress, train->totals.step, result.loss, result.tokens);
    if (result.skipped) {
        return skip(train);
    }
    train->totals.skipped_in_a_row = 0;
    if (train->options.reallocation && bl_group_reallocate_due(train->adapters.group)) {
        return reallocate(train);
    }
    return 0;
}
