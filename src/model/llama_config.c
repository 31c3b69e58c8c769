/*
 * config.json of a Hugging Face Llama: sizes and settings, with the defaults of
 * transformers for what is absent. Keys that change what is computed are either followed
 * or refused; all others are ignored.
 */
#define _POSIX_C_SOURCE 200809L

#include "base/file.h"
#include "base/line.h"
#include "model/llama_file.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define VALUE_SIZE 64 /* of a value in a message */

json_t *llama_read_json(const char *path, char *error, size_t size)
{
    struct stat  status;
    json_error_t where;
    json_t      *root;

    if (stat(path, &status) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (!S_ISREG(status.st_mode)) {
        snprintf(error, size, "%s: not a file", path);
        return NULL;
    }
    root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) {
        snprintf(error, size, "%s:%d: %s", path, where.line, where.text);
        line_clean(error);
        return NULL;
    }
    if (!json_is_object(root)) {
        snprintf(error, size, "%s: not a JSON object", path);
        json_decref(root);
        return NULL;
    }
    return root;
}

/* ===== Values ============================================================= */

/* The file being read, and where to complain. */
struct reader {
    const char *path;
    json_t     *root;
    char       *error;
    size_t      size;
};

/* "path: key is VALUE, text"; returns -1. */
static int refuse(const struct reader *reader, const char *key, const json_t *value,
                  const char *text)
{
    char *shown = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII |
                                        JSON_REAL_PRECISION(6));

    snprintf(reader->error, reader->size, "%s: %s is %.*s, %s", reader->path, key,
             VALUE_SIZE, shown != NULL ? shown : "?", text);
    line_clean(reader->error);
    free(shown);
    return -1;
}

/* A member that is there and not null, or NULL. */
static json_t *member(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

/* The functions below leave *out alone when the key is absent; null they refuse. */

static int read_size(const struct reader *reader, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(reader->root, key);

    if (value == NULL) {
        return 0;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > INT_MAX) {
        return refuse(reader, key, value, "must be an integer from 1 to 2147483647");
    }
    *out = json_integer_value(value);
    return 0;
}

static int read_positive(const struct reader *reader, const json_t *object,
                         const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);

    if (value == NULL) {
        return 0;
    }
    if (!json_is_number(value) || !(json_number_value(value) > 0)) {
        return refuse(reader, key, value, "must be a number above 0");
    }
    *out = json_number_value(value);
    return 0;
}

static int read_boolean(const struct reader *reader, const char *key, int *out)
{
    const json_t *value = json_object_get(reader->root, key);

    if (value == NULL) {
        return 0;
    }
    if (!json_is_boolean(value)) {
        return refuse(reader, key, value, "must be true or false");
    }
    *out = json_is_true(value);
    return 0;
}

/* ===== Reading ============================================================ */

static int is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static int check_kind(const struct reader *reader)
{
    const json_t *type = member(reader->root, "model_type");
    const json_t *list = member(reader->root, "architectures");

    if (type == NULL && list == NULL) {
        snprintf(reader->error, reader->size,
                 "%s: has neither model_type nor architectures: not a model's "
                 "configuration",
                 reader->path);
        return -1;
    }
    if (type != NULL && !is_text(type, "llama")) {
        return refuse(reader, "model_type", type, "must be \"llama\"");
    }
    if (list != NULL && (!json_is_array(list) || json_array_size(list) != 1 ||
                         !is_text(json_array_get(list, 0), "LlamaForCausalLM"))) {
        return refuse(reader, "architectures", list, "must be [\"LlamaForCausalLM\"]");
    }
    return 0;
}

/* What would make it another network. */
static int check_unsupported(const struct reader *reader)
{
    static const char *const biases[] = { "attention_bias", "mlp_bias" };
    static const char *const absent[] = { "quantization_config", "sliding_window" };
    const json_t            *value;

    for (int i = 0; i < 2; i++) {
        int biased = 0;

        if (read_boolean(reader, biases[i], &biased) != 0) {
            return -1;
        }
        if (biased) {
            return refuse(reader, biases[i], json_object_get(reader->root, biases[i]),
                          "biases are not supported");
        }
        value = member(reader->root, absent[i]);
        if (value != NULL) {
            return refuse(reader, absent[i], value, "which is not supported");
        }
    }
    value = json_object_get(reader->root, "hidden_act");
    if (value != NULL && !is_text(value, "silu")) {
        return refuse(reader, "hidden_act", value, "must be \"silu\"");
    }
    return 0;
}

static int check_whole_rotation(const struct reader *reader, const json_t *object)
{
    const json_t *share = member(object, "partial_rotary_factor");

    if (share != NULL && (!json_is_number(share) || json_number_value(share) != 1)) {
        return refuse(reader, "partial_rotary_factor", share, "must be 1");
    }
    return 0;
}

static int read_llama3(const struct reader *reader, const json_t *rope,
                       struct rope_scaling *out)
{
    struct {
        const char *key;
        double     *to;
    } const keys[] = {
        { "factor", &out->factor },
        { "low_freq_factor", &out->low },
        { "high_freq_factor", &out->high },
        { "original_max_position_embeddings", &out->context },
    };
    const json_t *outside = member(reader->root, keys[3].key);

    if (outside != NULL) { /* versions of transformers differ in which one counts */
        return refuse(reader, keys[3].key, outside, "must be in rope_scaling alone");
    }
    for (int i = 0; i < 4; i++) {
        if (json_object_get(rope, keys[i].key) == NULL) {
            snprintf(reader->error, reader->size, "%s: rope type llama3 has no %s",
                     reader->path, keys[i].key);
            return -1;
        }
        if (read_positive(reader, rope, keys[i].key, keys[i].to) != 0) {
            return -1;
        }
    }
    if (!(out->context <= INT_MAX) || floor(out->context) != out->context) {
        return refuse(reader, keys[3].key, json_object_get(rope, keys[3].key),
                      "must be an integer");
    }
    if (!(out->low < out->high)) {
        snprintf(reader->error, reader->size,
                 "%s: low_freq_factor is %g, must be below high_freq_factor %g",
                 reader->path, out->low, out->high);
        return -1;
    }
    return 0;
}

/* rope_theta and rope_scaling of older configurations, rope_parameters of newer ones. */
static int read_rope(const struct reader *reader, struct llama_config *c)
{
    const char   *key = "rope_scaling";
    json_t       *rope = member(reader->root, key);
    json_t       *newer = member(reader->root, "rope_parameters");
    const json_t *type;

    if (rope != NULL && newer != NULL && !json_equal(rope, newer)) {
        return refuse(reader, key, rope, "but there are rope_parameters too");
    }
    if (rope == NULL) {
        key = "rope_parameters";
        rope = newer;
    }
    if (rope != NULL && !json_is_object(rope)) {
        return refuse(reader, key, rope, "must be an object");
    }
    /* The innermost theta counts. */
    if (read_positive(reader, reader->root, "rope_theta", &c->rope_theta) != 0 ||
        read_positive(reader, rope, "rope_theta", &c->rope_theta) != 0 ||
        check_whole_rotation(reader, reader->root) != 0 ||
        check_whole_rotation(reader, rope) != 0) {
        return -1;
    }
    type = member(rope, "rope_type");
    type = type != NULL ? type : member(rope, "type");
    if (is_text(type, "llama3")) {
        return read_llama3(reader, rope, &c->rope_scaling);
    }
    if (type != NULL && !is_text(type, "default")) {
        return refuse(reader, "rope type", type,
                      "which is not supported; must be \"default\" or \"llama3\"");
    }
    /* Without a type there can be no scaling, nor settings for each kind of layer. */
    for (void *at = json_object_iter(rope); type == NULL && at != NULL;
         at = json_object_iter_next(rope, at)) {
        if (json_is_object(json_object_iter_value(at)) ||
            strcmp(json_object_iter_key(at), "factor") == 0) {
            return refuse(reader, key, rope, "and has no rope_type");
        }
    }
    return 0;
}

static int read_sizes(const struct reader *reader, struct llama_config *c)
{
    if (read_size(reader, "hidden_size", &c->dim) != 0 ||
        read_size(reader, "intermediate_size", &c->hidden) != 0 ||
        read_size(reader, "num_hidden_layers", &c->layers) != 0 ||
        read_size(reader, "num_attention_heads", &c->heads) != 0 ||
        read_size(reader, "vocab_size", &c->vocab) != 0 ||
        read_size(reader, "max_position_embeddings", &c->max_context) != 0) {
        return -1;
    }
    c->kv_heads = c->heads;
    if (member(reader->root, "num_key_value_heads") != NULL &&
        read_size(reader, "num_key_value_heads", &c->kv_heads) != 0) {
        return -1;
    }
    if (c->heads % c->kv_heads != 0) {
        snprintf(reader->error, reader->size,
                 "%s: num_attention_heads %" PRId64
                 " is not a multiple of num_key_value_heads %" PRId64,
                 reader->path, c->heads, c->kv_heads);
        return -1;
    }
    if (member(reader->root, "head_dim") != NULL) {
        if (read_size(reader, "head_dim", &c->head_dim) != 0) {
            return -1;
        }
    } else if (c->dim % c->heads != 0) {
        snprintf(reader->error, reader->size,
                 "%s: hidden_size %" PRId64
                 " is not a multiple of num_attention_heads %" PRId64
                 ", and there is no head_dim",
                 reader->path, c->dim, c->heads);
        return -1;
    } else {
        c->head_dim = c->dim / c->heads;
    }
    if (c->head_dim % 2 != 0 || c->heads * c->head_dim > INT_MAX) {
        snprintf(reader->error, reader->size,
                 "%s: head_dim is %" PRId64 ", must be even, and times %" PRId64
                 " heads at most %d",
                 reader->path, c->head_dim, c->heads, INT_MAX);
        return -1;
    }
    return 0;
}

/* An id, the first of a list of ids, or null. */
static int read_id(const struct reader *reader, const char *key, int64_t vocab,
                   int64_t absent, int64_t *out)
{
    const json_t *value = json_object_get(reader->root, key);
    const json_t *id = json_is_array(value) ? json_array_get(value, 0) : value;

    *out = value == NULL && absent < vocab ? absent : -1;
    if (id == NULL || json_is_null(id)) {
        return 0;
    }
    if (!json_is_integer(id) || json_integer_value(id) >= vocab) {
        return refuse(reader, key, value, "must be an id of the vocabulary or null");
    }
    *out = json_integer_value(id) < 0 ? -1 : json_integer_value(id);
    return 0;
}

int llama_config_read_file(struct llama_config *out, const char *path, char *error,
                           size_t size)
{
    struct llama_config c = { .dim = 4096,
                              .hidden = 11008,
                              .layers = 32,
                              .heads = 32,
                              .vocab = 32000,
                              .max_context = 2048,
                              .norm_epsilon = 1e-6,
                              .rope_theta = 10000 };
    struct reader reader = { path, llama_read_json(path, error, size), error, size };
    int           result = -1;

    if (reader.root != NULL && check_kind(&reader) == 0 &&
        check_unsupported(&reader) == 0 && read_sizes(&reader, &c) == 0 &&
        read_positive(&reader, reader.root, "rms_norm_eps", &c.norm_epsilon) == 0 &&
        read_rope(&reader, &c) == 0 &&
        read_boolean(&reader, "tie_word_embeddings", &c.tied) == 0 &&
        read_id(&reader, "bos_token_id", c.vocab, 1, &c.bos) == 0 &&
        read_id(&reader, "eos_token_id", c.vocab, 2, &c.eos) == 0) {
        if (is_text(json_object_get(reader.root, "tokenizer"), "bytes")) {
            snprintf(c.tokenizer, sizeof c.tokenizer, "bytes");
        }
        *out = c;
        result = 0;
    }
    json_decref(reader.root);
    return result;
}

int llama_config_read(struct llama_config *out, const char *directory, char *error,
                      size_t size)
{
    char *path = file_join(directory, LLAMA_CONFIG, error, size);
    int   result = path != NULL ? llama_config_read_file(out, path, error, size) : -1;

    free(path);
    return result;
}

/* ===== Writing ============================================================ */

/* Digits after which every number reads as itself: 15 for those that a person wrote. */
static size_t digits_of(const struct llama_config *c)
{
    const double numbers[] = { c->norm_epsilon, c->rope_theta, c->rope_scaling.low,
                               c->rope_scaling.factor, c->rope_scaling.high };
    char         text[32];

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(text, sizeof text, "%.15g", numbers[i]);
        if (strtod(text, NULL) != numbers[i]) {
            return 17;
        }
    }
    return 15;
}

static json_t *id_json(int64_t id)
{
    return id >= 0 ? json_integer((json_int_t) id) : json_null();
}

const char *llama_dtype_name(int32_t dtype)
{
    return dtype == BL_BF16 ? "bfloat16" : dtype == BL_F16 ? "float16" : "float32";
}

/* The form that old and new versions of transformers read. NULL when out of memory. */
static json_t *config_json(const struct llama_config *c, int32_t dtype)
{
    const struct rope_scaling *rope = &c->rope_scaling;
    json_t                    *scaling = json_null(), *root;

    if (rope->factor != 0) {
        scaling = json_pack(
            "{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", rope->factor,
            "low_freq_factor", rope->low, "high_freq_factor", rope->high,
            "original_max_position_embeddings", (json_int_t) rope->context);
    }
    root = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:s, s:b, "
        "s:b, s:b, s:o, s:o, s:s}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size",
        (json_int_t) c->vocab, "hidden_size", (json_int_t) c->dim, "intermediate_size",
        (json_int_t) c->hidden, "num_hidden_layers", (json_int_t) c->layers,
        "num_attention_heads", (json_int_t) c->heads, "num_key_value_heads",
        (json_int_t) c->kv_heads, "head_dim", (json_int_t) c->head_dim,
        "max_position_embeddings", (json_int_t) c->max_context, "rms_norm_eps",
        c->norm_epsilon, "rope_theta", c->rope_theta, "rope_scaling", scaling,
        "hidden_act", "silu", "tie_word_embeddings", c->tied, "attention_bias", 0,
        "mlp_bias", 0, "bos_token_id", id_json(c->bos), "eos_token_id", id_json(c->eos),
        "torch_dtype", llama_dtype_name(dtype));
    if (root != NULL && c->tokenizer[0] != '\0' &&
        json_object_set_new(root, "tokenizer", json_string(c->tokenizer)) != 0) {
        json_decref(root);
        return NULL;
    }
    return root;
}

int llama_config_write(const struct llama_config *config, int32_t dtype,
                       const char *directory, char *error, size_t size)
{
    char   *path = file_join(directory, LLAMA_CONFIG, error, size), *text = NULL;
    json_t *root = config_json(config, dtype);
    int     result = -1;

    if (root != NULL) {
        text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits_of(config)));
    }
    if (path == NULL || text == NULL) {
        snprintf(error, size, "%s: out of memory", directory);
    } else {
        size_t length = strlen(text);

        text[length] = '\n'; /* in the place of the NUL */
        result = file_replace(path, text, length + 1, error, size);
    }
    json_decref(root);
    free(text);
    free(path);
    return result;
}
