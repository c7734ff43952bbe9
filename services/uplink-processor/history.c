#include "services/uplink-processor/history.h"

#include <stdlib.h>

#include <event2/event.h>

#include "libcommon/db.h"
#include "libcommon/service.h"

#define EACH_S  3600
#define RETRY_S 1

struct history {
    struct cw_app *app;
    struct event *timer;
    int64_t days;
    int64_t from_ms, until_ms; /* the days that exist */
    bool ready;
};

/* From the newest day there is, so that no day is missing between; at least yesterday. */
static const struct cw_stmt stmt_create = {
    "history_create",
    "SELECT data.history_create(greatest(least(today - 1, newest), today - $1::int), today + 2)"
    " FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) t, (SELECT"
    " max(to_date(right(c.relname, 8), 'YYYYMMDD')) AS newest FROM pg_inherits i"
    " JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'data.history'::regclass) n"
};
static const struct cw_stmt stmt_drop = {
    "history_drop", "SELECT data.history_drop((now() AT TIME ZONE 'UTC')::date - $1::int) AS n"
};
static const struct cw_stmt stmt_quarantine = {
    "history_quarantine",
    "DELETE FROM data.quarantine WHERE at < now() - make_interval(days => $1::int)"
};
static const struct cw_stmt stmt_bounds = {
    "history_bounds",
    "SELECT data.day_ms(min(day)) AS from_ms, data.day_ms(max(day) + 1) AS until_ms FROM"
    " (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day FROM pg_inherits i"
    " JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'data.history'::regclass) d"
};

static void again(struct history *h, int seconds)
{
    struct timeval t = { seconds, 0 };
    evtimer_add(h->timer, &t);
}

static void on_bounds(PGresult *res, void *arg)
{
    struct history *h = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) != 1) {
        again(h, RETRY_S);
        return;
    }
    h->from_ms = cw_db_i64(res, 0, "from_ms", 0);
    h->until_ms = cw_db_i64(res, 0, "until_ms", INT64_MAX);
    if (!h->ready)
        cw_app_release(h->app, "history");
    h->ready = true;
    again(h, EACH_S);
}

static void on_dropped(PGresult *res, void *arg)
{
    (void)arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_WARN, "history_not_dropped", "reason=\"%s\"", cw_db_error(res));
    else if (PQntuples(res) == 1 && cw_db_i64(res, 0, "n", 0) > 0)
        cw_log(CW_INFO, "history_dropped", "days=%s", cw_db_str(res, 0, "n"));
}

static void on_created(PGresult *res, void *arg)
{
    struct history *h = arg;
    char days[24];
    struct cw_db_param par = cw_db_int(h->days, days);
    struct cw_db *db = cw_app_db(h->app);
    if (cw_db_outcome(res) != CW_DB_OK) {
        cw_log(CW_WARN, "history_not_created", "reason=\"%s\"", cw_db_error(res));
        again(h, RETRY_S);
        return;
    }
    cw_db_exec(db, &stmt_drop, 1, &par, on_dropped, h);
    cw_db_exec(db, &stmt_quarantine, 1, &par, NULL, NULL);
    if (!cw_db_exec(db, &stmt_bounds, 0, NULL, on_bounds, h))
        again(h, RETRY_S);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct history *h = arg;
    char days[24];
    struct cw_db_param par = cw_db_int(h->days, days);
    (void)fd, (void)what;
    if (!cw_db_exec(cw_app_db(h->app), &stmt_create, 1, &par, on_created, h))
        again(h, RETRY_S);
}

int64_t history_clamp(const struct history *h, int64_t received_ms)
{
    if (received_ms < h->from_ms)
        return h->from_ms;
    return received_ms < h->until_ms ? received_ms : h->until_ms - 1;
}

struct history *history_open(struct cw_app *app, int64_t days)
{
    struct history *h = cw_calloc(1, sizeof *h);
    h->app = app;
    h->days = days;
    h->until_ms = INT64_MAX;
    h->timer = evtimer_new(cw_app_base(app), on_timer, h);
    cw_app_hold(app, "history");
    on_timer(-1, 0, h);
    return h;
}

void history_close(struct history **at)
{
    struct history *h = *at;
    if (!h)
        return;
    *at = NULL;
    event_free(h->timer);
    free(h);
}
