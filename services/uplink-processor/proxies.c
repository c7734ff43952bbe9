#include "services/uplink-processor/proxies.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/util.h"

struct gateway {
    int64_t key;
    char *id;
};
struct listed {
    struct proxy shown;
    char *proxy_id, *name;
    struct gateway *gateways;
    size_t n;
};
struct proxies {
    struct listed *list;
    size_t n;
};

static const struct cw_stmt stmt_load = {
    "proxies_load", "SELECT v.* FROM (SELECT DISTINCT g.proxy_id FROM registry.proxy_view g"
                    " WHERE g.device_id = ANY($1)) p JOIN registry.proxy_view v USING (proxy_id)"
                    " ORDER BY v.proxy_id, v.device_key"
};

static struct listed *listed_of(struct proxies *p, const struct proxy_row *row)
{
    struct listed *last = p->n ? &p->list[p->n - 1] : NULL;
    if (last && strcmp(last->proxy_id, row->proxy_id) == 0)
        return last;
    p->list = cw_realloc(p->list, (p->n + 1) * sizeof *p->list);
    last = &p->list[p->n++];
    *last = (struct listed){ .proxy_id = cw_strdup(row->proxy_id), .name = cw_strdup(row->name) };
    last->shown = (struct proxy){ last->name, row->begins_ms, row->ends_ms };
    return last;
}

void proxies_add(struct proxies **at, const struct proxy_row *row)
{
    if (!*at)
        *at = cw_calloc(1, sizeof **at);
    struct listed *l = listed_of(*at, row);
    l->gateways = cw_realloc(l->gateways, (l->n + 1) * sizeof *l->gateways);
    l->gateways[l->n++] = (struct gateway){ row->device_key, cw_strdup(row->device_id) };
}

struct loading {
    struct proxies **into;
    proxies_fn *cb;
    void *arg;
};

static void on_loaded(PGresult *res, void *arg)
{
    struct loading l = *(struct loading *)arg;
    bool ok = cw_db_outcome(res) == CW_DB_OK;
    free(arg);
    for (int i = 0; ok && i < PQntuples(res); i++)
        proxies_add(l.into,
                    &(struct proxy_row){ .proxy_id = cw_db_str(res, i, "proxy_id"),
                                         .name = cw_db_str(res, i, "proxy_name"),
                                         .device_id = cw_db_str(res, i, "device_id"),
                                         .begins_ms = cw_db_i64(res, i, "begins_ms", 0),
                                         .ends_ms = cw_db_i64(res, i, "ends_ms", 0),
                                         .device_key = cw_db_i64(res, i, "device_key", 0) });
    l.cb(ok ? 0 : -EIO, l.arg);
}

int proxies_load(struct proxies **p, struct cw_db *db, struct cw_db_array *gateways, proxies_fn *cb,
                 void *arg)
{
    const struct cw_db_param ids = cw_db_array_param(gateways);
    struct loading *l = cw_malloc(sizeof *l);
    *l = (struct loading){ p, cb, arg };
    if (cw_db_exec(db, &stmt_load, 1, &ids, on_loaded, l))
        return 0;
    free(l);
    return -ENOTCONN;
}

static bool lists(const struct listed *l, const char *id)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->gateways[i].id, id) == 0)
            return true;
    return false;
}

bool proxy_in_force(const struct proxy *proxy, int64_t at_ms)
{
    return proxy->begins_ms <= at_ms && at_ms < proxy->ends_ms;
}

/* 2 in force, 1 still to come, 0 over. */
static int rank(const struct proxy *p, int64_t at_ms)
{
    return proxy_in_force(p, at_ms) ? 2 : at_ms < p->begins_ms;
}

static bool is_better(const struct proxy *p, const struct proxy *best, int64_t at_ms)
{
    int r = rank(p, at_ms), than = best ? rank(best, at_ms) : -1;
    if (r != than)
        return r > than;
    return r == 1 ? p->begins_ms < best->begins_ms : p->ends_ms > best->ends_ms;
}

const struct proxy *proxies_find(const struct proxies *p, const char *one, const char *other,
                                 int64_t at_ms)
{
    const struct proxy *best = NULL;
    for (size_t i = 0; p && i < p->n; i++)
        if (lists(&p->list[i], one) && lists(&p->list[i], other) &&
            is_better(&p->list[i].shown, best, at_ms))
            best = &p->list[i].shown;
    return best;
}

const char *proxies_gateway(const struct proxies *p, int64_t device_key)
{
    for (size_t i = 0; p && i < p->n; i++)
        for (size_t k = 0; k < p->list[i].n; k++)
            if (p->list[i].gateways[k].key == device_key)
                return p->list[i].gateways[k].id;
    return NULL;
}

void proxies_free(struct proxies **at)
{
    struct proxies *p = *at;
    if (!p)
        return;
    *at = NULL;
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; k < p->list[i].n; k++)
            free(p->list[i].gateways[k].id);
        free(p->list[i].gateways);
        free(p->list[i].proxy_id);
        free(p->list[i].name);
    }
    free(p->list);
    free(p);
}
