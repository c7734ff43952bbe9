/* http_server.h - HTTP/1.1 and HTTPS for programs, on the daemon's loop. Loop thread only.
 *
 * A connection carries one request at a time. What it refuses by itself (malformed, too large, too
 * slow) is answered with an error body of the API and closed; every answer has an X-Request-Id.
 * Listens with SO_REUSEPORT, so that several processes share a port. */
#pragma once

#include "libcommon/error.h"
#include "libcommon/http_parse.h"

struct cw_app;
struct event_base;
struct ssl_ctx_st;
struct cw_http_server;
struct cw_http_request;

struct cw_http_limits {
    unsigned connections;
    size_t header_bytes, body_bytes;
    int64_t request_ms; /* first byte to last byte of a request; also the TLS handshake */
    int64_t idle_ms;    /* between requests */
    int64_t write_ms;   /* no progress while answering */
};
#define CW_HTTP_LIMITS ((struct cw_http_limits){ 2000, 32 << 10, 1 << 20, 20000, 75000, 30000 })

/* Owns req until cw_http_reply(), which it calls exactly once, now or later. */
typedef void cw_http_fn(struct cw_http_request *req, void *arg);

struct cw_http_config {
    struct event_base *base;
    struct cw_app *app; /* requests count as in flight; NULL in tests */
    const char *bind;
    uint16_t port;          /* 0: any, see cw_http_server_port() */
    struct ssl_ctx_st *tls; /* NULL: plain; borrowed */
    const char *proxy_from; /* networks of entries, which say for whom (proxy.h); NULL, "": none */
    struct cw_http_limits limits;
    /* A longer body than limits.body_bytes may be taken for some requests: asked once the head is
     * there; 0: not for this one. NULL: for none. */
    size_t (*body_max)(const char *method, const char *path, void *arg);
    cw_http_fn *fn;
    void *arg;
};

/* 0 or negative errno (-EADDRINUSE, -EACCES, -EINVAL: bind is no address). */
int cw_http_server_open(struct cw_http_server **out, const struct cw_http_config *cfg);
/* The port that is listened on, also where the kernel chose it. */
uint16_t cw_http_server_port(const struct cw_http_server *s);
/* No new connections; idle ones close; what is being answered is finished, then closed. */
void cw_http_server_drain(struct cw_http_server *s);
/* Cuts what is left; requests still owned by their handlers may be replied to (to nobody). */
void cw_http_server_close(struct cw_http_server **s);

/* Of the request, borrowed until cw_http_reply(). */
const char *cw_http_method(const struct cw_http_request *req);
const char *cw_http_path(const struct cw_http_request *req);  /* as sent, without query */
const char *cw_http_query(const struct cw_http_request *req); /* as sent; NULL without */
const char *cw_http_header(const struct cw_http_request *req, const char *name); /* or NULL */
const struct cw_http_field *cw_http_headers(const struct cw_http_request *req, size_t *n);
/* The whole body, chunks put together; "" when there is none. */
const void *cw_http_body(const struct cw_http_request *req, size_t *len);
const char *cw_http_peer(const struct cw_http_request *req); /* address:port */
const char *cw_http_id(const struct cw_http_request *req);   /* 32 hex: its X-Request-Id */
int64_t cw_http_age_ms(const struct cw_http_request *req);   /* since it was complete */

/* For the reply that comes after it. A value with CR or LF is left out: nobody adds lines of his
 * own (RFC 9110, 5.5). */
void cw_http_reply_header(struct cw_http_request *req, const char *name, const char *value);
/* Ends the request. body is copied; type NULL: application/json. 204 has no body. */
void cw_http_reply(struct cw_http_request *req, int status, const char *type, const void *body,
                   size_t len);

/* A TLS context for servers from PEM files: TLS 1.2 and up. NULL after writing one line to err. */
struct ssl_ctx_st *cw_http_tls(const char *cert_file, const char *key_file, char *err,
                               size_t err_size);
