/* app_internal.h - the running process, shared by service.c and admin.c; nobody else includes it.
 */
#pragma once

#include <sys/queue.h>

#include <event2/event.h>
#include <event2/http.h>

#include "libcommon/bus.h"
#include "libcommon/db.h"
#include "libcommon/service.h"

struct reason {
    LIST_ENTRY(reason) link;
    char *name, *text;
    unsigned held;
};

struct app_settings {
    char *var, *nats_url, *nats_user, *nats_password, *db, *log_level, *admin_socket, *admin_bind;
    int64_t instance, partitions, log_bytes, log_replicas, admin_port, drain_ms;
    bool strict;
};

struct cw_app {
    const struct cw_service *svc;
    struct app_settings set;
    char name[48], instance[64];
    uint64_t boot;
    struct event_base *base;
    struct cw_bus *bus;
    struct cw_db *db;
    struct event *term, *interrupt, *drain_timer, *drain_check, *pause;
    struct evhttp *admin;
    char *admin_path;
    LIST_HEAD(, reason) holds;   /* not ready, and not drained, while any is here */
    LIST_HEAD(, reason) faults;  /* not ready until a person or time mends it */
    struct cw_bus_sub **drained; /* subscriptions that end with the drain */
    size_t n_drained;
    int in_flight;
    bool started, draining;
    int exit_code;
};

int admin_start(struct cw_app *app); /* 0 or negative errno */
void admin_stop(struct cw_app *app);
/* Asks the process that has this admin socket, and prints what it says: 0 when it is ready, else 1.
 */
int admin_healthcheck(const struct cw_app *app);
