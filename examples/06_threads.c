/*
 * The library starts no threads; it hands its work to the host's parallel_for. The work
 * is cut in the same way whoever does it, so the number of threads changes no bit.
 *
 * Cores are shared with the CBLAS: with a parallel_for, keep the CBLAS on one thread.
 */
#include <beamlora.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 256, WIDTH = 96, STEPS = 30, MOST_THREADS = 16 };

static float x[N * WIDTH], want[N * WIDTH], y[N * WIDTH], dy[N * WIDTH], dx[N * WIDTH];

static void check(int code)
{
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", bl_strerror(code), bl_last_error());
        exit(1);
    }
}

static float draw(void) /* in [-1, 1) */
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / 8388608.0f - 1.0f;
}

/* A loop that threads take the next index from until there is none. */
struct loop {
    bl_task_fn  task;
    void       *context;
    int64_t     count;
    atomic_long next;
};

static void *work(void *argument)
{
    struct loop *loop = argument;
    int64_t      i;

    while ((i = atomic_fetch_add(&loop->next, 1)) < loop->count) {
        loop->task(loop->context, i);
    }
    return NULL;
}

/* user: how many threads. A trainer has a pool; this starts them anew for every loop. */
static void parallel_for(void *user, int64_t count, bl_task_fn task, void *context)
{
    struct loop loop = { .task = task, .context = context, .count = count };
    pthread_t   thread[MOST_THREADS];
    int         started = 0;

    while (started < *(const int *) user - 1 &&
           pthread_create(&thread[started], NULL, work, &loop) == 0) {
        started++;
    }
    work(&loop); /* this thread too: all is done even if none could be started */
    for (int i = 0; i < started; i++) {
        pthread_join(thread[i], NULL);
    }
}

/* Train on so many threads; a copy of the parameters in *result. Returns their number. */
static int64_t train(int threads, float **result)
{
    bl_options  opt;
    bl_adapter *adapter;
    bl_tape    *tape;
    bl_view     view;

    check(bl_options_init(&opt, sizeof opt));
    opt.reallocation = 0;
    opt.parallel_for = parallel_for;
    opt.parallel_user = &threads; /* must live as long as the group */
    check(bl_adapter_create(&adapter, WIDTH, WIDTH, &opt));
    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));
    for (int step = 0; step < STEPS; step++) {
        memset(y, 0, sizeof y);
        memset(dx, 0, sizeof dx);
        check(bl_forward(adapter, tape, N, y, WIDTH, x, WIDTH, BL_NO_DROPOUT));
        for (int i = 0; i < N * WIDTH; i++) {
            dy[i] = (y[i] - want[i]) / N;
        }
        check(bl_backward(adapter, tape, N, dx, WIDTH, dy, WIDTH, x, WIDTH));
        check(bl_step(adapter, 0.01, 1));
    }
    check(bl_group_get_view(bl_adapter_get_group(adapter), BL_BUFFER_PARAMETERS, &view));
    *result = malloc((size_t) view.cols * sizeof(float));
    if (*result == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    memcpy(*result, view.data, (size_t) view.cols * sizeof(float));
    bl_tape_free(tape);
    bl_adapter_free(adapter);
    return view.cols;
}

int main(void)
{
    for (int i = 0; i < N * WIDTH; i++) {
        x[i] = draw();
        want[i] = draw();
    }

    float  *one, *four;
    int64_t elements = train(1, &one);

    train(4, &four);

    int same = memcmp(one, four, (size_t) elements * sizeof(float)) == 0;

    printf("%d steps on one thread and on four: parameters are %s\n", STEPS,
           same ? "equal" : "different");
    free(four);
    free(one);
    return same ? 0 : 1;
}
