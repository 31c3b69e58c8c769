/* Runs gnuplot with files for its three streams, so that no pipe can fill up or break. */
#include "view/gnuplot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *const endings[GNUPLOT_FORMATS] = { "png", "svg" };

/* Letters are in points of 4/3 pixels in a PNG and in pixels in an SVG, so an SVG of 3/4
 * the size looks the same. P makes points of one size. */
static const char *const terminals[GNUPLOT_FORMATS] = {
    "set terminal pngcairo noenhanced size 1600,1000 font 'sans,14' background '#ffffff'; "
    "P = 1",
    "set terminal svg noenhanced size 1200,750 font 'sans,14' background '#ffffff'; "
    "P = 0.6"
};

FILE *gnuplot_script(void)
{
    return tmpfile();
}

/* Bytes of the UTF-8 character at `text`, 0 for what is none or a control character. */
static int character(const unsigned char *text)
{
    unsigned value;
    int      bytes;

    if (text[0] < 0x80) {
        return text[0] >= 0x20 && text[0] != 0x7F;
    }
    bytes = text[0] >= 0xF0 && text[0] <= 0xF4   ? 4
            : text[0] >= 0xE0 && text[0] <= 0xEF ? 3
            : text[0] >= 0xC2 && text[0] <= 0xDF ? 2
                                                 : 0;
    value = text[0] & (0x7Fu >> (bytes > 0 ? bytes : 1));
    for (int i = 1; i < bytes; i++) {
        if ((text[i] & 0xC0) != 0x80) {
            return 0;
        }
        value = value << 6 | (text[i] & 0x3Fu);
    }
    if (value < 0xA0 || (bytes == 3 && value < 0x800) ||
        (bytes == 4 && value < 0x10000) || (value >= 0xD800 && value <= 0xDFFF) ||
        value > 0x10FFFF) {
        return 0;
    }
    return bytes;
}

/* In single quotes gnuplot knows one special character: the quote, written twice. */
void gnuplot_text(FILE *script, const char *text)
{
    fputc('\'', script);
    while (*text != '\0') {
        int bytes = character((const unsigned char *) text);

        if (bytes == 0) {
            fputc('?', script);
            text++;
        } else if (*text == '\'') {
            fputs("''", script);
            text++;
        } else {
            fwrite(text, 1, (size_t) bytes, script);
            text += bytes;
        }
    }
    fputc('\'', script);
}

/* The line of gnuplot's that says what is wrong: the last one with something in it. */
static void read_complaint(FILE *messages, char *text, size_t size)
{
    char line[256];

    snprintf(text, size, "no reason given");
    rewind(messages);
    while (fgets(line, sizeof line, messages) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strspn(line, " \t^") != strlen(line)) {
            snprintf(text, size, "%.200s", line + strspn(line, " \t"));
        }
    }
}

/* 0, or -1 with a line. */
static int run_gnuplot(FILE *script, int picture, enum gnuplot_format format, char *error,
                       size_t size)
{
    char  terminal[128], option_d[] = "-d", option_e[] = "-e";
    char  program[] = "gnuplot", standard_input[] = "-";
    char *arguments[] = { program, option_d, option_e, terminal, standard_input, NULL };
    posix_spawn_file_actions_t actions;
    FILE                      *messages = tmpfile();
    pid_t                      child;
    int                        code, status = 0;

    if (messages == NULL) {
        snprintf(error, size, "no temporary file: %s", strerror(errno));
        return -1;
    }
    snprintf(terminal, sizeof terminal, "%s", terminals[format]);
    rewind(script); /* writes out what is buffered, too */
    lseek(fileno(script), 0, SEEK_SET);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(script), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, picture, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fileno(messages), STDERR_FILENO);
    code = posix_spawnp(&child, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (code == 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
    }
    if (code == ENOENT ||
        (code == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127)) {
        snprintf(error, size,
                 "gnuplot is not installed, pictures need it: install the package "
                 "gnuplot-nox (or gnuplot)");
        code = -1;
    } else if (code != 0) {
        snprintf(error, size, "cannot start gnuplot: %s", strerror(code));
        code = -1;
    } else if (status != 0) {
        char why[256];

        read_complaint(messages, why, sizeof why);
        snprintf(error, size, "gnuplot failed: %s", why);
        code = -1;
    }
    fclose(messages);
    return code;
}

int gnuplot_draw(FILE *script, enum gnuplot_format format, const char *directory,
                 const char *name, char *path, size_t path_size, char *error, size_t size)
{
    char        temporary[4096];
    struct stat about;
    int         picture, result;

    if ((size_t) snprintf(path, path_size, "%s/%s.%s", directory, name,
                          endings[format]) >= path_size ||
        (size_t) snprintf(temporary, sizeof temporary, "%s/.%s.%s.%ld", directory, name,
                          endings[format], (long) getpid()) >= sizeof temporary) {
        snprintf(error, size, "%.300s: too long a path", directory);
        return -1;
    }
    picture = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (picture < 0) {
        snprintf(error, size, "%.300s: %s", path, strerror(errno));
        return -1;
    }
    result = run_gnuplot(script, picture, format, error, size);
    if (result == 0 && (fstat(picture, &about) != 0 || about.st_size == 0)) {
        snprintf(error, size, "%.300s: gnuplot has drawn nothing", path);
        result = -1;
    }
    if (close(picture) != 0 && result == 0) {
        snprintf(error, size, "%.300s: %s", path, strerror(errno));
        result = -1;
    }
    if (result == 0 && rename(temporary, path) != 0) {
        snprintf(error, size, "%.300s: %s", path, strerror(errno));
        result = -1;
    }
    if (result != 0) {
        unlink(temporary);
    }
    return result;
}
