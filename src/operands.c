/* Arguments that are no flags: folders, before, between or after the flags. */
#include "program.h"

#include <string.h>

/* Does "--name" of these flags take the argument behind it? */
static int takes_next(const char *argument, const struct flag *flags, int count)
{
    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING && strcmp(argument + 2, flags[i].name) == 0) {
            return flags[i].type != FLAG_SWITCH;
        }
    }
    return 0;
}

int take_operands(int *argc, char **argv, const struct flag *flags, int count,
                  const char **operands)
{
    int taken = 0, kept = 0;

    for (int i = 0; i < *argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            operands[taken++] = argv[i];
        } else {
            char *flag = argv[i];

            argv[kept++] = flag;
            if (takes_next(flag, flags, count) && i + 1 < *argc &&
                strncmp(argv[i + 1], "--", 2) != 0) {
                argv[kept++] = argv[++i];
            }
        }
    }
    *argc = kept;
    return taken;
}
