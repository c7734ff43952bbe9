/* rest-gateway: the public REST API. See README.md. */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

#include <openssl/ssl.h>

#include "libcommon/metrics.h"
#include "services/rest-gateway/gateway.h"

#define AT(f) offsetof(struct gateway, f)

static const struct cw_option options[] = {
    { "HTTP_PORT", CW_OPT_INT, "8080", 0, 65535, AT(http_port), "port of plain HTTP; 0: off" },
    { "HTTPS_PORT", CW_OPT_INT, "8443", 0, 65535, AT(https_port), "port of HTTPS; 0: off" },
    { "TLS_CERT", CW_OPT_STRING, "", 0, 255, AT(tls_cert), "PEM file: certificate and its chain" },
    { "TLS_KEY", CW_OPT_STRING, "", 0, 255, AT(tls_key), "PEM file: private key" },
    { "KEY_TOKEN", CW_OPT_HEX32, NULL, 0, 0, AT(key_token), "key of tokens, as identity has it" },
    { "REGION", CW_OPT_STRING, "*", 1, 64, AT(region),
      "region that V11 signatures must name; *: any" },
    { "PROXY_FROM", CW_OPT_STRING, "", 0, 1000, AT(proxy_from),
      "networks of entries that send the PROXY protocol (HAProxy); others may not" },
    { "BIND", CW_OPT_STRING, "127.0.0.1", 1, 45, AT(bind), "address to listen on" },
    { "REST_RATE", CW_OPT_INT, "1000", 1, 1000000, AT(rate_per_s),
      "requests per second of a principal" },
    { 0 },
};

static int listen_on(struct gateway *g, struct cw_http_server **out, int64_t port, SSL_CTX *tls)
{
    struct cw_http_config cfg = { .base = cw_app_base(g->app),
                                  .app = g->app,
                                  .bind = g->bind,
                                  .port = (uint16_t)port,
                                  .tls = tls,
                                  .proxy_from = g->proxy_from,
                                  .limits = CW_HTTP_LIMITS,
                                  .body_max = body_max,
                                  .fn = on_request,
                                  .arg = g };
    int rc = cw_http_server_open(out, &cfg);
    if (rc < 0)
        cw_log(CW_ERROR, "listen_failed", "address=%s:%" PRId64 " reason=\"%s\"", g->bind, port,
               strerror(-rc));
    else
        cw_log(CW_INFO, "listen", "address=%s:%" PRId64 " tls=%d", g->bind, port, tls != NULL);
    return rc;
}

/* A connection is a file descriptor; shells start with 1,024. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int gateway_start(struct cw_app *app, void *self)
{
    struct gateway *g = self;
    char err[256];
    int rc = 0;
    g->app = app;
    raise_descriptors();
    g->known = known_open(app);
    g->rate = rate_open(g->rate_per_s);
    g->audit = audit_open(app);
    g->seconds =
        cw_histogram_ms("causeway_rest_request_ms", NULL, "Complete request to its answer");
    if (g->https_port) {
        g->tls_ctx = cw_http_tls(g->tls_cert, g->tls_key, err, sizeof err);
        if (!g->tls_ctx) {
            cw_log(CW_ERROR, "tls_failed",
                   "reason=\"%s\" settings=CAUSEWAY_TLS_CERT,CAUSEWAY_TLS_KEY", err);
            return -EINVAL;
        }
        rc = listen_on(g, &g->tls, g->https_port, g->tls_ctx);
    }
    if (rc == 0 && g->http_port)
        rc = listen_on(g, &g->plain, g->http_port, NULL);
    return rc;
}

static void gateway_drain(struct cw_app *app, void *self)
{
    struct gateway *g = self;
    (void)app;
    if (g->plain)
        cw_http_server_drain(g->plain);
    if (g->tls)
        cw_http_server_drain(g->tls);
}

static void gateway_stop(void *self)
{
    struct gateway *g = self;
    cw_http_server_close(&g->plain);
    cw_http_server_close(&g->tls);
    audit_close(&g->audit);
    known_close(&g->known);
    rate_close(&g->rate);
    SSL_CTX_free(g->tls_ctx);
    g->tls_ctx = NULL;
}

static void facts(struct cw_facts *f, void *self)
{
    const struct gateway *g = self;
    if (g->plain)
        cw_facts_listener(f, "http", g->bind, cw_http_server_port(g->plain), NULL);
    if (g->tls)
        cw_facts_listener(f, "https", g->bind, cw_http_server_port(g->tls), g->tls_ctx);
}

int main(int argc, char **argv)
{
    static struct gateway self;
    return cw_service_run(
        &(struct cw_service){ .name = "rest-gateway",
                              .summary =
                                  "the public REST API: who, may he, is it valid, whose is it",
                              .options = options,
                              .self = &self,
                              .needs = CW_NEEDS_BUS,
                              .facts = facts,
                              .start = gateway_start,
                              .drain = gateway_drain,
                              .stop = gateway_stop },
        argc, argv);
}
