#include "libcommon/log_owner.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/ids.h"
#include "libcommon/js_stream.h"
#include "libcommon/log.h"
#include "libcommon/service.h"

#define LOOK_MS     500
#define STALLED_MS  10000 /* records wait, nothing moves, and the connection is silent as well */
#define STUCK_MS    60000 /* records wait and nothing moves: whatever it does, it is not this */
#define MEMBERS_MAX 64
#define MEMBER_KEY  1000000 /* second lock key that all members share; partitions are below */

/* What this instance has of a partition. */
enum hold { NONE, TAKING, HELD, RELEASING, UNLOCKING };

struct part {
    struct cw_log_owner *o;
    uint32_t index;
    enum hold hold;
    bool unlock_sent;
    int owner_pid; /* backend that has the lock at the last look; 0: nobody */

    /* the watch over another owner */
    struct js_call *info;
    int64_t seq, outbox; /* its position and its oldest outbox row */
    int64_t moved_ms;    /* when it was last seen moving, or without work */
};

struct cw_log_owner {
    struct cw_app *app;
    struct cw_db *db;
    struct cw_log_owner_config cfg;
    char hold_name[64];
    int lock_class; /* first key of the advisory locks of this log and group */
    struct part *parts;
    uint32_t n_parts;
    int members[MEMBERS_MAX]; /* backend pids, ascending */
    unsigned n_members;
    bool connected, joined, draining, looking;
    struct event *timer;
    LIST_HEAD(, asked) asked;
};

/* A statement on its way; the list lets close() take its callback back. */
struct asked {
    LIST_ENTRY(asked) link;
    struct cw_log_owner *o;
    struct part *p;
    struct cw_db_query *query;
    void (*fn)(struct cw_log_owner *o, struct part *p, PGresult *res);
};

static void settle(struct cw_log_owner *o);

static void on_answer(PGresult *res, void *arg)
{
    struct asked *a = arg, copy = *a;
    LIST_REMOVE(a, link);
    free(a);
    copy.fn(copy.o, copy.p, res);
}

/* Sends one statement; fn runs once, with NULL when the connection is lost. False: not sent. */
static bool ask(struct cw_log_owner *o, struct part *p,
                void (*fn)(struct cw_log_owner *o, struct part *p, PGresult *res), char *sql)
{
    struct asked *a = cw_calloc(1, sizeof *a);
    *a = (struct asked){ .o = o, .p = p, .fn = fn };
    a->query = cw_db_query(o->db, sql, on_answer, a);
    free(sql);
    if (!a->query) {
        free(a);
        return false;
    }
    LIST_INSERT_HEAD(&o->asked, a, link);
    return true;
}

static bool is_true(const PGresult *res)
{
    return cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0 &&
           strcmp(PQgetvalue(res, 0, 0), "t") == 0;
}

/* ---- taking and letting go */

static void on_taken(struct cw_log_owner *o, struct part *p, PGresult *res)
{
    if (p->hold != TAKING)
        return;
    p->hold = is_true(res) ? HELD : NONE;
    if (p->hold != HELD)
        return;
    p->owner_pid = cw_db_backend_pid(o->db);
    cw_log(CW_INFO, "partition_taken", "log=%s partition=%u", o->cfg.log, p->index);
    o->cfg.gained(p->index, o->cfg.self);
}

static void take(struct cw_log_owner *o, struct part *p)
{
    p->hold = TAKING;
    if (!ask(o, p, on_taken,
             cw_sprintf("SELECT pg_try_advisory_lock(%d, %u)", o->lock_class, p->index)))
        p->hold = NONE;
}

static void on_unlocked(struct cw_log_owner *o, struct part *p, PGresult *res)
{
    p->unlock_sent = false;
    if (p->hold != UNLOCKING || cw_db_outcome(res) != CW_DB_OK)
        return; /* inside a failed transaction nothing is unlocked: the next look tries again */
    p->hold = NONE;
    cw_log(CW_INFO, "partition_released", "log=%s partition=%u", o->cfg.log, p->index);
    settle(o);
}

static void unlock(struct cw_log_owner *o, struct part *p)
{
    if (!p->unlock_sent)
        p->unlock_sent =
            ask(o, p, on_unlocked,
                cw_sprintf("SELECT pg_advisory_unlock(%d, %u)", o->lock_class, p->index));
}

void cw_log_owner_released(struct cw_log_owner *o, uint32_t partition)
{
    struct part *p = &o->parts[partition];
    if (p->hold != HELD && p->hold != RELEASING)
        return;
    p->hold = UNLOCKING;
    unlock(o, p);
}

static void drained(struct cw_log_owner *o)
{
    if (!*o->hold_name)
        return;
    char name[sizeof o->hold_name];
    memcpy(name, o->hold_name, sizeof name);
    *o->hold_name = '\0';
    cw_app_release(o->app, name);
}

static void on_left(struct cw_log_owner *o, struct part *p, PGresult *res)
{
    (void)p, (void)res;
    drained(o);
}

static void leave_if_empty(struct cw_log_owner *o)
{
    for (uint32_t i = 0; i < o->n_parts; i++)
        if (o->parts[i].hold != NONE)
            return;
    if (!o->joined ||
        !ask(o, NULL, on_left,
             cw_sprintf("SELECT pg_advisory_unlock_shared(%d, %d)", o->lock_class, MEMBER_KEY)))
        drained(o);
    o->joined = false;
}

/* Compares what this instance has with what it should have, and takes one step towards it. */
static void settle(struct cw_log_owner *o)
{
    int me = cw_db_backend_pid(o->db);
    for (uint32_t i = 0; i < o->n_parts; i++) {
        struct part *p = &o->parts[i];
        bool mine = !o->draining && o->n_members && o->members[i % o->n_members] == me;
        if (p->hold == NONE && mine && (p->owner_pid == 0 || p->owner_pid == me))
            take(o, p);
        else if (p->hold == UNLOCKING)
            unlock(o, p);
        else if (p->hold == HELD && !mine) {
            p->hold = RELEASING;
            o->cfg.release(i, o->cfg.self);
        }
    }
    if (o->draining)
        leave_if_empty(o);
}

/* ---- watching the others */

static void on_ended(struct cw_log_owner *o, struct part *p, PGresult *res)
{
    if (is_true(res))
        cw_log(CW_WARN, "owner_ended", "log=%s partition=%u pid=%d reason=\"no progress\"",
               o->cfg.log, p->index, p->owner_pid);
}

/* Ends the connection that still has the lock. One that speaks to PostgreSQL gets more time: it may
 * wait for room in its output, which nobody else would find either. */
static void end_owner(struct cw_log_owner *o, struct part *p, bool stuck)
{
    ask(o, p, on_ended,
        cw_sprintf("SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l "
                   "ON l.pid = a.pid WHERE a.pid = %d AND l.locktype = 'advisory' AND l.classid = "
                   "%d AND l.objid = %u AND l.objsubid = 2 AND l.granted AND (%s OR "
                   "a.state_change < clock_timestamp() - interval '5 s')",
                   p->owner_pid, o->lock_class, p->index, stuck ? "true" : "false"));
}

static bool is_others(const struct cw_log_owner *o, const struct part *p)
{
    return p->owner_pid && p->owner_pid != cw_db_backend_pid(o->db);
}

static void on_info(int rc, const struct js_info *info, void *arg)
{
    struct part *p = arg;
    struct cw_log_owner *o = p->o;
    p->info = NULL;
    if (rc != 0 || !o->connected || !is_others(o, p))
        return;
    if (info->last_seq <= (uint64_t)p->seq && !p->outbox)
        p->moved_ms = cw_mono_ms();
    int64_t still_ms = cw_mono_ms() - p->moved_ms;
    if (still_ms >= STALLED_MS)
        end_owner(o, p, still_ms >= STUCK_MS);
}

static void watch_part(struct part *p, int64_t seq, int64_t outbox)
{
    if (seq != p->seq || outbox != p->outbox || !p->moved_ms)
        p->moved_ms = cw_mono_ms();
    p->seq = seq;
    p->outbox = outbox;
    if (cw_mono_ms() - p->moved_ms >= STALLED_MS / 2 && !p->info)
        p->info = js_stream_info(p->o->app, p->o->cfg.log, p->index, on_info, p);
}

static void on_positions(struct cw_log_owner *o, struct part *none, PGresult *res)
{
    (void)none;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    for (int i = 0; i < PQntuples(res); i++) {
        int64_t index = cw_db_i64(res, i, "partition", -1);
        if (index >= 0 && index < o->n_parts && is_others(o, &o->parts[index]))
            watch_part(&o->parts[index], cw_db_i64(res, i, "seq", 0),
                       cw_db_i64(res, i, "oldest", 0));
    }
}

static void watch(struct cw_log_owner *o)
{
    bool others = false;
    for (uint32_t i = 0; i < o->n_parts; i++)
        others |= is_others(o, &o->parts[i]);
    if (!others)
        return;
    char *oldest = o->cfg.outbox ? cw_sprintf("(SELECT min(id) FROM %s.outbox b WHERE b.partition "
                                              "= p.partition)",
                                              o->cfg.schema)
                                 : cw_strdup("0");
    ask(o, NULL, on_positions,
        cw_sprintf("SELECT partition, seq, %s AS oldest FROM %s.position p WHERE log = '%s'",
                   oldest, o->cfg.schema, o->cfg.log));
    free(oldest);
}

/* ---- the look around */

static void set_owner(struct part *p, int pid)
{
    if (pid != p->owner_pid)
        p->moved_ms = 0; /* the watch begins anew */
    p->owner_pid = pid;
}

static void on_look(struct cw_log_owner *o, struct part *none, PGresult *res)
{
    (void)none;
    o->looking = false;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    int owners[o->n_parts];
    memset(owners, 0, sizeof owners);
    o->n_members = 0;
    for (int i = 0; i < PQntuples(res); i++) {
        int64_t key = cw_db_i64(res, i, "objid", -1);
        int pid = (int)cw_db_i64(res, i, "pid", 0);
        if (key == MEMBER_KEY && o->n_members < MEMBERS_MAX)
            o->members[o->n_members++] = pid;
        else if (key >= 0 && key < o->n_parts)
            owners[key] = pid;
    }
    for (uint32_t i = 0; i < o->n_parts; i++)
        set_owner(&o->parts[i], owners[i]);
    settle(o);
    watch(o);
}

static void on_joined(struct cw_log_owner *o, struct part *none, PGresult *res)
{
    (void)none;
    o->joined = is_true(res);
}

static void look(struct cw_log_owner *o)
{
    if (!o->connected || o->looking)
        return;
    if (!o->joined && !o->draining)
        ask(o, NULL, on_joined,
            cw_sprintf("SELECT pg_try_advisory_lock_shared(%d, %d)", o->lock_class, MEMBER_KEY));
    o->looking =
        ask(o, NULL, on_look,
            cw_sprintf("SELECT objid, pid FROM pg_locks WHERE locktype = 'advisory' AND granted "
                       "AND objsubid = 2 AND classid = %d AND database = (SELECT oid FROM "
                       "pg_database WHERE datname = current_database()) ORDER BY pid",
                       o->lock_class));
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    look(arg);
}

static void on_db(bool connected, void *arg)
{
    struct cw_log_owner *o = arg;
    o->connected = connected;
    if (connected) {
        look(o);
        return;
    }
    o->joined = o->looking = false;
    o->n_members = 0;
    for (uint32_t i = 0; i < o->n_parts; i++) {
        struct part *p = &o->parts[i];
        enum hold had = p->hold;
        p->hold = NONE;
        p->unlock_sent = false;
        p->owner_pid = 0;
        if (had == HELD || had == RELEASING) {
            cw_log(CW_WARN, "partition_lost", "log=%s partition=%u", o->cfg.log, i);
            o->cfg.lost(i, o->cfg.self);
        }
    }
    if (o->draining)
        drained(o);
}

struct cw_log_owner *cw_log_owner_open(struct cw_app *app, struct cw_db *db,
                                       const struct cw_log_owner_config *cfg)
{
    static const struct timeval every = { LOOK_MS / 1000, LOOK_MS % 1000 * 1000L };
    struct cw_log_owner *o = cw_calloc(1, sizeof *o);
    *o = (struct cw_log_owner){ .app = app, .db = db, .cfg = *cfg };
    char *name = cw_sprintf("%s %s", cfg->group, cfg->log);
    o->lock_class = (int)(cw_hash(name, strlen(name)) & 0x3fffffff) + 1;
    free(name);
    o->n_parts = cw_app_partitions(app);
    o->parts = cw_calloc(o->n_parts, sizeof *o->parts);
    for (uint32_t i = 0; i < o->n_parts; i++)
        o->parts[i] = (struct part){ .o = o, .index = i };
    o->timer = event_new(cw_app_base(app), -1, EV_PERSIST, on_timer, o);
    evtimer_add(o->timer, &every);
    cw_db_watch(db, on_db, o);
    return o;
}

bool cw_log_owner_has(const struct cw_log_owner *o, uint32_t partition)
{
    return o->parts[partition].hold == HELD || o->parts[partition].hold == RELEASING;
}

unsigned cw_log_owner_members(const struct cw_log_owner *o) { return o->n_members; }

void cw_log_owner_drain(struct cw_log_owner *o)
{
    if (o->draining)
        return;
    o->draining = true;
    snprintf(o->hold_name, sizeof o->hold_name, "partitions of %s", o->cfg.log);
    cw_app_hold(o->app, o->hold_name);
    if (o->connected)
        look(o);
    else
        drained(o);
}

void cw_log_owner_close(struct cw_log_owner **at)
{
    struct cw_log_owner *o = *at;
    struct asked *a;
    if (!o)
        return;
    *at = NULL;
    cw_db_unwatch(o->db, on_db, o);
    while ((a = LIST_FIRST(&o->asked))) {
        LIST_REMOVE(a, link);
        cw_db_cancel(a->query);
        free(a);
    }
    for (uint32_t i = 0; i < o->n_parts; i++)
        js_cancel(&o->parts[i].info);
    event_free(o->timer);
    free(o->parts);
    free(o);
}
