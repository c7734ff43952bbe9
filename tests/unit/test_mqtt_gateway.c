/* The real gateway against a real nats-server, with devices that are raw sockets.
 * links: services/mqtt-gateway/packet.c services/mqtt-gateway/packet_props.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>

#include "libcommon/ids.h"
#include "tests/unit/mqtt_fixture.h"
#include "tests/unit/tls_target.h"

static struct gate one, two;
static const char *self;

/* Short times, so that what takes minutes can be seen. */
static char tls_cert[64] = "CAUSEWAY_TLS_CERT=", tls_key[64] = "CAUSEWAY_TLS_KEY=";
static const char *const quick[] = { tls_cert,
                                     tls_key,
                                     "CAUSEWAY_CONNECT_LIMIT=1500ms",
                                     "CAUSEWAY_KEEP_ALIVE_MIN=1s",
                                     "CAUSEWAY_PACKET_LIMIT=1s",
                                     "CAUSEWAY_AUTH_LIMIT=3s",
                                     NULL };
static const char *const slow_lane[] = { "CAUSEWAY_MQTT_RATE=200", "CAUSEWAY_LOST_LIMIT=3s", NULL };

/* ---- coming in */

static void each_login_gets_its_code(void **state)
{
    (void)state;
    static const struct {
        struct login login;
        uint8_t code;
    } rows[] = {
        { { 0 }, 0 },
        { { .password = "bad" }, 4 },
        { { .password = "frozen" }, 5 },
        { { .level = 6 }, 1 },
        { { .client = "codes_0_2_2026010203" }, 2 },
        { { .client = "other_0_0_2026010203" }, 2 },
        { { .client = "codes" }, 2 },
        { { .keep_alive_s = 1201 }, 2 },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct dev d;
        dev_open(&d, &one, "codes");
        dev_login(&d, &rows[i].login);
        EXPECT(&d, 0x20, 2, 0, rows[i].code);
        if (rows[i].code)
            UNTIL(dev_at_end(&d));
        dev_close(&d);
    }
    UNTIL(notice_of("codes", "wrong_password"));
    assert_string_equal(notice_of("codes", "wrong_password")->notice->layer, "authenticate");
    assert_string_equal(notice_of("codes", "wrong_password")->notice->next_step, "Say good.");
    UNTIL(notice_of("codes", "client_id"));
    UNTIL(notice_of("codes", "keep_alive_range"));
}

static void without_a_registry_the_platform_is_unavailable(void **state)
{
    (void)state;
    struct dev d;
    cw_bus_unsubscribe(&registry);
    dev_open(&d, &one, "away");
    dev_login(&d, &(struct login){ 0 });
    EXPECT(&d, 0x20, 2, 0, 3);
    dev_close(&d);
    registry_up();
    registry_mute = 1; /* it is there and does not answer */
    dev_open(&d, &one, "away");
    dev_login(&d, &(struct login){ 0 });
    EXPECT(&d, 0x20, 2, 0, 3);
    dev_close(&d);
    registry_mute = 0;
    dev_join(&d, &one, "away");
    dev_close(&d);
}

/* Four batches are with a registry that says nothing: who comes then is not kept until they time
 * out. */
static void a_login_that_would_wait_too_long_is_turned_away(void **state)
{
    (void)state;
    enum { MANY = 5 };
    struct dev d[MANY];
    registry_mute = 1;
    for (int i = 0; i < MANY; i++) {
        int before = batches;
        char name[16];
        snprintf(name, sizeof name, "late%d", i);
        dev_open(&d[i], &one, name);
        dev_login(&d[i], &(struct login){ 0 });
        UNTIL(i == MANY - 1 || batches > before);
    }
    UNTIL(strstr(gate_get(&one, "/metrics"), "causeway_gateway_logins_waiting 5"));
    EXPECT(&d[MANY - 1], 0x20, 2, 0, 3);
    assert_non_null(strstr(gate_get(&one, "/metrics"), "causeway_gateway_logins_late_total 1"));
    assert_non_null(strstr(gate_get(&one, "/metrics"), "causeway_gateway_logins_waiting 4"));
    registry_mute = 0;
    for (int i = 0; i < MANY; i++)
        dev_close(&d[i]);
}

static void logins_travel_in_batches(void **state)
{
    (void)state;
    enum { MANY = 40 };
    static struct dev d[MANY];
    char names[MANY][16];
    int batches_before = batches, opens_before = opens;
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "many%d", i);
        dev_open(&d[i], &one, names[i]);
    }
    child_freeze(one.pid); /* all have come when it looks again */
    for (int i = 0; i < MANY; i++)
        dev_login(&d[i], &(struct login){ 0 });
    kill(one.pid, SIGCONT);
    for (int i = 0; i < MANY; i++)
        EXPECT(&d[i], 0x20, 2, 0, 0);
    assert_int_equal(opens - opens_before, MANY);
    assert_true(batches - batches_before <= MANY / 2);
    for (int i = 0; i < MANY; i++)
        dev_close(&d[i]);
}

static void connect_and_disconnect_are_records(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &one, "records");
    UNTIL(record("records", KIND(CONNECT), 0));
    Causeway__Uplink *r = record("records", KIND(CONNECT), 0);
    assert_int_equal(r->session_no, holder_of("records")->session_no);
    assert_int_equal(r->device_key, holder_of("records")->key);
    assert_int_equal(r->product_key, 7);
    assert_string_equal(r->client, "records_0_0_2026010203");
    assert_int_equal(strncmp(r->peer, "127.0.0.1:", 10), 0);
    dev_send(&d, (uint8_t[]){ 0xe0, 0 }, 2);
    UNTIL(record("records", KIND(DISCONNECT), 0));
    assert_string_equal(record("records", KIND(DISCONNECT), 0)->cause, "client");
    assert_int_equal(record("records", KIND(DISCONNECT), 0)->session_no, r->session_no);
    dev_close(&d);
    dev_join(&d, &one, "records");
    dev_close(&d);
    UNTIL(record("records", KIND(DISCONNECT), 1));
    assert_string_equal(record("records", KIND(DISCONNECT), 1)->cause, "connection_lost");
}

/* ---- reports */

static void assert_ledger(const struct gate *g)
{
    assert_int_equal(gate_metric(g, "received_total"),
                     gate_metric(g, "appended_total") + gate_metric(g, "refused_total") +
                         gate_metric(g, "in_flight") + gate_metric(g, "in_doubt_total"));
}

static void reports_are_acknowledged_in_order_and_stored(void **state)
{
    (void)state;
    enum { MANY = 200 };
    struct dev d;
    dev_join(&d, &one, "order");
    for (uint16_t id = 1; id <= MANY; id++) {
        char text[16];
        snprintf(text, sizeof text, "r%u", id);
        dev_report(&d, text, id);
        if (id % 10 == 0)
            dev_report(&d, "qos 0", 0);
    }
    for (unsigned id = 1; id <= MANY; id++)
        EXPECT(&d, 0x40, 2, (uint8_t)(id >> 8), (uint8_t)id);
    UNTIL(record("order", KIND(PUBLISH), MANY + MANY / 10 - 1));
    int expect = 1;
    for (int i = 0; i < MANY + MANY / 10; i++) {
        Causeway__Uplink *r = record("order", KIND(PUBLISH), i);
        char text[16];
        snprintf(text, sizeof text, "r%d", expect);
        if (r->body.len == strlen(text) && memcmp(r->body.data, text, r->body.len) == 0)
            expect++;
        assert_int_equal(strlen(r->request_id), 36);
        assert_string_equal(r->topic, "$oc/devices/order/sys/properties/report");
    }
    assert_int_equal(expect, MANY + 1);
    assert_ledger(&one);
    dev_close(&d);
}

static void the_device_may_state_the_request_id(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &one, "rid");
    dev_publish(&d, "$oc/devices/rid/sys/messages/up?request_id=mine", "x", 1, 1, 1);
    EXPECT(&d, 0x40, 2, 0, 1);
    UNTIL(record("rid", KIND(PUBLISH), 0));
    assert_string_equal(record("rid", KIND(PUBLISH), 0)->request_id, "mine");
    dev_close(&d);
}

static void nothing_is_acknowledged_before_it_is_stored(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &one, "stored");
    UNTIL(record("stored", KIND(CONNECT), 0) && gate_metric(&one, "in_flight") == 0);
    child_freeze(nats.pid);
    dev_report(&d, "held", 1);
    while (gate_metric(&one, "in_flight") != 1)
        assert_false(dev_packet(&d));
    assert_false(dev_packet(&d));
    kill(nats.pid, SIGCONT);
    EXPECT(&d, 0x40, 2, 0, 1);
    server_kill(&nats);
    UNTIL(!cw_bus_connected(bus));
    dev_report(&d, "killed", 2);
    assert_false(dev_packet(&d));
    nats_run(&nats);
    EXPECT(&d, 0x40, 2, 0, 2);
    dev_ping(&d); /* the connection has outlived the server */
    UNTIL(cw_bus_connected(bus) && gate_ready(&two));
    assert_null(record("stored", KIND(DISCONNECT), 0));
    assert_ledger(&one);
    dev_close(&d);
}

static int updated;
static void on_updated(int rc, const struct cw_bus_msg *msg, void *arg)
{
    (void)arg;
    assert_int_equal(rc, 0);
    assert_null(memmem(msg->data, msg->len, "\"error\"", 7));
    updated++;
}

/* Changes what a partition's stream may hold. */
static void set_room(uint32_t partition, long bytes)
{
    char subject[64], config[400];
    int before = updated;
    snprintf(subject, sizeof subject, "$JS.API.STREAM.UPDATE.UPLINK_%u", partition);
    int n =
        snprintf(config, sizeof config,
                 "{\"name\":\"UPLINK_%u\",\"subjects\":[\"uplink.%u\"],\"retention\":\"limits\","
                 "\"storage\":\"file\",\"discard\":\"new\",\"max_bytes\":%ld,\"num_replicas\":1,"
                 "\"allow_direct\":true,\"duplicate_window\":120000000000}",
                 partition, partition, bytes);
    assert_non_null(cw_bus_request(bus, subject, config, (size_t)n, 10000, on_updated, NULL));
    UNTIL(updated > before);
}

static void a_full_log_stops_reading_and_judges_nobody(void **state)
{
    (void)state;
    struct dev d;
    char line[64];
    uint32_t partition = cw_partition("full", 4, 8);
    dev_open(&d, &one, "full");
    dev_login(&d, &(struct login){ .keep_alive_s = 1 });
    EXPECT(&d, 0x20, 2, 0, 0);
    dev_report(&d, "before", 1);
    EXPECT(&d, 0x40, 2, 0, 1);
    set_room(partition, 1);
    dev_report(&d, "held", 2);
    snprintf(line, sizeof line, "causeway_log_full{log=\"UPLINK\",partition=\"%u\"} 1", partition);
    UNTIL(strstr(gate_get(&one, "/metrics"), line));
    dev_report(&d, "in its socket", 3);
    UNTIL(strstr(gate_get(&one, "/metrics"), "causeway_gateway_throttled{reason=\"backlog\"} 1"));
    int64_t until_ms = cw_mono_ms() + 2000; /* beyond the keep-alive */
    while (cw_mono_ms() < until_ms) {
        assert_false(dev_packet(&d));
        assert_false(d.eof);
        turn();
    }
    set_room(partition, 16 << 20);
    EXPECT(&d, 0x40, 2, 0, 2);
    EXPECT(&d, 0x40, 2, 0, 3);
    dev_ping(&d);
    UNTIL(notice_of("full", "throttled_backlog"));
    assert_ledger(&one);
    dev_close(&d);
}

/* ---- TLS */

static void write_identity(void)
{
    char path[64];
    struct identity id = identity_make(
        &(struct cert_request){ .cn = "mqtt", .san = "IP:127.0.0.1", .until_s = 3600 }, NULL);
    snprintf(path, sizeof path, "%s/cert.pem", var);
    strcat(tls_cert, path);
    FILE *f = fopen(path, "w");
    if (!f || PEM_write_X509(f, id.cert) != 1 || fclose(f) != 0)
        abort();
    snprintf(path, sizeof path, "%s/key.pem", var);
    strcat(tls_key, path);
    f = fopen(path, "w");
    if (!f || PEM_write_PrivateKey(f, id.key, NULL, NULL, 0, NULL, NULL) != 1 || fclose(f) != 0)
        abort();
    identity_free(&id);
}

/* A device over TLS logs in and reports byte by byte. */
static SSL *tls_device(struct dev *d, SSL_CTX *ctx, SSL_SESSION *resume)
{
    struct cw_buf b = { 0 };
    uint8_t got[64];
    int n = 0;
    dev_dial(d, one.tls_port, "tls");
    fcntl(d->fd, F_SETFL, O_NONBLOCK);
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, d->fd);
    if (resume)
        SSL_set_session(ssl, resume);
    UNTIL(SSL_connect(ssl) == 1);
    put_login(&b, "tls", &(struct login){ 0 });
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(SSL_write(ssl, b.data + i, 1), 1);
    UNTIL((n = SSL_read(ssl, got, sizeof got)) > 0);
    assert_int_equal(n, 4);
    assert_memory_equal(got, "\x20\x02\x00\x00", 4);
    cw_buf_reset(&b);
    packet_put_publish(&b, &(struct outbound){ .topic = { "$oc/devices/tls/sys/messages/up", 31 },
                                               .payload = "hi",
                                               .len = 2,
                                               .id = 3,
                                               .level = 4,
                                               .qos = 1 });
    assert_int_equal(SSL_write(ssl, b.data, (int)b.len), b.len);
    UNTIL((n = SSL_read(ssl, got, sizeof got)) > 0);
    assert_memory_equal(got, "\x40\x02\x00\x03", 4);
    cw_buf_free(&b);
    return ssl;
}

static void tls_1_2_and_1_3_are_spoken_and_sessions_resumed(void **state)
{
    (void)state;
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    for (size_t i = 0; i < CW_ARRAY_LEN(versions); i++) {
        struct dev d;
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_min_proto_version(ctx, versions[i]);
        SSL_CTX_set_max_proto_version(ctx, versions[i]);
        SSL *ssl = tls_device(&d, ctx, NULL);
        SSL_SESSION *session = SSL_get1_session(ssl);
        SSL_shutdown(ssl); /* else the client's library gives the session up */
        SSL_free(ssl);
        dev_close(&d);
        ssl = tls_device(&d, ctx, session);
        assert_true(SSL_session_reused(ssl));
        SSL_shutdown(ssl);
        SSL_free(ssl);
        dev_close(&d);
        SSL_SESSION_free(session);
        SSL_CTX_free(ctx);
    }
    struct dev d;
    dev_dial(&d, one.tls_port, "plain");
    dev_login(&d, &(struct login){ 0 }); /* plain text on the TLS port */
    UNTIL(dev_at_end(&d));
    dev_close(&d);
    UNTIL(record("tls", KIND(PUBLISH), 3));
}

/* ---- refusals */

static void a_wrong_topic_is_refused_explained_and_acknowledged(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &one, "wrong");
    dev_publish(&d, "$oc/devices/wrong/sys/propertis/report", "{}", 2, 1, 5);
    EXPECT(&d, 0x40, 2, 0, 5);
    UNTIL(record("wrong", KIND(REFUSED), 0));
    Causeway__Uplink *r = record("wrong", KIND(REFUSED), 0);
    assert_int_equal(r->body.len, 0);
    assert_string_equal(r->notice->layer, "topic");
    assert_string_equal(r->notice->code, "topic_unknown");
    assert_string_equal(r->notice->next_step,
                        "Publish to $oc/devices/wrong/sys/properties/report.");
    assert_string_equal(r->notice->sample, "$oc/devices/wrong/sys/propertis/report");
    dev_ping(&d); /* still there */
    assert_ledger(&one);
    dev_close(&d);
}

static void sizes_are_limited(void **state)
{
    (void)state;
    struct dev d;
    char *big = cw_calloc(1, (1 << 20) + 1);
    dev_join(&d, &one, "sizes");
    dev_publish(&d, "$oc/devices/sizes/sys/properties/report", big, 65537, 1, 1);
    EXPECT(&d, 0x40, 2, 0, 1);
    UNTIL(record("sizes", KIND(REFUSED), 0));
    assert_string_equal(record("sizes", KIND(REFUSED), 0)->notice->code, "oversize");
    dev_publish(&d, "$oc/devices/sizes/sys/properties/report", big, 65536, 1, 2);
    EXPECT(&d, 0x40, 2, 0, 2);
    dev_publish(&d, "$oc/devices/sizes/sys/messages/up", big, 1 << 20, 1, 3);
    EXPECT(&d, 0x40, 2, 0, 3);
    UNTIL(record("sizes", KIND(PUBLISH), 1));
    assert_int_equal(record("sizes", KIND(PUBLISH), 1)->body.len, 1 << 20);
    dev_send(&d, (uint8_t[]){ 0x30, 0x80, 0x80, 0x80, 0x01, 0, 1, 'a' }, 8); /* of 2 MB */
    UNTIL(dev_at_end(&d));
    UNTIL(notice_of("sizes", "oversize_publish"));
    UNTIL(record("sizes", KIND(DISCONNECT), 0));
    assert_string_equal(record("sizes", KIND(DISCONNECT), 0)->cause, "oversize");
    assert_ledger(&one);
    dev_close(&d);
    free(big);
}

static void subscriptions_are_granted_by_the_rules(void **state)
{
    (void)state;
    struct dev d;
    char filter[64];
    dev_join(&d, &one, "subs");
    assert_int_equal(dev_subscribe(&d, "$oc/devices/subs/sys/commands/#", 0), 0);
    assert_int_equal(dev_subscribe(&d, "$oc/devices/subs/sys/commands/#", 2), 1);
    assert_int_equal(dev_subscribe(&d, "$oc/devices/other/sys/commands/#", 1), 0x80);
    UNTIL(notice_of("subs", "subscribe_refused"));
    for (int i = 1; i < 100; i++) {
        snprintf(filter, sizeof filter, "plant/%d", i);
        assert_int_equal(dev_subscribe(&d, filter, 1), 1);
    }
    assert_int_equal(dev_subscribe(&d, "plant/100", 1), 0x80);
    dev_send(&d, (uint8_t[]){ 0xa2, 11, 0, 3, 0, 7, 'p', 'l', 'a', 'n', 't', '/', '1' }, 13);
    EXPECT(&d, 0xb0, 2, 0, 3);
    assert_int_equal(dev_subscribe(&d, "plant/100", 1), 1);
    /* what it says below $oc is not sent back to it */
    dev_publish(&d, "$oc/devices/subs/sys/commands/response/request_id=1", "{}", 2, 1, 1);
    EXPECT(&d, 0x40, 2, 0, 1);
    dev_ping(&d);
    dev_close(&d);
}

/* ---- bad peers */

static void garbage_closes_and_harms_nobody(void **state)
{
    (void)state;
    static const char *const rubbish[] = { "GET / HTTP/1.1\r\n\r\n",
                                           "\x16\x03\x01\x02\x00\x01",
                                           "\xff\xff\xff\xff\xff\xff",
                                           "\x30\x05\x00\x01"
                                           "a\x01\x02",
                                           "\xc0",
                                           "SSH-2.0-x\r\n" };
    struct dev good, d;
    dev_join(&good, &one, "good");
    for (size_t i = 0; i < CW_ARRAY_LEN(rubbish); i++) {
        dev_open(&d, &one, "rubbish");
        dev_send(&d, rubbish[i], strlen(rubbish[i]));
        if (strlen(rubbish[i]) == 1)
            dev_send(&d, "", 1); /* PINGREQ before CONNECT */
        UNTIL(dev_at_end(&d));
        assert_int_equal(d.len, 0);
        dev_close(&d);
    }
    dev_open(&d, &one, "rubbish"); /* a CONNECT in two pieces, refused, with more behind it */
    dev_send(&d, (uint8_t[]){ 0x10, 15, 0, 4, 'M', 'Q', 'T' }, 7);
    dev_ping(&good);
    dev_send(&d, (uint8_t[]){ 'T', 4, 2, 0, 60, 0, 3, 'a', 'b', 'c', 0x30, 9, 9 }, 13);
    EXPECT(&d, 0x20, 2, 0, 2);
    UNTIL(dev_at_end(&d));
    dev_close(&d);
    dev_ping(&good);
    dev_join(&d, &one, "rubbish"); /* and after the login */
    dev_send(&d, (uint8_t[]){ 0x10, 0 }, 2);
    UNTIL(dev_at_end(&d));
    UNTIL(notice_of("rubbish", "protocol_error"));
    dev_close(&d);
    dev_join(&d, &one, "rubbish");
    dev_publish(&d, "$oc/devices/rubbish/sys/messages/up", "x", 1, 2, 1);
    UNTIL(dev_at_end(&d));
    UNTIL(notice_of("rubbish", "qos2"));
    dev_close(&d);
    dev_ping(&good);
    dev_close(&good);
}

static void who_does_not_connect_in_time_is_closed(void **state)
{
    (void)state;
    struct dev silent, slow;
    int64_t began_ms = cw_mono_ms();
    dev_open(&silent, &one, "silent");
    dev_open(&slow, &one, "slow");
    dev_send(&slow, (uint8_t[]){ 0x10, 40, 0, 4, 'M' }, 5);
    UNTIL(dev_at_end(&silent) && dev_at_end(&slow));
    assert_true(cw_mono_ms() - began_ms >= 1400);
    dev_close(&silent);
    dev_close(&slow);
}

static void who_is_silent_beyond_the_keep_alive_is_offline(void **state)
{
    (void)state;
    struct dev d;
    dev_open(&d, &one, "quiet");
    dev_login(&d, &(struct login){ .keep_alive_s = 1 });
    EXPECT(&d, 0x20, 2, 0, 0);
    int64_t began_ms = cw_mono_ms();
    UNTIL(dev_at_end(&d));
    assert_true(cw_mono_ms() - began_ms >= 1400);
    UNTIL(record("quiet", KIND(DISCONNECT), 0));
    assert_string_equal(record("quiet", KIND(DISCONNECT), 0)->cause, "keep_alive");
    UNTIL(notice_of("quiet", "keep_alive"));
    dev_close(&d);
}

static void a_packet_must_end(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &one, "drip");
    dev_send(&d, (uint8_t[]){ 0x30, 100, 0, 1, 'a' }, 5);
    UNTIL(dev_at_end(&d));
    UNTIL(record("drip", KIND(DISCONNECT), 0));
    assert_string_equal(record("drip", KIND(DISCONNECT), 0)->cause, "slow_packet");
    dev_close(&d);
}

static void excess_waits_and_is_not_dropped(void **state)
{
    (void)state;
    struct dev d;
    dev_join(&d, &two, "fast");
    int64_t began_ms = cw_mono_ms();
    for (uint16_t id = 1; id <= 400; id++)
        dev_report(&d, "x", id);
    for (unsigned id = 1; id <= 400; id++)
        EXPECT(&d, 0x40, 2, (uint8_t)(id >> 8), (uint8_t)id);
    assert_true(cw_mono_ms() - began_ms >= 900); /* 200 at once, 200 in a second */
    UNTIL(notice_of("fast", "throttled_rate"));
    assert_non_null(strstr(notice_of("fast", "throttled_rate")->notice->reason, "more than 200"));
    UNTIL(strstr(gate_get(&two, "/metrics"), "causeway_gateway_throttled{reason=\"rate\"} 0"));
    assert_null(strstr(gate_get(&two, "/metrics"), "throttled_total{reason=\"rate\"} 0"));
    dev_close(&d);
}

/* ---- takeover */

static void assert_taken_over(struct dev *old, const char *id)
{
    UNTIL(dev_at_end(old));
    UNTIL(record(id, KIND(CONNECT), 1));
    Causeway__Uplink *end = record(id, KIND(DISCONNECT), 0);
    assert_non_null(end);
    assert_string_equal(end->cause, "takeover");
    assert_true(end->session_no < record(id, KIND(CONNECT), 1)->session_no);
    assert_true(position_of(end) < position_of(record(id, KIND(CONNECT), 1)));
}

static void a_second_connection_takes_over(void **state)
{
    (void)state;
    struct dev a, b;
    dev_join(&a, &one, "same");
    dev_join(&b, &one, "same");
    assert_taken_over(&a, "same");
    dev_report(&b, "x", 1);
    EXPECT(&b, 0x40, 2, 0, 1);
    dev_close(&a);
    dev_close(&b);
}

static void a_connection_to_another_instance_takes_over(void **state)
{
    (void)state;
    struct dev a, b;
    dev_join(&a, &one, "moved");
    dev_report(&a, "last words", 1);
    dev_join(&b, &two, "moved");
    dev_report(&b, "first words", 1);
    EXPECT(&b, 0x40, 2, 0, 1);
    assert_taken_over(&a, "moved");
    UNTIL(record("moved", KIND(PUBLISH), 1));
    assert_memory_equal(record("moved", KIND(PUBLISH), 0)->body.data, "last", 4);
    assert_memory_equal(record("moved", KIND(PUBLISH), 1)->body.data, "first", 5);
    dev_close(&a);
    dev_close(&b);
}

static void a_killed_gateway_does_not_hold_its_devices(void **state)
{
    (void)state;
    struct gate dying;
    struct dev a, b;
    gate_start(&dying, 3, NULL);
    dev_join(&a, &dying, "orphan");
    UNTIL(record("orphan", KIND(CONNECT), 0));
    kill(dying.pid, SIGKILL);
    gate_end(&dying);
    dev_join(&b, &one, "orphan");
    dev_report(&b, "x", 1);
    EXPECT(&b, 0x40, 2, 0, 1);
    dev_close(&a);
    dev_close(&b);
}

static void a_gateway_that_slept_too_long_ends_without_a_word(void **state)
{
    (void)state;
    struct dev a, b;
    dev_join(&a, &two, "sleeper");
    UNTIL(record("sleeper", KIND(CONNECT), 0) && gate_metric(&two, "in_flight") == 0);
    child_freeze(two.pid);
    dev_report(&a, "in the socket", 1);
    dev_join(&b, &one, "sleeper");
    int64_t until_ms = cw_mono_ms() + 3100;
    UNTIL(cw_mono_ms() > until_ms); /* the time itself is what is tested */
    kill(two.pid, SIGCONT);
    assert_int_equal(gate_end(&two), 1);
    UNTIL(dev_at_end(&a));
    assert_int_equal(a.len, 0);
    dev_report(&b, "y", 1);
    EXPECT(&b, 0x40, 2, 0, 1);
    UNTIL(record("sleeper", KIND(PUBLISH), 0));
    assert_memory_equal(record("sleeper", KIND(PUBLISH), 0)->body.data, "y", 1);
    dev_close(&a);
    dev_close(&b);
    gate_run(&two, slow_lane);
}

/* Nobody can tell it from a dead one: what it held has been given away. */
static void a_gateway_cut_off_for_too_long_lets_its_devices_go(void **state)
{
    (void)state;
    struct dev a, b;
    dev_join(&a, &two, "cut");
    UNTIL(record("cut", KIND(CONNECT), 0));
    server_kill(&nats);
    int64_t until_ms = cw_mono_ms() + 3300;
    UNTIL(cw_mono_ms() > until_ms); /* the time itself is what is tested */
    assert_false(dev_at_end(&a));
    nats_run(&nats);
    UNTIL(dev_at_end(&a));
    UNTIL(cw_bus_connected(bus) && gate_ready(&one));
    dev_join(&b, &two, "cut");
    dev_report(&b, "x", 1);
    EXPECT(&b, 0x40, 2, 0, 1);
    dev_close(&a);
    dev_close(&b);
}

/* ---- downlinks */

static Causeway__Downlink command(char *topic, uint32_t qos)
{
    Causeway__Downlink m = CAUSEWAY__DOWNLINK__INIT;
    m.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    m.deadline_ms = cw_now_ms() + 20000;
    m.topic = topic;
    m.payload = (ProtobufCBinaryData){ 2, (uint8_t *)"{}" };
    m.qos = qos;
    return m;
}

/* Takes a PUBLISH; its packet id. */
static uint16_t take_publish(struct dev *d, const char *topic, uint8_t first)
{
    uint8_t got[512];
    struct packet p;
    size_t n = dev_take(d, got);
    assert_int_equal(packet_read(&p, 4, got, n), n);
    assert_int_equal(got[0], first);
    assert_int_equal(p.publish.topic.len, strlen(topic));
    assert_memory_equal(p.publish.topic.p, topic, strlen(topic));
    return p.publish.id;
}

static void puback(struct dev *d, uint16_t id)
{
    dev_send(d, (uint8_t[]){ 0x40, 2, (uint8_t)(id >> 8), (uint8_t)id }, 4);
}

#define CMD "$oc/devices/down/sys/commands/request_id=c1"

static void a_downlink_is_told_when_the_device_acknowledged_it(void **state)
{
    (void)state;
    struct dev d;
    struct outcome o;
    Causeway__Downlink m = command((char *)CMD, 1);
    dev_join(&d, &one, "down");
    downlink(&o, "down", &m);
    uint16_t id = take_publish(&d, CMD, 0x32); /* nothing was subscribed */
    assert_int_equal(o.n, 0);
    puback(&d, id);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(ACKED));
    assert_int_equal(o.attempts, 1);
    assert_true(o.acked_ms >= o.written_ms && o.written_ms > 0);
    m.qos = 0;
    downlink(&o, "down", &m);
    take_publish(&d, CMD, 0x30);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(WRITTEN));
    m.qos = 1; /* the device asked for QoS 0 */
    assert_int_equal(dev_subscribe(&d, "$oc/devices/down/sys/commands/#", 0), 0);
    downlink(&o, "down", &m);
    take_publish(&d, CMD, 0x30);
    dev_ping(&d); /* once, not twice */
    dev_close(&d);
}

static void an_unacknowledged_downlink_is_sent_again_then_given_up(void **state)
{
    (void)state;
    struct dev d;
    struct outcome o;
    Causeway__Downlink m = command((char *)CMD, 1);
    m.resend_ms = 200;
    m.resends = 2;
    dev_join(&d, &one, "down");
    downlink(&o, "down", &m);
    uint16_t id = take_publish(&d, CMD, 0x32);
    assert_int_equal(take_publish(&d, CMD, 0x3a), id);
    assert_int_equal(take_publish(&d, CMD, 0x3a), id);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(ACK_TIMEOUT));
    assert_int_equal(o.attempts, 3);
    downlink(&o, "down", &m);
    id = take_publish(&d, CMD, 0x32);
    assert_int_equal(take_publish(&d, CMD, 0x3a), id);
    puback(&d, id);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(ACKED));
    m.resend_ms = 0;
    m.deadline_ms = cw_now_ms() + 300;
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(ACK_TIMEOUT));
    assert_int_equal(o.attempts, 1);
    dev_close(&d);
}

static void a_downlink_that_cannot_go_says_why(void **state)
{
    (void)state;
    struct dev d;
    struct outcome o;
    Causeway__Downlink m = command((char *)CMD, 1);
    dev_join(&d, &one, "down");
    m.deadline_ms = cw_now_ms() - 1;
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(EXPIRED));
    m = command((char *)"$oc/devices/down/user/own", 1);
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(NOT_SUBSCRIBED));
    m = command((char *)CMD, 1);
    m.needs_subscription = true;
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(NOT_SUBSCRIBED));
    m = command((char *)CMD, 1);
    m.session_no = holder_of("down")->session_no - 1;
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(NO_SESSION));
    m.session_no = 0;
    downlink(&o, "down", &m);
    take_publish(&d, CMD, 0x32);
    dev_close(&d); /* without a PUBACK */
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(CLOSED));
    downlink(&o, "down", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(NO_SESSION));
}

static void too_many_unacknowledged_are_refused(void **state)
{
    (void)state;
    struct dev d;
    static struct outcome o[65];
    Causeway__Downlink m = command((char *)CMD, 1);
    dev_join(&d, &one, "down");
    for (int i = 0; i < 65; i++)
        downlink(&o[i], "down", &m);
    UNTIL(o[64].n);
    assert_int_equal(o[64].outcome, OUTCOME(BUSY));
    for (int i = 0; i < 64; i++)
        puback(&d, take_publish(&d, CMD, 0x32));
    for (int i = 0; i < 64; i++) {
        UNTIL(o[i].n);
        assert_int_equal(o[i].outcome, OUTCOME(ACKED));
    }
    dev_close(&d);
}

static int copies;
static void on_copy(const struct cw_bus_msg *msg, void *arg)
{
    (void)arg;
    Causeway__Uplink *u = causeway__uplink__unpack(NULL, msg->len, msg->data);
    assert_non_null(u);
    assert_string_equal(u->topic, "$oc/devices/down/sys/commands/response/request_id=c1");
    assert_memory_equal(u->body.data, "{\"result_code\":0}", 17 - 1);
    causeway__uplink__free_unpacked(u, NULL);
    copies++;
}

static void who_waits_gets_a_copy_of_the_answer(void **state)
{
    (void)state;
    static const char answer[] = "{\"result_code\":0}";
    struct dev d;
    struct outcome o;
    Causeway__Downlink m = command((char *)CMD, 1);
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "response.test.*", NULL, on_copy, NULL);
    m.request_id = (char *)"c1";
    m.answer_to = (char *)"response.test.c1";
    dev_join(&d, &one, "down");
    downlink(&o, "down", &m);
    puback(&d, take_publish(&d, CMD, 0x32));
    dev_publish(&d, "$oc/devices/down/sys/commands/response/request_id=zz", answer, 16, 1, 1);
    dev_publish(&d, "$oc/devices/down/sys/commands/response/request_id=c1", answer, 16, 1, 2);
    dev_publish(&d, "$oc/devices/down/sys/commands/response/request_id=c1", answer, 16, 1, 3);
    EXPECT(&d, 0x40, 2, 0, 1);
    EXPECT(&d, 0x40, 2, 0, 2);
    EXPECT(&d, 0x40, 2, 0, 3);
    UNTIL(copies && record("down", KIND(PUBLISH), 2)); /* the log has all three */
    assert_int_equal(copies, 1);
    cw_bus_unsubscribe(&sub);
    dev_close(&d);
}

static void a_close_is_answered_when_the_session_is_flushed(void **state)
{
    (void)state;
    struct dev d;
    struct outcome o;
    Causeway__Downlink m = CAUSEWAY__DOWNLINK__INIT;
    m.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE;
    m.cause = (char *)"secret_reset";
    dev_join(&d, &one, "kicked");
    dev_report(&d, "before", 1);
    EXPECT(&d, 0x40, 2, 0, 1);
    downlink(&o, "kicked", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(CLOSED));
    UNTIL(dev_at_end(&d));
    UNTIL(record("kicked", KIND(DISCONNECT), 0));
    assert_string_equal(record("kicked", KIND(DISCONNECT), 0)->cause, "secret_reset");
    downlink(&o, "kicked", &m);
    UNTIL(o.n);
    assert_int_equal(o.outcome, OUTCOME(NO_SESSION));
    dev_close(&d);
}

/* ---- the end */

static void a_drain_acknowledges_what_it_took(void **state)
{
    (void)state;
    struct gate g;
    struct dev d;
    gate_start(&g, 4, NULL);
    dev_join(&d, &g, "drained");
    for (uint16_t id = 1; id <= 50; id++)
        dev_report(&d, "x", id);
    EXPECT(&d, 0x40, 2, 0, 1);
    kill(g.pid, SIGTERM);
    UNTIL(dev_at_end(&d));
    assert_int_equal(gate_end(&g), 0);
    UNTIL(record("drained", KIND(DISCONNECT), 0));
    assert_string_equal(record("drained", KIND(DISCONNECT), 0)->cause, "drain");
    int stored = 0, acked = 1;
    while (record("drained", KIND(PUBLISH), stored))
        stored++;
    while (dev_packet(&d)) {
        EXPECT(&d, 0x40, 2, 0, (uint8_t)(acked + 1));
        acked++;
    }
    assert_int_equal(acked, stored); /* what it took is stored and acknowledged, the rest neither */
    dev_close(&d);
}

static int start(void **state)
{
    (void)state;
    fixture_up(self);
    write_identity();
    gate_start(&one, 1, quick);
    gate_start(&two, 2, slow_lane);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    kill(one.pid, SIGTERM);
    kill(two.pid, SIGTERM);
    int rc = gate_end(&one) | gate_end(&two);
    fixture_down();
    return rc;
}

int main(int argc, char **argv)
{
    (void)argc;
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_login_gets_its_code),
        cmocka_unit_test(without_a_registry_the_platform_is_unavailable),
        cmocka_unit_test(a_login_that_would_wait_too_long_is_turned_away),
        cmocka_unit_test(logins_travel_in_batches),
        cmocka_unit_test(connect_and_disconnect_are_records),
        cmocka_unit_test(reports_are_acknowledged_in_order_and_stored),
        cmocka_unit_test(the_device_may_state_the_request_id),
        cmocka_unit_test(nothing_is_acknowledged_before_it_is_stored),
        cmocka_unit_test(a_full_log_stops_reading_and_judges_nobody),
        cmocka_unit_test(tls_1_2_and_1_3_are_spoken_and_sessions_resumed),
        cmocka_unit_test(a_wrong_topic_is_refused_explained_and_acknowledged),
        cmocka_unit_test(sizes_are_limited),
        cmocka_unit_test(subscriptions_are_granted_by_the_rules),
        cmocka_unit_test(garbage_closes_and_harms_nobody),
        cmocka_unit_test(who_does_not_connect_in_time_is_closed),
        cmocka_unit_test(who_is_silent_beyond_the_keep_alive_is_offline),
        cmocka_unit_test(a_packet_must_end),
        cmocka_unit_test(excess_waits_and_is_not_dropped),
        cmocka_unit_test(a_second_connection_takes_over),
        cmocka_unit_test(a_connection_to_another_instance_takes_over),
        cmocka_unit_test(a_killed_gateway_does_not_hold_its_devices),
        cmocka_unit_test(a_gateway_that_slept_too_long_ends_without_a_word),
        cmocka_unit_test(a_gateway_cut_off_for_too_long_lets_its_devices_go),
        cmocka_unit_test(a_downlink_is_told_when_the_device_acknowledged_it),
        cmocka_unit_test(an_unacknowledged_downlink_is_sent_again_then_given_up),
        cmocka_unit_test(a_downlink_that_cannot_go_says_why),
        cmocka_unit_test(too_many_unacknowledged_are_refused),
        cmocka_unit_test(who_waits_gets_a_copy_of_the_answer),
        cmocka_unit_test(a_close_is_answered_when_the_session_is_flushed),
        cmocka_unit_test(a_drain_acknowledges_what_it_took),
    };
    return cmocka_run_group_tests_name("mqtt_gateway", tests, start, stop);
}
