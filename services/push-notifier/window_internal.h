/* window_internal.h - what the files of the window share; nobody else includes it.
 *
 * window.c    partitions: opened, filled from the log, ended, closed; timers
 * lanes.c     lanes and actions, found or made; the queues of targets
 * sending.c   what is sent next, what an answer means, targets that are blocked
 * saving.c    parking in push.backlog, the position, what expires there */
#pragma once

#include "services/push-notifier/window.h"

#define LANE_KEY_LEN 80

/* lanes.c */

/* Adds a row's new state to what the next save writes. The result is valid until the next call. */
struct save_row *rows_add(struct rows *r, const struct item *it, int64_t due_ms);
/* One item of it less in memory; the last frees the batch. */
void record_unref(struct record *rec);
/* Frees; it must be in no list any more. */
void item_free(struct item *it);
/* Out of its lane's queue, if it is there. */
void item_unlink(struct item *it);
/* It is finished or a row: it no longer holds its record, nor counts as open. */
void item_close(struct partition *p, struct item *it);
/* Out of its target's queue; busy lanes stay busy. */
void lane_unqueue(struct lane *l);
/* Items in memory, or rows that can be loaded. */
bool lane_has_work(const struct lane *l);
void lane_free(struct lane *l);
/* Into its target's queue, by its due time; first: before those that are ready. */
void lane_queue(struct lane *l, int64_t now_ms, bool first);
/* Takes a slot of its target, and gives it back. */
void lane_busy(struct lane *l);
void lane_not_busy(struct lane *l);
/* NULL: there is none. key is scratch. */
struct lane *lane_find(const struct partition *p, const char *action_id, int64_t device_key,
                       char key[LANE_KEY_LEN]);
/* Finds or makes it; a new action is looked up. */
struct lane *lane_get(struct partition *p, const char *action_id, int64_t device_key);
/* Finds or makes it by host:port. */
struct target *target_get(struct window *w, const char *name);

/* sending.c */

/* The end of an item: counted, told, unlinked, freed or marked for deletion. */
void item_finish(struct item *it, enum outcome how);
/* Starts lanes while their targets have slots. Not recursive: a call inside a call is no call. */
void window_pump(struct window *w, int64_t now_ms);
/* The row is already among what the next save deletes. */
bool row_ends(const struct partition *p, uint64_t seq, uint32_t idx);
/* Its counts of deliveries are those of this second and of the one before. */
void action_second(struct action *a, int64_t now_ms);
/* Actions that no lane uses are forgotten after a minute. */
void drop_unused_actions(struct window *w, int64_t now_ms);

/* window.c */
void save_free(struct save *s);
