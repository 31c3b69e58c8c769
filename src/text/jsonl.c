/*
 * JSON lines to examples; see jsonl.h. A line is parsed, encoded and let go before the
 * next, so the memory is that of the ids and of the longest line.
 */
#include "text/jsonl.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/line.h"

#define KEYS_SHOWN 80 /* bytes of a line's own keys in a message */

struct reader {
    struct data            *out;
    const char             *path;
    int64_t                 line; /* from 1 */
    const struct tokenizer *tokenizer;
    int64_t                 vocab, context;
    int64_t                 room, example_room; /* of ids, of start and loss_from */
    int64_t                 needed;             /* context for any dropped example */
    char                   *error;
    size_t                  size;
};

/* The two strings of a line; prompt is NULL in a plain text. */
struct pair {
    const char *prompt, *completion;
    size_t      prompt_bytes, completion_bytes;
};

/* "FILE:LINE: what", where a token of the text may have brought control characters. */
static int fail(const struct reader *r, const char *what)
{
    snprintf(r->error, r->size, "%s:%" PRId64 ": %s", r->path, r->line, what);
    line_clean(r->error);
    return -1;
}

/* ===== A line ============================================================= */

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "true or false";
    }
}

static int no_keys(const struct reader *r, json_t *object)
{
    char   keys[KEYS_SHOWN + 8] = "", text[320];
    size_t used = 0;

    for (void *at = json_object_iter(object); at != NULL;
         at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);

        if (used + strlen(key) + 4 > KEYS_SHOWN) {
            used += (size_t) snprintf(keys + used, sizeof keys - used, "%s..",
                                      used > 0 ? ", " : "");
            break;
        }
        used += (size_t) snprintf(keys + used, sizeof keys - used, "%s\"%s\"",
                                  used > 0 ? ", " : "", key);
    }
    snprintf(text, sizeof text,
             "has %s%s, must have \"prompt\" and \"completion\", \"question\" and "
             "\"answer\", or \"text\"",
             used > 0 ? "only " : "no keys", keys);
    return fail(r, text);
}

static int get_string(const struct reader *r, json_t *object, const char *key,
                      const char **out, size_t *bytes)
{
    json_t *value = json_object_get(object, key);
    char    text[128];

    if (!json_is_string(value)) {
        snprintf(text, sizeof text, "\"%s\" is %s, must be a string", key,
                 type_name(value));
        return fail(r, text);
    }
    *out = json_string_value(value);
    *bytes = json_string_length(value);
    return 0;
}

static int get_pair(const struct reader *r, json_t *object, struct pair *pair)
{
    static const char *const kinds[][2] = {
        { "prompt", "completion" },
        { "question", "answer" },
        { NULL, "text" },
    };
    char text[128];

    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const char *given = kinds[k][0], *predicted = kinds[k][1];

        if ((given != NULL && json_object_get(object, given) == NULL) ||
            json_object_get(object, predicted) == NULL) {
            continue;
        }
        if ((given != NULL &&
             get_string(r, object, given, &pair->prompt, &pair->prompt_bytes) != 0) ||
            get_string(r, object, predicted, &pair->completion,
                       &pair->completion_bytes) != 0) {
            return -1;
        }
        if (pair->completion_bytes == 0) {
            snprintf(text, sizeof text, "\"%s\" is empty", predicted);
            return fail(r, text);
        }
        return 0;
    }
    return no_keys(r, object);
}

/* ===== Its ids ============================================================ */

static int grow(struct reader *r, int64_t ids)
{
    struct data *out = r->out;

    if (ids > r->room - out->count) {
        int64_t  room = 2 * r->room > out->count + ids ? 2 * r->room : out->count + ids;
        int32_t *larger = (uint64_t) room > SIZE_MAX / sizeof *larger
                              ? NULL
                              : realloc(out->ids, (size_t) room * sizeof *larger);

        if (larger == NULL) {
            return fail(r, "out of memory");
        }
        out->ids = larger;
        r->room = room;
    }
    if (out->examples + 1 >= r->example_room) {
        int64_t  room = r->example_room > 0 ? 2 * r->example_room : 1024;
        size_t   bytes = (size_t) room * sizeof(int64_t);
        int64_t *start = realloc(out->start, bytes), *from;

        if (start == NULL) {
            return fail(r, "out of memory");
        }
        out->start = start;
        from = realloc(out->loss_from, bytes);
        if (from == NULL) {
            return fail(r, "out of memory");
        }
        out->loss_from = from;
        r->example_room = room;
        start[0] = 0;
    }
    return 0;
}

/* Append BOS-and-text ids[count] and EOS as an example, cut to what the context takes. */
static int append(struct reader *r, const int32_t *ids, int64_t count, int64_t loss_from)
{
    struct data *out = r->out;
    int32_t      eos = tokenizer_eos(r->tokenizer);
    int64_t      whole = count + (eos >= 0), kept = whole;
    int32_t     *to;

    if (kept - 1 > r->context) {
        kept = r->context + 1;
    }
    if (loss_from >= kept) {
        out->dropped++;
        if (loss_from < whole && (r->needed == 0 || loss_from < r->needed)) {
            r->needed = loss_from;
        }
        return 0;
    }
    if (grow(r, kept) != 0) {
        return -1;
    }
    out->cut += kept < whole;
    to = out->ids + out->count;
    for (int64_t i = 0; i < kept; i++) {
        to[i] = i < count ? ids[i] : eos;
        if (to[i] < 0 || to[i] >= r->vocab) {
            char text[128];

            snprintf(text, sizeof text,
                     "token %" PRId64 " is id %" PRId32
                     ", must be below the vocabulary's %" PRId64,
                     i, to[i], r->vocab);
            return fail(r, text);
        }
    }
    out->loss_from[out->examples++] = loss_from;
    out->count += kept;
    out->start[out->examples] = out->count;
    return 0;
}

static int encode(const struct reader *r, const char *text, size_t bytes, int32_t **ids,
                  int64_t *count)
{
    char reason[256] = "";

    if (tokenizer_encode(r->tokenizer, text, bytes, 1, ids, count, reason,
                         sizeof reason) != 0) {
        return fail(r, reason);
    }
    return 0;
}

static int encode_pair(struct reader *r, const struct pair *pair)
{
    size_t   bytes = pair->prompt_bytes + pair->completion_bytes;
    char    *both = NULL;
    int32_t *ids = NULL, *prompt = NULL;
    int64_t  count, prompt_count, common = 0;
    int      status = -1;

    if (pair->prompt != NULL) {
        both = malloc(bytes);
        if (both == NULL) {
            return fail(r, "out of memory");
        }
        memcpy(both, pair->prompt, pair->prompt_bytes);
        memcpy(both + pair->prompt_bytes, pair->completion, pair->completion_bytes);
    }
    if (encode(r, both != NULL ? both : pair->completion, bytes, &ids, &count) != 0 ||
        encode(r, pair->prompt != NULL ? pair->prompt : "", pair->prompt_bytes, &prompt,
               &prompt_count) != 0) {
        goto done;
    }
    while (common < count && common < prompt_count && ids[common] == prompt[common]) {
        common++;
    }
    /* nothing comes before the first id, so it cannot be predicted */
    status = append(r, ids, count, common > 0 ? common : 1);

done:
    free(prompt);
    free(ids);
    free(both);
    return status;
}

/* ===== All lines ========================================================== */

static int read_line(struct reader *r, const char *line, size_t length)
{
    /* Strict where an example could be another than was meant; of numbers, which are
     * in keys that are ignored, any will do. */
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY |
                         JSON_DECODE_INT_AS_REAL;
    struct pair  pair = { NULL, NULL, 0, 0 };
    json_error_t reason;
    json_t      *value = json_loadb(line, length, flags, &reason);
    char         text[sizeof reason.text + 64];
    int          status;

    if (value == NULL) {
        /* the first line of a file that is JSON, but not in lines, is not the whole */
        snprintf(text, sizeof text, "not JSON: %s (column %d)%s", reason.text,
                 reason.column, r->line == 1 ? "; each line must be an object" : "");
        return fail(r, text);
    }
    if (!json_is_object(value)) {
        snprintf(text, sizeof text, "is %s, must be an object", type_name(value));
        status = fail(r, text);
    } else {
        status = get_pair(r, value, &pair);
    }
    if (status == 0) {
        status = encode_pair(r, &pair);
    }
    json_decref(value);
    return status;
}

static int nothing_left(const struct reader *r)
{
    if (r->out->dropped == 0) {
        snprintf(r->error, r->size, "%s: holds blank lines only", r->path);
    } else if (r->needed > 0) {
        snprintf(r->error, r->size,
                 "%s: none of %" PRId64 " examples has anything to predict within "
                 "--context %" PRId64 ", the first that does needs --context %" PRId64,
                 r->path, r->out->dropped, r->context, r->needed);
    } else {
        snprintf(r->error, r->size,
                 "%s: none of %" PRId64 " examples has an id behind its first, whatever "
                 "the --context",
                 r->path, r->out->dropped);
    }
    return -1;
}

int jsonl_load(struct data *out, const char *path, const char *text, size_t length,
               const struct tokenizer *tokenizer, int64_t vocab, int64_t context,
               char *error, size_t size)
{
    struct reader r = { .out = out,
                        .path = path,
                        .tokenizer = tokenizer,
                        .vocab = vocab,
                        .context = context,
                        .error = error,
                        .size = size };
    const char   *end = text + length;

    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
    }
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t) (end - text));
        const char *stop = newline != NULL ? newline : end;
        const char *first = text;

        r.line++;
        while (first < stop && (*first == ' ' || *first == '\t' || *first == '\r')) {
            first++;
        }
        if (first < stop && read_line(&r, text, (size_t) (stop - text)) != 0) {
            return -1;
        }
        text = stop + 1;
    }
    return out->examples > 0 ? 0 : nothing_left(&r);
}
