#include "libcommon/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/bus_internal.h"
#include "libcommon/ids.h"
#include "libcommon/log.h"
#include "proto/subjects.h"

#define SERVERS_MAX     16  /* of one cluster */
#define SWEEP_MESSAGES  512 /* then sockets and timers get their turn */
#define DISCARDED_BYTES (1U << 20)

static void sub_free(struct cw_bus_sub *sub)
{
    LIST_REMOVE(sub, link);
    natsSubscription_Destroy(sub->nats);
    free(sub);
}

static void discard_now(struct cw_bus *bus)
{
    for (size_t i = 0; i < bus->n_discarded; i++)
        natsMsg_Destroy(bus->discarded[i]);
    bus->n_discarded = bus->discarded_bytes = 0;
}

/* The library frees messages on a thread, which each natsMsg_Destroy() wakes up: many at once. */
static void discard(struct cw_bus *bus, natsMsg *msg)
{
    if (!msg)
        return;
    bus->discarded[bus->n_discarded++] = msg;
    bus->discarded_bytes += (size_t)natsMsg_GetDataLength(msg);
    if (bus->n_discarded == BUS_DISCARDED || bus->discarded_bytes >= DISCARDED_BYTES)
        discard_now(bus);
}

static void deliver(struct cw_bus_sub *sub, natsMsg *msg)
{
    struct cw_bus *bus = sub->bus;
    struct cw_bus_msg m = { .no_responders = msg == NULL };
    if (msg) {
        m.subject = natsMsg_GetSubject(msg);
        m.reply = natsMsg_GetReply(msg);
        m.data = natsMsg_GetData(msg);
        m.len = (size_t)natsMsg_GetDataLength(msg);
        m.nats = msg;
    }
    sub->cb(&m, sub->arg);
    discard(bus, msg);
}

/* Hands over what has arrived for one subscription, `room` messages at most; returns how many. */
static int sub_sweep(struct cw_bus_sub *sub, int room)
{
    int n = 0;
    while (n < room && !sub->dead) {
        natsMsg *msg = NULL;
        natsStatus s = natsSubscription_NextMsg(&msg, sub->nats, 0);
        if (s != NATS_OK && s != NATS_NO_RESPONDERS)
            break;
        deliver(sub, msg);
        n++;
    }
    return n;
}

static void sweep(struct cw_bus *bus)
{
    struct cw_bus_sub *sub, *next;
    int n = 0;
    bus->sweeping = true;
    for (sub = LIST_FIRST(&bus->subs); sub && n < SWEEP_MESSAGES; sub = LIST_NEXT(sub, link))
        n += sub_sweep(sub, SWEEP_MESSAGES - n);
    bus->sweeping = false;
    for (sub = LIST_FIRST(&bus->subs); sub; sub = next) {
        next = LIST_NEXT(sub, link);
        if (sub->dead)
            sub_free(sub);
    }
    if (n >= SWEEP_MESSAGES)
        event_active(bus->sweep, 0, 0);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    sweep(arg);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct cw_bus *bus = arg;
    (void)fd;
    if (what & EV_READ) {
        natsConnection_ProcessReadEvent(bus->nc);
        sweep(bus);
    }
    if (what & EV_WRITE)
        natsConnection_ProcessWriteEvent(bus->nc);
}

/* The adapter. attach comes from our thread at the first connect, from one of the library later. */
static natsStatus attach(void **user, void *loop, natsConnection *nc, natsSock fd)
{
    struct cw_bus *bus = loop;
    if (bus->read)
        event_free(bus->read);
    if (bus->write)
        event_free(bus->write);
    bus->nc = nc;
    bus->read = event_new(bus->base, fd, EV_READ | EV_PERSIST, on_socket, bus);
    bus->write = event_new(bus->base, fd, EV_WRITE | EV_PERSIST, on_socket, bus);
    *user = bus;
    return bus->read && bus->write && event_add(bus->read, NULL) == 0 ? NATS_OK : NATS_NO_MEMORY;
}

static natsStatus poll_read(void *user, bool add)
{
    struct cw_bus *bus = user;
    int rc = add ? event_add(bus->read, NULL) : event_del_noblock(bus->read);
    return rc == 0 ? NATS_OK : NATS_ERR;
}

static natsStatus poll_write(void *user, bool add)
{
    struct cw_bus *bus = user;
    int rc = add ? event_add(bus->write, NULL) : event_del_noblock(bus->write);
    return rc == 0 ? NATS_OK : NATS_ERR;
}

static natsStatus detach(void *user)
{
    struct cw_bus *bus = user;
    if (bus->read)
        event_free(bus->read);
    if (bus->write)
        event_free(bus->write);
    bus->read = bus->write = NULL;
    return NATS_OK;
}

/* On a thread of the library: a count and a wake-up, nothing else. */
static void on_change(natsConnection *nc, void *closure)
{
    struct cw_bus *bus = closure;
    (void)nc;
    atomic_fetch_add(&bus->changes, 1);
    eventfd_write(bus->wake_fd, 1);
}

/* The last call that the library makes for a connection. */
static void on_closed(natsConnection *nc, void *closure)
{
    struct cw_bus *bus = closure;
    (void)nc;
    sem_post(&bus->closed);
}

static void tell(struct cw_bus *bus, bool connected)
{
    struct bus_watch *w;
    if (connected == bus->connected)
        return;
    bus->connected = connected;
    cw_log(CW_WARN, connected ? "nats_connected" : "nats_lost", "epoch=%llu",
           (unsigned long long)bus->epoch);
    if (!connected)
        bus_requests_fail(bus, -ENOTCONN);
    SLIST_FOREACH(w, &bus->watches, link)
    w->cb(connected, w->arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct cw_bus *bus = arg;
    eventfd_t count;
    (void)what;
    eventfd_read(fd, &count);
    unsigned changes = atomic_load(&bus->changes);
    if (changes == bus->seen)
        return;
    bus->seen = changes;
    bus->epoch++;
    tell(bus, false); /* a loss and a reconnect between two wake-ups are still both told */
    tell(bus, natsConnection_Status(bus->nc) == NATS_CONN_STATUS_CONNECTED);
    sweep(bus);
}

/* One of a cluster or several, with commas between them; which is tried first is left to chance. */
static natsStatus set_servers(natsOptions *o, const char *urls)
{
    const char *servers[SERVERS_MAX];
    char *text = cw_strdup(urls), *rest = text;
    int n = 0;
    for (char *url; n < SERVERS_MAX && (url = strsep(&rest, ", "));)
        if (*url)
            servers[n++] = url;
    natsStatus s = n ? natsOptions_SetServers(o, servers, n) : NATS_INVALID_ARG;
    free(text);
    return s;
}

static natsStatus set_options(natsOptions *o, struct cw_bus *bus, const struct cw_bus_config *cfg)
{
    natsStatus s = set_servers(o, cfg->url);
    if (s == NATS_OK && cfg->user && *cfg->user)
        s = natsOptions_SetUserInfo(o, cfg->user, cfg->password);
    if (s != NATS_OK)
        return s;
    natsOptions_SetName(o, cfg->name);
    natsOptions_SetSendAsap(o, true);
    natsOptions_SetTimeout(o, 2000);
    natsOptions_SetAllowReconnect(o, true);
    natsOptions_SetMaxReconnect(o, -1);
    natsOptions_SetReconnectWait(o, 100);
    natsOptions_SetReconnectJitter(o, 50, 50);
    natsOptions_SetPingInterval(o, 1000);
    natsOptions_SetMaxPingsOut(o, 3);
    natsOptions_SetIOBufSize(o, 256 * 1024);
    natsOptions_SetMaxPendingMsgs(o, -1);
    natsOptions_SetDisconnectedCB(o, on_change, bus);
    natsOptions_SetReconnectedCB(o, on_change, bus);
    natsOptions_SetClosedCB(o, on_closed, bus);
    return natsOptions_SetEventLoop(o, bus, attach, poll_read, poll_write, detach);
}

static natsStatus connect_now(struct cw_bus *bus, const struct cw_bus_config *cfg)
{
    natsOptions *o = NULL;
    natsStatus s = natsOptions_Create(&o);
    if (s == NATS_OK)
        s = set_options(o, bus, cfg);
    if (s == NATS_OK)
        s = natsConnection_Connect(&bus->nc, o);
    natsOptions_Destroy(o);
    return s;
}

struct cw_bus *cw_bus_open(struct event_base *base, const struct cw_bus_config *cfg)
{
    char random[17];
    struct cw_bus *bus = cw_calloc(1, sizeof *bus);
    bus->base = base;
    sem_init(&bus->closed, 0, 0);
    bus->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    /* below the user's name, so that nats-server can keep others out of our answers */
    snprintf(bus->prefix, sizeof bus->prefix, "_INBOX.%.20s.%s",
             cfg->user && *cfg->user ? cfg->user : "any", cw_random_hex(random, 16));
    natsStatus s = bus->wake_fd < 0 ? NATS_NO_MEMORY : connect_now(bus, cfg);
    if (s != NATS_OK) {
        cw_log(CW_WARN, "nats_connect_failed", "url=%s reason=\"%s\"", cfg->url,
               natsStatus_GetText(s));
        cw_bus_close(&bus);
        return NULL;
    }
    bus->wake = event_new(base, bus->wake_fd, EV_READ | EV_PERSIST, on_wake, bus);
    bus->sweep = event_new(base, -1, 0, on_sweep, bus);
    event_add(bus->wake, NULL);
    bus->connected = true;
    return bus;
}

void cw_bus_close(struct cw_bus **at)
{
    struct cw_bus *bus = *at;
    if (!bus)
        return;
    *at = NULL;
    bus->connected = false;
    bus_requests_fail(bus, -ENOTCONN);
    discard_now(bus);
    for (struct cw_bus_sub *sub = LIST_FIRST(&bus->subs), *next; sub; sub = next) {
        next = LIST_NEXT(sub, link);
        sub_free(sub);
    }
    if (bus->nc) {
        natsConnection_Close(bus->nc);
        while (sem_wait(&bus->closed) < 0) /* its threads may still be in on_change() */
            ;
        natsConnection_Destroy(bus->nc);
    }
    for (struct bus_watch *w = SLIST_FIRST(&bus->watches), *next; w; w = next) {
        next = SLIST_NEXT(w, link);
        free(w);
    }
    if (bus->wake)
        event_free(bus->wake);
    if (bus->sweep)
        event_free(bus->sweep);
    if (bus->wake_fd >= 0)
        close(bus->wake_fd);
    sem_destroy(&bus->closed);
    free(bus);
}

bool cw_bus_connected(const struct cw_bus *bus) { return bus->connected; }

uint64_t cw_bus_epoch(const struct cw_bus *bus) { return bus->epoch; }

size_t cw_bus_buffered(const struct cw_bus *bus)
{
    int n = natsConnection_Buffered(bus->nc);
    return n > 0 ? (size_t)n : 0;
}

void cw_bus_watch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg)
{
    struct bus_watch *w = cw_calloc(1, sizeof *w);
    *w = (struct bus_watch){ .cb = cb, .arg = arg };
    SLIST_INSERT_HEAD(&bus->watches, w, link);
    cb(bus->connected, arg);
}

void cw_bus_unwatch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg)
{
    struct bus_watch *w;
    SLIST_FOREACH(w, &bus->watches, link)
    if (w->cb == cb && w->arg == arg)
        break;
    if (w)
        SLIST_REMOVE(&bus->watches, w, bus_watch, link);
    free(w);
}

static int may_publish(const struct cw_bus *bus, size_t len)
{
    if (len > CW_PAYLOAD_MAX_BYTES)
        return -EMSGSIZE;
    /* the library buffers while it reconnects, and that would come out stale */
    return natsConnection_Status(bus->nc) == NATS_CONN_STATUS_CONNECTED ? 0 : -ENOTCONN;
}

int cw_bus_publish(struct cw_bus *bus, const char *subject, const char *reply, const void *data,
                   size_t len)
{
    int rc = may_publish(bus, len);
    if (rc < 0)
        return rc;
    natsStatus s = reply ? natsConnection_PublishRequest(bus->nc, subject, reply, data, (int)len)
                         : natsConnection_Publish(bus->nc, subject, data, (int)len);
    return s == NATS_OK ? 0 : -ENOTCONN;
}

int cw_bus_publish_headers(struct cw_bus *bus, const char *subject, const char *reply,
                           const struct cw_header *headers, size_t n_headers, const void *data,
                           size_t len)
{
    natsMsg *msg = NULL;
    int rc = may_publish(bus, len);
    if (rc < 0)
        return rc;
    natsStatus s = natsMsg_Create(&msg, subject, reply, data, (int)len);
    for (size_t i = 0; s == NATS_OK && i < n_headers; i++)
        s = natsMsgHeader_Set(msg, headers[i].name, headers[i].value);
    if (s == NATS_OK)
        s = natsConnection_PublishMsg(bus->nc, msg);
    discard(bus, msg);
    return s == NATS_OK ? 0 : -ENOTCONN;
}

const char *cw_bus_header(const struct cw_bus_msg *msg, const char *name)
{
    const char *value = NULL;
    return msg->nats && natsMsgHeader_Get(msg->nats, name, &value) == NATS_OK ? value : NULL;
}

struct cw_bus_sub *cw_bus_subscribe(struct cw_bus *bus, const char *subject, const char *queue,
                                    cw_bus_fn *cb, void *arg)
{
    struct cw_bus_sub *sub = cw_calloc(1, sizeof *sub);
    natsStatus s = queue ? natsConnection_QueueSubscribeSync(&sub->nats, bus->nc, subject, queue)
                         : natsConnection_SubscribeSync(&sub->nats, bus->nc, subject);
    if (s != NATS_OK) { /* a bad subject in the source, or a closed connection: both end here */
        cw_log(CW_ERROR, "subscribe_failed", "subject=%s reason=\"%s\"", subject,
               natsStatus_GetText(s));
        abort();
    }
    natsSubscription_SetPendingLimits(sub->nats, -1, -1);
    sub->bus = bus;
    sub->cb = cb;
    sub->arg = arg;
    LIST_INSERT_HEAD(&bus->subs, sub, link);
    return sub;
}

void cw_bus_unsubscribe(struct cw_bus_sub **at)
{
    struct cw_bus_sub *sub = *at;
    if (!sub)
        return;
    *at = NULL;
    natsSubscription_Unsubscribe(sub->nats);
    if (sub->bus->sweeping)
        sub->dead = true;
    else
        sub_free(sub);
}

void cw_bus_sub_drain(struct cw_bus_sub *sub) { natsSubscription_Drain(sub->nats); }

bool cw_bus_sub_drained(struct cw_bus_sub *sub)
{
    sub_sweep(sub, SWEEP_MESSAGES);
    return natsSubscription_DrainCompletionStatus(sub->nats) != NATS_ILLEGAL_STATE;
}

char *cw_bus_inbox(struct cw_bus *bus, char *out, size_t size, const char *word)
{
    snprintf(out, size, "%s.%s.%llu", bus->prefix, word, (unsigned long long)++bus->next_inbox);
    return out;
}
