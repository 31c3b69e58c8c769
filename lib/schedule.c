/*
 * When snapshots and reallocations happen and how far Top-P reaches (docs/method.md,
 * "Schedule"). All times are optimizer steps already taken.
 */
#include <math.h>

#include "formulas.h"

static const double pi = 3.14159265358979323846;

int bl__schedule_due(const bl_options *o, int64_t t)
{
    return o->reallocation && t > o->start && (t - o->start) % o->period == 0 &&
           t <= o->total_steps - o->period;
}

int bl__schedule_snapshot_due(const bl_options *o, int64_t t)
{
    return o->reallocation && o->expand == BL_EXPAND_HISTORY && t > o->start &&
           (t - o->start - o->history_phase) % o->history_interval == 0;
}

double bl__schedule_threshold(const bl_options *o, int64_t t)
{
    const double u = (double) (t - 1 - o->start);
    const double share = fmax(0, fmin(u / (double) o->p_steps, 1));
    switch (o->p_curve) {
    case BL_CURVE_LINEAR:
        return o->p_start + (o->p_end - o->p_start) * share;
    case BL_CURVE_COSINE:
        return o->p_end - (o->p_end - o->p_start) * (1 + cos(pi * share)) / 2;
    default:
        return o->p_start;
    }
}

int64_t bl__schedule_cap(const bl_options *o, int64_t rank, int64_t alive)
{
    /* The factor forgives the rounding of fractions such as 0.29 of 100. */
    const int64_t part = (int64_t) (o->max_prune_fraction * (double) rank * (1 + 1e-12));
    return part < alive - 1 ? part : alive - 1;
}

int bl__schedule_check(const bl_options *o, int64_t largest_rank, int room)
{
    if (o->start > o->total_steps - 2 * o->period) {
        return bl__fail(BL_E_OPTIONS,
                        "would never reallocate: total_steps is %lld, must be at least "
                        "start + 2 * period (%lld + 2 * %lld), or reallocation 0",
                        (long long) o->total_steps, (long long) o->start,
                        (long long) o->period);
    }
    if (!room && bl__schedule_cap(o, largest_rank, largest_rank) < 1) {
        return bl__fail(BL_E_OPTIONS,
                        "would never reallocate: max_prune_fraction %g of rank %lld is "
                        "less than one rank, or the only one; or set reallocation 0",
                        o->max_prune_fraction, (long long) largest_rank);
    }
    /* p(t) is monotone, so its first and last use bound all others. */
    const int64_t first = o->start + o->period;
    const int64_t last =
        o->start + (o->total_steps - o->period - o->start) / o->period * o->period;
    if (!room && o->fixed_count == 0 && bl__schedule_threshold(o, first) >= 1 &&
        bl__schedule_threshold(o, last) >= 1) {
        return bl__fail(BL_E_OPTIONS,
                        "would never reallocate: p is 1 at every reallocation "
                        "(p_start %g, p_end %g)",
                        o->p_start, o->p_end);
    }
    /* The least t > start that the history's rule accepts. */
    const int64_t interval = o->history_interval;
    const int64_t first_snapshot =
        o->start + 1 + ((o->history_phase - 1) % interval + interval) % interval;
    if (o->expand == BL_EXPAND_HISTORY && first_snapshot > first) {
        return bl__fail(BL_E_OPTIONS,
                        "no history at the first reallocation: first snapshot is after "
                        "step %lld, first reallocation after step %lld",
                        (long long) first_snapshot, (long long) first);
    }
    return 0;
}
