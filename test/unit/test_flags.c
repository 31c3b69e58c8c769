/*
 * Flags and arguments of the program's commands: what is taken, what is refused with
 * which words, and what --help prints of them.
 */
#include "check_main.h"

#include <stdarg.h>
#include <unistd.h>

#include "base/program.h"

/* The program's own prints; here the line is kept. */
static char message[MESSAGE_SIZE];

int complain(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return 1;
}

static const char *const scopes[] = { "module", "joint", NULL };

static const char *out;
static int64_t     steps;
static uint64_t    seed;
static double      lr;
static int32_t     scope;
static int         json;

static struct flag flags[] = {
    { .name = "Files", .type = FLAG_HEADING },
    { .name = "out", .type = FLAG_DIRECTORY, .value = &out, .help = "where it goes" },
    { .name = "json",
      .type = FLAG_SWITCH,
      .value = &json,
      .help = "a help that is so long that it cannot stand on one line of a terminal "
              "of 80 columns" },
    { .name = "Numbers", .type = FLAG_HEADING },
    { .name = "steps",
      .type = FLAG_INTEGER,
      .value = &steps,
      .low = 1,
      .high = 100,
      .help = "how many" },
    { .name = "seed", .type = FLAG_UNSIGNED, .value = &seed, .help = "of all" },
    { .name = "lr", .type = FLAG_REAL, .value = &lr, .help = "the peak" },
    { .name = "scope",
      .type = FLAG_CHOICE,
      .value = &scope,
      .choices = scopes,
      .help = "of Top-P" },
};

#define FLAGS ((int) (sizeof flags / sizeof flags[0]))
#define ARGUMENTS 16

static struct command_line line;
static char                words[256]; /* what argv points into */
static char               *argv[ARGUMENTS];

static void setup(void)
{
    out = NULL;
    steps = 10;
    seed = 0;
    lr = 0.5;
    scope = json = 0;
    message[0] = '\0';
    line = (struct command_line){ .usage = "beamlora plot RUN... [flags]\n\nDraws.",
                                  .argument = "RUN",
                                  .argument_help = "a folder",
                                  .argument_type = FLAG_DIRECTORY,
                                  .least = 1,
                                  .most = 3 };
}

/* Parse the words of the text. */
static int parse(const char *text)
{
    int argc = 0;

    snprintf(words, sizeof words, "%s", text);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) {
        ck_assert_int_lt(argc, ARGUMENTS);
        argv[argc++] = word;
    }
    return parse_arguments(argc, argv, &line, flags, FLAGS);
}

static void check_refused(const char *text, const char *want)
{
    message[0] = '\0';
    ck_assert_msg(parse(text) == 2, "\"%s\" is not refused", text);
    ck_assert_msg(strcmp(message, want) == 0, "\"%s\": \"%s\", must be \"%s\"", text,
                  message, want);
}

START_TEST(test_flags)
{
    ck_assert_int_eq(parse("a --steps 7 --seed=9 --lr -2.5e-1 --scope joint --json "), 0);
    ck_assert_int_eq(steps, 7);
    ck_assert_uint_eq(seed, 9);
    ck_assert(lr == -0.25);
    ck_assert_int_eq(scope, 1);
    ck_assert_int_eq(json, 1);
    ck_assert_ptr_null(out);
    ck_assert_int_eq(parse("a --out=b=c"), 0);
    ck_assert_str_eq(out, "b=c");
    /* given is of the last parse alone */
    ck_assert_int_eq(flags[1].given, 1);
    ck_assert_int_eq(flags[2].given, 0);
    ck_assert_str_eq(message, "");

    check_refused("a --step 7", "unknown flag --step; did you mean --steps?");
    check_refused("a --Files 7", "unknown flag --Files; --help=all lists them");
    check_refused("a --steps 0", "--steps is 0, must be from 1 to 100");
    check_refused("a --steps", "--steps needs a value");
    check_refused("a --json=1", "--json takes no value");
    check_refused("a --seed 1 --seed 1", "--seed is given twice");
    check_refused("a --scope all", "--scope is \"all\", must be one of: module, joint");
}
END_TEST

START_TEST(test_arguments)
{
    ck_assert_int_eq(parse("--steps 7 one --json two - --out dir"), 0);
    ck_assert_int_eq(line.given, 3);
    ck_assert_str_eq(argv[0], "one");
    ck_assert_str_eq(argv[1], "two");
    ck_assert_str_eq(argv[2], "-");
    ck_assert_str_eq(out, "dir");
    ck_assert_int_eq(parse("one"), 0);
    ck_assert_int_eq(line.given, 1);

    check_refused("--json", "RUN is required; --help tells more");
    check_refused("a b c d", "unexpected argument \"d\": 3 RUN given already, must be at "
                             "most 3");
    check_refused("a -x", "unexpected argument \"-x\"; --help lists the flags");
    check_refused("a --", "unexpected argument \"--\"; --help lists the flags");
    line.least = 2;
    check_refused("a", "1 RUN given, must be at least 2");
    line.least = 0;
    ck_assert_int_eq(parse(""), 0);
    ck_assert_int_eq(line.given, 0);
    line.argument = NULL;
    check_refused("a", "unexpected argument \"a\"; --help lists the flags");

    flags[1].required = 1;
    ck_assert_int_eq(parse_flags(0, argv, "beamlora x", flags, FLAGS), 2);
    ck_assert_str_eq(message, "--out is required; --help lists the flags");
    flags[1].required = 0;
    ck_assert_int_eq(parse_flags(0, argv, "beamlora x", flags, FLAGS), 0);
}
END_TEST

/* What parse prints, in a file in memory; it must be a question for help. */
static char printed[4096];

static const char *help(const char *text)
{
    FILE  *file = tmpfile();
    int    saved = dup(STDOUT_FILENO);
    size_t length;

    ck_assert_ptr_nonnull(file);
    fflush(stdout);
    ck_assert_int_ge(dup2(fileno(file), STDOUT_FILENO), 0);
    ck_assert_int_eq(parse(text), 1);
    fflush(stdout);
    ck_assert_int_ge(dup2(saved, STDOUT_FILENO), 0);
    close(saved);
    rewind(file);
    length = fread(printed, 1, sizeof printed - 1, file);
    printed[length] = '\0';
    fclose(file);
    return printed;
}

#define ARGUMENT_ROW "  RUN                   a folder\n"
#define OUT_ROW "  --out DIR             where it goes\n"
#define JSON_ROW                                                                         \
    "  --json                a help that is so long that it cannot stand on one line\n"  \
    "                        of a terminal of 80 columns\n"
#define NUMBER_ROWS                                                                      \
    "  --steps N             how many\n"                                                 \
    "  --seed N              of all\n"                                                   \
    "  --lr X                the peak\n"                                                 \
    "  --scope module|joint  of Top-P\n"
#define USAGE "usage: beamlora plot RUN... [flags]\n\nDraws.\n"

START_TEST(test_help)
{
    ck_assert_str_eq(help("--help"), USAGE "\n" ARGUMENT_ROW "\nFiles\n" OUT_ROW JSON_ROW
                                           "\nNumbers\n" NUMBER_ROWS);
    line.argument = NULL;
    line.least = 0;
    line.details = "More.";
    ck_assert_str_eq(help("--nonsense -h"),
                     USAGE "\nFiles\n" OUT_ROW JSON_ROW "\nNumbers\n" NUMBER_ROWS);
    line.common = "steps out"; /* in the table's order, and narrower */
    ck_assert_str_eq(help("--out --help"), USAGE "\n"
                                                 "  --out DIR  where it goes\n"
                                                 "  --steps N  how many\n"
                                                 "\n--help=all lists all flags.\n");
    ck_assert_str_eq(help("--help=all"), USAGE "\nMore.\n\nFiles\n" OUT_ROW JSON_ROW
                                               "\nNumbers\n" NUMBER_ROWS);
    /* a flag's value is no question */
    ck_assert_int_eq(parse("--out -h"), 0);
    ck_assert_str_eq(out, "-h");
    ck_assert_str_eq(help("--json -h"), help("-h"));
}
END_TEST

START_TEST(test_table)
{
    line.details = "More.";
    line.common = "out";
    ck_assert_str_eq(
        help("--help=table"),
        "-\ttext\t-\tbeamlora plot RUN... [flags]\n"
        "-\ttext\t-\t\n"
        "-\ttext\t-\tDraws.\n"
        "-\ttext\t-\t\n"
        "-\ttext\t-\tMore.\n"
        "-\tcommon\t-\tout\n"
        "RUN\tdir\t...\ta folder\n"
        "-\theading\t-\tFiles\n"
        "--out\tdir\t-\twhere it goes\n"
        "--json\tswitch\t-\ta help that is so long that it cannot stand on one line of a "
        "terminal of 80 columns\n"
        "-\theading\t-\tNumbers\n"
        "--steps\tinteger\t-\thow many\n"
        "--seed\tinteger\t-\tof all\n"
        "--lr\treal\t-\tthe peak\n"
        "--scope\tchoice\tmodule|joint\tof Top-P\n");
    line.most = 1;
    ck_assert_ptr_nonnull(strstr(help("--help=table"), "\nRUN\tdir\t-\ta folder\n"));
}
END_TEST

START_TEST(test_suggest)
{
    static const char *const names[] = { "train", "eval", "generate", "plot" };
    static const char *const tried[][2] = {
        { "trian", "train" },      { "evla", "eval" }, { "gen", NULL },
        { "genrate", "generate" }, { "plat", "plot" }, { "", NULL },
        { "something", NULL }
    };

    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        const char *best = NULL;

        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            suggest(&best, tried[i][0], strlen(tried[i][0]), names[k]);
        }
        ck_assert_pstr_eq(best, tried[i][1]);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("flags");
    TCase *tcase = tcase_create("all");

    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, test_flags);
    tcase_add_test(tcase, test_arguments);
    tcase_add_test(tcase, test_help);
    tcase_add_test(tcase, test_table);
    tcase_add_test(tcase, test_suggest);
    suite_add_tcase(suite, tcase);
    return suite;
}
