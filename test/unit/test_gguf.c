/* GGUF adapters: a small reader of the format, written from its description, gets back
 * what the group computes; names, orders of rows, rounding, refusals. */
#define _POSIX_C_SOURCE 200809L

#include "io_check.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static int count_files(int removing)
{
    DIR *dir = opendir(folder);
    ck_assert_ptr_nonnull(dir);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] != '.') {
            count++;
            if (removing) {
                remove(path_to(entry->d_name));
            }
        }
    }
    closedir(dir);
    return count;
}

static void remove_folder(void)
{
    count_files(1);
    rmdir(folder);
}

/* ----- a reader ----- */

enum { TENSORS_MAX = 16, NAME_MAX_ = 64 };

struct tensor {
    char     name[NAME_MAX_];
    uint64_t ne[2], offset;
    uint32_t type;
};

struct gguf {
    unsigned char *bytes;
    size_t         size, at, data;
    char           architecture[300], type[32], adapter[32], general_name[64];
    float          alpha;
    uint64_t       keys, count;
    struct tensor  tensors[TENSORS_MAX];
};

static uint64_t read_number(struct gguf *g, size_t width)
{
    uint64_t value = 0;
    ck_assert_uint_le(width, g->size - g->at);
    for (size_t i = 0; i < width; i++) {
        value |= (uint64_t) g->bytes[g->at++] << (8 * i);
    }
    return value;
}

static void read_string(struct gguf *g, char *out, size_t room)
{
    uint64_t length = read_number(g, 8);
    ck_assert_uint_lt(length, room);
    ck_assert_uint_le(length, g->size - g->at);
    memcpy(out, g->bytes + g->at, length);
    out[length] = '\0';
    g->at += length;
}

static void read_key(struct gguf *g)
{
    char key[64];
    read_string(g, key, sizeof key);
    uint64_t type = read_number(g, 4);
    if (strcmp(key, "adapter.lora.alpha") == 0) {
        ck_assert_uint_eq(type, 6);
        uint32_t bits = (uint32_t) read_number(g, 4);
        memcpy(&g->alpha, &bits, 4);
        return;
    }
    ck_assert_uint_eq(type, 8);
    if (strcmp(key, "general.architecture") == 0) {
        read_string(g, g->architecture, sizeof g->architecture);
    } else if (strcmp(key, "general.type") == 0) {
        read_string(g, g->type, sizeof g->type);
    } else if (strcmp(key, "general.name") == 0) {
        read_string(g, g->general_name, sizeof g->general_name);
    } else {
        ck_assert_str_eq(key, "adapter.type");
        read_string(g, g->adapter, sizeof g->adapter);
    }
}

static size_t type_bytes(uint32_t type)
{
    ck_assert(type == 0 || type == 1 || type == 30);
    return type == 0 ? 4 : 2;
}

/* All of it, down to the last byte of padding. */
static struct gguf read_gguf(const char *path)
{
    struct gguf g;
    memset(&g, 0, sizeof g);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    g.bytes = must_alloc(1 << 20, 1);
    g.size = fread(g.bytes, 1, 1 << 20, file);
    fclose(file);
    ck_assert(memcmp(g.bytes, "GGUF", 4) == 0);
    g.at = 4;
    ck_assert_uint_eq(read_number(&g, 4), 3);
    g.count = read_number(&g, 8);
    g.keys = read_number(&g, 8);
    ck_assert_uint_le(g.count, TENSORS_MAX);
    for (uint64_t i = 0; i < g.keys; i++) {
        read_key(&g);
    }
    uint64_t offset = 0;
    for (uint64_t i = 0; i < g.count; i++) {
        struct tensor *t = &g.tensors[i];
        read_string(&g, t->name, sizeof t->name);
        ck_assert_uint_eq(read_number(&g, 4), 2);
        t->ne[0] = read_number(&g, 8);
        t->ne[1] = read_number(&g, 8);
        t->type = (uint32_t) read_number(&g, 4);
        t->offset = read_number(&g, 8);
        ck_assert_uint_eq(t->offset, offset);
        offset += (t->ne[0] * t->ne[1] * type_bytes(t->type) + 31) / 32 * 32;
    }
    for (; g.at % 32 != 0; g.at++) {
        ck_assert_int_eq(g.bytes[g.at], 0);
    }
    g.data = g.at;
    ck_assert_uint_eq(g.size, g.data + offset);
    return g;
}

static const struct tensor *find(const struct gguf *g, const char *name)
{
    for (uint64_t i = 0; i < g->count; i++) {
        if (strcmp(g->tensors[i].name, name) == 0) {
            return &g->tensors[i];
        }
    }
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

/* Row i, column j: ne[0] is the fastest dimension. */
static double value_of(const struct gguf *g, const struct tensor *t, uint64_t i,
                       uint64_t j)
{
    size_t               width = type_bytes(t->type);
    const unsigned char *at = g->bytes + g->data + t->offset + (i * t->ne[0] + j) * width;
    uint32_t             bits = (uint32_t) at[0] | (uint32_t) at[1] << 8;
    if (t->type == 1) { /* binary16 */
        int    exponent = (int) (bits >> 10 & 31);
        double size = exponent == 0 ? ldexp(bits & 1023, -24)
                                    : ldexp(1024 + (bits & 1023), exponent - 25);
        return bits & 0x8000 ? -size : size;
    }
    bits = t->type == 30 ? bits << 16
                         : bits | (uint32_t) at[2] << 16 | (uint32_t) at[3] << 24;
    float value;
    memcpy(&value, &bits, 4);
    return (double) value;
}

/* ----- groups ----- */

enum { MODULES = 4 };

static const char *const names[MODULES] = { "model.layers.0.self_attn.q_proj",
                                            "model.layers.0.self_attn.k_proj",
                                            "model.layers.12.mlp.down_proj", "lm_head" };
static const char *const tensors[MODULES] = { "blk.0.attn_q.weight",
                                              "blk.0.attn_k.weight",
                                              "blk.12.ffn_down.weight", "output.weight" };
static const int64_t     ins[MODULES] = { 6, 6, 5, 9 };
static const int64_t     outs[MODULES] = { 24, 12, 7, 3 };
static const int64_t     ranks[MODULES] = { 3, 2, 5, 1 };
static const int64_t     heads = 4, kv_heads = 2; /* of 6 */

static bl_group *make_group(int32_t dtype, const char *const *called, int count)
{
    bl_options opt = default_options(dtype);
    bl_spec    specs[MODULES];
    for (int k = 0; k < count; k++) {
        specs[k] = make_spec(ins[k], outs[k], ranks[k]);
        specs[k].name = called[k];
    }
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, count, &opt));
    for (int k = 0; k < count; k++) {
        randomize(bl_group_get_adapter(group, k), 30 + (uint64_t) k);
    }
    return group;
}

static bl_gguf_options with_heads(void)
{
    bl_gguf_options opt;
    io_ok(bl_gguf_options_init(&opt, sizeof opt));
    opt.heads = heads;
    opt.kv_heads = kv_heads;
    return opt;
}

/* Row of the model, in Hugging Face's order, that is row `row` of the file. */
static int64_t row_of_model(int k, int64_t row, int interleaved)
{
    static const int64_t order[6] = { 0, 3, 1, 4, 2, 5 };
    return k > 1 || interleaved ? row : row / 6 * 6 + order[row % 6];
}

/* c B diag(g) A of the group at (i, j). */
static double product(bl_adapter *adapter, const double *g, int64_t i, int64_t j)
{
    bl_view a = view_of(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    bl_view b = view_of(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    double  sum = 0;
    for (int64_t p = 0; p < a.rows; p++) {
        sum += g[p] * get_value(a.data, a.dtype, p * a.ld + j) *
               get_value(b.data, b.dtype, p * b.ld + i);
    }
    return bl_adapter_get_scaling(adapter) * sum;
}

static void check_module(const struct gguf *g, bl_group *group, int k, int interleaved,
                         double limit)
{
    bl_adapter *adapter = bl_group_get_adapter(group, k);
    char        name[128];
    double      importance[8];
    check_ok(bl_adapter_copy_importance(adapter, importance));
    snprintf(name, sizeof name, "%s.lora_a", tensors[k]);
    const struct tensor *a = find(g, name);
    snprintf(name, sizeof name, "%s.lora_b", tensors[k]);
    const struct tensor *b = find(g, name);
    ck_assert_uint_eq(a->ne[0], (uint64_t) ins[k]);
    ck_assert_uint_eq(a->ne[1], b->ne[0]);
    ck_assert_uint_eq(b->ne[1], (uint64_t) outs[k]);
    double scale = (double) g->alpha / (double) b->ne[0]; /* as llama.cpp has it */
    for (int64_t i = 0; i < outs[k]; i++) {
        for (int64_t j = 0; j < ins[k]; j++) {
            double got = 0;
            for (uint64_t p = 0; p < b->ne[0]; p++) {
                got += scale * value_of(g, b, (uint64_t) i, p) *
                       value_of(g, a, p, (uint64_t) j);
            }
            check_near(got,
                       product(adapter, importance, row_of_model(k, i, interleaved), j),
                       limit);
        }
    }
}

START_TEST(what_is_read_is_what_the_group_computes)
{
    static const int32_t  types[] = { BL_F32, BL_F16, BL_BF16 };
    static const uint32_t written[] = { 0, 1, 30 };
    static const double   limits[] = { 1e-5, 2e-2, 2e-1 };
    int                   type = _i % 3, interleaved = _i / 3 % 2;
    bl_group             *group = make_group(_i / 6 ? BL_F64 : BL_F32, names, MODULES);
    bl_gguf_options       opt = with_heads();
    make_folder();
    opt.dtype = types[type];
    opt.interleaved = interleaved;
    opt.name = interleaved ? "a name" : NULL;
    io_ok(bl_gguf_save(group, path_to("a.gguf"), &opt));
    struct gguf g = read_gguf(path_to("a.gguf"));
    ck_assert_str_eq(g.architecture, "llama");
    ck_assert_str_eq(g.type, "adapter");
    ck_assert_str_eq(g.adapter, "lora");
    ck_assert_str_eq(g.general_name, interleaved ? "a name" : "");
    ck_assert_uint_eq(g.keys, interleaved ? 5 : 4);
    ck_assert_uint_eq(g.count, 2 * MODULES);
    ck_assert_double_eq((double) g.alpha, 5); /* the largest rank, for all */
    for (int k = 0; k < MODULES; k++) {
        ck_assert_uint_eq(g.tensors[2 * k].type, written[type]);
        check_module(&g, group, k, interleaved, limits[type]);
    }
    ck_assert_int_eq(count_files(0), 1);
    free(g.bytes);
    bl_group_free(group);
    remove_folder();
}
END_TEST

START_TEST(rounding)
{
    /* double, its binary16 and its bfloat16: to nearest, ties to even, subnormals */
    static const struct {
        double   value;
        uint16_t half, bfloat;
    } cases[] = {
        { 0, 0, 0 },
        { -0.0, 0x8000, 0x8000 },
        { 1, 0x3c00, 0x3f80 },
        { 1 + 0x1p-11, 0x3c00, 0x3f80 },           /* tie, to even: down */
        { 1 + 0x3p-11, 0x3c02, 0x3f80 },           /* tie, up            */
        { 1 + 0x1p-11 + 0x1p-40, 0x3c01, 0x3f80 }, /* a float would lose it */
        { 1 + 0x1p-8, 0x3c04, 0x3f80 },
        { 1 + 0x3p-8, 0x3c0c, 0x3f82 },
        { -65519, 0xfbff, 0xc780 },
        { 65504, 0x7bff, 0x4780 },
        { 0x1p-14, 0x0400, 0x3880 },
        { 0x1p-24, 0x0001, 0x3380 },
        { 0x1p-25, 0x0000, 0x3300 }, /* tie with 0 */
        { 0x1.8p-24, 0x0002, 0x33c0 },
        { 0x1p-25 + 0x1p-60, 0x0001, 0x3300 },
        { 0x1.ffcp-15, 0x0400, 0x387e + 2 }, /* up to the first normal one */
        { 0x1p-133, 0x0000, 0x0001 },
        { 0x1p-134, 0x0000, 0x0000 },
        { 0x1p-140, 0x0000, 0x0000 },
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    bl_options  opt = default_options(BL_F64);
    bl_adapter *adapter = NULL;
    opt.method = BL_METHOD_LORA;
    opt.reallocation = 0;
    opt.rank = 1;
    opt.alpha = 1;
    check_ok(bl_adapter_create(&adapter, 1, COUNT, &opt));
    bl_view b = view_of(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    for (int i = 0; i < COUNT; i++) {
        ((double *) b.data)[i] = cases[i].value;
    }
    check_ok(bl_group_touch(bl_adapter_get_group(adapter)));
    make_folder();
    for (int bfloat = 0; bfloat < 2; bfloat++) {
        const char     *name = "any.weight";
        bl_gguf_options options = with_heads();
        options.tensors = &name;
        options.dtype = bfloat ? BL_BF16 : BL_F16;
        io_ok(bl_gguf_save(bl_adapter_get_group(adapter), path_to("r"), &options));
        struct gguf          g = read_gguf(path_to("r"));
        const struct tensor *t = find(&g, "any.weight.lora_b");
        for (int i = 0; i < COUNT; i++) {
            const unsigned char *at = g.bytes + g.data + t->offset + 2 * i;
            int                  want = bfloat ? cases[i].bfloat : cases[i].half;
            ck_assert_msg((at[0] | at[1] << 8) == want, "%a became %x, must be %x",
                          cases[i].value, at[0] | at[1] << 8, want);
        }
        free(g.bytes);
    }
    bl_adapter_free(adapter);
    remove_folder();
}
END_TEST

/* Saving fails with this code and text, and what was there is still there. */
static void refused(bl_group *group, const bl_gguf_options *opt, int code,
                    const char *part)
{
    FILE *file = fopen(path_to("old"), "wb");
    char  text[8] = "";
    ck_assert_ptr_nonnull(file);
    fputs("old", file);
    fclose(file);
    io_fails(bl_gguf_save(group, path_to("old"), opt), code, part);
    file = fopen(path_to("old"), "rb");
    ck_assert_uint_eq(fread(text, 1, 7, file), 3);
    fclose(file);
    ck_assert_str_eq(text, "old");
    ck_assert_int_eq(count_files(0), 1);
}

START_TEST(names_are_refused)
{
    static const char *const bad[] = {
        "model.layers.0.self_attn.qproj", "model.layers.00.self_attn.q_proj",
        "model.layers..self_attn.q_proj", "model.layers.1",
        "layers.0.self_attn.q_proj",      "model.embed_tokens",
        "model.layers.-1.mlp.up_proj",    "model.layers.1.mlp.up_proj.x",
    };
    bl_gguf_options opt = with_heads();
    char            longest[64], longer[64];
    make_folder();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bl_group *group = make_group(BL_F32, &bad[i], 1);
        refused(group, &opt, BL_E_ARG, bad[i]);
        bl_group_free(group);
    }
    bl_group *group = make_group(BL_F32, names, 2);
    /* 56 bytes and ".lora_a" are 63 */
    memset(longest, 'x', sizeof longest);
    longest[56] = '\0';
    memset(longer, 'x', sizeof longer);
    longer[57] = '\0';
    const char *const fine[] = { longest, "b" }, *const same[] = { "b", "b" };
    const char *const too_long[] = { "b", longer }, *const none[] = { "b", NULL };
    const char *const empty[] = { "", "b" };
    opt.tensors = too_long;
    refused(group, &opt, BL_E_ARG, "has 64 bytes, GGUF allows 63");
    opt.tensors = same;
    refused(group, &opt, BL_E_ARG, "two adapters are for tensor b");
    opt.tensors = none;
    refused(group, &opt, BL_E_ARG, "no name for adapter model.layers.0.self_attn.k_proj");
    opt.tensors = empty;
    refused(group, &opt, BL_E_ARG, "no name for adapter model.layers.0.self_attn.q_proj");
    opt.tensors = fine;
    io_ok(bl_gguf_save(group, path_to("old"), &opt));
    struct gguf g = read_gguf(path_to("old"));
    ck_assert_uint_eq(strlen(g.tensors[0].name), 63);
    free(g.bytes);
    bl_group_free(group);
    remove_folder();
}
END_TEST

START_TEST(options_are_refused)
{
    bl_group       *group = make_group(BL_F32, names, MODULES);
    bl_gguf_options opt = with_heads();
    char            text[300];
    struct {
        bl_gguf_options opt;
        char            later[16];
    } longer;
    make_folder();
    refused(group, NULL, BL_E_OPTIONS,
            "heads is 0, must be given for tensor blk.0.attn_q");
    opt.kv_heads = 0;
    refused(group, &opt, BL_E_OPTIONS, "kv_heads is 0");
    opt.kv_heads = 5;
    refused(group, &opt, BL_E_RANGE, "attn_k.weight: 12 rows are not 5 heads");
    opt.kv_heads = 4; /* of 3 */
    refused(group, &opt, BL_E_RANGE, "12 rows are not 4 heads of an even size");
    opt.kv_heads = -1;
    refused(group, &opt, BL_E_OPTIONS, "kv_heads is -1");
    opt = with_heads();
    opt.interleaved = 2;
    refused(group, &opt, BL_E_OPTIONS, "interleaved is 2");
    opt = with_heads();
    opt.dtype = BL_F64;
    refused(group, &opt, BL_E_OPTIONS, "dtype is 1");
    opt = with_heads();
    opt.architecture = "";
    refused(group, &opt, BL_E_OPTIONS, "architecture has 0 bytes");
    opt.architecture = "a b";
    refused(group, &opt, BL_E_OPTIONS, "architecture has byte 32");
    memset(text, 'a', sizeof text);
    text[256] = '\0';
    opt.architecture = text;
    refused(group, &opt, BL_E_OPTIONS, "architecture has 256 bytes");
    text[255] = '\0';
    io_ok(bl_gguf_save(group, path_to("old"), &opt));
    /* another architecture may have its rows as they are */
    opt = (bl_gguf_options){ .size = sizeof opt, .architecture = "qwen2" };
    io_ok(bl_gguf_save(group, path_to("old"), &opt));
    struct gguf g = read_gguf(path_to("old"));
    ck_assert_str_eq(g.architecture, "qwen2");
    check_module(&g, group, 0, 1, 1e-5);
    free(g.bytes);
    opt.size = 8;
    refused(group, &opt, BL_E_OPTIONS, "opt->size is 8");
    memset(&longer, 0, sizeof longer);
    io_ok(bl_gguf_options_init(&longer.opt, sizeof longer));
    longer.opt.interleaved = 1;
    io_ok(bl_gguf_save(group, path_to("old"), &longer.opt));
    longer.later[2] = 1;
    refused(group, &longer.opt, BL_E_OPTIONS, "not know");
    io_fails(bl_gguf_options_init(&opt, 8), BL_E_OPTIONS, "size is 8");
    io_fails(bl_gguf_options_init(NULL, 8), BL_E_ARG, "opt is NULL");
    io_fails(bl_gguf_save(NULL, "x", NULL), BL_E_ARG, "group is NULL");
    io_fails(bl_gguf_save(group, NULL, NULL), BL_E_ARG, "path is NULL");
    opt = with_heads();
    io_fails(bl_gguf_save(group, path_to("no/where"), &opt), BL_E_IO, "no/where");
    bl_group_free(group);
    remove_folder();
}
END_TEST

START_TEST(values_are_refused)
{
    bl_group       *group = make_group(BL_F64, names, MODULES);
    bl_gguf_options opt = with_heads();
    bl_view         b =
        view_of(bl_group_get_adapter(group, 2), BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    double *value = (double *) b.data + 3;
    make_folder();
    *value = (double) NAN;
    refused(group, &opt, BL_E_NONFINITE, "blk.12.ffn_down.weight.lora_b: a value is not");
    *value = (double) INFINITY;
    refused(group, &opt, BL_E_NONFINITE, "blk.12.ffn_down.weight.lora_b: a value is not");
    *value = 1e39;
    refused(group, &opt, BL_E_RANGE, "blk.12.ffn_down.weight.lora_b: 1e+39 is too large");
    opt.dtype = BL_BF16;
    refused(group, &opt, BL_E_RANGE, "too large for BF16");
    opt.dtype = BL_F16;
    *value = 65520; /* halfway to what would come next */
    refused(group, &opt, BL_E_RANGE,
            "blk.12.ffn_down.weight.lora_b: 65520 is too large for F16");
    *value = 65519.999;
    io_ok(bl_gguf_save(group, path_to("old"), &opt));
    bl_group_free(group);
    remove_folder();
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("gguf");
    TCase *tcase = tcase_create("gguf");
    tcase_add_loop_test(tcase, what_is_read_is_what_the_group_computes, 0, 12);
    tcase_add_test(tcase, rounding);
    tcase_add_test(tcase, names_are_refused);
    tcase_add_test(tcase, options_are_refused);
    tcase_add_test(tcase, values_are_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
