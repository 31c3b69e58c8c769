/* Lines of the run folder; docs/run.md fixes what is in them. */
#include <math.h>
#include <stdlib.h>

#include "train/train.h"

static int append(struct train *train, enum folder_lines lines, json_t *object)
{
    if (object == NULL) {
        snprintf(train->error, sizeof train->error, "%s: out of memory for a line",
                 train->folder.path);
        return -1;
    }
    return folder_append(&train->folder, lines, object, train->error,
                         sizeof train->error);
}

static int kept(const struct train *train)
{
    return train->folder.path != NULL;
}

int train_log_step(struct train *train, const struct train_step_result *result)
{
    json_t *line;

    if (!kept(train)) {
        return 0;
    }
    line = json_pack("{sI so sf so sI}", "step", (json_int_t) train->totals.step, "loss",
                     folder_real(result->loss), "lr", result->lr, "gradient_norm",
                     folder_real(result->gradient_norm), "tokens",
                     (json_int_t) result->tokens);
    if (line != NULL && train->options.method == BL_METHOD_ADALORA) {
        json_object_set_new(line, "penalty", folder_real(result->penalty));
    }
    if (line != NULL && result->skipped) {
        json_object_set_new(line, "skipped", json_true());
    }
    return append(train, FOLDER_LOG, line);
}

int train_log_eval(struct train *train, const struct evaluation *evaluation)
{
    json_t *numbers;

    if (!kept(train)) {
        return 0;
    }
    numbers = json_pack("{so sI}", "loss", folder_real(evaluation->loss), "tokens",
                        (json_int_t) evaluation->predicted);
    if (numbers != NULL && evaluation->examples > 0) {
        json_object_set_new(numbers, "examples", json_integer(evaluation->examples));
        json_object_set_new(numbers, "exact", json_integer(evaluation->exact));
    }
    return append(
        train, FOLDER_LOG,
        json_pack("{sI so}", "step", (json_int_t) train->totals.step, "eval", numbers));
}

int train_log_modules(struct train *train)
{
    bl_group *group = train->adapters.group;
    json_t   *modules;

    if (!kept(train) || group == NULL) {
        return 0;
    }
    modules = json_array();
    for (int64_t i = 0; i < bl_group_get_count(group); i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, i);

        json_array_append_new(
            modules, json_pack("{ss sI sI sI sI}", "name", bl_adapter_get_name(adapter),
                               "in", (json_int_t) bl_adapter_get_in(adapter), "out",
                               (json_int_t) bl_adapter_get_out(adapter), "rank",
                               (json_int_t) bl_adapter_get_rank(adapter), "capacity",
                               (json_int_t) bl_adapter_get_capacity(adapter)));
    }
    return append(train, FOLDER_RANKS, json_pack("{so}", "modules", modules));
}

typedef int (*copy_fn)(const bl_adapter *adapter, double *values);

/* [[...], ...]: a number for every rank of every module; NULL without memory. */
static json_t *rank_values(bl_group *group, copy_fn copy)
{
    json_t *modules = json_array();

    for (int64_t i = 0; modules != NULL && i < bl_group_get_count(group); i++) {
        const bl_adapter *adapter = bl_group_get_adapter(group, i);
        int64_t           rank = bl_adapter_get_rank(adapter);
        double           *values = calloc((size_t) rank, sizeof *values);
        json_t           *list = values != NULL ? json_array() : NULL;

        if (list == NULL || copy(adapter, values) != 0) {
            free(values);
            json_decref(list);
            json_decref(modules);
            return NULL;
        }
        for (int64_t k = 0; k < rank; k++) {
            json_array_append_new(list, folder_real(values[k]));
        }
        json_array_append_new(modules, list);
        free(values);
    }
    return modules;
}

/* AdaLoRA's |E| over its mean in all modules: 1 is an equal share, as it is of g. All are
 * equal at first. */
static json_t *share_values(bl_group *group)
{
    json_t *modules = rank_values(group, bl_adapter_copy_importance), *list, *value;
    size_t  i, k, ranks = 0;
    double  sum = 0;

    json_array_foreach(modules, i, list)
    {
        json_array_foreach(list, k, value)
        {
            sum += fabs(json_number_value(value));
            ranks++;
        }
    }
    json_array_foreach(modules, i, list)
    {
        for (k = 0; k < json_array_size(list); k++) {
            double e = fabs(json_number_value(json_array_get(list, k)));

            json_array_set_new(list, k,
                               folder_real(sum > 0 ? e * (double) ranks / sum : 1));
        }
    }
    return modules;
}

static json_t *kept_values(bl_group *group)
{
    json_t *modules = json_array();

    for (int64_t i = 0; i < bl_group_get_count(group); i++) {
        json_array_append_new(
            modules, json_integer(bl_adapter_get_kept(bl_group_get_adapter(group, i))));
    }
    return modules;
}

int train_log_ranks(struct train *train, int after)
{
    const int adalora = train->options.method == BL_METHOD_ADALORA;

    bl_group *group = train->adapters.group;
    json_t   *line;

    if (!kept(train) || group == NULL) {
        return 0;
    }
    line = json_pack("{sI so so}", "step", (json_int_t) train->totals.step, "importance",
                     adalora ? share_values(group)
                             : rank_values(group, bl_adapter_copy_importance),
                     "norm", rank_values(group, bl_adapter_copy_norms));
    if (line != NULL && adalora) {
        json_object_set_new(line, "kept", kept_values(group));
    }
    if (line != NULL && after) {
        json_object_set_new(line, "after", json_true());
    }
    train->ranks_step = train->totals.step;
    return append(train, FOLDER_RANKS, line);
}

static json_t *integers(const int64_t *values, int64_t count)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < count; i++) {
        json_array_append_new(list, json_integer(values[i]));
    }
    return list;
}

int train_log_plan(struct train *train)
{
    static const char *const words[] = { "history", "current", "fresh",
                                         "removed", "skip",    "given up" };

    const bl_plan *plan = train->plan;
    int64_t        count = bl_plan_get_count(plan);
    const int32_t *action = bl_plan_get_actions(plan);
    const double  *importance = bl_plan_get_importances(plan);
    json_t        *actions, *importances;

    if (!kept(train)) {
        return 0;
    }
    actions = json_array();
    importances = json_array();
    for (int64_t i = 0; i < count; i++) {
        json_array_append_new(actions, json_string(words[action[i]]));
        json_array_append_new(importances, folder_real(importance[i]));
    }
    return append(train, FOLDER_PLANS,
                  json_pack("{sI so so so so so so so}", "step",
                            (json_int_t) bl_plan_get_step(plan), "p",
                            folder_real(bl_plan_get_threshold(plan)), "module",
                            integers(bl_plan_get_modules(plan), count), "pruned",
                            integers(bl_plan_get_pruned(plan), count), "source",
                            integers(bl_plan_get_sources(plan), count), "action", actions,
                            "age", integers(bl_plan_get_ages(plan), count), "importance",
                            importances));
}
