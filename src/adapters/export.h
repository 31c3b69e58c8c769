/* What the formats of `beamlora export` are given. */
#ifndef BEAMLORA_SRC_EXPORT_H
#define BEAMLORA_SRC_EXPORT_H

#include "adapters/restore.h"

struct export
{
    struct restored from;
    const char     *out;
    int32_t         dtype; /* BL_F32, BL_F16 or BL_BF16; -1: not given */
};

/* A Hugging Face directory with the adapters merged into the base's weights: the base's
 * own files, shards and other small files as it has them. -1: line in error. */
int export_merged(const struct export *job, char *error, size_t size);

#endif
