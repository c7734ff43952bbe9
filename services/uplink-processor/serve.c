/* api.data.*: history and why of a device; serve_shadow.c has its shadow. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "services/uplink-processor/serve.h"

#define RECORD_ID_DIGITS 24 /* 12 of the time in ms, 12 of the order within it */

void serve_query(struct cw_api_call *call, struct uplink *u, const struct cw_stmt *stmt, int n,
                 const struct cw_db_param *params, cw_db_fn *cb)
{
    if (!cw_db_exec(cw_app_db(u->app), stmt, n, params, cb, call))
        cw_api_fail(call, CW_E_UNAVAILABLE, "The database is away.");
}

bool serve_has_rows(struct cw_api_call *call, PGresult *res)
{
    static struct cw_log_gate gate;
    enum cw_db_outcome outcome = cw_db_outcome(res);
    if (outcome == CW_DB_RETRY)
        cw_api_fail(call, CW_E_UNAVAILABLE, "The database is away.");
    else if (outcome != CW_DB_OK) {
        cw_log_limited(&gate, CW_ERROR, "query_failed", "reason=\"%s\"", cw_db_error(res));
        cw_api_fail(call, CW_E_INTERNAL, "The query failed.");
    } else if (PQntuples(res) == 0)
        cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(call, "device_id"));
    else
        return true;
    return false;
}

static void add_text(struct cw_buf *out, const char *key, const char *text)
{
    cw_buf_printf(out, "\"%s\":", key);
    cw_buf_json_string(out, text, strlen(text));
}

static void add_json(struct cw_buf *out, const char *key, const char *json)
{
    cw_buf_printf(out, ",\"%s\":", key);
    cw_json_compact(out, json, strlen(json));
}

static void reply(struct cw_api_call *call, struct cw_buf *out)
{
    cw_api_reply(call, 200, out->data, out->len);
    cw_buf_free(out);
}

/* ---- history */

static const struct cw_stmt stmt_history = {
    "serve_history",
    "SELECT h.*, d.device_id FROM registry.device_view d LEFT JOIN LATERAL"
    " (SELECT received_ms, ord, kind, topic, request_id, body, verdicts, properties FROM "
    "data.history h"
    " WHERE h.device_key = d.device_key AND h.received_ms >= $2::bigint"
    " AND h.received_ms <= $3::bigint AND (h.received_ms, h.ord) < ($5::bigint, $6::bigint)"
    " AND ($4::text IS NULL OR CASE WHEN h.kind = 'property' THEN h.body::jsonb @>"
    " jsonb_build_object('services', jsonb_build_array(jsonb_build_object('service_id', $4::text)))"
    " ELSE false END) ORDER BY h.received_ms DESC, h.ord DESC LIMIT $7::int) h ON true"
    " WHERE d.device_id = $1 ORDER BY h.received_ms DESC, h.ord DESC"
};

static const char *topic_of(PGresult *res, int row, char *buf, size_t size)
{
    const char *topic = cw_db_str(res, row, "topic");
    if (topic)
        return topic;
    snprintf(buf, size, "$oc/devices/%s/sys/%s", cw_db_str(res, row, "device_id"),
             strcmp(cw_db_str(res, row, "kind"), "property") == 0 ? "properties/report"
                                                                  : "messages/up");
    return buf;
}

static void add_report(struct cw_buf *out, PGresult *res, int row, const char *id)
{
    char time[CW_TIME_LEN], topic[400];
    const char *verdicts = cw_db_str(res, row, "verdicts");
    const char *properties = cw_db_str(res, row, "properties");
    cw_buf_str(out, "{");
    add_text(out, "id", id);
    cw_buf_str(out, ",");
    add_text(out, "received_time", cw_time_extended(time, cw_db_i64(res, row, "received_ms", 0)));
    cw_buf_str(out, ",");
    add_text(out, "kind", cw_db_str(res, row, "kind"));
    cw_buf_str(out, ",");
    add_text(out, "topic", topic_of(res, row, topic, sizeof topic));
    cw_buf_str(out, ",");
    add_text(out, "request_id", cw_db_str(res, row, "request_id"));
    cw_buf_str(out, ",");
    add_text(out, "body", cw_db_str(res, row, "body"));
    add_json(out, "verdicts", verdicts ? verdicts : "[]");
    if (properties)
        add_json(out, "properties", properties);
    cw_buf_str(out, "}");
}

static void on_history(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    struct cw_buf out = { 0 };
    char id[RECORD_ID_DIGITS + 1] = "";
    if (!serve_has_rows(call, res))
        return;
    cw_buf_str(&out, "{\"reports\":[");
    for (int i = 0; i < PQntuples(res) && cw_db_str(res, i, "received_ms"); i++) {
        snprintf(id, sizeof id, "%012" PRIx64 "%012" PRIx64,
                 (uint64_t)cw_db_i64(res, i, "received_ms", 0) & 0xffffffffffff,
                 (uint64_t)cw_db_i64(res, i, "ord", 0) & 0xffffffffffff);
        cw_buf_str(&out, i ? "," : "");
        add_report(&out, res, i, id);
    }
    cw_buf_str(&out, "],\"page\":{");
    if (*id)
        add_text(&out, "marker", id);
    cw_buf_str(&out, "}}");
    reply(call, &out);
}

/* Splits a marker into time and order. */
static int read_marker(const char *text, int64_t *ms, int64_t *ord)
{
    unsigned long long hi, lo;
    if (strlen(text) != RECORD_ID_DIGITS ||
        strspn(text, "0123456789abcdefABCDEF") != strlen(text) ||
        sscanf(text, "%12llx%12llx", &hi, &lo) != 2)
        return -1;
    *ms = (int64_t)hi;
    *ord = (int64_t)lo;
    return 0;
}

static int read_time(struct cw_api_call *call, const char *name, int64_t *ms)
{
    const char *text = cw_api_query(call, name);
    if (!text || cw_time_parse_basic(ms, text) == 0)
        return 0;
    cw_api_fail(call, CW_E_TIME_FORMAT, "%s is \"%s\".", name, text);
    return -1;
}

static void list_history(struct cw_api_call *call, void *self)
{
    char nums[5][24];
    int64_t from_ms = 0, until_ms = INT64_MAX / 2, marker_ms = 0, marker_ord = 0;
    int64_t limit = cw_api_query_int(call, "limit", 10);
    const char *marker = cw_api_query(call, "marker");
    if (read_time(call, "start_time", &from_ms) < 0 || read_time(call, "end_time", &until_ms) < 0)
        return;
    if (from_ms > until_ms) {
        cw_api_fail(call, CW_E_TIME_ORDER, "start_time lies after end_time.");
    } else if (limit < 1 || limit > 50) {
        cw_api_fail(call, CW_E_LIMIT, "limit is %" PRId64 ".", limit);
    } else if (read_marker(marker ? marker : "ffffffffffffffffffffffff", &marker_ms, &marker_ord) <
               0) {
        cw_api_fail(call, CW_E_MARKER, "marker is \"%s\".", marker);
    } else {
        const struct cw_db_param params[] = {
            CW_TEXT(cw_api_path(call, "device_id")),
            cw_db_int(from_ms, nums[0]),
            cw_db_int(until_ms + 999, nums[1]), /* the whole of its last second */
            { .data = cw_api_query(call, "service_id") },
            cw_db_int(marker_ms, nums[2]),
            cw_db_int(marker_ord, nums[3]),
            cw_db_int(limit, nums[4]),
        };
        serve_query(call, self, &stmt_history, (int)CW_ARRAY_LEN(params), params, on_history);
    }
}

/* ---- why */

static const struct cw_stmt stmt_why = {
    "serve_why",
    "SELECT s.status, s.session_no, s.gateway, s.peer, s.since_ms, s.connected_ms, s.cause,"
    " s.reports, s.last_report_ms, s.messages, s.last_message_ms,"
    " (SELECT coalesce(json_agg(json_build_object('time', data.time_text(c.at_ms), 'what', c.what,"
    " 'code', c.code, 'text', c.text) ORDER BY c.at_ms DESC, c.id DESC), '[]') FROM"
    " (SELECT * FROM data.change WHERE device_key = d.device_key ORDER BY id DESC LIMIT 64) c)"
    " AS changes,"
    " (SELECT coalesce(json_object_agg(f.layer, json_build_object('first',"
    " data.time_text(f.first_ms), 'last', data.time_text(f.last_ms), 'count', f.count, 'code',"
    " f.code, 'reason', f.reason, 'next_step', coalesce(f.next_step, ''), 'sample',"
    " coalesce(f.sample, ''))), '{}') FROM data.failure f WHERE f.device_key = d.device_key)"
    " AS failures,"
    " (SELECT f.layer || ': ' || f.reason FROM data.failure f WHERE f.device_key = d.device_key"
    " ORDER BY f.last_ms DESC LIMIT 1) AS newest,"
    " (SELECT max(f.last_ms) FROM data.failure f WHERE f.device_key = d.device_key) AS newest_ms"
    " FROM registry.device_view d LEFT JOIN data.device_state s USING (device_key)"
    " WHERE d.device_id = $1"
};

static const char *time_or_empty(PGresult *res, const char *column, char *out)
{
    int64_t ms = cw_db_i64(res, 0, column, 0);
    return ms ? cw_time_extended(out, ms) : "";
}

/* One sentence or two: what to look at first. */
static void summarize(struct cw_buf *out, PGresult *res)
{
    char since[CW_TIME_LEN], report[CW_TIME_LEN], failed[CW_TIME_LEN];
    const char *status = cw_db_str(res, 0, "status"), *cause = cw_db_str(res, 0, "cause");
    int64_t reports = cw_db_i64(res, 0, "reports", 0);
    struct cw_buf text = { 0 };
    if (!status || cw_db_i64(res, 0, "connected_ms", 0) == 0)
        cw_buf_str(&text, "The device has never been connected.");
    else if (strcmp(status, "ONLINE") == 0)
        cw_buf_printf(&text, "Connected since %s.", time_or_empty(res, "since_ms", since));
    else
        cw_buf_printf(&text, "Not connected since %s (%s).", time_or_empty(res, "since_ms", since),
                      cause ? cause : "cause unknown");
    if (reports > 0)
        cw_buf_printf(&text, " %" PRId64 " reports stored, the last at %s.", reports,
                      time_or_empty(res, "last_report_ms", report));
    else
        cw_buf_str(&text, " No report was ever stored.");
    if (cw_db_str(res, 0, "newest"))
        cw_buf_printf(&text, " Last failure at %s, %s", time_or_empty(res, "newest_ms", failed),
                      cw_db_str(res, 0, "newest"));
    add_text(out, "summary", text.data);
    cw_buf_free(&text);
}

static void add_state(struct cw_buf *out, PGresult *res)
{
    static const char *const texts[] = { "gateway", "peer", "cause" };
    static const struct {
        const char *column, *key;
    } times[] = { { "since_ms", "since" },
                  { "connected_ms", "connected_time" },
                  { "last_report_ms", "last_report_time" },
                  { "last_message_ms", "last_message_time" } };
    char time[CW_TIME_LEN];
    const char *status = cw_db_str(res, 0, "status");
    if (!status || cw_db_i64(res, 0, "connected_ms", 0) == 0)
        status = "INACTIVE";
    cw_buf_str(out, "\"state\":{");
    add_text(out, "status", status);
    cw_buf_str(out, ",");
    summarize(out, res);
    cw_buf_printf(out, ",\"session_no\":%" PRId64 ",\"reports\":%" PRId64 ",\"messages\":%" PRId64,
                  cw_db_i64(res, 0, "session_no", 0), cw_db_i64(res, 0, "reports", 0),
                  cw_db_i64(res, 0, "messages", 0));
    for (size_t i = 0; i < CW_ARRAY_LEN(times); i++) {
        if (!cw_db_i64(res, 0, times[i].column, 0))
            continue;
        cw_buf_str(out, ",");
        add_text(out, times[i].key, time_or_empty(res, times[i].column, time));
    }
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++) {
        if (!cw_db_str(res, 0, texts[i]))
            continue;
        cw_buf_str(out, ",");
        add_text(out, texts[i], cw_db_str(res, 0, texts[i]));
    }
    cw_buf_str(out, "}");
}

static const struct cw_stmt stmt_deleted = {
    "serve_deleted",
    "SELECT app_id, to_char(deleted AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS deleted,"
    " reason, deleted_by, kept FROM registry.deleted_view WHERE device_id = $1"
    " ORDER BY deleted_view.deleted DESC LIMIT 1"
};

/* There is no such device: was there one? */
static void on_deleted(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    const char *device = cw_api_path(call, "device_id");
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0 ||
        !cw_api_may(call, cw_db_str(res, 0, "app_id"))) {
        cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", device);
        return;
    }
    const char *by = cw_db_str(res, 0, "deleted_by");
    cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\" was deleted on %s UTC by %s%s.", device,
                cw_db_str(res, 0, "deleted"),
                !by ? "the timeout of its registration: it never came online" : by,
                *cw_db_str(res, 0, "kept") == 't'
                    ? "; it can be brought back (POST …/deleted-devices/{device_id}/undelete)"
                    : "");
}

struct why_asked {
    struct cw_api_call *call;
    struct uplink *u;
};

static void on_why(PGresult *res, void *arg)
{
    struct why_asked asked = *(struct why_asked *)arg;
    struct cw_api_call *call = asked.call;
    struct cw_buf out = { 0 };
    free(arg);
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) == 0) {
        serve_query(call, asked.u, &stmt_deleted, 1, &CW_TEXT(cw_api_path(call, "device_id")),
                    on_deleted);
        return;
    }
    if (!serve_has_rows(call, res))
        return;
    cw_buf_str(&out, "{");
    add_state(&out, res);
    add_json(&out, "changes", cw_db_str(res, 0, "changes"));
    add_json(&out, "failures", cw_db_str(res, 0, "failures"));
    cw_buf_str(&out, "}");
    reply(call, &out);
}

static void show_why(struct cw_api_call *call, void *self)
{
    struct uplink *u = self;
    struct why_asked *asked = cw_malloc(sizeof *asked);
    *asked = (struct why_asked){ call, u };
    if (cw_db_exec(cw_app_db(u->app), &stmt_why, 1, &CW_TEXT(cw_api_path(call, "device_id")),
                   on_why, asked))
        return;
    free(asked);
    cw_api_fail(call, CW_E_UNAVAILABLE, "The database is away.");
}

static const struct cw_api_op ops[] = {
    { "ShowDeviceShadow", show_shadow },
    { "UpdateDeviceShadowDesiredData", update_shadow },
    { "DeleteDeviceShadow", delete_shadow },
    { "ListDeviceHistory", list_history },
    { "ShowDeviceWhy", show_why },
    { "CreateProductDraft", create_product_draft },
    { 0 },
};

static const struct cw_space_rule spaces[] = {
    { "device",
      { "space_of_device", "SELECT app_id FROM registry.device_view WHERE device_id = $1" },
      { "path:device_id" } },
    { "resource",
      { "space_of_resource", "SELECT app_id FROM registry.device_view WHERE device_id = $1" },
      { "body:device_id" } },
    { 0 },
};

void serve_start(struct uplink *u)
{
    cw_api_serve(u->app, "data", ops, u);
    cw_api_space_rules("data", spaces);
}
