/*
 * What a group takes, see sizes.c: for making groups and for asking beforehand.
 */
#ifndef BEAMLORA_LIB_SIZES_H
#define BEAMLORA_LIB_SIZES_H

#include "internal.h"

struct bl__sizes {
    bl_options options;                                /* resolved */
    int64_t    elements, ranks, largest_rank, scratch; /* by capacity */
    int64_t    present_ranks, largest_present, cost;   /* at creation */
    int64_t    growth; /* the least that one more rank costs; 0: no room anywhere */
    size_t     bytes;  /* of an element */
    int64_t    rows;   /* of all W0 together, with DoRA; 0 without            */
    int64_t    length_rows, length_a, length_products, length_gram; /* of its scratch */
    int64_t    penalty_gram;                                        /* with AdaLoRA */
    size_t     bookkeeping, buffer, history;
};

/* Check specs and options, and work all of it out. 0, or an error. */
int bl__sizes_measure(struct bl__sizes *sizes, const bl_spec *specs, int64_t count,
                      const bl_options *opt);
/* A group's handle and bookkeeping in a zeroed block of sizes->bookkeeping bytes. */
bl_group *bl__sizes_carve(const struct bl__sizes *sizes, void *block, int64_t count);

/* Elements of a segment, rounded up to BL__ALIGNMENT. */
int64_t bl__segment(int64_t elements, size_t bytes);
/* How many buffers a snapshot holds: the parameters, and m and v where copied. */
int64_t bl__history_buffers(const bl_options *options);
/* All snapshots of one buffer */
size_t bl__ring_bytes(const bl_options *options, int64_t elements);
/* Of AdaLoRA's two averages */
size_t bl__averages_bytes(const struct bl__sizes *sizes);

#endif
