/* Sessions that outlive their connection: what they subscribe is with the registry before the
 * device is told that it is. */
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/session.h"

#define SUBJECT "api.registry.keep_session"

struct keeping {
    LIST_ENTRY(keeping) link;
    struct session *session; /* NULL: it is over, nobody waits */
    enum packet_type type;
    uint16_t id;
    size_t n;
    uint8_t codes[];
};

static struct keeping *keeping_new(enum packet_type type, uint16_t id, const uint8_t *codes,
                                   size_t n)
{
    struct keeping *k = cw_malloc(sizeof *k + n);
    *k = (struct keeping){ .type = type, .id = id, .n = n };
    if (n)
        memcpy(k->codes, codes, n);
    return k;
}

static void answer(struct session *s, enum packet_type type, uint16_t id, const uint8_t *codes,
                   size_t n)
{
    if (s->conn)
        packet_put_codes(conn_out(s->conn), s->conn->level, type, id, codes, n);
}

/* What was granted and is not kept: refused, so that the device asks again. UNSUBACK of MQTT 3.1.1
 * has no way to say it. */
static void refuse(struct keeping *k)
{
    struct session *s = k->session;
    if (k->type == PACKET_UNSUBACK && s->conn && s->conn->level < LEVEL_5) {
        conn_dismiss(s->conn, "not_kept", REASON_UNSPECIFIED, NULL);
        return;
    }
    for (size_t i = 0; i < k->n; i++)
        if (k->codes[i] < REASON_UNSPECIFIED)
            k->codes[i] = REASON_UNSPECIFIED;
    answer(s, k->type, k->id, k->codes, k->n);
}

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct keeping *k = arg;
    (void)msg;
    if (k->session) {
        gateway_awake(k->session->gw);
        LIST_REMOVE(k, link);
        if (rc < 0)
            refuse(k);
        else
            answer(k->session, k->type, k->id, k->codes, k->n);
    }
    free(k);
}

static bool ask(struct session *s, struct keeping *k)
{
    Causeway__SessionKeep m = CAUSEWAY__SESSION_KEEP__INIT;
    Causeway__Subscription subs[SUBSCRIPTIONS_MAX], *list[SUBSCRIPTIONS_MAX];
    for (size_t i = 0; i < s->n_subscriptions; i++) {
        causeway__subscription__init(&subs[i]);
        subs[i].filter = s->subscriptions[i].filter;
        subs[i].qos = s->subscriptions[i].qos;
        subs[i].no_local = s->subscriptions[i].no_local;
        list[i] = &subs[i];
    }
    m.device_key = s->device_key;
    m.session_no = s->session_no;
    m.change_no = ++s->change_no;
    m.expiry_s = s->expiry_s;
    m.subscriptions = list;
    m.n_subscriptions = s->n_subscriptions;
    size_t len = causeway__session_keep__get_packed_size(&m);
    uint8_t *packed = cw_malloc(len);
    causeway__session_keep__pack(&m, packed);
    bool sent =
        cw_bus_request(s->gw->bus, SUBJECT, packed, len, s->gw->set.auth_ms, on_reply, k) != NULL;
    free(packed);
    return sent;
}

void session_answer(struct session *s, enum packet_type type, uint16_t id, const uint8_t *codes,
                    size_t n)
{
    if (!s->expiry_s) {
        answer(s, type, id, codes, n);
        return;
    }
    struct keeping *k = keeping_new(type, id, codes, n);
    k->session = s;
    LIST_INSERT_HEAD(&s->keepings, k, link);
    if (!ask(s, k))
        on_reply(-1, NULL, k);
}

void session_outlives(struct session *s, uint32_t expiry_s)
{
    if (!s->expiry_s || s->expiry_s == expiry_s)
        return;
    s->expiry_s = expiry_s;
    struct keeping *k = keeping_new(PACKET_DISCONNECT, 0, NULL, 0);
    if (!ask(s, k))
        on_reply(-1, NULL, k);
}

void keepings_drop(struct session *s)
{
    struct keeping *k;
    while ((k = LIST_FIRST(&s->keepings))) {
        LIST_REMOVE(k, link);
        k->session = NULL;
    }
}
