/* window.h - what is owed and where it stands: order, retries, blocked targets, parking. No I/O.
 *
 * A lane is what goes to one action from one device: its items are sent one after the other. A
 * target is a host:port; a lane waits in its target's queue until there is a free slot. A partition
 * is a window onto the log: its position is the lowest record that has an item neither finished nor
 * parked. Parked items are rows of push.backlog; a lane with parked items sends from there first.
 * An item is parked once it is park_ms old, unless its action keeps pace: to park costs more than
 * to deliver, and what is merely busy would be busier for it. At ten times park_ms it is parked
 * anyway.
 *
 * Time comes in with each call. What has to be done outside is asked for by ops; answers come back
 * by window_answered(), window_loaded(), window_action(), window_saved(), never from inside an op.
 */
#pragma once

#include <sys/queue.h>

#include <uthash.h>

#include "libcommon/util.h"
#include "proto/causeway.pb-c.h"

enum outcome {
    OUT_DELIVERED,
    OUT_FAILED,    /* the retry window is over */
    OUT_EXPIRED,   /* parked too long, or too much of its rule is */
    OUT_NO_ACTION, /* the action was deleted */
    OUT_COUNT,
};
extern const char *const outcome_names[OUT_COUNT];

/* Slots of push.position.totals: owed = the others + rows of push.backlog up to the position. */
enum { TOTAL_OWED = 0, TOTAL_OUTCOME = 1, TOTAL_COUNT = 1 + OUT_COUNT };

enum row { ROW_NONE, ROW_INSERTING, ROW_STORED };

struct record;
struct lane;
struct target;
struct partition;
struct window;

struct item {
    TAILQ_ENTRY(item) in_lane;
    TAILQ_ENTRY(item) in_partition; /* while row is not ROW_STORED */
    struct lane *lane;
    struct record *record; /* NULL: came from the backlog */
    Causeway__Push *push;  /* of the record, or its own */
    bool linked;           /* in its lane's queue; else on the way to the backlog */
    bool flying, finished;
    bool stale; /* its row was written before it failed */
    enum row row;
    uint64_t seq;
    uint32_t idx;
    unsigned attempts;
    int64_t arrived_ms, started_ms;
    int64_t spent_ms;   /* of the retry window */
    int64_t counted_ms; /* up to when; 0: never tried */
    void *call;         /* of whoever sends it */
};
TAILQ_HEAD(items, item);

struct record {
    STAILQ_ENTRY(record) link;
    uint64_t seq;
    size_t bytes;
    Causeway__PushBatch *batch;
    unsigned n, open; /* items; those neither finished nor parked */
    unsigned refs;    /* items in memory */
    bool leaving;     /* the position has passed it, or is about to */
    int64_t outcomes[OUT_COUNT];
};

struct action {
    UT_hash_handle hh;
    char *id;
    struct target *target; /* NULL: not known yet */
    LIST_HEAD(, lane) lanes;
    int64_t used_ms;
    size_t open;                        /* items that are no rows */
    size_t delivered, delivered_before; /* in this second, and in the one before */
    int64_t second;
    void *detail; /* of whoever sends */
};

enum lane_state { LANE_IDLE, LANE_READY, LANE_DELAYED, LANE_BUSY };

struct lane {
    UT_hash_handle hh;
    LIST_ENTRY(lane) in_action;
    TAILQ_ENTRY(lane) queued; /* READY, DELAYED: in its target or, without, nowhere */
    struct partition *partition;
    struct action *action;
    struct target *at; /* whose queue or slot it is in */
    enum lane_state state;
    struct items items;
    size_t stored;     /* rows that are not in memory and can be loaded */
    size_t parked;     /* items that are rows, or on their way to be */
    size_t updating;   /* rows whose new state is not committed */
    uint64_t from_seq; /* where loading goes on */
    uint32_t from_idx;
    int64_t due_ms;
    bool told;  /* that it waits for a blocked target */
    void *load; /* of whoever loads */
    char key[]; /* "<action> <device key>" */
};
TAILQ_HEAD(lanes, lane);

struct target {
    UT_hash_handle hh;
    char *name; /* host:port; "" takes nothing: the action is gone */
    struct lanes ready, delayed;
    size_t slots; /* taken */
    unsigned failures;
    bool blocked;
    int64_t unblocked_ms, probe_ms;
    struct lane *probe;
    int64_t blocked_since_ms;
};

/* One statement's worth of change. */
struct save_row {
    uint64_t seq;
    uint32_t idx;
    unsigned attempts;
    int64_t spent_ms, counted_ms, due_ms;
    struct lane *lane;
};
struct rows {
    struct save_row *rows;
    size_t n, cap;
};
struct save {
    uint64_t from, to;
    int64_t totals[TOTAL_COUNT];
    struct item **inserts;
    size_t n_inserts;
    struct rows deletes, updates;
    size_t n_records; /* that leave the window */
    size_t left_bytes;
};

struct partition {
    UT_hash_handle hh;
    struct window *window;
    uint32_t number;
    bool closing;
    uint64_t seq; /* saved position */
    STAILQ_HEAD(, record) records;
    struct items open; /* items that are not rows yet, oldest first */
    size_t n_open, open_bytes;
    size_t n_window; /* items whose record has not left */
    struct lane *lanes;
    size_t flying;
    struct rows deletes, updates; /* for the next save */
    int64_t totals[TOTAL_COUNT];  /* likewise */
    struct save *saving;
    bool urgent; /* enough for a save before its time */
};

struct window_limits {
    size_t items, bytes; /* of a partition */
    size_t slots;        /* of a target */
    int64_t park_ms, retry_ms, probe_ms;
    unsigned block_after;
    const int64_t *delays_ms; /* ends with 0; the last repeats */
};

struct window_ops {
    void (*send)(struct item *item, void *self);
    void (*cancel)(struct item *item, void *self);
    void (*load)(struct lane *lane, void *self); /* the first rows of lane */
    void (*cancel_load)(struct lane *lane, void *self);
    void (*look_up)(struct action *action, void *self);
    void (*forget)(struct action *action, void *self); /* frees detail */
    /* for people */
    void (*finished)(const struct item *item, enum outcome how, void *self);
    void (*waits)(const struct item *item, const struct target *blocked, void *self);
    void (*blocked)(const struct target *target, bool blocked, void *self);
};

struct window {
    struct window_limits limits;
    const struct window_ops *ops;
    void *self;
    struct partition *partitions;
    struct action *actions;
    struct target *targets;
    struct target *nowhere;
    bool pumping;
};

struct window *window_new(const struct window_limits *limits, const struct window_ops *ops,
                          void *self);
void window_free(struct window **w);

struct partition *window_open(struct window *w, uint32_t number, uint64_t seq);
/* Forgets it and what is in flight. */
void window_close(struct window *w, uint32_t number);
struct partition *window_partition(const struct window *w, uint32_t number); /* or NULL */
/* Before the first record: a lane has n rows, the first due at due_ms. */
void window_stored(struct partition *p, const char *action_id, int64_t device_key, size_t n,
                   int64_t due_ms);
bool window_room(const struct partition *p);
/* Takes batch. */
void window_take(struct partition *p, uint64_t seq, Causeway__PushBatch *batch, size_t bytes,
                 int64_t now_ms);
/* Nothing new is sent; all that is not in flight is parked by the next saves. */
void window_end(struct partition *p);
bool window_ended(const struct partition *p); /* everything is saved; p->flying may be left */

/* Timers: about every 100 ms, and after anything else that makes work. */
void window_tick(struct window *w, int64_t now_ms);

void window_answered(struct item *item, bool delivered, int64_t now_ms);
/* A row that was loaded for a lane; push becomes the item's. */
struct loaded_row {
    Causeway__Push *push;
    uint64_t seq;
    int64_t spent_ms, counted_ms;
    uint32_t idx;
    unsigned attempts;
};
/* In order, from lane->from_seq and from_idx on, at most lane->stored. !ok: could not be loaded;
 * again after a second. */
void window_loaded(struct lane *lane, const struct loaded_row *rows, size_t n, bool ok,
                   int64_t now_ms);
/* target: host:port, or NULL: there is no such action (any more). */
void window_action(struct window *w, struct action *action, const char *target, int64_t now_ms);
struct action *window_find_action(const struct window *w, const char *id);

/* NULL when there is nothing to save. One at a time per partition. */
struct save *window_save(struct partition *p, int64_t now_ms);
/* It was committed. (When it was not, the partition is lost: window_close().) */
void window_saved(struct partition *p, int64_t now_ms);
/* A row is too old, or its rule has too many: it is given up unless it is just being sent. Takes
 * row->push. */
void window_expire(struct partition *p, const struct loaded_row *row);
