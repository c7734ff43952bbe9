/* mqtt.c - the packets of MQTT that a device sends, and the framing of those it gets. */
#include "swarm.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void need(struct device *d, size_t more)
{
    if (d->out_len + more <= d->out_size)
        return;
    while (d->out_size < d->out_len + more)
        d->out_size = d->out_size ? d->out_size * 2 : 512;
    d->out = realloc(d->out, d->out_size);
    if (!d->out)
        abort();
}

static void put(struct device *d, const void *data, size_t len)
{
    need(d, len);
    memcpy(d->out + d->out_len, data, len);
    d->out_len += len;
}

static void put16(struct device *d, unsigned v) { put(d, (unsigned char[]){ v >> 8, v & 255 }, 2); }

static void put_text(struct device *d, const char *s)
{
    put16(d, strlen(s));
    put(d, s, strlen(s));
}

/* A frame for one packet (RFC 6455, 5.2), masked with zeros. */
static void put_frame(struct device *d, size_t len)
{
    unsigned char b[14] = { 0x82 };
    size_t n = 2;
    int bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;
    b[1] = 0x80 | (bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (int i = bytes - 1; i >= 0; i--)
        b[n++] = len >> (8 * i);
    put(d, b, n + 4);
}

static void put_header(struct device *d, unsigned char type, size_t len)
{
    if (d->ws)
        put_frame(d, 1 + (len < 128 ? 1 : len < 16384 ? 2 : len < 2097152 ? 3 : 4) + len);
    put(d, &type, 1);
    do {
        unsigned char b = len & 127;
        len >>= 7;
        b |= len ? 128 : 0;
        put(d, &b, 1);
    } while (len);
}

void mqtt_upgrade(struct device *d, const struct options *o)
{
    char request[300];
    int n = snprintf(request, sizeof request,
                     "GET /mqtt HTTP/1.1\r\nHost: %s:%ld\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                     "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
                     o->host, o->port);
    put(d, request, n);
    d->upgrading = true;
    d->frame_left = 0;
}

/* The timestamp is the key, the secret the message. */
static void password(const char *secret, const char *stamp, char hex[65])
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    HMAC(EVP_sha256(), stamp, strlen(stamp), (const unsigned char *)secret, strlen(secret), mac,
         &len);
    for (unsigned i = 0; i < 32; i++)
        sprintf(hex + 2 * i, "%02x", mac[i]);
}

void mqtt_connect(struct device *d, const struct options *o)
{
    char stamp[11], hex[65], client[300];
    time_t t = time(NULL);
    struct tm tm;
    strftime(stamp, sizeof stamp, "%Y%m%d%H", gmtime_r(&t, &tm));
    password(d->secret, stamp, hex);
    snprintf(client, sizeof client, "%s_0_%ld_%s", d->id, o->sign_type, stamp);
    put_header(d, 0x10, 10 + d->mqtt5 + 2 + strlen(client) + 2 + strlen(d->id) + 2 + 64);
    put(d, d->mqtt5 ? "\0\4MQTT\5\302" : "\0\4MQTT\4\302", 8); /* user name, password, clean */
    put16(d, o->keep_alive_s);
    if (d->mqtt5)
        put(d, "", 1); /* no properties */
    put_text(d, client);
    put_text(d, d->id);
    put_text(d, hex);
}

void mqtt_publish(struct device *d, const char *topic, const void *payload, size_t len, int qos,
                  uint16_t packet_id)
{
    put_header(d, 0x30 | qos << 1, 2 + strlen(topic) + (qos ? 2 : 0) + d->mqtt5 + len);
    put_text(d, topic);
    if (qos)
        put16(d, packet_id);
    if (d->mqtt5)
        put(d, "", 1);
    put(d, payload, len);
}

void mqtt_puback(struct device *d, uint16_t packet_id)
{
    put_header(d, 0x40, 2);
    put16(d, packet_id);
}

void mqtt_plain(struct device *d, unsigned char type) { put_header(d, type, 0); }

/* The answer to the request, then heads of frames: what is around packets. */
static long next_around(struct device *d, const unsigned char *data, size_t len)
{
    if (d->upgrading) {
        const unsigned char *end = memmem(data, len, "\r\n\r\n", 4);
        if (!end)
            return len > 4096 ? -1 : 0;
        d->upgrading = false;
        return memcmp(data, "HTTP/1.1 101", 12) == 0 ? end - data + 4 : -1;
    }
    size_t head = len < 2 ? 2 : 2 + (data[1] == 126 ? 2 : data[1] == 127 ? 8 : 0), n = 0;
    if (len < head)
        return 0;
    for (size_t i = 2; i < head; i++)
        n = n << 8 | data[i];
    d->frame_left = head == 2 ? data[1] : n;
    return data[0] == 0x82 && data[1] < 128 ? (long)head : -1; /* no Close, no ping is expected */
}

long mqtt_next(struct device *d, const unsigned char *data, size_t len, struct packet *p)
{
    size_t body = 0, at = 1;
    *p = (struct packet){ 0 };
    if (d->ws && (d->upgrading || !d->frame_left))
        return next_around(d, data, len);
    for (int shift = 0;; shift += 7, at++) {
        if (shift > 21)
            return -1;
        if (at >= len)
            return 0;
        body |= (size_t)(data[at] & 127) << shift;
        if (!(data[at] & 128))
            break;
    }
    at++;
    if (body > 2 * 1024 * 1024)
        return -1;
    if (len < at + body)
        return 0;
    if (d->ws && d->frame_left < at + body)
        return -1; /* the platform puts whole packets into a frame */
    d->frame_left -= d->ws ? at + body : 0;
    *p = (struct packet){ .type = data[0], .body = data + at, .len = body };
    return at + body;
}
