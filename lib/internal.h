/*
 * The handles' insides, and what the files that work on handles offer one another.
 * The order here is the order of the layers: a function uses what stands above it. What
 * reaches down: bl_group_create makes a plan, counts the bytes of tapes and begins DoRA;
 * what changes parameters says so to dora.c.
 */
#ifndef BEAMLORA_LIB_INTERNAL_H
#define BEAMLORA_LIB_INTERNAL_H

#include "formulas.h"

/* parameters, gradients, m, v, sensitivity, uncertainty, up to four of the host's */
#define BL__BUFFERS 10
#define BL__NAME_BYTES 201
#define BL__BUFFER_NAME_BYTES 33

struct bl_adapter {
    bl_group *group;
    int64_t   index, in, out;
    int64_t   rank, capacity; /* in this order, as the state has them */
    int64_t   other_rank;     /* of a state that is looked at */
    double    scaling;
    double    mass;    /* sum of all g: rank, unless ranks came and went */
    int64_t   a, b, s; /* element offsets in every buffer                           */
    int64_t   magnitude, end; /* s == magnitude: no scores; magnitude == end: no DoRA */
    int64_t   first_rank;     /* offset in the group's arrays by rank                 */
    uint64_t  seed;
    int32_t   frozen;
    int32_t   has_gradient; /* a backward has reached it since the last step        */

    /* with DoRA */
    const void *base; /* W0, or what base_rows makes it from */
    int64_t     ldbase;
    bl_rows_fn  base_rows;
    double     *base_squares; /* [out] |W0_i|^2                               */
    double     *lengths;      /* [out] |W_i|, rounded to the group's dtype    */
    void       *ratio;        /* [out] magnitude / length, of the group's dtype */

    char name[BL__NAME_BYTES];
};

struct bl__buffer {
    void   *data;    /* [elements]; NULL: the group has no such buffer */
    void   *history; /* [history_depth][elements] of history_dtype, or NULL */
    int32_t fresh;   /* bl_fresh                                    */
    char    name[BL__BUFFER_NAME_BYTES];
};

struct bl_group {
    bl_options           options; /* every (auto) worked out */
    struct bl__allocator allocator;
    int64_t              count;
    bl_adapter          *adapters;
    int64_t              elements; /* of a buffer */
    int64_t              ranks;    /* that all adapters have room for */
    struct bl__buffer    buffers[BL__BUFFERS];
    int32_t              buffer_count;
    int32_t              dtype;
    enum bl__pieces      pieces; /* of products */
    int64_t              t;
    uint64_t             version;     /* of the parameters: tapes are compared with it */
    int64_t              snapshots;   /* taken so far */
    int64_t              reallocated; /* step of the last reallocation, -1: none yet */
    int64_t             *snapshot_step; /* [history_depth], -1: empty */
    int64_t             *born; /* [ranks] step after which a rank was last overwritten */
    uint8_t             *removed;  /* [ranks] 1: pruned for good; AdaLoRA: when last */
    uint8_t             *mask;     /* [ranks] 0: silenced by the host */
    uint8_t             *frozen;   /* [count] as the state saves it */
    double              *settings; /* as the state saves them     */
    void                *scratch;  /* [largest rank * max(in, out)] for moves in place */
    double              *scratch_scores; /* [largest rank]; ranks are capacities here */
    uint8_t             *scratch_ranks;  /* [ranks] */
    struct bl__lengths_scratch {
        void   *rows;      /* [block, in] of W0; NULL: all of them are in memory */
        void   *a;         /* [in, rank] (diag(g) A)^T                          */
        void   *products;  /* [block, rank] or [rank, block]                    */
        void   *gram;      /* [rank, rank]                                      */
        double *g;         /* [rank]                                            */
    } lengths_scratch;     /* of refresh in dora.c, for the largest adapter     */
    void    *penalty_gram; /* [largest rank, largest rank] with AdaLoRA          */
    double   penalty;      /* when its gradient was last added                   */
    int      penalised;    /* the gradients have it                              */
    double  *base_squares; /* the adapters', one after another                  */
    double  *lengths;
    void    *ratio;
    bl_plan *plan;
    int      single;   /* made by bl_adapter_create, freed by bl_adapter_free */
    void    *owned[5]; /* parameters, gradients, moments, averages, history */
};

/* ----- options.c ----- */

/* Copy the caller's options (NULL: defaults), check them and work out every (auto).
 * `largest_rank` bounds what a reallocation can do, `cost` is what all ranks take, `growth`
 * the least that one more costs where there is room for it; 0: nowhere. */
int bl__options_read(bl_options *out, const bl_options *opt);
int bl__options_resolve(bl_options *options, int64_t largest_rank, int64_t cost,
                        int64_t growth);
/* Spec `index` of an array, with the options' values where it has none. */
int bl__spec_read(bl_spec *out, const bl_spec *specs, int64_t index,
                  const bl_options *options);
/* Settings that a resumed run must share, as numbers with names. */
int64_t     bl__settings_count(void);
const char *bl__settings_name(int64_t index);
double      bl__settings_value(const bl_options *options, int64_t index);

/* ----- adapter.c, group.c ----- */

/* Tensor of an adapter: its element offset in every buffer, and its shape; -1: none. */
int64_t bl__tensor(const bl_adapter *adapter, int32_t tensor, int64_t *rows,
                   int64_t *cols);
/* Effective importance, masked ranks 0, and the true one (NULL: not wanted). */
void bl__adapter_importance(const bl_adapter *adapter, double *masked, double *g);
/* |c| g_i |b_i| |a_i| for each rank */
void bl__adapter_norms(const bl_adapter *adapter, const double *g, double *norms);
/* Parameters of one rank, which the budget counts. */
int64_t bl__adapter_cost(const bl_adapter *adapter);
/* Ranks [from, to) of A, B and s in a buffer of this dtype become zero. */
void bl__adapter_clear(const bl_adapter *adapter, int32_t dtype, void *buffer,
                       int64_t from, int64_t to);
/* Gradients that no backward has reached since the last step become zero. */
void bl__group_settle_gradients(bl_group *group);
void bl__group_forget_gradients(bl_group *group);

/* ----- history.c ----- */

/* A buffer's entry at a tensor's offset in ring slot `slot`. */
const void *bl__history_at(const bl_group *group, int32_t buffer, int64_t slot,
                           int64_t offset);
/* The whole slot */
void *bl__history_data(bl_group *group, int32_t buffer, int64_t slot);
void  bl__history_snapshot(bl_group *group);
/* Slot whose age is nearest to the wanted one among those that show the present path of
 * rank `rank` of `adapter`; -1: none. */
int64_t bl__history_find(const bl_adapter *adapter, int64_t rank);
/* Slot of the snapshot of exactly this age; -1: gone. */
int64_t bl__history_slot(const bl_group *group, int64_t age);

/* ----- plan.c ----- */

enum bl__fate { BL__STAYS = 0, BL__GOES = 1, BL__COPIED = 2 };

/* A rank in the order: by importance, then module, then index. */
struct bl__entry {
    double  importance;
    double  contribution; /* g |b| |a| over its mean in the module */
    int64_t module, rank;
    int32_t fate;
    int32_t reserved;
};

struct bl_plan {
    struct bl__allocator allocator;
    int64_t              capacity, count, step;
    double               threshold;
    int64_t             *modules, *pruned, *sources, *ages;
    int32_t             *actions;
    double              *importances;
    struct bl__entry    *entries;        /* [capacity] scratch of bl_group_plan */
    struct bl__entry    *module_entries; /* [capacity] */
    double              *g;              /* [capacity] */
    double              *norms;          /* [capacity] */
    int64_t             *order;          /* [capacity] */
    int64_t             *changes;        /* [capacity], by module: its rank's */
};

int    bl__plan_create(bl_plan **out, const struct bl__allocator *allocator,
                       int64_t capacity);
size_t bl__plan_bytes(int64_t capacity);

enum bl__marks {
    BL__IS_LISTED = 1,
    BL__IS_PRUNED = 2,
    BL__IS_SOURCE = 4,
    BL__LEAVES = 8,
    BL__MOVES = 16
};
/* Whether the plan can be carried out; leaves marks in the group's scratch_ranks. */
int bl__plan_check(bl_group *group, const bl_plan *plan);
/* Whether a row's source takes part in it, and whether its `pruned` is a new rank. */
int bl__plan_has_source(int32_t action, int64_t source);
int bl__plan_is_new(const bl_adapter *adapter, const bl_plan *plan, int64_t row);

/* ----- select.c, grow.c ----- */

void bl__entries_sort(struct bl__entry *entries, int64_t count);
/* Rows for a module's marked entries, by rank, without what comes of them; the first. */
int64_t bl__select_list(const bl_adapter *adapter, bl_plan *plan,
                        const struct bl__entry *entries, int64_t entry_count);
/* What comes of a row's rank: the path of `source`, as the options want it. */
void bl__select_fill(const bl_adapter *adapter, bl_plan *plan, int64_t row,
                     int64_t source);
/* Sources in plan->order, best first, to the order in which rows take them. */
void bl__select_shuffle(const bl_adapter *adapter, bl_plan *plan, int64_t count);
/* Rows for all modules, whose entries in plan->module_entries are marked; all together,
 * in order, they are the first `total` of plan->entries. */
void bl__grow(const bl_group *group, bl_plan *plan, int64_t total);

/* ----- parts.c ----- */

/* Run task(context, i) for i in [0, count): on the host's threads if it gave any. */
void bl__parallel_for(const bl_group *group, int64_t count, bl_task_fn task,
                      void *context);
/* Whether the cores are the host's, by its parallel_for, or the BLAS's. */
int bl__owns_cores(const bl_group *group);
/* How many of `most` rows of so many bytes a block has. */
int64_t bl__block_rows(int64_t row_bytes, int64_t most);
/* The most rows that a pass of this adapter takes at a time, whatever its rank becomes: by
 * capacity, so that a resumed run has the blocks that it had. */
int64_t bl__longest_block(const bl_options *options, const bl_spec *spec, int64_t max_n);
/* How many rows a pass takes at a time, up to the tape's block. */
int64_t bl__pass_block(const bl_adapter *adapter, const bl_tape *tape);
/* Whether h is spread over panels of columns rather than rows: a factor of high rank is so
 * large that each part should have its own share of it. With DoRA rows are rescaled next. */
int bl__cut_by_columns(const bl_adapter *adapter);
/* Into how many parts to cut rows, or columns, that take `work` multiplications together,
 * and part i's start. A function of sizes alone once the host gives a parallel_for, so
 * results do not depend on its threads. */
enum { BL__MOST_PARTS = 8 };
int64_t bl__row_parts(const bl_adapter *adapter, int64_t rows, double work);
int64_t bl__column_parts(const bl_adapter *adapter, int64_t cols, double work);
int64_t bl__part_start(int64_t size, int64_t parts, int64_t i);

/* ----- tape.c ----- */

struct bl_tape {
    struct bl__allocator allocator;
    const bl_adapter    *adapter;
    int64_t              max_n, block; /* rows at a time */
    int64_t              n, key;
    uint64_t             version;
    int32_t              keep, filled;
    double              *g, *true_g; /* [rank] each                             */
    double              *dg;         /* [BL__MOST_PARTS + 1, rank]: sum and parts */
    int64_t              base_block; /* rows of W0 at a time                    */
    void                *h;          /* [max_n or block, rank] x A^T            */
    void                *hg;         /* [block, rank] h * g                     */
    void                *d;          /* [block, rank] c dy B, then times g      */
    void                *dropped;    /* [block, in] drop(x); NULL without dropout */

    /* with DoRA, NULL where not needed */
    void       *kept; /* [max_n or block, out] y before it is rescaled           */
    const void *t;    /* kept, or where that is NULL the host's y, rescaled */
    int64_t     ldt;
    void       *rescaled; /* [block, out] of dy, or c (h * g) B^T; with dropout only */
    void       *dots;     /* [BL__MOST_PARTS, out] column sums of dy * kept          */
    void       *rows;     /* [base_block, in] of W0; with dropout only               */
};

/* Bytes that bl_tape_create takes for an adapter of this spec; SIZE_MAX: more than there
 * are. */
size_t bl__tape_bytes(const bl_options *options, const bl_spec *spec, int64_t max_n,
                      int32_t keep);
/* The tape's dropout, for its adapter and key; q = 0: none. */
struct bl__dropout bl__tape_dropout(const bl_adapter *adapter, int64_t key);

/* Checks that forward and backward share. */
int bl__pass_check(const bl_adapter *adapter, const bl_tape *tape, int64_t n);
int bl__matrix_check(const char *name, const void *data, int64_t n, int64_t cols,
                     int64_t ld);

/* ----- dora.c ----- */

int bl__is_dora(const bl_adapter *adapter);
/* Read W0 for the first time: magnitudes become its lengths. BL_E_NONFINITE. */
int bl__dora_begin(bl_adapter *adapter);
/* Parameters of an adapter, or of all in the group (`frozen` ones too), have changed:
 * tapes are out of date, and with DoRA the lengths. */
void bl__adapter_changed(bl_adapter *adapter);
void bl__group_changed(bl_group *group, int frozen);
/* kept [rows, out] = tape->dropped W0^T, and tape->dropped = tape->rescaled W0 */
void bl__dora_project(const bl_adapter *adapter, const bl_tape *tape, int64_t rows,
                      void *kept);
void bl__dora_unproject(const bl_adapter *adapter, const bl_tape *tape, int64_t rows);

/* ----- adalora.c ----- */

int bl__is_adalora(const bl_group *group);
/* Whether the gradients still lack the penalty. */
int bl__lacks_penalty(const bl_group *group);
/* After the parameters' step t: averages from grad_scale times the gradients, and the
 * allocation if one is due. */
void bl__adalora_advance(bl_group *group, double grad_scale);

#endif
