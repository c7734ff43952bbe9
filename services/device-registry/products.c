/* Products: how they are found, shown and listed. */
#include "services/device-registry/product.h"

#include <string.h>

#define SUMMARY_COLUMNS                                                                            \
    "p.record_id, p.product_key, p.app_id, a.app_name, p.product_id, p.name, p.device_type,"       \
    " p.protocol_type, p.data_format, p.manufacturer_name, p.industry, p.description,"             \
    " p.version, " SQL_BASIC_TIME("p.created") " AS create_time"

/* A product without its space is that of the default space, else the oldest of that id. */
static const struct cw_stmt stmt_find = {
    "products_find", "SELECT k.known, p.* FROM (SELECT $2::text IS NULL OR EXISTS"
                     " (SELECT FROM registry.app WHERE app_id = $2) AS known) k"
                     " LEFT JOIN LATERAL (SELECT " SUMMARY_COLUMNS ", p.service_capabilities,"
                     "  p.manufacturer_id, p.model, (SELECT COALESCE(sum(n), 0)"
                     "   FROM registry.device_count c WHERE c.app_id = p.app_id"
                     "   AND c.product_key = p.product_key) AS devices"
                     "  FROM registry.product p JOIN registry.app a USING (app_id)"
                     "  WHERE p.product_id = $1 AND ($2::text IS NULL OR p.app_id = $2)"
                     "  ORDER BY a.default_app DESC, p.product_key LIMIT 1) p ON true"
};
static const struct cw_stmt stmt_list = {
    "products_list",
    "WITH m AS (SELECT " SUMMARY_COLUMNS " FROM registry.product p JOIN registry.app a"
    "  USING (app_id) WHERE ($1::text IS NULL OR p.app_id = $1)"
    "  AND ($2::text IS NULL OR p.name = $2)"
    "  AND ($6::text[] IS NULL OR p.app_id = ANY($6)) AND p.app_id <> ALL($7::text[]))"
    " SELECT k.known, c.count, m.* FROM (SELECT $1::text IS NULL OR EXISTS"
    "  (SELECT FROM registry.app WHERE app_id = $1) AS known) k"
    " CROSS JOIN (SELECT count(*) FROM m) c"
    " LEFT JOIN LATERAL (SELECT * FROM m WHERE record_id < lower($3)"
    "  ORDER BY record_id DESC OFFSET $4::bigint LIMIT $5::bigint) m ON true"
    " ORDER BY m.record_id DESC"
};
static const char *const text_fields[] = { "app_id",      "app_name",          "product_id",
                                           "name",        "device_type",       "protocol_type",
                                           "data_format", "manufacturer_name", "industry",
                                           "description", "create_time" };

json_t *product_json(const PGresult *res, int row, bool whole)
{
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(text_fields); i++)
        cw_row_text(o, text_fields[i], res, row, text_fields[i]);
    if (whole)
        cw_row_json(o, "service_capabilities", res, row, "service_capabilities");
    return o;
}

void product_copy_given(json_t *to, json_t *from)
{
    static const char *const given[] = { "product_id",    "name",        "device_type",
                                         "protocol_type", "data_format", "manufacturer_name",
                                         "industry",      "description", "service_capabilities" };
    for (size_t i = 0; i < CW_ARRAY_LEN(given); i++) {
        json_t *v = json_object_get(from, given[i]);
        if (v && !json_is_null(v))
            json_object_set(to, given[i], v);
    }
}

static bool is_true(const PGresult *res, const char *column)
{
    const char *s = PQntuples(res) ? cw_db_str(res, 0, column) : NULL;
    return s && *s == 't';
}

void product_fail_none(struct cw_api_call *call, const PGresult *res, const char *app_id)
{
    if (!is_true(res, "known"))
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", app_id);
    else
        cw_api_fail(call, CW_E_NO_PRODUCT, "Product \"%s\".", cw_api_path(call, "product_id"));
}

bool product_find(struct registry *r, struct cw_api_call *call, const char *app_id, cw_db_fn *cb,
                  void *arg)
{
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "product_id")), CW_TEXT(app_id) };
    return cw_db_exec(registry_db(r), &stmt_find, 2, p, cb, arg) != NULL;
}

/* ---- show, list */

static void on_show(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "show a product"))
        return;
    if (!cw_db_str(res, 0, "product_key"))
        product_fail_none(call, res, cw_api_query(call, "app_id"));
    else
        cw_api_reply_json(call, 200, product_json(res, 0, true));
}

void show_product(struct cw_api_call *call, void *self)
{
    if (!product_find(self, call, cw_api_query(call, "app_id"), on_show, call))
        cw_api_no_db(call);
}

static json_t *listed_json(const PGresult *res, int row) { return product_json(res, row, false); }

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list products"))
        return;
    if (!is_true(res, "known")) {
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_api_query(call, "app_id"));
        return;
    }
    reply_page(call, res, "products", "product_key", listed_json);
}

void list_products(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                           CW_TEXT(cw_api_query(call, "product_name")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}
