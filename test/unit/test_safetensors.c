/* Reading and writing safetensors: the reference's vectors, hostile headers, conversions,
 * round trips, and writes that fail. Files go to a folder of their own under TMPDIR. */
#define _POSIX_C_SOURCE 200809L

#include "io_check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ----- files of our own making ----- */

/* Names in the folder; those other than "." and "..". */
static int count_files(void)
{
    DIR *dir = opendir(folder);
    ck_assert_ptr_nonnull(dir);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            remove(path_to(entry->d_name));
        }
    }
    closedir(dir);
    rmdir(folder);
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

static unsigned char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    unsigned char *data = must_alloc(1 << 20, 1);
    *size = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

/* ----- files in memory ----- */

/* Header and `data_bytes` bytes 0, 1, 2, ... in memory of exactly their size, so that a
 * sanitizer sees a step outside. */
static unsigned char *image(const char *header, size_t data_bytes, size_t *size)
{
    size_t n = strlen(header);
    *size = 8 + n + data_bytes;
    unsigned char *raw = must_alloc((int64_t) *size, 1);
    for (int i = 0; i < 8; i++) {
        raw[i] = (unsigned char) ((uint64_t) n >> (8 * i));
    }
    memcpy(raw + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) {
        raw[8 + n + i] = (unsigned char) i;
    }
    return raw;
}

static void accept(const char *header, size_t data_bytes, int64_t count)
{
    size_t          size;
    unsigned char  *raw = image(header, data_bytes, &size);
    bl_safetensors *file = NULL;
    io_ok(bl_safetensors_open_memory(&file, raw, size));
    ck_assert_int_eq(bl_safetensors_get_count(file), count);
    bl_safetensors_close(file);
    free(raw);
}

static void refuse_bytes(const void *data, size_t size, const char *part)
{
    unsigned char *raw = must_alloc((int64_t) size, 1);
    if (size > 0) {
        memcpy(raw, data, size);
    }
    bl_safetensors *file = NULL;
    io_fails(bl_safetensors_open_memory(&file, raw, size), BL_E_FORMAT, part);
    ck_assert_ptr_null(file);
    ck_assert_ptr_null(strchr(bl_io_last_error(), '\n'));
    free(raw);
}

static void refuse(const char *header, size_t data_bytes, const char *part)
{
    size_t         size;
    unsigned char *raw = image(header, data_bytes, &size);
    refuse_bytes(raw, size, part);
    free(raw);
}

#define VECTOR_1 "{\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}"
#define ENTRY(name, dtype, shape, begin, end)                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin \
    "," end "]}"

START_TEST(vectors_accepted)
{
    ck_assert_uint_eq(strlen(VECTOR_1), 60);
    accept(VECTOR_1, 16, 1);
    accept("{\"test\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1);
    accept("{}\r \t\n", 0, 0);
    accept("\t\n{}\r ", 0, 0);
    accept("{\"test\":{\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0, 0]}}", 0,
           1);
}
END_TEST

START_TEST(vectors_refused)
{
    static const unsigned char huge[] = { 0x3c, 0, 0, 0, 0, 0xff, 0xff, 0xff };
    static const unsigned char bare[] = { 0x3c, 0, 0, 0, 0, 0, 0, 0 };
    static const unsigned char text[] = { 1, 0, 0, 0, 0, 0, 0, 0, 0xff };
    static const unsigned char none[] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    refuse(VECTOR_1, 20, "tensors take 16 bytes, the file has 20");
    refuse(VECTOR_1, 14, "tensors take 16 bytes, the file has 14");
    refuse_bytes(huge, sizeof huge, "at most 100000000");
    refuse_bytes("", 0, "has 0 bytes");
    refuse_bytes(bare, sizeof bare, "only 0 are left");
    refuse_bytes(bare, 7, "has 7 bytes");
    refuse_bytes(text, sizeof text, "unable to decode byte 0xff");
    refuse_bytes(none, sizeof none, "header is empty");
    refuse("{", 0, "header, byte 1");
    refuse("{" ENTRY("test", "I32", "[2,2]", "0", "4") "}", 4,
           "data_offsets spans 4 bytes");
    refuse("{" ENTRY("test", "I32", "[2,18446744073709551614]", "0", "16") "}", 16,
           "too big integer");
    refuse("{" ENTRY("test", "I32", "[2,9223372036854775807]", "0", "16") "}", 16,
           "2^63");
    refuse("{" ENTRY("test", "I32", "[9223372036854775807]", "0", "16") "}", 16, "2^63");
}
END_TEST

/* Ten tensors that share one range; a patched length; names under a length of 1000. */
START_TEST(vectors_attacks)
{
    char   header[2048] = "{";
    size_t size;
    for (int i = 0; i < 10; i++) {
        char entry[128];
        snprintf(entry, sizeof entry, "%s" ENTRY("t%d", "I32", "[2,2]", "0", "16"),
                 i == 0 ? "" : ",", i);
        strcat(header, entry);
    }
    strcat(header, "}");
    refuse(header, 16, "overlap");

    unsigned char *raw = image(VECTOR_1, 16, &size);
    raw[0] = 1000 & 0xff;
    raw[1] = 1000 >> 8;
    refuse_bytes(raw, size, "header of 1000 bytes, but only 76 are left");
    free(raw);
}
END_TEST

/* The attack of ten million entries on one range, of a size that a test can have: refused at
 * the first overlap, in time that does not grow with the square of their number. */
START_TEST(many_aliases)
{
    enum { COUNT = 50000, ROOM = 80 };
    size_t used = 1;
    char  *header = must_alloc(COUNT, ROOM);
    header[0] = '{';
    for (int i = 0; i < COUNT; i++) {
        used += (size_t) snprintf(header + used, ROOM,
                                  "%s" ENTRY("t%d", "I32", "[2,2]", "0", "16"),
                                  i == 0 ? "" : ",", i);
    }
    header[used] = '}';
    refuse(header, 16, "overlap");
    free(header);
}
END_TEST

/* What other readers have fallen over: lengths that wrap when 8 is added to them. */
START_TEST(lengths_that_wrap)
{
    static const uint64_t lengths[] = { UINT64_MAX,     UINT64_MAX - 5,
                                        UINT64_MAX - 7, UINT64_MAX - 8,
                                        INT64_MAX,      (uint64_t) 1 << 63,
                                        100000001 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char file[16] = { 0 };
        for (int k = 0; k < 8; k++) {
            file[k] = (unsigned char) (lengths[i] >> (8 * k));
        }
        memcpy(file + 8, "{}", 2);
        refuse_bytes(file, sizeof file, "at most 100000000 are allowed");
    }
}
END_TEST

/* A name is any text: a path in it opens nothing, escapes are what they stand for, and a
 * long one is refused nowhere but cut in messages. */
START_TEST(names)
{
    size_t         size;
    unsigned char *raw =
        image("{" ENTRY("../../etc/passwd", "U8", "[1]", "0",
                        "1") "," ENTRY("\\ud83d\\ude00\\/", "U8", "[1]", "1", "2") "}",
              2, &size);
    bl_safetensors *file = NULL;
    io_ok(bl_safetensors_open_memory(&file, raw, size));
    ck_assert_int_eq(bl_safetensors_find(file, "../../etc/passwd"), 0);
    ck_assert_int_eq(bl_safetensors_find(file, "\xf0\x9f\x98\x80/"), 1);
    bl_safetensors_close(file);
    free(raw);

    enum { LONG = 100000 };
    char *header = must_alloc(LONG + 80, 1);
    memcpy(header, "{\"", 2);
    memset(header + 2, 'n', LONG);
    strcpy(header + 2 + LONG,
           "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    accept(header, 1, 1);
    refuse(header, 2, "tensors take 1 bytes");
    strcpy(header + 2 + LONG, "\":7}");
    refuse(header, 2, "nnn: is described by no JSON object");
    free(header);
}
END_TEST

START_TEST(malformed)
{
    static const char *const headers[][2] = {
        { "[]", "no JSON object" },
        { "{\"t\":1}", "no JSON object" },
        { "{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "dtype is missing" },
        { "{\"t\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}",
          "dtype is missing" },
        { "{" ENTRY("t", "F33", "[1]", "0", "4") "}", "dtype F33 is unknown" },
        { "{" ENTRY("t", "f32", "[1]", "0", "4") "}", "dtype f32 is unknown" },
        { "{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", "shape is missing" },
        { "{" ENTRY("t", "F32", "{}", "0", "4") "}", "shape is missing" },
        { "{" ENTRY("t", "F32", "[-1]", "0", "4") "}", "shape holds what is no size" },
        { "{" ENTRY("t", "F32", "[1.0]", "0", "4") "}", "shape holds what is no size" },
        { "{" ENTRY("t", "F32", "[1e0]", "0", "4") "}", "shape holds what is no size" },
        { "{" ENTRY("t", "F32", "[\"1\"]", "0", "4") "}", "shape holds what is no size" },
        { "{" ENTRY("t", "F32", "[true]", "0", "4") "}", "shape holds what is no size" },
        { "{" ENTRY("t", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", "8 dimensions" },
        { "{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", "data_offsets is not two" },
        { "{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "not two" },
        { "{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}",
          "not two" },
        { "{" ENTRY("t", "F32", "[1]", "-4", "0") "}", "data_offsets is not two" },
        { "{" ENTRY("t", "F32", "[1]", "0", "4.0") "}", "data_offsets is not two" },
        { "{" ENTRY("t", "F32", "[1]", "4", "0") "}", "ends before it begins" },
        { "{" ENTRY("t", "F4", "[1]", "0", "0") "}", "whole bytes" },
        { "{" ENTRY("t", "F6_E2M3", "[3]", "0", "2") "}", "whole bytes" },
        { "{" ENTRY("a", "U8", "[2]", "0", "2") "," ENTRY("b", "U8", "[1]", "3", "4") "}",
          "hole" },
        { "{" ENTRY("a", "U8", "[3]", "0", "3") "," ENTRY("b", "U8", "[2]", "2", "4") "}",
          "overlap" },
        { "{" ENTRY("a", "U8", "[3]", "1", "4") "}", "begins at 1, must begin at 0" },
        { "{" ENTRY("a", "U8", "[2]", "0", "2") "," ENTRY("a", "U8", "[2]", "2", "4") "}",
          "duplicate" },
        { "{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"
          "}",
          "duplicate" },
        { "{" ENTRY("a\\u0000b", "F32", "[1]", "0", "4") "}", "\\u0000" },
        { "{" ENTRY("\\ud800", "F32", "[1]", "0", "4") "}", "Unicode" },
        { "{\"__metadata__\":{\"k\":1}}", "__metadata__ k is no string" },
        { "{\"__metadata__\":[]}", "__metadata__ is no JSON object" },
        { "{} x", "end of file expected" },
        { "{" ENTRY("a\\nb", "F33", "[1]", "0", "4") "}", "tensor a?b: dtype" },
    };
    const char *const *header = headers[_i];
    if (_i < (int) (sizeof headers / sizeof headers[0])) {
        refuse(header[0], 4, header[1]);
    }
}
END_TEST

START_TEST(nesting)
{
    enum { DEPTH = 200000 };
    char *header = must_alloc(2 * DEPTH + 64, 1);
    char *at = header + sprintf(header, "{\"t\":");
    memset(at, '[', DEPTH);
    refuse(header, 0, "depth");
    memset(at + DEPTH, ']', DEPTH);
    strcat(header, "}");
    refuse(header, 0, "depth");
    free(header);
}
END_TEST

/* Every file cut short, and every single bit flipped: refused or read, never outside. */
START_TEST(damaged)
{
    size_t         size;
    unsigned char *raw = image(
        "{\"__metadata__\":{\"k\":\"v\"}," ENTRY(
            "a", "F32", "[2,2]", "0", "16") "," ENTRY("b", "F16", "[3]", "16", "22") "}",
        22, &size);
    for (size_t cut = 0; cut < size; cut++) {
        refuse_bytes(raw, cut, "");
    }
    for (size_t bit = 0; bit < 8 * size; bit++) {
        bl_safetensors *file = NULL;
        raw[bit / 8] ^= (unsigned char) (1u << bit % 8);
        if (bl_safetensors_open_memory(&file, raw, size) == 0) {
            for (int64_t i = 0; i < bl_safetensors_get_count(file); i++) {
                bl_tensor_info info;
                double         values[32];
                io_ok(bl_safetensors_get_tensor(file, i, &info));
                ck_assert(info.bytes <= 22);
                bl_safetensors_copy(file, i, BL_F64, values, 8);
            }
        }
        bl_safetensors_close(file);
        raw[bit / 8] ^= (unsigned char) (1u << bit % 8);
    }
    free(raw);
}
END_TEST

START_TEST(looking)
{
    size_t         size;
    unsigned char *raw =
        image("{" ENTRY("z", "I32", "[2,1]", "4", "12") "," ENTRY(
                  "empty", "F32", "[0,3]", "4",
                  "4") ",\"__metadata__\":"
                       "{\"format\":\"pt\"}," ENTRY("a", "F32", "[]", "0", "4") "}",
              12, &size);
    bl_safetensors *file = NULL;
    bl_tensor_info  info;
    io_ok(bl_safetensors_open_memory(&file, raw, size));
    ck_assert_int_eq(bl_safetensors_get_count(file), 3);
    ck_assert_int_eq(bl_safetensors_find(file, "a"), 0);
    ck_assert_int_eq(bl_safetensors_find(file, "empty"), 1);
    ck_assert_int_eq(bl_safetensors_find(file, "z"), 2);
    ck_assert_int_eq(bl_safetensors_find(file, "__metadata__"), -1);
    ck_assert_int_eq(bl_safetensors_find(file, ""), -1);
    ck_assert_str_eq(bl_safetensors_get_metadata(file, "format"), "pt");
    ck_assert_ptr_null(bl_safetensors_get_metadata(file, "other"));

    io_ok(bl_safetensors_get_tensor(file, 2, &info));
    ck_assert_str_eq(info.name, "z");
    ck_assert_str_eq(info.dtype_name, "I32");
    ck_assert_int_eq(info.dtype, BL_DTYPE_OTHER);
    ck_assert_int_eq(info.dims, 2);
    ck_assert_int_eq(info.shape[0], 2);
    ck_assert_int_eq(info.shape[1], 1);
    ck_assert_int_eq(info.elements, 2);
    ck_assert_uint_eq(info.bytes, 8);
    ck_assert_int_eq(((const unsigned char *) info.data)[0], 4);
    io_ok(bl_safetensors_get_tensor(file, 0, &info));
    ck_assert_int_eq(info.dims, 0);
    ck_assert_int_eq(info.elements, 1);
    io_ok(bl_safetensors_get_tensor(file, 1, &info));
    ck_assert_int_eq(info.elements, 0);
    ck_assert_uint_eq(info.bytes, 0);

    io_fails(bl_safetensors_get_tensor(file, 3, &info), BL_E_ARG, "index is 3");
    io_fails(bl_safetensors_get_tensor(file, -1, &info), BL_E_ARG, "index is -1");
    float value;
    io_fails(bl_safetensors_copy(file, 2, BL_F32, &value, 1), BL_E_ARG, "dtype I32");
    io_fails(bl_safetensors_copy(file, 0, BL_F16, &value, 1), BL_E_ARG, "dtype is 3");
    io_fails(bl_safetensors_copy(file, 0, BL_F32, &value, 0), BL_E_SHAPE, "ld is 0");
    io_fails(bl_safetensors_copy(file, 0, BL_F32, NULL, 1), BL_E_ARG, "dst is NULL");
    io_ok(bl_safetensors_copy(file, 1, BL_F32, NULL, 3)); /* nothing to copy */
    io_fails(bl_safetensors_open_memory(NULL, raw, size), BL_E_ARG, "out is NULL");
    bl_safetensors_close(file);
    bl_safetensors_close(NULL);
    free(raw);
}
END_TEST

/* Data at an odd address, 8 dtypes' special values, rows with padding. */
START_TEST(conversions)
{
    static const uint16_t half[] = { 0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00,
                                     0xc000, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3555 };
    static const double   half_values[] = {
          0.0,  -0.0,    0x1p-24,           1023 * 0x1p-24,     0x1p-14,      1.0,
          -2.0, 65504.0, (double) INFINITY, (double) -INFINITY, (double) NAN, 1365 * 0x1p-12
    };
    static const uint16_t brain[] = { 0x3f80, 0xc000, 0x0001, 0x7f7f, 0x7f80, 0x7fc0 };
    static const double   brain_values[] = {
          1.0, -2.0, 0x1p-133, 255 * 0x1p120, (double) INFINITY, (double) NAN
    };
    size_t         size;
    unsigned char *raw = image("{" ENTRY("h", "F16", "[2,6]", "0", "24") "," ENTRY(
                                   "b", "BF16", "[2,1,3]", "24", "36") "}   ",
                               36, &size);
    unsigned char *data = raw + size - 36;
    for (int i = 0; i < 12; i++) {
        data[2 * i] = (unsigned char) (half[i] & 0xff);
        data[2 * i + 1] = (unsigned char) (half[i] >> 8);
    }
    for (int i = 0; i < 6; i++) {
        data[24 + 2 * i] = (unsigned char) (brain[i] & 0xff);
        data[24 + 2 * i + 1] = (unsigned char) (brain[i] >> 8);
    }
    for (int offset = 0; offset < 2; offset++) {
        unsigned char  *moved = must_alloc((int64_t) size + 1, 1);
        bl_safetensors *file = NULL;
        memcpy(moved + offset, raw, size);
        io_ok(bl_safetensors_open_memory(&file, moved + offset, size));
        for (int k = 0; k < 2; k++) {
            int32_t dtype = k == 0 ? BL_F32 : BL_F64;
            mat     h = mat_new(dtype, 2, 6, 9);
            mat     b = mat_new(dtype, 2, 3, 3);
            io_ok(bl_safetensors_copy(file, 0, dtype, h.data, h.ld));
            io_ok(bl_safetensors_copy(file, 1, dtype, b.data, b.ld));
            for (int i = 0; i < 12; i++) {
                double got = mat_get(&h, i / 6, i % 6);
                ck_assert(isnan(half_values[i]) ? isnan(got) : got == half_values[i]);
                ck_assert(isnan(got) || signbit(got) == signbit(half_values[i]));
            }
            for (int i = 0; i < 6; i++) {
                double got = mat_get(&b, i / 3, i % 3);
                ck_assert(isnan(brain_values[i]) ? isnan(got) : got == brain_values[i]);
            }
            mat_check_padding(&h);
            mat_check_padding(&b);
            mat_free(&h);
            mat_free(&b);
        }
        bl_safetensors_close(file);
        free(moved);
    }
    free(raw);
}
END_TEST

/* ----- writing ----- */

static bl_array array_of(const char *name, int32_t dtype, int32_t dims, int64_t rows,
                         int64_t cols, const void *data)
{
    bl_array array;
    memset(&array, 0, sizeof array);
    snprintf(array.name, sizeof array.name, "%s", name);
    array.dtype = dtype;
    array.dims = dims;
    array.shape[0] = rows;
    array.shape[1] = cols;
    array.data = data;
    return array;
}

START_TEST(round_trip)
{
    static const float    f32[] = { 1, -2.5f, 3e-30f, 0, 5, 6 };
    static const double   f64[] = { 1.0 / 3, -1e300 };
    static const int64_t  i64[] = { INT64_MIN, 7, INT64_MAX };
    static const uint8_t  u8[] = { 0, 255, 3 };
    static const uint16_t bits[] = { 0x3c00, 0x7fff };
    const char *const     metadata[] = { "format", "pt", "k\"\\\n", "\xc3\xa4", NULL };
    const bl_array        arrays[] = {
               array_of("u8", BL_U8, 1, 3, 0, u8),
               array_of("b", BL_F32, 2, 2, 3, f32),
               array_of("a \"quoted\\\" \xc3\xa4", BL_F32, 1, 6, 0, f32),
               array_of("f64", BL_F64, 2, 2, 1, f64),
               array_of("i64", BL_I64, 1, 3, 0, i64),
               array_of("bf16", BL_BF16, 1, 2, 0, bits),
               array_of("f16", BL_F16, 1, 2, 0, bits),
               array_of("none", BL_F32, 2, 0, 5, NULL),
    };
    static const char *const order[] = { "i64", "f64",  "a \"quoted\\\" \xc3\xa4",
                                         "b",   "none", "bf16",
                                         "f16", "u8" };
    static const size_t      sizes[] = { 24, 16, 24, 24, 0, 4, 4, 3 };
    const void *const        data[] = { i64, f64, f32, f32, NULL, bits, bits, u8 };

    make_folder();
    io_ok(bl_safetensors_write(path_to("x"), arrays, 8, metadata));
    ck_assert_int_eq(count_files(), 1);
    bl_safetensors *file = NULL;
    io_ok(bl_safetensors_open(&file, path_to("x")));
    ck_assert_int_eq(bl_safetensors_get_count(file), 8);
    for (int i = 0; i < 8; i++) {
        bl_tensor_info info;
        int64_t        index = bl_safetensors_find(file, order[i]);
        ck_assert_int_ge(index, 0);
        io_ok(bl_safetensors_get_tensor(file, index, &info));
        ck_assert_uint_eq(info.bytes, sizes[i]);
        ck_assert(sizes[i] == 0 || memcmp(info.data, data[i], sizes[i]) == 0);
        if (sizes[i] > 0) { /* an empty one may stand before or after its neighbour */
            io_ok(bl_safetensors_get_tensor(file, i, &info));
            ck_assert(i == 3 || i == 4 || strcmp(info.name, order[i]) == 0);
        }
    }
    ck_assert_str_eq(bl_safetensors_get_metadata(file, "k\"\\\n"), "\xc3\xa4");
    double values[2];
    io_ok(bl_safetensors_copy(file, bl_safetensors_find(file, "f64"), BL_F64, values, 1));
    ck_assert(memcmp(values, f64, sizeof f64) == 0);
    float singles[2];
    io_ok(
        bl_safetensors_copy(file, bl_safetensors_find(file, "f64"), BL_F32, singles, 1));
    ck_assert(singles[0] == (float) (1.0 / 3) && isinf(singles[1]));
    bl_safetensors_close(file);

    /* strict layout: '{' first, spaces last, data at a multiple of 8; equal bytes again
     */
    size_t         size, again_size;
    unsigned char *raw = read_file(path_to("x"), &size);
    uint64_t       n = raw[0] + 256u * raw[1];
    ck_assert_uint_eq(n % 8, 0);
    ck_assert_int_eq(raw[8], '{');
    ck_assert(raw[8 + n - 1] == ' ' || raw[8 + n - 1] == '}');
    ck_assert_uint_eq(size, 8 + n + 99);
    io_ok(bl_safetensors_write(path_to("x"), arrays, 8, metadata));
    unsigned char *again = read_file(path_to("x"), &again_size);
    ck_assert(size == again_size && memcmp(raw, again, size) == 0);
    free(raw);
    free(again);

    io_ok(bl_safetensors_write(path_to("empty"), NULL, 0, NULL));
    io_ok(bl_safetensors_open(&file, path_to("empty")));
    ck_assert_int_eq(bl_safetensors_get_count(file), 0);
    bl_safetensors_close(file);
    remove_folder();
}
END_TEST

START_TEST(write_refused)
{
    static const float f32[] = { 1, 2 };
    const char        *odd[] = { "key", NULL };
    const char        *twice[] = { "key", "a", "key", "b", NULL };
    bl_array           good[] = { array_of("a", BL_F32, 1, 2, 0, f32),
                                  array_of("b", BL_F32, 1, 2, 0, f32) };
    make_folder();
    write_file(path_to("x"), "old", 3);

#define REFUSED(change, code, part)                                                      \
    do {                                                                                 \
        bl_array bad[2] = { good[0], good[1] };                                          \
        change;                                                                          \
        io_fails(bl_safetensors_write(path_to("x"), bad, 2, NULL), code, part);          \
    } while (0)
    REFUSED(bad[1].name[0] = '\0', BL_E_ARG, "may not be named");
    REFUSED(strcpy(bad[1].name, "__metadata__"), BL_E_ARG, "may not be named");
    REFUSED(strcpy(bad[1].name, "a"), BL_E_ARG, "two arrays are named a");
    REFUSED((strcpy(bad[1].name, "a"), bad[1].dtype = BL_U8), BL_E_ARG, "two arrays");
    REFUSED(strcpy(bad[1].name, "\xff"), BL_E_ARG, "UTF-8");
    REFUSED(memset(bad[1].name, 'x', BL_NAME_MAX), BL_E_ARG, "no final NUL");
    REFUSED(bad[1].dtype = 9, BL_E_ARG, "dtype is 9");
    REFUSED(bad[1].dims = 3, BL_E_SHAPE, "dims is 3");
    REFUSED(bad[1].shape[0] = -1, BL_E_RANGE, "impossible");
    REFUSED((bad[1].dims = 2, bad[1].shape[0] = bad[1].shape[1] = (int64_t) 1 << 31),
            BL_E_RANGE, "impossible");
    REFUSED(bad[1].data = NULL, BL_E_ARG, "data is NULL");
#undef REFUSED
    io_fails(bl_safetensors_write(path_to("x"), good, 2, odd), BL_E_ARG, "has no value");
    io_fails(bl_safetensors_write(path_to("x"), good, 2, twice), BL_E_ARG, "repeated");
    io_fails(bl_safetensors_write(path_to("x"), good, -1, NULL), BL_E_RANGE,
             "count is -1");
    io_fails(bl_safetensors_write(NULL, good, 2, NULL), BL_E_ARG, "path is NULL");
    io_fails(bl_safetensors_write(path_to("x"), NULL, 2, NULL), BL_E_ARG, "arrays");
    io_fails(bl_safetensors_write(path_to("no/x"), good, 2, NULL), BL_E_IO, "no/x");

    size_t         size;
    unsigned char *raw = read_file(path_to("x"), &size);
    ck_assert(size == 3 && memcmp(raw, "old", 3) == 0);
    ck_assert_int_eq(count_files(), 1);
    free(raw);
    remove_folder();
}
END_TEST

/* A full disk, played by the limit on file sizes: the old file stays, nothing else. */
START_TEST(write_fails)
{
    enum { COUNT = 1 << 16 };
    float   *values = must_alloc(COUNT, sizeof *values);
    bl_array array = array_of("a", BL_F32, 1, COUNT, 0, values);
    make_folder();
    write_file(path_to("x"), "old", 3);
    struct rlimit old, limit;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 100000; /* Check writes too: given back before any assertion */
    setrlimit(RLIMIT_FSIZE, &limit);
    int code = bl_safetensors_write(path_to("x"), &array, 1, NULL);
    setrlimit(RLIMIT_FSIZE, &old);
    io_fails(code, BL_E_IO, "cannot write");
    size_t         size;
    unsigned char *raw = read_file(path_to("x"), &size);
    ck_assert(size == 3 && memcmp(raw, "old", 3) == 0);
    ck_assert_int_eq(count_files(), 1);

    /* the target is a folder: the rename fails */
    array.shape[0] = 4;
    ck_assert_int_eq(mkdir(path_to("d"), 0777), 0);
    io_fails(bl_safetensors_write(path_to("d"), &array, 1, NULL), BL_E_IO, "in place");
    ck_assert_int_eq(count_files(), 2);

    /* what a crashed process left is stepped over, and left alone */
    char left[64];
    snprintf(left, sizeof left, "y.tmp-%ld-0", (long) getpid());
    write_file(path_to(left), "left", 4);
    io_ok(bl_safetensors_write(path_to("y"), &array, 1, NULL));
    ck_assert_int_eq(access(path_to(left), F_OK), 0);
    free(raw);
    free(values);
    remove_folder();
}
END_TEST

START_TEST(open_refused)
{
    bl_safetensors *file = NULL;
    make_folder();
    io_fails(bl_safetensors_open(&file, path_to("absent")), BL_E_IO,
             "absent: cannot open");
    io_fails(bl_safetensors_open(&file, folder), BL_E_IO, "not a regular file");
    ck_assert_int_eq(mkfifo(path_to("pipe"), 0600), 0);
    io_fails(bl_safetensors_open(&file, path_to("pipe")), BL_E_IO, "not a regular file");
    write_file(path_to("empty"), "", 0);
    io_fails(bl_safetensors_open(&file, path_to("empty")), BL_E_FORMAT, "empty: has 0");
    io_fails(bl_safetensors_open(&file, NULL), BL_E_ARG, "path is NULL");
    io_fails(bl_safetensors_open(NULL, "x"), BL_E_ARG, "out is NULL");
    ck_assert_ptr_null(file);
    remove_folder();
}
END_TEST

/* ----- arrays that are delivered ----- */

struct delivery {
    const bl_array *arrays;
    size_t          piece; /* bytes at a time              */
    int64_t         order[3], calls;
    int             wrong; /* what the source does instead */
};

enum { RIGHT, TOO_LITTLE, TOO_MUCH, HALF_AN_ELEMENT, GIVES_UP, NO_DATA };

static int source(void *user, int64_t index, bl_write_fn write, void *to)
{
    struct delivery     *d = user;
    const bl_array      *array = &d->arrays[index];
    size_t               width = array->dtype == BL_F32 ? 4 : 2;
    size_t               total = width * (size_t) (array->shape[0] * array->shape[1]);
    const unsigned char *data = array->data;
    d->order[d->calls++] = index;
    switch (d->wrong) {
    case TOO_LITTLE:
        return write(to, data, total - width);
    case TOO_MUCH:
        return write(to, data, total) != 0 || write(to, data, width) != 0 ? -1 : 0;
    case HALF_AN_ELEMENT:
        write(to, data, width / 2);
        return 0; /* the failure is remembered */
    case GIVES_UP:
        return 7;
    case NO_DATA:
        return write(to, NULL, width);
    default:
        break;
    }
    for (size_t at = 0; at < total; at += d->piece) {
        if (write(to, data + at, total - at < d->piece ? total - at : d->piece) != 0) {
            return -1;
        }
    }
    return 0;
}

START_TEST(streamed)
{
    enum { COUNT = 40000 }; /* more than a buffer */
    static const char *const metadata[] = { "k", "v", NULL };
    float                   *values = must_alloc(COUNT, sizeof *values);
    for (int i = 0; i < COUNT; i++) {
        values[i] = (float) noise(1, (uint64_t) i);
    }
    bl_array arrays[] = {
        { "b", values, { 200, 200 }, 2, BL_F32 },
        { "c", values, { 3, 5 }, 2, BL_BF16 },
        { "a", values, { COUNT, 1 }, 2, BL_F32 },
    };
    bl_array        blank[3];
    struct delivery d = { .arrays = arrays };
    make_folder();
    io_ok(bl_safetensors_write(path_to("whole"), arrays, 3, metadata));
    size_t         size, other;
    unsigned char *whole = read_file(path_to("whole"), &size), *got;
    memcpy(blank, arrays, sizeof blank);
    for (int i = 0; i < 3; i++) {
        blank[i].data = NULL; /* not looked at */
    }
    for (size_t piece = 4; piece < 400000; piece *= 7) {
        d.piece = piece;
        d.calls = 0;
        io_ok(bl_safetensors_stream(path_to("x"), blank, 3, metadata, source, &d));
        ck_assert_int_eq(d.calls, 3);
        ck_assert(d.order[0] == 2 && d.order[1] == 0 && d.order[2] == 1);
        got = read_file(path_to("x"), &other);
        ck_assert(other == size && memcmp(got, whole, size) == 0);
        free(got);
    }
    static const struct {
        int         wrong, code;
        const char *text;
    } cases[] = {
        { TOO_LITTLE, BL_E_SHAPE, "array a: its source left out 4 bytes" },
        { TOO_MUCH, BL_E_SHAPE, "array a: a piece of 4 bytes" },
        { HALF_AN_ELEMENT, BL_E_SHAPE, "array a: a piece of 2 bytes" },
        { GIVES_UP, BL_E_USER, "array a: its source gave up with 7" },
        { NO_DATA, BL_E_ARG, "array a: data is NULL" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        d.wrong = cases[i].wrong;
        d.calls = 0;
        io_fails(bl_safetensors_stream(path_to("x"), blank, 3, metadata, source, &d),
                 cases[i].code, cases[i].text);
        ck_assert_int_eq(d.calls, 1);
        got = read_file(path_to("x"), &other);
        ck_assert(other == size && memcmp(got, whole, size) == 0);
        free(got);
    }
    ck_assert_int_eq(count_files(), 2);
    io_fails(bl_safetensors_stream(path_to("x"), blank, 3, metadata, NULL, &d), BL_E_ARG,
             "source is NULL");
    free(whole);
    free(values);
    remove_folder();
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *reading = tcase_create("reading");
    tcase_add_test(reading, vectors_accepted);
    tcase_add_test(reading, vectors_refused);
    tcase_add_test(reading, vectors_attacks);
    tcase_add_test(reading, many_aliases);
    tcase_add_test(reading, lengths_that_wrap);
    tcase_add_test(reading, names);
    tcase_add_loop_test(reading, malformed, 0, 33);
    tcase_add_test(reading, nesting);
    tcase_add_test(reading, damaged);
    tcase_add_test(reading, looking);
    tcase_add_test(reading, conversions);
    tcase_add_test(reading, open_refused);
    suite_add_tcase(suite, reading);
    TCase *writing = tcase_create("writing");
    tcase_add_test(writing, round_trip);
    tcase_add_test(writing, streamed);
    tcase_add_test(writing, write_refused);
    tcase_add_test(writing, write_fails);
    suite_add_tcase(suite, writing);
    return suite;
}
