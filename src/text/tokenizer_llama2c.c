/*
 * The tokenizer of llama2.c; see tokenizer.h. Encoding n bytes takes time n log n: the
 * pairs that can merge wait in a heap by score, then position, and a merge, which removes
 * one token of a linked list, only adds the two pairs it makes. Pairs that a merge has
 * broken are recognised when they come up. Memory is 12 bytes per byte of text and 16 per
 * pair.
 */
#include "text/tokenizer_kinds.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTE_TOKENS 3 /* id of byte 0 in a llama2.c vocabulary */

struct token {
    const char *text;
    uint32_t    bytes;
    float       score;
    int16_t     byte; /* of a "<0xHH>" token, else -1 */
};

struct llama2c {
    int64_t       vocab;
    struct token *tokens; /* [vocab] */
    char         *file;
    int32_t      *slots; /* hash table of ids, -1: empty */
    size_t        mask;
    char          bytes[256];
};

/* ===== The vocabulary ===================================================== */

static uint64_t hash(uint64_t h, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) { /* FNV-1a */
        h = (h ^ (unsigned char) text[i]) * 1099511628211u;
    }
    return h;
}

#define HASH_START 14695981039346656037u

/* Id of the token whose text is a followed by b, or -1. */
static int32_t lookup(const struct llama2c *tokenizer, const char *a, size_t a_bytes,
                      const char *b, size_t b_bytes)
{
    uint64_t h = hash(hash(HASH_START, a, a_bytes), b, b_bytes);

    for (size_t i = (size_t) (h ^ h >> 32) & tokenizer->mask; tokenizer->slots[i] >= 0;
         i = (i + 1) & tokenizer->mask) {
        const struct token *t = &tokenizer->tokens[tokenizer->slots[i]];
        if (t->bytes == a_bytes + b_bytes && memcmp(t->text, a, a_bytes) == 0 &&
            memcmp(t->text + a_bytes, b, b_bytes) == 0) {
            return tokenizer->slots[i];
        }
    }
    return -1;
}

/* Of tokens with the same text the first is found. */
static void insert(struct llama2c *tokenizer, int32_t id)
{
    const struct token *t = &tokenizer->tokens[id];
    uint64_t            h = hash(HASH_START, t->text, t->bytes);
    size_t              i = (size_t) (h ^ h >> 32) & tokenizer->mask;

    if (lookup(tokenizer, t->text, t->bytes, "", 0) >= 0) {
        return;
    }
    while (tokenizer->slots[i] >= 0) {
        i = (i + 1) & tokenizer->mask;
    }
    tokenizer->slots[i] = id;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int16_t byte_of(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || hex(text[3]) < 0 ||
        hex(text[4]) < 0 || text[5] != '>') {
        return -1;
    }
    return (int16_t) (hex(text[3]) * 16 + hex(text[4]));
}

static uint32_t read_u32(const char *at)
{
    const unsigned char *p = (const unsigned char *) at;
    return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 |
           (uint32_t) p[3] << 24;
}

/* u32 longest token, then for each token f32 score, i32 bytes and the text. */
static int parse(struct llama2c *tokenizer, const char *path, size_t bytes, char *error,
                 size_t size)
{
    const char *at = tokenizer->file;
    size_t      left = bytes;
    uint32_t    longest;

    if (left < 4) {
        snprintf(error, size, "%s: not a llama2.c tokenizer: %zu bytes", path, bytes);
        return -1;
    }
    longest = read_u32(at);
    at += 4;
    left -= 4;
    for (int64_t id = 0; id < tokenizer->vocab; id++) {
        struct token *t = &tokenizer->tokens[id];
        uint32_t      bits;

        if (left < 8) {
            snprintf(error, size, "%s: ends after %lld tokens, the model has %lld", path,
                     (long long) id, (long long) tokenizer->vocab);
            return -1;
        }
        bits = read_u32(at);
        memcpy(&t->score, &bits, sizeof t->score);
        t->bytes = read_u32(at + 4);
        at += 8;
        left -= 8;
        if (!isfinite(t->score)) {
            snprintf(error, size, "%s: the score of token %lld is not finite", path,
                     (long long) id);
            return -1;
        }
        if (t->bytes == 0 || t->bytes > longest || t->bytes > left) {
            snprintf(error, size, "%s: token %lld has length %ld, must be 1..%lld", path,
                     (long long) id, (long) (int32_t) t->bytes,
                     (long long) (longest < left ? longest : left));
            return -1;
        }
        t->text = at;
        t->byte = byte_of(at, t->bytes);
        at += t->bytes;
        left -= t->bytes;
    }
    if (left > 0) {
        snprintf(error, size, "%s: goes on for %zu bytes after the model's %lld tokens",
                 path, left, (long long) tokenizer->vocab);
        return -1;
    }
    return 0;
}

static void llama2c_free(void *state)
{
    struct llama2c *tokenizer = state;

    free(tokenizer->slots);
    free(tokenizer->tokens);
    free(tokenizer->file);
    free(tokenizer);
}

static int fill(struct llama2c *tokenizer, const char *path, size_t bytes, char *error,
                size_t size)
{
    size_t slots = 16;

    /* Nine bytes make a token: a file too short for the vocabulary allocates nothing. */
    if (bytes / 9 < (size_t) tokenizer->vocab) {
        snprintf(error, size, "%s: %zu bytes are too few for the model's %lld tokens",
                 path, bytes, (long long) tokenizer->vocab);
        return -1;
    }
    while (slots < 2 * (size_t) tokenizer->vocab) {
        slots *= 2;
    }
    tokenizer->mask = slots - 1;
    tokenizer->tokens = calloc((size_t) tokenizer->vocab, sizeof *tokenizer->tokens);
    tokenizer->slots = malloc(slots * sizeof *tokenizer->slots);
    if (!tokenizer->tokens || !tokenizer->slots) {
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    if (parse(tokenizer, path, bytes, error, size) != 0) {
        return -1;
    }
    memset(tokenizer->slots, 0xff, slots * sizeof *tokenizer->slots);
    for (int32_t id = 0; id < tokenizer->vocab; id++) {
        insert(tokenizer, id);
    }
    return 0;
}

static int llama2c_open(void **state, struct tokenizer_file *file, int64_t vocab,
                        int32_t *bos, int32_t *eos, char *error, size_t size)
{
    struct llama2c *tokenizer = calloc(1, sizeof *tokenizer);

    if (!tokenizer) {
        snprintf(error, size, "%s: out of memory", file->path);
        return -1;
    }
    tokenizer->vocab = vocab;
    tokenizer->file = file->data;
    file->data = NULL;
    for (int b = 0; b < 256; b++) {
        tokenizer->bytes[b] = (char) (unsigned char) b;
    }
    if (fill(tokenizer, file->path, file->bytes, error, size) != 0) {
        llama2c_free(tokenizer);
        return -1;
    }
    *bos = vocab > 1 ? 1 : -1;
    *eos = vocab > 2 ? 2 : -1;
    *state = tokenizer;
    return 0;
}

/* ===== Merging ============================================================ */

/* A text being merged: token i covers from i to next[i], ids[i] is -1 once it is gone. */
struct list {
    int32_t *ids, *next, *previous;
    int32_t  count;
};

struct pair {
    float   score;
    int32_t at;          /* place of the left token */
    int32_t left, right; /* ids it was made of      */
};

struct heap {
    struct pair *pairs;
    size_t       count, room;
};

/* Higher score first, then further left. */
static int before(const struct pair *a, const struct pair *b)
{
    return a->score > b->score || (!(a->score < b->score) && a->at < b->at);
}

static int push(struct heap *heap, struct pair pair)
{
    size_t i = heap->count;

    if (i == heap->room) {
        size_t       room = heap->room ? heap->room * 2 : 256;
        struct pair *larger = room > SIZE_MAX / sizeof pair
                                  ? NULL
                                  : realloc(heap->pairs, room * sizeof pair);
        if (!larger) {
            return -1;
        }
        heap->pairs = larger;
        heap->room = room;
    }
    heap->count++;
    while (i > 0 && before(&pair, &heap->pairs[(i - 1) / 2])) {
        heap->pairs[i] = heap->pairs[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->pairs[i] = pair;
    return 0;
}

static struct pair pop(struct heap *heap)
{
    struct pair top = heap->pairs[0], last = heap->pairs[--heap->count];
    size_t      i = 0, child;

    while ((child = 2 * i + 1) < heap->count) {
        if (child + 1 < heap->count &&
            before(&heap->pairs[child + 1], &heap->pairs[child])) {
            child++;
        }
        if (!before(&heap->pairs[child], &last)) {
            break;
        }
        heap->pairs[i] = heap->pairs[child];
        i = child;
    }
    heap->pairs[i] = last;
    return top;
}

static int32_t joint(const struct llama2c *tokenizer, int32_t left, int32_t right)
{
    const struct token *a = &tokenizer->tokens[left], *b = &tokenizer->tokens[right];
    return lookup(tokenizer, a->text, a->bytes, b->text, b->bytes);
}

/* Put the pair whose left token is at place `at` on the heap, if it can merge. */
static int offer(const struct llama2c *tokenizer, const struct list *list,
                 struct heap *heap, int32_t at)
{
    int32_t right, id;

    if (at < 0 || (right = list->next[at]) >= list->count) {
        return 0;
    }
    id = joint(tokenizer, list->ids[at], list->ids[right]);
    /* run.c starts its search for the best at -1e10: lower scores never merge. */
    if (id < 0 || !(tokenizer->tokens[id].score > -1e10f)) {
        return 0;
    }
    struct pair pair = { tokenizer->tokens[id].score, at, list->ids[at],
                         list->ids[right] };
    return push(heap, pair);
}

static int merge(const struct llama2c *tokenizer, struct list *list)
{
    struct heap heap = { NULL, 0, 0 };
    int         status = 0;

    for (int32_t i = 0; status == 0 && i < list->count; i++) {
        status = offer(tokenizer, list, &heap, i);
    }
    while (status == 0 && heap.count > 0) {
        struct pair pair = pop(&heap);
        int32_t     at = pair.at, right;

        if (list->ids[at] != pair.left || (right = list->next[at]) >= list->count ||
            list->ids[right] != pair.right) {
            continue;
        }
        list->ids[at] = joint(tokenizer, pair.left, pair.right);
        list->ids[right] = -1;
        list->next[at] = list->next[right];
        if (list->next[right] < list->count) {
            list->previous[list->next[right]] = at;
        }
        status = offer(tokenizer, list, &heap, list->previous[at]);
        if (status == 0) {
            status = offer(tokenizer, list, &heap, at);
        }
    }
    free(heap.pairs);
    return status;
}

/* ===== Encoding and decoding ============================================== */

/* Bytes of the code point at text: with all that continues it, at most 4, as run.c. */
static size_t code_point(const char *text, size_t left)
{
    size_t n = 1;
    while (n < 4 && n < left && ((unsigned char) text[n] & 0xc0) == 0x80) {
        n++;
    }
    return n;
}

static int append(const struct llama2c *tokenizer, int32_t *ids, int64_t *count,
                  const char *text, size_t bytes, char *error, size_t size)
{
    int32_t id = text[0] == '\0' ? -1 : lookup(tokenizer, text, bytes, "", 0);

    if (id >= 0) {
        ids[(*count)++] = id;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++) {
        int32_t byte = (unsigned char) text[i];
        if (byte + BYTE_TOKENS >= tokenizer->vocab) {
            snprintf(error, size, "the vocabulary has no token for byte 0x%02x",
                     (unsigned) byte);
            return -1;
        }
        ids[(*count)++] = byte + BYTE_TOKENS;
    }
    return 0;
}

static int encode(const struct llama2c *tokenizer, const char *text, size_t bytes,
                  int32_t *ids, int64_t *count, char *error, size_t size)
{
    struct list list = { ids, NULL, NULL, 0 };
    int         status = 0;

    *count = 0;
    if (bytes > 0) {
        status = append(tokenizer, ids, count, " ", 1, error, size);
    }
    for (size_t at = 0, n; status == 0 && at < bytes; at += n) {
        n = code_point(text + at, bytes - at);
        status = append(tokenizer, ids, count, text + at, n, error, size);
    }
    if (status != 0) {
        return -1;
    }
    list.count = (int32_t) *count;
    list.next = malloc(((size_t) *count + 1) * sizeof *list.next);
    list.previous = malloc(((size_t) *count + 1) * sizeof *list.previous);
    status = list.next && list.previous ? 0 : -1;
    for (int32_t i = 0; status == 0 && i < list.count; i++) {
        list.next[i] = i + 1;
        list.previous[i] = i - 1;
    }
    if (status == 0) {
        status = merge(tokenizer, &list);
    }
    if (status == 0) {
        *count = 0;
        for (int32_t i = 0; i < list.count; i++) {
            if (ids[i] >= 0) {
                ids[(*count)++] = ids[i];
            }
        }
    } else {
        snprintf(error, size, "out of memory for %zu bytes of text", bytes);
    }
    free(list.next);
    free(list.previous);
    return status;
}

static int llama2c_encode(const void *state, const char *text, size_t bytes,
                          size_t reserved, int32_t **ids, int64_t *count, char *error,
                          size_t size)
{
    int32_t *list;

    /* A place in the text is an int32. */
    if (bytes > INT32_MAX - 16) {
        snprintf(error, size, "%zu bytes of text are too many, the most is %d", bytes,
                 INT32_MAX - 16);
        return -1;
    }
    list = malloc((reserved + bytes + 1) * sizeof *list);
    if (!list) {
        snprintf(error, size, "out of memory for %zu bytes of text", bytes);
        return -1;
    }
    if (encode(state, text, bytes, list + reserved, count, error, size) != 0) {
        free(list);
        return -1;
    }
    *ids = list;
    return 0;
}

static const char *llama2c_decode(const void *state, int32_t previous, int32_t bos,
                                  int32_t id, size_t *bytes)
{
    const struct llama2c *tokenizer = state;
    const struct token   *t = &tokenizer->tokens[id];
    int                   strip = previous >= 0 && previous == bos && t->text[0] == ' ';

    if (t->byte >= 0) {
        *bytes = 1;
        return &tokenizer->bytes[t->byte];
    }
    *bytes = t->bytes - (size_t) strip;
    return t->text + strip;
}

const struct tokenizer_kind tokenizer_llama2c = { llama2c_open, llama2c_free,
                                                  llama2c_encode, llama2c_decode };
