#include "services/device-registry/policies.h"

#include <stdlib.h>
#include <string.h>

#define STATEMENT_MAX (10U << 10)

#define COLUMNS                                                                                    \
    "p.policy_id, p.policy_id AS record_id, p.app_id, p.policy_name, "                             \
    "p.statement, " SQL_BASIC_TIME("p.created") " AS create_time, " SQL_BASIC_TIME(                \
        "p.updated") " AS update_time"

static const struct cw_stmt stmt_create = {
    "policies_create",
    "WITH a AS (SELECT app_id FROM registry.app"
    "  WHERE CASE WHEN $2::text IS NULL THEN default_app ELSE app_id = $2 END),"
    " p AS (INSERT INTO registry.device_policy (policy_id, app_id, policy_name, statement)"
    "  SELECT $1, app_id, $3, $4::json FROM a WHERE $5::bigint > (SELECT count(*)"
    "   FROM registry.device_policy WHERE NOT of_platform) RETURNING *)"
    " SELECT (SELECT count(*) FROM a) AS spaces, " COLUMNS " FROM (SELECT) one LEFT JOIN p ON true"
};
static const struct cw_stmt stmt_list = {
    "policies_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.device_policy p"
    "  WHERE ($1::text IS NULL OR p.app_id = $1) AND ($2::text IS NULL OR p.policy_name = $2)"
    "  AND ($6::text[] IS NULL OR p.app_id = ANY($6)) AND p.app_id <> ALL($7::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($3) ORDER BY record_id DESC"
    "  OFFSET $4::bigint LIMIT $5::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "policies_show",
                                          "SELECT " COLUMNS " FROM registry.device_policy p"
                                          " WHERE p.policy_id = lower($1)" };
static const struct cw_stmt stmt_update = {
    "policies_update",
    "UPDATE registry.device_policy p SET policy_name = COALESCE($2, policy_name),"
    " statement = COALESCE($3::json, statement), updated = now() WHERE p.policy_id = lower($1)"
    " RETURNING " COLUMNS
};
static const struct cw_stmt stmt_delete = {
    "policies_delete", "DELETE FROM registry.device_policy WHERE policy_id = lower($1) RETURNING 1"
};

bool policy_is_there(struct cw_api_call *call, bool is)
{
    if (!is)
        cw_api_fail(call, CW_E_NO_POLICY, "Policy \"%s\".", cw_api_path(call, "policy_id"));
    return is;
}

/* ---- what a statement may say */

/* A name between ${ and } that is not known, with its length; NULL: none. */
static const char *unknown_variable(const char *resource, size_t *len)
{
    static const char *const known[] = { "devices.deviceId", "devices.productId" };
    for (const char *p = resource; (p = strstr(p, "${"));) {
        bool fine = false;
        p += 2;
        *len = strcspn(p, "}");
        for (size_t i = 0; i < CW_ARRAY_LEN(known); i++)
            fine |= p[*len] == '}' && strlen(known[i]) == *len && memcmp(p, known[i], *len) == 0;
        if (!fine)
            return p;
    }
    return NULL;
}

static bool resource_fits(const char *resource, char *buf, size_t size)
{
    size_t len;
    const char *name = unknown_variable(resource, &len);
    if (strncmp(resource, "topic:", 6) != 0 || !resource[6])
        snprintf(buf, size, "\"%.64s\" does not begin with topic: and a pattern", resource);
    else if (strncmp(resource + 6, "$oc", 3) == 0)
        snprintf(buf, size, "\"%.64s\": topics below $oc are not subject to policies", resource);
    else if (name)
        snprintf(buf, size,
                 "\"%.64s\": ${%.*s is not a variable; there are"
                 " ${devices.deviceId} and ${devices.productId}",
                 resource, (int)(len < 40 ? len : 40), name);
    else
        return true;
    return false;
}

const char *policy_fault(const json_t *statement, char *buf, size_t size)
{
    char wrong[200];
    size_t i, k;
    const json_t *s, *resource;
    char *text = json_text(statement);
    size_t bytes = strlen(text);
    free(text);
    if (bytes > STATEMENT_MAX) {
        snprintf(buf, size, "statement has %zu bytes; 10 KB are allowed", bytes);
        return buf;
    }
    json_array_foreach(statement, i, s)
    {
        json_array_foreach(json_object_get(s, "resources"), k, resource)
        {
            if (resource_fits(json_string_value(resource), wrong, sizeof wrong))
                continue;
            snprintf(buf, size, "statement[%zu].resources[%zu]: %s", i, k, wrong);
            return buf;
        }
    }
    return NULL;
}

/* The statement of the body as compact text; "": it is wrong, and the call has been failed; NULL:
 * there is none. From malloc. */
static char *statement_of(struct cw_api_call *call)
{
    char wrong[320];
    const json_t *statement = json_object_get(cw_api_body(call), "statement");
    if (!json_is_array(statement))
        return NULL;
    if (!policy_fault(statement, wrong, sizeof wrong))
        return json_text(statement);
    cw_api_fail(call, CW_E_POLICY_BAD, "%s.", wrong);
    return cw_strdup("");
}

/* ---- create */

static json_t *policy_json(const PGresult *res, int row, bool whole)
{
    static const char *const texts[] = { "app_id", "policy_id", "policy_name", "create_time",
                                         "update_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    if (whole)
        cw_row_json(o, "statement", res, row, "statement");
    return o;
}

static void on_created(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "create a policy"))
        return;
    if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(cw_api_body(call), "app_id"));
    else if (!cw_db_str(res, 0, "policy_id"))
        cw_api_fail(call, CW_E_POLICY_QUOTA,
                    "There are as many policies as CAUSEWAY_POLICIES_MAX allows.");
    else
        cw_api_reply_json(call, 201, policy_json(res, 0, true));
}

void create_policy(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    char id[CW_RECORD_ID_LEN], max[24], *statement = statement_of(call);
    const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                     CW_TEXT(cw_body_text(body, "app_id")),
                                     CW_TEXT(cw_body_text(body, "policy_name")), CW_TEXT(statement),
                                     cw_db_int(r->policies_max, max) };
    if (statement && *statement &&
        !cw_db_exec(registry_db(r), &stmt_create, CW_ARRAY_LEN(p), p, on_created, call))
        cw_api_no_db(call);
    free(statement);
}

/* ---- list, show */

static json_t *listed_json(const PGresult *res, int row) { return policy_json(res, row, false); }

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list policies"))
        return;
    reply_page(call, res, "policies", "policy_id", listed_json);
}

void list_policies(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                           CW_TEXT(cw_api_query(call, "policy_name")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

static void on_show(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "show a policy") && policy_is_there(arg, PQntuples(res) > 0))
        cw_api_reply_json(arg, 200, policy_json(res, 0, true));
}

void show_policy(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "policy_id")),
                    on_show, call))
        cw_api_no_db(call);
}

/* ---- change, delete */

struct changing {
    struct registry *r;
    struct cw_api_call *call;
};

static void change(struct cw_api_call *call, void *self, const struct cw_stmt *stmt, int n,
                   const struct cw_db_param *p, cw_db_fn *cb)
{
    struct changing *c = cw_malloc(sizeof *c);
    *c = (struct changing){ self, call };
    if (cw_db_exec(registry_db(self), stmt, n, p, cb, c))
        return;
    free(c);
    cw_api_no_db(call);
}

/* True: gateways have been told. */
static bool is_changed(const struct changing *c, const PGresult *res)
{
    if (cw_api_db_failed(c->call, res, "change a policy") ||
        !policy_is_there(c->call, PQntuples(res) > 0))
        return false;
    policies_changed(c->r, NULL, 0);
    return true;
}

static void on_updated(PGresult *res, void *arg)
{
    struct changing *c = arg;
    if (is_changed(c, res))
        cw_api_reply_json(c->call, 200, policy_json(res, 0, true));
    free(c);
}

void update_policy(struct cw_api_call *call, void *self)
{
    char *statement = statement_of(call);
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "policy_id")),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "policy_name")),
                                     CW_TEXT(statement) };
    if (!statement || *statement)
        change(call, self, &stmt_update, 3, p, on_updated);
    free(statement);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct changing *c = arg;
    if (is_changed(c, res))
        cw_api_reply(c->call, 204, NULL, 0);
    free(c);
}

void delete_policy(struct cw_api_call *call, void *self)
{
    change(call, self, &stmt_delete, 1, &CW_TEXT(cw_api_path(call, "policy_id")), on_deleted);
}
