/*
 * Writes a small random model in llama2.c's format for test/program.sh:
 *
 *     tiny_model FILE [SEED [VOCAB]]
 *
 * 2 layers, dim 16, hidden 40, 4 heads, 2 key-value heads, 256 ids if VOCAB is not
 * given, context 64, tied.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { DIM = 16, HIDDEN = 40, LAYERS = 2, HEADS = 4, KV_HEADS = 2, SEQ = 64 };

static uint64_t state = 1;

static double uniform(void) /* in [-1, 1) */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double) (state >> 11) / 4503599627370496.0 - 1;
}

/* count floats, each `middle` and a random number of deviation `spread` more. */
static int write_floats(FILE *out, int count, double middle, double spread)
{
    for (int i = 0; i < count; i++) {
        float value = (float) (middle + sqrt(3) * spread * uniform());

        if (fwrite(&value, sizeof value, 1, out) != 1) {
            return -1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    const int     vocab = argc > 3 ? atoi(argv[3]) : 256;
    const int32_t header[7] = { DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocab, SEQ };
    const int     kv = DIM / HEADS * KV_HEADS, table = SEQ * DIM / HEADS / 2;
    const double  by_dim = 1 / sqrt(DIM), by_hidden = 1 / sqrt(HIDDEN);
    FILE         *out;
    int           failed;

    if (argc < 2) {
        fputs("usage: tiny_model FILE [SEED [VOCAB]]\n", stderr);
        return 2;
    }
    if (argc > 2) {
        state = strtoull(argv[2], NULL, 10);
    }
    out = fopen(argv[1], "wb");
    if (out == NULL) {
        perror(argv[1]);
        return 1;
    }
    failed = fwrite(header, sizeof header, 1, out) != 1 ||
             write_floats(out, vocab * DIM, 0, 0.5) ||
             write_floats(out, LAYERS * DIM, 1, 0.1) ||             /* attention norm */
             write_floats(out, LAYERS * DIM * DIM, 0, by_dim) ||    /* q */
             write_floats(out, LAYERS * kv * DIM, 0, by_dim) ||     /* k */
             write_floats(out, LAYERS * kv * DIM, 0, by_dim) ||     /* v */
             write_floats(out, LAYERS * DIM * DIM, 0, by_dim) ||    /* o */
             write_floats(out, LAYERS * DIM, 1, 0.1) ||             /* ffn norm */
             write_floats(out, LAYERS * HIDDEN * DIM, 0, by_dim) || /* gate */
             write_floats(out, LAYERS * DIM * HIDDEN, 0, by_hidden) || /* down */
             write_floats(out, LAYERS * HIDDEN * DIM, 0, by_dim) ||    /* up */
             write_floats(out, DIM, 1, 0.1) ||                         /* final norm */
             write_floats(out, 2 * table, 0, 0);                       /* unused tables */
    failed |= fclose(out) != 0;
    if (failed) {
        perror(argv[1]);
    }
    return failed;
}
