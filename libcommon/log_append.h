/* log_append.h - records into a log from outside its chain of owners: gateways and notices into
 * UPLINK.
 *
 * One append is in flight per partition; the same bytes go out until they are confirmed. A batch
 * leaves when the last is confirmed and the clock has passed a multiple of 4 ms since it started
 * (the same moments for all partitions: they are written, and read, together) or 64 KB wait, and
 * closes at 256 KB; a larger record goes alone. Header Cw-Batch: <instance>.<p>.<n>, n counting
 * from 1 in each boot, lets the reader drop a repeat. A message is an UplinkBatch. Loop thread
 * only. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct cw_log_append;

/* Runs once for a record, from the loop, in the order of appending within a partition.
 * 0: stored; the cause may be acknowledged. -ECANCELED: in doubt for 60 s, or closing: the cause
 * must not be acknowledged, and its session must end, since what comes after it would be out of
 * order. */
typedef void cw_append_fn(int rc, void *arg);

/* log (CW_LOG_UPLINK) is borrowed. Returns at once, never NULL: streams that are missing are made
 * meanwhile, and what is appended waits for them. */
struct cw_log_append *cw_log_append_open(struct cw_app *app, const char *log);

/* packed is one Causeway.Uplink; copied. cb may be NULL. Never refuses for want of room: callers
 * stop reading their sockets while cw_log_append_blocked(). */
void cw_log_append(struct cw_log_append *l, uint32_t partition, const void *packed, size_t len,
                   cw_append_fn *cb, void *arg);

/* True while the partition's stream is full, NATS is away, or more than 4 MB wait. */
bool cw_log_append_blocked(const struct cw_log_append *l, uint32_t partition);
/* The one watcher runs at each change of that, not for the present state. */
void cw_log_append_watch(struct cw_log_append *l,
                         void (*cb)(uint32_t partition, bool blocked, void *arg), void *arg);

/* Bytes that wait or are in flight; 0 everywhere means all is confirmed. */
size_t cw_log_append_waiting(const struct cw_log_append *l, uint32_t partition);
/* What is not confirmed gets -ECANCELED. Sets *l to NULL. */
void cw_log_append_close(struct cw_log_append **l);
