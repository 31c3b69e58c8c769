/*
 * A pruning study: loss, and exact completions, with some of an adapter's ranks kept, the
 * best first, the worst first, and at random by several seeds.
 */
#ifndef BEAMLORA_SRC_PRUNE_H
#define BEAMLORA_SRC_PRUNE_H

#include <stdio.h>

#include "train/evaluate.h"
#include "adapters/keep_ranks.h"

struct pruning_point {
    int64_t            kept; /* ranks, of all modules */
    struct evaluation  top, bottom;
    struct evaluation *random; /* [seeds] */
};

struct pruning {
    const char           *adapter, *model, *data; /* as given, or as the run has them */
    const char           *name;                   /* last part of `adapter`           */
    enum keep_by          by;
    enum keep_scope       scope;
    int64_t               modules, ranks, seeds;
    struct pruning_point *point; /* from 0 ranks to all; there all orders are equal */
    int64_t               points;
};

/* Mean, standard deviation (n - 1; NaN of one), least and largest of a point's seeds. */
struct pruning_spread {
    double mean, sd, least, most;
};
struct pruning_spread pruning_loss(const struct pruning *pruning, int64_t point);
struct pruning_spread pruning_exact(const struct pruning *pruning, int64_t point);

/* Per cent of the examples; NaN of a stream. */
double pruning_exact_share(const struct evaluation *evaluation);
/* Per cent of the ranks. */
double pruning_share(const struct pruning *pruning, int64_t point);

/* prune_report.c. 0, or -1: out of memory, or -1 with a line. */
int pruning_print(const struct pruning *pruning);
int pruning_print_json(const struct pruning *pruning);
int pruning_write(const struct pruning *pruning, const char *directory, char *error,
                  size_t size);

/* plot_pruning.c: the picture as a script for gnuplot. 0, or -1 with a line. */
int plot_pruning(FILE *script, const struct pruning *pruning, char *error, size_t size);

#endif
