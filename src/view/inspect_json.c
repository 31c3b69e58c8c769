/* All that `beamlora inspect` knows as one JSON object. */
#include "view/inspect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *numbers(const double *values, int64_t count)
{
    json_t *out = values != NULL ? json_array() : json_null();

    for (int64_t i = 0; values != NULL && i < count; i++) {
        json_array_append_new(out, number(values[i]));
    }
    return out;
}

static json_t *modules(const struct inspect *inspect)
{
    json_t *out = json_array();

    for (int64_t i = 0; i < inspect->modules; i++) {
        const struct inspect_module *module = &inspect->module[i];

        json_array_append_new(
            out, json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:I}", "name",
                           module->name, "in", (json_int_t) module->in, "out",
                           (json_int_t) module->out, "rank", (json_int_t) module->rank,
                           "whole_norm", number(module->whole), "norm",
                           numbers(module->norm, module->rank), "importance",
                           numbers(module->importance, module->rank), "kept",
                           module->kept < 0 ? json_null() : json_integer(module->kept),
                           "moved", (json_int_t) module->moved));
    }
    return out;
}

static json_t *evaluations(const struct run *run)
{
    json_t *out = json_array();

    for (int64_t i = 0; i < run->evaluations; i++) {
        const struct run_evaluation *from = &run->evaluation[i];
        json_t                      *entry =
            json_pack("{s:I, s:o, s:I}", "step", (json_int_t) from->step, "loss",
                      number(from->loss), "tokens", (json_int_t) from->tokens);

        if (from->examples > 0) {
            json_object_set_new(entry, "examples", json_integer(from->examples));
            json_object_set_new(entry, "exact", json_integer(from->exact));
        }
        json_array_append_new(out, entry);
    }
    return out;
}

static json_t *reallocations(const struct run *run)
{
    json_t *out = json_array();

    for (int64_t i = 0; i < run->plans; i++) {
        const struct run_plan *plan = &run->plan[i];
        json_t                *moves = json_array();

        for (int64_t k = 0; k < plan->moves; k++) {
            const struct run_move *move = &plan->move[k];

            json_array_append_new(moves,
                                  json_pack("{s:s, s:I, s:I, s:s, s:I, s:o}", "module",
                                            run->module[move->module].name, "pruned",
                                            (json_int_t) move->rank, "source",
                                            (json_int_t) move->source, "action",
                                            run_action_name(move->action), "age",
                                            (json_int_t) move->age, "importance",
                                            number(move->importance)));
        }
        json_array_append_new(out, json_pack("{s:I, s:o, s:o}", "step",
                                             (json_int_t) plan->step, "p",
                                             number(plan->p), "moves", moves));
    }
    return out;
}

int inspect_print_json(const struct inspect *inspect)
{
    const struct run *run = &inspect->run;
    json_t           *out = json_object();
    int               result;

    json_object_set_new(out, "directory", json_string(inspect->directory));
    json_object_set_new(out, "kind",
                        json_string(run->directory != NULL ? "run" : "adapter"));
    if (run->directory != NULL) {
        json_object_set(out, "settings", run->settings);
        json_object_set_new(out, "finished", json_boolean(run->finished));
        json_object_set_new(out, "steps", json_integer(run->done_steps));
        json_object_set_new(out, "total_steps", json_integer(run->total_steps));
        json_object_set_new(out, "train_loss_first", number(run_train_loss(run, 0)));
        json_object_set_new(out, "train_loss", number(run_train_loss(run, 1)));
        json_object_set_new(out, "evaluations", evaluations(run));
        json_object_set_new(out, "reallocations", reallocations(run));
        json_object_set_new(out, "note",
                            run->note[0] != '\0' ? json_string(run->note) : json_null());
    }
    json_object_set_new(out, "modules", modules(inspect));
    result = json_dumpf(out, stdout, JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(out);
    return result;
}
