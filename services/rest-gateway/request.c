#include "services/rest-gateway/gateway.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/crypto.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "libcommon/token.h"
#include "libcommon/validate.h"
#include "proto/routes.h"
#include "services/rest-gateway/policy.h"
#include "services/rest-gateway/route.h"
#include "services/rest-gateway/signature.h"

#define QUERY_MAX 16

/* A request between its arrival and its answer. */
struct call {
    struct gateway *g;
    struct cw_http_request *req;
    struct route_match match;
    struct signature signature;
    struct cw_token token;
    bool is_signed;
    bool temporary;         /* signed with a key that ends by itself */
    json_t *grants, *limit; /* what the user may; what a temporary key may at most, or NULL */
    struct access access;   /* its texts lie in these two */
    bool self_only, audited;
    char audit_id[25];
    char *user_id, *user_name, *project_id;
    Causeway__Pair query[QUERY_MAX], *query_list[QUERY_MAX];
    size_t n_query;
    struct cw_buf body; /* when it is not the request's own */
};

static const struct {
    const char *service, *daemon;
} daemons[] = { { "identity", "identity" },
                { "registry", "device-registry" },
                { "data", "uplink-processor" },
                { "command", "command-dispatcher" },
                { "rule", "rule-engine" } };

/* ---- answers */

/* The id of what a call made or changed: the last one of the path, else that of the answer. */
static const char *changed_id(const struct call *c, const json_t *answer)
{
    static const char *const ids[] = { "device_id", "product_id", "rule_id",
                                       "action_id", "cert_id",    "app_id" };
    static const char *const things[] = { "user", "group", "role", "credential" };
    const struct route_match *m = &c->match;
    if (m->n_vars && strcmp(m->vars[m->n_vars - 1].name, "project_id") != 0)
        return m->vars[m->n_vars - 1].value;
    for (size_t i = 0; i < CW_ARRAY_LEN(ids); i++)
        if (cw_json_text(answer, ids[i]))
            return cw_json_text(answer, ids[i]);
    for (size_t i = 0; i < CW_ARRAY_LEN(things); i++) {
        const json_t *o = json_object_get(answer, things[i]);
        const char *id = cw_json_text(o, "id");
        if (id || (id = cw_json_text(o, "access")))
            return id;
    }
    return NULL;
}

static void end_audit(struct call *c, int status, const void *body, size_t len)
{
    struct cw_json_error err;
    json_t *answer = len ? cw_json_parse(body, len, &err) : NULL;
    audit_end(c->g->audit, c->audit_id, status, cw_json_text(answer, "error_code"),
              changed_id(c, answer));
    json_decref(answer);
}

static void finish(struct call *c, int status, const char *type, const void *body, size_t len)
{
    int64_t ms = cw_http_age_ms(c->req);
    size_t in;
    cw_http_body(c->req, &in);
    cw_metric_observe(c->g->seconds, (double)ms);
    cw_log(CW_INFO, "request",
           "method=%s path=%s operation=%s status=%d ms=%lld in=%zu out=%zu user=%s peer=%s id=%s",
           cw_http_method(c->req), cw_http_path(c->req),
           c->match.route ? c->match.route->operation : "-", status, (long long)ms, in, len,
           c->user_name ? c->user_name : "-", cw_http_peer(c->req), cw_http_id(c->req));
    if (c->audited)
        end_audit(c, status, body, len);
    cw_http_reply(c->req, status, type, body, len);
    json_decref(c->grants);
    json_decref(c->limit);
    route_match_free(&c->match);
    signature_free(&c->signature);
    for (size_t i = 0; i < c->n_query; i++)
        free(c->query[i].value);
    cw_buf_free(&c->body);
    free(c->user_id);
    free(c->user_name);
    free(c->project_id);
    free(c);
}

static const char *iam_title(int status)
{
    return status == 400   ? "Bad Request"
           : status == 401 ? "Unauthorized"
           : status == 403 ? "Forbidden"
           : status == 503 ? "Service Unavailable"
                           : "Error";
}

static void fail(struct call *c, enum cw_error e, const char *fmt, ...) CW_PRINTF(3, 4);
static void fail(struct call *c, enum cw_error e, const char *fmt, ...)
{
    struct cw_buf body = { 0 };
    int status = cw_error_row(e)->status;
    va_list ap;
    va_start(ap, fmt);
    cw_error_vbody(&body, e, fmt, ap);
    va_end(ap);
    if (c->match.route && c->match.route->iam_errors) { /* the same sentence in IAM's form */
        struct cw_json_error err;
        json_t *o = cw_json_parse(body.data, body.len, &err);
        const char *text = cw_json_text(o, "error_msg");
        cw_buf_reset(&body);
        cw_buf_printf(&body, "{\"error\":{\"code\":%d,\"message\":", status);
        cw_buf_json_string(&body, text ? text : "", text ? strlen(text) : 0);
        cw_buf_printf(&body, ",\"title\":\"%s\"}}", iam_title(status));
        json_decref(o);
    }
    finish(c, status, NULL, body.data, body.len);
    cw_buf_free(&body);
}

static const char *daemon_of(const char *service)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(daemons); i++)
        if (strcmp(daemons[i].service, service) == 0)
            return daemons[i].daemon;
    return service;
}

static void fail_away(struct call *c, const char *service, int rc)
{
    cw_http_reply_header(c->req, "Retry-After", "1");
    if (rc == -ETIMEDOUT)
        fail(c, CW_E_UNAVAILABLE, "The service %s did not answer in time.", daemon_of(service));
    else if (rc == -EHOSTUNREACH)
        fail(c, CW_E_UNAVAILABLE, "The service %s is not running.", daemon_of(service));
    else
        fail(c, CW_E_UNAVAILABLE, "The service %s cannot be reached.", daemon_of(service));
}

/* ---- the owner */

static void on_answer(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct call *c = arg;
    if (rc < 0) {
        fail_away(c, c->match.route->service, rc);
        return;
    }
    const char *type = NULL;
    for (size_t i = 0; i < reply->n_headers; i++)
        if (strcasecmp(reply->headers[i]->name, "Content-Type") == 0)
            type = reply->headers[i]->value;
        else
            cw_http_reply_header(c->req, reply->headers[i]->name, reply->headers[i]->value);
    finish(c, (int)reply->status, type, reply->body.data, reply->body.len);
}

static void ask_owner(struct call *c)
{
    const struct cw_route *route = c->match.route;
    Causeway__ApiRequest request = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair path[ROUTE_VARS], *path_list[ROUTE_VARS];
    size_t len;
    const void *body = cw_http_body(c->req, &len);
    for (size_t i = 0; i < c->match.n_vars; i++) {
        causeway__pair__init(&path[i]);
        path[i].name = c->match.vars[i].name;
        path[i].value = c->match.vars[i].value;
        path_list[i] = &path[i];
    }
    request.operation = (char *)route->operation;
    request.request_id = (char *)cw_http_id(c->req);
    request.deadline_ms = cw_now_ms() + route->deadline_ms;
    request.project_id = c->project_id ? c->project_id : "";
    request.user_id = c->user_id ? c->user_id : "";
    request.user_name = c->user_name ? c->user_name : "";
    request.path = path_list;
    request.n_path = c->match.n_vars;
    request.query = c->query_list;
    request.n_query = c->n_query;
    request.permission = (char *)(route->permission ? route->permission : "");
    request.self_only = c->self_only;
    request.peer = (char *)cw_http_peer(c->req);
    char *all[] = { (char *)"*" };
    if (route->space && !access_everywhere(&c->access)) {
        request.some_spaces = true;
        request.spaces = c->access.all ? all : (char **)c->access.allowed;
        request.n_spaces = c->access.all ? 1 : c->access.n_allowed;
        request.spaces_denied = (char **)c->access.denied;
        request.n_spaces_denied = c->access.n_denied;
    }
    if (route->body || route->media) {
        request.body.data = c->body.len ? (uint8_t *)c->body.data : (uint8_t *)body;
        request.body.len = c->body.len ? c->body.len : len;
    }
    int rc = cw_api_ask(c->g->app, route->service, &request, on_answer, c);
    if (rc < 0)
        fail_away(c, route->service, rc);
}

/* ---- a change is written down first */

static void on_audited(int rc, void *arg)
{
    struct call *c = arg;
    if (rc == 0) {
        ask_owner(c);
        return;
    }
    c->audited = false;
    cw_http_reply_header(c->req, "Retry-After", "1");
    fail(c, CW_E_UNAVAILABLE, "The audit log cannot be written; nothing was changed.");
}

/* What only looks is not written down, nor what goes to a device: that has its own history. */
static bool is_change(const struct cw_route *route)
{
    const char *verb = route->permission ? strrchr(route->permission, ':') + 1 : "query";
    return strcmp(route->method, "GET") != 0 && strncmp(verb, "query", 5) != 0 &&
           strcmp(verb, "send") != 0;
}

/* Below the project, as far as it fits. */
static const char *resource_of(const struct call *c, char out[256])
{
    const char *project = route_var(&c->match, "project_id"), *path = cw_http_path(c->req),
               *at = project ? strstr(path, project) : NULL;
    snprintf(out, 256, "%s", at && at[strlen(project)] ? at + strlen(project) : path);
    return out;
}

static void go_on(struct call *c)
{
    char resource[256];
    if (!is_change(c->match.route)) {
        ask_owner(c);
        return;
    }
    c->audited = true;
    audit_begin(c->g->audit,
                &(struct audit_record){ .project_id = c->project_id ? c->project_id : "",
                                        .user_id = c->user_id,
                                        .user_name = c->user_name,
                                        .peer = cw_http_peer(c->req),
                                        .request_id = cw_http_id(c->req),
                                        .operation = c->match.route->operation,
                                        .method = c->match.route->method,
                                        .resource = resource_of(c, resource) },
                c->audit_id, on_audited, c);
}

/* ---- is it valid */

/* The last value of a query parameter, decoded; NULL if absent, empty or badly escaped. */
static char *query_value(const char *query, const char *name)
{
    char *value = NULL;
    for (const char *p = query; p && *p;) {
        size_t n = strcspn(p, "&"), eq = strcspn(p, "=&");
        char *key = url_decode(p, eq, true);
        if (key && strcmp(key, name) == 0 && eq < n) {
            free(value);
            value = url_decode(p + eq + 1, n - eq - 1, true);
        }
        free(key);
        p += n + (p[n] == '&');
    }
    if (value && !*value) {
        free(value);
        value = NULL;
    }
    return value;
}

static int read_query(struct call *c, struct cw_refusal *r)
{
    const struct cw_route *route = c->match.route;
    const char *start = NULL, *end = NULL;
    for (size_t i = 0; i < route->n_query_params; i++) {
        const struct cw_param *p = &route->query_params[i];
        char *value = query_value(cw_http_query(c->req), p->name);
        if (!value && p->required) {
            r->error = p->error;
            snprintf(r->text, sizeof r->text, "Query parameter \"%s\" is required.", p->name);
            return -EINVAL;
        }
        if (!value && !p->def)
            continue;
        if (c->n_query == QUERY_MAX)
            abort(); /* a mistake in the contract */
        Causeway__Pair *pair = &c->query[c->n_query];
        causeway__pair__init(pair);
        pair->name = (char *)p->name;
        pair->value = value ? value : cw_strdup(p->def);
        c->query_list[c->n_query++] = pair;
        if (cw_validate_param(r, p, pair->value) < 0)
            return -EINVAL;
        if (strcmp(p->name, "start_time") == 0)
            start = pair->value;
        else if (strcmp(p->name, "end_time") == 0)
            end = pair->value;
    }
    return cw_validate_order(r, start, end);
}

static int read_path(struct call *c, struct cw_refusal *r)
{
    const struct cw_route *route = c->match.route;
    for (size_t i = 0; i < route->n_path_params; i++)
        if (cw_validate_param(r, &route->path_params[i],
                              route_var(&c->match, route->path_params[i].name)) < 0)
            return -EINVAL;
    return 0;
}

static bool is_type(const char *content_type, const char *want)
{
    size_t n = content_type ? strcspn(content_type, "; \t") : 0;
    return content_type && n == strlen(want) && strncasecmp(content_type, want, n) == 0;
}

static int refuse_format(struct cw_refusal *r, const char *text)
{
    r->error = CW_E_FORMAT;
    snprintf(r->text, sizeof r->text, "%s", text);
    return -EINVAL;
}

/* A body that is not JSON: its owner reads it. */
static int read_bytes(struct call *c, struct cw_refusal *r)
{
    const struct cw_route *route = c->match.route;
    size_t len;
    cw_http_body(c->req, &len);
    if (!is_type(cw_http_header(c->req, "Content-Type"), route->media)) {
        r->error = CW_E_FORMAT;
        snprintf(r->text, sizeof r->text, "The media type must be %s.", route->media);
        return -EINVAL;
    }
    if (len == 0)
        return refuse_format(r, "The body is missing.");
    if (len > route->max_bytes) {
        r->error = CW_E_TOO_LARGE;
        snprintf(r->text, sizeof r->text, "The body has %zu bytes; %u are allowed.", len,
                 route->max_bytes);
        return -EINVAL;
    }
    return 0;
}

static int read_body(struct call *c, struct cw_refusal *r)
{
    const struct cw_route *route = c->match.route;
    struct cw_json_error err;
    bool changed;
    size_t len;
    const char *text = cw_http_body(c->req, &len);
    if (route->media)
        return read_bytes(c, r);
    if (!route->body)
        return 0;
    if (len == 0 && route->body_required)
        return refuse_format(r, "The body is missing.");
    const char *type = cw_http_header(c->req, "Content-Type");
    if (len && type && !is_type(type, "application/json"))
        return refuse_format(r, "The media type must be application/json.");
    json_t *root = len ? cw_json_parse(text, len, &err) : json_object();
    if (!root)
        return refuse_format(r, err.text);
    int rc = cw_validate_body(r, &changed, route->body, root);
    if (rc == 0 && (changed || !len))
        cw_json_write(&c->body, root);
    json_decref(root);
    return rc;
}

static void validate(struct call *c)
{
    struct cw_refusal r = { 0 };
    if (read_path(c, &r) < 0 || read_query(c, &r) < 0 || read_body(c, &r) < 0)
        fail(c, r.error, "%s", r.text);
    else
        go_on(c);
}

/* ---- may he */

/* True if the route may be used at all; in which spaces is in c->access. */
static bool permitted(struct call *c)
{
    const struct cw_route *route = c->match.route;
    if (strcmp(route->permission, "iam:self:query") == 0)
        return true;
    if (strncmp(route->permission, "iam:self:", 9) == 0) /* a key that ends makes no other one */
        return !c->temporary;
    access_of_grants(&c->access, c->grants, c->project_id, route->permission);
    if (c->limit)
        access_limit(&c->access, c->limit, route->permission);
    if (route->space ? access_any(&c->access) : access_everywhere(&c->access))
        return true;
    c->self_only = route->self && !c->temporary;
    return c->self_only;
}

static bool project_fits(struct call *c, const struct known *user)
{
    const char *wanted = route_var(&c->match, "project_id");
    const char *header = cw_http_header(c->req, "X-Project-Id");
    if (!wanted)
        return true;
    if (c->is_signed && header && signature_covers(&c->signature, "x-project-id") &&
        strcmp(header, wanted) != 0) {
        fail(c, CW_E_PROJECT, "X-Project-Id is not the project of the path.");
        return false;
    }
    if (!known_has_project(user, wanted) ||
        (!c->is_signed && strcmp(c->token.project_id, wanted) != 0)) {
        fail(c, CW_E_PROJECT, "The credentials do not belong to the project of the path.");
        return false;
    }
    c->project_id = cw_strdup(wanted);
    return true;
}

static void authorise(struct call *c, const struct known *user)
{
    char resource[256];
    c->grants = json_incref(user->grants);
    c->user_id = cw_strdup(user->id);
    c->user_name = cw_strdup(user->user_name);
    if (!c->is_signed && c->token.generation != user->generation) {
        fail(c, CW_E_UNAUTHORIZED, "The token was withdrawn.");
        return;
    }
    if (!user->enabled) {
        fail(c, CW_E_UNAUTHORIZED, "The user is disabled.");
        return;
    }
    if (!project_fits(c, user))
        return;
    if (!permitted(c)) {
        fail(
            c, CW_E_PERMISSION,
            "The user does not have the permission: \"%s\" needs %s for %s on %s; an administrator "
            "of \"%s\" can grant it.",
            user->user_name, c->match.route->permission, c->match.route->operation,
            resource_of(c, resource), user->domain_name);
        return;
    }
    unsigned wait_s = rate_take(c->g->rate, user->id, cw_mono_ms());
    if (wait_s) {
        char text[12];
        snprintf(text, sizeof text, "%u", wait_s);
        cw_http_reply_header(c->req, "Retry-After", text);
        fail(c, CW_E_RATE, "More than %lld requests in a second.", (long long)c->g->rate_per_s);
        return;
    }
    validate(c);
}

static void on_user(int rc, const struct known *user, void *arg)
{
    struct call *c = arg;
    if (rc == -ENOENT)
        fail(c, CW_E_UNAUTHORIZED, "The user does not exist any more.");
    else if (rc < 0)
        fail_away(c, "identity", rc);
    else
        authorise(c, user);
}

/* ---- who is it */

/* The request as its signature sees it; headers has room for CW_HTTP_LINES_MAX. */
static struct signed_request as_signed(struct call *c, struct signed_header *headers)
{
    struct signed_request r = { .method = cw_http_method(c->req),
                                .path = cw_http_path(c->req),
                                .query = cw_http_query(c->req),
                                .headers = headers };
    const struct cw_http_field *fields = cw_http_headers(c->req, &r.n_headers);
    for (size_t i = 0; i < r.n_headers; i++)
        headers[i] = (struct signed_header){ fields[i].name, fields[i].value };
    r.body = cw_http_body(c->req, &r.body_len);
    return r;
}

static bool expired(const struct known *key)
{
    return key->expires_ms && cw_now_ms() >= key->expires_ms;
}

/* A temporary key comes with its token, and only with that; the signature covers it. */
static bool token_fits(struct call *c, const struct known *key)
{
    uint8_t digest[CW_DIGEST_LEN];
    char hex[CW_DIGEST_HEX_LEN];
    const char *token = signature_covers(&c->signature, "x-security-token")
                            ? cw_http_header(c->req, "X-Security-Token")
                            : NULL;
    if (!token || !*key->token_hash)
        return !token && !*key->token_hash;
    cw_sha256(digest, token, strlen(token));
    cw_hex(hex, digest, sizeof digest);
    return cw_equal(hex, strlen(hex), key->token_hash, strlen(key->token_hash));
}

static void on_access_key(int rc, const struct known *key, void *arg)
{
    struct call *c = arg;
    struct signed_header headers[CW_HTTP_LINES_MAX];
    struct signed_request r = as_signed(c, headers);
    char digest[65];
    if (rc < 0 && rc != -ENOENT) {
        fail_away(c, "identity", rc);
        return;
    }
    const char *reason = !key                                                   ? "unknown_key"
                         : expired(key)                                         ? "expired_key"
                         : !token_fits(c, key)                                  ? "security_token"
                         : signature_verify(&c->signature, &r, key->secret) < 0 ? "mismatch"
                                                                                : NULL;
    if (reason) {
        cw_log(CW_INFO, "signature_refused", "access=%s reason=%s peer=%s id=%s",
               c->signature.access, reason, cw_http_peer(c->req), cw_http_id(c->req));
        signature_digest(digest, &c->signature, &r);
        fail(c, CW_E_UNAUTHORIZED,
             "The access key or the signature is wrong; the canonical request has the SHA-256 %s "
             "here.",
             digest);
        return;
    }
    c->temporary = key->expires_ms != 0;
    c->limit = json_incref(key->policy);
    known_get(c->g->known, KNOWN_USER, key->user_id, on_user, c);
}

static void check_token(struct call *c, const char *text)
{
    char expired[CW_TIME_LEN];
    int rc = cw_token_check(&c->token, c->g->key_token, text, cw_now_ms());
    if (rc == 0)
        known_get(c->g->known, KNOWN_USER, c->token.user_id, on_user, c);
    else if (rc == -EKEYEXPIRED)
        fail(c, CW_E_UNAUTHORIZED, "The token expired at %s.",
             cw_time_extended(expired, c->token.expires_ms));
    else
        fail(c, CW_E_UNAUTHORIZED, "X-Auth-Token is no valid token.");
}

/* What can be refused without the secret is, before anybody is asked for it. */
static void check_signature(struct call *c, const char *authorization)
{
    struct signed_header headers[CW_HTTP_LINES_MAX];
    struct signed_request r = as_signed(c, headers);
    char why[256];
    c->is_signed = true;
    if (signature_parse(&c->signature, authorization) < 0)
        fail(c, CW_E_UNAUTHORIZED,
             "Authorization is not in the form of SDK-HMAC-SHA256 or V11-HMAC-SHA256.");
    else if (signature_precheck(&c->signature, &r, c->g->region, cw_now_ms(), why, sizeof why) < 0)
        fail(c, CW_E_UNAUTHORIZED, "%s", why);
    else
        known_get(c->g->known, KNOWN_ACCESS_KEY, c->signature.access, on_access_key, c);
}

static void authenticate(struct call *c)
{
    const char *authorization = cw_http_header(c->req, "Authorization");
    const char *token = cw_http_header(c->req, "X-Auth-Token");
    if (authorization)
        check_signature(c, authorization);
    else if (token)
        check_token(c, token);
    else
        fail(c, CW_E_UNAUTHORIZED, "X-Auth-Token or a signature in Authorization is missing.");
}

/* ---- which operation */

static void serve_contract(struct call *c)
{
    if (strcmp(cw_http_method(c->req), "GET") == 0)
        finish(c, 200, NULL, cw_openapi_json, cw_openapi_json_len);
    else {
        cw_http_reply_header(c->req, "Allow", "GET");
        fail(c, CW_E_METHOD, "/openapi.json has GET.");
    }
}

size_t body_max(const char *method, const char *path, void *arg)
{
    struct route_match m = { 0 };
    size_t max = 0;
    (void)arg;
    if (route_find(&m, method, path) == 0 && m.route->media)
        max = m.route->max_bytes;
    route_match_free(&m);
    return max;
}

void on_request(struct cw_http_request *req, void *arg)
{
    struct call *c = cw_calloc(1, sizeof *c);
    c->g = arg;
    c->req = req;
    if (strcmp(cw_http_path(req), "/openapi.json") == 0) {
        serve_contract(c);
        return;
    }
    int rc = route_find(&c->match, cw_http_method(req), cw_http_path(req));
    if (rc == -ENOENT)
        fail(c, CW_E_NO_URL, "Path \"%s\".", cw_http_path(req));
    else if (rc == -EOPNOTSUPP) {
        cw_http_reply_header(req, "Allow", c->match.allow);
        fail(c, CW_E_METHOD, "The path has %s.", c->match.allow);
    } else if (!c->match.route->permission)
        validate(c);
    else
        authenticate(c);
}
