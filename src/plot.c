/* `beamlora plot`: which pictures, of what, to where. */
#include "view/plot.h"

#include "view/gnuplot.h"
#include "base/program.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum format { FORMAT_PNG, FORMAT_SVG, FORMAT_BOTH };

static const char *const formats[] = { "png", "svg", "both", NULL };

struct plot {
    const char *out, *modules;
    int32_t     format;
    struct run *run;
    int64_t     runs;
};

static int draw(FILE *script, const struct plot *plot, const char *directory,
                const char *name, char *error, size_t size)
{
    char path[4096];

    for (int f = 0; f < GNUPLOT_FORMATS; f++) {
        if (plot->format == FORMAT_BOTH || plot->format == f) {
            if (gnuplot_draw(script, (enum gnuplot_format) f, directory, name, path,
                             sizeof path, error, size) != 0) {
                return -1;
            }
            printf("%s\n", path);
        }
    }
    return 0;
}

/* "importance-NAME" in --out, where folders of one name must not meet. */
static int picture_name(char *name, size_t size, const struct plot *plot,
                        const char *what, int64_t i)
{
    int twins = 0, length;

    if (plot->out == NULL) {
        return snprintf(name, size, "%s", what);
    }
    for (int64_t j = 0; j < i; j++) {
        twins += strcmp(plot->run[j].name, plot->run[i].name) == 0;
    }
    length = snprintf(name, size, "%s-%s", what, plot->run[i].name);
    if (twins > 0 && (size_t) length < size) {
        length += snprintf(name + length, size - (size_t) length, "-%d", twins + 1);
    }
    return length;
}

/* One picture of run i; `ranks`: how many each module has, else their importance. */
static int draw_run(const struct plot *plot, int64_t i, int ranks, char *error,
                    size_t size)
{
    const struct run *run = &plot->run[i];
    char              name[512];
    FILE             *script;
    int               result;

    if ((size_t) picture_name(name, sizeof name, plot, ranks ? "ranks" : "importance",
                              i) >= sizeof name) {
        snprintf(error, size, "%.300s: too long a name", run->name);
        return -1;
    }
    script = gnuplot_script();
    if (script == NULL) {
        snprintf(error, size, "no temporary file: %s", strerror(errno));
        return -1;
    }
    result = ranks ? plot_ranks(script, run, error, size)
                   : plot_importance(script, run, plot->modules, error, size);
    if (result == 0) {
        result = draw(script, plot, plot->out != NULL ? plot->out : run->directory, name,
                      error, size);
    }
    fclose(script);
    return result;
}

static int draw_ranks(const struct plot *plot, int64_t i, char *error, size_t size)
{
    const struct run *run = &plot->run[i];

    if (run->samples == 0) {
        complain("%s: no ranks were written down, so no picture of them", run->directory);
        return 0;
    }
    return draw_run(plot, i, 0, error, size) != 0 ||
                   (plot_has_ranks(run) && draw_run(plot, i, 1, error, size) != 0)
               ? -1
               : 0;
}

static int has_losses(const struct run *run)
{
    for (int64_t i = 0; i < run->steps; i++) {
        if (isfinite(run->step[i].loss)) {
            return 1;
        }
    }
    for (int64_t i = 0; i < run->evaluations; i++) {
        if (isfinite(run->evaluation[i].loss)) {
            return 1;
        }
    }
    return 0;
}

static int draw_loss(const struct plot *plot, char *error, size_t size)
{
    struct run_groups groups;
    FILE             *script = gnuplot_script();
    int               result = -1, any = 0;

    for (int64_t i = 0; i < plot->runs; i++) {
        any |= has_losses(&plot->run[i]);
    }
    if (script == NULL) {
        snprintf(error, size, "no temporary file: %s", strerror(errno));
        return -1;
    }
    if (!any) {
        complain("no finite loss was logged, so no picture of it");
        result = 0;
    } else if (run_groups_make(&groups, plot->run, plot->runs) != 0) {
        snprintf(error, size, "out of memory");
    } else {
        if (plot_loss(script, plot->run, plot->runs, &groups, error, size) == 0) {
            result =
                draw(script, plot, plot->out != NULL ? plot->out : plot->run[0].directory,
                     "loss", error, size);
        }
        run_groups_free(&groups);
    }
    fclose(script);
    return result;
}

/* All runs are read before anything is drawn. */
static int plot_all(struct plot *plot, char **directories, int64_t count)
{
    char error[MESSAGE_SIZE];

    plot->run = calloc((size_t) count, sizeof *plot->run);
    if (plot->run == NULL) {
        return complain("out of memory");
    }
    for (; plot->runs < count; plot->runs++) {
        struct run *run = &plot->run[plot->runs];

        if (run_read(run, directories[plot->runs], error, sizeof error) != 0) {
            return complain("%s", error);
        }
        if (run->note[0] != '\0') {
            complain("%s: %s", run->directory, run->note);
        }
    }
    if (plot->out != NULL && mkdir(plot->out, 0777) != 0 && errno != EEXIST) {
        return complain("%s: %s", plot->out, strerror(errno));
    }
    for (int64_t i = 0; i < count; i++) {
        if (draw_ranks(plot, i, error, sizeof error) != 0) {
            return complain("%s", error);
        }
    }
    return draw_loss(plot, error, sizeof error) != 0 ? complain("%s", error) : 0;
}

int command_plot(int argc, char **argv)
{
    struct plot plot = { .format = FORMAT_BOTH };
    int         status;

    struct flag flags[] = {
        { .name = "out",
          .type = FLAG_DIRECTORY,
          .value = &plot.out,
          .help = "where to (default: the runs' own folders)" },
        { .name = "format",
          .type = FLAG_CHOICE,
          .value = &plot.format,
          .choices = formats,
          .help = "of the pictures (default both)" },
        { .name = "modules",
          .type = FLAG_STRING,
          .value = &plot.modules,
          .help = "look closely at those with this in their name" },
    };
    struct command_line line = {
        .usage =
            "beamlora plot RUN... [flags]\n"
            "\n"
            "Draws how the importance of ranks moved and what was reallocated, for each "
            "run,\nhow many ranks each module has where they move between modules, and the "
            "losses\nof all runs together: importance, ranks and loss, as .png and .svg, in "
            "the runs'\nfolders. Needs gnuplot (Debian: gnuplot-nox).",
        .details = "The six modules with most moves are looked at closely. loss goes to "
                   "the first\nrun's folder. With --out all pictures go there, as "
                   "importance-NAME, ranks-NAME\nand loss.",
        .argument = "RUN",
        .argument_help = "run folder, finished or not",
        .argument_type = FLAG_DIRECTORY,
        .least = 1,
        .most = INT_MAX,
    };

    status =
        parse_arguments(argc, argv, &line, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    status = plot_all(&plot, argv, line.given);
    for (int64_t i = 0; i < plot.runs; i++) {
        run_free(&plot.run[i]);
    }
    free(plot.run);
    return status;
}
