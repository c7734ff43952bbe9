#include "services/rest-gateway/audit.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include <event2/event.h>
#include <jansson.h>

#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "libcommon/service.h"

#define ASK_MS    5000
#define ENDS_MS   200  /* ends alone travel as seldom as that */
#define TOGETHER  500  /* records of one message */
#define ENDS_KEPT 5000 /* more are dropped: a record without status */

struct waiter {
    STAILQ_ENTRY(waiter) link;
    json_t *record;
    audit_fn *cb;
    void *arg;
};
STAILQ_HEAD(waiters, waiter);

struct audit {
    struct cw_app *app;
    struct event *timer;
    struct waiters gathering, sent;
    json_t *ends;
    bool asked, closing;
};

static void flush(struct audit *a);

static void tell(struct waiters *list, int rc)
{
    struct waiter *w;
    struct waiters mine = STAILQ_HEAD_INITIALIZER(mine);
    STAILQ_CONCAT(&mine, list);
    while ((w = STAILQ_FIRST(&mine))) {
        STAILQ_REMOVE_HEAD(&mine, link);
        w->cb(rc, w->arg);
        json_decref(w->record);
        free(w);
    }
}

static void on_answer(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct audit *a = arg;
    a->asked = false;
    if (a->closing) {
        json_decref(a->ends);
        free(a);
        return;
    }
    if (rc == 0 && reply->status != 200)
        rc = -EIO;
    tell(&a->sent, rc);
    if (!STAILQ_EMPTY(&a->gathering))
        flush(a);
}

static json_t *take_begun(struct audit *a)
{
    json_t *list = json_array();
    struct waiter *w;
    for (int i = 0; i < TOGETHER && (w = STAILQ_FIRST(&a->gathering)); i++) {
        STAILQ_REMOVE_HEAD(&a->gathering, link);
        STAILQ_INSERT_TAIL(&a->sent, w, link);
        json_array_append(list, w->record);
    }
    return list;
}

static void flush(struct audit *a)
{
    Causeway__ApiRequest request = CAUSEWAY__API_REQUEST__INIT;
    char request_id[33];
    struct cw_buf text = { 0 };
    json_t *body = json_pack("{s:o, s:o}", "begun", take_begun(a), "ended", a->ends);
    a->ends = json_array();
    cw_json_write(&text, body);
    json_decref(body);
    request.operation = (char *)"WriteAudit";
    request.request_id = cw_random_hex(request_id, 32);
    request.deadline_ms = cw_now_ms() + ASK_MS;
    request.body = (ProtobufCBinaryData){ text.len, (uint8_t *)text.data };
    int rc = cw_api_ask(a->app, "identity", &request, on_answer, a);
    cw_buf_free(&text);
    a->asked = rc == 0;
    if (rc < 0)
        tell(&a->sent, rc);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct audit *a = arg;
    (void)fd, (void)what;
    if (!a->asked && json_array_size(a->ends))
        flush(a);
}

void audit_begin(struct audit *a, const struct audit_record *r, char id[25], audit_fn *cb,
                 void *arg)
{
    struct waiter *w = cw_calloc(1, sizeof *w);
    w->cb = cb;
    w->arg = arg;
    w->record = json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "record_id",
                          cw_record_id(id), "at_ms", (json_int_t)cw_now_ms(), "project_id",
                          r->project_id, "user_id", r->user_id, "user_name", r->user_name, "peer",
                          r->peer, "request_id", r->request_id, "operation", r->operation, "method",
                          r->method, "resource", r->resource);
    STAILQ_INSERT_TAIL(&a->gathering, w, link);
    if (!a->asked)
        flush(a);
}

void audit_end(struct audit *a, const char *id, int status, const char *error_code,
               const char *resource_id)
{
    if (json_array_size(a->ends) >= ENDS_KEPT)
        return;
    json_array_append_new(a->ends,
                          json_pack("{s:s, s:i, s:s?, s:s?}", "record_id", id, "status", status,
                                    "error_code", error_code, "resource_id", resource_id));
}

struct audit *audit_open(struct cw_app *app)
{
    static const struct timeval period = { 0, ENDS_MS * 1000L };
    struct audit *a = cw_calloc(1, sizeof *a);
    a->app = app;
    STAILQ_INIT(&a->gathering);
    STAILQ_INIT(&a->sent);
    a->ends = json_array();
    a->timer = event_new(cw_app_base(app), -1, EV_PERSIST, on_timer, a);
    event_add(a->timer, &period);
    return a;
}

void audit_close(struct audit **at)
{
    struct audit *a = *at;
    if (!a)
        return;
    *at = NULL;
    if (json_array_size(a->ends) && !a->asked)
        flush(a); /* what is known goes out with the bus */
    event_free(a->timer);
    tell(&a->gathering, -ENOTCONN);
    tell(&a->sent, -ENOTCONN);
    a->closing = true;
    if (a->asked)
        return; /* its answer is still to come: the bus ends after us */
    json_decref(a->ends);
    free(a);
}
