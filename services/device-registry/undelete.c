/* Devices that were deleted: the list of those that can be brought back, and bringing one back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/policies.h"
#include "services/device-registry/undelete.h"

static const struct cw_stmt stmt_list = {
    "undelete_list",
    "WITH m AS (SELECT x.record_id, x.device_key FROM registry.deleted_device x"
    "  WHERE ($1::text IS NULL OR x.app_id = $1) AND ($2::text IS NULL OR x.device_id = $2)"
    "  AND x.deleted > now() - $3::bigint * interval '1 day'"
    "  AND ($7::text[] IS NULL OR x.app_id = ANY($7)) AND x.app_id <> ALL($8::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($4) ORDER BY record_id DESC"
    "  OFFSET $5::bigint LIMIT $6::bigint),"
    " c AS (SELECT count(*) FROM (SELECT FROM m LIMIT 10001) n)"
    " SELECT c.count, page.record_id, x.device_id, x.app_id, x.device ->> 'node_id' AS node_id,"
    "  x.device ->> 'device_name' AS device_name, p.product_id, t.reason, t.deleted_by,"
    "  " SQL_BASIC_TIME("x.deleted") " AS deleted_time, " SQL_BASIC_TIME(
        "(x.deleted + $3::bigint * interval '1 day')") " AS restorable_until"
                                                       " FROM c LEFT JOIN page ON true LEFT JOIN "
                                                       "registry.deleted_device x USING "
                                                       "(device_key)"
                                                       " LEFT JOIN registry.device_tombstone t "
                                                       "USING (device_key)"
                                                       " LEFT JOIN registry.product p ON "
                                                       "p.product_key = (x.device ->> "
                                                       "'product_key')::bigint"
                                                       " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_write = {
    "undelete_write",
    "WITH x AS (DELETE FROM registry.deleted_device WHERE device_key = $1 RETURNING *),"
    " d AS (INSERT INTO registry.device SELECT (jsonb_populate_record(NULL::registry.device,"
    "  x.device || jsonb_build_object('root_id', $2::text, 'depth', $3::int, 'partition', $4::int,"
    "   'auth_version', (x.device ->> 'auth_version')::bigint + 1,"
    "   'version', (x.device ->> 'version')::bigint + 1, 'updated', now(),"
    "   'status', CASE WHEN x.device ->> 'status' = 'INACTIVE' THEN 'INACTIVE' ELSE 'OFFLINE' END,"
    /* else one that was deleted by its timeout would be so again */
    "   'timeout_s', CASE WHEN x.device ->> 'active_time' IS NULL THEN 0"
    "    ELSE (x.device ->> 'timeout_s')::int END))).*"
    "  FROM x RETURNING device_key, record_id, partition),"
    " t AS (INSERT INTO registry.device_tag (device_key, record_id, tag_key, tag_value)"
    "  SELECT d.device_key, d.record_id, e ->> 'tag_key', e ->> 'tag_value'"
    "  FROM d, x, jsonb_array_elements(x.tags) e),"
    " m AS (INSERT INTO registry.group_member (group_id, device_key, record_id)"
    "  SELECT g.group_id, d.device_key, d.record_id FROM d, x"
    "  JOIN registry.device_group g ON g.group_id = ANY(x.groups)),"
    " g AS (DELETE FROM registry.device_tombstone WHERE device_key = $1),"
    " p AS (INSERT INTO registry.policy_target (policy_id, target_type, target_id, device_key)"
    "  SELECT o.policy_id, 'device', x.device_id, d.device_key FROM d, x"
    "  JOIN registry.device_policy o ON o.policy_id = ANY(x.policies))"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $5::bytea FROM d"
    " RETURNING id"
};
static const struct cw_stmt stmt_sweep = {
    "undelete_sweep",
    "DELETE FROM registry.deleted_device WHERE device_key IN (SELECT device_key"
    " FROM registry.deleted_device WHERE deleted < now() - $1::bigint * interval '1 day'"
    " ORDER BY deleted LIMIT 1000)"
};
/* The row as it was, with what it refers to now; spelled on first use, it is device_columns. */
static struct cw_stmt stmt_find = { "undelete_find", NULL };

/* ---- list */

static json_t *deleted_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "device_id",  "node_id",      "device_name",
                                         "product_id", "app_id",       "reason",
                                         "deleted_by", "deleted_time", "restorable_until" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list deleted devices"))
        return;
    int n = cw_db_str(res, 0, "device_id") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "devices", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, deleted_json(res, i));
    put_counted_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

void list_deleted(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char days[24];
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                           CW_TEXT(cw_api_query(call, "device_id")),
                                           cw_db_int(r->undelete_days, days) };
    list_of_spaces(r, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

/* ---- bring one back */

struct undoing {
    struct registry *r;
    struct cw_api_call *call;
    int64_t device_key;
    uint32_t partition;
};

static void on_shown(PGresult *res, void *arg)
{
    struct undoing *u = arg;
    if (!cw_api_db_failed(u->call, res, "show a device") && PQntuples(res) > 0)
        cw_api_reply_json(u->call, 200, device_json(u->r, res, 0, DEVICE_WHOLE));
    else if (cw_db_outcome(res) == CW_DB_OK)
        cw_api_fail(u->call, CW_E_NO_DEVICE, "It has been deleted again.");
    free(u);
}

static void on_written(PGresult *res, void *arg)
{
    struct undoing *u = arg;
    const char *id = cw_api_path(u->call, "device_id");
    if (cw_db_broke(res, "device_taken") || cw_db_broke(res, "node_taken"))
        cw_api_fail(u->call, CW_E_DEVICE_TAKEN, "%s of \"%s\" is registered again.",
                    cw_db_broke(res, "node_taken") ? "The node_id" : "The device_id", id);
    else if (cw_db_broke(res, "device_product"))
        cw_api_fail(u->call, CW_E_NO_PRODUCT, "It has just been deleted.");
    else if (cw_db_broke(res, "device_parent"))
        cw_api_fail(u->call, CW_E_NO_GATEWAY, "It has just been deleted.");
    else if (!cw_api_db_failed(u->call, res, "bring a device back") && PQntuples(res) == 0)
        cw_api_fail(u->call, CW_E_NO_DEVICE, "No deleted device \"%s\" can be brought back.", id);
    else if (cw_db_outcome(res) == CW_DB_OK) {
        fact_told(u->r, "device", u->device_key, u->partition);
        policies_changed(u->r, &u->device_key, 1);
        if (find_device(u->r, id, on_shown, u))
            return;
        cw_api_no_db(u->call);
    }
    free(u);
}

static bool fits(const struct undoing *u, const PGresult *res)
{
    if (PQntuples(res) == 0)
        cw_api_fail(u->call, CW_E_NO_DEVICE, "No deleted device \"%s\" can be brought back.",
                    cw_api_path(u->call, "device_id"));
    else if (!cw_db_str(res, 0, "product_id"))
        cw_api_fail(u->call, CW_E_NO_PRODUCT, "The product of the device has been deleted, too.");
    else if (cw_db_str(res, 0, "parent_key") && !cw_db_str(res, 0, "parent_depth"))
        cw_api_fail(u->call, CW_E_NO_GATEWAY,
                    "The gateway of the device has been deleted, too: bring"
                    " that back first.");
    else
        return true;
    return false;
}

static struct cw_buf created_event(const struct undoing *u, const PGresult *res, const char *root)
{
    json_t *body = device_json(u->r, res, 0, DEVICE_PUBLIC);
    struct cw_buf b = fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_CREATED,
                                                .request_id = cw_api_request(u->call)->request_id,
                                                .time_ms = cw_now_ms(),
                                                .device_key = u->device_key,
                                                .device_id = cw_db_str(res, 0, "device_id"),
                                                .node_id = cw_db_str(res, 0, "node_id"),
                                                .root_id = root,
                                                .product_key = cw_db_i64(res, 0, "product_key", 0),
                                                .product_id = cw_db_str(res, 0, "product_id"),
                                                .app_id = cw_db_str(res, 0, "app_id"),
                                                .body = body });
    json_decref(body);
    return b;
}

static void on_found(PGresult *res, void *arg)
{
    struct undoing *u = arg;
    char key[24], depth[24], partition[24];
    if (cw_api_db_failed(u->call, res, "find a deleted device") || !fits(u, res)) {
        free(u);
        return;
    }
    bool child = cw_db_str(res, 0, "parent_key") != NULL;
    /* the gateway may hang elsewhere by now */
    const char *root = cw_db_str(res, 0, child ? "parent_root" : "device_id");
    u->device_key = cw_db_i64(res, 0, "device_key", 0);
    u->partition = partition_of(u->r, root);
    struct cw_buf event = created_event(u, res, root);
    const struct cw_db_param p[] = {
        cw_db_int(u->device_key, key), CW_TEXT(root),
        cw_db_int(child ? cw_db_i64(res, 0, "parent_depth", 0) + 1 : 0, depth),
        cw_db_int(u->partition, partition), CW_BIN(event.data, event.len)
    };
    if (!cw_db_exec(registry_db(u->r), &stmt_write, CW_ARRAY_LEN(p), p, on_written, u)) {
        cw_api_no_db(u->call);
        free(u);
    }
    cw_buf_free(&event);
}

static void spell(void)
{
    if (!stmt_find.sql)
        stmt_find.sql = cw_sprintf(
            "SELECT %s, g.depth AS parent_depth, g.root_id AS parent_root"
            " FROM registry.deleted_device x"
            " CROSS JOIN LATERAL jsonb_populate_record(NULL::registry.device, x.device) d"
            " JOIN registry.app a ON a.app_id = d.app_id"
            " LEFT JOIN registry.product p ON p.product_key = d.product_key"
            " LEFT JOIN registry.device g ON g.device_key = d.parent_key"
            " WHERE x.device_id = $1 AND x.deleted > now() - $2::bigint * interval '1 day'"
            " ORDER BY x.record_id DESC LIMIT 1",
            device_columns);
}

void undelete_device(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char days[24];
    struct undoing *u = cw_calloc(1, sizeof *u);
    u->r = r;
    u->call = call;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "device_id")),
                                     cw_db_int(r->undelete_days, days) };
    spell();
    if (cw_db_exec(registry_db(r), &stmt_find, CW_ARRAY_LEN(p), p, on_found, u))
        return;
    free(u);
    cw_api_no_db(call);
}

/* ---- for good */

void undelete_sweep(struct registry *r)
{
    char days[24];
    cw_db_exec(registry_db(r), &stmt_sweep, 1,
               (struct cw_db_param[]){ cw_db_int(r->undelete_days, days) }, NULL, NULL);
}
