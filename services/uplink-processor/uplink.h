/* uplink.h - what the files of uplink-processor share. */
#pragma once

#include "libcommon/db.h"
#include "libcommon/log_read.h"
#include "libcommon/metrics.h"
#include "libcommon/products.h"
#include "libcommon/service.h"

/* Totals of a partition, kept in its position row in the same transaction: each record of UPLINK is
 * in exactly one of the first seven. */
#define LEDGER(X)                                                                                  \
    X(STORED, "stored")                                                                            \
    X(REFUSED, "refused")                                                                          \
    X(QUARANTINED, "quarantined")                                                                  \
    X(STATUS, "status")                                                                            \
    X(NOTICES, "notices")                                                                          \
    X(GATEWAY_REFUSED, "gateway_refused")                                                          \
    X(UNKNOWN_DEVICE, "unknown_device")                                                            \
    X(EVENTS, "events")
#define LEDGER_ENUM(name, word) LEDGER_##name,
enum ledger { LEDGER(LEDGER_ENUM) LEDGER_COUNT };
#undef LEDGER_ENUM

struct devices;
struct history;
struct orphans;

struct uplink {
    struct cw_app *app;
    struct cw_db *db; /* look-ups and serving; transactions have connections of their own */
    struct cw_log_reader *reader;
    struct cw_log_append *notices_to;
    struct cw_notices *notices;
    struct cw_products *products;
    struct devices *devices;
    struct history *history;
    struct orphans *orphans;
    struct event *ledger_timer, *sleepers_timer;
    bool ledger_asked, sleepers_asked;
    char *bootstrap_address; /* "host:port"; "": not told */
    int64_t history_days, device_cache, abnormal_ms, offline_ms, sleep_sweep_ms;
};

/* batch.c: the steps of the reader (log_read.h). A look-up that fails is tried again later. */
void batch_prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self);
/* A few statements with arrays, however many records there are. */
void batch_effects(struct cw_log_txn *txn, void *self);
/* Frees the batch; nothing is kept of one that was undone. */
void batch_done(struct cw_log_txn *txn, bool committed, void *self);
/* effects.c: of the changes of devices $1::bigint[], the newest 64 stay */
extern const struct cw_stmt stmt_keep_changes;

/* ledger.c: gauges from data.position, every few seconds */
int ledger_start(struct uplink *u);

/* sleepers.c: the status of devices that sleep, from their silence */
void sleepers_start(struct uplink *u);
void sleepers_stop(struct uplink *u); /* also if it was never started */

/* orphans.c: children go OFFLINE with their gateway; each second, and when woken */
struct orphans *orphans_open(struct uplink *u);
/* Looks now; nothing when it is just looking, or drains. */
void orphans_wake(struct orphans *o);
/* After u->db, which ends what it asked. NULL is fine. */
void orphans_close(struct orphans **o);

/* status_fact.c: a packed Causeway.Event of columns status, last_ms, session_no and those of a
 * device. The caller frees it. */
struct cw_buf status_fact(const PGresult *res, int row, int64_t now_ms);

/* serve.c: api.data.* */
void serve_start(struct uplink *u);
