/* See line.h. */
#include "base/line.h"

void line_clean(char *line)
{
    for (; *line != '\0'; line++) {
        if ((unsigned char) *line < 0x20 || *line == 0x7f) {
            *line = '?';
        }
    }
}
