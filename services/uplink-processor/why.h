/* why.h - what one transaction adds to the explanations of devices: failures, one per device and
 * layer, and changes. No I/O. */
#pragma once

#include <uthash.h>

#include "libcommon/util.h"

struct why_key {
    int64_t device_key;
    char layer[16];
};

struct why_failure {
    struct why_key key;
    char *code, *reason, *next_step, *sample; /* owned; next_step and sample may be NULL */
    int64_t first_ms, last_ms, count;
    UT_hash_handle hh;
};

struct why_change {
    int64_t device_key, at_ms;
    const char *what; /* static */
    char *code;       /* owned, may be NULL */
    char *text;       /* owned */
};

struct why {
    struct why_failure *failures;
    struct why_change *changes;
    size_t n_changes, cap_changes;
};

/* A failure as it is told; texts are copied. */
struct why_told {
    int64_t device_key;
    const char *layer, *code, *reason, *next_step, *sample;
    int64_t first_ms, last_ms, count;
};

/* A failure of the same layer and code is counted to the one that is there; another code takes its
 * place, and the one before becomes a change. */
void why_fail(struct why *w, const struct why_told *told);
/* Takes text. */
void why_change(struct why *w, int64_t device_key, int64_t at_ms, const char *what,
                const char *code, char *text);
/* Its content; zeroes it. */
void why_free(struct why *w);

/* The layer's name from a list of ours, so that nothing foreign becomes a key; NULL: unknown. */
const char *why_layer(const char *name);
