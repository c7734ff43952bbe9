/* Registrations with a timeout: a directly connected device that has not been active by then is
 * deleted, as if over the API. The owner of its partition does it. */
#include <inttypes.h>

#include <event2/event.h>

#include "libcommon/log_read.h"
#include "services/device-registry/undelete.h"

#define TICK_S      10
#define EXPIRED_MAX 100 /* looked at in one tick */

static const struct cw_stmt stmt_expired = {
    "expiry_find",
    "SELECT d.device_key, d.device_id, d.node_id, d.root_id, d.product_key, p.product_id, d.app_id,"
    " d.partition FROM registry.device d JOIN registry.product p USING (product_key)"
    " WHERE d.timeout_s > 0 AND d.active_time IS NULL AND d.parent_key IS NULL"
    " AND d.created + d.timeout_s * interval '1 second' < now() AND d.partition = ANY($1::int[])"
    " LIMIT $2::bigint"
};
/* Not one that is logging in at this moment, nor a gateway with children. */
static const struct cw_stmt stmt_delete = {
    "expiry_delete",
    "WITH d AS (DELETE FROM registry.device d WHERE device_key = $1 AND active_time IS NULL"
    "  AND NOT EXISTS (SELECT FROM registry.session s WHERE s.device_key = d.device_key)"
    "  AND NOT EXISTS (SELECT FROM registry.device c WHERE c.parent_key = d.device_key)"
    "  RETURNING device_key, device_id, product_key, app_id, created, partition),"
    " t AS (INSERT INTO registry.device_tombstone (device_key, device_id, product_key, app_id,"
    "  created, reason) SELECT device_key, device_id, product_key, app_id, created, 'timeout'"
    "  FROM d),"
    " o AS (INSERT INTO registry.outbox (partition, event) SELECT partition, $2::bytea FROM d)"
    " SELECT device_key, device_id, partition FROM d"
};

static void on_deleted(PGresult *res, void *arg)
{
    struct registry *r = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0)
        return; /* looked at again in the next tick */
    cw_log(CW_INFO, "registration_expired", "device=%s", cw_db_str(res, 0, "device_id"));
    fact_told(r, "device", cw_db_i64(res, 0, "device_key", 0),
              (uint32_t)cw_db_i64(res, 0, "partition", 0));
}

static void on_expired(PGresult *res, void *arg)
{
    struct registry *r = arg;
    int n = cw_db_outcome(res) == CW_DB_OK ? PQntuples(res) : 0;
    for (int i = 0; i < n; i++) {
        char key[24], request_id[CW_UUID_LEN];
        struct cw_buf event =
            fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_DELETED,
                                      .request_id = cw_uuid(request_id),
                                      .time_ms = cw_now_ms(),
                                      .device_key = cw_db_i64(res, i, "device_key", 0),
                                      .device_id = cw_db_str(res, i, "device_id"),
                                      .node_id = cw_db_str(res, i, "node_id"),
                                      .root_id = cw_db_str(res, i, "root_id"),
                                      .product_key = cw_db_i64(res, i, "product_key", 0),
                                      .product_id = cw_db_str(res, i, "product_id"),
                                      .app_id = cw_db_str(res, i, "app_id") });
        const struct cw_db_param p[] = { cw_db_int(cw_db_i64(res, i, "device_key", 0), key),
                                         CW_BIN(event.data, event.len) };
        cw_db_exec(registry_db(r), &stmt_delete, 2, p, on_deleted, r);
        cw_buf_free(&event);
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct registry *r = arg;
    char max[24];
    struct cw_db_array owned = { 0 };
    (void)fd, (void)what;
    if (cw_app_draining(r->app))
        return;
    undelete_sweep(r);
    cw_log_reader_owned(r->events, &owned);
    const struct cw_db_param p[] = { cw_db_array_param(&owned), cw_db_int(EXPIRED_MAX, max) };
    if (owned.n)
        cw_db_exec(registry_db(r), &stmt_expired, 2, p, on_expired, r);
    cw_db_array_free(&owned);
}

void expiry_start(struct registry *r)
{
    static const struct timeval tick = { TICK_S, 0 };
    r->expiry = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_tick, r);
    event_add(r->expiry, &tick);
}

void expiry_stop(struct registry *r)
{
    if (r->expiry)
        event_free(r->expiry);
    r->expiry = NULL;
}
