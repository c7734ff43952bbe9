/* main.c - the loop: connects at a rate, publishes at a rate or as acknowledged, waits for the
 * last PUBACKs, says what came of it. */
#include "swarm.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 1
#define BATCH   512

static volatile sig_atomic_t interrupted;

static void on_signal(int sig) { interrupted = sig; }

size_t devices_load(struct swarm *w)
{
    FILE *f = fopen(w->o.devices, "r");
    char *line = NULL, id[257], secret[257];
    size_t size = 0, room = 0;
    if (!f) {
        perror(w->o.devices);
        exit(SWARM_USAGE);
    }
    while (getline(&line, &size, f) > 0 && !(w->o.count && w->count == (size_t)w->o.count)) {
        if (*line == '#' || sscanf(line, "%256s %256s", id, secret) != 2)
            continue;
        if (w->count == room)
            w->devices = realloc(w->devices, (room = room ? room * 2 : 64) * sizeof *w->devices);
        if (!w->devices)
            abort();
        w->devices[w->count++] =
            (struct device){ .id = strdup(id),
                             .secret = strdup(secret),
                             .fd = -1,
                             .next_packet_id = 1,
                             .next_seq = w->o.first_seq,
                             .slots = calloc(w->slot_mask + 1, sizeof(struct slot)) };
    }
    free(line);
    fclose(f);
    return w->count;
}

static double add_tokens(double have, long rate, int64_t us, double most)
{
    have += rate * (us / 1e6);
    return have < most ? have : most;
}

static void connect_some(struct swarm *w, int64_t now)
{
    for (; w->connect_tokens >= 1 && w->next_connect < w->count; w->next_connect++) {
        if (w->connecting >= (size_t)w->o.connecting)
            return;
        w->connect_tokens--;
        device_connect(w, &w->devices[w->next_connect]);
    }
    for (size_t i = 0; w->o.reconnect && i < w->next_connect && !w->stopping; i++) {
        struct device *d = &w->devices[i];
        if (d->state == DEV_IDLE && d->retry_us && now >= d->retry_us && w->connect_tokens >= 1) {
            w->connect_tokens--;
            device_connect(w, d);
        }
    }
}

static void publish_some(struct swarm *w)
{
    size_t tried = 0;
    while (w->o.rate && w->send_tokens >= 1 && tried < w->count) {
        struct device *d = &w->devices[w->cursor++ % w->count];
        tried++;
        if (!device_publish(w, d)) {
            w->stats.held += d->state == DEV_UP;
            continue;
        }
        device_flush(w, d);
        w->send_tokens--;
        tried = 0;
    }
}

static void start_publishing(struct swarm *w, int64_t now)
{
    w->publishing = !w->o.hold;
    w->stop_at_us = w->o.duration_s ? now + w->o.duration_s * 1000000LL : INT64_MAX;
    w->send_tokens = 0;
    for (size_t i = 0; i < w->count && !w->o.rate; i++) {
        device_fill(w, &w->devices[i]);
        if (w->devices[i].state == DEV_UP)
            device_flush(w, &w->devices[i]);
    }
}

/* One device after the other, so that each comes back before it is cut again. */
static void churn_some(struct swarm *w, int64_t us)
{
    w->churn_tokens = add_tokens(w->churn_tokens, w->o.churn, us, w->o.churn / 10.0 + 1);
    for (; w->churn_tokens >= 1; w->churn_tokens--)
        device_churn(w, &w->devices[w->churn_at++ % w->count]);
}

static bool all_published(const struct swarm *w)
{
    return w->publishing && w->o.messages && w->stats.sent >= (uint64_t)w->o.messages * w->up &&
           (!w->o.reconnect || w->up == w->count);
}

static bool settled(const struct swarm *w)
{
    return w->next_connect == w->count && !w->connecting && w->up + w->ended == w->count;
}

/* Everything that depends on time. Returns false when the run is over. */
static bool tick(struct swarm *w, int64_t now)
{
    int64_t us = now - w->last_tick_us;
    w->last_tick_us = now;
    w->connect_tokens = add_tokens(w->connect_tokens, w->o.connect_rate, us, w->o.connecting);
    connect_some(w, now);
    if (!w->stop_at_us && settled(w))
        start_publishing(w, now);
    if (w->stop_at_us && !w->stopping)
        churn_some(w, us);
    if (w->publishing) {
        w->send_tokens = add_tokens(w->send_tokens, w->o.rate, us, w->o.rate / 20.0 + 1);
        publish_some(w);
    }
    if (!w->stopping && (interrupted || w->ended == w->count || all_published(w) ||
                         (w->stop_at_us && now >= w->stop_at_us))) {
        w->stopping = true;
        w->publishing = false;
        w->stats.stop_us = now;
        w->give_up_us = now + w->o.timeout_s * 1000000LL;
    }
    return !w->stopping || (w->outstanding && w->up && now < w->give_up_us);
}

static void once_a_second(struct swarm *w, int64_t now)
{
    static int64_t last;
    if (now - last < 1000000)
        return;
    last = now;
    for (size_t i = 0; i < w->next_connect; i++)
        device_keep_alive(w, &w->devices[i], now);
    if (w->acked)
        fflush(w->acked);
    if (!w->o.quiet && isatty(2))
        stats_live(&w->stats, w->outstanding, w->count);
}

static void run(struct swarm *w)
{
    struct epoll_event events[BATCH];
    w->stats.start_us = w->last_tick_us = now_us();
    w->connect_tokens = 1;
    do {
        int n = epoll_wait(w->epoll, events, BATCH, TICK_MS);
        for (int i = 0; i < n; i++)
            device_event(w, events[i].data.ptr, events[i].events);
        once_a_second(w, now_us());
    } while (tick(w, now_us()));
}

static void prepare(struct swarm *w, int argc, char **argv)
{
    struct rlimit files;
    swarm_options(&w->o, argc, argv);
    while (w->slot_mask + 1 < (uint64_t)w->o.window)
        w->slot_mask = w->slot_mask * 2 + 1;
    if (!devices_load(w)) {
        fprintf(stderr, "swarm: no `device_id secret` line in %s\n", w->o.devices);
        exit(SWARM_USAGE);
    }
    if (*w->o.acked && !(w->acked = fopen(w->o.acked, "w"))) {
        perror(w->o.acked);
        exit(SWARM_USAGE);
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    tls_prepare(w);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
}

int main(int argc, char **argv)
{
    static struct swarm w;
    prepare(&w, argc, argv);
    run(&w);
    for (size_t i = 0; i < w.count; i++)
        device_disconnect(&w, &w.devices[i]);
    if (!w.o.quiet && isatty(2))
        fputc('\n', stderr);
    stats_final(&w.stats, &w.o, w.outstanding, w.count);
    if (w.acked && fclose(w.acked)) {
        perror(w.o.acked);
        return SWARM_USAGE;
    }
    if (stats_refused(&w.stats) || (!w.o.reconnect && w.stats.lost + w.stats.failed))
        return w.o.reconnect && w.up == w.count ? SWARM_OK : SWARM_REFUSED;
    return w.outstanding ? SWARM_UNACKED : SWARM_OK;
}
