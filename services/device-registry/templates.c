#include "services/device-registry/templates.h"

#include <stdlib.h>

#include "services/device-registry/policies.h"
#include "services/device-registry/template_body.h"

#define COLUMNS                                                                                    \
    "t.template_id, t.template_id AS record_id, t.template_name, t.description, t.template_body,"  \
    " " SQL_BASIC_TIME("t.created") " AS create_time, " SQL_BASIC_TIME("t.updated") " AS "         \
                                                                                    "update_time"
/* A policy of $n that is not there. */
#define MISSING(n)                                                                                 \
    "missing AS (SELECT id FROM unnest(" n "::text[]) id WHERE NOT EXISTS (SELECT FROM"            \
    "  registry.device_policy p WHERE p.policy_id = lower(id)) LIMIT 1)"

static const struct cw_stmt stmt_create = {
    "templates_create",
    "WITH " MISSING(
        "$6") ", t AS (INSERT INTO registry.provisioning_template (template_id,"
              "  template_name, description, template_body) SELECT $1, $2, $3, $4::json"
              "  WHERE (SELECT count(*) FROM registry.provisioning_template) < $5::bigint"
              "  AND NOT EXISTS (SELECT FROM missing) RETURNING *)"
              " SELECT (SELECT id FROM missing) AS missing, " COLUMNS
              " FROM (SELECT) one LEFT JOIN t ON true"
};
static const struct cw_stmt stmt_list = {
    "templates_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.provisioning_template t"
    "  WHERE $1::text IS NULL OR t.template_name = $1),"
    " page AS (SELECT * FROM m WHERE record_id < lower($2) ORDER BY record_id DESC"
    "  OFFSET $3::bigint LIMIT $4::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "templates_show",
                                          "SELECT " COLUMNS " FROM registry.provisioning_template t"
                                          " WHERE t.template_id = $1" };
static const struct cw_stmt stmt_update = {
    "templates_update",
    "WITH " MISSING("$4") ", u AS (UPDATE registry.provisioning_template t SET"
                          "  description = COALESCE($2, description),"
                          "  template_body = COALESCE($3::json, template_body), updated = now()"
                          "  WHERE t.template_id = $1 AND NOT EXISTS (SELECT FROM missing)"
                          "  RETURNING *)"
                          " SELECT (SELECT id FROM missing) AS missing, " COLUMNS
                          " FROM (SELECT) one LEFT JOIN u AS t ON true"
};
static const struct cw_stmt stmt_delete = {
    "templates_delete",
    "DELETE FROM registry.provisioning_template WHERE template_id = $1 RETURNING 1"
};

static void fail_not_there(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_NO_TEMPLATE, "Template \"%s\".", cw_api_path(call, "template_id"));
}

static json_t *template_json(const PGresult *res, int row, bool whole)
{
    static const char *const texts[] = { "template_id", "template_name", "description",
                                         "create_time", "update_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    if (whole)
        cw_row_json(o, "template_body", res, row, "template_body");
    return o;
}

/* ---- create, change */

/* The text of the body's template, NULL without one; its policies go into ids. False: it is wrong,
 * and the call has been failed. */
static bool read_template(struct cw_api_call *call, char **text, struct cw_db_array *ids)
{
    char wrong[400];
    const json_t *body = json_object_get(cw_api_body(call), "template_body"), *id;
    size_t i;
    *text = NULL;
    cw_db_array_reset(ids, CW_ARRAY_TEXT);
    if (!json_is_object(body))
        return true;
    if (template_fault(body, wrong, sizeof wrong)) {
        cw_api_fail(call, CW_E_TEMPLATE_BAD, "%s.", wrong);
        return false;
    }
    json_array_foreach(template_policies(body), i, id) cw_db_array_str(ids, json_string_value(id));
    *text = json_text(body);
    return true;
}

/* True: a policy is missing, and the call has been failed. */
static bool policy_missing(struct cw_api_call *call, const PGresult *res)
{
    if (!cw_db_str(res, 0, "missing"))
        return false;
    cw_api_fail(call, CW_E_TEMPLATE_BAD,
                "template_body.resources.policy.policy_ids: there is no policy \"%s\".",
                cw_db_str(res, 0, "missing"));
    return true;
}

struct writing {
    struct registry *r;
    struct cw_api_call *call;
    bool policies;
};

/* Gateways hear of its policies now, so that they know them when a device comes. */
static void written(struct writing *w, int status, const PGresult *res)
{
    if (w->policies)
        policies_changed(w->r, NULL, 0);
    cw_api_reply_json(w->call, status, template_json(res, 0, true));
}

static void store(struct registry *r, struct cw_api_call *call, const struct cw_stmt *stmt, int n,
                  const struct cw_db_param *p, bool policies, cw_db_fn *cb)
{
    struct writing *w = cw_malloc(sizeof *w);
    *w = (struct writing){ r, call, policies };
    if (cw_db_exec(registry_db(r), stmt, n, p, cb, w))
        return;
    free(w);
    cw_api_no_db(call);
}

static void on_created(PGresult *res, void *arg)
{
    struct writing w = *(struct writing *)arg;
    struct cw_api_call *call = w.call;
    free(arg);
    if (cw_db_broke(res, "template_name_taken"))
        cw_api_fail(call, CW_E_TEMPLATE_TAKEN, "template_name \"%s\".",
                    cw_body_text(cw_api_body(call), "template_name"));
    else if (cw_api_db_failed(call, res, "create a template") || policy_missing(call, res))
        ;
    else if (!cw_db_str(res, 0, "template_id"))
        cw_api_fail(call, CW_E_TEMPLATE_QUOTA,
                    "There are as many templates as CAUSEWAY_TEMPLATES_MAX allows.");
    else
        written(&w, 201, res);
}

void create_template(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    char id[CW_RECORD_ID_LEN], max[24], *text;
    struct cw_db_array ids = { 0 };
    if (read_template(call, &text, &ids)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                         CW_TEXT(cw_body_text(body, "template_name")),
                                         CW_TEXT(cw_body_text(body, "description")),
                                         CW_TEXT(text),
                                         cw_db_int(r->templates_max, max),
                                         cw_db_array_param(&ids) };
        store(r, call, &stmt_create, CW_ARRAY_LEN(p), p, ids.n > 0, on_created);
    }
    cw_db_array_free(&ids);
    free(text);
}

static void on_updated(PGresult *res, void *arg)
{
    struct writing w = *(struct writing *)arg;
    struct cw_api_call *call = w.call;
    free(arg);
    if (cw_api_db_failed(call, res, "change a template") || policy_missing(call, res))
        return;
    if (!cw_db_str(res, 0, "template_id"))
        fail_not_there(call);
    else
        written(&w, 200, res);
}

void update_template(struct cw_api_call *call, void *self)
{
    char *text;
    struct cw_db_array ids = { 0 };
    if (read_template(call, &text, &ids)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "template_id")),
                                         CW_TEXT(cw_body_text(cw_api_body(call), "description")),
                                         CW_TEXT(text), cw_db_array_param(&ids) };
        store(self, call, &stmt_update, CW_ARRAY_LEN(p), p, ids.n > 0, on_updated);
    }
    cw_db_array_free(&ids);
    free(text);
}

/* ---- list, show, delete */

static json_t *listed_json(const PGresult *res, int row) { return template_json(res, row, false); }

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (!cw_api_db_failed(call, res, "list templates"))
        reply_page(call, res, "templates", "template_id", listed_json);
}

void list_templates(struct cw_api_call *call, void *self)
{
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker");
    const struct cw_db_param p[] = { CW_TEXT(cw_api_query(call, "template_name")),
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit) };
    if (!cw_db_exec(registry_db(self), &stmt_list, CW_ARRAY_LEN(p), p, on_list, call))
        cw_api_no_db(call);
}

static void on_show(PGresult *res, void *arg)
{
    if (cw_api_db_failed(arg, res, "show a template"))
        return;
    if (PQntuples(res) == 0)
        fail_not_there(arg);
    else
        cw_api_reply_json(arg, 200, template_json(res, 0, true));
}

void show_template(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "template_id")),
                    on_show, call))
        cw_api_no_db(call);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_db_broke(res, "ca_template"))
        cw_api_fail(call, CW_E_TEMPLATE_IN_USE, "Template \"%s\".",
                    cw_api_path(call, "template_id"));
    else if (cw_api_db_failed(call, res, "delete a template"))
        ;
    else if (PQntuples(res) == 0)
        fail_not_there(call);
    else
        cw_api_reply(call, 204, NULL, 0);
}

void delete_template(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1, &CW_TEXT(cw_api_path(call, "template_id")),
                    on_deleted, call))
        cw_api_no_db(call);
}
