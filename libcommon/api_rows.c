#include "libcommon/api_rows.h"

#include <string.h>

#include "libcommon/log.h"

void cw_api_no_db(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_UNAVAILABLE, "PostgreSQL is not connected.");
}

bool cw_api_db_failed(struct cw_api_call *call, const PGresult *res, const char *what)
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

bool cw_db_broke(const PGresult *res, const char *constraint)
{
    const char *name = res ? PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME) : NULL;
    return name && strcmp(name, constraint) == 0;
}

void cw_row_text(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    if (s)
        json_object_set_new(o, key, json_string(s));
}

void cw_row_bool(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    if (s)
        json_object_set_new(o, key, json_boolean(s[0] == 't'));
}

void cw_row_json(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    json_t *v = s ? json_loads(s, JSON_DECODE_ANY, NULL) : NULL;
    if (v)
        json_object_set_new(o, key, v);
}

const char *cw_body_text(const json_t *body, const char *key)
{
    return json_string_value(json_object_get(body, key));
}
