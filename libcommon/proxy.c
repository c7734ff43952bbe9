#include "libcommon/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include "libcommon/cidr.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"

#define AGAIN_MS 5
#define V1_MAX   107 /* of a header of version 1, with its CR LF */
#define V2_HEAD  16
#define V2_MAX   (V2_HEAD + 1024) /* more in it than addresses is let pass, so much of it */

enum { V2_LOCAL = 0x20, V2_PROXY = 0x21, V2_TCP4 = 0x11, V2_TCP6 = 0x21 };

static const char v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

/* ---- version 1: PROXY TCP4 <from> <to> <port> <port>\r\n */

static bool read_v1(char peer[CW_PROXY_PEER_LEN], const char *line)
{
    char family[8], from[48], to[48];
    unsigned port, to_port;
    uint8_t address[16];
    if (strncmp(line, "PROXY UNKNOWN", 13) == 0)
        return true;
    if (sscanf(line, "PROXY %7s %47s %47s %5u %5u", family, from, to, &port, &to_port) != 5 ||
        port > 65535 || to_port > 65535)
        return false;
    bool six = strcmp(family, "TCP6") == 0;
    if ((!six && strcmp(family, "TCP4") != 0) ||
        inet_pton(six ? AF_INET6 : AF_INET, from, address) != 1)
        return false;
    snprintf(peer, CW_PROXY_PEER_LEN, six ? "[%s]:%u" : "%s:%u", from, port);
    return true;
}

static ssize_t v1(char peer[CW_PROXY_PEER_LEN], const char *data, size_t len)
{
    static const char begin[] = "PROXY ";
    char line[V1_MAX + 1];
    size_t n = len < V1_MAX ? len : V1_MAX, prefix = sizeof begin - 1;
    if (memcmp(data, begin, len < prefix ? len : prefix) != 0)
        return -EPROTO;
    const char *end = memmem(data, n, "\r\n", 2);
    if (!end)
        return len < V1_MAX ? 0 : -EPROTO;
    n = (size_t)(end - data);
    memcpy(line, data, n);
    line[n] = '\0';
    return read_v1(peer, line) ? (ssize_t)n + 2 : -EPROTO;
}

/* ---- version 2: signature, command, family, length, addresses, what else */

static bool read_v2(char peer[CW_PROXY_PEER_LEN], const uint8_t *p, size_t n)
{
    char host[INET6_ADDRSTRLEN];
    const uint8_t *at = p + V2_HEAD;
    if (p[12] == V2_LOCAL)
        return true;
    if (p[12] != V2_PROXY)
        return false;
    if (p[13] == V2_TCP4 && n >= 12) {
        inet_ntop(AF_INET, at, host, sizeof host);
        snprintf(peer, CW_PROXY_PEER_LEN, "%s:%u", host, at[8] << 8 | at[9]);
    } else if (p[13] == V2_TCP6 && n >= 36) {
        inet_ntop(AF_INET6, at, host, sizeof host);
        snprintf(peer, CW_PROXY_PEER_LEN, "[%s]:%u", host, at[32] << 8 | at[33]);
    } else
        return p[13] != V2_TCP4 && p[13] != V2_TCP6; /* of a family without ports */
    return true;
}

static ssize_t v2(char peer[CW_PROXY_PEER_LEN], const uint8_t *p, size_t len)
{
    if (memcmp(p, v2_signature, len < sizeof v2_signature ? len : sizeof v2_signature) != 0)
        return -EPROTO;
    if (len < V2_HEAD)
        return 0;
    size_t n = (size_t)p[14] << 8 | p[15];
    if (V2_HEAD + n > V2_MAX)
        return -EPROTO;
    if (len < V2_HEAD + n)
        return 0;
    return read_v2(peer, p, n) ? (ssize_t)(V2_HEAD + n) : -EPROTO;
}

ssize_t cw_proxy_read(char peer[CW_PROXY_PEER_LEN], const void *data, size_t len)
{
    const char *p = data;
    *peer = '\0';
    if (len == 0)
        return 0;
    return *p == v2_signature[0] ? v2(peer, data, len) : v1(peer, p, len);
}

int cw_proxy_take(int fd, char peer[CW_PROXY_PEER_LEN])
{
    char seen[V2_MAX];
    ssize_t n = recv(fd, seen, sizeof seen, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0)
        return -ECONNRESET;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
    ssize_t used = cw_proxy_read(peer, seen, (size_t)n);
    if (used <= 0)
        return (int)used;
    return recv(fd, seen, (size_t)used, MSG_DONTWAIT) == used ? 1 : -ECONNRESET;
}

/* ---- awaiting it */

struct arrival {
    LIST_ENTRY(arrival) link;
    struct cw_proxy *p;
    struct event *event;
    void *with;
    int64_t until_ms;
    int fd;
};

struct cw_proxy {
    LIST_HEAD(, arrival) arrivals;
    struct event_base *base;
    struct cw_cidr_list *from;
    int64_t limit_ms;
    cw_proxy_fn *cb;
    unsigned n;
};

static int forget(struct arrival *a)
{
    int fd = a->fd;
    LIST_REMOVE(a, link);
    a->p->n--;
    event_free(a->event);
    free(a);
    return fd;
}

/* What has not come in one turn is looked for again: the bytes of half a header stay where they
 * are, and would report for ever. */
static void look(struct arrival *a)
{
    static struct cw_log_gate gate;
    static const struct timeval pause = { 0, AGAIN_MS * 1000L };
    char peer[CW_PROXY_PEER_LEN];
    int rc = cw_proxy_take(a->fd, peer);
    if (rc == 0 && cw_mono_ms() < a->until_ms) {
        evtimer_add(a->event, &pause);
        return;
    }
    if (rc == 0)
        rc = -ETIMEDOUT;
    struct cw_proxy *p = a->p;
    void *with = a->with;
    int fd = forget(a);
    if (rc > 0) {
        p->cb(fd, peer, with);
        return;
    }
    close(fd);
    if (rc != -ECONNRESET)
        cw_log_limited(&gate, CW_WARN, "proxy_header", "reason=\"%s\"", strerror(-rc));
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    look(arg);
}

void cw_proxy_await(struct cw_proxy *p, int fd, void *with)
{
    struct arrival *a = cw_calloc(1, sizeof *a);
    *a = (struct arrival){ .p = p, .with = with, .fd = fd, .until_ms = cw_mono_ms() + p->limit_ms };
    a->event = evtimer_new(p->base, on_again, a);
    LIST_INSERT_HEAD(&p->arrivals, a, link);
    p->n++;
    look(a);
}

bool cw_proxy_speaks(const struct cw_proxy *p, const struct sockaddr *address)
{
    return p && cw_cidr_has(p->from, address);
}

unsigned cw_proxy_waiting(const struct cw_proxy *p) { return p ? p->n : 0; }

int cw_proxy_open(struct cw_proxy **out, struct event_base *base, const char *from,
                  int64_t limit_ms, cw_proxy_fn *cb, char *err, size_t size)
{
    struct cw_proxy *p = cw_calloc(1, sizeof *p);
    int rc = cw_cidr_parse(&p->from, from, err, size);
    if (rc < 0) {
        free(p);
        return rc;
    }
    p->base = base;
    p->limit_ms = limit_ms;
    p->cb = cb;
    *out = p;
    return 0;
}

void cw_proxy_close(struct cw_proxy **at)
{
    struct cw_proxy *p = *at;
    for (struct arrival *a; p && (a = LIST_FIRST(&p->arrivals));)
        close(forget(a)); /* NOLINT: the analyzer does not see that it leaves the list */
    if (p)
        cw_cidr_free(&p->from);
    free(p);
    *at = NULL;
}
