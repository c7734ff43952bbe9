#include "libcommon/log_out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/js_stream.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"

#define CONFIRM_MS    2000
#define RETRY_MS      100
#define FULL_RETRY_MS 50
#define FULL_LIMIT_MS 1000 /* then the transaction must not stay open any longer */

enum step { IDLE, ENSURING, READING, SENDING };

struct log_out {
    struct cw_app *app;
    const char *log;
    uint32_t partition;
    char subject[64], inbox[64];
    enum step step;
    uint64_t last_seq; /* of the subject */
    struct out_mark mark;
    char *outbox;

    struct js_call *call;
    struct cw_bus_sub *sub;
    struct event *timer;
    const struct out_msg *msgs;
    size_t n, at;
    uint64_t attempt; /* last part of the reply subject: an answer to another append is ignored */
    int64_t full_ms;  /* since when there is no room; 0: there is */
    struct cw_metric *m_full, *m_appends, *m_bytes;
    out_fn *cb;
    void *arg;
};

static void arm(struct log_out *o, int64_t ms)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    evtimer_add(o->timer, &t);
}

static void finish(struct log_out *o, int rc)
{
    evtimer_del(o->timer);
    o->step = IDLE;
    o->cb(rc, o->arg);
}

/* ---- the newest message */

static void set_outbox(struct log_out *o, const char *ids)
{
    free(o->outbox);
    o->outbox = ids && *ids ? cw_strdup(ids) : NULL;
}

static void read_mark(struct out_mark *mark, const char *text)
{
    char *end;
    *mark = (struct out_mark){ 0 };
    if (!text)
        return;
    mark->seq = strtoull(text, &end, 10);
    if (*end != '.')
        return;
    mark->k = (uint32_t)strtoul(end + 1, &end, 10);
    mark->m = *end == '/' ? (uint32_t)strtoul(end + 1, NULL, 10) : 0;
}

static void on_last(int rc, const struct js_last *last, void *arg)
{
    struct log_out *o = arg;
    o->call = NULL;
    if (rc != 0 && rc != -ENOENT) {
        o->step = ENSURING;
        arm(o, RETRY_MS);
        return;
    }
    o->last_seq = rc == 0 ? last->seq : 0;
    read_mark(&o->mark, rc == 0 ? last->from : NULL);
    set_outbox(o, rc == 0 ? last->outbox : NULL);
    finish(o, 0);
}

static void on_ensured(int rc, const struct js_info *info, void *arg)
{
    struct log_out *o = arg;
    (void)info;
    o->call = NULL;
    if (rc != 0) {
        arm(o, RETRY_MS);
        return;
    }
    o->step = READING;
    o->call = js_stream_last(o->app, o->log, o->partition, o->subject, on_last, o);
}

void out_read_tail(struct log_out *o, out_fn *cb, void *arg)
{
    o->cb = cb;
    o->arg = arg;
    o->step = ENSURING;
    o->call = js_stream_ensure(o->app, o->log, o->partition, on_ensured, o);
}

/* ---- appending */

static void send_one(struct log_out *o)
{
    char reply[96], expected[24], from[64];
    const struct out_msg *m = &o->msgs[o->at];
    size_t n = snprintf(from, sizeof from, "%" PRIu64, m->mark.seq);
    if (m->mark.m)
        snprintf(from + n, sizeof from - n, ".%u/%u", m->mark.k, m->mark.m);
    snprintf(expected, sizeof expected, "%" PRIu64, o->last_seq);
    snprintf(reply, sizeof reply, "%s.%" PRIu64, o->inbox, ++o->attempt);
    const struct cw_header headers[] = {
        { "Nats-Expected-Last-Subject-Sequence", expected },
        { "Cw-From", from },
        { "Cw-Outbox", m->outbox },
    };
    int rc = cw_bus_publish_headers(cw_app_bus(o->app), o->subject, reply, headers,
                                    m->outbox ? 3 : 2, m->body.data, m->body.len);
    if (rc < 0)
        cw_log(CW_WARN, "append_not_sent", "subject=%s rc=%d bytes=%zu", o->subject, rc,
               m->body.len);
    arm(o, rc < 0 ? RETRY_MS : CONFIRM_MS); /* never finish from inside out_send() */
}

static void confirmed(struct log_out *o, uint64_t seq)
{
    const struct out_msg *m = &o->msgs[o->at];
    o->last_seq = seq;
    o->mark = m->mark;
    o->full_ms = 0;
    cw_metric_set(o->m_full, 0);
    cw_metric_add(o->m_appends, 1);
    cw_metric_add(o->m_bytes, (int64_t)m->body.len);
    set_outbox(o, m->outbox);
    if (++o->at < o->n)
        send_one(o);
    else
        finish(o, 0);
}

static void no_room(struct log_out *o)
{
    static struct cw_log_gate gate;
    if (!o->full_ms)
        o->full_ms = cw_mono_ms();
    cw_metric_set(o->m_full, 1);
    cw_log_limited(&gate, CW_WARN, "log_full", "log=%s partition=%u", o->log, o->partition);
    if (cw_mono_ms() - o->full_ms >= FULL_LIMIT_MS) {
        o->full_ms = 0;
        finish(o, -EAGAIN);
    } else
        arm(o, FULL_RETRY_MS);
}

static void on_ack(const struct cw_bus_msg *msg, void *arg)
{
    struct log_out *o = arg;
    uint64_t seq;
    if (o->step != SENDING)
        return;
    const char *dot = msg->no_responders ? NULL : strrchr(msg->subject, '.');
    if (dot && strtoull(dot + 1, NULL, 10) != o->attempt)
        return;
    int rc = dot ? js_ack(msg->data, msg->len, &seq) : -ESTALE;
    if (rc == 0)
        confirmed(o, seq);
    else if (js_is_full(rc))
        no_room(o);
    else {
        cw_log(CW_INFO, "append_refused", "subject=%s expected=%" PRIu64 " rc=%d", o->subject,
               o->last_seq, rc);
        finish(o, -ESTALE);
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct log_out *o = arg;
    (void)fd, (void)what;
    if (o->step == ENSURING)
        o->call = js_stream_ensure(o->app, o->log, o->partition, on_ensured, o);
    else if (o->step == SENDING && o->full_ms)
        send_one(o); /* the same bytes: the last answer was clear, nothing is in doubt */
    else if (o->step == SENDING)
        finish(o, -ESTALE);
}

static void on_bus(bool connected, void *arg)
{
    struct log_out *o = arg;
    if (!connected && o->step == SENDING) {
        o->attempt++; /* no answer counts any more */
        o->full_ms = 0;
        arm(o, 0);
    }
}

void out_send(struct log_out *o, const struct out_msg *msgs, size_t n, out_fn *cb, void *arg)
{
    o->msgs = msgs;
    o->n = n;
    o->at = 0;
    o->cb = cb;
    o->arg = arg;
    o->full_ms = 0;
    o->step = SENDING;
    send_one(o);
}

struct out_mark out_tail_mark(const struct log_out *o) { return o->mark; }

uint64_t out_tail_seq(const struct log_out *o) { return o->last_seq; }

const char *out_tail_outbox(const struct log_out *o) { return o->outbox; }

bool out_busy(const struct log_out *o) { return o->step != IDLE; }

void out_stop(struct log_out *o)
{
    js_cancel(&o->call);
    evtimer_del(o->timer);
    o->step = IDLE;
}

struct log_out *out_open(struct cw_app *app, const char *log, uint32_t partition,
                         const char *writer)
{
    char text[96];
    struct log_out *o = cw_calloc(1, sizeof *o);
    *o = (struct log_out){ .app = app, .log = log, .partition = partition };
    o->timer = evtimer_new(cw_app_base(app), on_timer, o);
    js_subject(o->subject, sizeof o->subject, log, partition, writer);
    cw_bus_inbox(cw_app_bus(app), o->inbox, sizeof o->inbox, "o");
    snprintf(text, sizeof text, "%s.*", o->inbox);
    o->sub = cw_bus_subscribe(cw_app_bus(app), text, NULL, on_ack, o);
    snprintf(text, sizeof text, "log=\"%s\",partition=\"%u\"", log, partition);
    o->m_full = cw_gauge("causeway_log_full", text, "1 while the partition takes no more");
    snprintf(text, sizeof text, "log=\"%s\"", log);
    o->m_appends = cw_counter("causeway_log_appends_total", text, "batches sent");
    o->m_bytes = cw_counter("causeway_log_append_bytes_total", text, "bytes of batches sent");
    cw_bus_watch(cw_app_bus(app), on_bus, o);
    return o;
}

void out_close(struct log_out **at)
{
    struct log_out *o = *at;
    if (!o)
        return;
    *at = NULL;
    out_stop(o);
    cw_bus_unwatch(cw_app_bus(o->app), on_bus, o);
    cw_bus_unsubscribe(&o->sub);
    event_free(o->timer);
    free(o->outbox);
    free(o);
}
