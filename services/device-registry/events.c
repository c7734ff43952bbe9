/* The EVENT log as the registry reads it: device.status becomes the device's status, an OFFLINE
 * ends the session it speaks of. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "libcommon/device_status.h"
#include "libcommon/log_read.h"
#include "libcommon/metrics.h"
#include "proto/subjects.h"
#include "services/device-registry/subdevices.h"

/* The lock first, in the order of logins, so that the two cannot wait for each other. What comes in
 * is joined once: the planner takes it for ten rows, and two of them would be compared n times n.
 */
static const struct cw_stmt stmt_status = {
    "events_status",
    "WITH l AS (SELECT u.* FROM registry.device d JOIN unnest($1::bigint[], $2::bigint[],"
    "  $3::text[], $4::bigint[], $5::bigint[]) AS u(device_key, session_no, status, at_ms,"
    "  online_ms) USING (device_key) ORDER BY d.device_key FOR NO KEY UPDATE OF d)"
    " UPDATE registry.device d SET status = l.status, status_session = l.session_no,"
    "  connection_status_update_time = " SQL_TIME(
        "l.at_ms") ","
                   "  active_time = COALESCE(d.active_time, " SQL_TIME(
                       "l.online_ms") ")"
                                      " FROM l WHERE d.device_key = l.device_key"
                                      "  AND l.session_no >= d.status_session"
};
static const struct cw_stmt stmt_end = {
    "events_end", "DELETE FROM registry.session s"
                  " USING unnest($1::bigint[], $2::bigint[]) AS u(device_key, session_no)"
                  " WHERE s.device_key = u.device_key AND s.session_no = u.session_no"
};

struct status {
    UT_hash_handle hh;
    int64_t device_key, session_no, at_ms, online_ms; /* online_ms 0: not online in these records */
    const char *status;                               /* as the column spells it */
};

/* What one transaction will do. */
struct work {
    struct status *statuses; /* the newest of each device, by device_key */
    struct cw_db_array ended_keys, ended_numbers;
    struct device_requests requests;
};

static struct status *status_of(struct work *w, int64_t device_key)
{
    struct status *s;
    HASH_FIND(hh, w->statuses, &device_key, sizeof device_key, s);
    if (!s) {
        s = cw_calloc(1, sizeof *s);
        s->device_key = device_key;
        HASH_ADD(hh, w->statuses, device_key, sizeof s->device_key, s);
    }
    return s;
}

static void take_status(struct work *w, const Causeway__Event *e)
{
    Causeway__DeviceStatus status = cw_device_status(e);
    if (!status) {
        cw_log(CW_WARN, "status_not_understood", "device_key=%" PRId64, e->device_key);
        return;
    }
    struct status *s = status_of(w, e->device_key);
    if (e->session_no >= s->session_no) {
        s->session_no = e->session_no;
        s->at_ms = e->time_ms;
        s->status = cw_device_status_word(status);
    }
    if (status == CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE && !s->online_ms)
        s->online_ms = e->time_ms;
    if (status == CAUSEWAY__DEVICE_STATUS__STATUS_OFFLINE) {
        cw_db_array_int(&w->ended_keys, e->device_key);
        cw_db_array_int(&w->ended_numbers, e->session_no);
    }
}

static void take_event(struct work *w, const Causeway__Event *e, uint32_t partition)
{
    if (e->kind == CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS && e->device_key)
        take_status(w, e);
    if (e->kind == CAUSEWAY__EVENT_KIND__EVENT_DEVICE_REQUEST)
        requests_note(&w->requests, e, partition);
}

static void prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self)
{
    struct work *w = cw_calloc(1, sizeof *w);
    (void)self;
    cw_db_array_reset(&w->ended_keys, CW_ARRAY_INT8);
    cw_db_array_reset(&w->ended_numbers, CW_ARRAY_INT8);
    for (size_t i = 0; i < n; i++) {
        if (records[i].len == 0)
            continue; /* a mark of trimming */
        Causeway__EventBatch *b =
            causeway__event_batch__unpack(NULL, records[i].len, records[i].data);
        if (!b)
            cw_log(CW_ERROR, "events_unreadable", "partition=%u seq=%" PRIu64, records[i].partition,
                   records[i].seq);
        for (size_t k = 0; b && k < b->n_events; k++)
            take_event(w, b->events[k], records[i].partition);
        causeway__event_batch__free_unpacked(b, NULL);
    }
    cw_log_txn_set_data(txn, w);
    cw_log_txn_prepared(txn, 0);
}

static void send_statuses(struct cw_log_txn *txn, const struct work *w)
{
    struct cw_db_array key = { 0 }, number = { 0 }, status = { 0 }, at = { 0 }, online = { 0 };
    cw_db_array_reset(&key, CW_ARRAY_INT8);
    cw_db_array_reset(&number, CW_ARRAY_INT8);
    cw_db_array_reset(&status, CW_ARRAY_TEXT);
    cw_db_array_reset(&at, CW_ARRAY_INT8);
    cw_db_array_reset(&online, CW_ARRAY_INT8);
    for (const struct status *s = w->statuses; s; s = s->hh.next) {
        cw_db_array_int(&key, s->device_key);
        cw_db_array_int(&number, s->session_no);
        cw_db_array_str(&status, s->status);
        cw_db_array_int(&at, s->at_ms);
        if (s->online_ms)
            cw_db_array_int(&online, s->online_ms);
        else
            cw_db_array_null(&online);
    }
    const struct cw_db_param p[] = { cw_db_array_param(&key), cw_db_array_param(&number),
                                     cw_db_array_param(&status), cw_db_array_param(&at),
                                     cw_db_array_param(&online) };
    cw_log_txn_exec(txn, &stmt_status, 5, p, NULL, NULL);
    cw_db_array_free(&key);
    cw_db_array_free(&number);
    cw_db_array_free(&status);
    cw_db_array_free(&at);
    cw_db_array_free(&online);
}

static void effects(struct cw_log_txn *txn, void *self)
{
    struct work *w = cw_log_txn_data(txn);
    (void)self;
    if (w->statuses)
        send_statuses(txn, w);
    if (w->ended_keys.n) {
        const struct cw_db_param p[] = { cw_db_array_param(&w->ended_keys),
                                         cw_db_array_param(&w->ended_numbers) };
        cw_log_txn_exec(txn, &stmt_end, 2, p, NULL, NULL);
    }
    requests_store(&w->requests, txn);
}

static void done(struct cw_log_txn *txn, bool committed, void *self)
{
    struct work *w = cw_log_txn_data(txn);
    struct status *s, *next;
    struct registry *r = self;
    if (!w)
        return;
    if (committed && w->requests.n_requests && r->subdevices)
        subdevices_wake(r->subdevices);
    requests_free(&w->requests);
    HASH_ITER(hh, w->statuses, s, next)
    {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the table has let go of what was freed */
        HASH_DEL(w->statuses, s);
        free(s);
    }
    cw_db_array_free(&w->ended_keys);
    cw_db_array_free(&w->ended_numbers);
    free(w);
    cw_log_txn_set_data(txn, NULL);
}

static void on_wake(const struct cw_bus_msg *msg, void *arg)
{
    struct registry *r = arg;
    if (!msg->no_responders)
        cw_log_reader_kick(r->events, (uint32_t)strtoul(strrchr(msg->subject, '.') + 1, NULL, 10));
}

void events_start(struct registry *r)
{
    cw_bus_subscribe(cw_app_bus(r->app), "wake.device-registry.*", NULL, on_wake, r);
    r->events = cw_log_reader_open(r->app, &(struct cw_log_reader_config){
                                               .log = CW_LOG_EVENT,
                                               .group = "device-registry",
                                               .schema = "registry",
                                               .relays_outbox = true,
                                               .mandatory = true,
                                               .pace_ms = 50,
                                               .self = r,
                                               .prepare = prepare,
                                               .effects = effects,
                                               .done = done,
                                           });
}
