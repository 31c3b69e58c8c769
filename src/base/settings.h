/* Command-line flags for every setting of bl_options. */
#ifndef BEAMLORA_SRC_SETTINGS_H
#define BEAMLORA_SRC_SETTINGS_H

#include <jansson.h>

#include "beamlora.h"
#include "base/program.h"

#define SETTINGS_FLAGS 60 /* room that settings_flags needs at most */

struct settings {
    int32_t    method; /* index into the method's names */
    int32_t    preset; /* bl_preset                     */
    int        no_reallocation;
    int32_t    history_dtype; /* 1: BL_BF16 */
    int        starts;        /* with an adapter, whose scores --temperature may be for */
    bl_options values;        /* what the flags wrote, before the preset */
};

/* Set the defaults and write the flags for them into flags[room]; returns how many. */
int settings_flags(struct settings *settings, struct flag *flags, int room);

/* Options for a training of `steps` steps: the library's defaults, then the preset's,
 * then what was given. Tells of given flags that have no effect. 0, or -1 with a line. */
int settings_apply(struct settings *settings, const struct flag *flags, int count,
                   int64_t steps, bl_options *out, char *error, size_t size);

/* "beamlora", as given to --method. */
const char *settings_method_name(const struct settings *settings);
int         settings_is_full(const struct settings *settings);

/* {"rank": 8, ...}: put every setting's value in the options into the object, null where it
 * has no effect with the method. */
void settings_resolved(const struct settings *settings, const bl_options *options,
                       json_t *object);

#endif
