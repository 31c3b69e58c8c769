/*
 * libbeamlora-io - adapter files that other programs read and write.
 *
 *     safetensors   named tensors in one file: any such file is read, arrays are
 *                   written (docs/safetensors.md)
 *     PEFT          a directory with adapter_config.json and adapter_model.safetensors,
 *                   as PEFT, vLLM and llama.cpp's converter load it (docs/peft.md)
 *     published     the same with scores, as the published BeamLoRA code keeps its
 *                   trainings (docs/published.md)
 *     GGUF          one file with an adapter as llama.cpp loads it; written only
 *                   (docs/gguf.md)
 *
 * Order of calls:
 *
 *     bl_safetensors_open -> bl_safetensors_find, _get_tensor, _copy -> _close
 *     bl_safetensors_write, bl_safetensors_stream
 *     bl_peft_save                                   a group to a directory, folded
 *     bl_published_save                              the same, not folded, with scores
 *     bl_peft_open -> bl_peft_get_module, bl_peft_load -> bl_peft_close
 *     bl_gguf_save                                   a group to a file, folded
 *
 * Letters and conventions are those of beamlora.h: 0 or a negative BL_E_ code, on
 * failure nothing has changed, get_ borrows and copy_ copies. This library stands on
 * the public functions of beamlora.h alone.
 *
 * Files are not trusted: what is malformed is refused with BL_E_FORMAT and a line that
 * names the file, before anything is made of it. Files are written under another name
 * in the same folder, brought to the disk and then renamed: a reader sees the old file
 * or the new one, and a failed write leaves the old one.
 *
 * Threads. No global state except the thread-local error text. Functions that take a
 * bl_safetensors or bl_peft as const may run at once.
 *
 * Not promised: anything about a file that another program shortens while it is open
 * here (it is mapped: the host gets SIGBUS, as with any mapped file).
 */
#ifndef BEAMLORA_IO_H
#define BEAMLORA_IO_H

#include <stddef.h>
#include <stdint.h>

#include "beamlora.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ===== Errors ============================================================= */

/**
 * One line on the last failure of a function of this header on this thread, with the
 * file's name: "a.safetensors: tensor w ends at 16, ...". Bytes of a file that are no
 * printable characters appear as '?'. Never NULL. Meaningful only after a negative
 * return, on the thread that got it. Since 0.1.
 */
BL_API const char *bl_io_last_error(void);

/* ===== safetensors: reading =============================================== */

typedef struct bl_safetensors bl_safetensors; /* an open file */

#define BL_TENSOR_DIMS_MAX 8

/** bl_tensor_info's dtype for element types that bl_dtype has no number for. */
#define BL_DTYPE_OTHER ((int32_t) -1)

/** A tensor in an open file; all pointers are borrowed from it. */
typedef struct bl_tensor_info {
    const char *name;
    const char *dtype_name; /* as in the file: "F32", "I32", ...                       */
    const void *data;       /* packed, row-major, little-endian, perhaps not aligned   */
    size_t      bytes;      /* of data; 0 is possible                                  */
    int64_t     elements;   /* product of the shape                                    */
    int64_t     shape[BL_TENSOR_DIMS_MAX]; /* [dims], the rest 0                       */
    int32_t     dims;                      /* 0 (a single element) to 8                */
    int32_t     dtype;                     /* bl_dtype or BL_DTYPE_OTHER               */
    int64_t     reserved[4];               /* 0                                        */
} bl_tensor_info;

/**
 * Open a safetensors file and check all of its header.
 *
 *   path   read; the file is mapped, not copied
 *
 * Returns 0; BL_E_IO when it cannot be read or is no regular file; BL_E_FORMAT for a
 * malformed one: header cut short or above 100,000,000 bytes, not JSON, repeated names,
 * NUL in a name, unknown dtype, sizes that overflow or do not fit the shape, data with
 * holes, overlaps or trailing bytes, more than 8 dimensions; BL_E_NOMEM. *out is written
 * only on success. Since 0.1.
 */
BL_API int bl_safetensors_open(bl_safetensors **out, const char *path);

/**
 * The same for a file in memory, which is borrowed until bl_safetensors_close.
 *
 *   data   [bytes] read, any alignment; NULL only with bytes = 0 (BL_E_FORMAT, as a file)
 */
BL_API int bl_safetensors_open_memory(bl_safetensors **out, const void *data,
                                      size_t bytes);

BL_API void bl_safetensors_close(bl_safetensors *file);

/** Number of tensors. */
BL_API int64_t bl_safetensors_get_count(const bl_safetensors *file);

/**
 * Look at a tensor.
 *
 *   index   0 to count - 1: in the order of their data in the file
 *   out     written
 *
 * Returns 0, or BL_E_ARG for an index that does not exist. Since 0.1.
 */
BL_API int bl_safetensors_get_tensor(const bl_safetensors *file, int64_t index,
                                     bl_tensor_info *out);

/** Index of the tensor with this name, or -1. Since 0.1. */
BL_API int64_t bl_safetensors_find(const bl_safetensors *file, const char *name);

/** Value of a key of the file's __metadata__, borrowed, or NULL. Since 0.1. */
BL_API const char *bl_safetensors_get_metadata(const bl_safetensors *file,
                                               const char           *key);

/**
 * Copy a tensor, converted, into a matrix.
 *
 *     dst[i * ld + j] = tensor[i, j]
 *
 * The last dimension gives the columns, all others together the rows: a tensor of
 * shape [n] is one row, one of shape [] a single element.
 *
 *   index   of a tensor of F64, F32, F16 or BF16
 *   dtype   BL_F32 or BL_F64: of dst
 *   dst     [rows, cols] written, ld >= cols; what lies between rows is left alone
 *
 * Conversions are exact but for F64 to BL_F32, which rounds to nearest (and too large
 * values to infinity). Values are not checked: NaN stays NaN.
 * Returns 0; BL_E_ARG for an index or dtype that does not fit, BL_E_SHAPE for a short
 * ld. Since 0.1.
 */
BL_API int bl_safetensors_copy(const bl_safetensors *file, int64_t index, int32_t dtype,
                               void *dst, int64_t ld);

/* ===== safetensors: writing =============================================== */

/**
 * Write arrays as a safetensors file, straight from their memory.
 *
 *   path       read; an old file is replaced as a whole or not at all
 *   arrays     [count] read; dims 1 or 2, any dtype of bl_dtype (BL_F16 and BL_BF16: the
 *              bits as they are); data may be NULL when an extent is 0
 *   metadata   key, value, key, value, ..., NULL; NULL: none
 *
 * Tensors are ordered by dtype, widest first, then by name, so equal arguments give
 * equal bytes; data starts at a multiple of 8. Returns 0; BL_E_ARG for names that are
 * empty, repeated, not UTF-8, unterminated or "__metadata__"; BL_E_SHAPE, BL_E_RANGE for
 * extents below 0 or too large; BL_E_IO; BL_E_NOMEM. Since 0.1.
 */
BL_API int bl_safetensors_write(const char *path, const bl_array *arrays, int64_t count,
                                const char *const *metadata);

/** Delivers the data of array `index` of bl_safetensors_stream by calls of `write(to, data,
 *  bytes)`: all of it, in pieces of whole elements. Anything but 0 gives the writing up:
 *  what `write` returned, or the host's own. */
typedef int (*bl_array_fn)(void *user, int64_t index, bl_write_fn write, void *to);

/**
 * The same for arrays that do not exist in memory all at once: each is asked for when its
 * turn comes, in the order of the file.
 *
 *   arrays   [count] read; data is not looked at
 *   source   called once for each array; user is handed through
 *
 * Returns what bl_safetensors_write does; BL_E_USER when source gives up, BL_E_SHAPE when
 * it delivers too little or too much. Since 0.1.
 */
BL_API int bl_safetensors_stream(const char *path, const bl_array *arrays, int64_t count,
                                 const char *const *metadata, bl_array_fn source,
                                 void *user);

/* ===== PEFT =============================================================== */

/** How an adapter directory is written or read. NULL: the defaults. */
typedef struct bl_peft_options {
    size_t      size; /* bytes of this struct as the caller knows it; set by init      */
    const char *base_model_name_or_path; /* save; NULL (default): null in the file     */
    const char *task_type;               /* save; NULL (default): "CAUSAL_LM"          */

    /* Order of B's rows in the file, for hosts whose layers have their outputs in
     * another order: row i of the file is row row_order[k][i] of adapter k's B.
     * [count], each NULL (as they are) or a permutation of 0..out-1; NULL (default):
     * all as they are. bl_peft_load undoes what bl_peft_save did. */
    const int64_t *const *row_order;

    int64_t rank;    /* save: r of the file, at least the largest; 0 (default): that   */
    int32_t dtype;   /* save: BL_F32 (default), BL_F64, BL_F16, BL_BF16; to nearest    */
    int32_t compact; /* save: 1: no padding, only ranks that contribute; default 0     */

    double alpha; /* load: lora_alpha of a file without adapter_config.json; 0 (default)
                     for all others                                                    */
    double temperature; /* load: tau of the file's scores; 0 (default): what the file
                           notes, else BL_PUBLISHED_TEMPERATURE                        */
} bl_peft_options;

/** tau of the published code, which its files do not say. */
#define BL_PUBLISHED_TEMPERATURE 0.05

/**
 * Fill in the defaults.
 *
 *   size   sizeof *opt as the caller was compiled; at most so many bytes are written
 *
 * Returns 0; BL_E_ARG for NULL, BL_E_OPTIONS for a size below the first release's.
 */
BL_API int bl_peft_options_init(bl_peft_options *opt, size_t size);

/**
 * Write a group as a plain LoRA adapter that PEFT, vLLM and llama.cpp's converter read
 * alike: bl_adapter_fold, every module padded with zeros to one rank r, lora_alpha = r,
 * so that the scale is 1 everywhere.
 *
 *     base_model.model.<name>.lora_A.weight   [r, in]     c diag(g) A
 *     base_model.model.<name>.lora_B.weight   [out, r]    B, rows by row_order
 *     base_model.model.<name>.lora_magnitude_vector [out] with dora: mag, the same
 *
 *   dir   made if absent (its parent must exist); other files in it are left alone
 *
 * compact: every module has the ranks that contribute (a zero row in A' or column in B
 * does not; at least one), rank_pattern and alpha_pattern say how many where that is not
 * r. PEFT and vLLM read it alike, llama.cpp's converter takes a wrong scale.
 *
 * A DoRA adapter says so (use_dora): PEFT reads it, vLLM and llama.cpp's converter refuse
 * it. For them merge it (bl_adapter_merge).
 * The scores are spent: what is written cannot be trained on as BeamLoRA.
 * Returns 0; BL_E_NONFINITE and BL_E_RANGE (too large for dtype) by tensor name; BL_E_ARG
 * for names that rank_pattern cannot tell apart; BL_E_OPTIONS; BL_E_RANGE for a rank too
 * small or a row_order that is no permutation; BL_E_IO; BL_E_NOMEM. On failure an adapter
 * that was there before is still whole, unless the renaming itself fails half way.
 * Since 0.1.
 */
BL_API int bl_peft_save(const bl_group *group, const char *dir,
                        const bl_peft_options *opt);

/**
 * Write a group of BL_METHOD_BEAMLORA as the published code's checkpoint, which can be
 * trained on: nothing is folded.
 *
 *     base_model.model.<name>.lora_A.weight   [r, in]     A
 *     base_model.model.<name>.lora_B.weight   [out, r]    B, rows by row_order
 *     base_model.model.<name>.lora_gate       [1, r]      s
 *
 *   opt   rank and compact must be 0: every module keeps its own rank; dtype BL_F32 or
 *         BL_F64
 *
 * Current PEFT leaves out the scores and then computes something else: this is for the
 * published code and for bl_peft_open. tau is noted in the metadata, which only the latter
 * reads. Returns 0; BL_E_STATE for a group without scores and for removed or masked ranks;
 * BL_E_OPTIONS; else as bl_peft_save. Since 0.1.
 */
BL_API int bl_published_save(const bl_group *group, const char *dir,
                             const bl_peft_options *opt);

typedef struct bl_peft bl_peft; /* an open adapter */

/** A module of an adapter; name is borrowed from it. */
typedef struct bl_peft_module {
    const char *name;    /* without "base_model.model.": "model.layers.0.mlp.up_proj" */
    int64_t in_features; /* A [rank, in]   B [out, rank]                              */
    int64_t out_features;
    int64_t rank;
    double  scale;       /* lora_alpha / rank, or over sqrt(rank) with use_rslora; NaN
                            where there is no adapter_config.json to say it           */
    int64_t dora;        /* 1: it has magnitudes                                */
    int64_t reserved[3]; /* 0                                                   */
} bl_peft_module;

/**
 * Open an adapter and check it.
 *
 *   path   a directory; or a safetensors file of pairs alone, as of loralib:
 *          <name>.lora_A, <name>.lora_B. Such a file, also as adapter_model.safetensors
 *          in a directory without adapter_config.json, does not say its alpha:
 *          bl_peft_options.alpha does
 *
 * Understood: r, lora_alpha, use_rslora, rank_pattern and alpha_pattern with keys of
 * letters, digits, '_', '-', '.', "\." and a leading '^'; use_dora with its magnitudes;
 * use_beamlora with its scores; AdaLoRA, whose modules of rank 0 are left out. Returns 0;
 * BL_E_IO; BL_E_FORMAT for what is malformed and for what an adapter cannot express, by
 * name: another peft_type, bias, modules_to_save, initialisations that change the base,
 * tensors of another kind; BL_E_NOMEM. Since 0.1.
 */
BL_API int  bl_peft_open(bl_peft **out, const char *path);
BL_API void bl_peft_close(bl_peft *peft);

/** Number of modules. */
BL_API int64_t bl_peft_get_count(const bl_peft *peft);

/** BL_METHOD_BEAMLORA: the modules have scores; else BL_METHOD_LORA. Since 0.1. */
BL_API int32_t bl_peft_get_method(const bl_peft *peft);

/** tau of the scores as the file notes it, 0: not at all. Since 0.1. */
BL_API double bl_peft_get_temperature(const bl_peft *peft);

/** Look at module `index`, 0 to count - 1, by name; BL_E_ARG when there is none. */
BL_API int bl_peft_get_module(const bl_peft *peft, int64_t index, bl_peft_module *out);

/**
 * Fill the adapters of a group that has made no step yet, so that each computes what the
 * file's module of its name computes.
 *
 *     A_i = (scale / (c g_i)) A_i of the file     B, mag = those of the file
 *
 *   group   written: A, B and, with dora, mag. Where an adapter's rank is above the
 *           file's, the other ranks keep their A and their B becomes zero.
 *   opt     row_order, alpha and temperature; NULL: the defaults
 *
 * Scores of the file go into a group of BL_METHOD_BEAMLORA as they are, so that g is
 * that of the file: A_i = (scale / c) A_i. Ranks beyond the file's get g = 1 then. Scores
 * of the group stay where the file has none; a group of BL_METHOD_LORA gets the file's g
 * in A. AdaLoRA's E goes into A.
 *
 * Adapters and modules must match one to one, by name, and both have magnitudes or
 * neither (BL_E_STATE). Returns 0; BL_E_SHAPE for names
 * without a partner and shapes or ranks that do not fit, both sides in the text;
 * BL_E_OPTIONS for an alpha that is missing or not wanted and for a temperature that is
 * not that of the file or, with scores in both, of the group;
 * BL_E_STATE when a step was made or a rank is silenced (g_i = 0); BL_E_NONFINITE and
 * BL_E_RANGE for values, by tensor name; BL_E_NOMEM. On failure the group is unchanged.
 * Since 0.1.
 */
BL_API int bl_peft_load(const bl_peft *peft, bl_group *group, const bl_peft_options *opt);

/* ===== GGUF =============================================================== */

/** How a GGUF adapter is written. NULL: the defaults, which do for adapters of a Llama's
 *  o_proj, v_proj and MLP. */
typedef struct bl_gguf_options {
    size_t size; /* bytes of this struct as the caller knows it; set by init */
    const char
        *architecture; /* the base's general.architecture; NULL: "llama"           */
    const char *name;  /* general.name; NULL (default): not written                */

    /* [count] the base's tensor for each adapter, "blk.0.attn_q.weight"; NULL (default):
     * worked out from names "model.layers.<i>.self_attn.q_proj" and so on. */
    const char *const *tensors;

    /* How many heads attn_q and attn_k have: their rows of B, in Hugging Face's order
     * (rotary pairs i, i + head_dim/2), are brought into GGUF's (2i, 2i + 1). 0 (default):
     * rows as they are; for "llama" that is refused unless `interleaved` is 1: the host
     * has GGUF's order already. */
    int64_t heads, kv_heads;
    int32_t interleaved; /* 0 (default) or 1                          */
    int32_t dtype;       /* BL_F32 (default), BL_F16, BL_BF16; to nearest */
} bl_gguf_options;

/** Fill in the defaults; as bl_peft_options_init. Since 0.1. */
BL_API int bl_gguf_options_init(bl_gguf_options *opt, size_t size);

/**
 * Write a group as a GGUF v3 adapter for llama.cpp: bl_adapter_fold, every module padded
 * with zeros to one rank r, adapter.lora.alpha = r, so that the scale is 1.
 *
 *     <tensor>.lora_a   ne = [in, r]      c diag(g) A
 *     <tensor>.lora_b   ne = [r, out]     B, rows of q and k as `heads` says
 *
 *   path   read; an old file is replaced as a whole or not at all
 *
 * The scores are spent. A DoRA adapter has no such form (BL_E_STATE): merge it. Names and
 * sizes are checked before anything is written. Returns 0;
 * BL_E_ARG for adapters without a tensor's name, names above 63 bytes with their suffix,
 * or repeated ones; BL_E_RANGE for heads that do not divide the rows of q or k;
 * BL_E_NONFINITE and BL_E_RANGE (too large for dtype) by tensor name; BL_E_OPTIONS;
 * BL_E_IO; BL_E_NOMEM. On failure an old file is still there. Since 0.1.
 */
BL_API int bl_gguf_save(const bl_group *group, const char *path,
                        const bl_gguf_options *opt);

#ifdef __cplusplus
}
#endif

#endif /* BEAMLORA_IO_H */
