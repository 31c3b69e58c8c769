#include "program.h"
int command_plot(int argc, char **argv)
{
    (void) argc;
    (void) argv;
    return 0;
}
