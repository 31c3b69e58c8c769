/* What `beamlora prune` found: a table, one JSON object, and lines for a file. */
#include "view/prune.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/folder.h"
#include "view/table.h"

/* ===== Figures ============================================================ */

double pruning_exact_share(const struct evaluation *evaluation)
{
    return evaluation->examples > 0
               ? 100.0 * (double) evaluation->exact / (double) evaluation->examples
               : (double) NAN;
}

double pruning_share(const struct pruning *pruning, int64_t point)
{
    return 100.0 * (double) pruning->point[point].kept / (double) pruning->ranks;
}

static double loss_of(const struct evaluation *evaluation)
{
    return evaluation->loss;
}

static struct pruning_spread spread(const struct evaluation *random, int64_t seeds,
                                    double (*figure)(const struct evaluation *))
{
    struct pruning_spread out = { 0, 0, INFINITY, -INFINITY };

    for (int64_t i = 0; i < seeds; i++) {
        double value = figure(&random[i]);

        out.mean += value / (double) seeds;
        out.least = fmin(out.least, value);
        out.most = fmax(out.most, value);
    }
    for (int64_t i = 0; i < seeds; i++) {
        double off = figure(&random[i]) - out.mean;

        out.sd += off * off;
    }
    out.sd = seeds > 1 ? sqrt(out.sd / (double) (seeds - 1)) : (double) NAN;
    return out;
}

struct pruning_spread pruning_loss(const struct pruning *pruning, int64_t point)
{
    return spread(pruning->point[point].random, pruning->seeds, loss_of);
}

struct pruning_spread pruning_exact(const struct pruning *pruning, int64_t point)
{
    return spread(pruning->point[point].random, pruning->seeds, pruning_exact_share);
}

/* ===== Text =============================================================== */

static void add_number(struct table *table, double value)
{
    char text[TABLE_NUMBER];

    table_add(table, "%s", table_number(text, value));
}

static void add_percent(struct table *table, double value)
{
    if (isfinite(value)) {
        table_add(table, "%.1f", value);
    } else {
        table_add(table, "-");
    }
}

static void add_row(struct table *table, const struct pruning *pruning, int64_t i,
                    int exact)
{
    const struct pruning_point *point = &pruning->point[i];
    struct pruning_spread       loss = pruning_loss(pruning, i);
    struct pruning_spread       share = pruning_exact(pruning, i);
    int                         end = point->kept == 0 || point->kept == pruning->ranks;

    table_add(table, "%" PRId64, point->kept);
    add_percent(table, pruning_share(pruning, i));
    add_number(table, point->top.loss);
    if (exact) {
        add_percent(table, pruning_exact_share(&point->top));
    }
    add_number(table, point->bottom.loss);
    if (exact) {
        add_percent(table, pruning_exact_share(&point->bottom));
    }
    add_number(table, loss.mean);
    add_number(table, end ? (double) NAN : loss.sd);
    if (exact) {
        add_percent(table, share.mean);
        add_percent(table, end ? (double) NAN : share.sd);
    }
}

int pruning_print(const struct pruning *pruning)
{
    static const char *const head[2][10] = {
        { "ranks", "", "best", "first", "worst", "first", "random", "", "", "" },
        { "kept", "%", "loss", "exact %", "loss", "exact %", "loss", "sd", "exact %",
          "sd" },
    };
    static const char *const plain[2][6] = {
        { "ranks", "", "best first", "worst first", "random", "" },
        { "kept", "%", "loss", "loss", "loss", "sd" },
    };
    int          exact = pruning->point[0].top.examples > 0;
    struct table table;

    table_start(&table, exact ? 10 : 6);
    for (int row = 0; row < 2; row++) {
        for (int c = 0; c < table.columns; c++) {
            table_add(&table, "%s", exact ? head[row][c] : plain[row][c]);
        }
    }
    for (int64_t i = 0; i < pruning->points; i++) {
        add_row(&table, pruning, i, exact);
    }
    if (table_print(&table, table_width()) != 0) {
        return -1;
    }
    printf("\n  %" PRId64 " ranks in %" PRId64 " modules; best: of largest %s, %s.\n",
           pruning->ranks, pruning->modules,
           pruning->by == KEEP_BY_IMPORTANCE ? "importance g" : "norm |c g b a|",
           pruning->scope == KEEP_MODULE ? "in each module" : "of all modules together");
    if (pruning->seeds > 1) {
        printf("  Random: mean and standard deviation of %" PRId64 " seeds. ",
               pruning->seeds);
    } else {
        printf("  Random: one seed. ");
    }
    printf("Losses in nats%s.\n", exact ? ";\n  exact: examples completed exactly" : "");
    return 0;
}

/* ===== JSON =============================================================== */

static json_t *json_header(const struct pruning *pruning)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "adapter", pruning->adapter, "model",
        pruning->model, "data", pruning->data, "by", keep_by_names[pruning->by], "scope",
        keep_scope_names[pruning->scope], "modules", (json_int_t) pruning->modules,
        "ranks", (json_int_t) pruning->ranks, "seeds", (json_int_t) pruning->seeds);
}

/* seed -1: none */
static void append(json_t *list, const struct pruning_point *point, const char *order,
                   int64_t seed, const struct evaluation *evaluation)
{
    json_t *line = json_pack("{s:s, s:I}", "keep", order, "kept", point->kept);

    if (seed >= 0) {
        json_object_set_new(line, "seed", json_integer(seed));
    }
    json_object_set_new(line, "loss", folder_real(evaluation->loss));
    json_object_set_new(line, "tokens", json_integer(evaluation->predicted));
    if (evaluation->examples > 0) {
        json_object_set_new(line, "examples", json_integer(evaluation->examples));
        json_object_set_new(line, "exact", json_integer(evaluation->exact));
    }
    json_array_append_new(list, line);
}

/* One entry an evaluation. */
static json_t *json_points(const struct pruning *pruning)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < pruning->points; i++) {
        const struct pruning_point *point = &pruning->point[i];

        if (point->kept == 0 || point->kept == pruning->ranks) {
            append(list, point, point->kept == 0 ? "none" : "all", -1, &point->top);
            continue;
        }
        append(list, point, "top", -1, &point->top);
        append(list, point, "bottom", -1, &point->bottom);
        for (int64_t seed = 0; seed < pruning->seeds; seed++) {
            append(list, point, "random", seed, &point->random[seed]);
        }
    }
    return list;
}

int pruning_print_json(const struct pruning *pruning)
{
    json_t *out = json_header(pruning);
    int     result = -1;

    if (json_object_set_new(out, "points", json_points(pruning)) == 0) {
        result = json_dumpf(out, stdout, JSON_REAL_PRECISION(12));
        putchar('\n');
    }
    json_decref(out);
    return result;
}

/* `text` grows by a line; NULL: out of memory, then or before. */
static char *add_line(char *text, const json_t *object)
{
    char  *line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    size_t used = text != NULL ? strlen(text) : 0;
    char  *longer = NULL;

    if (text != NULL && line != NULL) {
        longer = realloc(text, used + strlen(line) + 2);
    }
    if (longer == NULL) {
        free(text);
    } else {
        strcpy(longer + used, line);
        strcat(longer + used, "\n");
    }
    free(line);
    return longer;
}

int pruning_write(const struct pruning *pruning, const char *directory, char *error,
                  size_t size)
{
    json_t *header = json_header(pruning), *list = json_points(pruning);
    char   *path = file_join(directory, "pruning.jsonl", error, size);
    char   *text = add_line(calloc(1, 1), header);
    int     result = -1;

    for (size_t i = 0; i < json_array_size(list); i++) {
        text = add_line(text, json_array_get(list, i));
    }
    if (text == NULL) {
        snprintf(error, size, "%.300s/pruning.jsonl: out of memory", directory);
    } else if (path != NULL) {
        result = file_replace(path, text, strlen(text), error, size);
    }
    free(text);
    free(path);
    json_decref(list);
    json_decref(header);
    return result;
}
