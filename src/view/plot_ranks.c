/*
 * How many ranks each module has over a run whose ranks move between modules: on the left
 * the mean by projection, on the right a map with a row for each module.
 */
#include "view/gnuplot.h"
#include "view/plot_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/plot.h"

#define CURVES 8 /* projections with a curve of their own; colours are Okabe and Ito's */

static const char *const colours[CURVES] = { "#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                             "#E69F00", "#56B4E9", "#000000", "#999999" };

/* Does module k of the map begin a projection? */
static int begins_band(const struct plot_view *view, int64_t k)
{
    return k == 0 || plot_map_ends_band(view, k - 1);
}

/* A curve for each projection: step and mean number of ranks; returns how many. */
static int write_curves(const struct plot_view *view)
{
    const struct run *run = view->run;
    int               curves = 0;

    for (int64_t k = 0; k < run->modules; k++) {
        if (!begins_band(view, k) || curves == CURVES) {
            continue;
        }
        int64_t end = k;

        while (!plot_map_ends_band(view, end)) {
            end++;
        }
        plot_block(view, "mean", curves++);
        for (int64_t s = 0; s < run->samples; s++) {
            double sum = 0;

            for (int64_t i = k; i <= end; i++) {
                sum += run->sample[s].kept[view->order[i]];
            }
            fprintf(view->script, "%" PRId64 " %.9g\n", run->sample[s].step,
                    sum / (double) (end - k + 1));
        }
        fputs("EOD\n", view->script);
    }
    return curves;
}

/* What was not trained yet is left white; an image has two rows at least. */
static void write_map(const struct plot_view *view)
{
    const struct run *run = view->run;
    int64_t           columns = plot_map_columns(view);
    int64_t           last = run->sample[run->samples - 1].step;

    fputs("$ranks << EOD\n", view->script);
    for (int64_t k = 0; k < run->modules || k < 2; k++) {
        int64_t m = view->order[k < run->modules ? k : 0];

        for (int64_t c = 0; c < columns; c++) {
            int64_t sample = plot_sample_at(run, view->steps * (c + 1) / columns, 1);

            plot_number(view->script, view->steps * c / columns >= last
                                          ? (double) NAN
                                          : run->sample[sample].kept[m]);
            fputc(c + 1 < columns ? ' ' : '\n', view->script);
        }
    }
    fputs("EOD\n", view->script);
}

static void write_heading(const struct plot_view *view)
{
    const struct run *run = view->run;
    const double     *first = run->sample[0].kept, *last;
    double            before = 0, after = 0;
    char              text[512];

    last = run->sample[run->samples - 1].kept;
    for (int64_t m = 0; m < run->modules; m++) {
        before += first[m];
        after += last[m];
    }
    snprintf(text, sizeof text, "Ranks of the modules: %.200s", run->name);
    fputs("set label 1 ", view->script);
    gnuplot_text(view->script, text);
    fputs(" at screen 0.02, 0.965 left font ',18'\n", view->script);
    snprintf(text, sizeof text,
             "%s, %" PRId64 " modules: %g ranks at first, %g at step %" PRId64
             " of %" PRId64,
             run->method, run->modules, before, after, run->done_steps, run->total_steps);
    fputs("set label 2 ", view->script);
    gnuplot_text(view->script, text);
    fputs(" at screen 0.02, 0.925 left font ',14'\n", view->script);
    fputs(
        run_ranks_move(run)
            ? "set label 3 'A rank is pruned in one module and another one grows: what "
              "all cost together stays within the budget.' at screen 0.02, 0.02 left "
              "font ',13'\n"
            : "set label 3 'Ranks that the newest mask left; the others are masked.' at "
              "screen 0.02, 0.02 left font ',13'\n",
        view->script);
}

static void draw_curves(const struct plot_view *view, int curves)
{
    int64_t k = 0;

    fputs("set multiplot\n"
          "set lmargin at screen 0.06\n"
          "set rmargin at screen 0.47\n"
          "set bmargin at screen 0.17\n"
          "set tmargin at screen 0.85\n"
          "set border 3 lc rgb '#444444'\n"
          "set tics font ',12' nomirror\n"
          "set grid ytics lc rgb '#e4e4e4' lt 1\n"
          "set title 'Mean number of ranks, by projection'\n"
          "set xlabel 'optimizer step' font ',13'\n"
          "set key at screen 0.265, 0.073 center horizontal font ',12' samplen 2\n"
          "set yrange [0:*]\n",
          view->script);
    fprintf(view->script, "set xrange [0:%" PRId64 "]\nplot ", view->steps);
    for (int i = 0; i < curves; i++) {
        while (!begins_band(view, k)) {
            k++;
        }
        fprintf(view->script, "%s$mean%d using 1:2 with lines lw 2.5 lc rgb '%s' title ",
                i > 0 ? ", " : "", i, colours[i]);
        gnuplot_text(view->script,
                     plot_projection(view->run->module[view->order[k]].name));
        k++;
    }
    fputs("\nunset label\n", view->script);
}

static void draw_map(const struct plot_view *view)
{
    int64_t columns = plot_map_columns(view), rows = view->run->modules;
    double  width = (double) view->steps / (double) columns;

    plot_map_labels(view);
    fprintf(
        view->script,
        "set palette defined (0 '#ffffff', 1 '#deebf7', 2 '#9ecae1', 3 '#4292c6', "
        "4 '#084594')\n"
        "set cbrange [0:*]\n"
        "set cblabel 'ranks' offset 0.5 font ',13'\n"
        "set title 'Every module, a row each'\n"
        "set lmargin at screen 0.61\n"
        "set rmargin at screen 0.93\n"
        "set border 15 lc rgb '#444444'\n"
        "unset grid\n"
        "unset key\n"
        "unset ylabel\n"
        "set yrange [%" PRId64 ":0]\n"
        "plot $ranks matrix using (($1 + 0.5) * %.9g):(($2 + 0.5) * %g):3 with image\n"
        "unset multiplot\n",
        rows, width, rows == 1 ? 0.5 : 1.0);
}

int plot_ranks(FILE *script, const struct run *run, char *error, size_t size)
{
    struct plot_view view = { .script = script, .run = run, .group = run->ranks };
    int64_t          last = run->sample[run->samples - 1].step;

    view.steps = run->total_steps > last ? run->total_steps : last > 0 ? last : 1;
    view.order = calloc((size_t) run->modules + 1, sizeof *view.order);
    if (view.order == NULL) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    plot_order_modules(&view);
    fputs("set encoding utf8\n", script);

    int curves = write_curves(&view);

    write_map(&view);
    write_heading(&view);
    draw_curves(&view, curves);
    draw_map(&view);
    free(view.order);
    if (ferror(script)) {
        snprintf(error, size, "cannot write gnuplot's script");
        return -1;
    }
    return 0;
}

int plot_has_ranks(const struct run *run)
{
    for (int64_t i = 0; i < run->samples; i++) {
        if (run->sample[i].kept == NULL) {
            return 0;
        }
    }
    return run->samples > 0 && run->modules > 0;
}
