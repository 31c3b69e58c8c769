/*
 * Interleaved rounds, and what is made of them. The interval of a median needs no
 * assumption about how times are spread: it lies between two of the sorted ratios, which
 * the binomial distribution names.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

static double sample(const struct side *side, void *context, int repeats)
{
    double sum = 0;
    machine_own(side->owner);
    if (side->ready == NULL) {
        const double start = machine_now();
        for (int i = 0; i < repeats; i++) {
            side->run(context);
        }
        return (machine_now() - start) / repeats;
    }
    for (int i = 0; i < repeats; i++) {
        side->ready(context);
        const double start = machine_now();
        side->run(context);
        sum += machine_now() - start;
    }
    return sum / repeats;
}

/* Runs that last `least` seconds, the first ones not counted. */
static int repeats_of(const struct side *side, void *context)
{
    int    repeats = 1;
    double one = sample(side, context, 1);
    for (one = sample(side, context, 1); one * repeats < side->least && repeats < 1 << 20;
         one = sample(side, context, repeats)) {
        const double wanted = ceil(side->least / (one > 1e-9 ? one : 1e-9));
        repeats = wanted > 8.0 * repeats ? 8 * repeats
                  : wanted > repeats     ? (int) wanted
                                         : repeats + 1;
    }
    return repeats;
}

void pairs_run(struct samples *samples, const struct side *sides, int count,
               void *context, int pairs)
{
    int repeats[MOST_SIDES];
    samples->pairs = pairs < MOST_PAIRS ? pairs : MOST_PAIRS;
    samples->sides = count;
    for (int k = 0; k < count; k++) {
        repeats[k] = repeats_of(&sides[k], context);
    }
    for (int i = 0; i < samples->pairs; i++) {
        for (int j = 0; j < count; j++) {
            const int k = i % 2 ? count - 1 - j : j;
            samples->seconds[k][i] = sample(&sides[k], context, repeats[k]);
        }
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *) a;
    const double y = *(const double *) b;
    return (x > y) - (x < y);
}

static void sort(double *to, const double *values, int count)
{
    for (int i = 0; i < count; i++) {
        to[i] = values[i];
    }
    qsort(to, (size_t) count, sizeof *to, ascending);
}

double pairs_median(const double *values, int count)
{
    double sorted[MOST_PAIRS];
    sort(sorted, values, count);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

/* How many of the sorted values the 95 % interval of the median leaves out at each end:
 * the largest k with P(Binomial(count, 1/2) < k) <= 2.5 %. */
static int left_out(int count)
{
    double probability = pow(0.5, count); /* of exactly k */
    double below = probability;
    int    k = 0;
    while (below <= 0.025) {
        k++;
        probability *= (double) (count - k + 1) / k;
        below += probability;
    }
    return k > 0 ? k - 1 : 0;
}

struct ratio pairs_ratio(const double *ours, const double *theirs, int pairs)
{
    double ratios[MOST_PAIRS], sorted[MOST_PAIRS];
    for (int i = 0; i < pairs; i++) {
        ratios[i] = ours[i] / theirs[i];
    }
    sort(sorted, ratios, pairs);
    const int out = left_out(pairs);
    return (struct ratio){
        .ours = pairs_median(ours, pairs),
        .theirs = pairs_median(theirs, pairs),
        .median = pairs_median(ratios, pairs),
        .low = sorted[out],
        .high = sorted[pairs - 1 - out],
    };
}
