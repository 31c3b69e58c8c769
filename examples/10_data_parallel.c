/*
 * Two replicas, each with half of the batch. All gradients of a group are one buffer, so
 * one all-reduce on one pointer makes them agree; here both live in one process and the
 * all-reduce is a loop. The buffers are the host's own memory, sized by bl_memory_query.
 */
#include <beamlora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLICAS = 2, N = 32, WIDTH = 24, LAYERS = 2, MICRO = 2, STEPS = 100 };

static float x[REPLICAS][MICRO][N * WIDTH], want[REPLICAS][MICRO][N * WIDTH];

struct replica {
    bl_group *group;
    bl_tape  *tape[LAYERS];
    float    *parameters, *gradients;
};

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

/* Aligned to 64 bytes; a group's elements are a multiple of that. */
static float *allocate(int64_t elements)
{
    float *memory = (float *) aligned_alloc(64, (size_t) elements * sizeof(float));

    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* The same seed in every replica: the same initialisation and the same decisions. */
static int64_t create(struct replica *replica)
{
    bl_options opt;
    bl_memory  memory;
    bl_spec    spec[LAYERS] = { { 0 } };

    for (int l = 0; l < LAYERS; l++) {
        spec[l].size = sizeof spec[l];
        spec[l].in_features = spec[l].out_features = WIDTH;
    }
    check(bl_options_init(&opt, sizeof opt));
    opt.seed = 7;
    opt.total_steps = STEPS;

    memory.size = sizeof memory;
    check(bl_memory_query(spec, LAYERS, &opt, N, &memory));
    opt.parameters = replica->parameters = allocate(memory.elements);
    opt.gradients = replica->gradients = allocate(memory.elements);
    check(bl_group_create(&replica->group, spec, LAYERS, &opt));
    for (int l = 0; l < LAYERS; l++) {
        check(bl_tape_create(&replica->tape[l], bl_group_get_adapter(replica->group, l),
                             N, BL_KEEP_ALL));
    }
    return memory.elements;
}

static void destroy(struct replica *replica)
{
    for (int l = 0; l < LAYERS; l++) {
        bl_tape_free(replica->tape[l]);
    }
    bl_group_free(replica->group);
    free(replica->gradients);
    free(replica->parameters);
}

/* Gradients of all micro-batches add up in the group until the step. */
static double gather_gradients(struct replica *replica, int k)
{
    static float y[N * WIDTH], dy[N * WIDTH];
    double       loss = 0;

    for (int micro = 0; micro < MICRO; micro++) {
        for (int l = 0; l < LAYERS; l++) {
            bl_adapter *adapter = bl_group_get_adapter(replica->group, l);

            memset(y, 0, sizeof y);
            check(bl_forward(adapter, replica->tape[l], N, y, WIDTH, x[k][micro], WIDTH,
                             BL_NO_DROPOUT));
            for (int i = 0; i < N * WIDTH; i++) {
                dy[i] = (y[i] - want[k][micro][i]) / (N * MICRO);
                loss += 0.5 * dy[i] * (y[i] - want[k][micro][i]);
            }
            check(bl_backward(adapter, replica->tape[l], N, NULL, 0, dy, WIDTH,
                              x[k][micro], WIDTH));
        }
    }
    return loss;
}

/* Where a trainer calls its all-reduce, on view.data and view.cols. */
static void all_reduce(struct replica *replicas)
{
    bl_view view[REPLICAS];

    for (int k = 0; k < REPLICAS; k++) {
        check(bl_group_get_view(replicas[k].group, BL_BUFFER_GRADIENTS, &view[k]));
    }

    float *first = (float *) view[0].data, *second = (float *) view[1].data;

    for (int64_t i = 0; i < view[0].cols; i++) {
        first[i] = second[i] = first[i] + second[i];
    }
}

int main(void)
{
    for (int k = 0; k < REPLICAS; k++) {
        for (int micro = 0; micro < MICRO; micro++) {
            for (int i = 0; i < N * WIDTH; i++) {
                x[k][micro][i] = draw();
                want[k][micro][i] = draw() / 4;
            }
        }
    }

    struct replica replicas[REPLICAS];
    int64_t        elements = 0;
    double         first = 0, loss = 0;

    for (int k = 0; k < REPLICAS; k++) {
        elements = create(&replicas[k]);
    }
    for (int step = 0; step < STEPS; step++) {
        loss = 0;
        for (int k = 0; k < REPLICAS; k++) {
            loss += gather_gradients(&replicas[k], k) / REPLICAS;
        }
        all_reduce(replicas);
        for (int k = 0; k < REPLICAS; k++) {
            check(bl_group_step(replicas[k].group, 0.01, 1.0 / REPLICAS));
            if (bl_group_reallocate_due(replicas[k].group)) {
                check(bl_group_reallocate(replicas[k].group, NULL));
            }
        }
        first = step == 0 ? loss : first;
    }

    int same = memcmp(replicas[0].parameters, replicas[1].parameters,
                      (size_t) elements * sizeof(float)) == 0;

    printf("loss %.4f at first, %.4f after %d steps; the replicas are %s\n", first, loss,
           STEPS, same ? "equal" : "different");
    for (int k = 0; k < REPLICAS; k++) {
        destroy(&replicas[k]);
    }
    return same && loss < 0.9 * first ? 0 : 1;
}
