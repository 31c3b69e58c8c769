/* Inputs and files of the fuzz targets; see fuzz.h. */
#define _POSIX_C_SOURCE 200809L

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>

enum {
    DATA_MOST = 1 << 16, /* bytes of data that text stands for */
    EDITS_MOST = 32
};

void fuzz_abort(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

void fuzz_check_line(const char *line)
{
    fuzz_check(line[0] != '\0');
    for (const char *at = line; *at != '\0'; at++) {
        if ((unsigned char) *at < 0x20 || *at == 0x7f) {
            fprintf(stderr, "the line is \"%s\"\n", line);
            fuzz_check(!"a line holds a control character");
        }
    }
}

/* ===== Inputs ============================================================= */

uint8_t fuzz_byte(struct fuzz_input *from)
{
    if (from->size == 0) {
        return 0;
    }
    from->size--;
    return *from->data++;
}

struct fuzz_input fuzz_line(struct fuzz_input *from)
{
    const uint8_t    *end = from->size > 0 ? memchr(from->data, '\n', from->size) : NULL;
    size_t            size = end != NULL ? (size_t) (end - from->data) : from->size;
    struct fuzz_input line = { from->data, size };

    size += end != NULL;
    from->data += size;
    from->size -= size;
    return line;
}

struct fuzz_input fuzz_part(struct fuzz_input *from)
{
    struct fuzz_input part = *from;

    while (from->size > 0) {
        const uint8_t    *start = from->data;
        struct fuzz_input line = fuzz_line(from);

        if (line.size == 2 && memcmp(line.data, "@@", 2) == 0) {
            part.size = (size_t) (start - part.data);
            return part;
        }
    }
    return part;
}

int64_t fuzz_number(struct fuzz_input *line)
{
    int64_t value = 0, sign = 1;

    while (line->size > 0 && *line->data == ' ') {
        fuzz_byte(line);
    }
    if (line->size > 0 && *line->data == '-') {
        fuzz_byte(line);
        sign = -1;
    }
    while (line->size > 0 && *line->data >= '0' && *line->data <= '9' &&
           value < 100000000) {
        value = 10 * value + (fuzz_byte(line) - '0');
    }
    return sign * value;
}

static void *must(void *memory)
{
    fuzz_check(memory != NULL);
    return memory;
}

void *fuzz_copy(const void *data, size_t size)
{
    void *copy = must(malloc(size > 0 ? size : 1));

    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

/* ===== safetensors ======================================================== */

/* Length, header and `bytes` bytes of data, made of `fill`. */
static uint8_t *assemble(const void *header, size_t n, size_t bytes,
                         struct fuzz_input fill, size_t *size)
{
    uint8_t *file = must(malloc(8 + n + bytes));

    *size = 8 + n + bytes;
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t) ((uint64_t) n >> (8 * i));
    }
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < bytes; i++) {
        file[8 + n + i] = fill.size > 0 ? fill.data[i % fill.size] : 0;
    }
    return file;
}

static size_t limit(int64_t bytes)
{
    return bytes < 0 ? 0 : bytes > DATA_MOST ? DATA_MOST : (size_t) bytes;
}

struct text {
    char  *at;
    size_t used, room;
};

static void add(struct text *text, const void *bytes, size_t size)
{
    while (text->used + size > text->room) {
        text->room = 2 * text->room + 256;
        text->at = must(realloc(text->at, text->room));
    }
    memcpy(text->at + text->used, bytes, size);
    text->used += size;
}

static void add_string(struct text *text, const char *string)
{
    add(text, string, strlen(string));
}

static struct fuzz_input word(struct fuzz_input *line)
{
    struct fuzz_input word = *line;

    word.size = 0;
    while (line->size > 0 && *line->data != ' ') {
        fuzz_byte(line);
        word.size++;
    }
    if (line->size > 0) {
        fuzz_byte(line);
    }
    return word;
}

static int64_t bits_of(struct fuzz_input dtype)
{
    static const struct {
        const char *name;
        int64_t     bits;
    } known[] = { { "F64", 64 },    { "F32", 32 }, { "F16", 16 }, { "BF16", 16 },
                  { "I64", 64 },    { "U8", 8 },   { "I32", 32 }, { "BOOL", 8 },
                  { "F8_E4M3", 8 }, { "F4", 4 } };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) == dtype.size &&
            memcmp(known[i].name, dtype.data, dtype.size) == 0) {
            return known[i].bits;
        }
    }
    return 0;
}

static void add_tensor(struct text *header, struct fuzz_input line, int64_t *at)
{
    struct fuzz_input name = word(&line), dtype = word(&line);
    int64_t           elements = 1;
    char              number[64];

    add_string(header, header->used > 1 ? ",\"" : "\"");
    add(header, name.data, name.size);
    add_string(header, "\":{\"dtype\":\"");
    add(header, dtype.data, dtype.size);
    add_string(header, "\",\"shape\":[");
    for (int i = 0; line.size > 0; i++) {
        int64_t extent = fuzz_number(&line);

        snprintf(number, sizeof number, "%s%lld", i > 0 ? "," : "", (long long) extent);
        add_string(header, number);
        /* what is absurd is written as it is, and has no data */
        elements = extent < 0 || extent > DATA_MOST ? 0 : elements * extent;
        elements = elements > DATA_MOST ? 0 : elements;
        word(&line);
    }
    snprintf(number, sizeof number, "],\"data_offsets\":[%lld,", (long long) *at);
    add_string(header, number);
    *at += elements * bits_of(dtype) / 8;
    snprintf(number, sizeof number, "%lld]}", (long long) *at);
    add_string(header, number);
}

static void add_pair(struct text *metadata, struct fuzz_input line)
{
    struct fuzz_input key;

    fuzz_byte(&line);
    key = word(&line);
    add_string(metadata, metadata->used > 0 ? ",\"" : "\"");
    add(metadata, key.data, key.size);
    add_string(metadata, "\":\"");
    add(metadata, line.data, line.size);
    add_string(metadata, "\"");
}

static uint8_t *of_lines(struct fuzz_input part, size_t *size)
{
    struct text       header = { NULL, 0, 0 }, metadata = { NULL, 0, 0 };
    struct fuzz_input line;
    int64_t           bytes = 0;
    uint8_t          *file;

    add_string(&header, "{");
    while (part.size > 0 && (line = fuzz_line(&part)).size > 0) {
        if (*line.data == '#') {
            add_pair(&metadata, line);
        } else {
            add_tensor(&header, line, &bytes);
        }
    }
    if (metadata.used > 0) {
        add_string(&header, header.used > 1 ? "," : "");
        add_string(&header, "\"__metadata__\":{");
        add(&header, metadata.at, metadata.used);
        add_string(&header, "}");
    }
    add_string(&header, "}");
    file = assemble(header.at, header.used, limit(bytes), part, size);
    free(header.at);
    free(metadata.at);
    return file;
}

uint8_t *fuzz_safetensors(struct fuzz_input part, size_t *size)
{
    if (part.size > 0 && *part.data == '{') {
        struct fuzz_input header = fuzz_line(&part), number = fuzz_line(&part);

        return assemble(header.data, header.size, limit(fuzz_number(&number)), part,
                        size);
    }
    if (part.size > 0 && *part.data == '=') {
        *size = part.size - 1;
        return fuzz_copy(part.data + 1, part.size - 1);
    }
    return of_lines(part, size);
}

/* ===== Edits ============================================================== */

void fuzz_edit(struct fuzz_input edits, uint8_t **data, size_t *size)
{
    for (int i = 0; i < EDITS_MOST && edits.size > 0; i++) {
        int     kind = fuzz_byte(&edits);
        size_t  place = fuzz_byte(&edits);
        uint8_t bytes[32];
        size_t  count;

        place = (place | (size_t) fuzz_byte(&edits) << 8) * (kind & 4 ? 8 : 1);
        place = *size > 0 ? place % *size : 0;
        count = fuzz_byte(&edits) % sizeof bytes;
        if ((kind & 3) == 3) { /* delete */
            count = count < *size - place ? count : *size - place;
            memmove(*data + place, *data + place + count, *size - place - count);
            *size -= count;
            continue;
        }
        for (size_t k = 0; k < count; k++) {
            bytes[k] = fuzz_byte(&edits);
        }
        if ((kind & 3) == 2) { /* insert */
            *data = must(realloc(*data, *size + count + 1));
            memmove(*data + place + count, *data + place, *size - place);
            *size += count;
        }
        count = count < *size - place ? count : *size - place;
        memcpy(*data + place, bytes, count);
    }
    /* exactly its bytes */
    uint8_t *exact = fuzz_copy(*data, *size);

    free(*data);
    *data = exact;
}

/* ===== Files ============================================================== */

static char folder[256];

static void remove_folder(void)
{
    DIR *dir = opendir(folder);

    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] != '.') {
            unlink(fuzz_path(entry->d_name));
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(folder);
}

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");

    if (base == NULL) {
        base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
    }
    snprintf(folder, sizeof folder, "%.200s/bl-fuzz-XXXXXX", base);
    fuzz_check(mkdtemp(folder) != NULL);
    atexit(remove_folder);
}

const char *fuzz_path(const char *name)
{
    static char path[8][512];
    static int  turn;

    if (folder[0] == '\0') {
        make_folder();
    }
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s%s%.200s", folder,
             name[0] != '\0' ? "/" : "", name);
    return path[turn];
}

void fuzz_write(const char *name, const void *data, size_t size)
{
    FILE *file = fopen(fuzz_path(name), "wb");

    fuzz_check(file != NULL);
    fuzz_check(size == 0 || fwrite(data, 1, size, file) == size);
    fuzz_check(fclose(file) == 0);
}

void fuzz_remove(const char *name)
{
    unlink(fuzz_path(name));
}

/*
 * In place of mmap and munmap, by the linker's --wrap: a mapping ends with a page, where a
 * step outside the file is not seen. This is memory of exactly the file's size.
 */
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file,
                  off_t offset);
int   __wrap_munmap(void *address, size_t size);

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file,
                  off_t offset)
{
    void *memory = must(malloc(size));

    fuzz_check(address == NULL && protection == PROT_READ && flags == MAP_PRIVATE);
    fuzz_check(pread(file, memory, size, offset) == (ssize_t) size);
    return memory;
}

int __wrap_munmap(void *address, size_t size)
{
    (void) size;
    free(address);
    return 0;
}

void fuzz_silence(void)
{
    static int done;

    if (!done) {
        fuzz_check(freopen("/dev/null", "w", stdout) != NULL);
        done = 1;
    }
}
