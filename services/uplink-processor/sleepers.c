/* Devices that sleep for hours (NB-IoT, LwM2M) keep no connection: their status follows their
 * silence. After abnormal_ms without a word one is ABNORMAL, after offline_ms OFFLINE
 * (docs/protocol/ status.md); a word makes it ONLINE again. The owner of a partition looks at its
 * own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/clock.h"
#include "services/uplink-processor/uplink.h"

#define AT_ONCE 500

/* $2 now, $3 and $4 the two limits, all in ms. What was ended by a disconnection stays so. */
#define STATUS                                                                                     \
    "CASE WHEN $2::bigint - n.last_ms >= $4::bigint THEN 'OFFLINE'"                                \
    " WHEN $2::bigint - n.last_ms >= $3::bigint THEN 'ABNORMAL' ELSE 'ONLINE' END"
static const struct cw_stmt stmt_due = {
    "sleepers_due",
    "SELECT v.*, s.session_no, s.status AS old_status, n.last_ms, " STATUS
    " AS status FROM registry.sleeper_view v JOIN data.device_state s USING (device_key)"
    " CROSS JOIN LATERAL (SELECT greatest(s.connected_ms, s.last_report_ms, s.last_message_ms)"
    "  AS last_ms) n WHERE v.partition = ANY($1::int[]) AND n.last_ms IS NOT NULL"
    " AND (s.status <> 'OFFLINE' OR s.cause = 'silent') AND s.status <> " STATUS " LIMIT $5::bigint"
};
/* Unless it has spoken meanwhile. The fact is one with the change. */
static const struct cw_stmt stmt_change = {
    "sleepers_change",
    "WITH s AS (UPDATE data.device_state SET status = $3, since_ms = $4,"
    " cause = CASE WHEN $3 = 'OFFLINE' THEN 'silent' ELSE cause END WHERE device_key = $1"
    " AND session_no = $2 AND status = $5 AND greatest(connected_ms, last_report_ms,"
    " last_message_ms) = $6::bigint RETURNING 1)"
    " INSERT INTO data.outbox (partition, event) SELECT $7::int, $8::bytea FROM s"
};

static void change(struct uplink *u, const PGresult *res, int row, int64_t now_ms)
{
    char now[24];
    struct cw_buf event = status_fact(res, row, now_ms);
    const struct cw_db_param p[] = {
        CW_TEXT(cw_db_str(res, row, "device_key")), CW_TEXT(cw_db_str(res, row, "session_no")),
        CW_TEXT(cw_db_str(res, row, "status")),     cw_db_int(now_ms, now),
        CW_TEXT(cw_db_str(res, row, "old_status")), CW_TEXT(cw_db_str(res, row, "last_ms")),
        CW_TEXT(cw_db_str(res, row, "partition")),  CW_BIN(event.data, event.len)
    };
    cw_log(CW_INFO, "silence", "device=%s from=%s to=%s silent_s=%" PRId64,
           cw_db_str(res, row, "device_id"), cw_db_str(res, row, "old_status"),
           cw_db_str(res, row, "status"), (now_ms - cw_db_i64(res, row, "last_ms", 0)) / 1000);
    cw_db_exec(u->db, &stmt_change, CW_ARRAY_LEN(p), p, NULL, NULL);
    cw_buf_free(&event);
}

static void on_due(PGresult *res, void *arg)
{
    struct uplink *u = arg;
    int64_t now_ms = cw_now_ms();
    u->sleepers_asked = false;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        change(u, res, row, now_ms);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct uplink *u = arg;
    struct cw_db_array mine = { 0 };
    char now[24], abnormal[24], offline[24], limit[24];
    (void)fd, (void)what;
    if (!u->reader || u->sleepers_asked || cw_app_draining(u->app))
        return;
    cw_log_reader_owned(u->reader, &mine);
    const struct cw_db_param p[] = { cw_db_array_param(&mine), cw_db_int(cw_now_ms(), now),
                                     cw_db_int(u->abnormal_ms, abnormal),
                                     cw_db_int(u->offline_ms, offline), cw_db_int(AT_ONCE, limit) };
    u->sleepers_asked = mine.n && cw_db_exec(u->db, &stmt_due, CW_ARRAY_LEN(p), p, on_due, u);
    cw_db_array_free(&mine);
}

void sleepers_start(struct uplink *u)
{
    struct timeval period = { u->sleep_sweep_ms / 1000, u->sleep_sweep_ms % 1000 * 1000 };
    u->sleepers_timer = event_new(cw_app_base(u->app), -1, EV_PERSIST, on_timer, u);
    event_add(u->sleepers_timer, &period);
}

void sleepers_stop(struct uplink *u)
{
    if (u->sleepers_timer)
        event_free(u->sleepers_timer);
    u->sleepers_timer = NULL;
}
