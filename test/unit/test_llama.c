/*
 * The model of the program, on tiny random ones: gradients against differences of the
 * loss, windows against one token at a time, files that are no model.
 */
#include "check_main.h"

#include <unistd.h>

#include "base/threads.h"
#include "train/evaluate.h"
#include "model/llama.h"
#include "text/tokenizer.h"

static char error[512];

/* ===== Tiny models ======================================================== */

struct shape {
    int32_t dim, hidden, layers, heads, kv_heads, vocab,
        context; /* vocab < 0: own head */
};

static const struct shape tied = { 12, 10, 3, 2, 1, 11, 8 };
static const struct shape untied = { 20, 9, 2, 10, 5, -13, 4 };
static const struct shape wide = { 64, 96, 2, 4, 2, -300, 70 }; /* worth threads */
static const struct shape odd = { 6, 7, 1, 3, 3, 5, 1 };

static int64_t floats_of(const struct shape *s)
{
    int64_t d = s->dim, kv = d / s->heads * s->kv_heads, vocab = llabs(s->vocab);
    int64_t layer = 2 * d + 2 * d * d + 2 * kv * d + 3 * d * s->hidden;
    return vocab * d * (s->vocab < 0 ? 2 : 1) + s->layers * layer + d +
           s->context * (d / s->heads);
}

/* A file with this header, then `count` floats and `more` bytes; the path is static. */
static const char *write_file(const int32_t *header, int64_t count, int more)
{
    static char path[64];
    FILE       *file;
    int         handle;

    strcpy(path, "/tmp/test_llama.XXXXXX");
    handle = mkstemp(path);
    ck_assert_int_ge(handle, 0);
    file = fdopen(handle, "wb");
    ck_assert_ptr_nonnull(file);
    fwrite(header, sizeof *header, 7, file);
    for (int64_t i = 0; i < count; i++) {
        float value = (float) (0.6 * noise(7, (uint64_t) i));
        fwrite(&value, sizeof value, 1, file);
    }
    for (int i = 0; i < more; i++) {
        fputc(0, file);
    }
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

static struct llama *make_model(const struct shape *s)
{
    int32_t       header[7];
    struct llama *model = NULL;
    const char   *path;
    int           status;

    memcpy(header, s, sizeof header);
    path = write_file(header, floats_of(s), 0);
    status = llama_load(&model, path, error, sizeof error);
    unlink(path);
    ck_assert_msg(status == 0, "%s", error);
    return model;
}

/* Adapters with random parameters on projection p of layer l where mask has the bit. */
static struct llama_adapters make_adapters(const struct llama *model, uint64_t mask,
                                           double dropout)
{
    int64_t               count = model->config.layers * LLAMA_PROJECTIONS, used = 0;
    bl_options            opt = default_options(BL_F32);
    struct llama_adapters adapters = { NULL, NULL };
    bl_spec               specs[64];

    opt.rank = 3;
    opt.alpha = 1.5;
    opt.dropout = dropout;
    for (int64_t i = 0; i < count; i++) {
        int64_t out, in;
        llama_projection_shape(&model->config, (int) (i % LLAMA_PROJECTIONS), &out, &in);
        if (mask >> i & 1) {
            specs[used++] = make_spec(in, out, 0);
        }
    }
    check_ok(bl_group_create(&adapters.group, specs, used, &opt));
    adapters.at = must_alloc(count, sizeof *adapters.at);
    used = 0;
    for (int64_t i = 0; i < count; i++) {
        if (mask >> i & 1) {
            bl_adapter *a = bl_group_get_adapter(adapters.group, used++);
            adapters.at[i] = a;
            view_random(a, BL_TENSOR_A, BL_BUFFER_PARAMETERS, 100 + (uint64_t) i, 0.5, 0);
            view_random(a, BL_TENSOR_B, BL_BUFFER_PARAMETERS, 200 + (uint64_t) i, 0.5, 0);
            view_random(a, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, 300 + (uint64_t) i,
                        0.02, 0);
        }
    }
    check_ok(bl_group_touch(adapters.group));
    return adapters;
}

static void free_adapters(struct llama_adapters *adapters)
{
    bl_group_free(adapters->group);
    free(adapters->at);
}

static void random_ids(int32_t *ids, int64_t count, int64_t vocab, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int32_t) ((noise(seed, (uint64_t) i) + 1) / 2 * (double) vocab);
    }
}

/* ===== Gradients ========================================================== */

enum { BATCH = 2, MOST = 2 * 70 };

struct batch {
    struct llama_pass *pass;
    int32_t            ids[MOST], targets[MOST];
    int64_t            length, key;
};

static double loss_of(struct batch *b)
{
    double  sum;
    int64_t predicted;
    ck_assert_msg(llama_forward(b->pass, BATCH, b->length, b->ids, b->targets, b->key,
                                &sum, &predicted, error, sizeof error) == 0,
                  "%s", error);
    ck_assert_int_eq(predicted, BATCH * b->length - 2);
    return sum;
}

/* Move a tensor by h along d and tell the loss. */
static double loss_at(struct batch *b, bl_adapter *a, int tensor, const double *values,
                      const double *d, double h)
{
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    double *moved = must_doubles(view.rows * view.cols), loss;
    for (int64_t i = 0; i < view.rows * view.cols; i++) {
        moved[i] = values[i] + h * d[i];
    }
    view_write(a, tensor, BL_BUFFER_PARAMETERS, moved);
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
    loss = loss_of(b);
    free(moved);
    return loss;
}

/* The slope of the loss along g / |g| is |g|, along noise d / |d| it is g . d / |d|. */
static void check_tensor(struct batch *b, bl_adapter *a, int tensor, const double *g,
                         double scale, int64_t index)
{
    bl_view view = view_of(a, tensor, BL_BUFFER_PARAMETERS);
    int64_t count = view.rows * view.cols;
    double *values = view_doubles(a, tensor, BL_BUFFER_PARAMETERS);
    double *d = must_doubles(count), norm = 0,
           h = tensor == BL_TENSOR_SCORES ? 3e-3 : 8e-3;

    for (int64_t i = 0; i < count; i++) {
        norm += g[i] * g[i];
    }
    norm = sqrt(norm);
    ck_assert_msg(norm > 1e-4, "adapter %d, tensor %d: no gradient", (int) index, tensor);
    for (int along = 0; along < 2; along++) {
        double size = 0, want = 0, slope;
        for (int64_t i = 0; i < count; i++) {
            d[i] = along == 0 ? g[i] : noise(40 + (uint64_t) tensor, (uint64_t) i);
            size += d[i] * d[i];
        }
        for (int64_t i = 0; i < count; i++) {
            d[i] /= sqrt(size);
            want += g[i] * d[i];
        }
        slope =
            scale *
            (loss_at(b, a, tensor, values, d, h) - loss_at(b, a, tensor, values, d, -h)) /
            (2 * h);
        ck_assert_msg(fabs(slope - want) <= 0.01 * norm + 3e-5,
                      "adapter %d, tensor %d: slope %g, gradient says %g (norm %g)",
                      (int) index, tensor, slope, want, norm);
    }
    view_write(a, tensor, BL_BUFFER_PARAMETERS, values);
    check_ok(bl_group_touch(bl_adapter_get_group(a)));
    free(values);
    free(d);
}

static void check_gradients(const struct shape *s, uint64_t mask, int64_t length,
                            double dropout)
{
    struct llama         *model = make_model(s);
    struct llama_adapters adapters = make_adapters(model, mask, dropout);
    int64_t               count = bl_group_get_count(adapters.group);
    struct batch b = { .length = length, .key = dropout > 0 ? 5 : BL_NO_DROPOUT };
    const double scale = 0.25;
    double      *gradient[64][3];

    random_ids(b.ids, MOST, model->config.vocab, 1);
    random_ids(b.targets, MOST, model->config.vocab, 2);
    b.targets[0] = b.targets[BATCH * length - 1] = -1;
    ck_assert_msg(llama_pass_create(&b.pass, model, &adapters, BATCH, length + 1,
                                    LLAMA_KEEP, error, sizeof error) == 0,
                  "%s", error);
    loss_of(&b);
    ck_assert_msg(llama_backward(b.pass, scale, error, sizeof error) == 0, "%s", error);
    for (int64_t i = 0; i < count; i++) {
        for (int t = 0; t < 3; t++) {
            gradient[i][t] = view_doubles(bl_group_get_adapter(adapters.group, i), t,
                                          BL_BUFFER_GRADIENTS);
        }
    }
    for (int64_t i = 0; i < count; i++) {
        for (int t = 0; t < 3; t++) {
            check_tensor(&b, bl_group_get_adapter(adapters.group, i), t, gradient[i][t],
                         scale, i);
            free(gradient[i][t]);
        }
    }
    llama_pass_free(b.pass);
    free_adapters(&adapters);
    llama_free(model);
}

START_TEST(gradients_with_a_tied_head_and_shared_keys)
{
    check_gradients(&tied, (1u << 21) - 1, 7, 0);
}
END_TEST

START_TEST(gradients_with_a_head_of_its_own)
{
    check_gradients(&untied, (1u << 14) - 1, 3, 0);
}
END_TEST

START_TEST(gradients_with_dropout)
{
    check_gradients(&tied, (1u << 21) - 1, 7, 0.3);
}
END_TEST

/* Longer than the file's context and than a block of attention rows. */
START_TEST(gradients_over_a_long_window)
{
    check_gradients(&tied, 1u << LLAMA_K | 1u << (7 + LLAMA_V) | 1u << (14 + LLAMA_Q), 70,
                    0);
}
END_TEST

START_TEST(gradients_when_only_some_have_an_adapter)
{
    check_gradients(&tied, 1u << (7 + LLAMA_UP), 7, 0);
    check_gradients(&tied, 1u << (7 + LLAMA_O) | 1u << (14 + LLAMA_DOWN), 7, 0);
}
END_TEST

/* Loss, then all gradients, to be freed; *count says how many numbers that are. */
static float *everything(struct llama *model, struct llama_adapters *adapters, int flags,
                         int threads, int64_t key, int64_t *count)
{
    struct batch b = { .length = 70, .key = key };
    bl_view      view;
    float       *all;

    model->threads = NULL;
    ck_assert_int_eq(threads_create(&model->threads, threads, error, sizeof error), 0);
    random_ids(b.ids, MOST, model->config.vocab, 1);
    random_ids(b.targets, MOST, model->config.vocab, 2);
    b.targets[0] = b.targets[MOST - 1] = -1;
    ck_assert_msg(llama_pass_create(&b.pass, model, adapters, BATCH, b.length, flags,
                                    error, sizeof error) == 0,
                  "%s", error);
    check_ok(bl_group_discard_gradients(adapters->group));
    check_ok(bl_group_get_view(adapters->group, BL_BUFFER_GRADIENTS, &view));
    *count = 1 + view.cols;
    all = must_alloc(*count, sizeof *all);
    all[0] = (float) loss_of(&b);
    ck_assert_msg(llama_backward(b.pass, 0.01, error, sizeof error) == 0, "%s", error);
    check_ok(bl_group_get_view(adapters->group, BL_BUFFER_GRADIENTS, &view));
    memcpy(all + 1, view.data, (size_t) view.cols * sizeof *all);
    llama_pass_free(b.pass);
    threads_free(model->threads);
    model->threads = NULL;
    return all;
}

static void check_ways(double dropout)
{
    struct llama         *model = make_model(&wide);
    struct llama_adapters adapters = make_adapters(model, (1u << 14) - 1, dropout);
    int64_t               key = dropout > 0 ? 3 : BL_NO_DROPOUT, count;
    float                *one = everything(model, &adapters, LLAMA_KEEP, 1, key, &count);

    for (int threads = 1; threads <= 4; threads++) {
        const int recompute = LLAMA_KEEP | LLAMA_RECOMPUTE;
        float    *first = everything(model, &adapters, LLAMA_KEEP, threads, key, &count);
        float    *second = everything(model, &adapters, recompute, threads, key, &count);
        double    most = 0, worst = 0;

        ck_assert_mem_eq(first, second, (size_t) count * sizeof *first);
        for (int64_t i = 1; i < count; i++) {
            most = fmax(most, fabs(one[i]));
            worst = fmax(worst, fabs((double) one[i] - first[i]));
        }
        check_near(first[0], one[0], 1e-6 * one[0]);
        ck_assert_double_gt(most, 0);
        check_le(worst, 1e-5 * most);
        free(first);
        free(second);
    }
    free(one);
    free_adapters(&adapters);
    llama_free(model);
}

/* Kept or worked out again: the same bits. Any number of threads: the same to rounding. */
START_TEST(threads_and_recomputation_change_nothing)
{
    check_ways(0);
    check_ways(0.2);
}
END_TEST

/* ===== Windows and single tokens ========================================== */

static void check_logits(const float *got, const float *want, int64_t count)
{
    double worst = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        double e = fabs((double) got[i] - want[i]);
        worst = !(e <= worst) ? e : worst;
        size = fabs(want[i]) > size ? fabs(want[i]) : size;
    }
    check_le(worst, 2e-5 * size);
}

static void check_decode(const struct shape *s, int with_adapters)
{
    enum { N = 67 };
    struct llama         *model = make_model(s);
    struct llama_adapters adapters = { NULL, NULL };
    struct llama_decoder *decoder;
    struct llama_pass    *pass;
    int64_t               vocab = model->config.vocab, predicted;
    int32_t               ids[N], targets[N];
    double                sum;

    if (with_adapters) {
        adapters = make_adapters(model, (1ull << 7 * s->layers) - 1, 0);
    }
    random_ids(ids, N, vocab, 3);
    random_ids(targets, N, vocab, 4);
    ck_assert_int_eq(llama_pass_create(&pass, model, with_adapters ? &adapters : NULL, 1,
                                       N, LLAMA_LOGITS, error, sizeof error),
                     0);
    ck_assert_int_eq(llama_decoder_create(&decoder, model,
                                          with_adapters ? &adapters : NULL, N, error,
                                          sizeof error),
                     0);
    ck_assert_int_eq(llama_forward(pass, 1, N, ids, targets, BL_NO_DROPOUT, &sum,
                                   &predicted, error, sizeof error),
                     0);
    ck_assert_int_eq(predicted, N);
    for (int64_t t = 0; t < N; t++) {
        const float *logits = llama_decode(decoder, ids[t]);
        double       total = 0;
        ck_assert_ptr_nonnull(logits);
        check_logits(logits, llama_pass_logits(pass) + t * vocab, vocab);
        for (int64_t j = 0; j < vocab; j++) {
            total += exp((double) logits[j]);
        }
        sum -= log(total) - logits[targets[t]];
    }
    check_near(sum, 0, 1e-3);
    ck_assert_ptr_null(llama_decode(decoder, 0)); /* full */
    llama_decoder_free(decoder);
    llama_pass_free(pass);
    free_adapters(&adapters);
    llama_free(model);
}

START_TEST(decoding_agrees_with_windows)
{
    const struct shape *shapes[] = { &tied, &untied, &odd };
    for (int i = 0; i < 3; i++) {
        check_decode(shapes[i], 0);
        check_decode(shapes[i], 1);
    }
}
END_TEST

/* Rows in the other rotary order: h * hd + 2 i + b goes to h * hd + b * hd / 2 + i. */
static struct weight reorder(struct weight from, int64_t heads, int64_t head_dim,
                             int64_t in)
{
    const float *w = from.data;
    float       *out = must_alloc(heads * head_dim * in, sizeof *out);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < head_dim; i++) {
            int64_t to = h * head_dim + i % 2 * (head_dim / 2) + i / 2;
            memcpy(out + to * in, w + (h * head_dim + i) * in, (size_t) in * sizeof *out);
        }
    }
    return (struct weight){ out, BL_F32 };
}

START_TEST(both_rotary_orders_are_the_same_model)
{
    enum { N = 9 };
    struct llama              *model = make_model(&tied);
    struct llama               other = *model;
    struct llama_layer         layers[3];
    struct llama_pass         *pass, *again;
    int32_t                    ids[N], targets[N];
    const struct llama_config *c = &model->config;
    double                     sum;
    int64_t                    predicted;

    for (int l = 0; l < 3; l++) {
        layers[l] = model->layers[l];
        layers[l].projection[LLAMA_Q] =
            reorder(layers[l].projection[LLAMA_Q], c->heads, c->head_dim, c->dim);
        layers[l].projection[LLAMA_K] =
            reorder(layers[l].projection[LLAMA_K], c->kv_heads, c->head_dim, c->dim);
    }
    other.layers = layers;
    other.config.interleaved = 0;
    random_ids(ids, N, c->vocab, 5);
    random_ids(targets, N, c->vocab, 6);
    ck_assert_int_eq(
        llama_pass_create(&pass, model, NULL, 1, N, LLAMA_LOGITS, error, 512), 0);
    ck_assert_int_eq(
        llama_pass_create(&again, &other, NULL, 1, N, LLAMA_LOGITS, error, 512), 0);
    ck_assert_int_eq(llama_forward(pass, 1, N, ids, targets, BL_NO_DROPOUT, &sum,
                                   &predicted, error, 512),
                     0);
    ck_assert_int_eq(llama_forward(again, 1, N, ids, targets, BL_NO_DROPOUT, &sum,
                                   &predicted, error, 512),
                     0);
    check_logits(llama_pass_logits(again), llama_pass_logits(pass), N * c->vocab);
    llama_pass_free(pass);
    llama_pass_free(again);
    for (int l = 0; l < 3; l++) {
        for (int p = LLAMA_Q; p <= LLAMA_K; p++) {
            void *w;
            memcpy(&w, &layers[l].projection[p].data, sizeof w);
            free(w);
        }
    }
    llama_free(model);
}
END_TEST

/* Window k starts at id k * context; the reference feeds each to a decoder of its own. */
START_TEST(evaluation_predicts_every_id_but_the_first_once)
{
    enum { N = 18, CONTEXT = 5 };
    struct llama         *model = make_model(&untied);
    struct llama_decoder *decoder = NULL;
    int32_t               ids[N];
    double                want = 0;
    struct data           data = { .ids = ids, .count = N };
    struct evaluation     got;

    random_ids(ids, N, model->config.vocab, 8);
    for (int64_t t = 0; t + 1 < N; t++) {
        const float *logits;
        double       total = 0;
        if (t % CONTEXT == 0) {
            llama_decoder_free(decoder);
            ck_assert_int_eq(
                llama_decoder_create(&decoder, model, NULL, CONTEXT, error, sizeof error),
                0);
        }
        logits = llama_decode(decoder, ids[t]);
        for (int64_t j = 0; j < model->config.vocab; j++) {
            total += exp((double) logits[j]);
        }
        want += (log(total) - logits[ids[t + 1]]) / (N - 1);
    }
    llama_decoder_free(decoder);
    for (int64_t batch = 1; batch < 6; batch++) {
        ck_assert_msg(
            evaluate(model, NULL, &data, CONTEXT, batch, &got, error, sizeof error) == 0,
            "%s", error);
        ck_assert_int_eq(got.predicted, N - 1);
        ck_assert_int_eq(got.examples, 0);
        check_near(got.loss, want, 1e-5);
    }
    data.count = 2;
    ck_assert_int_eq(
        evaluate(model, NULL, &data, 1000000, 1000000, &got, error, sizeof error), 0);
    ck_assert_int_eq(got.predicted, 1);
    data.count = 1;
    ck_assert_int_eq(evaluate(model, NULL, &data, CONTEXT, 1, &got, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "2 or more"));
    llama_free(model);
}
END_TEST

/* ===== Refusals =========================================================== */

START_TEST(wrong_calls_are_told)
{
    struct llama         *model = make_model(&tied);
    struct llama_decoder *decoder;
    struct llama_pass    *pass;
    int32_t               ids[8] = { 0 }, targets[8] = { 0 };
    double                sum;
    int64_t               n;

    ck_assert_int_eq(llama_pass_create(&pass, model, NULL, 0, 4, LLAMA_KEEP, error, 512),
                     -1);
    ck_assert_int_eq(llama_pass_create(&pass, model, NULL, 2, 0, LLAMA_KEEP, error, 512),
                     -1);
    ck_assert_int_eq(
        llama_pass_create(&pass, model, NULL, 1 << 20, 1 << 20, LLAMA_KEEP, error, 512),
        -1);
    ck_assert_int_eq(llama_pass_create(&pass, model, NULL, 2, 4, LLAMA_KEEP, error, 512),
                     0);
    ck_assert_int_eq(llama_backward(pass, 1, error, 512), -1);
    ck_assert_int_eq(llama_forward(pass, 3, 1, ids, targets, -1, &sum, &n, error, 512),
                     -1);
    ck_assert_int_eq(llama_forward(pass, 1, 5, ids, targets, -1, &sum, &n, error, 512),
                     -1);
    ids[3] = 11;
    ck_assert_int_eq(llama_forward(pass, 2, 4, ids, targets, -1, &sum, &n, error, 512),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "11"));
    ids[3] = -1;
    ck_assert_int_eq(llama_forward(pass, 2, 4, ids, targets, -1, &sum, &n, error, 512),
                     -1);
    ids[3] = 10;
    targets[7] = -2;
    ck_assert_int_eq(llama_forward(pass, 2, 4, ids, targets, -1, &sum, &n, error, 512),
                     -1);
    targets[7] = 10;
    ck_assert_int_eq(llama_forward(pass, 2, 4, ids, targets, -1, &sum, &n, error, 512),
                     0);
    ck_assert_int_eq(llama_backward(pass, 1, error, 512), 0);
    ck_assert_int_eq(llama_backward(pass, 1, error, 512), -1);
    llama_pass_free(pass);

    ck_assert_int_eq(llama_decoder_create(&decoder, model, NULL, 0, error, 512), -1);
    ck_assert_int_eq(llama_decoder_create(&decoder, model, NULL, INT64_MAX, error, 512),
                     -1);
    ck_assert_int_eq(llama_decoder_create(&decoder, model, NULL, 2, error, 512), 0);
    ck_assert_ptr_null(llama_decode(decoder, 11));
    ck_assert_ptr_null(llama_decode(decoder, -1));
    llama_decoder_free(decoder);
    llama_pass_free(NULL);
    llama_decoder_free(NULL);
    llama_free(NULL);
    llama_free(model);
}
END_TEST

/* Refused with one line that names the file and, where given, says `part`. */
static void refused(const int32_t *header, int64_t count, int more, const char *part)
{
    struct llama *model = NULL;
    const char   *path = write_file(header, count, more);
    int           status = llama_load(&model, path, error, sizeof error);

    unlink(path);
    ck_assert_int_eq(status, -1);
    ck_assert_ptr_null(model);
    ck_assert_ptr_nonnull(strstr(error, path));
    ck_assert_ptr_null(strchr(error, '\n'));
    ck_assert_msg(!part || strstr(error, part), "\"%s\" does not say %s", error, part);
}

START_TEST(files_that_are_no_model)
{
    const int32_t values[] = { 0, -1, INT32_MIN, INT32_MAX, 1 << 30, 65536 };
    int64_t       count = floats_of(&tied);
    int32_t       good[7], header[7];
    struct llama *model = NULL;

    memcpy(good, &tied, sizeof good);
    refused(good, count - 1, 0, "it should have");
    refused(good, count, 1, "it should have");
    refused(good, count - 1, 3, "it should have");
    refused(good, count + 1, 0, "it should have");
    refused(good, 0, 0, "it should have");
    for (int i = 0; i < 7; i++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            memcpy(header, good, sizeof header);
            header[i] = values[v];
            refused(header, count, 0, NULL);
        }
    }
    for (int i = 0; i < 7; i++) {
        header[i] = i == 3 || i == 4 ? 1 << 20 : 1 << 30;
    }
    refused(header, count, 0, "absurd");

    memcpy(header, good, sizeof header);
    header[3] = 5;
    refused(header, count, 0, "n_heads");
    header[3] = 4; /* head_dim 3 */
    refused(header, count, 0, "even");
    header[3] = 3;
    header[4] = 2;
    refused(header, count, 0, "n_kv_heads");

    ck_assert_int_eq(llama_load(&model, "/nonexistent", error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "/nonexistent"));
    ck_assert_int_eq(llama_load(&model, "/tmp", error, sizeof error), -1);
    ck_assert_int_eq(llama_load(&model, "/dev/null", error, sizeof error), -1);
}
END_TEST

START_TEST(files_shorter_than_a_header)
{
    for (int extent = 0; extent < 28; extent += 9) {
        char          path[] = "/tmp/test_llama.XXXXXX";
        int           handle = mkstemp(path);
        struct llama *model = NULL;
        ck_assert_int_eq(ftruncate(handle, extent), 0);
        close(handle);
        ck_assert_int_eq(llama_load(&model, path, error, sizeof error), -1);
        ck_assert_ptr_nonnull(strstr(error, "header"));
        unlink(path);
    }
}
END_TEST

/* ===== A trained model ==================================================== */

/* What llama2.c's test expects of 200 greedy steps. */
static const char story[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
    "park. One day, she saw a big, red ball. She wanted to play with it, but it was too "
    "high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know "
    "what to do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was "
    "sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do."
    "\"\nLily didn't want to help her mom, so she";

START_TEST(the_story_is_llama2_c_s)
{
    const char           *shared = getenv("BEAMLORA_SHARED");
    char                  path[2][512], text[1024];
    struct llama         *model;
    struct tokenizer     *tokenizer;
    struct llama_decoder *decoder;
    size_t                used = 0;
    int32_t               id = 1;

    shared = shared ? shared : "../shared";
    snprintf(path[0], sizeof path[0], "%s/data/stories260K.bin", shared);
    snprintf(path[1], sizeof path[1], "%s/data/tok512.bin", shared);
    if (access(path[0], R_OK) != 0 || access(path[1], R_OK) != 0) {
        printf("skipped: the_story_is_llama2_c_s: no %s (set BEAMLORA_SHARED)\n",
               path[0]);
        return;
    }
    ck_assert_int_eq(llama_load(&model, path[0], error, sizeof error), 0);
    ck_assert_int_eq(
        tokenizer_open(&tokenizer, path[1], NULL, &model->config, error, sizeof error),
        0);
    ck_assert_int_eq(
        llama_decoder_create(&decoder, model, NULL, 200, error, sizeof error), 0);
    for (int t = 0; t < 200; t++) {
        const float *logits = llama_decode(decoder, id);
        int32_t      next = 0;
        size_t       extent;
        const char  *piece;
        ck_assert_ptr_nonnull(logits);
        for (int32_t j = 1; j < model->config.vocab; j++) {
            next = logits[j] > logits[next] ? j : next;
        }
        piece = tokenizer_decode(tokenizer, id, next, &extent);
        ck_assert_uint_lt(used + extent, sizeof text);
        memcpy(text + used, piece, extent);
        used += extent;
        id = next;
    }
    text[used] = '\0';
    ck_assert_str_eq(text, story);
    ck_assert_uint_eq(used, 464);
    llama_decoder_free(decoder);
    tokenizer_free(tokenizer);
    llama_free(model);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("llama");
    TCase *tcase = tcase_create("gradients");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, gradients_with_a_tied_head_and_shared_keys);
    tcase_add_test(tcase, gradients_with_a_head_of_its_own);
    tcase_add_test(tcase, gradients_with_dropout);
    tcase_add_test(tcase, gradients_over_a_long_window);
    tcase_add_test(tcase, gradients_when_only_some_have_an_adapter);
    tcase_add_test(tcase, threads_and_recomputation_change_nothing);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("forward");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, decoding_agrees_with_windows);
    tcase_add_test(tcase, both_rotary_orders_are_the_same_model);
    tcase_add_test(tcase, evaluation_predicts_every_id_but_the_first_once);
    tcase_add_test(tcase, the_story_is_llama2_c_s);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("refusals");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, wrong_calls_are_told);
    tcase_add_test(tcase, files_that_are_no_model);
    tcase_add_test(tcase, files_shorter_than_a_header);
    suite_add_tcase(suite, tcase);
    return suite;
}
