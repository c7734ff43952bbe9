#include "services/mqtt-gateway/bridge_link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/mqtt-gateway/session.h"
#include "services/mqtt-gateway/takeover.h"

#define SUBJECT        "api.registry.open_bridge"
#define SUBJECT_CLOSE  "api.registry.close_bridge"
#define SUBJECT_SECRET "api.registry.bridge_secret"
#define AWAY           3 /* CONNACK */
#define TELL_AGAIN_MS  5000
#define ANSWER_MS      5000
#define RENEWAL_MAX    4096

struct bridges {
    struct bridge *by_no; /* uthash: those that are let in */
    LIST_HEAD(, ending) endings;
};

/* The registry is being told that a bridge has gone. */
struct ending {
    LIST_ENTRY(ending) link;
    struct gateway *gw;
    struct cw_bus_request *request;
    struct event *timer;
    int64_t session_no;
    char id[];
};

/* A device's new secret is with the registry. */
struct renewal {
    LIST_ENTRY(renewal) link;
    struct bridge *b; /* NULL: gone */
    char *device, *rid, *secret;
};

/* ---- its end */

static void ending_free(struct ending *e)
{
    LIST_REMOVE(e, link);
    cw_bus_request_cancel(&e->request);
    event_free(e->timer);
    free(e);
}

static void on_told(int rc, const struct cw_bus_msg *msg, void *arg)
{
    static const struct timeval pause = { TELL_AGAIN_MS / 1000, 0 };
    struct ending *e = arg;
    (void)msg;
    gateway_awake(e->gw);
    e->request = NULL;
    if (rc == 0)
        ending_free(e);
    else
        evtimer_add(e->timer, &pause);
}

static void tell_end(evutil_socket_t fd, short what, void *arg)
{
    static const struct timeval pause = { TELL_AGAIN_MS / 1000, 0 };
    struct ending *e = arg;
    Causeway__BridgeClosed m = CAUSEWAY__BRIDGE_CLOSED__INIT;
    uint8_t packed[128];
    (void)fd, (void)what;
    m.bridge_id = e->id;
    m.session_no = e->session_no;
    e->request = cw_bus_request(e->gw->bus, SUBJECT_CLOSE, packed,
                                causeway__bridge_closed__pack(&m, packed), ANSWER_MS, on_told, e);
    if (!e->request)
        evtimer_add(e->timer, &pause);
}

static void say_ended(const struct bridge *b)
{
    struct ending *e = cw_calloc(1, sizeof *e + strlen(b->id) + 1);
    e->gw = b->gw;
    e->session_no = b->session_no;
    strcpy(e->id, b->id);
    e->timer = evtimer_new(b->gw->base, tell_end, e);
    LIST_INSERT_HEAD(&b->gw->bridges->endings, e, link);
    tell_end(-1, 0, e);
}

static void bridge_free(struct bridge *b)
{
    cw_bus_request_cancel(&b->request);
    for (struct renewal *n; (n = LIST_FIRST(&b->renewals));) {
        LIST_REMOVE(n, link);
        n->b = NULL;
    }
    event_free(b->alive);
    event_free(b->again);
    free(b);
}

void bridge_gone(struct conn *c)
{
    struct bridge *b = c->bridge;
    c->bridge = NULL;
    links_free(b);
    if (b->session_no) {
        HASH_DEL(b->gw->bridges->by_no, b);
        cw_log(CW_INFO, "bridge_end", "bridge=%s session=%lld", b->id, (long long)b->session_no);
        if (!b->gw->stopping)
            say_ended(b);
    }
    bridge_free(b);
}

bool bridge_close(struct gateway *gw, int64_t session_no, const char *cause)
{
    struct bridge *b;
    HASH_FIND(hh, gw->bridges->by_no, &session_no, sizeof session_no, b);
    if (b)
        conn_dismiss(b->conn, cause, conn_reason(cause), NULL);
    return b != NULL;
}

void bridges_open(struct gateway *gw) { gw->bridges = cw_calloc(1, sizeof *gw->bridges); }

void bridges_close(struct gateway *gw)
{
    for (struct ending *e; gw->bridges && (e = LIST_FIRST(&gw->bridges->endings));)
        ending_free(e); /* NOLINT: the analyzer does not see that it leaves the list */
    free(gw->bridges);
    gw->bridges = NULL;
}

/* ---- login */

static void let_in(struct bridge *b, const Causeway__SessionOpened *opened)
{
    struct gateway *gw = b->gw;
    int64_t third_ms = gw->set.keep_alive_max_ms / 3;
    const struct timeval period = { third_ms / 1000, third_ms % 1000 * 1000 };
    b->session_no = opened->session_no;
    HASH_ADD(hh, gw->bridges->by_no, session_no, sizeof b->session_no, b);
    if (strcmp(opened->old_gateway, cw_app_instance(gw->app)) == 0)
        bridge_close(gw, opened->old_session_no, "takeover");
    else if (*opened->old_gateway)
        takeover_tell(gw, 0, opened->old_gateway, opened->old_session_no);
    cw_log(CW_INFO, "bridge_login", "bridge=%s session=%lld", b->id, (long long)b->session_no);
    cw_metric_add(gw->m.logins, 1);
    event_add(b->alive, &period);
    conn_accept(b->conn, NULL, false);
    if (gw->draining)
        conn_end(b->conn, "drain");
}

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct bridge *b = arg;
    gateway_awake(b->gw);
    b->request = NULL;
    Causeway__SessionOpenReply *reply =
        rc == 0 ? causeway__session_open_reply__unpack(NULL, msg->len, msg->data) : NULL;
    const Causeway__SessionOpened *r = reply && reply->n_results == 1 ? reply->results[0] : NULL;
    if (r && !r->connack && r->session_no > 0)
        let_in(b, r);
    else {
        cw_log(CW_WARN, "bridge_refused", "bridge=%s code=%s reason=\"%s\"", b->id,
               r ? r->code : "registry_away", r ? r->reason : "");
        cw_metric_add(b->gw->m.refused_logins, 1);
        conn_refuse(b->conn, (uint8_t)(r && r->connack && r->connack <= 5 ? r->connack : AWAY));
    }
    causeway__session_open_reply__free_unpacked(reply, NULL);
}

static void on_alive(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    links_ping(arg);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    links_go_on(arg);
}

static struct bridge *bridge_new(struct conn *c, const char *id)
{
    struct bridge *b = cw_calloc(1, sizeof *b);
    b->gw = c->gw;
    b->conn = c;
    snprintf(b->id, sizeof b->id, "%.*s", BRIDGE_ID_MAX, id);
    b->alive = event_new(c->gw->base, -1, EV_PERSIST, on_alive, b);
    b->again = evtimer_new(c->gw->base, on_again, b);
    return b;
}

void bridge_ask(struct conn *c, const struct client_id *id, const struct packet_connect *connect)
{
    struct bridge *b = c->bridge = bridge_new(c, id->device_id);
    Causeway__SessionOpen open = CAUSEWAY__SESSION_OPEN__INIT, *opens = &open;
    Causeway__SessionOpenBatch ask = CAUSEWAY__SESSION_OPEN_BATCH__INIT;
    char password[257] = "";
    uint8_t packed[1024];
    if (connect->password.len < sizeof password &&
        cw_utf8_valid(connect->password.p, connect->password.len))
        snprintf(password, sizeof password, "%.*s", (int)connect->password.len,
                 connect->password.p);
    open.device_id = b->id;
    open.timestamp = (char *)id->timestamp;
    open.sign_type = id->sign_type;
    open.password = password;
    open.secure = c->secure;
    ask.gateway = (char *)cw_app_instance(c->gw->app);
    ask.opens = &opens;
    ask.n_opens = 1;
    size_t len = causeway__session_open_batch__pack(&ask, packed);
    b->request = cw_bus_request(c->gw->bus, SUBJECT, packed, len, c->gw->set.auth_ms, on_reply, b);
    explicit_bzero(packed, len);
    explicit_bzero(password, sizeof password);
    if (!b->request)
        conn_refuse(c, AWAY);
}

/* ---- a device's new secret */

static void renewal_free(struct renewal *n)
{
    if (n->b)
        LIST_REMOVE(n, link);
    explicit_bzero(n->secret, strlen(n->secret));
    free(n->secret);
    free(n->device);
    free(n->rid);
    free(n);
}

static void answer_renewal(const struct renewal *n, bool done)
{
    char text[160] = "{\"result_code\":1}";
    if (done) /* in both places: the SDKs read one or the other */
        snprintf(text, sizeof text,
                 "{\"result_code\":0,\"new_secret\":\"%s\",\"paras\":{\"new_secret\":\"%s\"}}",
                 n->secret, n->secret);
    bridge_say(n->b, text_of(n->device), "reset_secret", text_of(n->rid), text);
    explicit_bzero(text, sizeof text);
}

static void on_renewed(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct renewal *n = arg;
    Causeway__BridgeSecretReply *reply =
        rc == 0 ? causeway__bridge_secret_reply__unpack(NULL, msg->len, msg->data) : NULL;
    if (n->b)
        gateway_awake(n->b->gw);
    if (n->b && (!reply || reply->result))
        gateway_notice(
            n->b->gw,
            &(struct cw_notice){ .layer = CW_LAYER_AUTHENTICATE,
                                 .device_id = n->device,
                                 .code = "reset_secret",
                                 .reason = reply ? reply->reason : "The registry did not answer.",
                                 .next_step = "Send old_secret and new_secret again." });
    if (n->b)
        answer_renewal(n, reply && !reply->result);
    causeway__bridge_secret_reply__free_unpacked(reply, NULL);
    renewal_free(n);
}

static void renew(struct bridge *b, struct text device, struct text rid,
                  const struct packet_publish *p)
{
    struct cw_json_error wrong;
    json_t *said = p->len <= RENEWAL_MAX ? cw_json_parse(p->payload, p->len, &wrong) : NULL;
    const char *old = cw_json_text(said, "old_secret"), *new = cw_json_text(said, "new_secret");
    struct link *l = link_find(b, device);
    Causeway__BridgeSecret m = CAUSEWAY__BRIDGE_SECRET__INIT;
    uint8_t packed[512];
    if (!l || !link_is_open(l) || !old || !new || strlen(old) > 64 || strlen(new) > 64) {
        bridge_say(b, device, "reset_secret", rid, "{\"result_code\":1}");
        json_decref(said);
        return;
    }
    struct renewal *n = cw_calloc(1, sizeof *n);
    n->b = b;
    n->device = cw_strdup(link_device(l));
    n->rid = cw_strndup(rid.p, rid.len);
    n->secret = cw_strdup(new);
    LIST_INSERT_HEAD(&b->renewals, n, link);
    m.device_id = n->device;
    m.old_secret = (char *)old;
    m.new_secret = (char *)new;
    size_t len = causeway__bridge_secret__pack(&m, packed);
    if (!cw_bus_request(b->gw->bus, SUBJECT_SECRET, packed, len, ANSWER_MS, on_renewed, n))
        on_renewed(-ENOTCONN, NULL, n);
    explicit_bzero(packed, len);
    json_decref(said);
}

/* ---- what it says */

static void login(struct bridge *b, struct text device, struct text rid,
                  const struct packet_publish *p)
{
    link_login(b, device, rid, p);
}

static void logout(struct bridge *b, struct text device, struct text rid,
                   const struct packet_publish *p)
{
    struct link *l = link_find(b, device);
    (void)p;
    if (l && link_is_open(l))
        link_logout(l, rid);
    else
        bridge_say(b, device, "logout", rid, "{\"result_code\":1}");
}

static const struct {
    const char *topic;
    void (*run)(struct bridge *b, struct text device, struct text rid,
                const struct packet_publish *p);
} requests[] = {
    { "sys/login/request_id=", login },
    { "sys/logout/request_id=", logout },
    { "sys/reset_secret/request_id=", renew },
};

/* $oc/bridges/<own id>/devices/<device>/<rest> */
static bool read_topic(const struct bridge *b, struct text topic, struct text *device,
                       struct text *rest)
{
    if (!text_skip(&topic, "$oc/bridges/") || !text_skip(&topic, b->id) ||
        !text_skip(&topic, "/devices/"))
        return false;
    const char *slash = memchr(topic.p, '/', topic.len);
    if (!slash || slash == topic.p || slash - topic.p > DEVICE_ID_MAX)
        return false;
    *device = (struct text){ topic.p, (size_t)(slash - topic.p) };
    *rest = (struct text){ slash + 1, topic.len - device->len - 1 };
    return rest->len > 0;
}

static void ack(struct conn *c, const struct packet_publish *p, enum reason reason)
{
    if (p->qos)
        packet_put_ack(conn_out(c), PACKET_PUBACK, p->id, c->five ? (uint8_t)reason : 0);
}

/* True: it was for the bridge itself. */
static bool handle_request(struct bridge *b, struct text device, struct text rest,
                           const struct packet_publish *p)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(requests); i++) {
        struct text rid = rest;
        if (!text_skip(&rid, requests[i].topic) || !rid.len || rid.len > REQUEST_ID_MAX)
            continue;
        ack(b->conn, p, REASON_SUCCESS);
        requests[i].run(b, device, rid, p);
        return true;
    }
    return false;
}

/* Refused, as any publish that is refused: acknowledged, dropped, told. */
static void refuse_unknown(struct bridge *b, struct text device, const struct packet_publish *p)
{
    char id[DEVICE_ID_MAX + 1];
    snprintf(id, sizeof id, "%.*s", (int)device.len, device.p);
    gateway_notice(
        b->gw,
        &(struct cw_notice){ .layer = CW_LAYER_CONNECT,
                             .device_id = id,
                             .code = "bridge_not_logged_in",
                             .reason = "A bridge published for the device, which has not logged in "
                                       "over it.",
                             .next_step = "Log the device in by …/sys/login/request_id=… first." });
    ack(b->conn, p, REASON_NOT_AUTHORIZED);
}

static void on_publish(struct conn *c, struct packet *packet)
{
    struct packet_publish *p = &packet->publish;
    struct bridge *b = c->bridge;
    struct text device = { 0 }, rest;
    enum reason reason;
    const char *wrong = p->qos == 2 ? NULL : conn_alias(c, p, &reason);
    if (p->qos == 2 || wrong) {
        conn_dismiss(c, p->qos == 2 ? "qos2" : "topic_alias", p->qos == 2 ? REASON_QOS : reason,
                     wrong);
        return;
    }
    if (!read_topic(b, p->topic, &device, &rest)) {
        cw_log(CW_DEBUG, "bridge_topic", "bridge=%s", b->id);
        ack(c, p, REASON_NOT_AUTHORIZED);
        return;
    }
    if (handle_request(b, device, rest, p))
        return;
    struct link *l = link_find(b, device);
    if (l && link_is_open(l))
        link_publish(l, rest, p);
    else
        refuse_unknown(b, device, p);
}

/* All of its topics come anyway. */
static void on_filters(struct conn *c, struct packet *p)
{
    uint8_t codes[PACKET_FILTERS_MAX];
    struct packet_filter filter;
    size_t n = 0;
    bool subscribes = p->type == PACKET_SUBSCRIBE;
    while (packet_filter(&p->filters, &filter))
        codes[n++] = subscribes && filter.qos ? 1 : 0;
    packet_put_codes(conn_out(c), c->level, subscribes ? PACKET_SUBACK : PACKET_UNSUBACK,
                     p->filters.id, codes, n);
}

static void on_puback(struct conn *c, struct packet *p)
{
    link_acked(c->bridge, p->answer.id, p->answer.reason);
}

static void on_pingreq(struct conn *c, struct packet *p)
{
    (void)p;
    packet_put_pingresp(conn_out(c));
}

static void on_disconnect(struct conn *c, struct packet *p)
{
    (void)p;
    conn_end(c, "client");
}

static void (*const handlers[16])(struct conn *c, struct packet *p) = {
    [PACKET_PUBLISH] = on_publish,   [PACKET_PUBACK] = on_puback,
    [PACKET_SUBSCRIBE] = on_filters, [PACKET_UNSUBSCRIBE] = on_filters,
    [PACKET_PINGREQ] = on_pingreq,   [PACKET_DISCONNECT] = on_disconnect,
};

void bridge_handle(struct conn *c, struct packet *p) { handlers[p->type](c, p); }
