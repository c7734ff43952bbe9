/* How commands ended, many in one statement; old receipts go once an hour. */
#include <stdlib.h>

#include <event2/event.h>

#include "services/command-dispatcher/dispatcher.h"

#define GATHER_MS  20
#define GATHER_MAX 256
#define COLUMNS    8

struct receipts {
    struct dispatcher *d;
    struct event *hourly, *flush;
    struct cw_db_array column[COLUMNS];
    size_t n;
};

/* The answer itself may already be there: it also comes by the log, in a statement that locks the
 * same rows; both take them in the order of their ids, or they would wait for each other. */
static const struct cw_stmt ended = {
    "commands_ended",
    "WITH x AS MATERIALIZED (SELECT u.* FROM command.command c JOIN unnest($1::text[], $2::text[], "
    "$3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) "
    "AS u(id, status, stage, response, written, acked, answered, finished) "
    "ON c.command_id = u.id ORDER BY c.command_id FOR UPDATE OF c) "
    "UPDATE command.command c SET status = x.status, stage = x.stage, "
    "written = to_timestamp(nullif(x.written, 0) / 1000.0), "
    "acknowledged = to_timestamp(nullif(x.acked, 0) / 1000.0), "
    "answered = coalesce(c.answered, to_timestamp(nullif(x.answered, 0) / 1000.0)), "
    "finished = to_timestamp(x.finished / 1000.0), response = coalesce(c.response, x.response) "
    "FROM x WHERE c.command_id = x.id AND c.status = 'SENT'"
};

static const struct cw_stmt sweeps[] = {
    { "receipts_commands",
      "DELETE FROM command.command WHERE command_id IN (SELECT command_id FROM command.command "
      "WHERE created < now() - make_interval(days => $1::int) LIMIT 10000)" },
    { "receipts_messages",
      "DELETE FROM command.message WHERE (device_key, message_id) IN "
      "(SELECT device_key, message_id FROM command.message "
      "WHERE created < now() - make_interval(days => $1::int + (status = 'PENDING')::int) "
      "LIMIT 10000)" },
    { "receipts_asyncs",
      "DELETE FROM command.async_command WHERE command_id IN (SELECT command_id FROM "
      "command.async_command WHERE created < now() - make_interval(days => greatest($1::int, 3)) "
      "LIMIT 10000)" },
};

static void on_swept(PGresult *res, void *arg)
{
    (void)arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_WARN, "receipts_not_swept", "reason=\"%s\"", cw_db_error(res));
}

static void on_hour(evutil_socket_t fd, short what, void *arg)
{
    struct receipts *r = arg;
    char days[24];
    struct cw_db_param par = cw_db_int(r->d->keep_days, days);
    (void)fd, (void)what;
    for (size_t i = 0; i < CW_ARRAY_LEN(sweeps); i++)
        cw_db_exec(r->d->db, &sweeps[i], 1, &par, on_swept, NULL);
}

static void on_ended(PGresult *res, void *arg)
{
    struct dispatcher *d = arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_WARN, "receipts_not_kept", "reason=\"%s\"", cw_db_error(res));
    cw_app_in_flight(d->app, -1);
}

static void forget(struct receipts *r)
{
    for (int i = 0; i < COLUMNS; i++)
        cw_db_array_reset(&r->column[i], i < 4 ? CW_ARRAY_TEXT : CW_ARRAY_INT8);
    r->n = 0;
}

static void flush(struct receipts *r)
{
    struct cw_db_param par[COLUMNS];
    evtimer_del(r->flush);
    for (int i = 0; i < COLUMNS; i++)
        par[i] = cw_db_array_param(&r->column[i]);
    if (!cw_db_exec(r->d->db, &ended, COLUMNS, par, on_ended, r->d))
        on_ended(NULL, r->d);
    forget(r);
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    flush(arg);
}

void receipt_ended(struct receipts *r, const struct receipt_end *e)
{
    static const struct timeval gather = { 0, GATHER_MS * 1000L };
    const char *const texts[] = { e->command_id, e->status, e->stage, e->response };
    const int64_t numbers[] = { e->written_ms, e->acked_ms, e->answered_ms, e->finished_ms };
    for (int i = 0; i < 4; i++) {
        cw_db_array_str(&r->column[i], texts[i]);
        cw_db_array_int(&r->column[4 + i], numbers[i]);
    }
    if (++r->n == 1) {
        cw_app_in_flight(r->d->app, 1);
        evtimer_add(r->flush, &gather);
    }
    /* what ended without an answer at once: one that comes now must be seen to be late */
    if (r->n == GATHER_MAX || !e->answered_ms)
        flush(r);
}

struct receipts *receipts_open(struct dispatcher *d)
{
    static const struct timeval hour = { 3600, 0 };
    struct receipts *r = cw_calloc(1, sizeof *r);
    r->d = d;
    r->hourly = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_hour, r);
    r->flush = evtimer_new(cw_app_base(d->app), on_flush, r);
    event_add(r->hourly, &hour);
    forget(r);
    return r;
}

void receipts_close(struct receipts **at)
{
    struct receipts *r = *at;
    if (!r)
        return;
    *at = NULL;
    event_free(r->hourly);
    event_free(r->flush);
    for (int i = 0; i < COLUMNS; i++)
        cw_db_array_free(&r->column[i]);
    free(r);
}
