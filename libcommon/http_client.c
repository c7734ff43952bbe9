#include "libcommon/http_client.h"
#include "libcommon/cidr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include <curl/curl.h>
#include <event2/event.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "libcommon/clock.h"

#define ANSWER_MAX_BYTES (64U << 10) /* kept of a body when the caller does not say */
#define READ_MAX_BYTES   (1U << 20)  /* a longer answer is cut off */
#define HEADER_MAX_BYTES (64U << 10)
#define IDLE_CONNECTIONS 64
#define EASY_SPARE       64 /* handles kept for the next requests */
#define LINK_LOCAL       "169.254.0.0/16 fe80::/10"

struct cw_http {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct cw_cidr_list *deny;
    char *source; /* as curl spells it; NULL: none */
    size_t max_answer_bytes;
    size_t running;
    LIST_HEAD(, cw_http_call) calls;
    CURL *spare[EASY_SPARE];
    size_t n_spare;
    bool reaping;
};

struct cw_http_call {
    LIST_ENTRY(cw_http_call) link;
    struct cw_http *http;
    CURL *easy;
    cw_http_fn *cb;
    void *arg;
    struct curl_slist *headers;
    char *ca;   /* with the name rule, so that connections are shared by like only */
    char *name; /* expected in the certificate; NULL: not checked */
    char *sni;  /* NULL: libcurl's */
    struct cw_buf body;
    size_t header_bytes, body_bytes;
    bool secure, tls /* begun */, sent, denied, truncated, too_long;
    char denied_address[INET6_ADDRSTRLEN];
    int64_t started_ms;
    char error[CURL_ERROR_SIZE];
};

static const char *const stage_names[] = {
    [CW_HTTP_DNS] = "dns",   [CW_HTTP_CONNECT] = "connect", [CW_HTTP_TLS] = "tls",
    [CW_HTTP_SENT] = "sent", [CW_HTTP_STATUS] = "status",
};

const char *cw_http_stage_name(enum cw_http_stage stage) { return stage_names[stage]; }

/* ---- libcurl and libevent */

struct socket_watch {
    struct event *event;
};

static void call_free(struct cw_http_call *call)
{
    struct cw_http *http = call->http;
    LIST_REMOVE(call, link);
    http->running--;
    curl_multi_remove_handle(http->multi, call->easy);
    if (http->n_spare < EASY_SPARE) {
        curl_easy_reset(call->easy);
        http->spare[http->n_spare++] = call->easy;
    } else {
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->headers);
    cw_buf_free(&call->body);
    free(call->ca);
    free(call->name);
    free(call->sni);
    free(call);
}

static void finish(struct cw_http_call *call, CURLcode rc);

static void reap(struct cw_http *http)
{
    CURLMsg *msg;
    int left;
    if (http->reaping)
        return;
    http->reaping = true;
    while ((msg = curl_multi_info_read(http->multi, &left)))
        if (msg->msg == CURLMSG_DONE) {
            char *call = NULL;
            CURLcode rc = msg->data.result;
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &call);
            finish((struct cw_http_call *)(void *)call, rc);
        }
    http->reaping = false;
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct cw_http *http = arg;
    int running, flags = ((what & EV_READ) ? CURL_CSELECT_IN : 0) |
                         ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(http->multi, fd, flags, &running);
    reap(http);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct cw_http *http = arg;
    int running;
    (void)fd, (void)what;
    curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    reap(http);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *data)
{
    struct cw_http *http = arg;
    struct socket_watch *w = data;
    (void)easy;
    if (w)
        event_free(w->event);
    if (what == CURL_POLL_REMOVE) {
        free(w);
        curl_multi_assign(http->multi, fd, NULL);
        return 0;
    }
    if (!w) {
        w = cw_calloc(1, sizeof *w);
        curl_multi_assign(http->multi, fd, w);
    }
    short kind = (short)(((what & CURL_POLL_IN) ? EV_READ : 0) |
                         ((what & CURL_POLL_OUT) ? EV_WRITE : 0) | EV_PERSIST);
    w->event = event_new(http->base, fd, kind, on_socket, http);
    return event_add(w->event, NULL);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
    struct cw_http *http = arg;
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    (void)multi;
    if (ms < 0)
        evtimer_del(http->timer);
    else
        evtimer_add(http->timer, &t);
    return 0;
}

/* ---- callbacks of one request */

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
    struct cw_http_call *call = arg;
    (void)data;
    call->header_bytes += size * n;
    if (call->header_bytes > HEADER_MAX_BYTES) {
        call->too_long = true;
        return 0;
    }
    return size * n;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct cw_http_call *call = arg;
    size_t len = size * n, room = call->http->max_answer_bytes - call->body.len;
    call->body_bytes += len;
    cw_buf_add(&call->body, data, len < room ? len : room);
    call->truncated |= len > room;
    if (call->body_bytes > READ_MAX_BYTES) {
        call->too_long = true;
        return 0;
    }
    return len;
}

/* Connected and, with https, verified: what comes now is the request itself. */
static int on_prereq(void *arg, char *ip, char *local, int port, int local_port)
{
    (void)ip, (void)local, (void)port, (void)local_port;
    ((struct cw_http_call *)arg)->sent = true;
    return CURL_PREREQFUNC_OK;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct cw_http_call *call = arg;
    (void)purpose;
    if (cw_cidr_has(call->http->deny, &address->addr)) {
        const void *at =
            address->family == AF_INET
                ? (const void *)&((struct sockaddr_in *)(void *)&address->addr)->sin_addr
                : (const void *)&((struct sockaddr_in6 *)(void *)&address->addr)->sin6_addr;
        call->denied = true;
        if (!inet_ntop(address->family, at, call->denied_address, sizeof call->denied_address))
            call->denied_address[0] = '\0';
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                  address->protocol);
}

static void free_sni(void *parent, void *sni, CRYPTO_EX_DATA *ad, int index, long argl, void *argp)
{
    (void)parent, (void)ad, (void)index, (void)argl, (void)argp;
    free(sni);
}

static int sni_index(void)
{
    static int index = -1;
    if (index < 0)
        index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_sni);
    return index;
}

/* libcurl sends the URL's host as SNI; another name is put in before the first message. */
static void on_tls_info(const SSL *ssl, int where, int rc)
{
    (void)rc;
    const char *sni = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), sni_index());
    if ((where & SSL_CB_HANDSHAKE_START) && sni)
        SSL_set_tlsext_host_name((SSL *)(uintptr_t)ssl, sni);
}

/* The name is OpenSSL's to check: SAN, else CN, and the verify result tells which rule failed. */
static CURLcode on_tls_context(CURL *easy, void *context, void *arg)
{
    struct cw_http_call *call = arg;
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(context);
    (void)easy;
    call->tls = true;
    if (call->name && X509_VERIFY_PARAM_set1_ip_asc(param, call->name) != 1) {
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        if (X509_VERIFY_PARAM_set1_host(param, call->name, 0) != 1)
            return CURLE_OUT_OF_MEMORY;
    }
    if (call->sni) {
        SSL_CTX_set_ex_data(context, sni_index(), cw_strdup(call->sni));
        SSL_CTX_set_info_callback(context, on_tls_info);
    }
    return CURLE_OK;
}

/* ---- what became of it */

static const struct {
    long verify;
    const char *code, *reason;
} tls_reasons[] = {
    { X509_V_ERR_CERT_HAS_EXPIRED, "tls_expired", "the certificate of the server has expired" },
    { X509_V_ERR_CERT_NOT_YET_VALID, "tls_not_yet_valid",
      "the certificate of the server is not valid yet" },
    { X509_V_ERR_HOSTNAME_MISMATCH, "tls_name", "the certificate is for another name than" },
    { X509_V_ERR_IP_ADDRESS_MISMATCH, "tls_name", "the certificate is for another address than" },
    { X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, "tls_ca", "the certificate is not from the given CA" },
    { X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, "tls_ca",
      "the certificate is not from the given CA" },
    { X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, "tls_ca", "the certificate is not from the given CA" },
    { X509_V_ERR_CERT_SIGNATURE_FAILURE, "tls_ca", "the certificate is not from the given CA" },
    { X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, "tls_ca",
      "the certificate is not from the given CA" },
    { X509_V_ERR_UNSPECIFIED, "tls_ca",
      "the certificate could not be verified with the given CA" }, /* same name, other key */
    { X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, "tls_ca",
      "the server shows a self-signed certificate that is not the given CA" },
};

struct verdict {
    struct cw_http_outcome outcome;
    char reason[CURL_ERROR_SIZE + 256];
};

static void say(struct verdict *v, enum cw_http_stage stage, const char *code, const char *fmt, ...)
    CW_PRINTF(4, 5);
static void say(struct verdict *v, enum cw_http_stage stage, const char *code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->reason, sizeof v->reason, fmt, ap);
    va_end(ap);
    v->outcome.stage = stage;
    v->outcome.code = code;
    v->outcome.reason = v->reason;
}

static void say_tls(struct verdict *v, const struct cw_http_call *call)
{
    long verify = X509_V_OK;
    curl_easy_getinfo(call->easy, CURLINFO_SSL_VERIFYRESULT, &verify);
    for (size_t i = 0; i < CW_ARRAY_LEN(tls_reasons); i++)
        if (tls_reasons[i].verify == verify) {
            bool named = strcmp(tls_reasons[i].code, "tls_name") == 0 && call->name;
            say(v, CW_HTTP_TLS, tls_reasons[i].code, "%s%s%s", tls_reasons[i].reason,
                named ? " " : "", named ? call->name : "");
            return;
        }
    say(v, CW_HTTP_TLS, "tls", "TLS failed: %s",
        verify != X509_V_OK ? X509_verify_cert_error_string(verify) : call->error);
}

static enum cw_http_stage reached(const struct cw_http_call *call)
{
    curl_off_t name_us = 0;
    if (call->sent)
        return CW_HTTP_SENT;
    if (call->tls)
        return CW_HTTP_TLS;
    curl_easy_getinfo(call->easy, CURLINFO_NAMELOOKUP_TIME_T, &name_us);
    return name_us > 0 ? CW_HTTP_CONNECT : CW_HTTP_DNS;
}

static void say_timeout(struct verdict *v, const struct cw_http_call *call)
{
    static const char *const texts[] = {
        [CW_HTTP_DNS] = "the host name was not resolved in time",
        [CW_HTTP_CONNECT] = "no connection in time: address, port or firewall",
        [CW_HTTP_TLS] = "connected, but TLS was not agreed in time: is it an HTTPS port?",
        [CW_HTTP_SENT] = "sent, but no complete answer in time",
    };
    enum cw_http_stage stage = reached(call);
    say(v, stage, "timeout", "%s", texts[stage]);
}

static void judge(struct verdict *v, const struct cw_http_call *call, CURLcode rc)
{
    const char *text = *call->error ? call->error : curl_easy_strerror(rc);
    if (call->too_long)
        say(v, CW_HTTP_SENT, "too_long", "the answer is larger than %u KB", READ_MAX_BYTES >> 10);
    else if (rc == CURLE_OK)
        say(v, CW_HTTP_STATUS, "ok", "answered %d", v->outcome.status);
    else if (rc == CURLE_COULDNT_RESOLVE_HOST)
        say(v, CW_HTTP_DNS, "dns", "%s", text);
    else if (call->denied)
        say(v, CW_HTTP_CONNECT, "denied", "the address %s is not allowed as a target",
            call->denied_address);
    else if (rc == CURLE_OPERATION_TIMEDOUT)
        say_timeout(v, call);
    else if (rc == CURLE_COULDNT_CONNECT)
        say(v, CW_HTTP_CONNECT, "refused", "%s", text);
    else if (rc == CURLE_URL_MALFORMAT || rc == CURLE_UNSUPPORTED_PROTOCOL)
        say(v, CW_HTTP_DNS, "url", "%s", text);
    else if (rc == CURLE_SSL_CACERT_BADFILE)
        say(v, CW_HTTP_TLS, "tls_ca", "the CA certificate cannot be used: %s", text);
    else if (call->secure && !call->sent)
        say_tls(v, call);
    else
        say(v, CW_HTTP_SENT, "reset", "the connection ended before the answer: %s", text);
}

static void finish(struct cw_http_call *call, CURLcode rc)
{
    long status = 0;
    struct verdict v = { .outcome = { .took_ms = cw_mono_ms() - call->started_ms,
                                      .truncated = call->truncated } };
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    v.outcome.status = (int)status;
    judge(&v, call, rc);
    v.outcome.body = call->body.data ? call->body.data : "";
    v.outcome.len = call->body.len;
    cw_http_fn *cb = call->cb;
    void *arg = call->arg;
    struct cw_buf body = call->body;
    call->body = (struct cw_buf){ 0 };
    call_free(call); /* its place is free for what cb sends */
    cb(&v.outcome, arg);
    cw_buf_free(&body);
}

/* ---- requests */

#define SET(option, value) ((void)curl_easy_setopt(e, option, value))

static void set_trust(struct cw_http_call *call, const struct cw_http_request *r)
{
    CURL *e = call->easy;
    call->sni = r->sni ? cw_strdup(r->sni) : NULL;
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 0L);      /* on_tls_context() has it done */
    SET(CURLOPT_SSL_SESSIONID_CACHE, 0L); /* a resumed session would not be verified again */
    SET(CURLOPT_SSL_CTX_FUNCTION, on_tls_context);
    SET(CURLOPT_SSL_CTX_DATA, call);
    if (r->ca_pem) {
        call->ca = cw_sprintf("%s\n# name=%s sni=%s\n", r->ca_pem, call->name ? call->name : "*",
                              call->sni ? call->sni : "");
        struct curl_blob blob = { .data = call->ca, .len = strlen(call->ca) };
        SET(CURLOPT_CAINFO_BLOB, &blob); /* copied; connections are shared only if it is equal */
    } else if (r->cert_name || r->sni || r->any_name) {
        SET(CURLOPT_FRESH_CONNECT, 1L);
        SET(CURLOPT_FORBID_REUSE, 1L);
    }
}

/* The host of a URL without brackets; the caller frees; NULL when there is none. */
static char *host_of(const char *url)
{
    CURLU *u = curl_url();
    char *host = NULL, *out = NULL;
    if (curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        size_t len = strlen(host);
        out = host[0] == '[' ? cw_strndup(host + 1, len - 2) : cw_strdup(host);
    }
    curl_free(host);
    curl_url_cleanup(u);
    return out;
}

static void set_limits(struct cw_http_call *call, const struct cw_http_request *r)
{
    CURL *e = call->easy;
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* never waits for a resolver that hangs */
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_TCP_NODELAY, 1L);
    SET(CURLOPT_INTERFACE, call->http->source);
    SET(CURLOPT_TIMEOUT_MS, (long)r->timeout_ms);
    SET(CURLOPT_CONNECTTIMEOUT_MS,
        (long)(r->connect_timeout_ms ? r->connect_timeout_ms : r->timeout_ms));
    SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(CURLOPT_OPENSOCKETDATA, call);
    SET(CURLOPT_PREREQFUNCTION, on_prereq);
    SET(CURLOPT_PREREQDATA, call);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, call);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, call);
    SET(CURLOPT_ERRORBUFFER, call->error);
    SET(CURLOPT_PRIVATE, call);
}

static void set_request(struct cw_http_call *call, const struct cw_http_request *r)
{
    CURL *e = call->easy;
    call->headers = curl_slist_append(NULL, "Expect:"); /* no 100-continue */
    for (size_t i = 0; r->headers && r->headers[i]; i++)
        call->headers = curl_slist_append(call->headers, r->headers[i]);
    SET(CURLOPT_URL, r->url);
    SET(CURLOPT_HTTPHEADER, call->headers);
    if (r->body) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        SET(CURLOPT_POSTFIELDS, r->body); /* borrowed */
    }
    SET(CURLOPT_CUSTOMREQUEST, r->method);
}

struct cw_http_call *cw_http_send(struct cw_http *http, const struct cw_http_request *request,
                                  cw_http_fn *cb, void *arg)
{
    struct cw_http_call *call = cw_calloc(1, sizeof *call);
    *call = (struct cw_http_call){ .http = http, .cb = cb, .arg = arg };
    call->started_ms = cw_mono_ms();
    call->easy = http->n_spare ? http->spare[--http->n_spare] : curl_easy_init();
    if (!call->easy)
        abort();
    call->secure = strncasecmp(request->url, "https:", 6) == 0;
    if (call->secure && !request->any_name)
        call->name = request->cert_name ? cw_strdup(request->cert_name) : host_of(request->url);
    set_limits(call, request);
    set_request(call, request);
    if (call->secure)
        set_trust(call, request);
    LIST_INSERT_HEAD(&http->calls, call, link);
    http->running++;
    curl_multi_add_handle(http->multi, call->easy);
    return call;
}

void cw_http_cancel(struct cw_http_call **call)
{
    if (*call)
        call_free(*call);
    *call = NULL;
}

size_t cw_http_running(const struct cw_http *http) { return http->running; }

static char *source_of(const char *address)
{
    unsigned char any[16];
    return inet_pton(AF_INET, address, any) == 1 || inet_pton(AF_INET6, address, any) == 1
               ? cw_sprintf("host!%s", address)
               : NULL;
}

int cw_http_open(struct cw_http **out, struct event_base *base, const struct cw_http_config *cfg,
                 char *err, size_t size)
{
    static bool initialised;
    struct cw_http *http = cw_calloc(1, sizeof *http);
    char *deny = cw_sprintf("%s %s", LINK_LOCAL, cfg->deny ? cfg->deny : "");
    int rc = cw_cidr_parse(&http->deny, deny, err, size);
    free(deny);
    *out = NULL;
    if (rc == 0 && cfg->source && *cfg->source && !(http->source = source_of(cfg->source))) {
        snprintf(err, size, "\"%s\" is no address", cfg->source);
        cw_cidr_free(&http->deny);
        rc = -EINVAL;
    }
    if (rc < 0) {
        free(http);
        return rc;
    }
    if (!initialised && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        abort();
    initialised = true;
    http->base = base;
    http->max_answer_bytes = cfg->max_answer_bytes ? cfg->max_answer_bytes : ANSWER_MAX_BYTES;
    http->timer = evtimer_new(base, on_timer, http);
    http->multi = curl_multi_init();
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS,
                      (long)(cfg->idle_connections ? cfg->idle_connections : IDLE_CONNECTIONS));
    LIST_INIT(&http->calls);
    *out = http;
    return 0;
}

void cw_http_close(struct cw_http **http)
{
    struct cw_http *h = *http;
    if (!h)
        return;
    for (struct cw_http_call *c = LIST_FIRST(&h->calls), *next; c; c = next) {
        next = LIST_NEXT(c, link);
        call_free(c);
    }
    for (size_t i = 0; i < h->n_spare; i++)
        curl_easy_cleanup(h->spare[i]);
    curl_multi_cleanup(h->multi);
    event_free(h->timer);
    cw_cidr_free(&h->deny);
    free(h->source);
    free(h);
    *http = NULL;
}
