#include "services/mqtt-gateway/auth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/conn.h"
#include "services/mqtt-gateway/listener.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/session.h"

#define SUBJECT      "api.registry.open_sessions"
#define PROVISION    "api.registry.provision"
#define PROVISIONING 64 /* devices that register themselves, at a time; more are to come again */
#define BATCH_MAX    256
#define PASSWORD_MAX 256
#define BATCH_MS     2
#define ASKED_MAX    4 /* a storm waits here, in order, and does not pile up at the registry */
#define CHAIN_MAX    5 /* certificates of a device, its own included */
#define CERT_MAX     8192
#define AWAY         3 /* CONNACK: the platform is unavailable */
#define DENIED       5 /* the highest code that MQTT 3.1.1 knows */

struct auth_entry {
    struct conn *conn; /* NULL: gone */
    Causeway__SessionOpen open;
    struct client_id id;
    ProtobufCBinaryData certificates[CHAIN_MAX];
    char peer[PEER_LEN];
    struct auth *auth; /* while it registers itself */
};

struct batch {
    TAILQ_ENTRY(batch) link; /* while it waits */
    struct auth *auth;
    int64_t since_ms;
    size_t n;
    struct auth_entry *entries[BATCH_MAX];
};

struct auth {
    struct gateway *gw;
    TAILQ_HEAD(batches, batch) queue; /* not asked yet; the last is being filled */
    struct event *late;               /* when the first of the queue has waited for too long */
    struct event *timer;              /* pending while the last asked is younger than BATCH_MS */
    unsigned asked;                   /* batches on their way */
    unsigned waiting;                 /* CONNECTs without an answer */
    unsigned provisioning;            /* of these, devices that register themselves */
};

static void entry_free(struct auth_entry *e)
{
    free(e->open.client_id);
    free(e->open.server_name);
    for (size_t i = 0; i < e->open.n_certificates; i++)
        OPENSSL_free(e->certificates[i].data);
    if (e->open.password) {
        explicit_bzero(e->open.password, strlen(e->open.password));
        free(e->open.password);
    }
    free(e);
}

/* The registry was not heard: the device may come again, nothing is wrong with it. */
static void turn_away(struct auth *a, struct auth_entry *e)
{
    cw_metric_add(a->gw->m.refused_logins, 1);
    if (e->conn)
        conn_refuse(e->conn, AWAY);
}

static void refuse(struct auth *a, struct auth_entry *e, const Causeway__SessionOpened *r)
{
    cw_metric_add(a->gw->m.refused_logins, 1);
    gateway_notice(a->gw, &(struct cw_notice){ .layer = CW_LAYER_AUTHENTICATE,
                                               .device_key = r->device_key,
                                               .device_id = e->id.device_id,
                                               .code = *r->code ? r->code : "refused",
                                               .reason = r->reason,
                                               .next_step = r->next_step,
                                               .sample = e->open.client_id });
    if (e->conn)
        conn_refuse(e->conn, (uint8_t)(r->connack > DENIED ? DENIED : r->connack));
}

static void finish(struct auth *a, struct auth_entry *e, const Causeway__SessionOpened *r)
{
    struct conn *c = e->conn;
    if (c)
        c->auth = NULL; /* before anything that may end the connection */
    if (!r || (r->connack == 0 && r->session_no <= 0))
        turn_away(a, e);
    else if (r->connack)
        refuse(a, e, r);
    else {
        cw_metric_add(a->gw->m.logins, 1);
        session_open(a->gw, r, &e->open, c);
    }
    a->waiting--;
    cw_metric_set(a->gw->m.logins_waiting, a->waiting);
    entry_free(e);
}

/* ---- a device that registers itself, alone: it takes longer than the others may wait */

static void on_provisioned(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct auth_entry *e = arg;
    struct auth *a = e->auth;
    Causeway__SessionOpenReply *reply =
        rc == 0 ? causeway__session_open_reply__unpack(NULL, msg->len, msg->data) : NULL;
    gateway_awake(a->gw);
    a->provisioning--;
    if (reply)
        policies_topics(a->gw, reply);
    finish(a, e, reply && reply->n_results == 1 ? reply->results[0] : NULL);
    if (reply)
        causeway__session_open_reply__free_unpacked(reply, NULL);
}

static void provision(struct auth *a, struct auth_entry *e)
{
    struct gateway *gw = a->gw;
    Causeway__SessionOpen *opens[] = { &e->open };
    Causeway__SessionOpenBatch msg = CAUSEWAY__SESSION_OPEN_BATCH__INIT;
    msg.gateway = (char *)cw_app_instance(gw->app);
    msg.deadline_ms = cw_now_ms() + gw->set.auth_ms;
    msg.opens = opens;
    msg.n_opens = 1;
    size_t len = causeway__session_open_batch__get_packed_size(&msg);
    uint8_t *packed = cw_malloc(len);
    causeway__session_open_batch__pack(&msg, packed);
    e->auth = a;
    a->provisioning++;
    if (a->provisioning > PROVISIONING || !policies_known(gw) ||
        !cw_bus_request(gw->bus, PROVISION, packed, len, gw->set.auth_ms, on_provisioned, e)) {
        a->provisioning--;
        finish(a, e, NULL);
    }
    explicit_bzero(packed, len);
    free(packed);
}

static void finish_batch(struct batch *b, const Causeway__SessionOpenReply *reply)
{
    for (size_t i = 0; i < b->n; i++)
        if (reply && reply->results[i]->provision && b->entries[i]->conn)
            provision(b->auth, b->entries[i]);
        else
            finish(b->auth, b->entries[i], reply ? reply->results[i] : NULL);
    free(b);
}

static void ask_next(struct auth *a);

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    static struct cw_log_gate gate;
    struct batch *b = arg;
    struct auth *a = b->auth;
    Causeway__SessionOpenReply *reply = NULL;
    gateway_awake(a->gw);
    a->asked--;
    if (rc == 0)
        reply = causeway__session_open_reply__unpack(NULL, msg->len, msg->data);
    if (!reply || reply->n_results != b->n)
        cw_log_limited(&gate, CW_WARN, "registry_away", "connects=%zu reason=\"%s\"", b->n,
                       rc < 0 ? strerror(-rc) : "an answer that does not fit");
    if (reply)
        policies_topics(a->gw, reply);
    finish_batch(b, reply && reply->n_results == b->n ? reply : NULL);
    if (reply)
        causeway__session_open_reply__free_unpacked(reply, NULL);
    ask_next(a);
}

static void send_batch(struct auth *a, struct batch *b)
{
    static const struct timeval gap = { 0, BATCH_MS * 1000L };
    struct gateway *gw = a->gw;
    Causeway__SessionOpen *opens[BATCH_MAX];
    Causeway__SessionOpenBatch msg = CAUSEWAY__SESSION_OPEN_BATCH__INIT;
    for (size_t i = 0; i < b->n; i++)
        opens[i] = &b->entries[i]->open;
    msg.gateway = (char *)cw_app_instance(gw->app);
    msg.deadline_ms = cw_now_ms() + gw->set.auth_ms;
    msg.opens = opens;
    msg.n_opens = b->n;
    size_t len = causeway__session_open_batch__get_packed_size(&msg);
    uint8_t *packed = cw_malloc(len);
    causeway__session_open_batch__pack(&msg, packed);
    evtimer_add(a->timer, &gap);
    a->asked++;
    if (!cw_bus_request(gw->bus, SUBJECT, packed, len, gw->set.auth_ms, on_reply, b)) {
        a->asked--;
        finish_batch(b, NULL);
    }
    explicit_bzero(packed, len);
    free(packed);
}

static void on_gap_over(evutil_socket_t fd, short what, void *arg)
{
    struct auth *a = arg;
    (void)fd, (void)what;
    gateway_awake(a->gw);
    ask_next(a);
}

/* Half its time has gone: the registry would answer too late, the device better comes again. */
static bool is_late(const struct auth *a, const struct batch *b)
{
    return cw_mono_ms() - b->since_ms >= a->gw->set.auth_ms / 2;
}

/* All ways to the registry are taken, and nobody knows whether it answers. */
static void watch_first(struct auth *a, const struct batch *b)
{
    int64_t wait_ms = b->since_ms + a->gw->set.auth_ms / 2 - cw_mono_ms();
    struct timeval wait = { wait_ms / 1000, wait_ms % 1000 * 1000 };
    if (!evtimer_pending(a->late, NULL))
        evtimer_add(a->late, &wait);
}

static void ask_next(struct auth *a)
{
    for (struct batch *b; (b = TAILQ_FIRST(&a->queue));) {
        bool late = is_late(a, b);
        if (!late && (a->asked >= ASKED_MAX || !policies_known(a->gw))) {
            watch_first(a, b);
            return;
        }
        if (!late && b->n < BATCH_MAX && evtimer_pending(a->timer, NULL))
            return;
        TAILQ_REMOVE(&a->queue, b, link);
        if (late) {
            cw_metric_add(a->gw->m.logins_late, (int64_t)b->n);
            finish_batch(b, NULL);
        } else
            send_batch(a, b);
    }
}

static void add_certificate(struct auth_entry *e, X509 *cert)
{
    unsigned char *der = NULL;
    int n = e->open.n_certificates < CHAIN_MAX ? i2d_X509(cert, &der) : 0;
    if (n <= 0)
        return;
    if (n > CERT_MAX) {
        OPENSSL_free(der);
        return;
    }
    e->certificates[e->open.n_certificates++] = (ProtobufCBinaryData){ (size_t)n, der };
}

/* What the device has shown; of a session that was resumed there is its own certificate only. */
static void add_chain(struct auth_entry *e, SSL *ssl)
{
    X509 *own = ssl ? SSL_get0_peer_certificate(ssl) : NULL;
    STACK_OF(X509) *others = own ? SSL_get_peer_cert_chain(ssl) : NULL;
    e->open.certificates = e->certificates;
    if (own)
        add_certificate(e, own);
    for (int i = 0; i < sk_X509_num(others); i++)
        add_certificate(e, sk_X509_value(others, i));
}

static struct auth_entry *entry_new(struct conn *c, const struct client_id *id,
                                    const struct packet_connect *connect)
{
    struct auth_entry *e = cw_calloc(1, sizeof *e);
    causeway__session_open__init(&e->open);
    e->conn = c;
    e->id = *id;
    e->open.device_id = e->id.device_id;
    e->open.timestamp = e->id.timestamp;
    e->open.sign_type = id->sign_type;
    /* bytes that are no text cannot be the right password, nor travel as a string */
    bool text = connect->password.len <= PASSWORD_MAX &&
                cw_utf8_valid(connect->password.p, connect->password.len);
    e->open.password =
        cw_strndup(text ? connect->password.p : "", text ? connect->password.len : 0);
    e->open.client_id = cw_strndup(connect->client_id.p, connect->client_id.len);
    e->open.peer = conn_peer(c, e->peer);
    e->open.secure = c->secure;
    e->open.clean = connect->clean;
    e->open.expiry_s = connect->level == LEVEL_5 ? connect->props.session_expiry_s
                       : connect->clean          ? 0
                                                 : UINT32_MAX;
    e->open.scope_id = e->id.scope_id;
    const char *name = c->ssl ? SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
    e->open.server_name = cw_strdup(name && cw_utf8_valid(name, strlen(name)) ? name : "");
    e->open.named = c->secure && listener_is_named(c->gw, name);
    add_chain(e, c->ssl);
    return e;
}

void auth_ask(struct conn *c, const struct client_id *id, const struct packet_connect *connect)
{
    struct auth *a = c->gw->auth;
    struct batch *b = TAILQ_LAST(&a->queue, batches);
    if (*id->scope_id) {
        a->waiting++;
        cw_metric_set(a->gw->m.logins_waiting, a->waiting);
        c->auth = entry_new(c, id, connect);
        provision(a, c->auth);
        return;
    }
    if (!b || b->n == BATCH_MAX) {
        b = cw_calloc(1, sizeof *b);
        b->auth = a;
        b->since_ms = cw_mono_ms();
        TAILQ_INSERT_TAIL(&a->queue, b, link);
    }
    a->waiting++;
    cw_metric_set(a->gw->m.logins_waiting, a->waiting);
    c->auth = b->entries[b->n++] = entry_new(c, id, connect);
    ask_next(a);
}

void auth_forget(struct conn *c)
{
    if (c->auth)
        c->auth->conn = NULL;
    c->auth = NULL;
}

void auth_go_on(struct gateway *gw) { ask_next(gw->auth); }

unsigned auth_waiting(const struct gateway *gw) { return gw->auth->waiting; }

void auth_open(struct gateway *gw)
{
    gw->auth = cw_calloc(1, sizeof *gw->auth);
    gw->auth->gw = gw;
    TAILQ_INIT(&gw->auth->queue);
    gw->auth->timer = evtimer_new(gw->base, on_gap_over, gw->auth);
    gw->auth->late = evtimer_new(gw->base, on_gap_over, gw->auth);
}

/* The memory stays: batches on their way are answered when the bus closes, after this. */
void auth_close(struct gateway *gw)
{
    if (!gw->auth)
        return;
    event_free(gw->auth->timer);
    event_free(gw->auth->late);
    for (struct batch *b; (b = TAILQ_FIRST(&gw->auth->queue));) {
        TAILQ_REMOVE(&gw->auth->queue, b, link);
        finish_batch(b, NULL);
    }
}
