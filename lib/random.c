/*
 * Counter-based random numbers: every draw is a hash of a key and an index, so a mask
 * can be drawn again and a resumed run needs no generator state. The hash is the output
 * function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
 */
#include <math.h>

#include "doors.h"

static const uint64_t golden = 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t bl__random_key(uint64_t seed, enum bl__purpose purpose, uint64_t a, uint64_t b)
{
    uint64_t key = mix(seed + golden);
    key = mix(key + golden * (uint64_t) purpose);
    key = mix(key + golden * (a + 1));
    return mix(key + golden * (b + 1));
}

uint64_t bl__random_bits(uint64_t key, uint64_t index)
{
    return mix(key + golden * (index + 1));
}

double bl__random_unit(uint64_t key, uint64_t index)
{
    return (double) (bl__random_bits(key, index) >> 11) * 0x1p-53;
}

/* Box and Muller (Ann. Math. Statist. 1958): two uniform draws make one. */
double bl__random_normal(uint64_t key, uint64_t index)
{
    const double pi = 3.14159265358979323846;
    const double radius = sqrt(-2 * log(1 - bl__random_unit(key, 2 * index)));
    return radius * cos(2 * pi * bl__random_unit(key, 2 * index + 1));
}

void bl__random_shuffle(uint64_t key, int64_t *items, int64_t count)
{
    for (int64_t i = count - 1; i > 0; i--) {
        const double  unit = bl__random_unit(key, (uint64_t) i);
        const int64_t j = (int64_t) (unit * (double) (i + 1));
        const int64_t item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}
