/* How a training was started; see start.h. */
#define _POSIX_C_SOURCE 200809L

#include "train/start.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "beamlora.h"
#include "base/file.h"
#include "train/folder.h"

#define PATHS ((int) (sizeof((struct start *) 0)->joined / sizeof(char *)))

static char *working_directory(void)
{
    char *buffer = NULL;

    for (size_t bytes = 256; bytes <= 1 << 20; bytes *= 2) {
        char *larger = realloc(buffer, bytes);

        if (larger == NULL) {
            break;
        }
        buffer = larger;
        if (getcwd(buffer, bytes) != NULL) {
            return buffer;
        }
    }
    free(buffer);
    return NULL;
}

int start_here(struct start *start, int argc, char **argv, char *error, size_t size)
{
    int copied = 1;

    *start = (struct start){ .argc = argc, .directory = working_directory() };
    start->argv = calloc((size_t) argc + 1, sizeof *start->argv);
    for (int i = 0; start->argv != NULL && i < argc; i++) {
        start->argv[i] = strdup(argv[i]);
        copied = copied && start->argv[i] != NULL;
    }
    if (start->argv == NULL || start->directory == NULL || !copied) {
        snprintf(error, size, "the working directory cannot be told, or memory is out");
        start_free(start);
        return -1;
    }
    return 0;
}

static int fill(struct start *start, const json_t *run)
{
    const json_t *arguments = json_object_get(run, "arguments");
    const char   *directory = json_string_value(json_object_get(run, "directory"));
    size_t        count = json_array_size(arguments);

    if (directory == NULL || count == 0 || count > 10000) {
        return -1;
    }
    start->directory = strdup(directory);
    start->argv = calloc(count + 1, sizeof *start->argv);
    for (size_t i = 0; start->argv != NULL && i < count; i++) {
        const char *text = json_string_value(json_array_get(arguments, i));

        start->argv[i] = text != NULL ? strdup(text) : NULL;
        if (start->argv[i] == NULL) {
            return -1;
        }
        start->argc++;
    }
    return start->directory != NULL && start->argv != NULL ? 0 : -1;
}

int start_read(struct start *start, const char *path, char *error, size_t size)
{
    char  *name = file_join(path, FOLDER_RUN, error, size), *text = NULL;
    size_t bytes = 0;
    int    result = -1;

    *start = (struct start){ 0 };
    if (name != NULL && access(name, F_OK) != 0) {
        snprintf(error, size, "--resume %s: holds no run (no %s in it)", path,
                 FOLDER_RUN);
    } else if (name != NULL && file_read(name, &text, &bytes, error, size) == 0) {
        json_t *run = json_loadb(text, bytes, 0, NULL);

        result = fill(start, run);
        json_decref(run);
        if (result != 0) {
            snprintf(error, size, "%s: does not say how a training was started", name);
            start_free(start);
        }
    }
    free(text);
    free(name);
    return result;
}

void start_free(struct start *start)
{
    for (int i = 0; start->argv != NULL && i < start->argc; i++) {
        free(start->argv[i]);
    }
    for (int i = 0; i < PATHS; i++) {
        free(start->joined[i]);
    }
    free(start->argv);
    free(start->directory);
    *start = (struct start){ 0 };
}

int start_write(const struct start *start, json_t *settings, const char *path,
                char *error, size_t size)
{
    char   *name = file_join(path, FOLDER_RUN, error, size), *text = NULL;
    json_t *arguments = json_array(), *run;
    int     result = -1;

    for (int i = 0; i < start->argc; i++) {
        json_array_append_new(arguments, json_string(start->argv[i]));
    }
    run = json_pack("{ss so ss sO}", "version", bl_version_string(), "arguments",
                    arguments, "directory", start->directory, "settings", settings);
    if (run != NULL && json_array_size(arguments) == (size_t) start->argc) {
        text = json_dumps(run, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    }
    if (name == NULL || text == NULL) {
        snprintf(error, size,
                 "%s/%s: cannot be written: a flag's value or the working directory is "
                 "not UTF-8, or memory is out",
                 path, FOLDER_RUN);
    } else {
        result = file_replace(name, text, strlen(text), error, size);
    }
    json_decref(run);
    free(text);
    free(name);
    return result;
}

const char *start_path(struct start *start, const char *name, char *error, size_t size)
{
    int i = 0;

    while (i < PATHS - 1 && start->joined[i] != NULL) {
        i++;
    }
    free(start->joined[i]);
    start->joined[i] = file_join(start->directory, name, error, size);
    return start->joined[i];
}

static json_t *flag_value(const struct flag *flag)
{
    const char *text;
    uint64_t    number;

    switch (flag->type) {
    case FLAG_INTEGER:
        return json_integer(*(const int64_t *) flag->value);
    case FLAG_UNSIGNED:
        number = *(const uint64_t *) flag->value;
        return number > INT64_MAX ? json_real((double) number)
                                  : json_integer((json_int_t) number);
    case FLAG_REAL:
        return folder_real(*(const double *) flag->value);
    case FLAG_CHOICE:
        return json_string(flag->choices[*(const int32_t *) flag->value]);
    case FLAG_SWITCH:
        return json_boolean(*(const int *) flag->value);
    default:
        text = *(const char *const *) flag->value;
        return text != NULL ? json_string(text) : json_null();
    }
}

json_t *start_settings(const struct flag *flags, int count)
{
    json_t *settings = json_object();

    for (int i = 0; i < count; i++) {
        if (flags[i].type != FLAG_HEADING) {
            json_object_set_new(settings, flags[i].name, flag_value(&flags[i]));
        }
    }
    return settings;
}
