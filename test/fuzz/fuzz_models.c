/* See fuzz_models.h. */
#include "fuzz_models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { FLOATS_MOST = 1 << 14, LENGTH = 3 };

void fuzz_write_llama2c(const char *name, const int32_t header[7], int64_t more,
                        float value)
{
    int64_t  size[7], floats, kv;
    uint8_t *data;

    for (int i = 0; i < 7; i++) {
        size[i] = header[i] < 0 ? -(int64_t) header[i] : header[i];
        size[i] = size[i] > 64 ? 0 : size[i]; /* absurd ones have no floats */
    }
    kv = size[3] > 0 ? size[0] / size[3] * size[4] : 0;
    floats = size[5] * size[0] * (header[5] < 0 ? 2 : 1) +
             size[2] * (2 * size[0] + 2 * size[0] * size[0] + 2 * size[0] * kv +
                        3 * size[0] * size[1]) +
             size[0] + (size[3] > 0 ? size[6] * (size[0] / size[3] / 2) * 2 : 0);
    floats = floats > FLOATS_MOST ? FLOATS_MOST : floats;
    more = more < -28 - floats * 4 ? 0 : more > 64 ? 64 : more;
    data = calloc((size_t) (28 + floats * 4 + 64), 1);
    fuzz_check(data != NULL);
    memcpy(data, header, 28);
    for (int64_t i = 0; i < floats; i++) {
        memcpy(data + 28 + 4 * i, &value, 4);
    }
    fuzz_write(name, data, (size_t) (28 + floats * 4 + more));
    free(data);
}

void fuzz_write_model(const char *name, int layers)
{
    const int32_t header[7] = { 4, 3, layers, 2, 1, 5, 2 };

    fuzz_write_llama2c(name, header, 0, 0.25f);
}

static void forward(const struct llama *model)
{
    struct llama_pass *pass = NULL;
    int32_t            ids[2 * LENGTH], targets[2 * LENGTH];
    int64_t            predicted = 0;
    double             sum = 0;
    char               error[512] = "";

    if (llama_pass_create(&pass, model, NULL, 2, LENGTH, 0, error, sizeof error) != 0) {
        fuzz_check_line(error);
        return;
    }
    for (int i = 0; i < 2 * LENGTH; i++) {
        ids[i] = (int32_t) ((model->config.vocab - 1) * i / (2 * LENGTH - 1));
        targets[2 * LENGTH - 1 - i] = ids[i];
    }
    fuzz_check(llama_forward(pass, 2, LENGTH, ids, targets, BL_NO_DROPOUT, &sum,
                             &predicted, error, sizeof error) == 0);
    fuzz_check(predicted == 2 * LENGTH);
    llama_pass_free(pass);
}

void fuzz_use_model(const struct llama *model)
{
    struct llama_decoder *decoder = NULL;
    char                  error[512] = "";

    forward(model);
    if (llama_decoder_create(&decoder, model, NULL, LENGTH, error, sizeof error) != 0) {
        fuzz_check_line(error);
        return;
    }
    for (int i = 0; i < LENGTH; i++) {
        fuzz_check(llama_decode(decoder, (int32_t) (model->config.vocab - 1)) != NULL);
    }
    fuzz_check(llama_decode(decoder, 0) == NULL);
    llama_decoder_free(decoder);
}
