/*
 * Losses of several runs in one picture: runs that differ by their seed alone have one
 * colour. Training losses of single steps are noise, so means of as many steps as make
 * sixty points are drawn; evaluations are drawn as they are.
 */
#include "view/gnuplot.h"
#include "view/plot.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define POINTS 60
#define SPAN 20 /* largest loss over the least, from which on the axis is logarithmic */
#define LINED 4 /* evaluations; a line through fewer says what was not measured */

/* Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow,
 * which is none on white. Shapes of points differ too. */
static const char *const colours[] = { "#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                       "#E69F00", "#56B4E9", "#000000" };
static const int         shapes[] = { 7, 5, 9, 13, 11, 6, 4 };

enum { COLOURS = sizeof colours / sizeof *colours };

static int64_t most_steps(const struct run *runs, int64_t count)
{
    int64_t most = 1;

    for (int64_t i = 0; i < count; i++) {
        most = runs[i].done_steps > most ? runs[i].done_steps : most;
        most = runs[i].total_steps > most ? runs[i].total_steps : most;
    }
    return most;
}

/* Means of `width` steps at their middle. */
static void write_training(FILE *script, const struct run *run, int64_t width)
{
    for (int64_t i = 0; i < run->steps; i += width) {
        double  sum = 0, middle = 0;
        int64_t losses = 0, steps = 0;

        for (int64_t k = i; k < i + width && k < run->steps; k++) {
            if (!isnan(run->step[k].loss)) {
                sum += run->step[k].loss;
                losses++;
            }
            middle += (double) run->step[k].step;
            steps++;
        }
        if (losses > 0) {
            fprintf(script, "%.9g %.9g\n", middle / (double) steps,
                    sum / (double) losses);
        }
    }
}

static void write_evaluations(FILE *script, const struct run *run)
{
    for (int64_t i = 0; i < run->evaluations; i++) {
        const struct run_evaluation *e = &run->evaluation[i];

        if (isnan(e->loss)) {
            continue;
        }
        if (e->examples > 0) {
            fprintf(script, "%" PRId64 " %.9g %.9g\n", e->step, e->loss,
                    100.0 * (double) e->exact / (double) e->examples);
        } else {
            fprintf(script, "%" PRId64 " %.9g NaN\n", e->step, e->loss);
        }
    }
}

static void write_data(FILE *script, const struct run *runs, int64_t count, int64_t width)
{
    for (int64_t i = 0; i < count; i++) {
        /* a block of data must not be empty */
        fprintf(script, "$train%" PRId64 " << EOD\nNaN NaN\n", i);
        write_training(script, &runs[i], width);
        fprintf(script, "EOD\n$eval%" PRId64 " << EOD\nNaN NaN NaN\n", i);
        write_evaluations(script, &runs[i]);
        fputs("EOD\n", script);
    }
}

static int has_examples(const struct run *run)
{
    for (int64_t i = 0; i < run->evaluations; i++) {
        if (run->evaluation[i].examples > 0) {
            return 1;
        }
    }
    return 0;
}

/* Do the losses span so much that a linear axis would show the first steps alone? */
static int wants_logarithm(const struct run *runs, int64_t count)
{
    double least = INFINITY, most = 0;

    for (int64_t i = 0; i < count; i++) {
        for (int64_t k = 0; k < runs[i].steps; k++) {
            least = fmin(least, runs[i].step[k].loss); /* not of NaN */
            most = fmax(most, runs[i].step[k].loss);
        }
        for (int64_t k = 0; k < runs[i].evaluations; k++) {
            least = fmin(least, runs[i].evaluation[k].loss);
            most = fmax(most, runs[i].evaluation[k].loss);
        }
    }
    return least > 0 && most > SPAN * least;
}

static int64_t count_unfinished(const struct run *runs, const struct run_group *group)
{
    int64_t count = 0;

    for (int64_t k = 0; k < group->members; k++) {
        count += !runs[group->member[k]].finished;
    }
    return count;
}

/* What the legend says of a group. */
static void write_title(FILE *script, const struct run *runs,
                        const struct run_group *group)
{
    const struct run *first = &runs[group->member[0]];
    const json_t     *seed = json_object_get(first->settings, "seed");
    int64_t           unfinished = count_unfinished(runs, group);
    char              text[RUN_LABEL + 128];
    size_t            used = (size_t) snprintf(text, sizeof text, "%s", group->label);

    if (group->members > 1) {
        used += (size_t) snprintf(text + used, sizeof text - used, ", %" PRId64 " seeds",
                                  group->members);
    } else if (json_is_integer(seed)) {
        used +=
            (size_t) snprintf(text + used, sizeof text - used,
                              ", seed %" JSON_INTEGER_FORMAT, json_integer_value(seed));
    }
    if (group->members > 1 && unfinished > 0) {
        snprintf(text + used, sizeof text - used, ", %" PRId64 " unfinished", unfinished);
    } else if (unfinished > 0) {
        snprintf(text + used, sizeof text - used, ", unfinished");
    }
    gnuplot_text(script, text);
}

/* One panel's curves; `column` of the evaluations, training losses if `training`. */
static void write_curves(FILE *script, const struct run *runs,
                         const struct run_groups *groups, int column, int training,
                         int legend)
{
    const char *comma = "plot ";

    for (int64_t g = 0; g < groups->groups; g++) {
        const struct run_group *group = &groups->group[g];
        const char             *colour = colours[g % COLOURS];
        int64_t                 dash = g / COLOURS + 1;

        for (int64_t k = 0; k < group->members; k++) {
            int64_t           i = group->member[k];
            const struct run *run = &runs[i];

            if (training && run->steps > 0) {
                fprintf(script,
                        "%s$train%" PRId64 " using 1:2 with lines lw 1 dt %" PRId64
                        " lc rgb '#90%s' notitle",
                        comma, i, dash, colour + 1);
                comma = ", \\\n    ";
            }
            if (run->evaluations > 0 && (column == 2 || has_examples(run))) {
                fprintf(script,
                        "%s$eval%" PRId64 " using 1:%d with %s lw 2 dt %" PRId64
                        " pt %d ps (1.3 * P) lc rgb '%s' notitle",
                        comma, i, column,
                        run->evaluations < LINED ? "points" : "linespoints", dash,
                        shapes[g % COLOURS], colour);
                comma = ", \\\n    ";
            }
        }
        if (legend) {
            fprintf(script,
                    "%skeyentry with linespoints lw 2 dt %" PRId64
                    " pt %d ps (1.3 * P) lc rgb '%s' title ",
                    comma, dash, shapes[g % COLOURS], colour);
            write_title(script, runs, group);
            comma = ", \\\n    ";
        }
    }
    fputc('\n', script);
}

static void write_caption(FILE *script, const struct run *runs, int64_t count,
                          int64_t width)
{
    char text[512], mean[64] = "";
    int  evaluations = 0, training = 0;

    for (int64_t i = 0; i < count; i++) {
        evaluations |= runs[i].evaluations > 0;
        training |= runs[i].steps > 0;
    }
    if (width > 1) {
        snprintf(mean, sizeof mean, ", means of %" PRId64 " steps", width);
    }
    snprintf(text, sizeof text, "%s%s%s%s", training ? "Thin lines: training loss" : "",
             training ? mean : "", evaluations ? ". Marks: on the evaluation data" : "",
             ". Runs of one colour differ by their seed alone.");
    fputs("set label 1 ", script);
    gnuplot_text(script, text);
    fputs(" at screen 0.02, 0.03 left\n", script);
}

int plot_loss(FILE *script, const struct run *runs, int64_t count,
              const struct run_groups *groups, char *error, size_t size)
{
    int64_t steps = most_steps(runs, count), width = (steps + POINTS - 1) / POINTS;
    int     examples = 0, logarithm = wants_logarithm(runs, count);
    double  rows = (double) ((groups->groups + 1) / 2);
    double  top = 0.90 - 0.032 * rows;

    for (int64_t i = 0; i < count; i++) {
        examples |= has_examples(&runs[i]);
    }
    fputs("set encoding utf8\n", script);
    write_data(script, runs, count, width);
    fprintf(script,
            "set multiplot\n"
            "set grid lc rgb '#dddddd' lt 1\n"
            "set border 3 lc rgb '#444444'\n"
            "set tics nomirror\n"
            "set xrange [0:%" PRId64 "]\n"
            "set xlabel 'optimizer step'\n"
            "set bmargin at screen 0.14\n"
            "set tmargin at screen %.3f\n"
            "set label 2 ",
            steps, top > 0.4 ? top : 0.4);
    gnuplot_text(script, count == 1 ? runs[0].name : "Loss of the runs");
    fputs(" at screen 0.02, 0.96 left font ',20'\n", script);
    write_caption(script, runs, count, width);
    fprintf(script,
            "set key at screen 0.06, 0.93 left top Left reverse horizontal maxcols 2\n"
            "set lmargin at screen 0.085\n"
            "set rmargin at screen %s\n"
            "set ylabel 'loss (nats per predicted id%s)'\n"
            "%s\n",
            examples ? "0.52" : "0.97", logarithm ? ", logarithmic" : "",
            logarithm ? "set logscale y" : "set yrange [0<*:*]");
    write_curves(script, runs, groups, 2, 1, 1);
    if (examples) {
        fputs("unset label\n"
              "unset key\n"
              "set lmargin at screen 0.60\n"
              "set rmargin at screen 0.97\n"
              "set ylabel 'completed exactly (% of evaluation examples)'\n"
              "unset logscale\n"
              "set yrange [0:*]\n",
              script);
        write_curves(script, runs, groups, 3, 0, 0);
    }
    fputs("unset multiplot\n", script);
    if (ferror(script)) {
        snprintf(error, size, "cannot write gnuplot's script");
        return -1;
    }
    return 0;
}
