/*
 * Write a trained group as a PEFT adapter, as other programs load it, and read it back
 * into a plain LoRA group that computes the same.
 */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */

#include <beamlora.h>
#include <beamlora_io.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 32, IN = 24, OUT = 16, STEPS = 100 };

static float x[N * IN], want[N * OUT], y[N * OUT], dy[N * OUT];

static void check(int code)
{
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", bl_strerror(code), bl_last_error());
        exit(1);
    }
}

static void check_io(int code)
{
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", bl_strerror(code), bl_io_last_error());
        exit(1);
    }
}

static float draw(void) /* in [-1, 1) */
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / 8388608.0f - 1.0f;
}

/* What the group's adapter adds to its layer's output. */
static void run(const bl_group *group, bl_tape *tape, float *out)
{
    memset(out, 0, sizeof y);
    check(bl_forward(bl_group_get_adapter(group, 0), tape, N, out, OUT, x, IN,
                     BL_NO_DROPOUT));
}

static bl_group *train(void)
{
    bl_options opt;
    bl_spec    spec = { 0 };
    bl_group  *group;
    bl_tape   *tape;

    spec.size = sizeof spec;
    spec.in_features = IN;
    spec.out_features = OUT;
    spec.name = "model.layers.0.mlp.up_proj"; /* its path in the model, as PEFT has it */
    check(bl_options_init(&opt, sizeof opt));
    opt.total_steps = STEPS;
    check(bl_group_create(&group, &spec, 1, &opt));
    check(bl_tape_create(&tape, bl_group_get_adapter(group, 0), N, BL_KEEP_ALL));
    for (int step = 0; step < STEPS; step++) {
        run(group, tape, y);
        for (int i = 0; i < N * OUT; i++) {
            dy[i] = (y[i] - want[i]) / N;
        }
        check(bl_backward(bl_group_get_adapter(group, 0), tape, N, NULL, 0, dy, OUT, x,
                          IN));
        check(bl_group_step(group, 0.01, 1));
        if (bl_group_reallocate_due(group)) {
            check(bl_group_reallocate(group, NULL));
        }
    }
    bl_tape_free(tape);
    return group;
}

/* A group for the modules of an adapter directory, to compute with, not to train. */
static bl_group *open_group(const char *dir)
{
    enum { MOST = 8 };

    bl_peft *peft;

    check_io(bl_peft_open(&peft, dir));

    int64_t count = bl_peft_get_count(peft);
    bl_spec spec[MOST] = { { 0 } };

    if (count > MOST) {
        fputs("more modules than this example has room for\n", stderr);
        exit(1);
    }
    for (int64_t i = 0; i < count; i++) {
        bl_peft_module module;

        check_io(bl_peft_get_module(peft, i, &module));
        spec[i].size = sizeof spec[i];
        spec[i].name = module.name;
        spec[i].in_features = module.in_features;
        spec[i].out_features = module.out_features;
        spec[i].rank = module.rank;
    }

    bl_options opt;
    bl_group  *group;

    check(bl_options_init(&opt, sizeof opt));
    opt.method = BL_METHOD_LORA;
    opt.optimizer = BL_OPTIMIZER_HOST; /* no memory for moments */
    check(bl_group_create(&group, spec, count, &opt));
    check_io(bl_peft_load(peft, group, NULL));
    bl_peft_close(peft);
    return group;
}

static void remove_directory(const char *dir)
{
    char path[128];

    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    remove(path);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    remove(path);
    rmdir(dir);
}

int main(void)
{
    char dir[] = "/tmp/beamlora-export-XXXXXX";

    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    for (int i = 0; i < N * IN; i++) {
        x[i] = draw();
    }
    for (int i = 0; i < N * OUT; i++) {
        want[i] = draw();
    }

    bl_group       *trained = train();
    bl_peft_options opt;

    check_io(bl_peft_options_init(&opt, sizeof opt));
    opt.base_model_name_or_path = "some/model";
    check_io(bl_peft_save(trained, dir, &opt));

    bl_group    *loaded = open_group(dir);
    bl_tape     *tape[2];
    static float before[N * OUT], after[N * OUT];
    double       difference = 0, size = 0;

    /* to compute only */
    check(bl_tape_create(&tape[0], bl_group_get_adapter(trained, 0), N, BL_KEEP_NOTHING));
    check(bl_tape_create(&tape[1], bl_group_get_adapter(loaded, 0), N, BL_KEEP_NOTHING));
    run(trained, tape[0], before);
    run(loaded, tape[1], after);
    for (int i = 0; i < N * OUT; i++) {
        difference = fmax(difference, fabs((double) before[i] - after[i]));
        size = fmax(size, fabs((double) before[i]));
    }
    printf("outputs up to %.3f, through the file they differ by up to %.1e\n", size,
           difference);

    bl_tape_free(tape[1]);
    bl_tape_free(tape[0]);
    bl_group_free(loaded);
    bl_group_free(trained);
    remove_directory(dir);
    return size > 0.1 && difference < 1e-5 ? 0 : 1;
}
