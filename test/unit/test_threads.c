/* The program's threads: every turn of a loop once, whoever comes late, and parts that
 * cover what they are cut from. */
#include "check_main.h"

#include <stdatomic.h>
#include <time.h>

#include "base/threads.h"

static char error[512];

enum { TURNS = 1000 };

struct loop {
    _Atomic int seen[TURNS];
    int64_t     count;
    int         slow;
};

static void turn(void *context, int64_t i)
{
    struct loop *loop = context;

    ck_assert_int_lt(i, loop->count);
    ck_assert_int_ge(i, 0);
    if (loop->slow && i % 100 == 0) {
        const struct timespec pause = { 0, 1000 * 1000 };
        nanosleep(&pause, NULL);
    }
    atomic_fetch_add(&loop->seen[i], 1);
}

static void check_loop(struct threads *threads, int64_t count, int slow)
{
    struct loop loop = { .count = count, .slow = slow };

    threads_run(threads, count, turn, &loop);
    for (int64_t i = 0; i < TURNS; i++) {
        ck_assert_int_eq(loop.seen[i], i < count);
    }
}

/* Loops one after another, short and long, and after pauses in which the threads sleep. */
START_TEST(every_turn_is_taken_once)
{
    const int64_t counts[] = { 0, 1, 2, 3, 17, TURNS };

    for (int64_t n = 1; n <= 5; n++) {
        struct threads *threads = NULL;

        ck_assert_msg(threads_create(&threads, n, error, sizeof error) == 0, "%s", error);
        ck_assert_int_eq(threads_count(threads), n);
        for (int round = 0; round < 300; round++) {
            const struct timespec pause = { 0, 300 * 1000 };

            check_loop(threads, counts[round % 6], round % 50 == 5);
            if (round % 20 == 0) {
                nanosleep(&pause, NULL);
            }
        }
        threads_free(threads);
    }
    check_loop(NULL, TURNS, 0);
    ck_assert_int_eq(threads_count(NULL), 1);
    threads_free(NULL);
}
END_TEST

/* Parts follow one another from 0 to n, begin at multiples of the unit, and the largest
 * has at most a unit more than the smallest but for the last one's rest. */
START_TEST(parts_cover_everything)
{
    for (int64_t n = 0; n < 100; n++) {
        for (int64_t unit = 1; unit < 20; unit += 3) {
            for (int64_t parts = 1; parts < 9; parts++) {
                int64_t most = 0, units = (n + unit - 1) / unit;

                ck_assert_int_eq(threads_part(n, unit, parts, 0), 0);
                ck_assert_int_eq(threads_part(n, unit, parts, parts), n);
                for (int64_t i = 0; i < parts; i++) {
                    int64_t at = threads_part(n, unit, parts, i);
                    int64_t size = threads_part(n, unit, parts, i + 1) - at;

                    ck_assert(at == n || at % unit == 0);
                    ck_assert_int_ge(size, 0);
                    most = size > most ? size : most;
                }
                ck_assert_int_le(most, (units + parts - 1) / parts * unit);
            }
        }
    }
}
END_TEST

START_TEST(the_number_comes_from_the_environment)
{
    struct threads *threads;

    setenv("OMP_NUM_THREADS", "2", 1);
    setenv("OPENBLAS_NUM_THREADS", "3", 1);
    ck_assert_int_eq(threads_create(&threads, 0, error, sizeof error), 0);
    ck_assert_int_eq(threads_count(threads), 3);
    threads_free(threads);
    setenv("OPENBLAS_NUM_THREADS", "no number", 1);
    ck_assert_int_eq(threads_create(&threads, 0, error, sizeof error), 0);
    ck_assert_int_eq(threads_count(threads), 2);
    threads_free(threads);
    unsetenv("OPENBLAS_NUM_THREADS");
    unsetenv("OMP_NUM_THREADS");
    ck_assert_int_eq(threads_create(&threads, 0, error, sizeof error), 0);
    ck_assert_int_ge(threads_count(threads), 1);
    threads_free(threads);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_turn_is_taken_once);
    tcase_add_test(tcase, parts_cover_everything);
    tcase_add_test(tcase, the_number_comes_from_the_environment);
    suite_add_tcase(suite, tcase);
    return suite;
}
