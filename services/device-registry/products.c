/* Products and their models. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/model.h"
#include "services/device-registry/registry.h"

#define UPDATE_TRIES 5 /* against other updates of the same product */

#define SUMMARY_COLUMNS                                                                            \
    "p.record_id, p.product_key, p.app_id, a.app_name, p.product_id, p.name, p.device_type,"       \
    " p.protocol_type, p.data_format, p.manufacturer_name, p.industry, p.description,"             \
    " p.version, " SQL_BASIC_TIME("p.created") " AS create_time"

/* A product without its space is that of the default space, else the oldest of that id. */
static const struct cw_stmt stmt_find = {
    "products_find", "SELECT k.known, p.* FROM (SELECT $2::text IS NULL OR EXISTS"
                     " (SELECT FROM registry.app WHERE app_id = $2) AS known) k"
                     " LEFT JOIN LATERAL (SELECT " SUMMARY_COLUMNS ", p.service_capabilities"
                     "  FROM registry.product p JOIN registry.app a USING (app_id)"
                     "  WHERE p.product_id = $1 AND ($2::text IS NULL OR p.app_id = $2)"
                     "  ORDER BY a.default_app DESC, p.product_key LIMIT 1) p ON true"
};
static const struct cw_stmt stmt_list = {
    "products_list",
    "WITH m AS (SELECT " SUMMARY_COLUMNS " FROM registry.product p JOIN registry.app a"
    "  USING (app_id) WHERE ($1::text IS NULL OR p.app_id = $1)"
    "  AND ($2::text IS NULL OR p.name = $2))"
    " SELECT k.known, c.count, m.* FROM (SELECT $1::text IS NULL OR EXISTS"
    "  (SELECT FROM registry.app WHERE app_id = $1) AS known) k"
    " CROSS JOIN (SELECT count(*) FROM m) c"
    " LEFT JOIN LATERAL (SELECT * FROM m WHERE record_id < $3"
    "  ORDER BY record_id DESC OFFSET $4::bigint LIMIT $5::bigint) m ON true"
    " ORDER BY m.record_id DESC"
};
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
    "  service_capabilities, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,"
    "  $11, $12::jsonb, " SQL_TIME("$13") ", " SQL_TIME(
        "$13") ") RETURNING product_key)"
               " INSERT INTO registry.outbox (partition, event) SELECT $14::int, $15::bytea FROM p"
               " RETURNING id"
};
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

/* One call under way. */
struct work {
    struct registry *r;
    struct cw_api_call *call;
    json_t *product; /* as it will be answered */
    int64_t product_key;
    uint32_t partition;
    int tries;
};

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

static const char *const text_fields[] = { "app_id",      "app_name",          "product_id",
                                           "name",        "device_type",       "protocol_type",
                                           "data_format", "manufacturer_name", "industry",
                                           "description", "create_time" };

static json_t *product_json(const PGresult *res, int row, bool whole)
{
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(text_fields); i++)
        cw_row_text(o, text_fields[i], res, row, text_fields[i]);
    if (whole)
        cw_row_json(o, "service_capabilities", res, row, "service_capabilities");
    return o;
}

static bool is_true(const PGresult *res, const char *column)
{
    const char *s = PQntuples(res) ? cw_db_str(res, 0, column) : NULL;
    return s && *s == 't';
}

static void fail_no_product(struct cw_api_call *call, const PGresult *res, const char *app_id)
{
    if (!is_true(res, "known"))
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", app_id);
    else
        cw_api_fail(call, CW_E_NO_PRODUCT, "Product \"%s\".", cw_api_path(call, "product_id"));
}

static bool find(struct registry *r, struct cw_api_call *call, const char *app_id, cw_db_fn *cb,
                 void *arg)
{
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "product_id")), CW_TEXT(app_id) };
    return cw_db_exec(r->db, &stmt_find, 2, p, cb, arg) != NULL;
}

/* ---- show, list */

static void on_show(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "show a product"))
        return;
    if (!cw_db_str(res, 0, "product_key"))
        fail_no_product(call, res, cw_api_query(call, "app_id"));
    else
        cw_api_reply_json(call, 200, product_json(res, 0, true));
}

void show_product(struct cw_api_call *call, void *self)
{
    if (!find(self, call, cw_api_query(call, "app_id"), on_show, call))
        cw_api_no_db(call);
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list products"))
        return;
    if (!is_true(res, "known")) {
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_api_query(call, "app_id"));
        return;
    }
    int n = cw_db_str(res, 0, "product_key") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "products", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, product_json(res, i, false));
    put_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

void list_products(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker");
    const struct cw_db_param p[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                     CW_TEXT(cw_api_query(call, "product_name")),
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit) };
    if (!cw_db_exec(r->db, &stmt_list, 5, p, on_list, call))
        cw_api_no_db(call);
}

/* ---- what is stored */

static void set_default(json_t *o, const char *key, json_t *value)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v))
        json_object_set_new(o, key, value);
    else
        json_decref(value);
}

/* Members that an application may leave out get the value that they then have. */
static void fill_model(json_t *services)
{
    size_t i, k;
    json_t *s, *v;
    json_array_foreach(services, i, s)
    {
        set_default(s, "service_type", json_string(cw_body_text(s, "service_id")));
        set_default(s, "option", json_string("Optional"));
        set_default(s, "properties", json_array());
        set_default(s, "commands", json_array());
        set_default(s, "events", json_array());
        json_array_foreach(json_object_get(s, "properties"), k, v)
            set_default(v, "required", json_false());
    }
}

/* False: the call has been failed. */
static bool check_model(struct cw_api_call *call, const json_t *services)
{
    struct cw_model *m;
    struct cw_model_error err;
    if (cw_model_compile(&m, services, &err) < 0) {
        cw_api_fail(call, CW_E_MODEL, "%s: %s.", err.path, err.text);
        return false;
    }
    cw_model_free(&m);
    return true;
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

/* ---- create */

static void on_inserted(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (cw_db_broke(res, "product_taken"))
        cw_api_fail(w->call, CW_E_PRODUCT_TAKEN, "product_id \"%s\" is in use in this space.",
                    cw_body_text(w->product, "product_id"));
    else if (!cw_api_db_failed(w->call, res, "create a product")) {
        fact_told(w->r, "product", w->product_key, w->partition);
        cw_api_reply_json(w->call, 201, json_incref(w->product));
    }
    work_free(w);
}

static const char *get(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static void insert(struct work *w)
{
    char record_id[CW_RECORD_ID_LEN], create_time[CW_TIME_LEN], key[24], now[24], part[24];
    int64_t now_ms = cw_now_ms();
    const json_t *o = w->product;
    json_object_set_new(w->product, "create_time", json_string(cw_time_basic(create_time, now_ms)));
    w->partition = partition_of(w->r, get(o, "product_id"));
    struct cw_buf event = product_event(w, CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_CREATED, now_ms, o);
    char *model = json_text(json_object_get(o, "service_capabilities"));
    const struct cw_db_param p[] = { cw_db_int(w->product_key, key),
                                     CW_TEXT(cw_record_id(record_id)),
                                     CW_TEXT(get(o, "app_id")),
                                     CW_TEXT(get(o, "product_id")),
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
    bool sent = cw_db_exec(w->r->db, &stmt_insert, 15, p, on_inserted, w) != NULL;
    free(model);
    cw_buf_free(&event);
    if (!sent) {
        cw_api_no_db(w->call);
        work_free(w);
    }
}

static void copy_given(json_t *to, json_t *from)
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

static void on_new(PGresult *res, void *arg)
{
    struct work *w = arg;
    char id[25];
    json_t *body = cw_api_body(w->call);
    if (cw_api_db_failed(w->call, res, "create a product"))
        goto out;
    if (PQntuples(res) == 0) {
        cw_api_fail(w->call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(body, "app_id"));
        goto out;
    }
    if (w->r->products_max && cw_db_i64(res, 0, "n", 0) >= w->r->products_max) {
        cw_api_fail(w->call, CW_E_PRODUCT_QUOTA,
                    "There are as many products as CAUSEWAY_PRODUCTS_MAX allows.");
        goto out;
    }
    w->product = json_object();
    cw_row_text(w->product, "app_id", res, 0, "app_id");
    cw_row_text(w->product, "app_name", res, 0, "app_name");
    copy_given(w->product, body);
    if (!json_object_get(w->product, "product_id"))
        json_object_set_new(w->product, "product_id", json_string(cw_random_hex(id, 24)));
    w->product_key = cw_db_i64(res, 0, "product_key", 0);
    insert(w);
    return;
out:
    work_free(w);
}

void create_product(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char max[24];
    json_t *body = cw_api_body(call), *model = json_object_get(body, "service_capabilities");
    if (!check_model(call, model))
        return;
    fill_model(model);
    struct work *w = work_new(r, call);
    const struct cw_db_param p[] = { CW_TEXT(cw_body_text(body, "app_id")),
                                     cw_db_int(r->products_max, max) };
    if (!cw_db_exec(r->db, &stmt_new, 2, p, on_new, w)) {
        cw_api_no_db(call);
        work_free(w);
    }
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
    bool sent = cw_db_exec(w->r->db, &stmt_update, 13, p, on_updated, w) != NULL;
    free(model);
    cw_buf_free(&event);
    return sent;
}

static void on_found_for_update(PGresult *res, void *arg)
{
    struct work *w = arg;
    json_t *body = cw_api_body(w->call);
    const char *protocol = cw_body_text(body, "protocol_type");
    if (cw_api_db_failed(w->call, res, "update a product"))
        goto out;
    if (!cw_db_str(res, 0, "product_key")) {
        fail_no_product(w->call, res, cw_body_text(body, "app_id"));
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
    copy_given(w->product, body);
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
    } else if (!find(w->r, w->call, cw_body_text(cw_api_body(w->call), "app_id"),
                     on_found_for_update, w)) {
        cw_api_no_db(w->call);
        work_free(w);
    }
}

void update_product(struct cw_api_call *call, void *self)
{
    json_t *model = json_object_get(cw_api_body(call), "service_capabilities");
    if (model && !json_is_null(model)) {
        if (!check_model(call, model))
            return;
        fill_model(model);
    }
    update_try(work_new(self, call));
}

/* ---- delete */

static void on_deleted(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (cw_db_broke(res, "device_product"))
        cw_api_fail(w->call, CW_E_PRODUCT_IN_USE, "Product \"%s\" has devices.",
                    cw_api_path(w->call, "product_id"));
    else if (!cw_api_db_failed(w->call, res, "delete a product")) {
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
        fail_no_product(w->call, res, cw_api_query(w->call, "app_id"));
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
    bool sent = cw_db_exec(w->r->db, &stmt_delete, 3, p, on_deleted, w) != NULL;
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
    if (!find(self, call, cw_api_query(call, "app_id"), on_found_for_delete, w)) {
        cw_api_no_db(call);
        work_free(w);
    }
}
