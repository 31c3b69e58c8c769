/*
 * The machine: a pool of threads as a host would have one, whose threads wait a little
 * before they sleep; threads of the CBLAS; what is written about both in the results.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { MOST_THREADS = 64 };

static const double wait_seconds = 3e-4; /* before a thread of the pool sleeps */

/* A loop is known by its number. `ticket` has it in the upper half and the next task in the
 * lower, so that a thread that comes late can take nothing from the loop after. */
static struct pool {
    int                  threads;
    pthread_mutex_t      lock;
    pthread_cond_t       work;
    atomic_uint_fast64_t ticket;
    atomic_llong         done;
    _Atomic(bl_task_fn)  task;
    _Atomic(void *)      context;
    atomic_llong         count;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER };

/* Of OpenBLAS; NULL with another CBLAS. */
static void (*set_blas_threads)(int);

/* On one thread its own time, which other work on the machine disturbs less. */
double machine_now(void)
{
    struct timespec t;
    clock_gettime(pool.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* ----- the pool ----- */

static void take_tasks(void)
{
    uint_fast64_t ticket = atomic_load(&pool.ticket);
    while ((int64_t) (ticket & 0xffffffffu) < atomic_load(&pool.count)) {
        if (atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) {
            atomic_load (&pool.task)(atomic_load(&pool.context),
                                     (int64_t) (ticket & 0xffffffffu));
            atomic_fetch_add(&pool.done, 1);
            ticket = atomic_load(&pool.ticket);
        }
    }
}

/* A moment in which a thread that shares the core has all of it */
static void relax(void)
{
    for (int i = 0; i < 16; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
}

static void *serve(void *unused)
{
    (void) unused;
    for (uint_fast64_t seen = 0;;) {
        const double start = machine_now();
        while (atomic_load(&pool.ticket) >> 32 == seen &&
               machine_now() - start < wait_seconds) {
            relax();
        }
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.ticket) >> 32 == seen) {
            pthread_cond_wait(&pool.work, &pool.lock);
        }
        pthread_mutex_unlock(&pool.lock);
        seen = atomic_load(&pool.ticket) >> 32;
        take_tasks();
    }
    return NULL;
}

/* The old loop's tasks are all taken, so `count` may not grow before its number changes. */
void machine_parallel_for(void *user, int64_t count, bl_task_fn task, void *context)
{
    (void) user;
    const uint_fast64_t number = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.count, 0);
    atomic_store(&pool.done, 0);
    atomic_store(&pool.task, task);
    atomic_store(&pool.context, context);
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.ticket, (number & 0xffffffffu) << 32);
    atomic_store(&pool.count, count);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    take_tasks();
    while (atomic_load(&pool.done) < count) {
    }
}

/* ----- threads ----- */

static void find(void *function, const char *name)
{
    void *const found = dlsym(RTLD_DEFAULT, name);
    memcpy(function, &found, sizeof found);
}

void machine_begin(char **argv)
{
    const char *const wait = "OPENBLAS_THREAD_TIMEOUT"; /* 2^x cycles */
    find(&set_blas_threads, "openblas_set_num_threads");
    if (set_blas_threads != NULL && getenv(wait) == NULL && setenv(wait, "20", 1) == 0) {
        execv("/proc/self/exe", argv);
    }
}

void machine_start(int threads)
{
    pool.threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    for (int i = 1; i < pool.threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0) {
            fputs("bench: cannot start a thread\n", stderr);
            exit(1);
        }
    }
}

int machine_threads(void)
{
    return pool.threads;
}

static void idle(void *context, int64_t i)
{
    (void) context;
    (void) i;
}

void machine_own(enum owner owner)
{
    static int            now = -1;
    const struct timespec until_asleep = { .tv_nsec = 1000000 };
    if (now != (int) owner) {
        nanosleep(&until_asleep, NULL);
        if (set_blas_threads != NULL) {
            set_blas_threads(owner == OWNER_BLAS ? pool.threads : 1);
        }
        now = (int) owner;
    }
    if (owner == OWNER_HOST) {
        machine_parallel_for(NULL, pool.threads, idle, NULL); /* awake */
    }
}

/* ----- memory ----- */

int64_t machine_free_bytes(void)
{
    FILE *const file = fopen("/proc/meminfo", "r");
    char        line[128];
    long long   kilobytes = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lld", &kilobytes) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kilobytes * 1024;
}

void *machine_memory(size_t bytes)
{
    const size_t unit = 4096;
    void *const  memory = aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (memory == NULL) {
        fprintf(stderr, "bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memset(memory, 0, bytes);
}

float *machine_noise(int64_t count, uint64_t seed, float scale)
{
    float *const values = machine_memory((size_t) count * sizeof *values);
    uint32_t     state = (uint32_t) seed * 2654435761u + 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = scale * ((float) (state >> 8) / 8388608.0f - 1);
    }
    return values;
}

/* ----- what it is ----- */

void check(int code)
{
    if (code != 0) {
        fprintf(stderr, "bench: %s: %s\n", bl_strerror(code), bl_last_error());
        exit(1);
    }
}

static void read_processor(char *name, size_t size)
{
    FILE *const file = fopen("/proc/cpuinfo", "r");
    char        line[256];
    snprintf(name, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(name, size, "%s", strchr(line, ':') + 2);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

json_t *machine_describe(void)
{
    char *(*config)(void), *(*core)(void);
    char name[256], version[64] = "unknown", text[160];
    read_processor(name, sizeof name);
    find(&config, "openblas_get_config");
    find(&core, "openblas_get_corename");
    if (config != NULL && core != NULL) {
        sscanf(config(), "%*s %63s", version);
        snprintf(text, sizeof text, "OpenBLAS %s, kernels for %s", version, core());
    } else {
        snprintf(text, sizeof text, "not OpenBLAS");
    }
    return json_pack("{s:s, s:s, s:i, s:s}", "processor", name, "cblas", text, "threads",
                     pool.threads, "library", bl_version_string());
}
