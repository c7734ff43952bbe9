/* Dynamic groups: a transaction at a time, on a connection of its own. It takes keys of devices
 * that were touched, looks at them with the rule of each dynamic group of their spaces, and goes on
 * filling groups that are new, or were full and have room again, newest devices first. */
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
    " SELECT DISTINCT d.app_id, g.device_key, (SELECT count(*) FROM g) AS taken"
    " FROM g LEFT JOIN registry.device d USING (device_key) ORDER BY d.app_id"
};
/* Groups that are seen for the first time, and those that were full and are not any more. A
 * transaction that has not been yet is one of the cluster that a dump came from. */
static const struct cw_stmt stmt_begin = {
    "keeper_begin",
    "UPDATE registry.device_group SET filled_to = 'g', left_out = false,"
    " fill_after = CASE WHEN filled_to = 'g' OR fill_after IS NULL THEN pg_current_xact_id()"
    "  ELSE fill_after END WHERE rule IS NOT NULL AND (filled_to = 'g' AND"
    "  (fill_after IS NULL OR fill_after >= pg_snapshot_xmax(pg_current_snapshot()))"
    "  OR filled_to IS NULL AND left_out AND ($1::bigint = 0 OR members < $1))"
};
/* touched: of one of these spaces. ready: all transactions have ended that may have changed a
 * device without noting it. None of the groups goes away before the transaction ends. */
#define TOUCHED_SPACE "app_id = ANY($1::text[])"
#define READY                                                                                      \
    "filled_to IS NOT NULL AND (filled_to < 'g' OR"                                                \
    " fill_after <= pg_snapshot_xmin(pg_current_snapshot()))"
static const struct cw_stmt stmt_groups = {
    "keeper_groups",
    "SELECT group_id, app_id, rule, filled_to, " TOUCHED_SPACE " AS touched, " READY
    " AS ready FROM registry.device_group WHERE rule IS NOT NULL"
    " AND (" TOUCHED_SPACE " OR " READY ") ORDER BY group_id FOR KEY SHARE"
};
/* A full group is filled no further: left_out says that there would be more. */
static const struct cw_stmt stmt_filled = {
    "keeper_filled", "UPDATE registry.device_group SET left_out = left_out OR $3, filled_to ="
                     " CASE WHEN NOT $2 THEN filled_to WHEN NOT $3 THEN $4 END WHERE group_id = $1"
};

struct group_keeper {
    struct registry *r;
    struct cw_db *db;
    struct event *tick;
    bool busy, again;                   /* again: something came meanwhile, or there is more */
    struct cw_db_array touched, spaces; /* devices, and where they are */
};

static void finish(struct group_keeper *k, bool fine)
{
    cw_db_query(k->db, fine ? "COMMIT" : "ROLLBACK", NULL, NULL);
    k->busy = false;
    cw_db_array_free(&k->touched);
    cw_db_array_free(&k->spaces);
    if (k->again && fine)
        event_active(k->tick, 0, 0);
}

/* ---- one group */

struct running {
    struct group_keeper *k;
    char group_id[CW_RECORD_ID_LEN];
    bool fills; /* over devices that have not been looked at; not: over those that were touched */
};

static void on_run(PGresult *res, void *arg)
{
    static struct cw_log_gate gate;
    struct running f = *(struct running *)arg;
    free(arg);
    if (cw_db_outcome(res) != CW_DB_OK)
        return; /* the transaction is aborted: all of it is done again */
    bool more = f.fills && cw_db_i64(res, 0, "found", 0) == FILLED;
    bool full = *cw_db_str(res, 0, "left_out") == 't';
    f.k->again |= more && !full;
    if (full)
        cw_log_limited(&gate, CW_WARN, "group_full", "group=%s members=%lld", f.group_id,
                       (long long)f.k->r->group_devices_max);
    if (!f.fills && !full)
        return;
    const struct cw_db_param p[] = { CW_TEXT(f.group_id), CW_TEXT(f.fills ? "t" : "f"),
                                     CW_TEXT(full ? "t" : "f"),
                                     CW_TEXT(more ? cw_db_str(res, 0, "last") : NULL) };
    cw_db_exec(f.k->db, &stmt_filled, CW_ARRAY_LEN(p), p, NULL, NULL);
}

/* found: what the rule says; fit: who of them is not a member; joined: as many as there is room
 * for. leave: who is not found any more goes, and makes room for the next run. */
static struct cw_buf statement(const struct search *s, int64_t max, bool leave)
{
    struct cw_buf rule = search_rule_sql(s), sql = { 0 };
    cw_buf_printf(&sql,
                  "WITH found AS MATERIALIZED (%.*s), fit AS MATERIALIZED (SELECT * FROM found f"
                  " WHERE NOT EXISTS (SELECT FROM registry.group_member m WHERE m.group_id = $5"
                  " AND m.device_key = f.device_key)), room AS (SELECT CASE WHEN %lld > 0 THEN"
                  " GREATEST(%lld - g.members, 0) END AS n FROM registry.device_group g"
                  " WHERE g.group_id = $5),",
                  (int)rule.len, rule.data, (long long)max, (long long)max);
    if (leave)
        cw_buf_str(&sql, " gone AS (DELETE FROM registry.group_member m WHERE m.group_id = $5"
                         " AND m.device_key = ANY($1) AND m.device_key NOT IN"
                         " (SELECT device_key FROM found)),");
    cw_buf_str(&sql, " joined AS (INSERT INTO registry.group_member"
                     " (group_id, device_key, record_id) SELECT $5, device_key, record_id FROM fit"
                     " ORDER BY record_id DESC LIMIT (SELECT n FROM room)"
                     " ON CONFLICT DO NOTHING)"
                     " SELECT (SELECT count(*) FROM found) AS found,"
                     " (SELECT min(record_id) FROM found) AS last,"
                     " COALESCE((SELECT count(*) FROM fit) > room.n, false) AS left_out FROM room");
    cw_buf_add(&sql, "", 1);
    cw_buf_free(&rule);
    return sql;
}

/* Runs the rule of a group over these devices; over those below filled_to when there are none. */
static void run(struct group_keeper *k, const PGresult *groups, int i, const struct search *s,
                struct cw_db_array *keys)
{
    struct cw_db_array values[SEARCH_CONDITIONS] = { 0 };
    struct running *f = cw_calloc(1, sizeof *f);
    char most[24];
    struct cw_buf sql = statement(s, k->r->group_devices_max, keys != NULL);
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
    *f = (struct running){ .k = k, .fills = !keys };
    snprintf(f->group_id, sizeof f->group_id, "%s", cw_db_str(groups, i, "group_id"));
    if (!cw_db_exec(k->db, &(struct cw_stmt){ NULL, sql.data }, (int)(5 + s->n), p, on_run, f))
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
    if (*cw_db_str(groups, i, "touched") == 't')
        run(k, groups, i, &s, &k->touched);
    if (*cw_db_str(groups, i, "ready") == 't')
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

/* A device that is deleted has left its groups already. */
static void take(struct group_keeper *k, const PGresult *res)
{
    const char *last = "";
    cw_db_array_reset(&k->touched, CW_ARRAY_INT8);
    cw_db_array_reset(&k->spaces, CW_ARRAY_TEXT);
    for (int i = 0; i < PQntuples(res); i++) {
        const char *space = cw_db_str(res, i, "app_id");
        if (!space)
            continue;
        cw_db_array_int(&k->touched, cw_db_i64(res, i, "device_key", 0));
        if (strcmp(space, last) != 0)
            cw_db_array_str(&k->spaces, space);
        last = space;
    }
}

static void on_taken(PGresult *res, void *arg)
{
    struct group_keeper *k = arg;
    char max[24];
    if (cw_db_outcome(res) != CW_DB_OK) {
        finish(k, false);
        return;
    }
    take(k, res);
    k->again |= PQntuples(res) > 0 && cw_db_i64(res, 0, "taken", 0) == TOUCHED;
    cw_db_exec(k->db, &stmt_begin, 1,
               (struct cw_db_param[]){ cw_db_int(k->r->group_devices_max, max) }, NULL, NULL);
    if (!cw_db_exec(k->db, &stmt_groups, 1, (struct cw_db_param[]){ cw_db_array_param(&k->spaces) },
                    on_groups, k))
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
    cw_db_array_free(&k->spaces);
    free(k);
}
