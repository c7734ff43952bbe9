/* http_peer.h - HTTP/1.1 on a socket that both generators use: growing buffers and the framing of
 * one message with Content-Length. Written from RFC 9112; knows nothing of the platform. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct peer {
    int fd;
    char *in, *out;
    size_t in_len, in_size, out_len, out_size;
    bool want_write;
};

struct message {
    const char *start; /* the first line, not terminated */
    size_t start_len;
    const char *body;
    size_t body_len, total; /* total: bytes of the message */
};

/* Appends to p->out. */
void peer_put(struct peer *p, const void *data, size_t len);
/* Sends what waits and sets the epoll interest; `data` comes back with the events. false: the
 * connection is gone. */
bool peer_flush(struct peer *p, int epoll, void *data);
/* Receives what is there. false: the connection ended. */
bool peer_receive(struct peer *p);
/* The first message in p->in. Returns 1, 0 when it is not complete, -1 when it is malformed or
 * larger than 4 MB. */
int peer_next(const struct peer *p, struct message *m);
/* Forgets the first n bytes that arrived. */
void peer_drop(struct peer *p, size_t n);
/* Closes and frees. */
void peer_close(struct peer *p);
