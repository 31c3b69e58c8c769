/* Particular to one BLAS or another; see blas.h. Whatever a BLAS does not have is NULL, and
 * the program does without. */
#define _POSIX_C_SOURCE 200809L

#include "base/blas.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__GNUC__)
extern char *openblas_get_corename(void) __attribute__((weak));
extern void  openblas_set_num_threads(int count) __attribute__((weak));
extern void  bli_thread_set_num_threads(long count) __attribute__((weak));
#endif

#if defined(__GNUC__) && defined(__x86_64__)
/* The kernels of OpenBLAS that this processor can run; NULL: nothing better than those
 * that every processor can. */
static const char *best_kernels(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return "SkylakeX";
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "Haswell"
                                                                           : NULL;
}
#endif

void blas_choose_kernels(char **argv)
{
#if defined(__GNUC__) && defined(__x86_64__)
    const char *name = best_kernels();
    char        self[4096];
    ssize_t     length;

    if (name != NULL && openblas_get_corename != NULL &&
        strcmp(openblas_get_corename(), "Prescott") == 0 &&
        getenv("OPENBLAS_CORETYPE") == NULL &&
        setenv("OPENBLAS_CORETYPE", name, 1) == 0) {
        length = readlink("/proc/self/exe", self, sizeof self - 1);
        self[length > 0 ? length : 0] = '\0';
        execv(self, argv); /* and if that is not possible, slowly */
    }
#else
    (void) argv;
#endif
}

int blas_packs(void)
{
#if defined(__GNUC__)
    return openblas_set_num_threads != NULL || bli_thread_set_num_threads != NULL;
#else
    return 1;
#endif
}

void blas_leave_cores(void)
{
#if defined(__GNUC__)
    if (openblas_set_num_threads != NULL) {
        openblas_set_num_threads(1);
    }
    if (bli_thread_set_num_threads != NULL) {
        bli_thread_set_num_threads(1);
    }
#endif
}
