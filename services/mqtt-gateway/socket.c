/* The socket of a connection, plain or TLS, never waiting. */
#include <errno.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services/mqtt-gateway/handshake.h"

static ssize_t read_plain(struct conn *c, void *to, size_t size)
{
    ssize_t n = read(c->fd, to, size);
    if (n > 0)
        return n;
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -ECONNRESET;
}

static ssize_t write_plain(struct conn *c, const void *from, size_t len)
{
    ssize_t n = send(c->fd, from, len, MSG_NOSIGNAL);
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
}

/* What a failed TLS call means; the queue of errors is emptied, or it would taint the next call. */
static int tls_result(struct conn *c, int n)
{
    int e = SSL_get_error(c->ssl, n);
    ERR_clear_error();
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        return 0;
    return e == SSL_ERROR_ZERO_RETURN || e == SSL_ERROR_SYSCALL ? -ECONNRESET : -EPROTO;
}

ssize_t socket_read(struct conn *c, void *to, size_t size)
{
    if (!c->ssl)
        return read_plain(c, to, size);
    int n = SSL_read(c->ssl, to, (int)size);
    return n > 0 ? n : tls_result(c, n);
}

ssize_t socket_write(struct conn *c, const void *from, size_t len)
{
    if (!c->ssl)
        return write_plain(c, from, len);
    int n = SSL_write(c->ssl, from, (int)len);
    return n > 0 ? n : tls_result(c, n);
}

int socket_secure(struct conn *c, bool *wants_write)
{
    int n = SSL_accept(c->ssl);
    if (n == 1)
        return 0;
    int e = SSL_get_error(c->ssl, n);
    bool again = e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE;
    if (!again)
        handshake_failed(c, e);
    ERR_clear_error();
    *wants_write = e == SSL_ERROR_WANT_WRITE;
    return again ? -EAGAIN : -EPROTO;
}

bool socket_has_more(const struct conn *c) { return c->ssl && SSL_pending(c->ssl) > 0; }

void socket_shut(struct conn *c)
{
    if (c->ssl) {
        SSL_shutdown(c->ssl);
        ERR_clear_error();
    }
    shutdown(c->fd, SHUT_WR);
}

void socket_close(struct conn *c)
{
    SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    c->fd = -1;
}
