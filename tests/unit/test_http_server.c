/* The HTTP server, spoken to byte by byte: what it takes, what it refuses, how it ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>
#include <openssl/ssl.h>

#include "libcommon/clock.h"
#include "libcommon/http_server.h"
#include "libcommon/log.h"

#define LIMITS                                                                                     \
    {                                                                                              \
        .connections = 4, .header_bytes = 2048, .body_bytes = 4096, .request_ms = 400,             \
        .idle_ms = 400, .write_ms = 2000                                                           \
    }

/* ---- the server, in a process of its own: says what it understood */

static struct cw_http_server *server;
static struct event_base *base;

static void echo(struct cw_http_request *req)
{
    struct cw_buf out = { 0 };
    size_t len;
    const char *body = cw_http_body(req, &len), *x = cw_http_header(req, "x-a");
    cw_buf_printf(&out, "%s %s ?%s x=%s body=%zu:%.*s", cw_http_method(req), cw_http_path(req),
                  cw_http_query(req) ? cw_http_query(req) : "-", x ? x : "-", len,
                  len > 20 ? 20 : (int)len, body);
    cw_http_reply_header(req, "X-Echo", "yes");
    cw_http_reply_header(req, "X-Forged", "a\r\nSet-Cookie: b");
    cw_http_reply(req, 200, "text/plain", out.data, out.len);
    cw_buf_free(&out);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    echo(arg);
}

static void on_request(struct cw_http_request *req, void *arg)
{
    static const struct timeval soon = { 0, 150000 };
    (void)arg;
    if (strcmp(cw_http_path(req), "/later") == 0)
        event_base_once(base, -1, EV_TIMEOUT, on_later, req, &soon);
    else if (strcmp(cw_http_path(req), "/nothing") == 0)
        cw_http_reply(req, 204, NULL, NULL, 0);
    else
        echo(req);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
    (void)sig, (void)what, (void)arg;
    cw_http_server_drain(server);
}

static int serve(int tell, SSL_CTX *tls)
{
    struct cw_http_config cfg = {
        .bind = "127.0.0.1", .tls = tls, .limits = LIMITS, .fn = on_request
    };
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    cw_log_setup("test", CW_ERROR);
    cfg.base = base = event_base_new();
    if (cw_http_server_open(&server, &cfg) < 0)
        return 1;
    event_add(evsignal_new(base, SIGUSR1, on_signal, NULL), NULL);
    uint16_t port = cw_http_server_port(server);
    if (write(tell, &port, sizeof port) != sizeof port)
        return 1;
    event_base_dispatch(base);
    return 0;
}

static pid_t server_pid;
static uint16_t server_port;

static void start_server(SSL_CTX *tls)
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    server_pid = fork();
    assert_true(server_pid >= 0);
    if (server_pid == 0)
        _exit(serve(pipe_fds[1], tls));
    close(pipe_fds[1]);
    assert_int_equal(read(pipe_fds[0], &server_port, sizeof server_port), sizeof server_port);
    close(pipe_fds[0]);
}

static int start(void **state)
{
    (void)state;
    start_server(NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    kill(server_pid, SIGKILL);
    waitpid(server_pid, NULL, 0);
    return 0;
}

/* ---- the client */

static int dial(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons(server_port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval limit = { 10, 0 };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void put(int fd, const char *text)
{
    size_t len = strlen(text);
    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads until `until` has come (NULL: until the end). */
static char *get(int fd, const char *until)
{
    static char text[65536];
    size_t n = 0;
    text[0] = '\0';
    while (!until || !strstr(text, until)) {
        ssize_t got = recv(fd, text + n, sizeof text - 1 - n, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("nothing more came after: %s", text);
        if (got <= 0)
            break;
        text[n += (size_t)got] = '\0';
    }
    return text;
}

/* One request, all of the answer; a connection that is refused answers nothing. */
static char *talk(const char *request)
{
    int fd = dial();
    assert_true(fd >= 0);
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    char *text = get(fd, NULL);
    close(fd);
    return text;
}

#define HOST "Host: a\r\n"

/* ---- the rules */

static void a_request_is_understood_and_answered(void **state)
{
    (void)state;
    char *text = talk("POST /a/b?c=d&e HTTP/1.1\r\n" HOST "X-A:  v w \r\nContent-Length: 3\r\n"
                      "Connection: close\r\n\r\nxyz");
    assert_memory_equal(text, "HTTP/1.1 200 OK\r\n", 17);
    assert_non_null(strstr(text, "\r\nX-Request-Id: "));
    assert_non_null(strstr(text, "\r\nX-Echo: yes\r\n"));
    assert_non_null(strstr(text, "\r\nContent-Type: text/plain\r\n"));
    assert_non_null(strstr(text, "\r\nConnection: close\r\n"));
    assert_non_null(strstr(text, "\r\n\r\nPOST /a/b ?c=d&e x=v w body=3:xyz"));
    assert_null(strstr(text, "Set-Cookie"));
}

static void requests_follow_each_other_on_one_connection(void **state)
{
    (void)state;
    int fd = dial();
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n");
    get(fd, "GET /2");
    put(fd, "\r\nGET /nothing HTTP/1.1\r\n" HOST "\r\n");
    char *text = get(fd, "\r\n\r\n");
    assert_memory_equal(text, "HTTP/1.1 204 No Content\r\n", 25);
    assert_null(strstr(text, "Content-Length"));
    put(fd, "GET /3 HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(get(fd, NULL), "GET /3")); /* 1.0 closes by itself */
    close(fd);
}

static void a_body_comes_in_any_pieces(void **state)
{
    const char *text = "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                       "4;x=y\r\nWiki\r\n6\r\npedia \r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
    (void)state;
    assert_non_null(strstr(talk(text), "body=20:Wikipedia 0123456789"));
    int fd = dial();
    for (const char *p = text; *p; p++)
        assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
    get(fd, "body=20:Wikipedia 0123456789");
    close(fd);
}

static void who_asks_first_is_told_to_go_on(void **state)
{
    (void)state;
    int fd = dial();
    put(fd, "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_string_equal(get(fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    put(fd, "ab");
    get(fd, "body=2:ab");
    close(fd);
}

static void an_answer_reaches_who_has_closed_his_side(void **state)
{
    (void)state;
    assert_non_null(strstr(talk("GET /later HTTP/1.1\r\n" HOST "\r\n"), "GET /later"));
}

static void what_is_wrong_is_refused_with_a_body_of_the_api(void **state)
{
    static const struct {
        const char *request;
        int status;
    } rows[] = {
        { "\x16\x03\x01\x02\x01\r\n\r\n", 400 },
        { "GET\r\n\r\n", 400 },
        { "GET /\r\n\r\n", 400 },
        { "GET / HTTP/1.1 x\r\n" HOST "\r\n", 400 },
        { "GET  / HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "G(T / HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "GET a HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "GET /\x01 HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "GET / HTTP/2.0\r\n" HOST "\r\n", 505 },
        { "GET / XTTP/1.1\r\n" HOST "\r\n", 400 },
        { "GET / HTTP/1.1\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400 },
        { "GET / HTTP/1.1\r\n" HOST "X-A : b\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n" HOST "X-A: b\r\n folded\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n" HOST "nothing\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n" HOST "X-A: b\rc\r\n\r\n", 400 },
        { "GET / HTTP/1.1\n" HOST "\r\n", 400 },
        { "GET / HTTP/1.1\nHost: a\n\n", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\nx", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\nx", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
          400 },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n", 501 },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
          400 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 4097\r\n\r\n", 413 },
        { "POST / HTTP/1.1\r\n" HOST "Expect: cake\r\n\r\n", 417 },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        char want[32];
        int fd = dial();
        put(fd, rows[i].request);
        char *text = get(fd, NULL); /* it closes by itself */
        snprintf(want, sizeof want, "HTTP/1.1 %d ", rows[i].status);
        if (strncmp(text, want, strlen(want)) != 0)
            fail_msg("%s: %s", rows[i].request, text);
        assert_non_null(strstr(text, "\r\nX-Request-Id: "));
        assert_non_null(strstr(text, "{\"error_code\":\"IOTDA.0"));
        assert_non_null(strstr(text, "\r\nConnection: close\r\n"));
        close(fd);
    }
}

static void headers_and_bodies_have_an_end(void **state)
{
    struct cw_buf b = { 0 };
    (void)state;
    cw_buf_str(&b, "GET / HTTP/1.1\r\n" HOST "X-A: ");
    for (int i = 0; i < 2100; i++)
        cw_buf_str(&b, "x");
    assert_non_null(strstr(talk(b.data), "HTTP/1.1 431 ")); /* although its end never came */
    cw_buf_reset(&b);
    cw_buf_str(&b, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < 99; i++)
        cw_buf_str(&b, "a:b\r\n");
    assert_non_null(strstr((cw_buf_str(&b, "\r\n"), talk(b.data)), "HTTP/1.1 200 "));
    b.len -= 2;
    assert_non_null(strstr((cw_buf_str(&b, "a:b\r\n\r\n"), talk(b.data)), "HTTP/1.1 431 "));
    cw_buf_reset(&b);
    cw_buf_str(&b, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 300; i++)
        cw_buf_str(&b, "10\r\n0123456789abcdef\r\n");
    int fd = dial(); /* refused before its end: the answer arrives all the same */
    put(fd, b.data);
    assert_non_null(strstr(get(fd, NULL), "HTTP/1.1 413 "));
    close(fd);
    cw_buf_free(&b);
}

static void the_slow_and_the_silent_are_ended(void **state)
{
    struct timeval tick = { 0, 50000 };
    int64_t from_ms = cw_mono_ms();
    char byte;
    (void)state;
    int silent = dial(), slow = dial();
    setsockopt(slow, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick);
    put(slow, "GET / HTTP/1.1\r\nX-A: ");
    ssize_t n;
    while ((n = recv(slow, &byte, 1, 0)) < 0) { /* a byte now and then does not help */
        assert_true(cw_mono_ms() - from_ms < 5000);
        put(slow, "x");
    }
    assert_int_equal(n, 1);
    assert_true(cw_mono_ms() - from_ms >= 350);
    assert_non_null(strstr(get(slow, NULL), "TTP/1.1 408 "));
    assert_string_equal(get(silent, NULL), ""); /* nothing was asked, nothing is said */
    assert_true(cw_mono_ms() - from_ms >= 350);
    close(slow);
    close(silent);
}

static void there_is_room_for_so_many_connections(void **state)
{
    int fds[4];
    (void)state;
    for (int i = 0; i < 4; i++) {
        fds[i] = dial();
        put(fds[i], "GET / HTTP/1.1\r\n" HOST "\r\n");
        get(fds[i], "body=");
    }
    int fifth = dial();
    char byte;
    assert_true(recv(fifth, &byte, 1, 0) <= 0); /* closed at once */
    close(fifth);
    put(fds[0], "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    get(fds[0], NULL);
    fifth = dial();
    put(fifth, "GET / HTTP/1.1\r\n" HOST "\r\n");
    get(fifth, "body=");
    close(fds[0]);
    fds[0] = fifth;
    for (int i = 0; i < 4; i++) { /* the next test finds the room empty */
        put(fds[i], "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
        get(fds[i], NULL);
        close(fds[i]);
    }
}

static void who_leaves_early_harms_nobody(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct linger reset = { 1, 0 };
        int fd = dial();
        put(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
    }
    int64_t until_ms = cw_mono_ms() + 5000; /* until then it may not have seen them go */
    while (!strstr(talk("GET /later HTTP/1.1\r\n" HOST "\r\n"), "GET /later"))
        assert_true(cw_mono_ms() < until_ms);
}

static void a_drain_answers_what_was_asked_and_takes_no_more(void **state)
{
    int status;
    (void)state;
    int asked = dial(), idle = dial();
    put(idle, "GET / HTTP/1.1\r\n" HOST "\r\n");
    get(idle, "body=");
    put(asked, "GET /later HTTP/1.1\r\n" HOST "\r\n");
    put(idle, "GET /x HTTP/1.1\r\n" HOST "\r\n"); /* when it is answered, the other one was read */
    get(idle, "GET /x");
    kill(server_pid, SIGUSR1);
    assert_string_equal(get(idle, NULL), "");
    assert_int_equal(dial(), -1);
    char *text = get(asked, NULL);
    assert_non_null(strstr(text, "\r\nConnection: close\r\n"));
    assert_non_null(strstr(text, "GET /later"));
    close(asked);
    close(idle);
    kill(server_pid, SIGKILL);
    waitpid(server_pid, &status, 0);
    start_server(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_understood_and_answered),
        cmocka_unit_test(requests_follow_each_other_on_one_connection),
        cmocka_unit_test(a_body_comes_in_any_pieces),
        cmocka_unit_test(who_asks_first_is_told_to_go_on),
        cmocka_unit_test(an_answer_reaches_who_has_closed_his_side),
        cmocka_unit_test(what_is_wrong_is_refused_with_a_body_of_the_api),
        cmocka_unit_test(headers_and_bodies_have_an_end),
        cmocka_unit_test(the_slow_and_the_silent_are_ended),
        cmocka_unit_test(there_is_room_for_so_many_connections),
        cmocka_unit_test(who_leaves_early_harms_nobody),
        cmocka_unit_test(a_drain_answers_what_was_asked_and_takes_no_more),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("http_server", tests, start, stop);
}
