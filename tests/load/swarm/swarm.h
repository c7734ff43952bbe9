/* swarm.h - many MQTT devices in one process: connects them, publishes, counts every PUBACK. Knows
 * nothing of the platform's code: what it speaks is written from the standards, MQTT 3.1.1 and 5,
 * RFC 6455. */
#pragma once
#include "../measure.h"

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum swarm_exit {
    SWARM_OK = 0,
    SWARM_UNACKED = 1, /* a PUBACK is missing */
    SWARM_USAGE = 2,
    SWARM_REFUSED = 3, /* a connection was refused or lost */
};

struct options {
    char *host, *devices, *service, *acked, *stamp, *kind, *ca;
    long port, count, connect_rate, connecting, rate, window, payload, qos, sign_type, sources;
    long duration_s, messages, keep_alive_s, timeout_s, first_seq, churn;
    bool tls, ws, mqtt5, resume, reconnect, hold, answer, json, quiet;
};

/* Fills *o from the command line, see options_read(). */
void swarm_options(struct options *o, int argc, char **argv);

/* ---- counters */
struct stats {
    uint64_t connected, refused[256], lost, failed, sent, acked, abandoned, down, answered, held;
    uint64_t churned, resumed;
    uint64_t unknown_ack, disordered_ack, bytes_out;
    struct histogram ack, connack;
    int64_t start_us, first_connack_us, last_connack_us, first_sent_us, last_acked_us, stop_us;
};
void stats_live(const struct stats *s, uint64_t outstanding, size_t devices);
void stats_final(const struct stats *s, const struct options *o, uint64_t outstanding,
                 size_t devices);
uint64_t stats_refused(const struct stats *s);

/* ---- one device */
enum state { DEV_IDLE, DEV_TCP, DEV_TLS, DEV_CONNACK, DEV_UP, DEV_ENDED };

struct slot { /* a publish that waits for its PUBACK */
    int64_t sent_us;
    uint64_t seq;
    uint16_t packet_id; /* 0: free */
};

struct device {
    char *id, *secret;
    int fd;
    SSL *ssl; /* NULL: plain */
    SSL_SESSION *ticket;
    enum state state;
    bool want_write;
    bool ws, mqtt5;    /* as the options say */
    bool upgrading;    /* the answer to the request of the WebSocket is awaited */
    size_t frame_left; /* of the frame of the WebSocket at hand */
    uint16_t next_packet_id;
    unsigned outstanding, tries;
    uint64_t next_seq, last_acked, published;
    int64_t connect_us, retry_us, out_us;
    struct slot *slots;
    unsigned char *in, *out;
    size_t in_len, in_size, out_len, out_size;
};

struct packet {
    unsigned char type; /* the first byte */
    const unsigned char *body;
    size_t len;
};

struct swarm {
    struct options o;
    struct stats stats;
    struct device *devices;
    SSL_CTX *tls;
    size_t count, next_connect, cursor, connecting, up, ended, churn_at;
    uint64_t outstanding, slot_mask;
    double connect_tokens, send_tokens, churn_tokens;
    int64_t last_tick_us, stop_at_us, give_up_us;
    int epoll;
    bool publishing, stopping;
    FILE *acked;
};

/* Reads "device_id secret" lines; returns how many (at most o->count when it is not 0). */
size_t devices_load(struct swarm *w);
/* Starts a connection. Failures are counted and, with --reconnect, tried again later. */
void device_connect(struct swarm *w, struct device *d);
/* What epoll said about d. */
void device_event(struct swarm *w, struct device *d, uint32_t events);
/* The connection is over. With --reconnect what was not acknowledged is given up, never repeated:
 * so a report that the platform has twice was doubled by the platform. */
void device_ended(struct swarm *w, struct device *d);
/* What arrived; may end the connection. */
void device_packet(struct swarm *w, struct device *d, const struct packet *p);
/* Publishes until the window is full; the caller flushes. */
void device_fill(struct swarm *w, struct device *d);
/* Publishes one report; the caller flushes. false: not connected, window full, or told to stop. */
bool device_publish(struct swarm *w, struct device *d);
/* Writes what waits in d->out. */
void device_flush(struct swarm *w, struct device *d);
void device_disconnect(struct swarm *w, struct device *d);
/* Cuts the connection of a device that is up; it comes back like one that was lost. */
void device_churn(struct swarm *w, struct device *d);
/* Sends a PINGREQ if nothing was sent for half of the keep-alive. */
void device_keep_alive(struct swarm *w, struct device *d, int64_t now);

/* ---- bytes of a connection, plain or TLS (tls.c) */
/* Makes w->tls; ends the process with SWARM_USAGE when the CA file cannot be read. */
void tls_prepare(struct swarm *w);
void tls_begin(struct swarm *w, struct device *d);
/* 1: done, 0: wants to be called again, -1: failed. *write: it waits for room to write. */
int tls_handshake(struct swarm *w, struct device *d, bool *write);
/* Frees d->ssl; keeps a ticket with --resume. */
void tls_end(struct swarm *w, struct device *d);
/* Like send() and recv(): bytes, 0 at the end, -1 with errno (EAGAIN: later). */
ssize_t io_send(struct device *d, const void *data, size_t len);
ssize_t io_recv(struct device *d, void *data, size_t len);

/* ---- MQTT packets: each appends to d->out, in a frame of its own over a WebSocket */
void mqtt_upgrade(struct device *d, const struct options *o);
void mqtt_connect(struct device *d, const struct options *o);
void mqtt_publish(struct device *d, const char *topic, const void *payload, size_t len, int qos,
                  uint16_t packet_id);
void mqtt_puback(struct device *d, uint16_t packet_id);
void mqtt_plain(struct device *d, unsigned char type); /* PINGREQ 0xc0, DISCONNECT 0xe0 */

/* Takes one packet off data, or what is around packets: then p->len is 0 and p->type too. Returns
 * its length, 0 when it is not complete, -1 when malformed. */
long mqtt_next(struct device *d, const unsigned char *data, size_t len, struct packet *p);
