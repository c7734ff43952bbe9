/* Device groups: a tree of static ones, and dynamic ones whose members a rule chooses. */
#include "services/device-registry/groups.h"

#include <stdlib.h>
#include <string.h>

#include "services/device-registry/search.h"

#define COLUMNS                                                                                    \
    "g.group_id, g.group_id AS record_id, g.app_id, g.name, g.description, g.super_group_id,"      \
    " CASE WHEN g.rule IS NULL THEN 'STATIC' ELSE 'DYNAMIC' END AS group_type,"                    \
    " g.rule AS dynamic_group_rule, g.members, g.filled_to IS NOT NULL AS filling"

#define NAMED 3 /* of those that keep a group from being deleted */

static const struct cw_stmt stmt_create = {
    "groups_create",
    "WITH a AS (SELECT app_id FROM registry.app"
    "  WHERE CASE WHEN $2::text IS NULL THEN default_app ELSE app_id = $2 END),"
    " s AS (SELECT s.group_id, s.depth, s.rule FROM registry.device_group s JOIN a USING (app_id)"
    "  WHERE s.group_id = lower($5)),"
    " n AS (SELECT count(*) FROM registry.device_group),"
    " g AS (INSERT INTO registry.device_group (group_id, app_id, name, description, super_group_id,"
    "   depth, rule, filled_to)"
    "  SELECT $1, a.app_id, COALESCE($3, $1), $4, s.group_id, COALESCE(s.depth, 0) + 1, $6,"
    "   CASE WHEN $6::text IS NULL THEN NULL ELSE 'g' END FROM a CROSS JOIN n LEFT JOIN s ON true"
    "  WHERE ($7::bigint = 0 OR n.count < $7) AND ($5::text IS NULL OR (s.depth < $8::bigint"
    "   AND s.rule IS NULL)) RETURNING *)"
    " SELECT (SELECT count(*) FROM a) AS spaces, (SELECT depth FROM s) AS parent_depth,"
    " (SELECT rule FROM s) AS parent_rule, " COLUMNS " FROM (SELECT) one LEFT JOIN g ON true"
};
static const struct cw_stmt stmt_list = {
    "groups_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.device_group g"
    "  WHERE ($1::text IS NULL OR g.app_id = $1) AND ($2::text IS NULL OR g.name = $2)"
    "  AND ($3::text IS NULL OR (g.rule IS NULL) = ($3 = 'STATIC'))"
    "  AND ($4::bigint IS NULL OR g.updated >= " SQL_TIME(
        "$4") ")"
              "  AND ($8::text[] IS NULL OR g.app_id = ANY($8)) AND g.app_id <> ALL($9::text[])),"
              " page AS (SELECT * FROM m WHERE record_id < lower($5) ORDER BY record_id DESC"
              "  OFFSET $6::bigint LIMIT $7::bigint)"
              " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page "
              "ON true"
              " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "groups_show",
                                          "SELECT " COLUMNS " FROM registry.device_group g"
                                          " WHERE g.group_id = lower($1)" };
static const struct cw_stmt stmt_update = {
    "groups_update",
    "UPDATE registry.device_group g SET name = COALESCE($2, name),"
    " description = COALESCE($3, description), updated = now() WHERE g.group_id = lower($1)"
    " RETURNING " COLUMNS
};
static const struct cw_stmt stmt_delete = {
    "groups_delete",
    "WITH g AS (SELECT g.group_id, g.members, (SELECT count(*) FROM registry.device_group c"
    "   WHERE c.super_group_id = g.group_id) AS below FROM registry.device_group g"
    "  WHERE g.group_id = lower($1)),"
    " gone AS (DELETE FROM registry.device_group x USING g WHERE x.group_id = g.group_id"
    "  AND g.below = 0 AND (x.rule IS NOT NULL OR x.members = 0) RETURNING 1)"
    " SELECT g.members, g.below, (SELECT count(*) FROM gone) AS gone,"
    " (SELECT string_agg(c.name, ', ' ORDER BY c.group_id) FROM (SELECT group_id, name"
    "   FROM registry.device_group WHERE super_group_id = g.group_id"
    "   ORDER BY group_id LIMIT $2::bigint) c) AS below_names,"
    " (SELECT string_agg(d.device_id, ', ' ORDER BY m.record_id) FROM (SELECT device_key, record_id"
    "   FROM registry.group_member WHERE group_id = g.group_id ORDER BY record_id"
    "   LIMIT $2::bigint) m JOIN registry.device d USING (device_key)) AS members_names FROM g"
};
static const struct cw_stmt stmt_of_device = {
    "groups_of_device",
    "SELECT k.device_key, " COLUMNS " FROM (SELECT device_key FROM registry.device"
    " WHERE device_id = $1) k LEFT JOIN (registry.group_member m JOIN registry.device_group g"
    " USING (group_id)) ON m.device_key = k.device_key ORDER BY g.group_id DESC LIMIT 1000"
};

bool group_is_there(struct cw_api_call *call, bool is)
{
    if (!is)
        cw_api_fail(call, CW_E_NO_GROUP, "Group \"%s\".", cw_api_path(call, "group_id"));
    return is;
}

static json_t *summary_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "group_id",    "app_id",         "name",
                                         "description", "super_group_id", "group_type" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    json_object_set_new(o, "device_count", json_integer(cw_db_i64(res, row, "members", 0)));
    return o;
}

/* filling: devices are still being looked for. */
static json_t *group_json(const PGresult *res, int row)
{
    json_t *o = summary_json(res, row);
    cw_row_text(o, "dynamic_group_rule", res, row, "dynamic_group_rule");
    if (cw_db_str(res, row, "dynamic_group_rule"))
        cw_row_bool(o, "filling", res, row, "filling");
    return o;
}

static bool name_is_taken(struct cw_api_call *call, const PGresult *res)
{
    if (!cw_db_broke(res, "group_name_taken"))
        return false;
    cw_api_fail(call, CW_E_GROUP_TAKEN, "name: \"%s\".", cw_body_text(cw_api_body(call), "name"));
    return true;
}

/* ---- create */

struct making {
    struct registry *r;
    struct cw_api_call *call;
};

static void explain(struct cw_api_call *call, const PGresult *res)
{
    const json_t *body = cw_api_body(call);
    const char *parent = cw_body_text(body, "super_group_id");
    if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(body, "app_id"));
    else if (parent && !cw_db_str(res, 0, "parent_depth"))
        cw_api_fail(call, CW_E_GROUP_PARENT, "super_group_id: the space has no group \"%s\".",
                    parent);
    else if (parent && cw_db_str(res, 0, "parent_rule"))
        cw_api_fail(call, CW_E_GROUP_PARENT, "super_group_id: \"%s\" is dynamic.", parent);
    else if (parent && cw_db_i64(res, 0, "parent_depth", 0) >= GROUP_DEPTH_MAX)
        cw_api_fail(call, CW_E_GROUP_PARENT,
                    "super_group_id: \"%s\" lies on level %d, the last one.", parent,
                    GROUP_DEPTH_MAX);
    else
        cw_api_fail(call, CW_E_GROUP_QUOTA,
                    "There are as many groups as CAUSEWAY_DEVICE_GROUPS_MAX allows.");
}

static void on_created(PGresult *res, void *arg)
{
    struct making m = *(struct making *)arg;
    free(arg);
    if (name_is_taken(m.call, res) || cw_api_db_failed(m.call, res, "make a group"))
        return;
    if (!cw_db_str(res, 0, "group_id")) {
        explain(m.call, res);
        return;
    }
    if (cw_db_str(res, 0, "dynamic_group_rule"))
        group_keeper_wake(m.r->groups);
    cw_api_reply_json(m.call, 201, group_json(res, 0));
}

/* What does not depend on the database. */
static bool body_fits(struct cw_api_call *call, const char *rule)
{
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    const json_t *body = cw_api_body(call);
    const char *type = cw_body_text(body, "group_type");
    bool dynamic = type && strcmp(type, "DYNAMIC") == 0;
    if (dynamic && !rule)
        cw_api_fail(call, CW_E_GROUP_RULE, "dynamic_group_rule: a dynamic group needs one.");
    else if (!dynamic && rule)
        cw_api_fail(call, CW_E_GROUP_RULE,
                    "dynamic_group_rule: a static group has none; group_type is not DYNAMIC.");
    else if (dynamic && cw_body_text(body, "super_group_id"))
        cw_api_fail(call, CW_E_GROUP_PARENT, "super_group_id: a dynamic group has no parent.");
    else if (dynamic && !search_read_rule(&s, rule, fault))
        cw_api_fail(call, CW_E_GROUP_RULE, "dynamic_group_rule: %s.", fault);
    else
        return true;
    return false;
}

void add_group(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    const char *rule = cw_body_text(body, "dynamic_group_rule");
    char id[CW_RECORD_ID_LEN], max[24], depth[24];
    if (!body_fits(call, rule))
        return;
    const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                     CW_TEXT(cw_body_text(body, "app_id")),
                                     CW_TEXT(cw_body_text(body, "name")),
                                     CW_TEXT(cw_body_text(body, "description")),
                                     CW_TEXT(cw_body_text(body, "super_group_id")),
                                     CW_TEXT(rule),
                                     cw_db_int(r->groups_max, max),
                                     cw_db_int(GROUP_DEPTH_MAX, depth) };
    struct making *m = cw_malloc(sizeof *m);
    *m = (struct making){ r, call };
    if (cw_db_exec(registry_db(r), &stmt_create, CW_ARRAY_LEN(p), p, on_created, m))
        return;
    free(m);
    cw_api_no_db(call);
}

/* ---- list, show, update, delete */

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list groups"))
        reply_page(arg, res, "device_groups", "group_id", summary_json);
}

void list_groups(struct cw_api_call *call, void *self)
{
    char since[24];
    int64_t ms = 0;
    const char *time = cw_api_query(call, "last_modified_time");
    if (time && cw_time_parse_basic(&ms, time) < 0) {
        cw_api_fail(call, CW_E_TIME_FORMAT, "last_modified_time: \"%s\".", time);
        return;
    }
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                           CW_TEXT(cw_api_query(call, "name")),
                                           CW_TEXT(cw_api_query(call, "group_type")),
                                           time ? cw_db_int(ms, since) : CW_NULL };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

static void on_shown(PGresult *res, void *arg)
{
    if (!name_is_taken(arg, res) && !cw_api_db_failed(arg, res, "show a group") &&
        group_is_there(arg, PQntuples(res) > 0))
        cw_api_reply_json(arg, 200, group_json(res, 0));
}

void show_group(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "group_id")),
                    on_shown, call))
        cw_api_no_db(call);
}

void update_group(struct cw_api_call *call, void *self)
{
    const json_t *body = cw_api_body(call);
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "group_id")),
                                     CW_TEXT(cw_body_text(body, "name")),
                                     CW_TEXT(cw_body_text(body, "description")) };
    if (!cw_db_exec(registry_db(self), &stmt_update, CW_ARRAY_LEN(p), p, on_shown, call))
        cw_api_no_db(call);
}

/* How many, and the first of them by name. */
static void put_named(struct cw_buf *b, const char *what, int64_t n, const char *names)
{
    if (n)
        cw_buf_printf(b, " %s: %lld (%s%s).", what, (long long)n, names ? names : "",
                      n > NAMED ? ", ..." : "");
}

static void refuse_deletion(struct cw_api_call *call, const PGresult *res)
{
    struct cw_buf b = { 0 };
    put_named(&b, "Groups below it", cw_db_i64(res, 0, "below", 0),
              cw_db_str(res, 0, "below_names"));
    put_named(&b, "Devices in it", cw_db_i64(res, 0, "members", 0),
              cw_db_str(res, 0, "members_names"));
    cw_api_fail(call, CW_E_GROUP_NOT_EMPTY, "Group \"%s\".%.*s", cw_api_path(call, "group_id"),
                (int)b.len, b.data ? b.data : "");
    cw_buf_free(&b);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "delete a group") || !group_is_there(call, PQntuples(res) > 0))
        return;
    if (cw_db_i64(res, 0, "gone", 0))
        cw_api_reply(call, 204, NULL, 0);
    else
        refuse_deletion(call, res);
}

void delete_group(struct cw_api_call *call, void *self)
{
    char named[24];
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "group_id")),
                                     cw_db_int(NAMED, named) };
    if (!cw_db_exec(registry_db(self), &stmt_delete, CW_ARRAY_LEN(p), p, on_deleted, call))
        cw_api_no_db(call);
}

/* ---- of a device */

static void on_of_device(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list the groups of a device"))
        return;
    if (PQntuples(res) == 0) {
        cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(call, "device_id"));
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res) && cw_db_str(res, i, "group_id"); i++)
        json_array_append_new(list, summary_json(res, i));
    cw_api_reply_json(call, 200, json_pack("{s:o}", "device_groups", list));
}

void list_groups_of_device(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_of_device, 1, &CW_TEXT(cw_api_path(call, "device_id")),
                    on_of_device, call))
        cw_api_no_db(call);
}
