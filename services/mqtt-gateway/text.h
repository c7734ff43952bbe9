/* text.h - text of a packet or a topic, not NUL-terminated: pointing into somebody's bytes. */
#pragma once

#include <string.h>

#include "libcommon/util.h"

/* Always well-formed UTF-8 without NUL, but for a will or a password, which are bytes. */
struct text {
    const char *p;
    size_t len;
};

/* Borrowed. */
static inline struct text text_of(const char *s) { return (struct text){ s, strlen(s) }; }

static inline bool text_is(struct text t, const char *word)
{
    return t.len == strlen(word) && memcmp(t.p, word, t.len) == 0;
}

static inline bool text_begins(struct text t, const char *word)
{
    return t.len >= strlen(word) && memcmp(t.p, word, strlen(word)) == 0;
}

/* Takes word away from the beginning; false: it does not begin so, and stays. */
static inline bool text_skip(struct text *t, const char *word)
{
    if (!text_begins(*t, word))
        return false;
    t->p += strlen(word);
    t->len -= strlen(word);
    return true;
}
