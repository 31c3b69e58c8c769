/*
 * adalora_replay FILE...: repeat recorded trainings of PEFT's AdaLoRA
 * (test/golden/adalora/README.md) through the public API and compare what comes out:
 * outputs, gradients with the penalty, the penalty, parameters, moments, averages, masks
 * and ranks, the merged weight.
 *
 *     loss = sum over layers of 0.5 sum((Y - T)^2) / batch + penalty
 *
 * The error of a quantity is max|x - ref| over all its tensors of a run, divided by
 * max|ref| over the same. Exit status: 0 all files agree, 1 one does not or cannot be
 * read, 2 usage.
 */
#include "beamlora.h"
#include "beamlora_io.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT 1e-10
#define MODULES 3
#define LARGEST 4096 /* of any tensor here */

enum {
    Q_Y,
    Q_DX,
    Q_GRADIENT,
    Q_PENALTY,
    Q_PARAMETER,
    Q_MOMENT,
    Q_AVERAGE,
    Q_MERGED,
    Q_COUNT
};

static const char *const quantity_names[Q_COUNT] = { "Y",       "dX",        "gradient",
                                                     "penalty", "parameter", "moment",
                                                     "average", "merged" };

struct quantity {
    double  error, largest;
    int64_t tensors;
};

struct replay {
    const char     *path;
    bl_safetensors *file;
    int64_t         used; /* tensors of the file that took part */
    int64_t         in[MODULES], out[MODULES], rank, batch, steps;
    double          clip, lr;
    bl_group       *group;
    bl_tape        *tapes[MODULES];
    double          w0[MODULES][LARGEST];
    struct quantity q[Q_COUNT];
    int64_t         masks; /* compared */
};

static void die(const struct replay *r, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

static void die(const struct replay *r, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", r->path);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

static void must(const struct replay *r, int code)
{
    if (code != 0) {
        die(r, "%s / %s", bl_last_error(), bl_io_last_error());
    }
}

/* ===== The file =========================================================== */

static double number(const struct replay *r, const char *key)
{
    const char *text = bl_safetensors_get_metadata(r->file, key);
    char       *end;
    if (text == NULL) {
        die(r, "metadata has no \"%s\"", key);
    }
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) {
        die(r, "metadata's \"%s\" is no number: \"%.60s\"", key, text);
    }
    return value;
}

/* Tensor `name` of [count] elements; 0: the file has none. */
static int tensor(struct replay *r, double *out, int64_t count, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int tensor(struct replay *r, double *out, int64_t count, const char *format, ...)
{
    char           name[80];
    bl_tensor_info info;
    va_list        args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    int64_t index = bl_safetensors_find(r->file, name);
    if (index < 0) {
        return 0;
    }
    must(r, bl_safetensors_get_tensor(r->file, index, &info));
    int64_t cols = info.dims == 2 ? info.shape[1] : 1;
    if (info.shape[0] * cols != count || count > LARGEST) {
        die(r, "%s has %lld elements, must have %lld", name,
            (long long) (info.shape[0] * cols), (long long) count);
    }
    if (info.dtype == BL_U8) {
        const uint8_t *bytes = info.data;
        for (int64_t i = 0; i < count; i++) {
            out[i] = bytes[i];
        }
    } else {
        must(r, bl_safetensors_copy(r->file, index, BL_F64, out,
                                    info.dims == 2 ? cols : count));
    }
    r->used++;
    return 1;
}

static void compare(struct replay *r, int which, const double *got, const double *ref,
                    int64_t count)
{
    struct quantity *q = &r->q[which];
    for (int64_t i = 0; i < count; i++) {
        double error = fabs(got[i] - ref[i]);
        q->error = error <= q->error ? q->error : error; /* a NaN stays */
        q->largest = fmax(q->largest, fabs(ref[i]));
    }
    q->tensors++;
}

/* ===== One run ============================================================ */

static void open_run(struct replay *r)
{
    static const char *const names[MODULES] = { "layers.0", "layers.1", "layers.2" };
    bl_spec                  specs[MODULES] = { { 0 } };
    bl_options               o;
    const char              *dims = bl_safetensors_get_metadata(r->file, "dims");
    long long                d[2 * MODULES];
    if (dims == NULL || sscanf(dims, "[[%lld, %lld], [%lld, %lld], [%lld, %lld]]", &d[0],
                               &d[1], &d[2], &d[3], &d[4], &d[5]) != 2 * MODULES) {
        die(r, "dims are not those of %d layers", MODULES);
    }
    r->batch = (int64_t) number(r, "batch");
    r->steps = (int64_t) number(r, "steps");
    r->rank = (int64_t) number(r, "init_r");
    r->clip = number(r, "clip");
    r->lr = number(r, "lr");
    must(r, bl_options_init(&o, sizeof o));
    o.method = BL_METHOD_ADALORA;
    o.parameter_dtype = o.activation_dtype = BL_F64;
    o.rank = r->rank;
    o.alpha = number(r, "lora_alpha");
    o.weight_decay = number(r, "weight_decay");
    o.total_steps = (int64_t) number(r, "total_step");
    o.target_rank = (int64_t) number(r, "target_r");
    o.tinit = (int64_t) number(r, "tinit");
    o.tfinal = (int64_t) number(r, "tfinal");
    o.delta_t = (int64_t) number(r, "deltaT");
    o.sensitivity_beta = number(r, "beta1");
    o.uncertainty_beta = number(r, "beta2");
    o.orth_reg_weight = number(r, "orth_reg_weight");
    for (int64_t i = 0; i < MODULES; i++) {
        r->in[i] = d[2 * i];
        r->out[i] = d[2 * i + 1];
        specs[i].size = sizeof specs[i];
        specs[i].in_features = r->in[i];
        specs[i].out_features = r->out[i];
        specs[i].name = names[i];
        if (!tensor(r, r->w0[i], r->in[i] * r->out[i], "m%d.W0", (int) i)) {
            die(r, "m%d.W0 is not there", (int) i);
        }
    }
    must(r, bl_group_create(&r->group, specs, MODULES, &o));
    for (int64_t i = 0; i < MODULES; i++) {
        must(r, bl_tape_create(&r->tapes[i], bl_group_get_adapter(r->group, i), r->batch,
                               1));
    }
}

/* What the file keeps of A [r, in], B [out, r] and E [r, 1] in one of the buffers: written
 * to it if `set`, else compared. */
static void visit(struct replay *r, int32_t buffer, const char *prefix, int64_t step,
                  int which, int set)
{
    static const int32_t tensors[] = { BL_TENSOR_A, BL_TENSOR_B, BL_TENSOR_SCORES };
    static const char    letters[] = "ABE";
    double               ref[LARGEST], got[LARGEST];
    for (int64_t i = 0; i < MODULES; i++) {
        for (int k = 0; k < 3; k++) {
            bl_adapter *adapter = bl_group_get_adapter(r->group, i);
            bl_view     view;
            must(r, bl_adapter_get_view(adapter, tensors[k], buffer, &view));
            int64_t count = view.rows * view.cols;
            double *data = view.data;
            if (!tensor(r, ref, count, "m%d.%s%c%d", (int) i, prefix, letters[k],
                        (int) step)) {
                continue;
            }
            for (int64_t j = 0; j < count; j++) {
                /* B is kept transposed */
                int64_t at = tensors[k] == BL_TENSOR_B
                                 ? j % view.rows * view.cols + j / view.rows
                                 : j;
                if (set) {
                    data[at] = ref[j];
                }
                got[j] = data[at];
            }
            compare(r, which, got, ref, count);
        }
    }
}

static void run_module(struct replay *r, int64_t i, int64_t step)
{
    const int64_t n = r->batch, in = r->in[i], out = r->out[i];
    bl_adapter   *adapter = bl_group_get_adapter(r->group, i);
    double        x[LARGEST], y[LARGEST], t[LARGEST], dx[LARGEST], ref[LARGEST];
    const double *w = r->w0[i];
    if (!tensor(r, x, n * in, "m%d.X%d", (int) i, (int) step) ||
        !tensor(r, t, n * out, "m%d.T%d", (int) i, (int) step) ||
        !tensor(r, ref, n * out, "m%d.Y%d", (int) i, (int) step)) {
        die(r, "step %d of layer %d is not there", (int) step, (int) i);
    }
    for (int64_t k = 0; k < n * out; k++) {
        y[k] = 0;
        for (int64_t j = 0; j < in; j++) {
            y[k] += x[k / out * in + j] * w[k % out * in + j];
        }
    }
    must(r, bl_forward(adapter, r->tapes[i], n, y, out, x, in, BL_NO_DROPOUT));
    compare(r, Q_Y, y, ref, n * out);
    for (int64_t k = 0; k < n * out; k++) {
        y[k] = (y[k] - t[k]) / (double) n;
    }
    for (int64_t k = 0; k < n * in; k++) {
        dx[k] = 0;
        for (int64_t j = 0; j < out; j++) {
            dx[k] += y[k / in * out + j] * w[j * in + k % in];
        }
    }
    must(r, bl_backward(adapter, r->tapes[i], n, dx, in, y, out, x, in));
    if (tensor(r, ref, n * in, "m%d.dX%d", (int) i, (int) step)) {
        compare(r, Q_DX, dx, ref, n * in);
    }
}

/* Masks are flags: they are equal or not. */
static void check_masks(struct replay *r, int64_t step)
{
    for (int64_t i = 0; i < MODULES; i++) {
        bl_adapter *adapter = bl_group_get_adapter(r->group, i);
        double      ref[LARGEST];
        bl_view     e;
        int64_t     kept = 0;
        if (!tensor(r, ref, r->rank, "m%d.kept%d", (int) i, (int) step)) {
            continue;
        }
        must(r, bl_adapter_get_view(adapter, BL_TENSOR_SCORES, BL_BUFFER_PARAMETERS, &e));
        for (int64_t k = 0; k < r->rank; k++) {
            const double *values = e.data;
            kept += ref[k] == 1;
            if ((values[k] == 0) != (ref[k] == 0)) {
                die(r, "step %d: rank %d of layer %d is %s, must be %s", (int) step,
                    (int) k, (int) i, values[k] == 0 ? "masked" : "kept",
                    ref[k] == 0 ? "masked" : "kept");
            }
        }
        if (bl_adapter_get_kept(adapter) != kept) {
            die(r, "step %d: layer %d keeps %d ranks, must keep %d", (int) step, (int) i,
                (int) bl_adapter_get_kept(adapter), (int) kept);
        }
        r->masks++;
    }
}

static void run_step(struct replay *r, int64_t step)
{
    double factor = 1, penalty;
    for (int64_t i = 0; i < MODULES; i++) {
        run_module(r, i, step);
    }
    if (r->clip > 0 || step % 2 == 0) { /* else the step adds the penalty */
        double norm;
        must(r, bl_group_add_penalty(r->group, 1));
        visit(r, BL_BUFFER_GRADIENTS, "d", step, Q_GRADIENT, 0);
        must(r, bl_group_copy_gradient_norm(r->group, &norm));
        factor = r->clip > 0 ? fmin(1, r->clip / (norm + 1e-6)) : 1;
    }
    must(r, bl_group_step(r->group, r->lr, factor));
    double got = bl_group_get_penalty(r->group);
    if (tensor(r, &penalty, 1, "penalty%d", (int) step)) {
        compare(r, Q_PENALTY, &got, &penalty, 1);
    }
    visit(r, BL_BUFFER_PARAMETERS, "", step + 1, Q_PARAMETER, 0);
    visit(r, BL_BUFFER_M, "m", step + 1, Q_MOMENT, 0);
    visit(r, BL_BUFFER_V, "v", step + 1, Q_MOMENT, 0);
    visit(r, BL_BUFFER_SENSITIVITY, "s", step + 1, Q_AVERAGE, 0);
    visit(r, BL_BUFFER_UNCERTAINTY, "u", step + 1, Q_AVERAGE, 0);
    check_masks(r, step + 1);
}

static int finish(struct replay *r)
{
    int failed = 0;
    for (int64_t i = 0; i < MODULES; i++) {
        double  ref[LARGEST], w[LARGEST] = { 0 };
        int64_t count = r->in[i] * r->out[i];
        if (tensor(r, ref, count, "m%d.delta", (int) i)) {
            must(r, bl_adapter_merge(bl_group_get_adapter(r->group, i), w, r->in[i]));
            compare(r, Q_MERGED, w, ref, count);
        }
    }
    printf("%s: %lld steps, %lld masks\n", r->path, (long long) r->steps,
           (long long) r->masks);
    for (int k = 0; k < Q_COUNT; k++) {
        const struct quantity *q = &r->q[k];
        /* without weight the penalty is 0 */
        double relative = q->largest > 0 ? q->error / q->largest : q->error;
        int    bad = !(relative <= LIMIT) || q->tensors == 0;
        printf("  %-10s %.1e in %lld tensors%s\n", quantity_names[k], relative,
               (long long) q->tensors, bad ? "  FAILED" : "");
        failed |= bad;
    }
    if (r->used != bl_safetensors_get_count(r->file) || r->masks == 0) {
        printf("  %lld of %lld tensors were compared, %lld masks  FAILED\n",
               (long long) r->used, (long long) bl_safetensors_get_count(r->file),
               (long long) r->masks);
        failed = 1;
    }
    return failed;
}

static int replay(const char *path)
{
    static struct replay r;
    memset(&r, 0, sizeof r);
    r.path = path;
    if (bl_safetensors_open(&r.file, path) != 0) {
        die(&r, "%s", bl_io_last_error());
    }
    open_run(&r);
    visit(&r, BL_BUFFER_PARAMETERS, "", 0, Q_PARAMETER, 1);
    must(&r, bl_group_touch(r.group));
    for (int64_t step = 0; step < r.steps; step++) {
        run_step(&r, step);
    }
    int failed = finish(&r);
    for (int64_t i = 0; i < MODULES; i++) {
        bl_tape_free(r.tapes[i]);
    }
    bl_group_free(r.group);
    bl_safetensors_close(r.file);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: adalora_replay FILE...\n");
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        failed |= replay(argv[i]);
    }
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
