/* Files of ids, text and JSON lines: what is read, and what is refused with which line. */
#define _POSIX_C_SOURCE 200809L

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text/data.h"
#include "model/llama.h"

static char directory[] = "/tmp/test_data.XXXXXX";
static char path[256], error[512];

static void make_directory(void)
{
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void)
{
    rmdir(directory);
}

static const char *file(const char *name, const void *bytes, size_t size)
{
    FILE *out;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    out = fopen(path, "wb");
    ck_assert_ptr_nonnull(out);
    ck_assert_uint_eq(fwrite(bytes, 1, size, out), size);
    ck_assert_int_eq(fclose(out), 0);
    return path;
}

/* Load, delete the file, return the result; error is "" before. */
static int load_within(struct data *data, const char *name, const void *bytes,
                       size_t size, const struct tokenizer *tokenizer, int64_t vocab,
                       int64_t context)
{
    int result;

    error[0] = '\0';
    memset(data, 0, sizeof *data);
    data->count = -1;
    result = data_load(data, file(name, bytes, size), tokenizer, vocab, context, error,
                       sizeof error);
    unlink(path);
    if (result != 0) {
        ck_assert_ptr_null(data->ids); /* untouched */
        ck_assert_int_eq(data->count, -1);
        ck_assert_ptr_nonnull(strstr(error, path));
    }
    return result;
}

static int load(struct data *data, const char *name, const void *bytes, size_t size,
                const struct tokenizer *tokenizer, int64_t vocab)
{
    return load_within(data, name, bytes, size, tokenizer, vocab, 1000000000);
}

/* 256 ids: no BOS, 257: BOS 256, 258: EOS 257 besides. */
static struct tokenizer *bytes_of(int64_t vocab)
{
    const struct llama_config config = { .vocab = vocab, .bos = -1, .eos = -1 };
    struct tokenizer         *tokenizer = NULL;

    ck_assert_int_eq(
        tokenizer_open(&tokenizer, "bytes", NULL, &config, error, sizeof error), 0);
    return tokenizer;
}

START_TEST(raw_ids_are_little_endian)
{
    static const unsigned char b16[] = { 0, 0, 1, 0, 0, 1, 0xff, 0x7f };
    static const unsigned char b32[] = { 5, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f };
    struct data                data;

    ck_assert_int_eq(load(&data, "a.u16", b16, sizeof b16, NULL, 32768), 0);
    ck_assert_int_eq(data.count, 4);
    ck_assert_int_eq(data.ids[1], 1);
    ck_assert_int_eq(data.ids[2], 256);
    ck_assert_int_eq(data.ids[3], 32767);
    data_free(&data);
    ck_assert_int_eq(data.count, 0);
    data_free(&data); /* twice is fine */

    ck_assert_int_eq(load(&data, "a.u32", b32, sizeof b32, NULL, INT64_MAX), 0);
    ck_assert_int_eq(data.count, 2);
    ck_assert_int_eq(data.ids[1], INT32_MAX);
    data_free(&data);
}
END_TEST

START_TEST(bad_ids_are_refused_with_their_position)
{
    static const unsigned char odd[] = { 1, 0, 2 };
    static const unsigned char large[] = { 9, 0, 10, 0 };
    static const unsigned char huge[] = { 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };
    struct data                data;

    ck_assert_int_eq(load(&data, "a.u16", odd, sizeof odd, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "3 bytes"));
    ck_assert_int_eq(load(&data, "a.u32", odd, sizeof odd, NULL, 10), -1);
    ck_assert_int_eq(load(&data, "a.u16", large, sizeof large, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "id 1 is 10"));
    ck_assert_int_eq(load(&data, "a.u32", huge, sizeof huge, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "id 1 is 4294967295"));
    ck_assert_int_eq(load(&data, "a.u32", huge, sizeof huge, NULL, INT64_MAX), -1);
}
END_TEST

START_TEST(files_that_hold_nothing_are_refused)
{
    struct tokenizer *t = bytes_of(256);
    struct data       data = { 0 };

    ck_assert_int_eq(load(&data, "a.u16", "", 0, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "empty"));
    ck_assert_int_eq(load(&data, "a.txt", "text", 4, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "tokenizer"));
    ck_assert_int_eq(data_load(&data, directory, t, 10, 8, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "directory"));
    ck_assert_int_eq(data_load(&data, "/nonexistent/x", t, 10, 8, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "/nonexistent/x"));
    tokenizer_free(t);
}
END_TEST

START_TEST(text_goes_through_the_tokenizer_without_bos)
{
    static const char text[] = "ab\0\xff\n";
    struct tokenizer *tokenizer = bytes_of(258);
    struct data       data;

    ck_assert_int_eq(load(&data, "a.txt", text, 5, tokenizer, 256), 0);
    ck_assert_int_eq(data.count, 5);
    ck_assert_int_eq(data.examples, 0);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(data.ids[i], (unsigned char) text[i]);
    }
    data_free(&data);
    /* An id the model does not have is found, whoever made it. */
    ck_assert_int_eq(load(&data, "a.txt", text, 5, tokenizer, 255), -1);
    ck_assert_ptr_nonnull(strstr(error, "token 3 is id 255"));
    tokenizer_free(tokenizer);
}
END_TEST

START_TEST(large_files_are_read_whole)
{
    size_t         size = 300001;
    unsigned char *bytes = malloc(2 * size);
    struct data    data;

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < size; i++) {
        bytes[2 * i] = (unsigned char) (i * 7 % 251);
        bytes[2 * i + 1] = 0;
    }
    ck_assert_int_eq(load(&data, "a.u16", bytes, 2 * size, NULL, 251), 0);
    ck_assert_int_eq(data.count, (int64_t) size);
    for (size_t i = 0; i < size; i++) {
        ck_assert_int_eq(data.ids[i], (int32_t) (i * 7 % 251));
    }
    data_free(&data);
    free(bytes);
}
END_TEST

START_TEST(a_window_needs_its_targets)
{
    struct data data = { .count = 9 };

    ck_assert_int_eq(data_check(&data, "x", 8, error, sizeof error), 0);
    ck_assert_int_eq(data_check(&data, "x", 9, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "9 ids"));
    data.examples = 1;
    ck_assert_int_eq(data_check(&data, "x", 9, error, sizeof error), 0);
}
END_TEST

/* ===== JSON lines ========================================================= */

enum { BOS = 256, EOS = 257, ROOM = 1000 };

static int load_lines(struct data *data, const char *text, const struct tokenizer *t,
                      int64_t context)
{
    return load_within(data, "a.jsonl", text, strlen(text), t, 258, context);
}

/* Example `example` is these ids, the ones from loss_from on predicted. */
static void check_example(const struct data *data, int64_t example, const int32_t *want,
                          int64_t count, int64_t loss_from)
{
    const int32_t *ids = data->ids + data->start[example];

    ck_assert_int_lt(example, data->examples);
    ck_assert_int_eq(data->start[example + 1] - data->start[example], count);
    for (int64_t i = 0; i < count; i++) {
        ck_assert_msg(ids[i] == want[i], "id %d of example %d is %d, must be %d", (int) i,
                      (int) example, ids[i], want[i]);
    }
    ck_assert_int_eq(data->loss_from[example], loss_from);
}

/* BOS, the characters of text, EOS. */
static void check_text(const struct data *data, int64_t example, const char *text,
                       int64_t loss_from)
{
    int32_t want[ROOM];
    int64_t count = 0;

    want[count++] = BOS;
    for (; *text; text++) {
        want[count++] = (unsigned char) *text;
    }
    want[count++] = EOS;
    check_example(data, example, want, count, loss_from);
}

START_TEST(three_kinds_of_lines)
{
    static const char lines[] =
        "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"
        "{\"text\": \"xyz\"}\n"
        "{\"question\": \"2+3?\", \"answer\": \"5\", \"id\": [1, {}, null, 1e9]}\n"
        /* several kinds: the first of the list; half a kind: none */
        "{\"text\": \"no\", \"answer\": \"no\", \"completion\": \"B\", \"prompt\": \"A\"}\n"
        "{\"text\": \"yes\", \"prompt\": \"no\", \"answer\": 7}\n"
        "{\"prompt\": \"\", \"completion\": \"q\", \"big\": 123456789012345678901234}\n"
        "{\"prompt\": \"\\u20ac\", \"completion\": \"\xe2\x82\xac\"}\n";
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    for (int json = 0; json < 2; json++) {
        const char *name = json ? "a.json" : "a.jsonl";

        ck_assert_msg(load(&data, name, lines, strlen(lines), t, 258) == 0, "%s", error);
        ck_assert_int_eq(data.examples, 7);
        ck_assert_int_eq(data.start[0], 0);
        ck_assert_int_eq(data.start[7], data.count);
        check_text(&data, 0, "abcd", 3);
        check_text(&data, 1, "xyz", 1);
        check_text(&data, 2, "2+3?5", 5);
        check_text(&data, 3, "AB", 2);
        check_text(&data, 4, "yes", 1);
        check_text(&data, 5, "q", 1);
        check_text(&data, 6, "\xe2\x82\xac\xe2\x82\xac", 4);
        ck_assert_int_eq(data.cut + data.dropped, 0);
        ck_assert_int_eq(data_note(&data, "x", 9, error, sizeof error), 0);
        data_free(&data);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(white_space_of_files)
{
    static const char *const files[] = {
        "{\"text\":\"a\"}\n{\"text\":\"b\"}\n",
        "{\"text\":\"a\"}\n{\"text\":\"b\"}", /* no final newline */
        "{\"text\":\"a\"}\r\n{\"text\":\"b\"}\r\n",
        "\xef\xbb\xbf{\"text\":\"a\"}\n\n \t\r\n{\"text\":\"b\"}\n\n",
        "\r\n  {\"text\" :\t\"a\" } \n{\"text\":\"b\"}  ",
    };
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_assert_msg(load_lines(&data, files[i], t, 9) == 0, "%s", error);
        ck_assert_int_eq(data.examples, 2);
        check_text(&data, 0, "a", 1);
        check_text(&data, 1, "b", 1);
        data_free(&data);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(a_tokenizer_without_bos_or_eos)
{
    static const char lines[] = "{\"prompt\":\"\",\"completion\":\"ab\"}\n"
                                "{\"prompt\":\"a\",\"completion\":\"b\"}\n"
                                "{\"text\":\"z\"}\n"
                                "{\"text\":\"abc\"}\n";
    struct tokenizer *none = bytes_of(256), *bos = bytes_of(257);
    struct data       data;

    ck_assert_int_eq(load_lines(&data, lines, none, 9), 0);
    ck_assert_int_eq(data.examples, 3);
    check_example(&data, 0, (int32_t[]){ 'a', 'b' }, 2, 1);
    check_example(&data, 1, (int32_t[]){ 'a', 'b' }, 2, 1);
    check_example(&data, 2, (int32_t[]){ 'a', 'b', 'c' }, 3, 1);
    ck_assert_int_eq(data.dropped, 1); /* nothing comes before the z */
    ck_assert_int_eq(data.cut, 0);
    data_free(&data);
    ck_assert_int_eq(load_lines(&data, "{\"text\":\"z\"}\n{\"text\":\"y\"}\n", none, 9),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "none of 2 examples"));
    ck_assert_ptr_nonnull(strstr(error, "whatever"));
    ck_assert_int_eq(load_lines(&data, lines, bos, 9), 0);
    check_example(&data, 2, (int32_t[]){ BOS, 'z' }, 2, 1);
    data_free(&data);
    tokenizer_free(none);
    tokenizer_free(bos);
}
END_TEST

START_TEST(nul_is_a_byte)
{
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    ck_assert_msg(load_lines(&data,
                             "{\"prompt\":\"a\\u0000\",\"completion\":\"\\u0000\"}", t,
                             9) == 0,
                  "%s", error);
    check_example(&data, 0, (int32_t[]){ BOS, 'a', 0, 0, EOS }, 5, 3);
    data_free(&data);
    tokenizer_free(t);
}
END_TEST

START_TEST(malformed_lines_are_told_with_their_number)
{
    static const struct {
        const char *line, *what;
    } cases[] = {
        { "plain text", "not JSON: " },
        { "{\"text\": \"a\"", "not JSON: " },
        { "{\"text\": \"a\",}", "not JSON: " },
        { "{\"text\": 'a'}", "(column 10)" },
        { "{\"text\": \"a\"} {\"text\": \"b\"}", "not JSON: " },
        { "{\"text\": \"\xff\"}", "not JSON: unable to decode byte 0xff" },
        { "{\"text\": \"\xc3\"}", "not JSON: " },
        { "{\"text\": \"\xed\xa0\x80\"}", "not JSON: " },
        { "{\"text\": \"\\ud800\"}", "not JSON: " },
        { "{\"text\": \"a\tb\"}", "not JSON: control character" },
        { "{\"text\": \"a\", \"text\": \"b\"}", "not JSON: duplicate object key" },
        { "\xef\xbb\xbf{\"text\": \"a\"}", "not JSON: " }, /* only the file's start */
        { "[1]", "is an array, must be an object" },
        { "\"text\"", "is a string, must be an object" },
        { "7", "is a number, must be an object" },
        { "null", "is null, must be an object" },
        { "true", "is true or false, must be an object" },
        { "{}", "has no keys, must have" },
        { "{\"prompt\": \"a\", \"answer\": \"b\"}", "has only \"prompt\", \"answer\"" },
        { "{\"completion\": \"a\"}", "must have \"prompt\" and \"completion\"" },
        { "{\"Text\": \"a\"}", "has only \"Text\", must have" },
        { "{\"text\": null}", "\"text\" is null, must be a string" },
        { "{\"text\": {}}", "\"text\" is an object, must be a string" },
        { "{\"prompt\": 1, \"completion\": \"a\"}", "\"prompt\" is a number" },
        { "{\"prompt\": \"a\", \"completion\": [\"b\"]}", "\"completion\" is an array" },
        { "{\"question\": \"a\", \"answer\": 4}", "\"answer\" is a number" },
        { "{\"prompt\": \"a\", \"completion\": \"\"}", "\"completion\" is empty" },
        { "{\"question\": \"a\", \"answer\": \"\"}", "\"answer\" is empty" },
        { "{\"text\": \"\"}", "\"text\" is empty" },
        { "{\"a long key that fills the line, it is of no use to anyone, and there are "
          "more like it\": 1}",
          "has only .., must have" },
    };
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512], place[300];

        snprintf(text, sizeof text, "{\"text\":\"a\"}\n\n%s\n{\"text\":\"a\"}\n",
                 cases[i].line);
        ck_assert_msg(load_lines(&data, text, t, 9) == -1, "taken: %s", cases[i].line);
        snprintf(place, sizeof place, "%s:3: ", path);
        ck_assert_msg(strncmp(error, place, strlen(place)) == 0 &&
                          strstr(error, cases[i].what) != NULL,
                      "%s: %s", cases[i].line, error);
    }
    /* what a line brings cannot move a terminal's cursor */
    ck_assert_int_eq(load_lines(&data, "\x1b[2J", t, 9), -1);
    ck_assert_ptr_nonnull(strstr(error, "; each line must be an object"));
    ck_assert_ptr_null(strchr(error, '\x1b'));
    tokenizer_free(t);
}
END_TEST

START_TEST(files_without_an_example)
{
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    ck_assert_int_eq(load(&data, "a.jsonl", "", 0, t, 258), -1);
    ck_assert_ptr_nonnull(strstr(error, "is empty"));
    ck_assert_int_eq(load_lines(&data, "\n  \n\r\n", t, 9), -1);
    ck_assert_ptr_nonnull(strstr(error, "blank lines only"));
    ck_assert_int_eq(load_lines(&data, "\xef\xbb\xbf", t, 9), -1);
    ck_assert_ptr_nonnull(strstr(error, "blank lines only"));
    ck_assert_int_eq(load(&data, "a.jsonl", "{\"text\":\"a\"}", 12, NULL, 258), -1);
    ck_assert_ptr_nonnull(strstr(error, "--tokenizer"));
    tokenizer_free(t);
}
END_TEST

START_TEST(examples_longer_than_the_context)
{
    static const char lines[] =
        "{\"prompt\":\"abc\",\"completion\":\"de\"}\n" /* 7 ids, 4 given */
        "{\"prompt\":\"abcd\",\"completion\":\"e\"}\n" /* 7 ids, 5 given */
        "{\"prompt\":\"\",\"completion\":\"a\"}\n";    /* 3 ids, 1 given */
    struct tokenizer *t = bytes_of(258);
    struct data       data;
    static const struct {
        int64_t context, examples, cut, dropped;
    } cases[] = { { 7, 3, 0, 0 }, { 6, 3, 0, 0 }, { 5, 3, 2, 0 }, { 4, 2, 1, 1 },
                  { 3, 1, 0, 2 }, { 2, 1, 0, 2 }, { 1, 1, 1, 2 } };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t context = cases[i].context;

        ck_assert_msg(load_lines(&data, lines, t, context) == 0, "%s", error);
        ck_assert_int_eq(data.examples, cases[i].examples);
        ck_assert_int_eq(data.cut, cases[i].cut);
        ck_assert_int_eq(data.dropped, cases[i].dropped);
        for (int64_t e = 0; e < data.examples; e++) {
            ck_assert_int_le(data.start[e + 1] - data.start[e], context + 1);
            ck_assert_int_lt(data.loss_from[e], data.start[e + 1] - data.start[e]);
        }
        ck_assert_int_eq(data_note(&data, "FILE", context, error, sizeof error),
                         data.cut + data.dropped > 0);
        data_free(&data);
    }
    ck_assert_int_eq(load_lines(&data, lines, t, 4), 0);
    check_example(&data, 0, (int32_t[]){ BOS, 'a', 'b', 'c', 'd' }, 5, 4);
    ck_assert_int_eq(data_note(&data, "FILE", 4, error, sizeof error), 1);
    ck_assert_str_eq(error,
                     "FILE: at --context 4 1 of 3 examples are cut, 1 of 3 examples "
                     "are left out, nothing of them is left to predict");
    data_free(&data);

    ck_assert_int_eq(load_lines(&data,
                                "{\"prompt\":\"abcdef\",\"completion\":\"g\"}\n"
                                "{\"prompt\":\"abcd\",\"completion\":\"e\"}\n",
                                t, 4),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "none of 2 examples"));
    ck_assert_ptr_nonnull(strstr(error, "--context 4"));
    ck_assert_ptr_nonnull(strstr(error, "needs --context 5"));
    tokenizer_free(t);
}
END_TEST

/* A vocabulary with <unk>, BOS, EOS, the bytes, " ", "a", "b", and one more piece. */
static struct tokenizer *open_vocabulary(const char *piece, int64_t *vocab)
{
    char                name[] = "/tmp/test_data.XXXXXX", text[16];
    struct llama_config config = { .vocab = 263, .bos = -1, .eos = -1 };
    struct tokenizer   *t = NULL;
    FILE               *out = fdopen(mkstemp(name), "wb");
    int32_t             longest = 8;

    ck_assert_ptr_nonnull(out);
    fwrite(&longest, 4, 1, out);
    for (int i = 0; i < 263; i++) {
        static const char *const first[] = { "<unk>", "<s>", "</s>" };
        static const char *const last[] = { " ", "a", "b" };
        float                    score = (float) -i;
        int32_t                  bytes;

        if (i >= 3 && i < 259) {
            snprintf(text, sizeof text, "<0x%02X>", (unsigned) i - 3);
        } else {
            snprintf(text, sizeof text, "%s",
                     i < 3     ? first[i]
                     : i < 262 ? last[i - 259]
                               : piece);
        }
        bytes = (int32_t) strlen(text);
        fwrite(&score, 4, 1, out);
        fwrite(&bytes, 4, 1, out);
        fwrite(text, 1, (size_t) bytes, out);
    }
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_msg(tokenizer_open(&t, name, NULL, &config, error, sizeof error) == 0, "%s",
                  error);
    unlink(name);
    *vocab = 263;
    return t;
}

/* " a" + "b" is " ", "ab" where "ab" is a token: only BOS and the space are common. */
START_TEST(a_token_over_the_boundary_is_predicted_whole)
{
    static const char line[] = "{\"prompt\":\"a\",\"completion\":\"b\"}";
    const int32_t     space = 259, a = 260, b = 261, ab = 262;
    int64_t           vocab;
    struct tokenizer *t = open_vocabulary("ab", &vocab);
    struct data       data;

    ck_assert_msg(load_within(&data, "a.jsonl", line, strlen(line), t, vocab, 9) == 0,
                  "%s", error);
    check_example(&data, 0, (int32_t[]){ 1, space, ab, 2 }, 4, 2);
    data_free(&data);
    tokenizer_free(t);

    t = open_vocabulary("ba", &vocab);
    ck_assert_int_eq(load_within(&data, "a.jsonl", line, strlen(line), t, vocab, 9), 0);
    check_example(&data, 0, (int32_t[]){ 1, space, a, b, 2 }, 5, 3);
    data_free(&data);
    tokenizer_free(t);
}
END_TEST

START_TEST(a_line_of_ten_megabytes)
{
    size_t            size = 10 << 20, at;
    char             *text = malloc(size + 100);
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    ck_assert_ptr_nonnull(text);
    at = (size_t) sprintf(text, "{\"prompt\":\"q\",\"completion\":\"");
    memset(text + at, 'x', size);
    strcpy(text + at + size, "\"}\n{\"text\":\"b\"}");
    ck_assert_msg(load_lines(&data, text, t, (int64_t) size + 9) == 0, "%s", error);
    ck_assert_int_eq(data.examples, 2);
    ck_assert_int_eq(data.start[1], (int64_t) size + 3);
    ck_assert_int_eq(data.cut, 0);
    data_free(&data);
    ck_assert_int_eq(load_lines(&data, text, t, 9), 0);
    ck_assert_int_eq(data.start[1], 10);
    ck_assert_int_eq(data.cut, 1);
    data_free(&data);
    tokenizer_free(t);
    free(text);
}
END_TEST

START_TEST(many_examples)
{
    enum { LINES = 5000 };
    char             *text = malloc(LINES * 64), *at = text;
    struct tokenizer *t = bytes_of(258);
    struct data       data;

    ck_assert_ptr_nonnull(text);
    for (int i = 0; i < LINES; i++) {
        at += sprintf(at, "{\"prompt\":\"%d\",\"completion\":\"%d\"}\n", i, 7 * i);
    }
    ck_assert_int_eq(load_lines(&data, text, t, 99), 0);
    ck_assert_int_eq(data.examples, LINES);
    for (int i = 0; i < LINES; i++) {
        char want[64];
        int  given = snprintf(want, sizeof want, "%d", i);

        snprintf(want + given, sizeof want - (size_t) given, "%d", 7 * i);
        check_text(&data, i, want, given + 1);
    }
    data_free(&data);
    tokenizer_free(t);
    free(text);
}
END_TEST

/* ===== The hash =========================================================== */

START_TEST(the_hash_is_of_everything)
{
    int32_t           ids[6] = { 1, 2, 3, 4, 5, 6 };
    int64_t           start[3] = { 0, 3, 6 }, from[2] = { 1, 2 };
    const struct data stream = { .ids = ids, .count = 6 };
    const struct data examples = { ids, 6, 2, start, from, 0, 0 };
    const uint64_t    a = data_hash(&stream), b = data_hash(&examples);

    ck_assert_uint_eq(data_hash(&stream), a);
    ck_assert_uint_ne(a, b);
    ids[5] = 7;
    ck_assert_uint_ne(data_hash(&stream), a);
    ck_assert_uint_ne(data_hash(&examples), b);
    ids[5] = 6;
    ids[0] = 2, ids[1] = 1;
    ck_assert_uint_ne(data_hash(&stream), a);
    ids[0] = 1, ids[1] = 2;
    start[1] = 4;
    ck_assert_uint_ne(data_hash(&examples), b);
    start[1] = 3;
    from[1] = 1;
    ck_assert_uint_ne(data_hash(&examples), b);
    from[1] = 2;
    ck_assert_uint_eq(data_hash(&examples), b);
    /* of values, not of this machine's memory: FNV-1a of 64-bit 0 and 32-bit 1 .. 6 */
    ck_assert_uint_eq(a, 11755160020548085538u);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("data");
    TCase   *all = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(all, 60);
    tcase_add_unchecked_fixture(all, make_directory, remove_directory);
    tcase_add_test(all, raw_ids_are_little_endian);
    tcase_add_test(all, bad_ids_are_refused_with_their_position);
    tcase_add_test(all, files_that_hold_nothing_are_refused);
    tcase_add_test(all, text_goes_through_the_tokenizer_without_bos);
    tcase_add_test(all, large_files_are_read_whole);
    tcase_add_test(all, a_window_needs_its_targets);
    tcase_add_test(all, three_kinds_of_lines);
    tcase_add_test(all, white_space_of_files);
    tcase_add_test(all, a_tokenizer_without_bos_or_eos);
    tcase_add_test(all, nul_is_a_byte);
    tcase_add_test(all, malformed_lines_are_told_with_their_number);
    tcase_add_test(all, files_without_an_example);
    tcase_add_test(all, examples_longer_than_the_context);
    tcase_add_test(all, a_token_over_the_boundary_is_predicted_whole);
    tcase_add_test(all, a_line_of_ten_megabytes);
    tcase_add_test(all, many_examples);
    tcase_add_test(all, the_hash_is_of_everything);
    suite_add_tcase(suite, all);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
