/* Tags of devices. */
#include <string.h>

#include "services/device-registry/groups.h"

static const struct cw_stmt stmt_bind = {
    "tags_bind",
    "WITH d AS (SELECT device_key, record_id FROM registry.device WHERE device_id = $1),"
    " given AS (SELECT * FROM unnest($2::text[], $3::text[]) u(tag_key, tag_value)),"
    " n AS (SELECT count(*) FROM (SELECT tag_key FROM given UNION SELECT t.tag_key"
    "  FROM registry.device_tag t JOIN d USING (device_key)) x),"
    " bound AS (INSERT INTO registry.device_tag (device_key, record_id, tag_key, tag_value)"
    "  SELECT d.device_key, d.record_id, g.tag_key, COALESCE(g.tag_value, '') FROM d, given g, n"
    "  WHERE $4::bigint = 0 OR n.count <= $4 ORDER BY g.tag_key"
    "  ON CONFLICT (device_key, tag_key) DO UPDATE SET tag_value = excluded.tag_value RETURNING 1)"
    " SELECT (SELECT count(*) FROM d) AS devices, (SELECT count(*) FROM bound) AS bound"
};
static const struct cw_stmt stmt_unbind = {
    "tags_unbind",
    "WITH d AS (SELECT device_key FROM registry.device WHERE device_id = $1),"
    " given AS (SELECT * FROM unnest($2::text[]) u(tag_key)),"
    " missing AS (SELECT g.tag_key FROM d, given g WHERE NOT EXISTS (SELECT FROM"
    "  registry.device_tag t WHERE t.device_key = d.device_key AND t.tag_key = g.tag_key)),"
    " gone AS (DELETE FROM registry.device_tag t USING d, given g WHERE t.device_key = d.device_key"
    "  AND t.tag_key = g.tag_key AND NOT EXISTS (SELECT FROM missing))"
    " SELECT (SELECT count(*) FROM d) AS devices,"
    "  (SELECT string_agg(tag_key, ', ' ORDER BY tag_key) FROM missing) AS missing"
};

/* Rows of each tag, with its value or with any, as far as the page and the count go. */
#define TAGGED(which, more, limit)                                                                 \
    "SELECT x.* FROM g CROSS JOIN LATERAL (SELECT t.record_id, d.device_id"                        \
    " FROM registry.device_tag t JOIN registry.device d USING (device_key)"                        \
    " WHERE t.tag_key = g.tag_key AND " which                                                      \
    " AND ($6::text[] IS NULL OR d.app_id = ANY($6)) AND d.app_id <> ALL($7::text[])" more         \
    " ORDER BY t.record_id DESC LIMIT " limit ") x WHERE g.tag_value IS"
#define TAGGED_BY_ALL(more, limit)                                                                 \
    TAGGED("t.tag_value = g.tag_value", more, limit)                                               \
    " NOT NULL UNION " TAGGED("true", more, limit) " NULL"
static const struct cw_stmt stmt_list = {
    "tags_list",
    "WITH g AS (SELECT * FROM unnest($1::text[], $2::text[]) u(tag_key, tag_value)),"
    " m AS (" TAGGED_BY_ALL(
        " AND t.record_id < lower($3)",
        "$4::bigint + $5::bigint") "),"
                                   " page AS (SELECT * FROM m ORDER BY record_id DESC OFFSET "
                                   "$4::bigint LIMIT $5::bigint),"
                                   " c AS (SELECT count(*) FROM (" TAGGED_BY_ALL(
                                       "", "10001") ") n)"
                                                    " SELECT c.count, page.* FROM c LEFT JOIN page "
                                                    "ON true ORDER BY page.record_id DESC"
};

/* Keys, and values if they are asked for, of the body. False: a key comes twice where it may not,
 * and the call has been failed. */
static bool tags_of(struct cw_api_call *call, const char *member, bool once,
                    struct cw_db_array *keys, struct cw_db_array *values)
{
    const json_t *list = json_object_get(cw_api_body(call), member), *tag;
    size_t i;
    json_t *seen = json_object();
    const char *twice = NULL;
    cw_db_array_reset(keys, CW_ARRAY_TEXT);
    if (values)
        cw_db_array_reset(values, CW_ARRAY_TEXT);
    json_array_foreach(list, i, tag)
    {
        const char *key =
            json_is_object(tag) ? cw_body_text(tag, "tag_key") : json_string_value(tag);
        if (once && json_object_get(seen, key))
            twice = key;
        json_object_set_new(seen, key, json_true());
        cw_db_array_str(keys, key);
        if (values)
            cw_db_array_str(values, cw_body_text(tag, "tag_value"));
    }
    if (twice)
        cw_api_fail(call, CW_E_TAG_TWICE, "%s: \"%s\".", member, twice);
    json_decref(seen);
    return !twice;
}

static bool device_is_there(struct cw_api_call *call, const PGresult *res)
{
    if (cw_db_i64(res, 0, "devices", 0))
        return true;
    cw_api_fail(call, CW_E_NO_DEVICE, "resource_id: \"%s\".",
                cw_body_text(cw_api_body(call), "resource_id"));
    return false;
}

static void on_bound(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "bind tags") || !device_is_there(call, res))
        return;
    if (cw_db_i64(res, 0, "bound", 0) == 0)
        cw_api_fail(call, CW_E_TAG_QUOTA, "Device \"%s\" would have more.",
                    cw_body_text(cw_api_body(call), "resource_id"));
    else
        cw_api_reply(call, 200, NULL, 0);
}

void bind_tags(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    struct cw_db_array keys = { 0 }, values = { 0 };
    char max[24];
    if (tags_of(call, "tags", true, &keys, &values)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_body_text(cw_api_body(call), "resource_id")),
                                         cw_db_array_param(&keys), cw_db_array_param(&values),
                                         cw_db_int(r->tags_max, max) };
        if (!cw_db_exec(registry_db(r), &stmt_bind, CW_ARRAY_LEN(p), p, on_bound, call))
            cw_api_no_db(call);
    }
    cw_db_array_free(&keys);
    cw_db_array_free(&values);
}

static void on_unbound(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "unbind tags") || !device_is_there(call, res))
        return;
    if (cw_db_str(res, 0, "missing"))
        cw_api_fail(call, CW_E_NO_TAG, "tag_keys: %s.", cw_db_str(res, 0, "missing"));
    else
        cw_api_reply(call, 200, NULL, 0);
}

void unbind_tags(struct cw_api_call *call, void *self)
{
    struct cw_db_array keys = { 0 };
    if (tags_of(call, "tag_keys", true, &keys, NULL)) {
        const struct cw_db_param p[] = { CW_TEXT(cw_body_text(cw_api_body(call), "resource_id")),
                                         cw_db_array_param(&keys) };
        if (!cw_db_exec(registry_db(self), &stmt_unbind, CW_ARRAY_LEN(p), p, on_unbound, call))
            cw_api_no_db(call);
    }
    cw_db_array_free(&keys);
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list resources by tags"))
        return;
    int n = cw_db_str(res, 0, "device_id") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "resources", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list,
                              json_pack("{s:s}", "resource_id", cw_db_str(res, i, "device_id")));
    put_counted_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

void list_tagged(struct cw_api_call *call, void *self)
{
    struct cw_db_array keys = { 0 }, values = { 0 };
    if (tags_of(call, "tags", false, &keys, &values)) {
        const struct cw_db_param filters[] = { cw_db_array_param(&keys),
                                               cw_db_array_param(&values) };
        list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
    }
    cw_db_array_free(&keys);
    cw_db_array_free(&values);
}
