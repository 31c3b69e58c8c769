/* What the parts of the picture of a run's ranks share: its run and what was chosen. */
#ifndef BEAMLORA_SRC_PLOT_VIEW_H
#define BEAMLORA_SRC_PLOT_VIEW_H

#include "view/run_read.h"

#include <stdio.h>

#define PLOT_CLOSE 6 /* modules from close by */

struct plot_view {
    FILE             *script;
    const struct run *run;
    int               scores; /* importance, or norms */
    int64_t           steps;  /* the x axis' end */
    int64_t          *moves;  /* [modules] */
    int64_t          *order;  /* [modules] of the map, from the top down */
    int64_t           close[PLOT_CLOSE];
    int64_t           close_count, total_moves;
    int64_t           group; /* neighbouring ranks in a row of the map */
};

/* The view's value of a rank at a sample. */
double plot_value_at(const struct plot_view *view, int64_t sample, int64_t rank);

/* The last sample of a step or before, 0 without; `after` or before a reallocation. */
int64_t plot_sample_at(const struct run *run, int64_t step, int after);

/* The last part of a module's name: "q_proj". */
const char *plot_projection(const char *name);

/* A number of the script, NaN for one that is not finite. */
void plot_number(FILE *script, double value);

/* Begin a block of data $NAMEINDEX, with a line of no effect: gnuplot takes no empty one.
 * It ends with a line "EOD". */
void plot_block(const struct plot_view *view, const char *name, int64_t index);

/* Fill `order`: by projection in the order in which they come up, in each as the run has
 * them. */
void plot_order_modules(struct plot_view *view);

/* Columns of a map over the steps. */
int64_t plot_map_columns(const struct plot_view *view);
/* Is module k of a map the last one of its projection? */
int plot_map_ends_band(const struct plot_view *view, int64_t k);
/* Labels at a map's modules, or at the projections where there are too many; lines between
 * projections. */
void plot_map_labels(const struct plot_view *view);

/* plot_map.c: choose how many ranks share a row; the data; the plot. */
void plot_map_choose(struct plot_view *view);
void plot_map_write(const struct plot_view *view);
void plot_map_draw(const struct plot_view *view);

#endif
