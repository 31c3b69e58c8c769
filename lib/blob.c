/*
 * The state as one little-endian blob:
 *
 *     "BLSTATE1"  u64 format  u64 number of arrays
 *     for each array: its descriptor (name, shape, dims, dtype), then its data,
 *                     padded to 8 bytes
 *     u64 checksum of everything before it
 *
 * Written straight from the group's memory, read straight from the host's.
 */
#include <string.h>

#include "internal.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "state blobs are little-endian, and so must be the machine"
#endif

static const char     magic[8] = "BLSTATE";
static const uint64_t version = 1;

/* name, shape, dims and dtype of an array, as bytes */
enum { DESCRIPTOR = BL_NAME_MAX + 24, HEAD = 24, TAIL = 8 };

/* A 64-bit hash over words: catches damage, not malice. Bytes come in multiples of 8. */
static uint64_t checksum(uint64_t sum, const void *data, size_t bytes)
{
    const char *at = data;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, sizeof word);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
        sum ^= sum >> 32;
    }
    return sum;
}

static size_t data_bytes(const bl_array *array)
{
    const size_t count = bl__mul((size_t) array->shape[0],
                                 array->dims == 2 ? (size_t) array->shape[1] : 1);
    return bl__mul(count, bl__dtype_bytes(array->dtype));
}

static size_t padded(size_t bytes)
{
    return bl__add(bytes, 7) / 8 * 8;
}

struct writer {
    bl_write_fn write;
    void       *user;
    uint64_t    sum;
    int         failed;
};

static void put(struct writer *writer, const void *data, size_t bytes)
{
    const size_t whole = bytes / 8 * 8;
    if (writer->failed) {
        return;
    }
    if (whole > 0) {
        writer->sum = checksum(writer->sum, data, whole);
        writer->failed = writer->write(writer->user, data, whole) != 0;
    }
    if (whole < bytes && !writer->failed) {
        unsigned char last[8] = { 0 };
        memcpy(last, (const char *) data + whole, bytes - whole);
        writer->sum = checksum(writer->sum, last, sizeof last);
        writer->failed = writer->write(writer->user, last, sizeof last) != 0;
    }
}

size_t bl_group_get_saved_bytes(const bl_group *group)
{
    size_t total = HEAD + TAIL;
    for (int64_t i = 0; i < bl_group_get_state_count(group); i++) {
        bl_array array;
        bl_group_get_state(group, i, &array);
        total += DESCRIPTOR + padded(data_bytes(&array));
    }
    return total;
}

int bl_group_save(const bl_group *group, bl_write_fn write, void *user)
{
    if (group == NULL || write == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "write");
    }
    const uint64_t count = (uint64_t) bl_group_get_state_count(group);
    struct writer  writer = { .write = write, .user = user };
    put(&writer, magic, sizeof magic);
    put(&writer, &version, sizeof version);
    put(&writer, &count, sizeof count);
    for (int64_t i = 0; i < (int64_t) count; i++) {
        bl_array      array;
        unsigned char descriptor[DESCRIPTOR];
        bl_group_get_state(group, i, &array);
        memcpy(descriptor, array.name, BL_NAME_MAX);
        memcpy(descriptor + BL_NAME_MAX, array.shape, 16);
        memcpy(descriptor + BL_NAME_MAX + 16, &array.dims, 4);
        memcpy(descriptor + BL_NAME_MAX + 20, &array.dtype, 4);
        put(&writer, descriptor, sizeof descriptor);
        put(&writer, array.data, data_bytes(&array));
    }
    const uint64_t sum = writer.sum;
    put(&writer, &sum, sizeof sum);
    return writer.failed
               ? bl__fail(BL_E_USER, "the host's write callback reported an error")
               : 0;
}

/* Array at `*at`, moving it past the array; its data stays in the blob. */
static int read_array(const char *blob, size_t bytes, size_t *at, bl_array *out)
{
    if (bytes - *at < DESCRIPTOR) {
        return bl__fail(BL_E_FORMAT, "the state ends within an array");
    }
    const char *const from = blob + *at;
    memcpy(out->name, from, BL_NAME_MAX);
    memcpy(out->shape, from + BL_NAME_MAX, 16);
    memcpy(&out->dims, from + BL_NAME_MAX + 16, 4);
    memcpy(&out->dtype, from + BL_NAME_MAX + 20, 4);
    out->data = from + DESCRIPTOR;
    *at += DESCRIPTOR;
    if (memchr(out->name, '\0', BL_NAME_MAX) == NULL || out->dims < 1 || out->dims > 2 ||
        out->shape[0] < 0 || out->shape[1] < 0 || bl__dtype_bytes(out->dtype) == 0) {
        return bl__fail(BL_E_FORMAT, "the state holds a malformed array");
    }
    const size_t size = padded(data_bytes(out));
    if (size > bytes - *at) {
        return bl__fail(BL_E_FORMAT, "the state ends within %.200s", out->name);
    }
    *at += size;
    return 0;
}

int bl_group_load(bl_group *group, const void *data, size_t bytes)
{
    if (group == NULL || data == NULL) {
        return bl__fail(BL_E_ARG, "%s is NULL", group == NULL ? "group" : "data");
    }
    const char *const blob = data;
    if (bytes < HEAD + TAIL || memcmp(blob, magic, sizeof magic) != 0) {
        return bl__fail(BL_E_FORMAT, "these %zu bytes are not a saved state", bytes);
    }
    uint64_t found_version, count, sum;
    memcpy(&found_version, blob + 8, sizeof found_version);
    memcpy(&count, blob + 16, sizeof count);
    if (found_version != version) {
        return bl__fail(BL_E_VERSION,
                        "the state has version %llu, this library reads %llu",
                        (unsigned long long) found_version, (unsigned long long) version);
    }
    const size_t body = bytes - TAIL;
    memcpy(&sum, blob + body, sizeof sum);
    if (bytes % 8 != 0 || checksum(0, blob, body) != sum) {
        return bl__fail(BL_E_FORMAT, "the state is damaged: its checksum is wrong");
    }
    if (count > (body - HEAD) / DESCRIPTOR) {
        return bl__fail(BL_E_FORMAT, "the state says it has %llu arrays in %zu bytes",
                        (unsigned long long) count, bytes);
    }
    bl_array *const arrays =
        bl__alloc(&group->allocator, bl__mul((size_t) count, sizeof *arrays));
    if (arrays == NULL) {
        return bl__fail(BL_E_NOMEM, "no memory to list %llu arrays",
                        (unsigned long long) count);
    }
    int    rc = 0;
    size_t at = HEAD;
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        rc = read_array(blob, body, &at, &arrays[i]);
    }
    if (rc == 0 && at != body) {
        rc = bl__fail(BL_E_FORMAT, "the state goes on after its last array");
    }
    if (rc == 0) {
        rc = bl_group_set_state(group, arrays, (int64_t) count);
    }
    bl__free(&group->allocator, arrays);
    return rc;
}
