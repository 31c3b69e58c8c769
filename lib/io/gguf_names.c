/*
 * What a GGUF adapter is called: bl_gguf_options and the names of the base's tensors.
 */
#include <stdio.h>
#include <string.h>

#include "gguf.h"

#define FIRST_SIZE sizeof(bl_gguf_options) /* of release 0.1; frozen with it */

#if SIZE_MAX == UINT64_MAX
_Static_assert(sizeof(bl_gguf_options) == 56, "bl_gguf_options has changed");
_Static_assert(offsetof(bl_gguf_options, tensors) == 24, "bl_gguf_options has changed");
_Static_assert(offsetof(bl_gguf_options, heads) == 32, "bl_gguf_options has changed");
_Static_assert(offsetof(bl_gguf_options, dtype) == 52, "bl_gguf_options has changed");
#endif

int bl_gguf_options_init(bl_gguf_options *opt, size_t size)
{
    if (opt == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "opt is NULL");
    }
    if (size < FIRST_SIZE) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "size is %zu, must be >= %zu", size,
                           FIRST_SIZE);
    }
    bl_gguf_options defaults;
    memset(&defaults, 0, sizeof defaults);
    defaults.size = size;
    defaults.dtype = BL_F32;
    if (size > sizeof defaults) {
        memset(opt, 0, size); /* fields of a later version: their zero is harmless */
    }
    memcpy(opt, &defaults, sizeof defaults);
    return 0;
}

/* A key's value that llama.cpp compares: printable, and of a sensible length. */
static int check_architecture(const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return bl__io_fail(BL_E_OPTIONS, NULL,
                               "architecture has byte %d, must be printable ASCII",
                               (unsigned char) text[i]);
        }
    }
    return length > 0 && length <= 255
               ? 0
               : bl__io_fail(BL_E_OPTIONS, NULL,
                             "architecture has %zu bytes, must have 1..255", length);
}

int bl__io_gguf_options(bl_gguf_options *out, const bl_gguf_options *opt)
{
    int code = bl_gguf_options_init(out, sizeof *out);
    if (code == 0 && opt != NULL) {
        code = bl__io_take_options(out, sizeof *out, opt, FIRST_SIZE,
                                   "bl_gguf_options_init");
    }
    if (code != 0) {
        return code;
    }
    if (out->architecture == NULL) {
        out->architecture = "llama";
    }
    if (out->name != NULL && strlen(out->name) > GGUF_TEXT_MAX) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "name has %zu bytes, may have %d",
                           strlen(out->name), GGUF_TEXT_MAX);
    }
    if (out->heads < 0 || out->kv_heads < 0) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "%s is %lld, must be >= 0",
                           out->heads < 0 ? "heads" : "kv_heads",
                           (long long) (out->heads < 0 ? out->heads : out->kv_heads));
    }
    if (out->interleaved != 0 && out->interleaved != 1) {
        return bl__io_fail(BL_E_OPTIONS, NULL, "interleaved is %d, must be 0 or 1",
                           (int) out->interleaved);
    }
    if (out->dtype != BL_F32 && out->dtype != BL_F16 && out->dtype != BL_BF16) {
        return bl__io_fail(BL_E_OPTIONS, NULL,
                           "dtype is %d, must be BL_F32, BL_F16 or BL_BF16",
                           (int) out->dtype);
    }
    return check_architecture(out->architecture);
}

static const struct {
    char from[20], to[12];
} parts[] = {
    { "self_attn.q_proj", "attn_q" }, { "self_attn.k_proj", "attn_k" },
    { "self_attn.v_proj", "attn_v" }, { "self_attn.o_proj", "attn_output" },
    { "mlp.gate_proj", "ffn_gate" },  { "mlp.up_proj", "ffn_up" },
    { "mlp.down_proj", "ffn_down" },
};

/* "blk.0.attn_q.weight" of "model.layers.0.self_attn.q_proj"; 0 when it is none such. */
static int map_name(char *out, size_t size, const char *name)
{
    static const char prefix[] = "model.layers.";
    if (strcmp(name, "lm_head") == 0) {
        snprintf(out, size, "output.weight");
        return 1;
    }
    if (strncmp(name, prefix, strlen(prefix)) != 0) {
        return 0;
    }
    const char *number = name + strlen(prefix);
    size_t      digits = strspn(number, "0123456789");
    /* as a program writes a number: no other name may map to the same tensor */
    if (digits == 0 || digits > 18 || number[digits] != '.' ||
        (number[0] == '0' && digits > 1)) {
        return 0;
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(number + digits + 1, parts[i].from) == 0) {
            snprintf(out, size, "blk.%.*s.%s.weight", (int) digits, number, parts[i].to);
            return 1;
        }
    }
    return 0;
}

int bl__io_gguf_name(char out[GGUF_NAME_SIZE], const bl_gguf_options *opt, int64_t k,
                     const char *adapter)
{
    char        mapped[GGUF_NAME_SIZE];
    const char *name = mapped;
    if (opt->tensors != NULL) {
        name = opt->tensors[k];
        if (name == NULL || name[0] == '\0') {
            return bl__io_fail(BL_E_ARG, NULL, "tensors has no name for adapter %s",
                               adapter);
        }
    } else if (!map_name(mapped, sizeof mapped, adapter)) {
        return bl__io_fail(BL_E_ARG, NULL,
                           "adapter %s is none of a Llama's projections: give its "
                           "tensor's name in tensors",
                           adapter);
    }
    size_t bytes = strlen(name) + strlen(GGUF_SUFFIX_A);
    if (bytes >= GGUF_NAME_SIZE) {
        return bl__io_fail(BL_E_ARG, NULL,
                           "tensor name %.200s" GGUF_SUFFIX_A " has %zu bytes, GGUF "
                           "allows %d",
                           name, bytes, GGUF_NAME_SIZE - 1);
    }
    memcpy(out, name, strlen(name) + 1);
    return 0;
}
