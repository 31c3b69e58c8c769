/*
 * Names of an adapter's tensors, as PEFT, its forks and loralib spell them:
 *
 *     [base_model.model.] <module> .lora_A [.default] [.weight]
 *
 * and the same with lora_B, lora_gate (BeamLoRA), lora_magnitude_vector (DoRA), lora_E
 * and ranknum (AdaLoRA). "default" is the adapter's name in memory, which old files keep.
 */
#include <string.h>

#include "io.h"

static const char *const parts[BL__IO_KINDS] = {
    ".lora_A", ".lora_B", BL__IO_SUFFIX_GATE, ".lora_E", BL__IO_SUFFIX_MAGNITUDE,
    ".ranknum"
};

/* Length without this ending, if it has it. */
static size_t strip(const char *name, size_t length, const char *ending)
{
    size_t cut = strlen(ending);
    int    has = length >= cut && memcmp(name + length - cut, ending, cut) == 0;
    return has ? length - cut : length;
}

int bl__io_parse_name(struct bl__io_name *out, const char *name)
{
    size_t prefix = strlen(BL__IO_PREFIX);
    out->prefixed = strncmp(name, BL__IO_PREFIX, prefix) == 0;
    out->module = name + (out->prefixed ? prefix : 0);
    size_t length = strlen(out->module);
    length = strip(out->module, length, ".weight");
    length = strip(out->module, length, ".default");
    for (int kind = 0; kind < BL__IO_KINDS; kind++) {
        size_t rest = strip(out->module, length, parts[kind]);
        if (rest < length) {
            out->length = rest;
            out->kind = (enum bl__io_kind) kind;
            return rest > 0;
        }
    }
    return 0;
}
