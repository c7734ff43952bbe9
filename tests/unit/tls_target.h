/* tls_target.h - certificates made on the spot, and a real HTTP or HTTPS server in a process of its
 * own that records what it gets. */
#pragma once

#include <poll.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "tests/unit/servers.h"

struct identity {
    EVP_PKEY *key;
    X509 *cert;
};

struct cert_request {
    const char *cn;
    const char *san; /* "DNS:a.example,IP:127.0.0.1"; NULL: none */
    bool ca;
    int from_s, until_s; /* from now */
};

static inline void add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!e || !X509_add_ext(cert, e, -1))
        abort();
    X509_EXTENSION_free(e);
}

/* by NULL: self-signed. */
static inline struct identity identity_make(const struct cert_request *r, const struct identity *by)
{
    static long serial = 1;
    struct identity id = { EVP_EC_gen("P-256"), X509_new() };
    X509_set_version(id.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(id.cert), r->from_s);
    X509_gmtime_adj(X509_getm_notAfter(id.cert), r->until_s);
    X509_set_pubkey(id.cert, id.key);
    X509_NAME *name = X509_get_subject_name(id.cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)r->cn, -1, -1, 0);
    X509_set_issuer_name(id.cert, by ? X509_get_subject_name(by->cert) : name);
    add_extension(id.cert, NID_basic_constraints, r->ca ? "critical,CA:TRUE" : "CA:FALSE");
    if (r->san)
        add_extension(id.cert, NID_subject_alt_name, r->san);
    if (!X509_sign(id.cert, by ? by->key : id.key, EVP_sha256()))
        abort();
    return id;
}

static inline void identity_free(struct identity *id)
{
    EVP_PKEY_free(id->key);
    X509_free(id->cert);
}

/* The caller frees. */
static inline char *identity_pem(const struct identity *id)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    PEM_write_bio_X509(bio, id->cert);
    long len = BIO_get_mem_data(bio, &data);
    char *out = strndup(data, (size_t)len);
    BIO_free(bio);
    return out;
}

/* ---- the server: the path says how it behaves
 *   /slow  reads and never answers     /reset    closes after the request
 *   /big   answers 200 KB              /endless  headers without end
 *   /NNN…  answers with status NNN     anything else: 200, or what set_mode() said */
struct target {
    pid_t pid;
    int port;
    int records; /* our end: one datagram a request, "<ms> <request head and body>" */
    int *shared; /* [0] status to answer instead of 200; [1] connections; [2] TLS failures */
};

struct conn {
    int fd;
    SSL *ssl;
};

static inline int conn_read(struct conn *c, char *p, int n)
{
    return c->ssl ? SSL_read(c->ssl, p, n) : (int)read(c->fd, p, (size_t)n);
}

static inline int conn_write(struct conn *c, const char *p, int n)
{
    return c->ssl ? SSL_write(c->ssl, p, n) : (int)write(c->fd, p, (size_t)n);
}

/* One request into buf; its length, 0 at the end. */
static inline int read_request(struct conn *c, char *buf, int size)
{
    int n = 0, got, need = -1;
    while (n < size - 1 && (need < 0 || n < need)) {
        if ((got = conn_read(c, buf + n, size - 1 - n)) <= 0)
            return 0;
        buf[n += got] = '\0';
        char *end = strstr(buf, "\r\n\r\n"), *length = strcasestr(buf, "\r\ncontent-length:");
        if (need < 0 && end)
            need = (int)(end + 4 - buf) + (length && length < end ? atoi(length + 17) : 0);
    }
    return n;
}

static inline void answer(struct conn *c, int status, int body_len)
{
    char head[256], fill[1024];
    memset(fill, 'x', sizeof fill);
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d Because\r\nContent-Length: %d\r\nLocation: /200\r\n\r\n", status,
                     body_len);
    conn_write(c, head, n);
    for (; body_len > 0; body_len -= n) {
        n = body_len < (int)sizeof fill ? body_len : (int)sizeof fill;
        if (conn_write(c, fill, n) <= 0)
            return;
    }
}

static inline void serve(struct conn *c, int records, int *shared)
{
    static char buf[1 << 17];
    int n;
    while ((n = read_request(c, buf, sizeof buf)) > 0) {
        const char *path = strchr(buf, ' ') + 1;
        if (records >= 0)
            send(records, buf, (size_t)n, 0);
        if (strncmp(path, "/slow", 5) == 0) {
            while (conn_read(c, buf, sizeof buf) > 0)
                ;
            return;
        }
        if (strncmp(path, "/reset", 6) == 0)
            return;
        if (strncmp(path, "/endless", 8) == 0) {
            conn_write(c, "HTTP/1.1 200 OK\r\n", 17);
            while (conn_write(c, "X-Fill: 0123456789012345678901234567890123456789\r\n", 50) > 0)
                ;
            return;
        }
        int status = path[1] >= '1' && path[1] <= '9' ? atoi(path + 1)
                                                      : __atomic_load_n(shared, __ATOMIC_SEQ_CST);
        answer(c, status ? status : 200,
               status == 204                   ? 0
               : strncmp(path, "/big", 4) == 0 ? 200000
                                               : 2);
    }
}

static inline SSL_CTX *server_context(const struct identity *id)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate(ctx, id->cert) != 1 || SSL_CTX_use_PrivateKey(ctx, id->key) != 1)
        abort();
    return ctx;
}

static inline void target_connection(int fd, SSL_CTX *ctx, int records, int *shared)
{
    struct conn c = { .fd = fd };
    __atomic_add_fetch(&shared[1], 1, __ATOMIC_SEQ_CST);
    if (ctx) {
        c.ssl = SSL_new(ctx);
        SSL_set_fd(c.ssl, fd);
        if (SSL_accept(c.ssl) != 1) {
            __atomic_add_fetch(&shared[2], 1, __ATOMIC_SEQ_CST);
            _exit(0);
        }
        const char *sni = SSL_get_servername(c.ssl, TLSEXT_NAMETYPE_host_name);
        snprintf((char *)&shared[4], 128, "%s", sni ? sni : "");
    }
    serve(&c, records, shared);
    _exit(0);
}

static inline void target_run(struct target *t, const struct identity *id, int listener,
                              int records)
{
    t->pid = fork();
    if (t->pid < 0)
        abort();
    if (t->pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *ctx = id ? server_context(id) : NULL;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(listener);
            target_connection(fd, ctx, records, t->shared);
        }
        close(fd);
    }
}

#include <sys/mman.h>

static inline int target_listen(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 512) < 0)
        abort();
    return fd;
}

/* id NULL: plain HTTP. port 0: a free one. */
static inline void target_start(struct target *t, const struct identity *id, int port, bool record)
{
    int pair[2] = { -1, -1 }, size = 4 << 20;
    t->port = port ? port : free_port();
    t->shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (record && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        abort();
    if (record)
        setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    int listener = target_listen(t->port);
    target_run(t, id, listener, pair[1]);
    close(listener);
    if (record)
        close(pair[1]);
    t->records = pair[0];
}

static inline void target_answers(struct target *t, int status)
{
    __atomic_store_n(t->shared, status, __ATOMIC_SEQ_CST);
}
static inline int target_connections(const struct target *t)
{
    return __atomic_load_n(&t->shared[1], __ATOMIC_SEQ_CST);
}
static inline const char *target_sni(const struct target *t) { return (char *)&t->shared[4]; }

/* Next recorded request, the caller frees; NULL after limit_ms. */
static inline char *target_next(struct target *t, int limit_ms)
{
    struct pollfd p = { .fd = t->records, .events = POLLIN };
    if (poll(&p, 1, limit_ms) != 1)
        return NULL;
    char *buf = malloc(1 << 17);
    ssize_t n = recv(t->records, buf, (1 << 17) - 1, 0);
    if (n <= 0) {
        free(buf);
        return NULL;
    }
    buf[n] = '\0';
    return buf;
}

static inline void target_stop(struct target *t)
{
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    if (t->records >= 0)
        close(t->records);
    munmap(t->shared, 4096);
}
