/* caller.c - calls of a REST API over kept connections: at a rate or as fast as they are answered.
 * At a rate a call's time counts from when it was due, not from when a connection was free. */
#include "http_peer.h"
#include "measure.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BATCH      512
#define CALL_BYTES 8192
#define GIVE_UP_S  30

struct options {
    char *host, *method, *path, *body, *token, *ids;
    long port, calls, connections, rate, first;
    bool quiet;
};

struct line {
    struct peer peer;
    int64_t due_us;
    bool busy;
};

struct caller {
    struct options o;
    char **ids;
    size_t ids_count;
    struct line *lines;
    uint64_t sent, answered, status[600], broken;
    int64_t start_us, last_us;
    struct histogram latency;
    int epoll;
    char first_refusal[600];
};

static void load_ids(struct caller *c)
{
    char *text = NULL, id[257];
    size_t size = 0;
    FILE *f = *c->o.ids ? fopen(c->o.ids, "r") : NULL;
    if (*c->o.ids && !f)
        options_wrong("--ids", "cannot be read");
    while (f && getline(&text, &size, f) > 0)
        if (sscanf(text, "%256s", id) == 1) {
            c->ids = realloc(c->ids, (c->ids_count + 1) * sizeof *c->ids);
            if (!c->ids || !(c->ids[c->ids_count++] = strdup(id)))
                abort();
        }
    free(text);
    if (f)
        fclose(f);
}

/* Puts `pattern` with {n} (the running number) and {d} (a line of --ids) filled in. */
static size_t fill(const struct caller *c, const char *pattern, uint64_t n, char *to, size_t size)
{
    size_t len = 0;
    for (const char *at = pattern; *at && len + 300 < size;) {
        if (!strncmp(at, "{n}", 3))
            len += sprintf(to + len, "%" PRIu64, c->o.first + n);
        else if (!strncmp(at, "{d}", 3) && c->ids_count)
            len += sprintf(to + len, "%s", c->ids[n % c->ids_count]);
        else {
            to[len++] = *at++;
            continue;
        }
        at += 3;
    }
    to[len] = 0;
    return len;
}

static void ask(struct caller *c, struct line *l, int64_t due)
{
    char path[CALL_BYTES], body[CALL_BYTES], head[2 * CALL_BYTES];
    size_t len = fill(c, c->o.body, c->sent, body, sizeof body);
    fill(c, c->o.path, c->sent, path, sizeof path);
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: %s\r\nX-Auth-Token: %s\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     c->o.method, path, c->o.host, c->o.token, len);
    peer_put(&l->peer, head, n);
    peer_put(&l->peer, body, len);
    l->busy = true;
    l->due_us = due;
    c->sent++;
    if (!peer_flush(&l->peer, c->epoll, l))
        options_wrong("connection", "lost while sending");
}

static void on_answer(struct caller *c, struct line *l, const struct message *m)
{
    int status = m->start_len > 12 ? atoi(m->start + 9) : 0;
    c->last_us = now_us();
    hist_add(&c->latency, c->last_us - l->due_us);
    c->status[status > 0 && status < 600 ? status : 0]++;
    if (status >= 400 && !*c->first_refusal)
        snprintf(c->first_refusal, sizeof c->first_refusal, "%.*s", (int)m->body_len, m->body);
    l->busy = false;
    c->answered++;
}

static void open_line(struct caller *c, struct line *l)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(c->o.port) };
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = l };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, c->o.host, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        options_wrong("--port", "nobody answers there");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    *l = (struct line){ .peer.fd = fd };
    epoll_ctl(c->epoll, EPOLL_CTL_ADD, fd, &ev);
}

static void open_lines(struct caller *c)
{
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    c->lines = calloc(c->o.connections, sizeof *c->lines);
    for (long i = 0; c->lines && i < c->o.connections; i++)
        open_line(c, &c->lines[i]);
}

static void on_readable(struct caller *c, struct line *l)
{
    struct message m;
    if (!peer_receive(&l->peer)) {
        if (l->busy)
            options_wrong("connection", "closed by the server");
        peer_close(&l->peer);
        open_line(c, l); /* idle for too long, which is its right */
        return;
    }
    if (peer_next(&l->peer, &m) != 1)
        return;
    on_answer(c, l, &m);
    peer_drop(&l->peer, m.total);
}

/* Starts what is due on the lines that are free. */
static void ask_some(struct caller *c, int64_t now)
{
    for (long i = 0; i < c->o.connections && c->sent < (uint64_t)c->o.calls; i++) {
        int64_t due = c->o.rate ? c->start_us + (int64_t)(c->sent * 1e6 / c->o.rate) : now;
        if (due > now)
            return;
        if (!c->lines[i].busy)
            ask(c, &c->lines[i], due);
    }
}

static void run(struct caller *c)
{
    struct epoll_event events[BATCH];
    c->start_us = c->last_us = now_us();
    while (c->answered < (uint64_t)c->o.calls) {
        ask_some(c, now_us());
        int n = epoll_wait(c->epoll, events, BATCH, c->o.rate ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            struct line *l = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && !peer_flush(&l->peer, c->epoll, l))
                options_wrong("connection", "lost while sending");
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                on_readable(c, l);
        }
        if (now_us() - c->last_us > GIVE_UP_S * 1000000LL)
            options_wrong("answers", "none for 30 s");
    }
}

static int tell(const struct caller *c)
{
    uint64_t refused = 0;
    const char *comma = "";
    printf("{\"calls\":%" PRIu64 ",\"rate\":%.0f,\"status\":{", c->answered,
           c->answered * 1e6 / (c->last_us - c->start_us));
    for (int i = 0; i < 600; i++)
        if (c->status[i]) {
            printf("%s\"%d\":%" PRIu64, comma, i, c->status[i]);
            comma = ",";
            refused += i < 200 || i >= 300 ? c->status[i] : 0;
        }
    printf("},\"latency_us\":%s}\n", hist_json(&c->latency));
    if (refused)
        fprintf(stderr, "caller: first refusal: %s\n", c->first_refusal);
    return refused ? 1 : 0;
}

int main(int argc, char **argv)
{
#define AT(f) offsetof(struct caller, o.f)
    static const struct option_row rows[] = {
        { "host", OPT_TEXT, AT(host), "127.0.0.1", 0, 0, "IPv4 address of the API" },
        { "port", OPT_NUMBER, AT(port), NULL, 1, 65535, "its port, plain HTTP (needed)" },
        { "method", OPT_TEXT, AT(method), "GET", 0, 0, "of every call" },
        { "path", OPT_TEXT, AT(path), "/", 0, 0, "with {n}: running number, {d}: line of --ids" },
        { "body", OPT_TEXT, AT(body), "", 0, 0, "the same" },
        { "ids", OPT_TEXT, AT(ids), "", 0, 0, "file; the first word of each line" },
        { "token", OPT_TEXT, AT(token), "", 0, 0, "X-Auth-Token" },
        { "calls", OPT_NUMBER, AT(calls), "1000", 1, 100000000, "how many" },
        { "first", OPT_NUMBER, AT(first), "1", 0, 1000000000, "the first {n}" },
        { "connections", OPT_NUMBER, AT(connections), "16", 1, 10000, "kept open" },
        { "rate", OPT_NUMBER, AT(rate), "0", 0, 1000000, "calls/s; 0: as fast as answered" },
    };
    static struct caller c;
    options_read(&c, rows, sizeof rows / sizeof *rows,
                 "caller: calls a REST API at a rate, measures the answers",
                 "Ends with 0: all answered with 2xx, 1: refusals, 2: wrong usage or no answer.",
                 argc, argv);
    if (!c.o.port)
        options_wrong("--port", "is needed");
    load_ids(&c);
    open_lines(&c);
    run(&c);
    return tell(&c);
}
