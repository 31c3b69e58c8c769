/* Merged models: every tensor of every shard is the base's, or that plus B A, in the base's
 * own type and under the base's own names; rounding to 16 bits. */
#include "tiny_hf.h"

#include "adapters/adapters.h"
#include "adapters/export.h"
#include "model/round.h"

/* A model of the folder with random adapters on all projections. */
static struct export make_job(const char *out, int32_t dtype)
{
    struct export job = { .out = out, .dtype = dtype };
    bl_options options;

    bl_options_init(&options, sizeof options);
    options.optimizer = BL_OPTIMIZER_HOST;
    options.reallocation = 0;
    options.rank = 2;
    job.from.model = load(folder);
    job.from.model_path = folder;
    ck_assert_msg(adapters_create(&job.from.adapters, job.from.model, NULL, &options,
                                  error, sizeof error) == 0,
                  "%s", error);
    for (int64_t i = 0; i < bl_group_get_count(job.from.adapters.group); i++) {
        randomize(bl_group_get_adapter(job.from.adapters.group, i), 60 + (uint64_t) i);
    }
    return job;
}

static void free_job(struct export *job)
{
    adapters_free(&job->from.adapters);
    llama_free(job->from.model);
}

/* The value of the merged weight in double, before rounding. */
static double merged_value(const struct export *job, int64_t index, int64_t i, int64_t j,
                           int64_t columns)
{
    struct weight weight = llama_get_weight(job->from.model, index);
    int64_t       part = (index - 2) % LLAMA_LAYER_TENSORS - 2, slot;
    float        *scratch = must_alloc(columns, sizeof *scratch);
    double        sum = (double) weight_rows(&weight, i, 1, columns, scratch)[j];

    free(scratch);
    slot = (index - 2) / LLAMA_LAYER_TENSORS * LLAMA_PROJECTIONS + part;
    if (index >= 2 && part >= 0 &&
        slot < job->from.model->config.layers * LLAMA_PROJECTIONS) {
        bl_adapter *adapter = job->from.adapters.at[slot];
        bl_view     a = view_of(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        bl_view     b = view_of(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS);
        double      g[2];

        check_ok(bl_adapter_copy_importance(adapter, g));
        for (int64_t p = 0; p < a.rows; p++) {
            sum += bl_adapter_get_scaling(adapter) * g[p] *
                   get_value(a.data, a.dtype, p * a.ld + j) *
                   get_value(b.data, b.dtype, p * b.ld + i);
        }
    }
    return sum;
}

/* The model in `path` is the merged one, to `limit` of every value and above 0. */
static void check_merged(const struct export *job, const char *path, int32_t dtype,
                         double limit)
{
    struct llama *merged = load(path);

    for (int64_t t = 0; t < llama_tensor_count(&merged->config); t++) {
        struct llama_tensor tensor;
        struct weight       weight = llama_get_weight(merged, t);
        int64_t             columns;

        llama_get_tensor(&merged->config, t, &tensor);
        columns = tensor.shape[tensor.dims - 1];
        ck_assert_int_eq(weight.dtype, tensor.dims == 1 ? BL_F32 /* when loaded */
                                       : dtype >= 0
                                           ? dtype
                                           : llama_get_weight(job->from.model, t).dtype);
        for (int64_t i = 0; i < (tensor.dims == 1 ? 1 : tensor.shape[0]); i++) {
            float       *scratch = must_alloc(columns, sizeof *scratch);
            const float *row = weight_rows(&weight, i, 1, columns, scratch);

            for (int64_t j = 0; j < columns; j++) {
                double want = merged_value(job, t, i, j, columns);

                check_near((double) row[j], want, limit * (fabs(want) + 1));
            }
            free(scratch);
        }
    }
    llama_free(merged);
}

static void check_same_file(const char *name)
{
    char  *left, *right, path[300];
    size_t left_size, right_size;

    left = read_bytes(name, &left_size);
    snprintf(path, sizeof path, "merged/%.200s", name);
    right = read_bytes(path, &right_size);
    ck_assert_msg(left_size == right_size && memcmp(left, right, left_size) == 0, "%s",
                  name);
    free(left);
    free(right);
}

START_TEST(shards_keep_their_names)
{
    static const int each[] = { 1, 5, 30 };
    char             out[256];
    json_t          *index = write_shards(&own_head, each[_i]), *name;
    const char      *tensor;
    struct export job;

    snprintf(out, sizeof out, "%s/merged", folder);
    write_bytes("tokenizer.json", "{\"x\" :1}", 8);
    write_bytes("tokenizer.json.tmp", "{", 1);
    job = make_job(out, -1);
    ck_assert_msg(export_merged(&job, error, sizeof error) == 0, "%s", error);
    check_merged(&job, out, -1, 1e-6);
    check_same_file("model.safetensors.index.json");
    check_same_file("config.json");
    check_same_file("tokenizer.json");
    ck_assert_int_eq(access(path_to("merged/tokenizer.json.tmp"), F_OK), -1);
    json_object_foreach(json_object_get(index, "weight_map"), tensor, name)
    {
        char            path[600];
        bl_safetensors *file;

        snprintf(path, sizeof path, "%s/%s", out, json_string_value(name));
        ck_assert_int_eq(bl_safetensors_open(&file, path), 0);
        ck_assert_int_ge(bl_safetensors_find(file, tensor), 0);
        bl_safetensors_close(file);
    }
    json_decref(index);
    free_job(&job);
}
END_TEST

START_TEST(every_type)
{
    static const int32_t mixed[] = { BL_F16, BL_F32, BL_BF16, BL_F16, -1 };
    static const int32_t dtypes[] = { -1, BL_F32, BL_F16, BL_BF16 };
    static const double  limits[] = { 0x1p-8, 1e-6, 0x1p-10, 0x1p-8 };
    char                 out[256];
    struct export job;

    write_model(&small, mixed);
    snprintf(out, sizeof out, "%s/merged", folder);
    job = make_job(out, dtypes[_i]);
    ck_assert_msg(export_merged(&job, error, sizeof error) == 0, "%s", error);
    check_merged(&job, out, dtypes[_i], limits[_i]);
    free_job(&job);
}
END_TEST

START_TEST(what_cannot_be_written_is_named)
{
    char out[256];
    struct export job;
    bl_view b;

    write_model(&small, all_f32);
    snprintf(out, sizeof out, "%s/merged", folder);
    job = make_job(out, BL_F16);
    b = view_of(job.from.adapters.at[LLAMA_V], BL_TENSOR_B, BL_BUFFER_PARAMETERS);
    set_value(b.data, b.dtype, 0, 1e7);
    ck_assert_int_eq(export_merged(&job, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "model.layers.0.self_attn.v_proj.weight: "));
    ck_assert_ptr_nonnull(strstr(error, "is too large for F16"));
    ck_assert_int_eq(access(path_to("merged/config.json"), F_OK), -1);
    job.dtype = -1;
    set_value(b.data, b.dtype, 0, (double) NAN);
    ck_assert_int_eq(export_merged(&job, error, sizeof error), -1);
    ck_assert_ptr_nonnull(
        strstr(error, "self_attn.v_proj.weight: nan cannot be written"));
    ck_assert_int_eq(access(path_to("merged/model.safetensors"), F_OK), -1);
    free_job(&job);
}
END_TEST

/* A half's value, and the one that is nearest to a float among all of them. */
static double half_value(uint16_t bits)
{
    int    exponent = bits >> 10 & 31;
    double size = exponent == 0 ? ldexp(bits & 1023, -24)
                                : ldexp(1024 + (bits & 1023), exponent - 25);
    return bits & 0x8000 ? -size : size;
}

START_TEST(halves_are_the_nearest_with_ties_to_even)
{
    for (uint16_t bits = 0; bits < 0x7c00; bits++) {
        double at = half_value(bits);
        double next = bits == 0x7bff ? 65536 : half_value((uint16_t) (bits + 1));
        float  middle = (float) ((at + next) / 2); /* exact */

        ck_assert_uint_eq(round_to_half((float) at), bits);
        ck_assert_uint_eq(round_to_half((float) -at), bits | 0x8000);
        ck_assert_uint_eq(round_to_half(middle), bits % 2 == 0 ? bits : bits + 1);
        ck_assert_uint_eq(round_to_half(nextafterf(middle, 0)), bits);
        ck_assert_uint_eq(round_to_half(nextafterf(middle, INFINITY)), bits + 1);
    }
    ck_assert_uint_eq(round_to_half(INFINITY), 0x7c00);
    ck_assert_uint_eq(round_to_half(-INFINITY), 0xfc00);
    ck_assert_uint_eq(round_to_half(1e30f), 0x7c00);
    ck_assert_uint_eq(round_to_half(NAN) & 0x7fff, 0x7e00);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("export");
    TCase *tcase = tcase_create("export");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, shards_keep_their_names, 0, 3);
    tcase_add_loop_test(tcase, every_type, 0, 4);
    tcase_add_test(tcase, what_cannot_be_written_is_named);
    tcase_add_test(tcase, halves_are_the_nearest_with_ties_to_even);
    suite_add_tcase(suite, tcase);
    return suite;
}
