/* mqtt.c - the packets of MQTT 3.1.1 that a device sends, and the framing of those it gets. */
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

static void put_header(struct device *d, unsigned char type, size_t len)
{
    put(d, &type, 1);
    do {
        unsigned char b = len & 127;
        len >>= 7;
        b |= len ? 128 : 0;
        put(d, &b, 1);
    } while (len);
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
    put_header(d, 0x10, 10 + 2 + strlen(client) + 2 + strlen(d->id) + 2 + 64);
    put(d, "\0\4MQTT\4\302", 8); /* level 4; user name, password, clean session */
    put16(d, o->keep_alive_s);
    put_text(d, client);
    put_text(d, d->id);
    put_text(d, hex);
}

void mqtt_publish(struct device *d, const char *topic, const void *payload, size_t len, int qos,
                  uint16_t packet_id)
{
    put_header(d, 0x30 | qos << 1, 2 + strlen(topic) + (qos ? 2 : 0) + len);
    put_text(d, topic);
    if (qos)
        put16(d, packet_id);
    put(d, payload, len);
}

void mqtt_puback(struct device *d, uint16_t packet_id)
{
    put_header(d, 0x40, 2);
    put16(d, packet_id);
}

void mqtt_plain(struct device *d, unsigned char type) { put_header(d, type, 0); }

long mqtt_next(const unsigned char *data, size_t len, struct packet *p)
{
    size_t body = 0, at = 1;
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
    *p = (struct packet){ .type = data[0], .body = data + at, .len = body };
    return at + body;
}
