#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/log.h"
#include "libcommon/log_read_internal.h"
#include "libcommon/metrics.h"
#include "libcommon/wire.h"
#include "proto/subjects.h"

/* What the database refuses is looked for in two steps. Over messages: the number that a
 * transaction takes is halved until the refused one is alone. Inside it: the shortest beginning
 * that is refused is found by halving, in transactions that are always rolled back; its last item
 * is the bad one. The message is then taken without it.
 *
 * What ends the process cannot be found like this: after an unclean end records are taken one by
 * one, each named in the position row first. */

#define SUSPECT_TRIES 3

static unsigned char item_tag(const char *log)
{
    return strcmp(log, CW_LOG_UPLINK) == 0 ? WIRE_BATCH_RECORD : WIRE_BATCH_ITEM;
}

/* Items of a batch; 1 for what is not one: then it is refused as a whole. */
size_t items_of(const char *log, const void *data, size_t len)
{
    size_t n = 0, field;
    const unsigned char *at = data, *end = at + len;
    for (; at < end; at += field) {
        field = wire_next(at, (size_t)(end - at));
        if (!field)
            return 1;
        n += *at == item_tag(log);
    }
    return n ? n : 1;
}

/* Copies the fields of a batch; of its items only `only`, or (SIZE_MAX) what is still wanted. */
static void rebuild(struct cw_buf *out, const struct poison *poison, const char *log,
                    const struct cw_record *rec, size_t only)
{
    size_t i = 0, field;
    const unsigned char *at = rec->data, *end = at + rec->len;
    cw_buf_reset(out);
    for (; at < end; at += field) {
        field = wire_next(at, (size_t)(end - at));
        if (!field) { /* not a batch: all or nothing */
            cw_buf_reset(out);
            if (only != SIZE_MAX)
                cw_buf_add(out, rec->data, rec->len);
            return;
        }
        bool keep = true;
        if (*at == item_tag(log)) {
            keep = only != SIZE_MAX ? i == only
                                    : !poison->bad[i] && !(poison->searching && i >= poison->mid);
            i++;
        }
        if (keep)
            cw_buf_add(out, at, field);
    }
}

void poison_take(struct cw_log_txn *t, struct rpart *p, const struct cw_record *rec)
{
    struct cw_record *r = &t->records[t->n - 1];
    rebuild(&t->rebuilt, p->poison, t->r->cfg.log, rec, SIZE_MAX);
    if (t->rebuilt.len == 0) { /* nothing of it is left */
        t->n--;
        return;
    }
    r->data = t->rebuilt.data;
    r->len = t->rebuilt.len;
}

/* ---- the search */

static void search_on(struct poison *x)
{
    x->searching = x->hi - x->lo > 1;
    x->mid = x->lo + (x->hi - x->lo) / 2;
}

static void found(struct rpart *p, const char *reason)
{
    struct poison *x = p->poison;
    size_t bad = x->hi - 1;
    bool all = x->bad[bad]; /* refused whatever is left out: then it is the message as a whole */
    for (size_t i = all ? 0 : bad; i <= bad; i++)
        if (!x->bad[i] || !x->reasons[i]) {
            x->bad[i] = true;
            x->reasons[i] = cw_strdup(reason);
        }
    x->searching = false;
    x->lo = bad; /* what lies before it has been taken */
    x->hi = x->n_items;
}

static struct poison *poison_new(const struct cw_log_txn *t, const struct cw_record *rec)
{
    struct poison *x = cw_calloc(1, sizeof *x);
    x->seq = rec->seq;
    x->n_items = x->hi = items_of(t->r->cfg.log, rec->data, rec->len);
    x->bad = cw_calloc(x->n_items, sizeof *x->bad);
    x->reasons = cw_calloc(x->n_items, sizeof *x->reasons);
    return x;
}

void poison_refused(struct cw_log_txn *t)
{
    struct rpart *p = NULL;
    snprintf(t->r->last_refusal, sizeof t->r->last_refusal, "%s", t->reason);
    if (t->messages > 1) {
        t->r->limit = t->messages / 2;
        return;
    }
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].in_txn)
            p = &t->r->parts[i];
    if (!p || !p->fetch)
        return;
    struct poison *x = p->poison;
    if (!x)
        x = p->poison = poison_new(t, cw_log_fetch_at(p->fetch, 0));
    else if (x->searching)
        x->hi = x->mid;
    if (x->hi - x->lo > 1)
        search_on(x);
    else
        found(p, t->reason);
    cw_log(CW_DEBUG, "refused", "log=%s partition=%u seq=%" PRIu64 " lo=%zu hi=%zu", t->r->cfg.log,
           p->index, x->seq, x->lo, x->hi);
}

void poison_trial_passed(struct rpart *p)
{
    struct poison *x = p->poison;
    if (!x)
        return;
    x->lo = x->mid;
    if (x->hi - x->lo > 1)
        search_on(x);
    else
        found(p, p->r->last_refusal);
}

void poison_free(struct rpart *p)
{
    struct poison *x = p->poison;
    if (!x)
        return;
    for (size_t i = 0; i < x->n_items; i++)
        free(x->reasons[i]);
    free(x->reasons);
    free(x->bad);
    free(x);
    p->poison = NULL;
}

/* ---- what is put aside */

static void put_aside(struct cw_log_txn *t, const struct cw_record *rec, const char *reason,
                      const void *data, size_t len)
{
    char part[24], seq[24];
    const struct cw_db_param params[] = { CW_TEXT(t->r->cfg.log), cw_db_int(rec->partition, part),
                                          cw_db_int((int64_t)rec->seq, seq), CW_TEXT(reason),
                                          CW_BIN(data, len) };
    txn_query(t, &t->r->stmts[ST_QUARANTINE], 5, params, NULL, NULL);
}

#define ENDED_PROCESS "the process ended each time it took this record"

typedef void aside_fn(struct cw_log_txn *t, const struct cw_record *rec, const char *reason,
                      const void *data, size_t len);

/* Runs fn for everything that the transaction leaves out. */
static void each_aside(struct cw_log_txn *t, aside_fn *fn)
{
    struct cw_buf body = { 0 };
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        if (!p->in_txn || !(p->poison || t->given_up))
            continue;
        struct cw_record rec = t->first;
        if (t->given_up)
            fn(t, &rec, ENDED_PROCESS, rec.data, rec.len);
        for (size_t k = 0; p->poison && k < p->poison->n_items; k++)
            if (p->poison->bad[k]) {
                rebuild(&body, p->poison, t->r->cfg.log, &rec, k);
                fn(t, &rec, p->poison->reasons[k], body.data, body.len);
            }
    }
    cw_buf_free(&body);
}

void poison_quarantine(struct cw_log_txn *t) { each_aside(t, put_aside); }

static void tell(struct cw_log_txn *t, const struct cw_record *rec, const char *reason,
                 const void *data, size_t len)
{
    struct cw_record one = *rec;
    one.data = t->given_up ? NULL : data; /* nobody should look into what ends processes */
    one.len = t->given_up ? 0 : len;
    cw_metric_add(t->r->m_quarantined, 1);
    cw_log(CW_WARN, "quarantined", "log=%s partition=%u seq=%" PRIu64 " reason=\"%s\"",
           t->r->cfg.log, rec->partition, rec->seq, reason);
    if (t->r->cfg.quarantined)
        t->r->cfg.quarantined(&one, reason, t->r->cfg.self);
}

void poison_tell(struct cw_log_txn *t) { each_aside(t, tell); }

/* ---- records one by one */

static void on_suspect(PGresult *res, void *arg)
{
    struct cw_log_txn *t = arg;
    if (cw_db_outcome(res) != CW_DB_OK || t->dead) {
        txn_fail_db(t, res);
        txn_fail(t, TXN_RETRY, "connection lost");
        txn_end(t, false);
        return;
    }
    /* no row: the position has moved, which the fence will find */
    int64_t tries = PQntuples(res) == 1 ? cw_db_i64(res, 0, "suspect_tries", 0) : 0;
    t->given_up = tries > SUSPECT_TRIES && t->suspect->survived != t->first.seq;
    t->trial = !t->given_up;
    if (t->given_up)
        t->n = 0;
    txn_start(t);
}

static bool suspect_query(struct cw_log_txn *t, int which, cw_db_fn *cb)
{
    char part[24], seq[24];
    struct rpart *p = t->suspect;
    const struct cw_db_param params[] = { CW_TEXT(t->r->cfg.log), cw_db_int(p->index, part),
                                          cw_db_int((int64_t)t->first.seq, seq) };
    return cw_db_exec(t->r->db, &t->r->stmts[which], 3, params, cb, t) != NULL;
}

void careful_start(struct cw_log_txn *t)
{
    if (t->n == 0) { /* nobody looks into it */
        txn_start(t);
        return;
    }
    if (!suspect_query(t, ST_SUSPECT, on_suspect)) {
        txn_fail(t, TXN_RETRY, "not connected");
        txn_end(t, false);
    }
}

/* From here on an end of the process says nothing against the record. */
void careful_passed(struct cw_log_txn *t)
{
    t->suspect->proved = t->first.seq;
    suspect_query(t, ST_CLEARED, NULL);
}

/* It could not be tried, or was refused in order: that says nothing against the record either. */
void careful_survived(struct cw_log_txn *t)
{
    t->suspect->survived = t->first.seq;
    if (!t->dead)
        suspect_query(t, ST_CLEARED, NULL);
}
