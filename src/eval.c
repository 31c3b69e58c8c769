/* `beamlora eval`: loss on some data, and how many of its examples a model completes. */
#include <limits.h>
#include <math.h>
#include <stdio.h>

#include "text/data.h"
#include "train/evaluate.h"
#include "train/logits.h"
#include "adapters/keep_ranks.h"
#include "open.h"
#include "base/program.h"

/* `kept` is NULL without --keep-ranks. */
static void report(const struct evaluation *e, const struct kept *kept, int json)
{
    double perplexity = exp(e->loss);

    if (!json) {
        printf("loss %.6f nats per token, perplexity %.4f, over %lld tokens\n", e->loss,
               perplexity, (long long) e->predicted);
        if (e->examples > 0) {
            printf("accuracy %.1f %% (%lld of %lld completed exactly)\n",
                   100 * (double) e->exact / (double) e->examples, (long long) e->exact,
                   (long long) e->examples);
        }
        if (kept != NULL) {
            printf("ranks %lld of %lld kept, by %s\n", (long long) kept->kept,
                   (long long) kept->ranks, kept->by);
        }
        return;
    }
    printf("{\"loss\": %.17g, ", e->loss);
    if (isfinite(perplexity)) {
        printf("\"perplexity\": %.17g, ", perplexity);
    } else { /* JSON has no infinity */
        printf("\"perplexity\": null, ");
    }
    printf("\"tokens\": %lld", (long long) e->predicted);
    if (e->examples > 0) {
        printf(", \"examples\": %lld, \"exact\": %lld", (long long) e->examples,
               (long long) e->exact);
    }
    if (kept != NULL) {
        printf(", \"ranks\": %lld, \"kept\": %lld, \"kept_by\": \"%s\"",
               (long long) kept->ranks, (long long) kept->kept, kept->by);
    }
    printf("}\n");
}

static int run(const struct opened *opened, const struct kept *kept, const char *path,
               int64_t context, int64_t batch, const char *logits, int json, char *error,
               size_t size)
{
    struct data       data;
    struct evaluation result;
    int               status;

    if (context == 0) {
        context = evaluate_context(opened->model);
    }
    if (data_load(&data, path, opened->tokenizer, opened->model->config.vocab, context,
                  error, size) != 0) {
        return -1;
    }
    if (data_note(&data, path, context, error, size)) {
        complain("note: %s", error);
    }
    status = evaluate(opened->model, opened->adapters, &data, context, batch, &result,
                      error, size);
    if (status == 0 && !isfinite(result.loss)) {
        snprintf(error, size, "%s: the loss is not finite", path);
        status = -1;
    }
    if (status == 0 && logits != NULL) {
        status = logits_write(logits, opened->model, opened->adapters, &data, context,
                              batch, error, size);
    }
    if (status == 0) {
        report(&result, kept, json);
    }
    data_free(&data);
    return status;
}

int command_eval(int argc, char **argv)
{
    const char *model_path = NULL, *tokenizer_name = NULL, *data_path = NULL;
    const char *keep_text = NULL, *logits = NULL;
    int32_t     keep_by = KEEP_BY_ANY, keep_scope = KEEP_MODULE;
    struct keep keep;
    struct kept kept;

    struct adapter_source adapter = { NULL, 0, 0 };
    int64_t               context = 0, batch = 8, threads = 0;
    int                   json = 0, status;
    char                  error[MESSAGE_SIZE];

    struct flag flags[] = {
        { .name = "model",
          .type = FLAG_FILE,
          .value = &model_path,
          .required = 1,
          .help = "Hugging Face directory, or llama2.c .bin file" },
        { .name = "data",
          .type = FLAG_FILE,
          .value = &data_path,
          .required = 1,
          .help = ".jsonl, raw token ids in .u16 or .u32, or any other: text" },
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
          .help = "lora_alpha of a file of tensors alone" },
        { .name = "score-temperature",
          .type = FLAG_REAL,
          .value = &adapter.temperature,
          .low = 0,
          .high = 1e30,
          .help = "of published scores (the file's, else 0.05)" },
        { .name = "context",
          .type = FLAG_INTEGER,
          .value = &context,
          .low = 1,
          .high = INT_MAX,
          .help = "ids of a window (the model's, at most 2048)" },
        { .name = "batch",
          .type = FLAG_INTEGER,
          .value = &batch,
          .low = 1,
          .high = INT_MAX,
          .help = "windows or examples at once (default 8)" },
        { .name = "threads",
          .type = FLAG_INTEGER,
          .value = &threads,
          .low = 0,
          .high = THREADS_MOST,
          .help = "that share the work (0: one for each processor)" },
        { .name = "keep-ranks",
          .type = FLAG_STRING,
          .value = &keep_text,
          .help = "top:SHARE, bottom:SHARE or random:SHARE:SEED" },
        { .name = "keep-by",
          .type = FLAG_CHOICE,
          .value = &keep_by,
          .choices = keep_by_names,
          .help = "what is best (importance, where there are scores)" },
        { .name = "keep-scope",
          .type = FLAG_CHOICE,
          .value = &keep_scope,
          .choices = keep_scope_names,
          .help = "a share of each module, or of all ranks (module)" },
        { .name = "dump-logits",
          .type = FLAG_FILE,
          .value = &logits,
          .help = "of the first --batch, to compare with" },
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &json,
          .help = "print one JSON object" },
    };

    struct opened opened;

    status = parse_flags(
        argc, argv,
        "beamlora eval --model MODEL --data FILE [flags]\n"
        "\n"
        "Measures the loss on text or ids, cut into windows of --context, one after the\n"
        "other: every id but the first is predicted once, from what is before it in its\n"
        "window. Of JSON lines, the loss of the completions, and how many of them greedy\n"
        "decoding gives exactly.",
        flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    if (keep_text != NULL && keep_parse(&keep, keep_text, error, sizeof error) != 0) {
        complain("%s", error);
        return 2;
    }
    if (keep_text != NULL && adapter.path == NULL) {
        complain("--keep-ranks needs --adapter: a bare model has no ranks");
        return 2;
    }
    if (keep_text == NULL && (keep_by != KEEP_BY_ANY || keep_scope != KEEP_MODULE)) {
        complain("note: --keep-by and --keep-scope have no effect without --keep-ranks");
    }
    if (open_model(&opened, model_path, tokenizer_name, data_is_text(data_path), &adapter,
                   threads, error, sizeof error) != 0) {
        return complain("%s", error);
    }
    if ((keep_text != NULL &&
         keep_only(&kept, opened.adapters, adapter.path, &keep, (enum keep_by) keep_by,
                   (enum keep_scope) keep_scope, error, sizeof error) != 0) ||
        run(&opened, keep_text != NULL ? &kept : NULL, data_path, context, batch, logits,
            json, error, sizeof error) != 0) {
        status = complain("%s", error);
    }
    open_free(&opened);
    return status;
}
