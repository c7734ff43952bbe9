#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/log_read_internal.h"
#include "libcommon/service.h"
#include "libcommon/wire.h"
#include "proto/subjects.h"

/* Facts that begin in PostgreSQL. In one transaction: the fence, the rows in the order of their
 * ids, one message per partition that also names them, their deletion. When it is not known whether
 * that came to an end, the newest message of the subject tells which rows are out (log_read.c). */

#define ROWS_PER_MESSAGE 200 /* their ids have to fit into a header */

void outbox_sweep(struct cw_log_reader *r)
{
    for (uint32_t i = 0; r->cfg.relays_outbox && i < r->n_parts; i++)
        r->parts[i].outbox_due = true;
}

void outbox_start(struct cw_log_reader *r)
{
    struct cw_log_txn *t = &r->txn;
    t->active = true;
    t->kind = TXN_OUTBOX;
    for (uint32_t i = 0; i < r->n_parts; i++) {
        struct rpart *p = &r->parts[i];
        if (p->outbox_due && part_may_work(p))
            p->new_seq = p->seq + 1; /* the position stays, but it must still be ours */
    }
    outbox_ask(t);
}

/* A look outside a transaction first: mostly there is nothing. */
static void on_found(PGresult *res, void *arg)
{
    struct cw_log_txn *t = arg;
    bool any = false;
    if (cw_db_outcome(res) != CW_DB_OK || t->dead) {
        txn_fail_db(t, res);
        txn_fail(t, TXN_RETRY, "connection lost");
        txn_end(t, false);
        return;
    }
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        bool found = false;
        for (int row = 0; p->new_seq && row < PQntuples(res); row++)
            found |= cw_db_i64(res, row, "partition", -1) == i;
        if (!found)
            p->new_seq = 0;
        any |= found;
    }
    if (any)
        txn_begin(t);
    else
        txn_end(t, false);
}

void outbox_ask(struct cw_log_txn *t)
{
    struct cw_buf sql = { 0 };
    cw_buf_printf(&sql, "SELECT DISTINCT partition FROM %s.outbox WHERE partition IN (-1",
                  t->r->cfg.schema);
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].new_seq) {
            cw_buf_printf(&sql, ",%u", i);
            t->r->parts[i].outbox_due = false;
        }
    cw_buf_str(&sql, ")");
    if (!cw_db_query(t->r->db, sql.data, on_found, t)) {
        txn_fail(t, TXN_RETRY, "not connected");
        txn_end(t, false);
    }
    cw_buf_free(&sql);
}

/* bytea in text form: \x and two digits a byte */
static size_t unhex(unsigned char *out, const char *text)
{
    size_t n = 0;
    for (const char *s = text + 2; s[0] && s[1]; s += 2) {
        char pair[3] = { s[0], s[1], '\0' };
        out[n++] = (unsigned char)strtoul(pair, NULL, 16);
    }
    return n;
}

/* False when the partition's message is full; the row has its turn in the next transaction. */
static bool add_row(struct rpart *p, int64_t id, const char *event)
{
    struct out_msg *m = p->msgs;
    size_t len = strlen(event) / 2;
    if (!m) {
        m = p->msgs = cw_calloc(1, sizeof *m);
        p->n_msgs = 1;
        p->n_rows = 0;
        m->mark = out_tail_mark(p->relay); /* every message repeats the latest */
    }
    if (p->n_rows && (p->n_rows >= ROWS_PER_MESSAGE || m->body.len + len > CW_BATCH_MAX_BYTES))
        return false;
    unsigned char *bytes = cw_malloc(len);
    wire_put(&m->body, WIRE_BATCH_ITEM, bytes, unhex(bytes, event));
    free(bytes);
    char *ids = m->outbox ? cw_sprintf("%s,%" PRId64, m->outbox, id) : cw_sprintf("%" PRId64, id);
    free(m->outbox);
    m->outbox = ids;
    p->n_rows++;
    return true;
}

static void on_rows(PGresult *res, void *arg)
{
    struct cw_log_txn *t = arg;
    struct cw_db_array ids = { 0 };
    if (t->outcome != TXN_OK)
        return;
    cw_db_array_reset(&ids, CW_ARRAY_INT8);
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        t->r->parts[i].row_left = false;
    for (int i = 0; i < PQntuples(res); i++) {
        int64_t id = cw_db_i64(res, i, "id", 0);
        uint32_t index = (uint32_t)cw_db_i64(res, i, "partition", 0);
        struct rpart *p = &t->r->parts[index];
        /* after one row that has to wait all others of the partition wait, too: ids keep order */
        if (!p->row_left && add_row(p, id, cw_db_str(res, i, "event")))
            cw_db_array_int(&ids, id);
        else
            p->row_left = true;
    }
    if (PQntuples(res) >= ROWS_LIMIT)
        for (uint32_t i = 0; i < t->r->n_parts; i++)
            t->r->parts[i].row_left |= t->r->parts[i].new_seq != 0;
    if (ids.n) {
        const struct cw_db_param params[] = { cw_db_array_param(&ids) };
        cw_crash_point("outbox_before_append");
        for (uint32_t i = 0; i < t->r->n_parts; i++)
            txn_send(t, &t->r->parts[i], t->r->parts[i].relay);
        txn_query(t, &t->r->stmts[ST_DELETE], 1, params, NULL, NULL);
    }
    cw_db_array_free(&ids);
}

void outbox_effects(struct cw_log_txn *t)
{
    struct cw_db_array parts = { 0 };
    cw_db_array_reset(&parts, CW_ARRAY_INT4);
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].new_seq)
            cw_db_array_int(&parts, i);
    const struct cw_db_param params[] = { cw_db_array_param(&parts) };
    txn_query(t, &t->r->stmts[ST_ROWS], 1, params, on_rows, t);
    cw_db_array_free(&parts);
}

void outbox_ended(struct cw_log_txn *t, bool committed)
{
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        if (p->new_seq && (!committed || p->row_left))
            p->outbox_due = true;
        p->row_left = false;
    }
}
