/* Entry of the program: picks the subcommand and sees to it that lost output is told. */
#include "beamlora.h"
#include "base/blas.h"
#include "base/program.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    { "init", command_init, "make a model with random weights" },
    { "train", command_train, "train adapters, or a whole model, on text" },
    { "eval", command_eval, "loss of a model, with or without an adapter, on text" },
    { "generate", command_generate, "continue a text" },
    { "export", command_export, "write an adapter, or a merged model, for others" },
    { "inspect", command_inspect, "show what is in a run folder or an adapter" },
    { "plot", command_plot, "draw pictures of runs" },
    { "compare", command_compare, "put the results of runs side by side" },
    { "prune", command_prune, "loss of an adapter against the share of ranks kept" },
};

#define COMMANDS (sizeof commands / sizeof commands[0])

static void print_commands(enum help kind, FILE *stream)
{
    if (kind != HELP_TABLE) {
        fputs("usage: beamlora COMMAND [flags]\n\n", stream);
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        fprintf(stream, kind == HELP_TABLE ? "%s\t%s\n" : "  %-10s %s\n",
                commands[i].name, commands[i].summary);
    }
    if (kind != HELP_TABLE) {
        fputs(
            "\n"
            "beamlora COMMAND --help tells what it does and its common flags, --help=all\n"
            "all of them; beamlora --version. Results go to stdout, all else to stderr.\n"
            "Exit status: 0 fine, 1 failed, 2 wrong usage, 130 interrupted.\n",
            stream);
    }
}

static const struct command *find_command(const char *name)
{
    const char *nearest = NULL;

    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return &commands[i];
        }
        suggest(&nearest, name, strlen(name), commands[i].name);
    }
    if (nearest != NULL) {
        complain("unknown command \"%s\"; did you mean %s?", name, nearest);
    } else {
        complain("unknown command \"%s\"; beamlora --help lists them", name);
    }
    return NULL;
}

/* beamlora help [COMMAND] */
static int help(int argc, char **argv)
{
    static char           flag[] = "--help";
    char                 *arguments[] = { flag, NULL };
    const struct command *command;

    if (argc == 0 || asks_for_help(argv[0]) >= 0) {
        print_commands(HELP_COMMON, stdout);
        return 0;
    }
    command = find_command(argv[0]);
    if (command == NULL) {
        return 2;
    }
    if (argc > 1) {
        complain("unexpected argument \"%s\"; beamlora help takes a command", argv[1]);
        return 2;
    }
    return command->run(1, arguments);
}

static int run(int argc, char **argv)
{
    const struct command *command;

    if (argc < 2) {
        print_commands(HELP_COMMON, stderr);
        return 2;
    }
    if (asks_for_help(argv[1]) >= 0) {
        print_commands((enum help) asks_for_help(argv[1]), stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("beamlora %s\n", bl_version_string());
        return 0;
    }
    if (strcmp(argv[1], "help") == 0) {
        return help(argc - 2, argv + 2);
    }
    command = find_command(argv[1]);
    return command != NULL ? command->run(argc - 2, argv + 2) : 2;
}

int main(int argc, char **argv)
{
    int status;

    blas_choose_kernels(argv);
    status = run(argc, argv);

    /* A full disk shows itself only here: stdout is buffered until it is closed. */
    errno = 0;
    if (ferror(stdout) | fclose(stdout)) {
        const char *why = errno != 0 ? strerror(errno) : "a write failed";

        complain("cannot write to stdout: %s", why);
        return status != 0 ? status : 1;
    }
    return status;
}
