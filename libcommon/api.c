#include "libcommon/api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api_space.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"

#define HEADERS_MAX 4

struct raw_op {
    struct raw_op *next;
    const char *operation;
    cw_bus_fn *fn;
    void *arg;
};

struct server {
    struct server *next;
    const char *service;
    struct raw_op *raw;
    struct cw_app *app;
    const struct cw_api_op *ops;
    void *self;
    const struct cw_space_rule *spaces;
    struct cw_metric *calls, *late;
};
static struct server *servers; /* as long as the process */

struct cw_api_call {
    struct server *server;
    char *reply_to;
    Causeway__ApiRequest *request;
    json_t *body;
    Causeway__Pair headers[HEADERS_MAX], *header_list[HEADERS_MAX];
    size_t n_headers;
};

const Causeway__ApiRequest *cw_api_request(const struct cw_api_call *call) { return call->request; }

static const char *pair(Causeway__Pair **pairs, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(pairs[i]->name, name) == 0)
            return pairs[i]->value;
    return NULL;
}

const char *cw_api_path(const struct cw_api_call *call, const char *name)
{
    const char *v = pair(call->request->path, call->request->n_path, name);
    return v ? v : "";
}

const char *cw_api_query(const struct cw_api_call *call, const char *name)
{
    return pair(call->request->query, call->request->n_query, name);
}

int64_t cw_api_query_int(const struct cw_api_call *call, const char *name, int64_t if_absent)
{
    const char *v = cw_api_query(call, name);
    return v ? strtoll(v, NULL, 10) : if_absent;
}

json_t *cw_api_body(struct cw_api_call *call)
{
    if (!call->body && call->request->body.len)
        call->body = json_loadb((const char *)call->request->body.data, call->request->body.len,
                                JSON_ALLOW_NUL, NULL);
    if (!call->body) /* rest-gateway lets no malformed body through */
        call->body = json_object();
    return call->body;
}

int64_t cw_api_remaining_ms(const struct cw_api_call *call)
{
    return call->request->deadline_ms - cw_now_ms();
}

static void call_free(struct cw_api_call *call)
{
    struct cw_app *app = call->server->app;
    for (size_t i = 0; i < call->n_headers; i++) {
        free(call->headers[i].name);
        free(call->headers[i].value);
    }
    json_decref(call->body);
    causeway__api_request__free_unpacked(call->request, NULL);
    free(call->reply_to);
    free(call);
    cw_app_in_flight(app, -1);
}

void cw_api_reply_header(struct cw_api_call *call, const char *name, const char *value)
{
    if (call->n_headers == HEADERS_MAX)
        abort(); /* a mistake in the source */
    Causeway__Pair *p = &call->headers[call->n_headers];
    causeway__pair__init(p);
    p->name = cw_strdup(name);
    p->value = cw_strdup(value);
    call->header_list[call->n_headers++] = p;
}

void cw_api_reply(struct cw_api_call *call, int status, const char *body, size_t len)
{
    Causeway__ApiReply reply = CAUSEWAY__API_REPLY__INIT;
    reply.status = (uint32_t)status;
    reply.body.data = (uint8_t *)body;
    reply.body.len = len;
    reply.headers = call->header_list;
    reply.n_headers = call->n_headers;
    uint8_t *packed = cw_malloc(causeway__api_reply__get_packed_size(&reply));
    size_t n = causeway__api_reply__pack(&reply, packed);
    /* if it cannot be sent, the asker's own limit ends the wait */
    cw_bus_publish(cw_app_bus(call->server->app), call->reply_to, NULL, packed, n);
    free(packed);
    call_free(call);
}

void cw_api_reply_json(struct cw_api_call *call, int status, json_t *take)
{
    char *text = json_dumps(take, JSON_COMPACT);
    json_decref(take);
    if (!text)
        abort();
    cw_api_reply(call, status, text, strlen(text));
    free(text);
}

void cw_api_fail(struct cw_api_call *call, enum cw_error e, const char *fmt, ...)
{
    struct cw_buf body = { 0 };
    va_list ap;
    va_start(ap, fmt);
    cw_error_vbody(&body, e, fmt, ap);
    va_end(ap);
    cw_api_reply(call, cw_error_row(e)->status, body.data, body.len);
    cw_buf_free(&body);
}

static void dispatch(struct server *s, struct cw_api_call *call)
{
    for (const struct cw_api_op *op = s->ops; op->operation; op++)
        if (strcmp(op->operation, call->request->operation) == 0) {
            if (call->request->some_spaces)
                cw_api_space_check(call, s->spaces, s->app, op->fn, s->self);
            else
                op->fn(call, s->self);
            return;
        }
    cw_api_fail(call, CW_E_NOT_BUILT, "Operation %s is not served.", call->request->operation);
}

static bool dispatch_raw(struct server *s, const struct cw_bus_msg *msg)
{
    const char *operation = msg->subject ? strrchr(msg->subject, '.') : NULL;
    for (struct raw_op *op = s->raw; op && operation; op = op->next)
        if (strcmp(op->operation, operation + 1) == 0) {
            cw_metric_add(s->calls, 1);
            op->fn(msg, op->arg);
            return true;
        }
    return false;
}

/* Rights are given by subject: the operation inside must not be another one. */
static bool is_what_it_says(const struct cw_bus_msg *msg, const Causeway__ApiRequest *request)
{
    const char *operation = msg->subject ? strrchr(msg->subject, '.') : NULL;
    return operation && strcmp(operation + 1, request->operation) == 0;
}

static struct server *server_of(const char *service)
{
    struct server *s = servers;
    while (s && strcmp(s->service, service) != 0)
        s = s->next;
    if (!s)
        abort(); /* a mistake in the source */
    return s;
}

void cw_api_space_rules(const char *service, const struct cw_space_rule *rules)
{
    server_of(service)->spaces = rules;
}

void cw_api_serve_raw(const char *service, const char *operation, cw_bus_fn *fn, void *arg)
{
    struct server *s = server_of(service);
    struct raw_op *op = cw_calloc(1, sizeof *op);
    *op = (struct raw_op){ s->raw, operation, fn, arg };
    s->raw = op;
}

static void on_request(const struct cw_bus_msg *msg, void *arg)
{
    struct server *s = arg;
    if (dispatch_raw(s, msg))
        return;
    Causeway__ApiRequest *request =
        msg->reply ? causeway__api_request__unpack(NULL, msg->len, msg->data) : NULL;
    cw_metric_add(s->calls, 1);
    if (!request) {
        cw_log(CW_WARN, "api_unreadable", "subject=%s bytes=%zu", msg->subject ? msg->subject : "-",
               msg->len);
        return;
    }
    if (request->deadline_ms <= cw_now_ms()) { /* nobody waits for it any more */
        cw_metric_add(s->late, 1);
        causeway__api_request__free_unpacked(request, NULL);
        return;
    }
    if (!is_what_it_says(msg, request)) {
        cw_log(CW_WARN, "api_mismatch", "subject=%s", msg->subject ? msg->subject : "-");
        causeway__api_request__free_unpacked(request, NULL);
        return;
    }
    struct cw_api_call *call = cw_calloc(1, sizeof *call);
    call->server = s;
    call->reply_to = cw_strdup(msg->reply);
    call->request = request;
    cw_app_in_flight(s->app, 1);
    dispatch(s, call);
}

void cw_api_serve(struct cw_app *app, const char *service, const struct cw_api_op *ops, void *self)
{
    char subject[64];
    struct server *s = cw_calloc(1, sizeof *s);
    *s = (struct server){
        .next = servers, .service = service, .app = app, .ops = ops, .self = self
    };
    servers = s;
    s->calls = cw_counter("causeway_api_calls_total", NULL, "Calls taken from the bus");
    s->late = cw_counter("causeway_api_late_total", NULL, "Calls dropped past their deadline");
    snprintf(subject, sizeof subject, "api.%s.*", service);
    cw_app_on_drain(app, cw_bus_subscribe(cw_app_bus(app), subject, service, on_request, s));
}

struct asking {
    cw_api_answer_fn *cb;
    void *arg;
};

static void on_answer(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct asking a = *(struct asking *)arg;
    Causeway__ApiReply *reply = NULL;
    free(arg);
    if (rc == 0 && !(reply = causeway__api_reply__unpack(NULL, msg->len, msg->data)))
        rc = -EBADMSG;
    a.cb(rc, reply, a.arg);
    causeway__api_reply__free_unpacked(reply, NULL);
}

int cw_api_ask(struct cw_app *app, const char *service, const Causeway__ApiRequest *request,
               cw_api_answer_fn *cb, void *arg)
{
    char subject[128];
    struct asking *a = cw_malloc(sizeof *a);
    *a = (struct asking){ cb, arg };
    snprintf(subject, sizeof subject, "api.%s.%s", service, request->operation);
    uint8_t *packed = cw_malloc(causeway__api_request__get_packed_size(request));
    size_t n = causeway__api_request__pack(request, packed);
    bool sent = cw_bus_request(cw_app_bus(app), subject, packed, n,
                               request->deadline_ms - cw_now_ms(), on_answer, a) != NULL;
    free(packed);
    if (!sent)
        free(a);
    return sent ? 0 : -ENOTCONN;
}
