#include "services/mqtt-gateway/conn.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "services/mqtt-gateway/auth.h"
#include "services/mqtt-gateway/bridge.h"
#include "services/mqtt-gateway/rate.h"
#include "services/mqtt-gateway/session.h"

#define LINGER_MS 1000
#define TO(s)     ((s) + 1) /* keeps 0, the empty cell, for "not allowed" */
#define BIT(t)    (1U << PACKET_##t)

static const uint8_t next_state[CONN_STATES][ON_COUNT] = {
    [CONN_SECURING] = { [ON_SECURED] = TO(CONN_GREETING),
                        [ON_SECURED_WS] = TO(CONN_UPGRADING),
                        [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_UPGRADING] = { [ON_UPGRADED] = TO(CONN_GREETING),
                         [ON_LAST_WORD] = TO(CONN_CLOSING),
                         [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_GREETING] = { [ON_CONNECT] = TO(CONN_CHECKING),
                        [ON_LAST_WORD] = TO(CONN_CLOSING),
                        [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_CHECKING] = { [ON_ACCEPTED] = TO(CONN_OPEN),
                        [ON_LAST_WORD] = TO(CONN_CLOSING),
                        [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_OPEN] = { [ON_LEAVE] = TO(CONN_LEAVING),
                    [ON_LAST_WORD] = TO(CONN_CLOSING),
                    [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_LEAVING] = { [ON_LAST_WORD] = TO(CONN_CLOSING), [ON_GONE] = TO(CONN_CLOSED) },
    [CONN_CLOSING] = { [ON_GONE] = TO(CONN_CLOSED) },
};

static const struct {
    const char *name;
    uint32_t takes;
} states[CONN_STATES] = {
    [CONN_SECURING] = { "securing", 0 },
    [CONN_UPGRADING] = { "upgrading", 0 },
    [CONN_GREETING] = { "greeting", BIT(CONNECT) },
    [CONN_CHECKING] = { "checking", 0 },
    [CONN_OPEN] = { "open", BIT(PUBLISH) | BIT(PUBACK) | BIT(SUBSCRIBE) | BIT(UNSUBSCRIBE) |
                                BIT(PINGREQ) | BIT(DISCONNECT) },
    [CONN_LEAVING] = { "leaving", 0 },
    [CONN_CLOSING] = { "closing", 0 },
    [CONN_CLOSED] = { "closed", 0 },
};

int conn_next(enum conn_state from, enum conn_event ev)
{
    int to = next_state[from][ev];
    return to ? to - 1 : -EPROTO;
}

bool conn_takes(enum conn_state state, enum packet_type type)
{
    return states[state].takes >> type & 1;
}

bool conn_listens(enum conn_state state) { return states[state].takes; }

const char *conn_state_name(enum conn_state state) { return states[state].name; }

void conn_move(struct conn *c, enum conn_event ev)
{
    int to = conn_next(c->state, ev);
    if (to < 0)
        abort(); /* a mistake in the source: every caller asks for what its state allows */
    c->state = (uint8_t)to;
    c->since_ms = cw_mono_ms();
}

/* ---- what is due next on a connection, and what it means */

struct limit {
    int64_t at_ms;
    const char *cause; /* NULL: the pause for the rate is over */
    bool silence;      /* a verdict on what was not heard */
};

static void sooner(struct limit *l, int64_t at_ms, const char *cause)
{
    if (at_ms < l->at_ms)
        *l = (struct limit){ .at_ms = at_ms, .cause = cause };
}

static struct limit next_limit(const struct conn *c, int64_t now_ms)
{
    const struct gateway_settings *set = &c->gw->set;
    struct limit l = { .at_ms = INT64_MAX };
    if (c->state == CONN_SECURING || c->state == CONN_UPGRADING || c->state == CONN_GREETING)
        sooner(&l, c->since_ms + set->connect_ms, "no_connect");
    if (c->state == CONN_LEAVING)
        sooner(&l, c->since_ms + set->leave_ms, "leave");
    if (c->state == CONN_CLOSING)
        sooner(&l, c->since_ms + LINGER_MS, "linger");
    if (c->state == CONN_OPEN && !c->pauses) {
        sooner(&l, c->heard_ms + c->keep_alive_ms, "keep_alive");
        if (c->packet_ms)
            sooner(&l, c->packet_ms + set->packet_ms, "slow_packet");
        l.silence = true;
    }
    if (c->stalled_ms)
        sooner(&l, c->stalled_ms + set->write_ms, "slow_peer");
    if (c->pauses & PAUSE_RATE) {
        int64_t wait_ms = rate_wait_ms(c->messages_due_us, now_ms * 1000);
        int64_t more_ms = rate_wait_ms(c->bytes_due_us, now_ms * 1000);
        sooner(&l, now_ms + (wait_ms > more_ms ? wait_ms : more_ms), NULL);
    }
    return l;
}

/* The timer is moved only when it would come too late: most packets do not touch it. */
void conn_arm(struct conn *c)
{
    int64_t now_ms = cw_mono_ms(), at_ms = next_limit(c, now_ms).at_ms;
    if (c->state == CONN_CLOSED || at_ms == INT64_MAX || (c->timer_ms && c->timer_ms <= at_ms))
        return;
    int64_t wait_ms = at_ms > now_ms ? at_ms - now_ms : 0;
    c->timer_ms = at_ms;
    struct timeval wait = { wait_ms / 1000, wait_ms % 1000 * 1000 };
    evtimer_add(&c->timer, &wait);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;
    (void)fd, (void)what;
    gateway_awake(c->gw);
    c->timer_ms = 0;
    struct limit l = next_limit(c, cw_mono_ms());
    if (l.at_ms > cw_mono_ms())
        conn_arm(c);
    else if (l.silence && c->session && session_blocked(c->session)) {
        c->heard_ms = cw_mono_ms(); /* it may have spoken: nobody listens at present */
        c->packet_ms = c->packet_ms ? c->heard_ms : 0;
        conn_arm(c);
    } else if (l.cause)
        conn_dismiss(c, l.cause, conn_reason(l.cause), NULL);
    else
        conn_resume(c, PAUSE_RATE);
}

/* ---- coming and going */

struct conn *conn_new(struct gateway *gw, int fd, SSL *ssl, bool web)
{
    struct conn *c = cw_calloc(1, sizeof *c);
    c->gw = gw;
    c->fd = fd;
    c->ssl = ssl;
    c->secure = ssl != NULL;
    c->ws = web ? ws_new() : NULL;
    c->state = ssl ? CONN_SECURING : web ? CONN_UPGRADING : CONN_GREETING;
    c->since_ms = c->heard_ms = cw_mono_ms();
    event_assign(&c->read, gw->base, fd, EV_READ | EV_PERSIST, conn_on_readable, c);
    event_assign(&c->write, gw->base, fd, EV_WRITE | EV_PERSIST, conn_on_writable, c);
    evtimer_assign(&c->timer, gw->base, on_timer, c);
    event_add(&c->read, NULL);
    LIST_INSERT_HEAD(&gw->conns, c, link);
    gw->n_conns++;
    cw_metric_add(gw->m.connections, 1);
    cw_metric_add(gw->m.accepted, 1);
    conn_arm(c);
    return c;
}

void conn_await(struct conn *c)
{
    conn_move(c, ON_CONNECT);
    conn_pause(c, PAUSE_CHECK);
}

void conn_accept(struct conn *c, struct session *s, bool present)
{
    c->session = s;
    if (c->five)
        packet_put_connack5(conn_out(c), REASON_SUCCESS, present);
    else
        packet_put_connack(conn_out(c), 0, present);
    conn_move(c, ON_ACCEPTED);
    conn_resume(c, PAUSE_CHECK);
    conn_arm(c);
}

void conn_refuse(struct conn *c, uint8_t code)
{
    if (c->five) {
        conn_refuse5(c, conn_refusal(code));
        return;
    }
    packet_put_connack(conn_out(c), code, false);
    conn_last_word(c);
}

void conn_refuse5(struct conn *c, enum reason reason)
{
    packet_put_connack5(conn_out(c), (uint8_t)reason, false);
    conn_last_word(c);
}

void conn_leave(struct conn *c)
{
    conn_move(c, ON_LEAVE);
    conn_pause(c, PAUSE_LEAVE);
    conn_arm(c);
}

void conn_last_word(struct conn *c)
{
    conn_move(c, ON_LAST_WORD);
    if (c->five && c->reason)
        packet_put_disconnect(conn_out(c), c->reason, NULL);
    conn_out(c);
    if (c->ws)
        ws_wrap(c->ws, &c->out, true);
    event_add(&c->read, NULL); /* to see the peer's end; closing on unread bytes would reset */
    conn_arm(c);
}

void conn_part(struct conn *c, const char *cause)
{
    struct session *s = c->session;
    c->session = NULL;
    conn_last_word(c);
    if (s)
        session_lost(s, cause);
    if (c->bridge)
        bridge_gone(c);
}

void conn_end(struct conn *c, const char *cause)
{
    struct session *s = c->session;
    if (c->state == CONN_CLOSED)
        return;
    cw_log(CW_DEBUG, "connection_end", "state=%s cause=%s after_ms=%lld", conn_state_name(c->state),
           cause, (long long)(cw_mono_ms() - c->since_ms));
    conn_move(c, ON_GONE);
    conn_count_pauses(c, c->pauses, -1);
    c->pauses = 0;
    event_del(&c->read);
    event_del(&c->write);
    event_del(&c->timer);
    if (c->is_dirty)
        LIST_REMOVE(c, dirty);
    c->is_dirty = false;
    socket_close(c);
    if (LIST_EMPTY(&c->gw->dead))
        event_active(c->gw->later, 0, 0);
    LIST_REMOVE(c, link);
    LIST_INSERT_HEAD(&c->gw->dead, c, link);
    c->gw->n_conns--;
    cw_metric_add(c->gw->m.connections, -1);
    auth_forget(c);
    c->session = NULL;
    if (s)
        session_lost(s, cause);
    if (c->bridge)
        bridge_gone(c);
}

char *conn_peer(const struct conn *c, char out[PEER_LEN])
{
    struct sockaddr_storage at = { 0 }; /* a peer without a name fills in its family only */
    socklen_t len = sizeof at;
    char host[48], port[8];
    if (c->via)
        snprintf(out, PEER_LEN, "%s", c->via);
    else if (getpeername(c->fd, (struct sockaddr *)&at, &len) < 0 ||
             getnameinfo((struct sockaddr *)&at, len, host, sizeof host, port, sizeof port,
                         NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, PEER_LEN, "gone");
    else
        snprintf(out, PEER_LEN, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return out;
}

static void free_dead(struct gateway *gw)
{
    for (struct conn *c; (c = LIST_FIRST(&gw->dead));) {
        LIST_REMOVE(c, link);
        cw_buf_free(&c->in);
        cw_buf_free(&c->out);
        free(c->via);
        conn_five_free(c);
        ws_free(&c->ws);
        free(c);
    }
}

void conns_later(struct gateway *gw)
{
    gw->behind = gw->put_off;
    gw->put_off = false;
    gw->handshake_us = 0;
    for (struct conn *c; (c = LIST_FIRST(&gw->dirty));) {
        LIST_REMOVE(c, dirty);
        c->is_dirty = false;
        conn_flush(c);
    }
    free_dead(gw);
}

void conns_drain(struct gateway *gw)
{
    for (struct conn *c = LIST_FIRST(&gw->conns), *next; c; c = next) {
        next = LIST_NEXT(c, link);
        if (c->session)
            session_leave(c->session, "drain");
        else if (c->state != CONN_CLOSING)
            conn_end(c, "drain");
    }
}

void conns_free(struct gateway *gw)
{
    for (struct conn *c; (c = LIST_FIRST(&gw->conns));)
        conn_end(c, "end");
    free_dead(gw);
}
