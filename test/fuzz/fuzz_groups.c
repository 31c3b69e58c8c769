/* Small groups for the targets that read a training's state; see fuzz.h. */
#include "fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bl_options options_of(int variant)
{
    bl_options options;

    fuzz_check(bl_options_init(&options, sizeof options) == 0);
    options.rank = 3;
    options.total_steps = 40;
    options.period = 4;
    options.p_curve = BL_CURVE_CONSTANT;
    options.p_start = 0.6;
    options.seed = 7;
    switch (variant) {
    case 1:
        options.method = BL_METHOD_LORA;
        break;
    case 2:
        options.parameter_dtype = options.activation_dtype = BL_F64;
        options.history_depth = 3;
        options.history_interval = 1;
        break;
    case 3:
        options.expand = BL_EXPAND_NONE;
        options.scope = BL_SCOPE_JOINT;
        break;
    case 4:
        options.expand = BL_EXPAND_FRESH;
        options.optimizer = BL_OPTIMIZER_HOST;
        break;
    case 5:
        options.moments = BL_MOMENTS_KEEP; /* and ranks that move between modules */
        options.importance = BL_IMPORTANCE_CONTRIBUTION;
        options.scope = BL_SCOPE_GLOBAL;
        options.idle = 0.9;
        options.transfer = BL_TRANSFER_PRESERVE;
        options.budget = 54; /* of which they cost 36 at first */
        break;
    case 6:
        options.method = BL_METHOD_LORA;
        options.dora = 1;
        break;
    case 7:
        options.method = BL_METHOD_ADALORA;
        options.target_rank = 1;
        options.tinit = 2;
        options.tfinal = 20;
        break;
    case 8:
        options.dora = 1;
        options.parameter_dtype = options.activation_dtype = BL_F64;
        break;
    default:
        break;
    }
    return options;
}

bl_group *fuzz_group(int variant)
{
    static const char *const names[] = { "q", "layers.0.mlp.up_proj" };
    static const float       singles[9] = { 1, 2, -1, 0.5f, 1, -2, 1, 1, 3 };
    static const double      doubles[9] = { 1, 2, -1, 0.5, 1, -2, 1, 1, 3 };
    const bl_options         options = options_of(variant);
    bl_group                *group = NULL;
    bl_spec                  specs[2];

    memset(specs, 0, sizeof specs);
    for (int i = 0; i < 2; i++) {
        specs[i].size = sizeof specs[i];
        specs[i].name = names[i];
        specs[i].in_features = 2 + i;
        specs[i].out_features = 3 - i;
        specs[i].base = options.parameter_dtype == BL_F64 ? (const void *) doubles
                                                          : (const void *) singles;
    }
    fuzz_check(bl_group_create(&group, specs, 2, &options) == 0);
    return group;
}

/* Gradients that follow from the step: no passes are needed. */
static void put_gradients(bl_group *group)
{
    for (int64_t k = 0; k < bl_group_get_count(group); k++) {
        for (int32_t tensor = BL_TENSOR_A; tensor <= BL_TENSOR_MAGNITUDE; tensor++) {
            bl_view view;

            if (bl_adapter_get_view(bl_group_get_adapter(group, k), tensor,
                                    BL_BUFFER_GRADIENTS, &view) != 0) {
                continue;
            }
            for (int64_t i = 0; i < view.rows * view.cols; i++) {
                int64_t at = i / view.cols * view.ld + i % view.cols;
                double  value = sin((double) (at + bl_group_get_step(group) % 1000));

                if (view.dtype == BL_F64) {
                    ((double *) view.data)[at] = value;
                } else {
                    ((float *) view.data)[at] = (float) value;
                }
            }
        }
    }
}

void fuzz_train(bl_group *group, int steps)
{
    bl_plan *plan = NULL;
    double   norm;
    bl_view  moments;
    int      host = bl_group_get_view(group, BL_BUFFER_M, &moments) != 0;

    fuzz_check(bl_plan_create(&plan, group) == 0);
    for (int i = 0; i < steps; i++) {
        put_gradients(group);
        bl_group_copy_gradient_norm(group, &norm);
        if (host) {
            bl_group_tick(group);
        } else {
            bl_group_step(group, 1e-2, 1);
        }
        if (bl_group_reallocate_due(group)) {
            bl_group_reallocate(group, plan);
        }
    }
    bl_plan_free(plan);
}

/* ----- as bytes ----- */

struct saved {
    uint8_t *data;
    size_t   used, room;
};

static int keep(void *user, const void *data, size_t bytes)
{
    struct saved *saved = user;

    fuzz_check(bytes <= saved->room - saved->used);
    memcpy(saved->data + saved->used, data, bytes);
    saved->used += bytes;
    return 0;
}

uint8_t *fuzz_save(const bl_group *group, size_t *size)
{
    struct saved saved = { NULL, 0, bl_group_get_saved_bytes(group) };

    saved.data = malloc(saved.room);
    fuzz_check(saved.data != NULL);
    fuzz_check(bl_group_save(group, keep, &saved) == 0);
    fuzz_check(saved.used == saved.room);
    *size = saved.used;
    return saved.data;
}
