/* A connection's bytes: packets, their topics and filters, client ids.
 * links: services/mqtt-gateway/packet.c services/mqtt-gateway/topic.c
 * services/mqtt-gateway/client_id.c */
#include "services/mqtt-gateway/topic.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE "6512af01_pump-7"

static void on_publish(const struct packet_publish *p)
{
    struct topic_info info;
    struct cw_buf out = { 0 };
    struct packet again;
    fuzz_check(p->topic.len > 0 && cw_utf8_valid(p->topic.p, p->topic.len));
    topic_check_publish(&info, DEVICE, p->topic, p->qos);
    topic_request_id(p->topic);
    packet_put_publish(&out, p->topic, p->payload, p->len, p->qos, p->id);
    fuzz_check(packet_read(&again, out.data, out.len) == (ssize_t)out.len);
    fuzz_check(again.publish.len == p->len && again.publish.topic.len == p->topic.len);
    cw_buf_free(&out);
}

static void on_filters(struct packet_filters f)
{
    struct text filter, topic = { "$oc/devices/" DEVICE "/sys/commands/request_id=1", 49 };
    uint8_t qos;
    unsigned n = 0;
    for (; packet_filter(&f, &filter, &qos); n++)
        if (topic_check_filter(DEVICE, filter) == 0)
            topic_matches(filter, topic);
    fuzz_check(n == f.count || n <= PACKET_FILTERS_MAX);
}

static void on_connect(const struct packet_connect *c)
{
    struct client_id id;
    client_id_read(&id, c->client_id, c->user);
    fuzz_check(memchr(id.device_id, '\0', sizeof id.device_id) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct packet p;
    ssize_t n;
    for (; size; data += n, size -= (size_t)n) {
        n = packet_read(&p, data, size);
        fuzz_check(n <= (ssize_t)size);
        if (n <= 0) {
            fuzz_check(n == 0 || p.fault);
            break;
        }
        if (p.type == PACKET_PUBLISH)
            on_publish(&p.publish);
        else if (p.type == PACKET_SUBSCRIBE || p.type == PACKET_UNSUBSCRIBE)
            on_filters(p.filters);
        else if (p.type == PACKET_CONNECT)
            on_connect(&p.connect);
    }
    return 0;
}
