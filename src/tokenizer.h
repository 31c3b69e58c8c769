/*
 * Text to ids and back, in two kinds.
 *
 * A llama2.c tokenizer.bin: ids as llama2.c's run.c gives them. A space is put before
 * text that is not empty, every UTF-8 code point becomes its token or, without one, the
 * tokens of its bytes (byte b has id b + 3), and then, as long as there is one, the
 * adjacent pair whose joint string is the token with the best score becomes that token,
 * the leftmost of equals first. NUL bytes, which run.c cannot be given, go by their byte
 * token. BOS is 1, EOS 2.
 *
 * "bytes": id = byte. The model's vocabulary must have 256 ids or more; the 257th, where
 * there is one, is BOS, further ones stand for no text.
 */
#ifndef BEAMLORA_SRC_TOKENIZER_H
#define BEAMLORA_SRC_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* what: a llama2.c tokenizer file, or "bytes". vocab: the model's; the file must hold
 * exactly so many tokens. -1: line in error. */
int  tokenizer_open(struct tokenizer **out, const char *what, int64_t vocab, char *error,
                    size_t size);
void tokenizer_free(struct tokenizer *tokenizer);

/* Encode `bytes` bytes of text (NULs and invalid UTF-8 allowed); *ids is malloc'ed.
 * bos: put BOS first, where the tokenizer has one. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                     int bos, int32_t **ids, int64_t *count, char *error, size_t size);

/* Bytes of an id after `previous` (-1: none); valid until tokenizer_free. After BOS one
 * leading space is left out; an id outside the vocabulary has none. */
const char *tokenizer_decode(const struct tokenizer *tokenizer, int32_t previous,
                             int32_t id, size_t *bytes);

int32_t tokenizer_bos(const struct tokenizer *tokenizer); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer); /* -1: none */
int     tokenizer_is_bytes(const struct tokenizer *tokenizer);

#endif
