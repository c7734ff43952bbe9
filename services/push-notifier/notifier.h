/* notifier.h - what the files of push-notifier share. */
#pragma once

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/http_client.h"
#include "libcommon/log_append.h"
#include "libcommon/log_fetch.h"
#include "libcommon/log_owner.h"
#include "libcommon/metrics.h"
#include "libcommon/notice.h"
#include "libcommon/service.h"

#include "services/push-notifier/window.h"

struct part;

struct notifier {
    struct cw_app *app;
    struct cw_db *db;    /* reads: actions, rows, ledger */
    struct cw_db *fence; /* the owner's connection: locks and saves, nothing else */
    struct cw_log_owner *owner;
    struct cw_http *http;
    struct cw_log_append *uplink;
    struct cw_notices *notices;
    struct window *window;
    struct part **parts; /* by partition; NULL: not ours */
    struct event *tick, *ledger, *sweep;
    struct cw_bus_sub *subs[2];
    bool ledger_asked, quota_asked;
    uint8_t seal_key[32];
    char *deny, *source;
    int64_t timeout_ms, retry_ms, delay_ms, probe_ms, park_ms, expire_ms, sweep_ms;
    int64_t block_after, connections, window_items, window_bytes, backlog_bytes;
    int64_t delays_ms[8];
};

/* ---- source.c: where pushes come from */

/* Adds the addresses of this machine that its routes choose for targets far away. */
void sources_of_routes(json_t *list);

/* ---- partitions.c: a partition from the lock to its release; saves */

/* The lock is ours: reads position and lanes, then fetches. self: the notifier. */
void partition_gained(uint32_t number, void *self);
/* Somebody else wants it: what is in flight is finished and saved first; then the owner is told. */
void partition_release(uint32_t number, void *self);
/* The lock went with its connection: everything of it is forgotten at once, nothing is saved. */
void partition_lost(uint32_t number, void *self);
/* Saves and trims that are due. */
void partitions_tick(struct notifier *n, int64_t now_ms);
/* Frees all of them, at the end of the process. */
void partitions_stop(struct notifier *n);

/* ---- rows.c: parked rows, read when their turn has come or their time is over */

/* The window's ops load and cancel_load; the answer is window_loaded(), which may bring no rows. */
void rows_load(struct lane *lane, void *self);
void rows_cancel(struct lane *lane, void *self);
/* Loads that could not be sent are answered as failed, so that the window asks again. */
void rows_tick(struct notifier *n, int64_t now_ms);
/* Ends rows that are parked longer than EXPIRE, or beyond what a rule may have parked. */
void rows_sweep(struct notifier *n);
/* Forgets what the sweep has asked, at the end of the process. */
void rows_stop(void);

/* ---- actions.c: where to, loaded when first needed */

/* What is known of an action; of action->detail. Texts are owned, NULL: none. */
struct where {
    struct notifier *n;
    struct action *action;
    struct cw_db_query *query;
    char *url, *ca_pem, *cert_name, *sni, *token;
    bool any_name, retry, failed;
    int64_t loaded_ms;
    char last[256]; /* why the last attempt failed */
};
/* The window's ops look_up and forget; the answer is window_action(), NULL: it was deleted. */
void actions_look_up(struct action *action, void *self);
void actions_forget(struct action *action, void *self);
/* Hears when rules change, and reads again what it knows of them. */
void actions_start(struct notifier *n);
/* Lookups that failed are tried again, and what is old is read again while lanes use it. */
void actions_tick(struct notifier *n, int64_t now_ms);

/* ---- send.c: one attempt */

/* The window's ops send and cancel: a POST; the answer is window_answered(). */
void send_item(struct item *item, void *self);
void send_cancel(struct item *item, void *self);

/* ---- tell.c: why, logs, metrics */

/* An attempt is over: counted, and if it failed a notice for the device's why. */
void tell_attempt(struct notifier *n, const struct item *item, const struct cw_http_outcome *o);
/* The window's ops for people: notices, log lines, metrics. self: the notifier. */
void tell_finished(const struct item *item, enum outcome how, void *self);
void tell_waits(const struct item *item, const struct target *blocked, void *self);
void tell_blocked(const struct target *target, bool blocked, void *self);
/* Asks the database for what is owed and parked, for the gauges. */
void tell_ledger(struct notifier *n);
