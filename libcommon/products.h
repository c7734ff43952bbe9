/* products.h - compiled product models by product_key, from registry.product_view. A cache:
 * bounded, stale after 60 s, after invalidate.product and after a reconnect of NATS. Loop thread
 * only. */
#pragma once

#include "libcommon/db.h"
#include "libcommon/model.h"

struct cw_app;
struct cw_products;

/* db is borrowed. Never NULL. */
struct cw_products *cw_products_open(struct cw_app *app, struct cw_db *db);
/* While no load is under way: close db first, which ends them. Sets *p to NULL; NULL is fine. */
void cw_products_close(struct cw_products **p);

typedef void cw_products_fn(int rc, void *arg);
/* Makes the models of these keys present. 1: they are; 0: cb runs once, later, with rc 0 or -EIO.
 * -ENOTCONN: the database is away; cb will not run. */
int cw_products_load(struct cw_products *p, const int64_t *keys, size_t n, cw_products_fn *cb,
                     void *arg);

/* The model, borrowed until the next return to the loop; NULL: no such product, or not loaded. */
const struct cw_model *cw_products_find(const struct cw_products *p, int64_t product_key);
