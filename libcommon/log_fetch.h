/* log_fetch.h - the records of one partition of a log, in order and without holes, from a position
 * on.
 *
 * An ephemeral pull consumer feeds a queue. A lost consumer, a reconnect, silence or a hole in the
 * delivery make a new one that goes on where the queue ends; none of this shows outside. What does
 * show is a stream that is not the one the position was taken in, or that no longer has the next
 * record: then nothing is skipped, failed() says so and nothing more comes. Nobody acknowledges to
 * the stream; the caller keeps the position. Loop thread only. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct cw_log_fetch;

/* One message of the log. */
struct cw_record {
    uint32_t partition;
    uint64_t seq;
    int64_t stored_ms; /* when the stream took it */
    const char *batch; /* Cw-Batch of UPLINK, or NULL */
    const void *data;
    size_t len;
};

enum cw_fetch_failure {
    CW_FETCH_GAP,      /* the next record is not there any more. Read the position again: if it has
                          moved, somebody else owns the partition; if not, records are gone */
    CW_FETCH_REPLACED, /* the stream was created at another time than the position's */
    CW_FETCH_SHORT,    /* the stream ends below the position */
};

struct cw_log_fetch_config {
    const char *log; /* CW_LOG_UPLINK …; must outlive the fetch */
    uint32_t partition;
    uint64_t seq;               /* the position: the first record is seq + 1 */
    const char *stream_created; /* of the position, copied; NULL or "": the present stream's */
    size_t max_bytes;           /* about what the queue may hold; 0: 8 MB */
    int64_t gather_ms;          /* below 1000: records may come so much later, many at once, which
                                   costs the server and the reader less; 0: as they come */
    void *self;

    /* The stream is the right one and has the position; created is to be kept beside the position.
     * Comes before the first record. May be NULL. */
    void (*started)(const char *created, void *self);
    /* Records were added to the queue; at most once per turn of the loop. */
    void (*arrived)(void *self);
    /* text: one sentence for a person. Close the fetch then or later. */
    void (*failed)(enum cw_fetch_failure why, const char *text, void *self);
};

/* The stream is created if it is missing. Callbacks come from the loop, never from inside. */
struct cw_log_fetch *cw_log_fetch_open(struct cw_app *app, const struct cw_log_fetch_config *cfg);
/* Records in the queue; [0] is the oldest. */
size_t cw_log_fetch_count(const struct cw_log_fetch *f);
/* Borrowed until it is dropped. i < count. */
const struct cw_record *cw_log_fetch_at(const struct cw_log_fetch *f, size_t i);
/* Removes the n oldest and asks for more. */
void cw_log_fetch_drop(struct cw_log_fetch *f, size_t n);
/* Last sequence of the stream as far as deliveries told; 0: not known yet. For lag gauges. */
uint64_t cw_log_fetch_last(const struct cw_log_fetch *f);
/* May be called from a callback. Sets *f to NULL. */
void cw_log_fetch_close(struct cw_log_fetch **f);
