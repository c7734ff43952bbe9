/* The ledger of UPLINK: totals that were committed with the positions, as gauges. */
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "services/uplink-processor/uplink.h"

#define EACH_S 5

static const char *const words[] = {
#define LEDGER_WORD(name, word) word,
    LEDGER(LEDGER_WORD)
#undef LEDGER_WORD
};

static const struct cw_stmt stmt_totals = {
    "ledger_totals",
    "SELECT p.partition, p.totals[1] AS t0, p.totals[2] AS t1, coalesce(q.n, 0) AS t2,"
    " p.totals[4] AS t3, p.totals[5] AS t4, p.totals[6] AS t5, p.totals[7] AS t6,"
    " p.totals[8] AS t7 FROM data.position p LEFT JOIN data.quarantined q USING (log, partition)"
    " WHERE p.log = 'UPLINK'"
};

static void set(const char *partition, int slot, int64_t value)
{
    char labels[64];
    snprintf(labels, sizeof labels, "partition=\"%s\",what=\"%s\"", partition, words[slot]);
    cw_metric_set(cw_gauge("causeway_uplink_records", labels,
                           "Records taken from UPLINK, as committed with the position"),
                  value);
}

static void on_totals(PGresult *res, void *arg)
{
    struct uplink *u = arg;
    u->ledger_asked = false;
    for (int i = 0; cw_db_outcome(res) == CW_DB_OK && i < PQntuples(res); i++)
        for (int slot = 0; slot < LEDGER_COUNT; slot++) {
            char column[8];
            snprintf(column, sizeof column, "t%d", slot);
            set(cw_db_str(res, i, "partition"), slot, cw_db_i64(res, i, column, 0));
        }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct uplink *u = arg;
    (void)fd, (void)what;
    if (!u->ledger_asked && cw_db_exec(cw_app_db(u->app), &stmt_totals, 0, NULL, on_totals, u))
        u->ledger_asked = true;
}

int ledger_start(struct uplink *u)
{
    struct timeval t = { EACH_S, 0 };
    u->ledger_timer = event_new(cw_app_base(u->app), -1, EV_PERSIST, on_timer, u);
    evtimer_add(u->ledger_timer, &t);
    on_timer(-1, 0, u);
    return 0;
}
