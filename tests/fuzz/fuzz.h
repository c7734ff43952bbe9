/* fuzz.h - what the harnesses share. A harness is one parser that faces the network or a user: it
 * must not crash, and what it promises about its result is checked with fuzz_check(). */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define fuzz_check(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Not what is looked at: its branches would only be counted. */
#ifdef __clang__
#define FUZZ_UNSEEN __attribute__((no_sanitize("coverage")))
#else
#define FUZZ_UNSEEN
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input's next part, up to a byte 0xff, as a string that the caller frees. */
static inline char *fuzz_part(const uint8_t **data, size_t *size)
{
    const uint8_t *end = memchr(*data, 0xff, *size);
    size_t n = end ? (size_t)(end - *data) : *size;
    char *s = malloc(n + 1);
    if (!s)
        abort();
    memcpy(s, *data, n);
    s[n] = '\0';
    n += end != NULL;
    *data += n;
    *size -= n;
    return s;
}
