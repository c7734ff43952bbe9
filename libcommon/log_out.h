/* log_out.h - one subject of a log whose only writer is the owner of its partition.
 *
 * Each append names the subject's last sequence, so a writer that was taken over is refused; each
 * message carries how far the input has been written on (Cw-From: seq, or seq.k/m when the first k
 * of m items of one input are out) and which outbox rows it holds (Cw-Outbox). Used by log_read
 * only. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct log_out;

struct out_mark {
    uint64_t seq;
    uint32_t k, m; /* both 0: all of seq */
};

struct out_msg {
    struct cw_buf body;
    struct out_mark mark;
    char *outbox; /* ids with commas, or NULL */
};

/* rc of a send. -ESTALE: refused as not the last, or in doubt: read the tail before the next.
 * -EAGAIN: no room for a second; nothing in doubt. */
typedef void out_fn(int rc, void *arg);

/* Subject <log>.<partition>.<writer>. Sends and makes nothing yet. log is borrowed. Never NULL. */
struct log_out *out_open(struct cw_app *app, const char *log, uint32_t partition,
                         const char *writer);
/* Learns the newest message; tries until it succeeds, then runs cb(0). */
void out_read_tail(struct log_out *o, out_fn *cb, void *arg);
/* Appends one after the other; msgs is borrowed until cb. The tail must be known. */
void out_send(struct log_out *o, const struct out_msg *msgs, size_t n, out_fn *cb, void *arg);
/* Of the newest message. outbox: NULL for none. */
struct out_mark out_tail_mark(const struct log_out *o);
uint64_t out_tail_seq(const struct log_out *o); /* 0: none yet */
const char *out_tail_outbox(const struct log_out *o);
/* True while a callback of out_read_tail() or out_send() is owed. */
bool out_busy(const struct log_out *o);
void out_stop(struct log_out *o); /* its callback will not run */
void out_close(struct log_out **o);
