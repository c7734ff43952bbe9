/* sink.c - the address that a platform pushes to: answers every POST with 200 at once, counts, and
 * measures the time since the stamp in the body. `GET /` gives the figures as JSON, `GET /reset`
 * gives them and begins anew. */
#include "http_peer.h"
#include "measure.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 512

struct sink {
    char *stamp;
    long port;
    char mark[64];
    int epoll, listener;
    uint64_t pushes, connections, unstamped;
    int64_t first_us, last_us;
    struct histogram latency;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig) { interrupted = sig; }

static const char *figures(const struct sink *s)
{
    static char text[600];
    int64_t us = s->last_us - s->first_us;
    snprintf(text, sizeof text,
             "{\"pushes\":%" PRIu64 ",\"connections\":%" PRIu64 ",\"unstamped\":%" PRIu64
             ",\"rate\":%.0f,\"latency_us\":%s}\n",
             s->pushes, s->connections, s->unstamped, us > 0 ? s->pushes * 1e6 / us : 0,
             hist_json(&s->latency));
    return text;
}

static void on_push(struct sink *s, const struct message *m)
{
    const char *at = memmem(m->body, m->body_len, s->mark, strlen(s->mark));
    s->last_us = now_us();
    if (!s->pushes++)
        s->first_us = s->last_us;
    if (!at) {
        s->unstamped++;
        return;
    }
    int64_t late = wall_us() - strtoll(at + strlen(s->mark), NULL, 10);
    hist_add(&s->latency, late > 0 ? late : 0);
}

static void on_message(struct sink *s, struct peer *p, const struct message *m)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    char head[700];
    if (!strncmp(m->start, "POST ", 5)) {
        on_push(s, m);
        peer_put(p, ok, sizeof ok - 1);
        return;
    }
    const char *told = figures(s);
    peer_put(p, head,
             snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s",
                      strlen(told), told));
    if (!strncmp(m->start, "GET /reset", 10)) {
        s->pushes = s->unstamped = s->connections = 0;
        s->latency = (struct histogram){ 0 };
    }
}

static void on_accept(struct sink *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct peer *p = fd < 0 ? NULL : calloc(1, sizeof *p);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = p };
    if (!p)
        return;
    p->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) < 0) {
        close(fd);
        free(p);
        return;
    }
    s->connections++; /* NOLINT: epoll keeps it */
}

static void on_peer(struct sink *s, struct peer *p)
{
    struct message m;
    int whole = 0;
    bool here = peer_receive(p);
    while (here && (whole = peer_next(p, &m)) == 1) {
        on_message(s, p, &m);
        peer_drop(p, m.total);
    }
    if (here && whole == 0 && peer_flush(p, s->epoll, p))
        return;
    peer_close(p);
    free(p);
}

static void listen_on(struct sink *s)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(s->port) };
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&at, sizeof at) < 0 ||
        listen(s->listener, 1024) < 0)
        options_wrong("--port", "cannot listen there");
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &ev);
}

int main(int argc, char **argv)
{
#define AT(f) offsetof(struct sink, f)
    static const struct option_row rows[] = {
        { "port", OPT_NUMBER, AT(port), NULL, 1, 65535, "port on 127.0.0.1 (needed)" },
        { "stamp", OPT_TEXT, AT(stamp), "at", 0, 0, "property with microseconds since 1970" },
    };
    static struct sink s;
    struct epoll_event events[BATCH];
    options_read(&s, rows, sizeof rows / sizeof *rows,
                 "sink: answers what a platform pushes, counts it, measures how late it comes",
                 "GET / gives the figures, GET /reset gives them and begins anew.", argc, argv);
    if (!s.port)
        options_wrong("--port", "is needed");
    snprintf(s.mark, sizeof s.mark, "\"%s\":", s.stamp);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    listen_on(&s);
    while (!interrupted) {
        int n = epoll_wait(s.epoll, events, BATCH, -1);
        for (int i = 0; i < n; i++)
            events[i].data.ptr ? on_peer(&s, events[i].data.ptr) : on_accept(&s);
    }
    fputs(figures(&s), stdout);
    return 0;
}
