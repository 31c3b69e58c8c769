/* For the suites of libbeamlora-io: calls that must succeed or fail with a line, and a
 * folder for files of their own under TMPDIR. */
#ifndef TEST_IO_CHECK_H
#define TEST_IO_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beamlora_io.h"
#include "check_main.h"

#define io_ok(call)                                                                      \
    do {                                                                                 \
        int io_rc_ = (call);                                                             \
        ck_assert_msg(io_rc_ == 0, "%s returned %d: %s", #call, io_rc_,                  \
                      bl_io_last_error());                                               \
    } while (0)

/* Fails with this code, and the text holds `part`. */
#define io_fails(call, code, part)                                                       \
    do {                                                                                 \
        int io_rc_ = (call);                                                             \
        ck_assert_msg(io_rc_ == (code), "%s returned %d (%s), must be %s", #call,        \
                      io_rc_, io_rc_ < 0 ? bl_io_last_error() : "ok", #code);            \
        ck_assert_msg(strstr(bl_io_last_error(), part) != NULL, "\"%s\" lacks \"%s\"",   \
                      bl_io_last_error(), part);                                         \
    } while (0)

static char folder[512];

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bl-io-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* Good until the call after the next. */
static const char *path_to(const char *name)
{
    static char path[2][1024];
    static int  turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

#endif
