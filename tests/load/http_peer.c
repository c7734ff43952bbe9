/* http_peer.c - sockets, buffers, Content-Length. */
#include "http_peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES  65536
#define MESSAGE_MAX (4 << 20)

void peer_put(struct peer *p, const void *data, size_t len)
{
    while (p->out_size < p->out_len + len) {
        p->out_size = p->out_size ? p->out_size * 2 : 1024;
        p->out = realloc(p->out, p->out_size);
        if (!p->out)
            abort();
    }
    memcpy(p->out + p->out_len, data, len);
    p->out_len += len;
}

bool peer_flush(struct peer *p, int epoll, void *data)
{
    struct epoll_event ev = { .data.ptr = data };
    size_t done = 0;
    while (done < p->out_len) {
        ssize_t n = send(p->fd, p->out + done, p->out_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n < 0)
            break;
        done += n;
    }
    memmove(p->out, p->out + done, p->out_len - done);
    p->out_len -= done;
    ev.events = EPOLLIN | (p->out_len ? EPOLLOUT : 0);
    if (p->want_write != (p->out_len > 0))
        epoll_ctl(epoll, EPOLL_CTL_MOD, p->fd, &ev);
    p->want_write = p->out_len > 0;
    return true;
}

bool peer_receive(struct peer *p)
{
    ssize_t n;
    if (p->in_size - p->in_len < READ_BYTES + 1)
        p->in = realloc(p->in, p->in_size += READ_BYTES + 1);
    if (!p->in)
        abort();
    n = recv(p->fd, p->in + p->in_len, p->in_size - p->in_len - 1, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return false;
    p->in_len += n > 0 ? n : 0;
    p->in[p->in_len] = 0;
    return true;
}

static size_t content_length(const char *head, const char *end)
{
    static const char name[] = "content-length:";
    for (const char *at = head; at < end; at++) {
        if (!strncasecmp(at, name, sizeof name - 1))
            return strtoul(at + sizeof name - 1, NULL, 10);
        at = memchr(at, '\n', end - at);
        if (!at)
            break;
    }
    return 0;
}

int peer_next(const struct peer *p, struct message *m)
{
    const char *end = p->in_len ? memmem(p->in, p->in_len, "\r\n\r\n", 4) : NULL;
    if (!end)
        return p->in_len > MESSAGE_MAX ? -1 : 0;
    m->start = p->in;
    m->start_len = (const char *)memchr(p->in, '\r', p->in_len) - p->in;
    m->body = end + 4;
    m->body_len = content_length(p->in, end);
    m->total = (m->body - p->in) + m->body_len;
    if (m->body_len > MESSAGE_MAX)
        return -1;
    return p->in_len >= m->total;
}

void peer_drop(struct peer *p, size_t n)
{
    memmove(p->in, p->in + n, p->in_len - n + 1);
    p->in_len -= n;
}

void peer_close(struct peer *p)
{
    close(p->fd);
    free(p->in);
    free(p->out);
    *p = (struct peer){ .fd = -1 };
}
