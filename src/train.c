/*
 * beamlora train: one training of adapters on windows of a stream of ids.
 *
 * A step's loss is the mean over all predicted tokens of its batch * accumulate windows.
 * The learning rate follows transformers' schedules and the clipping PyTorch's, so that
 * a run can be compared number by number with one of theirs.
 */
#define _POSIX_C_SOURCE 200809L

#include "adapters.h"
#include "data.h"
#include "dump.h"
#include "evaluate.h"
#include "program.h"
#include "progress.h"
#include "settings.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NONFINITE_LIMIT 5 /* skipped steps in a row that end a training */
#define TRAIN_FLAGS 24

static struct command_line line = {
    .usage =
        "beamlora train --model FILE --data FILE [--out DIR] [flags]\n"
        "\n"
        "Trains adapters on windows of --context ids drawn uniformly from --data; writes\n"
        "them to --out as a PEFT adapter. Defaults are in parentheses.",
    .details =
        "Without --out nothing is written. Text is encoded as one piece without BOS.\n"
        "Results go to stdout, progress to stderr.\n"
        "\n"
        "--dump-gradients writes the first step as safetensors, then goes on: input_ids\n"
        "and target_ids [windows, context], loss, each adapter's lora_A.weight,\n"
        "lora_B.weight and lora_gate before the step, and \"grad.\" of each: of the mean\n"
        "loss, before clipping, rows in the model file's own order.",
    .common =
        "model tokenizer data eval-data out steps batch context method rank seed lr",
};

static const char *const lr_schedules[] = { "constant", "linear", "cosine", NULL };

struct run {
    /* flags */
    const char     *model_path, *tokenizer_path, *data_path, *eval_path, *out, *dump_path;
    const char     *targets_list;
    int64_t         steps, batch, context, accumulate;
    double          warmup, clip;
    int32_t         lr_schedule;
    int             json;
    struct settings settings;
    bl_options      options;

    /* what they name */
    struct llama         *model;
    struct tokenizer     *tokenizer;
    struct data           data, eval_data;
    struct llama_adapters adapters;
    struct llama_pass    *pass;
    bl_plan              *plan;
    int32_t              *ids, *targets; /* [batch * accumulate, context] */
    int                   made_out;

    /* results */
    double  loss_sum; /* over the last tenth of the steps */
    int64_t loss_count, loss_from;
    int64_t skipped, skipped_in_a_row, reallocations, moved;
    double  eval_before, eval_after, tokens_per_second;
    int64_t eval_tokens;

    char error[MESSAGE_SIZE];
};

static int fail(struct run *run, const char *where)
{
    snprintf(run->error, sizeof run->error, "%s: %s", where, bl_last_error());
    return -1;
}

/* ===== Flags ============================================================== */

static int parse(struct run *run, int argc, char **argv)
{
    struct flag flags[TRAIN_FLAGS + SETTINGS_FLAGS] = {
        { "Files", FLAG_HEADING, NULL, NULL, NULL, 0, 0, 0, 0 },
        { "model", FLAG_FILE, &run->model_path, "llama2.c .bin file (required)", NULL, 0,
          0, 1, 0 },
        { "tokenizer", FLAG_FILE, &run->tokenizer_path,
          "llama2.c tokenizer, or \"bytes\" (for text)", NULL, 0, 0, 0, 0 },
        { "data", FLAG_FILE, &run->data_path, "text, or ids in .u16, .u32 (required)",
          NULL, 0, 0, 1, 0 },
        { "eval-data", FLAG_FILE, &run->eval_path,
          "the same, for losses before and after", NULL, 0, 0, 0, 0 },
        { "out", FLAG_DIRECTORY, &run->out, "directory for the adapter", NULL, 0, 0, 0,
          0 },
        { "dump-gradients", FLAG_FILE, &run->dump_path,
          "file for the first step's gradients", NULL, 0, 0, 0, 0 },
        { "json", FLAG_SWITCH, &run->json, "results once more as a last line of JSON",
          NULL, 0, 0, 0, 0 },

        { "Training", FLAG_HEADING, NULL, NULL, NULL, 0, 0, 0, 0 },
        { "steps", FLAG_INTEGER, &run->steps, "optimizer steps (1000)", NULL, 1, 1e12, 0,
          0 },
        { "batch", FLAG_INTEGER, &run->batch, "windows (8)", NULL, 1, 65536, 0, 0 },
        { "accumulate", FLAG_INTEGER, &run->accumulate, "such batches a step (1)", NULL,
          1, 65536, 0, 0 },
        { "context", FLAG_INTEGER, &run->context, "ids of a window (128)", NULL, 1,
          1048576, 0, 0 },
        { "warmup", FLAG_REAL, &run->warmup, "share of the steps (0.03)", NULL, 0, 1, 0,
          0 },
        { "lr-schedule", FLAG_CHOICE, &run->lr_schedule, "after the warmup (cosine)",
          lr_schedules, 0, 0, 0, 0 },
        { "clip", FLAG_REAL, &run->clip, "largest gradient norm (1; 0: off)", NULL, 0,
          INFINITY, 0, 0 },
        { "targets", FLAG_STRING, &run->targets_list,
          "with commas, of {q,k,v,o,gate,up,down}_proj (all)", NULL, 0, 0, 0, 0 },
    };
    size_t size = sizeof run->error;
    int    count = 0, status, chosen[LLAMA_PROJECTIONS];

    while (flags[count].name != NULL) {
        count++;
    }
    run->steps = 1000;
    run->batch = 8;
    run->accumulate = 1;
    run->context = 128;
    run->warmup = 0.03;
    run->lr_schedule = BL_CURVE_COSINE;
    run->clip = 1;
    count += settings_flags(&run->settings, flags + count,
                            TRAIN_FLAGS + SETTINGS_FLAGS - count);
    status = parse_arguments(argc, argv, &line, flags, count);
    if (status != 0) {
        return status;
    }
    if (adapters_parse_targets(chosen, run->targets_list, run->error, size) != 0) {
        complain("--targets: %s", run->error);
        return 2;
    }
    return settings_apply(&run->settings, flags, count, run->steps, &run->options,
                          run->error, size);
}

/* ===== Preparation ======================================================== */

static int load_data(struct run *run, struct data *data, const char *path, int64_t window)
{
    if (data_load(data, path, run->tokenizer, run->model->config.vocab, run->context,
                  run->error, sizeof run->error) != 0) {
        return -1;
    }
    return data_check(data, path, window, run->error, sizeof run->error);
}

/* Before hours of training, not after them. */
static int make_out(struct run *run)
{
    struct stat status;

    if (run->out == NULL) {
        complain("note: without --out the adapter is not kept");
        return 0;
    }
    if (mkdir(run->out, 0777) == 0) {
        run->made_out = 1;
        return 0;
    }
    if (errno == EEXIST && stat(run->out, &status) == 0 && !S_ISDIR(status.st_mode)) {
        errno = ENOTDIR;
    } else if (errno == EEXIST && access(run->out, W_OK | X_OK) == 0) {
        return 0;
    }
    snprintf(run->error, sizeof run->error, "--out %s: %s", run->out, strerror(errno));
    return -1;
}

static int prepare(struct run *run)
{
    char  *error = run->error;
    size_t size = sizeof run->error;
    size_t ids = (size_t) (run->batch * run->accumulate * run->context);

    if (llama_load(&run->model, run->model_path, error, size) != 0 ||
        (run->tokenizer_path != NULL &&
         tokenizer_open(&run->tokenizer, run->tokenizer_path, run->model_path,
                        &run->model->config, error, size) != 0) ||
        load_data(run, &run->data, run->data_path, run->context) != 0 ||
        /* evaluation makes do with a shorter window */
        (run->eval_path != NULL &&
         load_data(run, &run->eval_data, run->eval_path, 1) != 0) ||
        adapters_create(&run->adapters, run->model, run->targets_list, &run->options,
                        error, size) != 0 ||
        llama_pass_create(&run->pass, run->model, &run->adapters, run->batch,
                          run->context, 1, error, size) != 0) {
        return -1;
    }
    if (run->options.reallocation && bl_plan_create(&run->plan, run->adapters.group)) {
        return fail(run, "reallocation");
    }
    run->ids = malloc(ids * sizeof *run->ids);
    run->targets = malloc(ids * sizeof *run->targets);
    if (run->ids == NULL || run->targets == NULL) {
        snprintf(error, size, "out of memory for a step of %zu ids", ids);
        return -1;
    }
    return make_out(run);
}

static void release(struct run *run, int failed)
{
    if (failed && run->made_out) {
        rmdir(run->out); /* ours and, unless the adapter is in it, empty */
    }
    free(run->targets);
    free(run->ids);
    bl_plan_free(run->plan);
    llama_pass_free(run->pass);
    adapters_free(&run->adapters);
    data_free(&run->eval_data);
    data_free(&run->data);
    tokenizer_free(run->tokenizer);
    llama_free(run->model);
}

/* ===== One step =========================================================== */

/* Share of the peak lr at step index k of n with w steps of warmup, as transformers'
 * get_{constant,linear,cosine}_schedule_with_warmup. */
static double lr_factor(int32_t schedule, int64_t k, int64_t w, int64_t n)
{
    double rest = (double) (n - w > 1 ? n - w : 1);

    if (k < w) {
        return (double) k / (double) w;
    }
    switch (schedule) {
    case BL_CURVE_LINEAR:
        return fmax(0, (double) (n - k) / rest);
    case BL_CURVE_COSINE:
        return 0.5 * (1 + cos(acos(-1) * (double) (k - w) / rest));
    default:
        return 1;
    }
}

static int64_t fill(struct run *run, int64_t step, int64_t micro, int64_t *length)
{
    const struct sampling sampling = { run->batch, run->accumulate, run->context,
                                       run->options.seed, DATA_RANDOM };
    int64_t               part = run->batch * run->context;

    return data_fill(&run->data, &sampling, step * run->accumulate + micro,
                     run->ids + micro * part, run->targets + micro * part, length);
}

static int gather_gradients(struct run *run, int64_t step, double *loss)
{
    int64_t part = run->batch * run->context, count = 0, length;
    double  scale, total = 0;

    for (int64_t micro = 0; micro < run->accumulate; micro++) {
        count += fill(run, step, micro, &length);
    }
    scale = 1 / (double) count;
    for (int64_t micro = 0; micro < run->accumulate; micro++) {
        double  sum;
        int64_t predicted;

        fill(run, step, micro, &length);
        if (llama_forward(run->pass, run->batch, length, run->ids + micro * part,
                          run->targets + micro * part, step * run->accumulate + micro,
                          &sum, &predicted, run->error, sizeof run->error) != 0 ||
            llama_backward(run->pass, scale, run->error, sizeof run->error) != 0) {
            return -1;
        }
        total += sum;
    }
    *loss = total * scale;
    return 0;
}

/* The factor of torch.nn.utils.clip_grad_norm_. A norm that is not finite is left for
 * the step to find, which then changes nothing. */
static int clip_factor(struct run *run, double *factor)
{
    double norm;

    *factor = 1;
    if (run->clip > 0) {
        if (bl_group_copy_gradient_norm(run->adapters.group, &norm) != 0) {
            return fail(run, "gradient norm");
        }
        if (isfinite(norm)) {
            *factor = fmin(1, run->clip / (norm + 1e-6));
        }
    }
    return 0;
}

static int reallocate(struct run *run, struct progress *progress, int64_t step)
{
    static const char *const words[] = { "from history", "copied", "fresh", "removed",
                                         "left alone" };

    int64_t        count[BL_ACTION_SKIP + 1] = { 0 }, moved = 0;
    const int32_t *actions;
    char           text[MESSAGE_SIZE] = "";
    size_t         used = 0;
    int            code = bl_group_reallocate(run->adapters.group, run->plan);

    if (code == BL_E_STATE) { /* nothing has changed: the training is still a good one */
        progress_note(progress, "step %" PRId64 ": no reallocation: %s", step + 1,
                      bl_last_error());
        return 0;
    }
    if (code != 0) {
        return fail(run, "reallocation");
    }
    actions = bl_plan_get_actions(run->plan);
    for (int64_t i = 0; i < bl_plan_get_count(run->plan); i++) {
        count[actions[i]]++;
        moved += actions[i] != BL_ACTION_SKIP;
    }
    for (int i = 0; i <= BL_ACTION_SKIP; i++) {
        if (count[i] > 0) {
            used += (size_t) snprintf(text + used, sizeof text - used, ", %" PRId64 " %s",
                                      count[i], words[i]);
        }
    }
    run->reallocations++;
    run->moved += moved;
    progress_note(progress,
                  "step %" PRId64 ": reallocation at p %.4f: %" PRId64 " ranks moved%s",
                  step + 1, bl_plan_get_threshold(run->plan), moved, text);
    return 0;
}

static int train_step(struct run *run, struct progress *progress, int64_t step,
                      double *loss)
{
    int64_t warmup = (int64_t) ceil((double) run->steps * run->warmup);
    double  lr = run->options.lr * lr_factor(run->lr_schedule, step, warmup, run->steps);
    double  factor;
    int     code;

    if (gather_gradients(run, step, loss) != 0) {
        return -1;
    }
    if (step == 0 && run->dump_path != NULL) {
        const struct dump dump = {
            run->ids,     run->targets, run->batch * run->accumulate,
            run->context, step,         *loss
        };

        if (dump_write(run->dump_path, &run->adapters, &dump, run->error,
                       sizeof run->error) != 0) {
            return -1;
        }
    }
    if (clip_factor(run, &factor) != 0) {
        return -1;
    }
    code = bl_group_step(run->adapters.group, lr, factor);
    if (code == BL_E_NONFINITE) {
        progress_note(progress, "warning: step %" PRId64 " skipped: %s", step + 1,
                      bl_last_error());
        run->skipped++;
        if (++run->skipped_in_a_row < NONFINITE_LIMIT) {
            return 0;
        }
        snprintf(run->error, sizeof run->error,
                 "step %" PRId64 ": %d steps in a row with gradients that are not finite;"
                 " a smaller --lr may help",
                 step + 1, NONFINITE_LIMIT);
        return -1;
    }
    if (code != 0) {
        return fail(run, "step");
    }
    run->skipped_in_a_row = 0;
    if (run->options.reallocation && bl_group_reallocate_due(run->adapters.group)) {
        return reallocate(run, progress, step);
    }
    return 0;
}

/* ===== The whole ========================================================== */

static int measure(struct run *run, const struct llama_adapters *adapters, double *loss)
{
    struct evaluation evaluation;

    if (run->eval_path == NULL) {
        return 0;
    }
    if (evaluate(run->model, adapters, &run->eval_data, run->context, run->batch,
                 &evaluation, run->error, sizeof run->error) != 0) {
        return -1;
    }
    *loss = evaluation.loss;
    run->eval_tokens = evaluation.predicted;
    return 0;
}

static int train(struct run *run)
{
    int64_t         tokens = run->batch * run->accumulate * run->context;
    struct progress progress;

    if (measure(run, NULL, &run->eval_before) != 0) {
        return -1;
    }
    run->loss_from = run->steps - (run->steps + 9) / 10;
    progress_start(&progress, run->steps, tokens);
    for (int64_t step = 0; step < run->steps; step++) {
        double loss;

        if (train_step(run, &progress, step, &loss) != 0) {
            progress_end(&progress);
            return -1;
        }
        if (step >= run->loss_from && isfinite(loss)) {
            run->loss_sum += loss;
            run->loss_count++;
        }
        progress_step(&progress, step + 1, loss);
    }
    progress_end(&progress);
    run->tokens_per_second = progress_tokens_per_second(&progress);
    if (run->out != NULL && adapters_save(&run->adapters, run->model, run->model_path,
                                          run->out, run->error, sizeof run->error) != 0) {
        return -1;
    }
    return measure(run, &run->adapters, &run->eval_after);
}

static void print_number(const char *key, int known, double value)
{
    if (known && isfinite(value)) {
        printf("\"%s\":%.17g,", key, value);
    } else {
        printf("\"%s\":null,", key);
    }
}

static void report(const struct run *run)
{
    double train_loss =
        run->loss_count > 0 ? run->loss_sum / (double) run->loss_count : (double) NAN;
    int evaluated = run->eval_path != NULL;

    printf("method           %s, rank %" PRId64 ", seed %" PRIu64 "\n",
           settings_method_name(&run->settings), run->options.rank, run->options.seed);
    printf("steps            %" PRId64 " of %" PRId64 " tokens, %" PRId64 " skipped\n",
           run->steps, run->batch * run->accumulate * run->context, run->skipped);
    if (run->options.reallocation) {
        printf("reallocations    %" PRId64 ", %" PRId64 " ranks\n", run->reallocations,
               run->moved);
    }
    printf("trainable        %" PRId64 " parameters in %" PRId64 " adapters\n",
           adapters_parameters(&run->adapters), bl_group_get_count(run->adapters.group));
    printf("training loss    %.6f (mean of the last %" PRId64 " steps)\n", train_loss,
           run->loss_count);
    if (evaluated) {
        printf("evaluation loss  %.6f, before %.6f (%" PRId64 " tokens)\n",
               run->eval_after, run->eval_before, run->eval_tokens);
    }
    printf("adapter          %s\n",
           run->out != NULL ? run->out : "not written (no --out)");
    if (run->json) {
        printf("{\"steps\":%" PRId64 ",", run->steps);
        print_number("train_loss", 1, train_loss);
        print_number("eval_loss", evaluated, run->eval_after);
        print_number("eval_loss_before", evaluated, run->eval_before);
        printf("\"skipped_steps\":%" PRId64 ",\"reallocations\":%" PRId64
               ",\"reallocated_ranks\":%" PRId64 ",",
               run->skipped, run->reallocations, run->moved);
        printf("\"tokens_per_second\":%.1f}\n", run->tokens_per_second);
    }
}

int command_train(int argc, char **argv)
{
    struct run run = { 0 };
    int        status = parse(&run, argc, argv);

    if (status > 0) {
        return status == 1 ? 0 : status;
    }
    if (status == 0) {
        status = prepare(&run) != 0 || train(&run) != 0;
    }
    if (status == 0) {
        report(&run);
    } else {
        complain("%s", run.error);
    }
    release(&run, status != 0);
    return status != 0;
}
