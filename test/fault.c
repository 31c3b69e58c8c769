/*
 * A library to be put before the C library's (LD_PRELOAD): it kills the program, or fails a
 * call, at a moment of its writing that is named. FAULT is
 *
 *     kill:N      SIGKILL before call number N of those that change files, counted from 1
 *     ENOSPC:N    that call fails as on a full disk
 *     EIO:N       that call fails as on a broken one
 *     after:N     SIGKILL N microseconds after the start
 *
 * Between two such calls nothing changes on the disk, so all N are all that a kill can leave
 * but for a part of one write.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

static long at, calls; /* 0: never */
static int  error;     /* 0: kill */

static void die(int signal)
{
    (void) signal;
    kill(getpid(), SIGKILL);
}

__attribute__((constructor)) static void start(void)
{
    const char *fault = getenv("FAULT"),
               *colon = fault != NULL ? strchr(fault, ':') : NULL;

    if (colon == NULL) {
        return;
    }
    at = atol(colon + 1);
    if (strncmp(fault, "after", 5) == 0) {
        struct itimerval timer = { { 0, 0 }, { at / 1000000, at % 1000000 + 1 } };

        at = 0;
        signal(SIGALRM, die);
        setitimer(ITIMER_REAL, &timer, NULL);
    }
    error = strncmp(fault, "ENOSPC", 6) == 0 ? ENOSPC
            : strncmp(fault, "EIO", 3) == 0  ? EIO
                                             : 0;
}

/* 1: fail this call, errno says how. */
static int fault(void)
{
    if (at == 0 || ++calls != at) {
        return 0;
    }
    if (error == 0) {
        die(SIGKILL);
    }
    errno = error;
    return 1;
}

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

static int is_new(int flags)
{
    return (flags & O_CREAT) != 0;
}

int open(const char *path, int flags, ...)
{
    va_list list;
    mode_t  mode = 0;

    va_start(list, flags);
    if (is_new(flags)) {
        mode = (mode_t) va_arg(list, int);
    }
    va_end(list);
    return is_new(flags) && fault() ? -1 : NEXT(open)(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    return mode[0] != 'r' && fault() ? NULL : NEXT(fopen)(path, mode);
}

/* On stdout and stderr nothing depends. */
ssize_t write(int file, const void *data, size_t bytes)
{
    return file > 2 && fault() ? -1 : NEXT(write)(file, data, bytes);
}

int fflush(FILE *file)
{
    return file != NULL && file != stdout && file != stderr && fault()
               ? EOF
               : NEXT(fflush)(file);
}

int fsync(int file)
{
    return fault() ? -1 : NEXT(fsync)(file);
}

int ftruncate(int file, off_t length)
{
    return fault() ? -1 : NEXT(ftruncate)(file, length);
}

int rename(const char *from, const char *to)
{
    return fault() ? -1 : NEXT(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    return fault() ? -1 : NEXT(mkdir)(path, mode);
}
