/* The progress line: step, mean loss since the last line, tokens a second, time left. */
#define _POSIX_C_SOURCE 200809L

#include "train/progress.h"

#include "base/program.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define REDRAWN 1.0 /* seconds between two lines on a terminal */
#define PRINTED 5.0 /* the same elsewhere, where they stay      */
#define WIDTH 80    /* of a terminal that does not say          */

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/* A line can be redrawn by a carriage return. */
static int can_redraw(void)
{
    const char *name = getenv("TERM");

    return isatty(STDERR_FILENO) && name != NULL && strcmp(name, "dumb") != 0;
}

/* Columns of the terminal, asked for anew each time: windows change. */
static int width(void)
{
    struct winsize size;
    const char    *columns = getenv("COLUMNS");
    int            n = 0;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) {
        n = size.ws_col;
    }
    if (n <= 0 && columns != NULL) {
        n = atoi(columns);
    }
    return n > 0 ? n : WIDTH;
}

void progress_start(struct progress *progress, int64_t steps, int64_t done)
{
    double now = seconds();

    *progress = (struct progress){ .what = "step",
                                   .steps = steps,
                                   .first = done,
                                   .done = done,
                                   .start = now,
                                   .last = now,
                                   .now = now,
                                   .terminal = can_redraw() };
}

double progress_tokens_per_second(const struct progress *progress)
{
    double elapsed = progress->now - progress->start;

    return elapsed > 0 ? (double) progress->tokens / elapsed : 0;
}

/* Over the old line: cut before the last column, where the cursor would move on, and the
 * rest of the old one blanked. */
static void redraw(struct progress *progress, const char *line)
{
    int room = width() - 1, length = (int) strlen(line), blank;

    length = length < room ? length : room;
    blank = (progress->drawn < room ? progress->drawn : room) - length;
    fprintf(stderr, "\r%.*s%*s", length, line, blank > 0 ? blank : 0, "");
    progress->drawn = length;
}

static void draw(struct progress *progress)
{
    double left = (progress->now - progress->start) *
                  (double) (progress->steps - progress->done) /
                  (double) (progress->done - progress->first);
    int64_t rest = (int64_t) (left + 0.5);
    char    line[MESSAGE_SIZE];

    snprintf(line, sizeof line,
             "%s %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  %" PRId64
             ":%02d:%02d left",
             progress->what, progress->done, progress->steps,
             progress->loss_sum / (double) progress->loss_count,
             progress_tokens_per_second(progress), rest / 3600, (int) (rest / 60 % 60),
             (int) (rest % 60));
    if (progress->terminal) {
        redraw(progress, line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
    progress->last = progress->now;
    progress->loss_sum = 0;
    progress->loss_count = 0;
}

void progress_step(struct progress *progress, int64_t done, double loss, int64_t tokens)
{
    double interval = progress->terminal ? REDRAWN : PRINTED;

    progress->now = seconds();
    progress->done = done;
    progress->tokens += tokens;
    progress->loss_sum += loss;
    progress->loss_count++;
    if (done == progress->steps || progress->now - progress->last >= interval) {
        draw(progress);
    }
}

void progress_end(struct progress *progress)
{
    if (progress->drawn > 0) {
        fputc('\n', stderr);
        progress->drawn = 0;
    }
}

void progress_note(struct progress *progress, const char *format, ...)
{
    char    line[MESSAGE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    progress_end(progress);
    complain("%s", line);
}
