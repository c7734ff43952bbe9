/* $sub_device_manager: children that gateways add and delete, by the same operations as over REST;
 * and the list of children, which a gateway is told as it changes. */
#include "services/device-registry/subdevices.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/json.h"
#include "libcommon/validate.h"
#include "proto/routes.h"

#define SWEEP_MS     1000
#define ASK_MS       8000
#define DEVICES_MAX  50
#define NOTIFIED_MAX 10 /* devices of one notification: a C SDK ignores longer ones */

/* A request on its way: its services one after the other, the devices of each one after the other.
 */
struct job {
    struct subdevices *s;
    int64_t id, device_key, session_no;
    char *device_id, *app_id, *gateway;
    json_t *body, *good, *bad;
    size_t service, device;
};

struct subdevices {
    struct registry *r;
    struct event *timer;
    struct cw_db_query *reading, *telling;
    struct job *job;
    bool again, closing;
};

static void sweep(struct subdevices *s);
static void go_on(struct job *j);

/* ---- the way down: an events/down with one service; it may be lost, the gateway asks again */

static void send_event(struct registry *r, const char *gateway, int64_t device_key,
                       int64_t session_no, const char *device_id, const char *type,
                       const char *event_id, json_t *paras)
{
    char subject[128], topic[200], time[CW_TIME_LEN], id[CW_UUID_LEN];
    struct cw_buf text = { 0 };
    Causeway__Downlink d = CAUSEWAY__DOWNLINK__INIT;
    json_t *o = json_pack("{s:s, s:[{s:s, s:s, s:s, s:s, s:o}]}", "object_device_id", device_id,
                          "services", "service_id", "$sub_device_manager", "event_type", type,
                          "event_time", cw_time_basic(time, cw_now_ms()), "event_id",
                          event_id ? event_id : cw_uuid(id), "paras", paras);
    cw_json_write(&text, o);
    json_decref(o);
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/events/down", device_id);
    snprintf(subject, sizeof subject, "downlink.%s", gateway);
    d.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    d.deadline_ms = cw_now_ms() + ASK_MS;
    d.device_key = device_key;
    d.session_no = session_no;
    d.topic = topic;
    d.payload = (ProtobufCBinaryData){ text.len, (uint8_t *)text.data };
    d.qos = 1;
    d.resend_ms = 2000;
    d.resends = 3;
    uint8_t *packed = cw_malloc(causeway__downlink__get_packed_size(&d));
    size_t n = causeway__downlink__pack(&d, packed);
    cw_bus_publish(cw_app_bus(r->app), subject, NULL, packed, n);
    free(packed);
    cw_buf_free(&text);
}

/* ---- a request, step by step */

static const struct cw_stmt stmt_done = { "subdevices_done",
                                          "DELETE FROM registry.device_request WHERE id = $1" };
/* A gateway that holds version $2 is told what came later. */
static const struct cw_stmt stmt_sync = {
    "subdevices_sync", "UPDATE registry.child_list SET told = least(told, $2::bigint)"
                       " WHERE root_id = $1 RETURNING version"
};

static void job_free(struct job *j)
{
    if (j->s)
        j->s->job = NULL;
    json_decref(j->body);
    json_decref(j->good);
    json_decref(j->bad);
    free(j->device_id);
    free(j->app_id);
    free(j->gateway);
    free(j);
}

static void on_done(PGresult *res, void *arg)
{
    struct subdevices *s = arg;
    (void)res;
    if (!s->closing)
        sweep(s);
}

static void finish(struct job *j)
{
    char id[24];
    struct subdevices *s = j->s;
    const struct cw_db_param p[] = { cw_db_int(j->id, id) };
    bool sent = cw_db_exec(s->r->logins, &stmt_done, 1, p, on_done, s) != NULL;
    (void)sent; /* if not: it is done again, which changes nothing */
    job_free(j);
}

static const json_t *service_of(const struct job *j)
{
    return json_array_get(json_object_get(j->body, "services"), j->service);
}

static bool is_type(const struct job *j, const char *type)
{
    const char *t = cw_json_text(service_of(j), "event_type");
    return t && strcmp(t, type) == 0;
}

static void answer(struct job *j, const char *type)
{
    send_event(j->s->r, j->gateway, j->device_key, j->session_no, j->device_id, type,
               cw_json_text(service_of(j), "event_id"),
               json_pack("{s:O, s:O}", "successful_devices", j->good, "failed_devices", j->bad));
    json_array_clear(j->good);
    json_array_clear(j->bad);
    j->service++;
    j->device = 0;
    go_on(j);
}

static void add_failure(struct job *j, json_t *row, const char *code, const char *text)
{
    json_object_set_new(row, "error_code", json_string(code));
    json_object_set_new(row, "error_msg", json_string(text));
    json_array_append_new(j->bad, row);
}

/* ---- add and delete: the operations of the API, asked of this service */

static const json_t *device_of(const struct job *j)
{
    return json_array_get(json_object_get(json_object_get(service_of(j), "paras"), "devices"),
                          j->device);
}

static json_t *record_of(const json_t *device, const char *parent)
{
    static const char *const keys[] = { "node_id",    "device_id",  "description",    "product_id",
                                        "fw_version", "sw_version", "extension_info", "status" };
    json_t *v, *o = json_pack("{s:s}", "parent_device_id", parent);
    for (size_t i = 0; i < CW_ARRAY_LEN(keys); i++)
        if ((v = json_object_get(device, keys[i])) && !json_is_null(v))
            json_object_set(o, keys[i], v);
    const char *name = cw_json_text(device, "device_name");
    json_object_set_new(o, "name", json_string(name ? name : ""));
    return o;
}

static json_t *failure_of(const json_t *device)
{
    json_t *o = json_object();
    static const char *const keys[] = { "node_id", "product_id" };
    for (size_t i = 0; i < CW_ARRAY_LEN(keys); i++) {
        const char *v = cw_json_text(device, keys[i]);
        json_object_set_new(o, keys[i], json_string(v ? v : ""));
    }
    return o;
}

static void on_added(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct job *j = arg;
    struct cw_json_error err;
    if (!j->s) {
        job_free(j);
        return;
    }
    json_t *o = rc == 0 ? cw_json_parse(reply->body.data, reply->body.len, &err) : NULL;
    if (rc < 0 || reply->status == 503) { /* a later sweep begins the request again */
        json_decref(o);
        job_free(j);
        return;
    }
    const char *parent = cw_json_text(device_of(j), "parent_device_id");
    if (reply->status == 201)
        json_array_append_new(j->good, record_of(o, parent ? parent : j->device_id));
    else
        add_failure(j, failure_of(device_of(j)), cw_json_text(o, "error_code"),
                    cw_json_text(o, "error_msg"));
    json_decref(o);
    j->device++;
    go_on(j);
}

static void on_removed(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct job *j = arg;
    struct cw_json_error err;
    if (!j->s) {
        job_free(j);
        return;
    }
    json_t *o =
        rc == 0 && reply->body.len ? cw_json_parse(reply->body.data, reply->body.len, &err) : NULL;
    const char *id = json_string_value(device_of(j));
    if (rc < 0 || reply->status == 503) {
        json_decref(o);
        job_free(j);
        return;
    }
    if (reply->status == 204)
        json_array_append_new(j->good, json_string(id));
    else
        add_failure(j, json_pack("{s:s}", "device_id", id), cw_json_text(o, "error_code"),
                    cw_json_text(o, "error_msg"));
    json_decref(o);
    j->device++;
    go_on(j);
}

/* Parts of what a device sends that REST calls by another name. "" is as good as nothing. */
static json_t *add_body(const struct job *j)
{
    static const char *const pairs[][2] = { { "node_id", "node_id" },
                                            { "product_id", "product_id" },
                                            { "device_id", "device_id" },
                                            { "name", "device_name" },
                                            { "description", "description" } };
    const json_t *device = device_of(j);
    const char *parent = cw_json_text(device, "parent_device_id");
    json_t *o =
        json_pack("{s:s, s:s}", "gateway_id", parent ? parent : j->device_id, "app_id", j->app_id);
    for (size_t i = 0; i < CW_ARRAY_LEN(pairs); i++)
        if (cw_json_text(device, pairs[i][0]))
            json_object_set(o, pairs[i][1], json_object_get(device, pairs[i][0]));
    if (json_is_object(json_object_get(device, "extension_info")))
        json_object_set(o, "extension_info", json_object_get(device, "extension_info"));
    return o;
}

static int call(struct job *j, const char *operation, const json_t *body, const char *device_id,
                cw_api_answer_fn *cb)
{
    Causeway__ApiRequest q = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair path = CAUSEWAY__PAIR__INIT, *paths[] = { &path };
    char request_id[33];
    struct cw_buf text = { 0 };
    if (body)
        cw_json_write(&text, body);
    q.operation = (char *)operation;
    q.request_id = cw_random_hex(request_id, 32);
    q.deadline_ms = cw_now_ms() + ASK_MS;
    q.user_name = j->device_id; /* what the audit of a tombstone names */
    q.body = (ProtobufCBinaryData){ text.len, (uint8_t *)text.data };
    path.name = (char *)"device_id";
    path.value = (char *)(device_id ? device_id : "");
    q.path = paths;
    q.n_path = device_id ? 1 : 0;
    int rc = cw_api_ask(j->s->r->app, "registry", &q, cb, j);
    cw_buf_free(&text);
    return rc;
}

static void add_next(struct job *j)
{
    struct cw_refusal no;
    bool changed;
    json_t *body = add_body(j);
    if (cw_validate_body(&no, &changed, cw_route_of("AddDevice")->body, body) < 0) {
        add_failure(j, failure_of(device_of(j)), cw_error_row(no.error)->code, no.text);
        json_decref(body);
        j->device++;
        go_on(j);
        return;
    }
    int rc = call(j, "AddDevice", body, NULL, on_added);
    json_decref(body);
    if (rc < 0)
        job_free(j);
}

/* Only what hangs below this gateway. */
static const struct cw_stmt stmt_below = {
    "subdevices_below", "SELECT 1 FROM registry.device WHERE device_id = $1 AND root_id = $2"
                        " AND depth > 0"
};

static void on_below(PGresult *res, void *arg)
{
    struct job *j = arg;
    const char *id;
    if (!j->s || cw_db_outcome(res) != CW_DB_OK) {
        job_free(j);
        return;
    }
    id = json_string_value(device_of(j));
    if (PQntuples(res) == 0) {
        add_failure(j, json_pack("{s:s}", "device_id", id), "IOTDA.014000",
                    "no child of this gateway");
        j->device++;
        go_on(j);
    } else if (call(j, "DeleteDevice", NULL, id, on_removed) < 0)
        job_free(j);
}

static void remove_next(struct job *j)
{
    const char *id = json_string_value(device_of(j));
    if (!id) {
        add_failure(j, json_pack("{s:s}", "device_id", ""), "IOTDA.000006",
                    "devices: must be a list of device ids");
        j->device++;
        go_on(j);
        return;
    }
    const struct cw_db_param p[] = { CW_TEXT(id), CW_TEXT(j->device_id) };
    if (!cw_db_exec(j->s->r->logins, &stmt_below, 2, p, on_below, j))
        job_free(j);
}

/* ---- sync: the list is told again from the gateway's version on */

static void on_synced(PGresult *res, void *arg)
{
    struct job *j = arg;
    if (!j->s || cw_db_outcome(res) != CW_DB_OK) {
        job_free(j);
        return;
    }
    j->service++;
    go_on(j);
}

static void sync_list(struct job *j)
{
    char version[24];
    const json_t *v = json_object_get(json_object_get(service_of(j), "paras"), "version");
    const struct cw_db_param p[] = { CW_TEXT(j->device_id),
                                     cw_db_int(json_integer_value(v), version) };
    if (!cw_db_exec(j->s->r->logins, &stmt_sync, 2, p, on_synced, j))
        job_free(j);
}

static void go_on(struct job *j)
{
    const json_t *service = service_of(j),
                 *devices = json_object_get(json_object_get(service, "paras"), "devices");
    size_t n = json_array_size(devices);
    if (!service)
        finish(j);
    else if (is_type(j, "add_sub_device_request") && j->device < n && j->device < DEVICES_MAX)
        add_next(j);
    else if (is_type(j, "delete_sub_device_request") && j->device < n && j->device < DEVICES_MAX)
        remove_next(j);
    else if (is_type(j, "add_sub_device_request"))
        answer(j, "add_sub_device_response");
    else if (is_type(j, "delete_sub_device_request"))
        answer(j, "delete_sub_device_response");
    else if (is_type(j, "sub_device_sync_request"))
        sync_list(j);
    else {
        j->service++;
        go_on(j);
    }
}

/* ---- the oldest request of own partitions */

static const struct cw_stmt stmt_next = {
    "subdevices_next", "SELECT * FROM registry.device_request WHERE partition = ANY($1::int[])"
                       " ORDER BY id LIMIT 1"
};

static void on_next(PGresult *res, void *arg)
{
    struct subdevices *s = arg;
    s->reading = NULL;
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0) {
        struct job *j = cw_calloc(1, sizeof *j);
        *j = (struct job){ .s = s,
                           .id = cw_db_i64(res, 0, "id", 0),
                           .device_key = cw_db_i64(res, 0, "device_key", 0),
                           .session_no = cw_db_i64(res, 0, "session_no", 0),
                           .device_id = cw_strdup(cw_db_str(res, 0, "device_id")),
                           .app_id = cw_strdup(cw_db_str(res, 0, "app_id")),
                           .gateway = cw_strdup(cw_db_str(res, 0, "gateway")),
                           .body = json_loads(cw_db_str(res, 0, "body"), JSON_ALLOW_NUL, NULL),
                           .good = json_array(),
                           .bad = json_array() };
        s->job = j;
        go_on(j);
    } else if (s->again)
        sweep(s);
}

/* ---- what gateways are to be told */

/* Gateways that are connected and not told of all; the changes of each, or that they are gone. From
 * the lists outwards (OFFSET 0): mostly there is none, but PostgreSQL takes an empty table for one
 * of some hundred rows, and would go through all sessions. */
static const struct cw_stmt stmt_untold = {
    "subdevices_untold",
    "SELECT l.root_id, l.version, s.device_key, s.gateway, s.session_no, (SELECT json_agg(c"
    " ORDER BY c.version) FROM (SELECT c.version, c.added, c.device_id, c.node_id, c.parent_id,"
    "  d.device_name AS name, d.description, p.product_id, d.status, d.fw_version, d.sw_version,"
    "  d.extension_info FROM registry.child_change c LEFT JOIN registry.device d"
    "  ON d.device_id = c.device_id LEFT JOIN registry.product p USING (product_key)"
    "  WHERE c.root_id = l.root_id AND c.version > l.told ORDER BY c.version LIMIT 500) c)"
    " AS changes FROM registry.child_list l CROSS JOIN LATERAL (SELECT r.device_key, s.gateway,"
    "  s.session_no FROM registry.device r JOIN registry.session s USING (device_key)"
    "  WHERE r.device_id = l.root_id AND s.lost IS NULL OFFSET 0) s"
    " WHERE l.version > l.told AND l.partition = ANY($1::int[]) LIMIT 20"
};
static const struct cw_stmt stmt_told = {
    "subdevices_told", "UPDATE registry.child_list SET told = greatest(told, $2::bigint)"
                       " WHERE root_id = $1"
};

static json_t *change_record(const json_t *c)
{
    static const char *const keys[] = { "name",       "description", "product_id",    "status",
                                        "fw_version", "sw_version",  "extension_info" };
    json_t *v, *o = json_pack("{s:s, s:s, s:s}", "parent_device_id", cw_json_text(c, "parent_id"),
                              "node_id", cw_json_text(c, "node_id"), "device_id",
                              cw_json_text(c, "device_id"));
    for (size_t i = 0; json_is_true(json_object_get(c, "added")) && i < CW_ARRAY_LEN(keys); i++)
        if ((v = json_object_get(c, keys[i])) && !json_is_null(v))
            json_object_set(o, keys[i], v);
    return o;
}

/* Changes of one kind in a row are one notification, with the version of the last. Returns that. */
static int64_t tell(struct registry *r, const PGresult *res, int row, const json_t *changes)
{
    int64_t told = 0;
    for (size_t i = 0; i < json_array_size(changes);) {
        bool added = json_is_true(json_object_get(json_array_get(changes, i), "added"));
        json_t *list = json_array(), *c;
        for (; (c = json_array_get(changes, i)) && json_array_size(list) < NOTIFIED_MAX &&
               json_is_true(json_object_get(c, "added")) == added;
             i++) {
            json_array_append_new(list, change_record(c));
            told = json_integer_value(json_object_get(c, "version"));
        }
        send_event(r, cw_db_str(res, row, "gateway"), cw_db_i64(res, row, "device_key", 0),
                   cw_db_i64(res, row, "session_no", 0), cw_db_str(res, row, "root_id"),
                   added ? "add_sub_device_notify" : "delete_sub_device_notify", NULL,
                   json_pack("{s:o, s:I}", "devices", list, "version", (json_int_t)told));
    }
    return told;
}

static void on_untold(PGresult *res, void *arg)
{
    struct subdevices *s = arg;
    s->telling = NULL;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++) {
        char version[24];
        const char *text = cw_db_str(res, row, "changes");
        json_t *changes = text ? json_loads(text, 0, NULL) : NULL;
        int64_t told = tell(s->r, res, row, changes);
        const struct cw_db_param p[] = { CW_TEXT(cw_db_str(res, row, "root_id")),
                                         cw_db_int(told ? told : cw_db_i64(res, row, "version", 0),
                                                   version) };
        cw_db_exec(s->r->logins, &stmt_told, 2, p, NULL, NULL);
        json_decref(changes);
    }
}

static void sweep(struct subdevices *s)
{
    struct cw_db_array mine = { 0 };
    s->again = s->reading != NULL;
    if (cw_app_draining(s->r->app))
        return;
    cw_log_reader_owned(s->r->events, &mine);
    const struct cw_db_param p[] = { cw_db_array_param(&mine) };
    if (mine.n && !s->reading && !s->job)
        s->reading = cw_db_exec(s->r->logins, &stmt_next, 1, p, on_next, s);
    if (mine.n && !s->telling)
        s->telling = cw_db_exec(s->r->logins, &stmt_untold, 1, p, on_untold, s);
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    sweep(arg);
}

void subdevices_wake(struct subdevices *s) { sweep(s); }

struct subdevices *subdevices_open(struct registry *r)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    struct subdevices *s = cw_calloc(1, sizeof *s);
    s->r = r;
    s->timer = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_timer, s);
    event_add(s->timer, &period);
    return s;
}

void subdevices_close(struct subdevices **at)
{
    struct subdevices *s = *at;
    if (!s)
        return;
    *at = NULL;
    s->closing = true;
    if (s->reading)
        cw_db_cancel(s->reading);
    if (s->telling)
        cw_db_cancel(s->telling);
    if (s->job) /* its answer is still to come: bus and database end after us */
        s->job->s = NULL;
    event_free(s->timer);
    free(s);
}
