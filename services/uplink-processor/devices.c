#include "services/uplink-processor/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/service.h"

#define FRESH_MS 60000
#define AHEAD_MS 10000 /* as far as clocks of two machines may differ */

struct devices {
    struct cw_db *db;
    struct cw_bus_sub *sub;
    struct device *all; /* oldest first */
    size_t max;
    uint64_t generation; /* counts invalidations: what was asked for before one is stale */
};

struct load {
    struct devices *devices;
    uint64_t generation;
    int64_t *keys;
    size_t n;
    devices_fn *cb;
    void *arg;
};

static const struct cw_stmt stmt_load = {
    "devices_load",
    "SELECT v.device_key, v.device_id, coalesce(v.node_id, '') AS node_id,"
    " coalesce(v.app_id, '') AS app_id, v.product_key, coalesce(v.product_id, '') AS product_id,"
    " coalesce(v.gateway_id, v.device_id) AS gateway_id,"
    " greatest(s.connected_ms, s.since_ms, s.last_report_ms, s.last_message_ms) AS last_ms"
    " FROM registry.device_view v LEFT JOIN data.device_state s USING (device_key)"
    " WHERE v.device_key = ANY($1)"
};

static void load_free(struct load *l)
{
    free(l->keys);
    free(l);
}

static struct device *entry(struct devices *d, int64_t key)
{
    struct device *e;
    HASH_FIND(hh, d->all, &key, sizeof key, e);
    if (e) {
        HASH_DEL(d->all, e); /* and in again at the end */
        free(e->device_id);
        e->device_id = NULL;
    } else {
        e = cw_calloc(1, sizeof *e);
        e->device_key = key;
    }
    HASH_ADD(hh, d->all, device_key, sizeof e->device_key, e);
    return e;
}

static void fill(struct device *e, PGresult *res, int row)
{
    static const char *const columns[] = { "device_id", "node_id", "app_id", "product_id",
                                           "gateway_id" };
    char **to[] = { &e->device_id, &e->node_id, &e->app_id, &e->product_id, &e->gateway_id };
    const char *from[CW_ARRAY_LEN(columns)];
    size_t size = 0;
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++) {
        from[i] = cw_db_str(res, row, columns[i]);
        size += strlen(from[i]) + 1;
    }
    char *at = cw_malloc(size);
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++) {
        *to[i] = strcpy(at, from[i]);
        at += strlen(at) + 1;
    }
    e->product_key = cw_db_i64(res, row, "product_key", 0);
    int64_t last_ms = cw_db_i64(res, row, "last_ms", 0);
    if (e->last_ms < last_ms) /* what is known here may be newer than what is committed */
        e->last_ms = last_ms;
    e->exists = true;
}

static void on_loaded(PGresult *res, void *arg)
{
    struct load *l = arg;
    struct devices *d = l->devices;
    int rc = cw_db_outcome(res) == CW_DB_OK ? 0 : -EIO;
    int64_t until_ms = l->generation == d->generation ? cw_mono_ms() + FRESH_MS : 0;
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        struct device *e = entry(d, l->keys[i]);
        e->exists = false;
        e->fresh_until_ms = until_ms;
    }
    for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
        struct device *e;
        int64_t key = cw_db_i64(res, i, "device_key", 0);
        HASH_FIND(hh, d->all, &key, sizeof key, e);
        if (e)
            fill(e, res, i);
    }
    l->cb(rc, l->arg);
    load_free(l);
}

static void drop(struct devices *d, struct device *e)
{
    HASH_DEL(d->all, e);
    free(e->device_id);
    free(e);
}

static bool is_fresh(const struct devices *d, int64_t key, int64_t now_ms)
{
    const struct device *e;
    HASH_FIND(hh, d->all, &key, sizeof key, e);
    return e && e->fresh_until_ms > now_ms;
}

int devices_load(struct devices *d, const int64_t *keys, size_t n, devices_fn *cb, void *arg)
{
    struct cw_db_array want = { 0 };
    struct load *l = cw_calloc(1, sizeof *l);
    int64_t now_ms = cw_mono_ms();
    int rc = 1;
    *l = (struct load){ d, d->generation, cw_calloc(n ? n : 1, sizeof *keys), 0, cb, arg };
    cw_db_array_reset(&want, CW_ARRAY_INT8);
    for (size_t i = 0; i < n; i++)
        if (!is_fresh(d, keys[i], now_ms)) {
            l->keys[l->n++] = keys[i];
            cw_db_array_int(&want, keys[i]);
        }
    if (l->n > 0) {
        struct cw_db_param par = cw_db_array_param(&want);
        rc = cw_db_exec(d->db, &stmt_load, 1, &par, on_loaded, l) ? 0 : -ENOTCONN;
    }
    if (rc != 0)
        load_free(l);
    cw_db_array_free(&want);
    return rc;
}

const struct device *devices_find(const struct devices *d, int64_t device_key)
{
    const struct device *e;
    HASH_FIND(hh, d->all, &device_key, sizeof device_key, e);
    return e && e->exists ? e : NULL;
}

int64_t devices_time(struct devices *all, int64_t device_key, int64_t received_ms, int64_t now_ms)
{
    static struct cw_log_gate gate;
    struct device *d;
    HASH_FIND(hh, all->all, &device_key, sizeof device_key, d);
    if (!d)
        return received_ms;
    if (received_ms > now_ms + AHEAD_MS) {
        cw_log_limited(&gate, CW_WARN, "clock_ahead", "device=%s by_ms=%lld", d->device_id,
                       (long long)(received_ms - now_ms));
        received_ms = now_ms + AHEAD_MS;
    }
    if (d->last_ms < received_ms)
        d->last_ms = received_ms;
    return d->last_ms;
}

void devices_trim(struct devices *d)
{
    /* the checker does not see that the head moves on */
    while (HASH_COUNT(d->all) > d->max) /* NOLINT */
        drop(d, d->all);
}

void devices_stale(struct devices *d)
{
    d->generation++;
    for (struct device *e = d->all; e; e = e->hh.next)
        e->fresh_until_ms = 0;
}

/* The payload is a device_key; whatever else it is, all are looked at again. */
static void on_invalidate(const struct cw_bus_msg *msg, void *arg)
{
    struct devices *d = arg;
    struct device *e;
    char text[24], *end;
    size_t n = msg->len < sizeof text - 1 ? msg->len : sizeof text - 1;
    if (msg->len)
        memcpy(text, msg->data, n);
    text[n] = '\0';
    int64_t key = strtoll(text, &end, 10);
    d->generation++;
    if (n == 0 || *end) {
        devices_stale(d);
        return;
    }
    HASH_FIND(hh, d->all, &key, sizeof key, e);
    if (e)
        e->fresh_until_ms = 0;
}

static void on_bus(bool connected, void *arg)
{
    (void)connected; /* what was published meanwhile was missed */
    devices_stale(arg);
}

struct devices *devices_open(struct cw_app *app, struct cw_db *db, int64_t max)
{
    struct devices *d = cw_calloc(1, sizeof *d);
    d->db = db;
    d->max = (size_t)max;
    d->sub = cw_bus_subscribe(cw_app_bus(app), "invalidate.device", NULL, on_invalidate, d);
    cw_bus_watch(cw_app_bus(app), on_bus, d);
    return d;
}

void devices_close(struct devices **at)
{
    struct devices *d = *at;
    if (!d)
        return;
    *at = NULL;
    cw_bus_unsubscribe(&d->sub);
    struct device *e = d->all, *next;
    HASH_CLEAR(hh, d->all);
    for (; e; e = next) {
        next = e->hh.next;
        free(e->device_id);
        free(e);
    }
    free(d);
}
