/*
 * Files that appear whole or not at all: written under another name in the same folder,
 * fsync, close, rename, fsync of the folder. A full disk or a crash leaves the old file.
 * Memory: one buffer of 64 KiB per open file.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

#define BUFFER_BYTES ((size_t) 1 << 16)
#define TEMP_TRIES 1000

int bl__io_file_create(struct bl__io_file *file, const char *path)
{
    memset(file, 0, sizeof *file);
    file->path = path;
    file->fd = -1;
    size_t room = strlen(path) + 48;
    file->temp = malloc(room);
    file->buffer = malloc(BUFFER_BYTES);
    if (file->temp == NULL || file->buffer == NULL) {
        bl__io_file_abandon(file);
        return bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    /* O_EXCL with names of our own rather than mkstemp: the file gets the mode that the
     * umask asks for, and a name left behind by a crash is stepped over. */
    int error = EEXIST;
    for (int k = 0; k < TEMP_TRIES && error == EEXIST; k++) {
        snprintf(file->temp, room, "%s.tmp-%ld-%d", path, (long) getpid(), k);
        file->fd = open(file->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        error = file->fd < 0 ? errno : 0;
    }
    if (file->fd < 0) {
        free(file->temp); /* not ours to remove */
        file->temp = NULL;
        bl__io_file_abandon(file);
        return bl__io_fail_errno(error, path, "cannot create a file beside it");
    }
    return 0;
}

static int write_all(struct bl__io_file *file, const unsigned char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(file->fd, data, bytes < 1u << 30 ? bytes : 1u << 30);
        if (done < 0) {
            if (errno == EINTR) {
                continue;
            }
            return bl__io_fail_errno(errno, file->path, "cannot write");
        }
        data += done;
        bytes -= (size_t) done;
    }
    return 0;
}

static int flush(struct bl__io_file *file)
{
    size_t used = file->used;
    file->used = 0;
    return write_all(file, file->buffer, used);
}

int bl__io_file_write(struct bl__io_file *file, const void *data, size_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    file->written += bytes;
    if (bytes > BUFFER_BYTES - file->used) {
        int code = flush(file);
        if (code != 0) {
            return code;
        }
        if (bytes >= BUFFER_BYTES) {
            return write_all(file, data, bytes);
        }
    }
    memcpy(file->buffer + file->used, data, bytes);
    file->used += bytes;
    return 0;
}

int bl__io_file_write_values(struct bl__io_file *file, const void *data, size_t count,
                             size_t width)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return bl__io_file_write(file, data, count * width);
#else
    const unsigned char *bytes = data;
    for (size_t i = 0; i < count; i++, bytes += width) {
        unsigned char value[8];
        uint16_t      half;
        uint32_t      single;
        uint64_t      wide = 0;
        if (width == 1) {
            wide = bytes[0];
        } else if (width == 2) {
            memcpy(&half, bytes, 2);
            wide = half;
        } else if (width == 4) {
            memcpy(&single, bytes, 4);
            wide = single;
        } else {
            memcpy(&wide, bytes, 8);
        }
        for (size_t k = 0; k < width; k++) {
            value[k] = (unsigned char) (wide >> (8 * k));
        }
        int code = bl__io_file_write(file, value, width);
        if (code != 0) {
            return code;
        }
    }
    return 0;
#endif
}

int bl__io_file_finish(struct bl__io_file *file)
{
    int code = flush(file);
    if (code != 0) {
        return code;
    }
    if (fsync(file->fd) != 0) {
        return bl__io_fail_errno(errno, file->path, "cannot bring to the disk");
    }
    int fd = file->fd;
    file->fd = -1;
    if (close(fd) != 0) {
        return bl__io_fail_errno(errno, file->path, "cannot close");
    }
    return 0;
}

int bl__io_file_publish(struct bl__io_file *file)
{
    if (rename(file->temp, file->path) != 0) {
        return bl__io_fail_errno(errno, file->path, "cannot put the new file in place");
    }
    free(file->temp);
    file->temp = NULL;
    return 0;
}

void bl__io_file_abandon(struct bl__io_file *file)
{
    if (file->fd >= 0) {
        close(file->fd);
        file->fd = -1;
    }
    if (file->temp != NULL) {
        unlink(file->temp);
        free(file->temp);
        file->temp = NULL;
    }
    free(file->buffer);
    file->buffer = NULL;
}

int bl__io_sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t      length = slash == NULL ? 0 : (size_t) (slash - path);
    char       *folder = malloc(length + 2);
    if (folder == NULL) {
        return bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    memcpy(folder, path, length);
    if (length == 0) {
        folder[length++] = slash == NULL ? '.' : '/';
    }
    folder[length] = '\0';

    /* File systems that cannot sync a folder say so with EINVAL: nothing to be done. */
    int code = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        if (errno != EACCES) {
            code = bl__io_fail_errno(errno, folder, "cannot open the folder");
        }
    } else if (fsync(fd) != 0 && errno != EINVAL) {
        code = bl__io_fail_errno(errno, folder, "cannot bring the folder to the disk");
    }
    if (fd >= 0) {
        close(fd);
    }
    free(folder);
    return code;
}

char *bl__io_join(const char *dir, const char *name)
{
    size_t length = strlen(dir);
    size_t room = length + strlen(name) + 2;
    char  *path = malloc(room);
    if (path != NULL) {
        int slash = length > 0 && dir[length - 1] == '/';
        snprintf(path, room, "%s%s%s", dir, slash ? "" : "/", name);
    }
    return path;
}

int bl__io_open_regular(int *fd, size_t *bytes, const char *path)
{
    struct stat status;
    /* O_NONBLOCK: opening a pipe that nobody writes must not hang. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (opened < 0) {
        return bl__io_fail_errno(errno, path, "cannot open");
    }
    int code = 0;
    if (fstat(opened, &status) != 0) {
        code = bl__io_fail_errno(errno, path, "cannot look at");
    } else if (!S_ISREG(status.st_mode)) {
        code = bl__io_fail(BL_E_IO, path, "is not a regular file");
    } else if ((uintmax_t) status.st_size > SIZE_MAX / 2) {
        code = bl__io_fail(BL_E_RANGE, path, "is too large for this machine");
    }
    if (code != 0) {
        close(opened);
        return code;
    }
    *fd = opened;
    *bytes = (size_t) status.st_size;
    return 0;
}
