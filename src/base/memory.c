/* The system grants more memory than it has and kills who uses it: ask before. */
#define _POSIX_C_SOURCE 200809L

#include "base/memory.h"

#include <stdio.h>
#include <unistd.h>

int memory_check(double bytes, const char *what, const char *remedy, char *error,
                 size_t size)
{
    double machine = (double) sysconf(_SC_PHYS_PAGES) * (double) sysconf(_SC_PAGESIZE);

    if (machine > 0 && bytes > machine) {
        snprintf(error, size, "%s need %.1f GiB, the machine has %.1f: %s", what,
                 bytes / 0x1p30, machine / 0x1p30, remedy);
        return -1;
    }
    return 0;
}

double memory_peak(void)
{
    FILE     *file = fopen("/proc/self/status", "r");
    char      line[256];
    long long kilobytes = 0;

    while (file != NULL && fgets(line, sizeof line, file) != NULL &&
           sscanf(line, "VmHWM: %lld", &kilobytes) != 1) {
    }
    if (file != NULL) {
        fclose(file);
    }
    return (double) kilobytes * 1024;
}
