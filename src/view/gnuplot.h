/*
 * Pictures through gnuplot, which is a program, not a library. It gets a script on its
 * standard input and gives the picture on its standard output: no name of a file and no
 * shell comes near it. Text from outside goes through gnuplot_text.
 */
#ifndef BEAMLORA_SRC_GNUPLOT_H
#define BEAMLORA_SRC_GNUPLOT_H

#include <stddef.h>
#include <stdio.h>

enum gnuplot_format { GNUPLOT_PNG, GNUPLOT_SVG, GNUPLOT_FORMATS };

/* A script to be written to; sizes of points in it are multiples of P. NULL: no room for
 * a temporary file. Close with fclose. */
FILE *gnuplot_script(void);

/* Text as a string of the script: nothing in it is interpreted. What is not printable
 * or not UTF-8 becomes '?'. */
void gnuplot_text(FILE *script, const char *text);

/* Draw a script to DIRECTORY/NAME.png or .svg, which appears as a whole or not at all.
 * path [path_size] gets its name. 0, or -1 with a line. */
int gnuplot_draw(FILE *script, enum gnuplot_format format, const char *directory,
                 const char *name, char *path, size_t path_size, char *error,
                 size_t size);

#endif
