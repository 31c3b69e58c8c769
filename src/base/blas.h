/* Which BLAS is under the program: what has to be said to it that CBLAS has no words for. */
#ifndef BEAMLORA_SRC_BLAS_H
#define BEAMLORA_SRC_BLAS_H

/*
 * An OpenBLAS that is older than the processor may not know it and take its slowest
 * kernels, a tenth as fast as those of the nearest relative. Where that has happened, the
 * program is started again with OPENBLAS_CORETYPE saying which to take. A user's own
 * OPENBLAS_CORETYPE is left alone.
 */
void blas_choose_kernels(char **argv);

/* From now on one thread: the program's own threads call it. */
void blas_leave_cores(void);

/* Whether the BLAS copies operands into memory of its own, as those in several threads do
 * and the reference BLAS does not. */
int blas_packs(void);

#endif
