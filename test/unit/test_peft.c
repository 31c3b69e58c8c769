/* PEFT adapters: save and load give the same product, the files hold what other programs
 * expect, configurations that mean something else are refused, failures change nothing.
 */
#define _POSIX_C_SOURCE 200809L

#include "io_check.h"

#include <dirent.h>
#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ----- folders ----- */

/* Names in a folder, but for "." and ".."; removed on the way if asked. */
static int walk(const char *path, int removing)
{
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char inner[1024];
        if (entry->d_name[0] == '.') {
            continue;
        }
        count++;
        ck_assert_int_lt(snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name),
                         (int) sizeof inner);
        if (removing && remove(inner) != 0) {
            walk(inner, 1);
        }
    }
    closedir(dir);
    if (removing) {
        remove(path);
    }
    return count;
}

static void remove_folder(void)
{
    walk(folder, 1);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
}

static char *read_bytes(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char *data = must_alloc(1 << 20, 1);
    *size = fread(data, 1, (1 << 20) - 1, file);
    fclose(file);
    return data;
}

/* ----- groups ----- */

enum { MODULES = 3 };

static const char *const names[MODULES] = { "model.layers.0.self_attn.q_proj",
                                            "model.layers.0.mlp.up_proj",
                                            "model.layers.10.self_attn.q_proj" };
static const int64_t     ins[MODULES] = { 6, 5, 9 };
static const int64_t     outs[MODULES] = { 4, 7, 2 };
static const int64_t     ranks[MODULES] = { 3, 2, 4 };

static bl_group *make_group(int32_t dtype, int32_t method, const int64_t *rank)
{
    bl_options opt = default_options(dtype);
    bl_spec    specs[MODULES];
    opt.method = method;
    opt.alpha = 5;
    for (int k = 0; k < MODULES; k++) {
        specs[k] = make_spec(ins[k], outs[k], rank[k]);
        specs[k].name = names[k];
    }
    bl_group *group = NULL;
    check_ok(bl_group_create(&group, specs, MODULES, &opt));
    for (int k = 0; k < MODULES; k++) {
        randomize(bl_group_get_adapter(group, k), 10 + (uint64_t) k);
    }
    return group;
}

static mat bases[MODULES];

/* The same with DoRA, magnitudes of their own, and W0 in `bases`. */
static bl_group *make_dora_group(int32_t dtype, int32_t method, const int64_t *rank)
{
    bl_options opt = default_options(dtype);
    bl_spec    specs[MODULES];
    bl_group  *group = NULL;
    opt.method = method;
    opt.dora = 1;
    opt.alpha = 5;
    for (int k = 0; k < MODULES; k++) {
        bases[k] = mat_random(dtype, outs[k], ins[k], ins[k], 50 + (uint64_t) k);
        specs[k] = make_spec(ins[k], outs[k], rank[k]);
        specs[k].name = names[k];
        specs[k].base = bases[k].data;
    }
    check_ok(bl_group_create(&group, specs, MODULES, &opt));
    for (int k = 0; k < MODULES; k++) {
        bl_adapter *adapter = bl_group_get_adapter(group, k);
        view_random(adapter, BL_TENSOR_MAGNITUDE, BL_BUFFER_PARAMETERS, 7 + (uint64_t) k,
                    0.5, 2);
        randomize(adapter, 10 + (uint64_t) k);
    }
    return group;
}

static void free_dora_group(bl_group *group)
{
    bl_group_free(group);
    for (int k = 0; k < MODULES; k++) {
        mat_free(&bases[k]);
    }
}

/* c B diag(g) A, packed, in double. */
static double *product_of(bl_adapter *adapter)
{
    int64_t in = bl_adapter_get_in(adapter), out = bl_adapter_get_out(adapter);
    int64_t r = bl_adapter_get_rank(adapter);
    double *a = view_doubles(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    double *b = view_doubles(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    double *g = must_doubles(r), *w = must_doubles(out * in);
    check_ok(bl_adapter_copy_importance(adapter, g));
    for (int64_t k = 0; k < r; k++) {
        for (int64_t i = 0; i < out; i++) {
            for (int64_t j = 0; j < in; j++) {
                w[i * in + j] += bl_adapter_get_scaling(adapter) * g[k] * b[k * out + i] *
                                 a[k * in + j];
            }
        }
    }
    free(a);
    free(b);
    free(g);
    return w;
}

static void check_same(bl_group *left, bl_group *right, double limit)
{
    for (int k = 0; k < MODULES; k++) {
        double *x = product_of(bl_group_get_adapter(left, k));
        double *y = product_of(bl_group_get_adapter(right, k));
        check_le(error_of(x, y, ins[k] * outs[k]), limit);
        free(x);
        free(y);
    }
}

static void fill_orders(int64_t (*rows)[8], const int64_t **orders)
{
    for (int k = 0; k < MODULES; k++) {
        for (int64_t i = 0; i < outs[k]; i++) {
            rows[k][i] = (i * 3 + 1) % outs[k]; /* 3 is prime to 4, 7 and 2 */
        }
        orders[k] = k == 1 ? NULL : rows[k];
    }
}

/* save, open, load: all dtypes, methods, with padding, row orders and more rank. */
START_TEST(round_trip)
{
    int32_t         dtype = _i & 1 ? BL_F64 : BL_F32;
    int32_t         method = _i & 2 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
    int64_t         rows[MODULES][8];
    const int64_t  *orders[MODULES];
    int64_t         roomy[MODULES] = { 8, 8, 8 };
    bl_peft_options opt;
    fill_orders(rows, orders);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = _i & 4 ? orders : NULL;
    opt.dtype = _i & 8 ? BL_F64 : BL_F32;
    opt.rank = _i & 4 ? 8 : 0;
    double limit = dtype == BL_F64 && opt.dtype == BL_F64 ? 1e-13 : 2e-6;

    make_folder();
    bl_group *group = make_group(dtype, method, ranks);
    io_ok(bl_peft_save(group, path_to("a"), &opt));
    ck_assert_int_eq(walk(path_to("a"), 0), 2);

    bl_peft *peft = NULL;
    io_ok(bl_peft_open(&peft, path_to("a")));
    ck_assert_int_eq(bl_peft_get_count(peft), MODULES);
    bl_peft_module module;
    io_ok(bl_peft_get_module(peft, 0, &module)); /* by name */
    ck_assert_str_eq(module.name, names[1]);
    ck_assert_int_eq(module.in_features, ins[1]);
    ck_assert_int_eq(module.out_features, outs[1]);
    ck_assert_int_eq(module.rank, opt.rank == 0 ? 4 : 8);
    ck_assert(module.scale == 1);
    io_fails(bl_peft_get_module(peft, MODULES, &module), BL_E_ARG, "index is 3");

    bl_group *other = make_group(dtype, method, roomy);
    io_ok(bl_peft_load(peft, other, &opt));
    check_same(group, other, limit);
    bl_group_free(other);
    other = make_group(BL_F64, BL_METHOD_BEAMLORA, roomy);
    io_ok(bl_peft_load(peft, other, &opt));
    check_same(group, other, 2e-6);
    bl_peft_close(peft);
    bl_peft_close(NULL);

    /* once more through a file: the folded adapter is a fixed point */
    io_ok(bl_peft_save(other, path_to("b"), &opt));
    io_ok(bl_peft_open(&peft, path_to("b")));
    io_ok(bl_peft_load(peft, other, &opt));
    check_same(group, other, 2e-6);
    bl_peft_close(peft);
    bl_group_free(group);
    bl_group_free(other);
    remove_folder();
}
END_TEST

/* DoRA: the weight that a file's adapter gives is the one that was saved. */
START_TEST(dora)
{
    int32_t         method = _i & 1 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
    int64_t         rows[MODULES][8], roomy[MODULES] = { 8, 8, 8 };
    const int64_t  *orders[MODULES];
    bl_peft_options opt;
    double         *want[MODULES];
    fill_orders(rows, orders);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = _i & 2 ? orders : NULL;
    opt.dtype = BL_F64;
    make_folder();
    bl_group *group = make_dora_group(BL_F64, method, ranks);
    io_ok(bl_peft_save(group, path_to("a"), &opt));
    for (int k = 0; k < MODULES; k++) {
        bl_adapter *adapter = bl_group_get_adapter(group, k);
        mat         w = mat_random(BL_F64, outs[k], ins[k], ins[k], 50 + (uint64_t) k);
        check_ok(bl_adapter_merge(adapter, w.data, w.ld));
        want[k] = mat_doubles(&w);
        mat_free(&w);
    }

    /* the file: packed magnitudes in its own order, and the configuration */
    bl_safetensors *file = NULL;
    double          got[8];
    size_t          size;
    char           *config = read_bytes(path_to("a/adapter_config.json"), &size);
    ck_assert_ptr_nonnull(strstr(config, "\"use_dora\": true"));
    free(config);
    io_ok(bl_safetensors_open(&file, path_to("a/adapter_model.safetensors")));
    ck_assert_int_eq(bl_safetensors_get_count(file), 3 * MODULES);
    for (int k = 0; k < MODULES; k++) {
        char           name[128];
        bl_tensor_info info;
        double *mag = view_doubles(bl_group_get_adapter(group, k), BL_TENSOR_MAGNITUDE,
                                   BL_BUFFER_PARAMETERS);
        snprintf(name, sizeof name, "base_model.model.%s.lora_magnitude_vector",
                 names[k]);
        int64_t index = bl_safetensors_find(file, name);
        io_ok(bl_safetensors_get_tensor(file, index, &info));
        ck_assert_int_eq(info.dims, 1);
        ck_assert_int_eq(info.shape[0], outs[k]);
        io_ok(bl_safetensors_copy(file, index, BL_F64, got, outs[k]));
        for (int64_t i = 0; i < outs[k]; i++) {
            int64_t from = opt.row_order == NULL || orders[k] == NULL ? i : orders[k][i];
            check_near(got[i], mag[from], 0);
        }
        free(mag);
    }
    bl_safetensors_close(file);
    free_dora_group(group);

    bl_peft       *peft = NULL;
    bl_peft_module module;
    io_ok(bl_peft_open(&peft, path_to("a")));
    io_ok(bl_peft_get_module(peft, 0, &module));
    ck_assert_int_eq(module.dora, 1);
    bl_group *plain = make_group(BL_F64, method, roomy);
    io_fails(bl_peft_load(peft, plain, &opt), BL_E_STATE, "no magnitudes (dora 0)");
    io_ok(bl_peft_save(plain, path_to("b"), &opt));
    group = make_dora_group(BL_F64, BL_METHOD_BEAMLORA, roomy);
    io_ok(bl_peft_load(peft, group, &opt));
    for (int k = 0; k < MODULES; k++) {
        check_ok(
            bl_adapter_merge(bl_group_get_adapter(group, k), bases[k].data, bases[k].ld));
        check_le(mat_error(&bases[k], want[k]), 1e-13);
        free(want[k]);
    }
    bl_peft_close(peft);
    io_ok(bl_peft_open(&peft, path_to("b")));
    io_ok(bl_peft_get_module(peft, 0, &module));
    ck_assert_int_eq(module.dora, 0);
    io_fails(bl_peft_load(peft, group, &opt), BL_E_STATE, "magnitudes (dora 1)");
    bl_peft_close(peft);
    bl_group_free(plain);
    free_dora_group(group);
    remove_folder();
}
END_TEST

/* AdaLoRA: written as a plain LoRA, masked ranks as zeros; a group with E = 0 reads none. */
START_TEST(adalora)
{
    bl_peft *peft = NULL;
    make_folder();
    bl_group *group = make_group(BL_F64, BL_METHOD_ADALORA, ranks);
    bl_view   e =
        view_of(bl_group_get_adapter(group, 1), BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
    for (int64_t i = 0; i < e.cols; i++) {
        set_value(e.data, e.dtype, i, 0);
    }
    check_ok(bl_group_touch(group));
    io_ok(bl_peft_save(group, path_to("a"), NULL));
    io_ok(bl_peft_open(&peft, path_to("a")));
    bl_group *plain = make_group(BL_F64, BL_METHOD_LORA, (const int64_t[]){ 4, 4, 4 });
    io_ok(bl_peft_load(peft, plain, NULL));
    check_same(group, plain, 2e-6);
    bl_group_free(group);
    group = make_group(BL_F64, BL_METHOD_ADALORA, (const int64_t[]){ 4, 4, 4 });
    e = view_of(bl_group_get_adapter(group, 1), BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
    set_value(e.data, e.dtype, 2, 0);
    io_fails(bl_peft_load(peft, group, NULL), BL_E_STATE, "");
    bl_group_free(group);
    bl_group_free(plain);
    bl_peft_close(peft);
    remove_folder();
}
END_TEST

/* A configuration and magnitudes that do not fit together. */
START_TEST(dora_refused)
{
    static const float values[] = { 1, 2, 3, 4, 5, 6 };
    static const char  prefix[] = "base_model.model.m.q";
    for (int k = 0; k < 4; k++) {
        bl_array arrays[3];
        bl_peft *peft = NULL;
        memset(arrays, 0, sizeof arrays);
        for (int i = 0; i < 3; i++) {
            static const char *const ends[] = { "lora_A.weight", "lora_B.weight",
                                                "lora_magnitude_vector" };
            snprintf(arrays[i].name, sizeof arrays[i].name, "%s.%s", prefix, ends[i]);
            arrays[i].data = values;
            arrays[i].dims = i < 2 ? 2 : 1;
            arrays[i].shape[0] = 2;
            arrays[i].shape[1] = i == 0 ? 3 : 2;
        }
        arrays[2].shape[0] = k == 1 ? 3 : 2;
        if (k == 3) {
            strcpy(arrays[2].name, "base_model.model.m.k.lora_magnitude_vector");
        }
        make_folder();
        write_text(path_to("adapter_config.json"),
                   k == 0 ? "{\"peft_type\":\"LORA\",\"r\":2}"
                          : "{\"peft_type\":\"LORA\",\"r\":2,\"use_dora\":true}");
        io_ok(
            bl_safetensors_write(path_to("adapter_model.safetensors"), arrays, 3, NULL));
        static const char *const words[] = { "does not set use_dora",
                                             "is [3, 0], must be [2, 0]", "",
                                             "m.k.lora_magnitude_vector has no partner" };
        if (k == 2) { /* the good one */
            io_ok(bl_peft_open(&peft, folder));
        } else {
            io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, words[k]);
        }
        bl_peft_close(peft);
        remove_folder();
    }
}
END_TEST

/* What is in the files: names, shapes, values, padding, order of rows, metadata, keys. */
START_TEST(contents)
{
    int64_t         rows[MODULES][8];
    const int64_t  *orders[MODULES];
    bl_peft_options opt;
    fill_orders(rows, orders);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = orders;
    opt.rank = 8;
    opt.base_model_name_or_path = "some/\"base\"";
    make_folder();
    bl_group *group = make_group(BL_F32, BL_METHOD_BEAMLORA, ranks);
    io_ok(bl_peft_save(group, path_to("a"), &opt));

    bl_safetensors *file = NULL;
    io_ok(bl_safetensors_open(&file, path_to("a/adapter_model.safetensors")));
    ck_assert_int_eq(bl_safetensors_get_count(file), 2 * MODULES);
    ck_assert_str_eq(bl_safetensors_get_metadata(file, "format"), "pt");
    for (int k = 0; k < MODULES; k++) {
        char           name[320];
        bl_tensor_info info;
        float          a[8 * 9], b[7 * 8], want_a[4 * 9], want_b[7 * 4];
        snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight", names[k]);
        int64_t index = bl_safetensors_find(file, name);
        ck_assert_int_ge(index, 0);
        io_ok(bl_safetensors_get_tensor(file, index, &info));
        ck_assert_str_eq(info.dtype_name, "F32");
        ck_assert(info.dims == 2 && info.shape[0] == 8 && info.shape[1] == ins[k]);
        io_ok(bl_safetensors_copy(file, index, BL_F32, a, 9));
        snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight", names[k]);
        index = bl_safetensors_find(file, name);
        ck_assert_int_ge(index, 0);
        io_ok(bl_safetensors_get_tensor(file, index, &info));
        ck_assert(info.dims == 2 && info.shape[0] == outs[k] && info.shape[1] == 8);
        io_ok(bl_safetensors_copy(file, index, BL_F32, b, 8));

        check_ok(bl_adapter_fold(bl_group_get_adapter(group, k), want_a, 9, want_b, 4));
        for (int64_t r = 0; r < 8; r++) {
            for (int64_t j = 0; j < ins[k]; j++) {
                ck_assert(a[r * 9 + j] == (r < ranks[k] ? want_a[r * 9 + j] : 0));
            }
            for (int64_t i = 0; i < outs[k]; i++) {
                int64_t from = orders[k] == NULL ? i : orders[k][i];
                ck_assert(b[i * 8 + r] == (r < ranks[k] ? want_b[from * 4 + r] : 0));
            }
        }
    }
    bl_safetensors_close(file);

    static const char *const want =
        "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"base_model_name_or_path\":"
        "\"some/\\\"base\\\"\",\"revision\":null,\"inference_mode\":true,\"r\":8,"
        "\"lora_alpha\":8,\"lora_dropout\":0.0,\"target_modules\":[\"q_proj\",\"up_"
        "proj\"],"
        "\"bias\":\"none\",\"fan_in_fan_out\":false,\"init_lora_weights\":true,"
        "\"use_rslora\":false,\"use_dora\":false,\"modules_to_save\":null,"
        "\"rank_pattern\":{},\"alpha_pattern\":{},\"layers_to_transform\":null,"
        "\"layers_pattern\":null}";
    json_t *config = json_load_file(path_to("a/adapter_config.json"), 0, NULL);
    json_t *expected = json_loads(want, 0, NULL);
    ck_assert(config != NULL && expected != NULL);
    ck_assert(json_is_string(json_object_get(config, "peft_version")));
    json_object_del(config, "peft_version");
    ck_assert(json_equal(config, expected));
    json_decref(config);
    json_decref(expected);
    bl_group_free(group);
    remove_folder();
}
END_TEST

/* ----- reading what others write ----- */

/* A folder with one module "m.q" of rank 2, in 3, out 2, and this configuration. */
static void make_adapter_files(const char *config, const char *extra)
{
    static const float a[] = { 1, 2, 3, 4, 5, 6 };
    static const float b[] = { 1, -1, 0.5f, 2 };
    bl_array           arrays[3];
    memset(arrays, 0, sizeof arrays);
    strcpy(arrays[0].name, "base_model.model.m.q.lora_A.weight");
    arrays[0].data = a;
    arrays[0].shape[0] = 2;
    arrays[0].shape[1] = 3;
    strcpy(arrays[1].name, "base_model.model.m.q.lora_B.weight");
    arrays[1].data = b;
    arrays[1].shape[0] = 2;
    arrays[1].shape[1] = 2;
    snprintf(arrays[2].name, sizeof arrays[2].name, "%s", extra == NULL ? "" : extra);
    arrays[2].data = a;
    arrays[2].shape[0] = 2;
    arrays[2].shape[1] = 3;
    for (int i = 0; i < 3; i++) {
        arrays[i].dims = 2;
    }
    make_folder();
    write_text(path_to("adapter_config.json"), config);
    io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), arrays,
                               extra == NULL ? 2 : 3, NULL));
}

START_TEST(config_refused)
{
    static const char *const cases[][2] = {
        { "", "line 1" },
        { "{", "line 1" },
        { "[1]", "is no JSON object" },
        { "{\"r\":2}", "peft_type is missing" },
        { "{\"peft_type\":\"LOHA\",\"r\":2}", "peft_type is LOHA" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"r\":2}", "duplicate" },
        { "{\"peft_type\":\"LORA\"}", "lora_A has rank 2, adapter_config.json says 8" },
        { "{\"peft_type\":\"LORA\",\"r\":0}", "r is no integer in 1.." },
        { "{\"peft_type\":\"LORA\",\"r\":-2}", "r is no integer in 1.." },
        { "{\"peft_type\":\"LORA\",\"r\":2.0}", "r is no integer in 1.." },
        { "{\"peft_type\":\"LORA\",\"r\":99999999999}", "r is no integer in 1.." },
        { "{\"peft_type\":\"LORA\",\"r\":\"2\"}", "r is no integer in 1.." },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":\"4\"}",
          "lora_alpha is no number" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":null}",
          "lora_alpha is no number" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":NaN}", "line 1" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"use_rslora\":1}",
          "use_rslora is no boolean" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"use_dora\":true}",
          "has no partner lora_magnitude_vector" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"use_dora\":\"no\"}",
          "use_dora is no boolean" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"use_beamlora\":true}",
          "lora_A.weight has no partner lora_gate" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"bias\":\"all\"}", "bias is all" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"modules_to_save\":[\"lm_head\"]}",
          "modules_to_save is set" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"use_bdlora\":{\"nblocks\":2}}",
          "use_bdlora is set" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"monteclora_config\":{\"a\":1}}",
          "monteclora_config is set" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"init_lora_weights\":\"pissa\"}",
          "init_lora_weights is pissa" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":[3]}", "rank_pattern is no" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"q\":true}}",
          "q is no integer" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"(q|k)\":2}}",
          "key (q|k) is a regular expression" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"\":2}}",
          "regular expression" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"q\\\\\":2}}",
          "regular expression" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"q\":3}}",
          "adapter_config.json says 3" },
        { "{\"peft_type\":\"LORA\",\"r\":2,\"alpha_pattern\":{\"q\":[]}}",
          "q is no number" },
    };
    if (_i < (int) (sizeof cases / sizeof cases[0])) {
        bl_peft *peft = NULL;
        make_adapter_files(cases[_i][0], NULL);
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, cases[_i][1]);
        ck_assert_ptr_null(peft);
        ck_assert(strstr(bl_io_last_error(), "adapter_") != NULL);
        ck_assert_ptr_null(strchr(bl_io_last_error(), '\n'));
        remove_folder();
    }
}
END_TEST

/* The scale that PEFT would apply. */
START_TEST(config_scales)
{
    static const struct {
        const char *rest;
        double      scale;
    } cases[] = {
        { "", 4 },
        { ",\"lora_alpha\":3", 1.5 },
        { ",\"lora_alpha\":2.5", 1.25 },
        { ",\"lora_alpha\":3,\"use_rslora\":true", 2.1213203435596424 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"q\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"m.q\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"m\\\\.q\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"^m.q\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"..q\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"m\\\\..\":8}", 4 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"^q\":8}", 1.5 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"m\":8}", 1.5 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\".q\":8}", 1.5 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"x.m.q\":8}", 1.5 },
        { ",\"lora_alpha\":3,\"alpha_pattern\":{\"z\":9,\"m.q\":8,\"q\":7}", 4 },
        { ",\"lora_alpha\":3,\"rank_pattern\":{\"z\":9,\"q\":2}", 1.5 },
        { ",\"use_dora\":false,\"bias\":\"none\",\"modules_to_save\":null,\"new_key\":[1],"
          "\"rank_pattern\":{},\"init_lora_weights\":true,\"target_modules\":\"all-"
          "linear\"",
          4 },
    };
    char config[1024];
    if (_i < (int) (sizeof cases / sizeof cases[0])) {
        bl_peft       *peft = NULL;
        bl_peft_module module;
        snprintf(config, sizeof config, "{\"peft_type\":\"LORA\",\"r\":2%s}",
                 cases[_i].rest);
        make_adapter_files(config, NULL);
        io_ok(bl_peft_open(&peft, folder));
        io_ok(bl_peft_get_module(peft, 0, &module));
        ck_assert_str_eq(module.name, "m.q");
        ck_assert_int_eq(module.rank, 2);
        ck_assert_msg(fabs(module.scale - cases[_i].scale) < 1e-15, "%s: scale %.17g",
                      cases[_i].rest, module.scale);
        bl_peft_close(peft);
        remove_folder();
    }
}
END_TEST

START_TEST(tensors_refused)
{
    static const char *const cases[][2] = {
        { "base_model.model.m.q.lora_gate", "does not set use_beamlora" },
        { "base_model.model.m.q.lora_E", "lora_E is no base_model.model." },
        { "base_model.model.m.q.lora_magnitude_vector", "does not set use_dora" },
        { "base_model.model.m.q.lora_B.bias", "lora_B.bias is no" },
        { "base_model.model.e.lora_embedding_A", "lora_embedding_A is no" },
        { "m.k.lora_A.weight", "m.k.lora_A.weight is no" },
        { "base_model.model.lora_A.weight", "is no" },
        { "base_model.model.m.k.lora_A.weight", "has no partner lora_B" },
        { "base_model.model.m.k.lora_B.weight", "has no partner lora_A" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_peft *peft = NULL;
        make_adapter_files("{\"peft_type\":\"LORA\",\"r\":2}", cases[i][0]);
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, cases[i][1]);
        remove_folder();
    }
}
END_TEST

START_TEST(open_refused)
{
    bl_peft *peft = NULL;
    make_folder();
    io_fails(bl_peft_open(&peft, path_to("absent")), BL_E_IO, "adapter_config.json");
    io_fails(bl_peft_open(&peft, folder), BL_E_IO, "adapter_config.json: cannot open");
    write_text(path_to("adapter_config.json"), "{\"peft_type\":\"LORA\",\"r\":2}");
    io_fails(bl_peft_open(&peft, folder), BL_E_IO, "adapter_model.safetensors");
    write_text(path_to("adapter_model.bin"), "");
    io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, "pickle");
    io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), NULL, 0, NULL));
    io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, "holds no tensors");
    ck_assert_int_eq(truncate(path_to("adapter_config.json"), (16 << 20) + 1), 0);
    io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, "at most 16777216 are read");
    io_fails(bl_peft_open(NULL, folder), BL_E_ARG, "out is NULL");
    io_fails(bl_peft_open(&peft, NULL), BL_E_ARG, "path is NULL");
    remove_folder();
}
END_TEST

/* ----- loading that fails leaves the group as it was ----- */

/* One adapter like that of make_adapter_files. */
static bl_group *make_small(const char *name, int64_t in, int64_t out, int64_t rank)
{
    bl_options opt = default_options(BL_F32);
    bl_spec    spec = make_spec(in, out, rank);
    bl_group  *group = NULL;
    spec.name = name;
    check_ok(bl_group_create(&group, &spec, 1, &opt));
    randomize(bl_group_get_adapter(group, 0), 3);
    return group;
}

static void load_refused(const bl_peft *peft, bl_group *group, const bl_peft_options *opt,
                         int code, const char *part)
{
    bytes before = save_group(group);
    io_fails(bl_peft_load(peft, group, opt), code, part);
    bytes after = save_group(group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
}

START_TEST(load_refuses)
{
    static const int64_t        twice[] = { 1, 1 }, outside[] = { 0, 2 };
    static const int64_t *const bad_orders[][1] = { { twice }, { outside } };
    bl_peft                    *peft = NULL;
    bl_peft_options             opt;
    make_adapter_files("{\"peft_type\":\"LORA\",\"r\":2}", NULL);
    io_ok(bl_peft_open(&peft, folder));

    bl_group *group = make_small("m.k", 3, 2, 2);
    load_refused(peft, group, NULL, BL_E_SHAPE,
                 "module m.q is no adapter of the group, adapter m.k is not in the file");
    bl_group_free(group);
    group = make_small("m.q", 4, 2, 2);
    load_refused(peft, group, NULL, BL_E_SHAPE,
                 "in 4, out 2, rank 2; the file's is in 3, out 2, rank 2");
    bl_group_free(group);
    group = make_small("m.q", 3, 5, 2);
    load_refused(peft, group, NULL, BL_E_SHAPE, "out 5, rank 2; the file's");
    bl_group_free(group);

    group = make_small("m.q", 3, 2, 4);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = bad_orders[0];
    load_refused(peft, group, &opt, BL_E_RANGE, "entry 1 is 1");
    opt.row_order = bad_orders[1];
    load_refused(peft, group, &opt, BL_E_RANGE, "entry 1 is 2");
    opt.row_order = NULL;
    opt.dtype = BL_U8;
    load_refused(peft, group, &opt, BL_E_OPTIONS, "dtype is 5");
    opt.dtype = BL_F32;
    opt.size = 8;
    load_refused(peft, group, &opt, BL_E_OPTIONS, "size is 8");
    static const uint8_t mask[] = { 1, 0, 1, 1 };
    check_ok(bl_adapter_set_mask(bl_group_get_adapter(group, 0), mask));
    load_refused(peft, group, NULL, BL_E_STATE, "rank 1 is silenced");
    check_ok(bl_adapter_set_mask(bl_group_get_adapter(group, 0), NULL));
    io_ok(bl_peft_load(peft, group, NULL));
    check_ok(bl_group_tick(group));
    load_refused(peft, group, NULL, BL_E_STATE, "has made 1 steps");
    io_fails(bl_peft_load(NULL, group, NULL), BL_E_ARG, "peft is NULL");
    io_fails(bl_peft_load(peft, NULL, NULL), BL_E_ARG, "group is NULL");
    bl_group_free(group);
    bl_peft_close(peft);
    remove_folder();
}
END_TEST

/* The numbers, by hand: scale 4 / 2 = 2, more rank than the file has. */
START_TEST(load_values)
{
    static const double         want[] = { 2 * (1 * 1 + -1 * 4),  2 * (1 * 2 + -1 * 5),
                                           2 * (1 * 3 + -1 * 6),  2 * (0.5 * 1 + 2 * 4),
                                           2 * (0.5 * 2 + 2 * 5), 2 * (0.5 * 3 + 2 * 6) };
    static const int64_t        swap[] = { 1, 0 };
    static const int64_t *const orders[] = { swap };
    bl_peft                    *peft = NULL;
    bl_peft_options             opt;
    make_adapter_files("{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4}", NULL);
    io_ok(bl_peft_open(&peft, folder));
    bl_group   *group = make_small("m.q", 3, 2, 4);
    bl_adapter *adapter = bl_group_get_adapter(group, 0);
    io_ok(bl_peft_load(peft, group, NULL));
    double *got = product_of(adapter);
    check_le(error_of(got, want, 6), 1e-6);
    free(got);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = orders;
    io_ok(bl_peft_load(peft, group, &opt));
    got = product_of(adapter);
    check_le(error_of(got, want + 3, 3), 1e-6);
    check_le(error_of(got + 3, want, 3), 1e-6);
    free(got);
    bl_group_free(group);
    bl_peft_close(peft);
    remove_folder();
}
END_TEST

START_TEST(load_nonfinite)
{
    static const double a[] = { 1, 2, 3, 4, 5, 1e300 };
    static const double b[] = { 1, -1, (double) INFINITY, 2 };
    static const double fine[] = { 1, -1, 1, 2 };
    bl_peft            *peft = NULL;
    bl_array            arrays[2];
    memset(arrays, 0, sizeof arrays);
    strcpy(arrays[0].name, "base_model.model.m.q.lora_A.weight");
    strcpy(arrays[1].name, "base_model.model.m.q.lora_B.weight");
    arrays[0].shape[1] = 3;
    arrays[1].shape[1] = 2;
    for (int i = 0; i < 2; i++) {
        arrays[i].dims = 2;
        arrays[i].dtype = BL_F64;
        arrays[i].shape[0] = 2;
    }
    make_folder();
    write_text(path_to("adapter_config.json"), "{\"peft_type\":\"LORA\",\"r\":2}");
    bl_group *group = make_small("m.q", 3, 2, 2);
    for (int k = 0; k < 2; k++) {
        arrays[0].data = k == 0 ? a : (const double *) fine;
        arrays[1].data = b;
        double wide[6] = { 1, 2, 3, 4, 5, 6 };
        if (k == 1) {
            arrays[0].data = wide;
        }
        io_ok(
            bl_safetensors_write(path_to("adapter_model.safetensors"), arrays, 2, NULL));
        io_ok(bl_peft_open(&peft, folder));
        load_refused(peft, group, NULL, k == 0 ? BL_E_RANGE : BL_E_NONFINITE,
                     k == 0 ? "lora_A.weight: a value is too large"
                            : "lora_B.weight holds a value that is not finite");
        bl_peft_close(peft);
    }
    bl_group_free(group);
    remove_folder();
}
END_TEST

/* ----- saving that fails leaves the old adapter ----- */

START_TEST(save_refuses)
{
    static const int64_t        twice[] = { 0, 0, 1, 2 };
    static const int64_t *const orders[] = { twice, NULL, NULL };
    struct {
        bl_peft_options opt;
        char            later[16];
    } longer;
    bl_peft_options opt;
    bl_view         view;
    make_folder();
    bl_group *group = make_group(BL_F64, BL_METHOD_BEAMLORA, ranks);
    io_ok(bl_peft_save(group, path_to("a"), NULL));
    size_t size, after_size;
    char  *before = read_bytes(path_to("a/adapter_model.safetensors"), &size);

    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.rank = 3;
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_RANGE, "must be in 4..");
    opt.rank = -1;
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_RANGE, "rank is -1");
    opt.rank = 0;
    opt.row_order = orders;
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_RANGE, "entry 1 is 0");
    opt.row_order = NULL;
    opt.base_model_name_or_path = "\xff";
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_ARG, "UTF-8");
    opt.base_model_name_or_path = NULL;
    opt.compact = 2;
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_OPTIONS, "compact is 2");
    io_fails(bl_peft_save(group, path_to("b/c"), NULL), BL_E_IO,
             "cannot make the folder");
    io_fails(bl_peft_save(NULL, path_to("a"), NULL), BL_E_ARG, "group is NULL");
    io_fails(bl_peft_options_init(&opt, 8), BL_E_OPTIONS, "size is 8");
    io_fails(bl_peft_options_init(NULL, 8), BL_E_ARG, "opt is NULL");

    /* structs of a later version: fine unless they ask for something */
    io_ok(bl_peft_options_init(&longer.opt, sizeof longer));
    io_ok(bl_peft_save(group, path_to("a"), &longer.opt));
    longer.later[3] = 1;
    io_fails(bl_peft_save(group, path_to("a"), &longer.opt), BL_E_OPTIONS, "not know");

    check_ok(bl_adapter_get_view(bl_group_get_adapter(group, 1), BL_TENSOR_B,
                                 BL_BUFFER_PARAMETERS, &view));
    ((double *) view.data)[2] = 1e39;
    check_ok(bl_group_touch(group));
    io_fails(bl_peft_save(group, path_to("a"), NULL), BL_E_RANGE,
             "mlp.up_proj.lora_B.weight: 1e+39 is too large for F32");
    ((double *) view.data)[2] = (double) NAN;
    check_ok(bl_group_touch(group));
    io_fails(bl_peft_save(group, path_to("a"), NULL), BL_E_NONFINITE,
             "mlp.up_proj.lora_B.weight: a value is not finite");
    io_fails(bl_peft_save(group, path_to("fresh"), NULL), BL_E_NONFINITE, "not finite");
    ck_assert_int_ne(access(path_to("fresh"), F_OK), 0);

    ck_assert_int_eq(walk(path_to("a"), 0), 2);
    char *after = read_bytes(path_to("a/adapter_model.safetensors"), &after_size);
    ck_assert(size == after_size && memcmp(before, after, size) == 0);
    free(before);
    free(after);
    bl_group_free(group);
    remove_folder();
}
END_TEST

START_TEST(save_fails)
{
    make_folder();
    bl_group *group = make_group(BL_F32, BL_METHOD_BEAMLORA, ranks);
    io_ok(bl_peft_save(group, path_to("a"), NULL));
    size_t size, after_size;
    char  *before = read_bytes(path_to("a/adapter_model.safetensors"), &size);
    randomize(bl_group_get_adapter(group, 0), 99);
    struct rlimit old, limit;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 1000; /* enough for the configuration alone; Check writes too */
    setrlimit(RLIMIT_FSIZE, &limit);
    int code = bl_peft_save(group, path_to("a"), NULL);
    setrlimit(RLIMIT_FSIZE, &old);
    io_fails(code, BL_E_IO, "cannot write");
    ck_assert_int_eq(walk(path_to("a"), 0), 2);
    char *after = read_bytes(path_to("a/adapter_model.safetensors"), &after_size);
    ck_assert(size == after_size && memcmp(before, after, size) == 0);
    free(before);
    free(after);
    bl_group_free(group);
    remove_folder();
}
END_TEST

/* ----- compact ----- */

/* Rank `rank` of adapter k contributes nothing: through A, B, or both. */
static void silence(bl_group *group, int k, int64_t rank, int through_b)
{
    bl_view view = view_of(bl_group_get_adapter(group, k),
                           through_b ? BL_TENSOR_B : BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    for (int64_t j = 0; j < view.cols; j++) {
        set_value(view.data, view.dtype, rank * view.ld + j, 0);
    }
}

static int64_t rank_in_file(const char *dir, const char *name)
{
    bl_peft       *peft;
    bl_peft_module module;
    int64_t        rank = -1;
    io_ok(bl_peft_open(&peft, dir));
    for (int64_t i = 0; i < bl_peft_get_count(peft); i++) {
        io_ok(bl_peft_get_module(peft, i, &module));
        ck_assert_double_eq(module.scale, 1);
        if (strcmp(module.name, name) == 0) {
            rank = module.rank;
        }
    }
    bl_peft_close(peft);
    return rank;
}

/* Only ranks that contribute are in the file, and it computes the same. */
START_TEST(compact)
{
    static const int32_t dtypes[] = { BL_F32, BL_F64, BL_F16, BL_BF16 };
    static const double  limits[] = { 2e-6, 2e-6, 2e-3, 2e-2 };
    bl_group            *group = make_group(BL_F32, BL_METHOD_BEAMLORA, ranks);
    bl_group            *other = make_group(BL_F32, BL_METHOD_LORA, ranks);
    bl_peft_options      opt;
    bl_peft             *peft;
    const uint8_t        mask[] = { 1, 0, 1 };
    make_folder();
    check_ok(bl_adapter_set_mask(bl_group_get_adapter(group, 0), mask));
    silence(group, 1, 0, 0); /* both of two: one has to stay */
    silence(group, 1, 1, 1);
    silence(group, 2, 3, 1);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.compact = 1;
    opt.dtype = dtypes[_i];
    io_ok(bl_peft_save(group, path_to("a"), &opt));
    ck_assert_int_eq(rank_in_file(path_to("a"), names[0]), 2);
    ck_assert_int_eq(rank_in_file(path_to("a"), names[1]), 1);
    ck_assert_int_eq(rank_in_file(path_to("a"), names[2]), 3);
    io_ok(bl_peft_open(&peft, path_to("a")));
    io_ok(bl_peft_load(peft, other, NULL));
    bl_peft_close(peft);
    check_same(other, group, limits[_i]);
    bl_group_free(group);
    bl_group_free(other);
    remove_folder();
}
END_TEST

static bl_group *group_of(const char *const *called, const int64_t *rank, int count)
{
    bl_options opt = default_options(BL_F32);
    bl_spec    specs[MODULES];
    bl_group  *group = NULL;
    for (int k = 0; k < count; k++) {
        specs[k] = make_spec(4, 4, rank[k]);
        specs[k].name = called[k];
    }
    check_ok(bl_group_create(&group, specs, count, &opt));
    for (int k = 0; k < count; k++) {
        randomize(bl_group_get_adapter(group, k), 90 + (uint64_t) k);
    }
    return group;
}

/* Keys are regular expressions that match the end of a name. */
START_TEST(compact_refuses)
{
    static const char *const tail[] = { "layers.0.q", "encoder.layers.0.q" };
    static const char *const dot[] = { "a.b", "a_b" };
    static const char *const plus[] = { "a+b", "c" };
    static const int64_t     unequal[] = { 1, 2 }, equal[] = { 2, 2 };
    bl_peft_options          opt;
    make_folder();
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.compact = 1;
    bl_group *group = group_of(tail, unequal, 2);
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_ARG,
             "the rank of layers.0.q would be taken for encoder.layers.0.q too");
    bl_group_free(group);
    group = group_of(dot, unequal, 2);
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_ARG,
             "the rank of a.b would be taken for a_b too");
    bl_group_free(group);
    group = group_of(plus, unequal, 2);
    io_fails(bl_peft_save(group, path_to("a"), &opt), BL_E_ARG, "a+b has other");
    ck_assert_int_eq(access(path_to("a"), F_OK), -1);
    opt.compact = 0;
    io_ok(bl_peft_save(group, path_to("a"), &opt));
    bl_group_free(group);
    opt.compact = 1;
    group = group_of(tail, equal, 2);
    io_ok(bl_peft_save(group, path_to("b"), &opt));
    bl_group_free(group);
    /* what is not finite is no rank to be left out */
    group = group_of(dot, equal, 1);
    silence(group, 0, 0, 1);
    bl_view a =
        view_of(bl_group_get_adapter(group, 0), BL_TENSOR_A, BL_BUFFER_PARAMETERS);
    set_value(a.data, a.dtype, 2, (double) NAN);
    io_fails(bl_peft_save(group, path_to("b"), &opt), BL_E_NONFINITE,
             "a.b.lora_A.weight");
    bl_group_free(group);
    remove_folder();
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("peft");
    TCase *reading = tcase_create("reading");
    tcase_add_loop_test(reading, config_refused, 0, 29);
    tcase_add_loop_test(reading, config_scales, 0, 17);
    tcase_add_test(reading, tensors_refused);
    tcase_add_test(reading, open_refused);
    suite_add_tcase(suite, reading);
    TCase *loading = tcase_create("loading");
    tcase_add_test(loading, load_refuses);
    tcase_add_test(loading, load_values);
    tcase_add_test(loading, load_nonfinite);
    suite_add_tcase(suite, loading);
    TCase *saving = tcase_create("saving");
    tcase_add_loop_test(saving, round_trip, 0, 16);
    tcase_add_loop_test(saving, dora, 0, 4);
    tcase_add_test(saving, dora_refused);
    tcase_add_test(saving, adalora);
    tcase_add_test(saving, contents);
    tcase_add_loop_test(saving, compact, 0, 4);
    tcase_add_test(saving, compact_refuses);
    tcase_add_test(saving, save_refuses);
    tcase_add_test(saving, save_fails);
    suite_add_tcase(suite, saving);
    return suite;
}
