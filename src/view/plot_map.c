/*
 * All ranks of a run as a map of colours: modules by projection, then by layer, a row for
 * each rank, or for as many neighbouring ranks as it takes to tell rows apart.
 */
#include "view/gnuplot.h"
#include "view/plot_view.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MAP_ROWS 480     /* more could not be told apart: neighbouring ranks share one */
#define MAP_COLUMNS 150  /* of the map, over the steps  */
#define LABELLED 40      /* modules with a label of their own */
#define COLOUR_LIMIT 3.0 /* of the map: importance from 1/8 to 8 */

static int64_t rows_of(const struct plot_view *view, int64_t m)
{
    return (view->run->module[m].capacity + view->group - 1) / view->group;
}

static int64_t all_rows(const struct plot_view *view)
{
    int64_t rows = 0;

    for (int64_t m = 0; m < view->run->modules; m++) {
        rows += rows_of(view, m);
    }
    return rows;
}

void plot_map_choose(struct plot_view *view)
{
    view->group = 1;
    while (all_rows(view) > MAP_ROWS && view->group < view->run->ranks) {
        view->group *= 2;
    }
}

/* An image has two columns and two rows at least. */
int64_t plot_map_columns(const struct plot_view *view)
{
    return view->steps < 2 ? 2 : view->steps < MAP_COLUMNS ? view->steps : MAP_COLUMNS;
}

/* The least of the ranks of a row. */
static double row_value(const struct plot_view *view, int64_t sample, int64_t m,
                        int64_t row)
{
    const struct run_module *module = &view->run->module[m];
    double                   least = (double) NAN;

    for (int64_t r = row * view->group;
         r < (row + 1) * view->group && r < module->capacity; r++) {
        least = fmin(least, plot_value_at(view, sample, module->first + r));
    }
    return least;
}

static double map_colour(const struct plot_view *view, double value)
{
    if (!view->scores) {
        return value;
    }
    return value > 0 ? fmax(-COLOUR_LIMIT, fmin(COLOUR_LIMIT, log2(value)))
                     : -COLOUR_LIMIT;
}

/* What was not trained yet is left white. */
static void write_map(const struct plot_view *view)
{
    const struct run *run = view->run;
    int64_t           columns = plot_map_columns(view);
    int64_t           last = run->sample[run->samples - 1].step;
    int64_t           repeat = all_rows(view) == 1 ? 2 : 1;

    fputs("$map << EOD\n", view->script);
    for (int64_t k = 0; k < run->modules; k++) {
        for (int64_t i = 0; i < repeat * rows_of(view, view->order[k]); i++) {
            int64_t row = i / repeat;

            for (int64_t c = 0; c < columns; c++) {
                int64_t from = view->steps * c / columns;
                int64_t to = view->steps * (c + 1) / columns;
                double  value =
                    row_value(view, plot_sample_at(run, to, 1), view->order[k], row);

                plot_number(view->script, from >= last || isnan(value)
                                              ? (double) NAN
                                              : map_colour(view, value));
                fputc(c + 1 < columns ? ' ' : '\n', view->script);
            }
        }
    }
    fputs("EOD\n", view->script);
}

/* Row, step and size of a mark for every row with moved ranks. */
static void write_map_marks(const struct plot_view *view)
{
    const struct run *run = view->run;
    int64_t           top = 0;

    plot_block(view, "marks", 0);
    for (int64_t k = 0; k < run->modules; k++) {
        int64_t m = view->order[k];

        for (int64_t i = 0; view->moves[m] > 0 && i < run->plans; i++) {
            for (int64_t row = 0; row < rows_of(view, m); row++) {
                int64_t moved = 0;

                for (int64_t j = 0; j < run->plan[i].moves; j++) {
                    const struct run_move *move = &run->plan[i].move[j];

                    moved += move->module == m && move->rank / view->group == row &&
                             run_move_counts(move);
                }
                if (moved > 0) {
                    fprintf(view->script, "%" PRId64 " %.1f %.3g\n", run->plan[i].step,
                            (double) (top + row) + 0.5,
                            sqrt((double) moved / (double) view->group));
                }
            }
        }
        top += rows_of(view, m);
    }
    fputs("EOD\n", view->script);
}

void plot_map_write(const struct plot_view *view)
{
    write_map(view);
    write_map_marks(view);
}

int plot_map_ends_band(const struct plot_view *view, int64_t k)
{
    const struct run_module *module = view->run->module;

    return k + 1 == view->run->modules ||
           strcmp(plot_projection(module[view->order[k]].name),
                  plot_projection(module[view->order[k + 1]].name)) != 0;
}

void plot_map_labels(const struct plot_view *view)
{
    int         each = view->run->modules <= LABELLED;
    const char *comma = "set ytics scale 0 (";
    int64_t     top = 0, bottom = 0;
    char        label[256];

    fprintf(view->script, "unset arrow\n");
    for (int64_t k = 0; k < view->run->modules; k++) {
        bottom += rows_of(view, view->order[k]);
        if (plot_map_ends_band(view, k) && k + 1 < view->run->modules) {
            fprintf(view->script,
                    "set arrow from graph 0, first %" PRId64 " to graph 1, first %" PRId64
                    " nohead front lw 1 lc rgb '#444444'\n",
                    bottom, bottom);
        }
    }
    bottom = 0;
    for (int64_t k = 0; k < view->run->modules; k++) {
        const char *name = view->run->module[view->order[k]].name;
        const char *layer = each ? strpbrk(name, "0123456789") : NULL;

        bottom += rows_of(view, view->order[k]);
        if (each || plot_map_ends_band(view, k)) {
            snprintf(label, sizeof label, "%.200s %.*s", plot_projection(name),
                     layer != NULL ? (int) strspn(layer, "0123456789") : 0,
                     layer != NULL ? layer : "");
            fputs(comma, view->script);
            gnuplot_text(view->script, label);
            fprintf(view->script, " %.1f", (double) (top + bottom) / 2);
            comma = ", ";
            top = bottom;
        }
    }
    fputs(") font ',12'\n", view->script);
}

static void write_colours(const struct plot_view *view)
{
    if (view->scores) {
        fputs(
            "set palette defined (-3 '#5e3c99', -1.5 '#b2abd2', 0 '#f7f7f7', "
            "1.5 '#fdb863', 3 '#e66101')\n"
            "set cbrange [-3:3]\n"
            "set cbtics ('≤ 1/8' -3, '1/4' -2, '1/2' -1, '1' 0, '2' 1, '4' 2, '≥ 8' 3)\n"
            "set cblabel 'importance, 1 = equal share (log scale)' offset 0.5 font ',13'\n",
            view->script);
    } else {
        fputs("set palette defined (0 '#ffffff', 1 '#c6dbef', 2 '#6baed6', 3 '#08519c')\n"
              "set cbrange [0:*]\n"
              "set cblabel 'Frobenius norm of a rank' offset 0.5 font ',13'\n",
              view->script);
    }
}

void plot_map_draw(const struct plot_view *view)
{
    int64_t columns = plot_map_columns(view), rows = all_rows(view);
    double  width = (double) view->steps / (double) columns;
    char    all[64], title[256];

    if (run_ranks_move(view->run)) {
        snprintf(all, sizeof all, "All ranks");
    } else {
        snprintf(all, sizeof all, "All %" PRId64 " ranks", view->run->ranks);
    }
    if (view->group > 1) {
        snprintf(title, sizeof title, "%s; a row is the least of %" PRId64, all,
                 view->group);
    } else {
        snprintf(title, sizeof title, "%s, a row each", all);
    }
    plot_map_labels(view);
    write_colours(view);
    fputs("set title ", view->script);
    gnuplot_text(view->script, title);
    fprintf(
        view->script,
        "\nset lmargin at screen 0.61\n"
        "set rmargin at screen 0.93\n"
        "set bmargin at screen 0.17\n"
        "set tmargin at screen 0.85\n"
        "set border 15 lc rgb '#444444'\n"
        "unset grid\n"
        "unset key\n"
        "set xlabel 'optimizer step' font ',13'\n"
        "set format x '%%g'\n"
        "unset ylabel\n"
        "set xrange [0:%" PRId64 "]\n"
        "set yrange [%" PRId64 ":0]\n"
        "plot $map matrix using (($1 + 0.5) * %.9g):(($2 + 0.5) * %g):3 with image, \\\n"
        "    $marks0 using 1:2:($3 * %.3g * P) with points pt 7 ps variable "
        "lc rgb '#000000'\n",
        view->steps, rows, width, rows == 1 ? 0.5 : 1.0, view->group > 1 ? 1.0 : 0.8);
}
