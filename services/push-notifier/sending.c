#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/window_internal.h"

#define RELOAD_MS      1000
#define ACTION_KEEP_MS 60000

/* ---- the end of an item */

/* What became of it counts with its record while that is in the window, else by itself. */
static void count_outcome(struct partition *p, struct item *it, enum outcome how)
{
    if (it->record && !it->record->leaving)
        it->record->outcomes[how]++;
    else
        p->totals[TOTAL_OUTCOME + how]++;
}

void item_finish(struct item *it, enum outcome how)
{
    struct lane *l = it->lane;
    struct partition *p = l->partition;
    p->window->ops->finished(it, how, p->window->self);
    count_outcome(p, it, how);
    item_unlink(it);
    it->finished = true;
    if (it->row == ROW_INSERTING)
        return; /* its row is deleted when it is there: window_saved() */
    if (it->row == ROW_STORED) {
        rows_add(&p->deletes, it, 0);
        l->parked--;
        if (how != OUT_EXPIRED) { /* that may be any row of the lane */
            l->from_seq = it->seq;
            l->from_idx = it->idx + 1;
        }
    } else {
        item_close(p, it);
        it->record->open--;
    }
    item_free(it);
}

/* ---- sending */

static void start_lane(struct window *w, struct lane *l, int64_t now_ms)
{
    struct item *it = TAILQ_FIRST(&l->items);
    l->action->used_ms = now_ms;
    if (it && l->at == w->nowhere) {
        item_finish(it, OUT_NO_ACTION);
        l->due_ms = 0;
        lane_queue(l, now_ms, true);
        return;
    }
    if (!it && l->updating > 0) { /* the rows in the table are not the latest yet */
        bool probe = l->at->probe == l;
        struct target *t = l->at;
        lane_unqueue(l);
        l->at = t;
        l->state = LANE_DELAYED;
        TAILQ_INSERT_TAIL(&t->delayed, l, queued);
        if (probe)
            t->probe = NULL;
        return;
    }
    lane_busy(l);
    if (!it) {
        w->ops->load(l, w->self);
        return;
    }
    it->flying = true;
    it->started_ms = now_ms;
    l->partition->flying++;
    w->ops->send(it, w->self);
}

static struct lane *next_lane(const struct window *w, const struct target *t)
{
    if (t->blocked)
        return t->probe && t->probe->state == LANE_READY ? t->probe : NULL;
    return t == w->nowhere || t->slots < w->limits.slots ? TAILQ_FIRST(&t->ready) : NULL;
}

void window_pump(struct window *w, int64_t now_ms)
{
    struct target *t, *tmp;
    struct lane *l;
    if (w->pumping)
        return;
    w->pumping = true;
    HASH_ITER(hh, w->targets, t, tmp)
    while ((l = next_lane(w, t)))
        start_lane(w, l, now_ms);
    w->pumping = false;
}

static void block(struct window *w, struct target *t, int64_t now_ms)
{
    t->blocked = true;
    t->blocked_since_ms = now_ms;
    t->probe_ms = now_ms + w->limits.probe_ms;
    w->ops->blocked(t, true, w->self);
}

static void unblock(struct window *w, struct target *t, int64_t now_ms)
{
    struct lane *l;
    t->blocked = false;
    t->probe = NULL;
    t->unblocked_ms = now_ms;
    while ((l = TAILQ_FIRST(&t->delayed))) { /* what is stacked goes first, all of it */
        l->due_ms = now_ms;
        lane_queue(l, now_ms, false);
    }
    w->ops->blocked(t, false, w->self);
}

static int64_t delay_of(const struct window *w, unsigned attempts)
{
    const int64_t *d = w->limits.delays_ms;
    for (unsigned i = 1; i < attempts && d[1]; i++)
        d++;
    return *d;
}

/* A row whose state has changed: what is in memory of the lane goes, the table has it. */
static void store_back(struct item *it, int64_t due_ms)
{
    struct lane *l = it->lane;
    struct item *next;
    rows_add(&l->partition->updates, it, due_ms);
    l->updating++;
    l->due_ms = due_ms;
    l->from_seq = it->seq;
    l->from_idx = it->idx;
    for (struct item *i = TAILQ_FIRST(&l->items); i; i = next) {
        next = TAILQ_NEXT(i, in_lane);
        item_unlink(i);
        l->stored++;
        item_free(i);
    }
}

static void failed(struct window *w, struct item *it, struct target *t, int64_t now_ms)
{
    struct lane *l = it->lane;
    int64_t from = it->counted_ms ? it->counted_ms : it->started_ms;
    it->attempts++;
    if (!t->blocked)
        it->spent_ms += now_ms - (from > t->unblocked_ms ? from : t->unblocked_ms);
    it->counted_ms = now_ms;
    t->failures++;
    if (t->blocked)
        t->probe_ms = now_ms + w->limits.probe_ms;
    else if (it->spent_ms >= w->limits.retry_ms) {
        if (t->failures >= w->limits.block_after)
            block(w, t, now_ms);
        l->due_ms = 0;
        item_finish(it, OUT_FAILED);
        return;
    } else if (t->failures >= w->limits.block_after)
        block(w, t, now_ms);
    l->due_ms = now_ms + delay_of(w, it->attempts);
    if (it->row == ROW_STORED)
        store_back(it, l->due_ms);
    else if (it->row == ROW_INSERTING) {
        item_unlink(it); /* window_saved() goes on with it */
        it->stale = true;
    }
}

void window_answered(struct item *it, bool delivered, int64_t now_ms)
{
    struct lane *l = it->lane;
    struct partition *p = l->partition;
    struct window *w = p->window;
    struct target *t = l->at;
    bool from_table = it->row == ROW_STORED;
    it->flying = false;
    it->call = NULL;
    p->flying--;
    lane_not_busy(l);
    if (t->probe == l)
        t->probe = NULL;
    l->at = NULL;
    if (delivered) {
        t->failures = 0;
        if (t->blocked)
            unblock(w, t, now_ms);
        l->told = false;
        l->due_ms = 0;
        action_second(l->action, now_ms);
        l->action->delivered++;
        item_finish(it, OUT_DELIVERED);
    } else {
        failed(w, it, t, now_ms);
    }
    lane_queue(l, now_ms, from_table && !TAILQ_EMPTY(&l->items));
    window_pump(w, now_ms);
}

bool row_ends(const struct partition *p, uint64_t seq, uint32_t idx)
{
    const struct rows *lists[] = { &p->deletes, p->saving ? &p->saving->deletes : NULL };
    for (size_t k = 0; k < CW_ARRAY_LEN(lists) && lists[k]; k++)
        for (size_t i = 0; i < lists[k]->n; i++)
            if (lists[k]->rows[i].seq == seq && lists[k]->rows[i].idx == idx)
                return true;
    return false;
}

static void load_item(struct lane *l, const struct loaded_row *row)
{
    l->from_seq = row->seq;
    l->from_idx = row->idx + 1;
    if (row_ends(l->partition, row->seq, row->idx)) {
        causeway__push__free_unpacked(row->push, NULL);
        return;
    }
    struct item *it = cw_calloc(1, sizeof *it);
    *it = (struct item){ .lane = l,
                         .push = row->push,
                         .linked = true,
                         .row = ROW_STORED,
                         .seq = row->seq,
                         .idx = row->idx,
                         .attempts = row->attempts,
                         .spent_ms = row->spent_ms,
                         .counted_ms = row->counted_ms };
    TAILQ_INSERT_TAIL(&l->items, it, in_lane);
    l->stored--;
}

void window_loaded(struct lane *l, const struct loaded_row *rows, size_t n, bool ok, int64_t now_ms)
{
    struct window *w = l->partition->window;
    struct target *t = l->at;
    bool probe = t->probe == l;
    l->load = NULL;
    lane_not_busy(l);
    l->at = NULL;
    if (probe)
        t->probe = NULL;
    for (size_t i = 0; i < n; i++)
        load_item(l, &rows[i]);
    if (ok && n == 0) { /* rows that somebody else has removed */
        l->parked -= l->stored;
        l->stored = 0;
    }
    l->due_ms = ok ? 0 : now_ms + RELOAD_MS;
    bool again = probe && t->blocked && !TAILQ_EMPTY(&l->items) && l->action->target == t;
    lane_queue(l, now_ms, true);
    if (again && !l->partition->closing)
        t->probe = l;
    window_pump(w, now_ms);
}

/* ---- actions */

void action_second(struct action *a, int64_t now_ms)
{
    int64_t second = now_ms / 1000;
    if (second == a->second)
        return;
    a->delivered_before = second == a->second + 1 ? a->delivered : 0;
    a->delivered = 0;
    a->second = second;
}

struct action *window_find_action(const struct window *w, const char *id)
{
    struct action *a;
    HASH_FIND_STR(w->actions, id, a);
    return a;
}

void window_action(struct window *w, struct action *a, const char *target, int64_t now_ms)
{
    struct lane *l, *next;
    a->target = target ? target_get(w, target) : w->nowhere;
    a->used_ms = now_ms;
    for (l = LIST_FIRST(&a->lanes); l; l = next) {
        next = LIST_NEXT(l, in_action);
        if (l->state == LANE_READY || l->state == LANE_DELAYED)
            lane_queue(l, now_ms, false);
    }
    window_pump(w, now_ms);
}

void drop_unused_actions(struct window *w, int64_t now_ms)
{
    struct action *a, *tmp;
    HASH_ITER(hh, w->actions, a, tmp)
    if (a->target && LIST_EMPTY(&a->lanes) && now_ms - a->used_ms > ACTION_KEEP_MS) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): uthash has let go of what was freed */
        HASH_DEL(w->actions, a);
        w->ops->forget(a, w->self);
        free(a->id);
        free(a);
    }
}
