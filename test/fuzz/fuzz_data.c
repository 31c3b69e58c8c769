/* Data to train on, by its first byte: JSON lines, raw ids of 2 or 4 bytes, plain text. What
 * is read is drawn from. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "text/data.h"
#include "model/llama.h"
#include "text/tokenizer.h"

enum { VOCAB = 300, CONTEXT = 6, BATCH = 2 };

static void draw(const struct data *data, int32_t order)
{
    const struct sampling sampling = { BATCH, 1, CONTEXT, 3, order };
    int32_t              *ids = malloc(BATCH * CONTEXT * sizeof *ids);
    int32_t              *targets = malloc(BATCH * CONTEXT * sizeof *targets);
    int64_t               length = 0;

    fuzz_check(ids != NULL && targets != NULL);
    for (int64_t micro = 0; micro < 3; micro++) {
        data_fill(data, &sampling, micro, ids, targets, &length);
        fuzz_check(length >= 1 && length <= CONTEXT);
        for (int64_t i = 0; i < BATCH * length; i++) {
            fuzz_check(ids[i] >= 0 && ids[i] < VOCAB);
            fuzz_check(targets[i] >= -1 && targets[i] < VOCAB);
        }
    }
    free(ids);
    free(targets);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = { "d.jsonl", "d.u16", "d.u32", "d.txt" };
    struct fuzz_input        input = { bytes, size };
    const char              *name = names[fuzz_byte(&input) % 4];
    struct tokenizer        *tokenizer = NULL;
    struct llama_config      config;
    struct data              data, untouched;
    char                     error[512] = "";

    memset(&config, 0, sizeof config);
    config.vocab = VOCAB;
    config.bos = config.eos = -1;
    fuzz_check(tokenizer_open(&tokenizer, "bytes", "", &config, error, sizeof error) ==
               0);
    memset(&data, 0x5a, sizeof data);
    untouched = data;
    fuzz_write(name, input.data, input.size);
    if (data_load(&data, fuzz_path(name), tokenizer, VOCAB, CONTEXT, error,
                  sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(memcmp(&data, &untouched, sizeof data) == 0);
    } else {
        data_hash(&data);
        if (data_note(&data, "d", CONTEXT, error, sizeof error)) {
            fuzz_check_line(error);
        }
        if (data_check(&data, "d", CONTEXT, error, sizeof error) == 0) {
            draw(&data, DATA_RANDOM);
            draw(&data, DATA_SEQUENTIAL);
        } else {
            fuzz_check_line(error);
        }
        data_free(&data);
    }
    tokenizer_free(tokenizer);
    return 0;
}
