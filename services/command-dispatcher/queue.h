/* queue.h - sends what waits for devices, as owner of their partitions: to each device one thing of
 * a kind at a time, in the order in which they were taken (delivery.h is their life). */
#pragma once

#include <uthash.h>

#include "services/command-dispatcher/delivery.h"
#include "services/command-dispatcher/dispatcher.h"

/* One on its way; here until what became of it is committed. */
struct queue_item {
    UT_hash_handle hh;   /* by root_key */
    struct queue *queue; /* NULL: it has been closed, only an answer is still due */
    char *id, *device_id, *root_id, *node_id, *app_id, *product_id;
    char *title, *topic; /* title: a message's name, or NULL */
    int64_t device_key, root_key, product_key, created_ms, wakes;
    int64_t written_ms, acked_ms, answered_ms, finished_ms; /* 0: not */
    uint32_t partition, attempts;
    enum delivery_way way;
    enum delivery_status status;
    struct delivery_step step; /* what was decided */
    bool asked, decided, storing;
    const char *error_code;    /* NULL: none */
    const char *text, *result; /* borrowed; result: the device's answer, JSON, or NULL */
};

/* What differs between the kinds. Statements name their rows as queue.c tells. */
struct queue_kind {
    const char *what; /* in texts: message */
    const char *code; /* of `why` when it fails: message_failed */
    const char *metric, *metric_help;
    struct cw_stmt heads, park, store;
    Causeway__EventKind event;
    bool resend_plan; /* by delivery_wait_ms(); else as message_ms and resend_ms say */
    void (*body)(struct cw_buf *out, const struct queue_item *it); /* of the event, JSON */
};
extern const struct queue_kind kind_message, kind_async;

/* Looks each second, and when woken. */
struct queue *queue_open(struct dispatcher *d, const struct queue_kind *kind);
/* At the end of the process: what is under way stays as it is, the next owner sends it again. */
void queue_close(struct queue **q);
/* There may be something to send in own partitions. */
void queue_wake(struct queue *q);

/* Devices that a transaction of events.c has seen coming online: what waits for them is looked at
 * again. Zeroed to start. */
struct queue_wakes {
    struct cw_db_array key;
    size_t n;
};
void queue_note(struct queue_wakes *w, const Causeway__Event *e);
void queue_store_wakes(struct queue_wakes *w, struct cw_log_txn *txn);
void queue_wakes_free(struct queue_wakes *w);

/* From a row with the columns that queue.c names. Zeroed memory is fine to clear. */
void queue_item_read(struct queue_item *it, const struct queue_kind *kind, const PGresult *res,
                     int row);
void queue_item_clear(struct queue_item *it);
/* Packed Causeway.Event of the status of it; the caller frees it. */
struct cw_buf queue_event(const struct queue_item *it, Causeway__EventKind kind, int64_t time_ms,
                          const struct cw_buf *body);
