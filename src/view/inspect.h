/*
 * What `beamlora inspect` shows, put together from a run folder, an adapter directory or
 * both: modules with their ranks' norms, importance and moves.
 */
#ifndef BEAMLORA_SRC_INSPECT_H
#define BEAMLORA_SRC_INSPECT_H

#include "adapters/adapter_norms.h"
#include "view/run_read.h"

struct inspect_module {
    const char   *name; /* the whole one */
    int64_t       in, out, rank;
    double        whole;      /* norm of all that the adapter adds; NaN: not known */
    const double *norm;       /* [rank] or NULL */
    const double *importance; /* [rank] or NULL */
    int64_t       kept;       /* ranks not masked; -1: not AdaLoRA */
    int64_t       moved;      /* ranks reallocated or removed, over all steps */
};

struct inspect {
    const char            *directory;
    struct run             run; /* directory NULL: an adapter only */
    struct adapter_norms   norms;
    struct inspect_module *module;
    int64_t                modules;
};

/* inspect_text.c and inspect_json.c; 0, or -1: out of memory. `pattern` (or NULL) is
 * which modules to list one by one; `moves`: every single move. */
int inspect_print(const struct inspect *inspect, const char *pattern, int moves);
int inspect_print_json(const struct inspect *inspect);
/* inspect_budget.c: ranks that move between modules, over time */
int inspect_print_budget(const struct run *run);

#endif
