/* Whole sessions of mqtt-gateway: the input is a script of what devices, the registry, the log,
 * other gateways and time do. What the gateway promises is checked after each step. links:
 * tests/fuzz/gateway_world.c services/mqtt-gateway/conn.c services/mqtt-gateway/conn_io.c
 * services/mqtt-gateway/socket.c services/mqtt-gateway/handshake.c services/mqtt-gateway/session.c
 * services/mqtt-gateway/frames.c
 * services/mqtt-gateway/uplink.c services/mqtt-gateway/auth.c services/mqtt-gateway/downlink.c
 * services/mqtt-gateway/takeover.c services/mqtt-gateway/peers.c services/mqtt-gateway/packet.c
 * services/mqtt-gateway/topic.c services/mqtt-gateway/client_id.c
 * services/mqtt-gateway/subscriptions.c services/mqtt-gateway/inflate.c
 * services/mqtt-gateway/route.c services/mqtt-gateway/packet_props.c
 * services/mqtt-gateway/conn_five.c services/mqtt-gateway/ws.c services/mqtt-gateway/keep.c
 * services/mqtt-gateway/legacy.c services/mqtt-gateway/policies.c services/mqtt-gateway/policy.c
 * services/mqtt-gateway/product_topics.c
 * services/mqtt-gateway/bridge.c services/mqtt-gateway/bridge_link.c */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "services/mqtt-gateway/auth.h"
#include "services/mqtt-gateway/bridge.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/peers.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/session.h"
#include "services/mqtt-gateway/takeover.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gateway_world.h"

#define PEERS   6
#define DEVICES 3
#define STEPS   400
#define METRICS (sizeof(struct gateway_metrics) / sizeof(void *))
#define OTHER   "mqtt-gateway-2-9"

/* A device's end of a connection. */
struct peer {
    int fd; /* -1: none */
    bool deaf;
    bool five;     /* its last CONNECT was of MQTT 5 */
    bool web;      /* over a WebSocket */
    bool any_five; /* it may have sent such a one: then it may be told DISCONNECT */
    uint8_t got[8192];
    size_t n_got;
    int64_t asked, acked; /* QoS 1 publishes written whole; PUBACKs */
};

/* What the log has of a session. */
struct track {
    int64_t session_no;
    bool connected, ended;
};

static struct gateway gw;
static struct peer peers[PEERS];
static struct track tracks[64];
static size_t n_tracks;
static int64_t next_session = 1;
static enum { CUSTOM_NONE, CUSTOM_UP, CUSTOM_DOWN, CUSTOM_OTHER } custom;            /* told last */
static enum { POLICY_NONE, POLICY_OPEN, POLICY_CLOSED, POLICY_OF_DEVICES } policies; /* told last */
static const uint8_t *at;
static size_t left;

static unsigned byte(void)
{
    if (!left)
        return 0;
    left--;
    return *at++;
}

/* ---- what main.c is to the gateway */

void gateway_awake(struct gateway *g) { g->awake_ms = cw_mono_ms(); }
void gateway_notice(struct gateway *g, const struct cw_notice *n)
{
    (void)g;
    fuzz_check(n->code && *n->code && n->reason && n->next_step);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    conns_later(arg);
}

static void policies_answer(struct cw_bus_request *r, unsigned how);

static void make_gateway(void)
{
    gw = (struct gateway){ .app = NULL,
                           .bus = cw_app_bus(NULL),
                           .uplink = cw_log_append_open(NULL, "") };
    gw.set = (struct gateway_settings){ .rate = 20,
                                        .bandwidth_bytes = 4096,
                                        .connect_ms = 10000,
                                        .packet_ms = 300000,
                                        .write_ms = 30000,
                                        .leave_ms = 5000,
                                        .auth_ms = 5000,
                                        .takeover_ms = 2000,
                                        .lost_ms = 5000,
                                        .bridge_devices = 2,
                                        .max_connections = 100,
                                        .keep_alive_min_ms = 30000,
                                        .keep_alive_max_ms = 1200000 };
    struct cw_metric **m = (struct cw_metric **)&gw.m;
    for (size_t i = 0; i < METRICS; i++) {
        char name[40];
        snprintf(name, sizeof name, "causeway_fuzz_%zu", i);
        m[i] = cw_gauge(name, NULL, "");
        cw_metric_set(m[i], 0);
    }
    gw.scratch = cw_malloc(SCRATCH_BYTES);
    gw.later = event_new(NULL, -1, 0, on_later, &gw);
    sessions_open(&gw);
    auth_open(&gw);
    peers_open(&gw);
    policies_open(&gw);
    bridges_open(&gw);
    downlinks_open(&gw);
    world_advance(1);
    policies_answer(world_requests, 0);
}

static void free_gateway(void)
{
    gw.stopping = true;
    conns_free(&gw);
    bridges_close(&gw);
    cw_log_append_close(&gw.uplink);
    sessions_close(&gw);
    takeovers_close(&gw);
    auth_close(&gw);
    peers_close(&gw);
    policies_close(&gw);
    world_connect(false); /* as the bus does when it closes: requests under way end */
    free(gw.auth);
    cw_bus_unsubscribe(&gw.downlinks);
    event_free(gw.later);
    free(gw.scratch);
}

/* ---- the promises */

/* CONNECT first, DISCONNECT last, nothing after it; a session in doubt may state its end twice. */
static void on_append(const Causeway__Uplink *up)
{
    struct track *t = NULL;
    for (size_t i = 0; i < n_tracks; i++)
        if (tracks[i].session_no == up->session_no)
            t = &tracks[i];
    if (!t && n_tracks < sizeof tracks / sizeof *tracks) {
        t = &tracks[n_tracks++];
        *t = (struct track){ .session_no = up->session_no };
    }
    if (!t)
        return;
    fuzz_check(up->session_no > 0 && up->device_key > 0 && *up->device_id);
    if (up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT) {
        fuzz_check(!t->connected);
        t->connected = true;
        return;
    }
    fuzz_check(t->connected);
    fuzz_check(policies != POLICY_CLOSED || up->kind != CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH ||
               *up->topic == '$');
    fuzz_check(custom == CUSTOM_NONE || custom == CUSTOM_UP ||
               up->kind != CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH || !strstr(up->topic, "/user/"));
    fuzz_check(!t->ended || up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT);
    t->ended |= up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT;
}

static void check_balance(void)
{
    const struct gateway_metrics *m = &gw.m;
    fuzz_check(cw_metric_value(m->received) ==
               cw_metric_value(m->appended) + cw_metric_value(m->refused) +
                   cw_metric_value(m->in_flight) + cw_metric_value(m->in_doubt));
    fuzz_check(cw_metric_value(m->connections) == gw.n_conns);
    fuzz_check(HASH_CNT(by_key, gw.by_key) == (unsigned)cw_metric_value(m->sessions));
    fuzz_check(HASH_CNT(by_no, gw.by_no) == gw.n_sessions);
}

/* ---- the devices' ends */

/* Takes one packet of the gateway off; false: none is whole. */
static bool take_packet(struct peer *p)
{
    size_t len = 0, head = 1;
    for (int shift = 0;; shift += 7) {
        if (head >= p->n_got)
            return false;
        fuzz_check(shift <= 21);
        len |= (size_t)(p->got[head] & 0x7f) << shift;
        if (!(p->got[head++] & 0x80))
            break;
    }
    unsigned type = p->got[0] >> 4;
    if (head + len > sizeof p->got) { /* a large PUBLISH: the rest is not looked at */
        p->n_got = 0;
        p->deaf = true;
        return false;
    }
    if (p->n_got < head + len)
        return false;
    fuzz_check(type == 2 || type == 3 || type == 4 || type == 9 || type == 11 || type == 13 ||
               (type == 14 && p->any_five));
    p->acked += type == 4;
    memmove(p->got, p->got + head + len, p->n_got -= head + len);
    return true;
}

/* Takes one frame of a WebSocket off, or the head of the answer to its request; false: none is
 * whole. What is in a frame are whole packets: the gateway makes one frame of all that it has. */
static bool take_frame(struct peer *p)
{
    static uint8_t frame[sizeof p->got];
    if (p->n_got && p->got[0] == 'H') {
        const uint8_t *end = memmem(p->got, p->n_got, "\r\n\r\n", 4);
        if (!end)
            return false;
        size_t used = (size_t)(end - p->got) + 4;
        if (memcmp(p->got, "HTTP/1.1 101", 12) != 0)
            used = p->n_got; /* a refusal, and its text */
        memmove(p->got, p->got + used, p->n_got -= used);
        return true;
    }
    size_t head = 2, len = p->n_got < 2 ? 0 : p->got[1];
    fuzz_check(p->n_got < 2 || (len < 128 && p->got[0] & 0x80)); /* never masked, never fragments */
    if (p->n_got < 2 || (len == 126 && p->n_got < 4))
        return false;
    if (len == 126) {
        head = 4;
        len = (size_t)p->got[2] << 8 | p->got[3];
    }
    if (len == 127 || head + len > sizeof p->got) { /* the rest is not looked at */
        p->n_got = 0;
        p->deaf = true;
        return false;
    }
    if (p->n_got < head + len)
        return false;
    unsigned op = p->got[0] & 15;
    fuzz_check(op == 2 || op == 8 || op == 10);
    memcpy(frame, p->got + head, len);
    size_t rest = p->n_got - head - len;
    memmove(p->got + len, p->got + head + len, rest); /* its packets stand before what follows */
    memcpy(p->got, frame, len);
    p->n_got = len;
    while (op == 2 && take_packet(p))
        ;
    fuzz_check(op != 2 || p->n_got == 0 || p->deaf);
    memmove(p->got, p->got + len, p->n_got = rest);
    return true;
}

static void hang_up(struct peer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    *p = (struct peer){ .fd = -1 };
}

static void hear(struct peer *p)
{
    ssize_t n = 0;
    while (p->fd >= 0 && !p->deaf &&
           (n = recv(p->fd, p->got + p->n_got, sizeof p->got - p->n_got, MSG_DONTWAIT)) > 0) {
        p->n_got += (size_t)n;
        while (p->web ? take_frame(p) : take_packet(p))
            ;
    }
    if (p->fd >= 0 && n == 0 && !p->deaf)
        hang_up(p);
}

static void dial(struct peer *p, bool web)
{
    int fds[2], small = 4096;
    hang_up(p);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0)
        abort();
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    p->fd = fds[1];
    p->web = web;
    conn_new(&gw, fds[0], NULL, web);
}

static void write_to(struct peer *p, const void *data, size_t len)
{
    if (p->fd >= 0 && send(p->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return;
}

static void ask_upgrade(struct peer *p)
{
    static const char request[] =
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    if (p->web)
        write_to(p, request, sizeof request - 1);
}

/* Masked with zeros: what it says stays legible to the fuzzer. */
static void write_frame(struct peer *p, unsigned op, const uint8_t *data, size_t len)
{
    uint8_t out[1100] = { (uint8_t)(0x80 | op), (uint8_t)(0x80 | (len < 126 ? len : 126)) };
    size_t n = 2;
    if (len > 125) {
        out[n++] = (uint8_t)(len >> 8);
        out[n++] = (uint8_t)len;
    }
    n += 4;
    memcpy(out + n, data, len);
    write_to(p, out, n + len);
}

/* A packet with its length, however many bytes; a cut off one now and then is what writes() is for.
 */
static void write_packet(struct peer *p, unsigned first, const void *body, size_t len)
{
    uint8_t out[1024];
    size_t n = 0;
    out[n++] = (uint8_t)first;
    for (size_t rest = len; rest || n == 1; rest >>= 7)
        out[n++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    memcpy(out + n, body, len);
    if (p->web)
        write_frame(p, 2, out, n + len);
    else
        write_to(p, out, n + len);
}

static char *device(char out[16], unsigned d)
{
    snprintf(out, 16, "dev-%u", d % DEVICES);
    return out;
}

static size_t put_text(uint8_t *out, const char *text)
{
    size_t len = 0;
    for (; text[len]; len++)
        out[2 + len] = (uint8_t)text[len];
    out[0] = (uint8_t)(len >> 8);
    out[1] = (uint8_t)len;
    return len + 2;
}

/* Receive maximum, maximum packet size: small ones, or none. */
static size_t put_connect_props(uint8_t *out)
{
    unsigned how = byte();
    if (how & 1) {
        out[0] = 0;
        return 1;
    }
    const uint8_t props[] = {
        8, 0x21, 0, (uint8_t)(1 + (how >> 1 & 3)), 0x27, 0, 0, 0, (uint8_t)(how | 64)
    };
    memcpy(out, props, sizeof props);
    return sizeof props;
}

/* No properties, or an alias with or without a topic. */
static size_t put_publish_props(uint8_t *out, unsigned how)
{
    if (!(how & 8)) {
        out[0] = 0;
        return 1;
    }
    const uint8_t props[] = { 3, 0x23, 0, (uint8_t)(how >> 4 & 3) };
    memcpy(out, props, sizeof props);
    return sizeof props;
}

static void say_connect(struct peer *p)
{
    char id[16], client[48];
    uint8_t body[128];
    unsigned kind = byte();
    size_t n = put_text(body, "MQTT");
    if (kind & 0x80)
        snprintf(id, sizeof id, "br-%u", kind & 1);
    else
        device(id, kind);
    snprintf(client, sizeof client, "%s_%c_1_2026112500", id, kind & 0x80 ? '3' : '0');
    p->five = kind & 0x40;
    p->any_five |= p->five;
    body[n++] = p->five ? 5 : 4;
    body[n++] = 0xc2; /* user, password, clean session */
    body[n++] = 0;
    body[n++] = 120;
    if (p->five)
        n += put_connect_props(body + n);
    n += put_text(body + n, client);
    n += put_text(body + n, id);
    n += put_text(body + n, "password");
    write_packet(p, 0x10, body, n);
}

static const char *const topics[] = {
    "$oc/devices/dev-0/sys/properties/report",
    "$oc/devices/dev-1/sys/messages/up",
    "$oc/devices/dev-0/sys/commands/response/request_id=r1",
    "$oc/devices/dev-2/sys/properties/report",
    "$oc/devices/dev-0/user/own",
    "$oc/devices/dev-0/sys/commands/request_id=r1",
    "plain/topic",
    "+/topic",
    "#",
    "other/topic",
    "$oc/devices/dev-0/#",
    "$oc/bridges/br-0/devices/dev-0/sys/login/request_id=1",
    "$oc/bridges/br-0/devices/dev-0/sys/logout/request_id=1",
    "$oc/bridges/br-0/devices/dev-0/sys/properties/report",
    "$oc/bridges/br-0/devices/dev-1/sys/reset_secret/request_id=1",
    "$oc/bridges/br-0/devices/dev-1/sys/login/request_id=1",
    "$oc/bridges/br-1/devices/dev-1/sys/login/request_id=1",
    "$oc/bridges/br-1/devices/dev-1/gateway/sub_devices/properties/report",
};
#define TOPIC(n) topics[(n) % (sizeof topics / sizeof *topics)]

static void say_publish(struct peer *p)
{
    uint8_t body[512];
    unsigned flags = byte(), which = byte(), id = byte() + 1, len = byte();
    unsigned qos = flags & 1;
    size_t n = put_text(body, p->five && (flags & 12) == 12 ? "" : TOPIC(which));
    if (qos) {
        body[n++] = 0;
        body[n++] = (uint8_t)id;
        p->asked++;
    }
    if (p->five)
        n += put_publish_props(body + n, flags);
    memset(body + n, '{', len);
    if (strstr(TOPIC(which), "/login/"))
        len = (unsigned)snprintf((char *)body + n, sizeof body - n,
                                 "{\"sign_type\":0,\"timestamp\":\"2026112500\","
                                 "\"password\":\"password\"}");
    write_packet(p, 0x30 | qos << 1, body, n + len);
}

static void say_filter(struct peer *p, unsigned first, bool with_qos)
{
    uint8_t body[128] = { 0, 7 };
    size_t n = p->five ? 3 : 2;
    n += put_text(body + n, TOPIC(byte()));
    if (with_qos)
        body[n++] = byte() & (p->five ? 5 : 1);
    write_packet(p, first, body, n);
}

static void say_puback(struct peer *p)
{
    const uint8_t body[] = { 0, (uint8_t)byte() };
    write_packet(p, 0x40, body, sizeof body);
}

static void say_bytes(struct peer *p)
{
    size_t n = byte();
    n = n < left ? n : left;
    p->asked += (int64_t)n; /* whatever they may hold */
    p->any_five = true;
    write_to(p, at, n);
    at += n;
    left -= n;
}

/* ---- the others */

static void registry_answers(struct cw_bus_request *r, unsigned how)
{
    Causeway__SessionOpenBatch *asked = causeway__session_open_batch__unpack(NULL, r->len, r->data);
    Causeway__SessionOpenReply reply = CAUSEWAY__SESSION_OPEN_REPLY__INIT;
    fuzz_check(asked && asked->n_opens > 0);
    Causeway__SessionOpened *results = cw_calloc(asked->n_opens, sizeof *results);
    Causeway__SessionOpened **list = cw_calloc(asked->n_opens, sizeof(void *));
    for (size_t i = 0; i < asked->n_opens; i++) {
        const char *id = asked->opens[i]->device_id;
        causeway__session_opened__init(&results[i]);
        list[i] = &results[i];
        results[i].connack = how & 1 ? how >> 4 : 0;
        results[i].device_key = 1 + id[strlen(id) - 1] % DEVICES;
        results[i].product_key = 1;
        results[i].session_no = next_session++;
        results[i].old_gateway = how & 2   ? (char *)OTHER
                                 : how & 4 ? (char *)WORLD_INSTANCE
                                           : (char *)"";
        results[i].old_session_no = results[i].session_no - 1;
    }
    reply.results = list;
    reply.n_results = how & 8 ? asked->n_opens - 1 : asked->n_opens;
    size_t len = causeway__session_open_reply__get_packed_size(&reply);
    uint8_t *packed = cw_malloc(len + 1);
    causeway__session_open_reply__pack(&reply, packed);
    causeway__session_open_batch__free_unpacked(asked, NULL);
    world_answer(r, 0, packed, len);
    free(packed);
    free(list);
    free(results);
}

/* Of the product that all devices are of: none, or one that may be published to or received. */
static Causeway__ProductTopics *topics_told(unsigned how)
{
    static Causeway__ProductTopic topic = CAUSEWAY__PRODUCT_TOPIC__INIT, *list = &topic;
    static Causeway__ProductTopics product = CAUSEWAY__PRODUCT_TOPICS__INIT;
    custom = how >> 6 & 3;
    topic.topic = (char *)(custom == CUSTOM_OTHER ? "other" : "own");
    topic.publish = custom != CUSTOM_DOWN;
    topic.subscribe = custom == CUSTOM_DOWN;
    product.product_key = 1;
    product.topics = &list;
    product.n_topics = custom != CUSTOM_NONE;
    return &product;
}

static void policies_answer(struct cw_bus_request *r, unsigned how)
{
    static const char open[] = "[{\"effect\":\"ALLOW\",\"actions\":[\"iotda:devices:publish\","
                               "\"iotda:devices:subscribe\"],\"resources\":[\"topic:*\"]}]",
                      closed[] = "[{\"effect\":\"DENY\",\"actions\":[\"iotda:devices:publish\","
                                 "\"iotda:devices:subscribe\"],\"resources\":[\"topic:*\"]}]",
                      some[] =
                          "[{\"effect\":\"ALLOW\",\"actions\":[\"iotda:devices:publish\"],"
                          "\"resources\":[\"topic:${devices.deviceId}/*\",\"topic:?lain/*\"]}]";
    static const char *const statements[] = { open, open, closed, some };
    Causeway__PoliciesReply reply = CAUSEWAY__POLICIES_REPLY__INIT;
    Causeway__DevicePolicy policy = CAUSEWAY__DEVICE_POLICY__INIT, *list = &policy;
    Causeway__DevicePolicies of = CAUSEWAY__DEVICE_POLICIES__INIT, *devices = &of;
    uint8_t packed[512];
    policies = how >> 4 & 3;
    policy.policy_id = (char *)"0123456789abcdef01234567";
    policy.statement = (char *)statements[policies];
    policy.of_space = policies == POLICY_OPEN || policies == POLICY_CLOSED;
    reply.policies = &list;
    reply.n_policies = policies != POLICY_NONE;
    of.device_key = 1 + how % DEVICES;
    of.policies = policy.policy_id;
    reply.devices = &devices;
    reply.n_devices = policies == POLICY_OF_DEVICES;
    Causeway__ProductTopics *topics = topics_told(how);
    reply.topics = &topics;
    reply.n_topics = 1;
    size_t len = causeway__policies_reply__pack(&reply, packed);
    world_answer(r, 0, packed, len);
}

static void policies_change(unsigned how)
{
    Causeway__PoliciesAsk hint = CAUSEWAY__POLICIES_ASK__INIT;
    int64_t key = 1 + how % DEVICES, product = 1;
    uint8_t packed[64];
    hint.device_keys = &key;
    hint.n_device_keys = how & 1;
    hint.product_keys = &product;
    hint.n_product_keys = how >> 1 & 1;
    world_deliver("invalidate.policy", NULL, packed, causeway__policies_ask__pack(&hint, packed));
    world_advance(50);
}

static void others_answer(unsigned how)
{
    struct cw_bus_request *r = world_requests;
    if (!r)
        return;
    if ((how & 0x0f) == 0x0f)
        world_answer(r, -ETIMEDOUT, NULL, 0);
    else if (strcmp(r->subject, "api.registry.open_sessions") == 0 ||
             strcmp(r->subject, "api.registry.open_bridge") == 0)
        registry_answers(r, how);
    else if (strcmp(r->subject, "api.registry.policies") == 0)
        policies_answer(r, how);
    else
        world_answer(r, 0, at, left < 8 ? left : 8);
}

static void ask_downlink(unsigned how)
{
    Causeway__Downlink msg = CAUSEWAY__DOWNLINK__INIT;
    uint8_t packed[512], payload[64] = { 0 };
    msg.kind = how & 1 ? CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE
                       : CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    msg.device_key = 1 + byte() % DEVICES;
    msg.session_no = how & 2 ? next_session - 1 - byte() % 4 : 0;
    msg.topic = (char *)TOPIC(byte());
    msg.payload = (ProtobufCBinaryData){ byte() % sizeof payload, payload };
    msg.qos = how >> 2 & 1;
    msg.deadline_ms = how & 8 ? cw_now_ms() + byte() * 100 : 0;
    msg.resend_ms = how & 16 ? 1 + byte() * 50 : 0;
    msg.resends = 3;
    msg.answer_to = how & 32 ? (char *)"response.x.1" : (char *)"";
    msg.request_id = how & 64 ? (char *)"r1" : (char *)"";
    msg.needs_subscription = how & 128;
    size_t len = causeway__downlink__pack(&msg, packed);
    world_deliver("downlink." WORLD_INSTANCE, "_INBOX.1", packed, len);
}

static void ask_bytes(void)
{
    size_t n = byte();
    n = n < left ? n : left;
    world_deliver("downlink." WORLD_INSTANCE, "_INBOX.1", at, n);
    at += n;
    left -= n;
}

static void hear_heartbeat(unsigned how)
{
    char subject[64];
    snprintf(subject, sizeof subject, "heartbeat.mqtt-gateway-%u-%u", how % 3, how / 3 % 16);
    world_deliver(subject, NULL, "", 0);
}

static void settle(unsigned how)
{
    unsigned n = how >> 2 & 7;
    for (unsigned i = 0; i <= n; i++)
        world_settle(how & 1, how & 2 && how & 128 ? -ECANCELED : 0);
}

static void step(void)
{
    static const int64_t waits_ms[] = { 1, 3, 100, 1000, 2500, 6000, 31000, 200000 };
    unsigned op = byte();
    struct peer *p = &peers[op / 16 % PEERS];
    switch (op % 16) {
    case 0:
        dial(p, byte() & 1);
        ask_upgrade(p);
        break;
    case 1:
        say_connect(p);
        break;
    case 2:
        say_publish(p);
        break;
    case 3:
        say_filter(p, 0x82, true);
        break;
    case 4:
        say_filter(p, 0xa2, false);
        break;
    case 5:
        say_puback(p);
        break;
    case 6:
        switch (byte() % 8) {
        case 0:
            write_packet(p, 0xe0, "", 0);
            break;
        case 4:
            policies_change(byte());
            break;
        case 1:
            if (p->web)
                write_frame(p, byte() & 1 ? 8 : 9, (const uint8_t *)"\3\xe8", 2);
            break;
        default:
            write_packet(p, 0xc0, "", 0);
        }
        break;
    case 7:
        say_bytes(p);
        break;
    case 8:
        hang_up(p);
        break;
    case 9:
        p->deaf = !p->deaf;
        break;
    case 10:
        others_answer(byte());
        break;
    case 11:
        settle(byte());
        break;
    case 12:
        op & 16 ? world_block(byte() & 1, op & 32) : world_connect(op & 32);
        break;
    case 13:
        op & 128 ? ask_bytes() : ask_downlink(byte());
        break;
    case 14:
        world_advance(waits_ms[byte() % 8]);
        break;
    default:
        op & 128 && op & 64 ? sessions_leave(&gw, "gateway_cut_off") : hear_heartbeat(byte());
    }
}

/* ---- one input */

static void after_step(void)
{
    world_spin();
    world_route();
    world_spin();
    for (size_t i = 0; i < PEERS; i++) {
        hear(&peers[i]);
        fuzz_check(peers[i].acked <= peers[i].asked);
    }
    world_spin();
    check_balance();
}

/* Everybody goes, everything is stored and answered: then nothing may be left. */
static void end_all(void)
{
    for (size_t i = 0; i < PEERS; i++)
        hang_up(&peers[i]);
    world_connect(true);
    for (int i = 0; i < 8; i++) {
        world_block(0, false);
        world_block(1, false);
        world_spin();
        for (uint32_t p = 0; p < WORLD_PARTITIONS; p++)
            while (world_settle(p, 0))
                ;
        world_advance(10000);
    }
    check_balance();
    fuzz_check(gw.n_conns == 0 && gw.n_sessions == 0 && auth_waiting(&gw) == 0);
    fuzz_check(cw_metric_value(gw.m.in_flight) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool orderly = size && data[0] & 1; /* else the process ends in the midst of it */
    at = data + (size > 0);
    left = size ? size - 1 : 0;
    n_tracks = 0;
    world_on_append = on_append;
    world_open();
    make_gateway();
    for (size_t i = 0; i < PEERS; i++)
        peers[i] = (struct peer){ .fd = -1 };
    for (unsigned i = 0; left && i < STEPS; i++) {
        step();
        after_step();
    }
    if (orderly)
        end_all();
    free_gateway();
    for (size_t i = 0; i < PEERS; i++)
        hang_up(&peers[i]);
    world_close();
    return 0;
}
