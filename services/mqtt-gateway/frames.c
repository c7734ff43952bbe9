/* What each packet of a device does. */
#include <errno.h>
#include <string.h>

#include "services/mqtt-gateway/auth.h"
#include "services/mqtt-gateway/bridge.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/rate.h"
#include "services/mqtt-gateway/topic.h"
#include "services/mqtt-gateway/uplink.h"

/* Codes of CONNACK, MQTT 3.1.1 3.2.2.3. */
enum { REFUSED_VERSION = 1, REFUSED_ID = 2, REFUSED_AWAY = 3 };

static void notice(const struct session *s, enum cw_layer layer, const char *code,
                   const char *reason, const char *next_step, const char *sample)
{
    gateway_notice(s->gw, &(struct cw_notice){ .layer = layer,
                                               .device_key = s->device_key,
                                               .device_id = s->device_id,
                                               .code = code,
                                               .reason = reason,
                                               .next_step = next_step,
                                               .sample = sample });
}

static void refuse_connect(struct conn *c, const char *device_id, const char *code,
                           const char *reason, const char *next_step)
{
    cw_metric_add(c->gw->m.refused_logins, 1);
    gateway_notice(c->gw, &(struct cw_notice){ .layer = CW_LAYER_CONNECT,
                                               .device_id = device_id,
                                               .code = code,
                                               .reason = reason,
                                               .next_step = next_step });
    conn_refuse(c, REFUSED_ID);
}

/* What MQTT 5 lets a CONNECT ask for, and the gateway does not offer (3.1.2.11.9, 3.2.2.3.4 and 5).
 */
static enum reason not_offered(const struct packet_connect *con)
{
    if (con->level < LEVEL_5)
        return REASON_SUCCESS;
    if (con->props.auth_method)
        return REASON_AUTH_METHOD;
    if (con->has_will && con->will_qos > 1)
        return REASON_QOS;
    return con->has_will && con->will_retain ? REASON_RETAIN : REASON_SUCCESS;
}

static void refuse_keep_alive(struct conn *c, const char *device_id, uint16_t keep_alive_s)
{
    const struct gateway_settings *set = &c->gw->set;
    char reason[120];
    snprintf(reason, sizeof reason, "The keep-alive of CONNECT is %u s; %lld to %lld s are let in.",
             keep_alive_s, (long long)set->keep_alive_min_ms / 1000,
             (long long)set->keep_alive_max_ms / 1000);
    refuse_connect(c, device_id, "keep_alive_range", reason,
                   "Set the keep-alive of the client to 120 seconds.");
}

static void on_connect(struct conn *c, struct packet *p)
{
    const struct packet_connect *con = &p->connect;
    const struct gateway_settings *set = &c->gw->set;
    struct client_id id;
    conn_speak(c, con);
    enum reason unoffered = not_offered(con);
    const char *wrong = client_id_read(&id, con->client_id, con->user);
    int64_t keep_alive_ms = con->keep_alive_s * 1000LL;
    if (c->gw->draining)
        conn_refuse(c, REFUSED_AWAY);
    else if (unoffered)
        conn_refuse5(c, unoffered);
    else if (wrong)
        refuse_connect(c, id.device_id, "client_id", wrong,
                       "Use the client id <device id>_0_<sign type>_<YYYYMMDDHH> and the device id "
                       "as user name.");
    else if (keep_alive_ms < set->keep_alive_min_ms || keep_alive_ms > set->keep_alive_max_ms)
        refuse_keep_alive(c, id.device_id, con->keep_alive_s);
    else {
        c->keep_alive_ms = keep_alive_ms * 3 / 2;
        conn_await(c);
        if (id.bridge)
            bridge_ask(c, &id, con);
        else
            auth_ask(c, &id, con);
    }
}

static void on_publish(struct conn *c, struct packet *p)
{
    struct session *s = c->session;
    if (p->publish.qos == 2) {
        notice(s, CW_LAYER_CONNECT, "qos2", "A PUBLISH with QoS 2; its connection was closed.",
               "Publish with QoS 0 or 1.", NULL);
        conn_dismiss(c, "qos2", REASON_QOS, NULL);
        return;
    }
    enum reason reason;
    const char *wrong = conn_alias(c, &p->publish, &reason);
    if (wrong) {
        notice(s, CW_LAYER_CONNECT, "topic_alias", wrong,
               "Give each alias a topic first, and 100 of them at most.", NULL);
        conn_dismiss(c, "topic_alias", reason, wrong);
        return;
    }
    int64_t now_us = c->heard_ms * 1000;
    rate_spend(&c->messages_due_us, now_us, 1, c->gw->set.rate);
    uplink_publish(s, &p->publish);
    if (rate_wait_ms(c->messages_due_us, now_us)) {
        session_too_fast(s, false);
        conn_pause(c, PAUSE_RATE);
    }
}

static void on_puback(struct conn *c, struct packet *p)
{
    downlink_acked(c->session, p->answer.id, p->answer.reason);
}

/* Before MQTT 5 there is one code for all. */
static uint8_t refusal(const struct session *s, enum reason reason)
{
    return s->conn->five ? (uint8_t)reason : REASON_UNSPECIFIED;
}

static uint8_t refuse_filter(const struct session *s, int rc, struct text filter)
{
    char sample[256];
    snprintf(sample, sizeof sample, "%.*s", (int)(filter.len < 200 ? filter.len : 200), filter.p);
    if (rc == -ENOSPC) {
        notice(s, CW_LAYER_TOPIC, "subscriptions", "More than 100 subscriptions.",
               "Subscribe less; system topics arrive without a subscription.", sample);
        return refusal(s, REASON_QUOTA);
    }
    if (rc == -EINVAL) {
        notice(s, CW_LAYER_TOPIC, "subscribe_filter", "A topic filter with misplaced wildcards.",
               "Let + stand for a whole level and # for the last ones.", sample);
        return refusal(s, REASON_FILTER);
    }
    notice(s, CW_LAYER_TOPIC, "subscribe_refused", "The device may not receive this topic.",
           "Subscribe topics below $oc/devices/<its own id>/ that the platform sends.", sample);
    return refusal(s, strncmp(sample, "$share/", 7) == 0 ? REASON_SHARED : REASON_NOT_AUTHORIZED);
}

static uint8_t refuse_by_policy(const struct session *s, const struct policy_question *q)
{
    char sample[256], next_step[POLICY_NEXT_STEP_LEN];
    snprintf(sample, sizeof sample, "%.*s", (int)(q->topic.len < 200 ? q->topic.len : 200),
             q->topic.p);
    notice(s, CW_LAYER_TOPIC, "subscribe_policy", policies_reason(q),
           policies_next_step(next_step, q), sample);
    return refusal(s, REASON_NOT_AUTHORIZED);
}

static uint8_t refuse_custom(const struct session *s, struct text filter,
                             const struct custom_refusal *why)
{
    char sample[256];
    snprintf(sample, sizeof sample, "%.*s", (int)(filter.len < 200 ? filter.len : 200), filter.p);
    notice(s, CW_LAYER_TOPIC, why->code, why->reason, why->next_step, sample);
    return refusal(s, REASON_NOT_AUTHORIZED);
}

static uint8_t subscribe(struct session *s, const struct packet_filter *f)
{
    uint8_t granted = f->qos > 1 ? 1 : f->qos;
    struct policy_question q = { .action = POLICY_SUBSCRIBE, .topic = f->filter };
    struct text custom = topic_custom(s->device_id, f->filter);
    struct custom_refusal why;
    int rc = topic_check_filter(s->device_id, f->filter);
    if (rc == 0 && topic_is_free(f->filter) && !policies_allow(s, &q))
        return refuse_by_policy(s, &q);
    if (rc == 0 && custom.len && !policies_allow_custom(s, POLICY_SUBSCRIBE, custom, &why))
        return refuse_custom(s, f->filter, &why);
    if (rc == 0)
        rc = subscription_add(s, f, granted);
    return rc == 0 ? granted : refuse_filter(s, rc, f->filter);
}

static void on_subscribe(struct conn *c, struct packet *p)
{
    uint8_t codes[PACKET_FILTERS_MAX];
    struct packet_filter filter;
    size_t n = 0;
    if (p->filters.subscription_id) {
        conn_dismiss(c, "protocol_error", REASON_SUBSCRIPTION_ID,
                     "subscription identifiers are not offered");
        return;
    }
    while (packet_filter(&p->filters, &filter))
        codes[n++] = subscribe(c->session, &filter);
    session_answer(c->session, PACKET_SUBACK, p->filters.id, codes, n);
}

static void on_unsubscribe(struct conn *c, struct packet *p)
{
    uint8_t codes[PACKET_FILTERS_MAX];
    struct packet_filter filter;
    size_t n = 0;
    while (packet_filter(&p->filters, &filter))
        codes[n++] = subscription_remove(c->session, filter.filter) ? REASON_SUCCESS
                                                                    : REASON_NO_SUBSCRIPTION;
    session_answer(c->session, PACKET_UNSUBACK, p->filters.id, codes, n);
}

static void on_pingreq(struct conn *c, struct packet *p)
{
    (void)p;
    packet_put_pingresp(conn_out(c));
}

static void on_disconnect(struct conn *c, struct packet *p)
{
    const struct packet_props *said = &p->answer.props;
    if (said->session_expiry && said->session_expiry_s && !c->session->expiry_s) {
        conn_dismiss(c, "protocol_error", REASON_PROTOCOL,
                     "a session that ended with its connection can not be kept now (3.14.2.2.2)");
        return;
    }
    if (said->session_expiry)
        session_outlives(c->session, said->session_expiry_s);
    if (c->ws) /* has a farewell of its own */
        conn_part(c, "client");
    else
        conn_end(c, "client");
}

static void (*const handlers[16])(struct conn *c, struct packet *p) = {
    [PACKET_CONNECT] = on_connect,         [PACKET_PUBLISH] = on_publish,
    [PACKET_PUBACK] = on_puback,           [PACKET_SUBSCRIBE] = on_subscribe,
    [PACKET_UNSUBSCRIBE] = on_unsubscribe, [PACKET_PINGREQ] = on_pingreq,
    [PACKET_DISCONNECT] = on_disconnect,
};

void frame_handle(struct conn *c, struct packet *p)
{
    if (c->bridge)
        bridge_handle(c, p);
    else
        handlers[p->type](c, p);
}

void frame_refuse(struct conn *c, const struct packet *p, int rc)
{
    struct session *s = c->session;
    if (c->state == CONN_GREETING && rc == -EPROTONOSUPPORT) {
        conn_refuse(c, REFUSED_VERSION);
        return;
    }
    if (c->state == CONN_GREETING && p->type == PACKET_CONNECT && p->connect.level == LEVEL_5) {
        conn_refuse5(c, p->reason); /* 3.1.4: it may be told why */
        return;
    }
    if (s && rc == -EMSGSIZE)
        uplink_oversize(s);
    else if (s)
        notice(s, CW_LAYER_CONNECT, "protocol_error", p->fault,
               "Use a client library that speaks MQTT 3.1.1 or 5.", NULL);
    conn_dismiss(c, rc == -EMSGSIZE ? "oversize" : "protocol_error", p->reason, p->fault);
}
