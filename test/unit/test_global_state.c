/*
 * Ranks that move and the state: runs that are interrupted anywhere go on bit for bit in a
 * group that still has the ranks of creation; states that are refused leave ranks alone.
 * Also which groups are refused at creation, and what memory they take.
 */
#include "global_world.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WORLDS 4
#else
#define WORLDS 16
#endif
#define LOOPS 6
#define MOST_STEPS 32

static void play(const world *w)
{
    step_world(w);
    if (bl_group_reallocate_due(w->group)) {
        check_ok(bl_group_reallocate(w->group, NULL));
    }
}

/* Whether any module has another rank than at creation. */
static int has_moved(const world *w)
{
    for (int m = 0; m < w->modules; m++) {
        if (bl_adapter_get_rank(bl_group_get_adapter(w->group, m)) != w->specs[m].rank) {
            return 1;
        }
    }
    return 0;
}

static bl_array *list_arrays(const bl_group *group, int64_t *count)
{
    *count = bl_group_get_state_count(group);
    bl_array *arrays = must_alloc(*count, sizeof *arrays);
    for (int64_t i = 0; i < *count; i++) {
        check_ok(bl_group_get_state(group, i, &arrays[i]));
    }
    return arrays;
}

/* ----- resumed ----- */

static void resume_at(const world *whole, const bytes *at, int64_t t)
{
    static world part, other;
    part = other = *whole;
    check_ok(open_world(&part));
    for (int64_t k = 0; k < t % 4 * 3; k++) { /* into one that has been elsewhere */
        play(&part);
    }
    if (t % 2) {
        check_ok(bl_group_load(part.group, at[t].data, at[t].size));
    } else {
        int64_t count;
        check_ok(open_world(&other));
        check_ok(bl_group_load(other.group, at[t].data, at[t].size));
        bl_array *arrays = list_arrays(other.group, &count);
        check_ok(bl_group_set_state(part.group, arrays, count));
        free(arrays);
        close_world(&other);
    }
    for (int64_t k = t; k <= whole->opt.total_steps; k++) {
        bytes now = save_group(part.group);
        ck_assert_msg(bytes_equal(&now, &at[k]), "seed %d from step %d: differs at %d",
                      (int) whole->seed, (int) t, (int) k);
        bytes_free(&now);
        if (k < whole->opt.total_steps) {
            play(&part);
        }
    }
    close_world(&part);
}

START_TEST(resume)
{
    static world whole;
    int64_t      moved = 0;
    for (uint64_t seed = (uint64_t) _i * WORLDS; seed < (uint64_t) (_i + 1) * WORLDS;
         seed++) {
        bytes at[MOST_STEPS];
        if (draw_world(&whole, seed + 2000000)) {
            continue;
        }
        ck_assert_int_lt(whole.opt.total_steps, MOST_STEPS);
        for (int64_t t = 0; t < whole.opt.total_steps; t++) {
            at[t] = save_group(whole.group);
            ck_assert_uint_eq(at[t].size, bl_group_get_saved_bytes(whole.group));
            play(&whole);
        }
        at[whole.opt.total_steps] = save_group(whole.group);
        moved += has_moved(&whole);
        for (int64_t t = 0; t <= whole.opt.total_steps; t++) {
            resume_at(&whole, at, t);
        }
        for (int64_t t = 0; t <= whole.opt.total_steps; t++) {
            bytes_free(&at[t]);
        }
        close_world(&whole);
    }
    ck_assert_int_gt(moved, 0);
}
END_TEST

/* A rank that was given up and comes back has no past, in any run that was resumed. */
START_TEST(no_past)
{
    world      w[2];
    bl_options opt = default_options(BL_F64);
    memset(w, 0, sizeof w);
    opt.scope = BL_SCOPE_GLOBAL;
    opt.period = 4;
    opt.total_steps = 40;
    w[0].modules = 1;
    w[0].specs[0] = make_spec(3, 4, 4);
    w[0].opt = opt;
    w[1] = w[0];
    check_ok(open_world(&w[0]));
    check_ok(open_world(&w[1]));
    scatter(&w[0]);
    for (int t = 0; t < 4; t++) { /* a snapshot after step 3 */
        step_world(&w[0]);
    }
    check_ok(bl_plan_clear(w[0].plan, 4));
    check_ok(bl_plan_add(w[0].plan, 0, 3, -1, BL_ACTION_SHRINK, -1));
    check_ok(bl_group_apply(w[0].group, w[0].plan));
    bytes state = save_group(w[0].group), after[2];
    check_ok(bl_group_load(w[1].group, state.data, state.size));
    for (int k = 0; k < 2; k++) {
        check_ok(bl_plan_clear(w[k].plan, 4));
        check_ok(bl_plan_add(w[k].plan, 0, 3, 0, BL_ACTION_CURRENT, -1));
        check_ok(bl_group_apply(w[k].group, w[k].plan));
        after[k] = save_group(w[k].group);
    }
    ck_assert(bytes_equal(&after[0], &after[1]));
    bytes_free(&state);
    bytes_free(&after[0]);
    bytes_free(&after[1]);
    close_world(&w[0]);
    close_world(&w[1]);
}
END_TEST

/* ----- refused ----- */

/* A group whose ranks have moved, and one that still has those of creation. */
static void open_two(world *from, world *to)
{
    for (uint64_t seed = 3000000;; seed++) {
        if (draw_world(from, seed)) {
            continue;
        }
        while (bl_group_get_step(from->group) < from->opt.total_steps) {
            play(from);
        }
        if (has_moved(from) && from->modules > 2 &&
            from->opt.expand == BL_EXPAND_HISTORY) {
            break;
        }
        close_world(from);
    }
    *to = *from;
    check_ok(open_world(to));
    play(to);
}

static void check_refused(const world *to, const bl_array *arrays, int64_t count,
                          int code, const char *name)
{
    bytes before = save_group(to->group);
    int   rc = bl_group_set_state(to->group, arrays, count);
    ck_assert_msg(code == 0 ? rc < 0 : rc == code, "%s: %d (%s)", name, rc,
                  rc < 0 ? bl_last_error() : "ok");
    bytes after = save_group(to->group);
    ck_assert_msg(bytes_equal(&before, &after), "%s: something has changed", name);
    for (int m = 0; m < to->modules; m++) {
        ck_assert_int_eq(bl_adapter_get_rank(bl_group_get_adapter(to->group, m)),
                         to->specs[m].rank);
    }
    bytes_free(&before);
    bytes_free(&after);
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Every array damaged in turn; those of ranks and mass in every way. */
START_TEST(refused)
{
    static world from, to;
    int64_t      count;
    open_two(&from, &to);
    bl_array *arrays = list_arrays(from.group, &count);
    for (int64_t i = 0; i < count; i++) {
        bl_array kept = arrays[i];
        arrays[i].shape[0]++;
        check_refused(&to, arrays, count, BL_E_SHAPE, kept.name);
        arrays[i] = kept;
        arrays[i].dtype = kept.dtype == BL_U8 ? BL_I64 : BL_U8;
        check_refused(&to, arrays, count, BL_E_SHAPE, kept.name);
        arrays[i] = kept;
        arrays[i].name[0] = '!';
        check_refused(&to, arrays, count, BL_E_FORMAT, kept.name);
        arrays[i] = kept;
        arrays[i] = arrays[(i + 1) % count];
        check_refused(&to, arrays, count, BL_E_FORMAT, kept.name);
        arrays[i] = kept;
        if (ends_with(kept.name, ".rank")) {
            int64_t r[2], rank = ((const int64_t *) kept.data)[0];
            int64_t capacity = ((const int64_t *) kept.data)[1];
            arrays[i].data = r;
            for (int k = 0; k < 7; k++) {
                const int64_t ranks[] = { rank + 1,     rank - 1,  0,   -1,
                                          capacity + 1, INT64_MAX, rank };
                r[0] = ranks[k];
                r[1] = capacity + (k == 6);
                int code = k == 6 ? BL_E_OPTIONS : k > 1 ? BL_E_FORMAT : 0;
                check_refused(&to, arrays, count, code, kept.name);
            }
        }
        if (ends_with(kept.name, ".mass")) {
            double values[] = { (double) NAN, 0, -1, (double) INFINITY };
            for (int k = 0; k < 4; k++) {
                arrays[i].data = &values[k];
                check_refused(&to, arrays, count, BL_E_FORMAT, kept.name);
            }
        }
        arrays[i] = kept;
    }
    check_ok(bl_group_set_state(to.group, arrays, count)); /* unspoilt it is taken */
    bytes want = save_group(from.group), got = save_group(to.group);
    ck_assert(bytes_equal(&want, &got));
    bytes_free(&want);
    bytes_free(&got);
    free(arrays);
    close_world(&from);
    close_world(&to);
}
END_TEST

/* The settings of one group with the ranks of another, which cost more. */
START_TEST(refused_budget)
{
    bl_group *groups[2];
    bl_plan  *plan = NULL;
    int64_t   count;
    for (int k = 0; k < 2; k++) {
        bl_options opt = default_options(BL_F64);
        bl_spec    spec = make_spec(3, 4, 2);
        opt.scope = BL_SCOPE_GLOBAL;
        opt.budget = (3 - k) * 8;
        check_ok(bl_group_create(&groups[k], &spec, 1, &opt));
    }
    check_ok(bl_plan_create(&plan, groups[0]));
    check_ok(bl_plan_clear(plan, 0));
    check_ok(bl_plan_add(plan, 0, 2, 0, BL_ACTION_CURRENT, -1));
    check_ok(bl_group_apply(groups[0], plan));
    bytes big = save_group(groups[0]), before = save_group(groups[1]);
    check_fails(bl_group_load(groups[1], big.data, big.size), BL_E_OPTIONS);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "budget is 24 in the state, 16"));
    bl_array *arrays = list_arrays(groups[0], &count), own;
    for (int64_t i = 0; i < count; i++) {
        check_ok(bl_group_get_state(groups[1], i, &own));
        if (strcmp(own.name, "group.settings") == 0) {
            arrays[i].data = own.data;
        }
    }
    check_fails(bl_group_set_state(groups[1], arrays, count), BL_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "ranks cost 24 in the state"));
    bytes after = save_group(groups[1]);
    ck_assert(bytes_equal(&before, &after));
    bytes_free(&big);
    bytes_free(&before);
    bytes_free(&after);
    free(arrays);
    bl_plan_free(plan);
    bl_group_free(groups[0]);
    bl_group_free(groups[1]);
}
END_TEST

/* ----- creation ----- */

START_TEST(creation)
{
    enum { COST = 4 * (5 + 6 + 1) };
    static const struct {
        int64_t     rank, capacity, budget;
        double      p;
        int32_t     expand, method;
        int         code;
        const char *text;
    } cases[] = {
        { 4, 0, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, 0, "" },
        { 4, 4, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, 0, "" },
        { 4, 3, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_RANGE,
          "capacity is 3, must be in [4, " },
        { 4, 8, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_ADALORA, BL_E_RANGE,
          "capacity is 8, must be in [4, 4]" },
        { 4, 4, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_ADALORA, 0, "" },
        { 4, 8, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_LORA, 0, "" },
        { 4, 8, COST, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, 0, "" },
        { 4, 8, COST - 1, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_OPTIONS,
          "budget is 47, must be at least what the ranks cost at first (48)" },
        { 4, 8, -1, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_RANGE,
          "budget is -1" },
        { 4, -1, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_RANGE,
          "capacity is" },
        /* p = 1: only with slack that a rank can use */
        { 4, 8, 0, 1, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_OPTIONS, "p is 1 at" },
        { 4, 8, COST + 12, 1, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, 0, "" },
        { 4, 8, COST + 11, 1, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_OPTIONS,
          "p is 1" },
        { 4, 4, COST + 12, 1, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_OPTIONS,
          "p is 1" },
        { 4, 8, COST + 12, 1, BL_EXPAND_NONE, BL_METHOD_BEAMLORA, BL_E_OPTIONS,
          "p is 1" },
        /* the only rank cannot go, but there may be room for another */
        { 1, 2, 0, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, BL_E_OPTIONS,
          "or the only" },
        { 1, 2, COST, 0.9, BL_EXPAND_HISTORY, BL_METHOD_BEAMLORA, 0, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_options opt = default_options(BL_F32);
        bl_spec    spec = make_spec(5, 6, cases[i].rank);
        bl_group  *group = NULL;
        bl_memory  memory = { .size = sizeof memory };
        opt.scope = BL_SCOPE_GLOBAL;
        opt.method = cases[i].method;
        opt.expand = cases[i].expand;
        opt.budget = cases[i].budget;
        opt.p_start = cases[i].p;
        opt.target_rank = 2;
        spec.capacity = cases[i].capacity;
        int rc = bl_group_create(&group, &spec, 1, &opt);
        ck_assert_msg(rc == cases[i].code, "case %d: %d (%s)", (int) i, rc,
                      rc < 0 ? bl_last_error() : "ok");
        ck_assert_msg(rc == 0 || strstr(bl_last_error(), cases[i].text) != NULL,
                      "case %d: \"%s\"", (int) i, bl_last_error());
        ck_assert_int_eq(bl_memory_query(&spec, 1, &opt, 4, &memory), rc);
        bl_group_free(group);
    }
}
END_TEST

/* By default a module has room for twice its rank, where ranks move; an option's capacity
 * is one for all. */
START_TEST(capacities)
{
    static const struct {
        int32_t scope;
        int64_t option, spec, want;
    } cases[] = {
        { BL_SCOPE_GLOBAL, 0, 0, 12 }, { BL_SCOPE_MODULE, 0, 0, 6 },
        { BL_SCOPE_JOINT, 0, 0, 6 },   { BL_SCOPE_GLOBAL, 9, 0, 9 },
        { BL_SCOPE_GLOBAL, 9, 7, 7 },  { BL_SCOPE_MODULE, 0, 8, 8 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_options opt = default_options(BL_F32);
        bl_spec    spec = make_spec(5, 6, 6);
        bl_group  *group = NULL;
        opt.scope = cases[i].scope;
        opt.capacity = cases[i].option;
        spec.capacity = cases[i].spec;
        check_ok(bl_group_create(&group, &spec, 1, &opt));
        const bl_adapter *a = bl_group_get_adapter(group, 0);
        ck_assert_int_eq(bl_adapter_get_capacity(a), cases[i].want);
        ck_assert_int_eq(bl_adapter_get_rank(a), 6);
        check_near(bl_adapter_get_mass(a), 6, 0);
        ck_assert_int_eq(bl_group_get_cost(group), 6 * 12);
        opt.size = sizeof opt;
        check_ok(bl_group_copy_options(group, &opt));
        ck_assert_int_eq(opt.budget, cases[i].scope == BL_SCOPE_GLOBAL ? 6 * 12 : 0);
        bl_group_free(group);
    }
}
END_TEST

/* ----- memory ----- */

typedef struct heap {
    size_t  live;
    int64_t calls;
} heap;

static void *heap_alloc(void *user, size_t size)
{
    heap   *h = user;
    size_t *p = malloc(size + 64);
    ck_assert_ptr_nonnull(p);
    *p = size;
    h->live += size;
    h->calls++;
    return (char *) p + 64;
}

static void heap_free(void *user, void *pointer)
{
    heap *h = user;
    if (pointer != NULL) {
        size_t *p = (size_t *) (void *) ((char *) pointer - 64);
        h->live -= *p;
        free(p);
    }
}

/* The query tells what is taken, room included; growing takes nothing more. */
START_TEST(memory)
{
    for (uint64_t seed = 4000000; seed < 4000040; seed++) {
        static world w;
        heap         h = { 0, 0 };
        uint64_t     at = 0;
        bl_tape     *tapes[MODULES];
        bl_memory    needed = { .size = sizeof needed };
        memset(&w, 0, sizeof w);
        w.seed = seed;
        w.opt = draw_options(seed, &at);
        w.opt.optimizer = BL_OPTIMIZER_ADAMW; /* attached arrays come on top */
        w.opt.alloc = heap_alloc;
        w.opt.free = heap_free;
        w.opt.alloc_user = &h;
        draw_specs(&w, &at);
        if (bl_memory_query(w.specs, w.modules, &w.opt, 9, &needed) != 0) {
            continue;
        }
        check_ok(open_world(&w));
        bl_plan_free(w.plan);
        w.plan = NULL;
        for (int m = 0; m < w.modules; m++) {
            check_ok(bl_tape_create(&tapes[m], bl_group_get_adapter(w.group, m), 9, 1));
        }
        ck_assert_uint_eq(h.live, needed.total);
        int64_t calls = h.calls;
        scatter(&w);
        while (bl_group_get_step(w.group) < w.opt.total_steps) {
            play(&w);
        }
        ck_assert_int_eq(h.calls, calls);
        ck_assert_uint_eq(h.live, needed.total);
        for (int m = 0; m < w.modules; m++) {
            double x[9 * WIDE] = { 0 }, y[9 * WIDE] = { 0 };
            check_ok(bl_forward(bl_group_get_adapter(w.group, m), tapes[m], 9, y, WIDE, x,
                                WIDE, BL_NO_DROPOUT));
            bl_tape_free(tapes[m]);
        }
        close_world(&w);
        ck_assert_uint_eq(h.live, 0);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("global_state");
    TCase *resumed = tcase_create("resumed");
    tcase_add_loop_test(resumed, resume, 0, LOOPS);
    tcase_add_test(resumed, no_past);
    tcase_set_timeout(resumed, 240);
    suite_add_tcase(suite, resumed);
    TCase *refuse = tcase_create("refused");
    tcase_add_test(refuse, refused);
    tcase_add_test(refuse, refused_budget);
    tcase_set_timeout(refuse, 120);
    suite_add_tcase(suite, refuse);
    TCase *made = tcase_create("creation");
    tcase_add_test(made, creation);
    tcase_add_test(made, capacities);
    tcase_add_test(made, memory);
    suite_add_tcase(suite, made);
    return suite;
}
