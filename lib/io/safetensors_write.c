/*
 * Writing safetensors: the header as the reference writes it (metadata first, tensors by
 * dtype, widest first, then by name, padded with spaces to a multiple of 8), then the
 * data straight from the caller's memory, or as the caller delivers it. Memory: the
 * header's text.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* By bl_dtype; rank is the place in the reference's order of alignments. */
static const struct {
    char   name[5];
    int8_t width, rank;
} written[] = {
    { "F32", 4, 3 }, { "F64", 8, 4 }, { "BF16", 2, 2 },
    { "F16", 2, 1 }, { "I64", 8, 5 }, { "U8", 1, 0 },
};

size_t bl__io_width(int32_t dtype)
{
    return dtype >= BL_F32 && dtype <= BL_U8 ? (size_t) written[dtype].width : 0;
}

static int compare_entries(const void *left, const void *right)
{
    const struct bl__io_entry *a = left;
    const struct bl__io_entry *b = right;
    int                        rank_a = written[a->dtype].rank;
    int                        rank_b = written[b->dtype].rank;
    return rank_a != rank_b ? rank_b - rank_a : strcmp(a->name, b->name);
}

static int64_t entry_elements(const struct bl__io_entry *entry)
{
    return entry->dims == 1 ? entry->shape[0] : entry->shape[0] * entry->shape[1];
}

static int check_entry(const struct bl__io_entry *entry, const char *path)
{
    if (entry->name[0] == '\0' || strcmp(entry->name, "__metadata__") == 0) {
        return bl__io_fail(BL_E_ARG, path, "an array may not be named \"%s\"",
                           entry->name);
    }
    if (bl__io_width(entry->dtype) == 0) {
        return bl__io_fail(BL_E_ARG, path, "array %s: dtype is %d, which is none",
                           entry->name, (int) entry->dtype);
    }
    if (entry->dims != 1 && entry->dims != 2) {
        return bl__io_fail(BL_E_SHAPE, path, "array %s: dims is %d, must be 1 or 2",
                           entry->name, (int) entry->dims);
    }
    int64_t rows = entry->shape[0];
    int64_t cols = entry->dims == 1 ? 1 : entry->shape[1];
    if (rows < 0 || cols < 0 || (cols > 0 && rows > (INT64_MAX >> 8) / cols)) {
        return bl__io_fail(BL_E_RANGE, path, "array %s: shape [%lld, %lld] is impossible",
                           entry->name, (long long) rows, (long long) cols);
    }
    return 0;
}

/* {"__metadata__": {key: value}}, or {} for none; NULL and *code on failure. */
static json_t *make_root(const char *const *metadata, const char *path, int *code)
{
    json_t *root = json_object();
    if (root == NULL) {
        *code = bl__io_fail(BL_E_NOMEM, path, "out of memory");
        return NULL;
    }
    if (metadata == NULL || metadata[0] == NULL) {
        return root;
    }
    json_t *object = json_object();
    *code = json_object_set_new(root, "__metadata__", object) == 0
                ? 0
                : bl__io_fail(BL_E_NOMEM, path, "out of memory");
    for (int64_t i = 0; *code == 0 && metadata[i] != NULL; i += 2) {
        if (metadata[i + 1] == NULL) {
            *code = bl__io_fail(BL_E_ARG, path, "metadata key %.120s has no value",
                                metadata[i]);
        } else if (json_object_get(object, metadata[i]) != NULL) {
            *code = bl__io_fail(BL_E_ARG, path, "metadata key %.120s is repeated",
                                metadata[i]);
        } else if (json_object_set_new(object, metadata[i],
                                       json_string(metadata[i + 1])) != 0) {
            *code = bl__io_fail(BL_E_ARG, path, "metadata key %.120s: not UTF-8",
                                metadata[i]);
        }
        if (*code != 0) {
            break;
        }
    }
    if (*code != 0) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static int add_entry(json_t *root, const struct bl__io_entry *entry, int64_t *at,
                     const char *path)
{
    if (json_object_get(root, entry->name) != NULL) {
        return bl__io_fail(BL_E_ARG, path, "two arrays are named %s", entry->name);
    }
    json_t *name = json_string(entry->name);
    if (name == NULL) {
        return bl__io_fail(BL_E_ARG, path, "array name %s is not UTF-8", entry->name);
    }
    json_decref(name);
    int64_t bytes = entry_elements(entry) * (int64_t) bl__io_width(entry->dtype);
    if (bytes > INT64_MAX - *at) {
        return bl__io_fail(BL_E_RANGE, path, "the arrays exceed 2^63 bytes");
    }
    json_int_t begin = (json_int_t) *at;
    json_int_t end = (json_int_t) (*at + bytes);
    json_int_t rows = (json_int_t) entry->shape[0];
    json_int_t cols = (json_int_t) entry->shape[1];
    json_t    *shape =
        entry->dims == 1 ? json_pack("[I]", rows) : json_pack("[I,I]", rows, cols);
    json_t *item = json_pack("{s:s,s:o,s:[I,I]}", "dtype", written[entry->dtype].name,
                             "shape", shape, "data_offsets", begin, end);
    if (item == NULL || json_object_set_new(root, entry->name, item) != 0) {
        return bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    *at += bytes;
    return 0;
}

/* jansson's text in memory of our own: the host may have given jansson its allocator. */
static int dump(char **text, size_t *bytes, const json_t *json, size_t flags,
                const char *path)
{
    size_t need = json_dumpb(json, NULL, 0, flags);
    *text = need == 0 ? NULL : malloc(need + 8);
    if (*text == NULL) {
        return bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    *bytes = json_dumpb(json, *text, need, flags);
    return 0;
}

static int write_root(struct bl__io_file *file, const json_t *root)
{
    char  *text = NULL;
    size_t bytes = 0;
    int    code = dump(&text, &bytes, root, JSON_COMPACT, file->path);
    if (code != 0) {
        return code;
    }
    while (bytes % 8 != 0) {
        text[bytes++] = ' '; /* dump left room for it */
    }
    if (bytes > BL__IO_HEADER_MAX) {
        code = bl__io_fail(BL_E_RANGE, file->path,
                           "header of %zu bytes, at most %u are allowed", bytes,
                           BL__IO_HEADER_MAX);
    } else {
        uint64_t n = bytes;
        code = bl__io_file_write_values(file, &n, 1, sizeof n);
    }
    if (code == 0) {
        code = bl__io_file_write(file, text, bytes);
    }
    free(text);
    return code;
}

int bl__io_write_header(struct bl__io_file *file, struct bl__io_entry *entries,
                        int64_t count, const char *const *metadata)
{
    for (int64_t i = 0; i < count; i++) {
        int code = check_entry(&entries[i], file->path);
        if (code != 0) {
            return code;
        }
    }
    if (count > 0) {
        qsort(entries, (size_t) count, sizeof *entries, compare_entries);
    }
    int     code = 0;
    json_t *root = make_root(metadata, file->path, &code);
    int64_t at = 0;
    for (int64_t i = 0; i < count && code == 0; i++) {
        code = add_entry(root, &entries[i], &at, file->path);
    }
    if (code == 0) {
        code = write_root(file, root);
    }
    json_decref(root);
    return code;
}

int bl__io_write_json(struct bl__io_file *file, const json_t *json, size_t flags)
{
    char  *text = NULL;
    size_t bytes = 0;
    int    code = dump(&text, &bytes, json, flags, file->path);
    if (code != 0) {
        return code;
    }
    text[bytes++] = '\n';
    code = bl__io_file_write(file, text, bytes);
    free(text);
    return code;
}

/* What is written: data from the arrays, or from `source`. */
struct job {
    const bl_array      *arrays;
    struct bl__io_entry *entries; /* [count] */
    int64_t              count;
    const char *const   *metadata;
    bl_array_fn          source; /* or NULL */
    void                *user;
};

/* An array that its source is delivering. */
struct delivery {
    struct bl__io_file        *file;
    const struct bl__io_entry *entry;
    uint64_t                   left; /* bytes */
    int                        code; /* of the first failure */
};

static int take_piece(void *to, const void *data, size_t bytes)
{
    struct delivery *delivery = to;
    size_t           width = bl__io_width(delivery->entry->dtype);
    const char      *path = delivery->file->path;
    if (delivery->code != 0) {
        return delivery->code;
    }
    if (data == NULL && bytes > 0) {
        delivery->code =
            bl__io_fail(BL_E_ARG, path, "array %s: data is NULL", delivery->entry->name);
    } else if (bytes > delivery->left || bytes % width != 0) {
        delivery->code = bl__io_fail(
            BL_E_SHAPE, path,
            "array %s: a piece of %zu bytes is delivered, where %llu in elements of %zu "
            "are left",
            delivery->entry->name, bytes, (unsigned long long) delivery->left, width);
    } else {
        delivery->left -= bytes;
        delivery->code =
            bl__io_file_write_values(delivery->file, data, bytes / width, width);
    }
    return delivery->code;
}

static int deliver(const struct job *job, struct bl__io_file *file,
                   const struct bl__io_entry *entry)
{
    struct delivery delivery = {
        .file = file,
        .entry = entry,
        .left = (uint64_t) entry_elements(entry) * bl__io_width(entry->dtype),
    };
    int status = job->source(job->user, entry->source, take_piece, &delivery);
    if (delivery.code != 0) {
        return delivery.code;
    }
    if (status != 0) {
        return bl__io_fail(BL_E_USER, file->path, "array %s: its source gave up with %d",
                           entry->name, status);
    }
    return delivery.left == 0
               ? 0
               : bl__io_fail(BL_E_SHAPE, file->path,
                             "array %s: its source left out %llu bytes", entry->name,
                             (unsigned long long) delivery.left);
}

static int write_array(const struct job *job, struct bl__io_file *file,
                       const struct bl__io_entry *entry)
{
    const void *data = job->arrays[entry->source].data;
    int64_t     elements = entry_elements(entry);
    if (job->source != NULL) {
        return deliver(job, file, entry);
    }
    if (data == NULL && elements > 0) {
        return bl__io_fail(BL_E_ARG, file->path, "array %s: data is NULL", entry->name);
    }
    return bl__io_file_write_values(file, data, (size_t) elements,
                                    bl__io_width(entry->dtype));
}

static int write_arrays(const struct job *job, struct bl__io_file *file)
{
    for (int64_t i = 0; i < job->count; i++) {
        const bl_array *array = &job->arrays[i];
        if (memchr(array->name, '\0', sizeof array->name) == NULL) {
            return bl__io_fail(BL_E_ARG, file->path,
                               "the name of array %lld has no final NUL", (long long) i);
        }
        job->entries[i].name = array->name;
        job->entries[i].dtype = array->dtype;
        job->entries[i].dims = array->dims;
        job->entries[i].shape[0] = array->shape[0];
        job->entries[i].shape[1] = array->shape[1];
        job->entries[i].source = i;
    }
    int code = bl__io_write_header(file, job->entries, job->count, job->metadata);
    for (int64_t i = 0; i < job->count && code == 0; i++) {
        code = write_array(job, file, &job->entries[i]);
    }
    return code;
}

static int write_file(struct job *job, const char *path)
{
    if (path == NULL || (job->arrays == NULL && job->count > 0)) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL",
                           path == NULL ? "path" : "arrays");
    }
    if (job->count < 0 || (uint64_t) job->count > SIZE_MAX / sizeof *job->entries) {
        return bl__io_fail(BL_E_RANGE, path, "count is %lld", (long long) job->count);
    }
    int                saved = errno;
    struct bl__io_file file;
    job->entries = calloc((size_t) job->count + 1, sizeof *job->entries);
    if (job->entries == NULL) {
        errno = saved;
        return bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    int code = bl__io_file_create(&file, path);
    if (code == 0) {
        code = write_arrays(job, &file);
        if (code == 0) {
            code = bl__io_file_finish(&file);
        }
        if (code == 0) {
            code = bl__io_file_publish(&file);
        }
        if (code == 0) {
            code = bl__io_sync_folder(path);
        }
        bl__io_file_abandon(&file);
    }
    free(job->entries);
    errno = saved;
    return code;
}

int bl_safetensors_write(const char *path, const bl_array *arrays, int64_t count,
                         const char *const *metadata)
{
    struct job job = { .arrays = arrays, .count = count, .metadata = metadata };
    return write_file(&job, path);
}

int bl_safetensors_stream(const char *path, const bl_array *arrays, int64_t count,
                          const char *const *metadata, bl_array_fn source, void *user)
{
    struct job job = { .arrays = arrays,
                       .count = count,
                       .metadata = metadata,
                       .source = source,
                       .user = user };
    if (source == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "source is NULL");
    }
    return write_file(&job, path);
}
