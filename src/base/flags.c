/*
 * Command-line flags: strict, because a training that ran for an hour with a mistyped
 * setting is worse than one that did not start. Numbers must be the whole argument, be
 * finite and in range; nothing may be given twice, and nothing is abbreviated.
 */
#include "base/program.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LIMIT 64 /* longer names are not worth a suggestion */

/* Levenshtein's distance between a (its first n bytes) and b. */
static size_t distance(const char *a, size_t n, const char *b)
{
    size_t row[NAME_LIMIT + 1], m = strlen(b);

    if (n > NAME_LIMIT || m > NAME_LIMIT) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            if (row[j] + 1 < best) {
                best = row[j] + 1;
            }
            if (row[j - 1] + 1 < best) {
                best = row[j - 1] + 1;
            }
            row[j] = best;
        }
    }
    return row[m];
}

void suggest(const char **best, const char *name, size_t length, const char *candidate)
{
    size_t limit = *best != NULL ? distance(name, length, *best) : length / 3 + 2;

    if (distance(name, length, candidate) < limit) {
        *best = candidate;
    }
}

static void complain_unknown(const char *name, size_t length, const struct flag *flags,
                             int count)
{
    const char *nearest = NULL;

    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING) {
            suggest(&nearest, name, length, flags[i].name);
        }
    }
    if (nearest != NULL) {
        complain("unknown flag --%.*s; did you mean --%s?", (int) length, name, nearest);
    } else {
        complain("unknown flag --%.*s; --help=all lists them", (int) length, name);
    }
}

/* strto... skip white space and take signs; a flag's value starts with its number. */
static int starts_number(const char *text, int sign)
{
    return (text[0] >= '0' && text[0] <= '9') || text[0] == '.' ||
           (sign && (text[0] == '-' || text[0] == '+') && text[1] != '\0');
}

static int check_range(const struct flag *flag, const char *text, double value)
{
    if (flag->low == 0 && flag->high == 0) {
        return 0;
    }
    if (value >= flag->low && value <= flag->high) {
        return 0;
    }
    if (flag->high >= 9e18) {
        complain("--%s is %s, must be %.10g or more", flag->name, text, flag->low);
    } else {
        complain("--%s is %s, must be from %.10g to %.10g", flag->name, text, flag->low,
                 flag->high);
    }
    return 2;
}

static int parse_integer(const struct flag *flag, const char *text)
{
    char     *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (!starts_number(text, 1) || *end != '\0') {
        complain("--%s wants a whole number, not \"%s\"", flag->name, text);
        return 2;
    }
    if (errno == ERANGE) {
        complain("--%s is %s, too large a number", flag->name, text);
        return 2;
    }
    if (check_range(flag, text, (double) value)) {
        return 2;
    }
    *(int64_t *) flag->value = value;
    return 0;
}

static int parse_unsigned(const struct flag *flag, const char *text)
{
    char              *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (!starts_number(text, 0) || *end != '\0') {
        complain("--%s wants a whole number of 0 or more, not \"%s\"", flag->name, text);
        return 2;
    }
    if (errno == ERANGE) {
        complain("--%s is %s, too large a number", flag->name, text);
        return 2;
    }
    *(uint64_t *) flag->value = value;
    return 0;
}

static int parse_real(const struct flag *flag, const char *text)
{
    char  *end;
    double value = strtod(text, &end);

    if (!starts_number(text, 1) || *end != '\0' || isnan(value)) {
        complain("--%s wants a number, not \"%s\"", flag->name, text);
        return 2;
    }
    if (!isfinite(value)) {
        complain("--%s is %s, must be finite", flag->name, text);
        return 2;
    }
    if (check_range(flag, text, value)) {
        return 2;
    }
    *(double *) flag->value = value;
    return 0;
}

static int parse_choice(const struct flag *flag, const char *text)
{
    char   list[MESSAGE_SIZE] = "";
    size_t used = 0;

    for (int k = 0; flag->choices[k] != NULL; k++) {
        int written;

        if (strcmp(text, flag->choices[k]) == 0) {
            *(int32_t *) flag->value = k;
            return 0;
        }
        written = snprintf(list + used, sizeof list - used, "%s%s", k == 0 ? "" : ", ",
                           flag->choices[k]);
        if (written > 0 && (size_t) written < sizeof list - used) {
            used += (size_t) written;
        }
    }
    complain("--%s is \"%s\", must be one of: %s", flag->name, text, list);
    return 2;
}

static int parse_value(const struct flag *flag, const char *text)
{
    switch (flag->type) {
    case FLAG_INTEGER:
        return parse_integer(flag, text);
    case FLAG_UNSIGNED:
        return parse_unsigned(flag, text);
    case FLAG_REAL:
        return parse_real(flag, text);
    case FLAG_CHOICE:
        return parse_choice(flag, text);
    default:
        *(const char **) flag->value = text;
        return 0;
    }
}

static struct flag *find(struct flag *flags, int count, const char *name, size_t length)
{
    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING && strlen(flags[i].name) == length &&
            memcmp(flags[i].name, name, length) == 0) {
            return &flags[i];
        }
    }
    return NULL;
}

/* One flag at argv[*i]; *i is moved on over a separate value. */
static int parse_one(int argc, char **argv, int *i, struct flag *flags, int count)
{
    const char  *name = argv[*i] + 2, *equals = strchr(name, '='), *text;
    size_t       length = equals != NULL ? (size_t) (equals - name) : strlen(name);
    struct flag *flag = find(flags, count, name, length);

    if (flag == NULL) {
        complain_unknown(name, length, flags, count);
        return 2;
    }
    if (flag->given) {
        complain("--%s is given twice", flag->name);
        return 2;
    }
    flag->given = 1;
    if (flag->type == FLAG_SWITCH) {
        if (equals != NULL) {
            complain("--%s takes no value", flag->name);
            return 2;
        }
        *(int *) flag->value = 1;
        return 0;
    }
    if (equals != NULL) {
        text = equals + 1;
    } else if (*i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0) {
        text = argv[++*i];
    } else {
        complain("--%s needs a value", flag->name);
        return 2;
    }
    return parse_value(flag, text);
}

/* The help that is asked for, wherever it stands but as a flag's value; or -1. */
static int find_help(int argc, char **argv, struct flag *flags, int count)
{
    for (int i = 0; i < argc; i++) {
        const struct flag *flag = NULL;
        int                help = asks_for_help(argv[i]);

        if (help >= 0) {
            return help;
        }
        if (strncmp(argv[i], "--", 2) == 0) {
            flag = find(flags, count, argv[i] + 2, strlen(argv[i] + 2));
        }
        if (flag != NULL && flag->type != FLAG_SWITCH && i + 1 < argc &&
            strncmp(argv[i + 1], "--", 2) != 0) {
            i++;
        }
    }
    return -1;
}

static int take_argument(char **argv, int i, struct command_line *line)
{
    const char *text = argv[i];

    if (line->argument == NULL || (text[0] == '-' && text[1] != '\0')) {
        complain("unexpected argument \"%s\"; --help lists the flags", text);
        return 2;
    }
    if (line->given == line->most) {
        complain("unexpected argument \"%s\": %d %s given already, must be at most %d",
                 text, line->given, line->argument, line->most);
        return 2;
    }
    argv[line->given++] = argv[i];
    return 0;
}

/* All that must be there is. */
static int check_given(const struct command_line *line, const struct flag *flags,
                       int count)
{
    if (line->given == 0 && line->least > 0) {
        complain("%s is required; --help tells more", line->argument);
        return 2;
    }
    if (line->given < line->least) {
        complain("%d %s given, must be at least %d", line->given, line->argument,
                 line->least);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING && flags[i].required && !flags[i].given) {
            complain("--%s is required; --help lists the flags", flags[i].name);
            return 2;
        }
    }
    return 0;
}

int parse_arguments(int argc, char **argv, struct command_line *line, struct flag *flags,
                    int count)
{
    int help = find_help(argc, argv, flags, count);

    if (help >= 0) {
        print_help((enum help) help, line, flags, count);
        return 1;
    }
    line->given = 0;
    for (int i = 0; i < count; i++) {
        flags[i].given = 0;
    }
    for (int i = 0; i < argc; i++) {
        int status = strncmp(argv[i], "--", 2) == 0 && argv[i][2] != '\0'
                         ? parse_one(argc, argv, &i, flags, count)
                         : take_argument(argv, i, line);

        if (status != 0) {
            return status;
        }
    }
    return check_given(line, flags, count);
}

int parse_flags(int argc, char **argv, const char *usage, struct flag *flags, int count)
{
    struct command_line line = { .usage = usage };

    return parse_arguments(argc, argv, &line, flags, count);
}
