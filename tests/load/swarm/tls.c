/* tls.c - the bytes of a connection, plain or TLS. */
#include "swarm.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/socket.h>

void tls_prepare(struct swarm *w)
{
    if (!w->o.tls)
        return;
    w->tls = SSL_CTX_new(TLS_client_method());
    if (!w->tls)
        abort();
    SSL_CTX_set_mode(w->tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
    if (!*w->o.ca)
        return;
    if (!SSL_CTX_load_verify_locations(w->tls, w->o.ca, NULL))
        options_wrong("--ca", ERR_reason_error_string(ERR_get_error()));
    SSL_CTX_set_verify(w->tls, SSL_VERIFY_PEER, NULL);
}

void tls_begin(struct swarm *w, struct device *d)
{
    d->ssl = SSL_new(w->tls);
    if (!d->ssl)
        abort();
    SSL_set_fd(d->ssl, d->fd);
    SSL_set_connect_state(d->ssl);
    if (d->ticket)
        SSL_set_session(d->ssl, d->ticket);
}

int tls_handshake(struct swarm *w, struct device *d, bool *write)
{
    int done = SSL_do_handshake(d->ssl), why = SSL_get_error(d->ssl, done);
    *write = why == SSL_ERROR_WANT_WRITE;
    if (done == 1) {
        w->stats.resumed += SSL_session_reused(d->ssl);
        return 1;
    }
    ERR_clear_error();
    return *write || why == SSL_ERROR_WANT_READ ? 0 : -1;
}

void tls_end(struct swarm *w, struct device *d)
{
    if (!d->ssl)
        return;
    if (w->o.resume) {
        SSL_SESSION_free(d->ticket);
        d->ticket = SSL_get1_session(d->ssl);
    }
    SSL_free(d->ssl);
    d->ssl = NULL;
}

static ssize_t outcome(struct device *d, int n)
{
    int why = n > 0 ? SSL_ERROR_NONE : SSL_get_error(d->ssl, n);
    if (n > 0)
        return n;
    ERR_clear_error();
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return -1;
}

ssize_t io_send(struct device *d, const void *data, size_t len)
{
    return d->ssl ? outcome(d, SSL_write(d->ssl, data, len)) : send(d->fd, data, len, MSG_NOSIGNAL);
}

ssize_t io_recv(struct device *d, void *data, size_t len)
{
    return d->ssl ? outcome(d, SSL_read(d->ssl, data, len)) : recv(d->fd, data, len, 0);
}
