/*
 * A tokenizer.bin and a text: a line with the size of the vocabulary, the text up to a
 * line "@@", the file; or, with a minus before the size, a file made of lines, a score
 * and the token's text, as many as there are. What is encoded decodes without a step
 * outside.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "model/llama.h"
#include "text/tokenizer.h"

enum { VOCAB_MOST = 1 << 12 };

static int64_t write_lines(struct fuzz_input input)
{
    uint8_t *file = calloc(13 * (input.size + 1) + 4, 1);
    size_t   used = 4;
    int64_t  tokens = 0;

    fuzz_check(file != NULL);
    memset(file, 0x7f, 2); /* the longest */
    while (input.size > 0) {
        struct fuzz_input line = fuzz_line(&input);
        float             score = (float) fuzz_number(&line);
        uint32_t          bytes;

        fuzz_byte(&line);
        bytes = (uint32_t) line.size;
        memcpy(file + used, &score, 4);
        memcpy(file + used + 4, &bytes, 4);
        if (bytes > 0) {
            memcpy(file + used + 8, line.data, bytes);
        }
        used += 8 + bytes;
        tokens++;
    }
    fuzz_write("tokenizer.bin", file, used);
    free(file);
    return tokens;
}

static void use(const struct tokenizer *tokenizer, struct fuzz_input text, int64_t vocab)
{
    char    *exact = fuzz_copy(text.data, text.size), error[512] = "";
    int32_t *ids = NULL, previous = -1;
    int64_t  count = 0;

    if (tokenizer_encode(tokenizer, exact, text.size, 1, &ids, &count, error,
                         sizeof error) != 0) {
        fuzz_check(ids == NULL);
        fuzz_check_line(error);
        free(exact);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        size_t      bytes;
        const char *piece = tokenizer_decode(tokenizer, previous, ids[i], &bytes);

        fuzz_check(ids[i] >= 0 && ids[i] < vocab);
        free(fuzz_copy(piece, bytes)); /* reads all of it */
        previous = ids[i];
    }
    free(ids);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input   input = { data, size }, line = fuzz_line(&input);
    struct fuzz_input   text = fuzz_part(&input);
    char                before, error[512] = "";
    struct tokenizer   *untouched = (struct tokenizer *) (void *) &before;
    struct tokenizer   *tokenizer = untouched;
    struct llama_config config;

    memset(&config, 0, sizeof config);
    config.bos = config.eos = -1;
    config.vocab = fuzz_number(&line);
    if (config.vocab < 0) {
        config.vocab = write_lines(input);
    } else {
        config.vocab %= VOCAB_MOST;
        fuzz_write("tokenizer.bin", input.data, input.size);
    }
    if (tokenizer_open(&tokenizer, fuzz_path("tokenizer.bin"), fuzz_path(""), &config,
                       error, sizeof error) != 0) {
        fuzz_check(tokenizer == untouched);
        fuzz_check_line(error);
        return 0;
    }
    use(tokenizer, text, config.vocab);
    tokenizer_free(tokenizer);
    return 0;
}
