/*
 * --help from the tables of flags: the common ones on a screen of 80 columns and 24
 * lines, all of them under their headings, or the tables themselves for scripts.
 */
#include "base/program.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define COLUMNS 80
#define HELP_COLUMN 36 /* at most; a longer flag has its help on the next line */
#define CHOICE_INDENT 6

static const char *placeholder(enum flag_type type)
{
    switch (type) {
    case FLAG_STRING:
        return " VALUE";
    case FLAG_FILE:
        return " FILE";
    case FLAG_DIRECTORY:
        return " DIR";
    case FLAG_INTEGER:
    case FLAG_UNSIGNED:
        return " N";
    case FLAG_REAL:
        return " X";
    default:
        return "";
    }
}

static const char *type_name(enum flag_type type)
{
    static const char *const names[] = {
        [FLAG_STRING] = "string",    [FLAG_FILE] = "file",
        [FLAG_DIRECTORY] = "dir",    [FLAG_INTEGER] = "integer",
        [FLAG_UNSIGNED] = "integer", [FLAG_REAL] = "real",
        [FLAG_CHOICE] = "choice",    [FLAG_SWITCH] = "switch",
        [FLAG_HEADING] = "heading",
    };

    return names[type];
}

/* "module|joint"; nothing for other types. */
static void format_choices(char *text, size_t size, const struct flag *flag)
{
    size_t used = 0;

    text[0] = '\0';
    for (int k = 0; flag->type == FLAG_CHOICE && flag->choices[k] != NULL; k++) {
        used += (size_t) snprintf(text + used, size - used, "%s%s", k == 0 ? "" : "|",
                                  flag->choices[k]);
        assert(used < size);
    }
}

/* "  --scope module|joint"; returns its length. */
static int format_flag(char *text, size_t size, const struct flag *flag)
{
    char choices[MESSAGE_SIZE];

    format_choices(choices, sizeof choices, flag);
    return snprintf(text, size, "  --%s%s%s%s", flag->name, placeholder(flag->type),
                    choices[0] != '\0' ? " " : "", choices);
}

/* Words from the column on, broken before the terminal's edge. */
static void print_wrapped(const char *words, int column)
{
    int room = COLUMNS - column;

    while ((int) strlen(words) > room) {
        int length = room;

        while (length > 0 && words[length] != ' ') {
            length--;
        }
        if (length == 0) {
            break; /* a word that does not fit anywhere */
        }
        printf("%.*s\n%*s", length, words, column, "");
        words += length + 1;
    }
    printf("%s\n", words);
}

/* A flag whose choices are too long for a line is broken behind one of them. */
static void print_row(const char *text, const char *help, int column)
{
    int indent = 0;

    while (indent + (int) strlen(text) > COLUMNS) {
        int length = COLUMNS - indent;

        while (length > 0 && text[length - 1] != '|') {
            length--;
        }
        if (length == 0) {
            break; /* nothing to break it at */
        }
        printf("%*s%.*s\n", indent, "", length, text);
        text += length;
        indent = CHOICE_INDENT;
    }
    if (indent + (int) strlen(text) + 2 > column) {
        printf("%*s%s\n%*s", indent, "", text, column, "");
    } else {
        printf("%*s%-*s", indent, "", column - indent, text);
    }
    print_wrapped(help, column);
}

static void widen(int *column, int width)
{
    if (width + 2 > *column && width + 2 <= HELP_COLUMN) {
        *column = width + 2;
    }
}

/* Is name[length] one of the words? */
static int is_word(const char *words, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = words; (at = strstr(at, name)) != NULL; at += length) {
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return 1;
        }
    }
    return 0;
}

static int is_shown(enum help kind, const struct command_line *line,
                    const struct flag *flag)
{
    if (kind == HELP_ALL || line->common == NULL) {
        return 1;
    }
    return flag->type != FLAG_HEADING && is_word(line->common, flag->name);
}

/* A row for each line. Columns that are empty have "-": a shell's read skips none of them
 * then. */
static void print_text(const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");

        printf("-\ttext\t-\t%.*s\n", (int) length, text);
        text += length + (text[length] == '\n');
    }
}

static void print_table(const struct command_line *line, const struct flag *flags,
                        int count)
{
    char choices[MESSAGE_SIZE];

    print_text(line->usage);
    if (line->details != NULL) {
        printf("-\ttext\t-\t\n");
        print_text(line->details);
    }
    if (line->common != NULL) { /* for the test that they exist */
        printf("-\tcommon\t-\t%s\n", line->common);
    }
    if (line->argument != NULL) {
        printf("%s\t%s\t%s\t%s\n", line->argument, type_name(line->argument_type),
               line->most > 1 ? "..." : "-", line->argument_help);
    }
    for (int i = 0; i < count; i++) {
        const struct flag *flag = &flags[i];

        if (flag->type == FLAG_HEADING) {
            printf("-\theading\t-\t%s\n", flag->name);
        } else {
            format_choices(choices, sizeof choices, flag);
            printf("--%s\t%s\t%s\t%s\n", flag->name, type_name(flag->type),
                   choices[0] != '\0' ? choices : "-", flag->help);
        }
    }
}

void print_help(enum help kind, const struct command_line *line, const struct flag *flags,
                int count)
{
    const char *separator = "\n"; /* before the first row */
    char        text[2 * MESSAGE_SIZE];
    int         column = 0;

    if (kind == HELP_TABLE) {
        print_table(line, flags, count);
        return;
    }
    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING && is_shown(kind, line, &flags[i])) {
            widen(&column, format_flag(text, sizeof text, &flags[i]));
        }
    }
    printf("usage: %s\n", line->usage);
    if (kind == HELP_ALL && line->details != NULL) {
        printf("\n%s\n", line->details);
    }
    if (line->argument != NULL) {
        snprintf(text, sizeof text, "  %s", line->argument);
        widen(&column, (int) strlen(text));
        printf("\n");
        print_row(text, line->argument_help, column);
        separator = "";
    }
    for (int i = 0; i < count; i++) {
        if (!is_shown(kind, line, &flags[i])) {
            continue;
        }
        if (flags[i].type == FLAG_HEADING) {
            printf("\n%s\n", flags[i].name);
        } else {
            format_flag(text, sizeof text, &flags[i]);
            printf("%s", separator);
            print_row(text, flags[i].help, column);
        }
        separator = "";
    }
    if (kind == HELP_COMMON && line->common != NULL) {
        printf("\n--help=all lists all flags.\n");
    }
}

int asks_for_help(const char *argument)
{
    static const struct {
        const char *name;
        enum help   help;
    } kinds[] = {
        { "-h", HELP_COMMON },
        { "--help", HELP_COMMON },
        { "--help=all", HELP_ALL },
        { "--help=table", HELP_TABLE },
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(argument, kinds[i].name) == 0) {
            return (int) kinds[i].help;
        }
    }
    return -1;
}
