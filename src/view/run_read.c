/* See run_read.h. */
#define _XOPEN_SOURCE 700 /* realpath */

#include "view/run_read.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/line.h"
#include "view/run_lines.h"

#define MOST_RANKS (1 << 24) /* of all modules; far above any model */

static const char *const actions[] = { "history", "current", "fresh",
                                       "removed", "skip",    "given up" };

_Static_assert(sizeof actions / sizeof actions[0] == RUN_ACTIONS, "one name an action");

const char *run_action_name(enum run_action action)
{
    return actions[action];
}

int run_move_counts(const struct run_move *move)
{
    return move->action != RUN_SKIP;
}

/* Room for one more element in *array, which has `count`; NULL when there is none. */
static void *grow(void *array, int64_t count, size_t element)
{
    if (count > 0 && (count & (count - 1)) != 0) {
        return array; /* doubled at powers of two alone */
    }
    return realloc(array, (size_t) (count > 0 ? 2 * count : 1) * element);
}

/* ===== log.jsonl ========================================================== */

static int take_evaluation(struct run *run, int64_t step, const json_t *line,
                           const struct place *place)
{
    struct run_evaluation evaluation = { .step = step };
    void *grown = grow(run->evaluation, run->evaluations, sizeof *run->evaluation);

    if (grown == NULL) {
        return place_fail(place, "out of memory");
    }
    run->evaluation = grown;
    if (member_real(&evaluation.loss, line, "loss", place) != 0 ||
        member_integer(&evaluation.tokens, line, "tokens", 0, INT64_MAX, place) != 0) {
        return -1;
    }
    if (json_object_get(line, "examples") != NULL &&
        (member_integer(&evaluation.examples, line, "examples", 0, INT64_MAX, place) !=
             0 ||
         member_integer(&evaluation.exact, line, "exact", 0, evaluation.examples,
                        place) != 0)) {
        return -1;
    }
    run->evaluation[run->evaluations++] = evaluation;
    return 0;
}

static int take_log(struct run *run, const json_t *line, const struct place *place)
{
    const json_t   *evaluation = json_object_get(line, "eval");
    struct run_step step;
    void           *grown;

    if (member_integer(&step.step, line, "step", 0, INT64_MAX, place) != 0) {
        return -1;
    }
    if (step.step < run->done_steps) {
        return place_fail_key(place, "step", "is below that of the line before");
    }
    if (evaluation != NULL) {
        return take_evaluation(run, step.step, evaluation, place);
    }
    if (member_real(&step.loss, line, "loss", place) != 0) {
        return -1;
    }
    grown = grow(run->step, run->steps, sizeof *run->step);
    if (grown == NULL) {
        return place_fail(place, "out of memory");
    }
    run->step = grown;
    run->step[run->steps++] = step;
    run->done_steps = step.step;
    return 0;
}

/* ===== ranks.jsonl ======================================================== */

/* Runs whose ranks do not move may leave it out. */
static int take_capacity(struct run_module *module, const json_t *entry,
                         const struct place *place)
{
    module->capacity = module->rank;
    return json_object_get(entry, "capacity") == NULL
               ? 0
               : member_integer(&module->capacity, entry, "capacity", module->rank,
                                MOST_RANKS, place);
}

static int take_modules(struct run *run, const json_t *line, const struct place *place)
{
    const json_t *list;

    if (member_array(&list, line, "modules", -1, place) != 0) {
        return -1;
    }
    run->module = calloc(json_array_size(list) + 1, sizeof *run->module);
    if (run->module == NULL) {
        return place_fail(place, "out of memory");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t      *entry = json_array_get(list, i);
        const char        *name = json_string_value(json_object_get(entry, "name"));
        struct run_module *module = &run->module[run->modules];

        if (name == NULL) {
            return place_fail_key(place, "name", "must be a string in every module");
        }
        if (member_integer(&module->in, entry, "in", 1, INT32_MAX, place) != 0 ||
            member_integer(&module->out, entry, "out", 1, INT32_MAX, place) != 0 ||
            member_integer(&module->rank, entry, "rank", 1, MOST_RANKS, place) != 0 ||
            take_capacity(module, entry, place) != 0) {
            return -1;
        }
        module->first = run->ranks;
        run->ranks += module->capacity;
        if (run->ranks > MOST_RANKS) {
            return place_fail(place, "more ranks than any model has");
        }
        module->name = strdup(name);
        if (module->name == NULL) {
            return place_fail(place, "out of memory");
        }
        run->modules++;
    }
    return 0;
}

/* [modules][ranks at that step] into a row of all ranks, NaN where there is none. */
static int take_ranks(const struct run *run, double *out, const json_t *line,
                      const char *key, const struct place *place)
{
    const json_t *list, *values;
    const int     moves = run_ranks_move(run);

    if (member_array(&list, line, key, run->modules, place) != 0) {
        return -1;
    }
    for (int64_t m = 0; m < run->modules; m++) {
        const struct run_module *module = &run->module[m];

        values = json_array_get(list, (size_t) m);
        int64_t ranks = (int64_t) json_array_size(values);

        if (ranks > module->capacity || ranks < (moves ? 1 : module->rank)) {
            char what[96];

            snprintf(what, sizeof what,
                     "has %" PRId64 " ranks for module %" PRId64 ", must have %s%" PRId64,
                     ranks, m, moves ? "1 to " : "", module->capacity);
            return place_fail_key(place, key, what);
        }
        for (int64_t r = 0; r < module->capacity; r++) {
            if (r >= ranks) {
                out[module->first + r] = (double) NAN;
            } else if (member_to_real(&out[module->first + r],
                                      json_array_get(values, (size_t) r)) != 0) {
                return place_fail_key(place, key, "must hold numbers or null");
            }
        }
    }
    return 0;
}

static int count_ranks(const struct run *run, struct run_sample *sample,
                       const json_t *norms, const struct place *place)
{
    sample->kept = calloc((size_t) run->modules + 1, sizeof(double));
    if (sample->kept == NULL) {
        return place_fail(place, "out of memory");
    }
    for (int64_t m = 0; m < run->modules; m++) {
        sample->kept[m] = (double) json_array_size(json_array_get(norms, (size_t) m));
    }
    return 0;
}

/* AdaLoRA's, or how many there are where ranks move, into the newest sample */
static int take_kept(struct run *run, const json_t *line, const struct place *place)
{
    struct run_sample *sample = &run->sample[run->samples - 1];
    const json_t      *list;
    const int          moves = run_ranks_move(run);

    if (json_object_get(line, "kept") == NULL && !moves) {
        return 0;
    }
    if (moves) {
        return count_ranks(run, sample, json_object_get(line, "norm"), place);
    }
    if (member_array(&list, line, "kept", run->modules, place) != 0) {
        return -1;
    }
    sample->kept = calloc((size_t) run->modules + 1, sizeof(double));
    if (sample->kept == NULL) {
        return place_fail(place, "out of memory");
    }
    for (int64_t m = 0; m < run->modules; m++) {
        const json_t *value = json_array_get(list, (size_t) m);

        sample->kept[m] = json_number_value(value);
        if (!json_is_integer(value) || sample->kept[m] < 0 ||
            sample->kept[m] > (double) run->module[m].rank) {
            return place_fail_key(place, "kept",
                                  "must hold numbers of the modules' ranks");
        }
    }
    return 0;
}

static int take_sample(struct run *run, const json_t *line, const struct place *place)
{
    struct run_sample sample = { 0 };
    void             *grown;

    if (run->module == NULL) {
        return take_modules(run, line, place);
    }
    if (member_integer(&sample.step, line, "step", 0, INT64_MAX, place) != 0) {
        return -1;
    }
    if (run->samples > 0 && sample.step < run->sample[run->samples - 1].step) {
        return place_fail_key(place, "step", "is below that of the line before");
    }
    /* the line that is due every so many steps may follow, without the mark */
    sample.after = json_is_true(json_object_get(line, "after")) ||
                   (run->samples > 0 && run->sample[run->samples - 1].after &&
                    run->sample[run->samples - 1].step == sample.step);
    grown = grow(run->sample, run->samples, sizeof *run->sample);
    if (grown == NULL) {
        return place_fail(place, "out of memory");
    }
    run->sample = grown;
    sample.importance = calloc((size_t) run->ranks + 1, sizeof(double));
    sample.norm = calloc((size_t) run->ranks + 1, sizeof(double));
    run->sample[run->samples++] = sample; /* freed with the run from here on */
    if (sample.importance == NULL || sample.norm == NULL) {
        return place_fail(place, "out of memory");
    }
    return take_ranks(run, sample.importance, line, "importance", place) != 0 ||
                   take_ranks(run, sample.norm, line, "norm", place) != 0
               ? -1
               : take_kept(run, line, place);
}

/* ===== plans.jsonl ======================================================== */

static int to_integer(int64_t *out, const json_t *array, size_t index, int64_t low,
                      int64_t high)
{
    const json_t *value = json_array_get(array, index);

    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= low && *out <= high ? 0 : -1;
}

static int to_action(enum run_action *out, const json_t *value)
{
    for (int k = 0; json_is_string(value) && k < RUN_ACTIONS; k++) {
        if (strcmp(json_string_value(value), actions[k]) == 0) {
            *out = (enum run_action) k;
            return 0;
        }
    }
    return -1;
}

static int take_moves(const struct run *run, struct run_plan *plan, const json_t *line,
                      const struct place *place)
{
    const json_t *module, *pruned, *source, *action, *age, *importance;

    if (member_array(&module, line, "module", -1, place) != 0) {
        return -1;
    }

    int64_t count = (int64_t) json_array_size(module);

    if (member_array(&pruned, line, "pruned", count, place) != 0 ||
        member_array(&source, line, "source", count, place) != 0 ||
        member_array(&action, line, "action", count, place) != 0 ||
        member_array(&age, line, "age", count, place) != 0 ||
        member_array(&importance, line, "importance", count, place) != 0) {
        return -1;
    }
    plan->move = calloc((size_t) count + 1, sizeof *plan->move);
    if (plan->move == NULL) {
        return place_fail(place, "out of memory");
    }
    for (size_t i = 0; i < (size_t) count; i++) {
        struct run_move *move = &plan->move[i];

        if (to_integer(&move->module, module, i, 0, run->modules - 1) != 0) {
            return place_fail_key(place, "module",
                                  "names a module that ranks.jsonl does not");
        }
        if (to_integer(&move->rank, pruned, i, 0,
                       run->module[move->module].capacity - 1) != 0) {
            return place_fail_key(place, "pruned",
                                  "names a rank that its module has not");
        }
        if (to_integer(&move->source, source, i, -1,
                       run->module[move->module].capacity - 1) != 0) {
            return place_fail_key(place, "source",
                                  "names a rank that its module has not");
        }
        if (to_integer(&move->age, age, i, -1, INT64_MAX) != 0) {
            return place_fail_key(place, "age", "must hold whole numbers of -1 or more");
        }
        if (to_action(&move->action, json_array_get(action, i)) != 0) {
            return place_fail_key(place, "action", "holds no action");
        }
        if (member_to_real(&move->importance, json_array_get(importance, i)) != 0) {
            return place_fail_key(place, "importance", "must hold numbers or null");
        }
    }
    plan->moves = count;
    return 0;
}

static int take_plan(struct run *run, const json_t *line, const struct place *place)
{
    struct run_plan plan = { 0 };
    void           *grown = grow(run->plan, run->plans, sizeof *run->plan);

    if (grown == NULL) {
        return place_fail(place, "out of memory");
    }
    run->plan = grown;
    if (member_integer(&plan.step, line, "step", 0, INT64_MAX, place) != 0 ||
        member_real(&plan.p, line, "p", place) != 0) {
        return -1;
    }
    if (take_moves(run, &plan, line, place) != 0) {
        free(plan.move);
        return -1;
    }
    run->plan[run->plans++] = plan;
    return 0;
}

/* ===== run.json and the whole ============================================= */

int run_exists(const char *directory)
{
    char        path[PATH_MAX];
    struct stat about;

    return (size_t) snprintf(path, sizeof path, "%s/run.json", directory) < sizeof path &&
           stat(path, &about) == 0;
}

/* "b" of "a/b", "a/b/"; of "." and ".." that of the real path. */
static char *last_part(const char *directory)
{
    char       *real = realpath(directory, NULL);
    const char *path = real != NULL ? real : directory;
    const char *slash = strrchr(path, '/');
    char       *name = strdup(slash != NULL && slash[1] != '\0' ? slash + 1 : path);

    free(real);
    return name;
}

static int read_start(struct run *run, char *error, size_t size)
{
    char          path[PATH_MAX];
    json_error_t  why;
    const json_t *steps;
    const char   *method;

    if ((size_t) snprintf(path, sizeof path, "%s/run.json", run->directory) >=
        sizeof path) {
        snprintf(error, size, "%.300s: too long a path", run->directory);
        return -1;
    }
    errno = 0;
    run->root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (run->root == NULL) {
        if (errno == ENOENT) {
            snprintf(error, size, "%.300s: no run folder, there is no run.json in it",
                     run->directory);
        } else if (why.line < 0) {
            snprintf(error, size, "%.300s: %s", path,
                     errno != 0 ? strerror(errno) : why.text);
        } else {
            snprintf(error, size, "%.300s:%d: %s", path, why.line, why.text);
            line_clean(error);
        }
        return -1;
    }
    run->settings = json_object_get(run->root, "settings");
    if (!json_is_object(run->settings)) {
        snprintf(error, size, "%.300s: \"settings\" must be an object", path);
        return -1;
    }
    method = json_string_value(json_object_get(run->settings, "method"));
    snprintf(run->method, sizeof run->method, "%s", method != NULL ? method : "");
    steps = json_object_get(run->settings, "steps");
    run->total_steps = json_is_integer(steps) ? json_integer_value(steps) : 0;
    return 0;
}

int run_read(struct run *run, const char *directory, char *error, size_t size)
{
    *run = (struct run){ .directory = strdup(directory), .name = last_part(directory) };
    if (run->directory == NULL || run->name == NULL) {
        snprintf(error, size, "out of memory");
        run_free(run);
        return -1;
    }
    if (read_start(run, error, size) != 0 ||
        run_lines_read(run, "log.jsonl", take_log, error, size) != 0 ||
        run_lines_read(run, "ranks.jsonl", take_sample, error, size) != 0 ||
        run_lines_read(run, "plans.jsonl", take_plan, error, size) != 0) {
        run_free(run);
        return -1;
    }
    run->finished = run->total_steps > 0 && run->done_steps >= run->total_steps;
    return 0;
}

void run_free(struct run *run)
{
    for (int64_t i = 0; i < run->modules; i++) {
        free(run->module[i].name);
    }
    for (int64_t i = 0; i < run->samples; i++) {
        free(run->sample[i].importance);
        free(run->sample[i].kept);
        free(run->sample[i].norm);
    }
    for (int64_t i = 0; i < run->plans; i++) {
        free(run->plan[i].move);
    }
    free(run->module);
    free(run->sample);
    free(run->plan);
    free(run->step);
    free(run->evaluation);
    json_decref(run->root);
    free(run->directory);
    free(run->name);
    *run = (struct run){ 0 };
}

/* ===== Figures ============================================================ */

double run_train_loss(const struct run *run, int last)
{
    int64_t tenth = run->steps / 10 > 0 ? run->steps / 10 : 1, count = 0;
    double  sum = 0;

    for (int64_t i = 0; i < tenth && i < run->steps; i++) {
        double loss = run->step[last ? run->steps - 1 - i : i].loss;

        if (!isnan(loss)) {
            sum += loss;
            count++;
        }
    }
    return count > 0 ? sum / (double) count : (double) NAN;
}

int64_t run_ranks_at(const struct run *run, const struct run_sample *sample,
                     const struct run_module *module)
{
    return run_ranks_move(run) ? (int64_t) sample->kept[module - run->module]
                               : module->rank;
}

int run_ranks_move(const struct run *run)
{
    for (int64_t m = 0; m < run->modules; m++) {
        if (run->module[m].capacity > run->module[m].rank) {
            return 1;
        }
    }
    return 0;
}

int run_is_beamlora(const struct run *run)
{
    return strncmp(run->method, "beamlora", 8) == 0;
}

int run_has_scores(const struct run *run)
{
    for (int64_t s = 0; s < run->samples; s++) {
        for (int64_t i = 0; i < run->ranks; i++) {
            if (run->sample[s].importance[i] != 1 &&
                !isnan(run->sample[s].importance[i])) {
                return 1;
            }
        }
    }
    return run_is_beamlora(run);
}
