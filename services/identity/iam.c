#include "services/identity/iam.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "libcommon/api_rows.h"
#include "libcommon/bus.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"

/* What a broken constraint means. */
static const struct {
    const char *constraint;
    int status;
    const char *text;
} broken[] = {
    { "principal_domain_id_name_key", 409, "A user of the account has this name." },
    { "group_name_taken", 409, "A group of the account has this name." },
    { "policy_name_taken", 409, "A policy of the account has this name." },
    { "policy_in_use", 409, "Groups have this policy; take it from them first." },
    { "first_access_user_id_fkey", 403,
      "The user that the first start made stays: `make up` writes its access. Disable it "
      "instead." },
    { "first_access_access_fkey", 403,
      "The access key that the first start made stays: `make up` writes it. Switch it off "
      "instead." },
};

static void iam_free(struct iam_call *c)
{
    OPENSSL_cleanse(c->secret, sizeof c->secret);
    OPENSSL_cleanse(c->token, sizeof c->token);
    free(c->sealed);
    free(c);
}

void iam_refuse(struct iam_call *c, int status, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    iam_fail(c->call, status, "%s", text);
    free(text);
    iam_free(c);
}

const json_t *iam_member(struct iam_call *c, const char *path)
{
    const json_t *v = cw_api_body(c->call);
    while (v && *path) {
        char name[64];
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        v = json_object_get(v, name);
        path += n + (path[n] == '.');
    }
    return v;
}

/* ---- parameters */

/* Texts that had to be made for one statement. */
struct made {
    char *text[IAM_PARAMS];
    char id[33];
    size_t n;
};

static const char *keep(struct made *m, char *text) { return m->text[m->n++] = text; }

static const char *from_body(struct iam_call *c, struct made *m, const char *path)
{
    const json_t *v = iam_member(c, path);
    struct cw_buf b = { 0 };
    if (!v || json_is_null(v))
        return NULL;
    if (json_is_string(v))
        return json_string_value(v);
    cw_json_write(&b, v);
    return keep(m, b.data);
}

static const char *maximum(struct iam_call *c, struct made *m, const char *what)
{
    const struct {
        const char *name;
        int64_t value;
    } settings[] = { { "users", c->self->users_max },
                     { "groups", c->self->groups_max },
                     { "policies", c->self->policies_max },
                     { "keys", c->self->keys_max },
                     { "temporary", 100 } };
    for (size_t i = 0; i < CW_ARRAY_LEN(settings); i++)
        if (strcmp(settings[i].name, what) == 0)
            return keep(m, cw_sprintf("%lld", (long long)settings[i].value));
    abort(); /* a mistake in the table */
}

static const char *made_before(struct iam_call *c, const char *what)
{
    const struct {
        const char *name, *value;
    } values[] = { { "hash", *c->hash ? c->hash : NULL },
                   { "access", c->access },
                   { "sealed", c->sealed },
                   { "token", *c->token_hash ? c->token_hash : NULL } };
    for (size_t i = 0; i < CW_ARRAY_LEN(values); i++)
        if (strcmp(values[i].name, what) == 0)
            return values[i].value;
    abort(); /* a mistake in the table */
}

static const char *value(struct iam_call *c, struct made *m, const char *from)
{
    const Causeway__ApiRequest *q = cw_api_request(c->call);
    const char *name = strchr(from, ':');
    if (strcmp(from, "own") == 0)
        return q->self_only ? q->user_id : NULL;
    if (strcmp(from, "id") == 0)
        return cw_random_hex(m->id, 32);
    if (!name)
        return made_before(c, from);
    if (*from == 'p')
        return cw_api_path(c->call, name + 1);
    if (*from == 'q')
        return cw_api_query(c->call, name + 1);
    return *from == 'b' ? from_body(c, m, name + 1) : maximum(c, m, name + 1);
}

/* ---- the statement and its answer */

static bool is_broken(struct iam_call *c, const PGresult *res)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(broken); i++)
        if (cw_db_broke(res, broken[i].constraint)) {
            iam_refuse(c, broken[i].status, "%s", broken[i].text);
            return true;
        }
    return false;
}

static void nothing_there(struct iam_call *c)
{
    const Causeway__ApiRequest *q = cw_api_request(c->call);
    if (q->self_only)
        iam_refuse(c, 403,
                   "The user does not have the permission: \"%s\" needs %s about others; an "
                   "administrator can grant it.",
                   q->user_name, q->permission);
    else if (c->row->quota)
        iam_refuse(c, 403, "There are as many %s as the settings of identity allow.",
                   c->row->quota);
    else
        iam_refuse(c, 404, "There is no %s.", c->row->missing);
}

static void answer(struct iam_call *c, const char *text)
{
    if (c->row->changes)
        cw_bus_publish(cw_app_bus(c->self->app), "invalidate.identity", NULL, "", 0);
    if (c->row->status == 204) {
        cw_api_reply(c->call, 204, NULL, 0);
    } else if (c->row->after) {
        json_t *body = json_loads(text, 0, NULL);
        c->row->after(c, body);
        cw_api_reply_json(c->call, c->row->status, body);
    } else
        cw_api_reply(c->call, c->row->status, text, strlen(text));
    iam_free(c);
}

static void on_answered(PGresult *res, void *arg)
{
    struct iam_call *c = arg;
    if (is_broken(c, res))
        return;
    if (cw_db_outcome(res) != CW_DB_OK) {
        iam_fail_db(c->call, res);
        iam_free(c);
    } else if (PQntuples(res) == 0)
        nothing_there(c);
    else
        answer(c, cw_db_str(res, 0, "body"));
}

void iam_run(struct iam_call *c)
{
    struct cw_db_param p[IAM_PARAMS + 1];
    struct made m = { 0 };
    int n = 1;
    p[0] = CW_TEXT(cw_api_request(c->call)->user_id);
    for (; n <= IAM_PARAMS && c->row->params[n - 1]; n++)
        p[n] = CW_TEXT(value(c, &m, c->row->params[n - 1]));
    if (!cw_db_exec(cw_app_db(c->self->app), &c->row->stmt, n, p, on_answered, c)) {
        iam_fail_db(c->call, NULL);
        iam_free(c);
    }
    for (size_t i = 0; i < m.n; i++)
        free(m.text[i]);
}

void on_iam(struct cw_api_call *call, void *self)
{
    struct iam_call *c = cw_calloc(1, sizeof *c);
    c->self = self;
    c->call = call;
    for (c->row = iam_rows; c->row->operation; c->row++)
        if (strcmp(c->row->operation, cw_api_request(call)->operation) == 0)
            break;
    if (c->row->before)
        c->row->before(c);
    else
        iam_run(c);
}
