#include "services/device-registry/scopes.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#define SECRET_LEN  32
#define SECRET_TEXT 48 /* base64 */
#define SCOPE_LEN   12
#define LIMIT       1000 /* devices of a group that says nothing */

#define COLUMNS                                                                                    \
    "g.scope_id, g.record_id, g.app_id, g.group_name, g.description, g.auth_type, g.product_id,"   \
    " g.product_of_device_id, g.enabled, g.device_limit, g.registered,"                            \
    " " SQL_BASIC_TIME("g.created") " AS create_time, " SQL_BASIC_TIME("g.updated") " AS "         \
                                                                                    "update_time"

/* known: the product is there, or none is named. */
static const struct cw_stmt stmt_create = {
    "scopes_create",
    "WITH a AS (SELECT app_id FROM registry.app"
    "  WHERE CASE WHEN $2::text IS NULL THEN default_app ELSE app_id = $2 END),"
    " k AS (SELECT $6::text IS NULL OR EXISTS (SELECT FROM registry.product p JOIN a USING (app_id)"
    "  WHERE p.product_id = $6) AS known),"
    " g AS (INSERT INTO registry.registration_group (scope_id, app_id, group_name, description,"
    "  auth_type, product_id, product_of_device_id, device_limit, enabled, secret, project_id)"
    "  SELECT $1, app_id, $3, $4, $5, $6, $7::boolean, $8::bigint, $9::boolean, $10, $11"
    "  FROM a CROSS JOIN k WHERE k.known"
    "  AND (SELECT count(*) FROM registry.registration_group) < $12::bigint RETURNING *)"
    " SELECT (SELECT count(*) FROM a) AS spaces, (SELECT known FROM k) AS known, " COLUMNS
    " FROM (SELECT) one LEFT JOIN g ON true"
};
static const struct cw_stmt stmt_list = {
    "scopes_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.registration_group g"
    "  WHERE ($1::text IS NULL OR g.app_id = $1)"
    "  AND ($5::text[] IS NULL OR g.app_id = ANY($5)) AND g.app_id <> ALL($6::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($2) ORDER BY record_id DESC"
    "  OFFSET $3::bigint LIMIT $4::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "scopes_show",
                                          "SELECT " COLUMNS " FROM registry.registration_group g"
                                          " WHERE g.scope_id = $1" };
static const struct cw_stmt stmt_update = {
    "scopes_update",
    "WITH k AS (SELECT g.scope_id, $4::text IS NULL OR EXISTS (SELECT FROM registry.product p"
    "  WHERE p.app_id = g.app_id AND p.product_id = $4) AS known"
    "  FROM registry.registration_group g WHERE g.scope_id = $1),"
    " u AS (UPDATE registry.registration_group g SET group_name = COALESCE($2, g.group_name),"
    "  description = COALESCE($3, g.description), product_id = COALESCE($4, g.product_id),"
    "  product_of_device_id = COALESCE($5::boolean, g.product_of_device_id),"
    "  device_limit = COALESCE($6::bigint, g.device_limit),"
    "  enabled = COALESCE($7::boolean, g.enabled), updated = now()"
    "  FROM k WHERE g.scope_id = k.scope_id AND k.known RETURNING g.*)"
    " SELECT k.known, " COLUMNS " FROM k LEFT JOIN u AS g ON true"
};
static const struct cw_stmt stmt_secret = {
    "scopes_secret",
    "UPDATE registry.registration_group SET secret = CASE WHEN auth_type = 'SECRET' THEN $2 END,"
    " updated = now() WHERE scope_id = $1 RETURNING auth_type"
};
static const struct cw_stmt stmt_delete = {
    "scopes_delete", "DELETE FROM registry.registration_group WHERE scope_id = $1 RETURNING 1"
};

static void fail_not_there(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_NO_SCOPE, "scope_id \"%s\".", cw_api_path(call, "scope_id"));
}

static json_t *scope_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "scope_id",  "app_id",     "group_name",  "description",
                                         "auth_type", "product_id", "create_time", "update_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    cw_row_bool(o, "product_of_device_id", res, row, "product_of_device_id");
    cw_row_bool(o, "enabled", res, row, "enabled");
    json_object_set_new(o, "device_limit", json_integer(cw_db_i64(res, row, "device_limit", 0)));
    json_object_set_new(o, "registered", json_integer(cw_db_i64(res, row, "registered", 0)));
    return o;
}

/* ---- the secret: without zero bytes, since one of the device libraries stops at the first */

struct secret_call {
    struct cw_api_call *call;
    char text[SECRET_TEXT];
};

static struct secret_call *secret_new(struct registry *r, struct cw_api_call *call,
                                      const char *scope_id, char **sealed)
{
    char context[SCOPE_CONTEXT_LEN];
    uint8_t raw[SECRET_LEN];
    struct secret_call *s = cw_calloc(1, sizeof *s);
    s->call = call;
    cw_random(raw, sizeof raw);
    for (size_t i = 0; i < sizeof raw; i++)
        while (!raw[i])
            cw_random(&raw[i], 1);
    EVP_EncodeBlock((unsigned char *)s->text, raw, sizeof raw);
    *sealed = cw_seal(r->seal_key, scope_context(context, scope_id), raw, sizeof raw);
    explicit_bzero(raw, sizeof raw);
    return s;
}

static void secret_free(struct secret_call *s)
{
    explicit_bzero(s->text, sizeof s->text);
    free(s);
}

/* ---- create */

static void on_created(PGresult *res, void *arg)
{
    struct secret_call *s = arg;
    struct cw_api_call *call = s->call;
    const json_t *body = cw_api_body(call);
    if (cw_api_db_failed(call, res, "create a registration group"))
        ;
    else if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(body, "app_id"));
    else if (*cw_db_str(res, 0, "known") != 't')
        cw_api_fail(call, CW_E_NO_PRODUCT, "Product \"%s\".", cw_body_text(body, "product_id"));
    else if (!cw_db_str(res, 0, "scope_id"))
        cw_api_fail(call, CW_E_SCOPE_QUOTA,
                    "There are as many groups as CAUSEWAY_REGISTRATION_GROUPS_MAX allows.");
    else {
        json_t *o = scope_json(res, 0);
        if (*cw_db_str(res, 0, "auth_type") == 'S')
            json_object_set_new(o, "group_secret", json_string(s->text));
        cw_api_reply_json(call, 201, o);
    }
    secret_free(s);
}

static const char *boolean(const json_t *body, const char *key, const char *if_absent)
{
    const json_t *v = json_object_get(body, key);
    return !json_is_boolean(v) ? if_absent : json_is_true(v) ? "t" : "f";
}

void create_scope(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call), *limit = json_object_get(body, "device_limit");
    char id[SCOPE_LEN + 1], most[24], max[24], *sealed;
    const char *type = cw_body_text(body, "auth_type");
    bool certificate = type && *type == 'C';
    struct secret_call *s = secret_new(r, call, cw_random_hex(id, SCOPE_LEN), &sealed);
    const struct cw_db_param p[] = {
        CW_TEXT(id),
        CW_TEXT(cw_body_text(body, "app_id")),
        CW_TEXT(cw_body_text(body, "group_name")),
        CW_TEXT(cw_body_text(body, "description")),
        CW_TEXT(certificate ? "CERTIFICATES" : "SECRET"),
        CW_TEXT(cw_body_text(body, "product_id")),
        CW_TEXT(boolean(body, "product_of_device_id", "t")),
        cw_db_int(json_is_integer(limit) ? json_integer_value(limit) : LIMIT, most),
        CW_TEXT(boolean(body, "enabled", "t")),
        CW_TEXT(certificate ? NULL : sealed),
        CW_TEXT(cw_api_request(call)->project_id),
        cw_db_int(r->scopes_max, max),
    };
    if (!cw_db_exec(registry_db(r), &stmt_create, CW_ARRAY_LEN(p), p, on_created, s)) {
        cw_api_no_db(call);
        secret_free(s);
    }
    free(sealed);
}

/* ---- list, show, change, delete */

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list registration groups"))
        reply_page(arg, res, "registration_groups", "scope_id", scope_json);
}

void list_scopes(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

static void on_show(PGresult *res, void *arg)
{
    if (cw_api_db_failed(arg, res, "show a registration group"))
        return;
    if (PQntuples(res) == 0)
        fail_not_there(arg);
    else
        cw_api_reply_json(arg, 200, scope_json(res, 0));
}

void show_scope(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "scope_id")),
                    on_show, call))
        cw_api_no_db(call);
}

static void on_updated(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "change a registration group"))
        return;
    if (PQntuples(res) == 0)
        fail_not_there(call);
    else if (*cw_db_str(res, 0, "known") != 't')
        cw_api_fail(call, CW_E_NO_PRODUCT, "Product \"%s\".",
                    cw_body_text(cw_api_body(call), "product_id"));
    else
        cw_api_reply_json(call, 200, scope_json(res, 0));
}

void update_scope(struct cw_api_call *call, void *self)
{
    const json_t *body = cw_api_body(call), *limit = json_object_get(body, "device_limit");
    char most[24];
    const struct cw_db_param p[] = {
        CW_TEXT(cw_api_path(call, "scope_id")),
        CW_TEXT(cw_body_text(body, "group_name")),
        CW_TEXT(cw_body_text(body, "description")),
        CW_TEXT(cw_body_text(body, "product_id")),
        CW_TEXT(boolean(body, "product_of_device_id", NULL)),
        json_is_integer(limit) ? cw_db_int(json_integer_value(limit), most) : CW_NULL,
        CW_TEXT(boolean(body, "enabled", NULL)),
    };
    if (!cw_db_exec(registry_db(self), &stmt_update, CW_ARRAY_LEN(p), p, on_updated, call))
        cw_api_no_db(call);
}

static void on_deleted(PGresult *res, void *arg)
{
    if (cw_api_db_failed(arg, res, "delete a registration group"))
        return;
    if (PQntuples(res) == 0)
        fail_not_there(arg);
    else
        cw_api_reply(arg, 204, NULL, 0);
}

void delete_scope(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1, &CW_TEXT(cw_api_path(call, "scope_id")),
                    on_deleted, call))
        cw_api_no_db(call);
}

static void on_reset(PGresult *res, void *arg)
{
    struct secret_call *s = arg;
    if (cw_api_db_failed(s->call, res, "reset a secret"))
        ;
    else if (PQntuples(res) == 0)
        fail_not_there(s->call);
    else if (*cw_db_str(res, 0, "auth_type") == 'C')
        cw_api_fail(s->call, CW_E_INVALID, "The group has auth_type CERTIFICATES: no secret.");
    else
        cw_api_reply_json(s->call, 200,
                          json_pack("{s:s, s:s}", "scope_id", cw_api_path(s->call, "scope_id"),
                                    "group_secret", s->text));
    secret_free(s);
}

void reset_scope_secret(struct cw_api_call *call, void *self)
{
    const char *id = cw_api_path(call, "scope_id");
    char *sealed;
    struct secret_call *s = secret_new(self, call, id, &sealed);
    const struct cw_db_param p[] = { CW_TEXT(id), CW_TEXT(sealed) };
    if (!cw_db_exec(registry_db(self), &stmt_secret, 2, p, on_reset, s)) {
        cw_api_no_db(call);
        secret_free(s);
    }
    free(sealed);
}
