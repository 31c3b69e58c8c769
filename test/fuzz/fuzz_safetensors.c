/* A safetensors file in memory: what is handed out lies within it, copies fit. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "beamlora_io.h"

static void look(const bl_safetensors *file, const uint8_t *data, size_t size,
                 int64_t index, size_t *bytes)
{
    bl_tensor_info info;
    int64_t        cols, rows;
    double        *copy;

    fuzz_check(bl_safetensors_get_tensor(file, index, &info) == 0);
    fuzz_check(bl_safetensors_find(file, info.name) == index);
    fuzz_check((const uint8_t *) info.data >= data + 8);
    fuzz_check((const uint8_t *) info.data + info.bytes <= data + size);
    fuzz_check(info.dims >= 0 && info.dims <= BL_TENSOR_DIMS_MAX);
    *bytes += info.bytes;

    cols = info.dims > 0 ? info.shape[info.dims - 1] : 1;
    if (info.elements > 1 << 20 || cols > 1 << 20) {
        return; /* only where one extent is 0 or the elements are parts of bytes */
    }
    rows = cols > 0 ? info.elements / cols : 0;
    copy = malloc((size_t) (rows * (cols + 1)) * sizeof *copy + 1);
    fuzz_check(copy != NULL);
    for (int32_t dtype = BL_F32; dtype <= BL_F64; dtype++) {
        if (bl_safetensors_copy(file, index, dtype, copy, cols + 1) != 0) {
            fuzz_check(info.dtype != BL_F32 && info.dtype != BL_F64);
            fuzz_check_line(bl_io_last_error());
        }
    }
    free(copy);
}

static void open_file(const uint8_t *data, size_t size)
{
    char            before;
    bl_safetensors *untouched = (bl_safetensors *) (void *) &before, *file = untouched;
    bl_tensor_info  info;
    size_t          bytes = 0;
    int             code = bl_safetensors_open_memory(&file, data, size);

    if (code != 0) {
        fuzz_check(file == untouched);
        fuzz_check(code == BL_E_FORMAT);
        fuzz_check_line(bl_io_last_error());
        return;
    }
    for (int64_t i = 0; i < bl_safetensors_get_count(file); i++) {
        look(file, data, size, i, &bytes);
    }
    fuzz_check(bytes <= size - 8);
    fuzz_check(bl_safetensors_get_tensor(file, bl_safetensors_get_count(file), &info) ==
               BL_E_ARG);
    fuzz_check(bl_safetensors_find(file, "__metadata__") == -1);
    bl_safetensors_get_metadata(file, "format");
    bl_safetensors_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    uint8_t          *file;
    size_t            bytes;

    open_file(data, size);
    file = fuzz_safetensors(input, &bytes);
    open_file(file, bytes);
    free(file);
    return 0;
}
