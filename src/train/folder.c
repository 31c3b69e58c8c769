/* The run folder; see folder.h. */
#define _POSIX_C_SOURCE 200809L

#include "train/folder.h"

#include "base/file.h"
#include "base/program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const names[FOLDER_LINES] = { "log.jsonl", "ranks.jsonl",
                                                 "plans.jsonl" };

/* What a run leaves besides its lines. The checkpoint goes first: it must never be found
 * beside another run's settings. */
static const char *const leavings[] = {
    FOLDER_CHECKPOINT,
    FOLDER_RUN,
    "adapter_model.safetensors",
    "adapter_config.json",
    "model.safetensors",
    "config.json",
    "importance.png",
    "importance.svg",
    "loss.png",
    "loss.svg",
    "pruning.jsonl",
    "pruning.png",
    "pruning.svg",
};

char *folder_file(const struct folder *folder, const char *name, char *error, size_t size)
{
    return file_join(folder->path, name, error, size);
}

json_t *folder_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void remove_file(const struct folder *folder, const char *name)
{
    char  error[MESSAGE_SIZE];
    char *path = folder_file(folder, name, error, sizeof error);

    if (path != NULL) {
        unlink(path);
    }
    free(path);
}

/* The lock is the kernel's and goes with the process, whatever ends it. */
static int lock(struct folder *folder, char *error, size_t size)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fileno(folder->lines[FOLDER_LOG]), F_SETLK, &lock) == 0) {
        return 0;
    }
    if (errno == EACCES || errno == EAGAIN) {
        snprintf(error, size, "%s: another process is training in it", folder->path);
        return -1;
    }
    return 0; /* a file system without locks */
}

static int open_lines(struct folder *folder, char *error, size_t size)
{
    for (int i = 0; i < FOLDER_LINES; i++) {
        char *path = folder_file(folder, names[i], error, size);

        if (path == NULL) {
            return -1;
        }
        folder->lines[i] = fopen(path, "ab");
        if (folder->lines[i] == NULL) {
            snprintf(error, size, "%s: %s", path, strerror(errno));
        }
        free(path);
        if (folder->lines[i] == NULL) {
            return -1;
        }
    }
    return lock(folder, error, size);
}

static int set_path(struct folder *folder, const char *path, char *error, size_t size)
{
    *folder = (struct folder){ .path = strdup(path) };
    if (folder->path == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    return 0;
}

int folder_create(struct folder *folder, const char *path, int overwrite, char *error,
                  size_t size)
{
    struct stat status;
    int         wrong = 0;

    if (set_path(folder, path, error, size) != 0) {
        return -1;
    }
    if (mkdir(path, 0777) == 0) {
        folder->made = 1;
    } else if (errno != EEXIST) {
        wrong = errno;
    } else if (stat(path, &status) != 0) {
        wrong = errno;
    } else if (!S_ISDIR(status.st_mode)) {
        wrong = ENOTDIR;
    } else if (access(path, W_OK | X_OK) != 0) {
        wrong = errno;
    }
    folder->fresh = wrong == 0 && !file_exists(folder->path, FOLDER_RUN);
    if (wrong != 0) {
        snprintf(error, size, "--out %s: %s", path, strerror(wrong));
    } else if (!folder->fresh && !overwrite) {
        snprintf(error, size,
                 "--out %s: holds a run; --resume %s goes on with it, --overwrite starts "
                 "anew",
                 path, path);
    } else if (open_lines(folder, error, size) == 0) {
        return 0;
    }
    folder_close(folder, 0);
    return -1;
}

int folder_begin(struct folder *folder, char *error, size_t size)
{
    static const int64_t nothing[FOLDER_LINES];

    for (size_t i = 0; !folder->fresh && i < sizeof leavings / sizeof leavings[0]; i++) {
        remove_file(folder, leavings[i]);
    }
    return folder_rewind(folder, nothing, error, size);
}

/* Files that were being written when a process was killed: "NAME.tmp...", for a NAME that
 * is written whole. They may be as large as a checkpoint. */
static void remove_torn(const struct folder *folder)
{
    DIR           *directory = opendir(folder->path);
    struct dirent *entry;

    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        for (size_t i = 0; i < sizeof leavings / sizeof leavings[0]; i++) {
            size_t length = strlen(leavings[i]);

            if (strncmp(entry->d_name, leavings[i], length) == 0 &&
                strncmp(entry->d_name + length, ".tmp", 4) == 0) {
                remove_file(folder, entry->d_name);
            }
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
}

int folder_open(struct folder *folder, const char *path, char *error, size_t size)
{
    if (set_path(folder, path, error, size) != 0) {
        return -1;
    }
    if (!file_exists(folder->path, FOLDER_RUN)) {
        snprintf(error, size, "--resume %s: holds no run (no %s in it)", path,
                 FOLDER_RUN);
    } else if (open_lines(folder, error, size) == 0) {
        remove_torn(folder);
        return 0;
    }
    folder_close(folder, 0);
    return -1;
}

void folder_close(struct folder *folder, int undo)
{
    for (int i = 0; i < FOLDER_LINES; i++) {
        if (folder->lines[i] != NULL) {
            fclose(folder->lines[i]);
        }
    }
    for (int i = 0; undo && folder->fresh && i < FOLDER_LINES; i++) {
        remove_file(folder, names[i]);
    }
    if (undo && folder->fresh) {
        remove_file(folder, FOLDER_RUN);
    }
    if (undo && folder->made) {
        rmdir(folder->path); /* ours and, unless somebody else came, empty */
    }
    free(folder->path);
    *folder = (struct folder){ 0 };
}

int folder_append(struct folder *folder, enum folder_lines lines, json_t *object,
                  char *error, size_t size)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    FILE *file = folder->lines[lines];
    int   failed = text == NULL;

    json_decref(object);
    errno = ENOMEM;
    if (text != NULL) {
        /* one write, so that only a crash of the system can tear a line */
        fputs(text, file);
        fputc('\n', file);
        failed = fflush(file) != 0 || ferror(file);
    }
    if (failed) {
        snprintf(error, size, "%s/%s: %s", folder->path, names[lines], strerror(errno));
    }
    free(text);
    return failed ? -1 : 0;
}

int folder_sync(struct folder *folder, int64_t bytes[FOLDER_LINES], char *error,
                size_t size)
{
    for (int i = 0; i < FOLDER_LINES; i++) {
        struct stat status;
        int         file = fileno(folder->lines[i]);

        if (fsync(file) != 0 || fstat(file, &status) != 0) {
            snprintf(error, size, "%s/%s: %s", folder->path, names[i], strerror(errno));
            return -1;
        }
        bytes[i] = status.st_size;
    }
    return 0;
}

int folder_rewind(struct folder *folder, const int64_t bytes[FOLDER_LINES], char *error,
                  size_t size)
{
    for (int i = 0; i < FOLDER_LINES; i++) {
        struct stat status;
        int         file = fileno(folder->lines[i]);

        if (fstat(file, &status) != 0 ||
            (status.st_size > bytes[i] && ftruncate(file, bytes[i]) != 0)) {
            snprintf(error, size, "%s/%s: %s", folder->path, names[i], strerror(errno));
            return -1;
        }
        if (status.st_size < bytes[i]) {
            snprintf(error, size,
                     "%s/%s: has %lld bytes, at the checkpoint it had %" PRId64,
                     folder->path, names[i], (long long) status.st_size, bytes[i]);
            return -1;
        }
    }
    return 0;
}
