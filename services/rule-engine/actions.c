/* Actions: where a rule forwards to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/crypto.h"
#include "services/rule-engine/engine.h"
#include "services/rule-engine/target_url.h"

#define CHANNEL        "HTTP_FORWARDING"
#define CHANNEL_MEMBER "http_forwarding"
#define ACTION_COLUMNS                                                                             \
    "action_id, record_id, rule_id, app_id, channel, url, cert_id, cn_name, sni_enable,"           \
    " signature_enable"
#define A_COLUMNS                                                                                  \
    "a.action_id, a.record_id, a.rule_id, a.app_id, a.channel, a.url, a.cert_id, a.cn_name,"       \
    " a.sni_enable, a.signature_enable"

static const struct cw_stmt stmt_create = {
    "actions_create",
    "WITH r AS (SELECT rule_id, app_id FROM rule.rule WHERE rule_id = $3 FOR UPDATE),"
    " n AS (SELECT count(*) AS n FROM rule.action WHERE rule_id = $3),"
    " i AS (INSERT INTO rule.action (action_id, record_id, rule_id, app_id, channel, url, cert_id,"
    " cn_name, sni_enable, signature_enable, token)"
    " SELECT $1, $2, rule_id, app_id, '" CHANNEL
    "', $4, $5, $6, $7::boolean, $8::boolean, $9 FROM r, n"
    " WHERE n < $10::bigint RETURNING " ACTION_COLUMNS ")"
    " SELECT (SELECT count(*) FROM r) AS found, i.* FROM (SELECT) one LEFT JOIN i ON true"
};
/* A token is never shown, so it can be left out to keep it. */
static const struct cw_stmt stmt_update = {
    "actions_update",
    "UPDATE rule.action SET url = $2, cert_id = $3, cn_name = $4, sni_enable = $5::boolean,"
    " signature_enable = $6::boolean, token = CASE WHEN $6::boolean THEN coalesce($7, token) END,"
    " updated = now() WHERE action_id = $1 RETURNING " ACTION_COLUMNS
};
static const struct cw_stmt stmt_list = {
    "actions_list",
    "WITH m AS (SELECT " A_COLUMNS " FROM rule.action a JOIN rule.rule r USING (rule_id)"
    " WHERE ($1::text IS NULL OR rule_id = $1) AND ($2::text IS NULL OR channel = $2)"
    " AND ($3::text IS NULL OR app_type = $3) AND ($4::text IS NULL OR a.app_id = $4)"
    " AND " MAY_SEE("r.app_id", "$8", "$9") ")" PAGE("record_id", "$5", "$6", "$7")
};
static const struct cw_stmt stmt_show = { "actions_show",
                                          "SELECT " ACTION_COLUMNS
                                          " FROM rule.action WHERE action_id = $1" };
static const struct cw_stmt stmt_delete = {
    "actions_delete", "DELETE FROM rule.action WHERE action_id = $1 RETURNING action_id"
};

static json_t *action_json(const PGresult *res, int row)
{
    json_t *o = json_object(), *detail = json_object();
    cw_row_text(o, "action_id", res, row, "action_id");
    cw_row_text(o, "rule_id", res, row, "rule_id");
    cw_row_text(o, "app_id", res, row, "app_id");
    cw_row_text(o, "channel", res, row, "channel");
    cw_row_text(detail, "url", res, row, "url");
    cw_row_text(detail, "cert_id", res, row, "cert_id");
    cw_row_text(detail, "cn_name", res, row, "cn_name");
    cw_row_bool(detail, "sni_enable", res, row, "sni_enable");
    cw_row_bool(detail, "signature_enable", res, row, "signature_enable");
    json_object_set_new(o, "channel_detail", json_pack("{s:o}", CHANNEL_MEMBER, detail));
    return o;
}

/* ---- what was sent */

struct detail {
    const char *url, *cert_id, *cn_name, *token;
    bool sni, signature;
};

static bool refuse(struct cw_api_call *call, const char *field, const char *why)
{
    cw_api_fail(call, CW_E_INVALID, "channel_detail." CHANNEL_MEMBER ".%s: %s.", field, why);
    return false;
}

static bool detail_fits(struct cw_api_call *call, struct engine *e, const struct detail *d)
{
    char why[400];
    if (!d->url)
        return refuse(call, "url", "It is missing");
    if (target_url_check(d->url, e->deny, why, sizeof why) < 0)
        return refuse(call, "url", why);
    if (d->cn_name && target_name_check(d->cn_name, why, sizeof why) < 0)
        return refuse(call, "cn_name", why);
    if (d->sni && !d->cn_name)
        return refuse(call, "cn_name", "It is needed with sni_enable (host:port)");
    if (d->token && !d->signature)
        return refuse(call, "token", "It needs signature_enable: true");
    if (d->cert_id && strncasecmp(d->url, "https:", 6) != 0)
        return refuse(call, "cert_id", "A certificate is of no use with http; write https");
    return true;
}

/* Absent, null and "" are the same. */
static const char *detail_text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && *s ? s : NULL;
}

/* True and *d is filled; else the call has been failed. */
static bool detail_read(struct cw_api_call *call, struct engine *e, struct detail *d)
{
    json_t *body = cw_api_body(call), *all = json_object_get(body, "channel_detail"), *o, *v;
    const char *channel = cw_body_text(body, "channel"), *key;
    if (channel && strcmp(channel, CHANNEL) != 0) {
        cw_api_fail(call, CW_E_NOT_BUILT, "Channel %s is not built yet; there is " CHANNEL ".",
                    channel);
        return false;
    }
    json_object_foreach(all, key, v) if (strcmp(key, CHANNEL_MEMBER) != 0)
    {
        cw_api_fail(call, CW_E_INVALID,
                    "channel_detail.%s does not belong to channel " CHANNEL
                    ", which takes channel_detail." CHANNEL_MEMBER ".",
                    key);
        return false;
    }
    if (!(o = json_object_get(all, CHANNEL_MEMBER))) {
        cw_api_fail(call, CW_E_INVALID, "channel_detail." CHANNEL_MEMBER " is missing.");
        return false;
    }
    *d = (struct detail){ .url = detail_text(o, "url"),
                          .cert_id = detail_text(o, "cert_id"),
                          .cn_name = detail_text(o, "cn_name"),
                          .token = detail_text(o, "token"),
                          .sni = json_is_true(json_object_get(o, "sni_enable")),
                          .signature = json_is_true(json_object_get(o, "signature_enable")) };
    return detail_fits(call, e, d);
}

static char *seal_token(const struct engine *e, const char *action_id, const char *token)
{
    char context[80];
    snprintf(context, sizeof context, "action.%s.token", action_id);
    return token ? cw_seal(e->seal_key, context, token, strlen(token)) : NULL;
}

/* ---- operations */

struct change {
    struct engine *e;
    struct cw_api_call *call;
};

static struct change *change_new(struct engine *e, struct cw_api_call *call)
{
    struct change *c = cw_malloc(sizeof *c);
    *c = (struct change){ e, call };
    return c;
}

static void fail_no_action(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_NO_ACTION, "Action \"%s\".", cw_api_path(call, "action_id"));
}

/* True if the certificate that was named is there; else the call has been failed. */
static bool cert_known(struct cw_api_call *call, const PGresult *res)
{
    if (!cw_db_broke(res, "action_cert"))
        return true;
    json_t *o =
        json_object_get(json_object_get(cw_api_body(call), "channel_detail"), CHANNEL_MEMBER);
    cw_api_fail(call, CW_E_NO_CERT, "cert_id \"%s\".", detail_text(o, "cert_id"));
    return false;
}

static void on_create(PGresult *res, void *arg)
{
    struct change c = *(struct change *)arg;
    free(arg);
    if (!cert_known(c.call, res) || cw_api_db_failed(c.call, res, "create an action"))
        return;
    if (cw_db_i64(res, 0, "found", 0) == 0) {
        cw_api_fail(c.call, CW_E_NO_RULE, "rule_id \"%s\".",
                    cw_body_text(cw_api_body(c.call), "rule_id"));
    } else if (!cw_db_str(res, 0, "action_id")) {
        cw_api_fail(c.call, CW_E_RULE_QUOTA,
                    "The rule has as many actions as CAUSEWAY_ACTIONS_MAX allows.");
    } else {
        rules_changed(c.e, "action", cw_db_str(res, 0, "action_id"));
        cw_api_reply_json(c.call, 201, action_json(res, 0));
    }
}

void create_action(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    struct detail d;
    char id[CW_UUID_LEN], record[CW_RECORD_ID_LEN], max[24];
    if (!detail_read(call, e, &d))
        return;
    char *token = seal_token(e, cw_uuid(id), d.token);
    const struct cw_db_param p[] = { CW_TEXT(id),
                                     CW_TEXT(cw_record_id(record)),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "rule_id")),
                                     CW_TEXT(d.url),
                                     CW_TEXT(d.cert_id),
                                     CW_TEXT(d.cn_name),
                                     CW_TEXT(text_of(d.sni)),
                                     CW_TEXT(text_of(d.signature)),
                                     CW_TEXT(token),
                                     cw_db_int(e->actions_max, max) };
    struct change *c = change_new(e, call);
    if (!cw_db_exec(e->db, &stmt_create, CW_ARRAY_LEN(p), p, on_create, c)) {
        free(c);
        cw_api_no_db(call);
    }
    free(token);
}

static void on_update(PGresult *res, void *arg)
{
    struct change c = *(struct change *)arg;
    free(arg);
    if (!cert_known(c.call, res) || cw_api_db_failed(c.call, res, "update an action"))
        return;
    if (PQntuples(res) == 0) {
        fail_no_action(c.call);
        return;
    }
    rules_changed(c.e, "action", cw_db_str(res, 0, "action_id"));
    cw_api_reply_json(c.call, 200, action_json(res, 0));
}

void update_action(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    struct detail d;
    const char *id = cw_api_path(call, "action_id");
    if (!detail_read(call, e, &d))
        return;
    char *token = seal_token(e, id, d.token);
    const struct cw_db_param p[] = {
        CW_TEXT(id),        CW_TEXT(d.url),          CW_TEXT(d.cert_id),
        CW_TEXT(d.cn_name), CW_TEXT(text_of(d.sni)), CW_TEXT(text_of(d.signature)),
        CW_TEXT(token)
    };
    struct change *c = change_new(e, call);
    if (!cw_db_exec(e->db, &stmt_update, CW_ARRAY_LEN(p), p, on_update, c)) {
        free(c);
        cw_api_no_db(call);
    }
    free(token);
}

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list actions"))
        answer_page(arg, res, "actions", action_json);
}

void list_actions(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    static const char *const filters[] = { "rule_id", "channel", "app_type", "app_id" };
    struct cw_db_param p[CW_ARRAY_LEN(filters) + 5];
    struct page_text t = { 0 };
    for (size_t i = 0; i < CW_ARRAY_LEN(filters); i++)
        p[i] = CW_TEXT(cw_api_query(call, filters[i]));
    page_params(call, p + CW_ARRAY_LEN(filters), &t);
    space_params(call, p + CW_ARRAY_LEN(filters) + 3, &t);
    if (!cw_db_exec(e->db, &stmt_list, CW_ARRAY_LEN(p), p, on_list, call))
        cw_api_no_db(call);
    page_text_free(&t);
}

static void on_show(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "show an action"))
        return;
    if (PQntuples(res) == 0)
        fail_no_action(call);
    else
        cw_api_reply_json(call, 200, action_json(res, 0));
}

void show_action(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "action_id")) };
    if (!cw_db_exec(e->db, &stmt_show, 1, p, on_show, call))
        cw_api_no_db(call);
}

static void on_delete(PGresult *res, void *arg)
{
    struct change c = *(struct change *)arg;
    free(arg);
    if (cw_api_db_failed(c.call, res, "delete an action"))
        return;
    if (PQntuples(res) == 0) {
        fail_no_action(c.call);
        return;
    }
    rules_changed(c.e, "action", cw_db_str(res, 0, "action_id"));
    cw_api_reply(c.call, 204, NULL, 0);
}

void delete_action(struct cw_api_call *call, void *self)
{
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "action_id")) };
    struct change *c = change_new(self, call);
    if (!cw_db_exec(c->e->db, &stmt_delete, 1, p, on_delete, c)) {
        free(c);
        cw_api_no_db(call);
    }
}
