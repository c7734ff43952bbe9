/* gateway.h - the running gateway: settings, and what every file of it shares. */
#pragma once

#include <sys/queue.h>

#include <event2/event.h>
#include <event2/event_struct.h>
#include <uthash.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/log_append.h"
#include "libcommon/metrics.h"
#include "libcommon/notice.h"
#include "libcommon/service.h"
#include "proto/causeway.pb-c.h"

struct conn;
struct session;
struct listeners;
struct auth;
struct peers;
struct takeover;
struct route_key;
struct shared_name;
struct policies;
struct product_topics;
struct bridges;

struct gateway_settings {
    char *bind, *tls_cert, *tls_key, *proxy_from, *server_names;
    int64_t mqtt_port, mqtts_port, ws_port, wss_port, mqtts11_port, max_connections, rate,
        bridge_devices, bandwidth_bytes;
    int64_t connect_ms, packet_ms, write_ms, leave_ms, auth_ms, takeover_ms, lost_ms;
    int64_t keep_alive_min_ms, keep_alive_max_ms;
};

/* Why a device is read more slowly than it sends. */
enum throttle { THROTTLE_RATE, THROTTLE_BACKLOG, THROTTLE_OUTPUT, THROTTLES };

/* received = appended + refused + in_flight + in_doubt, at any moment of one boot. */
struct gateway_metrics {
    struct cw_metric *connections, *sessions, *accepted, *turned_away, *logins, *refused_logins;
    struct cw_metric *received, *appended, *refused, *in_flight, *in_doubt;
    struct cw_metric *paused[THROTTLES], *pauses[THROTTLES]; /* now; so far */
    struct cw_metric *logins_waiting, *logins_late, *handshakes_put_off, *handshakes_failed;
};

LIST_HEAD(conn_list, conn);
TAILQ_HEAD(session_queue, session);
LIST_HEAD(takeover_list, takeover);

struct gateway {
    struct gateway_settings set;
    struct gateway_metrics m;
    struct cw_app *app;
    struct event_base *base;
    struct cw_bus *bus;
    struct cw_bus_sub *downlinks;
    struct cw_log_append *uplink;
    struct cw_notices *notices;
    struct listeners *listeners;
    struct auth *auth;
    struct peers *peers;
    struct policies *policies;
    struct product_topics *product_topics; /* uthash */
    struct bridges *bridges;
    struct event *later;       /* at the end of this turn of the loop: write, free */
    struct event *drain_check; /* while draining */
    struct conn_list conns, dirty, dead;
    struct session *by_key, *by_no; /* uthash: those that live; all that are not yet forgotten */
    struct route_key *routes;       /* uthash: shared topics that somebody here listens to */
    struct shared_name *names;      /* uthash: spaces and products of which devices were here */
    uint64_t routed_no;             /* counts messages between devices */
    struct session_queue *held;     /* by partition: not read, since it is blocked; longest first */
    struct takeover_list takeovers; /* those that outlived their session, too */
    unsigned n_conns, n_sessions;
    int64_t awake_ms;     /* when the loop was last seen to run */
    int64_t handshake_us; /* spent on TLS handshakes in this turn of the loop */
    bool put_off, behind; /* handshakes had to wait in this turn, in the last one */
    bool draining, stopping;
    char *scratch; /* SCRATCH_BYTES for one read */
};

#define SCRATCH_BYTES (16U << 10)

/* Every way into the gateway begins with it. A process that slept for longer than lost_ms (stopped,
 * swapped out) has been declared dead by the others: it ends here, before it can append anything.
 */
void gateway_awake(struct gateway *gw);

/* device_id NULL or "": nobody to tell. */
void gateway_notice(struct gateway *gw, const struct cw_notice *notice);
