#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/device-registry/registry.h"

#define LIST_FILTERS 4

struct cw_db *registry_db(const struct registry *r)
{
    struct cw_db *best = r->calls[0];
    for (size_t i = 1; i < CW_ARRAY_LEN(r->calls); i++)
        if (cw_db_connected(r->calls[i]) &&
            (!cw_db_connected(best) || cw_db_waiting(r->calls[i]) < cw_db_waiting(best)))
            best = r->calls[i];
    return best;
}

void put_page(json_t *o, const PGresult *res, int shown)
{
    json_t *page = json_pack("{s:I}", "count", (json_int_t)cw_db_i64(res, 0, "count", 0));
    if (shown > 0)
        cw_row_text(page, "marker", res, shown - 1, "record_id");
    json_object_set_new(o, "page", page);
}

void put_counted_page(json_t *o, const PGresult *res, int shown)
{
    put_page(o, res, shown);
    json_t *page = json_object_get(o, "page");
    if (json_integer_value(json_object_get(page, "count")) <= COUNTED_MAX)
        return;
    json_object_set_new(page, "count", json_integer(COUNTED_MAX));
    json_object_set_new(page, "count_exact", json_false());
}

void put_expiry_warning(json_t *o, int64_t expires_ms, const char *todo)
{
    char when[CW_TIME_LEN];
    int64_t left_ms = expires_ms - cw_now_ms();
    if (left_ms > EXPIRY_WARNING_MS)
        return;
    cw_time_basic(when, expires_ms);
    json_object_set_new(o, "expiry_warning",
                        left_ms > 0 ? json_sprintf("It ends in %d days, at %s: %s.",
                                                   (int)(left_ms / 86400000), when, todo)
                                    : json_sprintf("It has ended at %s: %s.", when, todo));
}

void list_of_spaces(struct registry *r, struct cw_api_call *call, const struct cw_stmt *stmt,
                    size_t n, const struct cw_db_param *filters, cw_db_fn *cb)
{
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker");
    struct cw_db_array allowed = { 0 }, denied = { 0 };
    struct cw_db_param p[LIST_FILTERS + 5];
    cw_api_spaces(call, &allowed, &denied);
    for (size_t i = 0; i < n; i++)
        p[i] = filters[i];
    p[n] = CW_TEXT(marker ? marker : "ffffffffffffffffffffffff");
    p[n + 1] = cw_db_int(cw_api_query_int(call, "offset", 0), offset);
    p[n + 2] = cw_db_int(cw_api_query_int(call, "limit", 10), limit);
    p[n + 3] = cw_api_spaces_param(&allowed);
    p[n + 4] = cw_db_array_param(&denied);
    if (!cw_db_exec(registry_db(r), stmt, (int)n + 5, p, cb, call))
        cw_api_no_db(call);
    cw_db_array_free(&allowed);
    cw_db_array_free(&denied);
}

void reply_page(struct cw_api_call *call, const PGresult *res, const char *name, const char *id,
                json_t *(*row)(const PGresult *res, int at))
{
    int n = cw_db_str(res, 0, id) ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", name, list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, row(res, i));
    put_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

char *json_text(const json_t *v)
{
    struct cw_buf b = { 0 };
    cw_json_write(&b, v);
    return b.data;
}
