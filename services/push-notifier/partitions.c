/* A partition: lock, position and rows, window and fetch, saves, release. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/js_stream.h"
#include "libcommon/log_trail.h"
#include "proto/subjects.h"
#include "services/push-notifier/notifier.h"

#define RELEASE_MS   3000 /* what is in flight then is repeated by the next owner */
#define TRIM_EACH_MS 2000

struct part {
    struct notifier *n;
    uint32_t number;
    struct cw_log_fetch *fetch;
    struct partition *window;       /* NULL: position and rows are still being read */
    struct cw_db_query *queries[4]; /* three of the start, or a save; [3]: created */
    uint64_t seq;
    char *created;
    uint64_t purging, purged;
    struct log_trail trail;
    struct js_call *purge;
    bool releasing;
    int64_t release_by_ms, purge_at_ms;
};

static const struct cw_stmt stmt_begin = {
    "part_begin", "INSERT INTO push.position (log, partition) VALUES ('PUSH', $1)"
                  " ON CONFLICT DO NOTHING"
};
/* What lies above the position is read from the log again, in its order. */
static const struct cw_stmt stmt_position = {
    "part_position", "WITH p AS (SELECT seq, stream_created, trim FROM push.position"
                     " WHERE log = 'PUSH' AND partition = $1),"
                     " d AS (DELETE FROM push.backlog b USING p WHERE b.partition = $1"
                     " AND b.seq > p.seq) SELECT seq, stream_created, trim FROM p"
};
static const struct cw_stmt stmt_lanes = {
    "part_lanes", "SELECT action_id, device_key, count(*) AS n, max(due_ms) AS due_ms"
                  " FROM push.backlog b WHERE partition = $1 AND seq <= (SELECT seq FROM"
                  " push.position WHERE log = 'PUSH' AND partition = $1) GROUP BY 1, 2"
};
static const struct cw_stmt stmt_created = {
    "part_created", "UPDATE push.position SET stream_created = $2 WHERE log = 'PUSH'"
                    " AND partition = $1 AND stream_created IS DISTINCT FROM $2"
};
/* One statement is one transaction: position, rows and totals move together or not at all. */
static const struct cw_stmt stmt_save = {
    "part_save",
    "WITH p AS (UPDATE push.position SET seq = $3::bigint, trim = $4::bigint,"
    " totals = (SELECT array_agg(a + coalesce(b, 0) ORDER BY i) FROM"
    " unnest(totals, $5::bigint[]) WITH ORDINALITY AS t (a, b, i))"
    " WHERE log = 'PUSH' AND partition = $1::int AND seq = $2::bigint RETURNING partition),"
    " i AS (INSERT INTO push.backlog (partition, seq, idx, rule_id, action_id, device_key, bytes,"
    " push, attempts, spent_ms, counted_ms, due_ms, parked_ms)"
    " SELECT p.partition, x.seq, x.idx, x.rule_id, x.action_id, x.device_key, length(x.push),"
    " x.push, x.attempts, x.spent_ms, x.counted_ms, x.due_ms, $16::bigint FROM p,"
    " unnest($6::bigint[], $7::int[], $8::text[], $9::text[], $10::bigint[], $11::bytea[],"
    " $12::int[], $13::bigint[], $14::bigint[], $15::bigint[]) AS x (seq, idx, rule_id, action_id,"
    " device_key, push, attempts, spent_ms, counted_ms, due_ms)),"
    " d AS (DELETE FROM push.backlog b USING p, unnest($17::bigint[], $18::int[]) AS x (seq, idx)"
    " WHERE b.partition = p.partition AND b.seq = x.seq AND b.idx = x.idx),"
    " u AS (UPDATE push.backlog b SET attempts = x.attempts, spent_ms = x.spent_ms,"
    " counted_ms = x.counted_ms, due_ms = x.due_ms FROM p, unnest($19::bigint[], $20::int[],"
    " $21::int[], $22::bigint[], $23::bigint[], $24::bigint[])"
    " AS x (seq, idx, attempts, spent_ms, counted_ms, due_ms)"
    " WHERE b.partition = p.partition AND b.seq = x.seq AND b.idx = x.idx)"
    " SELECT count(*) FROM p"
};

/* ---- the end of a partition */

static void part_free(struct part *pt)
{
    struct notifier *n = pt->n;
    for (size_t i = 0; i < CW_ARRAY_LEN(pt->queries); i++)
        if (pt->queries[i])
            cw_db_cancel(pt->queries[i]);
    js_cancel(&pt->purge);
    cw_log_fetch_close(&pt->fetch);
    if (pt->window)
        window_close(n->window, pt->number);
    n->parts[pt->number] = NULL;
    free(pt->created);
    free(pt);
}

void partition_lost(uint32_t number, void *self)
{
    struct notifier *n = self;
    if (n->parts[number])
        part_free(n->parts[number]);
}

void partitions_stop(struct notifier *n)
{
    for (uint32_t i = 0; n->parts && i < cw_app_partitions(n->app); i++)
        partition_lost(i, n);
    free(n->parts);
    n->parts = NULL;
}

static void released(struct part *pt)
{
    struct notifier *n = pt->n;
    uint32_t number = pt->number;
    part_free(pt);
    cw_log(CW_INFO, "partition_released", "log=PUSH partition=%u", number);
    cw_log_owner_released(n->owner, number);
}

/* The locks go with the connection: nobody is left believing that it owns what it lost. */
static void give_up(struct part *pt, const char *why)
{
    cw_log(CW_WARN, "partition_given_up", "log=PUSH partition=%u reason=\"%s\"", pt->number, why);
    cw_db_reset(pt->n->fence);
}

void partition_release(uint32_t number, void *self)
{
    struct notifier *n = self;
    struct part *pt = n->parts[number];
    if (!pt) {
        cw_log_owner_released(n->owner, number);
        return;
    }
    if (!pt->window) {
        released(pt);
        return;
    }
    pt->releasing = true;
    pt->release_by_ms = cw_mono_ms() + RELEASE_MS;
    cw_log_fetch_close(&pt->fetch);
    window_end(pt->window);
}

/* ---- saving */

struct save_arrays {
    struct cw_db_array totals, seq, idx, rule, action, device, push, attempts, spent, counted, due;
    struct cw_db_array d_seq, d_idx, u_seq, u_idx, u_attempts, u_spent, u_counted, u_due;
};

static void fill_insert(struct save_arrays *a, const struct item *it)
{
    const Causeway__Push *push = it->push;
    size_t len = causeway__push__get_packed_size(push);
    uint8_t *packed = cw_malloc(len ? len : 1);
    causeway__push__pack(push, packed);
    cw_db_array_int(&a->seq, (int64_t)it->seq);
    cw_db_array_int(&a->idx, it->idx);
    cw_db_array_str(&a->rule, push->rule_id);
    cw_db_array_str(&a->action, push->action_id);
    cw_db_array_int(&a->device, push->device_key);
    cw_db_array_bytes(&a->push, packed, len);
    cw_db_array_int(&a->attempts, it->attempts);
    cw_db_array_int(&a->spent, it->spent_ms);
    cw_db_array_int(&a->counted, it->counted_ms);
    cw_db_array_int(&a->due, it->attempts > 0 && !it->finished ? it->lane->due_ms : 0);
    free(packed);
}

static void fill(struct save_arrays *a, const struct save *s)
{
    struct {
        struct cw_db_array *array;
        enum cw_array_type type;
    } all[] = {
        { &a->totals, CW_ARRAY_INT8 },  { &a->seq, CW_ARRAY_INT8 },
        { &a->idx, CW_ARRAY_INT4 },     { &a->rule, CW_ARRAY_TEXT },
        { &a->action, CW_ARRAY_TEXT },  { &a->device, CW_ARRAY_INT8 },
        { &a->push, CW_ARRAY_BYTEA },   { &a->attempts, CW_ARRAY_INT4 },
        { &a->spent, CW_ARRAY_INT8 },   { &a->counted, CW_ARRAY_INT8 },
        { &a->due, CW_ARRAY_INT8 },     { &a->d_seq, CW_ARRAY_INT8 },
        { &a->d_idx, CW_ARRAY_INT4 },   { &a->u_seq, CW_ARRAY_INT8 },
        { &a->u_idx, CW_ARRAY_INT4 },   { &a->u_attempts, CW_ARRAY_INT4 },
        { &a->u_spent, CW_ARRAY_INT8 }, { &a->u_counted, CW_ARRAY_INT8 },
        { &a->u_due, CW_ARRAY_INT8 },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(all); i++)
        cw_db_array_reset(all[i].array, all[i].type);
    for (size_t i = 0; i < TOTAL_COUNT; i++)
        cw_db_array_int(&a->totals, s->totals[i]);
    for (size_t i = 0; i < s->n_inserts; i++)
        fill_insert(a, s->inserts[i]);
    for (size_t i = 0; i < s->deletes.n; i++) {
        cw_db_array_int(&a->d_seq, (int64_t)s->deletes.rows[i].seq);
        cw_db_array_int(&a->d_idx, s->deletes.rows[i].idx);
    }
    for (size_t i = 0; i < s->updates.n; i++) {
        const struct save_row *r = &s->updates.rows[i];
        cw_db_array_int(&a->u_seq, (int64_t)r->seq);
        cw_db_array_int(&a->u_idx, r->idx);
        cw_db_array_int(&a->u_attempts, r->attempts);
        cw_db_array_int(&a->u_spent, r->spent_ms);
        cw_db_array_int(&a->u_counted, r->counted_ms);
        cw_db_array_int(&a->u_due, r->due_ms);
    }
}

static void arrays_free(struct save_arrays *a)
{
    struct cw_db_array *all = &a->totals; /* the struct is nothing but arrays */
    for (size_t i = 0; i < sizeof *a / sizeof *all; i++)
        cw_db_array_free(&all[i]);
}

static void pull(struct part *pt);

static void on_saved(PGresult *res, void *arg)
{
    struct part *pt = arg;
    pt->queries[0] = NULL;
    if (cw_db_outcome(res) != CW_DB_OK) {
        if (cw_db_outcome(res) != CW_DB_RETRY)
            cw_app_fault(pt->n->app, "push_save", "partition %u cannot be saved: %s", pt->number,
                         cw_db_error(res));
        give_up(pt, cw_db_error(res));
        return;
    }
    if (strcmp(PQgetvalue(res, 0, 0), "1") != 0) {
        give_up(pt, "the position has moved: somebody else owns it");
        return;
    }
    cw_app_fault_clear(pt->n->app, "push_save");
    cw_crash_point("push.saved");
    window_saved(pt->window, cw_now_ms());
    pull(pt);
}

static void save(struct part *pt)
{
    char number[24], from[24], to[24], trim[24], now[24];
    struct save_arrays a = { 0 };
    int64_t now_ms = cw_now_ms();
    struct save *s = pt->window->saving ? NULL : window_save(pt->window, now_ms);
    if (!s)
        return;
    log_trail_add(&pt->trail, s->to, s->left_bytes);
    fill(&a, s);
    const struct cw_db_param p[] = {
        cw_db_int(pt->number, number),    cw_db_int((int64_t)s->from, from),
        cw_db_int((int64_t)s->to, to),    cw_db_int((int64_t)pt->trail.trim, trim),
        cw_db_array_param(&a.totals),     cw_db_array_param(&a.seq),
        cw_db_array_param(&a.idx),        cw_db_array_param(&a.rule),
        cw_db_array_param(&a.action),     cw_db_array_param(&a.device),
        cw_db_array_param(&a.push),       cw_db_array_param(&a.attempts),
        cw_db_array_param(&a.spent),      cw_db_array_param(&a.counted),
        cw_db_array_param(&a.due),        cw_db_int(now_ms, now),
        cw_db_array_param(&a.d_seq),      cw_db_array_param(&a.d_idx),
        cw_db_array_param(&a.u_seq),      cw_db_array_param(&a.u_idx),
        cw_db_array_param(&a.u_attempts), cw_db_array_param(&a.u_spent),
        cw_db_array_param(&a.u_counted),  cw_db_array_param(&a.u_due),
    };
    pt->queries[0] = cw_db_exec(pt->n->fence, &stmt_save, CW_ARRAY_LEN(p), p, on_saved, pt);
    arrays_free(&a);
    /* NULL: not connected; then partition_lost() is on its way */
}

/* ---- reading */

static void pull(struct part *pt)
{
    static struct cw_log_gate gate;
    size_t taken = 0;
    int64_t now_ms = cw_now_ms();
    if (!pt->fetch)
        return;
    while (taken < cw_log_fetch_count(pt->fetch) && window_room(pt->window)) {
        const struct cw_record *r = cw_log_fetch_at(pt->fetch, taken++);
        Causeway__PushBatch *batch = causeway__push_batch__unpack(NULL, r->len, r->data);
        if (!batch) {
            cw_log_limited(&gate, CW_ERROR, "push_unreadable", "partition=%u seq=%" PRIu64,
                           pt->number, r->seq);
            batch = causeway__push_batch__unpack(NULL, 0, NULL); /* an empty one holds its place */
        }
        window_take(pt->window, r->seq, batch, r->len, now_ms);
    }
    cw_log_fetch_drop(pt->fetch, taken);
    if (pt->window->urgent)
        save(pt);
}

static void on_arrived(void *self) { pull(self); }

static void on_created_kept(PGresult *res, void *arg)
{
    (void)res; /* lost: the next owner does it */
    ((struct part *)arg)->queries[3] = NULL;
}

static void on_started(const char *created, void *self)
{
    struct part *pt = self;
    char number[24];
    const struct cw_db_param p[] = { cw_db_int(pt->number, number), CW_TEXT(created) };
    if (!pt->queries[3])
        pt->queries[3] = cw_db_exec(pt->n->fence, &stmt_created, 2, p, on_created_kept, pt);
}

static void on_failed(enum cw_fetch_failure why, const char *text, void *self)
{
    struct part *pt = self;
    char what[32];
    (void)why; /* had the position moved, our connection and its locks would be gone */
    snprintf(what, sizeof what, "push_%u", pt->number);
    cw_app_fault(pt->n->app, what, "%s", text);
}

static void on_lanes(PGresult *res, void *arg)
{
    struct part *pt = arg;
    struct notifier *n = pt->n;
    pt->queries[2] = NULL;
    if (cw_db_outcome(res) != CW_DB_OK) {
        give_up(pt, cw_db_error(res));
        return;
    }
    pt->window = window_open(n->window, pt->number, pt->seq);
    for (int i = 0; i < PQntuples(res); i++)
        window_stored(pt->window, cw_db_str(res, i, "action_id"),
                      cw_db_i64(res, i, "device_key", 0), (size_t)cw_db_i64(res, i, "n", 0),
                      cw_db_i64(res, i, "due_ms", 0));
    pt->fetch =
        cw_log_fetch_open(n->app, &(struct cw_log_fetch_config){ .log = CW_LOG_PUSH,
                                                                 .partition = pt->number,
                                                                 .seq = pt->seq,
                                                                 .stream_created = pt->created,
                                                                 .self = pt,
                                                                 .started = on_started,
                                                                 .arrived = on_arrived,
                                                                 .failed = on_failed });
    cw_log(CW_INFO, "partition_owned", "log=PUSH partition=%u seq=%" PRIu64 " lanes=%d", pt->number,
           pt->seq, PQntuples(res));
}

static void on_position(PGresult *res, void *arg)
{
    struct part *pt = arg;
    pt->queries[1] = NULL;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) != 1) {
        give_up(pt, res ? "no position" : "connection lost");
        return;
    }
    const char *created = cw_db_str(res, 0, "stream_created");
    pt->seq = (uint64_t)cw_db_i64(res, 0, "seq", 0);
    pt->trail.trim = (uint64_t)cw_db_i64(res, 0, "trim", 0);
    pt->created = created ? cw_strdup(created) : NULL;
}

static void on_begun(PGresult *res, void *arg)
{
    struct part *pt = arg;
    pt->queries[0] = NULL;
    if (cw_db_outcome(res) != CW_DB_OK)
        give_up(pt, cw_db_error(res));
}

void partition_gained(uint32_t number, void *self)
{
    struct notifier *n = self;
    struct part *pt = cw_calloc(1, sizeof *pt);
    char text[24];
    const struct cw_db_param p[] = { cw_db_int(number, text) };
    *pt = (struct part){ .n = n, .number = number };
    /* not all at the same time: each purge keeps nats-server busy */
    pt->purge_at_ms = cw_mono_ms() + TRIM_EACH_MS * number / cw_app_partitions(n->app);
    n->parts[number] = pt;
    pt->queries[0] = cw_db_exec(n->fence, &stmt_begin, 1, p, on_begun, pt);
    pt->queries[1] = cw_db_exec(n->fence, &stmt_position, 1, p, on_position, pt);
    pt->queries[2] = cw_db_exec(n->fence, &stmt_lanes, 1, p, on_lanes, pt);
}

/* ---- trimming: nobody else reads PUSH, and its writer's newest message is never that old */

static void on_purged(int rc, void *arg)
{
    struct part *pt = arg;
    pt->purge = NULL;
    if (rc != 0)
        return; /* again, in a while */
    pt->purged = pt->purging;
    cw_log(CW_INFO, "log_trimmed", "log=PUSH partition=%u seq=%" PRIu64, pt->number, pt->purged);
}

static void trim(struct part *pt)
{
    int64_t now_ms = cw_mono_ms();
    if (pt->trail.trim <= pt->purged || pt->purge || now_ms < pt->purge_at_ms)
        return;
    pt->purging = pt->trail.trim;
    pt->purge_at_ms = now_ms + TRIM_EACH_MS;
    pt->purge = js_stream_purge(pt->n->app, CW_LOG_PUSH, pt->number, pt->purging, on_purged, pt);
}

void partitions_tick(struct notifier *n, int64_t now_ms)
{
    (void)now_ms;
    for (uint32_t i = 0; i < cw_app_partitions(n->app); i++) {
        struct part *pt = n->parts[i];
        if (!pt || !pt->window)
            continue;
        pull(pt);
        save(pt);
        trim(pt);
        if (pt->releasing && window_ended(pt->window) &&
            (pt->window->flying == 0 || cw_mono_ms() >= pt->release_by_ms))
            released(pt);
    }
}
