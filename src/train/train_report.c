/* What a training came to, on stdout: lines for people and, with --json, one for programs. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "train/train.h"

static void print_number(const char *key, int known, double value)
{
    if (known && isfinite(value)) {
        printf("\"%s\":%.17g,", key, value);
    } else {
        printf("\"%s\":null,", key);
    }
}

static double train_loss(const struct totals *totals)
{
    return totals->loss_count > 0 ? totals->loss_sum / (double) totals->loss_count
                                  : (double) NAN;
}

/* Ranks that move between modules: AdaLoRA's that its newest mask left, or all */
struct kept {
    int64_t sum, all, least, most;
};

static struct kept count_kept(bl_group *group)
{
    struct kept kept = { .least = INT64_MAX };

    for (int64_t i = 0; i < bl_group_get_count(group); i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, i);
        int64_t           here = bl_adapter_get_kept(adapter);

        kept.sum += here;
        kept.all += bl_adapter_get_capacity(adapter);
        kept.least = here < kept.least ? here : kept.least;
        kept.most = here > kept.most ? here : kept.most;
    }
    return kept;
}

static int ranks_move(const struct train *train)
{
    const bl_options *o = &train->options;

    return train->full == NULL && (o->method == BL_METHOD_ADALORA ||
                                   (o->reallocation && o->scope == BL_SCOPE_GLOBAL));
}

static void report_json(const struct train *train)
{
    const struct totals *t = &train->totals;
    int                  evaluated = train->eval_path != NULL;

    printf("{\"steps\":%" PRId64 ",", train->steps);
    print_number("train_loss", 1, train_loss(t));
    print_number("eval_loss", evaluated, t->after.loss);
    print_number("eval_loss_before", evaluated, t->before.loss);
    if (t->before.examples > 0) {
        printf("\"examples\":%" PRId64 ",\"exact\":%" PRId64 ",\"exact_before\":%" PRId64
               ",",
               t->after.examples, t->after.exact, t->before.exact);
    }
    printf("\"skipped_steps\":%" PRId64 ",\"reallocations\":%" PRId64
           ",\"reallocated_ranks\":%" PRId64 ",",
           t->skipped, t->reallocations, t->moved);
    if (ranks_move(train)) {
        printf("\"kept_ranks\":%" PRId64 ",", count_kept(train->adapters.group).sum);
    }
    print_number("memory_predicted", 1, footprint_total(&train->footprint));
    print_number("memory_peak", memory_peak() > 0, memory_peak());
    printf("\"tokens_per_second\":%.1f}\n", progress_tokens_per_second(&train->progress));
}

static double share(const struct evaluation *evaluation)
{
    return 100 * (double) evaluation->exact / (double) evaluation->examples;
}

void train_report(const struct train *train)
{
    const struct totals *t = &train->totals;

    if (train->full != NULL) {
        printf("method           full, seed %" PRIu64 "\n", train->options.seed);
    } else {
        printf("method           %s, rank %" PRId64 ", seed %" PRIu64 "\n",
               settings_method_name(&train->settings), train->options.rank,
               train->options.seed);
    }
    printf("steps            %" PRId64 ", %" PRId64 " predicted tokens, %" PRId64
           " skipped\n",
           train->steps, t->tokens, t->skipped);
    if (train->options.reallocation) {
        printf("reallocations    %" PRId64 ", %" PRId64 " ranks\n", t->reallocations,
               t->moved);
    }
    if (ranks_move(train)) {
        const struct kept kept = count_kept(train->adapters.group);
        const int         masked = train->options.method == BL_METHOD_ADALORA;

        printf("ranks %-10s %" PRId64 " of %" PRId64 ", %" PRId64 " to %" PRId64
               " in an adapter\n",
               masked ? "kept" : "", kept.sum, kept.all, kept.least, kept.most);
    }
    if (train->full != NULL) {
        printf("trainable        %" PRId64 " parameters, all of the model\n",
               full_parameters(train->full));
    } else {
        printf("trainable        %" PRId64 " parameters in %" PRId64 " adapters\n",
               adapters_parameters(&train->adapters),
               bl_group_get_count(train->adapters.group));
    }
    printf("training loss    %.6f (mean of the last %" PRId64 " steps)\n", train_loss(t),
           t->loss_count);
    if (train->eval_path != NULL) {
        printf("evaluation loss  %.6f, before %.6f (%" PRId64 " tokens)\n", t->after.loss,
               t->before.loss, t->after.predicted);
    }
    if (t->before.examples > 0) {
        printf("accuracy         %.1f %%, before %.1f %% (%" PRId64
               " examples completed exactly)\n",
               share(&t->after), share(&t->before), t->after.examples);
    }
    printf("memory           %.2f GiB predicted, %.2f at most\n",
           footprint_total(&train->footprint) / 0x1p30, memory_peak() / 0x1p30);
    printf("%s          %s\n", train->full != NULL ? "model  " : "adapter",
           train->folder.path != NULL ? train->folder.path : "not written (no --out)");
    if (train->json) {
        report_json(train);
    }
}
