/*
 * `beamlora generate`: continue a text, as llama2.c's run.c does, with its sampling and
 * its random numbers. One position is fed for every token, the prompt's included, and the
 * token after each but those the prompt fixes is drawn; BOS or EOS ends the text.
 */
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "open.h"
#include "base/program.h"

struct candidate {
    float   p;
    int32_t id;
};

struct sampler {
    double            temperature, top_p;
    uint64_t          state; /* not 0 */
    int64_t           vocab;
    struct candidate *candidates; /* [vocab] */
};

/* Uniform in [0, 1): xorshift64*, the upper 24 of its 32 bits. */
static float draw(struct sampler *sampler)
{
    uint64_t x = sampler->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    sampler->state = x;
    return (float) (x * 0x2545F4914F6CDD1Du >> 40) / 16777216.0f;
}

static int32_t best(const float *logits, int64_t vocab)
{
    int32_t id = 0;
    for (int32_t i = 1; i < vocab; i++) {
        id = logits[i] > logits[id] ? i : id;
    }
    return id;
}

static int by_probability(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->p != y->p) {
        return x->p > y->p ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

static int32_t sample(struct sampler *sampler, const float *logits)
{
    struct candidate *c = sampler->candidates;
    int64_t           vocab = sampler->vocab, count = 0, last;
    float             most, sum = 0, mass = 0, mark;
    /* Less likely than this cannot be among the top_p: spares sorting all. */
    float cutoff = (float) ((1.0 - sampler->top_p) / (double) (vocab - 1));
    int   all = sampler->top_p <= 0 || sampler->top_p >= 1;

    if (sampler->temperature == 0 || vocab < 2) {
        return best(logits, vocab);
    }
    most = logits[best(logits, vocab)];
    for (int32_t i = 0; i < vocab; i++) {
        c[i].id = i;
        c[i].p = expf((float) ((double) (logits[i] - most) / sampler->temperature));
        sum += c[i].p;
    }
    for (int64_t i = 0; i < vocab; i++) {
        struct candidate kept = { c[i].p / sum, c[i].id };
        if (all || kept.p >= cutoff) {
            c[count++] = kept;
        }
    }
    last = count - 1;
    if (all) {
        mass = 1;
    } else {
        qsort(c, (size_t) count, sizeof *c, by_probability);
        for (int64_t i = 0; i <= last; i++) {
            mass += c[i].p;
            if ((double) mass > sampler->top_p) {
                last = i;
            }
        }
    }
    mark = draw(sampler) * mass;
    mass = 0;
    for (int64_t i = 0; i < last; i++) {
        mass += c[i].p;
        if (mark < mass) {
            return c[i].id;
        }
    }
    return c[last].id;
}

/* A single byte that would move a terminal's cursor, or worse, is left out; so are, of a
 * llama2.c vocabulary, the bytes of code points that it has no token for, as in run.c. */
static void print_piece(const struct tokenizer *tokenizer, int32_t previous, int32_t id)
{
    size_t      bytes;
    const char *text = tokenizer_decode(tokenizer, previous, id, &bytes);

    if (bytes == 1) {
        int c = (unsigned char) text[0];
        int safe = c < 0x80 ? isprint(c) || isspace(c) : !tokenizer_is_llama2c(tokenizer);
        if (!safe) {
            return;
        }
    }
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static int generate(struct llama_decoder *decoder, const struct tokenizer *tokenizer,
                    struct sampler *sampler, const int32_t *prompt, int64_t prompt_count,
                    int64_t positions, char *error, size_t size)
{
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer);
    int32_t id = prompt[0];

    if (id != bos) {
        print_piece(tokenizer, -1, id);
    }
    for (int64_t at = 0; at < positions; at++) {
        const float *logits = llama_decode(decoder, id);
        int          given = at + 1 < prompt_count;
        int32_t      next;

        if (!logits) {
            snprintf(error, size, "the model failed at position %lld: %s", (long long) at,
                     bl_last_error());
            return -1;
        }
        next = given ? prompt[at + 1] : sample(sampler, logits);
        if (!given && (next == bos || next == eos)) {
            break;
        }
        print_piece(tokenizer, id, next);
        id = next;
    }
    putchar('\n');
    return 0;
}

/* Encode the prompt and write its continuation. */
static int run(const struct opened *opened, struct sampler *sampler, const char *text,
               int64_t positions, char *error, size_t size)
{
    const struct llama     *model = opened->model;
    const struct tokenizer *tokenizer = opened->tokenizer;
    struct llama_decoder   *decoder = NULL;
    int32_t                *prompt = NULL;
    int64_t                 count;
    int                     status = -1;

    if (positions > model->config.max_context) {
        fprintf(stderr, "beamlora: stopping at the model's context of %lld tokens\n",
                (long long) model->config.max_context);
        positions = model->config.max_context;
    }
    sampler->vocab = model->config.vocab;
    sampler->candidates = calloc((size_t) sampler->vocab, sizeof *sampler->candidates);
    if (!sampler->candidates) {
        snprintf(error, size, "out of memory");
        goto done;
    }
    if (tokenizer_encode(tokenizer, text, strlen(text), 1, &prompt, &count, error,
                         size) != 0) {
        goto done;
    }
    if (count == 0) {
        snprintf(error, size, "the vocabulary has no BOS token, so --prompt is needed");
        goto done;
    }
    if (llama_decoder_create(&decoder, model, opened->adapters, positions, error, size) !=
        0) {
        goto done;
    }
    status = generate(decoder, tokenizer, sampler, prompt, count, positions, error, size);

done:
    llama_decoder_free(decoder);
    free(prompt);
    free(sampler->candidates);
    return status;
}

int command_generate(int argc, char **argv)
{
    const char *model_path = NULL, *tokenizer_name = NULL, *prompt = "";

    struct adapter_source adapter = { NULL, 0, 0 };
    int64_t               tokens = 256, threads = 0;
    uint64_t              seed = 0;
    int                   status;
    char                  error[MESSAGE_SIZE];

    struct sampler sampler = { .temperature = 1, .top_p = 0.9 };
    struct flag    flags[] = {
           { .name = "model",
             .type = FLAG_FILE,
             .value = &model_path,
             .required = 1,
             .help = "Hugging Face directory, or llama2.c .bin file" },
           { .name = "tokenizer",
             .type = FLAG_FILE,
             .value = &tokenizer_name,
             .help = "a tokenizer's file, or: bytes (default: the model directory's)" },
           { .name = "adapter",
             .type = FLAG_FILE,
             .value = &adapter.path,
             .help = "adapter directory or file (default: none)" },
           { .name = "adapter-alpha",
             .type = FLAG_REAL,
             .value = &adapter.alpha,
             .low = -1e30,
             .high = 1e30,
             .help = "lora_alpha of an adapter that is a file of tensors alone" },
           { .name = "score-temperature",
             .type = FLAG_REAL,
             .value = &adapter.temperature,
             .low = 0,
             .high = 1e30,
             .help = "of a published adapter's scores (the file's, else 0.05)" },
           { .name = "prompt",
             .type = FLAG_STRING,
             .value = &prompt,
             .help = "text to continue (default: none, start anew)" },
           { .name = "tokens",
             .type = FLAG_INTEGER,
             .value = &tokens,
             .low = 1,
             .high = INT_MAX,
             .help = "how many at most, the prompt's included (default 256)" },
           { .name = "temperature",
             .type = FLAG_REAL,
             .value = &sampler.temperature,
             .low = 0,
             .high = 1e6,
             .help = "0: always the likeliest token (default 1)" },
           { .name = "top-p",
             .type = FLAG_REAL,
             .value = &sampler.top_p,
             .low = 0,
             .high = 1,
             .help = "draw from this share of probability; 0 or 1: from all (default 0.9)" },
           { .name = "seed",
             .type = FLAG_UNSIGNED,
             .value = &seed,
             .help = "of the draws (default 0)" },
           { .name = "threads",
             .type = FLAG_INTEGER,
             .value = &threads,
             .low = 0,
             .high = THREADS_MOST,
             .help = "that share the work (0: one for each processor)" },
    };

    struct opened opened;

    status = parse_flags(
        argc, argv,
        "beamlora generate --model MODEL [flags]\n"
        "\n"
        "Continues --prompt, up to BOS, EOS or --tokens; samples as llama2.c's run does.",
        flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    /* The generator stands still at 0. */
    sampler.state = seed != 0 ? seed : 0x9E3779B97F4A7C15u;
    if (open_model(&opened, model_path, tokenizer_name, 1, &adapter, threads, error,
                   sizeof error) != 0) {
        return complain("%s", error);
    }
    if (run(&opened, &sampler, prompt, tokens, error, sizeof error) != 0) {
        status = complain("%s", error);
    }
    open_free(&opened);
    return status;
}
