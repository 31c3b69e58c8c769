/*
 * A pool of threads that wait for the next loop by looking for it, and sleep when none
 * comes for a while: the loops of a pass follow one another within microseconds, which is
 * less than it takes to wake a thread.
 */
#define _POSIX_C_SOURCE 200809L

#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/blas.h"

#define LOOKS 64              /* at the ticket between two looks at the clock     */
#define PATIENCE (100 * 1000) /* nanoseconds of looking, before a thread sleeps   */

struct threads {
    int64_t    count;
    pthread_t *worker; /* [count - 1]; `started` of them run */
    int64_t    started;

    /* The loop. Its turns are taken by counting down the low half of the ticket, whose
     * high half is the loop's number: nobody can take a turn of a loop that is over, so a
     * thread that comes late, or not at all, keeps no one waiting. */
    _Atomic uint64_t ticket;
    _Atomic int64_t  undone;
    void (*task)(void *context, int64_t i);
    void *context;

    _Atomic int     asleep, over;
    pthread_mutex_t mutex;
    pthread_cond_t  wake;
};

/* Take turns as long as there are any. */
static void work(struct threads *threads)
{
    uint64_t ticket = atomic_load(&threads->ticket);

    while ((uint32_t) ticket > 0) {
        if (atomic_compare_exchange_weak(&threads->ticket, &ticket, ticket - 1)) {
            threads->task(threads->context, (int64_t) (uint32_t) ticket - 1);
            atomic_fetch_sub(&threads->undone, 1);
            ticket = atomic_load(&threads->ticket);
        }
    }
}

static int has_work(const struct threads *threads)
{
    return (uint32_t) atomic_load(&threads->ticket) > 0 || atomic_load(&threads->over);
}

static int64_t nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* 1: there is work; 0: patience is at its end. */
static int look(const struct threads *threads)
{
    int64_t end = nanoseconds() + PATIENCE;

    do {
        for (int i = 0; i < LOOKS; i++) {
            if (has_work(threads)) {
                return 1;
            }
        }
    } while (nanoseconds() < end);
    return 0;
}

static void *live(void *argument)
{
    struct threads *threads = argument;

    while (!atomic_load(&threads->over)) {
        if (!look(threads)) {
            pthread_mutex_lock(&threads->mutex);
            atomic_fetch_add(&threads->asleep, 1);
            while (!has_work(threads)) {
                pthread_cond_wait(&threads->wake, &threads->mutex);
            }
            atomic_fetch_sub(&threads->asleep, 1);
            pthread_mutex_unlock(&threads->mutex);
        }
        work(threads);
    }
    return NULL;
}

/* Whoever falls asleep has said so before its last look: either it sees what was published
 * before this, or is seen here. */
static void wake_all(struct threads *threads)
{
    if (atomic_load(&threads->asleep) > 0) {
        pthread_mutex_lock(&threads->mutex);
        pthread_cond_broadcast(&threads->wake);
        pthread_mutex_unlock(&threads->mutex);
    }
}

void threads_run(void *user, int64_t count, void (*task)(void *context, int64_t i),
                 void *context)
{
    struct threads *threads = user;
    uint64_t        number;

    if (threads_count(threads) == 1 || count <= 1 || count > UINT32_MAX) {
        for (int64_t i = 0; i < count; i++) {
            task(context, i);
        }
        return;
    }
    threads->task = task;
    threads->context = context;
    atomic_store(&threads->undone, count);
    number = (atomic_load(&threads->ticket) >> 32) + 1;
    atomic_store(&threads->ticket, number << 32 | (uint64_t) count);
    wake_all(threads);
    work(threads);
    for (int64_t looks = 0; atomic_load(&threads->undone) > 0; looks++) {
        if (looks > 100 * LOOKS) {
            sched_yield(); /* whose turn it is may be waiting for this processor */
        }
    }
}

int64_t threads_count(const struct threads *threads)
{
    return threads != NULL ? threads->count : 1;
}

int64_t threads_part(int64_t n, int64_t unit, int64_t parts, int64_t i)
{
    int64_t units = (n + unit - 1) / unit;
    int64_t at = (units / parts * i + units % parts * i / parts) * unit;

    return at < n ? at : n;
}

/* Where nothing is said: as a BLAS takes it. */
static int64_t default_count(void)
{
    static const char *const names[] = { "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS" };
    long                     count = sysconf(_SC_NPROCESSORS_ONLN);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        long        said = text != NULL ? strtol(text, NULL, 10) : 0;

        if (said > 0) {
            count = said;
            break;
        }
    }
    return count < 1 ? 1 : count > THREADS_MOST ? THREADS_MOST : count;
}

int threads_create(struct threads **out, int64_t count, char *error, size_t size)
{
    struct threads *threads = calloc(1, sizeof *threads);

    count = count > 0 ? count : default_count();
    if (threads == NULL ||
        (threads->worker = calloc((size_t) count, sizeof *threads->worker)) == NULL) {
        free(threads);
        snprintf(error, size, "out of memory for %lld threads", (long long) count);
        return -1;
    }
    threads->count = count;
    pthread_mutex_init(&threads->mutex, NULL);
    pthread_cond_init(&threads->wake, NULL);
    for (; threads->started < count - 1; threads->started++) {
        int code =
            pthread_create(&threads->worker[threads->started], NULL, live, threads);

        if (code != 0) {
            snprintf(error, size, "thread %lld of %lld cannot be started: %s",
                     (long long) threads->started + 2, (long long) count, strerror(code));
            threads_free(threads);
            return -1;
        }
    }
    blas_leave_cores();
    *out = threads;
    return 0;
}

void threads_free(struct threads *threads)
{
    if (threads == NULL) {
        return;
    }
    atomic_store(&threads->over, 1);
    wake_all(threads);
    for (int64_t i = 0; i < threads->started; i++) {
        pthread_join(threads->worker[i], NULL);
    }
    pthread_cond_destroy(&threads->wake);
    pthread_mutex_destroy(&threads->mutex);
    free(threads->worker);
    free(threads);
}
