/*
 * A subject's results: rows of a table on stdout as they come, and one JSON file from
 * which everything else (docs/performance.md, pictures) is made.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct report {
    char    subject[32];
    json_t *rows, *points, *numbers, *targets;
};

struct report *report_begin(const char *subject)
{
    struct report *const report = machine_memory(sizeof *report);
    snprintf(report->subject, sizeof report->subject, "%s", subject);
    report->rows = json_array();
    report->points = json_array();
    report->numbers = json_object();
    report->targets = json_array();
    printf("\n%s\n", subject);
    return report;
}

static void print_time(double seconds)
{
    if (seconds < 1e-3) {
        printf(" %8.1f us", seconds * 1e6);
    } else if (seconds < 1) {
        printf(" %8.2f ms", seconds * 1e3);
    } else {
        printf(" %8.2f s ", seconds);
    }
}

void report_add(struct report *report, const char *what, const char *against,
                const char *shape, int64_t n, int64_t rank, struct ratio ratio)
{
    if (json_array_size(report->rows) == 0) {
        printf("  %-17s %-9s %-12s %5s %4s %11s %11s %6s  95 %% interval\n", "what",
               "against", "shape", "n", "r", "this", "other", "ratio");
    }
    printf("  %-17s %-9s %-12s %5" PRId64 " %4" PRId64, what, against, shape, n, rank);
    print_time(ratio.ours);
    print_time(ratio.theirs);
    printf(" %6.3f  %.3f to %.3f\n", ratio.median, ratio.low, ratio.high);
    fflush(stdout);
    json_array_append_new(report->rows,
                          json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}",
                                    "what", what, "against", against, "shape", shape, "n",
                                    (json_int_t) n, "rank", (json_int_t) rank, "seconds",
                                    ratio.ours, "other", ratio.theirs, "ratio",
                                    ratio.median, "low", ratio.low, "high", ratio.high));
}

void report_point(struct report *report, const char *curve, double x, double seconds,
                  double bytes)
{
    printf("  %-24s %8.0f", curve, x);
    print_time(seconds);
    printf(" %10.1f MB\n", bytes / 1e6);
    fflush(stdout);
    json_array_append_new(report->points,
                          json_pack("{s:s, s:f, s:f, s:f}", "curve", curve, "x", x,
                                    "seconds", seconds, "bytes", bytes));
}

void report_number(struct report *report, const char *name, double value)
{
    printf("  %s: %.4g\n", name, value);
    json_object_set_new(report->numbers, name, json_real(value));
}

/* The rows of a target: how many, their geometric mean and largest upper end. */
static int summarise(const struct report *report, const char *what, const char *against,
                     int64_t least_n, double *mean, double *worst, const char **where)
{
    double  sum = 0;
    int     count = 0;
    size_t  i;
    json_t *row;
    *worst = 0;
    json_array_foreach(report->rows, i, row)
    {
        const char *w, *a, *shape;
        json_int_t  n;
        double      ratio, high;
        if (json_unpack(row, "{s:s, s:s, s:s, s:I, s:F, s:F}", "what", &w, "against", &a,
                        "shape", &shape, "n", &n, "ratio", &ratio, "high", &high) != 0 ||
            strcmp(w, what) != 0 || strcmp(a, against) != 0 || n < least_n) {
            continue;
        }
        sum += log(ratio);
        count++;
        if (high > *worst) {
            *worst = high;
            *where = shape;
        }
    }
    *mean = count > 0 ? exp(sum / count) : 0;
    return count;
}

static void print_verdict(double value, double limit)
{
    if (limit > 0) {
        printf(" (wanted: %.2f%s)", limit, value <= limit ? "" : ", missed");
    }
}

void report_target(struct report *report, const char *what, const char *against,
                   int64_t least_n, double mean, double worst)
{
    double      is_mean, is_worst;
    const char *where = "";
    const int   count =
        summarise(report, what, against, least_n, &is_mean, &is_worst, &where);
    if (count == 0) {
        return;
    }
    printf("  %s against %s, n >= %" PRId64 ": mean of %d %.3f", what, against, least_n,
           count, is_mean);
    print_verdict(is_mean, mean);
    printf(", worst %.3f at %s", is_worst, where);
    print_verdict(is_worst, worst);
    putchar('\n');
    json_array_append_new(report->targets,
                          json_pack("{s:s, s:s, s:I, s:i, s:f, s:f, s:f, s:f}", "what",
                                    what, "against", against, "least_n",
                                    (json_int_t) least_n, "rows", count, "mean", is_mean,
                                    "worst", is_worst, "mean_wanted", mean,
                                    "worst_wanted", worst));
}

/* A picture is for the eye alone: without gnuplot no number is lost. One of older results
 * must not stay beside the new. */
static void draw(const json_t *results, const char *directory)
{
    char path[4096], error[512];
    if (picture_draw(results, directory, path, sizeof path, error, sizeof error) == 0) {
        printf("  picture: %s\n", path);
    } else {
        printf("  no picture: %s\n", error);
        remove(path);
    }
}

int report_end(struct report *report, const char *directory)
{
    char    path[512];
    int     result = 0;
    json_t *all =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "subject", report->subject, "machine",
                  machine_describe(), "rows", report->rows, "points", report->points,
                  "numbers", report->numbers, "targets", report->targets);
    snprintf(path, sizeof path, "%s/%s.json", directory, report->subject);
    if (all == NULL ||
        json_dump_file(all, path, JSON_INDENT(1) | JSON_REAL_PRECISION(5)) != 0) {
        fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
        result = 1;
    } else if (picture_has(all)) {
        draw(all, directory);
    }
    json_decref(all);
    free(report);
    return result;
}
