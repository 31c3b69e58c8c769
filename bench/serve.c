/*
 * One side of the comparison with other programs: layers made and run as a line on stdin
 * says, one answer a line. The line is a layer to make, {"kind", "inputs", "outputs", "n",
 * "rank"}, to which the answer is null; or null, which runs it, forward and backward, and
 * is answered with the seconds of one run. The kind "floor" is that of layer.c, memory's
 * traffic or the operations. The other program works in between, so nothing here keeps a core
 * while it waits for a line.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

/* Seconds: of runs that are not timed, in which caches fill and threads find their cores;
 * and that an answer is the mean over, at least. */
static const double warm = 1e-2, least = 2e-2;

struct served {
    struct layer *layer;
    float        *base;    /* of DoRA */
    bl_adapter   *adapter; /* NULL: the floor */
    bl_tape      *tape;
    int           repeats;
};

/* The other program's clock, also on one thread. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static double run_floor(struct layer *l, int repeats)
{
    const double flops = layer_forward_flops(l) + layer_backward_flops(l);
    const double start = now();
    for (int i = 0; i < repeats; i++) {
        layer_floor_forward(l);
        layer_floor_backward(l);
    }
    const double memory = (now() - start) / repeats;
    const double middle = now();
    layer_peak(l);
    return fmax(memory, (now() - middle) / layer_peak_flops() * flops);
}

static double run(const struct served *s, int repeats)
{
    if (s->adapter == NULL) {
        return run_floor(s->layer, repeats);
    }
    const struct layer *const l = s->layer;
    bl_group *const           group = bl_adapter_get_group(s->adapter);
    const double              start = now();
    for (int i = 0; i < repeats; i++) {
        /* as after a step: DoRA's lengths are made anew, as PEFT makes them */
        check(bl_group_touch(group));
        check(bl_group_discard_gradients(group));
        check(bl_forward(s->adapter, s->tape, l->n, l->y, l->out, l->x, l->in,
                         BL_NO_DROPOUT));
        check(bl_backward(s->adapter, s->tape, l->n, l->dx, l->in, l->dy, l->out, l->x,
                          l->in));
    }
    return (now() - start) / repeats;
}

static double answer(const struct served *s)
{
    const double start = now();
    while (now() - start < warm) {
        run(s, 1);
    }
    return run(s, s->repeats);
}

static void end(struct served *s)
{
    if (s->layer != NULL) {
        bl_tape_free(s->tape);
        bl_adapter_free(s->adapter);
        layer_free(s->layer);
        free(s->base);
    }
    *s = (struct served){ 0 };
}

/* 0, or 1: the question is none. */
static int make(struct served *s, json_t *question, enum owner owner)
{
    const char *kind;
    json_int_t  in, out, n, rank;
    bl_options  opt;
    if (json_unpack(question, "{s:s, s:I, s:I, s:I, s:I}", "kind", &kind, "inputs", &in,
                    "outputs", &out, "n", &n, "rank", &rank) != 0 ||
        in < 1 || out < 1 || n < 1 || rank < 1 ||
        (strcmp(kind, "lora") != 0 && strcmp(kind, "dora") != 0 &&
         strcmp(kind, "beamlora") != 0 && strcmp(kind, "floor") != 0)) {
        return 1;
    }
    end(s);
    check(bl_options_init(&opt, sizeof opt));
    opt.method = strcmp(kind, "beamlora") == 0 ? BL_METHOD_BEAMLORA : BL_METHOD_LORA;
    opt.rank = rank;
    opt.alpha = 2.0 * (double) rank;
    opt.reallocation = 0;
    opt.parallel_for = owner == OWNER_HOST ? machine_parallel_for : NULL;
    if (strcmp(kind, "dora") == 0) {
        s->base = machine_noise(in * out, 20, 0.02f);
        opt.dora = 1;
        opt.base = s->base;
        opt.ldbase = in;
    }
    s->layer = layer_create(n, in, out, rank);
    if (strcmp(kind, "floor") != 0) {
        check(bl_adapter_create(&s->adapter, in, out, &opt));
        check(bl_tape_create(&s->tape, s->adapter, n, BL_KEEP_ALL));
    }
    run(s, 1);
    s->repeats = (int) fmax(1, ceil(least / run(s, 1)));
    return 0;
}

int bench_serve(const struct setup *setup)
{
    struct served served = { 0 };
    char          line[256];
    int           code = 0;
    while (code == 0 && fgets(line, sizeof line, stdin) != NULL) {
        json_t *const question = json_loads(line, JSON_DECODE_ANY, NULL);
        machine_own(setup->owner);
        if (json_is_null(question) && served.layer != NULL) {
            printf("%.9g\n", answer(&served));
        } else if (make(&served, question, setup->owner) == 0) {
            puts("null");
        } else {
            fputs("bench: serve: a line is neither a layer nor null after one\n", stderr);
            code = 1;
        }
        fflush(stdout);
        json_decref(question);
    }
    end(&served);
    return code;
}
