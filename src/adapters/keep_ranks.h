/*
 * Silencing some of an adapter's ranks, for pruning studies: `eval --keep-ranks` and
 * `beamlora prune`. Parameters are not touched, the other ranks' g stay as they are.
 */
#ifndef BEAMLORA_SRC_KEEP_RANKS_H
#define BEAMLORA_SRC_KEEP_RANKS_H

#include <stddef.h>
#include <stdint.h>

struct llama_adapters;

enum keep_kind { KEEP_TOP, KEEP_BOTTOM, KEEP_RANDOM };
enum keep_by { KEEP_BY_ANY = -1, KEEP_BY_IMPORTANCE, KEEP_BY_NORM };
enum keep_scope { KEEP_MODULE, KEEP_JOINT };

/* For flags: "importance" and "norm", "module" and "joint". */
extern const char *const keep_by_names[];
extern const char *const keep_scope_names[];

struct keep {
    enum keep_kind kind;
    double         percent; /* of the ranks; below 0: it is `count` */
    int64_t        count;
    uint64_t       seed; /* KEEP_RANDOM only */
};

/* "top:50%", "bottom:4", "random:12.5%:7", seed 0 if there is none. -1: line in error. */
int keep_parse(struct keep *out, const char *text, char *error, size_t size);

/* What ranks are ordered by. A rank of norm 0 (removed, or made up to give all modules of
 * a file one rank) adds nothing and does not count: its value is NaN. */
struct rank_values {
    double      *value; /* [first[modules]] */
    int64_t     *first; /* [modules + 1] of a module's ranks */
    int64_t      modules;
    int64_t      ranks, most; /* that count: of all modules, of the module with most */
    enum keep_by by;
    char         note[512]; /* why norm, where any was wanted and there are scores */
};

/*
 * Of adapters that were read from `directory`; none of their ranks is silenced after.
 * Norms are the adapters' own. Importance is g in the last line of a run's ranks.jsonl,
 * if the norms in this line are the adapters', so it is of no other adapter. KEEP_BY_ANY:
 * importance where it can be had. 0, or -1 with a line.
 */
int  rank_values_read(struct rank_values *out, const struct llama_adapters *adapters,
                      const char *directory, enum keep_by by, char *error, size_t size);
void rank_values_free(struct rank_values *values);

/*
 * Silence all but the ranks to keep: of each module, or of all as one list. A share is
 * rounded to the nearest whole number of ranks, half up; a count is at most all. Of equal
 * ranks the first is the better. A seed is a random order of all ranks, so what it keeps
 * of a smaller share it keeps of a larger one.
 *
 * Returns how many are kept, or -1 with a line.
 */
int64_t keep_ranks(const struct llama_adapters *adapters,
                   const struct rank_values *values, const struct keep *keep,
                   enum keep_scope scope, char *error, size_t size);

struct kept {                /* for a report */
    int64_t     kept, ranks; /* of all modules */
    const char *by;          /* "importance", "norm" or "random" */
};

/* All of it for one evaluation; a note goes to stderr. */
int keep_only(struct kept *out, const struct llama_adapters *adapters,
              const char *directory, const struct keep *keep, enum keep_by by,
              enum keep_scope scope, char *error, size_t size);

#endif
