/* Loss and exact completions over all of some data; see evaluate.h. */
#include "train/evaluate.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/llama.h"

#define DEFAULT_CONTEXT 2048

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t evaluate_context(const struct llama *model)
{
    return smaller(model->config.max_context, DEFAULT_CONTEXT);
}

static int64_t inputs_of(const struct data *data, int64_t example)
{
    return data->start[example + 1] - data->start[example] - 1;
}

/* The longest of the examples first .. first + rows - 1, in inputs. */
static int64_t longest(const struct data *data, int64_t first, int64_t rows)
{
    int64_t most = 0;

    for (int64_t e = first; e < first + rows; e++) {
        most = inputs_of(data, e) > most ? inputs_of(data, e) : most;
    }
    return most;
}

void evaluate_room(const struct data *data, int64_t *context, int64_t *batch)
{
    if (data->examples > 0) {
        *context = longest(data, 0, data->examples);
        *batch = smaller(*batch, data->examples);
    } else if (data->count > 1) {
        *context = smaller(*context, data->count - 1);
        *batch = smaller(*batch, (data->count - 1) / *context);
    }
}

/* ===== A stream =========================================================== */

static int evaluate_stream(const struct llama          *model,
                           const struct llama_adapters *adapters, const struct data *data,
                           int64_t context, int64_t batch, struct evaluation *out,
                           char *error, size_t size)
{
    struct llama_pass *pass;
    double             total = 0;
    int64_t            done = 0, inputs = data->count - 1;

    if (inputs < 1) {
        snprintf(error, size, "the data has %lld token ids, a loss needs 2 or more",
                 (long long) data->count);
        return -1;
    }
    evaluate_room(data, &context, &batch);
    if (llama_pass_create(&pass, model, adapters, batch, context, 0, error, size) != 0) {
        return -1;
    }
    while (done < inputs) {
        int64_t windows = smaller(batch, (inputs - done) / context);
        int64_t length = windows > 0 ? context : inputs - done;
        int64_t here;
        double  sum;

        windows = windows > 0 ? windows : 1;
        if (llama_forward(pass, windows, length, data->ids + done, data->ids + done + 1,
                          BL_NO_DROPOUT, &sum, &here, error, size) != 0) {
            llama_pass_free(pass);
            return -1;
        }
        total += sum;
        done += here;
    }
    llama_pass_free(pass);
    *out = (struct evaluation){ total / (double) inputs, inputs, 0, 0 };
    return 0;
}

/* ===== Examples =========================================================== */

/* Rows of which every predicted target is the best. */
static int64_t count_exact(const uint8_t *best, const int32_t *targets, int64_t rows,
                           int64_t length)
{
    int64_t count = 0;

    for (int64_t r = 0; r < rows; r++) {
        int exact = 1;

        for (int64_t i = r * length; exact && i < (r + 1) * length; i++) {
            exact = targets[i] < 0 || best[i];
        }
        count += exact;
    }
    return count;
}

static int evaluate_examples(const struct llama          *model,
                             const struct llama_adapters *adapters,
                             const struct data *data, int64_t context, int64_t batch,
                             struct evaluation *out, char *error, size_t size)
{
    struct evaluation  sum = { 0, 0, data->examples, 0 };
    struct llama_pass *pass;
    int32_t           *ids, *targets;
    int                status = -1;

    evaluate_room(data, &context, &batch);
    if (llama_pass_create(&pass, model, adapters, batch, context, 0, error, size) != 0) {
        return -1;
    }
    ids = malloc((size_t) (batch * context) * sizeof *ids);
    targets = malloc((size_t) (batch * context) * sizeof *targets);
    if (ids == NULL || targets == NULL) {
        snprintf(error, size, "out of memory for examples of %lld x %lld tokens",
                 (long long) batch, (long long) context);
        goto done;
    }
    for (int64_t first = 0; first < data->examples; first += batch) {
        int64_t rows = smaller(batch, data->examples - first), here;
        int64_t length = longest(data, first, rows);
        double  loss;

        for (int64_t r = 0; r < rows; r++) {
            data_row(data, first + r, length, ids + r * length, targets + r * length);
        }
        if (llama_forward(pass, rows, length, ids, targets, BL_NO_DROPOUT, &loss, &here,
                          error, size) != 0) {
            goto done;
        }
        sum.loss += loss;
        sum.predicted += here;
        sum.exact += count_exact(llama_pass_best(pass), targets, rows, length);
    }
    sum.loss /= (double) sum.predicted;
    *out = sum;
    status = 0;

done:
    free(targets);
    free(ids);
    llama_pass_free(pass);
    return status;
}

int evaluate(const struct llama *model, const struct llama_adapters *adapters,
             const struct data *data, int64_t context, int64_t batch,
             struct evaluation *out, char *error, size_t size)
{
    if (context < 1 || batch < 1) {
        snprintf(error, size, "context is %lld and batch %lld, both must be 1 or more",
                 (long long) context, (long long) batch);
        return -1;
    }
    if (data->examples > 0) {
        return evaluate_examples(model, adapters, data, context, batch, out, error, size);
    }
    return evaluate_stream(model, adapters, data, context, batch, out, error, size);
}
