/* SearchDevices: runs what search_read() has read, on a few connections of their own with a limit
 * of time. A search that finds all of them busy waits in a line, in which no place is for long. */
#include "services/device-registry/search.h"

#include <stdlib.h>
#include <string.h>

#include "services/device-registry/groups.h"

#define LANES       3
#define IN_LINE_MAX 100

struct searching {
    struct searching *next; /* in the line */
    struct lane *lane;      /* on which it runs */
    struct cw_api_call *call;
    int64_t since_ms;
    struct search s;
    struct cw_db_array values[SEARCH_CONDITIONS];
};

struct lane {
    struct searches *of;
    struct cw_db *db;
    bool busy;
};

struct searches {
    struct registry *r;
    struct lane lanes[LANES];
    struct searching *first, **end;
    size_t waiting;
};

static const struct cw_stmt stmt_products = {
    "search_products",
    "SELECT product_id, product_key FROM registry.product WHERE product_id = ANY($1)"
};

static void move_up(struct searches *all);

static void forget(struct searching *w)
{
    for (size_t i = 0; i < w->s.n; i++)
        cw_db_array_free(&w->values[i]);
    free(w);
}

/* The columns that were asked for. */
static json_t *pruned(json_t *device, uint32_t shown)
{
    if (!shown)
        return device;
    json_t *o = json_object();
    for (size_t i = 0; search_columns[i]; i++)
        if (shown & 1U << i && json_object_get(device, search_columns[i]))
            json_object_set(o, search_columns[i], json_object_get(device, search_columns[i]));
    json_decref(device);
    return o;
}

static json_t *found_json(const struct searching *w, const PGresult *res, int row)
{
    json_t *o = device_json(w->lane->of->r, res, row, DEVICE_LISTED);
    json_object_del(o, "description");
    cw_row_json(o, "groups", res, row, "groups");
    json_object_set_new(o, "modules", json_array()); /* of upgrades, which there are none of yet */
    cw_row_text(o, "marker", res, row, "record_id");
    return pruned(o, w->s.shown);
}

static void answer(const struct searching *w, const PGresult *res)
{
    if (strcmp(cw_db_sqlstate(res), "57014") == 0) {
        cw_api_fail(w->call, CW_E_SEARCH_WIDE, "sql: after %lld ms.",
                    (long long)w->lane->of->r->search_ms);
        return;
    }
    if (cw_api_db_failed(w->call, res, "search devices"))
        return;
    json_t *list = json_array();
    if (w->s.counts) {
        json_t *o = json_pack("{s:o, s:I}", "devices", list, "count",
                              (json_int_t)cw_db_i64(res, 0, "count", 0));
        cw_api_reply_json(w->call, 200, o);
        return;
    }
    for (int i = 0; i < PQntuples(res); i++)
        json_array_append_new(list, found_json(w, res, i));
    cw_api_reply_json(w->call, 200, json_pack("{s:o}", "devices", list));
}

static void on_found(PGresult *res, void *arg)
{
    struct searching *w = arg;
    struct searches *all = w->lane->of;
    answer(w, res);
    w->lane->busy = false;
    forget(w);
    move_up(all);
}

/* The whole rows of those that were found, in the order that was asked for. */
static struct cw_buf with_rows(const struct search *s, struct cw_buf *found)
{
    struct cw_buf b = { 0 };
    cw_buf_printf(&b,
                  "WITH page AS MATERIALIZED (%.*s) SELECT %s, (SELECT json_agg(json_build_object("
                  "'group_id', g.group_id, 'name', g.name) ORDER BY g.group_id)"
                  " FROM registry.group_member m JOIN registry.device_group g USING (group_id)"
                  " WHERE m.device_key = d.device_key) AS groups %s WHERE d.device_key ="
                  " ANY(ARRAY(SELECT device_key FROM page)) ORDER BY d.record_id %s",
                  (int)found->len, found->data, device_columns, device_from,
                  s->ascending ? "ASC" : "DESC");
    cw_buf_free(found);
    return b;
}

static bool find(struct searching *w)
{
    struct cw_db_array allowed = { 0 }, denied = { 0 };
    struct cw_db_param p[2 + SEARCH_CONDITIONS];
    const struct search *s = &w->s;
    struct cw_buf sql = search_sql(s);
    if (!s->counts)
        sql = with_rows(s, &sql);
    cw_buf_add(&sql, "", 1);
    cw_api_spaces(w->call, &allowed, &denied);
    p[0] = cw_api_spaces_param(&allowed);
    p[1] = cw_db_array_param(&denied);
    for (size_t i = 0; i < s->n; i++)
        p[2 + i] = cw_db_array_param(&w->values[i]);
    bool sent = cw_db_exec(w->lane->db, &(struct cw_stmt){ NULL, sql.data }, (int)(2 + s->n), p,
                           on_found, w) != NULL;
    cw_buf_free(&sql);
    cw_db_array_free(&allowed);
    cw_db_array_free(&denied);
    return sent;
}

static void on_products(PGresult *res, void *arg)
{
    struct searching *w = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        on_found(res, w);
        return;
    }
    search_by_keys(&w->s, w->values);
    for (int i = 0; i < PQntuples(res); i++)
        search_product_key(&w->s, w->values, cw_db_str(res, i, "product_id"),
                           cw_db_i64(res, i, "product_key", 0));
    if (!find(w))
        on_found(NULL, w);
}

static bool run(struct lane *lane, struct searching *w)
{
    struct cw_db_array ids = { 0 };
    w->lane = lane;
    search_params(&w->s, w->values);
    if (!search_product_ids(&w->s, &ids))
        lane->busy = find(w);
    else
        lane->busy =
            cw_db_exec(lane->db, &stmt_products, 1,
                       (struct cw_db_param[]){ cw_db_array_param(&ids) }, on_products, w) != NULL;
    cw_db_array_free(&ids);
    return lane->busy;
}

/* ---- the line */

/* NULL: none. connected: whether there is a connection at all. */
static struct lane *free_lane(struct searches *all, bool *connected)
{
    struct lane *found = NULL;
    *connected = false;
    for (size_t i = 0; i < LANES; i++)
        if (cw_db_connected(all->lanes[i].db)) {
            *connected = true;
            found = all->lanes[i].busy ? found : &all->lanes[i];
        }
    return found;
}

static struct searching *take_first(struct searches *all)
{
    struct searching *w = all->first;
    all->first = w->next;
    all->end = all->first ? all->end : &all->first;
    all->waiting--;
    return w;
}

/* Runs who is first in the line, as far as there is room. Who waited as long as a search may take
 * is sent away: others wait that asked later, and whoever asked may have given up. */
static void move_up(struct searches *all)
{
    bool connected;
    struct lane *lane;
    while (all->first && ((lane = free_lane(all, &connected)) || !connected)) {
        struct searching *w = take_first(all);
        int64_t waited = cw_mono_ms() - w->since_ms;
        if (lane && waited < all->r->search_ms && run(lane, w))
            continue;
        if (lane && waited >= all->r->search_ms)
            cw_api_fail(w->call, CW_E_SEARCH_BUSY, "sql: it waited for %lld ms.",
                        (long long)waited);
        else
            cw_api_no_db(w->call);
        forget(w);
    }
}

void search_devices(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    struct searches *all = r->searches;
    char fault[SEARCH_FAULT_LEN];
    struct searching *w = cw_calloc(1, sizeof *w);
    if (!search_read(&w->s, cw_body_text(cw_api_body(call), "sql"), fault)) {
        cw_api_fail(call, CW_E_SEARCH_WRONG, "sql: %s.", fault);
        free(w);
        return;
    }
    if (all->waiting == IN_LINE_MAX) {
        cw_api_fail(call, CW_E_SEARCH_BUSY, "sql: %d wait already.", IN_LINE_MAX);
        free(w);
        return;
    }
    w->call = call;
    w->since_ms = cw_mono_ms();
    *all->end = w;
    all->end = &w->next;
    all->waiting++;
    move_up(all);
}

/* One that cannot be fast ends, and says so, and takes one core only. */
static void on_connection(bool connected, void *arg)
{
    struct lane *lane = arg;
    char sql[200];
    snprintf(sql, sizeof sql,
             "SELECT set_config('statement_timeout', '%lld', false), set_config("
             "'max_parallel_workers_per_gather', '0', false)",
             (long long)lane->of->r->search_ms);
    if (connected)
        cw_db_query(lane->db, sql, NULL, NULL);
    move_up(lane->of);
}

struct searches *searches_open(struct registry *r)
{
    struct searches *all = cw_calloc(1, sizeof *all);
    all->r = r;
    all->end = &all->first;
    for (size_t i = 0; i < LANES; i++) {
        struct lane *lane = &all->lanes[i];
        lane->of = all;
        lane->db = cw_db_open(cw_app_base(r->app), cw_app_db_conninfo(r->app), cw_app_name(r->app));
        cw_db_watch(lane->db, on_connection, lane);
    }
    return all;
}

void searches_close(struct searches **at)
{
    struct searches *all = *at;
    if (!all)
        return;
    *at = NULL;
    for (size_t i = 0; i < LANES; i++)
        cw_db_end(all->lanes[i].db); /* the last one leaves nobody in the line */
    for (size_t i = 0; i < LANES; i++)
        cw_db_close(&all->lanes[i].db);
    free(all);
}
