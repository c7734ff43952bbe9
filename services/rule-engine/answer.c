#include <string.h>

#include "services/rule-engine/engine.h"

#define FIRST_MARKER "ffffffffffffffffffffffff"

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

void space_params(struct cw_api_call *call, struct cw_db_param *p, struct page_text *t)
{
    cw_api_spaces(call, &t->allowed, &t->denied);
    p[0] = cw_api_spaces_param(&t->allowed);
    p[1] = cw_db_array_param(&t->denied);
}

void page_text_free(struct page_text *t)
{
    cw_db_array_free(&t->allowed);
    cw_db_array_free(&t->denied);
}
