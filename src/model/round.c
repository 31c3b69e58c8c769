/* See round.h. */
#include "model/round.h"

#include <math.h>
#include <string.h>

#include "beamlora.h"

#define SIGN 0x80000000u
#define INFINITE 0x7f800000u

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

uint16_t round_to_bfloat(float value)
{
    uint32_t bits = bits_of(value);

    if ((bits & ~SIGN) > INFINITE) {
        return (uint16_t) (bits >> 16 | 0x40u); /* a bit that keeps it a NaN */
    }
    return (uint16_t) ((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t round_to_half(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000u, size = bits & ~SIGN;

    if (size > INFINITE) {
        return (uint16_t) (sign | 0x7e00u);
    }
    if (size >= 0x477ff000u) { /* 65520, halfway to what would come next */
        return (uint16_t) (sign | 0x7c00u);
    }
    if (size < 0x38800000u) { /* 2^-14: below, units of 2^-24; the sum rounds */
        float sum = fabsf(value) + 0.5f;

        return (uint16_t) (sign | (bits_of(sum) - bits_of(0.5f)));
    }
    size -= (uint32_t) (127 - 15) << 23;
    return (uint16_t) (sign | (size + 0xfffu + (size >> 13 & 1u)) >> 13);
}

int round_row(void *to, const float *from, int64_t count, int32_t dtype, float *bad)
{
    uint16_t *shorts = to;
    uint16_t  most = dtype == BL_F16 ? 0x7c00u : 0x7f80u; /* infinity */
    int       result = 0;

    for (int64_t i = 0; i < count; i++) {
        int fits = isfinite(from[i]);

        if (dtype == BL_F32) {
            memcpy((char *) to + (size_t) i * sizeof *from, &from[i], sizeof *from);
        } else {
            shorts[i] =
                dtype == BL_F16 ? round_to_half(from[i]) : round_to_bfloat(from[i]);
            fits = fits && (shorts[i] & 0x7fffu) < most;
        }
        if (!fits && result == 0) {
            *bad = from[i];
            result = -1;
        }
    }
    return result;
}
