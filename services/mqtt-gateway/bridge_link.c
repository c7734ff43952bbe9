#include "services/mqtt-gateway/bridge_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/json.h"

#define LOGIN_MAX   4096
#define READ_BYTES  8192
#define AGAIN_MS    20
#define KEEP_BYTES  256
#define TOPIC_BYTES 1024

/* A device: our end of its connection. */
struct link {
    UT_hash_handle hh;
    struct bridge *b;
    struct event *read, *write;
    struct cw_buf in, out;
    char *rid; /* of the login or logout that is to be answered; NULL: none */
    int fd;
    bool open, leaving;
    char device[];
};

struct down {
    UT_hash_handle hh;
    struct link *link; /* NULL: the bridge's own, or the device has gone */
    uint16_t id, link_id;
};

struct link *link_find(const struct bridge *b, struct text device)
{
    struct link *l;
    HASH_FIND(hh, b->links, device.p, device.len, l);
    return l;
}

bool link_is_open(const struct link *l) { return l->open && !l->leaving; }

const char *link_device(const struct link *l) { return l->device; }

/* ---- towards the bridge */

static uint16_t next_id(struct bridge *b)
{
    struct down *d;
    do {
        b->next_id++;
        HASH_FIND(hh, b->downs, &b->next_id, sizeof b->next_id, d);
    } while (b->next_id == 0 || d);
    return b->next_id;
}

static struct down *down_find(const struct bridge *b, const struct link *l, uint16_t link_id)
{
    for (struct down *d = b->downs; d; d = d->hh.next)
        if (d->link == l && d->link_id == link_id)
            return d;
    return NULL;
}

static uint16_t remember(struct bridge *b, struct link *l, uint16_t link_id)
{
    struct down *d = cw_calloc(1, sizeof *d);
    *d = (struct down){ .link = l, .link_id = link_id, .id = next_id(b) };
    HASH_ADD(hh, b->downs, id, sizeof d->id, d);
    return d->id;
}

static bool is_full(const struct bridge *b)
{
    const struct conn5 *five = b->conn->five;
    unsigned most = five && five->receive_max < BRIDGE_UNACKED ? five->receive_max : BRIDGE_UNACKED;
    return HASH_COUNT(b->downs) >= most || conn_unsent(b->conn) > BRIDGE_UNSENT_MAX;
}

static void hold(struct bridge *b)
{
    static const struct timeval pause = { 0, AGAIN_MS * 1000L };
    if (b->held || !is_full(b))
        return;
    b->held = true;
    for (struct link *l = b->links; l; l = l->hh.next)
        event_del(l->read);
    evtimer_add(b->again, &pause);
}

/* False: the bridge does not take packets of this size; nothing is sent. */
static bool put(struct bridge *b, struct outbound *o, struct link *l, uint16_t link_id, bool dup)
{
    const struct conn5 *five = b->conn->five;
    o->level = b->conn->level;
    if (five && five->max_packet && packet_publish_size(o) > five->max_packet)
        return false;
    struct down *known = dup ? down_find(b, l, link_id) : NULL;
    if (o->qos)
        o->id = known ? known->id : remember(b, l, link_id);
    size_t at = conn_out(b->conn)->len;
    packet_put_publish(&b->conn->out, o);
    if (known)
        packet_set_dup(b->conn->out.data + at);
    return true;
}

void bridge_say(struct bridge *b, struct text device, const char *what, struct text rid,
                const char *payload)
{
    char topic[TOPIC_BYTES];
    int n = snprintf(topic, sizeof topic, "$oc/bridges/%s/devices/%.*s/sys/%s", b->id,
                     (int)device.len, device.p, what);
    if (rid.p)
        snprintf(topic + n, sizeof topic - (size_t)n, "/response/request_id=%.*s", (int)rid.len,
                 rid.p);
    struct outbound o = {
        .topic = text_of(topic), .payload = payload, .len = strlen(payload), .qos = 1
    };
    put(b, &o, NULL, 0, false);
    hold(b);
}

static void say(const struct link *l, const char *what, const char *payload)
{
    bridge_say(l->b, text_of(l->device), what, l->rid ? text_of(l->rid) : (struct text){ 0 },
               payload);
}

/* ---- towards the device's connection */

static void flush(struct link *l)
{
    ssize_t n = 1;
    size_t sent = 0;
    while (sent < l->out.len && n > 0) {
        n = send(l->fd, l->out.data + sent, l->out.len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        sent += n > 0 ? (size_t)n : 0;
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        sent = l->out.len; /* its end is read */
    l->b->queued -= sent;
    l->out.len -= sent;
    if (l->out.len) {
        memmove(l->out.data, l->out.data + sent, l->out.len);
        event_add(l->write, NULL);
    } else {
        event_del(l->write);
        if (l->out.cap > KEEP_BYTES)
            cw_buf_free(&l->out);
    }
    if (l->b->queued <= BRIDGE_QUEUED_MAX / 2)
        conn_resume(l->b->conn, PAUSE_BRIDGE);
}

/* What was added to l->out since it had `before` bytes. */
static void added(struct link *l, size_t before)
{
    l->b->queued += l->out.len - before;
    if (l->b->queued > BRIDGE_QUEUED_MAX)
        conn_pause(l->b->conn, PAUSE_BRIDGE);
    flush(l);
}

static void put_text(struct cw_buf *b, struct text t)
{
    const uint8_t len[2] = { (uint8_t)(t.len >> 8), (uint8_t)t.len };
    cw_buf_add(b, len, 2);
    cw_buf_add(b, t.p, t.len);
}

static void put_connect(struct link *l, const char *client, const char *password)
{
    int64_t keep_alive_s = l->b->gw->set.keep_alive_max_ms / 1000;
    const uint8_t head[] = {
        0, 4, 'M', 'Q', 'T', 'T', 4, 0xc2, (uint8_t)(keep_alive_s >> 8), (uint8_t)keep_alive_s
    };
    struct cw_buf body = { 0 };
    size_t before = l->out.len;
    cw_buf_add(&body, head, sizeof head);
    put_text(&body, text_of(client));
    put_text(&body, text_of(l->device));
    put_text(&body, text_of(password));
    const uint8_t first[] = { 0x10, (uint8_t)(body.len | 0x80), (uint8_t)(body.len >> 7) };
    if (body.len < 128)
        cw_buf_add(&l->out, (uint8_t[]){ 0x10, (uint8_t)body.len }, 2);
    else
        cw_buf_add(&l->out, first, sizeof first);
    cw_buf_add(&l->out, body.data, body.len);
    explicit_bzero(body.data, body.len);
    cw_buf_free(&body);
    added(l, before);
}

static void put_empty(struct link *l, uint8_t first)
{
    size_t before = l->out.len;
    cw_buf_add(&l->out, (uint8_t[]){ first, 0 }, 2);
    added(l, before);
}

void link_publish(struct link *l, struct text rest, const struct packet_publish *p)
{
    char topic[TOPIC_BYTES];
    bool sys = rest.len >= 4 && memcmp(rest.p, "sys/", 4) == 0;
    size_t before = l->out.len;
    int n = snprintf(topic, sizeof topic, "$oc/devices/%s/%s%.*s", l->device, sys ? "" : "sys/",
                     (int)rest.len, rest.p);
    struct outbound o = { .topic = { topic,
                                     (size_t)n < sizeof topic ? (size_t)n : sizeof topic - 1 },
                          .payload = p->payload,
                          .len = p->len,
                          .id = p->id,
                          .level = 4,
                          .qos = p->qos };
    packet_put_publish(&l->out, &o);
    added(l, before);
}

void link_acked(struct bridge *b, uint16_t packet_id, uint8_t reason)
{
    struct down *d;
    HASH_FIND(hh, b->downs, &packet_id, sizeof packet_id, d);
    if (!d)
        return;
    HASH_DELETE(hh, b->downs, d);
    if (d->link && reason < REASON_UNSPECIFIED) { /* 3.1.1 has no way to refuse: it is not acked */
        size_t before = d->link->out.len;
        packet_put_ack(&d->link->out, PACKET_PUBACK, d->link_id, 0);
        added(d->link, before);
    }
    free(d);
    links_go_on(b);
}

/* ---- coming and going */

static void link_free(struct link *l)
{
    struct bridge *b = l->b;
    HASH_DELETE(hh, b->links, l);
    for (struct down *d = b->downs; d; d = d->hh.next)
        if (d->link == l)
            d->link = NULL;
    b->queued -= l->out.len;
    event_free(l->read);
    event_free(l->write);
    close(l->fd);
    cw_buf_free(&l->in);
    cw_buf_free(&l->out);
    free(l->rid);
    free(l);
}

/* The gateway has ended the device's connection. */
static void gone(struct link *l)
{
    if (l->leaving)
        say(l, "logout", "{\"result_code\":0}");
    else if (l->open)
        say(l, "disconnect", "{}");
    else if (l->rid)
        say(l, "login", "{\"result_code\":1}");
    link_free(l);
}

static void on_connack(struct link *l, uint8_t code)
{
    l->open = code == 0;
    if (l->rid)
        say(l, "login", l->open ? "{\"result_code\":0}" : "{\"result_code\":1}");
    free(l->rid);
    l->rid = NULL;
}

/* What the platform sends to the device goes below the bridge's own topic. */
static void on_publish(struct link *l, const struct packet_publish *p, bool dup)
{
    char topic[TOPIC_BYTES], own[TOPIC_BYTES];
    int n = snprintf(own, sizeof own, "$oc/devices/%s/", l->device);
    if (p->topic.len <= (size_t)n || memcmp(p->topic.p, own, (size_t)n) != 0)
        return; /* it has subscribed nothing else */
    snprintf(topic, sizeof topic, "$oc/bridges/%s/devices/%s/%.*s", l->b->id, l->device,
             (int)(p->topic.len - (size_t)n), p->topic.p + n);
    struct outbound o = {
        .topic = text_of(topic), .payload = p->payload, .len = p->len, .qos = p->qos
    };
    put(l->b, &o, l, p->id, dup);
    hold(l->b);
}

/* Takes one packet off; its bytes, 0: none is whole. */
static size_t take_packet(struct link *l, const char *data, size_t len)
{
    struct packet p;
    unsigned type = len >= 2 ? (uint8_t)data[0] >> 4 : 0;
    if (type == PACKET_PINGRESP)
        return 2;
    if (type == PACKET_CONNACK) {
        if (len < 4)
            return 0;
        on_connack(l, (uint8_t)data[3]);
        return 4;
    }
    ssize_t n = len >= 2 ? packet_read(&p, 4, data, len) : 0;
    if (n <= 0)
        return 0;
    if (p.type == PACKET_PUBLISH)
        on_publish(l, &p.publish, p.publish.dup);
    else if (p.type == PACKET_PUBACK)
        packet_put_ack(conn_out(l->b->conn), PACKET_PUBACK, p.answer.id, 0);
    return (size_t)n;
}

static void take_packets(struct link *l)
{
    size_t used = 0, n;
    while (!l->b->held && (n = take_packet(l, l->in.data + used, l->in.len - used)))
        used += n;
    if (used == l->in.len)
        cw_buf_free(&l->in);
    else if (used)
        memmove(l->in.data, l->in.data + used, l->in.len -= used);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct link *l = arg;
    char some[READ_BYTES];
    (void)what;
    gateway_awake(l->b->gw);
    ssize_t n = recv(fd, some, sizeof some, MSG_DONTWAIT);
    if (n > 0) {
        cw_buf_add(&l->in, some, (size_t)n);
        take_packets(l);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        gone(l);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct link *l = arg;
    (void)fd, (void)what;
    gateway_awake(l->b->gw);
    flush(l);
}

static struct link *link_new(struct bridge *b, struct text device)
{
    int fds[2];
    char peer[PEER_LEN];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return NULL;
    struct link *l = cw_calloc(1, sizeof *l + device.len + 1);
    l->b = b;
    l->fd = fds[0];
    memcpy(l->device, device.p, device.len);
    l->read = event_new(b->gw->base, l->fd, EV_READ | EV_PERSIST, on_readable, l);
    l->write = event_new(b->gw->base, l->fd, EV_WRITE | EV_PERSIST, on_writable, l);
    if (!b->held)
        event_add(l->read, NULL);
    HASH_ADD_KEYPTR(hh, b->links, l->device, device.len, l);
    struct conn *c = conn_new(b->gw, fds[1], NULL, false);
    c->via = cw_strdup(conn_peer(b->conn, peer));
    c->secure = b->conn->secure;
    return l;
}

static bool has_room(const struct bridge *b)
{
    return HASH_COUNT(b->links) < b->gw->set.bridge_devices &&
           b->gw->n_conns < b->gw->set.max_connections;
}

static bool fits(const char *text, size_t max) { return text && strlen(text) <= max; }

void link_login(struct bridge *b, struct text device, struct text rid,
                const struct packet_publish *p)
{
    char client[DEVICE_ID_MAX + 64];
    struct cw_json_error wrong;
    json_t *said = p->len <= LOGIN_MAX ? cw_json_parse(p->payload, p->len, &wrong) : NULL;
    const char *stamp = cw_json_text(said, "timestamp"), *password = cw_json_text(said, "password");
    json_int_t sign = json_integer_value(json_object_get(said, "sign_type"));
    struct link *l = link_find(b, device);
    if (l)
        link_free(l); /* its session is taken over by the new one */
    bool fine = fits(stamp, 20) && fits(password, 256) && sign >= 0 && sign <= 9 && has_room(b);
    l = fine ? link_new(b, device) : NULL;
    if (l) {
        l->rid = cw_strndup(rid.p, rid.len);
        snprintf(client, sizeof client, "%s_0_%lld_%s", l->device, (long long)sign, stamp);
        put_connect(l, client, password);
    } else
        bridge_say(b, device, "login", rid, "{\"result_code\":1}");
    json_decref(said);
}

void link_logout(struct link *l, struct text rid)
{
    free(l->rid);
    l->rid = cw_strndup(rid.p, rid.len);
    l->leaving = true;
    put_empty(l, 0xe0);
}

/* ---- all of them */

void links_ping(struct bridge *b)
{
    for (struct link *l = b->links; l; l = l->hh.next)
        if (l->open)
            put_empty(l, 0xc0);
}

void links_go_on(struct bridge *b)
{
    static const struct timeval pause = { 0, AGAIN_MS * 1000L };
    struct link *l, *next;
    if (!b->held)
        return;
    if (is_full(b)) {
        if (!evtimer_pending(b->again, NULL))
            evtimer_add(b->again, &pause);
        return;
    }
    b->held = false;
    HASH_ITER(hh, b->links, l, next)
    {
        event_add(l->read, NULL);
        if (l->in.len)
            take_packets(l);
        if (b->held)
            return; /* hold() has taken their events away again */
    }
}

void links_free(struct bridge *b)
{
    while (b->links)
        link_free(b->links); /* NOLINT: uthash takes it out of the table */
    for (struct down *d; (d = b->downs);) {
        HASH_DELETE(hh, b->downs, d); /* NOLINT: as above */
        free(d);
    }
}
