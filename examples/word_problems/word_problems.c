/*
 * Writes the data of a task that a small model can learn in seconds, as JSON lines:
 *
 *     word_problems corpus COUNT SEED   what the base model is trained on
 *     word_problems known  COUNT SEED   tests of it, on lines that the corpus leaves out
 *     word_problems train  COUNT SEED   the task: problems that adapters are trained on
 *     word_problems test   COUNT SEED   tests of it, on sums that train leaves out
 *
 * The corpus has sums ("7+5=12 9-4=5 3+8=11 30-1=29") and stories of one or two steps
 * ("Tom has 7 pens. Tom gets 5: 7+5=12. Tom has 12 pens."). The task asks a question, and
 * has a verb that the corpus has not: "Tom has 7 pens, gets 5, doubles them. How many?" is
 * completed by " 7+5=12 12+12=24".
 *
 * Tests differ from each other. Integers only: the bytes are the same everywhere, and a
 * longer file begins with a shorter one of the same seed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LARGEST = 30,     /* no number is above */
    LARGEST_STEP = 9, /* what one step adds or takes */
    FACTS = 4,        /* sums in a line of the corpus */
    STEPS = 2,        /* of a problem; most of a story */
    TEXT = 160,       /* longest prompt or completion, with room to spare */
    HELD_OUT = 8,     /* one line or problem in so many is for testing */
    MAX_TESTS = 5000,
    MAX_TRIES = 100000 /* for one example */
};

enum { ADD, TAKE, DOUBLE, OPERATIONS };

static const char *const names[] = { "Tom", "Ann", "Bob", "Eve", "Sam", "Mia" };
static const char *const items[] = { "pens", "cups", "hats", "eggs", "nuts", "keys" };
static const char *const verbs[2][3] = { { "gets", "finds", "buys" },
                                         { "loses", "gives", "sells" } };

typedef struct example {
    char     prompt[TEXT], completion[TEXT];
    uint64_t hash; /* of what must not be in both of training and test */
} example;

/* ===== Random numbers ===================================================== */

/* Number `counter` of the sequence of `key`. */
typedef struct sequence {
    uint64_t key, counter;
} sequence;

/* The finaliser of splitmix64. */
static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* In 0 .. n-1; that n does not divide 2^64 is too little to be seen. */
static int draw(sequence *s, int n)
{
    return (int) (mix(s->key + 0x9E3779B97F4A7C15u * s->counter++) % (uint64_t) n);
}

static int between(sequence *s, int low, int high)
{
    return low + draw(s, high - low + 1);
}

static const char *pick(sequence *s, const char *const *words, size_t count)
{
    return words[draw(s, (int) count)];
}

#define PICK(s, words) pick(s, words, sizeof(words) / sizeof *(words))

/* FNV-1a. */
static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char) *text) * 0x100000001B3u;
    }
    return mix(hash);
}

/* ===== What is told ======================================================= */

static void append(char text[TEXT], const char *more)
{
    size_t used = strlen(text);
    if (strlen(more) >= TEXT - used) {
        fprintf(stderr, "word_problems: text is longer than %d bytes\n", TEXT);
        exit(1);
    }
    strcpy(text + used, more);
}

static void append_number(char text[TEXT], const char *before, int number)
{
    char digits[16];
    snprintf(digits, sizeof digits, "%d", number);
    append(text, before);
    append(text, digits);
}

/* "Tom has 7 pens" */
static void append_count(char text[TEXT], const char *name, int count, const char *item)
{
    append(text, name);
    append_number(text, " has ", count);
    append(text, " ");
    append(text, item);
}

/* Draws an amount that keeps the value in 0 .. LARGEST; 0 if there is none. */
static int draw_amount(sequence *s, int operation, int value)
{
    int most = operation == ADD ? LARGEST - value : value;
    if (operation == DOUBLE) {
        return value > 0 && 2 * value <= LARGEST ? value : 0;
    }
    most = most < LARGEST_STEP ? most : LARGEST_STEP;
    return most > 0 ? between(s, 1, most) : 0;
}

static int apply(int operation, int value, int amount)
{
    return operation == TAKE ? value - amount : value + amount;
}

/* "7+5=12", in two parts when `end` is another text than `begin` */
static int append_sum(char begin[TEXT], char end[TEXT], int operation, int value,
                      int amount)
{
    int result = apply(operation, value, amount);
    append_number(begin, "", value);
    append_number(begin, operation == TAKE ? "-" : "+", amount);
    append(begin, "=");
    append_number(end, "", result);
    return result;
}

/* "7+5=12 9-4=5 3+8=11 30-1=29": the last result is the completion. */
static void make_facts(sequence *s, example *e)
{
    for (int i = 0; i < FACTS; i++) {
        int operation, value, amount;
        do {
            operation = draw(s, 2);
            value = between(s, 0, LARGEST);
            amount = draw_amount(s, operation, value);
        } while (amount == 0);
        append(e->prompt, i > 0 ? " " : "");
        append_sum(e->prompt, i + 1 < FACTS ? e->prompt : e->completion, operation, value,
                   amount);
    }
}

/*
 * "Tom has 7 pens. Tom gets 5. Tom loses 3:" " 7+5=12. 12-3=9. Tom has 9 pens.", of one or
 * two steps; the colon says that there are no more.
 */
static void make_story(sequence *s, example *e)
{
    int         steps = between(s, 1, STEPS);
    int         value = between(s, 0, LARGEST);
    const char *name = PICK(s, names), *item = PICK(s, items);
    append_count(e->prompt, name, value, item);
    append(e->prompt, ".");
    for (int i = 0; i < steps; i++) {
        int operation, amount;
        do {
            operation = draw(s, 2);
            amount = draw_amount(s, operation, value);
        } while (amount == 0);
        append(e->prompt, " ");
        append(e->prompt, name);
        append(e->prompt, " ");
        append(e->prompt, PICK(s, verbs[operation]));
        append_number(e->prompt, " ", amount);
        append(e->prompt, i + 1 < steps ? "." : ":");
        append(e->completion, " ");
        value = append_sum(e->completion, e->completion, operation, value, amount);
        append(e->completion, ".");
    }
    append(e->completion, " ");
    append_count(e->completion, name, value, item);
    append(e->completion, ".");
}

/* What the base knows. */
static void make_known(sequence *s, example *e)
{
    char all[2 * TEXT];
    if (draw(s, 3) == 0) {
        make_facts(s, e);
    } else {
        make_story(s, e);
    }
    snprintf(all, sizeof all, "%s%s", e->prompt, e->completion);
    e->hash = hash_text(all);
}

/*
 * "Tom has 7 pens, gets 5, doubles them. How many?" " 7+5=12 12+12=24". The hash is that of
 * the sums: a problem with another name or item is not another problem.
 */
static void make_problem(sequence *s, example *e)
{
    int         value = between(s, 1, LARGEST);
    const char *name = PICK(s, names), *item = PICK(s, items);
    append_count(e->prompt, name, value, item);
    for (int i = 0; i < STEPS; i++) {
        int operation, amount;
        do {
            operation = draw(s, OPERATIONS);
            amount = draw_amount(s, operation, value);
        } while (amount == 0);
        append(e->prompt, ", ");
        if (operation == DOUBLE) {
            append(e->prompt, "doubles them");
        } else {
            append(e->prompt, PICK(s, verbs[operation]));
            append_number(e->prompt, " ", amount);
        }
        append(e->completion, " ");
        value = append_sum(e->completion, e->completion, operation, value, amount);
    }
    append(e->prompt, ". How many?");
    e->hash = hash_text(e->completion);
}

/* ===== The program ======================================================== */

typedef struct kind {
    const char *name;
    void (*make)(sequence *s, example *e);
    int test, text;
} kind;

static const kind kinds[] = { { "corpus", make_known, 0, 1 },
                              { "known", make_known, 1, 0 },
                              { "train", make_problem, 0, 0 },
                              { "test", make_problem, 1, 0 } };

/* Not among the first `count`; remembered as the next one. */
static int is_new(uint64_t seen[MAX_TESTS], uint64_t count, uint64_t hash)
{
    for (uint64_t i = 0; i < count; i++) {
        if (seen[i] == hash) {
            return 0;
        }
    }
    seen[count] = hash;
    return 1;
}

/*
 * Example `number`: the first one drawn that is on the right side of the split and, if it
 * is a test, not a test already.
 */
static int make_example(const kind *k, uint64_t seed, uint64_t number, example *e)
{
    static uint64_t seen[MAX_TESTS];
    sequence        s = { mix(mix(hash_text(k->name) ^ seed) + number), 0 };
    for (int i = 0; i < MAX_TRIES; i++) {
        memset(e, 0, sizeof *e);
        k->make(&s, e);
        if ((e->hash % HELD_OUT == 0) == k->test &&
            (!k->test || is_new(seen, number, e->hash))) {
            return 0;
        }
    }
    fprintf(stderr, "word_problems: no more than %" PRIu64 " different tests found\n",
            number);
    return -1;
}

static int parse(const char *text, const char *what, uint64_t *number)
{
    char *end;
    *number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || end - text > 18) {
        fprintf(stderr, "word_problems: %s is %s, must be a whole number\n", what, text);
        return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const kind *k = kinds, *last = kinds + sizeof kinds / sizeof *kinds;
    uint64_t    count, seed;
    example     e;
    if (argc != 4) {
        fprintf(stderr, "usage: word_problems corpus|known|train|test COUNT SEED\n");
        return 2;
    }
    while (k < last && strcmp(k->name, argv[1]) != 0) {
        k++;
    }
    if (k == last) {
        fprintf(stderr,
                "word_problems: kind is %s, must be corpus, known, train or test\n",
                argv[1]);
        return 2;
    }
    if (parse(argv[2], "COUNT", &count) != 0 || parse(argv[3], "SEED", &seed) != 0) {
        return 2;
    }
    if (k->test && count > MAX_TESTS) {
        fprintf(stderr, "word_problems: COUNT is %" PRIu64 ", must be <= %d for tests\n",
                count, MAX_TESTS);
        return 2;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (make_example(k, seed, i, &e) != 0) {
            return 1;
        }
        if (k->text) {
            printf("{\"text\": \"%s%s\"}\n", e.prompt, e.completion);
        } else {
            printf("{\"prompt\": \"%s\", \"completion\": \"%s\"}\n", e.prompt,
                   e.completion);
        }
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("word_problems: standard output");
        return 1;
    }
    return 0;
}
