/*
 * `beamlora inspect`: gathers what is in a folder. A run folder's ranks come from its
 * last line in ranks.jsonl; the norm of a whole module needs the adapter, which a run
 * has at its end only.
 */
#include "view/inspect.h"

#include "base/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void count_moves(struct inspect *inspect)
{
    for (int64_t i = 0; i < inspect->run.plans; i++) {
        const struct run_plan *plan = &inspect->run.plan[i];

        for (int64_t k = 0; k < plan->moves; k++) {
            inspect->module[plan->move[k].module].moved +=
                run_move_counts(&plan->move[k]);
        }
    }
}

static double find_whole(const struct adapter_norms *norms, const char *name)
{
    for (int64_t i = 0; i < norms->modules; i++) {
        if (strcmp(norms->module[i].name, name) == 0) {
            return norms->module[i].whole;
        }
    }
    return (double) NAN;
}

static int take_run(struct inspect *inspect)
{
    const struct run        *run = &inspect->run;
    const struct run_sample *last =
        run->samples > 0 ? &run->sample[run->samples - 1] : NULL;
    int scores = run_has_scores(run);
    int moves = last != NULL && run_ranks_move(run);

    inspect->module = calloc((size_t) run->modules + 1, sizeof *inspect->module);
    if (inspect->module == NULL) {
        return -1;
    }
    for (int64_t i = 0; i < run->modules; i++) {
        const struct run_module *from = &run->module[i];

        inspect->module[i] = (struct inspect_module){
            .name = from->name,
            .in = from->in,
            .out = from->out,
            .rank = moves ? (int64_t) last->kept[i] : from->rank,
            .whole = find_whole(&inspect->norms, from->name),
            .norm = last != NULL ? last->norm + from->first : NULL,
            .importance = last != NULL && scores ? last->importance + from->first : NULL,
            .kept = last == NULL || last->kept == NULL || moves ? -1
                                                                : (int64_t) last->kept[i],
        };
    }
    inspect->modules = run->modules;
    count_moves(inspect);
    return 0;
}

static int take_adapter(struct inspect *inspect)
{
    inspect->module =
        calloc((size_t) inspect->norms.modules + 1, sizeof *inspect->module);
    if (inspect->module == NULL) {
        return -1;
    }
    for (int64_t i = 0; i < inspect->norms.modules; i++) {
        const struct adapter_module *from = &inspect->norms.module[i];

        inspect->module[i] = (struct inspect_module){ .name = from->name,
                                                      .in = from->in,
                                                      .out = from->out,
                                                      .rank = from->rank,
                                                      .whole = from->whole,
                                                      .norm = from->norm,
                                                      .kept = -1 };
    }
    inspect->modules = inspect->norms.modules;
    return 0;
}

static int has_file(const char *directory, const char *file)
{
    char  path[4096];
    FILE *stream;

    if ((size_t) snprintf(path, sizeof path, "%s/%s", directory, file) >= sizeof path) {
        return 0;
    }
    stream = fopen(path, "r");
    if (stream != NULL) {
        fclose(stream);
    }
    return stream != NULL;
}

/* An adapter in the folder of an unfinished run would be one from before. */
static int gather(struct inspect *inspect, char *error, size_t size)
{
    int taken;

    if (run_exists(inspect->directory)) {
        if (run_read(&inspect->run, inspect->directory, error, size) != 0) {
            return -1;
        }
        if (inspect->run.finished &&
            has_file(inspect->directory, "adapter_config.json") &&
            adapter_norms_read(&inspect->norms, inspect->directory, error, size) != 0) {
            return -1;
        }
        taken = take_run(inspect);
    } else if (has_file(inspect->directory, "adapter_config.json")) {
        if (adapter_norms_read(&inspect->norms, inspect->directory, error, size) != 0) {
            return -1;
        }
        taken = take_adapter(inspect);
    } else {
        snprintf(error, size,
                 "%.300s: neither a run folder (run.json) nor an adapter "
                 "(adapter_config.json)",
                 inspect->directory);
        return -1;
    }
    if (taken != 0) {
        snprintf(error, size, "out of memory");
    }
    return taken;
}

int command_inspect(int argc, char **argv)
{
    int            json = 0, moves = 0, status;
    const char    *pattern = NULL;
    char           error[MESSAGE_SIZE];
    struct inspect inspect = { 0 };

    struct flag flags[] = {
        { .name = "modules",
          .type = FLAG_STRING,
          .value = &pattern,
          .help = "list one by one: a part of the name, or a pattern" },
        { .name = "moves",
          .type = FLAG_SWITCH,
          .value = &moves,
          .help = "every single move of every reallocation" },
        { .name = "json",
          .type = FLAG_SWITCH,
          .value = &json,
          .help = "all of it as one JSON object" },
    };
    struct command_line line = {
        .usage = "beamlora inspect DIR [flags]\n"
                 "\n"
                 "Shows what is in a run folder or a PEFT adapter directory: modules, "
                 "norms and\nimportance of their ranks, what was reallocated when. No "
                 "model is needed.",
        .details = "Up to 32 modules are listed one by one, more by projection and by "
                   "layer.\nUnfinished runs are shown as far as they went.",
        .argument = "DIR",
        .argument_help = "run folder, or PEFT adapter directory",
        .argument_type = FLAG_DIRECTORY,
        .least = 1,
        .most = 1,
    };

    status =
        parse_arguments(argc, argv, &line, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    inspect.directory = argv[0];
    if (gather(&inspect, error, sizeof error) != 0) {
        status = complain("%s", error);
    } else {
        if (inspect.run.note[0] != '\0') {
            complain("%s: %s", inspect.directory, inspect.run.note);
        }
        if ((json ? inspect_print_json(&inspect)
                  : inspect_print(&inspect, pattern, moves)) != 0) {
            status = complain("out of memory");
        }
    }
    free(inspect.module);
    adapter_norms_free(&inspect.norms);
    run_free(&inspect.run);
    return status;
}
