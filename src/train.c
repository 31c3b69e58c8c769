/*
 * beamlora train: one training, from the flags to the report. It can end at any step, by
 * Ctrl-C, by kill -9 or with the machine's power, and go on from the last checkpoint to
 * the same files.
 */
#define _POSIX_C_SOURCE 200809L

#include "train/train.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECKPOINT_SECONDS 60 /* at least between two, if --checkpoint-every is 0 */
#define CHECKPOINT_SHARE 20   /* and this times what one takes                    */
#define INTERRUPTED 130       /* exit status after Ctrl-C, as a shell has it      */

/* ===== Preparation ======================================================== */

/* run.json; automatic values are worked out once there are adapters. */
static int write_run(struct train *train)
{
    bl_options resolved = train->options;
    json_t    *settings = start_settings(train->flags, train->flag_count);
    int        result;

    json_object_del(settings, "resume");
    json_object_del(settings, "overwrite");
    if (train->adapters.group != NULL) {
        bl_group_copy_options(train->adapters.group, &resolved);
    }
    settings_resolved(&train->settings, &resolved, settings);
    result = start_write(&train->start, settings, train->folder.path, train->error,
                         sizeof train->error);
    json_decref(settings);
    return result;
}

/* Before hours of training, not after them. A new folder says at once what it is for, so
 * that a run killed while it loads can be resumed too. */
static int open_folder(struct train *train)
{
    char  *error = train->error;
    size_t size = sizeof train->error;

    if (train->resume != NULL) {
        return folder_open(&train->folder, train->resume, error, size);
    }
    if (train->out == NULL) {
        complain("note: without --out nothing is kept");
        return 0;
    }
    if (folder_create(&train->folder, train->out, train->overwrite, error, size) != 0) {
        return -1;
    }
    return train->folder.fresh ? write_run(train) : 0;
}

static int load_data(struct train *train, struct data *data, const char *path,
                     int64_t window)
{
    char note[MESSAGE_SIZE];

    if (data_load(data, path, train->tokenizer, train->model->config.vocab,
                  train->context, train->error, sizeof train->error) != 0 ||
        data_check(data, path, window, train->error, sizeof train->error) != 0) {
        return -1;
    }
    if (data_note(data, path, train->context, note, sizeof note)) {
        complain("note: %s", note);
    }
    return 0;
}

static int given(const struct train *train, const char *name)
{
    for (int i = 0; i < train->flag_count; i++) {
        if (train->flags[i].given && strcmp(train->flags[i].name, name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Adapters as --init-adapter has them. */
static int start_adapters(struct train *train)
{
    const bl_options    *o = &train->options;
    struct adapter_start start = { .targets = train->targets_list };

    start.source.path = train->init_path;
    start.source.alpha = given(train, "alpha") ? o->alpha : 0;
    start.source.temperature = given(train, "temperature") ? o->temperature : 0;
    start.rank = given(train, "rank") ? o->rank : 0;
    if (adapters_start(&train->adapters, train->model, &start, &train->options,
                       train->error, sizeof train->error) != 0) {
        return -1;
    }
    if (start.assumed) {
        complain("note: %s does not say the temperature of its scores: %g is taken, or "
                 "what --temperature says",
                 train->init_path, start.source.temperature);
    }
    return 0;
}

/* The parameters: all weights, or adapters beside them. */
static int create_parameters(struct train *train)
{
    const bl_options *o = &train->options;
    char             *error = train->error;
    size_t            size = sizeof train->error;

    if (settings_is_full(&train->settings)) {
        return full_create(&train->full, train->model, o->beta1, o->beta2, o->epsilon,
                           o->weight_decay, error, size);
    }
    if (train->init_path != NULL) {
        if (start_adapters(train) != 0) {
            return -1;
        }
    } else if (adapters_create(&train->adapters, train->model, train->targets_list, o,
                               error, size) != 0) {
        return -1;
    }
    if (o->reallocation && bl_plan_create(&train->plan, train->adapters.group) != 0) {
        snprintf(error, size, "reallocation: %s", bl_last_error());
        return -1;
    }
    return 0;
}

/* Before its activations are made. */
static int predict_memory(struct train *train, int flags)
{
    struct footprint *footprint = &train->footprint;
    struct windows    step = { train->batch, train->context }, evaluation = { 0, 0 };
    int64_t           ids = step.batch * train->accumulate * step.context;

    if (train->eval_path != NULL) {
        evaluation = step;
        evaluate_room(&train->eval_data, &evaluation.context, &evaluation.batch);
    }
    if (footprint_measure(footprint, train->model, train_adapters(train), step, flags,
                          evaluation, train->error, sizeof train->error) != 0) {
        return -1;
    }
    footprint->data =
        4.0 * (double) (train->data.count + train->eval_data.count + 2 * ids);
    if (train->full != NULL) {
        footprint->parameters = 16 * (double) full_parameters(train->full);
    }
    return footprint_check(footprint, train->error, sizeof train->error);
}

static int prepare(struct train *train)
{
    char  *error = train->error;
    size_t size = sizeof train->error;
    size_t ids = (size_t) (train->batch * train->accumulate * train->context);
    int    flags = LLAMA_KEEP | (train->recompute ? LLAMA_RECOMPUTE : 0);
    int    text = data_is_text(train->data_path) ||
               (train->eval_path != NULL && data_is_text(train->eval_path));

    if (llama_load(&train->model, train->model_path, error, size) != 0 ||
        threads_create(&train->threads, train->thread_count, error, size) != 0) {
        return -1;
    }
    train->model->threads = train->threads;
    if (((text || train->tokenizer_path != NULL) &&
         tokenizer_open(&train->tokenizer, train->tokenizer_path, train->model_path,
                        &train->model->config, error, size) != 0) ||
        load_data(train, &train->data, train->data_path, train->context) != 0 ||
        /* evaluation makes do with a shorter window */
        (train->eval_path != NULL &&
         load_data(train, &train->eval_data, train->eval_path, 1) != 0) ||
        create_parameters(train) != 0 || predict_memory(train, flags) != 0 ||
        llama_pass_create(&train->pass, train->model, train_adapters(train), train->batch,
                          train->context, flags, error, size) != 0) {
        return -1;
    }
    if (train->full != NULL) {
        llama_pass_train_weights(train->pass, full_gradients(train->full));
    }
    train->ids = malloc(ids * sizeof *train->ids);
    train->targets = malloc(ids * sizeof *train->targets);
    train->lengths = calloc((size_t) train->accumulate, sizeof *train->lengths);
    if (train->ids == NULL || train->targets == NULL || train->lengths == NULL) {
        snprintf(error, size, "out of memory for a step of %zu ids", ids);
        return -1;
    }
    if (train->ranks_every == 0) {
        train->ranks_every = train->steps >= 100 ? train->steps / 100 : 1;
    }
    return 0;
}

static void release(struct train *train, int undo)
{
    folder_close(&train->folder, undo);
    free(train->lengths);
    free(train->targets);
    free(train->ids);
    bl_plan_free(train->plan);
    llama_pass_free(train->pass);
    adapters_free(&train->adapters);
    data_free(&train->eval_data);
    data_free(&train->data);
    tokenizer_free(train->tokenizer);
    llama_free(train->model);
    full_free(train->full);
    threads_free(train->threads);
    start_free(&train->start);
    start_free(&train->before);
}

/* ===== Checkpoints ======================================================== */

static volatile sig_atomic_t interrupted;

/* The first signal lets the step end and a checkpoint be written; a second one kills. */
static void interrupt(int signal)
{
    (void) signal;
    interrupted = 1;
}

static void catch_signals(void)
{
    struct sigaction action = { .sa_handler = interrupt, .sa_flags = (int) SA_RESETHAND };

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static struct checkpoint checkpoint_of(struct train *train)
{
    return (struct checkpoint){ .group = train->adapters.group,
                                .full = train->full,
                                .totals = train->totals,
                                .data = data_hash(&train->data) };
}

static int save(struct train *train)
{
    struct checkpoint checkpoint = checkpoint_of(train);
    double            start = seconds();
    char             *path =
        folder_file(&train->folder, FOLDER_CHECKPOINT, train->error, sizeof train->error);
    int result = -1;

    if (path != NULL && folder_sync(&train->folder, checkpoint.lines, train->error,
                                    sizeof train->error) == 0) {
        result = checkpoint_save(&checkpoint, path, train->error, sizeof train->error);
    }
    free(path);
    train->saved = seconds();
    train->save_cost = train->saved - start;
    return result;
}

static int save_is_due(const struct train *train)
{
    double wait = CHECKPOINT_SHARE * train->save_cost;

    if (train->folder.path == NULL) {
        return 0;
    }
    if (interrupted || train->totals.step == train->steps) {
        return 1;
    }
    if (train->checkpoint_every > 0) {
        return train->totals.step % train->checkpoint_every == 0;
    }
    return seconds() - train->saved >= fmax(CHECKPOINT_SECONDS, wait);
}

/* 1: there is no checkpoint yet. */
static int load(struct train *train)
{
    struct checkpoint checkpoint = checkpoint_of(train);
    char             *path =
        folder_file(&train->folder, FOLDER_CHECKPOINT, train->error, sizeof train->error);
    int result = -1;

    if (path == NULL) {
        snprintf(train->error, sizeof train->error, "out of memory");
    } else {
        result = checkpoint_load(&checkpoint, path, train->error, sizeof train->error);
    }
    free(path);
    if (result == 0) {
        train->totals = checkpoint.totals;
        result = folder_rewind(&train->folder, checkpoint.lines, train->error,
                               sizeof train->error);
    }
    return result;
}

/* ===== The whole ========================================================== */

/* before: the bare model is measured, or with the adapter that it begins with */
static int measure(struct train *train, int before, struct evaluation *result)
{
    int bare = before && train->init_path == NULL;

    if (train->eval_path == NULL) {
        return 0;
    }
    if (evaluate(train->model, bare ? NULL : train_adapters(train), &train->eval_data,
                 train->context, train->batch, result, train->error,
                 sizeof train->error) != 0) {
        return -1;
    }
    return train_log_eval(train, result);
}

/* From the beginning, or from where the checkpoint stands. */
static int begin(struct train *train)
{
    int status = train->resume != NULL ? load(train) : 1;

    if (status < 0) {
        return -1;
    }
    if (status == 0) {
        complain("resuming after step %" PRId64, train->totals.step);
        return 0;
    }
    if (train->resume != NULL) {
        complain("no checkpoint yet: starting from the beginning");
    }
    if (train->folder.path != NULL &&
        (folder_begin(&train->folder, train->error, sizeof train->error) != 0 ||
         write_run(train) != 0)) {
        return -1;
    }
    return measure(train, 1, &train->totals.before) != 0 ||
                   train_log_modules(train) != 0 || train_log_ranks(train, 0) != 0
               ? -1
               : 0;
}

/* What is due after a step: lines, an evaluation, a checkpoint. */
static int follow_up(struct train *train)
{
    int64_t step = train->totals.step;
    int     last = step == train->steps;

    if ((last || step % train->ranks_every == 0) && train->ranks_step != step &&
        train_log_ranks(train, 0) != 0) {
        return -1;
    }
    if ((last || (train->eval_every > 0 && step % train->eval_every == 0)) &&
        measure(train, 0, &train->totals.after) != 0) {
        return -1;
    }
    return save_is_due(train) ? save(train) : 0;
}

static int write_result(struct train *train)
{
    if (train->folder.path == NULL) {
        return 0;
    }
    if (train->full != NULL) {
        return llama_save(train->model, train->folder.path,
                          train->save_dtype == 1 ? BL_BF16 : BL_F32, train->error,
                          sizeof train->error);
    }
    return adapters_save(&train->adapters, train->model, train->model_name,
                         train->folder.path, train->error, sizeof train->error);
}

static int run(struct train *train)
{
    catch_signals();
    if (begin(train) != 0) {
        return -1;
    }
    train->saved = seconds();
    progress_start(&train->progress, train->steps, train->totals.step);
    while (train->totals.step < train->steps && !interrupted) {
        if (train_step(train) != 0 || follow_up(train) != 0) {
            progress_end(&train->progress);
            return -1;
        }
    }
    progress_end(&train->progress);
    return write_result(train);
}

int command_train(int argc, char **argv)
{
    struct train train = { 0 };
    int          status = train_parse(&train, argc, argv), began = 0;

    if (status > 0) {
        release(&train, 0);
        return status == 1 ? 0 : status;
    }
    if (status == 0) {
        status = open_folder(&train) != 0 || prepare(&train) != 0 ? -1 : 0;
    }
    if (status == 0) {
        began = 1;
        status = run(&train);
    }
    if (status != 0) {
        status = complain("%s", train.error);
    } else if (train.totals.step < train.steps) {
        status = INTERRUPTED;
        if (train.folder.path != NULL) {
            complain("stopped after step %" PRId64 "; beamlora train --resume %s goes on",
                     train.totals.step, train.folder.path);
        } else {
            complain("stopped after step %" PRId64, train.totals.step);
        }
    } else {
        train_report(&train);
    }
    release(&train, !began && train.resume == NULL);
    return status;
}
