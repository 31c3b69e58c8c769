/*
 * `beamlora prune`: evaluates an adapter with more and more of its ranks. What the
 * command does not say comes from run.json, when the adapter is in a run folder.
 */
#define _POSIX_C_SOURCE 200809L

#include "view/prune.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "text/data.h"
#include "base/file.h"
#include "view/gnuplot.h"
#include "open.h"
#include "base/program.h"
#include "train/progress.h"
#include "view/run_read.h"

#define SHARES 10    /* where nothing is said                              */
#define ALL_RANKS 16 /* but modules of so many at most are gone through    */

enum format { FORMAT_PNG, FORMAT_SVG, FORMAT_BOTH, FORMAT_NONE };

static const char *const formats[] = { "png", "svg", "both", "none", NULL };

struct prune {
    const char        *model, *tokenizer, *data_path, *out;
    int64_t            context, batch, threads, shares;
    int32_t            by, scope, format;
    int                json;
    struct run         run;
    char              *joined[3]; /* paths made from run.json's */
    struct opened      opened;
    struct data        data;
    struct rank_values values;
    double            *percent; /* [points] */
    struct pruning     study;
    char               error[MESSAGE_SIZE];
};

/* ===== What is evaluated on what ========================================== */

/* A path of the run's settings, as seen from where the run was started; NULL and no line:
 * the run had none. */
static const char *run_path(struct prune *prune, const char *key, int slot)
{
    const char *value = json_string_value(json_object_get(prune->run.settings, key));
    const char *from = json_string_value(json_object_get(prune->run.root, "directory"));

    if (value == NULL || strcmp(value, "bytes") == 0 || from == NULL) {
        return value;
    }
    prune->joined[slot] = file_join(from, value, prune->error, sizeof prune->error);
    return prune->joined[slot];
}

static int64_t run_integer(const struct prune *prune, const char *key, int64_t otherwise)
{
    const json_t *value = json_object_get(prune->run.settings, key);

    return json_is_integer(value) && json_integer_value(value) >= 1 &&
                   json_integer_value(value) <= INT_MAX
               ? json_integer_value(value)
               : otherwise;
}

/* 0; 1 or 2: told. */
static int take_settings(struct prune *prune)
{
    const char *adapter = prune->study.adapter;
    struct stat about;

    if (stat(adapter, &about) != 0) {
        return complain("%s: %s", adapter, strerror(errno));
    }
    if (!S_ISDIR(about.st_mode)) {
        return complain("%s: must be a directory, a run's or an adapter's", adapter);
    }
    if (run_exists(adapter)) {
        if (run_read(&prune->run, adapter, prune->error, sizeof prune->error) != 0) {
            return complain("%s", prune->error);
        }
        if (strcmp(prune->run.method, "full") == 0) {
            return complain("%s: was trained with --method full and has no ranks",
                            adapter);
        }
        prune->model = prune->model != NULL ? prune->model : run_path(prune, "model", 0);
        prune->tokenizer =
            prune->tokenizer != NULL ? prune->tokenizer : run_path(prune, "tokenizer", 1);
        prune->data_path =
            prune->data_path != NULL ? prune->data_path : run_path(prune, "eval-data", 2);
    }
    if (prune->model == NULL || prune->data_path == NULL) {
        complain("--%s is required: %s", prune->model == NULL ? "model" : "data",
                 prune->run.root == NULL ? "the adapter is in no run folder"
                                         : "the run does not say it");
        return 2;
    }
    prune->batch = prune->batch > 0 ? prune->batch : run_integer(prune, "batch", 8);
    prune->context =
        prune->context > 0 ? prune->context : run_integer(prune, "context", 0);
    return 0;
}

static int open_all(struct prune *prune)
{
    struct adapter_source adapter = { .path = prune->study.adapter };
    char                 *error = prune->error;
    size_t                size = sizeof prune->error;

    if (open_model(&prune->opened, prune->model, prune->tokenizer,
                   data_is_text(prune->data_path), &adapter, prune->threads, error,
                   size) != 0) {
        return -1;
    }
    if (prune->context == 0) {
        prune->context = evaluate_context(prune->opened.model);
    }
    if (data_load(&prune->data, prune->data_path, prune->opened.tokenizer,
                  prune->opened.model->config.vocab, prune->context, error, size) != 0) {
        return -1;
    }
    if (data_note(&prune->data, prune->data_path, prune->context, error, size)) {
        complain("note: %s", error);
    }
    if (rank_values_read(&prune->values, prune->opened.adapters, prune->study.adapter,
                         (enum keep_by) prune->by, error, size) != 0) {
        return -1;
    }
    if (prune->values.note[0] != '\0') {
        complain("note: by norm, since %s", prune->values.note);
    }
    return 0;
}

/* ===== The study ========================================================== */

static int64_t keep(struct prune *prune, enum keep_kind kind, double percent,
                    int64_t seed)
{
    struct keep what = { .kind = kind, .percent = percent, .seed = (uint64_t) seed };

    return keep_ranks(prune->opened.adapters, &prune->values, &what, prune->study.scope,
                      prune->error, sizeof prune->error);
}

/* Shares of which the one before keeps as many ranks are left out. */
static int make_points(struct prune *prune)
{
    struct pruning *study = &prune->study;
    int64_t         shares = prune->shares;

    if (shares == 0) {
        shares = study->scope == KEEP_MODULE && prune->values.most <= ALL_RANKS
                     ? prune->values.most
                     : SHARES;
    }
    study->by = prune->values.by;
    study->ranks = prune->values.ranks;
    study->modules = prune->values.modules;
    study->point = calloc((size_t) shares + 1, sizeof *study->point);
    prune->percent = calloc((size_t) shares + 1, sizeof *prune->percent);
    if (study->point == NULL || prune->percent == NULL) {
        snprintf(prune->error, sizeof prune->error, "out of memory");
        return -1;
    }
    for (int64_t i = 0; i <= shares; i++) {
        struct pruning_point *point = &study->point[study->points];
        double                percent = 100.0 * (double) i / (double) shares;

        point->kept = keep(prune, KEEP_TOP, percent, 0);
        if (point->kept < 0) {
            return -1;
        }
        if (study->points > 0 && point->kept == point[-1].kept) {
            continue;
        }
        point->random = calloc((size_t) study->seeds, sizeof *point->random);
        if (point->random == NULL) {
            snprintf(prune->error, sizeof prune->error, "out of memory");
            return -1;
        }
        prune->percent[study->points++] = percent;
    }
    return 0;
}

static int measure(struct prune *prune, struct progress *progress, enum keep_kind kind,
                   double percent, int64_t seed, struct evaluation *out)
{
    if (keep(prune, kind, percent, seed) < 0 ||
        evaluate(prune->opened.model, prune->opened.adapters, &prune->data,
                 prune->context, prune->batch, out, prune->error,
                 sizeof prune->error) != 0) {
        return -1;
    }
    progress_step(progress, progress->done + 1, out->loss, out->predicted);
    return 0;
}

static int measure_point(struct prune *prune, struct progress *progress, int64_t i)
{
    struct pruning_point *point = &prune->study.point[i];
    double                percent = prune->percent[i];
    int end = point->kept == 0 || point->kept == prune->study.ranks, result;

    result = measure(prune, progress, KEEP_TOP, percent, 0, &point->top);
    if (end) { /* whatever the order */
        point->bottom = point->top;
    } else if (result == 0) {
        result = measure(prune, progress, KEEP_BOTTOM, percent, 0, &point->bottom);
    }
    for (int64_t seed = 0; result == 0 && seed < prune->study.seeds; seed++) {
        if (end) {
            point->random[seed] = point->top;
        } else {
            result = measure(prune, progress, KEEP_RANDOM, percent, seed,
                             &point->random[seed]);
        }
    }
    return result;
}

static int measure_all(struct prune *prune)
{
    struct pruning *study = &prune->study;
    struct progress progress;
    int64_t         inner = 0;
    int             result = 0;

    for (int64_t i = 0; i < study->points; i++) {
        inner += study->point[i].kept > 0 && study->point[i].kept < study->ranks;
    }
    progress_start(&progress, study->points - inner + inner * (2 + study->seeds), 0);
    progress.what = "evaluation";
    for (int64_t i = 0; result == 0 && i < study->points; i++) {
        result = measure_point(prune, &progress, i);
    }
    progress_end(&progress);
    return result;
}

/* ===== The command ======================================================== */

static int draw(struct prune *prune, const char *directory)
{
    FILE *script = gnuplot_script();
    char  path[4096];
    int   result = 0;

    if (script == NULL) {
        snprintf(prune->error, sizeof prune->error, "no temporary file: %s",
                 strerror(errno));
        return -1;
    }
    result = plot_pruning(script, &prune->study, prune->error, sizeof prune->error);
    for (int f = 0; result == 0 && f < GNUPLOT_FORMATS; f++) {
        if (prune->format == FORMAT_BOTH || prune->format == f) {
            result = gnuplot_draw(script, (enum gnuplot_format) f, directory, "pruning",
                                  path, sizeof path, prune->error, sizeof prune->error);
            if (result == 0 && !prune->json) {
                printf("  %s\n", path);
            }
        }
    }
    fclose(script);
    return result;
}

static int study(struct prune *prune)
{
    const char *directory = prune->out != NULL ? prune->out : prune->study.adapter;
    int         status = take_settings(prune);

    if (status != 0) {
        return status;
    }
    prune->study.model = prune->model;
    prune->study.data = prune->data_path;
    if (prune->out != NULL && mkdir(prune->out, 0777) != 0 && errno != EEXIST) {
        return complain("%s: %s", prune->out, strerror(errno));
    }
    if (open_all(prune) != 0 || make_points(prune) != 0 || measure_all(prune) != 0) {
        return complain("%s", prune->error);
    }
    if ((prune->json ? pruning_print_json(&prune->study)
                     : pruning_print(&prune->study)) != 0) {
        return complain("out of memory, or the name of a file is not UTF-8");
    }
    if (pruning_write(&prune->study, directory, prune->error, sizeof prune->error) != 0 ||
        (prune->format != FORMAT_NONE && draw(prune, directory) != 0)) {
        return complain("%s", prune->error);
    }
    return 0;
}

static void prune_free(struct prune *prune)
{
    for (int64_t i = 0; i < prune->study.points; i++) {
        free(prune->study.point[i].random);
    }
    free(prune->study.point);
    free(prune->percent);
    rank_values_free(&prune->values);
    data_free(&prune->data);
    open_free(&prune->opened);
    run_free(&prune->run);
    for (size_t i = 0; i < sizeof prune->joined / sizeof prune->joined[0]; i++) {
        free(prune->joined[i]);
    }
}

/* "run" of "runs/run/"; cuts the slashes at its end. */
static const char *last_part(char *path)
{
    size_t      length = strlen(path);
    const char *slash;

    while (length > 1 && path[length - 1] == '/') {
        path[--length] = '\0';
    }
    slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

int command_prune(int argc, char **argv)
{
    struct prune prune = {
        .by = KEEP_BY_ANY, .scope = KEEP_MODULE, .format = FORMAT_BOTH, .study.seeds = 5
    };
    int status;

    struct flag flags[] = {
        { .name = "model",
          .type = FLAG_FILE,
          .value = &prune.model,
          .help = "the base: directory or file (the run's)" },
        { .name = "data",
          .type = FLAG_FILE,
          .value = &prune.data_path,
          .help = ".jsonl, .u16, .u32, or text (the run's --eval-data)" },
        { .name = "tokenizer",
          .type = FLAG_FILE,
          .value = &prune.tokenizer,
          .help = "a tokenizer's file, or: bytes (the run's, or the model's)" },
        { .name = "shares",
          .type = FLAG_INTEGER,
          .value = &prune.shares,
          .low = 1,
          .high = 1000,
          .help = "how many (each rank up to 16, otherwise 10)" },
        { .name = "seeds",
          .type = FLAG_INTEGER,
          .value = &prune.study.seeds,
          .low = 1,
          .high = 1000,
          .help = "random orders (default 5)" },
        { .name = "keep-by",
          .type = FLAG_CHOICE,
          .value = &prune.by,
          .choices = keep_by_names,
          .help = "what is best (importance, where there are scores)" },
        { .name = "keep-scope",
          .type = FLAG_CHOICE,
          .value = &prune.scope,
          .choices = keep_scope_names,
          .help = "a share of each module, or of all ranks (module)" },
        { .name = "context",
          .type = FLAG_INTEGER,
          .value = &prune.context,
          .low = 1,
          .high = INT_MAX,
          .help = "ids of a window or example (the run's, or as eval's)" },
        { .name = "batch",
          .type = FLAG_INTEGER,
          .value = &prune.batch,
          .low = 1,
          .high = INT_MAX,
          .help = "windows or examples at once (the run's, or 8)" },
        { .name = "threads",
          .type = FLAG_INTEGER,
          .value = &prune.threads,
          .low = 0,
          .high = THREADS_MOST,
          .help = "that share the work (0: one for each processor)" },
        { .name = "out",
          .type = FLAG_DIRECTORY,
          .value = &prune.out,
          .help = "where the files go (default: to the adapter)" },
        { .name = "format",
          .type = FLAG_CHOICE,
          .value = &prune.format,
          .choices = formats,
          .help = "of the picture (default both)" },
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &prune.json,
          .help = "print one JSON object instead of the table" },
    };
    struct command_line line = {
        .usage =
            "beamlora prune RUN [flags]\n"
            "\n"
            "Evaluates an adapter with more and more of its ranks: the best first, the "
            "worst\nfirst, and at random. Prints a table, writes pruning.jsonl and draws "
            "pruning.png\nand .svg, which needs gnuplot (Debian: gnuplot-nox).",
        .argument = "RUN",
        .argument_help = "run folder, or PEFT adapter directory",
        .argument_type = FLAG_DIRECTORY,
        .least = 1,
        .most = 1,
    };

    status =
        parse_arguments(argc, argv, &line, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    prune.study.name = last_part(argv[0]);
    prune.study.adapter = argv[0];
    prune.study.scope = (enum keep_scope) prune.scope;
    status = study(&prune);
    prune_free(&prune);
    return status;
}
