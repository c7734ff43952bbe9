#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/device-registry/registry.h"

void answer_no_db(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_UNAVAILABLE, "PostgreSQL is not connected.");
}

bool answer_if_failed(struct cw_api_call *call, const PGresult *res, const char *what)
{
    switch (cw_db_outcome(res)) {
    case CW_DB_OK:
        return false;
    case CW_DB_RETRY:
        cw_api_fail(call, CW_E_UNAVAILABLE, "PostgreSQL did not answer (%s).", what);
        return true;
    case CW_DB_REFUSED:
        cw_api_fail(call, CW_E_INVALID, "PostgreSQL refused the data of %s: %s.", what,
                    cw_db_error(res));
        return true;
    case CW_DB_BUG:
        break;
    }
    cw_log(CW_ERROR, "statement_failed", "what=%s sqlstate=%s reason=\"%s\"", what,
           cw_db_sqlstate(res), cw_db_error(res));
    cw_api_fail(call, CW_E_INTERNAL, "Statement of %s failed.", what);
    return true;
}

bool broke(const PGresult *res, const char *constraint)
{
    const char *name = res ? PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME) : NULL;
    return name && strcmp(name, constraint) == 0;
}

void put_text(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    if (s)
        json_object_set_new(o, key, json_string(s));
}

void put_json(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    json_t *v = s ? json_loads(s, JSON_DECODE_ANY, NULL) : NULL;
    if (v)
        json_object_set_new(o, key, v);
}

void put_page(json_t *o, const PGresult *res, int shown)
{
    json_t *page = json_pack("{s:I}", "count", (json_int_t)cw_db_i64(res, 0, "count", 0));
    if (shown > 0)
        put_text(page, "marker", res, shown - 1, "record_id");
    json_object_set_new(o, "page", page);
}

char *json_text(const json_t *v)
{
    struct cw_buf b = { 0 };
    cw_json_write(&b, v);
    return b.data;
}

const char *body_text(json_t *body, const char *key)
{
    return json_string_value(json_object_get(body, key));
}
