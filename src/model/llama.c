/* What a loaded model is, whatever file it came from: its tensors, their names and shapes. */
#include "model/llama.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "beamlora_io.h"
#include "model/llama_file.h"

int llama_load(struct llama **out, const char *path, char *error, size_t size)
{
    struct stat status;

    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        return llama_load_hf(out, path, error, size);
    }
    return llama_load_bin(out, path, error, size);
}

void llama_free(struct llama *model)
{
    if (!model) {
        return;
    }
    if (model->map) {
        munmap(model->map, model->map_bytes);
    }
    for (int64_t i = 0; i < model->file_count; i++) {
        bl_safetensors_close(model->files[i]);
    }
    free(model->files);
    free(model->norms);
    free(model->layers);
    free(model);
}

void llama_projection_shape(const struct llama_config *config, int projection,
                            int64_t *out, int64_t *in)
{
    int64_t query = config->heads * config->head_dim;
    int64_t key = config->kv_heads * config->head_dim;

    *in = config->dim;
    switch (projection) {
    case LLAMA_Q:
        *out = query;
        break;
    case LLAMA_K:
    case LLAMA_V:
        *out = key;
        break;
    case LLAMA_O:
        *out = config->dim;
        *in = query;
        break;
    case LLAMA_DOWN:
        *out = config->dim;
        *in = config->hidden;
        break;
    default:
        *out = config->hidden;
        break;
    }
}

const char *llama_projection_name(int projection)
{
    static const char *const names[LLAMA_PROJECTIONS] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
    };
    return names[projection];
}

/* ===== Tensors ============================================================ */

int64_t llama_tensor_count(const struct llama_config *config)
{
    return 2 + config->layers * LLAMA_LAYER_TENSORS + !config->tied;
}

void llama_get_tensor(const struct llama_config *config, int64_t index,
                      struct llama_tensor *out)
{
    int64_t layer = (index - 2) / LLAMA_LAYER_TENSORS,
            part = (index - 2) % LLAMA_LAYER_TENSORS;
    const char *ends = index == 0 ? "model.embed_tokens" : "model.norm";

    memset(out, 0, sizeof *out);
    out->shape[0] = config->dim;
    out->dims = 1;
    if (index == 0 || layer == config->layers) {
        ends = index == 0 ? ends : "lm_head";
        out->shape[0] = config->vocab;
        out->shape[1] = config->dim;
        out->dims = 2;
    }
    if (index < 2 || layer == config->layers) {
        snprintf(out->name, sizeof out->name, "%s.weight", ends);
        return;
    }
    if (part < 2) {
        ends = part == 0 ? "input_layernorm" : "post_attention_layernorm";
    } else {
        ends = llama_projection_name((int) part - 2);
        llama_projection_shape(config, (int) part - 2, &out->shape[0], &out->shape[1]);
        out->dims = 2;
    }
    snprintf(out->name, sizeof out->name, "model.layers.%" PRId64 ".%s.weight", layer,
             ends);
}

struct weight llama_get_weight(const struct llama *model, int64_t index)
{
    int64_t                   layer = (index - 2) / LLAMA_LAYER_TENSORS;
    int64_t                   part = (index - 2) % LLAMA_LAYER_TENSORS;
    const struct llama_layer *at;

    if (index == 0) {
        return model->embedding;
    }
    if (index == 1) {
        return (struct weight){ model->final_norm, BL_F32 };
    }
    if (layer == model->config.layers) {
        return model->head;
    }
    at = &model->layers[layer];
    if (part < 2) {
        return (struct weight){ part == 0 ? at->attention_norm : at->ffn_norm, BL_F32 };
    }
    return at->projection[part - 2];
}

void llama_set_weight(struct llama *model, int64_t index, struct weight weight)
{
    int64_t layer = (index - 2) / LLAMA_LAYER_TENSORS;
    int64_t part = (index - 2) % LLAMA_LAYER_TENSORS;

    if (index == 0) {
        model->embedding = weight;
        if (model->config.tied) {
            model->head = weight;
        }
    } else if (index == 1) {
        model->final_norm = weight.data;
    } else if (layer == model->config.layers) {
        model->head = weight;
    } else if (part == 0) {
        model->layers[layer].attention_norm = weight.data;
    } else if (part == 1) {
        model->layers[layer].ffn_norm = weight.data;
    } else {
        model->layers[layer].projection[part - 2] = weight;
    }
}

/* ===== Rotary order ======================================================= */

/* Hugging Face's row h hd + b hd/2 + i is row h hd + 2i + b where rotary pairs are
 * neighbours; see docs/peft.md. */
int64_t *llama_rotary_order(int64_t heads, int64_t head_dim)
{
    int64_t *order = malloc((size_t) (heads * head_dim) * sizeof *order);

    for (int64_t h = 0; order != NULL && h < heads; h++) {
        for (int64_t b = 0; b < 2; b++) {
            for (int64_t i = 0; i < head_dim / 2; i++) {
                order[h * head_dim + b * (head_dim / 2) + i] = h * head_dim + 2 * i + b;
            }
        }
    }
    return order;
}
