/* A PEFT directory, the configuration and then the tensors: opened, its modules looked at,
 * loaded into a group of their shapes, and written again. */
#include "fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/adapter_norms.h"
#include "beamlora_io.h"

/* The program's reader makes the group. */
static void load(const char *directory, int64_t count)
{
    struct adapter_norms norms;
    char                 error[512] = "";

    if (adapter_norms_read(&norms, directory, error, sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(norms.module == NULL);
        return;
    }
    fuzz_check(norms.modules == count);
    for (int64_t i = 0; i < norms.modules; i++) {
        fuzz_check(isnan(norms.module[i].whole) || norms.module[i].whole >= 0);
    }
    adapter_norms_free(&norms);
}

/* Into a group that fits some files only; either all of it is taken or nothing. */
static void load_into(const bl_peft *peft)
{
    bl_group *group = fuzz_group(0);
    size_t    before_size, after_size;
    uint8_t  *before = fuzz_save(group, &before_size), *after;
    int       code = bl_peft_load(peft, group, NULL);

    after = fuzz_save(group, &after_size);
    if (code != 0) {
        fuzz_check_line(bl_io_last_error());
        fuzz_check(memcmp(before, after, before_size) == 0);
    } else {
        fuzz_train(group, 5);
    }
    free(before);
    free(after);
    bl_group_free(group);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size }, config = fuzz_part(&input);
    char              before;
    bl_peft          *untouched = (bl_peft *) (void *) &before, *peft = untouched;
    size_t            bytes;
    uint8_t          *file = fuzz_safetensors(input, &bytes);

    fuzz_write("adapter_config.json", config.data, config.size);
    fuzz_write("adapter_model.safetensors", file, bytes);
    free(file);
    if (bl_peft_open(&peft, fuzz_path("")) != 0) {
        fuzz_check(peft == untouched);
        fuzz_check_line(bl_io_last_error());
        return 0;
    }
    for (int64_t i = 0; i < bl_peft_get_count(peft); i++) {
        bl_peft_module module;

        fuzz_check(bl_peft_get_module(peft, i, &module) == 0);
        fuzz_check(module.rank >= 1 && module.in_features >= 1);
        fuzz_check(module.out_features >= 1 && isfinite(module.scale));
    }
    load(fuzz_path(""), bl_peft_get_count(peft));
    load_into(peft);
    bl_peft_close(peft);
    return 0;
}
