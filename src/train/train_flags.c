/* Flags of `beamlora train`, from the command line or from the run that is resumed. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "train/train.h"

static const struct command_line train_line = {
    .usage =
        "beamlora train --model MODEL --data FILE [--out DIR] [flags]\n"
        "       beamlora train --resume DIR\n"
        "\n"
        "Trains adapters, or with --method full the model itself; writes them with a log\n"
        "and checkpoints to --out. Defaults are in parentheses.",
    .details =
        "Without --out nothing is written. Ctrl-C ends the step, writes a checkpoint and\n"
        "exits with status 130; --resume goes on from the last checkpoint, also after a\n"
        "crash, and ends with the same files. Results go to stdout, progress to stderr.\n"
        "\n"
        "--dump-gradients writes the first step as safetensors, then goes on: input_ids\n"
        "and target_ids, loss, each adapter's lora_A.weight, lora_B.weight and lora_gate\n"
        "before the step, and \"grad.\" of each: of the mean loss, before clipping, rows\n"
        "in the model file's own order.",
    .common = "model data tokenizer eval-data out resume steps batch context method rank "
              "seed lr",
};

static const char *const lr_schedules[] = { "constant", "linear", "cosine", NULL };
static const char *const orders[] = { "random", "sequential", NULL };
static const char *const dtypes[] = { "f32", "bf16", NULL };

static int list_flags(struct train *train, struct flag *flags)
{
    const struct flag own[] = {
        { .name = "Files", .type = FLAG_HEADING },
        { .name = "model",
          .type = FLAG_FILE,
          .value = &train->model_path,
          .help = "Hugging Face directory or llama2.c .bin (required)" },
        { .name = "data",
          .type = FLAG_FILE,
          .value = &train->data_path,
          .help = "text, .jsonl, or ids in .u16, .u32 (required)" },
        { .name = "tokenizer",
          .type = FLAG_FILE,
          .value = &train->tokenizer_path,
          .help = "a file, or \"bytes\" (default: the model's)" },
        { .name = "eval-data",
          .type = FLAG_FILE,
          .value = &train->eval_path,
          .help = "the same as data, for evaluation" },
        { .name = "init-adapter",
          .type = FLAG_FILE,
          .value = &train->init_path,
          .help = "begin with this adapter: its modules, ranks and scaling" },
        { .name = "out",
          .type = FLAG_DIRECTORY,
          .value = &train->out,
          .help = "folder for all results (default: keep nothing)" },
        { .name = "overwrite",
          .type = FLAG_SWITCH,
          .value = &train->overwrite,
          .help = "put a new run in the place of the one in --out" },
        { .name = "resume",
          .type = FLAG_DIRECTORY,
          .value = &train->resume,
          .help = "go on with a run; takes all else from its folder" },
        { .name = "checkpoint-every",
          .type = FLAG_INTEGER,
          .value = &train->checkpoint_every,
          .help = "steps (0: about a minute)",
          .high = 1e12 },
        { .name = "eval-every",
          .type = FLAG_INTEGER,
          .value = &train->eval_every,
          .help = "steps (0: only before and after)",
          .high = 1e12 },
        { .name = "ranks-every",
          .type = FLAG_INTEGER,
          .value = &train->ranks_every,
          .help = "steps between two lines of ranks.jsonl (0: steps / 100)",
          .high = 1e12 },
        { .name = "dump-gradients",
          .type = FLAG_FILE,
          .value = &train->dump_path,
          .help = "file for the first step's gradients" },
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &train->json,
          .help = "results once more as a last line of JSON" },

        { .name = "Training", .type = FLAG_HEADING },
        { .name = "steps",
          .type = FLAG_INTEGER,
          .value = &train->steps,
          .help = "optimizer steps (1000)",
          .low = 1,
          .high = 1e12 },
        { .name = "batch",
          .type = FLAG_INTEGER,
          .value = &train->batch,
          .help = "windows or examples at once (8)",
          .low = 1,
          .high = 65536 },
        { .name = "accumulate",
          .type = FLAG_INTEGER,
          .value = &train->accumulate,
          .help = "such batches a step (1)",
          .low = 1,
          .high = 65536 },
        { .name = "context",
          .type = FLAG_INTEGER,
          .value = &train->context,
          .help = "ids of a window, at most of an example (128)",
          .low = 1,
          .high = 1048576 },
        { .name = "threads",
          .type = FLAG_INTEGER,
          .value = &train->thread_count,
          .help = "that share the work (0: one for each processor)",
          .high = THREADS_MOST },
        { .name = "checkpoint-activations",
          .type = FLAG_SWITCH,
          .value = &train->recompute,
          .help = "work activations out twice: less memory, more time" },
        { .name = "order",
          .type = FLAG_CHOICE,
          .value = &train->order,
          .help = "of the data (random)",
          .choices = orders },
        { .name = "warmup",
          .type = FLAG_REAL,
          .value = &train->warmup,
          .help = "share of the steps (0.03)",
          .high = 1 },
        { .name = "lr-schedule",
          .type = FLAG_CHOICE,
          .value = &train->lr_schedule,
          .help = "after the warmup (cosine)",
          .choices = lr_schedules },
        { .name = "clip",
          .type = FLAG_REAL,
          .value = &train->clip,
          .help = "largest gradient norm (1; 0: off)",
          .high = INFINITY },
        { .name = "targets",
          .type = FLAG_STRING,
          .value = &train->targets_list,
          .help = "with commas, of {q,k,v,o,gate,up,down}_proj (all)" },
        { .name = "save-dtype",
          .type = FLAG_CHOICE,
          .value = &train->save_dtype,
          .help = "of the weights that --method full writes (f32)",
          .choices = dtypes },
    };
    int count = sizeof own / sizeof own[0];

    memcpy(flags, own, sizeof own);
    train->steps = 1000;
    train->batch = 8;
    train->accumulate = 1;
    train->context = 128;
    train->warmup = 0.03;
    train->lr_schedule = BL_CURVE_COSINE;
    train->clip = 1;
    return count + settings_flags(&train->settings, flags + count,
                                  TRAIN_FLAGS + SETTINGS_FLAGS - count);
}

/* What needs more than one flag to be judged. 0, or 2 and it is told. */
static int check_flags(struct train *train)
{
    int chosen[LLAMA_PROJECTIONS];

    if (train->model_path == NULL || train->data_path == NULL) {
        complain("--%s is required; --help lists the flags",
                 train->model_path == NULL ? "model" : "data");
        return 2;
    }
    if (adapters_parse_targets(chosen, train->targets_list, train->error,
                               sizeof train->error) != 0) {
        complain("--targets: %s", train->error);
        return 2;
    }
    if (train->dump_path != NULL && settings_is_full(&train->settings)) {
        complain("--dump-gradients is for adapters, not for --method full");
        return 2;
    }
    if (train->init_path != NULL && settings_is_full(&train->settings)) {
        complain("--init-adapter is for adapters, not for --method full");
        return 2;
    }
    if (train->init_path != NULL &&
        strcmp(settings_method_name(&train->settings), "adalora") == 0) {
        complain("--init-adapter is not for --method adalora: its E starts at 0");
        return 2;
    }
    return 0;
}

/* ===== The command line ==================================================== */

static int parse_list(struct train *train)
{
    struct command_line line = train_line;

    train->flag_count = list_flags(train, train->flags);
    return parse_arguments(train->start.argc, train->start.argv, &line, train->flags,
                           train->flag_count);
}

/* The arguments of the run in --resume take the place of ours; only --json is kept. */
static int parse_resumed(struct train *train)
{
    const char *folder = train->resume;
    int         json = train->json, status;

    for (int i = 0; i < train->flag_count; i++) {
        const char *name = train->flags[i].name;

        if (train->flags[i].given && strcmp(name, "resume") != 0 &&
            strcmp(name, "json") != 0) {
            complain("--%s cannot be given with --resume: a run goes on as it began",
                     name);
            return 2;
        }
    }
    start_free(&train->before);
    train->before = train->start; /* owns the string `folder` */
    if (start_read(&train->start, folder, train->error, sizeof train->error) != 0) {
        return -1;
    }
    status = parse_list(train);
    train->resume = folder;
    train->json |= json;
    return status;
}

/* Relative names are those of the place where the run was started. */
static int find_files(struct train *train)
{
    const char **names[] = {
        &train->model_path,     &train->data_path, &train->eval_path,
        &train->tokenizer_path, &train->dump_path, &train->init_path
    };

    train->model_name = train->model_path;
    for (size_t i = 0; train->resume != NULL && i < sizeof names / sizeof names[0]; i++) {
        if (*names[i] != NULL && strcmp(*names[i], "bytes") != 0) {
            *names[i] =
                start_path(&train->start, *names[i], train->error, sizeof train->error);
            if (*names[i] == NULL) {
                return -1;
            }
        }
    }
    return 0;
}

/* The adapter that a training begins with must outlive it: a resumed run looks at it
 * again. */
static int check_init(struct train *train)
{
    const char *places[] = { train->init_path, train->out };
    struct stat found[2];
    int         same = train->resume == NULL;

    for (int i = 0; same && i < 2; i++) {
        char *path = NULL;

        same = places[i] != NULL;
        if (same && (stat(places[i], &found[i]) != 0 || S_ISDIR(found[i].st_mode))) {
            path = file_join(places[i], "adapter_model.safetensors", train->error,
                             sizeof train->error);
            same = path != NULL && stat(path, &found[i]) == 0;
        }
        free(path);
    }
    if (same && found[0].st_dev == found[1].st_dev &&
        found[0].st_ino == found[1].st_ino) {
        snprintf(train->error, sizeof train->error,
                 "--init-adapter %.200s: --out would replace it", train->init_path);
        return -1;
    }
    return 0;
}

int train_parse(struct train *train, int argc, char **argv)
{
    int status;

    if (start_here(&train->start, argc, argv, train->error, sizeof train->error) != 0) {
        return -1;
    }
    status = parse_list(train);
    if (status == 0 && train->resume != NULL) {
        status = parse_resumed(train);
    }
    if (status == 0) {
        status = check_flags(train);
    }
    if (status != 0) {
        return status;
    }
    train->sampling = (struct sampling){ train->batch, train->accumulate, train->context,
                                         0, train->order };
    train->settings.starts = train->init_path != NULL;
    if (find_files(train) != 0 || check_init(train) != 0 ||
        settings_apply(&train->settings, train->flags, train->flag_count, train->steps,
                       &train->options, train->error, sizeof train->error) != 0) {
        return -1;
    }
    train->sampling.seed = train->options.seed;
    return 0;
}
