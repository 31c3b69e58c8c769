/*
 * Text to ids and back, in three kinds.
 *
 * "bytes": id = byte. The model's vocabulary must have 256 ids or more; the 257th, where
 * there is one, is BOS, the 258th EOS, further ones stand for no text.
 *
 * A llama2.c tokenizer.bin: ids as llama2.c's run.c gives them. A space is put before
 * text that is not empty, every UTF-8 code point becomes its token or, without one, the
 * tokens of its bytes (byte b has id b + 3), and then, as long as there is one, the
 * adjacent pair whose joint string is the token with the best score becomes that token,
 * the leftmost of equals first. NUL bytes, which run.c cannot be given, go by their byte
 * token. BOS is 1, EOS 2.
 *
 * A SentencePiece model, in a program built with SENTENCEPIECE=1: ids, BOS and EOS as the
 * library gives them.
 *
 * BOS and EOS of the model's config.json, where it names them, take their place.
 */
#ifndef BEAMLORA_SRC_TOKENIZER_H
#define BEAMLORA_SRC_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct llama_config;

/*
 * what: "bytes", or a file, told apart by its content. NULL: what the model at model_path
 * has, if that is a directory: bytes if its config.json says so, else tokenizer.bin, else
 * tokenizer.model. A llama2.c file must hold exactly the model's vocabulary, a
 * SentencePiece model no more than that. -1: line in error.
 */
int  tokenizer_open(struct tokenizer **out, const char *what, const char *model_path,
                    const struct llama_config *config, char *error, size_t size);
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
int     tokenizer_is_llama2c(const struct tokenizer *tokenizer);

#endif
