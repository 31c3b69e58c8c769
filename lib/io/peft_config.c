/*
 * adapter_config.json: what scales a module, and what this library cannot express.
 *
 *     scale = lora_alpha / r      or lora_alpha / sqrt(r) with use_rslora
 *     scale = lora_alpha / (init_r + 1e-5) for AdaLoRA, its own divisor
 *
 * rank_pattern and alpha_pattern replace r and lora_alpha for modules whose name matches
 * the key K, PEFT's re.match("(.*\.)?(K)$"): the first matching key counts, each pattern
 * on its own. Only the part of regular expressions that such keys use is understood.
 * AdaLoRA's rank_pattern is another thing: "<module>.lora_E" to a list of booleans, one for
 * each of the init_r ranks, true for those that the file still has.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

#define CONFIG_MAX ((size_t) 16 << 20) /* bytes; real ones have a few thousand */

/* Settings that make an adapter more than B A x, or train on a changed base. Harmless
 * only when absent, null, false, or empty. */
static const char *const refused[] = {
    "lora_bias",
    "modules_to_save",
    "enable_lora",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
};

static int is_off(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static int read_text(char **text, size_t *bytes, const char *path)
{
    int    fd;
    size_t size;
    int    code = bl__io_open_regular(&fd, &size, path);
    if (code != 0) {
        return code;
    }
    char *buffer = NULL;
    if (size > CONFIG_MAX) {
        code = bl__io_fail(BL_E_FORMAT, path, "has %zu bytes, at most %zu are read", size,
                           CONFIG_MAX);
    } else if ((buffer = malloc(size + 1)) == NULL) {
        code = bl__io_fail(BL_E_NOMEM, path, "out of memory");
    }
    size_t done = 0;
    while (code == 0 && done < size) {
        ssize_t got = read(fd, buffer + done, size - done);
        if (got == 0) {
            break; /* shortened meanwhile: the parser will tell */
        }
        if (got > 0) {
            done += (size_t) got;
        } else if (errno != EINTR) {
            code = bl__io_fail_errno(errno, path, "cannot read");
        }
    }
    close(fd);
    if (code != 0) {
        free(buffer);
        return code;
    }
    *text = buffer;
    *bytes = done;
    return 0;
}

static int parse(struct bl__io_config *config)
{
    char  *text = NULL;
    size_t bytes;
    int    code = read_text(&text, &bytes, config->path);
    if (code != 0) {
        return code;
    }
    json_error_t error;
    config->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (config->root == NULL) {
        int nomem = json_error_code(&error) == json_error_out_of_memory;
        return bl__io_fail(nomem ? BL_E_NOMEM : BL_E_FORMAT, config->path, "line %d: %s",
                           error.line, error.text);
    }
    if (!json_is_object(config->root)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "is no JSON object");
    }
    return 0;
}

static int check_kind(struct bl__io_config *config)
{
    const json_t *type = json_object_get(config->root, "peft_type");
    const char   *kind = json_string_value(type);
    if (kind == NULL || (strcmp(kind, "LORA") != 0 && strcmp(kind, "ADALORA") != 0)) {
        return bl__io_fail(BL_E_FORMAT, config->path,
                           "peft_type is %.60s, must be LORA or ADALORA",
                           kind == NULL ? "missing or no string" : kind);
    }
    config->adalora = strcmp(kind, "ADALORA") == 0;
    const json_t *published = json_object_get(config->root, "use_beamlora");
    config->published = json_is_true(published);
    if (!is_off(published) && (!config->published || config->adalora)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "use_beamlora is %s",
                           config->adalora ? "set, which ADALORA has not" : "no boolean");
    }
    const json_t *dora = json_object_get(config->root, "use_dora");
    config->dora = json_is_true(dora);
    if (!is_off(dora) && (!config->dora || config->adalora || config->published)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "use_dora is %s",
                           config->adalora     ? "set, which ADALORA has not"
                           : config->published ? "set, and use_beamlora too"
                                               : "no boolean");
    }
    const json_t *bias = json_object_get(config->root, "bias");
    const char   *text = json_string_value(bias);
    if (!is_off(bias) && (text == NULL || strcmp(text, "none") != 0)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "bias is %.60s, must be none",
                           text == NULL ? "no string" : text);
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (!is_off(json_object_get(config->root, refused[i]))) {
            return bl__io_fail(BL_E_FORMAT, config->path,
                               "%s is set, which a plain LoRA cannot express",
                               refused[i]);
        }
    }
    /* PiSSA, OLoRA, CorDA, LoftQ and others leave an adapter that fits only the base
     * that they changed. These do not: */
    const json_t *init = json_object_get(config->root, "init_lora_weights");
    text = json_string_value(init);
    if (text != NULL && strcmp(text, "gaussian") != 0 && strcmp(text, "eva") != 0 &&
        strcmp(text, "orthogonal") != 0) {
        return bl__io_fail(BL_E_FORMAT, config->path,
                           "init_lora_weights is %.60s: its base weights are not the "
                           "original ones",
                           text);
    }
    if (text == NULL && !is_off(init) && !json_is_true(init)) {
        return bl__io_fail(BL_E_FORMAT, config->path,
                           "init_lora_weights is no boolean or string");
    }
    return 0;
}

static int get_rank(const struct bl__io_config *config, const json_t *value,
                    const char *name, int64_t *rank)
{
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > INT_MAX) {
        return bl__io_fail(BL_E_FORMAT, config->path, "%.120s is no integer in 1..%d",
                           name, INT_MAX);
    }
    *rank = (int64_t) json_integer_value(value);
    return 0;
}

static int get_alpha(const struct bl__io_config *config, const json_t *value,
                     const char *name, double *alpha)
{
    if (!json_is_number(value) || !isfinite(json_number_value(value))) {
        return bl__io_fail(BL_E_FORMAT, config->path, "%.120s is no number", name);
    }
    *alpha = json_number_value(value);
    return 0;
}

static int is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_' || c == '-' || c == '.';
}

int bl__io_key_is_plain(const char *key)
{
    const char *c = key;
    while (is_name_character(*c)) {
        c++;
    }
    return *key != '\0' && *c == '\0';
}

/* Keys that bl__io_key_matches takes at their meaning. */
static int check_key(const struct bl__io_config *config, const char *pattern,
                     const char *key)
{
    const char *c = key[0] == '^' ? key + 1 : key;
    int         bad = *c == '\0';
    for (; *c != '\0' && !bad; c++) {
        if (c[0] == '\\' && c[1] == '.') {
            c++;
        } else {
            bad = !is_name_character(*c);
        }
    }
    if (bad) {
        return bl__io_fail(
            BL_E_FORMAT, config->path,
            "%s: key %.120s is a regular expression that is not understood", pattern,
            key);
    }
    return 0;
}

/* re.match("(.*\.)?(key)$", name): '.' in a key stands for any character. */
int bl__io_key_matches(const char *key, const char *name)
{
    int    whole = key[0] == '^';
    size_t wanted = 0;
    key += whole;
    for (const char *c = key; *c != '\0'; c++) {
        c += *c == '\\';
        wanted++;
    }
    size_t length = strlen(name);
    if (wanted > length) {
        return 0;
    }
    const char *at = name + (length - wanted);
    if (at != name && (whole || at[-1] != '.')) {
        return 0;
    }
    for (; *key != '\0'; key++, at++) {
        int any = *key == '.';
        key += *key == '\\';
        if (!any && *key != *at) {
            return 0;
        }
    }
    return 1;
}

/* The value of the first key that matches, or NULL. Keys are in the file's order. */
static const json_t *find_pattern(const struct bl__io_config *config, const char *pattern,
                                  const char *module)
{
    json_t *object = json_object_get(config->root, pattern);
    for (void *at = json_object_iter(object); at != NULL;
         at = json_object_iter_next(object, at)) {
        if (bl__io_key_matches(json_object_iter_key(at), module)) {
            return json_object_iter_value(at);
        }
    }
    return NULL;
}

static int check_pattern(const struct bl__io_config *config, const char *pattern)
{
    json_t *object = json_object_get(config->root, pattern);
    if (is_off(object)) {
        return 0;
    }
    if (!json_is_object(object)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "%s is no JSON object", pattern);
    }
    int ranks = strcmp(pattern, "rank_pattern") == 0;
    for (void *at = json_object_iter(object); at != NULL;
         at = json_object_iter_next(object, at)) {
        int64_t       rank;
        double        alpha;
        const char   *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        int           code = check_key(config, pattern, key);
        if (code == 0) {
            code = ranks ? get_rank(config, value, key, &rank)
                         : get_alpha(config, value, key, &alpha);
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

/* AdaLoRA's rank_pattern: lists of booleans. */
static int check_masks(const struct bl__io_config *config)
{
    json_t *object = json_object_get(config->root, "rank_pattern");
    if (is_off(object)) {
        return 0;
    }
    if (!json_is_object(object)) {
        return bl__io_fail(BL_E_FORMAT, config->path, "rank_pattern is no JSON object");
    }
    const char *key;
    json_t     *list;
    json_object_foreach(object, key, list)
    {
        size_t  i;
        json_t *value;
        int     bad = !json_is_array(list);
        json_array_foreach(list, i, value)
        {
            bad |= !json_is_boolean(value);
        }
        if (bad) {
            return bl__io_fail(BL_E_FORMAT, config->path,
                               "rank_pattern: %.120s is no list of booleans", key);
        }
    }
    return 0;
}

static int read_scale(struct bl__io_config *config)
{
    /* PEFT's defaults, for keys that an old or hand-made file leaves out. */
    const char *rank = config->adalora ? "init_r" : "r";
    config->rank = config->adalora ? 12 : 8;
    config->alpha = 8;
    int           code = 0;
    const json_t *value = json_object_get(config->root, rank);
    if (value != NULL) {
        code = get_rank(config, value, rank, &config->rank);
    }
    value = json_object_get(config->root, "lora_alpha");
    if (code == 0 && value != NULL) {
        code = get_alpha(config, value, "lora_alpha", &config->alpha);
    }
    value = json_object_get(config->root, "use_rslora");
    if (code == 0 && !is_off(value) && !json_is_true(value)) {
        code = bl__io_fail(BL_E_FORMAT, config->path, "use_rslora is no boolean");
    }
    config->rslora = json_is_true(value);
    if (code == 0) {
        code =
            config->adalora ? check_masks(config) : check_pattern(config, "rank_pattern");
    }
    if (code == 0 && !config->adalora) {
        code = check_pattern(config, "alpha_pattern");
    }
    return code;
}

int bl__io_config_open(struct bl__io_config *config, const char *dir)
{
    memset(config, 0, sizeof *config);
    config->path = bl__io_join(dir, BL__IO_CONFIG);
    if (config->path == NULL) {
        return bl__io_fail(BL_E_NOMEM, dir, "out of memory");
    }
    int code = parse(config);
    if (code == 0) {
        code = check_kind(config);
    }
    if (code == 0) {
        code = read_scale(config);
    }
    if (code != 0) {
        bl__io_config_close(config);
    }
    return code;
}

void bl__io_config_close(struct bl__io_config *config)
{
    json_decref(config->root);
    free(config->path);
    memset(config, 0, sizeof *config);
}

/* The list of an AdaLoRA module in rank_pattern, or NULL. */
static int find_mask(const struct bl__io_config *config, const char *module,
                     const json_t **mask)
{
    static const char *const endings[] = { ".lora_E", ".lora_E.default" };
    const json_t            *masks = json_object_get(config->root, "rank_pattern");
    size_t                   length = strlen(module);
    char                    *key = malloc(length + strlen(endings[1]) + 1);
    if (key == NULL) {
        return bl__io_fail(BL_E_NOMEM, config->path, "out of memory");
    }
    memcpy(key, module, length);
    for (int i = 0; i < 2 && *mask == NULL; i++) {
        memcpy(key + length, endings[i], strlen(endings[i]) + 1);
        *mask = json_object_get(masks, key);
    }
    free(key);
    return 0;
}

/* Ranks that an AdaLoRA module still has, and its scale. PEFT's divisor stays that of
 * init_r; an alpha of 0 or less stands for the rank. */
static int adalora_scale(const struct bl__io_config *config, const char *module,
                         int64_t *rank, double *scale)
{
    const json_t *mask = NULL;
    int           code = find_mask(config, module, &mask);
    if (code != 0) {
        return code;
    }
    *rank = mask == NULL ? config->rank : 0;
    for (size_t i = 0; i < json_array_size(mask); i++) {
        *rank += json_is_true(json_array_get(mask, i));
    }
    double alpha = config->alpha > 0 ? config->alpha : (double) *rank;
    *scale = alpha / ((double) config->rank + 1e-5);
    return 0;
}

int bl__io_config_scale(const struct bl__io_config *config, const char *module,
                        int64_t rows, int64_t *rank, double *scale)
{
    if (config->root == NULL) {
        *rank = rows;
        *scale = (double) NAN;
        return 0;
    }
    if (config->adalora) {
        return adalora_scale(config, module, rank, scale);
    }
    double        alpha = config->alpha;
    const json_t *value = find_pattern(config, "rank_pattern", module);
    *rank = config->rank;
    int code = value == NULL ? 0 : get_rank(config, value, module, rank);
    value = find_pattern(config, "alpha_pattern", module);
    if (code == 0 && value != NULL) {
        code = get_alpha(config, value, module, &alpha);
    }
    if (code == 0) {
        *scale = alpha / (config->rslora ? sqrt((double) *rank) : (double) *rank);
    }
    return code;
}
