/*
 * Inputs for the targets that read what the library itself has written: state, blob,
 * checkpoint and plan.
 *
 *     fuzz_seeds DIR      writes DIR/state/..., DIR/blob/..., and so on
 *
 * They are made anew with every build, from arrays by their names, so that they reach as
 * deep after a change of what a state holds as before it. Each is a good file with one
 * thing in it changed.
 */
#define _POSIX_C_SOURCE 200809L

#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "beamlora_io.h"
#include "fuzz_training.h"

enum { SEED_MOST = 1 << 14, STEPS = 6 };

static const char *folder;

static void write_seed(const char *target, const char *what, int variant, const char *of,
                       const void *data, size_t size)
{
    char  path[1024];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s/%s_%d_%s", folder, target, what, variant, of);
    file = fopen(path, "wb");
    fuzz_check(file != NULL && fwrite(data, 1, size, file) == size);
    fuzz_check(fclose(file) == 0);
}

/* Is there an array of this name in an earlier variant's group, or is it the second
 * adapter's? One seed of each kind is enough. */
static int is_old(int variant, const char *name)
{
    int found = strncmp(name, "layers.", 7) == 0;

    for (int v = 0; v < variant && v < FUZZ_VARIANTS && !found; v++) {
        bl_group *group = fuzz_group(v);
        bl_array  array;

        for (int64_t i = 0; i < bl_group_get_state_count(group) && !found; i++) {
            fuzz_check(bl_group_get_state(group, i, &array) == 0);
            found = strcmp(array.name, name) == 0;
        }
        bl_group_free(group);
    }
    return found;
}

/* ===== state: a change is kind, array, and what the kind takes ============ */

static void seed_states(int variant)
{
    bl_group *group = fuzz_group(variant);

    fuzz_train(group, STEPS);
    write_seed("state", "whole", variant, "", (uint8_t[]){ (uint8_t) variant }, 1);
    for (int64_t i = 0; i < bl_group_get_state_count(group); i++) {
        const uint8_t v = (uint8_t) variant, at = (uint8_t) i;
        bl_array      array;

        fuzz_check(bl_group_get_state(group, i, &array) == 0);
        if (is_old(variant, array.name)) {
            continue;
        }
        write_seed("state", "negative", variant, array.name,
                   (uint8_t[]){ v, 0, at, 0, 200 }, 5);
        write_seed("state", "missing", variant, array.name, (uint8_t[]){ v, 7, at }, 3);
        write_seed("state", "shape", variant, array.name,
                   (uint8_t[]){ v, 2, at, 0, (uint8_t) (array.shape[0] + 1) }, 5);
        write_seed("state", "dims", variant, array.name,
                   (uint8_t[]){ v, 3, at, (uint8_t) (3 - array.dims) }, 4);
        write_seed("state", "dtype", variant, array.name,
                   (uint8_t[]){ v, 4, at, (uint8_t) (1 - array.dtype % 2) }, 4);
        write_seed("state", "name", variant, array.name, (uint8_t[]){ v, 5, at, 0, 'A' },
                   5);
        write_seed("state", "swapped", variant, array.name,
                   (uint8_t[]){ v, 6, at, (uint8_t) (at + 1) }, 4);
        /* every setting out of its range */
        for (int64_t k = 0;
             strcmp(array.name, "group.settings") == 0 && k < array.shape[0]; k++) {
            char of[32];

            snprintf(of, sizeof of, "setting_%02d", (int) k);
            write_seed("state", "negative", variant, of,
                       (uint8_t[]){ v, 0, at, (uint8_t) k, 200 }, 5);
        }
    }
    bl_group_free(group);
}

/* ===== Edits of a file, as fuzz_edit takes them =========================== */

enum { OVERWRITE = 0, INSERT = 2, DELETE = 3 };

/* A seed of the variant with one edit, `count` bytes at a byte's place. */
static void seed_edit(const char *target, const char *what, int variant, const char *of,
                      int kind, size_t place, const void *bytes, size_t count)
{
    uint8_t seed[64] = { (uint8_t) variant, (uint8_t) kind, (uint8_t) place,
                         (uint8_t) (place >> 8), (uint8_t) count };

    fuzz_check(place < 1 << 16 && count < 32);
    if (kind != DELETE) {
        memcpy(seed + 5, bytes, count);
    }
    write_seed(target, what, variant, of, seed, kind == DELETE ? 5 : 5 + count);
}

/* Where the text is, behind `from`. */
static size_t place_of(const uint8_t *data, size_t size, size_t from, const char *text)
{
    size_t length = strlen(text);

    for (; from + length <= size; from++) {
        if (memcmp(data + from, text, length) == 0) {
            return from;
        }
    }
    fuzz_check(!"the text is in the file");
    return 0;
}

static const uint8_t all_ones[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };

/* ===== blob: an edit, with the checksum put right behind it =============== */

static void seed_blobs(int variant)
{
    enum {
        DESCRIPTOR = BL_NAME_MAX + 24, /* as in lib/blob.c */
        AS_IT_IS = 15 * FUZZ_VARIANTS  /* added: the checksum is left alone */
    };

    bl_group *group = fuzz_group(variant);
    size_t    size, at;
    uint8_t  *data;

    fuzz_check(AS_IT_IS >= 128 && AS_IT_IS + variant < 256);
    fuzz_train(group, STEPS);
    data = fuzz_save(group, &size);
    write_seed("blob", "whole", variant, "", (uint8_t[]){ (uint8_t) variant }, 1);
    seed_edit("blob", "other", variant, "version", OVERWRITE, 8, all_ones, 8);
    seed_edit("blob", "other", variant, "count", OVERWRITE, 16, all_ones, 8);
    seed_edit("blob", "bad", variant + AS_IT_IS, "checksum", OVERWRITE, size - 8,
              all_ones, 8);
    for (int64_t i = 0; i < bl_group_get_state_count(group); i++) {
        bl_array array;

        fuzz_check(bl_group_get_state(group, i, &array) == 0);
        at = place_of(data, size, 24, array.name);
        if (is_old(variant, array.name)) {
            continue;
        }
        seed_edit("blob", "data", variant, array.name, OVERWRITE, at + DESCRIPTOR,
                  all_ones, 8);
        seed_edit("blob", "name", variant, array.name, OVERWRITE, at, "\033[2J", 4);
        for (size_t word = 0; word < 3; word++) { /* extents, dims and dtype */
            char what[] = "head0";

            what[4] = (char) ('0' + word);
            seed_edit("blob", what, variant, array.name, OVERWRITE,
                      at + BL_NAME_MAX + 8 * word, all_ones, 8);
        }
        seed_edit("blob", "deleted", variant, array.name, DELETE, at, NULL, 8);
        seed_edit("blob", "inserted", variant, array.name, INSERT, at, all_ones, 8);
    }
    free(data);
    bl_group_free(group);
}

/* ===== checkpoint ========================================================= */

static json_t *header_of(const uint8_t *data)
{
    uint64_t n;
    json_t  *header;

    memcpy(&n, data, sizeof n);
    header = json_loadb((const char *) data + 8, (size_t) n, 0, NULL);
    fuzz_check(header != NULL);
    return header;
}

/* The metadata as lines, see fuzz_safetensors: `key` with another value, or NULL: without
 * it; and a tensor that no training has. */
static void seed_metadata(int variant, json_t *header, const char *key, const char *what,
                          const char *value, const char *tensor)
{
    char        text[SEED_MOST] = { (char) (uint8_t) (130 + variant) };
    size_t      used = 1;
    const char *name;
    json_t     *old;

    fuzz_check(130 % FUZZ_TRAININGS == 0);
    json_object_foreach(json_object_get(header, "__metadata__"), name, old)
    {
        const char *now = strcmp(name, key) == 0 ? value : json_string_value(old);

        if (now != NULL) {
            used +=
                (size_t) snprintf(text + used, sizeof text - used, "#%s %s\n", name, now);
        }
    }
    used += (size_t) snprintf(text + used, sizeof text - used, "%s", tensor);
    fuzz_check(used < sizeof text);
    write_seed("checkpoint", what, variant, key, text, used);
}

static void seed_checkpoints(int variant)
{
    size_t          size;
    uint8_t        *data = fuzz_checkpoint(variant, &size);
    json_t         *header = header_of(data), *value;
    bl_safetensors *file;
    const char     *key;

    fuzz_check(bl_safetensors_open_memory(&file, data, size) == 0);
    write_seed("checkpoint", "whole", variant, "", (uint8_t[]){ (uint8_t) variant }, 1);
    seed_edit("checkpoint", "cut", variant, "", DELETE, size - 8, NULL, 8);
    for (int64_t i = 0; i < bl_safetensors_get_count(file); i++) {
        bl_tensor_info info;
        char           entry[256];
        size_t         place;

        fuzz_check(bl_safetensors_get_tensor(file, i, &info) == 0);
        if (is_old(variant, info.name)) {
            continue;
        }
        place = (size_t) ((const uint8_t *) info.data - data);
        seed_edit("checkpoint", "data", variant, info.name, OVERWRITE, place, all_ones,
                  info.bytes < 8 ? info.bytes : 8);
        snprintf(entry, sizeof entry, "\"%s\":", info.name);
        place = place_of(data, size, 8, entry) + 1;
        seed_edit("checkpoint", "name", variant, info.name, OVERWRITE, place, "X", 1);
        snprintf(entry, sizeof entry, "\"dtype\":\"%s\"", info.dtype_name);
        place = place_of(data, size, place, entry) + 9;
        seed_edit("checkpoint", "dtype", variant, info.name, OVERWRITE, place,
                  info.dtype_name[0] == 'I'   ? "F"
                  : info.dtype_name[0] == 'F' ? "I"
                                              : "X",
                  1);
        place = place_of(data, size, place, "\"shape\":[") + 9;
        seed_edit("checkpoint", "shape", variant, info.name, INSERT, place, "1,", 2);
    }
    json_object_foreach(json_object_get(header, "__metadata__"), key, value)
    {
        if (variant > 0 && variant < FUZZ_VARIANTS) {
            break; /* the same in every group's */
        }
        seed_metadata(variant, header, key, "absent", NULL, "");
        seed_metadata(variant, header, key, "negative", "-1", "");
        seed_metadata(variant, header, key, "letters", "two", "");
    }
    seed_metadata(variant, header, "", "foreign", NULL, "a\\u001bb F32 1\n");
    bl_safetensors_close(file);
    json_decref(header);
    free(data);
}

/* ===== plan: the variant, steps, and the plan's bytes ===================== */

struct sink {
    uint8_t data[SEED_MOST];
    size_t  used;
};

static int keep(void *user, const void *data, size_t bytes)
{
    struct sink *sink = user;

    fuzz_check(bytes <= sizeof sink->data - sink->used);
    memcpy(sink->data + sink->used, data, bytes);
    sink->used += bytes;
    return 0;
}

/* The plan that a group makes after some steps, if it makes any. */
static void seed_plans(int variant)
{
    bl_group   *group = fuzz_group(variant);
    struct sink sink = { { (uint8_t) variant, 11 }, 2 };
    bl_plan    *plan;

    fuzz_train(group, 11);
    fuzz_check(bl_plan_create(&plan, group) == 0);
    if (bl_group_plan(group, plan) == 0 && bl_plan_get_count(plan) > 0) {
        fuzz_check(bl_plan_save(plan, keep, &sink) == 0);
        write_seed("plan", "whole", variant, "", sink.data, sink.used);
        for (size_t at = 2; at < sink.used; at += 8) {
            uint8_t old[8];
            char    of[32];

            snprintf(of, sizeof of, "word_%02d", (int) (at / 8));
            memcpy(old, sink.data + at, 8);
            memcpy(sink.data + at, all_ones, 8);
            write_seed("plan", "negative", variant, of, sink.data, sink.used);
            memcpy(sink.data + at, old, 8);
        }
    }
    bl_plan_free(plan);
    bl_group_free(group);
}

int main(int argc, char **argv)
{
    static const char *const targets[] = { "", "state", "blob", "checkpoint", "plan" };

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char path[1024];

        snprintf(path, sizeof path, "%s/%s", folder, targets[i]);
        fuzz_check(mkdir(path, 0777) == 0 || errno == EEXIST);
    }
    for (int variant = 0; variant < FUZZ_VARIANTS; variant++) {
        seed_states(variant);
        seed_blobs(variant);
        seed_plans(variant);
    }
    for (int variant = 0; variant < FUZZ_TRAININGS; variant++) {
        seed_checkpoints(variant);
    }
    return 0;
}
