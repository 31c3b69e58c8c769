/*
 * Threads that share the work of a pass: a few that live as long as the program needs
 * them, and a loop whose turns they take. Work is cut by its sizes and the number of
 * threads, never by which of them is faster, so results depend on the number alone.
 */
#ifndef BEAMLORA_SRC_THREADS_H
#define BEAMLORA_SRC_THREADS_H

#include <stddef.h>
#include <stdint.h>

#define THREADS_MOST 1024

struct threads;

/* count: the caller's thread included. 0: what OPENBLAS_NUM_THREADS or OMP_NUM_THREADS say,
 * else one for each processor. The BLAS is told to leave the cores alone (blas.h). 0, or
 * -1 with a line in error[size]. */
int  threads_create(struct threads **out, int64_t count, char *error, size_t size);
void threads_free(struct threads *threads);

/* How many; NULL is the caller's alone, here and below. */
int64_t threads_count(const struct threads *threads);

/* task(context, i) for every i in [0, count), on any of the threads; all are done when it
 * returns. Not to be called from a task. The type is bl_parallel_for_fn's, for which user
 * is the threads. */
void threads_run(void *user, int64_t count, void (*task)(void *context, int64_t i),
                 void *context);

/* Where part i of `parts` begins when n things are cut into parts as equal as multiples of
 * `unit` can be; part `parts` begins at n. */
int64_t threads_part(int64_t n, int64_t unit, int64_t parts, int64_t i);

#endif
