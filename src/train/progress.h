/* Progress of a training, or of any number of losses, on stderr: one line that is redrawn on a terminal, plain lines
 * elsewhere, every five seconds. No escape codes anywhere, and no line that wraps. */
#ifndef BEAMLORA_SRC_PROGRESS_H
#define BEAMLORA_SRC_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *what; /* is counted: "step", unless it is set after progress_start */
    int64_t     steps, first, done; /* first: made before we started */
    int64_t     tokens;
    double      start, last, now; /* seconds */
    double      loss_sum;         /* since the last line */
    int64_t     loss_count;
    int         terminal; /* one that can redraw a line                   */
    int         drawn;    /* length of the unfinished line that is on it  */
};

/* `done` of the steps are made already. */
void progress_start(struct progress *progress, int64_t steps, int64_t done);
/* `done` steps are made, the last of them with this loss over so many tokens. */
void progress_step(struct progress *progress, int64_t done, double loss, int64_t tokens);
void progress_end(struct progress *progress);

/* A line of its own, "beamlora: ..." */
void progress_note(struct progress *progress, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

double progress_tokens_per_second(const struct progress *progress);

#endif
