/* config.json of a Llama. What is read and written again reads as the same. */
#include "fuzz.h"

#include <string.h>

#include "beamlora.h"
#include "model/llama_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct llama_config config, again, untouched;
    char                error[512] = "";

    memset(&config, 0x5a, sizeof config);
    untouched = config;
    fuzz_write(LLAMA_CONFIG, data, size);
    if (llama_config_read(&config, fuzz_path(""), error, sizeof error) != 0) {
        fuzz_check(memcmp(&config, &untouched, sizeof config) == 0);
        fuzz_check_line(error);
        return 0;
    }
    fuzz_check(config.head_dim % 2 == 0 && config.heads % config.kv_heads == 0);
    fuzz_check(config.bos < config.vocab && config.eos < config.vocab);
    fuzz_check(llama_config_write(&config, BL_F32, fuzz_path(""), error, sizeof error) ==
               0);
    if (llama_config_read(&again, fuzz_path(""), error, sizeof error) != 0) {
        fuzz_abort(__FILE__, __LINE__, error);
    }
    fuzz_check(again.dim == config.dim && again.hidden == config.hidden &&
               again.layers == config.layers && again.heads == config.heads &&
               again.kv_heads == config.kv_heads && again.head_dim == config.head_dim &&
               again.vocab == config.vocab && again.max_context == config.max_context &&
               again.tied == config.tied && again.bos == config.bos &&
               again.eos == config.eos);
    fuzz_check(again.norm_epsilon == config.norm_epsilon &&
               again.rope_theta == config.rope_theta &&
               again.rope_scaling.factor == config.rope_scaling.factor &&
               again.rope_scaling.low == config.rope_scaling.low &&
               again.rope_scaling.high == config.rope_scaling.high);
    fuzz_check(strcmp(again.tokenizer, config.tokenizer) == 0);
    return 0;
}
