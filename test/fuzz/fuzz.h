/*
 * What the fuzz targets share. A target fuzz_X.c is one function, run by libFuzzer
 * (`make fuzz FUZZ=X`) or, over the files in corpus/X, by replay.c (`make check`).
 *
 * An input that stands for several files is cut at lines "@@". A safetensors file may be
 * given as text, so that its lengths and offsets fit together: see fuzz_safetensors.
 */
#ifndef BEAMLORA_TEST_FUZZ_FUZZ_H
#define BEAMLORA_TEST_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "beamlora.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold in every build. */
#define fuzz_check(condition)                                                            \
    ((condition) ? (void) 0 : fuzz_abort(__FILE__, __LINE__, #condition))
void fuzz_abort(const char *file, int line, const char *what);

/* An error line: not empty, one line, nothing that moves a cursor. */
void fuzz_check_line(const char *line);

/* ===== Inputs ============================================================= */

struct fuzz_input { /* what is left of one */
    const uint8_t *data;
    size_t         size;
};

uint8_t           fuzz_byte(struct fuzz_input *from); /* 0 at the end */
struct fuzz_input fuzz_line(struct fuzz_input *from); /* without its end */
struct fuzz_input fuzz_part(struct fuzz_input *from); /* up to a line "@@" */

/* Decimal number at the start of a line, 0 for none; within +-10^9. */
int64_t fuzz_number(struct fuzz_input *line);

/* memcpy and malloc that take 0; the copy has exactly its bytes, so that a sanitizer sees
 * a step outside. */
void *fuzz_copy(const void *data, size_t size);

/*
 * A safetensors file in memory, malloc'ed. The part is
 *
 *     { ...             a header up to the first newline, a line with a number of data
 *                       bytes, and what they are filled with, repeated
 *     NAME DTYPE 2 3    lines of tensors, #KEY VALUE of metadata, up to an empty line, and
 *                       what the data is filled with; offsets and sizes fit
 *     = ...             the file itself
 */
uint8_t *fuzz_safetensors(struct fuzz_input part, size_t *size);

/*
 * A valid file, changed: edits are a byte of kind, two of place, one of length and bytes.
 * Overwritten, inserted or deleted; the place counts from the start or, with a bit, in
 * words of 8 bytes. *data is malloc'ed and becomes another.
 */
void fuzz_edit(struct fuzz_input edits, uint8_t **data, size_t *size);

/* ===== Files ============================================================== */

/* Path in a folder of this process, which goes at exit; in one of eight buffers. */
const char *fuzz_path(const char *name);
void        fuzz_write(const char *name, const void *data, size_t size);
void        fuzz_remove(const char *name); /* a file, if there is one */
/* What a reader is made to print goes nowhere. */
void fuzz_silence(void);

/* ===== Groups ============================================================= */

/* A new group of two small adapters: variants differ in method, DoRA, dtype, history and
 * optimizer. */
enum { FUZZ_VARIANTS = 9 };
bl_group *fuzz_group(int variant);
/* Some steps with gradients, and a reallocation: what a state is good for. */
void fuzz_train(bl_group *group, int steps);
/* bl_group_save into malloc'ed memory. */
uint8_t *fuzz_save(const bl_group *group, size_t *size);

#endif
