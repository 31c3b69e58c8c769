/*
 * Files to ids, all in memory: 4 bytes an id, and 16 an example. sampling.c makes batches
 * of them.
 */
#include "text/data.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/jsonl.h"

static int ends_in(const char *path, const char *ending)
{
    size_t length = strlen(path), bytes = strlen(ending);

    return length >= bytes && strcmp(path + length - bytes, ending) == 0;
}

/* Bytes of one raw id by the file's name, 0 for text. */
static size_t id_width(const char *path)
{
    return ends_in(path, ".u16") ? 2 : ends_in(path, ".u32") ? 4 : 0;
}

int data_is_text(const char *path)
{
    return id_width(path) == 0;
}

static int decode_raw(struct data *out, const char *path, const unsigned char *raw,
                      size_t bytes, size_t width, int64_t vocab, char *error, size_t size)
{
    size_t count = bytes / width;

    if (bytes % width != 0) {
        snprintf(error, size, "%s: is %zu bytes, not a multiple of an id's %zu bytes",
                 path, bytes, width);
        return -1;
    }
    if (count > SIZE_MAX / sizeof *out->ids) {
        snprintf(error, size, "%s: holds too many ids", path);
        return -1;
    }
    out->ids = malloc(count * sizeof *out->ids);
    if (out->ids == NULL) {
        snprintf(error, size, "%s: out of memory for %zu ids", path, count);
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const unsigned char *b = raw + i * width;
        uint32_t             id = (uint32_t) b[0] | (uint32_t) b[1] << 8;

        if (width == 4) {
            id |= (uint32_t) b[2] << 16 | (uint32_t) b[3] << 24;
        }
        if ((int64_t) id >= vocab || id > INT32_MAX) {
            snprintf(error, size,
                     "%s: id %zu is %" PRIu32 ", must be below the vocabulary's %" PRId64,
                     path, i, id, vocab);
            return -1;
        }
        out->ids[i] = (int32_t) id;
    }
    out->count = (int64_t) count;
    return 0;
}

static int decode_text(struct data *out, const char *path, const char *bytes,
                       size_t length, const struct tokenizer *tokenizer, int64_t vocab,
                       char *error, size_t size)
{
    char reason[256] = "";

    if (tokenizer_encode(tokenizer, bytes, length, 0, &out->ids, &out->count, reason,
                         sizeof reason) != 0) {
        out->ids = NULL;
        snprintf(error, size, "%s: %s", path, reason);
        return -1;
    }
    for (int64_t i = 0; i < out->count; i++) {
        if (out->ids[i] < 0 || out->ids[i] >= vocab) {
            snprintf(error, size,
                     "%s: token %" PRId64 " is id %" PRId32
                     ", must be below the vocabulary's %" PRId64,
                     path, i, out->ids[i], vocab);
            return -1;
        }
    }
    return 0;
}

int data_load(struct data *out, const char *path, const struct tokenizer *tokenizer,
              int64_t vocab, int64_t context, char *error, size_t size)
{
    struct data data = { 0 };
    char       *bytes;
    size_t      length, width = id_width(path);
    int         result;

    if (width == 0 && tokenizer == NULL) {
        snprintf(error, size, "%s: is text, which needs a tokenizer (--tokenizer)", path);
        return -1;
    }
    if (file_read(path, &bytes, &length, error, size) != 0) {
        return -1;
    }
    if (length == 0) {
        snprintf(error, size, "%s: is empty", path);
        result = -1;
    } else if (width != 0) {
        result = decode_raw(&data, path, (const unsigned char *) bytes, length, width,
                            vocab, error, size);
    } else if (ends_in(path, ".jsonl") || ends_in(path, ".json")) {
        result = jsonl_load(&data, path, bytes, length, tokenizer, vocab, context, error,
                            size);
    } else {
        result = decode_text(&data, path, bytes, length, tokenizer, vocab, error, size);
    }
    free(bytes);
    if (result != 0) {
        data_free(&data);
        return -1;
    }
    *out = data;
    return 0;
}

void data_free(struct data *data)
{
    free(data->ids);
    free(data->start);
    free(data->loss_from);
    memset(data, 0, sizeof *data);
}

int data_check(const struct data *data, const char *path, int64_t context, char *error,
               size_t size)
{
    if (data->examples > 0 || data->count > context) {
        return 0;
    }
    snprintf(error, size,
             "%s: holds %" PRId64 " ids, a window of context %" PRId64
             " and its targets needs one more than the context",
             path, data->count, context);
    return -1;
}

int data_note(const struct data *data, const char *path, int64_t context, char *text,
              size_t size)
{
    size_t used = 0;

    if (data->cut == 0 && data->dropped == 0) {
        return 0;
    }
    used += (size_t) snprintf(text, size, "%s: at --context %" PRId64, path, context);
    if (data->cut > 0 && used < size) {
        used += (size_t) snprintf(text + used, size - used,
                                  " %" PRId64 " of %" PRId64 " examples are cut",
                                  data->cut, data->examples + data->dropped);
    }
    if (data->dropped > 0 && used < size) {
        snprintf(text + used, size - used,
                 "%s %" PRId64 " of %" PRId64 " examples are left out, nothing of them "
                 "is left to predict",
                 data->cut > 0 ? "," : "", data->dropped, data->examples + data->dropped);
    }
    return 1;
}

static uint64_t hash_number(uint64_t hash, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++) { /* FNV-1a */
        hash = (hash ^ (number >> 8 * i & 0xff)) * 1099511628211u;
    }
    return hash;
}

uint64_t data_hash(const struct data *data)
{
    uint64_t hash = hash_number(14695981039346656037u, (uint64_t) data->examples, 8);

    for (int64_t i = 0; i < data->count; i++) {
        hash = hash_number(hash, (uint64_t) data->ids[i], 4);
    }
    for (int64_t i = 0; i < data->examples; i++) {
        hash = hash_number(hash, (uint64_t) data->start[i + 1], 8);
        hash = hash_number(hash, (uint64_t) data->loss_from[i], 8);
    }
    return hash;
}
