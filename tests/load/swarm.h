/* swarm.h - many MQTT 3.1.1 devices in one process: connects them, publishes, counts every PUBACK.
 * Knows nothing of the platform's code: what it speaks is written from the MQTT 3.1.1 standard. */
#pragma once
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
    char *host, *devices, *service, *acked, *stamp, *kind;
    long port, count, connect_rate, connecting, rate, window, payload, qos, sign_type;
    long duration_s, messages, keep_alive_s, timeout_s, first_seq;
    bool reconnect, hold, answer, json, quiet;
};

/* Fills *o from the command line; on --help prints the table and ends the process with 0, on a
 * mistake says which and ends it with SWARM_USAGE. */
void options_read(struct options *o, int argc, char **argv);

/* ---- histogram: microseconds, each value kept to 1.6 % */
#define HIST_BUCKETS 2048
struct histogram {
    uint64_t n, max_us, bucket[HIST_BUCKETS];
};
void hist_add(struct histogram *h, uint64_t us);
/* The value below which `part` (0..1) of all lie; 0 when there are none. */
uint64_t hist_at(const struct histogram *h, double part);

/* ---- counters */
struct stats {
    uint64_t connected, refused[256], lost, failed, sent, acked, abandoned, down, answered, held;
    uint64_t unknown_ack, disordered_ack, bytes_out;
    struct histogram ack, connack;
    int64_t start_us, first_connack_us, last_connack_us, first_sent_us, last_acked_us, stop_us;
};
void stats_live(const struct stats *s, uint64_t outstanding, size_t devices);
void stats_final(const struct stats *s, const struct options *o, uint64_t outstanding,
                 size_t devices);
uint64_t stats_refused(const struct stats *s);

/* ---- one device */
enum state { DEV_IDLE, DEV_TCP, DEV_CONNACK, DEV_UP, DEV_ENDED };

struct slot { /* a publish that waits for its PUBACK */
    int64_t sent_us;
    uint64_t seq;
    uint16_t packet_id; /* 0: free */
};

struct device {
    char *id, *secret;
    int fd;
    enum state state;
    bool want_write;
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
    size_t count, next_connect, cursor, connecting, up, ended;
    uint64_t outstanding, slot_mask;
    double connect_tokens, send_tokens;
    int64_t last_tick_us, stop_at_us, give_up_us;
    int epoll;
    bool publishing, stopping;
    FILE *acked;
};

int64_t now_us(void);
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
/* Sends a PINGREQ if nothing was sent for half of the keep-alive. */
void device_keep_alive(struct swarm *w, struct device *d, int64_t now);

/* ---- MQTT 3.1.1 packets: each appends to d->out */
void mqtt_connect(struct device *d, const struct options *o);
void mqtt_publish(struct device *d, const char *topic, const void *payload, size_t len, int qos,
                  uint16_t packet_id);
void mqtt_puback(struct device *d, uint16_t packet_id);
void mqtt_plain(struct device *d, unsigned char type); /* PINGREQ 0xc0, DISCONNECT 0xe0 */

/* Takes one packet off data. Returns its length, 0 when it is not complete, -1 when malformed. */
long mqtt_next(const unsigned char *data, size_t len, struct packet *p);
