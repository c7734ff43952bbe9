/* Desired values that differ from what a device reported are told to it, as properties/set: when it
 * comes online, and at once when they are set while it is (docs/protocol/shadow.md). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/device_status.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "services/command-dispatcher/dispatcher.h"

#define SWEEP_MS 1000
#define AT_ONCE  500

/* A device that is being told; here until the gateway has said what became of it. */
struct telling {
    UT_hash_handle hh;
    struct desired *all; /* NULL: it has been closed, only an answer is still due */
    int64_t device_key, due, root_key, product_key, session_no;
    char *device_id, *root_id, *gateway;
    json_t *services; /* [{service_id, properties}]: what differs */
    bool asked;
};

struct desired {
    struct dispatcher *d;
    struct event *timer;
    struct telling *going;
    struct cw_db_query *reading;
    bool again;
    struct cw_metric *told, *failed;
};

/* The newest reason counts: a row that is told is deleted only if nothing has happened since. */
static const struct cw_stmt stmt_due = {
    "desired_due",
    "SELECT q.device_key, q.due, d.device_id, d.product_key, r.device_key AS root_key,"
    " r.device_id AS root_id, s.gateway, s.session_no, (SELECT json_agg(json_build_object("
    "  'service_id', v.service_id, 'desired', v.desired, 'reported', v.reported)"
    "  ORDER BY v.service_id) FROM data.desired_view v WHERE v.device_key = q.device_key"
    "  AND NOT v.reported @> v.desired) AS services"
    " FROM command.desired q LEFT JOIN registry.device_view d ON d.device_key = q.device_key"
    " LEFT JOIN registry.device_view r ON r.device_id = d.gateway_id"
    " LEFT JOIN registry.session_view s ON s.device_key = r.device_key"
    " WHERE q.partition = ANY($1::int[]) ORDER BY q.due LIMIT $2::bigint"
};
static const struct cw_stmt stmt_done = {
    "desired_done", "DELETE FROM command.desired WHERE device_key = $1 AND due = $2"
};

static void sweep(struct desired *s);

static void telling_free(struct telling *t)
{
    if (t->all)
        HASH_DEL(t->all->going, t);
    json_decref(t->services);
    free(t->device_id);
    free(t->root_id);
    free(t->gateway);
    free(t);
}

/* Nothing more to do for this reason. If it cannot be deleted now, the next sweep finds it. */
static void settle(struct telling *t)
{
    char key[24], due[24];
    const struct cw_db_param p[] = { cw_db_int(t->device_key, key), cw_db_int(t->due, due) };
    cw_db_exec(t->all->d->db, &stmt_done, 2, p, NULL, NULL);
    telling_free(t);
}

/* ---- the way down */

static void on_told(int rc, const Causeway__DownlinkReply *reply, void *arg)
{
    struct telling *t = arg;
    t->asked = false;
    if (!t->all) {
        telling_free(t);
        return;
    }
    Causeway__DownlinkOutcome o =
        rc == 0 ? reply->outcome : CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_UNKNOWN;
    bool told = o == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACKED ||
                o == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_WRITTEN;
    cw_log(CW_INFO, "desired_told", "device=%s session=%" PRId64 " outcome=%d", t->device_id,
           t->session_no, (int)o);
    cw_metric_add(told ? t->all->told : t->all->failed, 1);
    if (o == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_UNKNOWN ||
        o == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_BUSY) {
        telling_free(t); /* a later sweep tries again */
        return;
    }
    if (o == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACK_TIMEOUT)
        cw_notice(t->all->d->notices,
                  &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                       .device_key = t->root_key,
                                       .device_id = t->root_id,
                                       .code = "desired_not_acknowledged",
                                       .reason = "Desired values were sent, but the device sent no "
                                                 "PUBACK.",
                                       .next_step = "They are sent again at the next connection.",
                                       .sample = t->device_id });
    settle(t); /* not told: its next connection is a reason of its own */
}

static void write_payload(struct cw_buf *out, const struct telling *t)
{
    json_t *o = json_object();
    if (t->device_key != t->root_key)
        json_object_set_new(o, "object_device_id", json_string(t->device_id));
    json_object_set(o, "services", t->services);
    cw_json_write(out, o);
    json_decref(o);
}

static void send_down(struct telling *t)
{
    struct dispatcher *d = t->all->d;
    char id[64], topic[400];
    struct cw_buf payload = { 0 };
    Causeway__Downlink down = CAUSEWAY__DOWNLINK__INIT;
    snprintf(id, sizeof id, DESIRED_ID "%" PRId64 ".%" PRId64, t->device_key, t->due);
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/properties/set/request_id=%s", t->root_id,
             id);
    write_payload(&payload, t);
    down.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    down.deadline_ms = cw_now_ms() + d->message_ms;
    down.device_key = t->root_key;
    down.session_no = t->session_no;
    down.topic = topic;
    down.payload = (ProtobufCBinaryData){ payload.len, (uint8_t *)payload.data };
    down.qos = 1;
    down.request_id = id;
    down.resend_ms = (uint32_t)d->resend_ms;
    down.resends = (uint32_t)(d->message_ms / d->resend_ms - 1);
    t->asked = downlink_ask(d, t->gateway, &down, on_told, t) == 0;
    cw_buf_free(&payload);
    if (!t->asked)
        telling_free(t); /* NATS is away: a later sweep */
}

/* ---- what differs */

/* Values that differ and that the model lets an application write. The model may have changed since
 * they were wished for. */
static json_t *difference(const struct cw_model *m, const char *service_id, const json_t *entry)
{
    const char *key;
    json_t *v, *out = json_object(), *reported = json_object_get(entry, "reported");
    struct cw_verdicts verdicts = { 0 };
    json_object_foreach(json_object_get(entry, "desired"), key,
                        v) if (!json_equal(v, json_object_get(reported, key)))
        json_object_set(out, key, v);
    if (!m || !cw_model_check_set(m, service_id, out, &verdicts))
        for (size_t i = 0; i < verdicts.n; i++)
            if (verdicts.items[i].code != CW_VERDICT_OK)
                json_object_del(out, verdicts.items[i].name);
    if (verdicts.n && !*verdicts.items[0].name) /* the service is gone from the model */
        json_object_clear(out);
    cw_verdicts_free(&verdicts);
    return out;
}

static void keep_difference(struct telling *t, const struct cw_model *m)
{
    size_t i;
    json_t *entry, *all = t->services;
    t->services = json_array();
    json_array_foreach(all, i, entry)
    {
        const char *service_id = cw_json_text(entry, "service_id");
        json_t *properties = difference(m, service_id, entry);
        if (json_object_size(properties))
            json_array_append_new(t->services, json_pack("{s:s, s:O}", "service_id", service_id,
                                                         "properties", properties));
        json_decref(properties);
    }
    json_decref(all);
}

static void on_model(int rc, void *arg)
{
    struct telling *t = arg;
    t->asked = false;
    if (!t->all || rc < 0) {
        telling_free(t);
        return;
    }
    keep_difference(t, cw_products_find(t->all->d->products, t->product_key));
    if (json_array_size(t->services))
        send_down(t);
    else
        settle(t);
}

static char *copy(const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    return s ? cw_strdup(s) : NULL;
}

static void take_row(struct desired *s, const PGresult *res, int row)
{
    struct telling *t;
    int64_t key = cw_db_i64(res, row, "device_key", 0);
    const char *services = cw_db_str(res, row, "services");
    HASH_FIND(hh, s->going, &key, sizeof key, t);
    if (t)
        return; /* one at a time */
    t = cw_calloc(1, sizeof *t);
    *t = (struct telling){ .all = s,
                           .device_key = key,
                           .due = cw_db_i64(res, row, "due", 0),
                           .root_key = cw_db_i64(res, row, "root_key", 0),
                           .product_key = cw_db_i64(res, row, "product_key", 0),
                           .session_no = cw_db_i64(res, row, "session_no", 0),
                           .device_id = copy(res, row, "device_id"),
                           .root_id = copy(res, row, "root_id"),
                           .gateway = copy(res, row, "gateway"),
                           .services = services ? json_loads(services, 0, NULL) : NULL };
    HASH_ADD(hh, s->going, device_key, sizeof t->device_key, t);
    if (!t->gateway || !t->services) { /* away, deleted, or all is as it should be */
        settle(t);
        return;
    }
    t->asked = true;
    int rc = cw_products_load(s->d->products, &t->product_key, 1, on_model, t);
    if (rc != 0)
        on_model(rc < 0 ? rc : 0, t);
}

static void on_due(PGresult *res, void *arg)
{
    struct desired *s = arg;
    s->reading = NULL;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        take_row(s, res, row);
    if (s->again)
        sweep(s);
}

static void sweep(struct desired *s)
{
    struct cw_db_array mine = { 0 };
    char limit[24];
    s->again = s->reading != NULL;
    if (s->reading || cw_app_draining(s->d->app))
        return;
    cw_log_reader_owned(s->d->events, &mine);
    const struct cw_db_param par[] = { cw_db_array_param(&mine),
                                       cw_db_int(AT_ONCE + HASH_COUNT(s->going), limit) };
    if (mine.n > 0)
        s->reading = cw_db_exec(s->d->db, &stmt_due, 2, par, on_due, s);
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    sweep(arg);
}

void desired_wake(struct desired *s) { sweep(s); }

struct desired *desired_open(struct dispatcher *d)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    struct desired *s = cw_calloc(1, sizeof *s);
    s->d = d;
    s->told = cw_counter("causeway_desired_total", "result=\"told\"",
                         "Desired values sent to devices, by result");
    s->failed = cw_counter("causeway_desired_total", "result=\"failed\"",
                           "Desired values sent to devices, by result");
    s->timer = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_timer, s);
    event_add(s->timer, &period);
    return s;
}

void desired_close(struct desired **at)
{
    struct telling *t, *next;
    struct desired *s = *at;
    if (!s)
        return;
    if (s->reading)
        cw_db_cancel(s->reading);
    HASH_ITER(hh, s->going, t, next)
    {
        if (t->asked) {            /* its answer frees it: bus and database end after us */
            HASH_DEL(s->going, t); /* NOLINT: freed entries have left the table */
            t->all = NULL;
        } else
            telling_free(t);
    }
    event_free(s->timer);
    free(s);
    *at = NULL;
}

/* ---- reasons, from the EVENT log; in the transaction of its reader */

/* A gateway that comes online brings its children. A device that wants nothing costs a look into an
 * index. */
static const struct cw_stmt stmt_online = {
    "desired_online",
    "INSERT INTO command.desired AS q (device_key, partition)"
    " SELECT DISTINCT v.device_key, k.partition FROM (SELECT u.device_key, u.partition"
    "  FROM unnest($1::bigint[], $2::text[], $3::int[]) AS u(device_key, device_id, partition)"
    "  UNION ALL SELECT c.device_key, u.partition"
    "  FROM unnest($1::bigint[], $2::text[], $3::int[]) AS u(device_key, device_id, partition)"
    "  JOIN registry.child_view c ON c.root_id = u.device_id) k"
    " JOIN data.desired_view v USING (device_key) WHERE NOT v.reported @> v.desired"
    " ORDER BY v.device_key"
    " ON CONFLICT (device_key) DO UPDATE SET partition = excluded.partition,"
    " due = nextval('command.desired_due_seq')"
};

void desired_note(struct desired_reasons *r, const Causeway__Event *e, uint32_t partition)
{
    bool online = cw_device_status(e) == CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE;
    if (!online && e->kind != CAUSEWAY__EVENT_KIND__EVENT_SHADOW_DESIRED)
        return;
    if (!r->n++) {
        cw_db_array_reset(&r->key, CW_ARRAY_INT8);
        cw_db_array_reset(&r->device_id, CW_ARRAY_TEXT);
        cw_db_array_reset(&r->partition, CW_ARRAY_INT4);
    }
    cw_db_array_int(&r->key, e->device_key);
    cw_db_array_str(&r->device_id, online ? e->device_id : "");
    cw_db_array_int(&r->partition, partition);
}

void desired_store(struct desired_reasons *r, struct cw_log_txn *txn)
{
    if (!r->n)
        return;
    const struct cw_db_param p[] = { cw_db_array_param(&r->key), cw_db_array_param(&r->device_id),
                                     cw_db_array_param(&r->partition) };
    cw_log_txn_exec(txn, &stmt_online, 3, p, NULL, NULL);
}

void desired_reasons_free(struct desired_reasons *r)
{
    cw_db_array_free(&r->key);
    cw_db_array_free(&r->device_id);
    cw_db_array_free(&r->partition);
    *r = (struct desired_reasons){ 0 };
}
