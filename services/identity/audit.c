/* The audit log: rest-gateway writes a change down before its owner is asked, and how it ended
 * after that. A change without a status was under way when something ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/api_rows.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "services/identity/identity.h"

#define SWEEP_S 3600

/* $1 begun: [{record_id, at_ms, project_id, user_id, user_name, peer, request_id, operation,
 * method, resource}], $2 ended: [{record_id, status, error_code, resource_id}]. */
static const struct cw_stmt stmt_write = {
    "audit_write",
    "WITH b AS (INSERT INTO identity.audit (record_id, at, project_id, user_id, user_name, peer,"
    " request_id, operation, method, resource) SELECT r ->> 'record_id', to_timestamp((r ->>"
    " 'at_ms')::bigint / 1000.0), r ->> 'project_id', r ->> 'user_id', r ->> 'user_name',"
    " r ->> 'peer', r ->> 'request_id', r ->> 'operation', r ->> 'method', r ->> 'resource'"
    " FROM jsonb_array_elements($1::jsonb) r ON CONFLICT DO NOTHING)"
    " INSERT INTO identity.audit_end (record_id, status, error_code, resource_id) SELECT"
    " e ->> 'record_id', (e ->> 'status')::int, e ->> 'error_code', e ->> 'resource_id'"
    " FROM jsonb_array_elements($2::jsonb) e ON CONFLICT DO NOTHING"
};

static char *member_text(const json_t *body, const char *key)
{
    const json_t *v = json_object_get(body, key);
    struct cw_buf b = { 0 };
    if (!json_is_array(v))
        return cw_strdup("[]");
    cw_json_write(&b, v);
    return b.data;
}

static void on_written(PGresult *res, void *arg)
{
    if (cw_db_outcome(res) == CW_DB_OK)
        cw_api_reply(arg, 200, "{}", 2);
    else
        iam_fail_db(arg, res);
}

void on_write_audit(struct cw_api_call *call, void *self)
{
    struct identity *i = self;
    char *begun = member_text(cw_api_body(call), "begun"),
         *ended = member_text(cw_api_body(call), "ended");
    const struct cw_db_param p[] = { CW_TEXT(begun), CW_TEXT(ended) };
    if (!cw_db_exec(cw_app_db(i->app), &stmt_write, 2, p, on_written, call))
        iam_fail_db(call, NULL);
    free(begun);
    free(ended);
}

/* ---- list: the narrowest filter that is given leads, the others are looked at on the way */

#define LIST(from, id, by)                                                                         \
    "SELECT a.record_id, to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"    \
    " AS time, a.user_id, a.user_name, a.peer, a.request_id, a.operation, a.method, a.resource,"   \
    " e.resource_id, e.status, e.error_code FROM " from " USING (record_id) WHERE " by             \
    " AND a.project_id = $1 AND " id ".record_id < lower($2)"                                      \
    " AND ($3::text IS NULL OR " id ".record_id >= $3)"                                            \
    " AND ($4::text IS NULL OR " id ".record_id < $4)"                                             \
    " AND ($5::text IS NULL OR a.user_name = $5) AND ($6::text IS NULL OR e.resource_id = $6)"     \
    " AND ($7::text IS NULL OR a.request_id = $7) AND ($8::text IS NULL OR a.operation = $8)"      \
    " ORDER BY " id ".record_id DESC LIMIT $9::bigint"
#define BEGUN "identity.audit a LEFT JOIN identity.audit_end e"

static const struct cw_stmt lists[] = {
    { "audit_by_request", LIST(BEGUN, "a", "a.request_id = $7") },
    { "audit_by_resource",
      LIST("identity.audit_end e JOIN identity.audit a", "e", "e.resource_id = $6") },
    { "audit_by_user", LIST(BEGUN, "a", "a.user_name = $5") },
    { "audit_by_time", LIST(BEGUN, "a", "true") },
};

static json_t *record_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "record_id", "time",        "user_id",   "user_name",
                                         "peer",      "request_id",  "operation", "method",
                                         "resource",  "resource_id", "error_code" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    cw_row_json(o, "status", res, row, "status");
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list the audit log"))
        return;
    int n = PQntuples(res);
    json_t *list = json_array(), *page = json_object();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, record_json(res, i));
    if (n)
        cw_row_text(page, "marker", res, n - 1, "record_id");
    cw_api_reply_json(call, 200, json_pack("{s:o, s:o}", "records", list, "page", page));
}

/* A record id begins with its second. */
static const char *bound(struct cw_api_call *call, const char *name, int add_s, char out[9])
{
    int64_t ms;
    const char *s = cw_api_query(call, name);
    if (!s || cw_time_parse_basic(&ms, s) < 0)
        return NULL;
    snprintf(out, 9, "%08x", (unsigned)(ms < 0 ? 0 : ms / 1000 + add_s));
    return out;
}

void on_list_audit(struct cw_api_call *call, void *self)
{
    char from[9], to[9];
    const char *request = cw_api_query(call, "request_id"),
               *resource = cw_api_query(call, "resource_id"),
               *user = cw_api_query(call, "user_name"), *marker = cw_api_query(call, "marker"),
               *limit = cw_api_query(call, "limit");
    const struct cw_stmt *stmt = &lists[request ? 0 : resource ? 1 : user ? 2 : 3];
    const struct cw_db_param p[] = { CW_TEXT(cw_api_request(call)->project_id),
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     CW_TEXT(bound(call, "start_time", 0, from)),
                                     CW_TEXT(bound(call, "end_time", 1, to)),
                                     CW_TEXT(user),
                                     CW_TEXT(resource),
                                     CW_TEXT(request),
                                     CW_TEXT(cw_api_query(call, "operation")),
                                     CW_TEXT(limit ? limit : "10") };
    if (!cw_db_exec(cw_app_db(((struct identity *)self)->app), stmt, CW_ARRAY_LEN(p), p, on_list,
                    call))
        cw_api_no_db(call);
}

/* ---- what is old goes */

static const struct cw_stmt stmt_old = {
    "audit_old", "WITH o AS (DELETE FROM identity.audit WHERE record_id IN (SELECT record_id FROM"
                 " identity.audit WHERE record_id < $1 ORDER BY record_id LIMIT 10000)"
                 " RETURNING record_id)"
                 " DELETE FROM identity.audit_end e USING o WHERE e.record_id = o.record_id"
};
static const struct cw_stmt stmt_ended = {
    "keys_ended", "DELETE FROM identity.access_key WHERE expires < now() - interval '1 day'"
};

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct identity *i = arg;
    char before[9];
    (void)fd, (void)what;
    snprintf(before, sizeof before, "%08x", (unsigned)(cw_now_ms() / 1000 - i->audit_days * 86400));
    const struct cw_db_param p[] = { CW_TEXT(before) };
    cw_db_exec(cw_app_db(i->app), &stmt_old, 1, p, NULL, NULL);
    cw_db_exec(cw_app_db(i->app), &stmt_ended, 0, NULL, NULL, NULL);
}

void audit_start(struct identity *i)
{
    static const struct timeval often = { SWEEP_S, 0 };
    i->sweep = event_new(cw_app_base(i->app), -1, EV_PERSIST, on_sweep, i);
    event_add(i->sweep, &often);
    on_sweep(-1, 0, i);
}

void audit_stop(struct identity *i)
{
    if (i->sweep)
        event_free(i->sweep);
    i->sweep = NULL;
}
