/*
 * JSON lines: one object a line, which makes one example.
 *
 *     {"prompt": "..", "completion": ".."}    the completion is predicted
 *     {"question": "..", "answer": ".."}      the same
 *     {"text": ".."}                          all of it is predicted
 *
 * Kinds may be mixed, other keys are ignored; an object of several kinds is of the first
 * in this list. The ids are BOS, those of prompt and completion encoded as one text, EOS.
 * What is predicted begins behind what these have in common with BOS and the prompt's own
 * ids: a token that reaches over the boundary is predicted as a whole, and generation from
 * the prompt starts from ids that the training has seen.
 */
#ifndef BEAMLORA_SRC_JSONL_H
#define BEAMLORA_SRC_JSONL_H

#include "text/data.h"

/* Fill *out, which is zero, from the text of a file. Blank lines, a byte order mark and
 * carriage returns at the ends of lines are skipped. -1: "FILE:LINE: .." in error; *out
 * is for data_free. */
int jsonl_load(struct data *out, const char *path, const char *text, size_t length,
               const struct tokenizer *tokenizer, int64_t vocab, int64_t context,
               char *error, size_t size);

#endif
