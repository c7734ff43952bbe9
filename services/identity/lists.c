#include <stdlib.h>
#include <string.h>

#include "libcommon/api_rows.h"
#include "libcommon/crypto.h"
#include "services/identity/identity.h"

static const char *title(int status)
{
    return status == 400   ? "Bad Request"
           : status == 401 ? "Unauthorized"
           : status == 403 ? "Forbidden"
           : status == 404 ? "Not Found"
           : status == 409 ? "Conflict"
           : status == 503 ? "Service Unavailable"
                           : "Internal Server Error";
}

void iam_fail(struct cw_api_call *call, int status, const char *fmt, ...)
{
    struct cw_buf body = { 0 };
    char *text;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    cw_buf_printf(&body, "{\"error\":{\"code\":%d,\"message\":", status);
    cw_buf_json_string(&body, text, strlen(text));
    cw_buf_printf(&body, ",\"title\":\"%s\"}}", title(status));
    cw_api_reply(call, status, body.data, body.len);
    cw_buf_free(&body);
    free(text);
}

void iam_fail_db(struct cw_api_call *call, const PGresult *res)
{
    if (cw_db_outcome(res) == CW_DB_RETRY)
        iam_fail(call, 503, "The database is away. Try again in a moment.");
    else {
        cw_log(CW_ERROR, "statement_failed", "reason=\"%s\"", cw_db_error(res));
        iam_fail(call, 500, "Internal error.");
    }
}

/* Runs a statement whose parameters are text; fails the call when it cannot be sent. */
static void ask(struct cw_api_call *call, struct identity *self, const struct cw_stmt *stmt, int n,
                const struct cw_db_param *params, cw_db_fn *cb)
{
    if (!cw_db_exec(cw_app_db(self->app), stmt, n, params, cb, call))
        iam_fail_db(call, NULL);
}

static json_t *links(void) { return json_pack("{s:s, s:n, s:n}", "self", "", "next", "previous"); }

/* ---- GET /v3/projects: exactly one for a name, since the SDKs insist on that */

static const struct cw_stmt list_projects = {
    "list_projects", "SELECT p.project_id, p.name, p.domain_id FROM principal u "
                     "JOIN project p USING (domain_id) WHERE u.user_id = $1 "
                     "AND ($2::text IS NULL OR p.name = $2) "
                     "AND ($3::text IS NULL OR p.domain_id = $3) ORDER BY p.name"
};

static void on_projects(PGresult *res, void *arg)
{
    if (cw_db_outcome(res) != CW_DB_OK) {
        iam_fail_db(arg, res);
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res); i++) {
        const char *domain = cw_db_str(res, i, "domain_id");
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:s, s:{s:s}}", "id",
                                              cw_db_str(res, i, "project_id"), "name",
                                              cw_db_str(res, i, "name"), "domain_id", domain,
                                              "parent_id", domain, "is_domain", 0, "enabled", 1,
                                              "description", "", "links", "self", ""));
    }
    cw_api_reply_json(arg, 200, json_pack("{s:o, s:o}", "projects", list, "links", links()));
}

void on_list_projects(struct cw_api_call *call, void *self)
{
    const struct cw_db_param params[] = { CW_TEXT(cw_api_request(call)->user_id),
                                          CW_TEXT(cw_api_query(call, "name")),
                                          CW_TEXT(cw_api_query(call, "domain_id")) };
    ask(call, self, &list_projects, 3, params, on_projects);
}

/* ---- GET /v3/regions, /v3/auth/domains */

static const struct cw_stmt list_regions = {
    "list_regions", "SELECT DISTINCT p.name FROM principal u JOIN project p USING (domain_id) "
                    "WHERE u.user_id = $1 ORDER BY 1"
};

static void on_regions(PGresult *res, void *arg)
{
    if (cw_db_outcome(res) != CW_DB_OK) {
        iam_fail_db(arg, res);
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res); i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:{s:s}}", "id", cw_db_str(res, i, "name"),
                                        "type", "public", "links", "self", ""));
    cw_api_reply_json(arg, 200, json_pack("{s:o, s:o}", "regions", list, "links", links()));
}

void on_list_regions(struct cw_api_call *call, void *self)
{
    const struct cw_db_param params[] = { CW_TEXT(cw_api_request(call)->user_id) };
    ask(call, self, &list_regions, 1, params, on_regions);
}

static const struct cw_stmt list_domains = {
    "list_domains", "SELECT a.domain_id, a.name FROM principal u JOIN account a USING (domain_id) "
                    "WHERE u.user_id = $1"
};

static void on_domains(PGresult *res, void *arg)
{
    if (cw_db_outcome(res) != CW_DB_OK) {
        iam_fail_db(arg, res);
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res); i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:b}", "id", cw_db_str(res, i, "domain_id"),
                                        "name", cw_db_str(res, i, "name"), "enabled", 1));
    cw_api_reply_json(arg, 200, json_pack("{s:o, s:o}", "domains", list, "links", links()));
}

void on_list_domains(struct cw_api_call *call, void *self)
{
    const struct cw_db_param params[] = { CW_TEXT(cw_api_request(call)->user_id) };
    ask(call, self, &list_domains, 1, params, on_domains);
}

/* ---- for rest-gateway only: not in openapi.json */

#define PRINCIPAL                                                                                  \
    "u.user_id, u.name AS user_name, u.generation, u.enabled, u.role, u.domain_id, "               \
    "a.name AS domain_name, (SELECT json_agg(p.project_id)::text FROM project p "                  \
    "WHERE p.domain_id = u.domain_id) AS projects, "                                               \
    "(SELECT json_agg(json_build_object('project_id', gp.project_id, 'policy', "                   \
    "r.document))::text "                                                                          \
    "FROM membership m JOIN group_policy gp USING (group_id) JOIN policy r USING (role_id) "       \
    "WHERE m.user_id = u.user_id) AS grants"

static const struct cw_stmt show_principal = { "show_principal",
                                               "SELECT " PRINCIPAL
                                               " FROM principal u JOIN account a USING (domain_id) "
                                               "WHERE u.user_id = $1" };
static const struct cw_stmt show_access_key = {
    "show_access_key", "WITH k AS (UPDATE access_key SET last_used = now() WHERE access = $1 "
                       "AND enabled AND (expires IS NULL OR expires > now()) RETURNING *) "
                       "SELECT " PRINCIPAL ", k.access, k.sealed, k.token_hash, k.policy, "
                       "(extract(epoch FROM k.expires) * 1000)::bigint AS expires_ms FROM k "
                       "JOIN principal u USING (user_id) JOIN account a USING (domain_id)"
};

static json_t *principal(const PGresult *res)
{
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:b, s:s, s:s}", "user_id", cw_db_str(res, 0, "user_id"),
                  "user_name", cw_db_str(res, 0, "user_name"), "generation",
                  (json_int_t)cw_db_i64(res, 0, "generation", 0), "enabled",
                  strcmp(cw_db_str(res, 0, "enabled"), "t") == 0, "domain_id",
                  cw_db_str(res, 0, "domain_id"), "domain_name", cw_db_str(res, 0, "domain_name"));
    cw_row_json(o, "projects", res, 0, "projects");
    cw_row_json(o, "grants", res, 0, "grants");
    return o;
}

static bool found(struct cw_api_call *call, const PGresult *res)
{
    if (cw_db_outcome(res) != CW_DB_OK)
        iam_fail_db(call, res);
    else if (PQntuples(res) == 0)
        iam_fail(call, 404, "Not known.");
    else
        return true;
    return false;
}

static void on_principal(PGresult *res, void *arg)
{
    if (found(arg, res))
        cw_api_reply_json(arg, 200, principal(res));
}

void on_show_principal(struct cw_api_call *call, void *self)
{
    const struct cw_db_param params[] = { CW_TEXT(cw_api_path(call, "id")) };
    ask(call, self, &show_principal, 1, params, on_principal);
}

struct key_call {
    struct cw_api_call *call;
    struct identity *self;
};

static void on_access_key(PGresult *res, void *arg)
{
    struct key_call k = *(struct key_call *)arg;
    char *secret = NULL;
    free(arg);
    if (!found(k.call, res))
        return;
    char *context = seal_context("access_key", cw_db_str(res, 0, "access"));
    int rc = cw_unseal(&secret, NULL, k.self->key_seal, context, cw_db_str(res, 0, "sealed"));
    free(context);
    if (rc < 0) {
        cw_log(CW_ERROR, "unseal_failed", "access=%s", cw_db_str(res, 0, "access"));
        iam_fail(k.call, 500, "The secret of the access key does not open.");
        return;
    }
    json_t *out = principal(res);
    json_object_set_new(out, "secret", json_string(secret));
    cw_row_text(out, "token_hash", res, 0, "token_hash");
    cw_row_json(out, "policy", res, 0, "policy");
    cw_row_json(out, "expires_ms", res, 0, "expires_ms");
    free(secret);
    cw_api_reply_json(k.call, 200, out);
}

void on_show_access_key(struct cw_api_call *call, void *self)
{
    const struct cw_db_param params[] = { CW_TEXT(cw_api_path(call, "id")) };
    struct key_call *k = cw_malloc(sizeof *k);
    *k = (struct key_call){ call, self };
    if (!cw_db_exec(cw_app_db(((struct identity *)self)->app), &show_access_key, 1, params,
                    on_access_key, k)) {
        free(k);
        iam_fail_db(call, NULL);
    }
}
