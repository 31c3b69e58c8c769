/*
 * An adapter directory being written: two files that are both whole before the first is
 * renamed, and what target_modules says.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

/* What target_modules names: the last part of a module's name, as PEFT and vLLM compare
 * it; all of the name when that part is a number and would say nothing. */
static const char *target_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *last = dot == NULL ? name : dot + 1;
    return last[strspn(last, "0123456789")] == '\0' ? name : last;
}

json_t *bl__io_peft_targets(const bl_group *group)
{
    json_t *targets = json_array();
    json_t *seen = json_object();
    int     failed = targets == NULL || seen == NULL;
    for (int64_t k = 0; k < bl_group_get_count(group) && !failed; k++) {
        const char *name = bl_adapter_get_name(bl_group_get_adapter(group, k));
        const char *target = target_of(name);
        if (json_object_get(seen, target) == NULL) {
            failed = json_object_set_new(seen, target, json_true()) != 0 ||
                     json_array_append_new(targets, json_string(target)) != 0;
        }
    }
    json_decref(seen);
    if (failed) {
        json_decref(targets);
        return NULL;
    }
    return targets;
}

/* The tensors first: a reader that finds the configuration finds them too. */
static int publish(struct bl__io_file *model, struct bl__io_file *config)
{
    int code = bl__io_file_publish(model);
    if (code == 0) {
        code = bl__io_file_publish(config);
    }
    return code == 0 ? bl__io_sync_folder(config->path) : code;
}

static int write_files(void *job, bl__io_write_fn write_config,
                       bl__io_write_fn write_model, const char *model_path,
                       const char *config_path)
{
    struct bl__io_file model;
    struct bl__io_file config;
    int                code = bl__io_file_create(&model, model_path);
    if (code != 0) {
        return code;
    }
    code = bl__io_file_create(&config, config_path);
    if (code == 0) {
        code = write_config(job, &config);
        if (code == 0) {
            code = write_model(job, &model);
        }
        if (code == 0) {
            code = publish(&model, &config);
        }
        bl__io_file_abandon(&config);
    }
    bl__io_file_abandon(&model);
    return code;
}

int bl__io_write_peft(const char *dir, void *job, bl__io_write_fn write_config,
                      bl__io_write_fn write_model)
{
    int made = mkdir(dir, 0777) == 0;
    if (!made && errno != EEXIST) {
        return bl__io_fail_errno(errno, dir, "cannot make the folder");
    }
    char *model = bl__io_join(dir, BL__IO_MODEL);
    char *config = bl__io_join(dir, BL__IO_CONFIG);
    int   code = model == NULL || config == NULL
                     ? bl__io_fail(BL_E_NOMEM, dir, "out of memory")
                     : write_files(job, write_config, write_model, model, config);
    free(model);
    free(config);
    if (code != 0 && made) {
        rmdir(dir);
    }
    return code;
}
