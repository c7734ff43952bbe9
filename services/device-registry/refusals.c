#include "services/device-registry/refusals.h"

#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/metrics.h"
#include "libcommon/notice.h"

#define WAITING_MAX 256
#define TEXT_MAX    500

enum column { CODE, DEVICE_ID, PEER, COMMON_NAME, FINGERPRINT, SERVER_NAME, REASON, NEXT_STEP };
#define TEXTS   (NEXT_STEP + 1)
#define COLUMNS (2 + TEXTS + 3) /* subject and record id before, times and two times after */

struct waiting {
    UT_hash_handle hh; /* by subject */
    char *subject, *texts[TEXTS];
    int64_t times, first_ms, last_ms;
};

static struct {
    struct waiting *all;
    struct event *timer;
    struct cw_metric *dropped;
} state;

static const struct cw_stmt stmt_write = {
    "refusals_write",
    "INSERT INTO registry.refused_connection AS o (subject, record_id, code, device_id, peer,"
    " common_name, fingerprint, server_name, reason, next_step, times, first, last)"
    " SELECT subject, record_id, code, device_id, peer, common_name, fingerprint, server_name,"
    " reason, next_step, times, to_timestamp(first / 1000.0), to_timestamp(last / 1000.0)"
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],"
    " $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[],"
    " $13::bigint[]) AS u(subject, record_id, code, device_id, peer, common_name, fingerprint,"
    " server_name, reason, next_step, times, first, last) ORDER BY subject"
    " ON CONFLICT (subject) DO UPDATE SET record_id = excluded.record_id, peer = excluded.peer,"
    " common_name = excluded.common_name, fingerprint = excluded.fingerprint,"
    " server_name = excluded.server_name, reason = excluded.reason,"
    " next_step = excluded.next_step, times = o.times + excluded.times, last = excluded.last"
};
static const struct cw_stmt stmt_trim = {
    "refusals_trim", "DELETE FROM registry.refused_connection WHERE record_id < (SELECT record_id"
                     " FROM registry.refused_connection ORDER BY record_id DESC OFFSET 999 LIMIT 1)"
};
#define LIST(by)                                                                                   \
    "WITH page AS (SELECT record_id, code, device_id, peer, common_name, fingerprint,"             \
    "  server_name, reason, next_step, times, " SQL_BASIC_TIME(                                    \
        "first") " AS first_time,"                                                                 \
                 "  " SQL_BASIC_TIME(                                                              \
                     "last") " AS last_time FROM registry.refused_connection WHERE " by            \
                             "  AND record_id < lower($2) ORDER BY record_id DESC OFFSET "         \
                             "$3::bigint LIMIT $4::bigint)"                                        \
                             " SELECT (SELECT count(*) FROM registry.refused_connection WHERE " by \
                             ") AS count, page.*"                                                  \
                             " FROM (SELECT) one LEFT JOIN page ON true ORDER BY page.record_id "  \
                             "DESC"
static const struct cw_stmt stmt_list = { "refusals_list", LIST("$1::text IS NULL") };
static const struct cw_stmt stmt_list_device = { "refusals_list_device", LIST("device_id = $1") };

/* The device that a certificate is bound to, whatever its space: it was shown, not proven. */
static const struct cw_stmt stmt_bound = {
    "refusals_bound", "SELECT device_key, device_id FROM registry.device"
                      " WHERE lower(fingerprint) = $1 AND fingerprint IS NOT NULL LIMIT 1"
};

/* ---- what waits */

static char *cut(const char *s) { return cw_strndup(s ? s : "", s ? strnlen(s, TEXT_MAX) : 0); }

/* Of "address:port" the address. */
static char *host_of(const char *peer)
{
    const char *colon = peer ? strrchr(peer, ':') : NULL;
    return colon ? cw_strndup(peer, (size_t)(colon - peer)) : cut(peer);
}

static void waiting_free(struct waiting *w)
{
    for (size_t i = 0; i < TEXTS; i++)
        free(w->texts[i]);
    free(w->subject);
    free(w);
}

static void flush(struct registry *r)
{
    struct cw_db_array a[COLUMNS] = { 0 };
    struct cw_db_param p[COLUMNS];
    char id[CW_RECORD_ID_LEN];
    struct waiting *w, *next;
    if (!state.all)
        return;
    for (size_t i = 0; i < COLUMNS; i++)
        cw_db_array_reset(&a[i], i < 2 + TEXTS ? CW_ARRAY_TEXT : CW_ARRAY_INT8);
    HASH_ITER(hh, state.all, w, next)
    {
        HASH_DEL(state.all, w);
        cw_db_array_str(&a[0], w->subject);
        cw_db_array_str(&a[1], cw_record_id(id));
        for (size_t i = 0; i < TEXTS; i++)
            cw_db_array_str(&a[2 + i], w->texts[i]);
        cw_db_array_int(&a[2 + TEXTS], w->times);
        cw_db_array_int(&a[3 + TEXTS], w->first_ms);
        cw_db_array_int(&a[4 + TEXTS], w->last_ms);
        waiting_free(w);
    }
    for (size_t i = 0; i < COLUMNS; i++)
        p[i] = cw_db_array_param(&a[i]);
    if (cw_db_exec(registry_db(r), &stmt_write, COLUMNS, p, NULL, NULL))
        cw_db_exec(registry_db(r), &stmt_trim, 0, NULL, NULL, NULL);
    for (size_t i = 0; i < COLUMNS; i++)
        cw_db_array_free(&a[i]);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    flush(arg);
}

static struct waiting *find_waiting(struct registry *r, const struct refused *f, char *subject)
{
    static const struct timeval second = { 1, 0 };
    struct waiting *w;
    HASH_FIND_STR(state.all, subject, w);
    if (w)
        return w;
    if (!state.timer) {
        state.timer = evtimer_new(cw_app_base(r->app), on_timer, r);
        state.dropped = cw_counter("causeway_refusals_dropped_total", NULL,
                                   "Refused connections that were not written down: too many");
    }
    if (HASH_COUNT(state.all) >= WAITING_MAX) {
        cw_metric_add(state.dropped, 1);
        return NULL;
    }
    if (!state.all)
        evtimer_add(state.timer, &second);
    w = cw_calloc(1, sizeof *w);
    w->subject = cw_strdup(subject);
    w->first_ms = cw_now_ms();
    w->texts[CODE] = cut(f->code);
    w->texts[DEVICE_ID] = cut(f->device_id);
    HASH_ADD_KEYPTR(hh, state.all, w->subject, strlen(w->subject), w);
    return w;
}

void refusals_note(struct registry *r, const struct refused *f)
{
    const char *const newest[] = { f->common_name, f->fingerprint, f->server_name, f->reason,
                                   f->next_step };
    char *host = host_of(f->peer);
    const char *whom = f->device_id && *f->device_id       ? f->device_id
                       : f->fingerprint && *f->fingerprint ? f->fingerprint
                                                           : host;
    char *subject = cw_sprintf("%.64s %.256s", f->code, whom);
    struct waiting *w = find_waiting(r, f, subject);
    free(subject);
    if (!w) {
        free(host);
        return;
    }
    w->times++;
    w->last_ms = cw_now_ms();
    free(w->texts[PEER]);
    w->texts[PEER] = host;
    for (size_t i = 0; i < CW_ARRAY_LEN(newest); i++) {
        free(w->texts[COMMON_NAME + i]);
        w->texts[COMMON_NAME + i] = cut(newest[i]);
    }
}

/* A handshake with a certificate that a device is bound to: its own `why` tells too. */
struct telling {
    struct registry *r;
    Causeway__RefusedConnection *m;
};

static void on_bound(PGresult *res, void *arg)
{
    struct telling t = *(struct telling *)arg;
    free(arg);
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0)
        cw_notice(t.r->notices,
                  &(struct cw_notice){ .layer = CW_LAYER_CONNECT,
                                       .device_key = cw_db_i64(res, 0, "device_key", 0),
                                       .device_id = cw_db_str(res, 0, "device_id"),
                                       .code = t.m->code,
                                       .reason = t.m->reason,
                                       .next_step = t.m->next_step,
                                       .sample = t.m->peer });
    causeway__refused_connection__free_unpacked(t.m, NULL);
}

void refusals_tell(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    Causeway__RefusedConnection *m =
        causeway__refused_connection__unpack(NULL, msg->len, msg->data);
    if (!m)
        return;
    refusals_note(r, &(struct refused){ .code = m->code,
                                        .reason = m->reason,
                                        .next_step = m->next_step,
                                        .peer = m->peer,
                                        .common_name = m->common_name,
                                        .fingerprint = m->fingerprint,
                                        .server_name = m->server_name });
    struct telling *t = cw_malloc(sizeof *t);
    *t = (struct telling){ r, m };
    if (*m->fingerprint &&
        cw_db_exec(registry_db(r), &stmt_bound, 1, &CW_TEXT(m->fingerprint), on_bound, t))
        return;
    causeway__refused_connection__free_unpacked(m, NULL);
    free(t);
}

void refusals_stop(struct registry *r)
{
    struct waiting *w, *next;
    (void)r;
    HASH_ITER(hh, state.all, w, next)
    {
        HASH_DEL(state.all, w);
        waiting_free(w);
    }
    if (state.timer)
        event_free(state.timer);
    state.timer = NULL;
}

/* ---- list */

static json_t *refused_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "code",        "reason",      "next_step",   "device_id",
                                         "common_name", "fingerprint", "server_name", "peer",
                                         "first_time",  "last_time" };
    json_t *o = json_pack("{s:I}", "count", (json_int_t)cw_db_i64(res, row, "times", 0));
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        if (*cw_db_str(res, row, texts[i]))
            cw_row_text(o, texts[i], res, row, texts[i]);
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list refused connections"))
        reply_page(arg, res, "refused_connections", "code", refused_json);
}

void list_refused(struct cw_api_call *call, void *self)
{
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker"), *device = cw_api_query(call, "device_id");
    const struct cw_db_param p[] = { CW_TEXT(device),
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit) };
    if (!cw_db_exec(registry_db(self), device ? &stmt_list_device : &stmt_list, CW_ARRAY_LEN(p), p,
                    on_list, call))
        cw_api_no_db(call);
}
