/*
 * The tokenizer of the program: its merges against the plain search they stand for, what
 * a vocabulary file must be, and that no bytes break it.
 */
#include "check_main.h"

#include <unistd.h>

#include "model/llama.h"
#include "text/tokenizer.h"

static char error[512];

/* For a model that says nothing of its own tokenizer. */
static int open_with(struct tokenizer **out, const char *what, int64_t vocab)
{
    const struct llama_config config = { .vocab = vocab, .bos = -1, .eos = -1 };
    return tokenizer_open(out, what, "model.bin", &config, error, sizeof error);
}

/* ===== Vocabulary files =================================================== */

enum { VOCAB = 400, TEXT = 24 };

struct entry {
    char    text[TEXT];
    int32_t bytes;
    float   score;
};

struct vocabulary {
    struct entry tokens[VOCAB];
    int32_t      count, longest;
};

static void add(struct vocabulary *v, const char *text, float score)
{
    struct entry *e = &v->tokens[v->count++];
    ck_assert_int_le(v->count, VOCAB);
    e->bytes = (int32_t) strlen(text);
    memcpy(e->text, text, (size_t) e->bytes);
    e->score = score;
    v->longest = e->bytes > v->longest ? e->bytes : v->longest;
}

/* <unk>, BOS, EOS, 256 bytes, a space and the letters a to f. */
static struct vocabulary basic(void)
{
    struct vocabulary v;
    char              text[8];

    memset(&v, 0, sizeof v);
    add(&v, "<unk>", 0);
    add(&v, "\n<s>\n", 0);
    add(&v, "\n</s>\n", 0);
    for (int b = 0; b < 256; b++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned) b);
        add(&v, text, 0);
    }
    add(&v, " ", -1000);
    for (char c = 'a'; c <= 'f'; c++) {
        char letter[2] = { c, 0 };
        add(&v, letter, -1000);
    }
    return v;
}

static size_t serialize(const struct vocabulary *v, char *out)
{
    size_t at = 4;
    memcpy(out, &v->longest, 4);
    for (int i = 0; i < v->count; i++) {
        const struct entry *e = &v->tokens[i];
        memcpy(out + at, &e->score, 4);
        memcpy(out + at + 4, &e->bytes, 4);
        memcpy(out + at + 8, e->text, (size_t) e->bytes);
        at += 8 + (size_t) e->bytes;
    }
    return at;
}

static int open_bytes(struct tokenizer **out, const void *data, size_t length,
                      int64_t vocab)
{
    char path[] = "/tmp/test_tokenizer.XXXXXX";
    int  handle = mkstemp(path), status;

    ck_assert_int_ge(handle, 0);
    ck_assert_int_eq(write(handle, data, length), (ssize_t) length);
    close(handle);
    error[0] = '\0';
    status = open_with(out, path, vocab);
    if (status != 0) {
        ck_assert_ptr_nonnull(strstr(error, path));
        ck_assert_ptr_null(strchr(error, '\n'));
    }
    unlink(path);
    return status;
}

static struct tokenizer *open_vocabulary(const struct vocabulary *v)
{
    static char       data[VOCAB * (TEXT + 8) + 4];
    struct tokenizer *tokenizer = NULL;
    ck_assert_msg(open_bytes(&tokenizer, data, serialize(v, data), v->count) == 0, "%s",
                  error);
    return tokenizer;
}

/* ===== Encoding =========================================================== */

static int32_t find(const struct vocabulary *v, const char *text, size_t length)
{
    for (int32_t i = 0; i < v->count; i++) {
        if ((size_t) v->tokens[i].bytes == length &&
            memcmp(v->tokens[i].text, text, length) == 0) {
            return i;
        }
    }
    return -1;
}

/* Merges by searching the whole list for the best pair each time; ASCII text only. */
static int64_t encode_slowly(const struct vocabulary *v, const char *text, int32_t *ids)
{
    int64_t count = 0;

    if (*text) {
        ids[count++] = find(v, " ", 1);
    }
    for (; *text; text++) {
        int32_t id = find(v, text, 1);
        ids[count++] = id >= 0 ? id : (unsigned char) *text + 3;
    }
    for (;;) {
        float   best = -1e10f;
        int64_t at = -1;
        int32_t into = -1;
        for (int64_t i = 0; i + 1 < count; i++) {
            const struct entry *a = &v->tokens[ids[i]], *b = &v->tokens[ids[i + 1]];
            char                joint[2 * TEXT];
            int32_t             id;
            memcpy(joint, a->text, (size_t) a->bytes);
            memcpy(joint + a->bytes, b->text, (size_t) b->bytes);
            id = find(v, joint, (size_t) (a->bytes + b->bytes));
            if (id >= 0 && v->tokens[id].score > best) {
                best = v->tokens[id].score;
                at = i;
                into = id;
            }
        }
        if (at < 0) {
            return count;
        }
        ids[at] = into;
        count--;
        memmove(ids + at + 1, ids + at + 2, (size_t) (count - at - 1) * sizeof *ids);
    }
}

static void check_ids(const struct tokenizer *t, const char *text, size_t length, int bos,
                      const int32_t *want, int64_t want_count)
{
    int32_t *ids = NULL;
    int64_t  count = -1;
    ck_assert_msg(
        tokenizer_encode(t, text, length, bos, &ids, &count, error, sizeof error) == 0,
        "%s", error);
    ck_assert_int_eq(count, want_count);
    for (int64_t i = 0; i < count; i++) {
        ck_assert_msg(ids[i] == want[i], "id %d of \"%.40s\" is %d, must be %d", (int) i,
                      text, ids[i], want[i]);
    }
    free(ids);
}

/* Random vocabularies with few scores, so that ties and broken pairs abound. */
START_TEST(merges_are_those_of_a_plain_search)
{
    for (uint64_t round = 0; round < 200; round++) {
        struct vocabulary v = basic();
        struct tokenizer *tokenizer;
        char              text[201];
        int32_t           want[256];
        uint64_t          at = 0;
        int               letters = 2 + (int) (round % 5), length = (int) (round % 200);

        for (int k = 0; k < 60; k++) {
            int  size = 2 + (int) (2.5 * (noise(round, at++) + 1));
            char token[TEXT] = "";
            for (int j = 0; j < size; j++) {
                int c = (int) ((noise(round, at++) + 1) / 2 * (letters + 1));
                token[j] = c == letters ? ' ' : (char) ('a' + c);
            }
            add(&v, token, (float) (int) (4 * noise(round, at++)));
        }
        add(&v, "bb", -1e11f); /* too low a score ever to merge */
        for (int j = 0; j < length; j++) {
            int c = (int) ((noise(round, at++) + 1) / 2 * (letters + 2));
            text[j] = c == letters ? ' ' : c > letters ? 'z' : (char) ('a' + c);
        }
        text[length] = '\0';
        tokenizer = open_vocabulary(&v);
        check_ids(tokenizer, text, (size_t) length, 0, want,
                  encode_slowly(&v, text, want));
        tokenizer_free(tokenizer);
    }
}
END_TEST

START_TEST(code_points_and_bytes)
{
    struct vocabulary v = basic();
    struct tokenizer *t;
    const int32_t     space = 259, a = 260;
    int32_t           euro;

    add(&v, "\xe2\x82\xac", -5);
    euro = v.count - 1;
    t = open_vocabulary(&v);
    ck_assert_int_eq(tokenizer_bos(t), 1);
    ck_assert_int_eq(tokenizer_eos(t), 2);
    ck_assert_int_eq(tokenizer_is_llama2c(t), 1);
    check_ids(t, "", 0, 0, NULL, 0);
    check_ids(t, "", 0, 1, (int32_t[]){ 1 }, 1);
    check_ids(t, "a", 1, 1, (int32_t[]){ 1, space, a }, 3);
    check_ids(t, "\xe2\x82\xac", 3, 0, (int32_t[]){ space, euro }, 2);
    check_ids(t, "\xe2\x82", 2, 0, (int32_t[]){ space, 0xe2 + 3, 0x82 + 3 }, 3);
    check_ids(t,
              "\xc3\xa9"
              "a",
              3, 0, (int32_t[]){ space, 0xc3 + 3, 0xa9 + 3, a }, 4);
    check_ids(t, "\0a\0", 3, 0, (int32_t[]){ space, 3, a, 3 }, 4);
    check_ids(t,
              "\x80\x80\x80\x80\x80"
              "a",
              6, 0, (int32_t[]){ space, 131, 131, 131, 131, 131, a }, 7);
    tokenizer_free(t);
}
END_TEST

START_TEST(a_vocabulary_without_byte_tokens)
{
    struct vocabulary v;
    struct tokenizer *t;
    int32_t          *ids = NULL;
    int64_t           count;

    memset(&v, 0, sizeof v);
    add(&v, "<unk>", 0);
    add(&v, "a", 0);
    add(&v, " ", 0);
    t = open_vocabulary(&v);
    check_ids(t, "aa", 2, 0, (int32_t[]){ 2, 1, 1 }, 3);
    ck_assert_int_eq(tokenizer_encode(t, "ab", 2, 0, &ids, &count, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "0x62"));
    ck_assert_ptr_null(ids);
    tokenizer_free(t);
}
END_TEST

static void check_piece(const struct tokenizer *t, int32_t previous, int32_t id,
                        const char *want, size_t want_bytes)
{
    size_t      length = 99;
    const char *piece = tokenizer_decode(t, previous, id, &length);
    ck_assert_uint_eq(length, want_bytes);
    ck_assert_int_eq(memcmp(piece, want, want_bytes), 0);
}

START_TEST(decoding)
{
    struct vocabulary v = basic();
    struct tokenizer *t;

    add(&v, " ab", 0);
    add(&v, "<0xG0>", 0);
    t = open_vocabulary(&v);
    check_piece(t, -1, v.count - 2, " ab", 3);
    check_piece(t, 1, v.count - 2, "ab", 2);
    check_piece(t, 5, v.count - 2, " ab", 3);
    check_piece(t, 1, 259, "", 0);
    check_piece(t, 1, 260, "a", 1);
    check_piece(t, -1, 3, "\0", 1);
    check_piece(t, -1, 258, "\xff", 1);
    check_piece(t, -1, v.count - 1, "<0xG0>", 6);
    check_piece(t, -1, -1, "", 0);
    check_piece(t, -1, v.count, "", 0);
    tokenizer_free(t);
}
END_TEST

START_TEST(bytes_need_no_file)
{
    struct tokenizer *t = NULL;
    char              all[256];
    int32_t           want[257] = { 256 };

    for (int b = 0; b < 256; b++) {
        all[b] = (char) b;
        want[b + 1] = b;
    }
    ck_assert_int_eq(open_with(&t, "bytes", 255), -1);
    ck_assert_ptr_nonnull(strstr(error, "255"));
    ck_assert_int_eq(open_with(&t, "bytes", 256), 0);
    ck_assert_int_eq(tokenizer_bos(t), -1);
    ck_assert_int_eq(tokenizer_is_llama2c(t), 0);
    check_ids(t, all, 256, 1, want + 1, 256);
    tokenizer_free(t);
    ck_assert_int_eq(open_with(&t, "bytes", 300), 0);
    ck_assert_int_eq(tokenizer_bos(t), 256);
    ck_assert_int_eq(tokenizer_eos(t), 257);
    check_ids(t, all, 256, 1, want, 257);
    check_ids(t, all, 256, 0, want + 1, 256);
    for (int b = 0; b < 256; b++) {
        check_piece(t, 256, b, all + b, 1);
    }
    check_piece(t, -1, 256, "", 0);
    check_piece(t, -1, 299, "", 0);
    tokenizer_free(t);
}
END_TEST

/* ===== Hostile files ====================================================== */

START_TEST(files_that_are_no_vocabulary)
{
    static char       data[VOCAB * (TEXT + 8) + 8];
    struct vocabulary v = basic(), w;
    size_t            length = serialize(&v, data);
    struct tokenizer *t = NULL;
    const int32_t     lengths[] = { 0, -1, INT32_MIN, INT32_MAX, 7, 1 << 20 };
    const float       scores[] = { NAN, INFINITY, -INFINITY };

    for (size_t cut = 0; cut < length; cut += cut < 40 ? 1 : 97) {
        ck_assert_int_eq(open_bytes(&t, data, cut, v.count), -1);
    }
    ck_assert_int_eq(open_bytes(&t, data, length - 1, v.count), -1);
    ck_assert_int_eq(open_bytes(&t, data, length, v.count - 1), -1); /* goes on */
    ck_assert_ptr_nonnull(strstr(error, "after"));
    ck_assert_int_eq(open_bytes(&t, data, length, v.count + 1), -1);
    ck_assert_int_eq(open_bytes(&t, data, length, INT32_MAX), -1);
    ck_assert_int_eq(open_bytes(&t, data, length + 1, v.count), -1);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        serialize(&v, data);
        memcpy(data + 8, &lengths[i], 4);
        ck_assert_int_eq(open_bytes(&t, data, length, v.count), -1);
    }
    for (size_t i = 0; i < 3; i++) {
        w = v;
        w.tokens[100].score = scores[i];
        ck_assert_int_eq(open_bytes(&t, data, serialize(&w, data), w.count), -1);
        ck_assert_ptr_nonnull(strstr(error, "100"));
    }
    ck_assert_ptr_null(t);
    ck_assert_int_eq(open_with(&t, "/nonexistent", 300), -1);
    ck_assert_ptr_nonnull(strstr(error, "/nonexistent"));
    ck_assert_int_eq(open_with(&t, "/tmp", 300), -1);
    ck_assert_int_eq(open_with(&t, "bytes", 0), -1);
    ck_assert_int_eq(open_with(&t, "bytes", INT64_MAX), -1);
    tokenizer_free(NULL);

    /* Twice the same text is no harm: the first id is meant. */
    w = v;
    add(&w, "a", 0);
    t = open_vocabulary(&w);
    check_ids(t, "a", 1, 0, (int32_t[]){ 259, 260 }, 2);
    tokenizer_free(t);
}
END_TEST

/* ===== What a model's directory has ======================================= */

static char directory[] = "/tmp/test_tokenizer.XXXXXX";

static void make_directory(void)
{
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void)
{
    rmdir(directory);
}

/* A file in the directory, removed again if there is nothing to put into it. */
static const char *put(const char *name, const void *data, size_t length)
{
    static char path[300];
    FILE       *file;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (data == NULL) {
        unlink(path);
        return path;
    }
    file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, length, file), length);
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

static int open_beside(struct tokenizer **out, int64_t vocab, const char *kind)
{
    struct llama_config config = { .vocab = vocab, .bos = -1, .eos = -1 };

    error[0] = '\0';
    snprintf(config.tokenizer, sizeof config.tokenizer, "%s", kind);
    return tokenizer_open(out, NULL, directory, &config, error, sizeof error);
}

START_TEST(a_directory_says_which_tokenizer)
{
    static char               data[VOCAB * (TEXT + 8) + 4];
    struct vocabulary         v = basic();
    size_t                    length = serialize(&v, data);
    struct tokenizer         *t = NULL;
    const struct llama_config config = { .vocab = v.count, .bos = -1, .eos = -1 };
    const char               *file;

    ck_assert_int_eq(open_beside(&t, v.count, ""), -1);
    ck_assert_ptr_nonnull(strstr(error, "neither tokenizer.bin nor tokenizer.model"));
    put("tokenizer.json", "{}", 2);
    ck_assert_int_eq(open_beside(&t, v.count, ""), -1);
    ck_assert_ptr_nonnull(strstr(error, "tokenizer.json: is not read"));
    ck_assert_ptr_nonnull(strstr(error, ".u16"));
    ck_assert_ptr_nonnull(strstr(error, "docs/data.md"));
    ck_assert_ptr_null(strchr(error, '\n'));
    file = put("tokenizer.model", "\n\x0e\n\x05<unk>", 9);
    ck_assert_int_eq(open_beside(&t, v.count, ""), -1);
    ck_assert_ptr_nonnull(strstr(error, file));
    ck_assert_ptr_nonnull(strstr(error, "SentencePiece"));
    put("tokenizer.bin", data, length);
    ck_assert_int_eq(open_beside(&t, v.count, ""), 0);
    ck_assert_int_eq(tokenizer_is_llama2c(t), 1);
    tokenizer_free(t);
    ck_assert_int_eq(open_beside(&t, v.count, "bytes"), 0);
    ck_assert_int_eq(tokenizer_is_llama2c(t), 0);
    check_ids(t, "a", 1, 1, (int32_t[]){ 256, 'a' }, 2);
    tokenizer_free(t);

    t = NULL;
    file = put("model.bin", "", 0);
    ck_assert_int_eq(tokenizer_open(&t, NULL, file, &config, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "--tokenizer bytes"));
    ck_assert_ptr_null(t);
    put("model.bin", NULL, 0);
    put("tokenizer.bin", NULL, 0);
    put("tokenizer.model", NULL, 0);
    put("tokenizer.json", NULL, 0);
}
END_TEST

START_TEST(the_model_s_bos_and_eos_come_first)
{
    struct llama_config config = { .vocab = 300, .bos = 299, .eos = 0 };
    struct tokenizer   *t = NULL;

    ck_assert_int_eq(tokenizer_open(&t, "bytes", NULL, &config, error, sizeof error), 0);
    ck_assert_int_eq(tokenizer_bos(t), 299);
    ck_assert_int_eq(tokenizer_eos(t), 0);
    check_ids(t, "a", 1, 1, (int32_t[]){ 299, 'a' }, 2);
    tokenizer_free(t);
    config.bos = -1;
    ck_assert_int_eq(tokenizer_open(&t, "bytes", NULL, &config, error, sizeof error), 0);
    ck_assert_int_eq(tokenizer_bos(t), 256);
    ck_assert_int_eq(tokenizer_eos(t), 0);
    tokenizer_free(t);
    config.eos = 300;
    ck_assert_int_eq(tokenizer_open(&t, "bytes", NULL, &config, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "EOS 300"));
    config.eos = -1;
    config.bos = 300;
    ck_assert_int_eq(tokenizer_open(&t, "bytes", NULL, &config, error, sizeof error), -1);
    for (int64_t vocab = 256; vocab < 260; vocab++) {
        ck_assert_int_eq(open_with(&t, "bytes", vocab), 0);
        ck_assert_int_eq(tokenizer_bos(t), vocab > 256 ? 256 : -1);
        ck_assert_int_eq(tokenizer_eos(t), vocab > 257 ? 257 : -1);
        tokenizer_free(t);
    }
}
END_TEST

/* ===== SentencePiece ====================================================== */

/* What a command prints, at most `room` bytes. */
static void output_of(const char *command, char *out, size_t room)
{
    FILE  *pipe = popen(command, "r");
    size_t used;

    ck_assert_ptr_nonnull(pipe);
    used = fread(out, 1, room - 1, pipe);
    out[used] = '\0';
    ck_assert_msg(pclose(pipe) == 0, "%s", command);
}

/* Ids as spm_encode prints them, and the text as spm_decode does. */
static void check_sentence(const struct tokenizer *t, const char *model, const char *text)
{
    char     command[1024], want[4096], got[4096] = "", *at = want;
    int32_t *ids, previous = tokenizer_bos(t);
    int64_t  count;

    put("text", text, strlen(text));
    snprintf(command, sizeof command,
             "spm_encode --model=%s --output_format=id < %s/text 2>/dev/null", model,
             directory);
    output_of(command, want, sizeof want);
    ck_assert_msg(tokenizer_encode(t, text, strlen(text), 1, &ids, &count, error,
                                   sizeof error) == 0,
                  "%s", error);
    ck_assert_int_eq(ids[0], previous);
    for (int64_t i = 1; i < count; i++) {
        size_t      length;
        const char *piece = tokenizer_decode(t, previous, ids[i], &length);

        ck_assert_msg(strtol(at, &at, 10) == ids[i], "%s: id %d is %d, of %s", text,
                      (int) i, ids[i], want);
        strncat(got, piece, length);
        previous = ids[i];
    }
    ck_assert_str_eq(at, "\n");
    free(ids);
    snprintf(command, sizeof command,
             "spm_encode --model=%s --output_format=id < %s/text 2>/dev/null | "
             "spm_decode --model=%s --input_format=id 2>/dev/null",
             model, directory, model);
    output_of(command, want, sizeof want);
    strcat(got, "\n");
    ck_assert_str_eq(got, want);
    put("text", NULL, 0);
}

static void train_model(const char *flags)
{
    char command[1024], *text = must_alloc(1 << 17, 1), *at = text;

    for (int i = 0; i < 600; i++) {
        at += sprintf(at, "the quick fox %d leaps over %s dogs, caf\xc3\xa9 no. %d\n", i,
                      i % 3 ? "lazy" : "sleeping", i * i % 97);
    }
    put("corpus", text, strlen(text));
    free(text);
    snprintf(command, sizeof command,
             "spm_train --input=%s/corpus --model_prefix=%s/tokenizer %s >/dev/null 2>&1",
             directory, directory, flags);
    ck_assert_msg(system(command) == 0, "%s", command);
    put("corpus", NULL, 0);
    put("tokenizer.vocab", NULL, 0);
}

#define SPACES "--add_dummy_prefix=false --remove_extra_whitespaces=false"

START_TEST(sentencepiece_s_own_ids)
{
    static const char *const flags[] = {
        "--vocab_size=340 --model_type=bpe --byte_fallback",
        "--vocab_size=120 --model_type=unigram --hard_vocab_limit=false",
        SPACES " --vocab_size=340 --model_type=bpe --byte_fallback",
    };
    static const char *const sentences[] = {
        "the quick fox leaps",
        "  two  spaces ",
        "caf\xc3\xa9 7 dogs",
        "an unknown \xe2\x82\xac or \xf0\x9f\x98\x80",
        "sleeping",
    };

    if (system("command -v spm_train >/dev/null && command -v spm_encode >/dev/null") !=
        0) {
        printf("skipped: sentencepiece_s_own_ids: no spm_train\n");
        return;
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        struct tokenizer *t = NULL;
        char              model[300];

        train_model(flags[i]);
        snprintf(model, sizeof model, "%s/tokenizer.model", directory);
        if (open_beside(&t, 400, "") != 0) {
            ck_assert_ptr_nonnull(strstr(error, "`make SENTENCEPIECE=1`"));
            ck_assert_ptr_null(t);
            printf("skipped: sentencepiece_s_own_ids: built without SENTENCEPIECE=1\n");
            unlink(model);
            return;
        }
        ck_assert_int_eq(tokenizer_bos(t), 1);
        ck_assert_int_eq(tokenizer_eos(t), 2);
        ck_assert_int_eq(tokenizer_is_llama2c(t), 0);
        for (size_t k = 0; k < sizeof sentences / sizeof *sentences; k++) {
            check_sentence(t, model, sentences[k]);
        }
        check_ids(t, "", 0, 1, (int32_t[]){ 1 }, 1);
        check_piece(t, 5, 1, "", 0);
        check_piece(t, 5, 399, "", 0);
        tokenizer_free(t);
        t = NULL;
        ck_assert_int_eq(open_beside(&t, 20, ""), -1);
        ck_assert_ptr_nonnull(strstr(error, "vocabulary is 20"));
        ck_assert_ptr_nonnull(strstr(error, model));
        ck_assert_ptr_null(t);
        unlink(model);
    }
}
END_TEST

/* ===== A real vocabulary ================================================== */

/* Encodes the text whole and decodes it to what it was; times of n^2 would be hours. */
START_TEST(a_megabyte_comes_back)
{
    const char       *shared = getenv("BEAMLORA_SHARED");
    char              path[2][512], *text, *back;
    struct tokenizer *t;
    FILE             *file;
    size_t            length, used = 0, piece_bytes;
    int32_t          *ids;
    int64_t           count;

    shared = shared ? shared : "../shared";
    snprintf(path[0], sizeof path[0], "%s/data/tinyshakespeare.txt", shared);
    snprintf(path[1], sizeof path[1], "%s/data/tok512.bin", shared);
    if (access(path[0], R_OK) != 0 || access(path[1], R_OK) != 0) {
        printf("skipped: a_megabyte_comes_back: no %s (set BEAMLORA_SHARED)\n", path[0]);
        return;
    }
    text = must_alloc(2 << 20, 1);
    back = must_alloc(2 << 20, 1);
    file = fopen(path[0], "rb");
    length = fread(text, 1, 2 << 20, file);
    fclose(file);
    ck_assert_msg(open_with(&t, path[1], 512) == 0, "%s", error);
    ck_assert_int_eq(
        tokenizer_encode(t, text, length, 1, &ids, &count, error, sizeof error), 0);
    ck_assert_int_eq(ids[0], 1);
    for (int64_t i = 1; i < count; i++) {
        const char *piece = tokenizer_decode(t, ids[i - 1], ids[i], &piece_bytes);
        ck_assert_uint_le(used + piece_bytes, length);
        memcpy(back + used, piece, piece_bytes);
        used += piece_bytes;
    }
    ck_assert_uint_eq(used, length);
    ck_assert_int_eq(memcmp(text, back, length), 0);
    free(ids);
    tokenizer_free(t);
    free(text);
    free(back);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *tcase = tcase_create("tokenizer");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, merges_are_those_of_a_plain_search);
    tcase_add_test(tcase, code_points_and_bytes);
    tcase_add_test(tcase, a_vocabulary_without_byte_tokens);
    tcase_add_test(tcase, decoding);
    tcase_add_test(tcase, bytes_need_no_file);
    tcase_add_test(tcase, files_that_are_no_vocabulary);
    tcase_add_unchecked_fixture(tcase, make_directory, remove_directory);
    tcase_add_test(tcase, a_directory_says_which_tokenizer);
    tcase_add_test(tcase, the_model_s_bos_and_eos_come_first);
    tcase_add_test(tcase, sentencepiece_s_own_ids);
    tcase_add_test(tcase, a_megabyte_comes_back);
    suite_add_tcase(suite, tcase);
    return suite;
}
