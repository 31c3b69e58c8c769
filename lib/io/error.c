/*
 * The thread's error text. Everything that went into it may come from a hostile file,
 * so control characters are replaced: the text stays one line whatever it quotes.
 */
#define _POSIX_C_SOURCE 200809L /* strerror_r */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

#define PATH_SHOWN 200 /* bytes of a path's end that a message keeps */

static _Thread_local char error_text[512];

int bl__io_fail(int code, const char *path, const char *format, ...)
{
    int used = 0;
    if (path != NULL) {
        size_t length = strlen(path);
        int    shorten = length > PATH_SHOWN;
        used = snprintf(error_text, sizeof error_text, "%s%s: ", shorten ? "..." : "",
                        path + (shorten ? length - PATH_SHOWN : 0));
        if (used < 0 || (size_t) used >= sizeof error_text) {
            used = 0;
        }
    }
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(error_text + used, sizeof error_text - (size_t) used, format,
                  arguments) < 0) {
        error_text[used] = '\0';
    }
    va_end(arguments);
    for (char *c = error_text; *c != '\0'; c++) {
        if ((unsigned char) *c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    return code;
}

int bl__io_fail_errno(int error, const char *path, const char *what)
{
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0) {
        snprintf(text, sizeof text, "system error %d", error);
    }
    return bl__io_fail(BL_E_IO, path, "%s: %s", what, text);
}

int bl__io_fail_core(int code, const char *path)
{
    return bl__io_fail(code, path, "%s", bl_last_error());
}

const char *bl_io_last_error(void)
{
    return error_text;
}
