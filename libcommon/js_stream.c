#include "libcommon/js_stream.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/bus.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/service.h"
#include "proto/subjects.h"

#define CALL_LIMIT_MS 2000

enum step { INFO, CREATE, LAST, SUBJECTS, PURGE };

struct js_call {
    struct cw_app *app;
    struct cw_bus_request *req;
    struct event *later; /* for an answer that would come from inside the call */
    int later_rc;
    char stream[32], subjects[48];
    const char *log;
    bool may_create;
    enum step step;
    union {
        js_info_fn *info;
        js_last_fn *last;
        js_list_fn *list;
        js_done_fn *done;
    } cb;
    void *arg;
};

static const char *const api[] = {
    [INFO] = "$JS.API.STREAM.INFO",   [CREATE] = "$JS.API.STREAM.CREATE",
    [LAST] = "$JS.API.DIRECT.GET",    [SUBJECTS] = "$JS.API.STREAM.INFO",
    [PURGE] = "$JS.API.STREAM.PURGE",
};

char *js_subject(char *out, size_t size, const char *log, uint32_t partition, const char *writer)
{
    int n =
        snprintf(out, size, "%s.%u%s%s", log, partition, writer ? "." : "", writer ? writer : "");
    for (int i = 0; i < n && out[i] != '.'; i++)
        out[i] = (char)tolower((unsigned char)out[i]);
    return out;
}

bool js_is_full(int rc)
{
    return rc == JS_FULL_BYTES || rc == JS_NO_RESOURCES || rc == JS_NO_STORAGE;
}

/* The parsed answer, or NULL with *rc set. The caller owns it. */
static json_t *parse(const void *data, size_t len, int *rc)
{
    json_t *root = json_loadb(data, len, 0, NULL), *error = json_object_get(root, "error");
    *rc = root ? 0 : -EBADMSG;
    if (error) {
        int code = (int)json_integer_value(json_object_get(error, "err_code"));
        *rc = code ? code : -EBADMSG;
    }
    if (*rc == 0)
        return root;
    json_decref(root);
    return NULL;
}

int js_ack(const void *data, size_t len, uint64_t *seq)
{
    int rc;
    json_t *root = parse(data, len, &rc);
    if (!root)
        return rc;
    *seq = (uint64_t)json_integer_value(json_object_get(root, "seq"));
    json_decref(root);
    return *seq ? 0 : -EBADMSG;
}

static void call_free(struct js_call *c)
{
    cw_bus_request_cancel(&c->req);
    event_free(c->later);
    free(c);
}

void js_cancel(struct js_call **call)
{
    if (*call)
        call_free(*call);
    *call = NULL;
}

static void give(struct js_call *c, int rc, const void *result, size_t n)
{
    struct js_call done = *c;
    call_free(c);
    if (done.step == LAST)
        done.cb.last(rc, result, done.arg);
    else if (done.step == SUBJECTS)
        done.cb.list(rc, result, n, done.arg);
    else if (done.step == PURGE)
        done.cb.done(rc, done.arg);
    else
        done.cb.info(rc, result, done.arg);
}

static void ask(struct js_call *c, enum step step, const char *body);

static void create(struct js_call *c)
{
    int64_t bytes = cw_app_log_bytes(c->app) * (strcmp(c->log, CW_LOG_UPLINK) == 0 ? 2 : 1);
    char id[33];
    cw_random_hex(id, sizeof id - 1);
    char *body = cw_sprintf("{\"name\":\"%s\",\"description\":\"%s\",\"subjects\":[\"%s\"],"
                            "\"retention\":\"limits\","
                            "\"storage\":\"file\",\"discard\":\"new\",\"max_bytes\":%" PRId64 ","
                            "\"num_replicas\":%d,\"allow_direct\":true}",
                            c->stream, id, c->subjects, bytes, cw_app_log_replicas(c->app));
    cw_log(CW_INFO, "stream_create", "stream=%s max_bytes=%" PRId64, c->stream, bytes);
    ask(c, CREATE, body);
    free(body);
}

static void got_info(struct js_call *c, json_t *root)
{
    json_t *state = json_object_get(root, "state");
    struct js_info info = {
        .first_seq = (uint64_t)json_integer_value(json_object_get(state, "first_seq")),
        .last_seq = (uint64_t)json_integer_value(json_object_get(state, "last_seq")),
    };
    const char *created = cw_json_text(root, "created");
    const char *id = cw_json_text(json_object_get(root, "config"), "description");
    if (created && id && *id)
        created = id;
    snprintf(info.created, sizeof info.created, "%s", created ? created : "");
    json_decref(root);
    give(c, created ? 0 : -EBADMSG, &info, 0);
}

static void got_subjects(struct js_call *c, json_t *root)
{
    json_t *map = json_object_get(json_object_get(root, "state"), "subjects"), *count;
    const char **names = cw_calloc(json_object_size(map), sizeof *names), *name;
    size_t n = 0;
    json_object_foreach(map, name, count) names[n++] = name;
    give(c, 0, names, n);
    free(names);
    json_decref(root);
}

static void got_last(struct js_call *c, const struct cw_bus_msg *msg)
{
    const char *status = cw_bus_header(msg, "Status"), *seq = cw_bus_header(msg, "Nats-Sequence");
    struct js_last last = { .seq = seq ? strtoull(seq, NULL, 10) : 0,
                            .from = cw_bus_header(msg, "Cw-From"),
                            .outbox = cw_bus_header(msg, "Cw-Outbox") };
    int rc = status && strcmp(status, "404") == 0 ? -ENOENT : last.seq ? 0 : -EBADMSG;
    give(c, rc, &last, 0);
}

static void on_answer(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct js_call *c = arg;
    c->req = NULL;
    if (rc < 0) {
        give(c, rc, NULL, 0);
        return;
    }
    if (c->step == LAST) {
        got_last(c, msg);
        return;
    }
    json_t *root = parse(msg->data, msg->len, &rc);
    if (rc == JS_NO_STREAM && c->step == INFO && c->may_create)
        create(c);
    else if (rc == JS_NAME_IN_USE && c->step == CREATE) /* somebody was faster */
        ask(c, INFO, "");
    else if (!root)
        give(c, rc, NULL, 0);
    else if (c->step == SUBJECTS)
        got_subjects(c, root);
    else if (c->step == PURGE) {
        json_decref(root);
        give(c, 0, NULL, 0);
    } else
        got_info(c, root);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct js_call *c = arg;
    give(c, c->later_rc, NULL, 0);
}

static void give_later(struct js_call *c, int rc)
{
    c->later_rc = rc;
    event_active(c->later, 0, 0);
}

static void ask(struct js_call *c, enum step step, const char *body)
{
    char subject[80];
    snprintf(subject, sizeof subject, "%s.%s", api[step], c->stream);
    c->step = step;
    c->req = cw_bus_request(cw_app_bus(c->app), subject, body, strlen(body), CALL_LIMIT_MS,
                            on_answer, c);
    if (!c->req)
        give_later(c, -ENOTCONN);
}

static struct js_call *call_new(struct cw_app *app, const char *log, uint32_t partition, void *arg)
{
    struct js_call *c = cw_calloc(1, sizeof *c);
    *c = (struct js_call){ .app = app, .log = log, .arg = arg };
    c->later = event_new(cw_app_base(app), -1, 0, on_later, c);
    snprintf(c->stream, sizeof c->stream, "%s_%u", log, partition);
    /* UPLINK has one subject per partition, the others one per writer */
    js_subject(c->subjects, sizeof c->subjects, log, partition,
               strcmp(log, CW_LOG_UPLINK) == 0 ? NULL : ">");
    return c;
}

struct js_call *js_stream_ensure(struct cw_app *app, const char *log, uint32_t partition,
                                 js_info_fn *cb, void *arg)
{
    struct js_call *c = js_stream_info(app, log, partition, cb, arg);
    c->may_create = true;
    return c;
}

struct js_call *js_stream_info(struct cw_app *app, const char *log, uint32_t partition,
                               js_info_fn *cb, void *arg)
{
    struct js_call *c = call_new(app, log, partition, arg);
    c->cb.info = cb;
    ask(c, INFO, "");
    return c;
}

struct js_call *js_stream_last(struct cw_app *app, const char *log, uint32_t partition,
                               const char *subject, js_last_fn *cb, void *arg)
{
    char body[160];
    struct js_call *c = call_new(app, log, partition, arg);
    c->cb.last = cb;
    snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", subject);
    ask(c, LAST, body);
    return c;
}

struct js_call *js_stream_subjects(struct cw_app *app, const char *log, uint32_t partition,
                                   js_list_fn *cb, void *arg)
{
    char body[96];
    struct js_call *c = call_new(app, log, partition, arg);
    c->cb.list = cb;
    snprintf(body, sizeof body, "{\"subjects_filter\":\"%s\"}", c->subjects);
    ask(c, SUBJECTS, body);
    return c;
}

struct js_call *js_stream_purge(struct cw_app *app, const char *log, uint32_t partition,
                                uint64_t seq, js_done_fn *cb, void *arg)
{
    char body[48];
    struct js_call *c = call_new(app, log, partition, arg);
    c->cb.done = cb;
    c->step = PURGE;
    if (seq <= 1) { /* nothing lies below; nats-server 2.9 would empty the whole stream */
        give_later(c, 0);
        return c;
    }
    snprintf(body, sizeof body, "{\"seq\":%" PRIu64 "}", seq);
    ask(c, PURGE, body);
    return c;
}
