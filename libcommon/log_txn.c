#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/log_read_internal.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"

#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 2000

static void look_at_end(struct cw_log_txn *t);

/* ---- what the daemon calls in its steps */

void cw_log_txn_set_data(struct cw_log_txn *t, void *data) { t->data = data; }

void *cw_log_txn_data(const struct cw_log_txn *t) { return t->data; }

void cw_log_txn_emit(struct cw_log_txn *t, size_t index, const void *packed, size_t len)
{
    if (t->n_items == t->cap_items) {
        t->cap_items = t->cap_items ? t->cap_items * 2 : 64;
        t->items = cw_realloc(t->items, t->cap_items * sizeof *t->items);
    }
    t->items[t->n_items] = (struct emitted){
        .index = index, .at = t->item_bytes.len, .len = len, .order = t->n_items
    };
    t->n_items++;
    cw_buf_add(&t->item_bytes, packed, len);
}

void cw_log_txn_count(struct cw_log_txn *t, uint32_t partition, unsigned slot, int64_t n)
{
    if (partition < t->r->n_parts && slot < TOTALS)
        t->r->parts[partition].delta[slot] += n;
}

/* Repeats are left out before prepare() is called. */
bool cw_log_txn_repeated(const struct cw_log_txn *t, size_t index)
{
    (void)t, (void)index;
    return false;
}

void cw_log_txn_exec(struct cw_log_txn *t, const struct cw_stmt *stmt, int n,
                     const struct cw_db_param *params, cw_db_fn *cb, void *arg)
{
    txn_query(t, stmt, n, params, cb, arg);
}

/* ---- failures: the first one says what it was, the others follow from it */

void txn_fail(struct cw_log_txn *t, enum txn_outcome outcome, const char *reason)
{
    if (t->outcome != TXN_OK)
        return;
    t->outcome = outcome;
    snprintf(t->reason, sizeof t->reason, "%s", reason);
    /* a text that was cut must not end inside a character */
    for (size_t n = strlen(t->reason); n && !cw_utf8_valid(t->reason, n);)
        t->reason[--n] = '\0';
}

void txn_fail_db(struct cw_log_txn *t, const PGresult *res)
{
    static const enum txn_outcome map[] = { [CW_DB_OK] = TXN_OK,
                                            [CW_DB_RETRY] = TXN_RETRY,
                                            [CW_DB_REFUSED] = TXN_REFUSED,
                                            [CW_DB_BUG] = TXN_BUG };
    char text[REASON_BYTES];
    enum cw_db_outcome outcome = cw_db_outcome(res);
    if (outcome == CW_DB_OK)
        return;
    snprintf(text, sizeof text, "%s %s", cw_db_sqlstate(res), cw_db_error(res));
    txn_fail(t, map[outcome], text);
}

/* ---- statements of the transaction */

static void on_statement(PGresult *res, void *arg)
{
    struct txn_call *c = arg, copy = *c;
    free(c);
    txn_fail_db(copy.txn, res);
    if (copy.cb)
        copy.cb(res, copy.arg);
    copy.txn->waiting--;
    look_at_end(copy.txn);
}

bool txn_query(struct cw_log_txn *t, const struct cw_stmt *stmt, int n,
               const struct cw_db_param *params, cw_db_fn *cb, void *arg)
{
    struct txn_call *c = cw_calloc(1, sizeof *c);
    *c = (struct txn_call){ .txn = t, .cb = cb, .arg = arg };
    t->waiting++;
    if (cw_db_exec(t->r->db, stmt, n, params, on_statement, c))
        return true;
    t->waiting--;
    free(c);
    txn_fail(t, TXN_RETRY, "not connected");
    return false;
}

/* ---- output */

static void on_sent(int rc, void *arg)
{
    struct rpart *p = arg;
    struct cw_log_txn *t = &p->r->txn;
    p->sending = false;
    if (rc == -ESTALE)
        p->tail_due = true;
    if (rc < 0)
        txn_fail(t, rc == -ESTALE ? TXN_STALE : TXN_RETRY,
                 rc == -ESTALE ? "output in doubt" : "output is full");
    t->waiting--;
    look_at_end(t);
}

void txn_send(struct cw_log_txn *t, struct rpart *p, struct log_out *out)
{
    if (!p->n_msgs)
        return;
    p->sending = true;
    t->waiting++;
    out_send(out, p->msgs, p->n_msgs, on_sent, p);
}

/* Only when the database has taken all of it: output of a record that it refuses would stay. */
static void send_output(struct cw_log_txn *t)
{
    t->appended = true;
    cw_crash_point("before_append");
    emit_build(t);
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].in_txn)
            txn_send(t, &t->r->parts[i], t->r->parts[i].out);
}

/* ---- the steps */

static void begin_pause(struct cw_log_reader *r)
{
    r->pause_ms = r->pause_ms ? r->pause_ms * 2 : PAUSE_MIN_MS;
    if (r->pause_ms > PAUSE_MAX_MS)
        r->pause_ms = PAUSE_MAX_MS;
    struct timeval t = { r->pause_ms / 1000, r->pause_ms % 1000 * 1000 };
    r->paused = true;
    evtimer_add(r->pause, &t);
}

static void follow_up(struct cw_log_txn *t, bool committed)
{
    static struct cw_log_gate gate;
    struct cw_log_reader *r = t->r;
    if (t->outcome != TXN_OK) {
        cw_metric_add(r->m_rolled_back, 1);
        cw_log_limited(&gate, t->outcome == TXN_BUG ? CW_ERROR : CW_WARN, "transaction_undone",
                       "log=%s messages=%zu reason=\"%s\"", r->cfg.log, t->messages, t->reason);
    }
    if (t->outcome == TXN_BUG)
        cw_app_fault(r->app, "statement", "%s", t->reason);
    else if (committed)
        cw_app_fault_clear(r->app, "statement");
    if (t->outcome == TXN_REFUSED && t->kind == TXN_RECORDS && !t->dead)
        poison_refused(t);
    else if (t->outcome == TXN_RETRY || t->outcome == TXN_BUG || t->outcome == TXN_REFUSED)
        begin_pause(r);
    if (committed) {
        r->pause_ms = 0;
        r->limit = r->limit * 2 < TXN_MESSAGES ? r->limit * 2 : TXN_MESSAGES;
        cw_metric_add(r->m_txns, 1);
        cw_metric_add(r->m_messages, (int64_t)t->messages);
    }
}

static void settle_parts(struct cw_log_txn *t, bool committed)
{
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        if (!p->in_txn && !(t->kind == TXN_OUTBOX && p->new_seq))
            continue;
        if (committed)
            part_committed(p);
        else if (t->trial && t->outcome == TXN_OK && !t->dead) {
            if (t->suspect == p)
                careful_passed(t);
            else
                poison_trial_passed(p);
        } else if (t->suspect == p)
            careful_survived(t);
        batches_end(p, committed);
    }
}

void txn_end(struct cw_log_txn *t, bool committed)
{
    struct cw_log_reader *r = t->r;
    if (t->kind == TXN_OUTBOX)
        outbox_ended(t, committed);
    if (t->prepared && r->cfg.done)
        r->cfg.done(t, committed, r->cfg.self);
    if (committed)
        poison_tell(t);
    settle_parts(t, committed);
    follow_up(t, committed);
    if (committed)
        for (uint32_t i = 0; i < r->n_parts; i++)
            if (r->parts[i].in_txn)
                poison_free(&r->parts[i]);
    emit_free(t);
    for (uint32_t i = 0; i < r->n_parts; i++) {
        struct rpart *p = &r->parts[i];
        p->in_txn = 0;
        p->new_seq = 0;
        memset(p->delta, 0, sizeof p->delta);
    }
    t->n = t->n_items = t->messages = 0;
    cw_buf_reset(&t->item_bytes);
    t->data = NULL;
    t->active = t->dead = t->trial = t->prepared = t->begun = t->appended = t->ending =
        t->given_up = false;
    t->suspect = NULL;
    t->outcome = TXN_OK;
    reader_turn(r);
}

static void on_committed(PGresult *res, void *arg)
{
    struct cw_log_txn *t = arg;
    txn_fail_db(t, res); /* NULL: nobody knows; the position will tell when it is read again */
    if (t->outcome == TXN_OK) {
        cw_metric_observe(t->r->m_commit, (double)(cw_mono_ms() - t->begun_ms));
        cw_crash_point(t->kind == TXN_OUTBOX ? "outbox_after_commit" : "after_commit");
    }
    txn_end(t, t->outcome == TXN_OK);
}

static void on_rolled_back(PGresult *res, void *arg)
{
    (void)res;
    txn_end(arg, false);
}

/* Runs after each answer: when nothing is awaited any more, the transaction ends one way. */
static void look_at_end(struct cw_log_txn *t)
{
    if (!t->active || !t->begun || t->waiting || t->sending || t->ending)
        return;
    if (t->kind == TXN_RECORDS && t->outcome == TXN_OK && !t->trial && !t->dead && !t->appended) {
        send_output(t);
        if (t->waiting)
            return;
    }
    t->ending = true;
    bool commit = t->outcome == TXN_OK && !t->trial && !t->dead;
    if (commit)
        cw_crash_point(t->kind == TXN_OUTBOX ? "outbox_after_append"
                                             : "after_append_before_commit");
    if (!cw_db_query(t->r->db, commit ? "COMMIT" : "ROLLBACK",
                     commit ? on_committed : on_rolled_back, t)) {
        txn_fail(t, TXN_RETRY, "not connected");
        txn_end(t, false);
    }
}

static void find_fenced(struct cw_log_txn *t, const PGresult *res)
{
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        bool found = false;
        for (int row = 0; row < PQntuples(res); row++)
            found |= cw_db_i64(res, row, "partition", -1) == i;
        if (p->new_seq && !found)
            p->fenced = true;
    }
    txn_fail(t, TXN_FENCED, "position has moved");
}

/* The fence stands: from here on this instance is the only one that may write. */
static void on_fence(PGresult *res, void *arg)
{
    struct cw_log_txn *t = arg;
    if (t->outcome != TXN_OK)
        return;
    if ((unsigned)PQntuples(res) != t->n_fenced) {
        find_fenced(t, res);
        return;
    }
    t->sending = true;
    if (t->kind == TXN_OUTBOX)
        outbox_effects(t);
    t->sending = false;
}

/* Behind the fence in one go: if it does not stand, what they did is undone with it. */
static void send_effects(struct cw_log_txn *t)
{
    if (!t->trial) {
        batches_effects(t);
        poison_quarantine(t);
    }
    if (t->prepared && t->r->cfg.effects)
        t->r->cfg.effects(t, t->r->cfg.self);
}

static void add_fence(struct cw_log_txn *t, struct rpart *p, struct cw_db_array a[6])
{
    struct cw_buf totals = { 0 };
    for (size_t i = 0; i < TOTALS; i++)
        cw_buf_printf(&totals, "%s%" PRId64, i ? "," : "{", p->totals[i] + p->delta[i]);
    cw_buf_str(&totals, "}");
    cw_db_array_int(&a[0], p->index);
    cw_db_array_int(&a[1], (int64_t)p->seq);
    cw_db_array_int(&a[2], (int64_t)p->new_seq - 1);
    cw_db_array_str(&a[3], p->created);
    cw_db_array_int(&a[4], (int64_t)p->trail.trim);
    cw_db_array_bytes(&a[5], totals.data, totals.len);
    cw_buf_free(&totals);
    t->n_fenced++;
}

void txn_begin(struct cw_log_txn *t)
{
    static const enum cw_array_type types[] = { CW_ARRAY_INT4, CW_ARRAY_INT8, CW_ARRAY_INT8,
                                                CW_ARRAY_TEXT, CW_ARRAY_INT8, CW_ARRAY_TEXT };
    struct cw_db_array a[6] = { 0 };
    struct cw_db_param params[7] = { CW_TEXT(t->r->cfg.log) };
    for (size_t i = 0; i < 6; i++)
        cw_db_array_reset(&a[i], types[i]);
    t->n_fenced = 0;
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].new_seq)
            add_fence(t, &t->r->parts[i], a);
    for (size_t i = 0; i < 6; i++)
        params[i + 1] = cw_db_array_param(&a[i]);
    t->begun = true;
    t->begun_ms = cw_mono_ms();
    t->sending = true;
    if (!cw_db_query(t->r->db, "BEGIN", NULL, NULL))
        txn_fail(t, TXN_RETRY, "not connected");
    else if (txn_query(t, &t->r->stmts[ST_FENCE], 7, params, on_fence, t) && t->kind == TXN_RECORDS)
        send_effects(t);
    t->sending = false;
    for (size_t i = 0; i < 6; i++)
        cw_db_array_free(&a[i]);
    look_at_end(t);
}

void cw_log_txn_prepared(struct cw_log_txn *t, int rc)
{
    if (!t->active)
        return;
    if (rc < 0 || t->dead) {
        txn_fail(t, TXN_RETRY, rc < 0 ? "a lookup failed" : "connection lost");
        txn_end(t, false);
        return;
    }
    txn_begin(t);
}

void txn_start(struct cw_log_txn *t)
{
    if (t->n == 0) { /* only marks, repeats, or a record that is put aside: the position moves */
        txn_begin(t);
        return;
    }
    t->prepared = true; /* it has something to free */
    t->r->cfg.prepare(t, t->records, t->n, t->r->cfg.self);
}
