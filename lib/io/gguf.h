/* What the writer of GGUF adapters is made of. */
#ifndef BEAMLORA_LIB_IO_GGUF_H
#define BEAMLORA_LIB_IO_GGUF_H

#include "io.h"

#define GGUF_NAME_SIZE 64   /* of a tensor's name, with its final NUL: ggml's own limit */
#define GGUF_TEXT_MAX 65535 /* bytes of a value */
#define GGUF_SUFFIX_A ".lora_a"
#define GGUF_SUFFIX_B ".lora_b"

/* Options, checked and filled up: *opt may be NULL. */
int bl__io_gguf_options(bl_gguf_options *out, const bl_gguf_options *opt);

/* The base's tensor for adapter number k of this name; there is room for a suffix. */
int bl__io_gguf_name(char out[GGUF_NAME_SIZE], const bl_gguf_options *opt, int64_t k,
                     const char *adapter);

#endif
