/*
 * What counts are the settings that change the training. A flag that has no effect with
 * a run's method is left out, so that two LoRA runs are equal whatever their preset. A
 * label names what was given as a flag in the run; where labels would be equal, also what
 * was given in another, and then all that differs (a preset sets a dozen things).
 */
#include "view/run_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const no_matter[] = {
    "seed",           "out",        "json",        "resume",
    "dump-gradients", "eval-every", "ranks-every", "checkpoint-every",
    "save-dtype",     "overwrite",  "threads",     NULL
};

static const char *const of_beamlora[] = { "preset",
                                           "no-reallocation",
                                           "temperature",
                                           "period",
                                           "start",
                                           "p-start",
                                           "p-end",
                                           "p-curve",
                                           "p-steps",
                                           "scope",
                                           "crossing",
                                           "importance",
                                           "select",
                                           "fixed-count",
                                           "max-prune-fraction",
                                           "idle",
                                           "expand",
                                           "moments",
                                           "pairing",
                                           "score-transfer",
                                           "history-depth",
                                           "history-interval",
                                           "history-phase",
                                           "history-age",
                                           "history-dtype",
                                           NULL };

static const char *const of_scores[] = { "score-lr-ratio", NULL };

static const char *const of_adalora[] = { "target-rank",      "tinit",
                                          "tfinal",           "delta-t",
                                          "sensitivity-beta", "uncertainty-beta",
                                          "orth-reg-weight",  NULL };

static const char *const of_adapters[] = { "rank",    "alpha",      "dropout",
                                           "targets", "b-lr-ratio", NULL };

static const char *const of_paths[] = { "model", "data", "eval-data", "init-adapter",
                                        NULL };

static void drop(json_t *settings, const char *const *keys)
{
    for (; *keys != NULL; keys++) {
        json_object_del(settings, *keys);
    }
}

/* "data" is another file in another directory. */
static void make_absolute(json_t *settings, const char *directory)
{
    for (const char *const *key = of_paths; *key != NULL; key++) {
        const char *path = json_string_value(json_object_get(settings, *key));

        if (path != NULL && path[0] != '/') {
            json_object_set_new(settings, *key, json_sprintf("%s/%s", directory, path));
        }
    }
}

/* NULL: out of memory. */
static json_t *settings_that_count(const struct run *run)
{
    json_t     *settings = json_deep_copy(run->settings);
    const char *directory = json_string_value(json_object_get(run->root, "directory"));

    if (settings == NULL) {
        return NULL;
    }
    drop(settings, no_matter);
    if (!run_is_beamlora(run)) {
        drop(settings, of_beamlora);
    }
    if (!run_is_beamlora(run) && strcmp(run->method, "adalora") != 0) {
        drop(settings, of_scores);
    }
    if (strcmp(run->method, "adalora") != 0) {
        drop(settings, of_adalora);
    }
    if (strcmp(run->method, "full") == 0) {
        drop(settings, of_adapters);
    }
    if (directory != NULL) {
        make_absolute(settings, directory);
    }
    return settings;
}

static int was_given(const struct run *run, const char *key)
{
    const json_t *arguments = json_object_get(run->root, "arguments");
    size_t        length = strlen(key);

    for (size_t i = 0; i < json_array_size(arguments); i++) {
        const char *text = json_string_value(json_array_get(arguments, i));

        if (text != NULL && strncmp(text, "--", 2) == 0 &&
            strncmp(text + 2, key, length) == 0 &&
            (text[2 + length] == '\0' || text[2 + length] == '=')) {
            return 1;
        }
    }
    return 0;
}

/* Keys whose values are not the same in all runs; true for those given as a flag. A key
 * that only some methods have counts among the runs that have it. */
static int find_differing(struct run_groups *groups, const struct run *runs)
{
    const json_t *value;
    const char   *key;

    groups->differing = json_object();
    if (groups->differing == NULL) {
        return -1;
    }
    for (int64_t i = 0; i < groups->runs; i++) {
        json_object_foreach(groups->settings[i], key, value)
        {
            for (int64_t j = 0; j < i; j++) {
                const json_t *other = json_object_get(groups->settings[j], key);

                if (other != NULL && !json_equal(other, value)) {
                    int given = 0;

                    for (int64_t k = 0; k < groups->runs; k++) {
                        given |= was_given(&runs[k], key);
                    }
                    json_object_set_new(groups->differing, key, json_boolean(given));
                    break;
                }
            }
        }
    }
    return 0;
}

/* " key=value", nothing for a switch that is off. */
static void add_to_label(char *label, const char *key, const json_t *value)
{
    size_t used = strlen(label);
    size_t room = RUN_LABEL - used;

    if (json_is_true(value)) {
        snprintf(label + used, room, " %s", key);
    } else if (json_is_string(value)) {
        snprintf(label + used, room, " %s=%s", key, json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(label + used, room, " %s=%" JSON_INTEGER_FORMAT, key,
                 json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(label + used, room, " %s=%g", key, json_real_value(value));
    } else if (json_is_null(value)) {
        snprintf(label + used, room, " %s=none", key);
    }
}

enum detail { GIVEN_HERE, GIVEN_SOMEWHERE, ALL, DETAILS };

static void make_label(struct run_group *group, const struct run *run,
                       const struct run_groups *groups, int64_t index, enum detail detail)
{
    const json_t *given;
    const char   *key;

    snprintf(group->label, RUN_LABEL, "%s", run->method[0] != '\0' ? run->method : "run");
    json_object_foreach(groups->differing, key, given)
    {
        /* shown as it was given, not as an absolute path */
        int shown = detail == GIVEN_HERE ? was_given(run, key)
                                         : detail == ALL || json_is_true(given);

        if (shown && strcmp(key, "method") != 0 &&
            json_object_get(groups->settings[index], key) != NULL) {
            add_to_label(group->label, key, json_object_get(run->settings, key));
        }
    }
}

static int labels_differ(const struct run_groups *groups)
{
    for (int64_t i = 0; i < groups->groups; i++) {
        for (int64_t j = 0; j < i; j++) {
            if (strcmp(groups->group[i].label, groups->group[j].label) == 0) {
                return 0;
            }
        }
    }
    return 1;
}

/* The group of run i: an old one or a new one; NULL: out of memory. */
static struct run_group *group_of(struct run_groups *groups, int64_t i)
{
    struct run_group *group = groups->group;

    for (; group < groups->group + groups->groups; group++) {
        if (json_equal(groups->settings[group->member[0]], groups->settings[i])) {
            return group;
        }
    }
    group->member = calloc((size_t) groups->runs, sizeof *group->member);
    if (group->member == NULL) {
        return NULL;
    }
    groups->groups++;
    return group;
}

int run_groups_make(struct run_groups *out, const struct run *runs, int64_t count)
{
    *out = (struct run_groups){ .runs = count };
    out->settings = calloc((size_t) count + 1, sizeof(json_t *));
    out->group = calloc((size_t) count + 1, sizeof *out->group);
    if (out->settings == NULL || out->group == NULL) {
        goto fail;
    }
    for (int64_t i = 0; i < count; i++) {
        struct run_group *group;

        out->settings[i] = settings_that_count(&runs[i]);
        group = out->settings[i] != NULL ? group_of(out, i) : NULL;
        if (group == NULL) {
            goto fail;
        }
        group->member[group->members++] = i;
    }
    if (find_differing(out, runs) != 0) {
        goto fail;
    }
    for (int detail = GIVEN_HERE;
         detail == GIVEN_HERE || (detail < DETAILS && !labels_differ(out)); detail++) {
        for (int64_t g = 0; g < out->groups; g++) {
            int64_t first = out->group[g].member[0];

            make_label(&out->group[g], &runs[first], out, first, (enum detail) detail);
        }
    }
    return 0;
fail:
    run_groups_free(out);
    return -1;
}

void run_groups_free(struct run_groups *groups)
{
    for (int64_t g = 0; g < groups->groups; g++) {
        free(groups->group[g].member);
    }
    for (int64_t i = 0; groups->settings != NULL && i < groups->runs; i++) {
        json_decref(groups->settings[i]);
    }
    free(groups->group);
    free(groups->settings);
    json_decref(groups->differing);
    *groups = (struct run_groups){ 0 };
}
