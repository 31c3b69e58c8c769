/*
 * The head and the loss, by blocks of rows: logits [rows, vocab] are made, give the loss
 * and turn into their gradient, and that into the normed stream's, before the next block's
 * take their place. With frozen weights all of this is done in the forward, for the sum of
 * the losses; what its scale is, the backward knows. Where the weights are trained the
 * backward makes the logits again, since the head's gradient cannot be scaled afterwards.
 */
#include "base/threads.h"
#include "model/llama_pass.h"

#define TURN 4 /* rows that a thread takes at a time */

struct block {
    struct llama_pass *pass;
    int64_t            first, rows; /* of all n */
    float             *logits;
    int                gradient; /* is wanted, times */
    double             scale;
};

/* Is the target the id with the largest logit, of equals the lowest? Not if any is NaN. */
static uint8_t is_best(const float *logits, int64_t vocab, int32_t target)
{
    float best = logits[target];

    for (int32_t i = 0; i < target; i++) {
        if (!(logits[i] < best)) {
            return 0;
        }
    }
    for (int64_t i = target; i < vocab; i++) {
        if (!(logits[i] <= best)) {
            return 0;
        }
    }
    return 1;
}

static void lose_rows(void *context, int64_t turn)
{
    const struct block *block = context;
    struct llama_pass  *pass = block->pass;
    int64_t             vocab = pass->model->config.vocab, end = (turn + 1) * TURN;

    for (int64_t i = turn * TURN; i < (end < block->rows ? end : block->rows); i++) {
        int64_t        row = block->first + i;
        float         *logits = block->logits + i * vocab;
        const int32_t *target = pass->targets + row;

        pass->row_loss[row] =
            cross_entropy_forward(pass->logits_lse + row, logits, target, 1, vocab);
        if (block->gradient) {
            cross_entropy_backward(logits, pass->logits_lse + row, target, 1, vocab,
                                   block->scale);
        } else {
            pass->best[row] = *target >= 0 && is_best(logits, vocab, *target);
        }
    }
}

/* The loss of all rows, and where it is wanted the gradient of scale times their sum. */
static void lose(struct llama_pass *pass, int gradient, double scale)
{
    const struct llama        *model = pass->model;
    const struct llama_config *c = &model->config;
    int64_t                    n = pass->batch * pass->length;
    struct block block = { .pass = pass, .gradient = gradient, .scale = scale };

    for (; block.first < n; block.first += block.rows) {
        float *normed = pass->normed + block.first * c->dim;

        block.rows =
            n - block.first < pass->head_rows ? n - block.first : pass->head_rows;
        block.logits = pass->logits;
        weight_forward(model->threads, block.logits, normed, &model->head, block.rows,
                       c->vocab, c->dim, pass->weight_scratch);
        threads_run(model->threads, (block.rows + TURN - 1) / TURN, lose_rows, &block);
        if (gradient) {
            weight_backward(model->threads, pass->d_normed + block.first * c->dim,
                            block.logits, &model->head, block.rows, c->vocab, c->dim, 0,
                            pass->weight_scratch);
        }
        if (gradient && llama_trains_weights(pass)) {
            weight_gradient(model->threads, pass->gradients.head, block.logits, normed,
                            block.rows, c->vocab, c->dim);
        }
    }
}

void llama_head_forward(struct llama_pass *pass, double *sum)
{
    int64_t n = pass->batch * pass->length;
    int     wanted = pass->flags & LLAMA_KEEP && !llama_trains_weights(pass) &&
                 pass->lowest < pass->model->config.layers;

    lose(pass, wanted, 1);
    *sum = 0;
    for (int64_t i = 0; i < n; i++) {
        *sum += pass->row_loss[i];
    }
}

void llama_head_backward(struct llama_pass *pass, double scale)
{
    const struct llama_config *c = &pass->model->config;
    int64_t                    n = pass->batch * pass->length;

    if (llama_trains_weights(pass)) {
        lose(pass, 1, scale);
        rmsnorm_weight_backward(pass->gradients.final_norm, pass->d_normed,
                                pass->final_inverse, pass->residual[c->layers], n,
                                c->dim);
        return;
    }
    for (int64_t i = 0; i < n * c->dim; i++) {
        pass->d_normed[i] *= (float) scale;
    }
}
