#include "libcommon/db.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"

#define RECONNECT_MIN_MS 100
#define RECONNECT_MAX_MS 2000
#define CONNECT_LIMIT_MS 5000

enum item_kind { PREPARE, EXEC, SYNC };

/* One thing the server will answer, in the order of sending. */
struct cw_db_query {
    STAILQ_ENTRY(cw_db_query) link;
    enum item_kind kind;
    const struct cw_stmt *stmt;
    cw_db_fn *cb;
    void *arg;
};

struct db_watch {
    SLIST_ENTRY(db_watch) link;
    void (*cb)(bool connected, void *arg);
    void *arg;
};

enum db_state { DB_WAITING, DB_CONNECTING, DB_READY };

struct cw_db {
    struct event_base *base;
    char *conninfo, *app_name;
    PGconn *pg;
    enum db_state state;
    struct event *read, *write, *timer, *flush;
    STAILQ_HEAD(, cw_db_query) sent;
    size_t waiting;
    const struct cw_stmt **prepared;
    size_t n_prepared;
    int64_t pause_ms;
    bool broken; /* noticed inside a callback; acted on after it */
    SLIST_HEAD(, db_watch) watches;
};

static void start_connect(struct cw_db *db);
static void on_socket(evutil_socket_t fd, short what, void *arg);

static void arm(struct cw_db *db, int64_t ms)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    evtimer_add(db->timer, &t);
}

static void tell(struct cw_db *db, bool connected)
{
    struct db_watch *w;
    SLIST_FOREACH(w, &db->watches, link)
    w->cb(connected, w->arg);
}

static void drop_events(struct cw_db *db)
{
    if (db->read)
        event_free(db->read);
    if (db->write)
        event_free(db->write);
    db->read = db->write = NULL;
}

static struct cw_db_query *pop(struct cw_db *db)
{
    struct cw_db_query *item = STAILQ_FIRST(&db->sent);
    STAILQ_REMOVE_HEAD(&db->sent, link);
    return item;
}

/* Gives NULL to whatever waits; callbacks find the database disconnected and can send nothing. */
static void fail_waiting(struct cw_db *db)
{
    while (!STAILQ_EMPTY(&db->sent)) {
        struct cw_db_query *item = pop(db);
        cw_db_fn *cb = item->cb;
        void *arg = item->arg;
        db->waiting -= item->kind == EXEC;
        free(item);
        if (cb)
            cb(NULL, arg);
    }
}

static void lose(struct cw_db *db)
{
    static struct cw_log_gate gate;
    bool was_ready = db->state == DB_READY;
    const char *why = db->pg ? PQerrorMessage(db->pg) : "out of memory";
    cw_log_limited(&gate, CW_WARN, was_ready ? "db_lost" : "db_connect_failed", "reason=\"%.*s\"",
                   (int)strcspn(why, "\n"), why);
    db->state = DB_WAITING;
    db->broken = false;
    drop_events(db);
    PQfinish(db->pg);
    db->pg = NULL;
    free(db->prepared);
    db->prepared = NULL;
    db->n_prepared = 0;
    fail_waiting(db);
    if (was_ready)
        tell(db, false);
    arm(db, db->pause_ms);
    db->pause_ms = db->pause_ms * 2 < RECONNECT_MAX_MS ? db->pause_ms * 2 : RECONNECT_MAX_MS;
}

static void become_ready(struct cw_db *db)
{
    if (PQsetnonblocking(db->pg, 1) < 0 || PQenterPipelineMode(db->pg) != 1) {
        lose(db);
        return;
    }
    evtimer_del(db->timer);
    drop_events(db);
    db->read = event_new(db->base, PQsocket(db->pg), EV_READ | EV_PERSIST, on_socket, db);
    db->write = event_new(db->base, PQsocket(db->pg), EV_WRITE, on_socket, db);
    event_add(db->read, NULL);
    db->state = DB_READY;
    db->pause_ms = RECONNECT_MIN_MS;
    cw_log(CW_INFO, "db_connected", "pid=%d", PQbackendPID(db->pg));
    /* What is asked for lies in memory for the most part: a page of an index costs little more than
     * the next one. Taken for a disk that turns, small tables would be read whole for each batch.
     */
    cw_db_query(db, "SET random_page_cost = 1.1", NULL, NULL);
    tell(db, true);
}

static void on_connecting(evutil_socket_t fd, short what, void *arg)
{
    struct cw_db *db = arg;
    (void)fd, (void)what;
    PostgresPollingStatusType s = PQconnectPoll(db->pg);
    if (s == PGRES_POLLING_OK) {
        become_ready(db);
        return;
    }
    if (s == PGRES_POLLING_FAILED) {
        lose(db);
        return;
    }
    drop_events(db); /* the socket may be another one after each step */
    db->read = event_new(db->base, PQsocket(db->pg),
                         s == PGRES_POLLING_READING ? EV_READ : EV_WRITE, on_connecting, db);
    event_add(db->read, NULL);
}

static void start_connect(struct cw_db *db)
{
    const char *keys[] = { "dbname", "application_name", "client_encoding", NULL };
    const char *values[] = { db->conninfo, db->app_name, "UTF8", NULL };
    db->pg = PQconnectStartParams(keys, values, 1);
    if (!db->pg || PQstatus(db->pg) == CONNECTION_BAD) {
        lose(db);
        return;
    }
    db->state = DB_CONNECTING;
    db->read = event_new(db->base, PQsocket(db->pg), EV_WRITE, on_connecting, db);
    event_add(db->read, NULL);
    arm(db, CONNECT_LIMIT_MS);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct cw_db *db = arg;
    (void)fd, (void)what;
    if (db->state == DB_WAITING)
        start_connect(db);
    else if (db->state == DB_CONNECTING)
        lose(db);
}

/* Once per turn of the loop, so that statements of one turn leave in one write. */
static void on_flush(evutil_socket_t fd, short what, void *arg)
{
    struct cw_db *db = arg;
    (void)fd, (void)what;
    if (db->state != DB_READY)
        return;
    int rc = PQflush(db->pg);
    if (rc < 0 || db->broken)
        lose(db);
    else if (rc > 0)
        event_add(db->write, NULL);
}

static bool is_prepared(const struct cw_db *db, const struct cw_stmt *stmt)
{
    for (size_t i = 0; i < db->n_prepared; i++)
        if (db->prepared[i] == stmt)
            return true;
    return false;
}

static void forget_prepared(struct cw_db *db, const struct cw_stmt *stmt)
{
    for (size_t i = 0; i < db->n_prepared; i++)
        if (db->prepared[i] == stmt)
            db->prepared[i--] = db->prepared[--db->n_prepared];
}

/* The statement behind a failed PREPARE gets its error now; its own result only says "aborted". */
static void prepare_failed(struct cw_db *db, struct cw_db_query *item, PGresult *res)
{
    struct cw_db_query *exec = STAILQ_NEXT(item, link);
    cw_db_fn *cb = exec->cb;
    forget_prepared(db, item->stmt);
    exec->cb = NULL;
    if (cb)
        cb(res, exec->arg);
}

/* A NULL result ends a statement; a sync has none. */
static void end_item(struct cw_db *db)
{
    struct cw_db_query *item = STAILQ_FIRST(&db->sent);
    if (item && item->kind != SYNC) {
        db->waiting -= item->kind == EXEC;
        free(pop(db));
    }
}

static void take_result(struct cw_db *db, PGresult *res)
{
    struct cw_db_query *item = STAILQ_FIRST(&db->sent);
    if (!item) { /* the server speaks out of turn: nothing after this could be trusted */
        db->broken = true;
        return;
    }
    if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
        /* a statement sent from the callback of an error makes libpq skip that one's NULL */
        while (item && item->kind != SYNC) {
            end_item(db);
            item = STAILQ_FIRST(&db->sent);
        }
        if (item)
            free(pop(db));
        return;
    }
    if (item->kind == PREPARE) {
        if (PQresultStatus(res) != PGRES_COMMAND_OK)
            prepare_failed(db, item, res);
        return;
    }
    cw_db_fn *cb = item->cb;
    item->cb = NULL;
    if (cb)
        cb(res, item->arg);
}

static void read_results(struct cw_db *db)
{
    int nothing = 0;
    while (!db->broken && !STAILQ_EMPTY(&db->sent) && !PQisBusy(db->pg)) {
        PGresult *res = PQgetResult(db->pg);
        nothing = res ? 0 : nothing + 1;
        if (res)
            take_result(db, res);
        else if (nothing == 1)
            end_item(db);
        else
            db->broken = true; /* out of step: a new connection is better than to turn for ever */
        PQclear(res);
    }
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct cw_db *db = arg;
    (void)fd;
    if ((what & EV_READ) && !PQconsumeInput(db->pg)) {
        lose(db);
        return;
    }
    read_results(db);
    event_active(db->flush, 0, 0);
}

static struct cw_db_query *append(struct cw_db *db, enum item_kind kind, const struct cw_stmt *stmt,
                                  cw_db_fn *cb, void *arg)
{
    struct cw_db_query *item = cw_calloc(1, sizeof *item);
    *item = (struct cw_db_query){ .kind = kind, .stmt = stmt, .cb = cb, .arg = arg };
    STAILQ_INSERT_TAIL(&db->sent, item, link);
    db->waiting += kind == EXEC;
    return item;
}

/* Ends what was sent; after a failed send the queue no longer fits the answers: start afresh. */
static struct cw_db_query *sent(struct cw_db *db, bool ok, cw_db_fn *cb, void *arg)
{
    struct cw_db_query *item = NULL;
    if (ok) {
        item = append(db, EXEC, NULL, cb, arg);
        ok = PQpipelineSync(db->pg);
        append(db, SYNC, NULL, NULL, NULL);
    }
    if (!ok) {
        db->broken = true;
        if (item)
            item->cb = NULL;
        item = NULL;
    }
    event_active(db->flush, 0, 0);
    return item;
}

static bool prepare(struct cw_db *db, const struct cw_stmt *stmt)
{
    if (is_prepared(db, stmt))
        return true;
    if (!PQsendPrepare(db->pg, stmt->name, stmt->sql, 0, NULL))
        return false;
    append(db, PREPARE, stmt, NULL, NULL);
    db->prepared = cw_realloc(db->prepared, (db->n_prepared + 1) * sizeof(struct cw_stmt *));
    db->prepared[db->n_prepared++] = stmt;
    return true;
}

#define PARAMS_MAX 32

struct cw_db_query *cw_db_exec(struct cw_db *db, const struct cw_stmt *stmt, int n,
                               const struct cw_db_param *params, cw_db_fn *cb, void *arg)
{
    const char *values[PARAMS_MAX];
    int lengths[PARAMS_MAX], formats[PARAMS_MAX];
    if (db->state != DB_READY || db->broken)
        return NULL;
    if (n > PARAMS_MAX)
        abort(); /* a mistake in the source */
    for (int i = 0; i < n; i++) {
        values[i] = params[i].data;
        lengths[i] = params[i].len;
        formats[i] = params[i].binary;
    }
    bool ok = stmt->name
                  ? prepare(db, stmt) &&
                        PQsendQueryPrepared(db->pg, stmt->name, n, values, lengths, formats, 0)
                  : PQsendQueryParams(db->pg, stmt->sql, n, NULL, values, lengths, formats, 0);
    return sent(db, ok, cb, arg);
}

struct cw_db_query *cw_db_query(struct cw_db *db, const char *sql, cw_db_fn *cb, void *arg)
{
    if (db->state != DB_READY || db->broken)
        return NULL;
    return sent(db, PQsendQueryParams(db->pg, sql, 0, NULL, NULL, NULL, NULL, 0), cb, arg);
}

void cw_db_cancel(struct cw_db_query *q) { q->cb = NULL; }

bool cw_db_connected(const struct cw_db *db) { return db->state == DB_READY && !db->broken; }

void cw_db_watch(struct cw_db *db, void (*cb)(bool connected, void *arg), void *arg)
{
    struct db_watch *w = cw_calloc(1, sizeof *w);
    *w = (struct db_watch){ .cb = cb, .arg = arg };
    SLIST_INSERT_HEAD(&db->watches, w, link);
    if (db->state == DB_READY)
        cb(true, arg);
}

void cw_db_unwatch(struct cw_db *db, void (*cb)(bool connected, void *arg), void *arg)
{
    struct db_watch *w;
    SLIST_FOREACH(w, &db->watches, link)
    if (w->cb == cb && w->arg == arg)
        break;
    if (w)
        SLIST_REMOVE(&db->watches, w, db_watch, link);
    free(w);
}

size_t cw_db_waiting(const struct cw_db *db) { return db->waiting; }

int cw_db_backend_pid(const struct cw_db *db)
{
    return db->state == DB_READY ? PQbackendPID(db->pg) : 0;
}

void cw_db_reset(struct cw_db *db)
{
    if (db->state != DB_READY)
        return;
    db->broken = true;
    event_active(db->flush, 0, 0);
}

struct cw_db *cw_db_open(struct event_base *base, const char *conninfo, const char *app_name)
{
    struct cw_db *db = cw_calloc(1, sizeof *db);
    db->base = base;
    db->conninfo = cw_strdup(conninfo);
    db->app_name = cw_strdup(app_name);
    db->pause_ms = RECONNECT_MIN_MS;
    STAILQ_INIT(&db->sent);
    db->timer = evtimer_new(base, on_timer, db);
    db->flush = event_new(base, -1, 0, on_flush, db);
    start_connect(db);
    return db;
}

void cw_db_end(struct cw_db *db)
{
    if (!db)
        return;
    db->state = DB_WAITING;
    drop_events(db);
    evtimer_del(db->timer);
    event_del(db->flush);
    PQfinish(db->pg);
    db->pg = NULL;
    fail_waiting(db);
}

void cw_db_close(struct cw_db **at)
{
    struct cw_db *db = *at;
    if (!db)
        return;
    *at = NULL;
    cw_db_end(db);
    event_free(db->timer);
    event_free(db->flush);
    for (struct db_watch *w = SLIST_FIRST(&db->watches), *next; w; w = next) {
        next = SLIST_NEXT(w, link);
        free(w);
    }
    free(db->prepared);
    free(db->conninfo);
    free(db->app_name);
    free(db);
}
