/* Rules: what happens that an application wants to know. */
#include <stdlib.h>
#include <string.h>

#include "services/rule-engine/engine.h"

#define RULE_COLUMNS                                                                               \
    "rule_id, record_id, rule_name, description, resource, event, app_type, app_id, active"

static const struct cw_stmt stmt_create = {
    "rules_create",
    "WITH a AS (SELECT app_id FROM registry.app_view"
    " WHERE CASE WHEN $8::text IS NULL THEN default_app ELSE app_id = $8 END),"
    " n AS (SELECT count(*) < $9::bigint AS room FROM rule.rule),"
    " i AS (INSERT INTO rule.rule (rule_id, record_id, rule_name, description, resource, event,"
    " app_type, app_id) SELECT $1, $2, $3, $4, $5, $6, $7,"
    " CASE WHEN $7 = 'APP' THEN (SELECT app_id FROM a) END FROM n"
    " WHERE room AND ($7 = 'GLOBAL' OR EXISTS (SELECT FROM a)) RETURNING " RULE_COLUMNS ")"
    " SELECT room, i.* FROM n LEFT JOIN i ON true"
};
static const struct cw_stmt stmt_list = {
    "rules_list",
    "WITH m AS (SELECT " RULE_COLUMNS " FROM rule.rule WHERE ($1::text IS NULL OR resource = $1)"
    " AND ($2::text IS NULL OR event = $2) AND ($3::text IS NULL OR app_type = $3)"
    " AND ($4::text IS NULL OR app_id = $4)"
    " AND ($5::text IS NULL OR strpos(rule_name, $5) > 0)"
    " AND ($6::boolean IS NULL OR active = $6) AND " MAY_SEE("app_id", "$10", "$11") ")" PAGE(
        "record_id", "$7", "$8", "$9")
};
static const struct cw_stmt stmt_show = { "rules_show", "SELECT " RULE_COLUMNS
                                                        " FROM rule.rule WHERE rule_id = $1" };
static const struct cw_stmt stmt_update = {
    "rules_update",
    "WITH f AS (SELECT count(*) AS found FROM rule.rule WHERE rule_id = $1),"
    " u AS (UPDATE rule.rule SET rule_name = coalesce($2, rule_name),"
    " description = coalesce($3, description), active = coalesce($4::boolean, active),"
    " updated = now() WHERE rule_id = $1 AND ($4::boolean IS NOT TRUE"
    " OR EXISTS (SELECT FROM rule.action WHERE rule_id = $1)) RETURNING " RULE_COLUMNS ")"
    " SELECT found, u.* FROM f LEFT JOIN u ON true"
};
static const struct cw_stmt stmt_delete = {
    "rules_delete", "DELETE FROM rule.rule WHERE rule_id = $1 RETURNING rule_id"
};

static json_t *rule_json(const PGresult *res, int row)
{
    json_t *o = json_object();
    cw_row_text(o, "rule_id", res, row, "rule_id");
    cw_row_text(o, "rule_name", res, row, "rule_name");
    cw_row_text(o, "description", res, row, "description");
    json_object_set_new(o, "subject",
                        json_pack("{s:s, s:s}", "resource", cw_db_str(res, row, "resource"),
                                  "event", cw_db_str(res, row, "event")));
    cw_row_text(o, "app_type", res, row, "app_type");
    cw_row_text(o, "app_id", res, row, "app_id");
    json_object_set_new(o, "select", json_string(""));
    json_object_set_new(o, "where", json_string(""));
    cw_row_bool(o, "active", res, row, "active");
    return o;
}

static void fail_no_rule(struct cw_api_call *call, const char *id)
{
    cw_api_fail(call, CW_E_NO_RULE, "Rule \"%s\".", id);
}

/* True if there is no filter to compute; else the call has been failed. */
static bool clauses_empty(struct cw_api_call *call)
{
    static const char *const names[] = { "select", "where" };
    for (size_t i = 0; i < CW_ARRAY_LEN(names); i++) {
        const char *text = cw_body_text(cw_api_body(call), names[i]);
        if (text && text[strspn(text, " \t\r\n")]) {
            cw_api_fail(call, CW_E_RULE_SQL, "\"%s\" is not supported yet.", names[i]);
            return false;
        }
    }
    return true;
}

/* True if rules of this kind can be made; else the call has been failed. */
static bool subject_served(struct cw_api_call *call, const char *resource, const char *event)
{
    switch (subject_state(resource, event)) {
    case SUBJECT_SERVED:
        return true;
    case SUBJECT_KNOWN:
        cw_api_fail(call, CW_E_NOT_BUILT, "subject %s:%s is not built yet; there are %s.", resource,
                    event, subjects_served());
        return false;
    case SUBJECT_UNKNOWN:
        break;
    }
    cw_api_fail(call, CW_E_INVALID,
                "subject: there is no event \"%s\" of resource \"%s\"; served are %s.", event,
                resource, subjects_served());
    return false;
}

static void on_create(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "create a rule"))
        return;
    const char *room = cw_db_str(res, 0, "room");
    if (!room || room[0] != 't')
        cw_api_fail(call, CW_E_RULE_QUOTA, "There are as many rules as CAUSEWAY_RULES_MAX allows.");
    else if (!cw_db_str(res, 0, "rule_id"))
        cw_api_fail(call, CW_E_NO_APP, "app_id \"%s\".", cw_body_text(cw_api_body(call), "app_id"));
    else
        cw_api_reply_json(call, 201, rule_json(res, 0));
}

void create_rule(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    json_t *body = cw_api_body(call), *subject = json_object_get(body, "subject");
    const char *resource = cw_body_text(subject, "resource"),
               *event = cw_body_text(subject, "event");
    const char *type = cw_body_text(body, "app_type");
    char id[CW_UUID_LEN], record[CW_RECORD_ID_LEN], max[24];
    if (!resource || !event) {
        cw_api_fail(call, CW_E_INVALID, "subject.resource and subject.event are needed.");
        return;
    }
    if (!subject_served(call, resource, event) || !clauses_empty(call))
        return;
    const struct cw_db_param p[] = { CW_TEXT(cw_uuid(id)),
                                     CW_TEXT(cw_record_id(record)),
                                     CW_TEXT(cw_body_text(body, "rule_name")),
                                     CW_TEXT(cw_body_text(body, "description")),
                                     CW_TEXT(resource),
                                     CW_TEXT(event),
                                     CW_TEXT(type ? type : "GLOBAL"),
                                     CW_TEXT(cw_body_text(body, "app_id")),
                                     cw_db_int(e->rules_max, max) };
    if (!cw_db_exec(e->db, &stmt_create, CW_ARRAY_LEN(p), p, on_create, call))
        cw_api_no_db(call);
}

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list rules"))
        answer_page(arg, res, "rules", rule_json);
}

void list_rules(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    static const char *const filters[] = { "resource", "event",     "app_type",
                                           "app_id",   "rule_name", "active" };
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
    if (cw_api_db_failed(call, res, "show a rule"))
        return;
    if (PQntuples(res) == 0)
        fail_no_rule(call, cw_api_path(call, "rule_id"));
    else
        cw_api_reply_json(call, 200, rule_json(res, 0));
}

void show_rule(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "rule_id")) };
    if (!cw_db_exec(e->db, &stmt_show, 1, p, on_show, call))
        cw_api_no_db(call);
}

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

static void on_update(PGresult *res, void *arg)
{
    struct change c = *(struct change *)arg;
    const char *id = cw_api_path(c.call, "rule_id");
    free(arg);
    if (cw_api_db_failed(c.call, res, "update a rule"))
        return;
    if (cw_db_i64(res, 0, "found", 0) == 0) {
        fail_no_rule(c.call, id);
    } else if (!cw_db_str(res, 0, "rule_id")) {
        cw_api_fail(c.call, CW_E_RULE_EMPTY, "Rule \"%s\" has no action and stays inactive.", id);
    } else {
        rules_changed(c.e, "rule", id);
        cw_api_reply_json(c.call, 200, rule_json(res, 0));
    }
}

void update_rule(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    json_t *body = cw_api_body(call), *active = json_object_get(body, "active");
    if (!cw_body_text(body, "select") != !cw_body_text(body, "where")) {
        cw_api_fail(call, CW_E_INVALID, "select and where are changed together; send both.");
        return;
    }
    if (!clauses_empty(call))
        return;
    const struct cw_db_param p[] = {
        CW_TEXT(cw_api_path(call, "rule_id")), CW_TEXT(cw_body_text(body, "rule_name")),
        CW_TEXT(cw_body_text(body, "description")),
        CW_TEXT(json_is_boolean(active) ? text_of(json_is_true(active)) : NULL)
    };
    struct change *c = change_new(e, call);
    if (!cw_db_exec(e->db, &stmt_update, CW_ARRAY_LEN(p), p, on_update, c)) {
        free(c);
        cw_api_no_db(call);
    }
}

static void on_delete(PGresult *res, void *arg)
{
    struct change c = *(struct change *)arg;
    const char *id = cw_api_path(c.call, "rule_id");
    free(arg);
    if (cw_api_db_failed(c.call, res, "delete a rule"))
        return;
    if (PQntuples(res) == 0) {
        fail_no_rule(c.call, id);
        return;
    }
    rules_changed(c.e, "rule", id);
    cw_api_reply(c.call, 204, NULL, 0);
}

void delete_rule(struct cw_api_call *call, void *self)
{
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "rule_id")) };
    struct change *c = change_new(self, call);
    if (!cw_db_exec(c->e->db, &stmt_delete, 1, p, on_delete, c)) {
        free(c);
        cw_api_no_db(call);
    }
}
