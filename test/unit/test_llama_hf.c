/*
 * Hugging Face Llama directories: the same weights as a llama2.c file and as a directory
 * are the same model, in every dtype, alignment and number of files; what is written is
 * read back.
 */
#define _POSIX_C_SOURCE 200809L

#include "tiny_hf.h"

#include "adapters/adapters.h"
#include "model/llama.h"

/* ===== Comparing ========================================================== */

enum { LENGTH = 9 };

/* Logits of a fixed window, [LENGTH, vocab], to be freed. */
static float *logits_of(const struct llama *model, const struct llama_adapters *adapters)
{
    struct llama_pass *pass;
    int32_t            ids[LENGTH], targets[LENGTH];
    double             sum;
    int64_t            predicted, count = LENGTH * model->config.vocab;
    float             *logits = must_alloc(count, sizeof *logits);

    for (int i = 0; i < LENGTH; i++) {
        ids[i] = (int32_t) (i * 7 % model->config.vocab);
        targets[i] = 0;
    }
    ck_assert_msg(llama_pass_create(&pass, model, adapters, 1, LENGTH, LLAMA_LOGITS,
                                    error, sizeof error) == 0,
                  "%s", error);
    ck_assert_int_eq(llama_forward(pass, 1, LENGTH, ids, targets, BL_NO_DROPOUT, &sum,
                                   &predicted, error, sizeof error),
                     0);
    memcpy(logits, llama_pass_logits(pass), (size_t) count * sizeof *logits);
    llama_pass_free(pass);
    return logits;
}

static void check_same(const float *got, const float *want, int64_t count)
{
    double worst = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        double e = fabs((double) got[i] - want[i]);
        worst = !(e <= worst) ? e : worst;
        size = fabs(want[i]) > size ? fabs(want[i]) : size;
    }
    ck_assert(size > 0.1);
    check_le(worst, 2e-5 * size);
}

static void check_logits(const struct llama *model, const float *want)
{
    float *got = logits_of(model, NULL);
    check_same(got, want, LENGTH * model->config.vocab);
    free(got);
}

/* The same from one token at a time. */
static void check_decoding(const struct llama *model, const float *want)
{
    struct llama_decoder *decoder;

    ck_assert_int_eq(
        llama_decoder_create(&decoder, model, NULL, LENGTH, error, sizeof error), 0);
    for (int i = 0; i < LENGTH; i++) {
        const float *got = llama_decode(decoder, (int32_t) (i * 7 % model->config.vocab));
        ck_assert_ptr_nonnull(got);
        check_same(got, want + i * model->config.vocab, model->config.vocab);
    }
    llama_decoder_free(decoder);
}

/* ===== Loading ============================================================ */

START_TEST(a_directory_is_the_same_model_as_a_llama2_c_file)
{
    const struct shape *shapes[] = { &small, &own_head };
    for (int i = 0; i < 2; i++) {
        struct llama *bin, *hf;
        float        *want;

        write_bin("model.bin", shapes[i]);
        write_model(shapes[i], all_f32);
        bin = load(path_to("model.bin"));
        hf = load(folder);
        ck_assert_int_eq(bin->config.interleaved, 1);
        ck_assert_int_eq(hf->config.interleaved, 0);
        ck_assert_int_eq(hf->config.tied, shapes[i]->tied);
        ck_assert_int_eq(hf->head.data == hf->embedding.data, shapes[i]->tied);
        want = logits_of(bin, NULL);
        check_logits(hf, want);
        free(want);
        llama_free(bin);
        llama_free(hf);
    }
}
END_TEST

/* The values are exact in each. wide has more rows than a block is converted of. */
START_TEST(every_dtype_alone_and_mixed_gives_the_same_logits)
{
    static const int32_t dtypes[][5] = {
        { BL_F16, -1 },
        { BL_BF16, -1 },
        { BL_F32, BL_BF16, -1 },
        { BL_F16, BL_F32, BL_BF16, BL_F16, -1 },
    };
    const struct shape *shapes[] = { &small, &own_head, &wide };

    for (int s = 0; s < 3; s++) {
        struct llama *model;
        float        *want;

        write_model(shapes[s], all_f32);
        model = load(folder);
        want = logits_of(model, NULL);
        llama_free(model);
        for (int i = 0; i < 4; i++) {
            write_model(shapes[s], dtypes[i]);
            model = load(folder);
            ck_assert_int_eq(model->embedding.dtype, dtypes[i][0]);
            check_logits(model, want);
            check_decoding(model, want);
            llama_free(model);
        }
        free(want);
    }
}
END_TEST

/* Other writers do not pad the header, so data may stand anywhere. */
START_TEST(data_need_not_be_aligned)
{
    static const int32_t dtypes[][3] = { { BL_F32, -1 }, { BL_F32, BL_F16, -1 } };

    for (int i = 0; i < 2; i++) {
        struct llama *model;
        float        *want;
        size_t        length;
        char         *data;

        write_model(&small, dtypes[i]);
        model = load(folder);
        want = logits_of(model, NULL);
        llama_free(model);
        data = read_bytes("model.safetensors", &length);
        for (uint64_t extra = 1; extra < 4; extra++) {
            uint64_t header;
            char    *moved = must_alloc((int64_t) (length + extra), 1);

            memcpy(&header, data, 8);
            memcpy(moved, data, 8 + header);
            memset(moved + 8 + header, ' ', extra);
            memcpy(moved + 8 + header + extra, data + 8 + header, length - 8 - header);
            header += extra;
            memcpy(moved, &header, 8);
            write_bytes("model.safetensors", moved, length + extra);
            free(moved);
            model = load(folder);
            ck_assert_uint_eq((uintptr_t) model->embedding.data % 4, extra);
            check_logits(model, want);
            llama_free(model);
        }
        free(data);
        free(want);
    }
}
END_TEST

START_TEST(shards_are_one_model)
{
    for (int each = 1; each < 30; each += 7) {
        struct llama *model;
        float        *want;

        write_model(&own_head, all_f32);
        model = load(folder);
        want = logits_of(model, NULL);
        llama_free(model);
        unlink(path_to("model.safetensors"));
        json_decref(write_shards(&own_head, each));
        model = load(folder);
        ck_assert_int_eq(model->file_count, (12 + each - 1) / each);
        check_logits(model, want);
        free(want);
        llama_free(model);
    }
}
END_TEST

START_TEST(the_model_stays_when_its_files_are_removed)
{
    struct llama *model;
    float        *want;

    write_model(&small, all_f32);
    model = load(folder);
    want = logits_of(model, NULL);
    unlink(path_to("model.safetensors"));
    unlink(path_to("config.json"));
    check_logits(model, want);
    free(want);
    llama_free(model);
}
END_TEST

/* ===== Weights as floats ================================================== */

START_TEST(every_half_and_bfloat_is_exact)
{
    enum { COUNT = 65536 };
    unsigned char *data = must_alloc(2 * COUNT + 1, 1);
    float         *got = must_alloc(COUNT, sizeof *got);

    for (uint32_t i = 0; i < COUNT; i++) { /* misaligned */
        uint16_t half = (uint16_t) i;
        memcpy(data + 1 + 2 * i, &half, 2);
    }
    for (int bfloat = 0; bfloat < 2; bfloat++) {
        struct weight weight = { data + 1, bfloat ? BL_BF16 : BL_F16 };
        int           digits = bfloat ? 7 : 10, bias = bfloat ? 127 : 15;
        int           most = bfloat ? 255 : 31;

        ck_assert_ptr_eq(weight_rows(&weight, 0, 256, 256, got), got);
        for (int i = 0; i < COUNT; i++) {
            int    exponent = i >> digits & most, fraction = i & ((1 << digits) - 1);
            double want = exponent == 0
                              ? ldexp(fraction, 1 - bias - digits)
                              : ldexp(fraction + (1 << digits), exponent - bias - digits);
            int    negative = i >> 15;

            ck_assert_int_eq(signbit(got[i]) != 0, negative);
            if (exponent == most) {
                ck_assert(fraction ? isnan(got[i]) : isinf(got[i]));
            } else {
                ck_assert_msg((double) got[i] == (negative ? -want : want),
                              "%x is %g, must be %g", (unsigned) i, (double) got[i],
                              want);
            }
        }
        weight_rows(&weight, 100, 3, 50, got); /* rows from the middle */
        for (int i = 0; i < 150; i++) {
            float         one, *at = got + i;
            struct weight alone = { data + 1 + 2 * (5000 + i), weight.dtype };
            weight_rows(&alone, 0, 1, 1, &one);
            ck_assert_int_eq(memcmp(at, &one, sizeof one), 0);
        }
    }
    free(data);
    free(got);
}
END_TEST

/* ===== Rotary frequencies ================================================= */

/* As transformers says it, by wave lengths. */
static double llama3_frequency(double plain, const struct rope_scaling *s)
{
    double length = 2 * acos(-1.0) / plain, share;

    if (length > s->context / s->low) {
        return plain / s->factor;
    }
    if (length < s->context / s->high) {
        return plain;
    }
    share = (s->context / length - s->low) / (s->high - s->low);
    return (1 - share) * plain / s->factor + share * plain;
}

START_TEST(llama3_frequencies)
{
    static const struct rope_scaling scalings[] = { { 8, 1, 4, 8192 },
                                                    { 32, 1, 4, 64 },
                                                    { 2.5, 0.5, 0.75, 100 } };
    static const struct rope_scaling none = { 0, 0, 0, 0 };
    float                            table[40 * 64];

    for (int k = 0; k < 3; k++) {
        int kinds[3] = { 0, 0, 0 };
        for (int i = 0; i < 64; i++) {
            double plain = pow(500000.0, -i / 64.0);
            double want = llama3_frequency(plain, &scalings[k]);

            kinds[want == plain ? 0 : want == plain / scalings[k].factor ? 1 : 2]++;
            check_near(rope_frequency(i, 128, 500000.0, &scalings[k]) / want, 1, 1e-12);
            check_near(rope_frequency(i, 128, 500000.0, &none) / plain, 1, 1e-12);
        }
        ck_assert_msg(kinds[0] && kinds[1] && kinds[2], "%d %d %d", kinds[0], kinds[1],
                      kinds[2]);
        rope_table(table, 40, 64, 10000.0, &scalings[k]);
        for (int t = 0; t < 40; t++) {
            for (int i = 0; i < 32; i++) {
                double want = t * llama3_frequency(pow(10000.0, -i / 32.0), &scalings[k]);
                check_near(table[t * 64 + 2 * i], cos(want), 1e-6);
                check_near(table[t * 64 + 2 * i + 1], sin(want), 1e-6);
            }
        }
    }
}
END_TEST

/* Of the two pairs of head_dim 4, this scaling keeps the first and slows the second to
 * an eighth, as a theta 64 times as large does. */
START_TEST(windows_and_single_tokens_follow_the_scaling)
{
    struct llama *model;
    float        *want, *other;
    json_t       *config = config_of(&own_head), *rope;

    write_model(&own_head, all_f32);
    model = load(folder);
    other = logits_of(model, NULL);
    llama_free(model);
    json_object_set_new(config, "rope_theta", json_real(6400));
    write_json("config.json", config);
    model = load(folder);
    want = logits_of(model, NULL);
    llama_free(model);
    ck_assert(fabs(want[8 * own_head.vocab] - other[8 * own_head.vocab]) > 1e-4);

    rope = json_pack("{s:s, s:i, s:i, s:i, s:i}", "rope_type", "llama3", "factor", 8,
                     "low_freq_factor", 1, "high_freq_factor", 4,
                     "original_max_position_embeddings", 40);
    json_object_set_new(config, "rope_theta", json_real(100));
    json_object_set_new(config, "rope_scaling", rope);
    write_json("config.json", config);
    model = load(folder);
    check_logits(model, want);
    check_decoding(model, want);
    llama_free(model);
    json_decref(config);
    free(want);
    free(other);
}
END_TEST

/* ===== Saving ============================================================= */

static const char *saved_path(void)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/saved", folder);
    return path;
}

static void save(const struct llama *model, int32_t dtype)
{
    ck_assert_msg(llama_save(model, saved_path(), dtype, error, sizeof error) == 0, "%s",
                  error);
}

START_TEST(what_is_saved_is_the_same_model)
{
    static const int32_t mixed[] = { BL_F16, BL_F32, BL_BF16, BL_F16, -1 };
    const struct shape  *shapes[] = { &small, &own_head, &wide };

    for (int s = 0; s < 3; s++) {
        for (int k = 0; k < 4; k++) {
            struct llama *model, *again;
            char         *first, *second;
            size_t        length[2];
            float        *want;

            write_model(shapes[s], k < 2 ? all_f32 : mixed);
            model = load(folder);
            snprintf(model->config.tokenizer, sizeof model->config.tokenizer, "bytes");
            want = logits_of(model, NULL);
            save(model, k % 2 ? BL_BF16 : BL_F32);
            again = load(saved_path());
            ck_assert_int_eq(again->embedding.dtype, k % 2 ? BL_BF16 : BL_F32);
            ck_assert_int_eq(again->config.tied, shapes[s]->tied);
            ck_assert_str_eq(again->config.tokenizer, "bytes");
            check_logits(again, want);
            /* once more, over the files that it is mapped from */
            first = read_bytes("saved/model.safetensors", &length[0]);
            ck_assert_int_eq(llama_save(again, saved_path(), k % 2 ? BL_BF16 : BL_F32,
                                        error, sizeof error),
                             0);
            second = read_bytes("saved/model.safetensors", &length[1]);
            ck_assert_uint_eq(length[0], length[1]);
            ck_assert_int_eq(memcmp(first, second, length[0]), 0);
            check_logits(again, want);
            free(first);
            free(second);
            free(want);
            llama_free(model);
            llama_free(again);
        }
    }
}
END_TEST

/* q and k come out in the order of Hugging Face: the directory's bytes are those of the
 * weights that the llama2.c file was made from. */
START_TEST(a_llama2_c_model_is_saved_in_hugging_face_s_order)
{
    const struct shape *shapes[] = { &small, &own_head };

    for (int s = 0; s < 2; s++) {
        struct tensors  tensors = { .count = 0 };
        bl_safetensors *file;
        struct llama   *bin, *hf;
        float          *want;

        write_bin("model.bin", shapes[s]);
        bin = load(path_to("model.bin"));
        want = logits_of(bin, NULL);
        save(bin, BL_F32);
        hf = load(saved_path());
        ck_assert_int_eq(hf->config.interleaved, 0);
        ck_assert_int_eq(hf->config.bos, -1);
        check_logits(hf, want);
        ck_assert_int_eq(bl_safetensors_open(&file, path_to("saved/model.safetensors")),
                         0);
        add_all(&tensors, shapes[s], all_f32);
        ck_assert_int_eq(bl_safetensors_get_count(file), tensors.count);
        for (int i = 0; i < tensors.count; i++) {
            bl_tensor_info info;
            int64_t        index = bl_safetensors_find(file, tensors.list[i].name);

            ck_assert_int_eq(bl_safetensors_get_tensor(file, index, &info), 0);
            ck_assert_int_eq(memcmp(info.data, tensors.list[i].data, info.bytes), 0);
        }
        ck_assert_str_eq(bl_safetensors_get_metadata(file, "format"), "pt");
        bl_safetensors_close(file);
        free_tensors(&tensors);
        free(want);
        llama_free(bin);
        llama_free(hf);
    }
}
END_TEST

/* The nearer of a float's two neighbours with half its bits, in doubles. */
static uint16_t nearest_bfloat(uint32_t bits)
{
    uint32_t below = bits & 0xffff0000u, above = below + 0x10000u;
    float    value, low, high;
    double   up;

    memcpy(&value, &bits, 4);
    memcpy(&low, &below, 4);
    memcpy(&high, &above, 4);
    up = isinf(high) ? copysign(ldexp(1, 128), value) : high;
    if (isinf(value) || fabs((double) value - low) < fabs(up - value)) {
        return (uint16_t) (below >> 16);
    }
    if (fabs((double) value - low) > fabs(up - value)) {
        return (uint16_t) (above >> 16);
    }
    return (uint16_t) (below >> 16 & 1 ? above >> 16 : below >> 16);
}

START_TEST(bfloats_are_the_nearest_with_ties_to_even)
{
    enum { COUNT = 140 * 10 };
    static const uint32_t special[] = {
        0,           0x80000000u, 0x7f800000u, 0xff800000u, 0x7f7fffffu, 0xff7fffffu,
        1,           0x7fffu,     0x8000u,     0x8001u,     0x18000u,    0x3f808000u,
        0x3f818000u, 0x3f817fffu, 0x3f808001u, 0x7f7f7fffu, 0x7f7f8000u, 0x007fffffu,
    };
    static const uint32_t nans[] = { 0x7fc00000u, 0x7f800001u, 0xffffffffu, 0x7f80ffffu };
    const int             fixed = sizeof special / sizeof *special;
    struct tensors        tensors = { .count = 0 };
    bl_safetensors       *file;
    bl_tensor_info        info;
    uint32_t              bits[COUNT];
    struct llama         *model;

    for (int i = 0; i < COUNT; i++) {
        bits[i] = (uint32_t) ((noise(50, (uint64_t) i) + 1) / 2 * 4294967295.0);
        if ((bits[i] & 0x7f800000u) == 0x7f800000u) { /* neither NaN nor infinite */
            bits[i] ^= 0x40000000u;
        }
        bits[i] = i < fixed ? special[i] : i < fixed + 4 ? nans[i - fixed] : bits[i];
    }
    add_all(&tensors, &wide, all_f32);
    memcpy((void *) (uintptr_t) tensor_of(&tensors, "model.embed_tokens.weight")->data,
           bits, sizeof bits);
    write_tensors("model.safetensors", &tensors);
    free_tensors(&tensors);
    write_config(&wide);
    model = load(folder);
    save(model, BL_BF16);
    llama_free(model);
    ck_assert_int_eq(bl_safetensors_open(&file, path_to("saved/model.safetensors")), 0);
    bl_safetensors_get_tensor(
        file, bl_safetensors_find(file, "model.embed_tokens.weight"), &info);
    for (int i = 0; i < COUNT; i++) {
        uint16_t got;

        memcpy(&got, (const char *) info.data + 2 * i, 2);
        if (i >= fixed && i < fixed + 4) {
            ck_assert_msg((got & 0x7f80) == 0x7f80 && (got & 0x7f), "%x", got);
            ck_assert_int_eq(got >> 15, bits[i] >> 31);
        } else {
            ck_assert_msg(got == nearest_bfloat(bits[i]), "%x became %x", bits[i], got);
        }
    }
    bl_safetensors_close(file);
}
END_TEST

START_TEST(saving_that_fails)
{
    struct llama *model;
    char          path[300];

    write_model(&small, all_f32);
    model = load(folder);
    ck_assert_int_eq(llama_save(model, saved_path(), BL_F64, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "F32, F16 or BF16"));
    ck_assert_int_eq(access(saved_path(), F_OK), -1);
    snprintf(path, sizeof path, "%s/a/b", folder);
    ck_assert_int_eq(llama_save(model, path, BL_F32, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, path));
    snprintf(path, sizeof path, "%s/config.json", folder);
    ck_assert_int_eq(llama_save(model, path, BL_F32, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, path));

    /* config.json cannot take its place: no model, and nothing is left behind */
    ck_assert_int_eq(mkdir(saved_path(), 0777), 0);
    snprintf(path, sizeof path, "%s/config.json", saved_path());
    ck_assert_int_eq(mkdir(path, 0777), 0);
    ck_assert_int_eq(llama_save(model, saved_path(), BL_F32, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, path));
    refused(saved_path(), "config.json: not a file");
    snprintf(path, sizeof path, "%s/config.json.tmp", saved_path());
    ck_assert_int_eq(access(path, F_OK), -1);
    llama_free(model);
}
END_TEST

/* ===== Adapters =========================================================== */

/* Adapters of a llama2.c model, saved and loaded, do on the directory what they do on the
 * file; and B's rows in the adapter file are in the directory's order. */
START_TEST(adapters_fit_both)
{
    struct adapter_source source = { NULL, 0, 0 };
    struct llama         *bin, *hf;
    struct llama_adapters made, loaded;
    bl_options            options = default_options(BL_F32);
    bl_safetensors       *file[2];
    float                *want, *got;
    char                  path[2][200], name[400];
    json_t               *config, *base;

    write_bin("model.bin", &own_head);
    write_model(&own_head, all_f32);
    bin = load(path_to("model.bin"));
    hf = load(folder);
    options.rank = 3;
    options.alpha = 6;
    ck_assert_int_eq(adapters_create(&made, bin, NULL, &options, error, sizeof error), 0);
    for (int64_t i = 0; i < bl_group_get_count(made.group); i++) {
        view_random(bl_group_get_adapter(made.group, i), BL_TENSOR_B,
                    BL_BUFFER_PARAMETERS, 70 + (uint64_t) i, 0.5, 0);
    }
    check_ok(bl_group_touch(made.group));
    want = logits_of(bin, &made);
    snprintf(path[0], sizeof path[0], "%s/one", folder);
    snprintf(path[1], sizeof path[1], "%s/two", folder);
    ck_assert_int_eq(adapters_save(&made, bin, "base", path[0], error, sizeof error), 0);
    adapters_free(&made);

    source.path = path[0];
    ck_assert_int_eq(adapters_load(&loaded, hf, &source, error, sizeof error), 0);
    got = logits_of(hf, &loaded);
    check_same(got, want, LENGTH * own_head.vocab);
    free(got);
    got = logits_of(hf, NULL);
    ck_assert(fabs(got[0] - want[0]) > 1e-3); /* they do something */
    ck_assert_int_eq(adapters_save(&loaded, hf, folder, path[1], error, sizeof error), 0);
    adapters_free(&loaded);

    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%.199s/adapter_model.safetensors", path[i]);
        ck_assert_int_eq(bl_safetensors_open(&file[i], name), 0);
    }
    for (int64_t i = 0; i < bl_safetensors_get_count(file[0]); i++) {
        bl_tensor_info info[2];
        for (int k = 0; k < 2; k++) {
            ck_assert_int_eq(bl_safetensors_get_tensor(file[k], i, &info[k]), 0);
        }
        ck_assert_str_eq(info[0].name, info[1].name);
        if (strstr(info[0].name, "lora_B")) {
            ck_assert_int_eq(memcmp(info[0].data, info[1].data, info[0].bytes), 0);
        }
    }
    for (int i = 0; i < 2; i++) {
        bl_safetensors_close(file[i]);
    }
    config = json_load_file(path_to("two/adapter_config.json"), 0, NULL);
    base = json_object_get(config, "base_model_name_or_path");
    ck_assert_str_eq(json_string_value(base), folder);
    json_decref(config);
    free(got);
    free(want);
    llama_free(bin);
    llama_free(hf);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("llama_hf");
    TCase *tcase = tcase_create("loading");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_directory_is_the_same_model_as_a_llama2_c_file);
    tcase_add_test(tcase, every_dtype_alone_and_mixed_gives_the_same_logits);
    tcase_add_test(tcase, data_need_not_be_aligned);
    tcase_add_test(tcase, shards_are_one_model);
    tcase_add_test(tcase, the_model_stays_when_its_files_are_removed);
    tcase_add_test(tcase, every_half_and_bfloat_is_exact);
    tcase_add_test(tcase, llama3_frequencies);
    tcase_add_test(tcase, windows_and_single_tokens_follow_the_scaling);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("saving");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, what_is_saved_is_the_same_model);
    tcase_add_test(tcase, a_llama2_c_model_is_saved_in_hugging_face_s_order);
    tcase_add_test(tcase, bfloats_are_the_nearest_with_ties_to_even);
    tcase_add_test(tcase, saving_that_fails);
    tcase_add_test(tcase, adapters_fit_both);
    suite_add_tcase(suite, tcase);
    return suite;
}
