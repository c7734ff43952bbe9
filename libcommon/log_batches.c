#include <stdlib.h>
#include <string.h>

#include "libcommon/log_read_internal.h"

/* The last batch of each writer of UPLINK. A writer has one append in flight per partition and
 * counts them, so whatever is not above the last one is a repeat. */

static struct gateway_batch *find(struct rpart *p, const char *name, size_t len, bool make)
{
    struct gateway_batch *g;
    HASH_FIND(hh, p->gateways, name, len, g);
    if (g || !make)
        return g;
    g = cw_calloc(1, sizeof *g + len + 1);
    memcpy(g->name, name, len);
    HASH_ADD_KEYPTR(hh, p->gateways, g->name, len, g);
    return g;
}

void batches_load(struct rpart *p, const PGresult *res)
{
    for (int i = 0; i < PQntuples(res); i++) {
        const char *name = cw_db_str(res, i, "gateway");
        struct gateway_batch *g = find(p, name, strlen(name), true);
        g->n = g->pending = (uint64_t)cw_db_i64(res, i, "n", 0);
    }
}

/* <gateway>.<p>.<n> */
bool batches_repeated(struct rpart *p, const struct cw_record *rec)
{
    const char *dot = rec->batch ? strrchr(rec->batch, '.') : NULL, *end = dot;
    while (end && end > rec->batch && *--end != '.')
        ;
    if (!end || end == rec->batch)
        return false;
    uint64_t n = strtoull(dot + 1, NULL, 10);
    struct gateway_batch *g = find(p, rec->batch, (size_t)(end - rec->batch), true);
    if (n <= g->pending)
        return true;
    g->pending = n;
    return false;
}

void batches_effects(struct cw_log_txn *t)
{
    struct cw_db_array a[3] = { 0 };
    cw_db_array_reset(&a[0], CW_ARRAY_TEXT);
    cw_db_array_reset(&a[1], CW_ARRAY_INT4);
    cw_db_array_reset(&a[2], CW_ARRAY_INT8);
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        for (struct gateway_batch *g = p->in_txn ? p->gateways : NULL; g; g = g->hh.next)
            if (g->pending > g->n) {
                cw_db_array_str(&a[0], g->name);
                cw_db_array_int(&a[1], i);
                cw_db_array_int(&a[2], (int64_t)g->pending);
            }
    }
    if (a[0].n) {
        const struct cw_db_param params[] = { cw_db_array_param(&a[0]), cw_db_array_param(&a[1]),
                                              cw_db_array_param(&a[2]) };
        txn_query(t, &t->r->stmts[ST_BATCH], 3, params, NULL, NULL);
    }
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        cw_db_array_free(&a[i]);
}

void batches_end(struct rpart *p, bool committed)
{
    for (struct gateway_batch *g = p->gateways; g; g = g->hh.next) {
        if (committed)
            g->n = g->pending;
        else
            g->pending = g->n;
    }
}

void batches_free(struct rpart *p)
{
    struct gateway_batch *g, *next;
    HASH_ITER(hh, p->gateways, g, next)
    {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the table has let go of what was freed */
        HASH_DEL(p->gateways, g);
        free(g);
    }
}
