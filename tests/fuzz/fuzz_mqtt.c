/* A connection's bytes: packets, their topics and filters, client ids.
 * links: services/mqtt-gateway/packet.c services/mqtt-gateway/packet_props.c
 * services/mqtt-gateway/topic.c services/mqtt-gateway/client_id.c */
#include "services/mqtt-gateway/packet_props.h"
#include "services/mqtt-gateway/topic.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE "6512af01_pump-7"

static void on_publish(const struct packet_publish *p, uint8_t level)
{
    struct topic_info info;
    struct cw_buf out = { 0 }, props = { 0 };
    struct packet again;
    fuzz_check(cw_utf8_valid(p->topic.p, p->topic.len));
    fuzz_check(p->topic.len > 0 || p->props.topic_alias);
    if (p->topic.len == 0)
        return;
    topic_check_publish(&info, DEVICE, p->topic);
    topic_request_id(p->topic);
    packet_props_forward(&props, &p->props);
    struct outbound o = { .topic = p->topic,
                          .payload = p->payload,
                          .len = p->len,
                          .props = { props.data, props.len },
                          .id = p->id,
                          .level = level,
                          .qos = p->qos };
    packet_put_publish(&out, &o);
    fuzz_check(out.len == packet_publish_size(&o));
    if (p->qos < 2) {
        fuzz_check(packet_read(&again, level, out.data, out.len) == (ssize_t)out.len);
        fuzz_check(again.publish.len == p->len && again.publish.topic.len == p->topic.len);
    }
    cw_buf_free(&out);
    cw_buf_free(&props);
}

static void on_filters(struct packet_filters f)
{
    struct packet_filter one;
    struct text topic = { "$oc/devices/" DEVICE "/sys/commands/request_id=1", 49 };
    unsigned n = 0;
    for (; packet_filter(&f, &one); n++)
        if (topic_check_filter(DEVICE, one.filter) == 0)
            topic_matches(one.filter, topic);
    fuzz_check(n == f.count || n <= PACKET_FILTERS_MAX);
}

static void on_connect(const struct packet_connect *c)
{
    struct client_id id;
    client_id_read(&id, c->client_id, c->user);
    fuzz_check(memchr(id.device_id, '\0', sizeof id.device_id) != NULL);
}

/* The first CONNECT decides how the rest is read; without one the input is 3.1.1, or 5 when its
 * first byte is 5. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct packet p;
    ssize_t n;
    uint8_t level = 4;
    if (size && *data == LEVEL_5) {
        level = *data++;
        size--;
    }
    for (; size; data += n, size -= (size_t)n) {
        n = packet_read(&p, level, data, size);
        fuzz_check(n <= (ssize_t)size);
        if (n <= 0) {
            fuzz_check(n == 0 || p.fault);
            break;
        }
        if (p.type == PACKET_PUBLISH)
            on_publish(&p.publish, level);
        else if (p.type == PACKET_SUBSCRIBE || p.type == PACKET_UNSUBSCRIBE)
            on_filters(p.filters);
        else if (p.type == PACKET_CONNECT) {
            on_connect(&p.connect);
            level = p.connect.level;
        }
    }
    return 0;
}
