/*
 * Reading a run folder (docs/run.md): everything but the checkpoint and the adapter, in
 * memory, checked. A run that was killed is read as far as it went: a last line that is
 * cut short is left out and told.
 */
#ifndef BEAMLORA_SRC_RUN_READ_H
#define BEAMLORA_SRC_RUN_READ_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct run_module {
    char   *name;
    int64_t in, out;
    int64_t rank;     /* at the start */
    int64_t capacity; /* rank, where ranks do not move between modules */
    int64_t first; /* of its ranks among those of all modules, all that it has room for */
};

struct run_sample { /* a line of ranks.jsonl */
    int64_t step;
    int     after;      /* the second one of a reallocation's step */
    double *importance; /* [ranks], NaN: not finite, or not there */
    double *norm;       /* [ranks]                                 */
    double *kept;       /* [modules] ranks there, not masked; NULL: always all of them */
};

enum run_action {
    RUN_HISTORY,
    RUN_CURRENT,
    RUN_FRESH,
    RUN_REMOVED,
    RUN_SKIP,
    RUN_GIVEN_UP,
    RUN_ACTIONS
};

struct run_move {
    int64_t         module, rank;
    int64_t         source; /* -1: none */
    int64_t         age;    /* steps; -1: no history */
    enum run_action action;
    double          importance; /* of `rank`, before */
};

struct run_plan { /* a reallocation */
    int64_t          step;
    double           p;    /* NaN: the number was fixed */
    struct run_move *move; /* [moves] */
    int64_t          moves;
};

struct run_step {
    int64_t step;
    double  loss; /* NaN: not finite */
};

struct run_evaluation {
    int64_t step, tokens;
    double  loss;
    int64_t examples, exact; /* examples 0: was not counted */
};

struct run {
    char                  *directory;   /* as given                                */
    char                  *name;        /* last part of its path                   */
    json_t                *root;        /* run.json                                */
    json_t                *settings;    /* borrowed from it, an object             */
    char                   method[32];  /* of the settings; "" when it has none    */
    int64_t                total_steps; /* of the settings; 0 when it has none     */
    int64_t                done_steps;  /* the last one in the log                 */
    int                    finished;    /* done_steps has reached total_steps      */
    char                   note[512];   /* what was left out, "" for nothing       */
    struct run_module     *module;
    int64_t                modules, ranks; /* that all modules have room for */
    struct run_sample     *sample;
    int64_t                samples;
    struct run_plan       *plan;
    int64_t                plans;
    struct run_step       *step;
    int64_t                steps;
    struct run_evaluation *evaluation;
    int64_t                evaluations;
};

/* Does `directory` have a run.json? */
int run_exists(const char *directory);

/* 0, or -1 with a line that names the file and, where there is one, its line. run.json
 * must be there; logs that are not are empty. */
int  run_read(struct run *run, const char *directory, char *error, size_t size);
void run_free(struct run *run);

/* What the program calls an action: "history", "current", "fresh", "removed", "skip",
 * "given up". */
const char *run_action_name(enum run_action action);

/* Did this move give or take a path? Not so for RUN_SKIP. */
int run_move_counts(const struct run_move *move);

/* Mean loss of the first (last = 0) or last tenth of the steps made, at least one; NaN
 * without steps. */
double run_train_loss(const struct run *run, int last);

/* How many ranks a module has at a sample, masked ones too. */
int64_t run_ranks_at(const struct run *run, const struct run_sample *sample,
                     const struct run_module *module);
/* Ranks move between the run's modules. */
int run_ranks_move(const struct run *run);

/* The method has scores and reallocations, alone or with DoRA. */
int run_is_beamlora(const struct run *run);
/* Do the runs' scores say anything? Not without scores, where all are 1. */
int run_has_scores(const struct run *run);

#endif
