/* Devices: show, register. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

static struct cw_stmt stmt_show = { "devices_show", NULL };

static void spell(void)
{
    if (!stmt_show.sql)
        stmt_show.sql =
            cw_sprintf("SELECT %s %s WHERE d.device_id = $1", device_columns, device_from);
}

/* ---- show */

struct asked {
    struct registry *r;
    struct cw_api_call *call;
};

static void on_show(PGresult *res, void *arg)
{
    struct asked a = *(struct asked *)arg;
    free(arg);
    if (cw_api_db_failed(a.call, res, "show a device"))
        return;
    if (PQntuples(res) == 0)
        cw_api_fail(a.call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(a.call, "device_id"));
    else
        cw_api_reply_json(a.call, 200, device_json(a.r, res, 0, DEVICE_WHOLE));
}

static struct asked *asked_new(struct registry *r, struct cw_api_call *call)
{
    struct asked *a = cw_malloc(sizeof *a);
    *a = (struct asked){ r, call };
    return a;
}

static void asked_failed(struct asked *a)
{
    cw_api_no_db(a->call);
    free(a);
}

bool find_device(struct registry *r, const char *device_id, cw_db_fn *cb, void *arg)
{
    const struct cw_db_param p[] = { CW_TEXT(device_id) };
    spell();
    return cw_db_exec(registry_db(r), &stmt_show, 1, p, cb, arg) != NULL;
}

void show_device(struct cw_api_call *call, void *self)
{
    struct asked *a = asked_new(self, call);
    if (!find_device(self, cw_api_path(call, "device_id"), on_show, a))
        asked_failed(a);
}

/* ---- register: what is there, then the row and its event in one statement */

static const struct cw_stmt stmt_new = {
    "devices_new",
    "SELECT a.app_id, a.app_name, p.product_key, p.product_id, p.name AS product_name,"
    " p.protocol_type, CASE WHEN $4::boolean OR p.has_defaults THEN p.service_capabilities END AS "
    "model,"
    " g.device_key AS parent_key, g.app_id AS parent_app, g.root_id, g.depth,"
    " CASE WHEN $5::bigint > 0 THEN (SELECT sum(n) FROM registry.device_count) END AS devices,"
    " CASE WHEN $6::bigint > 0 THEN (SELECT sum(n) FROM registry.child_count c"
    "  WHERE c.parent_key = g.device_key) END AS children,"
    " nextval('registry.device_key') AS device_key"
    " FROM registry.app a LEFT JOIN registry.product p ON p.app_id = a.app_id AND p.product_id = $1"
    " LEFT JOIN registry.device g ON g.device_id = $3"
    " WHERE CASE WHEN $2::text IS NULL THEN a.default_app ELSE a.app_id = $2 END"
};
#define INSERT(bind)                                                                               \
    "WITH g AS (SELECT device_key FROM registry.device WHERE device_key = $12::bigint"             \
    "  AND root_id = $13 AND depth = $14::int - 1 FOR KEY SHARE),"                                 \
    " d AS (INSERT INTO registry.device (device_key, record_id, device_id, node_id,"               \
    "  unique_node_id, device_name, description, extension_info, initial_desired, app_id,"         \
    "  product_key, parent_key, root_id, depth, partition, auth_type, secret, fingerprint,"        \
    "  secure_access, timeout_s, created, updated) SELECT $1::bigint, $2, $3, $4, $5, $6, $7,"     \
    "  $8::jsonb, $9::jsonb, $10, $11::bigint, $12::bigint, $13, $14::int, $15::int, $16, $17,"    \
    "  $18, $19::boolean, $20::int, " SQL_TIME("$21") ", " SQL_TIME(                               \
        "$21") "  WHERE $12::bigint IS NULL OR EXISTS (SELECT FROM g) RETURNING device_key, "      \
               "device_id,"                                                                        \
               "  app_id, partition)" bind " INSERT INTO registry.outbox (partition, event) "      \
               "SELECT partition, $22::bytea FROM d"                                               \
               " RETURNING id"
static const struct cw_stmt stmt_insert = { "devices_insert", INSERT("") };
/* With device policies and tags of a template: it is never without them. */
static const struct cw_stmt stmt_insert_bound = {
    "devices_insert_bound",
    INSERT(", b AS (INSERT INTO registry.policy_target (policy_id, target_type, target_id,"
           "  device_key) SELECT q.policy_id, 'device', d.device_id, d.device_key FROM d"
           "  JOIN registry.device_policy q ON q.app_id = d.app_id"
           "  AND q.policy_id = ANY(string_to_array(lower($23), ','))),"
           " t AS (INSERT INTO registry.device_tag (device_key, record_id, tag_key, tag_value)"
           "  SELECT d.device_key, $2, e ->> 'tag_key', COALESCE(e ->> 'tag_value', '')"
           "  FROM d, jsonb_array_elements(NULLIF($24, '')::jsonb) e)")
};

struct adding {
    struct registry *r;
    struct cw_api_call *call;
    json_t *device; /* as it will be answered */
    int64_t device_key, product_key;
    char secret[68];                  /* of a registration group: a digest in hex */
    const char *parent_key, *root_id; /* borrowed from the lookup while it is looked at */
    int64_t depth;
    bool coap, node_taken;
    uint32_t partition;
    json_t *desired; /* first ones; NULL: none */
    char record_id[CW_RECORD_ID_LEN];
};

static void adding_free(struct adding *w)
{
    json_decref(w->device);
    json_decref(w->desired);
    explicit_bzero(w->secret, sizeof w->secret);
    free(w);
}

static const char *get(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

/* ---- an id that is in use: by whom, if the caller may know */

static const struct cw_stmt stmt_taken = {
    "devices_taken", "SELECT d.app_id, a.app_name, p.name AS product_name, d.device_id"
                     " FROM registry.device d JOIN registry.app a USING (app_id)"
                     " JOIN registry.product p USING (product_key)"
                     " WHERE d.device_id = $1 OR d.unique_node_id = $2 LIMIT 1"
};

static void on_taken(PGresult *res, void *arg)
{
    struct adding *w = arg;
    const char *id = get(w->device, "device_id"), *node_id = get(w->device, "node_id");
    bool found = cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0;
    if (found && cw_api_may(w->call, cw_db_str(res, 0, "app_id")))
        cw_api_fail(w->call, CW_E_DEVICE_TAKEN,
                    "%s \"%s\" is registered: device \"%s\" of product \"%s\" in space \"%s\".",
                    w->node_taken ? "node_id" : "device_id", w->node_taken ? node_id : id,
                    cw_db_str(res, 0, "device_id"), cw_db_str(res, 0, "product_name"),
                    cw_db_str(res, 0, "app_name"));
    else
        cw_api_fail(w->call, CW_E_DEVICE_TAKEN, "%s \"%s\" is registered.",
                    w->node_taken ? "node_id" : "device_id", w->node_taken ? node_id : id);
    adding_free(w);
}

static void find_holder(struct adding *w, bool node_taken)
{
    w->node_taken = node_taken;
    const struct cw_db_param p[] = { CW_TEXT(node_taken ? NULL : get(w->device, "device_id")),
                                     CW_TEXT(node_taken ? get(w->device, "node_id") : NULL) };
    if (!cw_db_exec(registry_db(w->r), &stmt_taken, 2, p, on_taken, w))
        on_taken(NULL, w);
}

static void on_inserted(PGresult *res, void *arg)
{
    struct adding *w = arg;
    bool node_taken = cw_db_broke(res, "node_taken");
    if (node_taken || cw_db_broke(res, "device_taken")) {
        find_holder(w, node_taken);
        return;
    }
    if (cw_db_broke(res, "device_product"))
        cw_api_fail(w->call, CW_E_NO_PRODUCT, "It has just been deleted.");
    else if (cw_db_broke(res, "device_parent"))
        cw_api_fail(w->call, CW_E_NO_GATEWAY, "It has just been deleted.");
    else if (!cw_api_db_failed(w->call, res, "register a device") && PQntuples(res) == 0)
        cw_api_fail(w->call, CW_E_UNAVAILABLE, "The gateway moves at the moment.");
    else if (cw_db_outcome(res) == CW_DB_OK) {
        fact_told(w->r, "device", w->device_key, w->partition);
        cw_api_reply_json(w->call, 201, json_incref(w->device));
    }
    adding_free(w);
}

static struct cw_buf created_event(const struct adding *w, int64_t now_ms)
{
    json_t *body = json_deep_copy(w->device), *auth = json_object_get(body, "auth_info");
    json_object_del(auth, "secret");
    json_object_del(auth, "fingerprint");
    struct cw_buf b = fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_CREATED,
                                                .request_id = cw_api_request(w->call)->request_id,
                                                .time_ms = now_ms,
                                                .device_key = w->device_key,
                                                .device_id = get(body, "device_id"),
                                                .node_id = get(body, "node_id"),
                                                .root_id = w->root_id,
                                                .product_key = w->product_key,
                                                .product_id = get(body, "product_id"),
                                                .app_id = get(body, "app_id"),
                                                .body = body });
    json_decref(body);
    return b;
}

static char *text_of(const json_t *v) { return v && !json_is_null(v) ? json_text(v) : NULL; }

static bool insert(struct adding *w, json_t *body, int64_t now_ms)
{
    char context[64], key[24], product[24], depth[24], part[24], timeout[24], now[24];
    const json_t *o = w->device, *auth = json_object_get(o, "auth_info");
    /* of a template; nothing that comes over REST has it in its path */
    const char *policies = cw_api_path(w->call, "policy_ids"), *tags = cw_api_path(w->call, "tags");
    char *extension = text_of(json_object_get(body, "extension_info")),
         *desired = text_of(w->desired),
         *sealed = *w->secret ? cw_seal(w->r->seal_key, seal_context(context, w->device_key, false),
                                        w->secret, strlen(w->secret))
                              : NULL;
    struct cw_buf event = created_event(w, now_ms);
    const struct cw_db_param p[] = {
        cw_db_int(w->device_key, key),
        CW_TEXT(w->record_id),
        CW_TEXT(get(o, "device_id")),
        CW_TEXT(get(o, "node_id")),
        CW_TEXT(w->coap ? get(o, "node_id") : NULL),
        CW_TEXT(get(o, "device_name")),
        CW_TEXT(get(o, "description")),
        CW_TEXT(extension),
        CW_TEXT(desired),
        CW_TEXT(get(o, "app_id")),
        cw_db_int(w->product_key, product),
        CW_TEXT(w->parent_key),
        CW_TEXT(w->root_id),
        cw_db_int(w->depth, depth),
        cw_db_int(w->partition, part),
        CW_TEXT(get(auth, "auth_type")),
        CW_TEXT(sealed),
        CW_TEXT(get(auth, "fingerprint")),
        CW_TEXT(json_is_true(json_object_get(auth, "secure_access")) ? "t" : "f"),
        cw_db_int(json_integer_value(json_object_get(auth, "timeout")), timeout),
        cw_db_int(now_ms, now),
        CW_BIN(event.data, event.len),
        CW_TEXT(policies),
        CW_TEXT(tags),
    };
    bool bound = *policies || *tags;
    bool sent = cw_db_exec(registry_db(w->r), bound ? &stmt_insert_bound : &stmt_insert,
                           bound ? 24 : 22, p, on_inserted, w) != NULL;
    free(extension);
    free(desired);
    free(sealed);
    cw_buf_free(&event);
    return sent;
}

/* The row as it will be shown. */
static void shape(struct adding *w, json_t *body, const PGresult *res, int64_t now_ms)
{
    static const char *const given[] = { "node_id", "device_name", "description",
                                         "extension_info" };
    char time[CW_TIME_LEN];
    json_t *o = w->device, *auth = json_object_get(body, "auth_info");
    const char *type = get(auth, "auth_type"), *fingerprint = get(auth, "fingerprint");
    bool by_secret = !type || strcmp(type, "SECRET") == 0;
    cw_row_text(o, "app_id", res, 0, "app_id");
    cw_row_text(o, "app_name", res, 0, "app_name");
    cw_row_text(o, "product_id", res, 0, "product_id");
    cw_row_text(o, "product_name", res, 0, "product_name");
    for (size_t i = 0; i < CW_ARRAY_LEN(given); i++)
        if (json_object_get(body, given[i]) && !json_is_null(json_object_get(body, given[i])))
            json_object_set(o, given[i], json_object_get(body, given[i]));
    json_object_set_new(o, "gateway_id",
                        json_string(w->parent_key ? get(body, "gateway_id") : get(o, "device_id")));
    json_object_set_new(o, "node_type", json_string(w->parent_key ? "ENDPOINT" : "GATEWAY"));
    json_object_set_new(o, "status", json_string("INACTIVE"));
    json_object_set_new(o, "create_time", json_string(cw_time_basic(time, now_ms)));
    json_t *tags = json_loads(cw_api_path(w->call, "tags"), 0, NULL);
    json_object_set_new(o, "tags", tags ? tags : json_array());
    if (by_secret && get(auth, "secret"))
        snprintf(w->secret, sizeof w->secret, "%s", get(auth, "secret"));
    else if (by_secret)
        cw_random_hex(w->secret, 32);
    json_t *shown = json_pack("{s:s}", "auth_type", by_secret ? "SECRET" : "CERTIFICATES");
    if (by_secret)
        json_object_set_new(shown, "secret", json_string(w->secret));
    else if (fingerprint)
        json_object_set_new(shown, "fingerprint", json_string(fingerprint));
    json_object_set_new(shown, "secure_access",
                        json_boolean(json_is_true(json_object_get(auth, "secure_access"))));
    json_object_set_new(shown, "timeout",
                        json_integer(json_integer_value(json_object_get(auth, "timeout"))));
    json_object_set_new(o, "auth_info", shown);
}

/* What the lookup found allows it; else the call has been failed. */
static bool allowed(struct adding *w, json_t *body, const PGresult *res)
{
    const char *gateway_id = get(body, "gateway_id"), *app_id = cw_db_str(res, 0, "app_id");
    if (!cw_db_str(res, 0, "product_key")) {
        cw_api_fail(w->call, CW_E_NO_PRODUCT,
                    "Product \"%s\" is not in space \"%s\" (app_id names another space).",
                    get(body, "product_id"), cw_db_str(res, 0, "app_name"));
        return false;
    }
    if (w->r->devices_max && cw_db_i64(res, 0, "devices", 0) >= w->r->devices_max) {
        cw_api_fail(w->call, CW_E_DEVICE_QUOTA,
                    "There are as many devices as CAUSEWAY_DEVICES_MAX allows.");
        return false;
    }
    if (!gateway_id)
        return true;
    if (!w->parent_key || strcmp(cw_db_str(res, 0, "parent_app"), app_id) != 0) {
        cw_api_fail(w->call, CW_E_NO_GATEWAY, "gateway_id: no device \"%s\" in this space.",
                    gateway_id);
        return false;
    }
    if (w->depth > 2) {
        cw_api_fail(w->call, CW_E_DEPTH, "gateway_id: \"%s\" is two levels below a gateway.",
                    gateway_id);
        return false;
    }
    if (w->r->children_max && cw_db_i64(res, 0, "children", 0) >= w->r->children_max) {
        cw_api_fail(w->call, CW_E_DEVICE_QUOTA,
                    "gateway_id: \"%s\" has as many children as CAUSEWAY_CHILDREN_MAX allows.",
                    gateway_id);
        return false;
    }
    return true;
}

/* When it is registered: lists take the time from the record id, so both are of one second. */
static int64_t registered_ms(struct adding *w)
{
    char second[9];
    int64_t now_ms = cw_now_ms();
    cw_record_id(w->record_id);
    snprintf(second, sizeof second, "%.8s", w->record_id);
    int64_t s = strtoll(second, NULL, 16);
    return now_ms / 1000 == s ? now_ms : s * 1000;
}

/* False: the call has been failed. */
static bool wishes(struct adding *w, const json_t *shadow, const char *model_text)
{
    json_t *model = model_text ? json_loads(model_text, 0, NULL) : NULL;
    bool fine = !json_array_size(shadow) || check_desired(w->call, shadow, model);
    if (fine)
        w->desired = first_desired(model, shadow);
    json_decref(model);
    return fine;
}

static void on_new(PGresult *res, void *arg)
{
    struct adding *w = arg;
    json_t *body = cw_api_body(w->call), *shadow = json_object_get(body, "shadow");
    char id[160];
    int64_t now_ms = registered_ms(w);
    if (cw_api_db_failed(w->call, res, "register a device"))
        goto out;
    if (PQntuples(res) == 0) {
        cw_api_fail(w->call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(body, "app_id"));
        goto out;
    }
    w->parent_key = cw_db_str(res, 0, "parent_key");
    w->depth = w->parent_key ? cw_db_i64(res, 0, "depth", 0) + 1 : 0;
    if (!allowed(w, body, res) || !wishes(w, shadow, cw_db_str(res, 0, "model")))
        goto out;
    w->device_key = cw_db_i64(res, 0, "device_key", 0);
    w->product_key = cw_db_i64(res, 0, "product_key", 0);
    w->coap = strcmp(cw_db_str(res, 0, "protocol_type"), "CoAP") == 0;
    snprintf(id, sizeof id, "%s_%s", get(body, "product_id"), get(body, "node_id"));
    w->device =
        json_pack("{s:s}", "device_id", get(body, "device_id") ? get(body, "device_id") : id);
    w->root_id = w->parent_key ? cw_db_str(res, 0, "root_id") : get(w->device, "device_id");
    w->partition = partition_of(w->r, w->root_id);
    shape(w, body, res, now_ms);
    if (insert(w, body, now_ms))
        return;
    cw_api_no_db(w->call);
out:
    adding_free(w);
}

void add_device(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char devices[24], children[24];
    json_t *body = cw_api_body(call);
    const char *fingerprint = get(json_object_get(body, "auth_info"), "fingerprint");
    if (!fingerprint_fits(fingerprint)) {
        cw_api_fail(call, CW_E_INVALID, "auth_info.fingerprint: 40 or 64 hex digits.");
        return;
    }
    struct adding *w = cw_calloc(1, sizeof *w);
    w->r = r;
    w->call = call;
    const struct cw_db_param p[] = {
        CW_TEXT(get(body, "product_id")),
        CW_TEXT(get(body, "app_id")),
        CW_TEXT(get(body, "gateway_id")),
        CW_TEXT(json_array_size(json_object_get(body, "shadow")) ? "t" : "f"),
        cw_db_int(r->devices_max, devices),
        cw_db_int(r->children_max, children),
    };
    if (!cw_db_exec(registry_db(r), &stmt_new, 6, p, on_new, w)) {
        cw_api_no_db(call);
        adding_free(w);
    }
}
