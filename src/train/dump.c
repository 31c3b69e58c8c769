/*
 * The file that lets another implementation be held against a step of this one. Views
 * are in the group's layout (padded rows, B by rank), files are packed with B as
 * [out, r]: each tensor is copied once.
 */
#include "train/dump.h"

#include "adapters/adapters.h"
#include "beamlora_io.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXED 3  /* input_ids, target_ids, loss */
#define EACH 8   /* A, B, scores and magnitudes, and their gradients */
#define TEXT 40  /* of a number in the metadata */
#define PAIRS 12 /* of the metadata */

static const char *const endings[] = { ".lora_A.weight", ".lora_B.weight", ".lora_gate",
                                       ".lora_magnitude_vector" };

_Static_assert(BL_TENSOR_A == 0 && BL_TENSOR_B == 1 && BL_TENSOR_SCORES == 2 &&
                   BL_TENSOR_MAGNITUDE == 3,
               "endings are by tensor");

/* Arrays being gathered, and the memory for the rest of their packed copies. */
struct gathered {
    bl_array *arrays;
    int64_t   count;
    float    *rest;
};

/* A packed copy of a view as F32, transposed for B. */
static const float *pack(struct gathered *gathered, const bl_view *view, int transposed)
{
    float *copy = gathered->rest;

    for (int64_t i = 0; i < view->rows; i++) {
        for (int64_t j = 0; j < view->cols; j++) {
            int64_t from = i * view->ld + j;
            int64_t to = transposed ? j * view->rows + i : i * view->cols + j;

            copy[to] = view->dtype == BL_F64 ? (float) ((const double *) view->data)[from]
                                             : ((const float *) view->data)[from];
        }
    }
    gathered->rest += view->rows * view->cols;
    return copy;
}

/* Add a tensor in a buffer to the arrays, if the adapter has it. */
static int add_tensor(struct gathered *gathered, bl_adapter *adapter, int32_t tensor,
                      int32_t buffer, char *error, size_t size)
{
    bl_array *array = &gathered->arrays[gathered->count];
    bl_view   view;
    int       transposed = tensor == BL_TENSOR_B;

    if (bl_adapter_get_view(adapter, tensor, buffer, &view) != 0) {
        if (tensor >= BL_TENSOR_SCORES) {
            return 0;
        }
        snprintf(error, size, "%s", bl_last_error());
        return -1;
    }
    array->data = pack(gathered, &view, transposed);
    snprintf(array->name, sizeof array->name, "%sbase_model.model.%s%s",
             buffer == BL_BUFFER_GRADIENTS ? "grad." : "", bl_adapter_get_name(adapter),
             endings[tensor]);
    array->dims = 2;
    array->shape[0] = transposed ? view.cols : view.rows;
    array->shape[1] = transposed ? view.rows : view.cols;
    array->dtype = BL_F32;
    gathered->count++;
    return 0;
}

/* Rows of ids as [batch * accumulate, context], malloc'ed, filled up with `behind`. */
static int64_t *widen(const struct dump *dump, const int32_t *ids, int64_t behind)
{
    int64_t  part = dump->batch * dump->context, count = part * dump->accumulate;
    int64_t *wide = malloc((size_t) count * sizeof *wide);

    for (int64_t i = 0; wide != NULL && i < count; i++) {
        int64_t micro = i / part, length = dump->lengths[micro];
        int64_t row = i % part / dump->context, column = i % dump->context;

        wide[i] = column < length ? ids[micro * part + row * length + column] : behind;
    }
    return wide;
}

static void set_array(bl_array *array, const char *name, const void *data, int32_t dtype,
                      int64_t rows, int64_t cols)
{
    snprintf(array->name, sizeof array->name, "%s", name);
    array->data = data;
    array->dtype = dtype;
    array->dims = cols > 0 ? 2 : 1;
    array->shape[0] = rows;
    array->shape[1] = cols;
}

static int write_arrays(const char *path, const bl_array *arrays, int64_t count,
                        const bl_group *group, const struct dump *dump, char *error,
                        size_t size)
{
    static const char *const methods[] = { "lora", "beamlora", "adalora" };

    const char *metadata[2 * PAIRS + 1] = { NULL };
    char        text[PAIRS][TEXT];
    int         pairs = 0;
    bl_options  options = { .size = sizeof options };

    if (bl_group_copy_options(group, &options) != 0) {
        snprintf(error, size, "%s", bl_last_error());
        return -1;
    }
    struct {
        const char *key;
        double      value;
    } numbers[] = {
        { "rank", (double) options.rank },
        { "alpha", options.alpha },
        { "scaling", bl_adapter_get_scaling(bl_group_get_adapter(group, 0)) },
        { "temperature", bl_group_get_temperature(group) },
        { "dropout", options.dropout },
        { "dora", options.dora },
        { "step", (double) dump->step },
    };
    metadata[2 * pairs] = "format";
    metadata[2 * pairs++ + 1] = "pt";
    metadata[2 * pairs] = "row_order";
    metadata[2 * pairs++ + 1] = "base model file";
    metadata[2 * pairs] = "gradients";
    metadata[2 * pairs++ + 1] = "of the mean loss, before clipping";
    metadata[2 * pairs] = "method";
    metadata[2 * pairs++ + 1] = methods[options.method];
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        snprintf(text[pairs], TEXT, "%.17g", numbers[i].value);
        metadata[2 * pairs] = numbers[i].key;
        metadata[2 * pairs + 1] = text[pairs];
        pairs++;
    }
    snprintf(text[pairs], TEXT, "%" PRIu64, options.seed);
    metadata[2 * pairs] = "seed";
    metadata[2 * pairs + 1] = text[pairs];

    if (bl_safetensors_write(path, arrays, count, metadata) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    return 0;
}

int dump_write(const char *path, const struct llama_adapters *adapters,
               const struct dump *dump, char *error, size_t size)
{
    int64_t         modules = bl_group_get_count(adapters->group);
    int64_t         windows = dump->batch * dump->accumulate;
    size_t          room = (size_t) adapters_parameters(adapters);
    int64_t        *inputs = widen(dump, dump->ids, 0);
    int64_t        *targets = widen(dump, dump->targets, -1);
    float          *copies = malloc(2 * room * sizeof *copies);
    int             result = 0;
    struct gathered gathered = { NULL, 0, copies };

    gathered.arrays = calloc((size_t) (FIXED + EACH * modules), sizeof *gathered.arrays);
    if (gathered.arrays == NULL || copies == NULL || inputs == NULL || targets == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        result = -1;
    }
    for (int64_t i = 0; result == 0 && i < EACH * modules; i++) {
        result = add_tensor(&gathered, bl_group_get_adapter(adapters->group, i / EACH),
                            (int32_t) (i % EACH / 2),
                            i % 2 == 0 ? BL_BUFFER_PARAMETERS : BL_BUFFER_GRADIENTS,
                            error, size);
    }
    if (result == 0) {
        bl_array *last = gathered.arrays + gathered.count;

        set_array(&last[0], "input_ids", inputs, BL_I64, windows, dump->context);
        set_array(&last[1], "target_ids", targets, BL_I64, windows, dump->context);
        set_array(&last[2], "loss", &dump->loss, BL_F64, 1, 0);
        result = write_arrays(path, gathered.arrays, gathered.count + FIXED,
                              adapters->group, dump, error, size);
    }
    free(gathered.arrays);
    free(copies);
    free(targets);
    free(inputs);
    return result;
}
