/*
 * A llama2.c version 0 file, mapped into memory: seven little-endian int32 (dim, hidden,
 * layers, heads, kv_heads, vocab, context), then float32 arrays, nothing after. With a
 * negative vocab the output head is an array of its own at the end. The two rotary tables
 * before it are skipped: angles are computed, so a window may be longer than they are.
 */
#define _POSIX_C_SOURCE 200809L

#include "model/llama_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are used where the file is mapped: a little-endian machine is needed"
#endif

#define HEADER_BYTES 28

/* A place among the mapped floats, and whether an int64 was too small to count them. */
struct cursor {
    const float *at; /* NULL: only count */
    int64_t      count;
    int          overflow;
};

/* The next array of rows * columns * times floats. */
static const float *take(struct cursor *cursor, int64_t times, int64_t rows,
                         int64_t columns)
{
    const float *here = cursor->at ? cursor->at + cursor->count : NULL;
    int64_t      room = INT64_MAX / 8 - cursor->count;

    /* Each factor is below 2^31, so a product of two fits; the third may not. */
    if (rows * columns > room / times) {
        cursor->overflow = 1;
        return NULL;
    }
    cursor->count += times * rows * columns;
    return here;
}

/* Walk the arrays in the order of the file; with layers still NULL only count. */
static void place(struct llama *model, struct cursor *cursor)
{
    static const int           before[] = { LLAMA_Q, LLAMA_K, LLAMA_V, LLAMA_O };
    static const int           after[] = { LLAMA_GATE, LLAMA_DOWN, LLAMA_UP };
    const struct llama_config *c = &model->config;
    const float               *start[LLAMA_PROJECTIONS], *attention_norm, *ffn_norm;

    model->embedding = (struct weight){ take(cursor, 1, c->vocab, c->dim), BL_F32 };
    attention_norm = take(cursor, 1, c->layers, c->dim);
    for (int i = 0; i < 4; i++) {
        int64_t out, in;
        llama_projection_shape(c, before[i], &out, &in);
        start[before[i]] = take(cursor, c->layers, out, in);
    }
    ffn_norm = take(cursor, 1, c->layers, c->dim);
    for (int i = 0; i < 3; i++) {
        int64_t out, in;
        llama_projection_shape(c, after[i], &out, &in);
        start[after[i]] = take(cursor, c->layers, out, in);
    }
    model->final_norm = take(cursor, 1, 1, c->dim);
    take(cursor, 2, c->max_context, c->head_dim / 2);
    model->head = model->embedding;
    if (!c->tied) {
        model->head.data = take(cursor, 1, c->vocab, c->dim);
    }

    for (int64_t l = 0; model->layers && l < c->layers; l++) {
        struct llama_layer *layer = &model->layers[l];
        layer->attention_norm = attention_norm + l * c->dim;
        layer->ffn_norm = ffn_norm + l * c->dim;
        for (int p = 0; p < LLAMA_PROJECTIONS; p++) {
            int64_t out, in;
            llama_projection_shape(c, p, &out, &in);
            layer->projection[p] = (struct weight){ start[p] + l * out * in, BL_F32 };
        }
    }
}

static int read_header(struct llama_config *c, const void *data, const char *path,
                       char *error, size_t size)
{
    static const char *const names[] = { "dim",     "hidden_dim", "n_layers",
                                         "n_heads", "n_kv_heads", "vocab_size",
                                         "seq_len" };
    int32_t                  header[7];

    memcpy(header, data, sizeof header);
    for (int i = 0; i < 7; i++) {
        if (header[i] == 0 || (header[i] < 0 && i != 5) || header[i] == INT32_MIN) {
            snprintf(error, size, "%s: not a llama2.c model: %s is %d", path, names[i],
                     (int) header[i]);
            return -1;
        }
    }
    c->tied = header[5] > 0;
    c->dim = header[0];
    c->hidden = header[1];
    c->layers = header[2];
    c->heads = header[3];
    c->kv_heads = header[4];
    c->vocab = c->tied ? header[5] : -(int64_t) header[5];
    c->max_context = header[6];
    if (c->dim % c->heads != 0) {
        snprintf(error, size, "%s: dim %d is not a multiple of n_heads %d", path,
                 (int) header[0], (int) header[3]);
        return -1;
    }
    if (c->heads % c->kv_heads != 0) {
        snprintf(error, size, "%s: n_heads %d is not a multiple of n_kv_heads %d", path,
                 (int) header[3], (int) header[4]);
        return -1;
    }
    c->head_dim = c->dim / c->heads;
    if (c->head_dim % 2 != 0) {
        snprintf(error, size, "%s: dim / n_heads is %d, must be even", path,
                 (int) c->head_dim);
        return -1;
    }
    c->norm_epsilon = 1e-5;
    c->rope_theta = 10000.0;
    c->interleaved = 1;
    c->bos = -1; /* the file does not say; its tokenizer does */
    c->eos = -1;
    return 0;
}

/* Map a file of at least the header's size. */
static int map_file(struct llama *model, const char *path, char *error, size_t size)
{
    struct stat status;
    int         file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0 || fstat(file, &status) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
        goto failed;
    }
    if (!S_ISREG(status.st_mode)) {
        snprintf(error, size, "%s: not a file", path);
        goto failed;
    }
    if (status.st_size < HEADER_BYTES) {
        snprintf(error, size, "%s: not a llama2.c model: %lld bytes, the header has %d",
                 path, (long long) status.st_size, HEADER_BYTES);
        goto failed;
    }
    model->map_bytes = (size_t) status.st_size;
    model->map = mmap(NULL, model->map_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (model->map == MAP_FAILED) {
        model->map = NULL;
        snprintf(error, size, "%s: %s", path, strerror(errno));
        goto failed;
    }
    close(file);
    return 0;

failed:
    if (file >= 0) {
        close(file);
    }
    return -1;
}

int llama_load_bin(struct llama **out, const char *path, char *error, size_t size)
{
    struct llama *model = calloc(1, sizeof *model);
    struct cursor cursor = { NULL, 0, 0 };

    if (!model) {
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    if (map_file(model, path, error, size) != 0 ||
        read_header(&model->config, model->map, path, error, size) != 0) {
        goto failed;
    }
    /* The file's size is compared before anything is made as large as the header says. */
    place(model, &cursor);
    if (cursor.overflow ||
        HEADER_BYTES + (uint64_t) cursor.count * sizeof(float) != model->map_bytes) {
        if (cursor.overflow) {
            snprintf(error, size,
                     "%s: not a llama2.c model: the header's sizes are absurd", path);
        } else {
            snprintf(error, size, "%s: has %zu bytes, by its header it should have %lld",
                     path, model->map_bytes,
                     (long long) (HEADER_BYTES + cursor.count * (int64_t) sizeof(float)));
        }
        goto failed;
    }
    model->layers = calloc((size_t) model->config.layers, sizeof *model->layers);
    if (!model->layers) {
        snprintf(error, size, "%s: out of memory", path);
        goto failed;
    }
    cursor.at = (const float *) (const void *) ((const char *) model->map + HEADER_BYTES);
    cursor.count = 0;
    place(model, &cursor);
    *out = model;
    return 0;

failed:
    llama_free(model);
    return -1;
}
