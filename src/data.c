/*
 * The ids a training or evaluation runs over, all in memory: 4 bytes an id. Windows are
 * drawn with replacement by a counter-based generator, so that step t's batch is the
 * same whatever came before it.
 */
#define _POSIX_C_SOURCE 200809L

#include "data.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The whole of an open file, which may be a pipe: its size is only a hint. */
static int read_stream(FILE *file, size_t hint, unsigned char **out, size_t *bytes)
{
    size_t         capacity = hint + 1, used = 0;
    unsigned char *buffer = malloc(capacity);

    while (buffer != NULL) {
        unsigned char *larger;

        used += fread(buffer + used, 1, capacity - used, file);
        if (used < capacity) {
            break;
        }
        larger = capacity <= SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;
        if (larger == NULL) {
            free(buffer);
        }
        buffer = larger;
        capacity *= 2;
    }
    if (buffer == NULL) {
        errno = ENOMEM;
        return -1;
    }
    if (ferror(file)) {
        int saved = errno;

        free(buffer);
        errno = saved;
        return -1;
    }
    *out = buffer;
    *bytes = used;
    return 0;
}

static int read_file(const char *path, unsigned char **out, size_t *bytes, char *error,
                     size_t size)
{
    struct stat status;
    FILE       *file = fopen(path, "rb");
    int         result = -1;

    if (file == NULL || fstat(fileno(file), &status) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(status.st_mode)) {
        snprintf(error, size, "%s: is a directory, not a file of text or ids", path);
    } else if (read_stream(file, status.st_size > 0 ? (size_t) status.st_size : 65536,
                           out, bytes) != 0) {
        snprintf(error, size, "%s: %s", path, strerror(errno));
    } else if (*bytes == 0) {
        free(*out);
        snprintf(error, size, "%s: is empty", path);
    } else {
        result = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return result;
}

/* Bytes of one raw id by the file's name, 0 for text. */
static size_t id_width(const char *path)
{
    size_t length = strlen(path);

    if (length >= 4 && strcmp(path + length - 4, ".u16") == 0) {
        return 2;
    }
    return length >= 4 && strcmp(path + length - 4, ".u32") == 0 ? 4 : 0;
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

static int decode_text(struct data *out, const char *path, const unsigned char *bytes,
                       size_t length, const struct tokenizer *tokenizer, int64_t vocab,
                       char *error, size_t size)
{
    char reason[256] = "";

    if (tokenizer == NULL) {
        snprintf(error, size, "%s: is text, which needs a tokenizer (--tokenizer)", path);
        return -1;
    }
    if (tokenizer_encode(tokenizer, (const char *) bytes, length, 0, &out->ids,
                         &out->count, reason, sizeof reason) != 0) {
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
              int64_t vocab, char *error, size_t size)
{
    struct data    data = { NULL, 0 };
    unsigned char *bytes;
    size_t         length, width = id_width(path);
    int            result;

    if (read_file(path, &bytes, &length, error, size) != 0) {
        return -1;
    }
    if (width != 0) {
        result = decode_raw(&data, path, bytes, length, width, vocab, error, size);
    } else {
        result = decode_text(&data, path, bytes, length, tokenizer, vocab, error, size);
    }
    free(bytes);
    if (result != 0) {
        free(data.ids);
        return -1;
    }
    *out = data;
    return 0;
}

void data_free(struct data *data)
{
    free(data->ids);
    data->ids = NULL;
    data->count = 0;
}

int data_check(const struct data *data, const char *path, int64_t context, char *error,
               size_t size)
{
    if (data->count > context) {
        return 0;
    }
    snprintf(error, size,
             "%s: holds %" PRId64 " ids, a window of context %" PRId64
             " and its targets needs one more than the context",
             path, data->count, context);
    return -1;
}

/* The finaliser of splitmix64: every bit of x changes half of the bits of the result. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

int64_t data_window(const struct data *data, int64_t context, uint64_t seed, int64_t step,
                    int64_t index)
{
    uint64_t starts = (uint64_t) (data->count - context);
    uint64_t key = mix(mix(mix(seed) ^ (uint64_t) step) ^ (uint64_t) index);
    /* Draws above the last multiple of `starts` would favour the first windows. */
    uint64_t excess = (UINT64_MAX % starts + 1) % starts;

    for (uint64_t attempt = 0;; attempt++) {
        uint64_t draw = mix(key + attempt);

        if (draw <= UINT64_MAX - excess) {
            return (int64_t) (draw % starts);
        }
    }
}
