/* Models for the fuzz targets: written small, and used once they are read. */
#ifndef BEAMLORA_TEST_FUZZ_FUZZ_MODELS_H
#define BEAMLORA_TEST_FUZZ_FUZZ_MODELS_H

#include <stdint.h>

#include "model/llama.h"

/* A llama2.c file of the seven numbers, with `more` bytes too many or too few where that
 * is not 0, all of its floats alike. Nothing if it would be large. */
void fuzz_write_llama2c(const char *name, const int32_t header[7], int64_t more,
                        float value);

/* One that reads. */
void fuzz_write_model(const char *name, int layers);

/* A forward over a window and some tokens one by one. */
void fuzz_use_model(const struct llama *model);

#endif
