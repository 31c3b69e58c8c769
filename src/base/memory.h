/* The machine's memory: asked before it is promised away. */
#ifndef BEAMLORA_SRC_MEMORY_H
#define BEAMLORA_SRC_MEMORY_H

#include <stddef.h>

/* 0, or -1 if `bytes` are more than the machine has, with the line "WHAT need 7.1 GiB, the
 * machine has 3.9: REMEDY" in error[size]. */
int memory_check(double bytes, const char *what, const char *remedy, char *error,
                 size_t size);

/* The most memory that the process had until now, in bytes; 0: not known. Not getrusage's,
 * which remembers what the process was before it was this program. */
double memory_peak(void);

#endif
