/*
 * dora_replay FILE...: repeat trainings recorded from PEFT's DoRA layer
 * (test/golden/dora/README.md) through the public API, and compare outputs, gradients,
 * parameters, moments and the merged weight.
 *
 * The error of a quantity is max|x - ref| over all its tensors of a run, divided by
 * max|ref| over the same. Exit status: 0 all files agree, 1 one does not or cannot be
 * read, 2 usage.
 */
#include "beamlora.h"
#include "beamlora_io.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT 1e-10

enum { Y, DX, GRADIENTS, PARAMETERS, M, V, MERGED, QUANTITIES };

static const char *const quantity_names[QUANTITIES] = {
    "Y", "dX", "gradients", "parameters", "m", "v", "merged weight"
};

struct run {
    const char     *path;
    bl_safetensors *file;
    bl_adapter     *adapter;
    bl_tape        *tape;
    int64_t         in, out, rank, n, steps, used;
    double         *w0, *bias;
    double          error[QUANTITIES], size[QUANTITIES];
};

static void fail(const struct run *run, const char *what)
{
    fprintf(stderr, "%s: %s\n", run->path, what);
    exit(1);
}

static void need(const struct run *run, int code)
{
    if (code != 0) {
        fail(run, bl_last_error());
    }
}

/* A tensor in double, packed; its shape where wanted. */
static double *read_tensor(struct run *run, const char *name, int64_t step, int64_t *rows,
                           int64_t *cols)
{
    char           full[64];
    bl_tensor_info info;
    snprintf(full, sizeof full, step < 0 ? "%s" : "%s%lld", name, (long long) step);
    int64_t index = bl_safetensors_find(run->file, full);
    if (index < 0 || bl_safetensors_get_tensor(run->file, index, &info) != 0) {
        fprintf(stderr, "%s: no tensor %s\n", run->path, full);
        exit(1);
    }
    double *data = malloc((size_t) info.elements * sizeof *data);
    if (data == NULL ||
        bl_safetensors_copy(run->file, index, BL_F64, data,
                            info.shape[info.dims > 0 ? info.dims - 1 : 0]) != 0) {
        fail(run, "cannot copy a tensor");
    }
    if (rows != NULL) {
        *rows = info.shape[0];
        *cols = info.dims == 2 ? info.shape[1] : 1;
    }
    run->used++;
    return data;
}

static void compare(struct run *run, int quantity, double got, double want)
{
    double error = fabs(got - want);
    if (!(error <= run->error[quantity]) && !isnan(run->error[quantity])) {
        run->error[quantity] = error; /* a NaN stays */
    }
    run->size[quantity] = fmax(run->size[quantity], fabs(want));
}

static double number(const struct run *run, const char *key)
{
    const char *text = bl_safetensors_get_metadata(run->file, key);
    if (text == NULL) {
        fail(run, "metadata is missing");
    }
    return strtod(text, NULL);
}

/* Tensors as the file has them: B is [out, r] there. */
static const struct {
    const char *name;
    int32_t     tensor;
    int         transposed;
} parts[] = { { "A", BL_TENSOR_A, 0 },
              { "B", BL_TENSOR_B, 1 },
              { "mag", BL_TENSOR_MAGNITUDE, 0 } };

/* Compare a tensor of the file with the adapter's; quantity -1: write it there. */
static void meet(struct run *run, int part, const char *prefix, int64_t step,
                 int32_t buffer, int quantity)
{
    char    name[32];
    int64_t rows, cols;
    bl_view view;
    snprintf(name, sizeof name, "%s%s", prefix, parts[part].name);
    double *data = read_tensor(run, name, step, &rows, &cols);
    need(run, bl_adapter_get_view(run->adapter, parts[part].tensor, buffer, &view));
    if (rows * cols != view.rows * view.cols) {
        fail(run, "a tensor has another shape");
    }
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = parts[part].transposed ? j * view.ld + i : i * cols + j;
            double *own = (double *) view.data + at;
            if (quantity < 0) {
                *own = data[i * cols + j];
            } else {
                compare(run, quantity, *own, data[i * cols + j]);
            }
        }
    }
    free(data);
}

static void meet_all(struct run *run, const char *prefix, int64_t step, int32_t buffer,
                     int quantity)
{
    for (int part = 0; part < 3; part++) {
        meet(run, part, prefix, step, buffer, quantity);
    }
}

static void open_run(struct run *run)
{
    int64_t    rows, cols;
    bl_options opt;
    if (bl_safetensors_open(&run->file, run->path) != 0) {
        fprintf(stderr, "%s\n", bl_io_last_error());
        exit(1);
    }
    run->w0 = read_tensor(run, "W0", -1, &run->out, &run->in);
    run->bias = read_tensor(run, "bias", -1, &rows, &cols);
    free(read_tensor(run, "X", 0, &run->n, &cols));
    run->used--;
    run->steps = (int64_t) number(run, "steps");
    bl_options_init(&opt, sizeof opt);
    opt.method = BL_METHOD_LORA;
    opt.dora = 1;
    opt.base = run->w0;
    opt.rank = (int64_t) number(run, "rank");
    opt.alpha = number(run, "alpha");
    opt.scaling = number(run, "rslora") > 0 ? BL_SCALING_RSLORA : BL_SCALING_STANDARD;
    opt.dropout = number(run, "dropout");
    opt.seed = (uint64_t) number(run, "seed");
    opt.weight_decay = number(run, "weight_decay");
    opt.parameter_dtype = opt.activation_dtype = BL_F64;
    need(run, bl_adapter_create(&run->adapter, run->in, run->out, &opt));
    need(run, bl_tape_create(&run->tape, run->adapter, run->n, 1));
    meet_all(run, "", 0, BL_BUFFER_PARAMETERS, -1);
    need(run, bl_group_touch(bl_adapter_get_group(run->adapter)));
}

/* One step as a host makes it: its own product and bias around the adapter's part. */
static void replay_step(struct run *run, int64_t t)
{
    double *x = read_tensor(run, "X", t, NULL, NULL);
    double *dy = read_tensor(run, "dY", t, NULL, NULL);
    double *want_y = read_tensor(run, "Y", t, NULL, NULL);
    double *want_dx = read_tensor(run, "dX", t, NULL, NULL);
    double *y = calloc((size_t) (run->n * run->out), sizeof *y);
    double *dx = calloc((size_t) (run->n * run->in), sizeof *dx);
    if (y == NULL || dx == NULL) {
        fail(run, "out of memory");
    }
    for (int64_t k = 0; k < run->n; k++) {
        for (int64_t i = 0; i < run->out; i++) {
            for (int64_t j = 0; j < run->in; j++) {
                y[k * run->out + i] += x[k * run->in + j] * run->w0[i * run->in + j];
            }
        }
    }
    need(run, bl_forward(run->adapter, run->tape, run->n, y, run->out, x, run->in, t));
    for (int64_t i = 0; i < run->n * run->out; i++) {
        compare(run, Y, y[i] + run->bias[i % run->out], want_y[i]);
    }
    need(run, bl_backward(run->adapter, run->tape, run->n, dx, run->in, dy, run->out, x,
                          run->in));
    for (int64_t k = 0; k < run->n; k++) {
        for (int64_t j = 0; j < run->in; j++) {
            double sum = dx[k * run->in + j];
            for (int64_t i = 0; i < run->out; i++) {
                sum += dy[k * run->out + i] * run->w0[i * run->in + j];
            }
            compare(run, DX, sum, want_dx[k * run->in + j]);
        }
    }
    meet_all(run, "d", t, BL_BUFFER_GRADIENTS, GRADIENTS);
    need(run, bl_step(run->adapter, number(run, "lr"), 1));
    meet_all(run, "", t + 1, BL_BUFFER_PARAMETERS, PARAMETERS);
    meet_all(run, "m", t + 1, BL_BUFFER_M, M);
    meet_all(run, "v", t + 1, BL_BUFFER_V, V);
    free(x);
    free(y);
    free(dx);
    free(dy);
    free(want_y);
    free(want_dx);
}

static int report(struct run *run)
{
    int wrong = 0;
    printf("%s:", run->path);
    for (int q = 0; q < QUANTITIES; q++) {
        double relative = run->error[q] / run->size[q];
        int    bad = !(relative <= LIMIT);
        printf(" %s %.1e%s", quantity_names[q], relative, bad ? " (WRONG)" : "");
        wrong |= bad;
    }
    putchar('\n');
    if (run->used != bl_safetensors_get_count(run->file)) {
        printf("%s: %lld of %lld tensors were compared\n", run->path,
               (long long) run->used, (long long) bl_safetensors_get_count(run->file));
        wrong = 1;
    }
    return wrong;
}

static int replay(const char *path)
{
    struct run run = { .path = path };
    open_run(&run);
    for (int64_t t = 0; t < run.steps; t++) {
        replay_step(&run, t);
    }
    double *merged = read_tensor(&run, "merged", -1, NULL, NULL);
    double *w = malloc((size_t) (run.out * run.in) * sizeof *w);
    if (w == NULL) {
        fail(&run, "out of memory");
    }
    memcpy(w, run.w0, (size_t) (run.out * run.in) * sizeof *w);
    need(&run, bl_adapter_merge(run.adapter, w, run.in));
    for (int64_t i = 0; i < run.out * run.in; i++) {
        compare(&run, MERGED, w[i], merged[i]);
    }
    const int wrong = report(&run);
    bl_tape_free(run.tape);
    bl_adapter_free(run.adapter);
    bl_safetensors_close(run.file);
    free(merged);
    free(w);
    free(run.w0);
    free(run.bias);
    return wrong;
}

int main(int argc, char **argv)
{
    int wrong = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: dora_replay FILE...\n");
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        wrong |= replay(argv[i]);
    }
    return wrong;
}
