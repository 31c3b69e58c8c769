/* Run folders: all that is in them is read, a last line that is cut short is forgiven,
 * everything else that is malformed is refused with its file and line. */
#define _POSIX_C_SOURCE 200809L

#include "check_main.h"
#include "run_folder.h"
#include "view/run_read.h"

#define MODULES                                                                          \
    "{\"modules\":[{\"name\":\"model.layers.0.a_proj\",\"in\":4,\"out\":6,\"rank\":2},"  \
    "{\"name\":\"model.layers.0.b_proj\",\"in\":4,\"out\":4,\"rank\":3}]}\n"
#define SAMPLE(step, more)                                                               \
    "{\"step\":" #step ",\"importance\":[[0.5,1.5],[1,null,2]],"                         \
    "\"norm\":[[0.25,0.5],[1,2,3]]" more "}\n"
#define PLAN                                                                             \
    "{\"step\":2,\"p\":0.95,\"module\":[0,1],\"pruned\":[0,2],\"source\":[1,-1],"        \
    "\"action\":[\"history\",\"removed\"],\"age\":[1,-1],\"importance\":[0.5,0.25]}\n"
#define LOG                                                                              \
    "{\"step\":0,\"eval\":{\"loss\":2.5,\"tokens\":10,\"examples\":4,\"exact\":1}}\n"    \
    "{\"step\":1,\"loss\":3,\"lr\":1,\"gradient_norm\":1,\"tokens\":5}\n"                \
    "{\"step\":2,\"loss\":null,\"lr\":1,\"gradient_norm\":null,\"tokens\":5,"            \
    "\"skipped\":true}\n"                                                                \
    "{\"step\":3,\"loss\":1.5,\"lr\":1,\"gradient_norm\":1,\"tokens\":5}\n"              \
    "{\"step\":3,\"eval\":{\"loss\":0.5,\"tokens\":10}}\n"

static void write_all(void)
{
    write_start("r", "", "\"method\": \"beamlora\", \"steps\": 3, \"seed\": 7");
    write_in("r", "log.jsonl", LOG);
    write_in("r", "ranks.jsonl",
             MODULES SAMPLE(0, "") SAMPLE(2, "") SAMPLE(2, ",\"after\":true")
                 SAMPLE(2, "") SAMPLE(3, ""));
    write_in("r", "plans.jsonl", PLAN);
}

static struct run run;
static char       error[512];

static int read_r(void)
{
    return run_read(&run, below("r"), error, sizeof error);
}

/* AdaLoRA's */
START_TEST(kept)
{
    write_all();
    write_in("r", "ranks.jsonl",
             MODULES "{\"step\":3,\"importance\":[[1,1],[0,0,1]],"
                     "\"norm\":[[1,1],[0,0,1]],\"kept\":[2,0]}\n");
    ck_assert_msg(read_r() == 0, "%s", error);
    ck_assert(run.sample[0].kept[0] == 2 && run.sample[0].kept[1] == 0);
    run_free(&run);
    write_all();
    ck_assert_msg(read_r() == 0, "%s", error);
    ck_assert_ptr_null(run.sample[0].kept);
    run_free(&run);
}
END_TEST

START_TEST(everything)
{
    write_all();
    ck_assert_msg(read_r() == 0, "%s", error);
    ck_assert_str_eq(run.name, "r");
    ck_assert_str_eq(run.method, "beamlora");
    ck_assert_str_eq(run.note, "");
    ck_assert_int_eq(run.total_steps, 3);
    ck_assert_int_eq(run.done_steps, 3);
    ck_assert_int_eq(run.finished, 1);
    ck_assert_int_eq(run.steps, 3);
    ck_assert(run.step[0].loss == 3 && isnan(run.step[1].loss) && run.step[2].step == 3);
    ck_assert_int_eq(run.evaluations, 2);
    ck_assert(run.evaluation[0].loss == 2.5 && run.evaluation[0].examples == 4 &&
              run.evaluation[0].exact == 1 && run.evaluation[0].tokens == 10);
    ck_assert(run.evaluation[1].step == 3 && run.evaluation[1].examples == 0);
    ck_assert_int_eq(run.modules, 2);
    ck_assert_int_eq(run.ranks, 5);
    ck_assert_str_eq(run.module[1].name, "model.layers.0.b_proj");
    ck_assert(run.module[0].in == 4 && run.module[0].out == 6 &&
              run.module[1].first == 2);
    ck_assert_int_eq(run.samples, 5);
    ck_assert(!run.sample[1].after && run.sample[2].after && run.sample[3].after &&
              !run.sample[4].after && run.sample[4].step == 3);
    ck_assert(run.sample[0].importance[1] == 1.5 && isnan(run.sample[0].importance[3]) &&
              run.sample[0].importance[4] == 2 && run.sample[0].norm[4] == 3);
    ck_assert_int_eq(run.plans, 1);
    ck_assert(run.plan[0].step == 2 && run.plan[0].p == 0.95 && run.plan[0].moves == 2);
    ck_assert(run.plan[0].move[1].module == 1 && run.plan[0].move[1].rank == 2 &&
              run.plan[0].move[1].source == -1 && run.plan[0].move[1].age == -1 &&
              run.plan[0].move[1].action == RUN_REMOVED &&
              run.plan[0].move[1].importance == 0.25);
    ck_assert(run_has_scores(&run));
    /* three steps: the tenth is one step */
    ck_assert(run_train_loss(&run, 0) == 3 && run_train_loss(&run, 1) == 1.5);
    run_free(&run);
}
END_TEST

/* Whatever the number of bytes that reached the file, what was whole before is there. */
START_TEST(cut_anywhere)
{
    static const char *const files[] = { "log.jsonl", "ranks.jsonl", "plans.jsonl" };
    static const char *const text[] = { LOG, MODULES SAMPLE(0, "") SAMPLE(2, ""),
                                        PLAN PLAN };
    size_t                   length = strlen(text[_i]);

    write_all();
    for (size_t end = 0; end <= length; end++) {
        size_t  whole = 0, complete;
        int64_t lines = 0, found;

        FILE *stream = open_in("r", files[_i], "w");

        fwrite(text[_i], 1, end, stream);
        fclose(stream);
        for (size_t k = 0; k < end; k++) {
            if (text[_i][k] == '\n') {
                whole = k + 1;
                lines++;
            }
        }
        /* a line that lacks its end alone is whole */
        complete = end > whole && text[_i][end] == '\n';
        if (_i == 1 && end == 0) {
            write_in("r", "plans.jsonl", ""); /* it would name modules */
        }
        ck_assert_msg(read_r() == 0, "%s cut at %zu: %s", files[_i], end, error);
        found = _i == 0   ? run.steps + run.evaluations
                : _i == 1 ? run.samples + (run.module != NULL)
                          : run.plans;
        ck_assert_int_eq(found, lines + (int64_t) complete);
        ck_assert_int_eq(run.note[0] != '\0', end > whole && !complete);
        run_free(&run);
    }
}
END_TEST

/* "FILE|LINE of trouble|what the message has besides file and line" */
static const char *const malformed[][3] = {
    { "log.jsonl", "nonsense\n{\"step\":4,\"loss\":1}\n", ":6: " },
    { "log.jsonl", "{\"a\":\x01}\n{\"step\":4,\"loss\":1}\n",
      ":6: invalid token near '?'" },
    { "log.jsonl", "[1]\n", "must be an object" },
    { "log.jsonl", "{\"step\":1.5,\"loss\":1}\n", "\"step\" must be a whole" },
    { "log.jsonl", "{\"loss\":1}\n", "\"step\" must be a whole" },
    { "log.jsonl", "{\"step\":2,\"loss\":1}\n", "below that of the line before" },
    { "log.jsonl", "{\"step\":4,\"loss\":\"1\"}\n", "\"loss\" must be a number" },
    { "log.jsonl", "{\"step\":4}\n", "\"loss\" must be a number" },
    { "log.jsonl", "{\"step\":4,\"step\":4,\"loss\":1}\n{}\n", "duplicate" },
    { "log.jsonl", "{\"step\":4,\"eval\":{\"loss\":1}}\n", "\"tokens\"" },
    { "log.jsonl",
      "{\"step\":4,\"eval\":{\"loss\":1,\"tokens\":1,\"examples\":2,\"exact\":3}}\n",
      "\"exact\" is 3, must be from 0 to 2" },
    { "ranks.jsonl", "{\"step\":4}\n", "\"importance\" must be an array" },
    { "ranks.jsonl", "{\"step\":1,\"importance\":[],\"norm\":[]}\n", "below that" },
    { "ranks.jsonl",
      "{\"step\":4,\"importance\":[[1,1],[1,1,1]],\"norm\":[[1,1],[1,1,1]],\"kept\":[1]}\n",
      "kept" },
    { "ranks.jsonl",
      "{\"step\":4,\"importance\":[[1,1],[1,1,1]],\"norm\":[[1,1],[1,1,1]],\"kept\":[2,4]}\n",
      "\"kept\" must hold" },
    { "ranks.jsonl", "{\"step\":4,\"importance\":[[1,1]],\"norm\":[]}\n",
      "\"importance\" has 1 elements, must have 2" },
    { "ranks.jsonl", "{\"step\":4,\"importance\":[[1,1],[1,1]],\"norm\":[]}\n",
      "has 2 ranks for module 1, must have 3" },
    { "ranks.jsonl",
      "{\"step\":4,\"importance\":[[1,1],[1,1,1]],\"norm\":[[1,\"x\"],[1,1,1]]}\n",
      "\"norm\" must hold numbers" },
    { "plans.jsonl", "{\"step\":4,\"p\":1,\"module\":[0],\"pruned\":[]}\n",
      "\"pruned\" has 0 elements, must have 1" },
    { "plans.jsonl",
      "{\"step\":4,\"p\":1,\"module\":[2],\"pruned\":[0],\"source\":[0],"
      "\"action\":[\"skip\"],\"age\":[0],\"importance\":[0]}\n",
      "\"module\" names a module" },
    { "plans.jsonl",
      "{\"step\":4,\"p\":1,\"module\":[0],\"pruned\":[2],\"source\":[0],"
      "\"action\":[\"skip\"],\"age\":[0],\"importance\":[0]}\n",
      "\"pruned\" names a rank" },
    { "plans.jsonl",
      "{\"step\":4,\"p\":1,\"module\":[0],\"pruned\":[0],\"source\":[-2],"
      "\"action\":[\"skip\"],\"age\":[0],\"importance\":[0]}\n",
      "\"source\" names a rank" },
    { "plans.jsonl",
      "{\"step\":4,\"p\":1,\"module\":[0],\"pruned\":[0],\"source\":[1],"
      "\"action\":[\"moved\"],\"age\":[0],\"importance\":[0]}\n",
      "\"action\" holds no action" },
    { "plans.jsonl",
      "{\"step\":4,\"p\":\"\",\"module\":[],\"pruned\":[],\"source\":[],"
      "\"action\":[],\"age\":[],\"importance\":[]}\n",
      "\"p\" must be a number" },
};

START_TEST(refuses)
{
    char added[512];

    write_all();
    snprintf(added, sizeof added, "+%s", malformed[_i][1]);
    write_in("r", malformed[_i][0], added);
    ck_assert_int_eq(read_r(), -1);
    ck_assert_msg(strstr(error, malformed[_i][0]) && strstr(error, malformed[_i][2]),
                  "%s", error);
    ck_assert_ptr_null(run.directory);
}
END_TEST

START_TEST(refuses_modules)
{
    static const char *const lines[][2] = {
        { "{\"step\":0}\n", "\"modules\" must be an array" },
        { "{\"modules\":[{\"in\":1,\"out\":1,\"rank\":1}]}\n", "\"name\" must be" },
        { "{\"modules\":[{\"name\":\"a\",\"in\":0,\"out\":1,\"rank\":1}]}\n", "\"in\"" },
        { "{\"modules\":[{\"name\":\"a\",\"in\":1,\"out\":1,\"rank\":99999999}]}\n",
          "\"rank\" is 99999999" },
    };

    write_all();
    write_in("r", "ranks.jsonl", lines[_i][0]);
    ck_assert_int_eq(read_r(), -1);
    ck_assert_msg(strstr(error, "ranks.jsonl:1: ") && strstr(error, lines[_i][1]), "%s",
                  error);
}
END_TEST

START_TEST(start)
{
    ck_assert_int_eq(read_r(), -1);
    ck_assert_msg(strstr(error, "no run folder") != NULL, "%s", error);
    ck_assert(!run_exists(below("r")));
    write_in("r", "run.json", "{\"settings\": ");
    ck_assert(run_exists(below("r")));
    ck_assert_int_eq(read_r(), -1);
    ck_assert_msg(strstr(error, "run.json:1: ") != NULL, "%s", error);
    write_in("r", "run.json", "{\"settings\": 3}");
    ck_assert_int_eq(read_r(), -1);
    ck_assert_msg(strstr(error, "\"settings\" must be an object") != NULL, "%s", error);
    /* a run that was killed before its first line */
    write_in("r", "run.json", "{\"settings\": {\"steps\": 5}}");
    ck_assert_msg(read_r() == 0, "%s", error);
    ck_assert(run.steps == 0 && run.samples == 0 && run.plans == 0 && !run.finished);
    ck_assert(isnan(run_train_loss(&run, 1)));
    run_free(&run);
}
END_TEST

/* The tenth at each end, without what was not finite. */
START_TEST(train_loss)
{
    FILE *stream;

    write_all();
    stream = open_in("r", "log.jsonl", "w");
    for (int i = 1; i <= 20; i++) {
        if (i == 20) {
            fprintf(stream, "{\"step\":%d,\"loss\":null}\n", i);
        } else {
            fprintf(stream, "{\"step\":%d,\"loss\":%d}\n", i, i);
        }
    }
    fclose(stream);
    ck_assert_msg(read_r() == 0, "%s", error);
    ck_assert(run_train_loss(&run, 0) == 1.5 && run_train_loss(&run, 1) == 19);
    run_free(&run);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("run_read");
    TCase *tc = tcase_create("run_read");

    tcase_add_checked_fixture(tc, make_folder, remove_folder);
    tcase_add_test(tc, everything);
    tcase_add_test(tc, kept);
    tcase_add_loop_test(tc, cut_anywhere, 0, 3);
    tcase_add_loop_test(tc, refuses, 0, (int) (sizeof malformed / sizeof *malformed));
    tcase_add_loop_test(tc, refuses_modules, 0, 4);
    tcase_add_test(tc, start);
    tcase_add_test(tc, train_loss);
    suite_add_tcase(suite, tc);
    return suite;
}
