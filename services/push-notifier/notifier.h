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
    char *deny;
    int64_t timeout_ms, retry_ms, delay_ms, probe_ms, park_ms, expire_ms, sweep_ms;
    int64_t block_after, connections, window_items, window_bytes, backlog_bytes;
    int64_t delays_ms[8];
};

/* ---- partitions.c: a partition from the lock to its release; saves */

void partition_gained(uint32_t number, void *self);
void partition_release(uint32_t number, void *self);
void partition_lost(uint32_t number, void *self);
void partitions_tick(struct notifier *n, int64_t now_ms);
void partitions_stop(struct notifier *n);

/* ---- rows.c: parked rows, read when their turn has come or their time is over */

void rows_load(struct lane *lane, void *self);
void rows_cancel(struct lane *lane, void *self);
void rows_tick(struct notifier *n, int64_t now_ms);
void rows_sweep(struct notifier *n);
void rows_stop(void);

/* ---- actions.c: where to, loaded when first needed */

struct where {
    struct notifier *n;
    struct action *action;
    struct cw_db_query *query;
    char *url, *ca_pem, *cert_name, *sni, *token;
    bool any_name, retry, failed;
    int64_t loaded_ms;
    char last[256]; /* why the last attempt failed */
};
void actions_look_up(struct action *action, void *self);
void actions_forget(struct action *action, void *self);
void actions_start(struct notifier *n);
void actions_tick(struct notifier *n, int64_t now_ms);

/* ---- send.c: one attempt */

void send_item(struct item *item, void *self);
void send_cancel(struct item *item, void *self);

/* ---- tell.c: why, logs, metrics */

void tell_attempt(struct notifier *n, const struct item *item, const struct cw_http_outcome *o);
void tell_finished(const struct item *item, enum outcome how, void *self);
void tell_waits(const struct item *item, const struct target *blocked, void *self);
void tell_blocked(const struct target *target, bool blocked, void *self);
void tell_ledger(struct notifier *n);
