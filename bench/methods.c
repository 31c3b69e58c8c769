/*
 * What a method costs over plain LoRA, by whole training steps of one layer: DoRA, and
 * BeamLoRA with a snapshot and a reallocation in every period; and what room for more ranks
 * costs.
 */
#include <stdlib.h>

#include "bench.h"

enum { IN = 4096, OUT = 4096, ROWS = 2048, RANK = 16, PERIOD = 10, FEW = 4 };

struct training {
    struct layer *layer; /* shared */
    bl_adapter   *adapter;
    bl_tape      *tape;
    int           steps; /* in a sample */
};

struct contest {
    struct training sides[2]; /* the method, and LoRA */
    float          *base;     /* of DoRA */
    float          *kept;     /* [ROWS, OUT] as DoRA's tape has it; NULL: y is left */
};

static void train(struct training *t)
{
    const struct layer *const l = t->layer;
    for (int i = 0; i < t->steps; i++) {
        check(bl_forward(t->adapter, t->tape, l->n, l->y, l->out, l->x, l->in,
                         BL_NO_DROPOUT));
        check(bl_backward(t->adapter, t->tape, l->n, l->dx, l->in, l->dy, l->out, l->x,
                          l->in));
        check(bl_step(t->adapter, 1e-4, 1));
        if (bl_reallocate_due(t->adapter)) {
            check(bl_reallocate(t->adapter, NULL));
        }
    }
}

static void train_method(void *context)
{
    train(&((struct contest *) context)->sides[0]);
}

/* The step alone, which with DoRA is the lengths of rows */
static void step_method(void *context)
{
    check(bl_step(((struct contest *) context)->sides[0].adapter, 1e-4, 1));
}

static void train_lora(void *context)
{
    train(&((struct contest *) context)->sides[1]);
}

/* LoRA's step, and reading and writing once what DoRA reads and writes more. dy is in the
 * cache, and the copy of y goes past it: half of them read and written is as much as all of
 * them written. */
static void train_lora_and_move(void *context)
{
    const struct contest *const c = context;
    const struct layer *const   l = c->sides[1].layer;
    train_lora(context);
    memory_read(c->base, (int64_t) IN * OUT);
    memory_update(l->dy, (int64_t) ROWS * OUT / 2);
    if (c->kept == NULL) {
        memory_read(l->y, (int64_t) ROWS * OUT);
    } else {
        memory_update(c->kept, (int64_t) ROWS * OUT / 2);
        memory_read(c->kept, (int64_t) ROWS * OUT);
    }
}

static void start(struct training *t, struct layer *layer, const bl_options *opt,
                  int steps)
{
    *t = (struct training){ .layer = layer, .steps = steps };
    check(bl_adapter_create(&t->adapter, IN, OUT, opt));
    check(bl_tape_create(&t->tape, t->adapter, layer->n, BL_KEEP_ALL));
}

/* From here on y stays where it is until the backward. */
static void leave_y(struct training *t)
{
    bl_tape_free(t->tape);
    check(bl_tape_create(&t->tape, t->adapter, t->layer->n, BL_KEEP_BUT_Y));
}

static void end(struct contest *contest)
{
    for (int i = 0; i < 2; i++) {
        bl_tape_free(contest->sides[i].tape);
        bl_adapter_free(contest->sides[i].adapter);
    }
}

static bl_options plain(const struct setup *setup)
{
    bl_options opt;
    check(bl_options_init(&opt, sizeof opt));
    opt.method = BL_METHOD_LORA;
    opt.rank = RANK;
    opt.parallel_for = setup->owner == OWNER_HOST ? machine_parallel_for : NULL;
    return opt;
}

static struct ratio compare(const struct setup *setup, struct contest *contest,
                            void (*method)(void *))
{
    static struct samples samples;
    const struct side     sides[] = { { method, setup->owner, 0, NULL },
                                      { train_lora, setup->owner, 0, NULL } };
    pairs_run(&samples, sides, 2, contest, setup->pairs);
    return pairs_ratio(samples.seconds[0], samples.seconds[1], samples.pairs);
}

static void report_dora(const struct setup *setup, struct report *report,
                        const char *what, struct contest *contest)
{
    static struct samples samples;
    const struct side     sides[] = { { train_method, setup->owner, 0, NULL },
                                      { train_lora, setup->owner, 0, NULL },
                                      { train_lora_and_move, setup->owner, 0, NULL } };
    pairs_run(&samples, sides, 3, contest, setup->pairs);
    report_add(report, what, "LoRA", "4096x4096", ROWS, RANK,
               pairs_ratio(samples.seconds[0], samples.seconds[1], samples.pairs));
    report_add(report, what, "LoRA+bytes", "4096x4096", ROWS, RANK,
               pairs_ratio(samples.seconds[0], samples.seconds[2], samples.pairs));
}

int bench_methods(const struct setup *setup)
{
    struct report *const report = report_begin("methods");
    struct layer *const  layer = layer_create(ROWS, IN, OUT, RANK);
    float *const         base = machine_noise((int64_t) IN * OUT, 20, 0.02f);
    struct contest       contest;
    const bl_options     lora = plain(setup);
    bl_options           opt = lora;
    opt.dora = 1;
    opt.base = base;
    opt.ldbase = IN;
    start(&contest.sides[0], layer, &opt, 1);
    start(&contest.sides[1], layer, &lora, 1);
    contest.base = base;
    contest.kept = machine_memory((size_t) ROWS * OUT * sizeof *contest.kept);
    report_dora(setup, report, "DoRA's step", &contest);
    leave_y(&contest.sides[0]);
    free(contest.kept);
    contest.kept = NULL;
    report_dora(setup, report, "DoRA's step, y left", &contest);
    report_add(report, "DoRA's lengths", "LoRA", "4096x4096", ROWS, RANK,
               compare(setup, &contest, step_method));
    end(&contest);
    /* a period to a sample; one rank of sixteen is moved at its end */
    opt = lora;
    opt.method = BL_METHOD_BEAMLORA;
    opt.total_steps = (int64_t) PERIOD * (setup->pairs + 8);
    opt.period = PERIOD;
    opt.fixed_count = 1;
    start(&contest.sides[0], layer, &opt, PERIOD);
    start(&contest.sides[1], layer, &lora, PERIOD);
    report_add(report, "BeamLoRA's steps", "LoRA", "4096x4096", ROWS, RANK,
               compare(setup, &contest, train_method));
    end(&contest);
    /* what a module has room for costs memory, not time */
    opt = lora;
    opt.rank = FEW;
    opt.capacity = 64;
    start(&contest.sides[0], layer, &opt, 1);
    opt.capacity = FEW;
    start(&contest.sides[1], layer, &opt, 1);
    report_add(report, "rank 4 in room for 64", "rank 4", "4096x4096", ROWS, FEW,
               compare(setup, &contest, train_method));
    end(&contest);
    report_target(report, "DoRA's step", "LoRA", 0, 1.6, 0);
    report_target(report, "DoRA's step, y left", "LoRA", 0, 1.6, 0);
    report_target(report, "BeamLoRA's steps", "LoRA", 0, 1.02, 0);
    report_target(report, "rank 4 in room for 64", "rank 4", 0, 1.1, 0);
    free(base);
    layer_free(layer);
    return report_end(report, setup->directory);
}
