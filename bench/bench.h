/*
 * What the benchmarks share. A subject measures sides, each one way of doing the same
 * work, in interleaved rounds; what one side takes over another in the same round is a
 * ratio, and of the ratios the median and its interval are reported.
 */
#ifndef BEAMLORA_BENCH_H
#define BEAMLORA_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "beamlora.h"

/* ----- machine.c: threads, clock, memory ----- */

enum owner {
    OWNER_HOST, /* the cores are parallel_for's, the CBLAS has one thread */
    OWNER_BLAS  /* they are the CBLAS's, there is no parallel_for         */
};

/* Call first: with OpenBLAS it starts the program anew, so that threads of the CBLAS that
 * wait for work leave the cores to others after less than a millisecond. */
void machine_begin(char **argv);
/* Start so many threads, the calling one among them. */
void   machine_start(int threads);
int    machine_threads(void);
double machine_now(void);
/* Who has the cores from now on; what the other had there is asleep when it returns. */
void    machine_own(enum owner owner);
void    machine_parallel_for(void *user, int64_t count, bl_task_fn task, void *context);
int64_t machine_free_bytes(void);
json_t *machine_describe(void);
void   *machine_memory(size_t bytes); /* touched; ends the program if there is none */
float  *machine_noise(int64_t count, uint64_t seed, float scale); /* uniform, +-scale */
void    check(int code); /* ends the program with the library's error text */

/* ----- pairs.c ----- */

enum { MOST_SIDES = 8, MOST_PAIRS = 1000 };

struct side {
    void (*run)(void *context);
    enum owner owner;
    double     least; /* seconds that a sample lasts at least: it is repeated. 0: once */
    void (*ready)(void *context); /* before every run, not timed; or NULL */
};

struct samples {
    int    pairs, sides;
    double seconds[MOST_SIDES][MOST_PAIRS]; /* of one run */
};

/* `pairs` rounds over all sides, every other one backwards. */
void pairs_run(struct samples *samples, const struct side *sides, int count,
               void *context, int pairs);

struct ratio {
    double ours, theirs;      /* medians, seconds                            */
    double median, low, high; /* of the rounds' ratios; 95 % interval of it  */
};

/* ours[pairs] over theirs[pairs] */
struct ratio pairs_ratio(const double *ours, const double *theirs, int pairs);
double       pairs_median(const double *values, int count);

/* ----- report.c: a subject's results, as text and as JSON ----- */

struct report;

struct report *report_begin(const char *subject);
/* One comparison. `shape` says of what; n, rank: 0 where they do not apply. */
void report_add(struct report *report, const char *what, const char *against,
                const char *shape, int64_t n, int64_t rank, struct ratio ratio);
/* A point of a curve: time and bytes over x. */
void report_point(struct report *report, const char *curve, double x, double seconds,
                  double bytes);
/* A number that was measured on the way. */
void report_number(struct report *report, const char *name, double value);
/* A target for the geometric mean and the largest upper end of `what` against `against`
 * over rows with n >= least_n; 0: none. */
void report_target(struct report *report, const char *what, const char *against,
                   int64_t least_n, double mean, double worst);
/* Print the tables, write DIRECTORY/SUBJECT.json and, where there is one and gnuplot draws
 * it, SUBJECT.png; free. 0, or 1 with a line. */
int report_end(struct report *report, const char *directory);

/* ----- picture.c: what SUBJECT.json has, drawn ----- */

/* A member of results: "" or 0 where there is none. */
const char *result_text(const json_t *object, const char *key);
double      result_number(const json_t *object, const char *key);
int         picture_has(const json_t *results);
/* Of results that picture_has: draw DIRECTORY/SUBJECT.png, which path [path_size] gets, too.
 * 0, or -1 with a line. */
int picture_draw(const json_t *results, const char *directory, char *path,
                 size_t path_size, char *error, size_t size);
/* The machine of results, as a line. */
void picture_machine(const json_t *results, char *line, size_t size);

/* ----- options, main.c ----- */

struct shape {
    const char *model;
    int64_t     in, out;
};

struct setup {
    const struct shape *shapes;
    const int64_t      *n, *ranks;
    int                 shape_count, n_count, rank_count;
    int                 pairs, quick;
    enum owner          owner;
    const char         *directory;
    const char         *base, *library; /* of compare: two libbeamlora.so */
};

/* ----- subjects: 0, or 1 with a line ----- */

int bench_passes(const struct setup *setup);
int bench_methods(const struct setup *setup);
int bench_step(const struct setup *setup);
int bench_reallocate(const struct setup *setup);
int bench_growth(const struct setup *setup);
int bench_compare(const struct setup *setup);
int bench_serve(const struct setup *setup);

/* ----- layer.c: one layer's arrays, and its bare calls and floor ----- */

struct layer {
    int64_t n, in, out, rank;
    float  *x, *y, *dx, *dy;
    float  *a, *b, *s, *da, *db, *ds; /* the bare calls' own; b and db are [out, rank] */
    float  *h, *hg, *d;               /* [n, rank] */
    float  *peak;                     /* of layer_peak */
    double *g;
    float   scaling;
};

/* Arrays for at most n rows of activations and this rank. */
struct layer *layer_create(int64_t n, int64_t in, int64_t out, int64_t rank);
void          layer_free(struct layer *layer);
/* The layer's work as whole CBLAS calls. */
void layer_bare_forward(struct layer *layer);
void layer_bare_backward(struct layer *layer);
/* Its memory traffic: what must be read and written, once each. */
void layer_floor_forward(struct layer *layer);
void layer_floor_backward(struct layer *layer);
/* Multiplications and additions of one. */
double layer_forward_flops(const struct layer *layer);
double layer_backward_flops(const struct layer *layer);
/* A large square product on every thread, and its operations. */
void   layer_peak(struct layer *layer);
double layer_peak_flops(void);
/* Read, update or write `count` floats, on all threads. */
void memory_read(const float *from, int64_t count);
void memory_update(float *to, int64_t count);
void memory_write(float *to, int64_t count);

#endif
