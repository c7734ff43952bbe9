/* proxies.h - device proxies: gateways that may speak for each other's children for a time
 * (docs/protocol/device-proxies.md). Read anew for each batch that has to do with them, so that a
 * proxy that was changed or deleted counts from the next batch on. */
#pragma once

#include "libcommon/db.h"

struct proxies;
/* In force from begins_ms until just before ends_ms (ms since 1970). Borrowed from its list. */
struct proxy {
    const char *name;
    int64_t begins_ms, ends_ms;
};

/* Reads into *p all proxies that list one of these gateways (device ids). As devices_load(): 0 cb
 * runs once, later, with rc 0 or -EIO; -ENOTCONN: it will not run. *p must stay until then. */
typedef void proxies_fn(int rc, void *arg);
int proxies_load(struct proxies **p, struct cw_db *db, struct cw_db_array *gateways, proxies_fn *cb,
                 void *arg);
/* A row of registry.proxy_view; *p is made when it is needed. Rows of one proxy come together. */
struct proxy_row {
    const char *proxy_id, *name, *device_id;
    int64_t begins_ms, ends_ms, device_key;
};
void proxies_add(struct proxies **p, const struct proxy_row *row);
/* NULL is fine. */
void proxies_free(struct proxies **p);

/* A proxy that lists both: one in force at at_ms if there is, else the next that begins, else the
 * last that was over. NULL: none. p may be NULL. */
const struct proxy *proxies_find(const struct proxies *p, const char *one, const char *other,
                                 int64_t at_ms);
bool proxy_in_force(const struct proxy *proxy, int64_t at_ms);
/* Its device id, if a proxy lists it; else NULL. */
const char *proxies_gateway(const struct proxies *p, int64_t device_key);
