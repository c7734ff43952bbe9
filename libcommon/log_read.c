#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/log_owner.h"
#include "libcommon/log_read_internal.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"
#include "proto/subjects.h"

#define SWEEP_MS       1000
#define GATHER_FROM_MS 20

static bool is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }

void reader_turn(struct cw_log_reader *r)
{
    if (!r->closing)
        event_active(r->turn, 0, 0);
}

bool part_may_work(const struct rpart *p)
{
    return p->state == PART_RUNNING && !p->releasing && !p->stop_due && !p->tail_due &&
           !p->tail_reading && !p->delete_due && !p->marking;
}

/* ---- a partition ends */

static void fault(struct rpart *p, const char *text)
{
    char what[32];
    snprintf(what, sizeof what, "%s_%u", p->r->cfg.log, p->index);
    cw_app_fault(p->r->app, what, "%s", text);
    p->state = PART_FAULT;
}

void part_stop(struct rpart *p)
{
    char what[32];
    bool told = p->told;
    snprintf(what, sizeof what, "%s_%u", p->r->cfg.log, p->index);
    cw_app_fault_clear(p->r->app, what);
    if (p->relay != p->out)
        out_close(&p->relay);
    out_close(&p->out);
    p->relay = NULL;
    cw_log_fetch_close(&p->fetch);
    batches_free(p);
    poison_free(p);
    p->state = PART_OFF;
    p->told = false;
    p->stop_due = p->tail_due = p->tail_reading = p->delete_due = p->marking = p->outbox_due =
        false;
    p->loading = 0;
    p->trail = (struct log_trail){ 0 };
    p->proved = 0;
    p->generation++;
    if (told && p->r->cfg.owned)
        p->r->cfg.owned(p->index, false, p->r->cfg.self);
}

void part_give_up(struct rpart *p)
{
    cw_log(CW_WARN, "position_moved", "log=%s partition=%u seq=%" PRIu64, p->r->cfg.log, p->index,
           p->seq);
    part_stop(p);
    p->held = p->releasing = false;
    cw_log_owner_released(p->r->owner, p->index);
}

/* ---- the records of a partition */

static void on_started(const char *created, void *self)
{
    struct rpart *p = self;
    snprintf(p->created, sizeof p->created, "%s", created);
}

static void on_arrived(void *self) { reader_turn(((struct rpart *)self)->r); }

struct gap {
    struct rpart *p;
    unsigned generation;
    char text[200];
};

/* Records are missing: either somebody else went on and they were trimmed, or they are lost. */
static void on_gap_position(PGresult *res, void *arg)
{
    struct gap *g = arg;
    struct rpart *p = g->p;
    if (p->generation == g->generation && cw_db_outcome(res) == CW_DB_OK) {
        if (PQntuples(res) == 1 && (uint64_t)cw_db_i64(res, 0, "seq", 0) == p->seq)
            fault(p, g->text);
        else
            p->fenced = true;
        reader_turn(p->r);
    }
    free(g);
}

static void on_failed(enum cw_fetch_failure why, const char *text, void *self)
{
    struct rpart *p = self;
    if (why != CW_FETCH_GAP) {
        fault(p, text);
        return;
    }
    struct gap *g = cw_calloc(1, sizeof *g);
    *g = (struct gap){ .p = p, .generation = p->generation };
    snprintf(g->text, sizeof g->text, "%s", text);
    char *sql = cw_sprintf("SELECT seq FROM %s.position WHERE log = '%s' AND partition = %u",
                           p->r->cfg.schema, p->r->cfg.log, p->index);
    if (!cw_db_query(p->r->db, sql, on_gap_position, g))
        free(g);
    free(sql);
}

static void run(struct rpart *p)
{
    int64_t gather_ms = p->r->cfg.pace_ms < GATHER_FROM_MS ? 0 : p->r->cfg.pace_ms;
    p->state = PART_RUNNING;
    p->outbox_due = p->r->cfg.relays_outbox;
    p->fetch =
        cw_log_fetch_open(p->r->app, &(struct cw_log_fetch_config){ .log = p->r->cfg.log,
                                                                    .partition = p->index,
                                                                    .seq = p->seq,
                                                                    .stream_created = p->created,
                                                                    .gather_ms = gather_ms,
                                                                    .self = p,
                                                                    .started = on_started,
                                                                    .arrived = on_arrived,
                                                                    .failed = on_failed });
    cw_metric_set(p->m_position, (int64_t)p->seq);
    p->told = true;
    if (p->r->cfg.owned)
        p->r->cfg.owned(p->index, true, p->r->cfg.self);
    reader_turn(p->r);
}

/* ---- the newest output */

/* Rows that the newest message holds are out: they go before anything else is relayed. */
static void on_deleted(PGresult *res, void *arg)
{
    struct rpart *p = arg;
    if (cw_db_outcome(res) == CW_DB_OK)
        p->delete_due = false;
    p->deleting = false;
    reader_turn(p->r);
}

static void delete_relayed(struct rpart *p)
{
    const char *ids = p->relay ? out_tail_outbox(p->relay) : NULL;
    if (!ids || strspn(ids, "0123456789,") != strlen(ids)) {
        p->delete_due = false;
        return;
    }
    char *sql = cw_sprintf("DELETE FROM %s.outbox WHERE id = ANY('{%s}')", p->r->cfg.schema, ids);
    p->deleting = cw_db_query(p->r->db, sql, on_deleted, p) != NULL;
    free(sql);
}

static void on_tail(int rc, void *arg)
{
    struct rpart *p = arg;
    (void)rc;
    if ((p->out && out_busy(p->out)) || (p->relay && out_busy(p->relay)))
        return;
    p->tail_reading = false;
    p->delete_due = true;
    if (p->state == PART_LOADING)
        run(p);
    reader_turn(p->r);
}

static void read_tails(struct rpart *p)
{
    p->tail_due = false;
    if (!p->out && !p->relay) {
        if (p->state == PART_LOADING)
            run(p);
        return;
    }
    p->tail_reading = true;
    if (p->out)
        out_read_tail(p->out, on_tail, p);
    if (p->relay && p->relay != p->out)
        out_read_tail(p->relay, on_tail, p);
}

static void open_output(struct rpart *p)
{
    const struct cw_log_reader_config *cfg = &p->r->cfg;
    if (cfg->output)
        p->out = out_open(p->r->app, cfg->output, p->index, cfg->group);
    if (cfg->relays_outbox)
        p->relay = is(cfg->output, CW_LOG_EVENT)
                       ? p->out
                       : out_open(p->r->app, CW_LOG_EVENT, p->index, cfg->group);
    read_tails(p);
}

/* ---- a partition begins: its row is made if it is missing, read, and marked as running */

static void loaded_step(struct rpart *p, const PGresult *res)
{
    if (cw_db_outcome(res) != CW_DB_OK) {
        static struct cw_log_gate gate;
        cw_log_limited(&gate, CW_ERROR, "position_unreadable", "log=%s partition=%u reason=\"%s\"",
                       p->r->cfg.log, p->index, cw_db_error(res));
        p->load_failed = true;
    }
    if (--p->loading > 0)
        return;
    if (p->load_failed)
        p->state = PART_OFF; /* the sweep tries again */
    else
        open_output(p);
}

static void on_step(PGresult *res, void *arg) { loaded_step(arg, res); }

static void on_position(PGresult *res, void *arg)
{
    struct rpart *p = arg;
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) == 1) {
        const char *created = cw_db_str(res, 0, "stream_created");
        p->seq = (uint64_t)cw_db_i64(res, 0, "seq", 0);
        p->trail.trim = (uint64_t)cw_db_i64(res, 0, "trim", 0);
        snprintf(p->created, sizeof p->created, "%s", created ? created : "");
        /* NULL: it ended cleanly; else its last owner was in the middle of something */
        p->careful_until = cw_db_str(res, 0, "suspect") ? p->seq + PART_MESSAGES : 0;
        const char *t = cw_db_str(res, 0, "totals");
        for (size_t i = 0; t && i < TOTALS; i++) {
            char *end;
            p->totals[i] = strtoll(t + 1, &end, 10); /* behind a brace or a comma */
            t = *end == ',' ? end : NULL;
        }
    } else
        p->load_failed = true;
    loaded_step(p, res);
}

static void on_gateways(PGresult *res, void *arg)
{
    struct rpart *p = arg;
    if (cw_db_outcome(res) == CW_DB_OK)
        batches_load(p, res);
    loaded_step(p, res);
}

static void ask(struct rpart *p, cw_db_fn *cb, char *sql)
{
    if (cw_db_query(p->r->db, sql, cb, p))
        p->loading++;
    else
        p->load_failed = true;
    free(sql);
}

static void load(struct rpart *p)
{
    const char *s = p->r->cfg.schema, *log = p->r->cfg.log;
    p->state = PART_LOADING;
    p->load_failed = false;
    memset(p->totals, 0, sizeof p->totals);
    ask(p, on_step,
        cw_sprintf("INSERT INTO %s.position (log, partition) VALUES ('%s', %u) ON CONFLICT DO "
                   "NOTHING",
                   s, log, p->index));
    ask(p, on_position,
        cw_sprintf("SELECT seq, stream_created, trim, suspect, totals FROM %s.position WHERE log "
                   "= '%s' AND partition = %u",
                   s, log, p->index));
    ask(p, on_step,
        cw_sprintf("UPDATE %s.position SET suspect = 0 WHERE log = '%s' AND partition = %u AND "
                   "suspect IS NULL",
                   s, log, p->index));
    if (is(log, CW_LOG_UPLINK))
        ask(p, on_gateways,
            cw_sprintf("SELECT gateway, n FROM %s.gateway_batch WHERE partition = %u", s,
                       p->index));
    if (p->loading == 0)
        p->state = PART_OFF;
}

/* ---- what the owner says */

static void on_gained(uint32_t partition, void *self)
{
    struct cw_log_reader *r = self;
    r->parts[partition].held = true;
    reader_turn(r);
}

static void on_release(uint32_t partition, void *self)
{
    struct cw_log_reader *r = self;
    r->parts[partition].releasing = true;
    reader_turn(r);
}

static void on_lost(uint32_t partition, void *self)
{
    struct cw_log_reader *r = self;
    struct rpart *p = &r->parts[partition];
    p->held = p->releasing = false;
    p->stop_due = true;
    if (r->txn.active)
        r->txn.dead = true;
    reader_turn(r);
}

/* The clean end is on record: the next owner need not be careful. */
static void on_marked(PGresult *res, void *arg)
{
    struct rpart *p = arg;
    p->marking = false;
    if (!res || !p->held)
        return;
    part_stop(p);
    p->held = p->releasing = false;
    cw_log_owner_released(p->r->owner, p->index);
}

static void let_go(struct rpart *p)
{
    if (p->state == PART_LOADING)
        return;
    if (p->state == PART_RUNNING) {
        char *sql = cw_sprintf("UPDATE %s.position SET suspect = NULL WHERE log = '%s' AND "
                               "partition = %u AND seq = %" PRIu64 " AND suspect = 0",
                               p->r->cfg.schema, p->r->cfg.log, p->index, p->seq);
        p->marking = cw_db_query(p->r->db, sql, on_marked, p) != NULL;
        free(sql);
        return;
    }
    part_stop(p);
    p->held = p->releasing = false;
    cw_log_owner_released(p->r->owner, p->index);
}

/* Between transactions only: what is sent here must not become part of one. */
void part_settle(struct cw_log_reader *r)
{
    for (uint32_t i = 0; i < r->n_parts; i++) {
        struct rpart *p = &r->parts[i];
        if (p->stop_due)
            part_stop(p);
        if (p->fenced) {
            p->fenced = false;
            if (p->held)
                part_give_up(p);
        }
        if (p->releasing && !p->marking)
            let_go(p);
        else if (p->held && p->state == PART_OFF && !p->load_failed && cw_db_connected(r->db))
            load(p);
        else if (p->tail_due && p->state == PART_RUNNING)
            read_tails(p);
        else if (p->delete_due && !p->deleting && p->state == PART_RUNNING)
            delete_relayed(p);
    }
}

void part_committed(struct rpart *p)
{
    for (size_t i = 0; i < p->in_txn; i++) {
        const struct cw_record *rec = cw_log_fetch_at(p->fetch, i);
        log_trail_add(&p->trail, rec->seq, rec->len);
    }
    p->seq = p->new_seq - 1;
    for (size_t i = 0; i < TOTALS; i++)
        p->totals[i] += p->delta[i];
    if (p->in_txn)
        cw_log_fetch_drop(p->fetch, p->in_txn);
    cw_metric_set(p->m_position, (int64_t)p->seq);
    uint64_t last = cw_log_fetch_last(p->fetch);
    cw_metric_set(p->m_lag, last > p->seq ? (int64_t)(last - p->seq) : 0);
}

/* ---- what the next transaction takes */

static void add_record(struct cw_log_txn *t, struct rpart *p, const struct cw_record *rec)
{
    p->in_txn++;
    p->new_seq = rec->seq + 1;
    if (t->messages++ == 0)
        t->first = *rec;
    if (batches_repeated(p, rec)) {
        cw_metric_add(t->r->m_repeated, 1);
        return;
    }
    if (rec->len == 0) /* carries a mark over a purge, nothing else */
        return;
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->records = cw_realloc(t->records, t->cap * sizeof *t->records);
    }
    t->records[t->n++] = *rec;
    if (p->poison && p->poison->seq == rec->seq)
        poison_take(t, p, rec);
}

static bool has_records(const struct rpart *p)
{
    return part_may_work(p) && p->fetch && cw_log_fetch_count(p->fetch) > 0;
}

/* A partition whose first record has to be alone, or NULL. */
static struct rpart *find_alone(struct cw_log_reader *r)
{
    for (uint32_t i = 0; i < r->n_parts; i++)
        if (has_records(&r->parts[i]) && r->parts[i].poison)
            return &r->parts[i];
    for (uint32_t i = 0; i < r->n_parts; i++) {
        struct rpart *p = &r->parts[i];
        if (has_records(p) && cw_log_fetch_at(p->fetch, 0)->seq <= p->careful_until)
            return p;
    }
    return NULL;
}

static void take_part(struct cw_log_txn *t, struct rpart *p, size_t limit, size_t *bytes)
{
    size_t count = cw_log_fetch_count(p->fetch);
    for (size_t i = 0; i < count && i < PART_MESSAGES && t->messages < limit; i++) {
        const struct cw_record *rec = cw_log_fetch_at(p->fetch, i);
        if (t->messages && *bytes + rec->len > TXN_BYTES)
            break;
        *bytes += rec->len;
        add_record(t, p, rec);
    }
}

static void take_records(struct cw_log_reader *r)
{
    size_t bytes = 0;
    struct cw_log_txn *t = &r->txn;
    struct rpart *alone = find_alone(r);
    r->began_ms = cw_mono_ms();
    t->active = true;
    t->kind = TXN_RECORDS;
    if (alone) {
        bool careful = !alone->poison && alone->proved != cw_log_fetch_at(alone->fetch, 0)->seq;
        take_part(t, alone, 1, &bytes);
        t->trial = alone->poison && alone->poison->searching;
        if (careful) {
            t->suspect = alone;
            careful_start(t);
        } else
            txn_start(t);
        return;
    }
    for (uint32_t i = 0; i < r->n_parts; i++) {
        struct rpart *p = &r->parts[(r->next_part + i) % r->n_parts];
        if (has_records(p))
            take_part(t, p, r->limit, &bytes);
    }
    if (r->limit == TXN_MESSAGES) /* while one is refused, the order must stay */
        r->next_part = (r->next_part + 1) % r->n_parts;
    txn_start(t);
}

/* True while few records wait for more to come with them; then the turn comes by itself. */
static bool pace(struct cw_log_reader *r)
{
    int64_t left = r->began_ms + r->cfg.pace_ms - cw_mono_ms();
    size_t waiting = 0;
    for (uint32_t i = 0; i < r->n_parts; i++)
        waiting += has_records(&r->parts[i]) ? cw_log_fetch_count(r->parts[i].fetch) : 0;
    if (left <= 0 || r->draining || waiting >= r->limit / 2)
        return false;
    struct timeval t = { left / 1000, left % 1000 * 1000 };
    if (!evtimer_pending(r->pace, NULL))
        evtimer_add(r->pace, &t);
    return true;
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_reader *r = arg;
    bool records = false, rows = false;
    (void)fd, (void)what;
    if (r->txn.active || r->closing)
        return;
    part_settle(r);
    if (r->paused || !cw_db_connected(r->db))
        return;
    for (uint32_t i = 0; i < r->n_parts; i++) {
        records |= has_records(&r->parts[i]);
        rows |= r->parts[i].outbox_due && part_may_work(&r->parts[i]);
    }
    bool outbox = rows && !(r->outbox_last && records);
    r->outbox_last = outbox;
    if (outbox)
        outbox_start(r);
    else if (records && !pace(r))
        take_records(r);
}

static void on_pace(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    reader_turn(arg);
}

/* ---- the module */

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_reader *r = arg;
    (void)fd, (void)what;
    for (uint32_t i = 0; i < r->n_parts; i++)
        r->parts[i].load_failed = false;
    outbox_sweep(r);
    reader_turn(r);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_reader *r = arg;
    (void)fd, (void)what;
    r->paused = false;
    reader_turn(r);
}

static void on_wake(const struct cw_bus_msg *msg, void *arg)
{
    const char *dot = msg->subject ? strrchr(msg->subject, '.') : NULL;
    if (dot)
        cw_log_reader_kick(arg, (uint32_t)strtoul(dot + 1, NULL, 10));
}

static void make_statements(struct cw_log_reader *r)
{
    const char *s = r->cfg.schema;
    char *sql[ST_COUNT] = {
        [ST_FENCE] = cw_sprintf(
            "UPDATE %s.position p SET seq = u.new_seq, stream_created = u.created, trim = u.trim, "
            "totals = u.totals::bigint[], "
            "suspect = CASE WHEN u.new_seq > u.old_seq THEN 0 ELSE p.suspect END, "
            "suspect_tries = CASE WHEN u.new_seq > u.old_seq THEN 0 ELSE p.suspect_tries END "
            "FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], "
            "$7::text[]) AS u(partition, old_seq, new_seq, created, trim, totals) "
            "WHERE p.log = $1 AND p.partition = u.partition AND p.seq = u.old_seq "
            "RETURNING p.partition",
            s),
        [ST_BATCH] = cw_sprintf(
            "INSERT INTO %s.gateway_batch AS g (gateway, partition, n) SELECT * FROM "
            "unnest($1::text[], $2::int[], $3::bigint[]) ON CONFLICT (gateway, partition) DO "
            "UPDATE SET n = excluded.n, seen = now()",
            s),
        [ST_QUARANTINE] = cw_sprintf("INSERT INTO %s.quarantine (log, partition, seq, reason, "
                                     "data) VALUES ($1, $2::int, $3::bigint, $4, $5::bytea)",
                                     s),
        [ST_SUSPECT] = cw_sprintf(
            "UPDATE %s.position SET suspect_tries = CASE WHEN suspect = $3::bigint THEN "
            "suspect_tries + 1 ELSE 1 END, suspect = $3::bigint WHERE log = $1 AND partition = "
            "$2::int AND seq < $3::bigint RETURNING suspect_tries",
            s),
        [ST_CLEARED] = cw_sprintf("UPDATE %s.position SET suspect_tries = 0 WHERE log = $1 AND "
                                  "partition = $2::int AND suspect = $3::bigint",
                                  s),
        [ST_ROWS] = cw_sprintf("SELECT id, partition, event FROM %s.outbox WHERE partition = "
                               "ANY($1::int[]) ORDER BY id LIMIT 500",
                               s),
        [ST_DELETE] = cw_sprintf("DELETE FROM %s.outbox WHERE id = ANY($1::bigint[])", s),
    };
    for (int i = 0; i < ST_COUNT; i++)
        r->stmts[i] = (struct cw_stmt){ .name = cw_sprintf("causeway_log_%d", i), .sql = sql[i] };
}

static void make_metrics(struct cw_log_reader *r)
{
    char text[96];
    snprintf(text, sizeof text, "log=\"%s\"", r->cfg.log);
    r->m_txns = cw_counter("causeway_log_transactions_total", text, "transactions committed");
    r->m_messages = cw_counter("causeway_log_messages_total", text, "messages taken");
    r->m_repeated = cw_counter("causeway_log_repeated_total", text, "batches seen before");
    r->m_quarantined = cw_counter("causeway_log_quarantined_total", text, "records put aside");
    r->m_commit = cw_histogram_ms("causeway_log_transaction_ms", text, "from fence to commit");
    r->m_rolled_back = cw_counter("causeway_log_rolled_back_total", text, "transactions undone");
    for (uint32_t i = 0; i < r->n_parts; i++) {
        snprintf(text, sizeof text, "log=\"%s\",partition=\"%u\",reader=\"%s\"", r->cfg.log, i,
                 r->cfg.group);
        r->parts[i].m_position = cw_gauge("causeway_log_position", text, "last sequence taken");
        r->parts[i].m_lag = cw_gauge("causeway_log_lag", text, "messages not taken yet");
    }
}

static void start_timers(struct cw_log_reader *r)
{
    static const struct timeval second = { SWEEP_MS / 1000, 0 };
    struct event_base *base = cw_app_base(r->app);
    r->turn = event_new(base, -1, 0, on_turn, r);
    r->pause = evtimer_new(base, on_pause_over, r);
    r->pace = evtimer_new(base, on_pace, r);
    r->sweep = event_new(base, -1, EV_PERSIST, on_sweep, r);
    evtimer_add(r->sweep, &second);
}

struct cw_log_reader *cw_log_reader_open(struct cw_app *app, const struct cw_log_reader_config *cfg)
{
    char name[96];
    struct cw_log_reader *r = cw_calloc(1, sizeof *r);
    *r = (struct cw_log_reader){ .app = app, .cfg = *cfg, .limit = TXN_MESSAGES };
    r->txn.r = r;
    r->n_parts = cw_app_partitions(app);
    r->parts = cw_calloc(r->n_parts, sizeof *r->parts);
    for (uint32_t i = 0; i < r->n_parts; i++)
        r->parts[i] = (struct rpart){ .r = r, .index = i };
    make_statements(r);
    make_metrics(r);
    start_timers(r);
    snprintf(name, sizeof name, "%s %s", cw_app_name(app), cfg->log);
    r->db = cw_db_open(cw_app_base(app), cw_app_db_conninfo(app), name);
    r->owner = cw_log_owner_open(app, r->db,
                                 &(struct cw_log_owner_config){ .log = cfg->log,
                                                                .group = cfg->group,
                                                                .schema = cfg->schema,
                                                                .outbox = cfg->relays_outbox,
                                                                .self = r,
                                                                .gained = on_gained,
                                                                .release = on_release,
                                                                .lost = on_lost });
    if (cfg->relays_outbox) {
        snprintf(name, sizeof name, "wake.%s.*", cfg->group);
        r->wake = cw_bus_subscribe(cw_app_bus(app), name, NULL, on_wake, r);
    }
    if (cfg->trims)
        trim_open(r);
    return r;
}

bool cw_log_reader_owns(const struct cw_log_reader *r, uint32_t partition)
{
    return partition < r->n_parts && r->parts[partition].state == PART_RUNNING &&
           !r->parts[partition].stop_due;
}

void cw_log_reader_owned(const struct cw_log_reader *r, struct cw_db_array *out)
{
    cw_db_array_reset(out, CW_ARRAY_INT4);
    for (uint32_t p = 0; p < r->n_parts; p++)
        if (cw_log_reader_owns(r, p))
            cw_db_array_int(out, p);
}

void cw_log_reader_drain(struct cw_log_reader *r)
{
    r->draining = true;
    cw_log_owner_drain(r->owner);
}

void cw_log_reader_kick(struct cw_log_reader *r, uint32_t partition)
{
    if (partition >= r->n_parts || !r->cfg.relays_outbox)
        return;
    r->parts[partition].outbox_due = true;
    reader_turn(r);
}

void cw_log_reader_close(struct cw_log_reader **at)
{
    struct cw_log_reader *r = *at;
    if (!r)
        return;
    *at = NULL;
    r->closing = true;
    trim_close(r);
    cw_bus_unsubscribe(&r->wake);
    cw_log_owner_close(&r->owner);
    for (uint32_t i = 0; i < r->n_parts; i++) {
        if (r->parts[i].out)
            out_stop(r->parts[i].out);
        if (r->parts[i].relay)
            out_stop(r->parts[i].relay);
    }
    r->txn.dead = true;
    cw_db_close(&r->db); /* gives NULL to whatever waits, while all of this still stands */
    if (r->txn.active)
        txn_end(&r->txn, false);
    for (uint32_t i = 0; i < r->n_parts; i++)
        part_stop(&r->parts[i]);
    event_free(r->turn);
    event_free(r->pause);
    event_free(r->pace);
    event_free(r->sweep);
    for (int i = 0; i < ST_COUNT; i++) {
        free((char *)r->stmts[i].name);
        free((char *)r->stmts[i].sql);
    }
    free(r->txn.records);
    free(r->txn.items);
    cw_buf_free(&r->txn.rebuilt);
    cw_buf_free(&r->txn.item_bytes);
    free(r->parts);
    free(r);
}
