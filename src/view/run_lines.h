/*
 * Lines of a run folder's files. A line is one JSON object. Lines are read one by one, so
 * that a log of any length needs the memory of its numbers only. A writer that is killed
 * leaves at most one line cut short, the last: that one is forgiven if it is not JSON,
 * everything else is not.
 */
#ifndef BEAMLORA_SRC_RUN_LINES_H
#define BEAMLORA_SRC_RUN_LINES_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "view/run_read.h"

/* A place in a file, for messages. */
struct place {
    const char *path;
    long        line;
    char       *error;
    size_t      size;
};

/* Both give -1, with the place and what is wrong there in its error. */
int place_fail(const struct place *place, const char *what);
int place_fail_key(const struct place *place, const char *key, const char *what);

/* Members of a line. count -1: of any length. 0, or -1 with a line. */
int member_integer(int64_t *out, const json_t *line, const char *key, int64_t low,
                   int64_t high, const struct place *place);
int member_real(double *out, const json_t *line, const char *key,
                const struct place *place);
int member_array(const json_t **out, const json_t *line, const char *key, int64_t count,
                 const struct place *place);

/* A number, or null for one that was not finite. 0, or -1. */
int member_to_real(double *out, const json_t *value);

typedef int (*run_line_fn)(struct run *run, const json_t *line,
                           const struct place *place);

/* Give every line of the run's FILE to `take`; a file that is not there has none. 0, or -1
 * with a line. */
int run_lines_read(struct run *run, const char *file, run_line_fn take, char *error,
                   size_t size);

#endif
