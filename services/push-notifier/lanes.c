#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/window_internal.h"

/* ---- small things */

struct save_row *rows_add(struct rows *r, const struct item *it, int64_t due_ms)
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

void record_unref(struct record *rec)
{
    if (--rec->refs > 0)
        return;
    causeway__push_batch__free_unpacked(rec->batch, NULL);
    free(rec);
}

void item_free(struct item *it)
{
    if (it->record)
        record_unref(it->record);
    else
        causeway__push__free_unpacked(it->push, NULL);
    free(it);
}

void item_unlink(struct item *it)
{
    if (it->linked)
        TAILQ_REMOVE(&it->lane->items, it, in_lane);
    it->linked = false;
}

void item_close(struct partition *p, struct item *it)
{
    TAILQ_REMOVE(&p->open, it, in_partition);
    it->lane->action->open--;
    p->n_open--;
    p->open_bytes -= it->push->body.len;
}

/* ---- lanes and the queues of targets */

void lane_unqueue(struct lane *l)
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

bool lane_has_work(const struct lane *l) { return !TAILQ_EMPTY(&l->items) || l->stored > 0; }

void lane_free(struct lane *l)
{
    lane_unqueue(l);
    HASH_DEL(l->partition->lanes, l);
    LIST_REMOVE(l, in_action);
    free(l);
}

/* Puts a lane that is not busy where it belongs. first: before the others that are ready. */
void lane_queue(struct lane *l, int64_t now_ms, bool first)
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

void lane_busy(struct lane *l)
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

void lane_not_busy(struct lane *l)
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

struct lane *lane_find(const struct partition *p, const char *action_id, int64_t device_key,
                       char key[LANE_KEY_LEN])
{
    struct lane *l;
    snprintf(key, LANE_KEY_LEN, "%.50s %" PRId64, action_id, device_key);
    HASH_FIND_STR(p->lanes, key, l);
    return l;
}

struct lane *lane_get(struct partition *p, const char *action_id, int64_t device_key)
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

struct target *target_get(struct window *w, const char *name)
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
