/* Reading and writing control packets.
 * links: services/mqtt-gateway/packet.c services/mqtt-gateway/packet_props.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/mqtt-gateway/packet_props.h"

#define BYTES(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

/* Reads from a copy of exactly this length, so that a sanitizer sees every byte too many. */
static ssize_t read_as(uint8_t level, struct packet *p, const void *data, size_t len)
{
    static void *copy;
    free(copy);
    copy = cw_memdup(data, len);
    return packet_read(p, level, copy, len);
}

static ssize_t read_exactly(struct packet *p, const void *data, size_t len)
{
    return read_as(4, p, data, len);
}

static void assert_text(struct text t, const char *want)
{
    assert_int_equal(t.len, strlen(want));
    assert_memory_equal(t.p, want, t.len);
}

static const uint8_t good_connect[] = { 0x10, 22, 0,   4,   'M', 'Q', 'T', 'T', 4, 0xc2, 0,   60,
                                        0,    2,  'a', 'b', 0,   2,   'u', 's', 0, 2,    'p', 'w' };
static const uint8_t good_publish[] = { 0x3a, 9, 0, 3, 'a', '/', 'b', 0x12, 0x34, 'h', 'i' };
static const uint8_t good_subscribe[] = { 0x82, 12, 0, 7, 0, 3, 'a', '/', '#', 1, 0, 1, 'b', 2 };
static const uint8_t good_unsubscribe[] = { 0xa2, 5, 0, 7, 0, 1, 'b' };

static void a_connect_gives_its_fields(void **state)
{
    (void)state;
    struct packet p;
    assert_int_equal(read_exactly(&p, good_connect, sizeof good_connect), sizeof good_connect);
    assert_int_equal(p.type, PACKET_CONNECT);
    assert_int_equal(p.connect.level, 4);
    assert_int_equal(p.connect.keep_alive_s, 60);
    assert_true(p.connect.clean && p.connect.has_user && p.connect.has_password);
    assert_text(p.connect.client_id, "ab");
    assert_text(p.connect.user, "us");
    assert_text(p.connect.password, "pw");
}

static void a_will_is_read_over(void **state)
{
    (void)state;
    struct packet p;
    assert_int_equal(read_exactly(&p, BYTES(0x10, 23, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x86, 0, 60, 0,
                                            1, 'c', 0, 1, 't', 0, 2, 0, 0xff, 0, 1, 'u')),
                     25);
    assert_text(p.connect.user, "u");
    assert_false(p.connect.has_password);
}

static void older_versions_are_let_in_and_others_named(void **state)
{
    (void)state;
    struct packet p;
    assert_int_equal(read_exactly(&p, BYTES(0x10, 15, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, 2, 0,
                                            60, 0, 1, 'c')),
                     17);
    assert_int_equal(p.connect.level, 3);
    assert_int_equal(
        read_exactly(&p, BYTES(0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 6, 2, 0, 60, 0, 0, 1, 'c')),
        -EPROTONOSUPPORT);
    assert_non_null(p.fault);
}

static void a_publish_gives_its_fields(void **state)
{
    (void)state;
    struct packet p;
    assert_int_equal(read_exactly(&p, good_publish, sizeof good_publish), sizeof good_publish);
    assert_text(p.publish.topic, "a/b");
    assert_int_equal(p.publish.qos, 1);
    assert_int_equal(p.publish.id, 0x1234);
    assert_true(p.publish.dup);
    assert_int_equal(p.publish.len, 2);
    assert_memory_equal(p.publish.payload, "hi", 2);
    assert_int_equal(read_exactly(&p, BYTES(0x31, 3, 0, 1, 'a')), 5);
    assert_int_equal(p.publish.len, 0);
    assert_true(p.publish.retain);
}

static void filters_come_one_by_one(void **state)
{
    (void)state;
    struct packet p;
    struct packet_filter f;
    assert_int_equal(read_exactly(&p, good_subscribe, sizeof good_subscribe),
                     sizeof good_subscribe);
    assert_int_equal(p.filters.count, 2);
    assert_int_equal(p.filters.id, 7);
    assert_true(packet_filter(&p.filters, &f));
    assert_text(f.filter, "a/#");
    assert_int_equal(f.qos, 1);
    assert_true(packet_filter(&p.filters, &f));
    assert_text(f.filter, "b");
    assert_int_equal(f.qos, 2);
    assert_false(packet_filter(&p.filters, &f));
    assert_int_equal(read_exactly(&p, good_unsubscribe, sizeof good_unsubscribe),
                     sizeof good_unsubscribe);
    assert_int_equal(p.filters.count, 1);
}

/* Each prefix of a good packet asks for more, and never for a decision. */
static void every_cut_asks_for_more(void **state)
{
    (void)state;
    static const struct {
        const uint8_t *p;
        size_t n;
    } good[] = { { good_connect, sizeof good_connect },
                 { good_publish, sizeof good_publish },
                 { good_subscribe, sizeof good_subscribe },
                 { good_unsubscribe, sizeof good_unsubscribe } };
    struct packet p;
    for (size_t i = 0; i < CW_ARRAY_LEN(good); i++)
        for (size_t n = 0; n < good[i].n; n++)
            assert_int_equal(read_exactly(&p, good[i].p, n), 0);
}

static void what_is_malformed_is_refused_with_a_reason(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        size_t n;
        uint8_t p[32];
    } bad[] = {
        { "type 0", 2, { 0x00, 0 } },
        { "type 15", 2, { 0xf0, 0 } },
        { "CONNACK from a device", 4, { 0x20, 2, 0, 0 } },
        { "SUBACK from a device", 5, { 0x90, 3, 0, 1, 0 } },
        { "UNSUBACK from a device", 4, { 0xb0, 2, 0, 1 } },
        { "PINGRESP from a device", 2, { 0xd0, 0 } },
        { "an HTTP request", 4, { 'G', 'E', 'T', ' ' } },
        { "a TLS hello", 4, { 0x16, 3, 1, 0 } },
        { "length of five bytes", 6, { 0x30, 0x80, 0x80, 0x80, 0x80, 1 } },
        { "CONNECT with flags", 2, { 0x11, 20 } },
        { "CONNECT too short", 2, { 0x10, 9 } },
        { "CONNECT too long", 5, { 0x10, 0xff, 0xff, 0x01, 0 } },
        { "another protocol",
          16,
          { 0x10, 14, 0, 4, 'H', 'T', 'T', 'P', 4, 2, 0, 60, 0, 2, 'a', 'b' } },
        { "name longer than all",
          14,
          { 0x10, 12, 0xff, 0xff, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0 } },
        { "reserved connect flag",
          15,
          { 0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 3, 0, 60, 0, 1, 'a' } },
        { "password without user",
          18,
          { 0x10, 16, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x42, 0, 60, 0, 1, 'a', 0, 1, 'p' } },
        { "will qos 3", 21, { 0x10, 19, 0, 4,   'M', 'Q', 'T', 'T', 4, 0x1e, 0,
                              60,   0,  1, 'a', 0,   1,   't', 0,   1, 'm' } },
        { "will retain without will",
          15,
          { 0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x22, 0, 60, 0, 1, 'a' } },
        { "will cut short",
          16,
          { 0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x06, 0, 60, 0, 1, 'a', 0 } },
        { "client id cut short", 14, { 0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 9 } },
        { "client id with NUL", 15, { 0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 0 } },
        { "user not UTF-8",
          18,
          { 0x10, 16, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x82, 0, 60, 0, 1, 'a', 0, 1, 0xff } },
        { "bytes after the end",
          16,
          { 0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 'a', 'x' } },
        { "QoS 3", 6, { 0x36, 4, 0, 1, 'a', 0 } },
        { "dup with QoS 0", 5, { 0x38, 3, 0, 1, 'a' } },
        { "topic longer than the packet", 6, { 0x30, 4, 0, 9, 'a', 'b' } },
        { "empty topic", 5, { 0x30, 3, 0, 0, 'a' } },
        { "topic with NUL", 5, { 0x30, 3, 0, 1, 0 } },
        { "topic not UTF-8", 6, { 0x30, 4, 0, 2, 0xc3, 0x28 } },
        { "topic with a surrogate", 7, { 0x30, 5, 0, 3, 0xed, 0xa0, 0x80 } },
        { "topic with +", 5, { 0x30, 3, 0, 1, '+' } },
        { "topic with #", 6, { 0x30, 4, 0, 2, 'a', '#' } },
        { "packet id 0", 7, { 0x32, 5, 0, 1, 'a', 0, 0 } },
        { "no room for a packet id", 5, { 0x32, 3, 0, 1, 'a' } },
        { "PUBACK of one byte", 3, { 0x40, 1, 0 } },
        { "PUBACK of three bytes", 5, { 0x40, 3, 0, 1, 0 } },
        { "PUBACK of id 0", 4, { 0x40, 2, 0, 0 } },
        { "PUBACK with flags", 4, { 0x42, 2, 0, 1 } },
        { "PUBREL without flags", 4, { 0x60, 2, 0, 1 } },
        { "SUBSCRIBE without flags", 8, { 0x80, 6, 0, 1, 0, 1, 'a', 0 } },
        { "SUBSCRIBE of id 0", 8, { 0x82, 6, 0, 0, 0, 1, 'a', 0 } },
        { "SUBSCRIBE without qos", 8, { 0x82, 6, 0, 1, 0, 2, 'a', 'b' } },
        { "SUBSCRIBE with qos 3", 8, { 0x82, 6, 0, 1, 0, 1, 'a', 3 } },
        { "SUBSCRIBE of an empty filter", 9, { 0x82, 7, 0, 1, 0, 0, 0, 0, 0 } },
        { "SUBSCRIBE too short", 2, { 0x82, 2 } },
        { "UNSUBSCRIBE cut", 8, { 0xa2, 6, 0, 1, 0, 4, 'a', 'b' } },
        { "PINGREQ with a body", 3, { 0xc0, 1, 0 } },
        { "DISCONNECT with a body", 3, { 0xe0, 1, 0 } },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++) {
        struct packet p;
        ssize_t rc = read_exactly(&p, bad[i].p, bad[i].n);
        if (rc != -EPROTO || !p.fault)
            print_error("%s: %zd\n", bad[i].what, rc);
        assert_int_equal(rc, -EPROTO);
        assert_non_null(p.fault);
    }
}

/* The size is known, and refused, before the payload has come. */
static void more_than_a_megabyte_is_refused_from_its_header(void **state)
{
    (void)state;
    struct packet p;
    const uint32_t just = 3 + PACKET_PAYLOAD_MAX_BYTES, over = just + 1;
    uint8_t head[] = { 0x30, 0, 0, 0, 0, 1, 'a' };
    for (int i = 0; i < 3; i++)
        head[1 + i] = (uint8_t)(just >> 7 * i & 127) | (i < 2 ? 128 : 0);
    head[3] |= just >> 21 ? 128 : 0;
    assert_int_equal(just >> 21, 0);
    assert_int_equal(read_exactly(&p, head, sizeof head), 0);
    for (int i = 0; i < 3; i++)
        head[1 + i] = (uint8_t)(over >> 7 * i & 127) | (i < 2 ? 128 : 0);
    assert_int_equal(read_exactly(&p, head, 4), 0); /* the topic may be long */
    assert_int_equal(read_exactly(&p, head, sizeof head), -EMSGSIZE);
    assert_int_equal(read_exactly(&p, BYTES(0x30, 0xff, 0xff, 0xff, 0x7f)), -EMSGSIZE);
}

static void any_bytes_end_in_a_decision_within_bounds(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252ULL; /* xorshift, so that a failure comes again */
    for (int round = 0; round < 200000; round++) {
        uint8_t data[48];
        size_t len = 1 + (size_t)(x % sizeof data);
        for (size_t i = 0; i < len; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            data[i] = (uint8_t)x;
        }
        if (round % 2) { /* close to good: one byte of a good packet changed */
            const uint8_t *from = round % 4 == 1 ? good_connect : good_subscribe;
            len = round % 4 == 1 ? sizeof good_connect : sizeof good_subscribe;
            uint8_t at = data[0] % len, to = data[1 % sizeof data];
            memcpy(data, from, len);
            data[at] = to;
        }
        struct packet p;
        ssize_t n = read_exactly(&p, data, len);
        assert_true(n <= (ssize_t)len);
        assert_true(n >= 0 || p.fault);
    }
}

static void what_is_written_has_the_bytes_of_the_standard(void **state)
{
    (void)state;
    struct cw_buf b = { 0 };
    packet_put_connack(&b, 4, false);
    packet_put_ack(&b, PACKET_PUBACK, 0x1234, 0);
    packet_put_codes(&b, 4, PACKET_UNSUBACK, 1, (const uint8_t[]){ 0 }, 1);
    packet_put_codes(&b, 4, PACKET_SUBACK, 2, (const uint8_t[]){ 1, 0x80 }, 2);
    packet_put_pingresp(&b);
    static const uint8_t want[] = { 0x20, 2, 0,    4, 0x40, 2, 0x12, 0x34, 0xb0, 2,
                                    0,    1, 0x90, 4, 0,    2, 1,    0x80, 0xd0, 0 };
    assert_int_equal(b.len, sizeof want);
    assert_memory_equal(b.data, want, sizeof want);
    cw_buf_free(&b);
}

static void a_written_publish_is_read_as_the_same(void **state)
{
    (void)state;
    static const size_t sizes[] = { 0, 1, 120, 121, 122, 16375, 16376, 16377, 262144 };
    for (size_t i = 0; i < CW_ARRAY_LEN(sizes); i++)
        for (uint8_t qos = 0; qos < 2; qos++) {
            struct cw_buf b = { 0 };
            struct packet p;
            char *payload = cw_calloc(1, sizes[i]);
            struct outbound o = { .topic = { "a/b", 3 },
                                  .payload = payload,
                                  .len = sizes[i],
                                  .id = 9,
                                  .level = 4,
                                  .qos = qos };
            packet_put_publish(&b, &o);
            assert_int_equal(b.len, packet_publish_size(&o));
            if (qos)
                packet_set_dup(b.data);
            assert_int_equal(packet_read(&p, 4, b.data, b.len), b.len);
            assert_text(p.publish.topic, "a/b");
            assert_int_equal(p.publish.len, sizes[i]);
            assert_int_equal(p.publish.qos, qos);
            assert_int_equal(p.publish.id, qos ? 9 : 0);
            assert_int_equal(p.publish.dup, qos);
            cw_buf_free(&b);
            free(payload);
        }
}

/* ---- MQTT 5: a row per statement of the standard that a reader can tell; its number beside it */

#define P5(...) { __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })
static const struct {
    const char *statement;
    uint8_t bytes[48];
    size_t len;
    uint8_t reason; /* 0: it is fine */
} five[] = {
    { "a PUBLISH without properties", P5(0x30, 5, 0, 1, 'a', 0, 'x'), 0 },
    { "2.2.2.1: the length of properties is there, also without any", P5(0x30, 3, 0, 1, 'a'),
      REASON_MALFORMED },
    { "2.2.2.1: a length of more than four bytes",
      P5(0x30, 8, 0, 1, 'a', 0x80, 0x80, 0x80, 0x80, 0), REASON_MALFORMED },
    { "2.2.2.1: properties longer than the packet", P5(0x30, 4, 0, 1, 'a', 9), REASON_MALFORMED },
    { "2.2.2.2: an unknown identifier", P5(0x30, 6, 0, 1, 'a', 2, 0x7e, 0), REASON_MALFORMED },
    { "2.2.2.2: one that a PUBLISH cannot have", P5(0x30, 9, 0, 1, 'a', 5, 0x11, 0, 0, 0, 1),
      REASON_MALFORMED },
    { "2.2.2.2: a value that is cut short", P5(0x30, 7, 0, 1, 'a', 3, 0x02, 0, 0),
      REASON_MALFORMED },
    { "1.5.4: text that is no UTF-8", P5(0x30, 8, 0, 1, 'a', 4, 0x03, 0, 1, 0xff),
      REASON_MALFORMED },
    { "3.3.2.3.2: payload format indicator above 1", P5(0x30, 6, 0, 1, 'a', 2, 0x01, 2),
      REASON_PROTOCOL },
    { "3.3.2.3.2: twice", P5(0x30, 8, 0, 1, 'a', 4, 0x01, 1, 0x01, 1), REASON_PROTOCOL },
    { "3.3.2.3.4: a topic alias of 0", P5(0x30, 7, 0, 1, 'a', 3, 0x23, 0, 0), REASON_ALIAS },
    { "3.3.2.1: neither topic nor alias", P5(0x30, 3, 0, 0, 0), REASON_PROTOCOL },
    { "3.3.2.3.4: an alias alone", P5(0x30, 6, 0, 0, 3, 0x23, 0, 1), 0 },
    { "3.3.2.3.5: a response topic with a wildcard", P5(0x30, 8, 0, 1, 'a', 4, 0x08, 0, 1, '#'),
      REASON_PROTOCOL },
    { "3.3.2.3.7: user properties may be there twice",
      P5(0x30, 18, 0, 1, 'a', 14, 0x26, 0, 1, 'k', 0, 1, 'v', 0x26, 0, 1, 'k', 0, 1, 'w'), 0 },
    { "3.3.2.3.8: a subscription identifier from a client", P5(0x30, 6, 0, 1, 'a', 2, 0x0b, 1),
      REASON_MALFORMED },
    { "3.4.2.1: a PUBACK without reason", P5(0x40, 2, 0, 1), 0 },
    { "3.4.2.1: with a reason", P5(0x40, 3, 0, 1, 0x87), 0 },
    { "3.4.2.2: with a reason string", P5(0x40, 8, 0, 1, 0x87, 4, 0x1f, 0, 1, 'x'), 0 },
    { "3.4.2.2: with something behind it", P5(0x40, 5, 0, 1, 0, 0, 0), REASON_MALFORMED },
    { "3.8.3.1: the options of a subscription", P5(0x82, 7, 0, 1, 0, 0, 1, 'a', 0x2d), 0 },
    { "3.8.3.1: reserved bits", P5(0x82, 7, 0, 1, 0, 0, 1, 'a', 0x41), REASON_MALFORMED },
    { "3.8.3.1: QoS 3", P5(0x82, 7, 0, 1, 0, 0, 1, 'a', 3), REASON_MALFORMED },
    { "3.8.3.1: retain handling 3", P5(0x82, 7, 0, 1, 0, 0, 1, 'a', 0x30), REASON_MALFORMED },
    { "3.8.2.1.2: a subscription identifier of 0", P5(0x82, 9, 0, 1, 2, 0x0b, 0, 0, 1, 'a', 1),
      REASON_PROTOCOL },
    { "3.8.3: a SUBSCRIBE of nothing", P5(0x82, 6, 0, 1, 3, 0x26, 0, 0), REASON_MALFORMED },
    { "3.10.2: an UNSUBSCRIBE", P5(0xa2, 6, 0, 1, 0, 0, 1, 'a'), 0 },
    { "3.14.2.1: a DISCONNECT without reason", P5(0xe0, 0), 0 },
    { "3.14.2.1: with one", P5(0xe0, 1, 4), 0 },
    { "3.14.2.2: with a session expiry", P5(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 1), 0 },
    { "3.15: AUTH, which nobody asked for", P5(0xf0, 0), REASON_PROTOCOL },
    { "3.1.2.11.3: a receive maximum of 0",
      P5(0x10, 16, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 3, 0x21, 0, 0, 0, 0), REASON_PROTOCOL },
    { "3.1.2.11.4: a maximum packet size of 0",
      P5(0x10, 18, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 5, 0x27, 0, 0, 0, 0, 0, 0),
      REASON_PROTOCOL },
    { "3.1.2.11.10: authentication data without a method",
      P5(0x10, 17, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 4, 0x16, 0, 1, 'x', 0, 0),
      REASON_PROTOCOL },
    { "3.1.2.3: the reserved flag", P5(0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 5, 3, 0, 60, 0, 0, 0),
      REASON_MALFORMED },
    { "3.1.2.9: a password without a user name is allowed",
      P5(0x10, 15, 0, 4, 'M', 'Q', 'T', 'T', 5, 0x42, 0, 60, 0, 0, 0, 0, 0), 0 },
    { "3.1.3.2: a will with properties",
      P5(0x10, 24, 0, 4, 'M', 'Q', 'T', 'T', 5, 6, 0, 60, 0, 0, 0, 5, 0x18, 0, 0, 0, 1, 0, 1, 't',
         0, 0),
      0 },
};

static void each_statement_of_mqtt_5_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(five); i++) {
        struct packet p;
        uint8_t level = five[i].bytes[0] == 0x10 ? 0 : LEVEL_5;
        ssize_t n = read_as(level, &p, five[i].bytes, five[i].len);
        if (five[i].reason ? n != -EPROTO || p.reason != five[i].reason || !p.fault
                           : n != (ssize_t)five[i].len)
            fail_msg("%s: %zd, reason 0x%02x, %s", five[i].statement, n, p.reason,
                     p.fault ? p.fault : "-");
        for (size_t cut = 0; cut < five[i].len && !five[i].reason; cut++)
            assert_int_equal(read_as(level, &p, five[i].bytes, cut), 0);
    }
}

static void what_is_written_in_mqtt_5(void **state)
{
    (void)state;
    struct cw_buf b = { 0 };
    packet_put_connack5(&b, REASON_NOT_AUTHORIZED, false);
    packet_put_ack(&b, PACKET_PUBACK, 0x1234, 0);
    packet_put_ack(&b, PACKET_PUBACK, 0x1234, REASON_NOT_AUTHORIZED);
    packet_put_codes(&b, LEVEL_5, PACKET_UNSUBACK, 1, (const uint8_t[]){ 0, 0x11 }, 2);
    packet_put_disconnect(&b, REASON_TAKEN_OVER, NULL);
    packet_put_disconnect(&b, REASON_PROTOCOL, "x");
    packet_put_publish(&b, &(struct outbound){ .topic = { "a", 1 },
                                               .payload = "p",
                                               .len = 1,
                                               .props = { "\x01\x01", 2 },
                                               .id = 7,
                                               .level = LEVEL_5,
                                               .qos = 1 });
    static const uint8_t want[] = { 0x20, 3,    0,    0x87, 0,   0x40, 2, 0x12, 0x34, 0x40, 3,
                                    0x12, 0x34, 0x87, 0xb0, 5,   0,    1, 0,    0,    0x11, 0xe0,
                                    2,    0x8e, 0,    0xe0, 6,   0x82, 4, 0x1f, 0,    1,    'x',
                                    0x32, 9,    0,    1,    'a', 0,    7, 2,    1,    1,    'p' };
    assert_int_equal(b.len, sizeof want);
    assert_memory_equal(b.data, want, sizeof want);
    cw_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connect_gives_its_fields),
        cmocka_unit_test(a_will_is_read_over),
        cmocka_unit_test(older_versions_are_let_in_and_others_named),
        cmocka_unit_test(a_publish_gives_its_fields),
        cmocka_unit_test(filters_come_one_by_one),
        cmocka_unit_test(every_cut_asks_for_more),
        cmocka_unit_test(what_is_malformed_is_refused_with_a_reason),
        cmocka_unit_test(more_than_a_megabyte_is_refused_from_its_header),
        cmocka_unit_test(any_bytes_end_in_a_decision_within_bounds),
        cmocka_unit_test(what_is_written_has_the_bytes_of_the_standard),
        cmocka_unit_test(a_written_publish_is_read_as_the_same),
        cmocka_unit_test(each_statement_of_mqtt_5_is_read),
        cmocka_unit_test(what_is_written_in_mqtt_5),
    };
    return cmocka_run_group_tests_name("mqtt_packet", tests, NULL, NULL);
}
