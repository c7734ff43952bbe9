/* Opened secrets of devices that logged in lately. */
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

struct entry {
    LIST_ENTRY(entry) chain;
    TAILQ_ENTRY(entry) age;
    int64_t device_key, auth_version;
    struct secret_pair pair;
};

struct secrets {
    size_t n, max, mask;
    LIST_HEAD(, entry) * buckets;
    TAILQ_HEAD(ages, entry) ages; /* the longest unused first */
};

struct secrets *secrets_open(size_t max)
{
    struct secrets *s = cw_calloc(1, sizeof *s);
    size_t n = 16;
    while (n < max)
        n *= 2;
    s->max = max;
    s->mask = n - 1;
    s->buckets = cw_calloc(n, sizeof *s->buckets);
    TAILQ_INIT(&s->ages);
    return s;
}

static void wipe(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

static void drop(struct secrets *s, struct entry *e)
{
    LIST_REMOVE(e, chain);
    TAILQ_REMOVE(&s->ages, e, age);
    wipe(&e->pair.primary);
    wipe(&e->pair.secondary);
    free(e);
    s->n--;
}

static struct entry *find(struct secrets *s, int64_t device_key)
{
    struct entry *e;
    LIST_FOREACH(e, &s->buckets[(size_t)device_key & s->mask], chain)
    if (e->device_key == device_key)
        break;
    return e;
}

static struct entry *add(struct secrets *s, int64_t device_key, int64_t auth_version)
{
    struct entry *e = cw_calloc(1, sizeof *e);
    if (s->n == s->max)
        drop(s, TAILQ_FIRST(&s->ages));
    e->device_key = device_key;
    e->auth_version = auth_version;
    LIST_INSERT_HEAD(&s->buckets[(size_t)device_key & s->mask], e, chain);
    TAILQ_INSERT_TAIL(&s->ages, e, age);
    s->n++;
    return e;
}

static bool open_one(char **out, const uint8_t key[32], int64_t device_key, bool secondary,
                     const char *sealed)
{
    char context[64];
    return !sealed ||
           cw_unseal(out, NULL, key, seal_context(context, device_key, secondary), sealed) == 0;
}

const struct secret_pair *secrets_get(struct secrets *s, const uint8_t key[32], int64_t device_key,
                                      int64_t auth_version, const char *primary,
                                      const char *secondary)
{
    struct entry *e = find(s, device_key);
    if (e && e->auth_version == auth_version) {
        TAILQ_REMOVE(&s->ages, e, age);
        TAILQ_INSERT_TAIL(&s->ages, e, age);
        return &e->pair;
    }
    if (e)
        drop(s, e);
    e = add(s, device_key, auth_version);
    if (open_one(&e->pair.primary, key, device_key, false, primary) &&
        open_one(&e->pair.secondary, key, device_key, true, secondary))
        return &e->pair;
    drop(s, e);
    return NULL;
}

void secrets_drop(struct secrets *s, int64_t device_key)
{
    struct entry *e = find(s, device_key);
    if (e)
        drop(s, e);
}

void secrets_drop_all(struct secrets *s)
{
    while (!TAILQ_EMPTY(&s->ages)) /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): drop() unlinks */
        drop(s, TAILQ_FIRST(&s->ages));
}

void secrets_close(struct secrets **at)
{
    struct secrets *s = *at;
    if (!s)
        return;
    *at = NULL;
    secrets_drop_all(s);
    free(s->buckets);
    free(s);
}
