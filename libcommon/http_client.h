/* http_client.h - HTTP and HTTPS requests from the loop, over libcurl's multi interface.
 *
 * TLS 1.2 or later, the chain checked against the caller's CA or the system's, the host name
 * against the certificate's SAN entries or, when it has none, its CN. Connections are kept and used
 * again by requests with the same trust. Redirects are not followed, proxies of the environment
 * not used. Addresses are checked after the name has been resolved: link-local ones and those of
 * the deny list are never connected to. Loop thread only.
 *
 * Names: Debian's libcurl has no c-ares; it resolves each name that is not an address on a thread
 * of its own and hands the result to the loop. */
#pragma once

#include "libcommon/util.h"

struct event_base;
struct cw_http;
struct cw_http_call;

/* How far a request came; the stage it failed in. */
enum cw_http_stage {
    CW_HTTP_DNS,
    CW_HTTP_CONNECT,
    CW_HTTP_TLS,
    CW_HTTP_SENT,   /* request on its way or sent, no complete answer */
    CW_HTTP_STATUS, /* the answer is complete, whatever its status */
};
const char *cw_http_stage_name(enum cw_http_stage stage); /* dns connect tls sent status */

struct cw_http_config {
    const char *deny;          /* "10.0.0.0/8, fd00::/8"; NULL or "": link-local only */
    const char *source;        /* address of this machine; NULL or "": as its routes say */
    size_t max_answer_bytes;   /* of the body that is kept; 0: 64 KB */
    unsigned idle_connections; /* kept open for reuse; 0: 64 */
};

/* All strings and the body are borrowed until the callback has run. */
struct cw_http_request {
    const char *method;         /* POST */
    const char *url;            /* http or https */
    const char *const *headers; /* "Name: value" lines, NULL at the end; may be NULL */
    const void *body;
    size_t len;
    int64_t timeout_ms;         /* of the whole request, from the call */
    int64_t connect_timeout_ms; /* of name, connection and TLS; 0: as timeout_ms */
    const char *ca_pem;         /* the only CA trusted; NULL: the system's */
    const char *cert_name;      /* expected in the certificate instead of the URL's host; or NULL */
    const char *sni;            /* sent instead of the URL's host; or NULL */
    bool any_name;              /* check the chain, not the name */
};

/* Borrowed for the callback. */
struct cw_http_outcome {
    enum cw_http_stage stage;
    int status;         /* of the answer, 0 without */
    const char *code;   /* stable word: ok, dns, refused, timeout, reset, denied, tls_… */
    const char *reason; /* for a person */
    const char *body;   /* what was kept of the answer's, NUL-terminated */
    size_t len;
    bool truncated; /* the answer was larger than is kept */
    int64_t took_ms;
};
typedef void cw_http_fn(const struct cw_http_outcome *outcome, void *arg);

/* -EINVAL: the deny list does not parse, or the source is no address; *err (size bytes) says it. */
int cw_http_open(struct cw_http **out, struct event_base *base, const struct cw_http_config *cfg,
                 char *err, size_t size);
/* Runs cb once, later, from the loop. Never NULL. */
struct cw_http_call *cw_http_send(struct cw_http *http, const struct cw_http_request *request,
                                  cw_http_fn *cb, void *arg);
void cw_http_cancel(struct cw_http_call **call); /* cb will not run; sets *call to NULL */
size_t cw_http_running(const struct cw_http *http);
/* No callback runs any more. Sets *http to NULL. */
void cw_http_close(struct cw_http **http);
