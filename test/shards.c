/*
 * Cuts a Hugging Face model into shards, as transformers writes a large one:
 *
 *     shards FROM TO COUNT
 *
 * Tensors go to the files in turn; config.json is copied.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "beamlora_io.h"

enum { TENSORS_MOST = 1000 };

static int fail(const char *what)
{
    fprintf(stderr, "shards: %s\n", what);
    return 1;
}

int main(int argc, char **argv)
{
    static bl_array          arrays[TENSORS_MOST];
    static const char *const metadata[] = { "format", "pt", NULL };
    bl_safetensors          *file;
    char                     path[4096], name[64];
    json_t                  *config, *index, *map;
    int                      count = argc == 4 ? atoi(argv[3]) : 0;

    if (count < 1) {
        return fail("usage: shards FROM TO COUNT");
    }
    snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    if (bl_safetensors_open(&file, path) != 0) {
        return fail(bl_io_last_error());
    }
    map = json_object();
    for (int shard = 0; shard < count; shard++) {
        int64_t used = 0;

        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, count);
        for (int64_t i = shard; i < bl_safetensors_get_count(file); i += count) {
            bl_tensor_info info;
            bl_array      *array = &arrays[used++];

            bl_safetensors_get_tensor(file, i, &info);
            if (used == TENSORS_MOST || info.dims > 2) {
                return fail("is for small models");
            }
            snprintf(array->name, sizeof array->name, "%s", info.name);
            array->data = info.data;
            array->dims = info.dims;
            array->shape[0] = info.shape[0];
            array->shape[1] = info.shape[1];
            array->dtype = info.dtype;
            json_object_set_new(map, info.name, json_string(name));
        }
        snprintf(path, sizeof path, "%s/%s", argv[2], name);
        if (bl_safetensors_write(path, arrays, used, metadata) != 0) {
            return fail(bl_io_last_error());
        }
    }
    bl_safetensors_close(file);
    index = json_pack("{s:{},s:o}", "metadata", "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", argv[2]);
    if (json_dump_file(index, path, JSON_INDENT(2)) != 0) {
        return fail("cannot write the index");
    }
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    config = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/config.json", argv[2]);
    if (config == NULL || json_dump_file(config, path, JSON_INDENT(2)) != 0) {
        return fail("cannot copy config.json");
    }
    json_decref(config);
    json_decref(index);
    return 0;
}
