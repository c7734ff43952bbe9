/* Products: update and delete. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/product.h"

#define UPDATE_TRIES 5 /* against other updates of the same product */

static const struct cw_stmt stmt_update = {
    "products_update",
    "WITH p AS (UPDATE registry.product SET name = $3, device_type = $4, protocol_type = $5,"
    "  data_format = $6, manufacturer_name = $7, industry = $8, description = $9,"
    "  service_capabilities = $10::jsonb, updated = " SQL_TIME(
        "$11") ", version = version + 1"
               "  WHERE product_key = $1 AND version = $2 RETURNING product_key)"
               " INSERT INTO registry.outbox (partition, event) SELECT $12::int, $13::bytea FROM p"
               " RETURNING id"
};
static const struct cw_stmt stmt_delete = {
    "products_delete",
    "WITH p AS (DELETE FROM registry.product WHERE product_key = $1 RETURNING product_key)"
    " INSERT INTO registry.outbox (partition, event) SELECT $2::int, $3::bytea FROM p"
    " RETURNING id"
};

/* How many devices a product has. */
static const struct cw_stmt stmt_devices = {
    "products_devices", "SELECT COALESCE(sum(n), 0) AS n FROM registry.device_count c"
                        " JOIN registry.product p USING (product_key, app_id)"
                        " WHERE p.product_key = $1"
};

/* One call under way. */
struct work {
    struct registry *r;
    struct cw_api_call *call;
    json_t *product; /* as it will be answered */
    int64_t product_key;
    uint32_t partition;
    int tries;
};

static const char *get(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static struct work *work_new(struct registry *r, struct cw_api_call *call)
{
    struct work *w = cw_calloc(1, sizeof *w);
    w->r = r;
    w->call = call;
    return w;
}

static void work_free(struct work *w)
{
    json_decref(w->product);
    free(w);
}

static struct cw_buf product_event(const struct work *w, Causeway__EventKind kind, int64_t now_ms,
                                   const json_t *body)
{
    return fact_pack(&(struct fact){ .kind = kind,
                                     .request_id = cw_api_request(w->call)->request_id,
                                     .time_ms = now_ms,
                                     .product_key = w->product_key,
                                     .product_id = cw_body_text(w->product, "product_id"),
                                     .app_id = cw_body_text(w->product, "app_id"),
                                     .body = body });
}

/* ---- update: read, merge, write if nobody else has written meanwhile */

static void update_try(struct work *w);

static void on_updated(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (cw_api_db_failed(w->call, res, "update a product"))
        work_free(w);
    else if (PQntuples(res) == 0)
        update_try(w);
    else {
        fact_told(w->r, "product", w->product_key, w->partition);
        cw_api_reply_json(w->call, 200, json_incref(w->product));
        work_free(w);
    }
}

static bool update_write(struct work *w, int64_t version)
{
    char key[24], old[24], now[24], part[24];
    int64_t now_ms = cw_now_ms();
    const json_t *o = w->product;
    w->partition = partition_of(w->r, get(o, "product_id"));
    struct cw_buf event = product_event(w, CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_UPDATED, now_ms, o);
    char *model = json_text(json_object_get(o, "service_capabilities"));
    const struct cw_db_param p[] = { cw_db_int(w->product_key, key),
                                     cw_db_int(version, old),
                                     CW_TEXT(get(o, "name")),
                                     CW_TEXT(get(o, "device_type")),
                                     CW_TEXT(get(o, "protocol_type")),
                                     CW_TEXT(get(o, "data_format")),
                                     CW_TEXT(get(o, "manufacturer_name")),
                                     CW_TEXT(get(o, "industry")),
                                     CW_TEXT(get(o, "description")),
                                     CW_TEXT(model),
                                     cw_db_int(now_ms, now),
                                     cw_db_int(w->partition, part),
                                     CW_BIN(event.data, event.len) };
    bool sent = cw_db_exec(registry_db(w->r), &stmt_update, 13, p, on_updated, w) != NULL;
    free(model);
    cw_buf_free(&event);
    return sent;
}

/* Another protocol or format than the product's: its devices would speak past it. */
static bool speaks_otherwise(const json_t *body, const PGresult *res)
{
    static const char *const fixed[] = { "protocol_type", "data_format" };
    for (size_t i = 0; i < CW_ARRAY_LEN(fixed); i++) {
        const char *v = cw_body_text(body, fixed[i]);
        if (v && strcmp(v, cw_db_str(res, 0, fixed[i])) != 0)
            return true;
    }
    return false;
}

static void on_found_for_update(PGresult *res, void *arg)
{
    struct work *w = arg;
    json_t *body = cw_api_body(w->call);
    const char *protocol = cw_body_text(body, "protocol_type");
    if (cw_api_db_failed(w->call, res, "update a product"))
        goto out;
    if (!cw_db_str(res, 0, "product_key")) {
        product_fail_none(w->call, res, cw_body_text(body, "app_id"));
        goto out;
    }
    if (speaks_otherwise(body, res) && cw_db_i64(res, 0, "devices", 0) > 0) {
        cw_api_fail(w->call, CW_E_PRODUCT_FIXED,
                    "protocol_type and data_format: product \"%s\" has %s devices.",
                    cw_db_str(res, 0, "product_id"), cw_db_str(res, 0, "devices"));
        goto out;
    }
    if (protocol && strcmp(protocol, "CoAP") == 0 &&
        strcmp(cw_db_str(res, 0, "protocol_type"), "CoAP") != 0) {
        cw_api_fail(w->call, CW_E_INVALID, "protocol_type: %s cannot be changed to CoAP.",
                    cw_db_str(res, 0, "protocol_type"));
        goto out;
    }
    json_decref(w->product);
    w->product = product_json(res, 0, true);
    w->product_key = cw_db_i64(res, 0, "product_key", 0);
    json_object_del(body, "product_id"); /* the path names it */
    product_copy_given(w->product, body);
    if (update_write(w, cw_db_i64(res, 0, "version", 0)))
        return;
    cw_api_no_db(w->call);
out:
    work_free(w);
}

static void update_try(struct work *w)
{
    if (w->tries++ == UPDATE_TRIES) {
        cw_api_fail(w->call, CW_E_UNAVAILABLE, "Others change this product at the moment.");
        work_free(w);
    } else if (!product_find(w->r, w->call, cw_body_text(cw_api_body(w->call), "app_id"),
                             on_found_for_update, w)) {
        cw_api_no_db(w->call);
        work_free(w);
    }
}

void update_product(struct cw_api_call *call, void *self)
{
    json_t *model = json_object_get(cw_api_body(call), "service_capabilities");
    if (model && !json_is_null(model)) {
        if (!product_check_model(call, model))
            return;
        product_fill_model(model);
    }
    update_try(work_new(self, call));
}

/* ---- delete */

static void on_devices(PGresult *res, void *arg)
{
    struct work *w = arg;
    cw_api_fail(w->call, CW_E_PRODUCT_IN_USE, "Product \"%s\" has %s devices.",
                cw_api_path(w->call, "product_id"),
                cw_db_outcome(res) == CW_DB_OK ? cw_db_str(res, 0, "n") : "some");
    work_free(w);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct work *w = arg;
    char key[24];
    const struct cw_db_param p[] = { cw_db_int(w->product_key, key) };
    if (cw_db_broke(res, "device_product")) {
        if (!cw_db_exec(registry_db(w->r), &stmt_devices, 1, p, on_devices, w))
            on_devices(NULL, w);
        return;
    }
    if (!cw_api_db_failed(w->call, res, "delete a product")) {
        if (PQntuples(res) == 0) /* somebody was faster */
            cw_api_fail(w->call, CW_E_NO_PRODUCT, "Product \"%s\".",
                        cw_api_path(w->call, "product_id"));
        else {
            fact_told(w->r, "product", w->product_key, w->partition);
            cw_api_reply(w->call, 204, NULL, 0);
        }
    }
    work_free(w);
}

static void on_found_for_delete(PGresult *res, void *arg)
{
    struct work *w = arg;
    char key[24], part[24];
    if (cw_api_db_failed(w->call, res, "delete a product"))
        goto out;
    if (!cw_db_str(res, 0, "product_key")) {
        product_fail_none(w->call, res, cw_api_query(w->call, "app_id"));
        goto out;
    }
    w->product = product_json(res, 0, false);
    w->product_key = cw_db_i64(res, 0, "product_key", 0);
    w->partition = partition_of(w->r, get(w->product, "product_id"));
    json_t *body = json_pack("{s:s, s:s, s:s}", "product_id", get(w->product, "product_id"),
                             "app_id", get(w->product, "app_id"), "name", get(w->product, "name"));
    struct cw_buf event =
        product_event(w, CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_DELETED, cw_now_ms(), body);
    const struct cw_db_param p[] = { cw_db_int(w->product_key, key), cw_db_int(w->partition, part),
                                     CW_BIN(event.data, event.len) };
    bool sent = cw_db_exec(registry_db(w->r), &stmt_delete, 3, p, on_deleted, w) != NULL;
    json_decref(body);
    cw_buf_free(&event);
    if (sent)
        return;
    cw_api_no_db(w->call);
out:
    work_free(w);
}

void delete_product(struct cw_api_call *call, void *self)
{
    struct work *w = work_new(self, call);
    if (!product_find(self, call, cw_api_query(call, "app_id"), on_found_for_delete, w)) {
        cw_api_no_db(call);
        work_free(w);
    }
}
