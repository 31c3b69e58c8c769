/*
 * One picture of a run's ranks. On the left some modules from close by, a line for each
 * rank, with what reallocations did to them; on the right all ranks as a map of colours
 * over the steps, modules by projection, then by layer.
 */
#include "view/gnuplot.h"
#include "view/plot.h"
#include "view/plot_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINE_POINTS 200 /* of a rank's line            */
#define MARKED_STEPS 40 /* reallocations with a line of their own */

/* Colours that colour-blind readers can tell apart. */
#define STILL "#b8b8b8"
#define MOVED "#0072B2"
#define BEFORE "#D55E00"
#define AFTER "#009E73"

double plot_value_at(const struct plot_view *view, int64_t sample, int64_t rank)
{
    const struct run_sample *from = &view->run->sample[sample];

    return view->scores ? from->importance[rank] : from->norm[rank];
}

int64_t plot_sample_at(const struct run *run, int64_t step, int after)
{
    int64_t low = 0, high = run->samples - 1;

    while (low < high) {
        int64_t                  middle = low + (high - low + 1) / 2;
        const struct run_sample *sample = &run->sample[middle];

        if (sample->step < step || (sample->step == step && (after || !sample->after))) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* ===== Which modules, in which order ====================================== */

const char *plot_projection(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot != NULL ? dot + 1 : name;
}

void plot_order_modules(struct plot_view *view)
{
    const struct run *run = view->run;
    int64_t           count = 0;

    for (int64_t i = 0; i < run->modules; i++) {
        int64_t first = 0;

        while (strcmp(plot_projection(run->module[first].name),
                      plot_projection(run->module[i].name)) != 0) {
            first++;
        }
        for (int64_t j = i; first == i && j < run->modules; j++) {
            if (strcmp(plot_projection(run->module[i].name),
                       plot_projection(run->module[j].name)) == 0) {
                view->order[count++] = j;
            }
        }
    }
}

/* What makes a module worth a look: its moves; without any, its largest value. */
static double weight_of(const struct plot_view *view, int64_t m)
{
    const struct run_module *module = &view->run->module[m];
    double                   most = 0;

    if (view->total_moves > 0) {
        return (double) view->moves[m];
    }
    for (int64_t r = 0; r < module->capacity; r++) {
        most = fmax(most, plot_value_at(view, view->run->samples - 1, module->first + r));
    }
    return most;
}

static void choose_modules(struct plot_view *view, const char *pattern)
{
    const struct run *run = view->run;

    while (view->close_count < PLOT_CLOSE) {
        int64_t best = -1;

        for (int64_t m = 0; m < run->modules; m++) {
            int taken = pattern != NULL && strstr(run->module[m].name, pattern) == NULL;

            for (int64_t k = 0; k < view->close_count; k++) {
                taken |= view->close[k] == m;
            }
            if (!taken && (best < 0 || weight_of(view, m) > weight_of(view, best))) {
                best = m;
            }
        }
        if (best < 0) {
            return;
        }
        view->close[view->close_count++] = best;
    }
}

static void count_moves(struct plot_view *view)
{
    for (int64_t i = 0; i < view->run->plans; i++) {
        for (int64_t k = 0; k < view->run->plan[i].moves; k++) {
            int64_t counts = run_move_counts(&view->run->plan[i].move[k]);

            view->moves[view->run->plan[i].move[k].module] += counts;
            view->total_moves += counts;
        }
    }
}

static int was_moved(const struct run *run, int64_t module, int64_t rank)
{
    for (int64_t i = 0; i < run->plans; i++) {
        for (int64_t k = 0; k < run->plan[i].moves; k++) {
            const struct run_move *move = &run->plan[i].move[k];

            if (move->module == module && move->rank == rank && run_move_counts(move)) {
                return 1;
            }
        }
    }
    return 0;
}

/* ===== Data =============================================================== */

void plot_number(FILE *script, double value)
{
    if (isfinite(value)) {
        fprintf(script, "%.6g", value);
    } else {
        fputs("NaN", script);
    }
}

static int is_reallocation(const struct run *run, int64_t step)
{
    for (int64_t i = 0; i < run->plans; i++) {
        if (run->plan[i].step == step) {
            return 1;
        }
    }
    return 0;
}

/* Lines of the module's ranks, a blank line between two. */
static void write_lines(const struct plot_view *view, int64_t m, int moved)
{
    const struct run        *run = view->run;
    const struct run_module *module = &run->module[m];
    int64_t                  every = run->samples / LINE_POINTS + 1;

    for (int64_t r = 0; r < module->capacity; r++) {
        if (was_moved(run, m, r) != moved) {
            continue;
        }
        for (int64_t s = 0; s < run->samples; s++) {
            if (s % every == 0 || s == run->samples - 1 ||
                (moved && is_reallocation(run, run->sample[s].step))) {
                fprintf(view->script, "%" PRId64 " ", run->sample[s].step);
                plot_number(view->script, plot_value_at(view, s, module->first + r));
                fputc('\n', view->script);
            }
        }
        fputs("\n", view->script);
    }
}

static void write_marks(const struct plot_view *view, int64_t m, int after)
{
    const struct run *run = view->run;

    for (int64_t i = 0; i < run->plans; i++) {
        for (int64_t k = 0; k < run->plan[i].moves; k++) {
            const struct run_move *move = &run->plan[i].move[k];
            int64_t                sample = plot_sample_at(run, run->plan[i].step, after);

            if (move->module == m && run_move_counts(move)) {
                fprintf(view->script, "%" PRId64 " ", run->plan[i].step);
                plot_number(
                    view->script,
                    plot_value_at(view, sample, run->module[m].first + move->rank));
                fputc('\n', view->script);
            }
        }
    }
}

void plot_block(const struct plot_view *view, const char *name, int64_t index)
{
    fprintf(view->script, "$%s%" PRId64 " << EOD\nNaN NaN\n\n", name, index);
}

static void write_close_data(const struct plot_view *view)
{
    for (int64_t k = 0; k < view->close_count; k++) {
        plot_block(view, "still", k);
        write_lines(view, view->close[k], 0);
        fputs("EOD\n", view->script);
        plot_block(view, "moved", k);
        write_lines(view, view->close[k], 1);
        fputs("EOD\n", view->script);
        plot_block(view, "before", k);
        write_marks(view, view->close[k], 0);
        fputs("EOD\n", view->script);
        plot_block(view, "after", k);
        write_marks(view, view->close[k], 1);
        fputs("EOD\n", view->script);
    }
}

/* ===== Modules from close by ============================================== */

static double close_maximum(const struct plot_view *view)
{
    double most = 0;

    for (int64_t k = 0; k < view->close_count; k++) {
        const struct run_module *module = &view->run->module[view->close[k]];

        for (int64_t s = 0; s < view->run->samples; s++) {
            for (int64_t r = 0; r < module->capacity; r++) {
                most = fmax(most, plot_value_at(view, s, module->first + r));
            }
        }
    }
    return most > 0 ? most * 1.05 : 1;
}

static void write_reallocation_lines(const struct plot_view *view)
{
    for (int64_t i = 0; i < view->run->plans && view->run->plans <= MARKED_STEPS; i++) {
        fprintf(view->script,
                "set arrow from first %" PRId64 ", graph 0 to first %" PRId64
                ", graph 1 nohead back lw 1 dt 3 lc rgb '#999999'\n",
                view->run->plan[i].step, view->run->plan[i].step);
    }
}

static void draw_close(const struct plot_view *view, int64_t k)
{
    static const double left[] = { 0.06, 0.315 };
    double              top = 0.85 - 0.2425 * (double) (k / 2);
    const char         *name = view->run->module[view->close[k]].name;

    fputs("set title ", view->script);
    gnuplot_text(view->script, name);
    fprintf(view->script,
            " font ',13' offset 0,-0.5\n"
            "set lmargin at screen %.3f\n"
            "set rmargin at screen %.3f\n"
            "set tmargin at screen %.3f\n"
            "set bmargin at screen %.3f\n",
            left[k % 2], left[k % 2] + 0.215, top, top - 0.195);
    fprintf(view->script, "%s\n%s\n",
            k % 2 == 0 ? (view->scores ? "set ylabel 'importance' offset 1 font ',13'"
                                       : "set ylabel 'norm' offset 1 font ',13'")
                       : "unset ylabel",
            k + 2 >= view->close_count
                ? "set xlabel 'optimizer step' font ',13'\nset format x '%g'"
                : "unset xlabel\nset format x ''");
    fprintf(view->script,
            "plot $still%" PRId64 " using 1:2 with lines lw 1 lc rgb '%s' notitle, \\\n"
            "    $moved%" PRId64 " using 1:2 with lines lw 1.5 lc rgb '" MOVED
            "' notitle, \\\n"
            "    $before%" PRId64
            " using 1:2 with points pt 2 ps (1.1 * P) lw 2 lc rgb '" BEFORE
            "' notitle, \\\n"
            "    $after%" PRId64 " using 1:2 with points pt 7 ps (0.9 * P) lc rgb '" AFTER
            "' notitle",
            k, view->total_moves > 0 ? STILL : MOVED, k, k, k);
    fputc('\n', view->script);
}

/* gnuplot's own key would be wrapped at other places in each format. Goes with the first
 * plot. */
static void write_legend(const struct plot_view *view)
{
    if (view->total_moves == 0) {
        return;
    }
    fputs(
        "set arrow 901 from screen 0.02, 0.895 to screen 0.05, 0.895 nohead lw 2 lc rgb "
        "'" STILL "'\n"
        "set label 'rank that stayed' at screen 0.057, 0.895 left font ',13'\n"
        "set arrow 902 from screen 0.18, 0.895 to screen 0.21, 0.895 nohead lw 2 lc rgb "
        "'" MOVED "'\n"
        "set label 'rank that was reallocated:' at screen 0.217, 0.895 left font ',13'\n"
        "set label 'just before' at screen 0.39, 0.895 left point pt 2 ps (1.1 * P) lw 2 "
        "lc rgb '" BEFORE "' offset 1, -0.3 font ',13'\n"
        "set label 'just after' at screen 0.48, 0.895 left point pt 7 ps (0.9 * P) "
        "lc rgb '" AFTER "' offset 1, -0.3 font ',13'\n",
        view->script);
}

/* ===== The whole ========================================================== */

static void write_label(const struct plot_view *view, const char *text, double y,
                        const char *size)
{
    fputs("set label ", view->script);
    gnuplot_text(view->script, text);
    fprintf(view->script, " at screen 0.02, %.3f left font ',%s'\n", y, size);
}

static int64_t ranks_at_first(const struct run *run)
{
    int64_t ranks = 0;

    for (int64_t m = 0; m < run->modules; m++) {
        ranks += run->module[m].rank;
    }
    return ranks;
}

static void write_heading(const struct plot_view *view)
{
    const struct run *run = view->run;
    const json_t     *seed = json_object_get(run->settings, "seed");
    char              text[512], seed_text[64] = "", moved[128] = "";

    snprintf(text, sizeof text, "%s of the ranks: %.200s",
             view->scores ? "Importance" : "Norm", run->name);
    write_label(view, text, 0.965, "20");
    if (json_is_integer(seed)) {
        snprintf(seed_text, sizeof seed_text, ", seed %" JSON_INTEGER_FORMAT,
                 json_integer_value(seed));
    }
    if (run->plans > 0) {
        snprintf(moved, sizeof moved,
                 ", reallocations: %" PRId64 ", ranks moved: %" PRId64, run->plans,
                 view->total_moves);
    }
    snprintf(text, sizeof text,
             "%s%s: %" PRId64 " modules, %" PRId64 " ranks%s, %" PRId64 " of %" PRId64
             " steps%s",
             run->method, seed_text, run->modules, ranks_at_first(run),
             run_ranks_move(run) ? " at first" : "", run->done_steps, run->total_steps,
             moved);
    write_label(view, text, 0.928, "14");
}

/* What became of most pruned ranks. */
static const char *explain_moves(const struct plot_view *view)
{
    int64_t count[RUN_ACTIONS] = { 0 };

    for (int64_t i = 0; i < view->run->plans; i++) {
        for (int64_t k = 0; k < view->run->plan[i].moves; k++) {
            count[view->run->plan[i].move[k].action]++;
        }
    }
    if (view->total_moves == 0) {
        return "Left: some modules, a line for each rank. No rank was reallocated.";
    }
    if (run_ranks_move(view->run)) {
        return "Left: the modules with most moves. At a reallocation (dotted) the least "
               "important ranks go, and the most important ones of all modules get second "
               "paths.";
    }
    if (2 * count[RUN_REMOVED] > view->total_moves) {
        return "Left: the modules with most moves. At a reallocation (dotted) the least "
               "important ranks are removed.";
    }
    if (2 * count[RUN_FRESH] > view->total_moves) {
        return "Left: the modules with most moves. At a reallocation (dotted) the least "
               "important ranks are pruned and start afresh.";
    }
    return "Left: the modules with most moves. At a reallocation (dotted) the least "
           "important ranks are pruned and go on from another rank's path; the two then "
           "share their scores.";
}

static const char *explain_importance(const struct run *run)
{
    if (run_ranks_move(run)) {
        return "Importance: a rank's weight g among the ranks of its module; 1 at first. A "
               "rank may take over the number, and so the line, of one that was given up.";
    }
    if (run->sample[0].kept != NULL) {
        return "Importance: a rank's |E| over its mean in all modules; 1 is an equal "
               "share, 0 a masked rank.";
    }
    return "Importance: a rank's weight among the ranks of its module; 1 is an equal "
           "share, and a module's sum is its number of ranks.";
}

static void write_caption(const struct plot_view *view)
{
    const char *line[3] = { "", "", "" };

    if (!view->scores) {
        line[0] = "This method has no scores, so the size of every rank's share of the "
                  "weight is shown (Frobenius norm) in place of its importance.";
        line[1] = "Left: the modules with the largest ranks, a line for each rank. "
                  "Right: all ranks; the darker, the larger.";
    } else {
        line[0] = explain_importance(view->run);
        line[1] = explain_moves(view);
        line[2] = run_ranks_move(view->run)
                      ? "Right: in each projection the layers from the top down; black "
                        "dots: a rank went or came; white: room for ranks that are not "
                        "there."
                  : view->total_moves > 0
                      ? (view->group > 1
                             ? "Right: in each projection the layers from the top down; "
                               "black dots: ranks were reallocated, the larger the more."
                             : "Right: every rank's importance as a colour; black dots: "
                               "the rank was reallocated.")
                      : "";
    }
    write_label(view, line[0], 0.072, "12");
    write_label(view, line[1], 0.045, "12");
    write_label(view, line[2], 0.018, "12");
}

static void write_script(const struct plot_view *view)
{
    fputs("set encoding utf8\n", view->script);
    write_close_data(view);
    plot_map_write(view);
    fprintf(view->script,
            "set multiplot\n"
            "set xrange [0:%" PRId64 "]\n"
            "set yrange [0:%.4g]\n",
            view->steps, close_maximum(view));
    write_heading(view);
    write_caption(view);
    write_legend(view);
    fputs("unset key\n"
          "set border 3 lc rgb '#444444'\n"
          "set tics font ',12'\n"
          "set xtics nomirror autofreq\n"
          "set ytics nomirror autofreq\n"
          "set grid ytics lc rgb '#e4e4e4' lt 1\n",
          view->script);
    write_reallocation_lines(view);
    for (int64_t k = 0; k < view->close_count; k++) {
        draw_close(view, k);
        if (k == 0) {
            fputs("unset label\nunset arrow 901\nunset arrow 902\n", view->script);
        }
    }
    plot_map_draw(view);
    fputs("unset multiplot\n", view->script);
}

int plot_importance(FILE *script, const struct run *run, const char *pattern, char *error,
                    size_t size)
{
    struct plot_view view = { .script = script,
                              .run = run,
                              .scores = run_has_scores(run) };
    int64_t          last = run->samples > 0 ? run->sample[run->samples - 1].step : 0;
    int              result = -1;

    view.steps = run->total_steps > last ? run->total_steps : last > 0 ? last : 1;
    view.moves = calloc((size_t) run->modules + 1, sizeof *view.moves);
    view.order = calloc((size_t) run->modules + 1, sizeof *view.order);
    if (view.moves == NULL || view.order == NULL) {
        snprintf(error, size, "out of memory");
    } else {
        count_moves(&view);
        plot_order_modules(&view);
        plot_map_choose(&view);
        choose_modules(&view, pattern);
        if (view.close_count == 0) {
            snprintf(error, size, "%.200s: no module has \"%.100s\" in its name",
                     run->directory, pattern != NULL ? pattern : "");
        } else {
            write_script(&view);
            result = 0;
        }
    }
    if (result == 0 && ferror(script)) {
        snprintf(error, size, "cannot write gnuplot's script");
        result = -1;
    }
    free(view.moves);
    free(view.order);
    return result;
}
