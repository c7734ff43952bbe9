/* Gauges from rule.position: they count durable things, whoever owns the partitions. */
#include <stdio.h>
#include <stdlib.h>

#include <event2/event.h>

#include "services/rule-engine/engine.h"

#define LEDGER_EVERY_S 2

static const struct cw_stmt stmt_ledger = {
    "ledger", "SELECT coalesce(sum(totals[1]), 0) AS t0, coalesce(sum(totals[2]), 0) AS t1,"
              " coalesce(sum(totals[3]), 0) AS t2, coalesce(sum(totals[4]), 0) AS t3"
              " FROM rule.position WHERE log = 'EVENT'"
};
static struct {
    struct engine *e;
    struct event *timer;
    struct cw_db_query *asked;
} ledger;

static void on_ledger(PGresult *res, void *arg)
{
#define LEDGER_WORD(name, word) word,
    static const char *const words[] = { LEDGER(LEDGER_WORD) };
    (void)arg;
    ledger.asked = NULL;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    for (int i = 0; i < LEDGER_COUNT; i++) {
        char label[32];
        snprintf(label, sizeof label, "what=\"%s\"", words[i]);
        cw_metric_set(cw_gauge("causeway_rule_ledger", label,
                               "Totals of all partitions: matched = owed + refused."),
                      atoll(PQgetvalue(res, 0, i)));
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    if (!ledger.asked)
        ledger.asked = cw_db_exec(ledger.e->db, &stmt_ledger, 0, NULL, on_ledger, NULL);
}

void ledger_start(struct engine *e)
{
    static const struct timeval every = { LEDGER_EVERY_S, 0 };
    ledger.e = e;
    ledger.timer = event_new(cw_app_base(e->app), -1, EV_PERSIST, on_timer, NULL);
    event_add(ledger.timer, &every);
}

void ledger_stop(void)
{
    if (ledger.timer)
        event_free(ledger.timer);
    ledger.timer = NULL;
    if (ledger.asked)
        cw_db_cancel(ledger.asked);
    ledger.asked = NULL;
}
