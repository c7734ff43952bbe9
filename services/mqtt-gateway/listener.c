#include "services/mqtt-gateway/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/proxy.h"
#include "services/mqtt-gateway/conn.h"

#define BACKLOG         4096
#define ACCEPT_BATCH    64 /* then the sockets that are there get their turn */
#define OUT_OF_FDS_MS   100
#define SESSION_CONTEXT "causeway-mqtt"
#define TLS12_SUITES                                                                               \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:"     \
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA:ECDHE-RSA-AES128-SHA"
/* With what devices speak that know no TLS 1.2; level 0 to OpenSSL. */
#define TLS11_SUITES                                                                               \
    TLS12_SUITES ":ECDHE-ECDSA-AES256-SHA:ECDHE-ECDSA-AES128-SHA:AES256-SHA:AES128-SHA:@SECLEVEL=" \
                 "0"
#define TLS13_SUITES "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"

struct port {
    struct listeners *all;
    const char *protocol; /* as docs/protocol/facts.md names it */
    int64_t number;
    int fd;
    SSL_CTX *tls; /* NULL: none; borrowed */
    bool web;
    struct event *readable, *again;
};

struct listeners {
    struct gateway *gw;
    SSL_CTX *tls, *tls11;
    struct cw_proxy *proxy; /* NULL: no entries */
    struct port ports[5];
    size_t n;
};

static void turn_away(struct gateway *gw, int fd)
{
    static struct cw_log_gate gate;
    close(fd);
    cw_metric_add(gw->m.turned_away, 1);
    cw_log_limited(&gate, CW_WARN, "connection_refused", "reason=\"limit of connections\" max=%lld",
                   (long long)gw->set.max_connections);
}

/* Devices may show a certificate. The handshake proves that they have its key; whether it is a good
 * one device-registry says, which knows the CAs. */
static int take_any(int fine, X509_STORE_CTX *ctx)
{
    (void)fine, (void)ctx;
    return 1;
}

/* via: for whom an entry speaks; NULL, "": for itself. */
static void begin(struct port *port, int fd, const char *via)
{
    struct gateway *gw = port->all->gw;
    SSL *ssl = NULL;
    if (port->tls) {
        if (!(ssl = SSL_new(port->tls)))
            abort(); /* out of memory */
        SSL_set_fd(ssl, fd);
        SSL_set_accept_state(ssl);
        if (!port->web) /* a browser would ask its user for one */
            SSL_set_verify(ssl, SSL_VERIFY_PEER, take_any);
    }
    struct conn *c = conn_new(gw, fd, ssl, port->web);
    char peer[PEER_LEN];
    if (via && *via)
        c->via = cw_strdup(via);
    else if (ssl) /* a handshake that fails is told of when the peer may be gone */
        c->via = cw_strdup(conn_peer(c, peer));
}

static void on_proxied(int fd, const char *peer, void *port) { begin(port, fd, peer); }

static void welcome(struct port *port, int fd, const struct sockaddr *from)
{
    struct listeners *l = port->all;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    if (l->gw->n_conns + cw_proxy_waiting(l->proxy) >= l->gw->set.max_connections)
        turn_away(l->gw, fd);
    else if (cw_proxy_speaks(l->proxy, from))
        cw_proxy_await(l->proxy, fd, port);
    else
        begin(port, fd, NULL);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    struct port *port = arg;
    (void)fd, (void)what;
    event_add(port->readable, NULL);
}

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
    static const struct timeval pause = { 0, OUT_OF_FDS_MS * 1000L };
    static struct cw_log_gate gate;
    struct port *port = arg;
    (void)what;
    gateway_awake(port->all->gw);
    if (port->tls && port->all->gw->behind) { /* the kernel keeps them, their time does not run */
        event_active(port->all->gw->later, 0, 0);
        return;
    }
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage from = { 0 };
        socklen_t len = sizeof from;
        int got = accept4(fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (got >= 0) {
            welcome(port, got, (struct sockaddr *)&from);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            cw_log_limited(&gate, CW_ERROR, "accept_failed", "reason=\"%s\"", strerror(errno));
            event_del(port->readable);
            evtimer_add(port->again, &pause);
        }
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static int bind_port(const char *host, int64_t number)
{
    struct sockaddr_storage at = { 0 };
    int len = sizeof at, one = 1;
    char text[80];
    snprintf(text, sizeof text, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, (int)number);
    if (evutil_parse_sockaddr_port(text, (struct sockaddr *)&at, &len) < 0)
        return -EINVAL;
    int fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0 ||
        bind(fd, (struct sockaddr *)&at, (socklen_t)len) < 0 || listen(fd, BACKLOG) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

static int open_port(struct listeners *l, const char *protocol, int64_t number, SSL_CTX *tls,
                     bool web)
{
    struct gateway *gw = l->gw;
    struct port *port = &l->ports[l->n];
    int fd = bind_port(gw->set.bind, number);
    if (fd < 0) {
        cw_log(CW_ERROR, "listen_failed", "address=%s port=%d reason=\"%s\"", gw->set.bind,
               (int)number, strerror(-fd));
        return fd;
    }
    l->n++;
    *port = (struct port){
        .all = l, .protocol = protocol, .number = number, .fd = fd, .tls = tls, .web = web
    };
    port->readable = event_new(gw->base, fd, EV_READ | EV_PERSIST, on_connection, port);
    port->again = evtimer_new(gw->base, on_again, port);
    event_add(port->readable, NULL);
    cw_log(CW_INFO, "listening", "address=%s port=%d tls=%d websocket=%d", gw->set.bind,
           (int)number, tls != NULL, web);
    return 0;
}

/* The certificate's chain and key, the suites of the protocol, and little memory when idle. */
static int open_tls(SSL_CTX **at, const struct gateway_settings *set, int least, const char *suites)
{
    SSL_CTX *tls = *at = SSL_CTX_new(TLS_server_method());
    if (!tls)
        abort();
    SSL_CTX_set_min_proto_version(tls, least);
    SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* resumption by ticket: nothing is kept here for it */
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(tls, (const unsigned char *)SESSION_CONTEXT,
                                   sizeof SESSION_CONTEXT - 1);
    SSL_CTX_set_num_tickets(tls, 1);
    if (SSL_CTX_set_cipher_list(tls, suites) == 1 &&
        SSL_CTX_set_ciphersuites(tls, TLS13_SUITES) == 1 &&
        SSL_CTX_use_certificate_chain_file(tls, set->tls_cert) == 1 &&
        SSL_CTX_use_PrivateKey_file(tls, set->tls_key, SSL_FILETYPE_PEM) == 1 &&
        SSL_CTX_check_private_key(tls) == 1)
        return 0;
    cw_log(CW_ERROR, "tls_failed", "certificate=%s key=%s reason=\"%s\"", set->tls_cert,
           set->tls_key, ERR_reason_error_string(ERR_peek_last_error()));
    return -EINVAL;
}

static void raise_fd_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

int listeners_open(struct gateway *gw)
{
    struct listeners *l = cw_calloc(1, sizeof *l);
    char err[120];
    int rc = 0;
    l->gw = gw;
    gw->listeners = l;
    if (*gw->set.proxy_from)
        rc = cw_proxy_open(&l->proxy, gw->base, gw->set.proxy_from, gw->set.connect_ms, on_proxied,
                           err, sizeof err);
    if (rc < 0)
        cw_log(CW_ERROR, "proxy_from", "reason=\"%s\"", err);
    raise_fd_limit();
    const struct {
        const char *protocol;
        int64_t number;
        SSL_CTX **tls;
        bool web;
    } ports[] = { { "mqtt", gw->set.mqtt_port, NULL, false },
                  { "ws", gw->set.ws_port, NULL, true },
                  { "mqtts", gw->set.mqtts_port, &l->tls, false },
                  { "wss", gw->set.wss_port, &l->tls, true },
                  { "mqtts11", gw->set.mqtts11_port, &l->tls11, false } };
    for (size_t i = 0; i < CW_ARRAY_LEN(ports) && rc == 0; i++) {
        SSL_CTX **tls = ports[i].tls;
        if (!ports[i].number || (tls && !*gw->set.tls_cert))
            continue;
        if (tls && !*tls)
            rc = tls == &l->tls11 ? open_tls(tls, &gw->set, TLS1_1_VERSION, TLS11_SUITES)
                                  : open_tls(tls, &gw->set, TLS1_2_VERSION, TLS12_SUITES);
        if (rc == 0)
            rc = open_port(l, ports[i].protocol, ports[i].number, tls ? *tls : NULL, ports[i].web);
    }
    return rc;
}

bool listener_is_named(const struct gateway *gw, const char *name)
{
    const char *p = gw->set.server_names;
    if (strcmp(p, "*") == 0)
        return true;
    if (!name || !*name)
        return false;
    if (!*p)
        return gw->listeners && gw->listeners->tls &&
               X509_check_host(SSL_CTX_get0_certificate(gw->listeners->tls), name, 0, 0, NULL) == 1;
    for (size_t n; *p; p += n) {
        p += strspn(p, " ");
        n = strcspn(p, " ");
        if (n == strlen(name) && strncasecmp(p, name, n) == 0)
            return true;
    }
    return false;
}

void listeners_tell(const struct listeners *l, struct cw_facts *f)
{
    for (size_t i = 0; l && i < l->n; i++)
        cw_facts_listener(f, l->ports[i].protocol, l->gw->set.bind, l->ports[i].number,
                          l->ports[i].tls);
}

void listeners_close(struct listeners **at)
{
    struct listeners *l = *at;
    if (!l)
        return;
    *at = NULL;
    cw_proxy_close(&l->proxy);
    for (size_t i = 0; i < l->n; i++) {
        event_free(l->ports[i].readable);
        event_free(l->ports[i].again);
        close(l->ports[i].fd);
    }
    SSL_CTX_free(l->tls);
    SSL_CTX_free(l->tls11);
    free(l);
}
