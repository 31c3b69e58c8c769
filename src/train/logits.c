/* Logits for another implementation to be held against; see logits.h. One forward pass,
 * the logits written from where it leaves them. */
#include "train/logits.h"

#include "beamlora_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rows {
    int64_t  count, length;
    int32_t *ids, *targets; /* [count, length] */
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many rows, and how long they are. */
static int measure(struct rows *rows, const struct data *data, int64_t context,
                   int64_t batch, char *error, size_t size)
{
    if (data->examples == 0) {
        int64_t inputs = data->count - 1;

        rows->length = smaller(context, inputs);
        rows->count = inputs > 0 ? smaller(batch, inputs / rows->length) : 0;
    } else {
        rows->count = smaller(batch, data->examples);
        for (int64_t e = 0; e < rows->count; e++) {
            int64_t inputs = data->start[e + 1] - data->start[e] - 1;

            rows->length = inputs > rows->length ? inputs : rows->length;
        }
    }
    if (rows->count < 1 || rows->length < 1) {
        snprintf(error, size, "the data has no window to give logits of");
        return -1;
    }
    return 0;
}

static int take(struct rows *rows, const struct data *data, char *error, size_t size)
{
    size_t bytes = (size_t) (rows->count * rows->length) * sizeof *rows->ids;

    rows->ids = malloc(bytes);
    rows->targets = malloc(bytes);
    if (rows->ids == NULL || rows->targets == NULL) {
        snprintf(error, size, "out of memory for %lld x %lld tokens",
                 (long long) rows->count, (long long) rows->length);
        return -1;
    }
    if (data->examples == 0) {
        memcpy(rows->ids, data->ids, bytes);
        memcpy(rows->targets, data->ids + 1, bytes);
        return 0;
    }
    for (int64_t e = 0; e < rows->count; e++) {
        data_row(data, e, rows->length, rows->ids + e * rows->length,
                 rows->targets + e * rows->length);
    }
    return 0;
}

static int64_t *widen(const int32_t *ids, int64_t count)
{
    int64_t *wide = malloc((size_t) count * sizeof *wide);

    for (int64_t i = 0; wide != NULL && i < count; i++) {
        wide[i] = ids[i];
    }
    return wide;
}

static int write_file(const char *path, const struct rows *rows, const float *logits,
                      int64_t vocab, char *error, size_t size)
{
    static const char *const metadata[] = { "format", "pt", NULL };

    int64_t  count = rows->count * rows->length;
    int64_t *inputs = widen(rows->ids, count), *targets = widen(rows->targets, count);
    bl_array arrays[] = {
        { .name = "input_ids", .data = inputs, .dtype = BL_I64 },
        { .name = "target_ids", .data = targets, .dtype = BL_I64 },
        { .name = "logits", .data = logits, .dtype = BL_F32 },
    };
    int result = 0;

    for (int i = 0; i < 3; i++) {
        arrays[i].dims = 2;
        arrays[i].shape[0] = i < 2 ? rows->count : count;
        arrays[i].shape[1] = i < 2 ? rows->length : vocab;
    }
    if (inputs == NULL || targets == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        result = -1;
    } else if (bl_safetensors_write(path, arrays, 3, metadata) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        result = -1;
    }
    free(inputs);
    free(targets);
    return result;
}

int logits_write(const char *path, const struct llama *model,
                 const struct llama_adapters *adapters, const struct data *data,
                 int64_t context, int64_t batch, char *error, size_t size)
{
    struct rows        rows = { 0, 0, NULL, NULL };
    struct llama_pass *pass = NULL;
    double             sum;
    int64_t            predicted;
    int                result = -1;

    if (measure(&rows, data, context, batch, error, size) == 0 &&
        take(&rows, data, error, size) == 0 &&
        llama_pass_create(&pass, model, adapters, rows.count, rows.length, 0, error,
                          size) == 0 &&
        llama_forward(pass, rows.count, rows.length, rows.ids, rows.targets,
                      BL_NO_DROPOUT, &sum, &predicted, error, size) == 0) {
        result = write_file(path, &rows, llama_pass_logits(pass), model->config.vocab,
                            error, size);
    }
    llama_pass_free(pass);
    free(rows.ids);
    free(rows.targets);
    return result;
}
