/* Asynchronous commands are shown: one, those that wait, those that are over, and how many. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "services/command-dispatcher/async.h"

#define BASIC_TIME(c, name)                                                                        \
    "to_char(" c " AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"') AS " name
#define SHOWN                                                                                      \
    ASYNC_COLUMNS                                                                                  \
    ", a.record_id, a.service_id, a.command_name, a.paras, a.expire_time::text,"                   \
    " a.result, a.error_code, a.error_msg, " BASIC_TIME("a.created", "created") ", " BASIC_TIME(   \
        "a.written", "sent") ", " BASIC_TIME("a.delivered", "delivered") ", " BASIC_TIME("a."      \
                                                                                         "answ"    \
                                                                                         "ere"     \
                                                                                         "d",      \
                                                                                         "answ"    \
                                                                                         "ere"     \
                                                                                         "d")

/* ---- one */

static const struct cw_stmt show = {
    "async_show", "SELECT " SHOWN " FROM registry.device_view v LEFT JOIN command.async_command a"
                  " ON a.device_key = v.device_key AND a.command_id = $2 WHERE v.device_id = $1"
};

int async_find(struct dispatcher *d, struct cw_api_call *call, cw_db_fn *cb, void *arg)
{
    const struct cw_db_param par[] = { CW_TEXT(cw_api_path(call, "device_id")),
                                       CW_TEXT(cw_api_path(call, "command_id")) };
    return cw_db_exec(d->db, &show, 2, par, cb, arg) ? 0 : -ENOTCONN;
}

static bool device_is_there(struct cw_api_call *call, const PGresult *res)
{
    if (cw_api_db_failed(call, res, "commands"))
        return false;
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(call, "device_id"));
    return false;
}

bool async_is_there(struct cw_api_call *call, const PGresult *res)
{
    if (!device_is_there(call, res))
        return false;
    if (cw_db_str(res, 0, "id"))
        return true;
    cw_api_fail(call, CW_E_NO_COMMAND, "Command \"%s\".", cw_api_path(call, "command_id"));
    return false;
}

/* result: the device's answer, or why there is none. */
static void add_result(json_t *o, const PGresult *res, int row)
{
    cw_row_json(o, "result", res, row, "result");
    if (json_object_get(o, "result") || !cw_db_str(res, row, "error_code"))
        return;
    json_object_set_new(o, "result",
                        json_pack("{s:s, s:s}", "error_code", cw_db_str(res, row, "error_code"),
                                  "error_msg", cw_db_str(res, row, "error_msg")));
}

static json_t *command_json(const PGresult *res, int row, bool whole)
{
    static const char *const columns[][2] = { { "device_id", "device_id" },
                                              { "command_id", "id" },
                                              { "service_id", "service_id" },
                                              { "command_name", "command_name" },
                                              { "status", "status" },
                                              { "created_time", "created" },
                                              { "sent_time", "sent" },
                                              { "delivered_time", "delivered" },
                                              { "send_strategy", "send_strategy" },
                                              { "response_time", "answered" } };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++)
        cw_row_text(o, columns[i][0], res, row, columns[i][1]);
    cw_row_json(o, "expire_time", res, row, "expire_time");
    if (whole) {
        cw_row_json(o, "paras", res, row, "paras");
        add_result(o, res, row);
    }
    return o;
}

static void on_show(PGresult *res, void *arg)
{
    if (async_is_there(arg, res))
        cw_api_reply_json(arg, 200, command_json(res, 0, true));
}

void show_async_command(struct cw_api_call *call, void *self)
{
    if (async_find(self, call, on_show, call) < 0)
        cw_api_no_db(call);
}

/* ---- lists: $1 device, $2 and $3 times (or NULL), $4 status, $5 name, $6 marker, $7 offset,
 * $8 limit, $9: delivered before it is over. Newest first. */

#define IN_QUEUE                                                                                   \
    "(a.status IN ('PENDING', 'SENT') OR (a.status = 'DELIVERED'"                                  \
    " AND coalesce(a.delivered, a.created) >= to_timestamp($9::bigint / 1000.0)))"
#define TIME_OF(p)                                                                                 \
    "(to_timestamp(" p "::text, 'YYYYMMDD\"T\"HH24MISS\"Z\"')::timestamp AT TIME ZONE 'UTC')"
#define MATCHING                                                                                   \
    "a.device_key = v.device_key"                                                                  \
    " AND ($2::text IS NULL OR coalesce(a.written, a.created) >= " TIME_OF(                        \
        "$2") ")"                                                                                  \
              " AND ($3::text IS NULL OR coalesce(a.written, a.created) <= " TIME_OF(              \
                  "$3") ")"                                                                        \
                        " AND ($4::text IS NULL OR a.status = $4) AND ($5::text IS NULL OR "       \
                        "a.command_name = $5)"
#define LIST(which)                                                                                \
    "SELECT " SHOWN ", m.count FROM registry.device_view v CROSS JOIN LATERAL"                     \
    " (SELECT count(*) FROM command.async_command a WHERE " MATCHING " AND " which ") m"           \
    " LEFT JOIN LATERAL (SELECT * FROM command.async_command a WHERE " MATCHING " AND " which      \
    " AND a.record_id < lower($6) ORDER BY a.record_id DESC OFFSET $7::bigint LIMIT $8::bigint) a" \
    " ON true WHERE v.device_id = $1 ORDER BY a.record_id DESC"

static const struct cw_stmt list_queue = { "async_queue", LIST(IN_QUEUE) };
static const struct cw_stmt list_history = { "async_history", LIST("NOT " IN_QUEUE) };

static json_t *commands_of(const PGresult *res, json_t *page)
{
    json_t *list = json_array();
    int n = 0;
    for (; n < PQntuples(res) && cw_db_str(res, n, "id"); n++)
        json_array_append_new(list, command_json(res, n, false));
    if (n > 0)
        cw_row_text(page, "marker", res, n - 1, "record_id");
    return list;
}

static void on_queue(PGresult *res, void *arg)
{
    if (!device_is_there(arg, res))
        return;
    json_t *page = json_pack("{s:I}", "count", (json_int_t)cw_db_i64(res, 0, "count", 0));
    json_t *list = commands_of(res, page);
    cw_api_reply_json(arg, 200, json_pack("{s:o, s:o}", "commands", list, "page", page));
}

static void on_history(PGresult *res, void *arg)
{
    if (!device_is_there(arg, res))
        return;
    json_t *page = json_object(), *list = commands_of(res, page);
    cw_api_reply_json(arg, 200, json_pack("{s:o, s:o}", "commands", list, "page", page));
}

static void on_count(PGresult *res, void *arg)
{
    if (device_is_there(arg, res))
        cw_api_reply_json(arg, 200,
                          json_pack("{s:I}", "count", (json_int_t)cw_db_i64(res, 0, "count", 0)));
}

static void list(struct dispatcher *d, struct cw_api_call *call, const struct cw_stmt *stmt,
                 cw_db_fn *cb, int64_t limit)
{
    char offset_text[24], limit_text[24], since[24];
    const char *marker = cw_api_query(call, "marker");
    const struct cw_db_param par[] = { CW_TEXT(cw_api_path(call, "device_id")),
                                       CW_TEXT(cw_api_query(call, "start_time")),
                                       CW_TEXT(cw_api_query(call, "end_time")),
                                       CW_TEXT(cw_api_query(call, "status")),
                                       CW_TEXT(cw_api_query(call, "command_name")),
                                       CW_TEXT(marker ? marker : "g"), /* behind all digits */
                                       cw_db_int(cw_api_query_int(call, "offset", 0), offset_text),
                                       cw_db_int(limit, limit_text),
                                       cw_db_int(cw_now_ms() - d->async_queue_ms, since) };
    if (!cw_db_exec(d->db, stmt, CW_ARRAY_LEN(par), par, cb, call))
        cw_api_no_db(call);
}

void list_async_commands(struct cw_api_call *call, void *self)
{
    list(self, call, &list_queue, on_queue, cw_api_query_int(call, "limit", 10));
}

void list_async_history(struct cw_api_call *call, void *self)
{
    list(self, call, &list_history, on_history, cw_api_query_int(call, "limit", 10));
}

void count_async_history(struct cw_api_call *call, void *self)
{
    list(self, call, &list_history, on_count, 0);
}
