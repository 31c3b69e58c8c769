/*
 * The picture of a pruning study: loss, and exact completions, against the share of ranks
 * kept. Colours are Okabe and Ito's, and shapes of points differ too.
 */
#include "view/prune.h"

#include <inttypes.h>
#include <math.h>

#include "view/gnuplot.h"

#define SPAN 20 /* largest loss over the least, from which on the axis is logarithmic */

static void write_data(FILE *script, const struct pruning *pruning)
{
    fputs("$study << EOD\n", script);
    for (int64_t i = 0; i < pruning->points; i++) {
        const struct pruning_point *point = &pruning->point[i];
        struct pruning_spread       loss = pruning_loss(pruning, i);
        struct pruning_spread       exact = pruning_exact(pruning, i);
        const double                row[] = { pruning_share(pruning, i),
                                              point->top.loss,
                                              point->bottom.loss,
                                              loss.mean,
                                              loss.least,
                                              loss.most,
                                              pruning_exact_share(&point->top),
                                              pruning_exact_share(&point->bottom),
                                              exact.mean,
                                              exact.least,
                                              exact.most };

        for (size_t c = 0; c < sizeof row / sizeof row[0]; c++) {
            if (isfinite(row[c])) {
                fprintf(script, "%.9g ", row[c]);
            } else {
                fputs("NaN ", script);
            }
        }
        fputc('\n', script);
    }
    fputs("EOD\n", script);
}

static int wants_logarithm(const struct pruning *pruning)
{
    double least = INFINITY, most = 0;

    for (int64_t i = 0; i < pruning->points; i++) {
        const struct pruning_point *point = &pruning->point[i];
        struct pruning_spread       random = pruning_loss(pruning, i);

        least =
            fmin(least, fmin(random.least, fmin(point->top.loss, point->bottom.loss)));
        most = fmax(most, fmax(random.most, fmax(point->top.loss, point->bottom.loss)));
    }
    return least > 0 && most > SPAN * least;
}

static const struct curve {
    const char *title, *colour;
    int         shape;
} curves[] = { { "best first", "#0072B2", 7 },
               { "worst first", "#D55E00", 5 },
               { "at random", "#009E73", 9 } };

enum { CURVES = sizeof curves / sizeof curves[0] };

/* Columns from `first` on: best, worst, mean, least and largest of the seeds. The best
 * are drawn last, above the others. */
static void write_panel(FILE *script, const struct pruning *pruning, int first,
                        int legend)
{
    const char *comma = "plot ";

    if (pruning->seeds > 1) {
        fprintf(script,
                "plot $study using 1:%d:%d with filledcurves fs solid 1 noborder "
                "lc rgb '#CCEBE2' notitle",
                first + 3, first + 4);
        comma = ", \\\n    ";
    }
    for (int c = CURVES - 1; c >= 0; c--) {
        fprintf(script,
                "%s$study using 1:%d with linespoints lw 2 pt %d ps (1.3 * P) lc rgb "
                "'%s' notitle",
                comma, first + c, curves[c].shape, curves[c].colour);
        comma = ", \\\n    ";
    }
    for (int c = 0; legend && c < CURVES; c++) {
        fprintf(script,
                "%skeyentry with linespoints lw 2 pt %d ps (1.3 * P) lc rgb '%s' title "
                "'%s'",
                comma, curves[c].shape, curves[c].colour, curves[c].title);
    }
    fputc('\n', script);
}

static void write_words(FILE *script, const struct pruning *pruning)
{
    char text[512], random[128] = "one seed";

    fputs("set label 2 ", script);
    snprintf(text, sizeof text, "%.200s with some of its ranks only", pruning->name);
    gnuplot_text(script, text);
    fputs(" at screen 0.02, 0.96 left font ',20'\nset label 1 ", script);
    if (pruning->seeds > 1) {
        snprintf(random, sizeof random,
                 "mean of %" PRId64 " seeds, band from the least to the largest",
                 pruning->seeds);
    }
    snprintf(text, sizeof text,
             "Best: of largest %s, %s. At random: %s. 0 %%: the bare model.",
             pruning->by == KEEP_BY_IMPORTANCE ? "importance g" : "norm",
             pruning->scope == KEEP_MODULE ? "in each module" : "of all modules together",
             random);
    gnuplot_text(script, text);
    fputs(" at screen 0.02, 0.03 left\n", script);
}

int plot_pruning(FILE *script, const struct pruning *pruning, char *error, size_t size)
{
    int examples = pruning->point[0].top.examples > 0;
    int logarithm = wants_logarithm(pruning);

    fputs("set encoding utf8\n", script);
    write_data(script, pruning);
    fprintf(script,
            "set multiplot\n"
            "set grid lc rgb '#dddddd' lt 1\n"
            "set border 3 lc rgb '#444444'\n"
            "set tics nomirror\n"
            "set xrange [0:100]\n"
            "set xlabel 'ranks kept (%% of %" PRId64 ")'\n"
            "set bmargin at screen 0.14\n"
            "set tmargin at screen 0.87\n",
            pruning->ranks);
    write_words(script, pruning);
    fprintf(script,
            "set key at screen 0.06, 0.93 left top Left reverse horizontal maxcols 3 "
            "samplen 2.5\n"
            "set lmargin at screen 0.085\n"
            "set rmargin at screen %s\n"
            "set ylabel 'loss (nats per predicted id%s)'\n"
            "%s\n",
            examples ? "0.52" : "0.97", logarithm ? ", logarithmic" : "",
            logarithm ? "set logscale y" : "set yrange [0<*:*]");
    write_panel(script, pruning, 2, 1);
    if (examples) {
        fputs("unset label\n"
              "unset key\n"
              "set lmargin at screen 0.60\n"
              "set rmargin at screen 0.97\n"
              "set ylabel 'completed exactly (% of evaluation examples)'\n"
              "unset logscale\n"
              "set yrange [0:*]\n",
              script);
        write_panel(script, pruning, 7, 0);
    }
    fputs("unset multiplot\n", script);
    if (ferror(script)) {
        snprintf(error, size, "cannot write gnuplot's script");
        return -1;
    }
    return 0;
}
