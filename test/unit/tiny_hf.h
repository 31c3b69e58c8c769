/* Tiny models in Hugging Face directories, for the suites on them. */
#ifndef BEAMLORA_TEST_TINY_HF_H
#define BEAMLORA_TEST_TINY_HF_H

#include "check_main.h"

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "beamlora_io.h"
#include "model/llama.h"

static char error[512];

/* ===== Directories ======================================================== */

static char folder[128];

static inline const char *path_to(const char *name)
{
    static char path[2][512];
    static int  turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static inline void remove_all(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        char inner[1024];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(inner, sizeof inner, "%.700s/%s", path, entry->d_name);
            if (unlink(inner) != 0) {
                remove_all(inner);
            }
        }
    }
    if (dir) {
        closedir(dir);
        rmdir(path);
    }
}

static inline void set_up(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.80s/bl-hf-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void tear_down(void)
{
    remove_all(folder);
}

static inline void write_bytes(const char *name, const void *data, size_t length)
{
    FILE *file = fopen(path_to(name), "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, length, file), length);
    ck_assert_int_eq(fclose(file), 0);
}

static inline char *read_bytes(const char *name, size_t *length)
{
    FILE *file = fopen(path_to(name), "rb");
    char *data = must_alloc(1 << 20, 1);
    ck_assert_ptr_nonnull(file);
    *length = fread(data, 1, 1 << 20, file);
    ck_assert_uint_lt(*length, 1 << 20);
    fclose(file);
    return data;
}

static inline void write_json(const char *name, const json_t *json)
{
    ck_assert_int_eq(json_dump_file(json, path_to(name), JSON_INDENT(1)), 0);
}

/* ===== Tiny models ======================================================== */

struct shape {
    int dim, hidden, layers, heads, kv_heads, head_dim, vocab, tied;
};

static const struct shape small = { 12, 10, 2, 2, 1, 6, 11, 1 };
static const struct shape own_head = { 16, 9, 1, 4, 2, 4, 13, 0 };
static const struct shape wide = {
    10, 300, 2, 3, 3, 8, 140, 0
}; /* head_dim of its own */

/* Value i of a tensor: a multiple of 1/128 within 1, exact in all three dtypes. */
static inline float value_of(const char *name, int64_t i)
{
    uint64_t seed = 17;
    for (; *name; name++) {
        seed = seed * 31 + (unsigned char) *name;
    }
    return (float) (rint(noise(seed, (uint64_t) i) * 100) / 128);
}

static inline uint16_t half_of(float value) /* exact, normal or 0 */
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value == 0) {
        return 0;
    }
    return (uint16_t) ((bits >> 16 & 0x8000u) | ((bits >> 23 & 0xffu) - 112) << 10 |
                       (bits >> 13 & 0x3ffu));
}

/* Tensors on their way into a file. */
struct tensors {
    bl_array list[64];
    int      count;
};

static inline void add(struct tensors *tensors, const char *name, int64_t rows,
                       int64_t columns, int32_t dtype)
{
    bl_array      *array = &tensors->list[tensors->count++];
    int64_t        count = rows * (columns ? columns : 1);
    unsigned char *data = must_alloc(count, 4);

    for (int64_t i = 0; i < count; i++) {
        float    value = value_of(name, i);
        uint32_t bits;
        uint16_t half;

        memcpy(&bits, &value, sizeof bits);
        half = dtype == BL_F16 ? half_of(value) : (uint16_t) (bits >> 16);
        if (dtype == BL_F16 || dtype == BL_BF16) {
            memcpy(data + 2 * i, &half, 2);
        } else {
            memcpy(data + 4 * i, &bits, 4);
        }
    }
    memset(array, 0, sizeof *array);
    snprintf(array->name, sizeof array->name, "%s", name);
    array->data = data;
    array->shape[0] = rows;
    array->shape[1] = columns;
    array->dims = columns ? 2 : 1;
    array->dtype = dtype;
}

static inline bl_array *tensor_of(struct tensors *tensors, const char *name)
{
    for (int i = 0; i < tensors->count; i++) {
        if (strcmp(tensors->list[i].name, name) == 0) {
            return &tensors->list[i];
        }
    }
    ck_abort_msg("no %s", name);
    return NULL;
}

static inline void free_tensors(struct tensors *tensors)
{
    for (int i = 0; i < tensors->count; i++) {
        void *data;
        memcpy(&data, &tensors->list[i].data, sizeof data);
        free(data);
    }
    tensors->count = 0;
}

/* dtypes: the tensors' in turn, ended by -1. */
static inline void add_all(struct tensors *tensors, const struct shape *s,
                           const int32_t *dtypes)
{
    const int64_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        int64_t     rows, columns;
    } parts[] = {
        { "input_layernorm", s->dim, 0 },       { "self_attn.q_proj", q, s->dim },
        { "self_attn.k_proj", kv, s->dim },     { "self_attn.v_proj", kv, s->dim },
        { "self_attn.o_proj", s->dim, q },      { "post_attention_layernorm", s->dim, 0 },
        { "mlp.gate_proj", s->hidden, s->dim }, { "mlp.up_proj", s->hidden, s->dim },
        { "mlp.down_proj", s->dim, s->hidden },
    };
    int turn = 0, period = 0;

    while (dtypes[period] >= 0) {
        period++;
    }
    add(tensors, "model.embed_tokens.weight", s->vocab, s->dim, dtypes[turn++ % period]);
    add(tensors, "model.norm.weight", s->dim, 0, dtypes[turn++ % period]);
    for (int l = 0; l < s->layers; l++) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char name[80];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i].name);
            add(tensors, name, parts[i].rows, parts[i].columns, dtypes[turn++ % period]);
        }
    }
    if (!s->tied) {
        add(tensors, "lm_head.weight", s->vocab, s->dim, dtypes[turn++ % period]);
    }
}

static const int32_t all_f32[] = { BL_F32, -1 };

static inline json_t *config_of(const struct shape *s)
{
    json_t *config = json_pack(
        "{s:s, s:[s], s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:b}", "model_type",
        "llama", "architectures", "LlamaForCausalLM", "hidden_size", s->dim,
        "intermediate_size", s->hidden, "num_hidden_layers", s->layers,
        "num_attention_heads", s->heads, "num_key_value_heads", s->kv_heads, "head_dim",
        s->head_dim, "vocab_size", s->vocab, "max_position_embeddings", 32,
        "rms_norm_eps", 1e-5, "tie_word_embeddings", s->tied);
    ck_assert_ptr_nonnull(config);
    return config;
}

static inline void write_config(const struct shape *s)
{
    json_t *config = config_of(s);
    write_json("config.json", config);
    json_decref(config);
}

static inline void write_tensors(const char *name, const struct tensors *tensors)
{
    ck_assert_msg(
        bl_safetensors_write(path_to(name), tensors->list, tensors->count, NULL) == 0,
        "%s", bl_io_last_error());
}

static inline void write_model(const struct shape *s, const int32_t *dtypes)
{
    struct tensors tensors = { .count = 0 };
    add_all(&tensors, s, dtypes);
    write_tensors("model.safetensors", &tensors);
    free_tensors(&tensors);
    write_config(s);
}

static inline struct llama *load(const char *path)
{
    struct llama *model = NULL;
    ck_assert_msg(llama_load(&model, path, error, sizeof error) == 0, "%s", error);
    return model;
}

/* Row of the Hugging Face file that is row `row` of the llama2.c file. */
static inline int64_t hf_row(int64_t row, int64_t head_dim)
{
    int64_t i = row % head_dim;
    return row - i + i % 2 * (head_dim / 2) + i / 2;
}

/* The same weights as a llama2.c file. */
static inline void write_bin(const char *file_name, const struct shape *s)
{
    static const struct {
        const char *name;
        int         ordered;
    } order[] = {
        { "input_layernorm", 0 },  { "self_attn.q_proj", 1 },
        { "self_attn.k_proj", 1 }, { "self_attn.v_proj", 0 },
        { "self_attn.o_proj", 0 }, { "post_attention_layernorm", 0 },
        { "mlp.gate_proj", 0 },    { "mlp.down_proj", 0 },
        { "mlp.up_proj", 0 },
    };
    const int32_t  header[] = { s->dim,   s->hidden,   s->layers,
                                s->heads, s->kv_heads, s->tied ? s->vocab : -s->vocab,
                                32 };
    struct tensors tensors = { .count = 0 };
    FILE          *file = fopen(path_to(file_name), "wb");
    const float    zero = 0;
    bl_array      *t;

    ck_assert_int_eq(s->head_dim * s->heads, s->dim);
    add_all(&tensors, s, all_f32);
    fwrite(header, sizeof header, 1, file);
    t = tensor_of(&tensors, "model.embed_tokens.weight");
    fwrite(t->data, 4, (size_t) (t->shape[0] * t->shape[1]), file);
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        for (int l = 0; l < s->layers; l++) {
            char    name[80];
            int64_t columns;
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, order[k].name);
            t = tensor_of(&tensors, name);
            columns = t->dims == 2 ? t->shape[1] : 1;
            for (int64_t i = 0; i < t->shape[0]; i++) {
                int64_t from = order[k].ordered ? hf_row(i, s->head_dim) : i;
                fwrite((const float *) t->data + from * columns, 4, (size_t) columns,
                       file);
            }
        }
    }
    t = tensor_of(&tensors, "model.norm.weight");
    fwrite(t->data, 4, (size_t) s->dim, file);
    for (int i = 0; i < 32 * s->head_dim; i++) {
        fwrite(&zero, sizeof zero, 1, file);
    }
    if (!s->tied) {
        t = tensor_of(&tensors, "lm_head.weight");
        fwrite(t->data, 4, (size_t) (t->shape[0] * t->shape[1]), file);
    }
    ck_assert_int_eq(fclose(file), 0);
    free_tensors(&tensors);
}

/* Shards of `each` tensors, and the index of them, to be freed. */
static inline json_t *write_shards(const struct shape *s, int each)
{
    struct tensors tensors = { .count = 0 };
    json_t        *index =
        json_pack("{s:{s:i}, s:{}}", "metadata", "total_size", 1, "weight_map");
    json_t *map = json_object_get(index, "weight_map");

    add_all(&tensors, s, all_f32);
    for (int at = 0; at < tensors.count; at += each) {
        struct tensors part = { .count = 0 };
        char           name[64];

        snprintf(name, sizeof name, "model-%05d-of-00099.safetensors", at / each + 1);
        for (int i = at; i < tensors.count && i < at + each; i++) {
            part.list[part.count++] = tensors.list[i];
            json_object_set_new(map, tensors.list[i].name, json_string(name));
        }
        write_tensors(name, &part);
    }
    free_tensors(&tensors);
    write_config(s);
    write_json("model.safetensors.index.json", index);
    return index;
}

/* llama_load of `path` fails with one line that names it and says `part`. */
static inline void refused(const char *path, const char *part)
{
    struct llama *model = NULL;

    memset(error, 'x', sizeof error);
    ck_assert_msg(llama_load(&model, path, error, sizeof error) == -1, "accepted: %s",
                  part);
    ck_assert_ptr_null(model);
    ck_assert_ptr_nonnull(memchr(error, '\0', sizeof error));
    ck_assert_msg(strstr(error, path), "\"%s\" does not name %s", error, path);
    ck_assert_msg(strstr(error, part), "\"%s\" does not say %s", error, part);
    for (const char *at = error; *at; at++) {
        ck_assert_uint_ge((unsigned char) *at, 0x20);
    }
}

#endif
