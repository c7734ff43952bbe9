#include "services/device-registry/proxies.h"

#include <stdlib.h>
#include <string.h>

#define FOR_EVER_MS 253402300799000 /* 99991231T235959Z */

#define COLUMNS                                                                                    \
    "p.proxy_id, p.proxy_id AS record_id, p.proxy_name, p.app_id, " SQL_BASIC_TIME(                \
        "p.begins") " AS start_time, " SQL_BASIC_TIME("p.ends") " AS end_time"

/* s has the space; g: the gateways $3, as devices of it; bad: the first that cannot be one. */
#define GATEWAYS                                                                                   \
    " g AS (SELECT i.n, i.id, d.device_key, d.depth FROM s"                                        \
    "  CROSS JOIN unnest($3::text[]) WITH ORDINALITY i(id, n)"                                     \
    "  LEFT JOIN registry.device d ON d.device_id = i.id AND d.app_id = s.app_id),"                \
    " bad AS (SELECT n AS bad_at, id AS bad_id, depth AS bad_depth FROM g"                         \
    "  WHERE device_key IS NULL OR depth > 0 ORDER BY n LIMIT 1),"
#define BEGINS SQL_TIME("$4")
#define ENDS   SQL_TIME("$5")
#define LISTED                                                                                     \
    "(SELECT json_agg(d.device_id ORDER BY l.nth) FROM registry.proxy_gateway l"                   \
    " JOIN registry.device d USING (device_key) WHERE l.proxy_id = p.proxy_id)"

static const struct cw_stmt stmt_create = {
    "proxies_create",
    "WITH s AS (SELECT app_id FROM registry.app WHERE app_id = $6)," GATEWAYS
    " p AS (INSERT INTO registry.device_proxy (proxy_id, app_id, proxy_name, begins, ends)"
    "  SELECT $1, app_id, $2, " BEGINS ", " ENDS " FROM s WHERE NOT EXISTS (SELECT FROM bad)"
    "  AND $7::bigint > (SELECT count(*) FROM registry.device_proxy) RETURNING *),"
    " l AS (INSERT INTO registry.proxy_gateway (proxy_id, device_key, nth)"
    "  SELECT p.proxy_id, g.device_key, g.n FROM p CROSS JOIN g)"
    " SELECT (SELECT count(*) FROM s) AS spaces, bad.*,"
    " (SELECT json_agg(id ORDER BY n) FROM g) AS proxy_devices, " COLUMNS
    " FROM (SELECT) one LEFT JOIN bad ON true LEFT JOIN p ON true"
};
static const struct cw_stmt stmt_list = {
    "proxies_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.device_proxy p"
    "  WHERE ($1::text IS NULL OR p.app_id = $1) AND ($2::text IS NULL OR p.proxy_name = $2)"
    "  AND ($6::text[] IS NULL OR p.app_id = ANY($6)) AND p.app_id <> ALL($7::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($3) ORDER BY record_id DESC"
    "  OFFSET $4::bigint LIMIT $5::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "proxies_show",
                                          "SELECT " COLUMNS ", " LISTED " AS proxy_devices"
                                          " FROM registry.device_proxy p"
                                          " WHERE p.proxy_id = lower($1)" };
/* s: as it was; t: when it will be in force. */
static const struct cw_stmt stmt_update = {
    "proxies_update",
    "WITH s AS (SELECT * FROM registry.device_proxy WHERE proxy_id = lower($1) FOR UPDATE),"
    " t AS (SELECT COALESCE(" BEGINS ", begins) AS begins, COALESCE(" ENDS ", ends) AS ends"
    "  FROM s)," GATEWAYS
    " p AS (UPDATE registry.device_proxy p SET proxy_name = COALESCE($2, p.proxy_name),"
    "  begins = t.begins, ends = t.ends FROM t WHERE p.proxy_id = lower($1)"
    "  AND t.begins < t.ends AND NOT EXISTS (SELECT FROM bad) RETURNING p.*),"
    " left_out AS (DELETE FROM registry.proxy_gateway l USING p WHERE l.proxy_id = p.proxy_id"
    "  AND $3 IS NOT NULL AND NOT EXISTS (SELECT FROM g WHERE g.device_key = l.device_key)),"
    " l AS (INSERT INTO registry.proxy_gateway (proxy_id, device_key, nth)"
    "  SELECT p.proxy_id, g.device_key, g.n FROM p CROSS JOIN g"
    "  ON CONFLICT (proxy_id, device_key) DO UPDATE SET nth = excluded.nth)"
    " SELECT bad.*, COALESCE((SELECT json_agg(id ORDER BY n) FROM g), " LISTED ") AS proxy_devices,"
    " " COLUMNS " FROM s LEFT JOIN bad ON true LEFT JOIN p ON true"
};
static const struct cw_stmt stmt_delete = {
    "proxies_delete", "DELETE FROM registry.device_proxy WHERE proxy_id = lower($1) RETURNING 1"
};

static bool is_there(struct cw_api_call *call, const PGresult *res)
{
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_PROXY, "Proxy \"%s\".", cw_api_path(call, "proxy_id"));
    return false;
}

/* ---- what a body asks for */

/* Its gateways and times; what is not given is NULL. */
struct wanted {
    struct cw_db_array gateways;
    struct cw_db_param listed, begins, ends;
    char begins_text[24], ends_text[24];
};

/* Fails the call if a gateway is named twice. */
static bool read_gateways(struct cw_api_call *call, struct wanted *w)
{
    const json_t *list = json_object_get(cw_api_body(call), "proxy_devices"), *v;
    size_t i;
    w->listed = CW_NULL;
    if (!json_is_array(list))
        return true;
    cw_db_array_reset(&w->gateways, CW_ARRAY_TEXT);
    json_array_foreach(list, i, v)
    {
        for (size_t k = 0; k < i; k++)
            if (json_equal(v, json_array_get(list, k))) {
                cw_api_fail(call, CW_E_PROXY_BAD, "proxy_devices[%zu]: \"%s\" is listed twice.", i,
                            json_string_value(v));
                return false;
            }
        cw_db_array_str(&w->gateways, json_string_value(v));
    }
    w->listed = cw_db_array_param(&w->gateways);
    return true;
}

/* otherwise_ms if it is not given; the contract has seen to its form. */
static int64_t read_time(struct cw_api_call *call, const char *name, int64_t otherwise_ms)
{
    const json_t *range = json_object_get(cw_api_body(call), "effective_time_range");
    const char *text = cw_body_text(range, name);
    int64_t ms;
    return text && cw_time_parse_basic(&ms, text) == 0 ? ms : otherwise_ms;
}

static struct cw_db_param time_param(int64_t ms, char buf[24])
{
    return ms < 0 ? CW_NULL : cw_db_int(ms, buf);
}

/* begins_ms, ends_ms: what is taken when the body does not say; -1: nothing. False: the call has
 * been failed. */
static bool read_wanted(struct cw_api_call *call, struct wanted *w, int64_t begins_ms,
                        int64_t ends_ms)
{
    int64_t from_ms = read_time(call, "start_time", begins_ms);
    int64_t until_ms = read_time(call, "end_time", ends_ms);
    if (!read_gateways(call, w))
        return false;
    w->begins = time_param(from_ms, w->begins_text);
    w->ends = time_param(until_ms, w->ends_text);
    if (from_ms < 0 || until_ms < 0 || from_ms < until_ms)
        return true;
    cw_api_fail(call, CW_E_TIME_ORDER, "effective_time_range: it ends before it begins.");
    return false;
}

static void wanted_free(struct wanted *w) { cw_db_array_free(&w->gateways); }

/* ---- answers */

static json_t *summary_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "proxy_id", "proxy_name", "app_id" };
    json_t *range = json_object(), *o = json_pack("{s:o}", "effective_time_range", range);
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    cw_row_text(range, "start_time", res, row, "start_time");
    cw_row_text(range, "end_time", res, row, "end_time");
    return o;
}

static void reply(struct cw_api_call *call, int status, const PGresult *res)
{
    json_t *o = summary_json(res, 0);
    if (cw_db_str(res, 0, "proxy_devices"))
        cw_row_json(o, "proxy_devices", res, 0, "proxy_devices");
    else /* all of them were deleted */
        json_object_set_new(o, "proxy_devices", json_array());
    cw_api_reply_json(call, status, o);
}

/* True: the call has been failed. */
static bool is_bad(struct cw_api_call *call, const PGresult *res)
{
    const char *id = cw_db_str(res, 0, "bad_id");
    int64_t at = cw_db_i64(res, 0, "bad_at", 1) - 1;
    if (!id)
        return false;
    if (cw_db_str(res, 0, "bad_depth"))
        cw_api_fail(call, CW_E_PROXY_BAD,
                    "proxy_devices[%d]: \"%s\" is no gateway but the child of one.", (int)at, id);
    else
        cw_api_fail(call, CW_E_PROXY_BAD,
                    "proxy_devices[%d]: the space of the proxy has no device \"%s\".", (int)at, id);
    return true;
}

/* True: the call has been failed. A gateway that was deleted meanwhile is one that is not there. */
static bool has_failed(struct cw_api_call *call, const PGresult *res, const char *what)
{
    if (!cw_db_broke(res, "proxy_gateway_device"))
        return cw_api_db_failed(call, res, what);
    cw_api_fail(call, CW_E_PROXY_BAD, "proxy_devices: one of the devices was just deleted.");
    return true;
}

/* ---- create */

static void on_created(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (has_failed(call, res, "create a device proxy"))
        return;
    if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(cw_api_body(call), "app_id"));
    else if (is_bad(call, res))
        ;
    else if (!cw_db_str(res, 0, "proxy_id"))
        cw_api_fail(call, CW_E_PROXY_QUOTA,
                    "There are as many device proxies as CAUSEWAY_PROXIES_MAX allows.");
    else
        reply(call, 201, res);
}

void create_proxy(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    char id[CW_RECORD_ID_LEN], max[24];
    struct wanted w = { 0 };
    if (read_wanted(call, &w, cw_now_ms(), FOR_EVER_MS)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                         CW_TEXT(cw_body_text(body, "proxy_name")),
                                         w.listed,
                                         w.begins,
                                         w.ends,
                                         CW_TEXT(cw_body_text(body, "app_id")),
                                         cw_db_int(r->proxies_max, max) };
        if (!cw_db_exec(registry_db(r), &stmt_create, CW_ARRAY_LEN(p), p, on_created, call))
            cw_api_no_db(call);
    }
    wanted_free(&w);
}

/* ---- list, show */

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list device proxies"))
        reply_page(arg, res, "device_proxies", "proxy_id", summary_json);
}

void list_proxies(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                           CW_TEXT(cw_api_query(call, "proxy_name")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

static void on_shown(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "show a device proxy") && is_there(arg, res))
        reply(arg, 200, res);
}

void show_proxy(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "proxy_id")),
                    on_shown, call))
        cw_api_no_db(call);
}

/* ---- change, delete: uplink-processor reads proxies anew, nobody has to be told */

static void on_updated(PGresult *res, void *arg)
{
    if (has_failed(arg, res, "change a device proxy") || !is_there(arg, res) || is_bad(arg, res))
        return;
    if (cw_db_str(res, 0, "proxy_id"))
        reply(arg, 200, res);
    else
        cw_api_fail(arg, CW_E_TIME_ORDER,
                    "effective_time_range: with what stays of it, it ends before it begins.");
}

void update_proxy(struct cw_api_call *call, void *self)
{
    struct wanted w = { 0 };
    if (read_wanted(call, &w, -1, -1)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "proxy_id")),
                                         CW_TEXT(cw_body_text(cw_api_body(call), "proxy_name")),
                                         w.listed, w.begins, w.ends };
        if (!cw_db_exec(registry_db(self), &stmt_update, CW_ARRAY_LEN(p), p, on_updated, call))
            cw_api_no_db(call);
    }
    wanted_free(&w);
}

static void on_deleted(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "delete a device proxy") && is_there(arg, res))
        cw_api_reply(arg, 204, NULL, 0);
}

void delete_proxy(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1, &CW_TEXT(cw_api_path(call, "proxy_id")),
                    on_deleted, call))
        cw_api_no_db(call);
}
