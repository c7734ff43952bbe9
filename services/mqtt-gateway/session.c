#include "services/mqtt-gateway/session.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/ids.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/takeover.h"
#include "services/mqtt-gateway/topic.h"
#include "services/mqtt-gateway/uplink.h"

#define HELD_LONG_MS 1000
#define TELL_RATE_MS 1000
#define TELL_HELD_MS 60000
#define BARRED_MAX   256 /* closes that came before their session did; the oldest is forgotten */

static int64_t barred[BARRED_MAX];
static unsigned next_barred;

void session_bar(int64_t session_no) { barred[next_barred++ % BARRED_MAX] = session_no; }

static bool is_barred(int64_t session_no)
{
    for (size_t i = 0; i < BARRED_MAX; i++)
        if (barred[i] == session_no)
            return true;
    return false;
}

struct session *session_by_key(const struct gateway *gw, int64_t device_key)
{
    struct session *s;
    HASH_FIND(by_key, gw->by_key, &device_key, sizeof device_key, s);
    return s;
}

struct session *session_by_no(const struct gateway *gw, int64_t session_no)
{
    struct session *s;
    HASH_FIND(by_no, gw->by_no, &session_no, sizeof session_no, s);
    return s;
}

/* ---- ends that a person may ask about */

static const struct {
    const char *cause, *reason, *next_step;
} told[] = {
    { "keep_alive", "Nothing came for one and a half times the keep-alive of the connection.",
      "Send PINGREQ within the keep-alive; look at the network and the power of the device." },
    { "slow_packet", "A packet was begun and not finished in time.",
      "Look at the network; send smaller packets." },
    { "slow_peer", "The device does not read what is sent to it.",
      "Look at the device's network." },
    { "certificate_inactive", "Somebody has made the certificate of the device INACTIVE.",
      "Give the device another certificate, or set this one's status to ACTIVE." },
    { "log_in_doubt", "The platform could not tell whether the last reports were stored.",
      "The device sends again what was not acknowledged; look at the platform's health." },
    { "not_kept",
      "The registry did not answer, so an UNSUBSCRIBE of a session with clean session 0 was not "
      "kept.",
      "The device connects and unsubscribes again; look at the platform's health." },
};

static void tell(const struct session *s, const char *cause)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(told); i++)
        if (strcmp(told[i].cause, cause) == 0)
            gateway_notice(s->gw, &(struct cw_notice){ .layer = CW_LAYER_CONNECT,
                                                       .device_key = s->device_key,
                                                       .device_id = s->device_id,
                                                       .code = cause,
                                                       .reason = told[i].reason,
                                                       .next_step = told[i].next_step });
}

/* ---- throttling that a person may ask about */

static void tell_throttled(struct session *s, const char *code, const char *reason,
                           const char *next_step)
{
    s->told_ms = cw_mono_ms();
    gateway_notice(s->gw, &(struct cw_notice){ .layer = CW_LAYER_CONNECT,
                                               .device_key = s->device_key,
                                               .device_id = s->device_id,
                                               .code = code,
                                               .reason = reason,
                                               .next_step = next_step });
}

void session_too_fast(struct session *s, bool bytes)
{
    char reason[160];
    if (cw_mono_ms() - s->told_ms < TELL_RATE_MS)
        return;
    snprintf(reason, sizeof reason,
             "The device sends more than %lld %s a second; what is above waits in its connection.",
             (long long)(bytes ? s->gw->set.bandwidth_bytes : s->gw->set.rate),
             bytes ? "bytes" : "messages");
    tell_throttled(s, bytes ? "throttled_bandwidth" : "throttled_rate", reason,
                   bytes
                       ? "Send less, or raise CAUSEWAY_MQTT_BANDWIDTH."
                       : "Send less often, put more into one report, or raise CAUSEWAY_MQTT_RATE.");
}

/* Told when the log has room again: while it has none, a notice would only add to what waits. */
static void tell_held(struct session *s, int64_t now_ms)
{
    char reason[160];
    int64_t held_ms = now_ms - s->held_ms;
    if (held_ms < HELD_LONG_MS || now_ms - s->told_ms < TELL_HELD_MS)
        return;
    snprintf(reason, sizeof reason,
             "The platform was behind: what the device sent waited %lld ms in its connection.",
             (long long)held_ms);
    tell_throttled(
        s, "throttled_backlog", reason,
        "Nothing is lost. If it happens often, the platform has too little CPU or disk for its "
        "load; look at causeway_log_lag and causeway_log_full.");
}

/* ---- the end */

static void forget(struct session *s)
{
    HASH_DELETE(by_no, s->gw->by_no, s);
    s->gw->n_sessions--;
    for (size_t i = 0; i < s->n_closers; i++)
        free(s->closers[i]);
    free(s->closers);
    for (struct outgoing *o; (o = STAILQ_FIRST(&s->outgoing));) {
        STAILQ_REMOVE_HEAD(&s->outgoing, next);
        free(o);
    }
    free(s->pending.ring);
    free(s->device_id);
    free(s->client);
    free(s->peer);
    free(s->mids);
    free(s->policies);
    free(s);
}

/* Nothing more is taken from or sent to the device for this session. */
static void retire(struct session *s)
{
    s->ended = true;
    HASH_DELETE(by_key, s->gw->by_key, s);
    if (s->is_held)
        TAILQ_REMOVE(&s->gw->held[s->partition], s, held);
    s->is_held = false;
    cw_metric_add(s->gw->m.sessions, -1);
    takeover_forget(s);
    downlinks_drop(s);
    keepings_drop(s);
    subscriptions_free(s);
}

static void state_connect(struct session *s)
{
    if (s->stated)
        return;
    s->stated = true;
    uplink_connect(s);
    free(s->client);
    free(s->peer);
    s->client = s->peer = NULL;
}

static void end(struct session *s, const char *cause)
{
    retire(s);
    cw_log(CW_INFO, "session_end", "device=%s session=%lld cause=%s", s->device_id,
           (long long)s->session_no, cause);
    tell(s, cause);
    state_connect(s);
    uplink_disconnect(s, cause);
}

void session_lost(struct session *s, const char *cause)
{
    s->conn = NULL;
    if (s->ended)
        return;
    if (s->gw->stopping)
        retire(s); /* nothing is appended any more; sessions_close() frees it */
    else
        end(s, cause);
}

void session_leave(struct session *s, const char *cause)
{
    if (s->ended)
        return;
    end(s, cause);
    if (s->conn)
        s->conn->reason = (uint8_t)conn_reason(cause);
    if (s->conn)
        conn_leave(s->conn);
}

void session_await_over(struct session *s, const char *reply)
{
    s->closers = cw_realloc(s->closers, (s->n_closers + 1U) * sizeof *s->closers);
    s->closers[s->n_closers++] = cw_strdup(reply);
}

void session_over(struct session *s, bool flushed)
{
    struct conn *c = s->conn;
    Causeway__DownlinkReply r = CAUSEWAY__DOWNLINK_REPLY__INIT;
    if (flushed)
        r.outcome = CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED;
    for (size_t i = 0; i < s->n_closers; i++)
        downlink_reply(s->gw, s->closers[i], &r);
    forget(s);
    if (c) {
        c->session = NULL;
        conn_last_word(c);
    }
}

/* ---- the beginning */

struct shared_name {
    UT_hash_handle hh;
    char name[];
};

/* The one text of this space or product; there are few, and they stay. */
static const char *shared(struct gateway *gw, const char *name)
{
    struct shared_name *a;
    HASH_FIND_STR(gw->names, name, a);
    if (a)
        return a->name;
    a = cw_calloc(1, sizeof *a + strlen(name) + 1);
    strcpy(a->name, name);
    HASH_ADD_STR(gw->names, name, a);
    return a->name;
}

static struct session *session_new(struct gateway *gw, const Causeway__SessionOpened *opened,
                                   const Causeway__SessionOpen *open)
{
    struct session *s = cw_calloc(1, sizeof *s);
    s->gw = gw;
    s->device_key = opened->device_key;
    s->product_key = opened->product_key;
    s->session_no = opened->session_no;
    s->app = shared(gw, opened->app_id);
    s->product_id = shared(gw, opened->product_id);
    STAILQ_INIT(&s->outgoing);
    s->device_id = cw_strdup(open->device_id);
    s->client = cw_strdup(open->client_id);
    s->peer = cw_strdup(open->peer);
    s->partition = cw_partition(s->device_id, strlen(s->device_id), cw_app_partitions(gw->app));
    HASH_ADD(by_no, gw->by_no, session_no, sizeof s->session_no, s);
    HASH_ADD(by_key, gw->by_key, device_key, sizeof s->device_key, s);
    gw->n_sessions++;
    cw_metric_add(gw->m.sessions, 1);
    return s;
}

/* Of two sessions of a device the one with the higher number stays, whichever is heard of first. */
static bool outrun(struct gateway *gw, const Causeway__SessionOpened *opened)
{
    struct session *held = session_by_key(gw, opened->device_key);
    if (held && held->session_no >= opened->session_no)
        return true;
    if (held)
        session_leave(held, "takeover");
    return is_barred(opened->session_no);
}

static bool held_elsewhere(const struct gateway *gw, const Causeway__SessionOpened *opened)
{
    return *opened->old_gateway && strcmp(opened->old_gateway, cw_app_instance(gw->app)) != 0;
}

/* What it has subscribed before. */
static void resume(struct session *s, const Causeway__SessionOpened *opened)
{
    for (size_t i = 0; i < opened->n_subscriptions; i++) {
        const Causeway__Subscription *sub = opened->subscriptions[i];
        struct packet_filter f = { .filter = { sub->filter, strlen(sub->filter) },
                                   .no_local = sub->no_local };
        if (topic_check_filter(s->device_id, f.filter) == 0)
            subscription_add(s, &f, sub->qos ? 1 : 0);
    }
}

void session_open(struct gateway *gw, const Causeway__SessionOpened *opened,
                  const Causeway__SessionOpen *open, struct conn *c)
{
    if (outrun(gw, opened)) { /* a newer one stands, here or elsewhere, and has stated itself */
        if (held_elsewhere(gw, opened))
            takeover_tell(gw, opened->device_key, opened->old_gateway, opened->old_session_no);
        if (c)
            conn_end(c, "takeover");
        return;
    }
    struct session *s = session_new(gw, opened, open);
    s->conn = c;
    s->expiry_s = open->expiry_s;
    policies_session(s, opened->policies);
    resume(s, opened);
    if (held_elsewhere(gw, opened)) {
        if (c)
            conn_pause(c, PAUSE_TAKEOVER);
        takeover_begin(s, opened->old_gateway, opened->old_session_no);
    }
    if (c)
        conn_accept(c, s, opened->present);
    if (!s->takeover)
        session_flow(s);
    if (!c)
        session_lost(s, "connection_lost");
    else if (gw->draining)
        session_leave(s, "drain");
}

void session_flow(struct session *s)
{
    state_connect(s);
    if (s->conn)
        conn_resume(s->conn, PAUSE_TAKEOVER);
}

/* ---- all of them */

bool session_blocked(const struct session *s)
{
    return cw_log_append_blocked(s->gw->uplink, s->partition);
}

void session_hold(struct session *s)
{
    s->is_held = true;
    s->held_ms = cw_mono_ms();
    TAILQ_INSERT_TAIL(&s->gw->held[s->partition], s, held);
    conn_pause(s->conn, PAUSE_BLOCKED);
}

static void on_blocked(uint32_t partition, bool blocked, void *arg)
{
    struct gateway *gw = arg;
    int64_t now_ms = cw_mono_ms();
    for (struct session *s; !blocked && (s = TAILQ_FIRST(&gw->held[partition]));) {
        TAILQ_REMOVE(&gw->held[partition], s, held);
        s->is_held = false;
        tell_held(s, now_ms);
        if (s->conn)
            conn_resume(s->conn, PAUSE_BLOCKED);
    }
}

void sessions_open(struct gateway *gw)
{
    gw->held = cw_calloc(cw_app_partitions(gw->app), sizeof *gw->held);
    for (uint32_t p = 0; p < cw_app_partitions(gw->app); p++)
        TAILQ_INIT(&gw->held[p]);
    cw_log_append_watch(gw->uplink, on_blocked, gw);
}

void sessions_leave(struct gateway *gw, const char *cause)
{
    struct session *s, *next;
    HASH_ITER(by_key, gw->by_key, s, next) { session_leave(s, cause); }
}

/* What is left when the process ends: its records were given up. */
void sessions_close(struct gateway *gw)
{
    struct session *s, *next;
    HASH_ITER(by_no, gw->by_no, s, next)
    {
        if (!s->ended)
            retire(s);
        forget(s);
    }
    struct shared_name *a = gw->names, *more;
    HASH_CLEAR(hh, gw->names);
    for (; a; a = more) {
        more = a->hh.next;
        free(a);
    }
    free(gw->held);
    gw->held = NULL;
}
