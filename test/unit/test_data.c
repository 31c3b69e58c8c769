/* Streams of ids: what is read, what is refused, and how windows are drawn. */
#define _POSIX_C_SOURCE 200809L

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/data.h"

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
static int load(struct data *data, const char *name, const void *bytes, size_t size,
                const struct tokenizer *tokenizer, int64_t vocab)
{
    int result;

    error[0] = '\0';
    data->ids = NULL;
    data->count = -1;
    result =
        data_load(data, file(name, bytes, size), tokenizer, vocab, context, error, sizeof error);
    unlink(path);
    if (result != 0) {
        ck_assert_ptr_null(data->ids); /* untouched */
        ck_assert_int_eq(data->count, -1);
        ck_assert_ptr_nonnull(strstr(error, path));
    }
    return result;
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
    struct data data = { NULL, 0 };

    ck_assert_int_eq(load(&data, "a.u16", "", 0, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "empty"));
    ck_assert_int_eq(load(&data, "a.txt", "text", 4, NULL, 10), -1);
    ck_assert_ptr_nonnull(strstr(error, "tokenizer"));
    ck_assert_int_eq(data_load(&data, directory, NULL, 10, 8, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "directory"));
    ck_assert_int_eq(data_load(&data, "/nonexistent/x", NULL, 10, 8, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "/nonexistent/x"));
}
END_TEST

START_TEST(text_goes_through_the_tokenizer_without_bos)
{
    static const char text[] = "ab\0\xff\n";
    struct tokenizer *tokenizer;
    struct data       data;

    ck_assert_int_eq(tokenizer_open(&tokenizer, "bytes", 256, error, sizeof error), 0);
    ck_assert_int_eq(load(&data, "a.txt", text, 5, tokenizer, 256), 0);
    ck_assert_int_eq(data.count, 5);
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
    struct data data = { NULL, 9 };

    ck_assert_int_eq(data_check(&data, "x", 8, error, sizeof error), 0);
    ck_assert_int_eq(data_check(&data, "x", 9, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "9 ids"));
    ck_assert_int_eq(data_window(&data, 8, 1, 2, 3), 0); /* the only one */
}
END_TEST

START_TEST(windows_are_a_function_of_their_arguments)
{
    struct data data = { NULL, 1000000 };
    int64_t     a = data_window(&data, 128, 7, 11, 3);

    ck_assert_int_eq(data_window(&data, 128, 7, 11, 3), a);
    ck_assert_int_ne(data_window(&data, 128, 8, 11, 3), a);
    ck_assert_int_ne(data_window(&data, 128, 7, 12, 3), a);
    ck_assert_int_ne(data_window(&data, 128, 7, 11, 4), a);
    ck_assert_int_ne(data_window(&data, 128, 7, 3, 11), a);
}
END_TEST

/* Chi-squared over 50 starts, 100,000 draws: mean 49, deviation 9.9. Fixed seeds, so
 * this cannot fail by chance. */
START_TEST(windows_are_uniform)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct data data = { NULL, 57 };
        double      chi = 0, expected = 2000;
        int         seen[50] = { 0 };

        for (int64_t step = 0; step < 12500; step++) {
            for (int64_t i = 0; i < 8; i++) {
                int64_t at = data_window(&data, 7, seed, step, i);

                ck_assert_int_ge(at, 0);
                ck_assert_int_le(at, 49);
                seen[at]++;
            }
        }
        for (int k = 0; k < 50; k++) {
            chi += (seen[k] - expected) * (seen[k] - expected) / expected;
        }
        ck_assert_double_gt(chi, 49 - 4 * 9.9);
        ck_assert_double_lt(chi, 49 + 4 * 9.9);
    }
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("data");
    TCase   *all = tcase_create("all");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_unchecked_fixture(all, make_directory, remove_directory);
    tcase_add_test(all, raw_ids_are_little_endian);
    tcase_add_test(all, bad_ids_are_refused_with_their_position);
    tcase_add_test(all, files_that_hold_nothing_are_refused);
    tcase_add_test(all, text_goes_through_the_tokenizer_without_bos);
    tcase_add_test(all, large_files_are_read_whole);
    tcase_add_test(all, a_window_needs_its_targets);
    tcase_add_test(all, windows_are_a_function_of_their_arguments);
    tcase_add_test(all, windows_are_uniform);
    suite_add_tcase(suite, all);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
