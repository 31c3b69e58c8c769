/*
 * Tables of text for a terminal. The first column is set flush left and wrapped where
 * the table would be too wide; the others are set flush right and never cut.
 */
#ifndef BEAMLORA_SRC_TABLE_H
#define BEAMLORA_SRC_TABLE_H

#include <stddef.h>

struct table {
    char **cell; /* [rows][columns] */
    int    columns, rows;
    int    failed; /* out of memory: nothing is printed */
};

#if defined(__GNUC__)
#define TABLE_FORMAT __attribute__((format(printf, 2, 3)))
#else
#define TABLE_FORMAT
#endif

void table_start(struct table *table, int columns);

/* The next cell, row by row. */
void table_add(struct table *table, const char *format, ...) TABLE_FORMAT;

/* Print to stdout, `width` columns wide at most, indented by two, and free it. 0, or -1
 * when there was no memory for it. */
int table_print(struct table *table, int width);

/* A number in six characters, or in seven below 0: four significant digits, where they
 * fit; "-" for one that is not finite. */
#define TABLE_NUMBER 16
const char *table_number(char text[TABLE_NUMBER], double value);

/* Columns of the terminal that stdout is, 80 where it is none, 80 at least. */
int table_width(void);

#endif
