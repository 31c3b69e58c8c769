/*
 * A run folder as the trainer writes it; docs/run.md says what is in it. Lines are
 * appended to three files; a checkpoint remembers how long they were, and a resumed run
 * cuts them to that, so that a run leaves the same files however often it was stopped.
 */
#ifndef BEAMLORA_SRC_FOLDER_H
#define BEAMLORA_SRC_FOLDER_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum folder_lines { FOLDER_LOG, FOLDER_RANKS, FOLDER_PLANS, FOLDER_LINES };

#define FOLDER_RUN "run.json"
#define FOLDER_CHECKPOINT "checkpoint.safetensors"

struct folder {
    char *path;
    FILE *lines[FOLDER_LINES];
    int   made;  /* the directory is this run's own making */
    int   fresh; /* it held no run before this one         */
};

/* For a new run in path, which is made if absent. A folder that holds a run is refused
 * unless overwrite; nothing of it is lost before folder_begin. -1: line in error, nothing
 * is open. */
int folder_create(struct folder *folder, const char *path, int overwrite, char *error,
                  size_t size);

/* The run begins: what another run left goes. */
int folder_begin(struct folder *folder, char *error, size_t size);

/* Go on with the run in path. Refused while another process is at it. */
int folder_open(struct folder *folder, const char *path, char *error, size_t size);

/* Close. undo: of a run that never began, leave nothing that was not there before. */
void folder_close(struct folder *folder, int undo);

/* "path/name", malloc'ed; NULL: line in error. */
char *folder_file(const struct folder *folder, const char *name, char *error,
                  size_t size);

/* Append a line and give up the object. */
int folder_append(struct folder *folder, enum folder_lines lines, json_t *object,
                  char *error, size_t size);

/* Bring all lines to the disk and tell how many bytes there are. */
int folder_sync(struct folder *folder, int64_t bytes[FOLDER_LINES], char *error,
                size_t size);

/* Cut the lines to what they were at a folder_sync; zeros start them anew. */
int folder_rewind(struct folder *folder, const int64_t bytes[FOLDER_LINES], char *error,
                  size_t size);

/* A real number for a line: null if it is not finite. */
json_t *folder_real(double value);

#endif
