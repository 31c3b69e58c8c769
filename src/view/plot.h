/* The pictures of `beamlora plot`, as scripts for gnuplot. */
#ifndef BEAMLORA_SRC_PLOT_H
#define BEAMLORA_SRC_PLOT_H

#include "view/run_group.h"
#include "view/run_read.h"

#include <stdio.h>

/* Importance (norm, where there are no scores) of the run's ranks over its steps. The
 * modules whose name has `pattern` in it (NULL: any) are looked at closely, those with
 * most moves first. 0, or -1 with a line. */
int plot_importance(FILE *script, const struct run *run, const char *pattern, char *error,
                    size_t size);

/* How many ranks the run's modules have over its steps, for a run that plot_has_ranks. */
int plot_ranks(FILE *script, const struct run *run, char *error, size_t size);
int plot_has_ranks(const struct run *run);

/* Losses, and exact matches where they were counted, of all runs. */
int plot_loss(FILE *script, const struct run *runs, int64_t count,
              const struct run_groups *groups, char *error, size_t size);

#endif
