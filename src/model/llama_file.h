/* What the readers and the writer of model files share. */
#ifndef BEAMLORA_SRC_LLAMA_FILE_H
#define BEAMLORA_SRC_LLAMA_FILE_H

#include <jansson.h>

#include "model/llama.h"

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
/* As config.json names it: "bfloat16". */
const char *llama_dtype_name(int32_t dtype);

/* An array of a model's file, and what becomes of it when it is written. */
struct llama_array {
    struct llama_tensor tensor;  /* as in the file: its name and shape             */
    struct weight       weight;  /* where its values are; dtype any of bl_dtype    */
    const int64_t      *order;   /* row i of the file is row order[i]; NULL: as is */
    const bl_adapter   *adapter; /* merged into it; NULL: none                     */
    int                 mapped;  /* 1: of a mapped file, whose pages may go again  */
};

/* Write arrays as safetensors, whole or not at all, one after the other; the weights as
 * dtype, rounded to nearest even, or each in its own. *bytes: their size is added. strict:
 * what is not finite, or too large for dtype, is refused where it is not written as it
 * was. */
#define LLAMA_OWN_DTYPE ((int32_t) -1)
int llama_write(const char *path, const struct llama_array *arrays, int64_t count,
                int32_t dtype, int strict, int64_t *bytes, char *error, size_t size);

/* llama_save, with adapters merged into the weights; NULL: none. */
int llama_save_merged(const struct llama *model, const struct llama_adapters *adapters,
                      const char *directory, int32_t dtype, char *error, size_t size);

/* The object in a JSON file; NULL with a line in error[size]. */
json_t *llama_read_json(const char *path, char *error, size_t size);

#endif
