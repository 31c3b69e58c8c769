/*
 * What a training or evaluation runs over: one stream of token ids, or examples with a
 * part that is given and a part that is predicted; and the batches made of it.
 */
#ifndef BEAMLORA_SRC_DATA_H
#define BEAMLORA_SRC_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer.h"

struct data {
    int32_t *ids;
    int64_t  count;     /* of ids                                                */
    int64_t  examples;  /* 0: one stream                                         */
    int64_t *start;     /* [examples + 1] in ids                                 */
    int64_t *loss_from; /* [examples] first id that is predicted, in the example */
    int64_t  cut;       /* examples longer than the context, cut                 */
    int64_t  dropped;   /* more examples, of which nothing was left to predict   */
};

/*
 * By the file's name: .u16 and .u32 hold raw little-endian ids; .jsonl and .json hold JSON
 * lines, see jsonl.h; any other is text, encoded as one piece without BOS and EOS, since
 * windows start anywhere in it. Every id is checked against vocab. Examples are cut to
 * context + 1 ids. tokenizer may be NULL for raw ids. -1: line in error, *out untouched.
 */
int  data_load(struct data *out, const char *path, const struct tokenizer *tokenizer,
               int64_t vocab, int64_t context, char *error, size_t size);
void data_free(struct data *data);

/* Does the file's name say that it needs a tokenizer? */
int data_is_text(const char *path);

/* 0 when a window of context inputs and their targets fits into a stream; path is for the
 * line. Examples always fit. */
int data_check(const struct data *data, const char *path, int64_t context, char *error,
               size_t size);

/* 1 and a line when examples were cut or left out; path is for the line. */
int data_note(const struct data *data, const char *path, int64_t context, char *text,
              size_t size);

/* FNV-1a of the ids and of the examples' places, for a resume to know the data by. */
uint64_t data_hash(const struct data *data);

enum { DATA_RANDOM, DATA_SEQUENTIAL };

struct sampling {
    int64_t  batch, accumulate; /* rows of a micro-batch, micro-batches of a step */
    int64_t  context;           /* ids of a stream's window                       */
    uint64_t seed;
    int32_t  order; /* DATA_RANDOM or DATA_SEQUENTIAL */
};

/*
 * Micro-batch `micro`, counted from 0 over the whole training; a function of its arguments
 * alone.
 *   ids, targets  written, [batch, *length] packed; room for batch * context
 *   length        written, at most context
 * A target is -1 where nothing is predicted. Returns how many are predicted.
 *
 * A stream: windows of context ids; DATA_RANDOM as data_window draws them, DATA_SEQUENTIAL
 * one after the other, from the start again when the next does not fit.
 * Examples: DATA_RANDOM in epochs, each a permutation of its own, DATA_SEQUENTIAL in the
 * order of the file, again and again. Rows are filled up on the right with id 0 to the
 * longest of the micro-batch.
 */
int64_t data_fill(const struct data *data, const struct sampling *sampling, int64_t micro,
                  int32_t *ids, int32_t *targets, int64_t *length);

/* Row of example `example`, filled up to length; returns how many are predicted. */
int64_t data_row(const struct data *data, int64_t example, int64_t length, int32_t *ids,
                 int32_t *targets);

/* Position of window `index` of step `step`, uniform over the count - context starts at
 * which context inputs and their targets fit; a function of its arguments alone. */
int64_t data_window(const struct data *data, int64_t context, uint64_t seed, int64_t step,
                    int64_t index);

/* Example at place `position` of epoch `epoch`: in each epoch every example once. */
int64_t data_example(const struct data *data, uint64_t seed, int64_t epoch,
                     int64_t position);

#endif
