#include "services/push-notifier/window.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_ITEMS_MAX 2048
#define SAVE_BYTES_MAX (4U << 20)
#define URGENT_ITEMS   512 /* to park */
#define RELOAD_MS      1000
#define ACTION_KEEP_MS 60000
#define LANE_KEY_LEN   80

const char *const outcome_names[OUT_COUNT] = { "delivered", "push_failed", "push_expired",
                                               "action_deleted" };

static void pump(struct window *w, int64_t now_ms);

/* ---- small things */

static struct save_row *rows_add(struct rows *r, const struct item *it, int64_t due_ms)
{
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 64;
        r->rows = cw_realloc(r->rows, r->cap * sizeof *r->rows);
    }
    r->rows[r->n] = (struct save_row){ .seq = it->seq,
                                       .idx = it->idx,
                                       .attempts = it->attempts,
                                       .spent_ms = it->spent_ms,
                                       .counted_ms = it->counted_ms,
                                       .due_ms = due_ms,
                                       .lane = it->lane };
    return &r->rows[r->n++];
}

static void record_unref(struct record *rec)
{
    if (--rec->refs > 0)
        return;
    causeway__push_batch__free_unpacked(rec->batch, NULL);
    free(rec);
}

static void item_free(struct item *it)
{
    if (it->record)
        record_unref(it->record);
    else
        causeway__push__free_unpacked(it->push, NULL);
    free(it);
}

static void unlink_from_lane(struct item *it)
{
    if (it->linked)
        TAILQ_REMOVE(&it->lane->items, it, in_lane);
    it->linked = false;
}

static void close_open(struct partition *p, struct item *it)
{
    TAILQ_REMOVE(&p->open, it, in_partition);
    p->n_open--;
    p->open_bytes -= it->push->body.len;
}

/* ---- lanes and the queues of targets */

static void lane_unqueue(struct lane *l)
{
    if (l->at && l->state == LANE_READY)
        TAILQ_REMOVE(&l->at->ready, l, queued);
    else if (l->at && l->state == LANE_DELAYED)
        TAILQ_REMOVE(&l->at->delayed, l, queued);
    if (l->at && l->at->probe == l)
        l->at->probe = NULL;
    l->at = NULL;
    l->state = LANE_IDLE;
}

static bool lane_has_work(const struct lane *l) { return !TAILQ_EMPTY(&l->items) || l->stored > 0; }

static void lane_free(struct lane *l)
{
    lane_unqueue(l);
    HASH_DEL(l->partition->lanes, l);
    LIST_REMOVE(l, in_action);
    free(l);
}

/* Puts a lane that is not busy where it belongs. first: before the others that are ready. */
static void lane_queue(struct lane *l, int64_t now_ms, bool first)
{
    lane_unqueue(l);
    if (!lane_has_work(l)) {
        if (l->parked == 0 && l->updating == 0)
            lane_free(l);
        return;
    }
    if (l->partition->closing)
        return;
    l->at = l->action->target;
    l->state = l->due_ms > now_ms ? LANE_DELAYED : LANE_READY;
    if (!l->at)
        return; /* window_action() will come for it */
    if (l->state == LANE_DELAYED)
        TAILQ_INSERT_TAIL(&l->at->delayed, l, queued);
    else if (first)
        TAILQ_INSERT_HEAD(&l->at->ready, l, queued);
    else
        TAILQ_INSERT_TAIL(&l->at->ready, l, queued);
}

static void lane_busy(struct lane *l)
{
    struct target *t = l->at;
    bool probe = t->probe == l;
    lane_unqueue(l);
    if (probe)
        t->probe = l;
    l->at = t;
    l->state = LANE_BUSY;
    t->slots++;
}

static void lane_not_busy(struct lane *l)
{
    l->at->slots--;
    l->state = LANE_IDLE;
    if (l->at->probe != l) /* a probe keeps its right from loading to sending */
        l->at = NULL;
}

static struct action *action_get(struct window *w, const char *id)
{
    struct action *a;
    HASH_FIND_STR(w->actions, id, a);
    if (a)
        return a;
    a = cw_calloc(1, sizeof *a);
    a->id = cw_strdup(id);
    HASH_ADD_KEYPTR(hh, w->actions, a->id, strlen(a->id), a);
    w->ops->look_up(a, w->self);
    return a;
}

static struct lane *lane_find(const struct partition *p, const char *action_id, int64_t device_key,
                              char key[LANE_KEY_LEN])
{
    struct lane *l;
    snprintf(key, LANE_KEY_LEN, "%.50s %" PRId64, action_id, device_key);
    HASH_FIND_STR(p->lanes, key, l);
    return l;
}

static struct lane *lane_get(struct partition *p, const char *action_id, int64_t device_key)
{
    char key[LANE_KEY_LEN];
    struct lane *l = lane_find(p, action_id, device_key, key);
    if (l)
        return l;
    l = cw_calloc(1, sizeof *l + strlen(key) + 1);
    strcpy(l->key, key);
    l->partition = p;
    TAILQ_INIT(&l->items);
    HASH_ADD_STR(p->lanes, key, l);
    l->action = action_get(p->window, action_id);
    LIST_INSERT_HEAD(&l->action->lanes, l, in_action);
    return l;
}

static struct target *target_get(struct window *w, const char *name)
{
    struct target *t;
    HASH_FIND_STR(w->targets, name, t);
    if (t)
        return t;
    t = cw_calloc(1, sizeof *t);
    t->name = cw_strdup(name);
    TAILQ_INIT(&t->ready);
    TAILQ_INIT(&t->delayed);
    HASH_ADD_KEYPTR(hh, w->targets, t->name, strlen(t->name), t);
    return t;
}

/* ---- the end of an item */

/* What became of it counts with its record while that is in the window, else by itself. */
static void count_outcome(struct partition *p, struct item *it, enum outcome how)
{
    if (it->record && !it->record->leaving)
        it->record->outcomes[how]++;
    else
        p->totals[TOTAL_OUTCOME + how]++;
}

static void finish(struct item *it, enum outcome how)
{
    struct lane *l = it->lane;
    struct partition *p = l->partition;
    p->window->ops->finished(it, how, p->window->self);
    count_outcome(p, it, how);
    unlink_from_lane(it);
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
        close_open(p, it);
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
        finish(it, OUT_NO_ACTION);
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

static void pump(struct window *w, int64_t now_ms)
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
        unlink_from_lane(i);
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
        finish(it, OUT_FAILED);
        return;
    } else if (t->failures >= w->limits.block_after)
        block(w, t, now_ms);
    l->due_ms = now_ms + delay_of(w, it->attempts);
    if (it->row == ROW_STORED)
        store_back(it, l->due_ms);
    else if (it->row == ROW_INSERTING) {
        unlink_from_lane(it); /* window_saved() goes on with it */
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
        finish(it, OUT_DELIVERED);
    } else {
        failed(w, it, t, now_ms);
    }
    lane_queue(l, now_ms, from_table && !TAILQ_EMPTY(&l->items));
    pump(w, now_ms);
}

static bool row_ends(const struct partition *p, uint64_t seq, uint32_t idx)
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
    pump(w, now_ms);
}

/* ---- actions */

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
    pump(w, now_ms);
}

static void drop_unused_actions(struct window *w, int64_t now_ms)
{
    struct action *a, *tmp;
    HASH_ITER(hh, w->actions, a, tmp)
    if (a->target && LIST_EMPTY(&a->lanes) && now_ms - a->used_ms > ACTION_KEEP_MS) {
        HASH_DEL(w->actions, a);
        w->ops->forget(a, w->self);
        free(a->id);
        free(a);
    }
}

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

static void save_free(struct save *s)
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
        unlink_from_lane(it);
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
    pump(p->window, now_ms);
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
    pump(w, now_ms);
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
        HASH_DEL(w->actions, a);
        w->ops->forget(a, w->self);
        free(a->id);
        free(a);
    }
    HASH_ITER(hh, w->targets, t, ttmp)
    {
        HASH_DEL(w->targets, t);
        free(t->name);
        free(t);
    }
    free(w);
    *window = NULL;
}

/* ---- saving */

static bool to_be_parked(struct partition *p, const struct item *it, int64_t now_ms)
{
    const struct target *t = it->lane->action->target;
    if (it->lane->parked > 0 || p->closing)
        return true;
    return (t && t->blocked) || now_ms - it->arrived_ms >= p->window->limits.park_ms;
}

/* From here on the item is a row; unless it is in flight, the table alone has it. */
static void park(struct partition *p, struct item *it)
{
    struct window *w = p->window;
    struct lane *l = it->lane;
    struct item *behind, *next;
    const struct target *t = l->action->target;
    if (t && t->blocked && !l->told) {
        l->told = true;
        w->ops->waits(it, t, w->self);
    }
    if (it->linked) {
        l->parked++;
        for (behind = TAILQ_NEXT(it, in_lane); behind; behind = next) {
            next = TAILQ_NEXT(behind, in_lane);
            unlink_from_lane(behind);
            l->parked++;
        }
        if (!it->flying) {
            unlink_from_lane(it);
            lane_unqueue(l);
        }
    }
    it->row = ROW_INSERTING;
    it->record->open--;
}

static void collect_inserts(struct partition *p, struct save *s, int64_t now_ms)
{
    struct item *it, *next;
    size_t bytes = 0;
    for (it = TAILQ_FIRST(&p->open); it && s->n_inserts < SAVE_ITEMS_MAX && bytes < SAVE_BYTES_MAX;
         it = next) {
        next = TAILQ_NEXT(it, in_partition);
        if (!to_be_parked(p, it, now_ms))
            continue;
        park(p, it);
        if (!s->inserts)
            s->inserts = cw_malloc(SAVE_ITEMS_MAX * sizeof(struct item *));
        s->inserts[s->n_inserts++] = it;
        bytes += it->push->body.len;
    }
    p->urgent = it != NULL && s->n_inserts > 0;
}

static void collect_records(struct partition *p, struct save *s)
{
    struct record *rec;
    STAILQ_FOREACH(rec, &p->records, link)
    {
        if (rec->open > 0)
            break;
        rec->leaving = true;
        s->to = rec->seq;
        s->n_records++;
        s->left_bytes += rec->bytes;
        s->totals[TOTAL_OWED] += rec->n;
        for (int i = 0; i < OUT_COUNT; i++)
            s->totals[TOTAL_OUTCOME + i] += rec->outcomes[i];
    }
}

struct save *window_save(struct partition *p, int64_t now_ms)
{
    struct save *s = cw_calloc(1, sizeof *s);
    if (p->saving)
        abort(); /* one at a time */
    s->from = s->to = p->seq;
    memcpy(s->totals, p->totals, sizeof s->totals);
    collect_inserts(p, s, now_ms);
    collect_records(p, s);
    s->deletes = p->deletes;
    s->updates = p->updates;
    if (s->to == s->from && !s->n_inserts && !s->deletes.n && !s->updates.n) {
        free(s->inserts);
        free(s);
        return NULL;
    }
    memset(p->totals, 0, sizeof p->totals);
    p->deletes = p->updates = (struct rows){ 0 };
    p->saving = s;
    return s;
}

/* The row of an item is there now. */
static void parked(struct partition *p, struct item *it, int64_t now_ms)
{
    struct lane *l = it->lane;
    close_open(p, it);
    it->row = ROW_STORED;
    if (it->flying)
        return;
    if (it->finished) {
        rows_add(&p->deletes, it, 0);
        l->parked--;
        l->from_seq = it->seq;
        l->from_idx = it->idx + 1;
    } else {
        l->stored++;
    }
    if (it->stale) {
        rows_add(&p->updates, it, l->due_ms);
        l->updating++;
    }
    item_free(it);
    if (l->state != LANE_BUSY)
        lane_queue(l, now_ms, false);
}

void window_saved(struct partition *p, int64_t now_ms)
{
    struct save *s = p->saving;
    p->saving = NULL;
    p->seq = s->to;
    for (size_t i = 0; i < s->updates.n; i++) {
        struct lane *l = s->updates.rows[i].lane;
        l->updating--;
        if (l->state == LANE_IDLE)
            lane_queue(l, now_ms, false);
    }
    for (size_t i = 0; i < s->n_inserts; i++)
        parked(p, s->inserts[i], now_ms);
    for (size_t i = 0; i < s->n_records; i++) {
        struct record *rec = STAILQ_FIRST(&p->records);
        STAILQ_REMOVE_HEAD(&p->records, link);
        p->n_window -= rec->n;
        record_unref(rec);
    }
    save_free(s);
    pump(p->window, now_ms);
}

void window_expire(struct partition *p, const struct loaded_row *row)
{
    char key[LANE_KEY_LEN];
    struct lane *l = lane_find(p, row->push->action_id, row->push->device_key, key);
    struct item *it = NULL;
    if (l)
        TAILQ_FOREACH(it, &l->items, in_lane)
    if (it->seq == row->seq && it->idx == row->idx)
        break;
    /* what is being sent or loaded has its chance; what ends already is counted already */
    if (!l || l->state == LANE_BUSY || l->updating || row_ends(p, row->seq, row->idx) ||
        (!it && l->stored == 0)) {
        causeway__push__free_unpacked(row->push, NULL);
        return;
    }
    if (it) {
        causeway__push__free_unpacked(row->push, NULL);
    } else {
        it = cw_calloc(1, sizeof *it);
        *it = (struct item){
            .lane = l, .push = row->push, .row = ROW_STORED, .seq = row->seq, .idx = row->idx
        };
        l->stored--;
    }
    finish(it, OUT_EXPIRED);
    l->due_ms = 0;
    lane_queue(l, 0, false);
}
