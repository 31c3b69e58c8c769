/* The choice of a tokenizer, and bytes, which need no file; see tokenizer.h. */
#define _POSIX_C_SOURCE 200809L

#include "text/tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/llama.h"
#include "base/file.h"
#include "text/tokenizer_kinds.h"

struct tokenizer {
    int64_t                      vocab;
    int32_t                      bos, eos;
    const struct tokenizer_kind *kind; /* NULL: bytes */
    void                        *state;
    char                         bytes[256];
};

/* ===== Files ============================================================== */

/*
 * A SentencePiece model is a protobuf that begins with its pieces, each a protobuf that
 * begins with its text. As a llama2.c file this would say that its longest token is at
 * least 655,370 bytes long.
 */
static int is_sentencepiece(const struct tokenizer_file *file)
{
    return file->bytes > 2 && file->data[0] == '\n' && file->data[2] == '\n';
}

#ifdef BEAMLORA_SENTENCEPIECE
static const struct tokenizer_kind *const sentencepiece = &tokenizer_sentencepiece;
#else
static const struct tokenizer_kind *const sentencepiece = NULL;
#endif

static int open_file(struct tokenizer *tokenizer, const char *path, char *error,
                     size_t size)
{
    struct tokenizer_file        file = { path, NULL, 0 };
    const struct tokenizer_kind *kind;
    int                          status = -1;

    if (file_read(path, &file.data, &file.bytes, error, size) != 0) {
        return -1;
    }
    kind = is_sentencepiece(&file) ? sentencepiece : &tokenizer_llama2c;
    if (!kind) {
        snprintf(error, size,
                 "%s: is a SentencePiece model, and this program was built without "
                 "SentencePiece; `make SENTENCEPIECE=1` builds it in",
                 path);
    } else if (kind->open(&tokenizer->state, &file, tokenizer->vocab, &tokenizer->bos,
                          &tokenizer->eos, error, size) == 0) {
        tokenizer->kind = kind;
        status = 0;
    }
    free(file.data);
    return status;
}

/* ===== The choice ========================================================= */

static int open_bytes(struct tokenizer *tokenizer, char *error, size_t size)
{
    if (tokenizer->vocab < 256) {
        snprintf(error, size,
                 "bytes need a vocabulary of 256 or more, the model has %lld",
                 (long long) tokenizer->vocab);
        return -1;
    }
    for (int b = 0; b < 256; b++) {
        tokenizer->bytes[b] = (char) (unsigned char) b;
    }
    tokenizer->bos = tokenizer->vocab > 256 ? 256 : -1;
    tokenizer->eos = tokenizer->vocab > 257 ? 257 : -1;
    return 0;
}

static int has_file(char *path, size_t room, const char *directory, const char *name)
{
    int length = snprintf(path, room, "%s/%s", directory, name);

    return length >= 0 && (size_t) length < room && access(path, F_OK) == 0;
}

static int open_beside(struct tokenizer *tokenizer, const char *model_path, char *error,
                       size_t size)
{
    char        path[PATH_MAX];
    struct stat status;

    if (stat(model_path, &status) == 0 && !S_ISDIR(status.st_mode)) {
        snprintf(error, size,
                 "%s: a file has no tokenizer beside it; say which: --tokenizer FILE, or "
                 "--tokenizer bytes",
                 model_path);
        return -1;
    }
    if (has_file(path, sizeof path, model_path, "tokenizer.bin") ||
        has_file(path, sizeof path, model_path, "tokenizer.model")) {
        return open_file(tokenizer, path, error, size);
    }
    if (has_file(path, sizeof path, model_path, "tokenizer.json")) {
        snprintf(error, size,
                 "%s: is not read by this program; make ids of the data in Python, "
                 "transformers.AutoTokenizer.from_pretrained(DIR).encode(text), and give "
                 "them as a .u16 or .u32 file: docs/data.md has it in full",
                 path);
        return -1;
    }
    snprintf(error, size,
             "%s: has neither tokenizer.bin nor tokenizer.model; say which: "
             "--tokenizer FILE, or --tokenizer bytes",
             model_path);
    return -1;
}

/* What the model's own config says of BOS and EOS goes before all else. */
static int take_ids(struct tokenizer *tokenizer, const struct llama_config *config,
                    char *error, size_t size)
{
    if (config->bos >= tokenizer->vocab || config->eos >= tokenizer->vocab) {
        snprintf(error, size,
                 "the model's BOS is %lld and EOS %lld, must be below its vocabulary of "
                 "%lld",
                 (long long) config->bos, (long long) config->eos,
                 (long long) tokenizer->vocab);
        return -1;
    }
    tokenizer->bos = config->bos >= 0 ? (int32_t) config->bos : tokenizer->bos;
    tokenizer->eos = config->eos >= 0 ? (int32_t) config->eos : tokenizer->eos;
    return 0;
}

int tokenizer_open(struct tokenizer **out, const char *what, const char *model_path,
                   const struct llama_config *config, char *error, size_t size)
{
    struct tokenizer *tokenizer;
    int               status;

    if (config->vocab < 1 || config->vocab > INT32_MAX) {
        snprintf(error, size, "a vocabulary of %lld tokens is not possible",
                 (long long) config->vocab);
        return -1;
    }
    tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        snprintf(error, size, "out of memory");
        return -1;
    }
    tokenizer->vocab = config->vocab;
    if (strcmp(what ? what : config->tokenizer, "bytes") == 0) {
        status = open_bytes(tokenizer, error, size);
    } else if (what) {
        status = open_file(tokenizer, what, error, size);
    } else {
        status = open_beside(tokenizer, model_path, error, size);
    }
    if (status != 0 || take_ids(tokenizer, config, error, size) != 0) {
        tokenizer_free(tokenizer);
        return -1;
    }
    *out = tokenizer;
    return 0;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer) {
        return;
    }
    if (tokenizer->kind) {
        tokenizer->kind->free(tokenizer->state);
    }
    free(tokenizer);
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int tokenizer_is_llama2c(const struct tokenizer *tokenizer)
{
    return tokenizer->kind == &tokenizer_llama2c;
}

/* ===== Encoding and decoding ============================================== */

static int encode_bytes(const char *text, size_t bytes, size_t reserved, int32_t **ids,
                        int64_t *count, char *error, size_t size)
{
    int32_t *list = bytes < SIZE_MAX / sizeof *list - 2
                        ? malloc((reserved + bytes + 1) * sizeof *list)
                        : NULL;

    if (!list) {
        snprintf(error, size, "out of memory for %zu bytes of text", bytes);
        return -1;
    }
    for (size_t i = 0; i < bytes; i++) {
        list[reserved + i] = (unsigned char) text[i];
    }
    *ids = list;
    *count = (int64_t) bytes;
    return 0;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                     int bos, int32_t **ids, int64_t *count, char *error, size_t size)
{
    size_t first = bos && tokenizer->bos >= 0;
    int    status;

    if (tokenizer->kind) {
        status = tokenizer->kind->encode(tokenizer->state, text, bytes, first, ids, count,
                                         error, size);
    } else {
        status = encode_bytes(text, bytes, first, ids, count, error, size);
    }
    if (status == 0 && first) {
        (*ids)[0] = tokenizer->bos;
        ++*count;
    }
    return status;
}

const char *tokenizer_decode(const struct tokenizer *tokenizer, int32_t previous,
                             int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= tokenizer->vocab || (!tokenizer->kind && id > 255)) {
        return "";
    }
    if (tokenizer->kind) {
        return tokenizer->kind->decode(tokenizer->state, previous, tokenizer->bos, id,
                                       bytes);
    }
    *bytes = 1;
    return &tokenizer->bytes[id];
}
