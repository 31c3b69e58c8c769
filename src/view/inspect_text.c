/*
 * `beamlora inspect` for people: what was trained and how it went, then the modules, then
 * what moved when. Up to LISTED modules are listed one by one; more are put together by
 * projection and by layer, since nobody reads 224 lines before knowing which.
 */
#include "view/inspect.h"

#include "view/table.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LISTED 32
#define LISTED_PLANS 24
#define NARROW_SHAPE 7 /* "64x172": wider ones are left to the table by projection */
#define KEY 128

enum grouping { BY_MODULE, BY_PROJECTION, BY_LAYER };

/* ===== Names ============================================================== */

/* The first part of a name that is a number: the layer. NULL without. */
static const char *layer_part(const char *name)
{
    for (const char *part = name; part != NULL;) {
        size_t length = strcspn(part, ".");

        if (length > 0 && strspn(part, "0123456789") == length) {
            return part;
        }
        part = part[length] == '.' ? part + length + 1 : NULL;
    }
    return NULL;
}

/* Bytes that all names begin with, up to a dot. */
static size_t common_prefix(const struct inspect *inspect)
{
    const char *first = inspect->module[0].name;
    size_t      common = strlen(first);

    for (int64_t i = 1; i < inspect->modules; i++) {
        size_t same = 0;

        while (same < common && first[same] == inspect->module[i].name[same]) {
            same++;
        }
        common = same;
    }
    while (common > 0 && first[common - 1] != '.') {
        common--;
    }
    return inspect->modules > 1 ? common : 0;
}

static void key_of(char key[KEY], const struct inspect *inspect, int64_t i,
                   enum grouping grouping, size_t prefix)
{
    const char *name = inspect->module[i].name, *layer = layer_part(name);

    if (grouping == BY_MODULE || (grouping == BY_LAYER && layer == NULL)) {
        snprintf(key, KEY, "%s", name + prefix);
    } else if (grouping == BY_LAYER) {
        snprintf(key, KEY, "%.*s", (int) strcspn(layer, "."), layer);
    } else {
        const char *dot = strrchr(name, '.');

        snprintf(key, KEY, "%s", dot != NULL ? dot + 1 : name);
    }
}

static int matches(const char *name, const char *pattern)
{
    return pattern == NULL ||
           (strpbrk(pattern, "*?[") != NULL ? fnmatch(pattern, name, 0) == 0
                                            : strstr(name, pattern) != NULL);
}

/* ===== Modules ============================================================ */

/* What one line of the table says of some modules together. */
struct summary {
    int64_t modules, ranks, kept, moved, in, out;
    int     shapes_differ;
    double  whole; /* squared until the end */
    double  least, most;
    double *norm; /* [norms], sorted in the end */
    int64_t norms;
};

static int by_size(const void *x, const void *y)
{
    double a = *(const double *) x, b = *(const double *) y;

    return a < b ? -1 : a > b;
}

static void add_to_summary(struct summary *sum, const struct inspect_module *module)
{
    sum->shapes_differ |=
        sum->modules > 0 && (sum->in != module->in || sum->out != module->out);
    sum->in = module->in;
    sum->out = module->out;
    sum->modules++;
    sum->ranks += module->rank;
    sum->kept += module->kept;
    sum->moved += module->moved;
    sum->whole += module->whole * module->whole;
    for (int64_t r = 0; r < module->rank; r++) {
        if (module->norm != NULL && isfinite(module->norm[r])) {
            sum->norm[sum->norms++] = module->norm[r];
        }
        if (module->importance != NULL) {
            sum->least = fmin(sum->least, module->importance[r]);
            sum->most = fmax(sum->most, module->importance[r]);
        }
    }
}

/* Which columns there is something for. */
struct columns {
    int shape, kept, whole, importance, moved;
};

static struct columns columns_of(const struct inspect *inspect, enum grouping grouping)
{
    struct columns columns = { .shape = grouping != BY_LAYER };

    for (int64_t i = 0; i < inspect->modules; i++) {
        const struct inspect_module *module = &inspect->module[i];

        columns.whole |= !isnan(module->whole);
        columns.importance |= module->importance != NULL;
        columns.kept |= module->kept >= 0;
        columns.moved |= inspect->run.plans > 0;
        if (grouping == BY_MODULE && snprintf(NULL, 0, "%" PRId64 "x%" PRId64, module->in,
                                              module->out) > NARROW_SHAPE) {
            columns.shape = 0;
        }
    }
    if (grouping == BY_MODULE && columns.whole && columns.importance) {
        columns.shape = 0; /* no room in 80 columns */
    }
    return columns;
}

static void add_if(struct table *table, int wanted, const char *cell)
{
    if (wanted) {
        table_add(table, "%s", cell);
    }
}

static void start_modules(struct table *table, struct columns columns, const char *what)
{
    table_start(table, 5 + columns.shape + columns.kept + columns.whole +
                           2 * columns.importance + columns.moved);
    add_if(table, 1, "");
    add_if(table, columns.shape, "");
    add_if(table, 1, "");
    add_if(table, columns.kept, "");
    add_if(table, columns.whole, "whole");
    add_if(table, 1, "norm");
    add_if(table, 1, "of a");
    add_if(table, 1, "rank");
    add_if(table, columns.importance, "impor-");
    add_if(table, columns.importance, "tance");
    add_if(table, columns.moved, "ranks");

    add_if(table, 1, what);
    add_if(table, columns.shape, "in x out");
    add_if(table, 1, "ranks");
    add_if(table, columns.kept, "kept");
    add_if(table, columns.whole, "norm");
    add_if(table, 1, "least");
    add_if(table, 1, "median");
    add_if(table, 1, "most");
    add_if(table, columns.importance, "least");
    add_if(table, columns.importance, "most");
    add_if(table, columns.moved, "moved");
}

static void add_number(struct table *table, int wanted, double value)
{
    char text[TABLE_NUMBER];

    add_if(table, wanted, table_number(text, value));
}

static void add_line(struct table *table, struct columns columns, const char *key,
                     const struct summary *sum)
{
    int64_t n = sum->norms;
    double  median =
        n == 0 ? (double) NAN : (sum->norm[(n - 1) / 2] + sum->norm[n / 2]) / 2;

    table_add(table, "%s", key);
    if (columns.shape && sum->shapes_differ) {
        table_add(table, "several");
    } else if (columns.shape) {
        table_add(table, "%" PRId64 "x%" PRId64, sum->in, sum->out);
    }
    table_add(table, "%" PRId64, sum->ranks);
    if (columns.kept) {
        table_add(table, "%" PRId64, sum->kept);
    }
    add_number(table, columns.whole, sqrt(sum->whole));
    add_number(table, 1, n > 0 ? sum->norm[0] : (double) NAN);
    add_number(table, 1, median);
    add_number(table, 1, n > 0 ? sum->norm[n - 1] : (double) NAN);
    if (columns.importance) {
        table_add(table, "%.2f", sum->least);
        table_add(table, "%.2f", sum->most);
    }
    if (columns.moved) {
        table_add(table, "%" PRId64, sum->moved);
    }
}

/* One table: a line for each key, in the order in which they come up. */
static int print_modules(const struct inspect *inspect, enum grouping grouping,
                         const char *pattern)
{
    static const char *const what[] = { "module", "projection", "layer" };
    struct columns           columns = columns_of(inspect, grouping);
    size_t                   prefix = grouping == BY_MODULE ? common_prefix(inspect) : 0;
    int64_t                  all_ranks = 0, lines = 0;
    double                  *norms;
    char                    *done = calloc(1, (size_t) inspect->modules + 1);
    struct table             table;

    for (int64_t i = 0; i < inspect->modules; i++) {
        all_ranks += inspect->module[i].rank;
    }
    norms = calloc((size_t) all_ranks + 1, sizeof *norms);
    if (norms == NULL || done == NULL) {
        free(norms);
        free(done);
        return -1;
    }
    start_modules(&table, columns, what[grouping]);
    for (int64_t i = 0; i < inspect->modules; i++) {
        struct summary sum = { .norm = norms, .least = INFINITY, .most = -INFINITY };
        char           key[KEY], other[KEY];

        if (done[i] || !matches(inspect->module[i].name, pattern)) {
            continue;
        }
        key_of(key, inspect, i, grouping, prefix);
        for (int64_t j = i; j < inspect->modules; j++) {
            key_of(other, inspect, j, grouping, prefix);
            if (j == i || (grouping != BY_MODULE && strcmp(key, other) == 0)) {
                add_to_summary(&sum, &inspect->module[j]);
                done[j] = 1;
            }
        }
        qsort(sum.norm, (size_t) sum.norms, sizeof *sum.norm, by_size);
        add_line(&table, columns, key, &sum);
        lines++;
    }
    free(norms);
    free(done);
    if (grouping == BY_MODULE && prefix > 0) {
        printf("\nModules, below %.*s\n\n", (int) prefix - 1, inspect->module[0].name);
    } else {
        printf("\n%s\n\n", grouping == BY_MODULE       ? "Modules"
                           : grouping == BY_PROJECTION ? "By projection"
                                                       : "By layer");
    }
    if (table_print(&table, table_width()) != 0) {
        return -1;
    }
    if (lines == 0) {
        printf("  no name fits \"%s\"\n", pattern);
    }
    return 0;
}

static int print_all_modules(const struct inspect *inspect, const char *pattern)
{
    struct columns columns = columns_of(inspect, BY_MODULE);
    int            result;

    if (inspect->modules == 0) {
        return 0;
    }
    if (pattern != NULL || inspect->modules <= LISTED) {
        result = print_modules(inspect, BY_MODULE, pattern);
    } else {
        result = print_modules(inspect, BY_PROJECTION, NULL) != 0
                     ? -1
                     : print_modules(inspect, BY_LAYER, NULL);
    }
    if (result == 0) {
        printf("\n  norm: Frobenius norm of what a rank%s adds to a weight\n",
               columns.whole ? ", or the whole adapter," : "");
        if (columns.importance) {
            printf("  importance: 1 is an equal share\n");
        }
        if (pattern == NULL && inspect->modules > LISTED) {
            printf("  each module: --modules '*'; some: --modules layers.0.\n");
        }
    }
    return result;
}

/* ===== Reallocations ====================================================== */

static int print_plans(const struct run *run, int all)
{
    static const char *const head[2][4 + RUN_ACTIONS] = {
        { "", "", "", "in", "from", "from", "", "", "left", "given" },
        { "step", "p", "ranks", "modules", "history", "current", "fresh", "removed",
          "alone", "up" },
    };
    const int    columns = run_ranks_move(run) ? 4 + RUN_ACTIONS : 3 + RUN_ACTIONS;
    int64_t      skipped = 0;
    struct table table;

    table_start(&table, columns);
    for (int i = 0; i < 2 * columns; i++) {
        table_add(&table, "%s", head[i / columns][i % columns]);
    }
    for (int64_t i = 0; i < run->plans; i++) {
        const struct run_plan *plan = &run->plan[i];
        int64_t                count[RUN_ACTIONS] = { 0 }, modules = 0, last = -1;

        if (!all && run->plans > LISTED_PLANS && i >= LISTED_PLANS / 2 &&
            i < run->plans - LISTED_PLANS / 2) {
            skipped++;
            continue;
        }
        for (int64_t k = 0; k < plan->moves; k++) {
            count[plan->move[k].action]++;
            if (run_move_counts(&plan->move[k]) && plan->move[k].module != last) {
                last = plan->move[k].module;
                modules++;
            }
        }
        table_add(&table, "%" PRId64, plan->step);
        if (isnan(plan->p)) {
            table_add(&table, "fixed");
        } else {
            table_add(&table, "%.4f", plan->p);
        }
        table_add(&table, "%" PRId64, plan->moves - count[RUN_SKIP]);
        table_add(&table, "%" PRId64, modules);
        for (int k = 0; k < columns - 4; k++) {
            table_add(&table, "%" PRId64, count[k]);
        }
    }
    if (table_print(&table, table_width()) != 0) {
        return -1;
    }
    if (skipped > 0) {
        printf("  %" PRId64 " in the middle are left out: --moves or --json\n", skipped);
    }
    return 0;
}

static int print_moves(const struct run *run)
{
    static const char *const head[] = { "module",  "step",   "pruned", "importance",
                                        "path of", "action", "age" };
    struct table             table;

    table_start(&table, 7);
    for (int i = 0; i < 7; i++) {
        table_add(&table, "%s", head[i]);
    }
    for (int64_t i = 0; i < run->plans; i++) {
        for (int64_t k = 0; k < run->plan[i].moves; k++) {
            const struct run_move *move = &run->plan[i].move[k];

            table_add(&table, "%s", run->module[move->module].name);
            table_add(&table, "%" PRId64, run->plan[i].step);
            table_add(&table, "%" PRId64, move->rank);
            table_add(&table, "%.4f", move->importance);
            if (move->source >= 0) {
                table_add(&table, "%" PRId64, move->source);
            } else {
                table_add(&table, "-");
            }
            table_add(&table, "%s", run_action_name(move->action));
            if (move->age >= 0) {
                table_add(&table, "%" PRId64, move->age);
            } else {
                table_add(&table, "-");
            }
        }
    }
    printf(
        "\nMoves: rank \"pruned\" of the module goes on with the path of another%s\n\n",
        run_ranks_move(run) ? ";\nwhere it is given up another one may take its number"
                            : "");
    return table_print(&table, table_width());
}

static int print_reallocations(const struct run *run, int moves)
{
    int64_t moved = 0;

    if (run->samples > 0 && run->sample[run->samples - 1].kept != NULL) {
        const int result = inspect_print_budget(run);

        if (result != 0 || !run_ranks_move(run)) {
            return result;
        }
    }
    if (run->plans == 0) {
        printf("\nNo reallocation%s\n",
               !run_is_beamlora(run) ? ": the method has none" : " so far");
        return 0;
    }
    for (int64_t i = 0; i < run->plans; i++) {
        for (int64_t k = 0; k < run->plan[i].moves; k++) {
            moved += run_move_counts(&run->plan[i].move[k]);
        }
    }
    printf("\nReallocations: %" PRId64 ", ranks moved: %" PRId64 "\n\n", run->plans,
           moved);
    if (print_plans(run, moves) != 0) {
        return -1;
    }
    if (moves) {
        return print_moves(run);
    }
    printf("\n  p: share of importance that is kept; each move: --moves\n");
    return 0;
}

/* ===== The run ============================================================ */

static const char *loss_text(char text[TABLE_NUMBER], double loss)
{
    if (!isfinite(loss)) {
        return "not finite";
    }
    snprintf(text, TABLE_NUMBER, "%.4f", loss);
    return text;
}

static void print_evaluations(const struct run *run)
{
    const struct run_evaluation *first = run->evaluation;
    const struct run_evaluation *last;
    char                         text[TABLE_NUMBER];

    if (run->evaluations == 0) {
        return;
    }
    last = first + run->evaluations - 1;
    printf("  eval loss    %s at step %" PRId64, loss_text(text, first->loss),
           first->step);
    if (last != first) {
        printf(" -> %s at step %" PRId64, loss_text(text, last->loss), last->step);
    }
    printf(" (%" PRId64 " ids)\n", last->tokens);
    if (first->examples > 0 && last->examples > 0) {
        printf("  exact        %" PRId64 " of %" PRId64 " (%.1f %%)", first->exact,
               first->examples, 100.0 * (double) first->exact / (double) first->examples);
        if (last != first) {
            printf(" -> %" PRId64 " of %" PRId64 " (%.1f %%)", last->exact,
                   last->examples,
                   100.0 * (double) last->exact / (double) last->examples);
        }
        putchar('\n');
    }
}

static void print_setting(const json_t *settings, const char *key, const char **comma)
{
    const json_t *value = json_object_get(settings, key);

    if (json_is_string(value)) {
        printf("%s%s %s", *comma, key, json_string_value(value));
    } else if (json_is_integer(value)) {
        printf("%s%s %" JSON_INTEGER_FORMAT, *comma, key, json_integer_value(value));
    } else if (json_is_real(value)) {
        printf("%s%s %g", *comma, key, json_real_value(value));
    } else {
        return;
    }
    *comma = ", ";
}

static void print_run(const struct run *run)
{
    static const char *const files[] = { "model", "data", "eval-data", NULL };
    static const char *const keys[] = { "preset", "rank",  "target-rank", "alpha",
                                        "lr",     "batch", "seed",        NULL };
    const char              *comma = "";
    double                   begin = run_train_loss(run, 0), end = run_train_loss(run, 1);

    printf("%s: %s, %s, %" PRId64 " of %" PRId64 " steps\n\n", run->directory,
           run->method[0] != '\0' ? run->method : "method not known",
           run->finished ? "finished" : "unfinished", run->done_steps, run->total_steps);
    for (int k = 0; files[k] != NULL; k++) {
        const char *path = json_string_value(json_object_get(run->settings, files[k]));

        if (path != NULL) {
            printf("  %-12s %s\n", files[k], path);
        }
    }
    printf("  settings     ");
    for (int k = 0; keys[k] != NULL; k++) {
        if (k > 0 || run_is_beamlora(run)) {
            print_setting(run->settings, keys[k], &comma);
        }
    }
    putchar('\n');
    if (!isnan(end)) {
        printf("  train loss   %.4f -> %.4f (mean of the first and last tenth)\n", begin,
               end);
    }
    print_evaluations(run);
}

static void print_size(const struct inspect *inspect)
{
    int64_t ranks = 0, parameters = 0;

    for (int64_t i = 0; i < inspect->modules; i++) {
        const struct inspect_module *module = &inspect->module[i];

        ranks += module->rank;
        parameters +=
            module->rank * (module->in + module->out + (module->importance != NULL));
    }
    if (inspect->modules > 0) {
        printf("  adapters     %" PRId64 " modules, %" PRId64 " ranks, %" PRId64
               " parameters\n",
               inspect->modules, ranks, parameters);
    }
}

int inspect_print(const struct inspect *inspect, const char *pattern, int moves)
{
    if (inspect->run.directory != NULL) {
        print_run(&inspect->run);
    } else {
        printf("%s: a PEFT adapter\n\n", inspect->directory);
    }
    print_size(inspect);
    if (print_all_modules(inspect, pattern) != 0) {
        return -1;
    }
    return inspect->run.directory != NULL && inspect->modules > 0
               ? print_reallocations(&inspect->run, moves)
               : 0;
}
