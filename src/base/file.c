/* Reading and replacing whole files; see file.h. */
#define _POSIX_C_SOURCE 200809L

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *file_join(const char *directory, const char *name, char *error, size_t size)
{
    size_t bytes = strlen(directory) + strlen(name) + 2;
    char  *path = malloc(bytes);

    if (path == NULL) {
        snprintf(error, size, "%s/%s: out of memory", directory, name);
    } else if (name[0] == '/') {
        snprintf(path, bytes, "%s", name);
    } else {
        snprintf(path, bytes, "%s/%s", directory, name);
    }
    return path;
}

int file_exists(const char *directory, const char *name)
{
    char  text[64];
    char *path = file_join(directory, name, text, sizeof text);
    int   there = path != NULL && access(path, F_OK) == 0;

    free(path);
    return there;
}

/* The whole of an open file, which may be a pipe: its size is only a hint. */
static int read_stream(FILE *file, size_t hint, char **out, size_t *bytes)
{
    size_t capacity = hint + 2, used = 0;
    char  *buffer = malloc(capacity);

    while (buffer != NULL) {
        char *larger;

        used += fread(buffer + used, 1, capacity - 1 - used, file);
        if (used < capacity - 1) {
            break;
        }
        larger = capacity <= SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;
        if (larger == NULL) {
            free(buffer);
        }
        buffer = larger;
        capacity *= 2;
    }
    if (buffer == NULL) {
        errno = ENOMEM;
        return -1;
    }
    if (ferror(file)) {
        int saved = errno;

        free(buffer);
        errno = saved;
        return -1;
    }
    buffer[used] = '\0';
    *out = buffer;
    *bytes = used;
    return 0;
}

int file_read(const char *path, char **data, size_t *bytes, char *error, size_t size)
{
    struct stat status;
    FILE       *file = fopen(path, "rb");
    int         result = -1;

    if (file == NULL || fstat(fileno(file), &status) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(status.st_mode)) {
        snprintf(error, size, "%s: is a directory, must be a file", path);
    } else if (read_stream(file, status.st_size > 0 ? (size_t) status.st_size : 65536,
                           data, bytes) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
    } else {
        result = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return result;
}

/* So that the new name is on the disk too. */
static int sync_directory_of(const char *path)
{
    char  directory[4096];
    char *slash;
    int   result, file;

    if (snprintf(directory, sizeof directory, "%s", path) >= (int) sizeof directory) {
        errno = ENAMETOOLONG;
        return -1;
    }
    slash = strrchr(directory, '/');
    if (slash == NULL) {
        snprintf(directory, sizeof directory, ".");
    } else {
        slash[slash == directory] = '\0';
    }
    file = open(directory, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return -1;
    }
    result = fsync(file);
    close(file);
    return result;
}

int file_replace(const char *path, const void *data, size_t bytes, char *error,
                 size_t size)
{
    size_t room = strlen(path) + sizeof ".tmp";
    char  *temporary = malloc(room);
    FILE  *file = NULL;
    int    written = 0;

    if (temporary != NULL) {
        snprintf(temporary, room, "%s.tmp", path);
        file = fopen(temporary, "wb");
    }
    if (file != NULL) {
        written = fwrite(data, 1, bytes, file) == bytes && fflush(file) == 0 &&
                  fsync(fileno(file)) == 0;
        written = fclose(file) == 0 && written;
        written = written && rename(temporary, path) == 0;
        written = written && sync_directory_of(path) == 0;
    }
    if (!written) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
        if (file != NULL) {
            remove(temporary);
        }
    }
    free(temporary);
    return written ? 0 : -1;
}
