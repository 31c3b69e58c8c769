/*
 * The memory of a pass, laid out in one block, and the adapters' tapes. Kept for the
 * backward are, per row and layer, 2 dim + 2 query + 2 key + 2 hidden + heads + 2 floats;
 * with LLAMA_RECOMPUTE dim, and the rest for one layer.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "model/llama_pass.h"

#define LOGITS (16 << 20) /* floats of logits at a time, about */
#define LEAST_HEAD_ROWS 64
#define TURN 16 /* rows that a thread takes at a time */

/* ===== Tapes ============================================================== */

int llama_output_stays(int projection)
{
    return projection == LLAMA_V || projection == LLAMA_GATE || projection == LLAMA_UP;
}

int llama_tapes_create(bl_tape ***out, const struct llama *model,
                       const struct llama_adapters *adapters, int64_t max_n, int keep,
                       char *error, size_t size)
{
    int64_t   count = model->config.layers * LLAMA_PROJECTIONS;
    bl_tape **tapes;

    *out = NULL;
    if (!adapters) {
        return 0;
    }
    tapes = calloc((size_t) count, sizeof(bl_tape *));
    if (!tapes) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        int kept = llama_output_stays((int) (i % LLAMA_PROJECTIONS)) ? BL_KEEP_BUT_Y
                                                                     : BL_KEEP_ALL;

        if (adapters->at[i] && bl_tape_create(&tapes[i], adapters->at[i], max_n,
                                              keep ? kept : BL_KEEP_NOTHING) != 0) {
            snprintf(error, size, "%s: %s", bl_adapter_get_name(adapters->at[i]),
                     bl_last_error());
            llama_tapes_free(tapes, model);
            return -1;
        }
    }
    *out = tapes;
    return 0;
}

void llama_tapes_free(bl_tape **tapes, const struct llama *model)
{
    for (int64_t i = 0; tapes && i < model->config.layers * LLAMA_PROJECTIONS; i++) {
        bl_tape_free(tapes[i]);
    }
    free(tapes);
}

/* ===== Memory ============================================================= */

/* Carves arrays out of one block; with base NULL only counts. */
struct carver {
    float *base;
    size_t count;
    int    overflow;
};

static float *carve(struct carver *carver, int64_t rows, int64_t columns)
{
    /* Lines of 64 bytes, so that no two arrays share one. */
    const size_t most = SIZE_MAX / sizeof(float) / 2;
    float       *here = carver->base ? carver->base + carver->count : NULL;
    size_t       n = (size_t) rows, width = (size_t) columns;

    if (n > 0 && width > (most - carver->count - 16) / n) {
        carver->overflow = 1;
        return NULL;
    }
    carver->count += (n * width + 15) / 16 * 16;
    return here;
}

static int shares_kept(const struct llama_pass *pass)
{
    return !(pass->flags & LLAMA_KEEP) || (pass->flags & LLAMA_RECOMPUTE);
}

static void lay_out_kept(struct llama_pass *pass, struct carver *carver)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->max_batch * pass->max_context;
    int64_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;

    for (int64_t l = 0; l < c->layers; l++) {
        struct llama_kept *kept = &pass->kept[l];
        if (l > 0 && shares_kept(pass)) {
            *kept = pass->kept[0];
            continue;
        }
        kept->attention_inverse = carve(carver, n, 1);
        kept->ffn_inverse = carve(carver, n, 1);
        kept->q = carve(carver, n, query);
        kept->k = carve(carver, n, key);
        kept->v = carve(carver, n, key);
        kept->lse = carve(carver, n, c->heads);
        kept->mixed = carve(carver, n, query);
        kept->middle = carve(carver, n, c->dim);
        kept->gate = carve(carver, n, c->hidden);
        kept->up = carve(carver, n, c->hidden);
    }
    for (int64_t l = 0; l <= c->layers; l++) {
        pass->residual[l] = l == 0 || pass->flags & LLAMA_KEEP ? carve(carver, n, c->dim)
                                                               : pass->residual[0];
    }
}

/* What is used by a half layer or by the head, never by two of them at once. */
static void lay_out_shared(struct llama_pass *pass, struct carver *carver)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->max_batch * pass->max_context;
    int64_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;
    size_t  start = carver->count, most;

    pass->logits = carve(carver, pass->head_rows, c->vocab);
    most = carver->count;
    carver->count = start;
    pass->active = carve(carver, n, c->hidden);
    if (pass->flags & LLAMA_KEEP) {
        pass->d_active = carve(carver, n, c->hidden);
        most = carver->count > most ? carver->count : most;
        carver->count = start;
        pass->d_mixed = carve(carver, n, query);
        pass->d_q = carve(carver, n, query);
        pass->d_k = carve(carver, n, key);
        pass->d_v = carve(carver, n, key);
    }
    carver->count = carver->count > most ? carver->count : most;
}

static void lay_out(struct llama_pass *pass, struct carver *carver)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->max_batch * pass->max_context;
    int64_t                    threads = threads_count(pass->model->threads);

    lay_out_kept(pass, carver);
    pass->rope = carve(carver, pass->max_context, c->head_dim);
    pass->normed = carve(carver, n, c->dim);
    pass->branch = carve(carver, n, c->dim);
    pass->attention_scratch =
        carve(carver, threads * ATTENTION_SCRATCH_ROWS, pass->max_context);
    pass->weight_scratch =
        carve(carver, threads * WEIGHT_BLOCK_ROWS, llama_weight_columns(c));
    pass->final_inverse = carve(carver, n, 1);
    pass->row_loss = (double *) carve(carver, n, 2);
    pass->logits_lse = carve(carver, n, 1);
    if (pass->flags & LLAMA_KEEP) {
        pass->d_residual = carve(carver, n, c->dim);
        pass->d_normed = carve(carver, n, c->dim);
    }
    lay_out_shared(pass, carver);
}

static int64_t head_rows(const struct llama_pass *pass)
{
    int64_t n = pass->max_batch * pass->max_context;
    int64_t rows = LOGITS / pass->model->config.vocab;

    rows = rows < LEAST_HEAD_ROWS ? LEAST_HEAD_ROWS : rows;
    return rows > n || pass->flags & LLAMA_LOGITS ? n : rows;
}

int64_t llama_weight_columns(const struct llama_config *config)
{
    int64_t most = config->heads * config->head_dim;

    most = config->dim > most ? config->dim : most;
    return config->hidden > most ? config->hidden : most;
}

static int64_t lowest_layer(const struct llama          *model,
                            const struct llama_adapters *adapters)
{
    int64_t i = 0, count = model->config.layers * LLAMA_PROJECTIONS;
    while (adapters && i < count && !adapters->at[i]) {
        i++;
    }
    return adapters ? i / LLAMA_PROJECTIONS : model->config.layers;
}

static int has_dora(const bl_group *group)
{
    bl_options options = { .size = sizeof options };

    return bl_group_copy_options(group, &options) == 0 && options.dora;
}

int llama_pass_create(struct llama_pass **out, const struct llama *model,
                      const struct llama_adapters *adapters, int64_t batch,
                      int64_t context, int flags, char *error, size_t size)
{
    struct carver      carver = { NULL, 0, 0 };
    size_t             layers = (size_t) model->config.layers;
    struct llama_pass *pass;

    if (batch < 1 || context < 1 || batch > INT_MAX / context) {
        snprintf(error, size,
                 "batch %lld and context %lld: both must be 1 or more, their "
                 "product at most %d",
                 (long long) batch, (long long) context, INT_MAX);
        return -1;
    }
    pass = calloc(1, sizeof *pass);
    if (!pass) {
        goto no_memory;
    }
    pass->model = model;
    pass->adapters = adapters;
    pass->max_batch = batch;
    pass->max_context = context;
    pass->flags = flags;
    pass->head_rows = head_rows(pass);
    pass->lowest = lowest_layer(model, adapters);
    pass->dora = adapters && has_dora(adapters->group);
    pass->kept = calloc(layers, sizeof *pass->kept);
    pass->residual = calloc(layers + 1, sizeof *pass->residual);
    pass->ids = calloc((size_t) (batch * context), sizeof *pass->ids);
    pass->targets = calloc((size_t) (batch * context), sizeof *pass->targets);
    pass->best = calloc((size_t) (batch * context), sizeof *pass->best);
    if (!pass->kept || !pass->residual || !pass->ids || !pass->targets || !pass->best) {
        goto no_memory;
    }
    lay_out(pass, &carver);
    if (carver.overflow) {
        goto no_memory;
    }
    pass->block = malloc(carver.count * sizeof *pass->block);
    if (!pass->block) {
        goto no_memory;
    }
    carver.base = pass->block;
    carver.count = 0;
    lay_out(pass, &carver);
    rope_table(pass->rope, context, model->config.head_dim, model->config.rope_theta,
               &model->config.rope_scaling);
    if (llama_tapes_create(&pass->tapes, model, adapters, batch * context,
                           flags & LLAMA_KEEP, error, size) != 0) {
        llama_pass_free(pass);
        return -1;
    }
    *out = pass;
    return 0;

no_memory:
    snprintf(error, size, "out of memory for windows of %lld x %lld tokens",
             (long long) batch, (long long) context);
    llama_pass_free(pass);
    return -1;
}

double llama_pass_bytes(const struct llama *model, int64_t batch, int64_t context,
                        int flags)
{
    struct llama_pass pass = {
        .model = model, .max_batch = batch, .max_context = context, .flags = flags
    };
    struct carver carver = { NULL, 0, 0 };
    size_t        layers = (size_t) model->config.layers;
    double        bytes = INFINITY;

    pass.kept = calloc(layers, sizeof *pass.kept);
    pass.residual = calloc(layers + 1, sizeof *pass.residual);
    if (pass.kept && pass.residual && batch <= INT_MAX / context) {
        pass.head_rows = head_rows(&pass);
        lay_out(&pass, &carver);
        if (!carver.overflow) {
            bytes = (double) carver.count * sizeof(float) +
                    (double) (batch * context) *
                        (sizeof *pass.ids + sizeof *pass.targets + sizeof *pass.best);
        }
    }
    free(pass.residual);
    free(pass.kept);
    return bytes;
}

void llama_pass_free(struct llama_pass *pass)
{
    if (!pass) {
        return;
    }
    llama_tapes_free(pass->tapes, pass->model);
    free(pass->block);
    free(pass->best);
    free(pass->targets);
    free(pass->ids);
    free(pass->residual);
    free(pass->kept);
    free(pass);
}

const float *llama_pass_logits(const struct llama_pass *pass)
{
    return pass->logits;
}

const uint8_t *llama_pass_best(const struct llama_pass *pass)
{
    return pass->best;
}

/* ===== Rows =============================================================== */

struct rows {
    struct llama_pass *pass;
    int64_t            layer, n;
    llama_rows_fn      task;
};

static void run_rows(void *context, int64_t i)
{
    const struct rows *rows = context;
    int64_t            left = rows->n - i * TURN;

    rows->task(rows->pass, rows->layer, i * TURN, left < TURN ? left : TURN);
}

void llama_pass_run(struct llama_pass *pass, int64_t layer, llama_rows_fn task)
{
    struct rows rows = { pass, layer, pass->batch * pass->length, task };

    threads_run(pass->model->threads, (rows.n + TURN - 1) / TURN, run_rows, &rows);
}
