/*
 * A group is made for the directory's modules and filled; it never trains. The whole
 * adapter's norm comes from the ranks' products alone, in time r^2 (in + out):
 *
 *     |sum_i b_i a_i|^2 = sum_ij (a_i . a_j) (b_i . b_j)
 */
#define _POSIX_C_SOURCE 200809L /* strdup */

#include "adapters/adapter_norms.h"

#include "beamlora.h"
#include "beamlora_io.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The group computes nothing, so that W0 may be anything. */
static void hand_zeros(const void *base, int64_t from, int64_t rows, int64_t in,
                       void *out)
{
    (void) base;
    (void) from;
    memset(out, 0, (size_t) (rows * in) * sizeof(float));
}

static int open_group(bl_group **out, const bl_peft *peft, char *error, size_t size)
{
    int64_t         count = bl_peft_get_count(peft);
    bl_spec        *spec = calloc((size_t) count + 1, sizeof *spec);
    bl_options      options;
    bl_peft_options plain;
    int32_t         dora = 0;
    int             result = -1;

    if (spec == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " modules", count);
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        bl_peft_module module = { 0 };

        bl_peft_get_module(peft, i, &module);
        spec[i].size = sizeof spec[i];
        spec[i].name = module.name;
        spec[i].in_features = module.in_features;
        spec[i].out_features = module.out_features;
        spec[i].rank = module.rank;
        spec[i].alpha = (double) module.rank; /* c = 1 */
        dora = (int32_t) module.dora;         /* of all modules or of none */
    }
    bl_options_init(&options, sizeof options);
    options.dora = dora;
    options.base_rows = hand_zeros;
    options.method = BL_METHOD_LORA;
    options.optimizer = BL_OPTIMIZER_HOST; /* no moments: it will not train */
    options.reallocation = 0;
    bl_peft_options_init(&plain, sizeof plain);
    if (bl_group_create(out, spec, count, &options) != 0) {
        snprintf(error, size, "%s", bl_last_error());
    } else if (bl_peft_load(peft, *out, &plain) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        bl_group_free(*out);
    } else {
        result = 0;
    }
    free(spec);
    return result;
}

static double dot(const bl_view *view, int64_t i, int64_t j)
{
    const float *x = (const float *) view->data + i * view->ld;
    const float *y = (const float *) view->data + j * view->ld;
    double       sum = 0;

    for (int64_t k = 0; k < view->cols; k++) {
        sum += (double) x[k] * (double) y[k];
    }
    return sum;
}

/* c is 1 here. */
static double whole_norm(bl_adapter *adapter)
{
    bl_view a = { 0 }, b = { 0 };
    double  sum = 0;

    bl_adapter_get_view(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS, &a);
    bl_adapter_get_view(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS, &b);
    for (int64_t i = 0; i < a.rows; i++) {
        for (int64_t j = 0; j <= i; j++) {
            sum += (i == j ? 1 : 2) * dot(&a, i, j) * dot(&b, i, j);
        }
    }
    return sqrt(sum > 0 ? sum : 0); /* below 0 by rounding alone */
}

static int read_module(struct adapter_module *out, bl_adapter *adapter)
{
    out->in = bl_adapter_get_in(adapter);
    out->out = bl_adapter_get_out(adapter);
    out->rank = bl_adapter_get_rank(adapter);
    out->name = strdup(bl_adapter_get_name(adapter));
    out->norm = calloc((size_t) out->rank, sizeof *out->norm);
    if (out->name == NULL || out->norm == NULL) {
        return -1;
    }
    out->whole = whole_norm(adapter);
    return bl_adapter_copy_norms(adapter, out->norm);
}

/* "layers.2" before "layers.10". */
static int by_number(const void *x, const void *y)
{
    const char *a = ((const struct adapter_module *) x)->name;
    const char *b = ((const struct adapter_module *) y)->name;

    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }

    size_t digits_a = strspn(a, "0123456789"), digits_b = strspn(b, "0123456789");

    if (digits_a > 0 && digits_b > 0 && digits_a != digits_b) {
        return digits_a < digits_b ? -1 : 1;
    }
    return (unsigned char) *a - (unsigned char) *b;
}

int adapter_norms_read(struct adapter_norms *out, const char *directory, char *error,
                       size_t size)
{
    bl_peft  *peft;
    bl_group *group;
    int       result;

    *out = (struct adapter_norms){ 0 };
    if (bl_peft_open(&peft, directory) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    if (bl_peft_get_count(peft) == 0) {
        snprintf(error, size, "%.300s: holds no adapters", directory);
        bl_peft_close(peft);
        return -1;
    }
    result = open_group(&group, peft, error, size);
    bl_peft_close(peft);
    if (result != 0) {
        return -1;
    }
    out->module = calloc((size_t) bl_group_get_count(group), sizeof *out->module);
    while (result == 0 && out->modules < bl_group_get_count(group)) {
        bl_adapter *adapter = bl_group_get_adapter(group, out->modules);

        result =
            out->module != NULL ? read_module(&out->module[out->modules++], adapter) : -1;
    }
    bl_group_free(group);
    if (result != 0) {
        snprintf(error, size, "out of memory for the norms of %.300s", directory);
        adapter_norms_free(out);
        return -1;
    }
    qsort(out->module, (size_t) out->modules, sizeof *out->module, by_number);
    return 0;
}

void adapter_norms_free(struct adapter_norms *norms)
{
    for (int64_t i = 0; i < norms->modules; i++) {
        free(norms->module[i].name);
        free(norms->module[i].norm);
    }
    free(norms->module);
    *norms = (struct adapter_norms){ 0 };
}
