/* How a training was started: its arguments and where, which run.json keeps, so that
 * --resume needs no more than the folder. */
#ifndef BEAMLORA_SRC_START_H
#define BEAMLORA_SRC_START_H

#include <jansson.h>
#include <stddef.h>

#include "base/program.h"

struct start {
    int    argc;
    char **argv;      /* copies, NULL-terminated        */
    char  *directory; /* that relative names start from */
    char  *joined[8]; /* what start_path has made       */
};

/* From the command line at hand, or from path/run.json. -1: line in error. */
int  start_here(struct start *start, int argc, char **argv, char *error, size_t size);
int  start_read(struct start *start, const char *path, char *error, size_t size);
void start_free(struct start *start);

/* Write path/run.json. settings: value of every flag; borrowed. */
int start_write(const struct start *start, json_t *settings, const char *path,
                char *error, size_t size);

/* A file's name as good from where we are now, valid until start_free. NULL: line in
 * error. */
const char *start_path(struct start *start, const char *name, char *error, size_t size);

/* {"name": value, ...} of flags as they stand. */
json_t *start_settings(const struct flag *flags, int count);

#endif
