/* Error codes, their texts, versions; the text is kept per thread. */
#include "check_main.h"

#include <limits.h>
#include <pthread.h>

/* Numbers are never reused: written out here, apart from the header. */
START_TEST(numbers)
{
    ck_assert_int_eq(BL_OK, 0);
    ck_assert_int_eq(BL_E_ARG, -1);
    ck_assert_int_eq(BL_E_SHAPE, -2);
    ck_assert_int_eq(BL_E_RANGE, -3);
    ck_assert_int_eq(BL_E_OPTIONS, -4);
    ck_assert_int_eq(BL_E_NOMEM, -5);
    ck_assert_int_eq(BL_E_STATE, -6);
    ck_assert_int_eq(BL_E_NONFINITE, -7);
    ck_assert_int_eq(BL_E_FORMAT, -8);
    ck_assert_int_eq(BL_E_VERSION, -9);
    ck_assert_int_eq(BL_E_IO, -10);
    ck_assert_int_eq(BL_E_USER, -11);
    ck_assert_int_eq(BL_ERROR_LAST, -11);
}
END_TEST

START_TEST(texts)
{
    for (int code = BL_ERROR_LAST; code <= 0; code++) {
        ck_assert_ptr_nonnull(bl_strerror(code));
        ck_assert_ptr_eq(bl_strerror(code), bl_strerror(code)); /* static */
        for (int other = code + 1; other <= 0; other++) {
            ck_assert_str_ne(bl_strerror(code), bl_strerror(other));
        }
    }
    static const int odd[] = { 1, -12, 12345, INT_MIN, INT_MAX };
    for (int i = 0; i < 5; i++) {
        ck_assert_ptr_nonnull(bl_strerror(odd[i]));
        ck_assert_int_gt((int) strlen(bl_strerror(odd[i])), 0);
    }
    ck_assert_str_eq(bl_strerror(BL_E_SHAPE), "shapes do not fit together");
}
END_TEST

START_TEST(version)
{
    char text[64];
    ck_assert_int_eq(bl_version(), BL_VERSION_MAJOR * 10000 + BL_VERSION_MINOR * 100 +
                                       BL_VERSION_PATCH);
    snprintf(text, sizeof text, "%d.%d.%d", BL_VERSION_MAJOR, BL_VERSION_MINOR,
             BL_VERSION_PATCH);
    ck_assert_str_eq(bl_version_string(), text);
}
END_TEST

/* Never NULL; names the argument and both values; survives successes. */
START_TEST(last_error)
{
    ck_assert_ptr_nonnull(bl_last_error());
    bl_options  opt = default_options(BL_F32);
    bl_adapter *a = make_adapter(128, 16, &opt, 1);
    bl_tape    *tape = NULL;
    check_ok(bl_tape_create(&tape, a, 2, 1));
    float x[256] = { 0 }, y[32] = { 0 };
    check_fails(bl_forward(a, tape, 2, y, 16, x, 64, -1), BL_E_SHAPE);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "ldx"));
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "64"));
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "128"));
    ck_assert_ptr_null(strchr(bl_last_error(), '\n'));
    char kept[512];
    snprintf(kept, sizeof kept, "%s", bl_last_error());
    check_ok(bl_forward(a, tape, 2, y, 16, x, 128, -1));
    ck_assert_str_eq(bl_last_error(), kept);
    bl_tape_free(tape);
    bl_adapter_free(a);
}
END_TEST

/* Names are the host's or a file's: what quotes them stays one line. */
START_TEST(control_characters)
{
    bl_options opt = default_options(BL_F32);
    bl_spec    spec = make_spec(2, 3, 4);
    bl_group  *group = NULL;
    bl_array   arrays[64];
    spec.name = "a\nb\x7f\x1b";
    check_ok(bl_group_create(&group, &spec, 1, &opt));
    int64_t count = bl_group_get_state_count(group);
    ck_assert_int_le(count, 64);
    for (int64_t i = 0; i < count; i++) {
        check_ok(bl_group_get_state(group, i, &arrays[i]));
        arrays[i].name[0] = arrays[i].name[0] == 'a' ? 'x' : arrays[i].name[0];
    }
    check_fails(bl_group_set_state(group, arrays, count), BL_E_FORMAT);
    ck_assert_str_eq(bl_last_error(), "the state has no array a?b??.rank");
    bl_group_free(group);
}
END_TEST

static void *other_thread(void *arg)
{
    bl_options opt;
    ck_assert_ptr_nonnull(bl_last_error());
    *(int *) arg = strstr(bl_last_error(), "preset") != NULL;
    if (bl_options_init(&opt, 1) == 0) {
        *(int *) arg = 2;
    }
    return NULL;
}

START_TEST(per_thread)
{
    bl_options opt = default_options(BL_F32);
    pthread_t  thread;
    int        leaked = 0;
    ck_assert_int_lt(bl_options_preset(&opt, 99), 0);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "preset"));
    ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, &leaked), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(leaked, 0);
    ck_assert_ptr_nonnull(strstr(bl_last_error(), "preset"));
}
END_TEST

/* Wrong arguments are codes in every build, NULL handles included. */
START_TEST(nulls)
{
    bl_view  view;
    bl_array array;
    double   d;
    check_fails(bl_adapter_get_view(NULL, 0, 0, &view), BL_E_ARG);
    check_fails(bl_group_get_view(NULL, 0, &view), BL_E_ARG);
    check_fails(bl_group_touch(NULL), BL_E_ARG);
    check_fails(bl_group_tick(NULL), BL_E_ARG);
    check_fails(bl_group_discard_gradients(NULL), BL_E_ARG);
    check_fails(bl_group_copy_gradient_norm(NULL, &d), BL_E_ARG);
    check_fails(bl_group_set_temperature(NULL, 1), BL_E_ARG);
    check_fails(bl_adapter_set_frozen(NULL, 1), BL_E_ARG);
    check_fails(bl_group_get_state(NULL, 0, &array), BL_E_ARG);
    check_fails(bl_group_set_state(NULL, &array, 1), BL_E_ARG);
    check_fails(bl_group_load(NULL, "x", 1), BL_E_ARG);
    check_fails(bl_group_save(NULL, bytes_write, NULL), BL_E_ARG);
    check_fails(bl_reallocate(NULL, NULL), BL_E_ARG);
    check_fails(bl_group_reallocate(NULL, NULL), BL_E_ARG);
    check_fails(bl_memory_query(NULL, 1, NULL, 0, NULL), BL_E_ARG);
    check_fails(bl_adapter_create(NULL, 1, 1, NULL), BL_E_ARG);
    bl_group_free(NULL);
    bl_adapter_free(NULL);
    bl_tape_free(NULL);
    bl_plan_free(NULL);
}
END_TEST

START_TEST(frozen_values)
{
    bl_options  opt = default_options(BL_F32);
    bl_adapter *a = make_adapter(3, 3, &opt, 1);
    uint8_t     mask[8] = { 1, 1, 1, 1, 1, 1, 1, 2 };
    ck_assert_int_lt(bl_adapter_set_frozen(a, 2), 0);
    ck_assert_int_lt(bl_adapter_set_frozen(a, -1), 0);
    ck_assert_int_lt(bl_adapter_set_mask(a, mask), 0);
    bl_adapter_free(a);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("error");
    TCase *error = tcase_create("error");
    tcase_add_test(error, numbers);
    tcase_add_test(error, texts);
    tcase_add_test(error, version);
    tcase_add_test(error, last_error);
    tcase_add_test(error, control_characters);
    tcase_add_test(error, per_thread);
    tcase_add_test(error, nulls);
    tcase_add_test(error, frozen_values);
    suite_add_tcase(suite, error);
    return suite;
}
