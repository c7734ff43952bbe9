/* Which gateways are there, and what becomes of the sessions of those that are not: their end is
 * put into UPLINK, where it is in order with what their devices said before. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/log_append.h"
#include "libcommon/log_read.h"
#include "libcommon/metrics.h"
#include "services/device-registry/registry.h"

#define PREFIX    "heartbeat."
#define TICK_MS   1000
#define FORGET_MS 600000
#define TIDY_MS   600000
#define ENDS_MAX  4096 /* sessions ended at a time */

/* Gateways that hold sessions, by jumps over the index: cheap with any number of sessions. */
static const struct cw_stmt stmt_holders = {
    "gateways_holders",
    "WITH RECURSIVE g AS (SELECT min(gateway) AS gateway FROM registry.session WHERE lost IS NULL"
    " UNION ALL SELECT (SELECT min(s.gateway) FROM registry.session s WHERE s.lost IS NULL"
    "  AND s.gateway > g.gateway) FROM g WHERE g.gateway IS NOT NULL)"
    " SELECT gateway FROM g WHERE gateway IS NOT NULL"
};
static const struct cw_stmt stmt_held = {
    "gateways_held", "SELECT device_key, session_no, device_id, product_key, partition"
                     " FROM registry.session WHERE gateway = $1 AND partition = ANY($2::int[])"
                     " AND lost IS NULL LIMIT $3::bigint"
};
static const struct cw_stmt stmt_lost = {
    "gateways_lost", "UPDATE registry.session s SET lost = now()"
                     " FROM unnest($1::bigint[], $2::bigint[]) AS u(device_key, session_no)"
                     " WHERE s.device_key = u.device_key AND s.session_no = u.session_no"
};
/* The end of a session comes back as device.status and removes the row; not for deleted devices. */
static const struct cw_stmt stmt_tidy = {
    "gateways_tidy", "DELETE FROM registry.session WHERE lost < now() - interval '1 hour'"
};

struct gateway {
    UT_hash_handle hh;
    int64_t heard_ms;
    char instance[]; /* name-number-boot */
};

struct gateways {
    struct registry *r;
    struct gateway *known;
    struct cw_bus_sub *sub;
    struct event *timer;
    int64_t hearing_ms; /* since when nothing was missed; 0: not connected */
    int64_t tidied_ms;
    bool busy;
    struct cw_metric *ended;
};

/* The ends of one gateway's sessions, under way to UPLINK. */
struct ending {
    struct gateways *g;
    struct cw_db_array keys, numbers; /* appended and confirmed */
    struct end {
        struct ending *all;
        int64_t device_key, session_no;
    } * ends;
    size_t n, waiting;
};

/* ---- hearing */

static void on_heartbeat(const struct cw_bus_msg *msg, void *arg)
{
    struct gateways *g = arg;
    struct gateway *e;
    if (msg->no_responders || strncmp(msg->subject, PREFIX, strlen(PREFIX)) != 0)
        return;
    const char *instance = msg->subject + strlen(PREFIX);
    size_t len = strlen(instance);
    HASH_FIND(hh, g->known, instance, len, e);
    if (!e) {
        e = cw_calloc(1, sizeof *e + len + 1);
        memcpy(e->instance, instance, len);
        HASH_ADD_KEYPTR(hh, g->known, e->instance, len, e);
    }
    e->heard_ms = cw_mono_ms();
}

static void on_bus(bool connected, void *arg)
{
    struct gateways *g = arg;
    g->hearing_ms = connected ? cw_mono_ms() : 0;
}

/* Length of name-number in name-number-boot; 0 if it is no such thing. */
static size_t name_len(const char *instance)
{
    const char *dash = strrchr(instance, '-');
    return dash ? (size_t)(dash - instance) : 0;
}

/* A gateway of the same name and a later boot has spoken: this one cannot be alive. */
static bool replaced(const struct gateways *g, const char *instance)
{
    size_t n = name_len(instance);
    struct gateway *e, *next;
    HASH_ITER(hh, g->known, e, next)
    if (n && name_len(e->instance) == n && memcmp(e->instance, instance, n) == 0 &&
        strtoull(e->instance + n + 1, NULL, 10) > strtoull(instance + n + 1, NULL, 10))
        return true;
    return false;
}

static bool is_lost(const struct gateways *g, const char *instance)
{
    struct gateway *e;
    int64_t now_ms = cw_mono_ms();
    if (replaced(g, instance))
        return true;
    HASH_FIND(hh, g->known, instance, strlen(instance), e);
    int64_t heard_ms = e && e->heard_ms > g->hearing_ms ? e->heard_ms : g->hearing_ms;
    return g->hearing_ms && now_ms - heard_ms > g->r->lost_ms;
}

bool gateway_lost(const struct registry *r, const char *instance)
{
    return is_lost(r->gateways, instance);
}

/* ---- ending */

static void ending_free(struct ending *e)
{
    e->g->busy = false;
    cw_db_array_free(&e->keys);
    cw_db_array_free(&e->numbers);
    free(e->ends);
    free(e);
}

static void on_marked(PGresult *res, void *arg)
{
    /* not marked: their ends are appended again, which changes nothing */
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_WARN, "lost_sessions_not_marked", "reason=\"%s\"", cw_db_error(res));
    ending_free(arg);
}

static void on_appended(int rc, void *arg)
{
    struct end *end = arg;
    struct ending *e = end->all;
    if (rc == 0) {
        cw_db_array_int(&e->keys, end->device_key);
        cw_db_array_int(&e->numbers, end->session_no);
        cw_metric_add(e->g->ended, 1);
    }
    if (--e->waiting > 0)
        return;
    const struct cw_db_param p[] = { cw_db_array_param(&e->keys), cw_db_array_param(&e->numbers) };
    if (!e->keys.n || !cw_db_exec(e->g->r->logins, &stmt_lost, 2, p, on_marked, e))
        ending_free(e);
}

static void append_end(struct ending *e, struct end *end, const PGresult *res, int row)
{
    char request_id[CW_UUID_LEN];
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    end->all = e;
    end->device_key = cw_db_i64(res, row, "device_key", 0);
    end->session_no = cw_db_i64(res, row, "session_no", 0);
    up.kind = CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT;
    up.device_key = end->device_key;
    up.device_id = (char *)cw_db_str(res, row, "device_id");
    up.product_key = cw_db_i64(res, row, "product_key", 0);
    up.session_no = end->session_no;
    up.received_ms = cw_now_ms();
    up.request_id = cw_uuid(request_id);
    up.cause = (char *)"gateway_lost";
    size_t len = causeway__uplink__get_packed_size(&up);
    uint8_t *packed = cw_malloc(len);
    causeway__uplink__pack(&up, packed);
    cw_log_append(e->g->r->uplink, (uint32_t)cw_db_i64(res, row, "partition", 0), packed, len,
                  on_appended, end);
    free(packed);
}

static void on_held(PGresult *res, void *arg)
{
    struct ending *e = arg;
    int n = cw_db_outcome(res) == CW_DB_OK ? PQntuples(res) : 0;
    if (n == 0) {
        ending_free(e);
        return;
    }
    cw_log(CW_INFO, "sessions_lost", "sessions=%d", n);
    e->ends = cw_calloc((size_t)n, sizeof *e->ends);
    e->waiting = (size_t)n + 1; /* ours, should one fail inside the call */
    for (int i = 0; i < n; i++)
        append_end(e, &e->ends[i], res, i);
    if (--e->waiting == 0)
        ending_free(e);
}

static void end_sessions(struct gateways *g, const char *instance)
{
    char max[24];
    struct cw_db_array owned = { 0 };
    struct ending *e = cw_calloc(1, sizeof *e);
    e->g = g;
    cw_db_array_reset(&e->keys, CW_ARRAY_INT8);
    cw_db_array_reset(&e->numbers, CW_ARRAY_INT8);
    cw_log_reader_owned(g->r->events, &owned);
    const struct cw_db_param p[] = { CW_TEXT(instance), cw_db_array_param(&owned),
                                     cw_db_int(ENDS_MAX, max) };
    if (!owned.n || !cw_db_exec(g->r->logins, &stmt_held, 3, p, on_held, e))
        ending_free(e);
    cw_db_array_free(&owned);
}

/* One lost gateway at a time: the next tick finds the next. Several with sessions of foreign
 * partitions only must not hide each other, so the turn goes round. */
static void on_holders(PGresult *res, void *arg)
{
    struct gateways *g = arg;
    static unsigned turn;
    int n = cw_db_outcome(res) == CW_DB_OK ? PQntuples(res) : 0;
    turn++;
    for (int i = 0; i < n; i++) {
        const char *instance = PQgetvalue(res, (int)((turn + (unsigned)i) % (unsigned)n), 0);
        if (is_lost(g, instance)) {
            end_sessions(g, instance);
            return;
        }
    }
    g->busy = false;
}

static void forget(struct gateways *g)
{
    struct gateway *e, *next;
    HASH_ITER(hh, g->known, e, next)
    {
        if (cw_mono_ms() - e->heard_ms > FORGET_MS) {
            /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the table has let go of what was freed */
            HASH_DEL(g->known, e);
            free(e);
        }
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct gateways *g = arg;
    int64_t now_ms = cw_mono_ms();
    (void)fd, (void)what;
    forget(g);
    if (cw_app_draining(g->r->app) || !g->hearing_ms || g->busy)
        return;
    if (now_ms - g->tidied_ms > TIDY_MS &&
        cw_db_exec(g->r->logins, &stmt_tidy, 0, NULL, NULL, NULL))
        g->tidied_ms = now_ms;
    g->busy = cw_db_exec(g->r->logins, &stmt_holders, 0, NULL, on_holders, g) != NULL;
}

void gateways_start(struct registry *r)
{
    static const struct timeval tick = { TICK_MS / 1000, 0 };
    struct gateways *g = cw_calloc(1, sizeof *g);
    g->r = r;
    g->ended = cw_counter("causeway_sessions_lost_total", NULL,
                          "Sessions ended since their gateway is gone");
    g->sub = cw_bus_subscribe(cw_app_bus(r->app), PREFIX "*", NULL, on_heartbeat, g);
    cw_bus_watch(cw_app_bus(r->app), on_bus, g);
    g->timer = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_tick, g);
    event_add(g->timer, &tick);
    r->gateways = g;
}

void gateways_stop(struct registry *r)
{
    struct gateways *g = r->gateways;
    struct gateway *e, *next;
    if (!g)
        return;
    g->hearing_ms = 0;
    event_free(g->timer);
    cw_bus_unsubscribe(&g->sub);
    HASH_ITER(hh, g->known, e, next)
    {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the table has let go of what was freed */
        HASH_DEL(g->known, e);
        free(e);
    }
    /* g itself stays: the bus and endings under way may still speak of it until the process
     * ends */
}
