/* Which ranks are kept: by hand, from a run's scores, at random; what is silenced. */
#include "check_main.h"
#include "run_folder.h"

#include "adapters/keep_ranks.h"
#include "model/llama.h"

enum { IN = 3, OUT = 2 };

static char error[512];

static struct llama_adapters adapters;
static struct rank_values    values;

/* Two modules of 4 and 6 ranks; rank r of module m has a_r = size e_0, b_r = e_1, so its
 * norm is its size. */
static const double sizes[2][6] = { { 2, 0.5, 3, 1 }, { 0.25, 4, 0, 8, 1, 1 } };
static const char  *names[2] = { "model.layers.0.a_proj", "model.layers.0.b_proj" };
static const int    ranks[2] = { 4, 6 };

static void setup(void)
{
    bl_options options = default_options(BL_F32);
    bl_spec    spec[2];

    make_folder();
    options.method = BL_METHOD_LORA;
    options.optimizer = BL_OPTIMIZER_HOST;
    options.reallocation = 0;
    for (int m = 0; m < 2; m++) {
        spec[m] = make_spec(IN, OUT, ranks[m]);
        spec[m].alpha = ranks[m];
        spec[m].name = names[m];
    }
    check_ok(bl_group_create(&adapters.group, spec, 2, &options));
    for (int m = 0; m < 2; m++) {
        bl_adapter *adapter = bl_group_get_adapter(adapters.group, m);
        bl_view     a = view_of(adapter, BL_TENSOR_A, BL_BUFFER_PARAMETERS);
        bl_view     b = view_of(adapter, BL_TENSOR_B, BL_BUFFER_PARAMETERS);

        for (int r = 0; r < ranks[m]; r++) {
            for (int i = 0; i < IN; i++) {
                set_value(a.data, a.dtype, r * a.ld + i, i == 0 ? sizes[m][r] : 0);
            }
            for (int i = 0; i < OUT; i++) {
                set_value(b.data, b.dtype, r * b.ld + i, i == 1);
            }
        }
    }
    check_ok(bl_group_touch(adapters.group));
}

static void teardown(void)
{
    rank_values_free(&values);
    bl_group_free(adapters.group);
    adapters.group = NULL;
    remove_folder();
}

static void read_values(enum keep_by by)
{
    ck_assert_msg(
        rank_values_read(&values, &adapters, below("r"), by, error, sizeof error) == 0,
        "%s", error);
}

static int64_t keep(const char *text, enum keep_scope scope)
{
    struct keep what;

    ck_assert_msg(keep_parse(&what, text, error, sizeof error) == 0, "%s", error);
    return keep_ranks(&adapters, &values, &what, scope, error, sizeof error);
}

/* Ranks that are kept, of both modules: "1010 010000" */
static const char *kept(void)
{
    static char text[16];
    int         used = 0;

    for (int m = 0; m < 2; m++) {
        double g[6];

        check_ok(bl_adapter_copy_importance(bl_group_get_adapter(adapters.group, m), g));
        for (int r = 0; r < ranks[m]; r++) {
            ck_assert(g[r] == 0 || g[r] == 1);
            text[used++] = g[r] == 1 ? '1' : '0';
        }
        text[used++] = m == 0 ? ' ' : '\0';
    }
    return text;
}

static void keeps(const char *text, enum keep_scope scope, const char *want)
{
    int64_t count = 0;

    for (const char *at = want; *at != '\0'; at++) {
        count += *at == '1';
    }
    ck_assert_int_eq(keep(text, scope), count);
    ck_assert_msg(strcmp(kept(), want) == 0, "%s keeps %s, must be %s", text, kept(),
                  want);
}

/* What the second output of a module is for x = e_0: the sum of the kept sizes. */
static double output(int module)
{
    bl_adapter *adapter = bl_group_get_adapter(adapters.group, module);
    float       x[IN] = { 1, 5, 7 }, y[OUT] = { 0, 0 };
    bl_tape    *tape = NULL;

    check_ok(bl_tape_create(&tape, adapter, 1, 0));
    check_ok(bl_forward(adapter, tape, 1, y, OUT, x, IN, BL_NO_DROPOUT));
    bl_tape_free(tape);
    ck_assert(y[0] == 0);
    return (double) y[1];
}

START_TEST(by_norm)
{
    read_values(KEEP_BY_ANY);
    ck_assert_int_eq(values.by, KEEP_BY_NORM);
    ck_assert_str_eq(values.note, "");
    /* the rank of norm 0 does not count */
    ck_assert_int_eq(values.ranks, 9);
    ck_assert_int_eq(values.most, 5);
    keeps("top:0", KEEP_MODULE, "0000 000000");
    ck_assert(output(0) == 0 && output(1) == 0);
    keeps("top:1", KEEP_MODULE, "0010 000100");
    keeps("top:2", KEEP_MODULE, "1010 010100");
    ck_assert(output(0) == 5 && output(1) == 12);
    /* half of 5 is rounded up; of equal ranks the first is the better */
    keeps("top:50%", KEEP_MODULE, "1010 010110");
    ck_assert(output(0) == 5 && output(1) == 13);
    keeps("bottom:40%", KEEP_MODULE, "0101 100001");
    ck_assert(output(0) == 1.5 && output(1) == 1.25);
    /* 4 * 12.5 % is half a rank, 5 * 12.5 % more than that, 5 * 9 % less */
    keeps("top:12.5%", KEEP_MODULE, "0010 000100");
    keeps("top:9%", KEEP_MODULE, "0000 000000");
    keeps("top:100%", KEEP_MODULE, "1111 110111");
    ck_assert(output(0) == 6.5 && output(1) == 14.25);
    keeps("bottom:5", KEEP_MODULE, "1111 110111");
    keeps("top:3", KEEP_JOINT, "0010 010100");
    keeps("bottom:2", KEEP_JOINT, "0100 100000");
    keeps("top:50%", KEEP_JOINT, "1011 010100"); /* 4.5 of 9 */
    keeps("top:9", KEEP_JOINT, "1111 110111");
}
END_TEST

/* What the best are not are the worst, whatever is equal. */
START_TEST(complement)
{
    static const char *const top[] = { "top:4", "top:5", "top:6" };
    static const char *const bottom[] = { "bottom:5", "bottom:4", "bottom:3" };

    read_values(KEEP_BY_NORM);
    for (int i = 0; i < 3; i++) { /* between equals, twice */
        char best[16];

        ck_assert_int_eq(keep(top[i], KEEP_JOINT), 4 + i);
        strcpy(best, kept());
        ck_assert_int_eq(keep(bottom[i], KEEP_JOINT), 5 - i);
        for (int k = 0; best[k] != '\0'; k++) {
            if (best[k] != ' ' && k != 7) { /* the rank of norm 0 */
                ck_assert_msg(best[k] != kept()[k], "%s and %s at %d", top[i], bottom[i],
                              k);
            }
        }
    }
}
END_TEST

START_TEST(at_random)
{
    char first[16];
    int  differ = 0, counts[9] = { 0 };

    read_values(KEEP_BY_NORM);
    ck_assert_int_eq(keep("random:50%:7", KEEP_MODULE), 5);
    strcpy(first, kept());
    ck_assert_int_eq(keep("random:50%:8", KEEP_MODULE), 5);
    ck_assert_int_eq(keep("random:50%:7", KEEP_MODULE), 5);
    ck_assert_str_eq(kept(), first);
    ck_assert_int_eq(keep("random:50%", KEEP_MODULE), keep("random:50%:0", KEEP_MODULE));

    /* every rank is as likely, and a seed's ranks stay when more are kept */
    for (int seed = 0; seed < 900; seed++) {
        char text[32], fewer[16];

        snprintf(text, sizeof text, "random:3:%d", seed);
        ck_assert_int_eq(keep(text, KEEP_JOINT), 3);
        strcpy(fewer, kept());
        for (int k = 0, rank = 0; fewer[k] != '\0'; k++) {
            if (fewer[k] != ' ' && k != 7) {
                counts[rank++] += fewer[k] == '1';
            }
        }
        ck_assert_int_eq(fewer[7], '0'); /* the rank of norm 0 */
        differ += strcmp(fewer, first) != 0;
        snprintf(text, sizeof text, "random:6:%d", seed);
        ck_assert_int_eq(keep(text, KEEP_JOINT), 6);
        for (int k = 0; fewer[k] != '\0'; k++) {
            ck_assert(fewer[k] != '1' || kept()[k] == '1');
        }
    }
    for (int rank = 0; rank < 9; rank++) { /* 300 expected, sd 14 */
        ck_assert_msg(counts[rank] > 230 && counts[rank] < 370, "%d: %d", rank,
                      counts[rank]);
    }
    ck_assert_int_gt(differ, 890);
}
END_TEST

/* ===== Scores ============================================================= */

#define MODULES                                                                          \
    "{\"modules\":[{\"name\":\"model.layers.0.b_proj\",\"in\":3,\"out\":2,\"rank\":6},"  \
    "{\"name\":\"model.layers.0.a_proj\",\"in\":3,\"out\":2,\"rank\":4}]}\n"
#define NORMS "\"norm\":[[0.25,4,0,8,1,1],[2,0.5,3,1]]}\n"

static void write_run(const char *lines)
{
    write_start("r", "", "\"method\": \"beamlora\", \"steps\": 3, \"seed\": 7");
    write_in("r", "ranks.jsonl", MODULES);
    write_in("r", "ranks.jsonl", lines);
}

START_TEST(by_importance)
{
    /* by name, of the last line, and not in the order of the norms */
    write_run(
        "+{\"step\":0,\"importance\":[[1,1,1,1,1,1],[1,1,1,1]]," NORMS
        "{\"step\":3,\"importance\":[[2.5,0.5,9,0.25,1,1.5],[0.5,2,0.75,0.25]]," NORMS);
    read_values(KEEP_BY_ANY);
    ck_assert_int_eq(values.by, KEEP_BY_IMPORTANCE);
    ck_assert_int_eq(values.ranks, 9);
    keeps("top:1", KEEP_MODULE, "0100 100000");
    keeps("bottom:1", KEEP_MODULE, "0001 000100");
    keeps("top:3", KEEP_JOINT, "0100 100001");
    rank_values_free(&values);
    read_values(KEEP_BY_NORM);
    ck_assert_int_eq(values.by, KEEP_BY_NORM);
    keeps("top:1", KEEP_MODULE, "0010 000100");
}
END_TEST

/* Modules of several ranks are filled up with zeros in a file. */
START_TEST(filled_up)
{
    write_in("r", "run.json",
             "{\"settings\": {\"method\": \"beamlora\", \"steps\": 3}}\n");
    write_in("r", "ranks.jsonl",
             "{\"modules\":[{\"name\":\"model.layers.0.a_proj\",\"in\":3,\"out\":2,"
             "\"rank\":4},{\"name\":\"model.layers.0.b_proj\",\"in\":3,\"out\":2,"
             "\"rank\":2}]}\n"
             "{\"step\":3,\"importance\":[[1,1.5,0.5,1],[1.5,0.5]],"
             "\"norm\":[[2,0.5,3,1],[0.25,4]]}\n");
    ck_assert_int_eq(rank_values_read(&values, &adapters, below("r"), KEEP_BY_IMPORTANCE,
                                      error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "rank 3 of model.layers.0.b_proj has norm 0"));

    bl_view a = view_of(bl_group_get_adapter(adapters.group, 1), BL_TENSOR_A,
                        BL_BUFFER_PARAMETERS);

    for (int r = 2; r < 6; r++) {
        set_value(a.data, a.dtype, r * a.ld, 0);
    }
    check_ok(bl_group_touch(adapters.group));
    read_values(KEEP_BY_IMPORTANCE);
    ck_assert_int_eq(values.ranks, 6);
    keeps("top:50%", KEEP_MODULE, "1100 100000");
    keeps("top:100%", KEEP_MODULE, "1111 110000");
}
END_TEST

/* Scores that are not this adapter's: refused where they are wanted, told where not. */
START_TEST(other_scores)
{
    static const struct {
        const char *lines, *line;
    } cases[] = {
        { "+{\"step\":3,\"importance\":[[1,1,1,1,1,1],[1,1,1,1]],"
          "\"norm\":[[0.25,4,0,8,1,1],[2,0.5,3.01,1]]}\n",
          "rank 2 of model.layers.0.a_proj has norm 3.01, in the adapter 3" },
        { "+{\"step\":3,\"importance\":[[1,1,1,1,1,1],[1,1,1,null]]," NORMS,
          "rank 3 of model.layers.0.a_proj" },
        { "+{\"step\":3,\"importance\":[[1,1,1,1,1,1],[1,1,1,1]],"
          "\"norm\":[[0.25,4,1e-9,8,1,1],[2,0.5,3,1]]}\n",
          "rank 2 of model.layers.0.b_proj" },
        { "+{\"step\":3}\n", "ranks.jsonl:2: \"importance\" must be an array" },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_run(cases[i].lines);
        error[0] = '\0';
        ck_assert_int_eq(rank_values_read(&values, &adapters, below("r"),
                                          KEEP_BY_IMPORTANCE, error, sizeof error),
                         -1);
        ck_assert_msg(strstr(error, cases[i].line) != NULL, "%s", error);
        read_values(KEEP_BY_ANY);
        ck_assert_int_eq(values.by, KEEP_BY_NORM);
        ck_assert_msg(strstr(values.note, cases[i].line) != NULL, "%s", values.note);
        keeps("top:1", KEEP_MODULE, "0010 000100");
        rank_values_free(&values);
    }
    /* without any there is nothing to tell */
    write_start("r", "", "\"method\": \"lora\", \"steps\": 3");
    write_in("r", "ranks.jsonl",
             MODULES "{\"step\":3,\"importance\":[[1,1,1,1,1,1],[1,1,1,1]]," NORMS);
    ck_assert_int_eq(rank_values_read(&values, &adapters, below("r"), KEEP_BY_IMPORTANCE,
                                      error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "has no scores"));
    read_values(KEEP_BY_ANY);
    ck_assert_str_eq(values.note, "");
    rank_values_free(&values);
    ck_assert_int_eq(rank_values_read(&values, &adapters, below("none"),
                                      KEEP_BY_IMPORTANCE, error, sizeof error),
                     -1);
    ck_assert_ptr_nonnull(strstr(error, "no run folder"));
}
END_TEST

START_TEST(refused)
{
    static const char *const texts[] = { "",
                                         "top",
                                         "top:",
                                         "top:-1",
                                         "top:101%",
                                         "top:1.5",
                                         "top:.5%",
                                         "top:5.%",
                                         "top:50%%",
                                         "top:1e1%",
                                         "top:50%:1",
                                         "bottom:2:0",
                                         "best:50%",
                                         "Top:50%",
                                         "top :50%",
                                         "top: 50%",
                                         "top:+1",
                                         "top:0x10",
                                         "random:50%:",
                                         "random:50%:-1",
                                         "random:2:1 ",
                                         "random:2:1:1",
                                         "random:2:1.5",
                                         "top:inf",
                                         "topmost:50%",
                                         "top:99999999999999999999",
                                         "random:2:99999999999999999999" };
    struct keep              what;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        error[0] = '\0';
        ck_assert_msg(keep_parse(&what, texts[i], error, sizeof error) == -1, "%s",
                      texts[i]);
        ck_assert_msg(strstr(error, "--keep-ranks") != NULL, "%s", texts[i]);
    }
    read_values(KEEP_BY_NORM);
    ck_assert_int_eq(keep("top:6", KEEP_MODULE), -1);
    ck_assert_str_eq(error, "--keep-ranks keeps 6 ranks, no module has more than 5");
    ck_assert_int_eq(keep("random:10:1", KEEP_JOINT), -1);
    ck_assert_str_eq(error, "--keep-ranks keeps 10 ranks, the adapter has 9");
    ck_assert_str_eq(kept(), "1111 111111");
    rank_values_free(&values);

    for (int m = 0; m < 2; m++) {
        view_random(bl_group_get_adapter(adapters.group, m), BL_TENSOR_B,
                    BL_BUFFER_PARAMETERS, 1, 0, 0);
    }
    check_ok(bl_group_touch(adapters.group));
    read_values(KEEP_BY_NORM);
    ck_assert_int_eq(keep("top:50%", KEEP_MODULE), -1);
    ck_assert_ptr_nonnull(strstr(error, "norm 0"));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("keep_ranks");
    TCase *tests = tcase_create("keep_ranks");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, by_norm);
    tcase_add_test(tests, complement);
    tcase_add_test(tests, at_random);
    tcase_add_test(tests, by_importance);
    tcase_add_test(tests, filled_up);
    tcase_add_test(tests, other_scores);
    tcase_add_test(tests, refused);
    suite_add_tcase(suite, tests);
    return suite;
}
