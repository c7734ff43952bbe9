#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/device-registry/registry.h"

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

char *json_text(const json_t *v)
{
    struct cw_buf b = { 0 };
    cw_json_write(&b, v);
    return b.data;
}
