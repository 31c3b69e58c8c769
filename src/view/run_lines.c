/* See run_lines.h. */
#define _POSIX_C_SOURCE 200809L /* getline */

#include "view/run_lines.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/line.h"

int place_fail(const struct place *place, const char *what)
{
    snprintf(place->error, place->size, "%.300s:%ld: %s", place->path, place->line, what);
    line_clean(place->error);
    return -1;
}

int place_fail_key(const struct place *place, const char *key, const char *what)
{
    snprintf(place->error, place->size, "%.300s:%ld: \"%s\" %s", place->path, place->line,
             key, what);
    return -1;
}

int member_integer(int64_t *out, const json_t *line, const char *key, int64_t low,
                   int64_t high, const struct place *place)
{
    const json_t *value = json_object_get(line, key);

    if (!json_is_integer(value)) {
        return place_fail_key(place, key, "must be a whole number");
    }
    *out = json_integer_value(value);
    if (*out < low || *out > high) {
        char what[96];

        snprintf(what, sizeof what,
                 "is %" PRId64 ", must be from %" PRId64 " to %" PRId64, *out, low, high);
        return place_fail_key(place, key, what);
    }
    return 0;
}

int member_to_real(double *out, const json_t *value)
{
    *out = json_is_number(value) ? json_number_value(value) : (double) NAN;
    return json_is_number(value) || json_is_null(value) ? 0 : -1;
}

int member_real(double *out, const json_t *line, const char *key,
                const struct place *place)
{
    return member_to_real(out, json_object_get(line, key)) == 0
               ? 0
               : place_fail_key(place, key, "must be a number or null");
}

int member_array(const json_t **out, const json_t *line, const char *key, int64_t count,
                 const struct place *place)
{
    *out = json_object_get(line, key);
    if (!json_is_array(*out)) {
        return place_fail_key(place, key, "must be an array");
    }
    if (count >= 0 && json_array_size(*out) != (size_t) count) {
        char what[96];

        snprintf(what, sizeof what, "has %zu elements, must have %" PRId64,
                 json_array_size(*out), count);
        return place_fail_key(place, key, what);
    }
    return 0;
}

static void note_torn(struct run *run, const char *file, long line)
{
    size_t used = strlen(run->note);

    snprintf(run->note + used, sizeof run->note - used,
             "%s%s: line %ld is cut short and left out", used > 0 ? "; " : "", file,
             line);
}

int run_lines_read(struct run *run, const char *file, run_line_fn take, char *error,
                   size_t size)
{
    char         path[PATH_MAX];
    struct place place = { path, 0, error, size };
    char        *text = NULL;
    size_t       room = 0;
    ssize_t      length;
    int          result = 0;
    FILE        *stream;

    if ((size_t) snprintf(path, sizeof path, "%s/%s", run->directory, file) >=
        sizeof path) {
        snprintf(error, size, "%.300s: too long a path", run->directory);
        return -1;
    }
    stream = fopen(path, "r");
    if (stream == NULL) {
        if (errno == ENOENT) {
            return 0;
        }
        snprintf(error, size, "%.300s: %s", path, strerror(errno));
        return -1;
    }
    errno = 0;
    while (result == 0 && (length = getline(&text, &room, stream)) >= 0) {
        json_error_t why;
        json_t *line = json_loadb(text, (size_t) length, JSON_REJECT_DUPLICATES, &why);

        place.line++;
        if (json_is_object(line)) {
            result = take(run, line, &place);
        } else {
            int next = fgetc(stream);

            if (next == EOF && line == NULL) {
                note_torn(run, file, place.line);
            } else {
                result =
                    place_fail(&place, line == NULL ? why.text : "must be an object");
            }
            ungetc(next, stream);
        }
        json_decref(line);
        errno = 0;
    }
    if (result == 0 && (ferror(stream) || errno != 0)) {
        snprintf(error, size, "%.300s: %s", path,
                 errno != 0 ? strerror(errno) : "a read failed");
        result = -1;
    }
    free(text);
    fclose(stream);
    return result;
}
