/*
 * `beamlora compare`: results of runs side by side, a row for each group of runs that
 * differ by their seed alone. Only finished runs count, and where groups share seeds the
 * difference is taken seed by seed, which leaves out what the seed alone does.
 */
#include "base/program.h"

#include "view/run_group.h"
#include "view/run_read.h"
#include "view/table.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum figure { BEFORE, AFTER, EXACT_BEFORE, EXACT_AFTER, TRAIN, MOVED, FIGURES };

static const char *const figure_names[FIGURES] = { "eval_loss_before", "eval_loss",
                                                   "exact_before",     "exact",
                                                   "train_loss",       "ranks_moved" };

struct statistic {
    double  mean, sd; /* NaN: not known; sd with n - 1 */
    int64_t count;
};

struct comparison {
    struct run       *run;
    int64_t           runs;
    int              *counts; /* [runs] or was it left out? */
    struct run_groups groups;
    int64_t           base;  /* the first group with runs that count */
    json_t           *notes; /* array of strings */
};

/* ===== Figures ============================================================ */

static double exact_share(const struct run_evaluation *evaluation)
{
    return evaluation->examples > 0
               ? 100.0 * (double) evaluation->exact / (double) evaluation->examples
               : (double) NAN;
}

static double ranks_moved(const struct run *run)
{
    double moved = 0;

    for (int64_t i = 0; i < run->plans; i++) {
        for (int64_t k = 0; k < run->plan[i].moves; k++) {
            moved += run_move_counts(&run->plan[i].move[k]);
        }
    }
    return moved;
}

static double figure_of(const struct run *run, enum figure figure)
{
    const struct run_evaluation *first = run->evaluation;
    const struct run_evaluation *last =
        run->evaluations > 0 ? &run->evaluation[run->evaluations - 1] : NULL;
    const struct run_evaluation *from =
        figure == BEFORE || figure == EXACT_BEFORE ? first : last;

    if (figure == TRAIN) {
        return run_train_loss(run, 1);
    }
    if (figure == MOVED) {
        return ranks_moved(run);
    }
    if (from == NULL || from->step != (from == last ? run->done_steps : 0)) {
        return (double) NAN;
    }
    return figure == BEFORE || figure == AFTER ? from->loss : exact_share(from);
}

/* NaN as soon as one value is: a mean of some of the runs would be another thing. */
static struct statistic statistic_of(const double *values, int64_t count)
{
    struct statistic result = { 0, 0, count };

    for (int64_t i = 0; i < count; i++) {
        result.mean += values[i] / (double) count;
    }
    for (int64_t i = 0; i < count; i++) {
        result.sd += (values[i] - result.mean) * (values[i] - result.mean);
    }
    result.sd = count > 1 ? sqrt(result.sd / (double) (count - 1)) : (double) NAN;
    if (count == 0) {
        result.mean = (double) NAN;
    }
    return result;
}

/* `values` has room for all runs. */
static struct statistic group_statistic(const struct comparison *all,
                                        const struct run_group *group, enum figure figure,
                                        double *values)
{
    int64_t count = 0;

    for (int64_t k = 0; k < group->members; k++) {
        if (all->counts[group->member[k]]) {
            values[count++] = figure_of(&all->run[group->member[k]], figure);
        }
    }
    return statistic_of(values, count);
}

static const json_t *seed_of(const struct run *run)
{
    return json_object_get(run->settings, "seed");
}

/* The run of the group that counts and has this seed, or -1. */
static int64_t find_seed(const struct comparison *all, const struct run_group *group,
                         const json_t *seed)
{
    for (int64_t k = 0; k < group->members; k++) {
        int64_t i = group->member[k];

        if (all->counts[i] && seed != NULL && json_equal(seed_of(&all->run[i]), seed)) {
            return i;
        }
    }
    return -1;
}

/* Of `group` less `base` over the seeds that both have; *below is how often the
 * difference is below 0. */
static struct statistic paired_statistic(const struct comparison *all,
                                         const struct run_group  *base,
                                         const struct run_group  *group,
                                         enum figure figure, double *values,
                                         int64_t *below, int64_t *above)
{
    int64_t count = 0;

    *below = *above = 0;
    for (int64_t k = 0; k < group->members; k++) {
        int64_t i = group->member[k];
        int64_t j = find_seed(all, base, seed_of(&all->run[i]));

        if (all->counts[i] && j >= 0) {
            double difference =
                figure_of(&all->run[i], figure) - figure_of(&all->run[j], figure);

            *below += difference < 0;
            *above += difference > 0;
            values[count++] = difference;
        }
    }
    return statistic_of(values, count);
}

/* ===== What is left out, what does not fit ================================ */

static void note(struct comparison *all, json_t *text)
{
    complain("%s", text != NULL ? json_string_value(text) : "out of memory");
    json_array_append_new(all->notes, text);
}

/* Such a run counts, and makes its row's mean unknown. */
static void note_not_finite(struct comparison *all, const struct run *run)
{
    if (run->evaluations > 0 && !isfinite(figure_of(run, AFTER))) {
        note(all, json_sprintf("%s: its loss is not finite", run->directory));
    }
}

static void leave_out(struct comparison *all)
{
    for (int64_t g = 0; g < all->groups.groups; g++) {
        const struct run_group *group = &all->groups.group[g];

        for (int64_t k = 0; k < group->members; k++) {
            int64_t           i = group->member[k], twin;
            const struct run *run = &all->run[i];

            if (run->note[0] != '\0') {
                note(all, json_sprintf("%s: %s", run->directory, run->note));
            }
            twin = find_seed(all, group, seed_of(run));
            if (!run->finished) {
                note(all, json_sprintf("%s: unfinished (%" JSON_INTEGER_FORMAT
                                       " of %" JSON_INTEGER_FORMAT " steps), left out",
                                       run->directory, (json_int_t) run->done_steps,
                                       (json_int_t) run->total_steps));
            } else if (run->evaluations > 0 &&
                       run->evaluation[run->evaluations - 1].step != run->done_steps) {
                note(all,
                     json_sprintf("%s: was not evaluated after its last step, left out",
                                  run->directory));
            } else if (twin >= 0) {
                note(all,
                     json_sprintf("%s: has the settings and the seed of %s, left out",
                                  run->directory, all->run[twin].directory));
            } else {
                all->counts[i] = 1;
                note_not_finite(all, run);
            }
        }
    }
}

/* Settings without which a difference in loss says nothing about the method. */
static void note_unlike(struct comparison *all)
{
    static const char *const keys[] = { "model",      "tokenizer", "data",
                                        "eval-data",  "steps",     "batch",
                                        "accumulate", "context",   NULL };

    for (const char *const *key = keys; *key != NULL; key++) {
        if (json_object_get(all->groups.differing, *key) != NULL) {
            note(all, json_sprintf("the runs differ in --%s: groups with another one are "
                                   "not comparable as they stand",
                                   *key));
        }
    }
}

/* ===== Text =============================================================== */

static const char *fixed(char text[TABLE_NUMBER], double value, int digits, int sign)
{
    if (!isfinite(value)) {
        return "-";
    }
    snprintf(text, TABLE_NUMBER, sign ? "%+.*f" : "%.*f", digits, value);
    return text;
}

static void add_statistic(struct table *table, struct statistic value, int digits,
                          int sign)
{
    char mean[TABLE_NUMBER], sd[TABLE_NUMBER];

    table_add(table, "%s", fixed(mean, value.mean, digits, sign));
    table_add(table, "%s", fixed(sd, value.sd, digits, 0));
}

static int has_examples(const struct comparison *all)
{
    for (int64_t i = 0; i < all->runs; i++) {
        if (all->counts[i] && isfinite(figure_of(&all->run[i], EXACT_AFTER))) {
            return 1;
        }
    }
    return 0;
}

static int has_evaluations(const struct comparison *all)
{
    for (int64_t i = 0; i < all->runs; i++) {
        if (all->counts[i] && isfinite(figure_of(&all->run[i], AFTER))) {
            return 1;
        }
    }
    return 0;
}

static void add_all(struct table *table, const char *const *cells, int count)
{
    for (int c = 0; c < count; c++) {
        table_add(table, "%s", cells[c]);
    }
}

static int print_results(const struct comparison *all, double *values, int width)
{
    static const char *const head[2][10] = {
        { "", "", "eval", "loss", "", "exact", "%", "", "ranks", "train" },
        { "settings", "seeds", "before", "after", "sd", "before", "after", "sd", "moved",
          "loss" },
    };
    int          exact = has_examples(all), evaluated = has_evaluations(all);
    struct table table;

    table_start(&table, exact ? 9 : 6);
    for (int row = 0; row < 2; row++) {
        add_all(&table, head[row], 5);
        add_all(&table, head[row] + 5, exact ? 3 : 0);
        add_all(&table, head[row] + (evaluated ? 8 : 9), 1);
    }
    for (int64_t g = 0; g < all->groups.groups; g++) {
        const struct run_group *group = &all->groups.group[g];
        struct statistic        figure[FIGURES];
        char                    text[TABLE_NUMBER];

        for (int f = 0; f < FIGURES; f++) {
            figure[f] = group_statistic(all, group, (enum figure) f, values);
        }
        if (figure[TRAIN].count == 0) {
            continue;
        }
        table_add(&table, "%s", group->label);
        table_add(&table, "%" PRId64, figure[TRAIN].count);
        table_add(&table, "%s", fixed(text, figure[BEFORE].mean, 4, 0));
        add_statistic(&table, figure[AFTER], 4, 0);
        if (exact) {
            table_add(&table, "%s", fixed(text, figure[EXACT_BEFORE].mean, 1, 0));
            add_statistic(&table, figure[EXACT_AFTER], 1, 0);
        }
        table_add(&table, "%s",
                  evaluated ? fixed(text, figure[MOVED].mean, 1, 0)
                            : fixed(text, figure[TRAIN].mean, 4, 0));
    }
    if (table_print(&table, width) != 0) {
        return -1;
    }
    printf(
        "\n  eval: on the evaluation data, before the first step and after the last, "
        "mean\n  of the seeds; sd: standard deviation over the seeds. Losses in nats%s.\n",
        exact ? ";\n  exact: examples completed exactly" : "");
    printf(evaluated
               ? "  ranks moved: by all reallocations of a run, mean of the seeds.\n"
               : "  train loss: mean of the last tenth of the steps.\n");
    return 0;
}

/* Has another group a seed of the first one's? */
static int any_paired(const struct comparison *all, double *values)
{
    int64_t below, above;

    for (int64_t g = all->base + 1; g < all->groups.groups; g++) {
        if (paired_statistic(all, &all->groups.group[all->base], &all->groups.group[g],
                             TRAIN, values, &below, &above)
                .count > 0) {
            return 1;
        }
    }
    return 0;
}

static int print_paired(const struct comparison *all, double *values, int width)
{
    static const char *const head[2][8] = {
        { "", "common", "eval", "", "", "exact", "", "" },
        { "settings", "seeds", "loss", "sd", "lower", "%", "sd", "higher" },
    };
    const struct run_group *base = &all->groups.group[all->base];
    int                     exact = has_examples(all);
    struct table            table;

    table_start(&table, exact ? 8 : 5);
    for (int row = 0; row < 2; row++) {
        add_all(&table, head[row], exact ? 8 : 5);
    }
    for (int64_t g = all->base + 1; g < all->groups.groups; g++) {
        const struct run_group *group = &all->groups.group[g];
        int64_t                 below, above;
        struct statistic        loss =
            paired_statistic(all, base, group, AFTER, values, &below, &above);

        if (loss.count == 0) {
            continue;
        }
        table_add(&table, "%s", group->label);
        table_add(&table, "%" PRId64, loss.count);
        add_statistic(&table, loss, 4, 1);
        table_add(&table, "%" PRId64 " of %" PRId64, below, loss.count);
        if (exact) {
            add_statistic(
                &table,
                paired_statistic(all, base, group, EXACT_AFTER, values, &below, &above),
                1, 1);
            table_add(&table, "%" PRId64 " of %" PRId64, above, loss.count);
        }
    }
    printf("\nDifference to \"%s\", seed by seed\n\n", base->label);
    return table_print(&table, width);
}

static void print_single(const struct comparison *all, double *values)
{
    int64_t single = 0, filled = 0;

    for (int64_t g = 0; g < all->groups.groups; g++) {
        int64_t count = group_statistic(all, &all->groups.group[g], TRAIN, values).count;

        filled += count > 0;
        single += count == 1;
    }
    if (single > 0) {
        printf(
            "\n  One seed is no comparison: how far results differ from seed to seed is "
            "not\n  known here for %" PRId64 " of %" PRId64 " rows.\n",
            single, filled);
    }
}

static int print_text(const struct comparison *all, double *values)
{
    int width = table_width();

    if (print_results(all, values, width) != 0 ||
        (any_paired(all, values) && print_paired(all, values, width) != 0)) {
        return -1;
    }
    print_single(all, values);
    return 0;
}

/* ===== JSON =============================================================== */

static json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_statistic(struct statistic value)
{
    return json_pack("{s:o, s:o, s:I}", "mean", json_number(value.mean), "sd",
                     json_number(value.sd), "seeds", (json_int_t) value.count);
}

static json_t *json_group(const struct comparison *all, int64_t g, double *values)
{
    const struct run_group *group = &all->groups.group[g];
    json_t                 *out = json_object(), *runs = json_array();
    json_t                 *settings = json_object(), *paired = json_object();
    const json_t           *given;
    const char             *key;
    int64_t                 below, above;

    json_object_set_new(out, "label", json_string(group->label));
    json_object_foreach(all->groups.differing, key, given)
    {
        json_object_set(settings, key,
                        json_object_get(all->run[group->member[0]].settings, key));
    }
    json_object_set_new(out, "settings", settings);
    for (int64_t k = 0; k < group->members; k++) {
        const struct run *run = &all->run[group->member[k]];
        json_t *entry = json_pack("{s:s, s:O?, s:b}", "directory", run->directory, "seed",
                                  seed_of(run), "counted", all->counts[group->member[k]]);

        for (int f = 0; f < FIGURES; f++) {
            json_object_set_new(entry, figure_names[f],
                                json_number(figure_of(run, (enum figure) f)));
        }
        json_array_append_new(runs, entry);
    }
    json_object_set_new(out, "runs", runs);
    for (int f = 0; f < FIGURES; f++) {
        json_object_set_new(
            out, figure_names[f],
            json_statistic(group_statistic(all, group, (enum figure) f, values)));
        json_object_set_new(
            paired, figure_names[f],
            json_statistic(paired_statistic(all, &all->groups.group[all->base], group,
                                            (enum figure) f, values, &below, &above)));
    }
    if (g > all->base) {
        json_object_set(out, "less_first", paired);
    }
    json_decref(paired);
    return out;
}

static int print_json(const struct comparison *all, double *values)
{
    json_t *out = json_object(), *groups = json_array();
    int     result;

    for (int64_t g = 0; g < all->groups.groups; g++) {
        json_array_append_new(groups, json_group(all, g, values));
    }
    json_object_set_new(out, "groups", groups);
    json_object_set(out, "notes", all->notes);
    result = json_dumpf(out, stdout, JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(out);
    return result;
}

/* ===== The command ======================================================== */

static int compare(struct comparison *all, char **directories, int64_t count, int json)
{
    char    error[MESSAGE_SIZE];
    double *values = calloc((size_t) count, sizeof *values);
    int64_t counted = 0;
    int     result;

    all->run = calloc((size_t) count, sizeof *all->run);
    all->counts = calloc((size_t) count, sizeof *all->counts);
    all->notes = json_array();
    if (values == NULL || all->run == NULL || all->counts == NULL || all->notes == NULL) {
        free(values);
        return complain("out of memory");
    }
    for (; all->runs < count; all->runs++) {
        if (run_read(&all->run[all->runs], directories[all->runs], error, sizeof error) !=
            0) {
            free(values);
            return complain("%s", error);
        }
    }
    if (run_groups_make(&all->groups, all->run, count) != 0) {
        free(values);
        return complain("out of memory");
    }
    leave_out(all);
    note_unlike(all);
    for (int64_t g = all->groups.groups - 1; g >= 0; g--) {
        int64_t of_group =
            group_statistic(all, &all->groups.group[g], TRAIN, values).count;

        all->base = of_group > 0 ? g : all->base;
        counted += of_group;
    }
    if (counted == 0) {
        result = complain("no finished run to compare");
    } else {
        result = (json ? print_json(all, values) : print_text(all, values)) != 0
                     ? complain("out of memory")
                     : 0;
    }
    free(values);
    return result;
}

int command_compare(int argc, char **argv)
{
    int               json = 0, status;
    struct comparison all = { 0 };

    struct flag flags[] = {
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &json,
          .help = "all of it as one JSON object" },
    };
    struct command_line line = {
        .usage =
            "beamlora compare RUN... [--json]\n"
            "\n"
            "Puts the results of runs side by side: a row with mean and standard "
            "deviation\nfor runs that differ by their seed alone, and the difference "
            "to the first row\nover the seeds that both have. Unfinished runs are "
            "left out.",
        .argument = "RUN",
        .argument_help = "run folder; the first one makes the first row",
        .argument_type = FLAG_DIRECTORY,
        .least = 1,
        .most = INT_MAX,
    };

    status =
        parse_arguments(argc, argv, &line, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    status = compare(&all, argv, line.given, json);
    for (int64_t i = 0; i < all.runs; i++) {
        run_free(&all.run[i]);
    }
    run_groups_free(&all.groups);
    free(all.run);
    free(all.counts);
    json_decref(all.notes);
    return status;
}
