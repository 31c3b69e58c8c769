/*
 * Checkpoints; see checkpoint.h. The arrays are the state's own, written straight from
 * its memory; numbers of the trainer are metadata, reals with 17 digits, so that they
 * come back as they were.
 */
#include "train/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "beamlora_io.h"
#include "base/line.h"

#define TEXT 32
#define FIELDS 19
#define PAIRS (FIELDS + 3)

/* A number of struct checkpoint under a name. */
struct field {
    const char *name;
    int64_t    *integer; /* or */
    double     *real;
};

static void list_fields(struct checkpoint *c, struct field fields[FIELDS])
{
    struct totals     *t = &c->totals;
    const struct field list[FIELDS] = {
        { "step", &t->step, NULL },
        { "log_bytes", &c->lines[FOLDER_LOG], NULL },
        { "ranks_bytes", &c->lines[FOLDER_RANKS], NULL },
        { "plans_bytes", &c->lines[FOLDER_PLANS], NULL },
        { "loss_sum", NULL, &t->loss_sum },
        { "loss_count", &t->loss_count, NULL },
        { "tokens", &t->tokens, NULL },
        { "skipped", &t->skipped, NULL },
        { "skipped_in_a_row", &t->skipped_in_a_row, NULL },
        { "reallocations", &t->reallocations, NULL },
        { "reallocated_ranks", &t->moved, NULL },
        { "before.loss", NULL, &t->before.loss },
        { "before.tokens", &t->before.predicted, NULL },
        { "before.examples", &t->before.examples, NULL },
        { "before.exact", &t->before.exact, NULL },
        { "after.loss", NULL, &t->after.loss },
        { "after.tokens", &t->after.predicted, NULL },
        { "after.examples", &t->after.examples, NULL },
        { "after.exact", &t->after.exact, NULL },
    };

    memcpy(fields, list, sizeof list);
}

static int64_t count_arrays(const struct checkpoint *c)
{
    return c->full != NULL ? full_state_count(c->full)
                           : bl_group_get_state_count(c->group);
}

/* The state's arrays, malloc'ed. */
static bl_array *get_arrays(const struct checkpoint *c, const char *path, char *error,
                            size_t size)
{
    int64_t   count = count_arrays(c);
    bl_array *arrays = calloc((size_t) count, sizeof *arrays);
    int       failed = 0;

    if (arrays == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        return NULL;
    }
    for (int64_t i = 0; !failed && i < count; i++) {
        failed = c->full != NULL ? full_get_state(c->full, i, &arrays[i])
                                 : bl_group_get_state(c->group, i, &arrays[i]);
    }
    if (failed) {
        snprintf(error, size, "%s: %s", path, bl_last_error());
        free(arrays);
        return NULL;
    }
    return arrays;
}

int checkpoint_save(const struct checkpoint *checkpoint, const char *path, char *error,
                    size_t size)
{
    struct checkpoint copy = *checkpoint;
    struct field      fields[FIELDS];
    const char       *metadata[2 * PAIRS + 1] = { "format", CHECKPOINT_FORMAT, "version",
                                                  CHECKPOINT_VERSION };
    char              text[PAIRS][TEXT];
    bl_array         *arrays = get_arrays(checkpoint, path, error, size);
    int               pair = 2, result;

    if (arrays == NULL) {
        return -1;
    }
    list_fields(&copy, fields);
    for (int i = 0; i < FIELDS; i++, pair++) {
        if (fields[i].integer != NULL) {
            snprintf(text[pair], TEXT, "%" PRId64, *fields[i].integer);
        } else {
            snprintf(text[pair], TEXT, "%.17g", *fields[i].real);
        }
        metadata[2 * pair] = fields[i].name;
        metadata[2 * pair + 1] = text[pair];
    }
    snprintf(text[pair], TEXT, "%016" PRIx64, copy.data);
    metadata[2 * pair] = "data";
    metadata[2 * pair + 1] = text[pair];
    result = bl_safetensors_write(path, arrays, count_arrays(checkpoint), metadata);
    if (result != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
    }
    free(arrays);
    return result == 0 ? 0 : -1;
}

/* ===== Reading ============================================================ */

static int read_fields(struct checkpoint *c, const bl_safetensors *file, const char *path,
                       char *error, size_t size)
{
    struct field fields[FIELDS];
    const char  *format = bl_safetensors_get_metadata(file, "format");
    const char  *version = bl_safetensors_get_metadata(file, "version");
    const char  *data = bl_safetensors_get_metadata(file, "data");

    if (format == NULL || strcmp(format, CHECKPOINT_FORMAT) != 0 || version == NULL ||
        strcmp(version, CHECKPOINT_VERSION) != 0) {
        snprintf(error, size, "%s: is no checkpoint of this version of beamlora", path);
        return -1;
    }
    if (data == NULL || strtoull(data, NULL, 16) != c->data) {
        snprintf(error, size,
                 "%s: is of a training on other data: --data, the tokenizer or the "
                 "context has changed",
                 path);
        return -1;
    }
    list_fields(c, fields);
    for (int i = 0; i < FIELDS; i++) {
        const char *text = bl_safetensors_get_metadata(file, fields[i].name);
        char       *end = NULL;

        errno = 0;
        if (text != NULL && fields[i].integer != NULL) {
            *fields[i].integer = strtoll(text, &end, 10);
        } else if (text != NULL) {
            *fields[i].real = strtod(text, &end);
        }
        if (text == NULL || end == text || *end != '\0' ||
            (fields[i].integer != NULL && (errno != 0 || *fields[i].integer < 0))) {
            snprintf(error, size, "%s: %s is \"%.40s\", must be a number", path,
                     fields[i].name, text != NULL ? text : "");
            return -1;
        }
    }
    return 0;
}

static int read_arrays(struct checkpoint *c, const bl_safetensors *file, const char *path,
                       char *error, size_t size)
{
    int64_t   count = bl_safetensors_get_count(file);
    bl_array *arrays = calloc((size_t) count + 1, sizeof *arrays);
    char      reason[256] = "";
    int       result = 0;

    if (arrays == NULL) {
        snprintf(error, size, "%s: out of memory", path);
        return -1;
    }
    for (int64_t i = 0; result == 0 && i < count; i++) {
        bl_tensor_info tensor;

        bl_safetensors_get_tensor(file, i, &tensor);
        if (tensor.dims < 1 || tensor.dims > 2 || strlen(tensor.name) >= BL_NAME_MAX) {
            snprintf(reason, sizeof reason, "tensor %.100s is none of a state",
                     tensor.name);
            result = -1;
            break;
        }
        snprintf(arrays[i].name, sizeof arrays[i].name, "%s", tensor.name);
        arrays[i].data = tensor.data;
        arrays[i].dims = tensor.dims;
        arrays[i].shape[0] = tensor.shape[0];
        arrays[i].shape[1] = tensor.shape[1];
        arrays[i].dtype = tensor.dtype;
    }
    if (result == 0 && c->full != NULL) {
        result = full_set_state(c->full, arrays, count, reason, sizeof reason);
    } else if (result == 0 && bl_group_set_state(c->group, arrays, count) != 0) {
        snprintf(reason, sizeof reason, "%s", bl_last_error());
        result = -1;
    }
    if (result != 0) {
        snprintf(error, size, "%s: %s", path, reason);
    }
    free(arrays);
    return result;
}

int checkpoint_load(struct checkpoint *checkpoint, const char *path, char *error,
                    size_t size)
{
    struct checkpoint copy = *checkpoint;
    bl_safetensors   *file;
    struct stat       status;
    int               result;

    if (stat(path, &status) != 0 && errno == ENOENT) {
        return 1;
    }
    if (bl_safetensors_open(&file, path) != 0) {
        snprintf(error, size, "%s", bl_io_last_error());
        return -1;
    }
    result = read_fields(&copy, file, path, error, size);
    if (result == 0) {
        result = read_arrays(&copy, file, path, error, size);
    }
    bl_safetensors_close(file);
    if (result == 0) {
        *checkpoint = copy;
    } else {
        line_clean(error);
    }
    return result;
}
