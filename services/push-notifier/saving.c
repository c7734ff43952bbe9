#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/window_internal.h"

#define SAVE_ITEMS_MAX 2048
#define SAVE_BYTES_MAX (4U << 20)
#define PACE_S         5
#define PATIENCE       10 /* times park_ms */

/* ---- saving */

/* All that is open of the action will be delivered within seconds, judged by the last one. */
static bool keeps_pace(struct action *a, int64_t now_ms)
{
    action_second(a, now_ms);
    size_t rate = a->delivered > a->delivered_before ? a->delivered : a->delivered_before;
    return a->open <= PACE_S * rate;
}

static bool to_be_parked(struct partition *p, const struct item *it, int64_t now_ms)
{
    struct action *a = it->lane->action;
    int64_t age_ms = now_ms - it->arrived_ms, park_ms = p->window->limits.park_ms;
    if (it->lane->parked > 0 || p->closing || (a->target && a->target->blocked))
        return true;
    return age_ms >= PATIENCE * park_ms || (age_ms >= park_ms && !keeps_pace(a, now_ms));
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
            item_unlink(behind);
            l->parked++;
        }
        if (!it->flying) {
            item_unlink(it);
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
    item_close(p, it);
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
    window_pump(p->window, now_ms);
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
    item_finish(it, OUT_EXPIRED);
    l->due_ms = 0;
    lane_queue(l, 0, false);
}
