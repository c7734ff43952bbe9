#include "services/mqtt-gateway/policies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/auth.h"

#define SUBJECT    "api.registry.policies"
#define ID_LEN     24
#define KEYS_MAX   1000  /* devices that are asked for at once */
#define TOPICS_MAX 500   /* products the same */
#define AGAIN_MS   500   /* after no answer */
#define GATHER_MS  50    /* changes that come together are asked for once */
#define RECENT_MS  10000 /* a login may have been on its way for so long */

struct entry {
    LIST_ENTRY(entry) link;
    char id[ID_LEN + 1];
    bool of_space;
    struct policy *policy;
    size_t n_products;
    int64_t *product_keys; /* sorted */
};

/* Policies hold within their space. */
struct space {
    UT_hash_handle hh;
    LIST_HEAD(, entry) entries;
    bool open; /* all may do everything: one that is open is bound to it, and none denies */
    bool denies;
    char app_id[];
};

struct policies {
    struct gateway *gw;
    struct space *spaces; /* uthash */
    struct cw_bus_sub *hints;
    struct event *timer;
    struct cw_bus_request *request;
    int64_t *keys; /* devices to be asked for; the first `asked` of them are on their way */
    size_t n_keys, keys_size, asked;
    int64_t hinted_ms; /* when devices were last said to be bound otherwise, or topics to differ */
    bool known, stale;
};

/* ---- what holds */

static struct space *space_of(const struct policies *p, const char *app_id)
{
    struct space *space;
    HASH_FIND_STR(p->spaces, app_id, space);
    return space;
}

static int by_key(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* ids: 24 characters each. */
static bool lists(const char *ids, const char *id)
{
    for (; ids && *ids; ids += ID_LEN)
        if (strncmp(ids, id, ID_LEN) == 0)
            return true;
    return false;
}

static bool holds(const struct entry *e, const struct session *s)
{
    return e->of_space || lists(s->policies, e->id) ||
           bsearch(&s->product_key, e->product_keys, e->n_products, sizeof(int64_t), by_key);
}

bool policies_allow(const struct session *s, struct policy_question *q)
{
    const struct space *space = space_of(s->gw->policies, s->app);
    const struct entry *e;
    q->device_id = s->device_id;
    q->product_id = s->product_id;
    if (!space || space->open)
        return true;
    LIST_FOREACH(e, &space->entries, link)
    if (holds(e, s))
        policy_ask(e->policy, q);
    return !policy_refuses(q);
}

/* What is denied stays so behind a wildcard. */
bool policies_let_through(const struct session *s, struct text filter, struct text topic)
{
    struct policy_question of_filter = { .action = POLICY_SUBSCRIBE, .topic = filter };
    struct policy_question of_topic = { .action = POLICY_SUBSCRIBE, .topic = topic };
    if (!policies_allow(s, &of_filter))
        return false;
    policies_allow(s, &of_topic);
    return !of_topic.denied_by;
}

bool policies_allow_custom(const struct session *s, enum policy_action action, struct text name,
                           struct custom_refusal *why)
{
    const struct custom_question q = { .action = action,
                                       .name = name,
                                       .strict = cw_app_strict(s->gw->app),
                                       .device_id = s->device_id,
                                       .product_id = s->product_id };
    return product_topics_allow(s->topics, &q, why);
}

const char *policies_reason(const struct policy_question *q)
{
    static char reason[POLICY_PATTERN_MAX + 256];
    const char *what = q->action == POLICY_PUBLISH ? "publish to" : "subscribe";
    if (q->denied_by)
        snprintf(reason, sizeof reason, "Policy \"%s\" denies the device to %s topic:%s.",
                 policy_name(q->denied_by), what, q->denied);
    else
        snprintf(reason, sizeof reason,
                 "None of the policies of the device, its product and its space allows to %s this "
                 "topic.",
                 what);
    return reason;
}

const char *policies_next_step(char out[POLICY_NEXT_STEP_LEN], const struct policy_question *q)
{
    if (*q->nearest)
        snprintf(out, POLICY_NEXT_STEP_LEN,
                 "Use a topic that is allowed, as topic:%s, or change the policy.", q->nearest);
    else
        snprintf(out, POLICY_NEXT_STEP_LEN,
                 "Change the policy, or take it from what it is bound to.");
    return out;
}

/* ---- the table */

static void entry_free(struct entry *e)
{
    policy_free(e->policy);
    free(e->product_keys);
    free(e);
}

static void forget(struct policies *p)
{
    struct space *space = p->spaces, *next;
    HASH_CLEAR(hh, p->spaces);
    for (; space; space = next) {
        next = space->hh.next;
        for (struct entry *e; (e = LIST_FIRST(&space->entries));) {
            LIST_REMOVE(e, link);
            entry_free(e);
        }
        free(space);
    }
}

static struct space *space_make(struct policies *p, const char *app_id)
{
    struct space *space = space_of(p, app_id);
    if (space)
        return space;
    space = cw_calloc(1, sizeof *space + strlen(app_id) + 1);
    strcpy(space->app_id, app_id);
    HASH_ADD_STR(p->spaces, app_id, space);
    return space;
}

static void take(struct policies *p, const Causeway__DevicePolicy *from)
{
    struct policy *policy = policy_read(from->policy_name, from->statement);
    if (!policy || strlen(from->policy_id) != ID_LEN) {
        cw_log(CW_ERROR, "policy_unreadable", "policy=%s", from->policy_id);
        policy_free(policy);
        return;
    }
    struct entry *e = cw_calloc(1, sizeof *e);
    struct space *space = space_make(p, from->app_id);
    memcpy(e->id, from->policy_id, sizeof e->id);
    e->of_space = from->of_space;
    e->policy = policy;
    e->n_products = from->n_product_keys;
    e->product_keys = cw_calloc(e->n_products + 1, sizeof *e->product_keys);
    for (size_t i = 0; i < e->n_products; i++)
        e->product_keys[i] = from->product_keys[i];
    qsort(e->product_keys, e->n_products, sizeof *e->product_keys, by_key);
    LIST_INSERT_HEAD(&space->entries, e, link);
    space->denies |= policy_denies(policy);
    space->open |= e->of_space && policy_is_open(policy);
}

static void replace(struct policies *p, const Causeway__PoliciesReply *reply)
{
    forget(p);
    for (size_t i = 0; i < reply->n_policies; i++)
        take(p, reply->policies[i]);
    for (struct space *space = p->spaces; space; space = space->hh.next)
        space->open &= !space->denies;
}

/* ---- asking */

static void set_policies(struct session *s, const char *policies)
{
    free(s->policies);
    s->policies = *policies ? cw_strdup(policies) : NULL;
}

static void ask_after(struct policies *p, int ms)
{
    struct timeval wait = { 0, ms * 1000L };
    if (!p->request && !evtimer_pending(p->timer, NULL))
        evtimer_add(p->timer, &wait);
}

static void doubt(struct policies *p, int64_t device_key)
{
    if (p->n_keys == p->keys_size) {
        p->keys_size = p->keys_size ? p->keys_size * 2 : 16;
        p->keys = cw_realloc(p->keys, p->keys_size * sizeof *p->keys);
    }
    p->keys[p->n_keys++] = device_key;
    ask_after(p, GATHER_MS);
}

static void doubt_topics(struct policies *p, struct product_topics *t)
{
    t->doubted = true;
    ask_after(p, GATHER_MS);
}

void policies_topics(struct gateway *gw, const Causeway__SessionOpenReply *reply)
{
    for (size_t i = 0; i < reply->n_topics; i++)
        product_topics_set(product_topics_of(&gw->product_topics, reply->topics[i]->product_key),
                           reply->topics[i]);
}

void policies_session(struct session *s, const char *policies)
{
    struct policies *p = s->gw->policies;
    struct product_topics *t = product_topics_of(&s->gw->product_topics, s->product_key);
    set_policies(s, policies);
    s->topics = t;
    if (p->hinted_ms && cw_mono_ms() - p->hinted_ms < RECENT_MS) {
        doubt(p, s->device_key);
        doubt_topics(p, t);
    }
}

static void take_devices(struct policies *p, const Causeway__PoliciesReply *reply)
{
    for (size_t i = 0; i < p->asked; i++) {
        struct session *s = session_by_key(p->gw, p->keys[i]);
        if (s)
            set_policies(s, "");
    }
    for (size_t i = 0; i < reply->n_devices; i++) {
        struct session *s = session_by_key(p->gw, reply->devices[i]->device_key);
        if (s)
            set_policies(s, reply->devices[i]->policies);
    }
    p->n_keys -= p->asked;
    if (p->n_keys)
        memmove(p->keys, p->keys + p->asked, p->n_keys * sizeof *p->keys);
    p->asked = 0;
}

/* Those that were asked for: no longer, or once more. */
static bool settle_topics(struct policies *p, bool answered)
{
    bool doubted = false;
    for (struct product_topics *t = p->gw->product_topics; t; t = t->hh.next) {
        t->doubted |= t->asked && !answered;
        t->asked = false;
        doubted |= t->doubted;
    }
    return doubted;
}

static void take_topics(struct policies *p, const Causeway__PoliciesReply *reply)
{
    for (size_t i = 0; i < reply->n_topics; i++)
        product_topics_set(product_topics_of(&p->gw->product_topics, reply->topics[i]->product_key),
                           reply->topics[i]);
}

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct policies *p = arg;
    gateway_awake(p->gw);
    p->request = NULL;
    Causeway__PoliciesReply *reply =
        rc == 0 ? causeway__policies_reply__unpack(NULL, msg->len, msg->data) : NULL;
    if (!reply || reply->away) {
        causeway__policies_reply__free_unpacked(reply, NULL);
        settle_topics(p, false);
        p->stale = true;
        ask_after(p, AGAIN_MS);
        return;
    }
    replace(p, reply);
    take_devices(p, reply);
    take_topics(p, reply);
    bool more = settle_topics(p, true);
    causeway__policies_reply__free_unpacked(reply, NULL);
    bool first = !p->known;
    p->known = true;
    if (p->stale || p->n_keys || more)
        ask_after(p, 0);
    if (first)
        auth_go_on(p->gw);
}

static size_t gather_topics(struct policies *p, int64_t keys[TOPICS_MAX])
{
    size_t n = 0;
    for (struct product_topics *t = p->gw->product_topics; t && n < TOPICS_MAX; t = t->hh.next)
        if (t->doubted) {
            t->doubted = false;
            t->asked = true;
            keys[n++] = t->product_key;
        }
    return n;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct policies *p = arg;
    Causeway__PoliciesAsk ask = CAUSEWAY__POLICIES_ASK__INIT;
    int64_t products[TOPICS_MAX];
    (void)fd, (void)what;
    gateway_awake(p->gw);
    p->asked = p->n_keys < KEYS_MAX ? p->n_keys : KEYS_MAX;
    ask.device_keys = p->keys;
    ask.n_device_keys = p->asked;
    ask.product_keys = products;
    ask.n_product_keys = gather_topics(p, products);
    size_t n = causeway__policies_ask__get_packed_size(&ask);
    uint8_t *packed = cw_malloc(n + 1);
    causeway__policies_ask__pack(&ask, packed);
    p->stale = false;
    p->request = cw_bus_request(p->gw->bus, SUBJECT, packed, n, p->gw->set.auth_ms, on_reply, p);
    free(packed);
    if (!p->request) { /* on_bus() asks */
        settle_topics(p, false);
        p->stale = true;
    }
}

static void doubt_products(struct policies *p, const Causeway__PoliciesAsk *hint)
{
    for (size_t i = 0; i < hint->n_product_keys; i++) {
        struct product_topics *t;
        HASH_FIND(hh, p->gw->product_topics, &hint->product_keys[i], sizeof(int64_t), t);
        if (t)
            doubt_topics(p, t);
    }
}

static void on_hint(const struct cw_bus_msg *msg, void *arg)
{
    struct policies *p = arg;
    gateway_awake(p->gw);
    Causeway__PoliciesAsk *hint =
        msg->no_responders ? NULL : causeway__policies_ask__unpack(NULL, msg->len, msg->data);
    if (!hint)
        return;
    if (hint->n_device_keys || hint->n_product_keys)
        p->hinted_ms = cw_mono_ms();
    for (size_t i = 0; i < hint->n_device_keys; i++)
        if (session_by_key(p->gw, hint->device_keys[i]))
            doubt(p, hint->device_keys[i]);
    doubt_products(p, hint);
    causeway__policies_ask__free_unpacked(hint, NULL);
    p->stale = true;
    ask_after(p, GATHER_MS);
}

/* What was said meanwhile has been missed. */
static void on_bus(bool connected, void *arg)
{
    struct policies *p = arg;
    struct session *s, *next;
    if (!connected)
        return;
    HASH_ITER(by_key, p->gw->by_key, s, next) { doubt(p, s->device_key); }
    for (struct product_topics *t = p->gw->product_topics; t; t = t->hh.next)
        t->doubted = true;
    p->stale = true;
    ask_after(p, 0);
}

bool policies_known(const struct gateway *gw) { return gw->policies->known; }

void policies_open(struct gateway *gw)
{
    struct policies *p = gw->policies = cw_calloc(1, sizeof *p);
    p->gw = gw;
    p->timer = evtimer_new(gw->base, on_timer, p);
    p->hints = cw_bus_subscribe(gw->bus, "invalidate.policy", NULL, on_hint, p);
    cw_bus_watch(gw->bus, on_bus, p);
}

void policies_close(struct gateway *gw)
{
    struct policies *p = gw->policies;
    if (!p)
        return;
    cw_bus_unwatch(gw->bus, on_bus, p);
    cw_bus_unsubscribe(&p->hints);
    cw_bus_request_cancel(&p->request);
    event_free(p->timer);
    forget(p);
    product_topics_free(&gw->product_topics);
    free(p->keys);
    free(p);
    gw->policies = NULL;
}
