/* Reading and writing control packets. links: services/mqtt-gateway/packet.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/mqtt-gateway/packet.h"

#define BYTES(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

/* Reads from a copy of exactly this length, so that a sanitizer sees every byte too many. */
static ssize_t read_exactly(struct packet *p, const void *data, size_t len)
{
    static void *copy;
    free(copy);
    copy = cw_memdup(data, len);
    return packet_read(p, copy, len);
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

static void mqtt_3_1_is_let_in_and_5_is_named(void **state)
{
    (void)state;
    struct packet p;
    assert_int_equal(read_exactly(&p, BYTES(0x10, 15, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, 2, 0,
                                            60, 0, 1, 'c')),
                     17);
    assert_int_equal(p.connect.level, 3);
    assert_int_equal(
        read_exactly(&p, BYTES(0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0, 1, 'c')),
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
    struct text f;
    uint8_t qos;
    assert_int_equal(read_exactly(&p, good_subscribe, sizeof good_subscribe),
                     sizeof good_subscribe);
    assert_int_equal(p.filters.count, 2);
    assert_int_equal(p.filters.id, 7);
    assert_true(packet_filter(&p.filters, &f, &qos));
    assert_text(f, "a/#");
    assert_int_equal(qos, 1);
    assert_true(packet_filter(&p.filters, &f, &qos));
    assert_text(f, "b");
    assert_int_equal(qos, 2);
    assert_false(packet_filter(&p.filters, &f, &qos));
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
    packet_put_connack(&b, 4);
    packet_put_ack(&b, PACKET_PUBACK, 0x1234);
    packet_put_ack(&b, PACKET_UNSUBACK, 1);
    packet_put_suback(&b, 2, (const uint8_t[]){ 1, 0x80 }, 2);
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
            packet_put_publish(&b, (struct text){ "a/b", 3 }, payload, sizes[i], qos, 9);
            if (qos)
                packet_set_dup(b.data);
            assert_int_equal(packet_read(&p, b.data, b.len), b.len);
            assert_text(p.publish.topic, "a/b");
            assert_int_equal(p.publish.len, sizes[i]);
            assert_int_equal(p.publish.qos, qos);
            assert_int_equal(p.publish.id, qos ? 9 : 0);
            assert_int_equal(p.publish.dup, qos);
            cw_buf_free(&b);
            free(payload);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connect_gives_its_fields),
        cmocka_unit_test(a_will_is_read_over),
        cmocka_unit_test(mqtt_3_1_is_let_in_and_5_is_named),
        cmocka_unit_test(a_publish_gives_its_fields),
        cmocka_unit_test(filters_come_one_by_one),
        cmocka_unit_test(every_cut_asks_for_more),
        cmocka_unit_test(what_is_malformed_is_refused_with_a_reason),
        cmocka_unit_test(more_than_a_megabyte_is_refused_from_its_header),
        cmocka_unit_test(any_bytes_end_in_a_decision_within_bounds),
        cmocka_unit_test(what_is_written_has_the_bytes_of_the_standard),
        cmocka_unit_test(a_written_publish_is_read_as_the_same),
    };
    return cmocka_run_group_tests_name("mqtt_packet", tests, NULL, NULL);
}
