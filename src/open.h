/* What the subcommands work with: a model, its tokenizer, an adapter. */
#ifndef BEAMLORA_SRC_OPEN_H
#define BEAMLORA_SRC_OPEN_H

#include "adapters/adapters.h"
#include "base/threads.h"
#include "model/llama.h"
#include "text/tokenizer.h"

struct opened {
    struct threads              *threads;
    struct llama                *model;
    struct tokenizer            *tokenizer; /* NULL: none needed, none given */
    struct llama_adapters        loaded;
    const struct llama_adapters *adapters; /* &loaded, or NULL: the bare model */
};

/*
 *   model      llama2.c file or Hugging Face directory
 *   tokenizer  as for tokenizer_open, NULL: the model's own
 *   text       0: no tokenizer is needed, and only one that is given is opened
 *   adapter    NULL, or with a path of NULL: none
 *   threads    how many, as for threads_create
 *
 * 0, or -1 with a line in error[size]. out->adapters points into *out: leave it in place.
 */
int  open_model(struct opened *out, const char *model, const char *tokenizer, int text,
                const struct adapter_source *adapter, int64_t threads, char *error,
                size_t size);
void open_free(struct opened *opened);

#endif
