/*
 * Writes docs/performance.md: a template, with lines `@table SUBJECT WHAT`, `@targets
 * SUBJECT`, `@curves SUBJECT`, `@machine SUBJECT` and `@picture SUBJECT TEXT` replaced by
 * what SUBJECT.json has. Pictures are drawn where a directory for them is given.
 *
 *     docs RESULTS TEMPLATE [PICTURES] > performance.md
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"

static json_t *read_results(const char *directory, const char *subject)
{
    char         path[1024];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s.json", directory, subject);
    json_t *const results = json_load_file(path, 0, &error);
    if (results == NULL) {
        fprintf(stderr, "docs: %s: %s\n", path, error.text);
    }
    return results;
}

static void write_time(double seconds)
{
    if (seconds < 1e-3) {
        printf("%.1f µs", seconds * 1e6);
    } else {
        printf("%.2f ms", seconds * 1e3);
    }
}

/* Empty `what`: all rows. */
static void write_table(const json_t *results, const char *what)
{
    size_t  i;
    json_t *row;
    puts("| | against | shape | n | r | this | other | ratio | 95 % interval |\n"
         "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |");
    json_array_foreach(json_object_get(results, "rows"), i, row)
    {
        if (what[0] != '\0' && strcmp(result_text(row, "what"), what) != 0) {
            continue;
        }
        printf("| %s | %s | %s | %.0f | %.0f | ", result_text(row, "what"),
               result_text(row, "against"), result_text(row, "shape"),
               result_number(row, "n"), result_number(row, "rank"));
        write_time(result_number(row, "seconds"));
        printf(" | ");
        write_time(result_number(row, "other"));
        printf(" | %.3f | %.3f to %.3f |\n", result_number(row, "ratio"),
               result_number(row, "low"), result_number(row, "high"));
    }
}

static void write_limit(double limit)
{
    if (limit > 0) {
        printf("%.2f", limit);
    }
}

static void write_targets(const json_t *results)
{
    size_t  i;
    json_t *row;
    puts(
        "| | against | n from | rows | mean | wanted | worst end of an interval | wanted "
        "|\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    json_array_foreach(json_object_get(results, "targets"), i, row)
    {
        printf("| %s | %s | %.0f | %.0f | %.3f | ", result_text(row, "what"),
               result_text(row, "against"), result_number(row, "least_n"),
               result_number(row, "rows"), result_number(row, "mean"));
        write_limit(result_number(row, "mean_wanted"));
        printf(" | %.3f | ", result_number(row, "worst"));
        write_limit(result_number(row, "worst_wanted"));
        puts(" |");
    }
}

static void write_curves(const json_t *results)
{
    size_t      i;
    json_t     *row, *value;
    const char *name;
    puts("| | x | time | memory |\n| --- | ---: | ---: | ---: |");
    json_array_foreach(json_object_get(results, "points"), i, row)
    {
        printf("| %s | %.0f | ", result_text(row, "curve"), result_number(row, "x"));
        write_time(result_number(row, "seconds"));
        printf(" | %.1f MB |\n", result_number(row, "bytes") / 1e6);
    }
    putchar('\n');
    json_object_foreach(json_object_get(results, "numbers"), name, value)
    {
        printf("* %s: %.3f\n", name, json_number_value(value));
    }
}

static void write_machine(const json_t *results)
{
    char line[512];
    picture_machine(results, line, sizeof line);
    printf("%s.\n", line);
}

/* 0, or 1 with a line. */
static int write_picture(const json_t *results, const char *words, const char *pictures)
{
    const char *const subject = result_text(results, "subject");
    char              path[1024], error[512];
    if (!picture_has(results)) {
        fprintf(stderr, "docs: %s has no picture\n", subject);
        return 1;
    }
    if (pictures != NULL &&
        picture_draw(results, pictures, path, sizeof path, error, sizeof error) != 0) {
        fprintf(stderr, "docs: %s\n", error);
        return 1;
    }
    printf("![%s](%s.png)\n", words, subject);
    return 0;
}

/* 0, or 1 with a line. */
static int write_directive(const char *directory, char *line, const char *pictures)
{
    char *const subject = strchr(line, ' ') == NULL ? NULL : strchr(line, ' ') + 1;
    if (subject == NULL) {
        fprintf(stderr, "docs: what is %s?\n", line);
        return 1;
    }
    char *const end = strchr(subject, ' ');
    if (end != NULL) {
        *end = '\0';
    }
    json_t *const results = read_results(directory, subject);
    if (results == NULL) {
        return 1;
    }
    int result = 0;
    if (strncmp(line, "@table ", 7) == 0) {
        write_table(results, end == NULL ? "" : end + 1);
    } else if (strncmp(line, "@targets ", 9) == 0) {
        write_targets(results);
    } else if (strncmp(line, "@curves ", 8) == 0) {
        write_curves(results);
    } else if (strncmp(line, "@machine ", 9) == 0) {
        write_machine(results);
    } else if (strncmp(line, "@picture ", 9) == 0) {
        result = write_picture(results, end == NULL ? "" : end + 1, pictures);
    } else {
        fprintf(stderr, "docs: what is %s?\n", line);
        result = 1;
    }
    json_decref(results);
    return result;
}

int main(int argc, char **argv)
{
    char line[512];
    int  result = 0;
    FILE *const template = argc == 3 || argc == 4 ? fopen(argv[2], "r") : NULL;
    if (template == NULL) {
        fputs("docs RESULTS TEMPLATE [PICTURES] > performance.md\n", stderr);
        return 2;
    }
    while (result == 0 && fgets(line, sizeof line, template) != NULL) {
        if (line[0] == '@') {
            line[strcspn(line, "\n")] = '\0';
            result = write_directive(argv[1], line, argv[3]);
        } else {
            fputs(line, stdout);
        }
    }
    fclose(template);
    return result;
}
