/*
 * How ranks moved between the modules of a run, for inspect: by AdaLoRA's masks, or by
 * BeamLoRA across modules, where what they cost stays within the budget.
 */
#include <inttypes.h>
#include <stdio.h>

#include "view/inspect.h"
#include "view/table.h"

#define LISTED_SAMPLES 10

static void add_sample(struct table *table, const struct run *run,
                       const struct run_sample *sample)
{
    int64_t sum = 0, least = INT64_MAX, most = 0, empty = 0, cost = 0;

    for (int64_t m = 0; m < run->modules; m++) {
        int64_t kept = (int64_t) sample->kept[m];

        sum += kept;
        least = kept < least ? kept : least;
        most = kept > most ? kept : most;
        empty += kept == 0;
        cost += kept * (run->module[m].in + run->module[m].out + 1);
    }
    table_add(table, "%" PRId64, sample->step);
    table_add(table, "%" PRId64, sum);
    table_add(table, "%" PRId64, least);
    table_add(table, "%" PRId64, most);
    table_add(table, "%" PRId64, run_ranks_move(run) ? cost : empty);
}

static void print_title(const struct run *run)
{
    if (run_ranks_move(run)) {
        printf("\nBudget: %" JSON_INTEGER_FORMAT
               " parameters, for ranks of any module\n\n",
               json_integer_value(json_object_get(run->settings, "budget")));
    } else {
        printf("\nBudget: ranks that the newest mask left, of %" PRId64 "\n\n",
               run->ranks);
    }
}

int inspect_print_budget(const struct run *run)
{
    static const char *const head[2][2][5] = {
        { { "", "ranks", "fewest in", "most in", "modules" },
          { "step", "kept", "a module", "a module", "without" } },
        { { "", "", "fewest in", "most in", "" },
          { "step", "ranks", "a module", "a module", "parameters" } },
    };
    const int64_t lines = run->samples < LISTED_SAMPLES ? run->samples : LISTED_SAMPLES;
    struct table  table;

    print_title(run);
    table_start(&table, 5);
    for (int i = 0; i < 10; i++) {
        table_add(&table, "%s", head[run_ranks_move(run)][i / 5][i % 5]);
    }
    for (int64_t i = 0; i < lines; i++) { /* the first, the last, and what lies between */
        int64_t at = lines > 1 ? i * (run->samples - 1) / (lines - 1) : 0;

        if (run->sample[at].kept != NULL) {
            add_sample(&table, run, &run->sample[at]);
        }
    }
    return table_print(&table, table_width());
}
