/*
 * Save in the middle of a training, load into a fresh group, go on with both: the two
 * end with the same bits, with dropout and reallocations in between.
 */
#include <beamlora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 32, WIDTH = 24, STEPS = 120, HALF = 50 };

static float x[N * WIDTH], want[N * WIDTH], y[N * WIDTH], dy[N * WIDTH];

static void check(int code)
{
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", bl_strerror(code), bl_last_error());
        exit(1);
    }
}

static float draw(void) /* in [-1, 1) */
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / 8388608.0f - 1.0f;
}

static bl_group *create_group(void)
{
    bl_options opt;
    bl_spec    spec = { 0 };
    bl_group  *group;

    spec.size = sizeof spec;
    spec.in_features = spec.out_features = WIDTH;
    check(bl_options_init(&opt, sizeof opt));
    opt.dropout = 0.1;
    opt.seed = 42;
    opt.total_steps = STEPS;
    check(bl_group_create(&group, &spec, 1, &opt));
    return group;
}

/* Train until `until` steps are made. The step is in the state, and names the dropout
 * mask, so nothing has to be remembered beside the group. */
static void train(bl_group *group, int64_t until)
{
    bl_adapter *adapter = bl_group_get_adapter(group, 0);
    bl_tape    *tape;

    check(bl_tape_create(&tape, adapter, N, BL_KEEP_ALL));
    while (bl_group_get_step(group) < until) {
        memset(y, 0, sizeof y);
        check(bl_forward(adapter, tape, N, y, WIDTH, x, WIDTH, bl_group_get_step(group)));
        for (int i = 0; i < N * WIDTH; i++) {
            dy[i] = (y[i] - want[i]) / N;
        }
        check(bl_backward(adapter, tape, N, NULL, 0, dy, WIDTH, x, WIDTH));
        check(bl_group_step(group, 0.01, 1));
        if (bl_group_reallocate_due(group)) {
            check(bl_group_reallocate(group, NULL));
        }
    }
    bl_tape_free(tape);
}

/* user is the file; anything but 0 stops the writing. */
static int write_to_file(void *user, const void *data, size_t bytes)
{
    return fwrite(data, 1, bytes, (FILE *) user) != bytes;
}

static void save(const bl_group *group, FILE *file)
{
    check(bl_group_save(group, write_to_file, file));
    if (fflush(file) != 0) {
        perror("saving");
        exit(1);
    }
}

static void load(bl_group *group, FILE *file)
{
    size_t bytes = bl_group_get_saved_bytes(group);
    void  *data = malloc(bytes);

    rewind(file);
    if (data == NULL || fread(data, 1, bytes, file) != bytes) {
        perror("loading");
        exit(1);
    }
    check(bl_group_load(group, data, bytes));
    free(data);
}

static int equal(const bl_group *a, const bl_group *b)
{
    for (int64_t i = 0; i < bl_group_get_state_count(a); i++) {
        bl_array p, q;

        check(bl_group_get_state(a, i, &p));
        check(bl_group_get_state(b, i, &q));

        size_t element = p.dtype == BL_U8 ? 1 : p.dtype == BL_F32 ? 4 : 8;
        size_t count = (size_t) p.shape[0] * (size_t) (p.dims == 2 ? p.shape[1] : 1);

        if (memcmp(p.data, q.data, count * element) != 0) {
            printf("%s differs\n", p.name);
            return 0;
        }
    }
    return 1;
}

int main(void)
{
    for (int i = 0; i < N * WIDTH; i++) {
        x[i] = draw();
        want[i] = draw();
    }

    FILE     *file = tmpfile();
    bl_group *whole = create_group(), *resumed = create_group();

    if (file == NULL) {
        perror("temporary file");
        return 1;
    }
    train(whole, HALF);
    save(whole, file);
    train(whole, STEPS);

    load(resumed, file);
    train(resumed, STEPS);

    int same = equal(whole, resumed);

    printf("%zu bytes saved at step %d; at step %d the two are %s\n",
           bl_group_get_saved_bytes(whole), HALF, STEPS, same ? "equal" : "different");
    fclose(file);
    bl_group_free(resumed);
    bl_group_free(whole);
    return same ? 0 : 1;
}
