/* stats.c - the histogram, the live line and the result. */
#include "swarm.h"

#include <inttypes.h>

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

uint64_t stats_refused(const struct stats *s)
{
    uint64_t n = 0;
    for (int code = 1; code < 256; code++)
        n += s->refused[code];
    return n;
}

static double per_second(uint64_t n, int64_t from_us, int64_t to_us)
{
    return to_us > from_us ? n * 1e6 / (to_us - from_us) : 0;
}

void stats_live(const struct stats *s, uint64_t outstanding, size_t devices)
{
    static uint64_t acked;
    static int64_t at;
    int64_t now = now_us();
    fprintf(stderr,
            "\r%" PRIu64 "/%zu connected, %" PRIu64 " sent, %" PRIu64 " acknowledged, %" PRIu64
            " waiting, %.0f/s, p99 %.1f ms \033[K",
            s->connected, devices, s->sent, s->acked, outstanding,
            at ? per_second(s->acked - acked, at, now) : 0, hist_at(&s->ack, .99) / 1e3);
    acked = s->acked;
    at = now;
}

static void print_hist(const char *name, const struct histogram *h)
{
    if (h->n)
        printf("%s ms: p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n", name,
               hist_at(h, .5) / 1e3, hist_at(h, .9) / 1e3, hist_at(h, .99) / 1e3,
               hist_at(h, .999) / 1e3, h->max_us / 1e3);
}

static void print_json(const struct stats *s, uint64_t outstanding, double connects, double rate)
{
    printf("{\"connected\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"lost\":%" PRIu64
           ",\"connects_per_s\":%.0f,\"sent\":%" PRIu64 ",\"acked\":%" PRIu64
           ",\"abandoned\":%" PRIu64 ",\"unacked\":%" PRIu64 ",\"held\":%" PRIu64
           ",\"disordered\":%" PRIu64 ",\"down\":%" PRIu64 ",\"answered\":%" PRIu64
           ",\"rate\":%.0f,\"ack_us\":{\"p50\":%" PRIu64 ",\"p90\":%" PRIu64 ",\"p99\":%" PRIu64
           ",\"p999\":%" PRIu64 ",\"max\":%" PRIu64 "}}\n",
           s->connected, stats_refused(s), s->lost + s->failed, connects, s->sent, s->acked,
           s->abandoned, outstanding, s->held, s->disordered_ack, s->down, s->answered, rate,
           hist_at(&s->ack, .5), hist_at(&s->ack, .9), hist_at(&s->ack, .99),
           hist_at(&s->ack, .999), s->ack.max_us);
}

void stats_final(const struct stats *s, const struct options *o, uint64_t outstanding,
                 size_t devices)
{
    static const char *const meaning[] = { "accepted",    "protocol version", "client id",
                                           "unavailable", "bad password",     "not permitted" };
    double connects = per_second(s->connack.n, s->start_us, s->last_connack_us);
    double rate = o->qos ? per_second(s->acked, s->first_sent_us, s->last_acked_us)
                         : per_second(s->sent, s->first_sent_us, s->stop_us);
    if (o->json) {
        print_json(s, outstanding, connects, rate);
        return;
    }
    printf("devices %zu, connected %" PRIu64 " (%.0f/s), lost %" PRIu64 ", failed %" PRIu64 "\n",
           devices, s->connected, connects, s->lost, s->failed);
    for (int code = 1; code < 256; code++)
        if (s->refused[code])
            printf("refused with CONNACK %d (%s): %" PRIu64 "\n", code,
                   code < 6 ? meaning[code] : "?", s->refused[code]);
    printf("sent %" PRIu64 ", acknowledged %" PRIu64 ", missing %" PRIu64 ", abandoned %" PRIu64
           ", held by a full window %" PRIu64 "\n",
           s->sent, s->acked, outstanding, s->abandoned, s->held);
    if (s->unknown_ack || s->disordered_ack)
        printf("PUBACKs for nothing %" PRIu64 ", out of order %" PRIu64 "\n", s->unknown_ack,
               s->disordered_ack);
    if (s->down)
        printf("received %" PRIu64 ", commands answered %" PRIu64 "\n", s->down, s->answered);
    printf("rate %.0f reports/s, %.1f MB/s on the wire\n", rate,
           per_second(s->bytes_out, s->first_sent_us, s->stop_us) / 1e6);
    print_hist("CONNACK", &s->connack);
    print_hist("PUBACK", &s->ack);
}
