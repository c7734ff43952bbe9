/* devices.h - the facts about devices that go into events, from registry.device_view. A cache:
 * bounded, stale after 60 s, after invalidate.device and after a reconnect of NATS. */
#pragma once

#include <uthash.h>

#include "libcommon/db.h"

struct cw_app;
struct devices;

struct device {
    int64_t device_key; /* the key of the hash */
    int64_t product_key;
    char *device_id, *node_id, *app_id, *product_id, *gateway_id; /* in one allocation */
    int64_t fresh_until_ms;
    int64_t last_ms; /* of the last record that was seen of it, as devices_time() gave it */
    bool exists;
    UT_hash_handle hh;
};

/* max: what devices_trim() leaves. db is borrowed. Never NULL. */
struct devices *devices_open(struct cw_app *app, struct cw_db *db, int64_t max);
/* While no load is under way: close db first, which ends them. Sets *d to NULL; NULL is fine. */
void devices_close(struct devices **d);

typedef void devices_fn(int rc, void *arg);
/* Makes these devices present, unknown ones too. 1: they are; 0: cb runs once, later, with rc 0 or
 * -EIO; -ENOTCONN: the database is away, cb will not run. */
int devices_load(struct devices *d, const int64_t *keys, size_t n, devices_fn *cb, void *arg);

/* Borrowed until the next return to the loop. NULL: there is no such device. */
const struct device *devices_find(const struct devices *d, int64_t device_key);

/* When a record of d counts as received, given what its gateway's clock said and ours (both ms
 * since 1970): never before an earlier record of d, whatever clocks do, since history is read in
 * the order of this time; and not in the future by more than 10 s. As it is for a
 * device that is not loaded. */
int64_t devices_time(struct devices *all, int64_t device_key, int64_t received_ms, int64_t now_ms);
/* All are looked up again before they are used: another instance may have gone on with them. */
void devices_stale(struct devices *d);

/* Drops the oldest beyond the limit; called between batches, so that what a batch has loaded is
 * there when it looks. */
void devices_trim(struct devices *d);
