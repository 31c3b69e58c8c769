/* Adapters of other kinds than PEFT's plain LoRA: loralib's names, files without a
 * configuration, AdaLoRA, the published BeamLoRA with its scores, read and written.
 */
#define _POSIX_C_SOURCE 200809L

#include "io_check.h"

#include <dirent.h>
#include <jansson.h>
#include <unistd.h>

/* ----- folders ----- */

static void remove_all(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char inner[1024];
        if (entry->d_name[0] != '.' && snprintf(inner, sizeof inner, "%.700s/%s", path,
                                                entry->d_name) < (int) sizeof inner) {
            if (unlink(inner) != 0) {
                remove_all(inner);
            }
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(path);
}

static void remove_folder(void)
{
    remove_all(folder);
}

static void write_config(const char *text)
{
    if (text == NULL) {
        unlink(path_to("adapter_config.json"));
        return;
    }
    FILE *file = fopen(path_to("adapter_config.json"), "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
}

/* ----- one module "m.q": in 3, out 2, rank 2 ----- */

enum { IN = 3, OUT = 2, RANK = 2 };

static const double file_a[RANK * IN] = { 1, 2, 3, 4, 5, 6 };
static const double file_b[OUT * RANK] = { 1, -1, 0.5, 2 };
static const double file_scores[RANK] = { 0.0625, -0.03125 };
static const double file_e[RANK] = { 0.5, -2 };

static bl_array array_of(const char *name, const double *data, int64_t rows, int64_t cols)
{
    bl_array array;
    memset(&array, 0, sizeof array);
    snprintf(array.name, sizeof array.name, "%s", name);
    array.data = data;
    array.dims = cols > 0 ? 2 : 1;
    array.shape[0] = rows;
    array.shape[1] = cols;
    array.dtype = BL_F64;
    return array;
}

/* A folder with A and B under these names, a third tensor, and this configuration. */
static void write_adapter(const char *a, const char *b, const bl_array *third,
                          const char *config)
{
    bl_array arrays[3] = { array_of(a, file_a, RANK, IN),
                           array_of(b, file_b, OUT, RANK) };
    if (third != NULL) {
        arrays[2] = *third;
    }
    write_config(config);
    io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), arrays,
                               third == NULL ? 2 : 3, NULL));
}

/* sum_k factor_k b_k a_k of the module, [OUT, IN]. */
static void product_by_hand(double *w, const double *factor)
{
    for (int i = 0; i < OUT; i++) {
        for (int j = 0; j < IN; j++) {
            w[i * IN + j] = 0;
            for (int k = 0; k < RANK; k++) {
                w[i * IN + j] += factor[k] * file_b[i * RANK + k] * file_a[k * IN + j];
            }
        }
    }
}

/* c B diag(g) A, packed, in double. */
static double *product_of(bl_adapter *adapter)
{
    int64_t in = bl_adapter_get_in(adapter), out = bl_adapter_get_out(adapter);
    double *w = must_doubles(out * in);
    mat     m = mat_new(BL_F64, out, in, in);
    mat_zero(&m);
    check_ok(bl_adapter_merge(adapter, m.data, in));
    memcpy(w, m.data, (size_t) (out * in) * sizeof *w);
    mat_free(&m);
    return w;
}

static void check_product(bl_group *group, const double *want)
{
    double *got = product_of(bl_group_get_adapter(group, 0));
    check_le(error_of(got, want, OUT * IN), 1e-12);
    free(got);
}

static bl_group *make_group(int32_t method, int64_t rank, double alpha, double tau)
{
    bl_options opt = default_options(BL_F64);
    bl_spec    spec = make_spec(IN, OUT, rank);
    bl_group  *group = NULL;
    spec.name = "m.q";
    opt.method = method;
    opt.alpha = alpha;
    opt.temperature = tau;
    opt.reallocation = 0;
    check_ok(bl_group_create(&group, &spec, 1, &opt));
    return group;
}

static bl_peft *open_folder(void)
{
    bl_peft *peft = NULL;
    io_ok(bl_peft_open(&peft, folder));
    return peft;
}

/* ----- names, and files without a configuration ----- */

START_TEST(spellings)
{
    static const struct {
        const char *a, *b, *config;
    } cases[] = {
        { "m.q.lora_A", "m.q.lora_B", NULL },
        { "m.q.lora_A.weight", "m.q.lora_B", NULL },
        { "m.q.lora_A.default.weight", "m.q.lora_B.default.weight", NULL },
        { "base_model.model.m.q.lora_A.weight", "base_model.model.m.q.lora_B.weight",
          NULL },
        { "base_model.model.m.q.lora_A.weight", "base_model.model.m.q.lora_B.weight",
          "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":6,\"merge_weights\":false,"
          "\"enable_lora\":null}" },
        { "base_model.model.m.q.lora_A.default.weight",
          "base_model.model.m.q.lora_B.default.weight",
          "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":6}" },
    };
    double want[OUT * IN];
    product_by_hand(want, (const double[]){ 3, 3 });
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_peft_options opt;
        bl_peft_module  module;
        io_ok(bl_peft_options_init(&opt, sizeof opt));
        make_folder();
        write_adapter(cases[i].a, cases[i].b, NULL, cases[i].config);
        bl_peft *peft = open_folder();
        ck_assert_int_eq(bl_peft_get_count(peft), 1);
        ck_assert_int_eq(bl_peft_get_method(peft), BL_METHOD_LORA);
        ck_assert(bl_peft_get_temperature(peft) == 0);
        io_ok(bl_peft_get_module(peft, 0, &module));
        ck_assert_str_eq(module.name, "m.q");
        ck_assert(module.rank == RANK && module.in_features == IN);
        ck_assert(cases[i].config == NULL ? isnan(module.scale) : module.scale == 3);

        bl_group *group = make_group(BL_METHOD_BEAMLORA, 3, 9, 0);
        if (cases[i].config == NULL) {
            io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS,
                     "alpha must be given");
            opt.alpha = 6;
        } else {
            opt.alpha = 4;
            io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS,
                     "alpha is 4, but adapter_config.json has its own");
            opt.alpha = 0;
        }
        io_ok(bl_peft_load(peft, group, &opt));
        check_product(group, want);
        bl_group_free(group);
        bl_peft_close(peft);
        remove_folder();
    }
}
END_TEST

START_TEST(bare_file)
{
    bl_peft_options opt;
    bl_peft        *peft = NULL;
    double          want[OUT * IN];
    product_by_hand(want, (const double[]){ -0.5, -0.5 });
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    make_folder();
    write_adapter("m.q.lora_A", "m.q.lora_B", NULL, NULL);
    ck_assert_int_eq(
        rename(path_to("adapter_model.safetensors"), path_to("lora.safetensors")), 0);
    io_ok(bl_peft_open(&peft, path_to("lora.safetensors")));
    bl_group *group = make_group(BL_METHOD_LORA, RANK, 1, 0);
    opt.alpha = -1;
    io_ok(bl_peft_load(peft, group, &opt));
    check_product(group, want);
    opt.alpha = (double) NAN;
    io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS, "must be finite");
    opt.alpha = 1;
    opt.temperature = -1;
    io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS, "temperature is -1");
    bl_group_free(group);
    bl_peft_close(peft);
    write_config("not a safetensors file");
    io_fails(bl_peft_open(&peft, path_to("adapter_config.json")), BL_E_FORMAT,
             "adapter_config.json");
    remove_folder();
}
END_TEST

START_TEST(names_refused)
{
    static const struct {
        const char *a, *b, *third, *config, *part;
    } cases[] = {
        { "m.q.lora_A", "m.q.lora_B", "m.q.lora_A.weight", NULL, "are the same" },
        { "m.q.lora_A", "m.q.lora_B", "lora_A", NULL, "tensor lora_A is no" },
        { "m.q.lora_A", "m.q.lora_B", "m.q.lora_E", NULL, "m.q.lora_E is no" },
        { "m.q.lora_A", "m.q.lora_B", "m.q.lora_gate", NULL, "holds scores" },
        { "m.q.lora_A", "m.k.lora_B", NULL, NULL, "m.k.lora_B has no partner lora_A" },
        { "m.q.lora_B", "m.q.lora_A", NULL, NULL, "lora_A has rank 2, lora_B 3" },
        { "m.q.lora_A", "m.q.lora_B", NULL, "{\"peft_type\":\"LORA\",\"r\":2}",
          "m.q.lora_A is no base_model.model." },
        { "base_model.model.m.q.lora_A", "base_model.model.m.q.lora_B", NULL,
          "{\"peft_type\":\"LORA\",\"r\":2,\"enable_lora\":[true,false]}",
          "enable_lora is set" },
        { "base_model.model.m.q.lora_A", "base_model.model.m.q.lora_B", NULL,
          "{\"peft_type\":\"LORA\",\"r\":2,\"use_beamlora\":\"yes\"}",
          "use_beamlora is no boolean" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_peft *peft = NULL;
        bl_array third =
            array_of(cases[i].third == NULL ? "" : cases[i].third, file_a, RANK, IN);
        make_folder();
        write_adapter(cases[i].a, cases[i].b, cases[i].third == NULL ? NULL : &third,
                      cases[i].config);
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, cases[i].part);
        ck_assert_ptr_null(peft);
        remove_folder();
    }
}
END_TEST

/* ----- AdaLoRA ----- */

#define ADALORA "{\"peft_type\":\"ADALORA\",\"r\":8,"

START_TEST(adalora)
{
    static const double four = 4;
    static const struct {
        const char *rest;
        double      numerator, ranks;
        int         ranknum; /* a tensor of its own */
    } cases[] = {
        { "\"init_r\":2,\"lora_alpha\":6,\"rank_pattern\":null}", 6, 2, 0 },
        { "\"init_r\":2,\"lora_alpha\":6,\"use_rslora\":true}", 6, 2, 0 },
        { "\"init_r\":3,\"lora_alpha\":6,\"rank_pattern\":{\"m.k.lora_E\":[true],"
          "\"m.q.lora_E\":[true,false,true]}}",
          6, 3, 0 },
        { "\"init_r\":3,\"lora_alpha\":0,\"rank_pattern\":{\"m.q.lora_E.default\":"
          "[true,false,true]}}",
          2, 3, 0 },
        { "\"init_r\":2,\"lora_alpha\":6}", 6, 4, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double   scale = cases[i].numerator / (cases[i].ranks + 1e-5), want[OUT * IN];
        bl_array arrays[5] = {
            array_of("base_model.model.m.q.lora_A", file_a, RANK, IN),
            array_of("base_model.model.m.q.lora_B", file_b, OUT, RANK),
            array_of("base_model.model.m.q.lora_E", file_e, RANK, 1),
            array_of("base_model.model.m.q.ranknum", &four, 1, 0),
        };
        char config[512];
        make_folder();
        snprintf(config, sizeof config, ADALORA "%s", cases[i].rest);
        write_config(config);
        io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), arrays,
                                   cases[i].ranknum ? 4 : 3, NULL));
        product_by_hand(want, (const double[]){ scale * file_e[0], scale * file_e[1] });
        bl_peft       *peft = open_folder();
        bl_peft_module module;
        io_ok(bl_peft_get_module(peft, 0, &module));
        check_near(module.scale, scale, 1e-12);
        for (int method = 0; method < 2; method++) {
            bl_group *group = make_group(method ? BL_METHOD_BEAMLORA : BL_METHOD_LORA,
                                         RANK + method, 5, 0);
            io_ok(bl_peft_load(peft, group, NULL));
            check_product(group, want);
            bl_group_free(group);
        }
        bl_peft_close(peft);
        remove_folder();
    }
}
END_TEST

/* A module that lost all ranks is no module; a file of such modules alone is refused. */
START_TEST(adalora_rank_0)
{
    bl_array arrays[6] = {
        array_of("base_model.model.m.q.lora_A", file_a, RANK, IN),
        array_of("base_model.model.m.q.lora_B", file_b, OUT, RANK),
        array_of("base_model.model.m.q.lora_E", file_e, RANK, 1),
        array_of("base_model.model.m.k.lora_A", NULL, 0, IN),
        array_of("base_model.model.m.k.lora_B", NULL, OUT, 0),
        array_of("base_model.model.m.k.lora_E", NULL, 0, 1),
    };
    bl_peft       *peft = NULL;
    bl_peft_module module;
    make_folder();
    /* an array of extent 0 in its second dimension still has two */
    arrays[4].dims = 2;
    write_config(ADALORA "\"init_r\":2,\"rank_pattern\":{\"m.k.lora_E\":[false,false]}}");
    io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), arrays, 6, NULL));
    peft = open_folder();
    ck_assert_int_eq(bl_peft_get_count(peft), 1);
    io_ok(bl_peft_get_module(peft, 0, &module));
    ck_assert_str_eq(module.name, "m.q");
    bl_peft_close(peft);
    peft = NULL;
    io_ok(
        bl_safetensors_write(path_to("adapter_model.safetensors"), arrays + 3, 3, NULL));
    io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, "all modules have rank 0");
    write_config("{\"peft_type\":\"LORA\",\"r\":2}");
    remove_folder();
}
END_TEST

START_TEST(adalora_refused)
{
    static const double half = 0.5;
    const struct {
        const char *rest;
        bl_array    third;
        const char *part;
    } cases[] = {
        { "\"init_r\":2}", array_of("base_model.model.m.q.lora_A.default", file_a, 2, 3),
          "are the same" },
        { "\"init_r\":2}", array_of("base_model.model.m.q.ranknum", &half, 1, 0),
          "has no partner lora_E" },
        { "\"init_r\":2}", array_of("base_model.model.m.q.lora_E", file_e, 1, 2),
          "lora_E is [1, 2], must be [2, 1]" },
        { "\"init_r\":2}", array_of("base_model.model.m.q.lora_E", file_e, 2, 0),
          "has 1 dimensions, must have 2" },
        { "\"init_r\":3}", array_of("base_model.model.m.q.lora_E", file_e, 2, 1),
          "lora_A has rank 2, adapter_config.json says 3" },
        { "\"lora_alpha\":3}", array_of("base_model.model.m.q.lora_E", file_e, 2, 1),
          "adapter_config.json says 12" },
        { "\"init_r\":2,\"rank_pattern\":[1]}",
          array_of("base_model.model.m.q.lora_E", file_e, 2, 1),
          "rank_pattern is no JSON object" },
        { "\"init_r\":2,\"rank_pattern\":{\"m.q.lora_E\":2}}",
          array_of("base_model.model.m.q.lora_E", file_e, 2, 1),
          "m.q.lora_E is no list of booleans" },
        { "\"init_r\":2,\"rank_pattern\":{\"m.q.lora_E\":[1,1]}}",
          array_of("base_model.model.m.q.lora_E", file_e, 2, 1),
          "m.q.lora_E is no list of booleans" },
        { "\"init_r\":2,\"use_beamlora\":true}",
          array_of("base_model.model.m.q.lora_E", file_e, 2, 1), "use_beamlora is set" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char     config[256];
        bl_peft *peft = NULL;
        make_folder();
        snprintf(config, sizeof config, ADALORA "%s", cases[i].rest);
        write_adapter("base_model.model.m.q.lora_A", "base_model.model.m.q.lora_B",
                      &cases[i].third, config);
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, cases[i].part);
        remove_folder();
    }
}
END_TEST

/* ----- the published BeamLoRA ----- */

#define PUBLISHED                                                                        \
    "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":6,\"use_beamlora\":true}"

static bl_peft *open_published(const bl_array *gate, const char *const *metadata)
{
    bl_array arrays[3] = {
        array_of("base_model.model.m.q.lora_A.weight", file_a, RANK, IN),
        array_of("base_model.model.m.q.lora_B.weight", file_b, OUT, RANK),
        *gate,
    };
    write_config(PUBLISHED);
    io_ok(
        bl_safetensors_write(path_to("adapter_model.safetensors"), arrays, 3, metadata));
    return open_folder();
}

/* r softmax(s / tau), by hand. */
static void importance_by_hand(double *g, double tau)
{
    double e0 = exp(file_scores[0] / tau), e1 = exp(file_scores[1] / tau);
    g[0] = 2 * e0 / (e0 + e1);
    g[1] = 2 * e1 / (e0 + e1);
}

START_TEST(published)
{
    static const double taus[] = { 0.05, 0.03 };
    bl_array gate = array_of("base_model.model.m.q.lora_gate", file_scores, 1, RANK);
    for (int i = 0; i < 2; i++) {
        double          g[RANK], got[5], want[OUT * IN];
        bl_peft_options opt;
        io_ok(bl_peft_options_init(&opt, sizeof opt));
        opt.temperature = i == 0 ? 0 : taus[i];
        make_folder();
        bl_peft *peft = open_published(&gate, NULL);
        ck_assert_int_eq(bl_peft_get_method(peft), BL_METHOD_BEAMLORA);
        ck_assert(bl_peft_get_temperature(peft) == 0);
        importance_by_hand(g, taus[i]);
        product_by_hand(want, (const double[]){ 3 * g[0], 3 * g[1] });

        /* scores exactly, A exactly where c is the file's */
        bl_group   *group = make_group(BL_METHOD_BEAMLORA, RANK, 6, taus[i]);
        bl_adapter *adapter = bl_group_get_adapter(group, 0);
        io_ok(bl_peft_load(peft, group, &opt));
        double *s = view_doubles(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
        double *a = view_doubles(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        ck_assert(memcmp(s, file_scores, sizeof file_scores) == 0);
        ck_assert(memcmp(a, file_a, sizeof file_a) == 0);
        free(s);
        free(a);
        check_ok(bl_adapter_copy_importance(adapter, got));
        check_le(error_of(got, g, RANK), 1e-12);
        check_product(group, want);
        bl_group_free(group);

        /* more ranks, another c: the same g, 1 for the new ones, the same product */
        group = make_group(BL_METHOD_BEAMLORA, 5, 2, taus[i]);
        adapter = bl_group_get_adapter(group, 0);
        io_ok(bl_peft_load(peft, group, &opt));
        check_ok(bl_adapter_copy_importance(adapter, got));
        check_le(error_of(got, g, RANK), 1e-12);
        for (int k = RANK; k < 5; k++) {
            check_near(got[k], 1, 1e-12);
        }
        s = view_doubles(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);
        ck_assert(memcmp(s, file_scores, sizeof file_scores) == 0);
        free(s);
        check_product(group, want);
        bl_group_free(group);

        /* no scores: g goes into A */
        group = make_group(BL_METHOD_LORA, 3, 2, 0);
        io_ok(bl_peft_load(peft, group, &opt));
        check_product(group, want);
        bl_group_free(group);

        group = make_group(BL_METHOD_BEAMLORA, RANK, 6, 0.25);
        io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS,
                 i == 0 ? "temperature is 0.25 in the group, 0.05 of the file's scores"
                        : "temperature is 0.25 in the group, 0.03 of the file's scores");
        bl_group_free(group);
        bl_peft_close(peft);
        remove_folder();
    }
}
END_TEST

START_TEST(published_temperature)
{
    static const char *const note[] = { "beamlora_temperature", "0.25", NULL };
    static const char *const bad[][3] = { { "beamlora_temperature", "0", NULL },
                                          { "beamlora_temperature", "x", NULL },
                                          { "beamlora_temperature", "-1.0", NULL } };
    bl_array        gate = array_of("base_model.model.m.q.lora_gate", file_scores, 1, 2);
    bl_peft_options opt;
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    make_folder();
    bl_peft *peft = open_published(&gate, note);
    ck_assert(bl_peft_get_temperature(peft) == 0.25);
    bl_group *group = make_group(BL_METHOD_BEAMLORA, 2, 6, 0.25);
    io_ok(bl_peft_load(peft, group, &opt));
    opt.temperature = 0.25;
    io_ok(bl_peft_load(peft, group, &opt));
    opt.temperature = 0.05;
    io_fails(bl_peft_load(peft, group, &opt), BL_E_OPTIONS,
             "temperature is 0.05, the file's is 0.25");
    bl_group_free(group);
    bl_peft_close(peft);
    for (int i = 0; i < 3; i++) {
        bl_array arrays[] = {
            array_of("base_model.model.m.q.lora_A.weight", file_a, RANK, IN),
            array_of("base_model.model.m.q.lora_B.weight", file_b, OUT, RANK),
            gate,
        };
        io_ok(bl_safetensors_write(path_to("adapter_model.safetensors"), arrays, 3,
                                   bad[i]));
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, "beamlora_temperature is");
    }
    remove_folder();
}
END_TEST

START_TEST(published_refused)
{
    static const double bad[] = { 0, (double) NAN };
    const struct {
        bl_array    gate;
        const char *part;
    } cases[] = {
        { array_of("base_model.model.m.q.lora_gate", file_a, 1, 3),
          "lora_gate is [1, 3], must be [1, 2]" },
        { array_of("base_model.model.m.q.lora_gate", file_a, 2, 1),
          "lora_gate is [2, 1], must be [1, 2]" },
        { array_of("base_model.model.m.q.lora_gate", file_a, 2, 0), "has 1 dimensions" },
        { array_of("base_model.model.m.k.lora_gate", file_a, 1, 2),
          "has no partner lora_A" },
        { array_of("m.q.lora_gate", file_a, 1, 2), "m.q.lora_gate is no" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_peft *peft = NULL;
        make_folder();
        write_adapter("base_model.model.m.q.lora_A.weight",
                      "base_model.model.m.q.lora_B.weight", &cases[i].gate, PUBLISHED);
        io_fails(bl_peft_open(&peft, folder), BL_E_FORMAT, cases[i].part);
        remove_folder();
    }
    bl_array gate = array_of("base_model.model.m.q.lora_gate", bad, 1, 2);
    make_folder();
    bl_peft  *peft = open_published(&gate, NULL);
    bl_group *group = make_group(BL_METHOD_BEAMLORA, 2, 6, 0.05);
    bytes     before = save_group(group);
    io_fails(bl_peft_load(peft, group, NULL), BL_E_NONFINITE, "lora_gate holds a value");
    bytes after = save_group(group);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&before);
    bytes_free(&after);
    bl_group_free(group);
    bl_peft_close(peft);
    remove_folder();
}
END_TEST

/* ----- writing the published form ----- */

enum { MODULES = 3 };

static bl_group *make_trained(int32_t scaling, int32_t dtype)
{
    static const char *const names[MODULES] = { "model.layers.0.self_attn.q_proj",
                                                "model.layers.0.mlp.up_proj",
                                                "model.layers.1.self_attn.q_proj" };
    static const int64_t shape[MODULES][3] = { { 6, 4, 3 }, { 5, 7, 2 }, { 9, 2, 3 } };

    bl_options opt = default_options(dtype);
    bl_spec    specs[MODULES];
    bl_group  *group = NULL;
    opt.alpha = 6;
    opt.scaling = scaling;
    opt.dropout = 0.125;
    opt.temperature = 0.1;
    for (int k = 0; k < MODULES; k++) {
        specs[k] = make_spec(shape[k][0], shape[k][1], shape[k][2]);
        specs[k].name = names[k];
        specs[k].alpha = k == 2 ? 4.5 : 0;
    }
    check_ok(bl_group_create(&group, specs, MODULES, &opt));
    for (int k = 0; k < MODULES; k++) {
        randomize(bl_group_get_adapter(group, k), 10 + (uint64_t) k);
    }
    return group;
}

/* Saved and loaded into an equal group: every bit of A, B and the scores comes back. */
START_TEST(publish_round_trip)
{
    static const int64_t        four[] = { 2, 0, 3, 1 }, two[] = { 1, 0 };
    static const int64_t *const orders[MODULES] = { four, NULL, two };
    bl_peft_options             opt;
    int32_t                     scaling = _i & 1;
    int32_t                     dtype = _i & 2 ? BL_F64 : BL_F32;
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.row_order = _i & 4 ? orders : NULL;
    opt.dtype = dtype;
    make_folder();
    bl_group *group = make_trained(scaling, dtype);
    io_ok(bl_published_save(group, path_to("p"), &opt));
    bl_peft *peft = NULL;
    io_ok(bl_peft_open(&peft, path_to("p")));
    ck_assert_int_eq(bl_peft_get_count(peft), MODULES);
    ck_assert(bl_peft_get_temperature(peft) == bl_group_get_temperature(group));
    bl_group *other = make_trained(scaling, dtype);
    for (int k = 0; k < MODULES; k++) {
        randomize(bl_group_get_adapter(other, k), 70);
    }
    io_ok(bl_peft_load(peft, other, &opt));
    for (int k = 0; k < MODULES; k++) {
        for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
            bl_adapter *x = bl_group_get_adapter(group, k);
            bl_view     view = view_of(x, tensor, BL_BUFFER_PARAMETERS);
            double     *want = view_doubles(x, tensor, BL_BUFFER_PARAMETERS);
            double     *got = view_doubles(bl_group_get_adapter(other, k), tensor,
                                           BL_BUFFER_PARAMETERS);
            check_le(error_of(got, want, view.rows * view.cols),
                     scaling == BL_SCALING_RSLORA ? 1e-7 : 0);
            free(want);
            free(got);
        }
    }
    bl_peft_close(peft);
    bl_group_free(group);
    bl_group_free(other);
    remove_folder();
}
END_TEST

START_TEST(publish_contents)
{
    static const char *const want =
        "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"base_model_name_or_path\":"
        "null,\"revision\":null,\"inference_mode\":true,\"r\":3,\"lora_alpha\":6,"
        "\"lora_dropout\":0.125,\"target_modules\":[\"q_proj\",\"up_proj\"],"
        "\"bias\":\"none\",\"fan_in_fan_out\":false,\"init_lora_weights\":true,"
        "\"use_rslora\":false,\"use_dora\":false,\"use_beamlora\":true,"
        "\"modules_to_save\":null,\"rank_pattern\":{\"model.layers.0.mlp.up_proj\":2},"
        "\"alpha_pattern\":{\"model.layers.1.self_attn.q_proj\":4.5},"
        "\"layers_to_transform\":null,\"layers_pattern\":null}";
    bl_tensor_info info;
    make_folder();
    bl_group *group = make_trained(BL_SCALING_STANDARD, BL_F32);
    io_ok(bl_published_save(group, path_to("p"), NULL));
    json_t *config = json_load_file(path_to("p/adapter_config.json"), 0, NULL);
    json_t *expected = json_loads(want, 0, NULL);
    ck_assert(config != NULL && expected != NULL);
    ck_assert(json_equal(config, expected));
    json_decref(config);
    json_decref(expected);

    bl_safetensors *file = NULL;
    io_ok(bl_safetensors_open(&file, path_to("p/adapter_model.safetensors")));
    ck_assert_int_eq(bl_safetensors_get_count(file), 3 * MODULES);
    ck_assert_str_eq(bl_safetensors_get_metadata(file, "format"), "pt");
    int64_t gate = bl_safetensors_find(
        file, "base_model.model.model.layers.0.mlp.up_proj.lora_gate");
    int64_t b = bl_safetensors_find(
        file, "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight");
    ck_assert(gate >= 0 && b >= 0);
    io_ok(bl_safetensors_get_tensor(file, gate, &info));
    ck_assert(info.dims == 2 && info.shape[0] == 1 && info.shape[1] == 2);
    io_ok(bl_safetensors_get_tensor(file, b, &info));
    ck_assert(info.dims == 2 && info.shape[0] == 7 && info.shape[1] == 2);
    bl_safetensors_close(file);
    bl_group_free(group);
    remove_folder();
}
END_TEST

START_TEST(publish_refuses)
{
    static const uint8_t mask[] = { 1, 0, 1 };
    bl_peft_options      opt;
    bl_view              view;
    make_folder();
    bl_group *group = make_group(BL_METHOD_LORA, 2, 6, 0);
    io_fails(bl_published_save(group, path_to("p"), NULL), BL_E_STATE, "has no scores");
    bl_group_free(group);
    group = make_trained(BL_SCALING_STANDARD, BL_F32);
    io_ok(bl_peft_options_init(&opt, sizeof opt));
    opt.rank = 8;
    io_fails(bl_published_save(group, path_to("p"), &opt), BL_E_OPTIONS,
             "rank is 8, must be 0");
    io_fails(bl_published_save(NULL, path_to("p"), NULL), BL_E_ARG, "group is NULL");
    io_fails(bl_published_save(group, NULL, NULL), BL_E_ARG, "dir is NULL");
    check_ok(bl_adapter_set_mask(bl_group_get_adapter(group, 0), mask));
    io_fails(bl_published_save(group, path_to("p"), NULL), BL_E_STATE,
             "rank 1 has importance 0");
    check_ok(bl_adapter_set_mask(bl_group_get_adapter(group, 0), NULL));
    check_ok(bl_adapter_get_view(bl_group_get_adapter(group, 1), BL_TENSOR_SCORES,
                                 BL_BUFFER_PARAMETERS, &view));
    ((float *) view.data)[1] = NAN;
    check_ok(bl_group_touch(group));
    io_fails(bl_published_save(group, path_to("p"), NULL), BL_E_NONFINITE,
             "up_proj.lora_gate: a value is not finite");
    ck_assert_int_ne(access(path_to("p"), F_OK), 0);
    bl_group_free(group);
    remove_folder();
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("peft_kinds");
    TCase *names_case = tcase_create("names");
    tcase_add_test(names_case, spellings);
    tcase_add_test(names_case, bare_file);
    tcase_add_test(names_case, names_refused);
    suite_add_tcase(suite, names_case);
    TCase *adalora_case = tcase_create("adalora");
    tcase_add_test(adalora_case, adalora);
    tcase_add_test(adalora_case, adalora_rank_0);
    tcase_add_test(adalora_case, adalora_refused);
    suite_add_tcase(suite, adalora_case);
    TCase *published_case = tcase_create("published");
    tcase_add_test(published_case, published);
    tcase_add_test(published_case, published_temperature);
    tcase_add_test(published_case, published_refused);
    tcase_add_loop_test(published_case, publish_round_trip, 0, 8);
    tcase_add_test(published_case, publish_contents);
    tcase_add_test(published_case, publish_refuses);
    suite_add_tcase(suite, published_case);
    return suite;
}
