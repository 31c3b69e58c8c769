/*
 * What the writers of adapters share: a group's adapters as plain LoRAs of scale 1, one
 * at a time, and rounding to the file's type. DoRA's are folded here, since bl_adapter_fold
 * refuses what is more than its A and B. Memory: one folded adapter.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

static double value_at(const struct bl__io_fold *fold, const void *data, int64_t at)
{
    if (fold->dtype == BL_F64) {
        const double *doubles = data;
        return doubles[at];
    }
    const float *singles = data;
    return (double) singles[at];
}

static int64_t larger(int64_t x, int64_t y)
{
    return x > y ? x : y;
}

static int allocate(struct bl__io_fold *fold)
{
    int64_t count = bl_group_get_count(fold->group);
    int64_t largest_a = 1;
    int64_t largest_b = 1;
    int64_t largest_rank = 1;
    int64_t ranks = 0;
    fold->first = calloc((size_t) count + 1, sizeof *fold->first);
    fold->kept = calloc((size_t) count + 1, sizeof *fold->kept);
    for (int64_t k = 0; k < count && fold->first != NULL; k++) {
        bl_adapter *adapter = bl_group_get_adapter(fold->group, k);
        int64_t     r = bl_adapter_get_rank(adapter);
        bl_view     view;
        int code = bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &view);
        if (code != 0) {
            return bl__io_fail_core(code, NULL);
        }
        fold->dtype = view.dtype;
        fold->dora = bl_adapter_get_view(adapter, BL_TENSOR_MAGNITUDE,
                                         BL_BUFFER_PARAMETERS, &view) == 0;
        fold->first[k] = ranks;
        ranks += r; /* all these are below 2^62: see bl_spec */
        largest_rank = larger(largest_rank, r);
        largest_a = larger(largest_a, r * bl_adapter_get_in(adapter));
        largest_b = larger(largest_b, r * bl_adapter_get_out(adapter));
    }
    fold->list = calloc((size_t) ranks + 1, sizeof *fold->list);
    fold->a = calloc((size_t) largest_a, sizeof(double));
    fold->b = calloc((size_t) largest_b, sizeof(double));
    fold->g = calloc((size_t) largest_rank, sizeof *fold->g);
    if (fold->first == NULL || fold->kept == NULL || fold->list == NULL ||
        fold->a == NULL || fold->b == NULL || fold->g == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    return 0;
}

static double view_value(const bl_view *view, int64_t i, int64_t j)
{
    int64_t at = i * view->ld + j;
    return view->dtype == BL_F64 ? ((const double *) view->data)[at]
                                 : (double) ((const float *) view->data)[at];
}

static void set_value(const struct bl__io_fold *fold, void *data, int64_t at,
                      double value)
{
    if (fold->dtype == BL_F64) {
        double *doubles = data;
        doubles[at] = value;
    } else {
        float *singles = data;
        singles[at] = (float) value;
    }
}

/* bl_adapter_fold for the low-rank part of a DoRA adapter. */
static int fold_beside_magnitudes(struct bl__io_fold *fold, bl_adapter *adapter)
{
    bl_view a, b;
    double  c = bl_adapter_get_scaling(adapter);
    int     code = bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &a);
    if (code == 0) {
        code = bl_adapter_get_view(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, &b);
    }
    if (code == 0) {
        code = bl_adapter_copy_importance(adapter, fold->g);
    }
    for (int64_t i = 0; code == 0 && i < a.rows; i++) {
        for (int64_t j = 0; j < a.cols; j++) {
            set_value(fold, fold->a, i * a.cols + j,
                      c * fold->g[i] * view_value(&a, i, j));
        }
        for (int64_t j = 0; j < b.cols; j++) { /* kept transposed */
            set_value(fold, fold->b, j * b.rows + i, view_value(&b, i, j));
        }
    }
    return code;
}

static int take(struct bl__io_fold *fold, int64_t k, const char *path)
{
    if (fold->folded == k) {
        return 0;
    }
    bl_adapter *adapter = bl_group_get_adapter(fold->group, k);
    int         code = fold->dora ? fold_beside_magnitudes(fold, adapter)
                                  : bl_adapter_fold(adapter, fold->a, bl_adapter_get_in(adapter),
                                                    fold->b, bl_adapter_get_rank(adapter));
    fold->folded = code == 0 ? k : -1;
    return code == 0 ? 0 : bl__io_fail_core(code, path);
}

/* Does rank i of the adapter at hand contribute? What is not finite does: it has to be
 * met again, and refused, when it is written. */
static int contributes(const struct bl__io_fold *fold, const bl_adapter *adapter,
                       int64_t i)
{
    int64_t in = bl_adapter_get_in(adapter);
    int64_t out = bl_adapter_get_out(adapter);
    int64_t r = bl_adapter_get_rank(adapter);
    int     in_a = 0;
    int     in_b = 0;
    for (int64_t j = 0; j < in; j++) {
        double value = value_at(fold, fold->a, i * in + j);
        if (!isfinite(value)) {
            return 1;
        }
        in_a |= value != 0;
    }
    for (int64_t j = 0; j < out; j++) {
        double value = value_at(fold, fold->b, j * r + i);
        if (!isfinite(value)) {
            return 1;
        }
        in_b |= value != 0;
    }
    return in_a && in_b;
}

int bl__io_fold_open(struct bl__io_fold *fold, const bl_group *group, int compact)
{
    memset(fold, 0, sizeof *fold);
    fold->group = group;
    fold->folded = -1;
    fold->rank = 1;
    int code = allocate(fold);
    for (int64_t k = 0; k < bl_group_get_count(group) && code == 0; k++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, k);
        int64_t          *list = fold->list + fold->first[k];
        int64_t           r = bl_adapter_get_rank(adapter);
        code = compact ? take(fold, k, NULL) : 0;
        for (int64_t i = 0; i < r && code == 0; i++) {
            if (!compact || contributes(fold, adapter, i)) {
                list[fold->kept[k]++] = i;
            }
        }
        if (fold->kept[k] == 0) {
            list[fold->kept[k]++] = 0; /* no reader takes a rank of 0 */
        }
        fold->rank = larger(fold->rank, fold->kept[k]);
    }
    return code;
}

void bl__io_fold_close(struct bl__io_fold *fold)
{
    free(fold->first);
    free(fold->kept);
    free(fold->list);
    free(fold->a);
    free(fold->b);
    free(fold->g);
}

/* ----- rounding ----- */

/* To nearest, ties to even, into `fraction` bits of fraction and an exponent of this
 * bias; all bits of the exponent set: too large. Subnormals need no case of their own:
 * their exponent stays at the smallest. */
static uint16_t round_short(double value, int fraction, int bias)
{
    long sign = signbit(value) ? 0x8000L : 0;
    int  exponent;
    if (value == 0) {
        return (uint16_t) sign;
    }
    frexp(value, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    if (exponent > bias) {
        return (uint16_t) (sign | (long) (2 * bias + 1) << fraction);
    }
    double quotient = rint(ldexp(fabs(value), fraction - exponent));
    return (uint16_t) (sign |
                       (((long) (exponent + bias - 1) << fraction) + (long) quotient));
}

static int write_short(struct bl__io_file *file, double value, int32_t dtype,
                       const char *tensor)
{
    int      fraction = dtype == BL_F16 ? 10 : 7;
    int      bias = dtype == BL_F16 ? 15 : 127;
    uint16_t bits = round_short(value, fraction, bias);
    if ((bits & 0x7fff) >> fraction == 2 * bias + 1) {
        return bl__io_fail(BL_E_RANGE, file->path, "tensor %s: %g is too large for %s",
                           tensor, value, dtype == BL_F16 ? "F16" : "BF16");
    }
    return bl__io_file_write_values(file, &bits, 1, sizeof bits);
}

static int write_value(struct bl__io_file *file, double value, int32_t dtype,
                       const char *tensor)
{
    if (!isfinite(value)) {
        return bl__io_fail(BL_E_NONFINITE, file->path, "tensor %s: a value is not finite",
                           tensor);
    }
    if (dtype == BL_F64) {
        return bl__io_file_write_values(file, &value, 1, sizeof value);
    }
    if (dtype != BL_F32) {
        return write_short(file, value, dtype, tensor);
    }
    float single = (float) value;
    if (!isfinite(single)) {
        return bl__io_fail(BL_E_RANGE, file->path, "tensor %s: %g is too large for F32",
                           tensor, value);
    }
    return bl__io_file_write_values(file, &single, 1, sizeof single);
}

static int write_magnitude(const struct bl__io_fold *fold, struct bl__io_file *file,
                           int64_t k, const struct bl__io_fold_tensor *tensor)
{
    bl_adapter *adapter = bl_group_get_adapter(fold->group, k);
    bl_view     view;
    int         code =
        bl_adapter_get_view(adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, &view);
    if (code != 0) {
        return bl__io_fail_core(code, file->path);
    }
    for (int64_t i = 0; i < view.cols && code == 0; i++) {
        int64_t from = tensor->order == NULL ? i : tensor->order[i];
        code = write_value(file, view_value(&view, 0, from), tensor->dtype, tensor->name);
    }
    return code;
}

int bl__io_fold_write(struct bl__io_fold *fold, struct bl__io_file *file, int64_t k,
                      const struct bl__io_fold_tensor *tensor)
{
    if (tensor->which == BL_TENSOR_MAGNITUDE) {
        return write_magnitude(fold, file, k, tensor);
    }
    const int         is_b = tensor->which == BL_TENSOR_B;
    const bl_adapter *adapter = bl_group_get_adapter(fold->group, k);
    const int64_t    *list = fold->list + fold->first[k];
    int64_t           in = bl_adapter_get_in(adapter);
    int64_t           r = bl_adapter_get_rank(adapter);
    int64_t           rows = is_b ? bl_adapter_get_out(adapter) : tensor->rank;
    int64_t           cols = is_b ? tensor->rank : in;
    int               code = take(fold, k, file->path);
    for (int64_t i = 0; i < rows && code == 0; i++) {
        int64_t from = tensor->order == NULL ? i : tensor->order[i];
        for (int64_t j = 0; j < cols && code == 0; j++) {
            int64_t at = is_b ? j : i; /* among the ranks of the file */
            double  value = 0;
            if (at < fold->kept[k]) {
                value = is_b ? value_at(fold, fold->b, from * r + list[at])
                             : value_at(fold, fold->a, list[at] * in + j);
            }
            code = write_value(file, value, tensor->dtype, tensor->name);
        }
    }
    return code;
}
