/* The bus against a real nats-server. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <event2/event.h>
#include <event2/thread.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "tests/unit/servers.h"
#include "tests/unit/until.h"

static struct server nats;
static struct event_base *base;
static struct cw_bus *bus;

static struct cw_bus *open_bus(void)
{
    char url[64];
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", nats.port);
    struct cw_bus *b = cw_bus_open(base, &(struct cw_bus_config){ .url = url, .name = "test" });
    assert_non_null(b);
    return b;
}

static int start(void **state)
{
    (void)state;
    cw_log_setup("test", CW_ERROR);
    evthread_use_pthreads();
    base = event_base_new();
    nats_start(&nats);
    bus = open_bus();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cw_bus_close(&bus);
    event_base_free(base);
    server_end(&nats);
    return 0;
}

struct got {
    int n, rc, no_responders;
    char text[64], header[64];
};

static void on_msg(const struct cw_bus_msg *msg, void *arg)
{
    struct got *g = arg;
    const char *header = cw_bus_header(msg, "Cw-From");
    g->no_responders += msg->no_responders;
    snprintf(g->text, sizeof g->text, "%.*s", (int)msg->len, (const char *)msg->data);
    snprintf(g->header, sizeof g->header, "%s", header ? header : "");
    g->n++;
}

static void a_published_message_arrives_with_its_headers(void **state)
{
    (void)state;
    struct got g = { 0 };
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "t.*", NULL, on_msg, &g);
    const struct cw_header h = { "Cw-From", "17" };
    assert_int_equal(cw_bus_publish_headers(bus, "t.a", NULL, &h, 1, "hello", 5), 0);
    run_until(base, &g.n, 1);
    assert_string_equal(g.text, "hello");
    assert_string_equal(g.header, "17");
    cw_bus_unsubscribe(&sub);
    assert_null(sub);
}

static void what_is_too_large_is_refused(void **state)
{
    (void)state;
    static char big[8 << 20];
    assert_int_equal(cw_bus_publish(bus, "t.b", NULL, big, sizeof big), -EMSGSIZE);
}

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct got *g = arg;
    g->rc = rc;
    if (msg)
        on_msg(msg, g);
    else
        g->n++;
}

static void echo(const struct cw_bus_msg *msg, void *arg)
{
    (void)arg;
    if (msg->len) /* an empty request is left unanswered */
        cw_bus_publish(bus, msg->reply, NULL, msg->data, msg->len);
}

static void a_request_is_answered_or_says_why_not(void **state)
{
    (void)state;
    struct got g = { 0 };
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "echo", "q", echo, NULL);
    assert_non_null(cw_bus_request(bus, "echo", "ping", 4, 5000, on_reply, &g));
    run_until(base, &g.n, 1);
    assert_int_equal(g.rc, 0);
    assert_string_equal(g.text, "ping");
    assert_non_null(cw_bus_request(bus, "echo", "", 0, 50, on_reply, &g));
    run_until(base, &g.n, 2);
    assert_int_equal(g.rc, -ETIMEDOUT);
    cw_bus_unsubscribe(&sub);
    assert_non_null(cw_bus_request(bus, "nobody", "x", 1, 5000, on_reply, &g));
    run_until(base, &g.n, 3);
    assert_int_equal(g.rc, -EHOSTUNREACH);
}

static void a_cancelled_request_stays_silent(void **state)
{
    (void)state;
    struct got cancelled = { 0 }, g = { 0 };
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "echo", NULL, echo, NULL);
    struct cw_bus_request *req = cw_bus_request(bus, "echo", "a", 1, 5000, on_reply, &cancelled);
    cw_bus_request_cancel(&req);
    assert_null(req);
    cw_bus_request(bus, "echo", "b", 1, 5000, on_reply, &g);
    run_until(base, &g.n, 1);
    assert_int_equal(cancelled.n, 0);
    cw_bus_unsubscribe(&sub);
}

struct seen {
    int lost, made;
};
static void on_change(bool connected, void *arg)
{
    struct seen *s = arg;
    connected ? s->made++ : s->lost++;
}

static void a_killed_server_is_noticed_and_found_again(void **state)
{
    (void)state;
    struct got g = { 0 }, waiting = { 0 };
    struct seen seen = { 0 };
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "t.c", NULL, on_msg, &g);
    struct cw_bus_sub *mute = cw_bus_subscribe(bus, "mute", NULL, on_msg, &g);
    uint64_t epoch = cw_bus_epoch(bus);
    cw_bus_watch(bus, on_change, &seen);
    assert_int_equal(seen.made, 1);
    cw_bus_request(bus, "mute", "", 0, 60000, on_reply, &waiting);
    run_until(base, &g.n, 1); /* it has arrived, so it is really waiting */
    server_kill(&nats);
    run_until(base, &waiting.n, 1);
    assert_int_equal(waiting.rc, -ENOTCONN);
    assert_false(cw_bus_connected(bus));
    assert_int_equal(cw_bus_publish(bus, "t.c", NULL, "x", 1), -ENOTCONN);
    assert_null(cw_bus_request(bus, "echo", "x", 1, 100, on_reply, &waiting));
    nats_run(&nats);
    run_until(base, &seen.made, 2);
    assert_true(cw_bus_epoch(bus) > epoch);
    assert_int_equal(cw_bus_publish(bus, "t.c", NULL, "back", 4), 0);
    run_until(base, &g.n, 2);
    assert_string_equal(g.text, "back");
    cw_bus_unsubscribe(&sub);
    cw_bus_unsubscribe(&mute);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_published_message_arrives_with_its_headers),
        cmocka_unit_test(what_is_too_large_is_refused),
        cmocka_unit_test(a_request_is_answered_or_says_why_not),
        cmocka_unit_test(a_cancelled_request_stays_silent),
        cmocka_unit_test(a_killed_server_is_noticed_and_found_again),
    };
    return cmocka_run_group_tests_name("bus", tests, start, stop);
}
