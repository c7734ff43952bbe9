/* gateway.h - what the files of rest-gateway share. */
#pragma once

#include "libcommon/http_server.h"
#include "libcommon/service.h"
#include "services/rest-gateway/audit.h"
#include "services/rest-gateway/known.h"
#include "services/rest-gateway/rate.h"

struct gateway {
    struct cw_app *app;
    struct cw_http_server *plain, *tls;
    struct ssl_ctx_st *tls_ctx;
    struct known_cache *known;
    struct rate *rate;
    struct audit *audit;
    struct cw_metric *seconds;
    /* settings */
    int64_t http_port, https_port, rate_per_s;
    char *tls_cert, *tls_key, *region, *bind, *proxy_from;
    uint8_t key_token[32];
};

/* One request of the public API, from the listener to the answer; arg is the gateway. */
void on_request(struct cw_http_request *req, void *arg);
/* How long the body of a request may be that takes bytes; 0: as any other. */
size_t body_max(const char *method, const char *path, void *arg);
