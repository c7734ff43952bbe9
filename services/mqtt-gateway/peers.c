#include "services/mqtt-gateway/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/session.h"

#define PREFIX    "heartbeat."
#define BEAT_MS   1000
#define FORGET_MS 60000

struct peer {
    UT_hash_handle hh;
    int64_t heard_ms;
    char instance[]; /* name-number-boot */
};

struct peers {
    struct gateway *gw;
    struct peer *known;
    struct cw_bus_sub *sub;
    struct event *timer;
    int64_t hearing_ms; /* since when we hear: the last connect */
    int64_t beat_ms;    /* our last beat that went out */
};

static void beat(struct peers *p)
{
    char subject[96];
    uint8_t packed[128];
    Causeway__Heartbeat msg = CAUSEWAY__HEARTBEAT__INIT;
    msg.gateway = (char *)cw_app_instance(p->gw->app);
    msg.sent_ms = cw_now_ms();
    msg.sessions = HASH_CNT(by_key, p->gw->by_key);
    snprintf(subject, sizeof subject, PREFIX "%s", msg.gateway);
    if (cw_bus_publish(p->gw->bus, subject, NULL, packed,
                       causeway__heartbeat__pack(&msg, packed)) == 0)
        p->beat_ms = cw_mono_ms();
}

static void forget_old(struct peers *p)
{
    struct peer *e, *next;
    HASH_ITER(hh, p->known, e, next)
    {
        if (cw_mono_ms() - e->heard_ms > FORGET_MS) {
            HASH_DEL(p->known, e); /* NOLINT: the analyzer loses `next` */
            free(e);
        }
    }
}

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
    struct peers *p = arg;
    (void)fd, (void)what;
    gateway_awake(p->gw);
    beat(p);
    forget_old(p);
}

static void on_heard(const struct cw_bus_msg *msg, void *arg)
{
    struct peers *p = arg;
    struct peer *e;
    const char *instance = msg->subject + strlen(PREFIX);
    size_t len = strlen(instance);
    gateway_awake(p->gw);
    HASH_FIND(hh, p->known, instance, len, e);
    if (!e) {
        e = cw_calloc(1, sizeof *e + len + 1);
        memcpy(e->instance, instance, len);
        HASH_ADD_KEYPTR(hh, p->known, e->instance, len, e);
    }
    e->heard_ms = cw_mono_ms();
}

/* Others cannot tell a gateway without NATS from a dead one: after lost_ms they have given its
 * sessions away, so those end here too. */
static void on_bus(bool connected, void *arg)
{
    struct peers *p = arg;
    if (!connected)
        return;
    int64_t silent_ms = cw_mono_ms() - p->beat_ms;
    p->hearing_ms = cw_mono_ms();
    beat(p);
    if (silent_ms > p->gw->set.lost_ms && HASH_CNT(by_key, p->gw->by_key)) {
        cw_log(CW_WARN, "cut_off", "silent_ms=%lld sessions=%u", (long long)silent_ms,
               HASH_CNT(by_key, p->gw->by_key));
        sessions_leave(p->gw, "gateway_cut_off");
    }
}

/* "name-number" of "name-number-boot". */
static size_t name_len(const char *instance)
{
    const char *dash = strrchr(instance, '-');
    return dash ? (size_t)(dash - instance) : 0;
}

static bool booted_again(const struct peers *p, const char *instance)
{
    size_t len = name_len(instance);
    for (const struct peer *e = p->known; len && e; e = e->hh.next)
        if (name_len(e->instance) == len && memcmp(e->instance, instance, len) == 0 &&
            strtoull(e->instance + len + 1, NULL, 10) > strtoull(instance + len + 1, NULL, 10))
            return true;
    return false;
}

bool peers_dead(const struct gateway *gw, const char *instance)
{
    const struct peers *p = gw->peers;
    struct peer *e;
    int64_t now_ms = cw_mono_ms();
    if (booted_again(p, instance))
        return true;
    HASH_FIND(hh, p->known, instance, strlen(instance), e);
    int64_t since_ms = e && e->heard_ms > p->hearing_ms ? e->heard_ms : p->hearing_ms;
    return cw_bus_connected(gw->bus) && now_ms - since_ms > gw->set.lost_ms;
}

void peers_open(struct gateway *gw)
{
    static const struct timeval second = { BEAT_MS / 1000, 0 };
    struct peers *p = gw->peers = cw_calloc(1, sizeof *p);
    p->gw = gw;
    p->beat_ms = p->hearing_ms = cw_mono_ms();
    p->sub = cw_bus_subscribe(gw->bus, PREFIX "*", NULL, on_heard, p);
    p->timer = event_new(gw->base, -1, EV_PERSIST, on_beat, p);
    event_add(p->timer, &second);
    cw_bus_watch(gw->bus, on_bus, p);
}

void peers_close(struct gateway *gw)
{
    struct peers *p = gw->peers;
    if (!p)
        return;
    cw_bus_unwatch(gw->bus, on_bus, p);
    event_free(p->timer);
    cw_bus_unsubscribe(&p->sub);
    struct peer *e, *next;
    HASH_ITER(hh, p->known, e, next)
    {
        HASH_DEL(p->known, e); /* NOLINT: the analyzer loses `next` */
        free(e);
    }
    free(p);
    gw->peers = NULL;
}
