#include "services/mqtt-gateway/route.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/metrics.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/topic.h"

#define ANY       "*" /* the key of filters whose first level is a wildcard */
#define KEY_MAX   130
#define TOKEN_MAX (3 * KEY_MAX + 8)

/* One subscription of one session. */
struct route_entry {
    LIST_ENTRY(route_entry) in_key, in_session;
    struct session *session;
    struct route_key *key;
    char filter[];
};

struct route_key {
    UT_hash_handle hh; /* by name */
    struct gateway *gw;
    struct cw_bus_sub *sub;
    LIST_HEAD(, route_entry) entries;
    char name[]; /* as in the subject */
};

static struct {
    struct cw_metric *sent, *delivered, *skipped;
} stat;

static void make_stats(void)
{
    if (stat.sent)
        return;
    stat.sent =
        cw_counter("causeway_gateway_routed_total", "what=\"sent\"", "messages between devices");
    stat.delivered = cw_counter("causeway_gateway_routed_total", "what=\"delivered\"",
                                "messages between devices");
    stat.skipped =
        cw_counter("causeway_gateway_routed_total", "what=\"skipped\"", "messages between devices");
}

/* ---- keys */

bool route_takes(struct text topic)
{
    return topic.len && (topic.p[0] != '$' || text_begins(topic, "$oc/m2m/") ||
                         text_begins(topic, "$oc/broadcast/"));
}

/* The first level; below $oc the first two. */
static struct text key_of(struct text topic)
{
    size_t from = text_begins(topic, "$oc/") ? 4 : 0;
    const char *slash = memchr(topic.p + from, '/', topic.len - from);
    return (struct text){ topic.p, slash ? (size_t)(slash - topic.p) : topic.len };
}

/* As a token of a subject: what could mean something there is written =xx. "" begins with "_". */
static void name_key(char out[TOKEN_MAX], struct text key)
{
    static const char hex[] = "0123456789abcdef";
    char *p = out;
    if (key.len == 1 && (*key.p == '+' || *key.p == '#')) {
        strcpy(out, ANY);
        return;
    }
    *p++ = '_';
    for (size_t i = 0; i < key.len && i < KEY_MAX; i++) {
        unsigned char c = (unsigned char)key.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '_';
        if (plain)
            *p++ = (char)c;
        else {
            *p++ = '=';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p = '\0';
}

static struct route_key *find(const struct gateway *gw, const char *name)
{
    struct route_key *k;
    HASH_FIND_STR(gw->routes, name, k);
    return k;
}

/* ---- what comes */

static void deliver(const struct route_entry *e, const Causeway__Routed *r)
{
    struct text topic = { r->topic, strlen(r->topic) };
    struct session *s = e->session;
    int granted = subscription_match(s, topic, r->device_key == s->device_key);
    s->routed_no = s->gw->routed_no;
    if (granted < 0 || !s->conn)
        return;
    bool taken =
        downlink_deliver(s, r, (uint8_t)granted < r->qos ? (uint8_t)granted : (uint8_t)r->qos);
    cw_metric_add(taken ? stat.delivered : stat.skipped, 1);
}

static void deliver_all(const struct route_key *k, const Causeway__Routed *r, size_t *left)
{
    struct text topic = { r->topic, strlen(r->topic) };
    const struct route_entry *e;
    LIST_FOREACH(e, &k->entries, in_key)
    {
        if (e->session->routed_no == k->gw->routed_no || strcmp(e->session->app, r->app_id) != 0 ||
            !topic_matches(text_of(e->filter), topic) ||
            !policies_let_through(e->session, text_of(e->filter), topic))
            continue;
        if (*left == 0) {
            cw_metric_add(stat.skipped, 1);
            continue;
        }
        --*left;
        deliver(e, r);
    }
}

/* While there is a subscription to everything, it brings what the others would bring once more. */
static void on_routed(const struct cw_bus_msg *msg, void *arg)
{
    const struct route_key *k = arg, *any = find(k->gw, ANY);
    size_t left = ROUTED_MAX;
    char name[TOKEN_MAX] = "";
    gateway_awake(k->gw);
    if (msg->no_responders || (any && any != k))
        return;
    Causeway__Routed *r = causeway__routed__unpack(NULL, msg->len, msg->data);
    if (!r)
        return;
    k->gw->routed_no++;
    name_key(name, key_of(text_of(r->topic)));
    const struct route_key *own = find(k->gw, name);
    if (own)
        deliver_all(own, r, &left);
    if (any)
        deliver_all(any, r, &left);
    causeway__routed__free_unpacked(r, NULL);
}

/* ---- what goes */

bool route_publish(struct session *s, const struct outgoing *o)
{
    char name[TOKEN_MAX] = "", subject[TOKEN_MAX + 8];
    Causeway__Routed r = CAUSEWAY__ROUTED__INIT;
    make_stats();
    r.app_id = (char *)s->app;
    r.device_key = s->device_key;
    r.topic = (char *)o->topic;
    r.payload = (ProtobufCBinaryData){ o->len, (uint8_t *)o->payload };
    r.properties = (ProtobufCBinaryData){ o->props_len, (uint8_t *)o->props };
    r.qos = o->qos;
    name_key(name, key_of(text_of(o->topic)));
    snprintf(subject, sizeof subject, "route.%s", name);
    size_t n = causeway__routed__get_packed_size(&r);
    uint8_t *packed = cw_malloc(n + 1);
    causeway__routed__pack(&r, packed);
    int rc = cw_bus_publish(s->gw->bus, subject, NULL, packed, n);
    free(packed);
    cw_metric_add(rc == 0 ? stat.sent : stat.skipped, 1);
    return rc == 0;
}

/* ---- who listens */

static struct route_key *key_new(struct gateway *gw, const char *name)
{
    char subject[TOKEN_MAX + 8];
    struct route_key *k = cw_calloc(1, sizeof *k + strlen(name) + 1);
    strcpy(k->name, name);
    k->gw = gw;
    HASH_ADD_STR(gw->routes, name, k);
    snprintf(subject, sizeof subject, "route.%s", name);
    k->sub = cw_bus_subscribe(gw->bus, subject, NULL, on_routed, k);
    return k;
}

void route_subscribed(struct session *s, const char *filter)
{
    struct text f = { filter, strlen(filter) };
    char name[TOKEN_MAX] = "";
    if (!route_takes(f))
        return;
    make_stats();
    name_key(name, key_of(f));
    struct route_key *k = find(s->gw, name);
    if (!k)
        k = key_new(s->gw, name);
    struct route_entry *e = cw_calloc(1, sizeof *e + f.len + 1);
    memcpy(e->filter, filter, f.len);
    e->session = s;
    e->key = k;
    LIST_INSERT_HEAD(&k->entries, e, in_key);
    LIST_INSERT_HEAD(&s->routes, e, in_session);
}

void route_unsubscribed(struct session *s, const char *filter)
{
    struct route_entry *e;
    LIST_FOREACH(e, &s->routes, in_session)
    if (strcmp(e->filter, filter) == 0)
        break;
    if (!e)
        return;
    struct route_key *k = e->key;
    LIST_REMOVE(e, in_key);
    LIST_REMOVE(e, in_session);
    free(e);
    if (!LIST_EMPTY(&k->entries))
        return;
    HASH_DEL(k->gw->routes, k);
    cw_bus_unsubscribe(&k->sub);
    free(k);
}
