/* The short run of a harness, in `make test`: without clang, the same inputs each time. What is in
 * tests/fuzz/seeds/<name>, then mutations of it: bytes and bits changed, cut, doubled, two spliced.
 * FUZZ_SEED chooses others, FUZZ_INPUTS how many. Its lines are those of cmocka, for tests/run. */
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define SEEDS_MAX 256
#define INPUT_MAX 4096

struct input {
    uint8_t *data;
    size_t len;
};

static struct input seeds[SEEDS_MAX];
static size_t n_seeds;
static const char *name;
static char repeats[160];
static unsigned long seed = 1, number;
static uint64_t dice;

/* Only what a signal handler may do: main() has written what repeats it. */
static void on_crash(int sig)
{
    (void)sig;
    ssize_t n = write(STDERR_FILENO, repeats, strlen(repeats));
    _exit(n < 0 ? 2 : 1);
}

static size_t roll(size_t below)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return below ? dice % below : 0;
}

static void load(const char *folder, const char *file)
{
    char path[512];
    struct input *in = &seeds[n_seeds];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = *file == '.' || n_seeds == SEEDS_MAX ? NULL : fopen(path, "rb");
    if (!f)
        return;
    in->data = malloc(INPUT_MAX);
    if (!in->data)
        abort();
    in->len = fread(in->data, 1, INPUT_MAX, f);
    fclose(f);
    n_seeds++;
}

static int by_content(const void *a, const void *b)
{
    const struct input *x = a, *y = b;
    int rc = memcmp(x->data, y->data, x->len < y->len ? x->len : y->len);
    return rc ? rc : (x->len > y->len) - (x->len < y->len);
}

/* In an order that does not depend on the file system. */
static void load_all(void)
{
    char folder[256];
    struct dirent *e;
    snprintf(folder, sizeof folder, "tests/fuzz/seeds/%s", name);
    DIR *d = opendir(folder);
    while (d && (e = readdir(d)))
        load(folder, e->d_name);
    if (d)
        closedir(d);
    qsort(seeds, n_seeds, sizeof *seeds, by_content);
}

static void change(uint8_t *data, size_t *len)
{
    size_t at = roll(*len), n = 1 + roll(16);
    n = n < *len - at ? n : *len - at;
    switch (roll(6)) {
    case 0:
        data[at] = (uint8_t)roll(256);
        break;
    case 1:
        data[at] ^= (uint8_t)(1U << roll(8));
        break;
    case 2:
        data[at] = "\0\xff\x7f\x80\"{}[]:,/#+ $"[roll(17)];
        break;
    case 3:
        memmove(data + at, data + at + n, *len - at - n), *len -= n;
        break;
    case 4:
        if (*len + n <= INPUT_MAX)
            memmove(data + at + n, data + at, *len - at), *len += n;
        break;
    default:
        *len = at + 1;
    }
}

/* In memory of exactly its size, so that a sanitizer sees who reads past it. */
static void feed(const uint8_t *data, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    if (!exact)
        abort();
    memcpy(exact, data, len);
    snprintf(repeats, sizeof repeats,
             "[  FAILED  ] fuzz_%s\nat input %lu: FUZZ_SEED=%lu FUZZ_INPUTS=%lu repeats it\n", name,
             number, seed, number + 1);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    number++;
}

static void feed_mutation(void)
{
    static uint8_t data[INPUT_MAX];
    const struct input *a = &seeds[roll(n_seeds)], *b = &seeds[roll(n_seeds)];
    size_t len = a->len, from = roll(b->len);
    memcpy(data, a->data, len);
    if (roll(4) == 0) { /* the beginning of one, the end of the other */
        len = roll(len);
        size_t rest = b->len - from < INPUT_MAX - len ? b->len - from : INPUT_MAX - len;
        memcpy(data + len, b->data + from, rest);
        len += rest;
    }
    for (size_t n = roll(8) + 1; n > 0 && len > 0; n--)
        change(data, &len);
    feed(data, len);
}

int main(int argc, char **argv)
{
    const char *given = getenv("FUZZ_SEED"), *count = getenv("FUZZ_INPUTS");
    unsigned long inputs = count ? strtoul(count, NULL, 10) : 50000;
    name = argc > 0 ? strstr(argv[0], "test_fuzz_") : NULL;
    if (!name)
        return 2;
    name += strlen("test_fuzz_");
    seed = given ? strtoul(given, NULL, 10) : seed;
    dice = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    static const int crashes[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE };
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++)
        signal(crashes[i], on_crash);
    load_all();
    fuzz_check(n_seeds > 0);
    for (size_t i = 0; i < n_seeds; i++)
        feed(seeds[i].data, seeds[i].len);
    while (number < inputs)
        feed_mutation();
    for (size_t i = 0; i < n_seeds; i++)
        free(seeds[i].data);
    printf("[       OK ] fuzz_%s\n", name);
    return 0;
}
