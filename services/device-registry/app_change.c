/* Resource spaces: create, rename, delete, and their secrets (an application logs in over V3 with
 * app_id and secret). */
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

static const struct cw_stmt stmt_add = {
    "apps_add", "INSERT INTO registry.app (app_id, app_name, secret) SELECT $1, $2, $4"
                " WHERE $3::bigint = 0 OR (SELECT count(*) FROM registry.app) < $3"
                " RETURNING " APP_COLUMNS
};
static const struct cw_stmt stmt_update = { "apps_update",
                                            "UPDATE registry.app SET app_name = $2"
                                            " WHERE app_id = $1 RETURNING " APP_COLUMNS };
static const struct cw_stmt stmt_secret = {
    "apps_secret", "UPDATE registry.app SET secret = $2 WHERE app_id = $1 RETURNING app_id"
};
static const struct cw_stmt stmt_holds = {
    "apps_holds",
    "SELECT a.default_app, (SELECT count(*) FROM registry.product p WHERE p.app_id = a.app_id)"
    "  AS products, (SELECT COALESCE(sum(n), 0) FROM registry.device_count c"
    "  WHERE c.app_id = a.app_id) AS devices, (SELECT count(*) FROM rule.space_view v"
    "  WHERE v.app_id = a.app_id) AS rules, (SELECT count(*) FROM registry.ca_certificate c"
    "  WHERE c.app_id = a.app_id) AS cas FROM registry.app a WHERE a.app_id = $1"
};
static const struct cw_stmt stmt_delete = {
    "apps_delete", "DELETE FROM registry.app WHERE app_id = $1 AND NOT default_app"
                   " RETURNING app_id"
};

static const char *app_id_of(const struct cw_api_call *call) { return cw_api_path(call, "app_id"); }

static void fail_no_app(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", app_id_of(call));
}

/* True: the name is in use, and the call has been failed. */
static bool name_taken(struct cw_api_call *call, const PGresult *res)
{
    if (!cw_db_broke(res, "app_name_taken"))
        return false;
    cw_api_fail(call, CW_E_APP_NAME_TAKEN, "app_name \"%s\" is in use.",
                cw_body_text(cw_api_body(call), "app_name"));
    return true;
}

/* A call and the secret that its answer shows. */
struct secret_call {
    struct cw_api_call *call;
    char secret[33];
};

static struct secret_call *secret_new(struct registry *r, struct cw_api_call *call,
                                      const char *app_id, char **sealed)
{
    char *context = cw_sprintf("app.%s", app_id);
    struct secret_call *s = cw_calloc(1, sizeof *s);
    s->call = call;
    cw_random_hex(s->secret, 32);
    *sealed = cw_seal(r->seal_key, context, s->secret, strlen(s->secret));
    free(context);
    return s;
}

static void secret_free(struct secret_call *s)
{
    explicit_bzero(s->secret, sizeof s->secret);
    free(s);
}

/* ---- create */

static void on_add(PGresult *res, void *arg)
{
    struct secret_call *s = arg;
    if (name_taken(s->call, res) || cw_api_db_failed(s->call, res, "create a space")) {
        secret_free(s);
        return;
    }
    if (PQntuples(res) == 0)
        cw_api_fail(s->call, CW_E_APP_QUOTA,
                    "There are as many spaces as CAUSEWAY_APPS_MAX allows.");
    else {
        json_t *o = app_json(res, 0);
        json_object_set_new(o, "app_secret", json_string(s->secret));
        cw_api_reply_json(s->call, 201, o);
    }
    secret_free(s);
}

void add_application(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char id[33], max[24], *sealed;
    struct secret_call *s = secret_new(r, call, cw_random_hex(id, 32), &sealed);
    const struct cw_db_param p[] = { CW_TEXT(id),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "app_name")),
                                     cw_db_int(r->apps_max, max), CW_TEXT(sealed) };
    if (!cw_db_exec(registry_db(r), &stmt_add, 4, p, on_add, s)) {
        cw_api_no_db(call);
        secret_free(s);
    }
    free(sealed);
}

/* ---- rename */

static void on_update(PGresult *res, void *arg)
{
    if (name_taken(arg, res) || cw_api_db_failed(arg, res, "rename a space"))
        return;
    if (PQntuples(res) == 0)
        fail_no_app(arg);
    else
        cw_api_reply_json(arg, 200, app_json(res, 0));
}

void update_application(struct cw_api_call *call, void *self)
{
    const struct cw_db_param p[] = { CW_TEXT(app_id_of(call)),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "app_name")) };
    if (!cw_db_exec(registry_db(self), &stmt_update, 2, p, on_update, call))
        cw_api_no_db(call);
}

/* ---- a new secret */

static void on_secret(PGresult *res, void *arg)
{
    struct secret_call *s = arg;
    if (!cw_api_db_failed(s->call, res, "reset the secret of a space")) {
        if (PQntuples(res) == 0)
            fail_no_app(s->call);
        else
            cw_api_reply_json(s->call, 200,
                              json_pack("{s:s, s:s}", "app_id", cw_db_str(res, 0, "app_id"),
                                        "app_secret", s->secret));
    }
    secret_free(s);
}

void reset_application_secret(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char *sealed;
    struct secret_call *s = secret_new(r, call, app_id_of(call), &sealed);
    const struct cw_db_param p[] = { CW_TEXT(app_id_of(call)), CW_TEXT(sealed) };
    if (!cw_db_exec(registry_db(r), &stmt_secret, 2, p, on_secret, s)) {
        cw_api_no_db(call);
        secret_free(s);
    }
    free(sealed);
}

/* ---- delete: what is in it is looked at first; foreign keys have the last word */

struct deleting {
    struct registry *r;
    struct cw_api_call *call;
};

static void on_delete(PGresult *res, void *arg)
{
    const char *state = cw_db_sqlstate(res);
    if (strcmp(state, "23503") == 0) /* a product was created in between */
        cw_api_fail(arg, CW_E_APP_NOT_EMPTY, "Space \"%s\" is not empty any more.", app_id_of(arg));
    else if (cw_api_db_failed(arg, res, "delete a space"))
        return;
    else if (PQntuples(res) == 0)
        fail_no_app(arg);
    else
        cw_api_reply(arg, 204, NULL, 0);
}

static void on_holds(PGresult *res, void *arg)
{
    struct deleting d = *(struct deleting *)arg;
    free(arg);
    if (cw_api_db_failed(d.call, res, "delete a space"))
        return;
    int64_t products = cw_db_i64(res, 0, "products", 0), devices = cw_db_i64(res, 0, "devices", 0),
            rules = cw_db_i64(res, 0, "rules", 0), cas = cw_db_i64(res, 0, "cas", 0);
    const struct cw_db_param p[] = { CW_TEXT(app_id_of(d.call)) };
    if (PQntuples(res) == 0)
        fail_no_app(d.call);
    else if (*cw_db_str(res, 0, "default_app") == 't')
        cw_api_fail(d.call, CW_E_APP_DEFAULT, "Space \"%s\" is the default one.",
                    app_id_of(d.call));
    else if (products || devices || rules || cas)
        cw_api_fail(d.call, CW_E_APP_NOT_EMPTY,
                    "Space \"%s\" holds %lld products, %lld devices, %lld rules and %lld CAs.",
                    app_id_of(d.call), (long long)products, (long long)devices, (long long)rules,
                    (long long)cas);
    else if (!cw_db_exec(registry_db(d.r), &stmt_delete, 1, p, on_delete, d.call))
        cw_api_no_db(d.call);
}

void delete_application(struct cw_api_call *call, void *self)
{
    struct deleting *d = cw_malloc(sizeof *d);
    *d = (struct deleting){ self, call };
    const struct cw_db_param p[] = { CW_TEXT(app_id_of(call)) };
    if (!cw_db_exec(registry_db(d->r), &stmt_holds, 1, p, on_holds, d)) {
        cw_api_no_db(call);
        free(d);
    }
}
