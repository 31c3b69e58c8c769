/* Beginning a training with an adapter on disk: the same function, c and scores as there,
 * ranks added, and flags that contradict it refused with both values. */
#define _POSIX_C_SOURCE 200809L

#include "adapters/adapters.h"
#include "tiny_hf.h"

enum { RANK = 3 };

static const double alpha = 6; /* c is 2 */

/* A model in the folder, and adapters for it with random values. */
struct fixture {
    struct llama         *model;
    struct llama_adapters made;
};

static struct fixture make(int32_t method, const char *targets)
{
    struct fixture f;
    bl_options     options = default_options(BL_F32);

    set_up();
    write_model(&small, all_f32);
    f.model = load(folder);
    options.method = method;
    options.rank = RANK;
    options.alpha = alpha;
    options.temperature = 0.05;
    ck_assert_int_eq(
        adapters_create(&f.made, f.model, targets, &options, error, sizeof error), 0);
    for (int64_t i = 0; i < bl_group_get_count(f.made.group); i++) {
        randomize(bl_group_get_adapter(f.made.group, i), (uint64_t) i);
    }
    return f;
}

static void release(struct fixture *f)
{
    adapters_free(&f->made);
    llama_free(f->model);
    tear_down();
}

static bl_options training(int32_t method)
{
    bl_options options = default_options(BL_F32);

    options.method = method;
    options.reallocation = method == BL_METHOD_BEAMLORA;
    return options;
}

/* The weight that an adapter adds, packed. */
static double *delta_of(bl_adapter *adapter)
{
    int64_t in = bl_adapter_get_in(adapter), out = bl_adapter_get_out(adapter);
    mat     w = mat_new(BL_F32, out, in, in);
    double *delta;

    mat_zero(&w);
    check_ok(bl_adapter_merge(adapter, w.data, in));
    delta = mat_doubles(&w);
    mat_free(&w);
    return delta;
}

/* Both add the same, with this rank, c and name in every adapter. */
static void check_start(const struct llama_adapters *got,
                        const struct llama_adapters *want, int64_t rank, double c)
{
    int64_t count = bl_group_get_count(want->group);

    ck_assert_int_eq(bl_group_get_count(got->group), count);
    for (int64_t i = 0; i < count; i++) {
        bl_adapter *x = bl_group_get_adapter(got->group, i);
        bl_adapter *y = bl_group_get_adapter(want->group, i);
        double     *a = delta_of(x), *b = delta_of(y);

        ck_assert_str_eq(bl_adapter_get_name(x), bl_adapter_get_name(y));
        ck_assert_int_eq(bl_adapter_get_rank(x), rank);
        check_near(bl_adapter_get_scaling(x), c, 1e-12);
        check_le(error_of(a, b, bl_adapter_get_in(x) * bl_adapter_get_out(x)), 2e-6);
        free(a);
        free(b);
    }
}

static void start_ok(struct llama_adapters *out, const struct fixture *f,
                     struct adapter_start *start, bl_options *options)
{
    int status = adapters_start(out, f->model, start, options, error, sizeof error);

    ck_assert_msg(status == 0, "%s", error);
}

static void start_refused(const struct fixture *f, struct adapter_start start,
                          int32_t method, const char *part)
{
    bl_options            options = training(method);
    struct llama_adapters out;

    ck_assert_int_eq(
        adapters_start(&out, f->model, &start, &options, error, sizeof error), -1);
    ck_assert_msg(strstr(error, part) != NULL, "\"%s\" lacks \"%s\"", error, part);
}

/* A folded adapter, plain, with more rank, by every method. */
START_TEST(folded)
{
    struct fixture f = make(BL_METHOD_BEAMLORA, "q_proj,k_proj,down_proj");

    ck_assert_int_eq(
        adapters_save(&f.made, f.model, NULL, path_to("a"), error, sizeof error), 0);
    for (int i = 0; i < 6; i++) {
        struct adapter_start start = { .source = { path_to("a"), 0, 0 } };
        bl_options options = training(i % 3 == 2 ? BL_METHOD_BEAMLORA : BL_METHOD_LORA);
        struct llama_adapters out;
        int64_t               rank = i < 3 ? RANK : 8;

        start.rank = i < 3 ? 0 : rank;
        options.scaling = i % 3 == 1 ? BL_SCALING_RSLORA : BL_SCALING_STANDARD;
        start_ok(&out, &f, &start, &options);
        check_start(&out, &f.made, rank, 1); /* folding leaves c = 1 */
        ck_assert_int_eq(start.assumed, 0);
        ck_assert_int_eq(options.rank, rank);
        check_near(options.alpha, i % 3 == 1 ? sqrt((double) rank) : (double) rank,
                   1e-12);
        adapters_free(&out);
    }
    release(&f);
}
END_TEST

START_TEST(published)
{
    struct fixture f = make(BL_METHOD_BEAMLORA, NULL);

    ck_assert_int_eq(bl_published_save(f.made.group, path_to("p"), NULL), 0);
    for (int i = 0; i < 4; i++) {
        struct adapter_start  start = { .source = { path_to("p"), 0, 0 } };
        int32_t               method = i & 1 ? BL_METHOD_LORA : BL_METHOD_BEAMLORA;
        bl_options            options = training(method);
        struct llama_adapters out;

        options.lr = 1e-5; /* which alone would make the temperature 0.03 */
        start.rank = i & 2 ? 5 : 0;
        start_ok(&out, &f, &start, &options);
        check_start(&out, &f.made, i & 2 ? 5 : RANK, 2);
        ck_assert_int_eq(start.assumed, 0); /* it is noted in what we write */
        if (method == BL_METHOD_BEAMLORA) {
            double *s = view_doubles(bl_group_get_adapter(out.group, 0), BL_TENSOR_SCORES,
                                     BL_BUFFER_PARAMETERS);
            double *t = view_doubles(bl_group_get_adapter(f.made.group, 0),
                                     BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS);

            ck_assert(memcmp(s, t, RANK * sizeof *s) == 0);
            ck_assert(bl_group_get_temperature(out.group) == 0.05);
            free(s);
            free(t);
        }
        adapters_free(&out);
    }
    start_refused(&f, (struct adapter_start){ .source = { path_to("p"), 0, 0.03 } },
                  BL_METHOD_BEAMLORA, "temperature is 0.03, the file's is 0.05");
    release(&f);
}
END_TEST

/* Without the note, as the published code writes it. */
START_TEST(temperature)
{
    struct fixture  f = make(BL_METHOD_BEAMLORA, "v_proj");
    char            model[512];
    bl_safetensors *file;
    bl_array        arrays[6];

    ck_assert_int_eq(bl_published_save(f.made.group, path_to("p"), NULL), 0);
    snprintf(model, sizeof model, "%s/adapter_model.safetensors", path_to("p"));
    ck_assert_int_eq(bl_safetensors_open(&file, model), 0);
    ck_assert_int_eq(bl_safetensors_get_count(file), 6);
    for (int i = 0; i < 6; i++) {
        bl_tensor_info info;

        memset(&arrays[i], 0, sizeof arrays[i]);
        ck_assert_int_eq(bl_safetensors_get_tensor(file, i, &info), 0);
        snprintf(arrays[i].name, sizeof arrays[i].name, "%s", info.name);
        arrays[i].data = info.data;
        arrays[i].dims = 2;
        arrays[i].shape[0] = info.shape[0];
        arrays[i].shape[1] = info.shape[1];
    }
    ck_assert_int_eq(bl_safetensors_write(model, arrays, 6, NULL), 0);
    bl_safetensors_close(file);
    for (int i = 0; i < 2; i++) {
        struct adapter_start  start = { .source = { path_to("p"), 0, i ? 0.05 : 0 } };
        bl_options            options = training(BL_METHOD_BEAMLORA);
        struct llama_adapters out;

        options.lr = 1e-5;
        start_ok(&out, &f, &start, &options);
        check_start(&out, &f.made, RANK, 2);
        ck_assert_int_eq(start.assumed, !i);
        ck_assert(options.temperature == 0.05);
        adapters_free(&out);
    }
    release(&f);
}
END_TEST

/* A file without a configuration: alpha is told. */
START_TEST(bare)
{
    struct fixture f = make(BL_METHOD_LORA, "q_proj");
    char           path[512];

    ck_assert_int_eq(
        adapters_save(&f.made, f.model, NULL, path_to("a"), error, sizeof error), 0);
    snprintf(path, sizeof path, "%s/adapter_config.json", path_to("a"));
    ck_assert_int_eq(unlink(path), 0);
    start_refused(&f, (struct adapter_start){ .source = { path_to("a"), 0, 0 } },
                  BL_METHOD_LORA, "--alpha must say its lora_alpha");
    for (int i = 0; i < 2; i++) {
        struct adapter_start  start = { .source = { path_to("a"), RANK, 0 } };
        bl_options            options = training(BL_METHOD_BEAMLORA);
        struct llama_adapters out;

        start.rank = i ? 6 : 0;
        start_ok(&out, &f, &start, &options);
        check_start(&out, &f.made, i ? 6 : RANK, 1);
        adapters_free(&out);
    }
    release(&f);
}
END_TEST

START_TEST(contradictions)
{
    struct fixture f = make(BL_METHOD_BEAMLORA, "q_proj,v_proj");
    static const struct {
        const char *targets;
        int64_t     rank;
        double      alpha;
        const char *part;
    } cases[] = {
        { "q_proj", 0, 0, "is for q_proj,v_proj" },
        { "q_proj,v_proj,o_proj", 0, 0, "--targets q_proj,v_proj,o_proj: the adapter" },
        { NULL, 2, 0, "--rank 2: the adapter" },
        { NULL, 2, 0, "has rank 3 in model.layers.0.self_attn.q_proj" },
        { NULL, 0, 16, "--alpha 16: with rank 3 the adapter" },
        { NULL, 8, 6, "has alpha 16 in model.layers.0.self_attn.q_proj" },
    };
    struct adapter_start  fits = { .targets = "v_proj,q_proj", .rank = 8 };
    bl_options            options = training(BL_METHOD_BEAMLORA);
    struct llama_adapters out;

    ck_assert_int_eq(bl_published_save(f.made.group, path_to("p"), NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct adapter_start start = { .source = { path_to("p"), cases[i].alpha, 0 },
                                       .targets = cases[i].targets,
                                       .rank = cases[i].rank };

        start_refused(&f, start, BL_METHOD_BEAMLORA, cases[i].part);
    }
    fits.source.path = path_to("p");
    fits.source.alpha = 16;
    start_ok(&out, &f, &fits, &options);
    check_start(&out, &f.made, 8, 2);
    adapters_free(&out);
    start_refused(&f, (struct adapter_start){ .source = { path_to("none"), 0, 0 } },
                  BL_METHOD_LORA, "none");
    release(&f);
}
END_TEST

/* For evaluation: scores become a part of A; a temperature without scores is refused. */
START_TEST(loaded)
{
    struct fixture        f = make(BL_METHOD_BEAMLORA, "q_proj,v_proj");
    struct adapter_source source = { path_to("p"), 0, 0.05 };
    struct llama_adapters out;

    ck_assert_int_eq(bl_published_save(f.made.group, path_to("p"), NULL), 0);
    ck_assert_msg(adapters_load(&out, f.model, &source, error, sizeof error) == 0, "%s",
                  error);
    check_start(&out, &f.made, RANK, 1);
    adapters_free(&out);
    ck_assert_int_eq(
        adapters_save(&f.made, f.model, NULL, path_to("a"), error, sizeof error), 0);
    source.path = path_to("a");
    ck_assert_int_eq(adapters_load(&out, f.model, &source, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "has no scores"));
    release(&f);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("adapters_start");
    TCase *tcase = tcase_create("start");

    tcase_add_test(tcase, folded);
    tcase_add_test(tcase, published);
    tcase_add_test(tcase, temperature);
    tcase_add_test(tcase, bare);
    tcase_add_test(tcase, contradictions);
    tcase_add_test(tcase, loaded);
    suite_add_tcase(suite, tcase);
    return suite;
}
