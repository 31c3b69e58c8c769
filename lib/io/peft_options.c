/*
 * bl_peft_options: defaults, and structs of callers that were compiled against another
 * version. A shorter one is filled up with defaults; a longer one may only ask for
 * nothing in the part that this version does not know.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define FIRST_SIZE sizeof(bl_peft_options) /* of release 0.1; frozen with it */

/* The layouts that other programs rely on. */
#if SIZE_MAX == UINT64_MAX
_Static_assert(sizeof(bl_peft_options) == 64, "bl_peft_options has changed");
_Static_assert(offsetof(bl_peft_options, row_order) == 24, "bl_peft_options has changed");
_Static_assert(offsetof(bl_peft_options, dtype) == 40, "bl_peft_options has changed");
_Static_assert(offsetof(bl_peft_options, compact) == 44, "bl_peft_options has changed");
_Static_assert(offsetof(bl_peft_options, alpha) == 48, "bl_peft_options has changed");
_Static_assert(sizeof(bl_peft_module) == 72, "bl_peft_module has changed");
_Static_assert(offsetof(bl_peft_module, scale) == 32, "bl_peft_module has changed");
_Static_assert(sizeof(bl_tensor_info) == 144, "bl_tensor_info has changed");
_Static_assert(offsetof(bl_tensor_info, shape) == 40, "bl_tensor_info has changed");
_Static_assert(offsetof(bl_tensor_info, dims) == 104, "bl_tensor_info has changed");
#endif

int bl_peft_options_init(bl_peft_options *opt, size_t size)
{
    if (opt == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "opt is NULL");
    }
    if (size < FIRST_SIZE) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "size is %zu, must be >= %zu", size,
                           FIRST_SIZE);
    }
    bl_peft_options defaults;
    memset(&defaults, 0, sizeof defaults);
    defaults.size = size;
    defaults.dtype = BL_F32;
    if (size > sizeof defaults) {
        memset(opt, 0, size); /* fields of a later version: their zero is harmless */
    }
    memcpy(opt, &defaults, sizeof defaults);
    return 0;
}

int bl__io_take_options(void *out, size_t size, const void *opt, size_t first,
                        const char *init)
{
    size_t given;
    memcpy(&given, opt, sizeof given);
    if (given < first) {
        return bl__io_fail(BL_E_OPTIONS, NULL,
                           "opt->size is %zu, must be >= %zu: call %s", given, first,
                           init);
    }
    const unsigned char *bytes = opt;
    for (size_t i = size; i < given; i++) {
        if (bytes[i] != 0) {
            return bl__io_fail(BL_E_OPTIONS, NULL,
                               "opt asks for something this version does not know");
        }
    }
    memcpy(out, opt, given < size ? given : size);
    memcpy(out, &size, sizeof size);
    return 0;
}

int bl__io_peft_options(bl_peft_options *out, const bl_peft_options *opt)
{
    int code = bl_peft_options_init(out, sizeof *out);
    if (code != 0 || opt == NULL) {
        return code;
    }
    code = bl__io_take_options(out, sizeof *out, opt, FIRST_SIZE, "bl_peft_options_init");
    if (code != 0) {
        return code;
    }
    if (out->compact != 0 && out->compact != 1) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "compact is %d, must be 0 or 1",
                           (int) out->compact);
    }
    if (!isfinite(out->alpha)) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "alpha is %g, must be finite", out->alpha);
    }
    if (!(out->temperature >= 0) || !isfinite(out->temperature)) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "temperature is %g, must be >= 0",
                           out->temperature);
    }
    if (out->dtype < BL_F32 || out->dtype > BL_F16) {
        return bl__io_fail(BL_E_OPTIONS, NULL,
                           "dtype is %d, must be BL_F32, BL_F64, BL_BF16 or BL_F16",
                           (int) out->dtype);
    }
    return 0;
}

int bl__io_check_order(const int64_t *order, int64_t out, const char *adapter)
{
    if (order == NULL) {
        return 0;
    }
    unsigned char *seen = calloc((size_t) out, 1);
    if (seen == NULL) {
        return bl__io_fail(BL_E_NOMEM, NULL, "out of memory");
    }
    int code = 0;
    for (int64_t i = 0; i < out && code == 0; i++) {
        if (order[i] < 0 || order[i] >= out || seen[order[i]] != 0) {
            code = bl__io_fail(BL_E_RANGE, NULL,
                               "row_order of %s: entry %lld is %lld, must hold each of "
                               "0..%lld once",
                               adapter, (long long) i, (long long) order[i],
                               (long long) out - 1);
        } else {
            seen[order[i]] = 1;
        }
    }
    free(seen);
    return code;
}
