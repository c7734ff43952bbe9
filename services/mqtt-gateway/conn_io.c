/* Bytes of a connection, in and out, and when they flow. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "services/mqtt-gateway/conn.h"
#include "services/mqtt-gateway/rate.h"
#include "services/mqtt-gateway/session.h"

#define HANDSHAKE_TURN_US 4000
#define OUT_PAUSE_BYTES   (64U << 10) /* a peer that does not read its answers is not read either */
#define OUT_KEEP_BYTES    256         /* memory that an idle connection may keep */

/* ---- reading */

void conn_count_pauses(struct conn *c, unsigned reasons, int delta)
{
    static const uint8_t of[THROTTLES] = { [THROTTLE_RATE] = PAUSE_RATE,
                                           [THROTTLE_BACKLOG] = PAUSE_BLOCKED,
                                           [THROTTLE_OUTPUT] = PAUSE_OUTPUT };
    for (int i = 0; i < THROTTLES; i++)
        if (reasons & of[i]) {
            cw_metric_add(c->gw->m.paused[i], delta);
            cw_metric_add(c->gw->m.pauses[i], delta > 0);
        }
}

void conn_pause(struct conn *c, unsigned reason)
{
    if (c->state == CONN_CLOSED)
        return;
    if (!c->pauses)
        event_del(&c->read);
    if (!(c->pauses & reason))
        conn_count_pauses(c, reason, 1);
    c->pauses |= (uint8_t)reason;
}

void conn_resume(struct conn *c, unsigned reason)
{
    if (!(c->pauses & reason))
        return;
    c->pauses &= (uint8_t)~reason;
    conn_count_pauses(c, reason, -1);
    if (c->pauses || !conn_listens(c->state))
        return;
    c->heard_ms = cw_mono_ms(); /* what came meanwhile waits in the socket */
    event_add(&c->read, NULL);
    if (c->in.len || socket_has_more(c))
        event_active(&c->read, EV_READ, 0);
    conn_arm(c);
}

/* Handles whole packets until a pause; how many bytes they were. */
static size_t take_packets(struct conn *c, const char *data, size_t len)
{
    size_t used = 0;
    while (used < len && !c->pauses && conn_listens(c->state)) {
        struct packet p;
        ssize_t n = packet_read(&p, c->level, data + used, len - used);
        if (n == 0)
            break;
        if (n > 0 && !conn_takes(c->state, p.type)) {
            p.fault = "a packet that may not come now";
            p.reason = REASON_PROTOCOL;
            n = -EPROTO;
        }
        if (n < 0) {
            frame_refuse(c, &p, (int)n);
            break;
        }
        used += (size_t)n;
        frame_handle(c, &p);
    }
    if (used)
        c->packet_ms = 0;
    if (used < len && !c->packet_ms)
        c->packet_ms = cw_mono_ms();
    return used;
}

static void take_bytes(struct conn *c, const char *data, size_t len)
{
    bool kept = c->in.len > 0;
    if (kept) {
        cw_buf_add(&c->in, data, len);
        data = c->in.data;
        len = c->in.len;
    }
    size_t used = take_packets(c, data, len);
    if (!kept && used < len && c->state != CONN_CLOSED)
        cw_buf_add(&c->in, data + used, len - used);
    else if (kept && used == len)
        cw_buf_free(&c->in);
    else if (kept && used) {
        memmove(c->in.data, c->in.data + used, len - used);
        c->in.len = len - used;
    }
}

/* What came from the socket: MQTT, or frames that hold it. */
static void take_wire(struct conn *c, char *data, size_t len)
{
    struct ws_piece piece;
    if (!c->ws) {
        take_bytes(c, data, len);
        return;
    }
    for (size_t at = 0; at < len && c->state != CONN_CLOSED && c->state != CONN_CLOSING;) {
        ssize_t n = ws_decode(c->ws, data + at, len - at, &piece);
        if (n < 0) {
            conn_part(c, n == -ESHUTDOWN ? "connection_lost" : "protocol_error");
            return;
        }
        at += (size_t)n;
        if (piece.len)
            take_bytes(c, piece.p, piece.len);
    }
    if (ws_wire(c->ws)->len)
        conn_out(c);
}

/* The request of a WebSocket; what comes behind it are frames already. */
static void upgrade(struct conn *c, const char *data, size_t len)
{
    cw_buf_add(&c->in, data, len);
    ssize_t n = ws_upgrade(c->ws, c->in.data, c->in.len);
    if (n == 0)
        return;
    conn_out(c);
    if (n < 0) {
        conn_last_word(c);
        return;
    }
    struct cw_buf rest = c->in;
    c->in = (struct cw_buf){ 0 };
    conn_move(c, ON_UPGRADED);
    take_wire(c, rest.data + n, rest.len - (size_t)n);
    cw_buf_free(&rest);
}

static void read_some(struct conn *c)
{
    bool upgrading = c->state == CONN_UPGRADING;
    if (c->in.len && !upgrading)
        take_bytes(c, NULL, 0); /* what a pause left over */
    if (c->pauses || (!conn_listens(c->state) && !upgrading)) {
        conn_arm(c);
        return;
    }
    ssize_t n = socket_read(c, c->gw->scratch, SCRATCH_BYTES);
    if (n < 0) {
        conn_end(c, "connection_lost");
        return;
    }
    if (n == 0)
        return;
    c->heard_ms = cw_mono_ms();
    if (!c->bridge) /* each of its devices has a limit of its own */
        rate_spend(&c->bytes_due_us, c->heard_ms * 1000, n, c->gw->set.bandwidth_bytes);
    if (upgrading)
        upgrade(c, c->gw->scratch, (size_t)n);
    else
        take_wire(c, c->gw->scratch, (size_t)n);
    if (c->state == CONN_OPEN && c->session && rate_wait_ms(c->bytes_due_us, c->heard_ms * 1000)) {
        session_too_fast(c->session, true);
        conn_pause(c, PAUSE_RATE);
    }
    if (!c->pauses && c->state == CONN_OPEN && socket_has_more(c))
        event_active(&c->read, EV_READ, 0);
    conn_arm(c);
}

/* A handshake costs as much as a hundred reports. In a storm of new connections those that are let
 * in would wait behind all of it: so a turn of the loop does a few, the others come again in the
 * next. */
static bool handshake_put_off(struct gateway *gw)
{
    if (gw->handshake_us < HANDSHAKE_TURN_US)
        return false;
    gw->put_off = true;
    cw_metric_add(gw->m.handshakes_put_off, 1);
    return true;
}

static int handshake(struct conn *c, bool *wants_write)
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int rc = socket_secure(c, wants_write);
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (c->gw->handshake_us == 0)
        event_active(c->gw->later, 0, 0); /* ends the turn */
    c->gw->handshake_us +=
        1 + (to.tv_sec - from.tv_sec) * INT64_C(1000000) + (to.tv_nsec - from.tv_nsec) / 1000;
    return rc;
}

static void secure(struct conn *c)
{
    bool wants_write = false;
    if (handshake_put_off(c->gw))
        return; /* its socket stays ready */
    int rc = handshake(c, &wants_write);
    if (rc == 0) {
        conn_move(c, c->ws ? ON_SECURED_WS : ON_SECURED);
        read_some(c);
    } else if (rc != -EAGAIN)
        conn_end(c, "tls_failed");
    else if (wants_write)
        event_add(&c->write, NULL);
}

void conn_on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)fd, (void)what;
    gateway_awake(c->gw);
    if (c->state == CONN_SECURING)
        secure(c);
    else if (c->state == CONN_CLOSING) {
        if (socket_read(c, c->gw->scratch, SCRATCH_BYTES) < 0)
            conn_end(c, "closed");
    } else if (!c->pauses && c->session && session_blocked(c->session))
        session_hold(c->session);
    else if (!c->pauses)
        read_some(c);
}

/* ---- writing */

size_t conn_unsent(const struct conn *c) { return c->out.len + (c->ws ? ws_wire(c->ws)->len : 0); }

static void sent_all(struct conn *c, struct cw_buf *out)
{
    if (out->cap > OUT_KEEP_BYTES)
        cw_buf_free(out);
    event_del(&c->write);
    c->stalled_ms = 0;
    if (c->state == CONN_CLOSING)
        socket_shut(c);
    conn_resume(c, PAUSE_OUTPUT);
}

/* What is to be written, framed if it must be. */
static struct cw_buf *outgoing(struct conn *c)
{
    if (!c->ws)
        return &c->out;
    ws_wrap(c->ws, &c->out, false);
    return ws_wire(c->ws);
}

void conn_flush(struct conn *c)
{
    struct cw_buf *out = outgoing(c);
    size_t sent = 0;
    ssize_t n = 0;
    while (sent < out->len && (n = socket_write(c, out->data + sent, out->len - sent)) > 0)
        sent += (size_t)n;
    if (n < 0) {
        conn_end(c, "connection_lost");
        return;
    }
    out->len -= sent;
    if (out->len == 0) {
        sent_all(c, out);
        return;
    }
    memmove(out->data, out->data + sent, out->len);
    if (sent || !c->stalled_ms)
        c->stalled_ms = cw_mono_ms();
    event_add(&c->write, NULL);
    if (out->len > OUT_PAUSE_BYTES)
        conn_pause(c, PAUSE_OUTPUT);
    conn_arm(c);
}

void conn_on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)fd, (void)what;
    gateway_awake(c->gw);
    if (c->state == CONN_SECURING) {
        if (handshake_put_off(c->gw))
            return;
        event_del(&c->write);
        secure(c);
    } else
        conn_flush(c);
}

struct cw_buf *conn_out(struct conn *c)
{
    if (!c->is_dirty && c->state != CONN_CLOSED) {
        if (LIST_EMPTY(&c->gw->dirty))
            event_active(c->gw->later, 0, 0);
        c->is_dirty = true;
        LIST_INSERT_HEAD(&c->gw->dirty, c, dirty);
    }
    return &c->out;
}
