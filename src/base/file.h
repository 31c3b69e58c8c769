/* Whole files: read at once, replaced at once. */
#ifndef BEAMLORA_SRC_FILE_H
#define BEAMLORA_SRC_FILE_H

#include <stddef.h>

/* "directory/name", or name alone if it starts with a slash; malloc'ed. NULL: line in
 * error. */
char *file_join(const char *directory, const char *name, char *error, size_t size);

/* Is there a directory/name? */
int file_exists(const char *directory, const char *name);

/* All bytes of a file or pipe, and a NUL behind them; *data is malloc'ed. -1: line in
 * error. */
int file_read(const char *path, char **data, size_t *bytes, char *error, size_t size);

/* Write under another name, bring it to the disk, rename: a reader, and whoever comes
 * after a crash, sees the old file or the new one. -1: line in error. */
int file_replace(const char *path, const void *data, size_t bytes, char *error,
                 size_t size);

#endif
