/*
 * Pictures of a subject's results, through gnuplot: of the passes what they take over bare
 * calls and over the floor, a panel for each shape; of growth time and memory, with a thin
 * line of slope 1 for each curve.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "bench.h"
#include "view/gnuplot.h"

enum { MOST_VALUES = 32, COLOURS = 8, SIDES = 2 };

/* Okabe and Ito's, and grey */
static const char *const colours[COLOURS] = {
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"
};
static const int symbols[COLOURS] = { 7, 5, 9, 13, 11, 6, 4, 8 };

const char *result_text(const json_t *object, const char *key)
{
    const char *const value = json_string_value(json_object_get(object, key));
    return value == NULL ? "" : value;
}

double result_number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* Different numbers, in the order in which they came. */
struct values {
    int    count;
    double value[MOST_VALUES];
};

static void note(struct values *values, double value)
{
    for (int i = 0; i < values->count; i++) {
        if (values->value[i] == value) {
            return;
        }
    }
    if (values->count < MOST_VALUES) {
        values->value[values->count++] = value;
    }
}

struct range {
    double low, high;
};

static const struct range nowhere = { INFINITY, 0 };

static void widen(struct range *range, double value)
{
    range->low = fmin(range->low, value);
    range->high = fmax(range->high, value);
}

static void write_heading(FILE *script, const json_t *results, const char *heading,
                          const char *below)
{
    char machine[512];
    picture_machine(results, machine, sizeof machine);
    fputs("set encoding utf8\nset multiplot\nset label 1 ", script);
    gnuplot_text(script, heading);
    fputs(" at screen 0.02, 0.965 left font ',18'\nset label 2 ", script);
    gnuplot_text(script, machine);
    fputs(" at screen 0.02, 0.925 left font ',14'\nset label 3 ", script);
    gnuplot_text(script, below);
    fputs(" at screen 0.02, 0.02 left font ',13'\n"
          "set border 3 lc rgb '#444444'\n"
          "set tics font ',12' nomirror\n"
          "set grid lc rgb '#e4e4e4' lt 1\n"
          "set logscale xy\n"
          "set micro\n",
          script);
}

/* The place of a panel, in parts of the picture. */
static void write_place(FILE *script, double left, double right, double bottom,
                        double top)
{
    fprintf(script,
            "set lmargin at screen %.4f\nset rmargin at screen %.4f\n"
            "set bmargin at screen %.4f\nset tmargin at screen %.4f\n",
            left, right, bottom, top);
}

/* An axis with a tic at each value. */
static void write_x(FILE *script, const struct values *x)
{
    struct range range = nowhere;
    fputs("set xtics (", script);
    for (int i = 0; i < x->count; i++) {
        fprintf(script, "%s%.9g", i > 0 ? ", " : "", x->value[i]);
        widen(&range, x->value[i]);
    }
    const double margin = pow(range.high / range.low, 0.06) * 1.02;
    fprintf(script, ")\nset xrange [%.9g:%.9g]\n", range.low / margin,
            range.high * margin);
}

/* ----- passes ----- */

static const struct {
    const char *against, *heading;
} sides[SIDES] = {
    { "bare", "over that of the bare CBLAS calls (below 1: faster)" },
    { "floor", "over the floor, what memory or operations take at least" },
};

struct passes {
    FILE         *script;
    const json_t *rows;
    int           shape_count;
    const char   *shapes[MOST_VALUES];
    struct values n, ranks;
    struct range  ratios[SIDES]; /* of medians: a disturbed interval is cut off */
};

static int is_row(const json_t *row, int side)
{
    return strcmp(result_text(row, "what"), "forward+backward") == 0 &&
           strcmp(result_text(row, "against"), sides[side].against) == 0;
}

static void survey_passes(struct passes *passes)
{
    size_t  i;
    json_t *row;
    for (int side = 0; side < SIDES; side++) {
        passes->ratios[side] = (struct range){ 1, 1 };
        json_array_foreach(passes->rows, i, row)
        {
            int known = 0;
            if (!is_row(row, side)) {
                continue;
            }
            for (int k = 0; k < passes->shape_count; k++) {
                known |= strcmp(passes->shapes[k], result_text(row, "shape")) == 0;
            }
            if (!known && passes->shape_count < MOST_VALUES) {
                passes->shapes[passes->shape_count++] = result_text(row, "shape");
            }
            note(&passes->n, result_number(row, "n"));
            note(&passes->ranks, result_number(row, "rank"));
            widen(&passes->ratios[side], result_number(row, "ratio"));
        }
    }
}

/* A block $SIDE_SHAPE_RANK: n, ratio, its interval. None is empty, gnuplot takes no such. */
static void write_ratios(const struct passes *passes, int side, int shape, int rank)
{
    size_t  i;
    json_t *row;
    fprintf(passes->script, "$%s_%d_%d << EOD\nNaN NaN NaN NaN\n", sides[side].against,
            shape, rank);
    json_array_foreach(passes->rows, i, row)
    {
        if (is_row(row, side) &&
            strcmp(result_text(row, "shape"), passes->shapes[shape]) == 0 &&
            result_number(row, "rank") == passes->ranks.value[rank]) {
            fprintf(passes->script, "%.9g %.9g %.9g %.9g\n", result_number(row, "n"),
                    result_number(row, "ratio"), result_number(row, "low"),
                    result_number(row, "high"));
        }
    }
    fputs("EOD\n", passes->script);
}

/* One side's panel of a shape. Ranks stand a little beside each other, so that their
 * intervals can be told apart. */
static void draw_shape(const struct passes *passes, int side, int shape, int legend)
{
    FILE *const  script = passes->script;
    const int    ranks = passes->ranks.count;
    const double width = log(passes->n.value[passes->n.count - 1] / passes->n.value[0]);
    for (int rank = 0; rank < ranks; rank++) {
        write_ratios(passes, side, shape, rank);
    }
    fputs("set title ", script);
    gnuplot_text(script, passes->shapes[shape]);
    fputs(" font ',12' offset 0, -0.7\nplot 1 with lines lw 1.5 lc rgb '#444444' notitle",
          script);
    for (int rank = 0; rank < ranks; rank++) {
        const double aside = exp(0.015 * width * (rank - 0.5 * (ranks - 1)));
        const int    look = rank % COLOURS;
        fprintf(script,
                ", $%s_%d_%d using (%.6f * $1):2:3:4 with yerrorlines lw 1.5 pt %d "
                "ps (0.8 * P) lc rgb '%s' notitle",
                sides[side].against, shape, rank, aside, symbols[look], colours[look]);
        if (legend) {
            fprintf(script,
                    ", keyentry with linespoints lw 1.5 pt %d ps (1.1 * P) lc rgb '%s' "
                    "title 'r %g'",
                    symbols[look], colours[look], passes->ranks.value[rank]);
        }
    }
    fputc('\n', script);
}

static void draw_side(const struct passes *passes, int side)
{
    FILE *const        script = passes->script;
    const struct range range = passes->ratios[side];
    const int          columns = (int) ceil(sqrt(passes->shape_count));
    const int          rows = (passes->shape_count + columns - 1) / columns;
    const double       left = side == 0 ? 0.05 : 0.55, width = 0.44 / columns;
    const double       top = 0.82, height = 0.735 / rows;
    fprintf(
        script,
        "set label 4 '%s' at screen %.4f, 0.87 left font ',14'\n"
        "set yrange [%.9g:%.9g]\n"
        "set ytics (%s)\n",
        sides[side].heading, left, range.low / 1.1, range.high * 1.1,
        range.high / range.low < 8
            ? "0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7"
            : "0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500");
    for (int shape = 0; shape < passes->shape_count; shape++) {
        const int column = shape % columns, row = shape / columns;
        const int lowest = shape + columns >= passes->shape_count;
        write_place(script, left + column * width, left + (column + 0.93) * width,
                    top - (row + 1) * height + 0.045, top - row * height);
        fprintf(script, "set format x '%s'\nset xlabel '%s'\nset format y '%s'\n",
                lowest ? "%g" : "", lowest ? "n" : "", column == 0 ? "%g" : "");
        draw_shape(passes, side, shape, side == 0 && shape == 0);
        fputs("unset label\nunset key\n", script);
    }
}

static void draw_passes(FILE *script, const json_t *results)
{
    struct passes passes = { .script = script, .rows = json_object_get(results, "rows") };
    survey_passes(&passes);
    write_heading(
        script, results, "Time of forward and backward, by shape of the layer (in x out)",
        "Over n rows of activations. Medians of interleaved rounds and their 95 % "
        "intervals, cut off where they leave a panel.");
    write_x(script, &passes.n);
    fputs("set xtics font ',10'\n"
          "set key at screen 0.98, 0.965 right maxrows 2 font ',13' samplen 2\n",
          script);
    for (int side = 0; side < SIDES; side++) {
        draw_side(&passes, side);
    }
    fputs("unset multiplot\n", script);
}

/* ----- growth ----- */

enum { PANELS = 3, CURVES = 3, QUANTITIES = 2 };

/* What growth.c varies, and of what. */
static const struct {
    const char *over, *label;
} panels[PANELS] = {
    { "modules", "modules of a 70B Llama, r 64" },
    { "rank", "r of 70 modules; of a layer 4096x4096, n 1024" },
    { "n", "n of a layer 4096x4096, r 16" },
};

static const struct {
    const char *name, *memory; /* in the legend; NULL: the curve is that of another one */
} curves[CURVES] = { { "step", "step, reallocation" },
                     { "reallocation", NULL },
                     { "passes", "passes" } };

static const struct {
    const char *name, *key, *format;
} quantities[QUANTITIES] = {
    { "time", "seconds", "%.0s %cs" },
    { "memory", "bytes", "%.0s %cB" },
};

/* A block $CURVE: x, the quantity, and what it would be by linear growth up to the last
 * point. How many points it has. */
static int write_curve(FILE *script, const json_t *points, const char *name, int curve,
                       int quantity, struct values *x, struct range *range)
{
    const char *const key = quantities[quantity].key;
    const json_t     *last = NULL;
    size_t            i;
    json_t           *point;
    int               count = 0;
    json_array_foreach(points, i, point)
    {
        last = strcmp(result_text(point, "curve"), name) == 0 ? point : last;
    }
    fprintf(script, "$%s << EOD\nNaN NaN NaN\n", curves[curve].name);
    json_array_foreach(points, i, point)
    {
        if (strcmp(result_text(point, "curve"), name) == 0) {
            const double at = result_number(point, "x"),
                         value = result_number(point, key);
            fprintf(script, "%.9g %.9g %.9g\n", at, value,
                    result_number(last, key) * at / result_number(last, "x"));
            note(x, at);
            widen(range, value);
            count++;
        }
    }
    fputs("EOD\n", script);
    return count;
}

static void draw_panel(FILE *script, const json_t *results, int panel, int quantity)
{
    const json_t *const points = json_object_get(results, "points");
    const json_t *const slopes = json_object_get(results, "numbers");
    const char         *comma = "plot ";
    struct values       x = { 0 };
    struct range        range = nowhere;
    int                 count[CURVES];
    char                name[64], slope[96], label[128];
    for (int i = 0; i < CURVES; i++) {
        snprintf(name, sizeof name, "%s: %s", panels[panel].over, curves[i].name);
        count[i] = write_curve(script, points, name, i, quantity, &x, &range);
    }
    if (x.count == 0) {
        return;
    }
    write_x(script, &x);
    fprintf(script, "set yrange [%.9g:%.9g]\n", pow(10, floor(log10(range.low))),
            pow(10, floor(log10(range.high)) + 1));
    for (int i = 0; i < CURVES; i++) {
        const char *const title = quantity == 0 ? curves[i].name : curves[i].memory;
        if (count[i] == 0 || title == NULL) {
            continue;
        }
        snprintf(slope, sizeof slope, "slope of %s over %s: %s",
                 quantities[quantity].name, panels[panel].over, curves[i].name);
        snprintf(label, sizeof label, "%s: slope %.2f", title,
                 result_number(slopes, slope));
        fprintf(script,
                "%s$%s using 1:2 with linespoints lw 3 pt %d ps (1.2 * P) lc rgb '%s' "
                "title ",
                comma, curves[i].name, symbols[i], colours[i]);
        gnuplot_text(script, label);
        fprintf(script, ", $%s using 1:3 with lines lw 1 lc rgb '#000000' notitle",
                curves[i].name);
        comma = ", ";
    }
    fputc('\n', script);
}

static void draw_growth(FILE *script, const json_t *results)
{
    write_heading(script, results,
                  "Growth of time and memory over modules, rank r and rows n",
                  "Thin lines: linear growth up to the last point. Slopes are those of a "
                  "straight line through the logarithms.");
    fputs("set key top left Left reverse font ',12' samplen 2\n", script);
    for (int quantity = 0; quantity < QUANTITIES; quantity++) {
        const double top = quantity == 0 ? 0.88 : 0.48;
        for (int panel = 0; panel < PANELS; panel++) {
            const double left = 0.075 + 0.315 * panel;
            write_place(script, left, left + 0.26, top - 0.35, top);
            fprintf(script,
                    "set format y '%s'\nset ylabel '%s' font ',13'\n"
                    "set xlabel '%s' font ',13'\n",
                    quantities[quantity].format,
                    panel == 0 ? quantities[quantity].name : "",
                    quantity == QUANTITIES - 1 ? panels[panel].label : "");
            draw_panel(script, results, panel, quantity);
            fputs("unset label\n", script);
        }
    }
    fputs("unset multiplot\n", script);
}

/* ----- all ----- */

void picture_machine(const json_t *results, char *line, size_t size)
{
    const json_t *const machine = json_object_get(results, "machine");
    const double        threads = result_number(machine, "threads");
    snprintf(line, size, "%s, %.0f thread%s; %s; libbeamlora %s",
             result_text(machine, "processor"), threads, threads == 1 ? "" : "s",
             result_text(machine, "cblas"), result_text(machine, "library"));
}

int picture_has(const json_t *results)
{
    const char *const subject = result_text(results, "subject");
    size_t            i;
    json_t           *row;
    if (strcmp(subject, "growth") == 0) {
        return json_array_size(json_object_get(results, "points")) > 0;
    }
    if (strcmp(subject, "passes") == 0 || strcmp(subject, "passes-blas") == 0) {
        json_array_foreach(json_object_get(results, "rows"), i, row)
        {
            if (is_row(row, 0)) {
                return 1;
            }
        }
    }
    return 0;
}

int picture_draw(const json_t *results, const char *directory, char *path,
                 size_t path_size, char *error, size_t size)
{
    const char *const subject = result_text(results, "subject");
    FILE *const       script = gnuplot_script();
    if (script == NULL) {
        snprintf(error, size, "no temporary file: %s", strerror(errno));
        return -1;
    }
    if (strcmp(subject, "growth") == 0) {
        draw_growth(script, results);
    } else {
        draw_passes(script, results);
    }
    const int code = gnuplot_draw(script, GNUPLOT_PNG, directory, subject, path,
                                  path_size, error, size);
    fclose(script);
    return code;
}
