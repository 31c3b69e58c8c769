/* How batches are made of streams and examples. */
#include "check_main.h"

#include "text/data.h"

/* ===== Windows ============================================================ */

START_TEST(windows_are_a_function_of_their_arguments)
{
    struct data data = { .count = 1000000 };
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
        struct data data = { .count = 57 };
        double      chi = 0, expected = 2000;
        int         seen[50] = { 0 };

        for (int64_t step = 0; step < 12500; step++) {
            for (int64_t i = 0; i < 8; i++) {
                int64_t at = data_window(&data, 7, seed, step, i);

                if (at < 0 || at > 49) { /* an assertion is slow */
                    ck_abort_msg("window at %d", (int) at);
                }
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

/* ===== Epochs ============================================================= */

/* Every example once in every epoch, for all small numbers and some at powers of 2. */
START_TEST(an_epoch_has_every_example_once)
{
    enum { MOST = 70000 };
    char *seen = must_alloc(MOST, 1);

    for (int64_t n = 1; n < MOST; n += n < 70 ? 1 : n == 4095 ? 1 : n * 9 % 4095 + 1) {
        struct data data = { .examples = n };

        for (int64_t epoch = 0; epoch < (n < 70 ? 5 : 1); epoch++) {
            memset(seen, 0, MOST);
            for (int64_t i = 0; i < n; i++) {
                int64_t e = data_example(&data, 3, epoch, i);

                if (e < 0 || e >= n || seen[e]) {
                    ck_abort_msg("%d examples: %d", (int) n, (int) e);
                }
                seen[e] = 1;
            }
        }
    }
    free(seen);
}
END_TEST

START_TEST(an_epoch_is_a_function_of_seed_and_number)
{
    struct data data = { .examples = 1000 };
    int         same[3] = { 0 };

    for (int64_t i = 0; i < 1000; i++) {
        int64_t e = data_example(&data, 1, 0, i);

        ck_assert_int_eq(data_example(&data, 1, 0, i), e);
        same[0] += data_example(&data, 2, 0, i) == e;
        same[1] += data_example(&data, 1, 1, i) == e;
        same[2] += i == e;
    }
    for (int k = 0; k < 3; k++) { /* one is to be expected */
        ck_assert_int_lt(same[k], 8);
    }
}
END_TEST

/* Each of the orders of 4 examples, and each of 7 examples at each place. Chi-squared over
 * 24 orders: mean 23, deviation 6.8; over 49 cells with fixed sums: 36, 8.5. */
START_TEST(epochs_are_uniform)
{
    struct data four = { .examples = 4 }, seven = { .examples = 7 };
    double      chi = 0;
    int         orders[256] = { 0 }, places[7][7] = { { 0 } };

    for (int64_t epoch = 0; epoch < 24000; epoch++) {
        int order = 0;

        for (int64_t i = 0; i < 4; i++) {
            order = 4 * order + (int) data_example(&four, 5, epoch, i);
        }
        orders[order]++;
    }
    for (int i = 0; i < 256; i++) {
        chi += orders[i] > 0 ? (orders[i] - 1000.0) * (orders[i] - 1000.0) / 1000 : 0;
        ck_assert(orders[i] == 0 || orders[i] > 800);
    }
    check_le(chi, 23 + 4 * 6.8);
    for (int64_t epoch = 0; epoch < 7000; epoch++) {
        for (int64_t i = 0; i < 7; i++) {
            places[i][data_example(&seven, 5, epoch, i)]++;
        }
    }
    chi = 0;
    for (int i = 0; i < 49; i++) {
        chi += pow(places[i / 7][i % 7] - 1000.0, 2) / 1000;
    }
    check_le(chi, 36 + 4 * 8.5);
}
END_TEST

/* ===== Batches of examples ================================================ */

/* Example e has e % 5 + 2 ids, 100 e and up, of which the last e % 3 + 1 (at most all but
 * the first) are predicted. */
enum { EXAMPLES = 11 };

static struct data make_examples(void)
{
    struct data data = { .examples = EXAMPLES };

    data.start = must_alloc(EXAMPLES + 1, sizeof *data.start);
    data.loss_from = must_alloc(EXAMPLES, sizeof *data.loss_from);
    data.ids = must_alloc(EXAMPLES * 7, sizeof *data.ids);
    for (int64_t e = 0; e < EXAMPLES; e++) {
        int64_t count = e % 5 + 2, predicted = e % 3 + 1;

        for (int64_t i = 0; i < count; i++) {
            data.ids[data.start[e] + i] = (int32_t) (100 * e + i);
        }
        data.start[e + 1] = data.start[e] + count;
        data.loss_from[e] = predicted < count ? count - predicted : 1;
    }
    data.count = data.start[EXAMPLES];
    return data;
}

START_TEST(examples_fill_rows)
{
    struct data     data = make_examples();
    struct sampling sampling = { 4, 2, 6, 9, DATA_SEQUENTIAL };

    for (int32_t order = DATA_RANDOM; order <= DATA_SEQUENTIAL; order++) {
        sampling.order = order;
        for (int64_t micro = 0; micro < 3 * EXAMPLES; micro++) {
            int32_t ids[4 * 6], targets[4 * 6];
            int64_t length = -1, longest = 0, want = 0;
            int64_t got = data_fill(&data, &sampling, micro, ids, targets, &length);

            for (int64_t r = 0; r < 4; r++) {
                int64_t at = 4 * micro + r, e = at % EXAMPLES, count, from;

                if (order == DATA_RANDOM) {
                    e = data_example(&data, 9, at / EXAMPLES, at % EXAMPLES);
                }
                count = data.start[e + 1] - data.start[e];
                from = data.loss_from[e];
                longest = count - 1 > longest ? count - 1 : longest;
                want += count - from;
                for (int64_t i = 0; i < length; i++) {
                    int32_t id = ids[r * length + i], target = targets[r * length + i];

                    ck_assert_int_eq(id, i + 1 < count ? 100 * e + i : 0);
                    ck_assert_int_eq(
                        target, i + 1 < count && i + 1 >= from ? 100 * e + i + 1 : -1);
                }
            }
            ck_assert_int_eq(length, longest);
            ck_assert_int_eq(got, want);
        }
    }
    data_free(&data);
}
END_TEST

/* ===== Batches of a stream ================================================ */

START_TEST(streams_fill_windows)
{
    int32_t         numbers[30], ids[3 * 4], targets[3 * 4];
    struct data     data = { .ids = numbers, .count = 30 };
    struct sampling random = { 3, 2, 4, 77, DATA_RANDOM };
    struct sampling sequential = { 3, 2, 4, 77, DATA_SEQUENTIAL };
    int64_t         length;

    for (int32_t i = 0; i < 30; i++) {
        numbers[i] = i;
    }
    for (int64_t micro = 0; micro < 9; micro++) {
        ck_assert_int_eq(data_fill(&data, &random, micro, ids, targets, &length), 12);
        ck_assert_int_eq(length, 4);
        for (int64_t i = 0; i < 12; i++) {
            int64_t at = data_window(&data, 4, 77, micro / 2, micro % 2 * 3 + i / 4);

            ck_assert_int_eq(ids[i], at + i % 4);
            ck_assert_int_eq(targets[i], at + i % 4 + 1);
        }
        ck_assert_int_eq(data_fill(&data, &sequential, micro, ids, targets, &length), 12);
        for (int64_t i = 0; i < 12;
             i++) { /* seven windows fit, the eighth is the first */
            ck_assert_int_eq(ids[i], (3 * micro + i / 4) % 7 * 4 + i % 4);
            ck_assert_int_eq(targets[i], ids[i] + 1);
        }
    }
    data.count = 29; /* the last target of the seventh is the last id */
    data_fill(&data, &sequential, 2, ids, targets, &length);
    ck_assert_int_eq(targets[3], 28);
    data.count = 28;
    data_fill(&data, &sequential, 2, ids, targets, &length);
    ck_assert_int_eq(targets[3], 4);
}
END_TEST

/* Recorded with the generator: a training that was started before must go on with the same
 * batches. */
START_TEST(draws_stay_what_they_are)
{
    struct data stream = { .count = 1000000 }, examples = { .examples = 1000 };

    ck_assert_int_eq(data_window(&stream, 128, 7, 11, 3), 713288);
    ck_assert_int_eq(data_window(&stream, 128, 0, 0, 0), 531432);
    ck_assert_int_eq(data_example(&examples, 7, 2, 5), 735);
    ck_assert_int_eq(data_example(&examples, 0, 0, 0), 71);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("sampling");
    TCase *tcase = tcase_create("sampling");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, windows_are_a_function_of_their_arguments);
    tcase_add_test(tcase, windows_are_uniform);
    tcase_add_test(tcase, an_epoch_has_every_example_once);
    tcase_add_test(tcase, an_epoch_is_a_function_of_seed_and_number);
    tcase_add_test(tcase, epochs_are_uniform);
    tcase_add_test(tcase, examples_fill_rows);
    tcase_add_test(tcase, streams_fill_windows);
    tcase_add_test(tcase, draws_stay_what_they_are);
    suite_add_tcase(suite, tcase);
    return suite;
}
