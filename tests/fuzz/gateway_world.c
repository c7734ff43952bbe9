#include "tests/fuzz/gateway_world.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/notice.h"
#include "libcommon/service.h"
#include "tests/fuzz/fuzz.h"

#define TURNS_MAX 20000 /* of the loop without time passing: more is a loop that never rests */
#define EVENTS    64

/* ---- the loop: libevent's functions, as far as the gateway uses them */

struct happening {
    UT_hash_handle hh;
    struct event *ev;
    evutil_socket_t fd;
    short what;
    event_callback_fn cb;
    void *arg;
    bool added, active;
    int64_t due_us, period_us; /* 0: none */
};

static struct happening *happenings;
static int64_t now_us = INT64_C(1000000000);

static int64_t world_mono(void) { return now_us / 1000; }
static int64_t world_wall(void) { return INT64_C(1790000000000) + now_us / 1000; }
static const struct cw_clock world_clock = { world_wall, world_mono };

FUZZ_UNSEEN static struct happening *of(const struct event *ev)
{
    struct happening *h;
    HASH_FIND_PTR(happenings, &ev, h);
    return h;
}

int event_assign(struct event *ev, struct event_base *b, evutil_socket_t fd, short what,
                 event_callback_fn cb, void *arg)
{
    struct happening *h = of(ev);
    (void)b;
    if (!h) {
        h = cw_calloc(1, sizeof *h);
        h->ev = ev;
        HASH_ADD_PTR(happenings, ev, h);
    }
    h->fd = fd;
    h->what = what;
    h->cb = cb;
    h->arg = arg;
    h->added = h->active = false;
    h->due_us = h->period_us = 0;
    return 0;
}

struct event *event_new(struct event_base *b, evutil_socket_t fd, short what, event_callback_fn cb,
                        void *arg)
{
    struct event *ev = cw_calloc(1, sizeof *ev);
    event_assign(ev, b, fd, what, cb, arg);
    return ev;
}

int event_add(struct event *ev, const struct timeval *after)
{
    struct happening *h = of(ev);
    h->added = true;
    if (after) {
        int64_t wait_us = (int64_t)after->tv_sec * 1000000 + after->tv_usec;
        h->due_us = now_us + wait_us;
        h->period_us = h->what & EV_PERSIST ? wait_us : 0;
    }
    return 0;
}

int event_del(struct event *ev)
{
    struct happening *h = of(ev);
    h->added = h->active = false;
    h->due_us = 0;
    return 0;
}

void event_free(struct event *ev)
{
    struct happening *h = of(ev);
    HASH_DEL(happenings, h);
    free(h);
    free(ev);
}

void event_active(struct event *ev, int what, short calls)
{
    (void)what, (void)calls;
    of(ev)->active = true;
}

int event_pending(const struct event *ev, short what, struct timeval *tv)
{
    const struct happening *h = of(ev);
    (void)tv;
    return h->added && (what & EV_TIMEOUT) ? h->due_us != 0 : h->added;
}

static void run(struct happening *h, short what)
{
    h->active = false;
    if (!(h->what & EV_PERSIST) && what == EV_TIMEOUT)
        h->added = false;
    h->cb(h->fd, what, h->arg);
}

FUZZ_UNSEEN static bool run_active(void)
{
    for (struct happening *h = happenings; h; h = h->hh.next)
        if (h->active) {
            run(h, EV_READ);
            return true;
        }
    return false;
}

FUZZ_UNSEEN static bool run_ready(void)
{
    struct pollfd fds[EVENTS];
    struct happening *whose[EVENTS];
    nfds_t n = 0;
    for (struct happening *h = happenings; h && n < EVENTS; h = h->hh.next)
        if (h->added && h->fd >= 0 && h->what & (EV_READ | EV_WRITE)) {
            whose[n] = h;
            fds[n++] = (struct pollfd){ h->fd, h->what & EV_READ ? POLLIN : POLLOUT, 0 };
        }
    if (n == 0 || poll(fds, n, 0) <= 0)
        return false;
    for (nfds_t i = 0; i < n; i++)
        if (fds[i].revents) {
            run(whose[i], whose[i]->what & (EV_READ | EV_WRITE));
            return true; /* what it did may have changed the others */
        }
    return false;
}

void world_spin(void)
{
    unsigned turns = 0;
    while (run_active() || run_ready())
        fuzz_check(++turns < TURNS_MAX);
}

FUZZ_UNSEEN static struct happening *next_due(int64_t until_us)
{
    struct happening *first = NULL;
    for (struct happening *h = happenings; h; h = h->hh.next)
        if (h->added && h->due_us && h->due_us <= until_us && (!first || h->due_us < first->due_us))
            first = h;
    return first;
}

void world_advance(int64_t ms)
{
    int64_t until_us = now_us + ms * 1000;
    struct happening *h;
    unsigned turns = 0;
    for (; (h = next_due(until_us)); world_spin()) {
        fuzz_check(++turns < TURNS_MAX);
        now_us = h->due_us > now_us ? h->due_us : now_us;
        h->due_us = h->period_us ? h->due_us + h->period_us : 0;
        run(h, EV_TIMEOUT);
    }
    now_us = until_us;
    world_spin();
}

/* ---- the log */

struct cw_log_append {
    bool blocked[WORLD_PARTITIONS];
    void (*watch)(uint32_t partition, bool blocked, void *arg);
    void *arg;
};

struct world_record *world_log[WORLD_PARTITIONS];
void (*world_on_append)(const Causeway__Uplink *up);
static struct cw_log_append the_log;

struct cw_log_append *cw_log_append_open(struct cw_app *app, const char *log)
{
    (void)app, (void)log;
    memset(&the_log, 0, sizeof the_log);
    return &the_log;
}

void cw_log_append(struct cw_log_append *l, uint32_t partition, const void *packed, size_t len,
                   cw_append_fn *cb, void *arg)
{
    struct world_record *r = cw_calloc(1, sizeof *r), **at = &world_log[partition];
    (void)l;
    r->up = causeway__uplink__unpack(NULL, len, packed);
    fuzz_check(r->up); /* what it packs can be read */
    r->cb = cb;
    r->arg = arg;
    world_on_append(r->up);
    while (*at)
        at = &(*at)->next;
    *at = r;
}

bool world_settle(uint32_t partition, int rc)
{
    struct world_record *r = world_log[partition];
    if (!r)
        return false;
    world_log[partition] = r->next;
    if (r->cb)
        r->cb(rc, r->arg);
    causeway__uplink__free_unpacked(r->up, NULL);
    free(r);
    return true;
}

void world_block(uint32_t partition, bool blocked)
{
    if (the_log.blocked[partition] == blocked)
        return;
    the_log.blocked[partition] = blocked;
    the_log.watch(partition, blocked, the_log.arg);
}

bool cw_log_append_blocked(const struct cw_log_append *l, uint32_t partition)
{
    return l->blocked[partition];
}

void cw_log_append_watch(struct cw_log_append *l, void (*cb)(uint32_t, bool, void *), void *arg)
{
    l->watch = cb;
    l->arg = arg;
}

size_t cw_log_append_waiting(const struct cw_log_append *l, uint32_t partition)
{
    (void)l;
    return world_log[partition] != NULL;
}

void cw_log_append_close(struct cw_log_append **l)
{
    for (uint32_t p = 0; p < WORLD_PARTITIONS; p++)
        while (world_settle(p, -ECANCELED))
            ;
    *l = NULL;
}

/* ---- the bus */

#define WATCHERS 4
struct cw_bus {
    bool connected;
    struct watcher {
        void (*cb)(bool connected, void *arg);
        void *arg;
    } watchers[WATCHERS];
};
struct cw_bus_sub {
    struct cw_bus_sub *next;
    char subject[96];
    cw_bus_fn *cb;
    void *arg;
};

/* What devices said to each other and has not arrived yet. */
struct routed {
    struct routed *next;
    char subject[420];
    void *data;
    size_t len;
};
static struct routed *routed;

struct cw_bus_request *world_requests;
static struct cw_bus the_bus;
static struct cw_bus_sub *subs;

bool cw_bus_connected(const struct cw_bus *bus) { return bus->connected; }

void cw_bus_watch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg)
{
    size_t i = 0;
    while (bus->watchers[i].cb)
        fuzz_check(++i < WATCHERS);
    bus->watchers[i] = (struct watcher){ cb, arg };
    cb(bus->connected, arg);
}

void cw_bus_unwatch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg)
{
    for (size_t i = 0; i < WATCHERS; i++)
        if (bus->watchers[i].cb == cb && bus->watchers[i].arg == arg)
            bus->watchers[i].cb = NULL;
}

int cw_bus_publish(struct cw_bus *bus, const char *subject, const char *reply, const void *data,
                   size_t len)
{
    (void)reply;
    fuzz_check(*subject && len < (8U << 20));
    if (bus->connected && strncmp(subject, "route.", 6) == 0) {
        struct routed **last = &routed, *r = cw_calloc(1, sizeof *r);
        snprintf(r->subject, sizeof r->subject, "%s", subject);
        r->data = cw_memdup(data, len);
        r->len = len;
        while (*last)
            last = &(*last)->next;
        *last = r;
    }
    return bus->connected ? 0 : -ENOTCONN;
}

/* To each subscription that the subject fits, as long as it is there. */
static void route_one(const struct routed *r)
{
    unsigned before = 0;
    for (bool found = true; found; before++) {
        unsigned n = 0;
        found = false;
        for (struct cw_bus_sub *s = subs; s; s = s->next)
            if (strcmp(s->subject, r->subject) == 0 || strcmp(s->subject, "route.*") == 0)
                if (n++ == before) {
                    s->cb(&(struct cw_bus_msg){ .subject = r->subject,
                                                .data = r->data,
                                                .len = r->len },
                          s->arg);
                    found = true;
                    break;
                }
    }
}

void world_route(void)
{
    for (struct routed *r; (r = routed);) {
        routed = r->next;
        route_one(r);
        free(r->data);
        free(r);
    }
}

struct cw_bus_sub *cw_bus_subscribe(struct cw_bus *bus, const char *subject, const char *queue,
                                    cw_bus_fn *cb, void *arg)
{
    struct cw_bus_sub *s = cw_calloc(1, sizeof *s);
    (void)bus, (void)queue;
    snprintf(s->subject, sizeof s->subject, "%s", subject);
    s->cb = cb;
    s->arg = arg;
    s->next = subs;
    subs = s;
    return s;
}

void cw_bus_unsubscribe(struct cw_bus_sub **sub)
{
    struct cw_bus_sub **at = &subs, *s = *sub;
    for (; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            free(s);
            break;
        }
    *sub = NULL;
}

void world_deliver(const char *subject, const char *reply, const void *data, size_t len)
{
    size_t word = strcspn(subject, ".");
    for (struct cw_bus_sub *s = subs; s; s = s->next)
        if (strncmp(s->subject, subject, word) == 0) {
            s->cb(
                &(struct cw_bus_msg){
                    .subject = subject, .reply = reply, .data = data, .len = len },
                s->arg);
            return;
        }
}

static struct cw_bus_request *take(struct cw_bus_request *r)
{
    struct cw_bus_request **at = &world_requests;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    event_free(r->timer);
    free(r->data);
    return r;
}

void world_answer(struct cw_bus_request *r, int rc, const void *data, size_t len)
{
    cw_bus_reply_fn *cb = r->cb;
    void *arg = r->arg;
    free(take(r));
    cb(rc, rc == 0 ? &(struct cw_bus_msg){ .subject = "_INBOX", .data = data, .len = len } : NULL,
       arg);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    world_answer(arg, -ETIMEDOUT, NULL, 0);
}

struct cw_bus_request *cw_bus_request(struct cw_bus *bus, const char *subject, const void *data,
                                      size_t len, int64_t timeout_ms, cw_bus_reply_fn *cb,
                                      void *arg)
{
    if (!bus->connected)
        return NULL;
    struct cw_bus_request *r = cw_calloc(1, sizeof *r), **at = &world_requests;
    struct timeval wait = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
    snprintf(r->subject, sizeof r->subject, "%s", subject);
    r->data = cw_memdup(data, len ? len : 1);
    r->len = len;
    r->cb = cb;
    r->arg = arg;
    r->timer = evtimer_new(NULL, on_timeout, r);
    evtimer_add((struct event *)r->timer, &wait);
    while (*at)
        at = &(*at)->next;
    *at = r;
    return r;
}

void cw_bus_request_cancel(struct cw_bus_request **req)
{
    if (*req)
        free(take(*req));
    *req = NULL;
}

void world_connect(bool connected)
{
    if (the_bus.connected == connected)
        return;
    the_bus.connected = connected;
    while (!connected && world_requests)
        world_answer(world_requests, -ENOTCONN, NULL, 0);
    for (size_t i = 0; i < WATCHERS; i++)
        if (the_bus.watchers[i].cb)
            the_bus.watchers[i].cb(connected, the_bus.watchers[i].arg);
}

/* ---- the service and the notices */

struct event_base *cw_app_base(struct cw_app *app)
{
    (void)app;
    return NULL;
}
struct cw_bus *cw_app_bus(struct cw_app *app)
{
    (void)app;
    return &the_bus;
}
const char *cw_app_instance(const struct cw_app *app)
{
    (void)app;
    return WORLD_INSTANCE;
}
uint32_t cw_app_partitions(const struct cw_app *app)
{
    (void)app;
    return WORLD_PARTITIONS;
}
bool cw_app_strict(const struct cw_app *app)
{
    (void)app;
    return false;
}

const char *cw_layer_name(enum cw_layer layer)
{
    fuzz_check(layer <= CW_LAYER_UPGRADE);
    return "layer";
}

struct gateway;
bool listener_is_named(const struct gateway *gw, const char *name)
{
    (void)gw, (void)name;
    return false;
}

void world_open(void)
{
    cw_log_setup("fuzz", CW_ERROR);
    cw_clock = &world_clock;
    the_bus = (struct cw_bus){ .connected = true };
}

void world_close(void)
{
    world_route();
    fuzz_check(!subs && !world_requests);
    struct happening *h, *next;
    HASH_ITER(hh, happenings, h, next)
    {
        fuzz_check(!h->added && !h->active);
        HASH_DEL(happenings, h); /* NOLINT: the analyzer loses `next` */
        free(h);
    }
}
