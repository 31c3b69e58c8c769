/* inspect, compare and plot, called as main does: what they print is read back and held
 * against numbers worked out here. */
#define _POSIX_C_SOURCE 200809L

#include "beamlora_io.h"
#include "check_main.h"
#include "view/gnuplot.h"
#include "base/program.h"
#include "run_folder.h"
#include "view/table.h"

#include <jansson.h>
#include <stdarg.h>

/* main.c's, which is not linked: messages are kept. */
static char told[4096];

int complain(const char *format, ...)
{
    size_t  used = strlen(told);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(told + used, sizeof told - used, format, arguments);
    va_end(arguments);
    return 1;
}

/* Run a command on up to six arguments, up to a NULL; its stdout is in `printed`. */
static char printed[1 << 20];

static int call(int (*command)(int, char **), const char *const *words)
{
    char  text[8][1024], *arguments[9] = { NULL };
    int   count = 0, status, out;
    FILE *stream;

    for (; words[count] != NULL; count++) {
        snprintf(text[count], sizeof text[count], "%s", words[count]);
        arguments[count] = text[count];
    }
    told[0] = '\0';
    fflush(stdout);
    out = dup(STDOUT_FILENO);
    ck_assert_ptr_nonnull(freopen(below("stdout"), "w", stdout));
    status = command(count, arguments);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    close(out);
    stream = fopen(below("stdout"), "r");
    printed[fread(printed, 1, sizeof printed - 1, stream)] = '\0';
    fclose(stream);
    return status;
}

#define CALL(command, ...) call(command, (const char *const[]){ __VA_ARGS__, NULL })

static json_t *parsed(void)
{
    json_error_t why;
    json_t      *root = json_loads(printed, 0, &why);

    ck_assert_msg(root != NULL, "%s in: %.200s", why.text, printed);
    return root;
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    ck_assert_msg(json_is_number(value), "%s", key);
    return json_number_value(value);
}

static void check_width(int width)
{
    for (const char *line = printed; *line != '\0';) {
        size_t length = strcspn(line, "\n");

        ck_assert_msg(length <= (size_t) width, "%zu columns: %.*s", length, (int) length,
                      line);
        ck_assert_msg(length == 0 || line[length - 1] != ' ', "blank at the end: %.*s",
                      (int) length, line);
        line += length + (line[length] == '\n');
    }
}

/* ===== inspect ============================================================ */

enum { IN = 5, OUT = 7, RANK = 3 };

/* An adapter of two modules with these numbers, scaling 1. */
static float value_a(int module, int r, int i)
{
    return (float) noise(10 + (uint64_t) module, (uint64_t) (r * IN + i));
}

static float value_b(int module, int o, int r)
{
    return (float) noise(20 + (uint64_t) module, (uint64_t) (o * RANK + r));
}

static void write_adapter(const char *run)
{
    static float a[2][RANK * IN], b[2][OUT * RANK];
    bl_array     array[4] = { 0 };
    char         path[2048];

    for (int m = 0; m < 2; m++) {
        for (int k = 0; k < RANK * IN; k++) {
            a[m][k] = value_a(m, k / IN, k % IN);
        }
        for (int k = 0; k < OUT * RANK; k++) {
            b[m][k] = value_b(m, k / RANK, k % RANK);
        }
        for (int t = 0; t < 2; t++) {
            bl_array *to = &array[2 * m + t];

            snprintf(to->name, sizeof to->name,
                     "base_model.model.model.layers.%d.x_proj.lora_%c.weight",
                     m == 0 ? 2 : 10, t == 0 ? 'A' : 'B');
            to->dims = 2;
            to->dtype = BL_F32;
            to->shape[0] = t == 0 ? RANK : OUT;
            to->shape[1] = t == 0 ? IN : RANK;
            to->data = t == 0 ? a[m] : b[m];
        }
    }
    write_in(run, "adapter_config.json",
             "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6,"
             "\"target_modules\": [\"x_proj\"]}");
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", below(run));
    ck_assert_msg(bl_safetensors_write(path, array, 4, NULL) == 0, "%s",
                  bl_io_last_error());
}

/* |2 B A| of the ranks [from, to), from the product itself. */
static double plain_norm(int module, int from, int to)
{
    double sum = 0;

    for (int o = 0; o < OUT; o++) {
        for (int i = 0; i < IN; i++) {
            double w = 0;

            for (int r = from; r < to; r++) {
                w += 2.0 * value_b(module, o, r) * value_a(module, r, i);
            }
            sum += w * w;
        }
    }
    return sqrt(sum);
}

START_TEST(adapter_norms)
{
    json_t *root, *modules;
    char    want[TABLE_NUMBER];

    write_adapter("a");
    ck_assert_int_eq(CALL(command_inspect, below("a"), "--json"), 0);
    root = parsed();
    ck_assert_str_eq(json_string_value(json_object_get(root, "kind")), "adapter");
    modules = json_object_get(root, "modules");
    ck_assert_int_eq((int) json_array_size(modules), 2);
    for (int m = 0; m < 2; m++) {
        const json_t *module = json_array_get(modules, (size_t) m);

        /* layer 2 before layer 10 */
        ck_assert_str_eq(json_string_value(json_object_get(module, "name")),
                         m == 0 ? "model.layers.2.x_proj" : "model.layers.10.x_proj");
        check_near(number_of(module, "whole_norm"), plain_norm(m, 0, RANK), 1e-5);
        ck_assert(json_is_null(json_object_get(module, "importance")));
        for (int r = 0; r < RANK; r++) {
            check_near(json_number_value(
                           json_array_get(json_object_get(module, "norm"), (size_t) r)),
                       plain_norm(m, r, r + 1), 1e-5);
        }
    }
    json_decref(root);
    ck_assert_int_eq(CALL(command_inspect, below("a")), 0);
    ck_assert_ptr_nonnull(strstr(printed, table_number(want, plain_norm(1, 0, RANK))));
    check_width(80);
}
END_TEST

/* 224 modules of rank 64 whose names are long, with moves at two steps. */
static void write_large(const char *run, int layers)
{
    static const char *const names[] = { "self_attn.q_proj", "self_attn.k_proj",
                                         "self_attn.v_proj", "self_attn.o_proj",
                                         "mlp.gate_proj",    "mlp.up_proj",
                                         "mlp.down_proj" };
    FILE                    *stream;

    write_start(run, "", "\"method\": \"beamlora\", \"steps\": 20, \"seed\": 1");
    stream = open_in(run, "log.jsonl", "w");
    for (int t = 1; t <= 20; t++) {
        fprintf(stream, "{\"step\":%d,\"loss\":%g}\n", t, 3.0 / t);
    }
    fclose(stream);
    stream = open_in(run, "ranks.jsonl", "w");
    for (int m = 0; m < 7 * layers; m++) {
        fprintf(stream,
                "%s{\"name\":\"model.layers.%d.%s\",\"in\":4096,\"out\":11008,"
                "\"rank\":64}",
                m == 0 ? "{\"modules\":[" : ",", m / 7, names[m % 7]);
    }
    fputs("]}\n", stream);
    for (int t = 0; t <= 20; t += 10) {
        fprintf(stream, "{\"step\":%d", t);
        for (int what = 0; what < 2; what++) {
            fprintf(stream, ",\"%s\":[", what == 0 ? "importance" : "norm");
            for (int k = 0; k < 7 * layers * 64; k++) {
                fprintf(stream, "%s%.3f%s", k % 64 == 0 ? (k == 0 ? "[" : ",[") : ",",
                        1 + 0.9 * t / 20 * noise(1, (uint64_t) k),
                        k % 64 == 63 ? "]" : "");
            }
            fputs("]", stream);
        }
        fputs("}\n", stream);
    }
    fclose(stream);
    write_in(run, "plans.jsonl",
             "{\"step\":10,\"p\":null,\"module\":[0,6],\"pruned\":[63,0],"
             "\"source\":[1,2],\"action\":[\"history\",\"skip\"],\"age\":[4,-1],"
             "\"importance\":[0.1,0.2]}\n"
             "{\"step\":20,\"p\":0.9,\"module\":[0],\"pruned\":[5],\"source\":[1],"
             "\"action\":[\"current\"],\"age\":[-1],\"importance\":[0.1]}\n");
}

START_TEST(inspect_large)
{
    json_t *root, *module;

    write_large("big", 32);
    ck_assert_int_eq(CALL(command_inspect, below("big")), 0);
    ck_assert_ptr_nonnull(strstr(printed, "ranks moved: 2"));
    ck_assert_ptr_nonnull(strstr(printed, "14336 ranks"));
    ck_assert_ptr_nonnull(strstr(printed, "By projection"));
    const char *first = strchr(printed, '\n'); /* the first line has the folder's path */
    memmove(printed, first, strlen(first) + 1);
    check_width(80);
    ck_assert_int_eq(
        CALL(command_inspect, "--modules", "layers.31.*_proj", below("big"), "--moves"),
        0);
    ck_assert_ptr_null(strstr(printed, "31.mlp.up_proj")); /* a pattern is for it all */
    ck_assert_int_eq(
        CALL(command_inspect, "--modules", "*.31.*_proj", below("big"), "--moves"), 0);
    ck_assert_ptr_nonnull(strstr(printed, "31.mlp.up_proj"));
    ck_assert_ptr_null(strstr(printed, "30.mlp.up_proj"));
    ck_assert_ptr_nonnull(strstr(printed, "model.layers.0.self_attn.q_proj"));
    memmove(printed, strchr(printed, '\n'), strlen(strchr(printed, '\n')) + 1);
    check_width(80);

    ck_assert_int_eq(CALL(command_inspect, below("big"), "--json"), 0);
    root = parsed();
    module = json_array_get(json_object_get(root, "modules"), 0);
    ck_assert(number_of(module, "moved") == 2);
    module = json_array_get(json_object_get(root, "modules"), 6);
    ck_assert(number_of(module, "moved") == 0); /* left alone is not moved */
    ck_assert(json_is_null(json_object_get(module, "whole_norm")));
    check_near(number_of(root, "train_loss"), (3.0 / 19 + 3.0 / 20) / 2, 1e-6);
    json_decref(root);
}
END_TEST

START_TEST(inspect_unfinished)
{
    write_large("r", 1);
    write_in("r", "log.jsonl", "{\"step\":1,\"loss\":3}\n{\"step\":2,\"lo");
    ck_assert_int_eq(CALL(command_inspect, below("r")), 0);
    ck_assert_ptr_nonnull(strstr(printed, "unfinished, 1 of 20 steps"));
    ck_assert_ptr_nonnull(strstr(told, "log.jsonl: line 2 is cut short"));
    ck_assert_int_eq(CALL(command_inspect, below("nothing")), 1);
    ck_assert_ptr_nonnull(strstr(told, "neither a run folder"));
    ck_assert_int_eq(CALL(command_inspect, "--json"), 2);
    ck_assert_int_eq(CALL(command_inspect, below("r"), below("r")), 2);
}
END_TEST

/* ===== compare ============================================================ */

static void write_result(const char *run, const char *method, int seed, double loss,
                         int exact, const char *more)
{
    char settings[512], arguments[256], log[1024];

    snprintf(settings, sizeof settings,
             "\"method\": \"%s\", \"steps\": 10, \"seed\": %d, \"out\": \"%s\"%s", method,
             seed, run, more);
    snprintf(arguments, sizeof arguments, "\"--method\", \"%s\"%s", method,
             strstr(more, "preset") ? ", \"--preset=x\"" : "");
    write_start(run, arguments, settings);
    snprintf(
        log, sizeof log,
        "{\"step\":0,\"eval\":{\"loss\":3,\"tokens\":9,\"examples\":200,\"exact\":2}}\n"
        "{\"step\":9,\"loss\":8}\n{\"step\":10,\"loss\":%g}\n"
        "{\"step\":10,\"eval\":{\"loss\":%g,\"tokens\":9,\"examples\":200,"
        "\"exact\":%d}}\n",
        2 * loss, loss, exact);
    write_in(run, "log.jsonl", log);
}

static const json_t *group(const json_t *root, size_t index)
{
    return json_array_get(json_object_get(root, "groups"), index);
}

START_TEST(compare_numbers)
{
    json_t       *root;
    const json_t *g;

    write_result("l1", "lora", 1, 1.0, 100, ", \"preset\": \"a\"");
    write_result("l2", "lora", 2, 1.2, 110, ", \"preset\": \"b\"");
    write_result("l3", "lora", 3, 1.7, 60, ", \"preset\": \"a\"");
    write_result("b3", "beamlora", 3, 1.5, 80, "");
    write_result("b1", "beamlora", 1, 0.9, 130, "");
    write_result("b9", "beamlora", 9, 0.3, 190, "");
    ck_assert_int_eq(
        CALL(command_compare, below("l1"), below("l2"), "--json", below("l3")), 0);
    root = parsed();
    /* a preset has no effect with LoRA */
    ck_assert_int_eq((int) json_array_size(json_object_get(root, "groups")), 1);
    json_decref(root);

    const char *words[8] = { "--json" };
    const char *runs[] = { "l1", "l2", "l3", "b3", "b1", "b9" };
    char        paths[6][1024];
    for (int i = 0; i < 6; i++) {
        snprintf(paths[i], sizeof paths[i], "%s", below(runs[i]));
        words[i + 1] = paths[i];
    }
    ck_assert_int_eq(call(command_compare, words), 0);
    ck_assert_str_eq(told, "");
    root = parsed();
    g = group(root, 0);
    ck_assert_str_eq(json_string_value(json_object_get(g, "label")), "lora");
    check_near(number_of(json_object_get(g, "eval_loss"), "mean"), 1.3, 1e-12);
    /* deviations -0.3, -0.1, 0.4 */
    check_near(number_of(json_object_get(g, "eval_loss"), "sd"), sqrt(0.26 / 2), 1e-11);
    check_near(number_of(json_object_get(g, "eval_loss_before"), "mean"), 3, 1e-12);
    check_near(number_of(json_object_get(g, "exact"), "mean"), 45, 1e-11);
    check_near(number_of(json_object_get(g, "exact_before"), "mean"), 1, 1e-12);
    check_near(number_of(json_object_get(g, "train_loss"), "mean"), 2.6, 1e-11);
    ck_assert_ptr_null(json_object_get(g, "less_first"));
    g = json_object_get(group(root, 1), "less_first");
    /* seeds 1 and 3: -0.1 and -0.2; 15 and 10 points; seed 9 has no partner */
    check_near(number_of(json_object_get(g, "eval_loss"), "mean"), -0.15, 1e-11);
    check_near(number_of(json_object_get(g, "eval_loss"), "sd"), sqrt(0.005), 1e-11);
    check_near(number_of(json_object_get(g, "eval_loss"), "seeds"), 2, 0);
    check_near(number_of(json_object_get(g, "exact"), "mean"), 12.5, 1e-11);
    json_decref(root);

    words[0] = paths[0];
    ck_assert_int_eq(call(command_compare, words + 1), 0);
    check_width(80);
    ck_assert_ptr_nonnull(strstr(printed, "1.3000  0.3606"));
    ck_assert_ptr_nonnull(strstr(printed, "-0.1500  0.0707  2 of 2"));
    ck_assert_ptr_null(strstr(printed, "One seed"));
}
END_TEST

START_TEST(compare_leaves_out)
{
    json_t *root;

    write_result("l1", "lora", 1, 1.0, 100, "");
    write_result("l1again", "lora", 1, 7.0, 100, "");
    write_result("killed", "lora", 2, 9.0, 100, "");
    write_in("killed", "log.jsonl", "{\"step\":3,\"loss\":1}\n");
    write_result("d", "beamlora", 1, 1.5, 80,
                 ", \"preset\": \"tight\", \"eval-data\": \"other\"");
    write_result("e", "beamlora", 1, 1.4, 80, ", \"preset\": \"paper\"");
    ck_assert_int_eq(CALL(command_compare, below("killed"), below("l1")), 0);
    ck_assert_int_eq(CALL(command_compare, "--json", below("killed"), below("l1")), 0);
    ck_assert_ptr_nonnull(strstr(told, "killed: unfinished (3 of 10 steps), left out"));
    root = parsed();
    check_near(number_of(json_object_get(group(root, 0), "eval_loss"), "mean"), 1, 0);
    check_near(number_of(json_object_get(group(root, 0), "eval_loss"), "seeds"), 1, 0);
    ck_assert(json_is_null(
        json_object_get(json_object_get(group(root, 0), "eval_loss"), "sd")));
    json_decref(root);
    ck_assert_int_eq(CALL(command_compare, "--json", below("l1"), below("l1again")), 0);
    ck_assert_ptr_nonnull(strstr(told, "has the settings and the seed of"));
    root = parsed();
    check_near(number_of(json_object_get(group(root, 0), "eval_loss"), "mean"), 1, 0);
    json_decref(root);
    ck_assert_int_eq(CALL(command_compare, below("d"), below("e")), 0);
    ck_assert_ptr_nonnull(strstr(printed, "beamlora preset=tight"));
    ck_assert_ptr_nonnull(strstr(printed, "One seed is no comparison"));
    check_width(80);
    ck_assert_int_eq(CALL(command_compare, below("killed")), 1);
    ck_assert_ptr_nonnull(strstr(told, "no finished run"));
    /* killed between its last step and the evaluation; a loss that is not finite */
    write_result("late", "lora", 5, 1.0, 100, "");
    write_in(
        "late", "log.jsonl",
        "{\"step\":0,\"eval\":{\"loss\":3,\"tokens\":9}}\n{\"step\":10,\"loss\":1}\n");
    ck_assert_int_eq(CALL(command_compare, below("late"), below("l1"), "--json"), 0);
    ck_assert_ptr_nonnull(strstr(told, "late: was not evaluated after its last step"));
    write_in("late", "log.jsonl",
             "{\"step\":10,\"loss\":1}\n"
             "{\"step\":10,\"eval\":{\"loss\":null,\"tokens\":9}}\n");
    ck_assert_int_eq(CALL(command_compare, below("late"), below("l1"), "--json"), 0);
    ck_assert_ptr_nonnull(strstr(told, "late: its loss is not finite"));
    root = parsed();
    ck_assert(json_is_null(
        json_object_get(json_object_get(group(root, 0), "eval_loss"), "mean")));
    json_decref(root);
    /* another file in another folder, or another value */
    write_result("f", "beamlora", 2, 1.4, 80, ", \"preset\": \"paper\", \"batch\": 2");
    write_result("g", "beamlora", 2, 1.4, 80, ", \"preset\": \"paper\", \"batch\": 4");
    ck_assert_int_eq(CALL(command_compare, below("f"), below("g")), 0);
    ck_assert_ptr_nonnull(strstr(told, "differ in --batch"));
    ck_assert_ptr_nonnull(strstr(printed, "batch=4"));
}
END_TEST

/* ===== plot =============================================================== */

static int has_gnuplot(void)
{
    if (system("gnuplot --version > /dev/null 2>&1") == 0) {
        return 1;
    }
    fprintf(stderr, "no gnuplot: pictures are not drawn in this test\n");
    return 0;
}

static long size_of(const char *run, const char *file, char *first, size_t room)
{
    char  path[2048];
    FILE *stream;
    long  size;

    snprintf(path, sizeof path, "%s/%s", below(run), file);
    stream = fopen(path, "r");
    ck_assert_msg(stream != NULL, "%s is not there", path);
    first[fread(first, 1, room - 1, stream)] = '\0';
    fseek(stream, 0, SEEK_END);
    size = ftell(stream);
    fclose(stream);
    return size;
}

#define HOSTILE "a'$(touch x)\"_{b}`touch y`\n@c %d <z>&\xff"

START_TEST(text_is_text)
{
    static const char *const pairs[][2] = {
        { "plain q_proj {b} \"c\" `d` $(e) @f %g \\",
          "'plain q_proj {b} \"c\" `d` $(e) @f %g \\'" },
        { "it's '' ", "'it''s '''' '" },
        { "a\nb\tc\x7f\x1b", "'a?b?c?\?'" },
        { "\xc3\xa4 \xe2\x89\xa4 \xf0\x9f\x99\x82",
          "'\xc3\xa4 \xe2\x89\xa4 \xf0\x9f\x99\x82'" },
        { "\xff \xc3 \xc0\x80 \xed\xa0\x80 \xe2\x89", "'? ? ?\? ?\?\? ?\?'" },
        { "\xc2\x85", "'?\?'" },
    };
    char  text[256];
    FILE *script = gnuplot_script();

    gnuplot_text(script, pairs[_i][0]);
    rewind(script);
    text[fread(text, 1, sizeof text - 1, script)] = '\0';
    ck_assert_str_eq(text, pairs[_i][1]);
    fclose(script);
}
END_TEST

START_TEST(plot_hostile)
{
    char first[4096], here[1024], name[300];

    if (!has_gnuplot()) {
        return;
    }
    write_large(HOSTILE, 1);
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    ck_assert_int_eq(chdir(folder), 0);
    ck_assert_msg(CALL(command_plot, HOSTILE, "--modules", "_proj") == 0, "%s", told);
    ck_assert(access("x", F_OK) != 0 && access("y", F_OK) != 0);
    ck_assert_int_gt(size_of(HOSTILE, "importance.png", first, sizeof first), 20000);
    ck_assert_int_eq(memcmp(first, "\x89PNG\r\n\x1a\n", 8), 0);
    ck_assert_int_gt(size_of(HOSTILE, "loss.png", first, sizeof first), 5000);
    ck_assert_int_eq(memcmp(first, "\x89PNG\r\n\x1a\n", 8), 0);
    ck_assert_int_gt(size_of(HOSTILE, "importance.svg", first, sizeof first), 20000);
    ck_assert_ptr_nonnull(strstr(first, "<svg"));
    ck_assert_int_gt(size_of(HOSTILE, "loss.svg", first, sizeof first), 3000);

    /* several runs, of which two folders have one name, to a folder of their own */
    mkdir("other", 0777);
    write_large("one", 1);
    write_large("other/one", 1);
    ck_assert_int_eq(
        CALL(command_plot, "one", "--out", "new", "other/one/", "--format=png", HOSTILE),
        0);
    ck_assert_int_gt(size_of("new", "importance-one.png", first, sizeof first), 20000);
    ck_assert_int_gt(size_of("new", "importance-one-2.png", first, sizeof first), 20000);
    snprintf(name, sizeof name, "importance-%s.png", HOSTILE);
    ck_assert_int_gt(size_of("new", name, first, sizeof first), 20000);
    ck_assert_int_gt(size_of("new", "loss.png", first, sizeof first), 5000);
    ck_assert(access("new/loss.svg", F_OK) != 0 && access("one/loss.png", F_OK) != 0);
    ck_assert_int_eq(CALL(command_plot, "one", "--modules", "zzz"), 1);
    ck_assert_ptr_nonnull(strstr(told, "no module has \"zzz\""));
    ck_assert_int_eq(chdir(here), 0);
}
END_TEST

static int count_files(const char *run)
{
    DIR *dir = opendir(below(run));
    int  count = 0;

    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

START_TEST(plot_without_gnuplot)
{
    char first[64];
    int  files;

    write_large("r", 1);
    write_in("r", "importance.png", "the old one");
    files = count_files("r");
    write_in("bin", "nothing", "");
    setenv("PATH", below("bin"), 1);
    ck_assert_int_eq(CALL(command_plot, below("r")), 1);
    ck_assert_ptr_nonnull(strstr(told, "gnuplot-nox"));
    ck_assert_int_eq(count_files("r"), files);

    /* one that fails half way, one that says nothing: the old picture stays */
    write_in("bin", "gnuplot",
             "#!/bin/sh\necho half; echo 'no such terminal' >&2; exit 1\n");
    chmod(below("bin/gnuplot"), 0755);
    ck_assert_int_eq(CALL(command_plot, below("r")), 1);
    ck_assert_ptr_nonnull(strstr(told, "gnuplot failed: no such terminal"));
    write_in("bin", "gnuplot", "#!/bin/sh\nexit 0\n");
    ck_assert_int_eq(CALL(command_plot, below("r")), 1);
    ck_assert_ptr_nonnull(strstr(told, "drawn nothing"));
    ck_assert_int_eq(count_files("r"), files);
    size_of("r", "importance.png", first, sizeof first);
    ck_assert_str_eq(first, "the old one");
}
END_TEST

START_TEST(numbers)
{
    static const struct {
        double      value;
        const char *text;
    } pairs[] = { { 0, "0" },           { 1, "1.0000" },      { 0.12345, "0.1235" },
                  { 12.345, "12.345" }, { 99.999, "100.00" }, { 12345.6, "12346" },
                  { 1e-5, "1e-05" },    { 3e9, "3e+09" },     { (double) NAN, "-" },
                  { 9.99996, "10.000" } };
    char text[TABLE_NUMBER];

    ck_assert_str_eq(table_number(text, pairs[_i].value), pairs[_i].text);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("view");
    TCase *tc = tcase_create("view");

    tcase_add_checked_fixture(tc, make_folder, remove_folder);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, adapter_norms);
    tcase_add_test(tc, inspect_large);
    tcase_add_test(tc, inspect_unfinished);
    tcase_add_test(tc, compare_numbers);
    tcase_add_test(tc, compare_leaves_out);
    tcase_add_loop_test(tc, text_is_text, 0, 6);
    tcase_add_test(tc, plot_hostile);
    tcase_add_test(tc, plot_without_gnuplot);
    tcase_add_loop_test(tc, numbers, 0, 10);
    suite_add_tcase(suite, tc);
    return suite;
}
