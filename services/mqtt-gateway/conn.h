/* conn.h - one connection: its socket, its buffers, its pauses and limits. A session hangs on it
 * once the device is let in. */
#pragma once

#include <openssl/ssl.h>

#include "services/mqtt-gateway/gateway.h"
#include "services/mqtt-gateway/packet.h"
#include "services/mqtt-gateway/ws.h"

enum conn_state {
    CONN_SECURING,  /* TLS handshake */
    CONN_UPGRADING, /* the request of a WebSocket is awaited */
    CONN_GREETING,  /* CONNECT is awaited */
    CONN_CHECKING,  /* the registry is asked */
    CONN_OPEN,
    CONN_LEAVING, /* no longer read; waits until its frames are in the log */
    CONN_CLOSING, /* last bytes go out, then the peer's end is awaited for a moment */
    CONN_CLOSED,  /* freed at the end of this turn of the loop */
    CONN_STATES,
};

enum conn_event {
    ON_SECURED,
    ON_SECURED_WS, /* a WebSocket inside */
    ON_UPGRADED,
    ON_CONNECT,
    ON_ACCEPTED,
    ON_LEAVE,
    ON_LAST_WORD,
    ON_GONE,
    ON_COUNT,
};

/* Reasons not to read; read when there is none. No keep-alive verdict while there is one. */
enum {
    PAUSE_CHECK = 1,
    PAUSE_TAKEOVER = 2,
    PAUSE_RATE = 4,
    PAUSE_BLOCKED = 8,
    PAUSE_OUTPUT = 16,
    PAUSE_LEAVE = 32,
    PAUSE_BRIDGE = 64, /* its devices are slower than it */
};

struct auth_entry;

#define ALIASES_MAX 100 /* topics that one connection may have aliases for */

/* What a connection of MQTT 5 has besides. */
struct conn5 {
    uint32_t max_packet;  /* that the device takes; 0: any */
    uint16_t receive_max; /* QoS 1 on their way to it at once */
    uint16_t n_aliases;
    struct alias {
        char *topic;
        uint16_t alias;
    } * aliases;
};

struct conn {
    LIST_ENTRY(conn) link, dirty;
    struct gateway *gw;
    SSL *ssl;      /* NULL: plain */
    struct ws *ws; /* NULL: MQTT itself */
    struct session *session;
    struct bridge *bridge; /* instead of a session */
    struct auth_entry *auth;
    char *via; /* the peer, when the socket cannot tell: of a bridge, an entry, with TLS; or NULL */
    struct event read, write, timer;
    struct cw_buf in, out;
    int64_t since_ms;                      /* in this state */
    int64_t heard_ms;                      /* last byte */
    int64_t packet_ms;                     /* when the packet at hand began, 0: none */
    int64_t stalled_ms;                    /* since when out does not shrink, 0: empty */
    int64_t timer_ms;                      /* when timer fires, 0: not armed */
    int64_t messages_due_us, bytes_due_us; /* rate.h */
    int64_t keep_alive_ms;                 /* one and a half of what the device stated */
    struct conn5 *five;                    /* NULL: an older version */
    int fd;
    uint8_t state, pauses;
    uint8_t level;  /* of its CONNECT, 0 before it */
    uint8_t reason; /* of the DISCONNECT that is its last word, with MQTT 5; 0: none */
    bool is_dirty;
    bool secure; /* over TLS, or behind a bridge that is */
};

/* Takes fd (and ssl). web: a WebSocket is to be opened first. Borrowed: it may end at any time. */
struct conn *conn_new(struct gateway *gw, int fd, SSL *ssl, bool web);
/* Bytes that wait to be written. */
size_t conn_unsent(const struct conn *c);

/* The state after ev, or -EPROTO. */
int conn_next(enum conn_state from, enum conn_event ev);
/* True if a packet of this type may come now. */
bool conn_takes(enum conn_state state, enum packet_type type);
bool conn_listens(enum conn_state state); /* to packets, of whatever type */
const char *conn_state_name(enum conn_state state);
/* The only place that changes a state. */
void conn_move(struct conn *c, enum conn_event ev);
/* Sees to it that the timer fires for whatever is due next. */
void conn_arm(struct conn *c);

/* conn_five.c */
void conn_five_free(struct conn *c);
enum reason conn_refusal(uint8_t code); /* of a CONNACK code of 3.1.1 */

/* conn_io.c: the events of the socket, and what they lead to. */
void conn_on_readable(evutil_socket_t fd, short what, void *conn);
/* Goes on with the handshake, or with what waits to be written. */
void conn_on_writable(evutil_socket_t fd, short what, void *conn);
/* Writes what the socket takes; may end c. A peer that leaves 64 KB unread is not read either. */
void conn_flush(struct conn *c);

/* What is added is written at the end of this turn of the loop. */
struct cw_buf *conn_out(struct conn *c);
/* One PAUSE_… of those above; each is there or not, however often it was given. */
void conn_pause(struct conn *c, unsigned reason);
/* Without any reason left it is read again, and its silence begins anew: nobody listened. */
void conn_resume(struct conn *c, unsigned reason);

/* Counts pauses that begin or end, by their reasons, for /metrics. */
void conn_count_pauses(struct conn *c, unsigned reasons, int delta);

/* CONNECT has come and is being checked. */
void conn_await(struct conn *c);
/* CONNACK 0; the session hangs on the connection from now on. */
void conn_accept(struct conn *c, struct session *s, bool present);
/* CONNACK code (of 3.1.1; MQTT 5 has its own for each), then the end. */
void conn_refuse(struct conn *c, uint8_t code);
/* CONNACK with a reason of MQTT 5, to a peer that speaks it, then the end. */
void conn_refuse5(struct conn *c, enum reason reason);
/* CONNECT was read: what MQTT 5 says in it. */
void conn_speak(struct conn *c, const struct packet_connect *connect);
/* The reason of MQTT 5 for the cause of an end. */
enum reason conn_reason(const char *cause);
/* Ends it for something that the device did: with MQTT 5 it is told, by DISCONNECT, which (text for
 * a person, or NULL). */
void conn_dismiss(struct conn *c, const char *cause, enum reason reason, const char *text);
/* Replaces an alias of MQTT 5 by its topic, or takes it up; NULL or why not (*reason says it too).
 */
const char *conn_alias(struct conn *c, struct packet_publish *pub, enum reason *reason);
/* Reads no more; conn_last_word() or leave_ms ends it. */
void conn_leave(struct conn *c);
/* Writes what waits, then closes. */
void conn_last_word(struct conn *c);
/* Writes what waits, and the Close of a WebSocket, then closes; a session ends with this cause now.
 */
void conn_part(struct conn *c, const char *cause);
/* Closes at once; a session ends with this cause. c is gone at the end of this turn of the loop. */
void conn_end(struct conn *c, const char *cause);

#define PEER_LEN 64
/* "address:port" of the peer, IPv6 in brackets; "gone" when it is. */
char *conn_peer(const struct conn *c, char out[PEER_LEN]);

/* At the end of a turn of the loop (gateway.later). */
void conns_later(struct gateway *gw);
/* Closes all without a session, asks those with one to leave. */
void conns_drain(struct gateway *gw);
void conns_free(struct gateway *gw); /* at the end of the process */

/* socket.c. Bytes; 0: nothing now; -ECONNRESET: the end; -EPROTO: TLS failed. */
ssize_t socket_read(struct conn *c, void *to, size_t size);
/* How many of them were taken; TLS wants the same bytes again after a 0. */
ssize_t socket_write(struct conn *c, const void *from, size_t len);
/* 0: done, -EAGAIN: goes on when readable (or writable, if *wants_write), -EPROTO. */
int socket_secure(struct conn *c, bool *wants_write);
bool socket_has_more(const struct conn *c); /* TLS has decrypted more than was read */
void socket_shut(struct conn *c);           /* nothing more will be written */
void socket_close(struct conn *c);

/* frames.c: handles one packet of an open or greeting connection. */
void frame_handle(struct conn *c, struct packet *p);
/* Ends a connection whose bytes were refused by packet_read(). */
void frame_refuse(struct conn *c, const struct packet *p, int rc);
