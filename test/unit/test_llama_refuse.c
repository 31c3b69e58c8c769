/*
 * Hugging Face Llama directories that would be computed wrongly are refused with a line
 * that says why; all other ways to write a configuration are read.
 */
#define _POSIX_C_SOURCE 200809L

#include "tiny_hf.h"

#include "model/llama.h"
#include "model/llama_file.h"

/* ===== config.json ======================================================== */

/* config.json of small with members of `text` over it. */
static void change_config(const char *text)
{
    json_error_t where;
    json_t      *config = config_of(&small);
    json_t      *change = json_loads(text, 0, &where);

    ck_assert_msg(change != NULL, "%s: %s", text, where.text);
    json_object_update(config, change);
    write_json("config.json", config);
    json_decref(change);
    json_decref(config);
}

static const struct {
    const char *change, *part;
} unsupported[] = {
    { "{\"model_type\": \"mistral\"}", "model_type is \"mistral\"" },
    { "{\"model_type\": 3}", "model_type" },
    { "{\"model_type\": \"a\\nb\"}", "model_type" },
    { "{\"architectures\": [\"LlamaModel\"]}", "LlamaModel" },
    { "{\"architectures\": [\"LlamaForCausalLM\", \"X\"]}", "architectures" },
    { "{\"architectures\": []}", "architectures" },
    { "{\"architectures\": \"LlamaForCausalLM\"}", "architectures" },
    { "{\"model_type\": null, \"architectures\": null}", "neither" },
    { "{\"attention_bias\": true}", "attention_bias" },
    { "{\"mlp_bias\": true}", "mlp_bias" },
    { "{\"mlp_bias\": \"no\"}", "mlp_bias" },
    { "{\"hidden_act\": \"gelu\"}", "hidden_act is \"gelu\"" },
    { "{\"hidden_act\": null}", "hidden_act" },
    { "{\"sliding_window\": 4096}", "sliding_window" },
    { "{\"quantization_config\": {\"quant_method\": \"gptq\"}}", "gptq" },
    { "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}}", "\"linear\"" },
    { "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}}", "\"dynamic\"" },
    { "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}}", "\"yarn\"" },
    { "{\"rope_parameters\": {\"rope_type\": \"longrope\"}}", "\"longrope\"" },
    { "{\"rope_scaling\": {\"rope_type\": 1}}", "rope type is 1" },
    { "{\"rope_scaling\": {\"factor\": 2.0}}", "no rope_type" },
    { "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}}", "rope_type" },
    { "{\"rope_scaling\": \"llama3\"}", "rope_scaling" },
    { "{\"rope_parameters\": []}", "rope_parameters" },
    { "{\"rope_scaling\": {\"type\": \"default\"}, \"rope_parameters\": {}}",
      "rope_parameters too" },
    { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0}}",
      "no original_max_position_embeddings" },
    { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
      "\"low_freq_factor\": 4.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": 8192}}",
      "high_freq_factor" },
    { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 0, "
      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": 8192}}",
      "factor is 0" },
    { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": 1e300}}",
      "original_max_position_embeddings" },
    { "{\"original_max_position_embeddings\": 64, \"rope_scaling\": {\"rope_type\": "
      "\"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": 8192}}",
      "original_max_position_embeddings is 64" },
    { "{\"rope_theta\": 0}", "rope_theta" },
    { "{\"rope_theta\": null}", "rope_theta" },
    { "{\"rope_parameters\": {\"rope_theta\": \"1\"}}", "rope_theta" },
    { "{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor is 0.5" },
    { "{\"rope_parameters\": {\"partial_rotary_factor\": 0.25}}",
      "partial_rotary_factor is 0.25" },
    { "{\"rms_norm_eps\": -1e-5}", "rms_norm_eps" },
    { "{\"rms_norm_eps\": true}", "rms_norm_eps" },
    { "{\"hidden_size\": 12.0}", "hidden_size is 12.0" },
    { "{\"hidden_size\": \"12\"}", "hidden_size" },
    { "{\"hidden_size\": 0}", "hidden_size" },
    { "{\"hidden_size\": 2147483648}", "hidden_size" },
    { "{\"hidden_size\": null}", "hidden_size is null" },
    { "{\"intermediate_size\": -1}", "intermediate_size" },
    { "{\"num_hidden_layers\": 0}", "num_hidden_layers" },
    { "{\"num_attention_heads\": []}", "num_attention_heads" },
    { "{\"num_attention_heads\": 3, \"num_key_value_heads\": 2}",
      "num_attention_heads 3 is not a multiple of num_key_value_heads 2" },
    { "{\"num_key_value_heads\": 0}", "num_key_value_heads" },
    { "{\"num_attention_heads\": 5, \"num_key_value_heads\": 5, \"head_dim\": null}",
      "not a multiple of num_attention_heads" },
    { "{\"head_dim\": 5}", "head_dim is 5" },
    { "{\"head_dim\": 2147483646}", "head_dim" },
    { "{\"head_dim\": 6.5}", "head_dim" },
    { "{\"vocab_size\": 1e3}", "vocab_size" },
    { "{\"max_position_embeddings\": false}", "max_position_embeddings" },
    { "{\"tie_word_embeddings\": 1}", "tie_word_embeddings" },
    { "{\"bos_token_id\": 11}", "bos_token_id is 11" },
    { "{\"eos_token_id\": [\"</s>\"]}", "eos_token_id" },
    { "{\"eos_token_id\": 2.5}", "eos_token_id" },
    /* sizes that the files do not have */
    { "{\"num_hidden_layers\": 2147483647}", "no tensor model.layers.2." },
    { "{\"num_hidden_layers\": 1}", "model.layers.1." },
    { "{\"vocab_size\": 12}", "model.embed_tokens.weight is [11, 12], by config.json it "
                              "must be [12, 12]" },
    { "{\"hidden_size\": 2147483647, \"intermediate_size\": 2147483647, \"vocab_size\": "
      "2147483647}",
      "[2147483647, 2147483647]" },
    { "{\"intermediate_size\": 11}", "mlp.gate_proj.weight is [10, 12]" },
    { "{\"num_key_value_heads\": 2}", "self_attn.k_proj.weight is [6, 12]" },
    { "{\"tie_word_embeddings\": false}", "no tensor lm_head.weight" },
};

START_TEST(configurations_that_are_refused)
{
    write_model(&small, all_f32);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        change_config(unsupported[i].change);
        refused(folder, unsupported[i].part);
    }
    change_config("{}"); /* and nothing else was the reason */
    llama_free(load(folder));
}
END_TEST

static const struct {
    const char         *change;
    double              theta;
    struct rope_scaling scaling;
    int64_t             bos, eos;
} accepted[] = {
    { "{}", 10000, { 0, 0, 0, 0 }, 1, 2 },
    { "{\"architectures\": null}", 10000, { 0, 0, 0, 0 }, 1, 2 },
    { "{\"model_type\": null, \"head_dim\": null}", 10000, { 0, 0, 0, 0 }, 1, 2 },
    { "{\"rope_theta\": 500000}", 500000, { 0, 0, 0, 0 }, 1, 2 },
    { "{\"rope_theta\": 10000.000000000002}", 10000.000000000002, { 0, 0, 0, 0 }, 1, 2 },
    { "{\"rope_scaling\": null, \"rope_parameters\": null}",
      10000,
      { 0, 0, 0, 0 },
      1,
      2 },
    { "{\"rope_scaling\": {\"type\": \"default\", \"factor\": 3}}",
      10000,
      { 0, 0, 0, 0 },
      1,
      2 },
    { "{\"rope_theta\": 5.0, \"rope_parameters\": {\"rope_theta\": 1e6, \"rope_type\": "
      "\"default\"}}",
      1e6,
      { 0, 0, 0, 0 },
      1,
      2 },
    { "{\"rope_parameters\": {\"rope_theta\": 7}, \"dtype\": \"float16\"}",
      7,
      { 0, 0, 0, 0 },
      1,
      2 },
    { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
      "\"low_freq_factor\": 1, \"high_freq_factor\": 4.5, "
      "\"original_max_position_embeddings\": 8}}",
      10000,
      { 8, 1, 4.5, 8 },
      1,
      2 },
    { "{\"bos_token_id\": null, \"eos_token_id\": [7, 3, 2]}",
      10000,
      { 0, 0, 0, 0 },
      -1,
      7 },
    { "{\"bos_token_id\": 0, \"eos_token_id\": []}", 10000, { 0, 0, 0, 0 }, 0, -1 },
    { "{\"eos_token_id\": -1, \"hidden_act\": \"silu\", \"attention_bias\": false}",
      10000,
      { 0, 0, 0, 0 },
      1,
      -1 },
    { "{\"quantization_config\": null, \"sliding_window\": null, \"pretraining_tp\": 1, "
      "\"partial_rotary_factor\": 1.0, \"anything\": [{}]}",
      10000,
      { 0, 0, 0, 0 },
      1,
      2 },
};

START_TEST(configurations_that_are_read)
{
    write_model(&small, all_f32);
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        struct llama *model, *again;
        char          path[200];

        change_config(accepted[i].change);
        model = load(folder);
        snprintf(path, sizeof path, "%s/saved", folder);
        ck_assert_int_eq(llama_save(model, path, BL_F32, error, sizeof error), 0);
        again = load(path);
        for (int k = 0; k < 2; k++) { /* as read, and as written and read */
            const struct llama_config *c = k ? &again->config : &model->config;

            ck_assert(c->rope_theta == accepted[i].theta);
            ck_assert_int_eq(
                memcmp(&c->rope_scaling, &accepted[i].scaling, sizeof c->rope_scaling),
                0);
            ck_assert_int_eq(c->bos, accepted[i].bos);
            ck_assert_int_eq(c->eos, accepted[i].eos);
            ck_assert(c->norm_epsilon == 1e-5);
            ck_assert_int_eq(c->head_dim, 6);
            ck_assert_int_eq(c->max_context, 32);
            ck_assert_str_eq(c->tokenizer, "");
        }
        llama_free(model);
        llama_free(again);
    }
}
END_TEST

START_TEST(a_bare_configuration_has_the_defaults_of_transformers)
{
    struct llama_config c;
    const char          text[] = "{\"model_type\": \"llama\", \"tokenizer\": \"bytes\"}";

    write_bytes("config.json", text, strlen(text));
    ck_assert_msg(llama_config_read(&c, folder, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(c.dim, 4096);
    ck_assert_int_eq(c.hidden, 11008);
    ck_assert_int_eq(c.layers, 32);
    ck_assert_int_eq(c.heads, 32);
    ck_assert_int_eq(c.kv_heads, 32);
    ck_assert_int_eq(c.head_dim, 128);
    ck_assert_int_eq(c.vocab, 32000);
    ck_assert_int_eq(c.max_context, 2048);
    ck_assert(c.norm_epsilon == 1e-6 && c.rope_theta == 10000);
    ck_assert_int_eq(c.tied, 0);
    ck_assert_str_eq(c.tokenizer, "bytes");
}
END_TEST

START_TEST(texts_that_are_no_configuration)
{
    static const char twice[] = "{\"model_type\": \"llama\", \"model_type\": \"llama\"}";
    static const char control[] = "{\"a\":\x01}", deleted[] = "{\"model_type\":\"\x7f\"}";
    struct llama_config      config;
    static const char *const texts[] = { "",
                                         "[]",
                                         "3",
                                         "{",
                                         "{\"a\": 1, \"a\": 2}",
                                         "{} x",
                                         "\xff\xfe{}",
                                         "{\"a\": \"\\u0000\"}" };
    size_t                   length;
    char                    *text;

    write_model(&small, all_f32);
    text = read_bytes("config.json", &length);
    for (size_t i = 0; i + 2 < length; i++) { /* the last two: "}", no newline */
        write_bytes("config.json", text, i);
        refused(folder, "config.json");
    }
    free(text);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_bytes("config.json", texts[i], strlen(texts[i]));
        refused(folder, "config.json");
    }
    write_bytes("config.json", twice, strlen(twice));
    refused(folder, "duplicate");
    write_bytes("config.json", control, strlen(control));
    refused(folder, "near '?'");
    ck_assert_int_eq(llama_config_read(&config, folder, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "near '?'") != NULL, "%s", error);
    write_bytes("config.json", deleted, strlen(deleted));
    ck_assert_int_eq(llama_config_read(&config, folder, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "model_type is \"?\"") != NULL, "%s", error);
    unlink(path_to("config.json"));
    refused(folder, "config.json: No such file");
    ck_assert_int_eq(mkdir(path_to("config.json"), 0777), 0);
    refused(folder, "config.json: not a file");
}
END_TEST

/* ===== Files that are refused ============================================= */

enum { NOTHING = -1 }; /* columns of a matrix that has none */

/* The weights of small without a tensor and with another one. */
static void write_with(const char *without, const char *with, int64_t rows,
                       int64_t columns, int32_t dtype)
{
    struct tensors all = { .count = 0 }, kept = { .count = 0 };

    add_all(&all, &small, all_f32);
    for (int i = 0; i < all.count; i++) {
        if (!without || strcmp(all.list[i].name, without) != 0) {
            kept.list[kept.count++] = all.list[i];
        }
    }
    if (with) {
        int wide_type = dtype == BL_F64 || dtype == BL_I64;

        add(&all, with, rows * (wide_type ? 2 : 1), columns == NOTHING ? 0 : columns,
            dtype);
        kept.list[kept.count] = all.list[all.count - 1];
        kept.list[kept.count].dims = columns == NOTHING ? 2 : kept.list[kept.count].dims;
        kept.list[kept.count++].shape[0] = rows;
    }
    write_tensors("model.safetensors", &kept);
    free_tensors(&all);
}

START_TEST(tensors_that_are_missing_left_over_or_of_another_kind)
{
    static const char q[] = "model.layers.1.self_attn.q_proj.weight";
    static const char norm[] = "model.layers.0.input_layernorm.weight";

    write_config(&small);
    write_with(q, NULL, 0, 0, 0);
    refused(folder, "model.safetensors: has no tensor model.layers.1.self_attn.q_proj");
    write_with("model.norm.weight", NULL, 0, 0, 0);
    refused(folder, "has no tensor model.norm.weight");
    write_with(q, q, 12, 6, BL_F32);
    refused(folder, "q_proj.weight is [12, 6], by config.json it must be [12, 12]");
    write_with(q, q, 144, 0, BL_F32);
    refused(folder, "q_proj.weight is [144], by config.json it must be [12, 12]");
    write_with(norm, norm, 12, 1, BL_F32);
    refused(folder, "input_layernorm.weight is [12, 1], by config.json it must be [12]");
    write_with(norm, norm, 12, NOTHING, BL_F32);
    refused(folder, "input_layernorm.weight is [12, 0], by config.json it must be [12]");
    write_with(norm, norm, 11, 0, BL_F16);
    refused(folder, "is [11], by");
    write_with(q, q, 12, 12, BL_F64);
    refused(folder, "is of dtype F64, must be F32, F16 or BF16");
    write_with(q, q, 12, 12, BL_I64);
    refused(folder, "is of dtype I64");

    write_with(NULL, "model.layers.0.self_attn.q_proj.bias", 12, 0, BL_F32);
    refused(folder, "tensor model.layers.0.self_attn.q_proj.bias is none of");
    write_with(NULL, "model.layers.2.mlp.up_proj.weight", 10, 12, BL_F32);
    refused(folder, "tensor model.layers.2.mlp.up_proj.weight is none of");
    write_with(NULL, "model.layers.3.mlp.up_proj.weight", 10, 12, BL_F32);
    refused(folder, "tensor model.layers.3.mlp.up_proj.weight is none of");
    write_with(NULL, "model.layers.00.mlp.up_proj.weight", 10, 12, BL_F32);
    refused(folder, "model.layers.00.");
    write_with(NULL, "model.layers.0.self_attn.q_norm.weight", 6, 0, BL_F32);
    refused(folder, "q_norm");
    write_with(NULL, "a\nb", 6, 0, BL_F32);
    refused(folder, "a?b");
    write_with(NULL, "transformer.wte.weight", 11, 12, BL_F32);
    refused(folder, "transformer.wte.weight");

    write_with(NULL, "model.layers.0.self_attn.rotary_emb.inv_freq", 3, 0, BL_F32);
    llama_free(load(folder));
    write_with(NULL, NULL, 0, 0, 0);
    llama_free(load(folder));
}
END_TEST

/* transformers before version 5 ties all the same, later ones do not. */
START_TEST(a_tied_head_that_is_there_too_must_be_the_embedding)
{
    struct tensors tensors = { .count = 0 };
    bl_array      *head;
    float          value = 3;
    void          *data;

    write_config(&small);
    add_all(&tensors, &small, all_f32);
    add(&tensors, "model.embed_tokens.weight", 11, 12, BL_F32);
    head = &tensors.list[tensors.count - 1];
    snprintf(head->name, sizeof head->name, "lm_head.weight");
    write_tensors("model.safetensors", &tensors);
    llama_free(load(folder));
    memcpy(&data, &head->data, sizeof data);
    memcpy((float *) data + 131, &value, sizeof value);
    write_tensors("model.safetensors", &tensors);
    refused(folder, "lm_head.weight that differs from model.embed_tokens.weight");
    head->shape[0] = 10;
    write_tensors("model.safetensors", &tensors);
    refused(folder, "lm_head.weight that differs");
    change_config("{\"tie_word_embeddings\": false}");
    refused(folder, "lm_head.weight is [10, 12], by config.json it must be [11, 12]");
    free_tensors(&tensors);
}
END_TEST

static void write_index(json_t *index, const char *tensor, const char *file)
{
    json_object_set_new(json_object_get(index, "weight_map"), tensor, json_string(file));
    write_json("model.safetensors.index.json", index);
}

START_TEST(indices_that_are_refused)
{
    static const char        norm[] = "model.norm.weight";
    static const char        first[] = "model-00001-of-00099.safetensors";
    static const char        second[] = "model-00002-of-00099.safetensors";
    static const char *const names[] = { "/etc/passwd", "../model.safetensors", "..", "",
                                         "a/b" };
    json_t                  *index = write_shards(&small, 10), *map;
    struct tensors           tensors = { .count = 0 };
    char                     path[512];
    size_t                   length;
    char                    *data;

    llama_free(load(folder));
    map = json_object_get(index, "weight_map");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        write_index(index, norm, names[i]);
        refused(folder, "which is no name of a file beside it");
    }
    json_object_set_new(map, norm, json_integer(1));
    write_json("model.safetensors.index.json", index);
    refused(folder, "no name of a file");
    write_index(index, norm, "absent.safetensors");
    refused(folder, "absent.safetensors");
    write_index(index, norm, second); /* it is in the first */
    snprintf(path, sizeof path, "%s: has no tensor %s", second, norm);
    refused(folder, path);
    write_index(index, norm, first);
    write_index(index, "other.weight", first);
    snprintf(path, sizeof path, "%s: has no tensor other.weight", first);
    refused(folder, path);
    json_object_del(map, "other.weight");
    json_object_del(map, norm);
    write_json("model.safetensors.index.json", index);
    refused(folder, "index.json: has no tensor model.norm.weight");
    write_index(index, norm, first);
    llama_free(load(folder));

    /* in both */
    add(&tensors, norm, 12, 0, BL_F32);
    write_tensors("third.safetensors", &tensors);
    add(&tensors, "model.layers.0.self_attn.rotary_emb.inv_freq", 3, 0, BL_F32);
    write_tensors("third.safetensors", &tensors);
    write_index(index, "model.layers.0.self_attn.rotary_emb.inv_freq",
                "third.safetensors");
    refused(folder, "tensor model.norm.weight is in a file that");
    tensors.list[0].name[0] = 'M'; /* known to nobody, the index included */
    write_tensors("third.safetensors", &tensors);
    refused(folder, "Model.norm.weight");
    free_tensors(&tensors);
    json_object_del(map, "model.layers.0.self_attn.rotary_emb.inv_freq");

    write_json("model.safetensors.index.json", map);
    refused(folder, "has no weight_map");
    json_object_set_new(index, "weight_map", json_object());
    write_json("model.safetensors.index.json", index);
    refused(folder, "has no weight_map");
    json_decref(index);

    index = write_shards(&small, 10);
    data = read_bytes("model.safetensors.index.json", &length);
    for (size_t i = 0; i + 2 < length; i += 5) {
        write_bytes("model.safetensors.index.json", data, i);
        refused(folder, "model.safetensors.index.json");
    }
    free(data);
    json_decref(index);
}
END_TEST

START_TEST(directories_without_weights)
{
    size_t length;
    char  *data;

    refused(folder, "config.json: No such file");
    write_config(&small);
    refused(folder, "neither model.safetensors nor model.safetensors.index.json");
    write_bytes("pytorch_model.bin", "x", 1);
    refused(folder, "has its weights as pytorch_model.bin, safetensors are needed");
    unlink(path_to("pytorch_model.bin"));
    write_bytes("pytorch_model.bin.index.json", "x", 1);
    refused(folder, "safetensors are needed");

    write_model(&small, all_f32);
    data = read_bytes("model.safetensors", &length);
    for (size_t i = 0; i < length; i += 97) {
        write_bytes("model.safetensors", data, i);
        refused(folder, "model.safetensors");
    }
    free(data);
    unlink(path_to("model.safetensors"));
    ck_assert_int_eq(mkdir(path_to("model.safetensors"), 0777), 0);
    refused(folder, "model.safetensors");
    refused("/nonexistent", "/nonexistent");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("llama_refuse");
    TCase *tcase = tcase_create("configuration");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, configurations_that_are_refused);
    tcase_add_test(tcase, configurations_that_are_read);
    tcase_add_test(tcase, a_bare_configuration_has_the_defaults_of_transformers);
    tcase_add_test(tcase, texts_that_are_no_configuration);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("refusals");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, tensors_that_are_missing_left_over_or_of_another_kind);
    tcase_add_test(tcase, a_tied_head_that_is_there_too_must_be_the_embedding);
    tcase_add_test(tcase, indices_that_are_refused);
    tcase_add_test(tcase, directories_without_weights);
    suite_add_tcase(suite, tcase);
    return suite;
}
