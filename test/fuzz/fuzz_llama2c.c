/*
 * A llama2.c model file: the input as it is; and, of a line of eight numbers, a file with
 * the first seven as its header and of the size that follows from them, or so many bytes
 * more. A model that is read is used.
 */
#include "fuzz.h"
#include "fuzz_models.h"

#include <string.h>

static void load(const char *name)
{
    char          before;
    struct llama *untouched = (struct llama *) (void *) &before, *model = untouched;
    char          error[512] = "";

    if (llama_load(&model, fuzz_path(name), error, sizeof error) != 0) {
        fuzz_check(model == untouched);
        fuzz_check_line(error);
        return;
    }
    fuzz_use_model(model);
    llama_free(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size }, line = fuzz_line(&input);
    int32_t           header[7];
    float             value = 0.25f;

    fuzz_write("model.bin", data, size);
    load("model.bin");
    for (int i = 0; i < 7; i++) {
        header[i] = (int32_t) fuzz_number(&line);
    }
    if (input.size >= sizeof value) {
        memcpy(&value, input.data, sizeof value);
    }
    fuzz_write_llama2c("model.bin", header, fuzz_number(&line), value);
    load("model.bin");
    return 0;
}
