/*
 * Runs a fuzz target over files, once each, without libFuzzer:
 *
 *     replay_X DIRECTORY...
 *
 * Names are told before they are run, so that the last one told is the one that crashed.
 */
#define _POSIX_C_SOURCE 200809L

#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int run(const char *directory, const char *name)
{
    char     path[4096];
    FILE    *file;
    uint8_t *data = malloc(1 << 20), *exact;
    size_t   size;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    fprintf(stderr, "%s\n", path);
    file = fopen(path, "rb");
    if (file == NULL || data == NULL) {
        perror(path);
        free(data);
        return -1;
    }
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    exact = fuzz_copy(data, size);
    free(data);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

static int run_all(const char *directory, int *passed, int *failed)
{
    struct dirent **list;
    int             count = scandir(directory, &list, NULL, alphasort);

    if (count < 0) {
        perror(directory);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (list[i]->d_name[0] != '.') {
            if (run(directory, list[i]->d_name) == 0) {
                ++*passed;
            } else {
                ++*failed;
            }
        }
        free(list[i]);
    }
    free(list);
    return 0;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (run_all(argv[i], &passed, &failed) != 0) {
            return 1;
        }
    }
    fprintf(stderr, "%d passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
