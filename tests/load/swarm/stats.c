/* stats.c - the live line and the result. */
#include "swarm.h"

#include <inttypes.h>

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

static void print_json(const struct stats *s, uint64_t outstanding, double connects, double rate)
{
    printf("{\"connected\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"lost\":%" PRIu64
           ",\"churned\":%" PRIu64 ",\"resumed\":%" PRIu64 ",\"connects_per_s\":%.0f",
           s->connected, stats_refused(s), s->lost + s->failed, s->churned, s->resumed, connects);
    printf(",\"sent\":%" PRIu64 ",\"acked\":%" PRIu64 ",\"abandoned\":%" PRIu64
           ",\"unacked\":%" PRIu64 ",\"held\":%" PRIu64 ",\"disordered\":%" PRIu64
           ",\"down\":%" PRIu64 ",\"answered\":%" PRIu64 ",\"rate\":%.0f",
           s->sent, s->acked, s->abandoned, outstanding, s->held, s->disordered_ack, s->down,
           s->answered, rate);
    printf(",\"ack_us\":%s", hist_json(&s->ack));
    printf(",\"connack_us\":%s}\n", hist_json(&s->connack));
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
    if (s->churned)
        printf("cut by --churn %" PRIu64 ", TLS sessions resumed %" PRIu64 "\n", s->churned,
               s->resumed);
    if (s->down)
        printf("received %" PRIu64 ", commands answered %" PRIu64 "\n", s->down, s->answered);
    printf("rate %.0f reports/s, %.1f MB/s on the wire\n", rate,
           per_second(s->bytes_out, s->first_sent_us, s->stop_us) / 1e6);
    hist_print("CONNACK", &s->connack);
    hist_print("PUBACK", &s->ack);
}
