/*
 * Runs put in groups of equal settings, the seed apart, and a label for each group that
 * says in what it differs from the others.
 */
#ifndef BEAMLORA_SRC_RUN_GROUP_H
#define BEAMLORA_SRC_RUN_GROUP_H

#include "view/run_read.h"

#define RUN_LABEL 256

struct run_group {
    char     label[RUN_LABEL]; /* "beamlora preset=tightening" */
    int64_t *member;           /* [members] indices into the runs, in their order */
    int64_t  members;
};

struct run_groups {
    struct run_group *group; /* in the order in which the runs name them */
    int64_t           groups;
    json_t          **settings; /* [runs] those that count, paths made absolute */
    int64_t           runs;
    json_t           *differing; /* object: keys in which they differ */
};

/* 0, or -1: out of memory. */
int  run_groups_make(struct run_groups *out, const struct run *runs, int64_t count);
void run_groups_free(struct run_groups *groups);

#endif
