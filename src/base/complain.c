/* How every part of the program speaks on stderr. */
#include "base/program.h"

#include <stdarg.h>
#include <stdio.h>

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
