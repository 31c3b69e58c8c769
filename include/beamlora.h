/*
 * libbeamlora - low-rank adapters that a host trainer calls once per layer.
 *
 * LoRA adds a trained low-rank product to a frozen linear layer. BeamLoRA puts a
 * learnable score vector between the two factors, and every so often turns the
 * ranks that matter least in a layer into second search paths of those that
 * matter most (Gu et al., "BeamLoRA: Beam-Constraint Low-Rank Adaptation",
 * ACL 2025, arXiv 2502.13604).
 *
 *     y = x W0^T + c ((x A^T) * g) B^T        g = r softmax(s / tau)
 *
 * DoRA, alone or with scores, also learns how long each row of the weight is
 * (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353):
 *
 *     y = (mag / |W|) * (x W^T)               W = W0 + c B diag(g) A
 *
 * AdaLoRA puts singular values E in the place of g, and moves a shrinking budget of
 * ranks between the layers (Zhang et al., "AdaLoRA: Adaptive Budget Allocation for
 * Parameter-Efficient Fine-Tuning", ICLR 2023, arXiv 2303.10512).
 *
 * Letters used throughout:
 *
 *     n     rows of activations: tokens in this call
 *     in    input features of the layer        out   output features
 *     r     rank of the adapter                c     scaling: alpha / r at creation
 *     A     [r, in]     B  [out, r]            s, g  [r] scores and importance
 *     W0    [out, in]   the frozen weight: the host's; only DoRA reads it
 *     mag   [out]       magnitudes of DoRA     |W|  [out] lengths of W's rows
 *     E     [r] AdaLoRA's values: s and g in one
 *     tau   softmax temperature                t     optimizer steps taken so far
 *     T     period: steps from one reallocation to the next
 *
 * Order of calls, for one layer:
 *
 *     bl_options_init -> bl_adapter_create -> bl_tape_create
 *     every step:   bl_forward, bl_backward     (any number of times)
 *                   bl_step         (AdamW; or the host's own, and bl_group_tick)
 *                   if bl_reallocate_due: bl_reallocate
 *     bl_tape_free, bl_adapter_free
 *
 * Many layers: bl_group_create makes their adapters at once, in one buffer, and
 * bl_group_step and bl_group_reallocate act on all of them. Every adapter lives
 * in a group; bl_adapter_create makes a group of one.
 *
 * Conventions. Matrices are row-major, each pointer followed by its leading
 * dimension, counted in elements. "read", "written", "accumulated" say what a call
 * does to an array. Functions that can fail return 0 or a negative BL_E_ code, and
 * on failure nothing has changed unless the comment says otherwise; `free` takes
 * NULL. bl_x_get_y borrows: what it returns lives as long as x. bl_x_copy_y copies.
 * Apart from bl_..._create, bl_group_attach, bl_group_load, merging and folding, no
 * function allocates. Functions that return a value instead of a code want a valid
 * handle.
 *
 * The library never prints, exits, aborts, starts a thread or reads the
 * environment. Same seed, inputs, CBLAS, threads of the CBLAS, and parallel_for given or
 * not: same bits.
 *
 * Threads. There is no mutable global state except the thread-local error text.
 * Different groups are independent. Within a group, bl_forward and bl_backward may
 * run at once on different adapters, and bl_forward also on one adapter, as long as
 * the tapes differ; so may functions that take the group or adapter as const, but for
 * bl_group_copy_gradient_norm, which reads what backwards write. All others need the
 * group to themselves. docs/threads.md says it function by function.
 *
 * Not promised: equal bits across CBLAS libraries or thread counts of the CBLAS;
 * anything about files in lib/.
 */
#ifndef BEAMLORA_H
#define BEAMLORA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BL_API __attribute__((visibility("default")))
#else
#define BL_API
#endif

/* ===== Version ============================================================ */

#define BL_VERSION_MAJOR 0
#define BL_VERSION_MINOR 1
#define BL_VERSION_PATCH 0

/*
 * The ABI promise: the same SONAME means that programs keep running without being
 * recompiled; within it the library only adds. While the major version is 0 a new
 * minor version may raise it.
 */
#define BL_SOVERSION 0

/** Version of the library in use: major * 10000 + minor * 100 + patch. Since 0.1. */
BL_API int32_t bl_version(void);

/** The same as text, "0.1.0". Static. Since 0.1. */
BL_API const char *bl_version_string(void);

/* ===== Errors ============================================================= */

/* name, number, text. Numbers are never reused. */
/* clang-format off */
#define BL_ERROR_MAP(X)                                                                  \
    X(BL_E_ARG, -1, "invalid argument")                                                  \
    X(BL_E_SHAPE, -2, "shapes do not fit together")                                      \
    X(BL_E_RANGE, -3, "value out of range")                                              \
    X(BL_E_OPTIONS, -4, "options contradict each other or are unknown")                  \
    X(BL_E_NOMEM, -5, "out of memory")                                                   \
    X(BL_E_STATE, -6, "not possible in the present state")                               \
    X(BL_E_NONFINITE, -7, "a value is not finite")                                       \
    X(BL_E_FORMAT, -8, "malformed data")                                                 \
    X(BL_E_VERSION, -9, "data of another version")                                       \
    X(BL_E_IO, -10, "reading or writing failed")                                         \
    X(BL_E_USER, -11, "a callback of the host reported an error")

enum bl_error {
    BL_OK = 0,
#define BL_ERROR_ENUM(name, number, text) name = number,
    BL_ERROR_MAP(BL_ERROR_ENUM)
#undef BL_ERROR_ENUM
    BL_ERROR_LAST = -11
};
/* clang-format on */

/** Text for an error code; any integer is accepted. Static. Since 0.1. */
BL_API const char *bl_strerror(int code);

/**
 * One line on the last failure on this thread, with the argument's name and the
 * values: "ldx is 64, must be >= in (128)". Never NULL. Set only on failure, so
 * meaningful only after a negative return, on the thread that got it. Since 0.1.
 */
BL_API const char *bl_last_error(void);

/* ===== Types ============================================================== */

typedef struct bl_group   bl_group;   /* adapters that train together */
typedef struct bl_adapter bl_adapter; /* one layer's adapter */
typedef struct bl_tape    bl_tape;    /* what a forward leaves for its backward */
typedef struct bl_plan    bl_plan;    /* what a reallocation will do */

enum bl_dtype {
    BL_F32 = 0,
    BL_F64 = 1,
    BL_BF16 = 2, /* history (bl_options) and files */
    BL_F16 = 3,  /* files only (beamlora_io.h) */
    BL_I64 = 4,  /* state arrays */
    BL_U8 = 5    /* state arrays */
};

/** A matrix inside a group: element (i, j) is data[i * ld + j]. */
typedef struct bl_view {
    void   *data;
    int64_t rows;
    int64_t cols;
    int64_t ld;
    int32_t dtype; /* bl_dtype */
    int32_t reserved;
} bl_view;

#define BL_NAME_MAX 256 /* bytes of a name, with its final NUL */

/** A named, packed, row-major array; see "State". */
typedef struct bl_array {
    char        name[BL_NAME_MAX];
    const void *data;
    int64_t     shape[2];
    int32_t     dims;  /* 1: shape[0] elements; 2: shape[0] rows of shape[1] */
    int32_t     dtype; /* bl_dtype */
} bl_array;

/** Runs task(context, i) once for every i in [0, count), in any order and on any
 *  threads, and returns when all are done. */
typedef void (*bl_task_fn)(void *context, int64_t i);
typedef void (*bl_parallel_for_fn)(void *user, int64_t count, bl_task_fn task,
                                   void *context);

/** Memory from the host, aligned as malloc's; alloc returns NULL when out of memory. */
typedef void *(*bl_alloc_fn)(void *user, size_t bytes);
typedef void (*bl_free_fn)(void *user, void *pointer);

/** Takes `bytes` bytes at `data`; anything but 0 stops the writing with BL_E_USER. */
typedef int (*bl_write_fn)(void *user, const void *data, size_t bytes);

/**
 * Hands rows of a frozen weight W0 [., in] that is not in memory as it is needed: of 16
 * bits, quantised, in several places.
 *
 *   base   the spec's
 *   out    [rows, in] written, packed, of parameter_dtype: rows from .. from + rows - 1
 *
 * Must give the same values every time, and cannot fail: what cannot be read is NaN. May
 * be called at once from the threads of parallel_for and of calls that may run at once.
 */
typedef void (*bl_rows_fn)(const void *base, int64_t from, int64_t rows, int64_t in,
                           void *out);

/* ===== Options ============================================================ */

enum bl_method {
    BL_METHOD_LORA = 0,     /* g = 1: no scores, no reallocation */
    BL_METHOD_BEAMLORA = 1, /* scores; reallocation unless switched off below */
    BL_METHOD_ADALORA = 2   /* g = E, which trains; a budget of ranks, see total_steps and
                             from target_rank on; no reallocation */
};

enum bl_scaling {
    BL_SCALING_STANDARD = 0, /* c = alpha / r */
    BL_SCALING_RSLORA = 1    /* c = alpha / sqrt(r) (rsLoRA, arXiv 2312.03732) */
};

enum bl_optimizer {
    BL_OPTIMIZER_ADAMW = 0, /* the library's (bl_group_step) */
    BL_OPTIMIZER_HOST = 1   /* the host's own (bl_group_tick); no m, v */
};

enum bl_scope {
    BL_SCOPE_MODULE = 0, /* Top-P within each module */
    BL_SCOPE_JOINT = 1,  /* Top-P over all modules' ranks at once */
    BL_SCOPE_GLOBAL = 2  /* the same, and ranks move between modules: what the pruned ones
                            cost goes to second paths of the most important ones, in
                            whichever module these are (see capacity and budget) */
};

enum bl_crossing {
    BL_CROSSING_KEPT = 0,  /* the rank at which the sum exceeds p stays */
    BL_CROSSING_PRUNED = 1 /* it goes too */
};

enum bl_select {
    BL_SELECT_LOWEST = 0, /* prune the least important ranks */
    BL_SELECT_RANDOM = 1  /* ablation: prune as many, drawn at random */
};

enum bl_curve { BL_CURVE_CONSTANT = 0, BL_CURVE_LINEAR = 1, BL_CURVE_COSINE = 2 };

enum bl_importance {
    BL_IMPORTANCE_SCORE = 0,        /* g_i */
    BL_IMPORTANCE_CONTRIBUTION = 1, /* g_i |b_i| |a_i|, over its mean in the module */
    BL_IMPORTANCE_NORM = 2          /* |c g_i b_i a_i|_F, to compare modules by */
};

enum bl_expand {
    BL_EXPAND_HISTORY = 0, /* copy the source as it was in a snapshot */
    BL_EXPAND_CURRENT = 1, /* copy the source as it is */
    BL_EXPAND_FRESH = 2,   /* A random, B zero, m zero, v the mean of the kept */
    BL_EXPAND_NONE = 3     /* prune only: zero, and out of the softmax for good */
};

enum bl_moments {
    BL_MOMENTS_COPY = 0, /* m and v come from where A and B come from */
    BL_MOMENTS_KEEP = 1, /* they stay those of the pruned rank */
    BL_MOMENTS_ZERO = 2
};

enum bl_pairing {
    BL_PAIRING_SHUFFLED = 0, /* sources permuted at random against the pruned ranks */
    BL_PAIRING_ORDERED = 1   /* k-th pruned rank by index takes the k-th best */
};

enum bl_transfer {
    BL_TRANSFER_MEAN = 0,    /* both scores become their mean */
    BL_TRANSFER_PRESERVE = 1 /* both become s_source - tau ln 2: together they weigh
                                what the source weighed. With BL_EXPAND_FRESH both
                                stay as they are. With BL_SCOPE_GLOBAL the g of all
                                other ranks stay too (bl_adapter_get_mass). */
};

enum bl_preset {
    BL_PRESET_PAPER = 0,      /* the paper's text; the defaults */
    BL_PRESET_PUBLISHED = 1,  /* what its published code does */
    BL_PRESET_TIGHTENING = 2, /* paper with p from 1 to 0.95: careful first, bold later */
    BL_PRESET_GLOBAL = 3      /* paper with BL_SCOPE_GLOBAL, BL_IMPORTANCE_NORM,
                                 BL_TRANSFER_PRESERVE and a score_lr_ratio of 0.03: ranks
                                 move between modules */
};

/**
 * All settings of a group. Call bl_options_init, set what differs, pass it on; NULL
 * wherever an options pointer is taken means the defaults of bl_options_init. These
 * reallocate and so want total_steps: nothing is created without. The struct is copied.
 * "(auto)" names the value that stands for "worked out at creation";
 * bl_group_copy_options tells what was worked out. docs/method.md has every formula.
 */
typedef struct bl_options {
    size_t size; /* bytes of this struct as the caller knows it; set by init */

    /* adapters */
    int32_t  method;           /* bl_method; default BL_METHOD_BEAMLORA */
    int32_t  scaling;          /* bl_scaling; default BL_SCALING_STANDARD */
    int64_t  rank;             /* r, 1 or more; may exceed in and out; default 8 */
    int64_t  capacity;         /* the most that r may become, r or more; 0 (auto): twice r
                                  with BL_SCOPE_GLOBAL, else r; AdaLoRA wants 0 or r */
    double   alpha;            /* in [-1e30, 1e30]; default 16; see below for AdaLoRA */
    double   dropout;          /* q in [0, 1), on the adapter's input; default 0 */
    double   temperature;      /* tau > 0; 0 (auto): 0.03 if 0 < lr < 1e-4, else 0.05 */
    int32_t  parameter_dtype;  /* A, B, s, moments: BL_F32 (default), BL_F64 */
    int32_t  activation_dtype; /* x, y, dx, dy; so far equal to the other */
    uint64_t seed;             /* of initialisation, dropout, pairing; default 0 */

    int32_t dora; /* 1: magnitudes, with any method; wants W0 (bl_spec); default 0 */

    /* optimizer: AdamW with decoupled decay (Loshchilov & Hutter, arXiv 1711.05101) */
    int32_t optimizer;      /* bl_optimizer; default BL_OPTIMIZER_ADAMW */
    double  lr;             /* the base lr, only to choose tau; 0: not told */
    double  beta1;          /* in [0, 1); default 0.9 */
    double  beta2;          /* in [0, 1); default 0.999 */
    double  epsilon;        /* in [1e-37, 1e30]; default 1e-8 */
    double  weight_decay;   /* >= 0, per unit of lr; default 0 */
    double  b_lr_ratio;     /* >= 0, B's lr over A's (LoRA+, arXiv 2402.12354); 1 */
    double  score_lr_ratio; /* >= 0, s's (E's) lr over A's; default 1 */

    /* schedule, in optimizer steps */
    int64_t total_steps; /* of the training; needed when reallocation is on, by AdaLoRA */
    int64_t period;      /* T >= 1; 0 (auto): total_steps / 12, at least 3 */
    int64_t start;   /* no snapshot or reallocation until after this step; default 0 */
    double  p_start; /* Top-P in (0, 1], share of importance that is kept; default 0.95 */
    double  p_end;   /* the same at the end; default 1 */
    int32_t p_curve; /* bl_curve; default BL_CURVE_COSINE */
    int32_t reallocation; /* 1 (default): as scheduled here; 0: scores only */
    int64_t p_steps;      /* steps from p_start to p_end; 0 (auto): 2/3 of total_steps */

    /* which ranks go */
    int32_t scope;              /* bl_scope; default BL_SCOPE_MODULE */
    int32_t crossing;           /* bl_crossing; default BL_CROSSING_KEPT */
    int32_t importance;         /* bl_importance; default BL_IMPORTANCE_SCORE */
    int32_t selection;          /* bl_select; default BL_SELECT_LOWEST */
    int64_t fixed_count;        /* ablation: ranks per module; 0 (default): Top-P */
    double  max_prune_fraction; /* in [0, 1], of a module's r; default 0.5 */
    double  idle;   /* only ranks below this share of the mean contribution; 0: any */
    int64_t budget; /* the most that sum of r (in + out + 1) may become, over all modules;
                       0 (auto): what it is at creation with BL_SCOPE_GLOBAL, else no
                       limit but the capacities */

    /* what becomes of them */
    int32_t expand;   /* bl_expand; default BL_EXPAND_HISTORY */
    int32_t moments;  /* bl_moments; default BL_MOMENTS_COPY */
    int32_t pairing;  /* bl_pairing; default BL_PAIRING_SHUFFLED */
    int32_t transfer; /* bl_transfer; default BL_TRANSFER_MEAN */

    /* history ring: snapshots of A, B and, where they are copied, their moments */
    int64_t history_depth;    /* snapshots held, 1 or more; default 1 */
    int64_t history_interval; /* steps between two; 0 (auto): T */
    int64_t history_phase; /* t - start - phase is a multiple of it; -1 (auto): T/2 + 1 */
    int64_t history_age;   /* steps, wanted at a reallocation; -1 (auto): T/2 - 1 */

    /* the host's means; NULL: the library's own */
    bl_parallel_for_fn parallel_for; /* NULL: everything on the calling thread */
    void              *parallel_user;
    bl_alloc_fn        alloc; /* alloc and free: both or neither */
    bl_free_fn         free;
    void              *alloc_user;
    void *parameters; /* [elements] memory for the parameters, aligned to 64 bytes */
    void *gradients;  /* [elements] the same for their gradients */
    void *moments_mv; /* [2 * elements] the same for m, then v; see bl_memory */

    /* W0, for specs that do not say (bl_spec), and so for bl_adapter_create */
    const void *base;
    int64_t     ldbase;
    bl_rows_fn  base_rows;

    /* AdaLoRA: names and defaults are PEFT's, its init_r is rank. c = alpha / (r + 1e-5),
     * with r for an alpha that is not above 0; scaling must be BL_SCALING_STANDARD. */
    int64_t target_rank; /* mean rank that is left, 1 or more; 0 (auto): 2/3 of ranks */
    int64_t tinit;       /* steps before the first allocation; default 0 */
    int64_t tfinal;      /* steps after the last one; default 0 */
    int64_t delta_t;     /* steps between two allocations, 1 or more; default 1 */
    double  sensitivity_beta; /* in (0, 1), PEFT's beta1; default 0.85 */
    double  uncertainty_beta; /* in (0, 1), PEFT's beta2; default 0.85 */
    double  orth_reg_weight;  /* >= 0, of the penalty (bl_group_add_penalty); 0.5 */

    /* of the snapshots in the history ring */
    int32_t history_dtype; /* 0 (auto): parameter_dtype; BL_BF16, with F32 alone: half
                              the memory, to nearest even */
    int32_t reserved;      /* 0 */
} bl_options;

/**
 * Fill in the defaults: preset `paper`.
 *
 *   size   sizeof *opt as the caller was compiled; at most so many bytes are written
 *
 * Returns 0; BL_E_ARG for NULL, BL_E_OPTIONS for a size below the first release's.
 * Threads: any. Since 0.1.
 */
BL_API int bl_options_init(bl_options *opt, size_t size);

/**
 * Set what a preset (bl_preset) decides: temperature, both lr ratios, and all from
 * period to history_age but fixed_count, idle and budget. The rest is left. Since 0.1.
 */
BL_API int bl_options_preset(bl_options *opt, int32_t preset);

/** One adapter of a group: where a field is 0 or NULL the group's option holds. */
typedef struct bl_spec {
    size_t      size;         /* sizeof(bl_spec) as the caller knows it */
    int64_t     in_features;  /* input features, 1..INT_MAX */
    int64_t     out_features; /* output features, 1..INT_MAX */
    int64_t     rank;         /* 0: options' rank */
    int64_t     capacity;     /* 0: options' capacity, or its default for this rank */
    double      alpha;        /* 0: options' alpha */
    const char *name;     /* unique, at most 200 bytes, copied; NULL: "adapter.<index>" */
    int32_t     frozen;   /* 1: passes gradients on to dx, has none itself */
    int32_t     reserved; /* 0 */

    /* W0, read with the option `dora` alone: borrowed, unchanged while the group lives */
    const void *base;      /* [out, in] read, of parameter_dtype; or base_rows' */
    int64_t     ldbase;    /* >= in; 0: in */
    bl_rows_fn  base_rows; /* NULL (default): `base` is the matrix */
} bl_spec;

/** Bytes that a configuration takes; filled by bl_memory_query. Attached arrays come on
 *  top, with their part of the history. */
typedef struct bl_memory {
    size_t  size;     /* sizeof(bl_memory) as the caller knows it */
    int64_t elements; /* of a buffer, capacities and padding included; in bytes a multiple
                         of 64: what a host that brings its own parameters or gradients
                         allocates */
    size_t  parameters; /* bytes, of A, B, s, mag */
    size_t  gradients;
    size_t  moments;     /* m and v; 0 with BL_OPTIMIZER_HOST */
    size_t  averages;    /* AdaLoRA's sensitivity and uncertainty */
    size_t  history;     /* the whole ring */
    size_t  bookkeeping; /* handles, names, scratch */
    size_t  tapes;       /* one with BL_KEEP_ALL and max_n = n for each adapter */
    size_t  total;
} bl_memory;

/**
 * How many bytes bl_group_create and one tape per adapter would take.
 *
 *   specs   [count] as for bl_group_create
 *   n       rows of the tapes, 0 or more
 *   out     out->size set by the caller; written
 *
 * Returns what bl_group_create would return for the same arguments. Since 0.1.
 */
BL_API int bl_memory_query(const bl_spec *specs, int64_t count, const bl_options *opt,
                           int64_t n, bl_memory *out);

/* ===== Groups and adapters ================================================ */

/**
 * Create `count` adapters that train together.
 *
 *     A uniform in +-1/sqrt(in),  B = 0,  s = 0,  mag = |W0|:
 *     the output is not changed at first.  AdaLoRA: A, B normal, deviation 0.02; E = 0
 *
 *   specs   [count] read; all with the same size field
 *
 * Returns 0; BL_E_OPTIONS for settings that contradict each other or would never
 * reallocate or allocate anything, or DoRA without a W0; BL_E_RANGE for values and sizes
 * out of range, BL_E_ARG for a name that is there twice or host memory that is not aligned,
 * BL_E_NONFINITE for a W0 with such values, BL_E_NOMEM. *out is written only on success.
 * Since 0.1.
 */
BL_API int  bl_group_create(bl_group **out, const bl_spec *specs, int64_t count,
                            const bl_options *opt);
BL_API void bl_group_free(bl_group *group);

/** Create one adapter, in a group of its own. As bl_group_create. Since 0.1. */
BL_API int bl_adapter_create(bl_adapter **out, int64_t in_features, int64_t out_features,
                             const bl_options *opt);

/** Free an adapter made by bl_adapter_create; does nothing to one of bl_group_create. */
BL_API void bl_adapter_free(bl_adapter *adapter);

/* An index that does not exist gives NULL. */
BL_API int64_t     bl_group_get_count(const bl_group *group);
BL_API bl_adapter *bl_group_get_adapter(const bl_group *group, int64_t index);
BL_API bl_group   *bl_adapter_get_group(const bl_adapter *adapter);
BL_API int64_t     bl_adapter_get_in(const bl_adapter *adapter);
BL_API int64_t     bl_adapter_get_out(const bl_adapter *adapter);
BL_API int64_t     bl_adapter_get_rank(const bl_adapter *adapter); /* r, at present */
BL_API int64_t     bl_adapter_get_capacity(const bl_adapter *adapter);
BL_API int64_t     bl_adapter_get_kept(const bl_adapter *adapter); /* not pruned, of r */
BL_API double      bl_adapter_get_scaling(const bl_adapter *adapter); /* c */

/** The sum of all g: r, unless ranks went or came with BL_TRANSFER_PRESERVE. A change of r
 *  alone would change every g = r softmax(s / tau); so g = mass softmax(s / tau), and mass
 *  moves such that ranks that neither go nor come keep their g. Since 0.1. */
BL_API double bl_adapter_get_mass(const bl_adapter *adapter);

BL_API const char *bl_adapter_get_name(const bl_adapter *adapter);
BL_API int64_t     bl_group_get_step(const bl_group *group); /* t */
BL_API int64_t     bl_group_get_cost(const bl_group *group); /* sum of r (in + out + 1) */
BL_API double      bl_group_get_temperature(const bl_group *group);

/** The options in force, every (auto) that is used worked out. out->size set by the
 *  caller. */
BL_API int bl_group_copy_options(const bl_group *group, bl_options *out);

/** Change tau, > 0. Tapes filled before are out of date. Since 0.1. */
BL_API int bl_group_set_temperature(bl_group *group, double tau);

/** 1: from now on the adapter passes gradients on, but neither gathers any, nor is
 *  changed by steps and reallocations. 0: it trains. Since 0.1. */
BL_API int bl_adapter_set_frozen(bl_adapter *adapter, int32_t frozen);

/**
 * Silence ranks without touching parameters: g_i := 0 where mask[i] = 0, the other
 * g_i as they are. For pruning studies. Tapes filled before are out of date.
 *
 *   mask   [r] read, 0 or 1; NULL: all ranks count again
 */
BL_API int bl_adapter_set_mask(bl_adapter *adapter, const uint8_t *mask);

enum bl_tensor {
    BL_TENSOR_A = 0,        /* [r, in] */
    BL_TENSOR_B = 1,        /* [r, out]: kept transposed, a rank is contiguous */
    BL_TENSOR_SCORES = 2,   /* [1, r] s, or E; absent with BL_METHOD_LORA */
    BL_TENSOR_MAGNITUDE = 3 /* [1, out]; absent without dora */
};

enum bl_buffer {
    BL_BUFFER_PARAMETERS = 0,
    BL_BUFFER_GRADIENTS = 1,
    BL_BUFFER_M = 2, /* AdamW's moments: absent with BL_OPTIMIZER_HOST */
    BL_BUFFER_V = 3,
    BL_BUFFER_SENSITIVITY = 4, /* AdaLoRA's averages of |p G|, and of how far that is */
    BL_BUFFER_UNCERTAINTY = 5, /* from its average: absent with other methods */
    BL_BUFFER_ATTACHED = 6     /* and up, in the order of bl_group_attach */
};

/**
 * Look at, or write, a tensor in a buffer. The memory stays where it is for the
 * group's life; how many rows of it count is r, which a reallocation may change. Asking
 * for gradients first makes those zero that no backward has reached since the last step,
 * so ask each time before reading them. After writing parameters call bl_group_touch, or
 * bl_group_tick if the write was an optimizer step.
 *
 *   tensor   bl_tensor      buffer   bl_buffer      out   written
 *
 * Returns 0, or BL_E_ARG for a tensor or buffer that this adapter does not have.
 */
BL_API int bl_adapter_get_view(bl_adapter *adapter, int32_t tensor, int32_t buffer,
                               bl_view *out);

/**
 * The whole buffer of a group as one row [1, elements]: every adapter's A, B, s, mag in
 * order, each with room for capacity ranks and aligned to 64 bytes; ranks that are not
 * there, and the padding, are zero. One all-reduce on the gradients' pointer is a
 * data-parallel step. As bl_adapter_get_view otherwise.
 */
BL_API int bl_group_get_view(bl_group *group, int32_t buffer, bl_view *out);

/** Parameters were written by the host: tapes filled before are out of date, and DoRA
 *  works the lengths |W| out anew. */
BL_API int bl_group_touch(bl_group *group);

/* ===== Forward and backward =============================================== */

#define BL_NO_DROPOUT ((int64_t) -1)

/** What a tape keeps of a forward. */
enum bl_keep {
    BL_KEEP_NOTHING = 0, /* inference only: no memory that grows with n */
    BL_KEEP_ALL = 1,     /* what a backward needs */
    BL_KEEP_BUT_Y = 2    /* the same without y, which dora wants again: n * out elements
                          * less. Leave the y of bl_forward as that call left it, where it
                          * is, until the backward has read it: a bias goes elsewhere. A
                          * magnitude that is 0 gets no gradient. As BL_KEEP_ALL without
                          * dora or where the group has dropout. */
};

/**
 * Make a tape for one adapter: what a forward leaves for its backward, and scratch.
 * An adapter may have any number: micro-batches, shared weights, checkpointing,
 * inference on several threads.
 *
 *   max_n   rows of the largest forward, 0 or more
 *   keep    bl_keep
 *
 * A tape may not outlive its adapter. Since 0.1.
 */
BL_API int  bl_tape_create(bl_tape **out, const bl_adapter *adapter, int64_t max_n,
                           int32_t keep);
BL_API void bl_tape_free(bl_tape *tape);

/**
 * Add the adapter's output to a layer's output.
 *
 *     h  = drop(x) A^T                  y += c (h * g) B^T
 *
 * With dora, where q = mag / |W|:       y  = q * (y + c (h * g) B^T)
 * and where x is dropped from, as in PEFT:
 *     u  = drop(x) W0^T                 y += (q - 1) * u + q * c (h * g) B^T
 *
 *   n      rows; 0 is fine, the pointers may then be NULL
 *   y      [n, out] accumulated, ldy >= out: x W0^T, or zero; must not overlap x. With
 *          dora it must be x W0^T, without the layer's bias: that is added afterwards
 *   x      [n, in]  read, ldx >= in; bl_backward wants the same again
 *   key    names the dropout mask, 0 or more: the mask is a function of (seed, adapter,
 *          key, element) and the same in every run; BL_NO_DROPOUT: none (evaluation)
 *
 * Returns 0; BL_E_SHAPE for a short leading dimension or more rows than the tape
 * holds; BL_E_ARG for a tape of another adapter. Since 0.1.
 */
BL_API int bl_forward(const bl_adapter *adapter, bl_tape *tape, int64_t n, void *y,
                      int64_t ldy, const void *x, int64_t ldx, int64_t key);

/**
 * Take the loss's gradient back through the adapter.
 *
 *     d   = c dy B                      dB += c dy^T (h * g)
 *     dA += (d * g)^T drop(x)           dx += drop'((d * g) A)
 *     ds += g * (dg - (g . dg) / r) / tau,    dg = column sums of d * h;  dE += dg
 *
 * With dora, |W| being a constant, all of this is with q * dy in the place of dy, and
 *     dmag += column sums of dy * t / |W|,    t = y before q,    dy := q * dy
 * so call this before your own product dx += dy W0, which then is the right one. Where x
 * was dropped from, dy stays, t = u + c (h * g) B^T, and dx += drop'(((q - 1) * dy) W0).
 *
 *   n      rows, those of the tape's forward
 *   dx     [n, in]  accumulated, lddx >= in; NULL: not wanted
 *   dy     [n, out] read, lddy >= out; rescaled with dora
 *   x      [n, in]  read, as given to the forward
 *
 * Gradients add up over calls until the next step, in the order of the calls.
 * Returns 0; BL_E_STATE when the tape holds no forward, was made with BL_KEEP_NOTHING, or
 * when parameters have changed since; BL_E_SHAPE. Since 0.1.
 */
BL_API int bl_backward(bl_adapter *adapter, bl_tape *tape, int64_t n, void *dx,
                       int64_t lddx, void *dy, int64_t lddy, const void *x, int64_t ldx);

/* ===== Optimizer ========================================================== */

/**
 * Add AdaLoRA's orthogonality penalty to the gradients, scale times that of
 *
 *     orth_reg_weight * mean of |A A^T - I| and |B^T B - I| over all adapters
 *
 * (Frobenius norms; where one is 0 its gradient is). It is a part of the loss, so call
 * this when the loss's own gradients are complete, before looking at them. bl_group_step
 * does it where nobody has, with 1 / grad_scale: only a host that clips, or whose
 * optimizer is its own, has to. Adds nothing without AdaLoRA or weight.
 *
 *   scale   finite: what the loss's gradients have been multiplied by (a loss scale, a
 *           number of replicas or micro-batches), else 1
 *
 * Returns 0; BL_E_STATE when it has been added since the last step. Since 0.1.
 */
BL_API int bl_group_add_penalty(bl_group *group, double scale);

/** The penalty, weight included, whose gradient was added last; 0: none yet. */
BL_API double bl_group_get_penalty(const bl_group *group);

/**
 * Norm of all gradients of the group, sqrt(sum of squares), summed in double: for a
 * host that clips. Gradients of frozen adapters count as zero. May be infinite or NaN.
 * Returns 0; BL_E_STATE when AdaLoRA's penalty is not in them yet.
 */
BL_API int bl_group_copy_gradient_norm(const bl_group *group, double *norm);

/**
 * One step of AdamW over the group, then a snapshot if the history is due for one.
 *
 *     G = grad_scale * gradient         t := t + 1
 *     p := p (1 - lr wd)                m := b1 m + (1 - b1) G
 *     v := b2 v + (1 - b2) G^2
 *     p := p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
 *
 * with lr times b_lr_ratio for B and times score_lr_ratio for s. With AdaLoRA G includes
 * the penalty, and an allocation follows if one is due. With dora |W| is then worked out
 * anew, which takes a product [out, in] x [in, r]. The gradients are spent: the next
 * backward starts from zero. An adapter that no backward has reached has gradient zero.
 *
 *   lr           >= 0, of this step: a schedule is the host's
 *   grad_scale   finite: 1 / replicas, 1 / loss scale, a clip factor, or their product
 *
 * Returns 0; BL_E_NONFINITE when a gradient is not finite (or its square would not
 * be): then nothing but the gradients has changed, and those are discarded;
 * BL_E_STATE with BL_OPTIMIZER_HOST. Since 0.1.
 */
BL_API int bl_group_step(bl_group *group, double lr, double grad_scale);

/** The same for an adapter in a group of its own, else BL_E_STATE. Since 0.1. */
BL_API int bl_step(bl_adapter *adapter, double lr, double grad_scale);

/** Forget the gradients gathered since the last step. Since 0.1. */
BL_API int bl_group_discard_gradients(bl_group *group);

/**
 * The host has made a step of its own optimizer, through views: t := t + 1, gradients
 * are spent, a snapshot is taken if due. With either optimizer.
 *
 * With AdaLoRA the gradients must be as the optimizer used them, for they are looked at,
 * and E is written where ranks are masked. Returns 0; BL_E_STATE, and nothing has
 * changed, when the penalty is not in them. Since 0.1.
 */
BL_API int bl_group_tick(bl_group *group);

enum bl_fresh {
    BL_FRESH_ZERO = 0, /* a fresh rank's entry starts at 0 */
    BL_FRESH_MEAN = 1  /* at the mean over the module's ranks that are not replaced */
};

/**
 * Attach an array of the host's optimizer, laid out as the parameters: snapshots,
 * reallocations and the state treat it as they treat m and v.
 *
 *   name    1..32 bytes of [a-z0-9_], unlike any attached before; not "m", "v",
 *           "sensitivity" or "uncertainty"
 *   data    [elements] accumulated by the host, aligned to 64 bytes; outlives the group
 *   fresh   bl_fresh
 *   buffer  written: its number for views; NULL: not wanted
 *
 * Returns BL_E_STATE after the first step. Since 0.1.
 */
BL_API int bl_group_attach(bl_group *group, const char *name, void *data, int32_t fresh,
                           int32_t *buffer);

/* ===== Reallocation ======================================================= */

/** 1 if the schedule has a reallocation after the step just made that is not yet done. */
BL_API int32_t bl_group_reallocate_due(const bl_group *group);
BL_API int32_t bl_reallocate_due(const bl_adapter *adapter);

/** Top-P threshold p(t) that a reallocation now would use, in (0, 1]. */
BL_API double bl_group_get_threshold(const bl_group *group);

/** Step after which the newest snapshot was taken; -1: none yet. */
BL_API int64_t bl_group_get_snapshot_step(const bl_group *group);

enum bl_action {
    BL_ACTION_HISTORY = 0, /* copy the source from the snapshot of the given age */
    BL_ACTION_CURRENT = 1, /* copy the source as it is */
    BL_ACTION_FRESH = 2,   /* start anew */
    BL_ACTION_PRUNE = 3,   /* remove */
    BL_ACTION_SKIP = 4,    /* left alone: no snapshot shows the source's present path */
    BL_ACTION_SHRINK = 5   /* give up: r is one less. `source` is the rank that moves into
                              its place, so that 0 .. r - 1 are there again; -1: none */
};

/** Make a plan with room for any reallocation of the group. It may outlive it. */
BL_API int  bl_plan_create(bl_plan **out, const bl_group *group);
BL_API void bl_plan_free(bl_plan *plan);

/**
 * Decide a reallocation after the step just made, and change nothing.
 *
 *   plan   written; on failure emptied
 *
 * Returns BL_E_STATE when ranks would come from history and no snapshot was taken yet,
 * or reallocation is off; BL_E_NONFINITE when an importance is not finite. Since 0.1.
 */
BL_API int bl_group_plan(const bl_group *group, bl_plan *plan);

/**
 * Carry a plan out. All of it is checked first: BL_E_STATE when it was made at another
 * step, its snapshot is gone or a module is frozen; BL_E_RANGE for rows out of the
 * modules' order, modules or ranks that do not exist, the same rank pruned or a source
 * twice, a module left without a rank or with more than its capacity, a group above its
 * budget. The scores' moments of all modules but frozen ones become zero, also of those
 * it leaves alone. BL_E_STATE with AdaLoRA.
 *
 * Where a module's rank changes, views of it have other rows from now on. How much its
 * output may change is in docs/global.md; new ranks by BL_ACTION_CURRENT and
 * BL_ACTION_FRESH with BL_TRANSFER_PRESERVE leave it as it was. Since 0.1.
 */
BL_API int bl_group_apply(bl_group *group, const bl_plan *plan);

/** bl_group_plan and bl_group_apply. plan: for the log, or NULL. Since 0.1. */
BL_API int bl_group_reallocate(bl_group *group, bl_plan *plan);

/** The same for an adapter in a group of its own, else BL_E_STATE. Since 0.1. */
BL_API int bl_reallocate(bl_adapter *adapter, bl_plan *plan);

/*
 * A plan by columns: `count` rows, one per rank that goes or comes, by module, then rank.
 * With BL_ACTION_HISTORY, _CURRENT and _FRESH `pruned` may be a new rank: those of a module
 * are r, r + 1 and so on, in this order. A module grows or shrinks, not both.
 */
BL_API int64_t        bl_plan_get_step(const bl_plan *plan);      /* t it was made at */
BL_API double         bl_plan_get_threshold(const bl_plan *plan); /* p(t); NaN: by hand */
BL_API int64_t        bl_plan_get_count(const bl_plan *plan);
BL_API const int64_t *bl_plan_get_modules(const bl_plan *plan);
BL_API const int64_t *bl_plan_get_pruned(const bl_plan *plan);
BL_API const int64_t *bl_plan_get_sources(const bl_plan *plan); /* -1: none */
BL_API const int32_t *bl_plan_get_actions(const bl_plan *plan); /* bl_action */
BL_API const int64_t *bl_plan_get_ages(const bl_plan *plan); /* steps; -1: no snapshot */
BL_API const double  *bl_plan_get_importances(const bl_plan *plan); /* of pruned; of a
                                                                       new rank's source */

/** Empty a plan, for building one by hand that may be applied after step t. */
BL_API int bl_plan_clear(bl_plan *plan, int64_t step);

/**
 * Add a row to a plan.
 *
 *   source   rank whose path is copied or shares its score; -1 with BL_ACTION_PRUNE,
 *            allowed with BL_ACTION_FRESH (then no score changes; a new rank's is the
 *            mean of the others); with BL_ACTION_SHRINK a rank at or after the new r
 *            where `pruned` is before it, each of those that stay once, else -1
 *   age      of the snapshot with BL_ACTION_HISTORY, one that the ring holds; else -1
 *
 * Rows go in the order of their modules. Ranks and modules are checked when the plan is
 * applied. BL_E_RANGE when it is full.
 */
BL_API int bl_plan_add(bl_plan *plan, int64_t module, int64_t pruned, int64_t source,
                       int32_t action, int64_t age);

/** Write a plan as bytes that bl_plan_load takes, so one replica can decide for all. */
BL_API int bl_plan_save(const bl_plan *plan, bl_write_fn write, void *user);

/** BL_E_FORMAT for bytes that are no plan, BL_E_RANGE for one too large; the plan is
 *  then unchanged. */
BL_API int bl_plan_load(bl_plan *plan, const void *data, size_t bytes);

/* ===== Merging and analysis =============================================== */

/**
 * Put the adapter into a weight, or take it out again.
 *
 *     merge: w += c B diag(g) A         unmerge: w -= c B diag(g) A
 *     dora:  w  = q * (w + ...)                  w  = w / q - ...,    q = mag / |W|
 *
 *   w   [out, in] accumulated, ldw >= in, of parameter_dtype. With dora it may be
 *       the W0 that the group reads only if no parameter changes until it is taken out
 *
 * Returns BL_E_NOMEM when there is no room for [r, out] scratch; bl_adapter_unmerge
 * BL_E_STATE when a magnitude is 0, for that row is lost. Since 0.1.
 */
BL_API int bl_adapter_merge(const bl_adapter *adapter, void *w, int64_t ldw);
BL_API int bl_adapter_unmerge(const bl_adapter *adapter, void *w, int64_t ldw);

/**
 * The adapter as a plain LoRA with scaling 1, as other programs load it:
 *
 *     a = c diag(g) A       b = B       w0 + b a is the merged weight
 *
 *   a   [r, in]  written, lda >= in, of parameter_dtype
 *   b   [out, r] written, ldb >= r,  of parameter_dtype
 *
 * Returns BL_E_NOMEM when there is no room for [r] scratch, and BL_E_STATE with dora:
 * rescaled rows are no plain LoRA; merge, or see bl_peft_save. Since 0.1.
 */
BL_API int bl_adapter_fold(const bl_adapter *adapter, void *a, int64_t lda, void *b,
                           int64_t ldb);

/** Importance of every rank, g [r]: mass softmax(s / tau), masked and removed ranks 0;
 *  ones with BL_METHOD_LORA; E, of either sign, with BL_METHOD_ADALORA. Since 0.1. */
BL_API int bl_adapter_copy_importance(const bl_adapter *adapter, double *g);

/** Size of every rank's share of the weight, [r]: |c g_i b_i a_i|_F = |c g_i| |b_i| |a_i|
 *  exactly, in time r (in + out); with dora before rows are rescaled. Since 0.1. */
BL_API int bl_adapter_copy_norms(const bl_adapter *adapter, double *norms);

/* ===== State ============================================================== */

/*
 * The state of a training is a list of named arrays: for each adapter its A, B, s (E),
 * mag, their moments, averages and attached arrays, its history and its flags; for the
 * group the step and the settings. A group with the same specs and options that is given
 * them goes on bit for bit, with parallel_for given in both or in neither. Arrays have
 * the rows of the present ranks, which are part of the state. Gradients are not: save
 * between steps.
 *
 * What must be equal on resume: specs (names, shapes, capacities, c; also W0, which is
 * not looked at), dtypes, method, dora, dropout, seed, optimizer and all settings of
 * schedule, budget, selection, expansion, history and AdaLoRA. What may differ: ranks, lr,
 * beta1, beta2, epsilon, weight_decay, the lr ratios, parallel_for, the allocator.
 */

/** Number of arrays. */
BL_API int64_t bl_group_get_state_count(const bl_group *group);

/** Array `index` of the state; its data is borrowed, and good until the group changes. */
BL_API int bl_group_get_state(const bl_group *group, int64_t index, bl_array *out);

/**
 * Take over a state: all arrays of bl_group_get_state, in any order; their data may be
 * unaligned.
 *
 * Returns BL_E_FORMAT for a missing, unknown or repeated name or impossible values,
 * BL_E_SHAPE, and BL_E_OPTIONS for a setting that must be equal and is not; the text
 * names it with both values. Since 0.1.
 */
BL_API int bl_group_set_state(bl_group *group, const bl_array *arrays, int64_t count);

/**
 * Write the state as one checksummed, little-endian blob, straight from the group's
 * memory. Returns BL_E_USER as soon as `write` returns non-zero. Since 0.1.
 */
BL_API int    bl_group_save(const bl_group *group, bl_write_fn write, void *user);
BL_API size_t bl_group_get_saved_bytes(const bl_group *group);

/**
 * Take over what bl_group_save wrote (a mapped file will do): checked as a whole first,
 * BL_E_FORMAT for damage, BL_E_VERSION for another version, else as bl_group_set_state.
 */
BL_API int bl_group_load(bl_group *group, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* BEAMLORA_H */
