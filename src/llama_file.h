/* What the readers and the writer of model files share. */
#ifndef BEAMLORA_SRC_LLAMA_FILE_H
#define BEAMLORA_SRC_LLAMA_FILE_H

#include "llama.h"

int llama_load_bin(struct llama **out, const char *path, char *error, size_t size);
int llama_load_hf(struct llama **out, const char *directory, char *error, size_t size);

/* Read config.json, everything in it checked: what the program would compute wrongly is
 * refused by name. */
int llama_config_read(struct llama_config *out, const char *path, char *error,
                      size_t size);
/* Write it, whole or not at all. */
int llama_config_write(const struct llama_config *config, int32_t dtype, const char *path,
                       char *error, size_t size);

#endif
