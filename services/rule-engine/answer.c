#include <string.h>

#include "services/rule-engine/engine.h"

#define FIRST_MARKER "ffffffffffffffffffffffff"

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

void put_bool(json_t *o, const char *key, const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    if (s)
        json_object_set_new(o, key, json_boolean(s[0] == 't'));
}

const char *body_text(json_t *body, const char *key)
{
    return json_string_value(json_object_get(body, key));
}

const char *text_of(bool v) { return v ? "t" : "f"; }

void answer_page(struct cw_api_call *call, const PGresult *res, const char *key, row_fn *row)
{
    json_t *list = json_array();
    int n = PQntuples(res);
    const char *marker = NULL;
    for (int i = 0; i < n; i++)
        if ((marker = cw_db_str(res, i, "record_id")))
            json_array_append_new(list, row(res, i));
    json_t *o =
        json_pack("{s:o, s:I}", key, list, "count", (json_int_t)cw_db_i64(res, 0, "count", 0));
    if (marker)
        json_object_set_new(o, "marker", json_string(marker));
    cw_api_reply_json(call, 200, o);
}

void page_params(struct cw_api_call *call, struct cw_db_param *p, struct page_text *t)
{
    const char *marker = cw_api_query(call, "marker");
    p[0] = CW_TEXT(marker ? marker : FIRST_MARKER);
    p[1] = cw_db_int(cw_api_query_int(call, "limit", 10), t->limit);
    p[2] = cw_db_int(cw_api_query_int(call, "offset", 0), t->offset);
}
