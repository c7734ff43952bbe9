/* Dynamic groups: a transaction at a time, on a connection of its own. It takes keys of devices
 * that were touched, looks at them with the rule of each dynamic group of their space, and goes on
 * filling groups that are new, newest devices first. */
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "services/device-registry/groups.h"
#include "services/device-registry/search.h"

#define TICK_MS 300
#define TOUCHED 500  /* devices that are looked at in one transaction */
#define FILLED  1000 /* devices that a new group takes in in one transaction */
#define LOCK    "7001, 0"

static const struct cw_stmt stmt_lock = { "keeper_lock",
                                          "SELECT pg_try_advisory_xact_lock(" LOCK ") AS mine" };
static const struct cw_stmt stmt_take = {
    "keeper_take",
    "WITH t AS (SELECT id FROM registry.device_touched ORDER BY id LIMIT $1::bigint),"
    " g AS (DELETE FROM registry.device_touched x USING t WHERE x.id = t.id RETURNING x.device_key)"
    " SELECT DISTINCT d.device_key, d.app_id FROM g JOIN registry.device d USING (device_key)"
};
static const struct cw_stmt stmt_groups = {
    "keeper_groups", "SELECT group_id, app_id, rule, filled_to, members FROM registry.device_group"
                     " WHERE rule IS NOT NULL ORDER BY group_id"
};
static const struct cw_stmt stmt_filled = {
    "keeper_filled", "UPDATE registry.device_group SET filled_to = $2 WHERE group_id = $1"
};

struct group_keeper {
    struct registry *r;
    struct cw_db *db;
    struct event *tick;
    bool busy, again; /* again: something came meanwhile, or there is more */
    struct cw_db_array touched;
};

static void finish(struct group_keeper *k, bool fine)
{
    cw_db_query(k->db, fine ? "COMMIT" : "ROLLBACK", NULL, NULL);
    k->busy = false;
    cw_db_array_free(&k->touched);
    if (k->again && fine)
        event_active(k->tick, 0, 0);
}

/* ---- one group */

struct filling {
    struct group_keeper *k;
    char group_id[CW_RECORD_ID_LEN];
};

static void on_filled(PGresult *res, void *arg)
{
    struct filling f = *(struct filling *)arg;
    free(arg);
    if (cw_db_outcome(res) != CW_DB_OK)
        return; /* the transaction is aborted: all of it is done again */
    bool more = cw_db_i64(res, 0, "found", 0) == FILLED;
    const struct cw_db_param p[] = { CW_TEXT(f.group_id),
                                     CW_TEXT(more ? cw_db_str(res, 0, "last") : NULL) };
    f.k->again |= more;
    cw_db_exec(f.k->db, &stmt_filled, 2, p, NULL, NULL);
}

/* How many more devices the group may have; a full one is told of. */
static int64_t room_of(const struct group_keeper *k, const PGresult *groups, int i)
{
    int64_t members = cw_db_i64(groups, i, "members", 0), max = k->r->group_devices_max;
    if (!max)
        return INT32_MAX;
    if (members >= max)
        cw_log(CW_WARN, "group_full", "group=%s members=%lld", cw_db_str(groups, i, "group_id"),
               (long long)members);
    return members < max ? max - members : 0;
}

/* found: what the rule says; hit: as many of them as there is room for. leave: who is not found any
 * more goes. */
static struct cw_buf statement(const struct search *s, int64_t room, bool leave)
{
    struct cw_buf rule = search_rule_sql(s), sql = { 0 };
    cw_buf_printf(&sql,
                  "WITH found AS MATERIALIZED (%.*s), hit AS (SELECT * FROM found"
                  " ORDER BY record_id DESC LIMIT %lld),",
                  (int)rule.len, rule.data, (long long)room);
    if (leave)
        cw_buf_str(&sql, " gone AS (DELETE FROM registry.group_member m WHERE m.group_id = $5"
                         " AND m.device_key = ANY($1) AND m.device_key NOT IN"
                         " (SELECT device_key FROM found)),");
    cw_buf_str(&sql, " joined AS (INSERT INTO registry.group_member"
                     " (group_id, device_key, record_id) SELECT $5, device_key, record_id FROM hit"
                     " ON CONFLICT DO NOTHING)"
                     " SELECT count(*) AS found, min(record_id) AS last FROM found");
    cw_buf_add(&sql, "", 1);
    cw_buf_free(&rule);
    return sql;
}

/* Runs the rule of a group over these devices; over those below filled_to when there are none. */
static void run(struct group_keeper *k, const PGresult *groups, int i, const struct search *s,
                struct cw_db_array *keys)
{
    struct cw_db_array values[SEARCH_CONDITIONS] = { 0 };
    struct filling *f = keys ? NULL : cw_calloc(1, sizeof *f);
    char most[24];
    struct cw_buf sql = statement(s, room_of(k, groups, i), keys != NULL);
    struct cw_db_param p[5 + SEARCH_CONDITIONS] = {
        keys ? cw_db_array_param(keys) : CW_NULL,
        CW_TEXT(keys ? "g" : cw_db_str(groups, i, "filled_to")),
        CW_TEXT(cw_db_str(groups, i, "app_id")),
        cw_db_int(keys ? TOUCHED : FILLED, most),
        CW_TEXT(cw_db_str(groups, i, "group_id")),
    };
    search_params(s, values);
    for (size_t c = 0; c < s->n; c++)
        p[5 + c] = cw_db_array_param(&values[c]);
    if (f) {
        f->k = k;
        snprintf(f->group_id, sizeof f->group_id, "%s", cw_db_str(groups, i, "group_id"));
    }
    if (!cw_db_exec(k->db, &(struct cw_stmt){ NULL, sql.data }, (int)(5 + s->n), p,
                    f ? on_filled : NULL, f))
        free(f);
    cw_buf_free(&sql);
    for (size_t c = 0; c < s->n; c++)
        cw_db_array_free(&values[c]);
}

static void look(struct group_keeper *k, const PGresult *groups, int i)
{
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    if (!search_read_rule(&s, cw_db_str(groups, i, "rule"), fault)) {
        cw_log(CW_ERROR, "group_rule", "group=%s reason=\"%s\"", cw_db_str(groups, i, "group_id"),
               fault);
        return;
    }
    if (k->touched.n)
        run(k, groups, i, &s, &k->touched);
    if (cw_db_str(groups, i, "filled_to"))
        run(k, groups, i, &s, NULL);
}

/* ---- the transaction */

static void on_end(PGresult *res, void *arg) { finish(arg, cw_db_outcome(res) == CW_DB_OK); }

static void on_groups(PGresult *res, void *arg)
{
    struct group_keeper *k = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        finish(k, false);
        return;
    }
    for (int i = 0; i < PQntuples(res); i++)
        look(k, res, i);
    /* behind all of them; a statement of on_filled() may still come in between */
    if (!cw_db_query(k->db, "SELECT 1", on_end, k))
        k->busy = false;
}

static void on_taken(PGresult *res, void *arg)
{
    struct group_keeper *k = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        finish(k, false);
        return;
    }
    cw_db_array_reset(&k->touched, CW_ARRAY_INT8);
    for (int i = 0; i < PQntuples(res); i++)
        cw_db_array_int(&k->touched, cw_db_i64(res, i, "device_key", 0));
    k->again = PQntuples(res) == TOUCHED;
    if (!cw_db_exec(k->db, &stmt_groups, 0, NULL, on_groups, k))
        k->busy = false;
}

static void on_locked(PGresult *res, void *arg)
{
    struct group_keeper *k = arg;
    char most[24];
    if (cw_db_outcome(res) != CW_DB_OK || *cw_db_str(res, 0, "mine") != 't')
        finish(k, false); /* another instance does it */
    else if (!cw_db_exec(k->db, &stmt_take, 1, (struct cw_db_param[]){ cw_db_int(TOUCHED, most) },
                         on_taken, k))
        k->busy = false;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct group_keeper *k = arg;
    (void)fd, (void)what;
    if (cw_app_draining(k->r->app) || k->busy || !cw_db_connected(k->db))
        return;
    k->again = false;
    if (!cw_db_query(k->db, "BEGIN", NULL, NULL))
        return;
    k->busy = cw_db_exec(k->db, &stmt_lock, 0, NULL, on_locked, k) != NULL;
}

void group_keeper_wake(struct group_keeper *k)
{
    k->again = true;
    event_active(k->tick, 0, 0);
}

struct group_keeper *group_keeper_open(struct registry *r)
{
    struct group_keeper *k = cw_calloc(1, sizeof *k);
    k->r = r;
    k->db = cw_db_open(cw_app_base(r->app), cw_app_db_conninfo(r->app), cw_app_name(r->app));
    k->tick = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_tick, k);
    event_add(k->tick, &(struct timeval){ .tv_usec = TICK_MS * 1000L });
    return k;
}

void group_keeper_close(struct group_keeper **at)
{
    struct group_keeper *k = *at;
    if (!k)
        return;
    *at = NULL;
    event_free(k->tick);
    cw_db_close(&k->db);
    cw_db_array_free(&k->touched);
    free(k);
}
