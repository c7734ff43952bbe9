/* Products: create, from a body or from the ZIP form. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/product.h"

static const struct cw_stmt stmt_new = {
    "products_new",
    "SELECT app_id, app_name, nextval('registry.product_key') AS product_key,"
    " CASE WHEN $2::bigint > 0 THEN (SELECT count(*) FROM registry.product) ELSE 0 END AS n"
    " FROM registry.app WHERE CASE WHEN $1::text IS NULL THEN default_app ELSE app_id = $1 END"
};
/* The outbox row comes after the entity's row: its id then follows the order of the changes. */
static const struct cw_stmt stmt_insert = {
    "products_insert",
    "WITH p AS (INSERT INTO registry.product (product_key, record_id, app_id, product_id, name,"
    "  device_type, protocol_type, data_format, manufacturer_name, industry, description,"
    "  service_capabilities, created, updated, manufacturer_id, model) VALUES ($1, $2, $3, $4, $5,"
    "  $6, $7, $8, $9, $10, $11, $12::jsonb, " SQL_TIME("$13") ", " SQL_TIME(
        "$13") ", $16, $17) RETURNING product_key)"
               " INSERT INTO registry.outbox (partition, event) SELECT $14::int, $15::bytea FROM p"
               " RETURNING id"
};
/* Who holds what is to be unique. */
static const struct cw_stmt stmt_taken = {
    "products_taken", "SELECT product_id, name FROM registry.product WHERE app_id = $1 AND"
                      " (product_id = $2 OR (manufacturer_id = $3 AND model = $4)) LIMIT 1"
};

struct creating {
    struct registry *r;
    struct cw_api_call *call;
    json_t *product; /* as it will be answered */
    char *app_id, *manufacturer_id, *model;
    int64_t product_key;
    uint32_t partition;
    bool model_taken;
};

static void creating_free(struct creating *w)
{
    json_decref(w->product);
    free(w->app_id);
    free(w->manufacturer_id);
    free(w->model);
    free(w);
}

static const char *get(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

/* ---- what is in use: by whom */

static void on_taken(PGresult *res, void *arg)
{
    struct creating *w = arg;
    bool found = cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0;
    const char *name = found ? cw_db_str(res, 0, "name") : "?",
               *id = found ? cw_db_str(res, 0, "product_id") : "?";
    if (w->model_taken)
        cw_api_fail(w->call, CW_E_MODEL_TAKEN,
                    "manufacturerId \"%s\" and model \"%s\" are those of product \"%s\" (\"%s\").",
                    w->manufacturer_id, w->model, id, name);
    else
        cw_api_fail(w->call, CW_E_PRODUCT_TAKEN,
                    "product_id \"%s\" is that of product \"%s\" in this space.",
                    get(w->product, "product_id"), name);
    creating_free(w);
}

static void find_holder(struct creating *w, bool model_taken)
{
    w->model_taken = model_taken;
    const struct cw_db_param p[] = { CW_TEXT(get(w->product, "app_id")),
                                     CW_TEXT(model_taken ? NULL : get(w->product, "product_id")),
                                     CW_TEXT(model_taken ? w->manufacturer_id : NULL),
                                     CW_TEXT(model_taken ? w->model : NULL) };
    if (!cw_db_exec(registry_db(w->r), &stmt_taken, 4, p, on_taken, w))
        on_taken(NULL, w);
}

static void on_inserted(PGresult *res, void *arg)
{
    struct creating *w = arg;
    bool model_taken = cw_db_broke(res, "product_by_model");
    if (model_taken || cw_db_broke(res, "product_taken")) {
        find_holder(w, model_taken);
        return;
    }
    if (cw_db_broke(res, "product_app_id_fkey"))
        cw_api_fail(w->call, CW_E_NO_APP, "It has just been deleted.");
    else if (!cw_api_db_failed(w->call, res, "create a product")) {
        fact_told(w->r, "product", w->product_key, w->partition);
        cw_api_reply_json(w->call, 201, json_incref(w->product));
    }
    creating_free(w);
}

static struct cw_buf created_event(const struct creating *w, int64_t now_ms)
{
    return fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_CREATED,
                                     .request_id = cw_api_request(w->call)->request_id,
                                     .time_ms = now_ms,
                                     .product_key = w->product_key,
                                     .product_id = get(w->product, "product_id"),
                                     .app_id = get(w->product, "app_id"),
                                     .body = w->product });
}

static void insert(struct creating *w)
{
    static const char *const columns[] = {
        "app_id",      "product_id",        "name",     "device_type", "protocol_type",
        "data_format", "manufacturer_name", "industry", "description"
    };
    char record_id[CW_RECORD_ID_LEN], create_time[CW_TIME_LEN], key[24], now[24], part[24];
    int64_t now_ms = cw_now_ms();
    struct cw_db_param p[17];
    json_object_set_new(w->product, "create_time", json_string(cw_time_basic(create_time, now_ms)));
    w->partition = partition_of(w->r, get(w->product, "product_id"));
    struct cw_buf event = created_event(w, now_ms);
    char *model = json_text(json_object_get(w->product, "service_capabilities"));
    p[0] = cw_db_int(w->product_key, key);
    p[1] = CW_TEXT(cw_record_id(record_id));
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++)
        p[2 + i] = CW_TEXT(get(w->product, columns[i]));
    p[11] = CW_TEXT(model);
    p[12] = cw_db_int(now_ms, now);
    p[13] = cw_db_int(w->partition, part);
    p[14] = CW_BIN(event.data, event.len);
    p[15] = CW_TEXT(w->manufacturer_id);
    p[16] = CW_TEXT(w->model);
    bool sent = cw_db_exec(registry_db(w->r), &stmt_insert, 17, p, on_inserted, w) != NULL;
    free(model);
    cw_buf_free(&event);
    if (!sent) {
        cw_api_no_db(w->call);
        creating_free(w);
    }
}

/* The answer begins with the space; a product without an id gets one. */
static void complete(struct creating *w, const PGresult *res)
{
    char id[25];
    json_t *given = w->product;
    w->product = json_object();
    cw_row_text(w->product, "app_id", res, 0, "app_id");
    cw_row_text(w->product, "app_name", res, 0, "app_name");
    product_copy_given(w->product, given);
    if (!json_object_get(w->product, "product_id"))
        json_object_set_new(w->product, "product_id", json_string(cw_random_hex(id, 24)));
    json_decref(given);
    w->product_key = cw_db_i64(res, 0, "product_key", 0);
}

static void on_new(PGresult *res, void *arg)
{
    struct creating *w = arg;
    bool failed = cw_api_db_failed(w->call, res, "create a product");
    if (!failed && PQntuples(res) == 0)
        cw_api_fail(w->call, CW_E_NO_APP, "Space \"%s\".", w->app_id);
    else if (!failed && w->r->products_max && cw_db_i64(res, 0, "n", 0) >= w->r->products_max)
        cw_api_fail(w->call, CW_E_PRODUCT_QUOTA,
                    "There are as many products as CAUSEWAY_PRODUCTS_MAX allows.");
    else if (!failed) {
        complete(w, res);
        insert(w);
        return;
    }
    creating_free(w);
}

static char *copy(const char *s) { return s ? cw_strdup(s) : NULL; }

void product_create(struct registry *r, struct cw_api_call *call, const char *app_id,
                    json_t *product, const char *manufacturer_id, const char *model)
{
    char max[24];
    struct creating *w = cw_calloc(1, sizeof *w);
    *w = (struct creating){ .r = r,
                            .call = call,
                            .product = product,
                            .app_id = copy(app_id),
                            .manufacturer_id = copy(manufacturer_id),
                            .model = copy(model) };
    const struct cw_db_param p[] = { CW_TEXT(app_id), cw_db_int(r->products_max, max) };
    if (!cw_db_exec(registry_db(r), &stmt_new, 2, p, on_new, w)) {
        cw_api_no_db(call);
        creating_free(w);
    }
}

void create_product(struct cw_api_call *call, void *self)
{
    json_t *body = cw_api_body(call), *model = json_object_get(body, "service_capabilities");
    if (!product_check_model(call, model))
        return;
    product_fill_model(model);
    product_create(self, call, cw_body_text(body, "app_id"), json_incref(body), NULL, NULL);
}
