#include <stdlib.h>
#include <string.h>

#include "libcommon/log_read_internal.h"
#include "libcommon/wire.h"
#include "proto/subjects.h"

static int by_record(const void *a, const void *b)
{
    const struct emitted *x = a, *y = b;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void close_msg(struct rpart *p, struct cw_buf *body, struct out_mark mark)
{
    if (!body->len)
        return;
    p->msgs = cw_realloc(p->msgs, (p->n_msgs + 1) * sizeof *p->msgs);
    p->msgs[p->n_msgs++] = (struct out_msg){ .body = *body, .mark = mark };
    *body = (struct cw_buf){ 0 };
}

/* Items of one record that do not fit into one message: every message says how far it comes. */
static void put_split(struct cw_log_txn *t, struct rpart *p, const struct emitted *items, size_t n,
                      size_t done, uint64_t seq, struct cw_buf *body)
{
    for (size_t i = done; i < n; i++) {
        if (body->len && body->len + items[i].len > CW_BATCH_MAX_BYTES)
            close_msg(p, body, (struct out_mark){ seq, (uint32_t)i, (uint32_t)n });
        wire_put(body, WIRE_BATCH_ITEM, t->item_bytes.data + items[i].at, items[i].len);
    }
    close_msg(p, body, (struct out_mark){ .seq = seq });
}

/* Adds what one record emitted; what the newest message of the subject covers is left out. */
static void put_record(struct cw_log_txn *t, struct rpart *p, const struct emitted *items, size_t n,
                       uint64_t seq, uint64_t before, struct cw_buf *body)
{
    struct out_mark tail = out_tail_mark(p->out);
    size_t bytes = 0, done = 0;
    if (seq < tail.seq || (seq == tail.seq && tail.k >= tail.m))
        return;
    if (seq == tail.seq)
        done = tail.k;
    for (size_t i = done; i < n; i++)
        bytes += items[i].len + 6;
    if (body->len && body->len + bytes > CW_BATCH_MAX_BYTES)
        close_msg(p, body, (struct out_mark){ .seq = before });
    if (bytes > CW_BATCH_MAX_BYTES || done) {
        put_split(t, p, items, n, done, seq, body);
        return;
    }
    for (size_t i = done; i < n; i++)
        wire_put(body, WIRE_BATCH_ITEM, t->item_bytes.data + items[i].at, items[i].len);
}

static void build_part(struct cw_log_txn *t, struct rpart *p)
{
    struct cw_buf body = { 0 };
    uint64_t before = p->seq;
    for (size_t i = 0; i < t->n_items;) {
        size_t n = 1, index = t->items[i].index;
        while (i + n < t->n_items && t->items[i + n].index == index)
            n++;
        if (t->records[index].partition == p->index) {
            put_record(t, p, &t->items[i], n, t->records[index].seq, before, &body);
            before = t->records[index].seq;
        }
        i += n;
    }
    /* the records behind the last item have nothing to say, and that is covered, too */
    close_msg(p, &body, (struct out_mark){ .seq = p->new_seq - 1 });
}

void emit_build(struct cw_log_txn *t)
{
    if (!t->r->cfg.output)
        return;
    if (t->n_items)
        qsort(t->items, t->n_items, sizeof *t->items, by_record);
    for (uint32_t i = 0; i < t->r->n_parts; i++)
        if (t->r->parts[i].in_txn)
            build_part(t, &t->r->parts[i]);
}

void emit_free(struct cw_log_txn *t)
{
    for (uint32_t i = 0; i < t->r->n_parts; i++) {
        struct rpart *p = &t->r->parts[i];
        for (size_t k = 0; k < p->n_msgs; k++) {
            cw_buf_free(&p->msgs[k].body);
            free(p->msgs[k].outbox);
        }
        free(p->msgs);
        p->msgs = NULL;
        p->n_msgs = 0;
    }
}
