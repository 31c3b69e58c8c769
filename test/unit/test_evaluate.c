/* Loss and exact completions over examples, against one token at a time; opening models. */
#include "check_main.h"

#include <unistd.h>

#include "train/evaluate.h"
#include "model/llama.h"
#include "open.h"

enum { DIM = 16, HIDDEN = 24, HEADS = 4, KV = 2, VOCAB = 258, LAYERS = 2, EXAMPLES = 24 };

static char error[512];

/* ===== A model in memory ================================================== */

static float *random_floats(int64_t count, uint64_t seed, double middle, double spread)
{
    float *x = must_alloc(count, sizeof *x);

    for (int64_t i = 0; i < count; i++) {
        x[i] = (float) (middle + spread * noise(seed, (uint64_t) i));
    }
    return x;
}

static struct llama make_model(void)
{
    struct llama model = { .config = { .dim = DIM,
                                       .hidden = HIDDEN,
                                       .layers = LAYERS,
                                       .heads = HEADS,
                                       .kv_heads = KV,
                                       .head_dim = DIM / HEADS,
                                       .vocab = VOCAB,
                                       .max_context = 64,
                                       .norm_epsilon = 1e-5,
                                       .rope_theta = 10000,
                                       .bos = -1,
                                       .eos = -1 } };

    model.embedding = (struct weight){ random_floats(VOCAB * DIM, 1, 0, 1), BL_F32 };
    model.head = (struct weight){ random_floats(VOCAB * DIM, 2, 0, 1), BL_F32 };
    model.final_norm = random_floats(DIM, 3, 1, 0.1);
    model.layers = must_alloc(LAYERS, sizeof *model.layers);
    for (int64_t l = 0; l < LAYERS; l++) {
        uint64_t seed = 100 * (uint64_t) l;

        model.layers[l].attention_norm = random_floats(DIM, seed + 10, 1, 0.1);
        model.layers[l].ffn_norm = random_floats(DIM, seed + 11, 1, 0.1);
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            int64_t out, in;

            llama_projection_shape(&model.config, p, &out, &in);
            model.layers[l].projection[p] = (struct weight){
                random_floats(out * in, seed + 20 + (uint64_t) p, 0, 0.5), BL_F32
            };
        }
    }
    return model;
}

static void drop(const void *floats)
{
    union {
        const void *from;
        void       *to;
    } same = { floats };
    free(same.to);
}

static void free_model(struct llama *model)
{
    for (int64_t l = 0; l < LAYERS; l++) {
        drop(model->layers[l].attention_norm);
        drop(model->layers[l].ffn_norm);
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            drop(model->layers[l].projection[p].data);
        }
    }
    free(model->layers);
    drop(model->embedding.data);
    drop(model->head.data);
    drop(model->final_norm);
}

/* ===== One token at a time ================================================ */

static int32_t best(const float *logits)
{
    int32_t id = 0;

    for (int32_t i = 1; i < VOCAB; i++) {
        id = logits[i] > logits[id] ? i : id;
    }
    return id;
}

static double loss_of(const float *logits, int32_t id)
{
    double total = 0;

    for (int j = 0; j < VOCAB; j++) {
        total += exp((double) logits[j]);
    }
    return log(total) - logits[id];
}

static struct llama_decoder *start(const struct llama *model)
{
    struct llama_decoder *decoder = NULL;

    ck_assert_msg(llama_decoder_create(&decoder, model, NULL, 64, error, sizeof error) ==
                      0,
                  "%s", error);
    return decoder;
}

/*
 * Examples of 2 to 9 ids of which the first 1 to 4 are given. In two of three the rest is
 * what greedy decoding makes of them; in one of those the last id is then changed.
 */
static struct data make_data(const struct llama *model, int64_t *exact)
{
    struct data data = { .examples = EXAMPLES };

    data.ids = must_alloc(EXAMPLES * 9, sizeof *data.ids);
    data.start = must_alloc(EXAMPLES + 1, sizeof *data.start);
    data.loss_from = must_alloc(EXAMPLES, sizeof *data.loss_from);
    *exact = 0;
    for (int64_t e = 0; e < EXAMPLES; e++) {
        struct llama_decoder *decoder = start(model);
        int64_t               given = e % 4 + 1, count = given + 1 + e % 5;
        int32_t              *ids = data.ids + data.count;

        for (int64_t i = 0; i < count; i++) {
            const float *logits = i > 0 ? llama_decode(decoder, ids[i - 1]) : NULL;

            ids[i] = (int32_t) ((noise(7, (uint64_t) (e * 99 + i)) + 1) * VOCAB / 2);
            if (i >= given && e % 3 != 0) {
                ids[i] = best(logits);
            }
            if (i == count - 1 && e % 3 == 2) {
                ids[i] = (ids[i] + 1) % VOCAB;
            }
        }
        llama_decoder_free(decoder);
        *exact += e % 3 == 1;
        data.loss_from[e] = given;
        data.count += count;
        data.start[e + 1] = data.count;
    }
    return data;
}

START_TEST(examples_agree_with_one_token_at_a_time)
{
    struct llama      model = make_model();
    int64_t           predicted = 0, exact, by_chance = 0;
    struct data       data = make_data(&model, &exact);
    double            want = 0;
    struct evaluation got;

    for (int64_t e = 0; e < EXAMPLES; e++) {
        struct llama_decoder *decoder = start(&model);
        const int32_t        *ids = data.ids + data.start[e];
        int                   hit = 1;

        for (int64_t i = 1; i < data.start[e + 1] - data.start[e]; i++) {
            const float *logits = llama_decode(decoder, ids[i - 1]);

            if (i >= data.loss_from[e]) {
                want += loss_of(logits, ids[i]);
                predicted++;
                hit = hit && best(logits) == ids[i];
            }
        }
        by_chance += hit && e % 3 == 0;
        llama_decoder_free(decoder);
    }
    exact += by_chance;
    ck_assert_int_gt(exact, 5);
    ck_assert_int_lt(exact, 15);
    for (int64_t batch = 1; batch < 30; batch = batch * 2 + 1) {
        ck_assert_msg(
            evaluate(&model, NULL, &data, 64, batch, &got, error, sizeof error) == 0,
            "%s", error);
        check_near(got.loss, want / (double) predicted, 1e-5);
        ck_assert_int_eq(got.predicted, predicted);
        ck_assert_int_eq(got.examples, EXAMPLES);
        ck_assert_int_eq(got.exact, exact);
    }
    ck_assert_int_eq(evaluate(&model, NULL, &data, 0, 1, &got, error, sizeof error), -1);
    ck_assert_int_eq(evaluate(&model, NULL, &data, 1, 0, &got, error, sizeof error), -1);
    data_free(&data);
    free_model(&model);
}
END_TEST

/* All logits are equal: greedy decoding takes the lowest id, and only that is exact. */
START_TEST(the_lowest_of_equals_is_the_best)
{
    struct llama      model = make_model();
    float            *zeros = must_alloc(VOCAB * DIM, sizeof *zeros);
    int32_t           ids[] = { 5, 0, 0, 5, 0, 1, 5, 257, 5, 0 };
    int64_t           start_of[] = { 0, 3, 6, 8, 10 }, from[] = { 1, 1, 1, 1 };
    struct data       data = { ids, 10, 4, start_of, from, 0, 0 };
    struct evaluation got;

    drop(model.head.data);
    model.head.data = zeros;
    ck_assert_int_eq(evaluate(&model, NULL, &data, 9, 3, &got, error, sizeof error), 0);
    ck_assert_int_eq(got.exact, 2);
    ck_assert_int_eq(got.predicted, 6);
    check_near(got.loss, log(VOCAB), 1e-6);

    for (int i = 0; i < VOCAB * DIM; i++) {
        zeros[i] = NAN;
    }
    ck_assert_int_eq(evaluate(&model, NULL, &data, 9, 3, &got, error, sizeof error), 0);
    ck_assert_int_eq(got.exact, 0);
    free_model(&model);
}
END_TEST

/* ===== Opening ============================================================ */

START_TEST(a_directory_is_opened_with_its_tokenizer)
{
    char          directory[] = "/tmp/test_evaluate.XXXXXX", path[300];
    struct llama  model = make_model();
    struct opened opened;

    const struct adapter_source none = { "/none", 0, 0 };

    ck_assert_ptr_nonnull(mkdtemp(directory));
    model.config.bos = 256;
    model.config.eos = 257;
    strcpy(model.config.tokenizer, "bytes");
    ck_assert_msg(llama_save(&model, directory, BL_F32, error, sizeof error) == 0, "%s",
                  error);
    ck_assert_msg(open_model(&opened, directory, NULL, 1, NULL, 1, error, sizeof error) ==
                      0,
                  "%s", error);
    ck_assert_int_eq(tokenizer_bos(opened.tokenizer), 256);
    ck_assert_int_eq(tokenizer_eos(opened.tokenizer), 257);
    ck_assert_int_eq(opened.model->config.vocab, VOCAB);
    ck_assert_ptr_null(opened.adapters);
    open_free(&opened);
    ck_assert_ptr_null(opened.model);
    open_free(&opened);

    ck_assert_int_eq(
        open_model(&opened, directory, NULL, 0, NULL, 1, error, sizeof error), 0);
    ck_assert_ptr_null(opened.tokenizer); /* not needed */
    open_free(&opened);
    ck_assert_int_eq(
        open_model(&opened, directory, "/none", 0, NULL, 1, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "/none"));
    ck_assert_int_eq(
        open_model(&opened, directory, NULL, 1, &none, 1, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "/none"));
    ck_assert_int_eq(open_model(&opened, "/none", NULL, 1, NULL, 1, error, sizeof error),
                     -1);
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    unlink(path);
    rmdir(directory);
    free_model(&model);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("evaluate");
    TCase *tcase = tcase_create("evaluate");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, examples_agree_with_one_token_at_a_time);
    tcase_add_test(tcase, the_lowest_of_equals_is_the_best);
    tcase_add_test(tcase, a_directory_is_opened_with_its_tokenizer);
    suite_add_tcase(suite, tcase);
    return suite;
}
