/* The kinds of tokenizers that come from a file; only tokenizer.c chooses between them. */
#ifndef BEAMLORA_SRC_TOKENIZER_KINDS_H
#define BEAMLORA_SRC_TOKENIZER_KINDS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A file in memory. `data` is malloc'ed; a kind may keep it and set it to NULL. */
struct tokenizer_file {
    const char *path;
    char       *data;
    size_t      bytes;
};

struct tokenizer_kind {
    /* *state is written when 0 is returned. *bos, *eos: -1 for none. */
    int (*open)(void **state, struct tokenizer_file *file, int64_t vocab, int32_t *bos,
                int32_t *eos, char *error, size_t size);
    void (*free)(void *state);
    /* *ids is malloc'ed and begins with `reserved` places, left as they are and not in
     * *count. */
    int (*encode)(const void *state, const char *text, size_t bytes, size_t reserved,
                  int32_t **ids, int64_t *count, char *error, size_t size);
    /* As tokenizer_decode, of an id of the vocabulary. */
    const char *(*decode)(const void *state, int32_t previous, int32_t bos, int32_t id,
                          size_t *bytes);
};

extern const struct tokenizer_kind tokenizer_llama2c;
extern const struct tokenizer_kind tokenizer_sentencepiece; /* with SENTENCEPIECE=1 */

#ifdef __cplusplus
}
#endif

#endif
