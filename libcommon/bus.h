/* bus.h - NATS on the daemon's own loop: publish, subscribe, request. Loop thread only.
 *
 * nats.c with its event-loop adapter of our own; synchronous subscriptions are drained after each
 * read event, so callbacks run on the loop. Nothing here waits. While disconnected, publishing is
 * refused with -ENOTCONN: what nats.c would buffer comes out stale. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct cw_bus;
struct cw_bus_sub;
struct cw_bus_request;

/* What a subscription got; borrowed for the call. no_responders: the server's 503, nothing else
 * set. */
struct cw_bus_msg {
    const char *subject;
    const char *reply; /* NULL without */
    const void *data;
    size_t len;
    bool no_responders;
    void *nats; /* the natsMsg, for cw_bus_header() */
};
typedef void cw_bus_fn(const struct cw_bus_msg *msg, void *arg);
/* Value of a header, or NULL; borrowed for the call. "Status" gives a status message's code. */
const char *cw_bus_header(const struct cw_bus_msg *msg, const char *name);

struct cw_header {
    const char *name, *value;
};

/* What the watchers were told last; publishing may be refused a moment earlier. */
bool cw_bus_connected(const struct cw_bus *bus);
/* Runs cb(connected) at each change, and right away for the present state. A reconnect counts up
 * the epoch: what was sent in an older epoch may or may not have arrived. */
void cw_bus_watch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg);
/* Not from inside a watcher. */
void cw_bus_unwatch(struct cw_bus *bus, void (*cb)(bool connected, void *arg), void *arg);
/* Grows with each loss and each reconnect. */
uint64_t cw_bus_epoch(const struct cw_bus *bus);
size_t cw_bus_buffered(const struct cw_bus *bus); /* bytes not yet written to the server */

/* 0, -ENOTCONN, -EMSGSIZE (above 7 MB). Copies data. */
int cw_bus_publish(struct cw_bus *bus, const char *subject, const char *reply, const void *data,
                   size_t len);
/* The same with headers; of one name the last counts. */
int cw_bus_publish_headers(struct cw_bus *bus, const char *subject, const char *reply,
                           const struct cw_header *headers, size_t n_headers, const void *data,
                           size_t len);

/* queue may be NULL. Survives reconnects. Never NULL. */
struct cw_bus_sub *cw_bus_subscribe(struct cw_bus *bus, const char *subject, const char *queue,
                                    cw_bus_fn *cb, void *arg);
/* Sets *sub to NULL; cb runs no more. May be called from cb. */
void cw_bus_unsubscribe(struct cw_bus_sub **sub);
/* Stops delivery of new messages from the server, delivers what has arrived; for drains. */
void cw_bus_sub_drain(struct cw_bus_sub *sub);
/* True once nothing more can come from it. */
bool cw_bus_sub_drained(struct cw_bus_sub *sub);
/* A fresh subject below this process's inbox prefix: "<prefix>.<word>.<counter>", for reply
 * subjects. */
char *cw_bus_inbox(struct cw_bus *bus, char *out, size_t size, const char *word);

/* Runs once, later. rc 0: msg is the answer. -ETIMEDOUT, -EHOSTUNREACH (nobody serves the subject),
 * -ENOTCONN (the connection went meanwhile: in doubt). */
typedef void cw_bus_reply_fn(int rc, const struct cw_bus_msg *msg, void *arg);
/* NULL and cb will not run: not connected or too large. */
struct cw_bus_request *cw_bus_request(struct cw_bus *bus, const char *subject, const void *data,
                                      size_t len, int64_t timeout_ms, cw_bus_reply_fn *cb,
                                      void *arg);
void cw_bus_request_cancel(struct cw_bus_request **req); /* cb will not run */

/* Used by service.c only. */
struct event_base;
struct cw_bus_config {
    const char *url, *user, *password, *name;
};
/* Connects before it returns: the only call here that waits (2 s). NULL: it could not, and has
 * logged why. A connection that is lost later comes back by itself. */
struct cw_bus *cw_bus_open(struct event_base *base, const struct cw_bus_config *cfg);
/* Requests under way get -ENOTCONN; nothing else is called any more. Frees the subscriptions
 * that are left. Sets *bus to NULL; NULL is fine. */
void cw_bus_close(struct cw_bus **bus);
