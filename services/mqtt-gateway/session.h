/* session.h - a device that was let in: from the registry's answer until its DISCONNECT record is
 * in the log, which may be later than the end of its connection. */
#pragma once

#include "services/mqtt-gateway/conn.h"
#include "services/mqtt-gateway/gateway.h"

#define SUBSCRIPTIONS_MAX 100

struct downlink; /* sent and not yet acknowledged */
struct answer;   /* somebody waits for the device's answer to a request */
struct takeover;
struct legacy_mids;
struct keeping; /* a SUBACK that waits until the registry has kept it */
LIST_HEAD(keeping_list, keeping);
LIST_HEAD(downlink_list, downlink);
LIST_HEAD(answer_list, answer);

/* Said to other devices: goes to them once its record is in the log. */
struct outgoing {
    STAILQ_ENTRY(outgoing) next;
    uint8_t qos;
    size_t len, props_len;
    char *payload, *props; /* behind the topic; props: of MQTT 5, to be forwarded */
    char topic[];
};
STAILQ_HEAD(outgoing_list, outgoing);

struct route_entry;
LIST_HEAD(route_list, route_entry);

struct subscription {
    char *filter;
    uint8_t qos;
    bool no_local; /* not what the device itself has published (MQTT 5) */
};

/* What is in the log and not confirmed, in order: one entry a record. */
struct pending {
    uint32_t *ring; /* kind << 24 | reason << 16 | packet id */
    uint32_t first, count, size;
};

struct session {
    UT_hash_handle by_key, by_no;
    TAILQ_ENTRY(session) held;
    struct gateway *gw;
    struct conn *conn; /* NULL once it is gone */
    struct takeover *takeover;
    char *device_id, *client, *peer;     /* the last two until CONNECT is recorded */
    const char *app, *product_id;        /* there is one text for all that have it */
    const struct product_topics *topics; /* of its product */
    char *policies; /* bound to the device itself, 24 characters each; or NULL */
    int64_t device_key, product_key, session_no;
    struct pending pending;
    struct subscription *subscriptions;
    struct downlink_list downlinks;
    struct answer_list answers;
    struct outgoing_list outgoing;
    struct keeping_list keepings;
    struct legacy_mids *mids; /* NULL: was sent none */
    uint64_t change_no;       /* of its subscriptions, as the registry keeps them */
    uint32_t expiry_s;        /* how long it outlives its connection; 0: not at all */
    struct route_list routes; /* its subscriptions of shared topics */
    uint64_t routed_no;       /* the last shared message that was looked at for it */
    char **closers;           /* reply subjects: who wants to know that it is over */
    uint32_t partition;
    uint16_t n_subscriptions, n_downlinks, n_answers, n_closers, next_packet_id;
    bool is_held;
    int64_t held_ms;    /* since when */
    int64_t told_ms;    /* when the device was last told of in `why` that it is throttled */
    bool ended, stated; /* DISCONNECT is, CONNECT is on its way to the log */
};

/* The registry let this device in. conn NULL: it is gone meanwhile. Ends or asks away whoever held
 * the device before. */
void session_open(struct gateway *gw, const Causeway__SessionOpened *opened,
                  const Causeway__SessionOpen *open, struct conn *conn);
/* The old holder is out of the way: frames may go to the log. */
void session_flow(struct session *s);
/* True while its partition takes nothing: then what it says must wait. */
bool session_blocked(const struct session *s);
/* It has something to say: it is read again when the partition takes more. Only who speaks is
 * touched, so that a full partition costs nothing for the many that are silent. */
void session_hold(struct session *s);
/* It sends more than one of its limits allows; `why` says so, once a second at most. */
void session_too_fast(struct session *s, bool bytes);
/* The connection went; its DISCONNECT record follows. */
void session_lost(struct session *s, const char *cause);
/* The platform ends it: what the device was told nothing about yet is acknowledged first. */
void session_leave(struct session *s, const char *cause);
/* reply: the subject that is told once s is over. */
void session_await_over(struct session *s, const char *reply);
/* The DISCONNECT record is in the log (or given up): answers closers and frees s. */
void session_over(struct session *s, bool flushed);

struct session *session_by_key(const struct gateway *gw, int64_t device_key); /* live */
struct session *session_by_no(const struct gateway *gw, int64_t session_no);  /* not yet over */
/* Somebody asked to close a session that is not here: if it comes after all, it is ended. */
void session_bar(int64_t session_no);

/* Before the first connection, after gw->uplink: takes its watcher. */
void sessions_open(struct gateway *gw);
void sessions_close(struct gateway *gw); /* at the end of the process */
/* All that live leave (the gateway was cut off). */
void sessions_leave(struct gateway *gw, const char *cause);

/* keep.c: SUBACK or UNSUBACK; of a session that is kept once the registry has it, with refusals
 * instead if it cannot. */
void session_answer(struct session *s, enum packet_type type, uint16_t id, const uint8_t *codes,
                    size_t n);
/* The device says, in leaving, how long its session is kept: seconds. */
void session_outlives(struct session *s, uint32_t expiry_s);
/* The session ends: nobody is left to be answered. */
void keepings_drop(struct session *s);

/* subscriptions.c. Each keeps a copy. -ENOSPC beyond 100. */
int subscription_add(struct session *s, const struct packet_filter *filter, uint8_t qos);
/* False: there was no such subscription; UNSUBACK follows all the same (3.10.4). */
bool subscription_remove(struct session *s, struct text filter);
/* The highest granted QoS of those that match, or -ENOENT. own: the device itself has published it.
 */
int subscription_match(const struct session *s, struct text topic, bool own);
/* This very filter. */
bool subscription_has(const struct session *s, const char *filter);
/* The session ends: none outlives it. */
void subscriptions_free(struct session *s);
