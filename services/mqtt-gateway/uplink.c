#include "services/mqtt-gateway/uplink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/ids.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/inflate.h"
#include "services/mqtt-gateway/legacy.h"
#include "services/mqtt-gateway/packet_props.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/rate.h"
#include "services/mqtt-gateway/route.h"
#include "services/mqtt-gateway/topic.h"

#define REPORT_MAX_BYTES (64U << 10)
#define TOPIC_MAX_BYTES  512
#define SAMPLE_BYTES     256
#define KEEP_BYTES       (64U << 10) /* of the buffer for packing */

enum record { RECORD_CONNECT, RECORD_PUBLISH, RECORD_ROUTED, RECORD_REFUSED, RECORD_DISCONNECT };

static void on_stored(int rc, void *arg);

/* A version 4 UUID in shape: random once in a process, then counted. A system call for each would
 * cost more than the frame. */
static char *make_request_id(char out[CW_UUID_LEN])
{
    static char base[CW_UUID_LEN];
    static uint64_t counter;
    if (!*base) {
        cw_uuid(base);
        cw_random(&counter, sizeof counter);
    }
    memcpy(out, base, CW_UUID_LEN);
    counter++;
    for (int i = 0; i < 12; i++)
        out[35 - i] = "0123456789abcdef"[counter >> (4 * i) & 15];
    return out;
}

/* reason: of the PUBACK, with MQTT 5. */
static void push(struct pending *p, enum record kind, uint8_t reason, uint16_t id)
{
    if (p->count == p->size) {
        uint32_t size = p->size ? p->size * 2 : 4;
        uint32_t *ring = cw_malloc(size * sizeof *ring);
        for (uint32_t i = 0; i < p->count; i++)
            ring[i] = p->ring[(p->first + i) % p->size];
        free(p->ring);
        *p = (struct pending){ .ring = ring, .count = p->count, .size = size };
    }
    p->ring[(p->first + p->count++) % p->size] = (uint32_t)kind << 24 | (uint32_t)reason << 16 | id;
}

static uint32_t pop(struct pending *p)
{
    uint32_t e = p->ring[p->first];
    p->first = (p->first + 1) % p->size;
    if (--p->count == 0) { /* an idle session keeps nothing */
        free(p->ring);
        *p = (struct pending){ 0 };
    }
    return e;
}

static void fill(Causeway__Uplink *msg, const struct session *s, Causeway__UplinkKind kind)
{
    causeway__uplink__init(msg);
    msg->kind = kind;
    msg->device_key = s->device_key;
    msg->device_id = s->device_id;
    msg->product_key = s->product_key;
    msg->session_no = s->session_no;
    msg->received_ms = cw_now_ms();
}

struct packed {
    uint8_t *data;
    size_t len, size;
};

/* One buffer for all: what is packed is copied by the log at once. */
static const struct packed *pack(const Causeway__Uplink *msg)
{
    static struct packed b;
    b.len = causeway__uplink__get_packed_size(msg);
    if (b.len > b.size || b.size > KEEP_BYTES) {
        b.size = b.len > KEEP_BYTES ? b.len : KEEP_BYTES;
        free(b.data);
        b.data = cw_malloc(b.size);
    }
    causeway__uplink__pack(msg, b.data);
    return &b;
}

static void append_refusal(struct session *s, uint8_t reason, uint16_t id, const struct packed *p)
{
    push(&s->pending, RECORD_REFUSED, reason, id);
    cw_log_append(s->gw->uplink, s->partition, p->data, p->len, on_stored, s);
}

static void append(struct session *s, enum record kind, uint16_t id, const struct packed *p)
{
    push(&s->pending, kind, 0, id);
    cw_log_append(s->gw->uplink, s->partition, p->data, p->len, on_stored, s);
}

void uplink_connect(struct session *s)
{
    char request_id[CW_UUID_LEN];
    Causeway__Uplink msg;
    fill(&msg, s, CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT);
    msg.request_id = make_request_id(request_id);
    msg.peer = s->peer;
    msg.client = s->client;
    append(s, RECORD_CONNECT, 0, pack(&msg));
}

void uplink_disconnect(struct session *s, const char *cause)
{
    char request_id[CW_UUID_LEN];
    Causeway__Uplink msg;
    fill(&msg, s, CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT);
    msg.request_id = make_request_id(request_id);
    msg.cause = (char *)cause;
    append(s, RECORD_DISCONNECT, 0, pack(&msg));
}

static void count_received(struct gateway *gw)
{
    cw_metric_add(gw->m.received, 1);
    cw_metric_add(gw->m.in_flight, 1);
}

struct refusal {
    enum cw_layer layer;
    enum reason puback; /* with MQTT 5 */
    const char *code, *reason, *next_step;
};

/* The frame's payload is dropped, the refusal stored; then the device is acknowledged. */
static void refuse(struct session *s, const struct packet_publish *pub, const struct refusal *r)
{
    char request_id[CW_UUID_LEN], topic[SAMPLE_BYTES + 1];
    Causeway__Uplink msg;
    Causeway__Notice notice = CAUSEWAY__NOTICE__INIT;
    size_t len = pub->topic.len;
    if (len > SAMPLE_BYTES) /* cut between characters */
        for (len = SAMPLE_BYTES; len && (pub->topic.p[len] & 0xc0) == 0x80;)
            len--;
    snprintf(topic, sizeof topic, "%.*s", (int)len, pub->topic.p);
    fill(&msg, s, CAUSEWAY__UPLINK_KIND__UPLINK_REFUSED);
    msg.request_id = make_request_id(request_id);
    msg.topic = topic;
    msg.notice = &notice;
    notice.layer = (char *)cw_layer_name(r->layer);
    notice.code = (char *)r->code;
    notice.reason = (char *)r->reason;
    notice.next_step = (char *)r->next_step;
    notice.sample = topic;
    notice.count = 1;
    notice.first_ms = notice.last_ms = msg.received_ms;
    append_refusal(s, s->conn && s->conn->five ? (uint8_t)r->puback : 0, pub->id, pack(&msg));
}

static void refuse_topic(struct session *s, const struct packet_publish *pub,
                         const struct topic_info *info)
{
    char next_step[TOPIC_NEAREST_LEN + 64] = "Publish to a topic of the device itself.";
    if (*info->nearest)
        snprintf(next_step, sizeof next_step, "Publish to %s.", info->nearest);
    refuse(s, pub,
           &(struct refusal){ CW_LAYER_TOPIC, REASON_NOT_AUTHORIZED, info->code, info->rule,
                              next_step });
}

static void refuse_by_policy(struct session *s, const struct packet_publish *pub,
                             const struct policy_question *q)
{
    char next_step[POLICY_NEXT_STEP_LEN];
    refuse(s, pub,
           &(struct refusal){ CW_LAYER_TOPIC, REASON_NOT_AUTHORIZED, "topic_policy",
                              policies_reason(q), policies_next_step(next_step, q) });
}

static void refuse_custom(struct session *s, const struct packet_publish *pub,
                          const struct custom_refusal *why)
{
    refuse(s, pub,
           &(struct refusal){ CW_LAYER_TOPIC, REASON_NOT_AUTHORIZED, why->code, why->reason,
                              why->next_step });
}

static void refuse_size(struct session *s, const struct packet_publish *pub)
{
    char reason[96];
    snprintf(reason, sizeof reason, "The report has %zu bytes; %u are allowed.", pub->len,
             REPORT_MAX_BYTES);
    refuse(s, pub,
           &(struct refusal){ CW_LAYER_DECODE, REASON_QUOTA, "oversize", reason,
                              "Split the report into several of 64 KB at most." });
}

/* ---- what is said to other devices waits for its own record */

static void keep_outgoing(struct session *s, const struct packet_publish *pub)
{
    struct cw_buf props = { 0 };
    packet_props_forward(&props, &pub->props);
    struct outgoing *o = cw_malloc(sizeof *o + pub->topic.len + 1 + pub->len + props.len);
    o->qos = pub->qos;
    o->len = pub->len;
    o->props_len = props.len;
    o->payload = o->topic + pub->topic.len + 1;
    o->props = o->payload + pub->len;
    if (props.len)
        memcpy(o->props, props.data, props.len);
    cw_buf_free(&props);
    memcpy(o->topic, pub->topic.p, pub->topic.len);
    o->topic[pub->topic.len] = '\0';
    if (pub->len)
        memcpy(o->payload, pub->payload, pub->len);
    STAILQ_INSERT_TAIL(&s->outgoing, o, next);
}

static void let_go(struct session *s, bool stored)
{
    struct outgoing *o = STAILQ_FIRST(&s->outgoing);
    STAILQ_REMOVE_HEAD(&s->outgoing, next);
    if (stored)
        route_publish(s, o);
    free(o);
}

static void accept_frame(struct session *s, const struct packet_publish *pub,
                         const struct topic_info *info)
{
    char topic[TOPIC_MAX_BYTES + 1], request_id[REQUEST_ID_MAX + CW_UUID_LEN];
    Causeway__Uplink msg;
    memcpy(topic, pub->topic.p, pub->topic.len);
    topic[pub->topic.len] = '\0';
    make_request_id(request_id);
    if (info->request_id.len) {
        memcpy(request_id, info->request_id.p, info->request_id.len);
        request_id[info->request_id.len] = '\0';
    }
    fill(&msg, s, CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH);
    msg.request_id = request_id;
    msg.topic = topic;
    msg.body = (ProtobufCBinaryData){ pub->len, (uint8_t *)pub->payload };
    struct cw_buf properties = { 0 };
    if (pub->props.raw.len)
        packet_props_tell(&properties, &pub->props);
    if (properties.len) {
        cw_buf_add(&properties, "", 1);
        msg.properties = properties.data;
    }
    const struct packed *p = pack(&msg);
    cw_buf_free(&properties);
    bool routed = route_takes(pub->topic);
    if (routed)
        keep_outgoing(s, pub);
    append(s, routed ? RECORD_ROUTED : RECORD_PUBLISH, pub->id, p);
    if (info->answer)
        downlink_answered(s, info->request_id, p->data, p->len);
}

static void refuse_gzip(struct session *s, const struct packet_publish *pub, int rc)
{
    refuse(s, pub,
           &(struct refusal){
               CW_LAYER_DECODE, REASON_PAYLOAD, "gzip",
               rc == -EMSGSIZE
                   ? "The payload inflates to more than 1 MB."
                   : "The topic says encoding=gzip; the payload is not one gzip member.",
               "Send one gzip member of at most 1 MB inflated, or leave encoding=gzip out." });
}

/* What it inflates to counts as if it had been sent so. */
static void accept_inflated(struct session *s, const struct packet_publish *pub,
                            const struct topic_info *info)
{
    struct packet_publish plain = *pub;
    struct cw_buf text = { 0 };
    int rc = inflate_gzip(&text, pub->payload, pub->len);
    plain.payload = text.data;
    plain.len = text.len;
    if (rc == 0 && s->conn)
        rate_spend(&s->conn->bytes_due_us, s->conn->heard_ms * 1000, (int64_t)text.len,
                   s->gw->set.bandwidth_bytes);
    if (rc < 0)
        refuse_gzip(s, pub, rc);
    else if (info->report && plain.len > REPORT_MAX_BYTES)
        refuse_size(s, &plain);
    else
        accept_frame(s, &plain, info);
    cw_buf_free(&text);
}

/* ---- V3 */

static void refuse_legacy(struct session *s, const struct packet_publish *pub, const char *wrong)
{
    refuse(
        s, pub,
        &(struct refusal){ CW_LAYER_DECODE, REASON_PAYLOAD, "legacy", wrong,
                           "Send {\"msgType\":\"deviceReq\",\"data\":[{\"serviceId\":\"…\","
                           "\"serviceData\":{…}}]}, or the mid of a command of this connection." });
}

/* As if V5 had been spoken. */
static void accept_legacy(struct session *s, const struct packet_publish *pub)
{
    char topic[DEVICE_ID_MAX + REQUEST_ID_MAX + 64];
    struct packet_publish plain = *pub;
    struct topic_info info;
    struct legacy_said said;
    const char *wrong = legacy_read(&said, pub->payload, pub->len);
    const char *id = said.answer ? legacy_request(s->mids, said.mid) : "";
    if (!wrong && !id)
        wrong = "mid: no command of this connection has this number";
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/%s%s", s->device_id,
             said.answer ? "commands/response/request_id=" : "properties/report", id ? id : "");
    plain.topic = text_of(topic);
    plain.payload = said.payload.data;
    plain.len = said.payload.len;
    if (wrong)
        refuse_legacy(s, pub, wrong);
    else if (topic_check_publish(&info, s->device_id, plain.topic) < 0)
        refuse_topic(s, pub, &info);
    else
        accept_frame(s, &plain, &info);
    cw_buf_free(&said.payload);
}

void uplink_publish(struct session *s, const struct packet_publish *pub)
{
    struct topic_info info;
    struct policy_question q = { .action = POLICY_PUBLISH, .topic = pub->topic };
    struct custom_refusal why;
    count_received(s->gw);
    int rc = topic_check_publish(&info, s->device_id, pub->topic);
    if (rc == 0 && pub->topic.len > TOPIC_MAX_BYTES) {
        info.code = "topic_length";
        info.rule = "The topic has more than 512 bytes.";
        rc = -EPERM;
    }
    if (rc < 0)
        refuse_topic(s, pub, &info);
    else if (topic_is_free(pub->topic) && !policies_allow(s, &q))
        refuse_by_policy(s, pub, &q);
    else if (info.custom.len && !policies_allow_custom(s, POLICY_PUBLISH, info.custom, &why))
        refuse_custom(s, pub, &why);
    else if (info.report && pub->len > REPORT_MAX_BYTES)
        refuse_size(s, pub);
    else if (info.legacy)
        accept_legacy(s, pub);
    else if (info.gzip)
        accept_inflated(s, pub, &info);
    else
        accept_frame(s, pub, &info);
}

void uplink_oversize(struct session *s)
{
    cw_metric_add(s->gw->m.received, 1);
    cw_metric_add(s->gw->m.refused, 1);
    gateway_notice(s->gw, &(struct cw_notice){
                              .layer = CW_LAYER_CONNECT,
                              .device_key = s->device_key,
                              .device_id = s->device_id,
                              .code = "oversize_publish",
                              .reason = "A PUBLISH of more than 1 MB; its connection was closed.",
                              .next_step = "Send payloads of 1 MB at most." });
}

/* ---- what became of a record */

static void acknowledge(struct session *s, uint16_t packet_id, uint8_t reason)
{
    if (packet_id && s->conn)
        packet_put_ack(conn_out(s->conn), PACKET_PUBACK, packet_id, reason);
}

static void stored(struct session *s, enum record kind, uint8_t reason, uint16_t packet_id)
{
    struct gateway_metrics *m = &s->gw->m;
    if (kind == RECORD_DISCONNECT) {
        session_over(s, true);
        return;
    }
    if (kind == RECORD_CONNECT)
        return;
    cw_metric_add(m->in_flight, -1);
    cw_metric_add(kind == RECORD_REFUSED ? m->refused : m->appended, 1);
    if (kind == RECORD_ROUTED)
        let_go(s, true);
    acknowledge(s, packet_id, reason);
}

/* In doubt: never acknowledged, and nothing may come after it on this connection. */
static void canceled(struct session *s, enum record kind)
{
    struct gateway_metrics *m = &s->gw->m;
    if (kind == RECORD_DISCONNECT && s->gw->stopping) {
        session_over(s, false);
        return;
    }
    if (kind == RECORD_DISCONNECT) {
        uplink_disconnect(s, "log_in_doubt"); /* stating an end twice does no harm */
        return;
    }
    if (kind != RECORD_CONNECT) {
        cw_metric_add(m->in_flight, -1);
        cw_metric_add(m->in_doubt, 1);
    }
    if (kind == RECORD_ROUTED)
        let_go(s, false);
    if (s->conn && !s->gw->stopping)
        conn_dismiss(s->conn, "log_in_doubt", conn_reason("log_in_doubt"), NULL);
}

static void on_stored(int rc, void *arg)
{
    struct session *s = arg;
    gateway_awake(s->gw);
    uint32_t e = pop(&s->pending);
    if (rc == 0)
        stored(s, e >> 24, (uint8_t)(e >> 16), (uint16_t)e);
    else
        canceled(s, e >> 24);
}
