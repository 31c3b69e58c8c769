/*
 * What the files of libbeamlora-io share: failing, files that appear whole or not at
 * all, the parsed form of a safetensors header, the one writer of such headers, adapters
 * folded for a file.
 */
#ifndef BEAMLORA_LIB_IO_IO_H
#define BEAMLORA_LIB_IO_IO_H

#include <jansson.h>

#include "beamlora_io.h"

#define BL__IO_HEADER_MAX                                                                \
    100000000u /* bytes of a safetensors header, as the reference                        \
                */

/* ===== Errors ============================================================= */

/* Set the thread's text to "path: format..." (path may be NULL) and return `code`.
 * Control characters become '?', a long path loses its beginning. */
int bl__io_fail(int code, const char *path, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* The same for a failed system call: BL_E_IO, "path: what: <errno's text>". */
int bl__io_fail_errno(int error, const char *path, const char *what);

/* Pass on a failure of libbeamlora with its text. */
int bl__io_fail_core(int code, const char *path);

/* ===== Files ============================================================== */

/* A file that is written beside `path` and takes its place only at the end. */
struct bl__io_file {
    const char    *path; /* borrowed: named in messages, renamed to */
    char          *temp;
    unsigned char *buffer;
    size_t         used;    /* bytes waiting in the buffer */
    uint64_t       written; /* bytes in all, those too     */
    int            fd;      /* -1: not open                */
};

/* Create, write, finish (to the disk, closed), publish (rename). After a create that
 * succeeded always bl__io_file_abandon at the end: it removes what was not published.
 * write_values takes elements of `width` bytes and makes them little-endian. */
int  bl__io_file_create(struct bl__io_file *file, const char *path);
int  bl__io_file_write(struct bl__io_file *file, const void *data, size_t bytes);
int  bl__io_file_write_values(struct bl__io_file *file, const void *data, size_t count,
                              size_t width);
int  bl__io_file_finish(struct bl__io_file *file);
int  bl__io_file_publish(struct bl__io_file *file);
void bl__io_file_abandon(struct bl__io_file *file);

/* Bring the folder that holds `path` to the disk: makes renames in it last. */
int bl__io_sync_folder(const char *path);

/* "dir/name", malloc'd; NULL when out of memory. */
char *bl__io_join(const char *dir, const char *name);

/* Open a regular file for reading; its size goes to *bytes. */
int bl__io_open_regular(int *fd, size_t *bytes, const char *path);

/* ===== safetensors ======================================================== */

struct bl__io_dtype {
    char    name[12];
    int32_t bits;  /* per element                  */
    int32_t dtype; /* bl_dtype or BL_DTYPE_OTHER   */
};

struct bl__io_tensor {
    const char                *name; /* in the header's JSON */
    const struct bl__io_dtype *dtype;
    uint64_t                   begin, end; /* bytes from the start of the data */
    int64_t                    elements;
    int64_t                    shape[BL_TENSOR_DIMS_MAX];
    int32_t                    dims;
};

struct bl_safetensors {
    char                        *label; /* the path, for messages                    */
    void                        *map;   /* NULL: the memory is the caller's          */
    size_t                       map_bytes;
    const unsigned char         *data; /* the data behind the header                 */
    json_t                      *root; /* the header: holds names and metadata       */
    struct bl__io_tensor        *tensors;
    const struct bl__io_tensor **by_name;
    int64_t                      count;
};

/* Value number `index` of F64, F32, F16 or BF16 data, exactly. */
double bl__io_value(const unsigned char *data, int32_t dtype, uint64_t index);

/* What a header is written from; `source` is the caller's, to find the data again. */
struct bl__io_entry {
    const char *name;
    int32_t     dtype; /* bl_dtype */
    int32_t     dims;
    int64_t     shape[2];
    int64_t     source;
};

/* Bytes of one element of a bl_dtype, 0 for no such thing. */
size_t bl__io_width(int32_t dtype);

/* Sort entries [count] into the order of the file and write the header. Their data,
 * shape[0] * shape[1] elements each and no padding, must follow in that order. */
int bl__io_write_header(struct bl__io_file *file, struct bl__io_entry *entries,
                        int64_t count, const char *const *metadata);

/* Write JSON as text, then a newline. */
int bl__io_write_json(struct bl__io_file *file, const json_t *json, size_t flags);

/* ===== Folded adapters ==================================================== */

/* A group's adapters, to be written as plain LoRAs of scale 1, or with DoRA's magnitudes
 * beside them. */
struct bl__io_fold {
    const bl_group *group;
    int64_t        *first, *kept; /* [count] where in list, how many ranks */
    int64_t        *list;         /* the ranks that are written            */
    int64_t         rank;         /* the largest of kept, at least 1       */
    void           *a, *b;        /* the adapter folded last, [r, in] and [out, r] */
    double         *g;            /* importance, for the largest rank      */
    int64_t         folded;       /* which one that is; -1: none           */
    int32_t         dtype;        /* of a and b                            */
    int             dora;         /* the adapters have magnitudes          */
};

/* compact: only ranks that contribute are kept (of a module without any, one). Close it
 * also after a failure. */
int  bl__io_fold_open(struct bl__io_fold *fold, const bl_group *group, int compact);
void bl__io_fold_close(struct bl__io_fold *fold);

/* A tensor of the file: A' [rank, in] or B [out, rank], padded with zeros to `rank`, or
 * magnitudes [out]. */
struct bl__io_fold_tensor {
    const char    *name;
    const int64_t *order; /* of B's rows and of magnitudes, or NULL */
    int64_t        rank;
    int32_t        dtype; /* F32, F64, F16 or BF16 */
    int32_t        which; /* bl_tensor             */
};

/* Adapter k's tensor, row-major, rounded to nearest even; what is not finite or too large
 * for the type is refused by the tensor's name. */
int bl__io_fold_write(struct bl__io_fold *fold, struct bl__io_file *file, int64_t k,
                      const struct bl__io_fold_tensor *tensor);

/* ===== PEFT =============================================================== */

#define BL__IO_PREFIX "base_model.model."
#define BL__IO_SUFFIX_A ".lora_A.weight"
#define BL__IO_SUFFIX_B ".lora_B.weight"
#define BL__IO_SUFFIX_GATE ".lora_gate"
#define BL__IO_SUFFIX_MAGNITUDE ".lora_magnitude_vector"
#define BL__IO_TEMPERATURE "beamlora_temperature" /* key of the file's metadata */
#define BL__IO_CONFIG "adapter_config.json"
#define BL__IO_MODEL "adapter_model.safetensors"

/* What a tensor is to its module. */
enum bl__io_kind {
    BL__IO_A,
    BL__IO_B,
    BL__IO_GATE,      /* scores of the published BeamLoRA: [1, rank] */
    BL__IO_E,         /* AdaLoRA's singular values: [rank, 1]        */
    BL__IO_MAGNITUDE, /* DoRA's, [out]                              */
    BL__IO_RANKNUM,   /* AdaLoRA's divisor: [1]                      */
    BL__IO_KINDS
};

struct bl__io_name {
    const char      *module; /* in the tensor's name, not terminated */
    size_t           length;
    enum bl__io_kind kind;
    int              prefixed; /* began with BL__IO_PREFIX */
};

/* Take a tensor's name apart; 0 if it is none of an adapter. */
int bl__io_parse_name(struct bl__io_name *out, const char *name);

struct bl__io_module {
    char   *name;
    int64_t tensor[BL__IO_KINDS]; /* indices, -1: not there */
    int64_t in, out, rank;
    double  scale; /* NaN: no file says it */
};

struct bl_peft {
    bl_safetensors       *file;
    struct bl__io_module *modules; /* by name */
    int64_t               count;
    int                   scored;      /* the modules have scores           */
    double                temperature; /* of the scores; 0: not in the file */
};

/* What scales a module, from adapter_config.json. */
struct bl__io_config {
    json_t *root; /* NULL: there is no such file */
    char   *path;
    int64_t rank;
    double  alpha;
    int     rslora;
    int     adalora;   /* rank is its init_r */
    int     published; /* use_beamlora       */
    int     dora;      /* use_dora           */
};

/* All zero is the configuration of an adapter that has none. */
int  bl__io_config_open(struct bl__io_config *config, const char *dir);
void bl__io_config_close(struct bl__io_config *config);
/* The rank a module must have, `rows` where nothing says it, and what scales it: lora_alpha
 * over the rank or over its square root, or as AdaLoRA has it. */
int bl__io_config_scale(const struct bl__io_config *config, const char *module,
                        int64_t rows, int64_t *rank, double *scale);

/* Keys of rank_pattern: does this one have no character that is special in a regular
 * expression; does it match the module's name? */
int bl__io_key_is_plain(const char *key);
int bl__io_key_matches(const char *key, const char *name);

/* Options, checked and filled up: *opt may be NULL. */
int bl__io_peft_options(bl_peft_options *out, const bl_peft_options *opt);

/* Write both files of an adapter directory, which is made if absent, and rename them when
 * both are whole. The two functions write to the end, bl__io_file_finish included. */
typedef int (*bl__io_write_fn)(void *job, struct bl__io_file *file);
int bl__io_write_peft(const char *dir, void *job, bl__io_write_fn write_config,
                      bl__io_write_fn write_model);

/* target_modules for a group; NULL when out of memory. */
json_t *bl__io_peft_targets(const bl_group *group);

/* Take over *opt [opt->size] of a caller into out [size], which holds the defaults; the
 * struct's first member is its size, that of the first release `first`. */
int bl__io_take_options(void *out, size_t size, const void *opt, size_t first,
                        const char *init);

/* BL_E_RANGE unless order [out] holds each of 0..out-1 once. */
int bl__io_check_order(const int64_t *order, int64_t out, const char *adapter);

#endif
