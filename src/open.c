/* See open.h. */
#include "open.h"

#include <string.h>

int open_model(struct opened *out, const char *model, const char *tokenizer, int text,
               const struct adapter_source *adapter, int64_t threads, char *error,
               size_t size)
{
    memset(out, 0, sizeof *out);
    if (threads_create(&out->threads, threads, error, size) != 0 ||
        llama_load(&out->model, model, error, size) != 0) {
        goto failed;
    }
    out->model->threads = out->threads;
    if ((text || tokenizer != NULL) &&
        tokenizer_open(&out->tokenizer, tokenizer, model, &out->model->config, error,
                       size) != 0) {
        goto failed;
    }
    if (adapter != NULL && adapter->path != NULL) {
        if (adapters_load(&out->loaded, out->model, adapter, error, size) != 0) {
            goto failed;
        }
        out->adapters = &out->loaded;
    }
    return 0;

failed:
    open_free(out);
    return -1;
}

void open_free(struct opened *opened)
{
    adapters_free(&opened->loaded);
    tokenizer_free(opened->tokenizer);
    llama_free(opened->model);
    threads_free(opened->threads);
    memset(opened, 0, sizeof *opened);
}
