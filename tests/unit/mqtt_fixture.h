/* mqtt_fixture.h - gateways as processes, a registry played by the test, devices as raw sockets,
 * and the records that come into UPLINK. */
#pragma once

#include <event2/event.h>
#include <event2/thread.h>
#include <libgen.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "proto/causeway.pb-c.h"
#include "services/mqtt-gateway/packet.h"
#include "tests/unit/servers.h"

static struct server nats;
static struct event_base *base;
static struct cw_bus *bus;
static char var[] = "/tmp/cw-mq-XXXXXX";
static char program[512]; /* the daemon */

static inline void turn(void)
{
    struct timeval tick = { 0, 2000 };
    event_base_loopexit(base, &tick);
    event_base_dispatch(base);
}

/* Runs the loop until the condition holds; 30 s, then the test fails. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        int64_t until_limit_ms = cw_mono_ms() + 30000;                                             \
        while (!(condition)) {                                                                     \
            assert_true(cw_mono_ms() < until_limit_ms);                                            \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

/* ---- the registry: lets in who says "good", and keeps who holds which device */

#define HOLDERS_MAX 128
static struct holder {
    char device[64], gateway[80];
    int64_t key, session_no;
} holders[HOLDERS_MAX];
static int64_t last_session;
static int batches, opens, registry_mute;
static struct cw_bus_sub *registry;

static inline struct holder *holder_of(const char *device)
{
    struct holder *h = holders;
    while (*h->device && strcmp(h->device, device) != 0)
        if (++h == holders + HOLDERS_MAX)
            abort();
    snprintf(h->device, sizeof h->device, "%s", device);
    h->key = 100 + (h - holders);
    return h;
}

static inline void registry_answer(Causeway__SessionOpened *r, const Causeway__SessionOpen *open,
                                   const char *gateway)
{
    static char old[HOLDERS_MAX][80];
    struct holder *h = holder_of(open->device_id);
    causeway__session_opened__init(r);
    r->device_key = h->key;
    if (strcmp(open->password, "good") != 0) {
        r->connack = strcmp(open->password, "frozen") == 0 ? 5 : 4;
        r->code = (char *)"wrong_password";
        r->reason = (char *)"The password is wrong.";
        r->next_step = (char *)"Say good.";
        return;
    }
    snprintf(old[h - holders], sizeof old[0], "%s", h->gateway);
    r->old_gateway = old[h - holders];
    r->old_session_no = h->session_no;
    r->product_key = 7;
    r->session_no = h->session_no = ++last_session;
    snprintf(h->gateway, sizeof h->gateway, "%s", gateway);
}

static inline void on_open(const struct cw_bus_msg *msg, void *arg)
{
    static Causeway__SessionOpened results[256];
    Causeway__SessionOpened *list[256];
    Causeway__SessionOpenReply reply = CAUSEWAY__SESSION_OPEN_REPLY__INIT;
    (void)arg;
    Causeway__SessionOpenBatch *b = causeway__session_open_batch__unpack(NULL, msg->len, msg->data);
    if (!b || b->n_opens > 256)
        abort();
    batches++;
    opens += (int)b->n_opens;
    for (size_t i = 0; i < b->n_opens; i++)
        registry_answer(list[i] = &results[i], b->opens[i], b->gateway);
    reply.results = list;
    reply.n_results = b->n_opens;
    size_t len = causeway__session_open_reply__get_packed_size(&reply);
    uint8_t *packed = cw_malloc(len);
    causeway__session_open_reply__pack(&reply, packed);
    if (!registry_mute)
        cw_bus_publish(bus, msg->reply, NULL, packed, len);
    free(packed);
    causeway__session_open_batch__free_unpacked(b, NULL);
}

/* What the registry says of policies: nothing but this one, of the space "" that all are in. */
static Causeway__DevicePolicy *registry_policy;

static inline void on_policies(const struct cw_bus_msg *msg, void *arg)
{
    Causeway__PoliciesReply reply = CAUSEWAY__POLICIES_REPLY__INIT;
    uint8_t packed[1024];
    (void)arg;
    reply.policies = &registry_policy;
    reply.n_policies = registry_policy != NULL;
    cw_bus_publish(bus, msg->reply, NULL, packed, causeway__policies_reply__pack(&reply, packed));
}

static inline void registry_up(void)
{
    registry = cw_bus_subscribe(bus, "api.registry.open_sessions", "registry", on_open, NULL);
}

/* ---- what is appended to UPLINK */

#define RECORDS_MAX 4096
static Causeway__UplinkBatch *uplink_batches[RECORDS_MAX];
static Causeway__Uplink *records[RECORDS_MAX];
static char batch_ids[RECORDS_MAX][96];
static int n_batches, n_records;

static inline void on_uplink(const struct cw_bus_msg *msg, void *arg)
{
    const char *id = cw_bus_header(msg, "Cw-Batch");
    (void)arg;
    for (int i = 0; i < n_batches; i++)
        if (strcmp(batch_ids[i], id) == 0)
            return; /* sent again */
    snprintf(batch_ids[n_batches], sizeof batch_ids[0], "%s", id);
    Causeway__UplinkBatch *b = causeway__uplink_batch__unpack(NULL, msg->len, msg->data);
    if (!b || n_batches == RECORDS_MAX - 1 || n_records + b->n_records > RECORDS_MAX)
        abort();
    uplink_batches[n_batches++] = b;
    for (size_t i = 0; i < b->n_records; i++)
        records[n_records++] = b->records[i];
}

/* The n-th record (from 0) of this kind and device, or NULL. */
static inline Causeway__Uplink *record(const char *device, Causeway__UplinkKind kind, int n)
{
    for (int i = 0; i < n_records; i++)
        if (records[i]->kind == kind && strcmp(records[i]->device_id, device) == 0 && n-- == 0)
            return records[i];
    return NULL;
}
#define KIND(name) CAUSEWAY__UPLINK_KIND__UPLINK_##name

static inline Causeway__Uplink *notice_of(const char *device, const char *code)
{
    Causeway__Uplink *r;
    for (int n = 0; (r = record(device, KIND(NOTICE), n)); n++)
        if (strcmp(r->notice->code, code) == 0)
            return r;
    return NULL;
}

static inline int position_of(const Causeway__Uplink *r)
{
    for (int i = 0; i < n_records; i++)
        if (records[i] == r)
            return i;
    return -1;
}

/* ---- gateways */

struct gate {
    pid_t pid;
    int n, port, tls_port;
};

static inline const char *gate_get(const struct gate *g, const char *path)
{
    static char answer[1 << 16];
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    size_t n = 0;
    ssize_t got;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/run/mqtt-gateway.%d.sock", var, g->n);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        dprintf(fd, "GET %s HTTP/1.0\r\n\r\n", path);
        while (n < sizeof answer - 1 && (got = read(fd, answer + n, sizeof answer - 1 - n)) > 0)
            n += (size_t)got;
    }
    answer[n] = '\0';
    close(fd);
    return answer;
}

static inline long gate_metric(const struct gate *g, const char *name)
{
    char line[96];
    snprintf(line, sizeof line, "\ncauseway_gateway_%s ", name);
    const char *at = strstr(gate_get(g, "/metrics"), line);
    return at ? atol(at + strlen(line)) : -1;
}

static inline bool gate_ready(const struct gate *g)
{
    return strstr(gate_get(g, "/healthz"), " 200 ") != NULL;
}

/* settings: NAME=value, ended by NULL. */
static inline void gate_run(struct gate *g, const char *const *settings)
{
    char text[16];
    g->pid = fork();
    if (g->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!getenv("TEST_VERBOSE") && (!freopen("/dev/null", "w", stderr)))
            _exit(126);
        for (; settings && *settings; settings++)
            putenv((char *)*settings);
        snprintf(text, sizeof text, "%d", g->n);
        setenv("CAUSEWAY_INSTANCE", text, 1);
        snprintf(text, sizeof text, "%d", g->port);
        setenv("CAUSEWAY_MQTT_PORT", text, 1);
        snprintf(text, sizeof text, "%d", g->tls_port);
        setenv("CAUSEWAY_MQTTS_PORT", text, 1);
        execl(program, program, NULL);
        _exit(127);
    }
    UNTIL(gate_ready(g));
}

static inline void gate_start(struct gate *g, int n, const char *const *settings)
{
    *g = (struct gate){ .n = n, .port = free_port(), .tls_port = free_port() };
    gate_run(g, settings);
}

/* The exit code, or minus the signal. */
static inline int gate_end(struct gate *g)
{
    int status = 0;
    UNTIL(waitpid(g->pid, &status, WNOHANG) == g->pid);
    g->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- devices */

struct dev {
    int fd;
    const char *id;
    uint8_t in[1 << 16];
    size_t len;
    bool eof;
};

static inline void dev_dial(struct dev *d, int port, const char *id)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    *d = (struct dev){ .fd = socket(AF_INET, SOCK_STREAM, 0), .id = id };
    setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    assert_int_equal(connect(d->fd, (struct sockaddr *)&at, sizeof at), 0);
}

static inline void dev_open(struct dev *d, const struct gate *g, const char *id)
{
    dev_dial(d, g->port, id);
}

static inline void dev_close(struct dev *d) { close(d->fd); }

static inline void dev_look(struct dev *d)
{
    ssize_t n = recv(d->fd, d->in + d->len, sizeof d->in - d->len, MSG_DONTWAIT);
    if (n > 0)
        d->len += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        d->eof = true;
}

static inline bool dev_at_end(struct dev *d)
{
    if (!d->eof)
        dev_look(d);
    return d->eof;
}

static inline void dev_send(struct dev *d, const void *p, size_t n)
{
    assert_int_equal(send(d->fd, p, n, MSG_NOSIGNAL), n);
}

/* Length of the packet at the front, 0: not all there. */
static inline size_t dev_packet(struct dev *d)
{
    size_t len = 0, i = 1;
    if (!d->eof)
        dev_look(d);
    for (int shift = 0; i < d->len; shift += 7) {
        len |= (size_t)(d->in[i] & 127) << shift;
        if (!(d->in[i++] & 128))
            return i + len <= d->len ? i + len : 0;
    }
    return 0;
}

/* Waits for a packet and takes it: its bytes go to out; its length. */
static inline size_t dev_take(struct dev *d, uint8_t out[512])
{
    UNTIL(dev_packet(d) || d->eof);
    size_t n = dev_packet(d);
    assert_true(n > 0 && n <= 512);
    memcpy(out, d->in, n);
    memmove(d->in, d->in + n, d->len - n);
    d->len -= n;
    return n;
}

static inline void dev_expect(struct dev *d, const void *want, size_t len)
{
    uint8_t got[512];
    size_t n = dev_take(d, got);
    if (n != len || memcmp(got, want, len) != 0)
        print_error("%s: got %02x %02x %02x %02x\n", d->id, got[0], got[1], got[2], got[3]);
    assert_int_equal(n, len);
    assert_memory_equal(got, want, len);
}
#define EXPECT(d, ...)                                                                             \
    dev_expect(d, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static inline void put_text(struct cw_buf *b, const char *s)
{
    size_t n = strlen(s);
    cw_buf_add(b, (uint8_t[]){ (uint8_t)(n >> 8), (uint8_t)n }, 2);
    cw_buf_add(b, s, n);
}

struct login {
    const char *client, *password; /* NULL: the usual */
    int keep_alive_s, level;       /* 0: the usual */
};

static inline void put_login(struct cw_buf *out, const char *id, const struct login *l)
{
    char client[128];
    struct cw_buf body = { 0 };
    int keep_alive_s = l->keep_alive_s ? l->keep_alive_s : 60;
    snprintf(client, sizeof client, "%s_0_0_2026010203", id);
    put_text(&body, "MQTT");
    cw_buf_add(&body,
               (uint8_t[]){ (uint8_t)(l->level ? l->level : 4), 0xc2, (uint8_t)(keep_alive_s >> 8),
                            (uint8_t)keep_alive_s },
               4);
    put_text(&body, l->client ? l->client : client);
    put_text(&body, id);
    put_text(&body, l->password ? l->password : "good");
    assert_true(body.len < 128);
    cw_buf_add(out, (uint8_t[]){ 0x10, (uint8_t)body.len }, 2);
    cw_buf_add(out, body.data, body.len);
    cw_buf_free(&body);
}

static inline void dev_login(struct dev *d, const struct login *l)
{
    struct cw_buf b = { 0 };
    put_login(&b, d->id, l);
    dev_send(d, b.data, b.len);
    cw_buf_free(&b);
}

/* Connects and is let in. */
static inline void dev_join(struct dev *d, const struct gate *g, const char *id)
{
    dev_open(d, g, id);
    dev_login(d, &(struct login){ 0 });
    EXPECT(d, 0x20, 2, 0, 0);
}

static inline void dev_publish(struct dev *d, const char *topic, const void *payload, size_t len,
                               uint8_t qos, uint16_t id)
{
    struct cw_buf b = { 0 };
    packet_put_publish(&b, &(struct outbound){ .topic = { topic, strlen(topic) },
                                               .payload = payload,
                                               .len = len,
                                               .id = id,
                                               .level = 4,
                                               .qos = qos });
    dev_send(d, b.data, b.len);
    cw_buf_free(&b);
}

static inline void dev_report(struct dev *d, const char *text, uint16_t id)
{
    char topic[160];
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/properties/report", d->id);
    dev_publish(d, topic, text, strlen(text), id ? 1 : 0, id);
}

static inline void dev_ping(struct dev *d)
{
    dev_send(d, (uint8_t[]){ 0xc0, 0 }, 2);
    EXPECT(d, 0xd0, 0);
}

/* One filter; the code of SUBACK. */
static inline int dev_subscribe(struct dev *d, const char *filter, uint8_t qos)
{
    struct cw_buf b = { 0 };
    uint8_t got[512];
    cw_buf_add(&b, (uint8_t[]){ 0x82, (uint8_t)(strlen(filter) + 5), 0, 9 }, 4);
    put_text(&b, filter);
    cw_buf_add(&b, &qos, 1);
    dev_send(d, b.data, b.len);
    cw_buf_free(&b);
    assert_int_equal(dev_take(d, got), 5);
    assert_int_equal(got[0], 0x90);
    return got[4];
}

/* ---- downlinks */

struct outcome {
    int n, rc, outcome;
    int64_t written_ms, acked_ms;
    unsigned attempts;
};

static inline void on_outcome(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct outcome *o = arg;
    Causeway__DownlinkReply *r =
        rc == 0 ? causeway__downlink_reply__unpack(NULL, msg->len, msg->data) : NULL;
    o->n++;
    o->rc = rc;
    if (!r)
        return;
    o->outcome = (int)r->outcome;
    o->written_ms = r->written_ms;
    o->acked_ms = r->acked_ms;
    o->attempts = r->attempts;
    causeway__downlink_reply__free_unpacked(r, NULL);
}

static inline void downlink(struct outcome *o, const char *device, const Causeway__Downlink *what)
{
    char subject[128];
    uint8_t packed[1024];
    struct holder *h = holder_of(device);
    Causeway__Downlink msg = *what;
    *o = (struct outcome){ 0 };
    msg.device_key = h->key;
    snprintf(subject, sizeof subject, "downlink.%s", h->gateway);
    assert_non_null(cw_bus_request(bus, subject, packed, causeway__downlink__pack(&msg, packed),
                                   25000, on_outcome, o));
}
#define OUTCOME(name) CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_##name

/* ---- all of it */

static inline void bus_up(void)
{
    char url[64];
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", url, 1);
    bus = cw_bus_open(base, &(struct cw_bus_config){ .url = url, .name = "test" });
    if (!bus)
        abort();
    cw_bus_subscribe(bus, "uplink.*", NULL, on_uplink, NULL);
    cw_bus_subscribe(bus, "api.registry.policies", "registry", on_policies, NULL);
    registry_up();
}

static inline void fixture_up(const char *argv0)
{
    char path[512];
    cw_log_setup("test", CW_ERROR);
    evthread_use_pthreads();
    base = event_base_new();
    nats_start(&nats);
    if (!mkdtemp(var))
        abort();
    snprintf(path, sizeof path, "%s/run", var);
    mkdir(path, 0700);
    setenv("CAUSEWAY_VAR", var, 1);
    setenv("CAUSEWAY_LOG_BYTES", "64M", 1);
    snprintf(path, sizeof path, "%s", argv0);
    snprintf(program, sizeof program, "%.400s/../bin/mqtt-gateway", dirname(path));
    bus_up();
}

static inline void fixture_down(void)
{
    char command[128];
    cw_bus_close(&bus);
    event_base_free(base);
    server_end(&nats);
    for (int i = 0; i < n_batches; i++)
        causeway__uplink_batch__free_unpacked(uplink_batches[i], NULL);
    snprintf(command, sizeof command, "rm -rf '%s'", var);
    if (system(command) != 0)
        abort();
}
