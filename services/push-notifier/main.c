/* push-notifier: delivers what applications are owed, in order per device, and says how it went. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "proto/subjects.h"
#include "services/push-notifier/notifier.h"

#define TICK_MS   100
#define LEDGER_MS 5000

#define AT(f) offsetof(struct notifier, f)
static const struct cw_option options[] = {
    { "KEY_SEAL", CW_OPT_HEX32, NULL, 0, 0, AT(seal_key), "opens tokens; rule-engine's, too" },
    { "PUSH_TIMEOUT", CW_OPT_MS, "15s", 10, 600000, AT(timeout_ms), "wait for a target's answer" },
    { "PUSH_RETRY_WINDOW", CW_OPT_MS, "600s", 0, 86400000, AT(retry_ms),
      "try again for so long; does not run while the target is blocked" },
    { "PUSH_RETRY_DELAY", CW_OPT_MS, "1s", 1, 60000, AT(delay_ms),
      "first pause; then 2, 4, 8, 16, 32, 60 times as long" },
    { "PUSH_BLOCK_AFTER", CW_OPT_INT, "10", 1, 1000000, AT(block_after),
      "failures in a row that block a target (host:port)" },
    { "PUSH_PROBE", CW_OPT_MS, "180s", 10, 86400000, AT(probe_ms), "tries of a blocked target" },
    { "PUSH_PARK", CW_OPT_MS, "1s", 0, 60000, AT(park_ms),
      "what is unfinished after this goes to the table, unless its application keeps pace" },
    { "PUSH_EXPIRE", CW_OPT_MS, "86399s", 100, 864000000, AT(expire_ms),
      "what is parked longer is given up" },
    { "PUSH_BACKLOG", CW_OPT_BYTES, "1G", 1024, INT64_MAX, AT(backlog_bytes),
      "parked for one rule; beyond it the oldest are given up" },
    { "PUSH_SWEEP", CW_OPT_MS, "10s", 10, 3600000, AT(sweep_ms),
      "look for what is to be given up" },
    { "PUSH_CONNECTIONS", CW_OPT_INT, "64", 1, 10000, AT(connections), "at once to one target" },
    { "PUSH_WINDOW_ITEMS", CW_OPT_INT, "4096", 1, 1000000, AT(window_items),
      "unfinished in memory, of a partition" },
    { "PUSH_WINDOW_BYTES", CW_OPT_BYTES, "8M", 1024, 1073741824, AT(window_bytes),
      "unfinished in memory, of a partition" },
    { "PUSH_DENY", CW_OPT_STRING, "", 0, 4096, AT(deny),
      "networks that are no targets, beside link-local: 10.0.0.0/8, fd00::/8" },
    { "PUSH_SOURCE", CW_OPT_STRING, "", 0, 45, AT(source),
      "address of this machine that pushes come from; empty: as its routes say" },
    { 0 },
};

static const struct window_ops ops = {
    .send = send_item,
    .cancel = send_cancel,
    .load = rows_load,
    .cancel_load = rows_cancel,
    .look_up = actions_look_up,
    .forget = actions_forget,
    .finished = tell_finished,
    .waits = tell_waits,
    .blocked = tell_blocked,
};

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct notifier *n = arg;
    int64_t now_ms = cw_now_ms();
    (void)fd, (void)what;
    rows_tick(n, now_ms);
    actions_tick(n, now_ms);
    window_tick(n->window, now_ms);
    partitions_tick(n, now_ms);
}

static void on_ledger(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    tell_ledger(arg);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    rows_sweep(arg);
}

static struct event *every(struct notifier *n, int64_t ms, event_callback_fn fn)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    struct event *e = event_new(cw_app_base(n->app), -1, EV_PERSIST, fn, n);
    event_add(e, &t);
    return e;
}

static void make_window(struct notifier *n)
{
    static const int64_t steps[] = { 1, 2, 4, 8, 16, 32, 60 };
    for (size_t i = 0; i < CW_ARRAY_LEN(steps); i++)
        n->delays_ms[i] = steps[i] * n->delay_ms;
    n->window = window_new(&(struct window_limits){ .items = (size_t)n->window_items,
                                                    .bytes = (size_t)n->window_bytes,
                                                    .slots = (size_t)n->connections,
                                                    .park_ms = n->park_ms,
                                                    .retry_ms = n->retry_ms,
                                                    .probe_ms = n->probe_ms,
                                                    .block_after = (unsigned)n->block_after,
                                                    .delays_ms = n->delays_ms },
                           &ops, n);
}

static int start(struct cw_app *app, void *self)
{
    struct notifier *n = self;
    char err[200];
    n->app = app;
    n->db = cw_app_db(app);
    int rc = cw_http_open(&n->http, cw_app_base(app),
                          &(struct cw_http_config){ .deny = n->deny,
                                                    .source = n->source,
                                                    .max_answer_bytes = 1024,
                                                    .idle_connections = 256 },
                          err, sizeof err);
    if (rc < 0) {
        cw_log(CW_ERROR, "could_not_start", "CAUSEWAY_PUSH_DENY or CAUSEWAY_PUSH_SOURCE: %s", err);
        return rc;
    }
    make_window(n);
    n->parts = cw_calloc(cw_app_partitions(app), sizeof(struct part *));
    n->uplink = cw_log_append_open(app, CW_LOG_UPLINK);
    n->notices = cw_notices_open(app, n->uplink);
    actions_start(n);
    char *name = cw_sprintf("%s fence", cw_app_name(app));
    n->fence = cw_db_open(cw_app_base(app), cw_app_db_conninfo(app), name);
    free(name);
    n->owner = cw_log_owner_open(app, n->fence,
                                 &(struct cw_log_owner_config){ .log = CW_LOG_PUSH,
                                                                .group = "push-notifier",
                                                                .schema = "push",
                                                                .self = n,
                                                                .gained = partition_gained,
                                                                .release = partition_release,
                                                                .lost = partition_lost });
    n->tick = every(n, TICK_MS, on_tick);
    n->ledger = every(n, LEDGER_MS, on_ledger);
    n->sweep = every(n, n->sweep_ms, on_sweep);
    return 0;
}

static void drain(struct cw_app *app, void *self)
{
    struct notifier *n = self;
    (void)app;
    cw_log_owner_drain(n->owner);
}

static void stop(void *self)
{
    struct notifier *n = self;
    struct event *events[] = { n->tick, n->ledger, n->sweep };
    for (size_t i = 0; i < CW_ARRAY_LEN(events); i++)
        if (events[i])
            event_free(events[i]);
    rows_stop();
    partitions_stop(n);
    cw_log_owner_close(&n->owner);
    if (n->window)
        window_free(&n->window);
    cw_notices_close(&n->notices);
    cw_log_append_close(&n->uplink);
    cw_http_close(&n->http);
    cw_db_close(&n->fence);
}

static void facts(struct cw_facts *f, void *self)
{
    const struct notifier *n = self;
    json_t *sources = json_array();
    if (*n->source)
        json_array_append_new(sources, json_string(n->source));
    else
        sources_of_routes(sources);
    cw_facts_set(f, "push_source_addresses", sources);
}

int main(int argc, char **argv)
{
    static struct notifier self;
    return cw_service_run(&(struct cw_service){ .name = "push-notifier",
                                                .summary = "delivers notifications over HTTP",
                                                .options = options,
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .schema_version = 7,
                                                .facts = facts,
                                                .start = start,
                                                .drain = drain,
                                                .stop = stop },
                          argc, argv);
}
