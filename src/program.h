/*
 * What the subcommands of `beamlora` share: messages, flags, subcommand entries.
 * Results go to stdout, everything else to stderr. Exit status: 0 fine, 1 failed,
 * 2 wrong usage.
 */
#ifndef BEAMLORA_SRC_PROGRAM_H
#define BEAMLORA_SRC_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#define MESSAGE_SIZE 512

/* Subcommands: argc, argv without the program's name and the subcommand's. */
int command_train(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_generate(int argc, char **argv);

/* "beamlora: " and the line to stderr; returns 1, for `return complain(...)`. */
int complain(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

enum flag_type {
    FLAG_STRING,
    FLAG_INTEGER,
    FLAG_UNSIGNED,
    FLAG_REAL,
    FLAG_CHOICE,
    FLAG_SWITCH,
    FLAG_HEADING /* no flag: `name` is a title in the help */
};

/* One --name VALUE. `value` points to const char *, int64_t, uint64_t, double, int32_t
 * (index into choices) or int (set to 1), by type; what it holds is the default. Range
 * checks are by low <= value <= high for FLAG_INTEGER and FLAG_REAL; with both 0 there
 * is none. */
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

/* Parse into flags[count]: --name VALUE or --name=VALUE, each at most once. 0 go on;
 * 1 --help was printed (exit 0); 2 wrong usage, told. */
int parse_flags(int argc, char **argv, const char *usage, struct flag *flags, int count);

#endif
