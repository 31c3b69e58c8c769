/* Loss over a whole stream of ids; see evaluate.h. */
#include "evaluate.h"

#include <stdio.h>

#include "llama.h"

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int evaluate(const struct llama *model, const struct llama_adapters *adapters,
             const int32_t *ids, int64_t count, int64_t context, int64_t batch,
             double *loss, int64_t *predicted, char *error, size_t size)
{
    struct llama_pass *pass;
    double             total = 0;
    int64_t            done = 0, inputs = count - 1;

    if (count < 2) {
        snprintf(error, size, "the data has %lld token ids, a loss needs 2 or more",
                 (long long) count);
        return -1;
    }
    if (context < 1 || batch < 1) {
        snprintf(error, size, "context is %lld and batch %lld, both must be 1 or more",
                 (long long) context, (long long) batch);
        return -1;
    }
    /* No more room than the stream needs. */
    context = smaller(context, inputs);
    batch = smaller(batch, inputs / context);
    if (llama_pass_create(&pass, model, adapters, batch, context, 0, error, size) != 0) {
        return -1;
    }
    while (done < inputs) {
        int64_t windows = smaller(batch, (inputs - done) / context);
        int64_t length = windows > 0 ? context : inputs - done;
        int64_t here;
        double  sum;

        windows = windows > 0 ? windows : 1;
        if (llama_forward(pass, windows, length, ids + done, ids + done + 1,
                          BL_NO_DROPOUT, &sum, &here, error, size) != 0) {
            llama_pass_free(pass);
            return -1;
        }
        total += sum;
        done += here;
    }
    llama_pass_free(pass);
    *loss = total / (double) inputs;
    *predicted = inputs;
    return 0;
}
