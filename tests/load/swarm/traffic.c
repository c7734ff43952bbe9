/* traffic.c - what a connected device says, and what it makes of what it hears. */
#include "swarm.h"

#include <inttypes.h>
#include <string.h>

#define TOPIC_PREFIX "$oc/devices/%s/sys/"

static size_t report(const struct swarm *w, const struct device *d, char *to, size_t size)
{
    size_t n =
        snprintf(to, size, "{\"services\":[{\"service_id\":\"%s\",\"properties\":{\"seq\":%llu",
                 w->o.service, (unsigned long long)d->next_seq);
    if (*w->o.stamp) {
        n += snprintf(to + n, size - n, ",\"%s\":%lld", w->o.stamp, (long long)wall_us());
    }
    if ((size_t)w->o.payload > n + 15) {
        size_t fill = w->o.payload - n - 13; /* what `,"pad":""` and `}}]}` take */
        n += snprintf(to + n, size - n, ",\"pad\":\"");
        memset(to + n, 'x', fill);
        n += fill;
        to[n++] = '"';
    }
    return n + snprintf(to + n, size - n, "}}]}");
}

bool device_publish(struct swarm *w, struct device *d)
{
    static char body[1048576 + 1024];
    char topic[320];
    struct slot *s = NULL;
    if (d->state != DEV_UP || !w->publishing ||
        (w->o.messages && (long)d->published >= w->o.messages))
        return false;
    if (w->o.qos) {
        s = &d->slots[d->next_packet_id & w->slot_mask];
        if (d->outstanding >= (unsigned)w->o.window || s->packet_id)
            return false;
        *s = (struct slot){ now_us(), d->next_seq, d->next_packet_id };
        d->outstanding++;
        w->outstanding++;
    } else if (d->out_len > 65536) {
        return false; /* the socket is full */
    }
    snprintf(topic, sizeof topic, TOPIC_PREFIX "%s", d->id,
             *w->o.kind == 'm' ? "messages/up" : "properties/report");
    mqtt_publish(d, topic, body, report(w, d, body, sizeof body), w->o.qos, d->next_packet_id);
    d->next_packet_id = d->next_packet_id == 65535 ? 1 : d->next_packet_id + 1;
    d->next_seq++;
    d->published++;
    if (!w->stats.sent++)
        w->stats.first_sent_us = now_us();
    return true;
}

void device_fill(struct swarm *w, struct device *d)
{
    while (device_publish(w, d))
        ;
}

static void on_puback(struct swarm *w, struct device *d, uint16_t packet_id)
{
    struct slot *s = &d->slots[packet_id & w->slot_mask];
    int64_t now = now_us();
    if (!packet_id || s->packet_id != packet_id) {
        w->stats.unknown_ack++;
        return;
    }
    if (s->seq < d->last_acked)
        w->stats.disordered_ack++;
    d->last_acked = s->seq;
    s->packet_id = 0;
    d->outstanding--;
    w->outstanding--;
    w->stats.acked++;
    w->stats.last_acked_us = now;
    hist_add(&w->stats.ack, now - s->sent_us);
    if (w->acked)
        fprintf(w->acked, "%s %llu\n", d->id, (unsigned long long)s->seq);
}

static void on_connack(struct swarm *w, struct device *d, const struct packet *p)
{
    unsigned char code = p->len >= 2 ? p->body[1] : 255; /* MQTT 5: properties follow */
    int64_t now = now_us();
    if (code) {
        w->stats.refused[code]++;
        device_ended(w, d);
        return;
    }
    d->state = DEV_UP;
    d->tries = 0;
    w->connecting--;
    w->up++;
    w->stats.connected++;
    w->stats.last_connack_us = now;
    hist_add(&w->stats.connack, now - d->connect_us);
}

static void on_down(struct swarm *w, struct device *d, const struct packet *p)
{
    static const char ask[] = "/sys/commands/request_id=";
    static const char done[] = "{\"result_code\":0,\"paras\":{}}";
    size_t topic_len = p->len < 2 ? 0 : (size_t)p->body[0] << 8 | p->body[1];
    const char *topic = (const char *)p->body + 2, *id;
    char answer[400];
    w->stats.down++;
    if (p->len < 2 + topic_len + (p->type & 6 ? 2 : 0))
        return;
    if (p->type & 6)
        mqtt_puback(d, p->body[2 + topic_len] << 8 | p->body[3 + topic_len]);
    id = memmem(topic, topic_len, ask, sizeof ask - 1);
    if (!w->o.answer || !id)
        return;
    id += sizeof ask - 1;
    snprintf(answer, sizeof answer, TOPIC_PREFIX "commands/response/request_id=%.*s", d->id,
             (int)(topic + topic_len - id), id);
    mqtt_publish(d, answer, done, sizeof done - 1, 0, 0);
    w->stats.answered++;
}

void device_packet(struct swarm *w, struct device *d, const struct packet *p)
{
    switch (p->type >> 4) {
    case 2:
        on_connack(w, d, p);
        break;
    case 3:
        on_down(w, d, p);
        break;
    case 4:
        if (p->len >= 2)
            on_puback(w, d, p->body[0] << 8 | p->body[1]);
        break;
    default: /* PINGRESP */
        break;
    }
}
