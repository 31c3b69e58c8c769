/*
 * Two builds of the library, loaded into one process and paired on the same arrays: what a
 * change has done to each function that a training loop calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "groups.h"

/* The functions of one build */
struct library {
    int (*options_init)(bl_options *, size_t);
    int (*group_create)(bl_group **, const bl_spec *, int64_t, const bl_options *);
    void (*group_free)(bl_group *);
    bl_adapter *(*get_adapter)(const bl_group *, int64_t);
    int (*tape_create)(bl_tape **, const bl_adapter *, int64_t, int32_t);
    void (*tape_free)(bl_tape *);
    int (*forward)(const bl_adapter *, bl_tape *, int64_t, void *, int64_t, const void *,
                   int64_t, int64_t);
    int (*backward)(bl_adapter *, bl_tape *, int64_t, void *, int64_t, void *, int64_t,
                    const void *, int64_t);
    int (*step)(bl_group *, double, double);
    int (*reallocate)(bl_group *, bl_plan *);
    const char *(*last_error)(void);
};

static int load(struct library *library, const char *path)
{
    const struct {
        void       *to;
        const char *name;
    } wanted[] = { { &library->options_init, "bl_options_init" },
                   { &library->group_create, "bl_group_create" },
                   { &library->group_free, "bl_group_free" },
                   { &library->get_adapter, "bl_group_get_adapter" },
                   { &library->tape_create, "bl_tape_create" },
                   { &library->tape_free, "bl_tape_free" },
                   { &library->forward, "bl_forward" },
                   { &library->backward, "bl_backward" },
                   { &library->step, "bl_group_step" },
                   { &library->reallocate, "bl_group_reallocate" },
                   { &library->last_error, "bl_last_error" } };
    void *const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fprintf(stderr, "bench: %s\n", dlerror());
        return 1;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *const found = dlsym(handle, wanted[i].name);
        if (found == NULL) {
            fprintf(stderr, "bench: %s has no %s\n", path, wanted[i].name);
            return 1;
        }
        memcpy(wanted[i].to, &found, sizeof found);
    }
    return 0;
}

/* A training of one layer, or of a group without activations, by each build. */
struct training {
    const struct library *library;
    struct layer         *layer; /* shared */
    bl_group             *group;
    bl_adapter           *adapter;
    bl_tape              *tape;
};

struct contest {
    struct training sides[2]; /* this build, the base */
};

static void demand(const struct library *library, int code)
{
    if (code != 0) {
        fprintf(stderr, "bench: %s\n", library->last_error());
        exit(1);
    }
}

static void forward(struct training *t)
{
    const struct layer *const l = t->layer;
    demand(t->library, t->library->forward(t->adapter, t->tape, l->n, l->y, l->out, l->x,
                                           l->in, BL_NO_DROPOUT));
}

static void backward(struct training *t)
{
    const struct layer *const l = t->layer;
    demand(t->library, t->library->backward(t->adapter, t->tape, l->n, l->dx, l->in,
                                            l->dy, l->out, l->x, l->in));
}

static void step(struct training *t)
{
    demand(t->library, t->library->step(t->group, 1e-6, 1));
}

static void reallocate(struct training *t)
{
    demand(t->library, t->library->reallocate(t->group, NULL));
}

#define DEFINE_SIDES(call)                                                               \
    static void call##_this(void *context)                                               \
    {                                                                                    \
        call(&((struct contest *) context)->sides[0]);                                   \
    }                                                                                    \
    static void call##_base(void *context)                                               \
    {                                                                                    \
        call(&((struct contest *) context)->sides[1]);                                   \
    }

DEFINE_SIDES(forward)
DEFINE_SIDES(backward)
DEFINE_SIDES(step)
DEFINE_SIDES(reallocate)

static void measure(const struct setup *setup, struct report *report,
                    const struct library *libraries, const char *name,
                    const bl_spec *spec, int64_t count, int64_t n, int64_t rank)
{
    static struct samples samples;
    const enum owner      o = setup->owner;
    const struct side     sides[] = {
            { forward_this, o, 2e-3, NULL },    { forward_base, o, 2e-3, NULL },
            { backward_this, o, 2e-3, NULL },   { backward_base, o, 2e-3, NULL },
            { step_this, o, 2e-3, NULL },       { step_base, o, 2e-3, NULL },
            { reallocate_this, o, 2e-3, NULL }, { reallocate_base, o, 2e-3, NULL }
    };
    const char *const   names[] = { "forward", "backward", "step", "reallocation" };
    struct layer *const layer =
        n > 0 ? layer_create(n, spec->in_features, spec->out_features, rank) : NULL;
    struct contest contest;
    const int      first = n > 0 ? 0 : 2;
    for (int i = 0; i < 2; i++) {
        struct training *const t = &contest.sides[i];
        bl_options             opt;
        *t = (struct training){ .library = &libraries[i], .layer = layer };
        demand(t->library, t->library->options_init(&opt, sizeof opt));
        opt.rank = rank;
        opt.total_steps = (int64_t) 1 << 40;
        opt.expand = BL_EXPAND_CURRENT;
        opt.fixed_count = (rank + 9) / 10;
        opt.parallel_for = o == OWNER_HOST ? machine_parallel_for : NULL;
        demand(t->library, t->library->group_create(&t->group, spec, count, &opt));
        t->adapter = t->library->get_adapter(t->group, 0);
        if (n > 0) {
            demand(t->library, t->library->tape_create(&t->tape, t->adapter, n, 1));
        }
    }
    pairs_run(&samples, sides + 2 * first, 4, &contest, setup->pairs);
    for (int k = 0; k < 2; k++) {
        report_add(report, names[first + k], "base", name, n, rank,
                   pairs_ratio(samples.seconds[2 * k], samples.seconds[2 * k + 1],
                               samples.pairs));
    }
    for (int i = 0; i < 2; i++) {
        contest.sides[i].library->tape_free(contest.sides[i].tape);
        contest.sides[i].library->group_free(contest.sides[i].group);
    }
    if (layer != NULL) {
        layer_free(layer);
    }
}

int bench_compare(const struct setup *setup)
{
    struct library libraries[2];
    if (load(&libraries[0], setup->library) != 0 ||
        load(&libraries[1], setup->base) != 0) {
        return 1;
    }
    struct report *const report = report_begin("compare");
    for (int i = 0; i < setup->shape_count; i++) {
        const bl_spec spec = { .size = sizeof spec,
                               .in_features = setup->shapes[i].in,
                               .out_features = setup->shapes[i].out };
        char          name[32];
        snprintf(name, sizeof name, "%lldx%lld", (long long) spec.in_features,
                 (long long) spec.out_features);
        for (int j = 0; j < setup->n_count; j++) {
            for (int k = 0; k < setup->rank_count; k++) {
                measure(setup, report, libraries, name, &spec, 1, setup->n[j],
                        setup->ranks[k]);
            }
        }
    }
    static bl_spec specs[84];
    model_specs(&model_110m, specs, 84);
    measure(setup, report, libraries, "110M", specs, 84, 0, 16);
    report_target(report, "forward", "base", 0, 0, 0);
    report_target(report, "backward", "base", 0, 0, 0);
    return report_end(report, setup->directory);
}
