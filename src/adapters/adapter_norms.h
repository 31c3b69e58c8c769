/* Exact Frobenius norms of a PEFT adapter directory, without its base model. */
#ifndef BEAMLORA_SRC_ADAPTER_NORMS_H
#define BEAMLORA_SRC_ADAPTER_NORMS_H

#include <stddef.h>
#include <stdint.h>

struct adapter_module {
    char   *name;
    int64_t in, out, rank;
    double  whole; /* |c B A|: what the adapter adds to the weight    */
    double *norm;  /* [rank] |c b_i a_i|: what one rank adds          */
};

struct adapter_norms {
    struct adapter_module *module; /* [modules] by layer, as the numbers in names go */
    int64_t                modules;
};

/* 0, or -1 with a line that names the file. */
int  adapter_norms_read(struct adapter_norms *out, const char *directory, char *error,
                        size_t size);
void adapter_norms_free(struct adapter_norms *norms);

#endif
