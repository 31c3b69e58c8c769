/*
 * One file of a model, array by array: what is not changed goes from where it is to the
 * disk; what is converted or reordered, a row at a time; what an adapter is merged into is
 * a matrix of floats for that long. Memory: the largest such matrix.
 */
#define _DEFAULT_SOURCE /* madvise */

#include "model/llama_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "beamlora_io.h"
#include "model/round.h"

#define CHUNK ((size_t) 4 << 20) /* bytes */

struct writer {
    const struct llama_array *arrays;
    const bl_array           *out; /* as they will be in the file */
    const char               *path;
    int                       strict;
    char                     *error;
    size_t                    size;
};

/* Pages of a mapped file that were read: they would count as this process's memory. */
static void forget(const struct llama_array *array, size_t from, size_t bytes)
{
    uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t) array->weight.data + from) / page * page;
    uintptr_t last = ((uintptr_t) array->weight.data + from + bytes) / page * page;

    if (array->mapped && last > first) {
        (void) madvise((void *) first, last - first, MADV_DONTNEED);
    }
}

static size_t width_of(int32_t dtype)
{
    return dtype == BL_F64 || dtype == BL_I64    ? 8
           : dtype == BL_F32                     ? 4
           : dtype == BL_F16 || dtype == BL_BF16 ? 2
                                                 : 1;
}

static int64_t rows_of(const struct llama_array *array)
{
    return array->tensor.dims == 1 ? 1 : array->tensor.shape[0];
}

static int64_t columns_of(const struct llama_array *array)
{
    return array->tensor.shape[array->tensor.dims - 1];
}

static int write_as_it_is(const struct llama_array *array, bl_write_fn write, void *to)
{
    size_t bytes =
        (size_t) (rows_of(array) * columns_of(array)) * width_of(array->weight.dtype);

    for (size_t at = 0, piece; at < bytes; at += piece) {
        piece = bytes - at < CHUNK ? bytes - at : CHUNK;
        if (write(to, (const char *) array->weight.data + at, piece) != 0) {
            return -1;
        }
        forget(array, at, piece);
    }
    return 0;
}

/* Row i in the model's own order, in place or in scratch. */
static const float *read_row(const struct llama_array *array, int64_t i, float *scratch)
{
    return weight_rows(&array->weight, i, 1, columns_of(array), scratch);
}

static int write_row(const struct writer *writer, int64_t index, const float *row,
                     void *scratch, bl_write_fn write, void *to)
{
    const struct llama_array *array = &writer->arrays[index];
    int32_t                   dtype = writer->out[index].dtype;
    float                     bad;

    if (round_row(scratch, row, columns_of(array), dtype, &bad) != 0 && writer->strict) {
        snprintf(writer->error, writer->size,
                 isfinite(bad) ? "%s: tensor %s: %g is too large for %s"
                               : "%s: tensor %s: %g cannot be written",
                 writer->path, array->tensor.name, (double) bad,
                 dtype == BL_F16 ? "F16" : "BF16");
        return -1;
    }
    return write(to, scratch, (size_t) columns_of(array) * width_of(dtype));
}

/* All rows, in the order of the file; from `merged` if that is not NULL. */
static int write_rows(const struct writer *writer, int64_t index, const float *merged,
                      float *scratch, bl_write_fn write, void *to)
{
    const struct llama_array *array = &writer->arrays[index];
    int64_t                   columns = columns_of(array);
    size_t row_bytes = (size_t) columns * width_of(array->weight.dtype);

    for (int64_t i = 0; i < rows_of(array); i++) {
        int64_t      from = array->order != NULL ? array->order[i] : i;
        const float *row = merged != NULL ? merged + from * columns
                                          : read_row(array, from, scratch + columns);

        if (write_row(writer, index, row, scratch, write, to) != 0) {
            return -1;
        }
        if (merged == NULL && array->order == NULL) {
            forget(array, (size_t) i * row_bytes, row_bytes);
        }
    }
    forget(array, 0, (size_t) rows_of(array) * row_bytes);
    return 0;
}

static int merge(const struct llama_array *array, float *matrix, float *scratch)
{
    int64_t columns = columns_of(array);

    for (int64_t i = 0; i < rows_of(array); i++) {
        memcpy(matrix + i * columns, read_row(array, i, scratch),
               (size_t) columns * sizeof *matrix);
    }
    return bl_adapter_merge(array->adapter, matrix, columns);
}

/* bl_array_fn */
static int write_array(void *user, int64_t index, bl_write_fn write, void *to)
{
    const struct writer      *writer = user;
    const struct llama_array *array = &writer->arrays[index];
    size_t                    columns = (size_t) columns_of(array);
    float                    *scratch, *matrix = NULL;
    int                       result = -1;

    if (array->adapter == NULL && array->order == NULL &&
        writer->out[index].dtype == array->weight.dtype) {
        return write_as_it_is(array, write, to);
    }
    scratch = malloc(2 * columns * sizeof *scratch);
    if (array->adapter != NULL) {
        matrix = malloc((size_t) rows_of(array) * columns * sizeof *matrix);
    }
    if (scratch == NULL || (array->adapter != NULL && matrix == NULL)) {
        snprintf(writer->error, writer->size, "%s: out of memory for tensor %s",
                 writer->path, array->tensor.name);
    } else if (matrix != NULL && merge(array, matrix, scratch) != 0) {
        snprintf(writer->error, writer->size, "%s: %s", writer->path, bl_last_error());
    } else {
        result = write_rows(writer, index, matrix, scratch, write, to);
    }
    free(matrix);
    free(scratch);
    return result;
}

static int is_weight(int32_t dtype)
{
    return dtype == BL_F32 || dtype == BL_F16 || dtype == BL_BF16;
}

int llama_write(const char *path, const struct llama_array *arrays, int64_t count,
                int32_t dtype, int strict, int64_t *bytes, char *error, size_t size)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    bl_array                *out = calloc((size_t) count + 1, sizeof *out);
    struct writer            writer = { arrays, out, path, strict, error, size };
    int                      result;

    if (out == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        const struct llama_array *array = &arrays[i];
        int own = dtype == LLAMA_OWN_DTYPE || !is_weight(array->weight.dtype);

        snprintf(out[i].name, sizeof out[i].name, "%s", array->tensor.name);
        memcpy(out[i].shape, array->tensor.shape, sizeof out[i].shape);
        out[i].dims = array->tensor.dims;
        out[i].dtype = own ? array->weight.dtype : dtype;
        *bytes += rows_of(array) * columns_of(array) * (int64_t) width_of(out[i].dtype);
    }
    error[0] = '\0';
    result = bl_safetensors_stream(path, out, count, metadata, write_array, &writer);
    if (result != 0 && error[0] == '\0') {
        snprintf(error, size, "%s", bl_io_last_error());
    }
    free(out);
    return result == 0 ? 0 : -1;
}
