/*
 * Benchmarks of the library: `bench [flags] SUBJECT...`. Each subject prints a table and
 * writes SUBJECT.json.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/blas.h"
#include "base/program.h"
#include "bench.h"

enum { MOST_SHAPES = 32, MOST_NUMBERS = 32 };

static const struct shape shapes[] = {
    { "7b", 4096, 4096 }, { "7b", 4096, 11008 }, { "7b", 11008, 4096 },
    { "8b", 4096, 1024 }, { "8b", 4096, 14336 }, { "8b", 14336, 4096 },
    { "110m", 768, 768 }, { "110m", 768, 2048 }, { "110m", 2048, 768 },
};

static const struct subject {
    const char *name;
    int (*run)(const struct setup *setup);
    int apart; /* not one of `all` */
} subjects[] = {
    { "passes", bench_passes, 0 }, { "methods", bench_methods, 0 },
    { "step", bench_step, 0 },     { "reallocate", bench_reallocate, 0 },
    { "growth", bench_growth, 0 }, { "compare", bench_compare, 1 },
    { "serve", bench_serve, 1 },
};

enum {
    SHAPES = sizeof shapes / sizeof shapes[0],
    SUBJECTS = sizeof subjects / sizeof subjects[0]
};

static const struct command_line line_of_bench = {
    .usage = "bench SUBJECT... [flags]\n\n"
             "Measures the library. Subjects: passes (forward and backward), methods\n"
             "(DoRA and BeamLoRA against LoRA), step, reallocate, growth; all; compare\n"
             "(two builds); serve (layers that stdin asks for).\n",
    .argument = "SUBJECT",
    .argument_help = "what to measure",
    .argument_type = FLAG_STRING,
    .least = 1,
    .most = SUBJECTS,
};

/* "16,512" */
static int read_numbers(const char *text, int64_t *to)
{
    int count = 0;
    while (*text != '\0' && count < MOST_NUMBERS) {
        char *end;
        to[count] = strtoll(text, &end, 10);
        if (end == text || to[count] < 1 || to[count] > 1 << 20) {
            return 0;
        }
        count++;
        text = *end == ',' ? end + 1 : end;
        if (*end != ',' && *end != '\0') {
            return 0;
        }
    }
    return count;
}

/* "7b,110m,512x1024" */
static int read_shapes(const char *text, struct shape *to)
{
    int count = 0;
    while (*text != '\0') {
        const size_t length = strcspn(text, ",");
        const int    before = count;
        long long    in, out;
        int          used = 0;
        for (int i = 0; i < SHAPES && count < MOST_SHAPES; i++) {
            if (strlen(shapes[i].model) == length &&
                strncmp(shapes[i].model, text, length) == 0) {
                to[count++] = shapes[i];
            }
        }
        if (count == before && count < MOST_SHAPES &&
            sscanf(text, "%lldx%lld%n", &in, &out, &used) == 2 &&
            (size_t) used == length && in > 0 && out > 0 && in < 1 << 20 &&
            out < 1 << 20) {
            to[count++] = (struct shape){ "own", in, out };
        }
        if (count == before) {
            return 0;
        }
        text += length + (text[length] == ',');
    }
    return count;
}

static int run_subjects(const struct setup *setup, int count, char **names)
{
    for (int k = 0; k < count; k++) {
        int found = 0;
        for (int i = 0; i < SUBJECTS; i++) {
            const int all = strcmp(names[k], "all") == 0 && !subjects[i].apart;
            if (all || strcmp(names[k], subjects[i].name) == 0) {
                found = 1;
                if (subjects[i].run(setup) != 0) {
                    return 1;
                }
            }
        }
        if (!found) {
            fprintf(stderr, "bench: there is no subject %s\n", names[k]);
            return 2;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char         *shape_list = "7b,8b,110m", *n_list = "1,16,64,512,2048";
    const char         *rank_list = "4,8,16,64", *directory = "build/bench";
    const char         *base = NULL, *library = NULL;
    const char *const   owners[] = { "host", "blas", NULL };
    int64_t             pairs = 31, threads = sysconf(_SC_NPROCESSORS_ONLN);
    int32_t             owner = OWNER_HOST;
    int                 quick = 0;
    int64_t             n[MOST_NUMBERS], ranks[MOST_NUMBERS];
    struct shape        chosen[MOST_SHAPES];
    struct command_line line = line_of_bench;
    struct flag         flags[] = {
                { .name = "shapes",
                  .type = FLAG_STRING,
                  .value = &shape_list,
                  .help = "models or INxOUT: 7b,8b,110m,768x768 (7b,8b,110m)" },
                { .name = "n",
                  .type = FLAG_STRING,
                  .value = &n_list,
                  .help = "rows of activations (1,16,64,512,2048)" },
                { .name = "ranks",
                  .type = FLAG_STRING,
                  .value = &rank_list,
                  .help = "ranks (4,8,16,64)" },
                { .name = "pairs",
                  .type = FLAG_INTEGER,
                  .value = &pairs,
                  .help = "interleaved rounds (31)",
                  .low = 6,
                  .high = MOST_PAIRS },
                { .name = "threads",
                  .type = FLAG_INTEGER,
                  .value = &threads,
                  .help = "cores to use (all); with 1 the time is that of the CPU",
                  .low = 1,
                  .high = 64 },
                { .name = "owner",
                  .type = FLAG_CHOICE,
                  .value = &owner,
                  .choices = owners,
                  .help = "of the cores where the library is: parallel_for, or the CBLAS" },
                { .name = "quick",
                  .type = FLAG_SWITCH,
                  .value = &quick,
                  .help = "few shapes, fewer rounds: under a minute" },
                { .name = "out",
                  .type = FLAG_DIRECTORY,
                  .value = &directory,
                  .help = "directory of the results (build/bench)" },
                { .name = "base",
                  .type = FLAG_FILE,
                  .value = &base,
                  .help = "for compare: the base's libbeamlora.so" },
                { .name = "library",
                  .type = FLAG_FILE,
                  .value = &library,
                  .help = "for compare: this build's libbeamlora.so" },
    };
    const int count = (int) (sizeof flags / sizeof flags[0]);
    blas_choose_kernels(argv);
    machine_begin(argv);
    const int code = parse_arguments(argc - 1, argv + 1, &line, flags, count);
    if (code != 0) {
        return code == 1 ? 0 : code;
    }
    machine_start((int) threads);
    if (quick) {
        shape_list = flags[0].given ? shape_list : "768x768,4096x4096";
        n_list = flags[1].given ? n_list : "1,16,512";
        rank_list = flags[2].given ? rank_list : "8,64";
        pairs = flags[3].given ? pairs : 11;
    }
    struct setup setup = {
        .shapes = chosen,
        .n = n,
        .ranks = ranks,
        .shape_count = read_shapes(shape_list, chosen),
        .n_count = read_numbers(n_list, n),
        .rank_count = read_numbers(rank_list, ranks),
        .pairs = (int) pairs,
        .quick = quick,
        .owner = (enum owner) owner,
        .directory = directory,
        .base = base,
        .library = library,
    };
    if (setup.shape_count == 0 || setup.n_count == 0 || setup.rank_count == 0) {
        fprintf(stderr, "bench: --shapes, --n or --ranks cannot be read\n");
        return 2;
    }
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "bench: %s: %s\n", directory, strerror(errno));
        return 1;
    }
    return run_subjects(&setup, line.given, argv + 1);
}
