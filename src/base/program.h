/*
 * What the subcommands of `beamlora` share: messages, flags, subcommand entries.
 * Results go to stdout, everything else to stderr. Exit status: 0 fine, 1 failed,
 * 2 wrong usage, 130 interrupted.
 */
#ifndef BEAMLORA_SRC_PROGRAM_H
#define BEAMLORA_SRC_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#define MESSAGE_SIZE 512

/* Subcommands: argc, argv without the program's name and the subcommand's. */
int command_init(int argc, char **argv);
int command_train(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_export(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_plot(int argc, char **argv);
int command_compare(int argc, char **argv);
int command_prune(int argc, char **argv);

/* "beamlora: " and the line to stderr; returns 1, for `return complain(...)`. */
int complain(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

enum flag_type {
    FLAG_STRING,
    FLAG_FILE,      /* a string, completed by the shell: names of files and directories */
    FLAG_DIRECTORY, /* of directories only */
    FLAG_INTEGER,
    FLAG_UNSIGNED,
    FLAG_REAL,
    FLAG_CHOICE,
    FLAG_SWITCH,
    FLAG_HEADING /* no flag: `name` is a title in the help */
};

/* One --name VALUE. `value` points to const char * (three types), int64_t, uint64_t,
 * double, int32_t (index into choices) or int (set to 1), by type; what it holds is the
 * default. Range checks are by low <= value <= high for FLAG_INTEGER and FLAG_REAL; with
 * both 0 there is none. */
struct flag {
    const char        *name; /* without the dashes */
    enum flag_type     type;
    void              *value;
    const char        *help;    /* one line, with its unit and default */
    const char *const *choices; /* NULL-terminated, FLAG_CHOICE only   */
    double             low, high;
    int                required;
    int                given; /* set by parse_flags */
};

/* What --help says of a command, and what it takes besides flags. Lines of text have 80
 * columns at most, and --help 24 lines. NULL is fine for all but `usage`. */
struct command_line {
    const char    *usage;         /* "beamlora plot RUN... [flags]", empty line, text */
    const char    *details;       /* more text, for --help=all and the man page       */
    const char    *common;        /* "model data": flags in --help; NULL: all of them */
    const char    *argument;      /* "RUN": what is given without a flag              */
    const char    *argument_help; /* one line                                         */
    enum flag_type argument_type; /* FLAG_STRING, FLAG_FILE or FLAG_DIRECTORY         */
    int            least, most;   /* how many of it; INT_MAX: any number              */
    int            given;         /* set by parse_arguments                           */
};

/* Parse into flags[count]: --name VALUE or --name=VALUE, each at most once. Arguments
 * may stand among them; they are moved to the front, argv[0] to argv[line->given - 1].
 * 0 go on; 1 help was printed (exit 0); 2 wrong usage, told. */
int parse_arguments(int argc, char **argv, struct command_line *line, struct flag *flags,
                    int count);

/* The same for a command that takes flags only. */
int parse_flags(int argc, char **argv, const char *usage, struct flag *flags, int count);

/* Print the help (all: every flag), or, with --help=table, tab-separated lines for shell
 * completion and the man pages: name, type, choices, help. */
enum help { HELP_COMMON, HELP_ALL, HELP_TABLE };
void print_help(enum help kind, const struct command_line *line, const struct flag *flags,
                int count);
/* Which of them an argument asks for: -h, --help, --help=all, --help=table; or -1. */
int asks_for_help(const char *argument);

/* "Did you mean": if candidate is nearer to name (its first `length` bytes) than *best,
 * which starts as NULL, it becomes *best. */
void suggest(const char **best, const char *name, size_t length, const char *candidate);

#endif
