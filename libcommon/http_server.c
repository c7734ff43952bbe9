#include "libcommon/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "libcommon/clock.h"
#include "libcommon/http_parse.h"
#include "libcommon/ids.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/proxy.h"
#include "libcommon/service.h"

#define LINGER_MS    2000
#define LINGER_BYTES (8U << 20)
#define PAUSE_MS     100
#define READ_AHEAD   (64U << 10)

/* IDLE waits for a first byte; BODY has the head; ANSWERING is the handler's; FLUSHING writes;
 * LINGER reads on after a refusal, since closing with unread bytes would destroy the answer. */
enum state { IDLE, HEAD, BODY, ANSWERING, FLUSHING, LINGER };

struct connection {
    LIST_ENTRY(connection) link;
    struct cw_http_server *server;
    struct bufferevent *bev;
    struct event *timer;
    enum state state;
    size_t scanned; /* bytes of the head looked at, for the empty line */
    size_t lingered;
    bool eof, last; /* last: closes after the answer */
    struct cw_http_request *req;
    char peer[64];
};

struct cw_http_request {
    struct connection *conn; /* NULL: gone */
    struct cw_app *app;
    struct cw_http_head head;
    struct cw_buf body;
    struct cw_http_chunks chunks;
    struct cw_buf headers; /* of the answer */
    char id[33], peer[64];
    int64_t complete_ms;
    size_t body_max;
    bool handed_over, in_flight;
};

struct cw_http_server {
    struct cw_http_config cfg;
    struct evconnlistener *listener;
    struct event *resume;
    struct cw_proxy *proxy; /* NULL: no entries */
    LIST_HEAD(, connection) connections;
    unsigned n_connections;
    uint16_t port;
    bool draining;
    struct cw_metric *opened, *refused, *open;
};

static void request_free(struct cw_http_request *req)
{
    if (req->in_flight && req->app)
        cw_app_in_flight(req->app, -1);
    cw_http_head_free(&req->head);
    cw_buf_free(&req->body);
    cw_buf_free(&req->headers);
    free(req);
}

static void connection_close(struct connection *c)
{
    struct cw_http_server *s = c->server;
    if (c->req && c->state == ANSWERING)
        c->req->conn = NULL; /* still its handler's */
    else if (c->req)
        request_free(c->req);
    LIST_REMOVE(c, link);
    s->n_connections--;
    cw_metric_add(s->open, -1);
    event_free(c->timer);
    bufferevent_free(c->bev);
    free(c);
}

static void arm(struct connection *c, int64_t ms)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    evtimer_add(c->timer, &t);
}

static void set_state(struct connection *c, enum state state)
{
    const struct cw_http_limits *l = &c->server->cfg.limits;
    c->state = state;
    switch (state) {
    case IDLE:
        arm(c, l->idle_ms);
        break;
    case HEAD:
        arm(c, l->request_ms); /* goes on over the body: not renewed there */
        break;
    case BODY:
        break;
    case ANSWERING:
        evtimer_del(c->timer); /* the handler has a limit of its own */
        break;
    case FLUSHING:
        arm(c, l->write_ms);
        break;
    case LINGER:
        arm(c, LINGER_MS);
        break;
    }
}

static struct cw_http_request *request_new(struct connection *c)
{
    struct cw_http_request *req = cw_calloc(1, sizeof *req);
    req->conn = c;
    req->app = c->server->cfg.app;
    cw_random_hex(req->id, sizeof req->id - 1);
    memcpy(req->peer, c->peer, sizeof req->peer);
    return req;
}

/* ---- answering */

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = { { 200, "OK" },
                    { 201, "Created" },
                    { 204, "No Content" },
                    { 400, "Bad Request" },
                    { 401, "Unauthorized" },
                    { 403, "Forbidden" },
                    { 404, "Not Found" },
                    { 405, "Method Not Allowed" },
                    { 408, "Request Timeout" },
                    { 409, "Conflict" },
                    { 413, "Content Too Large" },
                    { 417, "Expectation Failed" },
                    { 431, "Request Header Fields Too Large" },
                    { 500, "Internal Server Error" },
                    { 501, "Not Implemented" },
                    { 503, "Service Unavailable" },
                    { 505, "HTTP Version Not Supported" } };
    for (size_t i = 0; i < CW_ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return status < 400 ? "OK" : "Error";
}

static void process(struct connection *c);

static void on_flushed(struct connection *c)
{
    bool linger = c->last && !c->eof && !c->req->handed_over;
    request_free(c->req);
    c->req = NULL;
    if (linger) { /* a refusal before everything was read */
        set_state(c, LINGER);
        if (!c->server->cfg.tls)
            shutdown(bufferevent_getfd(c->bev), SHUT_WR);
        process(c);
    } else if (c->last || c->eof || c->server->draining)
        connection_close(c);
    else {
        set_state(c, IDLE);
        process(c); /* the next request may be here already */
    }
}

void cw_http_reply_header(struct cw_http_request *req, const char *name, const char *value)
{
    if (strpbrk(value, "\r\n"))
        return; /* nobody may add lines of his own */
    cw_buf_printf(&req->headers, "%s: %s\r\n", name, value);
}

static void answer(struct connection *c, int status, const char *type, const void *body, size_t len)
{
    struct cw_http_request *req = c->req;
    struct evbuffer *out = bufferevent_get_output(c->bev);
    bool head_only = req->head.method && strcmp(req->head.method, "HEAD") == 0;
    c->last = c->last || req->head.close || c->server->draining;
    evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\nX-Request-Id: %s\r\n", status, reason_of(status),
                        req->id);
    if (status != 204)
        evbuffer_add_printf(out, "Content-Type: %s\r\nContent-Length: %zu\r\n",
                            type ? type : "application/json;charset=UTF-8", len);
    if (req->headers.len)
        evbuffer_add(out, req->headers.data, req->headers.len);
    evbuffer_add_printf(out, "%s\r\n",
                        c->last              ? "Connection: close\r\n"
                        : req->head.http_1_0 ? "Connection: keep-alive\r\n"
                                             : "");
    if (status != 204 && !head_only && len)
        evbuffer_add(out, body, len);
    set_state(c, FLUSHING);
}

void cw_http_reply(struct cw_http_request *req, int status, const char *type, const void *body,
                   size_t len)
{
    if (req->conn)
        answer(req->conn, status, type, body, len);
    else
        request_free(req); /* nobody is there any more */
}

/* Answers by itself and closes. */
static void refuse(struct connection *c, int status, enum cw_error e, const char *why)
{
    struct cw_buf body = { 0 };
    if (!c->req)
        c->req = request_new(c);
    c->last = true;
    cw_error_body(&body, e, "%s", why);
    cw_log(CW_INFO, "http_refused", "peer=%s status=%d reason=\"%s\" id=%s", c->peer, status, why,
           c->req->id);
    cw_metric_add(c->server->refused, 1);
    answer(c, status, NULL, body.data, body.len);
    cw_buf_free(&body);
}

static void hand_over(struct connection *c)
{
    struct cw_http_request *req = c->req;
    req->complete_ms = cw_mono_ms();
    req->handed_over = true;
    set_state(c, ANSWERING);
    if (req->app) {
        req->in_flight = true;
        cw_app_in_flight(req->app, 1);
    }
    c->server->cfg.fn(req, c->server->cfg.arg);
}

/* ---- reading */

/* Length of the head including its empty line; 0: not here yet. A bare LF ends it as well, so that
 * the parser can refuse it at once. */
static size_t find_head(struct connection *c, struct evbuffer *in)
{
    struct evbuffer_ptr from;
    size_t len = evbuffer_get_length(in), back = c->scanned > 3 ? c->scanned - 3 : 0;
    if (evbuffer_ptr_set(in, &from, back, EVBUFFER_PTR_SET) < 0)
        return 0;
    struct evbuffer_ptr strict = evbuffer_search(in, "\r\n\r\n", 4, &from);
    struct evbuffer_ptr loose = evbuffer_search(in, "\n\n", 2, &from);
    c->scanned = len;
    if (loose.pos >= 0 && (strict.pos < 0 || loose.pos < strict.pos))
        return (size_t)loose.pos + 2;
    return strict.pos >= 0 ? (size_t)strict.pos + 4 : 0;
}

static void skip_empty_lines(struct evbuffer *in)
{
    char two[2];
    while (evbuffer_copyout(in, two, 2) == 2 && two[0] == '\r' && two[1] == '\n')
        evbuffer_drain(in, 2);
}

/* Each step returns true when the state has changed and there may be more to do. */
static size_t body_max(const struct connection *c)
{
    const struct cw_http_config *cfg = &c->server->cfg;
    size_t own =
        cfg->body_max ? cfg->body_max(cw_http_method(c->req), cw_http_path(c->req), cfg->arg) : 0;
    return own > cfg->limits.body_bytes ? own : cfg->limits.body_bytes;
}

static bool step_head(struct connection *c, struct evbuffer *in)
{
    const struct cw_http_limits *l = &c->server->cfg.limits;
    const char *why;
    if (c->state == IDLE) {
        skip_empty_lines(in);
        if (evbuffer_get_length(in) == 0)
            return false;
        c->scanned = 0;
        set_state(c, HEAD);
    }
    size_t len = find_head(c, in);
    if (len > l->header_bytes || (len == 0 && evbuffer_get_length(in) > l->header_bytes)) {
        refuse(c, 431, CW_E_TOO_LARGE, "The headers are too long.");
        return false;
    }
    if (len == 0)
        return false;
    c->req = request_new(c);
    int status = cw_http_parse_head(&c->req->head, (const char *)evbuffer_pullup(in, (ssize_t)len),
                                    len, &why);
    evbuffer_drain(in, len);
    if (status) {
        refuse(c, status, status == 431 ? CW_E_TOO_LARGE : CW_E_FORMAT, why);
        return false;
    }
    c->req->body_max = body_max(c);
    if (c->req->head.body_bytes > c->req->body_max) {
        refuse(c, 413, CW_E_TOO_LARGE, "The body is too long.");
        return false;
    }
    if (c->req->head.expects_continue && (c->req->head.chunked || c->req->head.body_bytes))
        bufferevent_write(c->bev, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    set_state(c, BODY);
    return true;
}

static bool chunked_done(struct connection *c, struct evbuffer *in)
{
    bool done = false;
    while (!done && evbuffer_get_length(in)) {
        size_t n = evbuffer_get_contiguous_space(in);
        long used = cw_http_chunks_feed(&c->req->chunks, &c->req->body, c->req->body_max,
                                        (const char *)evbuffer_pullup(in, (ssize_t)n), n, &done);
        if (used < 0) {
            if (used == -EFBIG)
                refuse(c, 413, CW_E_TOO_LARGE, "The body is too long.");
            else
                refuse(c, 400, CW_E_FORMAT, "The chunked body is malformed.");
            return false;
        }
        evbuffer_drain(in, (size_t)used);
    }
    return done;
}

static bool plain_done(struct connection *c, struct evbuffer *in)
{
    struct cw_http_request *req = c->req;
    while (req->body.len < req->head.body_bytes && evbuffer_get_length(in)) {
        size_t n = evbuffer_get_contiguous_space(in), left = req->head.body_bytes - req->body.len;
        n = n < left ? n : left;
        cw_buf_add(&req->body, evbuffer_pullup(in, (ssize_t)n), n);
        evbuffer_drain(in, n);
    }
    return req->body.len == req->head.body_bytes;
}

static void process(struct connection *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    if (c->state == LINGER) {
        c->lingered += evbuffer_get_length(in);
        evbuffer_drain(in, evbuffer_get_length(in));
        if (c->eof || c->lingered > LINGER_BYTES)
            connection_close(c);
        return;
    }
    if ((c->state == IDLE || c->state == HEAD) && !step_head(c, in)) {
        if (c->eof && (c->state == IDLE || c->state == HEAD))
            connection_close(c);
        return;
    }
    if (c->state != BODY)
        return;
    if (c->req->head.chunked ? chunked_done(c, in) : plain_done(c, in))
        hand_over(c);
    else if (c->eof && c->state == BODY)
        connection_close(c);
}

static void on_read(struct bufferevent *bev, void *arg)
{
    (void)bev;
    process(arg);
}

static void on_written(struct bufferevent *bev, void *arg)
{
    struct connection *c = arg;
    (void)bev;
    if (c->state == FLUSHING)
        on_flushed(c);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct connection *c = arg;
    (void)bev;
    if (what & BEV_EVENT_CONNECTED)
        return; /* TLS is up */
    if (!(what & BEV_EVENT_EOF)) {
        connection_close(c);
        return;
    }
    c->eof = true; /* it may still read: an answer under way is finished */
    if (c->state == IDLE || c->state == HEAD || c->state == BODY || c->state == LINGER)
        connection_close(c);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct connection *c = arg;
    (void)fd, (void)what;
    if (c->state == HEAD || c->state == BODY)
        refuse(c, 408, CW_E_FORMAT, "The request did not arrive in time.");
    else
        connection_close(c);
}

/* ---- listening */

static void write_peer(char *out, size_t size, const struct sockaddr *addr)
{
    char host[INET6_ADDRSTRLEN] = "-";
    uint16_t port = 0;
    if (addr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)addr;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        port = ntohs(in->sin_port);
    } else if (addr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)addr;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        port = ntohs(in->sin6_port);
    }
    snprintf(out, size, "%s:%u", host, port);
}

static struct bufferevent *socket_bev(struct cw_http_server *s, evutil_socket_t fd)
{
    if (!s->cfg.tls)
        return bufferevent_socket_new(s->cfg.base, fd, BEV_OPT_CLOSE_ON_FREE);
    SSL *ssl = SSL_new(s->cfg.tls);
    if (!ssl)
        return NULL;
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        s->cfg.base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (bev) /* browsers and SDKs close without a farewell */
        bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

static bool has_room(const struct cw_http_server *s)
{
    return s->n_connections + cw_proxy_waiting(s->proxy) < s->cfg.limits.connections;
}

static void turn_away(struct cw_http_server *s, evutil_socket_t fd)
{
    static struct cw_log_gate gate;
    cw_log_limited(&gate, CW_WARN, "http_full", "connections=%u", s->n_connections);
    cw_metric_add(s->refused, 1);
    evutil_closesocket(fd);
}

static void begin(struct cw_http_server *s, evutil_socket_t fd, const char *peer)
{
    int one = 1;
    struct bufferevent *bev = has_room(s) ? socket_bev(s, fd) : NULL;
    if (!bev) {
        turn_away(s, fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *c = cw_calloc(1, sizeof *c);
    c->server = s;
    c->bev = bev;
    c->timer = evtimer_new(s->cfg.base, on_timer, c);
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    LIST_INSERT_HEAD(&s->connections, c, link);
    s->n_connections++;
    cw_metric_add(s->open, 1);
    bufferevent_setcb(bev, on_read, on_written, on_event, c);
    bufferevent_setwatermark(bev, EV_READ, 0, READ_AHEAD);
    set_state(c, IDLE);
    if (s->cfg.tls)
        arm(c, s->cfg.limits.request_ms); /* the handshake and the first byte */
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

/* The entry has said for whom: nobody, when it looks whether we are there. */
static void on_proxied(int fd, const char *peer, void *server)
{
    begin(server, fd, *peer ? peer : "-");
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int len,
                      void *arg)
{
    struct cw_http_server *s = arg;
    char peer[64];
    (void)l, (void)len;
    cw_metric_add(s->opened, 1);
    if (!has_room(s))
        turn_away(s, fd);
    else if (cw_proxy_speaks(s->proxy, addr))
        cw_proxy_await(s->proxy, fd, s);
    else {
        write_peer(peer, sizeof peer, addr);
        begin(s, fd, peer);
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct cw_http_server *s = arg;
    (void)fd, (void)what;
    if (!s->draining)
        evconnlistener_enable(s->listener);
}

static void on_accept_error(struct evconnlistener *l, void *arg)
{
    static const struct timeval pause = { 0, PAUSE_MS * 1000L };
    static struct cw_log_gate gate;
    struct cw_http_server *s = arg;
    cw_log_limited(&gate, CW_WARN, "accept_failed", "reason=\"%s\"", strerror(errno));
    evconnlistener_disable(l); /* out of file descriptors: a loop of errors helps nobody */
    evtimer_add(s->resume, &pause);
}

static int read_address(struct sockaddr_storage *out, int *len, const char *bind, uint16_t port)
{
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, bind, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *len = sizeof *v4;
    } else if (inet_pton(AF_INET6, bind, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *len = sizeof *v6;
    } else
        return -EINVAL;
    return 0;
}

static uint16_t bound_port(evutil_socket_t fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = { .v6 = { 0 } };
    socklen_t len = sizeof at;
    if (getsockname(fd, &at.any, &len) < 0)
        return 0;
    return ntohs(at.any.sa_family == AF_INET6 ? at.v6.sin6_port : at.v4.sin_port);
}

int cw_http_server_open(struct cw_http_server **out, const struct cw_http_config *cfg)
{
    struct sockaddr_storage at;
    int len = 0, rc = read_address(&at, &len, cfg->bind, cfg->port);
    if (rc < 0)
        return rc;
    struct cw_http_server *s = cw_calloc(1, sizeof *s);
    s->cfg = *cfg;
    LIST_INIT(&s->connections);
    if (cfg->proxy_from && *cfg->proxy_from) {
        char err[120];
        rc = cw_proxy_open(&s->proxy, cfg->base, cfg->proxy_from, cfg->limits.request_ms,
                           on_proxied, err, sizeof err);
        if (rc < 0) {
            cw_log(CW_ERROR, "proxy_from", "reason=\"%s\"", err);
            free(s);
            return rc;
        }
    }
    s->listener = evconnlistener_new_bind(cfg->base, on_accept, s,
                                          LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC |
                                              LEV_OPT_REUSEABLE | LEV_OPT_REUSEABLE_PORT,
                                          1024, (struct sockaddr *)&at, len);
    if (!s->listener) {
        rc = errno ? -errno : -EADDRINUSE;
        cw_proxy_close(&s->proxy);
        free(s);
        return rc;
    }
    evconnlistener_set_error_cb(s->listener, on_accept_error);
    s->resume = evtimer_new(cfg->base, on_resume, s);
    s->port = bound_port(evconnlistener_get_fd(s->listener));
    const char *labels = cfg->tls ? "tls=\"1\"" : "tls=\"0\"";
    s->opened = cw_counter("causeway_http_connections_total", labels, "Connections accepted");
    s->refused = cw_counter("causeway_http_refused_total", labels, "Refused before an operation");
    s->open = cw_gauge("causeway_http_connections", labels, "Connections open");
    *out = s;
    return 0;
}

uint16_t cw_http_server_port(const struct cw_http_server *s) { return s->port; }

void cw_http_server_drain(struct cw_http_server *s)
{
    s->draining = true;
    evconnlistener_disable(s->listener);
    if (s->listener) { /* frees the port: the kernel must not queue for us any more */
        evconnlistener_free(s->listener);
        s->listener = NULL;
    }
    cw_proxy_close(&s->proxy);
    for (struct connection *c = LIST_FIRST(&s->connections), *next; c; c = next) {
        next = LIST_NEXT(c, link);
        if (c->state == IDLE)
            connection_close(c);
    }
}

void cw_http_server_close(struct cw_http_server **out)
{
    struct cw_http_server *s = *out;
    if (!s)
        return;
    for (struct connection *c = LIST_FIRST(&s->connections), *next; c; c = next) {
        next = LIST_NEXT(c, link);
        connection_close(c);
    }
    if (s->listener)
        evconnlistener_free(s->listener);
    cw_proxy_close(&s->proxy);
    event_free(s->resume);
    free(s);
    *out = NULL;
}

/* ---- looking at a request */

const char *cw_http_method(const struct cw_http_request *req) { return req->head.method; }
const char *cw_http_path(const struct cw_http_request *req) { return req->head.path; }
const char *cw_http_query(const struct cw_http_request *req) { return req->head.query; }
const char *cw_http_peer(const struct cw_http_request *req) { return req->peer; }
const char *cw_http_id(const struct cw_http_request *req) { return req->id; }

const char *cw_http_header(const struct cw_http_request *req, const char *name)
{
    return cw_http_field(&req->head, name);
}

const struct cw_http_field *cw_http_headers(const struct cw_http_request *req, size_t *n)
{
    *n = req->head.n_fields;
    return req->head.fields;
}

const void *cw_http_body(const struct cw_http_request *req, size_t *len)
{
    *len = req->body.len;
    return req->body.len ? req->body.data : "";
}

int64_t cw_http_age_ms(const struct cw_http_request *req)
{
    return cw_mono_ms() - req->complete_ms;
}

struct ssl_ctx_st *cw_http_tls(const char *cert_file, const char *key_file, char *err,
                               size_t err_size)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    const char *failed = NULL;
    if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
        failed = "OpenSSL";
    else if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
        failed = cert_file;
    else if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1 ||
             SSL_CTX_check_private_key(ctx) != 1)
        failed = key_file;
    if (failed) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());
        snprintf(err, err_size, "%s: %s", failed, reason ? reason : "cannot be used");
        ERR_clear_error();
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                 SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    return ctx;
}
