/*
 * Batches of data; see data.h. Everything is drawn by a counter-based generator, so a
 * batch is the same whatever came before it, and nothing has to be stored or resumed.
 */
#include "text/data.h"

#include <string.h>

#define ROUNDS 8 /* of the Feistel network */

/* The finaliser of splitmix64: every bit of x changes half of the bits of the result. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

int64_t data_window(const struct data *data, int64_t context, uint64_t seed, int64_t step,
                    int64_t index)
{
    uint64_t starts = (uint64_t) (data->count - context);
    uint64_t key = mix(mix(mix(seed) ^ (uint64_t) step) ^ (uint64_t) index);
    /* Draws above the last multiple of `starts` would favour the first windows. */
    uint64_t excess = (UINT64_MAX % starts + 1) % starts;

    for (uint64_t attempt = 0;; attempt++) {
        uint64_t draw = mix(key + attempt);

        if (draw <= UINT64_MAX - excess) {
            return (int64_t) (draw % starts);
        }
    }
}

/*
 * A Feistel network permutes the numbers of 2 * half bits. Fewer than four times as many
 * as there are examples, so going on until the number is that of an example, which is
 * again a permutation, takes four rounds of it on average at most.
 */
int64_t data_example(const struct data *data, uint64_t seed, int64_t epoch,
                     int64_t position)
{
    uint64_t key = mix(mix(seed) ^ (uint64_t) epoch), x = (uint64_t) position;
    int      half = 1;

    while (half < 31 && (int64_t) 1 << 2 * half < data->examples) {
        half++;
    }
    do {
        uint64_t mask = ((uint64_t) 1 << half) - 1, left = x >> half, right = x & mask;

        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t next = left ^ (mix(key ^ mix(right << 8 | round)) & mask);

            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t) data->examples);
    return (int64_t) x;
}

int64_t data_row(const struct data *data, int64_t example, int64_t length, int32_t *ids,
                 int32_t *targets)
{
    const int32_t *from = data->ids + data->start[example];
    int64_t        count = data->start[example + 1] - data->start[example];
    int64_t        predicted = 0;

    for (int64_t i = 0; i < length; i++) {
        int inside = i + 1 < count;

        ids[i] = inside ? from[i] : 0;
        targets[i] = inside && i + 1 >= data->loss_from[example] ? from[i + 1] : -1;
        predicted += targets[i] >= 0;
    }
    return predicted;
}

static int64_t row_of(const struct data *data, const struct sampling *sampling,
                      int64_t row)
{
    int64_t epoch = row / data->examples, position = row % data->examples;

    return sampling->order == DATA_RANDOM
               ? data_example(data, sampling->seed, epoch, position)
               : position;
}

static int64_t fill_examples(const struct data *data, const struct sampling *sampling,
                             int64_t first, int32_t *ids, int32_t *targets,
                             int64_t *length)
{
    int64_t longest = 0, predicted = 0;

    for (int64_t i = 0; i < sampling->batch; i++) {
        int64_t example = row_of(data, sampling, first + i);
        int64_t inputs = data->start[example + 1] - data->start[example] - 1;

        longest = inputs > longest ? inputs : longest;
    }
    for (int64_t i = 0; i < sampling->batch; i++) {
        predicted += data_row(data, row_of(data, sampling, first + i), longest,
                              ids + i * longest, targets + i * longest);
    }
    *length = longest;
    return predicted;
}

int64_t data_fill(const struct data *data, const struct sampling *sampling, int64_t micro,
                  int32_t *ids, int32_t *targets, int64_t *length)
{
    int64_t first = micro * sampling->batch, context = sampling->context;
    int64_t step = micro / sampling->accumulate;

    if (data->examples > 0) {
        return fill_examples(data, sampling, first, ids, targets, length);
    }
    for (int64_t i = 0; i < sampling->batch; i++) {
        int64_t index = micro % sampling->accumulate * sampling->batch + i;
        int64_t at = sampling->order == DATA_RANDOM
                         ? data_window(data, context, sampling->seed, step, index)
                         : (first + i) % ((data->count - 1) / context) * context;
        size_t  bytes = (size_t) context * sizeof *ids;

        memcpy(ids + i * context, data->ids + at, bytes);
        memcpy(targets + i * context, data->ids + at + 1, bytes);
    }
    *length = context;
    return sampling->batch * context;
}
