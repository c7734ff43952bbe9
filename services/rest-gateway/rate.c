#include "services/rest-gateway/rate.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "libcommon/ids.h"

#define BUCKETS 256

struct principal_rate {
    LIST_ENTRY(principal_rate) link;
    char *who;
    int64_t mills; /* thousandths of a request that are left */
    int64_t seen_ms;
};
struct rate {
    int64_t per_s;
    LIST_HEAD(, principal_rate) buckets[BUCKETS];
};

struct rate *rate_open(int64_t per_s)
{
    struct rate *r = cw_calloc(1, sizeof *r);
    r->per_s = per_s;
    return r;
}

static void drop(struct principal_rate *p)
{
    LIST_REMOVE(p, link);
    free(p->who);
    free(p);
}

/* Finds or makes the row; rows that are full again are not worth keeping. */
static struct principal_rate *row(struct rate *r, const char *who, int64_t mono_ms)
{
    size_t bucket = cw_hash(who, strlen(who)) % BUCKETS;
    struct principal_rate *found = NULL;
    for (struct principal_rate *p = LIST_FIRST(&r->buckets[bucket]), *next; p; p = next) {
        next = LIST_NEXT(p, link);
        if (strcmp(p->who, who) == 0)
            found = p;
        else if (mono_ms - p->seen_ms > 1000)
            drop(p);
    }
    if (found)
        return found;
    found = cw_calloc(1, sizeof *found);
    found->who = cw_strdup(who);
    found->mills = r->per_s * 1000;
    found->seen_ms = mono_ms;
    LIST_INSERT_HEAD(&r->buckets[bucket], found, link);
    return found;
}

unsigned rate_take(struct rate *r, const char *who, int64_t mono_ms)
{
    struct principal_rate *p = row(r, who, mono_ms);
    int64_t passed_ms = mono_ms - p->seen_ms, full = r->per_s * 1000;
    p->mills = passed_ms >= 1000 ? full : p->mills + passed_ms * r->per_s;
    if (p->mills > full)
        p->mills = full;
    p->seen_ms = mono_ms;
    if (p->mills < 1000)
        return 1;
    p->mills -= 1000;
    return 0;
}

void rate_close(struct rate **out)
{
    struct rate *r = *out;
    if (!r)
        return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct principal_rate *p = LIST_FIRST(&r->buckets[i]), *next; p; p = next) {
            next = LIST_NEXT(p, link);
            drop(p);
        }
    free(r);
    *out = NULL;
}
