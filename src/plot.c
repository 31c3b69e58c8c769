/* `beamlora plot`: which pictures, of what, to where. */
#include "plot.h"

#include "gnuplot.h"
#include "program.h"

#include <errno.h>
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
static int importance_name(char *name, size_t size, const struct plot *plot, int64_t i)
{
    int twins = 0, length;

    if (plot->out == NULL) {
        return snprintf(name, size, "importance");
    }
    for (int64_t j = 0; j < i; j++) {
        twins += strcmp(plot->run[j].name, plot->run[i].name) == 0;
    }
    length = snprintf(name, size, "importance-%s", plot->run[i].name);
    if (twins > 0 && (size_t) length < size) {
        length += snprintf(name + length, size - (size_t) length, "-%d", twins + 1);
    }
    return length;
}

static int draw_importance(const struct plot *plot, int64_t i, char *error, size_t size)
{
    const struct run *run = &plot->run[i];
    char              name[512];
    FILE             *script;
    int               result = -1;

    if (run->samples == 0) {
        complain("%s: no ranks were written down, so no picture of them", run->directory);
        return 0;
    }
    if ((size_t) importance_name(name, sizeof name, plot, i) >= sizeof name) {
        snprintf(error, size, "%.300s: too long a name", run->name);
        return -1;
    }
    script = gnuplot_script();
    if (script == NULL) {
        snprintf(error, size, "no temporary file: %s", strerror(errno));
        return -1;
    }
    if (plot_importance(script, run, plot->modules, error, size) == 0) {
        result = draw(script, plot, plot->out != NULL ? plot->out : run->directory, name,
                      error, size);
    }
    fclose(script);
    return result;
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
static int plot_all(struct plot *plot, const char **directories, int64_t count)
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
        if (draw_importance(plot, i, error, sizeof error) != 0) {
            return complain("%s", error);
        }
    }
    return draw_loss(plot, error, sizeof error) != 0 ? complain("%s", error) : 0;
}

int command_plot(int argc, char **argv)
{
    struct plot  plot = { .format = FORMAT_BOTH };
    const char **operands = calloc((size_t) argc + 1, sizeof *operands);
    int          status, count;
    struct flag  flags[] = {
         { .name = "out",
           .type = FLAG_STRING,
           .value = &plot.out,
           .help = "folder for the pictures (the runs' own)" },
         { .name = "format",
           .type = FLAG_CHOICE,
           .value = &plot.format,
           .choices = formats,
           .help = "of the pictures (both)" },
         { .name = "modules",
           .type = FLAG_STRING,
           .value = &plot.modules,
           .help = "look closely at modules with this in their name (most moves)" },
    };
    int flag_count = (int) (sizeof flags / sizeof *flags);

    if (operands == NULL) {
        return complain("out of memory");
    }
    count = take_operands(&argc, argv, flags, flag_count, operands);
    status = parse_flags(argc, argv,
                         "beamlora plot RUN... [flags]\n\n"
                         "Draws importance.png and .svg of each run, and loss.png and "
                         ".svg of all\nruns together. Needs gnuplot.\n",
                         flags, flag_count);
    if (status == 0 && count == 0) {
        complain("plot needs the folders of runs; --help tells more");
        status = 2;
    } else if (status == 0) {
        status = plot_all(&plot, operands, count);
        for (int64_t i = 0; i < plot.runs; i++) {
            run_free(&plot.run[i]);
        }
        free(plot.run);
    } else {
        status = status == 1 ? 0 : status;
    }
    free(operands);
    return status;
}
