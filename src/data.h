/* A stream of token ids from a file: text through a tokenizer, or raw ids (.u16, .u32) */
#ifndef BEAMLORA_SRC_DATA_H
#define BEAMLORA_SRC_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "tokenizer.h"

struct data {
    int32_t *ids;
    int64_t  count;
};

/* A file whose name ends in .u16 or .u32 holds raw little-endian ids; any other is text,
 * encoded as one piece without a BOS, since windows start anywhere in it. Every id is
 * checked against vocab. tokenizer may be NULL for raw ids. -1: line in error. */
int  data_load(struct data *out, const char *path, const struct tokenizer *tokenizer,
               int64_t vocab, char *error, size_t size);
void data_free(struct data *data);

/* 0 when a window of context inputs and their targets fits; path is for the line. */
int data_check(const struct data *data, const char *path, int64_t context, char *error,
               size_t size);

/* Position of window `index` of step `step`, uniform over the count - context starts at
 * which context inputs and their targets fit; a function of its arguments alone. */
int64_t data_window(const struct data *data, int64_t context, uint64_t seed, int64_t step,
                    int64_t index);

#endif
