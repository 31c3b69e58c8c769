/*
 * Random groups whose ranks move between modules, trained by gradients that are a function
 * of seed and step, and what is in them, by rank.
 */
#ifndef BEAMLORA_TEST_GLOBAL_WORLD_H
#define BEAMLORA_TEST_GLOBAL_WORLD_H

#include "check_main.h"

#define MODULES 5 /* at most, as below */
#define WIDE 12
#define RANKS 12
#define BUFFERS 3 /* parameters, and two of moments or attached arrays */

typedef struct world {
    uint64_t   seed;
    bl_options opt; /* resolved */
    int        modules;
    bl_spec    specs[MODULES];
    double     base[MODULES][WIDE * WIDE]; /* W0, in the group's dtype */
    bl_group  *group;
    bl_plan   *plan;
    int32_t    buffers[BUFFERS];
    void      *attached[2];
} world;

/* As ck_assert_msg, which writes to a file each time: too slow for every element. */
#define expect(condition, ...)                                                           \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            ck_abort_msg(__VA_ARGS__);                                                   \
        }                                                                                \
    } while (0)

/* What a module's ranks hold. */
typedef struct module_content {
    int64_t rank;
    double  mass, a[BUFFERS][RANKS][WIDE], b[BUFFERS][RANKS][WIDE], s[BUFFERS][RANKS],
        g[RANKS];
} module_content;

typedef struct content {
    module_content of[MODULES];
} content;

static inline bl_view look(bl_adapter *a, int32_t tensor, int32_t buffer)
{
    bl_view v;
    int     rc = bl_adapter_get_view(a, tensor, buffer, &v);
    expect(rc == 0, "%s", bl_last_error());
    return v;
}

/* Noise times scale plus shift. */
static inline void fill(bl_adapter *a, int32_t tensor, int32_t buffer, uint64_t seed,
                        double scale, double shift)
{
    bl_view v = look(a, tensor, buffer);
    for (int64_t i = 0; i < v.rows * v.cols; i++) {
        set_value(v.data, v.dtype, i, shift + scale * noise(seed, (uint64_t) i));
    }
}

/* Draw number *index of a seed, in [low, high]. */
static inline int64_t draw(uint64_t seed, uint64_t *index, int64_t low, int64_t high)
{
    double unit = (noise(seed + 1000003, (*index)++) + 1) / 2;
    return low + (int64_t) (unit * (double) (high - low + 1));
}

static inline bl_options draw_options(uint64_t seed, uint64_t *at)
{
    static const double ps[] = { 0.3, 0.6, 0.8, 0.9, 0.97, 1 }, caps[] = { 0.25, 0.5, 1 };
    bl_options          opt = default_options(draw(seed, at, 0, 1) ? BL_F64 : BL_F32);
    opt.scope = BL_SCOPE_GLOBAL;
    opt.seed = seed;
    opt.temperature = 0.2; /* so that g of random scores are not all of one rank */
    opt.period = draw(seed, at, 2, 4);
    opt.total_steps = 7 * opt.period;
    opt.p_curve = BL_CURVE_CONSTANT;
    opt.p_start = ps[draw(seed, at, 0, 5)];
    opt.crossing = (int32_t) draw(seed, at, 0, 1);
    opt.importance = (int32_t) draw(seed, at, 0, 2);
    opt.selection = draw(seed, at, 0, 3) == 0 ? BL_SELECT_RANDOM : BL_SELECT_LOWEST;
    opt.fixed_count = draw(seed, at, 0, 3) == 0 ? draw(seed, at, 1, 3) : 0;
    opt.max_prune_fraction = caps[draw(seed, at, 0, 2)];
    opt.idle = draw(seed, at, 0, 4) == 0 ? 0.9 : 0;
    opt.expand =
        draw(seed, at, 0, 1) ? BL_EXPAND_HISTORY : (int32_t) draw(seed, at, 0, 3);
    opt.moments = (int32_t) draw(seed, at, 0, 2);
    opt.pairing = (int32_t) draw(seed, at, 0, 1);
    opt.transfer = (int32_t) draw(seed, at, 0, 1);
    opt.history_depth = draw(seed, at, 1, 3);
    opt.history_interval = draw(seed, at, 0, 6);
    opt.history_phase = draw(seed, at, -1, 1);
    opt.history_age = draw(seed, at, -1, 9);
    opt.optimizer = draw(seed, at, 0, 2) == 0 ? BL_OPTIMIZER_HOST : BL_OPTIMIZER_ADAMW;
    opt.dora = draw(seed, at, 0, 3) == 0;
    return opt;
}

/* For opt.base_rows: base is the [out, in] doubles of a module. */
static inline void hand_rows_f32(const void *base, int64_t from, int64_t rows, int64_t in,
                                 void *out)
{
    for (int64_t i = 0; i < rows * in; i++) {
        ((float *) out)[i] = (float) ((const double *) base)[from * in + i];
    }
}

static inline void hand_rows_f64(const void *base, int64_t from, int64_t rows, int64_t in,
                                 void *out)
{
    memcpy(out, (const double *) base + from * in, (size_t) (rows * in) * sizeof(double));
}

static inline int64_t cost_of(const world *w, int module)
{
    return w->specs[module].in_features + w->specs[module].out_features + 1;
}

static inline void draw_specs(world *w, uint64_t *at)
{
    w->modules = (int) draw(w->seed, at, 1, MODULES);
    int64_t cost = 0;
    for (int m = 0; m < w->modules; m++) {
        int64_t in = draw(w->seed, at, 1, WIDE), out = draw(w->seed, at, 1, WIDE);
        int64_t rank = draw(w->seed, at, 1, 6);
        w->specs[m] = make_spec(in, out, rank);
        w->specs[m].capacity =
            draw(w->seed, at, 0, 3) == 0 ? 0 : rank + draw(w->seed, at, 0, RANKS - rank);
        w->specs[m].frozen = m > 0 && draw(w->seed, at, 0, 5) == 0;
        w->specs[m].base = w->base[m];
        w->specs[m].base_rows =
            w->opt.parameter_dtype == BL_F64 ? hand_rows_f64 : hand_rows_f32;
        for (int64_t i = 0; i < in * out; i++) {
            w->base[m][i] = (float) noise(w->seed + 77 + (uint64_t) m, (uint64_t) i);
        }
        cost += rank * cost_of(w, m);
    }
    w->opt.budget = draw(w->seed, at, 0, 1) ? 0 : cost + draw(w->seed, at, 0, cost);
}

static inline void attach_arrays(world *w)
{
    bl_view all;
    check_ok(bl_group_get_view(w->group, 0, &all));
    size_t size = ((size_t) all.cols * dtype_bytes(all.dtype) + 63) / 64 * 64;
    for (int k = 0; k < 2; k++) {
        w->attached[k] = aligned_alloc(64, size);
        ck_assert_ptr_nonnull(w->attached[k]);
        memset(w->attached[k], 0, size);
        check_ok(bl_group_attach(w->group, k ? "second" : "first", w->attached[k],
                                 k ? BL_FRESH_MEAN : BL_FRESH_ZERO, &w->buffers[1 + k]));
    }
}

/* Another group with the same settings. Specs point into the world that is written. */
static inline int open_world(world *w)
{
    w->group = NULL;
    w->plan = NULL;
    w->attached[0] = w->attached[1] = NULL;
    for (int m = 0; m < w->modules; m++) {
        w->specs[m].base = w->base[m];
    }
    int rc = bl_group_create(&w->group, w->specs, w->modules, &w->opt);
    if (rc != 0) {
        return rc;
    }
    w->opt.size = sizeof w->opt;
    check_ok(bl_group_copy_options(w->group, &w->opt));
    check_ok(bl_plan_create(&w->plan, w->group));
    w->buffers[0] = BL_BUFFER_PARAMETERS;
    w->buffers[1] = BL_BUFFER_M;
    w->buffers[2] = BL_BUFFER_V;
    if (w->opt.optimizer == BL_OPTIMIZER_HOST) {
        attach_arrays(w);
    }
    return 0;
}

static inline void close_world(world *w)
{
    bl_plan_free(w->plan);
    bl_group_free(w->group);
    free(w->attached[0]);
    free(w->attached[1]);
}

/* Random A, B and scores, so that nothing is zero or equal by chance. */
static inline void scatter(const world *w)
{
    for (int m = 0; m < w->modules; m++) {
        bl_adapter *a = bl_group_get_adapter(w->group, m);
        uint64_t    seed = w->seed * 31 + (uint64_t) m;
        fill(a, BL_TENSOR_A, 0, seed, 1, 0);
        fill(a, BL_TENSOR_B, 0, seed + 1000, 1, 0);
        fill(a, BL_TENSOR_SCORES, 0, seed + 2000, 0.2, 0);
    }
    check_ok(bl_group_touch(w->group));
}

/* 0, or 1 where these settings are refused (they would never reallocate). */
static inline int draw_world(world *w, uint64_t seed)
{
    uint64_t at = 0;
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->opt = draw_options(seed, &at);
    draw_specs(w, &at);
    int rc = open_world(w);
    ck_assert_msg(rc == 0 || rc == BL_E_OPTIONS, "seed %d: %s", (int) seed,
                  bl_last_error());
    if (rc == 0) {
        scatter(w);
    }
    return rc != 0;
}

/* The host's optimizer: p -= lr g, and two arrays that are anything. */
static inline void host_step(const world *w, bl_adapter *a, uint64_t seed)
{
    for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
        bl_view p = look(a, tensor, BL_BUFFER_PARAMETERS);
        bl_view g = look(a, tensor, BL_BUFFER_GRADIENTS);
        for (int64_t i = 0; i < p.rows * p.cols; i++) {
            double value = get_value(p.data, p.dtype, i);
            set_value(p.data, p.dtype, i, value - 0.05 * get_value(g.data, g.dtype, i));
        }
        fill(a, tensor, w->buffers[1], seed + 7 + (uint64_t) tensor, 1, 0);
        fill(a, tensor, w->buffers[2], seed + 17 + (uint64_t) tensor, 1, 2);
    }
}

/* One step, a function of the state and the seed. */
static inline void step_world(const world *w)
{
    int64_t t = bl_group_get_step(w->group);
    for (int m = 0; m < w->modules; m++) {
        bl_adapter *a = bl_group_get_adapter(w->group, m);
        uint64_t    seed = w->seed * 1009 + (uint64_t) (t * 64 + m);
        if (w->specs[m].frozen) {
            continue;
        }
        for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_SCORES; tensor++) {
            fill(a, tensor, BL_BUFFER_GRADIENTS, seed + 100 * (uint64_t) tensor, 1, 0);
        }
        if (w->opt.optimizer == BL_OPTIMIZER_HOST) {
            host_step(w, a, seed);
        }
    }
    check_ok(w->opt.optimizer == BL_OPTIMIZER_HOST ? bl_group_tick(w->group)
                                                   : bl_group_step(w->group, 0.05, 1));
}

static inline content take(const world *w)
{
    content c;
    for (int m = 0; m < w->modules; m++) {
        module_content *to = &c.of[m];
        bl_adapter     *a = bl_group_get_adapter(w->group, m);
        to->rank = bl_adapter_get_rank(a);
        to->mass = bl_adapter_get_mass(a);
        bl_adapter_copy_importance(a, to->g);
        for (int k = 0; k < BUFFERS; k++) {
            bl_view va = look(a, BL_TENSOR_A, w->buffers[k]);
            bl_view vb = look(a, BL_TENSOR_B, w->buffers[k]);
            bl_view vs = look(a, BL_TENSOR_SCORES, w->buffers[k]);
            expect(va.rows == to->rank && vb.rows == to->rank && vs.cols == to->rank,
                   "a view has not %d ranks", (int) to->rank);
            for (int64_t i = 0; i < to->rank; i++) {
                for (int64_t j = 0; j < va.cols; j++) {
                    to->a[k][i][j] = get_value(va.data, va.dtype, i * va.ld + j);
                }
                for (int64_t j = 0; j < vb.cols; j++) {
                    to->b[k][i][j] = get_value(vb.data, vb.dtype, i * vb.ld + j);
                }
                to->s[k][i] = get_value(vs.data, vs.dtype, i);
            }
        }
    }
    return c;
}

#endif
