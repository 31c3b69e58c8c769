/* `beamlora eval`: the loss of a model on a stream of ids, and what it stands on. */
#include <limits.h>
#include <math.h>
#include <stdio.h>

#include "adapters.h"
#include "data.h"
#include "evaluate.h"
#include "llama.h"
#include "program.h"
#include "tokenizer.h"

static void report(double loss, int64_t predicted, int json)
{
    double perplexity = exp(loss);

    if (!json) {
        printf("loss %.6f nats per token, perplexity %.4f, over %lld tokens\n", loss,
               perplexity, (long long) predicted);
    } else if (isfinite(perplexity)) {
        printf("{\"loss\": %.17g, \"perplexity\": %.17g, \"tokens\": %lld}\n", loss,
               perplexity, (long long) predicted);
    } else { /* JSON has no infinity */
        printf("{\"loss\": %.17g, \"perplexity\": null, \"tokens\": %lld}\n", loss,
               (long long) predicted);
    }
}

int command_eval(int argc, char **argv)
{
    const char *model_path = NULL, *tokenizer_name = NULL, *data_path = NULL;
    const char *adapter_path = NULL;
    int64_t     context = 0, batch = 8, predicted;
    int         json = 0, status;
    double      loss;
    char        error[MESSAGE_SIZE];

    struct flag flags[] = {
        { .name = "model",
          .type = FLAG_FILE,
          .value = &model_path,
          .required = 1,
          .help = "llama2.c .bin file" },
        { .name = "data",
          .type = FLAG_FILE,
          .value = &data_path,
          .required = 1,
          .help = "text, or raw token ids in a .u16 or .u32 file" },
        { .name = "tokenizer",
          .type = FLAG_FILE,
          .value = &tokenizer_name,
          .help = "llama2.c tokenizer file, or: bytes; not needed for raw ids" },
        { .name = "adapter",
          .type = FLAG_DIRECTORY,
          .value = &adapter_path,
          .help = "PEFT adapter directory (default: none)" },
        { .name = "context",
          .type = FLAG_INTEGER,
          .value = &context,
          .low = 1,
          .high = INT_MAX,
          .help = "tokens per window (default: the model's context)" },
        { .name = "batch",
          .type = FLAG_INTEGER,
          .value = &batch,
          .low = 1,
          .high = INT_MAX,
          .help = "windows at once (default 8)" },
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &json,
          .help = "print {\"loss\": .., \"perplexity\": .., \"tokens\": ..}" },
    };

    struct llama         *model = NULL;
    struct tokenizer     *tokenizer = NULL;
    struct data           data = { NULL, 0 };
    struct llama_adapters adapters = { NULL, NULL };

    status = parse_flags(
        argc, argv,
        "beamlora eval --model FILE --data FILE [flags]\n"
        "\n"
        "Measures the loss on the data, cut into windows of --context ids, one after\n"
        "the other. Every id but the first is predicted once, from what is before it\n"
        "in its window.",
        flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    if (llama_load(&model, model_path, error, sizeof error) != 0 ||
        (tokenizer_name && tokenizer_open(&tokenizer, tokenizer_name, model->config.vocab,
                                          error, sizeof error) != 0) ||
        data_load(&data, data_path, tokenizer, model->config.vocab, error,
                  sizeof error) != 0 ||
        (adapter_path &&
         adapters_load(&adapters, model, adapter_path, error, sizeof error) != 0) ||
        evaluate(model, adapter_path ? &adapters : NULL, data.ids, data.count,
                 context > 0 ? context : model->config.max_context, batch, &loss,
                 &predicted, error, sizeof error) != 0) {
        status = complain("%s", error);
    } else if (!isfinite(loss)) {
        status = complain("%s: the loss is not finite", data_path);
    } else {
        report(loss, predicted, json);
    }
    adapters_free(&adapters);
    data_free(&data);
    tokenizer_free(tokenizer);
    llama_free(model);
    return status;
}
