/* bus_internal.h - what bus.c and bus_request.c share; nobody else includes it. */
#pragma once

#include <semaphore.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include <event2/event.h>
#include <nats/nats.h>

#include "libcommon/bus.h"

struct cw_bus_sub {
    LIST_ENTRY(cw_bus_sub) link;
    struct cw_bus *bus;
    natsSubscription *nats;
    cw_bus_fn *cb;
    void *arg;
    bool dead; /* unsubscribed; freed after the sweep that may be looking at it */
};

struct bus_watch {
    SLIST_ENTRY(bus_watch) link;
    void (*cb)(bool connected, void *arg);
    void *arg;
};

#define BUS_DISCARDED 128

struct cw_bus {
    struct event_base *base;
    natsConnection *nc;
    struct event *read, *write, *keep, *wake, *sweep;
    int wake_fd;
    atomic_uint changes; /* set on a library thread: connections lost and made */
    sem_t closed;
    unsigned seen;
    bool connected;
    bool sweeping;
    uint64_t epoch, next_inbox;
    char prefix[48];
    natsMsg *discarded[BUS_DISCARDED]; /* done with, not yet given back to the library */
    size_t n_discarded, discarded_bytes;
    LIST_HEAD(, cw_bus_sub) subs;
    LIST_HEAD(, cw_bus_request) requests;
    SLIST_HEAD(, bus_watch) watches;
};

/* Ends all requests with rc. Only once connected is false: a callback that could ask anew would
 * keep this from ending. */
void bus_requests_fail(struct cw_bus *bus, int rc);
