/*
 * Memory from the host's allocator or malloc, aligned to a cache line. The pointer that
 * the host gave is kept in the word before the aligned one.
 */
#include <stdlib.h>
#include <string.h>

#include "doors.h"

#define OVERHEAD (BL__ALIGNMENT + sizeof(void *))

size_t bl__mul(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

size_t bl__add(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

size_t bl__round_up(size_t bytes)
{
    const size_t sum = bl__add(bytes, BL__ALIGNMENT - 1);
    return sum == SIZE_MAX ? SIZE_MAX : sum / BL__ALIGNMENT * BL__ALIGNMENT;
}

size_t bl__alloc_cost(size_t bytes)
{
    return bl__add(bytes, OVERHEAD);
}

void *bl__alloc(const struct bl__allocator *allocator, size_t bytes)
{
    const size_t cost = bl__alloc_cost(bytes);
    if (cost == SIZE_MAX) {
        return NULL;
    }
    char *raw =
        allocator->alloc != NULL ? allocator->alloc(allocator->user, cost) : malloc(cost);
    if (raw == NULL) {
        return NULL;
    }
    const uintptr_t first = (uintptr_t) raw + sizeof(void *);
    const size_t    skip = (BL__ALIGNMENT - first % BL__ALIGNMENT) % BL__ALIGNMENT;
    char *const     aligned = raw + sizeof(void *) + skip;
    memcpy(aligned - sizeof(void *), &raw, sizeof raw);
    memset(aligned, 0, bytes);
    return aligned;
}

void bl__free(const struct bl__allocator *allocator, void *pointer)
{
    if (pointer == NULL) {
        return;
    }
    void *raw;
    memcpy(&raw, (char *) pointer - sizeof raw, sizeof raw);
    if (allocator->free != NULL) {
        allocator->free(allocator->user, raw);
    } else {
        free(raw);
    }
}
