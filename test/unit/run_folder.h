/* Small run folders for the suites that read them. */
#ifndef BEAMLORA_TEST_RUN_FOLDER_H
#define BEAMLORA_TEST_RUN_FOLDER_H

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

static char folder[256]; /* everything of a test is below */

static inline void make_folder(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(folder, sizeof folder, "%s/bl-run-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void remove_below(const char *path)
{
    DIR *dir = opendir(path);

    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char inner[4096];

        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            ck_assert_int_lt(snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name),
                             (int) sizeof inner);
            if (remove(inner) != 0) {
                remove_below(inner);
            }
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    remove(path);
}

static inline void remove_folder(void)
{
    remove_below(folder);
}

/* folder/name, in one of four buffers that take turns */
static inline const char *below(const char *name)
{
    static char path[4][1024];
    static int  turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static inline FILE *open_in(const char *run, const char *file, const char *mode)
{
    char  path[2048];
    FILE *stream;

    mkdir(below(run), 0777);
    snprintf(path, sizeof path, "%s/%s", below(run), file);
    stream = fopen(path, mode);
    ck_assert_msg(stream != NULL, "%s", path);
    return stream;
}

/* The file is this text, or has it added, if it begins with '+'. */
static inline void write_in(const char *run, const char *file, const char *text)
{
    FILE *stream = open_in(run, file, text[0] == '+' ? "a" : "w");

    fputs(text + (text[0] == '+'), stream);
    ck_assert_int_eq(fclose(stream), 0);
}

/* run.json with these settings besides a model and data. */
static inline void write_start(const char *run, const char *arguments,
                               const char *settings)
{
    FILE *stream = open_in(run, "run.json", "w");

    fprintf(stream,
            "{\"version\": \"0\", \"arguments\": [%s], \"directory\": \"/d\", "
            "\"settings\": {\"model\": \"m\", \"data\": \"d.txt\", %s}}\n",
            arguments, settings);
    ck_assert_int_eq(fclose(stream), 0);
}

#endif
