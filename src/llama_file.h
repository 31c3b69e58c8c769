/* What the readers and the writer of model files share. */
#ifndef BEAMLORA_SRC_LLAMA_FILE_H
#define BEAMLORA_SRC_LLAMA_FILE_H

#include <jansson.h>

#include "llama.h"

#define LLAMA_CONFIG "config.json"
#define LLAMA_WEIGHTS "model.safetensors"
#define LLAMA_INDEX "model.safetensors.index.json"

int llama_load_bin(struct llama **out, const char *path, char *error, size_t size);
int llama_load_hf(struct llama **out, const char *directory, char *error, size_t size);

/* Read a directory's config.json; all of it that bears on the result is checked, and what
 * the program would compute wrongly is refused by name. */
int llama_config_read(struct llama_config *out, const char *directory, char *error,
                      size_t size);
int llama_config_read_file(struct llama_config *out, const char *path, char *error,
                           size_t size);
/* Write it, whole or not at all; dtype: of the weights. */
int llama_config_write(const struct llama_config *config, int32_t dtype,
                       const char *directory, char *error, size_t size);
/* The object in a JSON file; NULL with a line in error[size]. */
json_t *llama_read_json(const char *path, char *error, size_t size);

#endif
