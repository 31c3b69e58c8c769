/*
 * beamlora init: a model with random weights, to train from nothing.
 *
 * As transformers does it for a Llama: matrices and the embedding are N(0, s), s being the
 * configuration's initializer_range or 0.02, norms are 1. A weight is a function of the
 * seed, its tensor's number and its place alone, and only of operations whose result IEEE
 * 754 fixes, so all machines make the same model, bit for bit.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "model/llama_file.h"
#include "base/memory.h"
#include "model/parameters.h"
#include "base/program.h"

static const char usage[] =
    "beamlora init --config FILE.json --out DIR [--seed N]\n"
    "\n"
    "Writes a Hugging Face model with random weights, of the sizes in a config.json,\n"
    "to be trained with --method full. Matrices and the embedding are normal with the\n"
    "deviation initializer_range (0.02), norms are 1. Equal seeds give equal files.";

/* ===== Normal numbers ===================================================== */

/* The finaliser of splitmix64: every bit of x changes half of the bits of the result. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* In [-1, 1), in steps of 2^-52. */
static double uniform(uint64_t draw)
{
    return (double) (mix(draw) >> 11) * 0x1p-52 - 1;
}

/* The C library's may differ in the last bit from machine to machine. With x = m 2^e, m
 * near 1, and s = (m - 1) / (m + 1):  ln m = 2 (s + s^3 / 3 + s^5 / 5 + ...) */
static double logarithm(double x)
{
    int    e;
    double m = frexp(x, &e), s, z, sum = 0;

    if (m < 0.70710678118654752) {
        m *= 2;
        e--;
    }
    s = (m - 1) / (m + 1);
    z = s * s;
    for (int k = 12; k >= 0; k--) {
        sum = sum * z + 1.0 / (2 * k + 1);
    }
    return 2 * s * sum + e * 0.69314718055994531;
}

/* Marsaglia's polar method: a point in the unit circle gives a normal number. */
static double normal(uint64_t key, uint64_t index)
{
    for (uint64_t draw = mix(key ^ mix(index));; draw += 2) {
        double x = uniform(draw), y = uniform(draw + 1), square = x * x + y * y;

        if (square > 0 && square < 1) {
            return x * sqrt(-2 * logarithm(square) / square);
        }
    }
}

/* ===== The model ========================================================== */

static void fill(float *block, const struct parameters *parameters, uint64_t seed,
                 double deviation)
{
    for (int64_t i = 0; i < parameters->count; i++) {
        const struct parameter *p = &parameters->list[i];
        uint64_t                key = mix(mix(seed) ^ (uint64_t) i);

        for (int64_t k = 0; k < p->rows * p->columns; k++) {
            block[p->at + k] =
                p->dims > 1 ? (float) (deviation * normal(key, (uint64_t) k)) : 1.0f;
        }
    }
}

static int read_deviation(double *out, const char *path, char *error, size_t size)
{
    json_t       *root = llama_read_json(path, error, size);
    const json_t *value = json_object_get(root, "initializer_range");

    if (root == NULL) {
        return -1;
    }
    *out = value != NULL ? json_number_value(value) : 0.02;
    json_decref(root);
    if (!(*out > 0 && *out <= 1)) {
        snprintf(error, size, "%s: initializer_range must be a number above 0, at most 1",
                 path);
        return -1;
    }
    return 0;
}

/* Nobody's model is written over. */
static int check_absent(const char *directory, char *error, size_t size)
{
    static const char *const names[] = { LLAMA_CONFIG, LLAMA_WEIGHTS, LLAMA_INDEX };

    for (int i = 0; i < 3; i++) {
        struct stat status;
        char       *path = file_join(directory, names[i], error, size);
        int         there = path != NULL && lstat(path, &status) == 0;

        if (there) {
            snprintf(error, size,
                     "%s: is there already; if it is of an init that was killed, remove "
                     "it",
                     path);
        }
        free(path);
        if (path == NULL || there) {
            return -1;
        }
    }
    return 0;
}

static int make(const struct llama_config *config, const struct parameters *parameters,
                uint64_t seed, double deviation, const char *directory, char *error,
                size_t size)
{
    struct llama model = { .config = *config };
    float       *block;
    int          result = -1;

    if (memory_check((double) parameters->floats * sizeof(float), "the weights",
                     "a smaller model", error, size) != 0) {
        return -1;
    }
    block = parameters_block(parameters);
    model.layers = calloc((size_t) config->layers, sizeof *model.layers);
    if (block == NULL || model.layers == NULL) {
        snprintf(error, size, "out of memory for %" PRId64 " parameters",
                 parameters->total);
    } else {
        fill(block, parameters, seed, deviation);
        parameters_place_weights(parameters, &model, block);
        result = llama_save(&model, directory, BL_F32, error, size);
    }
    free(model.layers);
    free(block);
    return result;
}

int command_init(int argc, char **argv)
{
    const char         *config_path = NULL, *out = NULL;
    uint64_t            seed = 0;
    double              deviation;
    char                error[MESSAGE_SIZE];
    struct llama_config config;
    struct parameters   parameters = { 0 };
    int                 status;

    struct flag flags[] = {
        { .name = "config",
          .type = FLAG_FILE,
          .value = &config_path,
          .required = 1,
          .help = "config.json of a Llama (required)" },
        { .name = "out",
          .type = FLAG_DIRECTORY,
          .value = &out,
          .required = 1,
          .help = "directory for the model (required)" },
        { .name = "seed",
          .type = FLAG_UNSIGNED,
          .value = &seed,
          .help = "of the weights (0)" },
    };

    status = parse_flags(argc, argv, usage, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    if (llama_config_read_file(&config, config_path, error, sizeof error) != 0 ||
        read_deviation(&deviation, config_path, error, sizeof error) != 0 ||
        parameters_create(&parameters, &config, error, sizeof error) != 0 ||
        check_absent(out, error, sizeof error) != 0 ||
        make(&config, &parameters, seed, deviation, out, error, sizeof error) != 0) {
        status = complain("%s", error);
    } else {
        printf("%s: %" PRId64 " parameters in %" PRId64 " tensors, seed %" PRIu64 "\n",
               out, parameters.total, parameters.count, seed);
    }
    parameters_free(&parameters);
    return status;
}
