#include <errno.h>
#include <stdlib.h>

#include "libcommon/bus_internal.h"

/* One subscription per request: the library reports a 503 without saying for which subject. */
struct cw_bus_request {
    LIST_ENTRY(cw_bus_request) link;
    struct cw_bus_sub *sub;
    struct event *timer;
    cw_bus_reply_fn *cb;
    void *arg;
};

static void request_free(struct cw_bus_request *req)
{
    LIST_REMOVE(req, link);
    cw_bus_unsubscribe(&req->sub);
    event_free(req->timer);
    free(req);
}

static void finish(struct cw_bus_request *req, int rc, const struct cw_bus_msg *msg)
{
    cw_bus_reply_fn *cb = req->cb;
    void *arg = req->arg;
    request_free(req);
    cb(rc, msg, arg);
}

static void on_reply(const struct cw_bus_msg *msg, void *arg)
{
    finish(arg, msg->no_responders ? -EHOSTUNREACH : 0, msg->no_responders ? NULL : msg);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    finish(arg, -ETIMEDOUT, NULL);
}

struct cw_bus_request *cw_bus_request(struct cw_bus *bus, const char *subject, const void *data,
                                      size_t len, int64_t timeout_ms, cw_bus_reply_fn *cb,
                                      void *arg)
{
    char inbox[80];
    struct timeval wait = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
    struct cw_bus_request *req;
    if (!bus->connected)
        return NULL;
    req = cw_calloc(1, sizeof *req);
    req->cb = cb;
    req->arg = arg;
    req->timer = evtimer_new(bus->base, on_timeout, req);
    req->sub =
        cw_bus_subscribe(bus, cw_bus_inbox(bus, inbox, sizeof inbox, "r"), NULL, on_reply, req);
    LIST_INSERT_HEAD(&bus->requests, req, link);
    if (cw_bus_publish(bus, subject, inbox, data, len) < 0) {
        request_free(req);
        return NULL;
    }
    evtimer_add(req->timer, &wait);
    return req;
}

void cw_bus_request_cancel(struct cw_bus_request **req)
{
    if (*req)
        request_free(*req);
    *req = NULL;
}

void bus_requests_fail(struct cw_bus *bus, int rc)
{
    while (!LIST_EMPTY(&bus->requests))
        /* finish() takes it off the list, which the analyzer does not see */
        finish(LIST_FIRST(&bus->requests), rc, NULL); /* NOLINT(clang-analyzer-unix.Malloc) */
}
