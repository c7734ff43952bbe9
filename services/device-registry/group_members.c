/* Who is in a group: changes of static ones, the list of both. */
#include <string.h>

#include "services/device-registry/groups.h"

#define GIVEN                                                                                      \
    "WITH g AS (SELECT group_id, app_id, rule, members FROM registry.device_group"                 \
    "  WHERE group_id = lower($1)),"                                                               \
    " d AS (SELECT d.device_key, d.record_id FROM registry.device d JOIN g USING (app_id)"         \
    "  WHERE d.device_id = $2),"
#define SAYS " SELECT g.rule IS NOT NULL AS dynamic, g.members, (SELECT count(*) FROM d) AS devices"

static const struct cw_stmt stmt_add = {
    "groups_add_member", GIVEN
    " there AS (SELECT count(*) AS n, count(*) FILTER (WHERE m.group_id = (SELECT group_id FROM g))"
    "  AS here FROM registry.group_member m JOIN registry.device_group o USING (group_id)"
    "  JOIN d USING (device_key) WHERE o.rule IS NULL),"
    " made AS (INSERT INTO registry.group_member (group_id, device_key, record_id)"
    "  SELECT g.group_id, d.device_key, d.record_id FROM g, d, there WHERE g.rule IS NULL"
    "  AND ($3::bigint = 0 OR g.members < $3) AND ($4::bigint = 0 OR there.n < $4)"
    "  ON CONFLICT DO NOTHING RETURNING 1)" SAYS ", there.n AS groups,"
    " there.here + (SELECT count(*) FROM made) AS done FROM g, there"
};
static const struct cw_stmt stmt_remove = {
    "groups_remove_member",
    GIVEN " gone AS (DELETE FROM registry.group_member m USING g, d WHERE m.group_id = g.group_id"
          "  AND m.device_key = d.device_key AND g.rule IS NULL RETURNING 1)" SAYS
          ", NULL AS groups, (SELECT count(*) FROM gone) AS done FROM g"
};
static const struct cw_stmt stmt_list = {
    "groups_members",
    "WITH g AS (SELECT group_id, members FROM registry.device_group WHERE group_id = lower($1)),"
    " page AS (SELECT m.record_id, d.device_id, d.node_id, d.device_name, p.product_id"
    "  FROM (SELECT m.device_key, m.record_id FROM registry.group_member m JOIN g USING (group_id)"
    "   WHERE m.record_id < lower($2) ORDER BY m.record_id DESC OFFSET $3::bigint LIMIT $4::bigint)"
    "  m JOIN registry.device d USING (device_key) JOIN registry.product p USING (product_key))"
    " SELECT g.members AS count, page.* FROM g LEFT JOIN page ON true ORDER BY page.record_id DESC"
};

static void refuse(struct cw_api_call *call, const PGresult *res, bool adds)
{
    const char *device = cw_api_query(call, "device_id");
    if (*cw_db_str(res, 0, "dynamic") == 't')
        cw_api_fail(call, CW_E_GROUP_IS_DYNAMIC, "Group \"%s\".", cw_api_path(call, "group_id"));
    else if (cw_db_i64(res, 0, "devices", 0) == 0)
        cw_api_fail(call, CW_E_NO_DEVICE, "device_id: \"%s\" is not in the space of the group.",
                    device);
    else if (adds)
        cw_api_fail(
            call, CW_E_GROUP_FULL, "The group has %lld devices, the device is in %lld groups.",
            (long long)cw_db_i64(res, 0, "members", 0), (long long)cw_db_i64(res, 0, "groups", 0));
    else
        cw_api_fail(call, CW_E_NOT_IN_GROUP, "device_id: \"%s\".", device);
}

static bool adds(const struct cw_api_call *call)
{
    return strcmp(cw_api_query(call, "action_id"), "addDevice") == 0;
}

static void on_changed(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "change a group") || !group_is_there(call, PQntuples(res) > 0))
        return;
    if (cw_db_i64(res, 0, "done", 0))
        cw_api_reply(call, 200, NULL, 0);
    else
        refuse(call, res, adds(call));
}

void change_member(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char full[24], many[24];
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "group_id")),
                                     CW_TEXT(cw_api_query(call, "device_id")),
                                     cw_db_int(r->group_devices_max, full),
                                     cw_db_int(r->device_groups_max, many) };
    if (!cw_db_exec(registry_db(r), adds(call) ? &stmt_add : &stmt_remove, adds(call) ? 4 : 2, p,
                    on_changed, call))
        cw_api_no_db(call);
}

static json_t *member_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "device_id", "node_id", "device_name", "product_id" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list the devices of a group") &&
        group_is_there(arg, PQntuples(res) > 0))
        reply_page(arg, res, "devices", "device_id", member_json);
}

void list_members(struct cw_api_call *call, void *self)
{
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker");
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "group_id")),
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit) };
    if (!cw_db_exec(registry_db(self), &stmt_list, CW_ARRAY_LEN(p), p, on_list, call))
        cw_api_no_db(call);
}
