/* The PROXY protocol: what entries say, and what is none of it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>
#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/proxy.h"

/* Runs the loop until the condition holds. */
#define UNTIL(condition)                                                                           \
    for (int64_t until_ms = cw_mono_ms() + 30000; !(condition);) {                                 \
        assert_true(cw_mono_ms() < until_ms);                                                      \
        event_base_loop(base, EVLOOP_NONBLOCK);                                                    \
    }

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V2(rest)  SIGNATURE rest, sizeof SIGNATURE rest - 1

static const struct {
    const char *data;
    size_t len;
    const char *peer; /* NULL: -EPROTO */
} headers[] = {
#define V1(text) text, sizeof text - 1
    { V1("PROXY TCP4 1.2.3.4 5.6.7.8 1000 1883\r\n"), "1.2.3.4:1000" },
    { V1("PROXY TCP6 2001:db8::7 ::1 65535 1\r\n"), "[2001:db8::7]:65535" },
    { V1("PROXY UNKNOWN\r\n"), "" },
    { V1("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), "" },
    { V1("PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n"), NULL },
    { V1("PROXY TCP4 1.2.3.999 5.6.7.8 1000 1883\r\n"), NULL },
    { V1("PROXY TCP4 ::1 ::1 1 2\r\n"), NULL },
    { V1("PROXY TCP4 1.2.3.4 5.6.7.8 70000 1883\r\n"), NULL },
    { V1("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"), NULL },
    { V1("GET / HTTP/1.1\r\n"), NULL },
    { V1("\x10\x2a\0\4MQTT\4\xc2"), NULL },
    { V2("\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\x03\xe8\x07\x5b"), "1.2.3.4:1000" },
    { V2("\x21\x11\0\x0f\1\2\3\4\5\6\7\x08\x03\xe8\x07\x5b\x04\0\0"), "1.2.3.4:1000" },
    { V2("\x21\x21\0\x24"
         "\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\7"
         "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\x50\0\x51"),
      "[2001:db8::7]:80" },
    { V2("\x20\0\0\0"), "" },
    { V2("\x20\x11\0\x0c\1\2\3\4\5\6\7\x08\x03\xe8\x07\x5b"), "" },
    { V2("\x21\x31\0\2xx"), "" },
    { V2("\x21\x11\0\4\1\2\3\4"), NULL },
    { V2("\x11\x11\0\0"), NULL },
    { V2("\x22\x11\0\0"), NULL },
    { V2("\x21\x11\x04\x01"), NULL },
    { "\r\n\r\nxxxx", 8, NULL },
};

/* Whole; and cut at each byte: then more is asked for, or what cannot become one is refused. */
static void each_header(void **state)
{
    (void)state;
    char peer[CW_PROXY_PEER_LEN];
    for (size_t i = 0; i < CW_ARRAY_LEN(headers); i++) {
        ssize_t n = cw_proxy_read(peer, headers[i].data, headers[i].len);
        if (!headers[i].peer) {
            assert_int_equal(n, -EPROTO);
            continue;
        }
        assert_int_equal(n, headers[i].len);
        assert_string_equal(peer, headers[i].peer);
        for (size_t len = 0; len < headers[i].len; len++)
            assert_int_equal(cw_proxy_read(peer, headers[i].data, len), 0);
    }
}

static void a_line_without_end(void **state)
{
    (void)state;
    char peer[CW_PROXY_PEER_LEN], line[200];
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY ", 6);
    assert_int_equal(cw_proxy_read(peer, line, 106), 0);
    assert_int_equal(cw_proxy_read(peer, line, 107), -EPROTO);
    assert_int_equal(cw_proxy_read(peer, line, sizeof line), -EPROTO);
}

static struct event_base *base;
static char got[CW_PROXY_PEER_LEN];
static int got_fd;

static void on_proxied(int fd, const char *peer, void *with)
{
    assert_ptr_equal(with, &base);
    strcpy(got, peer);
    got_fd = fd;
}

static struct cw_proxy *open_one(int64_t limit_ms)
{
    struct cw_proxy *p;
    char err[120];
    assert_int_equal(
        cw_proxy_open(&p, base, "10.0.0.0/8, ::1", limit_ms, on_proxied, err, sizeof err), 0);
    got_fd = -1;
    return p;
}

static void what_follows_stays_in_the_socket(void **state)
{
    (void)state;
    int fds[2];
    char rest[8] = "";
    struct cw_proxy *p = open_one(10000);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(write(fds[1], "PROXY TCP4 1.2.3.4", 18), 18);
    cw_proxy_await(p, fds[0], &base);
    assert_int_equal(cw_proxy_waiting(p), 1);
    assert_int_equal(write(fds[1], " 5.6.7.8 1000 1883\r\nhello", 25), 25);
    UNTIL(got_fd == fds[0]);
    assert_string_equal(got, "1.2.3.4:1000");
    assert_int_equal(read(fds[0], rest, sizeof rest), 5);
    assert_string_equal(rest, "hello");
    assert_int_equal(cw_proxy_waiting(p), 0);
    close(fds[0]);
    close(fds[1]);
    cw_proxy_close(&p);
}

static void nonsense_silence_and_an_end_are_closed(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        int fds[2];
        char byte;
        struct cw_proxy *p = open_one(i == 1 ? 20 : 10000);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        if (i == 0)
            assert_int_equal(write(fds[1], "GET / ", 6), 6);
        cw_proxy_await(p, fds[0], &base);
        if (i == 2)
            shutdown(fds[1], SHUT_WR);
        if (i == 3)
            cw_proxy_close(&p);
        UNTIL(cw_proxy_waiting(p) == 0);
        assert_true(read(fds[1], &byte, 1) <= 0);
        assert_int_equal(got_fd, -1);
        close(fds[1]);
        cw_proxy_close(&p);
    }
}

static void who_is_an_entry(void **state)
{
    (void)state;
    struct cw_proxy *p = open_one(1000);
    struct sockaddr_in four = { .sin_family = AF_INET };
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    inet_pton(AF_INET, "10.1.2.3", &four.sin_addr);
    assert_true(cw_proxy_speaks(p, (struct sockaddr *)&four));
    assert_true(cw_proxy_speaks(p, (struct sockaddr *)&six));
    inet_pton(AF_INET, "11.1.2.3", &four.sin_addr);
    assert_false(cw_proxy_speaks(p, (struct sockaddr *)&four));
    assert_false(cw_proxy_speaks(NULL, (struct sockaddr *)&six));
    cw_proxy_close(&p);
    char err[120];
    assert_int_equal(cw_proxy_open(&p, base, "10.0.0.0/8 x", 1, on_proxied, err, sizeof err),
                     -EINVAL);
    assert_non_null(strstr(err, "x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_header),
        cmocka_unit_test(a_line_without_end),
        cmocka_unit_test(what_follows_stays_in_the_socket),
        cmocka_unit_test(nonsense_silence_and_an_end_are_closed),
        cmocka_unit_test(who_is_an_entry),
    };
    base = event_base_new();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    event_base_free(base);
    return rc;
}
