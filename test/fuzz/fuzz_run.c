/* A run folder, run.json, log.jsonl, ranks.jsonl and plans.jsonl: read, grouped with itself
 * and shown; and run.json as a training resumes from it. */
#include "fuzz.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/program.h"
#include "view/run_group.h"
#include "view/run_read.h"
#include "train/start.h"

/* The program's, which is in main.c: what it tells is looked at. */
int complain(const char *format, ...)
{
    char    line[2048];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fuzz_check_line(line);
    return 1;
}

static void show(char *command, char *argument, int (*run)(int, char **))
{
    char *arguments[] = { fuzz_copy(fuzz_path(""), strlen(fuzz_path("")) + 1), command,
                          argument, NULL };
    char *own = arguments[0];
    int   count = argument != NULL ? 3 : command != NULL ? 2 : 1;

    run(count, arguments);
    free(own);
}

static void use(struct run *run)
{
    struct run        both[2] = { *run, *run };
    struct run_groups groups;
    char              json[] = "--json", moves[] = "--moves";

    fuzz_check(run_groups_make(&groups, both, 2) == 0);
    fuzz_check(groups.groups == 1 && groups.group[0].members == 2);
    run_groups_free(&groups);
    run_train_loss(run, 0);
    run_train_loss(run, 1);
    show(NULL, NULL, command_inspect);
    show(moves, json, command_inspect);
    show(json, NULL, command_compare);
}

static void resume(void)
{
    struct start start;
    char         error[512] = "";

    if (start_read(&start, fuzz_path(""), error, sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(start.argv == NULL);
        return;
    }
    fuzz_check(start.argc > 0 && start.argv[start.argc] == NULL);
    fuzz_check(start_path(&start, "name", error, sizeof error) != NULL);
    start_free(&start);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "run.json", "log.jsonl", "ranks.jsonl",
                                         "plans.jsonl" };
    struct fuzz_input        input = { data, size };
    struct run               run;
    char                     error[512] = "";

    fuzz_silence();
    for (int i = 0; i < 4; i++) {
        struct fuzz_input part = fuzz_part(&input);

        fuzz_write(names[i], part.data, part.size);
    }
    resume();
    if (run_read(&run, fuzz_path(""), error, sizeof error) != 0) {
        fuzz_check_line(error);
        fuzz_check(run.directory == NULL && run.root == NULL);
        return 0;
    }
    use(&run);
    run_free(&run);
    return 0;
}
