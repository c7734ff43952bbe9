/* Children that were online through a gateway are OFFLINE when it has gone. That a gateway went is
 * kept in data.gateway_gone by the transaction that says so; the owner of its partition then goes
 * through its children, some hundred at a time, so that one with fifty thousand holds nobody up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "services/uplink-processor/uplink.h"

#define SWEEP_MS 1000
#define AT_ONCE  500

struct orphans {
    struct uplink *u;
    struct event *timer;
    struct cw_db_query *query; /* at most one is under way */
};

/* What a later session of the gateway, or another gateway, said of a child stands. Without via_key
 * it was its own gateway that said it. */
#define ORPHANS                                                                                    \
    "(SELECT s.* FROM data.device_state s WHERE s.via_key = g.device_key"                          \
    "  AND s.status <> 'OFFLINE' AND s.via_session <= g.session_no"                                \
    " UNION ALL SELECT s.* FROM registry.device_view r"                                            \
    "  JOIN registry.child_view c ON c.root_id = r.device_id"                                      \
    "  JOIN data.device_state s ON s.device_key = c.device_key"                                    \
    "  WHERE r.device_key = g.device_key AND s.via_key IS NULL AND s.status <> 'OFFLINE'"          \
    "  AND s.session_no <= g.session_no)"
static const struct cw_stmt stmt_due = {
    "orphans_due",
    "SELECT v.device_key, v.device_id, v.node_id, v.gateway_id, v.product_key, v.product_id,"
    " v.app_id, g.partition, o.session_no, 'OFFLINE' AS status, w.device_id AS via,"
    " greatest(o.connected_ms, o.last_report_ms, o.last_message_ms) AS last_ms"
    " FROM data.gateway_gone g CROSS JOIN LATERAL (SELECT * FROM " ORPHANS " s LIMIT $2::bigint) o"
    " JOIN registry.device_view v ON v.device_key = o.device_key"
    " LEFT JOIN registry.device_view w ON w.device_key = g.device_key"
    " WHERE g.partition = ANY($1::int[]) LIMIT $2::bigint"
};
/* The status, why, and the fact for everybody else are one. */
static const struct cw_stmt stmt_change = {
    "orphans_change",
    "WITH n AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bytea[],"
    "  $6::text[]) AS n(device_key, session_no, partition, event, text)),"
    " s AS (UPDATE data.device_state s SET status = 'OFFLINE', since_ms = $5::bigint,"
    "  cause = 'gateway_offline' FROM n WHERE s.device_key = n.device_key"
    "  AND s.session_no = n.session_no AND s.status <> 'OFFLINE'"
    "  RETURNING n.device_key, n.partition, n.event, n.text),"
    " c AS (INSERT INTO data.change (device_key, at_ms, what, code, text) SELECT device_key,"
    "  $5::bigint, 'disconnected', 'gateway_offline', text FROM s)"
    " INSERT INTO data.outbox (partition, event) SELECT partition, event FROM s"
};
static const struct cw_stmt stmt_done = {
    "orphans_done", "DELETE FROM data.gateway_gone g WHERE g.partition = ANY($1::int[])"
                    " AND NOT EXISTS (SELECT FROM " ORPHANS " s)"
};

static void on_done(PGresult *res, void *arg)
{
    struct orphans *o = arg;
    (void)res;
    o->query = NULL;
}

static void finish(struct orphans *o)
{
    struct cw_db_array mine = { 0 };
    cw_log_reader_owned(o->u->reader, &mine);
    struct cw_db_param p = cw_db_array_param(&mine);
    o->query = mine.n ? cw_db_exec(o->u->db, &stmt_done, 1, &p, on_done, o) : NULL;
    cw_db_array_free(&mine);
}

static void on_changed(PGresult *res, void *arg)
{
    struct orphans *o = arg;
    o->query = NULL;
    if (cw_db_outcome(res) == CW_DB_OK)
        orphans_wake(o); /* there may be more */
}

static void add(struct cw_db_array a[5], const PGresult *res, int row, int64_t now_ms)
{
    char text[200];
    struct cw_buf event = status_fact(res, row, now_ms);
    const char *via = cw_db_str(res, row, "via");
    if (!via)
        snprintf(text, sizeof text, "The gateway through which it was online has been deleted.");
    else if (strcmp(via, cw_db_str(res, row, "gateway_id")) == 0)
        snprintf(text, sizeof text, "Its gateway went offline.");
    else
        snprintf(text, sizeof text, "Gateway \"%s\", through which it was online, went offline.",
                 via);
    cw_db_array_int(&a[0], cw_db_i64(res, row, "device_key", 0));
    cw_db_array_int(&a[1], cw_db_i64(res, row, "session_no", 0));
    cw_db_array_int(&a[2], cw_db_i64(res, row, "partition", 0));
    cw_db_array_bytes(&a[3], event.data, event.len);
    cw_db_array_str(&a[4], text);
    cw_buf_free(&event);
}

static void change(struct orphans *o, const PGresult *res)
{
    static const enum cw_array_type types[] = { CW_ARRAY_INT8, CW_ARRAY_INT8, CW_ARRAY_INT4,
                                                CW_ARRAY_BYTEA, CW_ARRAY_TEXT };
    char now[24];
    int64_t now_ms = cw_now_ms();
    struct cw_db_array a[CW_ARRAY_LEN(types)] = { 0 };
    struct cw_db_param p[CW_ARRAY_LEN(types) + 1];
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        cw_db_array_reset(&a[i], types[i]);
    for (int row = 0; row < PQntuples(res); row++)
        add(a, res, row, now_ms);
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        p[i < 4 ? i : i + 1] = cw_db_array_param(&a[i]);
    p[4] = cw_db_int(now_ms, now);
    cw_log(CW_INFO, "orphans", "gateway=%s children=%d", cw_db_str(res, 0, "gateway_id"),
           PQntuples(res));
    o->query = cw_db_exec(o->u->db, &stmt_change, (int)CW_ARRAY_LEN(p), p, on_changed, o);
    if (o->query)
        cw_db_exec(o->u->db, &stmt_keep_changes, 1, p, NULL, NULL);
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        cw_db_array_free(&a[i]);
}

static void on_due(PGresult *res, void *arg)
{
    struct orphans *o = arg;
    o->query = NULL;
    if (cw_db_outcome(res) != CW_DB_OK)
        return; /* the next turn of the timer */
    if (PQntuples(res) > 0)
        change(o, res);
    else
        finish(o);
}

void orphans_wake(struct orphans *o)
{
    struct cw_db_array mine = { 0 };
    char limit[24];
    if (o->query || !o->u->reader || cw_app_draining(o->u->app))
        return;
    cw_log_reader_owned(o->u->reader, &mine);
    const struct cw_db_param p[] = { cw_db_array_param(&mine), cw_db_int(AT_ONCE, limit) };
    o->query = mine.n ? cw_db_exec(o->u->db, &stmt_due, 2, p, on_due, o) : NULL;
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    orphans_wake(arg);
}

struct orphans *orphans_open(struct uplink *u)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    struct orphans *o = cw_calloc(1, sizeof *o);
    o->u = u;
    o->timer = event_new(cw_app_base(u->app), -1, EV_PERSIST, on_timer, o);
    event_add(o->timer, &period);
    return o;
}

void orphans_close(struct orphans **at)
{
    struct orphans *o = *at;
    if (!o)
        return;
    *at = NULL;
    event_free(o->timer);
    free(o);
}
