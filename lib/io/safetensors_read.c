/*
 * Reading safetensors: 8 bytes N (little-endian), N bytes of JSON, data.
 *
 * All of the header is checked before anything is handed out, with the strictness of
 * the reference reader and beyond it: names may not repeat. The data is never touched
 * here, and every pointer that is handed out lies within it. Memory: the parsed header.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io.h"

/* The reference's list; its F4 and F6 types take parts of bytes. */
static const struct bl__io_dtype dtypes[] = {
    { "F32", 32, BL_F32 },
    { "F64", 64, BL_F64 },
    { "F16", 16, BL_F16 },
    { "BF16", 16, BL_BF16 },
    { "I64", 64, BL_I64 },
    { "U8", 8, BL_U8 },
    { "BOOL", 8, BL_DTYPE_OTHER },
    { "F4", 4, BL_DTYPE_OTHER },
    { "F6_E2M3", 6, BL_DTYPE_OTHER },
    { "F6_E3M2", 6, BL_DTYPE_OTHER },
    { "I8", 8, BL_DTYPE_OTHER },
    { "F8_E5M2", 8, BL_DTYPE_OTHER },
    { "F8_E4M3", 8, BL_DTYPE_OTHER },
    { "F8_E8M0", 8, BL_DTYPE_OTHER },
    { "F8_E4M3FNUZ", 8, BL_DTYPE_OTHER },
    { "F8_E5M2FNUZ", 8, BL_DTYPE_OTHER },
    { "I16", 16, BL_DTYPE_OTHER },
    { "U16", 16, BL_DTYPE_OTHER },
    { "I32", 32, BL_DTYPE_OTHER },
    { "U32", 32, BL_DTYPE_OTHER },
    { "C64", 64, BL_DTYPE_OTHER },
    { "U64", 64, BL_DTYPE_OTHER },
};

#define METADATA "__metadata__"

static const struct bl__io_dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return &dtypes[i];
        }
    }
    return NULL;
}

static int malformed(const bl_safetensors *file, const char *name, const char *what)
{
    return bl__io_fail(BL_E_FORMAT, file->label, "tensor %.120s: %s", name, what);
}

/* A JSON integer of 0 or more. jansson keeps integers apart from reals and refuses those
 * beyond 64 bits, so no double is ever in between. */
static int get_size(const json_t *value, int64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return -1;
    }
    *out = (int64_t) json_integer_value(value);
    return 0;
}

static int parse_shape(const bl_safetensors *file, const json_t *shape,
                       struct bl__io_tensor *tensor)
{
    if (!json_is_array(shape)) {
        return malformed(file, tensor->name, "shape is missing or no array");
    }
    size_t dims = json_array_size(shape);
    if (dims > BL_TENSOR_DIMS_MAX) {
        return malformed(file, tensor->name, "shape has more than 8 dimensions");
    }
    tensor->dims = (int32_t) dims;
    tensor->elements = 1;
    for (size_t i = 0; i < dims; i++) {
        int64_t extent;
        if (get_size(json_array_get(shape, i), &extent) != 0) {
            return malformed(file, tensor->name, "shape holds what is no size");
        }
        if (extent != 0 && tensor->elements > INT64_MAX / extent) {
            return malformed(file, tensor->name, "shape has more than 2^63 elements");
        }
        tensor->shape[i] = extent;
        tensor->elements *= extent;
    }
    return 0;
}

static int parse_tensor(const bl_safetensors *file, const json_t *entry,
                        struct bl__io_tensor *tensor)
{
    if (!json_is_object(entry)) {
        return malformed(file, tensor->name, "is described by no JSON object");
    }
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (dtype == NULL) {
        return malformed(file, tensor->name, "dtype is missing or no string");
    }
    tensor->dtype = find_dtype(dtype);
    if (tensor->dtype == NULL) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "tensor %.120s: dtype %.40s is unknown", tensor->name, dtype);
    }
    int code = parse_shape(file, json_object_get(entry, "shape"), tensor);
    if (code != 0) {
        return code;
    }

    const json_t *offsets = json_object_get(entry, "data_offsets");
    int64_t       begin;
    int64_t       end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        get_size(json_array_get(offsets, 0), &begin) != 0 ||
        get_size(json_array_get(offsets, 1), &end) != 0) {
        return malformed(file, tensor->name, "data_offsets is not two sizes");
    }
    if (end < begin) {
        return malformed(file, tensor->name, "data_offsets ends before it begins");
    }
    int64_t bits = tensor->dtype->bits;
    if (tensor->elements > INT64_MAX / bits) {
        return malformed(file, tensor->name, "its size in bits exceeds 2^63");
    }
    if (tensor->elements * bits % 8 != 0) {
        return malformed(file, tensor->name, "its data does not fill whole bytes");
    }
    if (end - begin != tensor->elements * bits / 8) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "tensor %.120s: data_offsets spans %lld bytes, shape %lld",
                           tensor->name, (long long) (end - begin),
                           (long long) (tensor->elements * bits / 8));
    }
    tensor->begin = (uint64_t) begin;
    tensor->end = (uint64_t) end;
    return 0;
}

static int check_metadata(const bl_safetensors *file, json_t *metadata)
{
    if (!json_is_object(metadata)) {
        return bl__io_fail(BL_E_FORMAT, file->label, METADATA " is no JSON object");
    }
    for (void *at = json_object_iter(metadata); at != NULL;
         at = json_object_iter_next(metadata, at)) {
        if (!json_is_string(json_object_iter_value(at))) {
            return bl__io_fail(BL_E_FORMAT, file->label, METADATA " %.120s is no string",
                               json_object_iter_key(at));
        }
    }
    return 0;
}

static int compare_place(const void *left, const void *right)
{
    const struct bl__io_tensor *a = left;
    const struct bl__io_tensor *b = right;
    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    if (a->end != b->end) {
        return a->end < b->end ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

static int compare_name(const void *left, const void *right)
{
    const struct bl__io_tensor *const *a = left;
    const struct bl__io_tensor *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* Every byte of the data belongs to exactly one tensor. */
static int check_places(const bl_safetensors *file, uint64_t bytes)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < file->count; i++) {
        const struct bl__io_tensor *tensor = &file->tensors[i];
        if (tensor->begin != at) {
            return bl__io_fail(BL_E_FORMAT, file->label,
                               "tensor %.120s begins at %llu, must begin at %llu (%s)",
                               tensor->name, (unsigned long long) tensor->begin,
                               (unsigned long long) at,
                               tensor->begin < at ? "overlap" : "hole");
        }
        at = tensor->end;
    }
    if (at != bytes) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "tensors take %llu bytes, the file has %llu behind its header",
                           (unsigned long long) at, (unsigned long long) bytes);
    }
    return 0;
}

static int parse_header(bl_safetensors *file, uint64_t data_bytes)
{
    size_t entries = json_object_size(file->root);
    file->tensors = calloc(entries + 1, sizeof *file->tensors);
    file->by_name = calloc(entries + 1, sizeof *file->by_name);
    if (file->tensors == NULL || file->by_name == NULL) {
        return bl__io_fail(BL_E_NOMEM, file->label, "out of memory");
    }
    for (void *at = json_object_iter(file->root); at != NULL;
         at = json_object_iter_next(file->root, at)) {
        const char *name = json_object_iter_key(at);
        json_t     *entry = json_object_iter_value(at);
        int         code;
        if (strcmp(name, METADATA) == 0) {
            code = check_metadata(file, entry);
        } else {
            struct bl__io_tensor *tensor = &file->tensors[file->count++];
            tensor->name = name;
            code = parse_tensor(file, entry, tensor);
        }
        if (code != 0) {
            return code;
        }
    }
    qsort(file->tensors, (size_t) file->count, sizeof *file->tensors, compare_place);
    int code = check_places(file, data_bytes);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; i < file->count; i++) {
        file->by_name[i] = &file->tensors[i];
    }
    qsort(file->by_name, (size_t) file->count, sizeof *file->by_name, compare_name);
    return 0;
}

static int parse(bl_safetensors *file, const unsigned char *bytes, size_t size)
{
    if (size < 8) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "has %zu bytes, a safetensors file has at least 8", size);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) {
        n = n << 8 | bytes[i];
    }
    if (n > BL__IO_HEADER_MAX) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "header of %llu bytes, at most %u are allowed",
                           (unsigned long long) n, BL__IO_HEADER_MAX);
    }
    if (n > size - 8) {
        return bl__io_fail(BL_E_FORMAT, file->label,
                           "header of %llu bytes, but only %zu are left",
                           (unsigned long long) n, size - 8);
    }
    if (n == 0) {
        return bl__io_fail(BL_E_FORMAT, file->label, "header is empty");
    }

    /* jansson refuses what is not UTF-8, \u0000, nesting beyond 2048 levels and integers
     * beyond 64 bits. */
    json_error_t error;
    file->root =
        json_loadb((const char *) bytes + 8, (size_t) n, JSON_REJECT_DUPLICATES, &error);
    if (file->root == NULL) {
        int nomem = json_error_code(&error) == json_error_out_of_memory;
        return bl__io_fail(nomem ? BL_E_NOMEM : BL_E_FORMAT, file->label,
                           "header, byte %d: %s", error.position, error.text);
    }
    if (!json_is_object(file->root)) {
        return bl__io_fail(BL_E_FORMAT, file->label, "header is no JSON object");
    }
    file->data = bytes + 8 + n;
    return parse_header(file, (uint64_t) size - 8 - n);
}

static int create(bl_safetensors **out, const char *label)
{
    size_t          bytes = strlen(label) + 1;
    bl_safetensors *file = calloc(1, sizeof *file);
    char           *copy = malloc(bytes);
    if (file == NULL || copy == NULL) {
        free(file);
        free(copy);
        return bl__io_fail(BL_E_NOMEM, label, "out of memory");
    }
    memcpy(copy, label, bytes);
    file->label = copy;
    *out = file;
    return 0;
}

static int map_file(bl_safetensors *file)
{
    int    fd;
    size_t bytes = 0;
    int    code = bl__io_open_regular(&fd, &bytes, file->label);
    if (code != 0) {
        return code;
    }
    if (bytes > 0) { /* mmap refuses 0; the parser has the better message */
        void *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            code = bl__io_fail_errno(errno, file->label, "cannot map");
        } else {
            file->map = map;
            file->map_bytes = bytes;
        }
    }
    close(fd);
    return code;
}

int bl_safetensors_open(bl_safetensors **out, const char *path)
{
    if (out == NULL || path == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", out == NULL ? "out" : "path");
    }
    int             saved = errno;
    bl_safetensors *file = NULL;
    int             code = create(&file, path);
    if (code != 0) {
        return code;
    }
    code = map_file(file);
    if (code == 0) {
        code = parse(file, file->map, file->map_bytes);
    }
    if (code == 0) {
        *out = file;
    } else {
        bl_safetensors_close(file);
    }
    errno = saved;
    return code;
}

int bl_safetensors_open_memory(bl_safetensors **out, const void *data, size_t bytes)
{
    if (out == NULL || (data == NULL && bytes > 0)) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", out == NULL ? "out" : "data");
    }
    int             saved = errno;
    bl_safetensors *file = NULL;
    int             code = create(&file, "memory");
    if (code != 0) {
        return code;
    }
    code = parse(file, data, bytes);
    if (code == 0) {
        *out = file;
    } else {
        bl_safetensors_close(file);
    }
    errno = saved;
    return code;
}

void bl_safetensors_close(bl_safetensors *file)
{
    if (file == NULL) {
        return;
    }
    int saved = errno;
    if (file->map != NULL) {
        munmap(file->map, file->map_bytes);
    }
    json_decref(file->root);
    free(file->tensors);
    free(file->by_name);
    free(file->label);
    free(file);
    errno = saved;
}

int64_t bl_safetensors_get_count(const bl_safetensors *file)
{
    return file == NULL ? 0 : file->count;
}

int bl_safetensors_get_tensor(const bl_safetensors *file, int64_t index,
                              bl_tensor_info *out)
{
    if (file == NULL || out == NULL) {
        return bl__io_fail(BL_E_ARG, NULL, "%s is NULL", file == NULL ? "file" : "out");
    }
    if (index < 0 || index >= file->count) {
        return bl__io_fail(BL_E_ARG, file->label, "index is %lld, must be in 0..%lld",
                           (long long) index, (long long) file->count - 1);
    }
    const struct bl__io_tensor *tensor = &file->tensors[index];
    memset(out, 0, sizeof *out);
    out->name = tensor->name;
    out->dtype_name = tensor->dtype->name;
    out->dtype = tensor->dtype->dtype;
    out->data = file->data + tensor->begin;
    out->bytes = (size_t) (tensor->end - tensor->begin);
    out->elements = tensor->elements;
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    out->dims = tensor->dims;
    return 0;
}

int64_t bl_safetensors_find(const bl_safetensors *file, const char *name)
{
    int64_t low = 0;
    int64_t high = file == NULL || name == NULL ? 0 : file->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int     order = strcmp(name, file->by_name[middle]->name);
        if (order == 0) {
            return (int64_t) (file->by_name[middle] - file->tensors);
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return -1;
}

const char *bl_safetensors_get_metadata(const bl_safetensors *file, const char *key)
{
    if (file == NULL || key == NULL) {
        return NULL;
    }
    return json_string_value(json_object_get(json_object_get(file->root, METADATA), key));
}
