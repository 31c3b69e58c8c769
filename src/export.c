/*
 * `beamlora export`: a run's adapters, or those of a PEFT directory, as other programs
 * read them. A format is a line of the table below.
 */
#define _POSIX_C_SOURCE 200809L

#include "adapters/export.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/adapters.h"
#include "base/program.h"

/* ===== Formats ============================================================ */

static int32_t dtype_of(const struct export *job)
{
    return job->dtype < 0 ? BL_F32 : job->dtype;
}

static int export_peft(const struct export *job, char *error, size_t size)
{
    return adapters_save_as(&job->from.adapters, job->from.model, job->from.base_name,
                            ADAPTERS_PEFT, dtype_of(job), job->out, error, size);
}

static int export_compact(const struct export *job, char *error, size_t size)
{
    return adapters_save_as(&job->from.adapters, job->from.model, job->from.base_name,
                            ADAPTERS_COMPACT, dtype_of(job), job->out, error, size);
}

static int export_published(const struct export *job, char *error, size_t size)
{
    return adapters_save_as(&job->from.adapters, job->from.model, job->from.base_name,
                            ADAPTERS_PUBLISHED, dtype_of(job), job->out, error, size);
}

static int export_gguf(const struct export *job, char *error, size_t size)
{
    return adapters_save_gguf(&job->from.adapters, job->from.model, dtype_of(job),
                              job->out, error, size);
}

/* By the index of --format. A directory is taken if it has this file. */
static const char *const names[] = { "gguf",         "merged",    "peft",
                                     "peft-compact", "published", NULL };
static const struct format {
    int (*write)(const struct export *job, char *error, size_t size);
    const char *mark; /* NULL: the format is a file */
    int         replaces;
} formats[] = {
    { export_gguf, NULL, 1 },
    { export_merged, "config.json", 0 },
    { export_peft, "adapter_config.json", 1 },
    { export_compact, "adapter_config.json", 1 },
    { export_published, "adapter_config.json", 1 },
};

/* ===== The command ======================================================== */

/* Nothing is lost: what is there goes only when that is asked for, and a merged model
 * never takes the place of files of another. */
static int check_out(const struct format *format, const char *out, int overwrite,
                     char *error, size_t size)
{
    char        path[4096];
    struct stat status;

    if (stat(out, &status) != 0) {
        return 0;
    }
    if (S_ISDIR(status.st_mode) != (format->mark != NULL)) {
        snprintf(error, size, "--out %s: is %s, must be %s", out,
                 S_ISDIR(status.st_mode) ? "a directory" : "a file",
                 format->mark != NULL ? "a directory" : "a file");
        return -1;
    }
    if (format->mark != NULL && ((size_t) snprintf(path, sizeof path, "%s/%s", out,
                                                   format->mark) >= sizeof path ||
                                 access(path, F_OK) != 0)) {
        return 0;
    }
    if (!format->replaces) {
        snprintf(error, size, "--out %s: has a %s already: name another directory", out,
                 format->mark);
        return -1;
    }
    if (!overwrite) {
        snprintf(error, size, "--out %s: is there already: --overwrite replaces it", out);
        return -1;
    }
    return 0;
}

static int run(const char *source, const char *model, const struct format *format,
               struct export *job)
{
    char error[MESSAGE_SIZE];
    int  result = restore(&job->from, source, model, error, sizeof error);

    if (result == 0) {
        result = format->write(job, error, sizeof error);
        restore_free(&job->from);
    }
    return result == 0 ? 0 : complain("%s", error);
}

int command_export(int argc, char **argv)
{
    static const char *const dtype_names[] = { "f32", "f16", "bf16", NULL };
    static const int32_t     dtypes[] = { BL_F32, BL_F16, BL_BF16 };
    const char              *model = NULL;
    int32_t                  format = 0, dtype = 0;
    int                      overwrite = 0, status;
    char                     error[MESSAGE_SIZE];
    struct export job = { .out = NULL };

    struct flag flags[] = {
        { .name = "format",
          .type = FLAG_CHOICE,
          .value = &format,
          .choices = names,
          .required = 1,
          .help = "what to write" },
        { .name = "out",
          .type = FLAG_FILE,
          .value = &job.out,
          .required = 1,
          .help = "a directory, made if absent; with gguf a file" },
        { .name = "model",
          .type = FLAG_FILE,
          .value = &model,
          .help =
              "the base (default: that of the run or the adapter, by its name there)" },
        { .name = "dtype",
          .type = FLAG_CHOICE,
          .value = &dtype,
          .choices = dtype_names,
          .help = "of the weights (default: f32; merged: the base's)" },
        { .name = "overwrite",
          .type = FLAG_SWITCH,
          .value = &overwrite,
          .help = "replace an adapter that is there" },
    };
    struct command_line line = {
        .usage = "beamlora export DIR --format FORMAT --out PATH [flags]\n"
                 "\n"
                 "Writes the adapters of a run folder, as its checkpoint has them, or of "
                 "a PEFT\nadapter directory for other programs:\n"
                 "\n"
                 "  gguf          llama.cpp\n"
                 "  merged        the base with the adapters in its weights, as a "
                 "Hugging Face\n"
                 "                directory\n"
                 "  peft          PEFT, vLLM and llama.cpp's converter: one rank, scale "
                 "1\n"
                 "  peft-compact  PEFT and vLLM: only the ranks that contribute\n"
                 "  published     the published BeamLoRA code: with the scores of a run",
        .argument = "DIR",
        .argument_help = "run folder, or PEFT adapter directory",
        .argument_type = FLAG_DIRECTORY,
        .least = 1,
        .most = 1,
    };

    status =
        parse_arguments(argc, argv, &line, flags, (int) (sizeof flags / sizeof *flags));
    if (status != 0) {
        return status == 1 ? 0 : status;
    }
    job.dtype = flags[3].given ? dtypes[dtype] : -1;
    if (check_out(&formats[format], job.out, overwrite, error, sizeof error) != 0) {
        return complain("%s", error);
    }
    return run(argv[0], model, &formats[format], &job);
}
