/* Devices: a child moves below another gateway. Its facts then travel with that one: the partition
 * may change, and what it said before stays where it was. */
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/change.h"

static const struct cw_stmt stmt_gateway = {
    "devices_move_gateway",
    "SELECT g.device_key, g.app_id, g.root_id, g.depth, EXISTS (SELECT FROM registry.device c"
    "  WHERE c.parent_key = $2) AS has_children,"
    " COALESCE((SELECT sum(n) FROM registry.child_count WHERE parent_key = g.device_key), 0)"
    "  AS children"
    " FROM (SELECT) x LEFT JOIN registry.device g ON g.device_id = $1"
};
/* Before the move, in its transaction: a registration below the child has come first and is seen,
 * or waits and then finds that its gateway has moved. */
static const struct cw_stmt stmt_lock = {
    "devices_move_lock", "SELECT FROM registry.device WHERE device_key = $1 FOR UPDATE"
};
/* The new gateway's row is locked, so that it neither moves nor goes meanwhile. */
static const struct cw_stmt stmt_move = {
    "devices_move",
    "WITH g AS (SELECT device_key FROM registry.device WHERE device_key = $3 AND root_id = $4"
    "  AND depth = $5::int - 1 FOR KEY SHARE),"
    " d AS (UPDATE registry.device c SET parent_key = g.device_key, root_id = $4, depth = $5::int,"
    "  partition = $6::int, auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  FROM g WHERE c.device_key = $1 AND c.version = $2 AND NOT EXISTS"
    "  (SELECT FROM registry.device x WHERE x.parent_key = c.device_key) RETURNING c.partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $7::bytea FROM d"
    " RETURNING id"
};

/* A child on its way; the row is kept until the gateway is known. */
struct move {
    struct change *c;
    char *device_id, *node_id, *product_id, *app_id;
    int64_t product_key;
    json_t *shown;
    bool moved, lost; /* lost: somebody else was faster */
};

static void move_free(struct move *m)
{
    char *texts[] = { m->device_id, m->node_id, m->product_id, m->app_id };
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        free(texts[i]);
    json_decref(m->shown);
    free(m);
}

static const char *wanted(const struct change *c)
{
    return cw_body_text(cw_api_body(c->call), "gateway_id");
}

static void on_moved(PGresult *res, void *arg)
{
    struct move *m = arg;
    m->moved = cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0;
    m->lost = !m->moved && cw_db_outcome(res) == CW_DB_OK;
    if (!m->c)
        move_free(m);
}

static void on_committed(PGresult *res, void *arg)
{
    struct move *m = arg;
    struct change *c = m->c;
    bool moved = m->moved, lost = m->lost;
    move_free(m);
    if (lost) {
        change_again(c);
    } else if (cw_api_db_failed(c->call, res, "change the gateway")) {
        change_free(c);
    } else if (!moved) {
        change_fail(c, CW_E_UNAVAILABLE, "Others change this device at the moment.");
    } else {
        change_told(c);
        cw_api_reply(c->call, 200, NULL, 0);
        change_free(c);
    }
}

static void write_move(struct move *m, const PGresult *gateway)
{
    struct change *c = m->c;
    char key[24], version[24], depth[24], part[24];
    const char *root_id = cw_db_str(gateway, 0, "root_id");
    c->partition = partition_of(c->r, root_id);
    json_object_set_new(m->shown, "gateway_id", json_string(wanted(c)));
    struct cw_buf event =
        fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED,
                                  .request_id = cw_api_request(c->call)->request_id,
                                  .time_ms = cw_now_ms(),
                                  .device_key = c->device_key,
                                  .device_id = m->device_id,
                                  .node_id = m->node_id,
                                  .root_id = root_id,
                                  .product_key = m->product_key,
                                  .product_id = m->product_id,
                                  .app_id = m->app_id,
                                  .body = m->shown });
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key),
                                     cw_db_int(c->version, version),
                                     CW_TEXT(cw_db_str(gateway, 0, "device_key")),
                                     CW_TEXT(root_id),
                                     cw_db_int(cw_db_i64(gateway, 0, "depth", 0) + 1, depth),
                                     cw_db_int(c->partition, part),
                                     CW_BIN(event.data, event.len) };
    struct cw_db *db = registry_db(c->r);
    bool moving = cw_db_query(db, "BEGIN", NULL, NULL) &&
                  cw_db_exec(db, &stmt_lock, 1, p, NULL, NULL) &&
                  cw_db_exec(db, &stmt_move, 7, p, on_moved, m);
    bool sent = moving && cw_db_query(db, "COMMIT", on_committed, m);
    cw_buf_free(&event);
    if (!sent) { /* the connection has just gone */
        change_no_db(c);
        if (moving)
            m->c = NULL; /* on_moved() frees it */
        else
            move_free(m);
    }
}

static void on_gateway(PGresult *res, void *arg)
{
    struct move *m = arg;
    struct change *c = m->c;
    int64_t max = c->r->children_max;
    if (cw_api_db_failed(c->call, res, "find the gateway"))
        change_free(c);
    else if (!cw_db_str(res, 0, "device_key") ||
             strcmp(cw_db_str(res, 0, "app_id"), m->app_id) != 0)
        change_fail(c, CW_E_NO_GATEWAY, "gateway_id: no device \"%s\" in the child's space.",
                    wanted(c));
    else if (*cw_db_str(res, 0, "has_children") == 't')
        change_fail(c, CW_E_HAS_CHILDREN, "Device \"%s\".", m->device_id);
    else if (cw_db_i64(res, 0, "depth", 0) >= 2)
        change_fail(c, CW_E_DEPTH, "gateway_id: \"%s\" is two levels below a gateway.", wanted(c));
    else if (max && cw_db_i64(res, 0, "children", 0) >= max)
        change_fail(c, CW_E_DEVICE_QUOTA,
                    "gateway_id: \"%s\" has as many children as CAUSEWAY_CHILDREN_MAX allows.",
                    wanted(c));
    else {
        write_move(m, res);
        return;
    }
    move_free(m);
}

static struct move *move_new(struct change *c, const PGresult *row)
{
    struct move *m = cw_calloc(1, sizeof *m);
    *m = (struct move){ .c = c,
                        .device_id = cw_strdup(cw_db_str(row, 0, "device_id")),
                        .node_id = cw_strdup(cw_db_str(row, 0, "node_id")),
                        .product_id = cw_strdup(cw_db_str(row, 0, "product_id")),
                        .app_id = cw_strdup(cw_db_str(row, 0, "app_id")),
                        .product_key = cw_db_i64(row, 0, "product_key", 0),
                        .shown = device_json(c->r, row, 0, DEVICE_PUBLIC) };
    return m;
}

static void make(struct change *c, const PGresult *row)
{
    char key[24];
    const char *device_id = cw_db_str(row, 0, "device_id");
    if (!cw_db_str(row, 0, "parent_key")) {
        change_fail(c, CW_E_NOT_A_CHILD, "Device \"%s\".", device_id);
        return;
    }
    if (strcmp(wanted(c), cw_db_str(row, 0, "gateway_id")) == 0 ||
        strcmp(wanted(c), device_id) == 0) {
        change_fail(c, CW_E_INVALID, "Field \"gateway_id\": must be another gateway.");
        return;
    }
    struct move *m = move_new(c, row);
    const struct cw_db_param p[] = { CW_TEXT(wanted(c)), cw_db_int(c->device_key, key) };
    if (!cw_db_exec(registry_db(c->r), &stmt_gateway, 2, p, on_gateway, m)) {
        change_no_db(c);
        move_free(m);
    }
}

void change_gateway(struct cw_api_call *call, void *self) { change_begin(self, call, make); }
