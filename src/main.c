/* Entry of the program: picks the subcommand and sees to it that lost output is told. */
#include "beamlora.h"
#include "program.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: beamlora COMMAND --flag VALUE ...\n"
    "\n"
    "  train      train low-rank adapters on text\n"
    "  eval       loss of a model, with or without an adapter, on text\n"
    "  generate   continue a text\n"
    "\n"
    "beamlora COMMAND --help lists a command's flags; beamlora --version.\n"
    "Exit status: 0 fine, 1 failed, 2 wrong usage.\n";

int complain(const char *format, ...)
{
    va_list arguments;

    fputs("beamlora: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return 1;
}

static int run(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        { "train", command_train },
        { "eval", command_eval },
        { "generate", command_generate },
    };

    if (argc < 2) {
        fputs(usage, stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("beamlora %s\n", bl_version_string());
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 2, argv + 2);
        }
    }
    complain("unknown command \"%s\"; beamlora --help lists them", argv[1]);
    return 2;
}

int main(int argc, char **argv)
{
    int status = run(argc, argv);

    /* A full disk shows itself only here: stdout is buffered until it is closed. */
    errno = 0;
    if (ferror(stdout) | fclose(stdout)) {
        const char *why = errno != 0 ? strerror(errno) : "a write failed";

        complain("cannot write to stdout: %s", why);
        return status != 0 ? status : 1;
    }
    return status;
}
