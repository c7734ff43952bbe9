#include "services/mqtt-gateway/downlink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/bridge.h"
#include "services/mqtt-gateway/legacy.h"
#include "services/mqtt-gateway/packet_props.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/topic.h"

#define UNACKED_MAX    64
#define ANSWERS_MAX    64
#define OUT_MAX_BYTES  (1U << 20) /* of what a peer has not read yet */
#define NO_DEADLINE_MS 20000
#define DELIVER_MS     8000
#define RESEND_MS      2000
#define ANSWER_MS      60000 /* a waiter without deadline */
#define OUTCOME(name)  CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_##name

/* One PUBLISH with QoS 1 on its way. */
struct downlink {
    LIST_ENTRY(downlink) link;
    struct session *session;
    struct event *timer;
    char *reply; /* NULL: nobody asks */
    struct cw_buf packet;
    int64_t written_ms, until_ms; /* wall clock, loop's clock */
    uint32_t attempts, attempts_max, resend_ms;
    uint16_t id;
};

struct answer {
    LIST_ENTRY(answer) link;
    int64_t until_ms;
    char *request_id, *to;
};

void downlink_reply(struct gateway *gw, const char *to, Causeway__DownlinkReply *reply)
{
    uint8_t packed[64];
    if (to)
        cw_bus_publish(gw->bus, to, NULL, packed, causeway__downlink_reply__pack(reply, packed));
}

static void reply_plain(struct gateway *gw, const char *to, Causeway__DownlinkOutcome outcome)
{
    Causeway__DownlinkReply r = CAUSEWAY__DOWNLINK_REPLY__INIT;
    r.outcome = outcome;
    downlink_reply(gw, to, &r);
}

static void finish(struct downlink *d, Causeway__DownlinkOutcome outcome)
{
    Causeway__DownlinkReply r = CAUSEWAY__DOWNLINK_REPLY__INIT;
    r.outcome = outcome;
    r.written_ms = d->written_ms;
    r.acked_ms = outcome == OUTCOME(ACKED) ? cw_now_ms() : 0;
    r.attempts = d->attempts;
    downlink_reply(d->session->gw, d->reply, &r);
    d->session->n_downlinks--;
    LIST_REMOVE(d, link);
    event_free(d->timer);
    cw_buf_free(&d->packet);
    free(d->reply);
    free(d);
}

/* ---- sending, and sending again */

static void write_once(struct downlink *d)
{
    struct conn *c = d->session->conn;
    int64_t now_ms = cw_mono_ms(), next_ms = d->until_ms;
    if (d->resend_ms && now_ms + d->resend_ms < next_ms)
        next_ms = now_ms + d->resend_ms;
    struct cw_buf *out = conn_out(c);
    if (conn_unsent(c) <= OUT_MAX_BYTES) { /* else the peer has not even read the last one */
        cw_buf_add(out, d->packet.data, d->packet.len);
        packet_set_dup(d->packet.data);
    }
    d->attempts++;
    if (d->attempts == d->attempts_max)
        cw_buf_free(&d->packet); /* never sent again */
    int64_t wait_ms = next_ms > now_ms ? next_ms - now_ms : 0;
    struct timeval wait = { wait_ms / 1000, wait_ms % 1000 * 1000 };
    evtimer_add(d->timer, &wait);
}

static void on_unacked(evutil_socket_t fd, short what, void *arg)
{
    struct downlink *d = arg;
    (void)fd, (void)what;
    gateway_awake(d->session->gw);
    if (cw_mono_ms() >= d->until_ms || d->attempts >= d->attempts_max)
        finish(d, OUTCOME(ACK_TIMEOUT));
    else
        write_once(d);
}

static bool id_taken(const struct session *s, uint16_t id)
{
    const struct downlink *d;
    LIST_FOREACH(d, &s->downlinks, link)
    if (d->id == id)
        return true;
    return false;
}

static uint16_t next_id(struct session *s)
{
    do
        s->next_packet_id++;
    while (s->next_packet_id == 0 || id_taken(s, s->next_packet_id));
    return s->next_packet_id;
}

/* What goes down, and how often. */
struct sending {
    struct outbound o; /* without its id */
    const char *reply; /* NULL: nobody asks */
    int64_t deadline_ms;
    uint32_t resend_ms, resends;
};

/* Within a connection MQTT 5 sends nothing twice (4.4); what is not acknowledged is told so. */
static void send_acked(struct session *s, struct sending *what)
{
    struct downlink *d = cw_calloc(1, sizeof *d);
    int64_t left_ms = what->deadline_ms ? what->deadline_ms - cw_now_ms() : NO_DEADLINE_MS;
    bool again = what->resend_ms && !s->conn->five;
    d->session = s;
    d->timer = evtimer_new(s->gw->base, on_unacked, d);
    d->reply = what->reply ? cw_strdup(what->reply) : NULL;
    d->written_ms = cw_now_ms();
    d->until_ms = cw_mono_ms() + left_ms;
    d->resend_ms = again ? what->resend_ms : 0;
    d->attempts_max = again ? what->resends + 1 : 1;
    d->id = what->o.id = next_id(s);
    packet_put_publish(&d->packet, &what->o);
    LIST_INSERT_HEAD(&s->downlinks, d, link);
    s->n_downlinks++;
    write_once(d);
}

static void send_plain(struct session *s, const struct sending *what)
{
    Causeway__DownlinkReply r = CAUSEWAY__DOWNLINK_REPLY__INIT;
    packet_put_publish(conn_out(s->conn), &what->o);
    r.outcome = OUTCOME(WRITTEN);
    r.written_ms = cw_now_ms();
    r.attempts = 1;
    downlink_reply(s->gw, what->reply, &r);
}

static bool has_room(const struct session *s)
{
    const struct conn5 *five = s->conn->five;
    unsigned most = five && five->receive_max < UNACKED_MAX ? five->receive_max : UNACKED_MAX;
    return s->n_downlinks < most && conn_unsent(s->conn) <= OUT_MAX_BYTES;
}

static bool fits(const struct session *s, const struct outbound *o)
{
    const struct conn5 *five = s->conn->five;
    return !five || !five->max_packet || packet_publish_size(o) <= five->max_packet;
}

static void send_out(struct session *s, struct sending *what)
{
    if (what->o.qos)
        send_acked(s, what);
    else
        send_plain(s, what);
}

bool downlink_deliver(struct session *s, const Causeway__Routed *r, uint8_t qos)
{
    struct sending what = { .o = { .topic = { r->topic, strlen(r->topic) },
                                   .payload = r->payload.data,
                                   .len = r->payload.len,
                                   .level = s->conn->level,
                                   .qos = qos },
                            .deadline_ms = cw_now_ms() + DELIVER_MS,
                            .resend_ms = RESEND_MS,
                            .resends = DELIVER_MS / RESEND_MS - 1 };
    what.o.props = (struct text){ (const char *)r->properties.data, r->properties.len };
    if (!has_room(s) || !fits(s, &what.o))
        return false;
    send_out(s, &what);
    return true;
}

/* ---- who waits for answers */

static void answer_free(struct session *s, struct answer *a)
{
    LIST_REMOVE(a, link);
    s->n_answers--;
    free(a->request_id);
    free(a->to);
    free(a);
}

static void await_answer(struct session *s, const Causeway__Downlink *msg)
{
    struct text id = topic_request_id(text_of(msg->topic));
    struct answer *a, *next;
    int64_t now_ms = cw_now_ms();
    for (a = LIST_FIRST(&s->answers); a; a = next) {
        next = LIST_NEXT(a, link);
        if (a->until_ms < now_ms)
            answer_free(s, a);
    }
    if (!*msg->answer_to || s->n_answers == ANSWERS_MAX)
        return; /* the answer comes by the log as well */
    a = cw_calloc(1, sizeof *a);
    a->until_ms = msg->deadline_ms ? msg->deadline_ms : now_ms + ANSWER_MS;
    a->request_id =
        *msg->request_id ? cw_strdup(msg->request_id) : cw_strndup(id.len ? id.p : "", id.len);
    a->to = cw_strdup(msg->answer_to);
    LIST_INSERT_HEAD(&s->answers, a, link);
    s->n_answers++;
}

void downlink_answered(struct session *s, struct text id, const void *packed, size_t len)
{
    struct answer *a;
    LIST_FOREACH(a, &s->answers, link)
    if (strlen(a->request_id) == id.len && memcmp(a->request_id, id.p, id.len) == 0) {
        cw_bus_publish(s->gw->bus, a->to, NULL, packed, len);
        answer_free(s, a);
        return;
    }
}

/* ---- what is asked */

static struct session *find(struct gateway *gw, const Causeway__Downlink *msg)
{
    struct session *s = session_by_key(gw, msg->device_key);
    return s && s->conn && (!msg->session_no || msg->session_no == s->session_no) ? s : NULL;
}

/* Of MQTT 5: what an application gave its message. */
static void put_props(struct cw_buf *to, const Causeway__Downlink *msg)
{
    if (*msg->response_topic)
        packet_prop_put(to, PROP_RESPONSE_TOPIC, 0, text_of(msg->response_topic));
    if (msg->correlation_data.len)
        packet_prop_put(
            to, PROP_CORRELATION, 0,
            (struct text){ (const char *)msg->correlation_data.data, msg->correlation_data.len });
    for (size_t i = 0; i < msg->n_user_properties; i++)
        packet_user_property_put(to, msg->user_properties[i]->name, msg->user_properties[i]->value);
}

static void publish_to(struct session *s, const Causeway__Downlink *msg, const char *reply,
                       uint8_t qos)
{
    struct cw_buf props = { 0 };
    struct sending what = { .o = { .topic = { msg->topic, strlen(msg->topic) },
                                   .payload = msg->payload.data,
                                   .len = msg->payload.len,
                                   .level = s->conn->level,
                                   .qos = qos },
                            .reply = reply,
                            .deadline_ms = msg->deadline_ms,
                            .resend_ms = msg->resend_ms,
                            .resends = msg->resends };
    if (s->conn->five)
        put_props(&props, msg);
    what.o.props = (struct text){ props.data, props.len };
    if (!fits(s, &what.o))
        reply_plain(s->gw, reply, OUTCOME(REJECTED));
    else {
        await_answer(s, msg);
        send_out(s, &what);
    }
    cw_buf_free(&props);
}

/* A device of V3: it has asked for its commands, and not for those of V5. */
static bool is_for_legacy(const struct session *s, struct text topic, const char *legacy)
{
    static const char commands[] = "/sys/commands/request_id=";
    const char *at = memmem(topic.p, topic.len, commands, strlen(commands));
    return at && subscription_match(s, topic, false) < 0 && subscription_has(s, legacy);
}

static void publish_legacy(struct session *s, const Causeway__Downlink *msg, const char *reply,
                           char *topic)
{
    Causeway__Downlink legacy = *msg;
    struct text was = { msg->topic, strlen(msg->topic) };
    struct text id = topic_request_id(was);
    struct cw_buf payload = { 0 };
    uint32_t mid = legacy_mid(&s->mids, id);
    if (legacy_command(&payload, msg->payload.data, msg->payload.len, mid) == 0) {
        legacy.topic = topic;
        legacy.request_id = (char *)id.p; /* the topic ends in it */
        legacy.payload = (ProtobufCBinaryData){ payload.len, (uint8_t *)payload.data };
    }
    int granted = subscription_match(s, text_of(topic), false);
    publish_to(s, &legacy, reply, msg->qos && granted != 0);
    cw_buf_free(&payload);
}

/* The QoS that it has subscribed, or -ENOENT; also for a custom topic that its product does not let
 * it receive, whatever it has subscribed before. */
static int granted_to(const struct session *s, struct text topic)
{
    struct text custom = topic_custom(s->device_id, topic);
    if (custom.len && !policies_allow_custom(s, POLICY_SUBSCRIBE, custom, NULL))
        return -ENOENT;
    return subscription_match(s, topic, false);
}

static void on_publish(struct gateway *gw, const Causeway__Downlink *msg, const char *reply)
{
    struct text topic = { msg->topic, strlen(msg->topic) };
    struct session *s = find(gw, msg);
    if (!s) {
        reply_plain(gw, reply, OUTCOME(NO_SESSION));
        return;
    }
    int granted = granted_to(s, topic);
    if (granted < 0 && (msg->needs_subscription || !topic_is_system_down(s->device_id, topic))) {
        reply_plain(gw, reply, OUTCOME(NOT_SUBSCRIBED));
        return;
    }
    if (!has_room(s)) {
        reply_plain(gw, reply, OUTCOME(BUSY));
        return;
    }
    char legacy[LEGACY_TOPIC_LEN];
    legacy_command_topic(legacy, s->device_id);
    if (is_for_legacy(s, topic, legacy))
        publish_legacy(s, msg, reply, legacy);
    else
        publish_to(s, msg, reply, msg->qos && granted != 0);
}

static void on_close(struct gateway *gw, const Causeway__Downlink *msg, const char *reply)
{
    if (!msg->device_key &&
        bridge_close(gw, msg->session_no, *msg->cause ? msg->cause : "kicked")) {
        reply_plain(gw, reply, OUTCOME(CLOSED));
        return;
    }
    struct session *s =
        msg->session_no ? session_by_no(gw, msg->session_no) : session_by_key(gw, msg->device_key);
    if (!s || s->device_key != msg->device_key) {
        if (msg->session_no)
            session_bar(msg->session_no);
        reply_plain(gw, reply, OUTCOME(NO_SESSION));
        return;
    }
    if (reply)
        session_await_over(s, reply);
    session_leave(s, *msg->cause ? msg->cause : "kicked");
}

static bool is_whole(const Causeway__Downlink *msg)
{
    if (msg->kind == CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE)
        return true;
    return msg->kind == CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH && *msg->topic &&
           strlen(msg->topic) <= UINT16_MAX && msg->payload.len <= PACKET_PAYLOAD_MAX_BYTES;
}

static void handle(struct gateway *gw, const Causeway__Downlink *msg, const char *reply)
{
    if (!is_whole(msg))
        reply_plain(gw, reply, OUTCOME(UNKNOWN));
    else if (msg->kind == CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE)
        on_close(gw, msg, reply);
    else if (msg->deadline_ms && msg->deadline_ms <= cw_now_ms())
        reply_plain(gw, reply, OUTCOME(EXPIRED));
    else
        on_publish(gw, msg, reply);
}

static void on_downlink(const struct cw_bus_msg *bus_msg, void *arg)
{
    struct gateway *gw = arg;
    gateway_awake(gw);
    if (bus_msg->no_responders)
        return;
    Causeway__Downlink *msg = causeway__downlink__unpack(NULL, bus_msg->len, bus_msg->data);
    if (!msg) {
        reply_plain(gw, bus_msg->reply, OUTCOME(UNKNOWN));
        return;
    }
    handle(gw, msg, bus_msg->reply);
    causeway__downlink__free_unpacked(msg, NULL);
}

void downlink_acked(struct session *s, uint16_t packet_id, uint8_t reason)
{
    struct downlink *d;
    LIST_FOREACH(d, &s->downlinks, link)
    if (d->id == packet_id) {
        finish(d, reason < REASON_UNSPECIFIED ? OUTCOME(ACKED) : OUTCOME(REJECTED));
        return;
    }
}

void downlinks_drop(struct session *s)
{
    for (struct downlink *d = LIST_FIRST(&s->downlinks), *next; d; d = next) {
        next = LIST_NEXT(d, link);
        finish(d, OUTCOME(CLOSED));
    }
    for (struct answer *a = LIST_FIRST(&s->answers), *next; a; a = next) {
        next = LIST_NEXT(a, link);
        answer_free(s, a);
    }
}

void downlinks_open(struct gateway *gw)
{
    char subject[96];
    snprintf(subject, sizeof subject, "downlink.%s", cw_app_instance(gw->app));
    gw->downlinks = cw_bus_subscribe(gw->bus, subject, NULL, on_downlink, gw);
}
