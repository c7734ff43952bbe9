#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/token.h"
#include "services/identity/identity.h"

/* Checked against when there is no such user, so that the answer takes as long. */
static const char nobody[] = "scrypt.14.00000000000000000000000000000000."
                             "0000000000000000000000000000000000000000000000000000000000000000";

/* A login on its way; texts are borrowed from the call's body. */
struct login {
    struct identity *self;
    struct cw_api_call *call;
    bool known, enabled, locked, scope_found, scoped;
    int64_t failures;
    struct cw_token token;
    char *user_name, *domain_id, *domain_name, *project_name, *role;
};

/* $1 user id or NULL, $2 user name, $3 account id or NULL, $4 account name or NULL, $5 project id,
 * $6 project name. An account's name may be left out when the user is named by id. */
static const struct cw_stmt find_user = {
    "find_user", "SELECT u.user_id, u.name AS user_name, u.password_hash, u.generation, u.enabled, "
                 "u.failures, coalesce(u.locked_until > now(), false) AS locked, "
                 "u.role, a.domain_id, a.name AS domain_name, p.project_id, p.name AS project_name "
                 "FROM principal u JOIN account a USING (domain_id) LEFT JOIN project p "
                 "ON p.domain_id = a.domain_id AND (p.project_id = $5 OR p.name = $6) "
                 "WHERE (u.user_id = $1 OR u.name = $2 AND (a.domain_id = $3 OR a.name = $4))"
};

static void login_free(struct login *l)
{
    char *texts[] = { l->user_name, l->domain_id, l->domain_name, l->project_name, l->role };
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        free(texts[i]);
    free(l);
}

/* yyyy-MM-dd'T'HH:mm:ss.SSS000'Z' */
static char *keystone_time(char out[CW_TIME_LEN], int64_t ms)
{
    cw_time_extended(out, ms);
    strcpy(out + strlen(out) - 1, "000Z");
    return out;
}

static json_t *named(const char *id, const char *name)
{
    return json_pack("{s:s, s:s}", "id", id, "name", name);
}

static void answer(struct login *l)
{
    char issued[CW_TIME_LEN], expires[CW_TIME_LEN];
    json_t *user =
        json_pack("{s:s, s:s, s:s, s:o}", "id", l->token.user_id, "name", l->user_name,
                  "password_expires_at", "", "domain", named(l->domain_id, l->domain_name));
    json_t *token = json_pack("{s:[s], s:s, s:s, s:o, s:[{s:s, s:s}], s:[]}", "methods", "password",
                              "expires_at", keystone_time(expires, l->token.expires_ms),
                              "issued_at", keystone_time(issued, l->token.issued_ms), "user", user,
                              "roles", "id", l->role, "name", l->role, "catalog");
    if (*l->token.project_id)
        json_object_set_new(token, "project",
                            json_pack("{s:s, s:s, s:o}", "id", l->token.project_id, "name",
                                      l->project_name, "domain",
                                      named(l->domain_id, l->domain_name)));
    else
        json_object_set_new(token, "domain", named(l->domain_id, l->domain_name));
    char *text = cw_token_make(l->self->key_token, &l->token);
    cw_api_reply_header(l->call, "X-Subject-Token", text);
    free(text);
    cw_api_reply_json(l->call, 201, json_pack("{s:o}", "token", token));
}

/* ---- wrong passwords: so many in a row lock the user for a while */

static const struct cw_stmt stmt_failed = {
    "login_failed",
    "UPDATE principal SET last_failure = now(),"
    " failures = CASE WHEN n.failures >= $2::int THEN 0 ELSE n.failures END,"
    " locked_until = CASE WHEN n.failures >= $2::int THEN"
    "  now() + make_interval(secs => $3::bigint / 1000.0) ELSE locked_until END"
    " FROM (SELECT CASE WHEN last_failure > now() - make_interval(secs => $3::bigint / 1000.0)"
    "  THEN failures + 1 ELSE 1 END AS failures FROM principal WHERE user_id = $1 FOR UPDATE) n"
    " WHERE user_id = $1 AND (locked_until IS NULL OR locked_until <= now())"
    " RETURNING name, locked_until > now() AS locked"
};
static const struct cw_stmt stmt_succeeded = { "login_succeeded",
                                               "UPDATE principal SET failures = 0"
                                               " WHERE user_id = $1" };

static void on_failed(PGresult *res, void *arg)
{
    (void)arg;
    const char *locked = PQntuples(res) ? cw_db_str(res, 0, "locked") : NULL;
    if (cw_db_outcome(res) == CW_DB_OK && locked && *locked == 't')
        cw_log(CW_WARN, "user_locked", "user=%s", cw_db_str(res, 0, "name"));
}

static void note_failure(struct login *l)
{
    char max[24], ms[24];
    const struct cw_db_param p[] = { CW_TEXT(l->token.user_id),
                                     cw_db_int(l->self->failures_max, max),
                                     cw_db_int(l->self->lockout_ms, ms) };
    if (l->known && !l->locked && l->self->failures_max)
        cw_db_exec(cw_app_db(l->self->app), &stmt_failed, 3, p, on_failed, NULL);
}

static void note_success(struct login *l)
{
    const struct cw_db_param p[] = { CW_TEXT(l->token.user_id) };
    if (l->failures)
        cw_db_exec(cw_app_db(l->self->app), &stmt_succeeded, 1, p, NULL, NULL);
}

/* One sentence for all of them: it tells a stranger nothing. */
static void refuse(struct login *l)
{
    if (l->self->failures_max)
        iam_fail(l->call, 401,
                 "The username or password is wrong; after %lld wrong ones in a row a user is "
                 "locked for %lld s.",
                 (long long)l->self->failures_max, (long long)(l->self->lockout_ms / 1000));
    else
        iam_fail(l->call, 401, "The username or password is wrong.");
}

static void on_checked(bool ok, const char *hash, void *arg)
{
    struct login *l = arg;
    (void)hash;
    cw_log(CW_INFO, "login", "user=%s ok=%d locked=%d", l->known ? l->user_name : "-",
           ok && l->known && l->enabled && !l->locked, l->locked);
    if (!ok || !l->known || l->locked) {
        if (!ok)
            note_failure(l);
        refuse(l);
    } else if (!l->enabled)
        iam_fail(l->call, 401, "The user is disabled.");
    else if (l->scoped && !l->scope_found)
        iam_fail(l->call, 401, "The account has no such project.");
    else {
        note_success(l);
        l->token.issued_ms = cw_now_ms();
        l->token.expires_ms = l->token.issued_ms + TOKEN_LIFE_MS;
        answer(l);
    }
    login_free(l);
}

static char *column(const PGresult *res, const char *name)
{
    const char *v = cw_db_str(res, 0, name);
    return cw_strdup(v ? v : "");
}

static void read_user(struct login *l, const PGresult *res)
{
    const char *project = cw_db_str(res, 0, "project_id");
    l->known = true;
    l->enabled = strcmp(cw_db_str(res, 0, "enabled"), "t") == 0;
    l->locked = *cw_db_str(res, 0, "locked") == 't';
    l->failures = cw_db_i64(res, 0, "failures", 0);
    l->user_name = column(res, "user_name");
    l->domain_id = column(res, "domain_id");
    l->domain_name = column(res, "domain_name");
    l->project_name = column(res, "project_name");
    l->role = column(res, "role");
    l->scope_found = project != NULL;
    l->token.generation = cw_db_i64(res, 0, "generation", 0);
    snprintf(l->token.user_id, sizeof l->token.user_id, "%s", cw_db_str(res, 0, "user_id"));
    snprintf(l->token.project_id, sizeof l->token.project_id, "%s", project ? project : "");
}

static const json_t *member(const json_t *o, const char *a, const char *b)
{
    return json_object_get(json_object_get(o, a), b);
}

static const json_t *user_of(struct cw_api_call *call)
{
    const json_t *identity = member(cw_api_body(call), "auth", "identity");
    return member(identity, "password", "user");
}

static void on_user(PGresult *res, void *arg)
{
    struct login *l = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        iam_fail_db(l->call, res);
        login_free(l);
        return;
    }
    if (PQntuples(res) == 1)
        read_user(l, res);
    int rc = hasher_ask(l->self->hasher, cw_json_text(user_of(l->call), "password"),
                        l->known ? cw_db_str(res, 0, "password_hash") : nobody, on_checked, l);
    if (rc == 0)
        return;
    if (rc == -EAGAIN)
        iam_fail(l->call, 503, "Too many logins at once. Try again in a moment.");
    else
        refuse(l);
    login_free(l);
}

void on_create_token(struct cw_api_call *call, void *arg)
{
    const json_t *user = user_of(call), *scope = member(cw_api_body(call), "auth", "scope");
    const json_t *domain = json_object_get(user, "domain"),
                 *project = json_object_get(scope, "project");
    const char *user_id = cw_json_text(user, "id"), *user_name = cw_json_text(user, "name");
    const char *project_id = cw_json_text(project, "id"),
               *project_name = cw_json_text(project, "name");
    if (!user_id && (!user_name || !domain)) {
        iam_fail(call, 400, "Field \"auth.identity.password.user\": needs name and domain, or id.");
        return;
    }
    if (project && (!project_id == !project_name)) {
        iam_fail(call, 400, "Field \"auth.scope.project\": needs id or name, one of them.");
        return;
    }
    struct login *l = cw_calloc(1, sizeof *l);
    l->self = arg;
    l->call = call;
    l->scoped = project != NULL;
    const struct cw_db_param params[] = { CW_TEXT(user_id),
                                          CW_TEXT(user_id ? NULL : user_name),
                                          CW_TEXT(cw_json_text(domain, "id")),
                                          CW_TEXT(cw_json_text(domain, "name")),
                                          CW_TEXT(project_id),
                                          CW_TEXT(project_name) };
    if (!cw_db_exec(cw_app_db(l->self->app), &find_user, CW_ARRAY_LEN(params), params, on_user,
                    l)) {
        iam_fail_db(call, NULL);
        login_free(l);
    }
}
