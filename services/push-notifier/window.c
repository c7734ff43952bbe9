#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/window_internal.h"

#define URGENT_ITEMS 512 /* to park */

const char *const outcome_names[OUT_COUNT] = { "delivered", "push_failed", "push_expired",
                                               "action_deleted" };

/* ---- partitions */

struct partition *window_partition(const struct window *w, uint32_t number)
{
    struct partition *p;
    HASH_FIND(hh, w->partitions, &number, sizeof number, p);
    return p;
}

struct partition *window_open(struct window *w, uint32_t number, uint64_t seq)
{
    struct partition *p = cw_calloc(1, sizeof *p);
    p->window = w;
    p->number = number;
    p->seq = seq;
    STAILQ_INIT(&p->records);
    TAILQ_INIT(&p->open);
    HASH_ADD(hh, w->partitions, number, sizeof p->number, p);
    return p;
}

void save_free(struct save *s)
{
    if (!s)
        return;
    free(s->inserts);
    free(s->deletes.rows);
    free(s->updates.rows);
    free(s);
}

static void lane_discard(struct window *w, struct lane *l)
{
    struct item *it;
    if (l->load)
        w->ops->cancel_load(l, w->self);
    if (l->state == LANE_BUSY)
        l->at->slots--;
    while ((it = TAILQ_FIRST(&l->items))) {
        if (it->flying)
            w->ops->cancel(it, w->self);
        item_unlink(it);
        if (it->row == ROW_STORED)
            item_free(it); /* the others are in the partition's list */
    }
    if (l->state == LANE_BUSY && l->at->probe == l)
        l->at->probe = NULL;
    if (l->state == LANE_BUSY)
        l->state = LANE_IDLE;
    lane_free(l);
}

void window_close(struct window *w, uint32_t number)
{
    struct partition *p = window_partition(w, number);
    struct lane *l, *tmp;
    struct item *it;
    struct record *rec;
    if (!p)
        return;
    TAILQ_FOREACH(it, &p->open, in_partition)
    it->lane->action->open--;
    HASH_ITER(hh, p->lanes, l, tmp)
    lane_discard(w, l);
    while ((it = TAILQ_FIRST(&p->open))) {
        TAILQ_REMOVE(&p->open, it, in_partition);
        item_free(it);
    }
    while ((rec = STAILQ_FIRST(&p->records))) {
        STAILQ_REMOVE_HEAD(&p->records, link);
        record_unref(rec);
    }
    save_free(p->saving);
    free(p->deletes.rows);
    free(p->updates.rows);
    HASH_DEL(w->partitions, p);
    free(p);
}

void window_stored(struct partition *p, const char *action_id, int64_t device_key, size_t n,
                   int64_t due_ms)
{
    struct lane *l = lane_get(p, action_id, device_key);
    l->stored = l->parked = n;
    l->due_ms = due_ms;
    lane_queue(l, 0, false); /* delayed; the next tick looks */
}

bool window_room(const struct partition *p)
{
    return !p->closing && p->n_open < p->window->limits.items &&
           p->open_bytes < p->window->limits.bytes;
}

static void take_item(struct partition *p, struct record *rec, uint32_t idx, int64_t now_ms)
{
    struct item *it = cw_calloc(1, sizeof *it);
    Causeway__Push *push = rec->batch->pushes[idx];
    struct lane *l = lane_get(p, push->action_id, push->device_key);
    bool idle = l->state == LANE_IDLE && !lane_has_work(l);
    *it = (struct item){
        .lane = l, .record = rec, .push = push, .seq = rec->seq, .idx = idx, .arrived_ms = now_ms
    };
    TAILQ_INSERT_TAIL(&p->open, it, in_partition);
    l->action->open++;
    p->n_open++;
    p->open_bytes += push->body.len;
    if (l->parked > 0) { /* behind them, in the table */
        l->parked++;
        p->urgent |= p->n_open > URGENT_ITEMS;
        return;
    }
    it->linked = true;
    TAILQ_INSERT_TAIL(&l->items, it, in_lane);
    if (idle) {
        l->due_ms = 0;
        lane_queue(l, now_ms, false);
    }
}

void window_take(struct partition *p, uint64_t seq, Causeway__PushBatch *batch, size_t bytes,
                 int64_t now_ms)
{
    struct record *rec = cw_calloc(1, sizeof *rec);
    unsigned n = (unsigned)batch->n_pushes;
    *rec = (struct record){
        .seq = seq, .bytes = bytes, .batch = batch, .n = n, .open = n, .refs = n + 1
    };
    STAILQ_INSERT_TAIL(&p->records, rec, link);
    p->n_window += n;
    for (uint32_t i = 0; i < n; i++)
        take_item(p, rec, i, now_ms);
    window_pump(p->window, now_ms);
}

void window_end(struct partition *p)
{
    struct lane *l, *tmp;
    p->closing = true;
    HASH_ITER(hh, p->lanes, l, tmp)
    if (l->state != LANE_BUSY)
        lane_unqueue(l);
}

bool window_ended(const struct partition *p)
{
    return p->n_open == 0 && !p->saving && STAILQ_EMPTY(&p->records) && p->deletes.n == 0 &&
           p->updates.n == 0;
}

static void tick_target(struct target *t, int64_t now_ms)
{
    struct lane *l, *next;
    if (t->blocked) {
        if (t->probe || now_ms < t->probe_ms)
            return;
        l = TAILQ_FIRST(&t->ready);
        if (!l)
            l = TAILQ_FIRST(&t->delayed);
        if (!l)
            return;
        l->due_ms = 0;
        lane_queue(l, now_ms, true);
        t->probe = l;
        return;
    }
    for (l = TAILQ_FIRST(&t->delayed); l; l = next) {
        next = TAILQ_NEXT(l, queued);
        if (l->due_ms <= now_ms)
            lane_queue(l, now_ms, false);
    }
}

void window_tick(struct window *w, int64_t now_ms)
{
    struct target *t, *tmp;
    HASH_ITER(hh, w->targets, t, tmp)
    tick_target(t, now_ms);
    drop_unused_actions(w, now_ms);
    window_pump(w, now_ms);
}

struct window *window_new(const struct window_limits *limits, const struct window_ops *ops,
                          void *self)
{
    struct window *w = cw_calloc(1, sizeof *w);
    *w = (struct window){ .limits = *limits, .ops = ops, .self = self };
    w->nowhere = target_get(w, "");
    return w;
}

void window_free(struct window **window)
{
    struct window *w = *window;
    struct partition *p, *ptmp;
    struct action *a, *atmp;
    struct target *t, *ttmp;
    if (!w)
        return;
    HASH_ITER(hh, w->partitions, p, ptmp)
    window_close(w, p->number);
    HASH_ITER(hh, w->actions, a, atmp)
    {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): uthash has let go of what was freed */
        HASH_DEL(w->actions, a);
        w->ops->forget(a, w->self);
        free(a->id);
        free(a);
    }
    HASH_ITER(hh, w->targets, t, ttmp)
    {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): uthash has let go of what was freed */
        HASH_DEL(w->targets, t);
        free(t->name);
        free(t);
    }
    free(w);
    *window = NULL;
}
