/* measure.c - time and the histogram. */
#include "measure.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static int64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int64_t now_us(void) { return clock_us(CLOCK_MONOTONIC); }
int64_t wall_us(void) { return clock_us(CLOCK_REALTIME); }

static size_t bucket_of(uint64_t us)
{
    unsigned top = us < 64 ? 0 : 63 - __builtin_clzll(us) - 5; /* 64 buckets a power of two */
    size_t b = top == 0 ? us : (size_t)top * 32 + (us >> top);
    return b < HIST_BUCKETS ? b : HIST_BUCKETS - 1;
}

static uint64_t bucket_top(size_t b)
{
    unsigned top = b < 64 ? 0 : b / 32 - 1;
    return top == 0 ? b : ((b - (uint64_t)top * 32 + 1) << top) - 1;
}

void hist_add(struct histogram *h, uint64_t us)
{
    h->bucket[bucket_of(us)]++;
    h->n++;
    if (us > h->max_us)
        h->max_us = us;
}

uint64_t hist_at(const struct histogram *h, double part)
{
    uint64_t want = h->n * part, seen = 0;
    for (size_t b = 0; b < HIST_BUCKETS && h->n; b++)
        if ((seen += h->bucket[b]) > want || seen == h->n)
            return bucket_top(b) < h->max_us ? bucket_top(b) : h->max_us;
    return 0;
}

const char *hist_json(const struct histogram *h)
{
    static char text[200];
    snprintf(text, sizeof text,
             "{\"p50\":%" PRIu64 ",\"p90\":%" PRIu64 ",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64
             ",\"max\":%" PRIu64 "}",
             hist_at(h, .5), hist_at(h, .9), hist_at(h, .99), hist_at(h, .999), h->max_us);
    return text;
}

void hist_print(const char *name, const struct histogram *h)
{
    if (h->n)
        printf("%s ms: p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n", name,
               hist_at(h, .5) / 1e3, hist_at(h, .9) / 1e3, hist_at(h, .99) / 1e3,
               hist_at(h, .999) / 1e3, h->max_us / 1e3);
}
