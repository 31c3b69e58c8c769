/*
 * Error codes, their texts, and the one line on the last failure of a thread: the only
 * mutable state of the library outside the host's handles.
 */
#include <stdarg.h>
#include <stdio.h>

#include "doors.h"

static _Thread_local char last_error[256];

int bl__fail(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    for (char *c = last_error; *c != '\0'; c++) { /* it may quote a hostile file */
        if ((unsigned char) *c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    return code;
}

const char *bl_last_error(void)
{
    return last_error;
}

const char *bl_strerror(int code)
{
    switch (code) {
    case BL_OK:
        return "no error";
#define CASE(name, number, text)                                                         \
    case number:                                                                         \
        return text;
        BL_ERROR_MAP(CASE)
#undef CASE
    default:
        return "unknown error code";
    }
}

int32_t bl_version(void)
{
    return BL_VERSION_MAJOR * 10000 + BL_VERSION_MINOR * 100 + BL_VERSION_PATCH;
}

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

const char *bl_version_string(void)
{
    return TEXT(BL_VERSION_MAJOR) "." TEXT(BL_VERSION_MINOR) "." TEXT(BL_VERSION_PATCH);
}
