/* The active rules in memory: loaded at start and again whenever they may have changed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "services/rule-engine/engine.h"

#define REFRESH_S 60 /* a hint may have been lost */
#define RETRY_S   1

static const struct cw_stmt stmt_load = {
    "table_load", "SELECT r.resource, r.event, r.rule_id, a.action_id, r.app_id"
                  " FROM rule.rule r JOIN rule.action a USING (rule_id) WHERE r.active"
                  " ORDER BY r.record_id, a.record_id"
};

struct rule_table {
    struct engine *e;
    struct rule_set set;
    struct cw_bus_sub *subs[2];
    struct event *timer, *soon;
    struct cw_db_query *load;
    bool due; /* rules may have changed since the last load was begun */
    void (*ready)(struct engine *e);
    rule_table_fn *waiter; /* the reader has one transaction at a time */
    void *waiter_arg;
};

static void begin_load(struct rule_table *t);

static void serve_waiter(struct rule_table *t)
{
    rule_table_fn *cb = t->waiter;
    t->waiter = NULL;
    if (cb)
        cb(&t->set, t->waiter_arg);
}

static void on_load(PGresult *res, void *arg)
{
    static struct cw_log_gate gate;
    struct rule_table *t = arg;
    struct timeval again = { RETRY_S, 0 }, refresh = { REFRESH_S, 0 };
    t->load = NULL;
    if (cw_db_outcome(res) != CW_DB_OK) {
        cw_log_limited(&gate, CW_WARN, "rules_not_loaded", "reason=\"%s\"", cw_db_error(res));
        t->due = true;
        evtimer_add(t->timer, &again);
        return;
    }
    rule_set_free(&t->set);
    for (int i = 0; i < PQntuples(res); i++)
        rule_set_add(&t->set, cw_db_str(res, i, "resource"), cw_db_str(res, i, "event"),
                     cw_db_str(res, i, "rule_id"), cw_db_str(res, i, "action_id"),
                     cw_db_str(res, i, "app_id"));
    cw_metric_set(cw_gauge("causeway_rules_active", NULL, "Actions of active rules in memory."),
                  PQntuples(res));
    evtimer_add(t->timer, &refresh);
    if (t->due) {
        begin_load(t);
        return;
    }
    if (t->ready)
        t->ready(t->e);
    t->ready = NULL;
    serve_waiter(t);
}

static void begin_load(struct rule_table *t)
{
    struct timeval again = { RETRY_S, 0 };
    t->due = false;
    t->load = cw_db_exec(t->e->db, &stmt_load, 0, NULL, on_load, t);
    if (!t->load) {
        t->due = true;
        evtimer_add(t->timer, &again);
    }
}

static void load_soon(struct rule_table *t)
{
    t->due = true;
    if (!t->load)
        event_active(t->soon, 0, 0); /* one load for all hints of this turn */
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct rule_table *t = arg;
    (void)fd, (void)what;
    t->due = true;
    if (!t->load)
        begin_load(t);
}

static void on_hint(const struct cw_bus_msg *msg, void *arg)
{
    (void)msg;
    load_soon(arg);
}

static void on_bus(bool connected, void *arg)
{
    if (connected)
        load_soon(arg); /* hints may have been lost meanwhile */
}

struct rule_table *rule_table_open(struct engine *e, void (*ready)(struct engine *e))
{
    struct rule_table *t = cw_calloc(1, sizeof *t);
    *t = (struct rule_table){ .e = e, .ready = ready };
    t->timer = evtimer_new(cw_app_base(e->app), on_timer, t);
    t->soon = evtimer_new(cw_app_base(e->app), on_timer, t);
    t->subs[0] = cw_bus_subscribe(cw_app_bus(e->app), "invalidate.rule", NULL, on_hint, t);
    t->subs[1] = cw_bus_subscribe(cw_app_bus(e->app), "invalidate.action", NULL, on_hint, t);
    cw_bus_watch(cw_app_bus(e->app), on_bus, t);
    load_soon(t);
    return t;
}

void rule_table_with(struct rule_table *t, rule_table_fn *cb, void *arg)
{
    if (t->waiter)
        abort(); /* a mistake in the source: see waiter */
    t->waiter = cb;
    t->waiter_arg = arg;
    if (!t->due && !t->load)
        serve_waiter(t);
}

void rule_table_close(struct rule_table **table)
{
    struct rule_table *t = *table;
    if (!t)
        return;
    if (t->load)
        cw_db_cancel(t->load);
    cw_bus_unwatch(cw_app_bus(t->e->app), on_bus, t);
    cw_bus_unsubscribe(&t->subs[0]);
    cw_bus_unsubscribe(&t->subs[1]);
    event_free(t->timer);
    event_free(t->soon);
    rule_set_free(&t->set);
    free(t);
    *table = NULL;
}

void rules_changed(struct engine *e, const char *kind, const char *id)
{
    char subject[32];
    snprintf(subject, sizeof subject, "invalidate.%s", kind);
    cw_bus_publish(cw_app_bus(e->app), subject, NULL, id, strlen(id));
    load_soon(e->table); /* also while NATS is away */
}
