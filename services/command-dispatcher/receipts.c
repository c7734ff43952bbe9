/* Old receipts go: once an hour, a bounded number at a time. */
#include <event2/event.h>

#include "services/command-dispatcher/dispatcher.h"

static const struct cw_stmt sweeps[] = {
    { "receipts_commands",
      "DELETE FROM command.command WHERE command_id IN (SELECT command_id FROM command.command "
      "WHERE created < now() - make_interval(days => $1::int) LIMIT 10000)" },
    { "receipts_messages",
      "DELETE FROM command.message WHERE (device_key, message_id) IN "
      "(SELECT device_key, message_id FROM command.message WHERE status <> 'PENDING' "
      "AND created < now() - make_interval(days => $1::int) LIMIT 10000)" },
};

static void on_swept(PGresult *res, void *arg)
{
    (void)arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_WARN, "receipts_not_swept", "reason=\"%s\"", cw_db_error(res));
}

static void on_hour(evutil_socket_t fd, short what, void *arg)
{
    struct dispatcher *d = arg;
    char days[24];
    struct cw_db_param par = cw_db_int(d->keep_days, days);
    (void)fd, (void)what;
    for (size_t i = 0; i < CW_ARRAY_LEN(sweeps); i++)
        cw_db_exec(d->db, &sweeps[i], 1, &par, on_swept, NULL);
}

void receipts_start(struct dispatcher *d)
{
    static const struct timeval hour = { 3600, 0 };
    d->hourly = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_hour, d);
    event_add(d->hourly, &hour);
}

void receipts_stop(struct dispatcher *d)
{
    if (d->hourly)
        event_free(d->hourly);
    d->hourly = NULL;
}
