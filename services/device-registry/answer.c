#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/device-registry/registry.h"

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
