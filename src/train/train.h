/* A training: what the flags say, what they name, and how far it has come. train.c sets
 * it up and runs it, train_step.c makes a step, train_log.c writes the run folder's
 * lines. */
#ifndef BEAMLORA_SRC_TRAIN_H
#define BEAMLORA_SRC_TRAIN_H

#include "adapters/adapters.h"
#include "train/checkpoint.h"
#include "text/data.h"
#include "train/folder.h"
#include "train/footprint.h"
#include "train/full.h"
#include "base/program.h"
#include "train/progress.h"
#include "base/settings.h"
#include "base/threads.h"
#include "train/start.h"
#include "text/tokenizer.h"

#define TRAIN_FLAGS 34

struct train {
    /* flags */
    const char     *model_path, *tokenizer_path, *data_path, *eval_path, *dump_path;
    const char     *out, *resume, *init_path;
    const char     *targets_list;
    int64_t         steps, batch, context, accumulate;
    int64_t         eval_every, checkpoint_every, ranks_every;
    double          warmup, clip;
    int32_t         lr_schedule, order, save_dtype;
    int64_t         thread_count;
    int             recompute, json, overwrite;
    struct settings settings;
    bl_options      options;
    struct flag     flags[TRAIN_FLAGS + SETTINGS_FLAGS];
    int             flag_count;
    struct start    start, before; /* before: of the command line that resumes */

    /* what they name */
    const char           *model_name; /* --model as it was given */
    struct threads       *threads;
    struct llama         *model;
    struct tokenizer     *tokenizer;
    struct data           data, eval_data;
    struct sampling       sampling;
    struct llama_adapters adapters; /* or */
    struct full          *full;
    struct llama_pass    *pass;
    bl_plan              *plan;
    struct footprint      footprint;
    struct folder         folder; /* path NULL: nothing is kept */

    int32_t *ids, *targets; /* of a step: [accumulate] times [batch, context] */
    int64_t *lengths;       /* [accumulate] */

    struct totals   totals;
    struct progress progress;
    int64_t         ranks_step; /* of the last line of ranks.jsonl */
    double          saved;      /* seconds: when the last checkpoint was done */
    double          save_cost;

    char error[MESSAGE_SIZE];
};

/* Flags to settings. 0 go on, 1 help was printed, 2 wrong usage and it is told, -1 with a
 * line in train->error. */
int train_parse(struct train *train, int argc, char **argv);

void train_report(const struct train *train);

/* The adapters, or NULL where there are none (--method full). */
const struct llama_adapters *train_adapters(const struct train *train);

/* The next step, from the batch to the reallocation, with its lines in the log. -1: line
 * in train->error. */
int train_step(struct train *train);

/* ===== Lines of the run folder ============================================ */

struct train_step_result {
    double  loss, lr, gradient_norm;
    double  penalty; /* AdaLoRA's, not in loss */
    int64_t tokens;
    int     skipped;
};

/* Nothing where there is no folder. -1: line in train->error. */
int train_log_step(struct train *train, const struct train_step_result *result);
int train_log_eval(struct train *train, const struct evaluation *evaluation);
int train_log_modules(struct train *train);
int train_log_ranks(struct train *train, int after);
int train_log_plan(struct train *train);

#endif
