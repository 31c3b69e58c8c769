/*
 * Values of a safetensors file as float or double. Data may lie at any address and is
 * little-endian whatever the machine is, so values are put together from bytes; every
 * conversion but F64 to float is exact.
 */
#include <string.h>

#include "io.h"

/* Bytes to an unsigned number; compilers make one load of it where they can. */
static uint64_t load(const unsigned char *bytes, int width)
{
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; i--) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float float_of_half(uint32_t half)
{
    uint32_t sign = (half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) { /* zero and subnormal: fraction * 2^-24 */
        float value = (float) fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    if (exponent == 31) { /* infinity and NaN */
        return float_of_bits(sign | 0x7f800000u | fraction << 13);
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static float load_f32(const unsigned char *data, uint64_t index)
{
    return float_of_bits((uint32_t) load(data + 4 * index, 4));
}

static float load_f16(const unsigned char *data, uint64_t index)
{
    return float_of_half((uint32_t) load(data + 2 * index, 2));
}

static float load_bf16(const unsigned char *data, uint64_t index)
{
    return float_of_bits((uint32_t) load(data + 2 * index, 2) << 16);
}

static double load_f64(const unsigned char *data, uint64_t index)
{
    uint64_t bits = load(data + 8 * index, 8);
    double   value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double bl__io_value(const unsigned char *data, int32_t dtype, uint64_t index)
{
    switch (dtype) {
    case BL_F32:
        return (double) load_f32(data, index);
    case BL_F16:
        return (double) load_f16(data, index);
    case BL_BF16:
        return (double) load_bf16(data, index);
    default:
        return load_f64(data, index);
    }
}

/* One row of `cols` values that begins at value `first`. */
static void copy_row_f32(float *dst, const unsigned char *data, int32_t dtype,
                         uint64_t first, int64_t cols)
{
    uint64_t end = (uint64_t) cols;
    switch (dtype) {
    case BL_F32:
        for (uint64_t j = 0; j < end; j++) {
            dst[j] = load_f32(data, first + j);
        }
        break;
    case BL_F16:
        for (uint64_t j = 0; j < end; j++) {
            dst[j] = load_f16(data, first + j);
        }
        break;
    case BL_BF16:
        for (uint64_t j = 0; j < end; j++) {
            dst[j] = load_bf16(data, first + j);
        }
        break;
    default:
        for (uint64_t j = 0; j < end; j++) {
            dst[j] = (float) load_f64(data, first + j);
        }
        break;
    }
}

static void copy_row_f64(double *dst, const unsigned char *data, int32_t dtype,
                         uint64_t first, int64_t cols)
{
    for (int64_t j = 0; j < cols; j++) {
        dst[j] = bl__io_value(data, dtype, first + (uint64_t) j);
    }
}

int bl_safetensors_copy(const bl_safetensors *file, int64_t index, int32_t dtype,
                        void *dst, int64_t ld)
{
    bl_tensor_info info;
    int            code = bl_safetensors_get_tensor(file, index, &info);
    if (code != 0) {
        return code;
    }
    if (info.dtype != BL_F32 && info.dtype != BL_F64 && info.dtype != BL_F16 &&
        info.dtype != BL_BF16) {
        return bl__io_fail(BL_E_ARG, file->label,
                           "tensor %.120s is of dtype %s, must be F64, F32, F16 or BF16",
                           info.name, info.dtype_name);
    }
    if (dtype != BL_F32 && dtype != BL_F64) {
        return bl__io_fail(BL_E_ARG, NULL, "dtype is %d, must be BL_F32 or BL_F64",
                           (int) dtype);
    }
    int64_t cols = info.dims == 0 ? 1 : info.shape[info.dims - 1];
    int64_t rows = cols == 0 ? 0 : info.elements / cols;
    if (ld < cols) {
        return bl__io_fail(BL_E_SHAPE, file->label,
                           "ld is %lld, must be >= columns of %.120s (%lld)",
                           (long long) ld, info.name, (long long) cols);
    }
    if (rows > 0 && dst == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "dst is NULL");
    }
    float  *singles = dst;
    double *doubles = dst;
    for (int64_t i = 0; i < rows; i++) {
        uint64_t first = (uint64_t) i * (uint64_t) cols;
        if (dtype == BL_F32) {
            copy_row_f32(singles + i * ld, info.data, info.dtype, first, cols);
        } else {
            copy_row_f64(doubles + i * ld, info.data, info.dtype, first, cols);
        }
    }
    return 0;
}
