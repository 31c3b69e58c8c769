/* Cells are kept as text until all are there: only then the columns' widths are known. */
#include "view/table.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INDENT 2
#define GAP 2          /* between columns; one less where the first would be wrapped */
#define LEAST_FIRST 12 /* the first column is not wrapped to less */

void table_start(struct table *table, int columns)
{
    *table = (struct table){ .columns = columns };
}

/* `rows` counts cells until the table is printed. */
void table_add(struct table *table, const char *format, ...)
{
    va_list arguments;
    char    text[512];
    int     count = table->rows;

    if ((count & (count - 1)) == 0) {
        size_t room = (size_t) (count > 0 ? 2 * count : 1);
        char **grown = realloc(table->cell, room * sizeof *grown);

        if (grown == NULL) {
            table->failed = 1;
            return;
        }
        table->cell = grown;
    }
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    table->cell[count] = strdup(text);
    if (table->cell[count] == NULL) {
        table->failed = 1;
        return;
    }
    table->rows++;
}

/* Characters, not bytes: names may be UTF-8. */
static int width_of(const char *text, size_t bytes)
{
    int width = 0;

    for (size_t i = 0; i < bytes; i++) {
        width += ((unsigned char) text[i] & 0xC0) != 0x80;
    }
    return width;
}

/* Bytes of `text` that go on a line of `width` characters: up to a space, if one is there. */
static size_t line_bytes(const char *text, int width)
{
    size_t end = 0, space = 0;

    while (text[end] != '\0' && width_of(text, end + 1) <= width) {
        end++;
        if (text[end] == ' ') {
            space = end;
        }
    }
    return text[end] == '\0' || space == 0 ? end : space;
}

static void print_row(char *const *cell, int columns, const int *width, int gap)
{
    const char *rest = cell[0];
    size_t      bytes = line_bytes(rest, width[0]);

    while (columns > 1 && cell[columns - 1][0] == '\0') {
        columns--; /* no blanks at the end of a line */
    }
    printf("%*s%.*s", INDENT, "", (int) bytes, rest);
    if (columns > 1) {
        printf("%*s", width[0] - width_of(rest, bytes), "");
    }
    for (int c = 1; c < columns; c++) {
        printf("%*s%s", gap + width[c] - width_of(cell[c], strlen(cell[c])), "", cell[c]);
    }
    putchar('\n');
    for (rest += bytes; *rest != '\0'; rest += bytes) {
        rest += strspn(rest, " ");
        bytes = line_bytes(rest, width[0]);
        printf("%*s%.*s\n", INDENT, "", (int) bytes, rest);
    }
}

int table_print(struct table *table, int width)
{
    int  columns = table->columns, rows = table->rows / columns;
    int  others = INDENT, gap = GAP;
    int *widest = calloc((size_t) columns, sizeof *widest);
    int  result = table->failed || widest == NULL ? -1 : 0;

    for (int i = 0; result == 0 && i < rows * columns; i++) {
        int w = width_of(table->cell[i], strlen(table->cell[i]));

        widest[i % columns] = w > widest[i % columns] ? w : widest[i % columns];
    }
    for (int c = 1; result == 0 && c < columns; c++) {
        others += GAP + widest[c];
    }
    if (result == 0 && widest[0] > width - others) {
        others -= columns - 1;
        gap--;
    }
    if (result == 0 && widest[0] > width - others) {
        widest[0] = width - others > LEAST_FIRST ? width - others : LEAST_FIRST;
    }
    for (int r = 0; result == 0 && r < rows; r++) {
        print_row(table->cell + r * columns, columns, widest, gap);
    }
    for (int i = 0; i < table->rows; i++) {
        free(table->cell[i]);
    }
    free(table->cell);
    free(widest);
    *table = (struct table){ .columns = columns };
    return result;
}

const char *table_number(char text[TABLE_NUMBER], double value)
{
    double size = fabs(value);

    if (!isfinite(value)) {
        snprintf(text, TABLE_NUMBER, "-");
    } else if (size == 0) {
        snprintf(text, TABLE_NUMBER, "0");
    } else if (size < 9.9995e-4 || size >= 99999.5) {
        snprintf(text, TABLE_NUMBER, "%.0e", value);
    } else {
        int digits = size < 9.9995   ? 4
                     : size < 99.995 ? 3
                     : size < 999.95 ? 2
                                     : size < 9999.5;

        snprintf(text, TABLE_NUMBER, "%.*f", digits > 0 ? digits : 0, value);
    }
    return text;
}

int table_width(void)
{
    struct winsize window;

    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 &&
                   window.ws_col > 80
               ? window.ws_col
               : 80;
}
