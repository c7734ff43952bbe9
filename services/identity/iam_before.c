/* What is made or checked before the statement of an operation of iam_table.c runs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "libcommon/crypto.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "services/identity/iam.h"

/* ---- passwords */

static void busy(struct iam_call *c, int rc)
{
    if (rc == -EAGAIN)
        iam_refuse(c, 503, "Too many passwords at once. Try again in a moment.");
    else
        iam_refuse(c, 400, "Field \"user.password\": is too long.");
}

static void on_hashed(bool ok, const char *hash, void *arg)
{
    struct iam_call *c = arg;
    if (!ok) {
        iam_refuse(c, 503, "The password could not be hashed. Try again in a moment.");
        return;
    }
    snprintf(c->hash, sizeof c->hash, "%s", hash);
    iam_run(c);
}

/* Not one character over and over, nor the user's name. */
static bool is_weak(const char *password, const char *name)
{
    return strspn(password, (char[]){ password[0], '\0' }) == strlen(password) ||
           (name && strcmp(name, password) == 0);
}

static void hash_new(struct iam_call *c)
{
    const char *password = json_string_value(iam_member(c, "user.password"));
    if (is_weak(password, json_string_value(iam_member(c, "user.name")))) {
        iam_refuse(c, 400,
                   "Field \"user.password\": must not be the name, nor one character repeated.");
        return;
    }
    int rc = hasher_ask(c->self->hasher, password, NULL, on_hashed, c);
    if (rc < 0)
        busy(c, rc);
}

void iam_hash_password(struct iam_call *c)
{
    if (iam_member(c, "user.password"))
        hash_new(c);
    else
        iam_run(c);
}

static const struct cw_stmt stmt_hash = {
    "iam_password_hash", "SELECT password_hash FROM identity.principal WHERE user_id = $1"
};

static void on_checked(bool ok, const char *hash, void *arg)
{
    struct iam_call *c = arg;
    (void)hash;
    if (ok)
        hash_new(c);
    else
        iam_refuse(c, 403, "Field \"user.original_password\": is not the password.");
}

static void on_hash(PGresult *res, void *arg)
{
    struct iam_call *c = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0) {
        iam_refuse(c, 503, "The database is away. Try again in a moment.");
        return;
    }
    int rc = hasher_ask(c->self->hasher, json_string_value(iam_member(c, "user.original_password")),
                        cw_db_str(res, 0, "password_hash"), on_checked, c);
    if (rc < 0)
        busy(c, rc);
}

void iam_check_password(struct iam_call *c)
{
    const char *user_id = cw_api_request(c->call)->user_id;
    const struct cw_db_param p[] = { CW_TEXT(user_id) };
    if (strcmp(user_id, cw_api_path(c->call, "user_id")) != 0)
        iam_refuse(c, 403,
                   "Only the user himself changes a password here; administrators use "
                   "PATCH /v3/users/{user_id}.");
    else if (!cw_db_exec(cw_app_db(c->self->app), &stmt_hash, 1, p, on_hash, c))
        iam_refuse(c, 503, "The database is away. Try again in a moment.");
}

/* ---- policies */

/* Three parts of letters and digits, each perhaps with * at its end. */
static bool is_action(const char *s)
{
    int parts = 1;
    for (; *s; s++) {
        bool last = s[1] == ':' || !s[1];
        if (*s == ':')
            parts++;
        else if (*s == '*' ? !last
                           : !((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
                               (*s >= '0' && *s <= '9')))
            return false;
        if (*s == ':' && last)
            return false;
    }
    return parts == 3 && s[-1] != ':';
}

static bool is_resource(const char *s)
{
    static const char app[] = "iotda:*:*:app:";
    size_t n = strlen(app);
    return strcmp(s, "*") == 0 ||
           (strncmp(s, app, n) == 0 && s[n] &&
            strspn(s + n, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") ==
                strlen(s + n));
}

static const char *statement_fault(const json_t *statement, size_t at, char out[256])
{
    static const char *const known[] = { "Effect", "Action", "Resource" };
    const char *key;
    json_t *v, *item;
    size_t i;
    json_object_foreach((json_t *)statement, key, v)
    {
        bool fine = false;
        for (i = 0; i < CW_ARRAY_LEN(known); i++)
            fine |= strcmp(key, known[i]) == 0;
        if (!fine) { /* to leave out a condition would give more than was meant */
            snprintf(out, 256, "Statement[%zu].%.64s: is not supported.", at, key);
            return out;
        }
    }
    json_array_foreach(json_object_get(statement, "Action"), i,
                       item) if (!is_action(json_string_value(item)))
    {
        snprintf(out, 256,
                 "Statement[%zu].Action[%zu]: must be service:resource:verb, such as "
                 "iotda:devices:query or iotda:*:*.",
                 at, i);
        return out;
    }
    json_array_foreach(json_object_get(statement, "Resource"), i,
                       item) if (!is_resource(json_string_value(item)))
    {
        snprintf(out, 256, "Statement[%zu].Resource[%zu]: must be iotda:*:*:app:<app_id>, or *.",
                 at, i);
        return out;
    }
    return NULL;
}

const char *policy_fault(const json_t *document, char out[256])
{
    size_t i;
    json_t *statement;
    json_array_foreach(json_object_get(document, "Statement"), i, statement)
    {
        const char *fault = statement_fault(statement, i, out);
        if (fault)
            return fault;
    }
    return NULL;
}

void iam_check_policy(struct iam_call *c)
{
    char text[256];
    const char *fault = policy_fault(iam_member(c, "role.policy"), text);
    if (fault)
        iam_refuse(c, 400, "Field \"role.policy\": %s", fault);
    else
        iam_run(c);
}

/* ---- keys */

static void make(struct iam_call *c)
{
    random_text(c->access, sizeof c->access - 1);
    random_text(c->secret, sizeof c->secret - 1);
    char *context = seal_context("access_key", c->access);
    c->sealed = cw_seal(c->self->key_seal, context, c->secret, strlen(c->secret));
    free(context);
}

void iam_make_key(struct iam_call *c)
{
    make(c);
    iam_run(c);
}

void iam_make_temporary(struct iam_call *c)
{
    char text[256];
    uint8_t digest[CW_DIGEST_LEN];
    const char *fault = policy_fault(iam_member(c, "auth.identity.policy"), text);
    if (fault) {
        iam_refuse(c, 400, "Field \"auth.identity.policy\": %s", fault);
        return;
    }
    make(c);
    cw_random_hex(c->token, 64);
    cw_sha256(digest, c->token, 64);
    cw_hex(c->token_hash, digest, sizeof digest);
    iam_run(c);
}

void iam_show_secret(struct iam_call *c, json_t *body)
{
    json_t *credential = json_object_get(body, "credential");
    json_object_set_new(credential, "secret", json_string(c->secret));
    if (*c->token)
        json_object_set_new(credential, "securitytoken", json_string(c->token));
}
