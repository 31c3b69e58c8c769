/*
 * A Hugging Face directory: config.json, then model.safetensors, or where that is empty
 * an index and two shards, "a" and "b". A model that is read is used.
 */
#include "fuzz.h"
#include "fuzz_models.h"

#include <stdlib.h>

#include "model/llama_file.h"

static void write_safetensors(const char *name, struct fuzz_input part)
{
    size_t   size;
    uint8_t *file = fuzz_safetensors(part, &size);

    fuzz_write(name, file, size);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size }, part = fuzz_part(&input);
    char              before, error[512] = "";
    struct llama     *untouched = (struct llama *) (void *) &before, *model = untouched;

    fuzz_write(LLAMA_CONFIG, part.data, part.size);
    part = fuzz_part(&input);
    fuzz_remove(LLAMA_WEIGHTS);
    if (part.size > 0) {
        write_safetensors(LLAMA_WEIGHTS, part);
    } else {
        part = fuzz_part(&input);
        fuzz_write(LLAMA_INDEX, part.data, part.size);
        write_safetensors("a", fuzz_part(&input));
        write_safetensors("b", fuzz_part(&input));
    }
    if (llama_load(&model, fuzz_path(""), error, sizeof error) != 0) {
        fuzz_check(model == untouched);
        fuzz_check_line(error);
        return 0;
    }
    fuzz_use_model(model);
    llama_free(model);
    return 0;
}
