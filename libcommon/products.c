#include "libcommon/products.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/service.h"

#define PRODUCTS_MAX 2000
#define FRESH_MS     60000

struct product {
    int64_t key;
    struct cw_model *model; /* NULL: no such product */
    int64_t fresh_until_ms; /* monotonic; 0: look again */
    UT_hash_handle hh;
};

struct cw_products {
    struct cw_db *db;
    struct cw_bus_sub *sub;
    struct product *all;
    uint64_t generation; /* counts invalidations: what was asked for before one is stale */
};

struct load {
    struct cw_products *products;
    uint64_t generation;
    int64_t *keys;
    size_t n;
    cw_products_fn *cb;
    void *arg;
};

static const struct cw_stmt stmt_load = {
    "products_load", "SELECT product_key, service_capabilities::text AS model "
                     "FROM registry.product_view WHERE product_key = ANY($1)"
};

static void set_model(struct cw_products *p, int64_t key, struct cw_model *take, int64_t until_ms)
{
    struct product *e;
    HASH_FIND(hh, p->all, &key, sizeof key, e);
    if (e) {
        cw_model_free(&e->model);
        HASH_DEL(p->all, e); /* and in again at the end: the list is ordered by age */
    } else {
        e = cw_calloc(1, sizeof *e);
        e->key = key;
    }
    e->model = take;
    e->fresh_until_ms = until_ms;
    HASH_ADD(hh, p->all, key, sizeof e->key, e);
}

static struct cw_model *compile(int64_t key, const char *text)
{
    struct cw_model *model = NULL;
    struct cw_model_error err;
    if (text && cw_model_parse(&model, text, strlen(text), &err) < 0)
        cw_log(CW_ERROR, "product_model_broken",
               "product_key=%" PRId64 " path=\"%s\" reason=\"%s\"", key, err.path, err.text);
    return model;
}

static void load_free(struct load *l)
{
    free(l->keys);
    free(l);
}

static void on_loaded(PGresult *res, void *arg)
{
    struct load *l = arg;
    struct cw_products *p = l->products;
    int rc = cw_db_outcome(res) == CW_DB_OK ? 0 : -EIO;
    int64_t until_ms = l->generation == p->generation ? cw_mono_ms() + FRESH_MS : 0;
    for (size_t i = 0; rc == 0 && i < l->n; i++)
        set_model(p, l->keys[i], NULL, until_ms);
    for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
        int64_t key = cw_db_i64(res, i, "product_key", 0);
        set_model(p, key, compile(key, cw_db_str(res, i, "model")), until_ms);
    }
    l->cb(rc, l->arg);
    load_free(l);
}

/* Only between loads, so that what one caller loaded is there when it looks. */
static void evict(struct cw_products *p)
{
    /* the checker does not see that the head moves on */
    while (HASH_COUNT(p->all) > PRODUCTS_MAX) { /* NOLINT */
        struct product *oldest = p->all;
        HASH_DEL(p->all, oldest);
        cw_model_free(&oldest->model);
        free(oldest);
    }
}

static bool is_fresh(const struct cw_products *p, int64_t key, int64_t now_ms)
{
    const struct product *e;
    HASH_FIND(hh, p->all, &key, sizeof key, e);
    return e && e->fresh_until_ms > now_ms;
}

int cw_products_load(struct cw_products *p, const int64_t *keys, size_t n, cw_products_fn *cb,
                     void *arg)
{
    struct cw_db_array want = { 0 };
    struct load *l = cw_calloc(1, sizeof *l);
    int64_t now_ms = cw_mono_ms();
    int rc = 1;
    *l = (struct load){ p, p->generation, cw_calloc(n ? n : 1, sizeof *keys), 0, cb, arg };
    cw_db_array_reset(&want, CW_ARRAY_INT8);
    for (size_t i = 0; i < n; i++)
        if (!is_fresh(p, keys[i], now_ms)) {
            l->keys[l->n++] = keys[i];
            cw_db_array_int(&want, keys[i]);
        }
    if (l->n > 0) {
        struct cw_db_param par = cw_db_array_param(&want);
        evict(p);
        rc = cw_db_exec(p->db, &stmt_load, 1, &par, on_loaded, l) ? 0 : -ENOTCONN;
    }
    if (rc != 0)
        load_free(l);
    cw_db_array_free(&want);
    return rc;
}

const struct cw_model *cw_products_find(const struct cw_products *p, int64_t product_key)
{
    const struct product *e;
    HASH_FIND(hh, p->all, &product_key, sizeof product_key, e);
    return e ? e->model : NULL;
}

/* Products change rarely: all are looked at again, whatever the message says. */
static void grow_stale(struct cw_products *p)
{
    p->generation++;
    for (struct product *e = p->all; e; e = e->hh.next)
        e->fresh_until_ms = 0;
}

static void on_invalidate(const struct cw_bus_msg *msg, void *arg)
{
    (void)msg;
    grow_stale(arg);
}

static void on_bus(bool connected, void *arg)
{
    (void)connected; /* what was published meanwhile was missed */
    grow_stale(arg);
}

struct cw_products *cw_products_open(struct cw_app *app, struct cw_db *db)
{
    struct cw_products *p = cw_calloc(1, sizeof *p);
    p->db = db;
    p->sub = cw_bus_subscribe(cw_app_bus(app), "invalidate.product", NULL, on_invalidate, p);
    cw_bus_watch(cw_app_bus(app), on_bus, p);
    return p;
}

/* At the end of the process: the bus still knows its watcher, but the loop does not run any more.
 */
void cw_products_close(struct cw_products **at)
{
    struct cw_products *p = *at;
    if (!p)
        return;
    *at = NULL;
    if (p->sub)
        cw_bus_unsubscribe(&p->sub);
    struct product *e = p->all, *next;
    HASH_CLEAR(hh, p->all);
    for (; e; e = next) {
        next = e->hh.next;
        cw_model_free(&e->model);
        free(e);
    }
    free(p);
}
